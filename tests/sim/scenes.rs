//! Scenes: races that have a name, directed by hand down to the single push.
//!
//! Owns: one test for each order of events that the design promises something about.
//! Never: leaves a scene before everything is quiet and all shards agree.

use peer_server::message::{CLOSE_REPLACED, DirectKind, Refusal};

use crate::model::Seen;
use crate::workload::{Req, Settings, To};
use crate::world::World;

const JOIN: fn(usize) -> Req = |name| Req::Join {
    name,
    app: "",
    meta: None,
};
const CAST: fn(usize) -> Req = |name| Req::Broadcast {
    name,
    exclude: Vec::new(),
};

fn scene(loops: usize) -> World {
    World::new(1, Settings::calm(loops))
}

fn signal(to: To) -> Req {
    Req::Direct {
        kind: DirectKind::Signal,
        to,
        about: None,
    }
}

fn find_match(name: usize) -> Req {
    Req::Match {
        name,
        size: 2,
        criteria: 0,
    }
}

impl World {
    /// A registered peer at that loop; returns its key and connection.
    fn peer_at(&mut self, loop_index: usize) -> (usize, usize) {
        let key = self.key_at(loop_index);
        let serial = self.connect(key, "");
        self.settle();
        self.seen(serial);
        (key, serial)
    }

    /// These ask, everything settles, and what they saw is forgotten.
    fn done(&mut self, serials: &[usize], request: &Req) {
        for serial in serials {
            self.ask(*serial, request.clone());
            self.settle();
        }
        (0..self.conns_made()).for_each(|serial| drop(self.seen(serial)));
    }

    /// The kinds of what a client saw, for lists of which only the order matters.
    fn kinds(&mut self, serial: usize) -> Vec<&'static str> {
        let kind = |seen: &Seen| match seen {
            Seen::Registered { .. } => "registered",
            Seen::List { .. } => "list",
            Seen::Joined { .. } => "joined",
            Seen::Left { .. } => "left",
            Seen::Waiting => "waiting",
            Seen::Matched { .. } => "matched",
            Seen::Kicked { .. } => "kicked",
            Seen::Direct { .. } => "direct",
            Seen::Broadcast { .. } => "broadcast",
            Seen::Closed(CLOSE_REPLACED) => "replaced",
            Seen::Closed(_) => "closed",
            Seen::Refused(_) => "refused",
            Seen::NotRegistered(_) | Seen::Created { .. } | Seen::Described { .. } => "other",
        };
        self.seen(serial).iter().map(kind).collect()
    }
}

/// A at loop 0 in a namespace of loop 1; B at loop 2 has asked to join; A knows that B is in, B's loop does not.
fn b_pending_and_announced() -> (World, usize, usize, usize, usize) {
    let mut w = scene(3);
    let name = w.name_at(1);
    let ((_, a), (b_key, b)) = (w.peer_at(0), w.peer_at(2));
    w.done(&[a], &JOIN(name));
    w.ask(b, JOIN(name));
    w.carry(2, 1);
    assert!(w.push(1), "the announcement leaves first");
    assert!(w.handle(0));
    assert_eq!(w.kinds(a), ["joined"]);
    (w, name, a, b, b_key)
}

#[test]
fn signal_during_pending_join() {
    let (mut w, _, a, b, b_key) = b_pending_and_announced();
    w.ask(a, signal(To::Key(b_key)));
    w.carry(0, 2);
    assert!(w.seen(b).is_empty(), "nothing before the list");
    w.settle();
    assert_eq!(w.kinds(b), ["list", "direct"]);
    assert!(w.seen(a).is_empty());
}

#[test]
fn broadcast_during_pending_join_is_not_lost() {
    let (mut w, name, a, b, _) = b_pending_and_announced();
    w.ask(a, CAST(name));
    w.carry(0, 2);
    assert!(w.seen(b).is_empty(), "nothing before the list");
    w.settle();
    assert_eq!(w.kinds(b), ["list", "broadcast"]);
    assert!(w.seen(a).is_empty());
}

