//! The buckets, the stream, the consumer and the service: made as recorded, and left alone when they are there.

use async_nats::jetstream;
use peer_server::message::game_server::{Event, Name, RequestId};
use peer_server::provider::Registry as _;
use peer_server::provider::nats::{Parts, Served};
use peer_server::provider::store::SessionStore as _;
use serde_json::{Value, json};

use crate::back::placement;
use crate::broker::{Broker, run, vector};

/// A back with everything, and a store.
pub fn everything() -> Parts {
    let name = |text| Name::new(text).unwrap();
    Parts {
        front: false,
        back: Some(Served {
            games: vec![(name("bevygap-spaceships"), name("1"))],
            configured: true,
        }),
        store: true,
        ..Parts::default()
    }
}

/// What the server says of everything in the recording.
async fn described(client: &async_nats::Client) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, _) in vector("nats-objects").as_object().unwrap() {
        let ask = |subject: String| async move {
            let answer = client.request(subject, "".into()).await.unwrap();
            serde_json::from_slice::<Value>(&answer.payload).unwrap()
        };
        let value = if let Some(consumer) = name.strip_prefix("consumer ") {
            ask(format!("$JS.API.CONSUMER.INFO.DELETE_SESSION_STREAM.{consumer}")).await
        } else if let Some(subject) = name.strip_prefix("service ") {
            json!({ "config": ask(subject.to_owned()).await })
        } else {
            ask(format!("$JS.API.STREAM.INFO.{name}")).await
        };
        found.push((name.clone(), value));
    }
    found
}

/// The recorded fields of one object differ from the server's answer in these.
fn differences(recorded: &Value, found: &Value) -> Vec<String> {
    let fields = recorded.as_object().unwrap().iter().filter(|(key, _)| *key != "id");
    fields
        .filter(|(key, value)| found["config"].get(key) != Some(value))
        .map(|(key, value)| format!("{key}: recorded {value}, found {:?}", found["config"].get(key)))
        .collect()
}

#[test]
fn everything_is_made_as_recorded_and_a_second_start_changes_nothing() {
    let Some(broker) = Broker::start() else { return };
    let ours = broker.connect(&everything());
    assert_eq!(ours.store.as_ref().unwrap().all(), Ok(Vec::new()));
    let first = run(async { described(&broker.client().await).await });
    let recorded = vector("nats-objects");
    for (name, found) in &first {
        assert_eq!(differences(&recorded[name], found), Vec::<String>::new(), "{name}");
    }
    drop(ours);

    let ours = broker.connect(&everything());
    assert_eq!(ours.store.as_ref().unwrap().all(), Ok(Vec::new()));
    let second = run(async { described(&broker.client().await).await });
    for ((name, first), (_, second)) in first.iter().zip(&second) {
        assert_eq!(first["created"], second["created"], "{name} was made again");
        assert_eq!(differences(&recorded[name], second), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn what_is_there_with_other_settings_is_used_as_it_is() {
    let Some(broker) = Broker::start() else { return };
    let before: Value = run(async {
        let client = broker.client().await;
        let config = json!({
            "name": "KV_sessions_ly2eg", "subjects": ["$KV.sessions_ly2eg.>"], "description": "somebody's own",
            "max_msgs_per_subject": 5, "max_age": 77_000_000_000_u64, "storage": "memory", "retention": "limits",
            "discard": "old", "num_replicas": 1,
        });
        let subject = "$JS.API.STREAM.CREATE.KV_sessions_ly2eg";
        client.request(subject, config.to_string().into()).await.unwrap();
        let answer = client
            .request("$JS.API.STREAM.INFO.KV_sessions_ly2eg", "".into())
            .await
            .unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    });
    let mut ours = broker.connect(&everything());
    let placement = placement("S1", "203.0.113.10:30004");
    ours.back().register(RequestId(7), 42, &placement, false).unwrap();
    assert_eq!(ours.next(), Event::Registered(RequestId(7), None));
    run(async {
        let client = broker.client().await;
        let answer = client
            .request("$JS.API.STREAM.INFO.KV_sessions_ly2eg", "".into())
            .await
            .unwrap();
        let after: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(after["config"], before["config"]);
        assert_eq!(after["created"], before["created"]);
        let bucket = jetstream::new(client).get_key_value("sessions_ly2eg").await.unwrap();
        assert_eq!(bucket.get("42").await.unwrap().unwrap(), "S1");
    });
}

#[test]
fn without_jetstream_nothing_is_registered_and_requests_are_served() {
    let Some(broker) = Broker::start_with(false, None) else {
        return;
    };
    let mut ours = broker.connect(&everything());
    let placement = placement("S1", "203.0.113.10:30004");
    ours.back().register(RequestId(7), 42, &placement, false).unwrap();
    assert_eq!(ours.next(), Event::NotRegistered(RequestId(7)));
    while ours.poll().is_some() {}
    assert!(ours.store.as_ref().unwrap().all().is_err());
    run(async {
        let client = broker.client().await;
        // Nothing says that the server knows of our subscriptions: asked until it does.
        loop {
            let subject = "matchmaker.request.bevygap-spaceships.1";
            let payload = r#"{"client_ip":"192.0.2.1"}"#;
            client
                .publish_with_reply(subject, client.new_inbox(), payload.into())
                .await
                .unwrap();
            client.flush().await.unwrap();
            if let Some(event) = ours.poll() {
                assert!(matches!(event, Event::Asked(1, _) | Event::Noted(_)), "{event:?}");
                if matches!(event, Event::Asked(..)) {
                    break;
                }
            }
        }
    });
}
