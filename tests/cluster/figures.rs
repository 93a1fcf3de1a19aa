//! What nodes tell of themselves and of each other: `/health`, `/stats`, `/readyz`, the metrics, and the log.
//!
//! Owns: real nodes with a real Redis, and what the operator sees while that is there and while it is not.
//! Never: looks at what peers tell each other.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, ConnectOptions, Event, RedisServer, Server, http};

/// More than it takes until a killed node is missed: a lease of three seconds, and who looks.
const TOLD_WITHIN: Duration = Duration::from_secs(8);

/// A lease, some renewals, and a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn node(broker: &RedisServer, more: Value) -> Server {
    let mut config = json!({
        "broker_type": "redis",
        "redis_addr": format!("unix:{}", broker.socket().display()),
        "loops": 2,
        "metrics_enabled": true,
        "metrics_port": 0,
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Server::start(config, &[])
}

/// A page as it is when it is as wanted.
fn until(addr: SocketAddr, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let page = http(addr, "GET", path, &[]).json();
        if holds(&page) {
            return page;
        }
        assert!(Instant::now() < end, "{path} stays {page}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn peer(server: &Server, key: &str, namespace: &str) -> (Client, String) {
    let mut client = Client::connect(server.addr(), ConnectOptions::default());
    client.send_json(&json!({ "type": "register", "payload": { "public_key": key } }));
    let registered = client.recv_json();
    assert_eq!(registered["type"], "registered", "{registered}");
    client.send_json(&json!({ "type": "join", "payload": { "namespace": namespace } }));
    let list = client.recv_json();
    assert_eq!(list["type"], "peer_list", "{list}");
    let fingerprint = registered["payload"]["fingerprint"].as_str().unwrap().to_owned();
    (client, fingerprint)
}

fn recv_type(client: &mut Client, kind: &str) -> Value {
    loop {
        let Some(Event::Message { payload, .. }) = client.recv_content(TOLD_WITHIN) else {
            panic!("no {kind}");
        };
        let message: Value = serde_json::from_slice(&payload).unwrap();
        if message["type"] == kind {
            return message;
        }
    }
}

/// Each line of the metrics page that is no comment.
fn metrics(server: &Server) -> Vec<(String, f64)> {
    let log = server.stderr();
    let address = log
        .split("metrics=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let address: SocketAddr = address.unwrap().trim_matches('"').parse().unwrap();
    let page = http(address, "GET", "/metrics", &[]).text();
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let values = lines.map(|line| line.rsplit_once(' ').unwrap());
    values
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

fn metric(server: &Server, name: &str) -> f64 {
    let name = format!("peer_server_{name}");
    let all = metrics(server);
    let found = all.iter().find(|(own, _)| *own == name);
    found.unwrap_or_else(|| panic!("there is no {name}")).1
}

#[test]
fn each_node_knows_how_many_peers_all_have() {
    let Some(broker) = RedisServer::start() else { return };
    let nodes: Vec<Server> = (0..3).map(|_| node(&broker, json!({}))).collect();
    let (mut one, _) = peer(&nodes[0], "one", "lobby");
    let (_two, _) = peer(&nodes[0], "two", "attic");
    let (mut three, key_of_three) = peer(&nodes[1], "three", "lobby");
    recv_type(&mut one, "peer_joined");
    one.send_json(&json!({ "type": "signal", "to": key_of_three, "payload": 1 }));
    assert_eq!(recv_type(&mut three, "signal")["payload"], 1);

    let mut ids = BTreeSet::new();
    for (server, (peers, namespaces)) in nodes.iter().zip([
        (2, json!({ "lobby": 2, "attic": 1 })),
        (1, json!({ "lobby": 2 })),
        (0, json!({})),
    ]) {
        let health = until(server.addr(), "/health", |health| {
            health["cluster"]["nodes"] == 3 && health["cluster"]["peers"] == 3
        });
        assert_eq!(health["peers"], peers, "{health}");
        let cluster = &health["cluster"];
        assert_eq!((&cluster["broker"], &cluster["up"]), (&json!("redis"), &json!(true)));
        let age = cluster["lease_age_ms"].as_u64().unwrap();
        assert!(age < 3000 && cluster["round_trip_us"].as_u64().unwrap() > 0, "{health}");
        ids.insert(cluster["node"].as_str().unwrap().to_owned());
        let stats = http(server.addr(), "GET", "/stats", &[]).json();
        let (total, own) = (&stats["total_peers"], &stats["node_peers"]);
        assert_eq!(
            (total, own, &stats["namespaces"]),
            (&json!(3), &json!(peers), &namespaces)
        );
        let ready = http(server.addr(), "GET", "/readyz", &[]).text();
        assert_eq!(ready, r#"{"ready":true,"broker":"up"}"#);
        let of = |name| metric(server, name);
        assert_eq!(
            (of("broker_up"), of("cluster_nodes"), of("cluster_peers")),
            (1.0, 3.0, 3.0)
        );
        assert_eq!(of("peers"), f64::from(peers));
        assert!(of("broker_round_trip_seconds") > 0.0 && of("broker_lease_age_seconds") < 3.0);
    }
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| id.len() == 32));

    assert!(metric(&nodes[0], "broker_commands_total") >= 5.0);
    assert_eq!(metric(&nodes[0], "broker_messages_total{direction=\"out\"}"), 1.0);
    assert_eq!(metric(&nodes[0], "node_frames_total{event=\"sent\"}"), 1.0);
    assert_eq!(metric(&nodes[1], "broker_messages_total{direction=\"in\"}"), 1.0);
    assert_eq!(metric(&nodes[1], "node_deliveries_total"), 1.0);
    one.send_json(&json!({ "type": "signal", "to": key_of_three, "namespace": "attic", "payload": 2 }));
    recv_type(&mut three, "signal");
    drop(three);
    recv_type(&mut one, "peer_left");
    until(nodes[2].addr(), "/health", |health| health["cluster"]["peers"] == 2);
}

#[test]
fn readiness_depends_on_the_broker_only_if_it_shall() {
    let Some(mut broker) = RedisServer::start() else { return };
    let easy = node(&broker, json!({}));
    let strict = node(&broker, json!({ "ready_requires_broker": true }));
    let plain = node(
        &broker,
        json!({ "cluster_state": false, "ready_requires_broker": true }),
    );
    let all = [&easy, &strict, &plain];
    let page = |server: &Server, path: &str| {
        let page = http(server.addr(), "GET", path, &[]);
        (page.status, page.text())
    };
    let up = (200, r#"{"ready":true,"broker":"up"}"#.to_owned());
    let down = |status: u16| (status, format!(r#"{{"ready":{},"broker":"down"}}"#, status == 200));
    for server in all {
        assert_eq!(page(server, "/readyz"), up);
    }
    let health = http(plain.addr(), "GET", "/health", &[]).json();
    let keys: Vec<&String> = health["cluster"].as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert_eq!(http(plain.addr(), "GET", "/stats", &[]).json().get("node_peers"), None);

    // Frozen, it is noticed when a lease is not renewed; killed, at once.
    broker.freeze();
    until(easy.addr(), "/readyz", |ready| ready["broker"] == "down");
    assert_eq!(
        http(easy.addr(), "GET", "/health", &[]).json()["cluster"]["lease_age_ms"],
        Value::Null
    );
    broker.thaw();
    until(easy.addr(), "/readyz", |ready| ready["broker"] == "up");
    until(strict.addr(), "/readyz", |ready| ready["broker"] == "up");
    broker.kill();
    for (server, status) in [(&easy, 200), (&strict, 503), (&plain, 503)] {
        until(server.addr(), "/health", |health| health["cluster"]["up"] == false);
        assert_eq!(page(server, "/readyz"), down(status));
        assert_eq!(page(server, "/livez"), (200, "ok\n".to_owned()));
        assert_eq!(metric(server, "broker_up"), 0.0);
    }
    broker.restart();
    for server in all {
        until(server.addr(), "/health", |health| health["cluster"]["up"] == true);
        assert_eq!(page(server, "/readyz"), up);
        assert!(metric(server, "broker_reconnects_total") >= 1.0);
    }
    until(easy.addr(), "/health", |health| health["cluster"]["nodes"] == 2);
}

/// What docs/clustering.md says that the server's user needs.
fn rights() -> String {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/clustering.md")).unwrap();
    let line = document
        .lines()
        .find(|line| line.starts_with("ACL SETUSER peer-server"));
    line.expect("docs/clustering.md shows the rights").to_owned()
}

#[test]
fn the_rights_that_are_documented_suffice_and_no_log_tells_the_password() {
    let Some(broker) = RedisServer::start() else { return };
    let words: Vec<String> = rights()
        .split(' ')
        .map(|word| word.replace("SECRET", "s3cret-word"))
        .collect();
    let ask = |words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query::<redis::Value>(&mut broker.connect()).unwrap()
    };
    ask(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let settings = json!({ "redis_user": "peer-server", "redis_password": "s3cret-word", "log_level": "trace" });
    let nodes = [node(&broker, settings.clone()), node(&broker, settings.clone())];
    let (mut one, key) = peer(&nodes[0], "one", "lobby");
    let (mut two, key_of_two) = peer(&nodes[1], "two", "lobby");
    recv_type(&mut one, "peer_joined");
    for (from, to, target) in [(0, 1, &key_of_two), (1, 0, &key)] {
        let clients = [&mut one, &mut two];
        clients[from].send_json(&json!({ "type": "signal", "to": target, "payload": from }));
        assert_eq!(recv_type(clients[to], "signal")["payload"], from);
    }
    let request = json!({ "type": "match", "payload": { "namespace": "duel", "group_size": 2 } });
    one.send_json(&request);
    two.send_json(&request);
    recv_type(&mut one, "matched");
    recv_type(&mut two, "matched");
    two.send_json(&json!({ "type": "create_room", "payload": { "room_id": "room", "max_size": 3 } }));
    recv_type(&mut two, "room_created");
    one.send_json(&json!({ "type": "join_room", "payload": { "room_id": "room" } }));
    recv_type(&mut two, "peer_joined");
    two.send_json(&json!({ "type": "kick", "payload": { "room_id": "room", "fingerprint": key } }));
    two.send_json(&json!({ "type": "discover", "payload": { "namespace": "lobby" } }));
    recv_type(&mut two, "peer_list");
    // All connections anew, and then one node dies and is swept.
    ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    for server in &nodes {
        until(server.addr(), "/health", |health| health["cluster"]["up"] == true);
    }
    let mut logs = nodes[0].stderr();
    let [first, second] = nodes;
    first.signal("KILL");
    recv_type(&mut two, "peer_left");
    until(second.addr(), "/health", |health| health["cluster"]["nodes"] == 1);
    logs += &second.stderr();
    assert!(logs.contains("one of several nodes"), "{logs}");
    assert!(!logs.contains("s3cret"), "{logs}");
    let denied = ask(&["ACL", "LOG"]);
    assert_eq!(denied, redis::Value::Array(Vec::new()), "{denied:?}");

    // A wrong one is told as such, and not repeated.
    let mut wrong = settings;
    wrong["redis_password"] = json!("another-s3cret");
    wrong["broker_type"] = json!("redis");
    wrong["redis_addr"] = json!(format!("unix:{}", broker.socket().display()));
    let failure = Server::try_start(wrong, &[]).err().expect("it is not let in");
    assert!(failure.stderr.contains("redis"), "{failure:?}");
    assert!(!(failure.stderr + &failure.stdout).contains("s3cret"));
}
