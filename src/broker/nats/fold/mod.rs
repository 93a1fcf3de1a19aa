//! The state that the log describes: every node that reads the same entries has the same.
//!
//! An entry is a request, and what becomes of it is decided here, at its place in the log: nobody has to agree with
//! anybody, and whatever an entry touches changes in one step. Time is the log's too: that of the broker at each entry.
//!
//! Owns: leases, the directory and aliases, and who is asked about the rest (`spaces`, `queues`).
//! Never: knows where entries come from; looks at a clock; lets the order of a hash table reach anything that is told.

mod queues;
mod snapshot;
mod spaces;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use compact_str::CompactString;

use super::entry::{Act, Entry};
use crate::broker::{Epoch, LEASE, NodeId, STANDSTILL_MAX};
use crate::ids::{CommandId, Fingerprint, NamespaceId, NodeNo, SessionId};
use crate::message::cluster::{Event, Reply, What, Who};
use queues::{QueueKey, Ticket};
use spaces::Space;

/// A node in an epoch.
pub(super) type Home = (NodeId, Epoch);

/// Tickets that were met and are remembered, of one session.
const MET_MAX: usize = 16;

/// A lease by its number, which counts all that were ever taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place(u64);

/// Who looks on: what is told is told to this node.
pub(super) struct Eye<'a> {
    /// This node in its present epoch.
    pub(super) own: Option<Home>,
    /// The numbers of nodes.
    pub(super) number: &'a dyn Fn(Home) -> Option<NodeNo>,
    /// What was told by entries after the first and up to the second has not come to it.
    pub(super) missed: (u64, u64),
}

/// What became of an entry, for its author.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The lease was taken; nobody ever took one before if `first`.
    Taken { epoch: Epoch, first: bool },
    /// The lease was renewed, or given back.
    Renewed,
    /// The author's lease has run out.
    Lapsed,
    /// The command was run. The reply is for its author alone: nobody else gets one.
    Replied(Option<Reply>),
    /// It changed nothing: not a command, or one that came late, or after others that were lost.
    Void,
}

/// Everything.
#[derive(Debug, Default, PartialEq)]
pub(super) struct State {
    /// The last entry.
    sequence: u64,
    /// The broker's time at the last entry, in nanoseconds; never goes back.
    clock: u64,
    /// What the broker's time was set back by, all in all.
    set_back: u64,
    /// The version of the last entry: rises with each, by the clock, so that it goes on rising if the broker loses its data.
    version: u64,
    /// Leases that were ever taken.
    taken: u64,
    leases: BTreeMap<Place, Lease>,
    sessions: HashMap<Fingerprint, Session>,
    aliases: HashMap<CompactString, Fingerprint>,
    spaces: HashMap<NamespaceId, Space>,
    queues: HashMap<QueueKey, BTreeMap<u64, Ticket>>,
}

#[derive(Debug, PartialEq)]
struct Lease {
    home: Home,
    /// By the state's clock.
    renewed: u64,
    line: u64,
    /// Entries of the line.
    number: u64,
}

/// The session of a key.
#[derive(Debug, PartialEq)]
struct Session {
    id: SessionId,
    place: Place,
    alias: Option<CompactString>,
    /// Where it is a member, and which.
    member_of: BTreeMap<NamespaceId, u64>,
    /// Where it waits for a match, and which in the queue.
    waits_in: BTreeMap<NamespaceId, (QueueKey, u64)>,
    /// Tickets that were met, the last ones, and by which entry.
    met: Vec<(CommandId, u64)>,
}

impl State {
    /// The last entry that it has.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the node's lease in this epoch has not run out.
    pub(super) fn is_alive(&self, home: Home) -> bool {
        self.place(home).is_some()
    }

    /// Nodes that are alive, and sessions on them.
    pub(super) fn census(&self) -> (usize, usize) {
        (self.leases.len(), self.sessions.len())
    }

    /// The alive node that is first by name: it does what one has to do for all.
    pub(super) fn first_node(&self) -> Option<NodeId> {
        self.leases.values().map(|lease| lease.home.0).min()
    }

