//! Question: what does it cost to decide where a signal goes, on one loop, at 1,000, 100,000 and 1,000,000 peers?
//!
//! The peers sit in namespaces of two, as after a match. The pairs are visited in a scattered order, so that their records
//! are not in the cache when the server is large; one pair over and over shows the arithmetic alone.

mod world;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use peer_server::ids::Fingerprint;
use peer_server::shard::{PeerKey, Route, Shard};
use world::{member, scattered, shard};

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route/same_loop");
    group.throughput(Throughput::Elements(1));
    for peers in [1_000, 100_000, 1_000_000] {
        let (shard, pairs) = pairs_of(peers);
        let mut next = pairs.iter().cycle();
        group.bench_function(BenchmarkId::new("scattered", peers), |b| {
            b.iter(|| {
                let (from, to) = next.next().expect("it goes round");
                let route = shard.route(*from, black_box(to), None);
                debug_assert!(matches!(route, Route::Local { .. }));
                black_box(route)
            });
        });
        let (from, to) = pairs.first().expect("there are pairs");
        group.bench_function(BenchmarkId::new("one_pair", peers), |b| {
            b.iter(|| black_box(shard.route(*from, black_box(to), None)));
        });
    }
    group.finish();
}

/// A shard with so many peers, registered and in one namespace each with one other; the senders and their targets.
fn pairs_of(peers: u32) -> (Shard, Vec<(PeerKey, Fingerprint)>) {
    let mut shard = shard();
    let mut pairs = Vec::new();
    for first in (0..peers).step_by(2) {
        let namespace = format!("pair {first}");
        let [(sender, _), (_, target)] = [first, first + 1].map(|number| member(&mut shard, number, &namespace));
        pairs.push((sender, target));
    }
    let pairs = scattered(&pairs);
    (shard, pairs)
}

criterion_group!(benches, route);
criterion_main!(benches);
