//! The punch state of one to three loops: any datagrams, connections and times, with mail that is late or lost.
//!
//! Input: one byte for the number of loops and the limits, then operations of a few bytes each.
//! Property: no loop is due again at once, no datagram is longer than a client reads, whoever has proved nothing is told no more
//! than was decided, every request of a connection gets one answer, the bounds hold, and nothing is left after silence.
#![no_main]

#[path = "../../tests/punch/wire.rs"]
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use peer_server::codec::protobuf::natpunch::{self, message::Content};
use peer_server::dialect::{matchmaker, simple};
use peer_server::ids::{ConnId, Homes, LoopId};
use peer_server::message::matchmaker::{Ask, Code, Event as Lobby, Reply, Request, SessionId, Told};
use peer_server::message::natpunch::Event as Natpunch;
use peer_server::message::punch::Path;
use peer_server::message::simple::{Endpoint, Event as Simple};
use peer_server::shard::punch::{Event, Limits, Mail, Output, Permits, Punch};
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let Some((setup, operations)) = data.split_first() else {
        return;
    };
    let mut world = World::new(*setup);
    let mut input = operations.iter().copied();
    while let Some(operation) = input.next() {
        world.operate(operation, &mut input);
    }
    world.end();
});

const SECOND_MS: u64 = 1000;
const START_MS: u64 = 1_000_000;
/// Longest answer to a registration: an IPv6 address takes it.
const REGISTERED_MAX: usize = 100;
const IPS: usize = 4;
const PORTS: usize = 4;

/// What was told to an address and came from it.
#[derive(Default)]
struct Account {
    /// When it was answered in the ASCII dialect.
    answered: VecDeque<u64>,
    /// It has kept a session alive whose id it was told.
    kept_alive: bool,
    ids: Vec<String>,
    /// Bytes in the protobuf dialect, and registrations.
    asked: usize,
    told: usize,
    registrations: usize,
    /// It has shown that it knows an id of a client.
    named_client: bool,
    /// Keep-alives and endpoints in the lobby dialect, less those that were answered.
    keep_alives: usize,
    endpoints: usize,
}

struct Conn {
    at: usize,
    remote: SocketAddr,
    admitted: bool,
    waiting: bool,
    session: Option<SessionId>,
}

struct World {
    /// In the end it is tried whether all is given back.
    probes: bool,
    limits: Arc<Limits>,
    permits: Arc<Permits>,
    loops: Vec<Punch>,
    /// Mail under way, by sender and receiver, each in order; whether it may be lost.
    links: Vec<VecDeque<(Mail, bool)>>,
    conns: BTreeMap<ConnId, Conn>,
    conns_made: u32,
    accounts: BTreeMap<SocketAddr, Account>,
    simple_ids: Vec<String>,
    clients: Vec<String>,
    lobbies: Vec<String>,
    sessions: Vec<SessionId>,
    codes: Vec<Code>,
    sequences: Vec<u16>,
    now_ms: u64,
}

impl World {
    fn new(setup: u8) -> Self {
        let loops = 1 + usize::from(setup & 3).min(2);
        let homes = Homes::new(loops as u16, [1, 2, 3, 4]);
        let tight = setup & 4 != 0;
        let limits = Arc::new(Limits {
            registrations_per_min_per_ip: if tight { 5 } else { 0 },
            sessions_per_ip: if tight { 2 } else { 8 },
            sessions_max: if tight { 4 } else { 100 },
            misses_per_min_per_ip: if tight { 3 } else { 0 },
            simple_id_codes: if setup & 8 != 0 { 2 } else { 4 },
            simple_joins_per_session: if tight { 3 } else { 64 },
            natpunch_lobbies_max: if tight { 2 } else { 100 },
            natpunch_lobbies_per_client: if tight { 1 } else { 4 },
            natpunch_joins_per_sec: if setup & 16 != 0 { 2 } else { 0 },
            matchmaker_connections_per_ip: if tight { 2 } else { 6 },
            matchmaker_connections_max: if tight { 4 } else { 100 },
            matchmaker_lobbies_per_session: if tight { 1 } else { 4 },
            ..Limits::default()
        });
        let permits = Arc::new(Permits::default());
        let punch = |index: usize| {
            let id = LoopId::new(index as u16);
            Punch::new(id, homes.clone(), limits.clone(), permits.clone(), [index as u8; 32])
        };
        Self {
            probes: setup & 0x60 == 0,
            loops: (0..loops).map(punch).collect(),
            links: (0..loops * loops).map(|_| VecDeque::new()).collect(),
            limits,
            permits,
            conns: BTreeMap::new(),
            conns_made: 0,
            accounts: BTreeMap::new(),
            simple_ids: vec!["socynxlrbkbecycycycy".to_owned(), "nobody".to_owned()],
            clients: vec!["nobody".to_owned()],
            lobbies: vec!["lobby_0".to_owned()],
            sessions: Vec::new(),
            codes: Vec::new(),
            sequences: vec![1, 2],
            now_ms: START_MS,
        }
    }

