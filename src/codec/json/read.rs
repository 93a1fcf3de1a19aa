//! Readers of spans that the envelope scan has proven well-formed.
//!
//! Owns: finding members, entries and elements in a raw value.
//! Never: allocates, or reports a broken text: what cannot be read ends the reading.

use super::RawString;
use super::grammar::{StringSpan, Token, peek, skip_name, skip_string, skip_value, skip_white, span, token};
use super::specials::{Specials, Word};

/// What a value is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number of any size.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

/// The kind of a raw value, judged by its first byte. What is no value at all passes for a number.
pub fn kind_of(value: &str) -> Kind {
    let bytes = value.as_bytes();
    match peek(bytes, skip_white(bytes, 0)) {
        b'n' => Kind::Null,
        b't' | b'f' => Kind::Bool,
        b'"' => Kind::String,
        b'[' => Kind::Array,
        b'{' => Kind::Object,
        _ => Kind::Number,
    }
}

/// A raw value as string; `None` if it is not exactly one JSON string.
pub fn as_string(value: &str) -> Option<RawString<'_>> {
    if peek(value.as_bytes(), 0) != b'"' {
        return None;
    }
    let string = skip_string(&mut Specials::from(value.as_bytes(), 0, &mut [0]), 0).ok()?;
    (string.end + 1 == value.len()).then(|| raw_string(value, string))
}

/// The values of the named members of an object, as raw spans without the white space around them; `None` if it is not
/// an object. A missing member and `null` are `None`; of members with one name the last counts, and names are compared
/// after their escapes are resolved.
pub fn members<'a, const N: usize>(object: &'a str, names: &[&str; N]) -> Option<[Option<&'a str>; N]> {
    let mut found = [None; N];
    for (name, value) in entries(object)? {
        for (wanted, slot) in names.iter().zip(&mut found) {
            if name.is(wanted) {
                *slot = Some(value).filter(|value| *value != "null");
            }
        }
    }
    Some(found)
}

/// All members of an object in the order sent, duplicates included; `None` if it is not an object.
pub fn entries<'a>(object: &'a str) -> Option<impl Iterator<Item = (RawString<'a>, &'a str)>> {
    let mut rest = Items::open(object, b'{', b'}')?;
    Some(std::iter::from_fn(move || rest.next_entry()))
}

/// The elements of an array in order; `None` if it is not an array.
pub fn elements(array: &str) -> Option<impl Iterator<Item = &str>> {
    let mut rest = Items::open(array, b'[', b']')?;
    Some(std::iter::from_fn(move || rest.next_element()))
}

/// What is left to read of an object or array. `at` is where the next item begins; past the end when there is none.
struct Items<'a> {
    text: &'a str,
    at: usize,
    window: [u64; WINDOW],
    word: Word,
}

impl<'a> Items<'a> {
    fn open(text: &'a str, open: u8, close: u8) -> Option<Self> {
        let bytes = text.as_bytes();
        let start = skip_white(bytes, 0);
        if peek(bytes, start) != open {
            return None;
        }
        let first = skip_white(bytes, start + 1);
        Some(Self {
            text,
            at: if peek(bytes, first) == close { text.len() } else { first },
            window: [0; WINDOW],
            word: Word::before::<WINDOW>(first),
        })
    }

    fn next_entry(&mut self) -> Option<(RawString<'a>, &'a str)> {
        // Taken before anything can fail, so that an iterator that has ended stays ended.
        let at = std::mem::replace(&mut self.at, self.text.len());
        let bytes = self.text.as_bytes();
        let mut specials = Specials::resume(bytes, &mut self.window, self.word);
        let (name, value) = skip_name(&mut specials, token(bytes, at)).ok()?;
        self.word = specials.word;
        let value = self.value(value)?;
        Some((raw_string(self.text, name), value))
    }

