//! What a client asks for: its first message, or a path.
//!
//! Owns: the checks, their order and their texts, which clients know by heart.
//! Never: repeats a stranger's text without bound.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::codec::http::percent_decode;
use crate::message::game_server::{Name, NameFault};

/// The first message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which game.
    pub game: Name,
    /// Which version of it.
    pub version: Name,
    /// What the client says its address is.
    pub client_ip: Option<String>,
}

/// Reads the first message, whose length the caller bounds.
///
/// # Errors
/// The text frame that the client is to be sent, at most 400 bytes.
pub fn parse_request(text: &str) -> Result<Request, String> {
    let Object(said) = serde_json::from_str(text).map_err(|error| {
        let mut text = format!("ERR Failed to parse request message as RequestSession: {error}");
        while text.len() > ERROR_BYTES_MAX {
            text.pop();
        }
        text
    })?;
    let (game, version) = names(&said.game, &said.version)?;
    Ok(Request {
        game,
        version,
        client_ip: said.client_ip,
    })
}

/// Reads `/matchmaker/request/GAME/VERSION`. None: another path.
///
/// # Errors
/// The text that goes with a status of 400.
pub fn parse_path(path: &str) -> Option<Result<(Name, Name), String>> {
    let (game, version) = path.strip_prefix("/matchmaker/request/")?.split_once('/')?;
    if game.is_empty() || version.is_empty() || version.contains('/') {
        return None;
    }
    // What is no text is no name either, and neither is a replacement character.
    let decoded = |part| String::from_utf8_lossy(&percent_decode(part)).into_owned();
    Some(names(&decoded(game), &decoded(version)))
}

/// A wrong character tells before a wrong length, in the game before the version.
fn names(game: &str, version: &str) -> Result<(Name, Name), String> {
    match (Name::new(game), Name::new(version)) {
        (Ok(game), Ok(version)) => Ok((game, version)),
        (Err(NameFault::Invalid), _) => Err("ERR Game name invalid".to_owned()),
        (_, Err(NameFault::Invalid)) => Err("ERR Game version invalid".to_owned()),
        (Err(NameFault::TooLong), _) => Err("ERR Game name too long (max 30 chars)".to_owned()),
        (_, Err(NameFault::TooLong)) => Err("ERR Game version too long (max 30 chars)".to_owned()),
    }
}

#[derive(Deserialize)]
struct RequestSession {
    game: String,
    version: String,
    client_ip: Option<String>,
}

/// A request that is an object: the derived reader alone would take a list of three as well.
struct Object(RequestSession);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = RequestSession;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("struct RequestSession")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<RequestSession, A::Error> {
                RequestSession::deserialize(MapAccessDeserializer::new(members))
            }
        }
        deserializer.deserialize_map(Members).map(Self)
    }
}

/// The parser may repeat what it did not expect.
const ERROR_BYTES_MAX: usize = 400;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PARSER: &str = "ERR Failed to parse request message as RequestSession: ";

    fn names_of(request: &Request) -> (&str, &str, Option<&str>) {
        (
            request.game.as_str(),
            request.version.as_str(),
            request.client_ip.as_deref(),
        )
    }

    #[test]
    fn a_request_needs_game_and_version_and_may_name_an_address() {
        for (text, client_ip) in [
            (
                r#"{"client_ip": "81.128.157.123", "game": "bevygap-spaceships", "version": "1"}"#,
                Some("81.128.157.123"),
            ),
            (
                r#"{"client_ip": null, "game": "bevygap-spaceships", "version": "1"}"#,
                None,
            ),
            (r#"{"game":"bevygap-spaceships","version":"1"}"#, None),
            (
                r#" {"version":"1","extra":[{}],"game":"bevygap\u002dspaceships"} "#,
                None,
            ),
        ] {
            let request = parse_request(text).unwrap();
            assert_eq!(names_of(&request), ("bevygap-spaceships", "1", client_ip), "{text}");
        }
    }
}