    /// One more entry, the one after [`State::sequence`], which came to the broker at `time` nanoseconds since 1970. What
    /// cannot be read is None: it only takes its place.
    pub(super) fn apply(
        &mut self,
        sequence: u64,
        time: u64,
        entry: Option<&Entry>,
        eye: &Eye<'_>,
        out: &mut Vec<Event>,
    ) -> Outcome {
        self.sequence = sequence;
        self.tick(time);
        self.lapse(eye, out);
        match entry {
            None | Some(Entry::Snapshot(_)) => Outcome::Void,
            Some(Entry::Take { node, above, .. }) => self.take(*node, *above, eye, out),
            Some(Entry::Renew { node, epoch, .. }) => self.renew((*node, *epoch)),
            Some(Entry::Release { node, epoch, .. }) => match self.place((*node, *epoch)) {
                Some(place) => {
                    self.bury(place, eye, out);
                    Outcome::Renewed
                }
                None => Outcome::Lapsed,
            },
            Some(Entry::Act(act)) => self.act(act, eye, out),
        }
    }

    /// Time goes on. A broker's clock that was set back is made up for: leases must run out all the same.
    fn tick(&mut self, time: u64) {
        let now = time.saturating_add(self.set_back);
        if now < self.clock {
            self.set_back += self.clock - now;
        }
        // Nobody said anything for a whole lease: it was not a node that was lost, but the broker stood still, or nobody
        // reached it. Then all have another lease's length in which to come back.
        let silence = now.saturating_sub(self.clock);
        if silence > LEASE.as_nanos() as u64 && silence <= STANDSTILL_MAX.as_nanos() as u64 {
            self.leases.values_mut().for_each(|lease| lease.renewed = now);
        }
        self.clock = self.clock.max(now);
        self.version = self.clock.max(self.version + 1);
    }

    fn lapse(&mut self, eye: &Eye<'_>, out: &mut Vec<Event>) {
        let length = LEASE.as_nanos() as u64;
        let clock = self.clock;
        let over = |lease: &Lease| clock.saturating_sub(lease.renewed) > length;
        while let Some(place) = self
            .leases
            .iter()
            .find(|(_, lease)| over(lease))
            .map(|(place, _)| *place)
        {
            self.bury(place, eye, out);
        }
    }

    /// The epoch of the node's lease, if that has not run out.
    pub(super) fn epoch_of(&self, node: NodeId) -> Option<Epoch> {
        let mut homes = self.leases.values().map(|lease| lease.home);
        homes.find(|(of, _)| *of == node).map(|(_, epoch)| epoch)
    }

    fn place(&self, home: Home) -> Option<Place> {
        let mut leases = self.leases.iter();
        leases.find(|(_, lease)| lease.home == home).map(|(place, _)| *place)
    }

    /// Where the onlooker is.
    fn own(&self, eye: &Eye<'_>) -> Option<Place> {
        self.place(eye.own?)
    }

    fn home(&self, place: Place) -> Option<Home> {
        self.leases.get(&place).map(|lease| lease.home)
    }

    /// The number of a place; None: the onlooker's own.
    fn node(&self, place: Place, eye: &Eye<'_>) -> Option<NodeNo> {
        let home = self.home(place)?;
        match Some(home) == eye.own {
            true => None,
            false => (eye.number)(home),
        }
    }

    fn take(&mut self, node: NodeId, above: Epoch, eye: &Eye<'_>, out: &mut Vec<Event>) -> Outcome {
        let earlier = self.leases.iter().find(|(_, lease)| lease.home.0 == node);
        if let Some((place, epoch)) = earlier.map(|(place, lease)| (*place, lease.home.1)) {
            // It comes late, by a connection that its author gave up: the lease was taken by another since.
            if epoch > above {
                return Outcome::Void;
            }
            self.bury(place, eye, out);
        }
        let epoch = Epoch(self.version.max(above.0.saturating_add(1)));
        let first = self.taken == 0;
        self.taken += 1;
        let lease = Lease {
            home: (node, epoch),
            renewed: self.clock,
            line: 0,
            number: 0,
        };
        self.leases.insert(Place(self.taken), lease);
        Outcome::Taken { epoch, first }
    }

