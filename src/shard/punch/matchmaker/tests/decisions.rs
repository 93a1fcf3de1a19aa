//! Connections, sessions, lobbies, addresses and limits, decision by decision.

use super::*;

#[test]
fn a_session_is_there_before_its_id_is_told_and_belongs_to_its_connection() {
    for loops in [1, 4] {
        let mut world = World::new(loops);
        let (client, session) = world.client(0, "192.0.2.1");
        assert_eq!(
            world.homes.of_key(&session).index(),
            0,
            "it lives where its connection is"
        );
        world.claim("192.0.2.1:5000", session, 1);
        assert_eq!(world.sent_to("192.0.2.1:5000"), [Event::Ack { sequence: 1 }]);
        let other = world.open(usize::from(loops) - 1, "192.0.2.1");
        assert_eq!(world.ask(other, create(session)), refused(Refusal::UnknownSession));
        assert_eq!(
            world.ask(client, Ask::Create { session: None }),
            refused(Refusal::UnknownSession)
        );
        assert!(matches!(world.ask(client, create(session)), Reply::Code(_)));
    }
}

#[test]
fn every_failure_is_told_and_the_connection_stays_of_use() {
    let mut world = World::new(4);
    let (host, hosts) = world.client(0, "192.0.2.1");
    let (guest, guests) = world.client(1, "192.0.2.2");
    let code = world.create((host, hosts));
    let nowhere = Code::parse("zzzzzz").unwrap();
    assert_eq!(world.ask(guest, Ask::Unknown), refused(Refusal::UnknownType));
    assert_eq!(world.ask(guest, Ask::Bad), refused(Refusal::BadRequest));
    assert_eq!(world.ask(guest, join(nowhere, guests)), refused(Refusal::LobbyNotFound));
    assert_eq!(
        world.ask(guest, start(nowhere, guests)),
        refused(Refusal::LobbyNotFound)
    );
    assert_eq!(world.ask(guest, start(code, guests)), refused(Refusal::NotAMember));
    assert_eq!(world.ask(guest, join(code, hosts)), refused(Refusal::UnknownSession));
    assert_eq!(world.ask(guest, join(code, guests)), Reply::Done);
    assert_eq!(world.ask(guest, join(code, guests)), Reply::Done, "a member already");
    assert_eq!(world.ask(guest, start(code, guests)), Reply::Done);
    assert_eq!(world.ask(host, start(code, hosts)), refused(Refusal::AlreadyStarted));
    let (late, lates) = world.client(2, "192.0.2.3");
    assert_eq!(world.ask(late, join(code, lates)), refused(Refusal::AlreadyStarted));
}

#[test]
fn a_session_ends_ten_seconds_after_its_connection() {
    let mut world = World::new(4);
    let (client, session) = world.client(1, "192.0.2.1");
    world.create((client, session));
    world.claim("192.0.2.1:5000", session, 1);
    world.close(client);
    world.pass(9_999);
    world.claim("192.0.2.1:5000", session, 2);
    assert_eq!(world.sent_to("192.0.2.1:5000").len(), 2);
    assert_eq!(world.held(), (1, 1));
    world.pass(1);
    assert_eq!(world.held(), (0, 0), "the lobby has no members");
    world.claim("192.0.2.1:5000", session, 3);
    assert_eq!(world.sent_to("192.0.2.1:5000"), []);
    world.assert_empty();
}

