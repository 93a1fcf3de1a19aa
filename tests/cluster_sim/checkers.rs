//! Checkers: what must be true of every client's history, whatever breaks.
//!
//! Owns: each connection's view of the namespaces that it is in, the ledger of messages, matches and kicks, and the rules.
//! Never: predicts who wins a race; it only knows what no race may do.

use std::collections::{BTreeMap, BTreeSet};

use peer_server::message::{CLOSE_REPLACED, Refusal};

use crate::sequential::{Seen, Shown};
use crate::workload::{Req, To};

/// One client's view of a namespace that it is in.
#[derive(Debug)]
pub(crate) struct View {
    /// Which stay it is: never used twice.
    pub(crate) stay: u64,
    /// Keys of the members, and which connection of each.
    pub(crate) members: BTreeMap<usize, usize>,
    /// Who came (with which connection) and went since the list, in order.
    pub(crate) told: Vec<(usize, Option<usize>)>,
}

/// What one connection saw.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    pub(crate) alias: Option<String>,
    pub(crate) views: BTreeMap<usize, View>,
    /// Where it waits for a match, as far as it was told.
    pub(crate) tickets: BTreeSet<usize>,
    /// The group sizes that it asked for, oldest first: those that waited when all was last quiet, and all since. One that it
    /// took back may have been met before.
    asked_sizes: BTreeMap<usize, Vec<u32>>,
    /// Where a request of it was answered 503: whether the earlier one was taken back is not known.
    pub(crate) uncertain: BTreeSet<usize>,
    /// Where its last request was met, and it was not told of that yet: with a broker that lost everything it may wait again.
    pub(crate) met: BTreeSet<usize>,
    /// The last direct message and broadcast of each connection: ids ascend in sending order.
    last_from: BTreeMap<(usize, bool), u64>,
    /// How often it was told of each (connection, namespace).
    joined: BTreeMap<(usize, usize), u32>,
    /// Refusals that answer nothing that was waited for.
    pub(crate) refused: u32,
    /// It was told that the broker is not to be had.
    unavailable: bool,
}

impl Witness {
    /// The broker may have met a request before it took the next one, and that be told after the next one waits.
    fn is_matched(&mut self, name: usize, size: u32) {
        let asked = self.asked_sizes.get(&name).map_or(&[][..], |sizes| sizes);
        let Some((last, earlier)) = asked.split_last() else {
            return;
        };
        match (*last == size, earlier.contains(&size)) {
            (true, true) => drop(self.uncertain.insert(name)),
            (true, false) => {
                self.tickets.remove(&name);
                self.asked_sizes.remove(&name);
                self.met.remove(&name);
            }
            (false, _) => {}
        }
    }
}

/// The request that a connection waits for.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) request: Req,
    pub(crate) answered: bool,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its alias is being looked up.
    Resolving,
    UnderWay,
    /// It waits for a join's answer, or for where its target is.
    Kept,
    Delivered,
    Refused,
}

/// A message that a client sent.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) from: usize,
    from_key: usize,
    pub(crate) fate: Fate,
    pub(crate) to: Option<usize>,
    /// The sender's namespaces when it was routed.
    pub(crate) shares: Vec<usize>,
    /// If it is a broadcast: where, and whom it leaves out.
    cast: Option<(usize, Vec<To>)>,
    /// Connections that must get the broadcast, each with its stay in the namespace, unless that ends.
    pub(crate) expected: Vec<(usize, u64)>,
    got: BTreeSet<usize>,
}

impl Message {
    pub(crate) fn new(from: usize, from_key: usize, cast: Option<(usize, Vec<To>)>) -> Self {
        let (expected, got, shares) = (Vec::new(), BTreeSet::new(), Vec::new());
        Self {
            from,
            from_key,
            fate: Fate::Resolving,
            to: None,
            shares,
            cast,
            expected,
            got,
        }
    }
}

#[derive(Debug)]
struct Match {
    name: usize,
    peers: Vec<Shown>,
    told: BTreeSet<usize>,
}

/// Who looks at an event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Me {
    pub(crate) serial: usize,
    pub(crate) key: usize,
}

