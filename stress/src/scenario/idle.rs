//! `idle`: peers connect, register, join, and then only answer pings: what a connection and a peer cost.
//!
//! Owns: the proof that nobody loses its connection.
//! Never: sends.

use super::{Scenario, inbox, share};
use crate::worker::io::Io;
use crate::worker::protocol::Job;

/// A worker's share of peers.
pub struct Idle {
    peers: usize,
    namespace_size: usize,
}

impl Idle {
    /// The worker's share of peers.
    pub fn new(job: &Job) -> Self {
        Self {
            peers: share(job, job.workload.peers),
            namespace_size: job.workload.namespace_size,
        }
    }
}

impl Scenario for Idle {
    fn peers(&self) -> usize {
        self.peers
    }

    fn namespaces(&self, peer: usize) -> Vec<String> {
        vec![format!("idle-{}", peer / self.namespace_size)]
    }

    fn on_ready(&mut self, _io: &mut Io, _slot: usize) {}

    fn start(&mut self, _io: &mut Io) {}

    fn pause(&mut self, _io: &mut Io) {}

    fn is_quiet(&self) -> bool {
        true
    }

    fn describe_missing(&self) -> String {
        String::new()
    }

    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        inbox::each(io, slot, bytes, |_, _| {})
    }
}
