//! What the scripts make of a bad moment: a node that lapsed between two of them, a server with an older state, keys that
//! somebody else wrote, and namespaces that are too large for one step.

use std::sync::Arc;
use std::time::Duration;

use peer_server::broker::redis::{Address, Redis, RedisOptions};
use peer_server::broker::{News, Trouble};
use peer_server::ids::{CommandId, LoopId};
use peer_server::message::cluster::{Command, Reply, RoomTerms, What, Who};

use crate::bench::*;
use crate::on_redis::*;
use crate::server::RedisServer;

#[test]
fn a_request_that_was_met_is_not_met_again() {
    with_redis(|bench| {
        let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
        let (a, b) = (one.register('a', 1), one.register('b', 2));
        let (c, d) = (two.register('c', 1), two.register('d', 2));
        // The connection was lost before the node read of it: it still will.
        one.ask(seek(a, 2, 5));
        assert_eq!(two.ask(seek(c, 2, 1)), "done");
        one.come_back();
        assert_eq!(one.ask(resume(a, Some("alias-a"), &["lobby"])), "registered 0");
        assert_eq!(one.ask(seek_as(a, 2, 5, true, None)), "done");
        assert_eq!(one.events(), ["lobby=ac for a1#5"]);
        // The lease was lost as well, and the inbox with it.
        one.ask(seek(b, 2, 6));
        assert_eq!(two.ask(seek(d, 2, 2)), "done");
        bench.lapse(one.nodes.own(), one.epoch);
        two.lease.renew(two.epoch).unwrap();
        one.come_back();
        assert_eq!(one.ask(resume(b, Some("alias-b"), &["lobby"])), "registered 0");
        assert_eq!(one.ask(seek_as(b, 2, 6, true, None)), "broker unavailable");
        assert_eq!(one.ask(seek(b, 2, 7)), "waiting", "another one is");
        assert!(bench.keys().iter().any(|key| key.starts_with("peer:q:")));
    });
}

#[test]
fn a_match_that_was_in_a_gap_of_the_inbox_is_not_said_to_be_told() {
    with_redis(|bench| {
        let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
        let (a, b) = (one.register('a', 1), one.register('b', 2));
        let (c, d) = (two.register('c', 1), two.register('d', 2));
        one.batch(vec![seek(a, 2, 5), seek(b, 3, 6)]);
        assert_eq!(two.ask(seek(c, 2, 1)), "done");
        let inbox = |node: &Node| format!("peer:in:{}", place(node.nodes.own(), node.epoch));
        bench.run(&["XTRIM", &inbox(&one), "MAXLEN", "0"]);
        one.batch(vec![join(b, "hall")]);
        let again = |node: &mut Node, who, size, ticket| node.ask(seek_as(who, size, ticket, true, None));
        assert_eq!(one.events(), ["gap", "hall+b2@1"]);
        let epoch = one.epoch;
        assert_eq!(one.come_back().epoch, epoch);
        assert_eq!(again(&mut one, b, 3, 6), "waiting");
        assert_eq!(again(&mut one, a, 2, 5), "broker unavailable");
        assert_eq!(two.events(), ["lobby=ac for c1#1"]);
        assert_eq!(again(&mut two, c, 2, 1), "done", "another node missed nothing");
        // What comes after the gap is told.
        one.ask(seek(a, 2, 7));
        assert_eq!(two.ask(seek(d, 2, 2)), "done");
        assert_eq!(again(&mut one, a, 2, 7), "done");
        assert_eq!(one.events(), ["lobby=ad for a1#7"]);

        // The numbers of an inbox are given anew.
        one.ask(seek(b, 2, 8));
        bench.run(&["DEL", &inbox(&one)]);
        assert_eq!(two.ask(seek(d, 2, 3)), "done");
        assert_eq!(one.come_back().epoch, epoch);
        assert_eq!(again(&mut one, b, 2, 8), "broker unavailable");
        assert_eq!(one.events(), ["gap"]);

        // A gap of an earlier epoch is none of the next one's.
        bench.lapse(one.nodes.own(), one.epoch);
        assert_ne!(one.come_back().epoch, epoch);
        let a = one.register('a', 3);
        one.ask(seek(a, 2, 9));
        assert_eq!(two.ask(seek(c, 2, 4)), "done");
        assert_eq!(again(&mut one, a, 2, 9), "done");
    });
}

