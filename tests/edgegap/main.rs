//! Edgegap's provider against a mock of the cloud, over loopback: every way in which the cloud fails, and after each of them
//! nothing is left there.
//!
//! Owns: the scenes. Never: reaches beyond this machine.
#![allow(clippy::unwrap_used)]

mod cloud;
#[path = "../support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use cloud::{Cloud, KEY, Provider, settings};
use peer_server::message::game_server::{CertDigest, Event, Failure, Note, SessionName};
use peer_server::provider::GameServerProvider as _;
use peer_server::provider::edgegap::{Edgegap, Mode, Settings};
use peer_server::provider::store::SessionStore as _;
use serde_json::json;
use support::Certificate;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_session_is_created_polled_given_claimed_and_deleted() {
    let cloud = Cloud::start(&["--ready-after", "1"]);
    let folder = folder();
    let cert_digest = CertDigest::parse(&"e3".repeat(32));
    let settings = Settings {
        cert_digest,
        ..settings(&cloud)
    };
    assert!(!format!("{settings:?}").contains(KEY));
    let mut provider = Provider::start(settings, &folder);
    let id = provider.seek();
    let session = provider.accepted();
    assert_eq!(provider.store.all().unwrap()[0].session, session);
    assert_eq!(provider.event(), Event::Progress(id, "Seeking (1)".into()));
    assert_eq!(provider.event(), Event::Progress(id, "Ready (2)".into()));
    let Event::Ready(ready, placement) = provider.event() else {
        panic!()
    };
    assert_eq!((ready, &placement.session), (id, &session));
    assert_eq!(placement.public, "203.0.113.10:30004".parse().unwrap());
    assert_eq!(
        (placement.cert_digest, placement.internal.len(), placement.key.0),
        (cert_digest, 0, 0)
    );
    assert!(!format!("{:?}", provider.edgegap).contains(KEY));

    provider.edgegap.claimed(&session);
    let store = provider.store.clone();
    cloud.until("the claim is on record", |_| store.all().unwrap()[0].claimed);
    // A request that is over cannot be taken back any more.
    provider.edgegap.cancel(id);
    provider.edgegap.released(&session);
    provider.until_noted(Note::Deleted);
    provider.until_nothing_left(&cloud);
    assert!(provider.notes.contains(&Note::Created) && !provider.notes.contains(&Note::Unclaimed));

    let state = cloud.state();
    let requests = state["requests"].as_array().unwrap();
    assert!(
        requests
            .iter()
            .all(|request| request["headers"]["authorization"] == KEY)
    );
    let created = requests.iter().find(|request| request["method"] == "POST").unwrap();
    let body = json!({"app_name": "bevygap-spaceships", "version_name": "1", "ip_list": ["198.51.100.7"]});
    assert_eq!((&created["path"], &created["body"]), (&json!("/v1/session"), &body));
    assert_eq!(created["headers"]["content-type"], "application/json");
    assert_eq!(cloud.count("GET", "/v1/app/bevygap-spaceships/version/1"), 1);
}

#[test]
fn players_share_a_deployment_and_the_last_one_to_leave_ends_it() {
    let cloud = Cloud::start(&["--ready-after", "1"]);
    let folder = folder();
    let mut provider = Provider::start(
        Settings {
            mode: Mode::Deployment,
            max_players: 2,
            claim_timeout: millis(1500),
            ..settings(&cloud)
        },
        &folder,
    );
    let (first, second) = (provider.seek(), provider.seek());
    let mut ready = Vec::new();
    while ready.len() < 2 {
        match provider.event() {
            Event::Ready(id, placement) => ready.push((id, placement.session.clone())),
            Event::Accepted(..) | Event::Progress(..) => {}
            other => panic!("{other:?}"),
        }
    }
    let deployment = cloud.undeleted();
    assert_eq!(deployment.len(), 1);
    let seat = |number: u32| SessionName::new(&format!("{}-{number}", deployment[0])).unwrap();
    assert_eq!(ready, [(first, seat(0)), (second, seat(1))]);
    provider.edgegap.claimed(&seat(0));
    // The other one never comes.
    assert_eq!(provider.event(), Event::Ended(seat(1)));
    assert!(provider.notes.contains(&Note::Unclaimed));
    let third = provider.seek();
    assert_eq!(provider.event(), Event::Accepted(third, seat(2)));
    assert_eq!(provider.end().unwrap().session, seat(2));
    provider.edgegap.cancel(third);
    assert_eq!(cloud.undeleted().len(), 1);
    provider.edgegap.released(&seat(0));
    provider.until_noted(Note::Deleted);
    provider.until_nothing_left(&cloud);
    assert_eq!(
        (
            cloud.count("POST", "/v2/deployments"),
            cloud.count("DELETE", "/v1/stop/")
        ),
        (1, 1)
    );
}

