//! The broker, in memory: what each command does, read from `docs/decisions/cluster.md`, section Commands.
//!
//! Owns: leases, directory, rosters, queues and inboxes, and a log of every change for the checkers.
//! Never: knows a connection, or how any real broker keeps anything.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use compact_str::CompactString;
use peer_server::broker::{Epoch, LEASE, NodeId, Nodes};
use peer_server::ids::{CommandId, Fingerprint, NamespaceId, SessionId};
use peer_server::message::cluster::{Change, Event, Member, Reply, RoomTerms, Roster, What, Who};
use peer_server::message::{Matched, PeerInfo, Refusal};

/// A node in an epoch.
pub(crate) type Place = (NodeId, Epoch);

/// A session of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) session: SessionId,
    pub(crate) alias: Option<CompactString>,
}

/// A member of a roster.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) place: Place,
    pub(crate) session: SessionId,
    pub(crate) info: Arc<PeerInfo>,
}

/// A namespace or room with members.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    pub(crate) version: u64,
    pub(crate) room: Option<RoomTerms>,
    pub(crate) seats: Vec<Seat>,
}

/// A match request that waits.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) place: Place,
    pub(crate) who: Who,
    pub(crate) info: Arc<PeerInfo>,
    pub(crate) number: CommandId,
}

/// What an inbox holds: events that name places, not yet numbers of one process.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Changed {
        namespace: NamespaceId,
        version: u64,
        change: Happened,
    },
    Matched {
        namespace: NamespaceId,
        members: Vec<(Who, CommandId)>,
        matched: Arc<Matched>,
    },
    Replaced(Who),
    NodeGone(Place),
}

/// What happened in a namespace.
#[derive(Clone, Debug)]
pub(crate) enum Happened {
    Joined(Seat, Option<RoomTerms>),
    Shown(Seat),
    Left {
        place: Place,
        who: Who,
        kicked_by: Option<Fingerprint>,
    },
}

/// A request that was met.
#[derive(Clone, Copy, Debug)]
struct Met {
    /// The epoch in which its node was told so, and where in its inbox.
    epoch: Epoch,
    at: usize,
    /// Until when it is known.
    until: u64,
}

/// How long it is known that a request was met.
const MET_MS: u64 = 60_000;

/// A standstill of the broker ends no lease unless it was longer.
const STANDSTILL_MAX_MS: u64 = 60_000;

type Queue = (NamespaceId, u32, [u8; 32]);

/// Sessions and tickets that make a group.
pub(crate) type Group = Vec<(Place, Who, CommandId)>;

/// The broker's data and its clock.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    pub(crate) now_ms: u64,
    /// Until when; those marked dead are not in it.
    leases: BTreeMap<Place, u64>,
    /// Kept over the loss of everything else: no epoch is ever given twice.
    epochs: u64,
    /// Rises when everything is lost.
    generation: u64,
    versions: u64,
    groups: u128,
    pub(crate) directory: BTreeMap<Fingerprint, Entry>,
    pub(crate) spaces: BTreeMap<NamespaceId, Space>,
    pub(crate) queues: BTreeMap<Queue, Vec<Ticket>>,
    inboxes: BTreeMap<Place, Vec<Told>>,
    /// Requests that were met, by node and number.
    met: BTreeMap<(NodeId, CommandId), Met>,
    /// What inboxes lost before it was read.
    missed: BTreeMap<Place, Vec<Range<usize>>>,
    /// Nodes that may make rooms again: those that took a lease since everything was lost, and knew what was before.
    rebuilding: BTreeSet<NodeId>,
    /// Every committed group: in which generation of data, and the sessions and tickets in it.
    pub(crate) committed: Vec<(u64, Group)>,
    /// Every change of who is in a namespace, by version: who, and whether it came.
    pub(crate) log: BTreeMap<NamespaceId, Vec<(u64, Happened)>>,
}

/// A lease that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) epoch: Epoch,
    pub(crate) empty: bool,
    pub(crate) generation: u64,
}

/// The epoch is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lapsed;

