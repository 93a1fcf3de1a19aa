//! Leases: who is alive, what becomes of the dead, and a broker that forgets everything.

use peer_server::broker::{Fleet, Trouble};
use peer_server::message::cluster::{RoomTerms, What};

use crate::bench::*;

pub fn an_epoch_that_is_over_is_refused(bench: &dyn Bench) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    let a = one.register('a', 1);
    one.ask(join(a, "lobby"));
    bench.lapse(one.nodes.own(), one.epoch);
    let refused = [
        What::Register {
            who: who('b', 2),
            aliases: Vec::new(),
        },
        resume(a, None, &["lobby"]),
        What::End { who: a },
        join(a, "hall"),
        rejoin(a, "lobby", None, ""),
        create(a, "room", 2),
        leave(a, "lobby"),
        kick(a, "lobby", 'a'),
        show(a, "lobby", "x"),
        seek(a, 2, 1),
    ];
    for what in refused {
        let (replies, done) = one.try_batch(vec![find('a'), what, find('a')]);
        assert_eq!((replies.len(), done), (1, Err(Trouble::Lapsed)));
        one.commands = one.engine.commands().unwrap();
    }
    let looks = vec![
        find('a'),
        resolve("alias-a"),
        list("lobby", 5),
        describe("room"),
        roster("lobby"),
    ];
    assert_eq!(one.batch(looks).len(), 5);
    assert_eq!(one.lease.renew(one.epoch), Err(Trouble::Lapsed));
    two.lease.renew(two.epoch).unwrap();
    assert_eq!(two.ask(roster("lobby")), "[]");
    assert_eq!(one.lease.renew(one.epoch), Err(Trouble::Lapsed));
}

pub fn each_node_hears_once_that_another_is_gone(bench: &dyn Bench) {
    let mut nodes = [1, 2, 3].map(|number| Node::new(bench, number));
    let [one, two, three] = &mut nodes;
    let (a, b) = (one.register('a', 1), two.register('b', 1));
    one.batch(vec![join(a, "lobby"), create(a, "room", 2), seek(a, 2, 1)]);
    two.ask(join(b, "lobby"));
    bench.lapse(one.nodes.own(), one.epoch);
    for _ in 0..2 {
        two.lease.renew(two.epoch).unwrap();
        three.lease.renew(three.epoch).unwrap();
    }
    assert_eq!(two.events(), ["lobby+b1@2", "gone 1"]);
    assert_eq!(three.events(), ["gone 1"]);
    // What it had is nowhere to be seen, swept or not.
    for _ in 0..2 {
        assert_eq!(three.ask(roster("lobby")), "[b1@2]");
        assert_eq!(three.ask(list("lobby", 5)), "1: b");
        assert_eq!(three.ask(describe("room")), "room not found");
        assert_eq!(three.ask(find('a')), "nowhere else");
        assert_eq!(three.ask(resolve("alias-a")), "resolved -");
        while three.lease.sweep().unwrap() {}
    }
    // The copies have lost it: its end is not told a second time.
    assert_eq!(two.events(), [""; 0]);
    let again = three.register('a', 1);
    assert_eq!(three.ask(create(again, "room", 3)), "created");
    assert_eq!(three.events(), ["room+a1@3 of a for 3"]);
}

