//! Sizes, masks, reserved bits and op codes: RFC 6455 sections 5.1 and 5.2.

use super::support::{Frame, LengthForm, Opcode};
use super::{Echo, encoded, expect_alive, expect_failure, expect_message, expect_pong, send_in_pieces};

/// Around each change of the length's form.
const SIZES: [usize; 8] = [0, 1, 125, 126, 127, 128, 65_535, 65_536];

#[test]
fn messages_of_every_length_form_come_back_as_they_were() {
    let echo = Echo::start();
    let mut client = echo.connect();
    for size in SIZES {
        for (opcode, byte) in [(Opcode::TEXT, b'*'), (Opcode::BINARY, 0xfe)] {
            let payload = vec![byte; size];
            client.send_frame(Frame::new(opcode, payload.clone()));
            expect_message(&mut client, opcode, &payload);
        }
    }
    client.close(1000, "").unwrap();
}

#[test]
fn messages_in_small_pieces_come_back_as_they_were() {
    let echo = Echo::start();
    let mut client = echo.connect();
    for (size, piece_bytes) in [
        (0, 1),
        (125, 1),
        (126, 1),
        (128, 1),
        (1000, 7),
        (65_535, 997),
        (65_536, 997),
    ] {
        for (opcode, byte) in [(Opcode::TEXT, b'*'), (Opcode::BINARY, 0xfe)] {
            let payload = vec![byte; size];
            send_in_pieces(&client, &Frame::new(opcode, payload.clone()).encode(), piece_bytes);
            expect_message(&mut client, opcode, &payload);
        }
    }
    client.close(1000, "").unwrap();
}

#[test]
fn many_messages_in_one_write_come_back_one_by_one() {
    let echo = Echo::start();
    let mut client = echo.connect();
    let texts: Vec<String> = (0..2000).map(|number| "x".repeat(number % 300)).collect();
    client
        .try_send_bytes(&encoded(&texts.iter().map(Frame::text).collect::<Vec<_>>()))
        .unwrap();
    for text in &texts {
        expect_message(&mut client, Opcode::TEXT, text.as_bytes());
    }
}

#[test]
fn any_mask_will_do() {
    let echo = Echo::start();
    let mut client = echo.connect();
    for mask in [[0; 4], [0xff; 4], [0, 0, 0, 1], [0x80, 0x40, 0x20, 0x10]] {
        let payload: Vec<u8> = (0..=255).cycle().take(1021).collect();
        let frame = Frame {
            mask: Some(mask),
            ..Frame::new(Opcode::BINARY, payload.clone())
        };
        send_in_pieces(&client, &frame.encode(), 13);
        expect_message(&mut client, Opcode::BINARY, &payload);
    }
}

#[test]
fn a_frame_without_a_mask_fails_the_connection() {
    let echo = Echo::start();
    for frame in [
        Frame::text("naked"),
        Frame::text(""),
        Frame::new(Opcode::PING, "p"),
        Frame::close(Some(1000), ""),
    ] {
        let mut client = echo.connect();
        client.send_frame(frame.unmasked());
        expect_failure(&mut client, 1002);
    }
}

#[test]
fn a_length_in_more_bytes_than_it_needs_fails_the_connection() {
    let echo = Echo::start();
    for frame in [
        Frame::text("x").length_form(LengthForm::Sixteen),
        Frame::text("x".repeat(125)).length_form(LengthForm::Sixteen),
        Frame::text("x").length_form(LengthForm::SixtyFour),
        Frame::text("x".repeat(65_535)).length_form(LengthForm::SixtyFour),
    ] {
        let mut client = echo.connect();
        client.send_frame(frame);
        expect_failure(&mut client, 1002);
    }
    let mut client = echo.connect();
    client.send_frame(Frame::new(Opcode::BINARY, "").declaring(1 << 63));
    expect_failure(&mut client, 1002);
}

#[test]
fn reserved_bits_fail_the_connection_after_what_came_before() {
    let echo = Echo::start();
    for rsv in 1..8 {
        for bad in [
            Frame::text("Hello, world!"),
            Frame::new(Opcode::BINARY, [0; 3]),
            Frame::new(Opcode::PING, "Hello"),
            Frame::new(Opcode::PONG, ""),
            Frame::close(Some(1000), ""),
        ] {
            let all = encoded(&[Frame::text("before"), bad.rsv(rsv), Frame::new(Opcode::PING, "after")]);
            for piece_bytes in [all.len(), 1] {
                let mut client = echo.connect();
                let pieces = all.chunks(piece_bytes);
                // The server may have gone before the last pieces are sent.
                pieces.for_each(|piece| drop(client.try_send_bytes(piece)));
                expect_message(&mut client, Opcode::TEXT, b"before");
                expect_failure(&mut client, 1002);
            }
        }
    }
}

#[test]
fn reserved_bits_fail_the_connection_inside_a_message_too() {
    let echo = Echo::start();
    let mut client = echo.connect();
    let frames = [Frame::text("a").more(), Frame::new(Opcode::CONTINUATION, "b").rsv(4)];
    client.try_send_frames(&frames).unwrap();
    expect_failure(&mut client, 1002);
}

#[test]
fn reserved_op_codes_fail_the_connection_after_what_came_before() {
    let echo = Echo::start();
    for opcode in (3..8).chain(11..16) {
        for payload in ["", "reserved op code payload"] {
            let bad = Frame::new(opcode, payload);
            let all = encoded(&[Frame::text("before"), bad, Frame::new(Opcode::PING, "after")]);
            for piece_bytes in [all.len(), 1] {
                let mut client = echo.connect();
                all.chunks(piece_bytes)
                    .for_each(|piece| drop(client.try_send_bytes(piece)));
                expect_message(&mut client, Opcode::TEXT, b"before");
                expect_failure(&mut client, 1002);
            }
        }
    }
}

#[test]
fn frames_of_other_connections_are_not_disturbed_by_a_failure() {
    let echo = Echo::start();
    let (mut good, mut bad) = (echo.connect(), echo.connect());
    good.send_frame(Frame::text("half a ").more());
    bad.send_frame(Frame::text("x").rsv(7));
    expect_failure(&mut bad, 1002);
    good.try_send_frames(&[
        Frame::new(Opcode::PING, "here"),
        Frame::new(Opcode::CONTINUATION, "message"),
    ])
    .unwrap();
    expect_pong(&mut good, b"here");
    expect_message(&mut good, Opcode::TEXT, b"half a message");
    expect_alive(&mut good);
}
