//! Presence in large namespaces: it waits for more of it, and nobody can tell but by the clock.

use std::time::Duration;

use serde_json::{Value, json};

use crate::scene::{Peer, join, metric, serve, wait_for_metric, wait_until};
use crate::support::{Certificate, ConnectOptions, Event, Frame, Server, WireOptions, trust_anything};

/// Two members are few, three are many.
fn server(loops: u32, more: Value) -> Server {
    let mut config = json!({ "loops": loops, "presence_window_from": 2, "rate_limit_per_sec": 0 });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    serve(config)
}

fn member(server: &Server, key: &str) -> Peer {
    member_as(server, key, ConnectOptions::default())
}

fn member_as(server: &Server, key: &str, options: ConnectOptions) -> Peer {
    let mut peer = Peer::register_as(server.addr(), options, json!({ "public_key": key }));
    peer.join("hall");
    peer
}

fn over_tls(tls: bool) -> ConnectOptions {
    ConnectOptions {
        wire: WireOptions {
            tls: tls.then(|| trust_anything(&[], &[])),
            ..WireOptions::default()
        },
        ..ConnectOptions::default()
    }
}

fn leave(namespace: &str) -> Value {
    json!({ "type": "leave", "payload": { "namespace": namespace } })
}

fn writes(server: &Server) -> u64 {
    metric(server, "peer_server_presence_writes_total")
}

/// Messages in one write: on one loop they are handled in one turn.
fn send_all(peer: &Peer, messages: &[Value]) {
    let frames: Vec<Frame> = messages
        .iter()
        .map(|message| Frame::text(message.to_string()))
        .collect();
    peer.client.try_send_frames(&frames).unwrap();
}

#[test]
fn who_comes_and_goes_is_told_without_any_other_traffic() {
    for loops in [1, 2] {
        let server = server(loops, json!({}));
        let mut members: Vec<Peer> = (0..4)
            .map(|number| member(&server, &format!("member {number}")))
            .collect();
        let guest = member(&server, "guest");
        for peer in &mut members {
            while peer.next("peer_joined")["from"] != guest.fingerprint.as_str() {}
        }
        let from = guest.fingerprint.clone();
        guest.client.drop_tcp();
        for peer in &mut members {
            assert_eq!(peer.next("peer_left")["from"], from.as_str());
        }
        wait_until(|| writes(&server) > 0, || "nothing waited".to_owned());
        wait_for_metric(&server, "peer_server_output_bytes", 0);
        wait_for_metric(&server, "peer_server_pool_blocks_taken", 0);
    }
}

#[test]
fn presence_comes_before_whatever_is_sent_after_it() {
    let certificate = Certificate::generate();
    for (loops, tls) in [(1, false), (2, false), (1, true)] {
        let more = match tls {
            true => json!({ "tls_cert": certificate.chain(), "tls_key": certificate.key() }),
            false => json!({}),
        };
        let server = server(loops, more);
        let mut listener = member_as(&server, "listener", over_tls(tls));
        let old = member_as(&server, "old", over_tls(tls));
        member_as(&server, "third", over_tls(tls)).round_trip();
        for number in 0..20 {
            let mut new = Peer::register_as(
                server.addr(),
                over_tls(tls),
                json!({ "public_key": format!("new {number}") }),
            );
            new.join("hall");
            // It has its answer, so the others' loops have its news, or will before anything of it.
            let (from, other) = (new.fingerprint.clone(), number % 2 == 0 && loops == 1);
            let sender = if other { &old } else { &new };
            sender.relay(&listener.fingerprint, json!(number));
            let mut seen = Vec::new();
            while seen.last() != Some(&format!("relay {number}")) {
                let message = listener.client.recv_json();
                seen.push(match message["type"].as_str().unwrap() {
                    "relay" => format!("relay {}", message["payload"]),
                    kind => format!("{kind} {}", message["from"].as_str().unwrap()),
                });
            }
            assert!(seen.contains(&format!("peer_joined {from}")), "{seen:?} without {from}");
            drop(new);
        }
    }
}

