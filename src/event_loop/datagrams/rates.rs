//! Rates of many senders in fixed memory.
//!
//! A sender's bucket is found by a keyed hash, and senders that share one share its rate: nobody can aim at a bucket, nothing
//! grows, and nothing is allocated after the start.
//!
//! Owns: the buckets.
//! Never: lets a sender have more than its rate.

use std::hash::Hash;

use ahash::RandomState;

use crate::shard::{Bucket, Rate};

/// The buckets of one limit.
pub(super) struct Rates {
    rate: Option<Rate>,
    buckets: Vec<Bucket>,
    hasher: RandomState,
}

impl Rates {
    /// `per_sec` for each key; 0: no limit. About `size` keys can be told apart.
    pub(super) fn new(per_sec: u64, size: usize, hasher: RandomState) -> Self {
        let rate = Rate::new(per_sec, per_sec);
        Self {
            rate,
            buckets: vec![Bucket::default(); if rate.is_some() { size } else { 0 }],
            hasher,
        }
    }

    /// Takes one token of this key's.
    pub(super) fn take(&mut self, key: &impl Hash, now_ms: u64) -> bool {
        let Some(rate) = self.rate else { return true };
        let hash = self.hasher.hash_one(key);
        let place = ((u128::from(hash) * self.buckets.len() as u128) >> 64) as usize;
        self.buckets
            .get_mut(place)
            .is_none_or(|bucket| bucket.take(rate, now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_rate() {
        let mut rates = Rates::new(10, 4096, RandomState::with_seeds(1, 2, 3, 4));
        let granted = |rates: &mut Rates, key: u32, now_ms| (0..30).filter(|_| rates.take(&key, now_ms)).count();
        assert_eq!(granted(&mut rates, 1, 1000), 10);
        assert_eq!(granted(&mut rates, 2, 1000), 10);
        assert_eq!(granted(&mut rates, 1, 1500), 5);
        assert_eq!(granted(&mut rates, 1, 9000), 10);
    }

    #[test]
    fn a_rate_of_zero_is_no_limit_and_takes_no_memory() {
        let mut rates = Rates::new(0, 4096, RandomState::with_seeds(1, 2, 3, 4));
        assert!((0..1000).all(|_| rates.take(&1, 0)));
        assert!(rates.buckets.is_empty());
    }
}
