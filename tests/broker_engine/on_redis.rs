//! The scenarios on Redis, and what only Redis has: scripts that are forgotten, inboxes that are trimmed, and keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use peer_server::broker::redis::{Address, Redis, RedisOptions};
use peer_server::broker::{Engine, Epoch, News, NodeId, Nodes, Trouble};
use peer_server::ids::{CommandId, Fingerprint, SessionId};
use peer_server::message::cluster::{Event, What, Who};

use crate::bench::*;
use crate::server::RedisServer;

pub struct OnRedis(pub RedisServer);

impl Bench for OnRedis {
    fn engine(&self, nodes: Arc<Nodes>) -> Arc<dyn Engine> {
        let options = RedisOptions::new(Address::Socket(self.0.socket()));
        Arc::new(Redis::new(options, nodes, true))
    }

    fn flush(&self) {
        self.0.flush();
    }

    fn hold(&self, node: NodeId, epoch: Epoch) {
        self.run(&["ZADD", "peer:leases", "XX", "99999999999999", &place(node, epoch)]);
    }

    fn lapse(&self, node: NodeId, epoch: Epoch) {
        self.run(&["ZADD", "peer:leases", "XX", "1", &place(node, epoch)]);
    }
}

impl OnRedis {
    pub fn run(&self, words: &[&str]) -> redis::Value {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.0.connect()).unwrap()
    }

    /// Every key of ours but those that last, and what ends by itself.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut self.0.connect()).unwrap();
        keys.retain(|key| !["peer:generation", "peer:version", "peer:epoch"].contains(&&**key));
        keys.retain(|key| {
            let ends = key.starts_with("peer:t:");
            assert!(!ends || matches!(self.run(&["PTTL", key]), redis::Value::Int(1..=60_000)));
            !ends
        });
        keys.sort();
        keys
    }
}

pub fn place(node: NodeId, epoch: Epoch) -> String {
    format!("{node}:{}", epoch.0)
}

pub fn with_redis(scenario: impl FnOnce(&OnRedis)) {
    if let Some(server) = RedisServer::start() {
        scenario(&OnRedis(server));
    }
}

macro_rules! scenarios {
    ($($module:ident: $($name:ident)*;)*) => {
        $($(
            #[test]
            fn $name() {
                with_redis(|bench| {
                    crate::$module::$name(bench);
                    leaves_no_key(bench);
                });
            }
        )*)*
    };
}

scenarios! {
    spaces: members_hear_of_each_other_in_one_order refusals_come_in_their_order an_owner_may_kick
        coming_again_changes_only_what_differs a_room_that_others_made_again_is_another_room;
    sessions: a_key_has_one_session the_end_of_a_session_is_the_end_of_all_it_has
        going_on_keeps_what_is_named_and_ends_the_rest a_membership_and_a_match_request_are_kept_each_for_itself;
    matches: who_asks_the_same_is_matched_wherever_it_is no_request_is_met_twice the_dead_are_not_matched
        a_kick_and_an_end_take_requests_back;
    lease: an_epoch_that_is_over_is_refused each_node_hears_once_that_another_is_gone
        what_the_dead_had_can_be_had_before_it_is_swept a_node_whose_lease_stands_goes_on_where_it_was
        a_node_that_comes_back_is_another_and_has_its_places_again a_key_taken_elsewhere_meanwhile_is_not_given_back
        a_fleet_tells_everything_again_to_a_broker_that_forgot a_renewal_counts_who_is_there;
}

/// All nodes die as they are, another sweeps: nothing is left but what lasts, and inboxes for as long as their nodes may
/// come back.
fn leaves_no_key(bench: &OnRedis) {
    let mut last = Node::new(bench, 9);
    let leases: Vec<String> = redis::cmd("ZRANGE")
        .arg("peer:leases")
        .arg(0)
        .arg(-1)
        .query(&mut bench.0.connect())
        .unwrap();
    let own = place(last.nodes.own(), last.epoch);
    for other in leases.iter().filter(|place| **place != own) {
        bench.run(&["ZADD", "peer:leases", "XX", "1", other]);
    }
    last.lease.renew(last.epoch).unwrap();
    while last.lease.sweep().unwrap() {}
    last.lease.release(last.epoch).unwrap();
    while last.lease.sweep().unwrap() {}
    for key in bench.keys() {
        let expires: i64 = redis::cmd("PTTL").arg(&key).query(&mut bench.0.connect()).unwrap();
        assert!(key.starts_with("peer:in:") && expires > 0, "{key}");
    }
}

