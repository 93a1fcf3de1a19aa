//! Requests that another matchmaker answers.

use super::super::Event;
use super::*;
use crate::message::game_server::{FORWARDED_BYTES_MAX, Outcome};

const ID: RequestId = RequestId(1);

fn table() -> Table {
    Table::new(settings(&[server("a", 1)], Source::Forwarded))
}

fn frame(nth: u32, text: &str) -> Output {
    tell(nth, Feedback::Forwarded(text.into()))
}

fn outcome(body: String) -> Box<Outcome> {
    Box::new(Outcome { status: 200, body })
}

#[test]
fn frames_are_passed_on_until_the_end() {
    let mut table = table();
    let outputs = table.seek(1, game("go"));
    assert!(
        matches!(outputs[..], [Output::Submit(ID, _)]),
        "the other one acknowledges"
    );
    assert_eq!(table.event(Event::Forwarded(ID, "one".into())), [frame(1, "one")]);
    assert_eq!(table.event(Event::Forwarded(ID, "two".into())), [frame(1, "two")]);
    assert_eq!(table.event(Event::End(ID)), [tell(1, Feedback::End)]);
    assert!(table.event(Event::Forwarded(ID, "three".into())).is_empty());
    assert!(table.event(Event::End(ID)).is_empty());
    assert_eq!((table.figures().forwarded, table.figures().waiting), (1, 0));
    assert!(table.desk.is_idle());
}

#[test]
fn a_game_of_a_configured_server_is_not_forwarded() {
    let mut table = table();
    assert!(table.seat(1).is_some());
    assert_eq!(table.seek(2, game("chess")), [failed(2, Failure::NO_SERVER)]);
}

#[test]
fn the_configured_game_is_answered_in_one_piece() {
    let mut table = table();
    table.seek(1, Wanted::Configured);
    let answer = outcome("{}".to_owned());
    let outputs = table.event(Event::ForwardedOutcome(ID, answer.clone()));
    assert_eq!(outputs, [tell(1, Feedback::ForwardedOutcome(answer.clone()))]);
    table.seek(2, game("go"));
    assert!(table.event(Event::ForwardedOutcome(RequestId(2), answer)).is_empty());
    assert_eq!((table.figures().forwarded, table.figures().waiting), (1, 1));
}

#[test]
fn frames_that_are_too_long_end_the_request() {
    let mut table = table();
    let long = "x".repeat(FORWARDED_BYTES_MAX);
    table.seek(1, game("go"));
    assert_eq!(table.event(Event::Forwarded(ID, long.as_str().into())).len(), 1);
    let ended = |id, nth| [Output::Cancel(id), failed(nth, Failure::UNAVAILABLE)];
    let outputs = table.event(Event::Forwarded(ID, format!("{long}x").into()));
    assert_eq!(outputs, ended(ID, 1));
    table.seek(2, Wanted::Configured);
    let outputs = table.event(Event::ForwardedOutcome(RequestId(2), outcome(format!("{long}x"))));
    assert_eq!(outputs, ended(RequestId(2), 2));
    assert!(table.desk.is_idle());
}

#[test]
fn a_request_may_fail_be_late_or_be_left() {
    let mut table = table();
    table.seek(1, game("go"));
    let refused = table.event(Event::Failed(ID, Failure::UNAVAILABLE));
    assert_eq!(refused, [failed(1, Failure::UNAVAILABLE)]);
    table.seek(2, game("go"));
    assert_eq!(table.leave(2), [Output::Cancel(RequestId(2))]);
    table.seek(3, game("go"));
    let late = [Output::Cancel(RequestId(3)), failed(3, Failure::TIMED_OUT)];
    assert_eq!(table.pass(75_000), late);
    assert!(table.desk.is_idle());
}

#[test]
fn a_providers_words_are_not_another_matchmakers() {
    let mut table = table();
    table.seek(1, game("go"));
    for event in [
        Event::Ready(ID, placement("s")),
        Event::Accepted(ID, session_name("s")),
        Event::Progress(ID, "x".into()),
        Event::Ready(RequestId(9), placement("s")),
        Event::Claimed(session_name("s")),
        Event::Ended(session_name("s")),
    ] {
        assert!(table.event(event).is_empty());
    }
    assert_eq!(table.figures().waiting, 1);
}
