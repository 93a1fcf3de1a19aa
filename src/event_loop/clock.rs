//! The clock of one loop.
//!
//! Owns: the moment at which everything of a turn takes place.
//! Never: measures how long something took.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The time, read once a turn.
pub(super) struct Clock {
    started: Instant,
    pub(super) now: Instant,
    /// Milliseconds since the start: what `*_ms` fields hold.
    pub(super) now_ms: u64,
    /// Milliseconds of Unix time.
    pub(super) unix_ms: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let mut clock = Self {
            started: now,
            now,
            now_ms: 0,
            unix_ms: 0,
        };
        clock.tick();
        clock
    }

    /// Reads the time.
    pub(super) fn tick(&mut self) {
        self.now = Instant::now();
        // Starts above zero, so that zero in a record is always in the past.
        self.now_ms = 1 + self.now.duration_since(self.started).as_millis() as u64;
        self.unix_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
    }
}