impl Broker {
    /// An empty one, at that time.
    pub(crate) fn at(now_ms: u64) -> Self {
        Self {
            now_ms,
            ..Self::default()
        }
    }

    /// Whether nothing is taken from that place any more: its lease ran out, or it was marked dead.
    pub(crate) fn is_over(&self, place: Place) -> bool {
        self.leases.get(&place).is_none_or(|until| *until <= self.now_ms)
    }

    /// Takes a lease, or goes on with one. `known` is the generation of data that the node knew.
    pub(crate) fn take_up(&mut self, node: NodeId, epoch: Option<Epoch>, known: Option<u64>) -> Lease {
        let generation = self.generation;
        let empty = known != Some(generation);
        self.forgive_standstill();
        if let Some(epoch) = epoch.filter(|epoch| !self.is_over((node, *epoch))) {
            self.leases
                .insert((node, epoch), self.now_ms + LEASE.as_millis() as u64);
            return Lease {
                epoch,
                empty,
                generation,
            };
        }
        let earlier: Vec<Place> = self.leases.keys().copied().filter(|place| place.0 == node).collect();
        earlier.into_iter().for_each(|place| self.mark_dead(place));
        self.epochs += 1;
        let epoch = Epoch(self.epochs);
        match empty {
            true => self.rebuilding.insert(node),
            false => self.rebuilding.remove(&node),
        };
        self.leases
            .insert((node, epoch), self.now_ms + LEASE.as_millis() as u64);
        self.inboxes.insert((node, epoch), Vec::new());
        Lease {
            epoch,
            empty,
            generation,
        }
    }

    /// Renews a lease and marks dead whoever did not.
    pub(crate) fn renew(&mut self, place: Place) -> Result<(), Lapsed> {
        self.forgive_standstill();
        if self.is_over(place) {
            return Err(Lapsed);
        }
        self.leases.insert(place, self.now_ms + LEASE.as_millis() as u64);
        let over: Vec<Place> = self
            .leases
            .keys()
            .copied()
            .filter(|place| self.is_over(*place))
            .collect();
        over.into_iter().for_each(|place| self.mark_dead(place));
        Ok(())
    }

    /// If nobody renewed in time, it was the broker that stood still.
    fn forgive_standstill(&mut self) {
        let now = self.now_ms;
        if self.leases.values().all(|until| *until <= now) {
            let recent = self
                .leases
                .values_mut()
                .filter(|until| **until + STANDSTILL_MAX_MS > now);
            recent.for_each(|until| *until = now + LEASE.as_millis() as u64);
        }
    }

    /// A node that stops gives its lease back.
    pub(crate) fn release(&mut self, place: Place) {
        self.mark_dead(place);
    }

    /// Everything is lost but the clock, above which versions begin anew.
    pub(crate) fn flush(&mut self) {
        *self = Self {
            now_ms: self.now_ms,
            epochs: self.epochs,
            generation: self.generation + 1,
            groups: self.groups,
            versions: self.versions,
            committed: std::mem::take(&mut self.committed),
            ..Self::default()
        };
    }

    /// What a node has not read from there on.
    pub(crate) fn inbox(&self, place: Place, from: usize) -> &[Told] {
        self.inboxes
            .get(&place)
            .and_then(|all| all.get(from..))
            .unwrap_or_default()
    }

    /// A node finds that so much of its inbox from there on is lost.
    pub(crate) fn note_gap(&mut self, place: Place, lost: Range<usize>) {
        self.missed.entry(place).or_default().push(lost);
    }

    fn tell(&mut self, place: Place, told: Told) {
        // The dead are told nothing, but what they were told before stays: they may come back for it. One that is over and
        // not marked is told.
        if self.leases.contains_key(&place)
            && let Some(inbox) = self.inboxes.get_mut(&place)
        {
            inbox.push(told);
        }
    }

    /// All that it held goes without an announcement of each, because every copy drops it at this one.
    fn mark_dead(&mut self, place: Place) {
        if self.leases.remove(&place).is_none() {
            return;
        }
        self.directory.retain(|_, entry| entry.place != place);
        self.spaces.retain(|_, space| {
            space.seats.retain(|seat| seat.place != place);
            !space.seats.is_empty()
        });
        self.queues.retain(|_, queue| {
            queue.retain(|ticket| ticket.place != place);
            !queue.is_empty()
        });
        let alive: Vec<Place> = self.leases.keys().copied().collect();
        alive.into_iter().for_each(|to| self.tell(to, Told::NodeGone(place)));
    }

