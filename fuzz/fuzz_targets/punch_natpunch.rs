//! Datagrams of the protobuf dialect.
//!
//! Input: one byte of which message's key to set before it, then a message's fields; also taken as a whole datagram.
//! Property: what is understood means the same when it is written anew, is bounded, and no field is read that is not there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_server::codec::protobuf::natpunch::{Message, message::Content};
use peer_server::dialect::natpunch::parse;
use peer_server::message::natpunch::{Ask, ID_MAX, Request};
use prost::Message as _;

const KEYS: [&[u8]; 9] = [
    &[0x0a],
    &[0x2a],
    &[0x4a],
    &[0x52],
    &[0x5a],
    &[0x6a],
    &[0x7a],
    &[0xa2, 1],
    &[0xba, 1],
];

fuzz_target!(|data: &[u8]| {
    check(data);
    if let Some((key, body)) = data.split_first() {
        let len = match body.len() {
            short @ 0..0x80 => vec![short as u8],
            long => vec![long as u8 | 0x80, (long >> 7) as u8],
        };
        check(&[KEYS[usize::from(*key) % KEYS.len()], &len, body].concat());
    }
    // The library itself, on what no datagram may be.
    if let Ok(message) = Message::decode(data) {
        assert_eq!(Message::decode(&*message.encode_to_vec()), Ok(message));
    }
});

fn check(datagram: &[u8]) {
    let Some(Request { bytes, ask }) = parse(datagram) else {
        return;
    };
    assert_eq!(bytes as usize, datagram.len());
    assert!(datagram.len() <= 1024);
    let message = Message::decode(datagram).expect("it was decoded");
    let anew = message.encode_to_vec();
    assert!(
        anew.len() <= datagram.len(),
        "unknown fields are not kept, and numbers not written longer"
    );
    assert_eq!(Message::decode(&*anew).as_ref(), Ok(&message));
    if message
        .content
        .as_ref()
        .is_some_and(|content| !matches!(content, Content::DebugMessage(_)))
    {
        let again = parse(&anew).expect("what was understood is so again");
        assert_eq!(again.ask, ask);
    }
    let texts: &[&String] = match &ask {
        Ask::Register { local } => {
            assert!(local.is_none_or(|local| !local.ip().is_unspecified() && local.port() != 0));
            &[]
        }
        Ask::KeepAlive { client_id } | Ask::Create { client_id, .. } => &[client_id],
        Ask::List { request_id } => &[request_id],
        Ask::Join { client_id, lobby_id } | Ask::Leave { client_id, lobby_id } => &[client_id, lobby_id],
        Ask::Ready { lobby_id, peer_id } => &[lobby_id, peer_id],
        Ask::Connect { client_id, peer_id } => &[client_id, peer_id],
        Ask::Debug => &[],
    };
    for text in texts {
        assert!(text.len() <= ID_MAX);
        let there = text.is_empty() || datagram.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(there, "{text:?}");
    }
}
