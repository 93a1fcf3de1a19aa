//! What the event loop must survive: connections that end, move, or do not read at the worst moment.
//!
//! Owns: orders of events that a quiet network seldom produces, made certain by stopping the process while they happen.
//! Never: looks at what a message means; the dialogues do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may say so with a panic")]

mod support;

use std::time::Instant;

use serde_json::{Value, json};
use support::{ANSWER_WITHIN, Client, ConnectOptions, Server, http};

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
