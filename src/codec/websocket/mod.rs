//! WebSocket frames (RFC 6455) over the caller's slices, server side.
//!
//! Owns: frame headers, masking, fragments, control frames, the rules of sections 5 to 7 that bytes alone can show, and
//! the UTF-8 proof of text messages.
//! Never: reads or writes a socket, answers a frame by itself, inflates a message (see `deflate`), parses the upgrade
//! request (see `http`), or keeps anything for a connection that has no incomplete frame or message.

mod decode;
mod encode;
mod mask;
#[cfg(test)]
mod tests;

pub use decode::{Partial, next, settle};
pub use encode::{FrameMark, begin_frame, end_frame, frame_len, push_close, push_header};
pub use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// Where an incomplete message's buffer comes from and goes back to.
pub trait Buffers {
    /// A buffer to gather a message in; what it holds is cleared before use.
    fn take(&mut self) -> Vec<u8>;
    /// A buffer that is no longer needed.
    fn put(&mut self, buffer: Vec<u8>);
}

/// What a connection agreed on, for reading its frames.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Longest message accepted, in payload bytes over all its fragments.
    pub max_message_size: usize,
    /// Whether permessage-deflate was negotiated, which gives RSV1 its meaning (RFC 7692 section 6).
    pub deflate: bool,
}

impl Settings {
    /// How many payload bytes of one message are gathered. A compressed one may be a little longer than what it
    /// inflates to: incompressible data travels in stored blocks with a few bytes of header each.
    fn gather_max(&self, compressed: bool) -> usize {
        let max = self.max_message_size;
        if compressed {
            max.saturating_add(max / 1000).saturating_add(64)
        } else {
            max
        }
    }
}

/// What the next bytes of a connection were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'b> {
    /// A whole text message.
    Text(&'b str),
    /// A whole binary message.
    Binary(&'b [u8]),
    /// A whole compressed message (RFC 7692): deflate data without its tail, still to be inflated, and then to be
    /// proven UTF-8 if `text`.
    Compressed {
        /// A text message; a binary one otherwise.
        text: bool,
        /// The compressed payload.
        data: &'b [u8],
    },
    /// A ping, to be answered by a pong with the same payload.
    Ping(&'b [u8]),
    /// A pong.
    Pong(&'b [u8]),
    /// The peer's close frame with the code to echo, none if it was empty. Nothing after it is to be read.
    Close(Option<u16>),
    /// The input is used up.
    NeedMore,
    /// The peer broke the protocol: close with this code. Nothing after it is to be read.
    Fail {
        /// Close code: 1002, 1007 or 1009.
        code: u16,
        /// What was wrong, in a few words.
        reason: &'static str,
    },
}

/// The value of `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2).
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    tungstenite::handshake::derive_accept_key(key)
}
