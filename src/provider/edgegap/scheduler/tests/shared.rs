//! Deployments with players of whom this process learns late, or who are the players of another process.
//!
//! Owns: these scenes. Never: looks into the scheduler but to see that nothing is left.
#![allow(clippy::unwrap_used)]

use super::*;

fn name(text: &str) -> SessionName {
    SessionName::new(text).unwrap()
}

fn shared() -> World {
    let plan = Plan {
        shared: true,
        ..plan(Mode::Deployment)
    };
    World::new(5, plan)
}

#[test]
fn a_kept_deployment_stays_for_players_who_come_after_the_start() {
    let mut world = World::new(4, plan(Mode::Deployment));
    world.add("dep", &["dep-0"]);
    world.run_for(10_000);
    world.scheduler.claimed(&name("dep-1"), world.now_ms);
    world.run_for(10_000);
    assert_eq!(world.on_record(), ["dep", "dep-0", "dep-1"]);
    world.scheduler.released(&name("dep-0"), world.now_ms);
    world.run_for(HOUR_MS);
    assert!(!world.deleted("dep"), "somebody plays there");
    // Another comes while it is empty, and is not waited for in vain.
    world.scheduler.released(&name("dep-1"), world.now_ms);
    world.run_for(30_000);
    world.scheduler.claimed(&name("dep-2"), world.now_ms);
    world.run_for(HOUR_MS);
    assert!(!world.deleted("dep"), "somebody plays there");
    world.scheduler.released(&name("dep-2"), world.now_ms);
    world.run_for(70_000);
    world.assert_nothing_left();
}

#[test]
fn a_seat_that_another_process_gave_away_leaves_the_record_and_is_not_asked_of_the_cloud() {
    let mut world = shared();
    world.age_ms = 1000;
    world.run_for(10_000);
    world.add("dep", &["dep-0", "dep-1"]);
    world.scheduler.released(&name("dep-0"), world.now_ms);
    world.run_for(10_000);
    assert_eq!(world.on_record(), ["dep", "dep-1"]);
    assert!(world.asked_to_delete.is_empty(), "{:?}", world.asked_to_delete);
    // What is no seat is a deployment.
    world.scheduler.released(&name("dep"), world.now_ms);
    world.run_for(10_000);
    assert_eq!(world.asked_to_delete, [name("dep")]);
}

#[test]
fn a_kept_deployment_of_another_process_is_not_deleted_while_that_one_renews_it() {
    let mut world = shared();
    world.add("dep", &["dep-0"]);
    world.age_ms = 1000;
    world.run_for(10_000);
    world.scheduler.released(&name("dep-0"), world.now_ms);
    world.run_for(HOUR_MS);
    assert!(!world.deleted("dep"), "the other process may have seated others");
    assert_eq!(world.on_record(), ["dep"]);
    world.age_ms = HOUR_MS;
    world.run_for(2 * DEPLOYMENT_LOOKUP_MS);
    assert!(world.deleted("dep") && world.record.is_empty());
}
