//! One server of several loops, players behind routers, and a network that loses, doubles, delays and reorders, on one
//! virtual clock and from one seed.
//!
//! Owns: what is under way, and when what happens.
//! Never: knows what a player wants (see `players`) or what must come of it (see `scenes`).

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use peer_server::dialect::matchmaker;
use peer_server::ids::{ConnId, Homes, LoopId};
use peer_server::message::matchmaker::{Ask, Refusal, Reply, Told};
use peer_server::message::punch::Path;
use peer_server::shard::punch::{Limits, Mail, Output, Permits, Punch};
use peer_server_client::Transmit;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::network::{Kind, Router, is_inner};
use crate::players::{Group, Player, Task};
use crate::wire::{self, Lines, NoAsk};

pub(crate) const SERVER: SocketAddr = SocketAddr::V4(SERVER_V4);
pub(crate) const SERVER_V4: std::net::SocketAddrV4 = std::net::SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 77), 8070);
/// Milliseconds of 1970 at the clock's 0.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// What the network does to packets, and loops to mail.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Of a hundred packets so many are lost, but the same one never more than [`LOST_IN_A_ROW`] times after each other.
    pub(crate) loss_percent: u32,
    pub(crate) twice_percent: u32,
    /// Up to so much longer on the way: packets overtake each other.
    pub(crate) jitter_ms: u64,
    /// Mail between loops takes up to so long.
    pub(crate) mail_ms: u64,
}

/// Whoever repeats himself is heard in the end.
const LOST_IN_A_ROW: u8 = 2;

enum Happening {
    /// A packet reaches the public address that it was sent to.
    Arrives {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// A packet reaches a player in the sender's own network.
    Near {
        from: SocketAddr,
        player: usize,
        bytes: Vec<u8>,
    },
    Mail {
        link: usize,
    },
    /// Bytes of a connection to the server; None: its end.
    ToServer {
        player: usize,
        bytes: Option<Vec<u8>>,
    },
    FromServer {
        player: usize,
        bytes: Option<Vec<u8>>,
    },
    Task {
        player: usize,
        task: Task,
    },
    Restart {
        router: usize,
    },
}

/// The server's end of a connection.
struct Conn {
    at: usize,
    player: usize,
    lines: Lines,
    waiting: bool,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) random: StdRng,
    pub(crate) now_ms: u64,
    pub(crate) faults: Faults,
    pub(crate) loops: Vec<Punch>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) routers: Vec<Router>,
    pub(crate) players: Vec<Player>,
    pub(crate) groups: Vec<Group>,
    /// Packets that arrived at the server, and that it sent.
    pub(crate) packets: (u64, u64),
    links: Vec<VecDeque<Mail>>,
    /// Until when what is under way on a link, or on a connection, keeps what follows behind it.
    link_free_ms: Vec<u64>,
    stream_free_ms: BTreeMap<(usize, bool), u64>,
    /// How often a packet that begins so was lost there since it last arrived.
    lost: BTreeMap<(SocketAddr, SocketAddr, Vec<u8>), u8>,
    lost_mail: bool,
    conns: BTreeMap<ConnId, Conn>,
    conns_made: u32,
    due: BTreeMap<(u64, u64), Happening>,
    scheduled: u64,
}

