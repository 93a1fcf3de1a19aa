//! The captured flows: every request is replayed, every answer is the captured one, ids apart, but where a decision of
//! ours says otherwise: those places are listed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use peer_server::codec::protobuf::natpunch as wire;
use prost::Message as _;
use serde_json::Value;

use super::world::{Content, World, decode, encode, keep_alive, kind};

/// Where our answers differ from the captured ones, by the number of a captured item.
enum Differs {
    /// The server does not say it.
    Unsaid,
    /// It says something of this kind instead.
    Instead(&'static str),
    /// It says something of this kind to this client before.
    Before(&'static str, &'static str),
    /// It says something of this kind to this client after.
    After(&'static str, &'static str),
}
use Differs::{After, Before, Instead, Unsaid};

#[test]
fn the_newest_client_with_replies_in_our_order() {
    // Members are told only to members, and the unspecified local endpoint is no endpoint: see `expected`.
    for loops in [1, 4] {
        check("newest-client-reordered-join", loops, &[]);
    }
}

#[test]
fn every_reply_to_requests_made_by_hand() {
    let differs = [
        // Nothing is taken from the id alone: this one asks for a client that is not in its lobby.
        (37, Instead("Error")),
        (38, Unsaid),
        // The order of a join: JoinLobbySuccess at once, no second one, and no second instruction.
        (13, Before("B", "JoinLobbySuccess")),
        (23, Instead("LobbyUpdate")),
        (25, Unsaid),
        (26, Unsaid),
        // Another client's id.
        (42, Instead("Error")),
        // The next host learns that it is one.
        (44, After("B", "LobbyUpdate")),
        // It did send keep-alives: its join is accepted.
        (55, Instead("JoinLobbyResponse")),
        (55, After("B", "JoinLobbySuccess")),
        (55, After("B", "ConnectionInstruction")),
        (55, After("A", "ConnectionInstruction")),
    ];
    for loops in [1, 4] {
        check("server-replies-scripted", loops, &differs);
    }
}

#[test]
fn the_newest_client_whose_join_used_to_end_it() {
    for loops in [1, 4] {
        let differs = [(15, Before("B", "JoinLobbySuccess"))];
        check("newest-client-upstream-server-crash", loops, &differs);
    }
}

fn check(file: &str, loops: u16, differs: &[(u64, Differs)]) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(format!("tests/vectors/natpunch/{file}.json"))).unwrap();
    let flow: Value = serde_json::from_str(&text).unwrap();
    let address = |name: &Value| -> SocketAddr {
        flow["endpoints"][name.as_str().unwrap()]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    };
    let mut replay = Replay::default();
    let mut world = World::new(loops);
    let mut alive: BTreeMap<SocketAddr, u64> = BTreeMap::new();
    for item in flow["items"].as_array().unwrap() {
        let (from, to) = (&item["from"], &item["to"]);
        // Repeats of keep-alives were taken out of the flow: every client that has begun to send them goes on.
        let at = item["t_ms"].as_u64().unwrap();
        while world.now_ms < at {
            world.advance((at - world.now_ms).min(100));
            for (address, last) in &mut alive {
                if *last + 2000 <= world.now_ms {
                    *last = world.now_ms;
                    let captured = encode(keep_alive(&replay.by_address[address]));
                    world.datagram(*address, &replay.with_own_ids(&captured));
                }
            }
        }
        let bytes = unhex(item["hex"].as_str().unwrap());
        if to == "server" {
            if item["kind"] == "KeepAlive" {
                alive.insert(address(from), at);
            }
            world.datagram(address(from), &replay.with_own_ids(&bytes));
            for name in flow["endpoints"].as_object().unwrap().keys() {
                let to = Value::from(name.as_str());
                let sent = world.take_bytes(address(&to));
                replay.said.entry(name.clone()).or_default().extend(sent);
            }
        } else if from == "server" {
            let to = to.as_str().unwrap();
            let said = replay.said.entry(to.to_owned()).or_default();
            let next = said.get(replay.heard.get(to).copied().unwrap_or(0)).cloned();
            if let Some(said) = next {
                replay.learn(&bytes, &said);
            }
            let n = item["n"].as_u64().unwrap();
            let mut say = |to: &str, expected: Expected| {
                *replay.heard.entry(to.to_owned()).or_default() += 1;
                replay.expected.entry(to.to_owned()).or_default().push((n, expected));
            };
            let here = || differs.iter().filter(|(at, _)| *at == n).map(|(_, differs)| differs);
            here().for_each(|differs| {
                if let Before(to, kind) = differs {
                    say(to, Expected::Kind(kind));
                }
            });
            let instead = here().find_map(|differs| match differs {
                Unsaid => Some(None),
                Instead(kind) => Some(Some(*kind)),
                _ => None,
            });
            match instead {
                None => say(to, Expected::Bytes(bytes)),
                Some(Some(kind)) => say(to, Expected::Kind(kind)),
                Some(None) => {}
            }
            here().for_each(|differs| {
                if let After(to, kind) = differs {
                    say(to, Expected::Kind(kind));
                }
            });
        }
    }
    replay.compare(file);
}

