//! What the model of the broker does, a rule of the contract each.
//!
//! Owns: one test for each rule that a reader of the contract may doubt.
//! Never: runs a shard.

use std::sync::Arc;

use peer_server::broker::{Epoch, NodeId, Nodes};
use peer_server::ids::{CommandId, Fingerprint, Homes, LoopId, NamespaceId, SessionId};
use peer_server::message::cluster::{Reply, RoomTerms, What, Who};
use peer_server::message::{CriteriaKey, Meta, PeerInfo, Refusal};

use crate::model::{Broker, Happened, Lapsed, Place, Told};

/// Two nodes with a broker.
struct Two {
    broker: Broker,
    nodes: [Nodes; 2],
    epochs: [Epoch; 2],
    generation: u64,
    read: [usize; 2],
}

impl Two {
    fn new() -> Self {
        let mut broker = Broker::at(1000);
        let nodes = [1, 2].map(|byte| Nodes::new(NodeId::from_bytes([byte; 16])));
        let leases = [0, 1].map(|n: usize| broker.take_up(nodes[n].own(), None, None));
        (0..2).for_each(|n| nodes[n].set_epoch(leases[n].epoch));
        let epochs = leases.map(|lease| lease.epoch);
        Self {
            broker,
            nodes,
            epochs,
            generation: leases[0].generation,
            read: [0; 2],
        }
    }

    /// A lease runs out while the other one is renewed.
    fn miss_renewals_of(&mut self, node: usize) {
        for _ in 0..2 {
            self.broker.now_ms += 2000;
            let other = self.place(1 - node);
            self.broker.renew(other).unwrap();
        }
    }

    fn place(&self, n: usize) -> Place {
        (self.nodes[n].own(), self.epochs[n])
    }

    fn run(&mut self, n: usize, what: What) -> Reply {
        self.broker
            .run(self.place(n), &what, &self.nodes[n])
            .expect("the epoch is not over")
    }

    fn register(&mut self, n: usize, key: &str) -> Who {
        let who = who(key, n as u64 + 1);
        self.run(
            n,
            What::Register {
                who,
                aliases: vec![key.into()],
            },
        );
        who
    }

    fn join(&mut self, n: usize, who: Who) -> Reply {
        self.run(n, join(who, false, 10))
    }

    /// What an inbox holds since it was last looked at, in a word each.
    fn news(&mut self, n: usize) -> Vec<&'static str> {
        let told = self.broker.inbox(self.place(n), self.read[n]);
        self.read[n] += told.len();
        let word = |told: &Told| match told {
            Told::Changed {
                change: Happened::Joined(..),
                ..
            } => "joined",
            Told::Changed {
                change: Happened::Shown(_),
                ..
            } => "shown",
            Told::Changed {
                change: Happened::Left { kicked_by: Some(_), .. },
                ..
            } => "kicked",
            Told::Changed {
                change: Happened::Left { .. },
                ..
            } => "left",
            Told::Matched { .. } => "matched",
            Told::Replaced(_) => "replaced",
            Told::NodeGone(_) => "gone",
        };
        told.iter().map(word).collect()
    }
}

fn who(key: &str, session: u64) -> Who {
    Who {
        fingerprint: Fingerprint::of_key(key),
        session: SessionId::new(LoopId::new(0), session),
    }
}

fn info(who: Who) -> Arc<PeerInfo> {
    let (alias, app_type, meta) = ("".into(), Box::default(), Meta::default());
    Arc::new(PeerInfo {
        fingerprint: who.fingerprint,
        alias,
        app_type,
        meta,
    })
}

fn lobby() -> NamespaceId {
    Homes::new(1, [0; 4]).in_cluster().namespace("lobby")
}

fn join(who: Who, room: bool, members_max: u32) -> What {
    let (namespace, name, info) = (lobby(), "lobby".into(), info(who));
    What::Join {
        who,
        namespace,
        name,
        info,
        room,
        members_max,
        refuse: None,
        roster: true,
    }
}

