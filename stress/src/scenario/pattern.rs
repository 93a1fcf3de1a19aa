//! Numbered messages, built once: what is sent differs from one to the next in ten digits, and so does what must arrive.
//!
//! Owns: payloads, the frames of a sender, and the check of what its receiver gets, byte for byte.
//! Never: sends.

use std::ops::Range;

use crate::worker::deflate::deflate;
use crate::worker::frames::{self, MASK};

/// Digits of a message's number.
pub const DIGITS: usize = 10;
/// Before the number in a payload.
const NUMBER: &str = r#"","n":""#;
/// Digits of a time stamp, until the year 2286.
const TS_DIGITS: usize = 13;

/// A number in decimal digits that only ever goes up by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digits([u8; DIGITS]);

impl Digits {
    /// The digits of a number.
    pub fn of(number: u64) -> Self {
        let mut digits = [b'0'; DIGITS];
        let text = format!("{number:0DIGITS$}");
        digits.copy_from_slice(&text.as_bytes()[text.len() - DIGITS..]);
        Self(digits)
    }

    /// Goes up by one. Returns the first digit that changed.
    fn advance(&mut self) -> usize {
        for at in (0..DIGITS).rev() {
            if self.0[at] < b'9' {
                self.0[at] += 1;
                return at;
            }
            self.0[at] = b'0';
        }
        0
    }
}

