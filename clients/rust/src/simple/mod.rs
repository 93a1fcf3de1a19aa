//! The ASCII protocol over UDP and IPv4: a host opens a session, others join it by its id, or any two are paired at random.
//!
//! Owns: the client's state machine, its timer, and what it tells its user.
//! Never: opens a socket or reads a clock. One client has one socket, and the game takes its port over afterwards.
//!
//! ```
//! use peer_server_client::simple::{Client, Config, Event};
//!
//! let mut host = Client::new(Config::new("192.168.1.20:40000".parse().unwrap(), "alice"));
//! host.host_session("203.0.113.77:8070".parse().unwrap(), 0);
//! let request = host.poll_transmit().unwrap();
//! assert_eq!(request.to.to_string(), "203.0.113.77:8070");
//! assert_eq!(request.payload, b"HS:wzgjahmswevl");
//!
//! let answer = b"HR:socynxlrbkbe:socynxlrbkbeahdxyqyq";
//! host.handle_datagram(request.to, answer, 40);
//! assert_eq!(host.poll_event(), Some(Event::NewName("alice".into())));
//! assert_eq!(host.poll_event(), Some(Event::StartSession("socynxlrbkbeahdxyqyq".into())));
//! ```

use std::net::{SocketAddr, SocketAddrV4};

use self::message::Message;
use self::peers::{Peer, Peers};
use crate::opening::Opening;
use crate::{Queue, Transmit};

pub mod key;
pub mod message;
mod peers;

/// Milliseconds between two requests, keep-alives or punches. One timer does them all.
pub const RESEND_MS: u64 = 1000;

/// Milliseconds after which a joiner with an opening TTL asks for the second time.
const JOIN_AGAIN_MS: u64 = 250;

/// Requests without an answer after which the server is reported as bad. The client goes on asking.
const UNANSWERED_MAX: u32 = 5;

/// Letters that follow the server's key in the ids that the first servers made; longer ids end in more.
const ID_TAIL: usize = 4;

/// Names that a client keeps, and bytes of each and of all.
const NAMES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;
const NAMES_BYTES_MAX: usize = 900;

/// What a client is told at its making.
#[derive(Clone, Debug)]
pub struct Config {
    /// The socket's address in the player's own network, for players in the same one.
    pub local: SocketAddrV4,
    /// The player's name, which the others get to know. Colons and control characters are left out of it.
    pub name: String,
    /// See [the crate](crate#the-first-packet); None sends no such packets and punches at once.
    pub opening_ttl: Option<u8>,
}

impl Config {
    /// A configuration without opening packets.
    pub fn new(local: SocketAddrV4, name: &str) -> Self {
        Self {
            local,
            name: name.to_owned(),
            opening_ttl: None,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All joiners are done with punching: be their game's server on the port of this client's socket.
    StartServer {
        /// That port.
        port: u16,
        /// Where each joiner was last heard; for the others, where the server saw them.
        joiners: Vec<SocketAddrV4>,
    },
    /// The host is done with punching: connect to it from the port of this client's socket.
    StartClient {
        /// The host's address.
        host: SocketAddrV4,
        /// The port of this client's socket.
        port: u16,
    },
    /// The server has opened a session with this id, by which others can join.
    StartSession(String),
    /// A player's name, each once; the own one first.
    NewName(String),
    /// The server knows no session with this id. The client is idle again.
    BadSession(String),
    /// The server at this address does not answer. The client goes on asking; said once for each call.
    BadServer(SocketAddrV4),
    /// The player paired at random was heard; the host closes the session by itself.
    StartRandom,
    /// A player is being punched at this address, which is where the server saw it.
    Peer(SocketAddrV4),
    /// The first punch of that player has arrived.
    PeerAnswered {
        /// Where the server saw it.
        peer: SocketAddrV4,
        /// Where the punch came from.
        from: SocketAddrV4,
    },
}

/// An id that does not begin with a server's key, or that no server can have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadId;

impl std::fmt::Display for BadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a session id")
    }
}

impl std::error::Error for BadId {}

