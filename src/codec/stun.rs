//! STUN (RFC 8489), as far as a server that only answers Binding requests needs it.
//!
//! Owns: the header's test, the attributes of a request, and the bytes of the two answers.
//! Never: authenticates anybody, answers an answer or an indication, or allocates.

use std::net::{IpAddr, SocketAddr};

/// Longest STUN message that is looked at: what a path of unknown MTU surely carries, 576 bytes less the headers of IP and
/// UDP (RFC 8489 section 6.1).
pub const MESSAGE_MAX: usize = 548;
/// Longest answer: a refusal that names as many unknown attributes as it may, with a fingerprint.
pub const ANSWER_MAX: usize = HEADER + 8 + 4 + 2 * UNKNOWN_MAX + FINGERPRINT_LEN;

const HEADER: usize = 20;
const FINGERPRINT_LEN: usize = 8;
/// RFC 8489 section 5.
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// RFC 8489 section 14.7.
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// Unknown attributes that a refusal names. A client sends one or two; naming all that fit would make it longer than the request.
const UNKNOWN_MAX: usize = 16;

const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const BINDING_ERROR: [u8; 2] = [0x01, 0x11];

const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const FINGERPRINT: u16 = 0x8028;
/// Attributes that a client may require to be understood, and that change nothing in a Binding answer: USERNAME,
/// MESSAGE-INTEGRITY, REALM, NONCE, MESSAGE-INTEGRITY-SHA256, PASSWORD-ALGORITHM, USERHASH, PRIORITY, USE-CANDIDATE.
const HARMLESS: [u16; 9] = [
    0x0006,
    MESSAGE_INTEGRITY,
    0x0014,
    0x0015,
    MESSAGE_INTEGRITY_SHA256,
    0x001d,
    0x001e,
    0x0024,
    0x0025,
];

/// Whether a datagram is a STUN message: the header's fixed bits, the cookie, and a length that is exactly right.
pub fn is_stun(datagram: &[u8]) -> bool {
    let Some(header) = datagram.first_chunk::<HEADER>() else {
        return false;
    };
    datagram.len() <= MESSAGE_MAX
        && datagram.len().is_multiple_of(4)
        && header[0] & 0xc0 == 0
        && header[4..8] == COOKIE
        && usize::from(u16::from_be_bytes([header[2], header[3]])) == datagram.len() - HEADER
}

/// What became of a STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its answer is the mapped address.
    Success,
    /// Its answer is error 420: it requires something unknown.
    UnknownAttribute,
    /// No Binding request: indications, answers and other methods get none.
    NotARequest,
    /// Broken, or its fingerprint is wrong: no answer.
    Malformed,
}

/// Appends the answer to a datagram that [`is_stun`], sent from `source`; nothing for one that gets none.
pub fn push_answer(out: &mut Vec<u8>, datagram: &[u8], source: SocketAddr) -> Outcome {
    let Some((header, attributes)) = datagram.split_first_chunk::<HEADER>() else {
        return Outcome::Malformed;
    };
    if header[..2] != BINDING_REQUEST {
        return Outcome::NotARequest;
    }
    let Some(request) = Request::read(datagram, attributes) else {
        return Outcome::Malformed;
    };
    let start = out.len();
    let outcome = if request.unknown().is_empty() {
        push_header(out, BINDING_SUCCESS, header);
        push_mapped(out, source, header);
        Outcome::Success
    } else {
        push_header(out, BINDING_ERROR, header);
        push_refusal(out, request.unknown());
        Outcome::UnknownAttribute
    };
    finish(out, start, request.has_fingerprint);
    outcome
}

/// What a Binding request asks for.
struct Request {
    unknown: [u16; UNKNOWN_MAX],
    unknown_count: usize,
    has_fingerprint: bool,
}

