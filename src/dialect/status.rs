//! Bodies of the status pages: `/health`, `/stats`, `/readyz` (peer protocol, section 7).
//!
//! Owns: their JSON.
//! Never: gathers what they say.

use std::sync::Arc;

use crate::codec::json::{push_string, push_u64};

/// The content type of these pages.
pub const JSON: &str = "application/json";

/// Figures by name, in groups.
pub type Figures<'a> = &'a [(&'a str, &'a [(&'a str, u64)])];

/// Appends the body of `/health`: registered peers, how many may be, Unix seconds; `udp`, if any datagram came yet.
pub fn push_health(out: &mut Vec<u8>, peers: usize, max_peers: usize, unix_seconds: u64, udp: Option<Figures<'_>>) {
    out.extend_from_slice(br#"{"status":"ok","peers":"#);
    push_u64(out, peers as u64);
    out.extend_from_slice(br#","max_peers":"#);
    push_u64(out, max_peers as u64);
    out.extend_from_slice(br#","timestamp":"#);
    push_u64(out, unix_seconds);
    if let Some(groups) = udp {
        out.extend_from_slice(br#","udp":"#);
        push_object(out, groups, |out, group| {
            push_object(out, group, |out, value| push_u64(out, *value))
        });
    }
    out.push(b'}');
}

fn push_object<T>(out: &mut Vec<u8>, members: &[(&str, T)], push: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'{');
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_string(out, name);
        out.push(b':');
        push(out, value);
    }
    out.push(b'}');
}

/// Appends the body of `/stats`.
pub fn push_stats(out: &mut Vec<u8>, peers: usize, max_peers: usize, namespaces: &[(Arc<str>, u32)], shard_count: u32) {
    out.extend_from_slice(br#"{"total_peers":"#);
    push_u64(out, peers as u64);
    out.extend_from_slice(br#","max_peers":"#);
    push_u64(out, max_peers as u64);
    out.extend_from_slice(br#","namespaces":{"#);
    for (index, (name, members)) in namespaces.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_string(out, name);
        out.push(b':');
        push_u64(out, u64::from(*members));
    }
    out.extend_from_slice(br#"},"shards":"#);
    push_u64(out, u64::from(shard_count));
    out.push(b'}');
}

/// Appends the body of `/readyz`.
pub fn push_ready(out: &mut Vec<u8>, ready: bool) {
    let body: &[u8] = match ready {
        true => br#"{"ready":true,"broker":"local"}"#,
        false => br#"{"ready":false,"broker":"local"}"#,
    };
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bodies_are_the_json_that_is_promised() {
        let mut out = Vec::new();
        push_health(&mut out, 1, 7, 1_700_000_000, None);
        let expected = r#"{"status":"ok","peers":1,"max_peers":7,"timestamp":1700000000}"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        let udp: Figures<'_> = &[("received", &[("stun", 2), ("unknown", 1)]), ("sessions", &[])];
        push_health(&mut out, 1, 7, 1_700_000_000, Some(udp));
        let expected = expected.replace('}', r#","udp":{"received":{"stun":2,"unknown":1},"sessions":{}}}"#);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        push_stats(&mut out, 3, 7, &[("x\"y".into(), 2), ("z".into(), 1)], 64);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let expected = serde_json::json!({
            "total_peers": 3, "max_peers": 7, "namespaces": {"x\"y": 2, "z": 1}, "shards": 64
        });
        assert_eq!(value, expected);
    }
}
