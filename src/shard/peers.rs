//! Peers at home: who is registered, through which connection, and how a session ends.
//!
//! Owns: the records of the peers whose home is this shard, and what every home is told when a session is over.
//! Never: touches a namespace's roster; it only tells the homes that a session is gone.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::{HashMap, HashTable};
use slab::Slab;

use super::Shard;
use super::mail::{Asker, Mail};
use super::membership::{JoinExtra, Membership};
use super::output::{Held, HeldKind, Output, Unresolved};
use super::rate_limit::Bucket;
use super::registration::Arrival;
use crate::ids::{ConnId, Fingerprint, Homes, LoopId, NamespaceId, SessionId};
use crate::message::cluster::Who;
use crate::message::{Event, Meta, PeerInfo, Refusal};

/// A peer of one shard: valid from [`Output::Registered`] until the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerKey(pub(super) u32);

/// What every peer needs, hot fields first.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) fingerprint: Fingerprint,
    pub(super) session: SessionId,
    pub(super) conn: ConnId,
    /// Ascending by namespace.
    pub(super) memberships: Vec<Membership>,
    pub(super) messages: Bucket,
    pub(super) info: Arc<PeerInfo>,
    /// Whether the alias in `info` resolves to this session.
    pub(super) alias_held: bool,
    pub(super) open_sums: u16,
    /// The number of the last request to another shard.
    pub(super) requests: u32,
    pub(super) cold: Option<Box<Cold>>,
}

/// What few peers need at any moment: given up as soon as nothing is in it, see [`Peer::drop_idle_cold`].
#[derive(Debug, Default)]
pub(super) struct Cold {
    /// The request that is not answered yet.
    pub(super) waiting: Option<Waiting>,
    /// Refusals that came meanwhile: told after the answer.
    pub(super) deferred: Vec<Refusal>,
    /// Traffic that came through a pending join, and what came after it.
    pub(super) held: VecDeque<Kept>,
    pub(super) held_bytes: usize,
    pub(super) deliveries: Bucket,
}

/// What a peer is told once its join is answered.
#[derive(Debug)]
pub(super) enum Kept {
    Traffic(Box<Held>),
    /// Somebody came or went in a namespace that the peer is a member of, after it sent something that is held.
    Presence(NamespaceId, Fingerprint, Event),
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) namespace: Option<NamespaceId>,
    /// If the answer's event tells it.
    pub(super) name: Option<Arc<str>>,
    pub(super) what: WaitingFor,
}

#[derive(Debug)]
pub(super) enum WaitingFor {
    Join(Option<Box<JoinExtra>>),
    /// The membership is dropped here, but the others may not have heard of it.
    Leave,
    Match,
    Other,
    Alias(Box<Unresolved>),
}

/// The peers of one shard.
#[derive(Debug)]
pub(super) struct Peers {
    records: Slab<Peer>,
    by_fingerprint: HashTable<u32>,
    hasher: RandomState,
    pub(super) arrivals: HashMap<Fingerprint, Arrival, RandomState>,
    sessions_made: u64,
    /// Bytes of metadata, aliases and app types that the records hold, and of the memberships themselves.
    pub(super) text_bytes: usize,
}

impl Peers {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            records: Slab::new(),
            by_fingerprint: HashTable::new(),
            hasher: homes.hasher(),
            arrivals: HashMap::with_hasher(homes.hasher()),
            sessions_made: homes.sessions_before(),
            text_bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn get(&self, key: PeerKey) -> Option<&Peer> {
        self.records.get(key.0 as usize)
    }

