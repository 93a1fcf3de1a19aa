//! The envelope scan and the grammar beneath it.
//!
//! Owns: what is well-formed, and where a value ends.
//! Never: allocates, recurses, or resolves an escape that is not in a member name.

use std::fmt;

use super::{DEPTH_MAX, RawString};

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
    /// Objects and arrays are nested deeper than [`DEPTH_MAX`].
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
    let start = skip_white(bytes, 0);
    if peek(bytes, start) != b'{' {
        return scan_other_document(bytes, start);
    }
    let mut kind = Member::Absent;
    let mut to = Member::Absent;
    let mut namespace = Member::Absent;
    let mut payload = None;

    let mut at = skip_white(bytes, start + 1);
    if peek(bytes, at) == b'}' {
        at += 1;
    } else {
        loop {
            let (name, value_at) = skip_name(bytes, at)?;
            let mut escaped = false;
            if peek(bytes, value_at) == b'"' {
                let string = skip_string(bytes, value_at)?;
                (at, escaped) = (string.end + 1, string.escaped);
            } else {
                at = skip_value(bytes, value_at, 1)?;
            }
            match Name::of(span(text, name.start, name.end), name.escaped) {
                Name::Kind => kind = Member::read(text, value_at, at, escaped),
                Name::To => to = Member::read(text, value_at, at, escaped),
                Name::Namespace => namespace = Member::read(text, value_at, at, escaped),
                Name::Payload => payload = Some(span(text, value_at, at)).filter(|value| *value != "null"),
                Name::Other => {}
            }
            at = skip_white(bytes, at);
            match peek(bytes, at) {
                b',' => at = skip_white(bytes, at + 1),
                b'}' => break at += 1,
                _ => return Err(ScanError::Syntax),
            }
        }
    }
    if skip_white(bytes, at) != bytes.len() {
        return Err(ScanError::Syntax);
    }
    Ok(Envelope {
        kind: kind.string()?,
        to: to.string()?,
        namespace: namespace.string()?,
        payload,
    })
}

