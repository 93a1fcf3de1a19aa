//! Connect tokens: known answers, what other people's programs make of ours and we of theirs, and what is refused.
//!
//! Owns: nothing but its sockets on loopback.
//! Never: starts our server; sealing and opening need none.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use data_encoding::{BASE64, HEXLOWER};
use netcode::{Client, ClientState, Server};
use peer_server::codec::connect_token::{ADDRESSES_MAX, Fault, Layout, PrivateKey, TOKEN_BYTES, Token, open, seal};
use proptest::prelude::*;
use serde_json::Value;

const LAYOUTS: [Layout; 3] = [Layout::Netcode, Layout::LightyearLe, Layout::LightyearBe];
const KEY: [u8; 32] = [7; 32];
const MADE: u64 = 1_730_000_000;

/// The offsets of a token of one IPv4 address, as the standard's table has them.
const PRIVATE: Range<usize> = 61..1085;
const TIMEOUT: Range<usize> = 1085..1089;
const COUNT: Range<usize> = 1089..1093;

/// An address of each kind in each list.
fn token() -> Token {
    Token {
        protocol_id: 80_085,
        created_s: MADE,
        expires_s: MADE + 30,
        nonce: [0x40; 24],
        timeout_s: 15,
        public: vec![address("203.0.113.10:30004"), address("[2001:db8::1]:30005")],
        internal: vec![address("10.0.0.1:7777"), address("[fd00::1:2]:7778")],
        client_id: 0x0102_0304_0506_0708,
        client_to_server: [0x60; 32],
        server_to_client: [0xa0; 32],
        user_data: std::array::from_fn(|at| at as u8),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn key() -> PrivateKey {
    PrivateKey::new(KEY)
}

/// Opens what was sealed with [`token`]'s protocol, in its time.
fn reopen(bytes: &[u8], layout: Layout) -> Result<Token, Fault> {
    open(bytes, &key(), layout, 80_085, MADE, None)
}

#[test]
fn known_answers_are_met_byte_for_byte_and_read_back() {
    let mut seen = 0;
    for entry in std::fs::read_dir("tests/vectors/connect-token").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let vector: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let (token, key) = inputs(&vector["inputs"]);
        let expected = BASE64.decode(text(&vector["token_base64"]).as_bytes()).unwrap();
        let same: Vec<&str> = vector["same_bytes_in_dialects"]
            .as_array()
            .unwrap()
            .iter()
            .map(text)
            .collect();
        assert!(same.contains(&text(&vector["dialect"])), "{path:?}");
        for (name, layout) in [
            ("netcode", Layout::Netcode),
            ("lightyear-le", Layout::LightyearLe),
            ("lightyear-be", Layout::LightyearBe),
        ] {
            let sealed = seal(&token, &key, layout).unwrap();
            assert_eq!(sealed[..] == expected[..], same.contains(&name), "{path:?} as {name}");
            let opened = open(&expected, &key, layout, token.protocol_id, token.created_s, None);
            match same.contains(&name) {
                true => assert_eq!(opened.as_ref(), Ok(&token), "{path:?} as {name}"),
                false => assert_ne!(opened.as_ref(), Ok(&token), "{path:?} as {name}"),
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 5);
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn inputs(inputs: &Value) -> (Token, PrivateKey) {
    fn hex<const N: usize>(value: &Value) -> [u8; N] {
        HEXLOWER.decode(text(value).as_bytes()).unwrap().try_into().unwrap()
    }
    let addresses = |name: &str| -> Vec<SocketAddr> {
        let all = inputs[name].as_array().unwrap();
        all.iter().map(|one| address(text(one))).collect()
    };
    let token = Token {
        protocol_id: text(&inputs["protocol_id"]).parse().unwrap(),
        created_s: inputs["create_timestamp"].as_u64().unwrap(),
        expires_s: inputs["expire_timestamp"].as_u64().unwrap(),
        nonce: hex(&inputs["nonce"]),
        timeout_s: inputs["timeout_seconds"].as_i64().unwrap().try_into().unwrap(),
        public: addresses("public_addresses"),
        internal: addresses("internal_addresses"),
        client_id: text(&inputs["client_id"]).parse().unwrap(),
        client_to_server: hex(&inputs["client_to_server_key"]),
        server_to_client: hex(&inputs["server_to_client_key"]),
        user_data: hex(&inputs["user_data"]),
    };
    (token, PrivateKey::new(hex(&inputs["private_key"])))
}

/// No layout names itself: the little-endian ones differ in nothing but IPv6 addresses, which read as others.
#[test]
fn a_token_of_the_other_little_endian_layout_opens_with_other_ipv6_addresses() {
    let sealed = seal(&token(), &key(), Layout::Netcode).unwrap();
    let opened = reopen(&sealed[..], Layout::LightyearLe).unwrap();
    assert_eq!(
        opened.public,
        [address("203.0.113.10:30004"), address("[120:b80d::100]:30005")]
    );
    assert_eq!(reopen(&sealed[..], Layout::LightyearBe), Err(Fault::Addresses));
}

#[test]
fn each_reason_to_refuse_a_token_is_told() {
    for layout in LAYOUTS {
        let token = token();
        let sealed = seal(&token, &key(), layout).unwrap();
        let open = |key: &PrivateKey, protocol_id, now_s, own| open(&sealed[..], key, layout, protocol_id, now_s, own);
        assert_eq!(open(&key(), 80_085, MADE, None).unwrap(), token);
        for own in &token.internal {
            assert!(open(&key(), 80_085, MADE + 29, Some(*own)).is_ok());
        }
        assert_eq!(open(&PrivateKey::new([8; 32]), 80_085, MADE, None), Err(Fault::Seal));
        assert_eq!(open(&key(), 80_086, MADE, None), Err(Fault::Protocol));
        assert_eq!(open(&key(), 80_085, MADE + 30, None), Err(Fault::Expired));
        for other in ["203.0.113.10:30004", "10.0.0.1:7778", "[fd00::1:2]:7777"] {
            assert_eq!(
                open(&key(), 80_085, MADE, Some(address(other))),
                Err(Fault::OtherServer)
            );
        }
        for wrong in [&sealed[..TOKEN_BYTES - 1], &[], &[&sealed[..], &[0]].concat()] {
            assert_eq!(reopen(wrong, layout), Err(Fault::Length));
        }
    }
}

#[test]
fn a_token_without_end_is_good_for_ever() {
    for layout in LAYOUTS {
        let endless = Token {
            expires_s: u64::MAX,
            timeout_s: -1,
            ..token()
        };
        let sealed = seal(&endless, &key(), layout).unwrap();
        let opened = open(&sealed[..], &key(), layout, 80_085, u64::MAX - 1, None);
        assert_eq!(opened, Ok(endless));
    }
}

#[test]
fn a_token_that_no_reader_would_take_is_not_sealed() {
    let many = |count| vec![address("[2001:db8::1]:1"); count];
    for layout in LAYOUTS {
        let sealed = |change: fn(&mut Token)| {
            let mut token = token();
            change(&mut token);
            seal(&token, &key(), layout)
        };
        assert!(sealed(|token| token.public.clear()).is_none());
        assert!(sealed(|token| token.internal.clear()).is_none());
        assert!(sealed(|token| token.created_s = token.expires_s + 1).is_none());
        let full = Token {
            public: many(ADDRESSES_MAX),
            internal: many(ADDRESSES_MAX),
            ..token()
        };
        assert_eq!(
            reopen(&seal(&full, &key(), layout).unwrap()[..], layout),
            Ok(full.clone())
        );
        let public = many(ADDRESSES_MAX + 1);
        assert!(seal(&Token { public, ..full.clone() }, &key(), layout).is_none());
        let internal = many(ADDRESSES_MAX + 1);
        assert!(seal(&Token { internal, ..full }, &key(), layout).is_none());
    }
}

/// Every byte of a token, changed in two ways; each region with what must come of it.
#[test]
fn a_changed_byte_is_refused_unless_it_is_one_that_nothing_seals() {
    let one = Token {
        public: vec![address("203.0.113.10:30004")],
        ..token()
    };
    let keys = 1093 + 7..1093 + 7 + 64;
    for layout in LAYOUTS {
        let sealed = seal(&one, &key(), layout).unwrap();
        for at in 0..TOKEN_BYTES {
            for change in [1 << (at % 8), 0xff] {
                let mut changed = sealed.clone();
                changed[at] ^= change;
                let opened = reopen(&changed[..], layout);
                let place = format!("byte {at} ^ {change:#x} in {layout:?}: {opened:?}");
                match at {
                    0..13 => assert_eq!(opened, Err(Fault::Version), "{place}"),
                    13..21 => assert_eq!(opened, Err(Fault::Seal), "{place}"),
                    // When it was made is not sealed, and must but precede the end.
                    21..29 => match opened {
                        Ok(opened) => assert_eq!(
                            Token {
                                created_s: MADE,
                                ..opened
                            },
                            one,
                            "{place}"
                        ),
                        Err(fault) => assert_eq!(fault, Fault::Times, "{place}"),
                    },
                    // An end before the beginning is seen before the seal.
                    29..37 => assert!(matches!(opened, Err(Fault::Seal | Fault::Times)), "{place}"),
                    37..61 => assert_eq!(opened, Err(Fault::Seal), "{place}"),
                    _ if PRIVATE.contains(&at) => assert_eq!(opened, Err(Fault::Seal), "{place}"),
                    _ if TIMEOUT.contains(&at) => assert_eq!(opened, Err(Fault::Disagreement), "{place}"),
                    _ if COUNT.contains(&at) => assert_eq!(opened, Err(Fault::Addresses), "{place}"),
                    // The kind of the address.
                    1093 => assert!(matches!(opened, Err(Fault::Addresses | Fault::Disagreement)), "{place}"),
                    // Where the client goes is its own business: the seal covers the internal addresses.
                    1094..1100 => {
                        let opened = opened.expect(&place);
                        assert_ne!(opened.public, one.public, "{place}");
                        assert_eq!(
                            Token {
                                public: one.public.clone(),
                                ..opened
                            },
                            one,
                            "{place}"
                        );
                    }
                    _ if keys.contains(&at) => assert_eq!(opened, Err(Fault::Disagreement), "{place}"),
                    // What fills the token up.
                    _ => assert_eq!(opened.as_ref(), Ok(&one), "{place}"),
                }
            }
        }
    }
}

#[test]
fn neither_keys_nor_user_data_are_shown() {
    let mut token = token();
    token.client_to_server = [201; 32];
    token.server_to_client = [202; 32];
    token.user_data = [203; 256];
    let shown = format!("{token:?} {:?} {token:#?}", PrivateKey::new([204; 32]));
    assert!(
        shown.contains("80085") && shown.contains("203.0.113.10:30004"),
        "{shown}"
    );
    for secret in ["201", "202", "203,", "204", "c9", "0xca"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

/// A server and a client of the protocol's authors on loopback, with our token: the layouts that they read, and the one that
/// they do not.
#[test]
fn the_protocols_own_client_and_server_connect_with_our_tokens() {
    for (layout, ip) in [
        (Layout::Netcode, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        (Layout::Netcode, SocketAddr::from((Ipv6Addr::LOCALHOST, 0))),
        (Layout::LightyearLe, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
    ] {
        let Ok(mut server) = Server::new(ip, 80_085, &KEY, 0.0) else {
            assert!(ip.is_ipv6(), "no socket on {ip}");
            eprintln!("skipped: no IPv6 here");
            continue;
        };
        server.start(2).unwrap();
        let own = server.address();
        let (created_s, public) = (unix_s(), vec![own]);
        let token = Token {
            created_s,
            expires_s: created_s + 60,
            public,
            internal: vec![own],
            ..token()
        };
        let sealed = seal(&token, &key(), layout).unwrap();
        let any: SocketAddr = if ip.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let mut client = Client::new(any, 0.0).unwrap();
        client.connect(&sealed).unwrap();

        let begin = Instant::now();
        while client.state() != ClientState::Connected {
            let time = begin.elapsed().as_secs_f64();
            client.update(time);
            server.update(time);
            assert!(!client.state().is_error(), "{layout:?} on {own}: {:?}", client.state());
            assert!(time < 20.0, "{layout:?} on {own}: still {:?}", client.state());
            thread::sleep(Duration::from_millis(1));
        }
        let index = client.client_index();
        assert_eq!(server.client_id(index), token.client_id);
        assert_eq!(server.client_user_data(index), Some(&token.user_data));
    }
    let mut client = Client::new((Ipv4Addr::UNSPECIFIED, 0).into(), 0.0).unwrap();
    let sealed = seal(&token(), &key(), Layout::LightyearBe).unwrap();
    client.connect(&sealed).unwrap_err();
    assert_eq!(client.state(), ClientState::InvalidConnectToken);
}

#[test]
fn tokens_of_the_protocols_authors_are_read() {
    let (public, internal) = (token().public, token().internal);
    for (expire_s, timeout_s) in [(30, 15), (-1, -1)] {
        let user_data = token().user_data;
        let before = unix_s();
        let made =
            netcode::generate_connect_token(&public, &internal, expire_s, timeout_s, 77, 80_085, &KEY, &user_data)
                .unwrap();
        let after = unix_s();
        let opened = open(&made, &key(), Layout::Netcode, 80_085, after, Some(internal[1])).unwrap();
        assert!((before..=after).contains(&opened.created_s));
        let lifetime = opened.expires_s - opened.created_s;
        assert_eq!(
            if expire_s < 0 { opened.expires_s } else { lifetime },
            if expire_s < 0 { u64::MAX } else { 30 }
        );
        assert_eq!(
            (opened.timeout_s, opened.client_id, opened.user_data),
            (timeout_s, 77, user_data)
        );
        assert_eq!((&opened.public, &opened.internal), (&public, &internal));
        // Sealed anew it is the same token.
        assert_eq!(seal(&opened, &key(), Layout::Netcode).unwrap()[..], made[..]);
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Tokens of the real matchmaker, in their frames and answers.
#[test]
fn recorded_tokens_are_read_and_sealed_anew_byte_for_byte() {
    let book = PrivateKey::new(std::array::from_fn(|at| match at {
        0..9 => at as u8 + 1,
        31 => 1,
        _ => 0,
    }));
    let mut seen = 0;
    for name in [
        "ws-success",
        "ws-success-immediate",
        "http-request-success",
        "http-wannaplay-success",
    ] {
        let recorded = std::fs::read_to_string(format!("tests/vectors/bevygap/{name}.json")).unwrap();
        for (start, _) in recorded.match_indices("TkVUQ09ERSAxLjAyA") {
            let bytes = BASE64
                .decode(&recorded.as_bytes()[start..start + BASE64.encode_len(TOKEN_BYTES)])
                .unwrap();
            let made = u64::from_le_bytes(bytes[21..29].try_into().unwrap());
            let opened = open(
                &bytes,
                &book,
                Layout::LightyearLe,
                80_085,
                made,
                Some(address("203.0.113.10:30004")),
            )
            .unwrap();
            assert_eq!((opened.expires_s - made, opened.timeout_s), (30, 15));
            assert_eq!(opened.public, opened.internal);
            assert_eq!(opened.user_data, [0; 256]);
            assert_eq!(seal(&opened, &book, Layout::LightyearLe).unwrap()[..], bytes[..]);
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} tokens");
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    let v4 = (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from);
    let v6 = (any::<[u8; 16]>(), any::<u16>()).prop_map(SocketAddr::from);
    prop_oneof![v4, v6]
}

fn any_token() -> impl Strategy<Value = Token> {
    let lists = || prop::collection::vec(any_address(), 1..=ADDRESSES_MAX);
    let numbers = (any::<u64>(), any::<[u64; 2]>(), any::<u64>(), any::<i32>());
    let bytes = (any::<[u8; 24]>(), any::<[u8; 32]>(), any::<[u8; 32]>(), any::<u8>());
    (numbers, bytes, lists(), lists()).prop_map(|(numbers, bytes, public, internal)| Token {
        protocol_id: numbers.0,
        created_s: numbers.1[0].min(numbers.1[1]),
        expires_s: numbers.1[0].max(numbers.1[1]).max(1),
        nonce: bytes.0,
        timeout_s: numbers.3,
        public,
        internal,
        client_id: numbers.2,
        client_to_server: bytes.1,
        server_to_client: bytes.2,
        user_data: std::array::from_fn(|at| bytes.3.wrapping_mul(at as u8)),
    })
}

proptest! {
    #[test]
    fn every_token_comes_back_as_it_was(token in any_token(), at in 0..3usize) {
        let layout = LAYOUTS[at];
        let sealed = seal(&token, &key(), layout).unwrap();
        let opened = open(&sealed[..], &key(), layout, token.protocol_id, token.expires_s - 1, Some(token.internal[0]));
        prop_assert_eq!(opened, Ok(token));
    }

    /// With the right front, so that the reader comes further than the version.
    #[test]
    fn no_bytes_can_hurt_the_reader(mut bytes in prop::collection::vec(any::<u8>(), TOKEN_BYTES), count in 0..40u8) {
        for layout in LAYOUTS {
            prop_assert!(reopen(&bytes, layout).is_err());
            bytes[..13].copy_from_slice(b"NETCODE 1.02\0");
            prop_assert!(reopen(&bytes, layout).is_err());
            bytes[21..37].fill(0);
            bytes[COUNT].copy_from_slice(&if layout == Layout::LightyearBe { [0, 0, 0, count] } else { [count, 0, 0, 0] });
            bytes[1093] = 1 + count % 2;
            prop_assert!(reopen(&bytes, layout).is_err());
        }
    }

    /// Who has the key may seal anything.
    #[test]
    fn a_sealed_message_of_any_content_cannot_hurt_the_reader(
        message in prop::collection::vec(any::<u8>(), 1008), count in 0..40u8, kind in 0..4u8,
    ) {
        for layout in LAYOUTS {
            let mut message = message.clone();
            message[12..16].copy_from_slice(&if layout == Layout::LightyearBe { [0, 0, 0, count] } else { [count, 0, 0, 0] });
            for at in (16..1000).step_by(if kind % 2 == 0 { 7 } else { 19 }) {
                message[at] = 1 + kind / 2;
            }
            let mut sealed = seal(&token(), &key(), layout).unwrap();
            let data: Vec<u8> = [&sealed[..21], &sealed[29..37]].concat();
            let tag = XChaCha20Poly1305::new(&KEY.into())
                .encrypt_inout_detached(&token().nonce.into(), &data, InOutBuf::from(&mut message[..]))
                .unwrap();
            sealed[PRIVATE][..1008].copy_from_slice(&message);
            sealed[PRIVATE][1008..].copy_from_slice(&tag);
            let opened = reopen(&sealed[..], layout);
            prop_assert!(matches!(opened, Err(Fault::Addresses | Fault::Disagreement)), "{:?}", opened);
        }
    }
}
