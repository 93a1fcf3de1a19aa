//! Namespaces, rooms and match requests in a cluster: the home side of this node.
//!
//! Owns: the requests that wait for the broker, what came too early to be applied, and the match requests of this node.
//! Never: admits or dismisses anybody but by what the broker tells, unless that is down.

use std::sync::Arc;

use crate::ids::{CommandId, Homes, NamespaceId, NodeNo};
use crate::message::Matched;
use crate::message::cluster::{Change, Reply, Who};
use crate::shard::Shard;
use crate::shard::mail::{Ask, Asker};

/// What the home side keeps besides the rosters.
#[derive(Debug)]
pub(super) struct Spaces {}

/// What a namespace's home waits for.
#[derive(Debug)]
pub(super) enum Asked {}

impl Spaces {
    pub(super) fn new(_homes: &Homes) -> Self {
        Self {}
    }
}

impl Shard {
    /// A request to a namespace of this home, for the broker.
    pub(in crate::shard) fn ask_cluster(&mut self, _asker: Asker, _namespace: NamespaceId, _ask: Ask) {}

    pub(super) fn on_space_reply(&mut self, _id: CommandId, _namespace: NamespaceId, asked: Asked, _reply: Reply) {
        match asked {}
    }

    pub(super) fn on_space_changed(&mut self, _namespace: NamespaceId, _version: u64, _change: Change) {}

    pub(super) fn on_space_matched(
        &mut self,
        _namespace: NamespaceId,
        _members: &[(Who, CommandId)],
        _matched: &Arc<Matched>,
    ) {
    }

    pub(super) fn forget_node_spaces(&mut self, _node: NodeNo) {}

    pub(super) fn compare_spaces(&mut self) {}
}
