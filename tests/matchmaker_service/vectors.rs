//! The recordings of the original services, replayed.
//!
//! Owns: where ours answers otherwise on purpose, case by case.
//! Never: looks at what depends on the original's NATS server or cloud.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use peer_server::config::Config;
use serde_json::{Value, json};

use crate::scene::{FAKE_IP, GAME, Service, exchange, lines, options, parts};
use crate::support::{ANSWER_WITHIN, Client, ConnectError, Event, Frame, Opcode};

fn read(case: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/bevygap/{case}.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Bytes of a recorded request.
fn bytes_of(case: &Value) -> Vec<u8> {
    let request = &case["request"];
    let (method, path) = (request["method"].as_str().unwrap(), request["path"].as_str().unwrap());
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in request["headers"].as_object().unwrap() {
        head += &format!("{name}: {}\r\n", value.as_str().unwrap());
    }
    (head + "\r\n").into_bytes()
}

/// Status, header fields (names in lower case) and body.
fn answer(service: &Service, case: &Value) -> (u64, Vec<(String, String)>, String) {
    let answer = exchange(service.addr, &bytes_of(case));
    let (head, body) = parts(&answer);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let fields = lines.map(|line| line.split_once(": ").unwrap());
    let fields = fields.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    (status, fields.collect(), body)
}

fn check_fields(name: &str, fields: &[(String, String)], expected: &Value, besides: &[&str]) {
    for (field, value) in expected["headers"].as_object().unwrap() {
        if !besides.contains(&field.as_str()) {
            let found = fields.iter().find(|(own, _)| own == field);
            assert_eq!(
                found.map(|(_, value)| value.as_str()),
                value.as_str(),
                "{name}: {field}"
            );
        }
    }
}

#[test]
fn what_needs_no_server_is_answered_as_recorded() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        for name in [
            "http-404",
            "http-preflight",
            "http-preflight-other-origin",
            "http-request-get",
            "http-wannaplay-get",
            "http-ws-post",
            "http-ws-without-upgrade",
        ] {
            let case = read(name);
            let expected = &case["response"];
            let (status, fields, body) = answer(&service, &case);
            assert_eq!(Some(status), expected["status"].as_u64(), "{name}");
            check_fields(name, &fields, expected, &[]);
            assert_eq!(Some(body.as_str()), expected["body"].as_str(), "{name}");
        }
        // The page is one of our own, so its length is as well.
        for name in [
            "http-root",
            "http-root-origin",
            "http-root-other-origin",
            "http-matchmaker",
            "http-head",
        ] {
            let case = read(name);
            let (status, fields, body) = answer(&service, &case);
            assert_eq!(status, 200, "{name}");
            check_fields(name, &fields, &case["response"], &["content-length"]);
            assert_eq!(body.is_empty(), name == "http-head", "{name}");
        }
    }
}

#[test]
fn a_path_that_smuggles_commands_is_no_request() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        // It was taken, and its commands were carried out.
        let case = read("http-request-path-injection");
        let (status, fields, body) = answer(&service, &case);
        assert_eq!((status, body.as_str()), (400, "ERR Game name invalid"));
        check_fields(
            "path-injection",
            &fields,
            &case["response"],
            &["content-type", "transfer-encoding"],
        );
        assert!(service.provider.has_none());
    }
}