#[test]
fn over_tls_only_a_known_authority_is_believed() {
    let certificate = Certificate::generate();
    let (chain, key) = (certificate.chain(), certificate.key());
    let files = ["--cert", chain.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let cloud = Cloud::start(&[&files[..], &["--ready-after", "0"]].concat());
    assert!(cloud.url.starts_with("https://"));
    let folders = (folder(), folder());
    let mut provider = Provider::start(settings(&cloud), &folders.0);
    provider.seek();
    assert_eq!(provider.end(), Err(Failure::UNAVAILABLE));
    let ca = Some(std::fs::read_to_string(&chain).unwrap());
    let mut provider = Provider::start(Settings { ca, ..settings(&cloud) }, &folders.1);
    let id = provider.seek();
    provider.end().unwrap();
    provider.edgegap.cancel(id);
    provider.until_nothing_left(&cloud);
    assert_eq!(cloud.count("POST", "/v1/session"), 1);
}

#[test]
fn a_session_that_is_never_ready_is_deleted_at_the_limit() {
    let cloud = Cloud::start(&["--never-ready"]);
    let folder = folder();
    let mut provider = Provider::start(
        Settings {
            ready_timeout: millis(700),
            ..settings(&cloud)
        },
        &folder,
    );
    provider.seek();
    assert_eq!(provider.end(), Err(Failure::TIMED_OUT));
    provider.until_nothing_left(&cloud);
}

#[test]
fn refusals_are_told_as_received_and_failures_as_unavailable() {
    let cloud = Cloud::start(&["--fail-message", "https://inside.example/ token test-key"]);
    let folder = folder();
    let mut provider = Provider::start(
        Settings {
            // Less than the second that its 429 asks for.
            ready_timeout: millis(800),
            ..settings(&cloud)
        },
        &folder,
    );
    for (status, code) in [
        (400, 400),
        (401, 401),
        (403, 403),
        (404, 404),
        (409, 409),
        (418, 500),
        (422, 422),
        (500, 503),
        (503, 503),
        (504, 504),
        // The last, because it holds back what follows.
        (429, 429),
    ] {
        cloud.config(&json!({"fail_post": status}));
        provider.seek();
        let failure = provider.end().unwrap_err();
        assert_eq!(failure.code, code, "for {status}");
        assert!(
            !failure.text.contains("inside") && !failure.text.contains("token"),
            "{failure:?}"
        );
    }
    assert_eq!(cloud.count("POST", "/v1/session"), 11, "none was repeated");
    provider.until_nothing_left(&cloud);
}

#[test]
fn a_creation_that_was_put_off_is_asked_for_again_when_the_provider_says() {
    let cloud = Cloud::start(&["--fail-post", "429", "--ready-after", "0"]);
    let folder = folder();
    let mut provider = Provider::start(settings(&cloud), &folder);
    let started = Instant::now();
    let id = provider.seek();
    cloud.until("it was refused", |cloud| cloud.count("POST", "/v1/session") == 1);
    cloud.config(&json!({"fail_post": 0}));
    provider.end().unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1), "Retry-After was a second");
    provider.edgegap.cancel(id);
    provider.until_nothing_left(&cloud);
}

#[test]
fn a_look_that_fails_is_repeated_three_times() {
    let cloud = Cloud::start(&["--never-ready", "--fail-get", "500", "--fail-get-after", "1"]);
    let folder = folder();
    let mut provider = Provider::start(settings(&cloud), &folder);
    let id = provider.seek();
    provider.accepted();
    assert_eq!(provider.event(), Event::Progress(id, "Seeking (1)".into()));
    assert_eq!(provider.event(), Event::Failed(id, Failure::UNAVAILABLE));
    provider.until_nothing_left(&cloud);
    assert_eq!(cloud.count("GET", "/v1/session/"), 5);
}

#[test]
fn dropped_connections_lose_no_session() {
    let cloud = Cloud::start(&["--drop"]);
    let folder = folder();
    let mut provider = Provider::start(settings(&cloud), &folder);
    provider.seek();
    assert_eq!(provider.end(), Err(Failure::UNAVAILABLE));
    assert_eq!(
        cloud.count("POST", "/v1/session"),
        1,
        "what may have been done is not asked again"
    );
    cloud.config(&json!({"drop": false, "never_ready": true}));
    provider.seek();
    provider.accepted();
    cloud.config(&json!({"drop": true}));
    assert_eq!(provider.end(), Err(Failure::UNAVAILABLE));
    assert_eq!(cloud.undeleted().len(), 1);
    assert_eq!(provider.store.all().unwrap().len(), 1);
    cloud.config(&json!({"drop": false}));
    provider.until_nothing_left(&cloud);
}