#[test]
fn what_ended_leaves_no_key_even_without_a_sweep() {
    with_redis(|bench| {
        let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
        let (a, b) = (one.register('a', 1), two.register('b', 1));
        one.batch(vec![
            join(a, "lobby"),
            create(a, "room", 3),
            seek(a, 3, 1),
            seek(a, 2, 2),
        ]);
        two.batch(vec![
            join(b, "lobby"),
            join_room(b, "room"),
            seek(b, 4, 3),
            What::End { who: b },
        ]);
        one.batch(vec![leave(a, "room"), What::End { who: a }]);
        let left = bench.keys();
        assert!(
            left.iter()
                .all(|key| key == "peer:leases" || key.starts_with("peer:in:")),
            "{left:?}"
        );
    });
}

#[test]
fn a_step_of_the_sweep_is_small() {
    with_redis(|bench| {
        let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
        let registers = (0..700).map(|session| {
            let who = numbered(session);
            What::Register {
                who,
                aliases: vec![format!("{session}").into()],
            }
        });
        one.batch(registers.collect());
        one.lease.release(one.epoch).unwrap();
        assert!(two.lease.sweep().unwrap());
        assert_eq!(
            bench.run(&["SCARD", &format!("peer:n:{}", place(one.nodes.own(), one.epoch))]),
            redis::Value::Int(200)
        );
        assert!(!two.lease.sweep().unwrap());
        let inbox = format!("peer:in:{}", place(two.nodes.own(), two.epoch));
        assert_eq!(bench.keys(), [inbox, "peer:leases".to_owned()]);
    });
}

#[test]
fn the_largest_group_is_told_to_all() {
    with_redis(|bench| {
        let mut nodes = [1, 2].map(|number| Node::new(bench, number));
        for at in 0..1000 {
            let who = numbered(at);
            let register = What::Register {
                who,
                aliases: Vec::new(),
            };
            nodes[at as usize % 2].batch(vec![register, seeking(who, 1000)]);
        }
        for node in &mut nodes {
            let mut told = Vec::new();
            node.inbox
                .read(Duration::from_millis(1), &mut |news| told.push(news))
                .unwrap();
            let [News::Happened(Event::Matched { members, matched, .. })] = told.as_slice() else {
                panic!("{} news", told.len());
            };
            assert_eq!((members.len(), matched.peers.len()), (500, 1000));
        }
    });
}

#[test]
fn scripts_that_are_forgotten_are_loaded_again() {
    with_redis(|bench| {
        let mut one = Node::new(bench, 1);
        let a = one.register('a', 1);
        bench.run(&["SCRIPT", "FLUSH"]);
        let replies = one.batch(vec![
            join(a, "lobby"),
            roster("lobby"),
            leave(a, "lobby"),
            roster("lobby"),
        ]);
        let replies: Vec<_> = replies.iter().map(|reply| one.written(reply)).collect();
        assert_eq!(replies, ["joined [a1@1]", "[a1@1]", "done", "[]"]);
        bench.run(&["SCRIPT", "FLUSH"]);
        one.lease.renew(one.epoch).unwrap();
    });
}

