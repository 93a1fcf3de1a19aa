//! A connection moves to the home loop of its key at registration, with everything that was read of it and not done.
//!
//! Every key is another one, so on four loops three of four connections move.

use std::time::Duration;

use serde_json::{Value, json};

use crate::scene::{
    Raw, TABLES, UPGRADE, framed, join, metric, over_tls, register, serve, wait_for_metric, wait_until,
};
use crate::support::{Certificate, Frame, Opcode, Server, WireOptions, deflate};

fn server(tls: Option<&Certificate>, more: Value) -> Server {
    let mut config = json!({ "loops": 4 });
    if let Some(certificate) = tls {
        config["tls_cert"] = json!(certificate.chain());
        config["tls_key"] = json!(certificate.key());
    }
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    serve(config)
}

/// What a hasty client sends: it registers, joins, and talks to itself.
fn first_messages(key: &str) -> Vec<Value> {
    let own = crate::scene::fingerprint_of(key);
    vec![
        register(key),
        join(&format!("hall of {key}")),
        json!({ "type": "signal", "to": own, "payload": { "signal_type": "offer", "sdp": "v=0\r\n" } }),
        json!({ "type": "ping" }),
    ]
}

fn expect_answers(raw: &mut Raw, what: &str) {
    for kind in ["registered", "peer_list", "signal", "pong"] {
        assert_eq!(raw.json()["type"], kind, "{what}");
    }
}

fn upgraded(server: &Server, options: &WireOptions) -> Raw {
    let mut raw = Raw::open_with(server.addr(), options);
    raw.send(UPGRADE.as_bytes());
    raw.switch();
    raw
}

fn assert_most_moved(server: &Server, connections: u64) {
    wait_until(
        || metric(server, "peer_server_connections_moved_total") > connections / 2,
        || format!("most of {connections} connections moved"),
    );
    wait_for_metric(server, "peer_server_connections_paused", 0);
    wait_for_metric(server, "peer_server_pool_blocks_taken", 0);
}

#[test]
fn messages_in_the_segment_of_the_upgrade_are_not_lost() {
    for (loops, tables) in [(1, "per_loop"), (2, "per_loop"), (4, "per_loop"), (4, "shared")] {
        let server = server(None, json!({ "loops": loops, "descriptor_tables": tables }));
        for number in 0..60 {
            let key = format!("key {number}");
            let mut bytes = UPGRADE.as_bytes().to_vec();
            first_messages(&key)
                .iter()
                .for_each(|message| bytes.extend(framed(message)));
            let mut raw = Raw::open(server.addr());
            raw.send(&bytes);
            raw.switch();
            expect_answers(&mut raw, &key);
        }
        if loops == 4 {
            assert_most_moved(&server, 60);
        }
    }
}

#[test]
fn messages_in_the_segment_of_the_upgrade_are_not_lost_under_tls() {
    let certificate = Certificate::generate();
    for tables in TABLES {
        let server = server(Some(&certificate), json!({ "descriptor_tables": tables }));
        for number in 0..60 {
            let key = format!("key {number}");
            let mut bytes = UPGRADE.as_bytes().to_vec();
            first_messages(&key)
                .iter()
                .for_each(|message| bytes.extend(framed(message)));
            let mut raw = Raw::open_with(server.addr(), &over_tls());
            raw.send(&bytes);
            raw.switch();
            expect_answers(&mut raw, &key);
        }
        assert_most_moved(&server, 60);
    }
}

#[test]
fn an_upgrade_and_its_messages_behind_a_status_page_are_not_lost() {
    let server = server(None, json!({}));
    for page in ["/health", "/stats"] {
        for number in 0..40 {
            let key = format!("key {number} behind {page}");
            let mut bytes = format!("GET {page} HTTP/1.1\r\nHost: a\r\n\r\n{UPGRADE}").into_bytes();
            first_messages(&key)
                .iter()
                .for_each(|message| bytes.extend(framed(message)));
            let mut raw = Raw::open(server.addr());
            raw.send(&bytes);
            assert!(raw.head().starts_with("HTTP/1.1 200 "));
            // The body of the page stands before the head of the upgrade.
            assert!(raw.head().contains("HTTP/1.1 101 "));
            expect_answers(&mut raw, &key);
        }
    }
    assert_most_moved(&server, 80);
}

