//! Sessions: keys, aliases, the same key on another node, and going on after the broker was lost.

use peer_server::message::cluster::What;

use crate::bench::*;

pub fn a_key_has_one_session(bench: &dyn Bench) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    let a = one.register('a', 1);
    let c = two.register('c', 1);
    assert_eq!(two.ask(find('a')), "at 1");
    assert_eq!(one.ask(find('a')), "nowhere else");
    assert_eq!(one.ask(find('z')), "nowhere else");
    one.ask(join(a, "lobby"));
    two.ask(join(c, "lobby"));
    one.ask(seek(a, 3, 5));
    let again = who('a', 9);
    let aliases = vec!["alias-c".into(), "alias-a".into(), "other".into()];
    assert_eq!(two.ask(What::Register { who: again, aliases }), "registered 1");
    assert_eq!(one.ask(find('a')), "at 2");
    assert_eq!(one.ask(resolve("alias-a")), "resolved a");
    assert_eq!(one.ask(leave(a, "lobby")), "stale");
    assert_eq!(one.ask(What::End { who: a }), "done", "of a session that is not there");
    assert_eq!(one.ask(roster("lobby")), "[c1@2]");
    assert_eq!(one.events(), ["lobby+a1@1", "lobby+c1@2", "lobby-a1@1", "replaced a1"]);
    assert_eq!(two.events(), ["lobby+c1@2", "lobby-a1@1"]);
    // Again on the same node: that knows by itself.
    assert_eq!(
        two.ask(What::Register {
            who: who('a', 10),
            aliases: vec!["alias-c".into()]
        }),
        "registered"
    );
    assert_eq!(two.ask(resolve("alias-a")), "resolved -");
    assert_eq!(two.events(), [""; 0]);
}

pub fn the_end_of_a_session_is_the_end_of_all_it_has(bench: &dyn Bench) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    let (a, c) = (one.register('a', 1), two.register('c', 1));
    one.batch(vec![
        join(a, "lobby"),
        join(a, "hall"),
        create(a, "room", 3),
        seek(a, 2, 3),
    ]);
    two.batch(vec![join(c, "lobby"), join(c, "hall")]);
    assert_eq!(one.ask(What::End { who: a }), "done");
    assert_eq!(two.ask(find('a')), "nowhere else");
    assert_eq!(two.ask(resolve("alias-a")), "resolved -");
    assert_eq!(two.ask(describe("room")), "room not found");
    assert_eq!(two.ask(seek(c, 2, 4)), "waiting");
    let mut heard = two.events();
    heard.sort();
    assert_eq!(heard, ["hall+c1@2", "hall-a1@1", "lobby+c1@2", "lobby-a1@1"]);
}

pub fn going_on_keeps_what_is_named_and_ends_the_rest(bench: &dyn Bench) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    let (a, c) = (one.register('a', 1), two.register('c', 1));
    one.batch(vec![join(a, "lobby"), join(a, "hall"), seek(a, 2, 3)]);
    two.batch(vec![join(c, "lobby"), join(c, "hall")]);
    assert_eq!(one.ask(resume(a, Some("alias-a"), &["hall"])), "registered 0");
    assert_eq!(two.ask(roster("hall")), "[a1@1 c1@2]");
    assert_eq!(two.ask(roster("lobby")), "[c1@2]");
    assert_eq!(two.ask(seek(c, 2, 4)), "waiting", "its request has gone with the lobby");
    assert_eq!(two.ask(resume(who('a', 1), Some("alias-a"), &[])), "taken");
    assert_eq!(one.ask(roster("hall")), "[a1@1 c1@2]");
    // Another has its alias.
    one.ask(resume(a, None, &["hall"]));
    let d = who('d', 2);
    assert_eq!(
        two.ask(What::Register {
            who: d,
            aliases: vec!["alias-a".into()]
        }),
        "registered 0"
    );
    assert_eq!(one.ask(resume(a, Some("alias-a"), &["hall"])), "registered");
    assert_eq!(one.ask(resolve("alias-a")), "resolved d");
    assert_eq!(two.events(), ["lobby+c1@2", "hall+c1@2", "lobby-a1@1"]);
}

pub fn a_membership_and_a_match_request_are_kept_each_for_itself(bench: &dyn Bench) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    let (a, c) = (one.register('a', 1), two.register('c', 1));
    two.ask(join(c, "lobby"));
    one.batch(vec![join(a, "lobby"), seek(a, 2, 3)]);
    let alias = Some("alias-a");
    assert_eq!(one.ask(resume_waiting(a, alias, &[], &["lobby"])), "registered 0");
    assert_eq!(
        two.ask(roster("lobby")),
        "[c1@2]",
        "it does not say that it is a member"
    );
    assert_eq!(one.ask(seek_as(a, 2, 3, true, None)), "waiting", "but that it waits");
    assert_eq!(two.events(), ["lobby+c1@2", "lobby+a1@1", "lobby-a1@1"]);
    one.ask(join(a, "lobby"));
    assert_eq!(one.ask(resume_waiting(a, alias, &["lobby"], &[])), "registered 0");
    assert_eq!(two.ask(roster("lobby")), "[c1@2 a1@1]");
    assert_eq!(two.ask(seek(c, 2, 4)), "waiting", "its request is given up");
    assert_eq!(two.events(), ["lobby+a1@1"]);
}
