//! `signal`: one peer of each pair signals to the other. Closed loop: with `window` under way, the next when one arrives.
//! Open loop (`rate`): at fixed times, and a latency counts from the time at which a message should have left.
//!
//! Beside them, `seekers_waiting` wait for game servers (see `waiting`).
//!
//! Owns: the proof that each message arrives once, in order, at the right peer, and unchanged.
//! Never: sends more than the window.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde_json::Value;

use super::pattern::{Expected, Outgoing, payload};
use super::waiting::Waiting;
use super::{Scenario, inbox, share};
use crate::worker::io::Io;
use crate::worker::protocol::{Job, Wire};
use crate::worker::{place, setup};
use crate::workload::Placement;

/// A worker's pairs.
pub struct Signal {
    pairs: Vec<Pair>,
    /// How many there shall be.
    wanted: usize,
    peers: usize,
    /// Numbered after the peers.
    waiting: Waiting,
    namespace_size: usize,
    window: u64,
    size: usize,
    placement: Placement,
    /// Messages a second of this worker; 0: closed loop.
    rate: f64,
    sending: bool,
    /// When the open loop began, and how many messages have left since.
    began_ns: u64,
    due: u64,
    /// Slot of each peer.
    slots: Vec<usize>,
    /// Pair and role of each slot.
    roles: Vec<Option<(usize, Role)>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Sender,
    Receiver,
}

struct Pair {
    sender: usize,
    payload: String,
    digits_at: usize,
    outgoing: Outgoing,
    expected: Option<Expected>,
    /// Fingerprint of the sender.
    from: String,
    /// Number of the next message to arrive.
    next: u64,
    sent: u64,
    arrived: u64,
    refused: u64,
    /// When each message under way left, or should have.
    left_ns: VecDeque<u64>,
}

impl Pair {
    fn under_way(&self) -> u64 {
        self.sent.saturating_sub(self.arrived + self.refused)
    }
}

impl Signal {
    /// The worker's share of pairs, and of peers that do nothing.
    pub fn new(job: &Job) -> Self {
        let workload = &job.workload;
        let wanted = share(job, workload.pairs);
        let idle = share(job, workload.peers.saturating_sub(2 * workload.pairs));
        // Twice as many candidates as needed find enough pairs of the wanted kind on any number of loops that is usual.
        let spare = match workload.placement.is_of_loops() {
            true => 4 * wanted + 16,
            false => 0,
        };
        let peers = 2 * wanted + spare + idle;
        Self {
            pairs: Vec::new(),
            wanted,
            peers,
            waiting: Waiting::new(peers, share(job, workload.seekers_waiting)),
            namespace_size: workload.namespace_size,
            window: workload.window as u64,
            size: workload.size,
            placement: workload.placement,
            rate: workload.rate / job.workers as f64,
            sending: false,
            began_ns: 0,
            due: 0,
            slots: vec![usize::MAX; peers],
            roles: Vec::new(),
        }
    }

    /// Senders and receivers, by peer.
    fn choose(&self, io: &mut Io) -> Result<Vec<(usize, usize)>, String> {
        if !self.placement.is_of_loops() || io.job.wire == Wire::Floor {
            return Ok((0..self.wanted).map(|pair| (2 * pair, 2 * pair + 1)).collect());
        }
        let places = place::loops(io, &self.slots)?;
        let mut by_loop: HashMap<u32, Vec<usize>> = HashMap::new();
        for (peer, slot) in self.slots.iter().enumerate() {
            by_loop.entry(places[slot]).or_default().push(peer);
        }
        let mut loops: Vec<Vec<usize>> = by_loop.into_values().collect();
        let mut chosen = Vec::new();
        while chosen.len() < self.wanted {
            loops.sort_by_key(|peers| std::cmp::Reverse(peers.len()));
            let pair = match (self.placement, &mut loops[..]) {
                (Placement::CrossLoop, [one, other, ..]) => one.pop().zip(other.pop()),
                (Placement::SameLoop, [one, ..]) if one.len() >= 2 => one.pop().zip(one.pop()),
                _ => None,
            };
            chosen.push(pair.ok_or("the server's loops do not have enough peers for this placement; has it several?")?);
        }
        Ok(chosen)
    }

