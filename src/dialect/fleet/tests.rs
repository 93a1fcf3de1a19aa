//! What is written for other nodes, and what is read of theirs.
//!
//! Owns: the envelopes as other implementations send them.
//! Never: needs a broker.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::ids::LoopId;

const OWN: &str = "000102030405060708090a0b0c0d0e0f";
const OTHER: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";
const SIGNAL: Topic = Topic::Direct(DirectKind::Signal);
const RELAY: Topic = Topic::Direct(DirectKind::Relay);

fn hex(key: &str) -> String {
    String::from_utf8(Fingerprint::of_key(key).hex().to_vec()).unwrap()
}

fn read(topic: Topic, message: &Value) -> Option<Plain> {
    parse(topic, message.to_string().as_bytes(), OWN)
}

fn signal() -> Value {
    json!({"type": "signal", "from": hex("a"), "to": hex("b"), "payload": {"sdp": 1}, "ts": 1, "node_id": OTHER})
}

fn with(mut message: Value, name: &str, value: Value) -> Value {
    message[name] = value;
    message
}

#[test]
fn a_signal_as_other_implementations_send_it_is_read() {
    let payload = r#"{ "a" : 1.0 ,"b":12345678901234567890123,"c":"\u0041\/\ud800" }"#;
    let text = format!(
        r#"{{"type":"signal","from":"{}","to":"{}","payload":{payload},"ts":1790000000123,"node_id":"{OTHER}"}}"#,
        hex("a"),
        hex("b")
    );
    let expected = Plain::Direct {
        kind: DirectKind::Signal,
        from: Fingerprint::of_key("a"),
        to: hex("b").into(),
        shares: None,
        about: None,
        payload: Some(payload.into()),
        id: None,
        node_id: OTHER.into(),
    };
    assert_eq!(parse(SIGNAL, text.as_bytes(), OWN), Some(expected));
    for payload in [r#","payload":null"#, ""] {
        let text = format!(r#"{{"type":"relay","from":"{}","to":"bee"{payload}}}"#, hex("a"));
        let Some(Plain::Direct {
            payload, node_id, to, ..
        }) = parse(RELAY, text.as_bytes(), OWN)
        else {
            panic!("{text}")
        };
        assert_eq!((payload, &*node_id, &*to), (None, "", "bee"));
    }
}

#[test]
fn what_is_of_this_node_or_of_another_channel_is_ignored() {
    let broadcast = json!({"type": "broadcast", "from": hex("a"), "namespace": "x", "payload": {"namespace": "x"}, "node_id": OTHER});
    let ack = json!({"id": "0000000000000001", "node_id": OTHER, "to_node": OWN, "status": "full"});
    let relay = with(signal(), "type", json!("relay"));
    let messages = [
        (SIGNAL, signal()),
        (RELAY, relay),
        (Topic::Broadcast, broadcast),
        (Topic::Ack, ack),
    ];
    for (topic, message) in &messages {
        for other in Topic::ALL {
            assert_eq!(
                read(other, message).is_some(),
                other == *topic,
                "{message} on {other:?}"
            );
        }
        assert!(
            read(*topic, &with(message.clone(), "node_id", json!(OWN))).is_none(),
            "{message}"
        );
    }
    let elsewhere = with(messages[3].1.clone(), "to_node", json!(OTHER));
    assert!(read(Topic::Ack, &elsewhere).is_none());
}

#[test]
fn members_that_are_not_as_they_must_be_make_it_nothing() {
    let long = "x".repeat(129);
    let many: Vec<String> = (0..257).map(|number| number.to_string()).collect();
    let wrong = [
        ("from", json!("a")),
        ("from", json!(hex("a").to_uppercase())),
        ("from", json!(1)),
        ("from", Value::Null),
        ("to", json!("")),
        ("to", json!(hex("b").to_uppercase())),
        ("to", json!(long)),
        ("to", json!(7)),
        ("to", Value::Null),
        ("type", Value::Null),
        ("node_id", json!(long)),
        ("node_id", json!([])),
        ("id", json!("")),
        ("id", json!(long)),
        ("id", json!(5)),
        ("namespaces", json!("x")),
        ("namespaces", json!([1])),
        ("namespaces", json!(["x".repeat(6 * NAME_MAX + 1)])),
        ("namespaces", json!(many)),
        ("namespace", json!({})),
    ];
    assert!(read(SIGNAL, &signal()).is_some());
    for (name, value) in wrong {
        let message = with(signal(), name, value);
        assert!(read(SIGNAL, &message).is_none(), "{message}");
    }
    for text in ["", "null", "[]", "{}", "{", "{}x", "\u{0}"] {
        for topic in Topic::ALL {
            assert!(parse(topic, text.as_bytes(), OWN).is_none(), "{text}");
        }
    }
    assert!(parse(SIGNAL, b"{\"type\":\"\xff\"}", OWN).is_none());
    let mut large = signal().to_string().into_bytes();
    large.resize(MESSAGE_MAX, b' ');
    assert!(parse(SIGNAL, &large, OWN).is_some());
    large.push(b' ');
    assert!(parse(SIGNAL, &large, OWN).is_none());
}

#[test]
fn a_broadcast_is_in_the_namespace_of_its_payload() {
    let message = |namespace: Value, payload: Value| json!({"type": "broadcast", "from": hex("a"), "namespace": namespace, "payload": payload, "to": "x", "node_id": OTHER});
    let namespace = |message: &Value| match read(Topic::Broadcast, message)? {
        Plain::Broadcast { namespace, .. } => Some(namespace),
        other => panic!("{other:?}"),
    };
    let found = namespace(&message(json!("forged"), json!({"namespace": "lobby"})));
    assert_eq!(found.as_deref(), Some("lobby"));
    assert_eq!(
        namespace(&message(json!("lobby"), json!({"data": 1}))).as_deref(),
        Some("lobby")
    );
    let wrong = [
        message(Value::Null, json!({"data": 1})),
        message(json!("x"), json!({"namespace": ""})),
        message(json!("x"), json!({"namespace": 1})),
        message(json!("x"), json!([])),
        message(json!("x"), Value::Null),
        message(json!("x".repeat(6 * NAME_MAX + 1)), json!({})),
    ];
    for message in wrong {
        assert!(namespace(&message).is_none(), "{message}");
    }
    assert_eq!(name_of(r"l\u006fbby").as_deref(), Some("lobby"));
    assert_eq!(name_of("lobby").as_deref(), Some("lobby"));
    assert_eq!(name_of(r"\ud800"), None);
    assert_eq!(name_of("\\"), None);
}

#[test]
fn what_is_written_is_what_section_nine_shows() {
    let (from, to) = (Fingerprint::of_key("a"), hex("b"));
    let mut out = Vec::new();
    let direct = Direct {
        kind: DirectKind::Signal,
        from: &from,
        to: &to,
        namespace: None,
        payload: Some(r#"{"sdp": 1.0}"#),
        ts_ms: 1_790_000_000_123,
        id: Some(CommandId::new(LoopId::new(3), 26)),
    };
    push_direct(&mut out, &direct, OWN, ["lob\"by", "x"].into_iter());
    let expected = format!(
        r#"{{"type":"signal","from":"{}","to":"{to}","payload":{{"sdp": 1.0}},"ts":1790000000123,"node_id":"{OWN}","id":"000300000000001a","namespaces":["lob\"by","x"]}}"#,
        hex("a")
    );
    assert_eq!(String::from_utf8(std::mem::take(&mut out)).unwrap(), expected);
    push_broadcast(&mut out, &from, r"lob\u0062y", r#"{"namespace":"lobby" }"#, 7, OWN);
    let expected = format!(
        r#"{{"type":"broadcast","from":"{}","namespace":"lob\u0062y","payload":{{"namespace":"lobby" }},"ts":7,"node_id":"{OWN}"}}"#,
        hex("a")
    );
    assert_eq!(String::from_utf8(std::mem::take(&mut out)).unwrap(), expected);
    assert!(push_ack(&mut out, "i-1", OWN, OTHER, Err(Refusal::NoSharedNamespace)));
    let expected = format!(r#"{{"id":"i-1","node_id":"{OWN}","to_node":"{OTHER}","status":"forbidden"}}"#);
    assert_eq!(String::from_utf8(std::mem::take(&mut out)).unwrap(), expected);
    assert!(!push_ack(&mut out, "i-1", OWN, OTHER, Err(Refusal::PeerNotFound)));
    assert!(out.is_empty());
}

fn outcome() -> impl Strategy<Value = Result<(), Refusal>> {
    prop::sample::select(vec![
        Ok(()),
        Err(Refusal::NoSharedNamespace),
        Err(Refusal::PeerBufferFull),
    ])
}

proptest! {
    #[test]
    fn what_one_node_writes_another_reads(
        relay in any::<bool>(),
        to in prop_oneof![Just(hex("b")), "[^\u{0}]{1,32}"],
        about in prop::option::of("[a-z]{1,9}"),
        payload in prop::option::of(any::<String>()),
        names in prop::collection::vec("\\PC{1,9}", 0..5),
        id in prop::option::of((0..64_u16, 0..1_u64 << 48)),
        ts_ms in any::<u64>(),
    ) {
        let (from, kind) = (Fingerprint::of_key("a"), if relay { DirectKind::Relay } else { DirectKind::Signal });
        let payload = payload.map(|payload| json!({ "x": payload }).to_string());
        let id = id.map(|(loop_id, count)| CommandId::new(LoopId::new(loop_id), count));
        let direct = Direct { kind, from: &from, to: &to, namespace: about.as_deref(), payload: payload.as_deref(), ts_ms, id };
        let mut out = Vec::new();
        push_direct(&mut out, &direct, OTHER, names.iter().map(String::as_str));
        prop_assert!(serde_json::from_slice::<Value>(&out).is_ok());
        prop_assert_eq!(parse(Topic::Direct(kind), &out, OTHER), None);
        let Some(Plain::Direct { kind: k, from: f, to: t, shares, about: a, payload: p, id: i, node_id }) =
            parse(Topic::Direct(kind), &out, OWN)
        else {
            return Err(TestCaseError::fail("not read"));
        };
        prop_assert_eq!((k, f, &*t, a.as_deref(), p.as_deref()), (kind, from, &*to, about.as_deref(), payload.as_deref()));
        let names: Vec<Box<str>> = names.into_iter().map(String::into_boxed_str).collect();
        prop_assert_eq!(shares, Some(names));
        prop_assert_eq!((i.as_deref().and_then(parse_id), &*node_id), (id, OTHER));
    }

    #[test]
    fn an_acknowledgement_finds_its_way_back(
        loop_id in 0..64_u16,
        count in 0..1_u64 << 48,
        outcome in outcome(),
    ) {
        let id = CommandId::new(LoopId::new(loop_id), count);
        let mut text = Vec::new();
        push_id(&mut text, id);
        let mut out = Vec::new();
        prop_assert!(push_ack(&mut out, std::str::from_utf8(&text).unwrap(), OTHER, OWN, outcome));
        prop_assert_eq!(parse(Topic::Ack, &out, OWN), Some(Plain::Ack { id, outcome }));
    }

    #[test]
    fn no_bytes_do_more_than_be_ignored(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in 0..400_usize,
        flips in prop::collection::vec((0..400_usize, any::<u8>()), 0..6),
    ) {
        let mut near = signal().to_string().into_bytes();
        near.truncate(cut);
        for (place, byte) in flips {
            if let Some(there) = near.get_mut(place) {
                *there = byte;
            }
        }
        for topic in Topic::ALL {
            for bytes in [&bytes, &near] {
                if let Some(plain) = parse(topic, bytes, OWN) {
                    prop_assert!(plain.bytes() >= size_of::<Plain>());
                }
            }
        }
    }
}