#[test]
fn a_silent_session_ends_after_thirty_seconds_and_an_idle_connection_after_it() {
    let mut world = World::new(4);
    let (client, session) = world.client(1, "192.0.2.1");
    let (other, others) = world.client(2, "192.0.2.2");
    world.claim("192.0.2.2:5000", others, 1);
    for _ in 0..2 * 29 {
        world.pass(500);
        world.datagram("192.0.2.2:5000", Request::KeepAlive);
    }
    assert_eq!(
        world.ask(client, Ask::Unknown),
        refused(Refusal::UnknownType),
        "that is traffic"
    );
    for _ in 0..2 * 29 {
        world.pass(500);
        world.datagram("192.0.2.2:5000", Request::KeepAlive);
    }
    assert_eq!(world.held(), (2, 0));
    world.pass(1_000);
    assert_eq!(world.held(), (1, 0));
    assert_eq!(world.ask(client, create(session)), refused(Refusal::UnknownSession));
    world.told.clear();
    world.pass(28_999);
    assert_eq!(world.held(), (1, 0));
    world.pass(4_000);
    assert_eq!(world.held(), (0, 0));
    world.pass(60_000);
    let closed: Vec<Client> = world.told.iter().map(|(client, _)| *client).collect();
    assert!(
        closed.contains(&client) && closed.contains(&other) && closed.len() == 2,
        "{closed:?}"
    );
    world.assert_empty();
}

#[test]
fn two_acknowledgements_of_one_claim_are_two_seconds_apart() {
    let mut world = World::new(2);
    let (_, session) = world.client(0, "192.0.2.1");
    for _ in 0..3 {
        world.claim("192.0.2.1:5000", session, 1);
    }
    assert_eq!(world.sent_to("192.0.2.1:5000").len(), 1);
    world.pass(1_999);
    world.claim("192.0.2.1:5000", session, 1);
    assert_eq!(world.sent_to("192.0.2.1:5000").len(), 0);
    world.pass(1);
    world.claim("192.0.2.1:5000", session, 1);
    assert_eq!(world.sent_to("192.0.2.1:5000").len(), 1);
    for sequence in 2..100 {
        world.claim("192.0.2.1:5000", session, sequence);
    }
    assert_eq!(
        world.sent_to("192.0.2.1:5000").len(),
        3,
        "no more than a few numbers in that time"
    );
}

#[test]
fn the_first_address_stays_for_five_seconds_once_it_was_replaced() {
    let mut world = World::new(4);
    let (_, session) = world.client(0, "192.0.2.1");
    let addresses = ["192.0.2.1:5000", "192.0.2.1:5001", "192.0.2.1:5002"];
    let acknowledged = |world: &mut World, address: usize, sequence: u16| {
        world.claim(addresses[address], session, sequence);
        world.sent_to(addresses[address]).len()
    };
    assert_eq!(acknowledged(&mut world, 0, 1), 1);
    assert_eq!(acknowledged(&mut world, 1, 2), 1);
    assert_eq!(acknowledged(&mut world, 2, 3), 0);
    world.pass(5_000);
    assert_eq!(acknowledged(&mut world, 2, 3), 1);
    for (address, echoes) in addresses.iter().zip([0, 0, 1]) {
        world.datagram(address, Request::KeepAlive);
        assert_eq!(world.sent_to(address).len(), echoes, "{address}");
    }
}

#[test]
fn a_number_that_was_just_acknowledged_still_brings_a_new_address() {
    let mut world = World::new(4);
    let (_, session) = world.client(0, "192.0.2.1");
    for (address, acknowledged) in [("192.0.2.1:5000", 1), ("192.0.2.1:5001", 0)] {
        world.claim(address, session, 1);
        assert_eq!(world.sent_to(address).len(), acknowledged, "{address}");
    }
    for (address, echoes) in [("192.0.2.1:5000", 0), ("192.0.2.1:5001", 1)] {
        world.datagram(address, Request::KeepAlive);
        assert_eq!(world.sent_to(address).len(), echoes, "{address}");
    }
}

#[test]
fn nobody_takes_the_address_of_another_session() {
    for slow in [false, true] {
        let mut world = World::new(4);
        let (_, mine) = world.client(0, "192.0.2.1");
        let (_, others) = world.client(1, "198.51.100.1");
        world.slow = slow;
        world.claim("192.0.2.1:5000", mine, 1);
        world.claim("192.0.2.1:5000", others, 1);
        world.settle();
        assert_eq!(world.sent_to("192.0.2.1:5000").len(), 1, "only the first is believed");
        // Whoever was refused may have another address.
        world.pass(2_000);
        let loser = if world.dropped(Dropped::NotAllowed) > 0 {
            [mine, others]
        } else {
            panic!("both")
        };
        world.slow = false;
        for session in loser {
            world.claim("198.51.100.1:7", session, 2);
        }
        assert_eq!(world.sent_to("198.51.100.1:7").len(), 1);
    }
}

