//! The life of a session after its player was told: claimed, left, asked to be deleted.
//!
//! Owns: what the game server writes into NATS, and what the cloud is told then.
//! Never: waits the minute after which an unclaimed session goes; the browser tests do.

use serde_json::{Value, json};

use crate::replay::{Heard, Recording};
use crate::world::{World, until};

#[test]
fn a_session_lives_until_its_player_leaves() {
    let world = World::start(json!({}));
    world.cloud.behave(json!({ "ready_after": 0 }));
    let heard = Recording::load("ws-success-immediate")
        .say(world.front.addr(), &[])
        .unwrap();
    let (session, client_id) = told(&heard);

    // Both ways, before the player was told.
    assert_eq!(
        world.nats.get("sessions_ly2eg", &client_id).as_deref(),
        Some(session.as_str())
    );
    assert_eq!(
        world.nats.get("sessions_eg2ly", &session).as_deref(),
        Some(client_id.as_str())
    );
    assert_eq!(
        world.nats.get("unclaimed_sessions", &session).as_deref(),
        Some(session.as_str())
    );

    world.nats.put("active_connections", &session, Some(&client_id));
    until("the claim is seen", || {
        world.nats.get("unclaimed_sessions", &session).is_none().then_some(())
    });
    assert_eq!(world.cloud.sessions()[&session]["deleted"], false);
    world.nats.put("active_connections", &session, None);
    world.cloud.await_no_session();
}

#[test]
fn a_server_that_starts_again_takes_up_what_is_on_record() {
    let mut world = World::start(json!({}));
    world.cloud.behave(json!({ "ready_after": 0 }));
    let kept = told(
        &Recording::load("ws-success-immediate")
            .say(world.front.addr(), &[])
            .unwrap(),
    );
    let left = told(
        &Recording::load("ws-success-immediate")
            .say(world.front.addr(), &[])
            .unwrap(),
    );
    for (session, client_id) in [&kept, &left] {
        world.nats.put("active_connections", session, Some(client_id));
        until("the claim is seen", || {
            world.nats.get("unclaimed_sessions", session).is_none().then_some(())
        });
    }
    world.back.take().unwrap().signal("KILL");
    world.nats.put("active_connections", &left.0, None);
    world.back = Some(World::back(&world.nats, &world.cloud, json!({})));
    // Another player proves that it serves again.
    let heard = until("it serves again", || {
        let heard = Recording::load("ws-success-immediate")
            .say(world.front.addr(), &[])
            .unwrap();
        heard.frames.last()?.contains("SessionReady").then_some(heard)
    });
    assert_ne!(told(&heard).0, kept.0);
    assert_eq!(world.cloud.sessions()[&kept.0]["deleted"], false);
    world.nats.put("active_connections", &kept.0, None);
    until("the one that was kept is deleted in its turn", || {
        (world.cloud.sessions()[&kept.0]["deleted"] == true).then_some(())
    });
}

#[test]
fn the_queue_of_deletions_is_worked_off() {
    let world = World::start(json!({}));
    world.cloud.behave(json!({ "ready_after": 0 }));
    let (session, _) = told(
        &Recording::load("ws-success-immediate")
            .say(world.front.addr(), &[])
            .unwrap(),
    );
    world
        .nats
        .publish(format!("edgegap_delete_session_q.{session}"), &session);
    world.cloud.await_no_session();
    // One that the cloud does not know is as good as deleted.
    world
        .nats
        .publish("edgegap_delete_session_q.nobody-S".to_owned(), "nobody-S");
    until("the cloud is asked", || {
        let asked = world.cloud.calls().contains(&"DELETE /v1/session/nobody-S".to_owned());
        asked.then_some(())
    });
}

/// The session and the client id that a player was told.
fn told(heard: &Heard) -> (String, String) {
    let frame = |at: usize| serde_json::from_str::<Value>(&heard.frames[at]).unwrap();
    let session = frame(1)["SessionRequestAccepted"].as_str().unwrap().to_owned();
    let ready = frame(heard.frames.len() - 1);
    let token = ready["SessionReady"]["token"]
        .as_str()
        .unwrap_or_else(|| panic!("{heard:?}"));
    (session, crate::dialogues::assert_token(token).to_string())
}