fn create(who: Who, max_size: u32) -> What {
    let (namespace, name, info) = (lobby(), "lobby".into(), info(who));
    What::CreateRoom {
        who,
        namespace,
        name,
        info,
        max_size,
        refuse: None,
    }
}

fn rejoin(who: Who, room: Option<RoomTerms>) -> What {
    let (namespace, name, info) = (lobby(), "lobby".into(), info(who));
    What::Rejoin {
        who,
        namespace,
        name,
        info,
        room,
        members_max: 10,
    }
}

fn find_match(who: Who, number: u64, resumed: bool) -> What {
    What::Match {
        who,
        namespace: lobby(),
        name: "lobby".into(),
        info: info(who),
        group_size: 2,
        criteria: CriteriaKey([0; 32]),
        ticket: CommandId::new(LoopId::new(0), number),
        refuse: None,
        resumed,
    }
}

#[test]
fn both_nodes_hear_of_a_join_and_the_last_one_out_hears_of_its_own_going() {
    let mut two = Two::new();
    let (a, b) = (two.register(0, "a"), two.register(1, "b"));
    assert!(matches!(two.join(0, a), Reply::Joined { version: 1, roster: Some(roster) } if roster.members.len() == 1));
    assert!(matches!(two.join(1, b), Reply::Joined { version: 2, roster: Some(roster) } if roster.members.len() == 2));
    assert_eq!((two.news(0), two.news(1)), (vec!["joined", "joined"], vec!["joined"]));
    two.run(
        0,
        What::Leave {
            who: a,
            namespace: lobby(),
        },
    );
    assert_eq!((two.news(0), two.news(1)), (vec!["left"], vec!["left"]));
    two.run(1, What::End { who: b });
    assert_eq!((two.news(0), two.news(1)), (vec![], vec!["left"]));
    assert!(two.broker.spaces.is_empty() && two.broker.directory.len() == 1);
    // The versions rise over the end of the namespace.
    assert!(matches!(two.join(0, a), Reply::Joined { version: 5, .. }));
}

#[test]
fn a_key_that_registers_elsewhere_leaves_everything_and_its_node_is_told() {
    let mut two = Two::new();
    let old = two.register(0, "a");
    two.join(0, old);
    two.news(0);
    let new = two.register(1, "a");
    assert_eq!(two.news(0), ["left", "replaced"]);
    assert!(matches!(two.join(0, old), Reply::Stale));
    assert!(matches!(two.run(0, What::End { who: old }), Reply::Done));
    assert!(matches!(
        two.run(
            0,
            What::Find {
                fingerprint: new.fingerprint
            }
        ),
        Reply::Found(Some(_))
    ));
    assert!(matches!(
        two.run(
            1,
            What::Find {
                fingerprint: new.fingerprint
            }
        ),
        Reply::Found(None)
    ));
    assert!(matches!(
        two.run(0, What::Resolve { alias: "a".into() }),
        Reply::Resolved(Some(_))
    ));
}

#[test]
fn rooms_are_unique_capped_and_kicked_from_by_their_owner_alone() {
    let mut two = Two::new();
    let (a, b, c) = (two.register(0, "a"), two.register(1, "b"), two.register(1, "c"));
    assert!(matches!(
        two.run(0, join(a, true, 10)),
        Reply::Refused(Refusal::RoomNotFound)
    ));
    assert!(matches!(two.run(0, create(a, 2)), Reply::Created { .. }));
    assert!(matches!(two.run(1, create(b, 2)), Reply::Refused(Refusal::RoomExists)));
    assert!(matches!(two.run(1, join(b, true, 10)), Reply::Joined { .. }));
    assert!(matches!(
        two.run(1, join(c, true, 10)),
        Reply::Refused(Refusal::RoomFull)
    ));
    assert!(matches!(
        two.run(1, join(c, false, 10)),
        Reply::Refused(Refusal::NamespaceFull)
    ));
    assert!(
        matches!(two.run(1, join(b, true, 10)), Reply::Joined { .. }),
        "who is in may join again"
    );
    let kick = |who: Who, target: Who| {
        let target = Some(target.fingerprint);
        What::Kick {
            who,
            namespace: lobby(),
            target,
        }
    };
    assert!(matches!(two.run(1, kick(b, a)), Reply::Refused(Refusal::NotRoomOwner)));
    assert!(matches!(two.run(0, kick(a, c)), Reply::Refused(Refusal::PeerNotFound)));
    two.news(1);
    assert!(matches!(two.run(0, kick(a, b)), Reply::Done));
    assert_eq!(two.news(1), ["kicked"], "the node whose last member it was hears of it");
}

