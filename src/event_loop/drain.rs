//! Stopping: everybody is told, and given time to hear it.
//!
//! Owns: the order of a drain. Listeners close first; sessions end without `peer_left`, because all peers of the node go;
//! 1001 goes to a thousand connections a turn; the loop leaves when its connections have closed or the time is over, and
//! only when all loops have, because until then another may still post to it. Nothing is told to the broker: when the loops
//! have ended the lease is given back, and with that all that this node had is over for the others.
//! Never: decides when to stop.

use std::sync::atomic::Ordering;

use super::EventLoop;
use super::connection::Phase;
use crate::message::CLOSE_GOING_AWAY;

/// Connections told in one turn.
const TOLD_A_TURN: usize = 1000;

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    /// The next slot to tell.
    next: usize,
    /// When the connections that are left are dropped.
    until_ms: u64,
    /// This loop is done.
    pub(super) reported: bool,
}

impl EventLoop {
    pub(super) fn start_drain(&mut self) {
        if self.drain.is_some() {
            return;
        }
        self.shared.serving.store(false, Ordering::Relaxed);
        self.listeners.clear();
        self.datagrams.close();
        self.ended.clear();
        // Their connections are here and are told like all others.
        self.held_up.clear();
        let until_ms = self.clock.now_ms + self.settings.drain_linger_ms;
        self.drain = Some(Drain {
            next: 0,
            until_ms,
            reported: false,
        });
        self.dismiss_remotes();
    }

    /// Whether the drain has something to do at once.
    pub(super) fn is_draining_actively(&self) -> bool {
        self.drain
            .as_ref()
            .is_some_and(|drain| drain.next < self.connections.capacity())
    }

    pub(super) fn drain_step(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let slots = drain.next..(drain.next + TOLD_A_TURN).min(self.connections.capacity());
        drain.next = slots.end;
        let over = self.clock.now_ms >= drain.until_ms;
        for slot in slots {
            self.dismiss(slot);
        }
        if over {
            let left: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
            left.into_iter().for_each(|slot| self.kill(slot));
        }
        // Those that were killed are gone in the next turn, and what they had to tell other loops is on its way.
        if self.connections.is_empty() {
            self.report_drained();
        }
    }

    /// Tells one connection that the server goes.
    pub(super) fn dismiss(&mut self, slot: usize) {
        match self.connections.get(slot).map(|connection| &connection.phase) {
            Some(Phase::Opening | Phase::Head | Phase::Awaiting | Phase::Lobby(_) | Phase::Reporting(_)) => {
                self.close_after_flush(slot);
            }
            Some(Phase::Unregistered | Phase::Registering(_) | Phase::Peer(_) | Phase::Echo) => {
                self.close(slot, CLOSE_GOING_AWAY, "server shutting down");
            }
            Some(Phase::Seeker(_)) => self.dismiss_seeker(slot),
            Some(Phase::Closing { .. } | Phase::Dead) | None => {}
        }
    }

    fn report_drained(&mut self) {
        if let Some(drain) = self.drain.as_mut().filter(|drain| !drain.reported) {
            drain.reported = true;
            self.shared.drained.fetch_add(1, Ordering::Release);
        }
    }
}