/// What happened in the whole world.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) messages: BTreeMap<u64, Message>,
    pub(crate) next_id: u64,
    stays: u64,
    /// Nothing was ever broken: everything is exact.
    pub(crate) broken: bool,
    pub(crate) flushes: u64,
    /// Frames that were lost.
    pub(crate) losses: u64,
    joins: BTreeMap<(usize, usize), u32>,
    creators: BTreeSet<(usize, usize)>,
    kicks: BTreeMap<(usize, usize, usize), (u32, u32)>,
    match_requests: BTreeMap<(usize, usize), Vec<(u32, u8)>>,
    matched: BTreeMap<(usize, usize), usize>,
    matches: BTreeMap<[u8; 16], Match>,
    /// Requests that were answered, or carried out without an answer.
    pub(crate) answered: u64,
}

impl History {
    pub(crate) fn set_fate(&mut self, id: u64, fate: Fate) {
        let message = self
            .messages
            .get_mut(&id)
            .expect("a message is noted before it has a fate");
        assert!(
            matches!(message.fate, Fate::UnderWay | Fate::Kept | Fate::Resolving),
            "message {id} was {:?} and is {fate:?}",
            message.fate
        );
        message.fate = fate;
    }

    pub(crate) fn excluded(&self, id: u64) -> Vec<To> {
        self.messages[&id]
            .cast
            .as_ref()
            .map(|(_, exclude)| exclude.clone())
            .unwrap_or_default()
    }

    /// A request is handed to the shard of its connection.
    pub(crate) fn asked(&mut self, me: Me, witness: &mut Witness, request: &Req) {
        match request {
            Req::Join { name, .. } | Req::JoinRoom(name) => *self.joins.entry((me.serial, *name)).or_default() += 1,
            Req::Create { name, .. } => {
                *self.joins.entry((me.serial, *name)).or_default() += 1;
                self.creators.insert((me.key, *name));
            }
            Req::Leave(name) => {
                witness.views.remove(name);
                witness.tickets.remove(name);
            }
            Req::Kick {
                name,
                target: Some(target),
            } => {
                self.kicks.entry((me.key, *name, *target)).or_default().0 += 1;
            }
            Req::Match { name, size, criteria } => {
                witness.asked_sizes.entry(*name).or_default().push(*size);
                self.match_requests
                    .entry((me.serial, *name))
                    .or_default()
                    .push((*size, *criteria));
            }
            Req::Kick { .. }
            | Req::Discover(_)
            | Req::Info(_)
            | Req::Metadata(_)
            | Req::Direct { .. }
            | Req::Broadcast { .. } => {}
        }
    }

    /// A connection that waited goes on.
    pub(crate) fn resumed(&mut self, witness: &mut Witness, wait: &Wait) {
        self.answered += 1;
        if let Req::Match { name, .. } = wait.request
            && !wait.answered
        {
            witness.met.insert(name);
        }
        // A match that the request completes may be told before or after.
        let silent = matches!(
            wait.request,
            Req::Leave(_) | Req::Kick { .. } | Req::Match { .. } | Req::Direct { .. } | Req::Broadcast { .. }
        );
        assert!(silent || wait.answered, "{:?} ended without an answer", wait.request);
    }

