//! Moving a connection to the home loop of its key, once, at registration.
//!
//! Owns: what travels with it: the stream with its TLS session, unsent output and unread input in plain vectors (blocks stay
//! with their pool), the registration, what was negotiated, the client's address.
//! Never: moves a registered peer.

use std::net::IpAddr;

use super::connection::{Connection, Entrance, Phase};
use super::transport::Transport;
use super::{Delivery, EventLoop};
use crate::ids::LoopId;
use crate::message::{CLOSE_GOING_AWAY, Register};
use crate::metrics::Metric;

/// A connection between two loops. It keeps its permit for unregistered connections.
pub struct Moving {
    transport: Transport,
    unsent: Vec<u8>,
    unread: Vec<u8>,
    register: Register,
    deflate: bool,
    ending: bool,
    address: IpAddr,
    address_counted: bool,
}

impl std::fmt::Debug for Moving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moving")
            .field("fingerprint", &self.register.fingerprint)
            .finish_non_exhaustive()
    }
}

impl EventLoop {
    /// Registers a connection here, or sends it on its way: then it leaves when its input is put aside.
    pub(super) fn begin_registration(&mut self, slot: usize, register: Register) {
        if self.drain.is_some() {
            // Its home may have gone already.
            return self.close(slot, CLOSE_GOING_AWAY, "server shutting down");
        }
        let home = self.shard.homes().of_fingerprint(&register.fingerprint);
        self.set_phase(slot, Phase::Registering(Box::new(register.fingerprint)));
        self.set_paused(slot, true);
        self.arm(slot);
        if home == self.id {
            self.register(slot, register);
        } else {
            self.leaving = Some((slot, home, register));
        }
    }

    fn register(&mut self, slot: usize, register: Register) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if self.unsent > self.settings.output_bytes_max {
            return self.refuse_registration(slot, crate::message::Refusal::ServerFull);
        }
        self.shard.register(connection.id(slot), register);
        self.drain_outputs();
    }

    /// Hands over the connection that is to leave, if there is one.
    pub(super) fn leave(&mut self) {
        if let Some((slot, home, register)) = self.leaving.take() {
            self.hand_over(slot, home, register);
        }
    }

    fn hand_over(&mut self, slot: usize, home: LoopId, register: Register) {
        // Nothing may be written twice or be lost, so what can be written is written here.
        self.flush(slot);
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if !matches!(connection.phase, Phase::Registering(_)) {
            return;
        }
        self.set_paused(slot, false);
        self.set_phase(slot, Phase::Unregistered);
        let Some(mut connection) = self.connections.try_remove(slot) else {
            return;
        };
        self.counters.take(Metric::ConnectionsUnregistered);
        self.timers.cancel(slot as u32);
        if let Err(error) = self.poll.registry().deregister(connection.transport.source()) {
            tracing::error!(%error, "a connection could not be taken out of the poll");
        }
        let unsent = connection.out.unsent().to_vec();
        self.unsent -= unsent.len();
        connection.out.release(&mut self.pool);
        if let Some(partial) = connection.partial.take() {
            // Between messages there is none; a register that came in fragments was settled.
            partial.release(&mut self.pool);
        }
        let unread = match connection.unread.take() {
            Some(unread) => {
                let rest = unread.bytes.get(unread.at..).unwrap_or_default().to_vec();
                self.pool.put(unread.bytes);
                rest
            }
            None => Vec::new(),
        };
        let Connection {
            transport,
            deflate,
            ending,
            address,
            address_counted,
            ..
        } = connection;
        let moving = Moving {
            transport,
            unsent,
            unread,
            register,
            deflate,
            ending,
            address,
            address_counted,
        };
        self.counters.count(Metric::Moved);
        self.mailbox.control(home, Delivery::Adopt(Box::new(moving)));
    }

    /// Takes in a connection whose key is at home here.
    pub(super) fn adopt(&mut self, moving: Moving) {
        let Moving {
            transport,
            unsent,
            unread,
            register,
            deflate,
            ending,
            address,
            address_counted,
        } = moving;
        let mut connection = Connection::new(transport, 0, Entrance::Peers, address);
        (connection.deflate, connection.ending, connection.address_counted) = (deflate, ending, address_counted);
        connection.counted = true;
        connection.phase = Phase::Registering(Box::new(register.fingerprint));
        connection.heard_ms = self.clock.now_ms;
        let Some(slot) = self.insert(connection) else {
            if address_counted {
                self.address_changed(address, true, true);
            }
            return;
        };
        if !unsent.is_empty() {
            self.append(slot, unsent.len(), |out| out.extend_from_slice(&unsent));
        }
        self.keep_unread(slot, &unread);
        if self.drain.is_some() {
            return self.close(slot, CLOSE_GOING_AWAY, "server shutting down");
        }
        self.set_paused(slot, true);
        // What arrived in between raises an event at the new poll, or has raised one at the old: `ready` is set.
        self.register(slot, register);
    }
}
