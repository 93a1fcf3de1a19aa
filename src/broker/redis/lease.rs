//! The lease.
//!
//! Owns: the connection on which it is kept.
//! Never: decides outside of a script whether it holds.

use std::sync::Arc;

use redis::Connection;

use crate::broker::{Epoch, Lease, Nodes, Taken, Trouble};

/// See [`Lease`].
pub(super) struct RedisLease {
    _connection: Connection,
    _nodes: Arc<Nodes>,
}

impl RedisLease {
    pub(super) fn new(connection: Connection, nodes: Arc<Nodes>) -> Self {
        Self {
            _connection: connection,
            _nodes: nodes,
        }
    }
}

impl Lease for RedisLease {
    fn take(&mut self) -> Result<Taken, Trouble> {
        Err(Trouble::Lapsed)
    }

    fn take_up(&mut self, _epoch: Epoch) -> Result<Taken, Trouble> {
        Err(Trouble::Lapsed)
    }

    fn renew(&mut self, _epoch: Epoch) -> Result<(), Trouble> {
        Err(Trouble::Lapsed)
    }

    fn sweep(&mut self) -> Result<bool, Trouble> {
        Ok(false)
    }

    fn release(&mut self, _epoch: Epoch) -> Result<(), Trouble> {
        Ok(())
    }
}
