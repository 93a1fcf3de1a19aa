//! The event loop: the sockets, the clock and the buffers of one core.
//!
//! It turns readiness into inputs of its shard, and the shard's outputs into as few system calls as possible. Each turn:
//! poll, take the mail, accept, read what is ready, expire timers, flush each dirty connection once, push the mail.
//!
//! Owns: everything of one core that touches the world. It knows bytes and connections.
//! Never: blocks, locks, or knows what a room or a match is; the shard does.

mod accepting;
mod addresses;
mod buffers;
mod clock;
mod closing;
mod connection;
pub mod datagrams;
mod deliver;
mod drain;
mod figures;
mod frames;
mod http;
mod ice;
mod keepalive;
pub mod listener;
mod lobby;
mod moving;
mod nodes;
mod office;
mod opening;
mod outgoing;
pub mod passage;
mod peers;
pub mod plain;
mod presence;
mod reading;
mod receive;
mod seekers;
mod stats;
pub mod timers;
pub mod tls;
mod transport;
mod window;
mod writing;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use mio::event::Event;
use mio::net::{TcpListener, UdpSocket};
use mio::{Events, Interest, Poll, Token};
use rustls::ServerConfig;
use slab::Slab;

pub use addresses::AddressLimits;
pub use office::{DESK_LOOP, Office};
pub use seekers::SeekerSettings;

use crate::broker::Link;
use crate::codec::deflate::{Deflater, Inflater};
use crate::dialect::peer::IceServers;
use crate::ids::{ConnId, Fingerprint, LoopId, NodeNo};
use crate::mailbox::Mailbox;
use crate::metrics::{Board, Counters};
use crate::shard::punch::{self, Punch};
use crate::shard::{Mail, PeerKey, Permits, Shard, Target};

use buffers::Pool;
use clock::Clock;
use connection::{Connection, Entrance};
use datagrams::{DatagramSettings, Datagrams};
use figures::PUBLISH_MS;
use timers::Timers;
use window::Window;

/// What travels between loops.
#[derive(Debug)]
pub enum Delivery {
    /// Control mail between shards.
    Mail(Mail),
    /// A signal or relay.
    Direct(crate::shard::DirectMail),
    /// A broadcast.
    FanOut(crate::shard::FanOutMail),
    /// A signal or relay comes back: its target is not on this node.
    Returned(crate::shard::DirectMail),
    /// A signal or relay from another node for the holder of an alias.
    Plain(Box<plain::Resolved>),
    /// What the punch states of two loops tell each other.
    Punch(Box<punch::Mail>),
    /// A connection that moves to the home of its key.
    Adopt(Box<moving::Moving>),
    /// May a connection of this address be opened?
    Admit(addresses::Admit),
    /// The answer to [`Delivery::Admit`].
    Admitted(addresses::Admitted),
    /// What became of a connection that was admitted.
    AddressChanged(addresses::AddressChanged),
    /// To a key's home: a message came back from that node, because the peer is not there.
    RouteFailed(Fingerprint, NodeNo),
    /// To and from the desk of the matchmaker web service.
    Desk(Box<office::Mail>),
    /// The namespaces at home, please.
    StatsAsked(stats::Asked),
    /// The namespaces at home.
    StatsAnswered(stats::Answered),
    /// A new certificate for handshakes from here on.
    Reload(Arc<ServerConfig>),
    /// Close everything and stop.
    Stop,
}

/// What upgraded connections are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The peer protocol.
    Peers,
    /// Every message is sent back: for conformance suites.
    Echo,
}

