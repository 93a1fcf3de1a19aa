//! Checkers: what must be true of every client's history, and of all shards together once everything is quiet.
//!
//! Owns: each connection's view of the namespaces that it is in, the ledger of messages, matches and kicks, and the rules.
//! Never: predicts who wins a race; it only knows what no race may do.

use std::collections::{BTreeMap, BTreeSet};

use peer_server::message::Refusal;

use crate::model::{Seen, Shown};
use crate::workload::{Req, To};

/// One client's view of a namespace that it is in.
#[derive(Debug)]
pub(crate) struct View {
    /// Which stay it is: never used twice.
    pub(crate) stay: u64,
    /// The next message's id when the stay began.
    since: u64,
    /// Keys of the members, and which connection of each.
    pub(crate) members: BTreeMap<usize, usize>,
}

/// What one connection saw.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    pub(crate) alias: Option<String>,
    pub(crate) views: BTreeMap<usize, View>,
    /// Where it waits for a match, as far as it was told.
    pub(crate) tickets: BTreeSet<usize>,
    /// The last message from each key: ids ascend in sending order.
    last_from: BTreeMap<usize, u64>,
    /// Keys of whom something is held back until a join is answered.
    pub(crate) held_from: BTreeSet<usize>,
    /// The newest connection seen of each key.
    newest: BTreeMap<usize, usize>,
    /// How often it was told of each (connection, namespace).
    joined: BTreeMap<(usize, usize), u32>,
    refused: u32,
    /// Refusals that answer a kick, or are a direct message's.
    refused_or_kick: u32,
    sums: Vec<u32>,
}

/// The request that a connection waits for.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) request: Req,
    pub(crate) answered: bool,
}

/// What became of a direct message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its alias is being looked up.
    Resolving,
    UnderWay,
    Held,
    Delivered,
    Refused(Refusal),
}

/// A message that a client sent.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) from: usize,
    pub(crate) from_key: usize,
    /// The sender's namespaces when it was routed.
    pub(crate) shares: Vec<usize>,
    pub(crate) about: Option<usize>,
    pub(crate) fate: Fate,
    pub(crate) to: Option<usize>,
    pub(crate) fan_out: Option<FanOut>,
}

/// What became of a broadcast.
#[derive(Debug, Default)]
pub(crate) struct FanOut {
    pub(crate) name: usize,
    pub(crate) exclude: Vec<To>,
    /// Connections that must get it, each with its stay in the namespace, unless that ends.
    pub(crate) expected: Vec<(usize, u64)>,
    pub(crate) got: BTreeSet<usize>,
    pub(crate) refused_by: BTreeSet<usize>,
    /// Connections for which it was held back until a join was answered.
    pub(crate) held_for: BTreeSet<usize>,
    pub(crate) unsent: BTreeSet<usize>,
    /// What its sender must be told in all.
    pub(crate) refused: u32,
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
    /// By id; those of earlier rounds are forgotten.
    pub(crate) messages: BTreeMap<u64, Message>,
    pub(crate) next_id: u64,
    stays: u64,
    /// Join requests by (connection, namespace).
    joins: BTreeMap<(usize, usize), u32>,
    /// Keys that asked for a room of this name.
    creators: BTreeSet<(usize, usize)>,
    /// Kicks asked for, by (owner, name, target), and those carried out.
    kicks: BTreeMap<(usize, usize, usize), (u32, u32)>,
    kick_targets: BTreeSet<(usize, usize)>,
    /// Match requests by (connection, namespace), and how many were met.
    match_requests: BTreeMap<(usize, usize), Vec<(u32, u8)>>,
    matched: BTreeMap<(usize, usize), usize>,
    matches: BTreeMap<[u8; 16], Match>,
}

