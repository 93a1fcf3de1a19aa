//! The member side of namespaces and rooms: which peers of this shard are in what.
//!
//! Owns: memberships, pending joins, where match requests wait, and the lists by which fan-outs find this shard's members.
//! Never: decides who may be a member; that is the home's (see `namespaces`).

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use slab::Slab;

use super::Shard;
use super::mail::{Change, LoopCount, Mail};
use super::output::Output;
use super::peers::{Kept, Peer, PeerKey, text_bytes};
use crate::ids::{Fingerprint, Homes, LoopId, NamespaceId, SessionId};
use crate::message::{Event, Matched, Meta, PeerInfo, Refusal};

/// Namespaces, rooms and match queues that a peer may be in at once (D22).
pub const NAMESPACES_MAX: usize = 256;
/// Bytes of join metadata that a peer may hold in all (D22).
pub const JOIN_META_MAX: usize = 32 * 1024;

const NOT_A_MEMBER: u32 = u32::MAX;
/// In `Membership::local`: the peer only waits for a match there, which takes no local namespace.
const NOT_LISTED: u32 = u32::MAX;
/// Bytes of a membership's records, its texts aside: half of what both sides hold, as of a text.
const MEMBERSHIP_BYTES: usize = 128;

/// One peer's place in one namespace: a member, about to be one, or waiting for a match there.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) namespace: NamespaceId,
    local: u32,
    /// The place in the local namespace's member list.
    at: u32,
    /// A join is on its way to the home, which may already have announced it.
    pub(super) pending: bool,
    /// A match request waits at the home.
    pub(super) ticket: bool,
    extra: Option<Box<JoinExtra>>,
}

/// How a peer is shown in one namespace, over how it is shown everywhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JoinExtra {
    pub(super) app_type: Box<str>,
    pub(super) meta: Meta,
}

impl Membership {
    pub(super) fn is_member(&self) -> bool {
        self.at != NOT_A_MEMBER
    }

    /// Whether there is a reason for it.
    pub(super) fn is_needed(&self) -> bool {
        self.is_member() || self.pending || self.ticket
    }

    pub(super) fn text_bytes(&self) -> usize {
        let extra = self.extra.as_ref();
        MEMBERSHIP_BYTES + extra.map_or(0, |extra| extra.app_type.len() + extra.meta.json_len())
    }
}

/// A namespace of which this shard serves members or pending ones.
#[derive(Debug)]
pub(super) struct LocalNamespace {
    id: NamespaceId,
    pub(super) name: Arc<str>,
    pub(super) members: Vec<PeerKey>,
    /// Peers with a pending join, members again or not.
    pub(super) pending: Vec<PeerKey>,
    /// How many members every loop serves, as its home last said.
    pub(super) loops: Vec<LoopCount>,
}

/// The namespaces of which this shard serves members.
#[derive(Debug)]
pub(super) struct LocalNamespaces {
    spaces: Slab<LocalNamespace>,
    by_id: HashMap<NamespaceId, u32, RandomState>,
}

impl LocalNamespaces {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            spaces: Slab::new(),
            by_id: HashMap::with_hasher(homes.hasher()),
        }
    }

    pub(super) fn get(&self, id: NamespaceId) -> Option<&LocalNamespace> {
        self.spaces.get(*self.by_id.get(&id)? as usize)
    }

    fn get_mut(&mut self, id: NamespaceId) -> Option<&mut LocalNamespace> {
        self.spaces.get_mut(*self.by_id.get(&id)? as usize)
    }

    fn find_or_insert(&mut self, id: NamespaceId, name: &Arc<str>) -> u32 {
        *self.by_id.entry(id).or_insert_with(|| {
            let (name, members) = (name.clone(), Vec::new());
            self.spaces.insert(LocalNamespace {
                id,
                name,
                members,
                pending: Vec::new(),
                loops: Vec::new(),
            }) as u32
        })
    }

    fn remove_if_empty(&mut self, slot: u32) {
        let Some(space) = self.spaces.get(slot as usize) else {
            return;
        };
        if space.members.is_empty() && space.pending.is_empty() {
            self.by_id.remove(&space.id);
            self.spaces.remove(slot as usize);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.spaces.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NamespaceId, &LocalNamespace)> {
        self.spaces.iter().map(|(_, space)| (space.id, space))
    }
}

impl LocalNamespace {
    fn set_count(&mut self, (loop_id, members): LoopCount) {
        match self.loops.iter().position(|(known, _)| *known == loop_id) {
            Some(at) if members == 0 => drop(self.loops.swap_remove(at)),
            Some(at) => self.loops[at].1 = members,
            None if members > 0 => self.loops.push((loop_id, members)),
            None => {}
        }
    }
}

/// How a message reaches a peer, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// Both are members.
    Member,
    /// Only through a join that is not answered yet.
    Pending,
    /// Not at all.
    None,
}