/// A document that does not begin as an object.
#[cold]
fn scan_other_document<'a>(bytes: &[u8], start: usize) -> Result<Envelope<'a>, ScanError> {
    let end = skip_value(bytes, start, 0)?;
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
    fn of(raw: &str, escaped: bool) -> Self {
        if escaped {
            return Self::of_escaped(RawString::new(raw, escaped));
        }
        match raw {
            "type" => Self::Kind,
            "to" => Self::To,
            "namespace" => Self::Namespace,
            "payload" => Self::Payload,
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

/// The last value seen for a member that has to be a string.
#[derive(Clone, Copy)]
enum Member<'a> {
    Absent,
    String(RawString<'a>),
    WrongType,
}

impl<'a> Member<'a> {
    /// The member whose value was found well-formed between the two positions.
    #[inline]
    fn read(text: &'a str, start: usize, end: usize, escaped: bool) -> Self {
        match peek(text.as_bytes(), start) {
            b'"' => Self::String(RawString::new(span(text, start + 1, end - 1), escaped)),
            b'n' => Self::Absent,
            _ => Self::WrongType,
        }
    }

    fn string(self) -> Result<Option<RawString<'a>>, ScanError> {
        match self {
            Self::Absent => Ok(None),
            Self::String(string) => Ok(Some(string)),
            Self::WrongType => Err(ScanError::WrongType),
        }
    }
}

/// Where a string's characters lie, without the quotes.
#[derive(Clone, Copy)]
pub(super) struct StringSpan {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) escaped: bool,
}

/// Skips a member name, the colon and the white space after it: the name, and where its value begins.
#[inline]
pub(super) fn skip_name(bytes: &[u8], at: usize) -> Result<(StringSpan, usize), ScanError> {
    if peek(bytes, at) != b'"' {
        return Err(ScanError::Syntax);
    }
    let name = skip_string(bytes, at)?;
    let colon = skip_white(bytes, name.end + 1);
    if peek(bytes, colon) != b':' {
        return Err(ScanError::Syntax);
    }
    Ok((name, skip_white(bytes, colon + 1)))
}

/// Skips the value that begins at `at`, inside `outer` levels of nesting: the position after its last byte.
///
/// One loop with a bit for each open level (1 = object), so no input can use up the stack.
#[inline]
pub(super) fn skip_value(bytes: &[u8], mut at: usize, outer: u32) -> Result<usize, ScanError> {
    let mut open: u128 = 0;
    let mut depth = outer;
    loop {
        match peek(bytes, at) {
            b'"' => at = skip_string(bytes, at)?.end + 1,
            b'{' => {
                if depth == DEPTH_MAX {
                    return Err(ScanError::Depth);
                }
                at = skip_white(bytes, at + 1);
                if peek(bytes, at) == b'}' {
                    at += 1;
                } else {
                    depth += 1;
                    open = open << 1 | 1;
                    at = skip_name(bytes, at)?.1;
                    continue;
                }
            }
            b'[' => {
                if depth == DEPTH_MAX {
                    return Err(ScanError::Depth);
                }
                at = skip_white(bytes, at + 1);
                if peek(bytes, at) == b']' {
                    at += 1;
                } else {
                    depth += 1;
                    open <<= 1;
                    continue;
                }
            }
            b'-' | b'0'..=b'9' => at = skip_number(bytes, at)?,
            b't' => at = skip_literal(bytes, at, b"true")?,
            b'f' => at = skip_literal(bytes, at, b"false")?,
            b'n' => at = skip_literal(bytes, at, b"null")?,
            _ => return Err(ScanError::Syntax),
        }
        loop {
            if depth == outer {
                return Ok(at);
            }
            let in_object = open & 1 == 1;
            at = skip_white(bytes, at);
            match (peek(bytes, at), in_object) {
                (b',', true) => {
                    at = skip_name(bytes, skip_white(bytes, at + 1))?.1;
                    break;
                }
                (b',', false) => {
                    at = skip_white(bytes, at + 1);
                    break;
                }
                (b'}', true) | (b']', false) => {
                    at += 1;
                    depth -= 1;
                    open >>= 1;
                }
                _ => return Err(ScanError::Syntax),
            }
        }
    }
}

/// Skips the string whose opening quote is at `quote`.
#[inline]
pub(super) fn skip_string(bytes: &[u8], quote: usize) -> Result<StringSpan, ScanError> {
    let start = quote + 1;
    let mut at = start;
    let mut escaped = false;
    loop {
        at = find_special(bytes, at);
        match peek(bytes, at) {
            b'"' => {
                return Ok(StringSpan {
                    start,
                    end: at,
                    escaped,
                });
            }
            b'\\' => {
                escaped = true;
                // Line ends come as two escapes in a row: look for the next one before searching again.
                while peek(bytes, at) == b'\\' {
                    at = skip_escape(bytes, at)?;
                }
            }
            _ => return Err(ScanError::Syntax),
        }
    }
}

/// The position of the next quote, backslash or control character, or the end of the text.
#[inline]
pub(super) fn find_special(bytes: &[u8], mut at: usize) -> usize {
    // Eight bytes at a time. The lowest marked byte is exact: a borrow only reaches the bytes above a true hit.
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (EACH * b'"' as u64);
        let backslash = word ^ (EACH * b'\\' as u64);
        let hits = (quote.wrapping_sub(EACH) & !quote)
            | (backslash.wrapping_sub(EACH) & !backslash)
            | (word.wrapping_sub(EACH * 0x20) & !word);
        let hits = hits & (EACH << 7);
        if hits != 0 {
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

/// Skips the escape whose backslash is at `at`. Surrogates are not paired: a lone one passes.
#[inline]
fn skip_escape(bytes: &[u8], at: usize) -> Result<usize, ScanError> {
    match peek(bytes, at + 1) {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(at + 2),
        b'u' => match bytes.get(at + 2..at + 6) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => Ok(at + 6),
            _ => Err(ScanError::Syntax),
        },
        _ => Err(ScanError::Syntax),
    }
}

/// Skips a number: RFC 8259 section 6.
#[inline]
pub(super) fn skip_number(bytes: &[u8], mut at: usize) -> Result<usize, ScanError> {
    if peek(bytes, at) == b'-' {
        at += 1;
    }
    at = if peek(bytes, at) == b'0' {
        at + 1
    } else {
        skip_digits(bytes, at)?
    };
    if peek(bytes, at) == b'.' {
        at = skip_digits(bytes, at + 1)?;
    }
    if matches!(peek(bytes, at), b'e' | b'E') {
        at += 1;
        if matches!(peek(bytes, at), b'+' | b'-') {
            at += 1;
        }
        at = skip_digits(bytes, at)?;
    }
    Ok(at)
}

/// Skips one or more decimal digits.
#[inline]
fn skip_digits(bytes: &[u8], mut at: usize) -> Result<usize, ScanError> {
    let start = at;
    while peek(bytes, at).is_ascii_digit() {
        at += 1;
    }
    if at == start { Err(ScanError::Syntax) } else { Ok(at) }
}

#[inline]
fn skip_literal(bytes: &[u8], at: usize, literal: &[u8]) -> Result<usize, ScanError> {
    match bytes.get(at..) {
        Some(rest) if rest.starts_with(literal) => Ok(at + literal.len()),
        _ => Err(ScanError::Syntax),
    }
}

#[inline]
pub(super) fn skip_white(bytes: &[u8], mut at: usize) -> usize {
    while matches!(peek(bytes, at), b' ' | b'\t' | b'\n' | b'\r') {
        at += 1;
    }
    at
}

/// The byte at a position. Past the end it is zero, which is no token: it fails wherever a byte is expected.
#[inline]
pub(super) fn peek(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// The text between two positions at which tokens begin or end; empty if they are none.
#[inline]
pub(super) fn span(text: &str, start: usize, end: usize) -> &str {
    text.get(start..end).unwrap_or_default()
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

/// One in every byte of a word: times a byte it repeats the byte.
const EACH: u64 = 0x0101_0101_0101_0101;

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