impl History {
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
            Req::Kick { name, target } => {
                if let Some(target) = target {
                    self.kicks.entry((me.key, *name, *target)).or_default().0 += 1;
                    self.kick_targets.insert((*name, *target));
                }
            }
            Req::Match { name, size, criteria } => {
                let requests = self.match_requests.entry((me.serial, *name)).or_default();
                requests.push((*size, *criteria));
            }
            Req::Discover(_) | Req::Info(_) | Req::Metadata(_) | Req::Direct { .. } | Req::Broadcast { .. } => {}
        }
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
            Seen::NotRegistered(_) | Seen::Closed(_) => {}
            Seen::List { name, peers, total } => self.on_list(me, witness, wait, *name, peers, *total),
            Seen::Joined { name, peer } => self.on_joined(me, witness, *name, peer),
            Seen::Left { name, key } => {
                assert_ne!(*key, me.key, "nobody is told of itself");
                let view = witness.views.get_mut(name).expect("peer_left outside of the namespace");
                view.members.remove(key).expect("peer_left of nobody");
            }
            Seen::Created { name, owner, .. } => {
                assert!(matches!(answers(wait), Some(Req::Create { name: asked, .. }) if asked == name));
                assert_eq!(*owner, me.key);
                assert!(
                    !witness.views.contains_key(name),
                    "created while a member of its namesake"
                );
                self.enter(me, witness, *name, BTreeMap::from([(me.key, me.serial)]));
            }
            Seen::Described {
                name,
                count,
                max,
                owner,
            } => {
                assert!(matches!(answers(wait), Some(Req::Info(asked)) if asked == name));
                assert!(count <= max, "a room above its size");
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
            Seen::Refused(refusal) => on_refused(witness, wait, *refusal),
            Seen::Direct { id, from, about } => self.on_direct(me, witness, *id, *from, *about),
            Seen::Broadcast { id, from, name } => self.on_broadcast(me, witness, *id, *from, *name),
        }
    }

    fn enter(&mut self, me: Me, witness: &mut Witness, name: usize, members: BTreeMap<usize, usize>) {
        for (key, serial) in &members {
            learn(witness, *key, *serial);
        }
        assert_eq!(members.get(&me.key), Some(&me.serial), "a joiner is in its own list");
        self.stays += 1;
        let fresh = View {
            stay: self.stays,
            since: self.next_id,
            members: BTreeMap::new(),
        };
        witness.views.entry(name).or_insert(fresh).members = members;
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
                if let Some(view) = witness.views.get(&name) {
                    assert_eq!(view.members, members, "joining again shows what presence said before");
                }
                self.enter(me, witness, name, members);
            }
            Some(Req::Discover(asked)) if *asked == name => {
                members.iter().for_each(|(key, serial)| learn(witness, *key, *serial));
            }
            other => panic!("a peer list answers {other:?}"),
        }
    }

    fn on_joined(&mut self, me: Me, witness: &mut Witness, name: usize, peer: &Shown) {
        assert_ne!(peer.key, me.key, "nobody is told of itself");
        learn(witness, peer.key, peer.serial);
        let told = witness.joined.entry((peer.serial, name)).or_default();
        *told += 1;
        assert!(
            Some(&*told) <= self.joins.get(&(peer.serial, name)),
            "more peer_joined than joins"
        );
        let view = witness
            .views
            .get_mut(&name)
            .expect("peer_joined outside of the namespace");
        let before = view.members.insert(peer.key, peer.serial);
        assert!(
            before.is_none_or(|before| before == peer.serial),
            "a session followed another without peer_left"
        );
    }

    fn on_matched(&mut self, me: Me, witness: &mut Witness, name: usize, session: [u8; 16], peers: &[Shown]) {
        witness.tickets.remove(&name);
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

    fn on_direct(&mut self, me: Me, witness: &mut Witness, id: u64, from: usize, about: Option<usize>) {
        let message = self.messages.get_mut(&id).expect("a message that nobody sent");
        assert!(
            message.fan_out.is_none() && message.from_key == from,
            "a forged message"
        );
        assert_eq!(message.to, Some(me.key), "a message for somebody else");
        assert!(
            matches!(message.fate, Fate::UnderWay | Fate::Held),
            "delivered after {:?}",
            message.fate
        );
        let held = std::mem::replace(&mut message.fate, Fate::Delivered) == Fate::Held;
        let both = |name: &usize| message.shares.contains(name) && witness.views.contains_key(name);
        assert_eq!(
            about,
            message.about.filter(|name| both(name)),
            "a namespace is named to its members only"
        );
        in_order(witness, id, message, held);
        let message = &self.messages[&id];
        let reason = message
            .shares
            .iter()
            .any(|name| self.reaches(witness, id, message, *name, held));
        assert!(
            reason,
            "a message {id} through no namespace that the receiver knows its sender in"
        );
    }

    fn on_broadcast(&mut self, me: Me, witness: &mut Witness, id: u64, from: usize, name: usize) {
        let message = self.messages.get_mut(&id).expect("a broadcast that nobody sent");
        assert_eq!(message.from_key, from, "a forged broadcast");
        let fan_out = message.fan_out.as_mut().expect("a direct message came as a broadcast");
        let held = fan_out.held_for.contains(&me.serial);
        assert_eq!(fan_out.name, name);
        assert_ne!(from, me.key, "a broadcast to its sender");
        assert!(
            !fan_out.exclude.contains(&To::Key(me.key)),
            "delivered to an excluded peer"
        );
        assert!(
            !fan_out.refused_by.contains(&me.serial),
            "delivered and counted as refused"
        );
        assert!(fan_out.got.insert(me.serial), "a broadcast delivered twice");
        let message = &self.messages[&id];
        in_order(witness, id, message, held);
        assert!(
            self.reaches(witness, id, message, name, held),
            "a broadcast from nobody that is known there"
        );
    }

    /// Whether the receiver knows the sender as a member of that namespace: it was told that the sender came, and not yet
    /// that it went.
    fn reaches(&self, witness: &Witness, id: u64, message: &Message, name: usize, held: bool) -> bool {
        let Some(view) = witness.views.get(&name) else {
            return false;
        };
        view.members.get(&message.from_key) == Some(&message.from)
            // Sent while the receiver's join was under way, by somebody who was gone when the home admitted the receiver.
            || held && id < view.since
            // The kicked peer's loop hears of the kick later than the others' may.
            || self.kick_targets.contains(&(name, message.from_key))
    }

    /// The rules that hold once everything is quiet. `alive` gives the witness of an open connection.
    pub(crate) fn check_quiet(&mut self, open: &mut BTreeMap<usize, Account<'_>>) {
        let mut refused: BTreeMap<usize, u32> = BTreeMap::new();
        let mut sums: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (id, message) in &self.messages {
            let Some(fan_out) = &message.fan_out else {
                match message.fate {
                    Fate::Delivered => {}
                    Fate::Refused(_) | Fate::Held => *refused.entry(message.from).or_default() += 1,
                    Fate::Resolving => assert!(!open.contains_key(&message.from), "message {id} was forgotten"),
                    Fate::UnderWay => panic!("message {id} was lost"),
                }
                continue;
            };
            if fan_out.refused > 0 {
                sums.entry(message.from).or_default().push(fan_out.refused);
            }
            self.check_fan_out(*id, message, fan_out, open);
        }
        for (serial, account) in open.iter_mut() {
            let witness = &mut *account.witness;
            let expected = refused.remove(serial).unwrap_or(0);
            let certain = witness.refused;
            assert!(
                (certain..=certain + witness.refused_or_kick).contains(&expected),
                "connection {serial} was told of {certain} refusals (and {} perhaps), not of {expected}",
                witness.refused_or_kick
            );
            let mut expected = sums.remove(serial).unwrap_or_default();
            expected.sort_unstable();
            witness.sums.sort_unstable();
            assert_eq!(witness.sums, expected, "sums told to connection {serial}");
            witness.sums.clear();
            (witness.refused, witness.refused_or_kick) = (0, 0);
        }
        for known in self.matches.values() {
            for peer in known.peers.iter().filter(|peer| open.contains_key(&peer.serial)) {
                assert!(
                    known.told.contains(&peer.serial),
                    "connection {} was not told of its match",
                    peer.serial
                );
            }
        }
        self.messages.clear();
        self.matches.clear();
    }

    fn check_fan_out(&self, id: u64, message: &Message, fan_out: &FanOut, open: &BTreeMap<usize, Account<'_>>) {
        let excluded = |account: &Account<'_>| {
            let alias = account.held_alias.as_ref();
            alias.is_some_and(|alias| fan_out.exclude.contains(&To::Alias(alias.clone())))
        };
        for serial in &fan_out.got {
            assert!(
                !open.get(serial).is_some_and(excluded),
                "broadcast {id} delivered to an excluded alias"
            );
        }
        for (serial, stay) in &fan_out.expected {
            let Some(account) = open.get(serial) else { continue };
            let stayed = account
                .witness
                .views
                .get(&fan_out.name)
                .is_some_and(|view| view.stay == *stay);
            let excused = fan_out.refused_by.contains(serial) || fan_out.unsent.contains(&account.loop_index);
            assert!(
                !stayed || excused || excluded(account) || fan_out.got.contains(serial),
                "broadcast {id} of {} never reached {serial}",
                message.from
            );
        }
    }
}

