//! Routers between players and the rest: which address a packet leaves from, and which packets come in.
//!
//! Owns: mappings, filters, and when they are forgotten.
//! Never: loses, doubles or delays a packet (see `world`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rand::RngExt;
use rand::rngs::StdRng;

/// What a router does, in the words of RFC 4787.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// None: the player has a public address.
    Open,
    /// One mapping for all destinations, and everybody may use it.
    Full,
    /// One mapping; only addresses that were sent to come in.
    Addr,
    /// One mapping; only addresses and ports that were sent to come in.
    Port,
    /// A mapping for each destination, with any port; only that destination comes in.
    Symmetric,
    /// The same with ports in order.
    Symseq,
    /// As `Port`, but a packet that is not let in takes the place of the way out to where it came from, which gets another
    /// port then: so do routers that accept strangers' packets as if they were for themselves.
    Linux,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Open,
        Self::Full,
        Self::Addr,
        Self::Port,
        Self::Symmetric,
        Self::Symseq,
        Self::Linux,
    ];

    /// Whether each destination sees another port.
    pub(crate) fn is_by_destination(self) -> bool {
        matches!(self, Self::Symmetric | Self::Symseq)
    }

    /// Whether players behind routers of these kinds can meet by the addresses that a server sees. `opening`: both open their
    /// own router with packets that do not reach the other's.
    pub(crate) fn can_meet(self, other: Self, opening: bool) -> bool {
        let (low, high) = (self.min(other), self.max(other));
        match (low, high) {
            (Self::Open | Self::Full | Self::Addr, _) => true,
            (Self::Port, Self::Port) => true,
            // Whose packet arrives first decides, unless none does.
            (Self::Port | Self::Linux, Self::Linux) => opening,
            _ => false,
        }
    }
}

/// A way through a router.
struct Mapping {
    inside: SocketAddr,
    /// Only for this destination.
    to: Option<SocketAddr>,
    port: u16,
    used_ms: u64,
    /// When each destination was last sent to.
    sent: BTreeMap<SocketAddr, u64>,
}

pub(crate) struct Router {
    pub(crate) kind: Kind,
    pub(crate) ip: Ipv4Addr,
    /// How long an unused mapping lives.
    expiry_ms: u64,
    mappings: Vec<Mapping>,
    /// Strangers' packets that were not let in, with the port that they came to.
    strays: BTreeMap<(SocketAddr, u16), u64>,
    next_port: u16,
}

/// How long a packet of a stranger's keeps its place.
const STRAY_MS: u64 = 30_000;

impl Router {
    pub(crate) fn new(kind: Kind, ip: Ipv4Addr, expiry_ms: u64) -> Self {
        Self {
            kind,
            ip,
            expiry_ms,
            mappings: Vec::new(),
            strays: BTreeMap::new(),
            next_port: 40_000,
        }
    }

    /// The address that a packet from `inside` leaves with.
    pub(crate) fn out(&mut self, inside: SocketAddr, to: SocketAddr, now_ms: u64, random: &mut StdRng) -> SocketAddr {
        if self.kind == Kind::Open {
            return inside;
        }
        self.forget(now_ms);
        let own = match self.kind {
            Kind::Symmetric | Kind::Symseq | Kind::Linux => Some(to),
            Kind::Open | Kind::Full | Kind::Addr | Kind::Port => None,
        };
        let found = self
            .mappings
            .iter()
            .position(|mapping| mapping.inside == inside && mapping.to == own);
        let at = found.unwrap_or_else(|| {
            let port = self.free_port(inside, to, random);
            self.mappings.push(Mapping {
                inside,
                to: own,
                port,
                used_ms: now_ms,
                sent: BTreeMap::new(),
            });
            self.mappings.len() - 1
        });
        let mapping = &mut self.mappings[at];
        mapping.used_ms = now_ms;
        mapping.sent.insert(to, now_ms);
        SocketAddr::new(self.ip.into(), mapping.port)
    }

