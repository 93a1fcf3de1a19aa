//! What the fold does: one behaviour each, and whole logs that are drawn (`drawn`).
#![allow(clippy::unwrap_used)]

mod drawn;
mod leases;
mod scale;

use std::sync::Arc;

use super::*;
use crate::ids::Homes;
use crate::message::cluster::{Change, RoomTerms, Roster};
use crate::message::{CriteriaKey, Meta, PeerInfo, Refusal};

const SECOND: u64 = 1_000_000_000;

/// A log, the state that follows from it, and what a node is told.
struct World {
    state: State,
    log: Vec<(u64, Entry)>,
    now: u64,
    epochs: [Epoch; 3],
    numbers: [u64; 3],
    told: Vec<Event>,
    last: Option<Outcome>,
    /// What node 0 missed.
    missed: (u64, u64),
}

fn node(index: usize) -> NodeId {
    NodeId::from_bytes([index as u8; 16])
}

fn number(home: Home) -> Option<NodeNo> {
    NodeNo::new(u16::from(home.0.as_bytes()[0]))
}

fn fingerprint(index: u8) -> Fingerprint {
    Fingerprint::from_bytes([index; 32])
}

fn who(index: u8, session: u64) -> Who {
    Who {
        fingerprint: fingerprint(index),
        session: SessionId::from_u64(session),
    }
}

fn info(index: u8, text: &str) -> Arc<PeerInfo> {
    let mut meta = Meta::default();
    meta.set("\"text\"", text);
    Arc::new(PeerInfo {
        fingerprint: fingerprint(index),
        alias: "alias".into(),
        app_type: "app".into(),
        meta,
    })
}

fn space(name: &str) -> NamespaceId {
    Homes::new(1, [0; 4]).in_cluster().namespace(name)
}

impl World {
    /// Three nodes, each with a lease.
    fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            log: Vec::new(),
            now: 1_000 * SECOND,
            epochs: [Epoch(0); 3],
            numbers: [0; 3],
            told: Vec::new(),
            last: None,
            missed: (0, 0),
        };
        for index in 0..3 {
            world.take(index);
        }
        world.told.clear();
        world
    }

    fn apply(&mut self, entry: Entry) {
        // What is folded is what was written.
        let entry = Entry::decode(&entry.encode()).unwrap();
        self.now += 1000;
        self.log.push((self.now, entry.clone()));
        let sequence = self.log.len() as u64;
        let eye = Eye {
            own: Some((node(0), self.epochs[0])),
            number: &number,
            missed: self.missed,
        };
        self.last = Some(self.state.apply(sequence, self.now, Some(&entry), &eye, &mut self.told));
        self.state.check_invariants();
    }

    fn take(&mut self, index: usize) {
        self.apply(Entry::Take {
            node: node(index),
            nonce: 0,
            above: self.epochs[index],
        });
        if let Some(Outcome::Taken { epoch, .. }) = self.last {
            assert!(epoch > self.epochs[index]);
            self.epochs[index] = epoch;
            self.numbers[index] = 0;
        }
    }

    fn renew(&mut self, index: usize) -> bool {
        self.apply(Entry::Renew {
            node: node(index),
            epoch: self.epochs[index],
            nonce: 0,
        });
        matches!(self.last, Some(Outcome::Renewed))
    }

    fn act(&mut self, index: usize, what: What) {
        self.numbers[index] += 1;
        let group: [u8; 16] = [self.log.len() as u8; 16];
        self.apply(Entry::Act(Act {
            node: node(index),
            epoch: self.epochs[index],
            line: 1,
            number: self.numbers[index],
            anew: false,
            group,
            what,
        }));
    }

    /// What node 0 is answered.
    fn ask(&mut self, what: What) -> Reply {
        self.act(0, what);
        match self.last.take() {
            Some(Outcome::Replied(Some(reply))) => reply,
            other => panic!("no reply: {other:?}"),
        }
    }

    fn read(&self, what: &What) -> Reply {
        let eye = Eye {
            own: Some((node(0), self.epochs[0])),
            number: &number,
            missed: self.missed,
        };
        self.state.read(what, &eye)
    }

    fn register(&mut self, index: usize, who: Who) {
        let aliases = vec![format!("alias-{}", who.session.as_u64()).into()];
        self.act(index, What::Register { who, aliases });
    }

    fn join(&mut self, index: usize, who: Who, peer: u8, name: &str) {
        self.act(index, join(who, peer, name, false));
    }

    fn roster(&self, name: &str) -> Roster {
        let eye = Eye {
            own: Some((node(0), self.epochs[0])),
            number: &number,
            missed: self.missed,
        };
        self.state.roster(space(name), &eye)
    }

    fn seconds(&mut self, seconds: u64) {
        self.now += seconds * SECOND;
    }
}

