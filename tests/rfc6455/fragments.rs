//! Fragments, and control frames between them: RFC 6455 section 5.4.

use super::support::{Client, Event, Frame, Opcode};
use super::{Echo, LONG, encoded, expect_alive, expect_failure, expect_message, expect_pong, send_in_pieces};

fn more(payload: &str) -> Frame {
    Frame::new(Opcode::CONTINUATION, payload).more()
}

fn last(payload: &str) -> Frame {
    Frame::new(Opcode::CONTINUATION, payload)
}

fn ping(data: &str) -> Frame {
    Frame::new(Opcode::PING, data)
}

/// Runs the same frames in one write, frame by frame, and byte by byte.
fn in_every_piece(echo: &Echo, frames: &[Frame], check: impl Fn(&mut Client)) {
    let all = encoded(frames);
    for pieces in [
        vec![all.as_slice()],
        frames
            .iter()
            .scan(0, |at, frame| {
                let start = *at;
                *at += frame.encode().len();
                Some(&all[start..*at])
            })
            .collect(),
        all.chunks(1).collect(),
    ] {
        let mut client = echo.connect();
        // After a violation the server may have gone before the last pieces are sent.
        pieces.iter().for_each(|piece| drop(client.try_send_bytes(piece)));
        check(&mut client);
    }
}

#[test]
fn control_frames_must_not_be_fragmented() {
    let echo = Echo::start();
    for opcode in [Opcode::PING, Opcode::PONG, Opcode::CLOSE] {
        let frames = [Frame::new(opcode, "fr").more(), last("agment")];
        in_every_piece(&echo, &frames, |client| expect_failure(client, 1002));
    }
}

#[test]
fn fragments_come_back_as_one_message() {
    let echo = Echo::start();
    let frames = [Frame::text("fragment1").more(), more(""), more("frag"), last("ment2")];
    in_every_piece(&echo, &frames, |client| {
        expect_message(client, Opcode::TEXT, b"fragment1fragment2");
        expect_alive(client);
    });
    let binary = [Frame::new(Opcode::BINARY, "").more(), more(""), last("")];
    in_every_piece(&echo, &binary, |client| expect_message(client, Opcode::BINARY, b""));
}

#[test]
fn pings_between_fragments_are_answered_before_the_message() {
    let echo = Echo::start();
    let mut frames = Vec::new();
    for round in 1..=2 {
        frames.extend([
            Frame::text("fragment1").more(),
            more("fragment2"),
            ping(&format!("pongme {round}!")),
        ]);
        frames.extend([
            more("fragment3"),
            Frame::new(Opcode::PONG, ""),
            more("fragment4"),
            ping(""),
        ]);
        frames.push(last("fragment5"));
    }
    in_every_piece(&echo, &frames, |client| {
        for round in 1..=2 {
            expect_pong(client, format!("pongme {round}!").as_bytes());
            expect_pong(client, b"");
            let whole = "fragment1fragment2fragment3fragment4fragment5";
            assert!(
                matches!(client.recv(LONG), Some(Event::Message { payload, .. }) if payload == whole.as_bytes()),
                "round {round}"
            );
        }
        expect_alive(client);
    });
}

#[test]
fn a_ping_is_answered_while_the_message_is_incomplete() {
    let echo = Echo::start();
    let mut client = echo.connect();
    client.send_frame(Frame::text("fragment1").more());
    client.send_frame(ping("now"));
    expect_pong(&mut client, b"now");
    client.send_frame(last("fragment2"));
    expect_message(&mut client, Opcode::TEXT, b"fragment1fragment2");
}

#[test]
fn a_continuation_of_nothing_fails_the_connection() {
    let echo = Echo::start();
    for first in [
        last("non-continuation payload"),
        more("non-continuation payload"),
        last(""),
    ] {
        let frames = [first, Frame::text("Hello, world!")];
        in_every_piece(&echo, &frames, |client| expect_failure(client, 1002));
    }
    // A message that is whole is over: nothing continues it.
    for stray in [last("stray"), more("stray")] {
        let frames = [
            Frame::text("a").more(),
            last("b"),
            stray,
            Frame::text("c").more(),
            last("d"),
        ];
        in_every_piece(&echo, &frames, |client| {
            expect_message(client, Opcode::TEXT, b"ab");
            expect_failure(client, 1002);
        });
    }
}

#[test]
fn a_message_inside_a_message_fails_the_connection() {
    let echo = Echo::start();
    for second in [
        Frame::text("fragment2"),
        Frame::text("fragment2").more(),
        Frame::new(Opcode::BINARY, ""),
    ] {
        let frames = [Frame::text("fragment1").more(), second, last("fragment3")];
        in_every_piece(&echo, &frames, |client| expect_failure(client, 1002));
    }
}

#[test]
fn a_close_between_fragments_ends_the_connection_without_the_message() {
    let echo = Echo::start();
    let frames = [
        Frame::text("fragment1").more(),
        Frame::close(Some(1000), ""),
        last("fragment2"),
    ];
    let mut client = echo.connect();
    client.try_send_frames(&frames).unwrap();
    expect_failure(&mut client, 1000);
}

#[test]
fn a_text_cut_after_any_of_its_bytes_comes_back_whole() {
    let echo = Echo::start();
    let mut client = echo.connect();
    let text = "Hello-µ@ßöäüàá-UTF-8!!\u{1f600}κόσμε";
    for cut in 0..=text.len() {
        let (first, second) = text.as_bytes().split_at(cut);
        let frames = [
            Frame::new(Opcode::TEXT, first).more(),
            ping("p"),
            Frame::new(Opcode::CONTINUATION, second),
        ];
        send_in_pieces(&client, &encoded(&frames), 5);
        expect_pong(&mut client, b"p");
        expect_message(&mut client, Opcode::TEXT, text.as_bytes());
    }
}
