//! The copies of namespaces: made from a roster, changed by events, and given up when the last member here is gone.
//!
//! Owns: in which order what the broker says is applied, and what the loops of this node are told of it.
//! Never: answers a request (see `enter`).

use std::collections::{BTreeMap, BTreeSet};

use super::{Asked, How, Space};
use crate::ids::{Fingerprint, LoopId, NamespaceId, NodeNo, SessionId};
use crate::message::cluster::{Change, Member, Reply, RoomTerms, Roster, What, Who};
use crate::shard::Shard;
use crate::shard::mail::{Change as Presence, Mail};
use crate::shard::namespaces::Namespace;
use crate::shard::rooms::Room;

/// Events that are kept while a roster is under way; beyond that it is asked for again.
pub(super) const KEPT_MAX: usize = 10_000;

impl Shard {
    /// The broker tells what happened in a namespace.
    pub(in crate::shard::cluster) fn on_space_changed(&mut self, id: NamespaceId, version: u64, change: Change) {
        self.go_on();
        self.take_change(id, version, change);
        self.tidy_space(id);
    }

    fn take_change(&mut self, id: NamespaceId, version: u64, change: Change) {
        let Some(space) = self.space_mut(id) else {
            return self.on_old_change(id, version, &change);
        };
        if !space.loaded || space.rosters > 0 {
            space.keep(version, &change);
        }
        if space.loaded && version > space.version {
            space.version = version;
            self.apply(id, version, change);
            self.answer_joined(id);
        } else if space.loaded {
            self.on_old_change(id, version, &change);
        }
    }

    fn apply(&mut self, id: NamespaceId, version: u64, change: Change) {
        match change {
            Change::Joined { member, room } => {
                self.set_terms(id, room);
                let quiet = self.space_mut(id).is_some_and(|space| {
                    let quiet = space.quiet.contains_key(&version);
                    space.quiet = space.quiet.split_off(&(version + 1));
                    quiet
                });
                self.put_in(id, member, quiet);
            }
            Change::Shown(member) => {
                let loop_id = self.loop_of(member.node, &member.info.fingerprint);
                let entry = self.namespaces.get_mut(&id);
                let entry = entry.and_then(|namespace| namespace.roster.get_mut(&member.info.fingerprint));
                if let Some(entry) = entry.filter(|entry| (entry.loop_id, entry.session) == (loop_id, member.session)) {
                    entry.info = member.info;
                }
            }
            Change::Left { node, who, kicked_by } => {
                if kicked_by.is_some() && node.is_none() {
                    self.undo_rejoin(id, version, who);
                }
                let loop_id = self.loop_of(node, &who.fingerprint);
                let entry = self.namespaces.get(&id).and_then(|n| n.roster.get(&who.fingerprint));
                if entry.is_some_and(|entry| (entry.loop_id, entry.session) == (loop_id, who.session)) {
                    self.take_out(id, &who.fingerprint);
                }
                if let (None, Some(owner)) = (node, kicked_by) {
                    self.on_kick(id, version, who, owner);
                }
            }
        }
    }

    /// A change that the copy has already, or that there is no copy for. Who was put out is still to be told; and a member
    /// here that was missing in the roster stayed in the copy all the same.
    fn on_old_change(&mut self, id: NamespaceId, version: u64, change: &Change) {
        let Change::Left {
            node: None,
            who,
            kicked_by,
        } = change
        else {
            return;
        };
        let space = self.space(id);
        if space.is_some_and(|space| space.missing.contains(&who.session)) {
            self.remove_here(id, *who);
        }
        let Some(owner) = kicked_by else { return };
        self.undo_rejoin(id, version, *who);
        let entry = self.namespaces.get(&id).and_then(|n| n.roster.get(&who.fingerprint));
        if entry.is_none_or(|entry| entry.session != who.session) {
            self.on_kick(id, version, *who, *owner);
        }
    }

    /// Who was put out while the broker was lost was told to it again since, and so is in once more, which nobody asked for.
    fn undo_rejoin(&mut self, id: NamespaceId, kicked: u64, who: Who) {
        let Some(space) = self.space_mut(id) else { return };
        let mut later = space.quiet.range(kicked..);
        let Some(version) = later.find(|(_, session)| **session == who.session).map(|(v, _)| *v) else {
            return;
        };
        space.quiet.remove(&version);
        let leave = What::Leave { who, namespace: id };
        self.ask_broker(id, Asked::Owed(who), leave);
    }

