//! The lobby protocol: JSON over TCP to the server, and UDP to learn and hold the address by which others reach this player.
//!
//! Owns: the client's state, its timers, and what it tells its user.
//! Never: opens a socket or reads a clock. One client has one TCP connection and one UDP socket, to the same address.
//!
//! A request follows when the one before is answered; more of them wait. When a lobby starts, every member gets the others'
//! addresses, and the UDP socket is the application's from then on.
//!
//! ```
//! use peer_server_client::matchmaker::{Client, Config, Event};
//!
//! let mut client = Client::new(Config::new("203.0.113.77:8070".parse().unwrap()));
//! client.connect(0);
//! assert_eq!(client.poll_stream().unwrap(), b"{\"Type\":0,\"Body\":null}\n");
//! client.handle_stream(b"{\"SessionID\":\"bd0ad2fc-6807-481e-badc-7a234d196301\"}\n", 40);
//! assert!(matches!(client.poll_event(), Some(Event::Connected { .. })));
//! client.create_lobby();
//! ```

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::Value;

use self::wire::Words;
use crate::direct::Direct;
use crate::{Queue, Transmit};

mod wire;

pub use wire::Request;

/// Milliseconds between keep-alives over UDP, from the beginning until the lobby starts.
pub const KEEP_ALIVE_EVERY_MS: u64 = 500;

/// Milliseconds after which the server is told this player's address again, until it says that it knows it.
pub const ENDPOINT_EVERY_MS: u64 = 5000;

/// The same with an opening TTL. The server waits for six seconds at the start: two losses must not keep a player out.
pub const ENDPOINT_SOON_MS: u64 = 500;

/// Bytes of an unfinished reply, of an id or a code, and requests that wait.
const REPLY_MAX: usize = 4096;
const NAME_MAX: usize = 64;
const WAITING_MAX: usize = 16;

/// What a client is told at its making.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server, for TCP and UDP.
    pub server: SocketAddr,
    /// Microseconds from 1970 to the time 0 of the calls. The server is told the time but does not use it.
    pub epoch_us: u64,
    /// See [the crate](crate#the-first-packet); None sends no such packets.
    pub opening_ttl: Option<u8>,
}

impl Config {
    /// A configuration without opening packets, for a time that begins with 1970.
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            epoch_us: 0,
            opening_ttl: None,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client has a session.
    Connected {
        /// Its id, a secret between client and server.
        session: String,
    },
    /// The server knows by which address this player is reached.
    EndpointKnown,
    /// The answer to `create_lobby`.
    LobbyCreated {
        /// What others join by.
        code: String,
    },
    /// The answer to `join_lobby`.
    LobbyJoined {
        /// The lobby's code.
        code: String,
    },
    /// The answer to `start_lobby`.
    LobbyStarted {
        /// The lobby's code.
        code: String,
    },
    /// The lobby has started: these are the other members. Once; see [`Client::handle_connections`].
    Peers(Vec<SocketAddr>),
    /// The server refused a request, in its words.
    Refused {
        /// The request.
        request: Request,
        /// The words.
        words: String,
    },
    /// The TCP connection is of no use any more: it was closed, or something came that is not of this protocol.
    Closed,
}

/// One player's client.
#[derive(Clone, Debug)]
pub struct Client {
    config: Config,
    session: String,
    /// The request that the server has not answered, and those after it.
    requests: VecDeque<Request>,
    received: Vec<u8>,
    closed: bool,
    /// None before `connect` and after the start.
    keep_alive_at: Option<u64>,
    /// None before the session and once the server knows the address.
    endpoint_at: Option<u64>,
    peers: Vec<SocketAddr>,
    started: bool,
    stream: Queue<Vec<u8>>,
    transmits: Queue<Transmit>,
    events: Queue<Event>,
}

/// The number of the datagram that tells the address. It is the only one that is numbered, and a repeat keeps its number.
const ENDPOINT_NUMBER: i32 = 1;

