//! Peers on other nodes: where they are, and what waits until that is known.
//!
//! Owns: the cached answers of the broker's directory for keys whose home is this shard, and the messages kept meanwhile.
//! Never: sends anything; the event loop does.

use crate::ids::{Fingerprint, Homes, NodeNo};
use crate::message::cluster::Reply;
use crate::shard::Shard;
use crate::shard::mail::Asker;

/// Where peers are that are not here.
#[derive(Debug)]
pub(super) struct Away {}

impl Away {
    pub(super) fn new(_homes: &Homes) -> Self {
        Self {}
    }
}

impl Shard {
    pub(super) fn on_alias_reply(&mut self, _asker: Asker, _reply: &Reply) {}

    pub(super) fn on_peer_found(&mut self, _fingerprint: &Fingerprint, _reply: &Reply) {}

    /// A peer came or went on another node.
    pub(in crate::shard) fn on_route_changed(&mut self, _fingerprint: &Fingerprint) {}

    pub(super) fn forget_node_peers(&mut self, _node: NodeNo) {}
}
