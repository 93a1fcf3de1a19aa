//! What follows a start: who is waited for, who is told, how often, and what is left.

use super::*;

const ADDRESSES: [&str; 3] = ["192.0.2.1:5000", "192.0.2.2:5000", "[2001:db8::3]:5000"];

/// Three clients on loops of their own in one lobby.
fn lobby(world: &mut World) -> ([(Client, SessionId); 3], Code) {
    let last = world.loops.len() - 1;
    let host = world.client(0, "192.0.2.1");
    let code = world.create(host);
    let guests = [("192.0.2.2", 1), ("2001:db8::3", 2)].map(|(ip, at)| {
        let guest = world.client(at.min(last), ip);
        assert_eq!(world.ask(guest.0, join(code, guest.1)), Reply::Done);
        guest
    });
    ([host, guests[0], guests[1]], code)
}

fn claim_all(world: &mut World, members: &[(Client, SessionId)]) {
    for (address, (_, session)) in ADDRESSES.iter().zip(members) {
        world.claim(address, *session, 1);
        assert_eq!(world.sent_to(address), [Event::Ack { sequence: 1 }]);
    }
}

fn endpoints(peers: &[usize]) -> Event {
    Event::Endpoints {
        sequence: 1,
        peers: peers.iter().map(|peer| ADDRESSES[*peer].parse().unwrap()).collect(),
    }
}

#[test]
fn all_members_are_told_of_the_others_in_parallel_and_in_join_order() {
    for loops in [1, 4] {
        let mut world = World::new(loops);
        let (members, code) = lobby(&mut world);
        claim_all(&mut world, &members);
        assert_eq!(world.ask(members[1].0, start(code, members[1].1)), Reply::Done);
        for (at, others) in [[1, 2], [0, 2], [0, 1]].iter().enumerate() {
            assert_eq!(world.sent_to(ADDRESSES[at]), [endpoints(others)]);
            world.datagram(ADDRESSES[at], Request::Ack { sequence: 1 });
        }
        assert_eq!(world.held(), (3, 0), "the lobby is over, the sessions still answer");
        world.pass(4_000);
        assert_eq!(world.sent, [], "all have acknowledged");
    }
}

#[test]
fn what_is_not_acknowledged_is_sent_eleven_times_in_two_seconds_to_that_member_alone() {
    let mut world = World::new(4);
    let (members, code) = lobby(&mut world);
    claim_all(&mut world, &members);
    world.ask(members[0].0, start(code, members[0].1));
    world.datagram(ADDRESSES[0], Request::Ack { sequence: 2 });
    world.datagram("203.0.113.1:1", Request::Ack { sequence: 1 });
    world.datagram(ADDRESSES[1], Request::Ack { sequence: 1 });
    assert_eq!(
        world.dropped(Dropped::NotAllowed),
        2,
        "neither the number nor the address alone is enough"
    );
    for copies in 1..=11 {
        assert_eq!(world.sent_to(ADDRESSES[0]), [endpoints(&[1, 2])], "copy {copies}");
        world.pass(199);
        assert_eq!(world.sent_to(ADDRESSES[0]), []);
        world.pass(1);
    }
    world.pass(10_000);
    assert_eq!(world.sent_to(ADDRESSES[0]), []);
    assert_eq!(world.sent_to(ADDRESSES[1]).len(), 1);
    assert_eq!(world.sent_to(ADDRESSES[2]).len(), 11);
}

