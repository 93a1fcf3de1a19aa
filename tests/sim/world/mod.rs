//! The world: shards with a shell each, clients, links and a clock, all driven from one seed.
//!
//! Owns: the connections and how a shell serves them (what the event loop does with sockets, here without any), and the
//! schedule: each step is one random choice among all that could happen next.
//! Never: decides what is right; it hands every event to the checkers.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use compact_str::CompactString;
use peer_server::ids::{ConnId, Fingerprint, Homes, LoopId, NamespaceId};
use peer_server::mailbox::Batch;
use peer_server::message::{CLOSE_TRY_AGAIN, CriteriaKey, DirectKind, Event, LIST_MAX, Meta, PeerInfo, Refusal};
use peer_server::message::{Register, Request};
use peer_server::shard::{
    DirectMail, FanOutMail, Held, HeldKind, Limits, Output, PeerKey, Permits, Route, Shard, Snapshot, Target,
    Unresolved,
};

use crate::checkers::{Account, FanOut, Fate, History, Me, Message, Wait, Witness};
use crate::links::{Delivery, Links};
use crate::model::{Model, Seen, Shown};
use crate::workload::{Action, Random, Req, Settings, To};

thread_local! {
    /// What happened so far, if somebody wants to read it.
    pub(crate) static TRACE: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        TRACE.with_borrow_mut(|trace| {
            if let Some(trace) = trace {
                trace.push(format!("{:>5} {}", $world.steps, format_args!($($text)*)));
            }
        })
    };
}

mod outputs;
mod quiet;
mod shell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Registering,
    Open(PeerKey),
    Closed,
}

/// A client's connection, at its home loop from the start. Its place in the world's list is its serial.
struct Conn {
    id: ConnId,
    loop_index: usize,
    key: usize,
    wanted_alias: String,
    phase: Phase,
    /// What the client sent and the shell has not looked at.
    inbound: VecDeque<Req>,
    wait: Option<Wait>,
    /// Messages that the client has not read.
    buffered: usize,
    slow: bool,
    witness: Witness,
    log: Vec<Seen>,
}

#[derive(Clone, Copy)]
struct Slot {
    generation: u32,
    serial: Option<usize>,
}

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) random: Random,
    pub(crate) homes: Homes,
    limits: Arc<Limits>,
    permits: Arc<Permits>,
    pub(crate) shards: Vec<Shard>,
    pub(crate) links: Links,
    conns: Vec<Conn>,
    /// Serials of those not closed.
    live: Vec<usize>,
    slots: Vec<Vec<Slot>>,
    keys: Vec<Fingerprint>,
    key_of: BTreeMap<Fingerprint, usize>,
    names: Vec<Arc<str>>,
    name_of: BTreeMap<Arc<str>, usize>,
    space_of: BTreeMap<NamespaceId, usize>,
    /// Aliases that somebody was shown, in that order.
    shown_aliases: Vec<String>,
    /// Who made which room, as far as it was told so: connections and names.
    owners: Vec<(usize, usize)>,
    /// What the server made for a key.
    made: BTreeMap<usize, String>,
    history: History,
    /// Connections that the shell closed while outputs were being drained.
    hung_up: Vec<ConnId>,
    /// Connections whose wait ended while outputs were being drained.
    resumed: Vec<usize>,
    keep_logs: bool,
    now_ms: u64,
    pub(crate) steps: u64,
}

