//! Wire messages of the lobby dialect of TCP JSON and UDP endpoints (matchmaker).
//!
//! Owns: its datagrams, to and from `message::matchmaker`.
//! Never: keeps a client's state.

use crate::message::matchmaker::{Event, Request};

/// Reads one datagram; None: it breaks the rules.
pub fn parse(_datagram: &[u8]) -> Option<Request> {
    None
}

/// Appends one datagram.
pub fn push(_out: &mut Vec<u8>, event: &Event) {
    match *event {}
}
