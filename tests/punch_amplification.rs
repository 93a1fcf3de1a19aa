//! What a datagram with a forged source makes this server send: for each request of each dialect, to the source and to others,
//! once and as a flood. The table in `docs/punch.md` is the one that is measured here.
//!
//! `cargo test --test punch_amplification -- --nocapture` prints it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "punch/wire.rs"]
mod wire;
#[path = "punch/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use data_encoding::BASE64;
use peer_server::codec::protobuf::natpunch::{self, message::Content};
use peer_server::config::Config;
use peer_server::ids::ConnId;
use peer_server::message::matchmaker::{Ask, Code, Reply, SessionId, Told};
use peer_server::shard::punch::Limits;
use peer_server::shard::{Bucket, Rate};
use prost::Message as _;
use world::World;

const SERVER: &str = "203.0.113.77:8070";
/// Whose address is forged.
const VICTIM: &str = "198.51.100.7:40000";
const VICTIM_V6: &str = "[2001:db8::7]:40000";
const LAN: &str = "wzgjahmswevl";
/// Datagrams of a flood, spread over one second.
const FLOOD: u64 = 100;

/// Bytes and packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    bytes: usize,
    packets: usize,
}

impl Sum {
    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.packets += 1;
    }

    fn text(self) -> String {
        match self.packets {
            0 => "0".to_owned(),
            1 => self.bytes.to_string(),
            packets => format!("{} in {packets}", self.bytes),
        }
    }
}

/// A server with its default limits, as seen from a network where sources can be forged.
struct Server {
    world: World,
    rates: BTreeMap<(SocketAddr, bool), Bucket>,
    victim: SocketAddr,
    /// What came with the victim's address, and what was sent to it and to others.
    asked: Sum,
    to_victim: Sum,
    to_others: Sum,
    conns: u32,
}

impl Server {
    fn new(victim: &str) -> Self {
        Self {
            world: World::new(1, 2, Limits::default()),
            rates: BTreeMap::new(),
            victim: victim.parse().unwrap(),
            asked: Sum::default(),
            to_victim: Sum::default(),
            to_others: Sum::default(),
            conns: 0,
        }
    }

