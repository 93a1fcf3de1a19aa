//! The inbox.
//!
//! Owns: the connection on which it is read, and how far it was read.
//! Never: writes to it.

use std::sync::Arc;
use std::time::Duration;

use redis::Connection;

use crate::broker::{Epoch, Inbox, News, Nodes, Trouble};

/// See [`Inbox`].
pub(super) struct RedisInbox {
    _connection: Connection,
    _nodes: Arc<Nodes>,
}

impl RedisInbox {
    pub(super) fn new(
        connection: Connection,
        nodes: Arc<Nodes>,
        _epoch: Epoch,
        _after: Option<&str>,
    ) -> Result<Self, Trouble> {
        Ok(Self {
            _connection: connection,
            _nodes: nodes,
        })
    }
}

impl Inbox for RedisInbox {
    fn read(&mut self, _wait: Duration, _told: &mut dyn FnMut(News)) -> Result<(), Trouble> {
        Err(Trouble::Lapsed)
    }

    fn place(&self) -> Option<String> {
        None
    }
}