/// The server that an id names: its first twelve letters are that server's key.
///
/// # Errors
/// If they are not, or if fewer than four letters follow.
pub fn server_of(session: &str) -> Result<SocketAddrV4, BadId> {
    let plain = session.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    if !plain || session.len() < key::KEY_LETTERS + ID_TAIL || session.len() > 64 {
        return Err(BadId);
    }
    key::decode(&session[..key::KEY_LETTERS]).ok_or(BadId)
}

/// What the client is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing, or done.
    Idle,
    /// Asks for a session.
    Host,
    /// Asks to join one.
    Join,
    /// Asks to be paired.
    Random,
    /// Has a session that nobody has joined.
    Registered,
    /// Punches towards everyone that it knows.
    Pinging,
    /// Tells the server and the joiners that the session is complete.
    Close,
}

/// One player's client.
#[derive(Clone, Debug)]
pub struct Client {
    local: SocketAddrV4,
    opening_ttl: Option<u8>,
    state: State,
    is_host: bool,
    is_random: bool,
    server: Option<SocketAddrV4>,
    session: String,
    /// As the server sees this client; empty until it has said so.
    remote_key: String,
    names: Vec<String>,
    peers: Peers,
    /// When the timer rings next.
    resend_at: u64,
    unanswered: u32,
    transmits: Queue<Transmit>,
    events: Queue<Event>,
}

impl Client {
    /// A client that does nothing yet.
    pub fn new(config: Config) -> Self {
        let mut client = Self {
            local: config.local,
            opening_ttl: config.opening_ttl,
            state: State::Idle,
            is_host: false,
            is_random: false,
            server: None,
            session: String::new(),
            remote_key: String::new(),
            names: Vec::new(),
            peers: Peers::default(),
            resend_at: 0,
            unanswered: 0,
            transmits: Queue::new(),
            events: Queue::new(),
        };
        let own: String = config.name.chars().filter(|c| *c != ':').collect();
        client.add_names(&own);
        client
    }

    /// Asks the server for a session that others can join.
    pub fn host_session(&mut self, server: SocketAddrV4, now: u64) {
        self.begin(State::Host, server, now);
    }

    /// Joins a session by its id, on the server that the id names.
    ///
    /// # Errors
    /// If the id names none; nothing is sent then.
    pub fn join_session(&mut self, session: &str, now: u64) -> Result<(), BadId> {
        let server = server_of(session)?;
        self.join_session_at(server, session, now)
    }

    /// Joins a session on a server that may have another address than its id says.
    ///
    /// # Errors
    /// If no server can have made the id; nothing is sent then.
    pub fn join_session_at(&mut self, server: SocketAddrV4, session: &str, now: u64) -> Result<(), BadId> {
        server_of(session)?;
        self.session = session.to_owned();
        self.begin(State::Join, server, now);
        Ok(())
    }

    /// Asks the server to be paired with anybody.
    pub fn random_session(&mut self, server: SocketAddrV4, now: u64) {
        self.begin(State::Random, server, now);
    }

    /// Tells the server and the joiners that the session is complete. Only a host with a session can.
    pub fn close_session(&mut self, now: u64) {
        if self.is_host && matches!(self.state, State::Registered | State::Pinging) {
            self.state = State::Close;
            self.resend_at = now.saturating_add(RESEND_MS);
            self.resend(now);
        }
    }

    /// Where the first player that this client learned of is reached, for a joiner its host; None if it knows none.
    pub fn get_host(&self) -> Option<SocketAddrV4> {
        self.peers.iter().next().map(Peer::address)
    }

    /// This client's own address as the server sees it, once the server has said so.
    pub fn public_address(&self) -> Option<SocketAddrV4> {
        key::decode(&self.remote_key)
    }

    /// A datagram arrived.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: u64) {
        match Message::parse(datagram) {
            Some(Message::Ready { names }) => self.on_ready(from, names, now),
            Some(Message::JoinHost { .. }) => self.on_join_host(from),
            Some(Message::JoinDone { .. }) => self.on_join_done(from),
            Some(message) => self.on_server(from, message, now),
            None => {}
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: u64) {
        self.send_openings(now);
        if self.state != State::Idle && now >= self.resend_at {
            // A caller that slept for long gets one round and not all that it missed.
            self.resend_at = now.saturating_add(RESEND_MS);
            self.resend(now);
        }
    }

