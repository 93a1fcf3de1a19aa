//! The closing handshake: RFC 6455 sections 5.5.1, 7.1 and 7.4.

use super::support::{Client, ConnectOptions, Event, Frame, Opcode};
use super::{Echo, LONG, encoded, expect_failure, expect_message, send_in_pieces};

#[test]
fn a_close_is_echoed_with_its_code_and_the_server_ends_the_tcp_connection() {
    let echo = Echo::start();
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        for reason in ["", "going", "κόσμε"] {
            let mut client = echo.connect();
            client.send_frame(Frame::close(Some(code), reason));
            expect_failure(&mut client, code);
        }
    }
}

#[test]
fn an_empty_close_is_echoed_as_an_empty_close() {
    let echo = Echo::start();
    let mut client = echo.connect();
    client.send_frame(Frame::close(None, ""));
    expect_failure(&mut client, 1005);
}

#[test]
fn codes_that_must_not_be_sent_fail_the_connection() {
    let echo = Echo::start();
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        for reason in ["", "why"] {
            let mut client = echo.connect();
            client.send_frame(Frame::close(Some(code), reason));
            expect_failure(&mut client, 1002);
        }
    }
}

#[test]
fn half_a_code_fails_the_connection() {
    let echo = Echo::start();
    for byte in [0x00, 0x03, b'a'] {
        let mut client = echo.connect();
        client.send_frame(Frame::new(Opcode::CLOSE, [byte]));
        expect_failure(&mut client, 1002);
    }
}

#[test]
fn a_reason_may_have_123_bytes_and_no_more() {
    let echo = Echo::start();
    let mut client = echo.connect();
    send_in_pieces(&client, &Frame::close(Some(1000), &"*".repeat(123)).encode(), 1);
    expect_failure(&mut client, 1000);
    let mut client = echo.connect();
    client.send_frame(Frame::close(Some(1000), &"*".repeat(124)));
    expect_failure(&mut client, 1002);
}

#[test]
fn a_reason_that_is_not_utf8_fails_the_connection() {
    let echo = Echo::start();
    for reason in [
        &b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"[..],
        b"\xff",
        b"cut \xe2\x82",
    ] {
        let mut client = echo.connect();
        let payload = [&1000u16.to_be_bytes()[..], reason].concat();
        client.send_frame(Frame::new(Opcode::CLOSE, payload));
        expect_failure(&mut client, 1007);
    }
}

#[test]
fn whatever_follows_a_close_is_ignored() {
    let echo = Echo::start();
    for after in [
        Frame::text("late"),
        Frame::new(Opcode::PING, "late"),
        Frame::close(Some(3000), "again"),
        Frame::new(15, "nonsense").rsv(7).unmasked(),
        Frame::new(Opcode::BINARY, vec![0; 32 * 1024]),
    ] {
        // In one write, and with the close being answered in between.
        let mut client = echo.connect();
        client
            .try_send_frames(&[Frame::text("in time"), Frame::close(Some(1000), ""), after.clone()])
            .unwrap();
        expect_message(&mut client, Opcode::TEXT, b"in time");
        expect_failure(&mut client, 1000);
        let mut client = echo.connect();
        client.send_frame(Frame::close(Some(1000), ""));
        client.expect_close(1000, None);
        drop(client.try_send_bytes(&after.encode()));
        client.expect_eof();
    }
}

#[test]
fn what_was_asked_before_a_close_is_answered_before_it() {
    let echo = Echo::start();
    let mut client = echo.connect();
    let long = "BAsd7&jh23".repeat(26_214); // 256 KiB, more than one write to the socket
    let frames = [
        Frame::text(&long),
        Frame::close(Some(1000), ""),
        Frame::new(Opcode::PING, "late"),
    ];
    client.try_send_bytes(&encoded(&frames)).unwrap();
    expect_message(&mut client, Opcode::TEXT, long.as_bytes());
    expect_failure(&mut client, 1000);
}

#[test]
fn a_failing_server_does_not_wait_for_the_client_to_close() {
    let echo = Echo::start();
    let options = ConnectOptions {
        auto_close: false,
        ..ConnectOptions::default()
    };
    let mut client = Client::connect(echo.addr, options);
    client.send_frame(Frame::text("x").rsv(1));
    client.expect_close(1002, None);
    client.expect_eof();
}

#[test]
fn tcp_that_ends_without_a_close_frame_is_just_ended() {
    let echo = Echo::start();
    let client = echo.connect();
    client.send_frame(Frame::text("half").more());
    client.drop_tcp();
    let client = echo.connect();
    client.send_frame(Frame::text("half").declaring(100));
    client.reset_tcp();
    // The server lives on.
    let closed = echo.connect().close(1000, "").unwrap();
    assert_eq!(closed.code, Some(1000));
}

#[test]
fn a_server_that_stops_says_so() {
    let mut echo = Echo::start();
    let mut client = echo.connect();
    super::expect_alive(&mut client);
    echo.server.take().unwrap().stop();
    assert!(matches!(client.recv(LONG), Some(Event::Close { code: Some(1001), .. })));
    client.expect_eof();
}
