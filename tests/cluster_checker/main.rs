//! Three nodes, a broker, three hundred clients, and somebody who breaks things.
//!
//! Each run is scripted by its seed: what the clients do, and what is broken when. Timing is the machine's, so a seed repeats the
//! script and not the schedule. Three short runs that have every fault between them are part of `cargo test`. More of them,
//! on a machine that has nothing else to do:
//!
//! ```sh
//! CHECKER_RUNS=500 cargo test --test cluster_checker -- --ignored --nocapture
//! ```
//!
//! `CHECKER_SEED=7` is that run alone, `CHECKER_SECONDS=60` makes each so long (20 when nothing is said), `CHECKER_FAULT=kill` has that
//! fault alone, `CHECKER_FAULT=stop,kill` these in turn, `CHECKER_FAULT=none` nothing broken, and `CHECKER_BROKER=nats` another
//! broker than Redis, also in `cargo test`.
//!
//! Owns: the runs and what is broken in them.
//! Never: knows how a node does its work; it sees what clients see.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test that cannot go on fails, and tells what it found"
)]

mod broker;
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

use broker::Broker;
use checks::{Checks, Rules};
use crowd::Crowd;
use proxy::Proxy;
use support::Server;

const NODES: usize = 3;
const CLIENTS: usize = 300;
/// How long things may take; what is waited for is looked at all the while.
#[derive(Clone, Copy)]
struct Deadlines {
    /// After that long of a reachable broker nobody who is gone is seen any more.
    ghosts: Duration,
    /// What everybody believes must be true so long after the last thing was broken and done, and all nodes serve again so
    /// long after each.
    quiet: Duration,
}

/// Promised are five seconds, and else it is a second or two, four more with a broker that was emptied.
const ALONE: Deadlines = Deadlines {
    ghosts: Duration::from_secs(7),
    quiet: Duration::from_secs(15),
};
/// On a machine with other work.
const BUSY: Deadlines = Deadlines {
    ghosts: Duration::from_secs(20),
    quiet: Duration::from_secs(40),
};
/// The runs that are part of `cargo test`.
const ORDINARY: &[(u64, &[Fault])] = &[
    (1, &[Fault::Kill, Fault::Partition]),
    (2, &[Fault::Stop, Fault::BrokerStop]),
    (3, &[Fault::BrokerRestart, Fault::BrokerFlush]),
];
/// No further one of them is begun after so long.
const ORDINARY_LONGEST: Duration = Duration::from_secs(60);
/// How long a run is when nothing is said.
const SECONDS: u64 = 20;
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
        let mut config = Broker::settings(self.proxy.address);
        config["loops"] = json!(2);
        config["rate_limit_per_sec"] = json!(0);
        self.server = Some(Server::start(config, &[]));
    }
}

