//! permessage-deflate (RFC 7692), always without context takeover.
//!
//! Owns: which offer is accepted, one message's compression, one message's inflation within a limit.
//! Never: keeps anything of a message for the next one, so that one pair serves all connections of a loop; it never
//! reads a frame (see `websocket`).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Shortest message in bytes that is worth compressing.
pub const COMPRESS_FROM: usize = 256;

/// The value of `Sec-WebSocket-Extensions` that answers a client's headers of that name, taken in their order. None if
/// no offer is acceptable: the connection is then a plain one.
pub fn negotiate<'a>(offers: impl Iterator<Item = &'a [u8]>) -> Option<&'static str> {
    offers
        .flat_map(|header| unquoted_split(header, b','))
        .any(is_acceptable)
        .then_some(ANSWER)
}

fn is_acceptable(offer: &[u8]) -> bool {
    let mut parts = unquoted_split(offer, b';');
    if parts.next().map(<[u8]>::trim_ascii) != Some(b"permessage-deflate") {
        return false;
    }
    let mut seen = 0u8;
    parts.all(|part| match parameter(part) {
        Some(bit) if seen & bit == 0 => {
            seen |= bit;
            true
        }
        _ => false,
    })
}

/// Which of the parameters that we can live with this is, as a bit (RFC 7692 section 7.1). None if it is another one or
/// has a value that does not fit.
fn parameter(part: &[u8]) -> Option<u8> {
    let equals = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
    let (name, value) = part.split_at_checked(equals)?;
    let value = match value.split_first().map(|(_, value)| value.trim_ascii()) {
        Some([b'"', value @ .., b'"']) => Some(value),
        value => value,
    };
    match (name.trim_ascii(), value) {
        (b"server_no_context_takeover", None) => Some(1),
        (b"client_no_context_takeover", None) => Some(2),
        (b"server_max_window_bits", Some(b"15")) => Some(4),
        (b"client_max_window_bits", None) => Some(8),
        (b"client_max_window_bits", Some(b"8" | b"9" | b"10" | b"11" | b"12" | b"13" | b"14" | b"15")) => Some(8),
        _ => None,
    }
}

/// The parts of a header value between separators, those inside quoted strings not counted (RFC 9110 section 5.6.4).
fn unquoted_split(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    bytes.split(move |&byte| {
        if escaped {
            escaped = false;
            return false;
        }
        match byte {
            b'"' => quoted = !quoted,
            b'\\' => escaped = quoted,
            _ => {}
        }
        byte == separator && !quoted
    })
}

/// Compresses messages one by one.
#[derive(Debug)]
pub struct Deflater {
    stream: Compress,
}

impl Deflater {
    /// Takes its memory, a few hundred kilobytes, once and for all.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stream: Compress::new(Compression::default(), false),
        }
    }

    /// Appends the compressed `payload` to `out`, without the tail that RFC 7692 section 7.2.1 removes. False if that
    /// would not be shorter than the payload: `out` is then as it was.
    pub fn compress(&mut self, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        // Whatever does not fit here would not be shorter, and an output that fills it may be cut: one call is enough.
        out.reserve(payload.len() + TAIL.len());
        self.stream.reset();
        let done = self.stream.compress_vec(payload, out, FlushCompress::Sync).is_ok()
            && self.stream.total_in() == payload.len() as u64
            && out.len() < out.capacity();
        let end = out.len().saturating_sub(TAIL.len());
        let shorter = end.saturating_sub(start) < payload.len();
        let whole = out.get(start.max(end)..).is_some_and(|tail| tail == TAIL);
        let useful = done && shorter && whole;
        out.truncate(if useful { end } else { start });
        useful
    }
}

