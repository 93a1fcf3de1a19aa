//! Matchmaking: peers that ask for the same wait in a queue until they are enough.
//!
//! Owns: the match requests that wait in the namespaces whose home is this shard. Enqueue, withdraw and complete cost the
//! same however many wait (a completed group costs its members).
//! Never: asks whether a peer is a member of the namespace; matching does not need it.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;
use rand::Rng;
use slab::Slab;

use super::Shard;
use super::mail::{Answer, Ask, Asker, Mail};
use super::peers::{PeerKey, WaitingFor};
use crate::ids::{Fingerprint, Homes, LoopId, NamespaceId, SessionId};
use crate::message::{CriteriaKey, Matched, PeerInfo, Refusal};

/// Bytes of public info that a complete group may hold, so that one match cannot cost megabytes (D22).
pub const GROUP_INFO_MAX: usize = 256 * 1024;

/// Groups of at most so many keep that bound whatever is in their infos.
const GROUP_ALWAYS_FITS: u32 = (GROUP_INFO_MAX / PeerInfo::JSON_LEN_MAX) as u32;

const NONE: u32 = u32::MAX;

/// What must be equal for requests to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct QueueKey {
    namespace: NamespaceId,
    group_size: u32,
    criteria: CriteriaKey,
}

/// A waiting request.
#[derive(Debug)]
struct Ticket {
    namespace: NamespaceId,
    session: SessionId,
    /// Where its loop keeps the peer.
    peer: Option<PeerKey>,
    loop_id: LoopId,
    /// The place of its queue.
    queue: u32,
    before: u32,
    after: u32,
    info: Arc<PeerInfo>,
}

#[derive(Debug)]
struct Queue {
    key: QueueKey,
    first: u32,
    last: u32,
    len: u32,
}

/// The queues of one home.
///
/// The tables hold places only: with a hundred thousand waiting they still fit a core's cache, and what a request has to
/// fetch from memory is its own ticket and queue.
#[derive(Debug)]
pub(super) struct MatchQueues {
    tickets: Slab<Ticket>,
    /// One request a session and namespace. A key's next session begins when its last one's tickets are gone.
    by_session: HashTable<u32>,
    queues: Slab<Queue>,
    by_key: HashTable<u32>,
    hasher: RandomState,
}

impl MatchQueues {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            tickets: Slab::new(),
            by_session: HashTable::new(),
            queues: Slab::new(),
            by_key: HashTable::new(),
            hasher: homes.hasher(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tickets.len()
    }

