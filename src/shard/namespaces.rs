//! The home side of namespaces and rooms: who is a member, in join order, and which loops serve them.
//!
//! Owns: the rosters of the namespaces and rooms whose home is this shard, their caps, and the announcement of every change.
//! Never: knows a connection, or what a peer may ask where it is not a member (see `rooms`, `matchmaking`).

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::{HashMap, HashTable};
use slab::Slab;

use super::Shard;
use super::mail::{Answer, Ask, Asker, Change, LoopCount, Mail};
use super::rooms::Room;
use crate::ids::{Fingerprint, LoopId, NamespaceId, SessionId};
use crate::message::{LIST_DEFAULT, PeerInfo, ROOM_MAX, Refusal};

const NONE: u32 = u32::MAX;
/// A roster of at most so many is searched in order; most are of two to ten.
const INDEX_FROM: usize = 16;

/// A namespace or room at home: it exists exactly while it has members.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) name: Arc<str>,
    pub(super) room: Option<Room>,
    pub(super) roster: Roster,
    /// Members by loop.
    counts: Vec<u32>,
    elsewhere: Option<Box<Elsewhere>>,
}

/// Members by other node, see [`LoopId::of_node`]. Boxed: without a cluster there are none.
#[derive(Debug, Default)]
struct Elsewhere {
    counts: Vec<LoopCount>,
}

/// The namespaces and rooms of one home.
pub(super) type Namespaces = HashMap<NamespaceId, Namespace, RandomState>;

/// A member, as its home knows it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) info: Arc<PeerInfo>,
    pub(super) session: SessionId,
    pub(super) loop_id: LoopId,
    before: u32,
    after: u32,
}

/// Members in join order.
#[derive(Debug)]
pub(super) struct Roster {
    members: Slab<Member>,
    index: HashTable<u32>,
    hasher: RandomState,
    first: u32,
    last: u32,
}

impl Roster {
    fn new(hasher: RandomState) -> Self {
        Self {
            members: Slab::new(),
            index: HashTable::new(),
            hasher,
            first: NONE,
            last: NONE,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        let next = |at: u32| self.members.get(at as usize);
        std::iter::successors(next(self.first), move |member| next(member.after))
    }

    fn at(&self, fingerprint: &Fingerprint) -> Option<u32> {
        if self.index.is_empty() {
            let is_it = |(_, member): &(usize, &Member)| member.info.fingerprint == *fingerprint;
            return self.members.iter().find(is_it).map(|(at, _)| at as u32);
        }
        let is_it = |at: &u32| {
            self.members
                .get(*at as usize)
                .is_some_and(|m| m.info.fingerprint == *fingerprint)
        };
        self.index.find(self.hasher.hash_one(fingerprint), is_it).copied()
    }

    pub(super) fn get(&self, fingerprint: &Fingerprint) -> Option<&Member> {
        self.members.get(self.at(fingerprint)? as usize)
    }

    pub(super) fn get_mut(&mut self, fingerprint: &Fingerprint) -> Option<&mut Member> {
        let at = self.at(fingerprint)?;
        self.members.get_mut(at as usize)
    }

    pub(super) fn push(&mut self, info: Arc<PeerInfo>, session: SessionId, loop_id: LoopId) {
        if self.members.is_empty() {
            // Most namespaces are rooms for two: do not reserve for four at once.
            self.members.reserve_exact(1);
        }
        let fingerprint = info.fingerprint;
        let member = Member {
            info,
            session,
            loop_id,
            before: self.last,
            after: NONE,
        };
        let at = self.members.insert(member) as u32;
        match self.members.get_mut(self.last as usize) {
            Some(last) => last.after = at,
            None => self.first = at,
        }
        self.last = at;
        let (members, hasher) = (&self.members, &self.hasher);
        let hash_at = |at: &u32| hasher.hash_one(members[*at as usize].info.fingerprint);
        if !self.index.is_empty() {
            self.index.insert_unique(hasher.hash_one(fingerprint), at, hash_at);
        } else if members.len() >= INDEX_FROM {
            for (at, member) in members {
                self.index
                    .insert_unique(hasher.hash_one(member.info.fingerprint), at as u32, hash_at);
            }
        }
    }

    fn remove(&mut self, fingerprint: &Fingerprint) -> Option<Member> {
        let at = self.at(fingerprint)?;
        if let Ok(entry) = self
            .index
            .find_entry(self.hasher.hash_one(fingerprint), |indexed| *indexed == at)
        {
            entry.remove();
        }
        let member = self.members.try_remove(at as usize)?;
        match self.members.get_mut(member.before as usize) {
            Some(before) => before.after = member.after,
            None => self.first = member.after,
        }
        match self.members.get_mut(member.after as usize) {
            Some(after) => after.before = member.before,
            None => self.last = member.before,
        }
        Some(member)
    }

    /// The first `limit` members in join order.
    pub(super) fn list(&self, limit: u32) -> Vec<Arc<PeerInfo>> {
        self.iter()
            .take(limit as usize)
            .map(|member| member.info.clone())
            .collect()
    }
}

impl Namespace {
    pub(super) fn new(name: Arc<str>, room: Option<Room>, loops: usize, hasher: RandomState) -> Self {
        Self {
            name,
            room,
            roster: Roster::new(hasher),
            counts: vec![0; loops],
            elsewhere: None,
        }
    }

