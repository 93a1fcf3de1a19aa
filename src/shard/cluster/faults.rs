//! The directory and the sessions of a shard agree in the end, in whatever order things happen: a model of the directory, one
//! other node, and a broker that is lost with or without its data, all drawn from a seed.
//!
//! Owns: that model, for registrations and messages.
//! Never: joins anything; memberships are the simulator's.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};

use compact_str::CompactString;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::fixtures::Scene;
use super::*;
use crate::ids::{ConnId, NodeNo, SessionId};
use crate::message::Refusal;
use crate::shard::peers::PeerKey;

const KEYS: u32 = 4;
const ALIASES: [&str; 3] = ["", "ada", "bob"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Here(SessionId),
    Elsewhere,
}

struct World {
    scene: Scene,
    random: StdRng,
    directory: BTreeMap<Fingerprint, Place>,
    aliases: BTreeMap<CompactString, Who>,
    replies: VecDeque<(CommandId, Reply)>,
    inbox: VecDeque<Event>,
    is_up: bool,
    registering: BTreeMap<ConnId, Fingerprint>,
    peers: BTreeMap<ConnId, (PeerKey, Fingerprint)>,
    conns: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            scene: Scene::down(),
            random: StdRng::seed_from_u64(seed),
            directory: BTreeMap::new(),
            aliases: BTreeMap::new(),
            replies: VecDeque::new(),
            inbox: VecDeque::new(),
            is_up: false,
            registering: BTreeMap::new(),
            peers: BTreeMap::new(),
            conns: 0,
        }
    }

    fn pick(&mut self, below: usize) -> usize {
        self.random.random_range(0..below.max(1))
    }

    fn step(&mut self) {
        match self.pick(16) {
            0 | 1 => {
                self.conns += 1;
                let (slot, alias) = (self.pick(KEYS as usize) as u32, self.pick(ALIASES.len()));
                let (conn, key) = (ConnId::new(self.conns, 1), self.scene.key(slot));
                self.registering.insert(conn, key);
                self.scene.register(conn, key, ALIASES[alias]);
            }
            2 => {
                let at = self.pick(self.peers.len());
                if let Some((conn, (peer, _))) = self.peers.iter().nth(at).map(|(conn, peer)| (*conn, *peer)) {
                    self.peers.remove(&conn);
                    self.scene.shard.close(peer);
                }
            }
            3 => {
                let at = self.pick(self.registering.len());
                if let Some((conn, key)) = self.registering.iter().nth(at).map(|(conn, key)| (*conn, *key)) {
                    self.registering.remove(&conn);
                    self.scene.shard.abandon_registration(conn, &key);
                }
            }
            4..=6 => self.execute(),
            7 | 8 => self.deliver(),
            9 => {
                let key = self.pick(KEYS as usize) as u32;
                let key = self.scene.key(key);
                self.leave_directory(key);
                match self.random.random() {
                    true => self.directory.insert(key, Place::Elsewhere),
                    false => None,
                };
            }
            10 | 13..=15 => {
                let (at, slot) = (self.pick(self.peers.len()), self.pick(KEYS as usize) as u32);
                let to = self.scene.key(slot);
                if let Some(from) = self.peers.values().nth(at).map(|(peer, _)| *peer) {
                    let _ = self.scene.signal(from, to, "hello");
                }
            }
            11 if self.pick(4) == 0 => self.lose_broker(),
            _ => self.find_broker(),
        }
        self.scene.collect();
        self.note();
    }

    /// The other node gets the key, or does without.
    fn leave_directory(&mut self, key: Fingerprint) {
        if let Some(Place::Here(session)) = self.directory.remove(&key) {
            let who = Who {
                fingerprint: key,
                session,
            };
            self.free_aliases(who);
            self.inbox.push_back(Event::Replaced(who));
        }
    }

    fn free_aliases(&mut self, who: Who) {
        self.aliases.retain(|_, holder| *holder != who);
    }

    /// The broker does its oldest command.
    fn execute(&mut self) {
        let Some(Command { id, what }) = self.scene.commands.pop_front() else {
            return;
        };
        let reply = match what {
            What::Register { who, aliases } => {
                if let Some(Place::Here(session)) = self.directory.insert(who.fingerprint, Place::Here(who.session)) {
                    self.free_aliases(Who { session, ..who });
                }
                let free = aliases.iter().position(|alias| !self.aliases.contains_key(alias));
                if let Some(place) = free {
                    self.aliases.insert(aliases[place].clone(), who);
                }
                Reply::Registered {
                    alias: free.map(|place| place as u8),
                }
            }
            What::Resume { who, alias, .. } => match self.directory.get(&who.fingerprint) {
                Some(Place::Elsewhere) => Reply::Taken,
                known => {
                    assert!(known.is_none_or(|place| *place == Place::Here(who.session)));
                    self.directory.insert(who.fingerprint, Place::Here(who.session));
                    let held = alias.map(|alias| *self.aliases.entry(alias).or_insert(who) == who);
                    Reply::Registered {
                        alias: held.filter(|held| *held).map(|_| 0),
                    }
                }
            },
            What::End { who } => {
                if self.directory.get(&who.fingerprint) == Some(&Place::Here(who.session)) {
                    self.directory.remove(&who.fingerprint);
                    self.free_aliases(who);
                }
                Reply::Done
            }
            What::Find { fingerprint } => {
                let elsewhere = self.directory.get(&fingerprint) == Some(&Place::Elsewhere);
                Reply::Found(elsewhere.then(|| NodeNo::new(1).unwrap()))
            }
            other => panic!("{other:?}"),
        };
        self.replies.push_back((id, reply));
    }

    /// A reply or an event of the inbox is here: they come by two connections.
    fn deliver(&mut self) {
        if !self.is_up {
            return;
        }
        if self.random.random() {
            if let Some(event) = self.inbox.pop_front() {
                self.scene.hear(event);
            }
        } else if let Some((id, reply)) = self.replies.pop_front() {
            self.scene.reply(id, reply);
        }
    }

    fn lose_broker(&mut self) {
        if !std::mem::take(&mut self.is_up) {
            return;
        }
        // Some of what was under way is done, and nobody hears of it.
        for _ in 0..self.pick(4) {
            self.execute();
        }
        let mut lost: Vec<CommandId> = self.replies.drain(..).map(|(id, _)| id).collect();
        lost.extend(self.scene.take_commands().iter().map(|command| command.id));
        self.scene.hear(Event::Down);
        for id in lost {
            self.scene.reply(id, Reply::Lost);
        }
        assert!(
            self.scene.commands.is_empty(),
            "nothing is asked of a broker that is lost"
        );
        if self.pick(3) == 0 {
            self.directory.clear();
            self.aliases.clear();
            self.inbox.clear();
        }
    }

    fn find_broker(&mut self) {
        if !std::mem::replace(&mut self.is_up, true) {
            self.scene.hear(Event::Up);
        }
    }

    /// What became of the connections.
    fn note(&mut self) {
        let scene = &mut self.scene;
        for (conn, peer) in scene.registered.drain(..) {
            let key = self.registering.remove(&conn).expect("it was registering");
            self.peers.insert(conn, (peer, key));
        }
        for (conn, refusal) in scene.refused.drain(..) {
            assert_eq!(refusal, Refusal::BrokerUnavailable);
            assert!(self.registering.remove(&conn).is_some());
        }
        for (conn, _) in scene.closed.drain(..) {
            let was = self.registering.remove(&conn).is_some() | self.peers.remove(&conn).is_some();
            assert!(was, "only what is open is closed");
        }
        // In one turn a peer may have been made and lost again.
        let shard = &scene.shard;
        assert!(self.peers.iter().all(|(conn, (peer, _))| shard.serves(*peer, *conn)));
        let open = self.peers.len() + self.registering.len();
        assert_eq!(scene.permits.registered.now(), open);
    }

    fn settle(&mut self) {
        self.find_broker();
        while !(self.scene.commands.is_empty() && self.replies.is_empty() && self.inbox.is_empty()) {
            self.execute();
            self.deliver();
            // The homes on the other loop have nothing to let go: nobody is in anything.
            self.scene.collect();
            self.note();
        }
    }
}

