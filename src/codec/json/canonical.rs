//! One spelling for equal values.
//!
//! Owns: what makes two JSON values equal. The canonical form is a key to compare, not JSON for others to read.
//! Never: computes with a number's value, so that no exponent is too large, and the form is hardly longer than its text.

use std::ops::Range;

use super::grammar::{peek, skip_name, skip_number, skip_string, skip_white, span, token};
use super::specials::Specials;
use super::string::Piece;
use super::write::{hex_digit, push_escaped, push_i64};
use super::{DEPTH_MAX, RawString};

/// Appends a string in its one spelling: two strings give the same bytes exactly if they are equal after their escapes
/// are resolved. A lone surrogate stays an escape, `\udxxx` in lower case.
pub fn push_canonical_string(out: &mut Vec<u8>, s: RawString<'_>) {
    out.push(b'"');
    match s.plain() {
        // Without an escape there is nothing in it that needs one.
        Some(plain) => out.extend_from_slice(plain.as_bytes()),
        None => s.pieces().for_each(|piece| push_piece(out, piece)),
    }
    out.push(b'"');
}

fn push_piece(out: &mut Vec<u8>, piece: Piece<'_>) {
    match piece {
        Piece::Plain(run) => out.extend_from_slice(run.as_bytes()),
        Piece::Char(c) => push_escaped(out, c.encode_utf8(&mut [0; 4])),
        Piece::LoneSurrogate(unit) => {
            out.extend_from_slice(b"\\u");
            out.extend([unit >> 12, unit >> 8, unit >> 4, unit].map(|bits| hex_digit(bits as u8)));
        }
    }
}

/// Appends a value in its one spelling: two values give the same bytes exactly if they are equal as JSON. The order of
/// members does not matter, of members with one name the last counts, numbers are compared by their exact decimal value
/// (`1`, `1.0` and `10e-1` are equal, and so are `-0` and `0`), and a string never equals a number.
///
/// The form is at most one and a half times as long as the value. What is no value is appended as it is.
pub fn push_canonical(out: &mut Vec<u8>, value: &str) {
    let start = out.len();
    let bytes = value.as_bytes();
    let end = push_value(out, value, skip_white(bytes, 0), 0);
    if end.is_none_or(|end| skip_white(bytes, end) != bytes.len()) {
        out.truncate(start);
        out.extend_from_slice(bytes);
    }
}

/// Appends the value that begins at a position; the position after it, `None` if there is none.
fn push_value(out: &mut Vec<u8>, text: &str, at: usize, depth: u32) -> Option<usize> {
    let bytes = text.as_bytes();
    match peek(bytes, at) {
        b'{' if depth < DEPTH_MAX => push_object(out, text, at, depth + 1),
        b'[' if depth < DEPTH_MAX => push_array(out, text, at, depth + 1),
        b'"' => {
            let string = skip_string(&mut Specials::from(bytes, at, &mut [0]), at).ok()?;
            push_canonical_string(
                out,
                RawString::new(span(text, string.start, string.end), string.escaped),
            );
            Some(string.end + 1)
        }
        b'-' | b'0'..=b'9' => {
            let end = skip_number(bytes, at).ok()?;
            push_number(out, bytes.get(at..end)?);
            Some(end)
        }
        _ => {
            let literal = [&b"true"[..], b"false", b"null"]
                .into_iter()
                .find(|l| bytes[at..].starts_with(l))?;
            out.extend_from_slice(literal);
            Some(at + literal.len())
        }
    }
}

fn push_array(out: &mut Vec<u8>, text: &str, open: usize, depth: u32) -> Option<usize> {
    let bytes = text.as_bytes();
    out.push(b'[');
    let mut at = skip_white(bytes, open + 1);
    if peek(bytes, at) != b']' {
        loop {
            at = skip_white(bytes, push_value(out, text, at, depth)?);
            match peek(bytes, at) {
                b',' => at = skip_white(bytes, at + 1),
                b']' => break,
                _ => return None,
            }
            out.push(b',');
        }
    }
    out.push(b']');
    Some(at + 1)
}

fn push_object(out: &mut Vec<u8>, text: &str, open: usize, depth: u32) -> Option<usize> {
    let bytes = text.as_bytes();
    out.push(b'{');
    let start = out.len();
    let mut members = Vec::new();
    let mut at = skip_white(bytes, open + 1);
    if peek(bytes, at) != b'}' {
        loop {
            let (name, (_, value_at)) = skip_name(&mut Specials::from(bytes, at, &mut [0]), token(bytes, at)).ok()?;
            let name_start = out.len();
            push_canonical_string(out, RawString::new(span(text, name.start, name.end), name.escaped));
            let name_end = out.len();
            out.push(b':');
            at = skip_white(bytes, push_value(out, text, value_at, depth)?);
            members.push(MemberSpan {
                name: name_start..name_end,
                end: out.len(),
            });
            match peek(bytes, at) {
                b',' => at = skip_white(bytes, at + 1),
                b'}' => break,
                _ => return None,
            }
            out.push(b',');
        }
    }
    sort_members(out, start, members);
    out.push(b'}');
    Some(at + 1)
}

