//! permessage-deflate as it is on the wire (peer protocol, section 1).

use flate2::{Compress, Compression, FlushCompress};
use serde_json::{Value, json};

use crate::scene::{Peer, metric, serve, wait_for_metric};
use crate::support::{Client, ConnectOptions, Event, Frame, Opcode, Server, deflate};

const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// From this length on the server compresses.
const COMPRESS_FROM: usize = 256;

fn server(loops: u32) -> Server {
    serve(json!({ "loops": loops, "compression_enabled": true, "max_message_size": 20_000, "rate_limit_per_sec": 0 }))
}

fn offering(offer: Option<&str>) -> ConnectOptions {
    ConnectOptions {
        extensions: offer.map(str::to_owned),
        ..ConnectOptions::default()
    }
}

fn peer(server: &Server, key: &str, offer: Option<&str>) -> Peer {
    let mut peer = Peer::register_as(server.addr(), offering(offer), json!({ "public_key": key }));
    assert_eq!(
        peer.client.extension().as_deref(),
        offer.map(|_| AGREED),
        "{key} offered {offer:?}"
    );
    peer.join("hall");
    peer
}

#[test]
fn an_offer_is_answered_without_context_takeover_or_not_at_all() {
    let server = server(2);
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=10; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits=15",
        "permessage-deflate; server_max_window_bits=10, permessage-deflate",
        "x-unknown, permessage-deflate; server_no_context_takeover",
    ] {
        let client = Client::connect(server.addr(), offering(Some(offer)));
        assert_eq!(client.extension().as_deref(), Some(AGREED), "{offer}");
    }
    for offer in [
        "permessage-deflate; server_max_window_bits=10",
        "permessage-deflate; something",
        "permessage-deflate; client_max_window_bits=7",
        "x-webkit-deflate-frame",
    ] {
        let client = Client::connect(server.addr(), offering(Some(offer)));
        assert_eq!(client.extension(), None, "{offer}");
    }
    let off = serve(json!({ "loops": 1 }));
    let client = Client::connect(off.addr(), offering(Some("permessage-deflate")));
    assert_eq!(client.extension(), None, "it was not switched on");
}

/// The next message: its text, whether it came compressed.
fn message(peer: &mut Peer) -> (Value, usize, bool) {
    match peer.client.recv_content(crate::support::ANSWER_WITHIN) {
        Some(Event::Message {
            payload, compressed, ..
        }) => (serde_json::from_slice(&payload).unwrap(), payload.len(), compressed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_are_compressed_from_256_bytes_on() {
    for loops in [1, 2] {
        let server = server(loops);
        let mut receiver = peer(&server, "receiver", Some("permessage-deflate"));
        let sender = peer(&server, "sender", None);
        receiver.next("peer_joined");
        let (mut plain, mut compressed) = (0, 0);
        for length in 0..150 {
            sender.relay(&receiver.fingerprint, json!("x".repeat(length)));
            let (value, bytes, was_compressed) = message(&mut receiver);
            assert_eq!(value["payload"], "x".repeat(length));
            assert_eq!(was_compressed, bytes >= COMPRESS_FROM, "{bytes} bytes");
            *(if was_compressed { &mut compressed } else { &mut plain }) += 1;
        }
        assert!(plain > 10 && compressed > 10, "{plain} plain, {compressed} compressed");
    }
}

#[test]
fn a_message_that_compressing_would_lengthen_stays_as_it_is() {
    let server = server(1);
    let mut receiver = peer(&server, "receiver", Some("permessage-deflate"));
    let sender = peer(&server, "sender", None);
    receiver.next("peer_joined");
    // Every code point of a wide range once: nothing repeats.
    let text: String = (0x4e00..0x9000u32)
        .step_by(7)
        .map(|code| char::from_u32(code).unwrap())
        .collect();
    sender.relay(&receiver.fingerprint, json!(text));
    let (value, _, _) = message(&mut receiver);
    assert_eq!(value["payload"], text);
}

#[test]
fn a_broadcast_reaches_compressed_and_plain_receivers_alike() {
    for loops in [1, 2, 4] {
        let server = server(loops);
        let mut receivers: Vec<(Peer, bool)> = (0..8)
            .map(|n| {
                let offer = (n % 2 == 0).then_some("permessage-deflate; client_max_window_bits");
                (peer(&server, &format!("receiver {n}"), offer), offer.is_some())
            })
            .collect();
        let mut sender = peer(&server, "sender", Some("permessage-deflate"));
        sender.round_trip();
        for (receiver, _) in &mut receivers {
            while receiver.next("peer_joined")["from"] != sender.fingerprint.as_str() {}
        }
        for length in [10, 1000, 15_000] {
            let data = "x".repeat(length);
            let broadcast = json!({ "type": "broadcast", "payload": { "namespace": "hall", "data": data } });
            sender.client.send_frame(Frame::compressed_text(&broadcast.to_string()));
            for (receiver, deflates) in &mut receivers {
                let (value, bytes, compressed) = message(receiver);
                assert_eq!(value["payload"]["data"], data);
                assert_eq!(compressed, *deflates && bytes >= COMPRESS_FROM);
            }
        }
    }
}

/// A relay of exactly so many bytes.
fn relay_of(bytes: usize, to: &str) -> String {
    let empty = json!({ "type": "relay", "to": to, "payload": "" }).to_string();
    json!({ "type": "relay", "to": to, "payload": "x".repeat(bytes - empty.len()) }).to_string()
}

/// A message in stored blocks: valid, and longer than what it holds.
fn stored(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * message.len() + 1024);
    Compress::new(Compression::none(), false)
        .compress_vec(message, &mut out, FlushCompress::Sync)
        .unwrap();
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]) && out.len() > message.len());
    out.truncate(out.len() - 4);
    out
}

