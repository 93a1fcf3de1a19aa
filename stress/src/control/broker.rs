//! The broker between the nodes of a cluster under test: a process that is started here and ends with the measurement.
//!
//! Owns: that process, what the nodes are told of it, and what it says of its commands.
//! Never: outlives its target, keeps anything on disk, or touches a broker that runs already.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::target::{free_port, on_cores};

/// What connects the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// redis-server, on a Unix socket.
    Redis,
    /// nats-server with `JetStream`, on a port of the loopback interface.
    Nats,
}

/// A broker of its own for one target.
pub struct Broker {
    kind: Kind,
    child: Child,
    folder: TempDir,
    /// Where it listens, if that is a port, and where it tells what it did.
    address: SocketAddr,
    monitor: SocketAddr,
}

impl Broker {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start(kind: Kind, cores: &[usize]) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let port = || match kind {
            Kind::Redis => Ok(0),
            Kind::Nats => free_port(host).map_err(|error| error.to_string()),
        };
        let (address, monitor) = (SocketAddr::new(host, port()?), SocketAddr::new(host, port()?));
        let (program, arguments) = match kind {
            Kind::Redis => ("redis-server", redis_arguments(&folder.path().join(SOCKET))),
            Kind::Nats => (
                "nats-server",
                nats_arguments(address, monitor, &folder.path().join("store")),
            ),
        };
        let log = File::create(folder.path().join("log")).map_err(|error| error.to_string())?;
        let other = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log).stderr(other);
        let child = on_cores(cores, || command.spawn())
            .map_err(|error| format!("{program}: {error}: a cluster needs it installed, in the path"))?;
        let mut broker = Self {
            kind,
            child,
            folder,
            address,
            monitor,
        };
        let deadline = Instant::now() + START_MAX;
        while !broker.answers() {
            let ended = !matches!(broker.child.try_wait(), Ok(None));
            if ended || Instant::now() > deadline {
                let log = std::fs::read_to_string(broker.folder.path().join("log")).unwrap_or_default();
                return Err(format!("{program} did not start: {log}"));
            }
            sleep(Duration::from_millis(10));
        }
        Ok(broker)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What a node is told of it.
    pub fn settings(&self) -> Map<String, Value> {
        let own = match self.kind {
            Kind::Redis => (
                "redis_addr".to_owned(),
                json!(format!("unix:{}", self.socket().display())),
            ),
            Kind::Nats => ("nats_url".to_owned(), json!(format!("nats://{}", self.address))),
        };
        let kind = match self.kind {
            Kind::Redis => "redis",
            Kind::Nats => "nats",
        };
        Map::from_iter([("broker_type".to_owned(), json!(kind)), own])
    }

    /// How often each command was called since its start, also from scripts. NATS counts messages that came and that went
    /// out to each who hears them; what comes has all commands, and what it is told by the nodes for itself.
    pub fn commands(&self) -> BTreeMap<String, u64> {
        if self.kind == Kind::Redis {
            let stats = self.ask("INFO commandstats").unwrap_or_default();
            return stats.lines().filter_map(command).collect();
        }
        let stats: Value = get(self.monitor, "/varz")
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let names = [IN_MSGS, "out_msgs"].into_iter();
        names
            .filter_map(|name| Some((name.to_owned(), stats[name].as_u64()?)))
            .collect()
    }

    /// What the nodes keep there of sessions, namespaces and requests, by name. Nothing in NATS: there that is in the nodes.
    pub fn entries(&self) -> Vec<String> {
        if self.kind == Kind::Nats {
            return Vec::new();
        }
        match self.ask(&format!("KEYS {ENTRIES}")) {
            Ok(keys) => {
                let names = keys.lines().filter(|line| line.starts_with("peer:"));
                names.map(ToOwned::to_owned).collect()
            }
            Err(error) => vec![error.to_string()],
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }

    fn answers(&self) -> bool {
        match self.kind {
            Kind::Redis => self.ask("PING").is_ok(),
            Kind::Nats => {
                TcpStream::connect_timeout(&self.address, Duration::from_millis(200)).is_ok()
                    && get(self.monitor, "/varz").is_ok()
            }
        }
    }

    /// Redis's answer to one command, as it is on the wire.
    fn ask(&self, words: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(format!("{words}\r\nQUIT\r\n").as_bytes())?;
        let mut answer = String::new();
        // It closes after QUIT.
        BufReader::new(stream).read_to_string(&mut answer)?;
        match answer.as_bytes().first() {
            Some(b'-') | None => Err(std::io::Error::other(answer)),
            _ => Ok(answer),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It has nothing that is to be kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn redis_arguments(socket: &Path) -> Vec<String> {
    let folder = socket.parent().unwrap_or(socket);
    let words = [
        "--port",
        "0",
        "--unixsocket",
        &socket.to_string_lossy(),
        "--save",
        "",
        "--appendonly",
        "no",
        "--maxmemory-policy",
        "noeviction",
        "--dir",
        &folder.to_string_lossy(),
    ];
    words.map(ToOwned::to_owned).to_vec()
}

fn nats_arguments(address: SocketAddr, monitor: SocketAddr, store: &Path) -> Vec<String> {
    let (host, port, monitor) = (
        address.ip().to_string(),
        address.port().to_string(),
        monitor.port().to_string(),
    );
    let words = [
        "-a",
        &host,
        "-p",
        &port,
        "-m",
        &monitor,
        "-js",
        "-sd",
        &store.to_string_lossy(),
    ];
    words.map(ToOwned::to_owned).to_vec()
}

/// The body of an answer to `GET`, by HTTP/1.0.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(answer)),
    }
}

/// A line of `INFO commandstats`: `cmdstat_publish:calls=3,usec=…`.
fn command(line: &str) -> Option<(String, u64)> {
    let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(':')?;
    let calls = figures.strip_prefix("calls=")?.split(',').next()?;
    Some((name.to_owned(), calls.parse().ok()?))
}

/// What NATS calls the messages that came to it.
pub const IN_MSGS: &str = "in_msgs";
const SOCKET: &str = "redis";
/// As long as a broker may take to answer.
const START_MAX: Duration = Duration::from_secs(10);
/// What is there as long as peers are: sessions, aliases, namespaces, requests. Not leases, counters and inboxes.
const ENTRIES: &str = "peer:[anopqrsw]:*";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_of_command_statistics_is_a_name_and_a_number() {
        assert_eq!(
            command("cmdstat_publish:calls=12,usec=3,usec_per_call=0.25"),
            Some(("publish".to_owned(), 12))
        );
        assert_eq!(command("# Commandstats"), None);
        assert_eq!(command("cmdstat_get:usec=3"), None);
    }
}
