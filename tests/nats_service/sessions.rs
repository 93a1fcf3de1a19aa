//! The life of a session as the recordings have it: on record, claimed, ended, deleted.

use async_nats::jetstream;
use futures_util::StreamExt as _;
use peer_server::message::game_server::{Event, SessionName};
use peer_server::provider::nats::Parts;
use peer_server::provider::store::SessionStore as _;
use serde_json::Value;

use crate::broker::{Broker, Ours, run, subscribe, vector, wait_for};
use crate::objects::everything;

fn name(text: &str) -> SessionName {
    SessionName::new(text).unwrap()
}

fn claimed(ours: &mut Ours, session: &str) {
    ours.until("the claim", |event| {
        (*event == Event::Claimed(name(session))).then_some(())
    });
}

fn ended(ours: &mut Ours, session: &str) {
    ours.until("the end", |event| (*event == Event::Ended(name(session))).then_some(()));
}

/// What is on record: session, and whether it is claimed.
fn on_record(ours: &Ours) -> Vec<(String, bool)> {
    let all = ours.store.as_ref().unwrap().all().unwrap();
    all.iter()
        .map(|stored| (stored.session.to_string(), stored.claimed))
        .collect()
}

/// Messages in a stream, and orders that are not acknowledged.
fn figures(broker: &Broker, stream: &str) -> (u64, u64) {
    run(async {
        let client = broker.client().await;
        let ask = |subject: String| {
            let client = client.clone();
            async move {
                let answer = client.request(subject, "".into()).await.unwrap();
                serde_json::from_slice::<Value>(&answer.payload).unwrap()
            }
        };
        let messages = ask(format!("$JS.API.STREAM.INFO.{stream}")).await["state"]["messages"].as_u64();
        let consumer = ask("$JS.API.CONSUMER.INFO.DELETE_SESSION_STREAM.api-deleter-1".to_owned()).await;
        (messages.unwrap(), consumer["num_ack_pending"].as_u64().unwrap())
    })
}

fn active(broker: &Broker, session: &str, is_active: bool) {
    run(async {
        let context = jetstream::new(broker.client().await);
        let bucket = context.get_key_value("active_connections").await.unwrap();
        match is_active {
            true => drop(bucket.put(session, "12345".into()).await.unwrap()),
            false => bucket.delete(session).await.unwrap(),
        }
    });
}

/// Has a session deleted, as anybody may.
fn order(broker: &Broker, session: &str) {
    run(async {
        let context = jetstream::new(broker.client().await);
        let sent = context.publish(format!("edgegap_delete_session_q.{session}"), session.to_owned().into());
        sent.await.unwrap().await.unwrap();
    });
}

#[test]
fn a_claimed_session_goes_the_recorded_way() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&everything());
    let session = "000000000001-S";
    let store = ours.store.clone().unwrap();
    assert_eq!(on_record(&ours), []);
    let seen = run(async {
        let client = broker.client().await;
        let mut all = subscribe(&client, ">").await;
        client.flush().await.unwrap();
        let (broker, ours) = (&broker, &mut ours);
        // The store waits for the other thread, this one for the broker: no deadlock.
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    store.created(&name(session)).unwrap();
                    assert_eq!(on_record(ours), [(session.to_owned(), false)]);
                    active(broker, session, true);
                    claimed(ours, session);
                    wait_for("the claim on record", || {
                        (on_record(ours) == [(session.to_owned(), true)]).then_some(())
                    });
                    active(broker, session, false);
                    ended(ours, session);
                    ended(ours, session);
                })
                .join()
                .unwrap();
        });
        let mut seen = Vec::new();
        while let Ok(Some(message)) = tokio::time::timeout(std::time::Duration::from_millis(200), all.next()).await {
            let subject = message.subject.to_string();
            let ours = ["$KV.", "edgegap_"].iter().any(|prefix| subject.starts_with(prefix));
            let deletes = message
                .headers
                .as_ref()
                .is_some_and(|headers| headers.get("KV-Operation").is_some());
            // A consumer delivers under the same subject, with a reply of its own.
            let is_delivery = message.reply.as_ref().is_some_and(|reply| reply.starts_with("$JS.ACK"));
            if ours && !is_delivery {
                seen.push((subject, deletes));
            }
        }
        seen
    });
    let recorded: Vec<(String, bool)> = vector("lifecycle-claimed")["nats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            (
                message["subject"].as_str().unwrap().to_owned(),
                message["headers"].is_object(),
            )
        })
        .filter(|(subject, _)| !subject.starts_with("$KV.sessions_") && !subject.starts_with("INBOX"))
        .filter(|(subject, _)| !subject.starts_with("matchmaker."))
        .collect();
    // The recorded service writes the entry at every poll; once is enough.
    let mut once = recorded.clone();
    once.dedup();
    assert_eq!(seen, once);

    assert_eq!(
        figures(&broker, "DELETE_SESSION_STREAM"),
        (1, 1),
        "not acknowledged before it is done"
    );
    store.deleted(&name(session)).unwrap();
    wait_for("the acknowledgement", || {
        (figures(&broker, "DELETE_SESSION_STREAM") == (0, 0)).then_some(())
    });
    assert_eq!(on_record(&ours), []);
    for bucket in ["KV_active_connections", "KV_unclaimed_sessions"] {
        wait_for("no marker is left", || (figures(&broker, bucket).0 == 0).then_some(()));
    }
}

