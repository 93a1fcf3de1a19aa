//! Datagrams on real sockets: STUN, the demultiplexer's vectors, ports, rates.
//!
//! Owns: what holds for every dialect; each has tests of its own.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use peer_server::codec::stun;
use peer_server::dialect::demultiplexer::{Speaks, classify, classify_stream};
use peer_server::message::punch::Dialect;
use serde_json::{Value, json};
use support::{ANSWER_WITHIN, Server, http, unhex};

/// A Binding request of this number.
fn binding(number: u32) -> Vec<u8> {
    let mut request = unhex("000100002112a4420102030405060708").unwrap();
    request.extend_from_slice(&number.to_be_bytes());
    request
}

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    socket
}

/// The answer to one datagram, and where it came from.
fn ask(socket: &UdpSocket, to: SocketAddr, datagram: &[u8]) -> (Vec<u8>, SocketAddr) {
    socket.send_to(datagram, to).unwrap();
    let mut buffer = [0; 2048];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..len].to_vec(), from)
}

/// The address that a success says.
fn mapped(answer: &[u8], request: &[u8]) -> SocketAddr {
    assert_eq!(answer[..2], [1, 1]);
    assert_eq!(answer[4..20], request[4..20]);
    assert_eq!(answer[20..22], [0, 0x20]);
    let port = u16::from_be_bytes([answer[26] ^ 0x21, answer[27] ^ 0x12]);
    let key = &request[4..20];
    let octets: Vec<u8> = answer[28..].iter().zip(key).map(|(byte, key)| byte ^ key).collect();
    match answer[25] {
        1 => SocketAddr::new(IpAddr::from(<[u8; 4]>::try_from(&octets[..4]).unwrap()), port),
        _ => SocketAddr::new(IpAddr::from(<[u8; 16]>::try_from(&octets[..16]).unwrap()), port),
    }
}

