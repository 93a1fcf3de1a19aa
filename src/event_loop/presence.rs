//! News of members in large namespaces, which wait for each other: the presence window.
//!
//! Owns: which connections may wait, and that to each of them it looks as if every frame had been appended at once:
//! whatever else is sent to it comes after what waited, and nothing that waits counts as buffered before the write was tried.
//! Never: decides who is told.

use std::ops::Range;

use super::EventLoop;
use super::connection::Phase;
use super::transport::Write;
use super::window::{Due, HELD_BYTES_MAX, Logged};
use super::writing::Class;
use crate::ids::{ConnId, NamespaceId};
use crate::metrics::Metric;

impl EventLoop {
    /// Tells the targets of a presence event in a namespace with so many members, whose frame is prepared.
    pub(super) fn tell_presence(&mut self, namespace: NamespaceId, members: u32, targets: Range<usize>) {
        let window_ms = self.settings.presence_window_ms;
        let large = members as usize > self.settings.presence_window_from;
        let bytes = self.scratch.frame.len();
        if window_ms == 0 || !large || bytes > HELD_BYTES_MAX {
            return self.send_prepared_to(targets);
        }
        while let Some(due) = self.window.relieve(namespace, bytes) {
            self.flush_due(&due);
        }
        let due_ms = self.clock.now_ms + window_ms;
        let frame = self.window.push(namespace, &self.scratch.frame, due_ms);
        for index in targets {
            let Some(conn) = self.shard.target(index) else { continue };
            if !self.window.extend(conn, &frame) {
                self.hold_presence(conn, &frame);
            }
        }
    }

    fn hold_presence(&mut self, conn: ConnId, frame: &Logged) {
        let Some(slot) = self.registered_slot(conn) else {
            return;
        };
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if connection.out.blocked || connection.dirty {
            // It waits for its socket, or leaves at the end of this turn.
            self.send_prepared(conn, Class::Server);
            return;
        }
        // Who negotiated compression gets copies: a range would carry long frames plain as well.
        let alone = connection.out.is_empty() && !connection.deflate;
        if !self.window.hold(conn, frame, !alone) {
            self.copy_held(slot);
            self.with_prepared(slot, |event_loop, bytes| {
                event_loop.push_out(slot, bytes.len(), |out| out.extend_from_slice(bytes));
            });
            let out = self.connections.get(slot).map_or(0, |connection| connection.out.len());
            if out > HELD_BYTES_MAX {
                self.mark_dirty(slot);
            }
        }
    }

    /// Something else is to be sent to a connection: what waits for it goes before that.
    pub(super) fn copy_held(&mut self, slot: usize) {
        if self.window.is_empty() {
            return;
        }
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let Some(run) = self.window.take(connection.id(slot)) else {
            return;
        };
        let bytes = self.window.bytes(&run);
        connection.out.push_frames(&mut self.pool, bytes, run.frames);
        self.unsent += bytes.len();
    }

    /// Writes to connections whose window is over, as many as a turn has time for.
    pub(super) fn flush_window(&mut self) {
        let now_ms = self.clock.now_ms;
        let Some(due_ms) = self.window.due_ms() else { return };
        let late_ms = now_ms.saturating_sub(due_ms);
        for _ in 0..WRITES_A_TURN * (1 + late_ms / LATE_MS) {
            let Some(due) = self.window.pop_due(now_ms) else { return };
            self.flush_due(&due);
        }
    }

    fn flush_due(&mut self, due: &Due) {
        let Some(slot) = self.slot_of(due.conn) else { return };
        let Some(run) = due.run else {
            return self.flush(slot);
        };
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if let Phase::Dead = connection.phase {
            return;
        }
        let bytes = self.window.bytes(&run);
        debug_assert!(connection.out.is_empty(), "what waits would have to follow that");
        let was_blocked = connection.out.blocked;
        let (taken, blocked) = match connection.transport.write(bytes) {
            Write::Wrote(taken) => (taken, false),
            Write::WouldBlock(taken) => (taken, true),
            Write::Failed => return self.lose(slot),
        };
        if blocked {
            connection.out.push_frames(&mut self.pool, bytes, run.frames);
            connection.out.advance(taken, &mut self.pool);
            self.unsent += bytes.len() - taken;
        }
        self.counters.count(Metric::PresenceWrites);
        self.note_written(slot, taken, was_blocked, blocked);
    }
}

/// Connections that are written to in one turn because their window is over: about a millisecond's work. A loop that is
/// behind writes to more.
const WRITES_A_TURN: u64 = 128;

/// As many more for each of these that the first one is late.
const LATE_MS: u64 = 8;