/// A payload of exactly `size` bytes with a number in it, and where the digits are: an object with a piece of a session
/// description, as browsers send it.
pub fn payload(pair: usize, size: usize) -> (String, usize) {
    const END: &str = "\"}";
    let mut text = format!(r#"{{"pair":"{pair:06}{NUMBER}"#);
    let digits_at = text.len();
    text.push_str(&"0".repeat(DIGITS));
    text.push_str(r#"","sdp":""#);
    let fill = size.saturating_sub(text.len() + END.len());
    text.push_str(&description(fill));
    text.push_str(END);
    (text, digits_at)
}

/// So many bytes of a session description, escaped for JSON.
pub fn description(bytes: usize) -> String {
    const SDP: &str = r"v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=msid-semantic: WMS\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 0.0.0.0 rport 0 generation 0 network-cost 999\r\na=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=ice-options:trickle\r\na=fingerprint:sha-256 D1:2C:BE:AD:C4:F6:64:5C:25:16:11:9C:AF:E7:0F:73:79:36:4E:9C:1E:15:54:39:0C:06:8B:ED:96:86:00:39\r\na=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n";
    let mut text: String = SDP.chars().cycle().take(bytes).collect();
    // An escape that was cut in two would not be JSON.
    if text.ends_with('\\') {
        text.pop();
        text.push('.');
    }
    text
}

/// A sender's frame.
pub struct Outgoing {
    frame: Vec<u8>,
    digits_at: usize,
    /// Where the digits are in the payload of the frame, for the mask.
    offset: usize,
    number: Digits,
    /// The plain text, if each message is to be compressed on its own.
    text: Option<Vec<u8>>,
}

impl Outgoing {
    /// Frames of `text`, which has its number at `digits_at`; the first has number 1.
    pub fn new(text: &str, digits_at: usize, compressed: bool) -> Self {
        let mut frame = Vec::new();
        let start = frames::push(&mut frame, 1, false, text.as_bytes());
        Self {
            frame,
            digits_at: start + digits_at,
            offset: digits_at,
            number: Digits::of(0),
            text: compressed.then(|| text.as_bytes().to_vec()),
        }
    }

    /// Appends the next `count` messages.
    pub fn push(&mut self, out: &mut Vec<u8>, count: u64) {
        if let Some(text) = &mut self.text {
            for _ in 0..count {
                self.number.advance();
                text[self.offset..self.offset + DIGITS].copy_from_slice(&self.number.0);
                frames::push(out, 1, true, &deflate(text));
            }
            return;
        }
        out.reserve(self.frame.len() * count as usize);
        for _ in 0..count {
            for at in self.number.advance()..DIGITS {
                self.frame[self.digits_at + at] = self.number.0[at] ^ MASK[(self.offset + at) & 3];
            }
            out.extend_from_slice(&self.frame);
        }
    }

    /// The frame with number 1, as whoever gets it unchanged must see it.
    pub fn verbatim(&self) -> Expected {
        let mut next = Self {
            frame: self.frame.clone(),
            number: Digits::of(0),
            text: None,
            ..*self
        };
        next.push(&mut Vec::new(), 1);
        Expected {
            frame: next.frame,
            digits_at: self.digits_at,
            mask: Some(self.offset),
            ts: 0..0,
            number: Digits::of(1),
        }
    }
}

/// A receiver's next frame.
pub struct Expected {
    frame: Vec<u8>,
    digits_at: usize,
    /// Digits are masked, the first with this byte's mask.
    mask: Option<usize>,
    ts: Range<usize>,
    number: Digits,
}

impl Expected {
    /// From a frame that was found to be right: number `number`, with `payload` (whose digits are at `digits_at`).
    pub fn learn(frame: &[u8], payload: &str, digits_at: usize, number: u64) -> Option<Self> {
        let at = find(frame, &payload.as_bytes()[..digits_at])?;
        let ts = find(frame, br#","ts":"#).map_or(0..0, |at| at + 6..at + 6 + TS_DIGITS);
        let mut expected = Self {
            frame: frame.to_vec(),
            digits_at: at + digits_at,
            mask: None,
            ts,
            number: Digits::of(number),
        };
        expected.advance();
        Some(expected)
    }

    /// Whether `bytes` begin with the expected frame; its length then.
    pub fn matches(&self, bytes: &[u8]) -> Option<usize> {
        let frame = bytes.get(..self.frame.len())?;
        let Range { start, end } = self.ts;
        let same = frame[..start] == self.frame[..start] && frame[end..] == self.frame[end..];
        let stamped = frame[start..end].iter().all(u8::is_ascii_digit);
        (same && stamped).then_some(frame.len())
    }

    /// The next frame is expected.
    pub fn advance(&mut self) {
        for at in self.number.advance()..DIGITS {
            let mask = self.mask.map_or(0, |offset| MASK[(offset + at) & 3]);
            self.frame[self.digits_at + at] = self.number.0[at] ^ mask;
        }
    }

    /// Bytes of a frame.
    pub fn len(&self) -> usize {
        self.frame.len()
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn payloads_are_json_of_the_size_that_was_asked_for() {
        for size in (64..600).chain([4000, 60_000]) {
            let (text, digits_at) = payload(7, size);
            assert_eq!(text.len(), size);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["n"], "0000000000");
            assert_eq!(&text[digits_at..digits_at + DIGITS], "0000000000");
        }
    }

    #[test]
    fn a_sender_counts_and_its_verbatim_receiver_expects_just_that() {
        let (text, digits_at) = payload(1, 301);
        let mut outgoing = Outgoing::new(&text, digits_at, false);
        let mut expected = outgoing.verbatim();
        let mut out = Vec::new();
        outgoing.push(&mut out, 1203);
        let mut at = 0;
        for _ in 0..1203 {
            at += expected.matches(&out[at..]).unwrap();
            expected.advance();
        }
        assert_eq!(at, out.len());
        assert_eq!(expected.matches(&out[..301 + 8]), None, "the first again");
    }

    #[test]
    fn a_receiver_learns_where_number_and_time_are_and_takes_no_other_difference() {
        let frame = |number: u32, ts: u64| {
            let (text, _) = payload(1, 100);
            let text = text.replace("0000000000", &format!("{number:010}"));
            format!(r#"..{{"from":"a","payload":{text},"ts":{ts}}}"#).into_bytes()
        };
        let (text, digits_at) = payload(1, 100);
        let mut expected = Expected::learn(&frame(99, 1_700_000_000_000), &text, digits_at, 99).unwrap();
        assert_eq!(expected.matches(&frame(100, 1_800_000_000_001)), Some(expected.len()));
        assert_eq!(expected.matches(&frame(99, 1_700_000_000_000)), None);
        assert_eq!(expected.matches(&frame(101, 1_700_000_000_000)), None);
        let mut broken = frame(100, 1_700_000_000_000);
        broken[5] ^= 1;
        assert_eq!(expected.matches(&broken), None);
        expected.advance();
        assert!(expected.matches(&frame(101, 1_700_000_000_000)).is_some());
    }
}