impl Peer {
    pub(super) fn membership(&self, namespace: NamespaceId) -> Option<&Membership> {
        let at = self
            .memberships
            .binary_search_by_key(&namespace, |membership| membership.namespace)
            .ok()?;
        self.memberships.get(at)
    }

    fn membership_mut(&mut self, namespace: NamespaceId) -> Option<&mut Membership> {
        let at = self
            .memberships
            .binary_search_by_key(&namespace, |membership| membership.namespace)
            .ok()?;
        self.memberships.get_mut(at)
    }

    /// Its place in a namespace, made if there is none, and by how many bytes that makes the state larger.
    fn place_in(&mut self, namespace: NamespaceId) -> (&mut Membership, usize) {
        let place = self
            .memberships
            .binary_search_by_key(&namespace, |membership| membership.namespace);
        let (Ok(at) | Err(at)) = place;
        let mut bytes = 0;
        if place.is_err() {
            // Most peers are in one namespace: do not let the first push reserve room for four.
            if self.memberships.is_empty() {
                self.memberships.reserve_exact(1);
            }
            let membership = Membership {
                namespace,
                local: NOT_LISTED,
                at: NOT_A_MEMBER,
                pending: false,
                ticket: false,
                extra: None,
            };
            bytes = membership.text_bytes();
            self.memberships.insert(at, membership);
        }
        (&mut self.memberships[at], bytes)
    }

    pub(super) fn is_member(&self, namespace: NamespaceId) -> bool {
        self.membership(namespace).is_some_and(Membership::is_member)
    }

    /// The namespaces that it is a member of, ascending.
    pub(super) fn shares(&self) -> impl Iterator<Item = NamespaceId> {
        self.memberships
            .iter()
            .filter(|membership| membership.is_member())
            .map(|membership| membership.namespace)
    }

    /// How a sender that is in `theirs` (ascending) reaches this peer.
    pub(super) fn shared_with(&self, theirs: impl Iterator<Item = NamespaceId>) -> Share {
        let mut own = self.memberships.iter().peekable();
        let mut share = Share::None;
        for namespace in theirs {
            while own.next_if(|membership| membership.namespace < namespace).is_some() {}
            match own.peek() {
                Some(membership) if membership.namespace == namespace && membership.is_member() => {
                    return Share::Member;
                }
                Some(membership) if membership.namespace == namespace && membership.pending => share = Share::Pending,
                Some(_) => {}
                None => break,
            }
        }
        share
    }
}

impl Shard {
    /// Whether one more namespace would be too many for this peer.
    pub(super) fn is_crowded(&self, key: PeerKey, namespace: NamespaceId) -> bool {
        self.peers
            .get(key)
            .is_some_and(|peer| peer.memberships.len() >= NAMESPACES_MAX && peer.membership(namespace).is_none())
    }

    pub(super) fn join_meta_bytes(&self, key: PeerKey, except: NamespaceId) -> usize {
        let memberships = self.peers.get(key).map_or(&[][..], |peer| &peer.memberships);
        let others = memberships.iter().filter(|membership| membership.namespace != except);
        others
            .filter_map(|membership| membership.extra.as_ref())
            .map(|extra| extra.meta.json_len())
            .sum()
    }

    pub(super) fn note_pending(&mut self, key: PeerKey, namespace: NamespaceId, name: &Arc<str>) {
        let local = self.locals.find_or_insert(namespace, name);
        if let Some(space) = self.locals.spaces.get_mut(local as usize) {
            space.pending.push(key);
        }
        let Some(peer) = self.peers.get_mut(key) else { return };
        let (membership, bytes) = peer.place_in(namespace);
        (membership.local, membership.pending) = (local, true);
        self.peers.text_bytes += bytes;
    }

    /// Takes the peer out of the namespace here; false if it was not in it.
    pub(super) fn drop_membership(&mut self, key: PeerKey, namespace: NamespaceId) -> bool {
        let Some(peer) = self.peers.get_mut(key) else {
            return false;
        };
        let Ok(at) = peer
            .memberships
            .binary_search_by_key(&namespace, |membership| membership.namespace)
        else {
            return false;
        };
        let membership = peer.memberships.remove(at);
        self.peers.text_bytes -= membership.text_bytes();
        self.unlink(key, &membership);
        true
    }

    /// Ends what there is no reason for any more: the place on the namespace's lists, or the membership itself.
    fn drop_unless_needed(&mut self, key: PeerKey, namespace: NamespaceId) {
        let peer = self.peers.get_mut(key);
        let Some(membership) = peer.and_then(|peer| peer.membership_mut(namespace)) else {
            return;
        };
        if membership.is_member() || membership.pending {
            return;
        }
        if membership.ticket {
            let local = std::mem::replace(&mut membership.local, NOT_LISTED);
            self.locals.remove_if_empty(local);
        } else {
            self.drop_membership(key, namespace);
        }
    }