/// One connection for every place at which the bytes can be cut in two.
fn cut_everywhere(server: &Server, options: &WireOptions) -> u64 {
    let mut connections = 0;
    for at in 1.. {
        // The mask is another one each time, the length is not.
        let key = format!("key {at:03}");
        let bytes: Vec<u8> = first_messages(&key).iter().flat_map(framed).collect();
        let Some((first, second)) = bytes.split_at_checked(at).filter(|(_, second)| !second.is_empty()) else {
            break;
        };
        let mut raw = upgraded(server, options);
        raw.send(first);
        // Gives the server a chance to see the first part alone. Under TLS it is a record of its own anyhow.
        std::thread::sleep(Duration::from_micros(300));
        raw.send(second);
        expect_answers(&mut raw, &format!("cut at {at}"));
        connections += 1;
    }
    assert!(connections > 250, "{connections} cuts");
    connections
}

#[test]
fn the_first_frames_may_be_cut_anywhere() {
    let server = server(None, json!({}));
    let connections = cut_everywhere(&server, &WireOptions::default());
    assert_most_moved(&server, connections);
}

#[test]
fn the_first_frames_may_be_cut_anywhere_under_tls() {
    let certificate = Certificate::generate();
    let server = server(Some(&certificate), json!({}));
    let connections = cut_everywhere(&server, &over_tls());
    assert_most_moved(&server, connections);
}

#[test]
fn a_register_message_in_fragments_moves() {
    let certificate = Certificate::generate();
    for tls in [None, Some(&certificate)] {
        let server = server(tls, json!({}));
        let options = if tls.is_some() {
            over_tls()
        } else {
            WireOptions::default()
        };
        for number in 0..60 {
            let key = format!("key {number}");
            let messages = first_messages(&key);
            let text = messages[0].to_string();
            let (first, rest) = text.split_at(10 + number % 20);
            let (second, third) = rest.split_at(10);
            let mut raw = upgraded(&server, &options);
            let fragments = [
                Frame::text(first).more(),
                Frame::new(Opcode::PING, *b"between"),
                Frame::new(Opcode::CONTINUATION, second).more(),
                Frame::new(Opcode::CONTINUATION, third),
            ];
            // The whole of it at once, or the last fragment and what follows in a segment of their own.
            let mut bytes: Vec<u8> = fragments[..3].iter().flat_map(Frame::encode).collect();
            if number % 2 == 0 {
                raw.send(&bytes);
                assert_eq!(raw.frame(), (Opcode::PONG, b"between".to_vec()));
                bytes.clear();
            }
            bytes.extend(fragments[3].encode());
            messages[1..].iter().for_each(|message| bytes.extend(framed(message)));
            raw.send(&bytes);
            if number % 2 == 1 {
                assert_eq!(raw.frame(), (Opcode::PONG, b"between".to_vec()));
            }
            expect_answers(&mut raw, &key);
        }
        assert_most_moved(&server, 60);
    }
}

#[test]
fn what_was_negotiated_moves_along() {
    let server = server(None, json!({ "compression_enabled": true }));
    for number in 0..60 {
        let key = format!("key {number}");
        let head = UPGRADE.replacen("\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n", 1);
        let mut raw = Raw::open(server.addr());
        raw.send(head.as_bytes());
        assert!(raw.head().contains("permessage-deflate"));
        let bytes: Vec<u8> = first_messages(&key)
            .iter()
            .flat_map(|message| Frame::compressed_text(&message.to_string()).encode())
            .collect();
        raw.send(&bytes);
        expect_answers(&mut raw, &key);
    }
    assert_most_moved(&server, 60);
    assert!(!deflate(b"x").is_empty());
}

#[test]
fn a_connection_that_ends_while_it_moves_leaves_nothing_behind() {
    TABLES.iter().for_each(|tables| nothing_is_left(tables));
}

fn nothing_is_left(tables: &str) {
    let server = server(None, json!({ "descriptor_tables": tables }));
    for number in 0..200 {
        let raw = {
            let mut raw = Raw::open(server.addr());
            raw.send(UPGRADE.as_bytes());
            raw.switch();
            raw
        };
        let bytes: Vec<u8> = first_messages(&format!("key {number}"))
            .iter()
            .flat_map(framed)
            .collect();
        raw.send(&bytes);
        if number % 2 == 0 {
            raw.wire.reset_on_close();
        }
        drop(raw);
    }
    for gauge in [
        "peer_server_peers",
        "peer_server_namespaces",
        "peer_server_aliases",
        "peer_server_connections{state=\"unregistered\"}",
        "peer_server_connections{state=\"registered\"}",
        "peer_server_connections{state=\"closing\"}",
        "peer_server_connections_paused",
        "peer_server_pool_blocks_taken",
    ] {
        wait_for_metric(&server, gauge, 0);
    }
    crate::scene::wait_for_peers(&server, 0);
}
