//! The recorded flows of `tests/vectors/matchmaker/`, replayed against the lobby dialect and its state without sockets.
//!
//! Ids, codes and sequence numbers of a recording become those that the state gave. Every flow runs on one loop and on
//! four, whose mail is delayed at will.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use data_encoding::BASE64;
use peer_server::codec::json_stream::Scan;
use peer_server::dialect::{demultiplexer, matchmaker};
use peer_server::ids::{ConnId, Homes, LoopId};
use peer_server::message::matchmaker::{Refusal, Reply, Told};
use peer_server::message::punch::{Dialect, Path};
use peer_server::shard::punch::{Event, Limits, Mail, Output, Permits, Punch};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

const UNIX_MS: u64 = 1_795_248_438_979;

fn vector(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/matchmaker");
    serde_json::from_str(&std::fs::read_to_string(path.join(name)).unwrap()).unwrap()
}

fn unhex(text: &Value) -> Vec<u8> {
    let digits = text.as_str().unwrap().as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The JSON in a base64 field of a JSON object.
fn inner(object: &Value, field: &str) -> Option<Value> {
    let data = object[field].as_str().filter(|data| !data.is_empty())?;
    Some(serde_json::from_slice(&BASE64.decode(data.as_bytes()).unwrap()).unwrap())
}

/// Loops with their mail, and what left them.
struct World {
    loops: Vec<Punch>,
    homes: Homes,
    links: BTreeMap<(usize, usize), VecDeque<Mail>>,
    random: StdRng,
    now_ms: u64,
    lines: HashMap<ConnId, VecDeque<Vec<u8>>>,
    datagrams: HashMap<SocketAddr, VecDeque<Vec<u8>>>,
}

impl World {
    fn new(loops: u16, seed: u64) -> Self {
        let homes = Homes::new(loops, [seed, 1, 2, 3]);
        let permits = Arc::new(Permits::default());
        let punch = |id: u16| {
            let secret = [id as u8 ^ seed as u8; 32];
            Punch::new(
                LoopId::new(id),
                homes.clone(),
                Arc::new(Limits::default()),
                permits.clone(),
                secret,
            )
        };
        Self {
            loops: (0..loops).map(punch).collect(),
            homes,
            links: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
            now_ms: 1,
            lines: HashMap::new(),
            datagrams: HashMap::new(),
        }
    }

    fn collect(&mut self, at: usize) {
        while let Some(output) = self.loops[at].poll_output() {
            match output {
                Output::Connection { conn, told } => match told {
                    Told::Admitted => {}
                    Told::Reply(reply) => {
                        let mut line = Vec::new();
                        matchmaker::push_reply(&mut line, &reply);
                        self.lines.entry(conn).or_default().push_back(line);
                    }
                    Told::Closed => panic!("closed"),
                },
                Output::Datagram { path, event } => {
                    #[allow(irrefutable_let_patterns, reason = "dialects without events of their own")]
                    let Event::Matchmaker(event) = event else {
                        panic!("{event:?}");
                    };
                    let mut bytes = Vec::new();
                    matchmaker::push(&mut bytes, &event, UNIX_MS);
                    self.datagrams.entry(path.remote).or_default().push_back(bytes);
                }
                Output::Mail { to, mail, .. } => self.links.entry((at, to.index())).or_default().push_back(mail),
            }
        }
    }

    /// Mail arrives in the order of its link, and links in any order.
    fn settle(&mut self) {
        loop {
            self.links.retain(|_, link| !link.is_empty());
            let links: Vec<(usize, usize)> = self.links.keys().copied().collect();
            if links.is_empty() {
                return;
            }
            let link = links[self.random.random_range(0..links.len())];
            let mail = self.links.get_mut(&link).and_then(VecDeque::pop_front).unwrap();
            self.loops[link.1].handle_mail(mail, self.now_ms);
            self.collect(link.1);
        }
    }

    fn advance(&mut self, to_ms: u64) {
        while let Some(due_ms) = self.loops.iter().filter_map(Punch::poll_timeout).min() {
            if due_ms > to_ms {
                break;
            }
            self.now_ms = due_ms;
            for at in 0..self.loops.len() {
                self.loops[at].handle_timeout(due_ms);
                self.collect(at);
            }
            self.settle();
        }
        self.now_ms = to_ms;
    }
}

/// One replay, and what of the recording is what of ours.
struct Replay {
    world: World,
    clients: HashMap<String, (usize, ConnId)>,
    own: HashMap<String, String>,
    /// The sequence number that an address was told last.
    sequences: HashMap<SocketAddr, i64>,
}

impl Replay {
    fn substitute(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(own) = self.own.get(text) {
                    *text = own.clone();
                }
            }
            Value::Object(fields) => fields.values_mut().for_each(|value| self.substitute(value)),
            _ => {}
        }
    }

    /// A request with the ids that were given here.
    fn rewritten(&self, bytes: &[u8], field: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut object: Value = serde_json::from_slice(bytes).unwrap();
        let Some(mut data) = inner(&object, field) else {
            return bytes.to_vec();
        };
        self.substitute(&mut data);
        change(&mut data);
        object[field] = BASE64.encode(data.to_string().as_bytes()).into();
        object.to_string().into_bytes()
    }

    fn line_arrives(&mut self, from: &str, bytes: &[u8]) {
        let count = self.clients.len() as u32;
        let loops = self.world.loops.len();
        let (at, conn) = *self.clients.entry(from.to_owned()).or_insert_with(|| {
            let conn = ConnId::new(count, count + 1);
            (count as usize % loops, conn)
        });
        let now_ms = self.world.now_ms;
        if self.clients.len() as u32 > count {
            self.world.loops[at].open_matchmaker(conn, "127.0.0.1:1".parse().unwrap(), now_ms);
            self.world.collect(at);
            self.world.settle();
        }
        let request = self.rewritten(bytes, "Body", |_| ());
        assert_eq!(Scan::default().end(&request), Ok(Some(request.trim_ascii_end().len())));
        let ask = matchmaker::parse_ask(&request).unwrap();
        self.world.loops[at].ask_matchmaker(conn, ask, now_ms);
        self.world.collect(at);
        self.world.settle();
    }

    fn line_is_expected(&mut self, to: &str, bytes: &[u8]) {
        let lines = self.world.lines.get_mut(&self.clients[to].1).unwrap();
        let line = lines.pop_front().expect("a reply");
        assert!(lines.is_empty() && line.ends_with(b"}\n"), "one line for one request");
        let own: Value = serde_json::from_slice(&line).unwrap();
        let recorded: Value = serde_json::from_slice(bytes).unwrap();
        let names = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        assert_eq!(names(&own), names(&recorded));
        for (name, value) in recorded.as_object().unwrap() {
            let (value, own) = (value.as_str().unwrap(), own[name].as_str().unwrap());
            if name == "SessionID" {
                assert_eq!((own.len(), line.len()), (value.len(), bytes.len()));
            }
            self.own.insert(value.to_owned(), own.to_owned());
        }
    }

    fn datagram_arrives(&mut self, remote: SocketAddr, bytes: &[u8]) {
        assert_eq!(demultiplexer::classify(bytes), Some(Dialect::Matchmaker));
        let told = self.sequences.get(&remote).copied();
        let payload = self.rewritten(&bytes[7..], "Data", |data| {
            if let Some(told) = told {
                data["SequenceNumber"] = told.into();
            }
        });
        let mut datagram = bytes[..4].to_vec();
        datagram.extend_from_slice(&(payload.len() as i16).to_le_bytes());
        datagram.push(0);
        datagram.extend_from_slice(&payload);
        assert_eq!(datagram.len(), bytes.len());
        let request = matchmaker::parse(&datagram).expect("a request");
        let path = Path {
            socket: 0,
            local: None,
            remote,
        };
        let at = self.world.homes.of_key(&remote).index();
        let now_ms = self.world.now_ms;
        self.world.loops[at].handle_matchmaker(path, request, now_ms);
        self.world.collect(at);
        self.world.settle();
    }

    fn datagram_is_expected(&mut self, remote: SocketAddr, bytes: &[u8]) {
        let own = self.world.datagrams.get_mut(&remote).and_then(VecDeque::pop_front);
        let own = own.expect("a datagram");
        let payload = |bytes: &[u8]| serde_json::from_slice::<Value>(&bytes[7..]).unwrap();
        let (own_payload, recorded) = (payload(&own), payload(bytes));
        assert_eq!((own.len(), &own_payload["Type"]), (bytes.len(), &recorded["Type"]));
        assert_eq!(own[4..7], bytes[4..7], "length and channel");
        let (data, mut expected) = (inner(&own_payload, "Data").unwrap(), inner(&recorded, "Data").unwrap());
        if recorded["Type"] == 3 {
            let sequence = i32::from_le_bytes(own[..4].try_into().unwrap());
            assert!((1..=32767).contains(&sequence));
            self.sequences.insert(remote, sequence.into());
        } else {
            assert_eq!(own[..4], bytes[..4]);
            expected["Timestamp"] = json!(UNIX_MS * 1000);
        }
        assert_eq!(data, expected, "the same names, order and values");
    }
}

