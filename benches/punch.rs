//! Question: how many bytes does a loop keep for each session of the three punch dialects at 100,000 of them, and what does
//! each request cost there, from its bytes to those of the answers, against 100 sessions?
//!
//! A report and no timing of criterion's: `cargo bench --bench punch`, or `-- SESSIONS` for another number. One loop, no
//! socket; datagrams go through the demultiplexer, their parser, the state and back to bytes. Bounds for one IP address are off.
//! Bytes are the allocator's count; what a connection of the lobby dialect takes in the event loop is not among them.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "that is its purpose")]

#[path = "world/bytes.rs"]
mod bytes;
#[path = "../tests/punch/wire.rs"]
mod wire;

use std::hint::black_box;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Counting;
use data_encoding::BASE64;
use peer_server::codec::protobuf::natpunch::{self, message::Content};
use peer_server::ids::{ConnId, Homes, LoopId};
use peer_server::message::matchmaker::{Ask, Code, Reply, Request, SessionId, Told};
use peer_server::message::punch::Path;
use peer_server::shard::punch::{Event, Limits, Output, Permits, Punch};
use prost::Message as _;

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Requests timed for each figure.
const REQUESTS: usize = 10_000;
const LAN: &str = "wzgjahmswevl";

fn main() {
    let many = std::env::args()
        .skip(1)
        .find_map(|word| word.parse().ok())
        .unwrap_or(100_000);
    println!("bytes for each of {many}: as asked for, with the allocator's own");
    report_bytes("simple: a session", many, hosts);
    report_bytes("simple: a session with a joiner", many, joined);
    report_bytes("natpunch: a client", many, clients);
    report_bytes("natpunch: a client, in a lobby of two", many, lobbies);
    report_bytes("matchmaker: a session with an address", many, sessions);
    report_bytes("matchmaker: the same, in a lobby of two", many, members);
    println!("ns a request, with 100 sessions there and with {many}");
    for (name, case) in CASES {
        println!("{name:<34} {:>6} {:>6}", time(100, *case), time(many, *case));
    }
}

/// A loop and what its clients know.
struct Server {
    punch: Punch,
    now_ms: u64,
    public: SocketAddrV4,
    /// What the dialects' names for each session are: 20 to 36 bytes, on the heap.
    names: Vec<String>,
    sessions: Vec<SessionId>,
    told: Option<Reply>,
}

impl Server {
    fn new(count: usize) -> Self {
        let limits = Limits {
            registrations_per_min_per_ip: 0,
            sessions_per_ip: 0,
            sessions_max: 0,
            misses_per_min_per_ip: 0,
            natpunch_lobbies_max: 0,
            matchmaker_connections_per_ip: 0,
            matchmaker_connections_max: 0,
            ..Limits::default()
        };
        let homes = Homes::new(1, [1, 2, 3, 4]);
        Self {
            punch: Punch::new(
                LoopId::new(0),
                homes,
                Arc::new(limits),
                Arc::new(Permits::default()),
                [7; 32],
            ),
            now_ms: 1_000_000,
            public: "203.0.113.77:8070".parse().unwrap(),
            names: Vec::with_capacity(count),
            sessions: Vec::with_capacity(count),
            told: None,
        }
    }

    /// A datagram, to the bytes of all that it causes.
    fn datagram(&mut self, nth: usize, bytes: &[u8]) {
        let path = Path {
            socket: 0,
            local: None,
            remote: address(nth),
        };
        wire::receive(&mut self.punch, path, bytes, Some(self.public), self.now_ms).unwrap();
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.punch.poll_output() {
            match output {
                Output::Datagram { event, .. } => drop(black_box(wire::render(&event, 1_700_000_000_000))),
                Output::Connection {
                    told: Told::Reply(reply),
                    ..
                } => self.told = Some(reply),
                Output::Connection { .. } | Output::Mail { .. } => {}
            }
        }
    }

    /// A datagram, and the event of a client's that it causes.
    fn answered<T>(&mut self, nth: usize, bytes: &[u8], find: impl Fn(&Event) -> Option<T>) -> T {
        let path = Path {
            socket: 0,
            local: None,
            remote: address(nth),
        };
        wire::receive(&mut self.punch, path, bytes, Some(self.public), self.now_ms).unwrap();
        let mut found = None;
        while let Some(output) = self.punch.poll_output() {
            if let Output::Datagram { event, .. } = output {
                found = found.or(find(&event));
            }
        }
        found.unwrap_or_else(|| panic!("no answer for {nth}: {:?}", self.punch.counters()))
    }

    fn ask(&mut self, nth: usize, ask: Ask) -> Reply {
        self.punch.ask_matchmaker(ConnId::new(nth as u32, 1), ask, self.now_ms);
        self.drain();
        self.told.take().unwrap()
    }

