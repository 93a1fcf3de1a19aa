//! Ten thousand clients of the matchmaker web service wait for a provider that never answers, and nobody else notices.
//!
//! Owns: that crowd. All upgrade first and ask then, so that all wait at once however long connecting took.
//! Never: takes a time for a proof; what must happen meanwhile is counted.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says what it left out"
)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use peer_server::provider::store::{FileStore, SessionStore as _};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use support::{Client, ConnectOptions, Server, http};

/// Clients that wait; fewer where a process may not have so many descriptors.
const CROWD: usize = 10_000;
const SMALL_CROWD: usize = 2_000;
/// Descriptors of a process besides.
const OTHER_DESCRIPTORS: u64 = 200;
/// Connections that are being opened at once.
const OPENING_MAX: usize = 100;
/// How long the slowest machine may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);
const SIGNALS: usize = 500;
const HEALTH_CHECKS: usize = 20;

#[test]
fn ten_thousand_wait_for_a_stalled_provider_while_others_are_served() {
    // The kernel takes its connections; nobody reads them.
    let stalled = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let record = folder.path().join("sessions");
    let mut server = Server::start(
        json!({
            "loops": 2,
            "rate_limit_per_sec": 0,
            "drain_timeout": "2s",
            "metrics_enabled": true,
            "metrics_port": 0,
            "matchmaker_enabled": true,
            "matchmaker_private_key_file": file("token-key", &"5a".repeat(32)),
            "matchmaker_provider": "edgegap",
            "matchmaker_app_name": "arena",
            "matchmaker_app_version": "1",
            "matchmaker_deadline": "6s",
            "matchmaker_waiting_per_ip": 0,
            "matchmaker_requests_per_min_per_ip": 0,
            "matchmaker_state_file": record,
            "edgegap_url": format!("http://{}", stalled.local_addr().unwrap()),
            "edgegap_api_key_file": file("api-key", "token none"),
            "game_servers": [{
                "id": "hall", "public": "203.0.113.10:30004", "game": "hall", "version": "1", "capacity": 10,
                "cert_digest": "e3".repeat(32),
            }],
        }),
        &[],
    );
    let metrics = metrics_address(&server);
    let (mut alice, mut bob) = (Peer::new(&server, "alice"), Peer::new(&server, "bob"));

    let mut crowd = Crowd::new(server.addr(), crowd_size());
    let size = crowd.clients.len();
    crowd.upgrade();
    crowd.ask();
    wait_for_metric(metrics, WAITING, size as u64);
    for number in 0..SIGNALS {
        alice.signal_to(&mut bob, number);
        bob.signal_to(&mut alice, number);
        if number.is_multiple_of(SIGNALS / HEALTH_CHECKS) {
            assert_eq!(http(server.addr(), "GET", "/health", &[]).status, 200);
        }
    }
    crowd.is_told_that_time_is_over();
    wait_for_metric(metrics, WAITING, 0);

    let mut player = Client::connect(server.addr(), seeker());
    player.send_json(&json!({ "game": "hall", "version": "1" }));
    let frames: Vec<Value> = (0..4).map(|_| player.recv_json()).collect();
    assert_eq!(frames[3]["SessionReady"]["port"], 30004, "{frames:?}");
    player.expect_close(1000, None);

    server.signal("TERM");
    assert!(server.wait_exit(PATIENCE).success());
    assert!(record.is_file());
    assert_eq!(FileStore::open(&record).unwrap().all().unwrap(), []);
    // It was asked, or this would prove nothing.
    stalled.set_nonblocking(true).unwrap();
    stalled.accept().unwrap();
}

/// How many of the crowd a process can hold, here and there.
fn crowd_size() -> usize {
    let most = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    match most {
        Some(most) if most < CROWD as u64 + OTHER_DESCRIPTORS => {
            println!("a process may open {most} files: only {SMALL_CROWD} clients wait");
            SMALL_CROWD
        }
        _ => CROWD,
    }
}

fn seeker() -> ConnectOptions {
    ConnectOptions {
        path: "/matchmaker/ws".to_owned(),
        ..ConnectOptions::default()
    }
}

/// A registered peer, in a namespace with all others.
struct Peer {
    client: Client,
    fingerprint: String,
}

impl Peer {
    fn new(server: &Server, key: &str) -> Self {
        let mut client = Client::connect(server.addr(), ConnectOptions::default());
        client.send_json(&json!({ "type": "register", "payload": { "public_key": key } }));
        let fingerprint = client.recv_json()["from"].as_str().unwrap().to_owned();
        client.send_json(&json!({ "type": "join", "payload": { "namespace": "hall" } }));
        let mut peer = Self { client, fingerprint };
        peer.next("peer_list");
        peer
    }

    fn next(&mut self, kind: &str) -> Value {
        loop {
            let message = self.client.recv_json();
            if message["type"] == kind {
                return message;
            }
            assert_eq!(message["type"], "peer_joined", "{message}");
        }
    }

    fn signal_to(&mut self, other: &mut Self, number: usize) {
        let (to, payload) = (&other.fingerprint, json!({ "n": number }));
        self.client
            .send_json(&json!({ "type": "signal", "to": to, "payload": payload }));
        let signal = other.next("signal");
        assert_eq!(
            (&signal["from"], &signal["payload"]),
            (&json!(self.fingerprint), &payload)
        );
    }
}