pub fn what_the_dead_had_can_be_had_before_it_is_swept(bench: &dyn Bench) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    let a = one.register('a', 1);
    one.batch(vec![create(a, "room", 2), join(a, "lobby"), join(a, "hall")]);
    let b = two.register('b', 1);
    two.batch(vec![join(b, "lobby")]);
    one.lease.release(one.epoch).unwrap();
    assert_eq!(
        two.ask(What::Register {
            who: who('c', 2),
            aliases: vec!["alias-a".into()]
        }),
        "registered 0"
    );
    assert_eq!(two.ask(create(b, "room", 5)), "created");
    assert_eq!(two.ask(join_as(b, "hall", false, 1, None, "")), "joined [b1@2]");
    let moved = who('a', 4);
    assert_eq!(two.ask(resume(moved, Some("alias-a"), &[])), "registered");
    while two.lease.sweep().unwrap() {}
    assert_eq!(two.ask(resolve("alias-a")), "resolved c");
    assert_eq!(two.ask(roster("lobby")), "[b1@2]");
    assert_eq!(two.ask(roster("hall")), "[b1@2]");
    assert_eq!(two.ask(describe("room")), "1 of 5 of b");
    assert_eq!(
        two.events(),
        ["lobby+b1@2", "gone 1", "room+b1@2 of b for 5", "hall+b1@2"]
    );
}

pub fn a_node_whose_lease_stands_goes_on_where_it_was(bench: &dyn Bench) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    let (a, b) = (one.register('a', 1), two.register('b', 1));
    one.ask(join(a, "lobby"));
    assert_eq!(one.events(), ["lobby+a1@1"]);
    two.ask(join(b, "lobby"));
    let (epoch, taken) = (one.epoch, one.come_back());
    assert_eq!((taken.epoch, taken.empty), (epoch, false));
    assert_eq!(one.events(), ["lobby+b1@2"]);
    assert_eq!(one.ask(resume(a, Some("alias-a"), &["lobby"])), "registered 0");
    assert_eq!(one.ask(rejoin(a, "lobby", None, "")), "joined");
    assert_eq!(two.events(), ["lobby+b1@2"]);
}

pub fn a_node_that_comes_back_is_another_and_has_its_places_again(bench: &dyn Bench) {
    for is_swept in [false, true] {
        let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
        let (a, b) = (one.register('a', 1), two.register('b', 1));
        let terms = Some(RoomTerms {
            owner: b.fingerprint,
            max_size: 3,
        });
        two.batch(vec![create(b, "room", 3)]);
        // A node gives no ticket twice.
        let ticket = 1 + u64::from(is_swept);
        one.batch(vec![join_room(a, "room"), create(a, "hall", 3), seek(a, 2, ticket)]);
        two.events();
        bench.lapse(one.nodes.own(), one.epoch);
        two.lease.renew(two.epoch).unwrap();
        while is_swept && two.lease.sweep().unwrap() {}
        let epoch = one.epoch;
        one.come_back();
        assert_ne!(one.epoch, epoch);
        assert_eq!(
            one.ask(resume_waiting(a, Some("alias-a"), &["room", "hall"], &["lobby"])),
            "registered 0"
        );
        assert_eq!(one.ask(rejoin(a, "room", terms, "")), "joined");
        assert_eq!(one.ask(seek_as(a, 2, ticket, true, None)), "waiting");
        let hall = Some(RoomTerms {
            owner: a.fingerprint,
            max_size: 3,
        });
        let expected = if is_swept || bench.buries_at_once() {
            "room not found"
        } else {
            "joined"
        };
        assert_eq!(one.ask(rejoin(a, "hall", hall, "")), expected, "only it was in there");
        while two.lease.sweep().unwrap() {}
        assert_eq!(two.ask(roster("room")), "[b1@2 a1@1] of b for 3");
        assert_eq!(two.events(), ["gone 1", "room+a1@1 of b for 3"]);
        assert_eq!(two.ask(seek(b, 2, 2)), "done");
        one.ask(What::End { who: a });
        two.ask(What::End { who: b });
        one.lease.release(one.epoch).unwrap();
        two.lease.release(two.epoch).unwrap();
    }
}

pub fn a_key_taken_elsewhere_meanwhile_is_not_given_back(bench: &dyn Bench) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    let a = one.register('a', 1);
    bench.lapse(one.nodes.own(), one.epoch);
    two.lease.renew(two.epoch).unwrap();
    two.register('a', 5);
    one.come_back();
    assert_eq!(one.ask(resume(a, Some("alias-a"), &[])), "taken");
    assert_eq!(two.ask(resolve("alias-a")), "resolved a");
    // A node that does not answer for it any more does not hold it either.
    bench.lapse(two.nodes.own(), two.epoch);
    assert_eq!(one.ask(resume(a, Some("alias-a"), &[])), "registered 0");
}

