//! The front against scripted matchmakers.

use futures_util::StreamExt as _;
use peer_server::message::game_server::{Event, Failure, Name, Note, Outcome, RequestId, Seek, Wanted};
use peer_server::provider::GameServerProvider as _;
use peer_server::provider::nats::Parts;
use serde_json::Value;

use crate::broker::{Broker, Ours, recorded_answers, run, subscribe, vector};

pub fn front() -> Parts {
    Parts {
        front: true,
        ..Parts::default()
    }
}

pub fn seek(game: &str, version: &str) -> Seek {
    let name = |text| Name::new(text).unwrap();
    Seek {
        wanted: Wanted::Game {
            game: name(game),
            version: name(version),
        },
        client_ip: "81.128.157.100".parse().unwrap(),
    }
}

pub fn configured() -> Seek {
    Seek {
        wanted: Wanted::Configured,
        client_ip: "81.128.157.100".parse().unwrap(),
    }
}

/// What a matchmaker answers to one request.
async fn answer_one(client: &async_nats::Client, requests: &mut async_nats::Subscriber, answers: &[Vec<u8>]) {
    let request = requests.next().await.unwrap();
    for answer in answers {
        let reply = request.reply.clone().unwrap();
        client.publish(reply, answer.clone().into()).await.unwrap();
    }
    client.flush().await.unwrap();
}

fn bytes(texts: &[String]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.clone().into_bytes()).collect()
}

fn forwarded(id: u64, text: &str) -> Event {
    Event::Forwarded(RequestId(id), text.into())
}

#[test]
fn recorded_dialogues_are_forwarded_unchanged_up_to_the_first_empty_message() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&front());
    for (id, case) in [(1, "ws-success"), (2, "ws-edgegap-post-409")] {
        let case = vector(case);
        let request = &case["nats"][0];
        let mut answers = bytes(&recorded_answers(&case));
        // What comes after the end is nobody's.
        answers.push(b"\"Acknowledged\"".to_vec());
        let payload = run(async {
            let client = broker.client().await;
            let subject = request["subject"].as_str().unwrap().to_owned();
            let mut requests = subscribe(&client, &subject).await;
            let mut watch = subscribe(&client, &subject).await;
            ours.front()
                .submit(RequestId(id), seek("bevygap-spaceships", "1"))
                .unwrap();
            answer_one(&client, &mut requests, &answers).await;
            watch.next().await.unwrap().payload
        });
        let recorded: Value = serde_json::from_str(request["payload"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), recorded);
        for answer in recorded_answers(&case).iter().take_while(|answer| !answer.is_empty()) {
            assert_eq!(ours.next(), forwarded(id, answer));
        }
        assert_eq!(ours.next(), Event::End(RequestId(id)));
    }
    // The next event is that of the next request: nothing followed the end.
    ours.front().submit(RequestId(3), seek("nobody", "1")).unwrap();
    assert!(matches!(ours.next(), Event::Failed(RequestId(3), _)));
}

#[test]
fn a_game_that_nobody_serves_fails_with_503() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&front());
    ours.front().submit(RequestId(1), seek("game", "1")).unwrap();
    let Event::Failed(RequestId(1), Failure { code, text }) = ours.next() else {
        panic!("no failure");
    };
    assert_eq!((code, text.as_ref()), (503, "nobody serves this game"));
    ours.front().submit(RequestId(2), configured()).unwrap();
    assert_eq!(ours.next(), outcome(2, 503, "No service responders"));
}

fn outcome(id: u64, status: u16, body: &str) -> Event {
    let body = body.to_owned();
    Event::ForwardedOutcome(RequestId(id), Box::new(Outcome { status, body }))
}

#[test]
fn a_silent_listener_holds_up_nothing_but_the_request_that_it_swallows() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&front());
    run(async {
        let client = broker.client().await;
        let _all = subscribe(&client, "matchmaker.>").await;
        let mut requests = subscribe(&client, "matchmaker.request.game.2").await;
        ours.front().submit(RequestId(1), seek("game", "1")).unwrap();
        ours.front().submit(RequestId(2), seek("game", "2")).unwrap();
        answer_one(&client, &mut requests, &[b"\"Acknowledged\"".to_vec(), Vec::new()]).await;
    });
    assert_eq!(ours.next(), forwarded(2, "\"Acknowledged\""));
    assert_eq!(ours.next(), Event::End(RequestId(2)));
}

#[test]
fn a_cancelled_request_is_told_nothing_more() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&front());
    run(async {
        let client = broker.client().await;
        let mut requests = subscribe(&client, "matchmaker.request.game.*").await;
        ours.front().submit(RequestId(1), seek("game", "1")).unwrap();
        ours.front().cancel(RequestId(1));
        ours.front().submit(RequestId(2), seek("game", "2")).unwrap();
        let first = requests.next().await.unwrap();
        let second = requests.next().await.unwrap();
        for request in [first, second] {
            client.publish(request.reply.unwrap(), "x".into()).await.unwrap();
        }
        client.flush().await.unwrap();
    });
    assert_eq!(ours.next(), forwarded(2, "x"));
}

#[test]
fn frames_that_are_no_text_or_too_long_are_dropped_and_the_others_go_on() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&front());
    let longest = "x".repeat(64 * 1024);
    run(async {
        let client = broker.client().await;
        let mut requests = subscribe(&client, "matchmaker.request.game.1").await;
        ours.front().submit(RequestId(1), seek("game", "1")).unwrap();
        let answers = [
            vec![0xff, 0xfe, 0x00],
            vec![b'y'; 64 * 1024 + 1],
            vec![b'y'; 900_000],
            longest.clone().into_bytes(),
            b"not json".to_vec(),
            Vec::new(),
        ];
        answer_one(&client, &mut requests, &answers).await;
    });
    assert_eq!(ours.next(), forwarded(1, &longest));
    assert_eq!(ours.next(), forwarded(1, "not json"));
    assert_eq!(ours.next(), Event::End(RequestId(1)));
}

