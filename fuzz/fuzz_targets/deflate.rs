//! Compressed messages.
//!
//! Input: one byte that says how long the message may become, then compressed data (also taken as a message to compress).
//! Property: never longer than allowed, untouched when refused, the same whatever was inflated before, and our own
//! compression comes back as it was.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use peer_server::codec::deflate::{COMPRESS_FROM, Deflater, InflateError, Inflater};

thread_local! {
    /// Used for one input after the other, as a loop uses its own for all its connections.
    static REUSED: RefCell<(Deflater, Inflater)> = RefCell::new((Deflater::new(), Inflater::new()));
}

const BEFORE: &[u8] = b"before";

fuzz_target!(|data: &[u8]| {
    let Some((limit, data)) = data.split_first() else {
        return;
    };
    let limit = [0, 1, 100, 1024, 4096, 65_536, 65_537, 1 << 20][usize::from(limit & 7)];
    REUSED.with_borrow_mut(|(deflater, inflater)| {
        let (result, out) = inflated(inflater, data, limit);
        assert_eq!(
            inflated(&mut Inflater::new(), data, limit),
            (result, out.clone()),
            "nothing is left of the last message"
        );
        match result {
            Ok(()) => {
                let len = out.len();
                assert!(len <= limit);
                assert_eq!(
                    inflated(inflater, data, len),
                    (Ok(()), out),
                    "its own length is limit enough"
                );
                if len > 0 {
                    assert_eq!(inflated(inflater, data, len - 1).0, Err(InflateError::TooBig));
                }
            }
            Err(_) => assert!(out.is_empty()),
        }

        let mut compressed = BEFORE.to_vec();
        if deflater.compress(data, &mut compressed) {
            assert!(compressed.len() - BEFORE.len() < data.len());
            assert_eq!(
                inflated(inflater, &compressed[BEFORE.len()..], data.len()),
                (Ok(()), data.to_vec())
            );
        } else {
            assert_eq!(compressed, BEFORE);
            assert!(
                data.len() < COMPRESS_FROM || !data.iter().all(|byte| *byte == data[0]),
                "a run of one byte is compressed"
            );
        }
    });
});

fn inflated(inflater: &mut Inflater, data: &[u8], limit: usize) -> (Result<(), InflateError>, Vec<u8>) {
    let mut out = BEFORE.to_vec();
    let result = inflater.inflate(data, limit, &mut out);
    assert!(out.starts_with(BEFORE));
    (result, out.split_off(BEFORE.len()))
}
