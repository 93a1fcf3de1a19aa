//! Who may ask, how often, and for how long.

use super::*;

#[test]
fn requests_a_minute_are_bounded_by_address() {
    let mut settings = settings(&[server("a", 100)], Source::None);
    settings.limits.requests_per_min_per_ip = 2;
    let mut table = Table::new(settings);
    let from = |nth: u32, ip: &str, table: &mut Table| {
        let (wanted, client_ip) = (game("chess"), ip.parse().unwrap());
        table
            .desk
            .seek(conn(nth), Some(client_ip), Seek { wanted, client_ip }, table.now_ms);
        granted(&table.outputs()).is_some()
    };
    assert!(from(1, "192.0.2.1", &mut table) && from(2, "192.0.2.1", &mut table));
    assert!(!from(3, "192.0.2.1", &mut table));
    assert!(from(4, "192.0.2.2", &mut table));
    assert!(from(5, "2001:db8::1", &mut table) && from(6, "2001:db8::2", &mut table));
    assert!(!from(7, "2001:db8::3", &mut table), "a /64 is one address");
    table.pass(30_000);
    assert!(from(8, "192.0.2.1", &mut table));
    assert!(!from(9, "192.0.2.1", &mut table));
    assert_eq!((table.figures().limited, table.figures().ready), (3, 6));
}

#[test]
fn those_who_wait_are_bounded_by_address_and_in_all() {
    let mut settings = settings(&[], Source::Provider);
    settings.limits.waiting_per_ip = 2;
    settings.limits.waiting_max = 3;
    let mut table = Table::new(settings);
    let from = |nth: u32, last: u8, table: &mut Table| {
        let (wanted, client_ip) = (game("cloudy"), [192, 0, 2, last].into());
        table
            .desk
            .seek(conn(nth), Some(client_ip), Seek { wanted, client_ip }, table.now_ms);
        table.outputs()
    };
    assert_eq!(from(1, 1, &mut table).len(), 2);
    assert_eq!(from(2, 1, &mut table).len(), 2);
    assert_eq!(from(3, 1, &mut table), [failed(3, Failure::TOO_MANY)]);
    assert_eq!(from(4, 2, &mut table).len(), 2);
    assert_eq!(from(5, 3, &mut table), [failed(5, Failure::TOO_MANY)]);
    table.leave(1);
    assert_eq!(from(6, 1, &mut table).len(), 2);
    assert_eq!(table.figures().limited, 2);
}

#[test]
fn those_who_ask_over_nats_keep_the_bound_on_all_alone() {
    let mut settings = settings(&[], Source::Provider);
    settings.limits.waiting_per_ip = 1;
    settings.limits.requests_per_min_per_ip = 1;
    settings.limits.waiting_max = 3;
    let mut table = Table::new(settings);
    for remote in 1..=4 {
        let (wanted, client_ip) = (Wanted::Configured, [192, 0, 2, 1].into());
        table.event(super::super::Event::Asked(remote, Seek { wanted, client_ip }));
    }
    assert_eq!((table.figures().waiting, table.figures().limited), (3, 1));
}

#[test]
fn a_second_request_of_a_seeker_is_refused_and_the_first_goes_on() {
    let mut table = Table::new(settings(&[], Source::Provider));
    table.seek(1, game("cloudy"));
    assert_eq!(table.seek(1, game("cloudy")), [failed(1, Failure::TOO_MANY)]);
    assert_eq!((table.figures().waiting, table.figures().limited), (1, 1));
    let outputs = table.event(super::super::Event::Ready(RequestId(1), placement("s")));
    assert!(granted(&outputs).is_some());
}

#[test]
fn what_nobody_serves_is_not_there() {
    let no_server = [failed(1, Failure::NO_SERVER)];
    let mut table = Table::new(settings(&[server("a", 1)], Source::None));
    assert_eq!(table.seek(1, game("go")), no_server);
    assert_eq!(table.seek(1, Wanted::Configured), no_server);
    let mut table = Table::new(settings(&[server("a", 1)], Source::Provider));
    assert_eq!(table.seek(1, game("go")), no_server);
    assert_eq!(table.figures().unavailable, 1);
    let mut unconfigured = settings(&[], Source::Provider);
    unconfigured.configured = None;
    assert_eq!(Table::new(unconfigured).seek(1, Wanted::Configured), no_server);
}

