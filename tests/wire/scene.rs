//! What the scenes of this test have in common: a server with metrics, registered peers, a bare connection.
//!
//! Owns: the conditions to wait for, and how a peer of a scene talks.
//! Never: decides what is right.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{
    ANSWER_WITHIN, Client, ConnectOptions, Event, Frame, Opcode, Server, Wire, WireOptions, http, trust_anything,
};

/// How long a state that must come about may take.
pub(crate) const STATE_WITHIN: Duration = Duration::from_secs(10);

/// An upgrade request as bytes, for those who send more with it.
pub(crate) const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Both arrangements of descriptor tables: connections move between loops in another way with each.
pub(crate) const TABLES: [&str; 2] = ["per_loop", "shared"];

/// A server with a metrics page.
pub(crate) fn serve(config: Value) -> Server {
    let mut all = json!({ "metrics_enabled": true, "metrics_port": 0, "drain_timeout": "2s" });
    for (name, value) in config.as_object().expect("a configuration is an object") {
        all[name] = value.clone();
    }
    Server::start(all, &[])
}

/// To connect over TLS to whoever answers.
pub(crate) fn over_tls() -> WireOptions {
    WireOptions {
        tls: Some(trust_anything(&[], &[])),
        ..WireOptions::default()
    }
}

/// To connect from an address of this machine.
pub(crate) fn from_address(source: &str) -> WireOptions {
    WireOptions {
        source: Some(source.parse().expect("an address")),
        ..WireOptions::default()
    }
}

/// The value of a metric, labels included in its name.
///
/// The connection that asks is itself an HTTP connection; it is left out of that gauge.
pub(crate) fn metric(server: &Server, name: &str) -> u64 {
    let page = http(metrics_addr(server), "GET", "/metrics", &[]);
    assert_eq!(page.status, 200, "{page:?}");
    let text = page.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value: u64 = line
        .unwrap_or_else(|| panic!("no metric {name}"))
        .parse()
        .expect("a number");
    value - u64::from(name == HTTP_CONNECTIONS)
}

/// The gauge of connections that are neither WebSockets nor closing.
pub(crate) const HTTP_CONNECTIONS: &str = "peer_server_connections{state=\"http\"}";

/// Waits until a metric has this value.
pub(crate) fn wait_for_metric(server: &Server, name: &str, value: u64) {
    let mut last = 0;
    wait_until(
        || {
            last = metric(server, name);
            last == value
        },
        || format!("{name} {value}"),
    );
}

/// Waits until a condition holds.
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool, what: impl FnOnce() -> String) {
    let deadline = Instant::now() + STATE_WITHIN;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {}", what());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Where the metrics page is: the log tells.
pub(crate) fn metrics_addr(server: &Server) -> SocketAddr {
    let mut addr = None;
    wait_until(
        || {
            let log = server.stderr();
            let told = log.split_once("metrics=").map(|(_, rest)| rest.trim_start_matches('"'));
            let told = told.and_then(|told| told.split(['"', ' ', '\n']).next());
            addr = told.and_then(|told| told.parse().ok());
            addr.is_some()
        },
        || format!("the address of the metrics page in {}", server.stderr()),
    );
    addr.expect("it was found")
}

/// A descriptor table: what each number stands for. Sockets are named by their inodes.
pub(crate) type Table = BTreeMap<u32, String>;

/// What each thread of a server's loops sees in its descriptor table. Shared tables come once for each loop.
pub(crate) fn loop_tables(pid: u32) -> Vec<Table> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let tasks = tasks.map(|task| task.expect("a thread").path());
    let is_loop =
        |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("loop-"));
    tasks.filter(is_loop).map(|task| open_files(&task)).collect()
}

/// The open files of a process, each once, whichever of its tables it is in.
pub(crate) fn open_everywhere(pid: u32) -> BTreeSet<String> {
    let own = open_files(&PathBuf::from(format!("/proc/{pid}")));
    loop_tables(pid)
        .into_iter()
        .chain([own])
        .flat_map(Table::into_values)
        .collect()
}

