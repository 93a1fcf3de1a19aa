//! How fast calls may follow each other.
//!
//! Owns: the time of the next one. Never: counts or remembers more than that.

/// At most so many calls in any second, evenly spaced: one second never gets what another left unused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    interval_us: u64,
    next_us: u64,
}

impl Pace {
    pub(super) fn new(per_sec: u32) -> Self {
        Self {
            interval_us: 1_000_000_u64.div_ceil(u64::from(per_sec.max(1))),
            next_us: 0,
        }
    }

    /// Takes the place of the next call, if its time has come.
    pub(super) fn try_take(&mut self, now_ms: u64) -> bool {
        let free = self.next_ms() <= now_ms;
        if free {
            // From the clock and not from the plan: a late call must not bring the next one closer.
            self.next_us = (now_ms * 1000).max(self.next_us) + self.interval_us;
        }
        free
    }

    /// A call more than was taken.
    pub(super) fn charge(&mut self) {
        self.next_us += self.interval_us;
    }

    /// None goes before then.
    pub(super) fn hold_until(&mut self, until_ms: u64) {
        self.next_us = self.next_us.max(until_ms * 1000);
    }

    /// When the next call may go.
    pub(super) fn next_ms(&self) -> u64 {
        self.next_us.div_ceil(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_its_share() {
        for per_sec in [1, 3, 7, 20, 40, 300, 1000] {
            let mut pace = Pace::new(per_sec);
            let taken: Vec<u64> = (5000..8000).filter(|now_ms| pace.try_take(*now_ms)).collect();
            assert!(taken.len() >= per_sec as usize * 2, "{per_sec}: {}", taken.len());
            let share = |start: u64| taken.iter().filter(|at| (start..start + 1000).contains(*at)).count();
            assert!(taken.iter().all(|start| share(*start) <= per_sec as usize), "{per_sec}");
        }
    }
}