    fn free_port(&mut self, inside: SocketAddr, to: SocketAddr, random: &mut StdRng) -> u16 {
        if self.kind == Kind::Linux {
            let taken = |port: u16| {
                self.strays.contains_key(&(to, port))
                    || self
                        .mappings
                        .iter()
                        .any(|mapping| mapping.port == port && mapping.to == Some(to))
            };
            if !taken(inside.port()) {
                return inside.port();
            }
        }
        loop {
            let port = match self.kind {
                Kind::Symseq => {
                    self.next_port += 1;
                    self.next_port
                }
                _ => random.random_range(20_000..60_000),
            };
            if !self.mappings.iter().any(|mapping| mapping.port == port) {
                return port;
            }
        }
    }

    /// Who inside gets a packet that arrives at this port.
    pub(crate) fn enter(&mut self, from: SocketAddr, port: u16, now_ms: u64) -> Option<SocketAddr> {
        self.forget(now_ms);
        let lets_in = |mapping: &Mapping| match self.kind {
            Kind::Open => false,
            Kind::Full => true,
            Kind::Addr => mapping.sent.keys().any(|to| to.ip() == from.ip()),
            Kind::Port | Kind::Symmetric | Kind::Symseq | Kind::Linux => mapping.sent.contains_key(&from),
        };
        let found = self
            .mappings
            .iter()
            .find(|mapping| mapping.port == port && lets_in(mapping));
        if found.is_none() && self.kind == Kind::Linux {
            self.strays.insert((from, port), now_ms + STRAY_MS);
        }
        found.map(|mapping| mapping.inside)
    }

    /// Who inside has this port.
    pub(crate) fn inside(&self, port: u16) -> Option<SocketAddr> {
        let found = self.mappings.iter().find(|mapping| mapping.port == port);
        found.map(|mapping| mapping.inside)
    }

    /// The router begins anew: what leaves now gets other ports.
    pub(crate) fn restart(&mut self) {
        self.mappings.clear();
        self.strays.clear();
        self.next_port += 1000;
    }

    fn forget(&mut self, now_ms: u64) {
        let expiry_ms = self.expiry_ms;
        for mapping in &mut self.mappings {
            mapping.sent.retain(|_, sent_ms| *sent_ms + expiry_ms > now_ms);
        }
        self.mappings.retain(|mapping| mapping.used_ms + expiry_ms > now_ms);
        self.strays.retain(|_, until_ms| *until_ms > now_ms);
    }
}

/// Whether an address means something in the player's own network only.
pub(crate) fn is_inner(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_private())
}

/// Tests of this file's own.
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn routers_map_and_filter_as_their_kind_says() {
        let (inside, a, b) = (
            address("10.0.0.2:5000"),
            address("198.51.100.1:1"),
            address("198.51.100.2:2"),
        );
        let b_other = address("198.51.100.2:3");
        for (kind, same_port, strangers, other_port) in [
            (Kind::Full, true, true, true),
            (Kind::Addr, true, false, true),
            (Kind::Port, true, false, false),
            (Kind::Symmetric, false, false, false),
            (Kind::Symseq, false, false, false),
            (Kind::Linux, true, false, false),
        ] {
            let random = &mut StdRng::seed_from_u64(1);
            let mut router = Router::new(kind, Ipv4Addr::new(192, 0, 2, 1), 30_000);
            let for_a = router.out(inside, a, 0, random);
            let stranger = router.enter(address("203.0.113.9:9"), for_a.port(), 0).is_some();
            assert_eq!(stranger, strangers, "{kind:?}");
            let for_b = router.out(inside, b, 0, random);
            assert_eq!(for_a == for_b, same_port, "{kind:?}");
            assert_eq!(kind.is_by_destination(), !same_port);
            assert_eq!(router.enter(b, for_b.port(), 1), Some(inside));
            assert_eq!(router.enter(b_other, for_b.port(), 1).is_some(), other_port, "{kind:?}");
            assert_eq!(router.enter(b, for_b.port(), 30_000), None, "{kind:?} forgets");
        }
    }

    #[test]
    fn a_stray_packet_takes_the_port() {
        let (inside, peer) = (address("10.0.0.2:5000"), address("198.51.100.1:1"));
        let random = &mut StdRng::seed_from_u64(1);
        let mut router = Router::new(Kind::Linux, Ipv4Addr::new(192, 0, 2, 1), 30_000);
        router.enter(peer, 5000, 0);
        assert_ne!(router.out(inside, peer, 0, random).port(), 5000);
        router.restart();
        assert_eq!(router.out(inside, peer, 0, random).port(), 5000);
    }
}
