//! Ends that the client makes, or does not: silence, FIN, RST, and what was said before them.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::scene::{
    Peer, Raw, STATE_WITHIN, UPGRADE, framed, join, metric, over_tls, register, serve, wait_for_metric, wait_for_peers,
};
use crate::support::{Certificate, ConnectOptions, Frame, Opcode};

#[test]
fn a_peer_that_answers_no_ping_is_closed_with_1008_within_pong_wait() {
    for loops in [1, 2] {
        let server = serve(json!({ "loops": loops, "ping_interval": "200ms", "pong_wait": "700ms" }));
        let mut healthy = Peer::register(server.addr(), "healthy");
        healthy.join("hall");
        let deaf = ConnectOptions {
            auto_pong: false,
            ..ConnectOptions::default()
        };
        let mut silent = Peer::register_as(server.addr(), deaf, json!({ "public_key": "silent" }));
        silent.join("hall");
        let last_word = Instant::now();
        silent.client.expect_close(1008, Some("pong timeout"));
        let elapsed = last_word.elapsed();
        assert!(elapsed > Duration::from_millis(600), "closed after {elapsed:?}");
        assert!(elapsed < Duration::from_millis(2500), "closed after {elapsed:?}");
        assert!(silent.client.recv_ping(Duration::ZERO).is_some(), "it was never asked");
        assert_eq!(healthy.next("peer_left")["from"], silent.fingerprint.as_str());
        wait_for_metric(&server, "peer_server_pong_timeouts_total", 1);
        healthy.round_trip();
    }
}

#[test]
fn any_frame_keeps_a_peer_alive() {
    let server = serve(json!({ "loops": 1, "ping_interval": "10s", "pong_wait": "500ms", "rate_limit_per_sec": 0 }));
    let mut talker = Peer::register(server.addr(), "talker");
    let pinger = Peer::register(server.addr(), "pinger");
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        talker.round_trip();
        pinger.client.send_frame(Frame::new(Opcode::PONG, []));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(metric(&server, "peer_server_pong_timeouts_total"), 0);
    wait_for_peers(&server, 2);
    wait_for_peers(&server, 0);
    assert_eq!(
        metric(&server, "peer_server_pong_timeouts_total"),
        2,
        "and then they fell silent"
    );
}

#[test]
fn what_was_said_before_the_fin_is_done() {
    let certificate = Certificate::generate();
    for (loops, tls) in [(1, false), (4, false), (4, true)] {
        let mut config = json!({ "loops": loops });
        if tls {
            config["tls_cert"] = json!(certificate.chain());
            config["tls_key"] = json!(certificate.key());
        }
        let server = serve(config);
        let wire = if tls { over_tls() } else { Default::default() };
        let options = ConnectOptions {
            wire: wire.clone(),
            ..ConnectOptions::default()
        };
        let mut receiver = Peer::register_as(server.addr(), options, json!({ "public_key": "receiver" }));
        receiver.join("hall");
        for number in 0..20 {
            let mut raw = Raw::open_with(server.addr(), &wire);
            raw.send(UPGRADE.as_bytes());
            raw.switch();
            let key = format!("sender {number}");
            let relay = json!({ "type": "relay", "to": receiver.fingerprint, "payload": number });
            let bytes: Vec<u8> = [register(&key), join("hall"), relay].iter().flat_map(framed).collect();
            raw.send(&bytes);
            raw.wire.shutdown_write();
            receiver.next("peer_joined");
            assert_eq!(receiver.next("relay")["payload"], number);
            assert_eq!(
                receiver.next("peer_left")["from"],
                crate::scene::fingerprint_of(&key).as_str()
            );
        }
        wait_for_peers_over(&server, tls, 1);
    }
}

/// The status pages of a TLS server are behind TLS; its metrics are not.
fn wait_for_peers_over(server: &crate::support::Server, tls: bool, count: u64) {
    match tls {
        true => wait_for_metric(server, "peer_server_peers", count),
        false => wait_for_peers(server, count),
    }
}

