//! The shard: all peer state of one event loop, as a state machine without IO.
//!
//! It is told what arrived (a registration, a request, mail from another shard, a closed connection) and says what must
//! leave. Signals and relays come back as a decision ([`Route`]), broadcasts as a list of targets; everything else is an
//! [`Output`], to be drained with [`Shard::poll_output`] after each input.
//!
//! Owns: peers, aliases, memberships, namespaces, rooms and match queues at home here, and the rules between them.
//! Never: owns a socket, reads a clock, locks, or knows a wire format.

mod aliases;
mod broadcast;
mod cluster;
pub mod desk;
mod holding;
mod inspect;
mod mail;
mod matchmaking;
mod membership;
mod namespaces;
mod output;
mod peers;
mod permits;
mod plain;
pub mod punch;
mod rate_limit;
mod registration;
mod requests;
mod rooms;
mod route;
mod words;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

pub use aliases::looks_like_fingerprint;
pub use broadcast::{Broadcast, OPEN_SUMS_MAX, SumId, Target};
pub use inspect::{NamespaceSnapshot, PeerSnapshot, Snapshot};
pub use mail::{Answer, Ask, Asker, Change, DirectMail, FanOutMail, LoopCount, Mail};
pub use matchmaking::GROUP_INFO_MAX;
pub use membership::{JOIN_META_MAX, NAMESPACES_MAX};
pub use namespaces::keep_largest;
pub use output::{Held, HeldKind, Output, Unresolved};
pub use peers::PeerKey;
pub use permits::{Count, Permits};
pub use plain::NOBODYS_SESSION;
pub use rate_limit::{Bucket, Rate};
pub use route::Route;

use crate::ids::{ConnId, Homes, LoopId};
use crate::message::{CLOSE_TRY_AGAIN, Event, Refusal};

/// The bounds that a shard keeps. Those marked so are the process's, the others this shard's or a peer's.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Registered peers (process).
    pub max_peers: usize,
    /// Rooms (process).
    pub max_rooms: usize,
    /// Waiting match requests (process).
    pub max_match_waiting: usize,
    /// Messages of a peer; None: no limit.
    pub messages: Option<Rate>,
    /// Deliveries of a peer's broadcasts; None: no limit.
    pub deliveries: Option<Rate>,
    /// Messages that may be held back for a peer.
    pub send_buffer_size: usize,
    /// Bytes that may be held back for a peer.
    pub send_buffer_bytes: usize,
    /// Bytes of state beyond which this shard takes no further peers.
    pub state_bytes: usize,
}

/// What a shard counted. Plain numbers: one loop writes them and publishes copies.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Mail for sessions, requests or sums that were over.
    pub stale_mail: u64,
    /// Sessions ended by a registration of the same key.
    pub replaced: u64,
    /// Groups completed.
    pub matches: u64,
    /// Direct messages refused at their target's loop: no shared namespace, peer not found, buffer full.
    pub refused_forbidden: u64,
    /// See [`Counters::refused_forbidden`].
    pub refused_not_found: u64,
    /// See [`Counters::refused_forbidden`].
    pub refused_full: u64,
}

impl Counters {
    /// Counts a refused delivery by its reason.
    pub fn refused(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::NoSharedNamespace => self.refused_forbidden += 1,
            Refusal::PeerNotFound => self.refused_not_found += 1,
            Refusal::PeerBufferFull => self.refused_full += 1,
            Refusal::SendBufferFullFor(members) => self.refused_full += u64::from(members),
            _ => {}
        }
    }
}

/// All peer state of one loop.
pub struct Shard {
    id: LoopId,
    homes: Homes,
    limits: Arc<Limits>,
    permits: Arc<Permits>,
    peers: peers::Peers,
    locals: membership::LocalNamespaces,
    aliases: aliases::Aliases,
    namespaces: namespaces::Namespaces,
    /// How many of them are rooms.
    rooms: usize,
    queues: matchmaking::MatchQueues,
    sums: broadcast::Sums,
    random: StdRng,
    counters: Counters,
    outputs: VecDeque<Output>,
    targets: Vec<ConnId>,
    /// Mail to itself: handled before the input that caused it returns.
    own: VecDeque<Mail>,
    /// What makes it a part of several nodes' one place.
    cluster: Option<Box<cluster::Cluster>>,
}