#[test]
fn who_waits_is_not_shown_so_large_that_its_group_would_be() {
    with_redis(|bench| {
        let mut one = Node::new(bench, 1);
        let a = one.register('a', 1);
        one.ask(seek(a, 1000, 1));
        let waiting = bench.keys().into_iter().find(|key| key.starts_with("peer:w:")).unwrap();
        let entry = || match bench.run(&["HVALS", &waiting]) {
            redis::Value::Array(entries) => format!("{entries:?}"),
            other => panic!("{other:?}"),
        };
        one.ask(show(a, "lobby", "small"));
        let small = entry();
        assert!(small.contains("small"));
        one.ask(show(a, "lobby", &"x".repeat(200)));
        assert_eq!(entry(), small);
    });
}

#[test]
fn a_place_that_the_dead_had_is_not_kept_beyond_the_cap() {
    with_redis(|bench| {
        let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
        let (a, e) = (one.register('a', 1), one.register('e', 2));
        let (b, c) = (two.register('b', 1), two.register('c', 2));
        two.batch(vec![create(b, "room", 2), create(b, "hall", 3)]);
        one.batch(vec![join_room(a, "room"), join_room(a, "hall"), join_room(e, "hall")]);
        bench.lapse(one.nodes.own(), one.epoch);
        two.lease.renew(two.epoch).unwrap();
        two.batch(vec![join_room(c, "room"), join_room(c, "hall")]);
        one.come_back();
        let terms = |max_size| {
            Some(RoomTerms {
                owner: b.fingerprint,
                max_size,
            })
        };
        one.ask(resume(a, None, &["room", "hall"]));
        one.ask(resume(e, None, &["hall"]));
        assert_eq!(one.ask(rejoin(a, "room", terms(2), "")), "room full");
        assert_eq!(one.ask(join_room(a, "room")), "room full");
        assert_eq!(one.ask(rejoin(a, "hall", terms(3), "")), "joined");
        assert_eq!(one.ask(rejoin(e, "hall", terms(3), "")), "room full");
        // Others saw it go, so it stands last.
        assert_eq!(two.ask(roster("hall")), "[b1@2 c2@2 a1@1] of b for 3");
        assert_eq!(one.ask(What::End { who: a }), "done");
        assert_eq!(two.ask(roster("room")), "[b1@2 c2@2] of b for 2");
    });
}

#[test]
fn many_dead_in_a_queue_are_taken_out_in_small_steps() {
    with_redis(|bench| {
        let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
        let waits = |who| {
            let aliases = Vec::new();
            [What::Register { who, aliases }, seeking(who, 300)]
        };
        one.batch((0..250).map(numbered).flat_map(waits).collect());
        two.batch((250..299).map(numbered).flat_map(waits).collect());
        one.lease.release(one.epoch).unwrap();
        two.register('a', 1);
        bench.run(&["CONFIG", "RESETSTAT"]);
        assert_eq!(two.ask(seeking(who('a', 1), 300)), "waiting");
        let info: String = redis::cmd("INFO")
            .arg("commandstats")
            .query(&mut bench.0.connect())
            .unwrap();
        assert!(info.contains("cmdstat_evalsha:calls=2,"), "{info}");
        let queue = bench.keys().into_iter().find(|key| key.starts_with("peer:q:")).unwrap();
        assert_eq!(bench.run(&["ZCARD", &queue]), redis::Value::Int(200));
    });
}

#[test]
fn a_spoilt_namespace_keeps_nobody_from_its_end() {
    with_redis(|bench| {
        let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
        let (a, b) = (one.register('a', 1), one.register('b', 2));
        one.batch(vec![join(a, "lobby"), join(b, "lobby"), join(b, "hall")]);
        let spoilt = bench.keys().into_iter().filter(|key| key.starts_with("peer:r:"));
        for key in spoilt {
            bench.run(&["DEL", &key]);
            bench.run(&["SADD", &key, "x"]);
        }
        one.batch(vec![create(a, "room", 2), join_room(b, "room")]);
        assert_eq!(
            two.ask(What::Register {
                who: who('a', 9),
                aliases: Vec::new()
            }),
            "registered"
        );
        assert_eq!(two.ask(roster("room")), "[b2@1] of a for 2");
        assert_eq!(two.ask(find('b')), "at 1");
        one.lease.release(one.epoch).unwrap();
        while two.lease.sweep().unwrap() {}
        assert_eq!(two.ask(resolve("alias-b")), "resolved -");
        assert!(!bench.keys().contains(&"peer:dead".to_owned()));
        // A set of the dead that is none: no lease ends of it.
        bench.run(&["SET", "peer:dead", "x"]);
        assert_eq!(two.lease.sweep(), Ok(false));
    });
}