#[test]
fn who_knows_one_inbox_cannot_answer_for_another_request() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&front());
    run(async {
        let client = broker.client().await;
        let mut requests = subscribe(&client, "matchmaker.request.game.*").await;
        ours.front().submit(RequestId(1), seek("game", "1")).unwrap();
        ours.front().submit(RequestId(2), seek("game", "2")).unwrap();
        let first = requests.next().await.unwrap().reply.unwrap().to_string();
        let second = requests.next().await.unwrap().reply.unwrap();
        let (prefix, token) = first.rsplit_once('.').unwrap();
        let (_, salt) = token.split_once('-').unwrap();
        for guess in [
            format!("2-{salt}"),
            "2-0".to_owned(),
            "2".to_owned(),
            "-".to_owned(),
            "2-x-y".to_owned(),
        ] {
            client
                .publish(format!("{prefix}.{guess}"), "forged".into())
                .await
                .unwrap();
        }
        client.publish(second, "true".into()).await.unwrap();
        client.flush().await.unwrap();
    });
    assert_eq!(ours.next(), forwarded(2, "true"));
}

/// Asks for the configured game, and answers with these headers and this payload.
fn ask_configured(broker: &Broker, ours: &mut Ours, id: u64, headers: &[(&str, &str)], body: &[u8]) -> Event {
    let payload = run(async {
        let client = broker.client().await;
        let mut requests = subscribe(&client, "session.gensession").await;
        ours.front().submit(RequestId(id), configured()).unwrap();
        let request = requests.next().await.unwrap();
        let reply = request.reply.unwrap();
        let body = body.to_vec().into();
        match headers {
            [] => client.publish(reply, body).await.unwrap(),
            headers => {
                let mut all = async_nats::HeaderMap::new();
                headers.iter().for_each(|(name, value)| all.insert(*name, *value));
                let headers = all;
                client.publish_with_headers(reply, headers, body).await.unwrap();
            }
        }
        client.flush().await.unwrap();
        request.payload
    });
    assert_eq!(payload, r#"{"client_ip":"81.128.157.100"}"#);
    ours.next()
}

#[test]
fn the_service_for_the_configured_game_answers_as_recorded() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&front());
    let (code, text) = ("Nats-Service-Error-Code", "Nats-Service-Error");

    let case = vector("http-wannaplay-success");
    let body = recorded_answers(&case).remove(0);
    assert_eq!(case["response"]["body"], body.as_str());
    assert_eq!(
        ask_configured(&broker, &mut ours, 1, &[], body.as_bytes()),
        outcome(1, 200, &body)
    );

    let case = vector("http-wannaplay-409");
    let recorded = &case["nats"][1]["headers"];
    let headers = [
        (code, recorded[code].as_str().unwrap()),
        (text, recorded[text].as_str().unwrap()),
    ];
    let event = ask_configured(&broker, &mut ours, 2, &headers, b"");
    assert_eq!(event, outcome(2, 409, case["response"]["body"].as_str().unwrap()));

    for (id, status) in [(3, "999"), (4, "200"), (5, "x"), (6, "-1"), (7, "99999999999")] {
        let event = ask_configured(&broker, &mut ours, id, &[(code, status), (text, "odd")], b"");
        assert_eq!(event, outcome(id, 502, "odd"), "{status}");
    }
    for (id, body) in [(8, vec![0xff]), (9, Vec::new()), (10, vec![b'x'; 70_000])] {
        let event = ask_configured(&broker, &mut ours, id, &[], &body);
        assert_eq!(event, outcome(id, 502, "Unusable answer"), "{} bytes", body.len());
    }
}

#[test]
fn while_the_server_is_down_requests_fail_at_once_and_afterwards_they_work_again() {
    let Some(mut broker) = Broker::start() else { return };
    let mut ours = broker.connect(&front());
    run(async {
        let client = broker.client().await;
        let mut requests = subscribe(&client, "matchmaker.request.game.1").await;
        ours.front().submit(RequestId(1), seek("game", "1")).unwrap();
        requests.next().await.unwrap();
    });
    broker.kill();
    ours.until_lost();
    assert_eq!(
        ours.next(),
        Event::Failed(RequestId(1), Failure::UNAVAILABLE),
        "its answers may be lost"
    );
    for id in 2..50 {
        ours.front().submit(RequestId(id), seek("game", "1")).unwrap();
        assert_eq!(ours.next(), Event::Failed(RequestId(id), Failure::UNAVAILABLE));
    }
    broker.run();
    ours.until_connected();
    run(async {
        let client = broker.client().await;
        let mut requests = subscribe(&client, "matchmaker.request.game.1").await;
        ours.front().submit(RequestId(50), seek("game", "1")).unwrap();
        answer_one(&client, &mut requests, &[b"\"Acknowledged\"".to_vec(), Vec::new()]).await;
    });
    assert_eq!(ours.next(), forwarded(50, "\"Acknowledged\""));
    assert_eq!(ours.next(), Event::End(RequestId(50)));
    let good = |event: &Event| matches!(event, Event::Noted(Note::Called { good: true, .. })).then_some(());
    ours.until("the note of a good call", good);
}