#[test]
fn an_unclaimed_session_leaves_the_record_when_it_is_deleted() {
    let Some(broker) = Broker::start() else { return };
    let ours = broker.connect(&everything());
    let store = ours.store.clone().unwrap();
    let before = std::time::SystemTime::now() - std::time::Duration::from_secs(5);
    store.created(&name("A")).unwrap();
    store.created(&name("B")).unwrap();
    let all = store.all().unwrap();
    assert!(all.iter().all(|stored| stored.since > before && !stored.claimed));
    store.deleted(&name("A")).unwrap();
    assert_eq!(on_record(&ours), [("B".to_owned(), false)]);
    store.claimed(&name("B")).unwrap();
    assert_eq!(on_record(&ours), [("B".to_owned(), true)]);
    // Nothing of it is there: deleting once more does no harm.
    store.deleted(&name("A")).unwrap();
    assert_eq!(figures(&broker, "KV_unclaimed_sessions").0, 0);
}

#[test]
fn a_claim_that_only_we_know_of_is_on_record_until_the_session_is_deleted() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&everything());
    let store = ours.store.clone().unwrap();
    store.created(&name("A")).unwrap();
    store.claimed(&name("A")).unwrap();
    assert_eq!(on_record(&ours), [("A".to_owned(), true)]);
    assert_eq!(figures(&broker, "KV_unclaimed_sessions").0, 0);
    store.claimed(&name("A")).unwrap();
    assert_eq!(on_record(&ours), [("A".to_owned(), true)]);
    claimed(&mut ours, "A");

    store.deleted(&name("A")).unwrap();
    // A claim that comes late brings nothing back.
    store.claimed(&name("A")).unwrap();
    assert_eq!(on_record(&ours), []);
    assert_eq!(figures(&broker, "DELETE_SESSION_STREAM"), (0, 0));
}

#[test]
fn what_happened_while_nobody_watched_is_told_at_the_start() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&everything());
    let store = ours.store.clone().unwrap();
    for session in ["came", "left", "waits"] {
        store.created(&name(session)).unwrap();
    }
    active(&broker, "left", true);
    claimed(&mut ours, "left");
    wait_for("the record", || {
        (figures(&broker, "KV_unclaimed_sessions").0 == 2).then_some(())
    });
    ours.stop();
    drop((ours, store));

    active(&broker, "came", true);
    active(&broker, "left", false);
    let mut ours = broker.connect(&everything());
    claimed(&mut ours, "came");
    ended(&mut ours, "left");
    wait_for("the record", || {
        let expected = [("came".to_owned(), true), ("waits".to_owned(), false)];
        (on_record(&ours) == expected).then_some(())
    });
    let Some(store) = ours.store.clone() else { panic!() };
    ended(&mut ours, "left");
    store.deleted(&name("left")).unwrap();
    wait_for("the acknowledgement", || {
        (figures(&broker, "DELETE_SESSION_STREAM") == (0, 0)).then_some(())
    });
}