    /// Adds a member.
    pub(super) fn admit(&mut self, info: Arc<PeerInfo>, asker: &Asker) {
        self.admit_at(info, asker.session, asker.loop_id);
    }

    /// Adds a member that is served there.
    pub(super) fn admit_at(&mut self, info: Arc<PeerInfo>, session: SessionId, loop_id: LoopId) {
        self.roster.push(info, session, loop_id);
        *self.count_mut(loop_id) += 1;
    }

    /// A member is another session's from here on, perhaps served elsewhere, in its old place.
    pub(super) fn replace(&mut self, info: Arc<PeerInfo>, session: SessionId, loop_id: LoopId) {
        let Some(member) = self.roster.get_mut(&info.fingerprint) else {
            return;
        };
        let before = member.loop_id;
        (member.info, member.session, member.loop_id) = (info, session, loop_id);
        self.uncount(before);
        *self.count_mut(loop_id) += 1;
    }

    /// Puts the members into this order; those that it does not name come last, as they stood.
    pub(super) fn reorder<'a>(&mut self, order: impl Iterator<Item = &'a Fingerprint>) {
        let mut sorted = Roster::new(self.roster.hasher.clone());
        let mut push = |member: Member| sorted.push(member.info, member.session, member.loop_id);
        order
            .filter_map(|fingerprint| self.roster.remove(fingerprint))
            .for_each(&mut push);
        let others: Vec<Fingerprint> = self.roster.iter().map(|member| member.info.fingerprint).collect();
        let others = others.iter().filter_map(|fingerprint| self.roster.remove(fingerprint));
        others.for_each(&mut push);
        self.roster = sorted;
    }

    pub(super) fn dismiss(&mut self, fingerprint: &Fingerprint) -> Option<Member> {
        let member = self.roster.remove(fingerprint)?;
        self.uncount(member.loop_id);
        Some(member)
    }

    fn count_mut(&mut self, loop_id: LoopId) -> &mut u32 {
        if loop_id.node().is_none() {
            return &mut self.counts[loop_id.index()];
        }
        let counts = &mut self.elsewhere.get_or_insert_default().counts;
        let at = counts.iter().position(|(node, _)| *node == loop_id).unwrap_or_else(|| {
            counts.push((loop_id, 0));
            counts.len() - 1
        });
        &mut counts[at].1
    }

    fn uncount(&mut self, loop_id: LoopId) {
        let count = self.count_mut(loop_id);
        *count = count.saturating_sub(1);
        if let Some(elsewhere) = &mut self.elsewhere {
            elsewhere.counts.retain(|(_, count)| *count > 0);
        }
    }

    pub(super) fn count_of(&self, loop_id: LoopId) -> LoopCount {
        let count = match loop_id.node() {
            None => self.counts.get(loop_id.index()).copied(),
            Some(_) => self
                .nodes()
                .find(|(node, _)| *node == loop_id)
                .map(|(_, members)| members),
        };
        (loop_id, count.unwrap_or(0))
    }

