//! What the tests of the frame reader share: a client's frames, and a loop that feeds them in pieces.
#![allow(clippy::unwrap_used)]

mod properties;
mod rules;

use super::{Buffers, Partial, Settings, Step, next, settle};

/// One step, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Text(String),
    Binary(Vec<u8>),
    Compressed(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    Fail(u16, &'static str),
}

/// A pool that counts what is out.
#[derive(Default)]
struct Pool {
    out: isize,
    taken: usize,
}

impl Buffers for Pool {
    fn take(&mut self) -> Vec<u8> {
        self.out += 1;
        self.taken += 1;
        b"left by another message".to_vec()
    }

    fn put(&mut self, buffer: Vec<u8>) {
        assert!(buffer.capacity() > 0);
        self.out -= 1;
    }
}

/// A connection as the event loop has it.
struct Connection {
    settings: Settings,
    partial: Option<Box<Partial>>,
    pool: Pool,
    events: Vec<Event>,
    ended: bool,
}

impl Connection {
    fn new(max_message_size: usize, deflate: bool) -> Self {
        let settings = Settings {
            max_message_size,
            deflate,
        };
        Self {
            settings,
            partial: None,
            pool: Pool::default(),
            events: Vec::new(),
            ended: false,
        }
    }

    /// One read of the event loop.
    fn read(&mut self, bytes: &[u8]) {
        let mut input = bytes.to_vec();
        let mut at = 0;
        while !self.ended {
            let event = match next(&mut self.partial, &mut input, &mut at, &self.settings, &mut self.pool) {
                Step::Text(text) => Event::Text(text.to_owned()),
                Step::Binary(data) => Event::Binary(data.to_vec()),
                Step::Compressed { text, data } => Event::Compressed(text, data.to_vec()),
                Step::Ping(data) => Event::Ping(data.to_vec()),
                Step::Pong(data) => Event::Pong(data.to_vec()),
                Step::Close(code) => Event::Close(code),
                Step::Fail { code, reason } => Event::Fail(code, reason),
                Step::NeedMore => {
                    assert_eq!(at, bytes.len());
                    break;
                }
            };
            self.ended = matches!(event, Event::Close(_) | Event::Fail(..));
            self.events.push(event);
        }
        settle(&mut self.partial, &mut self.pool);
        assert_eq!(self.pool.out > 0, self.held_bytes() > size_of::<Partial>());
    }

    fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.held_bytes())
    }

    /// The connection ends; every buffer is back in the pool.
    fn end(mut self) -> Vec<Event> {
        if let Some(partial) = self.partial.take() {
            partial.release(&mut self.pool);
        }
        assert_eq!(self.pool.out, 0);
        self.events
    }
}

/// The events of `bytes` read in pieces that end at `cuts`.
fn events(bytes: &[u8], cuts: &[usize], settings: Settings) -> Vec<Event> {
    let mut connection = Connection::new(settings.max_message_size, settings.deflate);
    let mut start = 0;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        let end = cut.clamp(start, bytes.len());
        connection.read(&bytes[start..end]);
        start = end;
    }
    connection.end()
}

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const MASK: [u8; 4] = [0x9d, 0x01, 0xfe, 0x60];

/// A client's frame: bits and op code as given, minimal length, masked.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    frame_masked(first, payload, MASK)
}

fn frame_masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// The payload of a close frame.
fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}
