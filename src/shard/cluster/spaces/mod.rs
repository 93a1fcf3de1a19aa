//! Namespaces, rooms and match requests in a cluster: the home side of this node.
//!
//! A namespace of which this node has members has a copy here, which is the same record that a home without a cluster keeps:
//! members of other nodes stand in it as served by pseudo-loops. Beside it stands a [`Space`], which also is there while the
//! first joins are under way.
//!
//! Owns: the requests that wait for the broker, and what becomes of each reply.
//! Never: admits or dismisses anybody but by what the broker tells, unless that is down.

mod copies;
mod enter;
mod resync;
#[cfg(test)]
mod tests;
mod tickets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;

use super::Asked as Expected;
use crate::ids::{CommandId, Fingerprint, Homes, LoopId, NamespaceId, NodeNo, SessionId};
use crate::message::cluster::{Change, Reply, What, Who};
use crate::message::{PeerInfo, Refusal};
use crate::shard::Shard;
use crate::shard::mail::{Answer, Ask, Asker, Mail};
use crate::shard::peers::PeerKey;

/// What the home side keeps besides the rosters.
#[derive(Debug)]
pub(super) struct Spaces {
    known: HashMap<NamespaceId, Space, RandomState>,
    /// Spaces and rosters that were ever begun.
    begun: u64,
    tickets: HashMap<(NamespaceId, SessionId), tickets::Ticket, RandomState>,
    late: tickets::Late,
    /// Nodes that are gone: a roster that was read before that may still have them.
    gone: BTreeSet<NodeNo>,
    /// Rosters were compared since the broker came up.
    compared: bool,
    /// Leaves that the broker had no room for.
    owed: BTreeSet<(NamespaceId, Who)>,
    /// Members and waiting peers that changed when it had none.
    shows: BTreeSet<(NamespaceId, Who)>,
    /// Namespaces whose rosters are still to be asked for.
    comparing: BTreeSet<NamespaceId>,
    /// Such rosters under way.
    comparisons: usize,
}

/// A namespace of which this node has members, or will have.
#[derive(Debug)]
struct Space {
    name: Arc<str>,
    /// There is a copy of it.
    loaded: bool,
    /// Every change of the copy's up to this version is in it.
    version: u64,
    /// Which rosters are of use: the copy was given up since the others were asked for.
    generation: u64,
    /// Rosters on their way.
    rosters: u32,
    /// Events since the first of those was asked for, or while there is no copy.
    kept: Vec<(u64, Change)>,
    /// The version of the last event that there was no place for in `kept`.
    missed: u64,
    /// Sessions on their way in.
    coming: BTreeMap<SessionId, Coming>,
    /// Those of them that the broker has let in, by the version that has them as members.
    replied: BTreeMap<u64, SessionId>,
    /// How many of them would make a room.
    creating: u32,
    /// Members that go: the broker was told, or will be.
    leaving: BTreeMap<SessionId, Fingerprint>,
    /// Members that the broker was not told of again since it was lost.
    unconfirmed: BTreeSet<SessionId>,
    /// Those of them that the last roster did not have: they went before it was read, or are told again.
    missing: BTreeSet<SessionId>,
    /// The broker has not said who is there since it was lost.
    stale: bool,
    /// Versions by which members that never went come again, and who: nobody here is told.
    quiet: BTreeMap<u64, SessionId>,
}

/// A session on its way into a namespace.
#[derive(Debug)]
struct Coming {
    /// None: it is a member and the broker is told again.
    asker: Option<Asker>,
    how: How,
    /// The broker has let it in.
    version: Option<u64>,
    /// It was a member when it asked.
    was_member: bool,
    /// A leave of it was still to be told, which this made needless.
    owed: bool,
    /// It was put out before the broker's reply was here: the version of that, and by whom.
    kicked: Option<(u64, Fingerprint)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Join { room: bool },
    Create { max_size: u32 },
    Again,
}

