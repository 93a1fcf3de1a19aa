//! Token buckets.
//!
//! Owns: the arithmetic of one bucket in eight bytes.
//! Never: reads a clock.

/// Rate and size of a bucket.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    nanos_per_token: u64,
    burst_nanos: u64,
}

impl Rate {
    /// `per_sec` tokens a second, at most `burst` (at least one) at once; None if `per_sec` is 0: no limit.
    pub fn new(per_sec: u64, burst: u64) -> Option<Self> {
        let nanos_per_token = 1_000_000_000_u64.checked_div(per_sec)?;
        Some(Self {
            nanos_per_token,
            burst_nanos: nanos_per_token.saturating_mul(burst.max(1)),
        })
    }

    /// `per_min` tokens a minute, as many at once; None if `per_min` is 0: no limit.
    pub fn per_min(per_min: u64) -> Option<Self> {
        let nanos_per_token = 60_000_000_000_u64.checked_div(per_min)?;
        Some(Self {
            nanos_per_token,
            burst_nanos: nanos_per_token.saturating_mul(per_min),
        })
    }
}

/// A token bucket, kept as the moment at which it will be full again. The default is full.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    full_at_ns: u64,
}

impl Bucket {
    /// Whether nothing is missing.
    pub fn is_full(&self, now_ms: u64) -> bool {
        self.full_at_ns <= now_ms.saturating_mul(1_000_000)
    }

    /// Whether nothing was ever taken.
    pub(super) fn is_untouched(&self) -> bool {
        self.full_at_ns == 0
    }

    /// Takes one token.
    pub fn take(&mut self, rate: Rate, now_ms: u64) -> bool {
        self.spend(rate, rate.nanos_per_token, now_ms)
    }

    /// Takes `tokens` at once. A full bucket gives more than it holds, and is in debt afterwards: else a cost above the
    /// burst could never be paid.
    pub fn take_many(&mut self, rate: Rate, tokens: u64, now_ms: u64) -> bool {
        let now_ns = now_ms.saturating_mul(1_000_000);
        let cost = rate.nanos_per_token.saturating_mul(tokens);
        if self.full_at_ns <= now_ns {
            self.full_at_ns = now_ns.saturating_add(cost);
            return true;
        }
        self.spend(rate, cost, now_ms)
    }

    fn spend(&mut self, rate: Rate, cost: u64, now_ms: u64) -> bool {
        let now_ns = now_ms.saturating_mul(1_000_000);
        let full_at = self.full_at_ns.max(now_ns).saturating_add(cost);
        let allowed = full_at - now_ns <= rate.burst_nanos;
        if allowed {
            self.full_at_ns = full_at;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_bucket_starts_full_empties_and_refills() {
        let rate = Rate::new(2, 3).unwrap();
        let mut bucket = Bucket::default();
        assert!((0..3).all(|_| bucket.take(rate, 1000)));
        assert!(!bucket.take(rate, 1000));
        assert!(!bucket.take(rate, 1499));
        assert!(bucket.take(rate, 1500));
        assert!(!bucket.take(rate, 1500));
        assert!((0..3).all(|_| bucket.take(rate, 100_000)));
        assert!(!bucket.take(rate, 100_000));
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        assert!(Rate::new(0, 5).is_none());
    }

    #[test]
    fn a_rate_a_minute_gives_a_minutes_tokens_at_once_and_then_each_in_its_time() {
        assert!(Rate::per_min(0).is_none());
        let rate = Rate::per_min(30).unwrap();
        let mut bucket = Bucket::default();
        assert!((0..30).all(|_| bucket.take(rate, 0)));
        assert!(!bucket.take(rate, 1999));
        assert!(bucket.take(rate, 2000));
        assert!(!bucket.take(rate, 2000));
    }

    #[test]
    fn a_full_bucket_pays_any_cost_once() {
        let rate = Rate::new(10, 10).unwrap();
        let mut bucket = Bucket::default();
        assert!(bucket.take_many(rate, 25, 0));
        assert!(!bucket.take_many(rate, 1, 1000));
        assert!(bucket.take_many(rate, 25, 2500));
    }
}