    /// An event leaves for a client.
    pub(crate) fn observe(&mut self, me: Me, witness: &mut Witness, wait: &mut Option<Wait>, seen: &Seen) {
        let first = matches!(seen, Seen::Registered { .. } | Seen::NotRegistered(_));
        assert!(
            matches!(seen, Seen::Closed(_)) || first == witness.alias.is_none(),
            "`registered` is the first event and comes once"
        );
        match seen {
            Seen::Registered { alias } => witness.alias = Some(alias.clone()),
            Seen::NotRegistered(refusal) => {
                assert!(
                    self.broken && *refusal == Refusal::BrokerUnavailable,
                    "refused: {refusal:?}"
                );
            }
            Seen::Closed(code) => {
                assert!(
                    *code == CLOSE_REPLACED || self.broken,
                    "closed with {code} while nothing was broken"
                );
            }
            Seen::List { name, peers, total } => self.on_list(me, witness, wait, *name, peers, *total),
            Seen::Joined { name, peer } => self.on_joined(me, witness, *name, peer),
            Seen::Left { name, key } => {
                assert_ne!(*key, me.key, "nobody is told of itself");
                let view = witness.views.get_mut(name).expect("peer_left outside of the namespace");
                view.members.remove(key).expect("peer_left of nobody");
                view.told.push((*key, None));
            }
            Seen::Created { name, owner, .. } => {
                assert!(matches!(answers(wait), Some(Req::Create { name: asked, .. }) if asked == name));
                assert_eq!(*owner, me.key);
                self.enter(witness, *name, BTreeMap::from([(me.key, me.serial)]));
            }
            Seen::Described {
                name,
                count,
                max,
                owner,
            } => {
                assert!(matches!(answers(wait), Some(Req::Info(asked)) if asked == name));
                // A copy may show members twice over who went unnoticed while the broker was lost.
                assert!(self.broken || count <= max, "a room above its size");
                assert!(
                    self.creators.contains(&(*owner, *name)),
                    "an owner that never made the room"
                );
            }
            Seen::Kicked { name, owner } => {
                witness.views.remove(name).expect("kicked from where it is not");
                witness.tickets.remove(name);
                let kick = self
                    .kicks
                    .get_mut(&(*owner, *name, me.key))
                    .expect("kicked by somebody who did not ask");
                kick.1 += 1;
                assert!(kick.1 <= kick.0, "one kick put somebody out twice");
                assert!(
                    self.creators.contains(&(*owner, *name)),
                    "kicked by somebody who never made the room"
                );
            }
            Seen::Waiting => match answers(wait) {
                Some(Req::Match { name, .. }) => drop(witness.tickets.insert(*name)),
                other => panic!("waiting answers {other:?}"),
            },
            Seen::Matched { name, session, peers } => self.on_matched(me, witness, *name, *session, peers),
            Seen::Refused(refusal) => self.on_refused(witness, wait, *refusal),
            Seen::Direct { id, from, .. } => {
                let message = self.messages.get(id).expect("a message that nobody sent");
                assert!(message.cast.is_none() && message.from_key == *from, "a forged message");
                assert_eq!(message.to, Some(me.key), "a message for somebody else");
                let sharing = |name: &usize| witness.views.contains_key(name);
                assert!(
                    message.shares.iter().any(sharing),
                    "a message through no namespace of both"
                );
                in_order(witness, *id, message);
                self.set_fate(*id, Fate::Delivered);
            }
            Seen::Broadcast { id, from, name } => {
                let message = self.messages.get_mut(id).expect("a broadcast that nobody sent");
                assert_eq!(message.from_key, *from, "a forged broadcast");
                let (to, exclude) = message.cast.as_ref().expect("a direct message came as a broadcast");
                assert_eq!(to, name);
                assert_ne!(*from, me.key, "a broadcast to its sender");
                assert!(!exclude.contains(&To::Key(me.key)), "delivered to an excluded peer");
                assert!(witness.views.contains_key(name), "a broadcast outside of the namespace");
                assert!(message.got.insert(me.serial), "a broadcast delivered twice");
                let message = &self.messages[id];
                in_order(witness, *id, message);
            }
        }
    }

    fn enter(&mut self, witness: &mut Witness, name: usize, members: BTreeMap<usize, usize>) {
        // Who was put out or replaced before its answer sees a list without itself, and then hears of that; one who stays
        // must find itself there when all is quiet.
        self.stays += 1;
        let fresh = View {
            stay: self.stays,
            members: BTreeMap::new(),
            told: Vec::new(),
        };
        let view = witness.views.entry(name).or_insert(fresh);
        view.members = members;
        view.told.clear();
    }

