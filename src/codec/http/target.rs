//! What stands in a request's target: escapes, and the values of its query.
//!
//! Owns: percent-decoding (RFC 3986 section 2.1), and `name=value` pairs as HTML forms write them.
//! Never: judges what a value means; it may hold any byte.

use std::borrow::Cow;

/// Undoes the escapes of a part of a path. What only looks like an escape stays as it is.
#[must_use]
pub fn percent_decode(text: &str) -> Cow<'_, [u8]> {
    match text.contains('%') {
        true => Cow::Owned(decode(text.as_bytes(), false)),
        false => Cow::Borrowed(text.as_bytes()),
    }
}

/// The first value of that name in a query, decoded; a plus sign is a blank. None: there is no such name.
///
/// Names are compared as they were sent: ours need no escape.
#[must_use]
pub fn query_value<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    Some(match value.contains(['%', '+']) {
        true => Cow::Owned(decode(value.as_bytes(), true)),
        false => Cow::Borrowed(value.as_bytes()),
    })
}

fn decode(text: &[u8], form: bool) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (b'%', [high, low, behind @ ..]) => match escaped(*high, *low) {
                Some(escaped) => (escaped, behind),
                None => (byte, after),
            },
            (b'+', _) if form => (b' ', after),
            _ => (byte, after),
        };
        decoded.push(byte);
        rest = after;
    }
    decoded
}

fn escaped(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_once_and_what_is_none_stays() {
        for (text, decoded) in [
            ("", &b""[..]),
            ("plain", b"plain"),
            ("a%2Fb%2fc", b"a/b/c"),
            ("x%0d%0aPUB", b"x\r\nPUB"),
            ("%2541", b"%41"),
            ("%ff+", b"\xff+"),
            ("%", b"%"),
            ("%4", b"%4"),
            ("%zz%+1%41", b"%zz%+1A"),
        ] {
            assert_eq!(&*percent_decode(text), decoded, "{text}");
        }
    }

    #[test]
    fn the_first_value_of_a_name_counts() {
        for (query, value) in [
            ("", None),
            ("client_ips=1", None),
            ("client_ip", Some(&b""[..])),
            ("client_ip=", Some(b"")),
            ("a=b&client_ip=192.0.2.1&client_ip=192.0.2.2", Some(b"192.0.2.1")),
            ("client_ip=2001%3adb8%3A%3a1", Some(b"2001:db8::1")),
            ("client_ip=a+b%2B=c", Some(b"a b+=c")),
            ("&&=&client_ip=x", Some(b"x")),
        ] {
            assert_eq!(query_value(query, "client_ip").as_deref(), value, "{query}");
        }
    }
}
