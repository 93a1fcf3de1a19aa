//! Small typed bodies.
//!
//! Owns: the private copy that simd-json may rewrite. Never: used for a message that is forwarded.

use std::fmt;

use serde::Deserialize;

use super::{members, push_string};

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The payload is not an object.
    NotAnObject,
    /// A member is missing, has the wrong type or does not fit it.
    Invalid,
}

/// Reads the named members of a payload into a type. All others are dropped unread, and so are members that are `null`:
/// a field that may be absent needs `Option` or `#[serde(default)]`. Of members with one name the last counts.
///
/// The members are copied into `scratch`, whose content is replaced, and read there by simd-json, which rewrites what it
/// parses; the result may borrow from it. Integer fields refuse a fraction, an exponent and what is out of range.
///
/// # Errors
/// See [`BodyError`].
pub fn read_body<'s, T: Deserialize<'s>, const N: usize>(
    payload: &str,
    names: &[&str; N],
    scratch: &'s mut Vec<u8>,
) -> Result<T, BodyError> {
    let values = members(payload, names).ok_or(BodyError::NotAnObject)?;
    scratch.clear();
    scratch.push(b'{');
    for (name, value) in names.iter().zip(values) {
        let Some(value) = value else { continue };
        if scratch.len() > 1 {
            scratch.push(b',');
        }
        push_string(scratch, name);
        scratch.push(b':');
        scratch.extend_from_slice(value.as_bytes());
    }
    scratch.push(b'}');
    simd_json::serde::from_slice(scratch).map_err(|_| BodyError::Invalid)
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnObject => "not a JSON object",
            Self::Invalid => "a member is missing or has the wrong type",
        })
    }
}

impl std::error::Error for BodyError {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Room<'a> {
        room_id: &'a str,
        max_size: Option<i64>,
        #[serde(default)]
        tags: Vec<String>,
    }

    fn read<'s>(payload: &str, scratch: &'s mut Vec<u8>) -> Result<Room<'s>, BodyError> {
        read_body(payload, &["room_id", "max_size", "tags"], scratch)
    }

    fn max_size(number: &str) -> Result<i64, BodyError> {
        read(&format!(r#"{{"room_id":"r","max_size":{number}}}"#), &mut Vec::new()).map(|room| room.max_size.unwrap())
    }

    #[test]
    fn a_body_is_read_from_its_copy() {
        let mut scratch = b"left over".to_vec();
        let payload = r#"{"x":[1e999],"room_id":"one","r\u006fom_id":"tw\u006f","max_size":null,"tags":["a\n"],"x":2}"#;
        let room = read(payload, &mut scratch).unwrap();
        assert_eq!(
            room,
            Room {
                room_id: "two",
                max_size: None,
                tags: vec!["a\n".to_owned()]
            }
        );
    }

    #[test]
    fn integers_need_an_integer_spelling_that_fits() {
        for (number, n) in [("0", 0), ("-0", 0), ("-7", -7), ("9223372036854775807", i64::MAX)] {
            assert_eq!(max_size(number), Ok(n), "{number}");
        }
        assert_eq!(max_size("-9223372036854775808"), Ok(i64::MIN));
        let too_big = [
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551615",
            "18446744073709551616",
        ];
        let fractions = [
            "1.0",
            "1e2",
            "1E0",
            "-1.0",
            "0.0",
            "-0.0",
            "1e-1",
            "100000000000000000000000",
            "1e999",
        ];
        for number in too_big.into_iter().chain(fractions) {
            assert_eq!(max_size(number), Err(BodyError::Invalid), "{number}");
        }
    }

    #[test]
    fn a_wrong_type_is_refused() {
        for payload in ["null", "[]", "\"room_id\"", "1", ""] {
            assert_eq!(read(payload, &mut Vec::new()), Err(BodyError::NotAnObject), "{payload}");
        }
        let missing = ["{}", r#"{"room_id":null}"#];
        let wrong = [
            r#"{"room_id":1}"#,
            r#"{"room_id":"r","max_size":"1"}"#,
            r#"{"room_id":"r","max_size":true}"#,
        ];
        let more = [
            r#"{"room_id":"r","tags":{}}"#,
            r#"{"room_id":"r","tags":[1]}"#,
            r#"{"room_id":"\ud800"}"#,
        ];
        for payload in missing.into_iter().chain(wrong).chain(more) {
            assert_eq!(read(payload, &mut Vec::new()), Err(BodyError::Invalid), "{payload}");
        }
    }

    #[test]
    fn what_is_not_named_is_never_read() {
        let payload = r#"{"room_id":"r","a":1e999,"b":"\ud800","c":123456789012345678901234567890}"#;
        assert_eq!(read(payload, &mut Vec::new()).unwrap().room_id, "r");
    }
}
