//! Megabytes, in one frame, in many, in small writes; bursts; and a message that is too long.

use super::support::{Frame, Opcode};
use super::{Echo, encoded, expect_alive, expect_failure, expect_message, send_in_pieces};

const MIB: usize = 1 << 20;

/// Text of that many bytes without a period that a length would fit: a part lost or doubled shows.
fn text_of(len: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(len + 16);
    for number in 0u32.. {
        if text.len() >= len {
            break;
        }
        text.extend_from_slice(format!("{number:x} ").as_bytes());
    }
    text.truncate(len);
    text
}

/// A message in fragments of that many bytes.
fn fragments(opcode: u8, payload: &[u8], fragment_bytes: usize) -> Vec<Frame> {
    let last = payload.len().div_ceil(fragment_bytes) - 1;
    let frame = |(index, part): (usize, &[u8])| {
        let frame = Frame::new(if index == 0 { opcode } else { Opcode::CONTINUATION }, part);
        if index == last { frame } else { frame.more() }
    };
    payload.chunks(fragment_bytes).enumerate().map(frame).collect()
}

#[test]
fn messages_of_megabytes_come_back() {
    let echo = Echo::start();
    let mut client = echo.connect();
    for (opcode, len) in [
        (Opcode::TEXT, 64 * 1024),
        (Opcode::BINARY, 256 * 1024),
        (Opcode::TEXT, MIB),
        (Opcode::BINARY, 4 * MIB),
        (Opcode::TEXT, 16 * MIB),
        (Opcode::BINARY, 16 * MIB),
    ] {
        let payload = text_of(len);
        client.send_frame(Frame::new(opcode, payload.clone()));
        expect_message(&mut client, opcode, &payload);
    }
    client.close(1000, "").unwrap();
}

#[test]
fn megabytes_in_fragments_come_back_as_one_message() {
    let echo = Echo::start();
    let mut client = echo.connect();
    let payload = text_of(4 * MIB);
    for (opcode, fragment_bytes) in [
        (Opcode::TEXT, 64),
        (Opcode::BINARY, 256),
        (Opcode::TEXT, 4096),
        (Opcode::BINARY, 64 * 1024),
        (Opcode::TEXT, MIB),
        (Opcode::BINARY, 4 * MIB),
    ] {
        client
            .try_send_bytes(&encoded(&fragments(opcode, &payload, fragment_bytes)))
            .unwrap();
        expect_message(&mut client, opcode, &payload);
    }
}

#[test]
fn fragments_of_1300_bytes_as_an_automatic_splitter_makes_them_come_back() {
    let echo = Echo::start();
    let mut client = echo.connect();
    let payload = text_of(65_536);
    client
        .try_send_frames(&fragments(Opcode::TEXT, &payload, 1300))
        .unwrap();
    expect_message(&mut client, Opcode::TEXT, &payload);
}

#[test]
fn a_megabyte_in_small_writes_comes_back() {
    let echo = Echo::start();
    let mut client = echo.connect();
    let payload = text_of(MIB);
    for (opcode, write_bytes) in [(Opcode::TEXT, 64), (Opcode::BINARY, 512), (Opcode::TEXT, 2048)] {
        send_in_pieces(&client, &Frame::new(opcode, payload.clone()).encode(), write_bytes);
        expect_message(&mut client, opcode, &payload);
    }
}

#[test]
fn a_thousand_messages_one_after_the_other_come_back() {
    let echo = Echo::start();
    let mut client = echo.connect();
    for len in [0, 16, 256, 4096, 16_384] {
        let payload = text_of(len);
        for _ in 0..1000 {
            client.send_frame(Frame::new(Opcode::TEXT, payload.clone()));
            expect_message(&mut client, Opcode::TEXT, &payload);
        }
    }
}

#[test]
fn a_burst_of_a_thousand_messages_comes_back_complete_and_in_order() {
    let echo = Echo::start();
    let mut client = echo.connect();
    // Nothing is read before everything is sent: the server has to hold it.
    client.pause_reading();
    let payload = |number: u32| [&number.to_be_bytes()[..], &vec![number as u8; 16_384]].concat();
    for number in 0..1000 {
        client.send_frame(Frame::new(Opcode::BINARY, payload(number)));
    }
    client.resume_reading();
    for number in 0..1000 {
        expect_message(&mut client, Opcode::BINARY, &payload(number));
    }
    expect_alive(&mut client);
}

#[test]
fn a_message_that_is_too_long_is_refused_at_its_header() {
    let echo = Echo::start();
    let max = 64 * MIB as u64;
    for opcode in [Opcode::TEXT, Opcode::BINARY] {
        for len in [max + 1, u64::from(u32::MAX), (1 << 63) - 1] {
            let mut client = echo.connect();
            client.send_frame(Frame::new(opcode, "the beginning").declaring(len));
            expect_failure(&mut client, 1009);
        }
    }
    // Together with what came before it.
    let mut client = echo.connect();
    let rest = Frame::new(Opcode::CONTINUATION, "").declaring(max);
    client.try_send_frames(&[Frame::text("x").more(), rest]).unwrap();
    expect_failure(&mut client, 1009);
}