impl World {
    pub(crate) fn new(seed: u64, settings: Settings) -> Self {
        let mut random = Random::new(seed);
        let homes = Homes::new(settings.loops as u16, std::array::from_fn(|_| random.next()));
        let limits = Arc::new(Limits {
            max_peers: settings.max_peers,
            max_rooms: settings.max_rooms,
            max_match_waiting: settings.max_match_waiting,
            messages: settings.messages,
            deliveries: settings.deliveries,
            send_buffer_size: settings.send_buffer_size,
            send_buffer_bytes: settings.send_buffer_bytes,
            state_bytes: usize::MAX,
        });
        let permits = Arc::new(Permits::default());
        let shard = |index: usize| {
            let (id, seed) = (LoopId::new(index as u16), [index as u8; 32]);
            Shard::new(id, homes.clone(), limits.clone(), permits.clone(), seed)
        };
        let mut world = Self {
            shards: (0..settings.loops).map(shard).collect(),
            links: Links::new(settings.loops, settings.traffic_max),
            slots: vec![Vec::new(); settings.loops],
            conns: Vec::new(),
            live: Vec::new(),
            keys: Vec::new(),
            key_of: BTreeMap::new(),
            names: Vec::new(),
            name_of: BTreeMap::new(),
            space_of: BTreeMap::new(),
            shown_aliases: Vec::new(),
            owners: Vec::new(),
            made: BTreeMap::new(),
            history: History::default(),
            hung_up: Vec::new(),
            resumed: Vec::new(),
            keep_logs: true,
            now_ms: 1_000_000,
            steps: 0,
            homes,
            limits,
            permits,
            random,
            settings,
        };
        for key in 0..world.settings.keys {
            world.add_key(&format!("key-{key}"));
        }
        for name in 0..world.settings.names {
            world.add_name(&format!("name-{name}"));
        }
        world
    }

    fn add_key(&mut self, text: &str) -> usize {
        let fingerprint = Fingerprint::of_key(text);
        self.keys.push(fingerprint);
        self.key_of.insert(fingerprint, self.keys.len() - 1);
        self.keys.len() - 1
    }

    fn add_name(&mut self, text: &str) -> usize {
        let name: Arc<str> = text.into();
        self.space_of.insert(self.homes.namespace(text), self.names.len());
        self.name_of.insert(name.clone(), self.names.len());
        self.names.push(name);
        self.names.len() - 1
    }

    /// A new key whose home is that loop.
    pub(crate) fn key_at(&mut self, loop_index: usize) -> usize {
        let is_there = |text: &String| self.homes.of_fingerprint(&Fingerprint::of_key(text)).index() == loop_index;
        let mut texts = (0..).map(|number| format!("key-{}-{number}", self.keys.len()));
        let text = texts.find(is_there).unwrap();
        self.add_key(&text)
    }

    /// A new namespace whose home is that loop.
    pub(crate) fn name_at(&mut self, loop_index: usize) -> usize {
        let is_there = |text: &String| self.homes.of_namespace(self.homes.namespace(text)).index() == loop_index;
        let mut texts = (0..).map(|number| format!("name-{}-{number}", self.names.len()));
        let text = texts.find(is_there).unwrap();
        self.add_name(&text)
    }

    /// An alias whose home is that loop.
    pub(crate) fn alias_at(&self, loop_index: usize) -> String {
        let mut texts = (0..).map(|number| format!("alias-{number}"));
        texts
            .find(|text| self.homes.of_alias(text).index() == loop_index)
            .unwrap()
    }

    /// Runs everything that the settings ask for; returns the number of steps.
    pub(crate) fn run(&mut self) -> u64 {
        self.keep_logs = self.settings.lockstep;
        let mut model = Model::new(&self.settings);
        for _ in 0..self.settings.rounds {
            let mut left = self.settings.actions;
            if self.settings.lockstep {
                (0..left).for_each(|_| self.act_in_lockstep(&mut model));
            } else {
                self.refresh_keys();
                while left > 0 {
                    left -= usize::from(self.step(true));
                }
                self.settle();
            }
        }
        for serial in self.live.clone() {
            self.disconnect(serial);
            for _ in 0..3 {
                self.step(false);
            }
        }
        self.settle();
        for shard in &self.shards {
            assert_eq!(
                shard.snapshot(),
                Snapshot::default(),
                "nothing is left when everybody is gone"
            );
            assert_eq!(shard.state_bytes(), 0, "no bytes are left when everybody is gone");
        }
        self.steps
    }

    fn draw_action(&mut self) -> Action {
        let conns = &self.conns;
        self.owners.retain(|(serial, _)| conns[*serial].phase != Phase::Closed);
        self.settings
            .action(&mut self.random, &self.live, &self.shown_aliases, &self.owners)
    }