    fn on_list(
        &mut self,
        me: Me,
        witness: &mut Witness,
        wait: &mut Option<Wait>,
        name: usize,
        peers: &[Shown],
        total: u32,
    ) {
        assert_eq!(peers.len(), total as usize, "these worlds fit into every list");
        let members: BTreeMap<usize, usize> = peers.iter().map(|peer| (peer.key, peer.serial)).collect();
        assert_eq!(members.len(), peers.len(), "a peer listed twice");
        match answers(wait) {
            Some(Req::Join { name: asked, .. } | Req::JoinRoom(asked)) if *asked == name => {
                // Who is not in its list was put out or replaced before its answer, and hears of that next.
                let view = witness.views.get(&name).filter(|_| members.contains_key(&me.key));
                if let Some(view) = view {
                    // It may have been out in between: that is not presence.
                    let mut before = view.members.clone();
                    before.insert(me.key, me.serial);
                    assert_eq!(before, members, "joining again shows what presence said before");
                }
                self.enter(witness, name, members);
            }
            Some(Req::Discover(asked)) if *asked == name => {}
            other => panic!("a peer list answers {other:?}"),
        }
    }

    fn on_joined(&mut self, me: Me, witness: &mut Witness, name: usize, peer: &Shown) {
        assert_ne!(peer.key, me.key, "nobody is told of itself");
        let told = witness.joined.entry((peer.serial, name)).or_default();
        *told += 1;
        assert!(
            self.broken || Some(&*told) <= self.joins.get(&(peer.serial, name)),
            "more peer_joined than joins"
        );
        let view = witness
            .views
            .get_mut(&name)
            .expect("peer_joined outside of the namespace");
        let before = view.members.insert(peer.key, peer.serial);
        view.told.push((peer.key, Some(peer.serial)));
        assert!(
            before.is_none_or(|before| before == peer.serial),
            "a session followed another without peer_left"
        );
    }

    fn on_matched(&mut self, me: Me, witness: &mut Witness, name: usize, session: [u8; 16], peers: &[Shown]) {
        witness.is_matched(name, peers.len() as u32);
        let count = self.matched.entry((me.serial, name)).or_default();
        *count += 1;
        let requests = self.match_requests.get(&(me.serial, name)).map_or(0, Vec::len);
        assert!(*count <= requests, "a request met twice");
        let size = peers.len() as u32;
        let known = self.matches.entry(session).or_insert_with(|| {
            let keys: BTreeSet<usize> = peers.iter().map(|peer| peer.key).collect();
            assert_eq!(keys.len(), peers.len(), "a peer matched with itself");
            let asked = |serial: usize, criteria: u8| {
                let requests = self.match_requests.get(&(serial, name));
                requests.is_some_and(|requests| requests.contains(&(size, criteria)))
            };
            let alike = |criteria: u8| peers.iter().all(|peer| asked(peer.serial, criteria));
            assert!((0..=1).any(alike), "a match of unlike requests");
            Match {
                name,
                peers: peers.to_vec(),
                told: BTreeSet::new(),
            }
        });
        assert_eq!((known.name, &known.peers[..]), (name, peers), "one match, two stories");
        assert!(
            peers.iter().any(|peer| peer.serial == me.serial),
            "told of somebody else's match"
        );
        assert!(known.told.insert(me.serial), "told of a match twice");
    }

    fn on_refused(&mut self, witness: &mut Witness, wait: &mut Option<Wait>, refusal: Refusal) {
        witness.unavailable |= refusal == Refusal::BrokerUnavailable;
        if let Some(wait) = wait.as_mut().filter(|wait| !wait.answered)
            && may_be_answer(&wait.request, refusal)
        {
            wait.answered = true;
            // A kick that is done has no answer, so this may be the word on a message as well.
            witness.refused += u32::from(matches!(wait.request, Req::Kick { .. }));
            if let Req::Match { name, .. } = &wait.request {
                witness.uncertain.insert(*name);
            }
            return;
        }
        let is_traffics = matches!(
            refusal,
            Refusal::NoSharedNamespace
                | Refusal::PeerNotFound
                | Refusal::PeerBufferFull
                | Refusal::NotInNamespace
                | Refusal::SendBufferFullFor(_)
                | Refusal::BrokerUnavailable
        );
        assert!(is_traffics, "{refusal:?} answers nothing");
        witness.refused += 1;
    }

