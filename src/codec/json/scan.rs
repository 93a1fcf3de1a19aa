//! The envelope scan.
//!
//! Owns: which members are the envelope's, and of what type they have to be.
//! Never: allocates, or resolves an escape that is not in a member name.

use std::fmt;

use super::RawString;
use super::grammar::{StringSpan, peek, skip_name, skip_string, skip_value, skip_white, span, token};
use super::specials::Specials;

/// The members of a message that decide where it goes. Absent and `null` are the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Envelope<'a> {
    /// The member `type`.
    pub kind: Option<RawString<'a>>,
    /// The member `to`.
    pub to: Option<RawString<'a>>,
    /// The member `namespace`.
    pub namespace: Option<RawString<'a>>,
    /// The member `payload`: its bytes as sent, without the white space around it.
    pub payload: Option<&'a str>,
}

/// Why a text is no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanError {
    /// Not one JSON document: the grammar is broken, the text ends early, or something follows the document.
    Syntax,
    /// Objects and arrays are nested deeper than [`DEPTH_MAX`](super::DEPTH_MAX).
    Depth,
    /// A well-formed document that is neither an object nor `null`.
    NotAnObject,
    /// The last `type`, `to` or `namespace` is neither a string nor `null`.
    WrongType,
}

/// Proves that the whole text is one well-formed JSON document (RFC 8259, nesting up to [`DEPTH_MAX`]) and finds the
/// members of the envelope. The document is an object, or `null`, which has no members.
///
/// Of members with one name the last counts, also for its type; names are compared after their escapes are resolved.
/// Lone surrogates and numbers of any size pass.
///
/// # Errors
/// See [`ScanError`]. A broken text is never reported as one of the wrong type.
pub fn scan_envelope(text: &str) -> Result<Envelope<'_>, ScanError> {
    let bytes = text.as_bytes();
    let (first, start) = token(bytes, 0);
    if first != b'{' {
        return scan_other_document(bytes, start);
    }
    let mut kind = Member::ABSENT;
    let mut to = Member::ABSENT;
    let mut namespace = Member::ABSENT;
    let mut payload = Member::ABSENT;

    let mut window = [0; WINDOW];
    let mut specials = Specials::from(bytes, start, &mut window);
    let (mut byte, mut at) = token(bytes, start + 1);
    if byte != b'}' {
        loop {
            let name;
            (name, (byte, at)) = skip_name(&mut specials, (byte, at))?;
            let mut member = Member {
                start: at,
                end: at,
                escaped: false,
            };
            if byte == b'"' {
                let string = skip_string(&mut specials, at)?;
                (member.end, member.escaped) = (string.end + 1, string.escaped);
            } else {
                let end;
                (end, specials.word) = skip_value(specials.lent(), (byte, at), 1)?;
                member.end = end;
            }
            match Name::of(text, name) {
                Name::Kind => kind = member,
                Name::To => to = member,
                Name::Namespace => namespace = member,
                Name::Payload => payload = member,
                Name::Other => {}
            }
            (byte, at) = token(bytes, member.end);
            match byte {
                b',' => (byte, at) = token(bytes, at + 1),
                b'}' => break,
                _ => return Err(ScanError::Syntax),
            }
        }
    }
    if skip_white(bytes, at + 1) != bytes.len() {
        return Err(ScanError::Syntax);
    }
    Ok(Envelope {
        kind: kind.string(text)?,
        to: to.string(text)?,
        namespace: namespace.string(text)?,
        payload: payload.value(text),
    })
}

/// A document that does not begin as an object.
#[cold]
fn scan_other_document<'a>(bytes: &[u8], start: usize) -> Result<Envelope<'a>, ScanError> {
    let mut window = [0; WINDOW];
    let specials = Specials::from(bytes, start, &mut window);
    let (end, _) = skip_value(specials, (peek(bytes, start), start), 0)?;
    if skip_white(bytes, end) != bytes.len() {
        return Err(ScanError::Syntax);
    }
    if peek(bytes, start) == b'n' {
        Ok(Envelope::default())
    } else {
        Err(ScanError::NotAnObject)
    }
}

/// Which member of the envelope a name means.
enum Name {
    Kind,
    To,
    Namespace,
    Payload,
    Other,
}

impl Name {
    #[inline]
    fn of(text: &str, name: StringSpan) -> Self {
        if name.escaped {
            return Self::of_escaped(RawString::new(span(text, name.start, name.end), true));
        }
        match text.as_bytes().get(name.start..name.end).unwrap_or_default() {
            b"type" => Self::Kind,
            b"to" => Self::To,
            b"namespace" => Self::Namespace,
            b"payload" => Self::Payload,
            _ => Self::Other,
        }
    }

