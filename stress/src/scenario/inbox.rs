//! Messages out of a connection's input.
//!
//! Owns: what every scenario does alike: answering pings, inflating, telling of closes and broken frames.
//! Never: knows a message's meaning.

use crate::worker::deflate;
use crate::worker::frames;
use crate::worker::io::Io;

/// Calls `take` for each whole text message. Returns how much input was used.
pub fn each(io: &mut Io, slot: usize, bytes: &[u8], mut take: impl FnMut(&mut Io, &[u8])) -> usize {
    let mut at = 0;
    loop {
        match one(io, slot, &bytes[at..], &mut take) {
            0 => return at,
            used => at += used,
        }
    }
}

/// Takes the first frame. Returns its length, or 0 if it is not whole.
pub fn one(io: &mut Io, slot: usize, bytes: &[u8], take: &mut impl FnMut(&mut Io, &[u8])) -> usize {
    let (frame, used) = match frames::first(bytes) {
        Ok(Some(first)) => first,
        Ok(None) => return 0,
        Err(error) => {
            io.end(slot, format!("a broken frame: {error}"));
            return 0;
        }
    };
    match frame.opcode {
        1 if frame.compressed => match deflate::inflate(frame.payload) {
            Ok(text) => take(io, &text),
            Err(error) => io.fail(format!("a message cannot be inflated: {error}")),
        },
        1 => take(io, frame.payload),
        9 => io.append(slot, |out| {
            frames::push(out, 10, false, frame.payload);
        }),
        10 => {}
        8 => {
            let text = String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default()).into_owned();
            let code = frame
                .payload
                .iter()
                .take(2)
                .fold(0, |code, byte| code << 8 | u32::from(*byte));
            io.end(slot, format!("closed by the server: {code} {text}"));
            return 0;
        }
        other => io.fail(format!("a frame of type {other}")),
    }
    used
}
