//! Question: what does a match request cost with 100 and with 100,000 others waiting, each group for something else: one
//! that waits, one that completes a group of two or of four, and one that is taken back? And on the whole: a group
//! completes, and those that waited in it ask again (a request each)?
//!
//! Parsed request in, outputs drained. Who asks and what waits is visited in a scattered order. Requests are timed in
//! rounds; what brings the same number back to waiting is not timed.

mod world;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use peer_server::message::{CriteriaKey, Request};
use peer_server::shard::{PeerKey, Shard};
use world::{registered, scattered, shard};

const NAMESPACE: &str = "arena";
/// Requests that are timed together: few beside those that wait.
const ROUND: u64 = 20;

fn matchmaking(c: &mut Criterion) {
    let mut group = c.benchmark_group("matchmaking");
    for waiting in [100, 100_000] {
        group.throughput(Throughput::Elements(1));
        let mut arena = Arena::new(waiting, 2);
        group.bench_function(BenchmarkId::new("waits", waiting), |b| {
            b.iter_custom(|times| arena.rounds(times, Arena::comer_waits, Arena::comer_leaves));
        });
        group.bench_function(BenchmarkId::new("leaves", waiting), |b| {
            b.iter_custom(|times| arena.rounds(times, Arena::waiting_leaves, Arena::group_waits));
        });
        for group_size in [2, 4] {
            let mut arena = Arena::new(waiting, group_size);
            group.bench_function(BenchmarkId::new(format!("completes_{group_size}"), waiting), |b| {
                b.iter_custom(|times| arena.rounds(times, Arena::comer_completes, Arena::group_waits));
            });
            group.throughput(Throughput::Elements(u64::from(group_size)));
            group.bench_function(BenchmarkId::new(format!("groups_of_{group_size}"), waiting), |b| {
                b.iter_custom(|times| arena.rounds(times, Arena::group_goes_round, |_, _| {}));
            });
            group.throughput(Throughput::Elements(1));
        }
    }
    group.finish();
}

/// A shard in which many wait, and as many others come and go.
struct Arena {
    shard: Shard,
    group_size: u32,
    /// Those that wait, in groups that lack one.
    groups: Vec<Vec<PeerKey>>,
    comers: Vec<PeerKey>,
    rounds: usize,
}

impl Arena {
    fn new(waiting: u32, group_size: u32) -> Self {
        let mut shard = shard();
        let mut peers = |numbers: std::ops::Range<u32>| -> Vec<PeerKey> {
            let keys: Vec<PeerKey> = numbers.map(|number| registered(&mut shard, number).0).collect();
            scattered(&keys)
        };
        let (those_waiting, comers) = (peers(0..waiting), peers(waiting..waiting * 2));
        let groups = those_waiting.chunks_exact(group_size as usize - 1);
        let mut arena = Self {
            shard,
            group_size,
            groups: groups.map(<[_]>::to_vec).collect(),
            comers,
            rounds: 0,
        };
        (0..arena.groups.len()).for_each(|at| arena.group_waits(at));
        arena
    }

    /// The time that `step` takes, so many times; `back` undoes it and is not counted.
    fn rounds(&mut self, times: u64, step: fn(&mut Self, usize), back: fn(&mut Self, usize)) -> Duration {
        let mut spent = Duration::ZERO;
        for round in 0..times.div_ceil(ROUND) {
            let from = self.rounds * ROUND as usize;
            let places = from..from + ROUND.min(times - round * ROUND) as usize;
            let start = Instant::now();
            places.clone().for_each(|at| step(self, at));
            spent += start.elapsed();
            places.for_each(|at| back(self, at));
            self.rounds += 1;
        }
        spent
    }

    fn comer_waits(&mut self, at: usize) {
        let criteria = self.groups.len() + at;
        self.ask(self.comers[at % self.comers.len()], criteria);
    }

    fn comer_leaves(&mut self, at: usize) {
        self.leave(self.comers[at % self.comers.len()]);
    }

    fn comer_completes(&mut self, at: usize) {
        self.ask(self.comers[at % self.comers.len()], at % self.groups.len());
    }

    fn group_goes_round(&mut self, at: usize) {
        self.comer_completes(at);
        self.group_waits(at);
    }

    fn waiting_leaves(&mut self, at: usize) {
        self.leave(self.groups[at % self.groups.len()][0]);
    }

    fn group_waits(&mut self, at: usize) {
        let group = at % self.groups.len();
        for member in 0..self.groups[group].len() {
            self.ask(self.groups[group][member], group);
        }
    }

    fn ask(&mut self, peer: PeerKey, criteria: usize) {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&criteria.to_le_bytes());
        let request = Request::Match {
            namespace: NAMESPACE,
            group_size: self.group_size,
            criteria: CriteriaKey(key),
        };
        self.shard.handle_request(peer, black_box(request));
        self.drain();
    }

    fn leave(&mut self, peer: PeerKey) {
        let request = Request::Leave { namespace: NAMESPACE };
        self.shard.handle_request(peer, black_box(request));
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            black_box(output);
        }
    }
}

criterion_group!(benches, matchmaking);
criterion_main!(benches);
