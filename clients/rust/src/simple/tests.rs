//! Captured flows replayed from the client's side, clients that meet through a server of a few lines, and any bytes at all.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{OPENING_TTL, QUEUE_MAX};

const SERVER: &str = "203.0.113.77:8070";

fn v4(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

fn events(client: &mut Client) -> Vec<Event> {
    std::iter::from_fn(|| client.poll_event()).collect()
}

fn sent(client: &mut Client) -> Vec<(String, String)> {
    let transmits = std::iter::from_fn(|| client.poll_transmit());
    transmits
        .map(|transmit| (transmit.to.to_string(), String::from_utf8(transmit.payload).unwrap()))
        .collect()
}

/// Every client of a captured flow gets what it got and must send what it sent, and nothing else.
#[test]
fn the_captured_flows_replay() {
    for (file, expected) in [
        (
            "session-two-joiners",
            &["A server", "B bad", "C client", "D client", "E bad"][..],
        ),
        ("random-pair", &["A server", "B client"][..]),
    ] {
        let path = format!("{}/../../tests/vectors/simple/{file}.json", env!("CARGO_MANIFEST_DIR"));
        let flow: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut results = Vec::new();
        for (letter, address) in flow["endpoints"].as_object().unwrap() {
            if letter != "server" {
                results.push(replay(&flow, letter, v4(address.as_str().unwrap())));
            }
        }
        assert_eq!(results, expected, "{file}");
    }
}

fn replay(flow: &Value, letter: &str, address: SocketAddrV4) -> String {
    let endpoint = |name: &Value| v4(flow["endpoints"][name.as_str().unwrap()].as_str().unwrap());
    let items: Vec<&Value> = flow["items"].as_array().unwrap().iter().collect();
    let text = |item: &Value| item["decoded"].as_str().unwrap().to_owned();
    let from = |item: &Value| item["from"] == letter;
    let own = |kind: &str| items.iter().find(|item| from(item) && item["kind"] == kind);
    let name = own("RD").map_or("nobody".to_owned(), |item| text(item)[3..].to_owned());

    let mut client = Client::new(Config::new(address, &name));
    let (mut captured, mut ours, mut happened) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let mut called = BTreeSet::new();
    for item in items.iter().filter(|item| item["kind"] != "app") {
        let (now, kind) = (item["t_ms"].as_u64().unwrap(), item["kind"].as_str().unwrap());
        while client.poll_timeout().is_some_and(|due| due < now) {
            client.handle_timeout(client.poll_timeout().unwrap());
        }
        if from(item) {
            captured.insert((endpoint(&item["to"]).to_string(), text(item)));
            if called.insert(kind) {
                let words = text(item);
                match kind {
                    "HS" => client.host_session(endpoint(&item["to"]), now),
                    "JS" => client.join_session(words.split(':').nth(2).unwrap(), now).unwrap(),
                    "RS" => client.random_session(endpoint(&item["to"]), now),
                    "CS" => client.close_session(now),
                    _ => {}
                }
            }
        } else if item["to"] == letter {
            client.handle_datagram(endpoint(&item["from"]).into(), text(item).as_bytes(), now);
        }
        ours.extend(sent(&mut client));
        happened.extend(events(&mut client));
    }
    // Repeats are thinned in the file, so not every list of names is there, nor learned: the sender's own name is.
    let own_name = |(to, text): &(String, String)| match text.strip_prefix("RD:") {
        Some(names) => (to.clone(), format!("RD:{}", names.split(':').next().unwrap())),
        None => (to.clone(), text.clone()),
    };
    let distinct = |all: &BTreeSet<_>| all.iter().map(own_name).collect::<BTreeSet<_>>();
    assert_eq!(distinct(&ours), distinct(&captured), "{letter}");
    let end = match happened.last().unwrap() {
        Event::StartServer { port, .. } if *port == address.port() => "server",
        Event::StartClient { port, .. } if *port == address.port() => "client",
        Event::BadSession(_) => "bad",
        other => panic!("{letter} ends with {other:?}"),
    };
    format!("{letter} {end}")
}

/// A server of a few lines, and clients each with an address of its own on a network without delay.
struct World {
    now: u64,
    clients: Vec<Client>,
    publics: Vec<SocketAddrV4>,
    /// The router of this client gives it another port for each destination.
    symmetric: Option<usize>,
    waiting: Option<String>,
    hosts: BTreeMap<String, (SocketAddrV4, String)>,
    events: Vec<(usize, Event)>,
    /// Datagrams with a TTL, which die on their way.
    died: usize,
}

impl World {
    fn new(count: usize, opening_ttl: Option<u8>) -> Self {
        let make = |n: usize| {
            let local = v4(&format!("10.{n}.0.2:4000{n}"));
            let config = Config {
                opening_ttl,
                ..Config::new(local, &format!("player{n}"))
            };
            Client::new(config)
        };
        Self {
            now: 0,
            clients: (0..count).map(make).collect(),
            publics: (0..count).map(|n| v4(&format!("198.51.100.{n}:4000{n}"))).collect(),
            symmetric: None,
            waiting: None,
            hosts: BTreeMap::new(),
            events: Vec::new(),
            died: 0,
        }
    }

    fn run(&mut self, until: u64) {
        loop {
            self.carry();
            let due = self.clients.iter().filter_map(Client::poll_timeout).min();
            let Some(due) = due.filter(|due| *due <= until) else {
                break;
            };
            self.now = self.now.max(due);
            for client in &mut self.clients {
                client.handle_timeout(self.now);
            }
        }
        self.now = until;
    }

    fn carry(&mut self) {
        loop {
            let mut quiet = true;
            for n in 0..self.clients.len() {
                while let Some(transmit) = self.clients[n].poll_transmit() {
                    quiet = false;
                    self.deliver(n, &transmit);
                }
                let news = events(&mut self.clients[n]);
                self.events.extend(news.into_iter().map(|event| (n, event)));
            }
            if quiet {
                break;
            }
        }
    }

    fn deliver(&mut self, n: usize, transmit: &Transmit) {
        let mut from = self.publics[n];
        if transmit.to == SocketAddr::V4(v4(SERVER)) {
            return self.serve(n, std::str::from_utf8(&transmit.payload).unwrap());
        }
        if transmit.ttl.is_some() {
            self.died += 1;
            return;
        }
        let SocketAddr::V4(to) = transmit.to else { panic!() };
        if self.symmetric == Some(n) {
            from.set_port(from.port() + 1000);
        }
        let reached = self
            .publics
            .iter()
            .enumerate()
            .position(|(m, public)| match self.symmetric {
                // The port that the server saw leads nowhere.
                Some(symmetric) if symmetric == m => SocketAddrV4::new(*public.ip(), public.port() + 1000) == to,
                _ => *public == to,
            });
        if let Some(m) = reached {
            self.clients[m].handle_datagram(from.into(), &transmit.payload, self.now);
        }
    }

    fn serve(&mut self, n: usize, request: &str) {
        let (remote, id) = (
            key::encode(self.publics[n]),
            format!("{}{n:04}abcd", key::encode(v4(SERVER))),
        );
        let fields: Vec<&str> = request.split(':').collect();
        let replies = match &fields[..] {
            ["HS", local] => {
                self.hosts.insert(id.clone(), (self.publics[n], (*local).to_owned()));
                vec![(self.publics[n], format!("HR:{remote}:{id}"))]
            }
            ["RS", local] => match self.waiting.clone().filter(|waiting| *waiting != id) {
                Some(waiting) => self.pair(n, local, &waiting),
                None => {
                    self.waiting = Some(id.clone());
                    self.hosts.insert(id.clone(), (self.publics[n], (*local).to_owned()));
                    vec![(self.publics[n], format!("HR:{remote}:{id}"))]
                }
            },
            ["JS", local, session] => self.pair(n, local, session),
            ["CS", session] => {
                self.hosts.remove(*session);
                vec![]
            }
            _ => vec![],
        };
        for (to, reply) in replies {
            let m = self.publics.iter().position(|public| *public == to).unwrap();
            self.clients[m].handle_datagram(v4(SERVER).into(), reply.as_bytes(), self.now);
        }
    }

    fn pair(&self, n: usize, local: &str, session: &str) -> Vec<(SocketAddrV4, String)> {
        let remote = key::encode(self.publics[n]);
        match self.hosts.get(session) {
            Some((host, host_local)) => vec![
                (*host, format!("NJ:{remote}:{local}")),
                (
                    self.publics[n],
                    format!("JR:{remote}:{}:{host_local}", key::encode(*host)),
                ),
            ],
            None => vec![(self.publics[n], format!("BK:{session}"))],
        }
    }

    fn session(&self) -> String {
        let ids = self.events.iter().find_map(|(_, event)| match event {
            Event::StartSession(id) => Some(id.clone()),
            _ => None,
        });
        ids.unwrap()
    }

    fn ends(&self) -> Vec<(usize, Event)> {
        let ends = |event: &Event| matches!(event, Event::StartServer { .. } | Event::StartClient { .. });
        self.events.iter().filter(|(_, event)| ends(event)).cloned().collect()
    }
}

fn start_server(port: u16, joiners: &[&str]) -> Event {
    Event::StartServer {
        port,
        joiners: joiners.iter().map(|joiner| v4(joiner)).collect(),
    }
}

fn start_client(host: &str, port: u16) -> Event {
    Event::StartClient { host: v4(host), port }
}

#[test]
fn a_host_and_two_joiners_meet() {
    for ttl in [None, Some(OPENING_TTL)] {
        let mut world = World::new(3, ttl);
        world.clients[0].host_session(v4(SERVER), 0);
        world.run(500);
        let id = world.session();
        assert_eq!(world.clients[0].public_address(), Some(world.publics[0]));
        for joiner in [1, 2] {
            world.clients[joiner].join_session(&id, world.now).unwrap();
        }
        world.run(1600);
        assert_eq!(world.clients[1].get_host(), Some(world.publics[0]));
        assert_eq!(world.died > 0, ttl.is_some());
        assert!(world.ends().is_empty());
        world.clients[0].close_session(world.now);
        world.run(3000);
        let mut ends = world.ends();
        ends.sort_by_key(|(n, _)| *n);
        let expected = [
            (0, start_server(40000, &["198.51.100.1:40001", "198.51.100.2:40002"])),
            (1, start_client("198.51.100.0:40000", 40001)),
            (2, start_client("198.51.100.0:40000", 40002)),
        ];
        assert_eq!(ends, expected);
        assert!(world.hosts.is_empty(), "the session is closed");
        assert!(
            world.clients.iter().all(|client| client.poll_timeout().is_none()),
            "nothing is left to do"
        );
        for (n, names) in [
            (0, "player0 player1 player2"),
            (1, "player1 player0 player2"),
            (2, "player2 player0 player1"),
        ] {
            let heard = world.events.iter().filter_map(|(m, event)| match event {
                Event::NewName(name) if *m == n => Some(name.as_str()),
                _ => None,
            });
            let heard: BTreeSet<&str> = heard.collect();
            assert_eq!(heard, names.split(' ').collect(), "{n}");
        }
    }
}

#[test]
fn two_at_random_meet_without_a_word_from_their_users() {
    let mut world = World::new(2, None);
    for client in &mut world.clients {
        client.random_session(v4(SERVER), 0);
    }
    world.run(3000);
    let expected = [
        (1, start_client("198.51.100.0:40000", 40001)),
        (0, start_server(40000, &["198.51.100.1:40001"])),
    ];
    assert_eq!(world.ends(), expected);
    assert_eq!(
        world
            .events
            .iter()
            .filter(|(_, event)| *event == Event::StartRandom)
            .count(),
        1
    );
}

#[test]
fn a_joiner_keeps_its_ordinary_packets_until_the_host_was_told_twice() {
    for (ttl, asks) in [(None, vec![0, 1000]), (Some(OPENING_TTL), vec![0, 250, 1250])] {
        let config = Config {
            opening_ttl: ttl,
            ..Config::new(v4("10.0.0.2:40000"), "me")
        };
        let mut client = Client::new(config);
        let session = format!("{}abcd", key::encode(v4(SERVER)));
        client.join_session(&session, 0).unwrap();
        let mut sent = Vec::new();
        for now in 0..1500 {
            client.handle_timeout(now);
            sent.extend(std::iter::from_fn(|| client.poll_transmit()).map(|_| now));
        }
        assert_eq!(sent, asks, "{ttl:?}");
        let (me, host) = (key::encode(v4("198.51.100.2:1")), key::encode(v4("198.51.100.1:1")));
        client.handle_datagram(v4(SERVER).into(), format!("JR:{me}:{host}:{host}").as_bytes(), 1500);
        let mut ordinary = None;
        for now in 1500..4000 {
            client.handle_timeout(now);
            let sent = std::iter::from_fn(|| client.poll_transmit()).any(|sent| sent.ttl.is_none());
            ordinary = ordinary.or(sent.then_some(now));
        }
        assert_eq!(ordinary, Some(if ttl.is_some() { 2900 } else { 1500 }));
    }
}

#[test]
fn a_joiner_whose_router_changes_its_port_meets_the_host() {
    let mut world = World::new(2, Some(OPENING_TTL));
    world.symmetric = Some(1);
    world.clients[0].host_session(v4(SERVER), 0);
    world.run(10);
    let id = world.session();
    world.clients[1].join_session(&id, world.now).unwrap();
    world.run(2500);
    world.clients[0].close_session(world.now);
    world.run(5000);
    assert_eq!(world.ends().len(), 2, "{:?}", world.events);
    let answered = Event::PeerAnswered {
        peer: v4("198.51.100.1:40001"),
        from: v4("198.51.100.1:41001"),
    };
    assert!(world.events.contains(&(0, answered)));
}

#[test]
fn a_request_is_repeated_each_second_and_a_silent_server_reported_once() {
    let mut client = Client::new(Config::new(v4("10.0.0.2:40000"), "a"));
    assert_eq!(client.poll_timeout(), None);
    client.host_session(v4(SERVER), 100);
    let mut requests = 0;
    for now in 100..=10_100 {
        client.handle_timeout(now);
        assert!(client.poll_timeout().unwrap() > now);
        requests += sent(&mut client).len();
    }
    assert_eq!(requests, 11);
    let reported = events(&mut client)
        .into_iter()
        .filter(|event| *event == Event::BadServer(v4(SERVER)));
    assert_eq!(reported.count(), 1);
    client.handle_timeout(1_000_000);
    assert_eq!(sent(&mut client).len(), 1, "one round after a long sleep");
}

#[test]
fn an_answer_that_overtakes_another_is_not_lost() {
    let mut client = Client::new(Config::new(v4("10.0.0.2:40000"), "a"));
    let server = SocketAddr::V4(v4(SERVER));
    client.random_session(v4(SERVER), 0);
    let joiner = key::encode(v4("198.51.100.1:40001"));
    client.handle_datagram(server, format!("NJ:{joiner}:{joiner}").as_bytes(), 10);
    client.handle_datagram(server, format!("HR:{joiner}:socynxlrbkbe1234").as_bytes(), 20);
    client.handle_datagram(v4("198.51.100.1:40001").into(), b"RD:b", 30);
    assert!(events(&mut client).contains(&Event::StartRandom));
    assert!(sent(&mut client).iter().any(|(_, text)| text == "CS:socynxlrbkbe1234"));
}

#[test]
fn strangers_and_repeats_change_nothing() {
    let mut world = World::new(2, None);
    world.clients[0].host_session(v4(SERVER), 0);
    world.run(10);
    let id = world.session();
    world.clients[1].join_session(&id, 10).unwrap();
    world.run(1500);
    let (stranger, server) = (SocketAddr::V4(v4("192.0.2.1:1")), SocketAddr::V4(v4(SERVER)));
    let mine = key::encode(world.publics[1]);
    for (n, from, text) in [
        (0, stranger, "RD:eve".to_owned()),
        (0, stranger, "JD:DONE".to_owned()),
        (0, stranger, format!("HR:{mine}:socynxlrbkbe9999")),
        (0, server, format!("NJ:{mine}:{mine}")),
        (0, server, format!("HR:{mine}:socynxlrbkbe9999")),
        (1, stranger, format!("JH:{mine}")),
        (1, stranger, format!("BK:{id}")),
        (1, server, format!("BK:{id}")),
        (1, server, format!("JR:{mine}:{}:x", key::encode(world.publics[0]))),
        (1, "[::1]:1".parse().unwrap(), "RD:eve".to_owned()),
    ] {
        let client = &mut world.clients[n];
        let before = format!("{client:?}");
        client.handle_datagram(from, text.as_bytes(), 1500);
        assert_eq!(format!("{client:?}"), before, "{text}");
    }
}

#[test]
fn a_host_that_missed_the_last_word_gets_it_again() {
    let mut world = World::new(2, None);
    world.clients[0].random_session(v4(SERVER), 0);
    world.clients[1].random_session(v4(SERVER), 0);
    world.run(3000);
    let host = SocketAddr::V4(world.publics[0]);
    world.clients[1].handle_datagram(host, b"JH:x", 3000);
    assert_eq!(sent(&mut world.clients[1]), [(host.to_string(), "JD:DONE".to_owned())]);
    assert_eq!(events(&mut world.clients[1]), []);
}

#[test]
fn an_id_names_its_server() {
    assert_eq!(server_of("qucycyahoavjbaul"), Ok(v4("127.0.0.1:18070")));
    assert_eq!(server_of("qucycyahoavjbaulyqyq"), Ok(v4("127.0.0.1:18070")));
    let long = format!("qucycyahoavj{}", "a".repeat(60));
    for id in [
        "",
        "qucycyahoavj",
        "qucycyahoavjabc",
        "zzcycyahoavjbaul",
        "qucycyahoavj:aul",
        "qucycyahoavjb ul",
        &long,
        "ä",
    ] {
        assert_eq!(server_of(id), Err(BadId), "{id}");
        assert_eq!(
            Client::new(Config::new(v4("10.0.0.2:40000"), "a")).join_session(id, 0),
            Err(BadId)
        );
    }
}

/// Something a hostile network does.
#[derive(Clone, Debug)]
enum Step {
    Datagram(usize, Vec<u8>),
    Wait(u64),
    Call(u8),
}

fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        "[a-z]{0,14}",
        any::<[u8; 6]>().prop_map(|[a, b, c, d, e, f]| {
            key::encode(SocketAddrV4::new([a % 4, b, c, d].into(), u16::from_be_bytes([e, f])))
        }),
        Just("socynxlrbkbe1234".to_owned()),
    ];
    let verb = prop::sample::select(vec![
        "HS", "HR", "JS", "JR", "NJ", "BK", "RS", "KA", "CS", "RD", "JH", "JD",
    ]);
    let fields = prop::collection::vec(field, 0..5);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        (verb, fields).prop_map(|(verb, fields)| format!("{verb}:{}", fields.join(":")).into_bytes()),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6_usize, datagram()).prop_map(|(from, bytes)| Step::Datagram(from, bytes)),
        2 => (0..3000_u64).prop_map(Step::Wait),
        1 => (0..4_u8).prop_map(Step::Call),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_that_arrives_panics_or_grows_the_state(
        steps in prop::collection::vec(step(), 0..300),
        ttl in prop::option::of(1..5_u8),
        drained in any::<bool>(),
    ) {
        let sources = [SERVER, SERVER, "203.0.113.77:1", "0.0.0.0:1", "1.2.3.4:5", "[::1]:5"];
        let config = Config { opening_ttl: ttl, ..Config::new(v4("10.0.0.2:40000"), "me") };
        let (mut client, mut now) = (Client::new(config), 0);
        client.host_session(v4(SERVER), 0);
        for step in steps {
            match step {
                Step::Datagram(from, bytes) => client.handle_datagram(sources[from].parse().unwrap(), &bytes, now),
                Step::Wait(ms) => {
                    now += ms;
                    client.handle_timeout(now);
                    prop_assert!(client.poll_timeout().is_none_or(|due| due > now));
                }
                Step::Call(0) => client.host_session(v4(SERVER), now),
                Step::Call(1) => client.join_session_at(v4(SERVER), "socynxlrbkbe1234", now).unwrap(),
                Step::Call(2) => client.random_session(v4(SERVER), now),
                Step::Call(_) => client.close_session(now),
            }
            prop_assert!(client.peers.iter().count() <= 64);
            prop_assert!(client.names.iter().map(String::len).sum::<usize>() <= NAMES_BYTES_MAX);
            prop_assert!(client.transmits.0.len() <= QUEUE_MAX && client.events.0.len() <= QUEUE_MAX);
            if drained {
                sent(&mut client);
                events(&mut client);
            }
        }
    }
}
