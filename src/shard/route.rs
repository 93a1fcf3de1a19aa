//! The hot path: where a signal or relay goes.
//!
//! Owns: the decision. It is returned, never queued; the event loop moves the bytes.
//! Never: allocates, formats, or reads a clock.

use super::Shard;
use super::mail::DirectMail;
use super::membership::Share;
use super::peers::PeerKey;
use crate::ids::{ConnId, Fingerprint, LoopId, NamespaceId, NodeNo};
use crate::message::Refusal;

/// Where a direct message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a connection of this loop.
    Local {
        /// The connection.
        conn: ConnId,
        /// Whether the namespace that the message names may be passed on: both are members of it.
        about: bool,
    },
    /// To a peer of this loop that must not see it before its join is answered: see [`Shard::hold`].
    Hold {
        /// The peer.
        peer: PeerKey,
    },
    /// To another loop; `about` as in [`Route::Local`], as far as the sender goes.
    Loop {
        /// The loop.
        to: LoopId,
        /// Whether the sender is a member of the namespace that the message names.
        about: bool,
    },
    /// To another node, on which the peer was when the broker was asked last; `about` as in [`Route::Loop`].
    Away {
        /// The node.
        node: NodeNo,
        /// Whether the sender is a member of the namespace that the message names.
        about: bool,
    },
    /// To wherever the broker says: see [`Shard::keep`]; `about` as in [`Route::Loop`].
    Ask {
        /// Whether the sender is a member of the namespace that the message names.
        about: bool,
    },
    /// Nowhere.
    Refused(Refusal),
}

impl Shard {
    /// Where a message of `from` to `to` goes; `about` is the namespace that it names.
    pub fn route(&self, from: PeerKey, to: &Fingerprint, about: Option<NamespaceId>) -> Route {
        let Some(sender) = self.peers.get(from) else {
            return Route::Refused(Refusal::PeerNotFound);
        };
        let about = about.filter(|about| sender.is_member(*about));
        let home = self.homes.of_fingerprint(to);
        if home != self.id {
            return Route::Loop {
                to: home,
                about: about.is_some(),
            };
        }
        self.arrive(self.id, &sender.fingerprint, to, sender.shares(), about)
    }

    /// Where a message from another loop goes; `shares` are the sender's namespaces, ascending.
    pub fn receive(&self, mail: &DirectMail, shares: impl Iterator<Item = NamespaceId>) -> Route {
        self.arrive(mail.origin, &mail.from, &mail.to, shares, mail.about)
    }

    fn arrive(
        &self,
        origin: LoopId,
        from: &Fingerprint,
        to: &Fingerprint,
        shares: impl Iterator<Item = NamespaceId>,
        about: Option<NamespaceId>,
    ) -> Route {
        let Some(key) = self.peers.find(to) else {
            return self.route_away(origin, to, about.is_some());
        };
        let Some(target) = self.peers.get(key) else {
            return Route::Refused(Refusal::PeerNotFound);
        };
        match target.shared_with(shares) {
            Share::Member if !target.is_holding_of(from) => Route::Local {
                conn: target.conn,
                about: about.is_some_and(|about| target.is_member(about)),
            },
            Share::Member | Share::Pending => Route::Hold { peer: key },
            Share::None => Route::Refused(Refusal::NoSharedNamespace),
        }
    }

    /// The namespaces that a peer is a member of, ascending: what a message to another loop carries.
    pub fn shares(&self, peer: PeerKey) -> impl Iterator<Item = NamespaceId> {
        self.peers.get(peer).into_iter().flat_map(|peer| peer.shares())
    }
}
