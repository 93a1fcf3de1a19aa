//! The ICE servers that a peer is told, our own STUN port among them under the name that the peer came by.
//!
//! Owns: those names. They stand beside the connections, not in them: a loop that does not tell of its own port keeps none.
//! Never: believes a name to be ours: it is told to nobody but the client that sent it.

use std::net::Ipv6Addr;

use super::EventLoop;
use super::deliver::TEXT;
use super::writing::Class;
use crate::codec::http::Headers;
use crate::dialect::peer::{self, Own};
use crate::shard::PeerKey;

/// The host names that clients came by, by slot.
#[derive(Debug, Default)]
pub(super) struct Hosts(Vec<Option<Box<str>>>);

impl Hosts {
    fn get(&self, slot: usize) -> Option<&str> {
        self.0.get(slot)?.as_deref()
    }

    /// Keeps a name in the place of the one that was there.
    pub(super) fn set(&mut self, slot: usize, host: Option<Box<str>>) {
        if host.is_some() && self.0.len() <= slot {
            self.0.resize_with(slot + 1, || None);
        }
        if let Some(place) = self.0.get_mut(slot) {
            *place = host;
        }
    }

    /// Forgets a name, for whoever takes it along.
    pub(super) fn take(&mut self, slot: usize) -> Option<Box<str>> {
        self.0.get_mut(slot)?.take()
    }
}

impl EventLoop {
    /// A client upgrades: under which name did it come?
    pub(super) fn note_host(&mut self, slot: usize, headers: &Headers<'_>) {
        if self.settings.ice.own {
            self.hosts
                .set(slot, headers.single("Host").and_then(host_name).map(Into::into));
        }
    }

    /// Answers a peer that asked for ICE servers.
    pub(super) fn tell_ice_servers(&mut self, slot: usize, peer: PeerKey) {
        let Some((fingerprint, _)) = self.shard.identity(peer) else {
            return;
        };
        let address = self.connections.get(slot).map(|connection| connection.address);
        let public = match self.hosts.get(slot) {
            Some(_) => None,
            None => address.and_then(|address| self.datagrams.public_host(address)),
        };
        let host = self.hosts.get(slot).or(public.as_deref());
        let own = host.zip(self.datagrams.stun_port());
        let own = own.map(|(host, port)| Own { host, port });
        let mut text = std::mem::take(&mut self.scratch.text);
        text.clear();
        peer::push_ice_servers(
            &mut text,
            &self.settings.ice,
            own,
            &fingerprint,
            self.clock.unix_ms / 1000,
        );
        self.send_bytes(slot, Class::Server, TEXT, &text);
        self.scratch.text = text;
    }
}

/// The host of a `Host` field (RFC 9110 section 7.2) without its port, if a URL of STUN can name it: letters, digits, `-`, `_`
/// and dots, or an IPv6 address in its brackets.
fn host_name(value: &[u8]) -> Option<&str> {
    let value = std::str::from_utf8(value).ok()?;
    let split = value.rsplit_once(':').filter(|_| !value.ends_with(']'));
    let (host, port) = split.unwrap_or((value, ""));
    let in_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let fine = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(address) => address?.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(in_a_name),
    };
    (fine && host.len() <= HOST_MAX && port.bytes().all(|byte| byte.is_ascii_digit())).then_some(host)
}

/// RFC 1035 section 2.3.4: the longest name.
const HOST_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_known_without_its_port() {
        for (value, host) in [
            ("example.org", "example.org"),
            ("Example.org:8080", "Example.org"),
            ("192.0.2.1:443", "192.0.2.1"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("[::1]:8080", "[::1]"),
            ("a_b-c.:", "a_b-c."),
        ] {
            assert_eq!(host_name(value.as_bytes()), Some(host), "{value}");
        }
        let long = "a".repeat(254);
        for value in [
            "",
            ":8080",
            "[]",
            "[::1",
            "::1",
            "[::1]x",
            "[::g]",
            "[fe80::1%25a]:1",
            "a:b",
            "a:1:2",
            "a%41",
            "(a)",
            "a\"",
            "ä",
            &long,
        ] {
            assert_eq!(host_name(value.as_bytes()), None, "{value}");
        }
        assert_eq!(host_name(b"\xff"), None);
    }

    #[test]
    fn names_take_no_room_where_none_is_kept() {
        let mut hosts = Hosts::default();
        hosts.set(1_000_000, None);
        assert_eq!((hosts.take(7), hosts.get(3), hosts.0.capacity()), (None, None, 0));
        hosts.set(3, Some("a".into()));
        hosts.set(1, Some("b".into()));
        hosts.set(1, None);
        assert_eq!((hosts.get(3), hosts.get(1), hosts.get(4)), (Some("a"), None, None));
        assert_eq!((hosts.take(3).as_deref(), hosts.get(3)), (Some("a"), None));
    }
}
