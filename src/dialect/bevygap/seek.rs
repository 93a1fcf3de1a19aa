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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let (game, version) = (Name::new("bevygap-spaceships").unwrap(), Name::new("1").unwrap());
        for (client_ip, app, payload) in [
            (
                "192.0.2.1",
                Some((&game, &version)),
                r#"{"client_ip":"192.0.2.1","game":"bevygap-spaceships","version":"1"}"#,
            ),
            ("2001:db8::1", None, r#"{"client_ip":"2001:db8::1"}"#),
        ] {
            let (client_ip, mut out) = (client_ip.parse().unwrap(), Vec::new());
            push_seek(&mut out, client_ip, app);
            assert_eq!(String::from_utf8_lossy(&out), payload);
            assert_eq!(parse_seek(&out), Ok(client_ip));
        }
    }

    #[test]
    fn a_payload_needs_an_address_and_nothing_else() {
        for (payload, client_ip) in [
            (
                r#" { "game" : 1, "client_ip" : "::ffff:192.0.2.1", "x": [[]] } "#,
                Some("192.0.2.1"),
            ),
            (r#"{"client_ip":"2001:DB8:0::1"}"#, Some("2001:db8::1")),
            ("", None),
            ("null", None),
            ("hello", None),
            ("{}", None),
            (r#"["192.0.2.1"]"#, None),
            (r#"{"client_ip":null}"#, None),
            (r#"{"client_ip":""}"#, None),
            (r#"{"client_ip":"localhost"}"#, None),
            (r#"{"client_ip":"192.0.2.1 "}"#, None),
            (r#"{"client_ip":"192.0.2.1","client_ip":"192.0.2.1"}"#, None),
            (r#"{"client_ip":"192.0.2.1"}x"#, None),
        ] {
            let expected = client_ip.map(|ip| ip.parse().unwrap()).ok_or(UNREADABLE);
            assert_eq!(parse_seek(payload.as_bytes()), expected, "{payload}");
        }
        assert_eq!(parse_seek(b"\xff"), Err(UNREADABLE));
        let padded = |len| format!(r#"{{"client_ip":"192.0.2.1"{}}}"#, " ".repeat(len - 25));
        assert!(parse_seek(padded(SEEK_BYTES_MAX).as_bytes()).is_ok());
        assert_eq!(parse_seek(padded(SEEK_BYTES_MAX + 1).as_bytes()), Err(UNREADABLE));
    }
}
