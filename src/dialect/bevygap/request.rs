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

    #[test]
    fn what_is_no_request_is_told_in_the_parsers_words() {
        for (text, told) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("{}", "missing field `game` at line 1 column 2"),
            (
                r#"{"game":1}"#,
                "invalid type: integer `1`, expected a string at line 1 column 9",
            ),
            (
                r#"{"game":"a","game":"a"}"#,
                "duplicate field `game` at line 1 column 18",
            ),
            (
                r#"{"game":"a","version":"1","client_ip":4}"#,
                "invalid type: integer `4`, expected a string at line 1 column 39",
            ),
            (
                r#"{"game":"a","version":"1"} x"#,
                "trailing characters at line 1 column 28",
            ),
            (
                r#"{"game":"a","version":"1""#,
                "EOF while parsing an object at line 1 column 25",
            ),
            (
                r#"["a","1",null]"#,
                "invalid type: sequence, expected struct RequestSession at line 1 column 0",
            ),
            (
                "7",
                "invalid type: integer `7`, expected struct RequestSession at line 1 column 1",
            ),
        ] {
            assert_eq!(parse_request(text), Err(format!("{PARSER}{told}")), "{text}");
        }
    }

    #[test]
    fn a_strangers_text_is_not_repeated_without_bound() {
        for text in ["a".repeat(4000), "\u{7f}\u{20ac}".repeat(1000), "\\n".repeat(1000)] {
            let told = parse_request(&format!("\"{text}\"")).unwrap_err();
            assert!(told.starts_with(&format!("{PARSER}invalid type: string")), "{told}");
            assert!((397..=400).contains(&told.len()), "{}", told.len());
        }
        let deep = parse_request(&"[".repeat(4000)).unwrap_err();
        assert!(deep.len() < 200, "{deep}");
        let deep = parse_request(&format!("{{\"x\":{}", "[".repeat(4000))).unwrap_err();
        assert!(
            deep.ends_with("EOF while parsing a list at line 1 column 4005"),
            "{deep}"
        );
    }

    #[test]
    fn the_first_of_four_checks_that_fails_is_told() {
        let long = "a".repeat(31);
        let (game, version) = ("ERR Game name invalid", "ERR Game version invalid");
        let (game_long, version_long) = (
            "ERR Game name too long (max 30 chars)",
            "ERR Game version too long (max 30 chars)",
        );
        for (name, number, told) in [
            ("", "", game),
            ("", "1", game),
            ("a", "", version),
            ("a.b", &*long, game),
            (&*long, "v0.0.1", version),
            (&*long, &*long, game_long),
            (&*long, "1", game_long),
            ("a", &*long, version_long),
            (&*format!("{long}."), "1", game),
            ("a b", "1", game),
            ("a", "1\r\n", version),
            ("a*", "1", game),
            ("a", ">", version),
            ("\u{e4}", "1", game),
            ("a\0", "1", game),
        ] {
            let message = serde_json::json!({ "game": name, "version": number }).to_string();
            assert_eq!(parse_request(&message), Err(told.to_owned()), "{message}");
        }
        let most = "Az09_-".repeat(5);
        let message = serde_json::json!({ "game": most, "version": most }).to_string();
        assert_eq!(names_of(&parse_request(&message).unwrap()), (&*most, &*most, None));
    }

    #[test]
    fn a_path_names_game_and_version() {
        let name = |text| Name::new(text).unwrap();
        let named = Some(Ok((name("bevygap-spaceships"), name("1"))));
        assert_eq!(parse_path("/matchmaker/request/bevygap-spaceships/1"), named);
        assert_eq!(parse_path("/matchmaker/request/bevygap%2Dspaceships/%31"), named);
        for other in [
            "/matchmaker/request",
            "/matchmaker/request/",
            "/matchmaker/request/a",
            "/matchmaker/request/a/",
            "/matchmaker/request//1",
            "/matchmaker/request/a/1/",
            "/matchmaker/request/a/1/2",
            "/matchmaker/ws",
            "/x/matchmaker/request/a/1",
        ] {
            assert_eq!(parse_path(other), None, "{other}");
        }
        let long = "a".repeat(31);
        for (path, told) in [
            ("a.b/1", "ERR Game name invalid"),
            ("a%2fb/1", "ERR Game name invalid"),
            ("a%0d%0aPUB%20x/1", "ERR Game name invalid"),
            ("a%252D/1", "ERR Game name invalid"),
            ("%ff/1", "ERR Game name invalid"),
            ("%/1", "ERR Game name invalid"),
            ("a+b/1", "ERR Game name invalid"),
            ("a/%3E", "ERR Game version invalid"),
            ("a/v0.0.1", "ERR Game version invalid"),
            (&*format!("{long}/1"), "ERR Game name too long (max 30 chars)"),
            (
                &*format!("a/{}", "%61".repeat(31)),
                "ERR Game version too long (max 30 chars)",
            ),
        ] {
            let told = Some(Err(told.to_owned()));
            assert_eq!(parse_path(&format!("/matchmaker/request/{path}")), told, "{path}");
        }
    }
}
