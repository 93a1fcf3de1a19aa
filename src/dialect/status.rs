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

/// How it stands with the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker {
    /// There is none: this node is alone.
    Local,
    /// It is there.
    Up,
    /// It is lost.
    Down,
}

/// What a node of several says of itself and the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its id.
    pub node: String,
    /// What kind of broker it has.
    pub broker: &'static str,
    /// That is there.
    pub up: bool,
    /// Known if the nodes share their state.
    pub fleet: Option<Fleet>,
    /// Bytes that wait for the broker.
    pub queue_bytes: u64,
}

/// All nodes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// Those that are alive.
    pub nodes: u64,
    /// Peers that are registered on them.
    pub peers: u64,
    /// Since this node's lease was renewed; None: it has none.
    pub lease_age_ms: Option<u64>,
    /// What the last renewal took.
    pub round_trip_us: u64,
}

/// Appends the body of `/health`: registered peers, how many may be, Unix seconds; `udp`, if any datagram came yet; `cluster`,
/// if this node is one of several.
pub fn push_health(
    out: &mut Vec<u8>,
    peers: usize,
    max_peers: usize,
    unix_seconds: u64,
    udp: Option<Figures<'_>>,
    cluster: Option<&Cluster>,
) {
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
    if let Some(cluster) = cluster {
        push_cluster(out, cluster);
    }
    out.push(b'}');
}

fn push_cluster(out: &mut Vec<u8>, cluster: &Cluster) {
    out.extend_from_slice(br#","cluster":{"node":"#);
    push_string(out, &cluster.node);
    out.extend_from_slice(br#","broker":"#);
    push_string(out, cluster.broker);
    out.extend_from_slice(br#","up":"#);
    out.extend_from_slice(if cluster.up { b"true" } else { b"false" });
    if let Some(fleet) = &cluster.fleet {
        out.extend_from_slice(br#","nodes":"#);
        push_u64(out, fleet.nodes);
        out.extend_from_slice(br#","peers":"#);
        push_u64(out, fleet.peers);
        out.extend_from_slice(br#","lease_age_ms":"#);
        match fleet.lease_age_ms {
            Some(age) => push_u64(out, age),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(br#","round_trip_us":"#);
        push_u64(out, fleet.round_trip_us);
    }
    out.extend_from_slice(br#","queue_bytes":"#);
    push_u64(out, cluster.queue_bytes);
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

/// Appends the body of `/stats`. `fleet_peers`: those of all nodes, this one's `peers` included, if they are known.
pub fn push_stats(
    out: &mut Vec<u8>,
    peers: usize,
    fleet_peers: Option<u64>,
    max_peers: usize,
    namespaces: &[(Arc<str>, u32)],
    shard_count: u32,
) {
    out.extend_from_slice(br#"{"total_peers":"#);
    push_u64(out, fleet_peers.unwrap_or(peers as u64));
    if fleet_peers.is_some() {
        out.extend_from_slice(br#","node_peers":"#);
        push_u64(out, peers as u64);
    }
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
pub fn push_ready(out: &mut Vec<u8>, ready: bool, broker: Broker) {
    out.extend_from_slice(match ready {
        true => br#"{"ready":true,"broker":""#,
        false => br#"{"ready":false,"broker":""#,
    });
    out.extend_from_slice(match broker {
        Broker::Local => b"local",
        Broker::Up => b"up",
        Broker::Down => b"down",
    });
    out.extend_from_slice(br#""}"#);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bodies_are_the_json_that_is_promised() {
        let mut out = Vec::new();
        push_health(&mut out, 1, 7, 1_700_000_000, None, None);
        let expected = r#"{"status":"ok","peers":1,"max_peers":7,"timestamp":1700000000}"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        let udp: Figures<'_> = &[("received", &[("stun", 2), ("unknown", 1)]), ("sessions", &[])];
        push_health(&mut out, 1, 7, 1_700_000_000, Some(udp), None);
        let expected = expected.replace('}', r#","udp":{"received":{"stun":2,"unknown":1},"sessions":{}}}"#);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        push_stats(&mut out, 3, None, 7, &[("x\"y".into(), 2), ("z".into(), 1)], 64);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let expected = serde_json::json!({
            "total_peers": 3, "max_peers": 7, "namespaces": {"x\"y": 2, "z": 1}, "shards": 64
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_node_of_several_says_more() {
        let mut cluster = Cluster {
            node: "ab".into(),
            broker: "redis",
            up: true,
            fleet: Some(Fleet {
                nodes: 3,
                peers: 250,
                lease_age_ms: Some(12),
                round_trip_us: 345,
            }),
            queue_bytes: 6,
        };
        let health = |cluster: &Cluster| {
            let mut out = Vec::new();
            push_health(&mut out, 1, 7, 1_700_000_000, None, Some(cluster));
            String::from_utf8(out).unwrap()
        };
        let before =
            r#"{"status":"ok","peers":1,"max_peers":7,"timestamp":1700000000,"cluster":{"node":"ab","broker":"redis""#;
        let whole = r#","up":true,"nodes":3,"peers":250,"lease_age_ms":12,"round_trip_us":345,"queue_bytes":6}}"#;
        assert_eq!(health(&cluster), format!("{before}{whole}"));
        let fleet = cluster.fleet.as_mut().unwrap();
        fleet.lease_age_ms = None;
        assert!(health(&cluster).contains(r#""lease_age_ms":null,"#));
        (cluster.up, cluster.fleet) = (false, None);
        assert_eq!(health(&cluster), format!(r#"{before},"up":false,"queue_bytes":6}}}}"#));

        let mut out = Vec::new();
        push_stats(&mut out, 3, Some(9), 7, &[], 64);
        let expected = r#"{"total_peers":9,"node_peers":3,"max_peers":7,"namespaces":{},"shards":64}"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);

        for (ready, broker, expected) in [
            (true, Broker::Local, r#"{"ready":true,"broker":"local"}"#),
            (true, Broker::Up, r#"{"ready":true,"broker":"up"}"#),
            (false, Broker::Down, r#"{"ready":false,"broker":"down"}"#),
        ] {
            let mut out = Vec::new();
            push_ready(&mut out, ready, broker);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
