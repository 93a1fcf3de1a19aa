//! A NATS server with JetStream for one test.
//!
//! Owns: the server's process, port and folder.
//! Never: touches a server that somebody else runs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long it may take to come up.
const WITHIN: Duration = Duration::from_secs(10);

/// A server of our own, in a folder that goes with it.
pub struct NatsServer {
    folder: TempDir,
    /// Further lines of its configuration.
    more: String,
    child: Mutex<Option<Child>>,
    port: AtomicU16,
}

impl NatsServer {
    /// A new one on a port that was free; None: there is no nats-server on this machine, and the test says that it is
    /// skipped.
    pub fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// The same with further lines of configuration.
    pub fn start_with(more: &str) -> Option<Self> {
        if program().is_none() {
            eprintln!("skipped: there is no nats-server (Debian's package nats-server)");
            return None;
        }
        let server = Self {
            folder: tempfile::tempdir().unwrap(),
            more: more.to_owned(),
            child: Mutex::default(),
            port: AtomicU16::new(0),
        };
        server.run();
        Some(server)
    }

    /// Starts it, at the same port as before. What was kept in memory is gone.
    pub fn run(&self) {
        let folder = self.folder.path().to_owned();
        let port = match self.port.load(Ordering::Relaxed) {
            0 => "-1".to_owned(),
            port => port.to_string(),
        };
        let text = format!(
            "host: 127.0.0.1\nport: {port}\nports_file_dir: {folder:?}\njetstream {{ store_dir: {:?} }}\n{}\n",
            folder.join("store"),
            self.more
        );
        let config = folder.join("nats.conf");
        std::fs::write(&config, text).unwrap();
        let log = folder.join("log");
        let child = Command::new(program().unwrap())
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let ports = folder.join(format!("nats-server_{}.ports", child.id()));
        *self.child.lock().unwrap() = Some(child);
        let port = wait_for("the server's port", || port_of(&ports));
        self.port.store(port, Ordering::Relaxed);
        // The file is there before JetStream has recovered.
        wait_for("the server", || {
            let ready = std::fs::read_to_string(&log).ok()?.contains("Server is ready");
            ready.then_some(())
        });
    }

    /// Kills it.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops it where it is: it takes connections and answers nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &*self.child.lock().unwrap() {
            kill_process(Pid::from_child(child), signal).unwrap();
        }
    }

    /// Deletes all streams.
    pub fn flush(&self) {
        self.with_client(async |client| {
            let context = async_nats::jetstream::new(client);
            let names: Vec<String> = context.stream_names().map(|name| name.unwrap()).collect().await;
            for name in names {
                context.delete_stream(name).await.unwrap();
            }
        });
    }

    /// Its port on the loopback address.
    pub fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port())
    }

    /// Does something with a client of its own.
    pub fn with_client<T>(&self, work: impl AsyncFnOnce(async_nats::Client) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let client = async_nats::connect(self.url()).await.unwrap();
            work(client).await
        })
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders
        .map(|folder| folder.join("nats-server"))
        .find(|file| file.is_file())
}

fn port_of(ports: &Path) -> Option<u16> {
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(ports).ok()?).ok()?;
    let url = value["nats"].as_array()?.first()?.as_str()?;
    url.rsplit(':').next()?.parse().ok()
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + WITHIN;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}
