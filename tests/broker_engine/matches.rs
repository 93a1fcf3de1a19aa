//! Matchmaking over nodes.

use peer_server::message::Refusal;
use peer_server::message::cluster::{Reply, What};

use crate::bench::*;

pub fn who_asks_the_same_is_matched_wherever_it_is(bench: &dyn Bench) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    let (a, b, c) = (one.register('a', 1), one.register('b', 2), two.register('c', 1));
    let (d, e) = (two.register('d', 2), two.register('e', 3));
    assert_eq!(
        one.ask(seek_as(a, 3, 8, false, Some(Refusal::ServerFull))),
        "server full"
    );
    assert_eq!(one.ask(seek(a, 3, 9)), "waiting");
    assert_eq!(two.ask(seek(d, 2, 1)), "waiting", "another size");
    assert_eq!(two.ask(seek(c, 3, 2)), "waiting");
    // Asked again it stands last.
    assert_eq!(one.ask(seek(a, 3, 10)), "waiting");
    // After a loss it stands where it stood, if it is the same.
    assert_eq!(two.ask(seek_as(c, 3, 2, true, None)), "waiting");
    assert_eq!(two.ask(show(c, "lobby", "x")), "done");
    assert_eq!(
        one.ask(seek_as(b, 3, 4, false, Some(Refusal::ServerFull))),
        "done",
        "completed: nothing to refuse"
    );
    assert_eq!(two.ask(seek(e, 2, 5)), "done");
    assert_eq!(one.events(), ["lobby=c(x)ab for a1#10 b2#4"]);
    assert_eq!(two.events(), ["lobby=c(x)ab for c1#2", "lobby=de for d2#1 e3#5"]);
    // It was met, and its node was told so.
    assert_eq!(two.ask(seek_as(c, 3, 2, true, None)), "done");
    assert_eq!(two.ask(leave(c, "lobby")), "done");
    assert_eq!(one.batch(vec![seek(a, 3, 11), seek(b, 3, 12)]).len(), 2);
    assert_eq!(one.events(), [""; 0], "what was taken back is not met");
}

pub fn no_request_is_met_twice(bench: &dyn Bench) {
    let mut nodes = [Node::new(bench, 1), Node::new(bench, 2), Node::new(bench, 3)];
    let peers: Vec<char> = ('a'..='z').chain('A'..='V').collect();
    for (at, peer) in peers.iter().enumerate() {
        nodes[at % 3].register(*peer, 1);
    }
    std::thread::scope(|scope| {
        for (number, node) in nodes.iter_mut().enumerate() {
            let own: Vec<char> = peers.iter().skip(number).step_by(3).copied().collect();
            scope.spawn(move || {
                for (at, peer) in own.into_iter().enumerate() {
                    let reply = node.run(seek(who(peer, 1), 4, at as u64));
                    assert!(matches!(reply, Reply::Waiting | Reply::Done), "{reply:?}");
                }
            });
        }
    });
    let mut met = Vec::new();
    for node in &mut nodes {
        for event in node.events() {
            let (_, own) = event.split_once(" for ").unwrap();
            met.extend(own.split(' ').map(|one| one.chars().next().unwrap()));
        }
    }
    met.sort_unstable();
    let mut all = peers;
    all.sort_unstable();
    assert_eq!(met, all, "each of them once");
}

pub fn the_dead_are_not_matched(bench: &dyn Bench) {
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    let (a, b) = (one.register('a', 1), two.register('b', 1));
    let (c, d) = (two.register('c', 2), two.register('d', 3));
    one.ask(seek(a, 3, 1));
    two.ask(seek(b, 3, 2));
    bench.lapse(one.nodes.own(), one.epoch);
    assert_eq!(two.ask(seek(c, 3, 3)), "waiting", "a's node does not answer for it");
    assert_eq!(two.ask(seek(d, 3, 4)), "done");
    let mut heard = two.events();
    heard.retain(|event| event != "gone 1");
    assert_eq!(heard, ["lobby=bcd for b1#2 c2#3 d3#4"]);
}

pub fn a_kick_and_an_end_take_requests_back(bench: &dyn Bench) {
    let mut one = Node::new(bench, 1);
    let (a, b, c) = (one.register('a', 1), one.register('b', 2), one.register('c', 3));
    one.ask(create(a, "lobby", 5));
    one.ask(join_room(b, "lobby"));
    one.ask(seek(b, 2, 1));
    one.ask(kick(a, "lobby", 'b'));
    assert_eq!(one.ask(seek(c, 2, 2)), "waiting");
    assert_eq!(one.ask(What::End { who: c }), "done");
    assert_eq!(one.ask(seek(a, 2, 3)), "waiting");
}
