//! Messages of the peer protocol, before and after registration.
//!
//! Input: a text.
//! Property: what is understood keeps the limits of the protocol, and what is passed on is JSON with the payload as it was sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_server::codec::json::{RawString, push_string, scan_envelope};
use peer_server::dialect::peer::{self, Forward, Incoming, Target};
use peer_server::ids::Fingerprint;
use peer_server::message::{
    ALIAS_MAX, APP_TYPE_MAX, GROUP_MAX, LIST_MAX, META_MAX, Meta, NAME_MAX, ROOM_MAX, Refusal, Request,
};
use serde_json::Value;

fuzz_target!(|text: &str| {
    let mut scratch = b"left by another message".to_vec();
    match peer::parse(text, &mut scratch) {
        Ok(Incoming::Ping | Incoming::IceServers) => {}
        Ok(Incoming::Direct {
            kind,
            to,
            namespace,
            payload,
        }) => {
            if let Target::Alias(alias) = &to {
                assert!(alias.len() <= ALIAS_MAX && Fingerprint::parse(alias).is_none());
            }
            let (from, to) = (Fingerprint::of_key("from"), Fingerprint::of_key("to"));
            let namespace = namespace.map(RawString::raw);
            let forward = Forward {
                kind,
                from: &from,
                to: &to,
                namespace,
                payload,
                ts_ms: 1_767_225_600_000,
            };
            let mut out = Vec::new();
            peer::push_forward(&mut out, &forward);
            assert_eq!(out.len(), peer::forward_len(&forward));
            passed_on(&out, kind.name(), payload);
        }
        Ok(Incoming::Broadcast {
            namespace,
            exclude,
            payload,
        }) => {
            assert!(!namespace.raw().is_empty());
            if let Some(exclude) = exclude {
                peer::excluded(exclude, |entry| assert!(entry.len() <= text.len()));
            }
            let mut out = Vec::new();
            peer::push_broadcast(&mut out, &Fingerprint::of_key("from"), namespace.raw(), payload, 0);
            assert_eq!(out.len(), peer::broadcast_len(namespace.raw(), payload, 0));
            passed_on(&out, "broadcast", Some(payload));
        }
        Ok(Incoming::Request(request)) => check_request(&request),
        Err(refusal) => check_refusal(refusal),
    }
    match peer::parse_register(text, &mut scratch) {
        Ok(register) => {
            assert!(register.alias.len() <= ALIAS_MAX);
            check_meta(&register.meta);
        }
        Err((refusal, reason)) => {
            check_refusal(refusal);
            // RFC 6455 section 5.5: a control frame holds 125 bytes, two of them the code.
            assert!(reason.len() <= 123);
        }
    }
});

fn passed_on(out: &[u8], kind: &str, payload: Option<&str>) {
    let text = std::str::from_utf8(out).expect("text stays text");
    let envelope = scan_envelope(text).expect("what is passed on is an envelope");
    assert!(envelope.kind.is_some_and(|own| own.is(kind)));
    // An explicit null is passed on as it was sent, and reads as absent.
    assert_eq!(envelope.payload, payload.filter(|payload| *payload != "null"));
}

fn check_request(request: &Request<'_>) {
    let name = |name: &str, max: usize| assert!(!name.is_empty() && name.len() <= max, "{request:?}");
    match request {
        Request::Join {
            namespace,
            app_type,
            meta,
        } => {
            name(namespace, NAME_MAX);
            assert!(app_type.len() <= APP_TYPE_MAX);
            check_meta(meta);
        }
        Request::Discover { limit, .. } => assert!((1..=LIST_MAX).contains(limit)),
        Request::Match { group_size, .. } => assert!((2..=GROUP_MAX).contains(group_size)),
        Request::CreateRoom { room, max_size } => {
            name(room, NAME_MAX);
            assert!((1..=ROOM_MAX).contains(max_size));
        }
        Request::Metadata { update } => check_meta(update),
        Request::Leave { namespace: room } | Request::JoinRoom { room } | Request::RoomInfo { room } => {
            assert!(!room.is_empty());
        }
        Request::Kick { room, .. } => assert!(!room.is_empty()),
    }
}

/// Its members make an object of the promised length, and no name is there twice.
fn check_meta(meta: &Meta) {
    let members: Vec<String> = meta.entries().map(|(name, value)| format!("{name}:{value}")).collect();
    let text = format!("{{{}}}", members.join(","));
    assert_eq!(text.len(), meta.json_len());
    assert!(text.len() <= META_MAX);
    scan_envelope(&format!(r#"{{"payload":{text}}}"#)).expect("metadata is JSON");
    if let Ok(Value::Object(object)) = serde_json::from_str::<Value>(&text) {
        assert_eq!(object.len(), members.len());
    }
}

fn check_refusal(refusal: Refusal) {
    let (mut out, mut quoted) = (Vec::new(), Vec::new());
    peer::push_error(&mut out, refusal);
    let json: Value = serde_json::from_slice(&out).expect("an error is JSON");
    assert_eq!(json["payload"]["code"], refusal.code());
    push_string(&mut quoted, refusal.text());
    assert_eq!(quoted.len(), refusal.text().len() + 2, "our texts need no escapes");
}
