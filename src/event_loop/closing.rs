//! Closing: last words, then silence, then the end.
//!
//! Owns: the closing rules. Stop parsing, flush, shut our direction, read and throw away (at most 64 KiB, at most 5 s),
//! close: closing with unread input would make the kernel send RST, which may destroy the last words.
//! Never: decides why a connection closes.

use super::EventLoop;
use super::connection::Phase;
use super::transport::Read;
use crate::codec::websocket::push_close;
use crate::metrics::Metric;

/// How long the peer is given to close after our last words.
const LINGER_MS: u64 = 5_000;
/// How much it may still send.
const DISCARD_BYTES: usize = 64 * 1024;

/// The gauge that counts connections in this phase.
pub(super) fn gauge(phase: &Phase) -> Metric {
    match phase {
        Phase::Opening | Phase::Head | Phase::Awaiting | Phase::Reporting(_) => Metric::ConnectionsHttp,
        Phase::Lobby(_) => Metric::ConnectionsLobby,
        Phase::Seeker(_) => Metric::ConnectionsSeeking,
        Phase::Unregistered | Phase::Registering(_) | Phase::Echo => Metric::ConnectionsUnregistered,
        Phase::Peer(_) => Metric::ConnectionsRegistered,
        Phase::Closing { .. } | Phase::Dead => Metric::ConnectionsClosing,
    }
}

impl EventLoop {
    pub(super) fn set_phase(&mut self, slot: usize, phase: Phase) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let (before, after) = (gauge(&connection.phase), gauge(&phase));
        connection.phase = phase;
        self.counters.take(before);
        self.counters.count(after);
    }

    /// Closes a WebSocket with a code and a reason of ours.
    pub(super) fn close(&mut self, slot: usize, code: u16, reason: &str) {
        let connection = self.connections.get(slot);
        // One that closes or broke already was counted then.
        if connection.is_some_and(|connection| connection.takes_messages()) {
            self.counters.close(code);
            self.close_with(slot, Some(code), reason);
        }
    }

    /// Says the last words of a WebSocket; its session, if any, is over.
    pub(super) fn close_with(&mut self, slot: usize, code: Option<u16>, reason: &str) {
        if !self
            .connections
            .get(slot)
            .is_some_and(|connection| connection.takes_messages())
        {
            return;
        }
        self.append(slot, reason.len(), |out| push_close(out, code, reason));
        self.close_after_flush(slot);
    }

    /// Sends what is unsent, then closes.
    pub(super) fn close_after_flush(&mut self, slot: usize) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if let Phase::Closing { .. } | Phase::Dead = connection.phase {
            return;
        }
        self.end_session(slot);
        self.set_phase(
            slot,
            Phase::Closing {
                shut: false,
                discarded: 0,
            },
        );
        self.set_paused(slot, false);
        self.drop_input(slot);
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        connection.deadline_ms = self.clock.now_ms + LINGER_MS;
        if !connection.counted {
            // A closing connection counts as unregistered, also above the bound: it cannot be turned away any more.
            connection.counted = self.shared.permits.unregistered.take(usize::MAX);
        }
        self.arm(slot);
        self.mark_dirty(slot);
        self.list_ready(slot);
    }

    /// Once everything is sent, shuts our direction.
    pub(super) fn shut_if_flushed(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if let Phase::Closing { shut: shut @ false, .. } = &mut connection.phase
            && connection.out.is_empty()
            && !connection.transport.wants_flush()
        {
            *shut = true;
            connection.transport.shutdown_write();
        }
    }

    /// Throws away what a closing peer still sends.
    pub(super) fn discard(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let Phase::Closing { shut, discarded } = &mut connection.phase else {
            return;
        };
        match connection.transport.discard(&mut self.scratch.input) {
            Read::Data(bytes) => {
                *discarded += bytes;
                let too_much = *discarded > DISCARD_BYTES;
                match too_much {
                    true => self.kill(slot),
                    false => self.list_ready(slot),
                }
            }
            Read::WouldBlock => connection.ready = false,
            // It is deaf or gone; but one that only half-closed may still want our last words.
            Read::End if !*shut => connection.ready = false,
            Read::End | Read::Failed(_) => self.kill(slot),
        }
    }

    /// The connection broke: no last words.
    pub(super) fn lose(&mut self, slot: usize) {
        if self
            .connections
            .get(slot)
            .is_some_and(|connection| connection.takes_messages())
        {
            self.counters.close(1006);
        }
        self.kill(slot);
    }

    /// Ends the connection; it is removed before the turn ends.
    pub(super) fn kill(&mut self, slot: usize) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if let Phase::Dead = connection.phase {
            return;
        }
        self.end_session(slot);
        self.set_paused(slot, false);
        self.set_phase(slot, Phase::Dead);
        self.dead.push(slot as u32);
    }

    /// The connection is nobody's from here on. A draining loop keeps quiet about it: all its peers go at once.
    fn end_session(&mut self, slot: usize) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if let Phase::Seeker(_) = &connection.phase {
            return self.leave_desk(slot);
        }
        if self.drain.is_some() {
            return;
        }
        match &connection.phase {
            Phase::Peer(peer) => self.ended.push((*peer, connection.id(slot))),
            Phase::Registering(fingerprint) => {
                let (id, fingerprint) = (connection.id(slot), **fingerprint);
                if self.leaving.as_ref().is_some_and(|leaving| leaving.is(id)) {
                    self.leaving = None;
                } else if let Some(at) = self.held_up.iter().position(|leaving| leaving.is(id)) {
                    self.held_up.remove(at);
                } else {
                    self.shard.abandon_registration(id, &fingerprint);
                }
            }
            Phase::Lobby(_) => {
                self.punch.close_matchmaker(connection.id(slot), self.clock.now_ms);
                self.drain_punch();
            }
            Phase::Opening | Phase::Head | Phase::Awaiting | Phase::Unregistered | Phase::Echo => {}
            Phase::Seeker(_) | Phase::Reporting(_) | Phase::Closing { .. } | Phase::Dead => {}
        }
    }

    pub(super) fn drop_input(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if let Some(partial) = connection.partial.take() {
            partial.release(&mut self.pool);
        }
        if let Some(unread) = connection.unread.take() {
            self.pool.put(unread.bytes);
        }
    }

    /// Removes the dead.
    pub(super) fn bury(&mut self) {
        while let Some(slot) = self.dead.pop() {
            let slot = slot as usize;
            self.drop_input(slot);
            let Some(mut connection) = self.connections.try_remove(slot) else {
                continue;
            };
            // Closing the descriptor takes it out of the poll as well.
            self.counters.take(gauge(&connection.phase));
            self.unsent -= connection.out.len();
            connection.out.release(&mut self.pool);
            self.timers.cancel(slot as u32);
            self.release_counts(slot, &connection);
            // A descriptor is free again.
            self.accept_again_ms = self.accept_again_ms.min(self.clock.now_ms);
        }
    }
}
