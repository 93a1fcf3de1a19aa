//! One target under one workload, measured in rounds.
//!
//! Owns: the order of things: connect, warm up, measure, pause, check.
//! Never: talks to a server itself; its workers do.

pub mod broker;
pub mod costs;
pub mod sample;
mod seekers;
pub mod target;
pub mod workers;

use std::thread::sleep;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use self::costs::Costs;
use self::sample::SystemCalls;
use self::target::{Options, Target};
use self::workers::Workers;
use crate::report::Outcome;
use crate::worker::protocol::histogram;
use crate::workload::{Kind, Workload};

/// How a measurement is made, besides its workload.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How the server is started.
    pub server: Options,
    /// Cores of the workers.
    pub cores: Vec<usize>,
    /// Worker processes; 0: as many as are needed.
    pub workers: usize,
    /// Whether system calls are counted, for a second after each measurement.
    pub system_calls: bool,
    /// Whether no progress is shown.
    pub quiet: bool,
}

/// A target with all its connections.
pub struct Session {
    /// What is measured.
    pub target: Target,
    /// What it cost to connect everything.
    pub set_up: SetUp,
    /// Latencies of the last round, in nanoseconds.
    pub latency: Histogram<u64>,
    workload: Workload,
    plan: Plan,
    workers: Workers,
    /// How long what is under way may take.
    patience: Duration,
}

/// What it cost to connect everything.
#[derive(Clone, Debug)]
pub struct SetUp {
    /// Connections.
    pub connections: usize,
    /// From the first to the last.
    pub elapsed: Duration,
    /// The server before and after.
    pub samples: (Costs, Costs),
}

/// As long as what is under way may take.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// After so long, what is left of connections that ended stays.
const LEFT_MAX: Duration = Duration::from_secs(60);
/// Connections of one worker process: below the usual limits of descriptors and of ports.
const PER_WORKER: usize = 18_000;

impl Session {
    /// Starts the target and connects everything.
    ///
    /// # Errors
    /// What keeps it from being measured.
    pub fn open(what: &str, workload: &Workload, plan: &Plan) -> Result<Self, String> {
        let target = Target::open(what, workload, &plan.server)?;
        let connections = workload.connections();
        let sockets = connections + workload.sockets() + workload.requests();
        let needed = sockets.div_ceil(PER_WORKER.min(descriptors().saturating_sub(64)).max(1));
        let count = plan.workers.max(needed).max(1).min(sockets.max(1));
        let patience = Duration::from_secs(30)
            + Duration::from_millis(connections as u64 * 4)
            + Duration::from_micros(workload.announcements() * 3)
            + Duration::from_micros(workload.requests_that_wait() * 500);
        let (before, began) = (costs::take(&target), Instant::now());
        let workers = Workers::start(workload, &target, &plan.cores, count, patience, plan.quiet)?;
        let set_up = SetUp {
            connections,
            elapsed: began.elapsed(),
            samples: (before, costs::take(&target)),
        };
        let requests = if workload.meet {
            workload.requests_that_wait()
        } else {
            0
        };
        Ok(Self {
            patience: PAUSE_MAX + Duration::from_micros(requests * 1000),
            set_up,
            latency: histogram(),
            target,
            workload: workload.clone(),
            plan: plan.clone(),
            workers,
        })
    }

    /// One warm-up and one measurement; afterwards nothing is under way.
    ///
    /// # Errors
    /// A worker or the target has ended. What the target did wrong is in the outcome.
    pub fn round(&mut self) -> Result<Outcome, String> {
        self.workers.begin()?;
        sleep(Duration::from_secs_f64(self.workload.warm_up));
        self.workers.forget()?;
        let (before, started, counts_before) = (costs::take(&self.target), Instant::now(), self.workers.mark()?);
        if self.workload.scenario == Kind::NodeLoss {
            self.target.kill_last();
            self.workers.node_lost()?;
        }
        sleep(Duration::from_secs_f64(self.workload.seconds));
        let (after, elapsed, counts_after) = (costs::take(&self.target), started.elapsed(), self.workers.mark()?);
        let calls = match (self.plan.system_calls, self.target.pid) {
            (true, Some(pid)) => self.count_calls(pid)?,
            _ => None,
        };
        self.workers.pause(self.patience)?;
        let (latency, report) = self.workers.report()?;
        self.latency = latency;
        Ok(Outcome::new(
            &self.target.name,
            &self.set_up,
            elapsed,
            (&before, &after),
            counts_after.since(&counts_before),
            calls,
            &self.latency,
            &report,
        ))
    }

    /// Ends all connections. Whether nothing is left of them with the broker, if there is one.
    pub fn close(self) -> bool {
        let Self { target, workers, .. } = self;
        drop(workers);
        if target.broker.is_none() {
            return true;
        }
        let began = Instant::now();
        loop {
            let left = target.left();
            if left.is_empty() {
                if !self.plan.quiet {
                    let elapsed = began.elapsed().as_secs_f64();
                    eprintln!("{}: all gone after {elapsed:.2} s", target.name);
                }
                return true;
            }
            if began.elapsed() > LEFT_MAX {
                let some: Vec<&str> = left.iter().take(5).map(String::as_str).collect();
                let (name, number) = (&target.name, left.len());
                eprintln!("FAIL {name}: {number} things are left: {}", some.join(", "));
                return false;
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Whether nothing was refused from the beginning to now; says what was.
    ///
    /// # Errors
    /// A worker has ended or does not answer.
    pub fn nothing_was_refused(&mut self) -> Result<bool, String> {
        let refused = self.workers.mark()?.refused;
        if refused > 0 {
            eprintln!("FAIL {}: {refused} messages or requests were refused", self.target.name);
        }
        Ok(refused == 0)
    }

    /// System calls of the server for each message that arrives. The counter attaches some time after it was started, so
    /// the rate of the calls is set against the rate of the messages, both over their own times.
    fn count_calls(&mut self, pid: u32) -> Result<Option<f64>, String> {
        let Some(calls) = SystemCalls::begin(pid) else {
            return Ok(None);
        };
        let (before, began) = (self.workers.mark()?, Instant::now());
        sleep(Duration::from_millis(1500));
        let (arrived, elapsed) = (self.workers.mark()?.since(&before).arrived, began.elapsed());
        let messages_per_second = arrived as f64 / elapsed.as_secs_f64();
        Ok(calls.end_per_second().map(|calls| calls / messages_per_second.max(1.0)))
    }
}

/// Open files that one process may have.
pub fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map_or(usize::MAX, |limit| limit as usize)
}
