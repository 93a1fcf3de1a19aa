//! Requests under way, from the first word to the last.
//!
//! Owns: what a request waits for, and what each event makes of it.
//! Never: counts places (see `fleet`), or keeps what was given (see `fleet`, `sessions`).

use rand::Rng as _;

use super::fleet::GroupIndex;
use super::line::Ticket;
use super::sessions::Standing;
use super::{Desk, Output, Source};
use crate::ids::Prefix;
use crate::message::game_server::{
    CertDigest, Event, FORWARDED_BYTES_MAX, Failure, Feedback, Grant, Outcome, Placement, RequestId, Seek, Seeker,
    SessionName, Wanted,
};

/// A request whose last word is not yet said.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) seeker: Seeker,
    /// Where it is counted.
    pub(super) prefix: Option<Prefix>,
    pub(super) deadline: Option<Ticket>,
    pub(super) phase: Phase,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// The provider looks for a server.
    Sought {
        /// The seeker knows of its session.
        accepted: bool,
        /// It was told how far it is.
        progressed: bool,
    },
    /// Another matchmaker looks for one.
    Forwarded {
        /// It answers in one piece.
        whole: bool,
    },
    /// The client id is being registered.
    Registering {
        origin: Origin,
        client_id: u64,
        placement: Box<Placement>,
    },
}

/// Where a server comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Fleet,
    Provider,
}

