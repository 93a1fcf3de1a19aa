//! A Redis server for one test.
//!
//! Owns: its process, its socket and its folder; nothing is kept on disk, so a restart is an empty one.
//! Never: touches a server that somebody else runs, or opens a port.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Client, Connection, ConnectionAddr, IntoConnectionInfo as _};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a server may take to answer.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// A server of our own. Its process ends with this.
pub struct RedisServer {
    folder: TempDir,
    child: Child,
}

impl RedisServer {
    /// None: there is no redis-server on this machine, and the test says that it is skipped.
    pub fn start() -> Option<Self> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            eprintln!("skipped: there is no redis-server (Debian's package redis-server)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let child = spawn(&folder);
        let server = Self { folder, child };
        server.until_it_answers();
        Some(server)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// A connection of the test's own.
    pub fn connect(&self) -> Connection {
        self.try_connect().unwrap()
    }

    fn try_connect(&self) -> redis::RedisResult<Connection> {
        Client::open(ConnectionAddr::Unix(self.socket()).into_connection_info()?)?.get_connection()
    }

    /// Forgets everything, connections aside.
    pub fn flush(&self) {
        redis::cmd("FLUSHALL").exec(&mut self.connect()).unwrap();
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, empty, after [`RedisServer::kill`].
    pub fn restart(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.socket());
        self.child = spawn(&self.folder);
        self.until_it_answers();
    }

    /// Stops it where it is: it takes connections and answers nothing.
    pub fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn until_it_answers(&self) {
        let deadline = Instant::now() + STARTS_WITHIN;
        loop {
            let answer = self
                .try_connect()
                .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection));
            match answer {
                Ok(_) => return,
                Err(error) => assert!(Instant::now() < deadline, "redis-server does not answer: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &TempDir) -> Child {
    Command::new("redis-server")
        .args([
            "--port",
            "0",
            "--unixsocket",
            "redis.sock",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server starts")
}
