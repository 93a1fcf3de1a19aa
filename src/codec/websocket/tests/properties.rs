//! The same events however the bytes are cut, no panic whatever they are, and agreement with another implementation.

use super::super::{Control, Data, OpCode, begin_frame, end_frame, push_close, push_header};
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::{self, Read, Write};
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Message, WebSocket};

const SETTINGS: Settings = Settings {
    max_message_size: 3000,
    deflate: true,
};

/// A stream that gives out what was put in, and keeps what was written.
#[derive(Default)]
struct Pipe {
    input: io::Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.input.read(into)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            len => Ok(len),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client(input: Vec<u8>) -> WebSocket<Pipe> {
    WebSocket::from_raw_socket(
        Pipe {
            input: io::Cursor::new(input),
            ..Pipe::default()
        },
        Role::Client,
        None,
    )
}

/// One frame sent between the fragments of a message, or a whole message.
fn control() -> impl Strategy<Value = (u8, Vec<u8>)> {
    (prop_oneof![Just(PING), Just(PONG)], vec(any::<u8>(), 0..=125))
}

fn message() -> impl Strategy<Value = Event> {
    prop_oneof![
        "\\PC{0,60}".prop_map(Event::Text),
        vec(any::<u8>(), 0..300).prop_map(Event::Binary),
        (any::<bool>(), vec(any::<u8>(), 0..300)).prop_map(|(text, data)| Event::Compressed(text, data)),
    ]
}

/// A message as frames that end at `cuts`, a control frame after each but the last; and the events that it makes.
fn fragmented(
    message: &Event,
    cuts: &[usize],
    control: Option<&(u8, Vec<u8>)>,
    mask: [u8; 4],
) -> (Vec<u8>, Vec<Event>) {
    let (mut first, payload) = match message {
        Event::Text(text) => (TEXT, text.as_bytes()),
        Event::Binary(data) => (BINARY, &data[..]),
        Event::Compressed(true, data) => (RSV1 | TEXT, &data[..]),
        Event::Compressed(false, data) => (RSV1 | BINARY, &data[..]),
        other => panic!("{other:?}"),
    };
    let (mut bytes, mut events, mut start) = (Vec::new(), Vec::new(), 0);
    for &cut in cuts {
        let end = cut.clamp(start, payload.len());
        bytes.extend(frame_masked(first, &payload[start..end], mask));
        (first, start) = (CONTINUATION, end);
        if let Some((opcode, data)) = control {
            bytes.extend(frame(FIN | opcode, data));
            events.push(if *opcode == PING {
                Event::Ping(data.clone())
            } else {
                Event::Pong(data.clone())
            });
        }
    }
    bytes.extend(frame_masked(FIN | first, &payload[start..], mask));
    events.push(message.clone());
    (bytes, events)
}

/// A client's whole dialogue and what it means.
fn dialogue() -> impl Strategy<Value = (Vec<u8>, Vec<Event>)> {
    let part = (
        message(),
        vec(0usize..300, 0..4),
        proptest::option::of(control()),
        any::<[u8; 4]>(),
    );
    vec(part, 0..6).prop_map(|parts| {
        let parts = parts.iter().map(|(message, cuts, control, mask)| {
            let mut cuts = cuts.clone();
            cuts.sort_unstable();
            fragmented(message, &cuts, control.as_ref(), *mask)
        });
        let (bytes, events): (Vec<_>, Vec<_>) = parts.unzip();
        (bytes.concat(), events.concat())
    })
}

/// Positions at which an input of `len` bytes is cut.
fn sorted(cuts: &[prop::sample::Index], len: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

/// Byte by byte, as a whole, and cut at random must be the same.
fn seen_alike(bytes: &[u8], cuts: &[prop::sample::Index], settings: Settings) -> Result<Vec<Event>, TestCaseError> {
    let whole = events(bytes, &[], settings);
    prop_assert_eq!(&events(bytes, &sorted(cuts, bytes.len()), settings), &whole);
    let every_byte: Vec<usize> = (0..bytes.len()).collect();
    prop_assert_eq!(&events(bytes, &every_byte, settings), &whole);
    Ok(whole)
}

proptest! {
    #[test]
    fn a_dialogue_is_understood_however_it_is_cut(
        (bytes, expected) in dialogue(), cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        prop_assert_eq!(seen_alike(&bytes, &cuts, SETTINGS)?, expected);
    }

    #[test]
    fn a_damaged_dialogue_is_read_alike_however_it_is_cut(
        (bytes, _) in dialogue(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
        max_message_size in 0usize..400,
        deflate in any::<bool>(),
    ) {
        let mut bytes = bytes;
        for (at, byte) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        seen_alike(&bytes, &cuts, Settings { max_message_size, deflate })?;
    }

    #[test]
    fn any_bytes_are_read_alike_however_they_are_cut(
        bytes in vec(any::<u8>(), 0..200), cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        seen_alike(&bytes, &cuts, SETTINGS)?;
    }

    #[test]
    fn broken_text_is_read_alike_however_it_is_cut(
        payload in vec(prop_oneof![
            Just(b"a".to_vec()), Just("€".into()), Just("𝄞".into()), Just(b"\xe2\x82".to_vec()), Just(b"\x80".to_vec()),
        ], 0..30),
        fragments in vec(0usize..60, 0..4),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let payload = payload.concat();
        let mut fragments = fragments;
        fragments.sort_unstable();
        let (mut bytes, mut first, mut start) = (Vec::new(), TEXT, 0);
        for cut in fragments {
            let end = cut.clamp(start, payload.len());
            bytes.extend(frame(first, &payload[start..end]));
            (first, start) = (CONTINUATION, end);
        }
        bytes.extend(frame(FIN | first, &payload[start..]));
        let seen = seen_alike(&bytes, &cuts, SETTINGS)?;
        match String::from_utf8(payload) {
            Ok(text) => prop_assert_eq!(seen, [Event::Text(text)]),
            Err(_) => prop_assert!(matches!(seen[..], [Event::Fail(1007, _)])),
        }
    }

    #[test]
    fn a_client_of_another_make_is_understood(
        messages in vec(message(), 0..6), cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut client = client(Vec::new());
        let mut expected = Vec::new();
        for message in messages {
            let sent = match &message {
                Event::Text(text) => Message::text(text.clone()),
                Event::Binary(data) => Message::binary(data.clone()),
                _ => continue,
            };
            client.send(sent).unwrap();
            client.send(Message::Ping(vec![1, 2, 3].into())).unwrap();
            expected.extend([message, Event::Ping(vec![1, 2, 3])]);
        }
        client.close(Some(CloseFrame { code: 4000.into(), reason: "done".into() })).unwrap();
        expected.push(Event::Close(Some(4000)));
        let bytes = client.get_ref().output.clone();
        prop_assert_eq!(seen_alike(&bytes, &cuts, SETTINGS)?, expected);
    }

    #[test]
    fn a_client_of_another_make_understands_us(texts in vec("\\PC{0,200}", 0..6), hint in 0usize..70_000, long in 0usize..70_000) {
        let mut out = Vec::new();
        for text in &texts {
            let mark = begin_frame(&mut out, hint);
            out.extend_from_slice(text.as_bytes());
            end_frame(&mut out, mark, OpCode::Data(Data::Text), false);
        }
        push_header(&mut out, OpCode::Data(Data::Binary), false, long);
        out.resize(out.len() + long, 7);
        push_header(&mut out, OpCode::Control(Control::Ping), false, 2);
        out.extend_from_slice(b"hi");
        push_close(&mut out, Some(1013), "server full");
        let mut client = client(out);
        for text in texts {
            prop_assert_eq!(client.read().unwrap(), Message::text(text));
        }
        prop_assert_eq!(client.read().unwrap(), Message::binary(vec![7; long]));
        prop_assert_eq!(client.read().unwrap(), Message::Ping(b"hi".to_vec().into()));
        let close = CloseFrame { code: 1013.into(), reason: "server full".into() };
        prop_assert_eq!(client.read().unwrap(), Message::Close(Some(close)));
    }
}