#[test]
fn a_gap_in_the_inbox_is_told_and_nothing_twice() {
    with_redis(|bench| {
        let mut one = Node::new(bench, 1);
        let a = one.register('a', 1);
        one.ask(join(a, "lobby"));
        assert_eq!(one.events(), ["lobby+a1@1"]);
        let read = one.inbox.place().unwrap();
        one.batch(vec![join(a, "hall"), leave(a, "hall"), join(a, "other")]);
        let key = format!("peer:in:{}", place(one.nodes.own(), one.epoch));
        bench.run(&["XTRIM", &key, "MAXLEN", "1"]);
        assert_eq!(one.events(), ["gap", "other+a1@1"]);
        // From an earlier place the same comes again, from a later one nothing.
        let mut again = one.engine.inbox(one.epoch, Some(&read)).unwrap();
        let mut told = Vec::new();
        again
            .read(Duration::from_millis(1), &mut |news| told.push(news))
            .unwrap();
        assert!(
            matches!(told.as_slice(), [News::Gap, News::Happened(_), ..]),
            "{told:?}"
        );
        let mut later = one.engine.inbox(one.epoch, one.inbox.place().as_deref()).unwrap();
        later
            .read(Duration::from_millis(1), &mut |news| panic!("{news:?}"))
            .unwrap();
        assert!(one.engine.inbox(one.epoch, Some("nonsense")).is_err());
    });
}

#[test]
fn what_was_read_is_trimmed() {
    with_redis(|bench| {
        let mut one = Node::new(bench, 1);
        let a = one.register('a', 1);
        for _ in 0..30 {
            one.batch((0..100).flat_map(|_| [join(a, "lobby"), leave(a, "lobby")]).collect());
            assert_eq!(one.events().len(), 200);
        }
        let key = format!("peer:in:{}", place(one.nodes.own(), one.epoch));
        let redis::Value::Int(entries) = bench.run(&["XLEN", &key]) else {
            panic!()
        };
        assert!(entries < 2000, "{entries}");
    });
}

#[test]
fn values_that_nobody_of_ours_wrote_do_no_harm() {
    with_redis(|bench| {
        let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
        let (a, b) = (one.register('a', 1), two.register('b', 1));
        one.ask(join(a, "lobby"));
        two.ask(join(b, "lobby"));
        one.events();
        let keys = bench.keys();
        let key = |begin: &str| keys.iter().find(|key| key.starts_with(begin)).unwrap().clone();
        let (roster_key, order) = (key("peer:r:"), key("peer:o:"));
        let own = place(one.nodes.own(), one.epoch);
        let deep = format!("{own}:1 {}", "[".repeat(100_000));
        let long = format!(
            "{own}:1 {{\"fingerprint\":\"{}\",\"alias\":\"{}\"}}",
            "0".repeat(64),
            "x".repeat(200)
        );
        for (at, strange) in [
            "",
            " ",
            "x",
            &own,
            &format!("{own}:1 "),
            &format!("{own}:1 {{}}"),
            &deep,
            &long,
            "\u{0}\u{1}",
        ]
        .into_iter()
        .enumerate()
        {
            let member = format!("strange {at}");
            bench.run(&["HSET", &roster_key, &member, strange]);
            bench.run(&["ZADD", &order, "1", &member]);
        }
        assert_eq!(one.ask(roster("lobby")), "[a1@1 b1@2]");
        assert_eq!(one.ask(list("lobby", 100)), "2: ab");
        let inbox = format!("peer:in:{own}");
        for fields in [
            &["a", "b"][..],
            &["e", "joined"],
            &["e", "joined", "ns", "zz", "v", "x"],
            &["e", "left", "ns", "", "v", "1"],
            &["e", "gone", "p", "x"],
            &["e", "replaced", "at", ":::", "f", "a"],
            &["e", "matched", "g", "00", "w", "::"],
        ] {
            bench.run(&[&["XADD", &inbox, "1-*"][..], fields].concat());
        }
        assert_eq!(one.events(), [""; 0]);
        // Keys of other types: what is asked of them is lost, and nothing else.
        for (key, ask) in [("peer:a:alias-b", resolve("alias-b")), (&*roster_key, roster("lobby"))] {
            bench.run(&["DEL", key]);
            bench.run(&["SADD", key, "x"]);
            let replies = one.batch(vec![find('b'), ask, find('b')]);
            let replies: Vec<_> = replies.iter().map(|reply| one.written(reply)).collect();
            assert_eq!(replies, ["at 2", "lost", "at 2"]);
        }
        bench.run(&["XADD", &inbox, "7-1", "e", "gone"]);
        let strange = one.inbox.read(Duration::from_millis(1), &mut |_| ());
        assert!(matches!(strange, Err(Trouble::Lost(_))), "{strange:?}");
    });
}