    /// Some keys that nobody uses are never seen again, and fresh ones take their places. Only when all is quiet.
    fn refresh_keys(&mut self) {
        for place in 0..self.keys.len() {
            if self.random.chance(10) && !self.live.iter().any(|serial| self.conns[*serial].key == place) {
                let fingerprint = Fingerprint::of_key(&format!("key-{place}-{}", self.random.next()));
                note!(self, "key {place} is {fingerprint} from here on");
                // The earlier one is still named as the owner of rooms that outlived it.
                self.keys[place] = fingerprint;
                self.key_of.insert(fingerprint, place);
                self.made.remove(&place);
            }
        }
    }

    fn act_in_lockstep(&mut self, model: &mut Model) {
        let action = self.draw_action();
        self.conns.iter_mut().for_each(|conn| conn.log.clear());
        let next_id = self.history.next_id;
        self.act(action.clone());
        self.settle();
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
                if let Seen::Matched { session, .. } = seen {
                    *session = [0; 16];
                }
            }
            let mut log: Vec<&Seen> = conn.log.iter().collect();
            if any_order {
                own.sort_by_cached_key(|seen| format!("{seen:?}"));
                log.sort_by_cached_key(|seen| format!("{seen:?}"));
            }
            assert_eq!(
                log, own,
                "what connection {serial} saw of {action:?}, and what the model foretold"
            );
        }
    }

    /// One thing happens. True: it was an action of a client.
    fn step(&mut self, may_act: bool) -> bool {
        self.steps += 1;
        let to_push: Vec<usize> = (0..self.shards.len()).filter(|at| self.links.to_push(*at)).collect();
        let to_handle: Vec<usize> = (0..self.shards.len())
            .filter(|at| self.links.first_batch(*at) > 0)
            .collect();
        let to_feed: Vec<usize> = self
            .live
            .iter()
            .copied()
            .filter(|serial| self.can_feed(*serial))
            .collect();
        let [act, push, handle, feed, read] = self.settings.weights;
        let weights = [
            if may_act { act } else { 0 },
            if to_push.is_empty() { 0 } else { push },
            if to_handle.is_empty() { 0 } else { handle },
            if to_feed.is_empty() { 0 } else { feed },
            read,
        ];
        match self.random.weighted(&weights) {
            0 => {
                let action = self.draw_action();
                self.act(action);
                return true;
            }
            1 => {
                let from = self.random.pick(&to_push);
                self.push(from);
            }
            2 => {
                let at = self.random.pick(&to_handle);
                let items = if self.random.chance(50) {
                    1
                } else {
                    self.links.first_batch(at)
                };
                for _ in 0..items {
                    self.handle(at);
                }
            }
            3 => {
                let serial = self.random.pick(&to_feed);
                self.feed(serial);
            }
            _ => {
                self.now_ms += self.random.below(30) as u64;
                if !self.live.is_empty() {
                    let serial = self.random.pick(&self.live);
                    let rarely = self.conns[serial].slow && !self.random.chance(10);
                    if !rarely {
                        self.conns[serial].buffered = 0;
                    }
                }
            }
        }
        false
    }

    /// Lets everything happen that is under way, in random order, then compares all shards.
    pub(crate) fn settle(&mut self) {
        for serial in self.live.clone() {
            self.conns[serial].slow = false;
        }
        while !self.links.is_quiet() || self.live.iter().any(|serial| self.can_feed(*serial)) {
            self.step(false);
        }
        self.live.iter().for_each(|serial| self.conns[*serial].buffered = 0);
        self.check_quiet();
    }

    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Connect { key, alias } => {
                self.connect(key, &alias);
            }
            Action::Disconnect(serial) => self.disconnect(serial),
            Action::Ask(serial, request) => {
                note!(self, "#{serial} sends {request:?}");
                let inbound = &mut self.conns[serial].inbound;
                if inbound.len() < 8 {
                    inbound.push_back(request);
                }
            }
        }
    }

    /// A client connects and registers; returns its serial.
    pub(crate) fn connect(&mut self, key: usize, alias: &str) -> usize {
        let serial = self.conns.len();
        let fingerprint = self.keys[key];
        let loop_index = self.homes.of_fingerprint(&fingerprint).index();
        let slots = &mut self.slots[loop_index];
        let slot = slots
            .iter()
            .position(|slot| slot.serial.is_none())
            .unwrap_or(slots.len());
        match slots.get_mut(slot) {
            Some(slot) => (slot.generation, slot.serial) = (slot.generation + 1, Some(serial)),
            None => slots.push(Slot {
                generation: 0,
                serial: Some(serial),
            }),
        }
        let id = ConnId::new(slot as u32, slots[slot].generation);
        note!(
            self,
            "#{serial} connects: key {key} {fingerprint} at loop {loop_index}, alias {alias:?}"
        );
        self.conns.push(Conn {
            id,
            loop_index,
            key,
            wanted_alias: alias.to_owned(),
            phase: Phase::Registering,
            inbound: VecDeque::new(),
            wait: None,
            buffered: 0,
            slow: self.random.chance(self.settings.slow),
            witness: Witness::default(),
            log: Vec::new(),
        });
        self.live.push(serial);
        let mut meta = Meta::default();
        meta.set("\"c\"", &serial.to_string());
        let alias = CompactString::from(alias);
        self.shards[loop_index].register(
            id,
            Register {
                fingerprint,
                alias,
                meta,
            },
        );
        self.drain(loop_index);
        serial
    }

    /// A client's connection closes.
    pub(crate) fn disconnect(&mut self, serial: usize) {
        let conn = &self.conns[serial];
        let (at, phase, id) = (conn.loop_index, conn.phase, conn.id);
        note!(self, "#{serial} disconnects");
        self.forget(serial);
        let fingerprint = self.keys[self.conns[serial].key];
        match phase {
            Phase::Registering => self.shards[at].abandon_registration(id, &fingerprint),
            Phase::Open(peer) => self.shards[at].close(peer),
            Phase::Closed => {}
        }
        self.drain(at);
    }

    fn forget(&mut self, serial: usize) {
        let conn = &mut self.conns[serial];
        conn.phase = Phase::Closed;
        conn.wait = None;
        conn.inbound.clear();
        self.slots[conn.loop_index][conn.id.slot()].serial = None;
        self.live.retain(|live| *live != serial);
    }

    /// A client asks; its shell looks at it at once (or once the earlier answers are in).
    pub(crate) fn ask(&mut self, serial: usize, request: Req) {
        self.act(Action::Ask(serial, request));
        if self.can_feed(serial) {
            self.feed(serial);
        }
    }

    /// Pushes one batch of that loop.
    pub(crate) fn push(&mut self, from: usize) -> bool {
        let pushed = self.links.push(from);
        if let Some(to) = pushed {
            note!(self, "loop {from} pushes to {to}");
        }
        pushed.is_some()
    }

    /// Loop `from` pushes everything, then loop `to` handles its inbox.
    pub(crate) fn carry(&mut self, from: usize, to: usize) {
        while self.push(from) {}
        while self.handle(to) {}
    }

    /// What that client saw since it was last asked.
    pub(crate) fn seen(&mut self, serial: usize) -> Vec<Seen> {
        std::mem::take(&mut self.conns[serial].log)
    }

    pub(crate) fn is_waiting(&self, serial: usize) -> bool {
        match self.conns[serial].phase {
            Phase::Open(peer) => self.shards[self.conns[serial].loop_index].is_waiting(peer),
            Phase::Registering | Phase::Closed => false,
        }
    }

    pub(crate) fn registered(&self) -> usize {
        self.permits.registered.now()
    }

    /// That client's socket takes nothing more.
    pub(crate) fn stop_reading(&mut self, serial: usize) {
        self.conns[serial].buffered = self.settings.send_buffer_size;
    }

    /// One more message of the server, and that client's connection is closed.
    pub(crate) fn clog(&mut self, serial: usize) {
        self.conns[serial].buffered = self.settings.send_buffer_size * 4 + 1;
    }

    pub(crate) fn conns_made(&self) -> usize {
        self.conns.len()
    }
}

fn id_of(payload: Option<&str>) -> u64 {
    payload
        .and_then(|text| text.parse().ok())
        .expect("payloads are numbers here")
}
