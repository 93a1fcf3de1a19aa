//! Namespaces and rooms as the log has them.
//!
//! Owns: members in join order, terms, and what is told of a change.
//! Never: has a member whose session the directory does not have.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Act, Eye, Place, State};
use crate::ids::{Fingerprint, NamespaceId, SessionId};
use crate::message::cluster::{Change, Event, Member, Reply, RoomTerms, Roster, What, Who};
use crate::message::{PeerInfo, Refusal};

/// A namespace or room: there exactly while it has members.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Space {
    pub(super) room: Option<RoomTerms>,
    /// By the version that they came with.
    pub(super) members: BTreeMap<u64, Seated>,
    /// How many of them each node has.
    pub(super) counts: BTreeMap<Place, u32>,
    /// Of its last change.
    pub(super) version: u64,
}

#[derive(Debug, PartialEq)]
pub(super) struct Seated {
    pub(super) place: Place,
    pub(super) session: SessionId,
    pub(super) info: Arc<PeerInfo>,
}

/// How a newcomer is to be let in.
struct Terms {
    /// It must be a room.
    room: bool,
    members_max: u32,
    refuse: Option<Refusal>,
}

impl State {
    /// A command of a session that the directory has at its author's.
    pub(super) fn run_in_space(&mut self, who: &Who, act: &Act, eye: &Eye<'_>, out: &mut Vec<Event>) -> Reply {
        match &act.what {
            What::Join {
                namespace,
                info,
                room,
                members_max,
                refuse,
                roster,
                ..
            } => {
                let terms = Terms {
                    room: *room,
                    members_max: *members_max,
                    refuse: *refuse,
                };
                if let Err(refusal) = self.join(who, *namespace, info, &terms, eye, out) {
                    return Reply::Refused(refusal);
                }
                let wanted = *roster && eye.own == Some((act.node, act.epoch));
                Reply::Joined {
                    version: self.version,
                    roster: wanted.then(|| Box::new(self.roster(*namespace, eye))),
                }
            }
            What::Rejoin {
                namespace,
                info,
                room,
                members_max,
                ..
            } => match self.rejoin(who, *namespace, info, *room, *members_max, act.anew, eye, out) {
                Ok(version) => Reply::Joined { version, roster: None },
                Err(refusal) => Reply::Refused(refusal),
            },
            What::CreateRoom {
                namespace,
                info,
                max_size,
                refuse,
                ..
            } => {
                if self.spaces.contains_key(namespace) {
                    return Reply::Refused(Refusal::RoomExists);
                }
                if let Some(refusal) = refuse {
                    return Reply::Refused(*refusal);
                }
                let terms = RoomTerms {
                    owner: who.fingerprint,
                    max_size: *max_size,
                };
                self.open(*namespace, Some(terms));
                self.seat(who, *namespace, info, eye, out);
                Reply::Created { version: self.version }
            }
            What::Leave { namespace, .. } => {
                self.withdraw(&who.fingerprint, *namespace);
                self.remove_member(&who.fingerprint, *namespace, None, eye, out);
                Reply::Done
            }
            What::Kick { namespace, target, .. } => match self.kick(who, *namespace, target.as_ref(), eye, out) {
                Ok(()) => Reply::Done,
                Err(refusal) => Reply::Refused(refusal),
            },
            What::Show { namespace, info, .. } => {
                self.show_in_queue(&who.fingerprint, *namespace, info);
                self.show(who, *namespace, info, eye, out);
                Reply::Done
            }
            What::Match { .. } => self.seek(who, act, eye, out),
            _ => Reply::Stale,
        }
    }

    /// The first `limit` members.
    pub(super) fn list(&self, namespace: NamespaceId, limit: u32) -> Reply {
        let Some(space) = self.spaces.get(&namespace) else {
            return Reply::Listed {
                peers: Vec::new(),
                total: 0,
            };
        };
        if space.room.is_some() {
            return Reply::Refused(Refusal::RoomNotDiscoverable);
        }
        let members = space.members.values().take(limit as usize);
        Reply::Listed {
            peers: members.map(|member| member.info.clone()).collect(),
            total: space.members.len() as u32,
        }
    }

