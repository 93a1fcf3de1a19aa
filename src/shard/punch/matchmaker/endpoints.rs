//! What must be known of an address on the loop where its datagrams arrive.
//!
//! Everything that is sent to an address leaves from here: so whatever a client answers finds what it answers.
//!
//! Owns: whose an address is, the echo of its keep alives, and the delivery of the others' addresses.
//! Never: believes a claim; the session does.

use std::net::SocketAddr;

use ahash::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::deadlines::Deadlines;
use super::mail::{ToEndpoint, ToSession};
use super::{Core, Homes};
use crate::ids::LoopId;
use crate::message::matchmaker::{Event, Request, SessionId};
use crate::message::punch::{Dropped, Path};
use crate::shard::punch;

#[derive(Debug)]
struct Endpoint {
    session: SessionId,
    home: LoopId,
    path: Path,
    /// When the session was last told that its client lives.
    reported_ms: u64,
    delivery: Option<Delivery>,
    due_ms: u64,
}

#[derive(Debug)]
struct Delivery {
    peers: Vec<SocketAddr>,
    /// How often it was sent; None: it was acknowledged.
    copies: Option<u32>,
    until_ms: u64,
}

/// The addresses.
#[derive(Debug)]
pub(super) struct Endpoints {
    endpoints: HashMap<SocketAddr, Endpoint, RandomState>,
    deadlines: Deadlines<SocketAddr>,
}

impl Endpoints {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            endpoints: HashMap::with_hasher(homes.hasher()),
            deadlines: Deadlines::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.deadlines.next_ms().is_none()
    }

    pub(super) fn handle_request(&mut self, core: &mut Core, path: Path, request: Request) {
        let known = self.endpoints.get_mut(&path.remote);
        match (request, known) {
            // A session is claimed for an address that is another's: either could be a lie.
            (Request::Endpoint { session, .. }, Some(known)) if known.session != session => {
                core.drop(Dropped::NotAllowed);
            }
            (Request::Endpoint { session, sequence }, _) => {
                let from = core.id;
                let claimed = ToSession::Claimed {
                    session,
                    path,
                    sequence,
                    from,
                };
                core.send_request(core.homes.of_key(&session), claimed.into());
            }
            (Request::KeepAlive, Some(known)) if known.path == path => {
                if core.now_ms >= known.reported_ms + REPORT_MS {
                    known.reported_ms = core.now_ms;
                    let heard = ToSession::Heard { session: known.session };
                    core.send_request(known.home, heard.into());
                }
                core.tell(path, punch::Event::Matchmaker(Event::KeepAlive));
            }
            (Request::Ack { sequence: SEQUENCE }, Some(known)) if known.is_unacknowledged() => {
                if let Some(delivery) = &mut known.delivery {
                    delivery.copies = None;
                    self.deadlines.set(path.remote, &mut known.due_ms, delivery.until_ms);
                }
            }
            (Request::KeepAlive | Request::Ack { .. }, _) => core.drop(Dropped::NotAllowed),
        }
    }

    pub(super) fn handle_mail(&mut self, core: &mut Core, mail: ToEndpoint) {
        match mail {
            ToEndpoint::Bind {
                path,
                session,
                home,
                sequence,
            } => self.on_bind(core, path, session, home, sequence),
            ToEndpoint::Unbind { remote, session } => {
                if let Entry::Occupied(known) = self.endpoints.entry(remote)
                    && known.get().session == session
                {
                    self.deadlines.clear(remote, known.get().due_ms);
                    known.remove();
                }
            }
            ToEndpoint::Deliver {
                path,
                session,
                home,
                peers,
            } => self.on_deliver(core, path, session, home, peers),
        }
    }

    fn on_bind(&mut self, core: &mut Core, path: Path, session: SessionId, home: LoopId, sequence: Option<u16>) {
        let bound = match self.endpoints.entry(path.remote) {
            Entry::Occupied(known) if known.get().session != session => {
                core.drop(Dropped::NotAllowed);
                return core.send(home, ToSession::Taken { session, path }.into());
            }
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Endpoint::new(path, session, home)),
        };
        (bound.path, bound.reported_ms) = (path, core.now_ms);
        match sequence {
            Some(sequence) => core.tell(path, punch::Event::Matchmaker(Event::Ack { sequence })),
            None => core.drop(Dropped::RateLimited),
        }
    }

    fn on_deliver(&mut self, core: &mut Core, path: Path, session: SessionId, home: LoopId, peers: Vec<SocketAddr>) {
        let known = self.endpoints.entry(path.remote);
        let known = known.or_insert_with(|| Endpoint::new(path, session, home));
        if known.session != session {
            return core.drop(Dropped::NotAllowed);
        }
        known.delivery = Some(Delivery {
            peers,
            copies: Some(0),
            until_ms: core.now_ms + KEPT_MS,
        });
        known.send_copy(core, &mut self.deadlines);
    }

    /// Repeats what was not acknowledged; what was delivered long enough ago is forgotten.
    pub(super) fn handle_timeout(&mut self, core: &mut Core) {
        while let Some((due_ms, remote)) = self.deadlines.pop(core.now_ms) {
            let Entry::Occupied(mut known) = self.endpoints.entry(remote) else {
                continue;
            };
            known.get_mut().due_ms = 0;
            let until_ms = known.get().delivery.as_ref().map(|delivery| delivery.until_ms);
            debug_assert!(due_ms <= core.now_ms);
            match until_ms {
                Some(until_ms) if core.now_ms < until_ms => known.get_mut().send_copy(core, &mut self.deadlines),
                _ => drop(known.remove()),
            }
        }
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.deadlines.next_ms()
    }
}

impl Endpoint {
    fn new(path: Path, session: SessionId, home: LoopId) -> Self {
        Self {
            session,
            home,
            path,
            reported_ms: 0,
            delivery: None,
            due_ms: 0,
        }
    }

    fn is_unacknowledged(&self) -> bool {
        self.delivery.as_ref().is_some_and(|delivery| delivery.copies.is_some())
    }

    /// Sends the others' addresses, if that is still to be done.
    fn send_copy(&mut self, core: &mut Core, deadlines: &mut Deadlines<SocketAddr>) {
        let Some(delivery) = &mut self.delivery else { return };
        let mut next_ms = delivery.until_ms;
        if let Some(copies) = delivery.copies.as_mut().filter(|copies| **copies < COPIES_MAX) {
            *copies += 1;
            let event = Event::Endpoints {
                sequence: SEQUENCE,
                peers: delivery.peers.clone(),
            };
            core.tell(self.path, punch::Event::Matchmaker(event));
            if *copies < COPIES_MAX {
                next_ms = next_ms.min(core.now_ms + AGAIN_MS);
            }
        }
        deadlines.set(self.path.remote, &mut self.due_ms, next_ms);
    }
}

/// A session's numbers begin here, and only one datagram to it has one: the first is the last.
const SEQUENCE: u16 = 1;
/// Between two copies of what is not acknowledged.
const AGAIN_MS: u64 = 200;
/// Copies of it.
const COPIES_MAX: u32 = 11;
/// What is known of an address is forgotten so long after the start.
const KEPT_MS: u64 = 5_000;
/// How often a session is told of its client's keep alives: they come twice a second.
pub(super) const REPORT_MS: u64 = 2_000;
