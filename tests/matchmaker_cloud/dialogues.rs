//! The recorded dialogues in which all goes well, or in which the player is told at once.
//!
//! Owns: what must be as recorded, and by name what is different on purpose.
//! Never: has the cloud fail; `faults` does.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use peer_server::codec::connect_token::{self, Layout, PrivateKey};
use serde_json::{Value, json};

use crate::replay::Recording;
use crate::world::{DIGEST, FAKE_IP, GAME_SERVER, KEY_BYTES, PROTOCOL_ID, World};

#[test]
fn what_succeeded_succeeds_frame_by_frame() {
    let world = World::start(json!({}));
    for (case, ready_after) in [("ws-success", 2), ("ws-success-immediate", 0)] {
        world.cloud.behave(json!({ "ready_after": ready_after }));
        let recording = Recording::load(case);
        let heard = recording.say(world.front.addr(), &[]).unwrap();
        let (last, before) = heard.frames.split_last().unwrap();
        let (recorded_last, recorded_before) = recording.0["receive"].as_array().unwrap().split_last().unwrap();
        let recorded_before: Vec<&str> = recorded_before
            .iter()
            .map(|frame| frame["data"].as_str().unwrap())
            .collect();
        assert_eq!(before, recorded_before, "{case}");
        assert_ready(last, recorded_last["data"].as_str().unwrap());
        assert_eq!(heard.close, (1000, "Goodbye".to_owned()), "{case}");
    }
    // The player's address went to the cloud, and the version, which the originals never send.
    let created = &world.cloud.state()["requests"][0]["body"];
    assert_eq!(created["ip_list"], json!([FAKE_IP]));
    assert_eq!(created["version_name"], "1");
}

#[test]
fn the_answers_over_http_are_as_recorded() {
    let world = World::start(json!({ "matchmaker_cors": ["http://127.0.0.1"] }));
    for case in [
        "http-request-success",
        "http-wannaplay-success",
        "http-wannaplay-query-ip",
    ] {
        world.cloud.behave(json!({}));
        let recording = Recording::load(case);
        let answer = ask(world.front.addr(), &recording);
        let recorded = &recording.0["response"];
        assert_eq!(answer.status, recorded["status"], "{case}");
        for name in ["access-control-allow-origin", "content-type", "vary"] {
            assert_eq!(
                answer.header(name),
                recorded["headers"][name].as_str(),
                "{case}: {name}"
            );
        }
        let recorded = recorded["body"].as_str().unwrap();
        if case.starts_with("http-request") {
            // Ours are separated by line breaks; a reader of a stream of JSON takes both.
            let values = |text: &str| {
                serde_json::Deserializer::from_str(text)
                    .into_iter::<Value>()
                    .collect::<Result<Vec<_>, _>>()
            };
            let (ours, theirs) = (values(&answer.body).unwrap(), values(recorded).unwrap());
            assert_eq!(ours[..ours.len() - 1], theirs[..theirs.len() - 1], "{case}");
            assert_ready(&ours.last().unwrap().to_string(), &theirs.last().unwrap().to_string());
        } else {
            let (ours, theirs): (Value, Value) = (
                serde_json::from_str(&answer.body).unwrap(),
                serde_json::from_str(recorded).unwrap(),
            );
            let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&ours), keys(&theirs), "{case}");
            for key in ["gameserver_ip", "gameserver_port", "cert_digest"] {
                assert_eq!(ours[key], theirs[key], "{case}");
            }
            assert_token(ours["connect_token"].as_str().unwrap());
        }
        // What the query says of the player's address is not believed.
        let (_, session) = world.cloud.sessions().into_iter().next().unwrap();
        assert_eq!(session["ips"], json!([FAKE_IP]), "{case}");
    }
    for (case, fail_post, status) in [("http-wannaplay-409", 409, 409), ("http-wannaplay-500", 500, 503)] {
        world.cloud.behave(json!({ "fail_post": fail_post }));
        let answer = ask(world.front.addr(), &Recording::load(case));
        assert_eq!(answer.status, status, "{case}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert!(!answer.body.contains("mock"), "{case}: {}", answer.body);
    }
    world.cloud.behave(json!({ "fail_post": 409 }));
    let answer = ask(world.front.addr(), &Recording::load("http-request-409"));
    assert_eq!(answer.status, 200);
    assert!(
        answer.body.starts_with("\"Acknowledged\"\n{\"Error\":[409,"),
        "{}",
        answer.body
    );
    // The originals let this publish whatever it likes.
    let answer = ask(world.front.addr(), &Recording::load("http-request-path-injection"));
    assert_eq!((answer.status, answer.body.as_str()), (400, "ERR Game name invalid"));
    assert!(!world.cloud.calls().iter().any(|call| call.contains("INJECTED")));
}

#[test]
fn whose_address_goes_to_the_cloud() {
    let trusting = json!({ "trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"] });
    let world = World::start(trusting);
    for (case, ip) in [
        ("ws-success", FAKE_IP),
        ("ws-null-client-ip", FAKE_IP),
        ("ws-unknown-field", FAKE_IP),
        ("ws-query-ip", FAKE_IP),
        ("ws-query-ip-empty", FAKE_IP),
        ("ws-query-ip-and-xff", "198.51.100.7"),
        ("ws-xff", "198.51.100.7"),
        // What is no address is the proxy's fault, and its own counts.
        ("ws-xff-not-an-ip", FAKE_IP),
        ("ws-xff-garbage", FAKE_IP),
        ("ws-xff-bad-json", FAKE_IP),
    ] {
        world.cloud.behave(json!({ "ready_after": 0 }));
        let heard = Recording::load(case).say(world.front.addr(), &[]).unwrap();
        assert!(
            heard.frames.last().unwrap().contains("SessionReady"),
            "{case}: {heard:?}"
        );
        let (_, session) = world.cloud.sessions().into_iter().next().unwrap();
        assert_eq!(session["ips"], json!([ip]), "{case}");
    }
}

