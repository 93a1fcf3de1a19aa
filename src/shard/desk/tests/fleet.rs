//! Configured servers: which is chosen, how long a place is kept, what reports change.

use super::super::Event;
use super::*;

#[test]
fn a_place_is_given_at_once() {
    let mut table = Table::new(settings(&[server("a", 2)], Source::None));
    let outputs = table.seek(1, game("chess"));
    let grant = granted(&outputs).unwrap();
    assert_eq!(
        outputs,
        [
            tell(1, Feedback::Acknowledged),
            tell(1, Feedback::Accepted(grant.session.clone())),
            progress(1, "Ready (0)"),
            tell(1, Feedback::Ready(Box::new(grant.clone()))),
        ]
    );
    assert_ne!(grant.client_id, 0);
    assert_eq!(
        (grant.public, grant.key),
        ("203.0.113.1:5000".parse().unwrap(), KeyIndex(1))
    );
    assert_eq!(
        (table.figures().ready, table.figures().requests, table.places()),
        (1, 1, (1, 0))
    );
    let other = table.seat(2).unwrap();
    assert_ne!((other.client_id, other.session), (grant.client_id, grant.session));
    assert_eq!(table.seek(3, game("chess")), [failed(3, Failure::NO_SERVER)]);
}

#[test]
fn the_configured_game_may_be_on_a_configured_server() {
    let mut settings = settings(&[server("a", 1)], Source::Forwarded);
    settings.configured = Some((name("chess"), name("1")));
    let mut table = Table::new(settings);
    assert!(granted(&table.seek(1, Wanted::Configured)).is_some());
}

#[test]
fn the_smallest_part_used_is_chosen_then_the_first() {
    let servers = [server("a", 2), server("bb", 4), server("ccc", 4)];
    let mut table = Table::new(settings(&servers, Source::None));
    let chosen: Vec<u16> = (0..10).map(|nth| table.seat(nth).unwrap().key.0).collect();
    assert_eq!(chosen, [1, 2, 3, 2, 3, 1, 2, 3, 2, 3]);
    assert!(table.seat(10).is_none());
    let wide = [server("a", u32::MAX), server("bb", u32::MAX - 1)];
    let mut table = Table::new(settings(&wide, Source::None));
    table.report("a", Some(u32::MAX - 1), &[], &[]);
    table.report("bb", Some(u32::MAX - 3), &[], &[]);
    assert_eq!(table.seat(1).unwrap().key.0, 2);
}

#[test]
fn servers_that_cannot_be_used_are_passed_over() {
    let mut servers = [server("a", 9), server("bb", 9), server("ccc", 9)];
    servers[0].public = "[2001:db8::1]:5000".parse().unwrap();
    servers[1].cert_digest = None;
    let mut table = Table::new(settings(&servers, Source::None));
    assert_eq!(table.seat(1).unwrap().key.0, 3);
    assert_eq!(table.reports_digest("bb", 9), Reported::Noted);
    let grant = table.seat(2).unwrap();
    assert_eq!((grant.key.0, grant.cert_digest), (2, digest(9)));
    let mut settings = settings(&servers[..1], Source::None);
    assert!(Table::new(settings.clone()).seat(1).is_none());
    settings.limits.ipv6 = true;
    assert!(Table::new(settings).seat(1).is_some());
}

#[test]
fn a_reported_digest_stands_before_the_configured_one() {
    let mut table = Table::new(settings(&[server("a", 9)], Source::None));
    table.reports_digest("a", 9);
    assert_eq!(table.seat(1).unwrap().cert_digest, digest(9));
    table.report("a", None, &[], &[]);
    assert_eq!(table.seat(2).unwrap().cert_digest, digest(9));
}

#[test]
fn a_server_that_fell_silent_is_passed_over_until_it_reports() {
    let mut table = Table::new(settings(&[server("a", 9)], Source::None));
    table.now_ms += 100_000;
    assert!(table.seat(1).is_some(), "it never reported");
    table.report("a", Some(0), &[], &[]);
    table.now_ms += 29_999;
    assert!(table.seat(2).is_some());
    table.now_ms += 1;
    assert!(table.seat(3).is_none());
    table.report("a", None, &[], &[]);
    assert!(table.seat(4).is_some());
}

#[test]
fn a_place_is_kept_until_its_time_is_over() {
    let mut table = Table::new(settings(&[server("a", 1)], Source::None));
    table.seat(1).unwrap();
    table.pass(61_999);
    assert!(table.seat(2).is_none());
    assert!(table.pass(1).is_empty());
    assert_eq!((table.figures().unclaimed, table.places()), (1, (0, 0)));
    assert!(table.desk.is_idle() && table.seat(3).is_some());
}

