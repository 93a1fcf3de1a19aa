//! What the recorded dialogues of the matchmaker web service say, text by text: read as the original services read it, and
//! written byte for byte as they wrote it.
//!
//! Owns: the list of what we read otherwise on purpose.
//! Never: opens a connection.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};

use data_encoding::BASE64;
use peer_server::dialect::bevygap;
use peer_server::message::game_server::{CertDigest, Failure, Feedback, Grant, KeyIndex, Name, SessionName};
use serde_json::Value;

/// Names with blanks, which the original services let through to their broker.
const REFUSED_BY_US: &[&str] = &["ws-game-newline-injection", "ws-game-with-space"];
const FAKE_IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(81, 128, 157, 100));

struct Vector {
    name: String,
    said: Value,
}

fn vectors(kind: &str) -> Vec<Vector> {
    let mut vectors = Vec::new();
    for entry in std::fs::read_dir("tests/vectors/bevygap").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name.starts_with(kind) && path.extension().is_some_and(|extension| extension == "json") {
            let said = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            vectors.push(Vector { name, said });
        }
    }
    assert!(vectors.len() > 5, "{} of {kind}", vectors.len());
    vectors
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], |items| items)
}

#[test]
fn first_messages_are_read_or_refused_with_the_recorded_text() {
    let (mut read, mut refused) = (0, 0);
    for Vector { name, said } in vectors("ws-") {
        let Some(first) = items(&said["send"]).first().and_then(Value::as_str) else {
            continue;
        };
        let answer = items(&said["receive"]).first().map_or("", |frame| text(&frame["data"]));
        let request = bevygap::parse_request(first);
        if REFUSED_BY_US.contains(&name.as_str()) {
            assert_eq!(request, Err("ERR Game name invalid".to_owned()), "{name}");
        } else if answer.starts_with("ERR ") {
            assert_eq!(request, Err(answer.to_owned()), "{name}");
            refused += 1;
        } else {
            let request = request.unwrap();
            let sent: Value = serde_json::from_str(first).unwrap();
            assert_eq!(request.game.as_str(), sent["game"], "{name}");
            assert_eq!(request.version.as_str(), sent["version"], "{name}");
            assert_eq!(request.client_ip.as_deref(), sent["client_ip"].as_str(), "{name}");
            read += 1;
        }
    }
    assert_eq!((read > 20, refused), (true, 8));
}