#[test]
fn a_foreign_page_is_refused_when_origins_are_listed() {
    let world = World::start_without_back(json!({ "matchmaker_cors": ["http://127.0.0.1"] }));
    let refused = Recording::load("ws-origin-evil").say(world.front.addr(), &[]);
    assert_eq!(refused.unwrap_err(), 403);
}

#[test]
fn nobody_behind_is_said_at_once() {
    let world = World::start_without_back(json!({}));
    // The originals lose their connection to NATS over this one, and with it the next client's request.
    Recording::load("ws-game-with-space")
        .say(world.front.addr(), &[])
        .unwrap();
    for case in ["ws-game-with-space-2", "ws-no-responder", "ws-wrong-version"] {
        let heard = Recording::load(case).say(world.front.addr(), &[]).unwrap();
        assert_eq!(heard.error_code(), 503, "{case}");
    }
    let answer = ask(world.front.addr(), &Recording::load("http-wannaplay-no-responder"));
    assert_eq!((answer.status, answer.body.as_str()), (503, "No service responders"));
    let answer = ask(world.front.addr(), &Recording::load("http-request-no-responder"));
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with("{\"Error\":[503,"), "{}", answer.body);
}

#[test]
fn what_was_refused_is_refused_with_the_same_words() {
    let world = World::start_without_back(json!({}));
    let mut everything = world.nats.listen();
    for case in [
        "ws-bad-game",
        "ws-bad-json",
        "ws-bad-version",
        "ws-empty-game",
        "ws-long-game",
        "ws-long-version",
        "ws-missing-version",
        "ws-version-number",
    ] {
        let recording = Recording::load(case);
        let heard = recording.say(world.front.addr(), &[]).unwrap();
        assert_eq!(heard.frames, recording.frames(), "{case}");
        assert_eq!(heard.close.0, 1008, "{case}: the originals just drop the connection");
    }
    for (case, text) in [
        ("ws-binary-first", "ERR Expected text message"),
        // The originals let these pass, to NATS.
        ("ws-game-with-space", "ERR Game name invalid"),
        ("ws-game-newline-injection", "ERR Game name invalid"),
    ] {
        let heard = Recording::load(case).say(world.front.addr(), &[]).unwrap();
        assert_eq!((heard.frames, heard.close.0), (vec![text.to_owned()], 1008), "{case}");
    }
    let answer = ask(world.front.addr(), &Recording::load("http-request-path-injection"));
    assert_eq!((answer.status, answer.body.as_str()), (400, "ERR Game name invalid"));
    // Nothing of all that came to NATS.
    assert_eq!(world.nats.heard(&mut everything), [] as [String; 0]);
}

/// A SessionReady of ours beside a recorded one: all is the same but the token, and that opens.
pub(crate) fn assert_ready(frame: &str, recorded: &str) {
    let (ours, recorded): (Value, Value) = (
        serde_json::from_str(frame).unwrap(),
        serde_json::from_str(recorded).unwrap(),
    );
    let (ours, recorded) = (&ours["SessionReady"], &recorded["SessionReady"]);
    for key in ["ip", "port", "cert_digest"] {
        assert_eq!(ours[key], recorded[key], "{frame}");
    }
    assert_eq!(ours["cert_digest"], DIGEST);
    assert_token(ours["token"].as_str().unwrap());
}

/// The token opens with the key; the client id in it.
pub(crate) fn assert_token(base64: &str) -> u64 {
    let bytes = data_encoding::BASE64.decode(base64.as_bytes()).unwrap();
    let now_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let key = PrivateKey::new(KEY_BYTES);
    let token = connect_token::open(&bytes, &key, Layout::LightyearLe, PROTOCOL_ID, now_s, None).unwrap();
    assert_eq!(
        token.public,
        [format!("{GAME_SERVER}:30004").parse::<SocketAddr>().unwrap()]
    );
    assert_eq!(token.internal, token.public);
    token.client_id
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Sends a recorded request and reads to the end of the connection.
fn ask(addr: SocketAddr, recording: &Recording) -> Answer {
    let request = &recording.0["request"];
    let mut stream = TcpStream::connect(addr).unwrap();
    let head = format!(
        "{} {} HTTP/1.1\r\nHost: front\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        request["method"].as_str().unwrap(),
        request["path"].as_str().unwrap()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let fields = lines.map(|line| line.split_once(": ").unwrap());
    let headers: Vec<(String, String)> = fields
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let chunked = headers.iter().any(|(_, value)| value == "chunked");
    let body = if chunked { dechunked(body) } else { body.to_owned() };
    Answer { status, headers, body }
}

/// A chunked body that ends as it must (RFC 9112 section 7.1).
fn dechunked(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        let (chunk, after) = after.split_at(length);
        body.push_str(chunk);
        rest = after.strip_prefix("\r\n").unwrap();
        if length == 0 {
            assert_eq!(rest, "", "nothing follows the last chunk");
            return body;
        }
    }
}
