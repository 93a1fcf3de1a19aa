//! When leases end, and what goes with them.

use super::*;

#[test]
fn a_lease_that_is_not_renewed_is_over_at_the_next_entry_and_takes_all_with_it() {
    let mut world = World::new();
    world.register(0, who(1, 1));
    world.join(0, who(1, 1), 1, "lobby");
    world.register(1, who(2, 2));
    world.join(1, who(2, 2), 2, "lobby");
    world.act(1, seek(who(2, 2), 2, 7, false));
    world.told.clear();
    world.seconds(2);
    assert!(world.renew(0));
    assert!(world.told.is_empty());
    world.seconds(2);
    assert!(world.renew(0));
    let gone: Vec<NodeNo> = world
        .told
        .iter()
        .map(|event| match event {
            Event::NodeGone(node) => *node,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(gone, [NodeNo::new(1).unwrap(), NodeNo::new(2).unwrap()]);
    assert_eq!(world.roster("lobby").members.len(), 1);
    assert!(!world.renew(1), "a lease that is over is not renewed");
    world.act(1, seek(who(2, 2), 2, 7, false));
    assert!(matches!(world.last, Some(Outcome::Lapsed)));
    world.take(1);
    world.act(1, seek(who(2, 2), 2, 7, false));
    assert!(matches!(world.last, Some(Outcome::Replied(None))));
    assert!(world.state.queues.is_empty(), "its session is not on record any more");
}

#[test]
fn a_lease_that_is_taken_late_does_not_end_the_one_taken_since() {
    let mut world = World::new();
    let above = world.epochs[0];
    world.take(0);
    world.register(0, who(1, 1));
    world.apply(Entry::Take {
        node: node(0),
        nonce: 0,
        above,
    });
    assert!(matches!(world.last, Some(Outcome::Void)));
    assert!(world.renew(0));
    assert_eq!(world.state.epoch_of(node(0)), Some(world.epochs[0]));
    for _ in 0..2 {
        world.seconds(2);
        world.renew(1);
    }
    assert_eq!(world.state.epoch_of(node(0)), None);
}

#[test]
fn a_clock_that_is_set_back_neither_stops_leases_nor_versions() {
    let mut world = World::new();
    let version = world.state.version;
    world.now -= 500 * SECOND;
    assert!(world.renew(0));
    assert!(world.state.version > version);
    for _ in 0..2 {
        world.seconds(2);
        assert!(world.renew(0));
    }
    assert!(!world.renew(1));
}

#[test]
fn a_standstill_of_the_broker_ends_no_lease_and_one_of_the_fleet_does() {
    let mut world = World::new();
    world.seconds(30);
    assert!(world.renew(1), "nobody could have renewed");
    world.seconds(2);
    assert!(world.renew(1));
    assert!(world.told.is_empty());
    world.seconds(2);
    assert!(world.renew(1));
    assert_eq!(world.told.len(), 1, "who does not come back");
    world.seconds(61);
    assert!(!world.renew(1), "after so long the fleet was gone");
}