/// What a namespace's home waits for.
#[derive(Debug)]
pub(super) enum Asked {
    /// A join or the making of a room; the generation of the roster that comes with it.
    Enter(SessionId, Option<u64>),
    /// Who is there.
    Roster(u64),
    /// The same, of a namespace that has a copy: to find what was missed.
    Compare(u64),
    Leave(Asker),
    /// A list, a description, or that somebody was put out.
    Other(Asker),
    Show(SessionId, Arc<PeerInfo>),
    Match(SessionId),
    Rejoin(Returning, Has),
    Rematch(Returning),
    /// A leave that nobody waits for.
    Owed(Who),
}

/// A session that is told again after the broker was lost.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Returning {
    /// Which.
    pub(in crate::shard) who: Who,
    /// The loop that serves it.
    pub(in crate::shard) loop_id: LoopId,
    /// Where its loop keeps it.
    pub(in crate::shard) peer: PeerKey,
}

/// What a session has in a namespace.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Has {
    /// It is a member.
    pub(in crate::shard) member: bool,
    /// It waits for a match.
    pub(in crate::shard) ticket: bool,
}

impl Spaces {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            known: HashMap::with_hasher(homes.hasher()),
            begun: 0,
            tickets: HashMap::with_hasher(homes.hasher()),
            late: tickets::Late::new(homes),
            gone: BTreeSet::new(),
            compared: true,
            owed: BTreeSet::new(),
            shows: BTreeSet::new(),
            comparing: BTreeSet::new(),
            comparisons: 0,
        }
    }

    fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// The namespace, known from here on.
    fn open(&mut self, id: NamespaceId, name: &Arc<str>) -> &mut Space {
        let generation = self.begin();
        self.known.entry(id).or_insert_with(|| Space {
            name: name.clone(),
            loaded: false,
            version: 0,
            generation,
            rosters: 0,
            kept: Vec::new(),
            missed: 0,
            coming: BTreeMap::new(),
            replied: BTreeMap::new(),
            creating: 0,
            leaving: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            missing: BTreeSet::new(),
            stale: false,
            quiet: BTreeMap::new(),
        })
    }

    /// All namespaces, in an order that depends on nothing but them.
    fn ids(&self) -> Vec<NamespaceId> {
        let mut ids: Vec<NamespaceId> = self.known.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}

impl Space {
    fn is_copy(&self) -> bool {
        self.loaded
    }

    fn expect(&mut self, session: SessionId, coming: Coming) {
        self.stop_expecting(session);
        self.creating += u32::from(matches!(coming.how, How::Create { .. }));
        self.coming.insert(session, coming);
    }

    /// The broker has it as a member, or it is none any more.
    fn confirm(&mut self, session: &SessionId) {
        self.unconfirmed.remove(session);
        self.missing.remove(session);
    }

    fn stop_expecting(&mut self, session: SessionId) -> Option<Coming> {
        let coming = self.coming.remove(&session)?;
        self.creating -= u32::from(matches!(coming.how, How::Create { .. }));
        if let Some(version) = coming.version {
            self.replied.remove(&version);
        }
        Some(coming)
    }
}

impl Shard {
    fn spaces(&self) -> Option<&Spaces> {
        self.cluster.as_ref().map(|cluster| &cluster.spaces)
    }

    fn spaces_mut(&mut self) -> Option<&mut Spaces> {
        self.cluster.as_mut().map(|cluster| &mut cluster.spaces)
    }

    fn space(&self, id: NamespaceId) -> Option<&Space> {
        self.spaces()?.known.get(&id)
    }

    fn space_mut(&mut self, id: NamespaceId) -> Option<&mut Space> {
        self.spaces_mut()?.known.get_mut(&id)
    }