    /// Every waiting request, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NamespaceId, Fingerprint, SessionId)> {
        self.tickets
            .iter()
            .map(|(_, ticket)| (ticket.namespace, ticket.info.fingerprint, ticket.session))
    }

    /// The place of a session's request.
    fn find(&self, namespace: NamespaceId, session: SessionId) -> Option<u32> {
        let is_it = |at: &u32| {
            let ticket = self.tickets.get(*at as usize);
            ticket.is_some_and(|ticket| ticket.session == session && ticket.namespace == namespace)
        };
        let hash = self.hasher.hash_one((namespace, session));
        self.by_session.find(hash, is_it).copied()
    }

    /// The place of a queue, and how many wait in it.
    fn queue(&self, key: &QueueKey) -> Option<(u32, u32)> {
        let is_it = |at: &u32| self.queues.get(*at as usize).is_some_and(|queue| queue.key == *key);
        let at = *self.by_key.find(self.hasher.hash_one(key), is_it)?;
        Some((at, self.queues.get(at as usize)?.len))
    }

    fn open(&mut self, key: QueueKey) -> u32 {
        let hash = self.hasher.hash_one(key);
        let (first, last, len) = (NONE, NONE, 0);
        let at = self.queues.insert(Queue { key, first, last, len }) as u32;
        let (queues, hasher) = (&self.queues, &self.hasher);
        let hash_at = |at: &u32| hasher.hash_one(queues[*at as usize].key);
        self.by_key.insert_unique(hash, at, hash_at);
        at
    }

    fn close(&mut self, at: u32) {
        if let Some(queue) = self.queues.try_remove(at as usize)
            && let Ok(entry) = self
                .by_key
                .find_entry(self.hasher.hash_one(queue.key), |own| *own == at)
        {
            entry.remove();
        }
    }

    fn push(&mut self, queue: u32, info: Arc<PeerInfo>, asker: &Asker) {
        let Some(entry) = self.queues.get_mut(queue as usize) else {
            return;
        };
        let (namespace, session) = (entry.key.namespace, asker.session);
        let ticket = Ticket {
            namespace,
            session,
            peer: asker.peer,
            loop_id: asker.loop_id,
            queue,
            before: entry.last,
            after: NONE,
            info,
        };
        let at = self.tickets.insert(ticket) as u32;
        match self.tickets.get_mut(entry.last as usize) {
            Some(last) => last.after = at,
            None => entry.first = at,
        }
        entry.last = at;
        entry.len += 1;
        let (tickets, hasher) = (&self.tickets, &self.hasher);
        let hash_at = |at: &u32| {
            let ticket = &tickets[*at as usize];
            hasher.hash_one((ticket.namespace, ticket.session))
        };
        let hash = hasher.hash_one((namespace, session));
        self.by_session.insert_unique(hash, at, hash_at);
    }

    /// Takes a request out of the records, but not off its queue.
    fn take(&mut self, at: u32) -> Option<Ticket> {
        let ticket = self.tickets.try_remove(at as usize)?;
        let hash = self.hasher.hash_one((ticket.namespace, ticket.session));
        if let Ok(entry) = self.by_session.find_entry(hash, |own| *own == at) {
            entry.remove();
        }
        Some(ticket)
    }

    fn remove(&mut self, at: u32) -> bool {
        let Some(ticket) = self.take(at) else { return false };
        let Some(queue) = self.queues.get_mut(ticket.queue as usize) else {
            return true;
        };
        match self.tickets.get_mut(ticket.before as usize) {
            Some(before) => before.after = ticket.after,
            None => queue.first = ticket.after,
        }
        match self.tickets.get_mut(ticket.after as usize) {
            Some(after) => after.before = ticket.before,
            None => queue.last = ticket.before,
        }
        queue.len -= 1;
        if queue.len == 0 {
            self.close(ticket.queue);
        }
        true
    }

    /// Takes a queue's requests, oldest first, and ends it.
    fn take_all(&mut self, at: u32) -> impl Iterator<Item = Ticket> {
        let mut next = self.queues.get(at as usize).map_or(NONE, |queue| queue.first);
        self.close(at);
        std::iter::from_fn(move || {
            let ticket = self.take(next)?;
            next = ticket.after;
            Some(ticket)
        })
    }
}

impl Shard {
    /// A peer of this shard asks for a match.
    pub(super) fn ask_match(&mut self, key: PeerKey, name: &str, group_size: u32, criteria: CriteriaKey) {
        let namespace = self.homes.namespace(name);
        let Some(info) = self.info_in(key, namespace) else {
            return;
        };
        if !fits_a_group(&info, group_size) {
            return self.tell_error(key, Refusal::MetadataTooLarge);
        }
        if self.is_crowded(key, namespace) {
            return self.tell_error(key, Refusal::TooManyNamespaces);
        }
        let ask = Ask::Match {
            name: name.into(),
            info,
            group_size,
            criteria,
        };
        self.ask_home(key, namespace, None, WaitingFor::Match, ask);
    }

