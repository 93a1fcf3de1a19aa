//! Sessions in a cluster: their way into the broker's directory, out of it, and back after the broker was lost.
//!
//! Owns: the registrations that wait for the broker, the ends that it has not heard of, and which sessions are told again.
//! Never: ends a session but through `peers`.

use crate::message::cluster::{Reply, Who};
use crate::shard::Shard;

/// What the directory has not confirmed.
#[derive(Debug, Default)]
pub(super) struct Sessions {}

/// What a session waits for.
#[derive(Debug)]
pub(super) enum Asked {}

impl Shard {
    pub(super) fn on_session_reply(&mut self, _who: Who, asked: Asked, _reply: Reply) {
        match asked {}
    }

    pub(super) fn on_session_replaced(&mut self, _who: Who) {}

    pub(super) fn resume_sessions(&mut self) {}

    /// One of the namespaces of a session was told of it again, whatever came of that.
    pub(in crate::shard) fn on_rejoined(&mut self, _who: Who) {}

    /// A namespace could not take a session back.
    pub(in crate::shard) fn on_evicted(&mut self, _who: Who) {}
}
