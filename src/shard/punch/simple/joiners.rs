//! Who joined a session.
//!
//! Owns: how many did and how fast, and whom its host is still to be told of.
//! Never: sends anything.

use std::collections::VecDeque;

use crate::message::simple::Endpoint;
use crate::shard::punch::Limits;

/// The joiners of one session.
#[derive(Debug, Default)]
pub(super) struct Joiners {
    /// How many joined so far.
    count: u32,
    /// When, in the last second.
    recent: VecDeque<u64>,
    /// Whom the host may not have heard of, in the order they joined.
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    joiner: Endpoint,
    joiner_local: Endpoint,
    /// How often the host is still told.
    repeats: u8,
}

/// What a join comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// Somebody new.
    New,
    /// Somebody whom the host was told of a moment ago.
    Again,
    /// Too many in this second.
    TooFast,
    /// Too many in all.
    TooMany,
}

impl Joiners {
    /// Somebody wants to join.
    pub(super) fn join(&mut self, joiner: Endpoint, joiner_local: Endpoint, limits: &Limits, now_ms: u64) -> Join {
        self.forget(now_ms);
        if self.recent.len() >= Limits::at_most(limits.simple_joins_per_sec) {
            return Join::TooFast;
        }
        let known = self.pending.iter().position(|pending| pending.joiner == joiner);
        if known.is_none() && self.count as usize >= Limits::at_most(limits.simple_joins_per_session) {
            return Join::TooMany;
        }
        if limits.simple_joins_per_sec != 0 {
            self.recent.push_back(now_ms);
        }
        match known {
            Some(at) => {
                self.pending.remove(at);
            }
            None => self.count = self.count.saturating_add(1),
        }
        if self.pending.len() >= PENDING_MAX {
            self.pending.remove(0);
        }
        self.pending.push(Pending {
            joiner,
            joiner_local,
            repeats: REPEATS,
        });
        match known {
            Some(_) => Join::Again,
            None => Join::New,
        }
    }

    /// Whom to tell a host of that keeps its session: joiner and the joiner's address in its own network.
    pub(super) fn repeat(&mut self, now_ms: u64, mut tell: impl FnMut(Endpoint, Endpoint)) {
        self.pending.retain_mut(|pending| {
            tell(pending.joiner, pending.joiner_local);
            pending.repeats -= 1;
            pending.repeats > 0
        });
        self.forget(now_ms);
        // Most sessions are joined at their beginning and live on for long.
        if self.pending.is_empty() && self.recent.is_empty() {
            (self.pending, self.recent) = (Vec::new(), VecDeque::new());
        }
    }

    fn forget(&mut self, now_ms: u64) {
        while self.recent.front().is_some_and(|at| at + SECOND_MS <= now_ms) {
            self.recent.pop_front();
        }
    }
}

const SECOND_MS: u64 = 1000;
/// Joiners that are remembered at once.
const PENDING_MAX: usize = 16;
/// How often a host is told of a joiner again.
const REPEATS: u8 = 3;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn joiner(number: u8) -> Endpoint {
        Endpoint::from_bytes([192, 0, 2, number, 0, 1])
    }

    fn repeated(joiners: &mut Joiners) -> Vec<Endpoint> {
        let mut told = Vec::new();
        joiners.repeat(0, |joiner, _| told.push(joiner));
        told
    }

    #[test]
    fn a_joiner_is_repeated_three_times() {
        let (mut joiners, limits) = (Joiners::default(), Limits::default());
        assert_eq!(joiners.join(joiner(1), joiner(1), &limits, 0), Join::New);
        assert_eq!(repeated(&mut joiners), [joiner(1)]);
        assert_eq!(joiners.join(joiner(2), joiner(2), &limits, 0), Join::New);
        assert_eq!(repeated(&mut joiners), [joiner(1), joiner(2)]);
        assert_eq!(repeated(&mut joiners), [joiner(1), joiner(2)]);
        assert_eq!(joiners.join(joiner(2), joiner(2), &limits, 0), Join::Again);
        for _ in 0..3 {
            assert_eq!(repeated(&mut joiners), [joiner(2)]);
        }
        assert!(repeated(&mut joiners).is_empty());
        assert_eq!(joiners.count, 2);
    }

    #[test]
    fn eight_in_any_second_and_sixty_four_in_all_may_join() {
        let (mut joiners, limits) = (Joiners::default(), Limits::default());
        let mut joined: Vec<u64> = Vec::new();
        for attempt in 0..100u64 {
            let now_ms = attempt * 110;
            let fast = joined.iter().filter(|at| **at + 1000 > now_ms).count() >= 8;
            let expected = match (fast, joined.len()) {
                (true, _) => Join::TooFast,
                (false, 64..) => Join::TooMany,
                (false, _) => Join::New,
            };
            let number = attempt as u8;
            assert_eq!(
                joiners.join(joiner(number), joiner(number), &limits, now_ms),
                expected,
                "{attempt}"
            );
            if expected == Join::New {
                joined.push(now_ms);
            }
            assert!(joiners.pending.len() <= PENDING_MAX);
        }
        assert_eq!(joined.len(), 64);
        // The last of them are those that the host is told of.
        assert_eq!(repeated(&mut joiners).len(), PENDING_MAX);
        // One of them asks again: no place more.
        let last = *repeated(&mut joiners).last().unwrap();
        assert_eq!(joiners.join(last, last, &limits, 60_000), Join::Again);
    }

    #[test]
    fn bounds_of_zero_are_none() {
        let limits = Limits {
            simple_joins_per_sec: 0,
            simple_joins_per_session: 0,
            ..Limits::default()
        };
        let mut joiners = Joiners::default();
        for number in 0..=u8::MAX {
            assert_eq!(joiners.join(joiner(number), joiner(number), &limits, 0), Join::New);
        }
        assert!(joiners.recent.is_empty());
    }
}
