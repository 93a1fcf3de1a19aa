//! Addresses whose datagrams arrive here and that are served where everybody is who wants to meet anybody.
//!
//! Owns: which they are. It is a hint: an address that is forgotten or was never noted may get a second session here,
//! which ends when nobody keeps it.
//! Never: knows what they have there.

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashMap;

use crate::message::simple::Endpoint;
use crate::shard::punch::Homes;

#[derive(Debug)]
pub(super) struct Away {
    /// When they were heard of.
    heard_ms: HashMap<Endpoint, u64, RandomState>,
    /// When to look whether they still are, soonest first.
    checks: VecDeque<(u64, Endpoint)>,
}

impl Away {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            heard_ms: HashMap::with_hasher(homes.hasher()),
            checks: VecDeque::new(),
        }
    }

    /// From now on an address is served there.
    pub(super) fn mark(&mut self, remote: Endpoint, now_ms: u64) {
        if !self.touch(remote, now_ms) && self.heard_ms.len() < AWAY_MAX {
            self.heard_ms.insert(remote, now_ms);
            self.checks.push_back((now_ms + KEPT_MS, remote));
        }
    }

    pub(super) fn contains(&self, remote: Endpoint) -> bool {
        self.heard_ms.contains_key(&remote)
    }

    /// Whether an address is served there; it was heard of.
    pub(super) fn touch(&mut self, remote: Endpoint, now_ms: u64) -> bool {
        let heard_ms = self.heard_ms.get_mut(&remote);
        let is_away = heard_ms.is_some();
        if let Some(heard_ms) = heard_ms {
            *heard_ms = now_ms;
        }
        is_away
    }

    /// Forgets those not heard of for long.
    pub(super) fn forget(&mut self, now_ms: u64) {
        while let Some((due_ms, remote)) = self.checks.front().copied()
            && due_ms <= now_ms
        {
            self.checks.pop_front();
            let heard_ms = self.heard_ms.get(&remote).copied().unwrap_or_default();
            if heard_ms + KEPT_MS <= now_ms {
                self.heard_ms.remove(&remote);
            } else {
                self.checks.push_back((now_ms + KEPT_MS, remote));
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.checks.front().map(|(due_ms, _)| *due_ms)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        debug_assert_eq!(self.heard_ms.len(), self.checks.len());
        self.heard_ms.len()
    }
}

/// Longer than a session that nobody keeps.
const KEPT_MS: u64 = 60_000;
/// Addresses that a loop notes: some 40 bytes each.
const AWAY_MAX: usize = 1 << 18;
