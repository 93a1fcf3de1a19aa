//! Links between loops: real outboxes, one inbox a loop, and any delay between two pushes.
//!
//! Owns: what travels, what was pushed, and the byte budget of traffic.
//! Never: decides when something is pushed or handled; the schedule does.

use std::collections::VecDeque;
use std::rc::Rc;

use peer_server::ids::LoopId;
use peer_server::mailbox::{Batch, Outbox};
use peer_server::shard::{DirectMail, FanOutMail, Mail};

/// What travels.
#[derive(Debug)]
pub(crate) enum Delivery {
    Mail(Mail),
    Direct(DirectMail),
    FanOut(FanOutMail),
}

/// A batch in an inbox.
#[derive(Debug)]
struct Pushed {
    items: VecDeque<Delivery>,
    bytes: Rc<Vec<u8>>,
}

/// All outboxes and inboxes.
pub(crate) struct Links {
    outboxes: Vec<Outbox<Delivery>>,
    inboxes: Vec<VecDeque<Pushed>>,
    /// Bytes of traffic for each loop that were not handled, those not pushed included.
    unhandled: Vec<usize>,
    pub(crate) traffic_max: usize,
}

impl Links {
    pub(crate) fn new(loops: usize, traffic_max: usize) -> Self {
        Self {
            outboxes: (0..loops)
                .map(|id| Outbox::new(LoopId::new(id as u16), loops))
                .collect(),
            inboxes: (0..loops).map(|_| VecDeque::new()).collect(),
            unhandled: vec![0; loops],
            traffic_max,
        }
    }

    pub(crate) fn control(&mut self, from: usize, to: LoopId, mail: Mail) {
        assert_ne!(from, to.index(), "a shard keeps its own mail");
        self.outboxes[from].control(to, Delivery::Mail(mail));
    }

    /// The batch for traffic of exactly `bytes` bytes; None: over budget.
    pub(crate) fn traffic(&mut self, from: usize, to: LoopId, bytes: usize) -> Option<&mut Batch<Delivery>> {
        assert_ne!(from, to.index(), "traffic to oneself is local");
        let unhandled = &mut self.unhandled[to.index()];
        if *unhandled + bytes > self.traffic_max {
            return None;
        }
        *unhandled += bytes;
        Some(self.outboxes[from].traffic(to))
    }

    pub(crate) fn to_push(&self, from: usize) -> bool {
        !self.outboxes[from].is_empty()
    }

    /// Pushes the next batch of a loop; returns where it went.
    pub(crate) fn push(&mut self, from: usize) -> Option<usize> {
        let (to, mut batch) = self.outboxes[from].pop()?;
        assert_eq!(batch.from.index(), from);
        let items = std::mem::take(&mut batch.items).into();
        let bytes = Rc::new(std::mem::take(&mut batch.bytes));
        self.outboxes[from].recycle(batch);
        self.inboxes[to.index()].push_back(Pushed { items, bytes });
        Some(to.index())
    }

    /// How many items the first batch of an inbox still holds.
    pub(crate) fn first_batch(&self, at: usize) -> usize {
        self.inboxes[at].front().map_or(0, |batch| batch.items.len())
    }

    /// The next item of an inbox and the bytes that it refers to.
    pub(crate) fn next(&mut self, at: usize) -> Option<(Delivery, Rc<Vec<u8>>)> {
        let first = self.inboxes[at].front_mut()?;
        let (item, bytes) = (first.items.pop_front()?, first.bytes.clone());
        if first.items.is_empty() {
            self.unhandled[at] -= bytes.len();
            self.inboxes[at].pop_front();
        }
        Some((item, bytes))
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.outboxes.iter().all(Outbox::is_empty) && self.inboxes.iter().all(VecDeque::is_empty)
    }

    pub(crate) fn check_quiet(&self) {
        assert!(
            self.unhandled.iter().all(|bytes| *bytes == 0),
            "traffic bytes are given back"
        );
    }
}
