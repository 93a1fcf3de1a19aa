//! One node's side of traffic between nodes: what its peers send away, what others send to them, and every refusal.
//!
//! Owns: scenes with one real node, whose broker and neighbours are the test.
//! Never: looks at how a broker keeps or moves anything.

use peer_server::codec::node_traffic::{
    Broadcast, Direct, Frame, Kind, Reason, Refused, push_broadcast, push_direct, push_refused,
};
use peer_server::ids::{Fingerprint, NodeNo};
use peer_server::message::cluster::What;
use serde_json::{Value, json};

use crate::broker::{Node, Peer, hex};
use crate::support::{Client, ConnectOptions, WireOptions};

const NODES: [NodeNo; 2] = [NodeNo::new(1).unwrap(), NodeNo::new(2).unwrap()];

/// Each scene on one loop and on three: what is one step there is mail here.
fn on_nodes(scene: fn(Node)) {
    for loops in [1, 3] {
        scene(Node::start(loops));
    }
}

/// A signal of a peer elsewhere.
fn signal_from(node: &Node, from: &Fingerprint, to: &Fingerprint, namespaces: &[&str], payload: &str) -> Vec<u8> {
    let mut shares: Vec<[u8; 16]> = namespaces.iter().map(|name| node.namespace(name)).collect();
    shares.sort_unstable_by_key(|id| u128::from_le_bytes(*id));
    let direct = Direct {
        kind: Kind::Signal,
        to: to.as_bytes(),
        from: from.as_bytes(),
        session: 1,
        about: None,
        payload: Some(payload),
    };
    let mut frames = Vec::new();
    push_direct(&mut frames, &direct, shares.into_iter());
    frames
}

fn broadcast_from(node: &Node, from: &Fingerprint, name: &str, payload: &Value) -> Vec<u8> {
    let mut frames = Vec::new();
    let broadcast = Broadcast {
        namespace: node.namespace(name),
        from: from.as_bytes(),
        session: 1,
        name,
        payload: &payload.to_string(),
    };
    push_broadcast(&mut frames, &broadcast);
    frames
}

/// A message of that peer was refused elsewhere.
fn refusal_for(peer: &Peer, target: &Fingerprint, reason: Reason) -> Vec<u8> {
    let mut frames = Vec::new();
    let refused = Refused {
        to: peer.fingerprint.as_bytes(),
        session: peer.session.as_u64(),
        target: target.as_bytes(),
        reason,
    };
    push_refused(&mut frames, &refused);
    frames
}