    /// The loops that serve members, then the other nodes that do.
    pub(super) fn loops(&self) -> impl Iterator<Item = LoopCount> {
        self.own_loops().chain(self.nodes())
    }

    /// The loops of this process that serve members.
    pub(super) fn own_loops(&self) -> impl Iterator<Item = LoopCount> {
        let counts = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counts.map(|(index, count)| (LoopId::new(index as u16), *count))
    }

    fn nodes(&self) -> impl Iterator<Item = LoopCount> {
        self.elsewhere
            .iter()
            .flat_map(|elsewhere| elsewhere.counts.iter().copied())
    }

    /// Whether this node has members.
    pub(super) fn is_local(&self) -> bool {
        self.counts.iter().any(|count| *count > 0)
    }
}

impl Shard {
    /// A request to a namespace of this home.
    pub(super) fn on_ask(&mut self, asker: Asker, namespace: NamespaceId, ask: Ask) {
        let answer = match ask {
            Ask::Join {
                name,
                info,
                room,
                crowded,
            } => self.on_join(&asker, namespace, name, info, room, crowded),
            Ask::CreateRoom {
                name,
                info,
                max_size,
                crowded,
            } => self.create_room(&asker, namespace, name, info, max_size, crowded),
            Ask::Leave => {
                self.withdraw(namespace, asker.session);
                self.remove_member(namespace, &asker.fingerprint, Some(asker.session));
                Answer::Done
            }
            Ask::Discover { limit } => self.list(namespace, limit),
            Ask::RoomInfo => self.describe_room(namespace),
            Ask::Kick { target } => self.kick(&asker, namespace, target.as_ref()),
            Ask::Match {
                name,
                info,
                group_size,
                criteria,
            } => self.enqueue(&asker, namespace, &name, info, group_size, criteria),
        };
        self.send(
            asker.loop_id,
            Mail::Answer {
                asker,
                namespace,
                answer,
            },
        );
    }

    fn on_join(
        &mut self,
        asker: &Asker,
        id: NamespaceId,
        name: Arc<str>,
        info: Arc<PeerInfo>,
        room_only: bool,
        crowded: bool,
    ) -> Answer {
        let known = self.namespaces.get_mut(&id);
        if room_only && known.as_ref().is_none_or(|namespace| namespace.room.is_none()) {
            return Answer::Refused(Refusal::RoomNotFound);
        }
        let again = known.and_then(|namespace| namespace.roster.get_mut(&info.fingerprint));
        if let Some(member) = again {
            // Joining again is never refused: it changes how the member is shown, in its old place.
            member.info = info.clone();
            member.session = asker.session;
        } else {
            if let Some(refusal) = self.refuses_one_more(id, room_only, crowded) {
                return Answer::Refused(refusal);
            }
            let (loops, hasher) = (self.homes.loops(), self.homes.hasher());
            let made = || Namespace::new(name, None, loops, hasher);
            self.namespaces
                .entry(id)
                .or_insert_with(made)
                .admit(info.clone(), asker);
        }
        self.announce(id, Change::Joined(info), asker.loop_id);
        let Some(namespace) = self.namespaces.get(&id) else {
            return Answer::Done;
        };
        let shown = if room_only { ROOM_MAX } else { LIST_DEFAULT };
        Answer::Joined {
            peers: namespace.roster.list(shown),
            total: namespace.roster.len() as u32,
            loops: namespace.loops().collect(),
        }
    }

    fn refuses_one_more(&self, id: NamespaceId, room_only: bool, crowded: bool) -> Option<Refusal> {
        let namespace = self.namespaces.get(&id);
        let members = namespace.map_or(0, |namespace| namespace.roster.len());
        let room = namespace.and_then(|namespace| namespace.room.as_ref());
        let most = room.map_or(self.limits.max_peers, |room| room.max_size as usize);
        match members >= most {
            true if room_only => Some(Refusal::RoomFull),
            true => Some(Refusal::NamespaceFull),
            false => crowded.then_some(Refusal::TooManyNamespaces),
        }
    }