    pub(super) fn describe(&self, namespace: NamespaceId) -> Reply {
        let space = self.spaces.get(&namespace);
        match space.and_then(|space| Some((space, space.room?))) {
            Some((space, terms)) => Reply::Described {
                peer_count: space.members.len() as u32,
                terms,
            },
            None => Reply::Refused(Refusal::RoomNotFound),
        }
    }

    pub(super) fn roster(&self, namespace: NamespaceId, eye: &Eye<'_>) -> Roster {
        let Some(space) = self.spaces.get(&namespace) else {
            return Roster::default();
        };
        Roster {
            version: space.version,
            room: space.room,
            members: space.members.values().map(|member| self.shown(member, eye)).collect(),
        }
    }

    fn shown(&self, member: &Seated, eye: &Eye<'_>) -> Member {
        Member {
            node: self.node(member.place, eye),
            session: member.session,
            info: member.info.clone(),
        }
    }

    fn join(
        &mut self,
        who: &Who,
        namespace: NamespaceId,
        info: &Arc<PeerInfo>,
        terms: &Terms,
        eye: &Eye<'_>,
        out: &mut Vec<Event>,
    ) -> Result<(), Refusal> {
        let space = self.spaces.get(&namespace);
        let room = space.and_then(|space| space.room);
        if terms.room && room.is_none() {
            return Err(Refusal::RoomNotFound);
        }
        if self.seat_of(&who.fingerprint, namespace).is_none() {
            let most = room.map_or(terms.members_max, |room| room.max_size);
            if space.map_or(0, |space| space.members.len()) >= most as usize {
                return Err(match terms.room {
                    true => Refusal::RoomFull,
                    false => Refusal::NamespaceFull,
                });
            }
            if let Some(refusal) = terms.refuse {
                return Err(refusal);
            }
        }
        self.open(namespace, room);
        self.seat(who, namespace, info, eye, out);
        Ok(())
    }

    /// The version that has it so.
    #[expect(clippy::too_many_arguments, reason = "the members of one command")]
    fn rejoin(
        &mut self,
        who: &Who,
        namespace: NamespaceId,
        info: &Arc<PeerInfo>,
        room: Option<RoomTerms>,
        members_max: u32,
        anew: bool,
        eye: &Eye<'_>,
        out: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        let there = self.spaces.get(&namespace);
        // Others made it again: a room's owner never changes, so to this node it is another room.
        if let (Some(told), Some(now)) = (room, there.and_then(|space| space.room))
            && told.owner != now.owner
        {
            return Err(Refusal::RoomNotFound);
        }
        if let Some(member) = self.seat_of(&who.fingerprint, namespace) {
            // The directory has one session of a key, and a place's members go with it: it is this session.
            let same = member.info == *info;
            if same {
                return Ok(self.spaces.get(&namespace).map_or(0, |space| space.version));
            }
            self.show(who, namespace, info, eye, out);
            return Ok(self.version);
        }
        let there = self.spaces.get(&namespace);
        if let Some(terms) = room
            && there.is_none_or(|space| space.room.is_none())
        {
            // Those in a plain namespace are not told that it becomes a room.
            if !anew || there.is_some() {
                return Err(Refusal::RoomNotFound);
            }
            self.open(namespace, Some(terms));
        }
        let terms = Terms {
            room: room.is_some(),
            members_max,
            refuse: None,
        };
        let joined = self.join(who, namespace, info, &terms, eye, out);
        self.close_if_empty(namespace);
        joined.map(|()| self.version)
    }

    fn kick(
        &mut self,
        owner: &Who,
        namespace: NamespaceId,
        target: Option<&Fingerprint>,
        eye: &Eye<'_>,
        out: &mut Vec<Event>,
    ) -> Result<(), Refusal> {
        let room = self.spaces.get(&namespace).and_then(|space| space.room);
        let room = room.ok_or(Refusal::RoomNotFound)?;
        if room.owner != owner.fingerprint {
            return Err(Refusal::NotRoomOwner);
        }
        let member = target.filter(|target| self.seat_of(target, namespace).is_some());
        let target = member.ok_or(Refusal::PeerNotFound)?;
        self.withdraw(target, namespace);
        self.remove_member(target, namespace, Some(room.owner), eye, out);
        Ok(())
    }

    fn seat_of(&self, fingerprint: &Fingerprint, namespace: NamespaceId) -> Option<&Seated> {
        let number = self.sessions.get(fingerprint)?.member_of.get(&namespace)?;
        self.spaces.get(&namespace)?.members.get(number)
    }

