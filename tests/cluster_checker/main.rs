//! Three nodes, a broker, three hundred clients, and somebody who breaks things.
//!
//! Each run is scripted by its seed: what the clients do, and what is broken when. `CHECKER_SEED=7` runs that one,
//! `CHECKER_RUNS=500` so many, `CHECKER_SECONDS=60` each so long (20 when nothing is said); `CHECKER_FAULT=kill` has that fault
//! alone, `CHECKER_FAULT=none` nothing broken. Timing is the machine's, so a seed repeats the script and not the schedule.
//!
//! Owns: the runs and what is broken in them.
//! Never: knows how a node does its work; it sees what clients see.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test that cannot go on fails, and tells what it found"
)]

mod checks;
mod crowd;
mod proxy;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use checks::{Checks, Rules};
use crowd::Crowd;
use proxy::Proxy;
use support::{RedisServer, Server};

const NODES: usize = 3;
const CLIENTS: usize = 300;
/// After that long of a reachable broker nobody who is gone is seen any more. Promised are five seconds; a test machine may be slow.
const GHOSTS_WITHIN: Duration = Duration::from_secs(7);
/// What everybody believes must be true so long after the last thing was broken and done, and all nodes serve again so long
/// after each. Usually it is a second or two; a broker that was emptied takes four more.
const QUIET: Duration = Duration::from_secs(15);
/// For so long nobody may be told any more that the broker is not there.
const CALM: Duration = Duration::from_millis(500);

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Nothing for a while.
    None,
    /// A node's process ends at once; another begins two seconds later.
    Kill,
    /// A node's process stands still.
    Stop,
    /// A node's way to the broker is cut.
    Partition,
    /// The broker stands still.
    BrokerStop,
    /// The broker ends, and begins again without data.
    BrokerRestart,
    /// The broker's data is deleted.
    BrokerFlush,
}

const FAULTS: &[(&str, Fault)] = &[
    ("none", Fault::None),
    ("kill", Fault::Kill),
    ("stop", Fault::Stop),
    ("partition", Fault::Partition),
    ("broker-stop", Fault::BrokerStop),
    ("broker-restart", Fault::BrokerRestart),
    ("broker-flush", Fault::BrokerFlush),
];

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: not a number")))
}

/// A node that is there or not, and its way to the broker.
struct Node {
    server: Option<Server>,
    proxy: Proxy,
}

impl Node {
    fn start(&mut self) {
        let config = json!({
            "broker_type": "redis",
            "redis_addr": self.proxy.address.to_string(),
            "loops": 2,
            "rate_limit_per_sec": 0,
        });
        self.server = Some(Server::start(config, &[]));
    }
}

struct World {
    broker: RedisServer,
    nodes: Vec<Node>,
    crowd: Crowd,
    checks: Checks,
}

