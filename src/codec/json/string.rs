//! Strings whose escapes are still as sent.
//!
//! Owns: what an escape means. Never: allocates for a string without escapes.

use std::borrow::Cow;

/// A JSON string's characters between the quotes, escapes not yet resolved.
#[derive(Clone, Copy, Debug)]
pub struct RawString<'a> {
    raw: &'a str,
    escaped: bool,
}

impl<'a> RawString<'a> {
    pub(super) fn new(raw: &'a str, escaped: bool) -> Self {
        Self { raw, escaped }
    }

    /// The characters between the quotes, as sent.
    #[inline]
    pub fn raw(self) -> &'a str {
        self.raw
    }

    /// The string itself, if it was sent without an escape: nearly always, and free.
    #[inline]
    pub fn plain(self) -> Option<&'a str> {
        (!self.escaped).then_some(self.raw)
    }

    /// The string with its escapes resolved. `None`: it holds a lone surrogate, which no text can hold.
    pub fn unescape(self) -> Option<Cow<'a, str>> {
        if let Some(plain) = self.plain() {
            return Some(Cow::Borrowed(plain));
        }
        // An escape is longer than what it stands for: this is enough.
        let mut text = String::with_capacity(self.raw.len());
        for piece in self.pieces() {
            match piece {
                Piece::Plain(run) => text.push_str(run),
                Piece::Char(c) => text.push(c),
                Piece::LoneSurrogate(_) => return None,
            }
        }
        Some(Cow::Owned(text))
    }

    /// Whether the string, its escapes resolved, is `name`. Does not allocate.
    pub fn is(self, name: &str) -> bool {
        if let Some(plain) = self.plain() {
            return plain == name;
        }
        let mut rest = name;
        for piece in self.pieces() {
            let after = match piece {
                Piece::Plain(run) => rest.strip_prefix(run),
                Piece::Char(c) => rest.strip_prefix(c),
                Piece::LoneSurrogate(_) => None,
            };
            match after {
                Some(after) => rest = after,
                None => return false,
            }
        }
        rest.is_empty()
    }

    /// What the string is made of, in order.
    pub(super) fn pieces(self) -> Pieces<'a> {
        Pieces { rest: self.raw }
    }
}

/// A part of a string.
pub(super) enum Piece<'a> {
    /// Characters that stand for themselves.
    Plain(&'a str),
    /// What one escape, or a pair of surrogates, stands for.
    Char(char),
    /// Half of a pair.
    LoneSurrogate(u16),
}

/// The parts of a string, in order.
pub(super) struct Pieces<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let Some(escape) = self.rest.strip_prefix('\\') else {
            let (run, rest) = self.rest.split_at(self.rest.find('\\').unwrap_or(self.rest.len()));
            self.rest = rest;
            return (!run.is_empty()).then_some(Piece::Plain(run));
        };
        let mut chars = escape.chars();
        let c = match chars.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => return self.unicode(),
            itself => itself,
        };
        self.rest = chars.as_str();
        Some(Piece::Char(c))
    }
}

impl<'a> Pieces<'a> {
    /// The `\uXXXX` that comes next, with its second half if it is the first of a pair (RFC 8259 section 7).
    fn unicode(&mut self) -> Option<Piece<'a>> {
        let (first, rest) = code_unit(self.rest)?;
        self.rest = rest;
        if let Some(c) = char::from_u32(u32::from(first)) {
            return Some(Piece::Char(c));
        }
        // The half that matters is the pair's order: high, then low.
        if let Some((second, rest)) = code_unit(rest)
            && let Some(Ok(c)) = char::decode_utf16([first, second]).next()
        {
            self.rest = rest;
            return Some(Piece::Char(c));
        }
        Some(Piece::LoneSurrogate(first))
    }
}

/// The `\uXXXX` at the head of a text, and what follows it.
fn code_unit(text: &str) -> Option<(u16, &str)> {
    let digits = text.strip_prefix("\\u")?;
    let (digits, rest) = digits.split_at_checked(4)?;
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::as_string;
    use super::*;

    fn string(value: &str) -> RawString<'_> {
        as_string(value).unwrap()
    }

    #[test]
    fn a_string_without_escapes_is_borrowed() {
        let plain = string(r#""grün €""#);
        assert_eq!(plain.raw(), "grün €");
        assert_eq!(plain.plain(), Some("grün €"));
        assert!(matches!(plain.unescape(), Some(Cow::Borrowed("grün €"))));
        assert!(plain.is("grün €") && !plain.is("grün") && !plain.is("grün €€"));
    }

    #[test]
    fn every_escape_is_resolved() {
        let escaped = string(r#""a\"\\\/\b\f\n\r\t\u0041\u00e9\u20AC\ud83d\uDE00z""#);
        let expected = "a\"\\/\u{8}\u{c}\n\r\tA\u{e9}\u{20ac}\u{1f600}z";
        assert_eq!(escaped.plain(), None);
        assert_eq!(escaped.unescape().unwrap(), expected);
        assert!(escaped.is(expected));
        assert!(!escaped.is(&expected[..expected.len() - 1]));
        assert!(!escaped.is(&format!("{expected}z")));
    }

    #[test]
    fn a_lone_surrogate_has_no_text() {
        for raw in [
            r#""\ud800""#,
            r#""\udc00""#,
            r#""a\ud800z""#,
            r#""\ud800\u0041""#,
            r#""\udc00\ud800""#,
        ] {
            assert_eq!(string(raw).unescape(), None, "{raw}");
            assert!(!string(raw).is("\u{fffd}"), "{raw}");
        }
        // A high half, then a whole pair.
        let pieces: Vec<_> = string(r#""\ud800\ud83d\ude00""#).pieces().collect();
        assert!(matches!(
            pieces[..],
            [Piece::LoneSurrogate(0xd800), Piece::Char('\u{1f600}')]
        ));
    }
}
