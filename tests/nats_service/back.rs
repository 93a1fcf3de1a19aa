//! The back: asked as recorded, by scripted requesters and by our own front; the register.

use async_nats::jetstream;
use futures_util::StreamExt as _;
use peer_server::message::game_server::{
    CertDigest, Event, KeyIndex, Outcome, Placement, RequestId, SessionName, Wanted,
};
use peer_server::provider::nats::Parts;
use peer_server::provider::{Answer, GameServerProvider as _, Registry as _};
use serde_json::Value;

use crate::broker::{Broker, Ours, WITHIN, recorded_answers, run, subscribe, vector};
use crate::front::{configured, front, seek};
use crate::objects::everything;

const SUBJECT: &str = "matchmaker.request.bevygap-spaceships.1";

fn back() -> Parts {
    Parts {
        store: false,
        ..everything()
    }
}

pub fn placement(session: &str, public: &str) -> Placement {
    Placement {
        session: SessionName::new(session).unwrap(),
        public: public.parse().unwrap(),
        internal: Vec::new(),
        cert_digest: None,
        key: KeyIndex(0),
    }
}

fn asked(ours: &mut Ours) -> u64 {
    match ours.next() {
        Event::Asked(remote, asked) => {
            assert_eq!(asked.client_ip.to_string(), "81.128.157.100");
            remote
        }
        other => panic!("{other:?}"),
    }
}

async fn next(answers: &mut async_nats::Subscriber) -> async_nats::Message {
    tokio::time::timeout(WITHIN, answers.next())
        .await
        .expect("an answer")
        .unwrap()
}

#[test]
fn a_recorded_request_gets_its_answers_in_order_and_the_recorded_end() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&back());
    for case in ["ws-success", "ws-edgegap-post-409"] {
        let case = vector(case);
        let recorded = recorded_answers(&case);
        let payload = case["nats"][0]["payload"].as_str().unwrap().to_owned();
        run(async {
            let client = broker.client().await;
            let inbox = client.new_inbox();
            let mut answers = client.subscribe(inbox.clone()).await.unwrap();
            client.publish_with_reply(SUBJECT, inbox, payload.into()).await.unwrap();
            client.flush().await.unwrap();
            let remote = asked(&mut ours);
            for frame in recorded.iter().filter(|frame| !frame.is_empty()) {
                ours.back().answer(remote, Answer::Frame(frame.clone()));
            }
            ours.back().answer(remote, Answer::End);
            // It is over: this goes to nobody.
            ours.back().answer(remote, Answer::Frame("late".to_owned()));
            for frame in &recorded {
                assert_eq!(next(&mut answers).await.payload, frame.as_bytes());
            }
        });
    }
}

#[test]
fn what_is_no_request_is_answered_with_an_error_and_asks_nobody() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&back());
    run(async {
        let client = broker.client().await;
        for payload in [
            "",
            "x",
            "{}",
            r#"{"client_ip":"a"b"}"#,
            r#"{"client_ip":"not-an-ip"}"#,
            r#"{"client_ip":7}"#,
        ] {
            let inbox = client.new_inbox();
            let mut answers = client.subscribe(inbox.clone()).await.unwrap();
            client.publish_with_reply(SUBJECT, inbox, payload.into()).await.unwrap();
            client.flush().await.unwrap();
            assert_eq!(
                next(&mut answers).await.payload,
                r#"{"Error":[400,"invalid session request"]}"#,
                "{payload}"
            );
            assert_eq!(next(&mut answers).await.payload, "");
        }
        // Answers would be written to the register, or delete a session.
        let good = r#"{"client_ip":"81.128.157.100"}"#;
        for reply in ["$KV.cert_digests.203.0.113.10", "edgegap_delete_session_q.S1"] {
            client.publish_with_reply(SUBJECT, reply, good.into()).await.unwrap();
        }
        client.publish(SUBJECT, good.into()).await.unwrap();
        client
            .publish_with_reply(SUBJECT, client.new_inbox(), good.into())
            .await
            .unwrap();
        client.flush().await.unwrap();
    });
    assert_eq!(asked(&mut ours), 1, "the only one that could be answered");
}

