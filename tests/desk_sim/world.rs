//! Seekers, a provider, a register and game servers that say anything at any time, read from bytes; and what must hold.
//!
//! Places and sessions agree with the model after each step. Every request gets exactly one last word, in the order that
//! clients expect, unless its seeker leaves. What a provider was asked for and nobody got is cancelled. When everybody left
//! and time has passed nothing remains.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use peer_server::ids::{ConnId, LoopId};
use peer_server::message::game_server::{
    CertDigest, Event, Failure, Feedback, KeyIndex, Name, Outcome, Placement, Report, Reported, RequestId, Seek,
    Seeker, SessionName, Wanted,
};
use peer_server::shard::desk::{Desk, Limits, Output, Server, Settings, Source};

use crate::model::{Kept, Model};

/// Reads the settings, then one operation after the other, then ends everything.
pub(crate) fn run(data: &[u8]) {
    let Some((setup, operations)) = data.split_first_chunk() else {
        return;
    };
    let mut world = World::new(*setup);
    let mut input = Input(operations);
    while !input.0.is_empty() {
        world.operate(&mut input);
    }
    world.end();
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn next(&mut self) -> usize {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                usize::from(*byte)
            }
            None => 0,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() % bound
    }
}

/// A request without its last word.
#[derive(Debug)]
struct Open {
    deadline_ms: u64,
    acknowledged: bool,
    accepted: bool,
    progressed: bool,
}

/// A request that the provider has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Going,
    /// Its server was told to its seeker.
    Given,
    Cancelled,
    /// It gave up, or said the last word.
    Over,
}

struct World {
    desk: Desk,
    model: Model,
    now_ms: u64,
    open: BTreeMap<usize, Open>,
    requests: u64,
    left: u64,
    last_words: u64,
    works: BTreeMap<RequestId, (usize, Work)>,
    /// Registrations that were not answered: client id and seeker.
    registering: BTreeMap<RequestId, (u64, usize)>,
    /// What each was given last and may leave before it hears of it, unless it asked anew.
    held: BTreeMap<usize, u64>,
    /// The newest client ids and sessions.
    client_ids: Vec<u64>,
    sessions: Vec<SessionName>,
    drawn: BTreeSet<u64>,
    /// The step may tell this one that it asked for too much while its request goes on.
    refused: Option<usize>,
    /// What the step made the desk say to the provider of sessions.
    of_sessions: Vec<Output>,
}

impl World {
    fn new([setup, shape, bounds, seed]: [u8; 4]) -> Self {
        let tight = bounds & 1 != 0;
        let server = |at: usize| Server {
            id: format!("s{at}").into(),
            public: match shape >> at & 1 != 0 && at == 2 {
                true => "[2001:db8::1]:5000".parse().unwrap(),
                false => "203.0.113.1:5000".parse().unwrap(),
            },
            internal: Vec::new(),
            game: name("chess"),
            version: name("1"),
            capacity: 1 + u32::from(shape >> (2 * at) & 3),
            cert_digest: (shape >> (at + 3) & 3 != 0).then(|| digest(1)),
            key: KeyIndex(at as u16 + 1),
        };
        let settings = Settings {
            limits: Limits {
                waiting_max: if tight { 4 } else { 0 },
                waiting_per_ip: if tight { 2 } else { 0 },
                requests_per_min_per_ip: if bounds & 2 != 0 { 5 } else { 0 },
                deadline_ms: 75_000,
                claim_ms: 62_000,
                silence_ms: 30_000,
                ipv6: bounds & 4 != 0,
            },
            servers: (0..usize::from(setup >> 3 & 3)).map(server).collect(),
            configured: Some((name("cloudy"), name("1"))),
            source: [Source::None, Source::Provider, Source::Forwarded, Source::Provider][usize::from(setup & 3)],
            registers: setup & 4 != 0,
        };
        Self {
            desk: Desk::new(settings.clone(), [seed; 32]),
            model: Model::new(settings),
            now_ms: 1000,
            open: BTreeMap::new(),
            requests: 0,
            left: 0,
            last_words: 0,
            works: BTreeMap::new(),
            registering: BTreeMap::new(),
            held: BTreeMap::new(),
            client_ids: Vec::new(),
            sessions: vec![session("none"), session("static-0000000000000001")],
            drawn: BTreeSet::new(),
            refused: None,
            of_sessions: Vec::new(),
        }
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        match input.below(16) {
            0..5 => self.seek(input),
            5 => self.leave(input.below(SEEKERS)),
            6..11 => self.event(input),
            11 | 12 => self.report(input),
            13 => self.register(input),
            _ => {
                let ms = [1, 30, 1000, 5000, 20_000, 30_000, 62_000, 75_000][input.below(8)];
                self.pass(ms, input.below(2) == 0);
            }
        }
    }