/// Where a member stands in the output.
struct MemberSpan {
    name: Range<usize>,
    end: usize,
}

/// Puts the members that were written from `start` on in the order of their names, of equal names only the last.
fn sort_members(out: &mut Vec<u8>, start: usize, mut members: Vec<MemberSpan>) {
    // Nested objects in order already, the usual case, are not copied once for each level around them.
    if members.is_sorted_by(|a, b| out[a.name.clone()] < out[b.name.clone()]) {
        return;
    }
    // Stable: equal names stay in the order sent.
    members.sort_by(|a, b| out[a.name.clone()].cmp(&out[b.name.clone()]));
    let mut sorted = Vec::with_capacity(out.len() - start);
    for (i, member) in members.iter().enumerate() {
        let next = members.get(i + 1);
        if next.is_some_and(|next| out[next.name.clone()] == out[member.name.clone()]) {
            continue;
        }
        if !sorted.is_empty() {
            sorted.push(b',');
        }
        sorted.extend_from_slice(&out[member.name.start..member.end]);
    }
    out.truncate(start);
    out.extend_from_slice(&sorted);
}

/// Appends a number as its significant digits, without zeros at either end, and a power of ten where it is not zero.
fn push_number(out: &mut Vec<u8>, number: &[u8]) {
    let (mantissa, exponent) = match number.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(e) => (&number[..e], &number[e + 1..]),
        None => (number, &[][..]),
    };
    let start = out.len();
    out.extend(
        mantissa
            .iter()
            .filter(|byte| byte.is_ascii_digit())
            .skip_while(|digit| **digit == b'0'),
    );
    let digits = out.len() - start;
    let significant = out[start..]
        .iter()
        .rposition(|digit| *digit != b'0')
        .map_or(0, |last| last + 1);
    if significant == 0 {
        out.truncate(start);
        out.push(b'0');
        return;
    }
    out.truncate(start + significant);
    if mantissa.starts_with(b"-") {
        out.insert(start, b'-');
    }
    let fraction = mantissa
        .iter()
        .position(|byte| *byte == b'.')
        .map_or(0, |dot| mantissa.len() - dot - 1);
    push_exponent(out, exponent, (digits - significant) as i64 - fraction as i64);
}

/// Appends `e` and the sum of a written exponent of any length and a number no larger than a text is long; nothing if
/// the sum is zero.
fn push_exponent(out: &mut Vec<u8>, exponent: &[u8], shift: i64) {
    let negative = exponent.starts_with(b"-");
    let first = exponent
        .iter()
        .position(|byte| matches!(byte, b'1'..=b'9'))
        .unwrap_or(exponent.len());
    let digits = &exponent[first..];
    if digits.len() <= SMALL_EXPONENT_DIGITS {
        let size = digits.iter().fold(0, |size, digit| size * 10 + i64::from(digit - b'0'));
        let sum = if negative { shift - size } else { shift + size };
        if sum != 0 {
            out.push(b'e');
            push_i64(out, sum);
        }
        return;
    }
    // Larger than any shift: the sign stays, and the sum is made in place, digit by digit from the last.
    out.extend_from_slice(if negative { b"e-" } else { b"e" });
    let start = out.len();
    out.extend_from_slice(digits);
    let mut carry = if negative { -shift } else { shift };
    for digit in out[start..].iter_mut().rev() {
        if carry == 0 {
            break;
        }
        let sum = i64::from(*digit - b'0') + carry;
        *digit = b'0' + sum.rem_euclid(10) as u8;
        carry = sum.div_euclid(10);
    }
    if carry > 0 {
        out.insert(start, b'1'); // 99...9 and a little more
    } else if out[start] == b'0' {
        out.remove(start); // 10...0 and a little less
    }
}

