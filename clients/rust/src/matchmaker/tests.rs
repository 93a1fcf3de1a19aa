//! Captured flows replayed from the client's side, clients that meet through a server of a few lines, and any bytes at all.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use data_encoding::BASE64;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::direct::Connected;
use crate::{OPENING_TTL, QUEUE_MAX};

const SERVER: &str = "203.0.113.77:8070";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn events(client: &mut Client) -> Vec<Event> {
    std::iter::from_fn(|| client.poll_event()).collect()
}

fn vector(file: &str) -> Value {
    let path = format!(
        "{}/../../tests/vectors/matchmaker/{file}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// Every client of a captured flow gets what it got and must send what it sent, over TCP in the same order.
#[test]
fn the_captured_flows_replay() {
    for (file, pairs) in [
        ("meet-two", &[("A", "B"), ("C", "D")][..]),
        ("meet-three", &[("A", "B"), ("C", "D"), ("E", "F")]),
    ] {
        for (tcp, udp) in pairs {
            replay(&vector(file), tcp, udp, pairs.len() - 1);
        }
    }
}

fn replay(flow: &Value, tcp: &str, udp: &str, others: usize) {
    let endpoint = |name: &Value| at(flow["endpoints"][name.as_str().unwrap()].as_str().unwrap());
    let mut client = Client::new(Config::new(endpoint(&"server".into())));
    let (mut captured, mut ours) = (BTreeSet::new(), BTreeSet::new());
    let (mut lines, mut our_lines, mut peers) = (Vec::new(), Vec::new(), None);
    for item in flow["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["kind"] != "app")
    {
        let (now, bytes) = (item["t_ms"].as_u64().unwrap(), bytes(&item["hex"]));
        while client.poll_timeout().is_some_and(|due| due < now) {
            client.handle_timeout(client.poll_timeout().unwrap());
        }
        if item["from"] == tcp {
            match (
                item["decoded"]["Type"].as_u64().unwrap(),
                item["decoded"]["Body(decoded)"]["LobbyCode"].as_str(),
            ) {
                (0, _) => client.connect(now),
                (1, _) => client.create_lobby(),
                (2, code) => client.join_lobby(code.unwrap()),
                (_, code) => client.start_lobby(code.unwrap()),
            }
            lines.push(bytes);
        } else if item["from"] == udp {
            captured.insert(without_time(&bytes));
        } else if item["to"] == tcp {
            client.handle_stream(&bytes, now);
        } else if item["to"] == udp {
            client.handle_datagram(endpoint(&"server".into()), &bytes, now);
        }
        our_lines.extend(std::iter::from_fn(|| client.poll_stream()));
        while let Some(transmit) = client.poll_transmit() {
            assert_eq!(transmit.to, endpoint(&"server".into()));
            ours.insert(without_time(&transmit.payload));
        }
        for event in events(&mut client) {
            if let Event::Peers(list) = event {
                peers = Some(list);
            }
        }
    }
    assert_eq!(our_lines, lines, "{tcp}");
    assert_eq!(ours, captured, "{udp}");
    assert_eq!(peers.unwrap().len(), others);
}

/// A datagram as text; of an ack's data what is before the time.
fn without_time(datagram: &[u8]) -> String {
    let payload: Value = serde_json::from_slice(&datagram[7..]).unwrap();
    let data = String::from_utf8(BASE64.decode(payload["Data"].as_str().unwrap().as_bytes()).unwrap()).unwrap();
    let data = data.split(r#","Timestamp""#).next().unwrap();
    let header = match payload["Type"].as_u64() {
        // The time's digits are not always as many.
        Some(0) => &datagram[..4],
        _ => &datagram[..7],
    };
    format!("{header:?} {} {data}", payload["Type"])
}

/// A server of a few lines.
#[derive(Default)]
struct Server {
    members: Vec<usize>,
    acks_nothing: bool,
}

impl Server {
    /// Answers a request of this client, as text.
    fn answer(&mut self, n: usize, line: &[u8]) -> String {
        let request: Value = serde_json::from_slice(line).unwrap();
        let body: Value = match request["Body"].as_str() {
            Some(body) => serde_json::from_slice(&BASE64.decode(body.as_bytes()).unwrap()).unwrap(),
            None => Value::Null,
        };
        let wrong = body["LobbyCode"] != "abcdef";
        let reply = match request["Type"].as_u64().unwrap() {
            0 => json!({ "SessionID": format!("session{n}") }),
            _ if body["SessionID"] != format!("session{n}") => json!("unknown session"),
            1 => {
                self.members.push(n);
                json!({ "LobbyCode": "abcdef" })
            }
            _ if wrong => json!("lobby not found"),
            2 => {
                self.members.push(n);
                json!({})
            }
            _ => json!({}),
        };
        format!("{reply}\n")
    }

    fn endpoints(&self, number: i32, of: usize) -> Vec<u8> {
        let others: Vec<String> = self
            .members
            .iter()
            .filter(|member| **member != of)
            .map(|member| public(*member).to_string())
            .collect();
        packed(number, 3, &json!({ "PeerUDPEndpoints": others }).to_string())
    }
}

fn public(n: usize) -> SocketAddr {
    at(&format!("198.51.100.{n}:4000{n}"))
}

fn packed(number: i32, kind: u8, data: &str) -> Vec<u8> {
    let payload = json!({ "Type": kind, "Data": BASE64.encode(data.as_bytes()) }).to_string();
    let len = i16::try_from(payload.len()).unwrap();
    [&number.to_le_bytes()[..], &len.to_le_bytes(), &[0], payload.as_bytes()].concat()
}

/// Carries everything between the clients and the server.
fn carry(clients: &mut [Client], server: &mut Server, now: u64) {
    for (n, client) in clients.iter_mut().enumerate() {
        client.handle_timeout(now);
        while let Some(line) = client.poll_stream() {
            let answer = server.answer(n, &line);
            client.handle_stream(answer.as_bytes(), now);
        }
        while let Some(transmit) = client.poll_transmit() {
            let number = i32::from_le_bytes(transmit.payload[..4].try_into().unwrap());
            if number == ENDPOINT_NUMBER && !server.acks_nothing {
                client.handle_datagram(at(SERVER), &wire::ack(number, 7), now);
            }
        }
    }
}

#[test]
fn members_of_a_started_lobby_meet() {
    for opening_ttl in [None, Some(OPENING_TTL)] {
        let config = Config {
            opening_ttl,
            ..Config::new(at(SERVER))
        };
        let mut clients = vec![Client::new(config); 3];
        let mut server = Server::default();
        clients.iter_mut().for_each(|client| client.connect(0));
        clients[0].create_lobby();
        carry(&mut clients, &mut server, 0);
        clients[1].join_lobby("abcdef");
        clients[2].join_lobby("abcdef");
        carry(&mut clients, &mut server, 10);
        clients[0].start_lobby("abcdef");
        carry(&mut clients, &mut server, 20);
        let session = "session0".to_owned();
        let code = || "abcdef".to_owned();
        let expected = [
            Event::Connected { session },
            Event::EndpointKnown,
            Event::LobbyCreated { code: code() },
        ];
        let mut happened = events(&mut clients[0]);
        assert_eq!(happened.pop(), Some(Event::LobbyStarted { code: code() }));
        happened.sort_by_key(|event| !matches!(event, Event::Connected { .. }));
        assert!(expected.iter().all(|event| happened.contains(event)), "{happened:?}");
        assert_eq!(
            clients[0].poll_timeout(),
            Some(KEEP_ALIVE_EVERY_MS),
            "keep-alives go on"
        );

        let mut sides = Vec::new();
        for (n, client) in clients.iter_mut().enumerate() {
            assert!(client.handle_connections(0, 20).is_none());
            for number in [4, 4] {
                client.handle_datagram(at(SERVER), &server.endpoints(number, n), 20);
                let ack = client.poll_transmit().unwrap().payload;
                assert_eq!(
                    wire::read(&ack),
                    Some((0, Words::Ack { number })),
                    "each repeat is acknowledged"
                );
            }
            let peers = events(client)
                .into_iter()
                .filter(|event| matches!(event, Event::Peers(list) if list.len() == 2));
            assert_eq!(peers.count(), 1, "told once");
            assert_eq!(client.poll_timeout(), None, "the socket is the application's");
            sides.push(client.handle_connections(n as u64, 20).unwrap());
        }
        assert_eq!(meet(&mut sides), 6);
    }
}

/// How many sides learn that they are connected within a second.
fn meet(sides: &mut [Direct]) -> usize {
    let mut connected: Vec<Connected> = Vec::new();
    for now in (20..1000).step_by(10) {
        for n in 0..sides.len() {
            sides[n].handle_timeout(now);
            while let Some(transmit) = sides[n].poll_transmit() {
                let reached = (0..sides.len()).find(|m| public(*m) == transmit.to && transmit.ttl.is_none());
                if let Some(m) = reached {
                    sides[m].handle_datagram(public(n), &transmit.payload, now);
                }
            }
            connected.extend(std::iter::from_fn(|| sides[n].poll_event()));
        }
    }
    connected.len()
}

#[test]
fn a_refusal_reaches_the_user_and_the_next_request_goes_on() {
    let mut clients = vec![Client::new(Config::new(at(SERVER)))];
    let mut server = Server::default();
    clients[0].connect(0);
    clients[0].join_lobby("qqqqqq");
    clients[0].create_lobby();
    carry(&mut clients, &mut server, 0);
    let happened = events(&mut clients[0]);
    let request = Request::JoinLobby("qqqqqq".into());
    assert!(happened.contains(&Event::Refused {
        request,
        words: "lobby not found".into()
    }));
    assert!(happened.contains(&Event::LobbyCreated { code: "abcdef".into() }));
    // As captured.
    let recorded = bytes(&vector("error-reply")["items"][0]["reply_hex"]);
    clients[0].join_lobby("a");
    clients[0].handle_stream(&recorded, 0);
    assert!(matches!(events(&mut clients[0])[..], [Event::Refused { .. }]));
}

#[test]
fn one_request_is_on_its_way_at_a_time() {
    let mut client = Client::new(Config::new(at(SERVER)));
    client.connect(0);
    client.create_lobby();
    client.join_lobby("abcdef");
    let mut sent = 0;
    for reply in [r#"{"SessionID":"s"}"#, r#"{"LobbyCode":"abcdef"}"#, "{}"] {
        assert!(client.poll_stream().is_some());
        assert_eq!(client.poll_stream(), None);
        for byte in reply.bytes() {
            client.handle_stream(&[byte], 0);
        }
        sent += 1;
    }
    assert_eq!((sent, client.poll_stream()), (3, None));
}

#[test]
fn the_address_is_told_every_five_seconds_until_the_server_has_it() {
    let mut clients = vec![Client::new(Config::new(at(SERVER)))];
    let mut server = Server {
        acks_nothing: true,
        ..Server::default()
    };
    clients[0].connect(0);
    carry(&mut clients, &mut server, 0);
    let mut told = Vec::new();
    for now in 1..=11_000 {
        clients[0].handle_timeout(now);
        assert!(clients[0].poll_timeout().unwrap() > now);
        while let Some(transmit) = clients[0].poll_transmit() {
            if transmit.payload.len() > 27 {
                told.push(now);
            }
        }
    }
    assert_eq!(told, [5000, 10_000]);
    clients[0].handle_datagram(at(SERVER), &wire::ack(2, 0), 11_000);
    clients[0].handle_datagram(at("192.0.2.1:1"), &wire::ack(1, 0), 11_000);
    assert!(!events(&mut clients[0]).contains(&Event::EndpointKnown));
    clients[0].handle_datagram(at(SERVER), &wire::ack(1, 0), 11_000);
    clients[0].handle_datagram(at(SERVER), &wire::ack(1, 0), 11_000);
    assert_eq!(events(&mut clients[0]), [Event::EndpointKnown]);
}

#[test]
fn what_is_not_of_this_protocol_ends_the_connection() {
    let noise = vec![b' '; REPLY_MAX * 2];
    let endless = [&b"\""[..], &vec![b'a'; REPLY_MAX]].concat();
    for reply in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"{}\n",
        b"{\"SessionID\":7}",
        b"{\"SessionID\":\"\"}",
        &endless,
        &[b'['; 500],
    ] {
        let mut client = Client::new(Config::new(at(SERVER)));
        client.connect(0);
        client.handle_stream(&noise, 0);
        client.handle_stream(reply, 0);
        client.handle_stream(reply, 0);
        client.handle_stream_end();
        assert_eq!(
            events(&mut client),
            [Event::Closed],
            "{:?}",
            String::from_utf8_lossy(reply)
        );
    }
    let mut client = Client::new(Config::new(at(SERVER)));
    client.connect(0);
    client.handle_stream(b"{\"SessionID\":\"s\"}{}", 0);
    assert_eq!(events(&mut client).last(), Some(&Event::Closed), "nothing was asked");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_that_arrives_panics_or_grows_the_state(
        steps in prop::collection::vec((0..7_u8, "\\PC{0,60}", prop::collection::vec(any::<u8>(), 0..60), 0..3000_u64), 0..200),
        drained in any::<bool>(),
    ) {
        let mut client = Client::new(Config { opening_ttl: Some(2), ..Config::new(at(SERVER)) });
        let mut now = 0;
        client.connect(0);
        client.handle_stream(b"{\"SessionID\":\"s\"}", 0);
        for (step, text, noise, wait) in steps {
            match step {
                0 => client.handle_stream(&noise, now),
                1 => client.handle_stream(json!({ "LobbyCode": text }).to_string().as_bytes(), now),
                2 => client.handle_datagram(at(SERVER), &noise, now),
                3 => client.handle_datagram(at(SERVER), &packed(1, 3, &text), now),
                4 => client.handle_datagram(at(SERVER), &packed(1, 3, &json!({ "PeerUDPEndpoints": [text] }).to_string()), now),
                5 => client.join_lobby(&text),
                _ => client.create_lobby(),
            }
            now += wait;
            client.handle_timeout(now);
            prop_assert!(client.poll_timeout().is_none_or(|due| due > now));
            prop_assert!(client.received.len() <= REPLY_MAX && client.requests.len() <= WAITING_MAX);
            prop_assert!(client.transmits.0.len() <= QUEUE_MAX && client.events.0.len() <= QUEUE_MAX);
            prop_assert!(client.stream.0.len() <= QUEUE_MAX);
            if drained {
                while client.poll_transmit().is_some() || client.poll_stream().is_some() {}
                events(&mut client);
            }
        }
    }
}
