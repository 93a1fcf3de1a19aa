//! The composition of the broker: which one, with what settings, and its ends at the loops.
//!
//! Owns: what it is made from, and when it starts and stops.
//! Never: runs a command.

use std::sync::Arc;

use super::StartError;
use crate::broker::{self, Link};
use crate::config::Config;
use crate::event_loop::Delivery;
use crate::ids::{Homes, LoopId};
use crate::mailbox::Postbox;

/// A broker before its threads run.
pub(super) struct Prepared {
    /// For each loop its end.
    pub(super) links: Vec<Link>,
    /// The nodes share one state.
    pub(super) cluster_state: bool,
}

/// A broker at work.
pub(super) struct Broker {
    running: broker::Running,
}

/// Makes what must be there before the loops have descriptor tables of their own; None: this node is alone.
///
/// # Errors
/// Settings that cannot be used.
pub(super) fn prepare(
    _config: &Config,
    _homes: &Homes,
    _postbox: &Arc<Postbox<Delivery>>,
) -> Result<Option<Prepared>, StartError> {
    Ok(None)
}

impl Broker {
    /// Gives the lease back and ends the threads. For after the loops have ended.
    pub(super) fn stop(self) {
        self.running.stop();
    }
}

/// What wakes a loop for the broker's threads.
#[expect(dead_code, reason = "no broker is built yet")]
fn wake(postbox: Arc<Postbox<Delivery>>, loop_id: LoopId) -> broker::Wake {
    Arc::new(move || postbox.wake(loop_id))
}
