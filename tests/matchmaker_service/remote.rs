//! Requests that come over NATS: what is handed to the register.

use peer_server::message::game_server::{Event, Failure, Name, Note, Seek, SessionName, Wanted};
use peer_server::provider::Answer;
use serde_json::{Value, json};
use std::time::Duration;

use crate::dialogue::check_token;
use crate::scene::{GAME, Service, placement};
use crate::support::http;

fn seek(wanted: Wanted) -> Seek {
    Seek {
        wanted,
        client_ip: "192.0.2.1".parse().unwrap(),
    }
}

fn game() -> Wanted {
    Wanted::Game {
        game: Name::new(GAME).unwrap(),
        version: Name::new("1").unwrap(),
    }
}

#[test]
fn a_game_by_its_name_is_answered_with_frames() {
    let service = Service::start(4);
    service.registry.tell(Event::Asked(1, seek(game())));
    let (id, asked) = service.provider.submitted();
    assert_eq!(asked, seek(game()));
    service
        .provider
        .tell(Event::Accepted(id, SessionName::new("S1").unwrap()));
    service.provider.tell(Event::Ready(id, placement("S1")));
    let answers = service.registry.answers(1);
    let frames = answers.iter().filter_map(|answer| match answer {
        Answer::Frame(text) => Some(serde_json::from_str::<Value>(text).unwrap()),
        Answer::Outcome(_) | Answer::End => None,
    });
    let frames: Vec<Value> = frames.collect();
    assert_eq!(frames.len() + 1, answers.len(), "frames and the end");
    assert_eq!(
        frames[..2],
        [json!("Acknowledged"), json!({ "SessionRequestAccepted": "S1" })]
    );
    check_token(&frames.last().unwrap()["SessionReady"], "token", "203.0.113.10:30004");
}

#[test]
fn the_configured_game_is_answered_in_one_piece() {
    let service = Service::start(1);
    service.registry.tell(Event::Asked(1, seek(Wanted::Configured)));
    let (id, _) = service.provider.submitted();
    service.provider.tell(Event::Ready(id, placement("S1")));
    let answers = service.registry.answers(1);
    let [Answer::Outcome(outcome), Answer::End] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(outcome.status, 200);
    let object: Value = serde_json::from_str(&outcome.body).unwrap();
    check_token(&object, "connect_token", "203.0.113.10:30004");

    service.registry.tell(Event::Asked(2, seek(Wanted::Configured)));
    let (id, _) = service.provider.submitted();
    service
        .provider
        .tell(Event::Failed(id, Failure::new(409, "mock failure")));
    let answers = service.registry.answers(2);
    assert!(
        matches!(&answers[0], Answer::Outcome(outcome) if outcome.status == 409 && outcome.body == "mock failure"),
        "{answers:?}"
    );
}

#[test]
fn who_answers_over_nats_alone_makes_tokens_and_has_no_paths() {
    let service = Service::with(4, |config| {
        config.matchmaker.enabled = false;
        config.matchmaker.bind = None;
        config.matchmaker.nats_back = true;
    });
    service.registry.tell(Event::Asked(1, seek(game())));
    let (id, _) = service.provider.submitted();
    service
        .provider
        .tell(Event::Accepted(id, SessionName::new("S1").unwrap()));
    service.provider.tell(Event::Ready(id, placement("S1")));
    let answers = service.registry.answers(1);
    let Some([Answer::Frame(ready), Answer::End]) = answers.last_chunk() else {
        panic!("{answers:?}");
    };
    let ready: Value = serde_json::from_str(ready).unwrap();
    check_token(&ready["SessionReady"], "token", "203.0.113.10:30004");
    let answer = http(service.addr, "GET", "/matchmaker", &[]);
    assert_eq!((answer.status, answer.text().as_str()), (404, "not found\n"));
}

#[test]
fn what_providers_note_is_shown() {
    let service = Service::start(1);
    let took = Duration::from_millis(1500);
    for note in [
        Note::Called { took, good: true },
        Note::Called { took, good: false },
        Note::Created,
        Note::Created,
        Note::Deleted,
        Note::Unclaimed,
        Note::Abandoned,
        Note::Connected(true),
    ] {
        service.provider.tell(Event::Noted(note));
    }
    for (name, value) in [
        ("nats_connected", 1),
        ("sessions_open", 1),
        ("sessions_total{event=\"created\"}", 2),
        ("sessions_total{event=\"deleted\"}", 1),
        ("sessions_total{event=\"unclaimed\"}", 1),
        ("sessions_total{event=\"abandoned\"}", 1),
        ("calls_total{outcome=\"good\"}", 1),
        ("calls_total{outcome=\"failed\"}", 1),
    ] {
        service.wait_for_metric(&format!("peer_server_game_server_{name}"), value);
    }
    service.registry.tell(Event::Noted(Note::Connected(false)));
    service.wait_for_metric("peer_server_game_server_nats_connected", 0);
}
