//! What the event loop must survive: connections that end, move, or do not read at the worst moment.
//!
//! Owns: orders of events that a quiet network seldom produces, made certain by stopping the process while they happen.
//! Never: looks at what a message means; the dialogues do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may say so with a panic")]

mod support;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};
use support::{ANSWER_WITHIN, Client, ConnectOptions, Event, Frame, Server, http};

fn register(key: &str) -> Value {
    json!({ "type": "register", "payload": { "public_key": key } })
}

fn registered(server: &Server, key: &str) -> Client {
    let mut client = Client::connect(server.addr(), ConnectOptions::default());
    client.send_json(&register(key));
    assert_eq!(client.recv_json()["type"], "registered");
    client
}

/// Has everything happen between two turns of the loops.
fn while_stopped(server: &Server, what: impl FnOnce()) {
    server.signal("STOP");
    let stat = format!("/proc/{}/stat", server.pid());
    let deadline = Instant::now() + ANSWER_WITHIN;
    // The state stands behind the name, which is in brackets.
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        assert!(Instant::now() < deadline, "the process does not stop");
        std::thread::yield_now();
    }
    what();
    server.signal("CONT");
}

#[test]
fn a_key_that_comes_back_in_the_turn_in_which_it_went_is_a_peer() {
    let server = Server::start(json!({ "loops": 1 }), &[]);
    let old = registered(&server, "returning");
    let mut new = Client::connect(server.addr(), ConnectOptions::default());
    while_stopped(&server, || {
        old.drop_tcp();
        new.send_json(&register("returning"));
    });
    assert_eq!(new.recv_json()["type"], "registered");
    new.send_json(&json!({ "type": "ping" }));
    new.expect_json(&json!({ "type": "pong" }));
    assert_eq!(http(server.addr(), "GET", "/health", &[]).json()["peers"], 1);
    // Whoever comes next must not be taken for it.
    let mut other = registered(&server, "other");
    other.send_json(&json!({ "type": "join", "payload": { "namespace": "lobby" } }));
    assert_eq!(other.recv_json()["type"], "peer_list");
    new.send_json(&json!({ "type": "broadcast", "payload": { "namespace": "lobby", "data": 1 } }));
    assert_eq!(new.recv_json()["payload"]["message"], "not in namespace");
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn register_frame(key: &str) -> Vec<u8> {
    Frame::text(register(key).to_string()).encode()
}

/// Reads until `text` has arrived.
fn read_until(mut stream: &TcpStream, text: &str) -> String {
    stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    let mut all = Vec::new();
    let mut bytes = [0; 4096];
    while !String::from_utf8_lossy(&all).contains(text) {
        let count = stream.read(&mut bytes);
        let count = count.unwrap_or_else(|error| panic!("{error} after {}", String::from_utf8_lossy(&all)));
        assert!(count > 0, "the end after {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&bytes[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn a_registration_that_waited_behind_a_status_page_moves_to_its_home() {
    let server = Server::start(json!({ "loops": 4 }), &[]);
    for number in 0..16 {
        // The page is gathered from all loops, and what follows the request is kept until it is there.
        let mut bytes = b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
        bytes.extend_from_slice(UPGRADE.as_bytes());
        bytes.extend_from_slice(&register_frame(&format!("patient {number}")));
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        stream.write_all(&bytes).unwrap();
        read_until(&stream, "\"registered\"");
    }
}

#[test]
fn a_connection_that_breaks_while_its_requests_are_answered_leaves_nothing_behind() {
    for loops in [1, 2] {
        let server = Server::start(json!({ "loops": loops }), &[]);
        for number in 0..6 {
            // More answers than are gathered before the first write, which tells of the reset; then a registration.
            let mut bytes = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(800);
            bytes.extend_from_slice(UPGRADE.as_bytes());
            bytes.extend_from_slice(&register_frame(&format!("gone {number}")));
            let mut stream = TcpStream::connect(server.addr()).unwrap();
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            while_stopped(&server, || {
                stream.write_all(&bytes).unwrap();
                drop(stream);
            });
            // On a busy machine the reset may reach the server after the registration: then that peer goes at once.
            let started = Instant::now();
            loop {
                let health = http(server.addr(), "GET", "/health", &[]).json();
                if health["peers"] == 0 {
                    break;
                }
                let late = started.elapsed() > ANSWER_WITHIN;
                assert!(!late, "with {loops} loops, after {number}: {health}");
            }
        }
        registered(&server, "after them");
    }
}

/// Sends until the server takes no more; the number of bytes that it took.
fn send_until_stuck(mut stream: &TcpStream, request: &[u8], most: usize) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut sent = 0;
    while sent < most {
        match stream.write(&request[sent % request.len()..]) {
            Ok(count) => sent += count,
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "{error}"
                );
                break;
            }
        }
    }
    sent
}