#[test]
fn keep_alives_are_echoed_one_for_one_and_to_nobody_else() {
    let mut world = World::new(4);
    let (_, session) = world.client(0, "192.0.2.1");
    world.datagram("192.0.2.1:5000", Request::KeepAlive);
    world.datagram("192.0.2.1:5000", Request::Ack { sequence: 1 });
    assert_eq!(world.sent, [], "nothing to an address that is nobody's");
    world.claim("192.0.2.1:5000", session, 1);
    world.sent.clear();
    for _ in 0..3 {
        world.datagram("192.0.2.1:5000", Request::KeepAlive);
    }
    world.datagram("192.0.2.1:5001", Request::KeepAlive);
    assert_eq!(world.sent_to("192.0.2.1:5000"), [const { Event::KeepAlive }; 3]);
    world.pass(60_000);
    assert_eq!(world.sent, [], "none of its own accord");
}

#[test]
fn an_unknown_id_gets_no_byte() {
    let mut world = World::new(4);
    let mut random = StdRng::seed_from_u64(9);
    for _ in 0..100 {
        world.claim("192.0.2.1:5000", SessionId::random(&mut random), 1);
    }
    assert_eq!((world.sent.len(), world.dropped(Dropped::NotAllowed)), (0, 100));
}

#[test]
fn ten_wrong_codes_a_minute_and_then_none_at_all() {
    let mut world = World::new(4);
    let host = world.client(0, "192.0.2.1");
    let code = world.create(host);
    let (guest, session) = world.client(1, "198.51.100.1");
    let wrong = Code::parse("zzzzzz").unwrap();
    for number in 0..10 {
        let ask = match number % 3 {
            0 => join(wrong, session),
            1 => start(wrong, session),
            _ => Ask::Join {
                code: None,
                session: Some(session),
            },
        };
        assert_eq!(world.ask(guest, ask), refused(Refusal::LobbyNotFound), "{number}");
        world.pass(100);
    }
    for ask in [join(wrong, session), join(code, session), start(code, session)] {
        assert_eq!(world.ask(guest, ask), refused(Refusal::RateLimited));
    }
    // Members start their own lobby whatever others behind their address do.
    assert_eq!(world.ask(host.0, start(code, host.1)), Reply::Done);
    let (neighbour, neighbours) = world.client(2, "198.51.100.1");
    assert_eq!(
        world.ask(neighbour, join(code, neighbours)),
        refused(Refusal::RateLimited)
    );
    let (other, others) = world.client(2, "198.51.100.2");
    assert_eq!(world.ask(other, join(wrong, others)), refused(Refusal::LobbyNotFound));
    for _ in 0..3 {
        world.pass(20_000);
        world.ask(guest, Ask::Unknown);
    }
    assert_eq!(world.ask(guest, join(wrong, session)), refused(Refusal::LobbyNotFound));
}

#[test]
fn connections_and_sessions_of_an_ip_are_bounded_and_given_back() {
    let limits = Limits {
        matchmaker_connections_per_ip: 2,
        sessions_per_ip: 3,
        ..Limits::default()
    };
    let mut world = World::with(4, limits, 1);
    let (first, _) = world.client(0, "192.0.2.1");
    let (second, _) = world.client(1, "192.0.2.1");
    let third = world.open(2, "192.0.2.1");
    assert_eq!(world.told.pop(), Some((third, Told::Closed)));
    assert_eq!(world.dropped(Dropped::Full), 1);
    world.client(2, "192.0.2.2");
    world.session(first);
    assert_eq!(world.ask(second, Ask::NewClient), refused(Refusal::RateLimited));
    world.close(first);
    let third = world.open(2, "192.0.2.1");
    assert_eq!(world.told.pop(), Some((third, Told::Admitted)));
    assert_eq!(
        world.ask(third, Ask::NewClient),
        refused(Refusal::RateLimited),
        "not yet over"
    );
    world.pass(10_000);
    world.session(third);
    world.pass(120_000);
    world.assert_empty();
}

