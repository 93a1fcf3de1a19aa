//! Wire messages of the ASCII dialect (simple-hole-punch).
//!
//! Owns: its datagrams, to and from `message::simple`.
//! Never: keeps a client's state.

use crate::message::simple::{Event, Request};

/// Reads one datagram; None: it breaks the rules.
pub fn parse(_datagram: &[u8]) -> Option<Request> {
    None
}

/// Appends one datagram.
pub fn push(_out: &mut Vec<u8>, event: &Event) {
    match *event {}
}
