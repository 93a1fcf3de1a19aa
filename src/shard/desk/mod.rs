//! The desk of the matchmaker web service: who seeks a game server, and which server each is given.
//!
//! One loop has it. It is told who asks, who left, what providers and game servers say, and the time; it says who is told
//! what, and what providers must do. Drain [`Desk::poll_output`] after each input. Every request gets one last word, unless
//! its seeker leaves before.
//!
//! Owns: the requests that are under way, their deadlines, the limits on them, the configured servers and their places.
//! Never: knows a wire format, makes a token, or trusts a provider to answer.

mod digests;
mod fleet;
mod guard;
mod inspect;
mod line;
mod requests;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;
use hashbrown::HashMap;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::ids::Prefix;
use crate::message::game_server::{
    CertDigest, Event, Failure, Feedback, KeyIndex, Name, Placement, REPORTED_MAX, Report, Reported, RequestId, Seek,
    Seeker, SessionName, Wanted,
};
use digests::{Digests, Reporter};
use fleet::{Fleet, GroupIndex};
use guard::Guard;
use line::Line;
use requests::{Phase, Request};
use sessions::Sessions;

/// How much may be asked; 0 is no limit. Times in milliseconds.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests under way.
    pub waiting_max: u32,
    /// Those of one IPv4 address or IPv6 /64.
    pub waiting_per_ip: u32,
    /// Requests a minute of one IPv4 address or IPv6 /64.
    pub requests_per_min_per_ip: u32,
    /// How long a request may take.
    pub deadline_ms: u64,
    /// How long a place is kept for a player who does not come.
    pub claim_ms: u64,
    /// How long a server that has reported may be silent before it is given no more players.
    pub silence_ms: u64,
    /// Whether players are sent to IPv6 addresses.
    pub ipv6: bool,
}

impl Limits {
    fn deadline_of(&self, now_ms: u64) -> Option<u64> {
        (self.deadline_ms > 0).then(|| now_ms.saturating_add(self.deadline_ms))
    }

    fn claim_by(&self, now_ms: u64) -> Option<u64> {
        (self.claim_ms > 0).then(|| now_ms.saturating_add(self.claim_ms))
    }
}

/// A configured game server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// What it is called in reports.
    pub id: Box<str>,
    /// Where players connect.
    pub public: SocketAddr,
    /// Its own view of that address; empty: the same.
    pub internal: Vec<SocketAddr>,
    /// Its game.
    pub game: Name,
    /// The version of that.
    pub version: Name,
    /// Players that it takes.
    pub capacity: u32,
    /// The digest of its certificate, if it does not report it.
    pub cert_digest: Option<CertDigest>,
    /// Which key it has.
    pub key: KeyIndex,
}

/// Where servers come from that are not configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From nowhere.
    None,
    /// From a provider that starts them, for the configured game alone.
    Provider,
    /// Another matchmaker answers, for any game.
    Forwarded,
}

/// What the desk is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How much may be asked.
    pub limits: Limits,
    /// The configured servers, in the order of preference.
    pub servers: Vec<Server>,
    /// The one configured game, for those who do not name one and for the provider.
    pub configured: Option<(Name, Name)>,
    /// Who serves games that no configured server runs.
    pub source: Source,
    /// Whether client ids are registered before the player is told.
    pub registers: bool,
}

/// One thing to do, in the order produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell a seeker.
    Tell {
        /// Whom.
        seeker: Seeker,
        /// What.
        feedback: Feedback,
    },
    /// Hand a request to the provider; if it is busy, say so with [`Event::Failed`].
    Submit(RequestId, Seek),
    /// The provider need not go on, and deletes what it made; it may be told so of requests that it does not know.
    Cancel(RequestId),
    /// Register a client id; if that cannot be, say so with [`Event::NotRegistered`].
    Register {
        /// For which request.
        id: RequestId,
        /// The player.
        client_id: u64,
        /// The server.
        placement: Box<Placement>,
        /// Whether the digest of its certificate is wanted.
        wants_digest: bool,
    },
    /// The provider is to know that the player came.
    Claimed(SessionName),
    /// The provider is to know that the player left, or never came. It may be one of which the desk knows nothing, and one
    /// that the provider itself said was over.
    Released(SessionName),
}

/// What was counted, and what there is. The requests are as many as their outcomes and those under way together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests under way.
    pub waiting: u64,
    /// Requests that came.
    pub requests: u64,
    /// Those that ended with a server.
    pub ready: u64,
    /// Those whose seeker left.
    pub abandoned: u64,
    /// Those over a limit.
    pub limited: u64,
    /// Those whose deadline came.
    pub timed_out: u64,
    /// Those that found no server, or no provider.
    pub unavailable: u64,
    /// Those that another matchmaker answered.
    pub forwarded: u64,
    /// Those that failed otherwise.
    pub failed: u64,
    /// Places kept for players who are to come, a provider's sessions included.
    pub reserved: u64,
    /// Players on the servers, as far as is known, those with a provider's sessions included.
    pub claimed: u64,
    /// Places given up because nobody came.
    pub unclaimed: u64,
    /// Reports taken.
    pub reports: u64,
}