/// No game server for it: the recorded service answers nothing, or as if there were no service.
#[test]
fn without_a_server_the_answer_says_so() {
    let service = Service::with(1, |config| {
        config.matchmaker.provider = peer_server::config::Provider::Static;
    });
    let (status, fields, body) = answer(&service, &read("http-wannaplay-no-responder"));
    assert_eq!((status, body.as_str()), (503, "no server available"));
    check_fields(
        "wannaplay",
        &fields,
        &read("http-wannaplay-no-responder")["response"],
        &["content-length"],
    );
    let (status, fields, body) = answer(&service, &read("http-request-no-responder"));
    assert_eq!(status, 200);
    assert_eq!(
        lines(&body).last(),
        Some(&json!({ "Error": [503, "no server available"] }))
    );
    check_fields("request", &fields, &read("http-request-no-responder")["response"], &[]);
    let case = read("ws-no-responder");
    let mut client = service.connect();
    client.send_text(case["send"][0].as_str().unwrap());
    let mut last = json!(null);
    while let Some(Event::Message { payload, .. }) = client.recv_content(ANSWER_WITHIN) {
        last = serde_json::from_slice(&payload).unwrap();
    }
    assert_eq!(last, json!({ "Error": [503, "no server available"] }));
}

/// Sends what the recorded client sent, and returns what came back as text, and how it was closed.
fn replay(service: &Service, case: &Value) -> (Vec<String>, Option<u16>) {
    let path = case["request"]["path"].as_str().unwrap();
    let headers = case["request"]["headers"].as_object().unwrap();
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .collect();
    let mut client = Client::connect(service.addr, options(path, &headers));
    for message in case["send"].as_array().unwrap() {
        match message.as_str() {
            Some(text) => client.send_text(text),
            None => client.send_frame(Frame {
                opcode: Opcode::BINARY,
                ..Frame::text("\u{1}\u{2}")
            }),
        }
    }
    told(&mut client)
}

fn told(client: &mut Client) -> (Vec<String>, Option<u16>) {
    let mut texts = Vec::new();
    loop {
        match client.recv_content(ANSWER_WITHIN) {
            Some(Event::Message { payload, .. }) => texts.push(String::from_utf8(payload).unwrap()),
            other => return (texts, other.as_ref().and_then(Event::close_code)),
        }
    }
}

#[test]
fn a_first_message_that_breaks_the_rules_is_told_what_the_recordings_say() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        let recorded: &[(&str, Option<&str>)] = &[
            ("ws-bad-game", None),
            ("ws-bad-json", None),
            ("ws-bad-version", None),
            ("ws-empty-game", None),
            ("ws-long-game", None),
            ("ws-long-version", None),
            ("ws-missing-version", None),
            ("ws-version-number", None),
            // Without the debug print of the message.
            ("ws-binary-first", Some("ERR Expected text message")),
            // White space is in no name: the recorded service put it into a subject.
            ("ws-game-with-space", Some("ERR Game name invalid")),
            ("ws-game-newline-injection", Some("ERR Game name invalid")),
        ];
        for (name, ours) in recorded {
            let case = read(name);
            let expected = ours.or(case["receive"][0]["data"].as_str()).unwrap();
            // A close frame says that this is the end; the recorded service only ended the connection.
            assert_eq!(
                replay(&service, &case),
                (vec![expected.to_owned()], Some(1008)),
                "{name}"
            );
        }
        assert!(service.provider.has_none());
        let refused = "peer_server_game_server_refused_total{reason=\"bad_request\"}";
        service.wait_for_metric(refused, recorded.len() as u64);
    }
}

#[test]
fn a_client_that_says_nothing_is_told_after_its_time() {
    for loops in [1, 4] {
        let service = Service::timed(loops, Some(Duration::from_millis(50)), |_| {});
        let case = read("ws-client-silent");
        let expected = case["receive"][0]["data"].as_str().unwrap();
        let mut client = service.connect();
        // Pings are answered and do not count.
        client.send_frame(Frame {
            opcode: Opcode::PING,
            ..Frame::text("here")
        });
        assert_eq!(client.recv_ping(Duration::ZERO), None);
        assert_eq!(client.recv_pong(ANSWER_WITHIN).as_deref(), Some(&b"here"[..]));
        assert_eq!(told(&mut client), (vec![expected.to_owned()], Some(1008)));
        service.wait_for_metric("peer_server_game_server_refused_total{reason=\"silent\"}", 1);
    }
}

