//! Namespaces, rooms and match requests in a cluster: the home side of this node.
//!
//! Owns: the requests that wait for the broker, what came too early to be applied, and the match requests of this node.
//! Never: admits or dismisses anybody but by what the broker tells, unless that is down.

use std::sync::Arc;

use crate::ids::{CommandId, Homes, LoopId, NamespaceId, NodeNo};
use crate::message::cluster::{Change, Reply, Who};
use crate::message::{Matched, PeerInfo};
use crate::shard::Shard;
use crate::shard::mail::{Ask, Asker};
use crate::shard::peers::PeerKey;

/// A session that is told again after the broker was lost.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Returning {
    /// Which.
    pub(in crate::shard) who: Who,
    /// The loop that serves it.
    pub(in crate::shard) loop_id: LoopId,
    /// Where its loop keeps it.
    pub(in crate::shard) peer: PeerKey,
}

/// What a session has in a namespace.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Has {
    /// It is a member.
    pub(in crate::shard) member: bool,
    /// It waits for a match.
    pub(in crate::shard) ticket: bool,
}

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

    /// A session of this node is told again after the broker was lost.
    pub(in crate::shard) fn on_rejoin(
        &mut self,
        _session: Returning,
        _namespace: NamespaceId,
        _info: Arc<PeerInfo>,
        _has: Has,
    ) {
    }

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
