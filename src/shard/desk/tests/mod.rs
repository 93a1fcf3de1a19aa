//! The desk's rules, each by an example.
#![allow(clippy::unwrap_used)]

mod fleet;
mod forwarded;
mod limits;
mod provider;

use super::{Desk, Figures, Limits, Output, Server, Settings, Source};
use crate::ids::{ConnId, LoopId};
use crate::message::game_server::{
    CertDigest, Failure, Feedback, Grant, KeyIndex, Name, Placement, Report, Reported, RequestId, Seek, Seeker,
    SessionName, Wanted,
};

/// A desk whose invariants are proved whenever it is asked what to do.
struct Table {
    desk: Desk,
    now_ms: u64,
}

impl Table {
    fn new(settings: Settings) -> Self {
        let desk = Desk::new(settings, [7; 32]);
        Self { desk, now_ms: 1000 }
    }

    /// What the desk says since it was last asked.
    fn outputs(&mut self) -> Vec<Output> {
        let outputs = std::iter::from_fn(|| self.desk.poll_output()).collect();
        self.desk.check_invariants();
        outputs
    }

    fn seek(&mut self, nth: u32, wanted: Wanted) -> Vec<Output> {
        let client_ip = std::net::Ipv4Addr::from_bits(0xc000_0200 + nth).into();
        let seek = Seek { wanted, client_ip };
        self.desk.seek(conn(nth), Some(client_ip), seek, self.now_ms);
        self.outputs()
    }

    /// A seeker's whole dialogue with a configured server.
    fn seat(&mut self, nth: u32) -> Option<Grant> {
        granted(&self.seek(nth, game("chess")))
    }

    fn leave(&mut self, nth: u32) -> Vec<Output> {
        self.desk.leave(conn(nth), self.now_ms);
        self.outputs()
    }

    fn event(&mut self, event: super::Event) -> Vec<Output> {
        self.desk.handle_event(event, self.now_ms);
        self.outputs()
    }

    /// Time passes, and what is due is done.
    fn pass(&mut self, ms: u64) -> Vec<Output> {
        self.now_ms += ms;
        // Not all that is due is done at once.
        let mut outputs = Vec::new();
        while self.desk.poll_timeout().is_some_and(|due_ms| due_ms <= self.now_ms) {
            self.desk.handle_timeout(self.now_ms);
            let more = self.outputs();
            assert!(!more.is_empty() || self.desk.poll_timeout().is_none_or(|due_ms| due_ms > self.now_ms));
            outputs.extend(more);
        }
        outputs
    }

    fn report(&mut self, server: &str, players: Option<u32>, claimed: &[u64], left: &[u64]) -> Vec<Output> {
        let report = report(server, players, claimed, left);
        assert_eq!(self.desk.report(report, self.now_ms), Reported::Noted);
        self.outputs()
    }

    fn reports_digest(&mut self, server: &str, byte: u8) -> Reported {
        let cert_digest = Some(digest(byte));
        let report = Report {
            cert_digest,
            ..report(server, None, &[], &[])
        };
        self.desk.report(report, self.now_ms)
    }

    fn figures(&self) -> Figures {
        self.desk.figures()
    }

    /// Places kept and taken.
    fn places(&self) -> (u64, u64) {
        (self.figures().reserved, self.figures().claimed)
    }
}

fn settings(servers: &[Server], source: Source) -> Settings {
    Settings {
        limits: Limits {
            waiting_max: 100,
            waiting_per_ip: 10,
            requests_per_min_per_ip: 0,
            deadline_ms: 75_000,
            claim_ms: 62_000,
            silence_ms: 30_000,
            ipv6: false,
        },
        servers: servers.to_vec(),
        configured: Some((name("cloudy"), name("1"))),
        source,
        registers: false,
    }
}

fn registering(servers: &[Server], source: Source) -> Settings {
    Settings {
        registers: true,
        ..settings(servers, source)
    }
}

fn server(id: &str, capacity: u32) -> Server {
    Server {
        id: id.into(),
        public: "203.0.113.1:5000".parse().unwrap(),
        internal: Vec::new(),
        game: name("chess"),
        version: name("1"),
        capacity,
        cert_digest: Some(digest(1)),
        key: KeyIndex(id.len() as u16),
    }
}

fn report(server: &str, players: Option<u32>, claimed: &[u64], left: &[u64]) -> Report {
    Report {
        server: server.into(),
        players,
        claimed: claimed.to_vec(),
        left: left.to_vec(),
        cert_digest: None,
    }
}

fn placement(session: &str) -> Box<Placement> {
    Box::new(Placement {
        session: session_name(session),
        public: "198.51.100.1:6000".parse().unwrap(),
        internal: Vec::new(),
        cert_digest: Some(digest(2)),
        key: KeyIndex(0),
    })
}

fn without_digest(session: &str) -> Box<Placement> {
    let mut placement = placement(session);
    placement.cert_digest = None;
    placement
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn session_name(text: &str) -> SessionName {
    SessionName::new(text).unwrap()
}

fn digest(byte: u8) -> CertDigest {
    CertDigest::parse(&format!("{byte:02x}").repeat(32)).unwrap()
}

fn game(text: &str) -> Wanted {
    let (game, version) = (name(text), name("1"));
    Wanted::Game { game, version }
}

fn conn(nth: u32) -> Seeker {
    Seeker::Conn {
        loop_id: LoopId::new(0),
        conn: ConnId::new(nth, 1),
    }
}

fn tell(nth: u32, feedback: Feedback) -> Output {
    let seeker = conn(nth);
    Output::Tell { seeker, feedback }
}

fn failed(nth: u32, failure: Failure) -> Output {
    tell(nth, Feedback::Failed(failure))
}

fn progress(nth: u32, text: &str) -> Output {
    tell(nth, Feedback::Progress(text.into()))
}

fn accepted(nth: u32, session: &str) -> Output {
    tell(nth, Feedback::Accepted(session_name(session)))
}

fn granted(outputs: &[Output]) -> Option<Grant> {
    outputs.iter().find_map(|output| match output {
        Output::Tell {
            feedback: Feedback::Ready(grant),
            ..
        } => Some((**grant).clone()),
        _ => None,
    })
}

/// The request whose client id is to be registered, and that client id.
fn registered(outputs: &[Output]) -> (RequestId, u64) {
    let found = outputs.iter().find_map(|output| match output {
        Output::Register { id, client_id, .. } => Some((*id, *client_id)),
        _ => None,
    });
    found.unwrap()
}

const NO_DIGEST: Failure = Failure::new(503, "no certificate digest");