    fn seek(&mut self, input: &mut Input<'_>) {
        let (nth, ip) = (input.below(SEEKERS), input.below(3));
        let wanted = match input.below(8) {
            0..4 => game("chess"),
            4 | 5 => game("cloudy"),
            6 => Wanted::Configured,
            _ => game("go"),
        };
        let client_ip: IpAddr = match ip {
            2 => "2001:db8::9".parse().unwrap(),
            ip => [192, 0, 2, ip as u8].into(),
        };
        self.requests += 1;
        if self.open.contains_key(&nth) {
            self.refused = Some(nth);
        } else {
            let open = Open {
                deadline_ms: self.now_ms + 75_000,
                acknowledged: false,
                accepted: false,
                progressed: false,
            };
            self.open.insert(nth, open);
        }
        let seek = Seek { wanted, client_ip };
        match seeker(nth) {
            Seeker::Remote(remote) => self.desk.handle_event(Event::Asked(remote, seek), self.now_ms),
            conn => self.desk.seek(conn, Some(client_ip), seek, self.now_ms),
        }
        self.drain();
        assert_eq!(self.refused.take(), None, "it was refused");
    }

    fn leave(&mut self, nth: usize) {
        let was_open = self.open.remove(&nth).is_some();
        self.left += u64::from(was_open);
        self.registering.retain(|_, (_, seeker)| *seeker != nth);
        let registering = |kept: &Kept| kept.seeker == seeker(nth) && kept.told.is_none();
        let registering = self.model.kept.iter().find(|(_, kept)| registering(kept));
        let left = match was_open {
            true => registering.map(|(client_id, _)| *client_id),
            false => self.held.remove(&nth),
        };
        let left = left.filter(|client_id| self.model.kept.get(client_id).is_some_and(|kept| !kept.claimed));
        if let Some(kept) = left.and_then(|client_id| self.model.kept.remove(&client_id))
            && let Some((_, work)) = kept.request.and_then(|id| self.works.get_mut(&id))
        {
            *work = Work::Going;
        }
        self.desk.leave(seeker(nth), self.now_ms);
        self.drain();
        let leaves = self.works.values().any(|(by, work)| *by == nth && *work == Work::Going);
        assert!(!leaves, "nobody works for who left");
    }