impl Request {
    /// None: an attribute runs past the end, or the fingerprint is wrong or not the last attribute.
    fn read(message: &[u8], mut attributes: &[u8]) -> Option<Self> {
        let mut request = Self {
            unknown: [0; UNKNOWN_MAX],
            unknown_count: 0,
            has_fingerprint: false,
        };
        let mut protected = false;
        while let Some((head, rest)) = attributes.split_first_chunk::<4>() {
            if request.has_fingerprint {
                return None;
            }
            let kind = u16::from_be_bytes([head[0], head[1]]);
            let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let value = rest.get(..len)?;
            if kind == FINGERPRINT {
                let before = message.get(..message.len().checked_sub(attributes.len())?)?;
                let expected = u32::from_be_bytes(value.try_into().ok()?);
                if fingerprint(before) != expected {
                    return None;
                }
                request.has_fingerprint = true;
            }
            // RFC 8489 section 14.5: whatever else follows an integrity attribute is ignored.
            if kind < 0x8000 && !protected && !HARMLESS.contains(&kind) {
                request.note_unknown(kind);
            }
            protected |= kind == MESSAGE_INTEGRITY || kind == MESSAGE_INTEGRITY_SHA256;
            // The length of a message is a multiple of four, so the padding is there.
            attributes = rest.get(len.next_multiple_of(4)..)?;
        }
        attributes.is_empty().then_some(request)
    }

    fn note_unknown(&mut self, kind: u16) {
        if !self.unknown().contains(&kind)
            && let Some(place) = self.unknown.get_mut(self.unknown_count)
        {
            *place = kind;
            self.unknown_count += 1;
        }
    }

    fn unknown(&self) -> &[u16] {
        self.unknown.get(..self.unknown_count).unwrap_or_default()
    }
}

/// The header of an answer; its length is set by [`finish`].
fn push_header(out: &mut Vec<u8>, kind: [u8; 2], request: &[u8; HEADER]) {
    out.extend_from_slice(&kind);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&request[4..]);
}

/// RFC 8489 section 14.2.
fn push_mapped(out: &mut Vec<u8>, source: SocketAddr, request: &[u8; HEADER]) {
    let port = source.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
    let mut push = |family: u8, address: &[u8]| {
        push_attribute_head(out, XOR_MAPPED_ADDRESS, 4 + address.len());
        out.extend_from_slice(&[0, family]);
        out.extend_from_slice(&port.to_be_bytes());
        // The cookie and the transaction id, which stand side by side in the header.
        out.extend(address.iter().zip(&request[4..]).map(|(byte, key)| byte ^ key));
    };
    match source.ip() {
        IpAddr::V4(address) => push(1, &address.octets()),
        IpAddr::V6(address) => push(2, &address.octets()),
    }
}

/// Error 420 without a phrase (RFC 8489 sections 14.8 and 14.13): a refusal must not be much longer than its request.
fn push_refusal(out: &mut Vec<u8>, unknown: &[u16]) {
    push_attribute_head(out, ERROR_CODE, 4);
    out.extend_from_slice(&[0, 0, 4, 20]);
    push_attribute_head(out, UNKNOWN_ATTRIBUTES, 2 * unknown.len());
    out.extend(unknown.iter().flat_map(|kind| kind.to_be_bytes()));
    if unknown.len() % 2 == 1 {
        out.extend_from_slice(&[0, 0]);
    }
}

fn push_attribute_head(out: &mut Vec<u8>, kind: u16, len: usize) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(len as u16).to_be_bytes());
}

/// Sets the length of the answer that begins at `start`, and adds the fingerprint.
fn finish(out: &mut Vec<u8>, start: usize, with_fingerprint: bool) {
    let len = out.len() - start - HEADER + if with_fingerprint { FINGERPRINT_LEN } else { 0 };
    if let Some(place) = out.get_mut(start + 2..start + 4) {
        place.copy_from_slice(&(len as u16).to_be_bytes());
    }
    if with_fingerprint {
        let sum = fingerprint(out.get(start..).unwrap_or_default());
        push_attribute_head(out, FINGERPRINT, 4);
        out.extend_from_slice(&sum.to_be_bytes());
    }
}

