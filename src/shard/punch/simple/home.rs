//! The sessions at home here: how they begin, who joins them, how they end.
//!
//! Owns: every decision about a session.
//! Never: answers an address that has proved nothing by itself: that is done where its datagrams arrive.

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use rand::Rng;

use super::joiners::Join;
use super::place::Place;
use super::queue::Queue;
use super::table::{Session, Table};
use super::{Answer, Asker, Letter, guard, mail, on_miss};
use crate::ids::LoopId;
use crate::message::punch::Dropped;
use crate::message::simple::{Code, Endpoint, Event, NoSession, SessionId};
use crate::shard::punch::{Core, Event as AnyEvent, Guard, Held, Homes, Limits, ShareLocal};

/// A session that its host's prefix is asked for.
#[derive(Clone, Copy, Debug)]
struct Opening {
    since_ms: u64,
    /// Whether its host wants to meet anybody.
    random: bool,
}

#[derive(Debug)]
pub(super) struct Home {
    table: Table,
    queue: Queue,
    openings: HashMap<Endpoint, Opening, RandomState>,
    /// When they began, oldest first.
    opening_order: VecDeque<(u64, Endpoint)>,
}

impl Home {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            table: Table::new(homes),
            queue: Queue::new(homes),
            openings: HashMap::with_hasher(homes.hasher()),
            opening_order: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether an address hosts here and has proved that it receives what it is told.
    pub(super) fn is_verified(&self, remote: Endpoint) -> bool {
        let session = self.table.of_host(remote).and_then(|slot| self.table.get(slot));
        session.is_some_and(|session| session.verified)
    }

    /// Somebody hosts: once more, or from now on.
    pub(super) fn on_host(&mut self, core: &mut Core, asker: Asker, server: Endpoint) {
        match self.of_host(core, asker.remote()) {
            Some(slot) => {
                if let Some(session) = self.table.get_mut(slot)
                    && session.partner.is_none()
                {
                    session.random = false;
                }
                self.on_host_again(core, slot, asker);
            }
            None => self.open(core, asker, server, false),
        }
    }

    /// Whether an address that wants to meet anybody has a session that waits for that or that somebody knows of: it is told
    /// of that again. Any other session ends, it was not wanted.
    pub(super) fn keeps_its_host(&mut self, core: &mut Core, asker: Asker) -> bool {
        let Some(slot) = self.of_host(core, asker.remote()) else {
            return false;
        };
        let kept = |session: &Session| session.random || !session.is_untouched();
        let keeps = self.table.get(slot).is_some_and(kept);
        match keeps {
            true => self.on_host_again(core, slot, asker),
            false => self.end(core, slot),
        }
        keeps
    }

    /// An address is served elsewhere from now on.
    pub(super) fn stop_opening(&mut self, remote: Endpoint) {
        self.openings.remove(&remote);
    }

    /// Somebody wants to meet anybody, and is at home here with that.
    pub(super) fn on_random(&mut self, core: &mut Core, asker: Asker, server: Endpoint) {
        if self.keeps_its_host(core, asker) {
            return;
        }
        let partner = self.queue.partner(asker.remote());
        if let Some(slot) = partner.and_then(|slot| self.living(core, slot)) {
            self.join(core, slot, asker);
        } else if !self.pair(core, asker) {
            self.open(core, asker, server, true);
        }
    }

    /// A host repeats itself: it has not heard our answer.
    fn on_host_again(&mut self, core: &mut Core, slot: u32, asker: Asker) {
        self.refresh(core, slot);
        if let Some(session) = self.table.get_mut(slot) {
            // What comes from anybody who can write this address changes nothing once its owner was heard.
            if !session.verified {
                (session.host, session.local, session.arrives_at) = (asker.place, asker.local, asker.at);
            }
            let (id, counted) = (session.id, !session.verified);
            answer(core, asker.at, asker.place, counted, Answer::Registered(id));
        }
    }

    fn pair(&mut self, core: &mut Core, asker: Asker) -> bool {
        let slot = self.queue.pair(&mut self.table, asker.remote(), core.now_ms);
        if let Some(slot) = slot {
            // A session of its own that is asked for has no use any more.
            self.openings.remove(&asker.remote());
            self.join(core, slot, asker);
        }
        slot.is_some()
    }

    /// Asks a new host's prefix for a session, once.
    fn open(&mut self, core: &mut Core, asker: Asker, server: Endpoint, random: bool) {
        let full = self.openings.len() >= OPENINGS_MAX || self.opening_order.len() >= OPENINGS_BEGUN_MAX;
        let opening = Opening {
            since_ms: core.now_ms,
            random,
        };
        match self.openings.entry(asker.remote()) {
            Entry::Occupied(mut entry) if entry.get().since_ms + OPENING_MS > core.now_ms => {
                // An answer is under way, or its prefix was refused one a moment ago.
                entry.get_mut().random = random;
                return core.drop(Dropped::RateLimited);
            }
            Entry::Occupied(mut entry) => *entry.get_mut() = opening,
            Entry::Vacant(_) if full => return core.drop(Dropped::Full),
            Entry::Vacant(entry) => {
                entry.insert(opening);
            }
        }
        self.opening_order.push_back((core.now_ms, asker.remote()));
        let letter = Letter::Open(asker, server);
        guard(core, &asker.place, Guard::Take(Held::SimpleSession), core.id, letter);
    }