    fn on_kick(&mut self, id: NamespaceId, version: u64, target: Who, owner: Fingerprint) {
        let coming = self
            .space_mut(id)
            .and_then(|space| space.coming.get_mut(&target.session));
        match coming {
            Some(coming) if coming.how == How::Again => {
                // If it was told to the broker again after that, it is taken back (see `on_rejoin_reply`).
                coming.kicked = Some((version, owner));
                self.tell_kicked(id, target, owner);
            }
            // It must hear that it is in before it hears that it is out.
            Some(coming) if coming.version.is_none_or(|joined| joined < version) => {
                coming.kicked = Some((version, owner));
            }
            _ => self.tell_kicked(id, target, owner),
        }
    }

    pub(super) fn loop_of(&self, node: Option<NodeNo>, fingerprint: &Fingerprint) -> LoopId {
        match node {
            Some(node) => LoopId::of_node(node),
            None => self.homes.of_fingerprint(fingerprint),
        }
    }

    /// Who comes now was put out before, also if the reply to its join is not here yet: it hears of that first.
    fn tell_kicked_earlier(&mut self, id: NamespaceId, who: Who) {
        let coming = self.space_mut(id).and_then(|space| space.coming.get_mut(&who.session));
        let coming = coming.filter(|coming| coming.how != How::Again && coming.version.is_none());
        if let Some((_, owner)) = coming.and_then(|coming| coming.kicked.take()) {
            self.tell_kicked(id, who, owner);
        }
    }

    /// Somebody came, or came again: as the copy has it from here on, told to the loops that serve members.
    pub(super) fn put_in(&mut self, id: NamespaceId, member: Member, quiet: bool) {
        let Member { node, session, info } = member;
        let (fingerprint, loop_id) = (info.fingerprint, self.loop_of(node, &info.fingerprint));
        if node.is_none() {
            self.tell_kicked_earlier(id, Who { fingerprint, session });
        }
        let Some(spaces) = self.cluster.as_mut().map(|cluster| &mut cluster.spaces) else {
            return;
        };
        let gone = node.is_some_and(|node| spaces.gone.contains(&node));
        let (Some(space), Some(namespace)) = (spaces.known.get_mut(&id), self.namespaces.get_mut(&id)) else {
            return;
        };
        let entry = namespace.roster.get(&fingerprint);
        let entry = entry.map(|entry| (entry.loop_id, entry.session));
        let again = entry == Some((loop_id, session));
        // With its node in another epoch it never went: nobody is told.
        let stays = !again
            && node.is_some()
            && entry.is_some_and(|(before, earlier)| before.node().is_some() && earlier == session);
        let coming = space.coming.get(&session);
        if gone || node.is_none() && !again && coming.is_none() {
            // What is left of a join that was lost with the broker: that ends as soon as its session is told again. Or it
            // was told again, and has left since.
            return;
        }
        let quiet = again && (quiet || coming.is_some_and(|coming| coming.how == How::Again));
        match entry {
            Some((before, earlier)) => {
                if !again && before.node().is_none() {
                    space.leaving.remove(&earlier);
                    space.confirm(&earlier);
                }
                namespace.replace(info.clone(), session, loop_id);
                if !again {
                    // Whoever served it counts one member less, and if this is another session, that one is over.
                    let change = if stays {
                        Presence::Counted
                    } else {
                        Presence::Left(fingerprint)
                    };
                    self.announce(id, change, before);
                    self.forget_place_of(before, fingerprint);
                }
            }
            None => namespace.admit_at(info.clone(), session, loop_id),
        }
        if !quiet {
            let change = if stays {
                Presence::Counted
            } else {
                Presence::Joined(info)
            };
            self.announce(id, change, loop_id);
        }
        if !again {
            self.forget_place_of(loop_id, fingerprint);
            self.give_up_if_away(id);
        }
    }

