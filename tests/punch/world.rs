//! The punch state of several loops, without sockets: one inbox a loop, mail delayed between pushes as the seed wants,
//! a virtual clock. For every dialect.
//!
//! Owns: which loop a datagram arrives at, and what is under way.
//! Never: knows what a dialect's messages mean.
#![allow(dead_code, reason = "each test that includes it uses a part")]

use std::collections::VecDeque;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::SocketAddr;
use std::sync::Arc;

use peer_server::ids::{ConnId, Homes, LoopId};
use peer_server::message::matchmaker::Told;
use peer_server::message::punch::{Dropped, Path};
use peer_server::shard::punch::{Event, Limits, Mail, Output, Permits, Punch};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// One datagram that left.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) at_ms: u64,
    /// The loop that sent it.
    pub(crate) from: usize,
    pub(crate) path: Path,
    pub(crate) event: Event,
}

pub(crate) struct World {
    pub(crate) loops: Vec<Punch>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) now_ms: u64,
    /// What left and was not taken yet.
    pub(crate) sent: Vec<Sent>,
    /// What connections were told and was not taken yet.
    pub(crate) told: Vec<(ConnId, Told)>,
    /// One in so many of the mails that may be lost is; 0: none.
    pub(crate) lost_one_in: u32,
    pub(crate) random: StdRng,
    /// Mail under way: by sender, then by receiver, each in order.
    links: Vec<VecDeque<Mail>>,
}

impl World {
    pub(crate) fn new(seed: u64, loops: u16, limits: Limits) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let homes = Homes::new(loops, random.random());
        let (limits, permits) = (Arc::new(limits), Arc::new(Permits::default()));
        let punch = |id| {
            let id = LoopId::new(id);
            Punch::new(id, homes.clone(), limits.clone(), permits.clone(), random.random())
        };
        Self {
            loops: (0..loops).map(punch).collect(),
            permits,
            now_ms: 1_000_000,
            sent: Vec::new(),
            told: Vec::new(),
            lost_one_in: 0,
            random,
            links: (0..loops * loops).map(|_| VecDeque::new()).collect(),
        }
    }

    /// The loop that the kernel gives the datagrams of this address to: always the same.
    pub(crate) fn arrives_at(&self, remote: SocketAddr) -> usize {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(remote);
        (hash % self.loops.len() as u64) as usize
    }

    /// The way from an address to the first socket.
    pub(crate) fn path(remote: SocketAddr) -> Path {
        Path {
            socket: 0,
            local: None,
            remote,
        }
    }

    /// Gives the loop of this address something of it: its function is to call `handle_…` with the time.
    pub(crate) fn receive(&mut self, remote: SocketAddr, handle: impl FnOnce(&mut Punch, u64)) {
        let at = self.arrives_at(remote);
        let now_ms = self.now_ms;
        handle(&mut self.loops[at], now_ms);
        self.drain(at);
    }

    /// Delivers the oldest mail of one link, drawn from the seed. False: none is under way.
    pub(crate) fn deliver_one(&mut self) -> bool {
        let busy: Vec<usize> = (0..self.links.len()).filter(|at| !self.links[*at].is_empty()).collect();
        if busy.is_empty() {
            return false;
        }
        let link = busy[self.random.random_range(0..busy.len())];
        let (to, now_ms) = (link % self.loops.len(), self.now_ms);
        if let Some(mail) = self.links[link].pop_front() {
            self.loops[to].handle_mail(mail, now_ms);
            self.drain(to);
        }
        true
    }

    /// Delivers until no mail is under way.
    pub(crate) fn settle(&mut self) {
        while self.deliver_one() {}
    }

    /// How much mail is under way.
    pub(crate) fn under_way(&self) -> usize {
        self.links.iter().map(VecDeque::len).sum()
    }

    /// Lets time pass; what becomes due meanwhile is done when it is due. Mail stays under way.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        loop {
            let due = |(at, punch): (usize, &Punch)| punch.poll_timeout().map(|due_ms| (due_ms, at));
            let next = self.loops.iter().enumerate().filter_map(due).min();
            let Some((due_ms, at)) = next.filter(|(due_ms, _)| *due_ms <= end_ms) else {
                break;
            };
            self.now_ms = self.now_ms.max(due_ms);
            let now_ms = self.now_ms;
            self.loops[at].handle_timeout(now_ms);
            let next = self.loops[at].poll_timeout();
            assert!(next.is_none_or(|due_ms| due_ms > now_ms), "due again at once");
            self.drain(at);
        }
        self.now_ms = end_ms;
    }

    /// Delivers what is under way, lets time pass, and delivers what that caused.
    pub(crate) fn settle_for(&mut self, ms: u64) {
        self.settle();
        self.pass(ms);
        self.settle();
    }

    /// Takes what left.
    pub(crate) fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// How many requests of all loops came to nothing for this reason.
    pub(crate) fn dropped(&self, reason: Dropped) -> u64 {
        self.loops
            .iter()
            .map(|punch| punch.counters().dropped[reason as usize])
            .sum()
    }

    /// Whether nothing is due on any loop, so that whatever has a time has ended.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way() == 0 && self.loops.iter().all(|punch| punch.poll_timeout().is_none())
    }

    fn drain(&mut self, at: usize) {
        while let Some(output) = self.loops[at].poll_output() {
            match output {
                Output::Datagram { path, event } => self.sent.push(Sent {
                    at_ms: self.now_ms,
                    from: at,
                    path,
                    event,
                }),
                Output::Mail { to, mail, droppable } => {
                    let lost = droppable && self.lost_one_in != 0 && self.random.random_ratio(1, self.lost_one_in);
                    if !lost {
                        self.links[at * self.loops.len() + to.index()].push_back(mail);
                    }
                }
                Output::Connection { conn, told } => self.told.push((conn, told)),
            }
        }
    }
}