/// An exponent of so many digits is added as an integer: it leaves room for the length of any text. One with more
/// digits is at least 10^17, and no text is as long as that.
const SMALL_EXPONENT_DIGITS: usize = 17;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::super::fixtures::{Tree, spelled, tree};
    use super::*;

    fn canonical(value: &str) -> String {
        let mut out = b">".to_vec();
        push_canonical(&mut out, value);
        String::from_utf8(out.split_off(1)).unwrap()
    }

    #[test]
    fn numbers_are_compared_by_value() {
        for (form, spellings) in [
            (
                "0",
                &["0", "-0", "0.0", "-0.000", "0e5", "0E-99999999999999999999", "0.0e+7"][..],
            ),
            (
                "1",
                &[
                    "1",
                    "1.0",
                    "10e-1",
                    "0.1e1",
                    "1e0",
                    "1E+0",
                    "1.000e-0",
                    "0.0001e4",
                    "1e000000000000000000000000",
                ],
            ),
            ("-15e-1", &["-1.5", "-15e-1", "-0.15e1", "-1.50"]),
            ("12e1", &["120", "12e1", "1.2e2", "120.00", "0.12E+3"]),
            ("1e999999999", &["1e999999999", "10e999999998", "0.1e1000000000"]),
            (
                "1e100000000000000000",
                &["1e100000000000000000", "10e99999999999999999", "0.1e100000000000000001"],
            ),
            (
                "1e-99999999999999999",
                &[
                    "10e-100000000000000000",
                    "1e-99999999999999999",
                    "0.1e-99999999999999998",
                ],
            ),
            (
                "1e99999999999999999999",
                &["0.1e100000000000000000000", "1e99999999999999999999"],
            ),
            (
                "1e100000000000000000000",
                &["10e99999999999999999999", "1e0100000000000000000000"],
            ),
            (
                "1e-100000000000000000000",
                &["0.1e-99999999999999999999", "1e-100000000000000000000"],
            ),
            (
                "123456789012345678901234567890123",
                &["123456789012345678901234567890123.0"],
            ),
        ] {
            for spelling in spellings {
                assert_eq!(canonical(spelling), form, "{spelling}");
            }
        }
    }

    #[test]
    fn neighbours_differ() {
        let values = [
            "0",
            "1",
            "-1",
            "\"1\"",
            "\"0\"",
            "10",
            "1.5",
            "0.1",
            "1e-1000000000000000000000",
            "1e1000000000000000000000",
            "9007199254740993",
            "9007199254740992",
            "null",
            "\"null\"",
            "true",
            "false",
            "[]",
            "{}",
            "[[]]",
            "[null]",
            "\"\"",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\\\ud800\"",
            "\"\\ufffd\"",
            "[1,0]",
            "[10]",
            "[0,1]",
            "\"1,0\"",
            "{\"a\":1}",
            "{\"a\":\"1\"}",
            "{\"a\":null}",
            "{\"A\":1}",
            "[{\"a\":1}]",
            "{\"a\":{\"a\":1}}",
        ];
        for (i, a) in values.iter().enumerate() {
            for b in &values[..i] {
                assert!(*b == "0.1" && *a == "1e-1" || canonical(a) != canonical(b), "{a} {b}");
            }
        }
    }

    #[test]
    fn strings_are_compared_by_their_characters() {
        assert_eq!(
            canonical(r#""\u0041\/\u00E9\ud83d\ude00\u0022\u000a\u0001""#),
            "\"A/é😀\\\"\\n\\u0001\""
        );
        assert_eq!(canonical(r#""\uD800 \uDFFF""#), r#""\ud800 \udfff""#);
    }

    #[test]
    fn order_and_overruled_duplicates_do_not_matter() {
        let form = r#"{"a":[1,{"x":1,"y":2}],"b":null,"ab":""}"#;
        let other = r#" { "b" : 7, "ab":"", "\u0061":[1.0, {"y":2,"z":0,"x":3,"x":1e0} ] , "b":null} "#;
        let nearly = other.replace("\"z\":0,", "");
        assert_eq!(canonical(form), canonical(&nearly));
        assert_ne!(canonical(form), canonical(other));
    }

    #[test]
    fn the_form_stays_short() {
        let tens = format!("[{}]", ["10"; 1000].join(","));
        for value in [
            "1e999999999",
            "10",
            "[10,10]",
            tens.as_str(),
            "1e-99999999999999999999999999999999",
        ] {
            assert!(canonical(value).len() <= value.len() * 3 / 2, "{value}");
        }
    }

    #[test]
    fn what_is_no_value_is_kept() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            " ",
            "{",
            "[1,",
            "[1 2]",
            "{\"a\"}",
            "tru",
            "1 2",
            "-",
            "1e",
            "\"",
            "€",
            deep.as_str(),
        ] {
            assert_eq!(canonical(text), text);
        }
    }

    proptest! {
        /// One tree in two spellings: other order, white space, escapes, numbers, and overruled duplicates.
        #[test]
        fn equal_values_have_one_form(tree in tree(), a in any::<u64>(), b in any::<u64>()) {
            let (a, b) = (spelled(&tree, a), spelled(&tree, b));
            prop_assert_eq!(canonical(&a), canonical(&b), "{} {}", a, b);
            prop_assert!(canonical(&a).len() <= a.len() * 3 / 2 + 1);
        }

        /// Small trees of few leaves, so that equal ones are met often.
        #[test]
        fn forms_are_equal_exactly_if_values_are(a in tree(), b in tree(), i in any::<u64>()) {
            prop_assert_eq!(canonical(&spelled(&a, i)) == canonical(&spelled(&b, i)), Tree::equal(&a, &b));
        }
    }
}
