//! `/stats`: the namespaces of all loops, gathered by mail.
//!
//! Owns: one gather at a time; whoever asks meanwhile shares its answer.
//! Never: names rooms (peer protocol, D29).

use std::sync::Arc;

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
}

impl EventLoop {
    /// Has `/stats` sent to a connection when it is known.
    pub(super) fn gather_stats(&mut self, conn: ConnId, head_only: bool, keep_alive: bool) {
        self.stats.waiting.push((conn, head_only, keep_alive));
        if self.stats.waiting.len() > 1 {
            return;
        }
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
        let mut counts = std::mem::take(&mut self.stats.counts);
        keep_largest(&mut counts, NAMED_MAX);
        let mut body = Vec::new();
        let peers = self.shared.permits.registered.now();
        status::push_stats(
            &mut body,
            peers,
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