    fn operate(&mut self, operation: u8, input: &mut impl Iterator<Item = u8>) {
        let mut next = || usize::from(input.next().unwrap_or(0));
        match operation % 16 {
            0..4 => self.simple(next(), next(), next()),
            4..8 => self.natpunch(next(), next(), next(), next()),
            8..10 => self.lobby_datagram(next(), next(), next()),
            10 => self.open(next(), next()),
            11 | 12 => self.ask(next(), next(), next()),
            13 => match next() {
                conn @ 0..32 => {
                    if let Some(conn) = self.pick_conn(conn) {
                        self.close(conn);
                    }
                }
                len => {
                    let from = address(next());
                    let bytes: Vec<u8> = (0..len).map(|_| next() as u8).collect();
                    self.raw(from, &bytes);
                }
            },
            14 => {
                let (link, count) = (next(), next());
                match count {
                    0xff => self.lose(link),
                    count => (0..=count % 8).for_each(|nth| self.deliver(link + nth)),
                }
            }
            _ => {
                let ms = [0, 1, 20, 100, 200, 700, 1000, 2000, 5000, 10_000, 30_000, 60_000];
                let code = next();
                if code & 0x80 != 0 {
                    self.settle();
                }
                self.pass(ms[(code & 0x7f) % ms.len()]);
            }
        }
        self.check();
    }

    fn simple(&mut self, from: usize, verb: usize, which: usize) {
        let from = address(from);
        let local = ["wzgjahmswevl", "sscycyahtupg", "cyahjc", "qqqqqqqqqqqq"][which / 64];
        let own = self.accounts.get(&from).and_then(|account| account.ids.last().cloned());
        let id = match own.filter(|_| verb & 0x40 == 0) {
            Some(id) => id,
            None => pick(&self.simple_ids, which),
        };
        let text = match verb % 8 {
            0 | 1 => format!("HS:{local}"),
            2 | 3 => format!("JS:{local}:{}", pick(&self.simple_ids, which)),
            4 => format!("RS:{local}"),
            5 | 6 => format!("KA:{id}"),
            _ => format!("CS:{id}"),
        };
        let account = self.accounts.entry(from).or_default();
        account.kept_alive |= text.starts_with("KA:") && account.ids.contains(&id);
        self.datagram(from, text.as_bytes());
    }

    fn natpunch(&mut self, from: usize, verb: usize, who: usize, which: usize) {
        let from = address(from);
        let client_id = pick(&self.clients, who);
        let lobby_id = pick(&self.lobbies, which);
        let other = pick(&self.clients, which);
        let content = match verb % 16 {
            0 | 1 => Content::RegisterRequest(natpunch::RegisterRequest {
                local_endpoint: (verb & 0x40 == 0).then(|| natpunch::Endpoint {
                    ip_address: ["::", "192.168.0.1", "fe80::1", "x"][which % 4].to_owned(),
                    port: 80,
                }),
            }),
            2..4 => Content::KeepAlive(natpunch::KeepAlive { client_id }),
            4 => Content::LobbyListRequest(natpunch::LobbyListRequest {
                request_id: if which & 1 == 0 {
                    format!("r{client_id}")
                } else {
                    String::new()
                },
            }),
            5 | 6 => Content::CreateLobbyRequest(natpunch::CreateLobbyRequest {
                lobby_name: "n".repeat(which % 70),
                client_id,
                max_players: which as u32 % 16,
            }),
            7..10 => Content::JoinLobbyRequest(natpunch::JoinLobbyRequest { lobby_id, client_id }),
            10..12 => Content::PeerConnectionReady(natpunch::PeerConnectionReady {
                lobby_id,
                new_peer_id: client_id,
            }),
            12 => Content::LeaveLobbyRequest(natpunch::LeaveLobbyRequest { lobby_id, client_id }),
            13 | 14 => Content::ConnectRequest(natpunch::ConnectRequest {
                destination_client_id: other,
                source_client_id: client_id,
                ..natpunch::ConnectRequest::default()
            }),
            _ => Content::DebugMessage(natpunch::DebugMessage::default()),
        };
        let registers = matches!(content, Content::RegisterRequest(_));
        let bytes = natpunch::Message { content: Some(content) }.encode_to_vec();
        let named = pick(&self.clients, who).len() > 6 && !registers;
        let account = self.accounts.entry(from).or_default();
        account.asked += bytes.len();
        account.registrations += usize::from(registers);
        account.named_client |= named;
        self.datagram(from, &bytes);
    }

