//! `ping`: peers ping in JSON. Closed loop: with `window` under way, the next when a pong arrives. Open loop (`rate`): at
//! fixed times, and a latency counts from the time at which a ping should have left.
//!
//! Owns: the proof that each ping has one pong. They carry no number; a connection keeps their order, so the first pong
//! answers the first ping.
//! Never: joins anything.

use std::collections::VecDeque;
use std::time::Duration;

use super::message::{self, Message, show};
use super::pace::Pace;
use super::{Scenario, inbox, share};
use crate::worker::io::Io;
use crate::worker::protocol::Job;

/// A pong as servers write it; another way to write it costs the generator more.
const PONG: &[u8] = b"\x81\x0f{\"type\":\"pong\"}";

/// A worker's share of peers.
pub struct Ping {
    window: usize,
    pace: Pace,
    sending: bool,
    frame: Vec<u8>,
    slots: Vec<usize>,
    /// By peer: when each ping under way left, or should have.
    left_ns: Vec<VecDeque<u64>>,
}

impl Ping {
    /// The worker's share of peers.
    pub fn new(job: &Job) -> Self {
        let peers = share(job, job.workload.peers_or_some());
        Self {
            window: job.workload.window,
            pace: Pace::new(job),
            sending: false,
            frame: message::frame(r#"{"type":"ping"}"#, job.workload.compression),
            slots: vec![usize::MAX; peers],
            left_ns: vec![VecDeque::new(); peers],
        }
    }

    fn send(&mut self, io: &mut Io, peer: usize, count: usize, left_ns: u64) {
        // A connection that was lost has failed the run already.
        if count == 0 || !io.links.contains(self.slots[peer]) {
            return;
        }
        self.left_ns[peer].extend(std::iter::repeat_n(left_ns, count));
        io.counts.sent += count as u64;
        let frame = &self.frame;
        io.append(self.slots[peer], |out| {
            (0..count).for_each(|_| out.extend_from_slice(frame));
        });
    }

    /// A pong, or a ping that was refused, which has its place in the order as well.
    fn on_answer(&mut self, io: &mut Io, peer: usize, refused: bool) {
        let Some(left_ns) = self.left_ns[peer].pop_front() else {
            return io.fail(format!("peer {peer}: more answers than pings"));
        };
        if refused {
            io.counts.refused += 1;
            return;
        }
        io.counts.arrived += 1;
        io.latency.saturating_record((io.now_ns() - left_ns).max(1));
    }
}

impl Scenario for Ping {
    fn peers(&self) -> usize {
        self.slots.len()
    }

    fn on_ready(&mut self, io: &mut Io, slot: usize) {
        self.slots[io.links[slot].peer] = slot;
    }

    fn start(&mut self, io: &mut Io) {
        self.sending = true;
        let now_ns = io.now_ns();
        self.pace.begin(now_ns);
        if !self.pace.is_open() {
            for peer in 0..self.slots.len() {
                self.send(io, peer, self.window, now_ns);
            }
        }
    }

    fn pause(&mut self, _io: &mut Io) {
        self.sending = false;
    }

    fn is_quiet(&self) -> bool {
        self.left_ns.iter().all(VecDeque::is_empty)
    }

    fn describe_missing(&self) -> String {
        let missing: usize = self.left_ns.iter().map(VecDeque::len).sum();
        format!("{missing} pings have no pong")
    }

    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        let peer = io.links[slot].peer;
        let before = self.left_ns[peer].len();
        let mut at = 0;
        loop {
            if bytes[at..].starts_with(PONG) {
                self.on_answer(io, peer, false);
                at += PONG.len();
                continue;
            }
            let used = inbox::one(io, slot, &bytes[at..], &mut |io, text| match Message::read(text) {
                Some(message) if message.kind == "pong" => self.on_answer(io, peer, false),
                Some(message) if message.is_refusal() => self.on_answer(io, peer, true),
                _ => io.fail(format!("peer {peer} got {}", show(text))),
            });
            if used == 0 {
                break;
            }
            at += used;
        }
        if self.sending && !self.pace.is_open() {
            let now_ns = io.now_ns();
            self.send(io, peer, before - self.left_ns[peer].len(), now_ns);
        }
        at
    }

    fn on_turn(&mut self, io: &mut Io) -> Option<Duration> {
        if !self.pace.is_open() || !self.sending || self.slots.is_empty() {
            return None;
        }
        while let Some((index, at_ns)) = self.pace.take(io.now_ns()) {
            self.send(io, index % self.slots.len(), 1, at_ns);
        }
        // The poll sleeps in whole milliseconds, which is too long: it spins.
        Some(Duration::ZERO)
    }
}
