//! Masking of payloads (RFC 6455 section 5.3), eight bytes at a time.
//!
//! Owns: the exclusive or, and where in the mask a payload that arrives in pieces goes on.
//! Never: makes a mask; a server's frames have none.

/// Masks or unmasks `payload` in place, its first byte with the mask's first.
pub(super) fn apply(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from(u32::from_ne_bytes(mask)) * 0x1_0000_0001;
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= mask;
    }
}

/// The mask for what follows `consumed` bytes of a payload that began with `mask`.
pub(super) fn rotated(mask: [u8; 4], consumed: usize) -> [u8; 4] {
    let bits = 8 * (consumed % 4) as u32;
    u32::from_le_bytes(mask).rotate_right(bits).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_in_pieces_is_unmasked_like_a_whole_one() {
        let mask = [0x12, 0x34, 0x56, 0x78];
        let plain: Vec<u8> = (0..41).collect();
        let masked: Vec<u8> = plain.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]).collect();
        for cut in 0..=plain.len() {
            let mut bytes = masked.clone();
            let (head, tail) = bytes.split_at_mut(cut);
            apply(head, mask);
            apply(tail, rotated(mask, cut));
            assert_eq!(bytes, plain, "cut at {cut}");
        }
    }
}
