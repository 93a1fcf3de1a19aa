//! The lobby dialect's state over several loops, with mail that takes its time.
//!
//! Owns: a world without sockets, in which connections and addresses belong to loops as a kernel would have it.
//! Never: knows a wire format.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may say so with a panic")]

mod decisions;
mod start;
mod storm;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::ids::{ConnId, Homes, LoopId};
use crate::message::matchmaker::{Ask, Code, Event, Refusal, Reply, Request, SessionId, Told};
use crate::message::punch::{Dropped, Path};
use crate::shard::punch::{self, Limits, Mail, Output, Permits, Punch};

/// A connection, and the loop that accepted it.
type Client = (usize, ConnId);

struct World {
    homes: Homes,
    loops: Vec<Punch>,
    permits: Arc<Permits>,
    /// Mail under way by sender and receiver: between two loops it keeps its order.
    links: BTreeMap<(usize, usize), VecDeque<Mail>>,
    random: StdRng,
    /// Mail waits until it is asked for.
    slow: bool,
    now_ms: u64,
    connections: u32,
    told: Vec<(Client, Told)>,
    sent: Vec<(Path, Event)>,
}

impl World {
    fn new(loops: u16) -> Self {
        Self::with(loops, Limits::default(), 1)
    }

    fn with(loops: u16, limits: Limits, seed: u64) -> Self {
        let homes = Homes::new(loops, [seed, 2, 3, 4]);
        let (limits, permits) = (Arc::new(limits), Arc::new(Permits::default()));
        let punch = |id: u16| {
            let mut secret = [7; 32];
            secret[0] = id as u8;
            secret[1..9].copy_from_slice(&seed.to_le_bytes());
            Punch::new(LoopId::new(id), homes.clone(), limits.clone(), permits.clone(), secret)
        };
        Self {
            loops: (0..loops).map(punch).collect(),
            homes,
            permits,
            links: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
            slow: false,
            now_ms: 1,
            connections: 0,
            told: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Where the kernel delivers an address's datagrams.
    fn loop_of(&self, remote: SocketAddr) -> usize {
        self.homes.of_key(&remote).index()
    }

    fn collect(&mut self, from: usize) {
        while let Some(output) = self.loops[from].poll_output() {
            match output {
                Output::Datagram {
                    path,
                    event: punch::Event::Matchmaker(event),
                } => {
                    assert_eq!(
                        from,
                        self.loop_of(path.remote),
                        "what an address is told leaves its loop"
                    );
                    self.sent.push((path, event));
                }
                Output::Connection { conn, told } => self.told.push(((from, conn), told)),
                Output::Mail { to, mail, .. } => self.links.entry((from, to.index())).or_default().push_back(mail),
                other => panic!("{other:?}"),
            }
        }
        if !self.slow {
            self.settle();
        }
    }

    /// One piece of mail arrives, of any link. False: none is under way.
    fn deliver(&mut self) -> bool {
        self.links.retain(|_, link| !link.is_empty());
        let links: Vec<(usize, usize)> = self.links.keys().copied().collect();
        if links.is_empty() {
            return false;
        }
        let link = links[self.random.random_range(0..links.len())];
        let mail = self.links.get_mut(&link).and_then(VecDeque::pop_front).unwrap();
        self.loops[link.1].handle_mail(mail, self.now_ms);
        self.collect(link.1);
        true
    }

    fn settle(&mut self) {
        while self.deliver() {}
    }

    /// Lets time pass, timer after timer.
    fn pass(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        loop {
            let due = self.loops.iter().filter_map(Punch::poll_timeout).min();
            let Some(due_ms) = due.filter(|due_ms| *due_ms <= until_ms) else {
                break;
            };
            self.now_ms = self.now_ms.max(due_ms);
            for index in 0..self.loops.len() {
                self.loops[index].handle_timeout(self.now_ms);
                let next = self.loops[index].poll_timeout();
                assert!(
                    next.is_none_or(|next| next > self.now_ms),
                    "a timer that is due was left"
                );
                self.collect(index);
            }
        }
        self.now_ms = until_ms;
    }

    fn open(&mut self, at: usize, ip: &str) -> Client {
        self.connections += 1;
        let conn = ConnId::new(self.connections, self.connections);
        let remote = SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 40_000);
        self.loops[at].open_matchmaker(conn, remote, self.now_ms);
        self.collect(at);
        (at, conn)
    }

    fn close(&mut self, (at, conn): Client) {
        self.loops[at].close_matchmaker(conn, self.now_ms);
        self.collect(at);
    }

    fn post(&mut self, (at, conn): Client, ask: Ask) {
        self.loops[at].ask_matchmaker(conn, ask, self.now_ms);
        self.collect(at);
    }

    /// Asks and takes the one answer.
    fn ask(&mut self, client: Client, ask: Ask) -> Reply {
        let before = self.told.len();
        self.post(client, ask);
        match self.told[before..] {
            [(to, Told::Reply(reply))] if to == client => reply,
            ref other => panic!("{ask:?} was answered {other:?}"),
        }
    }

    fn datagram(&mut self, remote: &str, request: Request) {
        let remote: SocketAddr = remote.parse().unwrap();
        let at = self.loop_of(remote);
        let path = Path {
            socket: 0,
            local: None,
            remote,
        };
        self.loops[at].handle_matchmaker(path, request, self.now_ms);
        self.collect(at);
    }

    fn claim(&mut self, remote: &str, session: SessionId, sequence: u16) {
        self.datagram(remote, Request::Endpoint { session, sequence });
    }

    /// What was sent to this address since the last call.
    fn sent_to(&mut self, remote: &str) -> Vec<Event> {
        let remote: SocketAddr = remote.parse().unwrap();
        let (to_it, others) = std::mem::take(&mut self.sent)
            .into_iter()
            .partition(|(path, _)| path.remote == remote);
        self.sent = others;
        let to_it: Vec<(Path, Event)> = to_it;
        to_it.into_iter().map(|(_, event)| event).collect()
    }

    /// A connection with a session.
    fn client(&mut self, at: usize, ip: &str) -> (Client, SessionId) {
        let client = self.open(at, ip);
        assert_eq!(self.told.pop(), Some((client, Told::Admitted)));
        let session = self.session(client);
        (client, session)
    }

    fn session(&mut self, client: Client) -> SessionId {
        match self.ask(client, Ask::NewClient) {
            Reply::Session(session) => session,
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, (client, session): (Client, SessionId)) -> Code {
        match self.ask(client, create(session)) {
            Reply::Code(code) => code,
            other => panic!("{other:?}"),
        }
    }

    fn dropped(&self, reason: Dropped) -> u64 {
        let counted = self.loops.iter().map(|punch| punch.counters().dropped[reason as usize]);
        counted.sum()
    }

    /// The sessions and lobbies of all loops.
    fn held(&self) -> (usize, usize) {
        let each = self.loops.iter().map(Punch::census);
        each.fold((0, 0), |(sessions, lobbies), census| {
            (
                sessions + census.matchmaker_sessions,
                lobbies + census.matchmaker_lobbies,
            )
        })
    }

    fn assert_empty(&self) {
        for punch in &self.loops {
            assert!(punch.matchmaker.is_empty(), "{:?}", punch.matchmaker);
            assert!(!punch.guards.holds_any(), "a prefix still holds something");
        }
        let permits = &self.permits;
        assert_eq!(permits.matchmaker_connections.now(), 0);
        assert_eq!(permits.matchmaker_sessions.now(), 0);
        assert_eq!(permits.matchmaker_lobbies.now(), 0);
    }
}

fn create(session: SessionId) -> Ask {
    Ask::Create { session: Some(session) }
}

fn join(code: Code, session: SessionId) -> Ask {
    Ask::Join {
        code: Some(code),
        session: Some(session),
    }
}

fn start(code: Code, session: SessionId) -> Ask {
    Ask::Start {
        code: Some(code),
        session: Some(session),
    }
}

fn refused(refusal: Refusal) -> Reply {
    Reply::Refused(refusal)
}
