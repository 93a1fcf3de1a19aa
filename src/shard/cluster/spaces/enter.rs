//! Into a namespace and out of it: joins, rooms made, leaves, sessions that end, and sessions that are told again.
//!
//! Owns: when a joiner is answered, and with what.
//! Never: changes a copy (see `copies`), but for what leaves while the broker is down.

use std::sync::Arc;

use super::{Asked, Coming, Has, How, LOST, Returning, who};
use crate::ids::{Fingerprint, NamespaceId, SessionId};
use crate::message::cluster::{Reply, RoomTerms, What, Who};
use crate::message::{LIST_DEFAULT, PeerInfo, ROOM_MAX, Refusal};
use crate::shard::Shard;
use crate::shard::mail::{Answer, Asker, Mail};

/// Leaves that wait for the broker to have room; beyond that they are dropped, and end with their sessions.
pub(super) const OWED_MAX: usize = 65_536;
/// How many of them are given for one sign of the broker.
pub(super) const OWED_AT_ONCE: usize = 64;

impl Shard {
    pub(super) fn enter(
        &mut self,
        asker: Asker,
        namespace: NamespaceId,
        name: Arc<str>,
        info: Arc<PeerInfo>,
        room: bool,
        crowded: bool,
    ) {
        let members_max = self.members_max();
        let was_member = self.stays(namespace, &asker);
        let going = self.all_members_go(namespace);
        let compared = self.spaces().is_some_and(|spaces| spaces.compared);
        let Some(spaces) = self.spaces_mut() else { return };
        let owed = spaces.owed.remove(&(namespace, who(&asker)));
        let space = spaces.open(namespace, &name);
        // When the last member here goes, the broker tells no more of this namespace: the copy is of no use then.
        let needed = !space.loaded || going || space.stale && compared;
        let roster = (space.rosters == 0 && needed).then_some(space.generation);
        space.rosters += u32::from(roster.is_some());
        let coming = Coming {
            asker: Some(asker),
            how: How::Join { room },
            version: None,
            was_member,
            owed,
            kicked: None,
        };
        space.expect(asker.session, coming);
        let what = What::Join {
            who: who(&asker),
            namespace,
            name,
            info,
            room,
            members_max,
            refuse: crowded.then_some(Refusal::TooManyNamespaces),
            roster: roster.is_some(),
        };
        self.ask_broker(namespace, Asked::Enter(asker.session, roster), what);
    }

    fn members_max(&self) -> u32 {
        u32::try_from(self.limits.max_peers).unwrap_or(u32::MAX)
    }

    /// Whether the asker is a member that does not go.
    fn stays(&self, id: NamespaceId, asker: &Asker) -> bool {
        let member = self.namespaces.get(&id).and_then(|n| n.roster.get(&asker.fingerprint));
        member.is_some_and(|member| member.session == asker.session && member.loop_id.node().is_none())
            && !self.goes_already(id, asker.session)
    }

    fn all_members_go(&self, id: NamespaceId) -> bool {
        let (Some(space), Some(namespace)) = (self.space(id), self.namespaces.get(&id)) else {
            return false;
        };
        let here: u32 = namespace.own_loops().map(|(_, members)| members).sum();
        here as usize <= space.leaving.len()
    }

    pub(super) fn enter_new_room(
        &mut self,
        asker: Asker,
        namespace: NamespaceId,
        name: Arc<str>,
        info: Arc<PeerInfo>,
        max_size: u32,
        crowded: bool,
    ) {
        // Taken to see whether there is one: from the reply on it is the copy that holds it.
        let permit = !crowded && self.permits.rooms.take(self.limits.max_rooms);
        if permit {
            self.permits.rooms.release();
        }
        let refuse = match (crowded, permit) {
            (true, _) => Some(Refusal::TooManyNamespaces),
            (false, false) => Some(Refusal::ServerFull),
            (false, true) => None,
        };
        let was_member = self.stays(namespace, &asker);
        let Some(spaces) = self.spaces_mut() else { return };
        let owed = spaces.owed.remove(&(namespace, who(&asker)));
        let coming = Coming {
            asker: Some(asker),
            how: How::Create { max_size },
            version: None,
            was_member,
            owed,
            kicked: None,
        };
        spaces.open(namespace, &name).expect(asker.session, coming);
        let what = What::CreateRoom {
            who: who(&asker),
            namespace,
            name,
            info,
            max_size,
            refuse,
        };
        self.ask_broker(namespace, Asked::Enter(asker.session, None), what);
    }