pub fn a_fleet_tells_everything_again_to_a_broker_that_forgot(bench: &dyn Bench) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    let (a, b) = (one.register('a', 1), two.register('b', 1));
    one.ask(create(a, "room", 3));
    two.ask(join_room(b, "room"));
    two.ask(join(b, "lobby"));
    one.events();
    two.events();
    // Long after: it had been told everything.
    for _ in 0..20 {
        one.lease.renew(one.epoch).unwrap();
        two.lease.renew(two.epoch).unwrap();
    }
    assert!(!one.come_back().empty && !two.come_back().empty);
    bench.flush();
    assert_eq!(two.try_batch(vec![leave(b, "lobby")]).1, Err(Trouble::Lapsed));
    assert_eq!(two.lease.renew(two.epoch), Err(Trouble::Lapsed));
    let epochs = (one.epoch, two.epoch);
    assert!(two.come_back().empty);
    // A third, new one, has nothing to tell.
    let mut three = Node::new(bench, 3);
    let c = three.register('c', 1);
    let terms = Some(RoomTerms {
        owner: a.fingerprint,
        max_size: 3,
    });
    assert_eq!(three.ask(rejoin(c, "room", terms, "")), "room not found");
    three.ask(join(c, "den"));
    assert_eq!(two.ask(resume(b, Some("alias-b"), &["room", "lobby"])), "registered 0");
    assert_eq!(
        two.ask(rejoin(b, "room", terms, "")),
        "joined",
        "made again by whoever is first"
    );
    assert_eq!(
        two.ask(rejoin(b, "den", terms, "")),
        "room not found",
        "others are there, and in no room"
    );
    assert_eq!(three.ask(roster("den")), "[c1@3]");
    assert!(two.come_back().empty, "lost again before it was through");
    assert_eq!(two.ask(rejoin(b, "lobby", None, "")), "joined");
    assert!(one.come_back().empty, "each learns it for itself");
    assert!(one.epoch > epochs.0 && two.epoch > epochs.1);
    assert_eq!(one.ask(resume(a, Some("alias-a"), &["room"])), "registered 0");
    assert_eq!(one.ask(rejoin(a, "room", terms, "")), "joined");
    assert_eq!(three.ask(roster("room")), "[b1@2 a1@1] of a for 3");
    let all = ["room+b1@2 of a for 3", "lobby+b1@2", "room+a1@1 of a for 3"];
    assert_eq!(two.events(), all, "with versions above those from before");
    assert_eq!(one.events(), all[2..]);
    for _ in 0..20 {
        two.lease.renew(two.epoch).unwrap();
    }
    two.ask(leave(b, "lobby"));
    assert!(!two.come_back().empty, "told once");
    let other = Some(RoomTerms {
        owner: b.fingerprint,
        max_size: 3,
    });
    assert_eq!(
        two.ask(rejoin(b, "hall", other, "")),
        "room not found",
        "what ended since has ended"
    );
}

pub fn a_renewal_counts_who_is_there(bench: &dyn Bench) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    one.register('a', 1);
    two.register('b', 1);
    two.register('c', 2);
    let fleet = |nodes, peers| Fleet {
        nodes,
        peers,
        strange: 0,
    };
    assert_eq!(one.lease.renew(one.epoch), Ok(fleet(2, 3)));
    two.ask(What::End { who: who('b', 1) });
    assert_eq!(two.lease.renew(two.epoch), Ok(fleet(2, 2)));
    // Peers of the dead do not count, swept or not.
    bench.lapse(two.nodes.own(), two.epoch);
    assert_eq!(one.lease.renew(one.epoch), Ok(fleet(1, 1)));
}
