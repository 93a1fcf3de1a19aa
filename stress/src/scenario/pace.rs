//! The times of an open loop: they do not depend on when answers come.
//!
//! Owns: when each next thing is due.
//! Never: does it.

use crate::worker::protocol::Job;

/// A worker's share of a rate.
pub struct Pace {
    /// A second; 0: a closed loop.
    rate: f64,
    began_ns: u64,
    done: u64,
}

impl Pace {
    /// The worker's share of the workload's rate.
    pub fn new(job: &Job) -> Self {
        Self {
            rate: job.workload.rate / job.workers as f64,
            began_ns: 0,
            done: 0,
        }
    }

    /// Whether there is a rate at all.
    pub fn is_open(&self) -> bool {
        self.rate > 0.0
    }

    /// The first is due now.
    pub fn begin(&mut self, now_ns: u64) {
        self.began_ns = now_ns;
        self.done = 0;
    }

    /// When the next is due.
    pub fn next_ns(&self) -> u64 {
        self.began_ns + (self.done as f64 * 1e9 / self.rate) as u64
    }

    /// Takes the next, if it is due: how many there were before it, and when it should have been done.
    pub fn take(&mut self, now_ns: u64) -> Option<(usize, u64)> {
        let at_ns = self.next_ns();
        if !self.is_open() || at_ns > now_ns {
            return None;
        }
        self.done += 1;
        Some((self.done as usize - 1, at_ns))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_late_keeps_the_time_at_which_it_was_due() {
        let mut pace = Pace {
            rate: 1000.0,
            began_ns: 0,
            done: 0,
        };
        pace.begin(5_000_000);
        assert_eq!(pace.take(4_999_999), None);
        let late: Vec<_> = std::iter::from_fn(|| pace.take(7_000_000)).collect();
        assert_eq!(late, [(0, 5_000_000), (1, 6_000_000), (2, 7_000_000)]);
        assert_eq!(pace.next_ns(), 8_000_000);
    }
}
