//! What nodes without shared state tell each other (peer protocol, section 9).
//!
//! Input: the channel, then a message.
//! Property: what is read is bounded and of that channel, JSON serde_json reads the same in, and written anew it is read as the
//! same by another node and as nothing by the one that wrote it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_server::dialect::fleet::{self, Topic, parse};
use peer_server::ids::Fingerprint;
use peer_server::message::cluster::Plain;
use serde_json::Value;

const OWN: &str = "000102030405060708090a0b0c0d0e0f";
const OTHER: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

fuzz_target!(|input: (u8, &[u8])| {
    let (topic, bytes) = (Topic::ALL[usize::from(input.0) % Topic::ALL.len()], input.1);
    let Some(plain) = parse(topic, bytes, OWN) else { return };
    assert!(plain.bytes() <= 512 + 64 * bytes.len());
    let mut out = Vec::new();
    match &plain {
        Plain::Direct {
            kind,
            from,
            to,
            shares,
            about,
            payload,
            ..
        } => {
            assert_eq!(topic, Topic::Direct(*kind));
            assert!(!to.is_empty() && to.len() <= 128);
            if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
                assert_eq!(value["type"], kind.name());
                assert_eq!(value["to"], to.as_str());
            }
            let direct = fleet::Direct {
                kind: *kind,
                from,
                to,
                namespace: about.as_deref(),
                payload: payload.as_deref(),
                ts_ms: 1,
                id: None,
            };
            let names = shares.iter().flatten().map(|name| &**name);
            fleet::push_direct(&mut out, &direct, OTHER, names);
        }
        Plain::Broadcast {
            from,
            namespace,
            payload,
        } => {
            let _ = fleet::name_of(namespace);
            fleet::push_broadcast(&mut out, from, namespace, payload, 1, OTHER);
        }
        Plain::Ack { .. } => return,
    }
    assert_eq!(parse(topic, &out, OTHER), None);
    let again = parse(topic, &out, OWN).expect("what is written is read");
    assert_eq!(without_origin(again), without_origin(plain));
});

/// The same without what says who sent it, and with the sender's namespaces given.
fn without_origin(plain: Plain) -> Plain {
    match plain {
        Plain::Direct {
            kind,
            from,
            to,
            shares,
            about,
            payload,
            ..
        } => Plain::Direct {
            kind,
            from: Fingerprint::from_bytes(*from.as_bytes()),
            to,
            shares: Some(shares.unwrap_or_default()),
            about,
            payload,
            id: None,
            node_id: "".into(),
        },
        other => other,
    }
}