    /// A request at home: it waits, or completes a group.
    pub(super) fn enqueue(
        &mut self,
        asker: &Asker,
        namespace: NamespaceId,
        name: &str,
        info: Arc<PeerInfo>,
        group_size: u32,
        criteria: CriteriaKey,
    ) -> Answer {
        self.withdraw(namespace, asker.session);
        let key = QueueKey {
            namespace,
            group_size,
            criteria,
        };
        let queue = self.queues.queue(&key);
        if queue.map_or(0, |(_, waiting)| waiting) + 1 < group_size {
            if !self.permits.match_waiting.take(self.limits.max_match_waiting) {
                return Answer::Refused(Refusal::ServerFull);
            }
            let queue = queue.map_or_else(|| self.queues.open(key), |(at, _)| at);
            self.queues.push(queue, info, asker);
            return Answer::Waiting;
        }
        let mut peers = Vec::with_capacity(group_size as usize);
        let mut members = Vec::with_capacity(group_size as usize);
        for ticket in self.queues.take_all(queue.map_or(NONE, |(at, _)| at)) {
            self.permits.match_waiting.release();
            peers.push(ticket.info);
            members.push((ticket.loop_id, ticket.peer, ticket.session));
        }
        peers.push(info);
        members.push((asker.loop_id, asker.peer, asker.session));
        self.tell_matched(namespace, name, peers, members);
        Answer::Done
    }

    /// Tells every loop of a complete group which of its peers are in it.
    fn tell_matched(
        &mut self,
        namespace: NamespaceId,
        name: &str,
        peers: Vec<Arc<PeerInfo>>,
        mut members: Vec<(LoopId, Option<PeerKey>, SessionId)>,
    ) {
        let mut session = [0; 16];
        self.random.fill_bytes(&mut session);
        let matched = Arc::new(Matched {
            namespace: name.into(),
            session,
            peers,
        });
        members.sort_by_key(|(loop_id, ..)| *loop_id);
        for served in members.chunk_by(|(a, ..), (b, ..)| a == b) {
            let mail = Mail::Matched {
                namespace: Some(namespace),
                members: served.iter().map(|(_, peer, session)| (*peer, *session)).collect(),
                matched: matched.clone(),
            };
            self.send(served[0].0, mail);
        }
        self.counters.matches += 1;
    }

    /// Takes back the request of a session, if it waits here.
    pub(super) fn withdraw(&mut self, namespace: NamespaceId, session: SessionId) {
        if let Some(at) = self.queues.find(namespace, session)
            && self.queues.remove(at)
        {
            self.permits.match_waiting.release();
        }
    }

    /// A waiting peer is shown differently from here on, unless that would make its group too large.
    pub(super) fn change_ticket(&mut self, namespace: NamespaceId, session: SessionId, info: &Arc<PeerInfo>) {
        let Some(at) = self.queues.find(namespace, session) else {
            return;
        };
        let Some(ticket) = self.queues.tickets.get_mut(at as usize) else {
            return;
        };
        let queue = self.queues.queues.get(ticket.queue as usize);
        let group_size = queue.map_or(1, |queue| queue.key.group_size);
        if fits_a_group(info, group_size) {
            ticket.info = info.clone();
        }
    }
}

