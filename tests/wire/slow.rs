//! A peer that does not read: bounded, told to those who send to it, and nobody else's business.

use std::time::Duration;

use serde_json::json;

use crate::scene::{Peer, metric, serve, wait_for_metric, wait_until};
use crate::support::{Certificate, Client, ConnectOptions, Event, Server, WireOptions, trust_anything};

/// A buffer of four messages, and as little as can be in the kernel.
fn server(loops: u32, more: serde_json::Value) -> Server {
    let mut config = json!({
        "loops": loops, "send_buffer_size": 4, "socket_send_bytes": 4096, "rate_limit_per_sec": 0
    });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    serve(config)
}

fn narrow(tls: bool) -> ConnectOptions {
    ConnectOptions {
        wire: WireOptions {
            receive_buffer_bytes: Some(4096),
            tls: tls.then(|| trust_anything(&[], &[])),
            ..WireOptions::default()
        },
        ..ConnectOptions::default()
    }
}

fn member(server: &Server, key: &str, options: ConnectOptions) -> Peer {
    let mut peer = Peer::register_as(server.addr(), options, json!({ "public_key": key }));
    peer.join("hall");
    peer
}

fn padding() -> String {
    "x".repeat(4000)
}

/// Sends until the first refusal; what was sent and not refused is at the receiver or on its way.
fn fill(sender: &mut Peer, slow: &Peer) {
    for _ in 0..200 {
        sender.relay(&slow.fingerprint, json!(padding()));
        // The refusal of another loop may come after the pong: then the next turn sees it.
        sender.client.send_json(&json!({ "type": "ping" }));
        let mut answer = sender.client.recv_json();
        if answer["type"] == "error" {
            assert_eq!(
                answer["payload"],
                json!({ "code": 429, "message": "peer send buffer full" })
            );
            while answer["type"] != "pong" {
                answer = sender.client.recv_json();
            }
            return;
        }
    }
    panic!("200 messages to a peer that does not read were taken");
}

fn every_message_is_delivered_or_refused(loops: u32, tls: Option<&Certificate>) {
    const SENT: usize = 100;
    let more = tls.map_or(
        json!({}),
        |certificate| json!({ "tls_cert": certificate.chain(), "tls_key": certificate.key() }),
    );
    let server = server(loops, more);
    let mut slow = member(&server, "slow", narrow(tls.is_some()));
    let mut sender = member(&server, "sender", narrow(tls.is_some()));
    slow.next("peer_joined");
    slow.client.pause_reading();
    for number in 0..SENT {
        sender.relay(&slow.fingerprint, json!({ "number": number, "padding": padding() }));
    }
    sender.expect_error(429, "peer send buffer full");
    slow.client.resume_reading();
    let (mut delivered, mut refused) = (Vec::new(), 1);
    wait_until(
        || {
            while let Some(error) = sender.try_next(Duration::ZERO) {
                assert_eq!(error["payload"]["message"], "peer send buffer full");
                refused += 1;
            }
            while let Some(relay) = slow.try_next(Duration::from_millis(10)) {
                delivered.push(relay["payload"]["number"].as_u64().unwrap());
            }
            delivered.len() + refused == SENT
        },
        || "every message delivered or refused".to_owned(),
    );
    assert!(delivered.is_sorted_by(|a, b| a < b), "{delivered:?}");
    assert!(
        delivered.len() >= 4 && refused > SENT / 2,
        "{refused} refused: the buffer is not what was configured"
    );
    sender.expect_nothing_but_a_pong();
    slow.expect_nothing_but_a_pong();
}

#[test]
fn every_message_to_a_peer_that_does_not_read_is_delivered_or_refused_on_one_loop() {
    every_message_is_delivered_or_refused(1, None);
}

#[test]
fn every_message_to_a_peer_that_does_not_read_is_delivered_or_refused_on_two_loops() {
    every_message_is_delivered_or_refused(2, None);
}

#[test]
fn every_message_to_a_peer_that_does_not_read_is_delivered_or_refused_on_four_loops() {
    every_message_is_delivered_or_refused(4, None);
}

#[test]
fn every_message_to_a_peer_that_does_not_read_is_delivered_or_refused_under_tls() {
    every_message_is_delivered_or_refused(2, Some(&Certificate::generate()));
}

#[test]
fn a_broadcast_tells_how_many_could_not_take_it_and_reaches_the_others() {
    for loops in [1, 4] {
        let server = server(loops, json!({}));
        let mut slow: Vec<Peer> = (0..3)
            .map(|n| member(&server, &format!("slow {n}"), narrow(false)))
            .collect();
        let mut reader = member(&server, "reader", ConnectOptions::default());
        let mut sender = member(&server, "sender", ConnectOptions::default());
        slow.iter().for_each(|peer| peer.client.pause_reading());
        slow.iter().for_each(|peer| fill(&mut sender, peer));

        // What the kernel still took makes room for one message more, but not for ever.
        let mut refused = 0;
        for number in 0..20 {
            let payload = json!({ "namespace": "hall", "data": { "number": number, "padding": padding() } });
            sender
                .client
                .send_json(&json!({ "type": "broadcast", "payload": payload }));
            assert_eq!(reader.next("broadcast")["payload"]["data"]["number"], number);
            // Late refusals of relays may stand between.
            while let Some(error) = sender.try_next(Duration::from_millis(50)) {
                let text = error["payload"]["message"].as_str().unwrap().to_owned();
                if let Some(count) = text
                    .strip_prefix("send buffer full for ")
                    .and_then(|t| t.strip_suffix(" peers"))
                {
                    assert_eq!(error["payload"]["code"], 429);
                    refused = count.parse().unwrap();
                    assert!(refused <= 3, "{error}");
                } else {
                    assert_eq!(text, "peer send buffer full");
                }
            }
            if refused == 3 {
                break;
            }
        }
        assert_eq!(refused, 3);
        for peer in &mut slow {
            peer.client.resume_reading();
            peer.round_trip();
        }
    }
}