#[test]
fn requests_are_read_no_faster_than_their_answers() {
    let server = Server::start(json!({ "loops": 1 }), &[]);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.addr().into()).unwrap();
    let stream = TcpStream::from(socket);
    let request = format!(
        "GET /health HTTP/1.1\r\nHost: localhost\r\nFiller: {}\r\n\r\n",
        "x".repeat(1000)
    );
    // The kernel's buffers of both ends take some of it.
    let sent = send_until_stuck(&stream, request.as_bytes(), 32 << 20);
    assert!(sent < 32 << 20, "all was read while no answer was");

    // Nothing is lost: every whole request is answered once the answers are read.
    let mut unanswered = sent / request.len();
    stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    let mut lines = BufReader::new(&stream).lines();
    while unanswered > 0 {
        if lines.next().unwrap().unwrap().contains("HTTP/1.1 200") {
            unanswered -= 1;
        }
    }
}

#[test]
fn refused_deliveries_are_counted_by_reason_and_for_good() {
    let server = Server::start(json!({ "loops": 2, "metrics_enabled": true, "metrics_port": 0 }), &[]);
    let metrics = metrics_address(&server);
    let refused = |reason: &str| {
        let line = format!("peer_server_refused_deliveries_total{{reason=\"{reason}\"}} ");
        let page = http(metrics, "GET", "/metrics", &[]).text();
        let count = page.lines().find_map(|found| found.strip_prefix(&line));
        count.unwrap().parse::<u32>().unwrap()
    };
    let mut senders: Vec<Client> = (0..8)
        .map(|number| registered(&server, &format!("sender {number}")))
        .collect();
    let nobody = "0".repeat(64);
    // Some of them are on the loop that is nobody's home, some are not.
    for sender in &mut senders {
        sender.send_json(&json!({ "type": "signal", "to": nobody, "payload": 1 }));
        assert_eq!(sender.recv_json()["payload"]["code"], 404);
    }
    let deadline = Instant::now() + ANSWER_WITHIN;
    while refused("peer_not_found") != 8 {
        assert!(Instant::now() < deadline, "{}", refused("peer_not_found"));
    }
    assert_eq!(refused("no_shared_namespace"), 0);
}

/// The start-up line on stderr says where the metrics are.
fn metrics_address(server: &Server) -> SocketAddr {
    let deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        let log = server.stderr();
        let address = log.split_once("metrics=\"").and_then(|(_, rest)| rest.split_once('"'));
        if let Some((address, _)) = address {
            return address.parse().unwrap();
        }
        assert!(Instant::now() < deadline, "no metrics in {log}");
        std::thread::yield_now();
    }
}

#[test]
fn who_is_turned_away_hears_why_and_no_reset() {
    let server = Server::start(json!({ "loops": 1, "max_peers": 1 }), &[]);
    // The bound never is below this (peer protocol, D28).
    let idle: Vec<TcpStream> = (0..1024).map(|_| TcpStream::connect(server.addr()).unwrap()).collect();
    let mut answer = Vec::new();
    let mut stream = None;
    while_stopped(&server, || {
        let mut late = TcpStream::connect(server.addr()).unwrap();
        late.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        stream = Some(late);
    });
    let mut stream = stream.unwrap();
    stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    stream.read_to_end(&mut answer).unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 503 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    // After the end a reset is not read any more, but it is noted.
    assert!(stream.take_error().unwrap().is_none());
    drop(idle);
}

#[test]
fn a_stop_is_told_to_those_who_register_meanwhile() {
    for tables in ["per_loop", "shared", "per_loop", "shared"] {
        let server = Server::start(json!({ "loops": 4, "descriptor_tables": tables }), &[]);
        let connect = |_| Client::connect(server.addr(), ConnectOptions::default());
        let mut clients: Vec<Client> = (0..32).map(connect).collect();
        while_stopped(&server, || {
            for (number, client) in clients.iter().enumerate() {
                client.send_json(&register(&format!("late {number}")));
            }
            server.signal("TERM");
        });
        for client in &mut clients {
            let mut event = client.recv_content(ANSWER_WITHIN);
            if let Some(Event::Message { payload, .. }) = &event {
                assert!(String::from_utf8_lossy(payload).contains("\"registered\""));
                event = client.recv_content(ANSWER_WITHIN);
            }
            assert_eq!(event.as_ref().and_then(Event::close_code), Some(1001), "{event:?}");
        }
    }
}
