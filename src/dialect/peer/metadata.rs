//! From a JSON object to metadata.
//!
//! Owns: the limit on its size. Never: decides where metadata may stand.

use crate::codec::json::{self, RawString};
use crate::message::{META_MAX, Meta, Refusal};

/// Reads the members of an object that the scan has proven well-formed.
///
/// # Errors
/// [`Refusal::MetadataTooLarge`] for more than [`META_MAX`] bytes of compact JSON. Members of one name all count:
/// what is thrown away was read too.
pub(super) fn read<'a>(members: impl Iterator<Item = (RawString<'a>, &'a str)>) -> Result<Meta, Refusal> {
    read_at_most(META_MAX, members)
}

/// The same with a limit of so many bytes.
pub(super) fn read_at_most<'a>(
    bytes_max: usize,
    members: impl Iterator<Item = (RawString<'a>, &'a str)>,
) -> Result<Meta, Refusal> {
    let mut entries = Vec::new();
    let mut text = Vec::new();
    let mut json_len = "{}".len();
    for (name, value) in members {
        text.clear();
        json::push_canonical_string(&mut text, name);
        let name_len = text.len();
        json::push_compact(&mut text, value);
        let comma = usize::from(!entries.is_empty());
        json_len += comma + text.len() + ":".len();
        if json_len > bytes_max {
            return Err(Refusal::MetadataTooLarge);
        }
        let (name, value) = text.split_at(name_len);
        entries.push((
            String::from_utf8_lossy(name).into(),
            String::from_utf8_lossy(value).into(),
        ));
    }
    Ok(Meta::from_entries(entries))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Incoming, parse};
    use super::*;
    use crate::message::Request;

    fn metadata(payload: &str) -> Result<Meta, Refusal> {
        let text = format!(r#"{{"type":"metadata","payload":{payload}}}"#);
        match parse(&text, &mut Vec::new())? {
            Incoming::Request(Request::Metadata { update }) => Ok(update),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn metadata_comes_wrapped_or_bare() {
        let cases: [(&str, &[(&str, &str)]); 9] = [
            (r#"{"meta":{"b":2,"c":[ 3 ]}}"#, &[("\"b\"", "2"), ("\"c\"", "[3]")]),
            (r#"{"status":"in-game"}"#, &[("\"status\"", "\"in-game\"")]),
            (r#"{"meta":{"a":1},"b":2}"#, &[("\"a\"", "1")]),
            (r#"{"a":null}"#, &[("\"a\"", "null")]),
            (r#"{"meta":null}"#, &[]),
            (r#"{"meta":5,"m\u0065ta":null,"b":2}"#, &[("\"b\"", "2")]),
            (r#"{"meta":null,"meta":{"a":null}}"#, &[("\"a\"", "null")]),
            ("{}", &[]),
            (
                r#"{"\u0061":1,"b":0,"a":"\u0041"}"#,
                &[("\"a\"", r#""\u0041""#), ("\"b\"", "0")],
            ),
        ];
        for (payload, expected) in cases {
            let update = metadata(payload).unwrap();
            assert_eq!(update.entries().collect::<Vec<_>>(), expected, "{payload}");
        }
    }

    #[test]
    fn bad_metadata_is_refused() {
        let none = parse(r#"{"type":"metadata"}"#, &mut Vec::new()).err();
        assert_eq!(none, Some(Refusal::InvalidMetadata));
        let no_object = ["null", "\"s\"", "[]", "1", "true"];
        let no_map = [
            r#"{"meta":5}"#,
            r#"{"meta":[]}"#,
            r#"{"meta":"x","a":1}"#,
            r#"{"meta":{},"meta":false}"#,
        ];
        for payload in no_object.into_iter().chain(no_map) {
            assert_eq!(metadata(payload), Err(Refusal::InvalidMetadata), "{payload}");
        }
    }

    #[test]
    fn metadata_is_measured_compact() {
        let members: Vec<_> = (0..900).map(|i| format!(r#" "{i:03}" : 1 "#)).collect();
        let bare = format!("{{{}}}", members.join(","));
        assert_eq!(bare.len(), 2 + 900 * 11 + 899);
        assert_eq!(metadata(&bare).unwrap().json_len(), 2 + 900 * 7 + 899);
        let exactly = |len: usize| {
            let value = "k".repeat(len - r#"{"a":1,"k":""}"#.len());
            metadata(&format!(r#"{{"meta": {{ "\u0061" : 1 , "k" : "{value}" }} }}"#))
        };
        assert_eq!(exactly(META_MAX).unwrap().json_len(), META_MAX);
        assert_eq!(exactly(META_MAX + 1), Err(Refusal::MetadataTooLarge));
        assert_eq!(exactly(60_000), Err(Refusal::MetadataTooLarge));
    }
}