    fn renew(&mut self, home: Home) -> Outcome {
        let clock = self.clock;
        match self.leases.values_mut().find(|lease| lease.home == home) {
            Some(lease) => {
                lease.renewed = clock;
                Outcome::Renewed
            }
            None => Outcome::Lapsed,
        }
    }

    /// A lease is over: everything of its node goes, in one step and announced as one.
    fn bury(&mut self, place: Place, eye: &Eye<'_>, out: &mut Vec<Event>) {
        let Some(lease) = self.leases.remove(&place) else {
            return;
        };
        let of_it = |(_, session): &(&Fingerprint, &Session)| session.place == place;
        let gone: Vec<Fingerprint> = self.sessions.iter().filter(of_it).map(|(key, _)| *key).collect();
        for fingerprint in gone {
            let Some(session) = self.sessions.remove(&fingerprint) else {
                continue;
            };
            self.free_alias(&fingerprint, session.alias.as_ref());
            for (queue, number) in session.waits_in.values() {
                self.leave_queue(queue, *number);
            }
            for (namespace, number) in &session.member_of {
                self.drop_member(*namespace, *number);
            }
        }
        if eye.own.is_some_and(|own| own != lease.home)
            && let Some(node) = (eye.number)(lease.home)
        {
            out.push(Event::NodeGone(node));
        }
    }

    fn act(&mut self, act: &Act, eye: &Eye<'_>, out: &mut Vec<Event>) -> Outcome {
        let home = (act.node, act.epoch);
        let Some((&place, lease)) = self.leases.iter_mut().find(|(_, lease)| lease.home == home) else {
            return Outcome::Lapsed;
        };
        if act.line > lease.line {
            (lease.line, lease.number) = (act.line, 0);
        }
        if act.line < lease.line || act.number != lease.number.wrapping_add(1) {
            return Outcome::Void;
        }
        lease.number = act.number;
        let reply = self.run(place, act, eye, out);
        Outcome::Replied((eye.own == Some(home)).then_some(reply))
    }

    fn run(&mut self, place: Place, act: &Act, eye: &Eye<'_>, out: &mut Vec<Event>) -> Reply {
        match &act.what {
            What::Register { who, aliases } => {
                self.end(&who.fingerprint, Some(place), eye, out);
                Reply::Registered {
                    alias: self.put(who, place, aliases),
                }
            }
            What::Resume {
                who,
                alias,
                member_of,
                waits_in,
            } => self.resume(who, place, alias.as_ref(), [member_of, waits_in], eye, out),
            What::End { who } => {
                if self.is_here(who, place) {
                    self.end(&who.fingerprint, None, eye, out);
                }
                Reply::Done
            }
            What::Join { who, .. }
            | What::Rejoin { who, .. }
            | What::CreateRoom { who, .. }
            | What::Leave { who, .. }
            | What::Kick { who, .. }
            | What::Show { who, .. }
            | What::Match { who, .. } => match self.is_here(who, place) {
                true => self.run_in_space(who, act, eye, out),
                false => Reply::Stale,
            },
            What::Find { .. }
            | What::Resolve { .. }
            | What::List { .. }
            | What::Describe { .. }
            | What::Roster { .. } => self.read(&act.what, eye),
        }
    }

    /// Answers what changes nothing.
    pub(super) fn read(&self, what: &What, eye: &Eye<'_>) -> Reply {
        match what {
            What::Find { fingerprint } => {
                let session = self.sessions.get(fingerprint);
                Reply::Found(session.and_then(|session| self.node(session.place, eye)))
            }
            What::Resolve { alias } => Reply::Resolved(self.aliases.get(alias).copied()),
            What::List { namespace, limit } => self.list(*namespace, *limit),
            What::Describe { namespace } => self.describe(*namespace),
            What::Roster { namespace } => Reply::Roster(Box::new(self.roster(*namespace, eye))),
            _ => Reply::Stale,
        }
    }

    /// Whether the directory has this session at that place.
    fn is_here(&self, who: &Who, place: Place) -> bool {
        let session = self.sessions.get(&who.fingerprint);
        session.is_some_and(|session| session.id == who.session && session.place == place)
    }

