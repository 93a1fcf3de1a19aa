//! A provider's servers: from the request to the end of the session.

use super::super::Event;
use super::*;

const ID: RequestId = RequestId(1);

fn table() -> Table {
    Table::new(settings(&[server("a", 1)], Source::Provider))
}

fn claimed(session: &str) -> Output {
    Output::Claimed(session_name(session))
}

fn released(session: &str) -> Output {
    Output::Released(session_name(session))
}

/// A player with this session.
fn given(table: &mut Table, nth: u32, session: &str) -> Grant {
    let outputs = table.seek(nth, Wanted::Configured);
    let Some(Output::Submit(id, _)) = outputs.last() else {
        panic!("{outputs:?}");
    };
    granted(&table.event(Event::Ready(*id, placement(session)))).unwrap()
}

#[test]
fn what_the_provider_says_is_passed_on_in_order() {
    let mut table = table();
    let (wanted, client_ip) = (game("cloudy"), [192, 0, 2, 1].into());
    let submitted = Output::Submit(ID, Seek { wanted, client_ip });
    let outputs = table.seek(1, game("cloudy"));
    assert_eq!(outputs, [tell(1, Feedback::Acknowledged), submitted]);
    assert_eq!(table.event(Event::Accepted(ID, session_name("s"))), [accepted(1, "s")]);
    assert!(table.event(Event::Accepted(ID, session_name("s"))).is_empty(), "once");
    assert_eq!(
        table.event(Event::Progress(ID, "Seeking (1)".into())),
        [progress(1, "Seeking (1)")]
    );
    let outputs = table.event(Event::Ready(ID, placement("s")));
    let grant = granted(&outputs).unwrap();
    assert_eq!(outputs, [tell(1, Feedback::Ready(Box::new(grant.clone())))]);
    assert_eq!((grant.cert_digest, grant.session), (digest(2), session_name("s")));
    assert_eq!(
        (table.figures().waiting, table.figures().ready, table.places()),
        (0, 1, (1, 0))
    );
}

#[test]
fn words_that_the_provider_left_out_are_told() {
    let mut table = table();
    table.seek(1, Wanted::Configured);
    let outputs = table.event(Event::Ready(ID, placement("s")));
    assert_eq!(outputs[..2], [accepted(1, "s"), progress(1, "Ready (0)")]);
    assert!(granted(&outputs[2..]).is_some());
}

#[test]
fn what_is_too_long_for_progress_is_none() {
    let mut table = table();
    table.seek(1, Wanted::Configured);
    assert!(table.event(Event::Progress(ID, "x".repeat(257).into())).is_empty());
    assert_eq!(table.event(Event::Progress(ID, "x".repeat(256).into())).len(), 1);
}

#[test]
fn a_failure_is_passed_on_and_counted_by_its_kind() {
    let mut table = table();
    for (nth, code) in [(1, 503), (2, 409), (3, 504)] {
        table.seek(nth, Wanted::Configured);
        let failure = Failure::new(code, "so it is");
        let id = RequestId(nth.into());
        assert_eq!(
            table.event(Event::Failed(id, failure.clone())),
            [failed(nth, failure.clone())]
        );
        assert!(table.event(Event::Failed(id, failure)).is_empty());
    }
    assert_eq!((table.figures().unavailable, table.figures().failed), (1, 2));
    assert!(table.desk.is_idle());
}

#[test]
fn who_leaves_is_no_longer_worked_for() {
    let mut table = table();
    table.seek(1, Wanted::Configured);
    assert_eq!(table.leave(1), [Output::Cancel(ID)]);
    assert!(table.leave(1).is_empty());
    assert_eq!(table.figures().abandoned, 1);
    // What crossed that is given back, too.
    assert_eq!(
        table.event(Event::Accepted(ID, session_name("s"))),
        [Output::Cancel(ID)]
    );
    assert!(table.event(Event::Progress(ID, "Ready (1)".into())).is_empty());
    assert_eq!(table.event(Event::Ready(ID, placement("s"))), [Output::Cancel(ID)]);
    assert!(table.desk.is_idle());
}

#[test]
fn who_left_before_hearing_of_the_session_gives_it_back() {
    let mut table = table();
    given(&mut table, 1, "s");
    assert_eq!(table.leave(1), [Output::Cancel(ID)]);
    assert!(table.desk.is_idle());
    given(&mut table, 2, "t");
    table.event(Event::Claimed(session_name("t")));
    assert!(table.leave(2).is_empty(), "its player is there");
}