/// What a seeker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// A request under way.
    Waiting(RequestId),
    /// A place for this client id that the player has not claimed: it may never have heard of it.
    Given(u64),
}

/// Where a request is answered.
enum Way {
    Fleet(GroupIndex),
    Provider,
    Nowhere,
}

/// The desk.
#[derive(Debug)]
pub struct Desk {
    settings: Settings,
    random: StdRng,
    /// The latest time that it was told: it never goes back, whatever it is told.
    now_ms: u64,
    last_request: u64,
    requests: HashMap<RequestId, Request, RandomState>,
    seekers: HashMap<Seeker, Held, RandomState>,
    deadlines: Line<RequestId>,
    guard: Guard,
    fleet: Fleet,
    sessions: Sessions,
    digests: Digests,
    counts: Figures,
    outputs: VecDeque<Output>,
    /// Client ids whose places are kept no longer, and whose they were; empty between calls.
    settled: Vec<(u64, Seeker)>,
}

impl Desk {
    /// Nothing under way. `seed` makes client ids: it must be secret and random outside of tests.
    pub fn new(settings: Settings, seed: [u8; 32]) -> Self {
        let mut random = StdRng::from_seed(seed);
        let mut word = || random.next_u64();
        let hasher = RandomState::with_seeds(word(), word(), word(), word());
        Self {
            random,
            now_ms: 0,
            last_request: 0,
            requests: HashMap::with_hasher(hasher.clone()),
            seekers: HashMap::with_hasher(hasher.clone()),
            deadlines: Line::new(),
            guard: Guard::new(&settings.limits, hasher.clone()),
            fleet: Fleet::new(&settings.servers, &hasher),
            sessions: Sessions::new(&hasher),
            digests: Digests::new(hasher),
            counts: Figures::default(),
            outputs: VecDeque::new(),
            settled: Vec::new(),
            settings,
        }
    }

    /// Takes a request. `from` is the address that the limits count it to: where it came from, whatever address is told to
    /// the provider; None: its receiver keeps such limits of its own.
    pub fn seek(&mut self, seeker: Seeker, from: Option<IpAddr>, seek: Seek, now_ms: u64) {
        self.advance(now_ms);
        self.on_seek(seeker, from.map(Prefix::of), seek);
    }

    /// The seeker is gone, and was not told the last word. It may have crossed that: what was given then is given back.
    pub fn leave(&mut self, seeker: Seeker, now_ms: u64) {
        self.advance(now_ms);
        match self.seekers.remove(&seeker) {
            None => {}
            Some(Held::Waiting(id)) => {
                let was_under_way = self.abort(id).is_some();
                self.counts.abandoned += u64::from(was_under_way);
            }
            Some(Held::Given(client_id)) => {
                if self.fleet.release(client_id).is_none()
                    && let Some(session) = self.sessions.forget(client_id)
                {
                    self.outputs.push_back(Output::Cancel(session.request));
                }
            }
        }
    }

    /// Takes what a provider or the register says.
    pub fn handle_event(&mut self, event: Event, now_ms: u64) {
        self.advance(now_ms);
        self.on_event(event);
    }

    /// Takes what a game server says.
    pub fn report(&mut self, report: Report, now_ms: u64) -> Reported {
        self.advance(now_ms);
        if let Some(server) = self.fleet.find(&report.server) {
            let mut settled = std::mem::take(&mut self.settled);
            self.fleet.report(server, &report, self.now_ms, &mut settled);
            self.settle(settled);
        } else if let (Source::Provider, Some(reporter)) = (self.settings.source, Reporter::parse(&report.server)) {
            self.digests.note(reporter, report.cert_digest, self.now_ms);
            for client_id in report.claimed.iter().take(REPORTED_MAX) {
                self.claim_session(*client_id);
            }
            for client_id in report.left.iter().take(REPORTED_MAX) {
                self.release_session(*client_id);
            }
        } else {
            return Reported::UnknownServer;
        }
        self.counts.reports += 1;
        Reported::Noted
    }

