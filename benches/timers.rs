//! Question: what do the deadlines of 100,000 peers cost: to set one anew, to drop and set one (a peer goes, another comes),
//! a tick of the wheel in which those that are due are found and set to their next ping, and a turn of the loop in which
//! nothing is due? 1,000 peers stand beside them.
//!
//! Slots are visited in a scattered order. Pings are 30 s apart, spread evenly, so that a tick finds peers / 600.

mod world;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use peer_server::event_loop::timers::{TICK_MS, Timers};
use world::scattered;

const PING_INTERVAL_MS: u64 = 30_000;

fn timers(c: &mut Criterion) {
    let mut group = c.benchmark_group("timers");
    for peers in [1_000, 100_000] {
        let slots = scattered(&(0..peers).collect::<Vec<u32>>());
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("set_anew", peers), |b| {
            let mut timers = pinged(&slots);
            let mut next = slots.iter().cycle();
            let mut due_ms = 0;
            b.iter(|| {
                due_ms = (due_ms + 7 * TICK_MS) % PING_INTERVAL_MS;
                timers.schedule(*next.next().expect("it goes round"), black_box(due_ms));
            });
        });
        group.bench_function(BenchmarkId::new("drop_and_set", peers), |b| {
            let mut timers = pinged(&slots);
            let mut next = slots.iter().cycle();
            b.iter(|| {
                let slot = *next.next().expect("it goes round");
                timers.cancel(slot);
                timers.schedule(slot, black_box(PING_INTERVAL_MS));
            });
        });
        let per_tick = u64::from(peers) * TICK_MS / PING_INTERVAL_MS;
        group.throughput(Throughput::Elements(per_tick.max(1)));
        group.bench_function(BenchmarkId::new("tick", peers), |b| {
            let mut timers = pinged(&slots);
            let (mut now_ms, mut due) = (0, Vec::new());
            b.iter(|| {
                now_ms += TICK_MS;
                timers.expire(black_box(now_ms), &mut due);
                for slot in &due {
                    timers.schedule(*slot, now_ms + PING_INTERVAL_MS);
                }
                black_box(timers.next_ms())
            });
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("nothing_due", peers), |b| {
            let mut timers = pinged(&slots);
            let mut due = Vec::new();
            b.iter(|| {
                timers.expire(black_box(TICK_MS - 1), &mut due);
                black_box(timers.next_ms())
            });
        });
    }
    group.finish();
}

/// A wheel with one timer for each slot, spread evenly over an interval.
fn pinged(slots: &[u32]) -> Timers {
    let mut timers = Timers::new(0);
    for (number, slot) in slots.iter().enumerate() {
        timers.schedule(*slot, 1 + number as u64 * PING_INTERVAL_MS / slots.len() as u64);
    }
    timers
}

criterion_group!(benches, timers);
criterion_main!(benches);
