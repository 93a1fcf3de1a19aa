//! The world: nodes with their shards and clients, and the broker between them, all driven from one seed.
//!
//! Owns: the clock, the connections, and the schedule: each step is one random choice among all that could happen next.
//! Never: decides what is right; it hands every event to the checkers.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use compact_str::CompactString;
use peer_server::broker::{Epoch, NodeId, Nodes};
use peer_server::ids::{CommandId, ConnId, Fingerprint, Homes, LoopId, NamespaceId};
use peer_server::message::cluster::{Command, Event as BrokerEvent, Reply};
use peer_server::message::{CriteriaKey, Event, LIST_MAX, Meta, PeerInfo, Refusal, Register, Request};
use peer_server::shard::{Limits, Output, PeerKey, Permits, Shard};

use crate::checkers::{History, Me, Wait, Witness};
use crate::links::{Delivery, Links};
use crate::model::{Broker, Place};
use crate::sequential::{Seen, Shown};
use crate::settings::Settings;
use crate::workload::{Action, Random, Req};

thread_local! {
    /// What happened so far, if somebody wants to read it.
    pub(crate) static TRACE: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        TRACE.with_borrow_mut(|trace| {
            if let Some(trace) = trace {
                trace.push(format!("{:>5} {:>6} {}", $world.steps, $world.broker.now_ms, format_args!($($text)*)));
            }
        })
    };
}

mod faults;
mod outputs;
mod quiet;
mod runner;
mod shell;
mod traffic;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Registering,
    Open(PeerKey),
    Closed,
}

/// A client's connection, at its home loop from the start. Its place in the world's list is its serial.
pub(crate) struct Conn {
    pub(crate) node: usize,
    id: ConnId,
    loop_index: usize,
    pub(crate) key: usize,
    pub(crate) phase: Phase,
    /// What the client sent and the shell has not looked at.
    inbound: VecDeque<Req>,
    wait: Option<Wait>,
    witness: Witness,
    log: Vec<Seen>,
}

impl Conn {
    pub(crate) fn saw(&self, seen: &Seen) -> bool {
        self.log.contains(seen)
    }
}

/// One process.
pub(crate) struct Node {
    id: NodeId,
    nodes: Nodes,
    homes: Homes,
    shards: Vec<Shard>,
    links: Links,
    /// Serials by loop and slot; a slot is never used twice here.
    slots: Vec<Vec<usize>>,
    /// It was not killed.
    runs: bool,
    /// It takes no step.
    stopped: bool,
    /// Nothing passes between it and the broker, and nobody says so.
    cut_off: bool,
    epoch: Option<Epoch>,
    /// Which data of the broker it knew.
    generation: Option<u64>,
    up: bool,
    retry_at: u64,
    compare_at: Option<u64>,
    renewed_at: u64,
    commands: VecDeque<Command>,
    replies: VecDeque<(CommandId, Reply)>,
    inbox_at: usize,
    /// What each loop was told by the broker's threads and has not looked at.
    events: Vec<VecDeque<traffic::Heard>>,
}

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) random: Random,
    pub(crate) broker: Broker,
    broker_down: bool,
    pub(crate) nodes: Vec<Node>,
    /// What is on its way from one node to another.
    pipes: BTreeMap<(usize, usize), traffic::Pipe>,
    pub(crate) conns: Vec<Conn>,
    /// Serials of those not closed.
    live: Vec<usize>,
    keys: Vec<Fingerprint>,
    key_of: BTreeMap<Fingerprint, usize>,
    names: Vec<Arc<str>>,
    name_of: BTreeMap<Arc<str>, usize>,
    space_of: BTreeMap<NamespaceId, usize>,
    shown_aliases: Vec<String>,
    owners: Vec<(usize, usize)>,
    pub(crate) history: History,
    started: u64,
    pub(crate) faults: u64,
    pub(crate) steps: u64,
}

