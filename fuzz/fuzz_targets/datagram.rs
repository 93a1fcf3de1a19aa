//! Datagrams of all dialects on one port, from one address that has proved nothing.
//!
//! Input: up to some datagrams, each one byte of what to do with its front and two of length before it.
//! Property: the specification's tests, written down once more here, agree on the dialect, and no datagram passes the tests of
//! two that could be confused; what it causes goes to nobody but its sender, within what such a sender may get.
#![no_main]

#[path = "../../tests/punch/wire.rs"]
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use peer_server::dialect::{demultiplexer, matchmaker, natpunch, simple};
use peer_server::ids::{Homes, LoopId};
use peer_server::message::punch::{Dialect, Path};
use peer_server::shard::punch::{Limits, Output, Permits, Punch};

fuzz_target!(|data: &[u8]| {
    let mut punch = Punch::new(
        LoopId::new(0),
        Homes::new(1, [1, 2, 3, 4]),
        Arc::new(Limits::default()),
        Arc::new(Permits::default()),
        [7; 32],
    );
    let public = "203.0.113.77:8070".parse().ok();
    let remote: SocketAddr = ([192, 0, 2, 7], 40_000).into();
    let path = Path {
        socket: 0,
        local: None,
        remote,
    };
    let mut now_ms = 1_000_000;
    let (mut told, mut paid) = (0, 0);
    let mut rest = data;
    while let [kind, low, high, tail @ ..] = rest {
        let len = usize::from(u16::from_le_bytes([*low, *high & 7])).min(tail.len());
        let (body, after) = tail.split_at(len);
        rest = after;
        let datagram = framed(*kind, body);
        check_dialect(&datagram);
        now_ms += u64::from(*high >> 3);
        // The shortest HS has 9 bytes and its answer 36. The answer to a registration is not measured by it.
        paid += 4 * datagram.len()
            + if datagram.starts_with(&[0x0a]) {
                REGISTERED_LEN
            } else {
                0
            };
        if let Ok(Some(answer)) = wire::receive(&mut punch, path, &datagram, public, now_ms) {
            // 12 bytes more than asked, and the datagram has a STUN header of its own.
            assert!(answer.len() <= datagram.len() + 12);
        }
        while let Some(output) = punch.poll_output() {
            let Output::Datagram { path, event } = output else {
                panic!("{output:?}")
            };
            assert_eq!(path.remote, remote, "nobody else is known here");
            told += wire::render(&event, 1_700_000_000_000).len();
        }
    }
    assert!(told <= paid, "{told} bytes, and {paid} may be");
});

/// Bytes that tell a client with an IPv4 address that it is registered.
const REGISTERED_LEN: usize = 75;

/// A body with the front of some dialect's datagram, or as it is.
fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let natpunch = |key: &[u8]| {
        let len = match body.len() {
            short @ 0..0x80 => vec![short as u8],
            long => vec![long as u8 | 0x80, (long >> 7) as u8],
        };
        [key, &len, body].concat()
    };
    match kind % 24 {
        1 => [
            &[0, 1],
            &(body.len() as u16).to_be_bytes()[..],
            &[0x21, 0x12, 0xa4, 0x42],
            &[9; 12],
            body,
        ]
        .concat(),
        2..5 => [&[kind, 0, 0, 0][..], &(body.len() as u16).to_le_bytes(), &[0], body].concat(),
        5 => [b"HS:", body].concat(),
        6 => [b"JS:", body].concat(),
        7 => [b"RS:", body].concat(),
        8 => [b"CS:", body].concat(),
        9 => [b"KA:", body].concat(),
        kind @ 10..17 => natpunch(&[[0x0a, 0x2a, 0x4a, 0x52, 0x5a, 0x6a, 0x7a][usize::from(kind) - 10]]),
        17 => natpunch(&[0xa2, 1]),
        18 => natpunch(&[0xba, 1]),
        _ => body.to_vec(),
    }
}

fn check_dialect(d: &[u8]) {
    let tests = [is_stun(d), is_matchmaker(d), is_simple(d), is_natpunch(d)];
    let expected = tests.iter().position(|test| *test).map(|at| Dialect::ALL[at]);
    assert_eq!(demultiplexer::classify(d), expected);
    // STUN, the lobby and the ASCII dialect fix the same byte differently.
    assert!(tests[..3].iter().filter(|test| **test).count() <= 1, "{d:x?}");
    let is_good = [
        matchmaker::parse(d).is_some() && tests[1],
        simple::parse(d, "203.0.113.77:8070".parse().ok()).is_ok(),
        natpunch::parse(d).is_some() && !tests[0] && !tests[1],
    ];
    for (good, dialect) in is_good
        .iter()
        .zip([Dialect::Matchmaker, Dialect::Simple, Dialect::Natpunch])
    {
        assert!(
            !good || expected == Some(dialect),
            "{expected:?} and not {dialect:?}: {d:x?}"
        );
    }
}

fn is_stun(d: &[u8]) -> bool {
    let n = d.len();
    (20..=548).contains(&n)
        && n % 4 == 0
        && d[0] & 0xc0 == 0
        && d[4..8] == [0x21, 0x12, 0xa4, 0x42]
        && usize::from(d[2]) * 256 + usize::from(d[3]) == n - 20
}

fn is_matchmaker(d: &[u8]) -> bool {
    d.len() >= 9 && d[7] == 0x7b && d[6] == 0 && i64::from(d[4]) + 256 * i64::from(d[5] as i8) == d.len() as i64 - 7
}

fn is_simple(d: &[u8]) -> bool {
    let verb = d.get(..3).unwrap_or_default();
    ["HS:", "JS:", "RS:", "CS:", "KA:"]
        .iter()
        .any(|known| known.as_bytes() == verb)
        && (9..=96).contains(&d.len())
        && d[3..9].iter().all(|byte| (b'a'..=b'z').contains(byte))
        && d[9..].iter().all(|byte| (0x20..=0x7e).contains(byte))
}

fn is_natpunch(d: &[u8]) -> bool {
    let key = match d {
        [0x0a | 0x2a | 0x4a | 0x52 | 0x5a | 0x6a | 0x7a, ..] => 1,
        [0xa2 | 0xba, 1, ..] => 2,
        _ => return false,
    };
    if d.len() > 1024 {
        return false;
    }
    let (mut len, mut shift) = (0, 0);
    for (at, byte) in d.iter().enumerate().skip(key).take(3) {
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            let minimal = *byte != 0 || at == key;
            return minimal && len == d.len() - at - 1;
        }
    }
    false
}