impl Default for Deflater {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a compressed message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateError {
    /// Longer than the limit: close 1009.
    TooBig,
    /// Not deflate data, or cut: close 1007 or 1002.
    Corrupt,
}

/// Inflates messages one by one.
#[derive(Debug)]
pub struct Inflater {
    stream: Decompress,
    /// Output passes through here, so that nobody's spare capacity decides how far a message is inflated.
    block: Box<[u8; BLOCK_BYTES]>,
}

impl Inflater {
    /// Takes its memory, some sixty kilobytes, once and for all.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stream: Decompress::new(false),
            block: Box::new([0; BLOCK_BYTES]),
        }
    }

    /// Appends to `out` what `data`, the payload of a whole message, inflates to.
    ///
    /// # Errors
    /// [`InflateError::TooBig`] as soon as there is one byte more than `limit`; [`InflateError::Corrupt`] for anything
    /// that is not a row of whole deflate blocks. `out` is then as it was.
    pub fn inflate(&mut self, data: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), InflateError> {
        let start = out.len();
        let result = self.append(data, limit, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn append(&mut self, data: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), InflateError> {
        if data.is_empty() {
            return Ok(()); // not what RFC 7692 section 7.2.3.6 asks for, but harmless, and some send an empty message so
        }
        let mut room = limit;
        let mut input = data;
        for _ in 0..FINAL_BLOCKS_MAX {
            self.stream.reset(false);
            match self.run(&mut input, &mut room, out)? {
                // The compressor may begin anew after a final block (RFC 7692 section 7.2.1).
                Run::Final if !input.is_empty() => {}
                Run::Final => return Ok(()),
                Run::Drained => {
                    input = ENDING;
                    let run = self.run(&mut input, &mut room, out)?;
                    return if run == Run::Final && input.is_empty() {
                        Ok(())
                    } else {
                        Err(InflateError::Corrupt)
                    };
                }
            }
        }
        Err(InflateError::Corrupt)
    }

    /// Inflates until the end of a final block or of the input.
    fn run(&mut self, input: &mut &[u8], room: &mut usize, out: &mut Vec<u8>) -> Result<Run, InflateError> {
        loop {
            let wanted = room.saturating_add(1).min(BLOCK_BYTES);
            let space = self.block.get_mut(..wanted).unwrap_or_default();
            let before = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(input, space, FlushDecompress::None);
            let status = status.map_err(|_| InflateError::Corrupt)?;
            let consumed = (self.stream.total_in() - before.0) as usize;
            let produced = (self.stream.total_out() - before.1) as usize;
            *input = input.get(consumed..).unwrap_or_default();
            *room = room.checked_sub(produced).ok_or(InflateError::TooBig)?;
            out.extend_from_slice(space.get(..produced).unwrap_or_default());
            match status {
                Status::StreamEnd => return Ok(Run::Final),
                Status::Ok | Status::BufError if produced == wanted => {} // there may be more
                Status::Ok | Status::BufError if input.is_empty() => return Ok(Run::Drained),
                Status::Ok | Status::BufError if consumed == 0 => return Err(InflateError::Corrupt),
                Status::Ok | Status::BufError => {}
            }
        }
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a run of the inflater stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    /// After a final block.
    Final,
    /// At the end of the input.
    Drained,
}

/// Both sides without context takeover, whatever was offered: a server may add the client's (RFC 7692 section 7.1.1.2).
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What the sender cuts from the end of a message and the receiver puts back: most of an empty stored block
/// (RFC 7692 section 7.2.1).
const TAIL: &[u8] = &[0, 0, 0xff, 0xff];

/// The tail, and an empty final block: only whole blocks before it let the inflater come to its end.
const ENDING: &[u8] = &[0, 0, 0xff, 0xff, 0x03, 0x00];

/// Final blocks in one message. Each costs a reset, and a compressor that sets the bit at all does so once.
const FINAL_BLOCKS_MAX: usize = 256;

/// Bytes inflated at a time.
const BLOCK_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 65_536;

    fn inflated(data: &[u8], limit: usize) -> Result<Vec<u8>, InflateError> {
        let mut out = b"before".to_vec();
        let result = Inflater::new().inflate(data, limit, &mut out);
        assert_eq!(&out[..6], b"before");
        assert!(result.is_ok() || out.len() == 6);
        result.map(|()| out.split_off(6))
    }

    fn deflated(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(Deflater::new().compress(payload, &mut out));
        out
    }

    /// Writes deflate blocks bit by bit, for those that no compressor makes.
    #[derive(Default)]
    struct Bits {
        bytes: Vec<u8>,
        len: usize,
    }

    impl Bits {
        fn push(&mut self, value: u32, count: usize) -> &mut Self {
            for bit in 0..count {
                if self.len.is_multiple_of(8) {
                    self.bytes.push(0);
                }
                *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (self.len % 8);
                self.len += 1;
            }
            self
        }

        /// The shortest block with tables of its own: 256 unused literals, an end of block, one unused distance.
        fn empty_dynamic_block(&mut self) {
            self.push(0, 1).push(2, 2).push(0, 5).push(0, 5).push(14, 4);
            for position in 0..18 {
                self.push(u32::from(position == 2 || position == 17), 3); // the code lengths 18 and 1, one bit each
            }
            self.push(1, 1).push(138 - 11, 7).push(1, 1).push(118 - 11, 7); // 256 zeros
            self.push(0, 1).push(0, 1); // length 1 for the end of block and for distance 0
            self.push(0, 1); // end of block
        }
    }

    #[test]
    fn an_offer_is_answered_without_context_takeover() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate;client_max_window_bits=8",
            "permessage-deflate; client_max_window_bits=\"15\"; server_max_window_bits = 15",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=10",
            "x-other; a=\"b,c;permessage-deflate\", permessage-deflate",
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
            ", permessage-deflate ,",
        ] {
            assert_eq!(negotiate([offer.as_bytes()].into_iter()), Some(ANSWER), "{offer}");
        }
        assert_eq!(
            negotiate([&b"x-other"[..], b"permessage-deflate"].into_iter()),
            Some(ANSWER)
        );
    }

    #[test]
    fn an_offer_with_anything_else_is_left_alone() {
        for offer in [
            "",
            "permessage-deflated",
            "x-webkit-deflate-frame",
            "permessage-deflate; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=08",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; client_max_window_bits=\"8",
            "permessage-deflate; client_max_window_bits=8; client_max_window_bits",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_no_context_takeover=1",
            "permessage-deflate; unknown",
            "permessage-deflate;",
            "permessage-deflate; ; client_no_context_takeover",
            "x; a=\"permessage-deflate, permessage-deflate",
        ] {
            assert_eq!(negotiate([offer.as_bytes()].into_iter()), None, "{offer}");
        }
        assert_eq!(negotiate(std::iter::empty()), None);
    }

    #[test]
    fn the_examples_of_the_standard_inflate() {
        // RFC 7692 sections 7.2.3.1 (one block), 7.2.3.3 (no compression), 7.2.3.4 (final block), 7.2.3.5 (two blocks).
        for data in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
        ] {
            assert_eq!(inflated(data, LIMIT).unwrap(), b"Hello", "{data:x?}");
        }
    }

    #[test]
    fn a_final_block_may_end_a_message_or_be_followed_by_more() {
        let hello = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflated(&hello, LIMIT).unwrap(), b"Hello");
        let twice = [&hello[..], &hello, &[0]].concat();
        assert_eq!(inflated(&twice, LIMIT).unwrap(), b"HelloHello");
    }

    #[test]
    fn an_empty_message_is_one_octet_or_none() {
        assert_eq!(inflated(&[0], LIMIT).unwrap(), b"");
        assert_eq!(inflated(&[], LIMIT).unwrap(), b"");
    }

    #[test]
    fn cut_and_false_data_is_corrupt() {
        let whole = deflated(&b"a sentence that is repeated ".repeat(20));
        for cut in 1..whole.len() - 1 {
            assert_eq!(
                inflated(&whole[..cut], LIMIT),
                Err(InflateError::Corrupt),
                "cut at {cut}"
            );
        }
        for data in [
            &[0xff][..],
            &[0x06, 0],
            &[0x00, 0x05, 0x00, 0x00, 0x00],
            &[0x01, 0, 0, 0xff, 0xff, 7],
        ] {
            assert_eq!(inflated(data, LIMIT), Err(InflateError::Corrupt), "{data:x?}");
        }
    }

    #[test]
    fn inflation_stops_one_byte_past_the_limit() {
        for len in [1, 255, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, LIMIT] {
            let data = Compressed::of(&vec![b'a'; len]);
            assert_eq!(inflated(&data.0, len).unwrap().len(), len);
            assert_eq!(inflated(&data.0, len - 1), Err(InflateError::TooBig));
        }
        let bomb = Compressed::of(&vec![0; 20_000_000]);
        assert!(bomb.0.len() < 25_000);
        let mut inflater = Inflater::new();
        let mut out = Vec::new();
        assert_eq!(inflater.inflate(&bomb.0, LIMIT, &mut out), Err(InflateError::TooBig));
        assert!(inflater.stream.total_out() == LIMIT as u64 + 1 && out.capacity() <= 2 * LIMIT);
    }

    /// Like the deflater's output, but whatever its length.
    struct Compressed(Vec<u8>);

    impl Compressed {
        fn of(payload: &[u8]) -> Self {
            let mut out = Vec::with_capacity(payload.len() + 1000);
            Compress::new(Compression::best(), false)
                .compress_vec(payload, &mut out, FlushCompress::Sync)
                .unwrap();
            assert!(out.ends_with(TAIL));
            out.truncate(out.len() - TAIL.len());
            Self(out)
        }
    }

    #[test]
    fn empty_blocks_cost_no_more_than_their_bytes() {
        let mut dynamic = Bits::default();
        while dynamic.bytes.len() < LIMIT {
            dynamic.empty_dynamic_block();
        }
        dynamic.push(0, 3); // the head of the stored block whose rest is the tail
        let stored = [&[0, 0, 0, 0xff, 0xff].repeat(LIMIT / 5)[..], &[0]].concat();
        for data in [dynamic.bytes, stored] {
            assert_eq!(inflated(&data, 0).unwrap(), b"");
        }
        let finals = [&[0x03, 0x00].repeat(FINAL_BLOCKS_MAX)[..], &[0]].concat();
        assert_eq!(inflated(&finals, 0), Err(InflateError::Corrupt));
        assert_eq!(inflated(&finals[2..], 0).unwrap(), b"");
    }

    #[test]
    fn what_would_not_be_shorter_stays_plain() {
        let mut deflater = Deflater::new();
        for payload in [&b""[..], b"a", b"abcdefgh", &(0..=255).collect::<Vec<u8>>()] {
            let mut out = Vec::with_capacity(10_000);
            out.extend_from_slice(b"before");
            assert!(!deflater.compress(payload, &mut out));
            assert_eq!(out, b"before");
        }
    }

    #[test]
    fn messages_do_not_remember_one_another() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let payload = b"candidate:1 1 UDP 2130706431 192.0.2.1 ".repeat(8);
        let first = deflated(&payload);
        for _ in 0..3 {
            assert!(!deflater.compress(b"xyz", &mut Vec::new()));
            let mut data = Vec::new();
            assert!(deflater.compress(&payload, &mut data));
            assert_eq!(data, first);
            assert!(inflater.inflate(&[0xff], LIMIT, &mut Vec::new()).is_err());
            let mut out = Vec::new();
            inflater.inflate(&data, LIMIT, &mut out).unwrap();
            assert_eq!(out, payload);
        }
    }

    proptest! {
        #[test]
        fn what_was_compressed_inflates_to_itself(
            words in proptest::collection::vec(prop_oneof!["[a-f]{1,8}", "\\PC{1,6}"], 0..400),
            spare in 0usize..4096,
        ) {
            let payload = words.concat().into_bytes();
            let mut data = Vec::with_capacity(spare);
            if Deflater::new().compress(&payload, &mut data) {
                prop_assert!(data.len() < payload.len());
                prop_assert_eq!(inflated(&data, payload.len()).unwrap(), payload);
            }
        }

        #[test]
        fn any_bytes_inflate_within_the_limit(
            data in proptest::collection::vec(any::<u8>(), 0..200),
            limit in 0usize..300,
        ) {
            if let Ok(out) = inflated(&data, limit) {
                prop_assert!(out.len() <= limit);
            }
        }

        #[test]
        fn mutated_messages_inflate_within_the_limit(
            at in any::<prop::sample::Index>(), bit in 0u8..8, limit in 0usize..2000,
        ) {
            let mut data = deflated(&b"{\"type\":\"signal\",\"to\":\"somebody\"}".repeat(30));
            let at = at.index(data.len());
            data[at] ^= 1 << bit;
            if let Ok(out) = inflated(&data, limit) {
                prop_assert!(out.len() <= limit);
            }
        }

        #[test]
        fn any_offer_is_answered_or_not(offer in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = negotiate([&b"permessage-deflate;"[..], &offer].into_iter());
        }
    }
}
