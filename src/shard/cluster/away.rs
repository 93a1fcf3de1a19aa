//! Peers on other nodes: where they are, and what waits until that is known.
//!
//! Owns: the cached answers of the broker's directory for keys whose home is this shard, and the messages kept meanwhile.
//! Never: sends anything; the event loop does.

use crate::ids::{Fingerprint, Homes, LoopId, NodeNo};
use crate::message::Refusal;
use crate::message::cluster::Reply;
use crate::shard::mail::Asker;
use crate::shard::{Held, Route, Shard};

/// Where peers are that are not here.
#[derive(Debug)]
pub(super) struct Away {}

impl Away {
    pub(super) fn new(_homes: &Homes) -> Self {
        Self {}
    }
}

impl Shard {
    /// Where a message goes whose target is not on this node: one from another node came here for nothing.
    pub(in crate::shard) fn route_away(&self, _origin: LoopId, _to: &Fingerprint, _about: bool) -> Route {
        Route::Refused(Refusal::PeerNotFound)
    }

    /// Keeps a direct message ([`Route::Ask`]) until the broker has said where its target is. Comes out as
    /// [`super::super::Output::Forward`], or as a refusal to its sender; messages for one target in the order in which they
    /// were kept. There are outputs to be drained after this.
    ///
    /// # Errors
    /// Too much is kept already, or the broker is lost: it was not kept.
    pub fn keep(&mut self, _held: Box<Held>) -> Result<(), Refusal> {
        Err(Refusal::PeerNotFound)
    }

    /// A message came back from that node because the peer is not there, or nobody listened: it is to be looked for anew.
    /// To be called on the loop that is the peer's home.
    pub fn route_failed(&mut self, _to: &Fingerprint, _node: NodeNo) {}

    pub(super) fn on_alias_reply(&mut self, _asker: Asker, _reply: &Reply) {}

    pub(super) fn on_peer_found(&mut self, _fingerprint: &Fingerprint, _reply: &Reply) {}

    /// A peer came or went on another node.
    pub(in crate::shard) fn on_route_changed(&mut self, _fingerprint: &Fingerprint) {}

    pub(super) fn forget_node_peers(&mut self, _node: NodeNo) {}
}
