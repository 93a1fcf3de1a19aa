//! Deadlines: request heads, registration, pings, pong wait, write timeout, closing.
//!
//! Owns: when a connection must be looked at next, and what is overdue then. One timer a connection; hearing from a peer
//! does not touch it, the timer looks at `heard_ms` when it fires.
//! Never: reads a clock of its own.

use super::EventLoop;
use super::connection::Phase;
use super::writing::Class;
use crate::codec::websocket::{Control, OpCode, push_header};
use crate::message::CLOSE_POLICY;
use crate::metrics::Metric;

impl EventLoop {
    /// Sets the connection's timer to whatever is due first.
    pub(super) fn arm(&mut self, slot: usize) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        let due = match &connection.phase {
            Phase::Head | Phase::Unregistered | Phase::Closing { .. } => Some(connection.deadline_ms),
            Phase::Peer(_) | Phase::Echo => Some(
                connection
                    .deadline_ms
                    .min(connection.heard_ms + self.settings.pong_wait_ms),
            ),
            Phase::Awaiting | Phase::Registering(_) | Phase::Dead => None,
        };
        let stalled = connection
            .out
            .blocked
            .then(|| connection.out.moved_ms + self.settings.write_timeout_ms);
        match due.into_iter().chain(stalled).min() {
            Some(due) => self.timers.schedule(slot as u32, due),
            None => self.timers.cancel(slot as u32),
        }
    }

    pub(super) fn expire_timers(&mut self) {
        let mut slots = std::mem::take(&mut self.scratch.slots);
        self.timers.expire(self.clock.now_ms, &mut slots);
        for slot in slots.drain(..) {
            self.on_timer(slot as usize);
        }
        self.scratch.slots = slots;
        self.drain_outputs();
    }

    fn on_timer(&mut self, slot: usize) {
        let now_ms = self.clock.now_ms;
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.out.blocked && now_ms >= connection.out.moved_ms + self.settings.write_timeout_ms {
            self.counters.count(Metric::WriteTimeouts);
            return self.lose(slot);
        }
        let overdue = now_ms >= connection.deadline_ms;
        match &connection.phase {
            Phase::Head if overdue => self.on_head_timeout(slot),
            Phase::Unregistered if overdue => self.close(slot, CLOSE_POLICY, "registration timeout"),
            Phase::Closing { .. } if overdue => self.kill(slot),
            // While it waits for another loop its clock stands still.
            Phase::Peer(_) | Phase::Echo if connection.paused => {
                connection.heard_ms = now_ms;
                connection.deadline_ms = connection
                    .deadline_ms
                    .max(now_ms + self.settings.ping_interval_ms.min(1000));
            }
            Phase::Peer(_) | Phase::Echo if now_ms >= connection.heard_ms + self.settings.pong_wait_ms => {
                self.counters.count(Metric::PongTimeouts);
                self.close(slot, CLOSE_POLICY, "pong timeout");
            }
            Phase::Peer(_) | Phase::Echo if overdue => {
                let next = connection.deadline_ms + self.settings.ping_interval_ms;
                connection.deadline_ms = if next > now_ms {
                    next
                } else {
                    now_ms + self.settings.ping_interval_ms
                };
                // A peer that takes nothing is the write timeout's business.
                if !connection.out.blocked {
                    self.counters.count(Metric::PingsSent);
                    let ping = |out: &mut Vec<u8>| push_header(out, OpCode::Control(Control::Ping), false, 0);
                    self.push_frame(slot, Class::Server, 0, ping);
                }
            }
            Phase::Head | Phase::Awaiting | Phase::Unregistered | Phase::Registering(_) => {}
            Phase::Peer(_) | Phase::Echo | Phase::Closing { .. } | Phase::Dead => {}
        }
        self.arm(slot);
    }

    /// Starts the keep-alive of a new peer. Its first ping comes anywhere within an interval, so that peers that came
    /// together are not pinged together.
    pub(super) fn start_pings(&mut self, slot: usize) {
        let now_ms = self.clock.now_ms;
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        // Multiplicative hashing of a running number is spread evenly.
        let spread = u64::from(connection.generation.wrapping_mul(0x9E37_79B1));
        connection.heard_ms = now_ms;
        connection.deadline_ms = now_ms + 1 + ((spread * self.settings.ping_interval_ms) >> 32);
        self.arm(slot);
    }
}