    /// Takes a member out and tells the others; without `session` whatever session it is. The last one takes the namespace
    /// with it. Returns what the home knew of the member.
    pub(super) fn remove_member(
        &mut self,
        id: NamespaceId,
        fingerprint: &Fingerprint,
        session: Option<SessionId>,
    ) -> Option<Member> {
        let namespace = self.namespaces.get_mut(&id)?;
        let member = namespace.roster.get(fingerprint)?;
        if session.is_some_and(|session| session != member.session) {
            self.counters.stale_mail += 1;
            return None;
        }
        let member = namespace.dismiss(fingerprint)?;
        if namespace.roster.len() == 0 {
            if self
                .namespaces
                .remove(&id)
                .is_some_and(|namespace| namespace.room.is_some())
            {
                self.rooms -= 1;
                self.permits.rooms.release();
            }
        } else {
            self.announce(id, Change::Left(*fingerprint), member.loop_id);
        }
        Some(member)
    }

    /// Tells every loop with members what happened to a peer of `at`, and how many members `at` serves.
    pub(super) fn announce(&mut self, id: NamespaceId, change: Change, at: LoopId) {
        let Some(namespace) = self.namespaces.get(&id) else {
            return;
        };
        let count = namespace.count_of(at);
        for (to, _) in namespace.own_loops() {
            let mail = Mail::Presence {
                namespace: id,
                change: change.clone(),
                count,
            };
            // Not `send`: it would borrow the whole shard while the namespace is looked at.
            match to == self.id {
                true => self.own.push_back(mail),
                false => self.outputs.push_back(super::Output::Mail { to, mail }),
            }
        }
    }

    pub(super) fn list(&self, id: NamespaceId, limit: u32) -> Answer {
        match self.namespaces.get(&id) {
            Some(namespace) if namespace.room.is_some() => Answer::Refused(Refusal::RoomNotDiscoverable),
            Some(namespace) => Answer::Listed {
                peers: namespace.roster.list(limit),
                total: namespace.roster.len() as u32,
            },
            None => Answer::Listed {
                peers: Vec::new(),
                total: 0,
            },
        }
    }

    pub(super) fn on_info_changed(&mut self, id: NamespaceId, session: SessionId, info: Arc<PeerInfo>) {
        self.change_ticket(id, session, &info);
        let namespace = self.namespaces.get_mut(&id);
        let member = namespace.and_then(|namespace| namespace.roster.get_mut(&info.fingerprint));
        match member.filter(|member| member.session == session) {
            Some(member) => member.info = info,
            None => self.counters.stale_mail += 1,
        }
    }

    /// A session ended: it is taken out of everything that it names here.
    pub(super) fn on_gone(&mut self, asker: &Asker, namespaces: &[NamespaceId]) {
        for namespace in namespaces {
            self.withdraw(*namespace, asker.session);
            let member = self
                .namespaces
                .get(namespace)
                .and_then(|n| n.roster.get(&asker.fingerprint));
            if member.is_some_and(|member| member.session == asker.session) {
                self.remove_member(*namespace, &asker.fingerprint, Some(asker.session));
            }
        }
        self.send(
            asker.loop_id,
            Mail::GoneDone {
                fingerprint: asker.fingerprint,
            },
        );
    }

    /// The plain namespaces of this home with their number of members, at most the `most` largest.
    pub fn namespace_counts(&self, most: usize) -> Vec<(Arc<str>, u32)> {
        let plain = self.namespaces.values().filter(|namespace| namespace.room.is_none());
        let mut counts: Vec<_> = plain
            .map(|namespace| (namespace.name.clone(), namespace.roster.len() as u32))
            .collect();
        keep_largest(&mut counts, most);
        counts
    }
}

/// Cuts a list of counts to the `most` largest, largest first, equal ones by name.
pub fn keep_largest(counts: &mut Vec<(Arc<str>, u32)>, most: usize) {
    let largest_first =
        |(a_name, a): &(Arc<str>, u32), (b_name, b): &(Arc<str>, u32)| b.cmp(a).then_with(|| a_name.cmp(b_name));
    if counts.len() > most {
        counts.select_nth_unstable_by(most, largest_first);
        counts.truncate(most);
    }
    counts.sort_unstable_by(largest_first);
}
