//! One connection of a loop.
//!
//! Owns: the stream, what phase it is in, and what it holds while something is incomplete: an idle one holds nothing.
//! Never: decides anything; `reading`, `http`, `peers` and `closing` do.

use std::net::IpAddr;

use super::lobby::Turn;
use super::outgoing::Outgoing;
use super::seekers::{Reporting, Seeking, Way};
use super::transport::Transport;
use crate::codec::websocket::Partial;
use crate::ids::{ConnId, Fingerprint};
use crate::shard::PeerKey;

/// What a connection is doing.
#[derive(Debug)]
pub(super) enum Phase {
    /// The first byte is awaited that is not blank, until `deadline_ms`.
    Opening,
    /// HTTP: a request head is awaited or incomplete, until `deadline_ms`.
    Head,
    /// HTTP: an answer that needs other loops is awaited.
    Awaiting,
    /// WebSocket: the first message is awaited, until `deadline_ms`.
    Unregistered,
    /// WebSocket: the registration of this key is under way.
    Registering(Box<Fingerprint>),
    /// WebSocket: a registered peer.
    Peer(PeerKey),
    /// WebSocket: messages are sent back (conformance tests).
    Echo,
    /// The lobby dialect.
    Lobby(Turn),
    /// The matchmaker web service: a request is awaited until `deadline_ms`, or its answers.
    Seeker(Box<Seeking>),
    /// HTTP: the body of a game server's report is awaited until `deadline_ms`, then the desk's answer to it.
    Reporting(Box<Reporting>),
    /// The last words are being sent, and then input is thrown away until the peer closes or `deadline_ms`.
    Closing {
        /// Our direction is shut.
        shut: bool,
        /// Bytes thrown away.
        discarded: usize,
    },
    /// Of no more use; removed before the iteration ends.
    Dead,
}

/// Which listener a connection came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    /// The peers' port.
    Peers,
    /// The metrics port.
    Metrics,
}

/// One connection.
pub(super) struct Connection {
    pub(super) transport: Transport,
    pub(super) generation: u32,
    pub(super) phase: Phase,
    pub(super) entrance: Entrance,
    /// The kernel may have input: set by every event, cleared by WouldBlock or a short read.
    pub(super) ready: bool,
    /// On the loop's ready list.
    pub(super) listed: bool,
    /// Input may end in FIN or an error that no later event repeats: a short read proves nothing.
    pub(super) ending: bool,
    /// Neither parsed nor read until an answer is back.
    pub(super) paused: bool,
    /// On the loop's dirty list.
    pub(super) dirty: bool,
    /// Registered for writability with the poll.
    pub(super) write_interest: bool,
    /// permessage-deflate was negotiated.
    pub(super) deflate: bool,
    /// Holds one of the process's permits for unregistered connections.
    pub(super) counted: bool,
    /// Counted at the home of its address.
    pub(super) address_counted: bool,
    /// Counted there as registered.
    pub(super) address_registered: bool,
    /// An incomplete WebSocket frame or message.
    pub(super) partial: Option<Box<Partial>>,
    /// Input that was read and not parsed.
    pub(super) unread: Option<Box<Unread>>,
    pub(super) out: Outgoing,
    /// The client, as far as proxies are believed.
    pub(super) address: IpAddr,
    /// When the last frame arrived. Milliseconds of the loop's clock.
    pub(super) heard_ms: u64,
    /// Until when the phase may last, or when the next ping is due.
    pub(super) deadline_ms: u64,
}

/// Bytes that wait to be parsed, in a block of the pool.
#[derive(Debug, Default)]
pub(super) struct Unread {
    pub(super) bytes: Vec<u8>,
    /// How many of them are parsed.
    pub(super) at: usize,
    /// How far an incomplete HTTP head was searched for its end.
    pub(super) searched: usize,
}

impl Connection {
    pub(super) fn new(transport: Transport, generation: u32, entrance: Entrance, address: IpAddr) -> Self {
        Self {
            transport,
            generation,
            phase: match entrance {
                Entrance::Peers => Phase::Opening,
                Entrance::Metrics => Phase::Head,
            },
            entrance,
            ready: true,
            listed: false,
            ending: false,
            paused: false,
            dirty: false,
            write_interest: false,
            deflate: false,
            counted: false,
            address_counted: false,
            address_registered: false,
            partial: None,
            unread: None,
            out: Outgoing::default(),
            address,
            heard_ms: 0,
            deadline_ms: 0,
        }
    }

    pub(super) fn id(&self, slot: usize) -> ConnId {
        ConnId::new(slot as u32, self.generation)
    }

    /// Whether WebSocket messages may be sent to it.
    pub(super) fn takes_messages(&self) -> bool {
        match &self.phase {
            Phase::Seeker(seeking) => seeking.way == Way::WebSocket,
            Phase::Unregistered | Phase::Registering(_) | Phase::Peer(_) | Phase::Echo => true,
            Phase::Opening | Phase::Head | Phase::Awaiting | Phase::Lobby(_) | Phase::Reporting(_) => false,
            Phase::Closing { .. } | Phase::Dead => false,
        }
    }
}
