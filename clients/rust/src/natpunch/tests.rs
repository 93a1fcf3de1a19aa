//! Captured flows replayed from the client's side, clients that meet through a server of a few lines, and any bytes at all.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use serde_json::Value;

use super::message::{
    ClientInfo, CreateLobbyResponse, Endpoint, Joined, LobbyInfo, LobbyListResponse, LobbyUpdate, RegisterResponse,
};
use super::*;
use crate::{OPENING_TTL, QUEUE_MAX};

const SERVER: &str = "203.0.113.77:8080";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn events(client: &mut Client) -> Vec<Event> {
    std::iter::from_fn(|| client.poll_event()).collect()
}

fn flow(file: &str) -> Value {
    let path = format!(
        "{}/../../tests/vectors/natpunch/{file}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bytes(item: &Value) -> Vec<u8> {
    let hex = item["hex"].as_str().unwrap();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[test]
fn every_captured_datagram_is_read_and_written_again() {
    let mut kinds = BTreeSet::new();
    for file in [
        "newest-client-reordered-join",
        "newest-client-upstream-server-crash",
        "server-replies-scripted",
    ] {
        for item in flow(file)["items"].as_array().unwrap() {
            let body = Body::from_datagram(&bytes(item)).unwrap();
            assert_eq!(body.into_datagram(), bytes(item), "{file} {}", item["n"]);
            kinds.insert(item["kind"].as_str().unwrap().to_owned());
        }
    }
    assert!(kinds.len() >= 19, "{kinds:?}");
}

/// Every client of a captured flow gets what it got and must send what it sent, and nothing else.
#[test]
fn the_captured_flows_replay() {
    for (file, letter, heard) in [
        ("newest-client-reordered-join", "A", 2),
        ("newest-client-reordered-join", "B", 2),
        ("newest-client-reordered-join", "C", 2),
        // Here the joiner's process died of the host's first punch.
        ("newest-client-upstream-server-crash", "A", 0),
    ] {
        let connected = replay(&flow(file), letter);
        assert_eq!(connected.len(), heard, "{file} {letter}: {connected:?}");
    }
}

fn replay(flow: &Value, letter: &str) -> BTreeSet<String> {
    let endpoint = |name: &Value| at(flow["endpoints"][name.as_str().unwrap()].as_str().unwrap());
    let own = at(flow["endpoints"][letter].as_str().unwrap());
    let mut client = Client::new(Config::new(
        endpoint(&"server".into()),
        SocketAddr::new([0; 16].into(), own.port()),
        1,
    ));
    let (mut captured, mut ours, mut connected) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for item in flow["items"].as_array().unwrap() {
        let now = item["t_ms"].as_u64().unwrap();
        while client.poll_timeout().is_some_and(|due| due < now) {
            client.handle_timeout(client.poll_timeout().unwrap());
        }
        if item["from"] == letter {
            let body = Body::from_datagram(&bytes(item)).unwrap();
            captured.insert(shown(endpoint(&item["to"]), body.clone()));
            match body {
                Body::RegisterRequest(_) => client.register(now),
                Body::LobbyListRequest(_) => client.list(),
                Body::CreateLobbyRequest(request) => client.create(&request.lobby_name, request.max_players),
                Body::JoinLobbyRequest(request) => client.join(&request.lobby_id),
                Body::ConnectRequest(request) => client.connect(&request.destination_client_id),
                _ => {}
            }
        } else if item["to"] == letter {
            client.handle_datagram(endpoint(&item["from"]), &bytes(item), now);
        }
        while let Some(transmit) = client.poll_transmit() {
            ours.insert(shown(transmit.to, Body::from_datagram(&transmit.payload).unwrap()));
        }
        for event in events(&mut client) {
            if let Event::Connected { peer, .. } = event {
                connected.insert(peer);
            }
        }
    }
    // Only the first punch is confirmed by the captured client, and not all that was sent is in the file.
    let confirms = |all: BTreeSet<String>| {
        all.into_iter()
            .filter(|text| !text.contains(CONFIRMED))
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(confirms(ours), confirms(captured), "{letter}");
    connected
}

/// A datagram as text, without the number of a ping.
fn shown(to: SocketAddr, body: Body) -> String {
    let body = match body {
        Body::Ping(probe) => Body::Ping(Probe {
            sequence_number: 0,
            ..probe
        }),
        Body::Pong(probe) => Body::Pong(Probe {
            sequence_number: 0,
            ..probe
        }),
        other => other,
    };
    format!("{to} {body:?}")
}

/// A server of a few lines, and clients each with an address of its own on a network without delay.
struct World {
    now: u64,
    clients: Vec<Client>,
    publics: Vec<SocketAddr>,
    /// The router of this client gives it another port for each destination.
    symmetric: Option<usize>,
    lobbies: BTreeMap<String, Vec<usize>>,
    events: Vec<(usize, Event)>,
    died: usize,
}

impl World {
    fn new(count: usize, opening_ttl: Option<u8>) -> Self {
        let make = |n: usize| {
            let config = Config::new(at(SERVER), at(&format!("10.{n}.0.2:4000{n}")), n as u64);
            let mut client = Client::new(Config { opening_ttl, ..config });
            client.register(0);
            client
        };
        Self {
            now: 0,
            clients: (0..count).map(make).collect(),
            publics: (0..count).map(|n| at(&format!("198.51.100.{n}:4000{n}"))).collect(),
            symmetric: None,
            lobbies: BTreeMap::new(),
            events: Vec::new(),
            died: 0,
        }
    }

    fn run(&mut self, ms: u64) {
        let until = self.now + ms;
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
        let mut quiet = false;
        while !quiet {
            quiet = true;
            for n in 0..self.clients.len() {
                while let Some(transmit) = self.clients[n].poll_transmit() {
                    quiet = false;
                    self.deliver(n, &transmit);
                }
                let news = events(&mut self.clients[n]);
                self.events.extend(news.into_iter().map(|event| (n, event)));
            }
        }
    }

    fn deliver(&mut self, n: usize, transmit: &Transmit) {
        let mut from = self.publics[n];
        if transmit.to == at(SERVER) {
            return self.serve(n, Body::from_datagram(&transmit.payload).unwrap());
        }
        if transmit.ttl.is_some() {
            self.died += 1;
            return;
        }
        let moved = |public: SocketAddr| SocketAddr::new(public.ip(), public.port() + 1000);
        if self.symmetric == Some(n) {
            from = moved(from);
        }
        let reached = self
            .publics
            .iter()
            .enumerate()
            .position(|(m, public)| match self.symmetric {
                Some(symmetric) if symmetric == m => moved(*public) == transmit.to,
                _ => *public == transmit.to,
            });
        if let Some(m) = reached {
            self.clients[m].handle_datagram(from, &transmit.payload, self.now);
        }
    }

    fn info(&self, n: usize) -> ClientInfo {
        ClientInfo {
            client_id: format!("id{n}"),
            public_endpoint: Some(self.publics[n].into()),
        }
    }

    fn instruction(&self, about: usize) -> Body {
        Body::ConnectionInstruction(ConnectionInstruction {
            accepted: true,
            client_id: format!("id{about}"),
            public_endpoint: Some(self.publics[about].into()),
            local_endpoint: Some(self.publics[about].into()),
            ..ConnectionInstruction::default()
        })
    }

    fn lobby(&self, id: &str) -> LobbyInfo {
        let members = &self.lobbies[id];
        LobbyInfo {
            lobby_id: id.to_owned(),
            lobby_name: "room".to_owned(),
            host_client_id: format!("id{}", members[0]),
            current_players: members.len() as u32,
            max_players: 8,
            members: members.iter().map(|m| self.info(*m)).collect(),
        }
    }

    fn serve(&mut self, n: usize, request: Body) {
        let (mut replies, success) = (VecDeque::new(), true);
        match request {
            Body::RegisterRequest(_) => replies.push_back((
                n,
                Body::RegisterResponse(RegisterResponse {
                    success,
                    public_endpoint: Some(self.publics[n].into()),
                    client_id: format!("id{n}"),
                    message: String::new(),
                }),
            )),
            Body::CreateLobbyRequest(CreateLobbyRequest { lobby_name, .. }) => {
                let lobby_id = format!("lobby_{n}");
                self.lobbies.insert(lobby_id.clone(), vec![n]);
                let response = CreateLobbyResponse {
                    success,
                    lobby_id,
                    lobby_name,
                    message: String::new(),
                };
                replies.push_back((n, Body::CreateLobbyResponse(response)));
            }
            Body::LobbyListRequest(LobbyListRequest { request_id }) => {
                let lobbies = self.lobbies.keys().map(|id| self.lobby(id)).collect();
                let response = LobbyListResponse {
                    success,
                    request_id,
                    lobbies,
                    message: String::new(),
                };
                replies.push_back((n, Body::LobbyListResponse(response)));
            }
            Body::JoinLobbyRequest(LobbyAndClient { lobby_id, .. }) => {
                let Some(host) = self.lobbies.get(&lobby_id).map(|members| members[0]) else {
                    let message = "Lobby not found".to_owned();
                    return self.answer(n, Body::Error(Words { message }));
                };
                let mut joined = Joined {
                    success,
                    lobby_id,
                    ..Joined::default()
                };
                replies.push_back((n, Body::JoinLobbyResponse(joined.clone())));
                joined.lobby_members = vec![self.info(host), self.info(n)];
                replies.push_back((n, Body::JoinLobbySuccess(joined)));
                replies.push_back((n, self.instruction(host)));
                replies.push_back((host, self.instruction(n)));
            }
            Body::PeerConnectionReady(LobbyAndClient { lobby_id, client_id }) => {
                let joiner: usize = client_id[2..].parse().unwrap();
                let members = self.lobbies.get_mut(&lobby_id).unwrap();
                if !members.contains(&joiner) {
                    members.push(joiner);
                    let members = members.clone();
                    let update_type = "player_joined".to_owned();
                    let update = LobbyUpdate {
                        lobby_info: Some(self.lobby(&lobby_id)),
                        lobby_id,
                        update_type,
                    };
                    replies.extend(members.iter().map(|m| (*m, Body::LobbyUpdate(update.clone()))));
                    for other in members.into_iter().filter(|m| *m != n && *m != joiner) {
                        replies.push_back((joiner, self.instruction(other)));
                        replies.push_back((other, self.instruction(joiner)));
                    }
                }
            }
            Body::LeaveLobbyRequest(LobbyAndClient { lobby_id, client_id }) => {
                let members = self.lobbies.get_mut(&lobby_id).unwrap();
                members.retain(|member| *member != n);
                let left = members.iter().map(|member| {
                    (
                        *member,
                        Body::PeerLeft(message::Client {
                            client_id: client_id.clone(),
                        }),
                    )
                });
                replies.extend(left);
                let message = String::new();
                replies.push_back((
                    n,
                    Body::LeaveLobbyResponse(message::LeaveLobbyResponse { success, message }),
                ));
            }
            _ => {}
        }
        for (to, reply) in replies {
            self.answer(to, reply);
        }
    }

    fn answer(&mut self, to: usize, reply: Body) {
        self.clients[to].handle_datagram(at(SERVER), &reply.into_datagram(), self.now);
    }

    fn count(&self, counts: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| counts(event)).count()
    }
}

#[test]
fn three_members_of_a_lobby_meet_two_by_two() {
    for (ttl, symmetric) in [
        (None, None),
        (Some(OPENING_TTL), None),
        (None, Some(1)),
        (Some(OPENING_TTL), Some(2)),
    ] {
        let mut world = World::new(3, ttl);
        world.symmetric = symmetric;
        world.run(100);
        world.clients[0].create("room", 8);
        world.run(100);
        for joiner in [1, 2] {
            world.clients[joiner].list();
            world.run(10);
            let Some((_, Event::Lobbies(lobbies))) = world.events.last() else {
                panic!()
            };
            let id = lobbies[0].id.clone();
            world.clients[joiner].join(&id);
            world.run(1500);
        }
        world.run(3000);
        assert_eq!(
            world.count(|event| matches!(event, Event::Connected { .. })),
            6,
            "{ttl:?} {:?}",
            world.events
        );
        assert_eq!(world.count(|event| matches!(event, Event::Unreachable { .. })), 0);
        for n in 0..3 {
            let members = &world.clients[n].lobby().unwrap().members;
            assert_eq!(members.len(), 3, "{n}");
            let pongs: BTreeSet<&str> = world
                .events
                .iter()
                .filter_map(|(m, event)| match event {
                    Event::Pong { peer, .. } if *m == n => Some(&**peer),
                    _ => None,
                })
                .collect();
            assert_eq!(pongs.len(), 2, "{n}: {pongs:?}");
        }
        assert_eq!(world.died > 0, ttl.is_some());
        // Nobody punches any more: only keep-alives and pings are left.
        world.run(10_000);
        world.clients[2].leave();
        world.run(10);
        assert_eq!(world.count(|event| *event == Event::PeerLeft { peer: "id2".into() }), 2);
        assert_eq!(world.count(|event| *event == Event::Left), 1);
    }
}

#[test]
fn a_registration_that_nobody_answers_ends() {
    let mut client = Client::new(Config::new(at(SERVER), at("10.0.0.2:4"), 1));
    assert_eq!(client.poll_timeout(), None);
    client.list();
    client.join("lobby");
    assert_eq!(client.poll_transmit(), None, "not registered");
    client.register(0);
    let mut sent = 0;
    for now in 0..=20_000 {
        client.handle_timeout(now);
        assert!(client.poll_timeout().is_none_or(|due| due > now));
        sent += std::iter::from_fn(|| client.poll_transmit()).count();
    }
    assert_eq!((sent, events(&mut client)), (10, vec![Event::RegistrationFailed]));
    assert_eq!(client.poll_timeout(), None);
}

#[test]
fn a_player_that_is_not_heard_is_given_up_after_ten_seconds() {
    let mut world = World::new(1, Some(OPENING_TTL));
    world.run(10);
    let mut gone = World::new(2, None);
    gone.publics[1] = at("192.0.2.1:9");
    let instruction = gone.instruction(1).into_datagram();
    world.clients[0].handle_datagram(at(SERVER), &instruction, 10);
    let mut punches = Vec::new();
    for now in 10..=12_000 {
        world.clients[0].handle_timeout(now);
        let sent = std::iter::from_fn(|| world.clients[0].poll_transmit());
        punches.extend(
            sent.filter(|sent| sent.to == at("192.0.2.1:9"))
                .map(|sent| (now, sent.ttl)),
        );
    }
    assert_eq!(punches[..2], [(10, Some(2)), (110, Some(2))]);
    assert_eq!(punches[13..15], [(1310, Some(2)), (1410, None)]);
    assert_eq!((punches.len(), punches.last()), (14 + 18, Some(&(9910, None))));
    assert_eq!(
        events(&mut world.clients[0]).last(),
        Some(&Event::Unreachable { peer: "id1".into() })
    );
    // It is asked for again and comes back.
    world.clients[0].handle_datagram(at(SERVER), &instruction, 12_000);
    world.clients[0].handle_datagram(at("192.0.2.1:9"), &established(HOLE_PUNCH, "id1"), 12_100);
    let back = Event::Connected {
        peer: "id1".into(),
        from: at("192.0.2.1:9"),
    };
    assert_eq!(events(&mut world.clients[0]).last(), Some(&back));
}

#[test]
fn a_host_that_is_told_again_goes_on_with_its_opening() {
    let mut world = World::new(2, Some(OPENING_TTL));
    world.run(10);
    world.clients[0].create("room", 2);
    world.run(10);
    let since = world.now;
    let instruction = world.instruction(1).into_datagram();
    let mut punches = Vec::new();
    for now in since..=since + 1000 {
        if matches!(now - since, 0 | 450) {
            world.clients[0].handle_datagram(at(SERVER), &instruction, now);
        }
        world.clients[0].handle_timeout(now);
        let sent = std::iter::from_fn(|| world.clients[0].poll_transmit());
        punches.extend(
            sent.filter(|sent| sent.to != at(SERVER))
                .map(|sent| (now - since, sent.ttl)),
        );
    }
    let expected = [(0, Some(2)), (100, Some(2)), (200, Some(2)), (500, None), (1000, None)];
    assert_eq!(punches, expected);
}

#[test]
fn strangers_and_repeats_change_nothing() {
    let mut world = World::new(2, None);
    world.run(10);
    world.clients[0].create("room", 2);
    world.run(10);
    world.clients[1].join("lobby_0");
    world.run(3000);
    let stranger = at("192.0.2.1:1");
    let probe = |to: &str| Probe {
        source_client_id: "id1".into(),
        destination_client_id: to.into(),
        sequence_number: 1,
    };
    let mut repeat = Joined {
        success: true,
        lobby_id: "lobby_0".into(),
        ..Joined::default()
    };
    repeat.lobby_members = vec![world.info(1)];
    let own = world.instruction(0);
    for (from, datagram) in [
        (stranger, established(HOLE_PUNCH, "id1")),
        (stranger, Body::Ping(probe("id0")).into_datagram()),
        (world.publics[1], established(HOLE_PUNCH, "id7")),
        (world.publics[1], Body::Pong(probe("id7")).into_datagram()),
        (world.publics[1], world.instruction(1).into_datagram()),
        (at(SERVER), world.instruction(1).into_datagram()),
        (at(SERVER), own.into_datagram()),
        (at(SERVER), Body::JoinLobbySuccess(repeat).into_datagram()),
        (at(SERVER), established(HOLE_PUNCH, "id1")),
        (at(SERVER), vec![0xff; 8]),
        (at(SERVER), vec![0; 1025]),
    ] {
        let before = format!("{:?}", world.clients[0]);
        world.clients[0].handle_datagram(from, &datagram, world.now);
        assert_eq!(
            format!("{:?}", world.clients[0]),
            before,
            "{from} {:?}",
            Body::from_datagram(&datagram)
        );
    }
}

#[test]
fn what_the_server_says_reaches_the_user() {
    let mut world = World::new(1, None);
    world.run(10);
    world.clients[0].join("lobby_x");
    world.run(10);
    assert_eq!(
        world.events.last(),
        Some(&(0, Event::Refused("Lobby not found".into())))
    );
    let ping = Body::DebugMessage(Words { message: "PING".into() });
    world.answer(0, ping);
    let pong = world.clients[0].poll_transmit().unwrap().payload;
    assert_eq!(
        Body::from_datagram(&pong),
        Some(Body::DebugMessage(Words { message: "PONG".into() }))
    );
}

fn id() -> impl Strategy<Value = String> {
    prop_oneof![Just("me".to_owned()), "id[0-9]{1,2}", "\\PC{0,80}"]
}

fn endpoint() -> impl Strategy<Value = Option<Endpoint>> {
    let ip_address = prop_oneof![Just("1.2.3.4".to_owned()), Just("::1".to_owned()), "\\PC{0,20}"];
    prop::option::of((ip_address, any::<u32>()).prop_map(|(ip_address, port)| Endpoint {
        ip_address,
        port: port % 70_000,
    }))
}

fn body() -> impl Strategy<Value = Body> {
    let member = (id(), endpoint()).prop_map(|(client_id, public_endpoint)| ClientInfo {
        client_id,
        public_endpoint,
    });
    let members = prop::collection::vec(member, 0..8).boxed();
    let joined = (any::<bool>(), id(), members.clone()).prop_map(|(success, lobby_id, lobby_members)| Joined {
        success,
        lobby_id,
        lobby_members,
        ..Joined::default()
    });
    let info = (id(), id(), members).prop_map(|(lobby_id, host_client_id, members)| LobbyInfo {
        lobby_id,
        host_client_id,
        members,
        ..LobbyInfo::default()
    });
    let probe = (id(), id(), any::<u32>())
        .prop_map(|(source_client_id, destination_client_id, sequence_number)| Probe {
            source_client_id,
            destination_client_id,
            sequence_number,
        })
        .boxed();
    prop_oneof![
        id().prop_map(|client_id| Body::RegisterResponse(RegisterResponse {
            success: true,
            client_id,
            ..Default::default()
        })),
        (id(), endpoint(), endpoint()).prop_map(|(client_id, public_endpoint, local_endpoint)| {
            let accepted = true;
            Body::ConnectionInstruction(ConnectionInstruction {
                accepted,
                client_id,
                public_endpoint,
                local_endpoint,
                ..Default::default()
            })
        }),
        (id(), id())
            .prop_map(|(message, client_id)| Body::ConnectionEstablished(ConnectionEstablished { message, client_id })),
        id().prop_map(|lobby_id| Body::CreateLobbyResponse(CreateLobbyResponse {
            success: true,
            lobby_id,
            ..Default::default()
        })),
        joined.prop_map(Body::JoinLobbySuccess),
        (id(), prop::option::of(info)).prop_map(|(lobby_id, lobby_info)| {
            Body::LobbyUpdate(LobbyUpdate {
                lobby_id,
                lobby_info,
                update_type: String::new(),
            })
        }),
        id().prop_map(|client_id| Body::PeerLeft(message::Client { client_id })),
        probe.clone().prop_map(Body::Ping),
        probe.prop_map(Body::Pong),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_that_arrives_panics_or_grows_the_state(
        steps in prop::collection::vec((0..4_usize, body(), prop::collection::vec(any::<u8>(), 0..40), 0..1500_u64), 0..200),
        ttl in prop::option::of(1..5_u8),
        drained in any::<bool>(),
    ) {
        let mut client = Client::new(Config { opening_ttl: ttl, ..Config::new(at(SERVER), at("[::]:4"), 1) });
        let mut now = 0;
        client.register(now);
        for (from, body, noise, wait) in steps {
            let from = at([SERVER, SERVER, "1.2.3.4:5", "[::1]:5"][from]);
            client.handle_datagram(from, &body.into_datagram(), now);
            client.handle_datagram(from, &noise, now);
            now += wait;
            client.handle_timeout(now);
            prop_assert!(client.poll_timeout().is_none_or(|due| due > now));
            prop_assert!(client.peers.len() <= 32);
            prop_assert!(client.transmits.0.len() <= QUEUE_MAX && client.events.0.len() <= QUEUE_MAX);
            if drained {
                while client.poll_transmit().is_some() {}
                events(&mut client);
            }
        }
    }
}