#[test]
fn no_more_requests_wait_than_the_desk_has_room_for() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&Parts {
        waiting_max: 1,
        ..back()
    });
    run(async {
        let client = broker.client().await;
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.unwrap();
        let payload = r#"{"client_ip":"81.128.157.100"}"#;
        for _ in 0..2 {
            let sent = client.publish_with_reply(SUBJECT, inbox.clone(), payload.into());
            sent.await.unwrap();
        }
        client.flush().await.unwrap();
        assert_eq!(
            next(&mut answers).await.payload,
            r#"{"Error":[429,"too many requests"]}"#
        );
        assert_eq!(next(&mut answers).await.payload, "");
        let first = asked(&mut ours);
        ours.back().answer(first, Answer::End);
        assert_eq!(next(&mut answers).await.payload, "");
        let sent = client.publish_with_reply(SUBJECT, inbox.clone(), payload.into());
        sent.await.unwrap();
        client.flush().await.unwrap();
        assert_ne!(asked(&mut ours), first);
    });
}

#[test]
fn the_service_answers_in_one_piece_or_by_its_error_headers() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&back());
    run(async {
        let client = broker.client().await;
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.unwrap();
        let payload = r#"{"client_ip":"81.128.157.100"}"#;
        let cases = [
            (Answer::Outcome(outcome(200, "{}")), "{}", None),
            (
                Answer::Outcome(outcome(409, "mock failure")),
                "",
                Some(("409", "mock failure")),
            ),
            (Answer::Outcome(outcome(503, "a\r\nX: y")), "", Some(("503", "a  X: y"))),
            (Answer::End, "", Some(("500", "internal error"))),
        ];
        for (answer, body, headers) in cases {
            client
                .publish_with_reply("session.gensession", inbox.clone(), payload.into())
                .await
                .unwrap();
            client.flush().await.unwrap();
            let remote = asked(&mut ours);
            ours.back().answer(remote, answer);
            let answer = next(&mut answers).await;
            assert_eq!(answer.payload, body);
            let found = answer.headers.map(|headers| {
                let header = |name: &str| headers.get(name).unwrap().as_str().to_owned();
                (header("Nats-Service-Error-Code"), header("Nats-Service-Error"))
            });
            assert_eq!(found, headers.map(|(code, text)| (code.to_owned(), text.to_owned())));
        }
        for verb in ["PING", "INFO", "STATS"] {
            let answer = client
                .request(format!("$SRV.{verb}.gensession"), "".into())
                .await
                .unwrap();
            let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
            assert_eq!(
                (&answer["name"], &answer["version"]),
                (&"gensession".into(), &"0.0.1".into())
            );
            if verb == "STATS" {
                assert_eq!(answer["endpoints"][0]["num_requests"], 4);
                assert_eq!(answer["endpoints"][0]["num_errors"], 3);
            }
        }
    });
}

fn outcome(status: u16, body: &str) -> Outcome {
    let body = body.to_owned();
    Outcome { status, body }
}

#[test]
fn of_two_backs_one_gets_each_request() {
    let Some(broker) = Broker::start() else { return };
    let mut both = [broker.connect(&back()), broker.connect(&back())];
    run(async {
        let client = broker.client().await;
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.unwrap();
        for _ in 0..40 {
            let payload = r#"{"client_ip":"81.128.157.100"}"#;
            client
                .publish_with_reply(SUBJECT, inbox.clone(), payload.into())
                .await
                .unwrap();
        }
        client.flush().await.unwrap();
        let mut ended = 0;
        while ended < 40 {
            for ours in &mut both {
                while let Some(event) = ours.poll() {
                    if let Event::Asked(remote, _) = event {
                        ours.back().answer(remote, Answer::End);
                    }
                }
            }
            let answer = tokio::time::timeout(std::time::Duration::from_millis(10), answers.next()).await;
            ended += usize::from(answer.is_ok());
        }
        for ours in &mut both {
            assert!(!std::iter::from_fn(|| ours.poll()).any(|event| matches!(event, Event::Asked(..))));
        }
    });
}