/// A group that is never complete, so that its queue has everybody.
const NEVER: u32 = 1_000_000;

/// What a step costs the server: `cargo test --test broker_engine what_scripts_cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_scripts_cost() {
    with_redis(|bench| {
        let mut nodes = [1, 2, 3].map(|number| Node::new(bench, number));
        let own: Vec<Who> = (0..100).map(|at| numbered(1_000_000 + at)).collect();
        let registers = own.iter().map(|who| What::Register {
            who: *who,
            aliases: Vec::new(),
        });
        nodes[0].batch(registers.collect());
        let mut there = 0;
        for size in [10, 1_000, 100_000] {
            while there < size {
                let until = size.min(there + 100);
                let all = (there..until).map(numbered).flat_map(|who| {
                    let aliases = vec![format!("alias {}", who.session.as_u64()).into()];
                    [
                        What::Register { who, aliases },
                        entering(who, "lobby"),
                        seeking(who, NEVER),
                    ]
                });
                nodes[(there / 100) as usize % 3].batch(all.collect());
                there = until;
            }
            let one = &mut nodes[0];
            let each = |make: &dyn Fn(Who) -> What| own.iter().map(|who| make(*who)).collect::<Vec<_>>();
            let first = numbered(0);
            measure(bench, one, size, "join", each(&|who| entering(who, "lobby")));
            measure(
                bench,
                one,
                size,
                "show",
                each(&|who| What::Show {
                    who,
                    namespace: named("lobby"),
                    info: info('a', ""),
                }),
            );
            measure(bench, one, size, "list 50", each(&|_| list("lobby", 50)));
            measure(bench, one, size, "leave", each(&|who| leave(who, "lobby")));
            measure(bench, one, size, "match, waits", each(&|who| seeking(who, NEVER)));
            measure(bench, one, size, "match, taken back", each(&|who| leave(who, "lobby")));
            measure(bench, one, size, "match, pairs", each(&|who| seeking(who, 2)));
            measure(
                bench,
                one,
                size,
                "find",
                each(&|_| What::Find {
                    fingerprint: first.fingerprint,
                }),
            );
            measure(bench, one, size, "resolve", each(&|_| resolve("alias 5")));
            measure(
                bench,
                one,
                size,
                "register",
                each(&|who| What::Register {
                    who,
                    aliases: Vec::new(),
                }),
            );
            measure(bench, one, size, "roster", vec![roster("lobby")]);
        }
        nodes[1].lease.release(nodes[1].epoch).unwrap();
        bench.run(&["CONFIG", "RESETSTAT"]);
        nodes[0].lease.sweep().unwrap();
        println!("sweep: {:?}", stats(bench));
    });
}

/// How long a large roster keeps the server from others, as above: `what_a_large_roster_costs`.
#[test]
#[ignore = "a measurement"]
fn what_a_large_roster_costs() {
    with_redis(|bench| {
        let mut nodes = [1, 2, 3].map(|number| Node::new(bench, number));
        spread(&mut nodes, &|who| What::Register {
            who,
            aliases: Vec::new(),
        });
        let joined = spread(&mut nodes, &|who| entering(who, "lobby"));
        println!("joined in {joined:?}, {} bytes", used(bench));
        let done = AtomicBool::new(false);
        let mut connection = bench.0.connect();
        std::thread::scope(|scope| {
            let pings = scope.spawn(|| {
                let mut longest = Duration::ZERO;
                while !done.load(Ordering::Acquire) {
                    let from = Instant::now();
                    redis::cmd("PING").exec(&mut connection).unwrap();
                    longest = longest.max(from.elapsed());
                }
                longest
            });
            let from = Instant::now();
            nodes[0].batch(vec![roster("lobby")]);
            let took = from.elapsed();
            done.store(true, Ordering::Release);
            println!("roster in {took:?}, longest PING {:?}", pings.join().unwrap());
        });
    });
}

