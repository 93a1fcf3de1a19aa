//! What a loop counted and holds, published for whoever reads the metrics.
//!
//! Owns: which figure comes from where, and how often they are published.
//! Never: counts anything itself.

use super::EventLoop;
use crate::metrics::Metric;

/// How often the metrics are published.
pub(super) const PUBLISH_MS: u64 = 50;

impl EventLoop {
    pub(super) fn end_turn(&mut self) {
        // The turn's length is what a message that arrived at its start had to wait for at most.
        self.counters.turn(self.clock.now.elapsed().as_nanos() as u64);
        self.unpublished = true;
        if self.clock.now_ms >= self.published_ms + PUBLISH_MS {
            self.publish();
        }
    }

    pub(super) fn publish(&mut self) {
        let census = self.shard.census();
        let shard = self.shard.counters().clone();
        let before = std::mem::replace(&mut self.shard_counted, shard.clone());
        for (metric, value) in [
            (Metric::Peers, census.peers),
            (Metric::Namespaces, census.namespaces),
            (Metric::Rooms, census.rooms),
            (Metric::MatchWaiting, census.match_waiting),
            (Metric::Aliases, census.aliases),
            (Metric::OpenSums, census.open_sums),
            (Metric::StateBytes, self.shard.state_bytes()),
            (Metric::OutputBytes, self.unsent),
            (Metric::PoolBlocksTaken, self.pool.taken()),
            (Metric::PoolBytesKept, self.pool.kept_bytes()),
            (Metric::MailBacklog, self.mailbox.backlog()),
        ] {
            self.counters.set(metric, value as u64);
        }
        for (metric, value) in [
            (Metric::StaleMail, shard.stale_mail - before.stale_mail),
            (Metric::Replaced, shard.replaced - before.replaced),
            (Metric::Matches, shard.matches - before.matches),
            (
                Metric::RefusedForbidden,
                shard.refused_forbidden - before.refused_forbidden,
            ),
            (
                Metric::RefusedNotFound,
                shard.refused_not_found - before.refused_not_found,
            ),
            (Metric::RefusedFull, shard.refused_full - before.refused_full),
        ] {
            // Added, because the loop counts refusals of its own as well.
            self.counters.add(metric, value);
        }
        self.publish_punch();
        self.publish_office();
        self.shared.board.publish(self.id.index(), &self.counters);
        self.published_ms = self.clock.now_ms;
        self.unpublished = false;
    }
}