fn open_files(task: &Path) -> Table {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        // What was closed meanwhile is left out.
        Some((
            number,
            std::fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned(),
        ))
    };
    let numbers = std::fs::read_dir(task.join("fd")).expect("the thread runs");
    numbers.filter_map(entry).collect()
}

/// Lowers the limit of descriptors so far that the fullest of the loops' tables has only so many to give. Returns it.
///
/// The limit is one of numbers: what a table holds above it, perhaps inherited, does not count.
pub(crate) fn limit_descriptors(server: &Server, room: usize) -> u32 {
    let tables = loop_tables(server.pid());
    let room_below = |table: &Table, limit: u32| (0..limit).filter(|number| !table.contains_key(number)).count();
    let enough = |limit: &u32| tables.iter().all(|table| room_below(table, *limit) >= room);
    let limit = (0..).find(enough).expect("there is one");
    let both = Rlimit {
        current: Some(limit.into()),
        maximum: Some(limit.into()),
    };
    prlimit(Pid::from_raw(server.pid() as i32), Resource::Nofile, both).expect("the limit is lowered");
    limit
}

/// Whether no loop's table has a number left below the limit.
pub(crate) fn are_full(server: &Server, limit: u32) -> bool {
    let full = |table: &Table| (0..limit).all(|number| table.contains_key(&number));
    loop_tables(server.pid()).iter().all(full)
}

/// Linux counts processor time for its users in hundredths of a second, whatever its own clock.
const MILLIS_PER_TICK: u64 = 10;

/// The processor time that a process has used.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name, in parentheses, may hold blanks.
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    let ticks: Vec<u64> = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse().unwrap())
        .collect();
    Duration::from_millis(ticks.iter().sum::<u64>() * MILLIS_PER_TICK)
}