/// The payload of the next signal that is sent to that node.
fn payload_sent_to(node: &mut Node, to: NodeNo) -> String {
    node.sent_to(to, |frame| match frame {
        Frame::Direct(direct, _) => direct.payload.unwrap().to_owned(),
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_signal_leaves_for_the_node_that_was_found_and_is_sought_once() {
    on_nodes(|mut node| {
        let mut sender = node.peer("sender");
        sender.join("lobby");
        sender.join("attic");
        let target = node.remote_member(NODES[0], "target", "lobby");
        sender.await_type("peer_joined");
        for number in 0..3 {
            let payload = r#"{ "n":1.0,"é":"\u00e9" }"#;
            let text = format!(
                r#"{{"type":"signal","to":"{}","namespace":"{}","payload":{payload}}}"#,
                hex(target),
                ["lobby", "l\\u006fbby", "cellar"][number],
            );
            sender.client.send_text(&text);
            let mut shares = [node.namespace("lobby"), node.namespace("attic")];
            shares.sort_unstable_by_key(|id| u128::from_le_bytes(*id));
            let lobby = node.namespace("lobby");
            let about = [Some((lobby, "lobby")), Some((lobby, "l\\u006fbby")), None][number];
            node.sent_to(NODES[0], |frame| {
                let direct = Direct {
                    kind: Kind::Signal,
                    to: target.as_bytes(),
                    from: sender.fingerprint.as_bytes(),
                    session: sender.session.as_u64(),
                    about,
                    payload: Some(payload),
                };
                assert_eq!(frame, Frame::Direct(direct, &shares));
            });
        }
        assert_eq!(node.times_sought(target), 1);
        sender.expect_silence();
        node.expect_nothing_sent();
    });
}

#[test]
fn what_waited_for_the_answer_leaves_before_what_came_later() {
    for loops in [1, 3] {
        // As many may wait as come here before the answer is heard.
        let mut node = Node::with(loops, |config| config.send_buffer_size = 100);
        let mut sender = node.peer("sender");
        sender.join("lobby");
        let target = node.remote_member(NODES[1], "target", "lobby");
        sender.await_type("peer_joined");
        node.withhold(|what| matches!(what, What::Find { .. }));
        (0..10).for_each(|number| sender.signal(target, &json!(number)));
        node.await_withheld(1);
        node.answer();
        (10..100).for_each(|number| sender.signal(target, &json!(number)));
        for number in 0..100 {
            assert_eq!(payload_sent_to(&mut node, NODES[1]), number.to_string());
        }
        assert_eq!(node.times_sought(target), 1);
    }
}

#[test]
fn nobody_anywhere_is_not_found() {
    on_nodes(|mut node| {
        let mut sender = node.peer("sender");
        sender.join("lobby");
        sender.signal(Fingerprint::of_key("nobody"), &json!(1));
        sender.expect_error(404, "peer not found");
        node.expect_nothing_sent();
    });
}

#[test]
fn a_refusal_from_elsewhere_is_the_senders() {
    on_nodes(|mut node| {
        let mut sender = node.peer("sender");
        sender.join("lobby");
        let target = node.remote_member(NODES[0], "target", "lobby");
        sender.await_type("peer_joined");
        for (reason, code, text) in [
            (Reason::Forbidden, 403, "no shared namespace"),
            (Reason::Full, 429, "peer send buffer full"),
            (Reason::FullFor(12), 429, "send buffer full for 12 peers"),
            (Reason::NotHere, 404, "peer not found"),
        ] {
            sender.signal(target, &json!(1));
            payload_sent_to(&mut node, NODES[0]);
            node.hears(NODES[0], &refusal_for(&sender, &target, reason));
            sender.expect_error(code, text);
        }
        assert_eq!(node.times_sought(target), 1);
        // The last one said that it is not there any more.
        node.is_at(target, Some(NODES[1]));
        sender.expect_silence();
        sender.signal(target, &json!("again"));
        assert_eq!(payload_sent_to(&mut node, NODES[1]), "\"again\"");
        assert_eq!(node.times_sought(target), 2);
        // Whose session is over is not told, nor is its successor.
        let mut old = refusal_for(&sender, &target, Reason::Forbidden);
        sender.client.close(1000, "").unwrap();
        let mut sender = node.peer("sender");
        old.extend(refusal_for(&sender, &target, Reason::Full));
        node.hears(NODES[0], &old);
        sender.expect_error(429, "peer send buffer full");
        sender.expect_silence();
    });
}

#[test]
fn a_signal_from_elsewhere_arrives_or_goes_back_as_a_refusal() {
    on_nodes(|mut node| {
        let mut target = node.peer("target");
        target.join("lobby");
        let sender = Fingerprint::of_key("sender");
        let mut frames = Vec::new();
        for number in 0..50 {
            frames.extend(signal_from(
                &node,
                &sender,
                &target.fingerprint,
                &["attic", "lobby"],
                &number.to_string(),
            ));
        }
        node.hears(NODES[0], &frames);
        for number in 0..50 {
            let signal = target.await_type("signal");
            assert_eq!(
                (&signal["from"], &signal["to"]),
                (&json!(hex(sender)), &json!(target.hex()))
            );
            assert_eq!(signal["payload"], number);
            assert!(signal["ts"].is_u64());
        }
        let stranger = Fingerprint::of_key("stranger");
        // It may be on a third node: a message goes on to none.
        node.is_at(stranger, Some(NODES[1]));
        for (to, namespaces, reason) in [
            (target.fingerprint, &["attic"][..], Reason::Forbidden),
            (target.fingerprint, &[], Reason::Forbidden),
            (stranger, &["lobby"], Reason::NotHere),
        ] {
            node.hears(NODES[0], &signal_from(&node, &sender, &to, namespaces, "1"));
            node.sent_to(NODES[0], |frame| {
                let refused = Refused {
                    to: sender.as_bytes(),
                    session: 1,
                    target: to.as_bytes(),
                    reason,
                };
                assert_eq!(frame, Frame::Refused(refused));
            });
        }
        assert_eq!(node.times_sought(stranger), 0);
        target.expect_silence();
        node.expect_nothing_sent();
    });
}

#[test]
fn who_does_not_read_is_full_for_other_nodes_too() {
    for loops in [1, 3] {
        let mut node = Node::with(loops, |config| {
            config.send_buffer_size = 2;
            config.socket_send_bytes = 4096;
        });
        let slow = ConnectOptions {
            wire: WireOptions {
                receive_buffer_bytes: Some(4096),
                ..WireOptions::default()
            },
            ..ConnectOptions::default()
        };
        let mut target = node.register(Client::connect(node.addr, slow), "target");
        target.join("lobby");
        target.client.pause_reading();
        let sender = Fingerprint::of_key("sender");
        let payload = format!("\"{}\"", "x".repeat(60_000));
        let mut sent = 0;
        let refused = loop {
            node.hears(
                NODES[0],
                &signal_from(&node, &sender, &target.fingerprint, &["lobby"], &payload),
            );
            sent += 1;
            assert!(sent < 1000, "it is never full");
            if let Some(refused) = node.try_sent_to(NODES[0], |frame| match frame {
                Frame::Refused(refused) => (refused.reason, Fingerprint::from_bytes(*refused.target)),
                other => panic!("{other:?}"),
            }) {
                break refused;
            }
        };
        assert_eq!(refused, (Reason::Full, target.fingerprint));
        // A broadcast says for how many.
        let payload = json!({ "namespace": "lobby", "data": 1 });
        node.hears(NODES[0], &broadcast_from(&node, &sender, "lobby", &payload));
        loop {
            let reason = node.sent_to(NODES[0], |frame| match frame {
                Frame::Refused(refused) => refused.reason,
                other => panic!("{other:?}"),
            });
            // Of the signals that were on their way.
            if reason != Reason::Full {
                assert_eq!(reason, Reason::FullFor(1));
                break;
            }
        }
    }
}

#[test]
fn a_broadcast_leaves_once_for_each_node_with_members() {
    on_nodes(|mut node| {
        let mut sender = node.peer("sender");
        sender.join("lobby");
        for (node_no, key) in [(NODES[0], "a"), (NODES[0], "b"), (NODES[1], "c")] {
            node.remote_member(node_no, key, "lobby");
            sender.await_type("peer_joined");
        }
        let payload = r#"{"namespace":"lobby","data":[1.0], "exclude":["somebody"]}"#;
        sender
            .client
            .send_text(&format!(r#"{{"type":"broadcast","payload":{payload}}}"#));
        let lobby = node.namespace("lobby");
        for to in NODES {
            node.sent_to(to, |frame| {
                let broadcast = Broadcast {
                    namespace: lobby,
                    from: sender.fingerprint.as_bytes(),
                    session: sender.session.as_u64(),
                    name: "lobby",
                    payload,
                };
                assert_eq!(frame, Frame::Broadcast(broadcast));
            });
        }
        sender.expect_silence();
        node.expect_nothing_sent();
    });
}

#[test]
fn a_broadcast_from_elsewhere_reaches_all_members_but_those_that_it_leaves_out() {
    on_nodes(|mut node| {
        let mut peers: Vec<Peer> = (0..12).map(|number| node.peer(&format!("peer {number}"))).collect();
        for peer in &mut peers[..10] {
            peer.join("lobby");
        }
        let sender = Fingerprint::of_key("sender");
        let left_out = [2, 7].map(|number: usize| peers[number].hex());
        let payload = json!({ "namespace": "lobby", "data": "all", "exclude": left_out });
        node.hears(NODES[0], &broadcast_from(&node, &sender, "lobby", &payload));
        for (number, peer) in peers.iter_mut().enumerate() {
            if ![2, 7, 10, 11].contains(&number) {
                let broadcast = peer.await_type("broadcast");
                assert_eq!(
                    (&broadcast["from"], &broadcast["namespace"]),
                    (&json!(hex(sender)), &json!("lobby"))
                );
                assert_eq!(broadcast["payload"], payload);
            }
        }
        // Loops are told one after the other, those who are left out among them.
        let last = json!({ "namespace": "lobby", "data": "last" });
        node.hears(NODES[0], &broadcast_from(&node, &sender, "lobby", &last));
        for peer in &mut peers[..10] {
            assert_eq!(peer.await_type("broadcast")["payload"], last);
        }
        peers.iter_mut().for_each(Peer::expect_silence);
        node.expect_nothing_sent();
    });
}

#[test]
fn what_comes_through_a_join_under_way_waits_for_its_answer() {
    on_nodes(|mut node| {
        let mut first = node.peer("first");
        first.join("lobby");
        let mut second = node.peer("second");
        node.withhold(|what| matches!(what, What::Join { .. }));
        second
            .client
            .send_json(&json!({ "type": "join", "payload": { "namespace": "lobby" } }));
        node.await_withheld(1);
        let sender = Fingerprint::of_key("sender");
        let payload = json!({ "namespace": "lobby", "data": 1 });
        let mut frames = signal_from(&node, &sender, &second.fingerprint, &["lobby"], "1");
        frames.extend(broadcast_from(&node, &sender, "lobby", &payload));
        node.hears(NODES[0], &frames);
        // It has come to every loop when the other member has it.
        assert_eq!(first.await_type("broadcast")["payload"], payload);
        node.answer();
        second.await_type("peer_list");
        assert_eq!(second.await_type("signal")["payload"], 1);
        assert_eq!(second.await_type("broadcast")["payload"], payload);
        node.expect_nothing_sent();
    });
}

#[test]
fn without_the_broker_peers_of_this_node_still_reach_each_other() {
    on_nodes(|mut node| {
        let mut sender = node.peer("sender");
        sender.join("lobby");
        let mut neighbour = node.peer("neighbour");
        neighbour.join("lobby");
        sender.await_type("peer_joined");
        let target = node.remote_member(NODES[0], "target", "lobby");
        sender.await_type("peer_joined");
        neighbour.await_type("peer_joined");
        sender.signal(target, &json!(1));
        payload_sent_to(&mut node, NODES[0]);

        node.lose_broker();
        sender.signal(target, &json!(2));
        sender.expect_error(503, "broker unavailable");
        sender.signal(neighbour.fingerprint, &json!(3));
        assert_eq!(neighbour.await_type("signal")["payload"], 3);
        let payload = json!({ "namespace": "lobby", "data": 4 });
        for _ in 0..3 {
            sender
                .client
                .send_json(&json!({ "type": "broadcast", "payload": payload }));
            assert_eq!(neighbour.await_type("broadcast")["payload"], payload);
        }
        // Told once, not three times.
        sender.expect_error(503, "broker unavailable");
        sender.expect_silence();

        let mut comer = Client::connect(node.addr, ConnectOptions::default());
        comer.send_json(&json!({ "type": "register", "payload": { "public_key": "comer" } }));
        assert_eq!(comer.recv_json()["payload"]["message"], "broker unavailable");
        comer.expect_close(1013, Some("broker unavailable"));
        node.expect_nothing_sent();
    });
}