#[test]
fn after_the_start_sessions_say_so_and_addresses_are_forgotten_in_five_seconds() {
    let mut world = World::new(4);
    let (members, code) = lobby(&mut world);
    claim_all(&mut world, &members);
    let (host, session) = members[0];
    world.ask(host, start(code, session));
    for ask in [create(session), join(code, session), start(code, session)] {
        assert_eq!(world.ask(host, ask), refused(Refusal::AlreadyStarted));
    }
    let (stranger, strangers) = world.client(3, "198.51.100.1");
    assert_eq!(
        world.ask(stranger, join(code, strangers)),
        refused(Refusal::LobbyNotFound)
    );
    world.sent.clear();
    world.pass(4_999);
    world.sent.clear();
    world.datagram(ADDRESSES[0], Request::KeepAlive);
    assert_eq!(world.sent_to(ADDRESSES[0]), [Event::KeepAlive]);
    world.claim("192.0.2.1:5001", session, 2);
    world.pass(1);
    world.datagram(ADDRESSES[0], Request::KeepAlive);
    world.claim(ADDRESSES[0], session, 3);
    assert_eq!(world.sent, [], "neither another address nor the old one");
    // The connection may have another session.
    let again = world.session(host);
    assert!(matches!(world.ask(host, create(again)), Reply::Code(_)));
}

#[test]
fn a_start_waits_six_seconds_for_addresses_and_then_goes_without() {
    for (heard_after_ms, all) in [(5_000, true), (5_999, true), (6_000, false)] {
        let mut world = World::new(4);
        let (members, code) = lobby(&mut world);
        claim_all(&mut world, &members[..2]);
        assert_eq!(
            world.ask(members[0].0, start(code, members[0].1)),
            Reply::Done,
            "at once"
        );
        assert_eq!(world.sent, []);
        assert_eq!(
            world.ask(members[2].0, start(code, members[2].1)),
            refused(Refusal::AlreadyStarted)
        );
        world.pass(heard_after_ms);
        world.claim(ADDRESSES[2], members[2].1, 2);
        let told = [0, 1, 2].map(|at| world.sent_to(ADDRESSES[at]));
        if all {
            let (ack, both) = (Event::Ack { sequence: 2 }, endpoints(&[0, 1]));
            assert_eq!(
                told,
                [vec![endpoints(&[1, 2])], vec![endpoints(&[0, 2])], vec![ack, both]]
            );
        } else {
            assert_eq!(told, [vec![endpoints(&[1])], vec![endpoints(&[0])], vec![]]);
            assert_eq!(
                world.ask(members[2].0, create(members[2].1)),
                refused(Refusal::AlreadyStarted)
            );
        }
        world.pass(60_000);
        assert_eq!(world.held(), (0, 0));
    }
}

#[test]
fn an_address_stays_as_it_is_once_a_lobby_has_called_for_it() {
    let mut world = World::new(4);
    let (members, code) = lobby(&mut world);
    claim_all(&mut world, &members[..2]);
    world.ask(members[0].0, start(code, members[0].1));
    world.pass(3_000);
    world.claim("192.0.2.1:5001", members[0].1, 2);
    assert_eq!(world.sent, []);
    world.claim(ADDRESSES[0], members[0].1, 1);
    assert_eq!(
        world.sent_to(ADDRESSES[0]),
        [Event::Ack { sequence: 1 }],
        "the same is acknowledged"
    );
    world.pass(3_000);
    assert_eq!(world.sent_to(ADDRESSES[1]), [endpoints(&[0])]);
}

#[test]
fn who_leaves_while_a_lobby_starts_is_not_waited_for() {
    let mut world = World::new(4);
    let (members, code) = lobby(&mut world);
    claim_all(&mut world, &members[..2]);
    world.close(members[2].0);
    world.pass(9_000);
    world.ask(members[0].0, start(code, members[0].1));
    assert_eq!(world.sent, []);
    world.pass(1_000);
    assert_eq!(world.sent_to(ADDRESSES[0]), [endpoints(&[1])]);
    assert_eq!(world.sent_to(ADDRESSES[1]), [endpoints(&[0])]);
}

#[test]
fn who_is_alone_is_told_that() {
    let mut world = World::new(2);
    let host = world.client(0, "192.0.2.1");
    let code = world.create(host);
    world.claim(ADDRESSES[0], host.1, 1);
    world.sent.clear();
    world.ask(host.0, start(code, host.1));
    assert_eq!(world.sent_to(ADDRESSES[0]), [endpoints(&[])]);
}

