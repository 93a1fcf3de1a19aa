//! Question: what does it cost to find whom a broadcast is for, with 10, 1,000 and 10,000 members on the loop, and with a
//! list of ten to leave out?

mod world;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use peer_server::ids::Fingerprint;
use world::{member, shard};

const NAMESPACE: &str = "lobby";

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan_out/targets");
    for members in [10, 1_000, 10_000] {
        let mut shard = shard();
        let fingerprints: Vec<Fingerprint> = (0..members)
            .map(|number| member(&mut shard, number, NAMESPACE).1)
            .collect();
        let (namespace, from) = (shard.homes().namespace(NAMESPACE), fingerprints[0]);
        let named = fingerprints.iter().rev().take(10);
        let mut exclude: Vec<u64> = named
            .map(|fingerprint| shard.homes().fingerprint_hash(fingerprint))
            .collect();
        exclude.sort_unstable();
        let mut targets = Vec::new();
        group.throughput(Throughput::Elements(u64::from(members)));
        for (name, exclude) in [("all", &[][..]), ("excluding_10", &exclude)] {
            group.bench_function(BenchmarkId::new(name, members), |b| {
                b.iter(|| {
                    targets.clear();
                    shard.broadcast_targets(namespace, black_box(&from), black_box(exclude), &mut targets);
                    black_box(targets.len())
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, fan_out);
criterion_main!(benches);