    fn event(&mut self, input: &mut Input<'_>) {
        let id = match input.next() {
            choice if choice >= 230 => RequestId(choice as u64 - 228),
            choice => self.works.keys().nth_back(choice % 4).copied().unwrap_or(RequestId(1)),
        };
        let known = self.works.get(&id).copied();
        let text = |length: usize| "x".repeat(length);
        let named = session(&format!("p{}", id.0 / 2));
        let mut expected = None;
        let event = match input.below(16) {
            0..2 => Event::Accepted(id, named),
            2 => Event::Progress(id, text(input.below(2) * 250 + 7).into()),
            3..8 => {
                remember(&mut self.sessions, named.clone());
                let placement = Placement {
                    session: named,
                    public: match input.below(5) {
                        0 => "[2001:db8::2]:7000".parse().unwrap(),
                        nth => ([198, 51, 100, 1], 7000 + nth as u16).into(),
                    },
                    internal: Vec::new(),
                    cert_digest: (input.below(3) != 0).then(|| digest(2)),
                    key: KeyIndex(0),
                };
                Event::Ready(id, Box::new(placement))
            }
            8 => {
                let registers_here = self
                    .registering
                    .get(&id)
                    .and_then(|(client, _)| self.model.kept.get(client));
                let of_fleet = registers_here.is_some_and(|kept| kept.server.is_some());
                if let (Some((_, work @ Work::Going)), false) = (self.works.get_mut(&id), of_fleet) {
                    *work = Work::Over;
                    if let Some((client_id, _)) = self.registering.remove(&id) {
                        self.model.kept.remove(&client_id);
                    }
                }
                Event::Failed(id, Failure::new([503, 409][input.below(2)], "so it is"))
            }
            9 | 10 => Event::Forwarded(id, text([5, 64 * 1024 + 1][usize::from(input.below(8) == 0)]).into()),
            11 => Event::ForwardedOutcome(
                id,
                Box::new(Outcome {
                    status: 200,
                    body: text(3),
                }),
            ),
            12 => Event::End(id),
            13 | 14 => {
                let session = self.sessions[input.below(self.sessions.len())].clone();
                expected = Some(self.model.claim(&session));
                Event::Claimed(session)
            }
            _ => {
                let session = self.sessions[input.below(self.sessions.len())].clone();
                expected = Some(self.model.end(&session));
                Event::Ended(session)
            }
        };
        let accepts = matches!(event, Event::Accepted(..) | Event::Ready(..));
        self.desk.handle_event(event, self.now_ms);
        self.drain();
        assert_eq!(std::mem::take(&mut self.of_sessions), expected.unwrap_or_default());
        if let (true, Some((_, Work::Cancelled))) = (accepts, known) {
            assert_eq!(self.works[&id].1, Work::Cancelled);
        }
    }

    fn register(&mut self, input: &mut Input<'_>) {
        let choice = input.next();
        let id = self.registering.keys().nth(choice % 3).copied();
        let id = id.unwrap_or(RequestId(choice as u64));
        let event = match choice >> 4 & 3 {
            0 => Event::NotRegistered(id),
            1 => Event::Registered(id, None),
            _ => Event::Registered(id, Some(digest(3))),
        };
        self.desk.handle_event(event, self.now_ms);
        self.drain();
        assert!(!self.registering.contains_key(&id), "an answer is the last word");
    }

    fn report(&mut self, input: &mut Input<'_>) {
        let server = ["s0", "s1", "s2", "198.51.100.1", "198.51.100.1:7001", "elsewhere"][input.below(6)];
        let mut ids = |most: usize| -> Vec<u64> {
            let count = input.below(most);
            let mut id = || match (input.next(), self.client_ids.len()) {
                (choice, known) if choice >= 200 || known == 0 => choice as u64 % 4,
                (choice, known) => self.client_ids[choice % known],
            };
            (0..count).map(|_| id()).collect()
        };
        let (claimed, left) = (ids(5), ids(4));
        let players = match input.below(8) {
            players @ 0..4 => Some(players as u32),
            4 if input.below(8) == 0 => Some(u32::MAX),
            _ => None,
        };
        let report = Report {
            server: server.into(),
            players,
            claimed,
            left,
            cert_digest: (input.below(4) == 0).then(|| digest(4)),
        };
        let expected = self.model.report(&report, self.now_ms);
        let reported = self.desk.report(report, self.now_ms);
        assert_eq!(reported == Reported::Noted, expected.is_some());
        self.drain();
        assert_eq!(std::mem::take(&mut self.of_sessions), expected.unwrap_or_default());
    }

    fn pass(&mut self, ms: u64, exactly: bool) {
        let until_ms = self.now_ms + ms;
        while let Some(due_ms) = self.desk.poll_timeout().filter(|due_ms| exactly && *due_ms <= until_ms) {
            assert!(due_ms > self.now_ms, "due again at once");
            self.now_ms = due_ms;
            self.ring();
        }
        self.now_ms = until_ms;
        self.ring();
    }

    fn ring(&mut self) {
        // What is due comes with everything else that is: first the deadlines, then the places.
        self.desk.handle_timeout(self.now_ms);
        let due_ms = self.desk.poll_timeout();
        assert!(due_ms.is_none_or(|due_ms| due_ms > self.now_ms), "done in time");
        self.model.expire(self.now_ms);
        self.drain();
        let late = self.open.values().find(|open| open.deadline_ms <= self.now_ms);
        assert!(late.is_none(), "{late:?}");
    }

