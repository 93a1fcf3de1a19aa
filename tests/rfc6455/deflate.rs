//! permessage-deflate: RFC 7692, negotiated without context takeover.

use flate2::{Compress, Compression, FlushCompress};

use super::support::{Client, Event, Frame, Opcode, deflate};
use super::{Echo, LONG, encoded, expect_alive, expect_failure, expect_pong, send_in_pieces};

const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// From here on the server compresses what becomes shorter by it.
const COMPRESSED_FROM: usize = 256;

/// Text that compresses about as well as JSON does.
fn json_of(len: usize, seed: usize) -> String {
    let mut text = String::with_capacity(len + 80);
    for number in seed.. {
        if text.len() >= len {
            break;
        }
        text += &format!(
            "{{\"id\":{},\"name\":\"peer-{:x}\",\"online\":true}},",
            number * 31,
            number * 7919
        );
    }
    text.truncate(len);
    text
}

/// Bytes that no compressor makes shorter.
fn noise_of(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A compressed message.
fn compressed(opcode: u8, payload: &[u8]) -> Frame {
    Frame::new(opcode, deflate(payload)).rsv(4)
}

/// Deflate data as a client with a window of `2^bits` makes it, without the tail of section 7.2.1.
fn deflate_in_window(payload: &[u8], bits: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * payload.len() + 64);
    let mut stream = Compress::new_with_window_bits(Compression::best(), false, bits);
    stream.compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
    assert!(stream.total_in() == payload.len() as u64 && out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

/// The next message must be this one; whether it came compressed.
fn expect(client: &mut Client, opcode: u8, payload: &[u8]) -> bool {
    match client.recv_content(LONG) {
        Some(Event::Message {
            text,
            payload: got,
            compressed,
            frames: 1,
        }) => {
            assert_eq!(text, opcode == Opcode::TEXT);
            assert!(got == payload, "sent {} bytes, got {} others", payload.len(), got.len());
            compressed
        }
        other => panic!(
            "expected {} bytes, got {:?}",
            payload.len(),
            other.map(|event| event.describe())
        ),
    }
}

#[test]
fn every_offer_that_can_be_kept_is_answered_without_context_takeover() {
    let echo = Echo::deflating();
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=9",
        "permessage-deflate; client_no_context_takeover",
        "permessage-deflate; server_no_context_takeover; client_max_window_bits",
        "permessage-deflate; server_max_window_bits=15",
        // What cannot be kept is passed over for what can.
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=9, permessage-deflate; \
         server_no_context_takeover, permessage-deflate",
        "x-webkit-deflate-frame, permessage-deflate",
    ] {
        let mut client = echo.offer(offer);
        assert_eq!(client.extension().as_deref(), Some(ANSWER), "{offer}");
        let text = json_of(1000, 0);
        client.send_frame(Frame::compressed_text(&text));
        assert!(expect(&mut client, Opcode::TEXT, text.as_bytes()), "{offer}");
    }
}

#[test]
fn an_offer_that_cannot_be_kept_leaves_a_plain_connection() {
    let (echo, plain) = (Echo::deflating(), Echo::start());
    for (echo, offer) in [
        (&echo, "permessage-deflate; server_max_window_bits=9"),
        (&echo, "permessage-deflate; client_max_window_bits=7"),
        (&echo, "permessage-deflate; unknown_parameter"),
        (&echo, "permessage-bzip2"),
        (&plain, "permessage-deflate"),
    ] {
        let mut client = echo.offer(offer);
        assert_eq!(client.extension(), None, "{offer}");
        let text = json_of(1000, 0);
        client.send_text(&text);
        assert!(!expect(&mut client, Opcode::TEXT, text.as_bytes()), "{offer}");
        client.send_frame(Frame::compressed_text("not agreed upon"));
        expect_failure(&mut client, 1002);
    }
}

#[test]
fn messages_of_every_size_come_back() {
    let echo = Echo::deflating();
    let mut client = echo.offer("permessage-deflate");
    for len in [
        0,
        1,
        16,
        64,
        255,
        256,
        257,
        1024,
        4096,
        8192,
        16_384,
        32_768,
        65_536,
        131_072,
        1 << 20,
    ] {
        let text = json_of(len, len);
        for frame in [Frame::text(&text), Frame::compressed_text(&text)] {
            client.send_frame(frame);
            let came_compressed = expect(&mut client, Opcode::TEXT, text.as_bytes());
            assert_eq!(came_compressed, len >= COMPRESSED_FROM, "{len} bytes");
        }
        let noise = noise_of(len);
        for frame in [
            Frame::new(Opcode::BINARY, noise.clone()),
            compressed(Opcode::BINARY, &noise),
        ] {
            client.send_frame(frame);
            assert!(!expect(&mut client, Opcode::BINARY, &noise), "noise became shorter");
        }
    }
}

#[test]
fn a_client_may_use_any_window() {
    let echo = Echo::deflating();
    let mut client = echo.offer("permessage-deflate; client_max_window_bits");
    // Repeats beyond the small windows, so that each window makes other data.
    let text = json_of(20_000, 0) + &json_of(20_000, 0);
    for bits in 9..=15 {
        let frame = Frame::new(Opcode::TEXT, deflate_in_window(text.as_bytes(), bits)).rsv(4);
        client.send_frame(frame);
        expect(&mut client, Opcode::TEXT, text.as_bytes());
    }
}

#[test]
fn a_thousand_messages_need_nothing_of_each_other() {
    let echo = Echo::deflating();
    let mut client = echo.offer("permessage-deflate; client_max_window_bits");
    for number in 0..1000 {
        let text = json_of(16 << (number % 9), number);
        client.send_frame(Frame::compressed_text(&text));
        expect(&mut client, Opcode::TEXT, text.as_bytes());
    }
    client.close(1000, "").unwrap();
}

#[test]
fn connections_do_not_share_what_they_compress_with() {
    let echo = Echo::deflating();
    let mut clients: Vec<Client> = (0..8).map(|_| echo.offer("permessage-deflate")).collect();
    for round in 0..20 {
        for (index, client) in clients.iter().enumerate() {
            client.send_frame(Frame::compressed_text(&json_of(3000, round * 100 + index)));
        }
        for (index, client) in clients.iter_mut().enumerate() {
            expect(client, Opcode::TEXT, json_of(3000, round * 100 + index).as_bytes());
        }
    }
}

#[test]
fn a_compressed_message_may_come_in_fragments_and_pieces() {
    let echo = Echo::deflating();
    let mut client = echo.offer("permessage-deflate");
    let text = json_of(10_000, 0);
    let data = deflate(text.as_bytes());
    let parts: Vec<&[u8]> = data.chunks(data.len().div_ceil(4)).collect();
    let frames = [
        Frame::new(Opcode::TEXT, parts[0]).rsv(4).more(),
        Frame::new(Opcode::CONTINUATION, parts[1]).more(),
        Frame::new(Opcode::PING, "between"),
        Frame::new(Opcode::CONTINUATION, "").more(),
        Frame::new(Opcode::CONTINUATION, parts[2]).more(),
        Frame::new(Opcode::CONTINUATION, parts[3]),
    ];
    for piece_bytes in [1, 7, 100_000] {
        send_in_pieces(&client, &encoded(&frames), piece_bytes);
        expect_pong(&mut client, b"between");
        expect(&mut client, Opcode::TEXT, text.as_bytes());
    }
}

#[test]
fn what_deflate_allows_is_inflated() {
    let echo = Echo::deflating();
    let mut client = echo.offer("permessage-deflate");
    let hello: [&[u8]; 5] = [
        b"\xf2\x48\xcd\xc9\xc9\x07\x00",                 // RFC 7692 section 7.2.3.1: one block
        b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", // 7.2.3.3: not compressed
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",             // 7.2.3.4: a final block
        b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", // 7.2.3.5: two blocks
        b"\xf2\x48\x05\x00\x00\x00\xff\xff\x02\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", // and an empty one between
    ];
    for data in hello {
        client.send_frame(Frame::new(Opcode::TEXT, data).rsv(4));
        expect(&mut client, Opcode::TEXT, b"Hello");
    }
    client.send_frame(Frame::new(Opcode::BINARY, b"\x00").rsv(4)); // 7.2.3.6: an empty message
    expect(&mut client, Opcode::BINARY, b"");
    expect_alive(&mut client);
}

#[test]
fn what_is_not_deflate_data_fails_the_connection() {
    let echo = Echo::deflating();
    let cut = deflate(json_of(1000, 0).as_bytes());
    for data in [&b"\xff\xff\xff\xff"[..], b"\x06", &cut[..cut.len() / 2]] {
        let mut client = echo.offer("permessage-deflate");
        client.send_frame(Frame::new(Opcode::BINARY, data).rsv(4));
        expect_failure(&mut client, 1007);
    }
}

#[test]
fn compressed_text_that_is_not_utf8_fails_the_connection() {
    let echo = Echo::deflating();
    for bytes in [&b"\xff"[..], b"good \xed\xa0\x80", b"cut \xf0\x9f\x98"] {
        let mut client = echo.offer("permessage-deflate");
        client.send_frame(compressed(Opcode::TEXT, bytes));
        expect_failure(&mut client, 1007);
    }
}

#[test]
fn the_bit_of_compression_belongs_to_a_messages_first_frame() {
    let echo = Echo::deflating();
    for frames in [
        vec![Frame::new(Opcode::PING, deflate(b"x")).rsv(4)],
        vec![Frame::new(Opcode::CLOSE, deflate(b"x")).rsv(4)],
        vec![
            Frame::new(Opcode::TEXT, "").rsv(4).more(),
            Frame::new(Opcode::CONTINUATION, "\0").rsv(4),
        ],
        vec![Frame::text("plain").rsv(2)],
        vec![compressed(Opcode::TEXT, b"x").rsv(5)],
    ] {
        let mut client = echo.offer("permessage-deflate");
        client.try_send_frames(&frames).unwrap();
        expect_failure(&mut client, 1002);
    }
}

#[test]
fn what_inflates_beyond_the_limit_is_refused() {
    let echo = Echo::deflating();
    let mut client = echo.offer("permessage-deflate");
    let bomb = deflate(&vec![0; (64 << 20) + 1]);
    assert!(bomb.len() < 100_000);
    client.send_frame(Frame::new(Opcode::BINARY, bomb).rsv(4));
    expect_failure(&mut client, 1009);
}
