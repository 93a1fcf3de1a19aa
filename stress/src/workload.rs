//! What is to be done: a scenario and its parameters, as read from a file or the command line.
//!
//! Owns: the names of scenarios and parameters, and their defaults.
//! Never: does any of it; `scenario` does.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A workload. In a file: one JSON object of these members; every one but `scenario` has a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workload {
    /// The question that this workload answers.
    pub question: String,
    /// What is done.
    pub scenario: Kind,
    /// Pairs of peers that exchange messages.
    pub pairs: usize,
    /// Messages that a pair has under way at once, changes that a namespace has, or connections, or requests of seekers.
    pub window: usize,
    /// Bytes of a message's payload.
    pub size: usize,
    /// Connected peers: all of them, or those beside the pairs. With `connect` those that are held, with `slow-readers`
    /// those that read slowly, with `stun` and `punch` sockets. 0: with `ping`, `mixed`, `stun` and `punch` 50, with `rooms` enough for 50.
    pub peers: usize,
    /// With `signal`: clients that seek a game server and wait all the while, at a provider that never answers.
    pub seekers_waiting: usize,
    /// With `match`: namespaces in which each of those who wait for nobody waits.
    pub waits: usize,
    /// With `match`: whether those are met in the end, each request of theirs by one of a player.
    pub meet: bool,
    /// Members of each namespace.
    pub namespace_size: usize,
    /// Messages, requests, joins, connections, rooms or evenings a second, of all workers together; 0: as fast as answers come.
    pub rate: f64,
    /// Whether the two of a pair live on the same loop of the server, or members of a namespace on the same node.
    pub placement: Placement,
    /// Whether peers that leave close their connection, and come back on another.
    pub reconnect: bool,
    /// Seconds for which slow readers read nothing at a time; 0: they always read, to compare with.
    pub stall: f64,
    /// Whether connections speak TLS.
    pub tls: bool,
    /// Whether permessage-deflate is asked for.
    pub compression: bool,
    /// Whether servers that are started here listen on IPv6.
    pub ipv6: bool,
    /// What registers with `punch`.
    pub dialect: Dialect,
    /// Whether with `punch` each session is joined by another socket.
    pub join: bool,
    /// Seconds before the measurement, and of it.
    pub warm_up: f64,
    /// Seconds of the measurement.
    pub seconds: f64,
}

/// What is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Pairs of peers signal: each next message when an earlier one has arrived, or at a fixed rate.
    #[default]
    Signal,
    /// One peer of each namespace broadcasts to its others: each next when all have an earlier one.
    Broadcast,
    /// Peers connect, register, join, and then do nothing.
    Idle,
    /// The same on several nodes, of which the last is killed.
    NodeLoss,
    /// Peers connect, register, join and vanish: each next when an earlier one is ready, or at a fixed rate.
    Connect,
    /// Members of namespaces leave and join again: each next when all were told of an earlier one, or at a fixed rate.
    Presence,
    /// Pairs of peers signal, while others are talked to and read only now and then.
    SlowReaders,
    /// Peers ping in JSON and count the pongs.
    Ping,
    /// Players ask for an opponent, again and again, while others wait for one who never comes.
    Match,
    /// Owners create rooms; members join, are kicked, and leave.
    Rooms,
    /// A game night: a lobby, matching, an offer, an answer and candidates for each pair, then idle.
    Mixed,
    /// UDP sockets ask for their own addresses.
    Stun,
    /// Clients of a punch dialect register by UDP, and go.
    Punch,
    /// Clients ask for a game server, each on a connection of its own, and get one.
    Seek,
}

impl Kind {
    /// Whether the floor can stand in for a server: it passes on what it reads, and answers nothing but STUN.
    pub fn has_floor(self) -> bool {
        matches!(
            self,
            Self::Signal | Self::Broadcast | Self::Idle | Self::Connect | Self::Stun
        )
    }

    /// Whether it is all done by UDP.
    pub fn is_datagrams(self) -> bool {
        matches!(self, Self::Stun | Self::Punch)
    }
}

/// Where the two of a pair live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Wherever their keys put them.
    #[default]
    Any,
    /// On one loop.
    SameLoop,
    /// On two loops.
    CrossLoop,
    /// On one node of several.
    SameNode,
    /// On two nodes.
    CrossNode,
}