    /// When `handle_timeout` must be called at the latest; None while nothing is due.
    pub fn poll_timeout(&self) -> Option<u64> {
        let timer = (self.state != State::Idle).then_some(self.resend_at);
        timer.into_iter().chain(self.peers.next_at()).min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    fn begin(&mut self, state: State, server: SocketAddrV4, now: u64) {
        self.state = state;
        self.is_host = state == State::Host;
        self.is_random = state == State::Random;
        self.server = Some(server);
        self.peers.clear();
        self.unanswered = 0;
        // Before the host, who may have been told already, sends its first ordinary packet.
        let soon = self.opening_ttl.is_some() && matches!(state, State::Join | State::Random);
        self.resend_at = now.saturating_add(if soon { JOIN_AGAIN_MS } else { RESEND_MS });
        self.resend(now);
    }

    /// Sends what the state sends, at its beginning and each second.
    fn resend(&mut self, now: u64) {
        let local = &*key::encode(self.local);
        let session = &*self.session;
        let request = match self.state {
            State::Idle => return,
            State::Host => Message::HostSession { local },
            State::Join => Message::JoinSession { local, session },
            State::Random => Message::RandomSession { local },
            State::Registered => Message::KeepAlive { session },
            State::Pinging => return self.ping_peers(now),
            State::Close => Message::CloseSession { session },
        };
        let request = request.to_string();
        self.send_to_server(request);
        match self.state {
            State::Host | State::Join | State::Random => self.count_unanswered(),
            State::Close => self.tell_joiners(),
            State::Idle | State::Registered | State::Pinging => {}
        }
    }

    fn count_unanswered(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered == UNANSWERED_MAX + 1
            && let Some(server) = self.server
        {
            self.events.push(Event::BadServer(server));
        }
    }

    fn tell_joiners(&mut self) {
        let local = key::encode(self.local);
        for peer in self.peers.iter() {
            let host = if peer.is_local() { &local } else { &self.remote_key };
            let message = Message::JoinHost { host }.to_string();
            self.transmits.send(peer.address(), message, None);
        }
    }

    fn ping_peers(&mut self, now: u64) {
        if self.is_host {
            let session = &*self.session;
            let message = Message::KeepAlive { session }.to_string();
            self.send_to_server(message);
        }
        self.send_openings(now);
        let punch = self.punch();
        for peer in self.peers.iter().filter(|peer| peer.is_open()) {
            for to in peer.addresses() {
                self.transmits.send(to, &*punch, None);
            }
        }
    }

    /// The packets that open the own router for new players, and the first ordinary ones after them.
    fn send_openings(&mut self, now: u64) {
        let punch = self.punch();
        for peer in self.peers.iter_mut() {
            while let Some(ttl) = peer.take_opening(now) {
                for to in peer.addresses() {
                    self.transmits.send(to, &*punch, ttl);
                }
            }
        }
    }

    fn punch(&self) -> String {
        let names = &*self.names.join(":");
        Message::Ready { names }.to_string()
    }

    fn send_to_server(&mut self, message: String) {
        if let Some(server) = self.server {
            self.transmits.send(server, message, None);
        }
    }

    fn on_server(&mut self, from: SocketAddr, message: Message<'_>, now: u64) {
        let SocketAddr::V4(from) = from else { return };
        // A server may answer from another port, but not from another machine.
        if self.server.is_none_or(|server| server.ip() != from.ip()) {
            return;
        }
        match message {
            Message::HostRegistered { remote, session } => self.on_host_registered(from, remote, session),
            Message::JoinRegistered {
                remote,
                host_remote,
                host_local,
            } => {
                let joins = matches!(self.state, State::Join | State::Random);
                if let Some(host) = key::decode(host_remote).filter(|_| joins) {
                    self.server = Some(from);
                    self.remote_key = remote.to_owned();
                    self.state = State::Pinging;
                    let opening = self.opening_ttl.map(|ttl| Opening::of_joiner(ttl, now));
                    self.add_peer(host, host_local, opening, now);
                }
            }
            Message::NewJoiner { remote, local } => {
                let hosts = matches!(
                    self.state,
                    State::Host | State::Random | State::Registered | State::Pinging
                );
                if let Some(joiner) = key::decode(remote).filter(|_| hosts && (self.is_host || self.is_random)) {
                    // Before the session's id is known there is nothing to keep alive: the request goes on.
                    if self.state == State::Registered {
                        self.state = State::Pinging;
                    }
                    let opening = self.opening_ttl.map(|ttl| Opening::new(ttl, now));
                    self.add_peer(joiner, local, opening, now);
                }
            }
            Message::BadKey { session } => {
                if self.state == State::Join && session == self.session {
                    self.state = State::Idle;
                    self.events.push(Event::BadSession(session.to_owned()));
                }
            }
            // What only a server or a peer gets.
            Message::HostSession { .. }
            | Message::JoinSession { .. }
            | Message::RandomSession { .. }
            | Message::KeepAlive { .. }
            | Message::CloseSession { .. }
            | Message::Ready { .. }
            | Message::JoinHost { .. }
            | Message::JoinDone { .. } => {}
        }
    }

    fn on_host_registered(&mut self, from: SocketAddrV4, remote: &str, session: &str) {
        if !matches!(self.state, State::Host | State::Random) {
            return;
        }
        self.server = Some(from);
        self.remote_key = remote.to_owned();
        self.session = session.to_owned();
        self.is_host = true;
        self.events.push(Event::StartSession(session.to_owned()));
        self.state = match self.peers.is_empty() {
            true => State::Registered,
            false => State::Pinging,
        };
    }

    /// Adds a player and punches towards everyone at once.
    fn add_peer(&mut self, remote: SocketAddrV4, local_key: &str, opening: Option<Opening>, now: u64) {
        let local = key::decode(local_key);
        if self.peers.add(Peer::new(remote, local, opening)).is_some() {
            self.events.push(Event::Peer(remote));
            self.ping_peers(now);
        }
    }

    fn on_ready(&mut self, from: SocketAddr, names: &str, now: u64) {
        if self.state == State::Idle {
            return;
        }
        let punch = self.punch();
        let Some((peer, from)) = self.peers.by_source(from) else {
            return;
        };
        if peer.answered.is_none() {
            let peer = peer.remote;
            self.events.push(Event::PeerAnswered { peer, from });
        }
        if peer.answers(from) {
            // The way in is open, so there is nothing to wait for on the way out.
            self.transmits.send(from, punch, None);
        }
        self.add_names(names);
        if self.is_host && self.is_random && self.state == State::Pinging {
            self.close_session(now);
            self.events.push(Event::StartRandom);
        }
    }

    fn on_join_host(&mut self, from: SocketAddr) {
        let Some((host, from)) = self.peers.by_source(from) else {
            return;
        };
        if self.is_host {
            return;
        }
        host.answers(from);
        // Also when done: the host asks again if it did not get the answer.
        let done = Message::JoinDone { word: "DONE" }.to_string();
        self.transmits.send(from, done, None);
        if self.state == State::Pinging {
            self.state = State::Idle;
            let port = self.local.port();
            self.events.push(Event::StartClient { host: from, port });
        }
    }

    fn on_join_done(&mut self, from: SocketAddr) {
        if self.state != State::Close {
            return;
        }
        let Some((joiner, from)) = self.peers.by_source(from) else {
            return;
        };
        joiner.answers(from);
        joiner.done = true;
        if self.peers.iter().all(|peer| peer.done) {
            self.state = State::Idle;
            self.events.push(Event::StartServer {
                port: self.local.port(),
                joiners: self.peers.iter().map(Peer::address).collect(),
            });
        }
    }

    fn add_names(&mut self, names: &str) {
        for name in names.split(':') {
            let known = self.names.iter().map(|known| known.len() + 1).sum::<usize>();
            let fits =
                name.len() <= NAME_BYTES_MAX && known + name.len() <= NAMES_BYTES_MAX && self.names.len() < NAMES_MAX;
            let named = !name.is_empty() && !name.contains(char::is_control);
            if fits && named && !self.names.iter().any(|known| known == name) {
                self.names.push(name.to_owned());
                self.events.push(Event::NewName(name.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
