//! Accepting: new connections, those too many, and the counts that a connection holds from accept to close.
//!
//! Owns: what happens at the bounds. Without descriptors or memory accepting pauses; above the bound of unregistered
//! connections new ones are told 503.
//! Never: parses.

use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Token};

use super::connection::{Connection, Entrance, Phase};
use super::listener::{self, Accept};
use super::transport::{Transport, Write};
use super::{ACCEPT_BATCH, ACCEPT_PAUSE_MS, EventLoop, closing};
use crate::codec::http;
use crate::metrics::Metric;

impl EventLoop {
    pub(super) fn accept(&mut self) {
        if self.drain.is_some() || self.clock.now_ms < self.accept_again_ms {
            return;
        }
        for index in 0..self.listeners.len() {
            for _ in 0..ACCEPT_BATCH {
                let listening = &mut self.listeners[index];
                if !listening.ready {
                    break;
                }
                match listener::accept(&listening.listener) {
                    Accept::Stream(stream, from) => {
                        let entrance = listening.entrance;
                        self.counters.count(Metric::Accepted);
                        self.open(stream, from, entrance);
                    }
                    Accept::Empty => listening.ready = false,
                    Accept::Retry => {}
                    Accept::Exhausted => {
                        // Still ready: it is tried again after the pause, and sooner if a connection closes.
                        let again = self.clock.now_ms < self.accept_again_ms + 10 * ACCEPT_PAUSE_MS;
                        self.accept_again_ms = self.clock.now_ms + ACCEPT_PAUSE_MS;
                        self.counters.count(Metric::AcceptPaused);
                        if !again || self.counters.get(Metric::AcceptPaused) == 1 {
                            tracing::warn!("out of descriptors or memory: accepting pauses");
                        }
                        return;
                    }
                }
            }
        }
    }

    fn open(&mut self, stream: TcpStream, from: SocketAddr, entrance: Entrance) {
        // Whoever watches must still see when strangers hold every place.
        let most = if entrance == Entrance::Metrics {
            usize::MAX
        } else {
            self.settings.unregistered_max
        };
        if !self.shared.permits.unregistered.take(most) {
            self.counters.count(Metric::AcceptRefused);
            return self.turn_away(stream, entrance);
        }
        let user_timeout = Duration::from_millis(self.settings.write_timeout_ms.min(i32::MAX as u64));
        listener::tune(&stream, self.settings.socket_send_bytes, user_timeout);
        let mut connection = Connection::new(Transport::plain(stream), 0, entrance, from.ip());
        connection.counted = true;
        connection.deadline_ms = self.clock.now_ms + self.silence_ms(entrance);
        if let Some(slot) = self.insert(connection) {
            self.arm(slot);
            self.list_ready(slot);
        }
    }

    /// Puts a connection into the slab and registers it with the poll.
    pub(super) fn insert(&mut self, mut connection: Connection) -> Option<usize> {
        // The highest generation belongs to listeners and the waker, see FIRST_LISTENER.
        self.generations = (self.generations + 1) % (u32::MAX - 1);
        connection.generation = self.generations;
        let entry = self.connections.vacant_entry();
        let slot = entry.key();
        let token = Token((connection.generation as usize) << 32 | slot);
        let source = connection.transport.source();
        if let Err(error) = self.poll.registry().register(source, token, Interest::READABLE) {
            tracing::error!(%error, "a connection could not be registered with the poll");
            if connection.counted {
                self.shared.permits.unregistered.release();
            }
            return None;
        }
        self.counters.count(closing::gauge(&connection.phase));
        entry.insert(connection);
        Some(slot)
    }

    /// Too many connections are unregistered: says so as far as one write can, and closes.
    fn turn_away(&mut self, stream: TcpStream, entrance: Entrance) {
        if self.tls.is_some() && entrance == Entrance::Peers {
            // Without a handshake there is nothing to say, and a handshake is what it must not cost.
            return;
        }
        let mut answer = self.pool.take();
        let body = b"too many connections\n";
        http::push_response(&mut answer, 503, &[("Retry-After", "5")], body, false, false);
        let mut transport = Transport::plain(stream);
        if let Write::Wrote(_) = transport.write(&answer) {
            transport.shutdown_write();
            // Closing with its request unread would send RST, which may destroy the answer.
            let _ = transport.discard(&mut self.scratch.input);
        }
        self.pool.put(answer);
    }

    /// A connection is a registered peer's: it is counted there and no longer among the unregistered.
    pub(super) fn note_registered(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if std::mem::take(&mut connection.counted) {
            self.shared.permits.unregistered.release();
        }
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.address_counted {
            connection.address_registered = true;
            let address = connection.address;
            self.address_changed(address, false, true);
        }
    }

    /// Gives back what a connection was counted in.
    pub(super) fn release_counts(&mut self, slot: usize, connection: &Connection) {
        if connection.counted {
            self.shared.permits.unregistered.release();
        }
        if let Some(upgrade) = self.upgrades.remove(&slot) {
            self.pool.put(upgrade.answer);
        }
        self.hosts.set(slot, None);
        if connection.address_counted {
            self.address_changed(connection.address, true, !connection.address_registered);
        }
        debug_assert!(matches!(connection.phase, Phase::Dead), "only the dead are buried");
    }
}