struct World {
    deadlines: Deadlines,
    broker: Broker,
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
                self.crowd.lose(&served, gone + self.deadlines.ghosts);
                self.run_until(|world| {
                    gone.elapsed() > world.deadlines.ghosts
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
        let (end, quiet) = (Instant::now(), self.deadlines.quiet);
        // As long as a node may take to find out.
        self.run_for(Duration::from_millis(1500));
        let serves = |world: &World, node| world.checks.served_at.get(&node).is_some_and(|at| *at > end);
        let calm = |world: &World| world.checks.refused_at.is_none_or(|at| at.elapsed() > CALM);
        self.run_until(|world| end.elapsed() > quiet || calm(world) && (0..NODES).all(|node| serves(world, node)));
        for node in 0..NODES {
            if !serves(self, node) {
                self.checks
                    .violation(format!("node {node} serves nobody {quiet:?} after a fault"));
            }
        }
        if !calm(self) {
            self.checks
                .violation(format!("the broker is not there {quiet:?} after a fault"));
        }
        if std::mem::take(&mut self.checks.shaken) {
            self.crowd.forget_rooms();
        }
        let refused = self.checks.refused_at.map(|at| at.saturating_duration_since(end));
        self.checks.recovered.push(refused.unwrap_or_default());
    }
}

/// One run with these faults, or others by its seed. What was found, and a line on what happened.
fn run(seed: u64, seconds: u64, faults: Option<&[Fault]>, deadlines: Deadlines) -> (Vec<String>, String) {
    let Some(broker) = Broker::start() else {
        return (Vec::new(), "skipped".to_owned());
    };
    let mut random = StdRng::seed_from_u64(seed);
    let faults = match faults {
        Some(faults) => faults.to_vec(),
        None => (0..seconds.div_ceil(10))
            .map(|_| FAULTS[1..].choose(&mut random).unwrap().1)
            .collect(),
    };
    let rules = Rules {
        data_lost: faults
            .iter()
            .any(|fault| matches!(fault, Fault::BrokerRestart | Fault::BrokerFlush)),
    };
    let mut nodes: Vec<Node> = (0..NODES)
        .map(|_| Node {
            server: None,
            proxy: Proxy::new(broker.address()),
        })
        .collect();
    nodes.iter_mut().for_each(Node::start);
    let addresses = nodes
        .iter()
        .map(|node| node.server.as_ref().map(Server::addr))
        .collect();
    let crowd = Crowd::new(CLIENTS, seed, addresses, Instant::now());
    let mut world = World {
        deadlines,
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
        quiet.elapsed() > deadlines.quiet || Checks::unlike(&world.crowd, None).is_empty()
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
        if !checks.violations.is_empty() {
            println!("a node at {:?} said:\n{stderr}", node.server.as_ref().map(Server::addr));
        }
        if stderr.contains("panicked") {
            checks.violation(format!("a node panicked: {stderr}"));
        }
    }
    (
        checks.violations.clone(),
        format!("seed {seed}: {faults:?}: {}", checks.summary()),
    )
}

/// Runs one, tells of it, and whether all promises were kept.
fn keeps_promises(seed: u64, seconds: u64, faults: Option<&[Fault]>, deadlines: Deadlines) -> bool {
    let began = Instant::now();
    let (violations, summary) = run(seed, seconds, faults, deadlines);
    println!("{summary}, {:?} in all", began.elapsed());
    if !violations.is_empty() {
        println!("seed {seed} broke promises:\n  {}", violations.join("\n  "));
    }
    violations.is_empty()
}

#[test]
fn a_short_history_breaks_no_promise() {
    let began = Instant::now();
    for (seed, faults) in ORDINARY {
        if began.elapsed() > ORDINARY_LONGEST {
            println!("too slow a machine for {faults:?}");
            return;
        }
        assert!(keeps_promises(*seed, SECONDS, Some(faults), BUSY), "see above");
    }
}

#[test]
#[ignore = "minutes, and a machine of its own: cargo test --test cluster_checker -- --ignored"]
fn no_history_breaks_a_promise() {
    let known = |name: &str| FAULTS.iter().find(|(own, _)| *own == name).expect("a known fault").1;
    let only = std::env::var("CHECKER_FAULT").ok();
    let only: Option<Vec<Fault>> = only.map(|names| names.split(',').map(known).collect());
    let seconds = setting("CHECKER_SECONDS").unwrap_or(SECONDS);
    let (first, runs) = match setting("CHECKER_SEED") {
        Some(seed) => (seed, 1),
        None => (1, setting("CHECKER_RUNS").unwrap_or(3)),
    };
    let count = seconds.div_ceil(10) as usize;
    let faults: Option<Vec<Fault>> = only.map(|faults| faults.into_iter().cycle().take(count).collect());
    let broken = |seed: &u64| !keeps_promises(*seed, seconds, faults.as_deref(), ALONE);
    let failed: Vec<u64> = (first..first + runs).filter(broken).collect();
    assert!(failed.is_empty(), "seeds {failed:?}: see above");
}