/// What the loops were configured to do. Times in milliseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What upgraded connections are for.
    pub service: Service,
    /// Peers that may be registered.
    pub max_peers: usize,
    /// Shown in `/stats`.
    pub shard_count: u32,
    /// Connections that may be open without being registered.
    pub unregistered_max: usize,
    /// How long a connection with unsent output may take no byte.
    pub write_timeout_ms: u64,
    /// How long a request head may take.
    pub read_timeout_ms: u64,
    /// Between two control pings.
    pub ping_interval_ms: u64,
    /// How long a peer may be silent, or unregistered.
    pub pong_wait_ms: u64,
    /// How long a stopping loop waits for its peers to close.
    pub drain_linger_ms: u64,
    /// Longest message, in bytes.
    pub max_message_size: usize,
    /// Unsent messages from which on peers' traffic is refused.
    pub send_messages_max: usize,
    /// Unsent bytes from which on peers' traffic is refused.
    pub send_bytes_max: usize,
    /// Longest peer list, in bytes.
    pub list_bytes_max: usize,
    /// Unsent bytes of one loop from which on broadcasts and registrations are refused.
    pub output_bytes_max: usize,
    /// How long presence in large namespaces may wait for more of it; 0: not at all.
    pub presence_window_ms: u64,
    /// Members that a namespace may have without being large.
    pub presence_window_from: usize,
    /// SO_SNDBUF of accepted sockets; 0: the kernel's choice.
    pub socket_send_bytes: usize,
    /// Whether permessage-deflate is negotiated.
    pub compression: bool,
    /// Origins that may upgrade, in lower case; empty: any.
    pub allowed_origins: Vec<String>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// What one address may do.
    pub addresses: AddressLimits,
    /// What is served over datagrams.
    pub datagrams: DatagramSettings,
    /// What peers are told to gather WebRTC candidates with.
    pub ice: IceServers,
    /// How the matchmaker web service is served, if it is.
    pub seekers: Option<SeekerSettings>,
    /// How this node speaks with others, if there are any.
    pub fleet: Option<plain::FleetSettings>,
}

/// What all loops share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Process-wide counts.
    pub permits: Arc<Permits>,
    /// Published metrics.
    pub board: Board,
    /// Whether the server takes new peers.
    pub serving: Arc<AtomicBool>,
    /// Loops that have closed their connections for good.
    pub drained: Arc<AtomicUsize>,
}

/// What a loop is made of.
pub struct Parts {
    /// Its listeners for peers.
    pub listeners: Vec<TcpListener>,
    /// Its listener for metrics, if it serves them.
    pub metrics_listener: Option<TcpListener>,
    /// Its sockets for datagrams, with the addresses that they are bound to.
    pub sockets: Vec<(UdpSocket, SocketAddr)>,
    /// Its mailbox.
    pub mailbox: Mailbox<Delivery>,
    /// Its way to other loops' descriptor tables, if its own is not theirs.
    pub passage: Option<passage::Passage>,
    /// Its shard.
    pub shard: Shard,
    /// Its punch state.
    pub punch: Punch,
    /// Its way to the broker, if there are other nodes.
    pub link: Option<Link>,
    /// The certificate for new connections.
    pub tls: Option<Arc<ServerConfig>>,
    /// What it is to do.
    pub settings: Arc<Settings>,
    /// What it shares.
    pub shared: Shared,
}

/// The token of a mailbox's waker.
const WAKER: Token = Token(usize::MAX);
/// Tokens of listeners: this and the following ones. No connection's token reaches here, see `token_of`.
const FIRST_LISTENER: usize = (u32::MAX as usize) << 32;
/// Tokens of sockets for datagrams: this and the following ones, far above any listener's.
const FIRST_SOCKET: usize = FIRST_LISTENER + (1 << 16);
/// Bytes that one connection may be read in one turn.
const READ_BUDGET: usize = 64 * 1024;
/// Connections accepted from one listener in one turn.
const ACCEPT_BATCH: usize = 64;
/// TLS handshake steps in one turn: each may cost a quarter of a millisecond.
const HANDSHAKES_MAX: usize = 4;
/// Batches of mail taken in one turn.
const MAIL_BATCH: usize = 256;
/// How long accepting rests when descriptors or memory ran out.
const ACCEPT_PAUSE_MS: u64 = 100;

struct Listening {
    listener: TcpListener,
    entrance: Entrance,
    ready: bool,
}

/// Buffers that are used within one step and keep their capacity.
#[derive(Default)]
struct Scratch {
    /// One read's worth of input.
    input: Vec<u8>,
    /// One read's worth of ciphertext.
    cipher: Vec<u8>,
    /// A private copy of a small body, for simd-json.
    body: Vec<u8>,
    /// A rendered message.
    text: Vec<u8>,
    /// A compressed message.
    deflated: Vec<u8>,
    /// An inflated message.
    inflated: Vec<u8>,
    /// One frame for many receivers.
    frame: Vec<u8>,
    /// The same, compressed.
    frame_deflated: Vec<u8>,
    targets: Vec<Target>,
    exclude: Vec<u64>,
    slots: Vec<u32>,
}