#[test]
fn the_process_has_bounds_as_well() {
    let limits = Limits {
        sessions_max: 2,
        matchmaker_connections_max: 3,
        matchmaker_lobbies_per_session: 2,
        ..Limits::default()
    };
    let mut world = World::with(4, limits, 1);
    let (host, session) = world.client(0, "192.0.2.1");
    let other = world.client(1, "192.0.2.2");
    let third = world.open(2, "192.0.2.3");
    assert_eq!(world.ask(third, Ask::NewClient), refused(Refusal::RateLimited));
    let fourth = world.open(2, "192.0.2.4");
    assert_eq!(world.told.pop(), Some((fourth, Told::Closed)));
    world.create((host, session));
    let code = world.create((host, session));
    assert_eq!(
        world.ask(host, create(session)),
        refused(Refusal::RateLimited),
        "two for a session"
    );
    assert_eq!(
        world.ask(other.0, create(other.1)),
        refused(Refusal::RateLimited),
        "two for all"
    );
    assert_eq!(world.ask(other.0, join(code, other.1)), Reply::Done);
    world.close(host);
    world.close(third);
    world.pass(10_000);
    assert_eq!(world.held(), (1, 1), "the joined one lives on");
    world.close(other.0);
    world.pass(10_000);
    world.assert_empty();
}

#[test]
fn a_lobby_has_sixteen_members_or_as_many_as_may_be_told_of_each_other() {
    for (family, most) in [("192.0.2", 16), ("2001:db8", 15)] {
        let mut world = World::with(
            4,
            Limits {
                sessions_per_ip: 0,
                ..Limits::default()
            },
            1,
        );
        let ip = |number: usize| match family {
            "192.0.2" => format!("192.0.2.{number}"),
            _ => format!("2001:db8:{number}::1"),
        };
        let host = world.client(0, &ip(1));
        let code = world.create(host);
        for number in 2..=most {
            let (guest, session) = world.client(number % 4, &ip(number));
            assert_eq!(world.ask(guest, join(code, session)), Reply::Done, "{number}");
        }
        let (late, session) = world.client(3, &ip(100));
        assert_eq!(world.ask(late, join(code, session)), refused(Refusal::LobbyFull));
        world.close(host.0);
        world.pass(10_000);
        assert_eq!(world.ask(late, join(code, session)), Reply::Done, "there is room again");
    }
}

#[test]
fn a_lobby_ends_after_a_day() {
    let mut world = World::new(4);
    let host = world.client(0, "192.0.2.1");
    let code = world.create(host);
    for _ in 0..24 * 60 * 4 - 1 {
        world.pass(15_000);
        assert_eq!(world.ask(host.0, Ask::Unknown), refused(Refusal::UnknownType));
    }
    assert_eq!(world.held(), (1, 1));
    world.pass(15_000);
    assert_eq!(world.held(), (1, 0));
    assert_eq!(world.ask(host.0, start(code, host.1)), refused(Refusal::LobbyNotFound));
}

#[test]
fn codes_are_drawn_again_until_one_is_free() {
    // From one seed the same code is drawn first.
    let mut world = World::new(1);
    let host = world.client(0, "192.0.2.1");
    world.loops[0].core.random = StdRng::seed_from_u64(5);
    let first = world.create(host);
    world.loops[0].core.random = StdRng::seed_from_u64(5);
    let second = world.create(host);
    assert_ne!(first, second);
    assert_eq!(world.held(), (1, 2));
}