#[test]
fn our_front_and_our_back_understand_each_other() {
    let Some(broker) = Broker::start() else { return };
    let (mut web, mut matchmaker) = (broker.connect(&front()), broker.connect(&back()));
    web.front()
        .submit(RequestId(1), seek("bevygap-spaceships", "1"))
        .unwrap();
    let remote = asked(&mut matchmaker);
    let case = vector("ws-success");
    let frames: Vec<String> = recorded_answers(&case)
        .into_iter()
        .filter(|frame| !frame.is_empty())
        .collect();
    for frame in &frames {
        matchmaker.back().answer(remote, Answer::Frame(frame.clone()));
    }
    matchmaker.back().answer(remote, Answer::End);
    for frame in &frames {
        assert_eq!(web.next(), Event::Forwarded(RequestId(1), frame.as_str().into()));
    }
    assert_eq!(web.next(), Event::End(RequestId(1)));

    web.front().submit(RequestId(2), configured()).unwrap();
    let Event::Asked(remote, asked) = matchmaker.next() else {
        panic!()
    };
    assert_eq!(asked.wanted, Wanted::Configured);
    matchmaker
        .back()
        .answer(remote, Answer::Outcome(outcome(503, "no server available")));
    let outcome = outcome(503, "no server available");
    assert_eq!(web.next(), Event::ForwardedOutcome(RequestId(2), Box::new(outcome)));

    // One that stops tells those who wait.
    web.front()
        .submit(RequestId(3), seek("bevygap-spaceships", "1"))
        .unwrap();
    matchmaker.until("the request", |event| matches!(event, Event::Asked(..)).then_some(()));
    matchmaker.stop();
    let text = r#"{"Error":[503,"provider unavailable"]}"#;
    assert_eq!(web.next(), Event::Forwarded(RequestId(3), text.into()));
    assert_eq!(web.next(), Event::End(RequestId(3)));
}

#[test]
fn both_ways_are_on_the_register_before_it_says_so() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&back());
    run(async {
        let client = broker.client().await;
        let mut written = subscribe(&client, "$KV.*.>").await;
        client.flush().await.unwrap();
        let client_id = 12_243_326_217_776_670_487;
        let placement = placement("000000000001-S", "203.0.113.10:30004");
        ours.back()
            .register(RequestId(1), client_id, &placement, false)
            .unwrap();
        assert_eq!(ours.next(), Event::Registered(RequestId(1), None));
        let context = jetstream::new(client);
        for (bucket, key, value) in [
            ("sessions_ly2eg", "12243326217776670487", "000000000001-S"),
            ("sessions_eg2ly", "000000000001-S", "12243326217776670487"),
        ] {
            let bucket = context.get_key_value(bucket).await.unwrap();
            assert_eq!(bucket.get(key).await.unwrap().unwrap(), value);
            let message = next(&mut written).await;
            assert_eq!(
                message.subject.as_str(),
                format!("$KV.{}.{key}", bucket.name),
                "the recorded order"
            );
        }
    });
}

#[test]
fn the_digest_is_looked_up_by_the_servers_address() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&back());
    let digest = "e3:76:4d:86:6c:11:d1:96:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77";
    let known = CertDigest::parse(digest);
    assert!(known.is_some());
    // The buckets are there as soon as something was registered.
    ours.back()
        .register(RequestId(0), 1, &placement("S", "203.0.113.9:1"), true)
        .unwrap();
    assert_eq!(ours.next(), Event::Registered(RequestId(0), None));
    run(async {
        let bucket = jetstream::new(broker.client().await)
            .get_key_value("cert_digests")
            .await
            .unwrap();
        bucket.put("203.0.113.10", digest.into()).await.unwrap();
        bucket.put("2001-db8--1", digest.to_uppercase().into()).await.unwrap();
        bucket.put("203.0.113.12", "no digest".into()).await.unwrap();
    });
    for (id, public, wants, expected) in [
        (1, "203.0.113.10:30004", true, known),
        (2, "203.0.113.10:30004", false, None),
        (3, "[2001:db8::1]:30004", true, known),
        (4, "203.0.113.11:30004", true, None),
        (5, "203.0.113.12:30004", true, None),
    ] {
        ours.back()
            .register(RequestId(id), id, &placement("S", public), wants)
            .unwrap();
        assert_eq!(ours.next(), Event::Registered(RequestId(id), expected), "{public}");
    }
}

#[test]
fn nothing_is_registered_while_the_server_is_down() {
    let Some(mut broker) = Broker::start() else { return };
    let mut ours = broker.connect(&back());
    broker.kill();
    ours.until_lost();
    ours.back()
        .register(RequestId(1), 1, &placement("S", "203.0.113.9:1"), true)
        .unwrap();
    assert_eq!(ours.next(), Event::NotRegistered(RequestId(1)));
    broker.run();
    ours.until_connected();
    ours.back()
        .register(RequestId(2), 1, &placement("S", "203.0.113.9:1"), true)
        .unwrap();
    assert_eq!(ours.next(), Event::Registered(RequestId(2), None));
}