    /// Runs one command of a node. `nodes` gives the numbers that the reply names.
    pub(crate) fn run(&mut self, place: Place, what: &What, nodes: &Nodes) -> Result<Reply, Lapsed> {
        let reads = matches!(
            what,
            What::Find { .. } | What::Resolve { .. } | What::List { .. } | What::Describe { .. } | What::Roster { .. }
        );
        if !reads && self.is_over(place) {
            return Err(Lapsed);
        }
        if let What::Join { who, .. }
        | What::Rejoin { who, .. }
        | What::CreateRoom { who, .. }
        | What::Leave { who, .. }
        | What::Kick { who, .. }
        | What::Show { who, .. }
        | What::Match { who, .. } = what
            && !self.has(place, *who)
        {
            return Ok(Reply::Stale);
        }
        Ok(match what {
            What::Register { who, aliases } => self.register(place, *who, aliases),
            What::Resume {
                who,
                alias,
                member_of,
                waits_in,
            } => self.resume(place, *who, alias.as_ref(), [member_of, waits_in]),
            What::End { who } => {
                if self
                    .directory
                    .get(&who.fingerprint)
                    .is_some_and(|entry| entry.place.0 == place.0 && entry.session == who.session)
                {
                    self.end(&who.fingerprint);
                }
                Reply::Done
            }
            What::Find { fingerprint } => {
                let entry = self.directory.get(fingerprint);
                let entry = entry.filter(|entry| entry.place.0 != place.0 && !self.is_over(entry.place));
                Reply::Found(entry.and_then(|entry| number(nodes, entry.place)))
            }
            What::Resolve { alias } => Reply::Resolved(self.holder(alias)),
            What::Join {
                who,
                namespace,
                info,
                room,
                members_max,
                refuse,
                roster,
                ..
            } => {
                let seat = Seat {
                    place,
                    session: who.session,
                    info: info.clone(),
                };
                match self.join(*namespace, seat, *room, *members_max, *refuse) {
                    Err(refusal) => Reply::Refused(refusal),
                    Ok(version) => Reply::Joined {
                        version,
                        roster: roster.then(|| Box::new(self.roster(*namespace, nodes))),
                    },
                }
            }
            What::Rejoin {
                who,
                namespace,
                info,
                room,
                members_max,
                ..
            } => {
                let seat = Seat {
                    place,
                    session: who.session,
                    info: info.clone(),
                };
                self.rejoin(*namespace, seat, *room, *members_max)
            }
            What::CreateRoom {
                who,
                namespace,
                info,
                max_size,
                refuse,
                ..
            } => {
                if self.spaces.contains_key(namespace) {
                    return Ok(Reply::Refused(Refusal::RoomExists));
                }
                if let Some(refusal) = refuse {
                    return Ok(Reply::Refused(*refusal));
                }
                let terms = RoomTerms {
                    owner: who.fingerprint,
                    max_size: *max_size,
                };
                let seat = Seat {
                    place,
                    session: who.session,
                    info: info.clone(),
                };
                Reply::Created {
                    version: self.enter(*namespace, seat, Some(terms)),
                }
            }
            What::Leave { who, namespace } => {
                self.withdraw(*namespace, *who, place.0);
                self.leave(*namespace, &who.fingerprint, None);
                Reply::Done
            }
            What::Kick { who, namespace, target } => self.kick(who, *namespace, target.as_ref()),
            What::Show { who, namespace, info } => {
                self.show(place, *who, *namespace, info);
                Reply::Done
            }
            What::Match { .. } => self.find_match(place, what),
            What::List { namespace, limit } => match self.spaces.get(namespace) {
                Some(space) if space.room.is_some() => Reply::Refused(Refusal::RoomNotDiscoverable),
                space => {
                    let seats = space.map_or(&[][..], |space| &space.seats);
                    Reply::Listed {
                        peers: seats
                            .iter()
                            .take(*limit as usize)
                            .map(|seat| seat.info.clone())
                            .collect(),
                        total: seats.len() as u32,
                    }
                }
            },
            What::Describe { namespace } => match self.spaces.get(namespace) {
                Some(Space {
                    room: Some(terms),
                    seats,
                    ..
                }) => Reply::Described {
                    peer_count: seats.len() as u32,
                    terms: *terms,
                },
                _ => Reply::Refused(Refusal::RoomNotFound),
            },
            What::Roster { namespace } => Reply::Roster(Box::new(self.roster(*namespace, nodes))),
        })
    }

