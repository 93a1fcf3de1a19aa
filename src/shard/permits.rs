//! Permits: the few counts that the whole process shares.
//!
//! Owns: process-wide counters behind limits. They are touched when a peer, room or waiting match request begins or ends,
//! never per message.
//! Never: blocks, and never counts anything that one loop alone can count.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The counts.
#[derive(Debug, Default)]
pub struct Permits {
    /// Registered peers, those whose registration is under way included.
    pub registered: Count,
    /// Connections that are open and have no peer.
    pub unregistered: Count,
    /// Rooms.
    pub rooms: Count,
    /// Match requests that wait.
    pub match_waiting: Count,
}

/// One shared count with a bound given at each use.
#[derive(Debug, Default)]
pub struct Count(AtomicUsize);

impl Count {
    /// Takes one if that keeps the count at or below `max`.
    pub fn take(&self, max: usize) -> bool {
        let below = |count: usize| (count < max).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
    }

    /// Gives one back.
    pub fn release(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "released a permit that was never taken");
    }

    /// How many are taken.
    pub fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_stops_at_its_bound() {
        let count = Count::default();
        assert!(count.take(2) && count.take(2));
        assert!(!count.take(2));
        count.release();
        assert!(count.take(2));
        assert_eq!(count.now(), 2);
    }
}