/// One event loop.
pub struct EventLoop {
    id: LoopId,
    poll: Poll,
    settings: Arc<Settings>,
    shared: Shared,
    listeners: Vec<Listening>,
    /// Accepting rests until then.
    accept_again_ms: u64,
    connections: Slab<Connection>,
    generations: u32,
    shard: Shard,
    punch: Punch,
    office: Option<office::Staff>,
    neighbours: Option<nodes::Neighbours>,
    fleet: Option<plain::Fleet>,
    datagrams: Datagrams,
    mailbox: Mailbox<Delivery>,
    tls: Option<Arc<ServerConfig>>,
    deflater: Deflater,
    inflater: Inflater,
    pool: Pool,
    timers: Timers,
    window: Window,
    clock: Clock,
    /// Connections with input to read or parse.
    ready: Vec<u32>,
    /// Connections with output to write.
    dirty: Vec<u32>,
    /// Connections with so much output that it is written before the turn ends.
    early: Vec<u32>,
    /// Connections to remove before the turn ends.
    dead: Vec<u32>,
    /// Peers whose connection is over, and which one that was: the key may serve another before the shard is told.
    ended: Vec<(PeerKey, ConnId)>,
    /// The connection whose registration belongs elsewhere: it moves when its input is put aside.
    leaving: Option<moving::Leaving>,
    /// Connections that are to leave as soon as the passage has room.
    held_up: VecDeque<moving::Leaving>,
    passage: Option<passage::Passage>,
    scratch: Scratch,
    addresses: addresses::Addresses,
    stats: stats::Gather,
    /// Answers to upgrades that wait for the home of their address.
    upgrades: BTreeMap<usize, http::Upgrade>,
    hosts: ice::Hosts,
    drain: Option<drain::Drain>,
    counters: Counters,
    /// What the shard had counted when that was last added to them.
    shard_counted: crate::shard::Counters,
    /// Unsent bytes of all connections.
    unsent: usize,
    /// Turns, to tell one from the next.
    turn: u32,
    handshakes: usize,
    /// All mail was pushed in the last turn.
    pushed: bool,
    published_ms: u64,
    unpublished: bool,
}

impl EventLoop {
    /// Makes the poll, with the mailbox and the listeners at it; the loop is ready to run. To be called by the thread that
    /// is to run it, because that may have a descriptor table of its own.
    ///
    /// # Errors
    /// There is no poll to be had, or it takes no more.
    pub fn new(parts: Parts) -> io::Result<Self> {
        let Parts {
            listeners,
            metrics_listener,
            sockets,
            mailbox,
            passage,
            shard,
            punch,
            link,
            tls,
            settings,
            shared,
        } = parts;
        let poll = Poll::new()?;
        mailbox.register(poll.registry(), WAKER)?;
        let peers = listeners.into_iter().map(|listener| (listener, Entrance::Peers));
        let metrics = metrics_listener
            .into_iter()
            .map(|listener| (listener, Entrance::Metrics));
        let mut listening = Vec::new();
        for (index, (mut listener, entrance)) in peers.chain(metrics).enumerate() {
            poll.registry()
                .register(&mut listener, Token(FIRST_LISTENER + index), Interest::READABLE)?;
            listening.push(Listening {
                listener,
                entrance,
                ready: true,
            });
        }
        let served = settings.datagrams.clone();
        let datagrams = Datagrams::new(sockets, served, shard.homes(), poll.registry(), FIRST_SOCKET)?;
        let clock = Clock::new();
        let window = Window::new(shard.homes());
        let fleet = settings.fleet.as_ref().map(plain::Fleet::new);
        let scratch = Scratch {
            input: vec![0; READ_BUDGET],
            cipher: vec![0; READ_BUDGET],
            ..Scratch::default()
        };
        Ok(Self {
            id: shard.id(),
            poll,
            addresses: addresses::Addresses::new(settings.addresses, shard.homes().hasher()),
            settings,
            shared,
            listeners: listening,
            accept_again_ms: 0,
            connections: Slab::new(),
            generations: 0,
            shard,
            punch,
            office: None,
            neighbours: link.map(nodes::Neighbours::new),
            fleet,
            datagrams,
            mailbox,
            tls,
            deflater: Deflater::new(),
            inflater: Inflater::new(),
            pool: Pool::new(),
            timers: Timers::new(clock.now_ms),
            window,
            clock,
            ready: Vec::new(),
            dirty: Vec::new(),
            early: Vec::new(),
            dead: Vec::new(),
            ended: Vec::new(),
            leaving: None,
            held_up: VecDeque::new(),
            passage,
            scratch,
            stats: stats::Gather::default(),
            upgrades: BTreeMap::new(),
            hosts: ice::Hosts::default(),
            drain: None,
            counters: Counters::default(),
            shard_counted: crate::shard::Counters::default(),
            unsent: 0,
            turn: 0,
            handshakes: 0,
            pushed: true,
            published_ms: 0,
            unpublished: true,
        })
    }