    /// An inbox's event as one process is told it; None: of nobody that it could name.
    pub(crate) fn event(told: Told, nodes: &Nodes) -> Option<Event> {
        let member = |seat: Seat| Member {
            node: number(nodes, seat.place),
            session: seat.session,
            info: seat.info,
        };
        Some(match told {
            Told::Changed {
                namespace,
                version,
                change,
            } => Event::Changed {
                namespace,
                version,
                change: match change {
                    Happened::Joined(seat, room) => Change::Joined {
                        member: member(seat),
                        room,
                    },
                    Happened::Shown(seat) => Change::Shown(member(seat)),
                    Happened::Left { place, who, kicked_by } => Change::Left {
                        node: number(nodes, place),
                        who,
                        kicked_by,
                    },
                },
            },
            Told::Matched {
                namespace,
                members,
                matched,
            } => Event::Matched {
                namespace,
                members,
                matched,
            },
            Told::Replaced(who) => Event::Replaced(who),
            Told::NodeGone(place) => Event::NodeGone(number(nodes, place)?),
        })
    }

    fn has(&self, place: Place, who: Who) -> bool {
        let entry = self.directory.get(&who.fingerprint);
        entry.is_some_and(|entry| entry.place == place && entry.session == who.session)
    }

    /// Who holds the alias, if its node is not over.
    pub(crate) fn holder(&self, alias: &str) -> Option<Fingerprint> {
        let holds = |entry: &Entry| entry.alias.as_deref() == Some(alias) && !self.is_over(entry.place);
        self.directory
            .iter()
            .find(|(_, entry)| holds(entry))
            .map(|(fingerprint, _)| *fingerprint)
    }

    fn register(&mut self, place: Place, who: Who, aliases: &[CompactString]) -> Reply {
        if let Some(entry) = self.directory.get(&who.fingerprint).cloned() {
            self.end(&who.fingerprint);
            if entry.place.0 != place.0 {
                let fingerprint = who.fingerprint;
                let session = entry.session;
                self.tell(entry.place, Told::Replaced(Who { fingerprint, session }));
            }
        }
        let free = aliases.iter().position(|alias| self.holder(alias).is_none());
        self.put(place, who, free.and_then(|at| aliases.get(at)).cloned());
        Reply::Registered {
            alias: free.map(|at| at as u8),
        }
    }

    fn put(&mut self, place: Place, who: Who, alias: Option<CompactString>) {
        // A node that is over may still be on record with it.
        for entry in self
            .directory
            .values_mut()
            .filter(|entry| alias.is_some() && entry.alias == alias)
        {
            entry.alias = None;
        }
        let session = who.session;
        self.directory.insert(who.fingerprint, Entry { place, session, alias });
    }

    fn resume(&mut self, place: Place, who: Who, alias: Option<&CompactString>, named: [&[NamespaceId]; 2]) -> Reply {
        let mut held = None;
        if let Some(entry) = self.directory.get(&who.fingerprint).cloned() {
            if entry.place.0 != place.0 && !self.is_over(entry.place) {
                return Reply::Taken;
            }
            if entry.place.0 == place.0 && entry.session == who.session {
                held = entry.alias;
                let [member_of, waits_in] = named;
                for namespace in self.places_of(&who.fingerprint) {
                    if !waits_in.contains(&namespace) {
                        self.withdraw(namespace, who, place.0);
                    }
                    if !member_of.contains(&namespace) {
                        self.leave(namespace, &who.fingerprint, None);
                    }
                }
            } else {
                self.end(&who.fingerprint);
            }
        }
        let alias = alias.filter(|alias| {
            held.as_ref() == Some(*alias) || self.holder(alias).is_none_or(|holder| holder == who.fingerprint)
        });
        self.put(place, who, alias.cloned());
        Reply::Registered {
            alias: alias.map(|_| 0),
        }
    }

