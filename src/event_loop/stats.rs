//! `/stats`: the namespaces of all loops, gathered by mail.
//!
//! Owns: one gather at a time; whoever asks meanwhile shares its answer. A gather over many namespaces costs every loop
//! milliseconds, so the next one waits until ten times as long has passed.
//! Never: names rooms (peer protocol, D29).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Delivery, EventLoop};
use crate::dialect::status;
use crate::ids::{ConnId, LoopId};
use crate::shard::keep_largest;

/// Namespaces named at most (peer protocol, section 7).
const NAMED_MAX: usize = 10_000;

/// A loop wants to know.
#[derive(Debug)]
pub struct Asked {
    by: LoopId,
    number: u64,
}

/// A loop's part of the answer.
#[derive(Debug)]
pub struct Answered {
    number: u64,
    counts: Vec<(Arc<str>, u32)>,
}

/// The gather under way, if any.
#[derive(Debug, Default)]
pub(super) struct Gather {
    number: u64,
    outstanding: usize,
    counts: Vec<(Arc<str>, u32)>,
    /// Who waits for it; the flags: HEAD, keep-alive.
    waiting: Vec<(ConnId, bool, bool)>,
    began: Option<Instant>,
    /// The next gather begins no earlier.
    rest_until_ms: u64,
}

impl Gather {
    /// When a gather that is asked for may begin; None: none is due.
    pub(super) fn due_ms(&self) -> Option<u64> {
        (self.outstanding == 0 && !self.waiting.is_empty()).then_some(self.rest_until_ms)
    }
}

impl EventLoop {
    /// Has `/stats` sent to a connection when it is known.
    pub(super) fn gather_stats(&mut self, conn: ConnId, head_only: bool, keep_alive: bool) {
        self.stats.waiting.push((conn, head_only, keep_alive));
        self.begin_gather();
    }

    /// Asks all loops, if that is due.
    pub(super) fn begin_gather(&mut self) {
        if self.stats.due_ms().is_none_or(|due_ms| due_ms > self.clock.now_ms) {
            return;
        }
        // The turn's clock stands still while the work is done, and the work is what is measured.
        self.stats.began = Some(Instant::now());
        let loops = self.shard.homes().loops();
        self.stats.number += 1;
        self.stats.outstanding = loops;
        self.stats.counts = Vec::new();
        for index in 0..loops {
            let asked = Asked {
                by: self.id,
                number: self.stats.number,
            };
            match LoopId::new(index as u16) {
                own if own == self.id => self.on_stats_asked(asked),
                other => self.mailbox.control(other, Delivery::StatsAsked(asked)),
            }
        }
    }

    pub(super) fn on_stats_asked(&mut self, asked: Asked) {
        let answered = Answered {
            number: asked.number,
            counts: self.shard.namespace_counts(NAMED_MAX),
        };
        match asked.by == self.id {
            true => self.on_stats_answered(answered),
            false => self.mailbox.control(asked.by, Delivery::StatsAnswered(answered)),
        }
    }

    pub(super) fn on_stats_answered(&mut self, answered: Answered) {
        if answered.number != self.stats.number || self.stats.outstanding == 0 {
            return;
        }
        self.stats.counts.extend(answered.counts);
        self.stats.outstanding -= 1;
        if self.stats.outstanding > 0 {
            return;
        }
        let took = self.stats.began.map_or(Duration::ZERO, |began| began.elapsed());
        self.stats.rest_until_ms = self.clock.now_ms + took.as_millis() as u64 * 10;
        let mut counts = std::mem::take(&mut self.stats.counts);
        keep_largest(&mut counts, NAMED_MAX);
        let mut body = Vec::new();
        let peers = self.shared.permits.registered.now();
        status::push_stats(
            &mut body,
            peers,
            self.fleet_peers(),
            self.settings.max_peers,
            &counts,
            self.settings.shard_count,
        );
        for (conn, head_only, keep_alive) in std::mem::take(&mut self.stats.waiting) {
            if let Some(slot) = self.slot_of(conn) {
                self.answer_awaited(slot, 200, status::JSON, &body, head_only, keep_alive);
            }
        }
    }
}