#[test]
fn all_that_waits_arrives_before_a_close() {
    let mut server = server(1, json!({ "drain_timeout": "4s" }));
    let mut members: Vec<Peer> = (0..3)
        .map(|number| member(&server, &format!("member {number}")))
        .collect();
    let guest = member(&server, "guest");
    server.signal("TERM");
    for peer in &mut members {
        let mut heard = false;
        loop {
            match peer.client.recv_content(Duration::from_secs(10)) {
                Some(Event::Message { payload, .. }) => {
                    let message: Value = serde_json::from_slice(&payload).unwrap();
                    heard |= message["from"] == guest.fingerprint.as_str();
                }
                Some(Event::Close { code: Some(1001), .. }) => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(heard, "who came before the server went");
    }
    drop((members, guest));
    assert!(server.wait_exit(Duration::from_secs(10)).success());
}

#[test]
fn what_waits_does_not_count_as_buffered() {
    const TIMES: usize = 40;
    let server = server(1, json!({ "send_buffer_size": 1, "presence_window_from": 1 }));
    let mut listener = member(&server, "listener");
    let mut guest = Peer::register(server.addr(), "guest");
    let mut third = member(&server, "third");
    for peer in [&mut listener, &mut guest, &mut third] {
        peer.join("lounge");
    }
    // Forty times as many messages as may be buffered, and ten times as many as the server may.
    let mut messages: Vec<Value> = (0..TIMES).flat_map(|_| [join("hall"), leave("hall")]).collect();
    messages.push(json!({ "type": "relay", "to": listener.fingerprint, "payload": "after all" }));
    send_all(&guest, &messages);
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "relay") {
        let message = listener.client.recv_json();
        if message["namespace"] != "lounge" && message["from"] == guest.fingerprint.as_str() {
            kinds.push(message["type"].as_str().unwrap().to_owned());
        }
    }
    let wanted: Vec<&str> = std::iter::repeat_n(["peer_joined", "peer_left"], TIMES)
        .flatten()
        .chain(["relay"])
        .collect();
    assert_eq!(kinds, wanted);
    for _ in 0..TIMES {
        guest.next("peer_list");
    }
    guest.expect_nothing_but_a_pong();
    assert_eq!(metric(&server, "peer_server_slow_consumers_total"), 0);
}

#[test]
fn who_does_not_read_is_closed_with_1013_and_the_others_hear_on() {
    for loops in [1, 2] {
        let server = server(loops, json!({ "send_buffer_size": 4, "socket_send_bytes": 4096 }));
        let mut narrow = ConnectOptions::default();
        narrow.wire.receive_buffer_bytes = Some(4096);
        let mut slow = member_as(&server, "slow", narrow);
        let mut others: Vec<Peer> = (0..3)
            .map(|number| member(&server, &format!("other {number}")))
            .collect();
        let mut noisy = member(&server, "noisy");
        slow.next("peer_joined");
        slow.client.pause_reading();
        let again =
            json!({ "type": "join", "payload": { "namespace": "hall", "meta": { "padding": "x".repeat(4000) } } });
        let mut joins = 0;
        while metric(&server, "peer_server_slow_consumers_total") == 0 {
            noisy.client.send_json(&again);
            noisy.next("peer_list");
            // They read what they are sent, so that only one of all does not.
            others.iter_mut().for_each(Peer::round_trip);
            joins += 1;
            assert!(joins < 500, "a peer that does not read is kept");
        }
        assert!(joins > 16, "{joins} messages: less than four times the buffer");
        let mut last = member(&server, "last");
        for other in others.iter_mut().chain([&mut noisy]) {
            while other.next("peer_joined")["from"] != last.fingerprint.as_str() {}
        }
        last.round_trip();
        slow.client.resume_reading();
        let mut seen = 0;
        let end = loop {
            match slow.client.recv_content(Duration::from_secs(3)) {
                Some(Event::Message { .. }) => seen += 1,
                other => break other,
            }
        };
        assert!(
            matches!(&end, Some(Event::Close { code: Some(1013), reason }) if reason == "send buffer full"),
            "{end:?}"
        );
        assert!(seen >= 16, "{seen}");
        wait_for_metric(&server, "peer_server_output_bytes", 0);
        wait_for_metric(&server, "peer_server_pool_blocks_taken", 0);
    }
}

/// What a listener hears of a lively evening, without the clock.
fn evening(config: Value) -> (Vec<Vec<Value>>, Server) {
    let server = server(1, config);
    let offering = |offer: Option<&str>| ConnectOptions {
        extensions: offer.map(str::to_owned),
        ..ConnectOptions::default()
    };
    let mut listeners: Vec<Peer> = [None, Some("permessage-deflate"), None, None]
        .into_iter()
        .enumerate()
        .map(|(number, offer)| member_as(&server, &format!("listener {number}"), offering(offer)))
        .collect();
    // The first and the third are in two large namespaces, the fourth in a small one as well.
    listeners[0].join("arena");
    listeners[2].join("arena");
    listeners[3].join("nook");
    let mut guests: Vec<Peer> = (0..6)
        .map(|number| Peer::register(server.addr(), &format!("guest {number}")))
        .collect();
    let in_all = |meta: &str| -> Vec<Value> {
        let join =
            |namespace: &str| json!({ "type": "join", "payload": { "namespace": namespace, "meta": { "is": meta } } });
        vec![join("hall"), join("arena"), join("nook")]
    };
    let broadcast = json!({ "type": "broadcast", "payload": { "namespace": "hall", "data": 1 } });
    for (number, guest) in guests.iter_mut().enumerate() {
        let mut messages = in_all(&"long ".repeat(number * 40));
        // Again, which it is not told itself.
        messages.push(join("hall"));
        messages.push(broadcast.clone());
        messages.extend([leave("arena"), join("arena"), leave("nook")]);
        messages.push(json!({ "type": "relay", "to": listeners[number % 4].fingerprint, "payload": number }));
        messages.push(json!({ "type": "relay", "to": listeners[2].fingerprint, "payload": number }));
        messages.push(json!({ "type": "ping" }));
        send_all(guest, &messages);
        guest.next("pong");
        // More than may wait for a connection, without anything else that would take it along.
        let mut messages = vec![leave("hall")];
        messages.extend((0..60).flat_map(|_| [join("arena"), leave("arena")]));
        messages.push(json!({ "type": "ping" }));
        send_all(guest, &messages);
        guest.next("pong");
    }
    // One after another, and none of them is told anything that could send on what waits for the listeners.
    for guest in guests.iter_mut().rev() {
        guest.client.send_json(&join("hall"));
        guest.round_trip();
    }
    let farewell = json!({ "type": "relay", "to": "", "payload": "farewell" });
    let mut heard = Vec::new();
    for listener in &mut listeners {
        let mut messages = Vec::new();
        let mut last = farewell.clone();
        last["to"] = json!(listener.fingerprint);
        guests[0].client.send_json(&last);
        loop {
            let mut message = listener.client.recv_json();
            if message["payload"] == "farewell" {
                break;
            }
            message.as_object_mut().unwrap().remove("ts");
            messages.push(message);
        }
        heard.push(messages);
    }
    // The first to come back is sent nothing but who came after it.
    while guests[5].next("peer_joined")["from"] != guests[0].fingerprint.as_str() {}
    wait_for_metric(&server, "peer_server_pool_blocks_taken", 0);
    (heard, server)
}

#[test]
fn with_and_without_the_window_everybody_hears_the_same() {
    let window = |window: &str| json!({ "presence_window": window, "compression_enabled": true });
    let ((with, waiting), (without, at_once)) = (evening(window("100ms")), evening(window("0")));
    wait_until(|| writes(&waiting) > 0, || "nothing waited".to_owned());
    assert_eq!(writes(&at_once), 0);
    for (number, (with, without)) in with.iter().zip(&without).enumerate() {
        assert!(without.len() > 10);
        assert_eq!(with, without, "listener {number}");
    }
}