    pub(super) fn get_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.records.get_mut(key.0 as usize)
    }

    /// The first peer at this place or a later one.
    pub(super) fn first_from(&self, place: u32) -> Option<PeerKey> {
        let mut places = place as usize..self.records.capacity();
        places
            .find(|place| self.records.contains(*place))
            .map(|place| PeerKey(place as u32))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerKey, &Peer)> {
        self.records.iter().map(|(slot, peer)| (PeerKey(slot as u32), peer))
    }

    pub(super) fn find(&self, fingerprint: &Fingerprint) -> Option<PeerKey> {
        let hash = self.hasher.hash_one(fingerprint);
        let is_it = |slot: &u32| {
            self.records
                .get(*slot as usize)
                .is_some_and(|peer| peer.fingerprint == *fingerprint)
        };
        self.by_fingerprint.find(hash, is_it).map(|slot| PeerKey(*slot))
    }

    /// The peer of this fingerprint, if it is still in that session.
    pub(super) fn find_session(&self, fingerprint: &Fingerprint, session: SessionId) -> Option<PeerKey> {
        let key = self.find(fingerprint)?;
        (self.get(key)?.session == session).then_some(key)
    }

    /// The peer at this place, if it is still in that session: a place is used again, a session's id never is.
    pub(super) fn in_session(&mut self, place: Option<PeerKey>, session: SessionId) -> Option<&mut Peer> {
        self.get_mut(place?).filter(|peer| peer.session == session)
    }

    pub(super) fn insert(&mut self, peer: Peer) -> PeerKey {
        let hash = self.hasher.hash_one(peer.fingerprint);
        self.text_bytes += text_bytes(&peer.info);
        let slot = self.records.insert(peer) as u32;
        let (records, hasher) = (&self.records, &self.hasher);
        self.by_fingerprint
            .insert_unique(hash, slot, |slot| hasher.hash_one(records[*slot as usize].fingerprint));
        PeerKey(slot)
    }

    fn remove(&mut self, key: PeerKey) -> Option<Peer> {
        let peer = self.records.try_remove(key.0 as usize)?;
        let hash = self.hasher.hash_one(peer.fingerprint);
        if let Ok(entry) = self.by_fingerprint.find_entry(hash, |slot| *slot == key.0) {
            entry.remove();
        }
        self.text_bytes -= text_bytes(&peer.info);
        Some(peer)
    }

    pub(super) fn next_session(&mut self, maker: LoopId) -> SessionId {
        self.sessions_made += 1;
        SessionId::new(maker, self.sessions_made)
    }
}

/// Bytes of a shown peer that a stranger chose.
pub(super) fn text_bytes(info: &PeerInfo) -> usize {
    info.alias.len() + info.app_type.len() + info.meta.json_len()
}

impl Peer {
    pub(super) fn cold(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    /// Whether something of that sender is held back: its next message queues behind.
    pub(super) fn is_holding_of(&self, sender: &Fingerprint) -> bool {
        let mut held = self.cold.iter().flat_map(|cold| &cold.held);
        held.any(|kept| match kept {
            Kept::Traffic(held) => held.from == *sender,
            Kept::Presence(_, subject, _) => subject == sender,
        })
    }

    /// Gives up the cold part if nothing is in it: every peer has joined something once, and most then wait for nothing.
    pub(super) fn drop_idle_cold(&mut self) {
        if self.cold.as_ref().is_some_and(|cold| cold.is_idle()) {
            self.cold = None;
        }
    }

    pub(super) fn waiting(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.waiting.is_some())
    }
}

impl Cold {
    fn is_idle(&self) -> bool {
        self.waiting.is_none() && self.deferred.is_empty() && self.held.is_empty() && self.deliveries.is_untouched()
    }
}

impl Shard {
    /// A registered connection closed: its session ends.
    pub fn close(&mut self, peer: PeerKey) {
        if self.end_session(peer).is_some() {
            self.permits.registered.release();
        }
        self.settle();
    }

    /// Ends a session, for the cluster too. Returns its connection. The permit stays taken.
    pub(super) fn end_session(&mut self, key: PeerKey) -> Option<ConnId> {
        let (fingerprint, session) = self.identity(key)?;
        let conn = self.forget_session(key);
        self.end_in_cluster(Who { fingerprint, session });
        conn
    }

    /// Removes the peer and tells every home that holds something of the session. Returns its connection. The permit stays taken.
    pub(super) fn forget_session(&mut self, key: PeerKey) -> Option<ConnId> {
        let mut peer = self.peers.remove(key)?;
        let asker = Asker {
            loop_id: self.id,
            fingerprint: peer.fingerprint,
            session: peer.session,
            peer: None,
            request: 0,
        };
        if peer.alias_held {
            let alias = peer.info.alias.clone();
            self.send(
                self.homes.of_alias(&alias),
                Mail::ReleaseAlias {
                    alias,
                    session: peer.session,
                },
            );
        }
        let mut held_at: Vec<NamespaceId> = Vec::new();
        for membership in &peer.memberships {
            self.unlink(key, membership);
            self.peers.text_bytes -= membership.text_bytes();
            held_at.push(membership.namespace);
        }
        if let Some(cold) = &mut peer.cold {
            if let Some(Waiting {
                namespace: Some(namespace),
                what: WaitingFor::Match | WaitingFor::Leave,
                ..
            }) = &cold.waiting
            {
                held_at.push(*namespace);
            }
            for kept in cold.held.drain(..) {
                if let Kept::Traffic(held) = kept
                    && let HeldKind::Direct(..) = held.what
                {
                    self.mail_refusal(held.origin, held.from, held.session, Refusal::PeerNotFound);
                }
            }
        }
        self.send_gone(asker, held_at);
        Some(peer.conn)
    }

