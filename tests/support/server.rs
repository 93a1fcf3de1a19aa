//! The program under test, as a child process.
//!
//! Owns: its configuration file, its environment, the addresses it says it listens on, its output and its end.
//! Never: speaks to it over the network.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A running server on a free port of the loopback address. Dropping it kills the process and reaps it.
pub struct Server {
    child: Child,
    addrs: Vec<SocketAddr>,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    // The process may read these files at any time, and the place is given back after the process is gone.
    _folder: TempDir,
    _place: Place,
}

/// A server that did not come up.
#[derive(Debug)]
pub struct Failure {
    /// Absent when the process was still running, silent, at the deadline (and was killed).
    pub status: Option<ExitStatus>,
    /// All that it wrote to standard output.
    pub stdout: String,
    /// All that it wrote to standard error.
    pub stderr: String,
}

impl Server {
    /// Starts the program with `config` (an object; `host`, `port`, `metrics_enabled` and `pin_cores` get defaults fit
    /// for tests unless given) and `env` on top of this process's environment, from which every variable that the
    /// program reads was taken out. Waits until it listens, and panics with its output when it does not.
    pub fn start(config: Value, env: &[(&str, &str)]) -> Self {
        Self::try_start(config, env).unwrap_or_else(|failure| panic!("the server did not start: {failure:#?}"))
    }

    /// Like [`Server::start`], under a limit of open descriptors.
    pub fn start_with_descriptors(config: Value, limit: u32) -> Self {
        let program = Self::command(&[]);
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("ulimit -n {limit} && exec \"$0\" \"$@\""));
        command.arg(program.get_program());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self::try_start_by(command, config).unwrap_or_else(|failure| panic!("the server did not start: {failure:#?}"))
    }

    /// Like [`Server::start`], for a server that may refuse to start.
    pub fn try_start(config: Value, env: &[(&str, &str)]) -> Result<Self, Failure> {
        Self::try_start_by(Self::command(env), config)
    }

    fn try_start_by(mut command: Command, config: Value) -> Result<Self, Failure> {
        let place = Place::take();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (config, lines_expected) = complete(config);
        let path = folder.path().join("config.json");
        std::fs::write(&path, config.to_string()).expect("the configuration file is written");

        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.arg("-config").arg(&path);
        let mut child = command.spawn().expect("the program can be run");

        let stdout = Arc::new(Mutex::new(String::new()));
        let stderr = Arc::new(Mutex::new(String::new()));
        let (lines_in, lines) = mpsc::channel();
        let readers = vec![
            collect(
                child.stdout.take().expect("standard output is piped"),
                stdout.clone(),
                Some(lines_in),
            ),
            collect(
                child.stderr.take().expect("standard error is piped"),
                stderr.clone(),
                None,
            ),
        ];
        let mut server = Self {
            child,
            addrs: Vec::new(),
            stdout,
            stderr,
            readers,
            _folder: folder,
            _place: place,
        };
        if server.wait_until_listening(&lines, lines_expected) {
            Ok(server)
        } else {
            Err(server.give_up())
        }
    }

    /// The program with piped output and a clean environment, without arguments: for tests of the command line.
    pub fn command(env: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peer-server"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if READ_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) || READ_NAMES.contains(&text.as_ref()) {
                command.env_remove(&name);
            }
        }
        command.envs(env.iter().copied());
        command
    }

    /// The first address that it listens on; an unspecified one is given as loopback.
    pub fn addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// All addresses that it listens on, in the order it named them.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal: `SIGTERM`, or `TERM` for short.
    pub fn signal(&self, name: &str) {
        let signal = match name.strip_prefix("SIG").unwrap_or(name) {
            "TERM" => Signal::TERM,
            "INT" => Signal::INT,
            "HUP" => Signal::HUP,
            "QUIT" => Signal::QUIT,
            "KILL" => Signal::KILL,
            "USR1" => Signal::USR1,
            "USR2" => Signal::USR2,
            "STOP" => Signal::STOP,
            "CONT" => Signal::CONT,
            _ => panic!("no signal is named {name}"),
        };
        kill_process(Pid::from_child(&self.child), signal).expect("the process takes the signal");
    }

    /// Whether the process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child can be asked").is_none()
    }

    /// Waits for the process to end by itself; panics when it does not do so in time.
    pub fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        match self.try_wait_exit(within) {
            Some(status) => status,
            None => panic!(
                "the server still runs after {within:?}; stderr:\n{}",
                self.stderr_tail()
            ),
        }
    }

    /// Waits for the process to end by itself. Afterwards its output is complete.
    pub fn try_wait_exit(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                self.readers
                    .drain(..)
                    .for_each(|reader| reader.join().expect("the output is read to its end"));
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        locked(&self.stdout).clone()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        locked(&self.stderr).clone()
    }

    /// The last lines of [`Server::stderr`].
    pub fn stderr_tail(&self) -> String {
        let all = self.stderr();
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn wait_until_listening(&mut self, lines: &Receiver<String>, expected: usize) -> bool {
        let deadline = Instant::now() + START_WITHIN;
        while self.addrs.len() < expected {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.addrs.extend(listening_address(&line)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    fn give_up(mut self) -> Failure {
        // The end of standard output may be seen a moment before the process has ended.
        let status = self.try_wait_exit(Duration::from_secs(1));
        if status.is_none() {
            let _ = self.child.kill();
            let _ = self.try_wait_exit(Duration::from_secs(5));
        }
        Failure {
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("server stderr (tail):\n{}", self.stderr_tail());
        }
    }
}

/// The configuration with the defaults of a test, and how many addresses will be listened on.
fn complete(config: Value) -> (Value, usize) {
    let mut all = json!({ "host": "127.0.0.1", "port": 0, "metrics_enabled": false, "pin_cores": false });
    let Value::Object(given) = config else {
        panic!("a configuration is an object")
    };
    for (name, value) in given {
        all[name] = value;
    }
    let hosts = all["host"].as_str().map_or(1, |hosts| hosts.split(',').count());
    (all, hosts)
}

fn listening_address(line: &str) -> Option<SocketAddr> {
    let mut address: SocketAddr = line.strip_prefix("listening on ")?.trim().parse().ok()?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(address)
}

fn collect(
    pipe: impl Read + Send + 'static,
    into: Arc<Mutex<String>>,
    lines: Option<mpsc::Sender<String>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line);
            locked(&into).push_str(&text);
            if let Some(lines) = &lines {
                // Nobody listens any more once the server is up.
                let _ = lines.send(text.trim_end().to_owned());
            }
            line.clear();
        }
    })
}

