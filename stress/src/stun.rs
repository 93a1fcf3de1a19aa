//! STUN as a client of a binding needs it (RFC 8489 sections 5, 6 and 14.2): a request, and whether an answer is the right one.
//!
//! Owns: the bytes. It shares no code with the server, whose mistakes it is to find.
//! Never: sends them.

use std::net::{IpAddr, SocketAddr};

/// What tells one transaction from all others.
pub type TransactionId = [u8; 12];

/// Bytes of a message before its attributes, and of a request, which has none.
pub const HEADER_BYTES: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const REQUEST: [u8; 2] = [0x00, 0x01];
const ANSWER: [u8; 2] = [0x01, 0x01];
const XOR_MAPPED_ADDRESS: [u8; 2] = [0x00, 0x20];

/// A request for a binding.
pub fn request(id: TransactionId) -> [u8; HEADER_BYTES] {
    let mut message = [0; HEADER_BYTES];
    message[..2].copy_from_slice(&REQUEST);
    message[4..8].copy_from_slice(&COOKIE);
    message[8..].copy_from_slice(&id);
    message
}

/// The transaction of a message; None: it is no STUN message.
pub fn transaction(message: &[u8]) -> Option<TransactionId> {
    let (header, body) = message.split_first_chunk::<HEADER_BYTES>()?;
    let is_whole = usize::from(u16::from_be_bytes([header[2], header[3]])) == body.len();
    let id = header.last_chunk::<12>()?;
    (is_whole && body.len().is_multiple_of(4) && header[4..8] == COOKIE).then_some(*id)
}

/// Whether a message that has a transaction answers with this address, and with no other.
///
/// # Errors
/// What is wrong with it.
pub fn check(answer: &[u8], address: SocketAddr) -> Result<(), &'static str> {
    if answer[..2] != ANSWER {
        return Err("it is not a success response");
    }
    let (wanted, len) = mapped(address, &answer[4..HEADER_BYTES]);
    let (mut rest, mut found) = (&answer[HEADER_BYTES..], false);
    while let Some((&[high, low, len_high, len_low], value)) = rest.split_first_chunk::<4>() {
        let bytes = usize::from(u16::from_be_bytes([len_high, len_low]));
        let Some(after) = value.get(bytes.next_multiple_of(4)..) else {
            return Err("an attribute is longer than the message");
        };
        if [high, low] == XOR_MAPPED_ADDRESS {
            if found {
                return Err("it has two addresses");
            }
            // The first byte has no meaning.
            if bytes != len || value[1..len] != wanted[1..len] {
                return Err("the address is not the one it was sent from");
            }
            found = true;
        }
        rest = after;
    }
    match found {
        true => Ok(()),
        false => Err("it has no address"),
    }
}

/// Makes the answer of a request, in its place; returns its length. There must be room for 24 bytes after the header.
pub fn answer(message: &mut [u8], from: SocketAddr) -> usize {
    let (value, len) = mapped(from, &message[4..HEADER_BYTES]);
    message[..2].copy_from_slice(&ANSWER);
    message[2..4].copy_from_slice(&(4 + len as u16).to_be_bytes());
    message[20..22].copy_from_slice(&XOR_MAPPED_ADDRESS);
    message[22..24].copy_from_slice(&(len as u16).to_be_bytes());
    message[24..24 + len].copy_from_slice(&value[..len]);
    24 + len
}

/// The value of the attribute, and its length. `mask` are the cookie and the transaction.
fn mapped(address: SocketAddr, mask: &[u8]) -> ([u8; 20], usize) {
    let mut value = [0; 20];
    let len = match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            value[1] = 1;
            value[4..8].copy_from_slice(&ip.octets());
            8
        }
        IpAddr::V6(ip) => {
            value[1] = 2;
            value[4..].copy_from_slice(&ip.octets());
            20
        }
    };
    value[2..4].copy_from_slice(&address.port().to_be_bytes());
    value[2] ^= mask[0];
    value[3] ^= mask[1];
    value[4..len]
        .iter_mut()
        .zip(mask)
        .for_each(|(byte, mask)| *byte ^= mask);
    (value, len)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// RFC 5769 sections 2.2 and 2.3, whose addresses these are, without the attributes that need a password.
    const ID: TransactionId = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    fn answered(address: &str) -> Vec<u8> {
        let mut message = [0; 64];
        message[..HEADER_BYTES].copy_from_slice(&request(ID));
        let len = answer(&mut message, address.parse().unwrap());
        message[..len].to_vec()
    }

    #[test]
    fn addresses_are_written_as_in_the_published_vectors() {
        let four = answered("192.0.2.1:32853");
        assert_eq!(
            four[20..],
            [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]
        );
        let six = answered("[2001:db8:1234:5678:11:2233:4455:6677]:32853");
        assert_eq!(
            six[20..],
            [
                0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc,
                0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9
            ]
        );
    }

    #[test]
    fn an_answer_is_right_or_says_what_is_wrong() {
        let address = "192.0.2.1:32853".parse().unwrap();
        let right = answered("192.0.2.1:32853");
        assert_eq!((transaction(&right), check(&right, address)), (Some(ID), Ok(())));
        let spoiled = |change: fn(&mut Vec<u8>)| {
            let mut answer = right.clone();
            change(&mut answer);
            transaction(&answer).is_none() || check(&answer, address).is_err()
        };
        assert!(spoiled(|answer| answer[1] = 0x11), "an error");
        assert!(spoiled(|answer| answer[4] ^= 1), "no cookie");
        assert!(spoiled(|answer| answer[27] ^= 1), "another port");
        assert!(spoiled(|answer| answer[31] ^= 1), "another address");
        assert!(spoiled(|answer| answer[25] = 2), "another family");
        assert!(spoiled(|answer| answer[23] = 4), "a shorter attribute");
        assert!(spoiled(|answer| answer[23] = 40), "a longer attribute");
        assert!(spoiled(|answer| answer[21] = 0x22), "another attribute");
        assert!(spoiled(|answer| answer.truncate(28)), "a piece of it");
        assert!(
            spoiled(|answer| {
                answer.extend_from_within(20..);
                answer[3] = 24;
            }),
            "two addresses"
        );
        let mut long = right.clone();
        long.extend([0x80, 0x22, 0, 3, b'a', b'b', b'c', 0]);
        long[3] += 8;
        assert_eq!(check(&long, address), Ok(()), "and a SOFTWARE");
    }
}