    /// A member is out; the others here are told.
    pub(super) fn take_out(&mut self, id: NamespaceId, fingerprint: &Fingerprint) {
        let Some(namespace) = self.namespaces.get_mut(&id) else {
            return;
        };
        let Some(member) = namespace.dismiss(fingerprint) else {
            return;
        };
        let (loop_id, session) = (member.loop_id, member.session);
        self.announce(id, Presence::Left(*fingerprint), loop_id);
        self.forget_place_of(loop_id, *fingerprint);
        if let Some(space) = self.space_mut(id).filter(|_| loop_id.node().is_none()) {
            space.leaving.remove(&session);
            space.confirm(&session);
        }
        self.give_up_if_away(id);
    }

    /// A copy of which the last member here went is given up.
    fn give_up_if_away(&mut self, id: NamespaceId) {
        let namespace = self.namespaces.get(&id);
        if namespace.is_some_and(|namespace| !namespace.is_local()) {
            self.give_up_copy(id);
        }
    }

    /// Takes a member of this node out without the broker's word.
    pub(super) fn remove_here(&mut self, id: NamespaceId, who: Who) {
        let entry = self.namespaces.get(&id).and_then(|n| n.roster.get(&who.fingerprint));
        if entry.is_some_and(|entry| entry.session == who.session && entry.loop_id.node().is_none()) {
            self.take_out(id, &who.fingerprint);
            // If the broker is being told of it again, what it tells of that is as old.
            if let Some(space) = self.space_mut(id)
                && space
                    .coming
                    .get(&who.session)
                    .is_some_and(|coming| coming.how == How::Again)
            {
                space.stop_expecting(who.session);
            }
            self.tidy_space(id);
        }
    }

    /// What the home of a peer of another node believes about its place is old.
    fn forget_place_of(&mut self, served_by: LoopId, fingerprint: Fingerprint) {
        if served_by.node().is_some() {
            let home = self.homes.of_fingerprint(&fingerprint);
            self.send(home, Mail::RouteChanged { fingerprint });
        }
    }

    /// The last member here is gone: from here on the broker tells nothing of this namespace, until somebody joins again.
    fn give_up_copy(&mut self, id: NamespaceId) {
        self.set_terms(id, None);
        self.namespaces.remove(&id);
        let Some(spaces) = self.spaces_mut() else { return };
        let generation = spaces.begin();
        let Some(space) = spaces.known.get_mut(&id) else { return };
        space.loaded = false;
        space.generation = generation;
        space.rosters = 0;
        space.kept = Vec::new();
        space.missed = 0;
        space.leaving.clear();
        space.unconfirmed.clear();
        space.missing.clear();
        space.quiet.clear();
        space.stale = false;
    }

    /// Does what is due: asks for a roster that somebody needs, or forgets a namespace that nobody needs.
    pub(super) fn tidy_space(&mut self, id: NamespaceId) {
        self.make_room_copy(id);
        let Some(space) = self.space(id).filter(|space| !space.loaded) else {
            return;
        };
        if space.coming.is_empty() {
            if let Some(spaces) = self.spaces_mut() {
                spaces.known.remove(&id);
            }
        } else if space.wants_roster() {
            self.ask_roster(id);
        }
    }

    /// The copy of a room that was made from here, once its event and the reply are both there: before the reply nobody is
    /// told what came after, because the answer to the owner names nobody.
    fn make_room_copy(&mut self, id: NamespaceId) {
        let Some(space) = self.space(id).filter(|space| !space.loaded) else {
            return;
        };
        let is_making = |(_, session): &(&u64, &SessionId)| {
            let coming = space.coming.get(session);
            coming.is_some_and(|coming| matches!(coming.how, How::Create { .. }))
        };
        let Some((version, _)) = space.replied.iter().find(is_making) else {
            return;
        };
        let Some((_, Change::Joined { member, room })) = space.kept.iter().find(|(kept, _)| kept == version) else {
            return;
        };
        let roster = Roster {
            version: *version,
            room: *room,
            members: vec![member.clone()],
        };
        self.install(id, roster);
    }

    pub(super) fn ask_roster(&mut self, namespace: NamespaceId) {
        let Some(space) = self.space_mut(namespace) else { return };
        space.rosters += 1;
        let generation = space.generation;
        self.ask_broker(namespace, Asked::Roster(generation), What::Roster { namespace });
    }

    pub(super) fn on_roster_reply(&mut self, id: NamespaceId, generation: u64, reply: Reply) {
        let roster = match reply {
            Reply::Roster(roster) => Some(roster),
            _ => {
                self.give_up_waiting(id, generation);
                None
            }
        };
        let current = self.space(id).is_some_and(|space| space.generation == generation);
        self.on_roster(id, Some(generation), roster.filter(|_| current));
    }