    /// The namespace is there, and is that room if it is one.
    fn open(&mut self, namespace: NamespaceId, room: Option<RoomTerms>) {
        let space = self.spaces.entry(namespace).or_default();
        space.room = room.or(space.room);
    }

    fn close_if_empty(&mut self, namespace: NamespaceId) {
        if self
            .spaces
            .get(&namespace)
            .is_some_and(|space| space.members.is_empty())
        {
            self.spaces.remove(&namespace);
        }
    }

    /// Makes it a member, in its old place if it is one.
    fn seat(&mut self, who: &Who, namespace: NamespaceId, info: &Arc<PeerInfo>, eye: &Eye<'_>, out: &mut Vec<Event>) {
        let version = self.version;
        let (Some(session), Some(space)) = (self.sessions.get_mut(&who.fingerprint), self.spaces.get_mut(&namespace))
        else {
            return;
        };
        let number = *session.member_of.entry(namespace).or_insert(version);
        let seated = Seated {
            place: session.place,
            session: session.id,
            info: info.clone(),
        };
        if space.members.insert(number, seated).is_none() {
            *space.counts.entry(session.place).or_insert(0) += 1;
        }
        space.version = version;
        self.announce(namespace, number, eye, out, |member, room| Change::Joined {
            member,
            room,
        });
    }

    fn show(&mut self, who: &Who, namespace: NamespaceId, info: &Arc<PeerInfo>, eye: &Eye<'_>, out: &mut Vec<Event>) {
        let version = self.version;
        let session = self.sessions.get(&who.fingerprint);
        let Some(&number) = session.and_then(|session| session.member_of.get(&namespace)) else {
            return;
        };
        let Some(space) = self.spaces.get_mut(&namespace) else {
            return;
        };
        if let Some(member) = space.members.get_mut(&number) {
            member.info = info.clone();
            space.version = version;
            self.announce(namespace, number, eye, out, |member, _| Change::Shown(member));
        }
    }

    /// Tells of a member that is there, if the onlooker has members there.
    fn announce(
        &self,
        namespace: NamespaceId,
        number: u64,
        eye: &Eye<'_>,
        out: &mut Vec<Event>,
        change: impl FnOnce(Member, Option<RoomTerms>) -> Change,
    ) {
        let Some(space) = self.spaces.get(&namespace) else {
            return;
        };
        let own = self.own(eye);
        if let Some(member) = space.members.get(&number)
            && own.is_some_and(|own| space.counts.contains_key(&own))
        {
            out.push(Event::Changed {
                namespace,
                version: space.version,
                change: change(self.shown(member, eye), space.room),
            });
        }
    }

    /// Takes a member out, and the namespace with the last one.
    pub(super) fn remove_member(
        &mut self,
        fingerprint: &Fingerprint,
        namespace: NamespaceId,
        kicked_by: Option<Fingerprint>,
        eye: &Eye<'_>,
        out: &mut Vec<Event>,
    ) {
        let session = self.sessions.get_mut(fingerprint);
        let Some(number) = session.and_then(|session| session.member_of.remove(&namespace)) else {
            return;
        };
        let (own, space) = (self.own(eye), self.spaces.get(&namespace));
        let concerned = own.is_some_and(|own| space.is_some_and(|space| space.counts.contains_key(&own)));
        let Some(member) = self.drop_member(namespace, number) else {
            return;
        };
        if concerned {
            out.push(Event::Changed {
                namespace,
                version: self.version,
                change: Change::Left {
                    node: self.node(member.place, eye),
                    who: Who {
                        fingerprint: *fingerprint,
                        session: member.session,
                    },
                    kicked_by,
                },
            });
        }
    }

    /// Takes a member out of its namespace alone.
    pub(super) fn drop_member(&mut self, namespace: NamespaceId, number: u64) -> Option<Seated> {
        let space = self.spaces.get_mut(&namespace)?;
        let member = space.members.remove(&number)?;
        space.version = self.version;
        if let Some(count) = space.counts.get_mut(&member.place) {
            *count -= 1;
            if *count == 0 {
                space.counts.remove(&member.place);
            }
        }
        if space.members.is_empty() {
            self.spaces.remove(&namespace);
        }
        Some(member)
    }
}