#[test]
fn a_peer_that_does_not_read_what_the_server_has_to_say_is_closed_with_1013() {
    for loops in [1, 2] {
        let server = server(loops, json!({}));
        let mut slow = member(&server, "slow", narrow(false));
        let mut noisy = member(&server, "noisy", ConnectOptions::default());
        let mut witness = member(&server, "witness", ConnectOptions::default());
        let mut bystander = Peer::register(server.addr(), "bystander");
        slow.next("peer_joined");
        slow.client.pause_reading();
        let again =
            json!({ "type": "join", "payload": { "namespace": "hall", "meta": { "padding": "x".repeat(4000) } } });
        let mut joins = 0;
        while metric(&server, "peer_server_slow_consumers_total") == 0 {
            noisy.client.send_json(&again);
            noisy.next("peer_list");
            bystander.round_trip();
            joins += 1;
            assert!(joins < 200, "a peer that does not read is kept");
        }
        assert!(joins > 16, "{joins} messages: less than four times the buffer");
        assert_eq!(witness.next("peer_left")["from"], slow.fingerprint.as_str());
        wait_for_metric(&server, "peer_server_closes_total{code=\"1013\"}", 1);

        // Whoever reads again in time learns why.
        slow.client.resume_reading();
        let mut seen = 0;
        let end = loop {
            match slow.client.recv_content(Duration::from_secs(3)) {
                Some(Event::Message { .. }) => seen += 1,
                other => break other,
            }
        };
        let Some(Event::Close {
            code: Some(1013),
            reason,
        }) = end
        else {
            panic!("{end:?} after {seen} messages")
        };
        assert_eq!(reason, "send buffer full");
        assert!(seen >= 16, "{seen}");
        wait_for_metric(&server, "peer_server_connections{state=\"closing\"}", 0);
        wait_for_metric(&server, "peer_server_pool_blocks_taken", 0);
    }
}

#[test]
fn a_peer_that_takes_no_byte_for_the_write_timeout_is_closed() {
    for loops in [1, 2] {
        let server = server(loops, json!({ "write_timeout": "400ms" }));
        let slow = member(&server, "slow", narrow(false));
        let mut sender = member(&server, "sender", ConnectOptions::default());
        slow.client.pause_reading();
        fill(&mut sender, &slow);
        while sender.next_but_late_refusals()["type"] != "peer_left" {}
        wait_for_metric(&server, "peer_server_write_timeouts_total", 1);
        wait_for_metric(&server, "peer_server_connections{state=\"registered\"}", 1);
        wait_for_metric(&server, "peer_server_output_bytes", 0);
        sender.round_trip();
    }
}

impl Peer {
    fn next_but_late_refusals(&mut self) -> serde_json::Value {
        loop {
            let message = self.client.recv_json();
            if message["payload"]["message"] != "peer send buffer full" {
                return message;
            }
        }
    }
}

#[test]
fn a_burst_to_a_peer_that_reads_arrives_complete_and_in_order() {
    for loops in [1, 2, 4] {
        let server = serve(json!({ "loops": loops }));
        let mut receiver = member(&server, "receiver", ConnectOptions::default());
        let sender = member(&server, "sender", ConnectOptions::default());
        let burst: Vec<_> = (0..150)
            .map(|number| {
                crate::support::Frame::text(
                    json!({ "type": "relay", "to": receiver.fingerprint, "payload": { "number": number, "text": "x".repeat(1000) } })
                        .to_string(),
                )
            })
            .collect();
        sender.client.try_send_frames(&burst).unwrap();
        for number in 0..150 {
            assert_eq!(receiver.next("relay")["payload"]["number"], number, "on {loops} loops");
        }
    }
}

#[test]
fn a_flood_of_pings_from_a_peer_that_does_not_read_ends_in_1013() {
    let server = server(1, json!({}));
    let client = Client::connect(server.addr(), narrow(false));
    client.pause_reading();
    let ping = crate::support::Frame::new(crate::support::Opcode::PING, [b'x'; 125]);
    let flood = vec![ping; 1000];
    let _ = client.try_send_frames(&flood);
    wait_until(
        || metric(&server, "peer_server_slow_consumers_total") == 1,
        || "the flood's end".to_owned(),
    );
    assert!(metric(&server, "peer_server_output_bytes") < 64 * 1024);
}
