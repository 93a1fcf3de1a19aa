//! Reading: readiness, budgets, and where the bytes go.
//!
//! Owns: the edge-triggered rules. A connection's `ready` bit is set by every event and cleared only by WouldBlock, or by a
//! short read when neither FIN nor an error may be waiting behind it.
//! Never: parses; `opening`, `http`, `frames` and `lobby` do.

use super::EventLoop;
use super::HANDSHAKES_MAX;
use super::connection::{Phase, Unread};
use super::seekers::Way;
use super::transport::Read;
use crate::metrics::Metric;

impl EventLoop {
    /// One step for each connection that is ready; those that are still ready wait for the next turn.
    pub(super) fn serve_ready(&mut self) {
        self.handshakes = 0;
        let mut slots = std::mem::take(&mut self.scratch.slots);
        std::mem::swap(&mut slots, &mut self.ready);
        for slot in slots.drain(..) {
            let slot = slot as usize;
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.listed = false;
                self.serve(slot);
                self.flush_early();
            }
        }
        self.scratch.slots = slots;
    }

    fn serve(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.paused {
            return;
        }
        match connection.phase {
            Phase::Dead => return,
            Phase::Closing { .. } => return self.discard(slot),
            Phase::Opening | Phase::Head | Phase::Awaiting | Phase::Registering(_) | Phase::Lobby(_) => {}
            Phase::Unregistered | Phase::Peer(_) | Phase::Echo | Phase::Seeker(_) | Phase::Reporting(_) => {}
        }
        if connection.unread.is_some() {
            self.parse_unread(slot);
        }
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.paused || matches!(connection.phase, Phase::Dead | Phase::Closing { .. }) {
            if matches!(connection.phase, Phase::Closing { .. }) {
                self.list_ready(slot);
            }
            return;
        }
        if connection.ready || connection.transport.has_plaintext() {
            self.read(slot);
        }
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if connection.ready || connection.transport.has_plaintext() {
            self.list_ready(slot);
        }
    }

    fn parse_unread(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        match connection.phase {
            // What comes next is looked at together with it.
            Phase::Opening => return,
            Phase::Head => {
                self.parse_head(slot, &mut []);
                return self.leave();
            }
            Phase::Lobby(_) => return self.parse_lobby(slot, &[]),
            _ => {}
        }
        let Some(mut unread) = connection.unread.take() else {
            return;
        };
        let rest = unread.bytes.get_mut(unread.at..).unwrap_or_default();
        let left = rest.len() - self.parse(slot, rest);
        // What a pause leaves over stays where it is: copying it for each of many small requests would cost its square.
        match self
            .connections
            .get_mut(slot)
            .filter(|connection| left > 0 && connection.takes_messages())
        {
            Some(connection) => {
                unread.at = unread.bytes.len() - left;
                connection.unread = Some(unread);
            }
            None => self.pool.put(unread.bytes),
        }
        self.leave();
    }

    fn read(&mut self, slot: usize) {
        if self.tls.is_some() && self.is_opening(slot) && !self.try_tls(slot) {
            return;
        }
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let handshaking = connection.transport.is_handshaking();
        if handshaking && self.handshakes >= HANDSHAKES_MAX {
            return;
        }
        let mut input = std::mem::take(&mut self.scratch.input);
        let result = connection.transport.read(&mut input, &mut self.scratch.cipher);
        if handshaking && result.outcome != Read::WouldBlock {
            self.handshakes += 1;
        }
        if (result.short && !connection.ending) || result.outcome == Read::WouldBlock {
            connection.ready = false;
        }
        if result.handshake_done_now {
            self.counters.count(Metric::TlsHandshakes);
        }
        if result.handshake_done_now || connection.transport.wants_flush() {
            self.mark_dirty(slot);
        }
        match result.outcome {
            Read::Data(0) | Read::WouldBlock => {}
            Read::Data(bytes) => {
                self.counters.add(Metric::BytesIn, bytes as u64);
                let used = self.parse(slot, &mut input[..bytes]);
                self.keep_unread(slot, &input[used..bytes]);
                self.leave();
            }
            Read::End => self.on_end(slot),
            Read::Failed(_) => self.lose(slot),
        }
        self.scratch.input = input;
    }

    /// Hands bytes to whatever the connection speaks now. Returns how many were used up; the caller keeps the others.
    fn parse(&mut self, slot: usize, bytes: &mut [u8]) -> usize {
        let Some(connection) = self.connections.get_mut(slot) else {
            return bytes.len();
        };
        match &connection.phase {
            Phase::Opening => {
                self.parse_opening(slot, bytes);
                bytes.len()
            }
            Phase::Head => {
                self.parse_head(slot, bytes);
                bytes.len()
            }
            Phase::Lobby(_) => {
                self.parse_lobby(slot, bytes);
                bytes.len()
            }
            Phase::Seeker(seeking) if seeking.way != Way::WebSocket => {
                self.skip_body(slot, bytes.len());
                bytes.len()
            }
            Phase::Reporting(_) => {
                self.gather_report(slot, bytes);
                bytes.len()
            }
            Phase::Unregistered | Phase::Peer(_) | Phase::Echo | Phase::Seeker(_) => self.parse_frames(slot, bytes),
            Phase::Awaiting | Phase::Registering(_) => 0,
            Phase::Closing { .. } | Phase::Dead => bytes.len(),
        }
    }

    /// Puts bytes aside until the connection may be parsed again.
    pub(super) fn keep_unread(&mut self, slot: usize, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if bytes.is_empty() {
            return;
        }
        let pool = &mut self.pool;
        let unread = connection.unread.get_or_insert_with(|| {
            Box::new(Unread {
                bytes: pool.take(),
                at: 0,
                searched: 0,
            })
        });
        unread.bytes.extend_from_slice(bytes);
    }

    /// Puts bytes aside of which so many were searched for the end of what they begin.
    pub(super) fn keep_searched(&mut self, slot: usize, bytes: &[u8], searched: usize) {
        self.keep_unread(slot, bytes);
        let connection = self.connections.get_mut(slot);
        if let Some(unread) = connection.and_then(|connection| connection.unread.as_mut()) {
            unread.searched = searched;
        }
    }

    /// The client sends no more.
    fn on_end(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        connection.ready = false;
        match connection.phase {
            // A client may send FIN after its request and wait for the answer.
            Phase::Head | Phase::Lobby(_) if !connection.out.is_empty() => self.close_after_flush(slot),
            Phase::Awaiting => connection.ready = true,
            _ => self.lose(slot),
        }
    }
}