#[test]
fn a_provider_that_repeats_itself_does_not_end_what_was_given() {
    let mut table = table();
    given(&mut table, 1, "s");
    assert!(table.event(Event::Ready(ID, placement("s"))).is_empty());
    assert!(table.event(Event::Accepted(ID, session_name("s"))).is_empty());
}

#[test]
fn ipv6_servers_are_for_those_who_want_them() {
    let mut on_ipv6 = placement("s");
    on_ipv6.public = "[2001:db8::1]:6000".parse().unwrap();
    let mut table = table();
    table.seek(1, Wanted::Configured);
    let outputs = table.event(Event::Ready(ID, on_ipv6.clone()));
    assert_eq!(outputs, [Output::Cancel(ID), failed(1, Failure::NO_SERVER)]);
    let mut settings = settings(&[], Source::Provider);
    settings.limits.ipv6 = true;
    let mut table = Table::new(settings);
    table.seek(1, Wanted::Configured);
    assert!(granted(&table.event(Event::Ready(ID, on_ipv6))).is_some());
}

#[test]
fn a_digest_is_the_placements_or_a_reported_one() {
    let mut table = table();
    table.seek(1, Wanted::Configured);
    let outputs = table.event(Event::Ready(ID, without_digest("s")));
    assert_eq!(outputs, [Output::Cancel(ID), failed(1, NO_DIGEST)]);
    table.reports_digest("198.51.100.1", 6);
    table.seek(2, Wanted::Configured);
    let grant = granted(&table.event(Event::Ready(RequestId(2), without_digest("t")))).unwrap();
    assert_eq!(grant.cert_digest, digest(6));
    table.reports_digest("198.51.100.1:6000", 7);
    table.seek(3, Wanted::Configured);
    let grant = granted(&table.event(Event::Ready(RequestId(3), without_digest("u")))).unwrap();
    assert_eq!(grant.cert_digest, digest(7));
    assert_eq!(given(&mut table, 4, "v").cert_digest, digest(2));
}

#[test]
fn a_digest_may_come_from_the_register() {
    let mut table = Table::new(registering(&[], Source::Provider));
    table.seek(1, Wanted::Configured);
    let outputs = table.event(Event::Ready(ID, without_digest("s")));
    assert!(matches!(
        outputs.last(),
        Some(Output::Register { wants_digest: true, .. })
    ));
    let grant = granted(&table.event(Event::Registered(ID, Some(digest(8))))).unwrap();
    assert_eq!(grant.cert_digest, digest(8));
    table.seek(2, Wanted::Configured);
    let id = RequestId(2);
    table.event(Event::Ready(id, without_digest("t")));
    let outputs = table.event(Event::Registered(id, None));
    assert_eq!(outputs, [Output::Cancel(id), failed(2, NO_DIGEST)]);
    table.seek(3, Wanted::Configured);
    let id = RequestId(3);
    let outputs = table.event(Event::Ready(id, placement("u")));
    assert!(matches!(
        outputs.last(),
        Some(Output::Register {
            wants_digest: false,
            ..
        })
    ));
    let outputs = table.event(Event::NotRegistered(id));
    assert_eq!(outputs, [Output::Cancel(id), failed(3, Failure::UNAVAILABLE)]);
}

#[test]
fn whatever_ends_a_request_while_it_is_registered_gives_its_session_back() {
    let mut table = Table::new(registering(&[], Source::Provider));
    let mut nth = 0;
    let mut registering = |table: &mut Table| {
        nth += 1;
        table.seek(nth, Wanted::Configured);
        let id = RequestId(nth.into());
        table.event(Event::Ready(id, placement("s")));
        (nth, id)
    };
    let (nth, id) = registering(&mut table);
    assert_eq!(table.leave(nth), [Output::Cancel(id)]);
    assert!(table.desk.is_idle());
    let (nth, id) = registering(&mut table);
    assert_eq!(
        table.pass(75_000),
        [Output::Cancel(id), failed(nth, Failure::TIMED_OUT)]
    );
    assert!(table.desk.is_idle());
    let (nth, id) = registering(&mut table);
    assert_eq!(
        table.event(Event::Failed(id, Failure::UNAVAILABLE)),
        [failed(nth, Failure::UNAVAILABLE)]
    );
    assert!(table.desk.is_idle());
    let (nth, id) = registering(&mut table);
    let over = Output::Released(session_name("s"));
    let outputs = table.event(Event::Ended(session_name("s")));
    assert_eq!(outputs, [Output::Cancel(id), failed(nth, Failure::NO_SERVER), over]);
    assert!(table.desk.is_idle());
    let (_, id) = registering(&mut table);
    assert!(table.event(Event::Ready(id, placement("s"))).is_empty(), "said twice");
    assert!(granted(&table.event(Event::Registered(id, None))).is_some());
}