fn replay(name: &str, loops: u16, seed: u64) {
    let flow = vector(name);
    let mut replay = Replay {
        world: World::new(loops, seed),
        clients: HashMap::new(),
        own: HashMap::new(),
        sequences: HashMap::new(),
    };
    let mut echoes = 0;
    for item in flow["items"].as_array().unwrap() {
        replay.world.advance(1 + item["t_ms"].as_u64().unwrap());
        let (from, to) = (item["from"].as_str().unwrap(), item["to"].as_str().unwrap());
        let address = |name: &str| -> SocketAddr { flow["endpoints"][name].as_str().unwrap().parse().unwrap() };
        let bytes = unhex(&item["hex"]);
        match (item["kind"].as_str().unwrap(), item["transport"].as_str().unwrap()) {
            ("app", _) => {}
            (_, "tcp") if to == "server" => replay.line_arrives(from, &bytes),
            (_, "tcp") => replay.line_is_expected(to, &bytes),
            ("KEEP_ALIVE", _) if to == "server" => {
                replay.datagram_arrives(address(from), &bytes);
                let echo = replay
                    .world
                    .datagrams
                    .get_mut(&address(from))
                    .and_then(VecDeque::pop_front);
                assert_eq!(echo, Some(bytes));
                echoes += 1;
            }
            // The recorded server sends them of its own accord.
            ("KEEP_ALIVE", _) => {}
            _ if to == "server" => replay.datagram_arrives(address(from), &bytes),
            _ => replay.datagram_is_expected(address(to), &bytes),
        }
    }
    assert!(echoes > 0 || name == "meet-two.json");
    let end_ms = replay.world.now_ms + 5_000;
    replay.world.advance(end_ms);
    let left: usize = replay.world.datagrams.values().map(VecDeque::len).sum();
    assert_eq!(left, 0, "nothing was sent beyond the recording");
    for (at, conn) in replay.clients.values() {
        replay.world.loops[*at].close_matchmaker(*conn, end_ms);
        replay.world.collect(*at);
    }
    replay.world.settle();
    replay.world.advance(end_ms + 10_000);
    for punch in &replay.world.loops {
        let census = punch.census();
        assert_eq!((census.matchmaker_sessions, census.matchmaker_lobbies), (0, 0));
        assert_eq!(punch.poll_timeout(), None);
    }
}

#[test]
fn recorded_clients_meet_here_as_they_did() {
    for name in ["meet-two.json", "meet-three.json"] {
        replay(name, 1, 0);
        for seed in 0..100 {
            replay(name, 4, seed);
        }
    }
}

#[test]
fn a_refusal_is_what_a_real_client_was_seen_to_fail_on() {
    let vector = vector("error-reply.json");
    let mut line = Vec::new();
    matchmaker::push_reply(&mut line, &Reply::Refused(Refusal::LobbyNotFound));
    assert_eq!(line, unhex(&vector["items"][0]["reply_hex"]));
}

#[test]
fn the_first_bytes_of_a_connection_say_what_it_speaks() {
    for item in vector("demux-tcp.json")["items"].as_array().unwrap() {
        let (speaks, blanks) = demultiplexer::classify_stream(&unhex(&item["hex"]));
        let speaks = match speaks {
            demultiplexer::Speaks::Json => "json",
            demultiplexer::Speaks::Http => "http",
            demultiplexer::Speaks::Tls | demultiplexer::Speaks::Nothing => "close",
            demultiplexer::Speaks::Unknown => "unknown",
        };
        assert_eq!(speaks, item["expect"], "{} with {blanks} blanks", item["text"]);
    }
}
