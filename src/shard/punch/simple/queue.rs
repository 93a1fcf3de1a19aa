//! Those who wait to meet anybody.
//!
//! Owns: their order, and who was paired with whom.
//! Never: pairs a host with whom it has lost touch with.

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashMap;

use super::table::{Session, Table};
use crate::message::simple::{Code, Endpoint};
use crate::shard::punch::Homes;

#[derive(Debug)]
pub(super) struct Queue {
    /// First in, first out. A session that is over or has other plans is passed over.
    waiting: VecDeque<(u32, Code)>,
    /// The sessions that joiners were paired with.
    partners: HashMap<Endpoint, u32, RandomState>,
}

impl Queue {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            waiting: VecDeque::new(),
            partners: HashMap::with_hasher(homes.hasher()),
        }
    }

    /// Puts a session at the end, if it wants to be paired and does not stand there.
    pub(super) fn push(&mut self, slot: u32, session: &mut Session) {
        if session.random && session.partner.is_none() && !session.queued {
            session.queued = true;
            self.waiting.push_back((slot, session.id.code));
        }
    }

    /// Pairs a joiner with the first that waits and was heard of a moment ago. The others are passed over until they are
    /// heard of again.
    pub(super) fn pair(&mut self, table: &mut Table, joiner: Endpoint, now_ms: u64) -> Option<u32> {
        while let Some((slot, code)) = self.waiting.pop_front() {
            let Some(session) = table.get_mut(slot).filter(|session| session.id.code == code) else {
                continue;
            };
            session.queued = false;
            let waits = session.random && session.partner.is_none() && session.host.remote != joiner;
            if waits && session.heard_ms + FRESH_MS >= now_ms {
                session.partner = Some(joiner);
                self.partners.insert(joiner, slot);
                return Some(slot);
            }
        }
        None
    }

    /// The session that a joiner was paired with.
    pub(super) fn partner(&self, joiner: Endpoint) -> Option<u32> {
        self.partners.get(&joiner).copied()
    }

    /// A session is over.
    pub(super) fn remove(&mut self, slot: u32, session: &Session) {
        if let Some(joiner) = session.partner
            && self.partners.get(&joiner) == Some(&slot)
        {
            self.partners.remove(&joiner);
        }
    }

    /// How many stand in it, and how many are paired.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.waiting.len(), self.partners.len())
    }
}

/// Who was not heard of for longer may be gone.
const FRESH_MS: u64 = 5000;