impl World {
    pub(crate) fn new(seed: u64, settings: Settings) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            broker: Broker::at(1_000_000),
            broker_down: false,
            nodes: Vec::new(),
            pipes: BTreeMap::new(),
            conns: Vec::new(),
            live: Vec::new(),
            keys: Vec::new(),
            key_of: BTreeMap::new(),
            names: Vec::new(),
            name_of: BTreeMap::new(),
            space_of: BTreeMap::new(),
            shown_aliases: Vec::new(),
            owners: Vec::new(),
            history: History::default(),
            started: 0,
            faults: 0,
            steps: 0,
            settings,
        };
        for loops in world.settings.loops.clone() {
            let node = world.new_node(loops);
            world.nodes.push(node);
        }
        for key in 0..world.settings.load.keys {
            world.add_key(&format!("key-{key}"));
        }
        for name in 0..world.settings.load.names {
            world.add_name(&format!("name-{name}"));
        }
        world
    }

    fn new_node(&mut self, loops: usize) -> Node {
        self.started += 1;
        let id = NodeId::from_bytes([self.started as u8; 16]);
        let homes = Homes::new(loops as u16, std::array::from_fn(|_| self.random.next())).in_cluster();
        let limits = Arc::new(Limits {
            max_peers: 1000,
            max_rooms: 1000,
            max_match_waiting: 1000,
            messages: None,
            deliveries: None,
            send_buffer_size: 1000,
            send_buffer_bytes: 1 << 20,
            state_bytes: usize::MAX,
        });
        let permits = Arc::new(Permits::default());
        let shard = |index: usize| {
            let loop_id = LoopId::new(index as u16);
            let mut shard = Shard::new(
                loop_id,
                homes.clone(),
                limits.clone(),
                permits.clone(),
                [index as u8; 32],
            );
            shard.join_cluster();
            shard
        };
        Node {
            id,
            nodes: Nodes::new(id),
            shards: (0..loops).map(shard).collect(),
            links: Links::new(loops, 1 << 20),
            homes,
            slots: vec![Vec::new(); loops],
            runs: true,
            stopped: false,
            cut_off: false,
            epoch: None,
            generation: None,
            up: false,
            retry_at: 0,
            compare_at: None,
            renewed_at: 0,
            commands: VecDeque::new(),
            replies: VecDeque::new(),
            inbox_at: 0,
            events: vec![VecDeque::new(); loops],
        }
    }

    fn add_key(&mut self, text: &str) -> usize {
        let fingerprint = Fingerprint::of_key(text);
        self.keys.push(fingerprint);
        self.key_of.insert(fingerprint, self.keys.len() - 1);
        self.keys.len() - 1
    }

    fn add_name(&mut self, text: &str) -> usize {
        let name: Arc<str> = text.into();
        let homes = Homes::new(1, [0; 4]).in_cluster();
        self.space_of.insert(homes.namespace(text), self.names.len());
        self.name_of.insert(name.clone(), self.names.len());
        self.names.push(name);
        self.names.len() - 1
    }

    /// Runs everything that the settings ask for; returns the number of steps.
    pub(crate) fn run(&mut self) -> u64 {
        self.settle();
        for _ in 0..self.settings.load.rounds {
            let mut left = self.settings.load.actions;
            while left > 0 {
                left -= usize::from(self.step(true));
            }
            self.settle();
            self.check_quiet();
        }
        for serial in self.live.clone() {
            self.disconnect(serial);
            for _ in 0..3 {
                self.step(false);
            }
        }
        self.settle();
        self.check_quiet();
        self.check_empty();
        self.steps
    }

    /// Every action is carried through before the next; the sequential model of one node alone foretells what everybody sees.
    pub(crate) fn run_in_lockstep(&mut self) -> u64 {
        let mut model = crate::sequential::Model::new(&self.settings.load);
        self.settle();
        for _ in 0..self.settings.load.actions {
            let action = self.draw_action();
            self.conns.iter_mut().for_each(|conn| conn.log.clear());
            let next_id = self.history.next_id;
            self.act(action.clone());
            self.settle();
            self.check_quiet();
            let (expected, any_order) = match &action {
                Action::Connect { key, alias } => {
                    let made = match self.conns.last().and_then(|conn| conn.log.first()) {
                        Some(Seen::Registered { alias }) => Some(&**alias),
                        _ => None,
                    };
                    (model.connect(*key, self.conns.len() - 1, alias, made), true)
                }
                Action::Disconnect(serial) => (model.disconnect(self.conns[*serial].key), true),
                Action::Ask(serial, request) => (model.ask(self.conns[*serial].key, request, next_id), false),
            };
            for (serial, conn) in self.conns.iter_mut().enumerate() {
                let mut own: Vec<&Seen> = expected
                    .iter()
                    .filter(|(to, _)| *to == serial)
                    .map(|(_, seen)| seen)
                    .collect();
                for seen in &mut conn.log {
                    match seen {
                        Seen::Matched { session, .. } => *session = [0; 16],
                        // A peer with which one shares nothing may have moved to another node unnoticed.
                        Seen::Refused(refusal @ Refusal::PeerNotFound)
                            if matches!(action, Action::Ask(_, Req::Direct { .. }))
                                && own == [&Seen::Refused(Refusal::NoSharedNamespace)] =>
                        {
                            *refusal = Refusal::NoSharedNamespace;
                        }
                        _ => {}
                    }
                }
                let mut log: Vec<&Seen> = conn.log.iter().collect();
                if any_order {
                    own.sort_by_cached_key(|seen| format!("{seen:?}"));
                    log.sort_by_cached_key(|seen| format!("{seen:?}"));
                }
                assert_eq!(
                    log, own,
                    "what connection {serial} saw of {action:?}, and what one node alone would do"
                );
            }
        }
        self.steps
    }

    fn draw_action(&mut self) -> Action {
        let conns = &self.conns;
        self.owners.retain(|(serial, _)| conns[*serial].phase != Phase::Closed);
        self.settings
            .load
            .action(&mut self.random, &self.live, &self.shown_aliases, &self.owners)
    }

    /// One thing happens. True: it was an action of a client.
    pub(crate) fn step(&mut self, may_act: bool) -> bool {
        self.steps += 1;
        let mut to_push = Vec::new();
        let mut to_handle = Vec::new();
        let mut to_run = Vec::new();
        let mut to_reply = Vec::new();
        let mut to_read = Vec::new();
        let mut to_hear = Vec::new();
        for (n, node) in self.nodes.iter().enumerate() {
            if !node.runs || node.stopped {
                continue;
            }
            for at in 0..node.shards.len() {
                if node.links.to_push(at) {
                    to_push.push((n, at));
                }
                if node.links.first_batch(at) > 0 {
                    to_handle.push((n, at));
                }
                if !node.events[at].is_empty() {
                    to_hear.push((n, at));
                }
            }
            let reaches = node.up && !node.cut_off && !self.broker_down;
            if !node.commands.is_empty() && (reaches || !node.up) {
                to_run.push(n);
            }
            if !node.replies.is_empty() && reaches {
                to_reply.push(n);
            }
            if reaches && !self.unread(n).is_empty() {
                to_read.push(n);
            }
        }
        let to_publish: Vec<(usize, usize)> = self.pipes();
        let to_feed: Vec<usize> = self
            .live
            .iter()
            .copied()
            .filter(|serial| self.can_feed(*serial))
            .collect();
        let [act, mail, feed, commands, inbox, events, traffic, time] = self.settings.weights;
        let when = |is: bool, weight: usize| if is { weight } else { 0 };
        let weights = [
            when(may_act, act),
            when(!to_push.is_empty(), mail),
            when(!to_handle.is_empty(), mail),
            when(!to_feed.is_empty(), feed),
            when(!to_run.is_empty(), commands),
            when(!to_reply.is_empty(), commands),
            when(!to_read.is_empty(), inbox),
            when(!to_hear.is_empty(), events),
            when(!to_publish.is_empty(), traffic),
            // Time passes by itself, or when nothing else is left.
            time.max(1),
            when(may_act, self.settings.faults),
        ];
        match self.random.weighted(&weights) {
            0 => {
                let action = self.draw_action();
                self.act(action);
                return true;
            }
            1 => {
                let (n, from) = self.random.pick(&to_push);
                self.nodes[n].links.push(from);
            }
            2 => {
                let (n, at) = self.random.pick(&to_handle);
                self.handle(n, at);
            }
            3 => {
                let serial = self.random.pick(&to_feed);
                self.feed(serial);
            }
            4 => {
                let n = self.random.pick(&to_run);
                self.run_command(n);
            }
            5 => {
                let n = self.random.pick(&to_reply);
                self.reply(n);
            }
            6 => {
                let n = self.random.pick(&to_read);
                self.read_inbox(n);
            }
            7 => {
                let (n, at) = self.random.pick(&to_hear);
                self.hear(n, at);
            }
            8 => {
                let pipe = self.random.pick(&to_publish);
                self.carry_traffic(pipe);
            }
            9 => {
                let ms = self.random.below(self.settings.tick_ms) as u64 + 1;
                self.pass_time(ms);
            }
            _ => self.fault(),
        }
        false
    }

    /// Whether anything is under way.
    fn is_busy(&self) -> bool {
        let works = |(n, node): (usize, &Node)| {
            node.runs
                && (!node.links.is_quiet()
                    || !node.commands.is_empty()
                    || !node.replies.is_empty()
                    || node.events.iter().any(|events| !events.is_empty())
                    || !self.unread(n).is_empty()
                    || !node.up
                    || node.compare_at.is_some())
        };
        self.nodes.iter().enumerate().any(works)
            || !self.pipes().is_empty()
            || self.live.iter().any(|serial| self.can_feed(*serial))
    }

    /// Lets everything happen that is under way, in random order, until nothing does any more.
    pub(crate) fn settle(&mut self) {
        self.heal();
        let deadline = self.steps + 200_000;
        // Long enough for every lease that is not renewed to lapse, and to be noticed.
        let mut quiet_until = self.broker.now_ms + 6_000;
        loop {
            while self.is_busy() {
                self.step(false);
                assert!(self.steps < deadline, "no quiet after 200,000 steps");
                quiet_until = self.broker.now_ms + 6_000;
            }
            if self.broker.now_ms >= quiet_until || !self.history.broken {
                return;
            }
            self.pass_time(500);
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Connect { key, alias } => {
                let alive: Vec<usize> = (0..self.nodes.len())
                    .filter(|n| self.nodes[*n].runs && !self.nodes[*n].stopped)
                    .collect();
                if !alive.is_empty() {
                    let node = self.random.pick(&alive);
                    self.connect(node, key, &alias);
                }
            }
            Action::Disconnect(serial) => {
                if !self.nodes[self.conns[serial].node].stopped {
                    self.disconnect(serial);
                }
            }
            Action::Ask(serial, request) => {
                note!(self, "#{serial} sends {request:?}");
                let inbound = &mut self.conns[serial].inbound;
                if inbound.len() < 8 {
                    inbound.push_back(request);
                }
            }
        }
    }

    /// A client connects to that node and registers; returns its serial.
    pub(crate) fn connect(&mut self, n: usize, key: usize, alias: &str) -> usize {
        let serial = self.conns.len();
        let fingerprint = self.keys[key];
        let node = &mut self.nodes[n];
        let loop_index = node.homes.of_fingerprint(&fingerprint).index();
        let id = ConnId::new(node.slots[loop_index].len() as u32, 0);
        node.slots[loop_index].push(serial);
        note!(
            self,
            "#{serial} connects to node {n}: key {key} {fingerprint} at loop {loop_index}, alias {alias:?}"
        );
        self.conns.push(Conn {
            node: n,
            id,
            loop_index,
            key,
            phase: Phase::Registering,
            inbound: VecDeque::new(),
            wait: None,
            witness: Witness::default(),
            log: Vec::new(),
        });
        self.live.push(serial);
        let mut meta = Meta::default();
        meta.set("\"c\"", &serial.to_string());
        let alias = CompactString::from(alias);
        self.nodes[n].shards[loop_index].register(
            id,
            Register {
                fingerprint,
                alias,
                meta,
            },
        );
        self.drain(n, loop_index);
        serial
    }

    /// A client's connection closes.
    pub(crate) fn disconnect(&mut self, serial: usize) {
        let conn = &self.conns[serial];
        let (n, at, phase, id) = (conn.node, conn.loop_index, conn.phase, conn.id);
        note!(self, "#{serial} disconnects");
        let fingerprint = self.keys[conn.key];
        self.forget(serial);
        match phase {
            Phase::Registering => self.nodes[n].shards[at].abandon_registration(id, &fingerprint),
            Phase::Open(peer) => self.nodes[n].shards[at].close(peer),
            Phase::Closed => {}
        }
        self.drain(n, at);
    }

    /// A client asks.
    pub(crate) fn ask(&mut self, serial: usize, request: Req) {
        self.act(Action::Ask(serial, request));
    }

    fn forget(&mut self, serial: usize) {
        let conn = &mut self.conns[serial];
        conn.phase = Phase::Closed;
        conn.wait = None;
        conn.inbound.clear();
        self.live.retain(|live| *live != serial);
    }

    fn place(&self, n: usize) -> Place {
        (self.nodes[n].id, self.nodes[n].epoch.unwrap_or(Epoch(0)))
    }

    fn serial(&self, n: usize, at: usize, conn: ConnId) -> Option<usize> {
        let serial = *self.nodes[n].slots[at].get(conn.slot())?;
        (self.conns[serial].phase != Phase::Closed).then_some(serial)
    }

    fn serial_of(&self, n: usize, at: usize, peer: PeerKey) -> usize {
        let is_it = |serial: &&usize| {
            let conn = &self.conns[**serial];
            (conn.node, conn.loop_index) == (n, at) && conn.phase == Phase::Open(peer)
        };
        *self.live.iter().find(is_it).expect("a peer has its connection")
    }
}