#[test]
fn refused_joiner_sees_nothing() {
    let mut w = scene(3);
    let room = w.name_at(1);
    let ((_, a), (b_key, b), (_, c)) = (w.peer_at(0), w.peer_at(2), w.peer_at(2));
    w.done(&[a], &Req::Create { name: room, max: 2 });
    w.done(&[c], &Req::JoinRoom(room));
    w.ask(b, Req::JoinRoom(room));
    w.ask(a, signal(To::Key(b_key)));
    w.ask(a, CAST(room));
    w.carry(0, 2);
    assert_eq!(w.kinds(c), ["broadcast"]);
    w.settle();
    assert_eq!(w.seen(b), [Seen::Refused(Refusal::RoomFull)]);
    assert_eq!(w.seen(a), [Seen::Refused(Refusal::NoSharedNamespace)]);
}

#[test]
fn what_a_peer_sent_comes_before_its_going_though_it_was_held() {
    let mut w = scene(4);
    let (joining, known) = (w.name_at(3), w.name_at(1));
    let ((_, a), (b_key, b), (_, c), (_, d)) = (w.peer_at(0), w.peer_at(2), w.peer_at(2), w.peer_at(3));
    w.done(&[a, c], &JOIN(joining));
    w.done(&[a, b, d], &JOIN(known));
    w.ask(b, JOIN(joining));
    w.ask(a, CAST(joining));
    w.ask(a, CAST(known));
    w.disconnect(a);
    w.carry(0, 2);
    w.carry(0, 1);
    w.carry(1, 2);
    assert!(w.seen(b).is_empty(), "its last broadcast is held, and so is its going");
    w.ask(d, signal(To::Key(b_key)));
    w.carry(3, 2);
    assert_eq!(w.kinds(b), ["direct"], "nobody else waits for that");
    w.settle();
    let seen = w.seen(b);
    let place = |is_it: &dyn Fn(&Seen) -> bool| seen.iter().position(is_it).unwrap();
    let last = place(&|seen| matches!(seen, Seen::Broadcast { name, .. } if *name == known));
    let left = place(&|seen| matches!(seen, Seen::Left { name, .. } if *name == known));
    assert!(last < left, "{seen:?}");
}

#[test]
fn same_key_again_and_again_while_the_first_is_still_leaving() {
    let mut w = scene(3);
    let name = w.name_at(1);
    let ((a_key, a), (_, b)) = (w.peer_at(0), w.peer_at(2));
    w.done(&[a, b], &JOIN(name));
    let later: Vec<usize> = (0..3).map(|_| w.connect(a_key, "")).collect();
    w.carry(0, 2);
    assert_eq!(w.kinds(a), ["replaced"]);
    assert_eq!(
        (w.kinds(later[0]), w.kinds(later[1])),
        (vec!["replaced"], vec!["replaced"])
    );
    assert!(
        w.seen(later[2]).is_empty(),
        "the first session's peer_left is not on its way"
    );
    w.ask(b, signal(To::Key(a_key)));
    w.carry(2, 0);
    w.carry(0, 2);
    assert_eq!(
        w.seen(b),
        [Seen::Refused(Refusal::PeerNotFound)],
        "between sessions it is nobody"
    );
    w.settle();
    assert_eq!(w.kinds(later[2]), ["registered"]);
    assert_eq!(w.kinds(b), ["left"], "once, however many came");
    assert_eq!(w.registered(), 2);
}

#[test]
fn a_leave_under_way_is_waited_for_too() {
    let mut w = scene(3);
    let name = w.name_at(1);
    let ((a_key, a), (_, b)) = (w.peer_at(0), w.peer_at(2));
    w.done(&[a, b], &JOIN(name));
    w.ask(a, Req::Leave(name));
    // An alias that needs no claim: only the leave is between the sessions.
    let next = w.connect(a_key, &"aB".repeat(32));
    assert!(w.seen(next).is_empty(), "registered before the earlier session left");
    w.settle();
    assert_eq!(w.kinds(next), ["registered"]);
    assert_eq!(w.kinds(b), ["left"]);
}

