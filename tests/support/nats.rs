//! A NATS server with JetStream for one test.
//!
//! Owns: the server's process, port and folder.
//! Never: touches a server that somebody else runs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long it may take to come up.
const WITHIN: Duration = Duration::from_secs(10);

/// A server of our own, in a folder that goes with it.
pub struct NatsServer {
    folder: TempDir,
    child: Mutex<Option<Child>>,
    port: AtomicU16,
}

impl NatsServer {
    /// A new one on a port that was free; None: there is no nats-server on this machine, and the test says that it is
    /// skipped.
    pub fn start() -> Option<Self> {
        if program().is_none() {
            eprintln!("skipped: there is no nats-server (Debian's package nats-server)");
            return None;
        }
        let server = Self {
            folder: tempfile::tempdir().unwrap(),
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
            "host: 127.0.0.1\nport: {port}\nports_file_dir: {folder:?}\njetstream {{ store_dir: {:?} }}\n",
            folder.join("store")
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

    /// Where it is.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port.load(Ordering::Relaxed))
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