    fn send_gone(&mut self, asker: Asker, mut held_at: Vec<NamespaceId>) {
        // Equal homes stand together.
        held_at.sort_unstable_by_key(|namespace| (self.homes.of_namespace(*namespace), *namespace));
        held_at.dedup();
        let mut homes = 0;
        for namespaces in held_at.chunk_by(|a, b| self.homes.of_namespace(*a) == self.homes.of_namespace(*b)) {
            let home = self.homes.of_namespace(namespaces[0]);
            let mail = Mail::Gone {
                asker,
                namespaces: namespaces.to_vec(),
            };
            homes += 1;
            if home == self.id {
                self.own.push_back(mail)
            } else {
                self.outputs.push_back(Output::Mail { to: home, mail })
            }
        }
        if homes > 0 {
            self.peers.arrivals.entry(asker.fingerprint).or_default().outstanding += homes;
        }
    }

    /// Takes one token for a message of a registered peer.
    pub fn admit(&mut self, peer: PeerKey, now_ms: u64) -> bool {
        let Some(rate) = self.limits.messages else { return true };
        self.peers
            .get_mut(peer)
            .is_some_and(|peer| peer.messages.take(rate, now_ms))
    }

    /// Whether this peer waits for an answer: nothing more of it is to be parsed or read.
    pub fn is_waiting(&self, peer: PeerKey) -> bool {
        self.peers.get(peer).is_some_and(Peer::waiting)
    }

    /// Whether this peer is the one of this connection: a key is used again once its session is over.
    pub fn serves(&self, peer: PeerKey, conn: ConnId) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.conn == conn)
    }

    /// The fingerprint and session of a peer.
    pub fn identity(&self, peer: PeerKey) -> Option<(Fingerprint, SessionId)> {
        self.peers.get(peer).map(|peer| (peer.fingerprint, peer.session))
    }

    /// Changes the metadata of a peer and how it is shown wherever it is.
    pub(super) fn change_metadata(&mut self, key: PeerKey, update: &Meta) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        let meta = peer.info.meta.overlaid(update).flat();
        if meta.json_len() > crate::message::META_MAX {
            return self.tell_error(key, Refusal::MetadataTooLarge);
        }
        let before = text_bytes(&peer.info);
        peer.info = Arc::new(PeerInfo {
            meta,
            ..PeerInfo::clone(&peer.info)
        });
        let after = text_bytes(&peer.info);
        let session = peer.session;
        let shown_at: Vec<NamespaceId> = peer.memberships.iter().map(|membership| membership.namespace).collect();
        self.peers.text_bytes = self.peers.text_bytes - before + after;
        for namespace in shown_at {
            if let Some(info) = self.info_in(key, namespace) {
                self.send(
                    self.homes.of_namespace(namespace),
                    Mail::InfoChanged {
                        namespace,
                        session,
                        info,
                    },
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use compact_str::CompactString;

    use super::*;
    use crate::message::Register;
    use crate::message::Request;
    use crate::shard::{Limits, Permits};

    #[test]
    fn a_record_stays_small() {
        assert!(size_of::<Peer>() <= 104);
        assert!(size_of::<Membership>() <= 40);
        assert!(size_of::<PeerInfo>() <= 88);
    }

    #[test]
    fn a_peer_that_waits_for_nothing_has_no_cold_part() {
        let limits = Limits {
            max_peers: 10,
            max_rooms: 10,
            max_match_waiting: 10,
            messages: None,
            deliveries: None,
            send_buffer_size: 32,
            send_buffer_bytes: 4096,
            state_bytes: usize::MAX,
        };
        let homes = Homes::new(1, [1, 2, 3, 4]);
        let permits = Arc::new(Permits::default());
        let mut shard = Shard::new(LoopId::new(0), homes, Arc::new(limits), permits, [0; 32]);
        let fingerprint = Fingerprint::of_key("somebody");
        let register = Register {
            fingerprint,
            alias: CompactString::default(),
            meta: Meta::default(),
        };
        shard.register(ConnId::new(0, 0), register);
        let peer = shard.peers.find(&fingerprint).unwrap();
        let has_cold = |shard: &Shard| shard.peers.get(peer).unwrap().cold.is_some();
        let (namespace, app_type) = ("lobby", "");
        let join = Request::Join {
            namespace,
            app_type,
            meta: Meta::default(),
        };
        shard.handle_request(peer, join);
        assert!(!has_cold(&shard), "the join was answered");
        let request = Request::Match {
            namespace,
            group_size: 2,
            criteria: crate::message::CriteriaKey([0; 32]),
        };
        shard.handle_request(peer, request);
        assert!(
            !has_cold(&shard),
            "the match request was answered: it waits at its home"
        );
    }
}