/// The client address that reaches the provider in one of the recorded dialogues.
fn client_ip(service: &Service, case: &Value) -> String {
    let path = case["request"]["path"].as_str().unwrap();
    let headers = case["request"]["headers"].as_object().unwrap();
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .collect();
    let mut client = Client::connect(service.addr, options(path, &headers));
    client.send_text(case["send"][0].as_str().unwrap());
    client.expect_json(&json!("Acknowledged"));
    service.provider.submitted().1.client_ip.to_string()
}

#[test]
fn the_client_address_is_believed_where_it_should_be() {
    let trusting = |config: &mut Config| {
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    };
    let overriding = |config: &mut Config| config.matchmaker.client_ip_override = true;
    type Alter = fn(&mut Config);
    let plain: Alter = |_| {};
    let cases: &[(&str, Alter, &str)] = &[
        // Anybody could say so.
        ("ws-xff", plain, FAKE_IP),
        ("ws-query-ip", plain, FAKE_IP),
        ("ws-query-ip-and-xff", plain, FAKE_IP),
        ("ws-xff-not-an-ip", plain, FAKE_IP),
        ("ws-xff-bad-json", plain, FAKE_IP),
        ("ws-xff-garbage", plain, FAKE_IP),
        ("ws-query-ip-empty", plain, FAKE_IP),
        ("ws-null-client-ip", plain, FAKE_IP),
        ("ws-unknown-field", plain, FAKE_IP),
        // A trusted proxy is believed about the right-most address that is not trusted itself.
        ("ws-xff", trusting, "198.51.100.7"),
        ("ws-query-ip-and-xff", trusting, "198.51.100.7"),
        ("ws-xff-not-an-ip", trusting, FAKE_IP),
        // In development a client may say where it is: in its query, or else in its message.
        ("ws-query-ip", overriding, "198.51.100.9"),
        ("ws-query-ip-empty", overriding, "81.128.157.123"),
        ("ws-null-client-ip", overriding, FAKE_IP),
    ];
    for (name, alter, expected) in cases {
        let service = Service::with(1, |config| {
            // The recorded service did not look at it.
            config.matchmaker.cors = Vec::new();
            alter(config);
        });
        assert_eq!(client_ip(&service, &read(name)), *expected, "{name}");
    }
}

#[test]
fn a_page_of_another_origin_is_refused_where_origins_are_listed() {
    for loops in [1, 4] {
        let case = read("ws-origin-evil");
        let open = Service::with(loops, |config| config.matchmaker.cors = Vec::new());
        assert_eq!(client_ip(&open, &case), FAKE_IP);
        let service = Service::start(loops);
        let evil = [("Origin", "http://evil.example")];
        let Err(ConnectError::Refused(refusal)) = Client::try_connect(service.addr, options("/matchmaker/ws", &evil))
        else {
            panic!("it was let in");
        };
        assert_eq!((refusal.status, refusal.text().as_str()), (403, "origin not allowed"));
        let fields: BTreeSet<&str> = refusal.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(fields.contains("Access-Control-Allow-Origin"), "{fields:?}");
        service.wait_for_metric("peer_server_game_server_refused_total{reason=\"origin\"}", 1);
        service.wait_for_metric("peer_server_origin_refused_total", 1);
        // Programs send none.
        service.seek();
        let same = service.connect_to("/matchmaker/ws", &[("Origin", "HTTP://127.0.0.1")]);
        let echoed = same.upgrade().header("access-control-allow-origin");
        assert_eq!(echoed.as_deref(), Some("http://127.0.0.1"));
    }
}

#[test]
fn a_version_that_nobody_serves_has_no_server() {
    let service = Service::start(1);
    let (texts, code) = replay(&service, &read("ws-wrong-version"));
    assert_eq!(
        texts.last().map(String::as_str),
        Some(r#"{"Error":[503,"no server available"]}"#)
    );
    assert_eq!(code, Some(1000));
    assert_ne!(GAME, "");
}