impl World {
    fn run_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        self.run_until(|_| Instant::now() >= end);
    }

    fn run_until(&mut self, mut enough: impl FnMut(&World) -> bool) {
        while !enough(self) {
            self.crowd.turn(&mut self.checks);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn break_something(&mut self, fault: Fault, time: Duration, random: &mut StdRng) {
        let node = random.random_range(0..NODES);
        self.checks.shaken = !matches!(fault, Fault::None | Fault::Kill);
        match fault {
            Fault::None => self.run_for(time),
            Fault::Kill => {
                let served: BTreeSet<String> = self
                    .crowd
                    .peers
                    .iter()
                    .filter(|peer| peer.is_open() && peer.node == node)
                    .map(|peer| peer.fingerprint.clone())
                    .collect();
                self.crowd.nodes[node] = None;
                // Drop kills with SIGKILL.
                self.nodes[node].server = None;
                let gone = Instant::now();
                self.crowd.lose(&served, gone + GHOSTS_WITHIN);
                self.run_until(|world| {
                    gone.elapsed() > GHOSTS_WITHIN
                        || gone.elapsed() > Duration::from_millis(200)
                            && Checks::count_ghosts(&world.crowd, &served, gone) == 0
                });
                self.checks.ghosts.push(gone.elapsed());
                self.checks.no_ghosts(&self.crowd, &served, gone);
                self.crowd.let_back(Instant::now());
                self.nodes[node].start();
                self.crowd.nodes[node] = self.nodes[node].server.as_ref().map(Server::addr);
            }
            Fault::Stop => {
                let server = self.nodes[node].server.as_ref().unwrap();
                server.signal("SIGSTOP");
                self.run_for(time);
                self.nodes[node].server.as_ref().unwrap().signal("SIGCONT");
            }
            Fault::Partition => {
                self.nodes[node].proxy.cut(true);
                self.run_for(time);
                self.nodes[node].proxy.cut(false);
            }
            Fault::BrokerStop => {
                self.broker.freeze();
                self.run_for(time);
                self.broker.thaw();
            }
            Fault::BrokerRestart => {
                self.broker.kill();
                self.run_for(time / 3);
                self.broker.restart();
            }
            Fault::BrokerFlush => self.broker.flush(),
        }
        self.recover();
    }

    /// Waits until all nodes serve as before.
    fn recover(&mut self) {
        let end = Instant::now();
        // As long as a node may take to find out.
        self.run_for(Duration::from_millis(1500));
        let serves = |world: &World, node| world.checks.served_at.get(&node).is_some_and(|at| *at > end);
        let calm = |world: &World| world.checks.refused_at.is_none_or(|at| at.elapsed() > CALM);
        self.run_until(|world| end.elapsed() > QUIET || calm(world) && (0..NODES).all(|node| serves(world, node)));
        for node in 0..NODES {
            if !serves(self, node) {
                self.checks
                    .violation(format!("node {node} serves nobody {QUIET:?} after a fault"));
            }
        }
        if !calm(self) {
            self.checks
                .violation(format!("the broker is not there {QUIET:?} after a fault"));
        }
        if std::mem::take(&mut self.checks.shaken) {
            self.crowd.forget_rooms();
        }
        let refused = self.checks.refused_at.map(|at| at.saturating_duration_since(end));
        self.checks.recovered.push(refused.unwrap_or_default());
    }
}

/// One run. What was found, and a line on what happened.
fn run(seed: u64, seconds: u64, only: Option<Fault>) -> (Vec<String>, String) {
    let Some(broker) = RedisServer::start() else {
        return (Vec::new(), "skipped".to_owned());
    };
    let mut random = StdRng::seed_from_u64(seed);
    let faults: Vec<Fault> = (0..seconds.div_ceil(10))
        .map(|_| only.unwrap_or_else(|| FAULTS[1..].choose(&mut random).unwrap().1))
        .collect();
    let rules = Rules {
        data_lost: faults
            .iter()
            .any(|fault| matches!(fault, Fault::BrokerRestart | Fault::BrokerFlush)),
    };
    let mut nodes: Vec<Node> = (0..NODES)
        .map(|_| Node {
            server: None,
            proxy: Proxy::new(broker.socket()),
        })
        .collect();
    nodes.iter_mut().for_each(Node::start);
    let addresses = nodes
        .iter()
        .map(|node| node.server.as_ref().map(Server::addr))
        .collect();
    let crowd = Crowd::new(CLIENTS, seed, addresses, Instant::now());
    let mut world = World {
        broker,
        nodes,
        crowd,
        checks: Checks::new(rules),
    };

    world.run_for(Duration::from_secs(2));
    for fault in &faults {
        let time = match fault {
            Fault::Stop => Duration::from_millis(random.random_range(1000..10_000.min(seconds * 400))),
            _ => Duration::from_millis(random.random_range(500..6000)),
        };
        world.break_something(*fault, time, &mut random);
    }
    world.crowd.lively = false;
    world.checks.close_forgotten();
    let quiet = Instant::now();
    let mut looked = quiet;
    world.run_until(|world| {
        if looked.elapsed() < Duration::from_millis(100) {
            return false;
        }
        looked = Instant::now();
        quiet.elapsed() > QUIET || Checks::unlike(&world.crowd).is_empty()
    });
    // Nothing comes after that.
    world.run_for(Duration::from_secs(1));
    let World {
        mut checks,
        crowd,
        nodes,
        ..
    } = world;
    checks.at_the_end(&crowd);
    for node in &nodes {
        let stderr = node.server.as_ref().map(Server::stderr).unwrap_or_default();
        if stderr.contains("panicked") {
            checks.violation(format!("a node panicked: {stderr}"));
        }
    }
    (
        checks.violations.clone(),
        format!("seed {seed}: {faults:?}: {}", checks.summary()),
    )
}

#[test]
#[ignore = "minutes, and a machine of its own: cargo test --test cluster_checker -- --ignored"]
fn no_history_breaks_a_promise() {
    let only = std::env::var("CHECKER_FAULT").ok();
    let only = only.map(|name| FAULTS.iter().find(|(own, _)| *own == name).expect("a known fault").1);
    let seconds = setting("CHECKER_SECONDS").unwrap_or(20);
    let (first, runs) = match setting("CHECKER_SEED") {
        Some(seed) => (seed, 1),
        None => (1, setting("CHECKER_RUNS").unwrap_or(3)),
    };
    let mut failed = Vec::new();
    for seed in first..first + runs {
        let began = Instant::now();
        let (violations, summary) = run(seed, seconds, only);
        println!("{summary}, {:?} in all", began.elapsed());
        if !violations.is_empty() {
            println!("seed {seed} broke promises:\n  {}", violations.join("\n  "));
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?}: see above");
}
