//! Logs that are drawn from a seed: what holds of every one of them.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

/// A log of everything, drawn from a seed.
fn drawn(seed: u64, length: usize) -> World {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut world = World::new();
    for _ in 0..length {
        let (index, peer) = (rng.random_range(0..3), rng.random_range(0..6u8));
        let held = world.state.sessions.get(&fingerprint(peer)).map(|session| session.id);
        let who = Who {
            fingerprint: fingerprint(peer),
            session: held
                .filter(|_| rng.random_range(0..8) > 0)
                .unwrap_or(SessionId::from_u64(rng.random_range(0..4))),
        };
        let name = ["a", "b", "c"][rng.random_range(0..3)];
        let alias = format!("alias-{}", rng.random_range(0..4));
        let info = info(peer, ["1", "2"][rng.random_range(0..2)]);
        let what = match rng.random_range(0..14) {
            0..=2 => What::Register {
                who,
                aliases: vec![alias.into()],
            },
            3 => What::Resume {
                who,
                alias: Some(alias.into()),
                member_of: vec![space(name)],
                waits_in: vec![space(["a", "b"][rng.random_range(0..2)])],
            },
            4 => What::End { who },
            5 | 6 => join(who, peer, name, rng.random()),
            7 => What::Rejoin {
                who,
                namespace: space(name),
                name: name.into(),
                info,
                room: rng.random::<bool>().then_some(RoomTerms {
                    owner: fingerprint(1),
                    max_size: 2,
                }),
                members_max: 3,
            },
            8 => What::CreateRoom {
                who,
                namespace: space(name),
                name: name.into(),
                info,
                max_size: 2,
                refuse: None,
            },
            9 => What::Leave {
                who,
                namespace: space(name),
            },
            10 => What::Kick {
                who,
                namespace: space(name),
                target: Some(fingerprint(rng.random_range(0..6))),
            },
            11 => What::Show {
                who,
                namespace: space(name),
                info,
            },
            12 => seek(who, peer, rng.random_range(0..9), rng.random()),
            _ => {
                match rng.random_range(0..6) {
                    0 => world.take(index),
                    1 => world.seconds(1),
                    2 => world.now -= SECOND,
                    _ => {
                        world.renew(index);
                    }
                }
                continue;
            }
        };
        world.act(index, what);
    }
    world
}

#[test]
fn every_node_that_reads_the_log_has_the_same_state_from_wherever_it_begins() {
    for seed in 0..200 {
        let world = drawn(seed, 200);
        let mut rng = SmallRng::seed_from_u64(seed);
        let from = rng.random_range(0..world.log.len());
        // Another node, which sees other numbers, and one that begins with a snapshot.
        let strange = |_: Home| NodeNo::new(9);
        let eye = Eye {
            own: Some((node(2), world.epochs[2])),
            number: &strange,
            missed: (0, 0),
        };
        let mut told = Vec::new();
        let (mut whole, mut late) = (State::default(), None);
        for (at, (time, entry)) in world.log.iter().enumerate() {
            if at == from {
                let snapshot = whole.encode();
                let loaded = State::decode(&snapshot).unwrap();
                assert_eq!(loaded, whole, "seed {seed}");
                late = Some(loaded);
            }
            let sequence = at as u64 + 1;
            whole.apply(sequence, *time, Some(entry), &eye, &mut told);
            if let Some(late) = &mut late {
                late.apply(sequence, *time, Some(entry), &eye, &mut told);
            }
        }
        assert_eq!(whole, world.state, "seed {seed}");
        assert_eq!(late.unwrap(), world.state, "seed {seed}");
    }
}

#[test]
fn a_copy_made_of_a_roster_and_the_events_after_it_is_the_roster() {
    for seed in 0..200 {
        let world = drawn(seed, 300);
        for name in ["a", "b", "c"] {
            // Node 0 hears of a namespace while it has members there.
            let mut copy: Vec<(Fingerprint, Option<NodeNo>, Arc<PeerInfo>)> = Vec::new();
            let mut last = 0;
            let mut state = State::default();
            for (at, (time, entry)) in world.log.iter().enumerate() {
                let own = match entry {
                    Entry::Act(act) if act.node == node(0) => Some(act.epoch),
                    _ => None,
                };
                let epoch = own.or_else(|| {
                    state
                        .leases
                        .values()
                        .find(|lease| lease.home.0 == node(0))
                        .map(|l| l.home.1)
                });
                let eye = Eye {
                    own: epoch.map(|epoch| (node(0), epoch)),
                    number: &number,
                    missed: (0, 0),
                };
                let before = state.own(&eye).is_some_and(|own| {
                    state
                        .spaces
                        .get(&space(name))
                        .is_some_and(|space| space.counts.contains_key(&own))
                });
                let mut told = Vec::new();
                state.apply(at as u64 + 1, *time, Some(entry), &eye, &mut told);
                let after = state.own(&eye).is_some_and(|own| {
                    state
                        .spaces
                        .get(&space(name))
                        .is_some_and(|space| space.counts.contains_key(&own))
                });
                for event in told {
                    match event {
                        Event::NodeGone(gone) => copy.retain(|(_, at, _)| *at != Some(gone)),
                        Event::Changed {
                            namespace,
                            version,
                            change,
                        } if namespace == space(name) => {
                            assert!(version > last, "seed {seed}");
                            last = version;
                            match change {
                                Change::Joined { member, .. } | Change::Shown(member) => {
                                    let entry = (member.info.fingerprint, member.node, member.info);
                                    match copy.iter_mut().find(|(key, ..)| *key == entry.0) {
                                        Some(known) => *known = entry,
                                        None => copy.push(entry),
                                    }
                                }
                                Change::Left { who, .. } => copy.retain(|(key, ..)| *key != who.fingerprint),
                            }
                        }
                        _ => {}
                    }
                }
                let roster = state.roster(space(name), &eye);
                let there: Vec<_> = roster
                    .members
                    .into_iter()
                    .map(|m| (m.info.fingerprint, m.node, m.info))
                    .collect();
                match (before, after) {
                    (_, false) => copy.clear(),
                    (false, true) => copy = there,
                    (true, true) => assert_eq!(copy, there, "seed {seed}, entry {at}"),
                }
            }
        }
    }
}

#[test]
fn bytes_that_make_no_sense_are_no_entry_and_no_snapshot() {
    let world = drawn(1, 100);
    let snapshot = world.state.encode();
    for cut in 0..snapshot.len() {
        assert!(State::decode(&snapshot[..cut]).is_none());
    }
    for (_, entry) in &world.log {
        let bytes = entry.encode();
        for cut in 0..bytes.len() {
            assert!(Entry::decode(&bytes[..cut]).is_none());
        }
    }
}