    /// A datagram arrives; what it makes others be told is answered.
    fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) -> Vec<Vec<u8>> {
        let config = Config::default();
        let stun = peer_server::codec::stun::is_stun(bytes);
        let per_sec = if stun {
            config.stun_answers_per_sec
        } else {
            config.punch_datagrams_per_sec
        };
        let rate = Rate::new(per_sec.into(), per_sec.into()).unwrap();
        let now_ms = self.world.now_ms;
        if from == self.victim {
            self.asked.add(bytes.len());
        }
        let mut answers = Vec::new();
        if self.rates.entry((from, stun)).or_default().take(rate, now_ms) {
            let public = SERVER.parse().ok();
            self.world.receive(from, |punch, now_ms| {
                let path = World::path(from);
                answers.extend(wire::receive(punch, path, bytes, public, now_ms).ok().flatten());
            });
            answers.iter().for_each(|answer| self.count(from, answer.len()));
        }
        self.world.settle();
        answers.extend(self.take(from));
        answers
    }

    /// Counts what left; what left to one address.
    fn take(&mut self, whose: SocketAddr) -> Vec<Vec<u8>> {
        let mut own = Vec::new();
        for sent in self.world.take_sent() {
            let bytes = wire::render(&sent.event, 1_700_000_000_000);
            self.count(sent.path.remote, bytes.len());
            if sent.path.remote == whose {
                own.push(bytes);
            }
        }
        own
    }

    fn count(&mut self, to: SocketAddr, bytes: usize) {
        match to == self.victim {
            true => self.to_victim.add(bytes),
            false => self.to_others.add(bytes),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.world.settle_for(ms);
        self.take(self.victim);
    }

    /// What was so far does not count.
    fn begin(&mut self) {
        (self.asked, self.to_victim, self.to_others) = Default::default();
    }

    /// A session of the lobby dialect, on a connection of an IP address of its own.
    fn session(&mut self) -> (ConnId, SessionId) {
        let conn = ConnId::new(self.conns, 1);
        self.conns += 1;
        let remote: SocketAddr = ([192, 0, 2, self.conns as u8], 0).into();
        self.world
            .receive(remote, |punch, now_ms| punch.open_matchmaker(conn, remote, now_ms));
        self.world.settle();
        match self.ask(conn, Ask::NewClient) {
            Reply::Session(session) => (conn, session),
            other => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, conn: ConnId, ask: Ask) -> Reply {
        self.world.told.clear();
        let remote: SocketAddr = ([192, 0, 2, conn.slot() as u8 + 1], 0).into();
        self.world
            .receive(remote, |punch, now_ms| punch.ask_matchmaker(conn, ask, now_ms));
        self.world.settle();
        match self.world.told.pop() {
            Some((_, Told::Reply(reply))) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn lobby(&mut self) -> (ConnId, SessionId, Code) {
        let (conn, session) = self.session();
        match self.ask(conn, Ask::Create { session: Some(session) }) {
            Reply::Code(code) => (conn, session, code),
            other => panic!("{other:?}"),
        }
    }
}

/// A host of the ASCII dialect, and its session's id.
fn simple_host(server: &mut Server, verb: &str) -> String {
    let host = "192.0.2.1:30000".parse().unwrap();
    let told = server.datagram(host, format!("{verb}:{LAN}").as_bytes());
    let id = String::from_utf8(told[0].clone())
        .unwrap()
        .split(':')
        .nth(2)
        .unwrap()
        .to_owned();
    server.datagram(host, format!("KA:{id}").as_bytes());
    id
}

fn protobuf(content: Content) -> Vec<u8> {
    natpunch::Message { content: Some(content) }.encode_to_vec()
}

fn register(ip: &str) -> Vec<u8> {
    let ip_address = ip.to_owned();
    let local_endpoint = (!ip.is_empty()).then_some(natpunch::Endpoint {
        ip_address,
        port: 40_000,
    });
    protobuf(Content::RegisterRequest(natpunch::RegisterRequest { local_endpoint }))
}

/// Eight lobbies: more than a list has room for.
fn natpunch_lobbies(server: &mut Server) {
    for nth in 0..8 {
        let host = SocketAddr::from(([192, 0, 2, nth], 4000));
        let told = server.datagram(host, &register("::"));
        let Some(Content::RegisterResponse(response)) = natpunch::Message::decode(&*told[0]).unwrap().content else {
            panic!()
        };
        let create = natpunch::CreateLobbyRequest {
            lobby_name: "a room".to_owned(),
            client_id: response.client_id,
            max_players: 4,
        };
        server.datagram(host, &protobuf(Content::CreateLobbyRequest(create)));
    }
}

fn list(id: &str) -> Vec<u8> {
    let request_id = id.to_owned();
    protobuf(Content::LobbyListRequest(natpunch::LobbyListRequest { request_id }))
}

/// No client's.
const ID: &str = "61dfabe2-6841-469d-a445-37794b41315b";

fn lobby_datagram(sequence: u32, kind: u8, data: &str) -> Vec<u8> {
    let payload = format!("{{\"Type\":{kind},\"Data\":\"{}\"}}", BASE64.encode(data.as_bytes()));
    let mut bytes = sequence.to_le_bytes().to_vec();
    bytes.extend_from_slice(&(payload.len() as u16).to_le_bytes());
    bytes.push(0);
    bytes.extend_from_slice(payload.as_bytes());
    bytes
}

fn endpoint(sequence: u32, session: &str) -> Vec<u8> {
    lobby_datagram(sequence, 1, &format!("{{\"SessionID\":\"{session}\"}}"))
}

/// What is sent with the forged address, one after the other, after what made the server ready for it.
type Make = fn(&mut Server) -> Box<dyn Fn(u64) -> Vec<u8>>;

fn always(bytes: Vec<u8>) -> Box<dyn Fn(u64) -> Vec<u8>> {
    Box::new(move |_| bytes.clone())
}

/// Datagrams of a flood that are looked at: the rate of one address, and a full bucket of it at the beginning.
const DATAGRAMS: usize = 2 * 20;

/// Dialect and request, the forged address, and what is sent. Then the most that a flood may get, as decided: packets to the
/// source, packets to others.
const ROWS: &[(&str, &str, Make, usize, usize)] = &[
    ("STUN: Binding, IPv4", VICTIM, |_| always(stun(&[])), 20, 0),
    ("STUN: Binding, IPv6", VICTIM_V6, |_| always(stun(&[])), 20, 0),
    ("STUN: with FINGERPRINT", VICTIM, |_| always(fingerprinted()), 20, 0),
    (
        "STUN: unknown attribute (420)",
        VICTIM,
        |_| always(stun(&[0x77, 0x77, 0, 0])),
        20,
        0,
    ),
    ("simple: HS", VICTIM, |_| always(format!("HS:{LAN}").into()), 3, 0),
    (
        "simple: HS, short local key",
        VICTIM,
        |_| always(b"HS:cyahjc".to_vec()),
        3,
        0,
    ),
    (
        "simple: RS, nobody waits",
        VICTIM,
        |_| always(format!("RS:{LAN}").into()),
        3,
        0,
    ),
    (
        "simple: RS, a host waits",
        VICTIM,
        |server| {
            simple_host(server, "RS");
            always(format!("RS:{LAN}").into())
        },
        3,
        8,
    ),
    (
        "simple: JS",
        VICTIM,
        |server| {
            let id = simple_host(server, "HS");
            always(format!("JS:{LAN}:{id}").into())
        },
        3,
        8,
    ),
    (
        "simple: JS, no such session (BK)",
        VICTIM,
        |_| always(format!("JS:{LAN}:socynxlrbkbecycycycy").into()),
        3,
        0,
    ),
    (
        "simple: KA, CS",
        VICTIM,
        |server| {
            let id = simple_host(server, "HS");
            Box::new(move |nth| format!("{}:{id}", ["KA", "CS"][nth as usize % 2]).into())
        },
        0,
        0,
    ),
    ("natpunch: RegisterRequest", VICTIM, |_| always(register("::")), 2, 0),
    (
        "natpunch: RegisterRequest, IPv6",
        VICTIM_V6,
        |_| always(register("::")),
        2,
        0,
    ),
    (
        "natpunch: RegisterRequest without endpoint",
        VICTIM,
        |_| always(register("")),
        2,
        0,
    ),
    (
        "natpunch: RegisterRequest and DebugMessage in turn",
        VICTIM,
        |_| {
            Box::new(|nth| match nth % 2 {
                0 => register(""),
                _ => protobuf(Content::DebugMessage(natpunch::DebugMessage::default())),
            })
        },
        2,
        0,
    ),
    (
        "natpunch: LobbyListRequest",
        VICTIM,
        |server| {
            natpunch_lobbies(server);
            always(list(&format!("req_%!d(string={ID})")))
        },
        DATAGRAMS,
        0,
    ),
    (
        "natpunch: LobbyListRequest without id",
        VICTIM,
        |server| {
            natpunch_lobbies(server);
            always(list(""))
        },
        DATAGRAMS,
        0,
    ),
    (
        "natpunch: CreateLobbyRequest",
        VICTIM,
        |_| {
            always(protobuf(Content::CreateLobbyRequest(natpunch::CreateLobbyRequest {
                lobby_name: "a room".to_owned(),
                client_id: ID.to_owned(),
                max_players: 4,
            })))
        },
        DATAGRAMS,
        0,
    ),
    (
        "natpunch: JoinLobbyRequest, LeaveLobbyRequest",
        VICTIM,
        |_| {
            Box::new(|nth| {
                let (lobby_id, client_id) = ("lobby_1795248889523644919".to_owned(), ID.to_owned());
                protobuf(match nth % 2 {
                    0 => Content::JoinLobbyRequest(natpunch::JoinLobbyRequest { lobby_id, client_id }),
                    _ => Content::LeaveLobbyRequest(natpunch::LeaveLobbyRequest { lobby_id, client_id }),
                })
            })
        },
        DATAGRAMS,
        0,
    ),
    (
        "natpunch: KeepAlive, ConnectRequest, PeerConnectionReady, DebugMessage",
        VICTIM,
        |_| {
            Box::new(|nth| {
                let id = ID.to_owned();
                protobuf(match nth % 4 {
                    0 => Content::KeepAlive(natpunch::KeepAlive { client_id: id }),
                    1 => Content::ConnectRequest(natpunch::ConnectRequest {
                        destination_client_id: id.clone(),
                        source_client_id: id,
                        ..natpunch::ConnectRequest::default()
                    }),
                    2 => Content::PeerConnectionReady(natpunch::PeerConnectionReady {
                        lobby_id: "lobby_1795248889523644919".to_owned(),
                        new_peer_id: id,
                    }),
                    _ => Content::DebugMessage(natpunch::DebugMessage {
                        message: "PONG".to_owned(),
                    }),
                })
            })
        },
        0,
        0,
    ),
    ("matchmaker: unknown session", VICTIM, |_| always(endpoint(1, ID)), 0, 0),
    (
        "matchmaker: keep alive, ack",
        VICTIM,
        |_| {
            Box::new(|nth| match nth % 2 {
                0 => lobby_datagram(0, 2, ""),
                _ => lobby_datagram(0, 0, "{\"SequenceNumber\":1,\"Timestamp\":1}"),
            })
        },
        0,
        0,
    ),
    (
        "matchmaker: endpoint of one's own session",
        VICTIM,
        |server| {
            let (_, session) = server.session();
            always(endpoint(1, &session.to_string()))
        },
        1,
        0,
    ),
    (
        "matchmaker: the same, numbered on",
        VICTIM,
        |server| {
            let session = server.session().1.to_string();
            Box::new(move |nth| endpoint(1 + nth as u32, &session))
        },
        DATAGRAMS,
        0,
    ),
    (
        "matchmaker: keep alive with that address",
        VICTIM,
        |server| {
            let session = server.session().1.to_string();
            server.datagram(server.victim, &endpoint(1, &session));
            always(lobby_datagram(0, 2, ""))
        },
        DATAGRAMS,
        0,
    ),
];

fn stun(attributes: &[u8]) -> Vec<u8> {
    let len = (attributes.len() as u16).to_be_bytes();
    [&[0, 1], &len[..], &[0x21, 0x12, 0xa4, 0x42], &[7; 12], attributes].concat()
}

fn fingerprinted() -> Vec<u8> {
    let mut bytes = stun(&[0x80, 0x28, 0, 4, 0, 0, 0, 0]);
    let sum = (crc32fast::hash(&bytes[..20]) ^ 0x5354_554e).to_be_bytes();
    bytes[24..].copy_from_slice(&sum);
    bytes
}

/// One request, or a flood of them; all that comes of it within that second and three more.
fn measure(victim: &str, make: Make, count: u64) -> Server {
    let mut server = Server::new(victim);
    let request = make(&mut server);
    server.pass(1);
    server.begin();
    for nth in 0..count {
        let bytes = request(nth);
        server.datagram(server.victim, &bytes);
        server.pass(1000 / FLOOD);
    }
    server.pass(3000);
    server
}

#[test]
fn no_request_with_a_forged_source_is_worth_more_than_decided() {
    let mut table = String::from(HEAD);
    for (name, victim, make, to_victim, to_others) in ROWS {
        let (one, flood) = (measure(victim, *make, 1), measure(victim, *make, FLOOD));
        writeln!(
            table,
            "| {name} | {} | {} | {} | {} | {} | {} |",
            one.asked.bytes,
            one.to_victim.text(),
            one.to_others.text(),
            flood.asked.bytes,
            flood.to_victim.text(),
            flood.to_others.text()
        )
        .unwrap();
        assert!(
            one.to_victim.packets <= 1 && one.to_others.packets <= 1,
            "{name}: one reply for one request"
        );
        assert!(flood.to_victim.packets <= *to_victim, "{name}: {:?}", flood.to_victim);
        assert!(flood.to_others.packets <= *to_others, "{name}: {:?}", flood.to_others);
        // With the headers of IP and UDP, which the forger sends too.
        let header = if victim.starts_with('[') { 48 } else { 28 };
        let whole = |sum: Sum| sum.bytes + header * sum.packets;
        assert!(
            whole(one.to_victim) <= 3 * whole(one.asked),
            "{name}: {:?} for {:?}",
            one.to_victim,
            one.asked
        );
        assert!(
            whole(flood.to_victim) <= 3 * whole(flood.asked),
            "{name}: {:?}",
            flood.to_victim
        );
    }
    let (asked, told) = started_lobby();
    writeln!(table, "| {STARTED} | {} | {} | 0 | | | |", asked.bytes, told.text()).unwrap();
    println!("{table}");
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/punch.md")).unwrap();
    let section = docs.split("\n## Amplification\n").nth(1).expect("a section of its own");
    assert!(
        section.contains(&table),
        "docs/punch.md has another table than\n{table}"
    );
}

const HEAD: &str = "\
| request | bytes | to the source | to others | 100 a second: bytes | to the source | to others |
| --- | --- | --- | --- | --- | --- | --- |
";
const STARTED: &str = "matchmaker: endpoint of one's own session, and a lobby of 16 that is started over TCP";

/// The most that an address can get that one session claimed: its lobby is full, is started, and nobody acknowledges.
fn started_lobby() -> (Sum, Sum) {
    let mut server = Server::new(VICTIM);
    let (host, session, code) = server.lobby();
    for nth in 1..16 {
        let (conn, session) = server.session();
        let joined = server.ask(
            conn,
            Ask::Join {
                code: Some(code),
                session: Some(session),
            },
        );
        assert_eq!(joined, Reply::Done);
        server.datagram(
            SocketAddr::from(([203, 0, 113, 100 + nth], 40_000)),
            &endpoint(1, &session.to_string()),
        );
    }
    server.begin();
    server.datagram(server.victim, &endpoint(1, &session.to_string()));
    let started = server.ask(
        host,
        Ask::Start {
            code: Some(code),
            session: Some(session),
        },
    );
    assert_eq!(started, Reply::Done);
    server.pass(10_000);
    assert_eq!(server.to_victim.packets, 1 + 11);
    (server.asked, server.to_victim)
}
