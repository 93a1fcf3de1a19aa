//! `connect`: a storm of connections. `peers` are held; each that becomes ready takes the place of the oldest, which is
//! closed by a reset, as a client that vanishes. Closed loop: with `window` under way, the next when one is ready. Open
//! loop (`rate`): at fixed times, and a latency counts from the time at which a connection should have begun.
//!
//! Every connection is a new peer; it counts when the server has called it by its fingerprint and listed its namespace.
//!
//! Owns: the proof that every connection becomes a registered peer in its namespace, or is refused.
//! Never: sends anything on a connection that is ready.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::{Scenario, inbox, share};
use crate::worker::io::Io;
use crate::worker::protocol::Job;
use crate::worker::setup::Fault;

/// A worker's share of the storm.
pub struct Connect {
    /// Connections that are held.
    peers: usize,
    namespace_size: usize,
    window: usize,
    /// Connections a second of this worker; 0: closed loop.
    rate: f64,
    began_ns: u64,
    due: u64,
    running: bool,
    /// Who comes next: nobody comes twice.
    next: usize,
    /// Since when each is under way, or should be.
    under_way: HashMap<usize, u64>,
    /// Ready connections, the oldest first: slot and peer.
    held: VecDeque<(usize, usize)>,
}

impl Connect {
    /// The worker's share of connections.
    pub fn new(job: &Job) -> Self {
        let peers = share(job, job.workload.peers);
        Self {
            peers,
            namespace_size: job.workload.namespace_size,
            window: share(job, job.workload.window).max(1),
            rate: job.workload.rate / job.workers as f64,
            began_ns: 0,
            due: 0,
            running: false,
            next: peers,
            under_way: HashMap::new(),
            held: VecDeque::new(),
        }
    }

    fn begin(&mut self, io: &mut Io, began_ns: u64) {
        self.under_way.insert(self.next, began_ns);
        io.wanted.push_back(self.next);
        io.counts.sent += 1;
        self.next += 1;
    }

    /// One is no longer under way: in the closed loop, the next.
    fn go_on(&mut self, io: &mut Io) {
        if self.running && self.rate == 0.0 {
            let now_ns = io.now_ns();
            self.begin(io, now_ns);
        }
    }
}

impl Scenario for Connect {
    fn peers(&self) -> usize {
        self.peers
    }

    fn namespaces(&self, peer: usize) -> Vec<String> {
        vec![format!("connect-{}", peer / self.namespace_size)]
    }

    fn on_ready(&mut self, io: &mut Io, slot: usize) {
        let peer = io.links[slot].peer;
        self.held.push_back((slot, peer));
        let Some(began_ns) = self.under_way.remove(&peer) else {
            return;
        };
        io.counts.arrived += 1;
        let now_ns = io.now_ns();
        io.latency.saturating_record(now_ns.saturating_sub(began_ns).max(1));
        if self.held.len() > self.peers
            && let Some((oldest, _)) = self.held.pop_front()
        {
            io.reset(oldest);
        }
        self.go_on(io);
    }

    fn start(&mut self, io: &mut Io) {
        self.running = true;
        self.began_ns = io.now_ns();
        self.due = 0;
        if self.rate == 0.0 {
            (0..self.window).for_each(|_| self.begin(io, self.began_ns));
        }
    }

    fn pause(&mut self, _io: &mut Io) {
        self.running = false;
    }

    fn is_quiet(&self) -> bool {
        self.under_way.is_empty()
    }

    fn describe_missing(&self) -> String {
        format!("{} connections were neither made nor refused", self.under_way.len())
    }

    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        inbox::each(io, slot, bytes, |_, _| {})
    }

    fn on_turn(&mut self, io: &mut Io) -> Option<Duration> {
        if self.rate == 0.0 || !self.running {
            return None;
        }
        let now_ns = io.now_ns();
        loop {
            let at_ns = self.began_ns + (self.due as f64 * 1e9 / self.rate) as u64;
            if at_ns > now_ns {
                break;
            }
            self.begin(io, at_ns);
            self.due += 1;
        }
        // The poll sleeps in whole milliseconds, which is too long: it spins.
        Some(Duration::ZERO)
    }

    fn on_fault(&mut self, io: &mut Io, peer: usize, fault: &Fault) {
        self.under_way.remove(&peer);
        match fault.refused {
            true => io.counts.refused += 1,
            false => io.fail(format!("peer {peer} could not connect: {}", fault.why)),
        }
        self.go_on(io);
    }

    fn on_ended(&mut self, io: &mut Io, _slot: usize, peer: usize, why: &str) {
        self.held.retain(|(_, held)| *held != peer);
        io.fail(format!("peer {peer} lost its connection: {why}"));
    }
}