#[test]
fn a_member_of_two_lobbies_is_in_the_one_that_starts_first() {
    for seed in 0..64 {
        let mut world = World::with(4, Limits::default(), seed);
        let (host, other) = (world.client(0, "192.0.2.1"), world.client(1, "192.0.2.2"));
        let both = world.client(2, "2001:db8::3");
        let codes = [world.create(host), world.create(other)];
        for code in codes {
            assert_eq!(world.ask(both.0, join(code, both.1)), Reply::Done);
        }
        claim_all(&mut world, &[host, other, both]);
        world.slow = true;
        world.post(host.0, start(codes[0], host.1));
        world.post(other.0, start(codes[1], other.1));
        world.settle();
        let told = [0, 1, 2].map(|at| world.sent_to(ADDRESSES[at]));
        let first = vec![vec![endpoints(&[2])], vec![endpoints(&[])], vec![endpoints(&[0])]];
        let second = vec![vec![endpoints(&[])], vec![endpoints(&[2])], vec![endpoints(&[1])]];
        assert!(
            told.to_vec() == first || told.to_vec() == second,
            "seed {seed}: {told:?}"
        );
    }
}

#[test]
fn what_is_told_fits_a_datagram_also_if_addresses_are_of_another_family_than_connections() {
    use crate::message::matchmaker::{ENDPOINTS_BYTES_MAX, endpoint_bytes_max};
    let mut world = World::new(4);
    let host = world.client(0, "192.0.2.1");
    let code = world.create(host);
    let mut members = vec![host];
    for number in 2..=16 {
        let guest = world.client(number % 4, &format!("192.0.2.{number}"));
        assert_eq!(world.ask(guest.0, join(code, guest.1)), Reply::Done);
        members.push(guest);
    }
    for (number, (_, session)) in members.iter().enumerate() {
        world.claim(&format!("[2001:db8::{number:x}]:5000"), *session, 1);
    }
    world.sent.clear();
    world.ask(host.0, start(code, host.1));
    assert_eq!(world.sent.len(), 16);
    for (_, event) in &world.sent {
        let Event::Endpoints { peers, .. } = event else {
            panic!("{event:?}")
        };
        let bytes: usize = peers.iter().map(|peer| endpoint_bytes_max(peer.ip())).sum();
        assert!(bytes <= ENDPOINTS_BYTES_MAX && peers.len() == 14, "{bytes}");
    }
}

#[test]
fn no_order_of_mail_keeps_members_from_meeting() {
    for seed in 0..128 {
        let mut world = World::with(4, Limits::default(), seed);
        let (members, code) = lobby(&mut world);
        world.slow = true;
        for (address, (_, session)) in ADDRESSES.iter().zip(&members) {
            world.claim(address, *session, 1);
        }
        world.post(members[0].0, start(code, members[0].1));
        // An acknowledgement comes as soon as something is there to be acknowledged.
        let mut told = [const { Vec::new() }; 3];
        while world.deliver() {
            for (address, told) in ADDRESSES.iter().zip(&mut told) {
                let sent = world.sent_to(address);
                if sent.iter().any(|event| matches!(event, Event::Endpoints { .. })) {
                    world.datagram(address, Request::Ack { sequence: 1 });
                    assert_eq!(world.dropped(Dropped::NotAllowed), 0, "seed {seed}");
                }
                told.extend(sent);
            }
        }
        world.slow = false;
        world.pass(4_000);
        for (at, others) in [[1, 2], [0, 2], [0, 1]].iter().enumerate() {
            told[at].extend(world.sent_to(ADDRESSES[at]));
            assert_eq!(
                told[at],
                [Event::Ack { sequence: 1 }, endpoints(others)],
                "seed {seed}: {at}"
            );
        }
    }
}