#[test]
fn a_node_whose_inbox_is_spoilt_begins_anew() {
    with_redis(|bench| {
        for spoil in [&["SET", "x"][..], &["XADD", "7-1", "e", "x"]] {
            let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
            let (a, b) = (one.register('a', 1), two.register('b', 1));
            one.ask(join(a, "lobby"));
            let inbox = format!("peer:in:{}", place(one.nodes.own(), one.epoch));
            bench.run(&["DEL", &inbox]);
            bench.run(&[&[spoil[0], &inbox], &spoil[1..]].concat());
            assert!(two.ask(join(b, "lobby")).starts_with("joined ["));
            assert_eq!(one.lease.renew(one.epoch), Err(Trouble::Lapsed));
            let mut heard = two.events();
            heard.sort();
            assert_eq!(heard, ["gone 1", "lobby+b1@2"]);
            one.come_back();
            one.ask(resume(a, Some("alias-a"), &["lobby"]));
            assert_eq!(one.ask(rejoin(a, "lobby", None, "")), "joined");
            assert_eq!(one.events(), ["lobby+a1@1"]);
            one.ask(What::End { who: a });
            two.ask(What::End { who: b });
            one.lease.release(one.epoch).unwrap();
            two.lease.release(two.epoch).unwrap();
        }
        // Nobody had to tell it anything.
        let mut one = Node::new(bench, 1);
        let epoch = one.epoch;
        bench.run(&["SET", &format!("peer:in:{}", place(one.nodes.own(), epoch)), "x"]);
        assert!(one.inbox.read(Duration::from_millis(1), &mut |_| ()).is_err());
        assert_ne!(one.come_back().epoch, epoch);
        assert_eq!(one.events(), [""; 0]);
    });
}

#[test]
fn an_inbox_of_an_older_state_is_read_from_where_it_is() {
    with_redis(|bench| {
        let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
        let (a, b) = (one.register('a', 1), two.register('b', 1));
        one.ask(join(a, "lobby"));
        one.events();
        bench.run(&["DEL", &format!("peer:in:{}", place(one.nodes.own(), one.epoch))]);
        two.ask(join(b, "lobby"));
        let (epoch, taken) = (one.epoch, one.come_back());
        assert_eq!(taken.epoch, epoch);
        two.ask(leave(b, "lobby"));
        assert_eq!(one.events(), ["gap", "lobby-b1@2"]);
    });
}

#[test]
fn a_server_that_started_again_makes_an_epoch_new() {
    let Some(server) = RedisServer::start() else { return };
    let mut bench = OnRedis(server);
    let (mut one, mut two) = (Node::new(&bench, 1), Node::new(&bench, 2));
    let (a, b) = (one.register('a', 1), two.register('b', 1));
    one.ask(join(a, "lobby"));
    bench.run(&["SAVE"]);
    two.ask(join(b, "lobby"));
    assert_eq!(one.events(), ["lobby+a1@1", "lobby+b1@2"]);
    bench.0.restart();
    // The numbers in its inbox are given anew.
    let (epoch, place) = (one.epoch, one.inbox.place());
    let taken = one.come_back();
    assert!(taken.epoch > epoch && taken.empty, "what came last may be lost");
    let mut earlier = one.engine.inbox(epoch, place.as_deref()).unwrap();
    let mut news = Vec::new();
    earlier
        .read(Duration::from_millis(10), &mut |told| news.push(told))
        .unwrap();
    assert!(matches!(news[..], [News::Happened(_)]), "from its beginning: {news:?}");
    bench.hold(one.nodes.own(), one.epoch);
    assert_eq!(one.come_back().epoch, taken.epoch, "the same server");
}

#[test]
fn a_list_ends_with_the_member_that_makes_it_too_long() {
    with_redis(|bench| {
        let mut one = Node::new(bench, 1);
        for (peer, session) in ('a'..='f').zip(1..) {
            let who = one.register(peer, session);
            one.ask(join_as(who, "lobby", false, 9, None, &peer.to_string().repeat(100)));
        }
        let options = |list_bytes| RedisOptions {
            list_bytes,
            ..RedisOptions::new(Address::Socket(bench.0.socket()))
        };
        let listed = |one: &mut Node, list_bytes, limit| {
            one.engine = Arc::new(Redis::new(options(list_bytes), one.nodes.clone(), true));
            one.commands = one.engine.commands().unwrap();
            match one.run(list("lobby", limit)) {
                Reply::Listed { peers, total } => {
                    let infos = peers.iter().map(|info| info.json_len());
                    (peers.len(), total, infos.max().unwrap_or_default())
                }
                other => panic!("{other:?}"),
            }
        };
        let (all, _, longest) = listed(&mut one, 1 << 20, 10);
        assert_eq!(all, 6);
        assert_eq!(listed(&mut one, 1 << 20, 4).0, 4);
        assert_eq!(listed(&mut one, 0, 10), (1, 6, longest));
        assert_eq!(listed(&mut one, 3 * longest / 2, 10), (2, 6, longest));
    });
}