/// An open connection when everything is quiet.
pub(crate) struct Account<'a> {
    pub(crate) witness: &'a mut Witness,
    pub(crate) loop_index: usize,
    pub(crate) held_alias: Option<String>,
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

/// Somebody learns of a connection of a key: never of an older one again, and not while the older one seems to be there.
/// What is held of a sender, and what it did after that, comes behind the list that the answer brings: a list that shows
/// the sender's next session, if it was replaced meanwhile.
fn learn(witness: &mut Witness, key: usize, serial: usize) {
    if witness.held_from.contains(&key) {
        return;
    }
    let newest = witness.newest.entry(key).or_default();
    assert!(serial >= *newest, "an earlier session of a key appeared again");
    *newest = serial;
    for view in witness.views.values() {
        let known = view.members.get(&key);
        assert!(
            known.is_none_or(|known| *known == serial),
            "a new session was seen before the old one left"
        );
    }
}

fn in_order(witness: &mut Witness, id: u64, message: &Message, held: bool) {
    let before = witness.last_from.insert(message.from_key, id);
    assert!(
        before.is_none_or(|before| before < id),
        "message {id} after {before:?} of the same sender"
    );
    assert!(!held || witness.held_from.contains(&message.from_key));
    learn(witness, message.from_key, message.from);
}