impl Desk {
    /// Takes what the provider, the register or the way to another matchmaker says.
    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Accepted(id, session) => self.on_accepted(id, session),
            Event::Progress(id, text) => self.on_progress(id, text),
            Event::Ready(id, placement) => self.on_ready(id, *placement),
            Event::Failed(id, failure) => self.on_failed(id, failure),
            Event::Forwarded(id, text) => self.on_forwarded(id, text),
            Event::ForwardedOutcome(id, outcome) => self.on_forwarded_outcome(id, outcome),
            Event::End(id) => self.on_end(id),
            Event::Claimed(session) => self.on_claimed(session),
            Event::Ended(session) => self.on_ended(session),
            Event::Asked(remote, seek) => self.on_seek(Seeker::Remote(remote), None, seek),
            Event::Registered(id, digest) => self.on_registered(id, digest),
            Event::NotRegistered(id) => self.on_not_registered(id),
            // The metrics' business.
            Event::Noted(_) => {}
        }
    }

    /// Gives a place on a configured server.
    pub(super) fn seat(&mut self, seeker: Seeker, prefix: Option<Prefix>, group: GroupIndex) {
        let (registers, now_ms) = (self.settings.registers, self.now_ms);
        let chosen = self.fleet.choose(group, !registers, &self.settings.limits, now_ms);
        let Some(index) = chosen else {
            return self.refuse(seeker, Failure::NO_SERVER);
        };
        let client_id = loop {
            let client_id = self.draw_client_id();
            if !self.fleet.knows(index, client_id) {
                break client_id;
            }
        };
        let cert_digest = self.fleet.digest(index);
        let server = self.fleet.server(index);
        let placement = Box::new(Placement {
            session: SessionName::of_configured(client_id),
            public: server.public,
            internal: server.internal.clone(),
            cert_digest,
            key: server.key,
        });
        self.fleet.reserve(index, client_id, seeker);
        self.tell(seeker, Feedback::Acknowledged);
        self.tell(seeker, Feedback::Accepted(placement.session.clone()));
        self.tell(seeker, Feedback::Progress(READY.into()));
        if registers {
            let phase = Phase::Registering {
                origin: Origin::Fleet,
                client_id,
                placement: placement.clone(),
            };
            let id = self.open(seeker, prefix, phase);
            self.register(id, client_id, placement);
        } else if let Some(cert_digest) = cert_digest {
            self.give(Origin::Fleet, seeker, client_id, *placement, cert_digest);
        }
    }

    /// Has the provider or another matchmaker look for a server.
    pub(super) fn submit(&mut self, seeker: Seeker, prefix: Option<Prefix>, seek: Seek) {
        let phase = match self.settings.source {
            Source::Forwarded => Phase::Forwarded {
                whole: seek.wanted == Wanted::Configured,
            },
            Source::Provider | Source::None => {
                self.tell(seeker, Feedback::Acknowledged);
                Phase::Sought {
                    accepted: false,
                    progressed: false,
                }
            }
        };
        let id = self.open(seeker, prefix, phase);
        self.outputs.push_back(Output::Submit(id, seek));
    }

    fn on_accepted(&mut self, id: RequestId, session: SessionName) {
        let Some(request) = self.requests.get_mut(&id) else {
            return self.reject(id, &session);
        };
        let seeker = request.seeker;
        if let Phase::Sought { accepted, .. } = &mut request.phase
            && !std::mem::replace(accepted, true)
        {
            self.tell(seeker, Feedback::Accepted(session));
        }
    }

    fn on_progress(&mut self, id: RequestId, text: Box<str>) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        let seeker = request.seeker;
        if let Phase::Sought { progressed, .. } = &mut request.phase
            && text.len() <= PROGRESS_BYTES_MAX
        {
            *progressed = true;
            self.tell(seeker, Feedback::Progress(text));
        }
    }

    fn on_ready(&mut self, id: RequestId, placement: Placement) {
        let Some(request) = self.requests.get(&id) else {
            return self.reject(id, &placement.session);
        };
        let seeker = request.seeker;
        let Phase::Sought { accepted, progressed } = request.phase else {
            return;
        };
        let cert_digest = placement.cert_digest.or_else(|| self.digests.find(placement.public));
        if placement.public.is_ipv6() && !self.settings.limits.ipv6 {
            return self.fail(id, Failure::NO_SERVER);
        }
        if cert_digest.is_none() && !self.settings.registers {
            return self.fail(id, NO_DIGEST);
        }
        if !accepted {
            self.tell(seeker, Feedback::Accepted(placement.session.clone()));
        }
        if !progressed {
            self.tell(seeker, Feedback::Progress(READY.into()));
        }
        let client_id = self.draw_client_id();
        self.sessions.open(client_id, placement.session.clone(), id, seeker);
        match cert_digest {
            Some(cert_digest) if !self.settings.registers => {
                self.end(id);
                self.give(Origin::Provider, seeker, client_id, placement, cert_digest);
            }
            cert_digest => {
                let placement = Box::new(Placement {
                    cert_digest,
                    ..placement
                });
                if let Some(request) = self.requests.get_mut(&id) {
                    request.phase = Phase::Registering {
                        origin: Origin::Provider,
                        client_id,
                        placement: placement.clone(),
                    };
                }
                self.register(id, client_id, placement);
            }
        }
    }

    fn on_registered(&mut self, id: RequestId, found: Option<CertDigest>) {
        let Some(Phase::Registering { placement, .. }) = self.requests.get(&id).map(|request| &request.phase) else {
            return;
        };
        let Some(cert_digest) = placement.cert_digest.or(found) else {
            return self.fail(id, NO_DIGEST);
        };
        let Some(request) = self.end(id) else { return };
        if let Phase::Registering {
            origin,
            client_id,
            placement,
        } = request.phase
        {
            self.give(origin, request.seeker, client_id, *placement, cert_digest);
        }
    }

    fn on_not_registered(&mut self, id: RequestId) {
        let phase = self.requests.get(&id).map(|request| &request.phase);
        if let Some(Phase::Registering { .. }) = phase {
            self.fail(id, Failure::UNAVAILABLE);
        }
    }

    /// The provider, or the way to another matchmaker, gives up: it has nothing left to cancel.
    fn on_failed(&mut self, id: RequestId, failure: Failure) {
        let client_id = match self.requests.get(&id).map(|request| &request.phase) {
            Some(Phase::Sought { .. } | Phase::Forwarded { .. }) => None,
            Some(Phase::Registering {
                origin: Origin::Provider,
                client_id,
                ..
            }) => Some(*client_id),
            Some(Phase::Registering {
                origin: Origin::Fleet, ..
            })
            | None => return,
        };
        if let Some(client_id) = client_id {
            self.sessions.forget(client_id);
        }
        if let Some(request) = self.end(id) {
            self.refuse(request.seeker, failure);
        }
    }

    fn on_forwarded(&mut self, id: RequestId, text: Box<str>) {
        let Some(request) = self.requests.get(&id) else { return };
        let seeker = request.seeker;
        match request.phase {
            Phase::Forwarded { .. } if text.len() > FORWARDED_BYTES_MAX => self.fail(id, Failure::UNAVAILABLE),
            Phase::Forwarded { .. } => self.tell(seeker, Feedback::Forwarded(text)),
            Phase::Sought { .. } | Phase::Registering { .. } => {}
        }
    }

    fn on_forwarded_outcome(&mut self, id: RequestId, outcome: Box<Outcome>) {
        match self.requests.get(&id).map(|request| &request.phase) {
            Some(Phase::Forwarded { whole: true }) if outcome.body.len() > FORWARDED_BYTES_MAX => {
                self.fail(id, Failure::UNAVAILABLE);
            }
            Some(Phase::Forwarded { whole: true }) => self.answered(id, Feedback::ForwardedOutcome(outcome)),
            _ => {}
        }
    }

    fn on_end(&mut self, id: RequestId) {
        if let Some(Phase::Forwarded { .. }) = self.requests.get(&id).map(|request| &request.phase) {
            self.answered(id, Feedback::End);
        }
    }

    /// A session's player is on its server, as the provider or the register says.
    fn on_claimed(&mut self, session: SessionName) {
        let clients = self.sessions.clients(&session);
        let is_known = !clients.is_empty();
        let is_to_come = |client: &&u64| self.sessions.standing(**client) == Some(Standing::Told);
        match clients.iter().find(is_to_come).copied() {
            Some(client_id) => self.claim_session(client_id),
            None if is_known => {}
            None => {
                let mut settled = std::mem::take(&mut self.settled);
                self.fleet.claim(&session, &mut settled);
                self.settle(settled);
                // It may be one of those that an earlier process left to the provider.
                if !session.is_configured() && self.settings.source == Source::Provider {
                    self.outputs.push_back(Output::Claimed(session));
                }
            }
        }
    }

    /// A session is over, for all of its players.
    fn on_ended(&mut self, session: SessionName) {
        let clients = self.sessions.clients(&session).to_vec();
        for client_id in clients {
            match self.sessions.standing(client_id) {
                Some(Standing::Asked) => {
                    if let Some(id) = self.sessions.get(client_id).map(|session| session.request) {
                        self.fail(id, Failure::NO_SERVER);
                    }
                }
                Some(Standing::Told | Standing::Claimed) | None => self.forget_session(client_id),
            }
        }
        let mut settled = std::mem::take(&mut self.settled);
        self.fleet.end(&session, &mut settled);
        self.settle(settled);
        if !session.is_configured() && self.settings.source == Source::Provider {
            self.outputs.push_back(Output::Released(session));
        }
    }

    /// A report says that the player came.
    pub(super) fn claim_session(&mut self, client_id: u64) {
        let Some(session) = self.sessions.claim(client_id, self.now_ms) else {
            return;
        };
        let (seeker, name) = (session.seeker, session.name.clone());
        self.unhold(seeker, client_id);
        self.outputs.push_back(Output::Claimed(name));
    }

    /// A report says that the player left.
    pub(super) fn release_session(&mut self, client_id: u64) {
        if let Some(Standing::Told | Standing::Claimed) = self.sessions.standing(client_id)
            && let Some(session) = self.sessions.get(client_id)
        {
            let name = session.name.clone();
            self.forget_session(client_id);
            self.outputs.push_back(Output::Released(name));
        }
    }

    /// A session of which nothing will be heard any more.
    pub(super) fn forget_session(&mut self, client_id: u64) {
        if let Some(session) = self.sessions.forget(client_id) {
            self.unhold(session.seeker, client_id);
        }
    }

    /// Ends a request before its time: whatever is done for it stops, what it holds is given back.
    pub(super) fn abort(&mut self, id: RequestId) -> Option<Seeker> {
        let request = self.end(id)?;
        match request.phase {
            Phase::Sought { .. } | Phase::Forwarded { .. } => self.outputs.push_back(Output::Cancel(id)),
            Phase::Registering {
                origin: Origin::Fleet,
                client_id,
                ..
            } => {
                self.fleet.release(client_id);
            }
            Phase::Registering {
                origin: Origin::Provider,
                client_id,
                ..
            } => {
                self.sessions.forget(client_id);
                self.outputs.push_back(Output::Cancel(id));
            }
        }
        Some(request.seeker)
    }

    /// Ends a request before its time with these words.
    fn fail(&mut self, id: RequestId, failure: Failure) {
        if let Some(seeker) = self.abort(id) {
            self.refuse(seeker, failure);
        }
    }

    /// Another matchmaker has said its last word.
    fn answered(&mut self, id: RequestId, feedback: Feedback) {
        if let Some(request) = self.end(id) {
            self.counts.forwarded += 1;
            self.tell(request.seeker, feedback);
        }
    }

    /// A provider works for a request that is over: it stops, unless it speaks of what was given.
    fn reject(&mut self, id: RequestId, session: &SessionName) {
        if self.settings.source == Source::Provider && self.sessions.clients(session).is_empty() {
            self.outputs.push_back(Output::Cancel(id));
        }
    }

    fn register(&mut self, id: RequestId, client_id: u64, placement: Box<Placement>) {
        self.outputs.push_back(Output::Register {
            id,
            client_id,
            wants_digest: placement.cert_digest.is_none(),
            placement,
        });
    }

    /// The last word that everybody hopes for. The place is kept until the player comes.
    fn give(&mut self, origin: Origin, seeker: Seeker, client_id: u64, placement: Placement, cert_digest: CertDigest) {
        let until_ms = self.settings.limits.claim_by(self.now_ms);
        match origin {
            Origin::Fleet => self.fleet.expect(client_id, until_ms),
            Origin::Provider => {
                self.sessions.expect(client_id, until_ms);
                while let Some(surplus) = self.sessions.surplus() {
                    self.forget_session(surplus);
                }
            }
        }
        self.hold(seeker, client_id);
        self.counts.ready += 1;
        let grant = Grant {
            session: placement.session,
            client_id,
            public: placement.public,
            internal: placement.internal,
            cert_digest,
            key: placement.key,
        };
        self.tell(seeker, Feedback::Ready(Box::new(grant)));
    }

    /// Drawn at random: not 0, and nobody else's who is to come.
    fn draw_client_id(&mut self) -> u64 {
        loop {
            let client_id = self.random.next_u64();
            if client_id != 0 && self.fleet.kept(client_id).is_none() && self.sessions.get(client_id).is_none() {
                return client_id;
            }
        }
    }
}

/// What a seeker is told before its server if nobody else told it how far that is.
const READY: &str = "Ready (0)";
/// No token can be used without it.
const NO_DIGEST: Failure = Failure::new(503, "no certificate digest");
/// Longest text that is passed on of how far a request is; providers write a word and a number.
const PROGRESS_BYTES_MAX: usize = 256;
