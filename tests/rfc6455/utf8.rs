//! Text is UTF-8, and text that is not fails the connection at its first wrong byte: RFC 6455 section 8.1.

use super::support::{Client, Frame, Opcode};
use super::{Echo, encoded, expect_alive, expect_failure, expect_message, expect_pong};

/// Texts that a careless check may refuse: first and last code points of each length, noncharacters, a byte order mark.
const VALID: [&str; 16] = [
    "",
    "Hello-µ@ßöäüàá-UTF-8!!",
    "κόσμε",
    "\0",
    "\u{7f}",
    "\u{80}",
    "\u{7ff}",
    "\u{800}",
    "\u{d7ff}",
    "\u{e000}",
    "\u{fffd}",
    "\u{feff}bom",
    "\u{fffe}\u{ffff}",
    "\u{10000}",
    "\u{1fffe}\u{ffffe}",
    "\u{10ffff}",
];

/// Bytes that no valid text may begin with, each the shortest such row: all but its last byte might still become valid.
const INVALID: [&[u8]; 26] = [
    b"\x80", // a continuation byte alone
    b"\xbf",
    b"\xc0", // an overlong form whatever follows
    b"\xc1",
    b"\xf5", // above U+10FFFF whatever follows
    b"\xf8", // the five-byte form that once was
    b"\xfc",
    b"\xfe",
    b"\xff",
    b"\xc3\x28", // a lead byte without its continuation
    b"\xc3\xc3",
    b"\xe0\x80", // overlong in three bytes
    b"\xe0\x9f",
    b"\xed\xa0", // a surrogate, D800
    b"\xed\xbf", // a surrogate, DFFF
    b"\xe1\x80\x20",
    b"\xe1\x80\xe1",
    b"\xef\xbf\x00",
    b"\xf0\x80", // overlong in four bytes
    b"\xf0\x8f",
    b"\xf4\x90", // U+110000
    b"\xf4\xbf",
    b"\xf1\x80\x80\x20",
    b"\xf1\x80\xff",
    b"\xf4\x8f\xbf\xc0",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0", // after good characters
];

#[test]
fn valid_text_comes_back() {
    let echo = Echo::start();
    let mut client = echo.connect();
    for text in VALID {
        client.send_text(text);
        expect_message(&mut client, Opcode::TEXT, text.as_bytes());
        // Byte by byte, each in a frame of its own.
        let mut frames = vec![Frame::text("").more()];
        frames.extend(text.bytes().map(|byte| Frame::new(Opcode::CONTINUATION, [byte]).more()));
        frames.push(Frame::new(Opcode::CONTINUATION, ""));
        client.try_send_frames(&frames).unwrap();
        expect_message(&mut client, Opcode::TEXT, text.as_bytes());
    }
}

#[test]
fn binary_messages_may_hold_anything() {
    let echo = Echo::start();
    let mut client = echo.connect();
    for bytes in INVALID {
        client.send_frame(Frame::new(Opcode::BINARY, bytes));
        expect_message(&mut client, Opcode::BINARY, bytes);
    }
}

#[test]
fn invalid_text_fails_the_connection() {
    let echo = Echo::start();
    for bytes in INVALID {
        for rest in [&b""[..], b"edited"] {
            let mut client = echo.connect();
            client.send_frame(Frame::new(Opcode::TEXT, [bytes, rest].concat()));
            expect_failure(&mut client, 1007);
        }
    }
}

#[test]
fn text_that_ends_inside_a_character_fails_the_connection() {
    let echo = Echo::start();
    for whole in ["\u{7ff}", "\u{ffff}", "\u{10ffff}", "good \u{1f600}"] {
        let cut = &whole.as_bytes()[..whole.len() - 1];
        let mut client = echo.connect();
        client.send_frame(Frame::new(Opcode::TEXT, cut));
        expect_failure(&mut client, 1007);
        let mut client = echo.connect();
        client
            .try_send_frames(&[
                Frame::new(Opcode::TEXT, cut).more(),
                Frame::new(Opcode::CONTINUATION, ""),
            ])
            .unwrap();
        expect_failure(&mut client, 1007);
    }
}

#[test]
fn a_wrong_byte_is_found_wherever_it_stands() {
    let echo = Echo::start();
    // Longer than what is looked at in one step of any vector unit, so that each position within one is tried.
    let text = "aé€\u{1f600}".repeat(16);
    for at in 0..text.len() {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = 0xff;
        let mut client = echo.connect();
        client.send_frame(Frame::new(Opcode::TEXT, bytes));
        expect_failure(&mut client, 1007);
    }
}

/// Sends frames that leave the message incomplete: the failure must not wait for the rest.
fn fails_at_once(client: &mut Client, frames: &[Frame]) {
    client.try_send_frames(frames).unwrap();
    expect_failure(client, 1007);
}

#[test]
fn a_fragment_that_cannot_become_valid_fails_at_once() {
    let echo = Echo::start();
    for bytes in INVALID {
        fails_at_once(&mut echo.connect(), &[Frame::new(Opcode::TEXT, bytes).more()]);
        // The wrong byte in a fragment of its own; until then nothing is wrong.
        let (wrong, before) = bytes.split_last().unwrap();
        let mut client = echo.connect();
        client.send_frame(Frame::new(Opcode::TEXT, before).more());
        client.send_frame(Frame::new(Opcode::PING, "fine so far?"));
        expect_pong(&mut client, b"fine so far?");
        fails_at_once(&mut client, &[Frame::new(Opcode::CONTINUATION, [*wrong]).more()]);
    }
}

#[test]
fn a_frame_that_is_not_complete_fails_at_once() {
    let echo = Echo::start();
    for bytes in INVALID {
        let unfinished = Frame::new(Opcode::TEXT, bytes)
            .declaring(bytes.len() as u64 + 20)
            .encode();
        for piece_bytes in [unfinished.len(), 1] {
            let mut client = echo.connect();
            unfinished
                .chunks(piece_bytes)
                .for_each(|piece| client.try_send_bytes(piece).unwrap());
            expect_failure(&mut client, 1007);
        }
    }
    // A frame of the largest kind, of which only the first few bytes ever come.
    let mut client = echo.connect();
    client.send_frame(Frame::new(Opcode::TEXT, b"good so far \xf4\x90").declaring(16 << 20));
    expect_failure(&mut client, 1007);
}

#[test]
fn a_later_fragment_that_is_not_complete_fails_at_once() {
    let echo = Echo::start();
    for bytes in INVALID {
        let (wrong, before) = bytes.split_last().unwrap();
        let frames = [
            Frame::text("good ").more(),
            Frame::new(Opcode::CONTINUATION, before).more(),
            Frame::new(Opcode::CONTINUATION, [*wrong]).declaring(1000),
        ];
        let mut client = echo.connect();
        client.try_send_bytes(&encoded(&frames)).unwrap();
        expect_failure(&mut client, 1007);
    }
}

#[test]
fn text_before_the_invalid_one_comes_back_and_control_frames_are_not_text() {
    let echo = Echo::start();
    let mut client = echo.connect();
    client.send_frame(Frame::new(Opcode::PING, b"\xff\xfe"));
    expect_pong(&mut client, b"\xff\xfe");
    expect_alive(&mut client);
    client
        .try_send_frames(&[
            Frame::text("before"),
            Frame::new(Opcode::TEXT, b"\xff"),
            Frame::text("after"),
        ])
        .unwrap();
    expect_message(&mut client, Opcode::TEXT, b"before");
    expect_failure(&mut client, 1007);
}
