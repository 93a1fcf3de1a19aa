//! From what is told to a text.
//!
//! Owns: the spelling of every message that the server sends.
//! Never: makes a frame, uses the formatting machinery, or allocates beyond the growth of the buffer it appends to.

use crate::codec::json;
use crate::ids::Fingerprint;
use crate::message::{DirectKind, Event, Matched, Meta, PeerInfo, Refusal};

/// A signal or relay on its way to one peer.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// Which of the two.
    pub kind: DirectKind,
    /// Who sent it.
    pub from: &'a Fingerprint,
    /// Who gets it.
    pub to: &'a Fingerprint,
    /// A namespace that both are in, as raw characters between the quotes.
    pub namespace: Option<&'a str>,
    /// The payload as sent.
    pub payload: Option<&'a str>,
    /// Unix time in milliseconds.
    pub ts_ms: u64,
}

/// Appends a forward.
pub fn push_forward(out: &mut Vec<u8>, forward: &Forward<'_>) {
    out.reserve(forward_len(forward));
    put(out, TYPE);
    put(out, forward.kind.name());
    put(out, FROM);
    out.extend_from_slice(&forward.from.hex());
    put(out, TO);
    out.extend_from_slice(&forward.to.hex());
    if let Some(namespace) = forward.namespace {
        put(out, NAMESPACE);
        put(out, namespace);
    }
    put(out, "\"");
    if let Some(payload) = forward.payload {
        put(out, PAYLOAD);
        put(out, payload);
    }
    push_ts(out, forward.ts_ms);
}

/// Exactly the bytes that [`push_forward`] appends.
pub fn forward_len(forward: &Forward<'_>) -> usize {
    let namespace = forward
        .namespace
        .map_or(0, |namespace| NAMESPACE.len() + namespace.len());
    let payload = forward.payload.map_or(0, |payload| PAYLOAD.len() + payload.len());
    let ends = TYPE.len() + forward.kind.name().len() + FROM.len() + TO.len() + 2 * Fingerprint::HEX_LEN + "\"".len();
    ends + namespace + payload + ts_len(forward.ts_ms)
}

/// Appends a broadcast; `namespace` as raw characters between the quotes, `payload` as sent.
pub fn push_broadcast(out: &mut Vec<u8>, from: &Fingerprint, namespace: &str, payload: &str, ts_ms: u64) {
    out.reserve(broadcast_len(namespace, payload, ts_ms));
    put(out, BROADCAST);
    out.extend_from_slice(&from.hex());
    put(out, NAMESPACE);
    put(out, namespace);
    put(out, "\"");
    put(out, PAYLOAD);
    put(out, payload);
    push_ts(out, ts_ms);
}

/// Exactly the bytes that [`push_broadcast`] appends.
pub fn broadcast_len(namespace: &str, payload: &str, ts_ms: u64) -> usize {
    let names = BROADCAST.len() + NAMESPACE.len() + "\"".len() + PAYLOAD.len();
    names + Fingerprint::HEX_LEN + namespace.len() + payload.len() + ts_len(ts_ms)
}

fn push_ts(out: &mut Vec<u8>, ts_ms: u64) {
    put(out, TS);
    json::push_u64(out, ts_ms);
    put(out, "}");
}

fn ts_len(ts_ms: u64) -> usize {
    let digits = match ts_ms {
        1_000_000_000_000..10_000_000_000_000 => 13, // from 2001 to 2286
        _ => ts_ms.checked_ilog10().map_or(1, |log| log as usize + 1),
    };
    TS.len() + digits + "}".len()
}