#[test]
fn the_deadline_does_not_depend_on_the_provider() {
    let mut table = Table::new(settings(&[], Source::Provider));
    table.seek(1, game("cloudy"));
    assert_eq!(table.desk.poll_timeout(), Some(76_000));
    assert!(table.pass(74_999).is_empty());
    let late = [Output::Cancel(RequestId(1)), failed(1, Failure::TIMED_OUT)];
    assert_eq!(table.pass(1), late);
    assert_eq!((table.figures().timed_out, table.figures().waiting), (1, 0));
    assert!(table.desk.is_idle());
}

#[test]
fn the_deadline_holds_for_the_register_as_well() {
    let mut table = Table::new(registering(&[server("a", 1)], Source::None));
    let (id, _) = registered(&table.seek(1, game("chess")));
    assert_eq!(table.places(), (1, 0));
    assert_eq!(table.pass(75_000), [failed(1, Failure::TIMED_OUT)]);
    assert_eq!(table.places(), (0, 0));
    assert!(table.event(super::super::Event::Registered(id, None)).is_empty());
    assert!(table.desk.is_idle());
}

#[test]
fn ten_thousand_who_wait_all_end_at_their_deadline() {
    let mut settings = settings(&[], Source::Provider);
    settings.limits.waiting_max = 0;
    let mut table = Table::new(settings);
    for nth in 0..10_000 {
        let (wanted, client_ip) = (game("cloudy"), std::net::Ipv4Addr::from_bits(nth).into());
        table.desk.seek(
            conn(nth),
            Some(client_ip),
            Seek { wanted, client_ip },
            1000 + u64::from(nth),
        );
    }
    table.now_ms = 11_000;
    assert_eq!(table.outputs().len(), 20_000);
    assert_eq!(table.pass(70_000).len(), 2 * 5001);
    assert_eq!(table.pass(5000).len(), 2 * 4999);
    assert_eq!(table.figures().timed_out, 10_000);
    assert!(table.desk.is_idle());
}

#[test]
fn time_does_not_go_back() {
    let mut table = Table::new(settings(&[], Source::Provider));
    table.seek(1, game("cloudy"));
    table.now_ms = 10;
    table.seek(2, game("cloudy"));
    assert_eq!(table.desk.poll_timeout(), Some(76_000));
}

#[test]
fn the_limits_count_where_a_request_came_from() {
    let mut settings = settings(&[], Source::Provider);
    settings.limits.waiting_per_ip = 1;
    let mut table = Table::new(settings);
    // All of them are told to the provider as the same.
    let client_ip = [81, 128, 157, 100].into();
    let from = |nth: u32, last: u8, table: &mut Table| {
        let wanted = game("cloudy");
        let from = Some([10, 0, 0, last].into());
        table
            .desk
            .seek(conn(nth), from, Seek { wanted, client_ip }, table.now_ms);
        table.outputs()
    };
    assert_eq!(from(1, 1, &mut table).len(), 2);
    assert_eq!(from(2, 2, &mut table).len(), 2);
    assert_eq!(from(3, 1, &mut table), [failed(3, Failure::TOO_MANY)]);
}

#[test]
fn of_many_deadlines_some_are_left_for_the_next_time() {
    let mut settings = settings(&[], Source::Provider);
    settings.limits.waiting_max = 0;
    let mut table = Table::new(settings);
    for nth in 0..300 {
        assert_eq!(table.seek(nth, game("cloudy")).len(), 2);
    }
    table.now_ms += 75_000;
    table.desk.handle_timeout(table.now_ms);
    // A word to the player, and one to the provider, for each.
    assert_eq!(table.outputs().len(), 2 * super::super::DUE_MAX);
    assert_eq!(table.desk.poll_timeout(), Some(table.now_ms));
    assert_eq!(table.pass(0).len(), 2 * (300 - super::super::DUE_MAX));
}