    /// A request to a namespace of this home, for the broker.
    pub(in crate::shard) fn ask_cluster(&mut self, asker: Asker, namespace: NamespaceId, ask: Ask) {
        let who = who(&asker);
        // A copy may lag behind what the asker knows already: while the broker can be asked, it is.
        let copy = !self.is_up() && self.space(namespace).is_some_and(Space::is_copy);
        match ask {
            Ask::Leave => self.leave_space(asker, namespace),
            Ask::Discover { limit } if copy => {
                let answer = self.list(namespace, limit);
                self.answer(asker, namespace, answer);
            }
            Ask::RoomInfo if copy => {
                let answer = self.describe_room(namespace);
                self.answer(asker, namespace, answer);
            }
            // Refused, a match request takes the earlier one back all the same, also with a broker that its loop knew sooner to
            // be back. So it is given in any case, and is lost if the broker is down.
            Ask::Match {
                name,
                info,
                group_size,
                criteria,
            } => self.ask_for_match(asker, namespace, &name, info, group_size, criteria),
            _ if !self.is_up() => self.answer(asker, namespace, LOST),
            Ask::Join {
                name,
                info,
                room,
                crowded,
            } => self.enter(asker, namespace, name, info, room, crowded),
            Ask::CreateRoom {
                name,
                info,
                max_size,
                crowded,
            } => self.enter_new_room(asker, namespace, name, info, max_size, crowded),
            Ask::Discover { limit } => {
                self.ask_broker(namespace, Asked::Other(asker), What::List { namespace, limit });
            }
            Ask::RoomInfo => {
                self.ask_broker(namespace, Asked::Other(asker), What::Describe { namespace });
            }
            Ask::Kick { target } => {
                let what = What::Kick { who, namespace, target };
                self.ask_broker(namespace, Asked::Other(asker), what);
            }
        }
    }

    fn ask_broker(&mut self, namespace: NamespaceId, asked: Asked, what: What) -> CommandId {
        self.command(Expected::Space(namespace, asked), what)
    }

    fn answer(&mut self, asker: Asker, namespace: NamespaceId, answer: Answer) {
        let mail = Mail::Answer {
            asker,
            namespace,
            answer,
        };
        self.send(asker.loop_id, mail);
    }

    pub(super) fn on_space_reply(&mut self, id: CommandId, namespace: NamespaceId, asked: Asked, reply: Reply) {
        if !matches!(reply, Reply::Lost) {
            self.go_on();
        }
        match asked {
            Asked::Enter(session, roster) => self.on_entered(namespace, session, roster, reply),
            Asked::Roster(generation) => self.on_roster_reply(namespace, generation, reply),
            Asked::Compare(generation) => self.on_compared(namespace, generation, reply),
            Asked::Leave(asker) => self.on_left(asker, namespace, &reply),
            Asked::Owed(who) => self.owe_if_lost(namespace, who, &reply),
            Asked::Other(asker) => self.answer(asker, namespace, answer_of(reply)),
            Asked::Show(session, info) if matches!(reply, Reply::Lost) => self.owe_show(namespace, session, info),
            Asked::Show(..) => {}
            Asked::Match(session) => self.on_match_reply(id, namespace, session, &reply),
            Asked::Rejoin(session, has) => self.on_rejoin_reply(session, namespace, has, &reply),
            Asked::Rematch(session) => self.on_rematch_reply(session, namespace, &reply),
        }
    }

    /// The broker is seen to be there: what was put aside for want of room on the way to it goes on.
    fn go_on(&mut self) {
        self.pay_owed();
        self.pay_shows();
        self.compare_more();
    }

    /// A member or waiting peer is shown differently from here on.
    pub(in crate::shard) fn show_in_cluster(
        &mut self,
        namespace: NamespaceId,
        session: SessionId,
        info: Arc<PeerInfo>,
    ) {
        self.change_cluster_ticket(namespace, session, &info);
        if !self.is_up() {
            // Given to the broker all the same: its loop may have heard sooner that it is back, and told it the old one.
            self.show_here(namespace, session, info.clone());
        }
        let fingerprint = info.fingerprint;
        let what = What::Show {
            who: Who { fingerprint, session },
            namespace,
            info: info.clone(),
        };
        self.ask_broker(namespace, Asked::Show(session, info), what);
    }

