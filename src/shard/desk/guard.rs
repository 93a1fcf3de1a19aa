//! What one client address may ask of the desk: requests a minute, and how many wait at a time.
//!
//! Owns: the counts by IPv4 address or IPv6 /64.
//! Never: counts what came over NATS, whose receiver keeps such bounds of its own.

use ahash::RandomState;
use hashbrown::HashMap;

use super::Limits;
use crate::ids::Prefix;
use crate::shard::{Bucket, Rate};

#[derive(Debug, Default)]
struct Usage {
    bucket: Bucket,
    waiting: u32,
}

impl Usage {
    fn is_idle(&self, now_ms: u64) -> bool {
        self.waiting == 0 && self.bucket.is_full(now_ms)
    }
}

#[derive(Debug)]
pub(super) struct Guard {
    rate: Option<Rate>,
    waiting_max: u32,
    usage: HashMap<Prefix, Usage, RandomState>,
    /// Requests since idle prefixes were last thrown away, and when that was.
    since_sweep: usize,
    swept_ms: u64,
    most: usize,
}

impl Guard {
    pub(super) fn new(limits: &Limits, hasher: RandomState) -> Self {
        Self {
            rate: Rate::per_min(limits.requests_per_min_per_ip.into()),
            waiting_max: limits.waiting_per_ip,
            usage: HashMap::with_hasher(hasher),
            since_sweep: 0,
            swept_ms: 0,
            most: PREFIXES_MAX,
        }
    }

    /// Counts a request; false: it is one too many, or others of that address wait already.
    pub(super) fn admits(&mut self, prefix: Prefix, now_ms: u64) -> bool {
        if self.rate.is_none() && self.waiting_max == 0 {
            return true;
        }
        self.sweep(now_ms);
        if self.usage.len() >= self.most && !self.usage.contains_key(&prefix) {
            return false;
        }
        let usage = self.usage.entry(prefix).or_default();
        let in_time = self.rate.is_none_or(|rate| usage.bucket.take(rate, now_ms));
        in_time && (self.waiting_max == 0 || usage.waiting < self.waiting_max)
    }

    /// One that was admitted waits.
    pub(super) fn wait(&mut self, prefix: Prefix) {
        self.usage.entry(prefix).or_default().waiting += 1;
    }

    /// It waits no longer.
    pub(super) fn release(&mut self, prefix: Prefix, now_ms: u64) {
        let Some(usage) = self.usage.get_mut(&prefix) else {
            return;
        };
        debug_assert!(usage.waiting > 0, "given back and never taken");
        usage.waiting = usage.waiting.saturating_sub(1);
        if usage.is_idle(now_ms) {
            self.usage.remove(&prefix);
        }
    }

    /// How many of an address wait.
    pub(super) fn waiting(&self, prefix: Prefix) -> u32 {
        self.usage.get(&prefix).map_or(0, |usage| usage.waiting)
    }

    /// How many wait in all.
    pub(super) fn waiting_in_all(&self) -> u64 {
        self.usage.values().map(|usage| u64::from(usage.waiting)).sum()
    }

    /// Forgets prefixes that have nothing to remember; its cost is spread over as many requests.
    fn sweep(&mut self, now_ms: u64) {
        self.since_sweep += 1;
        // Nobody is refused for want of room that idle ones take, but for a second.
        let crowded = self.usage.len() >= self.most && now_ms >= self.swept_ms + SWEEP_EVERY_MS;
        if self.since_sweep < self.usage.len().max(1024) && !crowded {
            return;
        }
        self.since_sweep = 0;
        self.swept_ms = now_ms;
        self.usage.retain(|_, usage| !usage.is_idle(now_ms));
    }
}

/// Prefixes counted at most, some 50 bytes each: whoever is not among them when there are so many is refused. Each was seen
/// within the last minute or two, or waits.
const PREFIXES_MAX: usize = 1 << 18;
/// Between two sweeps of as many prefixes as there may be.
const SWEEP_EVERY_MS: u64 = 1000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn guard(requests_per_min_per_ip: u32, waiting_per_ip: u32) -> Guard {
        let limits = Limits {
            waiting_max: 0,
            waiting_per_ip,
            requests_per_min_per_ip,
            deadline_ms: 0,
            claim_ms: 0,
            silence_ms: 0,
            ipv6: false,
        };
        Guard::new(&limits, RandomState::with_seeds(1, 2, 3, 4))
    }

    fn prefix(bits: u32) -> Prefix {
        Prefix::of(std::net::Ipv4Addr::from_bits(bits).into())
    }

    #[test]
    fn idle_prefixes_are_forgotten_and_waiting_ones_are_not() {
        let mut guard = guard(10, 5);
        for bits in 0..5000 {
            assert!(guard.admits(prefix(bits), 0));
        }
        guard.wait(prefix(7));
        for _ in 0..20_000 {
            guard.admits(prefix(1), 120_000);
        }
        assert_eq!((guard.usage.len(), guard.waiting(prefix(7))), (2, 1));
        guard.release(prefix(7), 120_000);
        assert_eq!((guard.usage.len(), guard.waiting_in_all()), (1, 0));
    }

    #[test]
    fn too_many_prefixes_are_refused_and_known_ones_are_not() {
        let mut guard = guard(10, 5);
        guard.most = 3;
        assert!((0..3).all(|bits| guard.admits(prefix(bits), 0)));
        assert!(!guard.admits(prefix(3), 0));
        assert!(guard.admits(prefix(2), 0));
    }

    #[test]
    fn without_bounds_nothing_is_kept() {
        let mut guard = guard(0, 0);
        assert!((0..100).all(|_| guard.admits(prefix(1), 0)));
        assert!(guard.usage.is_empty());
    }
}