#[test]
fn in_the_end_the_directory_has_the_sessions_that_are_here_and_no_others() {
    let (mut forwards, mut survivors) = (0, 0);
    for seed in 0..1500 {
        let mut world = World::new(seed);
        world.find_broker();
        for _ in 0..80 {
            world.step();
        }
        world.settle();
        let World {
            scene,
            directory,
            aliases,
            registering,
            peers,
            ..
        } = &mut world;
        assert!(scene.shard.cluster_ready() && registering.is_empty(), "seed {seed}");
        directory.retain(|_, place| *place != Place::Elsewhere);
        assert_eq!(directory.len(), peers.len(), "seed {seed}");
        for (peer, key) in peers.values() {
            let record = scene.shard.peers.get(*peer).unwrap();
            assert_eq!(directory.get(key), Some(&Place::Here(record.session)), "seed {seed}");
            let held = aliases.get(&record.info.alias).map(|who| who.session);
            assert_eq!(record.alias_held, held == Some(record.session), "seed {seed}");
        }
        assert!(
            aliases.values().all(|who| directory.contains_key(&who.fingerprint)),
            "seed {seed}"
        );
        let away = &scene.shard.cluster.as_ref().unwrap().away;
        assert!(away.is_idle(), "seed {seed}: what was kept came out again");
        forwards += scene.forwards.len();
        survivors += peers.len();
    }
    assert!(
        forwards > 10 && survivors > 500,
        "the runs are worth something: {forwards}, {survivors}"
    );
}
