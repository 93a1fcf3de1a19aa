//! Frames as clients send them, for the benchmarks.
#![allow(dead_code, reason = "every benchmark takes its own part of this")]

use peer_server::codec::websocket::{Buffers, Data, OpCode, Settings, push_header};

/// What a connection without compression agreed on.
pub(super) const SETTINGS: Settings = Settings {
    max_message_size: 1 << 20,
    deflate: false,
};

/// A text in one frame, masked.
pub(super) fn masked_frame(text: &str) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = Vec::new();
    push_header(&mut frame, OpCode::Data(Data::Text), false, text.len());
    frame[1] |= 0x80;
    frame.extend_from_slice(&mask);
    let bytes = text.bytes().zip(mask.into_iter().cycle());
    frame.extend(bytes.map(|(byte, mask)| byte ^ mask));
    frame
}

/// The same text in two frames.
pub(super) fn in_two_frames(text: &str) -> Vec<u8> {
    const FINAL: u8 = 0x80;
    let (first, last) = text.split_at(text.len() / 2);
    let (mut frames, mut end) = (masked_frame(first), masked_frame(last));
    frames[0] &= !FINAL;
    // The opcode of a continuation is 0.
    end[0] = FINAL;
    frames.append(&mut end);
    frames
}

/// Where incomplete messages are gathered: one buffer, as the event loop's pool has it ready.
#[derive(Default)]
pub(super) struct OneBuffer(Vec<u8>);

impl Buffers for OneBuffer {
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    fn put(&mut self, buffer: Vec<u8>) {
        self.0 = buffer;
    }
}
