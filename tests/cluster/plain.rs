//! Nodes that share no state (section 9 of the peer protocol), over a Redis server of the test's own.
//!
//! Owns: that server, and a node of another implementation: a Redis client that publishes what such nodes were seen to send
//! and hears what ours send, byte for byte.
//! Never: uses the program's own reading or writing of these messages.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Connection, Value as Answer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::support::{ANSWER_WITHIN, Client, ConnectOptions, Event, Server};

const WITHIN: Duration = Duration::from_secs(10);
const FOREIGN: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

/// A Redis server. Dropping it ends it.
struct Redis {
    _folder: TempDir,
    port: u16,
    child: Child,
}

impl Redis {
    /// None: there is no redis-server on this machine, and the test says that it is skipped.
    fn start() -> Option<Self> {
        for _ in 0..10 {
            // Somebody else may take the port in between: then another is tried.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let folder = tempfile::tempdir().unwrap();
            let Ok(child) = Self::spawn(&folder, port) else {
                eprintln!("skipped: there is no redis-server (Debian's package redis-server)");
                return None;
            };
            let mut redis = Self {
                _folder: folder,
                port,
                child,
            };
            if redis.await_answer() {
                return Some(redis);
            }
        }
        panic!("no port is free");
    }

    fn spawn(folder: &TempDir, port: u16) -> std::io::Result<Child> {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
        ]);
        command.arg(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn()
    }

    fn await_answer(&mut self) -> bool {
        let deadline = Instant::now() + WITHIN;
        while Instant::now() < deadline && self.child.try_wait().unwrap().is_none() {
            if self.client().is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn client(&self) -> redis::RedisResult<Connection> {
        redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?.get_connection()
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = Self::spawn(&self._folder, self.port).unwrap();
        assert!(self.await_answer(), "the port was taken meanwhile");
    }

    fn node(&self, loops: usize, more: Value) -> Server {
        let mut config = json!({
            "broker_type": "redis",
            "redis_addr": format!("127.0.0.1:{}", self.port),
            "cluster_state": false,
            "loops": loops,
            "rate_limit_per_sec": 0,
        });
        for (name, value) in more.as_object().unwrap() {
            config[name] = value.clone();
        }
        Server::start(config, &[])
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node of another implementation.
struct Foreign {
    publishing: Connection,
    hearing: Connection,
}

impl Foreign {
    fn new(redis: &Redis) -> Self {
        let mut hearing = redis.client().unwrap();
        hearing.set_read_timeout(Some(WITHIN)).unwrap();
        let channels = ["peer:signal", "peer:relay", "peer:broadcast", "peer:ack"];
        let subscribe = redis::cmd("SUBSCRIBE").arg(&channels).get_packed_command();
        hearing.send_packed_command(&subscribe).unwrap();
        channels.iter().for_each(|_| drop(hearing.recv_response().unwrap()));
        Self {
            publishing: redis.client().unwrap(),
            hearing,
        }
    }

    /// Publishes; whoever is subscribed has it in its socket when this returns.
    fn says(&mut self, channel: &str, message: &str) {
        let heard: i64 = redis::cmd("PUBLISH")
            .arg(channel)
            .arg(message)
            .query(&mut self.publishing)
            .unwrap();
        assert!(heard > 1, "no node listens");
    }

    fn says_json(&mut self, channel: &str, message: &Value) {
        self.says(channel, &message.to_string());
    }

    /// What comes next on that channel, its own messages aside.
    fn hears(&mut self, channel: &str) -> String {
        loop {
            let answer = self.hearing.recv_response().unwrap();
            let (Answer::Array(parts) | Answer::Push { data: parts, .. }) = answer else {
                panic!("{answer:?}")
            };
            let texts: Vec<String> = parts
                .iter()
                .map(|part| redis::from_redis_value_ref(part).unwrap())
                .collect();
            let [.., on, message] = &texts[..] else {
                panic!("{texts:?}")
            };
            if !message.contains(&format!(r#""node_id":"{FOREIGN}""#)) {
                assert_eq!(on, channel, "{message}");
                return message.clone();
            }
        }
    }

    fn hears_json(&mut self, channel: &str) -> Value {
        serde_json::from_str(&self.hears(channel)).unwrap()
    }

    fn acknowledges(&mut self, message: &Value, status: &str) {
        let ack = json!({"id": message["id"], "node_id": FOREIGN, "to_node": message["node_id"], "status": status});
        self.says_json("peer:ack", &ack);
    }
}

fn fingerprint(key: &str) -> String {
    Sha256::digest(key.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn peer(server: &Server, key: &str, namespaces: &[&str]) -> Client {
    let mut client = Client::connect(server.addr(), ConnectOptions::default());
    let payload = json!({ "public_key": key, "alias": format!("the {key}") });
    client.send_json(&json!({ "type": "register", "payload": payload }));
    assert_eq!(client.recv_json()["type"], "registered");
    for namespace in namespaces {
        client.send_json(&json!({ "type": "join", "payload": { "namespace": namespace } }));
        while client.recv_json()["type"] != "peer_list" {}
    }
    client
}

fn signal(from: &Client, to: &str, payload: &Value) {
    from.send_json(&json!({ "type": "signal", "to": to, "payload": payload }));
}

/// The next message but presence.
fn next(client: &mut Client) -> Value {
    loop {
        let message = client.recv_json();
        if message["type"] != "peer_joined" {
            return message;
        }
    }
}

fn expect_error(client: &mut Client, code: u16, text: &str) {
    let error = next(client);
    assert_eq!(error["payload"], json!({ "code": code, "message": text }), "{error}");
}

/// Nothing was on its way.
fn expect_silence(client: &mut Client) {
    client.send_json(&json!({ "type": "ping" }));
    assert_eq!(next(client), json!({ "type": "pong" }));
}

fn text(client: &mut Client) -> String {
    match client.recv_content(ANSWER_WITHIN) {
        Some(Event::Message { payload, .. }) => String::from_utf8(payload).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Each scene on nodes with one loop and with three: what is one step there is mail here.
fn on_redis(scene: impl Fn(Redis, usize)) {
    for loops in [1, 3] {
        match Redis::start() {
            Some(redis) => scene(redis, loops),
            None => return,
        }
    }
}

#[test]
fn what_another_implementation_sends_is_delivered() {
    on_redis(|redis, loops| {
        let node = redis.node(loops, json!({}));
        let mut foreign = Foreign::new(&redis);
        let (a, b) = (fingerprint("a"), fingerprint("b"));
        // In no namespace: such nodes do not say what their peers are in.
        let mut target = peer(&node, "b", &[]);
        let payload = r#"{"signal_type":"offer","sdp":"v=0\r\n", "n":1.0}"#;
        let rest = format!(r#""ts":1790000000123,"node_id":"{FOREIGN}"}}"#);
        for (kind, to) in [("signal", &*b), ("relay", "the b")] {
            let message = format!(r#"{{"type":"{kind}","from":"{a}","to":"{to}","payload":{payload},{rest}"#);
            foreign.says(&format!("peer:{kind}"), &message);
            let text = text(&mut target);
            let ts = serde_json::from_str::<Value>(&text).unwrap()["ts"].clone();
            let expected = format!(r#"{{"type":"{kind}","from":"{a}","to":"{b}","payload":{payload},"ts":{ts}}}"#);
            assert_eq!(text, expected);
            assert!(ts.as_u64().unwrap() > 1_790_000_000_123, "our own clock's");
        }
        assert_eq!(
            node.stderr().matches("a node was heard that shares no state").count(),
            1
        );

        let mut member = peer(&node, "member", &["lobby"]);
        let mut left_out = peer(&node, "left out", &["lobby"]);
        let payload = r#"{"namespace":"lobby" ,"data":[1.0],"exclude":["the left out"]}"#;
        foreign.says(
            "peer:broadcast",
            &format!(r#"{{"type":"broadcast","from":"{a}","payload":{payload},{rest}"#),
        );
        let mut text = text(&mut member);
        while text.contains("peer_joined") {
            text = self::text(&mut member);
        }
        let ts = serde_json::from_str::<Value>(&text).unwrap()["ts"].clone();
        let expected =
            format!(r#"{{"type":"broadcast","from":"{a}","namespace":"lobby","payload":{payload},"ts":{ts}}}"#);
        assert_eq!(text, expected);

        // Each channel carries its own type only, and nonsense is nothing.
        let stray = json!({"type": "signal", "from": a, "to": b, "payload": 1, "ts": 1, "node_id": FOREIGN});
        let wrong = [
            ("peer:relay", stray.to_string()),
            ("peer:broadcast", stray.to_string()),
            ("peer:signal", stray.to_string().replace(&a, "a")),
            ("peer:signal", "junk".to_owned()),
            ("peer:ack", stray.to_string()),
        ];
        for (channel, message) in &wrong {
            foreign.says(channel, message);
        }
        foreign.says("peer:signal", &stray.to_string());
        assert_eq!(next(&mut target)["type"], "signal");
        for client in [&mut target, &mut member, &mut left_out] {
            expect_silence(client);
        }
    });
}

#[test]
fn what_finds_nobody_here_is_published_as_section_nine_has_it() {
    on_redis(|redis, loops| {
        let node = redis.node(loops, json!({}));
        let mut foreign = Foreign::new(&redis);
        let (a, b) = (fingerprint("a"), fingerprint("b"));
        let mut sender = peer(&node, "a", &["attic"]);
        let payload = r#"{"sdp":"v=0\r\n", "n":1.0}"#;
        let mut own = Value::Null;
        for (kind, to) in [
            ("signal", &*b),
            ("relay", &*b),
            ("signal", "somebody's \"name\""),
            ("relay", "é"),
        ] {
            let to = json!(to);
            sender.send_text(&format!(
                r#"{{"type":"{kind}","to":{to},"namespace":"attic","payload":{payload},"node_id":"x"}}"#
            ));
            let text = foreign.hears(&format!("peer:{kind}"));
            let message: Value = serde_json::from_str(&text).unwrap();
            let [ts, node_id, id] = ["ts", "node_id", "id"].map(|name| message[name].to_string());
            let expected = format!(
                r#"{{"type":"{kind}","from":"{a}","to":{to},"namespace":"attic","payload":{payload},"ts":{ts},"node_id":{node_id},"id":{id},"namespaces":["attic"]}}"#
            );
            assert_eq!(text, expected);
            assert!(message["ts"].as_u64().unwrap() > 1_700_000_000_000);
            let node_id = message["node_id"].as_str().unwrap();
            assert!(node_id.len() == 32 && node_id.bytes().all(|digit| digit.is_ascii_hexdigit()));
            foreign.acknowledges(&message, "delivered");
            own = message["node_id"].clone();
        }
        for (status, code, reason) in [
            ("forbidden", 403, "no shared namespace"),
            ("full", 429, "peer send buffer full"),
        ] {
            signal(&sender, &b, &json!(1));
            let message = foreign.hears_json("peer:signal");
            foreign.acknowledges(&message, status);
            expect_error(&mut sender, code, reason);
            // Once is enough.
            foreign.acknowledges(&message, status);
        }
        // Silence is nobody. Whatever was acknowledged is not refused any more.
        let sent = Instant::now();
        signal(&sender, &b, &json!(1));
        expect_error(&mut sender, 404, "peer not found");
        assert!(sent.elapsed() >= Duration::from_millis(900), "{:?}", sent.elapsed());
        expect_silence(&mut sender);
        foreign.hears("peer:signal");
        // What can be no alias is not asked for.
        signal(&sender, &b.to_uppercase(), &json!(1));
        expect_error(&mut sender, 404, "peer not found");

        let payload = r#"{"namespace":"attic","data": 1.0,"exclude":["x"]}"#;
        sender.send_text(&format!(
            r#"{{"type":"broadcast","to":"x","namespace":"forged","payload":{payload}}}"#
        ));
        let text = foreign.hears("peer:broadcast");
        let ts = serde_json::from_str::<Value>(&text).unwrap()["ts"].clone();
        let expected = format!(
            r#"{{"type":"broadcast","from":"{a}","namespace":"attic","payload":{payload},"ts":{ts},"node_id":{own}}}"#
        );
        assert_eq!(text, expected);
        expect_silence(&mut sender);
    });
}

#[test]
fn two_nodes_pass_on_what_their_peers_may_tell_each_other() {
    on_redis(|redis, loops| {
        let (one, two) = (redis.node(loops, json!({})), redis.node(loops, json!({})));
        let mut sender = peer(&one, "a", &["lobby", "attic"]);
        let mut beside = peer(&one, "beside", &["lobby"]);
        let mut target = peer(&two, "b", &["lobby"]);
        let mut stranger = peer(&two, "c", &["cellar"]);
        let (a, b) = (fingerprint("a"), fingerprint("b"));
        for (kind, to, about) in [("signal", &*b, "lobby"), ("relay", "the b", "attic")] {
            let message = json!({ "type": kind, "to": to, "namespace": about, "payload": { "x": kind } });
            sender.send_json(&message);
            let mut received = next(&mut target);
            received.as_object_mut().unwrap().remove("ts").unwrap();
            let mut expected = json!({ "type": kind, "from": a, "to": b, "payload": { "x": kind } });
            if about == "lobby" {
                expected["namespace"] = json!("lobby");
            }
            assert_eq!(received, expected);
        }
        for to in [&*fingerprint("c"), "the c"] {
            signal(&sender, to, &json!(1));
            expect_error(&mut sender, 403, "no shared namespace");
        }
        for number in 0..200 {
            signal(&sender, &b, &json!(number));
        }
        for number in 0..200 {
            assert_eq!(next(&mut target)["payload"], number);
        }
        // The sender's node hears its own words as well.
        let payload = json!({ "namespace": "lobby", "data": 1 });
        sender.send_json(&json!({ "type": "broadcast", "payload": payload }));
        for client in [&mut target, &mut beside] {
            let broadcast = next(client);
            assert_eq!(
                (&broadcast["from"], &broadcast["namespace"], &broadcast["payload"]),
                (&json!(a), &json!("lobby"), &payload)
            );
        }
        let payload = json!({ "namespace": "lobby", "data": 2, "exclude": ["the b", fingerprint("beside")] });
        sender.send_json(&json!({ "type": "broadcast", "payload": payload }));
        signal(&sender, &b, &json!("after it"));
        assert_eq!(next(&mut target)["payload"], "after it");
        for to in [&*fingerprint("nobody"), "nobody"] {
            signal(&sender, to, &json!(1));
            expect_error(&mut sender, 404, "peer not found");
        }
        for client in [&mut sender, &mut beside, &mut target, &mut stranger] {
            expect_silence(client);
        }
        for node in [&one, &two] {
            assert!(!node.stderr().contains("shares no state"), "{}", node.stderr());
        }
    });
}

#[test]
fn who_does_not_read_is_full_for_other_nodes_as_well() {
    on_redis(|redis, loops| {
        let node = redis.node(loops, json!({ "send_buffer_size": 2, "socket_send_bytes": 4096 }));
        let mut foreign = Foreign::new(&redis);
        let target = peer(&node, "b", &["lobby"]);
        target.pause_reading();
        let message = json!({
            "type": "relay", "from": fingerprint("a"), "to": fingerprint("b"), "payload": "x".repeat(60_000),
            "node_id": FOREIGN, "id": "any \"id\"", "namespaces": ["lobby"],
        });
        let ack = loop {
            foreign.says_json("peer:relay", &message);
            let ack = foreign.hears_json("peer:ack");
            if ack["status"] != "delivered" {
                break ack;
            }
        };
        assert_eq!(
            (&ack["id"], &ack["to_node"], &ack["status"]),
            (&json!("any \"id\""), &json!(FOREIGN), &json!("full"))
        );
        let mut other = message.clone();
        other["namespaces"] = json!(["attic"]);
        foreign.says_json("peer:relay", &other);
        assert_eq!(foreign.hears_json("peer:ack")["status"], "forbidden");
        // Nobody, and then somebody: silence for the first.
        other["to"] = json!(fingerprint("nobody"));
        foreign.says_json("peer:relay", &other);
        foreign.says_json("peer:relay", &message);
        assert_eq!(foreign.hears_json("peer:ack")["status"], "full");
        target.resume_reading();
    });
}

#[test]
fn without_acknowledgements_nobody_waits_for_one() {
    on_redis(|redis, loops| {
        let node = redis.node(loops, json!({ "broker_ack": false }));
        let mut foreign = Foreign::new(&redis);
        let mut sender = peer(&node, "a", &["lobby"]);
        signal(&sender, &fingerprint("b"), &json!(1));
        let message = foreign.hears_json("peer:signal");
        assert_eq!(
            (&message["id"], &message["namespaces"]),
            (&Value::Null, &json!(["lobby"]))
        );
        expect_silence(&mut sender);
    });
}

#[test]
fn while_redis_is_away_only_what_needs_it_is_refused() {
    on_redis(|mut redis, loops| {
        let (one, two) = (redis.node(loops, json!({})), redis.node(loops, json!({})));
        let mut sender = peer(&one, "a", &["lobby"]);
        let mut beside = peer(&one, "beside", &["lobby"]);
        let mut target = peer(&two, "b", &["lobby"]);
        redis.stop();
        let deadline = Instant::now() + WITHIN;
        let answer = loop {
            signal(&sender, &fingerprint("b"), &json!(1));
            let answer = next(&mut sender);
            // Those that were under way when it went.
            if answer["payload"]["code"] != 404 || Instant::now() > deadline {
                break answer;
            }
        };
        assert_eq!(answer["payload"]["message"], "broker unavailable", "{answer}");
        signal(&sender, "the b", &json!(1));
        expect_error(&mut sender, 503, "broker unavailable");
        for number in 0..20 {
            let payload = json!({ "namespace": "lobby", "data": number });
            sender.send_json(&json!({ "type": "broadcast", "payload": payload }));
            signal(&sender, &fingerprint("beside"), &json!(number));
            assert_eq!(next(&mut beside)["payload"]["data"], number);
            assert_eq!(next(&mut beside)["payload"], number);
        }
        // It is told of its broadcasts, but not of each.
        sender.send_json(&json!({ "type": "ping" }));
        let mut told = 0;
        while let message = next(&mut sender)
            && message["type"] != "pong"
        {
            assert_eq!(message["payload"]["message"], "broker unavailable");
            told += 1;
        }
        assert!((1..20).contains(&told), "{told}");
        redis.start_again();
        loop {
            signal(&sender, &fingerprint("b"), &json!("again"));
            sender.send_json(&json!({ "type": "ping" }));
            let answer = next(&mut sender);
            match answer["type"].as_str() {
                // Taken: either it arrives, or the other node is not back yet.
                Some("pong") => {
                    if let Some(Event::Message { payload, .. }) = target.recv_content(Duration::from_millis(50)) {
                        assert!(String::from_utf8_lossy(&payload).contains("again"));
                        break;
                    }
                }
                _ => assert!(Instant::now() < deadline, "{answer}"),
            }
            while answer["type"] != "pong" && next(&mut sender)["type"] != "pong" {}
        }
    });
}
