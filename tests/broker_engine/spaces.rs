//! Namespaces and rooms: who is in, who hears of it, who is refused and for what.

use peer_server::message::Refusal;
use peer_server::message::cluster::{Reply, RoomTerms, What, Who};

use crate::bench::*;

/// Two nodes; a and b are registered on the first, c and d on the second.
fn two(bench: &dyn Bench) -> (Node, Node) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    one.register('a', 1);
    one.register('b', 2);
    two.register('c', 1);
    two.register('d', 2);
    (one, two)
}

pub fn members_hear_of_each_other_in_one_order(bench: &dyn Bench) {
    let (mut one, mut two) = two(bench);
    let (a, b, c, d) = (who('a', 1), who('b', 2), who('c', 1), who('d', 2));
    assert_eq!(one.ask(join(a, "lobby")), "joined [a1@1]");
    assert_eq!(two.ask(join(c, "lobby")), "joined [a1@1 c1@2]");
    assert_eq!(
        one.ask(join_as(b, "lobby", false, 3, None, "app")),
        "joined [a1@1 c1@2 b(app)2@1]"
    );
    assert_eq!(one.ask(show(a, "lobby", "new")), "done");
    // Shown anew in its old place, and nothing else is checked.
    let again = join_as(a, "lobby", false, 0, Some(Refusal::ServerFull), "x");
    assert_eq!(one.ask(again), "joined [a(x)1@1 c1@2 b(app)2@1]");
    assert_eq!(two.ask(list("lobby", 2)), "3: a(x)c");
    assert_eq!(two.ask(list("hall", 2)), "0: ");
    assert_eq!(one.ask(leave(a, "lobby")), "done");
    assert_eq!(one.ask(leave(a, "lobby")), "done");
    assert_eq!(two.ask(leave(d, "lobby")), "done");
    assert_eq!(one.ask(leave(b, "lobby")), "done");
    assert_eq!(two.ask(show(d, "lobby", "nowhere")), "done");
    assert_eq!(two.ask(leave(c, "lobby")), "done");
    assert_eq!(two.ask(roster("lobby")), "[]");
    assert_eq!(two.ask(join(d, "lobby")), "joined [d2@2]");
    let all = [
        "lobby+a1@1",
        "lobby+c1@2",
        "lobby+b(app)2@1",
        "lobby~a(new)1@1",
        "lobby+a(x)1@1",
        "lobby-a1@1",
        "lobby-b2@1",
        "lobby-c1@2",
        "lobby+d2@2",
    ];
    assert_eq!(one.events(), all[..7], "until its last member left");
    assert_eq!(two.events(), all[1..], "from its first member on");
}

pub fn refusals_come_in_their_order(bench: &dyn Bench) {
    let (mut one, mut two) = two(bench);
    let (a, b, c, d) = (who('a', 1), who('b', 2), who('c', 1), who('d', 2));
    let full = Some(Refusal::TooManyNamespaces);
    assert_eq!(one.ask(join_as(a, "room", true, 9, full, "")), "room not found");
    let refused = What::CreateRoom {
        who: a,
        namespace: named("room"),
        name: "room".into(),
        info: info('a', ""),
        max_size: 2,
        refuse: Some(Refusal::ServerFull),
    };
    assert_eq!(one.ask(refused.clone()), "server full");
    assert_eq!(one.ask(create(a, "room", 2)), "created");
    assert_eq!(two.ask(create(c, "room", 2)), "room already exists");
    assert_eq!(one.ask(refused), "room already exists");
    assert_eq!(two.ask(join_as(c, "room", true, 9, full, "")), "too many namespaces");
    assert_eq!(two.ask(join_room(c, "room")), "joined [a1@1 c1@2] of a for 2");
    assert_eq!(two.ask(join_as(d, "room", true, 9, full, "")), "room full");
    assert_eq!(
        two.ask(join_as(d, "room", false, 9, full, "")),
        "namespace full",
        "by its name: the room's cap"
    );
    assert_eq!(one.ask(join_as(b, "hall", false, 1, None, "")), "joined [b2@1]");
    assert_eq!(two.ask(join_as(d, "hall", false, 1, full, "")), "namespace full");
    assert_eq!(two.ask(join_as(d, "hall", false, 2, full, "")), "too many namespaces");
    assert_eq!(
        two.ask(join_as(d, "hall", true, 2, None, "")),
        "room not found",
        "no room"
    );
    assert_eq!(
        two.ask(create(d, "hall", 2)),
        "room already exists",
        "a namespace with members"
    );
    assert_eq!(two.ask(list("room", 9)), "cannot discover room peers");
    assert_eq!(two.ask(describe("room")), "2 of 2 of a");
    assert_eq!(two.ask(describe("hall")), "room not found");
    assert_eq!(two.ask(describe("none")), "room not found");
    let stale = who('a', 7);
    let asked = vec![
        join(stale, "lobby"),
        rejoin(stale, "lobby", None, ""),
        create(stale, "lobby", 2),
        leave(stale, "room"),
        kick(stale, "room", 'c'),
        show(stale, "room", "x"),
        seek(stale, 2, 1),
        join(who('z', 1), "lobby"),
    ];
    for reply in one.batch(asked) {
        assert!(matches!(reply, Reply::Stale), "{reply:?}");
    }
    assert_eq!(two.ask(leave(a, "room")), "stale", "of another node");
    assert_eq!(one.ask(What::End { who: stale }), "done");
    assert_eq!(one.ask(roster("room")), "[a1@1 c1@2] of a for 2");
}