#[test]
fn answers_that_are_none_end_in_an_internal_error() {
    let cloud = Cloud::start(&["--never-ready"]);
    let folder = folder();
    let mut provider = Provider::start(settings(&cloud), &folder);
    provider.seek();
    provider.accepted();
    cloud.config(&json!({"bad_json": true}));
    assert_eq!(provider.end().unwrap_err().code, 500);
    provider.until_nothing_left(&cloud);
    // Of this one nobody was told the name.
    provider.seek();
    assert_eq!(provider.end().unwrap_err().code, 500);
    assert!(provider.store.all().unwrap().is_empty());
}

#[test]
fn a_server_without_an_address_is_no_server() {
    for option in ["--no-deployment", "--no-ports"] {
        let cloud = Cloud::start(&[option, "--ready-after", "0"]);
        let folder = folder();
        let mut provider = Provider::start(settings(&cloud), &folder);
        provider.seek();
        assert_eq!(provider.end(), Err(Failure::new(500, "server has no address")));
        provider.until_nothing_left(&cloud);
    }
}

#[test]
fn a_session_that_fails_is_over_at_once() {
    for mode in [Mode::Session, Mode::Deployment] {
        let cloud = Cloud::start(&["--error-after", "2"]);
        let folder = folder();
        let mut provider = Provider::start(
            Settings {
                mode,
                ..settings(&cloud)
            },
            &folder,
        );
        let id = provider.seek();
        provider.accepted();
        assert_eq!(provider.event(), Event::Progress(id, "Seeking (1)".into()));
        assert_eq!(provider.event(), Event::Progress(id, "Error (2)".into()));
        assert_eq!(provider.event(), Event::Failed(id, Failure::new(503, "session failed")));
        provider.until_nothing_left(&cloud);
    }
}

#[test]
fn a_late_answer_to_a_creation_is_deleted() {
    let cloud = Cloud::start(&["--latency-ms", "900"]);
    let folder = folder();
    let mut provider = Provider::start(
        Settings {
            call_timeout: millis(500),
            ..settings(&cloud)
        },
        &folder,
    );
    provider.seek();
    assert_eq!(provider.end().unwrap_err().code, 504);
    provider.until_noted(Note::Created);
    cloud.until("it is deleted", |cloud| cloud.undeleted().is_empty());
    // The provider's own word for it comes too late as well, and is asked for until it is there.
    cloud.config(&json!({"latency_ms": 0}));
    provider.until_noted(Note::Deleted);
    provider.until_nothing_left(&cloud);
}

#[test]
fn a_request_that_is_cancelled_leaves_nothing_in_any_phase() {
    let cloud = Cloud::start(&["--ready-after", "0"]);
    let folder = folder();
    let mut provider = Provider::start(settings(&cloud), &folder);
    // Before anything was done.
    let id = provider.seek();
    provider.edgegap.cancel(id);
    // While it is created.
    cloud.config(&json!({"latency_ms": 200}));
    let created = cloud.count("POST", "/v1/session");
    let id = provider.seek();
    cloud.until("it is being created", |cloud| {
        cloud.count("POST", "/v1/session") > created
    });
    provider.edgegap.cancel(id);
    cloud.config(&json!({"latency_ms": 0}));
    provider.until_noted(Note::Deleted);
    // While it is polled.
    cloud.config(&json!({"never_ready": true}));
    let id = provider.seek();
    provider.accepted();
    provider.edgegap.cancel(id);
    // When it is ready.
    cloud.config(&json!({"never_ready": false}));
    let id = provider.seek();
    provider.end().unwrap();
    provider.edgegap.cancel(id);
    provider.until_nothing_left(&cloud);
    assert!(!provider.notes.contains(&Note::Unclaimed));
}

#[test]
fn who_does_not_come_has_no_session_any_more() {
    let cloud = Cloud::start(&["--ready-after", "0"]);
    let folder = folder();
    let mut provider = Provider::start(
        Settings {
            claim_timeout: millis(200),
            ..settings(&cloud)
        },
        &folder,
    );
    provider.seek();
    let session = provider.end().unwrap().session;
    assert_eq!(provider.event(), Event::Ended(session));
    assert!(provider.notes.contains(&Note::Unclaimed));
    provider.until_nothing_left(&cloud);
}

