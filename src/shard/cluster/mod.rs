//! One place on several nodes: what a shard does when a broker decides in place of the homes.
//!
//! A request for a home still goes to that home, which is then this node's spokesman for it: it gives the broker a command and
//! answers with the reply. What it knows of a namespace is a copy, kept by what the broker tells of it, own changes included,
//! so all nodes see them in one order. The rules are in `docs/decisions/cluster.md`.
//!
//! Owns: the commands that wait for a reply, and whether the broker takes any.
//! Never: decides what the broker decides, or talks to it: commands are outputs.

mod aliases;
mod away;
#[cfg(test)]
mod faults;
#[cfg(test)]
pub(super) mod fixtures;
mod resume;
mod sessions;
mod spaces;

pub(super) use spaces::{Has, Returning};

use ahash::RandomState;
use hashbrown::HashMap;

use super::Shard;
use super::mail::Asker;
use super::output::Output;
use crate::ids::{CommandId, Fingerprint, Homes, NamespaceId};
use crate::message::cluster::{Command, Event, Reply, What, Who};

/// What a shard knows and waits for as a part of a cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    /// The broker takes commands.
    up: bool,
    /// Commands given.
    commands: u64,
    asked: HashMap<CommandId, Asked, RandomState>,
    spaces: spaces::Spaces,
    sessions: sessions::Sessions,
    away: away::Away,
}

/// Who waits for the reply to a command, and for what.
#[derive(Debug)]
enum Asked {
    /// See [`spaces`].
    Space(NamespaceId, spaces::Asked),
    /// See [`sessions`].
    Session(Who, sessions::Asked),
    /// An alias that is not held here.
    Alias(Asker),
    /// Where a peer is to whom something is to be sent.
    Peer(Fingerprint),
}

impl Cluster {
    fn new(homes: &Homes) -> Self {
        Self {
            up: false,
            commands: 0,
            asked: HashMap::with_hasher(homes.hasher()),
            spaces: spaces::Spaces::new(homes),
            sessions: sessions::Sessions::new(homes),
            away: away::Away::new(homes),
        }
    }
}

impl Shard {
    /// This shard is one of a cluster's from here on: nothing has happened to it yet, and the broker is still to come up.
    pub fn join_cluster(&mut self) {
        self.cluster = Some(Box::new(Cluster::new(&self.homes)));
    }

    /// The broker tells something.
    pub fn handle_cluster(&mut self, event: Event) {
        if self.cluster.is_some() {
            self.on_cluster_event(event);
        }
        self.settle();
    }

    fn on_cluster_event(&mut self, event: Event) {
        match event {
            Event::Replied { id, reply } => self.on_reply(id, reply),
            Event::Changed {
                namespace,
                version,
                change,
            } => self.on_space_changed(namespace, version, change),
            Event::Matched {
                namespace,
                members,
                matched,
            } => self.on_space_matched(namespace, &members, &matched),
            Event::Replaced(who) => self.on_session_replaced(who),
            Event::NodeGone(node) => {
                self.forget_node_spaces(node);
                self.forget_node_peers(node);
            }
            Event::Down => {
                if let Some(cluster) = &mut self.cluster {
                    cluster.up = false;
                    cluster.away.forget_all();
                    cluster.sessions.resuming.start();
                }
                self.lose_spaces();
            }
            Event::Up => {
                if let Some(cluster) = &mut self.cluster {
                    cluster.up = true;
                }
                self.find_spaces();
                self.resume_sessions();
            }
            Event::Compare => self.compare_spaces(),
            // Bytes are the shell's.
            Event::Traffic { .. } | Event::Plain(_) => {}
        }
    }

    fn on_reply(&mut self, id: CommandId, reply: Reply) {
        let asked = self.cluster.as_mut().and_then(|cluster| cluster.asked.remove(&id));
        let lost = matches!(reply, Reply::Lost);
        match asked {
            Some(Asked::Space(namespace, asked)) => self.on_space_reply(id, namespace, asked, reply),
            Some(Asked::Session(who, asked)) => self.on_session_reply(id, who, asked, reply),
            Some(Asked::Alias(asker)) => self.on_alias_reply(asker, &reply),
            Some(Asked::Peer(fingerprint)) => self.on_peer_found(id, &fingerprint, &reply),
            None => self.counters.stale_mail += 1,
        }
        // A command for which the queue had no room is lost as well, with the broker there: what was put aside for that goes
        // on when it is seen to answer.
        if !lost {
            self.tell_sessions();
        }
    }

    /// Gives the broker a command; its reply is for `asked`. While the broker is down the reply is [`Reply::Lost`], and
    /// comes at once.
    fn command(&mut self, asked: Asked, what: What) -> CommandId {
        let loop_id = self.id;
        let Some(cluster) = &mut self.cluster else {
            return CommandId::new(loop_id, 0);
        };
        cluster.commands += 1;
        let id = CommandId::new(loop_id, cluster.commands);
        cluster.asked.insert(id, asked);
        self.outputs.push_back(Output::Command(Box::new(Command { id, what })));
        id
    }

    /// The number of the next command.
    fn next_command(&self) -> CommandId {
        let given = self.cluster.as_ref().map_or(0, |cluster| cluster.commands);
        CommandId::new(self.id, given + 1)
    }

    /// Whether other nodes may have what is not here.
    pub(super) fn is_clustered(&self) -> bool {
        self.cluster.is_some()
    }

    /// Whether the broker takes commands.
    pub(super) fn is_up(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.up)
    }

    /// Proves that what the cluster adds to the state agrees with itself. Panics if not.
    pub(super) fn check_cluster(&self) {
        let Some(cluster) = &self.cluster else { return };
        cluster.away.check_invariants();
        let asked = |id: &CommandId| cluster.asked.contains_key(id);
        cluster.sessions.resuming.check_invariants(asked);
        let ends = |asked: &&Asked| matches!(asked, Asked::Session(_, sessions::Asked::End));
        let ends = cluster.asked.values().filter(ends).count();
        assert_eq!(cluster.sessions.ends_under_way(), ends, "ends under way add up");
        for (fingerprint, arrival) in &self.peers.arrivals {
            let Some(command) = arrival.command() else { continue };
            assert_eq!(arrival.outstanding, 0, "the broker is asked when nothing is in the way");
            let of_it = |asked: &Asked| matches!(asked, Asked::Session(who, _) if who.fingerprint == *fingerprint);
            assert!(cluster.asked.get(&command).is_some_and(of_it), "its reply is awaited");
        }
    }
}
