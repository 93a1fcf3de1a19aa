//! Moving a connection to the home loop of its key, once, at registration.
//!
//! Owns: what travels with it: the stream with its TLS session, unsent output and unread input in plain vectors (blocks stay
//! with their pool), the registration, what was negotiated, the client's address and the name that it came by. Between loops
//! that have descriptor tables of their own the socket takes the passage, and stays where it is, counted and timed, until the
//! passage has room.
//! Never: moves a registered peer, or lets a descriptor be closed in another table than its own.

use std::net::IpAddr;

use mio::net::TcpStream;

use super::connection::{Connection, Entrance, Phase};
use super::passage::Ticket;
use super::transport::{TlsSession, Transport};
use super::{Delivery, EventLoop};
use crate::ids::{ConnId, LoopId};
use crate::message::{CLOSE_GOING_AWAY, Refusal, Register};
use crate::metrics::Metric;

/// A connection whose registration belongs to another loop.
pub(super) struct Leaving {
    conn: ConnId,
    home: LoopId,
    register: Register,
    /// How long it waits for room in the passage.
    until_ms: u64,
}

impl Leaving {
    pub(super) fn is(&self, conn: ConnId) -> bool {
        self.conn == conn
    }
}

/// A connection between two loops. It keeps its permit for unregistered connections.
pub struct Moving {
    socket: Socket,
    tls: Option<Box<TlsSession>>,
    unsent: Vec<u8>,
    unread: Vec<u8>,
    register: Register,
    deflate: bool,
    ending: bool,
    address: IpAddr,
    address_counted: bool,
    /// See `ice`.
    host: Option<Box<str>>,
}

/// How a socket travels.
enum Socket {
    /// Its number is as good there as here: the loops share one table.
    InMail(TcpStream),
    /// Through the passage to the loop's own table. A number of this table would be another file there, so none travels.
    ByPassage(Ticket),
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
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        let conn = connection.id(slot);
        let home = self.shard.homes().of_fingerprint(&register.fingerprint);
        self.set_phase(slot, Phase::Registering(Box::new(register.fingerprint)));
        self.set_paused(slot, true);
        self.arm(slot);
        if home == self.id {
            self.register(slot, register);
        } else {
            self.leaving = Some(Leaving {
                conn,
                home,
                register,
                until_ms: self.clock.now_ms + self.settings.write_timeout_ms,
            });
        }
    }

    fn register(&mut self, slot: usize, register: Register) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if self.unsent > self.settings.output_bytes_max {
            return self.refuse_registration(slot, Refusal::ServerFull);
        }
        self.shard.register(connection.id(slot), register);
        self.drain_outputs();
    }

    /// Hands over the connection that is to leave, if there is one.
    pub(super) fn leave(&mut self) {
        if let Some(leaving) = self.leaving.take()
            && let Some(leaving) = self.hand_over(leaving)
        {
            self.held_up.push_back(leaving);
        }
    }

    /// Tries again for those whom a full passage held up.
    pub(super) fn retry_held_up(&mut self) {
        // Each home's passage is asked until it refuses: that one is full says nothing of another's.
        let mut full: Vec<LoopId> = Vec::new();
        for _ in 0..self.held_up.len() {
            let Some(leaving) = self.held_up.pop_front() else {
                return;
            };
            if self.clock.now_ms >= leaving.until_ms {
                if self.is_leaving(leaving.conn) {
                    self.refuse_registration(leaving.conn.slot(), Refusal::ServerFull);
                }
            } else if full.contains(&leaving.home) {
                self.held_up.push_back(leaving);
            } else if let Some(leaving) = self.hand_over(leaving) {
                full.push(leaving.home);
                self.held_up.push_back(leaving);
            }
        }
    }

    fn is_leaving(&self, conn: ConnId) -> bool {
        let connection = self.connections.get(conn.slot());
        connection.is_some_and(|c| c.id(conn.slot()) == conn && matches!(c.phase, Phase::Registering(_)))
    }

    /// Sends a connection home; whom the passage does not take comes back.
    fn hand_over(&mut self, leaving: Leaving) -> Option<Leaving> {
        let (slot, home) = (leaving.conn.slot(), leaving.home);
        if !self.is_leaving(leaving.conn) {
            return None;
        }
        // Nothing may be written twice or be lost, so what can be written is written here.
        self.flush(slot);
        if !self.is_leaving(leaving.conn) {
            return None;
        }
        let connection = self.connections.get_mut(slot)?;
        let ticket = match &mut self.passage {
            None => None,
            Some(passage) => match passage.send(home, connection.transport.source()) {
                None => return Some(leaving),
                ticket => ticket,
            },
        };
        self.set_paused(slot, false);
        self.set_phase(slot, Phase::Unregistered);
        let mut connection = self.connections.try_remove(slot)?;
        self.counters.take(Metric::ConnectionsUnregistered);
        self.timers.cancel(slot as u32);
        // Closing the descriptor would not do it: the copy that is under way keeps the file open, and thereby in the poll.
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
        let (stream, tls) = transport.split();
        let moving = Moving {
            // With a ticket this table's copy is closed here.
            socket: ticket.map_or_else(|| Socket::InMail(stream), Socket::ByPassage),
            tls,
            unsent,
            unread,
            register: leaving.register,
            deflate,
            ending,
            address,
            address_counted,
            host: self.hosts.take(slot),
        };
        self.counters.count(Metric::Moved);
        self.mailbox.control(home, Delivery::Adopt(Box::new(moving)));
        None
    }

    /// Takes in a connection whose key is at home here.
    pub(super) fn adopt(&mut self, moving: Moving) {
        let Moving {
            socket,
            tls,
            unsent,
            unread,
            register,
            deflate,
            ending,
            address,
            address_counted,
            host,
        } = moving;
        let stream = match socket {
            Socket::InMail(stream) => Some(stream),
            Socket::ByPassage(ticket) => self.passage.as_mut().and_then(|passage| passage.receive(ticket)),
        };
        let Some(stream) = stream else {
            return self.on_lost_moving(address, address_counted);
        };
        let mut connection = Connection::new(Transport::join(stream, tls), 0, Entrance::Peers, address);
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
        self.hosts.set(slot, host);
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

    /// This table had no room for a connection's socket: the kernel has closed it. It was no peer yet.
    fn on_lost_moving(&mut self, address: IpAddr, address_counted: bool) {
        self.shared.permits.unregistered.release();
        if address_counted {
            self.address_changed(address, true, true);
        }
        self.counters.count(Metric::MovesLost);
        self.counters.close(1006);
        let lost = self.counters.get(Metric::MovesLost);
        if lost.is_power_of_two() {
            tracing::warn!(lost, "out of descriptors: a connection was lost on its way to its home");
        }
    }
}