    /// Time passes, and what is due is done.
    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        while self.punch.poll_timeout().is_some_and(|due_ms| due_ms <= self.now_ms) {
            self.punch.handle_timeout(self.now_ms);
            self.drain();
        }
    }

    /// So long everybody keeps himself alive, and nobody does anything else.
    fn live(&mut self, keep: fn(&mut Server, usize), ms: u64) {
        for _ in 0..ms / 5000 {
            self.now_ms += 5000;
            (0..self.names.len()).for_each(|nth| keep(self, nth));
            self.pass(0);
        }
    }
}

fn address(nth: usize) -> SocketAddr {
    // Eight players to an IP address.
    let [_, a, b, c] = (nth as u32 / 8).to_be_bytes();
    ([11, a, b, c], 40_000 + nth as u16 % 8).into()
}

/// Joiners and whoever comes new have other addresses.
const OTHERS: usize = 1 << 22;

fn host(server: &mut Server, nth: usize) {
    let words = format!("HS:{LAN}");
    let id = server.answered(nth, words.as_bytes(), |event| {
        let text = String::from_utf8(wire::render(event, 0)).unwrap();
        text.split(':').nth(2).map(str::to_owned)
    });
    server.names.push(id);
}

fn keep_session(server: &mut Server, nth: usize) {
    let words = format!("KA:{}", server.names[nth]);
    server.datagram(nth, words.as_bytes());
}

fn hosts(server: &mut Server, count: usize) -> fn(&mut Server, usize) {
    for nth in 0..count {
        // Answers to the unproved are bounded for all of them together.
        server.pass(u64::from(nth % 4 == 0));
        host(server, nth);
        keep_session(server, nth);
    }
    keep_session
}

fn joined(server: &mut Server, count: usize) -> fn(&mut Server, usize) {
    hosts(server, count);
    for nth in 0..count {
        server.pass(u64::from(nth % 4 == 0));
        keep_session(server, nth);
        join_session(server, nth);
    }
    keep_session
}

fn join_session(server: &mut Server, nth: usize) {
    let words = format!("JS:{LAN}:{}", server.names[nth % server.names.len()]);
    server.datagram(OTHERS + nth, words.as_bytes());
}

fn protobuf(content: Content) -> Vec<u8> {
    natpunch::Message { content: Some(content) }.encode_to_vec()
}

fn registration() -> Vec<u8> {
    let ip_address = "::".to_owned();
    let local_endpoint = Some(natpunch::Endpoint {
        ip_address,
        port: 40_000,
    });
    protobuf(Content::RegisterRequest(natpunch::RegisterRequest { local_endpoint }))
}

fn keep_client(server: &mut Server, nth: usize) {
    let client_id = server.names[nth].clone();
    server.datagram(nth, &protobuf(Content::KeepAlive(natpunch::KeepAlive { client_id })));
}

fn clients(server: &mut Server, count: usize) -> fn(&mut Server, usize) {
    let registration = registration();
    for nth in 0..count {
        let id = server.answered(nth, &registration, |event| match event {
            Event::Natpunch(peer_server::message::natpunch::Event::Registered { id, .. }) => Some(id.to_string()),
            _ => None,
        });
        server.names.push(id);
        keep_client(server, nth);
    }
    keep_client
}

fn lobbies(server: &mut Server, count: usize) -> fn(&mut Server, usize) {
    clients(server, count);
    for host in (0..count - 1).step_by(2) {
        let create = natpunch::CreateLobbyRequest {
            lobby_name: "a room for two".to_owned(),
            client_id: server.names[host].clone(),
            max_players: 2,
        };
        let create = protobuf(Content::CreateLobbyRequest(create));
        let lobby_id = server.answered(host, &create, |event| match event {
            Event::Natpunch(peer_server::message::natpunch::Event::Created { lobby, .. }) => Some(lobby.to_string()),
            _ => None,
        });
        let client_id = server.names[host + 1].clone();
        let join = natpunch::JoinLobbyRequest {
            lobby_id: lobby_id.clone(),
            client_id: client_id.clone(),
        };
        server.datagram(host + 1, &protobuf(Content::JoinLobbyRequest(join)));
        let new_peer_id = client_id;
        let ready = natpunch::PeerConnectionReady { lobby_id, new_peer_id };
        server.datagram(host, &protobuf(Content::PeerConnectionReady(ready)));
    }
    keep_client
}

fn session(server: &mut Server, nth: usize) {
    let (conn, remote) = (ConnId::new(nth as u32, 1), address(nth));
    server.punch.open_matchmaker(conn, remote, server.now_ms);
    server.drain();
    let Reply::Session(session) = server.ask(nth, Ask::NewClient) else {
        panic!()
    };
    server.sessions.push(session);
    server.names.push(String::new());
}

fn claim(server: &mut Server, nth: usize) {
    let path = Path {
        socket: 0,
        local: None,
        remote: address(nth),
    };
    let session = server.sessions[nth];
    let request = Request::Endpoint { session, sequence: 1 };
    server.punch.handle_matchmaker(path, request, server.now_ms);
    server.drain();
}

fn lobby_datagram(sequence: u32, kind: u8, data: &str) -> Vec<u8> {
    let payload = format!("{{\"Type\":{kind},\"Data\":\"{}\"}}", BASE64.encode(data.as_bytes()));
    let len = (payload.len() as u16).to_le_bytes();
    [&sequence.to_le_bytes()[..], &len, &[0], payload.as_bytes()].concat()
}

