//! After the broker was lost: every session is told to it again.
//!
//! Owns: how far that is, and the sessions that are being told.
//! Never: decides whether a session may go on; the broker does, and the homes of what the session is in.

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::{HashMap, HashSet};

use super::Asked as Command;
use super::sessions::Asked;
use crate::ids::{CommandId, Homes, NamespaceId, SessionId};
use crate::message::CLOSE_RESTART;
use crate::message::cluster::{Reply, What, Who};
use crate::shard::Shard;
use crate::shard::mail::Mail;
use crate::shard::output::Output;
use crate::shard::peers::PeerKey;

/// Sessions that are being told at a time.
const TELLING_MAX: usize = 128;

/// The sessions on their way back. The peers are gone through in the order of their places: who registers meanwhile may be
/// told once more, which changes nothing.
#[derive(Debug)]
pub(super) struct Resuming {
    /// Through since the broker came up.
    done: bool,
    /// The place from which on nobody was looked at.
    next: u32,
    telling: HashMap<SessionId, Telling, RandomState>,
    /// Sessions that wait for the answer to a request of before: it says what they are in.
    postponed: HashSet<SessionId, RandomState>,
    /// Sessions of earlier places that can be told now.
    again: VecDeque<(PeerKey, SessionId)>,
}

/// How far a session is.
#[derive(Debug)]
enum Telling {
    /// The directory is asked.
    Directory(CommandId),
    /// So many homes of what it is in have not answered, and whether one that did could not tell the broker.
    Homes(u32, bool),
}

impl Resuming {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            done: false,
            next: 0,
            telling: HashMap::with_hasher(homes.hasher()),
            postponed: HashSet::with_hasher(homes.hasher()),
            again: VecDeque::new(),
        }
    }

    /// Everything is to be told from the beginning. Answers that are still to come find nothing.
    pub(super) fn start(&mut self) {
        self.done = false;
        self.next = 0;
        self.telling.clear();
        self.postponed.clear();
        self.again.clear();
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// A session is over: nothing is awaited for it.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.telling.remove(&session);
        self.postponed.remove(&session);
    }

    /// Panics if the state does not agree with itself. Every command that is waited for is in `asked`.
    pub(super) fn check_invariants(&self, asked: impl Fn(&CommandId) -> bool) {
        let idle = self.telling.is_empty() && self.postponed.is_empty() && self.again.is_empty();
        assert!(idle || !self.done, "nothing is told when all is told");
        assert!(self.telling.len() <= TELLING_MAX);
        for telling in self.telling.values() {
            match telling {
                Telling::Directory(command) => assert!(asked(command), "the directory was asked"),
                Telling::Homes(outstanding, _) => assert!(*outstanding > 0, "some home is to answer"),
            }
        }
    }
}

impl Shard {
    /// Whether requests that need the broker may be made: it is there, and has been told of all sessions of this shard.
    pub(in crate::shard) fn cluster_ready(&self) -> bool {
        self.cluster
            .as_ref()
            .is_none_or(|cluster| cluster.up && cluster.sessions.resuming.is_done())
    }