fn join(who: Who, peer: u8, name: &str, room: bool) -> What {
    What::Join {
        who,
        namespace: space(name),
        name: name.into(),
        info: info(peer, "1"),
        room,
        members_max: 3,
        refuse: None,
        roster: true,
    }
}

fn seek(who: Who, peer: u8, ticket: u64, resumed: bool) -> What {
    What::Match {
        who,
        namespace: space("arena"),
        name: "arena".into(),
        info: info(peer, "1"),
        group_size: 2,
        criteria: CriteriaKey([0; 32]),
        ticket: CommandId::from_u64(ticket),
        refuse: None,
        resumed,
    }
}

impl State {
    /// What must hold after every entry.
    fn check_invariants(&self) {
        let mut members = 0;
        for (namespace, space) in &self.spaces {
            assert!(!space.members.is_empty(), "an empty namespace");
            assert!(space.version <= self.version);
            let mut counts = BTreeMap::new();
            for (number, member) in &space.members {
                let session = &self.sessions[&member.info.fingerprint];
                assert_eq!(session.member_of.get(namespace), Some(number));
                assert_eq!((session.id, session.place), (member.session, member.place));
                *counts.entry(member.place).or_insert(0) += 1;
                members += 1;
            }
            assert_eq!(counts, space.counts);
            let most = space.room.map_or(3, |room| room.max_size);
            assert!(space.members.len() <= most as usize);
        }
        let known: usize = self.sessions.values().map(|session| session.member_of.len()).sum();
        assert_eq!(known, members);
        let waiting: usize = self.sessions.values().map(|session| session.waits_in.len()).sum();
        assert_eq!(self.queues.values().map(BTreeMap::len).sum::<usize>(), waiting);
        for (key, queue) in &self.queues {
            assert!(!queue.is_empty() && queue.len() < key.group_size as usize);
            for (number, ticket) in queue {
                let session = &self.sessions[&ticket.info.fingerprint];
                assert_eq!(session.waits_in.get(&key.namespace), Some(&(*key, *number)));
            }
        }
        for (fingerprint, session) in &self.sessions {
            assert!(self.leases.contains_key(&session.place), "a session of nobody");
            let holder = session.alias.as_ref().map(|alias| self.aliases.get(alias));
            assert!(holder.is_none_or(|holder| holder == Some(fingerprint)));
        }
        let aliases = self.sessions.values().filter(|session| session.alias.is_some());
        assert_eq!(aliases.count(), self.aliases.len());
    }
}

#[test]
fn a_key_that_registers_elsewhere_leaves_everything_in_one_step() {
    let mut world = World::new();
    world.register(0, who(1, 1));
    world.join(0, who(1, 1), 1, "lobby");
    world.register(1, who(2, 2));
    world.join(1, who(2, 2), 2, "lobby");
    world.told.clear();
    world.register(1, who(1, 3));
    assert!(matches!(
        &world.told[..],
        [
            Event::Changed { change: Change::Left { node: None, who: left, .. }, .. },
            Event::Replaced(replaced),
        ] if *left == who(1, 1) && *replaced == who(1, 1)
    ));
    assert_eq!(world.roster("lobby").members.len(), 1);
    assert!(matches!(world.ask(join(who(1, 1), 1, "lobby", false)), Reply::Stale));
}

#[test]
fn who_has_no_members_there_is_told_nothing_and_the_last_to_leave_hears_of_it() {
    let mut world = World::new();
    world.register(1, who(2, 2));
    world.join(1, who(2, 2), 2, "lobby");
    assert!(world.told.is_empty());
    world.register(0, who(1, 1));
    world.join(0, who(1, 1), 1, "lobby");
    world.act(
        0,
        What::Leave {
            who: who(1, 1),
            namespace: space("lobby"),
        },
    );
    world.join(1, who(2, 2), 2, "lobby");
    let kinds: Vec<bool> = world
        .told
        .iter()
        .map(|event| {
            matches!(
                event,
                Event::Changed {
                    change: Change::Joined { .. },
                    ..
                }
            )
        })
        .collect();
    assert_eq!(kinds, [true, false]);
}