impl Placement {
    /// Whether loops of one server are meant.
    pub fn is_of_loops(self) -> bool {
        matches!(self, Self::SameLoop | Self::CrossLoop)
    }

    /// Whether nodes of a cluster are meant.
    pub fn is_of_nodes(self) -> bool {
        matches!(self, Self::SameNode | Self::CrossNode)
    }
}

/// A punch dialect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// 002, in ASCII.
    #[default]
    Simple,
    /// 001, in protobuf.
    Natpunch,
}

/// Peers or rooms, where a workload names no number of peers.
const SOME: usize = 50;

impl Default for Workload {
    fn default() -> Self {
        Self {
            question: String::new(),
            scenario: Kind::Signal,
            pairs: 50,
            window: 1,
            size: 300,
            peers: 0,
            seekers_waiting: 0,
            waits: 1,
            meet: false,
            namespace_size: 2,
            rate: 0.0,
            placement: Placement::Any,
            reconnect: false,
            stall: 1.0,
            tls: false,
            compression: false,
            ipv6: false,
            dialect: Dialect::Simple,
            join: false,
            warm_up: 0.5,
            seconds: 3.0,
        }
    }
}

impl Workload {
    /// Reads a workload: a file, or the name of a scenario with its defaults; then `key=value` settings over it.
    ///
    /// # Errors
    /// A file that cannot be read, and what is not a workload.
    pub fn read(name: &str, settings: &[String]) -> Result<Self, String> {
        let mut members = if Path::new(name).is_file() {
            let text = fs::read_to_string(name).map_err(|error| format!("{name}: {error}"))?;
            serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))?
        } else {
            Map::from_iter([("scenario".to_owned(), Value::from(name))])
        };
        for setting in settings {
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| format!("`{setting}` is not of the form key=value"))?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            members.insert(key.to_owned(), value);
        }
        let workload: Self = serde_json::from_value(members.into()).map_err(|error| format!("{name}: {error}"))?;
        workload.check().map_err(|error| format!("{name}: {error}"))?;
        Ok(workload)
    }

    fn check(&self) -> Result<(), String> {
        let rules = [
            (self.pairs > 0, "pairs must be at least 1"),
            (self.window > 0, "window must be at least 1"),
            (
                self.size >= 64,
                "size must be at least 64 bytes, which hold the pair and the number",
            ),
            (self.namespace_size >= 1, "namespace_size must be at least 1"),
            (
                self.namespace_size >= 2 || self.scenario != Kind::Broadcast,
                "a broadcast needs a namespace_size of at least 2",
            ),
            (
                !matches!(self.scenario, Kind::Signal | Kind::Match)
                    || self.placement.is_of_loops()
                    || self.namespace_size.is_multiple_of(2),
                "namespace_size must be even, so that the two of a pair share a namespace",
            ),
            (
                self.peers > 0 || self.scenario != Kind::Idle,
                "idle needs a number of peers",
            ),
            (
                self.peers >= self.namespace_size && self.namespace_size >= 2 || self.scenario != Kind::NodeLoss,
                "node-loss needs a number of peers, and a namespace_size of at least 2",
            ),
            (
                self.seconds >= 5.0 || self.scenario != Kind::NodeLoss,
                "node-loss needs seconds=5 or more: so long may it take until a node counts as lost",
            ),
            (
                self.peers > 0 || self.scenario != Kind::Connect,
                "connect needs a number of peers that it holds",
            ),
            (
                self.peers > 0 || self.scenario != Kind::SlowReaders,
                "slow-readers needs a number of peers that read slowly",
            ),
            (
                self.stall >= 0.0 && self.stall <= 600.0,
                "stall must be between 0 and 600",
            ),
            (
                self.namespace_size >= 2 || self.scenario != Kind::Presence,
                "presence needs a namespace_size of at least 2",
            ),
            (
                (2..=30).contains(&self.namespace_size) || self.scenario != Kind::Rooms,
                "a room needs a namespace_size from 2 to 30, the most that a server lets in",
            ),
            (
                (2..=50).contains(&self.namespace_size) || self.scenario != Kind::Mixed,
                "a lobby needs a namespace_size from 2 to 50, the most that the list after a join names",
            ),
            (
                !(self.ipv6 && self.scenario == Kind::Punch && self.dialect == Dialect::Simple),
                "the simple dialect has no way to write an IPv6 address",
            ),
            (
                !self.join || self.dialect == Dialect::Simple,
                "join needs the simple dialect",
            ),
            (
                self.seekers_waiting == 0 || self.scenario == Kind::Signal,
                "seekers wait only beside signal",
            ),
            (
                (1..=256).contains(&self.waits),
                "waits must be between 1 and 256, the namespaces of one peer",
            ),
            (
                !self.compression || self.scenario != Kind::Seek,
                "seekers ask for no compression",
            ),
            (self.rate >= 0.0 && self.rate.is_finite(), "rate must not be negative"),
            (
                self.seconds > 0.0 && self.seconds <= 3600.0,
                "seconds must be between 0 and 3600",
            ),
            (
                self.warm_up >= 0.0 && self.warm_up <= 600.0,
                "warm_up must be between 0 and 600",
            ),
        ];
        match rules.iter().find(|(kept, _)| !kept) {
            Some((_, rule)) => Err((*rule).to_owned()),
            None => Ok(()),
        }
    }

    /// Namespaces with a broadcaster: one, if the peers are not counted.
    pub fn groups(&self) -> usize {
        (self.peers / self.namespace_size).max(1)
    }

    /// News of joining peers that others get while all connect.
    pub fn announcements(&self) -> u64 {
        self.connections() as u64 * (self.namespace_size as u64).saturating_sub(1) / 2
    }

    /// Match requests that wait for nobody.
    pub fn requests_that_wait(&self) -> u64 {
        match self.scenario {
            Kind::Match => self.peers as u64 * self.waits as u64,
            _ => 0,
        }
    }

    /// Peers, or a few where no number is given.
    pub fn peers_or_some(&self) -> usize {
        if self.peers > 0 { self.peers } else { SOME }
    }

    /// Rooms, or a few where no number of peers is given.
    pub fn rooms(&self) -> usize {
        if self.peers > 0 { self.groups() } else { SOME }
    }

    /// Connections of all workers together, before anything begins.
    pub fn connections(&self) -> usize {
        match self.scenario {
            Kind::Signal if !self.placement.is_of_loops() => self.peers.max(2 * self.pairs) + self.seekers_waiting,
            Kind::Signal => self.peers.max(6 * self.pairs + 16) + self.seekers_waiting,
            Kind::Broadcast | Kind::Presence | Kind::NodeLoss => self.groups() * self.namespace_size,
            Kind::Idle | Kind::Connect => self.peers,
            Kind::SlowReaders => 2 * (self.pairs + self.peers),
            Kind::Ping | Kind::Mixed => self.peers_or_some(),
            Kind::Match => 2 * self.pairs + self.peers,
            Kind::Rooms => self.rooms() * self.namespace_size,
            Kind::Stun | Kind::Punch | Kind::Seek => 0,
        }
    }

    /// Connections that come and go, where there is none before anything begins.
    pub fn requests(&self) -> usize {
        if self.scenario == Kind::Seek { self.window } else { 0 }
    }

    /// UDP sockets of all workers together.
    pub fn sockets(&self) -> usize {
        match self.scenario {
            Kind::Stun => self.peers_or_some(),
            Kind::Punch => self.peers_or_some() * (1 + usize::from(self.join)),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_workload_that_is_kept_can_be_read_and_asks_a_question() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiles/workloads");
        let paths: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(!paths.is_empty());
        for path in paths {
            let workload = Workload::read(path.to_str().unwrap(), &[]).unwrap();
            assert!(workload.question.ends_with(['?', '.']), "{}", path.display());
        }
    }

    #[test]
    fn settings_stand_over_a_scenarios_defaults_and_are_checked() {
        let read =
            |settings: &[&str]| Workload::read("signal", &settings.iter().map(ToString::to_string).collect::<Vec<_>>());
        let workload = read(&["window=16", "placement=cross-loop"]).unwrap();
        assert_eq!((workload.window, workload.size), (16, 300));
        assert_eq!(workload.placement, Placement::CrossLoop);
        for wrong in ["window=0", "size=10", "windows=3", "window", "placement=moon"] {
            assert!(read(&[wrong]).is_err(), "{wrong}");
        }
        assert!(Workload::read("nothing", &[]).is_err());
    }
}
