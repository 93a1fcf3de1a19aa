//! From a text to a peer as others are shown it.
//!
//! Owns: what a server reads of the infos that it, or another one, wrote. Never: believes that one of ours wrote them.

use serde::Deserialize;

use crate::codec::json::{self, Kind};
use crate::ids::Fingerprint;
use crate::message::{ALIAS_MAX, APP_TYPE_MAX, META_MAX, PeerInfo};

use super::metadata;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields<'a> {
    fingerprint: &'a str,
    alias: &'a str,
    app_type: &'a str,
}

/// Reads what [`super::push_peer_info`] writes. None: no server of ours can have written that.
pub fn read_peer_info(text: &str, scratch: &mut Vec<u8>) -> Option<PeerInfo> {
    json::scan_envelope(text).ok()?;
    let [meta] = json::members(text, &["meta"])?;
    if meta.is_some_and(|meta| json::kind_of(meta) != Kind::Object) {
        return None;
    }
    let fields: Fields<'_> = json::read_body(text, &["fingerprint", "alias", "app_type"], scratch).ok()?;
    if fields.alias.len() > ALIAS_MAX || fields.app_type.len() > APP_TYPE_MAX {
        return None;
    }
    let members = meta.and_then(json::entries).into_iter().flatten();
    Some(PeerInfo {
        fingerprint: Fingerprint::parse(fields.fingerprint)?,
        alias: fields.alias.into(),
        app_type: fields.app_type.into(),
        // A join's is laid over the peer's own.
        meta: metadata::read_at_most(2 * META_MAX, members).ok()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::push_peer_info;
    use super::*;
    use crate::message::Meta;

    #[test]
    fn a_peer_is_read_as_it_was_written_and_nothing_else_is() {
        let mut meta = Meta::default();
        meta.set("\"a\"", &format!("\"{}\"", "x".repeat(META_MAX)));
        let peer = PeerInfo {
            fingerprint: Fingerprint::of_key("k"),
            alias: "q\"\u{e4}".into(),
            app_type: "t".into(),
            meta,
        };
        let mut text = Vec::new();
        push_peer_info(&mut text, &peer);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(read_peer_info(&text, &mut Vec::new()), Some(peer));
        let bare = |more: &str| format!("{{\"fingerprint\":\"{}\"{more}}}", "0".repeat(64));
        assert!(read_peer_info(&bare(""), &mut Vec::new()).is_some());
        let long = format!(",\"alias\":\"{}\"", "x".repeat(ALIAS_MAX + 1));
        let large = format!(",\"meta\":{{\"a\":\"{}\"}}", "x".repeat(2 * META_MAX));
        for more in [&*long, &large, ",\"meta\":[]", ",\"app_type\":1", ",", "}"] {
            assert_eq!(read_peer_info(&bare(more), &mut Vec::new()), None, "{more}");
        }
        for text in ["", "null", "[]", "{}", "{\"fingerprint\":\"0\"}"] {
            assert_eq!(read_peer_info(text, &mut Vec::new()), None, "{text}");
        }
    }
}
