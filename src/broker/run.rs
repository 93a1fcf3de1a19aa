//! The broker's threads: one for each part of an engine.
//!
//! Owns: when this node is up and when it is down, what waits meanwhile, and how a lost connection is made again.
//! Never: knows a kind of broker.

use std::io;
use std::sync::Arc;

use super::link::Queues;
use super::{Engine, Nodes, Routes};

/// What the threads do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The nodes share one state. Otherwise there is only the traffic of section 9 of the peer protocol.
    pub cluster_state: bool,
}

/// The threads.
#[derive(Debug)]
pub struct Running {
    _private: (),
}

impl Running {
    /// Gives the lease back and ends the threads.
    pub fn stop(self) {}
}

/// Starts the threads.
///
/// # Errors
/// A thread cannot be started.
pub fn start(
    _engine: Arc<dyn Engine>,
    _options: Options,
    _nodes: Arc<Nodes>,
    _queues: Queues,
    _routes: Routes,
) -> io::Result<Running> {
    Ok(Running { _private: () })
}