#[test]
fn a_session_is_claimed_once_and_released_once() {
    let mut table = table();
    given(&mut table, 1, "s");
    assert_eq!(table.event(Event::Claimed(session_name("s"))), [claimed("s")]);
    assert!(table.event(Event::Claimed(session_name("s"))).is_empty());
    table.pass(100_000);
    assert_eq!((table.places(), table.figures().unclaimed), ((0, 1), 0));
    assert_eq!(table.event(Event::Ended(session_name("s"))), [released("s")]);
    assert_eq!(table.places(), (0, 0));
    assert!(table.desk.is_idle());
}

#[test]
fn reports_name_the_players_of_sessions() {
    let mut table = table();
    let grant = given(&mut table, 1, "s");
    let at = "198.51.100.1:6000";
    assert_eq!(table.report(at, None, &[grant.client_id, 5], &[6]), [claimed("s")]);
    assert!(table.report(at, Some(1), &[grant.client_id], &[]).is_empty());
    assert_eq!(table.report(at, None, &[], &[grant.client_id]), [released("s")]);
    assert!(table.report(at, None, &[], &[grant.client_id]).is_empty());
    let grant = given(&mut table, 2, "s");
    assert_eq!(
        table.report(at, None, &[], &[grant.client_id]),
        [released("s")],
        "it came and left"
    );
    assert!(table.desk.is_idle());
}

#[test]
fn several_players_may_share_a_session() {
    let mut table = table();
    let (first, second) = (given(&mut table, 1, "s"), given(&mut table, 2, "s"));
    assert_ne!(first.client_id, second.client_id);
    assert_eq!(table.event(Event::Claimed(session_name("s"))), [claimed("s")]);
    assert_eq!(table.event(Event::Claimed(session_name("s"))), [claimed("s")]);
    assert_eq!(
        table.report("198.51.100.1", None, &[], &[first.client_id]),
        [released("s")]
    );
    assert_eq!(table.places(), (0, 1));
    assert_eq!(table.event(Event::Ended(session_name("s"))), [released("s")]);
    assert!(table.desk.is_idle());
}

#[test]
fn sessions_of_an_earlier_process_are_the_providers_business() {
    let mut table = table();
    let of_before = session_name("old");
    let events = [Event::Claimed(of_before.clone()), Event::Ended(of_before.clone())];
    let outputs = [Output::Claimed(of_before.clone()), Output::Released(of_before)];
    for (event, output) in events.into_iter().zip(outputs) {
        assert_eq!(table.event(event), [output]);
    }
    let mut table = Table::new(registering(&[], Source::None));
    assert!(table.event(Event::Ended(session_name("old"))).is_empty());
}

#[test]
fn a_session_that_nobody_claims_is_forgotten() {
    let mut table = table();
    let grant = given(&mut table, 1, "s");
    assert!(table.pass(62_000).is_empty(), "the provider has its own clock");
    assert_eq!((table.figures().unclaimed, table.places()), (1, (0, 0)));
    assert!(table.report("198.51.100.1", None, &[grant.client_id], &[]).is_empty());
    assert!(table.desk.is_idle());
}

#[test]
fn another_matchmakers_words_are_not_a_providers() {
    let mut table = table();
    table.seek(1, Wanted::Configured);
    let outcome = Box::new(crate::message::game_server::Outcome {
        status: 200,
        body: String::new(),
    });
    for event in [
        Event::End(ID),
        Event::Forwarded(ID, "x".into()),
        Event::ForwardedOutcome(ID, outcome),
        Event::Registered(ID, None),
        Event::NotRegistered(ID),
    ] {
        assert!(table.event(event).is_empty());
    }
    assert_eq!(table.figures().waiting, 1);
}