#[test]
fn refusals_come_in_the_order_of_the_protocol() {
    let mut world = World::new();
    world.register(0, who(1, 1));
    let refused = |reply| match reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(world.ask(join(who(1, 1), 1, "room", true))),
        Refusal::RoomNotFound
    );
    let create = |refuse| What::CreateRoom {
        who: who(1, 1),
        namespace: space("room"),
        name: "room".into(),
        info: info(1, "1"),
        max_size: 1,
        refuse,
    };
    assert_eq!(
        refused(world.ask(create(Some(Refusal::ServerFull)))),
        Refusal::ServerFull
    );
    assert!(matches!(world.ask(create(None)), Reply::Created { .. }));
    assert_eq!(
        refused(world.ask(create(Some(Refusal::ServerFull)))),
        Refusal::RoomExists
    );
    world.register(0, who(2, 2));
    assert_eq!(refused(world.ask(join(who(2, 2), 2, "room", true))), Refusal::RoomFull);
    assert_eq!(
        refused(world.ask(join(who(2, 2), 2, "room", false))),
        Refusal::NamespaceFull
    );
    assert!(matches!(
        world.ask(join(who(1, 1), 1, "room", true)),
        Reply::Joined { .. }
    ));
    let kick = |owner, target| What::Kick {
        who: owner,
        namespace: space("room"),
        target,
    };
    assert_eq!(refused(world.ask(kick(who(2, 2), None))), Refusal::NotRoomOwner);
    assert_eq!(
        refused(world.ask(kick(who(1, 1), Some(fingerprint(2))))),
        Refusal::PeerNotFound
    );
    let list = What::List {
        namespace: space("room"),
        limit: 5,
    };
    assert_eq!(refused(world.read(&list)), Refusal::RoomNotDiscoverable);
    assert!(matches!(world.ask(kick(who(1, 1), Some(fingerprint(1)))), Reply::Done));
    let gone = Event::Changed {
        namespace: space("room"),
        version: world.state.version,
        change: Change::Left {
            node: None,
            who: who(1, 1),
            kicked_by: Some(fingerprint(1)),
        },
    };
    assert_eq!(format!("{:?}", world.told.last().unwrap()), format!("{gone:?}"));
    assert_eq!(world.roster("room").version, 0);
}

#[test]
fn what_comes_late_by_an_earlier_line_or_after_a_loss_is_void() {
    let mut world = World::new();
    let mut act = |line, number| {
        world.apply(Entry::Act(Act {
            node: node(0),
            epoch: world.epochs[0],
            line,
            number,
            anew: false,
            group: [0; 16],
            what: What::End { who: who(1, 1) },
        }));
        matches!(world.last, Some(Outcome::Replied(_)))
    };
    assert!(act(1, 1));
    assert!(act(1, 2));
    assert!(!act(1, 2));
    assert!(act(2, 1));
    assert!(!act(1, 3));
    assert!(!act(2, 3));
}

#[test]
fn a_group_is_met_once_and_each_node_tells_its_own() {
    let mut world = World::new();
    world.register(0, who(1, 1));
    world.register(1, who(2, 2));
    assert!(matches!(world.ask(seek(who(1, 1), 1, 7, false)), Reply::Waiting));
    assert!(matches!(world.ask(seek(who(1, 1), 1, 7, true)), Reply::Waiting));
    world.act(1, seek(who(2, 2), 2, 8, false));
    match &world.told[..] {
        [Event::Matched { members, matched, .. }] => {
            assert_eq!(members[..], [(who(1, 1), CommandId::from_u64(7))]);
            assert_eq!(matched.peers.len(), 2);
            assert_eq!(matched.peers[1].fingerprint, fingerprint(2));
        }
        other => panic!("{other:?}"),
    }
    // It did not hear of it yet, and asks on: it must not be met twice.
    assert!(matches!(world.ask(seek(who(1, 1), 1, 7, true)), Reply::Done));
    assert_eq!(world.told.len(), 1);
    assert!(world.state.queues.is_empty());
}

