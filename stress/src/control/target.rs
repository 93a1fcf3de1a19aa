//! What is measured: a server that is started here, one that runs already, or the floor.
//!
//! Owns: the processes that it started, and their end.
//! Never: measures.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::worker::pin;
use crate::worker::protocol::Wire;
use crate::workload::{Kind, Workload};

/// How targets are started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cores of the server.
    pub cores: Vec<usize>,
    /// Its event loops.
    pub loops: usize,
    /// Its settings, over those that a measurement needs.
    pub settings: Vec<String>,
    /// Process of a server that runs already.
    pub pid: Option<u32>,
}

/// Something to measure.
pub struct Target {
    /// What it is called in tables.
    pub name: String,
    /// What it speaks.
    pub wire: Wire,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process, if that is on this machine.
    pub pid: Option<u32>,
    /// Its event loops, if that is known.
    pub loops: Option<usize>,
    child: Option<Child>,
    _folder: Option<TempDir>,
}

impl Target {
    /// Starts or finds `what`: `floor`, the path of a server, or the address of a running one; `NAME=` before it names it.
    ///
    /// # Errors
    /// It cannot be started, or nobody listens.
    pub fn open(what: &str, workload: &Workload, options: &Options) -> Result<Self, String> {
        let (name, what) = what.split_once('=').unwrap_or((what, what));
        if let Some(lose_every) = match what {
            "floor" => Some("0"),
            other => other.strip_prefix("floor-that-loses-every:"),
        } {
            if !workload.scenario.has_floor() {
                return Err(format!(
                    "{name}: it passes on what it reads and answers nothing; this scenario needs a server"
                ));
            }
            let own = std::env::current_exe().map_err(|error| error.to_string())?;
            let mut command = Command::new(own);
            command.args(["floor", "--address", "127.0.0.1:0", "--lose-every", lose_every]);
            return Self::start(name, Wire::Floor, command, None, options);
        }
        if Path::new(what).is_file() {
            let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
            let settings = settings(workload, options, folder.path())?;
            let path = folder.path().join("config.json");
            std::fs::write(&path, settings).map_err(|error| error.to_string())?;
            let mut command = Command::new(what);
            command.arg("-config").arg(&path);
            return Self::start(name, Wire::Peers, command, Some(folder), options);
        }
        let address = what.to_socket_addrs().ok().and_then(|mut all| all.next());
        let address = address.ok_or_else(|| format!("{what} is neither `floor`, nor a file, nor an address"))?;
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(3))
            .map_err(|error| format!("no server at {address}: {error}"))?;
        Ok(Self {
            name: name.to_owned(),
            wire: Wire::Peers,
            address,
            pid: options.pid,
            loops: None,
            child: None,
            _folder: None,
        })
    }

    fn start(
        name: &str,
        wire: Wire,
        mut command: Command,
        folder: Option<TempDir>,
        options: &Options,
    ) -> Result<Self, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(folder) = &folder {
            let log = File::create(folder.path().join("log")).map_err(|error| error.to_string())?;
            command.stderr(log);
        }
        let mut child = on_cores(&options.cores, || command.spawn()).map_err(|error| format!("{program}: {error}"))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            // Nothing else is ever written to it, so it may close.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .and_then(|text| text.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let _ = child.wait();
            let log = folder.map(|folder| std::fs::read_to_string(folder.path().join("log")).unwrap_or_default());
            return Err(format!("{program} did not start: {line}{}", log.unwrap_or_default()));
        };
        Ok(Self {
            name: name.to_owned(),
            wire,
            address,
            pid: Some(child.id()),
            loops: (!options.settings.iter().any(|set| set.starts_with("loops="))).then_some(options.loops),
            child: Some(child),
            _folder: folder,
        })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Measured to the end: nothing is left that a drain would save.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs `spawn` so that what it starts stays on `cores`.
///
/// # Errors
/// There is no such core, or it cannot be started.
pub fn on_cores<T>(cores: &[usize], spawn: impl FnOnce() -> std::io::Result<T>) -> Result<T, String> {
    let all: Vec<usize> = (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
    // A child inherits the cores of the thread that starts it.
    pin(cores)?;
    let spawned = spawn().map_err(|error| error.to_string());
    pin(&all)?;
    spawned
}

/// The configuration of a server under test: no limit of one peer is in the way, all others stay.
fn settings(workload: &Workload, options: &Options, folder: &Path) -> Result<String, String> {
    let mut settings = Map::from_iter([
        ("host".to_owned(), json!("127.0.0.1")),
        ("port".to_owned(), json!(0)),
        ("loops".to_owned(), json!(options.loops)),
        ("metrics_enabled".to_owned(), json!(false)),
        ("rate_limit_per_sec".to_owned(), json!(0)),
        ("fanout_per_sec".to_owned(), json!(0)),
        ("send_buffer_size".to_owned(), json!(4096)),
        ("send_buffer_bytes".to_owned(), json!(16 << 20)),
        ("compression_enabled".to_owned(), json!(workload.compression)),
        ("log_level".to_owned(), json!("warn")),
    ]);
    if workload.scenario == Kind::SlowReaders {
        // What is shown is what the defaults do for those who read slowly.
        settings.retain(|key, _| !key.starts_with("send_buffer_"));
    }
    if workload.tls {
        let certified =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).map_err(|error| error.to_string())?;
        for (setting, file, text) in [
            ("tls_cert", "cert.pem", certified.cert.pem()),
            ("tls_key", "key.pem", certified.signing_key.serialize_pem()),
        ] {
            let path = folder.join(file);
            std::fs::write(&path, text).map_err(|error| error.to_string())?;
            settings.insert(setting.to_owned(), json!(path));
        }
    }
    for setting in &options.settings {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("`{setting}` is not of the form key=value"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        settings.insert(key.to_owned(), value);
    }
    Ok(Value::from(settings).to_string())
}
