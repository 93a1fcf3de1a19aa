//! Descriptor tables of their own let the loops hold more connections together than one table could, and lose only what
//! finds no room.

use serde_json::json;

use crate::scene::{
    Peer, Raw, STATE_WITHIN, Table, UPGRADE, framed, limit_descriptors, loop_tables, metric, register, serve,
    wait_for_metric, wait_for_peers, wait_until,
};
use crate::support::{Event, Server, WireOptions};

const LOOPS: usize = 4;

fn registering(server: &Server, key: &str) -> Raw {
    let raw = Raw::open_with(server.addr(), &WireOptions::default());
    let mut bytes = UPGRADE.as_bytes().to_vec();
    bytes.extend(framed(&register(key)));
    raw.send(&bytes);
    raw
}

#[test]
fn four_loops_hold_more_connections_than_the_limit_of_one_table() {
    const LIMIT: u32 = 300;
    // Each loop's share is 170, give or take a dozen: a thousand such servers would not see one of 250.
    const PEERS: usize = 680;
    let config = json!({
        "loops": LOOPS, "descriptor_tables": "per_loop", "max_peers": PEERS, "metrics_enabled": true, "metrics_port": 0,
        "ping_interval": "1h", "pong_wait": "2h"
    });
    let mut server = Server::start_with_descriptors(config, LIMIT);
    let mut held: Vec<Raw> = Vec::new();
    for number in 0..PEERS {
        let mut raw = registering(&server, &format!("peer {number}"));
        raw.switch();
        assert_eq!(raw.json()["type"], "registered");
        held.push(raw);
    }
    wait_for_metric(&server, "peer_server_peers", PEERS as u64);
    assert_eq!(metric(&server, "peer_server_connections_lost_moving_total"), 0);
    let sockets: Vec<usize> = loop_tables(server.pid()).iter().map(Table::len).collect();
    assert_eq!(sockets.len(), LOOPS);
    assert!(sockets.iter().all(|count| *count < LIMIT as usize), "{sockets:?}");
    assert!(sockets.iter().sum::<usize>() > PEERS, "{sockets:?}");
    assert!(
        !server.stderr().contains("the descriptor limit allows"),
        "{}",
        server.stderr()
    );
    // All of them are served still.
    for raw in &mut held {
        raw.send(&framed(&json!({ "type": "ping" })));
        assert_eq!(raw.json()["type"], "pong");
    }
    server.signal("TERM");
    drop(held);
    assert!(server.wait_exit(STATE_WITHIN).success());
}

#[test]
fn a_limit_that_does_not_suffice_is_told_at_the_start() {
    // A table for each of four loops makes room for 4 × (300 - 76) connections.
    for (tables, max_peers, told) in [
        ("per_loop", 680, None),
        ("per_loop", 1000, Some("only 896 connections")),
        ("shared", 680, Some("only 224 connections")),
        ("shared", 200, None),
    ] {
        let config = json!({ "loops": LOOPS, "descriptor_tables": tables, "max_peers": max_peers });
        let mut server = Server::start_with_descriptors(config, 300);
        // The log is read by a thread of its own; it is complete when the process has ended.
        server.signal("TERM");
        assert!(server.wait_exit(STATE_WITHIN).success());
        let log = server.stderr();
        assert!(log.contains(tables), "{log}");
        match told {
            Some(text) => assert!(log.contains(text), "{tables} {max_peers}: {log}"),
            None => assert!(
                !log.contains("the descriptor limit allows"),
                "{tables} {max_peers}: {log}"
            ),
        }
    }
}

#[test]
fn whoever_finds_no_room_at_home_is_lost_and_leaves_nothing_behind() {
    let server = serve(json!({ "loops": 2, "descriptor_tables": "per_loop" }));
    limit_descriptors(&server, 20);
    let lost = || server.stderr().contains("lost on its way to its home");
    let mut number = 0;
    // One table is full before the other, so that sooner or later somebody is accepted here who is at home there.
    wait_until(
        || {
            let mut crowd: Vec<Raw> = Vec::new();
            for _ in 0..60 {
                crowd.push(registering(&server, &format!("peer {number}")));
                number += 1;
            }
            // Those beyond both tables wait to be accepted, which is no reason to wait here.
            std::thread::sleep(std::time::Duration::from_millis(20));
            lost()
        },
        || "a loss in the log".to_owned(),
    );
    for gauge in [
        "peer_server_peers",
        "peer_server_connections{state=\"unregistered\"}",
        "peer_server_connections{state=\"registered\"}",
        "peer_server_connections{state=\"closing\"}",
        "peer_server_connections_paused",
        "peer_server_pool_blocks_taken",
        "peer_server_mail_backlog_batches",
    ] {
        wait_for_metric(&server, gauge, 0);
    }
    wait_for_peers(&server, 0);
    wait_until(
        || metric(&server, "peer_server_connections_lost_moving_total") > 0,
        || "the loss is counted".to_owned(),
    );
    // Everything works again, on both loops.
    let mut peers: Vec<Peer> = (0..8)
        .map(|n| Peer::register(server.addr(), &format!("late {n}")))
        .collect();
    peers.iter_mut().for_each(Peer::round_trip);
}

#[test]
fn the_log_tells_whose_tables_there_are() {
    // Where the system forbids tables of their own, `auto` is `shared`, which the log alone tells.
    for (asked, got) in [("auto", "per_loop"), ("per_loop", "per_loop"), ("shared", "shared")] {
        let mut server = Server::start(json!({ "loops": 2, "descriptor_tables": asked }), &[]);
        server.signal("TERM");
        assert!(server.wait_exit(STATE_WITHIN).success());
        let log = server.stderr();
        assert!(log.contains(&format!("descriptor_tables=\"{got}\"")), "{log}");
    }
}

#[test]
fn a_client_that_leaves_is_gone_from_every_table() {
    // A copy of its socket in any other table would keep the connection open.
    let server = serve(json!({ "loops": LOOPS, "descriptor_tables": "per_loop" }));
    for number in 0..24 {
        let mut first = Peer::register(server.addr(), &format!("key {number}"));
        // A second session of the same key ends the first, whose connection the server closes.
        let _second = Peer::register(server.addr(), &format!("key {number}"));
        let closed = first.client.recv_content(STATE_WITHIN);
        assert_eq!(closed.as_ref().and_then(Event::close_code), Some(4001), "{closed:?}");
        drop(first);
    }
    wait_for_peers(&server, 0);
    wait_for_metric(&server, "peer_server_connections{state=\"closing\"}", 0);
}
