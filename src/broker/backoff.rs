//! How long to wait before the broker is tried again.
//!
//! Owns: the growth of that time, and its spread: a fleet that lost its broker at once is not to come back at once.
//! Never: waits.

use std::time::Duration;

/// Waits between tries: each at most twice as long as the one before.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The next wait: between half and all of what it has grown to. `draw` is random.
    pub(super) fn draw(&mut self, draw: u32) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.longest);
        let half = whole / 2;
        half + half.mul_f64(f64::from(draw) / f64::from(u32::MAX))
    }

    /// It stood long enough: the next wait is short again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread_over_their_upper_half() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(50), ms(2000));
        let longest: Vec<Duration> = (0..8).map(|_| backoff.draw(u32::MAX)).collect();
        assert_eq!(longest, [50, 100, 200, 400, 800, 1600, 2000, 2000].map(ms));
        assert_eq!(backoff.draw(0), ms(1000));
        backoff.reset();
        assert_eq!(backoff.draw(0), ms(25));
        let middle = backoff.draw(u32::MAX / 2);
        assert!(middle > ms(70) && middle < ms(80), "{middle:?}");
    }
}