#[test]
fn the_longest_message_is_accepted_compressed_and_one_byte_more_is_not() {
    let server = server(2);
    let mut receiver = peer(&server, "receiver", None);
    for (number, pack) in [deflate, stored].into_iter().enumerate() {
        let mut sender = peer(&server, &format!("sender {number}"), Some("permessage-deflate"));
        let fits = relay_of(20_000, &receiver.fingerprint);
        let too_long = relay_of(20_001, &receiver.fingerprint);
        assert_eq!((fits.len(), too_long.len()), (20_000, 20_001));
        let compressed = |text: &str| Frame::new(Opcode::TEXT, pack(text.as_bytes())).rsv(4);
        sender.client.send_frame(compressed(&fits));
        receiver.next("relay");
        // In two fragments, of which only the first is marked.
        let packed = pack(fits.as_bytes());
        let (first, second) = packed.split_at(packed.len() / 2);
        let fragments = [
            Frame::new(Opcode::TEXT, first).rsv(4).more(),
            Frame::new(Opcode::CONTINUATION, second),
        ];
        sender.client.try_send_frames(&fragments).unwrap();
        receiver.next("relay");
        sender.client.send_frame(compressed(&too_long));
        sender.client.expect_close(1009, None);
    }
    receiver.round_trip();
}

#[test]
fn a_bomb_is_closed_with_1009_and_costs_nothing() {
    let server = server(1);
    let mut healthy = peer(&server, "healthy", None);
    let bomb = deflate(&vec![b'x'; 10 << 20]);
    assert!(bomb.len() < 20_000, "{} bytes would be refused unread", bomb.len());
    for number in 0..20 {
        let mut attacker = peer(&server, &format!("attacker {number}"), Some("permessage-deflate"));
        attacker
            .client
            .send_frame(Frame::new(Opcode::TEXT, bomb.clone()).rsv(4));
        attacker.client.expect_close(1009, None);
        healthy.round_trip();
    }
    wait_for_metric(&server, "peer_server_closes_total{code=\"1009\"}", 20);
    // A thousand empty blocks hold nothing at all.
    let mut attacker = peer(&server, "empty", Some("permessage-deflate"));
    let mut empty = [0, 0, 0, 0xff, 0xff].repeat(3000);
    // The header of the block whose rest is left out.
    empty.push(0);
    attacker.client.send_frame(Frame::new(Opcode::TEXT, empty).rsv(4));
    attacker.expect_error(400, "invalid message");
    assert!(metric(&server, "peer_server_pool_kept_bytes") < 1 << 20);
}

#[test]
fn bad_deflate_data_is_closed_with_1007() {
    let server = server(2);
    let whole = deflate(
        json!({ "type": "ping", "payload": "x".repeat(100) })
            .to_string()
            .as_bytes(),
    );
    let bad: [&[u8]; 4] = [
        b"\xff\xff\xff\xff",
        b"\x07",
        &whole[..whole.len() / 2],
        b"hello, this is not deflate data",
    ];
    for (number, data) in bad.iter().enumerate() {
        let mut peer = peer(&server, &format!("peer {number}"), Some("permessage-deflate"));
        peer.client.send_frame(Frame::new(Opcode::TEXT, *data).rsv(4));
        peer.client.expect_close(1007, None);
    }
    let mut peer = peer(&server, "not text", Some("permessage-deflate"));
    peer.client
        .send_frame(Frame::new(Opcode::TEXT, deflate(b"{\"type\":\"\xff\"}")).rsv(4));
    peer.client.expect_close(1007, None);
}

#[test]
fn a_compressed_message_that_was_not_agreed_on_is_closed_with_1002() {
    for compression in [false, true] {
        let server = serve(json!({ "loops": 1, "compression_enabled": compression }));
        let mut peer = Peer::register(server.addr(), "somebody");
        peer.client.send_frame(Frame::compressed_text("{\"type\":\"ping\"}"));
        peer.client.expect_close(1002, None);
    }
    let server = server(1);
    for frame in [
        Frame::new(Opcode::PING, []).rsv(4),
        Frame::text("{}").rsv(2),
        Frame::text("{}").rsv(1),
    ] {
        let mut peer = peer(&server, "agreed", Some("permessage-deflate"));
        peer.client.send_frame(frame);
        peer.client.expect_close(1002, None);
    }
    let mut peer = peer(&server, "second fragment", Some("permessage-deflate"));
    let packed = deflate(b"{\"type\":\"ping\"}");
    let (first, second) = packed.split_at(5);
    let fragments = [
        Frame::new(Opcode::TEXT, first).rsv(4).more(),
        Frame::new(Opcode::CONTINUATION, second).rsv(4),
    ];
    peer.client.try_send_frames(&fragments).unwrap();
    peer.client.expect_close(1002, None);
}