#[test]
fn a_server_that_started_again_shows_nobody_as_gone_whose_node_comes_back() {
    let Some(server) = RedisServer::start() else { return };
    let mut bench = OnRedis(server);
    let (mut one, mut two) = (Node::new(&bench, 1), Node::new(&bench, 2));
    let (a, b) = (one.register('a', 1), two.register('b', 1));
    one.ask(join(a, "lobby"));
    two.ask(join(b, "lobby"));
    bench.run(&["SAVE"]);
    bench.0.restart();
    one.come_back();
    two.come_back();
    assert_eq!(one.events(), [""; 0], "not that the other's epoch is over");
    assert_eq!(two.events(), [""; 0]);
}

#[test]
fn a_standstill_ends_no_lease() {
    with_redis(|bench| {
        let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
        let ago = |seconds: i64| {
            let redis::Value::Array(time) = bench.run(&["TIME"]) else {
                panic!()
            };
            let now: i64 = redis::from_redis_value(time[0].clone()).unwrap();
            ((now - seconds) * 1000).to_string()
        };
        let places = [place(one.nodes.own(), one.epoch), place(two.nodes.own(), two.epoch)];
        let stood_still = |seconds| {
            for place in &places {
                bench.run(&["ZADD", "peer:leases", "XX", &ago(seconds), place]);
            }
        };
        stood_still(30);
        assert_eq!(one.come_back().epoch, one.epoch);
        stood_still(30);
        one.lease.renew(one.epoch).unwrap();
        two.lease.renew(two.epoch).unwrap();
        assert_eq!(one.events(), [""; 0]);
        // After so long it was the fleet that was gone.
        stood_still(61);
        assert!(one.lease.renew(one.epoch).is_err());
    });
}

#[test]
fn a_large_roster_is_read_in_steps_while_it_changes() {
    with_redis(|bench| {
        let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
        let enter = |who: Who| {
            let mut what = entering(who, "lobby");
            if let What::Join { info, .. } = &mut what {
                let mut own = (**info).clone();
                own.fingerprint = who.fingerprint;
                *info = own.into();
            }
            let aliases = Vec::new();
            [What::Register { who, aliases }, what]
        };
        two.batch((0..2_500).map(numbered).flat_map(enter).collect());
        let a = one.register('a', 1);
        let mut asked = join_as(a, "lobby", false, 9_999, None, "");
        let mut replies = Vec::new();
        for is_join in [true, false] {
            if !is_join {
                asked = roster("lobby");
            }
            let id = |count| CommandId::new(LoopId::new(0), count);
            let batch = [(1, asked.clone()), (2, find('z'))].map(|(count, what)| Command { id: id(count), what });
            let epoch = one.epoch;
            one.commands
                .run(epoch, &batch, &mut |told, reply| {
                    if told == id(2) && !is_join {
                        // After the script and before the entries are read.
                        two.batch(vec![leave(numbered(1), "lobby"), shown_as_z(numbered(2))]);
                        two.batch(enter(numbered(9_000)).into());
                    }
                    replies.push((told == id(1), reply));
                })
                .unwrap();
        }
        let [(false, _), (true, first), (false, _), (true, second)] = replies.as_slice() else {
            panic!("the others do not wait");
        };
        let Reply::Joined {
            version,
            roster: Some(first),
        } = first
        else {
            panic!("{first:?}")
        };
        let Reply::Roster(second) = second else {
            panic!("{second:?}")
        };
        assert_eq!((*version, second.version), (first.version, first.version));
        let keys = |roster: &peer_server::message::cluster::Roster| -> Vec<_> {
            roster.members.iter().map(|member| member.info.fingerprint).collect()
        };
        let mut expected: Vec<_> = (0..2_500).map(|at| numbered(at).fingerprint).collect();
        expected.push(a.fingerprint);
        assert_eq!(keys(first), expected);
        // Who left is not there, who came is not yet: the events of both come after this version.
        expected.remove(1);
        expected[1] = who('z', 0).fingerprint;
        assert_eq!(keys(second), expected);
    });
}

fn shown_as_z(who: Who) -> What {
    What::Show {
        who,
        namespace: named("lobby"),
        info: info('z', "x"),
    }
}
