//! Who becomes a WebSocket and who does not (peer protocol, section 1).

use serde_json::json;

use crate::scene::{Peer, metric, serve, wait_for_metric};
use crate::support::{ANSWER_WITHIN, Client, ConnectError, ConnectOptions, HttpConnection, WireOptions};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const FINE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
];

fn without<'a>(name: &str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = FINE.iter().filter(|(other, _)| *other != name);
    kept.chain(more).copied().collect()
}

/// The fields that a refusal may carry.
const FIELDS: [&str; 4] = ["Connection", "Upgrade", "Sec-WebSocket-Version", "Allow"];

#[test]
fn every_refusal_has_its_status_and_says_what_would_have_been_right() {
    let upgrade_required: (u16, &[(&str, &str)]) = (426, &[("Connection", "Upgrade"), ("Upgrade", "websocket")]);
    let wrong_method: (u16, &[(&str, &str)]) = (405, &[("Allow", "GET")]);
    let wrong_version: (u16, &[(&str, &str)]) = (400, &[("Sec-WebSocket-Version", "13")]);
    let wrong_key: (u16, &[(&str, &str)]) = (400, &[]);
    let cases = [
        ("GET", vec![], upgrade_required),
        ("POST", vec![], upgrade_required),
        ("HEAD", vec![], upgrade_required),
        ("GET", without("Connection", &[]), upgrade_required),
        (
            "GET",
            without("Connection", &[("Connection", "keep-alive")]),
            upgrade_required,
        ),
        ("GET", without("Upgrade", &[]), upgrade_required),
        ("GET", without("Upgrade", &[("Upgrade", "h2c")]), upgrade_required),
        // The order of the checks.
        ("POST", without("Upgrade", &[]), upgrade_required),
        ("POST", without("Sec-WebSocket-Version", &[]), wrong_method),
        ("HEAD", FINE.to_vec(), wrong_method),
        ("PUT", FINE.to_vec(), wrong_method),
        ("GET", without("Sec-WebSocket-Version", &[]), wrong_version),
        (
            "GET",
            without("Sec-WebSocket-Version", &[("Sec-WebSocket-Version", "8")]),
            wrong_version,
        ),
        (
            "GET",
            vec![
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "14"),
            ],
            wrong_version,
        ),
        ("GET", without("Sec-WebSocket-Key", &[]), wrong_key),
        ("GET", without("", &[("Sec-WebSocket-Key", KEY)]), wrong_key),
        (
            "GET",
            without("Sec-WebSocket-Key", &[("Sec-WebSocket-Key", "")]),
            wrong_key,
        ),
        (
            "GET",
            without("Sec-WebSocket-Key", &[("Sec-WebSocket-Key", "c2hvcnQ=")]),
            wrong_key,
        ),
        (
            "GET",
            without(
                "Sec-WebSocket-Key",
                &[("Sec-WebSocket-Key", "this is not base64 at al==")],
            ),
            wrong_key,
        ),
    ];
    for loops in [1, 2] {
        let server = serve(json!({ "loops": loops }));
        for (method, headers, (status, expected)) in &cases {
            let mut connection = HttpConnection::open(server.addr(), &WireOptions::default()).unwrap();
            let answer = connection.request(method, "/ws?room=1", headers).unwrap();
            assert_eq!(answer.status, *status, "{method} {headers:?}: {answer:?}");
            for field in FIELDS {
                let wanted = expected
                    .iter()
                    .find(|(name, _)| *name == field)
                    .map(|(_, value)| *value);
                assert_eq!(
                    answer.header(field).as_deref(),
                    wanted,
                    "{field} for {method} {headers:?}"
                );
            }
            assert_eq!(answer.header("sec-websocket-accept"), None);
            // What came is exactly one answer: the next one is found where it should be.
            let next = connection.request("GET", "/livez", &[]);
            assert_eq!(
                next.expect("another answer").text(),
                "ok\n",
                "after {method} {headers:?}"
            );
        }
        assert_eq!(metric(&server, "peer_server_upgrades_total"), 0);
    }
}

#[test]
fn an_upgrade_is_recognised_in_every_spelling() {
    let server = serve(json!({ "loops": 2 }));
    let spellings: [&[(&str, &str)]; 4] = [
        &[("connection", "keep-alive, UPGRADE"), ("upgrade", "WebSocket")],
        &[("Connection", "Upgrade"), ("Upgrade", "h2c, websocket")],
        &[("Origin", "https://anywhere.example")],
        &[("Sec-WebSocket-Protocol", "chat, superchat")],
    ];
    for headers in spellings {
        let options = ConnectOptions {
            path: "/ws?token=abc&x=%00".to_owned(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..ConnectOptions::default()
        };
        let peer = Peer::register_as(server.addr(), options, json!({ "public_key": "somebody" }));
        assert_eq!(peer.client.upgrade().header("sec-websocket-protocol"), None);
        assert_eq!(peer.client.extension(), None);
    }
}

#[test]
fn an_upgrade_that_http_1_0_asks_for_is_refused() {
    let server = serve(json!({ "loops": 1 }));
    let mut connection = HttpConnection::open(server.addr(), &WireOptions::default()).unwrap();
    connection
        .send(crate::scene::UPGRADE.replacen("HTTP/1.1", "HTTP/1.0", 1).as_bytes())
        .unwrap();
    assert_eq!(connection.response(false, ANSWER_WITHIN).unwrap().status, 426);
    assert_eq!(connection.rest(ANSWER_WITHIN).unwrap(), b"");
}

fn from_origin(origin: Option<&str>) -> ConnectOptions {
    ConnectOptions {
        headers: origin
            .map(|origin| ("Origin".to_owned(), origin.to_owned()))
            .into_iter()
            .collect(),
        ..ConnectOptions::default()
    }
}

#[test]
fn pages_of_other_origins_are_refused_before_the_upgrade() {
    let server = serve(json!({ "loops": 2, "allowed_origins": ["https://game.example", "http://localhost:3000"] }));
    for origin in [
        None,
        Some("https://game.example"),
        Some("HTTPS://Game.Example"),
        Some("http://localhost:3000"),
    ] {
        Client::connect(server.addr(), from_origin(origin));
    }
    let refused = [
        "https://evil.example",
        "https://game.example.evil.example",
        "http://game.example",
        "https://game.example:8443",
        "https://game.example/",
        "null",
        "",
    ];
    for origin in refused {
        match Client::try_connect(server.addr(), from_origin(Some(origin))) {
            Err(ConnectError::Refused(answer)) => assert_eq!(answer.status, 403, "{origin}"),
            _ => panic!("{origin} was let in"),
        }
    }
    wait_for_metric(&server, "peer_server_origin_refused_total", refused.len() as u64);
    wait_for_metric(&server, "peer_server_upgrades_total", 4);
}
