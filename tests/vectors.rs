//! The recorded dialogues of `tests/vectors/peer-protocol/`, spoken to the real program.
//!
//! Every dialogue runs on one, two and four event loops, and with its clients spread over three nodes that share a Redis or a NATS
//! (which is skipped, with a word, where there is no redis-server or nats-server). Those in which messages of several peers could overtake each
//! other run again and again: 20 times, or `PEER_VECTOR_REPEAT` times.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    ANSWER_WITHIN, Client, ConnectError, ConnectOptions, Dialogue, Event, Frame, HttpConnection, HttpExpectation,
    Matcher, NatsServer, RawFrame, RedisServer, Server, Step, WireOptions, parse_step, unhex,
};

macro_rules! dialogues {
    ($($name:ident: $id:literal,)*) => {
        const DIALOGUES: &[&str] = &[$($id),*];
        $(mod $name {
            #[test]
            fn on_one_loop() {
                super::check($id, 1);
            }
            #[test]
            fn on_two_loops() {
                super::check($id, 2);
            }
            #[test]
            fn on_four_loops() {
                super::check($id, 4);
            }
            #[test]
            fn on_three_nodes() {
                super::check_on_nodes($id, 3);
            }
            #[test]
            fn on_three_nodes_of_nats() {
                super::check_on_nodes_of_nats($id, 3);
            }
        })*
    };
}

dialogues! {
    d01_register_auto_alias: "01-register-auto-alias",
    d02_register_alias_meta: "02-register-alias-meta",
    d03_first_message_errors: "03-first-message-errors",
    d04_registration_timeout: "04-registration-timeout",
    d05_join_two_peers: "05-join-two-peers",
    d06_join_errors: "06-join-errors",
    d07_leave: "07-leave",
    d08_disconnect: "08-disconnect",
    d09_signal: "09-signal",
    d10_signal_errors: "10-signal-errors",
    d11_relay_alias: "11-relay-alias",
    d12_payload_verbatim: "12-payload-verbatim",
    d13_broadcast: "13-broadcast",
    d14_broadcast_errors: "14-broadcast-errors",
    d15_discover: "15-discover",
    d16_match_pair: "16-match-pair",
    d17_match_criteria: "17-match-criteria",
    d18_match_errors: "18-match-errors",
    d19_create_room_sizes: "19-create-room-sizes",
    d20_create_room_errors: "20-create-room-errors",
    d21_join_room: "21-join-room",
    d22_join_room_errors: "22-join-room-errors",
    d23_room_info: "23-room-info",
    d24_kick: "24-kick",
    d25_kick_errors: "25-kick-errors",
    d26_room_auto_delete: "26-room-auto-delete",
    d27_metadata: "27-metadata",
    d28_ping_and_bad_messages: "28-ping-and-bad-messages",
    d29_rate_limit: "29-rate-limit",
    d30_server_full: "30-server-full",
    d31_message_too_big: "31-message-too-big",
    d32_discover_room: "32-discover-room",
    d33_http: "33-http",
    d34_frames: "34-frames",
    d35_server_pings: "35-server-pings",
    d36_join_meta: "36-join-meta",
    d37_metadata_bare: "37-metadata-bare",
    d38_client_reconnect: "38-client-reconnect",
    d39_burst_relay: "39-burst-relay",
    d40_close_handshake: "40-close-handshake",
    d41_limits: "41-limits",
}

macro_rules! repeated {
    ($($name:ident: $id:literal,)*) => {
        mod repeated {
            $(#[test]
            fn $name() {
                super::check_repeatedly($id);
            })*
        }
    };
}

repeated! {
    d05_join_two_peers: "05-join-two-peers",
    d07_leave: "07-leave",
    d08_disconnect: "08-disconnect",
    d13_broadcast: "13-broadcast",
    d16_match_pair: "16-match-pair",
    d17_match_criteria: "17-match-criteria",
    d21_join_room: "21-join-room",
    d24_kick: "24-kick",
    d25_kick_errors: "25-kick-errors",
    d26_room_auto_delete: "26-room-auto-delete",
    d38_client_reconnect: "38-client-reconnect",
    d39_burst_relay: "39-burst-relay",
}

