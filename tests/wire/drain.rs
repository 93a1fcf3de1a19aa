//! SIGTERM: everybody is told, what was said is delivered, and the process ends in time.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::scene::{Peer, Raw, STATE_WITHIN, TABLES, UPGRADE, framed, join, metric, serve, wait_until};
use crate::support::{ConnectOptions, Event, Frame, Opcode, Server, WireOptions};

const GOING_AWAY: &[u8] = b"\x03\xe9server shutting down";

/// Messages until the close frame, which must be the one of a server that stops.
fn until_dismissed(peer: &mut Peer) -> Vec<serde_json::Value> {
    let mut messages = Vec::new();
    loop {
        match peer.client.recv_content(STATE_WITHIN) {
            Some(Event::Message { payload, .. }) => messages.push(serde_json::from_slice(&payload).unwrap()),
            Some(Event::Close {
                code: Some(1001),
                reason,
            }) => {
                assert_eq!(reason, "server shutting down");
                return messages;
            }
            other => panic!("{other:?} after {} messages", messages.len()),
        }
    }
}

#[test]
fn everybody_is_told_and_nobody_hears_of_anybody_leaving() {
    TABLES.iter().for_each(|tables| everybody_is_told(tables));
}

fn everybody_is_told(tables: &str) {
    let mut server = serve(json!({
        "loops": 4, "descriptor_tables": tables, "drain_timeout": "4s", "rate_limit_per_sec": 0
    }));
    let addr = server.addr();
    let mut peers: Vec<Peer> = (0..100)
        .map(|number| {
            let mut peer = Peer::register(addr, &format!("peer {number}"));
            peer.join(&format!("room {}", number % 10));
            peer
        })
        .collect();
    let mut unregistered: Vec<Raw> = (0..10).map(|_| Raw::upgraded(addr)).collect();
    let mut heads: Vec<Raw> = (0..10).map(|_| Raw::open(addr)).collect();
    heads.iter().for_each(|raw| raw.send(b"GET /livez HT"));
    wait_until(
        || metric(&server, crate::scene::HTTP_CONNECTIONS) == 10,
        || "ten heads".to_owned(),
    );
    // These wait for other loops most of the time while the signal arrives.
    for peer in peers.iter().step_by(2) {
        let requests: Vec<Frame> = (0..200)
            .map(|n| {
                let discover = json!({ "type": "discover", "payload": { "namespace": format!("room {n}") } });
                Frame::text(discover.to_string())
            })
            .collect();
        peer.client.try_send_frames(&requests).unwrap();
    }
    let began = Instant::now();
    server.signal("TERM");
    for (number, peer) in peers.iter_mut().enumerate() {
        for message in until_dismissed(peer) {
            assert_ne!(message["type"], "peer_left", "peer {number}");
            assert_ne!(message["type"], "error", "peer {number}: {message}");
        }
    }
    for raw in &mut unregistered {
        assert_eq!(raw.frame(), (Opcode::CLOSE, GOING_AWAY.to_vec()));
        raw.wire.shutdown_write();
    }
    for raw in &mut heads {
        assert_eq!(raw.rest(STATE_WITHIN).0, b"");
        raw.wire.shutdown_write();
    }
    let refused = TcpStream::connect(addr).expect_err("nobody listens any more");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(server.wait_exit(STATE_WITHIN).code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "all had closed, but it took {:?}",
        began.elapsed()
    );
}

