//! A look into a shard, for tests and the simulator.
//!
//! Owns: the snapshot that a checker compares across shards, and the proof that one shard agrees with itself.
//! Never: changes anything, and is never called on a running server.

use std::sync::Arc;

use super::Shard;
use crate::ids::{Fingerprint, LoopId, NamespaceId, SessionId};

/// What a shard holds, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The peers at home, and what they are members of.
    pub peers: Vec<PeerSnapshot>,
    /// The namespaces and rooms at home.
    pub namespaces: Vec<NamespaceSnapshot>,
    /// The held aliases at home.
    pub aliases: Vec<(String, Fingerprint, SessionId)>,
    /// The waiting match requests at home.
    pub tickets: Vec<(NamespaceId, Fingerprint, SessionId)>,
    /// Registrations under way and keys between sessions.
    pub arrivals: usize,
    /// Peers that wait for an answer.
    pub waiting: usize,
    /// Messages held back.
    pub held: usize,
    /// The loops that this shard believes to serve members, for each namespace of which it serves some.
    pub beliefs: Vec<(NamespaceId, Vec<(LoopId, u32)>)>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerSnapshot {
    /// Who.
    pub fingerprint: Fingerprint,
    /// Its session.
    pub session: SessionId,
    /// Its alias, if that resolves to it.
    pub alias: Option<String>,
    /// The namespaces that it is a member of.
    pub member_of: Vec<NamespaceId>,
    /// The namespaces where it believes to wait for a match.
    pub tickets: Vec<NamespaceId>,
}

/// One namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamespaceSnapshot {
    /// Which.
    pub id: NamespaceId,
    /// Its name.
    pub name: Arc<str>,
    /// Owner and cap, if it is a room.
    pub room: Option<(Fingerprint, u32)>,
    /// Its members in join order.
    pub members: Vec<(Fingerprint, SessionId, LoopId)>,
}

impl Shard {
    /// What the shard holds.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            arrivals: self.peers.arrivals.len(),
            ..Snapshot::default()
        };
        for (_, peer) in self.peers.iter() {
            let cold = peer.cold.as_ref();
            snapshot.waiting += usize::from(peer.waiting());
            snapshot.held += cold.map_or(0, |cold| cold.held.len());
            let tickets = peer.memberships.iter().filter(|membership| membership.ticket);
            snapshot.peers.push(PeerSnapshot {
                fingerprint: peer.fingerprint,
                session: peer.session,
                alias: peer.alias_held.then(|| peer.info.alias.to_string()),
                member_of: peer.shares().collect(),
                tickets: tickets.map(|membership| membership.namespace).collect(),
            });
        }
        for (id, namespace) in &self.namespaces {
            let member = |member: &super::namespaces::Member| (member.info.fingerprint, member.session, member.loop_id);
            snapshot.namespaces.push(NamespaceSnapshot {
                id: *id,
                name: namespace.name.clone(),
                room: namespace.room.as_ref().map(|room| (room.owner, room.max_size)),
                members: namespace.roster.iter().map(member).collect(),
            });
        }
        snapshot.aliases = self
            .aliases
            .iter()
            .map(|(alias, f, s)| (alias.to_owned(), f, s))
            .collect();
        snapshot.tickets = self.queues.iter().chain(self.iter_cluster_tickets()).collect();
        for (id, space) in self.locals.iter().filter(|(_, space)| !space.members.is_empty()) {
            let mut loops = space.loops.clone();
            loops.sort_unstable();
            snapshot.beliefs.push((id, loops));
        }
        snapshot.peers.sort_unstable();
        snapshot.namespaces.sort_unstable();
        snapshot.aliases.sort_unstable();
        snapshot.tickets.sort_unstable();
        snapshot.beliefs.sort_unstable();
        snapshot
    }

    /// Proves that the state agrees with itself. Panics if not: for tests and the simulator.
    #[allow(clippy::missing_panics_doc)]
    pub fn check_invariants(&self) {
        self.check_cluster();
        for (key, peer) in self.peers.iter() {
            assert_eq!(
                self.peers.find(&peer.fingerprint),
                Some(key),
                "a peer is found by its fingerprint"
            );
            assert!(
                peer.memberships
                    .windows(2)
                    .all(|pair| pair[0].namespace < pair[1].namespace)
            );
            for membership in &peer.memberships {
                assert!(membership.is_needed(), "no membership without a reason");
                if !membership.is_member() && !membership.pending {
                    continue;
                }
                let space = self
                    .locals
                    .get(membership.namespace)
                    .expect("a membership has its local namespace");
                let listed = space.members.iter().filter(|member| **member == key).count();
                assert_eq!(
                    listed,
                    usize::from(membership.is_member()),
                    "listed exactly if a member"
                );
                let pending = space.pending.iter().filter(|member| **member == key).count();
                assert_eq!(pending, usize::from(membership.pending), "pending exactly if noted");
            }
        }
        let text_bytes = |(_, peer): (super::peers::PeerKey, &super::peers::Peer)| {
            let memberships = peer.memberships.iter().map(|membership| membership.text_bytes());
            super::peers::text_bytes(&peer.info) + memberships.sum::<usize>()
        };
        let counted: usize = self.peers.iter().map(text_bytes).sum();
        assert_eq!(self.peers.text_bytes, counted, "bytes add up");
        for (id, space) in self.locals.iter() {
            assert!(
                !space.members.is_empty() || !space.pending.is_empty(),
                "no empty local namespace"
            );
            for key in space.members.iter().chain(&space.pending) {
                let peer = self.peers.get(*key).expect("a listed member exists");
                assert!(peer.membership(id).is_some(), "a listed member knows it");
            }
        }
        assert_eq!(
            self.namespaces
                .values()
                .filter(|namespace| namespace.room.is_some())
                .count(),
            self.rooms
        );
        for namespace in self.namespaces.values() {
            assert!(namespace.roster.len() > 0, "no empty namespace");
            assert_eq!(
                namespace.roster.iter().count(),
                namespace.roster.len(),
                "the join order holds everybody"
            );
            let counted: u32 = namespace.loops().map(|(_, count)| count).sum();
            assert_eq!(counted as usize, namespace.roster.len(), "members by loop add up");
        }
        if self.is_clustered() {
            self.check_spaces();
        }
    }
}