    /// A host's prefix has one session more; it is given back if there is no use for it.
    pub(super) fn on_open(&mut self, core: &mut Core, asker: Asker, server: Endpoint) {
        let opened = match self.openings.remove(&asker.remote()) {
            Some(opening) if self.table.of_host(asker.remote()).is_none() => {
                // Somebody may have begun to wait meanwhile.
                let paired = opening.random && self.pair(core, asker);
                !paired && self.insert(core, asker, server, opening.random)
            }
            Some(_) | None => false,
        };
        if !opened {
            core.release(asker.place.address(), Held::SimpleSession);
        }
    }

    fn insert(&mut self, core: &mut Core, asker: Asker, server: Endpoint, random: bool) -> bool {
        let permits = core.permits.clone();
        if !permits.simple_sessions.take(Limits::at_most(core.limits.sessions_max)) {
            core.drop(Dropped::Full);
            return false;
        }
        let slot = self.draw(core).and_then(|code| {
            let id = SessionId { server, code };
            let session = Session::new(id, &asker, random, core.now_ms);
            self.table.insert(session)
        });
        let Some(session) = slot.and_then(|slot| self.table.get_mut(slot)) else {
            permits.simple_sessions.release();
            core.drop(Dropped::Full);
            return false;
        };
        let id = session.id;
        if let Some(slot) = slot {
            self.queue.push(slot, session);
        }
        answer(core, asker.at, asker.place, true, Answer::Registered(id));
        true
    }

    /// A code that is at home here and that no session has; None: there are too few of them.
    fn draw(&self, core: &mut Core) -> Option<Code> {
        let mut bytes = [0; Code::LEN_MAX];
        let len = usize::from(core.limits.simple_id_codes).clamp(Code::LEN_MIN, Code::LEN_MAX);
        for _ in 0..DRAWS_MAX * core.homes.loops() {
            core.random.fill_bytes(&mut bytes);
            let code = Code::new(bytes.get(..len)?)?;
            if core.homes.of_key(&code) == core.id && self.table.with_code(&code).is_none() {
                return Some(code);
            }
        }
        None
    }

    /// Somebody joins the session of this id.
    pub(super) fn on_join(&mut self, core: &mut Core, asker: Asker, id: SessionId) {
        let found = self.table.find(&id).and_then(|slot| self.living(core, slot));
        let open = |session: &Session| !session.random || session.partner == Some(asker.remote());
        match found.filter(|slot| self.table.get(*slot).is_some_and(open)) {
            Some(slot) => self.join(core, slot, asker),
            None => on_miss(core, asker, NoSession::Id(id)),
        }
    }

    /// Sends host and joiner to each other.
    fn join(&mut self, core: &mut Core, slot: u32, asker: Asker) {
        let Some(session) = self.table.get_mut(slot) else {
            return;
        };
        let (limits, joiner, host) = (&core.limits, asker.remote(), session.host.remote);
        let joiner_local = shared(limits.simple_share_local, asker.local, joiner, host);
        let host_local = shared(limits.simple_share_local, session.local, host, joiner);
        let joiners = session.joiners.get_or_insert_default();
        let tell = match joiners.join(joiner, joiner_local, limits, core.now_ms) {
            Join::New => true,
            Join::Again => session.verified,
            Join::TooFast => return core.drop(Dropped::RateLimited),
            Join::TooMany => return core.drop(Dropped::Full),
        };
        let (id, to) = (session.id, session.host);
        if tell {
            // By the way that its own answer takes: a client that does not know yet that it hosts hears of nobody.
            let new_joiner = Answer::NewJoiner { joiner, joiner_local };
            answer(core, session.arrives_at, to, false, new_joiner);
        }
        let joined = Answer::Joined { id, host, host_local };
        answer(core, asker.at, asker.place, true, joined);
    }

    /// A host keeps its session: it has received its id, and may be told of its joiners again.
    pub(super) fn on_keep_alive(&mut self, core: &mut Core, place: Place, id: &SessionId) {
        let Some(slot) = self.own(core, place, id) else {
            return core.drop(Dropped::NotAllowed);
        };
        self.refresh(core, slot);
        if let Some(session) = self.table.get_mut(slot) {
            session.verified = true;
            session.host = place;
            if let Some(joiners) = &mut session.joiners {
                joiners.repeat(core.now_ms, |joiner, joiner_local| {
                    let event = Event::NewJoiner { joiner, joiner_local };
                    core.tell(place.path(), AnyEvent::Simple(event));
                });
            }
        }
    }

