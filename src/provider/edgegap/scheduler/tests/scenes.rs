//! What is played in the scheduler's world.
//!
//! Owns: the scenes. Never: looks into the scheduler but to see that nothing is left.
#![allow(clippy::unwrap_used)]

use super::*;

fn storm(seed: u64, mode: Mode) {
    let mut world = World::new(seed, plan(mode));
    world.faults = world.random.random_range(0..30);
    for _ in 0..world.random.random_range(5..60) {
        let now_ms = world.now_ms;
        let random = &mut world.random;
        let mut player = Player::default();
        match random.random_range(0..4) {
            0 => player.cancel_ms = Some(now_ms + random.random_range(0..90_000)),
            1 => {}
            _ => {
                player.claim_ms = Some(random.random_range(0..61_000));
                player.release_ms = Some(random.random_range(0..200_000));
            }
        }
        world.player(player);
        let pause_ms = match world.random.random_range(0..3) {
            0 => 0,
            1 => world.random.random_range(0..2000),
            _ => world.random.random_range(0..30_000),
        };
        world.run_for(pause_ms);
        if world.random.random_range(0..40) == 0 {
            world.crash();
        }
    }
    world.run_for(10 * 60_000);
    world.faults = 0;
    world.run_for(2 * HOUR_MS);
    world.check_pace();
    world.assert_nothing_left();
}

#[test]
fn no_session_is_forgotten_whatever_fails() {
    for seed in 0..300 {
        storm(seed, Mode::Session);
    }
}

#[test]
fn no_deployment_is_forgotten_whatever_fails() {
    for seed in 0..300 {
        storm(seed, Mode::Deployment);
    }
}

#[test]
fn a_full_house_of_polls_delays_deletions_by_seconds_and_keeps_the_pace() {
    let mut world = World::new(1, plan(Mode::Session));
    world.latency_ms = 50;
    world.run_for(1000);
    let waits = || Player::default();
    let ids: Vec<RequestId> = (0..400).map(|_| world.player(waits())).collect();
    for item in world.cloud.values_mut() {
        item.ready_ms = u64::MAX;
    }
    world.run_for(12_000);
    for item in world.cloud.values_mut() {
        item.ready_ms = u64::MAX;
    }
    let polls = |world: &World| world.calls.iter().filter(|call| !call.1).count();
    let before = polls(&world);
    for id in &ids[..60] {
        world.players.get_mut(id).unwrap().over = true;
        let now_ms = world.now_ms;
        world.scheduler.cancel(*id, now_ms);
        world.settle();
    }
    world.run_for(5000);
    let deleted = world.noted.iter().filter(|note| **note == Note::Deleted).count();
    assert!(deleted >= 60, "{deleted} of 60 after five seconds");
    assert!(polls(&world) - before <= 101, "{}", polls(&world) - before);
    world.check_pace();
}

#[test]
fn players_share_a_deployment_that_starts_and_one_that_runs() {
    let mut world = World::new(2, plan(Mode::Deployment));
    world.run_for(1000);
    for _ in 0..7 {
        let claim_ms = Some(1000);
        let release_ms = Some(0);
        world.player(Player {
            claim_ms,
            release_ms,
            ..Player::default()
        });
    }
    world.run_for(30_000);
    assert_eq!(world.cloud.len(), 3);
    assert!(world.players.values().all(|player| player.ready));
    let sessions: BTreeSet<_> = world.players.values().map(|player| player.session.clone()).collect();
    assert_eq!(sessions.len(), 7);
    // One of them has room for two more, who are told at once.
    for _ in 0..2 {
        let id = world.player(Player::default());
        assert!(world.players[&id].ready);
    }
    assert_eq!(world.cloud.len(), 3);
    world.run_for(61_000);
    assert!(world.cloud.values().all(|item| !item.deleted), "somebody plays on each");
    world.run_for(140_000);
    world.assert_nothing_left();
    assert_eq!(world.noted.iter().filter(|note| **note == Note::Unclaimed).count(), 2);
}

#[test]
fn what_cannot_be_deleted_for_a_day_is_given_up() {
    for shared in [false, true] {
        given_up(shared);
    }
}

fn given_up(shared: bool) {
    let mut world = World::new(
        3,
        Plan {
            shared,
            ..plan(Mode::Session)
        },
    );
    let name = SessionName::new("stubborn").unwrap();
    world.record.insert(name.clone(), false);
    let mut tries = 0;
    while world.now_ms < 26 * HOUR_MS {
        let next_ms = world.scheduler.poll_timeout().unwrap_or(u64::MAX).max(world.now_ms);
        if next_ms == u64::MAX {
            break;
        }
        world.now_ms = next_ms;
        world.scheduler.handle_timeout(next_ms);
        while let Some((ticket, job)) = world.scheduler.poll_job(next_ms) {
            tries += usize::from(matches!(job, Job::Delete(..)));
            let fault = Fault::Status(500, None);
            let answer = match job {
                Job::Delete(..) => Answer::Deleted(Err(fault)),
                Job::Check => Answer::Checked(Ok(true)),
                // It stays on record, and is read again every minute.
                Job::Load => world.answer(&Job::Load, None),
                _ => Answer::Polled(Err(fault)),
            };
            world.scheduler.answered(ticket, answer, next_ms);
        }
        while let Some(event) = world.scheduler.poll_event() {
            world.on_event(event);
        }
        // An order that nobody acknowledged comes again.
        if shared {
            world.scheduler.released(&name, next_ms);
        }
    }
    assert!((280..320).contains(&tries), "{tries}");
    assert_eq!(world.noted, [Note::Abandoned]);
    assert!(world.record.contains_key(&name) && world.scheduler.instances.is_empty());
}