#[test]
fn the_next_process_takes_up_what_is_on_record() {
    let cloud = Cloud::start(&["--ready-after", "0"]);
    let folder = folder();
    let mut provider = Provider::start(settings(&cloud), &folder);
    let sessions: Vec<SessionName> = (0..3)
        .map(|_| {
            provider.seek();
            provider.end().unwrap().session
        })
        .collect();
    let [unclaimed, claimed, ended] = &sessions[..] else {
        panic!()
    };
    provider.edgegap.claimed(claimed);
    provider.edgegap.claimed(ended);
    let store = provider.store.clone();
    cloud.until("both claims are on record", |_| {
        store.all().unwrap().iter().filter(|stored| stored.claimed).count() == 2
    });
    drop(store);
    drop(provider);
    cloud.end(ended);
    assert_eq!(cloud.undeleted(), [unclaimed.to_string(), claimed.to_string()]);

    let mut provider = Provider::start(settings(&cloud), &folder);
    let mut said = vec![provider.event(), provider.event()];
    said.sort_by_key(|event| matches!(event, Event::Ended(_)));
    assert_eq!(said, [Event::Claimed(claimed.clone()), Event::Ended(ended.clone())]);
    let store = provider.store.clone();
    cloud.until("one is left", |cloud| {
        cloud.undeleted() == [claimed.to_string()] && store.all().unwrap().len() == 1
    });
    provider.edgegap.released(claimed);
    provider.until_nothing_left(&cloud);
}

#[test]
fn at_the_end_what_is_not_ready_is_deleted_and_the_rest_stays_on_record() {
    let cloud = Cloud::start(&["--ready-after", "0"]);
    let folder = folder();
    let mut provider = Provider::start(settings(&cloud), &folder);
    provider.seek();
    let ready = provider.end().unwrap().session;
    cloud.config(&json!({"never_ready": true}));
    provider.seek();
    provider.accepted();
    cloud.config(&json!({"latency_ms": 100}));
    let created = cloud.count("POST", "/v1/session");
    provider.seek();
    cloud.until("one is being created", |cloud| {
        cloud.count("POST", "/v1/session") > created
    });
    let started = Instant::now();
    provider.edgegap.stop();
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(cloud.undeleted(), [ready.to_string()]);
    let on_record: Vec<SessionName> = provider
        .store
        .all()
        .unwrap()
        .into_iter()
        .map(|stored| stored.session)
        .collect();
    assert_eq!(on_record, [ready]);
}

#[test]
fn what_is_being_created_at_the_end_is_waited_for_and_deleted() {
    let cloud = Cloud::start(&["--latency-ms", "2500"]);
    let folder = folder();
    let mut provider = Provider::start(settings(&cloud), &folder);
    provider.seek();
    cloud.until("one is being created", |cloud| cloud.count("POST", "/v1/session") > 0);
    cloud.config(&json!({"latency_ms": 0}));
    provider.edgegap.stop();
    provider.until_nothing_left(&cloud);
}

#[test]
fn a_redirection_is_not_followed_with_the_key() {
    let (here, there) = (
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    let answer = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        there.local_addr().unwrap()
    );
    let url = format!("http://{}", here.local_addr().unwrap());
    let end = here.try_clone().unwrap();
    let server = std::thread::spawn(move || {
        for stream in here.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let length = stream.read(&mut head).unwrap();
            if head[..length].starts_with(b"END") {
                return;
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let folder = folder();
    let settings = Settings {
        url,
        api_key: KEY.to_owned(),
        ..Settings::default()
    };
    let mut provider = Provider::start(settings, &folder);
    provider.seek();
    assert_eq!(provider.end().unwrap_err().code, 500);
    there.set_nonblocking(true).unwrap();
    assert!(there.accept().is_err(), "nobody was sent there");
    drop(provider);
    let mut last = std::net::TcpStream::connect(end.local_addr().unwrap()).unwrap();
    last.write_all(b"END").unwrap();
    server.join().unwrap();
}

#[test]
fn what_cannot_be_used_is_refused_at_the_start() {
    let folder = folder();
    let store = std::sync::Arc::new(peer_server::provider::store::FileStore::open(&folder.path().join("s")).unwrap());
    for (url, ca) in [
        ("ftp://example", None),
        ("https://example", Some("-----BEGIN CERTIFICATE-----\n*\n")),
    ] {
        let settings = Settings {
            url: url.to_owned(),
            ca: ca.map(str::to_owned),
            ..Settings::default()
        };
        let (outbox, inbox) = peer_server::provider::outbox(std::sync::Arc::new(|| {}));
        assert!(Edgegap::start(settings, store.clone(), outbox, inbox).is_err(), "{url}");
    }
}