#[test]
fn who_waits_is_not_shown_so_large_that_its_group_would_be() {
    let mut world = World::new();
    world.register(0, who(1, 1));
    let What::Match { namespace, .. } = seek(who(1, 1), 1, 7, false) else {
        panic!("another command");
    };
    let large = |mut what: What| {
        if let What::Match { group_size, .. } = &mut what {
            *group_size = 1000;
        }
        what
    };
    world.ask(large(seek(who(1, 1), 1, 7, false)));
    let shown = |world: &mut World, text: &str| {
        let (who, info) = (who(1, 1), info(1, text));
        world.ask(What::Show { who, namespace, info });
        let queue = world.state.queues.values().next().unwrap();
        queue.values().next().unwrap().info.json_len()
    };
    let small = shown(&mut world, "\"small\"");
    assert_eq!(shown(&mut world, &format!("\"{}\"", "x".repeat(300))), small);
    assert_eq!(shown(&mut world, "\"other\""), small);
}

#[test]
fn a_match_whose_news_was_missed_is_not_said_to_be_told() {
    let mut world = World::new();
    world.register(0, who(1, 1));
    world.register(1, who(2, 2));
    assert!(matches!(world.ask(seek(who(1, 1), 1, 7, false)), Reply::Waiting));
    let before = world.log.len() as u64;
    world.act(1, seek(who(2, 2), 2, 8, false));
    for (missed, refused) in [
        ((before, before + 1), true),
        ((0, before), false),
        ((before + 1, before + 5), false),
    ] {
        world.missed = missed;
        let reply = world.ask(seek(who(1, 1), 1, 7, true));
        let unavailable = matches!(reply, Reply::Refused(Refusal::BrokerUnavailable));
        assert_eq!(unavailable, refused, "{missed:?}: {reply:?}");
        assert!(refused || matches!(reply, Reply::Done), "{reply:?}");
    }
}

#[test]
fn a_session_that_resumes_keeps_what_it_names() {
    let mut world = World::new();
    world.register(0, who(1, 1));
    for name in ["a", "b"] {
        world.join(0, who(1, 1), 1, name);
    }
    world.ask(seek(who(1, 1), 1, 7, false));
    let resume = |alias: &str| What::Resume {
        who: who(1, 1),
        alias: Some(alias.into()),
        member_of: vec![space("a")],
        waits_in: Vec::new(),
    };
    assert!(matches!(
        world.ask(resume("alias-1")),
        Reply::Registered { alias: Some(0) }
    ));
    assert_eq!(world.roster("a").members.len(), 1);
    assert_eq!(world.roster("b").members.len(), 0);
    assert!(world.state.queues.is_empty());
    let version = world.roster("a").version;
    let rejoin = |text, room| What::Rejoin {
        who: who(1, 1),
        namespace: space(if room { "room" } else { "a" }),
        name: "a".into(),
        info: info(1, text),
        room: room.then_some(RoomTerms {
            owner: fingerprint(1),
            max_size: 2,
        }),
        members_max: 3,
    };
    assert!(matches!(world.ask(rejoin("1", false)), Reply::Joined { version: same, .. } if same == version));
    assert!(matches!(world.ask(rejoin("2", false)), Reply::Joined { version: new, .. } if new > version));
    assert!(matches!(
        world.told.last(),
        Some(Event::Changed {
            change: Change::Shown(_),
            ..
        })
    ));
    assert!(matches!(
        world.ask(rejoin("1", true)),
        Reply::Refused(Refusal::RoomNotFound)
    ));
    world.register(1, who(1, 9));
    assert!(matches!(world.ask(resume("alias-1")), Reply::Taken));
}

#[test]
fn a_room_that_the_broker_lost_is_made_again_by_its_first_member_to_come_back() {
    let mut world = World::new();
    world.register(0, who(2, 2));
    world.register(1, who(3, 3));
    world.join(1, who(3, 3), 3, "hall");
    let rejoin = |world: &mut World, name: &str, owner: u8| {
        world.numbers[0] += 1;
        world.apply(Entry::Act(Act {
            node: node(0),
            epoch: world.epochs[0],
            line: 1,
            number: world.numbers[0],
            anew: true,
            group: [0; 16],
            what: What::Rejoin {
                who: who(2, 2),
                namespace: space(name),
                name: name.into(),
                info: info(2, "1"),
                room: Some(RoomTerms {
                    owner: fingerprint(owner),
                    max_size: 2,
                }),
                members_max: 3,
            },
        }));
        matches!(world.last, Some(Outcome::Replied(Some(Reply::Joined { .. }))))
    };
    assert!(rejoin(&mut world, "room", 1));
    assert_eq!(world.roster("room").room.unwrap().owner, fingerprint(1));
    assert!(!rejoin(&mut world, "room", 2), "another room by now");
    assert!(!rejoin(&mut world, "hall", 1), "others are there, and in no room");
    assert!(world.roster("hall").room.is_none());
}