#[test]
fn who_comes_takes_the_kept_place_and_who_leaves_frees_it() {
    let mut table = Table::new(settings(&[server("a", 2)], Source::None));
    let grant = table.seat(1).unwrap();
    table.report("a", None, &[grant.client_id], &[]);
    assert_eq!(table.places(), (0, 1));
    table.report("a", None, &[grant.client_id], &[]);
    assert_eq!(table.places(), (0, 1), "said twice");
    table.pass(100_000);
    assert_eq!((table.figures().unclaimed, table.places()), (0, (0, 1)));
    table.report("a", None, &[], &[grant.client_id]);
    assert_eq!(table.places(), (0, 0));
    table.report("a", None, &[], &[grant.client_id]);
    assert_eq!(table.places(), (0, 0), "said twice");
}

#[test]
fn who_came_and_left_between_two_reports_was_there() {
    let mut table = Table::new(settings(&[server("a", 2)], Source::None));
    let (first, second) = (table.seat(1).unwrap().client_id, table.seat(2).unwrap().client_id);
    table.report("a", None, &[first], &[first]);
    assert_eq!(table.places(), (1, 0));
    table.report("a", None, &[], &[second]);
    assert_eq!((table.places(), table.figures().unclaimed), ((0, 0), 0));
}

#[test]
fn a_count_includes_those_who_came() {
    let mut table = Table::new(settings(&[server("a", 4)], Source::None));
    let grant = table.seat(1).unwrap();
    table.seat(2).unwrap();
    table.report("a", Some(1), &[grant.client_id], &[]);
    assert_eq!(table.places(), (1, 1));
    table.report("a", Some(3), &[], &[]);
    assert_eq!(table.places(), (1, 3));
    assert!(table.seat(3).is_none(), "three there, one to come");
}

#[test]
fn a_count_that_is_lower_than_the_names_stands() {
    let mut table = Table::new(settings(&[server("a", 9)], Source::None));
    table.report("a", None, &[1, 2, 3], &[]);
    assert_eq!(table.places(), (0, 3));
    table.report("a", Some(2), &[], &[]);
    assert_eq!(table.places(), (0, 2));
    table.report("a", None, &[], &[3]);
    assert_eq!(table.places(), (0, 1), "one of those who were left");
    table.report("a", None, &[], &[1, 2, 3, 4]);
    assert_eq!(table.places(), (0, 0));
}

#[test]
fn a_count_of_zero_frees_all_places_but_those_of_players_who_are_to_come() {
    let mut table = Table::new(settings(&[server("a", 3)], Source::None));
    let grant = table.seat(1).unwrap();
    table.report("a", None, &[grant.client_id, 8], &[]);
    table.seat(2).unwrap();
    table.report("a", Some(0), &[], &[]);
    assert_eq!(table.places(), (1, 0));
    table.report("a", None, &[8], &[]);
    assert_eq!(table.places(), (1, 1), "it may come again");
}

#[test]
fn ids_that_are_not_ours_count_within_the_capacity() {
    let mut table = Table::new(settings(&[server("a", 3)], Source::None));
    table.report("a", None, &[5, 6], &[]);
    assert_eq!(table.places(), (0, 2));
    table.report("a", None, &[], &[99]);
    assert_eq!(table.places(), (0, 2), "whoever that was, it was not counted");
    let many: Vec<u64> = (100..1100).collect();
    table.report("a", None, &many, &[]);
    assert_eq!(table.places(), (0, 3));
    table.report("a", Some(5), &[], &[]);
    assert_eq!(table.places(), (0, 5), "its own count stands");
    assert!(table.seat(1).is_none());
}

#[test]
fn a_name_in_a_full_server_is_one_of_those_who_were_counted() {
    let mut table = Table::new(settings(&[server("a", 3)], Source::None));
    table.report("a", Some(3), &[], &[]);
    table.report("a", None, &[5], &[]);
    assert_eq!(table.places(), (0, 3));
    table.report("a", None, &[], &[5, 77]);
    assert_eq!(table.places(), (0, 1));
}

#[test]
fn another_server_cannot_claim_a_place() {
    let mut table = Table::new(settings(&[server("a", 3), server("bb", 3)], Source::None));
    let grant = table.seat(1).unwrap();
    table.report("bb", None, &[grant.client_id], &[]);
    assert_eq!(table.places(), (1, 1));
    table.report("bb", None, &[], &[grant.client_id]);
    assert_eq!(table.places(), (1, 0));
}

#[test]
fn unknown_servers_are_unknown() {
    let mut table = Table::new(settings(&[server("a", 3)], Source::None));
    for id in ["b", "", "192.0.2.1", "192.0.2.1:5000"] {
        assert_eq!(table.reports_digest(id, 1), Reported::UnknownServer);
    }
    assert_eq!(table.reports_digest("a", 1), Reported::Noted);
    assert_eq!(table.figures().reports, 1);
    let mut table = Table::new(settings(&[], Source::Provider));
    assert_eq!(table.reports_digest("192.0.2.1:5000", 1), Reported::Noted);
    assert_eq!(table.reports_digest("host:5000", 1), Reported::UnknownServer);
}

