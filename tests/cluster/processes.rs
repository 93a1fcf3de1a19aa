//! Nodes that are processes of their own, with a real Redis between them.
//!
//! Owns: what a process goes through that no test within one can do to it: standing still, and starting where the broker will not have it.
//! Never: breaks things at random; `tests/cluster_checker` does.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, ConnectOptions, Event, RedisServer, Server};

/// Within this the others have seen the peers of a node go that is lost. Five seconds are promised; a test machine may be slow.
const SEEN_GONE_WITHIN: Duration = Duration::from_secs(8);
/// More than any lease, so that it has run out for the node as well as for the others.
const STOPPED: Duration = Duration::from_secs(10);

fn node(broker: &str) -> Value {
    json!({ "broker_type": "redis", "redis_addr": broker, "loops": 2, "rate_limit_per_sec": 0 })
}

fn peer(node: &Server, key: &str) -> Client {
    let mut client = Client::connect(node.addr(), ConnectOptions::default());
    client.send_json(&json!({ "type": "register", "payload": { "public_key": key } }));
    let registered = client.recv_json();
    assert_eq!(registered["type"], "registered", "{registered}");
    client
}

fn fingerprint(key: &str) -> String {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(key.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn join(client: &mut Client, namespace: &str) {
    client.send_json(&json!({ "type": "join", "payload": { "namespace": namespace } }));
    await_message(client, Duration::from_secs(3), |message| message["type"] == "peer_list");
}

/// The first message that is wanted; others are passed over, and are told when it does not come.
fn await_message(client: &mut Client, within: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + within;
    let mut others = Vec::new();
    loop {
        match client.recv_content(deadline.saturating_duration_since(Instant::now())) {
            Some(Event::Message { payload, .. }) => {
                let message: Value = serde_json::from_slice(&payload).unwrap();
                if wanted(&message) {
                    return message;
                }
                others.push(message.to_string());
            }
            other => panic!("{other:?} after {others:?}"),
        }
    }
}

fn is(message: &Value, kind: &str, from: &str) -> bool {
    message["type"] == kind && message["from"] == *from
}

/// Everybody in the namespace, as a member sees it.
fn members(client: &mut Client, namespace: &str) -> Vec<String> {
    client.send_json(&json!({ "type": "discover", "payload": { "namespace": namespace } }));
    let list = await_message(client, Duration::from_secs(3), |message| message["type"] == "peer_list");
    let listed = list["payload"]["peers"].as_array().unwrap().iter();
    let mut members: Vec<_> = listed
        .map(|peer| peer["fingerprint"].as_str().unwrap().to_owned())
        .collect();
    members.sort_unstable();
    members
}

#[test]
fn a_node_that_stood_still_serves_nothing_under_the_lease_that_ran_out() {
    let Some(redis) = RedisServer::start() else { return };
    let broker = format!("unix:{}", redis.socket().display());
    let (still, other) = (Server::start(node(&broker), &[]), Server::start(node(&broker), &[]));
    let (stays, moves, watches) = (fingerprint("stays"), fingerprint("moves"), fingerprint("watches"));
    let mut stayer = peer(&still, "stays");
    let mut mover = peer(&still, "moves");
    let mut watcher = peer(&other, "watches");
    for client in [&mut watcher, &mut stayer, &mut mover] {
        join(client, "n");
    }
    await_message(&mut watcher, Duration::from_secs(3), |message| {
        is(message, "peer_joined", &moves)
    });

    still.signal("STOP");
    let stopped = Instant::now();
    let (mut stays_seen, mut moves_seen) = (true, true);
    while stays_seen || moves_seen {
        let gone = await_message(&mut watcher, SEEN_GONE_WITHIN, |message| message["type"] == "peer_left");
        match gone["from"].as_str().unwrap() {
            who if who == stays => assert!(std::mem::take(&mut stays_seen), "gone twice"),
            who if who == moves => assert!(std::mem::take(&mut moves_seen), "gone twice"),
            who => panic!("{who} is there"),
        }
    }
    assert!(stopped.elapsed() < SEEN_GONE_WITHIN, "{:?}", stopped.elapsed());
    // Meanwhile one of its keys comes back elsewhere, and its clients go on talking to it.
    let mut moved = peer(&other, "moves");
    join(&mut moved, "n");
    await_message(&mut watcher, Duration::from_secs(3), |message| {
        is(message, "peer_joined", &moves)
    });
    stayer.send_json(&json!({ "type": "join", "payload": { "namespace": "elsewhere" } }));
    mover.send_json(&json!({ "type": "leave", "payload": { "namespace": "n" } }));
    let mut there = vec![moves.clone(), watches.clone()];
    there.sort_unstable();
    assert_eq!(members(&mut watcher, "n"), there);
    std::thread::sleep(STOPPED.saturating_sub(stopped.elapsed()));
    still.signal("CONT");

    // The one whose key is elsewhere is told so, and takes nothing of the new session's with it.
    loop {
        match mover.recv_content(Duration::from_secs(10)) {
            Some(Event::Message { .. }) => {}
            Some(Event::Close { code, .. }) => break assert_eq!(code, Some(4001)),
            other => panic!("{other:?}"),
        }
    }
    // The other one is a member again, in the eyes of both.
    let seen = await_message(&mut watcher, Duration::from_secs(10), |message| {
        is(message, "peer_joined", &stays) || is(message, "peer_left", &moves)
    });
    assert!(is(&seen, "peer_joined", &stays), "{seen}");
    stayer.send_json(&json!({ "type": "signal", "to": moves, "payload": "after" }));
    await_message(&mut moved, Duration::from_secs(3), |message| {
        is(message, "signal", &stays)
    });
    there.push(stays);
    there.sort_unstable();
    for client in [&mut watcher, &mut stayer, &mut moved] {
        assert_eq!(members(client, "n"), there);
    }
    drop(mover);
    stayer.send_json(&json!({ "type": "leave", "payload": { "namespace": "n" } }));
    let seen = await_message(&mut watcher, Duration::from_secs(3), |message| {
        message["type"] == "peer_left"
    });
    assert!(is(
        &seen,
        "peer_left",
        there.iter().find(|who| **who != moves && **who != watches).unwrap()
    ));
}

#[test]
fn a_node_does_not_start_with_a_password_that_its_broker_refuses() {
    let Some(redis) = RedisServer::start() else { return };
    let socket = format!("unix:{}", redis.socket().display());
    let mut set = redis::cmd("CONFIG");
    set.arg("SET")
        .arg("requirepass")
        .arg("right")
        .exec(&mut redis.connect())
        .unwrap();
    for password in ["wrong", ""] {
        let mut config = node(&socket);
        config["redis_password"] = json!(password);
        let failure = Server::try_start(config, &[]).err().expect("it must not start");
        assert_eq!(failure.status.and_then(|status| status.code()), Some(1), "{failure:?}");
        let last = failure.stderr.lines().last().unwrap_or_default().to_owned();
        assert!(last.contains(&socket) && last.contains("cannot be reached"), "{last}");
        assert!(last.to_lowercase().contains("authentication"), "{last}");
        assert!(!failure.stderr.contains("wrong"), "{last}");
    }
    let mut config = node(&socket);
    config["redis_password"] = json!("right");
    peer(&Server::start(config, &[]), "a");
}
