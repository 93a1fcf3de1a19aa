//! Requests to another matchmaker, over NATS.
//!
//! Owns: their payload, written and read.
//! Never: knows the subject, or answers.

use std::io::Write as _;
use std::net::IpAddr;

use serde::Deserialize;

use super::address;
use crate::message::game_server::{Failure, Name};

/// Longest payload that is read.
pub const SEEK_BYTES_MAX: usize = 4096;

/// Appends the payload; without a game it asks for the configured one.
pub fn push_seek(out: &mut Vec<u8>, client_ip: IpAddr, app: Option<(&Name, &Name)>) {
    // Neither an address nor a name holds a character that JSON escapes.
    match app {
        Some((game, version)) => write!(
            out,
            r#"{{"client_ip":"{client_ip}","game":"{game}","version":"{version}"}}"#
        ),
        None => write!(out, r#"{{"client_ip":"{client_ip}"}}"#),
    }
    .expect("writing to a vector does not fail");
}

/// Reads a payload: the player's address, in canonical form. Game and version are in the subject, not here.
///
/// # Errors
/// What the asker is to be told.
pub fn parse_seek(payload: &[u8]) -> Result<IpAddr, Failure> {
    #[derive(Deserialize)]
    struct Payload {
        client_ip: String,
    }
    let payload =
        Some(payload).filter(|payload| payload.len() <= SEEK_BYTES_MAX && payload.trim_ascii_start().starts_with(b"{"));
    let payload: Option<Payload> = payload.and_then(|payload| serde_json::from_slice(payload).ok());
    let client = payload.and_then(|payload| address::parse(payload.client_ip.as_bytes()));
    client.map(|client| client.to_canonical()).ok_or(UNREADABLE)
}

/// As bevygap's matchmaker begins its text, without what the parser says.
const UNREADABLE: Failure = Failure::new(500, "ERROR decoding session request");
