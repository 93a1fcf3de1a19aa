//! The client's side of three hole-punching protocols that peer-server speaks, as state machines without sockets or clocks.
//!
//! Owns: what all three share: a datagram to send, and queues that cannot grow without bound.
//! Never: opens a socket, reads a clock, starts a thread, or draws a random number that its caller did not seed. It does not
//! depend on the server: both sides have their own code for the same bytes, so that each checks the other.
//!
//! | module | protocol |
//! | --- | --- |
//! | [`simple`] | ASCII over UDP: a host opens a session, others join it by its id, or two are paired at random |
//! | [`natpunch`] | protobuf over UDP: lobbies with an id, whose members the server brings together two by two |
//! | [`matchmaker`] | JSON over TCP and UDP: lobbies with a code, whose members all learn each other's address at the start |
//! | [`direct`] | none: two addresses prove that datagrams pass between them both ways |
//!
//! Every client is driven in the same way. Time is a number of milliseconds that never goes back, from any start:
//!
//! 1. Call a method (`host_session`), hand in what arrived (`handle_datagram`), or say that time has passed (`handle_timeout`).
//! 2. Send what `poll_transmit` gives, until it gives nothing.
//! 3. Act on what `poll_event` gives, until it gives nothing.
//! 4. Wait for a datagram, but no longer than until `poll_timeout`.
//!
//! # The first packet
//! Two routers let two strangers' packets pass only after each has seen one leave. A router that accepts a stranger's packet
//! as if it were for itself, as many Linux routers do, remembers that stranger, and then gives its own client another port
//! towards it: the two never meet. This does not happen if the first packets die on their way, after they have left their own
//! router and before they reach the other one. So with an *opening TTL* a client first sends [`OPENINGS`] packets that live
//! for few hops, [`OPENING_EVERY_MS`] apart, and only then ordinary ones. [`OPENING_TTL`] says which TTL is right. Both sides
//! must have begun by then, so whoever joins a host sends up to [`OPENINGS_OF_JOINER`], and asks the server again sooner.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;

pub mod direct;
pub mod matchmaker;
pub mod natpunch;
mod opening;
mod random;
pub mod simple;

pub use opening::{OPENING_EVERY_MS, OPENING_TTL, OPENINGS, OPENINGS_OF_JOINER};

/// A datagram that must leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where it goes.
    pub to: SocketAddr,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// How many hops it may live; None: as many as the system gives to any packet.
    pub ttl: Option<u8>,
}

/// First in, first out, with an upper bound: what does not fit is dropped. Whoever drains it after each call never meets the bound.
#[derive(Clone, Debug)]
struct Queue<T>(VecDeque<T>);

/// Entries of one queue that nobody drains.
const QUEUE_MAX: usize = 1024;

impl<T> Queue<T> {
    fn new() -> Self {
        Self(VecDeque::new())
    }

    fn push(&mut self, entry: T) {
        if self.0.len() < QUEUE_MAX {
            self.0.push_back(entry);
        }
    }

    fn pop(&mut self) -> Option<T> {
        self.0.pop_front()
    }
}

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

impl Queue<Transmit> {
    fn send(&mut self, to: impl Into<SocketAddr>, payload: impl Into<Vec<u8>>, ttl: Option<u8>) {
        self.push(Transmit {
            to: to.into(),
            payload: payload.into(),
            ttl,
        });
    }
}