impl World {
    pub(crate) fn new(seed: u64, loops: usize, faults: Faults) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let homes = Homes::new(loops as u16, random.random());
        let (limits, permits) = (Arc::new(Limits::default()), Arc::new(Permits::default()));
        let punch = |index: usize| {
            let id = LoopId::new(index as u16);
            Punch::new(id, homes.clone(), limits.clone(), permits.clone(), random.random())
        };
        Self {
            loops: (0..loops).map(punch).collect(),
            seed,
            permits,
            now_ms: 1_000_000,
            faults,
            routers: Vec::new(),
            players: Vec::new(),
            groups: Vec::new(),
            packets: (0, 0),
            links: (0..loops * loops).map(|_| VecDeque::new()).collect(),
            link_free_ms: vec![0; loops * loops],
            stream_free_ms: BTreeMap::new(),
            lost: BTreeMap::new(),
            lost_mail: false,
            conns: BTreeMap::new(),
            conns_made: 0,
            due: BTreeMap::new(),
            scheduled: 0,
            random,
        }
    }

    /// A router of its own for the next players.
    pub(crate) fn router(&mut self, kind: Kind) -> usize {
        let nth = self.routers.len();
        let ip = Ipv4Addr::new(198, 51, 100 + (nth / 250) as u8, (nth % 250) as u8 + 1);
        let expiry_ms = [20_000, 30_000, 60_000][self.random.random_range(0..3)];
        self.routers.push(Router::new(kind, ip, expiry_ms));
        nth
    }

    /// The address of a new player behind a router.
    pub(crate) fn inner_address(&self, router: usize) -> SocketAddr {
        let nth = self.players.len();
        let port = 30_000 + (nth as u16 * 37) % 10_000;
        match self.routers[router].kind {
            Kind::Open => SocketAddr::new(self.routers[router].ip.into(), port),
            _ => (
                Ipv4Addr::new(10, router as u8, (router >> 8) as u8, nth as u8 + 2),
                port,
            )
                .into(),
        }
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            0
        } else {
            self.random.random_range(0..bound)
        }
    }

    /// Has a player do something after so many milliseconds.
    pub(crate) fn later(&mut self, ms: u64, player: usize, task: Task) {
        self.schedule(self.now_ms + ms, Happening::Task { player, task });
    }

    /// Has a router forget everything after so many milliseconds.
    pub(crate) fn restart_later(&mut self, ms: u64, router: usize) {
        self.schedule(self.now_ms + ms, Happening::Restart { router });
    }

    fn schedule(&mut self, at_ms: u64, happening: Happening) {
        self.scheduled += 1;
        self.due.insert((at_ms, self.scheduled), happening);
    }

    /// Lets so much time pass.
    pub(crate) fn run(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        while let Some(next_ms) = self.next_ms().filter(|next_ms| *next_ms <= end_ms) {
            self.now_ms = self.now_ms.max(next_ms);
            self.step();
        }
        self.now_ms = end_ms;
    }

    /// When something happens next.
    fn next_ms(&self) -> Option<u64> {
        let happening = self.due.first_key_value().map(|((at_ms, _), _)| *at_ms);
        let loops = self.loops.iter().filter_map(Punch::poll_timeout);
        let players = self.players.iter().filter_map(Player::poll_timeout);
        happening.into_iter().chain(loops).chain(players).min()
    }

    fn step(&mut self) {
        let now_ms = self.now_ms;
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now_ms) {
            let happening = entry.remove();
            self.happen(happening);
        }
        for at in 0..self.loops.len() {
            if self.loops[at].poll_timeout().is_some_and(|due_ms| due_ms <= now_ms) {
                self.loops[at].handle_timeout(now_ms);
                let next = self.loops[at].poll_timeout();
                assert!(
                    next.is_none_or(|next| next > now_ms),
                    "seed {:#x}: due again at once",
                    self.seed
                );
                self.drain_loop(at);
            }
        }
        for player in 0..self.players.len() {
            if self.players[player]
                .poll_timeout()
                .is_some_and(|due_ms| due_ms <= now_ms)
            {
                self.players[player].handle_timeout(now_ms);
                self.drain_player(player);
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrives { from, to, bytes } if to == SERVER => self.on_datagram(from, &bytes),
            Happening::Arrives { from, to, bytes } => {
                let now_ms = self.now_ms;
                let inside = self.routers.iter_mut().find(|router| to.ip() == router.ip);
                let inside = inside.and_then(|router| match router.kind {
                    Kind::Open => Some(to),
                    _ => router.enter(from, to.port(), now_ms),
                });
                let player = self.players.iter().position(|player| Some(player.socket) == inside);
                if let Some(player) = player {
                    self.hand(player, from, &bytes);
                }
            }
            Happening::Near { from, player, bytes } => self.hand(player, from, &bytes),
            Happening::Mail { link } => {
                let to = link % self.loops.len();
                if let Some(mail) = self.links[link].pop_front() {
                    self.loops[to].handle_mail(mail, self.now_ms);
                    self.drain_loop(to);
                }
            }
            Happening::ToServer { player, bytes } => self.on_stream(player, bytes),
            Happening::FromServer { player, bytes } => {
                self.players[player].handle_stream(bytes.as_deref(), self.now_ms);
                self.drain_player(player);
            }
            Happening::Task { player, task } => {
                self.on_task(player, task);
                self.drain_player(player);
            }
            Happening::Restart { router } => self.routers[router].restart(),
        }
    }

    fn hand(&mut self, player: usize, from: SocketAddr, bytes: &[u8]) {
        self.players[player].handle_datagram(from, bytes, self.now_ms);
        self.drain_player(player);
    }

    /// Sends what a player has to send, and has its script act on what it was told.
    pub(crate) fn drain_player(&mut self, player: usize) {
        loop {
            while let Some(transmit) = self.players[player].poll_transmit() {
                self.send(player, transmit);
            }
            while let Some(bytes) = self.players[player].poll_stream() {
                self.write(player, true, Some(bytes));
            }
            if !self.act(player) {
                return;
            }
        }
    }

    /// A player sends a packet.
    fn send(&mut self, player: usize, transmit: Transmit) {
        let Player { socket, router, .. } = self.players[player];
        let Transmit {
            to,
            payload: bytes,
            ttl,
        } = transmit;
        if is_inner(to.ip()) || to == socket {
            // A player in the same network, or nobody.
            let near = |other: &Player| other.socket == to && other.router == router;
            if let Some(other) = self.players.iter().position(near) {
                let from = socket;
                let happening = Happening::Near {
                    from,
                    player: other,
                    bytes,
                };
                self.schedule(self.now_ms + 1, happening);
            }
            return;
        }
        let from = self.routers[router].out(socket, to, self.now_ms, &mut self.random);
        let Router { kind, ip, .. } = self.routers[router];
        if to.ip() == ip && kind != Kind::Open {
            // What is sent to the own router's public address does not come back, as at many homes.
            return;
        }
        if ttl.is_some_and(|ttl| ttl <= 2) {
            return;
        }
        let delay_ms = self.players[player].delay_ms;
        self.transport(from, to, bytes, delay_ms);
    }

    /// A packet is on its public way.
    fn transport(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>, delay_ms: u64) {
        let Faults {
            loss_percent,
            twice_percent,
            jitter_ms,
            ..
        } = self.faults;
        let lost = self.random.random_range(0..100) < loss_percent;
        if loss_percent > 0 {
            // What is the same up to there says the same, to the same.
            let front = bytes.iter().take(12).copied().collect();
            let in_a_row = self.lost.entry((from, to, front)).or_default();
            *in_a_row = if lost { *in_a_row + 1 } else { 0 };
            if lost && *in_a_row <= LOST_IN_A_ROW {
                return;
            }
            *in_a_row = 0;
        }
        let copies = if self.random.random_range(0..100) < twice_percent {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let at_ms = self.now_ms + delay_ms + self.below(jitter_ms);
            let bytes = bytes.clone();
            self.schedule(at_ms, Happening::Arrives { from, to, bytes });
        }
    }

    /// How long a packet takes between the server and whoever is at this address.
    fn delay_to(&self, to: SocketAddr) -> u64 {
        let behind = |player: &&Player| self.routers[player.router].ip == to.ip();
        self.players.iter().find(behind).map_or(20, |player| player.delay_ms)
    }

    /// The loop that an address's datagrams arrive at: always the same.
    fn arrives_at(&self, remote: SocketAddr) -> usize {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(remote);
        (hash % self.loops.len() as u64) as usize
    }

    fn on_datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        let at = self.arrives_at(from);
        let path = Path {
            socket: 0,
            local: None,
            remote: from,
        };
        self.packets.0 += 1;
        let _ = wire::receive(&mut self.loops[at], path, bytes, Some(SERVER_V4), self.now_ms);
        self.drain_loop(at);
    }

    fn drain_loop(&mut self, at: usize) {
        while let Some(output) = self.loops[at].poll_output() {
            match output {
                Output::Datagram { path, event } => {
                    let bytes = wire::render(&event, EPOCH_MS + self.now_ms);
                    self.packets.1 += 1;
                    let delay_ms = self.delay_to(path.remote);
                    self.transport(SERVER, path.remote, bytes, delay_ms);
                }
                Output::Mail { to, mail, droppable } => {
                    let lost = droppable && self.random.random_range(0..100) < self.faults.loss_percent / 4;
                    // Never two after each other: as with packets.
                    self.lost_mail = lost && !self.lost_mail;
                    if !self.lost_mail {
                        let link = at * self.loops.len() + to.index();
                        self.links[link].push_back(mail);
                        let delay_ms = self.below(self.faults.mail_ms + 1);
                        let at_ms = (self.now_ms + delay_ms).max(self.link_free_ms[link]);
                        self.link_free_ms[link] = at_ms;
                        self.schedule(at_ms, Happening::Mail { link });
                    }
                }
                Output::Connection { conn, told } => self.on_told(conn, told),
            }
        }
    }

    /// Opens a player's connection.
    pub(crate) fn connect(&mut self, player: usize) {
        let id = ConnId::new(self.conns_made, 1);
        self.conns_made += 1;
        let at = self.random.random_range(0..self.loops.len());
        self.conns.insert(
            id,
            Conn {
                at,
                player,
                lines: Lines::default(),
                waiting: true,
            },
        );
        let Player { router, .. } = self.players[player];
        let remote = SocketAddr::new(self.routers[router].ip.into(), 0);
        self.loops[at].open_matchmaker(id, remote, self.now_ms);
        self.drain_loop(at);
    }

    /// Bytes on a connection, in their order.
    pub(crate) fn write(&mut self, player: usize, to_server: bool, bytes: Option<Vec<u8>>) {
        let delay_ms = self.players[player].delay_ms + self.below(self.faults.jitter_ms + 1);
        let free_ms = self.stream_free_ms.entry((player, to_server)).or_default();
        let at_ms = (self.now_ms + delay_ms).max(*free_ms);
        *free_ms = at_ms;
        let happening = match to_server {
            true => Happening::ToServer { player, bytes },
            false => Happening::FromServer { player, bytes },
        };
        self.schedule(at_ms, happening);
    }

    fn conn_of(&self, player: usize) -> Option<ConnId> {
        let mut all = self.conns.iter();
        all.find(|(_, conn)| conn.player == player).map(|(id, _)| *id)
    }

    fn on_stream(&mut self, player: usize, bytes: Option<Vec<u8>>) {
        let Some(id) = self.conn_of(player) else { return };
        match bytes {
            Some(bytes) => {
                self.conns.get_mut(&id).unwrap().lines.receive(&bytes);
                self.serve_stream(id);
            }
            None => self.close(id),
        }
    }

    /// Asks what is there to be asked, one after the other.
    fn serve_stream(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.waiting) else {
            return;
        };
        let (at, player) = (conn.at, conn.player);
        let ask: Ask = match conn.lines.next() {
            Ok(None) => return,
            Ok(Some(ask)) => ask,
            Err(NoAsk::Syntax) => {
                self.reply(player, &Reply::Refused(Refusal::BadRequest));
                return self.close(id);
            }
            Err(NoAsk::TooMuch) => return self.close(id),
        };
        conn.waiting = true;
        self.loops[at].ask_matchmaker(id, ask, self.now_ms);
        self.drain_loop(at);
    }

    fn on_told(&mut self, id: ConnId, told: Told) {
        let Some(conn) = self.conns.get_mut(&id) else {
            panic!("seed {:#x}: {told:?} for a closed connection", self.seed)
        };
        let player = conn.player;
        assert!(
            std::mem::replace(&mut conn.waiting, false) || told == Told::Closed,
            "seed {:#x}: not asked",
            self.seed
        );
        match told {
            Told::Admitted => {}
            Told::Reply(reply) => self.reply(player, &reply),
            Told::Closed => return self.close(id),
        }
        self.serve_stream(id);
    }

    fn reply(&mut self, player: usize, reply: &Reply) {
        let mut line = Vec::new();
        matchmaker::push_reply(&mut line, reply);
        self.write(player, false, Some(line));
    }

    fn close(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.remove(&id) {
            self.write(conn.player, false, None);
            self.loops[conn.at].close_matchmaker(id, self.now_ms);
            self.drain_loop(conn.at);
        }
    }

    /// Everybody falls silent; then nothing of anybody is left.
    pub(crate) fn end(mut self) {
        self.fall_silent();
        self.run(SILENCE_MS);
        let seed = self.seed;
        assert!(self.due.is_empty(), "seed {seed:#x}: {} under way", self.due.len());
        assert!(self.conns.is_empty(), "seed {seed:#x}: connections");
        let permits = &self.permits;
        let held = [
            permits.simple_sessions.now(),
            permits.natpunch_clients.now(),
            permits.natpunch_lobbies.now(),
            permits.matchmaker_sessions.now(),
            permits.matchmaker_lobbies.now(),
            permits.matchmaker_connections.now(),
        ];
        assert_eq!(held, [0; 6], "seed {seed:#x}");
        for punch in &self.loops {
            assert_eq!(punch.census(), Default::default(), "seed {seed:#x}");
            assert_eq!(punch.poll_timeout(), None, "seed {seed:#x} at {}", self.now_ms);
        }
    }

    /// No player does anything any more.
    pub(crate) fn fall_silent(&mut self) {
        for player in &mut self.players {
            player.gone = true;
        }
        self.due
            .retain(|_, happening| !matches!(happening, Happening::Task { .. }));
    }
}

/// After so much silence nothing is left.
const SILENCE_MS: u64 = 130_000;
