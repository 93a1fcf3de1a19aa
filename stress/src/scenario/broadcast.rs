//! `broadcast`: one peer of each namespace broadcasts to all others; the next leaves when all have an earlier one.
//!
//! Owns: the proof that each broadcast reaches each member once, in order and unchanged.
//! Never: sends more than the window.

use std::collections::VecDeque;

use serde_json::Value;

use super::pattern::{Expected, Outgoing, payload};
use super::{Scenario, inbox, share};
use crate::worker::io::Io;
use crate::worker::protocol::{Job, Wire};
use crate::worker::setup;

/// A worker's groups. Peer 0 of each sends.
pub struct Broadcast {
    groups: Vec<Group>,
    wanted: usize,
    members: usize,
    window: u64,
    size: usize,
    sending: bool,
    slots: Vec<usize>,
    /// What each peer expects next: its number and its form.
    next: Vec<(u64, Option<Expected>)>,
}

struct Group {
    outgoing: Outgoing,
    payload: String,
    digits_at: usize,
    from: String,
    sent: u64,
    /// Copies that arrived, and that were refused.
    arrived: u64,
    refused: u64,
    left_ns: VecDeque<u64>,
}

impl Broadcast {
    /// The worker's share of groups.
    pub fn new(job: &Job) -> Self {
        let members = job.workload.namespace_size;
        let wanted = share(job, job.workload.groups());
        Self {
            groups: Vec::new(),
            wanted,
            members,
            window: job.workload.window as u64,
            size: job.workload.size,
            sending: false,
            slots: vec![usize::MAX; wanted * members],
            next: Vec::new(),
        }
    }

    fn send(&mut self, io: &mut Io, index: usize, count: u64) {
        let group = &mut self.groups[index];
        group.sent += count;
        io.counts.sent += count;
        let now_ns = io.now_ns();
        (0..count).for_each(|_| group.left_ns.push_back(now_ns));
        let outgoing = &mut group.outgoing;
        io.append(self.slots[index * self.members], |out| outgoing.push(out, count));
    }

    fn on_arrivals(&mut self, io: &mut Io, peer: usize, slot: usize, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let (number, expected) = &mut self.next[peer];
            if let Some(known) = expected
                && let Some(len) = known.matches(&bytes[at..])
            {
                known.advance();
                *number += 1;
                at += len;
                self.on_copy(io, peer / self.members);
                continue;
            }
            let whole = expected.as_ref().is_some_and(|known| bytes.len() - at >= known.len());
            if io.job.wire == Wire::Floor {
                if whole {
                    io.fail(format!("peer {peer}: other bytes than were sent"));
                    return bytes.len();
                }
                return at;
            }
            let used = inbox::one(io, slot, &bytes[at..], &mut |io, text| self.on_text(io, peer, text));
            if used == 0 {
                return at;
            }
            let group = &self.groups[peer / self.members];
            let (number, expected) = &mut self.next[peer];
            if expected.is_none() && *number > 1 {
                *expected = Expected::learn(&bytes[at..at + used], &group.payload, group.digits_at, *number - 1);
            }
            at += used;
        }
    }

    /// A message that is not just the next.
    fn on_text(&mut self, io: &mut Io, peer: usize, text: &[u8]) {
        let index = peer / self.members;
        let message: Value = serde_json::from_slice(text).unwrap_or_default();
        let kind = message["type"].as_str().unwrap_or_default();
        match kind {
            "peer_joined" | "peer_left" => return,
            // Refused copies: how many is in the text.
            "error" if peer.is_multiple_of(self.members) => {
                let words = message["payload"]["message"].as_str().unwrap_or_default();
                let copies = words.split(' ').find_map(|word| word.parse::<u64>().ok()).unwrap_or(0);
                self.groups[index].refused += copies;
                io.counts.refused += copies;
                return;
            }
            _ => {}
        }
        let group = &self.groups[index];
        let payload: Value = serde_json::from_str(&group.payload).unwrap_or_default();
        let number = message["payload"]["data"]["n"]
            .as_str()
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0);
        let right = kind == "broadcast"
            && message["from"] == *group.from
            && message["payload"]["data"]["pair"] == payload["pair"]
            && message["payload"]["data"]["sdp"] == payload["sdp"]
            && (self.next[peer].0..=group.sent).contains(&number);
        if !right {
            let next = self.next[peer].0;
            return io.fail(format!("peer {peer}: instead of number {next} came {message}"));
        }
        self.next[peer] = (number + 1, None);
        self.on_copy(io, index);
    }

    fn on_copy(&mut self, io: &mut Io, index: usize) {
        let others = self.members as u64 - 1;
        let now_ns = io.now_ns();
        let group = &mut self.groups[index];
        group.arrived += 1;
        io.counts.arrived += 1;
        let place = (group.arrived - 1) % others;
        if let Some(left_ns) = group.left_ns.front() {
            io.latency.saturating_record((now_ns - left_ns).max(1));
        }
        if place + 1 == others {
            group.left_ns.pop_front();
            if self.sending {
                self.send(io, index, 1);
            }
        }
    }
}

impl Scenario for Broadcast {
    fn peers(&self) -> usize {
        self.wanted * self.members
    }

    fn namespaces(&self, peer: usize) -> Vec<String> {
        vec![format!("broadcast-{}", peer / self.members)]
    }

    fn group(&self, peer: usize) -> usize {
        peer / self.members
    }

    fn on_ready(&mut self, io: &mut Io, slot: usize) {
        self.slots[io.links[slot].peer] = slot;
    }

    fn prepare(&mut self, io: &mut Io) -> Result<(), String> {
        for index in 0..self.wanted {
            let (payload, digits_at) = payload(index, self.size);
            let name = setup::namespace(&io.job, &format!("broadcast-{index}"));
            let head = format!(r#"{{"type":"broadcast","payload":{{"namespace":"{name}","data":"#);
            let compressed = io.job.workload.compression && io.job.wire == Wire::Peers;
            let text = format!("{head}{payload}}}}}");
            let outgoing = Outgoing::new(&text, head.len() + digits_at, compressed);
            for _ in 0..self.members {
                let expected = (io.job.wire == Wire::Floor).then(|| outgoing.verbatim());
                self.next.push((1, expected));
            }
            self.groups.push(Group {
                outgoing,
                payload,
                digits_at,
                from: setup::fingerprint(&io.job, index * self.members),
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
        for index in 0..self.groups.len() {
            self.send(io, index, self.window);
        }
    }

    fn pause(&mut self, _io: &mut Io) {
        self.sending = false;
    }

    fn is_quiet(&self) -> bool {
        let others = self.members as u64 - 1;
        self.groups
            .iter()
            .all(|group| group.arrived + group.refused == group.sent * others)
    }

    fn describe_missing(&self) -> String {
        let others = self.members as u64 - 1;
        let missing: u64 = self
            .groups
            .iter()
            .map(|group| (group.sent * others).saturating_sub(group.arrived + group.refused))
            .sum();
        format!("{missing} copies were accepted and did not arrive")
    }

    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        let peer = io.links[slot].peer;
        match self.next.is_empty() {
            true => inbox::each(io, slot, bytes, |_, _| {}),
            false => self.on_arrivals(io, peer, slot, bytes),
        }
    }
}
