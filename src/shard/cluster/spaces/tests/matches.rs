//! Match requests: each is told of one match, whatever overtakes what.

use super::*;

#[test]
fn a_match_is_told_once_whatever_comes_first() {
    let mut home = Home::new();
    home.ask_match('a');
    let first = home.ticket();
    home.reply(Reply::Waiting);
    assert_eq!(home.said(), ["a waits"]);
    // The match overtakes the replies to both.
    home.ask_match('b');
    let second = home.ticket();
    home.matched(&[('a', first), ('b', second)], "ab");
    assert_eq!(home.said(), ["b done", "ab matched ab"]);
    home.reply(Reply::Done);
    home.matched(&[('a', first), ('b', second)], "ab");
    assert_eq!(home.said(), [""; 0]);
    home.ask_match('c');
    let third = home.ticket();
    home.matched(&[('c', third)], "cd");
    assert_eq!(home.said(), ["c waits", "c matched cd"]);
    home.reply(Reply::Waiting);
    assert_eq!(home.said(), [""; 0]);
    assert_eq!(home.shard.counters.matches, 1);
    assert!(home.is_empty());
}

#[test]
fn a_match_of_an_earlier_request_leaves_the_newer_waiting() {
    for answered in [true, false] {
        let mut home = Home::new();
        home.ask_match('a');
        let first = home.ticket();
        home.reply(Reply::Waiting);
        assert_eq!(home.said(), ["a waits"]);
        home.ask_match('a');
        let second = home.ticket();
        assert_ne!(first, second);
        if answered {
            home.reply(Reply::Waiting);
            assert_eq!(home.said(), ["a waits"]);
        }
        home.matched(&[('a', first)], "ab");
        assert_eq!(home.said(), ["a matched ab, waiting on"]);
        if !answered {
            home.reply(Reply::Waiting);
            assert_eq!(home.said(), ["a waits"]);
        }
        assert_eq!(home.permits.match_waiting.now(), 1);
        home.matched(&[('a', second)], "ac");
        assert_eq!(home.said(), ["a matched ac"]);
        assert!(home.is_empty());
    }
}

#[test]
fn a_match_needs_a_permit_only_if_it_waits() {
    let mut home = Home::new();
    for peer in ['a', 'b', 'c'] {
        home.ask_match(peer);
    }
    home.take_outputs();
    assert_eq!(home.permits.match_waiting.now(), 2);
    home.reply(Reply::Waiting);
    home.reply(Reply::Done);
    let what = home.reply(Reply::Refused(Refusal::ServerFull));
    assert!(matches!(what, What::Match { refuse: Some(_), .. }));
    assert_eq!(home.permits.match_waiting.now(), 1);
    home.gone('a');
    home.gone('b');
    assert!(home.is_empty());
}

#[test]
fn a_leave_a_kick_and_an_end_take_the_request_back() {
    let mut home = Home::with_room();
    home.ask_match('a');
    home.reply(Reply::Waiting);
    home.is_kicked(6, 'a');
    assert_eq!(home.said(), ["a waits", "a kicked"]);
    assert!(home.is_empty());
    assert_eq!(home.asked(), ["leave"], "it may have asked after it was put out");
    home.reply(Reply::Done);
    home.ask_match('b');
    home.is_kicked(7, 'b');
    home.reply(Reply::Waiting);
    home.reply(Reply::Done);
    assert_eq!(home.said(), ["b waits", "b kicked"]);
    assert!(home.is_empty());
    home.ask_match('c');
    home.reply(Reply::Waiting);
    home.ask('c', Ask::Leave);
    home.reply(Reply::Done);
    assert!(home.is_empty());
}

#[test]
fn a_request_that_waits_is_told_again_with_its_number() {
    let mut home = Home::new();
    home.ask_match('a');
    let ticket = home.ticket();
    home.reply(Reply::Waiting);
    let _ = home.said();
    home.tell(Event::Down);
    home.tell(Event::Up);
    home.rejoin('a', false, true);
    assert_eq!(home.asked(), ["match again"]);
    assert_eq!(home.ticket(), ticket);
    home.reply(Reply::Lost);
    assert_eq!(home.said(), ["a not told"]);
    home.rejoin('a', false, true);
    home.reply(Reply::Stale);
    assert_eq!(home.said(), ["a rejoined"], "the news of its other session ends it");
    home.rejoin('a', false, true);
    home.matched(&[('a', ticket)], "ab");
    home.reply(Reply::Waiting);
    assert!(home.is_empty());
    assert_eq!(home.said(), ["a matched ab", "a rejoined"]);
    home.rejoin('a', false, true);
    assert_eq!(home.said(), ["a rejoined"]);
}

#[test]
fn a_request_that_was_met_is_asked_about_until_its_match_is_here() {
    let mut home = Home::new();
    home.ask_match('a');
    home.reply(Reply::Waiting);
    home.ask_match('a');
    let ticket = home.ticket();
    home.reply(Reply::Done);
    assert_eq!(home.said(), ["a waits", "a done"]);
    assert_eq!(home.permits.match_waiting.now(), 0);
    for _ in 0..2 {
        home.tell(Event::Down);
        home.tell(Event::Up);
        home.rejoin('a', false, true);
        assert_eq!(home.asked(), ["match again"]);
        assert_eq!(home.ticket(), ticket);
        home.reply(Reply::Done);
        assert_eq!(home.said(), ["a rejoined"]);
    }
    // The broker lost everything, and finds another group for it.
    home.rejoin('a', false, true);
    home.reply(Reply::Waiting);
    assert_eq!(home.permits.match_waiting.now(), 1);
    home.rejoin('a', false, true);
    home.reply(Reply::Done);
    assert_eq!(home.said(), ["a rejoined", "a rejoined"]);
    // A gap has swallowed the match.
    home.rejoin('a', false, true);
    home.reply(LOST_MATCH);
    assert_eq!(home.said(), ["a evicted", "a rejoined"]);
    assert!(home.is_empty());
}

#[test]
fn a_request_whose_match_came_ends_no_session() {
    let mut home = Home::new();
    home.ask_match('a');
    let ticket = home.ticket();
    home.reply(Reply::Waiting);
    home.rejoin('a', false, true);
    home.matched(&[('a', ticket)], "ab");
    home.reply(LOST_MATCH);
    assert_eq!(home.said(), ["a waits", "a matched ab", "a rejoined"]);
    assert!(home.is_empty());
}

#[test]
fn who_was_put_out_and_came_again_hears_of_that_first_and_has_no_request() {
    for event_first in [true, false] {
        let mut home = Home::with_room();
        home.ask_to_enter('c', true);
        home.comes_to_room(6, 'c', None);
        home.joined(6, None);
        home.ask_match('a');
        home.reply(Reply::Waiting);
        let _ = home.said();
        home.ask_to_enter('a', true);
        home.is_kicked(7, 'a');
        if event_first {
            home.comes_to_room(8, 'a', None);
        }
        home.joined(8, None);
        if !event_first {
            home.comes_to_room(8, 'a', None);
        }
        let said = home.said();
        let said: Vec<&str> = said.iter().map(|said| &**said).collect();
        let expected = ["-a loop 1 1", "a kicked", "+a loop 1 2", "a in oca, loop 1 2, node 1 1"];
        assert_eq!(said, expected, "event first: {event_first}");
        assert_eq!(home.permits.match_waiting.now(), 0);
    }
}

const LOST_MATCH: Reply = Reply::Refused(Refusal::BrokerUnavailable);
