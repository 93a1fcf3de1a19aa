//! Match requests of this node's peers, which wait at the broker.
//!
//! Owns: which requests wait, which of the earlier ones may still turn out to be met, and that each is told of one match at most.
//! Never: forms a group.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::RandomState;
use compact_str::CompactString;
use hashbrown::HashMap;

use super::{Asked, LOST, Returning, who};
use crate::ids::{CommandId, Homes, LoopId, NamespaceId, SessionId};
use crate::message::cluster::{Reply, What, Who};
use crate::message::{CriteriaKey, Matched, PeerInfo, Refusal};
use crate::shard::Shard;
use crate::shard::mail::{Answer, Asker, Mail};
use crate::shard::matchmaking::fits_a_group;
use crate::shard::peers::PeerKey;

/// Requests that are kept after they were replaced, taken back, or met by a match that is not here yet.
const LATE_MAX: usize = 16 * 1024;

/// A request that waits, as far as this node knows.
#[derive(Debug)]
pub(super) struct Ticket {
    number: CommandId,
    name: CompactString,
    info: Arc<PeerInfo>,
    group_size: u32,
    criteria: CriteriaKey,
    /// It holds a permit.
    permit: bool,
    /// The broker has met it; the word of that is on its way, unless a gap swallows it.
    met: bool,
    place: Place,
}

/// Who is to be told of a match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    session: SessionId,
    loop_id: LoopId,
    peer: Option<PeerKey>,
    /// The request is not answered yet.
    asker: Option<Asker>,
}

/// Requests that this node counts as over, but that may have been met before: the broker's word on that can be on its way.
#[derive(Debug)]
pub(super) struct Late {
    places: HashMap<CommandId, Place, RandomState>,
    order: VecDeque<CommandId>,
}

impl Late {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            places: HashMap::with_hasher(homes.hasher()),
            order: VecDeque::new(),
        }
    }

    fn put(&mut self, number: CommandId, place: Place) {
        if self.places.insert(number, place).is_none() {
            self.order.push_back(number);
        }
        if self.order.len() > LATE_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.places.remove(&oldest);
        }
    }
}

impl Shard {
    pub(super) fn ask_for_match(
        &mut self,
        asker: Asker,
        namespace: NamespaceId,
        name: &str,
        info: Arc<PeerInfo>,
        group_size: u32,
        criteria: CriteriaKey,
    ) {
        // The broker takes the earlier request back, unless it was met already.
        self.drop_ticket(namespace, asker.session);
        let permit = self.permits.match_waiting.take(self.limits.max_match_waiting);
        let number = self.next_command();
        let ticket = Ticket {
            number,
            name: name.into(),
            info,
            group_size,
            criteria,
            permit,
            met: false,
            place: Place {
                session: asker.session,
                loop_id: asker.loop_id,
                peer: asker.peer,
                asker: Some(asker),
            },
        };
        let refuse = (!permit).then_some(Refusal::ServerFull);
        let what = ticket.command(who(&asker), namespace, refuse, false);
        self.ask_broker(namespace, Asked::Match(asker.session), what);
        if let Some(spaces) = self.spaces_mut() {
            spaces.tickets.insert((namespace, asker.session), ticket);
        }
    }

    /// This request is over, as far as this node knows; false: there is none.
    pub(super) fn drop_ticket(&mut self, namespace: NamespaceId, session: SessionId) -> bool {
        let Some(spaces) = self.spaces_mut() else { return false };
        let Some(ticket) = spaces.tickets.remove(&(namespace, session)) else {
            return false;
        };
        spaces.late.put(ticket.number, ticket.place);
        if ticket.permit {
            self.permits.match_waiting.release();
        }
        true
    }