fn vectors(file: &str) -> Value {
    let path = format!("{}/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn bytes_of(value: &Value, name: &str) -> Vec<u8> {
    unhex(text(value, name)).unwrap()
}

#[test]
fn every_captured_datagram_is_what_it_should_be() {
    for item in vectors("matchmaker/demux-udp.json")["items"].as_array().unwrap() {
        let found = match classify(&bytes_of(item, "hex")) {
            None => "drop",
            Some(Dialect::Stun) => "stun",
            Some(Dialect::Matchmaker) => "matchmaker",
            Some(Dialect::Simple) => "simple",
            Some(Dialect::Natpunch) => "natpunch",
        };
        assert_eq!(found, text(item, "expect"), "{item}");
    }
}

#[test]
fn every_captured_datagram_of_a_client_is_of_its_own_dialect() {
    for (folder, files, dialect) in [
        ("simple", &["session-two-joiners", "random-pair"][..], Dialect::Simple),
        (
            "natpunch",
            &[
                "server-replies-scripted",
                "newest-client-reordered-join",
                "newest-client-upstream-server-crash",
            ],
            Dialect::Natpunch,
        ),
        ("matchmaker", &["meet-two", "meet-three"], Dialect::Matchmaker),
    ] {
        for file in files {
            let flow = vectors(&format!("{folder}/{file}.json"));
            let items = flow["items"].as_array().unwrap().iter();
            let to_server = items.filter(|item| item["transport"] == "udp" && item["to"] == "server");
            let mut count = 0;
            for item in to_server {
                assert_eq!(classify(&bytes_of(item, "hex")), Some(dialect), "{file}: {item}");
                count += 1;
            }
            assert!(count > 0, "{file}");
        }
    }
}

#[test]
fn every_captured_stream_is_what_it_should_be() {
    for item in vectors("matchmaker/demux-tcp.json")["items"].as_array().unwrap() {
        let found = match classify_stream(&bytes_of(item, "hex")).0 {
            Speaks::Json => "json",
            Speaks::Http => "http",
            Speaks::Tls | Speaks::Nothing | Speaks::Unknown => "close",
        };
        assert_eq!(found, text(item, "expect"), "{item}");
    }
}

#[test]
fn stun_answers_are_those_of_the_vectors() {
    for item in vectors("matchmaker/stun.json")["items"].as_array().unwrap() {
        let request = bytes_of(item, "request");
        let mut answer = Vec::new();
        stun::push_answer(&mut answer, &request, text(item, "source").parse().unwrap());
        let expected = bytes_of(item, "response");
        match expected[..2] {
            [1, 1] => assert_eq!(answer, expected, "{item}"),
            // The phrase is free: type, transaction, code and the list of attributes.
            _ => {
                assert_eq!(answer[..2], expected[..2]);
                assert_eq!(answer[4..20], expected[4..20]);
                assert_eq!(answer[24..28], [0, 0, 4, 20]);
                assert!(answer.ends_with(&expected[expected.len() - 8..]), "{answer:02x?}");
            }
        }
    }
}

#[test]
fn the_rfc_s_requests_are_answered_and_nothing_broken_is() {
    let source = "192.0.2.1:32853".parse().unwrap();
    let answer = |item: &Value| {
        let bytes = bytes_of(item, "bytes");
        let mut answer = Vec::new();
        if stun::is_stun(&bytes) {
            stun::push_answer(&mut answer, &bytes, source);
        }
        answer
    };
    let vectors = vectors("stun/rfc5769.json");
    for item in vectors["vectors"].as_array().unwrap() {
        let request = text(&item["expect"], "class") == "request";
        assert_eq!(!answer(item).is_empty(), request, "{}", item["name"]);
    }
    for item in vectors["negative"].as_array().unwrap() {
        let answer = answer(item);
        let kind = answer.get(..2);
        match text(item, "name") {
            "bare_binding_request" | "unknown_comprehension_optional" => assert_eq!(kind, Some(&[1, 1][..])),
            "unknown_comprehension_required" => assert_eq!(kind, Some(&[1, 0x11][..])),
            name => assert_eq!(kind, None, "{name}"),
        }
    }
}

#[test]
fn a_binding_request_is_answered_with_the_sender_s_address() {
    for loops in [1, 4] {
        let server = Server::start(json!({ "loops": loops }), &[]);
        for number in 0..50 {
            let socket = socket("127.0.0.1:0");
            let request = binding(number);
            let (answer, from) = ask(&socket, server.addr(), &request);
            assert_eq!(from, server.addr());
            assert_eq!(mapped(&answer, &request), socket.local_addr().unwrap());
        }
    }
}

#[test]
fn the_answer_comes_from_the_address_that_was_asked_in_both_families() {
    let server = Server::start(json!({ "loops": 2, "host": "::" }), &[]);
    for (own, asked) in [
        ("127.0.0.1:0", "127.0.0.2"),
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
    ] {
        let socket = socket(own);
        let asked = SocketAddr::new(asked.parse().unwrap(), server.addr().port());
        let request = binding(7);
        let (answer, from) = ask(&socket, asked, &request);
        assert_eq!(from, asked);
        assert_eq!(mapped(&answer, &request), socket.local_addr().unwrap());
    }
}

#[test]
fn one_address_gets_ten_answers_a_second_and_its_prefix_its_share() {
    let server = Server::start(json!({ "loops": 4 }), &[]);
    let sockets = [socket("127.0.0.1:0"), socket("127.0.0.1:0")];
    assert_rate(&sockets[..1], server.addr(), 10);
    assert_rate(&sockets[1..], server.addr(), 10);
    drop(server);
    let server = Server::start(json!({ "loops": 1, "stun_answers_per_prefix_per_sec": 15 }), &[]);
    assert_rate(&sockets, server.addr(), 15);
    drop(server);
    let off = json!({ "loops": 2, "stun_answers_per_sec": 0, "stun_answers_per_prefix_per_sec": 0 });
    let server = Server::start(off, &[]);
    assert_eq!(answered(&sockets, server.addr(), 100), 200);
}

/// Asks far more often than is answered: a bucket's worth at once, and what it gains until the last request was sent.
fn assert_rate(sockets: &[UdpSocket], to: SocketAddr, per_sec: usize) {
    let started = std::time::Instant::now();
    let answered = answered(sockets, to, 30);
    // A loop's clock counts whole milliseconds.
    let most = per_sec + (per_sec as f64 * (started.elapsed().as_secs_f64() + 0.01)) as usize;
    assert!(
        (per_sec..=most).contains(&answered),
        "{answered}, not {per_sec} to {most}"
    );
}

/// How many of so many requests of each socket, sent within a moment, are answered.
fn answered(sockets: &[UdpSocket], to: SocketAddr, count: u32) -> usize {
    for number in 0..count {
        for socket in sockets {
            socket.send_to(&binding(number), to).unwrap();
        }
    }
    let mut buffer = [0; 100];
    let answers = sockets.iter().map(|socket| {
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        std::iter::from_fn(|| socket.recv_from(&mut buffer).ok()).count()
    });
    answers.sum()
}

/// So long after the last answer none is expected any more: nothing else tells that an answer will not come.
const SILENCE: Duration = Duration::from_millis(300);

#[test]
fn every_port_serves_tcp_and_udp_and_a_further_one_too() {
    let (extra, udp) = (free_port(), free_port());
    let config = json!({ "loops": 2, "extra_ports": [extra], "udp_port": udp });
    let server = Server::start(config, &[]);
    let at = |port| SocketAddr::new(server.addr().ip(), port);
    let socket = socket("127.0.0.1:0");
    for port in [extra, udp] {
        let request = binding(u32::from(port));
        assert_eq!(ask(&socket, at(port), &request).1, at(port));
    }
    for port in [server.addr().port(), extra] {
        assert_eq!(http(at(port), "GET", "/livez", &[]).status, 200);
    }
    // With a port of its own, datagrams are not served beside TCP.
    UdpSocket::bind(server.addr()).unwrap();
}

/// A port that nothing has, neither for TCP nor for UDP.
fn free_port() -> u16 {
    loop {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[test]
fn a_taken_udp_port_ends_the_start_and_a_free_one_is_searched_for_both() {
    // The TCP port of the same number may be another test's: then the next one.
    let (taken, port) = (0..20)
        .find_map(|_| {
            let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
            let port = taken.local_addr().unwrap().port();
            let failure = Server::try_start(json!({ "port": port }), &[]).err().unwrap();
            let of_tcp = format!("127.0.0.1:{port}: address in use");
            if failure.stderr.contains(&of_tcp) {
                return None;
            }
            let expected = format!("127.0.0.1:{port} (UDP): address in use");
            assert!(failure.stderr.contains(&expected), "{failure:?}");
            let server = Server::try_start(json!({ "port": port, "udp_enabled": false }), &[]).ok()?;
            assert_eq!(server.addr().port(), port);
            Some((taken, port))
        })
        .expect("one of twenty ports is free for TCP");
    assert_eq!(taken.local_addr().unwrap().port(), port);
    for _ in 0..5 {
        let server = Server::start(json!({ "port": 0 }), &[]);
        let request = binding(1);
        ask(&socket("127.0.0.1:0"), server.addr(), &request);
    }
}

#[test]
fn figures_appear_with_the_first_datagram() {
    let server = Server::start(json!({ "loops": 2 }), &[]);
    let health = || http(server.addr(), "GET", "/health", &[]).json();
    assert!(health().get("udp").is_none());
    let socket = socket("127.0.0.1:0");
    socket.send_to(b"nonsense", server.addr()).unwrap();
    ask(&socket, server.addr(), &binding(1));
    let started = std::time::Instant::now();
    loop {
        let health = health();
        if health["udp"]["received"]["stun"] == 1 && health["udp"]["received"]["unknown"] == 1 {
            assert_eq!(health["udp"]["sent"]["stun"], 1);
            assert_eq!(health["udp"]["dropped"]["unknown"], 1);
            return;
        }
        assert!(started.elapsed() < ANSWER_WITHIN, "{health}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_dialect_that_is_switched_off_is_silent() {
    let server = Server::start(json!({ "loops": 1, "stun_enabled": false }), &[]);
    assert_eq!(answered(&[socket("127.0.0.1:0")], server.addr(), 3), 0);
}
