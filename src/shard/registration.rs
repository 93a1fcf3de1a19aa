//! Registration: from a connection's wish to a peer, and same-key replacement (peer protocol, section 3).
//!
//! Owns: the registrations under way, the alias that each claims, and the wait until every home has let go of the key's
//! earlier sessions.
//! Never: ends a session by itself (see `peers`), or resolves an alias (see `aliases`).

use std::sync::Arc;

use compact_str::CompactString;

use super::Shard;
use super::aliases::{self, CANDIDATES};
use super::mail::{Asker, Mail};
use super::output::Output;
use super::peers::Peer;
use super::rate_limit::Bucket;
use crate::ids::{CommandId, ConnId, Fingerprint, SessionId};
use crate::message::{CLOSE_REPLACED, Event, Meta, PeerInfo, Refusal, Register};

/// A key that is between sessions.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    /// Homes that have not yet said that the key's earlier sessions are gone.
    pub(super) outstanding: u32,
    /// Who registers next.
    pub(super) next: Option<Registering>,
}

impl Arrival {
    /// The command by which the broker was asked for the next session.
    pub(super) fn command(&self) -> Option<CommandId> {
        match self.next.as_ref()?.claim {
            Claim::Broker { command, .. } => command,
            Claim::Wanted | Claim::Made(_) | Claim::Settled { .. } => None,
        }
    }
}

/// A registration under way; it holds a permit.
#[derive(Debug)]
pub(super) struct Registering {
    pub(super) conn: ConnId,
    pub(super) session: SessionId,
    pub(super) alias: CompactString,
    meta: Meta,
    pub(super) claim: Claim,
}

/// How far a registration is with its alias, and in a cluster with the broker's leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The peer's own alias was asked for.
    Wanted,
    /// The made alias of this number was asked for.
    Made(u8),
    Settled {
        held: bool,
    },
    /// The broker decides, on session and alias in one step; None: it is not asked yet.
    Broker {
        candidates: Candidates,
        command: Option<CommandId>,
    },
}

/// Aliases that a registration may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Candidates {
    /// None at all: what the peer wants looks like a fingerprint.
    None,
    /// The one that the peer wants.
    Wanted,
    /// Those made of its fingerprint.
    Made,
}

impl Shard {
    /// A connection asks to be a peer. Ends, perhaps after mail, in [`Output::Registered`] or
    /// [`Output::RegistrationRefused`]; a session of the same key is replaced (D5).
    pub fn register(&mut self, conn: ConnId, register: Register) {
        let Register {
            fingerprint,
            alias,
            meta,
        } = register;
        if self.is_clustered() && !self.is_up() {
            let refusal = Refusal::BrokerUnavailable;
            self.outputs.push_back(Output::RegistrationRefused { conn, refusal });
            return;
        }
        if !self.take_place_of(&fingerprint)
            && (self.over_state_bytes() || !self.permits.registered.take(self.limits.max_peers))
        {
            self.outputs.push_back(Output::RegistrationRefused {
                conn,
                refusal: Refusal::ServerFull,
            });
            return;
        }
        let session = self.peers.next_session(self.id);
        let (claim, alias) = match alias.is_empty() {
            true => (Claim::Made(0), aliases::made(&fingerprint, 0)),
            false if aliases::looks_like_fingerprint(&alias) => (Claim::Settled { held: false }, alias),
            false => (Claim::Wanted, alias),
        };
        let claim = match self.is_clustered() {
            true => Claim::Broker {
                candidates: match claim {
                    Claim::Made(_) => Candidates::Made,
                    Claim::Wanted => Candidates::Wanted,
                    Claim::Settled { .. } | Claim::Broker { .. } => Candidates::None,
                },
                command: None,
            },
            false => {
                if claim != (Claim::Settled { held: false }) {
                    self.claim_alias(&fingerprint, session, alias.clone());
                }
                claim
            }
        };
        let next = Registering {
            conn,
            session,
            alias,
            meta,
            claim,
        };
        self.peers.arrivals.entry(fingerprint).or_default().next = Some(next);
        self.complete_arrival(&fingerprint);
        self.settle();
    }

    /// A connection closed before its registration was complete.
    pub fn abandon_registration(&mut self, conn: ConnId, fingerprint: &Fingerprint) {
        let Some(arrival) = self.peers.arrivals.get_mut(fingerprint) else {
            return;
        };
        if arrival.next.as_ref().is_none_or(|next| next.conn != conn) {
            return;
        }
        if let Some(next) = arrival.next.take() {
            self.give_up_claim(fingerprint, &next);
            self.permits.registered.release();
        }
        self.forget_arrival_if_done(fingerprint);
        self.settle();
    }

    /// Ends whatever holds the key now. True: its permit passes over to whoever comes next.
    fn take_place_of(&mut self, fingerprint: &Fingerprint) -> bool {
        let earlier = self
            .peers
            .arrivals
            .get_mut(fingerprint)
            .and_then(|arrival| arrival.next.take());
        if let Some(earlier) = earlier {
            self.give_up_claim(fingerprint, &earlier);
            self.close_replaced(earlier.conn);
            return true;
        }
        let Some(key) = self.peers.find(fingerprint) else {
            return false;
        };
        if let Some(conn) = self.end_session(key) {
            self.close_replaced(conn);
        }
        true
    }