    fn send(&mut self, io: &mut Io, index: usize, count: u64, left_ns: u64) {
        let pair = &mut self.pairs[index];
        pair.sent += count;
        io.counts.sent += count;
        for _ in 0..count {
            pair.left_ns.push_back(left_ns);
        }
        let outgoing = &mut pair.outgoing;
        io.append(pair.sender, |out| outgoing.push(out, count));
    }

    fn on_arrivals(&mut self, io: &mut Io, index: usize, bytes: &[u8], slot: usize) -> usize {
        let (mut at, mut count) = (0, 0);
        let now_ns = io.now_ns();
        loop {
            let pair = &mut self.pairs[index];
            if let Some(expected) = &mut pair.expected
                && let Some(len) = expected.matches(&bytes[at..])
            {
                expected.advance();
                at += len;
                count += 1;
                pair.next += 1;
                if let Some(left_ns) = pair.left_ns.pop_front() {
                    io.latency.saturating_record((now_ns - left_ns).max(1));
                }
                continue;
            }
            let used = match io.job.wire {
                Wire::Peers => inbox::one(io, slot, &bytes[at..], &mut |io, text| {
                    count += self.on_unexpected(io, index, text);
                }),
                Wire::Floor => {
                    if pair
                        .expected
                        .as_ref()
                        .is_some_and(|expected| bytes.len() - at >= expected.len())
                    {
                        io.fail(format!("pair {index}: other bytes than were sent"));
                        self.pairs[index].next += 1;
                        return bytes.len();
                    }
                    0
                }
            };
            if used == 0 {
                break;
            }
            // From a frame that was right, the form of the next is learned.
            let pair = &mut self.pairs[index];
            if pair.expected.is_none() && pair.next > 1 {
                let frame = &bytes[at..at + used];
                pair.expected = Expected::learn(frame, &pair.payload, pair.digits_at, pair.next - 1);
            }
            at += used;
        }
        let pair = &mut self.pairs[index];
        pair.arrived += count;
        io.counts.arrived += count;
        if self.rate == 0.0 && self.sending && count > 0 {
            self.send(io, index, count, now_ns);
        }
        at
    }

    /// A message that is not just the next: the first, one after a refusal, or a fault. Returns how many arrived.
    fn on_unexpected(&mut self, io: &mut Io, index: usize, text: &[u8]) -> u64 {
        let now_ns = io.now_ns();
        let pair = &mut self.pairs[index];
        let Ok(message) = serde_json::from_slice::<Value>(text) else {
            io.fail(format!("pair {index}: a message that is not JSON"));
            return 0;
        };
        let kind = message["type"].as_str().unwrap_or_default();
        if let "peer_joined" | "peer_left" = kind {
            return 0;
        }
        let number = message["payload"]["n"].as_str().and_then(|n| n.parse::<u64>().ok());
        let (Some(number), "signal") = (number, kind) else {
            io.fail(format!(
                "pair {index}: its receiver got {}",
                String::from_utf8_lossy(text)
            ));
            return 0;
        };
        let payload: Value = serde_json::from_str(&pair.payload).unwrap_or_default();
        let right = message["from"] == *pair.from
            && message["payload"]["pair"] == payload["pair"]
            && message["payload"]["sdp"] == payload["sdp"];
        if !right || number < pair.next || number > pair.sent {
            let next = pair.next;
            io.fail(format!(
                "pair {index}: number {number} instead of {next}, or changed: {message}"
            ));
            return 0;
        }
        // Those between were refused, or are lost: at the end the count tells which.
        for _ in pair.next..number {
            pair.left_ns.pop_front();
        }
        if let Some(left_ns) = pair.left_ns.pop_front() {
            io.latency.saturating_record((now_ns - left_ns).max(1));
        }
        pair.next = number + 1;
        pair.expected = None;
        1
    }

    fn on_answers(&mut self, io: &mut Io, index: usize, bytes: &[u8], slot: usize) -> usize {
        let mut refused = 0;
        let used = inbox::each(io, slot, bytes, |io, text| {
            let message: Value = serde_json::from_slice(text).unwrap_or_default();
            match (message["type"].as_str(), message["payload"]["code"].as_u64()) {
                (Some("error"), Some(429)) => refused += 1,
                (Some("peer_joined" | "peer_left"), _) => {}
                _ => io.fail(format!(
                    "pair {index}: its sender got {}",
                    String::from_utf8_lossy(text)
                )),
            }
        });
        let pair = &mut self.pairs[index];
        pair.refused += refused;
        io.counts.refused += refused;
        if self.rate == 0.0 && self.sending && refused > 0 {
            let now_ns = io.now_ns();
            self.send(io, index, refused, now_ns);
        }
        used
    }
}

