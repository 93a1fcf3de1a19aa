//! That nothing of this state outlives its cause, whatever is asked: only from inside can that be seen.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::message::simple::Code;
use crate::shard::punch::{Limits, Output, Permits, Punch};

fn endpoint(port: u8) -> Endpoint {
    Endpoint::from_bytes([192, 0, 2, 1 + port / 4, 100, port])
}

fn path(port: u8) -> Path {
    Place::at(endpoint(port)).path()
}

fn punch(limits: Limits) -> Punch {
    let homes = Homes::new(1, [1, 2, 3, 4]);
    Punch::new(
        LoopId::new(0),
        homes,
        Arc::new(limits),
        Arc::new(Permits::default()),
        [7; 32],
    )
}

/// The ids that hosts were told.
fn told(punch: &mut Punch) -> Vec<SessionId> {
    let mut ids = Vec::new();
    while let Some(output) = punch.poll_output() {
        if let Output::Datagram {
            event: AnyEvent::Simple(Event::Registered { id, .. }),
            ..
        } = output
        {
            ids.push(id);
        }
    }
    ids
}

proptest! {
    #[test]
    fn whatever_is_asked_the_state_is_bounded_and_ends(
        asked in prop::collection::vec((0..5u8, 0..24u8, 0..8usize, 0..4000u64), 0..300)
    ) {
        let mut punch = punch(Limits::default());
        let server = endpoint(0);
        let none = SessionId { server, code: Code::new(&[1, 2, 3, 4]).unwrap() };
        let (mut ids, mut now_ms) = (vec![none], 0);
        for (verb, port, which, wait_ms) in asked {
            now_ms += wait_ms * wait_ms / 4000;
            if punch.poll_timeout().is_some_and(|due_ms| due_ms <= now_ms) {
                punch.handle_timeout(now_ms);
                prop_assert!(punch.poll_timeout().is_none_or(|due_ms| due_ms > now_ms));
            }
            let id = ids[ids.len().saturating_sub(1 + which)];
            let local = None;
            let request = match verb {
                0 => Request::Host { local, server },
                1 => Request::Random { local, server },
                2 => Request::Join { local, asked: Asked::Id(id) },
                3 => Request::KeepAlive { id },
                _ => Request::Complete { id },
            };
            punch.handle_simple(path(port), request, now_ms);
            ids.extend(told(&mut punch));
            let (waiting, paired, _) = punch.simple.home.rest();
            prop_assert!(waiting <= 24 && paired <= punch.simple.len() && punch.simple.len() <= 24);
            prop_assert_eq!(punch.core.permits.simple_sessions.now(), punch.simple.len());
        }
        punch.handle_timeout(now_ms + 24 * 60 * 60 * 1000);
        prop_assert_eq!(punch.simple.len(), 0);
        // Those who wait are looked at when somebody comes.
        let (_, paired, opening) = punch.simple.home.rest();
        prop_assert_eq!((paired, opening), (0, 0));
        prop_assert_eq!((punch.simple.replies.len(), punch.simple.away.len()), (0, 0));
        prop_assert_eq!(punch.poll_timeout(), None);
        prop_assert_eq!(punch.core.permits.simple_sessions.now(), 0);
    }
}

#[test]
fn mail_is_small() {
    assert!(size_of::<Mail>() <= 56, "{}", size_of::<Mail>());
}

#[test]
fn two_codes_that_are_nearly_all_taken_are_drawn_still() {
    let mut punch = punch(Limits {
        simple_id_codes: 2,
        sessions_per_ip: 0,
        ..Limits::default()
    });
    let mut ids = std::collections::HashSet::new();
    for number in 0..60_000u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let remote = Endpoint::from_bytes([10, a, b, c, 1, 1]);
        let server = endpoint(0);
        punch.handle_simple(Place::at(remote).path(), Request::Host { local: None, server }, 0);
        ids.extend(told(&mut punch));
    }
    // Each is another, and to hardly anybody none is found.
    assert!(ids.len() > 59_900, "{}", ids.len());
    assert_eq!(ids.len(), punch.simple.len());
    assert!(ids.iter().all(|id| id.code.as_bytes().len() == 2));
}