#[test]
fn a_match_is_told_to_the_nodes_concerned_and_a_request_that_is_told_again_keeps_its_place() {
    let mut two = Two::new();
    let (a, b) = (two.register(0, "a"), two.register(1, "b"));
    assert!(matches!(two.run(0, find_match(a, 1, false)), Reply::Waiting));
    assert!(matches!(two.run(0, find_match(a, 1, true)), Reply::Waiting));
    assert!(matches!(two.run(1, find_match(b, 1, false)), Reply::Done));
    assert_eq!((two.news(0), two.news(1)), (vec!["matched"], vec!["matched"]));
    assert!(two.broker.queues.is_empty());
    // Of a node that is over nobody is matched.
    two.run(0, find_match(a, 2, false));
    two.broker.now_ms += 2000;
    two.broker.renew(two.place(1)).unwrap();
    two.broker.now_ms += 2000;
    assert!(matches!(two.run(1, find_match(b, 2, false)), Reply::Waiting));
}

#[test]
fn a_request_that_was_met_is_not_met_again() {
    let mut two = Two::new();
    let (a, b) = (two.register(0, "a"), two.register(1, "b"));
    two.run(0, find_match(a, 1, false));
    two.run(1, find_match(b, 1, false));
    assert!(
        matches!(two.run(0, find_match(a, 1, true)), Reply::Done),
        "its inbox has it"
    );
    let place = two.place(0);
    two.broker.note_gap(place, 0..1);
    assert!(
        matches!(
            two.run(0, find_match(a, 1, true)),
            Reply::Refused(Refusal::BrokerUnavailable)
        ),
        "it had it, but not any more"
    );
    two.miss_renewals_of(0);
    let lease = two
        .broker
        .take_up(two.nodes[0].own(), Some(two.epochs[0]), Some(two.generation));
    assert!(lease.epoch > two.epochs[0]);
    let left = two.broker.inbox(two.place(0), 0);
    assert!(
        matches!(left, [Told::Matched { .. }]),
        "what the node did not read is kept for it"
    );
    two.epochs[0] = lease.epoch;
    two.register(0, "a");
    assert!(
        matches!(
            two.run(0, find_match(a, 1, true)),
            Reply::Refused(Refusal::BrokerUnavailable)
        ),
        "the earlier inbox had it"
    );
    two.broker.now_ms += 60_000;
    let lease = two
        .broker
        .take_up(two.nodes[0].own(), Some(two.epochs[0]), Some(two.generation));
    two.epochs[0] = lease.epoch;
    two.register(0, "a");
    assert!(
        matches!(two.run(0, find_match(a, 1, true)), Reply::Waiting),
        "forgotten by then"
    );
}

#[test]
fn a_node_that_does_not_renew_is_gone_for_all_and_comes_back_in_another_epoch() {
    let mut two = Two::new();
    let (a, b) = (two.register(0, "a"), two.register(1, "b"));
    two.join(0, a);
    two.join(1, b);
    two.news(1);
    two.broker.now_ms += 2000;
    two.broker.renew(two.place(1)).unwrap();
    two.broker.now_ms += 2000;
    assert!(two.broker.is_over(two.place(0)));
    assert_eq!(
        two.broker
            .run(two.place(0), &join(a, false, 10), &two.nodes[0])
            .unwrap_err(),
        Lapsed
    );
    two.broker.renew(two.place(1)).unwrap();
    assert_eq!(two.news(1), ["gone"]);
    assert_eq!(two.broker.directory.len(), 1);
    assert_eq!(two.broker.renew(two.place(0)), Err(Lapsed));
    let lease = two
        .broker
        .take_up(two.nodes[0].own(), Some(two.epochs[0]), Some(two.generation));
    assert!(lease.epoch > two.epochs[0] && !lease.empty);
    (two.epochs[0], two.read[0]) = (lease.epoch, 0);
    assert!(matches!(
        two.run(
            0,
            What::Resume {
                who: a,
                alias: None,
                member_of: vec![lobby()],
                waits_in: Vec::new(),
            }
        ),
        Reply::Registered { .. }
    ));
    assert!(matches!(two.run(0, rejoin(a, None)), Reply::Joined { .. }));
    assert_eq!((two.news(0), two.news(1)), (vec!["joined"], vec!["joined"]));
    assert!(
        matches!(two.run(0, rejoin(a, None)), Reply::Joined { .. }),
        "nothing differs"
    );
    assert_eq!(two.news(1), [""; 0]);
    two.broker.release(two.place(0));
    assert_eq!(two.news(1), ["gone"]);
}