pub fn an_owner_may_kick(bench: &dyn Bench) {
    let (mut one, mut two) = two(bench);
    let (a, c, d) = (who('a', 1), who('c', 1), who('d', 2));
    assert_eq!(two.ask(kick(c, "room", 'a')), "room not found");
    one.ask(create(a, "room", 3));
    two.ask(join_room(c, "room"));
    two.ask(join(d, "hall"));
    assert_eq!(two.ask(kick(c, "room", 'z')), "only room owner can kick");
    assert_eq!(two.ask(kick(d, "hall", 'd')), "room not found");
    assert_eq!(one.ask(kick(a, "room", 'd')), "peer not found");
    let nobody = What::Kick {
        who: a,
        namespace: named("room"),
        target: None,
    };
    assert_eq!(one.ask(nobody), "peer not found");
    assert_eq!(one.ask(kick(a, "room", 'c')), "done");
    assert_eq!(two.ask(join_room(c, "room")), "joined [a1@1 c1@2] of a for 3");
    assert_eq!(two.ask(leave(c, "room")), "done");
    assert_eq!(
        one.ask(kick(a, "room", 'a')),
        "done",
        "the last member takes the room with it"
    );
    assert_eq!(one.ask(describe("room")), "room not found");
    let terms = " of a for 3";
    assert_eq!(
        one.events(),
        [
            format!("room+a1@1{terms}"),
            format!("room+c1@2{terms}"),
            "room-c1@2 by a".to_owned(),
            format!("room+c1@2{terms}"),
            "room-c1@2".to_owned(),
            "room-a1@1 by a".to_owned(),
        ]
    );
    let heard = two.events();
    assert_eq!(heard.len(), 5, "{heard:?}");
    assert_eq!(heard[2], "room-c1@2 by a");
}

pub fn coming_again_changes_only_what_differs(bench: &dyn Bench) {
    let (mut one, mut two) = two(bench);
    let (a, c, d) = (who('a', 1), who('c', 1), who('d', 2));
    one.ask(create(a, "room", 2));
    two.ask(join_room(c, "room"));
    let terms = Some(RoomTerms {
        owner: a.fingerprint,
        max_size: 2,
    });
    one.events();
    assert_eq!(two.ask(resume(c, Some("alias-c"), &["room"])), "registered 0");
    assert_eq!(two.ask(rejoin(c, "room", terms, "")), "joined");
    assert_eq!(two.ask(rejoin(c, "room", terms, "x")), "joined");
    assert_eq!(two.ask(rejoin(d, "room", terms, "")), "room full");
    assert_eq!(
        two.ask(rejoin(d, "room", None, "")),
        "namespace full",
        "a plain namespace where now a room is"
    );
    assert_eq!(
        two.ask(rejoin(d, "other", terms, "")),
        "room not found",
        "the broker has lost nothing"
    );
    assert_eq!(two.ask(join(d, "hall")), "joined [d2@2]");
    assert_eq!(one.ask(rejoin(a, "hall", terms, "")), "room not found", "no room");
    assert_eq!(one.ask(rejoin(a, "hall", None, "")), "joined");
    assert_eq!(one.events(), ["room~c(x)1@2", "hall+a1@1"]);
}

pub fn a_room_that_others_made_again_is_another_room(bench: &dyn Bench) {
    let (mut one, mut two) = two(bench);
    let (a, c) = (who('a', 1), who('c', 1));
    let of = |who: Who| {
        Some(RoomTerms {
            owner: who.fingerprint,
            max_size: 4,
        })
    };
    two.ask(create(c, "room", 4));
    assert_eq!(one.ask(rejoin(a, "room", of(a), "")), "room not found");
    assert_eq!(one.ask(roster("room")), "[c1@2] of c for 4");
    assert_eq!(one.ask(rejoin(a, "room", of(c), "")), "joined");
    assert_eq!(
        one.ask(rejoin(a, "room", of(a), "")),
        "room not found",
        "a member by then"
    );
    assert_eq!(two.ask(rejoin(c, "room", of(c), "")), "joined");
    assert_eq!(two.ask(describe("room")), "2 of 4 of c");
}