    /// Proves that the copies agree with what is kept beside them. Panics if not.
    pub(in crate::shard) fn check_spaces(&self) {
        let Some(spaces) = self.spaces() else { return };
        for (id, space) in &spaces.known {
            let copy = self.namespaces.get(id);
            assert_eq!(copy.is_some(), space.loaded, "a copy is known as one");
            assert!(
                space.loaded || !space.coming.is_empty(),
                "no namespace without a reason"
            );
            assert!(copy.is_none_or(|copy| copy.is_local()), "no copy without a member here");
            let creating = space
                .coming
                .values()
                .filter(|coming| matches!(coming.how, How::Create { .. }));
            assert_eq!(creating.count(), space.creating as usize, "rooms being made add up");
            let replied = space.coming.values().filter(|coming| coming.version.is_some());
            assert_eq!(replied.count(), space.replied.len(), "replies add up");
            let is_here = |session: &SessionId, fingerprint: Option<&Fingerprint>| {
                copy.is_some_and(|copy| {
                    copy.roster.iter().any(|member| {
                        let same = fingerprint.is_none_or(|fingerprint| member.info.fingerprint == *fingerprint);
                        member.session == *session && same && member.loop_id.node().is_none()
                    })
                })
            };
            for (session, fingerprint) in &space.leaving {
                assert!(is_here(session, Some(fingerprint)), "who goes is there");
            }
            for session in &space.unconfirmed {
                assert!(is_here(session, None), "who is not confirmed is there");
            }
            assert!(
                space.missing.is_subset(&space.unconfirmed),
                "who is missing is not confirmed"
            );
        }
        for id in self.namespaces.keys() {
            assert!(spaces.known.contains_key(id), "no copy that is not known");
        }
    }

    /// A change that was lost: with the broker it is told by what is told again; else it is told as soon as there is room.
    fn owe_show(&mut self, namespace: NamespaceId, session: SessionId, info: Arc<PeerInfo>) {
        let (is_up, fingerprint) = (self.is_up(), info.fingerprint);
        self.show_here(namespace, session, info);
        if let Some(spaces) = self
            .spaces_mut()
            .filter(|spaces| is_up && spaces.shows.len() < enter::OWED_MAX)
        {
            spaces.shows.insert((namespace, Who { fingerprint, session }));
        }
    }

    /// The broker takes commands: some of those that it has not heard of are shown to it, as they are by now.
    fn pay_shows(&mut self) {
        for _ in 0..enter::OWED_AT_ONCE {
            let owed = self.spaces_mut().and_then(|spaces| spaces.shows.pop_first());
            let Some((namespace, who)) = owed else { return };
            let member = self
                .namespaces
                .get(&namespace)
                .and_then(|n| n.roster.get(&who.fingerprint));
            let member = member.filter(|member| member.session == who.session && member.loop_id.node().is_none());
            let info = member.map(|member| member.info.clone());
            if let Some(info) = info.or_else(|| self.ticket_info(namespace, who.session)) {
                let asked = Asked::Show(who.session, info.clone());
                self.ask_broker(namespace, asked, What::Show { who, namespace, info });
            }
        }
    }

    /// Changes the copy alone; the broker hears of it when it is told everything again.
    fn show_here(&mut self, namespace: NamespaceId, session: SessionId, info: Arc<PeerInfo>) {
        let namespace = self.namespaces.get_mut(&namespace);
        let member = namespace.and_then(|namespace| namespace.roster.get_mut(&info.fingerprint));
        if let Some(member) = member.filter(|member| member.session == session && member.loop_id.node().is_none()) {
            member.info = info;
        }
    }
}

/// What a request is answered that the broker did not answer.
const LOST: Answer = Answer::Refused(Refusal::BrokerUnavailable);

fn who(asker: &Asker) -> Who {
    Who {
        fingerprint: asker.fingerprint,
        session: asker.session,
    }
}

/// What a peer is told for a reply, those to joins and match requests aside.
fn answer_of(reply: Reply) -> Answer {
    match reply {
        Reply::Done => Answer::Done,
        Reply::Listed { peers, total } => Answer::Listed { peers, total },
        Reply::Described { peer_count, terms } => Answer::Described {
            peer_count,
            max_size: terms.max_size,
            owner: terms.owner,
        },
        Reply::Refused(refusal) => Answer::Refused(refusal),
        _ => LOST,
    }
}