    fn drain(&mut self) {
        while let Some(output) = self.desk.poll_output() {
            match output {
                Output::Tell { seeker: to, feedback } => {
                    let nth = (0..SEEKERS).find(|nth| seeker(*nth) == to).unwrap();
                    self.told(nth, feedback);
                }
                Output::Submit(id, _) => {
                    let nth = self.newest();
                    self.held.remove(&nth);
                    assert!(self.works.insert(id, (nth, Work::Going)).is_none(), "ids are new");
                }
                Output::Cancel(id) => {
                    let given = self
                        .model
                        .kept
                        .values()
                        .any(|kept| kept.request == Some(id) && kept.told.is_some());
                    assert!(!given, "what was given is not taken away");
                    if let Some((_, work)) = self.works.get_mut(&id) {
                        *work = Work::Cancelled;
                    }
                    if let Some((client_id, _)) = self.registering.remove(&id) {
                        self.model.kept.remove(&client_id);
                    }
                }
                Output::Register {
                    id,
                    client_id,
                    placement,
                    wants_digest,
                } => {
                    assert!(self.model.settings.registers);
                    assert_eq!(wants_digest, placement.cert_digest.is_none());
                    let nth = self.works.get(&id).map_or_else(|| self.newest(), |(nth, _)| *nth);
                    let work = self.works.contains_key(&id).then_some(id);
                    self.keep(nth, client_id, placement.session.clone(), placement.key, work, None);
                    self.held.remove(&nth);
                    self.registering.insert(id, (client_id, nth));
                }
                claimed @ (Output::Claimed(_) | Output::Released(_)) => self.of_sessions.push(claimed),
            }
        }
        self.check();
    }

    /// Whose request has come to nothing yet that anybody knows of.
    fn newest(&self) -> usize {
        let quiet = |nth: &usize| !self.works.values().any(|(by, work)| by == nth && *work == Work::Going);
        let asked = |nth: &usize| !self.registering.values().any(|(_, by)| by == nth);
        let mut new = self.open.keys().copied().filter(|nth| quiet(nth) && asked(nth));
        let nth = new.next().expect("somebody asked");
        assert_eq!(new.next(), None);
        nth
    }

    fn told(&mut self, nth: usize, feedback: Feedback) {
        if self.refused == Some(nth) {
            assert_eq!(feedback, Feedback::Failed(Failure::TOO_MANY));
            self.refused = None;
            self.last_words += 1;
            return;
        }
        let deadline_ms = self.open.get(&nth).expect("a request is under way").deadline_ms;
        let open = self.open.get_mut(&nth).unwrap();
        match feedback {
            Feedback::Acknowledged => assert!(!std::mem::replace(&mut open.acknowledged, true)),
            Feedback::Accepted(_) => {
                assert!(open.acknowledged && !std::mem::replace(&mut open.accepted, true));
            }
            Feedback::Progress(_) => open.progressed = true,
            Feedback::Forwarded(_) => assert!(!open.acknowledged),
            Feedback::Ready(grant) => {
                assert!(open.acknowledged && open.accepted && open.progressed);
                self.last_word(nth);
                let registered = self
                    .registering
                    .iter()
                    .find(|(_, (client_id, _))| *client_id == grant.client_id);
                let registered = registered.map(|(id, _)| *id);
                assert_eq!(registered.is_some(), self.model.settings.registers);
                let until_ms = self.now_ms + 62_000;
                match registered {
                    Some(id) => {
                        self.registering.remove(&id);
                        self.model.kept.get_mut(&grant.client_id).unwrap().told = Some(until_ms);
                    }
                    None => {
                        let work = self.works.iter().rev().find(|(_, work)| **work == (nth, Work::Going));
                        let work = work.map(|(id, _)| *id);
                        self.keep(
                            nth,
                            grant.client_id,
                            grant.session.clone(),
                            grant.key,
                            work,
                            Some(until_ms),
                        );
                    }
                }
                self.held.insert(nth, grant.client_id);
                let request = self.model.kept[&grant.client_id].request;
                if let Some((_, work)) = request.and_then(|id| self.works.get_mut(&id)) {
                    *work = Work::Given;
                }
            }
            Feedback::Failed(failure) => {
                assert_eq!(failure == Failure::TIMED_OUT, deadline_ms <= self.now_ms, "{failure:?}");
                self.last_word(nth);
                if let Some(id) = self
                    .registering
                    .iter()
                    .find(|(_, (_, by))| *by == nth)
                    .map(|(id, _)| *id)
                {
                    let (client_id, _) = self.registering.remove(&id).unwrap();
                    self.model.kept.remove(&client_id);
                }
                let going = self.works.values().any(|work| *work == (nth, Work::Going));
                assert!(!going, "what comes to nothing is cancelled");
            }
            Feedback::ForwardedOutcome(_) | Feedback::End => {
                self.last_word(nth);
                for (_, work) in self.works.values_mut().filter(|work| **work == (nth, Work::Going)) {
                    *work = Work::Over;
                }
            }
        }
    }