#[test]
fn a_fin_while_requests_are_outstanding_comes_after_them() {
    for loops in [1, 4] {
        let server = serve(json!({ "loops": loops, "rate_limit_per_sec": 0 }));
        let mut receiver = Peer::register(server.addr(), "receiver");
        receiver.join("hall");
        for number in 0..30 {
            let mut raw = Raw::upgraded(server.addr());
            raw.send(&framed(&register(&format!("sender {number}"))));
            assert_eq!(raw.json()["type"], "registered");
            // Each of these waits for another loop, most likely; the last goes by alias, which does so too.
            let mut bytes: Vec<u8> = (0..10)
                .flat_map(|n| framed(&join(&format!("room {n} of {number}"))))
                .collect();
            bytes.extend(framed(&join("hall")));
            let relay = json!({ "type": "relay", "to": receiver.fingerprint, "payload": number });
            bytes.extend(framed(&relay));
            raw.send(&bytes);
            raw.wire.shutdown_write();
            receiver.next("peer_joined");
            assert_eq!(receiver.next("relay")["payload"], number);
            receiver.next("peer_left");
        }
        wait_for_peers(&server, 1);
        wait_for_metric(&server, "peer_server_namespaces", 1);
        wait_for_metric(&server, "peer_server_connections_paused", 0);
    }
}

#[test]
fn a_message_to_an_alias_is_sent_though_its_sender_ends() {
    let server = serve(json!({ "loops": 4 }));
    let mut receiver = Peer::register_as(
        server.addr(),
        ConnectOptions::default(),
        json!({ "public_key": "receiver", "alias": "the-one" }),
    );
    receiver.join("hall");
    for number in 0..20 {
        let mut raw = Raw::upgraded(server.addr());
        let relay = json!({ "type": "relay", "to": "the-one", "payload": number });
        let bytes: Vec<u8> = [register(&format!("sender {number}")), join("hall"), relay]
            .iter()
            .flat_map(framed)
            .collect();
        raw.send(&bytes);
        raw.wire.shutdown_write();
        receiver.next("peer_joined");
        assert_eq!(receiver.next("relay")["payload"], number);
        receiver.next("peer_left");
        raw.rest(STATE_WITHIN);
    }
}

#[test]
fn a_reset_ends_the_session_once() {
    for loops in [1, 2, 4] {
        let server = serve(json!({ "loops": loops }));
        let mut witness = Peer::register(server.addr(), "witness");
        witness.join("hall");
        for number in 0..20 {
            let mut peer = Peer::register(server.addr(), &format!("peer {number}"));
            peer.join("hall");
            witness.next("peer_joined");
            if number % 2 == 0 {
                // Requests that nobody waits for.
                let requests: Vec<_> = (0..10)
                    .map(|n| Frame::text(join(&format!("room {n}")).to_string()))
                    .collect();
                peer.client.try_send_frames(&requests).unwrap();
            }
            let fingerprint = peer.fingerprint.clone();
            peer.client.reset_tcp();
            assert_eq!(witness.client.recv_json()["from"], fingerprint.as_str());
        }
        witness.expect_nothing_but_a_pong();
        wait_for_peers(&server, 1);
        wait_for_metric(&server, "peer_server_namespaces", 1);
        wait_for_metric(&server, "peer_server_connections_paused", 0);
    }
}

#[test]
fn whoever_only_half_closes_is_not_kept() {
    let server = serve(json!({ "loops": 2 }));
    let mut raw = Raw::upgraded(server.addr());
    raw.send(&framed(&register("half")));
    assert_eq!(raw.json()["type"], "registered");
    raw.wire.shutdown_write();
    raw.rest(STATE_WITHIN);
    wait_for_peers(&server, 0);
}

#[test]
fn last_words_reach_a_client_that_is_still_sending() {
    let server = serve(json!({ "loops": 2 }));
    for _ in 0..20 {
        let mut raw = Raw::upgraded(server.addr());
        // Refused, and then a lot that nobody reads: closing at once would reset the connection under the answer.
        let mut bytes = framed(&json!({ "type": "join" }));
        bytes.extend(framed(&json!({ "type": "relay", "payload": "x".repeat(50_000) })));
        raw.send(&bytes);
        assert_eq!(raw.json()["payload"]["message"], "first message must be register");
        let (opcode, payload) = raw.frame();
        assert_eq!((opcode, &payload[2..]), (Opcode::CLOSE, &b"invalid registration"[..]));
    }
    wait_for_metric(&server, "peer_server_connections{state=\"closing\"}", 0);
}
