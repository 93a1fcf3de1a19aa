//! Ten thousand connections that end in every way, and nothing of them is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::scene::{
    HTTP_CONNECTIONS, Peer, Raw, TABLES, UPGRADE, framed, from_address, join, metric, open_everywhere, register, serve,
    wait_for_metric,
};
use crate::support::{Server, WireOptions};

const CYCLES: usize = 10_000;
const AT_A_TIME: usize = 8;

/// How far a connection gets before it ends.
fn live_and_die(addr: std::net::SocketAddr, number: usize) {
    let mut raw = Raw::open_with(addr, &source(number));
    match number % 5 {
        // During the head.
        0 => raw.send(&UPGRADE.as_bytes()[..20 + number % 100]),
        // After the upgrade, perhaps inside a frame.
        1 => {
            raw.send(UPGRADE.as_bytes());
            raw.switch();
            let frame = framed(&register("nobody"));
            raw.send(&frame[..number % frame.len()]);
        }
        // Registered, a member, with a match request and a broadcast on its way.
        2 | 3 => {
            raw.send(UPGRADE.as_bytes());
            raw.switch();
            let namespace = format!("hall {}", number % 7);
            let messages = [
                register(&format!("key {number}")),
                join(&namespace),
                json!({ "type": "match", "payload": { "namespace": namespace, "group_size": 900 } }),
                json!({ "type": "broadcast", "payload": { "namespace": namespace, "data": number } }),
            ];
            raw.send(&messages.iter().flat_map(framed).collect::<Vec<u8>>());
            while raw.json()["type"] != "match" {}
        }
        // A key that comes again and again, while its last session may still be ending; it waits for nothing.
        _ => {
            raw.send(UPGRADE.as_bytes());
            raw.switch();
            let room = json!({ "type": "create_room", "payload": { "room_id": format!("room {}", number % 3) } });
            let messages = [register(&format!("shared {}", number % 11)), room];
            raw.send(&messages.iter().flat_map(framed).collect::<Vec<u8>>());
        }
    }
    if (number / 5).is_multiple_of(2) {
        raw.wire.reset_on_close();
    }
}

/// Spread over several addresses, whose ports are taken for a while after a close.
fn source(number: usize) -> WireOptions {
    from_address(&format!("127.0.0.{}", 2 + number % 8))
}

fn run(server: &Server, cycles: std::ops::Range<usize>) {
    let next = Arc::new(AtomicUsize::new(cycles.start));
    let workers: Vec<_> = (0..AT_A_TIME)
        .map(|_| {
            let (next, addr, end) = (next.clone(), server.addr(), cycles.end);
            thread::spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return;
                    }
                    live_and_die(addr, number);
                }
            })
        })
        .collect();
    workers
        .into_iter()
        .for_each(|worker| worker.join().expect("the connections behave as told"));
}

fn wait_until_empty(server: &Server) {
    for gauge in [
        HTTP_CONNECTIONS,
        "peer_server_connections{state=\"unregistered\"}",
        "peer_server_connections{state=\"registered\"}",
        "peer_server_connections_paused",
        "peer_server_peers",
        "peer_server_namespaces",
        "peer_server_rooms",
        "peer_server_match_waiting",
        "peer_server_aliases",
        "peer_server_broadcasts_open",
        "peer_server_state_bytes",
        "peer_server_output_bytes",
        "peer_server_mail_backlog_batches",
        "peer_server_connections{state=\"closing\"}",
        "peer_server_pool_blocks_taken",
    ] {
        wait_for_metric(server, gauge, 0);
    }
    crate::scene::wait_for_peers(server, 0);
}

fn descriptors(server: &Server) -> usize {
    open_everywhere(server.pid()).len()
}

fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    for tables in TABLES {
        leave_nothing_behind(tables);
    }
}

fn leave_nothing_behind(tables: &str) {
    let server = serve(json!({ "loops": 2, "descriptor_tables": tables }));
    let at_start = descriptors(&server);
    run(&server, 0..CYCLES / 2);
    wait_until_empty(&server);
    let half_way = resident_kib(&server);
    run(&server, CYCLES / 2..CYCLES);
    wait_until_empty(&server);
    let at_end = resident_kib(&server);
    crate::scene::wait_until(
        || descriptors(&server) == at_start,
        || format!("{} descriptors; there were {at_start}", descriptors(&server)),
    );
    assert!(
        at_end < half_way + 2048,
        "{half_way} KiB after the first half, {at_end} KiB after the second"
    );
    assert!(metric(&server, "peer_server_registrations_total") >= CYCLES as u64 * 2 / 5);
    let accepted = metric(&server, "peer_server_accepted_total");
    assert!(accepted >= CYCLES as u64, "{accepted}");

    // And it is as good as new: the names are free.
    let mut peer = Peer::register(server.addr(), "shared 1");
    peer.join("hall 1");
    peer.client
        .send_json(&json!({ "type": "create_room", "payload": { "room_id": "room 1" } }));
    peer.next("room_created");
    assert!(peer.try_next(Duration::ZERO).is_none());
}
