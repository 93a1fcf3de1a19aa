//! RFC 6455 sections 5 to 7, rule by rule.

use super::super::{accept_key, push_header};
use super::*;

const PLAIN: Settings = Settings {
    max_message_size: 1000,
    deflate: false,
};
const DEFLATE: Settings = Settings {
    max_message_size: 1000,
    deflate: true,
};

/// The events, which are the same for the whole input and byte by byte.
fn seen(frames: &[Vec<u8>], settings: Settings) -> Vec<Event> {
    let bytes = frames.concat();
    let whole = events(&bytes, &[], settings);
    let every_byte: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(events(&bytes, &every_byte, settings), whole);
    for cut in 0..bytes.len() {
        assert_eq!(events(&bytes, &[cut], settings), whole, "cut at {cut}");
    }
    whole
}

/// The code that the connection is closed with after no event at all.
fn refused(frames: &[Vec<u8>]) -> u16 {
    refusal(&seen(frames, PLAIN))
}

fn refusal(events: &[Event]) -> u16 {
    match events {
        [Event::Fail(code, reason)] if !reason.is_empty() => *code,
        other => panic!("{other:?}"),
    }
}

fn text(text: &str) -> Event {
    Event::Text(text.to_owned())
}

#[test]
fn the_accept_value_is_that_of_the_standard() {
    assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn the_examples_of_the_standard_are_read() {
    // RFC 6455 section 5.7: a masked text message and a masked pong.
    let hello = vec![0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let pong = vec![0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(
        seen(&[hello, pong], PLAIN),
        [text("Hello"), Event::Pong(b"Hello".to_vec())]
    );
}

#[test]
fn messages_of_every_length_class_are_read() {
    let settings = Settings {
        max_message_size: 100_000,
        deflate: false,
    };
    for len in [0, 1, 125, 126, 127, 0xffff, 0x1_0000] {
        let payload = vec![b'x'; len];
        let bytes = frame(FIN | BINARY, &payload);
        for cuts in [&[][..], &[1], &[2], &[5], &[9], &[13], &[14], &[14, 15], &[40, 41, 42]] {
            assert!(
                events(&bytes, cuts, settings) == [Event::Binary(payload.clone())],
                "{len} {cuts:?}"
            );
        }
    }
}

#[test]
fn fragments_are_joined_and_control_frames_may_stand_between_them() {
    let frames = [
        frame(TEXT, b"a\xe2\x82"),
        frame(FIN | PING, b"1"),
        frame(CONTINUATION, b""),
        frame(CONTINUATION, b"\xac"),
        frame(FIN | PONG, &[7; 125]),
        frame(FIN | PING, b""),
        frame(FIN | CONTINUATION, b"b"),
        frame(BINARY, b""),
        frame(FIN | CONTINUATION, b""),
        frame(FIN | TEXT, b""),
    ];
    let expected = [
        Event::Ping(b"1".to_vec()),
        Event::Pong(vec![7; 125]),
        Event::Ping(vec![]),
        text("a€b"),
        Event::Binary(vec![]),
        text(""),
    ];
    assert_eq!(seen(&frames, PLAIN), expected);
}

#[test]
fn reserved_bits_are_refused() {
    for bits in [0x10, 0x20, 0x40, 0x70] {
        for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
            assert_eq!(refused(&[frame(FIN | bits | opcode, b"")]), 1002);
        }
    }
}

#[test]
fn the_first_reserved_bit_means_compression_where_that_was_agreed() {
    let frames = [
        frame(FIN | RSV1 | TEXT, b"\xff"),
        frame(RSV1 | BINARY, b"\xff"),
        frame(FIN | PING, b""),
        frame(FIN | CONTINUATION, b"\xfe"),
        frame(FIN | TEXT, b"plain"),
    ];
    let expected = [
        Event::Compressed(true, vec![0xff]),
        Event::Ping(vec![]),
        Event::Compressed(false, vec![0xff, 0xfe]),
        text("plain"),
    ];
    assert_eq!(seen(&frames, DEFLATE), expected);
    for frames in [
        &[frame(FIN | RSV1 | PING, b"")][..],
        &[frame(FIN | RSV1 | CLOSE, b"")],
        &[frame(FIN | RSV1 | 0x20 | TEXT, b"")],
        &[frame(RSV1 | TEXT, b""), frame(FIN | RSV1 | CONTINUATION, b"")],
        &[frame(TEXT, b""), frame(FIN | RSV1 | CONTINUATION, b"")],
    ] {
        assert_eq!(refusal(&seen(frames, DEFLATE)), 1002);
    }
}

#[test]
fn reserved_op_codes_are_refused() {
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert_eq!(refused(&[frame(FIN | opcode, b"")]), 1002);
        assert_eq!(refused(&[frame(opcode, b"x")]), 1002);
    }
}

#[test]
fn control_frames_are_short_and_whole() {
    for opcode in [CLOSE, PING, PONG] {
        assert_eq!(refused(&[frame(opcode, b"")]), 1002);
        assert_eq!(refused(&[frame(FIN | opcode, &[0; 126])]), 1002);
        assert_eq!(refused(&[frame(FIN | opcode, &[0; 70_000])[..14].to_vec()]), 1002);
    }
}

#[test]
fn lengths_are_written_in_their_shortest_form() {
    for header in [
        &[0x82, 0xfe, 0, 125][..],
        &[0x82, 0xfe, 0, 0],
        &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
        &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x89, 0xfe, 0, 1],
        &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
        &[0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ] {
        assert_eq!(refused(&[[header, &MASK].concat()]), 1002, "{header:x?}");
    }
}

#[test]
fn frames_without_a_mask_are_refused() {
    for first in [FIN | TEXT, FIN | PING, FIN | CLOSE] {
        assert_eq!(refused(&[vec![first, 0]]), 1002);
        assert_eq!(refused(&[vec![first, 1, b'x']]), 1002);
    }
}

#[test]
fn fragments_come_in_order() {
    assert_eq!(refused(&[frame(CONTINUATION, b"x")]), 1002);
    assert_eq!(refused(&[frame(FIN | CONTINUATION, b"x")]), 1002);
    assert_eq!(refused(&[frame(TEXT, b"x"), frame(FIN | TEXT, b"y")]), 1002);
    assert_eq!(refused(&[frame(TEXT, b""), frame(BINARY, b"")]), 1002);
    let again = [
        frame(TEXT, b"x"),
        frame(FIN | CONTINUATION, b"y"),
        frame(FIN | CONTINUATION, b"z"),
    ];
    assert!(matches!(&seen(&again, PLAIN)[..], [Event::Text(xy), Event::Fail(1002, _)] if xy == "xy"));
}

#[test]
fn close_codes_are_checked_and_echoed() {
    assert_eq!(seen(&[frame(FIN | CLOSE, b"")], PLAIN), [Event::Close(None)]);
    for code in 0..=u16::MAX {
        let valid = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        let seen = events(&frame(FIN | CLOSE, &close_payload(code, b"why")), &[], PLAIN);
        if valid {
            assert_eq!(seen, [Event::Close(Some(code))]);
        } else {
            assert!(matches!(seen[..], [Event::Fail(1002, _)]), "{code}");
        }
    }
    assert_eq!(refused(&[frame(FIN | CLOSE, b"\x03")]), 1002);
    assert_eq!(refused(&[frame(FIN | CLOSE, &close_payload(1000, b"\xff"))]), 1007);
    assert_eq!(refused(&[frame(FIN | CLOSE, &close_payload(1000, b"\xe2\x82"))]), 1007);
    let longest = frame(FIN | CLOSE, &close_payload(1000, &[b'x'; 123]));
    assert_eq!(seen(&[longest], PLAIN), [Event::Close(Some(1000))]);
}

#[test]
fn a_close_frame_may_come_inside_a_message_and_ends_everything() {
    let frames = [
        frame(TEXT, b"x"),
        frame(FIN | CLOSE, &close_payload(1001, b"")),
        frame(FIN | CONTINUATION, b"y"),
    ];
    assert_eq!(seen(&frames, PLAIN), [Event::Close(Some(1001))]);
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    for bad in [
        &b"\xff"[..],
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"a\xe2\x82",
        b"\x80",
        b"\xf8",
    ] {
        assert_eq!(refused(&[frame(FIN | TEXT, bad)]), 1007);
        let (head, tail) = bad.split_at(bad.len() / 2);
        assert_eq!(refused(&[frame(TEXT, head), frame(FIN | CONTINUATION, tail)]), 1007);
        assert_eq!(
            refused(&[
                frame(TEXT, head),
                frame(CONTINUATION, tail),
                frame(FIN | CONTINUATION, b"")
            ]),
            1007
        );
        assert_eq!(seen(&[frame(FIN | BINARY, bad)], PLAIN), [Event::Binary(bad.to_vec())]);
    }
}

#[test]
fn bad_text_is_refused_with_the_byte_that_proves_it() {
    // After f4, the byte 90 cannot follow; nor can anything follow a lone continuation byte.
    for (good, bad) in [
        (&b"ok \xf4"[..], 0x90),
        (b"\xed", 0xa0),
        (b"\xe2\x82", b'x'),
        (b"", 0x80),
        (b"\xce\xba", 0xff),
    ] {
        for first in [FIN | TEXT, TEXT] {
            let whole = frame(first, &[good, &[bad], b" and much more that never comes"].concat());
            let mut connection = Connection::new(1000, false);
            for byte in &whole[..6 + good.len()] {
                connection.read(&[*byte]);
            }
            assert_eq!(connection.events, []);
            connection.read(&whole[6 + good.len()..][..1]);
            assert_eq!(refusal(&connection.events), 1007);
        }
        let mut connection = Connection::new(1000, false);
        connection.read(&[frame(TEXT, good), frame(CONTINUATION, &[bad])].concat());
        assert_eq!(refusal(&connection.end()), 1007);
    }
}

#[test]
fn a_bad_header_is_refused_before_its_payload() {
    for (bytes, code) in [
        (&frame(FIN | 3, &[0; 100])[..6], 1002),
        (&frame(FIN | TEXT, &[0; 1001])[..8], 1009),
        (
            &[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4][..],
            1009,
        ),
    ] {
        let mut connection = Connection::new(1000, false);
        connection.read(bytes);
        assert_eq!(connection.held_bytes(), 0);
        assert_eq!(refusal(&connection.end()), code);
    }
}

#[test]
fn messages_of_the_limit_pass_and_longer_ones_fail() {
    let settings = Settings {
        max_message_size: 10,
        deflate: false,
    };
    assert_eq!(seen(&[frame(FIN | TEXT, &[b'x'; 10])], settings), [text("xxxxxxxxxx")]);
    assert_eq!(refusal(&seen(&[frame(FIN | TEXT, &[b'x'; 11])], settings)), 1009);
    let halves = |tail: usize| {
        [
            frame(TEXT, b"12345"),
            frame(CONTINUATION, b""),
            frame(FIN | CONTINUATION, &vec![b'6'; tail]),
        ]
    };
    assert_eq!(seen(&halves(5), settings), [text("1234566666")]);
    assert_eq!(refusal(&seen(&halves(6), settings)), 1009);
    assert_eq!(
        refusal(&events(
            &halves(6)[..2].concat(),
            &[],
            Settings {
                max_message_size: 4,
                ..settings
            }
        )),
        1009
    );
    // Control frames do not count.
    let pinged = [
        frame(TEXT, b"12345"),
        frame(FIN | PING, &[0; 100]),
        frame(FIN | CONTINUATION, b"12345"),
    ];
    assert_eq!(seen(&pinged, settings).len(), 2);
}

#[test]
fn compressed_messages_may_be_a_little_longer_than_the_limit() {
    let max = 1000 + 1 + 64;
    let whole = seen(&[frame(FIN | RSV1 | TEXT, &vec![0xff; max])], DEFLATE);
    assert_eq!(whole, [Event::Compressed(true, vec![0xff; max])]);
    assert_eq!(
        refusal(&seen(&[frame(FIN | RSV1 | TEXT, &vec![0xff; max + 1])], DEFLATE)),
        1009
    );
    assert_eq!(refusal(&seen(&[frame(FIN | TEXT, &[b'x'; 1001])], DEFLATE)), 1009);
    let unlimited = Settings {
        max_message_size: usize::MAX,
        deflate: true,
    };
    assert_eq!(events(&frame(FIN | RSV1 | TEXT, b"x"), &[], unlimited).len(), 1);
}

#[test]
fn a_whole_message_takes_no_memory() {
    let mut connection = Connection::new(1000, false);
    let message = frame(FIN | TEXT, &[b'x'; 500]);
    connection.read(&[&message[..], &message, &frame(FIN | PING, b"x")].concat());
    assert!(connection.partial.is_none() && connection.pool.taken == 0);
    // A header that is cut is carried over, but the payload that follows whole is not copied.
    connection.read(&message[..3]);
    assert_eq!(connection.held_bytes(), size_of::<Partial>());
    connection.read(&message[3..]);
    assert!(connection.partial.is_none() && connection.pool.taken == 0);
    assert_eq!(connection.end().len(), 4);
}

#[test]
fn a_fragment_costs_only_its_bytes() {
    const LEN: usize = 16 * 1024;
    let mut connection = Connection::new(LEN, false);
    connection.read(&frame(TEXT, b"x"));
    for _ in 2..LEN {
        connection.read(&frame(CONTINUATION, b"x"));
        connection.read(&frame(CONTINUATION, b""));
    }
    assert!(connection.held_bytes() <= 2 * LEN + size_of::<Partial>());
    assert!(size_of::<Partial>() <= 256, "{}", size_of::<Partial>());
    connection.read(&frame(FIN | CONTINUATION, b"x"));
    assert!(connection.partial.is_none() && connection.pool.taken == 1);
    assert_eq!(connection.end(), [Event::Text("x".repeat(LEN))]);
}

#[test]
fn empty_fragments_take_no_buffer() {
    let mut connection = Connection::new(1000, false);
    connection.read(
        &[
            frame(TEXT, b""),
            frame(CONTINUATION, b""),
            frame(FIN | CONTINUATION, b""),
        ]
        .concat(),
    );
    assert_eq!(connection.pool.taken, 0);
    assert_eq!(connection.end(), [text("")]);
}

#[test]
fn a_server_s_frame_is_refused_by_the_server() {
    let mut bytes = Vec::new();
    push_header(&mut bytes, super::super::OpCode::from(TEXT), false, 0);
    assert_eq!(refusal(&events(&bytes, &[], PLAIN)), 1002);
}
