//! Those who connect and then take their time: closed by `read_timeout`, at nobody's expense.

use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use serde_json::json;

use crate::scene::{End, HTTP_CONNECTIONS, Peer, Raw, STATE_WITHIN, UPGRADE, metric, over_tls, serve, wait_for_metric};
use crate::support::{Certificate, ConnectOptions, Server, trust_anything};

const READ_TIMEOUT: Duration = Duration::from_millis(700);

fn server(loops: u32) -> Server {
    serve(json!({ "loops": loops, "read_timeout": "700ms" }))
}

fn tls_server(certificate: &Certificate) -> Server {
    serve(json!({
        "loops": 2, "read_timeout": "700ms", "tls_cert": certificate.chain(), "tls_key": certificate.key()
    }))
}

/// Sends a byte at a time until the server has had enough; a healthy peer is served between any two.
fn drip(raw: &mut Raw, bytes: &[u8], healthy: &mut Peer) -> (Vec<u8>, Duration) {
    let began = Instant::now();
    for byte in bytes {
        // The server may have closed since the last look.
        let _ = raw.wire.write_all(&[*byte]);
        healthy.round_trip();
        if let Some(Err(_)) = raw.poll(Duration::from_millis(20)) {
            return (std::mem::take(&mut raw.buffer), began.elapsed());
        }
        assert!(began.elapsed() < STATE_WITHIN, "still open");
    }
    panic!("all was sent before the server had enough");
}

fn assert_in_time(elapsed: Duration) {
    assert!(
        elapsed + Duration::from_millis(100) > READ_TIMEOUT,
        "closed after {elapsed:?}"
    );
    assert!(
        elapsed < READ_TIMEOUT + Duration::from_secs(3),
        "closed after {elapsed:?}"
    );
}

#[test]
fn a_head_that_is_dripped_is_answered_408() {
    let server = server(2);
    let mut healthy = Peer::register(server.addr(), "healthy");
    let mut raw = Raw::open(server.addr());
    let head = UPGRADE.replacen("\r\n", &format!("\r\nX-Padding: {}\r\n", "x".repeat(4000)), 1);
    let (answer, elapsed) = drip(&mut raw, head.as_bytes(), &mut healthy);
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("\r\nConnection: close\r\n"),
        "{answer}"
    );
    assert_in_time(elapsed);
    wait_for_metric(&server, HTTP_CONNECTIONS, 0);
}

#[test]
fn a_connection_that_says_nothing_is_answered_408() {
    let server = server(2);
    let mut raw = Raw::open(server.addr());
    let began = Instant::now();
    let (answer, end) = raw.rest(STATE_WITHIN);
    assert!(answer.starts_with(b"HTTP/1.1 408 "));
    assert_eq!(end, End::Eof);
    assert_in_time(began.elapsed());
    wait_for_metric(&server, HTTP_CONNECTIONS, 0);
}

#[test]
fn an_idle_keep_alive_connection_is_closed_in_time() {
    let server = server(1);
    let mut raw = Raw::open(server.addr());
    raw.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(raw.head().starts_with("HTTP/1.1 200 "));
    let began = Instant::now();
    raw.rest(STATE_WITHIN);
    assert_in_time(began.elapsed());
    wait_for_metric(&server, HTTP_CONNECTIONS, 0);
}

#[test]
fn hundreds_of_stalled_heads_delay_nobody_and_are_all_closed() {
    let server = server(2);
    let mut stalled: Vec<Raw> = (0..300).map(|_| Raw::open(server.addr())).collect();
    for (number, raw) in stalled.iter().enumerate() {
        raw.send(&UPGRADE.as_bytes()[..number % UPGRADE.len()]);
    }
    for number in 0..20 {
        Peer::register(server.addr(), &format!("healthy {number}")).round_trip();
    }
    for raw in &mut stalled {
        let (answer, _) = raw.rest(STATE_WITHIN);
        assert!(answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    }
    wait_for_metric(&server, HTTP_CONNECTIONS, 0);
    wait_for_metric(&server, "peer_server_connections{state=\"closing\"}", 0);
    wait_for_metric(&server, "peer_server_pool_blocks_taken", 0);
}

#[test]
fn a_tls_hello_that_is_dripped_is_closed_in_time() {
    let certificate = Certificate::generate();
    let server = tls_server(&certificate);
    let options = ConnectOptions {
        wire: over_tls(),
        ..ConnectOptions::default()
    };
    let mut healthy = Peer::register_as(server.addr(), options, json!({ "public_key": "healthy" }));
    let mut hello = Vec::new();
    let mut client =
        ClientConnection::new(trust_anything(&[], &[]), ServerName::try_from("localhost").unwrap()).unwrap();
    client.write_tls(&mut hello).unwrap();
    assert!(hello.len() > 150, "too short to last");
    let mut raw = Raw::open(server.addr());
    let (answer, elapsed) = drip(&mut raw, &hello, &mut healthy);
    assert_eq!(answer, b"", "there is nothing to say without TLS");
    assert_in_time(elapsed);
    wait_for_metric(&server, HTTP_CONNECTIONS, 0);
}

#[test]
fn silence_on_the_tls_port_is_closed_in_time() {
    let certificate = Certificate::generate();
    let server = tls_server(&certificate);
    let mut raw = Raw::open(server.addr());
    let began = Instant::now();
    let (answer, _) = raw.rest(STATE_WITHIN);
    assert_eq!(answer, b"");
    assert_in_time(began.elapsed());
    assert_eq!(metric(&server, "peer_server_tls_handshakes_total"), 0);
    wait_for_metric(&server, HTTP_CONNECTIONS, 0);
}

#[test]
fn a_head_that_is_dripped_under_tls_is_answered_408() {
    let certificate = Certificate::generate();
    let server = tls_server(&certificate);
    let options = ConnectOptions {
        wire: over_tls(),
        ..ConnectOptions::default()
    };
    let mut healthy = Peer::register_as(server.addr(), options, json!({ "public_key": "healthy" }));
    let mut raw = Raw::open_with(server.addr(), &over_tls());
    let head = UPGRADE.replacen("\r\n", &format!("\r\nX-Padding: {}\r\n", "x".repeat(4000)), 1);
    let (answer, elapsed) = drip(&mut raw, head.as_bytes(), &mut healthy);
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    assert_in_time(elapsed);
    wait_for_metric(&server, HTTP_CONNECTIONS, 0);
}

#[test]
fn an_upgraded_connection_that_does_not_register_is_closed_with_1008() {
    let server = serve(json!({ "loops": 2, "pong_wait": "500ms", "ping_interval": "200ms" }));
    let mut silent = Raw::upgraded(server.addr());
    let mut halfway = Raw::upgraded(server.addr());
    halfway.send(&crate::scene::framed(&crate::scene::register("never whole"))[..20]);
    for raw in [&mut silent, &mut halfway] {
        let (opcode, payload) = raw.frame();
        assert_eq!(
            (opcode, &payload[..2], &payload[2..]),
            (8, &1008u16.to_be_bytes()[..], &b"registration timeout"[..])
        );
    }
    drop((silent, halfway));
    wait_for_metric(&server, "peer_server_connections{state=\"unregistered\"}", 0);
    wait_for_metric(&server, "peer_server_pool_blocks_taken", 0);
}