    /// Puts a session into the directory, where its key has none. Which alias it got.
    fn put(&mut self, who: &Who, place: Place, aliases: &[CompactString]) -> Option<u8> {
        let free = aliases.iter().position(|alias| !self.aliases.contains_key(alias));
        let alias = free.and_then(|at| aliases.get(at)).cloned();
        if let Some(alias) = &alias {
            self.aliases.insert(alias.clone(), who.fingerprint);
        }
        let session = Session {
            id: who.session,
            place,
            alias,
            member_of: BTreeMap::new(),
            waits_in: BTreeMap::new(),
            met: Vec::new(),
        };
        self.sessions.insert(who.fingerprint, session);
        free.and_then(|at| u8::try_from(at).ok())
    }

    /// Ends whatever session the key has, with all that it holds; `taker` has the key from now on.
    fn end(&mut self, fingerprint: &Fingerprint, taker: Option<Place>, eye: &Eye<'_>, out: &mut Vec<Event>) {
        let Some(session) = self.sessions.get(fingerprint) else {
            return;
        };
        let (id, place) = (session.id, session.place);
        let waits_in: Vec<NamespaceId> = session.waits_in.keys().copied().collect();
        let member_of: Vec<NamespaceId> = session.member_of.keys().copied().collect();
        for namespace in waits_in {
            self.withdraw(fingerprint, namespace);
        }
        for namespace in member_of {
            self.remove_member(fingerprint, namespace, None, eye, out);
        }
        if let Some(session) = self.sessions.remove(fingerprint) {
            self.free_alias(fingerprint, session.alias.as_ref());
        }
        if taker.is_some_and(|taker| taker != place) && self.own(eye) == Some(place) {
            out.push(Event::Replaced(Who {
                fingerprint: *fingerprint,
                session: id,
            }));
        }
    }

    fn free_alias(&mut self, fingerprint: &Fingerprint, alias: Option<&CompactString>) {
        if let Some(alias) = alias
            && self.aliases.get(alias) == Some(fingerprint)
        {
            self.aliases.remove(alias);
        }
    }

    fn resume(
        &mut self,
        who: &Who,
        place: Place,
        alias: Option<&CompactString>,
        [member_of, waits_in]: [&[NamespaceId]; 2],
        eye: &Eye<'_>,
        out: &mut Vec<Event>,
    ) -> Reply {
        let fingerprint = &who.fingerprint;
        if self
            .sessions
            .get(fingerprint)
            .is_some_and(|session| session.place != place)
        {
            return Reply::Taken;
        }
        if !self.is_here(who, place) {
            // Another session of this node, which it must have ended: its end was lost.
            self.end(fingerprint, None, eye, out);
            let alias = self.put(who, place, alias.map(std::slice::from_ref).unwrap_or_default());
            return Reply::Registered { alias };
        }
        let Some(session) = self.sessions.get(fingerprint) else {
            return Reply::Stale;
        };
        let unnamed = |held: Vec<NamespaceId>, named: &[NamespaceId]| {
            let named: std::collections::HashSet<&NamespaceId> = named.iter().collect();
            let mut left = held;
            left.retain(|namespace| !named.contains(namespace));
            left
        };
        let waits_in = unnamed(session.waits_in.keys().copied().collect(), waits_in);
        let member_of = unnamed(session.member_of.keys().copied().collect(), member_of);
        let held = session.alias.clone();
        for namespace in waits_in {
            self.withdraw(fingerprint, namespace);
        }
        for namespace in member_of {
            self.remove_member(fingerprint, namespace, None, eye, out);
        }
        if held.as_ref() != alias {
            self.free_alias(fingerprint, held.as_ref());
            let free = alias.filter(|alias| !self.aliases.contains_key(*alias)).cloned();
            if let Some(alias) = &free {
                self.aliases.insert(alias.clone(), *fingerprint);
            }
            if let Some(session) = self.sessions.get_mut(fingerprint) {
                session.alias = free;
            }
        }
        let session = self.sessions.get(fingerprint);
        Reply::Registered {
            alias: session.and_then(|session| session.alias.as_ref()).map(|_| 0),
        }
    }
}
