//! What a connection has still to send.
//!
//! Owns: the unsent bytes of one connection, how many messages they are, and since when the kernel takes none.
//! Never: writes to a socket, and never holds a block of the pool while there is nothing to send.

use super::buffers::Pool;
use crate::codec::websocket;

/// Gathered output past this is written at once instead of at the end of the iteration.
pub(super) const GATHER_BYTES: usize = 64 * 1024;

/// Output of one connection past this is written as soon as the input that caused it is used up: its block is then free
/// for the next connection while it is still in the cache.
pub(super) const EARLY_BYTES: usize = 12 * 1024;

/// The longest header of a frame of ours (RFC 6455, section 5.2).
const HEADER_BYTES_MAX: usize = 10;

/// Unsent output: whole frames, perhaps behind an HTTP answer, the first perhaps partly sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// Bytes at the front that the kernel has taken.
    sent: usize,
    /// Where the frame at the front ends.
    front_end: usize,
    messages: u32,
    /// The kernel took no more at the last write.
    pub(super) blocked: bool,
    /// The turn in which it was last found to take no more.
    pub(super) tried_turn: u32,
    /// When it last took something, or began to take nothing. Milliseconds of the loop's clock.
    pub(super) moved_ms: u64,
}

impl Outgoing {
    /// Bytes that are not sent.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Messages that are not sent in full.
    pub(super) fn messages(&self) -> usize {
        self.messages as usize
    }

    /// The bytes to send next.
    pub(super) fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// Appends one frame, or an HTTP answer where no frame was queued yet: `write` appends it, about `len` bytes.
    pub(super) fn push(&mut self, pool: &mut Pool, len: usize, write: impl FnOnce(&mut Vec<u8>)) {
        if self.bytes.capacity() == 0 {
            self.bytes = pool.take();
        }
        // A block that is large already spares all the steps of growing.
        if self.bytes.len() + len + HEADER_BYTES_MAX > self.bytes.capacity()
            && let Some(mut larger) = pool.take_larger(self.bytes.capacity())
        {
            larger.extend_from_slice(&self.bytes);
            pool.put(std::mem::replace(&mut self.bytes, larger));
        }
        let first = self.is_empty();
        write(&mut self.bytes);
        if first {
            self.front_end = self.bytes.len();
        }
        self.messages += 1;
    }

    /// Appends so many whole frames.
    pub(super) fn push_frames(&mut self, pool: &mut Pool, frames: &[u8], messages: u32) {
        let first = self.is_empty();
        self.push(pool, frames.len(), |bytes| bytes.extend_from_slice(frames));
        if first && let Some(len) = websocket::frame_len(frames) {
            self.front_end = self.front_end - frames.len() + len;
        }
        self.messages += messages.saturating_sub(1);
    }

    /// The kernel took `bytes` of them.
    pub(super) fn advance(&mut self, bytes: usize, pool: &mut Pool) {
        self.sent += bytes;
        if self.sent >= self.bytes.len() {
            return self.release(pool);
        }
        while self.front_end <= self.sent {
            self.messages = self.messages.saturating_sub(1);
            let next = self.bytes.get(self.front_end..).and_then(websocket::frame_len);
            // Only whole frames of ours stand behind the front, so a length is always found.
            self.front_end += next.unwrap_or(self.bytes.len() - self.front_end);
        }
        if self.sent >= GATHER_BYTES && self.sent * 2 >= self.bytes.len() {
            self.bytes.drain(..self.sent);
            self.front_end -= self.sent;
            self.sent = 0;
        }
    }

    /// Gives up whatever is unsent.
    pub(super) fn release(&mut self, pool: &mut Pool) {
        if self.bytes.capacity() > 0 {
            pool.put(std::mem::take(&mut self.bytes));
        }
        (self.sent, self.front_end, self.messages, self.blocked) = (0, 0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::websocket::{Data, OpCode, push_header};

    fn push(out: &mut Outgoing, pool: &mut Pool, len: usize) {
        out.push(pool, len, |bytes| {
            push_header(bytes, OpCode::Data(Data::Text), false, len);
            bytes.extend(std::iter::repeat_n(b'x', len));
        });
    }

    #[test]
    fn messages_are_counted_down_as_their_last_byte_leaves() {
        let (mut out, mut pool) = (Outgoing::default(), Pool::new());
        out.push(&mut pool, 36, |bytes| {
            bytes.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        });
        let head = out.len();
        push(&mut out, &mut pool, 10);
        push(&mut out, &mut pool, 300);
        assert_eq!(out.messages(), 3);
        out.advance(head - 1, &mut pool);
        assert_eq!(out.messages(), 3);
        out.advance(1, &mut pool);
        assert_eq!(out.messages(), 2);
        out.advance(12 + 303, &mut pool);
        assert_eq!((out.messages(), out.len()), (1, 1));
        out.advance(1, &mut pool);
        assert_eq!((out.messages(), out.len(), pool.taken()), (0, 0, 0));
    }

    #[test]
    fn frames_that_come_together_are_counted_one_by_one() {
        let (mut out, mut pool, mut frames) = (Outgoing::default(), Pool::new(), Vec::new());
        for len in [10, 300, 5] {
            push_header(&mut frames, OpCode::Data(Data::Text), false, len);
            frames.extend(std::iter::repeat_n(b'x', len));
        }
        for _ in 0..2 {
            out.push_frames(&mut pool, &frames, 3);
        }
        assert_eq!(
            (out.messages(), out.unsent()),
            (6, [&frames[..], &frames].concat().as_slice())
        );
        out.advance(11, &mut pool);
        assert_eq!(out.messages(), 6);
        out.advance(1, &mut pool);
        assert_eq!(out.messages(), 5);
        out.advance(304 + 7 + 12, &mut pool);
        assert_eq!(out.messages(), 2);
        out.advance(out.len(), &mut pool);
        assert_eq!((out.messages(), pool.taken()), (0, 0));
    }

    #[test]
    fn what_was_sent_of_a_long_queue_does_not_stay() {
        let (mut out, mut pool) = (Outgoing::default(), Pool::new());
        for _ in 0..200 {
            push(&mut out, &mut pool, 1000);
        }
        out.advance(150 * 1004 + 7, &mut pool);
        assert_eq!((out.messages(), out.sent), (50, 0));
        out.advance(49 * 1004, &mut pool);
        assert_eq!((out.messages(), out.len()), (1, 1004 - 7));
    }
}