    /// A roster on which joiners wait was lost: they are in, but not known to be. They are told that it failed, and are taken out.
    fn give_up_waiting(&mut self, id: NamespaceId, generation: u64) {
        let Some(space) = self.space(id).filter(|space| !space.loaded) else {
            return;
        };
        if space.generation != generation {
            return;
        }
        let joins = |session: &&SessionId| {
            let coming = space.coming.get(session);
            coming.is_some_and(|coming| !matches!(coming.how, How::Create { .. }))
        };
        for session in space.replied.values().filter(joins).copied().collect::<Vec<_>>() {
            let asker = self.space(id).and_then(|space| space.coming.get(&session)?.asker);
            self.turn_away(id, session, super::LOST);
            if let Some(asker) = asker {
                self.owe_if_lost(id, super::who(&asker), &Reply::Lost);
            }
        }
    }

    /// A roster that was waited for is there, or will not come.
    pub(super) fn on_roster(&mut self, id: NamespaceId, generation: Option<u64>, roster: Option<Box<Roster>>) {
        if let Some(space) = self.space_mut(id)
            && generation == Some(space.generation)
        {
            space.rosters = space.rosters.saturating_sub(1);
        }
        if let Some(roster) = roster {
            self.take_roster(id, *roster);
        }
        if let Some(space) = self.space_mut(id).filter(|space| space.loaded && space.rosters == 0) {
            space.kept = Vec::new();
            space.missed = 0;
        }
        self.answer_joined(id);
        self.tidy_space(id);
    }

    fn take_roster(&mut self, id: NamespaceId, mut roster: Roster) {
        let Some(spaces) = self.spaces() else { return };
        roster
            .members
            .retain(|member| member.node.is_none_or(|node| !spaces.gone.contains(&node)));
        let Some(space) = self.space(id) else { return };
        if roster.version < space.missed {
            if let Some(space) = self.space_mut(id) {
                space.missed = 0;
                space.kept = Vec::new();
            }
            return self.ask_roster(id);
        }
        match space.loaded {
            true => self.compare(id, roster),
            // A room that is being made here has its copy by that.
            false if space.creating > 0 => {}
            false => self.install(id, roster),
        }
    }

    /// Makes the copy. Nobody here is told: whoever is a member here is still to be answered.
    fn install(&mut self, id: NamespaceId, roster: Roster) {
        let Some(space) = self.space(id) else { return };
        let (loops, hasher) = (self.homes.loops(), self.homes.hasher());
        let mut namespace = Namespace::new(space.name.clone(), None, loops, hasher);
        let mut elsewhere = vec![Vec::new(); loops];
        for Member { node, session, info } in roster.members {
            if node.is_some() || space.coming.contains_key(&session) {
                let fingerprint = info.fingerprint;
                if node.is_some() {
                    elsewhere[self.homes.of_fingerprint(&fingerprint).index()].push(fingerprint);
                }
                namespace.admit_at(info, session, self.loop_of(node, &fingerprint));
            }
        }
        // They may have moved while nobody here was told of it. One mail for each home: there may be very many.
        for (home, fingerprints) in (0..).zip(elsewhere) {
            if !fingerprints.is_empty() {
                let fingerprints = fingerprints.into_boxed_slice();
                self.send(LoopId::new(home), Mail::RoutesChanged { fingerprints });
            }
        }
        self.namespaces.insert(id, namespace);
        self.set_terms(id, roster.room);
        let Some(space) = self.space_mut(id) else { return };
        space.loaded = true;
        space.version = roster.version;
        let kept = std::mem::take(&mut space.kept);
        self.answer_joined(id);
        for (version, change) in kept {
            self.take_change(id, version, change);
        }
        self.give_up_if_away(id);
    }