#[test]
fn frames_are_written_byte_for_byte() {
    let (mut seen, mut ready) = (0, 0);
    for Vector { name, said } in vectors("ws-") {
        for frame in items(&said["receive"]).iter().map(|frame| text(&frame["data"])) {
            if !frame.starts_with("ERR ") {
                assert_eq!(rendered(&serde_json::from_str(frame).unwrap()), frame, "{name}");
                seen += 1;
                ready += usize::from(frame.starts_with(r#"{"SessionReady""#));
            }
        }
    }
    for Vector { name, said } in vectors("http-") {
        if name == "http-request-success" || name == "http-request-409" {
            let body = text(&said["response"]["body"]);
            let frames = serde_json::Deserializer::from_str(body).into_iter::<Value>();
            let rendered: String = frames.map(|frame| rendered(&frame.unwrap())).collect();
            assert_eq!(rendered, body, "{name}");
            ready += usize::from(body.contains("SessionReady"));
        }
    }
    assert_eq!((seen > 60, ready), (true, 4));
}

/// Our frame for what a frame says.
fn rendered(frame: &Value) -> String {
    let (feedback, token) = match frame {
        Value::String(_) => (Feedback::Acknowledged, Vec::new()),
        frame => {
            let (tag, content) = frame.as_object().unwrap().iter().next().unwrap();
            match tag.as_str() {
                "SessionRequestAccepted" => (Feedback::Accepted(SessionName::new(text(content)).unwrap()), Vec::new()),
                "ProgressReport" => (Feedback::Progress(text(content).into()), Vec::new()),
                "Error" => (Feedback::Failed(failure(&content[0], text(&content[1]))), Vec::new()),
                "SessionReady" => ready(content, ["token", "ip", "port"]),
                other => panic!("{other}"),
            }
        }
    };
    let mut out = b"before ".to_vec();
    bevygap::push_frame(&mut out, &feedback, &token);
    String::from_utf8(out).unwrap().split_off(7)
}

fn failure(code: &Value, text: &str) -> Failure {
    Failure {
        code: code.as_u64().unwrap().try_into().unwrap(),
        text: text.to_owned().into(),
    }
}

fn ready(said: &Value, [token, ip, port]: [&str; 3]) -> (Feedback, Vec<u8>) {
    let port = said[port].as_u64().unwrap().try_into().unwrap();
    let grant = Grant {
        session: SessionName::new("unsaid").unwrap(),
        client_id: 1,
        public: SocketAddr::new(text(&said[ip]).parse().unwrap(), port),
        internal: Vec::new(),
        cert_digest: CertDigest::parse(text(&said["cert_digest"])).unwrap(),
        key: KeyIndex(0),
    };
    (
        Feedback::Ready(Box::new(grant)),
        BASE64.decode(text(&said[token]).as_bytes()).unwrap(),
    )
}

#[test]
fn answers_in_one_piece_are_written_byte_for_byte() {
    let mut seen = 0;
    for Vector { name, said } in vectors("http-wannaplay") {
        let (status, body) = (
            said["response"]["status"].as_u64().unwrap(),
            text(&said["response"]["body"]),
        );
        let (feedback, token) = match status {
            200 => {
                let said = serde_json::from_str(body).unwrap();
                ready(&said, ["connect_token", "gameserver_ip", "gameserver_port"])
            }
            // A failure of ours; the other texts are those of the original, or of HTTP.
            409 => {
                let failure = failure(&said["response"]["status"], body);
                assert_eq!(bevygap::single_status(&failure), 409);
                (Feedback::Failed(failure), Vec::new())
            }
            _ => continue,
        };
        let mut out = Vec::new();
        bevygap::push_single(&mut out, &feedback, &token);
        assert_eq!(String::from_utf8(out).unwrap(), body, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[test]
fn payloads_to_another_matchmaker_say_the_same() {
    let mut seen = 0;
    for Vector { name, said } in vectors("ws-").into_iter().chain(vectors("http-")) {
        for message in items(&said["nats"]) {
            let subject = text(&message["subject"]);
            let (payload, mut out) = (text(&message["payload"]), Vec::new());
            if name.contains("xff-") || REFUSED_BY_US.contains(&name.as_str()) || name.contains("injection") {
                continue;
            }
            let said: Value = match subject.split_once('.') {
                Some(("matchmaker" | "session", _)) => serde_json::from_str(payload).unwrap(),
                _ => continue,
            };
            let client_ip: IpAddr = text(&said["client_ip"]).parse().unwrap();
            let name_of = |name: &str| said[name].as_str().map(|text| Name::new(text).unwrap());
            let (game, version) = (name_of("game"), name_of("version"));
            bevygap::push_seek(&mut out, client_ip, game.as_ref().zip(version.as_ref()));
            assert_eq!(String::from_utf8(out).unwrap(), payload.replace(", ", ","), "{name}");
            assert_eq!(bevygap::parse_seek(payload.as_bytes()), Ok(client_ip), "{name}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

/// The address that went on. The original believes everybody; ours does so only where it is told to, and whom a proxy names
/// is known before.
#[test]
fn the_address_that_goes_on_is_the_recorded_one() {
    for (name, address, overridable) in [
        ("ws-query-ip", "127.0.0.1", true),
        ("ws-query-ip-empty", "127.0.0.1", true),
        ("ws-null-client-ip", "127.0.0.1", true),
        ("ws-unknown-field", "127.0.0.1", false),
        ("ws-xff", "198.51.100.7", false),
        ("ws-query-ip-and-xff", "198.51.100.7", false),
        ("http-wannaplay-query-ip", "127.0.0.1", true),
    ] {
        let said = vectors(name.split('-').next().unwrap())
            .into_iter()
            .find(|vector| vector.name == name)
            .unwrap()
            .said;
        let payload: Value = serde_json::from_str(text(&said["nats"][0]["payload"])).unwrap();
        let query = text(&said["request"]["path"])
            .split_once('?')
            .map_or("", |(_, query)| query);
        let client_ip = bevygap::client_ip(address.parse().unwrap(), query, None, overridable, Some(FAKE_IP)).unwrap();
        assert_eq!(client_ip.to_string(), text(&payload["client_ip"]), "{name}");
    }
}

#[test]
fn the_recorded_injection_by_path_is_refused() {
    let said = vectors("http-")
        .into_iter()
        .find(|vector| vector.name == "http-request-path-injection")
        .unwrap()
        .said;
    let path = text(&said["request"]["path"]);
    assert_eq!(bevygap::parse_path(path), Some(Err("ERR Game name invalid".to_owned())));
}