    /// Does what is due, but for what is too much at once: [`Desk::poll_timeout`] says that there is more.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.advance(now_ms);
        for _ in 0..DUE_MAX {
            let Some(id) = self.deadlines.first_due(self.now_ms) else {
                break;
            };
            if let Some(seeker) = self.abort(id) {
                self.counts.timed_out += 1;
                self.tell(seeker, Feedback::Failed(Failure::TIMED_OUT));
            }
        }
        for _ in 0..DUE_MAX {
            let Some(client_id) = self.fleet.late(self.now_ms) else {
                break;
            };
            if let Some(seeker) = self.fleet.release(client_id) {
                self.counts.unclaimed += 1;
                self.unhold(seeker, client_id);
            }
        }
        // The provider has a clock of its own for its sessions.
        for _ in 0..DUE_MAX {
            let Some(client_id) = self.sessions.late(self.now_ms) else {
                break;
            };
            self.counts.unclaimed += 1;
            self.forget_session(client_id);
        }
    }

    /// When [`Desk::handle_timeout`] is to be called next, in milliseconds; None: nothing is due.
    pub fn poll_timeout(&self) -> Option<u64> {
        let due = [self.deadlines.due(), self.fleet.due(), self.sessions.due()];
        due.into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What was counted.
    pub fn figures(&self) -> Figures {
        let ((kept, taken), (to_come, there)) = (self.fleet.figures(), self.sessions.figures());
        Figures {
            waiting: self.requests.len() as u64,
            reserved: kept + to_come,
            claimed: taken + there,
            ..self.counts
        }
    }

    fn advance(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    fn on_seek(&mut self, seeker: Seeker, prefix: Option<Prefix>, seek: Seek) {
        self.counts.requests += 1;
        if !self.admits(seeker, prefix) {
            self.counts.limited += 1;
            return self.tell(seeker, Feedback::Failed(Failure::TOO_MANY));
        }
        match self.way(&seek.wanted) {
            Way::Fleet(group) => self.seat(seeker, prefix, group),
            Way::Provider => self.submit(seeker, prefix, seek),
            Way::Nowhere => self.refuse(seeker, Failure::NO_SERVER),
        }
    }

    fn admits(&mut self, seeker: Seeker, prefix: Option<Prefix>) -> bool {
        if let Some(Held::Waiting(_)) = self.seekers.get(&seeker) {
            return false;
        }
        let (now_ms, waiting_max) = (self.now_ms, self.settings.limits.waiting_max as usize);
        prefix.is_none_or(|prefix| self.guard.admits(prefix, now_ms))
            && (waiting_max == 0 || self.requests.len() < waiting_max)
    }

    fn way(&self, wanted: &Wanted) -> Way {
        let configured = self.settings.configured.as_ref().map(|(game, version)| (game, version));
        let named = match wanted {
            Wanted::Game { game, version } => Some((game, version)),
            Wanted::Configured => configured,
        };
        let group = named.and_then(|(game, version)| self.fleet.group(game, version));
        match (group, self.settings.source) {
            (Some(group), _) => Way::Fleet(group),
            (None, Source::Forwarded) => Way::Provider,
            (None, Source::Provider) if named.is_some() && named == configured => Way::Provider,
            (None, Source::Provider | Source::None) => Way::Nowhere,
        }
    }

    /// A request is under way from here on.
    fn open(&mut self, seeker: Seeker, prefix: Option<Prefix>, phase: Phase) -> RequestId {
        self.last_request += 1;
        let id = RequestId(self.last_request);
        if let Some(prefix) = prefix {
            self.guard.wait(prefix);
        }
        let due_ms = self.settings.limits.deadline_of(self.now_ms);
        let request = Request {
            seeker,
            prefix,
            deadline: due_ms.map(|due_ms| self.deadlines.push(due_ms, id)),
            phase,
        };
        self.requests.insert(id, request);
        self.seekers.insert(seeker, Held::Waiting(id));
        id
    }

    /// It is so no longer.
    fn end(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        if let Some(ticket) = request.deadline {
            self.deadlines.remove(ticket);
        }
        if let Some(prefix) = request.prefix {
            self.guard.release(prefix, self.now_ms);
        }
        if self.seekers.get(&request.seeker) == Some(&Held::Waiting(id)) {
            self.seekers.remove(&request.seeker);
        }
        Some(request)
    }

    /// The seeker has a place that its player has not yet claimed.
    fn hold(&mut self, seeker: Seeker, client_id: u64) {
        self.seekers.insert(seeker, Held::Given(client_id));
    }

    /// It has not, or its player came.
    fn unhold(&mut self, seeker: Seeker, client_id: u64) {
        if self.seekers.get(&seeker) == Some(&Held::Given(client_id)) {
            self.seekers.remove(&seeker);
        }
    }

    /// These places of configured servers are kept no longer. Takes back the list that it was given.
    fn settle(&mut self, mut settled: Vec<(u64, Seeker)>) {
        for (client_id, seeker) in settled.drain(..) {
            self.unhold(seeker, client_id);
        }
        self.settled = settled;
    }

    /// The last word on a request that is no longer under way, or never was.
    fn refuse(&mut self, seeker: Seeker, failure: Failure) {
        match failure.code {
            503 => self.counts.unavailable += 1,
            _ => self.counts.failed += 1,
        }
        self.tell(seeker, Feedback::Failed(failure));
    }

    fn tell(&mut self, seeker: Seeker, feedback: Feedback) {
        self.outputs.push_back(Output::Tell { seeker, feedback });
    }
}

/// Of what is due, so much of each kind is done at once: each is a frame, a closing connection and a call, some 10 us.
const DUE_MAX: usize = 128;