enum Expected {
    Bytes(Vec<u8>),
    Kind(&'static str),
}

#[derive(Default)]
struct Replay {
    /// Captured id to ours; both have the same length.
    ids: BTreeMap<String, String>,
    /// Captured ids of the clients.
    by_address: BTreeMap<SocketAddr, String>,
    said: BTreeMap<String, Vec<Vec<u8>>>,
    heard: BTreeMap<String, usize>,
    expected: BTreeMap<String, Vec<(u64, Expected)>>,
}

impl Replay {
    /// Pairs the ids that a captured answer and ours give.
    fn learn(&mut self, captured: &[u8], ours: &[u8]) {
        match (decode(captured), decode(ours)) {
            (Content::RegisterResponse(captured), Content::RegisterResponse(ours)) => {
                let endpoint = captured.public_endpoint.unwrap();
                let address = format!("{}:{}", endpoint.ip_address, endpoint.port).parse().unwrap();
                self.by_address.insert(address, captured.client_id.clone());
                self.ids.insert(captured.client_id, ours.client_id);
            }
            (Content::CreateLobbyResponse(captured), Content::CreateLobbyResponse(ours)) => {
                self.ids.insert(captured.lobby_id, ours.lobby_id);
            }
            _ => {}
        }
    }

    fn with_own_ids(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for (captured, ours) in &self.ids {
            replace(&mut bytes, captured.as_bytes(), ours.as_bytes());
        }
        bytes
    }

    fn compare(&self, file: &str) {
        let clients: BTreeSet<&String> = self.said.keys().chain(self.expected.keys()).collect();
        for client in clients.into_iter().filter(|client| *client != "server") {
            let said = self.said.get(client).map_or(&[][..], Vec::as_slice);
            let expected = self.expected.get(client).map_or(&[][..], Vec::as_slice);
            let said_kinds: Vec<String> = said.iter().map(|bytes| kind(&decode(bytes))).collect();
            assert_eq!(said.len(), expected.len(), "{file}, {client}: {said_kinds:?}");
            for (said, (n, expected)) in said.iter().zip(expected) {
                let said = sorted(decode(said));
                match expected {
                    Expected::Kind(expected) => assert_eq!(kind(&said), *expected, "{file}, {client}, item {n}"),
                    Expected::Bytes(bytes) => {
                        let asker = &self.ids[&self.id_of(client)];
                        let expected = self.expected_of(bytes, asker, &said);
                        assert_eq!(said, expected, "{file}, {client}, item {n}");
                    }
                }
            }
        }
    }

    /// The captured id of a client: what its RegisterResponse says.
    fn id_of(&self, client: &str) -> String {
        let first = self.expected[client].iter().find_map(|(_, expected)| match expected {
            Expected::Bytes(bytes) => Some(decode(bytes)),
            Expected::Kind(_) => None,
        });
        match first {
            Some(Content::RegisterResponse(response)) => response.client_id,
            other => panic!("{other:?}"),
        }
    }

    /// What we say where this was captured.
    fn expected_of(&self, captured: &[u8], asker: &str, said: &Content) -> Content {
        let mut expected = sorted(decode(&self.with_own_ids(captured)));
        match &mut expected {
            // The unspecified address is no endpoint of anybody's network.
            Content::ConnectionInstruction(word) if word.local_endpoint.as_ref().unwrap().ip_address == "::" => {
                word.local_endpoint = word.public_endpoint.clone();
            }
            Content::LobbyListResponse(list) => {
                // Members are told only to members.
                for lobby in &mut list.lobbies {
                    if !lobby.members.iter().any(|member| member.client_id == asker) {
                        lobby.members.clear();
                    }
                }
                // An address that has proved nothing gets three times what it sent: 22 and 9 bytes.
                if list.request_id == "req_1" {
                    list.lobbies.clear();
                    assert!(
                        wire::Message::encoded_len(&wire::Message {
                            content: Some(said.clone())
                        }) <= 3 * (22 + 9)
                    );
                }
            }
            _ => {}
        }
        expected
    }
}

/// Members come in the order of a hash map in what was captured.
fn sorted(mut content: Content) -> Content {
    let by_id = |member: &wire::ClientInfo| member.client_id.clone();
    match &mut content {
        Content::LobbyUpdate(update) => update.lobby_info.as_mut().unwrap().members.sort_by_key(by_id),
        Content::LobbyListResponse(list) => list
            .lobbies
            .iter_mut()
            .for_each(|lobby| lobby.members.sort_by_key(by_id)),
        _ => {}
    }
    content
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    for at in 0..=bytes.len().saturating_sub(from.len()) {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}