impl Client {
    /// A client that does nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            session: String::new(),
            requests: VecDeque::new(),
            received: Vec::new(),
            closed: false,
            keep_alive_at: None,
            endpoint_at: None,
            peers: Vec::new(),
            started: false,
            stream: Queue::new(),
            transmits: Queue::new(),
            events: Queue::new(),
        }
    }

    /// The TCP connection is there: asks for a session, and begins to hold the UDP mapping.
    pub fn connect(&mut self, now: u64) {
        if self.keep_alive_at.is_none() && !self.started {
            self.keep_alive_at = Some(now.saturating_add(KEEP_ALIVE_EVERY_MS));
            self.ask(Request::Connect);
        }
    }

    /// Asks for a lobby.
    pub fn create_lobby(&mut self) {
        self.ask(Request::CreateLobby);
    }

    /// Joins a lobby.
    pub fn join_lobby(&mut self, code: &str) {
        self.ask(Request::JoinLobby(code.to_owned()));
    }

    /// Starts a lobby: every member gets the others' addresses.
    pub fn start_lobby(&mut self, code: &str) {
        self.ask(Request::StartLobby(code.to_owned()));
    }

    /// After the start: what greets the other members from this client's UDP socket until both directions are proven. None
    /// before the start. The seed makes this side's number.
    pub fn handle_connections(&self, seed: u64, now: u64) -> Option<Direct> {
        self.started
            .then(|| Direct::new(&self.peers, self.config.opening_ttl, seed, now))
    }

    /// Bytes arrived over TCP.
    pub fn handle_stream(&mut self, bytes: &[u8], now: u64) {
        if self.closed {
            return;
        }
        self.received.extend_from_slice(bytes);
        loop {
            match wire::take_value(&mut self.received) {
                Ok(Some(reply)) => self.on_reply(&reply, now),
                Ok(None) if self.received.len() <= REPLY_MAX => return,
                Ok(None) | Err(_) => return self.handle_stream_end(),
            }
        }
    }

    /// The TCP connection has ended.
    pub fn handle_stream_end(&mut self) {
        self.received = Vec::new();
        self.requests.clear();
        if !std::mem::replace(&mut self.closed, true) {
            self.events.push(Event::Closed);
        }
    }

    /// A datagram arrived.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: u64) {
        if from != self.config.server {
            return;
        }
        match wire::read(datagram) {
            Some((_, Words::Ack { number })) if number == ENDPOINT_NUMBER && self.endpoint_at.take().is_some() => {
                self.events.push(Event::EndpointKnown);
            }
            Some((number, Words::Endpoints(peers))) if !self.session.is_empty() => {
                // A repeat is acknowledged again: the first acknowledgement may be lost.
                let us = now.saturating_mul(1000).saturating_add(self.config.epoch_us);
                let ack = wire::ack(number, i64::try_from(us).unwrap_or(i64::MAX));
                self.transmits.send(from, ack, None);
                if !std::mem::replace(&mut self.started, true) {
                    (self.keep_alive_at, self.endpoint_at) = (None, None);
                    self.peers.clone_from(&peers);
                    self.events.push(Event::Peers(peers));
                }
            }
            _ => {}
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: u64) {
        if self.keep_alive_at.is_some_and(|at| at <= now) {
            self.keep_alive_at = Some(now.saturating_add(KEEP_ALIVE_EVERY_MS));
            self.transmits.send(self.config.server, wire::keep_alive(), None);
        }
        if self.endpoint_at.is_some_and(|at| at <= now) {
            let every = match self.config.opening_ttl {
                Some(_) => ENDPOINT_SOON_MS,
                None => ENDPOINT_EVERY_MS,
            };
            self.endpoint_at = Some(now.saturating_add(every));
            let endpoint = wire::endpoint(ENDPOINT_NUMBER, &self.session);
            self.transmits.send(self.config.server, endpoint, None);
        }
    }

    /// When `handle_timeout` must be called at the latest; None while nothing is due.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.keep_alive_at.into_iter().chain(self.endpoint_at).min()
    }

    /// The next bytes to write to the TCP connection.
    pub fn poll_stream(&mut self) -> Option<Vec<u8>> {
        self.stream.pop()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    fn ask(&mut self, request: Request) {
        if self.closed || self.requests.len() >= WAITING_MAX {
            return;
        }
        self.requests.push_back(request);
        if self.requests.len() == 1 {
            self.send_request();
        }
    }

    fn send_request(&mut self) {
        if let Some(request) = self.requests.front() {
            self.stream.push(request.to_line(&self.session));
        }
    }

    fn on_reply(&mut self, reply: &Value, now: u64) {
        // What was not asked for is not of this protocol.
        let Some(request) = self.requests.pop_front() else {
            return self.handle_stream_end();
        };
        let text = |name: &str| {
            reply
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| text.len() <= NAME_MAX)
        };
        let event = match (request, reply.as_str()) {
            (request, Some(words)) => {
                let words = words.to_owned();
                Event::Refused { request, words }
            }
            (Request::Connect, None) => match text("SessionID").filter(|session| !session.is_empty()) {
                Some(session) => {
                    self.session = session.to_owned();
                    self.endpoint_at = Some(now);
                    let session = self.session.clone();
                    Event::Connected { session }
                }
                None => return self.handle_stream_end(),
            },
            (Request::CreateLobby, None) => match text("LobbyCode") {
                Some(code) => Event::LobbyCreated { code: code.to_owned() },
                None => return self.handle_stream_end(),
            },
            (Request::JoinLobby(code), None) => Event::LobbyJoined { code },
            (Request::StartLobby(code), None) => Event::LobbyStarted { code },
        };
        self.events.push(event);
        self.handle_timeout(now);
        self.send_request();
    }
}

#[cfg(test)]
mod tests;