impl Shard {
    /// An empty shard for loop `id`. `seed` makes match session ids: it must be secret and random outside of tests.
    pub fn new(id: LoopId, homes: Homes, limits: Arc<Limits>, permits: Arc<Permits>, seed: [u8; 32]) -> Self {
        Self {
            id,
            peers: peers::Peers::new(&homes),
            locals: membership::LocalNamespaces::new(&homes),
            aliases: aliases::Aliases::new(homes.hasher()),
            namespaces: namespaces::Namespaces::with_hasher(homes.hasher()),
            rooms: 0,
            queues: matchmaking::MatchQueues::new(&homes),
            sums: broadcast::Sums::default(),
            homes,
            limits,
            permits,
            random: StdRng::from_seed(seed),
            counters: Counters::default(),
            outputs: VecDeque::new(),
            targets: Vec::new(),
            own: VecDeque::new(),
            cluster: None,
        }
    }

    /// Which loop it belongs to.
    pub fn id(&self) -> LoopId {
        self.id
    }

    /// Where everything lives.
    pub fn homes(&self) -> &Homes {
        &self.homes
    }

    /// Takes one piece of control mail.
    pub fn handle_mail(&mut self, mail: Mail) {
        self.on_mail(mail);
        self.settle();
    }

    fn on_mail(&mut self, mail: Mail) {
        match mail {
            Mail::ClaimAlias { alias, asker } => {
                let granted = self.aliases.claim(alias, asker.fingerprint, asker.session);
                self.send(asker.loop_id, Mail::AliasClaimed { asker, granted });
            }
            Mail::AliasClaimed { asker, granted } => self.on_alias_claimed(asker, granted),
            Mail::ReleaseAlias { alias, session } => self.aliases.release(&alias, session),
            Mail::ResolveAlias { alias, asker } => self.on_resolve_alias(alias, asker),
            Mail::AliasResolved { asker, holder } => self.on_alias_resolved(asker, holder),
            Mail::Ask { asker, namespace, ask } if self.is_clustered() => self.ask_cluster(asker, namespace, ask),
            Mail::Ask { asker, namespace, ask } => self.on_ask(asker, namespace, ask),
            Mail::Answer {
                asker,
                namespace,
                answer,
            } => self.on_answer(asker, namespace, answer),
            Mail::Presence {
                namespace,
                change,
                count,
            } => self.on_presence(namespace, change, count),
            Mail::Kicked {
                room,
                name,
                owner,
                target,
                session,
            } => self.on_kicked(room, name, owner, target, session),
            Mail::Matched {
                namespace,
                members,
                matched,
            } => self.on_matched(namespace, &members, &matched),
            Mail::InfoChanged {
                namespace,
                session,
                info,
            } if self.is_clustered() => self.show_in_cluster(namespace, session, info),
            Mail::InfoChanged {
                namespace,
                session,
                info,
            } => self.on_info_changed(namespace, session, info),
            Mail::Gone { asker, namespaces } if self.is_clustered() => self.on_gone_in_cluster(&asker, &namespaces),
            Mail::Gone { asker, namespaces } => self.on_gone(&asker, &namespaces),
            Mail::GoneDone { fingerprint } => self.on_gone_done(&fingerprint),
            Mail::Refused {
                fingerprint,
                session,
                refusal,
            } => match self.peers.find_session(&fingerprint, session) {
                Some(peer) => self.tell_error(peer, refusal),
                None => self.counters.stale_mail += 1,
            },
            Mail::FanOutDone { sum, refused } => self.add_to_sum(sum, refused, 1),
            Mail::RouteChanged { fingerprint } => self.on_routes_changed(&[fingerprint]),
            Mail::RoutesChanged { fingerprints } => self.on_routes_changed(&fingerprints),
            Mail::Rejoin {
                who,
                loop_id,
                peer,
                namespace,
                info,
                member,
                ticket,
            } => {
                let (asker, has) = (
                    cluster::Returning { who, loop_id, peer },
                    cluster::Has { member, ticket },
                );
                self.on_rejoin(asker, namespace, info, has);
            }
            Mail::Rejoined { who, lost } => self.on_rejoined(who, lost),
            Mail::Evicted { who, namespace } => self.on_evicted(who, namespace),
        }
    }

