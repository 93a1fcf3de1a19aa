//! Frames of a client, however they are cut.
//!
//! Input: one byte of settings, four that say where to cut, then the bytes of the connection.
//! Property: whole, cut and byte by byte they give the same events, and every buffer goes back to its pool.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_server::codec::websocket::{Buffers, Partial, Settings, Step, next, settle};

fuzz_target!(|data: &[u8]| {
    let Some((head, bytes)) = data.split_first_chunk::<5>() else {
        return;
    };
    let settings = Settings {
        max_message_size: [1, 16, 125, 126, 300, 4096, 65_535, 70_000][usize::from(head[0] & 7)],
        deflate: head[0] & 8 != 0,
    };
    let whole = events(bytes, &[bytes.len()], settings);
    let steps = [head[1], head[2], head[3], head[4]].map(|step| usize::from(step) + 1);
    assert_eq!(events(bytes, &steps, settings), whole, "cut every {steps:?}");
    if bytes.len() < 2000 {
        assert_eq!(events(bytes, &[1], settings), whole, "byte by byte");
    }
});

#[derive(Debug, PartialEq)]
enum Event {
    Text(String),
    Binary(Vec<u8>),
    Compressed(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    Fail(u16, &'static str),
}

#[derive(Default)]
struct Pool {
    out: usize,
}

impl Buffers for Pool {
    fn take(&mut self) -> Vec<u8> {
        self.out += 1;
        b"left by another message".to_vec()
    }

    fn put(&mut self, _: Vec<u8>) {
        self.out = self.out.checked_sub(1).expect("no buffer is given back twice");
    }
}

/// The events of a connection whose reads have these lengths, over and over.
fn events(bytes: &[u8], steps: &[usize], settings: Settings) -> Vec<Event> {
    let (mut pool, mut partial, mut events): (_, Option<Box<Partial>>, _) = (Pool::default(), None, Vec::new());
    let (mut rest, mut steps) = (bytes, steps.iter().cycle());
    let mut ended = false;
    while !ended && !rest.is_empty() {
        let (read, later) = rest.split_at((*steps.next().unwrap_or(&1)).clamp(1, rest.len()));
        rest = later;
        let mut input = read.to_vec();
        let mut at = 0;
        while !ended {
            let event = match next(&mut partial, &mut input, &mut at, &settings, &mut pool) {
                Step::Text(text) => Event::Text(text.to_owned()),
                Step::Binary(data) => Event::Binary(data.to_vec()),
                Step::Compressed { text, data } => Event::Compressed(text, data.to_vec()),
                Step::Ping(data) => Event::Ping(data.to_vec()),
                Step::Pong(data) => Event::Pong(data.to_vec()),
                Step::Close(code) => Event::Close(code),
                Step::Fail { code, reason } => Event::Fail(code, reason),
                Step::NeedMore => {
                    assert_eq!(at, read.len(), "what is asked for more has used up what it had");
                    break;
                }
            };
            match &event {
                Event::Text(text) => assert!(text.len() <= settings.max_message_size),
                Event::Binary(data) => assert!(data.len() <= settings.max_message_size),
                Event::Compressed(_, data) => {
                    assert!(
                        settings.deflate
                            && data.len() <= settings.max_message_size + settings.max_message_size / 1000 + 64
                    );
                }
                Event::Ping(data) | Event::Pong(data) => assert!(data.len() <= 125),
                Event::Fail(code, _) => assert!(matches!(code, 1002 | 1007 | 1009)),
                Event::Close(code) => assert!(code.is_none_or(|code| (1000..5000).contains(&code))),
            }
            ended = matches!(event, Event::Close(_) | Event::Fail(..));
            events.push(event);
        }
        settle(&mut partial, &mut pool);
        assert!(pool.out <= 1, "one message at a time is gathered");
    }
    if let Some(partial) = partial {
        partial.release(&mut pool);
    }
    assert_eq!(pool.out, 0, "every buffer is back");
    events
}