    pub(super) fn close_replaced(&mut self, conn: ConnId) {
        self.counters.replaced += 1;
        self.outputs.push_back(Output::Close {
            conn,
            code: CLOSE_REPLACED,
            reason: "replaced by new connection",
        });
    }

    /// Frees the alias of a registration that will not be. The release travels behind the claim, answered or not, and ahead
    /// of whatever the key claims next: else the key's next session would find the alias taken by one that never was.
    fn give_up_claim(&mut self, fingerprint: &Fingerprint, registering: &Registering) {
        match registering.claim {
            Claim::Settled { held: false } => {}
            Claim::Broker { .. } => self.give_up_in_cluster(fingerprint, registering),
            Claim::Wanted | Claim::Made(_) | Claim::Settled { held: true } => {
                let (alias, session) = (registering.alias.clone(), registering.session);
                self.send(self.homes.of_alias(&alias), Mail::ReleaseAlias { alias, session });
            }
        }
    }

    pub(super) fn claim_alias(&mut self, fingerprint: &Fingerprint, session: SessionId, alias: CompactString) {
        let asker = Asker {
            loop_id: self.id,
            fingerprint: *fingerprint,
            session,
            peer: None,
            request: 0,
        };
        self.send(self.homes.of_alias(&alias), Mail::ClaimAlias { alias, asker });
    }

    pub(super) fn on_alias_claimed(&mut self, asker: Asker, granted: bool) {
        if self.is_clustered() {
            // The broker has decided; the claim was for the home's own knowledge.
            return;
        }
        let next = self
            .peers
            .arrivals
            .get_mut(&asker.fingerprint)
            .and_then(|arrival| arrival.next.as_mut());
        let Some(next) = next.filter(|next| next.session == asker.session) else {
            // That registration was given up, and its alias with it.
            self.counters.stale_mail += 1;
            return;
        };
        match next.claim {
            Claim::Made(candidate) if !granted && candidate + 1 < CANDIDATES => {
                let alias = aliases::made(&asker.fingerprint, candidate + 1);
                next.claim = Claim::Made(candidate + 1);
                next.alias = alias.clone();
                self.claim_alias(&asker.fingerprint, asker.session, alias);
            }
            Claim::Wanted | Claim::Made(_) | Claim::Settled { .. } | Claim::Broker { .. } => {
                next.claim = Claim::Settled { held: granted };
            }
        }
        self.complete_arrival(&asker.fingerprint);
    }

    pub(super) fn on_gone_done(&mut self, fingerprint: &Fingerprint) {
        if let Some(arrival) = self.peers.arrivals.get_mut(fingerprint) {
            arrival.outstanding = arrival.outstanding.saturating_sub(1);
        }
        self.complete_arrival(fingerprint);
        self.forget_arrival_if_done(fingerprint);
    }

    pub(super) fn forget_arrival_if_done(&mut self, fingerprint: &Fingerprint) {
        if self
            .peers
            .arrivals
            .get(fingerprint)
            .is_some_and(|a| a.outstanding == 0 && a.next.is_none())
        {
            self.peers.arrivals.remove(fingerprint);
        }
    }

    /// Makes the peer once every trace of the key's earlier sessions is gone and its alias is settled.
    fn complete_arrival(&mut self, fingerprint: &Fingerprint) {
        if self.is_clustered() {
            return self.register_in_cluster(fingerprint);
        }
        let ready = |arrival: &&mut Arrival| {
            arrival.outstanding == 0
                && arrival
                    .next
                    .as_ref()
                    .is_some_and(|next| matches!(next.claim, Claim::Settled { .. }))
        };
        let arrival = self.peers.arrivals.get_mut(fingerprint).filter(ready);
        let Some(next) = arrival.and_then(|arrival| arrival.next.take()) else {
            return;
        };
        self.peers.arrivals.remove(fingerprint);
        let held = next.claim == Claim::Settled { held: true };
        self.make_peer(*fingerprint, next, held);
    }

    /// A registration is complete.
    pub(super) fn make_peer(&mut self, fingerprint: Fingerprint, registering: Registering, alias_held: bool) {
        let Registering {
            conn,
            session,
            alias,
            meta,
            claim: _,
        } = registering;
        let info = PeerInfo {
            fingerprint,
            alias: alias.clone(),
            app_type: Box::default(),
            meta,
        };
        let peer = self.peers.insert(Peer {
            fingerprint,
            session,
            conn,
            memberships: Vec::new(),
            messages: Bucket::default(),
            info: Arc::new(info),
            alias_held,
            open_sums: 0,
            requests: 0,
            cold: None,
        });
        self.outputs.push_back(Output::Registered { conn, peer });
        self.tell(conn, Event::Registered { fingerprint, alias });
    }
}
