//! What one client IP may do, counted at the home of its prefix: sessions, registrations, guesses.
//!
//! A request that one of these bounds applies to goes to that home first ([`Guarded`]); the home passes it on to the loop
//! that serves it, or says what it came to instead. What is held is given back with [`Release`].
//!
//! Owns: the counts of the prefixes at home here.
//! Never: knows what is done with what was granted.

use ahash::RandomState;
use hashbrown::HashMap;

use super::limits::Limits;
use super::{Homes, Mail};
use crate::ids::{LoopId, Prefix};

/// What is counted for a prefix while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Held {
    /// A session of the ASCII dialect.
    SimpleSession,
    /// A session of the lobby dialect.
    MatchmakerSession,
    /// A TCP connection of the lobby dialect.
    MatchmakerConnection,
}

/// What is counted for a prefix in each minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counted {
    /// A registration of the protobuf dialect.
    NatpunchRegistration,
    /// A wrong session id of the ASCII dialect.
    SimpleMiss,
    /// A wrong code of the lobby dialect.
    MatchmakerMiss,
}

/// The bound that a request must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// One more is held, until it is given back.
    Take(Held),
    /// One more in this minute.
    Count(Counted),
    /// Not so many in the last minute that it is refused for a minute; counts nothing.
    Below(Counted),
}

/// A request that a bound of its sender's prefix applies to.
#[derive(Debug)]
pub struct Guarded {
    /// Whose.
    pub prefix: Prefix,
    /// Which bound.
    pub guard: Guard,
    /// What is done then, and by which loop.
    pub granted: (LoopId, Mail),
    /// What is done otherwise; None: it is dropped and counted.
    pub refused: Option<(LoopId, Mail)>,
}

/// Something held is given back.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    /// Whose it was.
    pub prefix: Prefix,
    /// What.
    pub held: Held,
}

const MINUTE_MS: u64 = 60_000;

/// What is counted within a minute that began with the first.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    until_ms: u64,
    count: u32,
}

impl Window {
    fn is_below(&self, bound: u32, now_ms: u64) -> bool {
        bound == 0 || self.until_ms <= now_ms || self.count < bound
    }

    /// Counts one more, if that stays within the bound. With `penalty`, what exhausts it begins the minute anew: so
    /// long nothing is granted.
    fn count(&mut self, bound: u32, penalty: bool, now_ms: u64) -> bool {
        if !self.is_below(bound, now_ms) {
            return false;
        }
        if self.until_ms <= now_ms {
            *self = Self {
                until_ms: now_ms + MINUTE_MS,
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
        if penalty && self.count == bound {
            self.until_ms = now_ms + MINUTE_MS;
        }
        true
    }
}

#[derive(Debug, Default)]
struct Usage {
    held: [u32; 3],
    counted: [Window; 3],
}

impl Usage {
    fn is_idle(&self, now_ms: u64) -> bool {
        self.held == [0; 3] && self.counted.iter().all(|window| window.until_ms <= now_ms)
    }
}

/// The prefixes at home here.
#[derive(Debug)]
pub(super) struct Guards {
    usage: HashMap<Prefix, Usage, RandomState>,
    /// Prefixes looked at since idle ones were last thrown away.
    since_sweep: usize,
    /// This loop's share of [`PREFIXES_MAX`].
    most: usize,
}

impl Guards {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            usage: HashMap::with_hasher(homes.hasher()),
            since_sweep: 0,
            most: PREFIXES_MAX / homes.loops(),
        }
    }

