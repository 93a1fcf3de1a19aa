//! Writing: appending frames to connections within their bounds, and flushing.
//!
//! Owns: the send buffer's rules (peer protocol, section 6, D8): before a message is refused the write has been tried, and
//! only what is left after WouldBlock counts as buffered.
//! Never: renders a message.

use mio::{Interest, Token};

use super::EventLoop;
use super::connection::Phase;
use super::outgoing::{EARLY_BYTES, GATHER_BYTES};
use super::transport::Write;
use crate::codec::deflate::COMPRESS_FROM;
use crate::codec::websocket::{OpCode, push_header};
use crate::message::CLOSE_TRY_AGAIN;
use crate::metrics::Metric;

/// Who made a message, which decides how much of it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Another peer: refused when the buffer is full.
    Peer,
    /// The server: four times as much, plus always one; beyond that the connection is closed.
    Server,
}

impl EventLoop {
    /// Appends one whole frame of about `len` bytes. False: the buffer is full (a server-made frame then closes the
    /// connection) or the connection takes no messages.
    pub(super) fn push_frame(
        &mut self,
        slot: usize,
        class: Class,
        len: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        if !self
            .connections
            .get(slot)
            .is_some_and(|connection| connection.takes_messages())
        {
            return false;
        }
        if !self.has_room(slot, class, len) {
            if class == Class::Server {
                self.counters.count(Metric::SlowConsumers);
                self.close(slot, CLOSE_TRY_AGAIN, "send buffer full");
            }
            return false;
        }
        self.append(slot, len, write);
        true
    }

    /// Appends about `len` bytes without asking for room: HTTP answers and last words.
    pub(super) fn append(&mut self, slot: usize, len: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.copy_held(slot);
        self.push_out(slot, len, write);
        self.mark_dirty(slot);
    }

    /// Appends bytes that need not be sent in this turn.
    pub(super) fn push_out(&mut self, slot: usize, len: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let before = connection.out.len();
        connection.out.push(&mut self.pool, len, write);
        let after = connection.out.len();
        self.unsent += after - before;
        let blocked = connection.out.blocked;
        if after > GATHER_BYTES && !blocked {
            self.flush(slot);
        } else if before <= EARLY_BYTES && after > EARLY_BYTES && !blocked {
            self.early.push(slot as u32);
        }
    }

    /// Appends a message, compressed if that was negotiated and pays. False as for [`EventLoop::push_frame`].
    pub(super) fn send_bytes(&mut self, slot: usize, class: Class, code: OpCode, payload: &[u8]) -> bool {
        let deflate = self.connections.get(slot).is_some_and(|connection| connection.deflate);
        if deflate && payload.len() >= COMPRESS_FROM {
            let mut deflated = std::mem::take(&mut self.scratch.deflated);
            deflated.clear();
            let shorter = self.deflater.compress(payload, &mut deflated);
            let payload = if shorter { &deflated[..] } else { payload };
            let sent = self.push_frame(slot, class, payload.len(), |out| {
                push_header(out, code, shorter, payload.len());
                out.extend_from_slice(payload);
            });
            self.scratch.deflated = deflated;
            return sent;
        }
        self.push_frame(slot, class, payload.len(), |out| {
            push_header(out, code, false, payload.len());
            out.extend_from_slice(payload);
        })
    }

    fn has_room(&mut self, slot: usize, class: Class, len: usize) -> bool {
        let times = if class == Class::Server { 4 } else { 1 };
        let messages_max = self.settings.send_messages_max.saturating_mul(times);
        let bytes_max = self.settings.send_bytes_max.saturating_mul(times);
        for tried in [false, true] {
            let Some(connection) = self.connections.get(slot) else {
                return false;
            };
            let out = &connection.out;
            if !out.blocked || (out.messages() < messages_max && out.len() + len <= bytes_max) {
                return true;
            }
            if tried || out.tried_turn == self.turn {
                return class == Class::Server && out.is_empty();
            }
            self.flush(slot);
        }
        false
    }

    /// Flushes those that have much to send: more than a write's own cost would save by waiting.
    pub(super) fn flush_early(&mut self) {
        while let Some(slot) = self.early.pop() {
            self.flush(slot as usize);
        }
    }

    /// Flushes every dirty connection once and removes the dead, until there is neither.
    pub(super) fn flush_all(&mut self) {
        while !self.dirty.is_empty() || !self.dead.is_empty() {
            let mut slots = std::mem::take(&mut self.scratch.slots);
            std::mem::swap(&mut slots, &mut self.dirty);
            for slot in slots.drain(..) {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    connection.dirty = false;
                    self.flush(slot as usize);
                }
            }
            self.scratch.slots = slots;
            self.drain_outputs();
            self.bury();
        }
    }

    /// Writes what a connection has to send, as far as the kernel takes it.
    pub(super) fn flush(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if let Phase::Dead = connection.phase {
            return;
        }
        if !connection.out.is_empty() || connection.transport.wants_flush() {
            let was_blocked = connection.out.blocked;
            let (taken, blocked) = match connection.transport.write(connection.out.unsent()) {
                Write::Wrote(taken) => (taken, false),
                Write::WouldBlock(taken) => (taken, true),
                Write::Failed => return self.lose(slot),
            };
            connection.out.advance(taken, &mut self.pool);
            self.unsent -= taken;
            self.note_written(slot, taken, was_blocked, blocked);
        }
        self.shut_if_flushed(slot);
    }

    /// What follows from a write that took so many bytes.
    pub(super) fn note_written(&mut self, slot: usize, taken: usize, was_blocked: bool, blocked: bool) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        connection.out.blocked = blocked;
        self.counters.add(Metric::BytesOut, taken as u64);
        let moved = connection.transport.take_sent() || taken > 0;
        if blocked {
            connection.out.tried_turn = self.turn;
            if moved || !was_blocked {
                connection.out.moved_ms = self.clock.now_ms;
            }
        }
        if blocked != was_blocked {
            self.want_writable(slot, blocked);
            self.arm(slot);
            if !blocked {
                self.take_requests_again(slot);
            }
        }
    }

    fn want_writable(&mut self, slot: usize, wanted: bool) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.write_interest == wanted {
            return;
        }
        connection.write_interest = wanted;
        let token = Token((connection.generation as usize) << 32 | slot);
        let interest = if wanted {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        let outcome = self
            .poll
            .registry()
            .reregister(connection.transport.source(), token, interest);
        if let Err(error) = outcome {
            tracing::error!(%error, "a connection could not be registered again");
            self.lose(slot);
        }
    }
}
