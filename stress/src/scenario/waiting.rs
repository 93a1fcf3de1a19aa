//! Clients that seek a game server and wait, while something else is measured: nobody answers their requests.
//!
//! Owns: the proof that each was told that its request is under way, once, and nothing else.
//! Never: lets them give up.

use super::inbox;
use super::seek;
use crate::worker::io::Io;

/// A worker's share of them: the peers from one number on.
pub struct Waiting {
    first: usize,
    /// Whose request is under way.
    acknowledged: Vec<bool>,
}

impl Waiting {
    /// So many, numbered from `first`.
    pub fn new(first: usize, count: usize) -> Self {
        Self {
            first,
            acknowledged: vec![false; count],
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.acknowledged.len()
    }

    /// Whether this peer is one of them.
    pub fn has(&self, peer: usize) -> bool {
        peer >= self.first
    }

    /// Its connection is ready.
    pub fn begin(&self, io: &mut Io, slot: usize) {
        seek::ask(io, slot);
    }

    /// Whether all requests are under way.
    pub fn all_wait(&self) -> bool {
        self.acknowledged.iter().all(|acknowledged| *acknowledged)
    }

    /// Takes what it is told. Returns how much was used.
    pub fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        let peer = io.links[slot].peer;
        let acknowledged = &mut self.acknowledged[peer - self.first];
        inbox::each(io, slot, bytes, |io, text| match text {
            br#""Acknowledged""# if !*acknowledged => *acknowledged = true,
            other => io.fail(format!(
                "client {peer}, who waits, was told {}",
                String::from_utf8_lossy(other)
            )),
        })
    }
}