#[test]
fn the_folder_holds_exactly_these_dialogues() {
    let files: BTreeSet<String> = std::fs::read_dir(Dialogue::folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    let listed: BTreeSet<String> = DIALOGUES.iter().map(|id| format!("{id}.json")).collect();
    assert_eq!(files, listed);
    assert_eq!(DIALOGUES.len(), 41);
}

#[test]
fn every_dialogue_is_understood_in_full() {
    for id in DIALOGUES {
        let dialogue = Dialogue::load(id);
        let differs = dialogue.steps.iter().any(|step| step.get("upstream").is_some());
        assert_eq!(
            dialogue.upstream == "differs",
            differs || dialogue.upstream == "differs",
            "{id}"
        );
        for (number, step) in dialogue.steps.iter().enumerate() {
            parse_step(step).unwrap_or_else(|error| panic!("{id}, step {number}: {error}"));
        }
    }
}

#[test]
fn an_unknown_operation_or_member_is_refused() {
    let refused = [
        serde_json::json!({"op": "dance", "client": "A"}),
        serde_json::json!({"op": "connect"}),
        serde_json::json!({"op": "connect", "client": "A", "mood": "good"}),
        serde_json::json!({"op": "recv_close", "client": "A", "code": 1000}),
        serde_json::json!({"op": "send_frames", "client": "A", "frames": [{"opcode": 1, "text": "", "mask": false}]}),
        serde_json::json!({"op": "http", "method": "GET", "path": "/", "expect": {"status": 200, "body": ""}}),
        serde_json::json!({"op": "sleep", "ms": 1, "upstream": {"surprise": 1}}),
    ];
    for step in refused {
        parse_step(&step).map(|_| ()).expect_err(&step.to_string());
    }
    parse_step(&serde_json::json!({"op": "recv_close", "client": "A", "code": 1000, "reason": null})).unwrap();
}

/// Plays one dialogue against a server of its own and panics with the whole story if anything differs.
fn check(id: &str, loops: u32) {
    check_with(id, loops, 1, json!({}));
}

/// The same with clients that connect to one node after the other.
fn check_on_nodes(id: &str, nodes: usize) {
    // How many peers there may be is each node's own.
    if id == "30-server-full" {
        return;
    }
    let Some(broker) = RedisServer::start() else { return };
    let socket = format!("unix:{}", broker.socket().display());
    check_with(id, 2, nodes, json!({"broker_type": "redis", "redis_addr": socket}));
}

fn check_on_nodes_of_nats(id: &str, nodes: usize) {
    if id == "30-server-full" {
        return;
    }
    let Some(broker) = NatsServer::start() else { return };
    check_with(id, 2, nodes, json!({"broker_type": "nats", "nats_url": broker.url()}));
}

fn check_with(id: &str, loops: u32, nodes: usize, more: Value) {
    let dialogue = Dialogue::load(id);
    let env: Vec<(&str, &str)> = dialogue
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut config = dialogue.config.clone();
    config.insert("loops".to_owned(), loops.into());
    // Connections move between loops in another way with each.
    let tables = if loops == 2 { "shared" } else { "per_loop" };
    config.insert("descriptor_tables".to_owned(), tables.into());
    config.extend(more.as_object().cloned().unwrap_or_default());
    let start = || Server::start(Value::Object(config.clone()), &env);
    let mut run = Run {
        server: start(),
        others: (1..nodes).map(|_| start()).collect(),
        places: Vec::new(),
        clients: BTreeMap::new(),
        matcher: Matcher::new(dialogue.keys.clone()),
        has_exited: false,
    };
    let outcome = dialogue.steps.iter().enumerate().try_for_each(|(number, step)| {
        let played = parse_step(step).and_then(|parsed| run.play(parsed));
        played.map_err(|what| (format!("step {number}: {step}"), what))
    });
    if let Err((place, what)) = outcome.and_then(|()| run.end().map_err(|what| ("after the last step".into(), what))) {
        let story = format!("nodes: {nodes}, {}", run.story(id, loops, &place, &what));
        // Before the panic, or the server would tell its part a second time.
        drop(run);
        panic!("{story}");
    }
}

fn check_repeatedly(id: &str) {
    let times = std::env::var("PEER_VECTOR_REPEAT").map_or(20, |times| times.parse().expect("a number of times"));
    for turn in 0..times {
        check(id, if turn % 2 == 0 { 2 } else { 4 });
    }
}

/// A dialogue under way.
struct Run {
    server: Server,
    /// Further nodes.
    others: Vec<Server>,
    /// The clients in the order of their first connection: each is served by the node whose turn that was.
    places: Vec<String>,
    clients: BTreeMap<String, Client>,
    matcher: Matcher,
    has_exited: bool,
}

impl Run {
    fn play(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Connect {
                client,
                extensions,
                expect_extensions,
                auto_pong,
            } => {
                let options = ConnectOptions {
                    extensions,
                    auto_pong,
                    ..ConnectOptions::default()
                };
                self.connect(client, options, expect_extensions)
            }
            Step::Send { client, json } => {
                let text = self.matcher.substitute(&json)?.to_string();
                self.send(&client, &[Frame::text(text)])
            }
            Step::SendText { client, text } => self.send(&client, &[Frame::text(text)]),
            Step::SendFrames { client, frames } => {
                let frames: Vec<Frame> = frames.into_iter().map(RawFrame::into_frame).collect::<Result<_, _>>()?;
                self.send(&client, &frames)
            }
            Step::SendBurst { client, count, json } => {
                let text = |index| Ok(self.matcher.substitute(&Matcher::with_index(&json, index))?.to_string());
                let frames: Vec<Frame> = (0..count)
                    .map(|index| text(index).map(Frame::text))
                    .collect::<Result<_, String>>()?;
                self.send(&client, &frames)
            }
            Step::Recv {
                client,
                json,
                raw_contains,
                compressed,
                timeout_ms,
            } => self.recv(&client, &json, &raw_contains, compressed, within(timeout_ms)),
            Step::RecvBurst {
                client,
                count,
                json,
                timeout_ms,
            } => (0..count).try_for_each(|index| {
                self.recv(
                    &client,
                    &Matcher::with_index(&json, index),
                    &[],
                    None,
                    within(timeout_ms),
                )
                .map_err(|what| format!("message {index} of the burst: {what}"))
            }),
            Step::RecvNone { client, ms } => match self.client(&client)?.recv_content(Duration::from_millis(ms)) {
                None => Ok(()),
                Some(event) => Err(format!("something came: {}", event.describe())),
            },
            Step::RecvClose {
                client,
                code,
                reason,
                timeout_ms,
            } => self.recv_close(&client, code, reason.as_deref(), within(timeout_ms)),
            Step::RecvPing {
                client,
                hex,
                timeout_ms,
            } => {
                let data = self.client(&client)?.recv_ping(within(timeout_ms));
                check_control("ping", data, hex.as_deref())
            }
            Step::RecvPong {
                client,
                hex,
                timeout_ms,
            } => {
                let data = self.client(&client)?.recv_pong(within(timeout_ms));
                check_control("pong", data, hex.as_deref())
            }
            Step::Close { client, code, reason } => {
                self.client(&client)?;
                let closed = self.clients.remove(&client).expect("just seen").close(code, &reason)?;
                let same = closed.code.unwrap_or(1005) == code;
                if same {
                    Ok(())
                } else {
                    Err(format!("the close was answered with {closed:?}"))
                }
            }
            Step::Drop { client } => {
                self.client(&client)?;
                self.clients.remove(&client).expect("just seen").drop_tcp();
                Ok(())
            }
            Step::Sleep { ms } => {
                std::thread::sleep(Duration::from_millis(ms));
                Ok(())
            }
            Step::Http {
                method,
                path,
                headers,
                expect,
            } => self.http(&method, &path, &headers, &expect),
            Step::ServerSignal { signal } => {
                self.server.signal(&signal);
                Ok(())
            }
            Step::ServerExit { code, timeout_ms } => {
                let status = self.server.try_wait_exit(Duration::from_millis(timeout_ms));
                self.has_exited = status.is_some();
                match status {
                    Some(status) if status.code() == Some(code) => Ok(()),
                    other => Err(format!("the server's end: {other:?}")),
                }
            }
        }
    }

    fn connect(&mut self, name: String, options: ConnectOptions, expected: Option<String>) -> Result<(), String> {
        if self.clients.contains_key(&name) {
            return Err(format!("{name} is still connected"));
        }
        let place = self.places.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.places.push(name.clone());
            self.places.len() - 1
        });
        let node = match place % (self.others.len() + 1) {
            0 => &self.server,
            other => &self.others[other - 1],
        };
        let client = Client::try_connect(node.addr(), options).map_err(|error| match error {
            ConnectError::Refused(response) => format!("no upgrade but {response:?}"),
            ConnectError::Failed(error) => format!("no connection: {error}"),
        })?;
        let answer = client.extension();
        if parameters(answer.as_deref()) != parameters(expected.as_deref()) {
            return Err(format!("the extensions were answered with {answer:?}"));
        }
        self.clients.insert(name, client);
        Ok(())
    }

    fn client(&mut self, name: &str) -> Result<&mut Client, String> {
        self.clients
            .get_mut(name)
            .ok_or_else(|| format!("{name} is not connected"))
    }

    fn send(&mut self, client: &str, frames: &[Frame]) -> Result<(), String> {
        self.client(client)?
            .try_send_frames(frames)
            .map_err(|error| format!("not sent: {error}"))
    }

    fn recv(
        &mut self,
        client: &str,
        expected: &Value,
        raw_contains: &[String],
        expect_compressed: Option<bool>,
        within: Duration,
    ) -> Result<(), String> {
        let Some(event) = self.client(client)?.recv_content(within) else {
            return Err(format!("nothing came within {within:?}"));
        };
        let came = event.describe();
        let Event::Message {
            text: true,
            payload,
            compressed,
            frames: 1,
        } = event
        else {
            return Err(format!("this came instead of one text frame: {came}"));
        };
        let raw = String::from_utf8_lossy(&payload);
        let actual: Value = serde_json::from_str(&raw).map_err(|error| format!("{error} in what came: {came}"))?;
        self.matcher
            .matches(expected, &actual)
            .map_err(|difference| format!("{difference}\nin what came: {came}"))?;
        if let Some(missing) = raw_contains.iter().find(|part| !raw.contains(part.as_str())) {
            return Err(format!("no {missing:?} in what came: {came}"));
        }
        match expect_compressed {
            Some(expected) if expected != compressed => Err(format!("compressed or not is wrong: {came}")),
            _ => Ok(()),
        }
    }

    fn recv_close(&mut self, client: &str, code: u16, reason: Option<&str>, within: Duration) -> Result<(), String> {
        let Some(event) = self.client(client)?.recv_content(within) else {
            return Err(format!("nothing came within {within:?}"));
        };
        let reason_fits = match &event {
            Event::Close { reason: given, .. } => reason.is_none_or(|reason| reason == given),
            _ => true,
        };
        let fits = reason_fits && event.close_code() == Some(code);
        if fits {
            Ok(())
        } else {
            Err(format!("this came: {}", event.describe()))
        }
    }

    fn http(
        &mut self,
        method: &str,
        path: &str,
        headers: &BTreeMap<String, String>,
        expect: &HttpExpectation,
    ) -> Result<(), String> {
        let mut headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
            headers.push(("Connection", "close"));
        }
        let response = HttpConnection::open(self.server.addr(), &WireOptions::default())
            .and_then(|mut connection| connection.request(method, path, &headers))
            .map_err(|error| format!("no answer: {error}"))?;
        let came = format!("in what came: {response:?}, body {:?}", response.text());
        if response.status != expect.status {
            return Err(format!("another status\n{came}"));
        }
        if expect.content_type.is_some() && response.header("content-type") != expect.content_type {
            return Err(format!("another content type\n{came}"));
        }
        let Some(expected) = &expect.json else { return Ok(()) };
        let mut actual: Value = serde_json::from_slice(&response.body).map_err(|error| format!("{error}\n{came}"))?;
        // A node of several says more of itself.
        if let (false, Some(members)) = (self.others.is_empty(), actual.as_object_mut()) {
            members.retain(|name, _| !["cluster", "node_peers"].contains(&name.as_str()));
        }
        self.matcher
            .matches(expected, &actual)
            .map_err(|difference| format!("{difference}\n{came}"))
    }

    /// A dialogue does not end well if the server did not survive it.
    fn end(&mut self) -> Result<(), String> {
        if !self.has_exited && !self.server.is_running() {
            return Err("the server has ended".to_owned());
        }
        if std::iter::once(&self.server)
            .chain(&self.others)
            .any(|server| server.stderr().contains("panicked at"))
        {
            return Err("the server panicked".to_owned());
        }
        Ok(())
    }

    fn story(&mut self, id: &str, loops: u32, place: &str, what: &str) -> String {
        let mut story = format!("dialogue {id} on {loops} loop(s), {place}\n{what}\n");
        for (name, client) in &mut self.clients {
            for event in client.pending() {
                story.push_str(&format!("not yet taken by {name}: {event}\n"));
            }
        }
        // What a dying server has to say may still be in the pipe.
        let deadline = Instant::now() + Duration::from_millis(100);
        while self.server.stderr().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        story + "server stderr (tail):\n" + &self.server.stderr_tail()
    }
}

fn check_control(what: &str, data: Option<Vec<u8>>, hex: Option<&str>) -> Result<(), String> {
    let data = data.ok_or_else(|| format!("no {what} came"))?;
    match hex.map(unhex).transpose()? {
        Some(expected) if expected != data => Err(format!("the {what} holds {data:02x?}")),
        _ => Ok(()),
    }
}

/// An extension header as a set; none and an empty one are the same.
fn parameters(header: Option<&str>) -> BTreeSet<String> {
    header
        .unwrap_or("")
        .split(';')
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect()
}

fn within(timeout_ms: Option<u64>) -> Duration {
    timeout_ms.map_or(ANSWER_WITHIN, Duration::from_millis)
}
