//! The opening handshake, RFC 6455 section 4.2.

use super::support::{Client, ConnectError, ConnectOptions, Frame, HttpConnection, Response, WireOptions};
use super::{Echo, LONG, expect_alive, expect_message, support::Opcode};

/// The key and its answer are the example of section 1.3.
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const GOOD: [&str; 5] = [
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    KEY,
    "Sec-WebSocket-Version: 13",
];

fn ask(echo: &Echo, request_line: &str, lines: &[&str]) -> Response {
    let mut connection = HttpConnection::open(echo.addr, &WireOptions::default()).unwrap();
    let head = format!("{request_line}\r\n{}\r\n\r\n", lines.join("\r\n"));
    connection.send(head.as_bytes()).unwrap();
    connection.response(false, LONG).unwrap()
}

/// The good request with the line of that name replaced, or left out.
fn changed<'a>(name: &str, line: Option<&'a str>) -> Vec<&'a str> {
    let others = GOOD.into_iter().filter(|other| !other.starts_with(name));
    others.chain(line).collect()
}

#[test]
fn the_answer_is_the_example_of_the_standard() {
    let echo = Echo::start();
    let answer = ask(&echo, "GET /chat HTTP/1.1", &GOOD);
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("Upgrade").unwrap().to_lowercase(), "websocket");
    assert_eq!(answer.header("Connection").unwrap().to_lowercase(), "upgrade");
    assert_eq!(answer.header("Sec-WebSocket-Accept").as_deref(), Some(ACCEPT));
    for absent in ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Content-Length"] {
        assert_eq!(answer.header(absent), None, "{absent}");
    }
}

#[test]
fn names_and_tokens_are_matched_whatever_their_case() {
    let echo = Echo::start();
    let lines = [
        "hOST: localhost",
        "UPGRADE: WebSocket",
        "connection: keep-alive, UPGRADE",
        "sec-websocket-KEY:dGhlIHNhbXBsZSBub25jZQ==",
        "SEC-WEBSOCKET-VERSION:   13  ",
        "Origin: null",
        "Cookie: a=b",
    ];
    let answer = ask(&echo, "GET /?q=1 HTTP/1.1", &lines);
    assert_eq!(
        (answer.status, answer.header("sec-websocket-accept").as_deref()),
        (101, Some(ACCEPT))
    );
}

#[test]
fn no_subprotocol_and_no_unknown_extension_is_selected() {
    let echo = Echo::deflating();
    let mut lines = GOOD.to_vec();
    lines.extend([
        "Sec-WebSocket-Protocol: chat, superchat",
        "Sec-WebSocket-Extensions: x-best; a=1",
    ]);
    let answer = ask(&echo, "GET / HTTP/1.1", &lines);
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("Sec-WebSocket-Protocol"), None);
    assert_eq!(answer.header("Sec-WebSocket-Extensions"), None);
}

#[test]
fn a_request_that_is_not_an_upgrade_is_refused_with_what_would_have_been_right() {
    let echo = Echo::start();
    for lines in [
        changed("Upgrade", None),
        changed("Upgrade", Some("Upgrade: h2c")),
        changed("Connection", None),
        changed("Connection", Some("Connection: close")),
    ] {
        let answer = ask(&echo, "GET / HTTP/1.1", &lines);
        assert_eq!(answer.status, 426, "{lines:?}");
        assert_eq!(answer.header("Upgrade").as_deref(), Some("websocket"), "{lines:?}");
    }
    assert_eq!(ask(&echo, "POST / HTTP/1.1", &GOOD).status, 405);
    assert_eq!(ask(&echo, "GET / HTTP/1.0", &GOOD).status, 426);
    for version in [
        None,
        Some("Sec-WebSocket-Version: 8"),
        Some("Sec-WebSocket-Version: 14"),
    ] {
        let answer = ask(&echo, "GET / HTTP/1.1", &changed("Sec-WebSocket-Version", version));
        assert_eq!(answer.status, 400, "{version:?}");
        assert_eq!(
            answer.header("Sec-WebSocket-Version").as_deref(),
            Some("13"),
            "section 4.4"
        );
    }
    for key in [
        None,
        Some("Sec-WebSocket-Key:"),
        Some("Sec-WebSocket-Key: short"),
        Some("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSEhISE="),
    ] {
        assert_eq!(
            ask(&echo, "GET / HTTP/1.1", &changed("Sec-WebSocket-Key", key)).status,
            400,
            "{key:?}"
        );
    }
    let twice = [&GOOD[..], &[KEY]].concat();
    assert_eq!(ask(&echo, "GET / HTTP/1.1", &twice).status, 400);
    assert_eq!(ask(&echo, "GET / HTTP/1.1", &changed("Host", None)).status, 400);
}

#[test]
fn a_refusal_is_an_answer_that_a_client_can_read() {
    let echo = Echo::start();
    let options = ConnectOptions {
        headers: vec![("Sec-WebSocket-Version".to_owned(), "7".to_owned())],
        ..ConnectOptions::default()
    };
    match Client::try_connect(echo.addr, options) {
        Err(ConnectError::Refused(answer)) => assert_eq!(answer.status, 400),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("upgraded to version 7"),
    }
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let echo = Echo::start();
    let mut connection = HttpConnection::open(echo.addr, &WireOptions::default()).unwrap();
    for byte in format!("GET / HTTP/1.1\r\n{}\r\n\r\n", GOOD.join("\r\n")).bytes() {
        connection.send(&[byte]).unwrap();
    }
    assert_eq!(connection.response(false, LONG).unwrap().status, 101);
}

#[test]
fn frames_may_follow_the_request_at_once() {
    let echo = Echo::start();
    let mut connection = HttpConnection::open(echo.addr, &WireOptions::default()).unwrap();
    let mut bytes = format!("GET / HTTP/1.1\r\n{}\r\n\r\n", GOOD.join("\r\n")).into_bytes();
    bytes.extend(Frame::text("early").encode());
    bytes.extend(Frame::close(Some(1000), "").encode());
    connection.send(&bytes).unwrap();
    assert_eq!(connection.response(false, LONG).unwrap().status, 101);
    assert_eq!(connection.rest(LONG).unwrap(), b"\x81\x05early\x88\x02\x03\xe8");
}

#[test]
fn upgrades_happen_on_any_path_and_each_connection_is_its_own() {
    let echo = Echo::start();
    for path in ["/", "/ws", "/runCase?case=1&agent=x"] {
        let connect = || {
            let options = ConnectOptions {
                path: path.to_owned(),
                ..ConnectOptions::default()
            };
            Client::connect(echo.addr, options)
        };
        let (mut first, mut second) = (connect(), connect());
        first.send_text("first");
        second.send_text("second");
        expect_message(&mut second, Opcode::TEXT, b"second");
        expect_message(&mut first, Opcode::TEXT, b"first");
        expect_alive(&mut first);
    }
}