    fn last_word(&mut self, nth: usize) {
        self.open.remove(&nth);
        self.last_words += 1;
    }

    /// A place or a session is somebody's.
    fn keep(
        &mut self,
        nth: usize,
        client_id: u64,
        named: SessionName,
        key: KeyIndex,
        request: Option<RequestId>,
        told: Option<u64>,
    ) {
        assert!(client_id != 0 && self.drawn.insert(client_id), "client ids are new");
        let server = usize::from(key.0).checked_sub(1);
        assert_eq!(server.is_some(), request.is_none());
        if server.is_some() {
            assert_eq!(server, self.model.choose(self.now_ms), "the right server was chosen");
        }
        remember(&mut self.client_ids, client_id);
        remember(&mut self.sessions, named.clone());
        let kept = Kept {
            seeker: seeker(nth),
            server,
            session: named,
            request,
            told,
            claimed: false,
        };
        self.model.kept.insert(client_id, kept);
        self.model.order.push(client_id);
    }

    fn check(&self) {
        self.desk.check_invariants();
        let figures = self.desk.figures();
        assert_eq!((figures.reserved, figures.claimed), self.model.figures());
        assert_eq!(figures.unclaimed, self.model.unclaimed);
        assert_eq!(
            (figures.requests, figures.waiting),
            (self.requests, self.open.len() as u64)
        );
        assert_eq!(figures.abandoned, self.left);
        assert_eq!(figures.requests, self.last_words + self.left + figures.waiting);
    }

    /// Everybody leaves, and time passes.
    fn end(mut self) {
        for nth in 0..SEEKERS {
            if self.open.contains_key(&nth) && nth % 2 == 0 {
                self.leave(nth);
            }
        }
        self.pass(200_000, true);
        assert!(self.open.is_empty() && self.desk.is_idle());
        let going = self.works.values().find(|(_, work)| *work == Work::Going);
        assert!(going.is_none(), "{going:?}");
        for session in std::mem::take(&mut self.sessions) {
            self.model.end(&session);
            self.desk.handle_event(Event::Ended(session), self.now_ms);
        }
        for at in 0..self.model.places.len() {
            let report = Report {
                server: self.model.settings.servers[at].id.clone(),
                players: Some(0),
                claimed: Vec::new(),
                left: Vec::new(),
                cert_digest: None,
            };
            self.model.report(&report, self.now_ms);
            self.desk.report(report, self.now_ms);
        }
        self.drain();
        let sessions = self.model.kept.len() as u64;
        assert_eq!(
            self.desk.figures().claimed,
            sessions,
            "only sessions that nobody ended are left"
        );
    }
}

fn seeker(nth: usize) -> Seeker {
    match nth < SEEKERS - 3 {
        true => Seeker::Conn {
            loop_id: LoopId::new(0),
            conn: ConnId::new(nth as u32, 1),
        },
        false => Seeker::Remote(nth as u64),
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn game(text: &str) -> Wanted {
    let (game, version) = (name(text), name("1"));
    Wanted::Game { game, version }
}

fn session(text: &str) -> SessionName {
    SessionName::new(text).unwrap()
}

fn digest(byte: u8) -> CertDigest {
    CertDigest::parse(&format!("{byte:02x}").repeat(32)).unwrap()
}

/// Keeps the newest.
fn remember<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if !all.contains(&one) {
        all.push(one);
        if all.len() > 16 {
            all.remove(2);
        }
    }
}

const SEEKERS: usize = 10;
