//! The digests that game servers of a provider reported, by their address.
//!
//! Owns: which of them are remembered. Never: knows a configured server.

use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;
use hashbrown::HashMap;

use super::line::{Line, Ticket};
use crate::message::game_server::CertDigest;

/// What such a server is known by: its public address, with a port or for all servers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reporter(IpAddr, Option<u16>);

impl Reporter {
    /// Reads `IP:PORT` or `IP`, an IPv6 address before a port in brackets.
    pub(super) fn parse(id: &str) -> Option<Self> {
        let whole = id.parse().map(|at: SocketAddr| (at.ip(), Some(at.port())));
        let (ip, port) = whole.or_else(|_| id.parse().map(|ip: IpAddr| (ip, None))).ok()?;
        Some(Self(ip.to_canonical(), port))
    }
}

#[derive(Debug)]
pub(super) struct Digests {
    known: HashMap<Reporter, (CertDigest, Ticket), RandomState>,
    /// In the order of the last reports.
    order: Line<Reporter>,
}

impl Digests {
    pub(super) fn new(hasher: RandomState) -> Self {
        Self {
            known: HashMap::with_hasher(hasher),
            order: Line::new(),
        }
    }

    /// Takes a report; one without a digest leaves that which is known.
    pub(super) fn note(&mut self, reporter: Reporter, digest: Option<CertDigest>, now_ms: u64) {
        let before = self.known.get(&reporter).copied();
        let Some(digest) = digest.or(before.map(|(digest, _)| digest)) else {
            return;
        };
        match before {
            Some((_, ticket)) => self.order.remove(ticket),
            None if self.known.len() >= DIGESTS_MAX => self.forget_oldest(),
            None => {}
        }
        let ticket = self.order.push(now_ms, reporter);
        self.known.insert(reporter, (digest, ticket));
    }

    /// The digest of the server at this address: its own, else that which was reported for its host.
    pub(super) fn find(&self, public: SocketAddr) -> Option<CertDigest> {
        let ip = public.ip().to_canonical();
        let own = self.known.get(&Reporter(ip, Some(public.port())));
        own.or_else(|| self.known.get(&Reporter(ip, None)))
            .map(|(digest, _)| *digest)
    }

    pub(super) fn is_sound(&self) -> bool {
        self.order.is_sound() && self.order.len() == self.known.len() && self.known.len() <= DIGESTS_MAX
    }

    fn forget_oldest(&mut self) {
        let oldest = self.order.first().and_then(|reporter| self.known.remove(&reporter));
        if let Some((_, ticket)) = oldest {
            self.order.remove(ticket);
        }
    }
}

/// Digests remembered at most.
const DIGESTS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn digest(byte: u8) -> CertDigest {
        CertDigest::parse(&format!("{byte:02x}").repeat(32)).unwrap()
    }

    fn digests() -> Digests {
        Digests::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn a_servers_own_digest_stands_before_its_hosts() {
        let mut digests = digests();
        digests.note(Reporter::parse("192.0.2.1").unwrap(), Some(digest(1)), 0);
        digests.note(Reporter::parse("192.0.2.1:70").unwrap(), Some(digest(2)), 0);
        digests.note(Reporter::parse("[2001:db8::1]:70").unwrap(), Some(digest(3)), 0);
        let find = |at: &str| digests.find(at.parse().unwrap());
        assert_eq!(find("192.0.2.1:70"), Some(digest(2)));
        assert_eq!(find("192.0.2.1:71"), Some(digest(1)));
        assert_eq!(find("192.0.2.2:70"), None);
        assert_eq!(find("[2001:db8::1]:70"), Some(digest(3)));
        assert!(Reporter::parse("eu-1").is_none() && Reporter::parse("").is_none());
    }

    #[test]
    fn those_that_reported_longest_ago_are_forgotten_first() {
        let mut digests = digests();
        let at = |nth: u32| Reporter(std::net::Ipv4Addr::from_bits(nth).into(), None);
        for nth in 0..DIGESTS_MAX as u32 {
            digests.note(at(nth), Some(digest(1)), nth.into());
        }
        // A report without a digest counts as one.
        digests.note(at(0), None, 5000);
        digests.note(at(u32::MAX), None, 5000);
        assert_eq!(digests.known.len(), DIGESTS_MAX);
        digests.note(at(u32::MAX), Some(digest(2)), 5001);
        assert!(digests.is_sound());
        assert!(digests.known.contains_key(&at(0)) && !digests.known.contains_key(&at(1)));
    }
}