/// The CRC-32 of ITU V.42 of what stands before the attribute (RFC 8489 section 14.7).
fn fingerprint(before: &[u8]) -> u32 {
    crc32fast::hash(before) ^ FINGERPRINT_XOR
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const REQUEST: [u8; 20] = [
        0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
    ];

    fn answer(request: &[u8]) -> (Outcome, Vec<u8>) {
        let mut out = vec![0xee];
        let outcome = push_answer(&mut out, request, "192.0.2.1:32853".parse().unwrap());
        assert_eq!(out.remove(0), 0xee, "only appended");
        (outcome, out)
    }

    fn with(attributes: &[u8]) -> Vec<u8> {
        let mut request = REQUEST.to_vec();
        request.extend_from_slice(attributes);
        request[2..4].copy_from_slice(&(attributes.len() as u16).to_be_bytes());
        assert!(is_stun(&request));
        request
    }

    #[test]
    fn an_answer_is_at_most_half_as_long_again_as_a_request() {
        for attributes in [&[][..], &[0x77, 0x77, 0, 0], &[0x77, 0x77, 0, 4, 1, 2, 3, 4]] {
            let request = with(attributes);
            let (_, out) = answer(&request);
            assert!(
                out.len() * 10 <= request.len() * 16,
                "{} for {}",
                out.len(),
                request.len()
            );
        }
        let many: Vec<u8> = (0..132u16).flat_map(|kind| [0x70, kind as u8, 0, 0]).collect();
        let (outcome, out) = answer(&with(&many));
        assert_eq!(outcome, Outcome::UnknownAttribute);
        assert!(out.len() <= ANSWER_MAX && is_stun(&out));
    }

    #[test]
    fn what_follows_an_integrity_attribute_is_not_looked_at() {
        let mut attributes = vec![0, 8, 0, 20];
        attributes.extend_from_slice(&[7; 20]);
        attributes.extend_from_slice(&[0x77, 0x77, 0, 0]);
        assert_eq!(answer(&with(&attributes)).0, Outcome::Success);
    }

    #[test]
    fn a_fingerprint_must_be_right_and_last() {
        let mut request = REQUEST.to_vec();
        request[3] = 8;
        let sum = fingerprint(&request);
        request.extend_from_slice(&[0x80, 0x28, 0, 4]);
        request.extend_from_slice(&sum.to_be_bytes());
        let (outcome, out) = answer(&request);
        assert_eq!((outcome, out.len()), (Outcome::Success, 40));
        let mut wrong = request.clone();
        wrong[27] ^= 1;
        assert_eq!(answer(&wrong), (Outcome::Malformed, Vec::new()));
        let followed: Vec<u8> = request[20..].iter().copied().chain([0x80, 0x22, 0, 0]).collect();
        assert_eq!(answer(&with(&followed)), (Outcome::Malformed, Vec::new()));
    }

    #[test]
    fn only_requests_are_answered_and_no_answer_is() {
        let (_, success) = answer(&REQUEST);
        let (_, error) = answer(&with(&[0x77, 0x77, 0, 0]));
        let mut indication = REQUEST;
        indication[1] = 0x11;
        for other in [&success[..], &error, &indication] {
            assert!(is_stun(other));
            assert_eq!(answer(other), (Outcome::NotARequest, Vec::new()));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered_or_not(attributes in proptest::collection::vec(proptest::num::u8::ANY, 0..528)) {
            let mut attributes = attributes;
            attributes.truncate(attributes.len() / 4 * 4);
            let (outcome, out) = answer(&with(&attributes));
            match outcome {
                Outcome::Success | Outcome::UnknownAttribute => proptest::prop_assert!(is_stun(&out)),
                Outcome::NotARequest | Outcome::Malformed => proptest::prop_assert!(out.is_empty()),
            }
        }
    }
}