    /// A request that is not answered is about to be over: who asked hears that it waited first.
    pub(super) fn answer_waiting(&mut self, namespace: NamespaceId, session: SessionId) {
        let spaces = self.spaces_mut();
        let ticket = spaces.and_then(|spaces| spaces.tickets.get_mut(&(namespace, session)));
        if let Some(asker) = ticket.and_then(|ticket| ticket.place.asker.take()) {
            self.answer(asker, namespace, Answer::Waiting);
        }
    }

    /// How a session's request there shows it.
    pub(super) fn ticket_info(&self, namespace: NamespaceId, session: SessionId) -> Option<Arc<PeerInfo>> {
        Some(self.spaces()?.tickets.get(&(namespace, session))?.info.clone())
    }

    pub(super) fn change_cluster_ticket(&mut self, namespace: NamespaceId, session: SessionId, info: &Arc<PeerInfo>) {
        let spaces = self.spaces_mut();
        if let Some(ticket) = spaces.and_then(|spaces| spaces.tickets.get_mut(&(namespace, session)))
            && fits_a_group(info, ticket.group_size)
        {
            ticket.info = info.clone();
        }
    }

    /// The number of a session's request there, if it is the one that waits, and its asker if that was not answered.
    fn take_match_asker(&mut self, id: CommandId, namespace: NamespaceId, session: SessionId) -> Option<Asker> {
        let spaces = self.spaces_mut()?;
        let ticket = spaces.tickets.get_mut(&(namespace, session));
        match ticket.filter(|ticket| ticket.number == id) {
            Some(ticket) => ticket.place.asker.take(),
            // It was put out of the room meanwhile, and its request with it; or it was told of its match before.
            None => spaces.late.places.get_mut(&id)?.asker.take(),
        }
    }

    pub(super) fn on_match_reply(&mut self, id: CommandId, namespace: NamespaceId, session: SessionId, reply: &Reply) {
        let asker = self.take_match_asker(id, namespace, session);
        let current = self.ticket_number(namespace, session) == Some(id);
        let answer = match reply {
            Reply::Waiting if current => Answer::Waiting,
            // Nobody has it any more.
            Reply::Waiting => LOST,
            Reply::Done => {
                self.counters.matches += u64::from(asker.is_some());
                Answer::Done
            }
            Reply::Refused(refusal) => Answer::Refused(*refusal),
            _ => LOST,
        };
        match reply {
            Reply::Waiting => {}
            Reply::Done if current => self.note_met(namespace, session),
            _ if current => drop(self.drop_ticket(namespace, session)),
            _ => {}
        }
        if let Some(asker) = asker {
            self.answer(asker, namespace, answer);
        }
    }

    /// It waits no more, and is kept until the match is here: if that is missed, this request is what the broker is asked about.
    fn note_met(&mut self, namespace: NamespaceId, session: SessionId) {
        let spaces = self.spaces_mut();
        let ticket = spaces.and_then(|spaces| spaces.tickets.get_mut(&(namespace, session)));
        if let Some(ticket) = ticket {
            ticket.met = true;
            if std::mem::take(&mut ticket.permit) {
                self.permits.match_waiting.release();
            }
        }
    }

    fn ticket_number(&self, namespace: NamespaceId, session: SessionId) -> Option<CommandId> {
        let ticket = self.spaces()?.tickets.get(&(namespace, session))?;
        Some(ticket.number)
    }