/// Appends the answer to a ping.
pub fn push_pong(out: &mut Vec<u8>) {
    put(out, r#"{"type":"pong"}"#);
}

/// Appends an error.
pub fn push_error(out: &mut Vec<u8>, refusal: Refusal) {
    put(out, r#"{"type":"error","payload":{"code":"#);
    json::push_u64(out, u64::from(refusal.code()));
    put(out, r#","message":""#);
    match refusal {
        Refusal::SendBufferFullFor(peers) => {
            put(out, "send buffer full for ");
            json::push_u64(out, u64::from(peers));
            put(out, " peers");
        }
        // The texts are ours and hold nothing to escape.
        other => put(out, other.text()),
    }
    put(out, r#""}}"#);
}

/// Appends what the server itself tells. A peer list ends before the peer that would make the text longer than
/// `list_bytes_max` bytes, its total stays true; nothing else is ever cut.
pub fn push_event(out: &mut Vec<u8>, event: &Event, list_bytes_max: usize) {
    match event {
        Event::Registered { fingerprint, alias } => {
            put(out, r#"{"type":"registered","from":"#);
            push_fingerprint(out, fingerprint);
            put(out, r#","payload":{"fingerprint":"#);
            push_fingerprint(out, fingerprint);
            put(out, r#","alias":"#);
            json::push_string(out, alias);
            put(out, "}}");
        }
        Event::PeerList {
            namespace,
            peers,
            total,
        } => {
            let text_start = out.len();
            put(out, r#"{"type":"peer_list","payload":{"namespace":"#);
            json::push_string(out, namespace);
            put(out, r#","peers":["#);
            let tail_len = r#"],"total":}}"#.len() + total.checked_ilog10().map_or(1, |log| log as usize + 1);
            push_peers(
                out,
                peers.iter().map(|peer| &**peer),
                text_start.saturating_add(list_bytes_max.saturating_sub(tail_len)),
            );
            put(out, r#"],"total":"#);
            json::push_u64(out, u64::from(*total));
            put(out, "}}");
        }
        Event::PeerJoined { namespace, peer } => {
            put(out, r#"{"type":"peer_joined","from":"#);
            push_fingerprint(out, &peer.fingerprint);
            put(out, r#","namespace":"#);
            json::push_string(out, namespace);
            put(out, PAYLOAD);
            push_peer_info(out, peer);
            put(out, "}");
        }
        Event::PeerLeft { namespace, fingerprint } => {
            put(out, r#"{"type":"peer_left","from":"#);
            push_fingerprint(out, fingerprint);
            put(out, r#","namespace":"#);
            json::push_string(out, namespace);
            put(out, "}");
        }
        Event::MatchWaiting => put(out, r#"{"type":"match","payload":{"status":"waiting"}}"#),
        Event::Matched(matched) => push_matched(out, matched),
        Event::RoomCreated { room, max_size, owner } => {
            put(out, r#"{"type":"room_created","payload":{"room_id":"#);
            json::push_string(out, room);
            push_room_rest(out, *max_size, owner);
        }
        Event::RoomInfo {
            room,
            peer_count,
            max_size,
            owner,
        } => {
            put(out, r#"{"type":"room_info","payload":{"room_id":"#);
            json::push_string(out, room);
            put(out, r#","peer_count":"#);
            json::push_u64(out, u64::from(*peer_count));
            push_room_rest(out, *max_size, owner);
        }
        Event::Kicked { room, owner, target } => {
            put(out, r#"{"type":"kick","from":"#);
            push_fingerprint(out, owner);
            put(out, r#","payload":{"room_id":"#);
            json::push_string(out, room);
            put(out, r#","fingerprint":"#);
            push_fingerprint(out, target);
            put(out, "}}");
        }
        Event::Error(refusal) => push_error(out, *refusal),
    }
}

fn push_matched(out: &mut Vec<u8>, matched: &Matched) {
    put(out, r#"{"type":"matched","namespace":"#);
    json::push_string(out, &matched.namespace);
    put(out, r#","payload":{"namespace":"#);
    json::push_string(out, &matched.namespace);
    put(out, r#","session_id":""#);
    for byte in matched.session {
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    put(out, r#"","peers":["#);
    push_peers(out, matched.peers.iter().map(|peer| &**peer), usize::MAX);
    put(out, "]}}");
}

fn push_room_rest(out: &mut Vec<u8>, max_size: u32, owner: &Fingerprint) {
    put(out, r#","max_size":"#);
    json::push_u64(out, u64::from(max_size));
    put(out, r#","owner":"#);
    push_fingerprint(out, owner);
    put(out, "}}");
}

/// Appends peers with commas between them, up to the first that would make `out` longer than `out_bytes_max`.
fn push_peers<'a>(out: &mut Vec<u8>, peers: impl Iterator<Item = &'a PeerInfo>, out_bytes_max: usize) {
    for (place, peer) in peers.enumerate() {
        let before = out.len();
        if place > 0 {
            put(out, ",");
        }
        push_peer_info(out, peer);
        if out.len() > out_bytes_max {
            out.truncate(before);
            return;
        }
    }
}

/// Appends a peer as others are shown it, as in a peer list. [`super::read_peer_info`] reads it.
pub fn push_peer_info(out: &mut Vec<u8>, peer: &PeerInfo) {
    put(out, r#"{"fingerprint":"#);
    push_fingerprint(out, &peer.fingerprint);
    put(out, r#","alias":"#);
    json::push_string(out, &peer.alias);
    if !peer.app_type.is_empty() {
        put(out, r#","app_type":"#);
        json::push_string(out, &peer.app_type);
    }
    if !peer.meta.is_empty() {
        put(out, r#","meta":"#);
        push_meta(out, &peer.meta);
    }
    put(out, "}");
}

fn push_meta(out: &mut Vec<u8>, meta: &Meta) {
    put(out, "{");
    for (place, (name, value)) in meta.entries().enumerate() {
        if place > 0 {
            put(out, ",");
        }
        put(out, name);
        put(out, ":");
        put(out, value);
    }
    put(out, "}");
}

fn push_fingerprint(out: &mut Vec<u8>, fingerprint: &Fingerprint) {
    put(out, "\"");
    out.extend_from_slice(&fingerprint.hex());
    put(out, "\"");
}

#[inline]
fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

const TYPE: &str = r#"{"type":""#;
const BROADCAST: &str = r#"{"type":"broadcast","from":""#;
const FROM: &str = r#"","from":""#;
const TO: &str = r#"","to":""#;
const NAMESPACE: &str = r#"","namespace":""#;
const PAYLOAD: &str = r#","payload":"#;
const TS: &str = r#","ts":"#;
const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::dialect::peer::{Incoming, parse};

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b">".to_vec();
        write(&mut out);
        String::from_utf8(out.split_off(1)).unwrap()
    }

    fn told(event: &Event) -> Value {
        serde_json::from_str(&written(|out| push_event(out, event, 262_144))).unwrap()
    }

    fn hex(fingerprint: &Fingerprint) -> String {
        String::from_utf8(fingerprint.hex().to_vec()).unwrap()
    }

    fn peer(key: &str) -> PeerInfo {
        let fingerprint = Fingerprint::of_key(key);
        PeerInfo {
            fingerprint,
            alias: key.into(),
            app_type: "".into(),
            meta: Meta::default(),
        }
    }

    #[test]
    fn forwards_are_spelled_as_specified() {
        let [from, to] = [Fingerprint::of_key("a"), Fingerprint::of_key("b")];
        let mut forward = Forward {
            kind: DirectKind::Signal,
            from: &from,
            to: &to,
            namespace: None,
            payload: None,
            ts_ms: 0,
        };
        let [a, b] = [hex(&from), hex(&to)];
        let text = written(|out| push_forward(out, &forward));
        assert_eq!(text, format!(r#"{{"type":"signal","from":"{a}","to":"{b}","ts":0}}"#));
        assert_eq!(text.len(), forward_len(&forward));
        forward = Forward {
            kind: DirectKind::Relay,
            namespace: Some(r"\u0041"),
            payload: Some("[ 1.0 ]"),
            ts_ms: 1_767_225_600_123,
            ..forward
        };
        let text = written(|out| push_forward(out, &forward));
        let expected = format!(
            r#"{{"type":"relay","from":"{a}","to":"{b}","namespace":"\u0041","payload":[ 1.0 ],"ts":1767225600123}}"#
        );
        assert_eq!(text, expected);
        assert_eq!(text.len(), forward_len(&forward));
    }

    #[test]
    fn a_broadcast_is_spelled_as_specified() {
        let from = Fingerprint::of_key("a");
        for ts_ms in [0, 9, 10, 1_767_225_600_123, u64::MAX] {
            let text = written(|out| push_broadcast(out, &from, r"x\n", r#"{"namespace":"x\n" }"#, ts_ms));
            let a = hex(&from);
            let expected = format!(
                r#"{{"type":"broadcast","from":"{a}","namespace":"x\n","payload":{{"namespace":"x\n" }},"ts":{ts_ms}}}"#
            );
            assert_eq!(text, expected);
            assert_eq!(text.len(), broadcast_len(r"x\n", r#"{"namespace":"x\n" }"#, ts_ms));
        }
    }

    #[test]
    fn pong_and_errors_are_spelled_as_specified() {
        assert_eq!(written(push_pong), r#"{"type":"pong"}"#);
        let error = |refusal: Refusal| told(&Event::Error(refusal));
        let expected =
            |code: u16, message: &str| json!({"type": "error", "payload": {"code": code, "message": message}});
        assert_eq!(error(Refusal::PeerNotFound), expected(404, "peer not found"));
        assert_eq!(error(Refusal::ServerFull), expected(503, "server full"));
        assert_eq!(
            error(Refusal::SendBufferFullFor(12)),
            expected(429, "send buffer full for 12 peers")
        );
        assert_eq!(
            error(Refusal::KickFieldsRequired),
            expected(400, "room_id and fingerprint required")
        );
    }

    #[test]
    fn what_the_server_tells_of_one_peer() {
        let mut who = peer("a\"b");
        let fp = hex(&who.fingerprint);
        let registered = Event::Registered {
            fingerprint: who.fingerprint,
            alias: "a\"b".into(),
        };
        let expected = json!({"type": "registered", "from": fp, "payload": {"fingerprint": fp, "alias": "a\"b"}});
        assert_eq!(told(&registered), expected);

        let joined = |who: &PeerInfo| {
            told(&Event::PeerJoined {
                namespace: "x\n".into(),
                peer: Arc::new(who.clone()),
            })
        };
        let shown = json!({"fingerprint": fp, "alias": "a\"b"});
        let expected = json!({"type": "peer_joined", "from": fp, "namespace": "x\n", "payload": shown});
        assert_eq!(joined(&who), expected);
        who.app_type = "t\\".into();
        who.meta.set(r#""k\n""#, "1.0");
        who.meta.set(r#""l""#, "null");
        let shown = json!({"fingerprint": fp, "alias": "a\"b", "app_type": "t\\", "meta": {"k\n": 1.0, "l": null}});
        let expected = json!({"type": "peer_joined", "from": fp, "namespace": "x\n", "payload": shown});
        assert_eq!(joined(&who), expected);

        let left = Event::PeerLeft {
            namespace: "x".into(),
            fingerprint: who.fingerprint,
        };
        assert_eq!(told(&left), json!({"type": "peer_left", "from": fp, "namespace": "x"}));
    }

    #[test]
    fn what_the_server_tells_of_rooms_and_matches() {
        let [a, b] = [peer("a"), peer("b")];
        let [fp_a, fp_b] = [hex(&a.fingerprint), hex(&b.fingerprint)];
        let created = Event::RoomCreated {
            room: "r\"".into(),
            max_size: 20,
            owner: a.fingerprint,
        };
        let payload = json!({"room_id": "r\"", "max_size": 20, "owner": fp_a});
        assert_eq!(told(&created), json!({"type": "room_created", "payload": payload}));
        let info = Event::RoomInfo {
            room: "r".into(),
            peer_count: 3,
            max_size: 30,
            owner: a.fingerprint,
        };
        let payload = json!({"room_id": "r", "peer_count": 3, "max_size": 30, "owner": fp_a});
        assert_eq!(told(&info), json!({"type": "room_info", "payload": payload}));
        let kicked = Event::Kicked {
            room: "r".into(),
            owner: a.fingerprint,
            target: b.fingerprint,
        };
        let payload = json!({"room_id": "r", "fingerprint": fp_b});
        assert_eq!(told(&kicked), json!({"type": "kick", "from": fp_a, "payload": payload}));

        assert_eq!(
            told(&Event::MatchWaiting),
            json!({"type": "match", "payload": {"status": "waiting"}})
        );
        let mut session = [0; 16];
        session[0] = 0x0f;
        session[15] = 0xa0;
        let matched = Matched {
            namespace: "q\"".into(),
            session,
            peers: vec![Arc::new(a), Arc::new(b)],
        };
        let peers = json!([{"fingerprint": fp_a, "alias": "a"}, {"fingerprint": fp_b, "alias": "b"}]);
        let session = "0f0000000000000000000000000000a0";
        let payload = json!({"namespace": "q\"", "session_id": session, "peers": peers});
        let event = Event::Matched(Arc::new(matched));
        let expected = json!({"type": "matched", "namespace": "q\"", "payload": payload});
        assert_eq!(told(&event), expected);
        // No limit cuts a group.
        assert_eq!(
            serde_json::from_str::<Value>(&written(|out| push_event(out, &event, 0))).unwrap(),
            expected
        );
    }

    #[test]
    fn a_peer_list_ends_before_its_limit_and_keeps_its_total() {
        let peers: Vec<_> = (10..30).map(|i| Arc::new(peer(&i.to_string()))).collect();
        let event = Event::PeerList {
            namespace: "x\"".into(),
            peers,
            total: 12_345,
        };
        let list = |bytes_max: usize| written(|out| push_event(out, &event, bytes_max));
        let whole = list(usize::MAX);
        let mut shown = 20;
        for bytes_max in (0..=whole.len()).rev() {
            let text = list(bytes_max);
            let value: Value = serde_json::from_str(&text).unwrap();
            let payload = &value["payload"];
            let count = payload["peers"].as_array().unwrap().len();
            assert!(text.len() <= bytes_max || count == 0);
            assert_eq!(
                (&payload["namespace"], &payload["total"]),
                (&json!("x\""), &json!(12_345))
            );
            assert!(
                count == shown || count + 1 == shown,
                "{bytes_max}: {count} after {shown}"
            );
            shown = count;
        }
        assert_eq!(shown, 0);
        assert_eq!(list(whole.len()), whole);
        let first = &serde_json::from_str::<Value>(&whole).unwrap()["payload"]["peers"][0];
        assert_eq!(
            *first,
            json!({"fingerprint": hex(&Fingerprint::of_key("10")), "alias": "10"})
        );
        assert_eq!(
            serde_json::from_str::<Value>(&whole)
                .unwrap()
                .as_object()
                .unwrap()
                .len(),
            2
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let number = prop_oneof![any::<i64>().prop_map(Value::from), any::<u64>().prop_map(Value::from)];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            number,
            any::<String>().prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6).prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_forward_is_json_and_its_payload_the_bytes_sent(
            value in any_json(),
            pretty in any::<bool>(),
            namespace in prop::option::of(any::<String>()),
            ts_ms in any::<u64>(),
        ) {
            let spell = if pretty { serde_json::to_string_pretty } else { serde_json::to_string };
            let payload = spell(&value).unwrap();
            let mut sent = format!(r#"{{"type":"relay","to":"b","payload":{payload}"#);
            if let Some(namespace) = &namespace {
                sent += &format!(r#","namespace":{}"#, serde_json::to_string(namespace).unwrap());
            }
            sent += "}";
            let mut scratch = Vec::new();
            let Ok(Incoming::Direct { kind, namespace: raw, payload: found, .. }) = parse(&sent, &mut scratch) else {
                panic!("{sent}")
            };
            let [from, to] = [Fingerprint::of_key("a"), Fingerprint::of_key("b")];
            let raw = raw.map(|raw| raw.raw());
            let forward = Forward { kind, from: &from, to: &to, namespace: raw, payload: found, ts_ms };
            let text = written(|out| push_forward(out, &forward));
            prop_assert_eq!(text.len(), forward_len(&forward));

            #[derive(serde::Deserialize)]
            struct Delivered<'a> {
                namespace: Option<String>,
                #[serde(borrow)]
                payload: Option<&'a serde_json::value::RawValue>,
                ts: u64,
            }
            let delivered: Delivered<'_> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(delivered.namespace, namespace);
            prop_assert_eq!(delivered.ts, ts_ms);
            let expected = (!value.is_null()).then_some(payload.as_str());
            prop_assert_eq!(delivered.payload.map(|raw| raw.get()), expected);
        }

        #[test]
        fn every_name_is_told_as_it_is(name in any::<String>(), alias in any::<String>(), app_type in any::<String>()) {
            let who = PeerInfo { alias: alias.as_str().into(), app_type: app_type.as_str().into(), ..peer("a") };
            let event = Event::PeerList { namespace: name.as_str().into(), peers: vec![Arc::new(who)], total: 1 };
            let payload = &told(&event)["payload"];
            prop_assert_eq!(&payload["namespace"], &json!(name));
            prop_assert_eq!(&payload["peers"][0]["alias"], &json!(alias));
            prop_assert_eq!(payload["peers"][0]["app_type"].as_str().unwrap_or(""), app_type);
        }
    }
}