fn keep_endpoint(server: &mut Server, nth: usize) {
    server.datagram(nth, b"\0\0\0\0\x14\0\0{\"Type\":2,\"Data\":\"\"}");
}

fn sessions(server: &mut Server, count: usize) -> fn(&mut Server, usize) {
    for nth in 0..count {
        session(server, nth);
        claim(server, nth);
    }
    keep_endpoint
}

fn members(server: &mut Server, count: usize) -> fn(&mut Server, usize) {
    sessions(server, count);
    for first in (0..count - 1).step_by(2) {
        let code = lobby(server, first);
        let session = Some(server.sessions[first + 1]);
        let code = Some(code);
        assert_eq!(server.ask(first + 1, Ask::Join { code, session }), Reply::Done);
    }
    keep_endpoint
}

fn lobby(server: &mut Server, nth: usize) -> Code {
    let session = Some(server.sessions[nth]);
    match server.ask(nth, Ask::Create { session }) {
        Reply::Code(code) => code,
        other => panic!("{other:?}"),
    }
}

type Fill = fn(&mut Server, usize) -> fn(&mut Server, usize);

fn report_bytes(name: &str, count: usize, fill: Fill) {
    let mut server = Server::new(count);
    let before = ALLOCATOR.in_use();
    let keep = fill(&mut server, count);
    let each = |server: &Server| {
        let after = ALLOCATOR.in_use();
        let names = |of: fn(usize) -> usize| server.names.iter().map(|name| of(name.capacity())).sum::<usize>();
        let own = (
            names(|len| len),
            names(|len| {
                if len == 0 {
                    0
                } else {
                    (len + 8).next_multiple_of(16).max(32)
                }
            }),
        );
        (
            (after.0 - before.0 - own.0) / count,
            (after.1 - before.1 - own.1) / count,
        )
    };
    let fresh = each(&server);
    server.live(keep, 40_000);
    let later = each(&server);
    let census = server.punch.census();
    let held = census.simple_sessions + census.natpunch_clients + census.matchmaker_sessions;
    assert_eq!(held, count, "{name}");
    println!(
        "{name:<42} {:>5} {:>5}, after 40 s {:>5} {:>5}",
        fresh.0, fresh.1, later.0, later.1
    );
}

/// What is there before, and the datagram of the nth request, with whose address it comes.
type Case = (Fill, fn(&Server, usize) -> (usize, Vec<u8>));

const CASES: &[(&str, Case)] = &[
    (
        "simple: HS, a new session",
        (hosts, |_, nth| (OTHERS + nth, format!("HS:{LAN}").into())),
    ),
    (
        "simple: HS again",
        (hosts, |server, nth| {
            (nth % server.names.len(), format!("HS:{LAN}").into())
        }),
    ),
    (
        "simple: KA",
        (hosts, |server, nth| {
            let nth = nth % server.names.len();
            (nth, format!("KA:{}", server.names[nth]).into())
        }),
    ),
    (
        "simple: JS",
        (hosts, |server, nth| {
            let words = format!("JS:{LAN}:{}", server.names[nth % server.names.len()]);
            (OTHERS + nth, words.into())
        }),
    ),
    (
        "natpunch: RegisterRequest",
        (clients, |_, nth| (OTHERS + nth, registration())),
    ),
    (
        "natpunch: KeepAlive",
        (clients, |server, nth| {
            let nth = nth % server.names.len();
            let client_id = server.names[nth].clone();
            (nth, protobuf(Content::KeepAlive(natpunch::KeepAlive { client_id })))
        }),
    ),
    (
        "matchmaker: keep alive",
        (sessions, |server, nth| {
            (nth % server.names.len(), lobby_datagram(0, 2, ""))
        }),
    ),
    (
        "matchmaker: endpoint, known",
        (sessions, |server, nth| {
            let nth = nth % server.names.len();
            let data = format!("{{\"SessionID\":\"{}\"}}", server.sessions[nth]);
            (nth, lobby_datagram(2, 1, &data))
        }),
    ),
];

/// The mean of so many requests, no more at a time than there are sessions, so that their number stays of that size.
fn time(count: usize, (fill, make): Case) -> u128 {
    let batch = count.min(REQUESTS);
    let (mut spent, mut done) = (Duration::ZERO, 0);
    while done < REQUESTS {
        let mut server = Server::new(2 * count);
        fill(&mut server, count);
        // Whatever was asked for while filling is not asked for too soon now.
        server.pass(1500);
        let requests: Vec<_> = (0..batch).map(|nth| make(&server, nth)).collect();
        let start = Instant::now();
        for (from, bytes) in &requests {
            server.datagram(*from, bytes);
        }
        spent += start.elapsed();
        done += batch;
        assert_eq!(server.punch.counters().dropped.iter().sum::<u64>(), 0);
    }
    spent.as_nanos() / done as u128
}
