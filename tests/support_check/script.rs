//! The client against scripted bytes.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::support::{Client, ConnectError, ConnectOptions, Event, deflate, http};
use crate::{A_MOMENT, LONG, answer_upgrade, listen, read_head, upgrade_answer};

/// What the client makes of these bytes after the upgrade, up to the end.
fn events(bytes: Vec<u8>) -> Vec<Event> {
    events_with(None, bytes)
}

fn events_with(extension: Option<&'static str>, bytes: Vec<u8>) -> Vec<Event> {
    let (addr, server) = listen(
        move |mut stream| {
            answer_upgrade(&mut stream, extension);
            // In pieces, to be put together. The client may leave at the first mistake.
            for piece in bytes.chunks(3) {
                let _ = stream.write_all(piece);
            }
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        },
        false,
    );
    let options = ConnectOptions {
        extensions: extension.map(str::to_owned),
        ..ConnectOptions::default()
    };
    let mut client = Client::connect(addr, options);
    assert_eq!(client.extension().as_deref(), extension);
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &Event| !event.is_end()) {
        events.push(client.recv(LONG).unwrap());
    }
    drop(client);
    server.join().unwrap();
    events
}

fn text(payload: &[u8], compressed: bool, frames: usize) -> Event {
    Event::Message {
        text: true,
        payload: payload.to_vec(),
        compressed,
        frames,
    }
}

#[test]
fn fragments_and_controls_between_them_are_seen() {
    let bytes = b"\x01\x01a\x89\x01p\x80\x01b\x8a\x01q\x88\x02\x03\xe8".to_vec();
    let expected = [
        Event::Ping(b"p".to_vec()),
        text(b"ab", false, 2),
        Event::Pong(b"q".to_vec()),
        Event::Close {
            code: Some(1000),
            reason: String::new(),
        },
        Event::Eof,
    ];
    assert_eq!(events(bytes), expected);
    assert_eq!(
        events(b"\x88\x00".to_vec()),
        [
            Event::Close {
                code: None,
                reason: String::new()
            },
            Event::Eof
        ]
    );
}

#[test]
fn compressed_messages_are_inflated() {
    // RFC 7692 sections 7.2.3.1 and 7.2.3.2: the second message refers back to the first.
    let hello = b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00";
    let shared = b"\xc1\x05\xf2\x00\x11\x00\x00";
    let plain = b"\x81\x01a";
    let split = b"\x41\x03\xf2\x48\xcd\x80\x04\xc9\xc9\x07\x00";
    let bytes = [&hello[..], shared, plain, split].concat();
    let all = [
        text(b"Hello", true, 1),
        text(b"Hello", true, 1),
        text(b"a", false, 1),
        text(b"Hello", true, 2),
        Event::Eof,
    ];
    assert_eq!(events_with(Some("permessage-deflate"), bytes), all);

    let fresh = Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover");
    assert_eq!(
        events_with(fresh, [&hello[..], hello].concat())[1],
        text(b"Hello", true, 1)
    );
    assert!(matches!(
        events_with(fresh, [&hello[..], shared].concat())[1],
        Event::Broken(_)
    ));
    let long = deflate(&[b'x'; 300_000]);
    assert!(long.len() > 126);
    let header = [0xc1, 126, (long.len() >> 8) as u8, long.len() as u8];
    assert_eq!(
        events_with(fresh, [&header[..], &long].concat())[0],
        text(&[b'x'; 300_000], true, 1)
    );
}

#[test]
fn what_a_server_must_not_send_breaks_the_connection() {
    let wrong: &[&[u8]] = &[
        b"\x81\x81\x00\x00\x00\x00a",   // masked
        b"\xc1\x01a",                   // RSV1 without an extension
        b"\xa1\x01a",                   // RSV2
        b"\x83\x00",                    // reserved opcode
        b"\x8b\x00",                    // reserved control opcode
        b"\x80\x00",                    // continuation of nothing
        b"\x01\x01a\x81\x01b",          // message in a message
        b"\x09\x00",                    // fragmented ping
        b"\x81\x7e\x00\x01a",           // length not shortest
        b"\x81\x7f\0\0\0\0\0\0\0\x01a", // length not shortest
        b"\x81\x01\xff",                // not UTF-8
        b"\x88\x01a",                   // close of one byte
        b"\x88\x02\x03\xed",            // close with 1005
        b"\x88\x03\x03\xe8\xff",        // reason not UTF-8
        b"\x81\x05a",                   // ends inside a frame
        b"\x01\x01a",                   // ends inside a message
    ];
    for bytes in wrong {
        let events = events(bytes.to_vec());
        assert!(matches!(events[..], [Event::Broken(_)]), "{bytes:02x?}: {events:?}");
    }
    let mut ping = b"\x89\x7e\x00\x7e".to_vec();
    ping.extend([0; 126]);
    assert!(matches!(events(ping)[..], [Event::Broken(_)]));
    let after_close = events(b"\x88\x00\x81\x01a".to_vec());
    assert!(
        matches!(after_close[..], [Event::Close { .. }, Event::Broken(_)]),
        "{after_close:?}"
    );
}

#[test]
fn bytes_behind_the_upgrade_are_not_lost() {
    let (addr, server) = listen(
        |mut stream| {
            let key = read_head(&mut stream).1;
            let mut answer = upgrade_answer(&key, None).into_bytes();
            answer.extend_from_slice(b"\x81\x01a");
            stream.write_all(&answer).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        },
        false,
    );
    let mut client = Client::connect(addr, ConnectOptions::default());
    assert_eq!(client.recv(LONG), Some(text(b"a", false, 1)));
    client.expect_none(A_MOMENT);
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_refused_or_wrong_upgrade_is_no_connection() {
    let try_with = |answer: &'static str| {
        let script = move |mut stream: TcpStream| {
            read_head(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
        };
        let (addr, server) = listen(script, false);
        let result = Client::try_connect(addr, ConnectOptions::default()).map(|_| ());
        server.join().unwrap();
        result.unwrap_err()
    };
    match try_with("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno") {
        ConnectError::Refused(response) => assert_eq!((response.status, response.text().as_str()), (403, "no")),
        ConnectError::Failed(error) => panic!("{error}"),
    }
    let wrong_accept = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert!(matches!(try_with(wrong_accept), ConnectError::Failed(_)));
    assert!(matches!(try_with(""), ConnectError::Failed(_)));
}

#[test]
fn http_reads_the_body_that_was_announced() {
    let (addr, server) = listen(
        |mut stream| {
            let (head, _) = read_head(&mut stream);
            assert!(head.starts_with("GET /health HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("\r\nX-A: b\r\n"), "{head}");
            assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 8\r\n\r\n")
                .unwrap();
            stream.write_all(b"{\"a\": 1}").unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        },
        false,
    );
    let response = http(addr, "GET", "/health", &[("X-A", "b")]);
    assert_eq!(response.status, 200);
    assert_eq!(response.header("Content-Type").as_deref(), Some("application/json"));
    assert_eq!(response.json(), json!({"a": 1}));
    server.join().unwrap();
}
