//! Frames that the server sends: final and unmasked (RFC 6455 section 5.1).
//!
//! Owns: headers of minimal length, whether the payload's length is known before or after it is written.
//! Never: fragments a message, or copies a payload that it was not told to write.

use super::{Control, OpCode};
use std::io::Cursor;
use tungstenite::protocol::frame::FrameHeader;

/// Longest payload of a control frame in bytes (RFC 6455 section 5.5).
pub(super) const CONTROL_PAYLOAD_MAX: usize = 125;

/// Appends the header of a frame whose `len` payload bytes the caller appends next.
#[inline]
pub fn push_header(out: &mut Vec<u8>, opcode: OpCode, compressed: bool, len: usize) {
    // By hand: the writer behind `FrameHeader` takes as long as all else that a short frame is made of.
    let first = FINAL | u8::from(compressed) << 6 | u8::from(opcode);
    match len {
        0..=125 => out.extend_from_slice(&[first, len as u8]),
        126..=0xffff => {
            let [high, low] = (len as u16).to_be_bytes();
            out.extend_from_slice(&[first, 126, high, low]);
        }
        _ => {
            out.extend_from_slice(&[first, 127]);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// A frame whose payload is being written; ended by [`end_frame`].
#[derive(Debug)]
#[must_use]
pub struct FrameMark {
    /// Where in the output the header begins.
    start: usize,
    /// Bytes set aside for it.
    header_bytes: usize,
}

/// Begins a frame whose payload the caller writes straight into `out` before it calls [`end_frame`].
/// `hint` is the payload's probable length in bytes: a guess of the right magnitude (below 126, below 64 KiB, or more)
/// spares moving the payload later.
pub fn begin_frame(out: &mut Vec<u8>, hint: usize) -> FrameMark {
    let mark = FrameMark {
        start: out.len(),
        header_bytes: header_bytes(hint),
    };
    out.resize(mark.start + mark.header_bytes, 0);
    mark
}

/// Ends the frame begun at `mark`: everything in `out` after the mark is its payload.
pub fn end_frame(out: &mut Vec<u8>, mark: FrameMark, opcode: OpCode, compressed: bool) {
    let FrameMark {
        start,
        header_bytes: reserved,
    } = mark;
    let payload = start + reserved;
    debug_assert!(payload <= out.len(), "the output lost bytes of an unfinished frame");
    let len = out.len().saturating_sub(payload);
    let needed = header_bytes(len);
    if needed > reserved {
        out.resize(start + needed + len, 0);
        out.copy_within(payload..payload + len, start + needed);
    } else if needed < reserved {
        out.copy_within(payload.., start + needed);
        out.truncate(start + needed + len);
    }
    let mut slot = &mut out[start..start + needed];
    header(opcode, compressed)
        .format(len as u64, &mut slot)
        .expect("the slot has the header's length");
}

/// Appends a close frame. Without a code it is empty and the reason is left out (RFC 6455 section 5.5.1); a reason is
/// cut at a character so that it fits a control frame.
pub fn push_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let Some(code) = code else {
        return push_header(out, OpCode::Control(Control::Close), false, 0);
    };
    let mut end = reason.len().min(CONTROL_PAYLOAD_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    push_header(out, OpCode::Control(Control::Close), false, 2 + end);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&reason.as_bytes()[..end]);
}

/// Length in bytes, header included, of the frame that begins `bytes`, which the server itself has written.
/// None if its header is cut; its payload may be.
#[must_use]
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let mut cursor = Cursor::new(bytes);
    let (_, len) = FrameHeader::parse(&mut cursor).ok()??;
    usize::try_from(cursor.position().checked_add(len)?).ok()
}

fn header(opcode: OpCode, compressed: bool) -> FrameHeader {
    FrameHeader {
        is_final: true,
        rsv1: compressed,
        rsv2: false,
        rsv3: false,
        opcode,
        mask: None,
    }
}

/// The bit of a message's last frame, here the only one.
const FINAL: u8 = 0x80;

/// Bytes of the shortest unmasked header for `len` payload bytes.
fn header_bytes(len: usize) -> usize {
    match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Data;
    use super::*;
    use proptest::prelude::*;

    const TEXT: OpCode = OpCode::Data(Data::Text);

    fn frame(len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        push_header(&mut out, TEXT, false, len);
        out.resize(out.len() + len, b'x');
        out
    }

    #[test]
    fn headers_are_minimal_at_every_border() {
        for (len, expected) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (0xffff, &[0x81, 126, 0xff, 0xff]),
            (0x1_0000, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            assert_eq!(&frame(len)[..expected.len()], expected);
            assert_eq!(frame(len).len(), expected.len() + len);
            assert_eq!(header_bytes(len), expected.len());
        }
    }

    #[test]
    fn compression_is_told_by_the_first_reserved_bit_alone() {
        let mut out = Vec::new();
        push_header(&mut out, OpCode::Data(Data::Binary), true, 3);
        assert_eq!(out, [0xc2, 3]);
    }

    #[test]
    fn a_wrong_hint_gives_the_same_frame() {
        for len in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, 70_000] {
            for hint in [0, 125, 126, 0xffff, 0x1_0000, usize::MAX] {
                let mut out = b"before".to_vec();
                let mark = begin_frame(&mut out, hint);
                out.resize(out.len() + len, b'x');
                end_frame(&mut out, mark, TEXT, false);
                assert_eq!(&out[..6], b"before");
                assert!(out[6..] == frame(len), "len {len} hint {hint}");
            }
        }
    }

    #[test]
    fn close_frames_fit_and_are_cut_between_characters() {
        let mut out = Vec::new();
        push_close(&mut out, None, "unused");
        assert_eq!(out, [0x88, 0]);
        out.clear();
        push_close(&mut out, Some(1001), "bye");
        assert_eq!(out, [0x88, 5, 0x03, 0xe9, b'b', b'y', b'e']);
        out.clear();
        push_close(&mut out, Some(1000), &"€".repeat(50));
        assert_eq!(out.len(), 2 + 2 + 123);
        assert!(std::str::from_utf8(&out[4..]).is_ok());
        out.clear();
        push_close(&mut out, Some(1000), &"é".repeat(80));
        assert_eq!((out[1], out.len()), (124, 2 + 2 + 122));
    }

    proptest! {
        #[test]
        fn the_length_of_a_written_frame_is_found_again(len in 0usize..70_000, more in 0usize..20, cut in 0usize..14) {
            let mut out = frame(len);
            out.resize(out.len() + more, 0x81);
            prop_assert_eq!(frame_len(&out), Some(out.len() - more));
            let header = header_bytes(len);
            prop_assert_eq!(frame_len(&out[..cut.min(out.len())]).is_some(), cut.min(out.len()) >= header);
        }

        #[test]
        fn any_bytes_have_some_length(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = frame_len(&bytes);
        }
    }
}