/// Whether a group of so many like this one keeps [`GROUP_INFO_MAX`]. For the usual small group that is known without a
/// look at the info, which with many waiting is not in the cache.
pub(super) fn fits_a_group(info: &PeerInfo, group_size: u32) -> bool {
    group_size <= GROUP_ALWAYS_FITS || info.json_len() <= GROUP_INFO_MAX / group_size as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::ids::ConnId;
    use crate::message::{ALIAS_MAX, APP_TYPE_MAX, Event, META_MAX, Meta, Register, Request};
    use crate::shard::{Limits, Output, Permits};

    fn shard() -> Shard {
        let limits = Limits {
            max_peers: 100,
            max_rooms: 10,
            max_match_waiting: 100,
            messages: None,
            deliveries: None,
            send_buffer_size: 32,
            send_buffer_bytes: 4096,
            state_bytes: usize::MAX,
        };
        let homes = Homes::new(1, [1, 2, 3, 4]);
        Shard::new(
            LoopId::new(0),
            homes,
            Arc::new(limits),
            Arc::new(Permits::default()),
            [0; 32],
        )
    }

    fn registered(shard: &mut Shard, number: u32) -> PeerKey {
        let fingerprint = Fingerprint::of_key(&number.to_string());
        let (alias, meta) = (Default::default(), Meta::default());
        let register = Register {
            fingerprint,
            alias,
            meta,
        };
        shard.register(ConnId::new(number, 0), register);
        while shard.poll_output().is_some() {}
        shard.peers.find(&fingerprint).unwrap()
    }

    fn ask(shard: &mut Shard, peer: PeerKey, group_size: u32, criteria: u8) -> Option<Arc<Matched>> {
        let (namespace, criteria) = ("arena", CriteriaKey([criteria; 32]));
        let request = Request::Match {
            namespace,
            group_size,
            criteria,
        };
        shard.handle_request(peer, request);
        let outputs = std::iter::from_fn(|| shard.poll_output());
        let mut matched = None;
        for output in outputs {
            if let Output::FanOut {
                event: Event::Matched(group),
                ..
            } = output
            {
                matched = Some(group);
            }
        }
        matched
    }

    #[test]
    fn a_request_again_goes_to_the_end_of_the_queue() {
        let mut shard = shard();
        let peers: Vec<PeerKey> = (0..4).map(|number| registered(&mut shard, number)).collect();
        for asking in [0, 1, 2, 1, 0] {
            assert!(ask(&mut shard, peers[asking], 4, 1).is_none());
            assert!(ask(&mut shard, peers[3], 2, 9).is_none(), "another queue");
        }
        let matched = ask(&mut shard, peers[3], 4, 1).unwrap();
        let order: Vec<Fingerprint> = matched.peers.iter().map(|info| info.fingerprint).collect();
        let expected = [2, 1, 0, 3].map(|number: u32| Fingerprint::of_key(&number.to_string()));
        assert_eq!(order, expected);
        assert_eq!((shard.queues.len(), shard.queues.queues.len()), (0, 0));
        assert_eq!((shard.queues.by_key.len(), shard.queues.by_session.len()), (0, 0));
        assert_eq!(shard.permits.match_waiting.now(), 0);
    }

    #[test]
    fn a_refused_join_leaves_the_match_request_waiting() {
        let mut shard = shard();
        let [first, second] = [1, 2].map(|number| registered(&mut shard, number));
        assert!(ask(&mut shard, first, 2, 1).is_none());
        shard.handle_request(first, Request::JoinRoom { room: "arena" });
        assert_eq!(shard.locals.len(), 0, "nobody is a member");
        assert!(ask(&mut shard, second, 2, 1).is_some());
        assert!(shard.peers.get(first).unwrap().memberships.is_empty());
    }

    #[test]
    fn a_session_that_ends_takes_its_requests_with_it() {
        let mut shard = shard();
        let [first, second] = [1, 2].map(|number| registered(&mut shard, number));
        assert!(ask(&mut shard, first, 2, 1).is_none());
        shard.close(first);
        assert!(ask(&mut shard, second, 2, 1).is_none());
        assert_eq!(shard.queues.len(), 1);
    }

    #[test]
    fn the_largest_info_fits_the_groups_that_are_not_asked() {
        let text = |len: usize| "x".repeat(len);
        // `{"k":"…"}` has eight bytes besides the value's text.
        let meta = |name: &str| {
            let mut meta = Meta::default();
            meta.set(&format!("\"{name}\""), &format!("\"{}\"", text(META_MAX - 8)));
            assert_eq!(meta.json_len(), META_MAX);
            meta
        };
        let largest = PeerInfo {
            fingerprint: Fingerprint::of_key("somebody"),
            alias: text(ALIAS_MAX).into(),
            app_type: text(APP_TYPE_MAX).into(),
            meta: meta("k").overlaid(&meta("l")),
        };
        assert!(largest.json_len() <= PeerInfo::JSON_LEN_MAX);
        assert!(largest.json_len() * GROUP_ALWAYS_FITS as usize <= GROUP_INFO_MAX);
        assert!(fits_a_group(&largest, GROUP_ALWAYS_FITS) && !fits_a_group(&largest, GROUP_ALWAYS_FITS + 2));
    }
}