#[test]
fn claimed_sessions_of_an_earlier_process_are_kept_and_the_others_deleted() {
    for mode in [Mode::Session, Mode::Deployment] {
        let mut world = World::new(4, plan(mode));
        let name = |text: &str| SessionName::new(text).unwrap();
        let seat = |number: &str| match mode {
            Mode::Session => name(&format!("claimed{number}")),
            Mode::Deployment => name(&format!("claimed-{number}")),
        };
        let deployment = name("claimed");
        for there in [seat("1"), seat("2"), deployment.clone(), name("left")] {
            world.cloud.insert(
                there,
                Item {
                    deleted: false,
                    ready_ms: 0,
                },
            );
        }
        world.record.extend([
            (seat("1"), true),
            (seat("2"), true),
            (name("left"), false),
            (name("gone"), true),
        ]);
        if mode == Mode::Deployment {
            world.record.insert(deployment.clone(), false);
            world.cloud.remove(&seat("1"));
            world.cloud.remove(&seat("2"));
        } else {
            world.cloud.remove(&deployment);
        }
        world.run_for(10_000);
        assert!(world.cloud[&name("left")].deleted, "{mode:?}");
        assert!(
            !world.record.contains_key(&name("left")) && !world.record.contains_key(&name("gone")),
            "{mode:?}"
        );
        assert!(
            world.record.contains_key(&seat("1")) && world.record.contains_key(&seat("2")),
            "{mode:?}"
        );
        world.scheduler.released(&seat("1"), world.now_ms);
        world.run_for(10_000);
        let there = world.cloud.values().filter(|item| !item.deleted).count();
        assert_eq!(there, 1, "{mode:?}");
        world.scheduler.released(&seat("2"), world.now_ms);
        if mode == Mode::Deployment {
            world.run_for(60_000);
            assert!(!world.cloud[&deployment].deleted, "somebody may be on the way there");
        }
        world.run_for(10_000);
        world.assert_nothing_left();
    }
}

#[test]
fn nothing_is_created_while_the_record_cannot_be_changed() {
    for shared in [false, true] {
        let mut world = World::new(
            6,
            Plan {
                shared,
                ..plan(Mode::Session)
            },
        );
        world.age_ms = 0;
        world.run_for(1000);
        world.record_fails = true;
        world.player(Player::default());
        world.run_for(1000);
        assert_eq!(world.cloud.len(), 1);
        // Refused at once, whether the record can be read meanwhile or not, but for one try in five seconds.
        for _ in 0..60 {
            let id = world.player(Player::default());
            world.run_for(1000);
            assert!(world.players[&id].over);
        }
        let tries = world.cloud.len();
        assert!(tries <= 12, "{tries}");
        world.record_fails = false;
        world.run_for(6000);
        assert!(world.cloud.values().all(|item| item.deleted));
        let id = world.player(Player::default());
        world.run_for(30_000);
        assert!(world.players[&id].ready);
    }
}

#[test]
fn creations_that_hang_leave_a_worker_for_the_rest() {
    for (workers, most) in [(4, 3), (2, 1), (1, 1)] {
        let mut world = World::new(
            7,
            Plan {
                workers,
                ..plan(Mode::Session)
            },
        );
        world.run_for(1000);
        for _ in 0..8 {
            world.player(Player::default());
        }
        for _ in 0..100 {
            let creating = |running: &&Running| matches!(running.job, Job::Create(_));
            let creations = world.running.iter().filter(creating).count();
            assert!(creations <= most, "{creations} of {workers}");
            world.run_for(20);
        }
        assert!(world.cloud.len() >= 4);
    }
}

#[test]
fn a_claimed_session_that_the_cloud_ended_is_noticed() {
    let mut world = World::new(8, plan(Mode::Session));
    world.run_for(1000);
    let claim_ms = Some(0);
    world.player(Player {
        claim_ms,
        ..Player::default()
    });
    world.run_for(HOUR_MS);
    assert_eq!((world.playing.len(), world.record.len()), (1, 1));
    let session = world.playing.keys().next().unwrap().clone();
    world.end(&session);
    world.run_for(KEPT_LOOKUP_MS + 10_000);
    assert!(world.playing.is_empty(), "its end is told");
    world.assert_nothing_left();
}

#[test]
fn who_is_told_to_wait_waits_with_all_such_calls() {
    let mut world = World::new(9, plan(Mode::Session));
    world.run_for(1000);
    world.latency_ms = 20;
    world.refuse_creation = Some(Fault::Status(429, Some(5000)));
    let id = world.player(Player::default());
    world.run_for(100);
    for _ in 0..5 {
        world.player(Player::default());
    }
    let creations = |world: &World| world.calls.iter().filter(|call| call.1).count();
    assert_eq!(creations(&world), 1);
    world.run_for(4500);
    assert_eq!(creations(&world), 1);
    world.run_for(30_000);
    assert_eq!(creations(&world), 7);
    assert!(world.players[&id].ready);
}