#[test]
fn who_left_before_hearing_of_the_place_gives_it_back() {
    let mut table = Table::new(settings(&[server("a", 1)], Source::None));
    table.seat(1).unwrap();
    assert!(table.leave(1).is_empty());
    assert!(table.desk.is_idle());
    let grant = table.seat(2).unwrap();
    table.report("a", None, &[grant.client_id], &[]);
    table.leave(2);
    assert_eq!(table.places(), (0, 1), "its player is there");
    assert_eq!((table.figures().ready, table.figures().abandoned), (2, 0));
}

#[test]
fn a_client_id_is_registered_before_the_player_is_told() {
    let mut table = Table::new(registering(&[server("a", 1)], Source::None));
    let outputs = table.seek(1, game("chess"));
    let (id, client_id) = registered(&outputs);
    let Some(Output::Register {
        wants_digest: false,
        placement,
        ..
    }) = outputs.last()
    else {
        panic!("{outputs:?}");
    };
    assert_eq!(outputs.len(), 4);
    assert_eq!((table.places(), table.figures().waiting), ((1, 0), 1));
    let outputs = table.event(Event::Registered(id, Some(digest(8))));
    let grant = granted(&outputs).unwrap();
    assert_eq!(
        (outputs.len(), grant.client_id, grant.cert_digest),
        (1, client_id, digest(1))
    );
    assert_eq!(grant.session, placement.session);
    assert!(table.event(Event::Registered(id, None)).is_empty());
    table.pass(62_000);
    assert_eq!((table.figures().unclaimed, table.figures().ready), (1, 1));
}

#[test]
fn what_cannot_be_registered_frees_its_place() {
    let mut table = Table::new(registering(&[server("a", 1)], Source::None));
    let (id, _) = registered(&table.seek(1, game("chess")));
    assert_eq!(table.event(Event::NotRegistered(id)), [failed(1, Failure::UNAVAILABLE)]);
    assert!(table.desk.is_idle());
    let (id, _) = registered(&table.seek(2, game("chess")));
    assert!(table.leave(2).is_empty());
    assert_eq!(table.figures().abandoned, 1);
    assert!(table.event(Event::NotRegistered(id)).is_empty());
    assert!(table.desk.is_idle());
}

#[test]
fn a_digest_may_come_from_the_register() {
    let mut unknown = server("a", 2);
    unknown.cert_digest = None;
    let mut table = Table::new(registering(&[unknown], Source::None));
    let outputs = table.seek(1, game("chess"));
    assert!(matches!(
        outputs.last(),
        Some(Output::Register { wants_digest: true, .. })
    ));
    let (id, _) = registered(&outputs);
    let grant = granted(&table.event(Event::Registered(id, Some(digest(8))))).unwrap();
    assert_eq!(grant.cert_digest, digest(8));
    let (id, _) = registered(&table.seek(2, game("chess")));
    assert_eq!(table.event(Event::Registered(id, None)), [failed(2, NO_DIGEST)]);
    assert_eq!(table.places(), (1, 0));
}

#[test]
fn the_register_may_say_who_came_and_left() {
    let mut table = Table::new(registering(&[server("a", 2)], Source::None));
    let (id, client_id) = registered(&table.seek(1, game("chess")));
    table.report("a", None, &[client_id], &[client_id]);
    assert_eq!(table.places(), (1, 0), "nobody can have come yet");
    let session = granted(&table.event(Event::Registered(id, None))).unwrap().session;
    assert!(table.event(Event::Claimed(session.clone())).is_empty());
    assert_eq!(table.places(), (0, 1));
    assert!(table.event(Event::Claimed(session.clone())).is_empty());
    assert!(table.event(Event::Ended(session.clone())).is_empty());
    assert_eq!(table.places(), (0, 0));
    assert!(table.event(Event::Ended(session)).is_empty());
    assert!(table.desk.is_idle());
}

#[test]
fn a_provider_says_nothing_about_requests_of_configured_servers() {
    let mut table = Table::new(registering(&[server("a", 1)], Source::Provider));
    let (id, _) = registered(&table.seek(1, game("chess")));
    let bogus = [
        Event::Failed(id, Failure::UNAVAILABLE),
        Event::Ready(id, placement("s")),
        Event::Accepted(id, session_name("s")),
        Event::Progress(id, "x".into()),
        Event::End(id),
        Event::Forwarded(id, "x".into()),
    ];
    for event in bogus {
        assert!(table.event(event).is_empty());
    }
    assert!(granted(&table.event(Event::Registered(id, None))).is_some());
}