    #[cold]
    fn of_escaped(name: RawString<'_>) -> Self {
        match () {
            () if name.is("type") => Self::Kind,
            () if name.is("to") => Self::To,
            () if name.is("namespace") => Self::Namespace,
            () if name.is("payload") => Self::Payload,
            () => Self::Other,
        }
    }
}

/// Where the last value seen for a member lies.
#[derive(Clone, Copy)]
struct Member {
    start: usize,
    end: usize,
    /// A string with an escape in it.
    escaped: bool,
}

impl Member {
    const ABSENT: Self = Self {
        start: 0,
        end: 0,
        escaped: false,
    };

    /// The value of a member that has to be a string.
    #[inline]
    fn string(self, text: &str) -> Result<Option<RawString<'_>>, ScanError> {
        if self.end == 0 {
            return Ok(None);
        }
        match peek(text.as_bytes(), self.start) {
            b'"' => {
                let raw = span(text, self.start + 1, self.end - 1);
                Ok(Some(RawString::new(raw, self.escaped)))
            }
            b'n' => Ok(None),
            _ => Err(ScanError::WrongType),
        }
    }

    /// The value of a member that may be anything.
    #[inline]
    fn value(self, text: &str) -> Option<&str> {
        let absent = self.end == 0 || peek(text.as_bytes(), self.start) == b'n';
        (!absent).then(|| span(text, self.start, self.end))
    }
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "not a JSON document",
            Self::Depth => "nested too deeply",
            Self::NotAnObject => "not a JSON object",
            Self::WrongType => "type, to or namespace is not a string",
        })
    }
}

impl std::error::Error for ScanError {}

