//! Pings and pongs: RFC 6455 sections 5.5.2 and 5.5.3.

use super::support::{Frame, Opcode};
use super::{Echo, encoded, expect_alive, expect_failure, expect_pong, send_in_pieces};

#[test]
fn a_ping_is_answered_with_its_own_data() {
    let echo = Echo::start();
    let mut client = echo.connect();
    let all: Vec<u8> = (0..125).map(|number| number + 131).collect();
    for data in [&b""[..], b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", &all] {
        client.send_frame(Frame::new(Opcode::PING, data));
        expect_pong(&mut client, data);
        send_in_pieces(&client, &Frame::new(Opcode::PING, data).encode(), 1);
        expect_pong(&mut client, data);
    }
    expect_alive(&mut client);
}

#[test]
fn a_ping_of_126_bytes_fails_the_connection() {
    let echo = Echo::start();
    for opcode in [Opcode::PING, Opcode::PONG] {
        let mut client = echo.connect();
        client.send_frame(Frame::new(opcode, [0xfe; 126]));
        expect_failure(&mut client, 1002);
    }
}

#[test]
fn pongs_that_nobody_asked_for_are_ignored() {
    let echo = Echo::start();
    let mut client = echo.connect();
    client.send_frame(Frame::new(Opcode::PONG, ""));
    client.send_frame(Frame::new(Opcode::PONG, "unsolicited pong payload"));
    client.send_frame(Frame::new(Opcode::PING, "ping payload"));
    expect_pong(&mut client, b"ping payload");
    expect_alive(&mut client);
}

#[test]
fn ten_pings_are_answered_in_order() {
    let echo = Echo::start();
    let pings: Vec<Frame> = (0..10)
        .map(|number| Frame::new(Opcode::PING, format!("payload-{number}")))
        .collect();
    let bytes = encoded(&pings);
    for piece_bytes in [bytes.len(), 1] {
        let mut client = echo.connect();
        send_in_pieces(&client, &bytes, piece_bytes);
        for ping in &pings {
            expect_pong(&mut client, &ping.payload);
        }
        expect_alive(&mut client);
    }
}