    /// Handles the mail that this shard wrote to itself.
    fn settle(&mut self) {
        while let Some(mail) = self.own.pop_front() {
            self.on_mail(mail);
        }
        #[cfg(test)]
        self.check_invariants();
    }

    fn send(&mut self, to: LoopId, mail: Mail) {
        match to == self.id {
            true => self.own.push_back(mail),
            false => self.outputs.push_back(Output::Mail { to, mail }),
        }
    }

    fn tell(&mut self, conn: ConnId, event: Event) {
        self.outputs.push_back(Output::Event { conn, event });
    }

    /// Tells a peer that a message of it was refused; if it waits for an answer, after that.
    pub fn tell_refusal(&mut self, peer: PeerKey, refusal: Refusal) {
        self.tell_error(peer, refusal);
        self.settle();
    }

    /// Tells a peer of a refusal; if it waits for an answer, after that: clients take any error for the answer.
    fn tell_error(&mut self, key: PeerKey, refusal: Refusal) {
        let deferred_max = self.limits.send_buffer_size.saturating_mul(4).max(1);
        let Some(peer) = self.peers.get_mut(key) else { return };
        let conn = peer.conn;
        match peer.cold.as_mut().filter(|cold| cold.waiting.is_some()) {
            Some(cold) if cold.deferred.len() < deferred_max => cold.deferred.push(refusal),
            Some(_) => self.close_overfull(key, conn),
            None => self.tell(conn, Event::Error(refusal)),
        }
    }

    /// Too much is kept back for this peer.
    fn close_overfull(&mut self, key: PeerKey, conn: ConnId) {
        self.close(key);
        let (code, reason) = (CLOSE_TRY_AGAIN, "send buffer full");
        self.outputs.push_back(Output::Close { conn, code, reason });
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() {
            self.targets.clear();
        }
        output
    }

    /// The connections of an [`Output::FanOut`]: valid until the outputs are drained.
    pub fn targets(&self, range: Range<usize>) -> &[ConnId] {
        self.targets.get(range).unwrap_or_default()
    }

    /// One of them.
    pub fn target(&self, index: usize) -> Option<ConnId> {
        self.targets.get(index).copied()
    }

    /// What it counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What it holds now.
    pub fn census(&self) -> Census {
        Census {
            peers: self.peers.len(),
            namespaces: self.namespaces.len() - self.rooms,
            rooms: self.rooms,
            match_waiting: self.queues.len() + self.cluster_tickets(),
            aliases: self.aliases.len(),
            open_sums: self.sums.len(),
        }
    }

    /// Roughly the bytes that it keeps for its peers: records, indexes, and texts that strangers chose.
    pub fn state_bytes(&self) -> usize {
        const PEER: usize = 512;
        const NAMESPACE: usize = 384;
        const TICKET: usize = 256;
        self.peers.len() * PEER
            + (self.namespaces.len() + self.locals.len()) * NAMESPACE
            + (self.queues.len() + self.cluster_tickets()) * TICKET
            // The peer's own record and one roster entry each hold such a text.
            + self.peers.text_bytes * 2
    }

    fn over_state_bytes(&self) -> bool {
        self.state_bytes() > self.limits.state_bytes
    }
}

/// What a shard holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Registered peers.
    pub peers: usize,
    /// Plain namespaces at home.
    pub namespaces: usize,
    /// Rooms at home.
    pub rooms: usize,
    /// Waiting match requests at home.
    pub match_waiting: usize,
    /// Held aliases at home.
    pub aliases: usize,
    /// Broadcasts whose refusals are still being counted.
    pub open_sums: usize,
}