    pub(super) fn on_entered(&mut self, id: NamespaceId, session: SessionId, roster: Option<u64>, reply: Reply) {
        let Some(space) = self.space_mut(id) else { return };
        let wanted = space.coming.contains_key(&session);
        let (mut came, mut refused) = (None, None);
        match reply {
            Reply::Joined { version, roster } if wanted => {
                space.let_in(session, version);
                came = roster;
            }
            Reply::Created { version } if wanted => space.let_in(session, version),
            // Its session ended meanwhile, so what its reply says of the others need not hold any more.
            Reply::Joined { .. } | Reply::Created { .. } => {}
            Reply::Refused(refusal) => refused = Some(Answer::Refused(refusal)),
            _ => refused = Some(LOST),
        }
        if let Some(answer) = refused {
            self.turn_away(id, session, answer);
        } else {
            self.tell_kicked_before(id, session);
        }
        self.on_roster(id, roster, came);
    }

    /// A session was put out, but before it came again: that is told first.
    fn tell_kicked_before(&mut self, id: NamespaceId, session: SessionId) {
        let Some(space) = self.space_mut(id) else { return };
        let Some(coming) = space.coming.get_mut(&session) else {
            return;
        };
        let (Some(version), Some((kicked, owner)), Some(asker)) = (coming.version, coming.kicked, coming.asker) else {
            return;
        };
        if kicked < version {
            coming.kicked = None;
            self.tell_kicked(id, who(&asker), owner);
        } else {
            // Nothing more will come of this join: it was in, and is out.
            self.finish(id, session);
        }
    }

    /// The join came to nothing.
    pub(super) fn turn_away(&mut self, id: NamespaceId, session: SessionId, answer: Answer) {
        let coming = self.space_mut(id).and_then(|space| space.stop_expecting(session));
        let Some(Coming {
            asker: Some(asker),
            was_member,
            owed,
            kicked,
            ..
        }) = coming
        else {
            return;
        };
        if let Some((_, owner)) = kicked {
            self.tell_kicked(id, who(&asker), owner);
        }
        if matches!(answer, Answer::Refused(Refusal::BrokerUnavailable)) {
            if owed {
                self.owe_if_lost(id, who(&asker), &Reply::Lost);
            } else if !was_member && !self.goes_already(id, asker.session) {
                // Its event was here before the reply was lost: to its loop it is not in.
                self.remove_here(id, who(&asker));
            }
        }
        self.answer(asker, id, answer);
    }

    fn goes_already(&self, id: NamespaceId, session: SessionId) -> bool {
        self.space(id).is_some_and(|space| space.leaving.contains_key(&session))
    }

    /// Answers those who are in, and whose being in is known here with everything before it.
    pub(super) fn answer_joined(&mut self, id: NamespaceId) {
        while let Some(space) = self.space(id).filter(|space| space.loaded)
            && let Some((version, session)) = space.replied.first_key_value()
            && *version <= space.version
        {
            let session = *session;
            self.finish(id, session);
        }
    }

    fn finish(&mut self, id: NamespaceId, session: SessionId) {
        let coming = self.space_mut(id).and_then(|space| space.stop_expecting(session));
        let Some(Coming {
            asker: Some(asker),
            how,
            kicked,
            ..
        }) = coming
        else {
            return;
        };
        if let Some(space) = self.space_mut(id) {
            // It left before it asked. No sooner: what the copy is told of it may be of an earlier join.
            space.leaving.remove(&session);
        }
        let room = !matches!(how, How::Join { room: false });
        let shown = if room { ROOM_MAX } else { LIST_DEFAULT };
        let namespace = self.namespaces.get(&id);
        let mut peers = namespace.map_or_else(Vec::new, |namespace| namespace.roster.list(shown));
        let total = namespace.map_or(0, |namespace| namespace.roster.len() as u32);
        let loops = namespace.map_or_else(Vec::new, |namespace| namespace.loops().collect());
        let answer = match how {
            How::Create { max_size } => {
                // A copy of what was here before goes on: its loop was told of those who came since, but not the owner.
                peers.retain(|peer| peer.fingerprint != asker.fingerprint);
                Answer::Created { max_size, peers, loops }
            }
            How::Join { .. } | How::Again => Answer::Joined { peers, total, loops },
        };
        self.answer(asker, id, answer);
        if let Some((_, owner)) = kicked {
            self.tell_kicked(id, who(&asker), owner);
        }
    }