    fn lobby_datagram(&mut self, from: usize, verb: usize, which: usize) {
        let from = address(from);
        if self.loops[self.at(from)].is_natpunch(&from) {
            return;
        }
        let account = self.accounts.entry(from).or_default();
        let request = match verb % 4 {
            0 => {
                account.keep_alives += 1;
                Request::KeepAlive
            }
            1 => Request::Ack {
                sequence: pick(&self.sequences, which),
            },
            _ => {
                let Some(session) = (!self.sessions.is_empty()).then(|| pick(&self.sessions, which)) else {
                    return;
                };
                account.endpoints += 1;
                let sequence = 1 + (verb / 16) as u16;
                Request::Endpoint { session, sequence }
            }
        };
        let at = self.at(from);
        self.loops[at].handle_matchmaker(path(from), request, self.now_ms);
        self.drain(at);
    }

    /// Any bytes: they may be any one message.
    fn raw(&mut self, from: SocketAddr, bytes: &[u8]) {
        let has = |id: &String| bytes.windows(id.len()).any(|window| window == id.as_bytes());
        let named = self.clients.iter().skip(1).any(has);
        let account = self.accounts.entry(from).or_default();
        account.asked += bytes.len();
        account.registrations += 1;
        account.keep_alives += 1;
        account.endpoints += 1;
        account.named_client |= named;
        account.kept_alive |= bytes.starts_with(b"KA:");
        self.datagram(from, bytes);
    }

    fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        let public: SocketAddrV4 = "203.0.113.77:8070".parse().unwrap();
        let at = self.at(from);
        let _ = wire::receive(&mut self.loops[at], path(from), bytes, Some(public), self.now_ms);
        self.drain(at);
    }

    fn open(&mut self, remote: usize, at: usize) {
        let (remote, at) = (address(remote), at % self.loops.len());
        let id = ConnId::new(self.conns_made, 1);
        self.conns_made += 1;
        let conn = Conn {
            at,
            remote: SocketAddr::new(remote.ip(), 0),
            admitted: false,
            waiting: true,
            session: None,
        };
        let remote = conn.remote;
        self.conns.insert(id, conn);
        self.loops[at].open_matchmaker(id, remote, self.now_ms);
        self.drain(at);
    }

    fn ask(&mut self, conn: usize, verb: usize, which: usize) {
        let Some(id) = self.pick_conn(conn) else { return };
        let conn = self.conns.get_mut(&id).unwrap();
        if std::mem::replace(&mut conn.waiting, true) {
            return;
        }
        let at = conn.at;
        let session = conn.session.filter(|_| verb & 0x40 == 0);
        let session = session.or_else(|| (!self.sessions.is_empty()).then(|| pick(&self.sessions, which)));
        let code = (!self.codes.is_empty()).then(|| pick(&self.codes, which));
        let ask = match verb % 16 {
            0..4 => Ask::NewClient,
            4..6 => Ask::Create { session },
            6..10 => Ask::Join { code, session },
            10..14 => Ask::Start { code, session },
            14 => Ask::Unknown,
            _ => Ask::Bad,
        };
        self.loops[at].ask_matchmaker(id, ask, self.now_ms);
        self.drain(at);
    }

    fn close(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.remove(&id) {
            self.loops[conn.at].close_matchmaker(id, self.now_ms);
            self.drain(conn.at);
        }
    }

    fn pick_conn(&self, nth: usize) -> Option<ConnId> {
        self.conns.keys().nth(nth % self.conns.len().max(1)).copied()
    }

    /// The loop that this address's datagrams arrive at.
    fn at(&self, from: SocketAddr) -> usize {
        let [.., last] = match from.ip() {
            IpAddr::V4(ip) => ip.octets(),
            IpAddr::V6(ip) => [0, 0, 0, ip.octets()[15]],
        };
        (usize::from(last) + usize::from(from.port())) % self.loops.len()
    }

    fn deliver(&mut self, link: usize) {
        let link = link % self.links.len();
        if let Some((mail, _)) = self.links[link].pop_front() {
            let to = link % self.loops.len();
            self.loops[to].handle_mail(mail, self.now_ms);
            self.drain(to);
        }
    }

    fn lose(&mut self, link: usize) {
        let link = link % self.links.len();
        if self.links[link].front().is_some_and(|(_, droppable)| *droppable) {
            self.links[link].pop_front();
        }
    }

    fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some(busy) = (0..self.links.len()).find(|link| !self.links[*link].is_empty()) else {
                return;
            };
            self.deliver(busy);
        }
        panic!("mail without end");
    }

    fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while let Some(due) = self.due().filter(|due| *due <= until) {
            self.now_ms = self.now_ms.max(due);
            self.ring();
        }
        self.now_ms = until;
    }

    fn due(&self) -> Option<u64> {
        self.loops.iter().filter_map(Punch::poll_timeout).min()
    }

    fn ring(&mut self) {
        for at in 0..self.loops.len() {
            if self.loops[at].poll_timeout().is_none_or(|due| due > self.now_ms) {
                continue;
            }
            self.loops[at].handle_timeout(self.now_ms);
            let next = self.loops[at].poll_timeout();
            assert!(next.is_none_or(|next| next > self.now_ms), "due again at once");
            self.drain(at);
        }
    }

    fn drain(&mut self, at: usize) {
        let mut closed = Vec::new();
        while let Some(output) = self.loops[at].poll_output() {
            match output {
                Output::Mail { to, mail, droppable } => {
                    assert_ne!(to.index(), at);
                    let link = at * self.loops.len() + to.index();
                    self.links[link].push_back((mail, droppable));
                }
                Output::Datagram { path, event } => self.told(path.remote, &event),
                Output::Connection { conn, told } => match told {
                    Told::Closed => closed.push(conn),
                    Told::Admitted => {
                        let conn = self.conns.get_mut(&conn).expect("not closed");
                        assert!(conn.waiting && !std::mem::replace(&mut conn.admitted, true));
                        conn.waiting = false;
                    }
                    Told::Reply(reply) => self.replied(conn, reply),
                },
            }
        }
        for conn in closed {
            self.close(conn);
        }
    }

    fn replied(&mut self, conn: ConnId, reply: Reply) {
        let conn = self.conns.get_mut(&conn).expect("not closed");
        assert!(
            conn.admitted && std::mem::replace(&mut conn.waiting, false),
            "asked for"
        );
        match reply {
            Reply::Session(session) => {
                conn.session = Some(session);
                remember(&mut self.sessions, session);
            }
            Reply::Code(code) => remember(&mut self.codes, code),
            Reply::Done | Reply::Refused(_) => {}
        }
        let mut line = Vec::new();
        matchmaker::push_reply(&mut line, &reply);
        assert!(line.ends_with(b"\n"));
    }

    fn told(&mut self, to: SocketAddr, event: &Event) {
        let bytes = wire::render(event, 1_700_000_000_000);
        let now_ms = self.now_ms;
        let account = self.accounts.entry(to).or_default();
        match event {
            Event::Simple(Simple::NewJoiner { .. }) => {}
            Event::Simple(event) => {
                if let Simple::Registered { id, .. } = event {
                    let mut line = Vec::new();
                    let remote = Endpoint::from_bytes([0; 6]);
                    simple::push(&mut line, &Simple::Registered { remote, id: *id });
                    let id = String::from_utf8(line).unwrap().split(':').nth(2).unwrap().to_owned();
                    remember(&mut account.ids, id.clone());
                    remember(&mut self.simple_ids, id);
                }
                account.answered.push_back(now_ms);
                if !account.kept_alive {
                    let within = |ms: u64| account.answered.iter().filter(|at| **at + ms > now_ms).count();
                    assert!(within(SECOND_MS) <= 3, "{to}: {:?}", account.answered);
                    assert!(within(10 * SECOND_MS) <= 10, "{to}: {:?}", account.answered);
                }
                account.answered.retain(|at| *at + 10 * SECOND_MS > now_ms);
            }
            Event::Natpunch(event) => {
                account.told += bytes.len();
                match event {
                    Natpunch::Registered { id, .. } => remember(&mut self.clients, id.to_string()),
                    Natpunch::Created { lobby, .. } => remember(&mut self.lobbies, lobby.to_string()),
                    _ => {}
                }
                let paid = 3 * account.asked + account.registrations * REGISTERED_MAX;
                assert!(
                    account.named_client || account.told <= paid,
                    "{to}: {} of {paid}",
                    account.told
                );
            }
            Event::Matchmaker(Lobby::Ack { .. }) => {
                assert!(account.endpoints > 0, "{to}");
                account.endpoints -= 1;
            }
            Event::Matchmaker(Lobby::KeepAlive) => {
                assert!(account.keep_alives > 0, "{to}");
                account.keep_alives -= 1;
            }
            Event::Matchmaker(Lobby::Endpoints { sequence, peers }) => {
                assert!(!peers.contains(&to), "not itself");
                remember(&mut self.sequences, *sequence);
            }
        }
    }

    fn check(&self) {
        let permits = &self.permits;
        let sessions = self.limits.sessions_max as usize;
        for (held, bound) in [
            (permits.simple_sessions.now(), sessions),
            (permits.natpunch_clients.now(), sessions),
            (
                permits.natpunch_lobbies.now(),
                self.limits.natpunch_lobbies_max as usize,
            ),
            (permits.matchmaker_sessions.now(), sessions),
            (permits.matchmaker_lobbies.now(), sessions),
            (
                permits.matchmaker_connections.now(),
                self.limits.matchmaker_connections_max as usize,
            ),
        ] {
            assert!(held <= bound, "{held} of {bound}");
        }
    }

    /// Nobody says anything any more.
    fn end(mut self) {
        self.settle();
        let silent_ms = self.now_ms;
        while let Some(due) = self.due() {
            self.now_ms = self.now_ms.max(due);
            assert!(self.now_ms < silent_ms + 130 * SECOND_MS, "due for ever");
            self.ring();
            self.settle();
        }
        assert!(self.conns.is_empty(), "silent connections are closed");
        let permits = &self.permits;
        let held = [
            permits.simple_sessions.now(),
            permits.natpunch_clients.now(),
            permits.natpunch_lobbies.now(),
            permits.matchmaker_sessions.now(),
            permits.matchmaker_lobbies.now(),
            permits.matchmaker_connections.now(),
        ];
        assert_eq!(held, [0; 6]);
        for punch in &self.loops {
            assert_eq!(punch.census(), Default::default());
            for from in self.accounts.keys() {
                assert!(!punch.is_natpunch(from), "{from}");
            }
        }
        if self.probes {
            self.all_is_given_back();
        }
    }

    /// Every IP address may have as much again as at first.
    fn all_is_given_back(&mut self) {
        let per_ip = self.limits.sessions_per_ip.min(self.limits.sessions_max);
        for ip in 0..IPS {
            let from = address(ip * PORTS);
            let hosts = (0..per_ip as u16).map(|nth| SocketAddr::new(from.ip(), 20_000 + nth));
            let hosts: Vec<SocketAddr> = hosts.filter(SocketAddr::is_ipv4).collect();
            for from in &hosts {
                self.datagram(*from, b"HS:wzgjahmswevl");
                self.settle();
            }
            for from in &hosts {
                let id = self.accounts.get(from).and_then(|account| account.ids.first());
                let words = format!("CS:{}", id.expect("a session for each"));
                self.datagram(*from, words.as_bytes());
                self.settle();
            }
            let conns = self
                .limits
                .matchmaker_connections_per_ip
                .min(self.limits.matchmaker_connections_max);
            for _ in 0..conns {
                self.open(ip * PORTS, ip);
                self.settle();
            }
            assert_eq!(self.conns.len(), conns as usize);
            assert!(
                self.conns
                    .values()
                    .all(|conn| conn.admitted && conn.remote.ip() == from.ip())
            );
            while let Some(conn) = self.pick_conn(0) {
                self.close(conn);
                self.settle();
            }
        }
    }
}

fn address(nth: usize) -> SocketAddr {
    let (ip, port) = (nth / PORTS % IPS, 4000 + (nth % PORTS) as u16);
    match ip {
        3 => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7], port).into(),
        ip => ([192, 0, 2, ip as u8 + 1], port).into(),
    }
}

fn path(remote: SocketAddr) -> Path {
    Path {
        socket: 0,
        local: None,
        remote,
    }
}

fn pick<T: Clone>(all: &[T], nth: usize) -> T {
    all[all.len() - 1 - nth % all.len()].clone()
}

/// Keeps the newest.
fn remember<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if !all.contains(&one) {
        all.push(one);
        if all.len() > 12 {
            all.remove(2);
        }
    }
}
