//! Writing JSON by hand into a caller's buffer.
//!
//! Owns: escaping and integers. Never: uses the formatting machinery, or allocates beyond the growth of the buffer.

use super::grammar::{peek, skip_string};
use super::specials::Specials;

/// Appends a text as quoted JSON string. Runs without an escape are copied whole.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text);
    out.push(b'"');
}

/// Appends a text with the least escapes that RFC 8259 section 7 asks for.
pub(super) fn push_escaped(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(find_special(rest));
        out.extend_from_slice(plain);
        let Some((&byte, after)) = special.split_first() else {
            return;
        };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            control => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[hex_digit(control >> 4), hex_digit(control)]);
            }
        }
        rest = after;
    }
}

/// The position of the first quote, backslash or control character, or the end. For names and the like, whose few
/// characters do not repay a word of 64 places.
fn find_special(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (nth, word) in words.iter().enumerate() {
        // The lowest marked byte is exact: a borrow only reaches the bytes above a true hit.
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (EACH * b'"' as u64);
        let backslash = word ^ (EACH * b'\\' as u64);
        let hits = (quote.wrapping_sub(EACH) & !quote)
            | (backslash.wrapping_sub(EACH) & !backslash)
            | (word.wrapping_sub(EACH * 0x20) & !word);
        let hits = hits & (EACH << 7);
        if hits != 0 {
            return 8 * nth + (hits.trailing_zeros() / 8) as usize;
        }
    }
    let special = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
    8 * words.len() + rest.iter().position(special).unwrap_or(rest.len())
}

/// The lower case digit of the low four bits.
pub(super) fn hex_digit(bits: u8) -> u8 {
    match bits & 0xf {
        digit @ 0..=9 => b'0' + digit,
        digit => b'a' + digit - 10,
    }
}

/// Appends an integer in decimal.
pub fn push_u64(out: &mut Vec<u8>, n: u64) {
    // Three groups of eight: u64::MAX has 20 digits.
    let mut digits = [b'0'; 24];
    let (groups, _) = digits.as_chunks_mut::<8>();
    let mut rest = n;
    let mut used = 0;
    for group in groups.iter_mut().rev() {
        *group = eight_digits(rest % 100_000_000);
        used += 8;
        rest /= 100_000_000;
        if rest == 0 {
            break;
        }
    }
    let shown = digits.get(24 - used..).unwrap_or_default();
    // One digit stays even if it is zero.
    let zeros = shown.iter().take(7).take_while(|digit| **digit == b'0').count();
    out.extend_from_slice(shown.get(zeros..).unwrap_or_default());
}

/// The digits of a number below 10^8, zeros in front included: halves of halves of it side by side in one word, so that
/// three divisions by constants do for eight digits.
fn eight_digits(n: u64) -> [u8; 8] {
    let fours = (n / 10_000) | ((n % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f; // n / 100 for n < 10,000
    let twos = hundreds | ((fours - hundreds * 100) << 16);
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f; // n / 10 for n < 100
    let ones = tens | ((twos - tens * 10) << 8);
    (ones | 0x3030_3030_3030_3030).to_le_bytes()
}

/// Appends an integer in decimal.
pub fn push_i64(out: &mut Vec<u8>, n: i64) {
    if n < 0 {
        out.push(b'-');
    }
    push_u64(out, n.unsigned_abs());
}

/// Appends a value without the white space between its tokens; all else stays as sent: number spelling, escapes, order.
pub fn push_compact(out: &mut Vec<u8>, value: &str) {
    let bytes = value.as_bytes();
    let mut window = [0; 4];
    let mut specials = Specials::from(bytes, 0, &mut window);
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        match peek(bytes, at) {
            b'"' => match skip_string(&mut specials, at) {
                Ok(string) => at = string.end + 1,
                Err(_) => break, // the rest is no JSON: it stays as it is
            },
            b' ' | b'\t' | b'\n' | b'\r' => {
                out.extend_from_slice(bytes.get(copied..at).unwrap_or_default());
                at += 1;
                copied = at;
            }
            _ => at += 1,
        }
    }
    out.extend_from_slice(bytes.get(copied..).unwrap_or_default());
}

/// One in every byte of a word: times a byte it repeats the byte.
const EACH: u64 = 0x0101_0101_0101_0101;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b">".to_vec();
        write(&mut out);
        String::from_utf8(out.split_off(1)).unwrap()
    }

    #[test]
    fn every_character_is_escaped_as_it_must_be() {
        let all: String = (0..=0x100)
            .filter_map(char::from_u32)
            .chain("€😀\u{2028}".chars())
            .collect();
        assert_eq!(
            written(|out| push_string(out, &all)),
            serde_json::to_string(&all).unwrap()
        );
        assert_eq!(written(|out| push_string(out, "")), "\"\"");
    }

    #[test]
    fn integers_are_written_in_decimal() {
        let powers = (0..20).map(|exponent| 10_u64.pow(exponent));
        let around = powers.flat_map(|power| [power - 1, power, power + 1, power.saturating_mul(9)]);
        for n in around.chain([1_234_567_890, 1_790_000_000_123, u64::MAX]) {
            assert_eq!(written(|out| push_u64(out, n)), n.to_string());
        }
        for n in [0, -1, 42, -10, i64::MAX, i64::MIN] {
            assert_eq!(written(|out| push_i64(out, n)), n.to_string());
        }
    }

    #[test]
    fn compacting_touches_only_white_space_between_tokens() {
        let value = "\t{ \"a b\" : [ 1.0 , 1E+2,\r\n\"\\u0041 \\\" \" ] , \"c\":{ } } ";
        let compact = r#"{"a b":[1.0,1E+2,"\u0041 \" "],"c":{}}"#;
        assert_eq!(written(|out| push_compact(out, value)), compact);
        assert_eq!(written(|out| push_compact(out, compact)), compact);
        assert_eq!(written(|out| push_compact(out, "{ \"a : 1")), "{\"a : 1");
    }

    #[test]
    fn every_group_of_four_digits_is_right_in_either_half() {
        for n in 0..10_000 {
            for n in [n, n * 10_000 + 9_999 - n] {
                assert_eq!(eight_digits(n), format!("{n:08}").as_bytes());
            }
        }
    }

    proptest! {
        #[test]
        fn strings_are_written_as_serde_json_writes_them(text in any::<String>()) {
            prop_assert_eq!(written(|out| push_string(out, &text)), serde_json::to_string(&text).unwrap());
        }
    }
}