fn on_refused(witness: &mut Witness, wait: &mut Option<Wait>, refusal: Refusal) {
    let is_traffics = matches!(
        refusal,
        Refusal::NoSharedNamespace | Refusal::PeerNotFound | Refusal::PeerBufferFull | Refusal::SendBufferFullFor(_)
    );
    if let Some(wait) = wait.as_mut().filter(|wait| !wait.answered) {
        let kick = matches!(wait.request, Req::Kick { .. });
        if kick && refusal == Refusal::PeerNotFound {
            witness.refused_or_kick += 1;
            return;
        }
        if may_be_answer(&wait.request, refusal) {
            wait.answered = true;
            if let (Req::Match { name, .. }, Refusal::ServerFull) = (&wait.request, refusal) {
                // The home took the earlier request back before it refused the new one.
                witness.tickets.remove(name);
            }
            return;
        }
        // Requests that may end without an event of their own.
        let silent = matches!(
            wait.request,
            Req::Leave(_) | Req::Kick { .. } | Req::Match { .. } | Req::Direct { .. } | Req::Broadcast { .. }
        );
        assert!(silent, "{refusal:?} before the answer to {:?}", wait.request);
    }
    match refusal {
        Refusal::SendBufferFullFor(count) => witness.sums.push(count),
        // The shell says so at once, and nobody waits for it.
        Refusal::RateLimited | Refusal::NotInNamespace => {}
        _ => {
            assert!(is_traffics, "{refusal:?} answers nothing");
            witness.refused += 1;
        }
    }
}

fn may_be_answer(request: &Req, refusal: Refusal) -> bool {
    use Refusal as R;
    match request {
        Req::Join { .. } => matches!(refusal, R::NamespaceFull | R::TooManyNamespaces | R::MetadataTooLarge),
        Req::JoinRoom(_) => matches!(refusal, R::RoomNotFound | R::RoomFull | R::TooManyNamespaces),
        Req::Create { .. } => matches!(refusal, R::RoomExists | R::TooManyNamespaces | R::ServerFull),
        Req::Discover(_) => matches!(refusal, R::RoomNotDiscoverable),
        Req::Match { .. } => matches!(refusal, R::ServerFull | R::TooManyNamespaces | R::MetadataTooLarge),
        Req::Info(_) => matches!(refusal, R::RoomNotFound),
        Req::Kick { .. } => matches!(refusal, R::RoomNotFound | R::NotRoomOwner),
        Req::Metadata(_) => matches!(refusal, R::MetadataTooLarge),
        Req::Leave(_) | Req::Direct { .. } | Req::Broadcast { .. } => false,
    }
}
