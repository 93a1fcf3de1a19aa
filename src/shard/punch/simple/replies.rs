//! What addresses that have proved nothing may still be told, and what they were told.
//!
//! Every answer to such an address leaves from the loop where its datagrams arrive, so that one count is the
//! whole truth of the port that it asked.
//!
//! Owns: the exact number of answers to each address within a second and ten, and who was sent to which host.
//! Never: knows who has proved to receive what it is told.

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::message::simple::{Endpoint, SessionId};
use crate::shard::punch::{Homes, Limits};

/// Answers to an address.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    in_second: u32,
    in_ten: u32,
}

#[derive(Debug)]
pub(super) struct Replies {
    told: HashMap<Endpoint, Told, RandomState>,
    /// The answers of the last ten seconds, oldest first.
    recent: VecDeque<(u64, Endpoint)>,
    /// How many of them are older than a second.
    older: usize,
    /// When an address was last sent to the host of a session.
    joined: HashMap<(Endpoint, SessionId), u64, RandomState>,
    /// The same, oldest first.
    joins: VecDeque<(u64, Endpoint, SessionId)>,
}

impl Replies {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            told: HashMap::with_hasher(homes.hasher()),
            recent: VecDeque::new(),
            older: 0,
            joined: HashMap::with_hasher(homes.hasher()),
            joins: VecDeque::new(),
        }
    }

    /// Whether an address may be told one thing more.
    pub(super) fn may(&mut self, remote: Endpoint, limits: &Limits, now_ms: u64) -> bool {
        self.forget(now_ms);
        let (in_second, in_ten) = (
            Limits::at_most(limits.simple_replies_per_sec),
            Limits::at_most(limits.simple_replies_per_10_sec),
        );
        let told = self.told.get(&remote).copied().unwrap_or_default();
        (told.in_second as usize) < in_second
            && (told.in_ten as usize) < in_ten
            && (self.recent.len() < ANSWERS_MAX || in_second.min(in_ten) == usize::MAX)
    }

    /// Counts one more answer, if it may be given.
    pub(super) fn take(&mut self, remote: Endpoint, limits: &Limits, now_ms: u64) -> bool {
        if !self.may(remote, limits, now_ms) {
            return false;
        }
        // Nobody asks for what is not bounded.
        if limits.simple_replies_per_sec != 0 || limits.simple_replies_per_10_sec != 0 {
            let told = self.told.entry(remote).or_default();
            told.in_second += 1;
            told.in_ten += 1;
            self.recent.push_back((now_ms, remote));
        }
        true
    }

    /// Remembers that an address was sent to a session's host.
    pub(super) fn remember(&mut self, remote: Endpoint, id: SessionId, now_ms: u64) {
        if self.joins.len() >= JOINS_MAX {
            self.forget_join();
        }
        self.joins.push_back((now_ms, remote, id));
        self.joined.insert((remote, id), now_ms);
    }

    /// Whether an address was sent to the host of this session a moment ago: it must not be told that there is none.
    pub(super) fn was_joined(&mut self, remote: Endpoint, id: &SessionId, now_ms: u64) -> bool {
        self.forget(now_ms);
        self.joined.contains_key(&(remote, *id))
    }

    /// Forgets what is too long ago.
    pub(super) fn forget(&mut self, now_ms: u64) {
        while let Some((told_ms, remote)) = self.recent.get(self.older)
            && told_ms + SECOND_MS <= now_ms
        {
            if let Some(told) = self.told.get_mut(remote) {
                told.in_second -= 1;
            }
            self.older += 1;
        }
        while let Some((told_ms, remote)) = self.recent.front()
            && told_ms + 10 * SECOND_MS <= now_ms
        {
            if let Entry::Occupied(mut told) = self.told.entry(*remote) {
                told.get_mut().in_ten -= 1;
                if told.get().in_ten == 0 {
                    told.remove();
                }
            }
            self.recent.pop_front();
            self.older -= 1;
        }
        while let Some((joined_ms, ..)) = self.joins.front()
            && joined_ms + JOINED_MS <= now_ms
        {
            self.forget_join();
        }
        // A flood's memory is given back, at a cost below that of what was forgotten.
        if is_roomy(self.recent.len(), self.recent.capacity()) {
            self.recent.shrink_to(2 * self.recent.len());
            self.told.shrink_to(2 * self.told.len());
        }
        if is_roomy(self.joins.len(), self.joins.capacity()) {
            self.joins.shrink_to(2 * self.joins.len());
            self.joined.shrink_to(2 * self.joined.len());
        }
    }

    fn forget_join(&mut self) {
        let Some((joined_ms, remote, id)) = self.joins.pop_front() else {
            return;
        };
        // A later answer to the same request has its own place in the row.
        if let Entry::Occupied(joined) = self.joined.entry((remote, id))
            && *joined.get() == joined_ms
        {
            joined.remove();
        }
    }

    /// When there is something to forget, to the second: memory alone hangs on it.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let told = self.recent.front().map(|(told_ms, _)| told_ms + 11 * SECOND_MS);
        let joined = self
            .joins
            .front()
            .map(|(joined_ms, ..)| joined_ms + JOINED_MS + SECOND_MS);
        [told, joined].into_iter().flatten().min()
    }

    /// What is kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.recent.len() + self.joins.len()
    }
}

