//! The peer protocol: one JSON text for each message (peer protocol, sections 2 to 4).
//!
//! Owns: the members and types of every message in both directions, the limits on what is asked for, and which error
//! wins when a message has several.
//! Never: keeps state, knows who is connected, or changes a payload that is forwarded: it travels as the bytes sent.

mod ice;
mod info;
mod metadata;
mod parse;
mod render;
mod request;

pub use ice::{IceServers, Own, TurnSecret, push_ice_servers};
pub use info::read_peer_info;
pub use parse::{Incoming, Target, exclude_of, excluded, parse, parse_register};
pub use render::{
    Forward, broadcast_len, forward_len, push_broadcast, push_error, push_event, push_forward, push_peer_info,
    push_pong,
};
