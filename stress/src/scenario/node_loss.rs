//! `node-loss`: members of namespaces that are spread over the nodes of a cluster do nothing, until a node is killed. How
//! long it takes until those of the other nodes are told of each that it served: a `peer_left` counts as a message, and its
//! latency is from the kill.
//!
//! Owns: the proof that each who stays is told once of each who is gone, and of nobody else.
//! Never: kills; the coordinator does.

use std::collections::{HashMap, HashSet};

use super::message::{Message, show};
use super::{Scenario, inbox, share};
use crate::worker::io::Io;
use crate::worker::protocol::Job;
use crate::worker::setup;

/// A worker's share of peers.
pub struct NodeLoss {
    size: usize,
    /// By peer: whether its node is killed.
    lost: Vec<bool>,
    by_fingerprint: HashMap<String, usize>,
    /// When it was.
    killed_ns: Option<u64>,
    /// Who has still to hear of whom.
    due: HashSet<(usize, usize)>,
}

impl NodeLoss {
    /// The worker's share of namespaces.
    pub fn new(job: &Job) -> Self {
        let size = job.workload.namespace_size;
        let peers = share(job, job.workload.groups()) * size;
        let last = job.nodes.last().copied();
        let lost: Vec<bool> = (0..peers).map(|peer| Some(job.node_of(peer)) == last).collect();
        let others = |peer: usize| (peer / size * size..(peer / size + 1) * size).map(move |other| (peer, other));
        let due = (0..peers)
            .flat_map(others)
            .filter(|(peer, gone)| !lost[*peer] && lost[*gone]);
        Self {
            size,
            due: due.collect(),
            lost,
            by_fingerprint: (0..peers).map(|peer| (setup::fingerprint(job, peer), peer)).collect(),
            killed_ns: None,
        }
    }

    fn on_text(&mut self, io: &mut Io, peer: usize, text: &[u8]) {
        let message = Message::read(text);
        let Some((message, killed_ns)) = message.zip(self.killed_ns) else {
            // News of those who joined after it.
            if Message::read(text).is_none_or(|message| message.kind != "peer_joined") {
                io.fail(format!("peer {peer} got {} while all were there", show(text)));
            }
            return;
        };
        let gone = message.from.and_then(|from| self.by_fingerprint.get(from)).copied();
        match gone {
            Some(gone) if message.kind == "peer_left" && self.due.remove(&(peer, gone)) => {
                io.counts.arrived += 1;
                io.latency
                    .saturating_record(io.now_ns().saturating_sub(killed_ns).max(1));
            }
            _ => io.fail(format!("peer {peer} got {}", show(text))),
        }
    }
}

impl Scenario for NodeLoss {
    fn peers(&self) -> usize {
        self.lost.len()
    }

    fn namespaces(&self, peer: usize) -> Vec<String> {
        vec![format!("node-loss-{}", peer / self.size)]
    }

    fn start(&mut self, _io: &mut Io) {}

    fn pause(&mut self, _io: &mut Io) {}

    fn on_node_lost(&mut self, io: &mut Io) {
        self.killed_ns.get_or_insert(io.now_ns());
    }

    fn is_quiet(&self) -> bool {
        self.killed_ns.is_some() && self.due.is_empty()
    }

    fn describe_missing(&self) -> String {
        format!("{} were not told that another is gone", self.due.len())
    }

    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        let peer = io.links[slot].peer;
        inbox::each(io, slot, bytes, |io, text| self.on_text(io, peer, text))
    }

    fn on_ended(&mut self, io: &mut Io, _slot: usize, peer: usize, why: &str) {
        match self.lost[peer] {
            // It may be seen before the coordinator says so.
            true => drop(self.killed_ns.get_or_insert(io.now_ns())),
            false => io.fail(format!("peer {peer} lost its connection: {why}")),
        }
    }
}
