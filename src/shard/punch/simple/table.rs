//! The sessions at home here: by id, by host, and in the order in which they were last heard of.
//!
//! Owns: their records.
//! Never: decides when one begins or ends.

use ahash::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use super::Asker;
use super::joiners::Joiners;
use super::place::Place;
use crate::ids::LoopId;
use crate::message::simple::{Code, Endpoint, SessionId};
use crate::shard::punch::Homes;

/// One session: 80 bytes.
#[derive(Debug)]
pub(super) struct Session {
    pub id: SessionId,
    /// Where its host is.
    pub host: Place,
    /// Where its host's datagrams arrive.
    pub arrives_at: LoopId,
    /// What its host's peers in the same network are told: the host's address there, or the one that we see.
    pub local: Endpoint,
    /// Whom it was paired with.
    pub partner: Option<Endpoint>,
    /// Whether its host wants to be paired with anybody.
    pub random: bool,
    /// Whether it stands in the queue for that.
    pub queued: bool,
    /// Whether its host has shown that it receives what it is told.
    pub verified: bool,
    /// In seconds of the loop's clock.
    pub opened_s: u32,
    pub heard_ms: u64,
    /// Nobody joined: none.
    pub joiners: Option<Box<Joiners>>,
    /// Its neighbours in the order of `heard_ms`.
    earlier: u32,
    later: u32,
}

impl Session {
    /// One that nobody has joined.
    pub(super) fn new(id: SessionId, asker: &Asker, random: bool, now_ms: u64) -> Self {
        Self {
            id,
            host: asker.place,
            arrives_at: asker.at,
            local: asker.local,
            partner: None,
            random,
            queued: false,
            verified: false,
            opened_s: u32::try_from(now_ms / 1000).unwrap_or(u32::MAX),
            heard_ms: now_ms,
            joiners: None,
            earlier: NONE,
            later: NONE,
        }
    }

    /// Whether its host's word has no weight yet: it was never shown to come from there, and nobody depends on it.
    pub(super) fn is_untouched(&self) -> bool {
        !self.verified && self.joiners.is_none() && self.partner.is_none()
    }
}

#[derive(Debug)]
pub(super) struct Table {
    sessions: Slab<Session>,
    by_code: HashTable<u32>,
    by_host: HashTable<u32>,
    hasher: RandomState,
    /// The one not heard of for longest.
    first: u32,
    last: u32,
}

