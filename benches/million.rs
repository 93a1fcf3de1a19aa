//! Question: how many bytes do the shards keep for each of 1,000,000 peers in namespaces of ten, and how many instructions
//! is a route there, against 1,000 peers?
//!
//! A report and no timing of criterion's, with one command for all of it: `cargo bench --bench million`, or `-- PEERS LOOPS`
//! for other numbers (`--quick`: 100,000 peers). Shard state only: no connection, buffer or timer. Bytes are counted by the
//! allocator; how much resident memory grew stands beside them. Instructions are callgrind's, collected inside of
//! `route_all` alone, so valgrind must be there: the program runs itself under it twice, which takes minutes at a million.
#![allow(clippy::print_stdout, reason = "that is its purpose")]

mod world;

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use peer_server::ids::Fingerprint;
use peer_server::shard::{PeerKey, Route, Shard};
use world::bytes::Counting;
use world::{NAMESPACE_PEERS, World, scattered};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

const ROUTES: usize = 100_000;
/// Makes it route and do nothing else: so it runs itself under callgrind.
const ONLY_ROUTE: &str = "only-route";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u32> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let quick = words.iter().any(|word| word == "--quick");
    let peers = numbers
        .first()
        .copied()
        .unwrap_or(if quick { 100_000 } else { 1_000_000 });
    let loops = numbers.get(1).map_or(1, |loops| *loops as u16);
    if words.iter().any(|word| word == ONLY_ROUTE) {
        let (shard, pairs) = one_loop(peers);
        return route_all(&shard, &pairs);
    }
    report_bytes(peers, loops);
    let few = 1_000.min(peers);
    for peers in [few, peers] {
        let (shard, pairs) = one_loop(peers);
        route_all(&shard, &pairs);
        let start = Instant::now();
        route_all(&shard, &pairs);
        let each = start.elapsed().as_nanos() / ROUTES as u128;
        println!("route at {peers} peers, scattered: {each} ns");
    }
    let instructions = [few, peers].map(instructions_of_a_route);
    match instructions {
        [Some(at_few), Some(at_all)] => println!(
            "route at {few} peers: {at_few:.1} instructions, at {peers}: {at_all:.1}, {:.3} times as many",
            at_all / at_few
        ),
        _ => println!("route: no instructions counted: valgrind is not there, or failed"),
    }
}

fn report_bytes(peers: u32, loops: u16) {
    let (asked, taken) = ALLOCATOR.in_use();
    let resident = resident_bytes();
    let mut world = World::new(loops);
    world.crowd(peers, |_| {});
    let (asked_after, taken_after) = ALLOCATOR.in_use();
    let each = |before: usize, after: usize| after.saturating_sub(before) / peers as usize;
    println!(
        "{peers} peers in namespaces of {NAMESPACE_PEERS}, {loops} loops: {} bytes a peer, {} with the allocator's own, {} resident",
        each(asked, asked_after),
        each(taken, taken_after),
        each(resident, resident_bytes()),
    );
    black_box(world);
}

/// One loop with so many peers, and senders with targets in their namespaces, scattered.
fn one_loop(peers: u32) -> (Shard, Vec<(PeerKey, Fingerprint)>) {
    let mut world = World::new(1);
    let mut members = Vec::new();
    world.crowd(peers, |member| members.push((member.key, member.fingerprint)));
    let neighbours = members.windows(2).step_by(NAMESPACE_PEERS as usize);
    let pairs: Vec<_> = neighbours.map(|pair| (pair[0].0, pair[1].1)).collect();
    let pairs = scattered(&pairs).into_iter().cycle().take(ROUTES).collect();
    (world.shards.remove(0), pairs)
}

/// Callgrind collects inside of this and nowhere else.
#[inline(never)]
fn route_all(shard: &Shard, pairs: &[(PeerKey, Fingerprint)]) {
    for (from, to) in pairs {
        let route = shard.route(*from, black_box(to), None);
        assert!(matches!(route, Route::Local { .. }));
        black_box(route);
    }
}

fn instructions_of_a_route(peers: u32) -> Option<f64> {
    let own = std::env::current_exe().ok()?;
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=million::route_all*")
        .arg(own)
        .args([ONLY_ROUTE, &peers.to_string(), "1"])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&ran.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected :"))?.1;
    let collected: f64 = collected.trim().parse().ok()?;
    Some(collected / ROUTES as f64)
}

fn resident_bytes() -> usize {
    let sizes = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<usize> = sizes.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * 4096
}