#[test]
fn the_permit_passes_over_to_the_next_session() {
    let mut w = World::new(
        1,
        Settings {
            max_peers: 1,
            ..Settings::calm(3)
        },
    );
    let name = w.name_at(1);
    let (a_key, a) = w.peer_at(0);
    w.done(&[a], &JOIN(name));
    let next = w.connect(a_key, "");
    let stranger_key = w.key_at(2);
    let stranger = w.connect(stranger_key, "");
    assert_eq!(w.seen(stranger), [Seen::NotRegistered(Refusal::ServerFull)]);
    assert_eq!(w.registered(), 1);
    w.settle();
    assert_eq!(w.kinds(next), ["registered"]);
    w.disconnect(next);
    w.settle();
    assert_eq!(w.registered(), 0);
}

#[test]
fn a_replaced_registration_gives_its_alias_to_the_next() {
    let mut w = scene(2);
    let (key, alias) = (w.key_at(0), w.alias_at(1));
    let first = w.connect(key, &alias);
    let second = w.connect(key, &alias);
    w.settle();
    assert_eq!(w.kinds(first), ["replaced"]);
    assert_eq!(w.seen(second), [Seen::Registered { alias: alias.clone() }]);
    assert_eq!(
        w.shards[0].snapshot().peers[0].alias,
        Some(alias),
        "nobody else wanted it"
    );
}

#[test]
fn an_abandoned_registration_gives_its_alias_to_the_next() {
    let mut w = scene(2);
    let (key, alias) = (w.key_at(0), w.alias_at(1));
    let first = w.connect(key, &alias);
    w.disconnect(first);
    w.connect(key, &alias);
    w.settle();
    assert_eq!(w.shards[0].snapshot().peers[0].alias, Some(alias));
}

#[test]
fn an_alias_is_free_before_its_holder_is_gone() {
    let mut w = scene(4);
    let (alias, name) = (w.alias_at(1), w.name_at(2));
    let (a_key, b_key) = (w.key_at(0), w.key_at(3));
    let a = w.connect(a_key, &alias);
    w.settle();
    let (_, d) = w.peer_at(3);
    w.done(&[a, d], &JOIN(name));
    w.disconnect(a);
    assert!(w.push(0), "the release leaves before Gone");
    assert!(w.handle(1));
    let b = w.connect(b_key, &alias);
    w.carry(3, 1);
    w.carry(1, 3);
    assert_eq!(w.kinds(b), ["registered"]);
    assert!(w.seen(d).is_empty(), "the earlier holder's peer_left is still to come");
    w.settle();
    w.done(&[b], &JOIN(name));
    w.ask(d, signal(To::Alias(alias)));
    w.settle();
    assert_eq!(w.kinds(b), ["direct"], "it resolves to the next holder");
}

#[test]
fn the_alias_of_a_dead_holder_does_not_resolve() {
    for looked_up_first in [false, true] {
        let mut w = scene(3);
        let (alias, name, a_key) = (w.alias_at(1), w.name_at(1), w.key_at(0));
        let a = w.connect(a_key, &alias);
        w.settle();
        let (_, d) = w.peer_at(2);
        w.done(&[a, d], &JOIN(name));
        w.ask(d, signal(To::Alias(alias)));
        if looked_up_first {
            w.carry(2, 1);
        }
        w.disconnect(a);
        w.carry(0, 1);
        w.settle();
        let refused = Seen::Refused(Refusal::PeerNotFound);
        assert_eq!(
            w.seen(d).iter().filter(|seen| **seen == refused).count(),
            1,
            "first: {looked_up_first}"
        );
    }
}