    /// Where a key is a member or waits.
    fn places_of(&self, fingerprint: &Fingerprint) -> BTreeSet<NamespaceId> {
        let is_it = |seat: &Seat| seat.info.fingerprint == *fingerprint;
        let spaces = self
            .spaces
            .iter()
            .filter(|(_, space)| space.seats.iter().any(is_it))
            .map(|(id, _)| *id);
        let waits = |queue: &Vec<Ticket>| queue.iter().any(|ticket| ticket.who.fingerprint == *fingerprint);
        spaces
            .chain(
                self.queues
                    .iter()
                    .filter(|(_, queue)| waits(queue))
                    .map(|(queue, _)| queue.0),
            )
            .collect()
    }

    fn end(&mut self, fingerprint: &Fingerprint) {
        let Some(entry) = self.directory.get(fingerprint).cloned() else {
            return;
        };
        let who = Who {
            fingerprint: *fingerprint,
            session: entry.session,
        };
        for namespace in self.places_of(fingerprint) {
            self.withdraw(namespace, who, entry.place.0);
            self.leave(namespace, fingerprint, None);
        }
        self.directory.remove(fingerprint);
    }

    /// Puts a member in, in its old place if it was there, and announces it.
    fn enter(&mut self, namespace: NamespaceId, seat: Seat, terms: Option<RoomTerms>) -> u64 {
        let space = self.spaces.entry(namespace).or_insert(Space {
            version: 0,
            room: terms,
            seats: Vec::new(),
        });
        let before = places(&space.seats);
        match space
            .seats
            .iter_mut()
            .find(|other| other.info.fingerprint == seat.info.fingerprint)
        {
            Some(old) => *old = seat.clone(),
            None => space.seats.push(seat.clone()),
        }
        let room = space.room;
        self.announce(namespace, before, Happened::Joined(seat, room))
    }

    /// Tells the nodes that have members before or after.
    fn announce(&mut self, namespace: NamespaceId, mut to: BTreeSet<Place>, change: Happened) -> u64 {
        self.versions += 1;
        let version = self.versions;
        self.log.entry(namespace).or_default().push((version, change.clone()));
        if let Some(space) = self.spaces.get_mut(&namespace) {
            space.version = version;
            to.extend(places(&space.seats));
        }
        for place in to {
            let change = change.clone();
            self.tell(
                place,
                Told::Changed {
                    namespace,
                    version,
                    change,
                },
            );
        }
        version
    }

    fn leave(&mut self, namespace: NamespaceId, fingerprint: &Fingerprint, kicked_by: Option<Fingerprint>) -> bool {
        let Some(space) = self.spaces.get_mut(&namespace) else {
            return false;
        };
        let Some(at) = space
            .seats
            .iter()
            .position(|seat| seat.info.fingerprint == *fingerprint)
        else {
            return false;
        };
        let before = places(&space.seats);
        let seat = space.seats.remove(at);
        if space.seats.is_empty() {
            self.spaces.remove(&namespace);
        }
        let who = Who {
            fingerprint: *fingerprint,
            session: seat.session,
        };
        let place = seat.place;
        self.announce(namespace, before, Happened::Left { place, who, kicked_by });
        true
    }

    fn withdraw(&mut self, namespace: NamespaceId, who: Who, node: NodeId) {
        self.queues.retain(|(at, _, _), queue| {
            queue.retain(|ticket| *at != namespace || ticket.who != who || ticket.place.0 != node);
            !queue.is_empty()
        });
    }

    fn is_full(&self, namespace: NamespaceId, members_max: u32) -> bool {
        self.spaces
            .get(&namespace)
            .is_some_and(|space| space.seats.len() >= space.room.map_or(members_max, |terms| terms.max_size) as usize)
    }