    /// Takes a membership, already out of its peer's record, off the namespace's lists.
    pub(super) fn unlink(&mut self, key: PeerKey, membership: &Membership) {
        self.unlist(membership.local, membership.at);
        if membership.pending {
            self.unlist_pending(key, membership.local);
        }
        self.locals.remove_if_empty(membership.local);
    }

    fn unlist(&mut self, local: u32, at: u32) {
        let Some(space) = self.locals.spaces.get_mut(local as usize) else {
            return;
        };
        if at == NOT_A_MEMBER || at as usize >= space.members.len() {
            return;
        }
        space.members.swap_remove(at as usize);
        let (id, moved) = (space.id, space.members.get(at as usize).copied());
        let moved = moved
            .and_then(|key| self.peers.get_mut(key))
            .and_then(|peer| peer.membership_mut(id));
        if let Some(membership) = moved {
            membership.at = at;
        }
    }

    fn unlist_pending(&mut self, key: PeerKey, local: u32) {
        let Some(space) = self.locals.spaces.get_mut(local as usize) else {
            return;
        };
        if let Some(at) = space.pending.iter().position(|pending| *pending == key) {
            space.pending.swap_remove(at);
        }
    }

    /// The home's answer to a join: member or not, the join is no longer pending.
    pub(super) fn end_pending(
        &mut self,
        key: PeerKey,
        namespace: NamespaceId,
        accepted: Option<Option<Box<JoinExtra>>>,
    ) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        let Some(membership) = peer.membership_mut(namespace) else {
            return;
        };
        membership.pending = false;
        let local = membership.local;
        let Some(space) = self.locals.spaces.get_mut(local as usize) else {
            return;
        };
        let (mut before, mut after) = (0, 0);
        let accepted_here = accepted.is_some();
        if let Some(extra) = accepted {
            before = membership.text_bytes();
            membership.extra = extra;
            after = membership.text_bytes();
            if !membership.is_member() {
                membership.at = space.members.len() as u32;
                space.members.push(key);
            }
        }
        let is_member = membership.is_member();
        debug_assert!(is_member || !accepted_here);
        self.peers.text_bytes = self.peers.text_bytes - before + after;
        self.unlist_pending(key, local);
        if !is_member {
            self.drop_unless_needed(key, namespace);
        }
    }

    pub(super) fn set_loops(&mut self, namespace: NamespaceId, loops: Vec<LoopCount>) {
        if let Some(space) = self.locals.get_mut(namespace) {
            space.loops = loops;
        }
    }

    /// Somebody came or went in a namespace of which this shard serves members.
    pub(super) fn on_presence(&mut self, namespace: NamespaceId, change: Change, count: LoopCount) {
        let Some(space) = self.locals.get_mut(namespace) else {
            return;
        };
        space.set_count(count);
        let name = space.name.clone();
        let (subject, event) = match change {
            Change::Joined(peer) => (peer.fingerprint, Event::PeerJoined { namespace: name, peer }),
            Change::Left(fingerprint) => {
                let event = Event::PeerLeft {
                    namespace: name,
                    fingerprint,
                };
                (fingerprint, event)
            }
            Change::Counted => return,
        };
        let start = self.targets.len();
        let Some(space) = self.locals.get(namespace) else {
            return;
        };
        let kept_max = self.limits.send_buffer_size.saturating_mul(4).max(1);
        let mut overfull = Vec::new();
        for key in &space.members {
            let Some(peer) = self.peers.get_mut(*key).filter(|peer| peer.fingerprint != subject) else {
                continue;
            };
            // A peer's messages through a namespace come before its going: if one is held, so is the news.
            let waits = |kept: &Kept| match kept {
                Kept::Traffic(held) => held.from == subject && held.is_through(namespace),
                Kept::Presence(_, earlier, _) => *earlier == subject,
            };
            match peer.cold.as_mut().filter(|cold| cold.held.iter().any(waits)) {
                None => self.targets.push(peer.conn),
                Some(cold) if cold.held.len() < kept_max => {
                    cold.held.push_back(Kept::Presence(namespace, subject, event.clone()));
                }
                Some(_) => overfull.push((*key, peer.conn)),
            }
        }
        if self.targets.len() > start {
            self.outputs.push_back(Output::Presence {
                namespace,
                members: space.loops.iter().map(|(_, members)| members).sum(),
                targets: start..self.targets.len(),
                event,
            });
        }
        for (key, conn) in overfull {
            self.close_overfull(key, conn);
        }
    }

    /// The owner put a peer of this shard out of a room. A pending join stays pending: its answer is on its way.
    pub(super) fn on_kicked(
        &mut self,
        room: NamespaceId,
        name: Arc<str>,
        owner: Fingerprint,
        target: Fingerprint,
        session: SessionId,
    ) {
        let Some(key) = self.peers.find_session(&target, session) else {
            self.counters.stale_mail += 1;
            return;
        };
        // A home that has given its copy up knows no name, but then the loop does.
        let name = match name.is_empty() {
            true => self.locals.get(room).map(|space| space.name.clone()).unwrap_or(name),
            false => name,
        };
        let Some(peer) = self.peers.get_mut(key) else { return };
        let conn = peer.conn;
        self.forget_ticket(key, room);
        let peer = self.peers.get_mut(key);
        let Some(membership) = peer.and_then(|peer| peer.membership_mut(room)) else {
            // It left in the meantime: nothing to be put out of.
            self.counters.stale_mail += 1;
            return;
        };
        let (local, at) = (membership.local, membership.at);
        let pending = membership.pending;
        membership.at = NOT_A_MEMBER;
        self.unlist(local, at);
        if !pending {
            self.drop_unless_needed(key, room);
        }
        if at != NOT_A_MEMBER {
            self.tell(
                conn,
                Event::Kicked {
                    room: name,
                    owner,
                    target,
                },
            );
        }
    }

    /// Match requests of peers of this shard were met.
    pub(super) fn on_matched(
        &mut self,
        namespace: Option<NamespaceId>,
        members: &[(Option<PeerKey>, SessionId)],
        matched: &Arc<Matched>,
    ) {
        let start = self.targets.len();
        for (place, session) in members {
            let (Some(key), Some(peer)) = (*place, self.peers.in_session(*place, *session)) else {
                // A match is final when it is formed: a member that ended meanwhile stays listed.
                self.counters.stale_mail += 1;
                continue;
            };
            self.targets.push(peer.conn);
            if let Some(namespace) = namespace {
                self.forget_ticket(key, namespace);
            }
        }
        // Rendered once: a group may have a thousand members, and each is told of all of them.
        if self.targets.len() > start {
            self.outputs.push_back(Output::FanOut {
                targets: start..self.targets.len(),
                event: Event::Matched(matched.clone()),
            });
        }
    }

    pub(super) fn note_ticket(&mut self, key: PeerKey, namespace: NamespaceId) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        let (membership, bytes) = peer.place_in(namespace);
        membership.ticket = true;
        self.peers.text_bytes += bytes;
    }

    /// No match request of the peer waits there. One that is on its way again makes a new ticket at the home: Gone must
    /// still name that, and it does, because it names the namespace of an unanswered match request too.
    pub(super) fn forget_ticket(&mut self, key: PeerKey, namespace: NamespaceId) {
        let peer = self.peers.get_mut(key);
        let Some(membership) = peer.and_then(|peer| peer.membership_mut(namespace)) else {
            return;
        };
        if std::mem::take(&mut membership.ticket) {
            self.drop_unless_needed(key, namespace);
        }
    }

    /// How a peer is shown in a namespace: as a member as it joined, else as it is.
    pub(super) fn info_in(&self, key: PeerKey, namespace: NamespaceId) -> Option<Arc<PeerInfo>> {
        let peer = self.peers.get(key)?;
        Some(shown(
            &peer.info,
            peer.membership(namespace)
                .and_then(|membership| membership.extra.as_deref()),
        ))
    }

    /// Says to a loop (or a sender of this one) that a direct message of one of its peers was not delivered.
    pub fn refuse(&mut self, origin: LoopId, fingerprint: Fingerprint, session: SessionId, refusal: Refusal) {
        self.mail_refusal(origin, fingerprint, session, refusal);
        self.settle();
    }

    pub(super) fn mail_refusal(
        &mut self,
        origin: LoopId,
        fingerprint: Fingerprint,
        session: SessionId,
        refusal: Refusal,
    ) {
        self.counters.refused(refusal);
        self.send(
            origin,
            Mail::Refused {
                fingerprint,
                session,
                refusal,
            },
        );
    }
}

impl JoinExtra {
    pub(super) fn boxed(self) -> Option<Box<Self>> {
        (!self.app_type.is_empty() || !self.meta.is_empty()).then(|| Box::new(self))
    }
}

pub(super) fn shown(base: &Arc<PeerInfo>, extra: Option<&JoinExtra>) -> Arc<PeerInfo> {
    match extra {
        Some(extra) if !extra.app_type.is_empty() || !extra.meta.is_empty() => {
            let shown = PeerInfo {
                app_type: extra.app_type.clone(),
                meta: base.meta.overlaid(&extra.meta),
                ..PeerInfo::clone(base)
            };
            debug_assert!(text_bytes(&shown) > 0);
            Arc::new(shown)
        }
        _ => base.clone(),
    }
}