/// An owner at loop 0, a member at loop 2 (its key and connection), a room at loop 1.
fn room_of_two() -> (World, usize, usize, usize, usize) {
    let mut w = scene(4);
    let room = w.name_at(1);
    let ((_, owner), (key, member)) = (w.peer_at(0), w.peer_at(2));
    w.done(&[owner], &Req::Create { name: room, max: 4 });
    w.done(&[member], &Req::JoinRoom(room));
    w.done(&[], &Req::Metadata(0));
    (w, room, owner, key, member)
}

#[test]
fn kick_versus_pending_rejoin() {
    for kick_first in [false, true] {
        let (mut w, room, owner, key, member) = room_of_two();
        w.ask(member, JOIN(room));
        w.ask(
            owner,
            Req::Kick {
                name: room,
                target: Some(key),
            },
        );
        let (first, second) = if kick_first { (0, 2) } else { (2, 0) };
        w.carry(first, 1);
        w.carry(second, 1);
        w.settle();
        let (told, seen) = if kick_first {
            (["kicked", "list"], ["left", "joined"])
        } else {
            (["list", "kicked"], ["joined", "left"])
        };
        assert_eq!((w.kinds(member), w.kinds(owner)), (told.to_vec(), seen.to_vec()));
    }
}

#[test]
fn leave_versus_kick() {
    let (mut w, room, owner, key, member) = room_of_two();
    w.ask(member, Req::Leave(room));
    w.ask(
        owner,
        Req::Kick {
            name: room,
            target: Some(key),
        },
    );
    w.carry(0, 1);
    w.settle();
    assert!(
        w.seen(member).is_empty(),
        "it had left: there is nothing to be put out of"
    );
    assert_eq!(w.kinds(owner), ["left"], "once");

    let (mut w, room, owner, key, member) = room_of_two();
    w.ask(member, Req::Leave(room));
    w.carry(2, 1);
    w.ask(
        owner,
        Req::Kick {
            name: room,
            target: Some(key),
        },
    );
    w.settle();
    assert!(w.seen(member).is_empty());
    let seen = w.seen(owner);
    assert!(
        seen.contains(&Seen::Refused(Refusal::PeerNotFound)) && seen.len() == 2,
        "{seen:?}"
    );
}

#[test]
fn the_others_hear_of_a_kick_before_the_kicked_peer_can_act_on_it() {
    let (mut w, room, owner, key, member) = room_of_two();
    let (_, other) = w.peer_at(3);
    w.done(&[other], &Req::JoinRoom(room));
    w.ask(
        owner,
        Req::Kick {
            name: room,
            target: Some(key),
        },
    );
    w.carry(0, 1);
    while w.kinds(member).is_empty() {
        assert!(w.push(1));
        w.handle(2);
    }
    assert!(
        w.links.first_batch(3) > 0,
        "the kick is known to the kicked one, and not on its way to the others"
    );
    w.settle();
    assert_eq!(w.kinds(other), ["left"]);
}

#[test]
fn gone_versus_match() {
    for gone_first in [false, true] {
        let mut w = scene(3);
        let name = w.name_at(1);
        let ((_, a), (_, b)) = (w.peer_at(0), w.peer_at(2));
        w.done(&[a], &find_match(name));
        w.disconnect(a);
        w.ask(b, find_match(name));
        w.carry(if gone_first { 0 } else { 2 }, 1);
        w.settle();
        let told = if gone_first { "waiting" } else { "matched" };
        assert_eq!(w.kinds(b), [told], "a match is final when its home forms it");
    }
}

#[test]
fn a_match_request_under_way_goes_with_its_session() {
    let mut w = scene(3);
    let name = w.name_at(1);
    let ((_, a), (_, b)) = (w.peer_at(0), w.peer_at(2));
    w.ask(a, find_match(name));
    w.disconnect(a);
    w.settle();
    w.ask(b, find_match(name));
    w.settle();
    assert_eq!(w.kinds(b), ["waiting"]);
}

