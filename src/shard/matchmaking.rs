//! Matchmaking: peers that ask for the same wait in a queue until they are enough.
//!
//! Owns: the match requests that wait in the namespaces whose home is this shard. Enqueue, withdraw and complete cost the
//! same however many wait (a completed group costs its members).
//! Never: asks whether a peer is a member of the namespace; matching does not need it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use rand::Rng;
use slab::Slab;

use super::Shard;
use super::mail::{Answer, Ask, Asker, Mail};
use super::peers::{PeerKey, WaitingFor};
use crate::ids::{Fingerprint, Homes, LoopId, NamespaceId, SessionId};
use crate::message::{CriteriaKey, Matched, PeerInfo, Refusal};

/// Bytes of public info that a complete group may hold, so that one match cannot cost megabytes (D22).
pub const GROUP_INFO_MAX: usize = 256 * 1024;

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
    queue: QueueKey,
    info: Arc<PeerInfo>,
    session: SessionId,
    loop_id: LoopId,
    before: u32,
    after: u32,
}

#[derive(Debug)]
struct Queue {
    first: u32,
    last: u32,
    len: u32,
}

/// The queues of one home.
#[derive(Debug)]
pub(super) struct MatchQueues {
    tickets: Slab<Ticket>,
    /// One request a peer and namespace.
    by_peer: HashMap<(NamespaceId, Fingerprint), u32, RandomState>,
    queues: HashMap<QueueKey, Queue, RandomState>,
}

impl MatchQueues {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            tickets: Slab::new(),
            by_peer: HashMap::with_hasher(homes.hasher()),
            queues: HashMap::with_hasher(homes.hasher()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tickets.len()
    }

    /// Every waiting request, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NamespaceId, Fingerprint, SessionId)> {
        self.tickets
            .iter()
            .map(|(_, ticket)| (ticket.queue.namespace, ticket.info.fingerprint, ticket.session))
    }

    fn waiting(&self, queue: &QueueKey) -> u32 {
        self.queues.get(queue).map_or(0, |queue| queue.len)
    }

    fn push(&mut self, queue: QueueKey, info: Arc<PeerInfo>, asker: &Asker) {
        let fingerprint = info.fingerprint;
        let entry = self.queues.entry(queue).or_insert(Queue {
            first: NONE,
            last: NONE,
            len: 0,
        });
        let ticket = Ticket {
            queue,
            info,
            session: asker.session,
            loop_id: asker.loop_id,
            before: entry.last,
            after: NONE,
        };
        let at = self.tickets.insert(ticket) as u32;
        match self.tickets.get_mut(entry.last as usize) {
            Some(last) => last.after = at,
            None => entry.first = at,
        }
        entry.last = at;
        entry.len += 1;
        self.by_peer.insert((queue.namespace, fingerprint), at);
    }

    fn remove(&mut self, at: u32) -> Option<Ticket> {
        let ticket = self.tickets.try_remove(at as usize)?;
        self.by_peer.remove(&(ticket.queue.namespace, ticket.info.fingerprint));
        let queue = self.queues.get_mut(&ticket.queue)?;
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
            self.queues.remove(&ticket.queue);
        }
        Some(ticket)
    }

    /// Takes a queue's requests, oldest first.
    fn take_all(&mut self, queue: &QueueKey) -> Vec<Ticket> {
        let mut taken = Vec::new();
        while let Some(first) = self.queues.get(queue).map(|queue| queue.first) {
            taken.extend(self.remove(first));
        }
        taken
    }
}

impl Shard {
    /// A peer of this shard asks for a match.
    pub(super) fn ask_match(&mut self, key: PeerKey, name: &str, group_size: u32, criteria: CriteriaKey) {
        let namespace = self.homes.namespace(name);
        let Some(info) = self.info_in(key, namespace) else {
            return;
        };
        if info.json_len() > GROUP_INFO_MAX / group_size.max(1) as usize {
            return self.tell_error(key, Refusal::MetadataTooLarge);
        }
        if self.is_crowded(key, namespace) {
            return self.tell_error(key, Refusal::TooManyNamespaces);
        }
        self.ask(
            key,
            name,
            WaitingFor::Match,
            Ask::Match {
                name: name.into(),
                info,
                group_size,
                criteria,
            },
        );
    }

    /// A request at home: it waits, or completes a group.
    pub(super) fn enqueue(
        &mut self,
        asker: &Asker,
        namespace: NamespaceId,
        name: Arc<str>,
        info: Arc<PeerInfo>,
        group_size: u32,
        criteria: CriteriaKey,
    ) -> Answer {
        self.withdraw_any(namespace, &asker.fingerprint);
        let queue = QueueKey {
            namespace,
            group_size,
            criteria,
        };
        if self.queues.waiting(&queue) + 1 < group_size {
            if !self.permits.match_waiting.take(self.limits.max_match_waiting) {
                return Answer::Refused(Refusal::ServerFull);
            }
            self.queues.push(queue, info, asker);
            return Answer::Waiting;
        }
        let group = self.queues.take_all(&queue);
        group.iter().for_each(|_| self.permits.match_waiting.release());
        let mut session = [0; 16];
        self.random.fill_bytes(&mut session);
        let peers = group.iter().map(|ticket| ticket.info.clone()).chain([info]).collect();
        let matched = Arc::new(Matched {
            namespace: name,
            session,
            peers,
        });
        let mut by_loop: BTreeMap<LoopId, Vec<(Fingerprint, SessionId)>> = BTreeMap::new();
        for ticket in &group {
            by_loop
                .entry(ticket.loop_id)
                .or_default()
                .push((ticket.info.fingerprint, ticket.session));
        }
        by_loop
            .entry(asker.loop_id)
            .or_default()
            .push((asker.fingerprint, asker.session));
        for (to, members) in by_loop {
            self.send(
                to,
                Mail::Matched {
                    namespace,
                    members,
                    matched: matched.clone(),
                },
            );
        }
        self.counters.matches += 1;
        Answer::Done
    }

    /// Takes back the request of a session, if it waits here.
    pub(super) fn withdraw(&mut self, namespace: NamespaceId, fingerprint: &Fingerprint, session: SessionId) {
        let at = self.queues.by_peer.get(&(namespace, *fingerprint)).copied();
        let ticket = at.and_then(|at| self.queues.tickets.get(at as usize));
        if ticket.is_some_and(|ticket| ticket.session == session) {
            self.withdraw_any(namespace, fingerprint);
        }
    }

    fn withdraw_any(&mut self, namespace: NamespaceId, fingerprint: &Fingerprint) {
        if let Some(at) = self.queues.by_peer.get(&(namespace, *fingerprint)).copied()
            && self.queues.remove(at).is_some()
        {
            self.permits.match_waiting.release();
        }
    }

    /// A waiting peer is shown differently from here on, unless that would make its group too large.
    pub(super) fn change_ticket(&mut self, namespace: NamespaceId, session: SessionId, info: &Arc<PeerInfo>) {
        let at = self.queues.by_peer.get(&(namespace, info.fingerprint)).copied();
        let ticket = at.and_then(|at| self.queues.tickets.get_mut(at as usize));
        if let Some(ticket) = ticket.filter(|ticket| ticket.session == session)
            && info.json_len() <= GROUP_INFO_MAX / ticket.queue.group_size.max(1) as usize
        {
            ticket.info = info.clone();
        }
    }
}