/// The lowercase hex SHA-256 of a public key.
pub(crate) fn fingerprint_of(key: &str) -> String {
    Sha256::digest(key.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A registered peer.
pub(crate) struct Peer {
    pub(crate) client: Client,
    pub(crate) fingerprint: String,
}

impl Peer {
    pub(crate) fn register(addr: SocketAddr, key: &str) -> Self {
        Self::register_as(addr, ConnectOptions::default(), json!({ "public_key": key }))
    }

    pub(crate) fn register_as(addr: SocketAddr, options: ConnectOptions, payload: Value) -> Self {
        let fingerprint = fingerprint_of(payload["public_key"].as_str().expect("a key"));
        let client = Client::connect(addr, options);
        client.send_json(&json!({ "type": "register", "payload": payload }));
        let mut peer = Self { client, fingerprint };
        assert_eq!(peer.next("registered")["from"], peer.fingerprint.as_str());
        peer
    }

    /// Enters a namespace.
    pub(crate) fn join(&mut self, namespace: &str) {
        self.client.send_json(&join(namespace));
        assert_eq!(self.next("peer_list")["payload"]["namespace"], namespace);
    }

    pub(crate) fn relay(&self, to: &str, payload: Value) {
        self.client
            .send_json(&json!({ "type": "relay", "to": to, "payload": payload }));
    }

    /// The next message of this type. Others are passed over, but no error that was not waited for.
    pub(crate) fn next(&mut self, kind: &str) -> Value {
        loop {
            let message = self.client.recv_json();
            if message["type"] == kind {
                return message;
            }
            assert_ne!(message["type"], "error", "{message} instead of a {kind}");
        }
    }

    /// The next message, if one comes in time.
    pub(crate) fn try_next(&mut self, within: Duration) -> Option<Value> {
        match self.client.recv_content(within)? {
            Event::Message { payload, .. } => Some(serde_json::from_slice(&payload).expect("JSON")),
            other => panic!("expected a message, got {}", other.describe()),
        }
    }

    pub(crate) fn expect_error(&mut self, code: u16, message: &str) {
        let error = self.client.recv_json();
        assert_eq!(
            error,
            json!({ "type": "error", "payload": { "code": code, "message": message } })
        );
    }

    /// The server answers this peer; what came before the answer is passed over.
    pub(crate) fn round_trip(&mut self) {
        self.client.send_json(&json!({ "type": "ping" }));
        self.next("pong");
    }

    /// Whatever came must be the answer: nothing else was sent to this peer.
    pub(crate) fn expect_nothing_but_a_pong(&mut self) {
        self.client.send_json(&json!({ "type": "ping" }));
        assert_eq!(self.client.recv_json(), json!({ "type": "pong" }));
    }
}

pub(crate) fn register(key: &str) -> Value {
    json!({ "type": "register", "payload": { "public_key": key } })
}

pub(crate) fn join(namespace: &str) -> Value {
    json!({ "type": "join", "payload": { "namespace": namespace } })
}

/// A JSON message as the bytes of one frame.
pub(crate) fn framed(message: &Value) -> Vec<u8> {
    Frame::text(message.to_string()).encode()
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Eof,
    Reset,
}

/// A connection that nobody reads unless told to.
pub(crate) struct Raw {
    pub(crate) wire: Wire,
    pub(crate) buffer: Vec<u8>,
}

impl Raw {
    pub(crate) fn open(addr: SocketAddr) -> Self {
        Self::open_with(addr, &WireOptions::default())
    }

    pub(crate) fn open_with(addr: SocketAddr, options: &WireOptions) -> Self {
        Self {
            wire: Wire::open(addr, options).expect("a connection"),
            buffer: Vec::new(),
        }
    }

    /// Upgraded, and nothing else said.
    pub(crate) fn upgraded(addr: SocketAddr) -> Self {
        let mut raw = Self::open(addr);
        raw.send(UPGRADE.as_bytes());
        raw.switch();
        raw
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        self.wire.write_all(bytes).expect("the bytes are sent");
    }

    /// The answer to the upgrade must come next.
    pub(crate) fn switch(&mut self) {
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }

    /// The next head of an HTTP answer.
    pub(crate) fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                return String::from_utf8(self.buffer.drain(..end + 4).collect()).expect("text");
            }
            self.more();
        }
    }

    /// The op code and payload of the next frame.
    pub(crate) fn frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            let (start, length) = match *self.buffer.as_slice() {
                [_, 127, ..] => panic!("a frame of more than 64 KiB"),
                [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
                [_, length @ 0..=125, ..] => (2, usize::from(length)),
                _ => (2, usize::MAX / 2),
            };
            if self.buffer.len() >= start + length {
                let opcode = self.buffer[0] & 15;
                let payload = self.buffer[start..start + length].to_vec();
                self.buffer.drain(..start + length);
                return (opcode, payload);
            }
            self.more();
        }
    }

    /// The next message.
    pub(crate) fn json(&mut self) -> Value {
        let (opcode, payload) = self.frame();
        assert_eq!(opcode, Opcode::TEXT, "{}", String::from_utf8_lossy(&payload));
        serde_json::from_slice(&payload).expect("JSON")
    }

    /// All bytes until the end.
    pub(crate) fn rest(&mut self, within: Duration) -> (Vec<u8>, End) {
        let deadline = Instant::now() + within;
        let end = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no end in time");
            match self.poll(left) {
                Some(Ok(_)) => {}
                Some(Err(end)) => break end,
                None => panic!("no end in time"),
            }
        };
        (std::mem::take(&mut self.buffer), end)
    }

    /// What one read comes to: none when there is nothing in time.
    pub(crate) fn poll(&mut self, within: Duration) -> Option<Result<usize, End>> {
        let within = within.max(Duration::from_millis(1));
        self.wire.set_read_timeout(Some(within)).expect("a timeout is set");
        match self.wire.read(&mut self.buffer) {
            Ok(0) => Some(Err(End::Eof)),
            Ok(count) => Some(Ok(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(Err(End::Reset)),
            // A TLS alert and the like: the server's end all the same.
            Err(_) => Some(Err(End::Eof)),
        }
    }

    fn more(&mut self) {
        match self.poll(ANSWER_WITHIN) {
            Some(Ok(_)) => {}
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }
}

/// Waits until this many peers are registered.
pub(crate) fn wait_for_peers(server: &Server, count: u64) {
    wait_until(
        || http(server.addr(), "GET", "/health", &[]).json()["peers"] == count,
        || format!("{count} peers"),
    );
}