impl Scenario for Signal {
    fn peers(&self) -> usize {
        self.peers + self.waiting.count()
    }

    fn seeks(&self, peer: usize) -> bool {
        self.waiting.has(peer)
    }

    fn namespaces(&self, peer: usize) -> Vec<String> {
        match self.placement.is_of_loops() {
            true => vec!["signal".to_owned()],
            false => vec![format!("signal-{}", peer / self.namespace_size)],
        }
    }

    fn group(&self, peer: usize) -> usize {
        peer / 2
    }

    fn on_ready(&mut self, io: &mut Io, slot: usize) {
        match io.links[slot].peer {
            peer if self.waiting.has(peer) => self.waiting.begin(io, slot),
            peer => self.slots[peer] = slot,
        }
    }

    fn settle(&mut self, _io: &mut Io) -> bool {
        self.waiting.all_wait()
    }

    fn prepare(&mut self, io: &mut Io) -> Result<(), String> {
        self.roles = vec![None; io.links.capacity()];
        for (index, (sender, receiver)) in self.choose(io)?.into_iter().enumerate() {
            let (payload, digits_at) = payload(index, self.size);
            let to = setup::fingerprint(&io.job, receiver);
            let head = format!(r#"{{"type":"signal","to":"{to}","payload":"#);
            let compressed = io.job.workload.compression && io.job.wire == Wire::Peers;
            let outgoing = Outgoing::new(&format!("{head}{payload}}}"), head.len() + digits_at, compressed);
            let expected = (io.job.wire == Wire::Floor).then(|| outgoing.verbatim());
            self.roles[self.slots[sender]] = Some((index, Role::Sender));
            self.roles[self.slots[receiver]] = Some((index, Role::Receiver));
            self.pairs.push(Pair {
                sender: self.slots[sender],
                payload,
                digits_at,
                outgoing,
                expected,
                from: setup::fingerprint(&io.job, sender),
                next: 1,
                sent: 0,
                arrived: 0,
                refused: 0,
                left_ns: VecDeque::new(),
            });
        }
        Ok(())
    }

    fn start(&mut self, io: &mut Io) {
        self.sending = true;
        self.began_ns = io.now_ns();
        self.due = 0;
        if self.rate == 0.0 {
            for index in 0..self.pairs.len() {
                let count = self.window.saturating_sub(self.pairs[index].under_way());
                self.send(io, index, count, self.began_ns);
            }
        }
    }

    fn pause(&mut self, _io: &mut Io) {
        self.sending = false;
    }

    fn is_quiet(&self) -> bool {
        self.pairs.iter().all(|pair| pair.sent == pair.arrived + pair.refused)
    }

    fn describe_missing(&self) -> String {
        let missing: u64 = self.pairs.iter().map(Pair::under_way).sum();
        format!("{missing} messages were accepted and did not arrive")
    }

    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        if self.waiting.has(io.links[slot].peer) {
            return self.waiting.on_input(io, slot, bytes);
        }
        match self.roles.get(slot).copied().flatten() {
            Some((index, Role::Receiver)) => self.on_arrivals(io, index, bytes, slot),
            Some((index, Role::Sender)) => self.on_answers(io, index, bytes, slot),
            None => inbox::each(io, slot, bytes, |_, _| {}),
        }
    }

    fn on_turn(&mut self, io: &mut Io) -> Option<Duration> {
        if self.rate == 0.0 || !self.sending || self.pairs.is_empty() {
            return None;
        }
        let now_ns = io.now_ns();
        loop {
            let at_ns = self.began_ns + (self.due as f64 * 1e9 / self.rate) as u64;
            if at_ns > now_ns {
                break;
            }
            let index = self.due as usize % self.pairs.len();
            self.send(io, index, 1, at_ns);
            self.due += 1;
        }
        // The poll sleeps in whole milliseconds, which is too long: it spins.
        Some(Duration::ZERO)
    }
}
