//! Connect tokens: what a reader makes of any bytes, and of any message that the owner of the key sealed.
//!
//! Input: one byte for the layout, then up to 2048 of a token. They are read as they are, and with the right front and their
//! message sealed.
//! Property: what is opened is within its bounds, says what stands there, and sealed anew opens as the same.
#![no_main]

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use libfuzzer_sys::fuzz_target;
use peer_server::codec::connect_token::{ADDRESSES_MAX, Fault, Layout, PrivateKey, TOKEN_BYTES, open, seal};

const KEY: [u8; 32] = [7; 32];

fuzz_target!(|data: &[u8]| {
    let Some((layout, data)) = data.split_first() else {
        return;
    };
    let layout = [Layout::Netcode, Layout::LightyearLe, Layout::LightyearBe][usize::from(layout % 3)];
    check(data, layout);
    let mut token = [0; TOKEN_BYTES];
    let len = data.len().min(TOKEN_BYTES);
    token[..len].copy_from_slice(&data[..len]);
    token[..13].copy_from_slice(b"NETCODE 1.02\0");
    // What both parts say must agree; leave it to the fuzzer in one of two cases only.
    if token[2047] & 1 == 0 {
        token.copy_within(69..73, 1085);
    }
    let nonce: [u8; 24] = token[37..61].try_into().expect("24 bytes");
    let bound = [&token[..21], &token[29..37]].concat();
    let tag = XChaCha20Poly1305::new(&KEY.into())
        .encrypt_inout_detached(&nonce.into(), &bound, InOutBuf::from(&mut token[61..1069]))
        .expect("a short message can be sealed");
    token[1069..1085].copy_from_slice(&tag);
    check(&token, layout);
});

fn check(bytes: &[u8], layout: Layout) {
    let key = PrivateKey::new(KEY);
    let protocol = |bytes: &[u8]| -> Option<u64> {
        let bytes = bytes.get(13..21)?.try_into().ok()?;
        Some(match layout {
            Layout::Netcode | Layout::LightyearLe => u64::from_le_bytes(bytes),
            Layout::LightyearBe => u64::from_be_bytes(bytes),
        })
    };
    let Some(protocol_id) = protocol(bytes) else {
        assert_eq!(open(bytes, &key, layout, 0, 0, None), Err(Fault::Length));
        return;
    };
    let token = match open(bytes, &key, layout, protocol_id, 0, None) {
        Ok(token) => token,
        Err(fault) => {
            assert_ne!(fault, Fault::Protocol);
            assert_eq!(fault == Fault::Length, bytes.len() != TOKEN_BYTES);
            return;
        }
    };
    assert_eq!(token.protocol_id, protocol_id);
    assert!(token.created_s <= token.expires_s && token.expires_s > 0);
    for list in [&token.public, &token.internal] {
        assert!((1..=ADDRESSES_MAX).contains(&list.len()));
    }
    let sealed = seal(&token, &key, layout).expect("what was read can be sealed");
    let again = open(
        &sealed[..],
        &key,
        layout,
        protocol_id,
        token.expires_s - 1,
        token.internal.last().copied(),
    );
    assert_eq!(again, Ok(token));
}