    /// Match requests of this node were met.
    pub(in crate::shard::cluster) fn on_space_matched(
        &mut self,
        namespace: NamespaceId,
        members: &[(Who, CommandId)],
        matched: &Arc<Matched>,
    ) {
        // Whether another request of the same session waits there.
        let mut told: Vec<(LoopId, bool, Option<PeerKey>, SessionId)> = Vec::with_capacity(members.len());
        for (who, number) in members {
            let current = self.ticket_number(namespace, who.session);
            if current == Some(*number) {
                self.drop_ticket(namespace, who.session);
            }
            let spaces = self.spaces_mut();
            let Some(place) = spaces.and_then(|spaces| spaces.late.places.remove(number)) else {
                // It was told of a match before, or its session is over.
                self.counters.stale_mail += 1;
                continue;
            };
            if let Some(asker) = place.asker {
                // The match overtook the reply. Who completes a group is its last member, and never waited.
                let completes = matched
                    .peers
                    .last()
                    .is_some_and(|last| last.fingerprint == who.fingerprint);
                let answer = match completes {
                    true => Answer::Done,
                    false => Answer::Waiting,
                };
                self.counters.matches += u64::from(completes);
                self.answer(asker, namespace, answer);
            }
            let another = current.is_some_and(|current| current != *number);
            told.push((place.loop_id, another, place.peer, place.session));
        }
        told.sort_by_key(|(loop_id, another, ..)| (*loop_id, *another));
        for served in told.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (to, another, ..) = served[0];
            let mail = Mail::Matched {
                namespace: (!another).then_some(namespace),
                members: served.iter().map(|(_, _, peer, session)| (*peer, *session)).collect(),
                matched: matched.clone(),
            };
            self.send(to, mail);
        }
    }

    /// A session's request there is told again; false: there is none.
    pub(super) fn rematch(&mut self, session: Returning, namespace: NamespaceId) -> bool {
        let key = (namespace, session.who.session);
        let ticket = self.spaces_mut().and_then(|spaces| spaces.tickets.get_mut(&key));
        let Some(ticket) = ticket else { return false };
        ticket.place.peer = Some(session.peer);
        let what = ticket.command(session.who, namespace, None, true);
        self.ask_broker(namespace, Asked::Rematch(session), what);
        true
    }

    pub(super) fn on_rematch_reply(&mut self, session: Returning, namespace: NamespaceId, reply: &Reply) {
        match reply {
            // Stale: the key has another session, and the word of that is on its way.
            Reply::Waiting => self.note_waiting(namespace, session.who.session),
            Reply::Lost | Reply::Stale => {}
            Reply::Done => self.note_met(namespace, session.who.session),
            // Not if its match was heard of meanwhile.
            _ if self.drop_ticket(namespace, session.who.session) => {
                let who = session.who;
                self.send(session.loop_id, Mail::Evicted { who, namespace });
            }
            _ => {}
        }
        let (who, lost) = (session.who, matches!(reply, Reply::Lost));
        self.send(session.loop_id, Mail::Rejoined { who, lost });
    }

    /// A request that was told again waits, also if it was met once, of which the broker knows nothing any more.
    fn note_waiting(&mut self, namespace: NamespaceId, session: SessionId) {
        let spaces = self.spaces_mut();
        let ticket = spaces.and_then(|spaces| spaces.tickets.get_mut(&(namespace, session)));
        if let Some(ticket) = ticket.filter(|ticket| ticket.met) {
            (ticket.met, ticket.permit) = (false, true);
            self.permits.match_waiting.take(usize::MAX);
        }
    }

    /// How many requests wait at the broker, or were met by a match that is not here yet.
    pub(in crate::shard) fn cluster_tickets(&self) -> usize {
        self.spaces().map_or(0, |spaces| spaces.tickets.len())
    }

    /// They, in no order.
    pub(in crate::shard) fn iter_cluster_tickets(
        &self,
    ) -> impl Iterator<Item = (NamespaceId, crate::ids::Fingerprint, SessionId)> {
        let tickets = self.spaces().into_iter().flat_map(|spaces| &spaces.tickets);
        tickets.map(|((namespace, session), ticket)| (*namespace, ticket.info.fingerprint, *session))
    }
}

impl Ticket {
    fn command(&self, who: Who, namespace: NamespaceId, refuse: Option<Refusal>, resumed: bool) -> What {
        What::Match {
            who,
            namespace,
            name: Arc::from(&*self.name),
            info: self.info.clone(),
            group_size: self.group_size,
            criteria: self.criteria,
            ticket: self.number,
            refuse,
            resumed,
        }
    }
}