/// Clients of the service, too many for a thread each.
struct Crowd {
    poll: Poll,
    address: SocketAddr,
    clients: Vec<OneOfMany>,
}

struct OneOfMany {
    stream: Option<TcpStream>,
    has_begun: bool,
    heard: Vec<u8>,
    has_ended: bool,
}

impl Crowd {
    fn new(address: SocketAddr, size: usize) -> Self {
        let one = || OneOfMany {
            stream: None,
            has_begun: false,
            heard: Vec::new(),
            has_ended: false,
        };
        Self {
            poll: Poll::new().unwrap(),
            address,
            clients: (0..size).map(|_| one()).collect(),
        }
    }

    /// All become WebSockets.
    fn upgrade(&mut self) {
        let (mut opened, mut upgraded) = (0, 0);
        while upgraded < self.clients.len() {
            while opened < self.clients.len() && opened - upgraded < OPENING_MAX {
                let mut stream = TcpStream::connect(self.address).unwrap();
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll
                    .registry()
                    .register(&mut stream, Token(opened), interest)
                    .unwrap();
                self.clients[opened].stream = Some(stream);
                opened += 1;
            }
            self.turn(|client, writable| {
                if writable && !client.has_begun {
                    client.has_begun = true;
                    client.say(UPGRADE);
                }
                if let Some(end) = client.heard.windows(4).position(|four| four == b"\r\n\r\n") {
                    assert!(client.heard.starts_with(b"HTTP/1.1 101 "), "{}", client.text());
                    client.heard.drain(..end + 4);
                    upgraded += 1;
                }
            });
        }
    }

    /// All ask, and are told that their requests are under way.
    fn ask(&mut self) {
        let request = masked_text(br#"{"game":"arena","version":"1","client_ip":null}"#);
        for client in &mut self.clients {
            client.say(&request);
        }
        self.turn_until(|client| client.heard == ACKNOWLEDGED);
    }

    /// All are told that nothing came of it, and in order.
    fn is_told_that_time_is_over(&mut self) {
        self.turn_until(|client| client.has_ended);
        let last_words = [ACKNOWLEDGED, TIMED_OUT, GOOD_BYE].concat();
        for client in &self.clients {
            assert!(client.heard == last_words, "{}", client.text());
        }
    }

    fn turn_until(&mut self, done: impl Fn(&OneOfMany) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rest = self.clients.iter().filter(|client| !done(client)).count();
            if rest == 0 {
                return;
            }
            let example = || self.clients.iter().find(|client| !done(client)).unwrap().text();
            assert!(
                Instant::now() < deadline,
                "{rest} are not there, one of them with {}",
                example()
            );
            self.turn(|_, _| {});
        }
    }

    /// Reads what there is.
    fn turn(&mut self, mut then: impl FnMut(&mut OneOfMany, bool)) {
        let mut events = Events::with_capacity(1024);
        self.poll.poll(&mut events, Some(Duration::from_millis(100))).unwrap();
        for event in &events {
            let client = &mut self.clients[event.token().0];
            client.read();
            then(client, event.is_writable());
        }
    }
}

impl OneOfMany {
    fn say(&mut self, bytes: &[u8]) {
        let written = self.stream.as_mut().unwrap().write(bytes).unwrap();
        assert_eq!(written, bytes.len(), "the buffer of an idle connection has room");
    }

    fn read(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let mut input = [0; 1024];
        loop {
            match stream.read(&mut input) {
                Ok(0) => {
                    // The server ends its side after its last words, and is answered by the end of ours.
                    self.stream = None;
                    self.has_ended = true;
                    return;
                }
                Ok(bytes) => self.heard.extend_from_slice(&input[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::NotConnected => return,
                Err(error) => panic!("{error}, after {}", self.text()),
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.heard).into_owned()
    }
}

/// A frame of a client (RFC 6455 section 5.2), masked with zeros.
fn masked_text(payload: &[u8]) -> Vec<u8> {
    [&[0x81, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

fn metric(address: SocketAddr, name: &str) -> u64 {
    let page = http(address, "GET", "/metrics", &[]).text();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

/// The loops publish their numbers now and then.
fn wait_for_metric(address: SocketAddr, name: &str, value: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let is = metric(address, name);
        if is == value {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is {is} and not {value}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where the metrics page is: the log tells, after the server has said that it listens.
fn metrics_address(server: &Server) -> SocketAddr {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = server.stderr();
        let told = log.split_once("metrics=").map(|(_, rest)| rest.trim_start_matches('"'));
        let told = told.and_then(|told| told.split(['"', ' ', '\n']).next());
        if let Some(address) = told.and_then(|told| told.parse().ok()) {
            return address;
        }
        assert!(Instant::now() < deadline, "no metrics page in {log}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const WAITING: &str = "peer_server_game_server_requests_waiting";
const UPGRADE: &[u8] =
    b"GET /matchmaker/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ACKNOWLEDGED: &[u8] = b"\x81\x0e\"Acknowledged\"";
const TIMED_OUT: &[u8] = b"\x81\x35{\"Error\":[408,\"session still not ready, timed out.\"]}";
const GOOD_BYE: &[u8] = b"\x88\x09\x03\xe8Goodbye";