    /// Serves, with the desk of the matchmaker web service if it is here, until [`Delivery::Stop`], then drains. Returns
    /// the office for its staff to be stopped.
    ///
    /// # Errors
    /// The poll fails, which no peer can cause.
    pub fn run(mut self, office: Option<Office>) -> io::Result<Option<Office>> {
        self.office = office.map(office::Staff::new);
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = self.sleep_for();
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(()) | Err(_) => {}
            }
            self.mailbox.awake();
            self.clock.tick();
            self.turn = self.turn.wrapping_add(1);
            for event in &events {
                self.on_event(event);
            }
            // Before the mail: another loop may know already that the broker is there, and send what needs it.
            self.serve_broker();
            self.receive_mail();
            self.retry_held_up();
            self.serve_office();
            if !self.mailbox.is_congested() {
                self.accept();
                self.serve_ready();
                self.serve_datagrams();
            }
            self.expire_timers();
            self.expire_punch();
            self.expire_desk();
            self.expire_plain();
            self.flush_window();
            self.begin_gather();
            self.drain_step();
            self.flush_all();
            self.flush_datagrams();
            self.flush_nodes();
            self.pushed = self.mailbox.push();
            self.end_turn();
            if self.is_finished() {
                // A connection that was on its way here is told as well: nobody sends any since all are done.
                self.receive_mail();
                self.flush_all();
                return Ok(self.office.take().map(office::Staff::close));
            }
        }
    }

    fn on_event(&mut self, event: &Event) {
        let token = event.token().0;
        if event.token() == WAKER {
            return;
        }
        if let Some(index) = token.checked_sub(FIRST_SOCKET) {
            return self.datagrams.on_event(index);
        }
        if let Some(listening) = token
            .checked_sub(FIRST_LISTENER)
            .and_then(|index| self.listeners.get_mut(index))
        {
            listening.ready = true;
            return;
        }
        let (slot, generation) = (token & u32::MAX as usize, (token >> 32) as u32);
        let Some(connection) = self.connections.get_mut(slot).filter(|c| c.generation == generation) else {
            return;
        };
        let ending = event.is_read_closed() || event.is_error();
        if event.is_readable() || ending {
            connection.ready = true;
            connection.ending |= ending;
            self.list_ready(slot);
        }
        if event.is_writable() {
            self.mark_dirty(slot);
        }
    }

    /// How long the poll may sleep.
    fn sleep_for(&mut self) -> Option<Duration> {
        let stuck = self.mailbox.is_congested();
        let listeners_ready =
            self.listeners.iter().any(|listening| listening.ready) && self.accept_again_ms <= self.clock.now_ms;
        let readable = !self.ready.is_empty() || listeners_ready || self.datagrams.is_ready();
        if (readable || self.is_draining_actively()) && !stuck {
            return Some(Duration::ZERO);
        }
        if !self.pushed || !self.held_up.is_empty() || self.nodes_are_stuck() {
            return Some(Duration::from_millis(1));
        }
        let now_ms = self.clock.now_ms;
        let mut until = self.timers.next_ms();
        let mut no_later = |at: u64| until = Some(until.map_or(at, |until| until.min(at)));
        if self.accept_again_ms > now_ms {
            no_later(self.accept_again_ms);
        }
        if self.unpublished {
            no_later(self.published_ms + PUBLISH_MS);
        }
        if self.drain.is_some() {
            no_later(now_ms + 10);
        }
        let desk_due = self.office.as_ref().and_then(|office| office.desk.poll_timeout());
        let due = [
            self.stats.due_ms(),
            self.window.due_ms(),
            self.punch.poll_timeout(),
            desk_due,
            self.plain_due_ms(),
        ];
        for due_ms in due.into_iter().flatten() {
            no_later(due_ms);
        }
        // Looked at after the sleep is announced: what comes later wakes.
        match self.mailbox.try_sleep() && !self.office_has_events() && !self.broker_has_events() {
            true => until.map(|at| Duration::from_millis(at.saturating_sub(now_ms))),
            false => Some(Duration::ZERO),
        }
    }

    fn list_ready(&mut self, slot: usize) {
        if let Some(connection) = self.connections.get_mut(slot)
            && !connection.listed
            && !connection.paused
        {
            connection.listed = true;
            self.ready.push(slot as u32);
        }
    }

    fn mark_dirty(&mut self, slot: usize) {
        if let Some(connection) = self.connections.get_mut(slot)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(slot as u32);
        }
    }

    fn is_finished(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.reported)
            && self.shared.drained.load(Ordering::Acquire) >= self.shard.homes().loops()
    }
}