    fn next_element(&mut self) -> Option<&'a str> {
        let at = std::mem::replace(&mut self.at, self.text.len());
        self.value(token(self.text.as_bytes(), at))
    }

    /// The value that begins at a position; what follows its comma is next.
    fn value(&mut self, begin: Token) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        let mut specials = Specials::resume(bytes, &mut self.window, self.word);
        let end;
        (end, self.word) = match begin {
            (b'"', quote) => (skip_string(&mut specials, quote).ok()?.end + 1, specials.word),
            _ => skip_value(specials, begin, 0).ok()?,
        };
        let comma = skip_white(bytes, end);
        if peek(bytes, comma) == b',' {
            self.at = skip_white(bytes, comma + 1);
        }
        Some(span(self.text, begin.1, end))
    }
}

fn raw_string(text: &str, string: StringSpan) -> RawString<'_> {
    RawString::new(span(text, string.start, string.end), string.escaped)
}

/// Words of special places that are made at a time: what is read here is mostly small.
const WINDOW: usize = 4;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn members_are_found_by_name() {
        let object = r#" { "namespace" : "lobby" , "data":{"namespace":1, "x" : [ 2 ]},"exclude":["a"] , "other":1} "#;
        let found = members(object, &["exclude", "namespace", "absent", "data"]).unwrap();
        assert_eq!(
            found,
            [
                Some(r#"["a"]"#),
                Some(r#""lobby""#),
                None,
                Some(r#"{"namespace":1, "x" : [ 2 ]}"#)
            ]
        );
    }

    #[test]
    fn the_last_duplicate_counts_and_null_is_absent() {
        let object = r#"{"a":1,"\u0061":2,"b":1,"b":null,"c":null,"c":3}"#;
        assert_eq!(members(object, &["a", "b", "c"]), Some([Some("2"), None, Some("3")]));
    }

    #[test]
    fn only_objects_have_members_and_only_arrays_elements() {
        for value in ["null", "1", "\"{}\"", "[]", "", "x"] {
            assert_eq!(members(value, &["a"]), None, "{value}");
            assert!(entries(value).is_none(), "{value}");
        }
        for value in ["null", "1", "\"[]\"", "{}", "", "x"] {
            assert!(elements(value).is_none(), "{value}");
        }
        assert_eq!(members("{ }", &["a"]), Some([None]));
        assert_eq!(entries("{}").unwrap().count(), 0);
        assert_eq!(elements(" [ ] ").unwrap().count(), 0);
    }

    #[test]
    fn entries_and_elements_come_in_order() {
        let found: Vec<_> = entries(r#"{"b":1 , "a" : [1,2],"b":"x"}"#)
            .unwrap()
            .map(|(k, v)| (k.raw(), v))
            .collect();
        assert_eq!(found, [("b", "1"), ("a", "[1,2]"), ("b", "\"x\"")]);
        let found: Vec<_> = elements(r#"[ 1,"a,b" , {"c":[3]},null ]"#).unwrap().collect();
        assert_eq!(found, ["1", "\"a,b\"", "{\"c\":[3]}", "null"]);
    }

    #[test]
    fn a_broken_text_ends_the_reading() {
        assert_eq!(elements("[1,2").unwrap().count(), 2);
        assert_eq!(elements("[1,,2]").unwrap().count(), 1);
        assert_eq!(elements("[1 2]").unwrap().count(), 1);
        let mut broken = entries(r#"{"a":1,"b":}"#).unwrap();
        assert!(broken.next().is_some());
        assert!(broken.next().is_none() && broken.next().is_none());
    }

    #[test]
    fn a_kind_is_told_by_the_first_byte() {
        let kinds = [
            ("null", Kind::Null),
            ("true", Kind::Bool),
            ("false", Kind::Bool),
            ("-1", Kind::Number),
        ];
        let more = [
            ("\"\"", Kind::String),
            ("[1]", Kind::Array),
            ("{}", Kind::Object),
            ("0", Kind::Number),
        ];
        for (value, kind) in kinds.into_iter().chain(more) {
            assert_eq!(kind_of(value), kind, "{value}");
        }
    }

    #[test]
    fn a_string_value_is_exactly_one_string() {
        assert_eq!(as_string(r#""a\n""#).unwrap().raw(), r"a\n");
        for value in ["", "\"", "\"a", "a", "1", "null", "\"a\" ", "\"a\"b", "[\"a\"]"] {
            assert!(as_string(value).is_none(), "{value}");
        }
    }
}
