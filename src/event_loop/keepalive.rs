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
            Phase::Opening | Phase::Head | Phase::Unregistered | Phase::Closing { .. } => Some(connection.deadline_ms),
            Phase::Seeker(seeking) => (!seeking.asked).then_some(connection.deadline_ms),
            Phase::Reporting(reporting) => (!reporting.asked).then_some(connection.deadline_ms),
            Phase::Peer(_) | Phase::Echo => Some(
                connection
                    .deadline_ms
                    .min(connection.heard_ms + self.settings.pong_wait_ms),
            ),
            // The punch state has deadlines of its own.
            Phase::Awaiting | Phase::Registering(_) | Phase::Lobby(_) | Phase::Dead => None,
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
            Phase::Opening if overdue => self.on_opening_timeout(slot),
            Phase::Head if overdue => self.on_head_timeout(slot),
            Phase::Unregistered if overdue => self.close(slot, CLOSE_POLICY, "registration timeout"),
            Phase::Seeker(seeking) if overdue && !seeking.asked => self.on_seeker_timeout(slot),
            Phase::Reporting(reporting) if overdue && !reporting.asked => self.on_report_timeout(slot),
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
            Phase::Opening | Phase::Head | Phase::Awaiting | Phase::Unregistered | Phase::Registering(_) => {}
            Phase::Peer(_) | Phase::Echo | Phase::Lobby(_) | Phase::Seeker(_) | Phase::Reporting(_) => {}
            Phase::Closing { .. } | Phase::Dead => {}
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
        connection.heard_ms = now_ms;
        connection.deadline_ms = now_ms + first_ping_after_ms(connection.generation, self.settings.ping_interval_ms);
        self.arm(slot);
    }
}

/// From 1 to `interval_ms`, spread evenly over connections that are numbered one after another.
fn first_ping_after_ms(generation: u32, interval_ms: u64) -> u64 {
    // Multiplicative hashing of a running number is spread evenly. An interval may be a year, whose product with 32 bits
    // needs more than 64.
    let spread = u128::from(generation.wrapping_mul(0x9E37_79B1));
    1 + ((spread * u128::from(interval_ms)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: u64 = 366 * 24 * 3_600_000;

    #[test]
    fn the_first_ping_comes_within_an_interval_however_long_that_is() {
        for interval_ms in [1, 30_000, 1 << 33, YEAR_MS] {
            for generation in (0..1000).chain([u32::MAX / 2, u32::MAX]) {
                let after_ms = first_ping_after_ms(generation, interval_ms);
                assert!(
                    (1..=interval_ms).contains(&after_ms),
                    "{generation} {interval_ms} {after_ms}"
                );
            }
        }
    }

    #[test]
    fn first_pings_are_spread_over_the_interval() {
        let mut tenths = [0; 10];
        for generation in 1..=1000 {
            tenths[(first_ping_after_ms(generation, 30_000) - 1) as usize / 3_000] += 1;
        }
        assert!(tenths.iter().all(|count| (90..=110).contains(count)), "{tenths:?}");
    }
}