/// One of the few places for servers that run at once. A test that holds one takes further ones without waiting:
/// two tests that wait for each other's second server would wait for ever.
struct Place {
    thread: ThreadId,
}

static PLACES: Mutex<Option<HashMap<ThreadId, usize>>> = Mutex::new(None);
static PLACE_FREED: Condvar = Condvar::new();

impl Place {
    fn take() -> Self {
        let thread = thread::current().id();
        let mut places = locked(&PLACES);
        loop {
            let held = places.get_or_insert_default();
            if held.contains_key(&thread) || held.values().sum::<usize>() < SERVERS_AT_ONCE {
                *held.entry(thread).or_default() += 1;
                return Self { thread };
            }
            places = PLACE_FREED.wait(places).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = locked(&PLACES);
        let held = places.get_or_insert_default();
        if let Some(count) = held.get_mut(&self.thread) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.thread);
            }
        }
        PLACE_FREED.notify_all();
    }
}

/// A failed test poisons what it held; the others go on with it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const START_WITHIN: Duration = Duration::from_secs(10);
const SERVERS_AT_ONCE: usize = 2;
const TAIL_LINES: usize = 40;
const READ_PREFIXES: &[&str] = &[
    "PEER_",
    "REDIS_",
    "TLS_",
    "LISTEN_",
    "WATCHDOG_",
    "NATS_",
    "EDGEGAP_",
    "LIGHTYEAR_",
];
const READ_NAMES: &[&str] = &["NOTIFY_SOCKET", "RUST_LOG"];