/// What a hundred thousand who wait for a match take, as above: `what_a_hundred_thousand_waiting_cost`.
#[test]
#[ignore = "a measurement"]
fn what_a_hundred_thousand_waiting_cost() {
    with_redis(|bench| {
        let mut nodes = [1, 2, 3].map(|number| Node::new(bench, number));
        let registered = spread(&mut nodes, &|who| What::Register {
            who,
            aliases: Vec::new(),
        });
        println!("registered in {registered:?}, {} bytes", used(bench));
        let apart = |who: Who| {
            let mut what = seeking(who, 2);
            if let What::Match { criteria, .. } = &mut what {
                criteria.0[..8].copy_from_slice(&(who.session.as_u64() / 2).to_be_bytes());
                criteria.0[8] = u8::from(who.session.as_u64() % 2 == 1);
            }
            what
        };
        bench.run(&["CONFIG", "RESETSTAT"]);
        let waiting = spread(&mut nodes, &apart);
        println!("waiting in {waiting:?}, {} bytes, each in a queue", used(bench));
        println!("{:?} commands and microseconds of scripts", stats(bench));
        bench.run(&["CONFIG", "RESETSTAT"]);
        let met = spread(&mut nodes, &|who| seeking(who, 2));
        println!("met in pairs in {met:?}, {} bytes", used(bench));
        println!("{:?} commands and microseconds of scripts", stats(bench));
    });
}

/// A hundred thousand commands, spread over the nodes. How long that takes.
fn spread(nodes: &mut [Node], make: &dyn Fn(Who) -> What) -> Duration {
    let from = Instant::now();
    for first in (0..100_000).step_by(250) {
        let batch = (first..first + 250).map(numbered).map(make);
        nodes[(first / 250) as usize % 3].batch(batch.collect());
    }
    from.elapsed()
}

/// Bytes that the server uses.
fn used(bench: &OnRedis) -> u64 {
    let mut info = redis::cmd("INFO");
    let text: String = info.arg("memory").query(&mut bench.0.connect()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.unwrap().parse().unwrap()
}

pub fn seeking(who: Who, group_size: u32) -> What {
    let mut what = seek(self::who('a', 0), group_size, 1);
    if let What::Match { who: asker, ticket, .. } = &mut what {
        (*asker, *ticket) = (who, CommandId::from_u64(who.session.as_u64()));
    }
    what
}

pub fn entering(who: Who, name: &str) -> What {
    let mut what = join(self::who('a', 0), name);
    if let What::Join {
        who: asker,
        members_max,
        roster,
        ..
    } = &mut what
    {
        (*asker, *members_max, *roster) = (who, u32::MAX, false);
    }
    what
}

pub fn numbered(session: u64) -> Who {
    let fingerprint = Fingerprint::of_key(&format!("key {session}"));
    Who {
        fingerprint,
        session: SessionId::from_u64(session),
    }
}

fn measure(bench: &OnRedis, node: &mut Node, size: u64, name: &str, batch: Vec<What>) {
    let count = batch.len() as f64;
    bench.run(&["CONFIG", "RESETSTAT"]);
    node.batch(batch);
    let (calls, micros) = stats(bench);
    println!(
        "{size:>7} {name:<18} {:>5.1} commands, {:>8.1} us",
        calls as f64 / count,
        micros / count
    );
}

/// Commands that scripts ran, and microseconds of the scripts.
pub fn stats(bench: &OnRedis) -> (u64, f64) {
    let text: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(&mut bench.0.connect())
        .unwrap();
    let (mut calls, mut micros) = (0, 0.0);
    for line in text.lines().filter_map(|line| line.strip_prefix("cmdstat_")) {
        let field = |name: &str| {
            line.split([':', ','])
                .find_map(|field| field.strip_prefix(name))
                .unwrap()
                .to_owned()
        };
        match line.split(':').next().unwrap() {
            "evalsha" => micros = field("usec=").parse().unwrap(),
            "config|resetstat" | "client|setinfo" | "script|load" => {}
            _ => calls += field("calls=").parse::<u64>().unwrap(),
        }
    }
    (calls, micros)
}