    fn join(
        &mut self,
        namespace: NamespaceId,
        seat: Seat,
        room: bool,
        members_max: u32,
        refuse: Option<Refusal>,
    ) -> Result<u64, Refusal> {
        let space = self.spaces.get(&namespace);
        if room && space.is_none_or(|space| space.room.is_none()) {
            return Err(Refusal::RoomNotFound);
        }
        let is_in = |other: &Seat| other.info.fingerprint == seat.info.fingerprint;
        if space.is_some_and(|space| space.seats.iter().any(is_in)) {
            return Ok(self.enter(namespace, seat, None));
        }
        if self.is_full(namespace, members_max) {
            return Err(if room {
                Refusal::RoomFull
            } else {
                Refusal::NamespaceFull
            });
        }
        match refuse {
            Some(refusal) => Err(refusal),
            None => Ok(self.enter(namespace, seat, None)),
        }
    }

    fn rejoin(&mut self, namespace: NamespaceId, seat: Seat, terms: Option<RoomTerms>, members_max: u32) -> Reply {
        let node = seat.place.0;
        let space = self.spaces.get_mut(&namespace);
        // Others made it again: a room's owner never changes, so to this node it is another room.
        if let (Some(told), Some(now)) = (terms, space.as_ref().and_then(|space| space.room))
            && told.owner != now.owner
        {
            return Reply::Refused(Refusal::RoomNotFound);
        }
        let is_room = space.as_ref().is_some_and(|space| space.room.is_some());
        if let Some(space) = space {
            let version = space.version;
            let before = places(&space.seats);
            let old = space
                .seats
                .iter_mut()
                .find(|other| other.info.fingerprint == seat.info.fingerprint);
            if let Some(old) = old {
                let same = old.place == seat.place && old.session == seat.session;
                let version = match (same, old.info == seat.info) {
                    (true, true) => version,
                    (true, false) => {
                        old.info = seat.info.clone();
                        self.announce(namespace, before, Happened::Shown(seat))
                    }
                    (false, _) => self.enter(namespace, seat, None),
                };
                return Reply::Joined { version, roster: None };
            }
        }
        if let Some(terms) = terms.filter(|_| !is_room) {
            if self.spaces.contains_key(&namespace) || !self.rebuilding.contains(&node) {
                return Reply::Refused(Refusal::RoomNotFound);
            }
            return Reply::Joined {
                version: self.enter(namespace, seat, Some(terms)),
                roster: None,
            };
        }
        if self.is_full(namespace, members_max) {
            return Reply::Refused(if terms.is_some() {
                Refusal::RoomFull
            } else {
                Refusal::NamespaceFull
            });
        }
        Reply::Joined {
            version: self.enter(namespace, seat, None),
            roster: None,
        }
    }

    fn kick(&mut self, who: &Who, namespace: NamespaceId, target: Option<&Fingerprint>) -> Reply {
        let Some(terms) = self.spaces.get(&namespace).and_then(|space| space.room) else {
            return Reply::Refused(Refusal::RoomNotFound);
        };
        if terms.owner != who.fingerprint {
            return Reply::Refused(Refusal::NotRoomOwner);
        }
        let Some(target) = target else {
            return Reply::Refused(Refusal::PeerNotFound);
        };
        if !self.leave(namespace, target, Some(who.fingerprint)) {
            return Reply::Refused(Refusal::PeerNotFound);
        }
        self.queues.retain(|(at, _, _), queue| {
            queue.retain(|ticket| *at != namespace || ticket.who.fingerprint != *target);
            !queue.is_empty()
        });
        Reply::Done
    }

    fn show(&mut self, place: Place, who: Who, namespace: NamespaceId, info: &Arc<PeerInfo>) {
        for ticket in self
            .queues
            .iter_mut()
            .filter(|(at, _)| at.0 == namespace)
            .flat_map(|(_, queue)| queue)
        {
            if ticket.place == place && ticket.who == who {
                ticket.info = info.clone();
            }
        }
        let Some(space) = self.spaces.get_mut(&namespace) else {
            return;
        };
        let before = places(&space.seats);
        let is_it = |seat: &&mut Seat| {
            seat.info.fingerprint == who.fingerprint && seat.session == who.session && seat.place == place
        };
        if let Some(seat) = space.seats.iter_mut().find(is_it) {
            seat.info = info.clone();
            let seat = seat.clone();
            self.announce(namespace, before, Happened::Shown(seat));
        }
    }

