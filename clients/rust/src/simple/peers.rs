//! The players that a client punches towards.
//!
//! Owns: which address of each has answered, how far its opening has come, and who a datagram is from.
//! Never: makes or sends a packet.

use std::net::{SocketAddr, SocketAddrV4};

use crate::opening::{Due, Opening};

/// Players that one client keeps.
const PEERS_MAX: usize = 64;

/// One player.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// As the server sees it.
    pub(super) remote: SocketAddrV4,
    /// In its own network; None if its key cannot be read.
    local: Option<SocketAddrV4>,
    /// Where its latest punch came from.
    pub(super) answered: Option<SocketAddrV4>,
    /// It has said that it is done.
    pub(super) done: bool,
    opening: Option<Opening>,
}

impl Peer {
    pub(super) fn new(remote: SocketAddrV4, local: Option<SocketAddrV4>, opening: Option<Opening>) -> Self {
        Self {
            remote,
            local,
            answered: None,
            done: false,
            opening,
        }
    }

    /// Where it is punched: its local and its remote address until one of them has answered, then that one.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddrV4> + use<> {
        let first = self.answered.or(self.local).unwrap_or(self.remote);
        let second = self.answered.is_none() && self.local.is_some();
        [Some(first), second.then_some(self.remote)].into_iter().flatten()
    }

    /// Where it is told to stop punching.
    pub(super) fn address(&self) -> SocketAddrV4 {
        self.answered.unwrap_or(self.remote)
    }

    /// True if its punches come from its local address.
    pub(super) fn is_local(&self) -> bool {
        self.answered.is_some() && self.answered == self.local
    }

    /// Ordinary packets may go to it.
    pub(super) fn is_open(&self) -> bool {
        self.opening.is_none()
    }

    /// Notes where a punch came from. Whatever it was, the way is open: true if that was not known.
    pub(super) fn answers(&mut self, from: SocketAddrV4) -> bool {
        self.answered = Some(from);
        self.opening.take().is_some()
    }

    /// The TTL of a packet that is due now; `Some(None)` is an ordinary one, once, at the end of the opening.
    pub(super) fn take_opening(&mut self, now: u64) -> Option<Option<u8>> {
        match self.opening.as_mut()?.take(now) {
            Due::Nothing => None,
            Due::Packet(ttl) => Some(Some(ttl)),
            Due::Over => {
                self.opening = None;
                Some(None)
            }
        }
    }
}

/// All players of one client, in the order in which it learned of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers(Vec<Peer>);

impl Peers {
    /// Adds a player; None if it is known, or one too many.
    pub(super) fn add(&mut self, peer: Peer) -> Option<&mut Peer> {
        if self.0.len() >= PEERS_MAX || self.0.iter().any(|known| known.remote == peer.remote) {
            return None;
        }
        self.0.push(peer);
        self.0.last_mut()
    }

    /// Whose datagram this is: by an address that is known, else by the IP address alone of one that has not answered, else of
    /// any, for some routers give a client another port towards each destination.
    pub(super) fn by_source(&mut self, from: SocketAddr) -> Option<(&mut Peer, SocketAddrV4)> {
        let SocketAddr::V4(from) = from else { return None };
        let known = |peer: &Peer| peer.answered == Some(from) || peer.local == Some(from) || peer.remote == from;
        let silent = |peer: &Peer| peer.answered.is_none() && peer.remote.ip() == from.ip();
        let moved = |peer: &Peer| peer.remote.ip() == from.ip();
        let at = self.0.iter().position(known);
        let at = at.or_else(|| self.0.iter().position(silent));
        let at = at.or_else(|| self.0.iter().position(moved))?;
        self.0.get_mut(at).map(|peer| (peer, from))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Peer> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Peer> {
        self.0.iter_mut()
    }

    /// When the next packet of an opening is due.
    pub(super) fn next_at(&self) -> Option<u64> {
        let openings = self.0.iter().filter_map(|peer| peer.opening.as_ref());
        openings.map(Opening::next_at).min()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    fn peer(remote: &str, local: &str) -> Peer {
        Peer::new(address(remote), Some(address(local)), None)
    }

    #[test]
    fn both_addresses_are_punched_until_one_answers() {
        let mut peer = peer("203.0.113.1:1", "10.0.0.1:1");
        assert_eq!(
            peer.addresses().collect::<Vec<_>>(),
            [address("10.0.0.1:1"), address("203.0.113.1:1")]
        );
        peer.answers(address("203.0.113.1:1"));
        assert_eq!(peer.addresses().collect::<Vec<_>>(), [address("203.0.113.1:1")]);
        assert!(!peer.is_local());
        peer.answers(address("10.0.0.1:1"));
        assert!(peer.is_local());
        let deaf = Peer::new(address("203.0.113.1:1"), None, None);
        assert_eq!(deaf.addresses().collect::<Vec<_>>(), [address("203.0.113.1:1")]);
        assert!(!deaf.is_local());
    }

    #[test]
    fn a_peer_is_known_by_its_address_and_else_by_its_ip() {
        let mut peers = Peers::default();
        peers.add(peer("203.0.113.1:1", "10.0.0.1:1")).unwrap();
        peers.add(peer("203.0.113.1:2", "10.0.0.2:2")).unwrap();
        assert!(peers.add(peer("203.0.113.1:2", "10.0.0.3:2")).is_none(), "known");
        let mut whose = |from: &str| {
            let found = peers.by_source(from.parse().unwrap());
            found.map(|(peer, from)| {
                peer.answers(from);
                peer.remote.port()
            })
        };
        assert_eq!(whose("203.0.113.1:2"), Some(2));
        assert_eq!(whose("10.0.0.2:2"), Some(2));
        assert_eq!(whose("203.0.113.1:9"), Some(1), "the one that was silent");
        assert_eq!(whose("203.0.113.1:9"), Some(1), "as before");
        assert_eq!(whose("203.0.113.1:8"), Some(1), "moved");
        assert_eq!(whose("203.0.113.9:1"), None);
        assert_eq!(whose("[::1]:1"), None);
    }
}
