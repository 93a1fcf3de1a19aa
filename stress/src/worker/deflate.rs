//! permessage-deflate without context takeover (RFC 7692, section 7.2).
//!
//! Owns: whole messages, compressed and inflated.
//! Never: keeps a window between messages.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// What every message's end lacks.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Inflates one message.
///
/// # Errors
/// What is not deflate.
pub fn inflate(payload: &[u8]) -> Result<Vec<u8>, String> {
    let input = [payload, &TAIL].concat();
    let mut decompress = Decompress::new(false);
    let mut out = Vec::with_capacity(input.len() * 4 + 64);
    loop {
        let at = decompress.total_in() as usize;
        decompress
            .decompress_vec(&input[at..], &mut out, FlushDecompress::Sync)
            .map_err(|error| error.to_string())?;
        if decompress.total_in() as usize == input.len() && out.len() < out.capacity() {
            return Ok(out);
        }
        if decompress.total_in() as usize == at && out.len() < out.capacity() {
            return Err("the deflate data ends early".to_owned());
        }
        out.reserve(out.capacity());
    }
}

/// Compresses one message.
pub fn deflate(text: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::fast(), false);
    let mut out = Vec::with_capacity(text.len() + 64);
    while (compress.total_in() as usize) < text.len() || out.len() == out.capacity() {
        let at = compress.total_in() as usize;
        out.reserve(64);
        // Into memory, deflate has nothing to fail at.
        let _ = compress.compress_vec(&text[at..], &mut out, FlushCompress::Sync);
    }
    out.truncate(out.len().saturating_sub(TAIL.len()));
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_compressed_comes_back() {
        for text in [&b"x"[..], &b"abc".repeat(30_000), b""] {
            assert_eq!(inflate(&deflate(text)).unwrap(), text);
        }
    }
}
