//! Messages of the peer protocol, as scenarios write and read them.
//!
//! Owns: their frame out, their envelope in.
//! Never: knows what a payload should say.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::worker::deflate::deflate;
use crate::worker::frames;

/// What a server says.
#[derive(Debug, Deserialize)]
pub struct Message<'a> {
    /// `type`.
    #[serde(rename = "type", default)]
    pub kind: &'a str,
    /// Fingerprint of whom it comes from.
    pub from: Option<&'a str>,
    /// Fingerprint of whom it goes to.
    pub to: Option<&'a str>,
    /// Where it happened.
    pub namespace: Option<&'a str>,
    /// The payload's bytes.
    #[serde(borrow)]
    pub payload: Option<&'a RawValue>,
}

/// A peer in a payload.
#[derive(Debug, Deserialize)]
pub struct Peer<'a> {
    /// Its fingerprint.
    pub fingerprint: &'a str,
}

impl<'a> Message<'a> {
    /// Reads a message; None: it is none, or names need escapes, which those of a run never do.
    pub fn read(text: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The payload as what it should be.
    pub fn payload_as<T: Deserialize<'a>>(&self) -> Option<T> {
        serde_json::from_str(self.payload?.get()).ok()
    }

    /// Whether it refuses for want of room or of patience: what a loaded server may do, as long as it says so.
    pub fn is_refusal(&self) -> bool {
        let payload: Value = self.payload_as().unwrap_or_default();
        self.kind == "error" && matches!(payload["code"].as_u64(), Some(429 | 503))
    }
}

/// A client's frame with `text`.
pub fn frame(text: &str, compressed: bool) -> Vec<u8> {
    let mut out = Vec::new();
    match compressed {
        true => frames::push(&mut out, 1, true, &deflate(text.as_bytes())),
        false => frames::push(&mut out, 1, false, text.as_bytes()),
    };
    out
}

/// For a failure's text.
pub fn show(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_envelope_is_read_and_its_payload_kept_as_it_is() {
        let message = Message::read(br#"{"type":"signal","from":"a","payload":{"n": 1.0},"ts":1}"#).unwrap();
        assert_eq!((message.kind, message.from), ("signal", Some("a")));
        assert_eq!(message.payload.unwrap().get(), r#"{"n": 1.0}"#);
        assert!(!message.is_refusal());
        let refused = Message::read(br#"{"type":"error","payload":{"code":429,"message":"rate limited"}}"#).unwrap();
        assert!(refused.is_refusal());
        assert!(Message::read(b"[]").is_none());
    }
}