/// Words of special places that are made at a time: enough for a candidate or a chat message, little to waste on a ping.
const WINDOW: usize = 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn accepted(text: &str) -> bool {
        scan_envelope(text).is_ok()
    }

    fn in_object(value: &str) -> String {
        format!("{{\"payload\":{value}}}")
    }

    #[test]
    fn the_members_of_an_envelope_are_found() {
        let text =
            " {\"type\" : \"signal\",\"x\":[1],\"to\":\"a\\u0062\", \"namespace\":\"n\",\"payload\": { \"a\" : 1 } } ";
        let envelope = scan_envelope(text).unwrap();
        assert_eq!(envelope.kind.unwrap().plain(), Some("signal"));
        assert_eq!(envelope.to.unwrap().plain(), None);
        assert!(envelope.to.unwrap().is("ab"));
        assert_eq!(envelope.namespace.unwrap().plain(), Some("n"));
        assert_eq!(envelope.payload, Some("{ \"a\" : 1 }"));
    }

    #[test]
    fn absent_and_null_are_the_same() {
        for text in [
            "{}",
            " { } ",
            "null",
            "\n null\t",
            r#"{"type":null,"to":null,"namespace":null,"payload":null}"#,
        ] {
            let Envelope {
                kind,
                to,
                namespace,
                payload,
            } = scan_envelope(text).unwrap();
            assert!(
                kind.is_none() && to.is_none() && namespace.is_none() && payload.is_none(),
                "{text}"
            );
        }
    }

    #[test]
    fn other_documents_are_no_envelopes() {
        for text in ["[]", "1", "\"{}\"", "true", "false", " [{\"type\":\"a\"}] ", "-0.5e+7"] {
            assert_eq!(scan_envelope(text).unwrap_err(), ScanError::NotAnObject, "{text}");
        }
        for text in [
            "",
            " ",
            "[",
            "[1,]",
            "nul",
            "nulll",
            "null null",
            "1 1",
            "{} {}",
            "{}x",
            "{},",
            "\u{feff}{}",
        ] {
            assert_eq!(scan_envelope(text).unwrap_err(), ScanError::Syntax, "{text}");
        }
    }

    #[test]
    fn the_last_duplicate_counts_also_for_its_type() {
        let envelope =
            scan_envelope(r#"{"type":1,"type":"a","to":"b","to":null,"payload":1,"p\u0061yload":2}"#).unwrap();
        assert_eq!(envelope.kind.unwrap().raw(), "a");
        assert!(envelope.to.is_none());
        assert_eq!(envelope.payload, Some("2"));
        for value in ["1", "true", "false", "[]", "{}", "[\"a\"]"] {
            for name in ["type", "to", "namespace", "\\u0074ype"] {
                let text = format!("{{\"{name}\":\"a\",\"{name}\":{value}}}");
                assert_eq!(scan_envelope(&text).unwrap_err(), ScanError::WrongType, "{text}");
                let broken = format!("{{\"{name}\":{value}");
                assert_eq!(scan_envelope(&broken).unwrap_err(), ScanError::Syntax, "{broken}");
            }
        }
    }

    #[test]
    fn names_are_compared_after_unescaping_and_exactly() {
        let envelope = scan_envelope(r#"{"\u0074ype":"a","Type":1,"types":2,"typ":3,"type\u0000":4,"":5}"#).unwrap();
        assert_eq!(envelope.kind.unwrap().raw(), "a");
    }

    #[test]
    fn the_grammar_is_strict() {
        let numbers = "0|-0|10|1.5|1e5|1E+5|1e-05|-1.5e00|1e999999999999|123456789012345678901234567890";
        let strings = r#"""|"\"\\\/\b\f\n\r\t\u00e9\uABCD"|"\ud800"|"\udc00\ud800""#;
        let others = r#"[]|[ ]|[1,[2],{}]|{}|{"":0}|{"a":{"a":[]},"a":1}|true|false"#;
        let raw = "\"\u{7f}é€😀\u{2028}\"";
        for value in [numbers, strings, others, raw]
            .into_iter()
            .flat_map(|values| values.split('|'))
        {
            assert_eq!(
                scan_envelope(&in_object(value)).unwrap().payload,
                Some(value),
                "{value}"
            );
        }

        let numbers = "|+1|01|-01|00|.5|1.|1.e1|1e|1e+|-|--1|0x1|NaN|Infinity|1_0|1 2|1,";
        let strings = r#""|'a'|"\x"|"\u12"|"\u123g"|"\U0041"|"a\""#;
        let controls = "\"\t\"|\"\n\"|\"\0\"|\"\u{1f}\"|\u{a0}1|\u{b}1|\u{c}1|\0";
        let arrays = "[|[1|[1,|[1,]|[,1]|[1 2]|[1}|]";
        let objects = r#"{|{"a"|{"a":|{"a":1|{"a":1,|{"a":1,}|{a:1}|{1:1}|{"a" 1}|{"a"::1}|{"a":1]|{,}"#;
        let others = "tru|True|nul|undefined|/**/1|1//";
        let values = [numbers, strings, controls, arrays, objects, others];
        for value in values.into_iter().flat_map(|values| values.split('|')) {
            assert_eq!(
                scan_envelope(&in_object(value)).unwrap_err(),
                ScanError::Syntax,
                "{value}"
            );
        }
    }

    #[test]
    fn every_end_and_every_place_of_a_special_byte_is_seen() {
        // Lengths around the words of the search, a special byte at each place.
        for length in 0..40 {
            for at in 0..length {
                let mut text = "é".repeat(length);
                text.replace_range(2 * at..2 * at + 2, "\u{1f}");
                assert!(!accepted(&in_object(&format!("\"{text}\""))));
                text.replace_range(2 * at..=2 * at, "\\n");
                let value = format!("\"{text}\"");
                assert_eq!(scan_envelope(&in_object(&value)).unwrap().payload, Some(value.as_str()));
            }
        }
        let whole = r#"{"type":"signal","payload":{"a":[1,-2.5e+3,"x\u00e9\r\n",true,null]}}"#;
        assert!(accepted(whole));
        for end in 0..whole.len() {
            assert_eq!(
                scan_envelope(&whole[..end]).unwrap_err(),
                ScanError::Syntax,
                "{}",
                &whole[..end]
            );
        }
    }

    #[test]
    fn nesting_is_bounded() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |levels: usize| {
                let inner = if open == "[" { "[]" } else { "{}" };
                in_object(&format!(
                    "{}{inner}{}",
                    open.repeat(levels - 2),
                    close.repeat(levels - 2)
                ))
            };
            assert!(accepted(&nested(128)));
            assert_eq!(scan_envelope(&nested(129)).unwrap_err(), ScanError::Depth);
            assert_eq!(scan_envelope(&nested(1_000_000)).unwrap_err(), ScanError::Depth);
        }
        // Breadth is not depth, and a mixed stack closes in its own order.
        assert!(accepted(&in_object(&format!("[{}[]]", "[],".repeat(1000)))));
        let mixed = format!("{}1{}", "[{\"a\":".repeat(63), "}]".repeat(63));
        assert!(accepted(&in_object(&mixed)));
        assert!(!accepted(&in_object(&mixed.replacen("}]", "]}", 1))));
        assert_eq!(scan_envelope(&"[".repeat(200)).unwrap_err(), ScanError::Depth);
    }
}
