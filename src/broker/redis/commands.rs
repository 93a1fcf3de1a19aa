//! Commands.
//!
//! Owns: the connection on which they are run.
//! Never: decides anything outside of a script.

use std::sync::Arc;

use redis::Connection;

use crate::broker::{Commands, Epoch, Nodes, Trouble};
use crate::ids::CommandId;
use crate::message::cluster::{Command, Reply};

/// See [`Commands`].
pub(super) struct RedisCommands {
    _connection: Connection,
    _nodes: Arc<Nodes>,
}

impl RedisCommands {
    pub(super) fn new(connection: Connection, nodes: Arc<Nodes>) -> Self {
        Self {
            _connection: connection,
            _nodes: nodes,
        }
    }
}

impl Commands for RedisCommands {
    fn run(
        &mut self,
        _epoch: Epoch,
        _batch: &[Command],
        _told: &mut dyn FnMut(CommandId, Reply),
    ) -> Result<(), Trouble> {
        Err(Trouble::Lapsed)
    }
}
