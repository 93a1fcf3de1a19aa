//! The desk of the matchmaker web service: who seeks a game server, and which server each is given.
//!
//! One loop has it. It is told who asks, who left, what providers and game servers say, and the time; it says who is told
//! what, and what providers must do.
//!
//! Owns: the requests that are under way, their deadlines, the limits on them, the configured servers and their places.
//! Never: knows a wire format, makes a token, or trusts a provider to answer.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::message::game_server::{
    CertDigest, Event, Failure, Feedback, Grant, KeyIndex, Name, Placement, Report, Reported, RequestId, Seek, Seeker,
    SessionName, Wanted,
};

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
    /// The provider need not go on.
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
    /// The provider is to know that the player left, or never came.
    Released(SessionName),
}

/// What was counted, and what there is.
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
    /// Places kept for players who are to come.
    pub reserved: u64,
    /// Players on the servers, as far as is known.
    pub claimed: u64,
    /// Places given up because nobody came.
    pub unclaimed: u64,
    /// Reports taken.
    pub reports: u64,
}

/// The desk.
#[derive(Debug)]
pub struct Desk {
    settings: Settings,
    outputs: VecDeque<Output>,
    figures: Figures,
    last: u64,
}

impl Desk {
    /// Nothing under way. `seed` makes client ids: it must be secret and random outside of tests.
    pub fn new(settings: Settings, _seed: [u8; 32]) -> Self {
        Self {
            settings,
            outputs: VecDeque::new(),
            figures: Figures::default(),
            last: 0,
        }
    }

    /// Takes a request.
    pub fn seek(&mut self, seeker: Seeker, seek: Seek, _now_ms: u64) {
        let wanted = match seek.wanted {
            Wanted::Game { game, version } => Some((game, version)),
            Wanted::Configured => self.settings.configured.clone(),
        };
        self.last += 1;
        let found = self
            .settings
            .servers
            .iter()
            .find(|server| wanted == Some((server.game.clone(), server.version.clone())));
        let Some(server) = found else {
            return self.tell(seeker, Feedback::Failed(Failure::NO_SERVER));
        };
        let session = SessionName::new(&format!("S{}", self.last)).expect("letters and digits");
        let grant = Grant {
            session: session.clone(),
            client_id: self.last,
            public: server.public,
            internal: server.internal.clone(),
            cert_digest: server
                .cert_digest
                .unwrap_or(CertDigest::parse(&"00".repeat(32)).expect("64 digits")),
            key: server.key,
        };
        self.tell(seeker, Feedback::Acknowledged);
        self.tell(seeker, Feedback::Accepted(session));
        self.tell(seeker, Feedback::Progress("Ready (0)".into()));
        self.tell(seeker, Feedback::Ready(Box::new(grant)));
    }

    /// The seeker is gone, and was not told the last word.
    pub fn leave(&mut self, _seeker: Seeker, _now_ms: u64) {}

    /// Takes what a provider or the register says.
    pub fn handle_event(&mut self, _event: Event, _now_ms: u64) {}

    /// Takes what a game server says.
    pub fn report(&mut self, _report: Report, _now_ms: u64) -> Reported {
        Reported::UnknownServer
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, _now_ms: u64) {}

    /// When something is due; None: nothing is.
    pub fn poll_timeout(&self) -> Option<u64> {
        None
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What was counted.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    fn tell(&mut self, seeker: Seeker, feedback: Feedback) {
        self.outputs.push_back(Output::Tell { seeker, feedback });
    }
}