    /// A host ends its session. Nothing is kept of it.
    pub(super) fn on_complete(&mut self, core: &mut Core, place: Place, id: &SessionId) {
        match self.own(core, place, id) {
            Some(slot) => self.end(core, slot),
            None => core.drop(Dropped::NotAllowed),
        }
    }

    /// The session of a host that names it rightly.
    fn own(&mut self, core: &mut Core, place: Place, id: &SessionId) -> Option<u32> {
        let slot = self.of_host(core, place.remote)?;
        self.table.get(slot).filter(|session| session.id.is(id)).map(|_| slot)
    }

    fn of_host(&mut self, core: &mut Core, host: Endpoint) -> Option<u32> {
        let slot = self.table.of_host(host)?;
        self.living(core, slot)
    }

    /// A session, unless its time is over: then it ends.
    fn living(&mut self, core: &mut Core, slot: u32) -> Option<u32> {
        if is_over(self.table.get(slot)?, core.now_ms) {
            self.end(core, slot);
            return None;
        }
        Some(slot)
    }

    /// A session's host was heard.
    fn refresh(&mut self, core: &mut Core, slot: u32) {
        self.table.touch(slot, core.now_ms);
        if let Some(session) = self.table.get_mut(slot) {
            self.queue.push(slot, session);
        }
    }

    fn end(&mut self, core: &mut Core, slot: u32) {
        if let Some(session) = self.table.remove(slot) {
            self.queue.remove(slot, &session);
            core.permits.simple_sessions.release();
            core.release(session.host.address(), Held::SimpleSession);
        }
    }

    pub(super) fn handle_timeout(&mut self, core: &mut Core) {
        while let Some((slot, session)) = self.table.first()
            && is_over(session, core.now_ms)
        {
            self.end(core, slot);
        }
        while let Some((since_ms, remote)) = self.opening_order.front().copied()
            && since_ms + OPENING_MS <= core.now_ms
        {
            self.opening_order.pop_front();
            if let Entry::Occupied(opening) = self.openings.entry(remote)
                && opening.get().since_ms == since_ms
            {
                opening.remove();
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let session = self.table.first().map(|(_, session)| session.heard_ms + SILENCE_MS);
        let opening = self.opening_order.front().map(|(since_ms, _)| since_ms + OPENING_MS);
        [session, opening].into_iter().flatten().min()
    }

    /// What is kept besides sessions: those who wait, pairs, sessions that are being opened.
    #[cfg(test)]
    pub(super) fn rest(&self) -> (usize, usize, usize) {
        let (waiting, paired) = self.queue.len();
        (waiting, paired, self.openings.len() + self.opening_order.len())
    }
}

/// Whether a session's time is over.
fn is_over(session: &Session, now_ms: u64) -> bool {
    session.heard_ms + SILENCE_MS <= now_ms || u64::from(session.opened_s) + AGE_MAX_S <= now_ms / 1000
}

/// The address that a client may be told to be reached at in its own network: a private one that it claims, or else the
/// one that we see. Peers are never sent to a public address that nobody has proved to have.
pub(super) fn shareable(local: Option<Endpoint>, remote: Endpoint) -> Endpoint {
    let private = |local: &Endpoint| {
        let ip = local.ip();
        let [first, second, ..] = ip.octets();
        let shared = first == 100 && second & 0b1100_0000 == 64;
        ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared
    };
    local
        .filter(private)
        .filter(|local| local.port() != 0)
        .unwrap_or(remote)
}

/// What a peer is told of a client's address in its own network.
fn shared(share: ShareLocal, local: Endpoint, remote: Endpoint, peer: Endpoint) -> Endpoint {
    let shares = match share {
        ShareLocal::SamePublicIp => remote.ip() == peer.ip(),
        ShareLocal::Always => true,
        ShareLocal::Never => false,
    };
    if shares { local } else { remote }
}

/// Sends an answer to where its receiver's datagrams arrive. It may be lost: the receiver asks again.
fn answer(core: &mut Core, at: LoopId, to: Place, counted: bool, answer: Answer) {
    core.send_request(at, mail(Letter::Answer { to, counted, answer }));
}

/// A host says something each second; who is silent for so long is gone.
const SILENCE_MS: u64 = 30_000;
/// No session is older than a day.
const AGE_MAX_S: u64 = 24 * 60 * 60;
/// So long a prefix's answer is waited for: less than a client waits until it asks again.
const OPENING_MS: u64 = 800;
/// Sessions that may be under way to being opened.
const OPENINGS_MAX: usize = 1 << 16;
/// Sessions that may have begun to be opened within [`OPENING_MS`], those that are open by now included: 24 bytes each, and
/// more than a loop can do.
const OPENINGS_BEGUN_MAX: usize = 1 << 18;
/// Draws of a code, times the loops. With two codes and half of them taken, one in 10^21 sessions finds none.
const DRAWS_MAX: usize = 100;
