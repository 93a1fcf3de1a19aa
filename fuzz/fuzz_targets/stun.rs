//! STUN messages and their answers, beside an implementation that is not ours.
//!
//! Input: one byte for the sender's address family, then a datagram. If it is none, its header is made one: otherwise hardly
//! any input would come past it.
//! Property: what gets an answer, and which, is what the other implementation reads; it reads the answer too, which goes back to
//! the transaction with the sender's address.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use peer_server::codec::stun::{ANSWER_MAX, MESSAGE_MAX, Outcome, is_stun, push_answer};
use stun_types::attribute::{
    AttributeStaticType, ErrorCode, Fingerprint, MessageIntegrity, MessageIntegritySha256, UnknownAttributes,
    XorMappedAddress,
};
use stun_types::message::{BINDING, Message, MessageClass, MessageHeader};

const BEFORE: &[u8] = b"before";
/// Attributes that a request may require without our knowing them (specification, section 6).
const HARMLESS: [u16; 9] = [0x06, 0x08, 0x14, 0x15, 0x1c, 0x1d, 0x1e, 0x24, 0x25];

fuzz_target!(|data: &[u8]| {
    let Some((family, data)) = data.split_first() else {
        return;
    };
    let source: SocketAddr = match family & 1 {
        0 => ([192, 0, 2, *family], 40_000 + u16::from(*family)).into(),
        _ => ([0x2001, 0xdb8, u16::from(*family), 0, 1, 2, 3, 4], 4001).into(),
    };
    check(data, source);
    if !is_stun(data) && data.len() >= 20 {
        check(&mended(data, family & 2 != 0), source);
    }
});

/// The datagram with a right header, and with a right fingerprint at its end.
fn mended(data: &[u8], with_fingerprint: bool) -> Vec<u8> {
    let mut bytes = data[..data.len().min(MESSAGE_MAX - 8) & !3].to_vec();
    bytes[..2].copy_from_slice(&[0, 1]);
    bytes[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    let len = bytes.len() - 20 + if with_fingerprint { 8 } else { 0 };
    bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    if with_fingerprint {
        let sum = Fingerprint::compute(&[&bytes]);
        bytes.extend_from_slice(&[0x80, 0x28, 0, 4]);
        let sum = sum.iter().zip(b"STUN");
        bytes.extend(sum.map(|(byte, key)| byte ^ key));
    }
    bytes
}

fn check(data: &[u8], source: SocketAddr) {
    let mut out = BEFORE.to_vec();
    let outcome = is_stun(data).then(|| push_answer(&mut out, data, source));
    assert!(out.starts_with(BEFORE));
    let answer = &out[BEFORE.len()..];
    let header = MessageHeader::from_bytes(data);
    let whole = header
        .as_ref()
        .is_ok_and(|header| usize::from(header.data_length()) + 20 == data.len());
    assert_eq!(
        outcome.is_some(),
        whole && data.len() <= MESSAGE_MAX && data.len() % 4 == 0
    );
    let Some(outcome) = outcome else { return };

    let answered = matches!(outcome, Outcome::Success | Outcome::UnknownAttribute);
    assert_eq!(answered, !answer.is_empty(), "{outcome:?}");
    let kind = header.unwrap().get_type();
    let is_request = kind.has_class(MessageClass::Request) && kind.method() == BINDING;
    assert_eq!(outcome == Outcome::NotARequest, !is_request);
    if !is_request {
        return;
    }
    let request = Message::from_bytes(data);
    // The other one refuses some of what follows an integrity attribute, and does not look at the form of the rest.
    let is_integrity =
        |kind: &u16| [MessageIntegrity::TYPE.value(), MessageIntegritySha256::TYPE.value()].contains(kind);
    let kinds = kinds(data);
    // Nor does it mind what follows a fingerprint.
    let ends = kinds.iter().position(|kind| *kind == Fingerprint::TYPE.value());
    let goes_on = ends.is_some_and(|at| at + 1 < kinds.len());
    let protected = goes_on || kinds.iter().any(is_integrity);
    if !protected {
        assert_eq!(answered, request.is_ok(), "{outcome:?} {request:?}");
    }
    if answered {
        check_answer(data, answer, source, outcome, protected);
    }
}

fn check_answer(data: &[u8], answer: &[u8], source: SocketAddr, outcome: Outcome, protected: bool) {
    assert!(answer.len() <= ANSWER_MAX);
    let kinds = kinds(data);
    let read = Message::from_bytes(answer).unwrap();
    assert_eq!(read.method(), BINDING);
    let id = MessageHeader::from_bytes(data).unwrap().transaction_id();
    assert_eq!(read.transaction_id(), id);
    assert_eq!(
        read.attribute::<Fingerprint>().is_ok(),
        kinds.contains(&Fingerprint::TYPE.value())
    );
    let unknown: Vec<u16> = kinds
        .iter()
        .copied()
        .filter(|kind| *kind < 0x8000 && !HARMLESS.contains(kind))
        .collect();
    match outcome {
        Outcome::Success => {
            assert!(unknown.is_empty() || protected, "{unknown:x?}");
            assert!(read.has_class(MessageClass::Success));
            assert_eq!(read.attribute::<XorMappedAddress>().unwrap().addr(id), source);
            // Whoever asks gets 12 bytes more, or 24.
            assert!(answer.len() <= data.len() + if source.is_ipv4() { 12 } else { 24 });
        }
        _ => {
            assert!(!unknown.is_empty());
            assert!(read.has_class(MessageClass::Error));
            assert_eq!(read.attribute::<ErrorCode>().unwrap().code(), 420);
            let named = read.attribute::<UnknownAttributes>().unwrap();
            let told = unknown
                .iter()
                .filter(|kind| named.has_attribute((**kind).into()))
                .count();
            assert!(told > 0);
            assert!(
                answer.len() <= data.len() + 12,
                "each one named was four bytes of the request"
            );
        }
    }
}

/// The types of the attributes, read without care for what they hold.
fn kinds(data: &[u8]) -> Vec<u16> {
    let (mut kinds, mut at) = (Vec::new(), 20);
    while let Some(head) = data.get(at..at + 4) {
        kinds.push(u16::from_be_bytes([head[0], head[1]]));
        at += 4 + usize::from(u16::from_be_bytes([head[2], head[3]])).next_multiple_of(4);
    }
    kinds
}