    /// Makes the copy of others equal to the roster and tells the difference. Members here are what this node says they are.
    fn compare(&mut self, id: NamespaceId, roster: Roster) {
        let (Some(space), Some(namespace)) = (self.space(id), self.namespaces.get(&id)) else {
            return;
        };
        let newer = space.kept.iter().filter(|(version, _)| *version > roster.version);
        let touched: BTreeSet<Fingerprint> = newer.map(|(_, change)| subject(change)).collect();
        let there: BTreeMap<Fingerprint, &Member> = roster
            .members
            .iter()
            .map(|member| (member.info.fingerprint, member))
            .collect();
        let (mut out, mut unknown) = (Vec::new(), Vec::new());
        for entry in namespace.roster.iter() {
            let fingerprint = entry.info.fingerprint;
            let stays = match (there.get(&fingerprint), entry.loop_id.node()) {
                (Some(member), None) if (member.node, member.session) == (None, entry.session) => true,
                // If another session of its key is there, that takes its place below.
                (_, None) => !space.leaving.contains_key(&entry.session),
                (member, Some(_)) => member.is_some(),
            };
            if touched.contains(&fingerprint) {
                continue;
            }
            if !stays {
                out.push(fingerprint);
            } else if !there.contains_key(&fingerprint) {
                unknown.push(entry.session);
            }
        }
        let order: Vec<Fingerprint> = roster.members.iter().map(|member| member.info.fingerprint).collect();
        for fingerprint in out {
            self.take_out(id, &fingerprint);
        }
        let compared = self.spaces().is_some_and(|spaces| spaces.compared);
        let Some(space) = self.space_mut(id).filter(|space| space.loaded) else {
            return;
        };
        // The broker will not tell of their going.
        space.missing = unknown.into_iter().collect();
        space.unconfirmed.extend(&space.missing);
        // What came after this roster is told here only if the broker had somebody here on record by then.
        let told = |member: &Member| member.node.is_none() && !space.unconfirmed.contains(&member.session);
        // If not, whoever is told again, or comes, first makes it told, and it is asked for once more.
        if compared {
            space.stale = !roster.members.iter().any(told);
        }
        if roster.version > 0 {
            self.set_terms(id, roster.room);
        }
        for member in roster.members {
            let fingerprint = member.info.fingerprint;
            let loop_id = self.loop_of(member.node, &fingerprint);
            let entry = self.namespaces.get_mut(&id);
            let entry = entry.and_then(|namespace| namespace.roster.get_mut(&fingerprint));
            match entry {
                _ if touched.contains(&fingerprint) => {}
                Some(entry) if (entry.loop_id, entry.session) == (loop_id, member.session) => entry.info = member.info,
                _ => self.put_in(id, member, false),
            }
        }
        if let Some(namespace) = self.namespaces.get_mut(&id) {
            namespace.reorder(order.iter());
        }
        if let Some(space) = self.space_mut(id) {
            // Of events that came since it was asked for, the later ones are in the copy. One that is older than all of the copy
            // is of a broker that lost its data, and whose clock was set back.
            let kept = space.kept.last().map_or(0, |(version, _)| *version);
            if roster.version > 0 {
                space.version = roster.version.max(kept);
            }
        }
    }

    /// What makes it a room, or that it is none. A copy of a room holds a permit.
    fn set_terms(&mut self, id: NamespaceId, terms: Option<RoomTerms>) {
        let Some(namespace) = self.namespaces.get_mut(&id) else {
            return;
        };
        let was = namespace.room.is_some();
        namespace.room = terms.map(|RoomTerms { owner, max_size }| Room { owner, max_size });
        if terms.is_some() && !was {
            self.rooms += 1;
            // A room that others made is never refused for want of a permit: there is no limit to those.
            self.permits.rooms.take(usize::MAX);
        } else if terms.is_none() && was {
            self.rooms -= 1;
            self.permits.rooms.release();
        }
    }
}

/// Whom a change is about.
fn subject(change: &Change) -> Fingerprint {
    match change {
        Change::Joined { member, .. } | Change::Shown(member) => member.info.fingerprint,
        Change::Left { who, .. } => who.fingerprint,
    }
}

impl Space {
    fn keep(&mut self, version: u64, change: &Change) {
        if self.kept.len() >= KEPT_MAX {
            self.missed = self.kept.last().map_or(version, |(version, _)| *version);
            self.kept.clear();
        }
        self.kept.push((version, change.clone()));
    }

    fn wants_roster(&self) -> bool {
        self.rooms_are_settled() && self.rosters == 0 && !self.replied.is_empty()
    }

    fn rooms_are_settled(&self) -> bool {
        self.creating == 0
    }
}