    /// After the others were told: what the kicked peer does once it knows must not overtake its peer_left.
    pub(super) fn tell_kicked(&mut self, id: NamespaceId, target: Who, owner: Fingerprint) {
        let comes = self
            .space(id)
            .is_some_and(|space| space.coming.contains_key(&target.session));
        self.answer_waiting(id, target.session);
        if self.drop_ticket(id, target.session) && !comes {
            // The broker has taken back what it asked for before; what it asked for since, which nobody has any more, goes so.
            let (who, namespace) = (target, id);
            self.ask_broker(id, Asked::Owed(who), What::Leave { who, namespace });
        }
        let name = self.space(id).map(|space| space.name.clone()).unwrap_or_default();
        let mail = Mail::Kicked {
            room: id,
            name,
            owner,
            target: target.fingerprint,
            session: target.session,
        };
        self.send(self.homes.of_fingerprint(&target.fingerprint), mail);
    }

    pub(super) fn leave_space(&mut self, asker: Asker, namespace: NamespaceId) {
        let who = who(&asker);
        self.drop_ticket(namespace, asker.session);
        if let Some(space) = self.space_mut(namespace)
            && space
                .coming
                .get(&asker.session)
                .is_some_and(|coming| coming.how == How::Again)
        {
            // What is heard of that from here on brings it in no more.
            space.stop_expecting(asker.session);
        }
        let up = self.is_up();
        match up {
            true => self.goes(namespace, who),
            false => self.remove_here(namespace, who),
        }
        // Given also while it is down: its loop may have heard sooner that the broker is back, and told it of this membership
        // or request again. Else it is lost, which changes nothing.
        let asked = if up { Asked::Leave(asker) } else { Asked::Owed(who) };
        self.ask_broker(namespace, asked, What::Leave { who, namespace });
        if !up {
            self.answer(asker, namespace, Answer::Done);
        }
        self.tidy_space(namespace);
    }

    pub(super) fn on_left(&mut self, asker: Asker, namespace: NamespaceId, reply: &Reply) {
        self.owe_if_lost(namespace, who(&asker), reply);
        self.answer(asker, namespace, Answer::Done);
    }

    /// A leave that was lost: with the broker it is told by what is told again; else it is told as soon as there is room.
    pub(super) fn owe_if_lost(&mut self, namespace: NamespaceId, who: Who, reply: &Reply) {
        if !matches!(reply, Reply::Lost) {
            return;
        }
        if !self.is_up() {
            return self.remove_here(namespace, who);
        }
        if let Some(spaces) = self.spaces_mut()
            && spaces.owed.len() < OWED_MAX
        {
            spaces.owed.insert((namespace, who));
        }
    }

    /// The broker takes commands: some of those that it had no room for come first. If there still is none they come back.
    pub(super) fn pay_owed(&mut self) {
        for _ in 0..OWED_AT_ONCE {
            let owed = self.spaces_mut().and_then(|spaces| spaces.owed.pop_first());
            let Some((namespace, who)) = owed else { return };
            self.ask_broker(namespace, Asked::Owed(who), What::Leave { who, namespace });
        }
    }

    /// A member of this node goes, and the broker is told.
    fn goes(&mut self, id: NamespaceId, who: Who) {
        let member = self.namespaces.get(&id).and_then(|n| n.roster.get(&who.fingerprint));
        if member.is_none_or(|member| member.session != who.session || member.loop_id.node().is_some()) {
            return;
        }
        let Some(space) = self.space_mut(id) else { return };
        if space.unconfirmed.contains(&who.session) {
            // The broker may not know of it, and so would not tell of its going.
            self.remove_here(id, who);
        } else {
            space.leaving.insert(who.session, who.fingerprint);
        }
    }

    /// A session of this node ended. The broker is told of that by its loop.
    pub(in crate::shard) fn on_gone_in_cluster(&mut self, asker: &Asker, namespaces: &[NamespaceId]) {
        let (fingerprint, up) = (asker.fingerprint, self.is_up());
        for namespace in namespaces {
            self.drop_ticket(*namespace, asker.session);
            if let Some(space) = self.space_mut(*namespace) {
                space.stop_expecting(asker.session);
            }
            match up {
                true => self.goes(*namespace, who(asker)),
                false => self.remove_here(*namespace, who(asker)),
            }
            self.tidy_space(*namespace);
        }
        self.send(asker.loop_id, Mail::GoneDone { fingerprint });
    }