#[test]
fn a_refusal_waits_for_the_awaited_answer() {
    let mut w = scene(3);
    let name = w.name_at(1);
    let ((_, a), (b_key, _)) = (w.peer_at(0), w.peer_at(2));
    w.ask(a, signal(To::Key(b_key)));
    w.ask(a, JOIN(name));
    w.carry(0, 2);
    w.carry(2, 0);
    assert!(
        w.is_waiting(a) && w.seen(a).is_empty(),
        "clients take any error for the answer"
    );
    w.settle();
    assert_eq!(w.kinds(a), ["list", "refused"]);
}

#[test]
fn too_many_refusals_during_one_wait_close_the_connection() {
    let mut w = World::new(
        1,
        Settings {
            send_buffer_size: 1,
            ..Settings::calm(3)
        },
    );
    let name = w.name_at(1);
    let ((_, a), (b_key, _)) = (w.peer_at(0), w.peer_at(2));
    (0..5).for_each(|_| w.ask(a, signal(To::Key(b_key))));
    w.ask(a, JOIN(name));
    w.carry(0, 2);
    w.carry(2, 0);
    assert_eq!(w.kinds(a), ["closed"]);
    w.settle();
    assert_eq!(w.registered(), 1);
}

#[test]
fn traffic_over_the_budget_is_refused_and_control_is_not() {
    let mut w = World::new(
        1,
        Settings {
            traffic_max: 40,
            ..Settings::calm(2)
        },
    );
    let name = w.name_at(0);
    let ((_, a), (b_key, b)) = (w.peer_at(0), w.peer_at(1));
    w.done(&[a, b], &JOIN(name));
    (0..3).for_each(|_| w.ask(a, signal(To::Key(b_key))));
    assert_eq!(
        w.seen(a),
        [Seen::Refused(Refusal::PeerBufferFull)],
        "16 bytes of namespace and a digit: two fit"
    );
    w.ask(a, CAST(name));
    assert_eq!(
        w.seen(a),
        [Seen::Refused(Refusal::SendBufferFullFor(1))],
        "all that the loop serves"
    );
    w.ask(a, Req::Leave(name));
    w.settle();
    assert_eq!(w.kinds(b), ["direct", "direct", "left"]);
    w.done(&[a], &JOIN(name));
    w.ask(a, signal(To::Key(b_key)));
    w.settle();
    assert_eq!(w.kinds(b), ["direct"], "room again once it was handled");
}

#[test]
fn refusals_of_several_loops_are_told_in_one_sum() {
    let mut w = scene(4);
    let name = w.name_at(3);
    let peers: Vec<usize> = [0, 0, 1, 1, 2].into_iter().map(|at| w.peer_at(at).1).collect();
    w.done(&peers, &JOIN(name));
    [1, 2, 4].into_iter().for_each(|slow| w.stop_reading(peers[slow]));
    w.ask(peers[0], CAST(name));
    w.carry(0, 1);
    w.carry(1, 0);
    assert!(w.seen(peers[0]).is_empty(), "one loop has not answered");
    w.carry(0, 2);
    w.settle();
    assert_eq!(w.seen(peers[0]), [Seen::Refused(Refusal::SendBufferFullFor(3))]);
    assert_eq!(w.kinds(peers[3]), ["broadcast"]);
}

#[test]
fn a_sender_is_told_at_once_when_the_joiner_goes_before_it_got_what_was_held() {
    let mut w = scene(2);
    let name = w.name_at(1);
    let ((_, a), (b_key, b)) = (w.peer_at(0), w.peer_at(0));
    w.done(&[a], &JOIN(name));
    w.ask(b, JOIN(name));
    w.ask(a, signal(To::Key(b_key)));
    w.clog(b);
    w.carry(0, 1);
    w.carry(1, 0);
    assert_eq!(w.kinds(b), ["closed"], "the list was one message too many");
    assert_eq!(w.kinds(a).iter().filter(|kind| **kind == "refused").count(), 1);
    w.settle();
}