    fn find_match(&mut self, place: Place, what: &What) -> Reply {
        let What::Match {
            who,
            namespace,
            name,
            info,
            group_size,
            criteria,
            ticket,
            refuse,
            resumed,
        } = what
        else {
            return Reply::Done;
        };
        let is_it = |old: &Ticket| old.place == place && old.who == *who && old.number == *ticket;
        if *resumed
            && self
                .queues
                .iter()
                .any(|(at, queue)| at.0 == *namespace && queue.iter().any(is_it))
        {
            return Reply::Waiting;
        }
        let met = self.met.get(&(place.0, *ticket));
        if let Some(met) = met.filter(|met| *resumed && met.until > self.now_ms) {
            let missed = self.missed.get(&place).into_iter().flatten();
            let missed = missed.into_iter().any(|missed| missed.contains(&met.at));
            return match met.epoch == place.1 && !missed {
                true => Reply::Done,
                false => Reply::Refused(Refusal::BrokerUnavailable),
            };
        }
        self.withdraw(*namespace, *who, place.0);
        let key = (*namespace, *group_size, criteria.0);
        let mut queue = self.queues.remove(&key).unwrap_or_default();
        queue.retain(|ticket| !self.is_over(ticket.place));
        let own = Ticket {
            place,
            who: *who,
            info: info.clone(),
            number: *ticket,
        };
        if queue.len() + 1 < *group_size as usize {
            let reply = match refuse {
                Some(refusal) => Reply::Refused(*refusal),
                None => {
                    queue.push(own);
                    Reply::Waiting
                }
            };
            if !queue.is_empty() {
                self.queues.insert(key, queue);
            }
            return reply;
        }
        let rest = queue.split_off(*group_size as usize - 1);
        if !rest.is_empty() {
            self.queues.insert(key, rest);
        }
        queue.push(own);
        self.groups += 1;
        let session = self.groups.to_be_bytes();
        let peers = queue.iter().map(|ticket| ticket.info.clone()).collect();
        let matched = Arc::new(Matched {
            namespace: name.clone(),
            session,
            peers,
        });
        for Ticket { place, number, .. } in &queue {
            let met = Met {
                epoch: place.1,
                at: self.inboxes.get(place).map_or(0, Vec::len),
                until: self.now_ms + MET_MS,
            };
            self.met.insert((place.0, *number), met);
        }
        let group = queue
            .iter()
            .map(|ticket| (ticket.place, ticket.who, ticket.number))
            .collect();
        self.committed.push((self.generation, group));
        for to in queue.iter().map(|ticket| ticket.place).collect::<BTreeSet<Place>>() {
            let theirs = queue.iter().filter(|ticket| ticket.place == to);
            let members = theirs.map(|ticket| (ticket.who, ticket.number)).collect();
            let matched = matched.clone();
            self.tell(
                to,
                Told::Matched {
                    namespace: *namespace,
                    members,
                    matched,
                },
            );
        }
        Reply::Done
    }

    fn roster(&self, namespace: NamespaceId, nodes: &Nodes) -> Roster {
        let Some(space) = self.spaces.get(&namespace) else {
            return Roster::default();
        };
        let member = |seat: &Seat| Member {
            node: number(nodes, seat.place),
            session: seat.session,
            info: seat.info.clone(),
        };
        let members = space.seats.iter().map(member).collect();
        Roster {
            version: space.version,
            room: space.room,
            members,
        }
    }
}

fn number(nodes: &Nodes, (node, epoch): Place) -> Option<peer_server::ids::NodeNo> {
    nodes.number(node, epoch).expect("few nodes")
}

fn places(seats: &[Seat]) -> BTreeSet<Place> {
    seats.iter().map(|seat| seat.place).collect()
}