fn is_roomy(len: usize, capacity: usize) -> bool {
    capacity > 1024 && len < capacity / 8
}

const SECOND_MS: u64 = 1000;
/// A datagram does not stay longer on the way.
const JOINED_MS: u64 = 30 * SECOND_MS;
/// Answers of ten seconds that a loop counts: some 40 bytes each. Above it nobody gets one who has proved nothing.
const ANSWERS_MAX: usize = 1 << 20;
/// Joins of half a minute that a loop remembers.
const JOINS_MAX: usize = 1 << 18;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::simple::Code;

    fn replies() -> Replies {
        Replies::new(&Homes::new(1, [1, 2, 3, 4]))
    }

    fn address(last: u16) -> Endpoint {
        let [high, low] = last.to_be_bytes();
        Endpoint::from_bytes([192, 0, 2, 1, high, low])
    }

    fn id(last: u8) -> SessionId {
        SessionId {
            server: address(1),
            code: Code::new(&[0, 0, 0, last]).unwrap(),
        }
    }

    #[test]
    fn three_in_any_second_and_ten_in_any_ten_are_told() {
        let (mut replies, limits) = (replies(), Limits::default());
        let mut told: Vec<u64> = Vec::new();
        for now_ms in (0..60_000).step_by(130) {
            let within = |span: u64| told.iter().filter(|at| **at + span > now_ms).count();
            let expected = within(1000) < 3 && within(10_000) < 10;
            assert_eq!(replies.take(address(1), &limits, now_ms), expected, "{now_ms}");
            if expected {
                told.push(now_ms);
            }
        }
        assert!(told.len() > 40);
    }

    #[test]
    fn addresses_do_not_share_and_are_forgotten() {
        let (mut replies, limits) = (replies(), Limits::default());
        for port in 0..1000 {
            assert!((0..3).all(|_| replies.take(address(port), &limits, 5)));
            assert!(!replies.take(address(port), &limits, 5));
            replies.remember(address(port), id(1), 5);
        }
        assert_eq!(replies.poll_timeout(), Some(11_005));
        replies.forget(10_005);
        assert!(replies.told.is_empty());
        assert_eq!((replies.recent.len(), replies.older), (0, 0));
        assert!(replies.recent.capacity() <= 1024);
        assert_eq!(replies.joined.len(), 1000);
        replies.forget(30_005);
        assert_eq!((replies.joined.len(), replies.len()), (0, 0));
        assert_eq!(replies.poll_timeout(), None);
    }

    #[test]
    fn bounds_of_zero_are_none_and_cost_nothing() {
        let mut replies = replies();
        let limits = Limits {
            simple_replies_per_sec: 0,
            simple_replies_per_10_sec: 0,
            ..Limits::default()
        };
        assert!((0..100).all(|_| replies.take(address(1), &limits, 5)));
        assert_eq!(replies.len(), 0);
    }

    #[test]
    fn joins_are_remembered_for_half_a_minute() {
        let mut replies = replies();
        replies.remember(address(1), id(1), 0);
        assert!(replies.was_joined(address(1), &id(1), 1000));
        assert!(!replies.was_joined(address(1), &id(2), 1000));
        replies.remember(address(1), id(2), 1000);
        assert!(replies.was_joined(address(1), &id(1), 29_999));
        assert!(!replies.was_joined(address(1), &id(1), 30_000));
        assert!(replies.was_joined(address(1), &id(2), 30_999));
        assert!(!replies.was_joined(address(2), &id(2), 2000));
        assert!(!replies.was_joined(address(1), &id(2), 31_000));
    }
}
