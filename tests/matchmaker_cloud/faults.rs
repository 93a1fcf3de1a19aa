//! The cloud fails: each way in which the mock can, what the player is told, and that nothing is left behind there.
//!
//! Owns: the recorded dialogues in which the cloud fails, and ours in their place.
//! Never: believes that a session is gone because the player was told so.

use serde_json::{Value, json};

use crate::replay::Recording;
use crate::support::{Client, ConnectOptions};
use crate::world::{GAME_SERVER, World, until};

#[test]
fn a_session_that_is_not_made_is_told_with_its_own_code() {
    let world = World::start(json!({}));
    // The originals say 409 to all of them.
    for (code, told) in [
        (400, 400),
        (401, 401),
        (403, 403),
        (409, 409),
        (422, 422),
        (500, 503),
        (503, 503),
    ] {
        world.cloud.behave(json!({ "fail_post": code }));
        let heard = Recording::load(&format!("ws-edgegap-post-{code}"))
            .say(world.front.addr(), &[])
            .unwrap();
        assert_eq!(heard.frames[0], "\"Acknowledged\"");
        assert_eq!(heard.error_code(), told, "{heard:?}");
        assert_eq!(world.cloud.sessions().len(), 0);
    }
    // Asked again after a while, because nothing was made.
    world.cloud.behave(json!({ "fail_post": 429 }));
    let heard = Recording::load("ws-edgegap-post-429")
        .say(world.front.addr(), &[])
        .unwrap();
    assert_eq!(heard.error_code(), 429);
    assert!(
        world
            .cloud
            .calls()
            .iter()
            .filter(|call| call.starts_with("POST"))
            .count()
            > 1
    );
    // A lost answer may have made one: not asked again.
    world.cloud.behave(json!({ "drop": true }));
    let heard = Recording::load("ws-edgegap-drop").say(world.front.addr(), &[]).unwrap();
    assert_eq!(heard.error_code(), 503);
    assert_eq!(world.cloud.calls(), ["POST /v1/session"]);
    // The mock makes a session whose name nobody can read: the one that cannot be deleted.
    world.cloud.behave(json!({ "bad_json": true }));
    let heard = Recording::load("ws-edgegap-bad-json")
        .say(world.front.addr(), &[])
        .unwrap();
    assert!(matches!(heard.error_code(), 500 | 503), "{heard:?}");
}

#[test]
fn a_session_that_comes_to_nothing_is_deleted() {
    let world = World::start(json!({ "matchmaker_deadline": "8s" }));
    let cases: &[(&str, Value, u64)] = &[
        ("ws-edgegap-get-401", json!({ "fail_get": 401 }), 401),
        ("lifecycle-leak-get-fails", json!({ "fail_get": 500 }), 503),
        (
            "ws-edgegap-get-500",
            json!({ "fail_get": 500, "fail_get_after": 1 }),
            503,
        ),
        (
            "ws-ready-no-deployment",
            json!({ "ready_after": 0, "no_deployment": true }),
            500,
        ),
        ("ws-ready-no-ports", json!({ "ready_after": 0, "no_ports": true }), 500),
        ("ws-ready-ip-empty", json!({ "ready_after": 0, "public_ip": "" }), 500),
        (
            "ws-ready-port-null",
            json!({ "ready_after": 0, "game_port": null }),
            500,
        ),
        (
            "ws-public-ip-v6",
            json!({ "ready_after": 0, "public_ip": "2001:db8::10" }),
            503,
        ),
        ("ws-session-status-error", json!({ "error_after": 2 }), 503),
    ];
    for (case, options, told) in cases {
        world.cloud.behave(options.clone());
        let heard = Recording::load(case).say(world.front.addr(), &[]).unwrap();
        assert_eq!(
            heard.frames[..2],
            ["\"Acknowledged\"", "{\"SessionRequestAccepted\":\"000000000001-S\"}"],
            "{case}"
        );
        let code = heard.error_code();
        assert!(code == *told || (*told == 500 && code == 503), "{case}: {heard:?}");
        world.cloud.await_no_session();
        assert!(
            world.nats.get("unclaimed_sessions", "000000000001-S").is_none(),
            "{case}"
        );
    }
    world.nats.put("cert_digests", GAME_SERVER, None);
    world.cloud.behave(json!({}));
    let heard = Recording::load("ws-no-cert-digest")
        .say(world.front.addr(), &[])
        .unwrap();
    assert!(
        heard.frames.contains(&"{\"ProgressReport\":\"Ready (3)\"}".to_owned()),
        "{heard:?}"
    );
    assert!(matches!(heard.error_code(), 500 | 503), "{heard:?}");
    world.cloud.await_no_session();

    // With the originals' words, but after the time that is set here.
    world.cloud.behave(json!({ "never_ready": true }));
    let recording = Recording::load("ws-never-ready");
    let heard = recording.say(world.front.addr(), &[]).unwrap();
    assert_eq!(heard.frames.last(), recording.frames().last());
    assert_eq!(heard.error_code(), 408);
    world.cloud.await_no_session();
}

#[test]
fn a_cloud_that_hangs_delays_nobody_else() {
    let world = World::start(json!({}));
    world.cloud.behave(json!({ "latency_ms": 11_000 }));
    let addr = world.front.addr();
    let player = std::thread::spawn(move || Recording::load("ws-success").say(addr, &[]).unwrap());
    let asked = || world.cloud.calls().first().cloned();
    until("the cloud is asked", asked);
    for server in [&world.front, world.back.as_ref().unwrap()] {
        let mut peer = Client::connect(server.addr(), ConnectOptions::default());
        peer.send_json(&json!({ "type": "register", "payload": { "public_key": "k" } }));
        assert_eq!(peer.recv_json()["type"], "registered");
        for _ in 0..100 {
            peer.send_json(&json!({ "type": "ping" }));
            assert_eq!(peer.recv_json()["type"], "pong");
        }
    }
    assert!(!player.is_finished(), "the cloud still hangs");
    assert_eq!(player.join().unwrap().error_code(), 504);
    // What the cloud makes of it in the end nobody was told the name of.
}

#[test]
fn a_player_who_leaves_costs_nothing() {
    let world = World::start(json!({}));
    world.cloud.behave(json!({ "never_ready": true }));
    // In front and behind there is nobody in between: the one behind cannot see who leaves, and its deadline ends it.
    // Here the server behind is asked itself.
    let addr = world.back.as_ref().unwrap().addr();
    let path = "/matchmaker/ws".to_owned();
    let player = Client::connect(
        addr,
        ConnectOptions {
            path,
            ..ConnectOptions::default()
        },
    );
    player.send_json(&json!({ "game": "bevygap-spaceships", "version": "1" }));
    until("there is a session", || {
        (!world.cloud.sessions().is_empty()).then_some(())
    });
    player.drop_tcp();
    world.cloud.await_no_session();
}