#[test]
fn what_is_queued_is_sent_before_the_close_frame() {
    let mut server = serve(json!({
        "loops": 2, "socket_send_bytes": 4096, "send_buffer_size": 32, "rate_limit_per_sec": 0, "drain_timeout": "8s"
    }));
    let narrow = ConnectOptions {
        wire: WireOptions {
            receive_buffer_bytes: Some(4096),
            ..WireOptions::default()
        },
        ..ConnectOptions::default()
    };
    let mut slow = Peer::register_as(server.addr(), narrow, json!({ "public_key": "slow" }));
    slow.join("hall");
    let mut sender = Peer::register(server.addr(), "sender");
    sender.join("hall");
    slow.next("peer_joined");
    slow.client.pause_reading();
    for number in 0..20 {
        sender.relay(
            &slow.fingerprint,
            json!({ "number": number, "padding": "x".repeat(4000) }),
        );
    }
    wait_until(
        || metric(&server, "peer_server_deliveries_total") == 20,
        || "twenty messages taken".to_owned(),
    );
    assert!(metric(&server, "peer_server_output_bytes") > 0, "nothing is queued");
    server.signal("TERM");
    until_dismissed(&mut sender);
    slow.client.resume_reading();
    let numbers: Vec<u64> = until_dismissed(&mut slow)
        .iter()
        .map(|relay| relay["payload"]["number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    assert_eq!(server.wait_exit(STATE_WITHIN).code(), Some(0));
}

/// A peer that neither reads nor closes, with output waiting for it.
fn stubborn(server: &Server) -> (Peer, Peer) {
    let options = ConnectOptions {
        auto_close: false,
        wire: WireOptions {
            receive_buffer_bytes: Some(4096),
            ..WireOptions::default()
        },
        ..ConnectOptions::default()
    };
    let mut slow = Peer::register_as(server.addr(), options, json!({ "public_key": "stubborn" }));
    slow.join("hall");
    let mut other = Peer::register(server.addr(), "other");
    other.join("hall");
    slow.client.pause_reading();
    for _ in 0..20 {
        other.relay(&slow.fingerprint, json!("x".repeat(4000)));
    }
    other.round_trip();
    (slow, other)
}

#[test]
fn a_peer_that_neither_reads_nor_closes_does_not_hold_the_end_up() {
    for loops in [1, 4] {
        let mut server = serve(json!({
            "loops": loops, "socket_send_bytes": 4096, "rate_limit_per_sec": 0, "drain_timeout": "1500ms"
        }));
        let (_slow, mut other) = stubborn(&server);
        let began = Instant::now();
        server.signal("INT");
        until_dismissed(&mut other);
        assert_eq!(server.wait_exit(STATE_WITHIN).code(), Some(0));
        assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM")] {
        let mut server = serve(json!({
            "loops": 2, "socket_send_bytes": 4096, "rate_limit_per_sec": 0, "drain_timeout": "60s", "write_timeout": "60s"
        }));
        let (_slow, mut other) = stubborn(&server);
        server.signal(first);
        until_dismissed(&mut other);
        assert!(server.is_running());
        let began = Instant::now();
        server.signal(second);
        assert_eq!(server.wait_exit(STATE_WITHIN).code(), Some(1));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}

#[test]
fn a_signal_that_comes_with_the_first_line_of_output_is_heeded() {
    for _ in 0..20 {
        let mut server = Server::start(json!({ "loops": 2 }), &[]);
        server.signal("TERM");
        let status = server.wait_exit(STATE_WITHIN);
        assert_eq!(status.code(), Some(0), "{status}");
    }
}

#[test]
fn what_was_sent_just_before_the_signal_is_no_reason_to_stay() {
    TABLES.iter().for_each(|tables| ends_in_time(tables));
}

fn ends_in_time(tables: &str) {
    let mut server = serve(json!({ "loops": 4, "descriptor_tables": tables }));
    let mut bytes = UPGRADE.as_bytes().to_vec();
    bytes.extend(framed(&crate::scene::register("late")));
    bytes.extend(framed(&join("hall")));
    let late: Vec<Raw> = (0..50)
        .map(|_| {
            let raw = Raw::open(server.addr());
            raw.send(&bytes);
            raw
        })
        .collect();
    server.signal("TERM");
    assert_eq!(server.wait_exit(STATE_WITHIN).code(), Some(0));
    drop(late);
}