    /// The rules that hold once everything is quiet. `open` gives the witness of each open connection.
    pub(crate) fn check_quiet(&mut self, open: &mut BTreeMap<usize, &mut Witness>) {
        let mut kept: BTreeMap<usize, u32> = BTreeMap::new();
        for (id, message) in &self.messages {
            if let Some((name, exclude)) = &message.cast {
                for (serial, stay) in &message.expected {
                    let Some(witness) = open.get(serial) else { continue };
                    let stayed = witness.views.get(name).is_some_and(|view| view.stay == *stay);
                    let excused = exclude.iter().any(|to| matches!(to, To::Alias(_))) || self.broken;
                    assert!(
                        !stayed || excused || message.got.contains(serial),
                        "broadcast {id} of {} never reached {serial}",
                        message.from
                    );
                }
                continue;
            }
            match message.fate {
                Fate::Delivered | Fate::Refused => {}
                Fate::Resolving => assert!(!open.contains_key(&message.from), "message {id} was forgotten"),
                Fate::Kept => *kept.entry(message.from).or_default() += 1,
                Fate::UnderWay => assert!(self.broken, "message {id} was lost"),
            }
        }
        for (serial, witness) in open.iter_mut() {
            let kept = kept.remove(serial).unwrap_or(0);
            assert!(
                self.broken || kept <= witness.refused,
                "connection {serial} was told of {} refusals, not of {kept}",
                witness.refused
            );
            // Only a session that another replaced may hear of that while nothing is broken, and then it is closed.
            assert!(
                self.broken || !witness.unavailable,
                "connection {serial} was told 503 while nothing was broken"
            );
            (witness.refused, witness.unavailable) = (0, false);
            let Witness {
                tickets, asked_sizes, ..
            } = &mut **witness;
            asked_sizes.retain(|name, sizes| {
                sizes.drain(..sizes.len() - 1);
                tickets.contains(name)
            });
        }
        for known in self.matches.values() {
            for peer in known.peers.iter().filter(|peer| open.contains_key(&peer.serial)) {
                assert!(
                    self.broken || known.told.contains(&peer.serial),
                    "connection {} was not told of its match",
                    peer.serial
                );
            }
        }
        self.messages.clear();
        self.matches.clear();
    }
}

/// The request that this event answers; it is answered from here on.
fn answers(wait: &mut Option<Wait>) -> Option<&Req> {
    let wait = wait.as_mut()?;
    assert!(
        !std::mem::replace(&mut wait.answered, true),
        "a second answer to {:?}",
        wait.request
    );
    Some(&wait.request)
}

fn in_order(witness: &mut Witness, id: u64, message: &Message) {
    // A broadcast may pass a direct message that waits for where its target is, and the other way round.
    let before = witness.last_from.insert((message.from, message.cast.is_some()), id);
    assert!(
        before.is_none_or(|before| before < id),
        "message {id} after {before:?} of the same sender"
    );
}

fn may_be_answer(request: &Req, refusal: Refusal) -> bool {
    use Refusal as R;
    if refusal == R::BrokerUnavailable {
        return true;
    }
    match request {
        Req::Join { .. } => matches!(refusal, R::NamespaceFull | R::TooManyNamespaces | R::MetadataTooLarge),
        Req::JoinRoom(_) => matches!(refusal, R::RoomNotFound | R::RoomFull | R::TooManyNamespaces),
        Req::Create { .. } => matches!(refusal, R::RoomExists | R::TooManyNamespaces | R::ServerFull),
        Req::Discover(_) => matches!(refusal, R::RoomNotDiscoverable),
        Req::Match { .. } => matches!(refusal, R::ServerFull | R::TooManyNamespaces | R::MetadataTooLarge),
        Req::Info(_) => matches!(refusal, R::RoomNotFound),
        Req::Kick { .. } => matches!(refusal, R::RoomNotFound | R::NotRoomOwner | R::PeerNotFound),
        Req::Metadata(_) => matches!(refusal, R::MetadataTooLarge),
        Req::Leave(_) | Req::Direct { .. } | Req::Broadcast { .. } => false,
    }
}