    /// The broker is there: the ends that it has not heard of first, then every session.
    pub(super) fn resume_sessions(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            cluster.sessions.resuming.start();
        }
        self.tell_sessions();
    }

    pub(super) fn resume_more(&mut self) {
        while let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.up) {
            let sessions = &mut cluster.sessions;
            let resuming = &mut sessions.resuming;
            if resuming.done || !sessions.ends.is_empty() || resuming.telling.len() >= TELLING_MAX {
                return;
            }
            let next = match resuming.again.pop_front() {
                Some((key, session)) => Some((key, Some(session))),
                None => self.peers.first_from(resuming.next).map(|key| (key, None)),
            };
            match next {
                Some((key, session)) => {
                    if session.is_none() {
                        resuming.next = key.0 + 1;
                    }
                    self.resume_session(key, session);
                }
                None => {
                    resuming.next = u32::MAX;
                    resuming.done = resuming.telling.is_empty() && resuming.postponed.is_empty();
                    return;
                }
            }
        }
    }

    /// Tells the directory of the peer at this place, if it is still the same session.
    fn resume_session(&mut self, key: PeerKey, session: Option<SessionId>) {
        let Some(peer) = self.peers.get(key) else { return };
        if session.is_some_and(|session| session != peer.session) {
            return;
        }
        let who = Who {
            fingerprint: peer.fingerprint,
            session: peer.session,
        };
        if peer.waiting() {
            if let Some(cluster) = &mut self.cluster {
                cluster.sessions.resuming.postponed.insert(who.session);
            }
            return;
        }
        let alias = peer.alias_held.then(|| peer.info.alias.clone());
        let (members, tickets) = (peer.memberships.iter(), peer.memberships.iter());
        let members = members.filter(|held| held.is_member());
        let tickets = tickets.filter(|held| held.ticket);
        let what = What::Resume {
            who,
            alias,
            member_of: members.map(|held| held.namespace).collect(),
            waits_in: tickets.map(|held| held.namespace).collect(),
        };
        let command = self.command(Command::Session(who, Asked::Resume), what);
        if let Some(cluster) = &mut self.cluster {
            let telling = Telling::Directory(command);
            cluster.sessions.resuming.telling.insert(who.session, telling);
        }
    }

    /// A peer was answered that may have waited since before the broker was lost.
    pub(in crate::shard) fn resume_answered(&mut self, key: PeerKey) {
        let session = self.peers.get(key).map(|peer| peer.session);
        let (Some(cluster), Some(session)) = (&mut self.cluster, session) else {
            return;
        };
        if cluster.sessions.resuming.postponed.remove(&session) {
            cluster.sessions.resuming.again.push_back((key, session));
            self.resume_more();
        }
    }

    pub(super) fn on_resume_reply(&mut self, id: CommandId, who: Who, reply: &Reply) {
        let resuming = self.cluster.as_mut().map(|cluster| &mut cluster.sessions.resuming);
        let Some(resuming) = resuming else { return };
        if !matches!(resuming.telling.get(&who.session), Some(Telling::Directory(command)) if *command == id) {
            // The session is over, or it is told from the beginning.
            return;
        }
        resuming.telling.remove(&who.session);
        let Some(key) = self.peers.find_session(&who.fingerprint, who.session) else {
            return;
        };
        match reply {
            Reply::Registered { alias } => {
                let lost = |peer: &crate::shard::peers::Peer| peer.alias_held && alias.is_none();
                match self.peers.get(key).is_some_and(lost) {
                    true => self.evict(key, "alias lost"),
                    false => self.rejoin(who, key),
                }
            }
            Reply::Taken => self.lose_session(who, key),
            // Given up for want of room on the way: the broker is there, so it is tried again with the next sign of it.
            Reply::Lost => {
                if let Some(cluster) = &mut self.cluster {
                    cluster.sessions.resuming.again.push_back((key, who.session));
                }
            }
            _ => self.evict(key, "session lost"),
        }
    }

    /// The homes of all that a session is in are told again.
    fn rejoin(&mut self, who: Who, key: PeerKey) {
        let Some(peer) = self.peers.get(key) else { return };
        let held = peer.memberships.iter().filter(|held| held.is_member() || held.ticket);
        let held: Vec<(NamespaceId, bool, bool)> = held
            .map(|held| (held.namespace, held.is_member(), held.ticket))
            .collect();
        if held.is_empty() {
            return;
        }
        if let Some(cluster) = &mut self.cluster {
            let telling = Telling::Homes(held.len() as u32, false);
            cluster.sessions.resuming.telling.insert(who.session, telling);
        }
        for (namespace, member, ticket) in held {
            let Some(info) = self.info_in(key, namespace) else {
                continue;
            };
            let rejoin = Mail::Rejoin {
                who,
                loop_id: self.id,
                peer: key,
                namespace,
                info,
                member,
                ticket,
            };
            self.send(self.homes.of_namespace(namespace), rejoin);
        }
    }

    /// One of the namespaces of a session was told of it again, whatever came of that. What was `lost` is told once more:
    /// there was no room for it on the way to the broker.
    pub(in crate::shard) fn on_rejoined(&mut self, who: Who, lost: bool) {
        let key = self.peers.find_session(&who.fingerprint, who.session);
        let Some(cluster) = &mut self.cluster else { return };
        let resuming = &mut cluster.sessions.resuming;
        // One of an earlier turn may be counted for a later one. Requests are let through a little early then; at the home
        // they come behind this turn's mail all the same.
        if let Some(Telling::Homes(outstanding, any_lost)) = resuming.telling.get_mut(&who.session) {
            *outstanding -= 1;
            *any_lost |= lost;
            let again = key.filter(|_| *any_lost);
            if *outstanding == 0 {
                resuming.telling.remove(&who.session);
                resuming.again.extend(again.map(|key| (key, who.session)));
            }
        }
        self.tell_sessions();
    }

    /// A namespace could not take a session back, or has lost it.
    pub(in crate::shard) fn on_evicted(&mut self, who: Who, namespace: NamespaceId) {
        let has = |key: &PeerKey| {
            let held = self.peers.get(*key).and_then(|peer| peer.membership(namespace));
            held.is_some_and(|held| held.is_member() || held.ticket)
        };
        match self.peers.find_session(&who.fingerprint, who.session).filter(has) {
            Some(key) => self.evict(key, "membership lost"),
            None => self.counters.stale_mail += 1,
        }
    }

    /// Ends a session whose place in the cluster is lost: its client starts over.
    fn evict(&mut self, key: PeerKey, reason: &'static str) {
        if let Some(conn) = self.end_session(key) {
            self.permits.registered.release();
            let code = CLOSE_RESTART;
            self.outputs.push_back(Output::Close { conn, code, reason });
        }
    }
}

#[cfg(test)]
mod tests;