    /// Whether a prefix keeps the bound; what it asks for is counted then.
    pub(super) fn admits(&mut self, prefix: Prefix, guard: Guard, limits: &Limits, now_ms: u64) -> bool {
        self.sweep(now_ms);
        let bound = bound(guard, limits);
        if bound == 0 && !matches!(guard, Guard::Take(_)) {
            return true;
        }
        if let Guard::Below(counted) = guard {
            let usage = self.usage.get(&prefix);
            return usage.is_none_or(|usage| usage.counted[counted as usize].is_below(bound, now_ms));
        }
        // Above this many prefixes a stranger with many addresses gets no more of this loop's memory; what takes none of it was
        // answered above. Whoever has a connection did not make up its address, and connections have a bound in all.
        let proven = guard == Guard::Take(Held::MatchmakerConnection);
        if self.usage.len() >= self.most && !proven && !self.usage.contains_key(&prefix) {
            return false;
        }
        let usage = self.usage.entry(prefix).or_default();
        match guard {
            Guard::Take(held) => {
                let held = &mut usage.held[held as usize];
                let below = bound == 0 || *held < bound;
                *held += u32::from(below);
                below
            }
            Guard::Count(counted) | Guard::Below(counted) => {
                // Who guesses is not heard for a minute; who registers often is told to come a little later.
                let penalty = counted != Counted::NatpunchRegistration;
                usage.counted[counted as usize].count(bound, penalty, now_ms)
            }
        }
    }

    pub(super) fn release(&mut self, release: Release) {
        if let Some(usage) = self.usage.get_mut(&release.prefix) {
            let held = &mut usage.held[release.held as usize];
            debug_assert!(*held > 0, "given back and never taken: {:?}", release.held);
            *held = held.saturating_sub(1);
        }
    }

    /// Whether anybody holds anything.
    #[cfg(test)]
    pub(super) fn holds_any(&self) -> bool {
        self.usage.values().any(|usage| usage.held != [0; 3])
    }

    /// Forgets prefixes that hold nothing; its cost is spread over as many look-ups.
    fn sweep(&mut self, now_ms: u64) {
        self.since_sweep += 1;
        if self.since_sweep < self.usage.len().max(1024) {
            return;
        }
        self.since_sweep = 0;
        self.usage.retain(|_, usage| !usage.is_idle(now_ms));
    }
}

fn bound(guard: Guard, limits: &Limits) -> u32 {
    match guard {
        Guard::Take(Held::SimpleSession | Held::MatchmakerSession) => limits.sessions_per_ip,
        Guard::Take(Held::MatchmakerConnection) => limits.matchmaker_connections_per_ip,
        Guard::Count(counted) | Guard::Below(counted) => match counted {
            Counted::NatpunchRegistration => limits.registrations_per_min_per_ip,
            Counted::SimpleMiss | Counted::MatchmakerMiss => limits.misses_per_min_per_ip,
        },
    }
}

