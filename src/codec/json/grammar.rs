//! The grammar of RFC 8259, one token after the other.
//!
//! Owns: what is well-formed, and where a value ends.
//! Never: allocates, recurses, or resolves an escape.

use super::specials::{Specials, Word};
use super::{DEPTH_MAX, ScanError};

/// Where a string's characters lie, without the quotes.
#[derive(Clone, Copy)]
pub(super) struct StringSpan {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) escaped: bool,
}

/// A token's first byte and where it stands. The end of a text has zero, which is no token.
pub(super) type Token = (u8, usize);

/// The token at or after a position, past white space.
#[inline(always)]
pub(super) fn token(bytes: &[u8], at: usize) -> Token {
    // Nearly always there is none: one comparison, and the rest elsewhere.
    let byte = peek(bytes, at);
    if byte > b' ' {
        (byte, at)
    } else {
        token_after_white(bytes, at)
    }
}

#[inline(never)]
fn token_after_white(bytes: &[u8], at: usize) -> Token {
    let at = skip_white(bytes, at);
    (peek(bytes, at), at)
}

/// Skips a member name, the colon and the white space after it: the name, and where its value begins.
#[inline(always)] // See `Specials::next`.
pub(super) fn skip_name<const W: usize>(
    specials: &mut Specials<'_, '_, W>,
    name: Token,
) -> Result<(StringSpan, Token), ScanError> {
    let (quote, at) = name;
    if quote != b'"' {
        return Err(ScanError::Syntax);
    }
    let bytes = specials.bytes();
    let start = at.wrapping_add(1);
    let end = specials.next(start);
    // Nearly always there is no escape in a name and no white space behind it.
    if let Some([b'"', b':', value]) = bytes.get(end..).and_then(<[u8]>::first_chunk)
        && *value > b' '
    {
        let escaped = false;
        return Ok((StringSpan { start, end, escaped }, (*value, end.wrapping_add(2))));
    }
    let name = end_string(specials, start, end)?;
    let (colon, at) = token(bytes, name.end + 1);
    if colon != b':' {
        return Err(ScanError::Syntax);
    }
    Ok((name, token(bytes, at + 1)))
}

/// Skips the value that begins with a token, inside `outer` levels of nesting: the position after its last byte, and
/// where the special places go on.
///
/// One loop with a bit for each open level (1 = object), so no input can use up the stack.
#[inline(never)] // It needs all registers.
pub(super) fn skip_value<const W: usize>(
    mut lent: Specials<'_, '_, W>,
    begin: Token,
    outer: u32,
) -> Result<(usize, Word), ScanError> {
    // A copy that lies in registers, where an argument of this size does not.
    let mut specials = lent.lent();
    let bytes = specials.bytes();
    let levels = DEPTH_MAX - outer;
    let mut open = [0_u64; 2];
    let mut depth = 0_u32;
    let mut named = false;
    let (mut byte, mut at) = begin;
    loop {
        if named {
            (byte, at) = skip_name(&mut specials, (byte, at))?.1;
        }
        match byte {
            b'"' => at = skip_string(&mut specials, at)?.end.wrapping_add(1),
            b'-' | b'0'..=b'9' => at = skip_number(bytes, at)?,
            b'{' | b'[' => {
                if depth == levels {
                    return Err(ScanError::Depth);
                }
                let begin = byte;
                (byte, at) = token(bytes, at + 1);
                // The closing ones stand two places after the opening ones.
                if byte == begin + 2 {
                    at += 1;
                } else {
                    named = begin == b'{';
                    if let Some(levels) = open.get_mut((depth / 64) as usize) {
                        *levels = *levels & !(1 << (depth % 64)) | u64::from(named) << (depth % 64);
                    }
                    depth += 1;
                    continue;
                }
            }
            b't' => at = skip_literal(bytes, at, b"true")?,
            b'f' => at = skip_literal(bytes, at, b"false")?,
            b'n' => at = skip_literal(bytes, at, b"null")?,
            _ => return Err(ScanError::Syntax),
        }
        loop {
            if depth == 0 {
                return Ok((at, specials.word));
            }
            // Nearly always there is no white space around a comma.
            if let Some([b',', next]) = bytes.get(at..).and_then(<[u8]>::first_chunk)
                && *next > b' '
            {
                (byte, at) = (*next, at.wrapping_add(1));
                break;
            }
            (byte, at) = token(bytes, at);
            match byte {
                b',' => {
                    (byte, at) = token(bytes, at + 1);
                    break;
                }
                b'}' if named => {}
                b']' if !named => {}
                _ => return Err(ScanError::Syntax),
            }
            at += 1;
            depth -= 1;
            let outer = depth.wrapping_sub(1);
            named = open
                .get((outer / 64) as usize)
                .is_some_and(|levels| levels >> (outer % 64) & 1 == 1);
        }
    }
}

/// Skips the string whose opening quote is at `quote`.
#[inline(always)] // See `Specials::next`.
pub(super) fn skip_string<const W: usize>(
    specials: &mut Specials<'_, '_, W>,
    quote: usize,
) -> Result<StringSpan, ScanError> {
    let start = quote.wrapping_add(1);
    let end = specials.next(start);
    end_string(specials, start, end)
}

/// Skips the rest of the string that begins at `start` and has its first special place at `end`.
#[inline(always)] // See `Specials::next`.
fn end_string<const W: usize>(
    specials: &mut Specials<'_, '_, W>,
    start: usize,
    end: usize,
) -> Result<StringSpan, ScanError> {
    if peek(specials.bytes(), end) == b'"' {
        let escaped = false;
        return Ok(StringSpan { start, end, escaped });
    }
    let escaped = true;
    let (end, word) = skip_escaped(specials.lent(), end)?;
    specials.word = word;
    Ok(StringSpan { start, end, escaped })
}

/// Skips the rest of a string, from its first backslash: its closing quote, and what is special after it.
#[inline(never)]
fn skip_escaped<const W: usize>(mut lent: Specials<'_, '_, W>, mut at: usize) -> Result<(usize, Word), ScanError> {
    let mut specials = lent.lent(); // As in `skip_value`.
    let bytes = specials.bytes();
    loop {
        // The line ends of a session description: nearly all escapes there are.
        let line_end = bytes.get(at..).and_then(<[u8]>::first_chunk) == Some(br"\r\n");
        at = match peek(bytes, at) {
            _ if line_end => at.wrapping_add(4),
            b'"' => return Ok((at, specials.word)),
            b'\\' => skip_escape(bytes, at)?,
            _ => return Err(ScanError::Syntax),
        };
        at = specials.next(at);
    }
}

/// Skips the escape whose backslash is at `at`. Surrogates are not paired: a lone one passes.
#[inline(always)]
fn skip_escape(bytes: &[u8], at: usize) -> Result<usize, ScanError> {
    match peek(bytes, at + 1) {
        b'n' | b'r' | b'"' | b'\\' | b'/' | b'b' | b'f' | b't' => Ok(at + 2),
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