#[test]
fn the_watch_goes_on_after_the_server_was_away_and_tells_nothing_twice() {
    let Some(mut broker) = Broker::start() else { return };
    let mut ours = broker.connect(&everything());
    assert_eq!(on_record(&ours), []);
    active(&broker, "first", true);
    claimed(&mut ours, "first");
    // The first is dealt with when the next is told.
    active(&broker, "next", true);
    claimed(&mut ours, "next");
    broker.kill();
    ours.until_lost();
    broker.run();
    ours.until_connected();
    assert_eq!(
        on_record(&ours),
        [("first".to_owned(), true), ("next".to_owned(), true)]
    );
    active(&broker, "second", true);
    ours.passed.clear();
    claimed(&mut ours, "second");
    assert!(!ours.passed.contains(&Event::Claimed(name("first"))));
}

#[test]
fn anybodys_order_to_delete_is_told_and_kept_until_it_is_done() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&everything());
    assert_eq!(on_record(&ours), []);
    run(async {
        let client = broker.client().await;
        client
            .publish("edgegap_delete_session_q.no%session", "x".into())
            .await
            .unwrap();
        client
            .publish("edgegap_delete_session_q.S-1", "S-1".into())
            .await
            .unwrap();
        client.flush().await.unwrap();
    });
    ended(&mut ours, "S-1");
    wait_for("the first is dropped", || {
        (figures(&broker, "DELETE_SESSION_STREAM") == (1, 1)).then_some(())
    });
    ours.store.as_ref().unwrap().deleted(&name("S-1")).unwrap();
    wait_for("the acknowledgement", || {
        (figures(&broker, "DELETE_SESSION_STREAM") == (0, 0)).then_some(())
    });
    // Another order for it, such as that of a second matchmaker, is done already.
    order(&broker, "S-1");
    wait_for("the acknowledgement", || {
        (figures(&broker, "DELETE_SESSION_STREAM") == (0, 0)).then_some(())
    });
}

#[test]
fn a_session_on_a_configured_server_is_over_without_an_order_to_delete_it() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = broker.connect(&everything());
    assert_eq!(on_record(&ours), []);
    let session = SessionName::of_configured(0xc1).to_string();
    active(&broker, &session, true);
    claimed(&mut ours, &session);
    active(&broker, &session, false);
    ended(&mut ours, &session);
    wait_for("no marker is left", || {
        (figures(&broker, "KV_active_connections").0 == 0).then_some(())
    });
    assert_eq!(figures(&broker, "DELETE_SESSION_STREAM"), (0, 0));
    // Another matchmaker's order for it is told, and done by that.
    order(&broker, &session);
    ended(&mut ours, &session);
    wait_for("the acknowledgement", || {
        (figures(&broker, "DELETE_SESSION_STREAM") == (0, 0)).then_some(())
    });
}

#[test]
fn without_a_store_others_sessions_and_the_orders_to_delete_them_are_left_alone() {
    let Some(broker) = Broker::start() else { return };
    let without = Parts {
        store: false,
        ..everything()
    };
    let mut guest = broker.connect(&without);
    let mut ours = broker.connect(&everything());
    for session in ["left", "waits"] {
        ours.store.as_ref().unwrap().created(&name(session)).unwrap();
    }
    ours.stop();
    drop(ours);

    // While the one that made them is away, the other sees it all.
    let of_guest = SessionName::of_configured(1).to_string();
    order(&broker, "ordered");
    for session in ["left", &of_guest] {
        active(&broker, session, true);
        claimed(&mut guest, session);
        active(&broker, session, false);
        ended(&mut guest, session);
    }
    wait_for("its own session's marker is gone", || {
        (figures(&broker, "KV_active_connections").0 == 1).then_some(())
    });
    assert_eq!(figures(&broker, "DELETE_SESSION_STREAM"), (1, 0));
    assert_eq!(figures(&broker, "KV_unclaimed_sessions").0, 2);

    let mut ours = broker.connect(&everything());
    let mut missing = vec!["left", "ordered"];
    ours.until("both ends", |event| {
        missing.retain(|session| *event != Event::Ended(name(session)));
        missing.is_empty().then_some(())
    });
    for session in ["left", "ordered"] {
        ours.store.as_ref().unwrap().deleted(&name(session)).unwrap();
    }
    wait_for("the acknowledgements", || {
        (figures(&broker, "DELETE_SESSION_STREAM") == (0, 0)).then_some(())
    });
    assert_eq!(on_record(&ours), [("waits".to_owned(), false)]);
}