/// Prefixes that the process counts for at most: some 100 bytes each.
const PREFIXES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn prefix(last: u8) -> Prefix {
        Prefix::of(std::net::Ipv4Addr::new(192, 0, 2, last).into())
    }

    fn guards() -> Guards {
        Guards::new(&Homes::new(1, [1, 2, 3, 4]))
    }

    #[test]
    fn what_is_held_is_bounded_by_prefix_and_may_be_given_back() {
        let (mut guards, mut limits) = (guards(), Limits::default());
        limits.sessions_per_ip = 2;
        let take = Guard::Take(Held::SimpleSession);
        assert!(guards.admits(prefix(1), take, &limits, 0));
        assert!(guards.admits(prefix(1), take, &limits, 0));
        assert!(!guards.admits(prefix(1), take, &limits, 0));
        assert!(guards.admits(prefix(2), take, &limits, 0));
        assert!(guards.admits(prefix(1), Guard::Take(Held::MatchmakerSession), &limits, 0));
        guards.release(Release {
            prefix: prefix(1),
            held: Held::SimpleSession,
        });
        assert!(guards.admits(prefix(1), take, &limits, 0));
    }

    #[test]
    fn ten_misses_in_a_minute_are_followed_by_a_minute_without() {
        let (mut guards, limits) = (guards(), Limits::default());
        let (miss, below) = (Guard::Count(Counted::SimpleMiss), Guard::Below(Counted::SimpleMiss));
        for second in 0..10 {
            assert!(guards.admits(prefix(1), below, &limits, second * 1000));
            assert!(guards.admits(prefix(1), miss, &limits, second * 1000));
        }
        assert!(!guards.admits(prefix(1), below, &limits, 10_000));
        assert!(!guards.admits(prefix(1), miss, &limits, 68_999));
        assert!(guards.admits(prefix(1), below, &limits, 69_000));
        assert!(guards.admits(prefix(2), below, &limits, 10_000));
    }

    #[test]
    fn a_hundred_registrations_may_follow_in_the_next_minute() {
        let (mut guards, limits) = (guards(), Limits::default());
        let register = Guard::Count(Counted::NatpunchRegistration);
        for second in 0..50 {
            assert!((0..2).all(|_| guards.admits(prefix(1), register, &limits, second * 1000)));
        }
        assert!(!guards.admits(prefix(1), register, &limits, 59_999));
        assert!(guards.admits(prefix(1), register, &limits, 60_000));
    }

    #[test]
    fn what_takes_no_memory_is_admitted_when_there_is_none_left() {
        let (mut guards, mut limits) = (guards(), Limits::default());
        for address in 0..PREFIXES_MAX as u32 {
            let prefix = Prefix::of(std::net::Ipv4Addr::from_bits(address).into());
            guards.usage.insert(prefix, Usage::default());
        }
        assert!(!guards.admits(prefix(1), Guard::Count(Counted::SimpleMiss), &limits, 0));
        assert!(!guards.admits(prefix(1), Guard::Take(Held::SimpleSession), &limits, 0));
        assert!(guards.admits(prefix(1), Guard::Below(Counted::SimpleMiss), &limits, 0));
        limits.registrations_per_min_per_ip = 0;
        assert!(guards.admits(prefix(1), Guard::Count(Counted::NatpunchRegistration), &limits, 0));
    }

    #[test]
    fn a_bound_of_zero_is_none() {
        let mut guards = guards();
        let limits = Limits {
            misses_per_min_per_ip: 0,
            sessions_per_ip: 0,
            ..Limits::default()
        };
        for _ in 0..1000 {
            assert!(guards.admits(prefix(1), Guard::Count(Counted::SimpleMiss), &limits, 0));
            assert!(guards.admits(prefix(1), Guard::Take(Held::SimpleSession), &limits, 0));
        }
    }

    #[test]
    fn made_up_addresses_do_not_keep_out_those_who_have_a_connection() {
        let (mut guards, limits) = (guards(), Limits::default());
        guards.most = 64;
        let address = |bits: u32| Prefix::of(std::net::Ipv4Addr::from_bits(bits).into());
        let register = Guard::Count(Counted::NatpunchRegistration);
        for bits in 0..64 {
            assert!(guards.admits(address(bits), register, &limits, 0));
        }
        assert!(!guards.admits(prefix(1), register, &limits, 0));
        assert!(guards.admits(prefix(1), Guard::Take(Held::MatchmakerConnection), &limits, 0));
        // It is known from there on, as long as it holds its connection.
        assert!(guards.admits(prefix(1), Guard::Take(Held::MatchmakerSession), &limits, 0));
        assert!(guards.admits(prefix(1), Guard::Count(Counted::MatchmakerMiss), &limits, 0));
    }

    #[test]
    fn idle_prefixes_are_forgotten() {
        let (mut guards, limits) = (guards(), Limits::default());
        for round in 0..4u64 {
            for address in 0..2000u32 {
                let prefix = Prefix::of(std::net::Ipv4Addr::from_bits(address).into());
                let miss = Guard::Count(Counted::SimpleMiss);
                assert!(guards.admits(prefix, miss, &limits, round * 2 * MINUTE_MS));
            }
        }
        for _ in 0..5000 {
            guards.admits(prefix(1), Guard::Below(Counted::SimpleMiss), &limits, 10 * MINUTE_MS);
        }
        assert!(guards.usage.len() <= 1, "{}", guards.usage.len());
    }
}