    /// A session of this node is told again after the broker was lost. Whether it is up is not asked: that loop knew before
    /// this one.
    pub(in crate::shard) fn on_rejoin(
        &mut self,
        session: Returning,
        namespace: NamespaceId,
        info: Arc<PeerInfo>,
        has: Has,
    ) {
        let who = session.who;
        if !has.member {
            return self.end_rejoin(session, namespace, has);
        }
        let known = self.namespaces.get(&namespace);
        let known = known.filter(|known| {
            let member = known.roster.get(&who.fingerprint);
            member.is_some_and(|member| member.session == who.session && member.loop_id.node().is_none())
        });
        let Some((name, room)) = known.map(|known| {
            let terms = |room: &crate::shard::rooms::Room| RoomTerms {
                owner: room.owner,
                max_size: room.max_size,
            };
            (known.name.clone(), known.room.as_ref().map(terms))
        }) else {
            // It was put out, and the word of that is ahead of this one, which then finds nothing; or its key came on another
            // node, and what would have ended it was lost with the broker.
            self.send(session.loop_id, Mail::Evicted { who, namespace });
            return self.end_rejoin(session, namespace, has);
        };
        if let Some(space) = self.space_mut(namespace) {
            let coming = Coming {
                asker: None,
                how: How::Again,
                version: None,
                was_member: true,
                owed: false,
                kicked: None,
            };
            space.expect(who.session, coming);
        }
        let what = What::Rejoin {
            who,
            namespace,
            name,
            info,
            room,
            members_max: self.members_max(),
        };
        self.ask_broker(namespace, Asked::Rejoin(session, has), what);
    }

    pub(super) fn on_rejoin_reply(&mut self, session: Returning, id: NamespaceId, has: Has, reply: &Reply) {
        let (who, loop_id) = (session.who, session.loop_id);
        let compared = self.spaces().is_some_and(|spaces| spaces.compared);
        let (mut ask, mut put_out) = (false, false);
        if let Some(space) = self.space_mut(id) {
            // Its session may have ended, or asked for something else, since.
            let coming = space.coming.get(&who.session).filter(|coming| coming.how == How::Again);
            let (kicked, expected) = (coming.and_then(|coming| coming.kicked), coming.is_some());
            if expected {
                space.stop_expecting(who.session);
            }
            if let Reply::Joined { version, .. } = reply {
                space.confirm(&who.session);
                put_out = kicked.is_some_and(|(kicked, _)| kicked < *version);
                if expected && *version > space.version && !put_out {
                    space.quiet.insert(*version, who.session);
                }
                // Until it was in again the broker may have told nothing of this namespace.
                ask = space.stale && compared && space.loaded;
                space.stale &= compared && !ask;
            }
        }
        if ask {
            self.compare_space(id);
        }
        if put_out {
            // While the broker was lost, and its loop knows: telling it again has made it a member once more.
            self.goes(id, who);
            let leave = What::Leave { who, namespace: id };
            self.ask_broker(id, Asked::Owed(who), leave);
        }
        match reply {
            Reply::Joined { .. } => {
                // It may have left meanwhile, as the last one here.
                self.tidy_space(id);
                return self.end_rejoin(session, id, has);
            }
            // Stale: the key has another session, and the word of that is on its way.
            Reply::Lost | Reply::Stale => {}
            _ => self.send(loop_id, Mail::Evicted { who, namespace: id }),
        }
        self.tidy_space(id);
        let lost = matches!(reply, Reply::Lost);
        self.send(loop_id, Mail::Rejoined { who, lost });
    }

    fn end_rejoin(&mut self, session: Returning, namespace: NamespaceId, has: Has) {
        if !has.ticket || !self.rematch(session, namespace) {
            let (who, lost) = (session.who, false);
            self.send(session.loop_id, Mail::Rejoined { who, lost });
        }
    }
}

impl super::Space {
    fn let_in(&mut self, session: SessionId, version: u64) {
        if let Some(coming) = self.coming.get_mut(&session) {
            coming.version = Some(version);
            self.replied.insert(version, session);
        }
    }
}