impl Table {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            sessions: Slab::new(),
            by_code: HashTable::new(),
            by_host: HashTable::new(),
            hasher: homes.hasher(),
            first: NONE,
            last: NONE,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Session> {
        self.sessions.get(slot as usize)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Session> {
        self.sessions.get_mut(slot as usize)
    }

    /// The session with this id.
    pub(super) fn find(&self, id: &SessionId) -> Option<u32> {
        let slot = self.with_code(&id.code)?;
        self.get(slot).filter(|session| session.id.is(id)).map(|_| slot)
    }

    /// The session with this code.
    pub(super) fn with_code(&self, code: &Code) -> Option<u32> {
        let is = |slot: &u32| self.get(*slot).is_some_and(|session| session.id.code == *code);
        self.by_code.find(self.hasher.hash_one(code), is).copied()
    }

    /// The session of this host.
    pub(super) fn of_host(&self, host: Endpoint) -> Option<u32> {
        let is = |slot: &u32| self.get(*slot).is_some_and(|session| session.host.remote == host);
        self.by_host.find(self.hasher.hash_one(host), is).copied()
    }

    /// Adds a session; neither its code nor its host may have one already. None: there are more than four thousand millions.
    pub(super) fn insert(&mut self, session: Session) -> Option<u32> {
        let slot = u32::try_from(self.sessions.vacant_key())
            .ok()
            .filter(|slot| *slot != NONE)?;
        let (code, host) = (session.id.code, session.host.remote);
        debug_assert!(self.with_code(&code).is_none() && self.of_host(host).is_none());
        self.sessions.insert(session);
        let Self {
            sessions,
            by_code,
            by_host,
            hasher,
            ..
        } = self;
        let of = |slot: &u32| sessions.get(*slot as usize);
        by_code.insert_unique(hasher.hash_one(code), slot, |slot| {
            of(slot).map_or(0, |session| hasher.hash_one(session.id.code))
        });
        by_host.insert_unique(hasher.hash_one(host), slot, |slot| {
            of(slot).map_or(0, |session| hasher.hash_one(session.host.remote))
        });
        self.push_last(slot);
        Some(slot)
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Session> {
        self.unlink(slot);
        let session = self.sessions.try_remove(slot as usize)?;
        let is = |own: &u32| *own == slot;
        if let Ok(entry) = self.by_code.find_entry(self.hasher.hash_one(session.id.code), is) {
            entry.remove();
        }
        if let Ok(entry) = self.by_host.find_entry(self.hasher.hash_one(session.host.remote), is) {
            entry.remove();
        }
        Some(session)
    }

    /// A session was heard of.
    pub(super) fn touch(&mut self, slot: u32, now_ms: u64) {
        self.unlink(slot);
        if let Some(session) = self.get_mut(slot) {
            session.heard_ms = now_ms;
            self.push_last(slot);
        }
    }

    /// The session that was not heard of for longest.
    pub(super) fn first(&self) -> Option<(u32, &Session)> {
        Some((self.first, self.get(self.first)?))
    }

    fn push_last(&mut self, slot: u32) {
        let before = self.last;
        if let Some(session) = self.get_mut(slot) {
            (session.earlier, session.later) = (before, NONE);
            self.last = slot;
            match self.get_mut(before) {
                Some(before) => before.later = slot,
                None => self.first = slot,
            }
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Some(session) = self.get(slot) else {
            return;
        };
        let (earlier, later) = (session.earlier, session.later);
        match self.get_mut(earlier) {
            Some(earlier) => earlier.later = later,
            None => self.first = later,
        }
        match self.get_mut(later) {
            Some(later) => later.earlier = earlier,
            None => self.last = earlier,
        }
    }
}

/// No slot.
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn endpoint(number: u32) -> Endpoint {
        let [a, b, c, d] = number.to_be_bytes();
        Endpoint::from_bytes([10, a, b, c, d, 1])
    }

    fn session(number: u32, now_ms: u64) -> Session {
        let code = Code::new(&number.to_be_bytes()).unwrap();
        let id = SessionId {
            server: endpoint(0),
            code,
        };
        let asker = Asker {
            place: Place::at(endpoint(number)),
            local: endpoint(number),
            at: LoopId::new(0),
        };
        Session::new(id, &asker, false, now_ms)
    }

    #[test]
    fn a_record_has_at_most_eighty_bytes() {
        assert!(size_of::<Session>() <= 80, "{}", size_of::<Session>());
    }

    #[test]
    fn sessions_are_found_and_stand_in_the_order_they_were_heard_of() {
        let mut table = Table::new(&Homes::new(1, [1, 2, 3, 4]));
        for number in 0..1000 {
            table.insert(session(number, u64::from(number))).unwrap();
        }
        for number in (0..1000).step_by(3) {
            let slot = table.of_host(endpoint(number)).unwrap();
            table.touch(slot, 2000 + u64::from(number));
        }
        for number in (0..1000).step_by(7) {
            let slot = table.find(&session(number, 0).id).unwrap();
            assert_eq!(table.remove(slot).unwrap().host.remote, endpoint(number));
        }
        for number in 0..1000 {
            let there = number % 7 != 0;
            assert_eq!(table.find(&session(number, 0).id).is_some(), there);
            assert_eq!(table.of_host(endpoint(number)).is_some(), there);
        }
        let mut other = session(1, 0).id;
        other.server = endpoint(1);
        assert_eq!(table.find(&other), None);
        let (mut last, mut seen) = (0, 0);
        while let Some((slot, session)) = table.first() {
            assert!(session.heard_ms >= last);
            (last, seen) = (session.heard_ms, seen + 1);
            table.remove(slot).unwrap();
        }
        assert_eq!((seen, table.len()), (857, 0));
        assert!(table.by_code.is_empty() && table.by_host.is_empty());
        assert_eq!((table.first, table.last), (NONE, NONE));
    }
}
