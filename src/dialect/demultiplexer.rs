//! One port, four dialects: which one a datagram is, and what speaks on a new TCP connection.
//!
//! The tests, their order and the proofs that no client's datagram passes another dialect's test are those of the
//! demultiplexer's specification. They need a few bytes, no state and no memory.
//!
//! Owns: those tests.
//! Never: parses further than it must.

use crate::codec::json_stream::trim_blanks;
use crate::codec::stun;
use crate::message::punch::Dialect;

/// Which dialect a datagram is; None: none of them, drop it without an answer.
pub fn classify(datagram: &[u8]) -> Option<Dialect> {
    if stun::is_stun(datagram) {
        Some(Dialect::Stun)
    } else if is_matchmaker(datagram) {
        Some(Dialect::Matchmaker)
    } else if is_simple(datagram) {
        Some(Dialect::Simple)
    } else if is_natpunch(datagram) {
        Some(Dialect::Natpunch)
    } else {
        None
    }
}

/// A header of seven bytes whose length is right and whose channel is 0, then JSON.
fn is_matchmaker(datagram: &[u8]) -> bool {
    let [_, _, _, _, low, high, 0, b'{', _, ..] = *datagram else {
        return false;
    };
    usize::try_from(i16::from_le_bytes([low, high])) == Ok(datagram.len() - 7)
}

/// A verb, a colon, and six letters of a key; printable ASCII to the end.
fn is_simple(datagram: &[u8]) -> bool {
    let Some((verb, rest)) = datagram.split_at_checked(3) else {
        return false;
    };
    let Some((key, rest)) = rest.split_at_checked(6) else {
        return false;
    };
    matches!(verb, b"HS:" | b"JS:" | b"RS:" | b"CS:" | b"KA:")
        && datagram.len() <= SIMPLE_MAX
        && key.iter().all(u8::is_ascii_lowercase)
        && rest.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// One key of a client's message, then a minimal varint that says exactly how many bytes follow.
pub(super) fn is_natpunch(datagram: &[u8]) -> bool {
    let rest = match datagram {
        [0x0a | 0x2a | 0x4a | 0x52 | 0x5a | 0x6a | 0x7a, rest @ ..] => rest,
        [0xa2 | 0xba, 0x01, rest @ ..] => rest,
        _ => return false,
    };
    if datagram.len() > NATPUNCH_MAX {
        return false;
    }
    match *rest {
        [len @ 0..0x80, ref body @ ..] => body.len() == usize::from(len),
        // A last byte of zero would say nothing: not minimal. Two bytes reach beyond the longest datagram.
        [low @ 0x80..=0xff, high @ 1..0x80, ref body @ ..] => {
            body.len() == (usize::from(high) << 7 | usize::from(low & 0x7f))
        }
        _ => false,
    }
}

/// What speaks first on a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// The lobby dialect's JSON.
    Json,
    /// An HTTP request line.
    Http,
    /// A TLS ClientHello.
    Tls,
    /// Nothing that is served: close.
    Nothing,
    /// All of it is blank: more bytes are needed.
    Unknown,
}

/// What the first bytes of a TCP connection are, and how many blanks stand before that.
pub fn classify_stream(first: &[u8]) -> (Speaks, usize) {
    let blanks = first.len() - trim_blanks(first).len();
    if blanks > BLANKS_MAX {
        return (Speaks::Nothing, blanks);
    }
    let speaks = match first.get(blanks) {
        None => Speaks::Unknown,
        Some(b'{') => Speaks::Json,
        Some(0x16) => Speaks::Tls,
        Some(byte) if byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte) => Speaks::Http,
        Some(_) => Speaks::Nothing,
    };
    (speaks, blanks)
}

/// Longest datagram of the ASCII dialect.
pub const SIMPLE_MAX: usize = 96;
/// Longest datagram of the protobuf dialect.
pub const NATPUNCH_MAX: usize = 1024;
/// Blanks that may stand before the first byte of a TCP connection.
const BLANKS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Each dialect's own test, whatever stands before it in the order.
    fn all(datagram: &[u8]) -> [bool; 4] {
        [
            stun::is_stun(datagram),
            is_matchmaker(datagram),
            is_simple(datagram),
            is_natpunch(datagram),
        ]
    }

    proptest::proptest! {
        #[test]
        fn any_datagram_is_one_dialect_or_none(datagram in proptest::collection::vec(proptest::num::u8::ANY, 0..1100)) {
            let found = classify(&datagram);
            proptest::prop_assert_eq!(found.is_some(), all(&datagram).contains(&true));
        }

        #[test]
        fn a_datagram_of_the_ascii_dialect_is_of_no_other(
            verb in 0..5usize, key in "[a-z]{6}", rest in "[ -~]{0,87}",
        ) {
            let verb = ["HS:", "JS:", "RS:", "CS:", "KA:"][verb];
            let datagram = format!("{verb}{key}{rest}");
            // A length byte and a complete frame of the protobuf dialect can be met by accident, its inner fields cannot.
            proptest::prop_assert_eq!(classify(datagram.as_bytes()), Some(Dialect::Simple));
        }
    }

    #[test]
    fn the_first_byte_of_a_stream_decides_after_sixteen_blanks_at_most() {
        assert_eq!(classify_stream(b""), (Speaks::Unknown, 0));
        assert_eq!(classify_stream(b"                "), (Speaks::Unknown, 16));
        assert_eq!(classify_stream(b"                 "), (Speaks::Nothing, 17));
        assert_eq!(classify_stream(b" \n{"), (Speaks::Json, 2));
        assert_eq!(classify_stream(b"\r\nGET /"), (Speaks::Http, 2));
        assert_eq!(classify_stream(b"\x16\x03"), (Speaks::Tls, 0));
        assert_eq!(classify_stream(b"(x"), (Speaks::Nothing, 0));
    }
}