#[test]
fn what_a_session_holds_and_does_not_name_ends_and_a_key_that_is_elsewhere_is_taken() {
    let mut two = Two::new();
    let (a, b) = (two.register(0, "a"), two.register(1, "b"));
    two.join(0, a);
    two.join(1, b);
    two.news(1);
    let resume = |who: Who, member_of| What::Resume {
        who,
        alias: Some("a".into()),
        member_of,
        waits_in: vec![lobby()],
    };
    assert!(matches!(
        two.run(0, resume(a, vec![])),
        Reply::Registered { alias: Some(0) }
    ));
    assert_eq!(two.news(1), ["left"]);
    assert!(matches!(two.run(1, resume(who("a", 2), vec![])), Reply::Taken));
    assert!(
        matches!(two.run(1, resume(b, vec![lobby()])), Reply::Registered { alias: None }),
        "it is another's"
    );
}

#[test]
fn a_room_is_made_again_only_after_everything_was_lost() {
    let mut two = Two::new();
    let a = two.register(0, "a");
    let terms = Some(RoomTerms {
        owner: a.fingerprint,
        max_size: 2,
    });
    // A node that is new to the broker knew nothing before.
    two.broker.now_ms += 65_000;
    for (n, empty) in [(0, false), (1, false)] {
        let lease = two
            .broker
            .take_up(two.nodes[n].own(), Some(two.epochs[n]), Some(two.generation));
        assert_eq!(lease.empty, empty);
        two.epochs[n] = lease.epoch;
    }
    let resume = |who: Who| What::Resume {
        who,
        alias: None,
        member_of: vec![lobby()],
        waits_in: Vec::new(),
    };
    two.run(0, resume(a));
    assert!(matches!(
        two.run(0, rejoin(a, terms)),
        Reply::Refused(Refusal::RoomNotFound)
    ));
    two.broker.flush();
    for n in 0..2 {
        let lease = two
            .broker
            .take_up(two.nodes[n].own(), Some(two.epochs[n]), Some(two.generation));
        assert!(lease.empty, "also for the second that comes");
        two.epochs[n] = lease.epoch;
    }
    two.run(0, resume(a));
    assert!(matches!(two.run(0, rejoin(a, terms)), Reply::Joined { .. }));
    assert!(matches!(
        two.run(0, What::Describe { namespace: lobby() }),
        Reply::Described { peer_count: 1, .. }
    ));
}

#[test]
fn a_room_that_others_made_again_is_another_room() {
    let mut two = Two::new();
    let (a, b) = (two.register(0, "a"), two.register(1, "b"));
    let of = |who: Who| {
        let (owner, max_size) = (who.fingerprint, 2);
        Some(RoomTerms { owner, max_size })
    };
    two.run(1, create(b, 4));
    assert!(matches!(
        two.run(0, rejoin(a, of(a))),
        Reply::Refused(Refusal::RoomNotFound)
    ));
    assert!(matches!(two.run(0, rejoin(a, of(b))), Reply::Joined { .. }));
    assert!(
        matches!(two.run(0, rejoin(a, of(a))), Reply::Refused(Refusal::RoomNotFound)),
        "also of a member"
    );
}
