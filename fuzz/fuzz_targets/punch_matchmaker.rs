//! The lobby dialect: a stream of requests however it is cut, and datagrams.
//!
//! Input: one byte of how the stream is cut, then a stream; also taken as a datagram and as a datagram's payload.
//! Property: the same requests and the same end however it is cut, each of them what serde_json reads; a datagram means what its
//! JSON says, and nothing that breaks a rule means anything.
#![no_main]

#[path = "../../tests/punch/wire.rs"]
mod wire;

use libfuzzer_sys::fuzz_target;
use peer_server::codec::json_stream::{DEPTH_MAX, OBJECT_BYTES_MAX};
use peer_server::dialect::matchmaker::parse;
use peer_server::message::matchmaker::{Ask, Code, Request, SessionId};
use serde_json::{Map, Value};
use wire::{Lines, NoAsk};

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let whole = asks([stream]);
    assert_eq!(asks(stream.chunks(1)), whole);
    assert_eq!(asks(stream.chunks(usize::from(*cut).max(1))), whole);
    let (head, tail) = stream.split_at(stream.len().min(usize::from(*cut) * 16));
    assert_eq!(asks([head, tail]), whole);
    check_stream(stream, &whole);

    check_datagram(stream);
    if stream.len() <= 1017 {
        let len = (stream.len() as i16).to_le_bytes();
        check_datagram(&[&[*cut, 0, 0, 0], &len[..], &[0], stream].concat());
    }
});

fn asks<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Ask>, Option<NoAsk>) {
    let (mut lines, mut asks) = (Lines::default(), Vec::new());
    for piece in pieces {
        lines.receive(piece);
        loop {
            match lines.next() {
                Ok(Some(ask)) => asks.push(ask),
                Ok(None) => break,
                Err(end) => return (asks, Some(end)),
            }
        }
    }
    (asks, None)
}

/// Compares with another decoder as far as that one reads.
fn check_stream(stream: &[u8], (asks, end): &(Vec<Ask>, Option<NoAsk>)) {
    let mut values = serde_json::Deserializer::from_slice(stream).into_iter::<Value>();
    let mut seen = 0;
    loop {
        let from = values.byte_offset();
        let Some(Ok(Value::Object(object))) = values.next() else {
            break;
        };
        let text = stream[from..values.byte_offset()].trim_ascii();
        if text.len() > OBJECT_BYTES_MAX || depth(&Value::Object(object.clone())) > DEPTH_MAX {
            assert_eq!((asks.len(), *end), (seen, Some(NoAsk::TooMuch)));
            return;
        }
        let ask = asks.get(seen).expect("an object is a request, however bad");
        if let Some(expected) = expected(&object) {
            assert_eq!(*ask, expected, "{object:?}");
        }
        seen += 1;
    }
    assert!(seen <= asks.len());
}

fn depth(value: &Value) -> u32 {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(values) => 1 + values.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What a request whose names are written as the clients do must mean; None for one whose names are there twice or otherwise.
fn expected(object: &Map<String, Value>) -> Option<Ask> {
    let plain = |object: &Map<String, Value>, names: &[&str]| {
        object
            .keys()
            .all(|key| names.contains(&&**key) || !names.iter().any(|name| name.eq_ignore_ascii_case(key)))
    };
    let kind = match object.get("Type") {
        Some(Value::Number(number)) => number.as_i64()?,
        _ => return None,
    };
    if !plain(object, &["Type", "Body"]) {
        return None;
    }
    match kind {
        0 => return Some(Ask::NewClient),
        1..=3 => {}
        _ => return Some(Ask::Unknown),
    }
    let Some(Value::String(body)) = object.get("Body") else {
        return Some(Ask::Bad);
    };
    let Some(body) = base64(body) else {
        return Some(Ask::Bad);
    };
    let Ok(Value::Object(body)) = serde_json::from_slice::<Value>(&body) else {
        return None;
    };
    if !plain(&body, &["LobbyCode", "SessionID"]) {
        return None;
    }
    let text = |name: &str| match body.get(name) {
        None | Some(Value::Null) => Some(""),
        Some(Value::String(text)) => Some(&**text),
        Some(_) => None,
    };
    let (Some(code), Some(session)) = (text("LobbyCode"), text("SessionID")) else {
        return Some(Ask::Bad);
    };
    let (code, session) = (Code::parse(code), SessionId::parse(session));
    Some(match kind {
        1 => Ask::Create { session },
        2 => Ask::Join { code, session },
        _ => Ask::Start { code, session },
    })
}

fn check_datagram(datagram: &[u8]) {
    let Some(request) = parse(datagram) else { return };
    assert!(datagram.len() <= 1024 && datagram[6] == 0);
    assert_eq!(
        usize::from(u16::from_le_bytes([datagram[4], datagram[5]])),
        datagram.len() - 7
    );
    let Ok(payload) = serde_json::from_slice::<Map<String, Value>>(&datagram[7..]) else {
        // Where it differs, it is what the datagram does not mean: names and values that are passed over.
        return;
    };
    let data = match payload.get("Data") {
        Some(Value::String(data)) if payload.len() == 2 => base64(data),
        _ => return,
    };
    let data = data.expect("it was decoded");
    let object = || serde_json::from_slice::<Map<String, Value>>(&data).ok();
    match request {
        Request::KeepAlive => assert!(data.is_empty()),
        Request::Ack { sequence } => {
            assert!((1..=32767).contains(&sequence));
            if let Some(number) = object()
                .filter(|object| object.len() == 1)
                .and_then(|o| o["SequenceNumber"].as_i64())
            {
                assert_eq!(number, i64::from(sequence));
            }
        }
        Request::Endpoint { session, sequence } => {
            assert_eq!(datagram[..4], i32::from(sequence).to_le_bytes());
            if let Some(text) = object().as_ref().and_then(|object| object.get("SessionID")?.as_str()) {
                assert_eq!(text, session.to_string());
            }
        }
    }
}

/// Standard alphabet, padded, without stray bits (RFC 4648 section 4).
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, letters) = (Vec::new(), text.as_bytes());
    if letters.len() % 4 != 0 {
        return None;
    }
    let (groups, last) = (letters.chunks(4), letters.len() / 4);
    for (nth, group) in groups.enumerate() {
        let padding = group.iter().rev().take_while(|letter| **letter == b'=').count();
        if padding > 2 || (padding > 0 && nth + 1 != last) {
            return None;
        }
        let mut value = 0_u32;
        for letter in &group[..4 - padding] {
            let digit = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            value = value << 6 | u32::from(digit);
        }
        value <<= 6 * padding;
        let [_, a, b, c] = value.to_be_bytes();
        if [a, b, c][3 - padding..].iter().any(|rest| *rest != 0) {
            return None;
        }
        bytes.extend_from_slice(&[a, b, c][..3 - padding]);
    }
    Some(bytes)
}
