//! What the inbox is told when too much waits for it.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::broker::nats::entry::Act;
use crate::ids::{Fingerprint, Homes, NamespaceId, SessionId};
use crate::message::cluster::Who;
use crate::message::{CriteriaKey, Meta, PeerInfo};

/// A log and two nodes, of which the first is looked at.
struct Fleet {
    replica: Replica,
    follower: u64,
    sequence: u64,
    epochs: [Epoch; 2],
    numbers: [u64; 2],
}

fn node(index: usize) -> NodeId {
    NodeId::from_bytes([index as u8 + 1; 16])
}

fn who(index: usize) -> Who {
    Who {
        fingerprint: Fingerprint::from_bytes([index as u8 + 1; 32]),
        session: SessionId::from_u64(index as u64 + 1),
    }
}

fn info(index: usize) -> Arc<PeerInfo> {
    Arc::new(PeerInfo {
        fingerprint: who(index).fingerprint,
        alias: "alias".into(),
        app_type: "app".into(),
        meta: Meta::default(),
    })
}

fn lobby() -> NamespaceId {
    Homes::new(1, [0; 4]).in_cluster().namespace("lobby")
}

impl Fleet {
    fn new() -> Self {
        let replica = Replica::new(Arc::new(Nodes::new(node(0))));
        let follower = replica.begin();
        replica.load(follower, 1, State::default(), 0);
        let mut fleet = Self {
            replica,
            follower,
            sequence: 0,
            epochs: [Epoch(0); 2],
            numbers: [0; 2],
        };
        for index in 0..2 {
            fleet.replica.ask_lease(index as u64);
            fleet.epochs[index] = Epoch(1000 * (fleet.sequence + 1));
            fleet.fold(&Entry::Take {
                node: node(index),
                nonce: index as u64,
                above: Epoch(0),
            });
            let aliases = Vec::new();
            fleet.act(
                index,
                What::Register {
                    who: who(index),
                    aliases,
                },
            );
            fleet.act(
                index,
                What::Join {
                    who: who(index),
                    namespace: lobby(),
                    name: "lobby".into(),
                    info: info(index),
                    room: false,
                    members_max: 9,
                    refuse: None,
                    roster: false,
                },
            );
        }
        fleet
    }

    fn fold(&mut self, entry: &Entry) {
        self.sequence += 1;
        let (sequence, bytes) = (self.sequence, entry.encode());
        self.replica
            .fold(self.follower, sequence, 1000 * sequence, &bytes)
            .unwrap();
    }

    fn act(&mut self, index: usize, what: What) {
        self.numbers[index] += 1;
        self.fold(&Entry::Act(Act {
            node: node(index),
            epoch: self.epochs[index],
            line: 1,
            number: self.numbers[index],
            anew: false,
            group: [7; 16],
            what,
        }));
    }

    fn seek(&mut self, index: usize) {
        self.act(
            index,
            What::Match {
                who: who(index),
                namespace: lobby(),
                name: "lobby".into(),
                info: info(index),
                group_size: 2,
                criteria: CriteriaKey([0; 32]),
                ticket: CommandId::from_u64(index as u64),
                refuse: None,
                resumed: false,
            },
        );
    }

    fn show(&mut self, times: usize) {
        let what = What::Show {
            who: who(1),
            namespace: lobby(),
            info: info(1),
        };
        for _ in 0..times {
            self.act(1, what.clone());
        }
    }

    fn news(&self) -> Vec<News> {
        self.replica.news(self.follower, 0, Duration::ZERO).unwrap().1
    }
}

#[test]
fn a_match_outlives_more_news_than_are_kept() {
    let mut fleet = Fleet::new();
    fleet.seek(0);
    fleet.seek(1);
    fleet.show(NEWS_MAX);
    let news = fleet.news();
    let matched = |news: &News| matches!(news, News::Happened(Event::Matched { .. }));
    let (at, gap) = (
        news.iter().position(matched).unwrap(),
        news.iter().position(|news| matches!(news, News::Gap)).unwrap(),
    );
    assert!(at < gap, "the match is told before the rest is said to be missing");
    assert!(news.len() < NEWS_READ, "{}", news.len());
}

#[test]
fn a_match_outlives_the_epoch_of_its_node() {
    let mut fleet = Fleet::new();
    fleet.seek(0);
    fleet.seek(1);
    fleet.replica.ask_lease(9);
    let (node, above) = (node(0), fleet.epochs[0]);
    fleet.fold(&Entry::Take { node, nonce: 9, above });
    let news = fleet.news();
    assert!(matches!(news[..], [News::Happened(Event::Matched { .. })]), "{news:?}");
}

#[test]
fn a_snapshot_instead_of_entries_is_a_gap_of_just_those() {
    let mut fleet = Fleet::new();
    fleet.seek(0);
    let (before, state) = fleet.replica.encode();
    fleet.show(1);
    let (after, later) = fleet.replica.encode();
    fleet.replica.load(fleet.follower, 1, State::decode(&state).unwrap(), 0);
    fleet.replica.load(fleet.follower, 1, State::decode(&later).unwrap(), 0);
    assert_eq!(fleet.replica.lock().missed, (before, after));
    assert!(matches!(fleet.news().last(), Some(News::Gap)));
}
