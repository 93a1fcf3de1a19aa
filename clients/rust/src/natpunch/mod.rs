//! The protobuf protocol over UDP: a client registers, creates or joins a lobby, and is told whom to punch.
//!
//! Owns: the client's state, its timers, and what it tells its user.
//! Never: opens a socket or reads a clock, or sends a request again that its user did not ask for again: only the
//! registration and the keep-alives repeat themselves.
//!
//! ```
//! use peer_server_client::natpunch::{Client, Config, Event};
//!
//! let server = "203.0.113.77:8080".parse().unwrap();
//! let mut client = Client::new(Config::new(server, "[::]:40000".parse().unwrap(), 1));
//! client.register(0);
//! let request = client.poll_transmit().unwrap();
//! assert_eq!((request.to, request.payload.len()), (server, 12));
//! // Here the server answers. Then `client.create("room", 2, now)` makes a lobby, or `client.list()` asks for some.
//! ```

use std::net::SocketAddr;

use self::message::{
    Body, ConnectRequest, ConnectionEstablished, ConnectionInstruction, CreateLobbyRequest, LobbyAndClient,
    LobbyListRequest, Probe, RegisterRequest, Words,
};
use self::peers::{Peer, Peers, Phase, Task};
use crate::opening::Opening;
use crate::random::Random;
use crate::{Queue, Transmit};

mod event;
mod message;
mod peers;

pub use event::{Event, Lobby};

/// Milliseconds between two registrations, and how many there are before the client gives up.
pub const REGISTER_EVERY_MS: u64 = 1000;
const REGISTRATIONS_MAX: u32 = 10;

/// Milliseconds between keep-alives, and before the first.
pub const KEEP_ALIVE_EVERY_MS: u64 = 2000;

/// Bytes of the longest id that is taken from a server.
const ID_MAX: usize = 64;

const HOLE_PUNCH: &str = "Hole Punch";
const CONFIRMED: &str = "Connection Confirmed!";

/// What a client is told at its making.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server. What comes from other addresses is a player's.
    pub server: SocketAddr,
    /// The socket's address in the player's own network, for players in the same one; the unspecified address says none.
    pub local: SocketAddr,
    /// See [the crate](crate#the-first-packet); None sends no such packets.
    pub opening_ttl: Option<u8>,
    /// The numbers of pings begin somewhere; this says where.
    pub seed: u64,
}

impl Config {
    /// A configuration without opening packets.
    pub fn new(server: SocketAddr, local: SocketAddr, seed: u64) -> Self {
        Self {
            server,
            local,
            opening_ttl: None,
            seed,
        }
    }
}

/// Where the client is with the server.
#[derive(Clone, Debug)]
enum State {
    /// Nothing was asked.
    New,
    /// Asks to be registered.
    Registering { tries: u32, next_at: u64 },
    /// Is, under this id.
    Registered { id: String, keep_alive_at: u64 },
}

/// One player's client.
#[derive(Clone, Debug)]
pub struct Client {
    server: SocketAddr,
    local: SocketAddr,
    opening_ttl: Option<u8>,
    random: Random,
    state: State,
    /// The lobby that it is in.
    lobby: Option<Lobby>,
    peers: Peers,
    transmits: Queue<Transmit>,
    events: Queue<Event>,
}

impl Client {
    /// A client that does nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            server: config.server,
            local: config.local,
            opening_ttl: config.opening_ttl,
            random: Random::new(config.seed),
            state: State::New,
            lobby: None,
            peers: Peers::default(),
            transmits: Queue::new(),
            events: Queue::new(),
        }
    }

    /// Asks the server to know this client: at most ten times, once a second. What was before is forgotten.
    pub fn register(&mut self, now: u64) {
        self.lobby = None;
        self.peers.clear();
        self.state = State::Registering { tries: 0, next_at: now };
        self.handle_timeout(now);
    }

    /// This client's id, once it is registered.
    pub fn id(&self) -> Option<&str> {
        match &self.state {
            State::Registered { id, .. } => Some(id),
            State::New | State::Registering { .. } => None,
        }
    }

    /// The lobby that this client is in.
    pub fn lobby(&self) -> Option<&Lobby> {
        self.lobby.as_ref()
    }

    /// Asks for the lobbies. Like all that follow, it sends nothing before the registration.
    pub fn list(&mut self) {
        let Some(id) = self.id() else { return };
        // So the original clients write it. It shows that the sender knows its id.
        let request_id = format!("req_%!d(string={id})");
        self.ask(Body::LobbyListRequest(LobbyListRequest { request_id }));
    }

    /// Asks for a lobby of one's own.
    pub fn create(&mut self, name: &str, max_players: u32) {
        let Some(id) = self.id() else { return };
        let request = CreateLobbyRequest {
            lobby_name: name.to_owned(),
            client_id: id.to_owned(),
            max_players,
        };
        self.ask(Body::CreateLobbyRequest(request));
    }

    /// Asks to join a lobby. After a loss, asking again repeats all of it.
    pub fn join(&mut self, lobby: &str) {
        if let Some(request) = self.lobby_and_self(lobby) {
            self.ask(Body::JoinLobbyRequest(request));
        }
    }

    /// Leaves the lobby, and everyone in it.
    pub fn leave(&mut self) {
        let lobby = self.lobby.take();
        if let Some(request) = lobby.and_then(|lobby| self.lobby_and_self(&lobby.id)) {
            self.peers.clear();
            self.ask(Body::LeaveLobbyRequest(request));
        }
    }

    /// Asks to be brought together with one player, of the same lobby.
    pub fn connect(&mut self, peer: &str) {
        let Some(id) = self.id() else { return };
        let request = ConnectRequest {
            destination_client_id: peer.to_owned(),
            source_client_id: id.to_owned(),
            local_endpoint: Some(self.local.into()),
            attempt_number: 0,
        };
        self.ask(Body::ConnectRequest(request));
    }

    /// Pings a connected player at once; every two seconds it happens by itself.
    pub fn ping(&mut self, peer: &str, now: u64) {
        let Some(source) = self.id().map(str::to_owned) else {
            return;
        };
        let number = self.random.next() as u32;
        if let Some(peer) = self.peers.by_id_mut(peer)
            && let Phase::Connected { at } = peer.phase
        {
            peer.pinged = Some((number, now));
            let probe = Probe {
                source_client_id: source,
                destination_client_id: peer.id.clone(),
                sequence_number: number,
            };
            self.transmits.send(at, Body::Ping(probe).into_datagram(), None);
        }
    }

    /// A datagram arrived.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: u64) {
        let Some(body) = Body::from_datagram(datagram) else {
            return;
        };
        if from == self.server {
            self.on_server(body, now);
        } else {
            self.on_peer(from, body, now);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: u64) {
        match &mut self.state {
            State::Registering { tries, next_at } if *next_at <= now && *tries == REGISTRATIONS_MAX => {
                self.state = State::New;
                self.events.push(Event::RegistrationFailed);
            }
            State::Registering { tries, next_at } if *next_at <= now => {
                *tries += 1;
                *next_at = now.saturating_add(REGISTER_EVERY_MS);
                let local_endpoint = Some(self.local.into());
                self.ask(Body::RegisterRequest(RegisterRequest { local_endpoint }));
            }
            State::Registered { id, keep_alive_at } if *keep_alive_at <= now => {
                *keep_alive_at = now.saturating_add(KEEP_ALIVE_EVERY_MS);
                let client_id = id.clone();
                self.ask(Body::KeepAlive(message::Client { client_id }));
            }
            State::New | State::Registering { .. } | State::Registered { .. } => {}
        }
        self.serve_peers(now);
    }

    /// When `handle_timeout` must be called at the latest; None while nothing is due.
    pub fn poll_timeout(&self) -> Option<u64> {
        let own = match &self.state {
            State::New => None,
            State::Registering { next_at, .. } => Some(*next_at),
            State::Registered { keep_alive_at, .. } => Some(*keep_alive_at),
        };
        own.into_iter().chain(self.peers.next_at()).min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    fn on_server(&mut self, body: Body, now: u64) {
        match body {
            Body::RegisterResponse(response) => {
                let id = response.client_id;
                let fits = response.success && !id.is_empty() && id.len() <= ID_MAX;
                if matches!(self.state, State::Registering { .. }) && fits {
                    let keep_alive_at = now.saturating_add(KEEP_ALIVE_EVERY_MS);
                    self.state = State::Registered {
                        id: id.clone(),
                        keep_alive_at,
                    };
                    let public = response.public_endpoint.and_then(|endpoint| endpoint.address());
                    self.events.push(Event::Registered { id, public });
                }
            }
            // Whatever else comes before the registration is meant for somebody else.
            _ if self.id().is_none() => {}
            Body::Error(Words { message }) => self.events.push(Event::Refused(message)),
            Body::DebugMessage(words) if words.message == "PING" => {
                let message = "PONG".to_owned();
                self.ask(Body::DebugMessage(Words { message }));
            }
            Body::LobbyListResponse(response) => {
                let lobbies = response.lobbies.into_iter().map(Lobby::from).collect();
                self.events.push(Event::Lobbies(lobbies));
            }
            Body::CreateLobbyResponse(response) => {
                let (id, name) = (response.lobby_id, response.lobby_name);
                if response.success && id.len() <= ID_MAX && !self.is_in(&id) {
                    self.lobby = self.own_lobby(id.clone(), name.clone());
                    self.events.push(Event::LobbyCreated { id, name });
                }
            }
            Body::JoinLobbyResponse(response) => self.events.push(match response.success {
                true => Event::Joining { id: response.lobby_id },
                false => Event::Refused(response.message),
            }),
            Body::JoinLobbySuccess(joined) => {
                // The answer to a repeated request tells nothing new.
                if joined.success && joined.lobby_id.len() <= ID_MAX && !self.is_in(&joined.lobby_id) {
                    let members: Vec<String> = joined
                        .lobby_members
                        .into_iter()
                        .map(|member| member.client_id)
                        .collect();
                    let host = members.iter().find(|member| Some(&***member) != self.id());
                    self.change_lobby(Lobby {
                        id: joined.lobby_id,
                        name: String::new(),
                        host: host.cloned().unwrap_or_default(),
                        players: u32::try_from(members.len()).unwrap_or(u32::MAX),
                        max_players: 0,
                        members,
                    });
                }
            }
            Body::LobbyUpdate(update) if update.update_type == "lobby_closed" => {
                if self.is_in(&update.lobby_id) {
                    self.lobby = None;
                    self.events.push(Event::Left);
                }
            }
            Body::LobbyUpdate(update) => {
                if let Some(lobby) = update.lobby_info.map(Lobby::from).filter(|lobby| self.is_in(&lobby.id)) {
                    self.change_lobby(lobby);
                }
            }
            Body::ConnectionInstruction(instruction) => self.on_instruction(instruction, now),
            Body::PeerLeft(peer) => {
                if let Some(lobby) = &mut self.lobby {
                    lobby.members.retain(|member| *member != peer.client_id);
                }
                if self.peers.remove(&peer.client_id) {
                    let peer = peer.client_id;
                    self.events.push(Event::PeerLeft { peer });
                }
            }
            Body::LeaveLobbyResponse(response) if response.success => self.events.push(Event::Left),
            Body::LeaveLobbyResponse(response) => self.events.push(Event::Refused(response.message)),
            // What only a server or a player gets.
            Body::RegisterRequest(_)
            | Body::ConnectRequest(_)
            | Body::ConnectionEstablished(_)
            | Body::KeepAlive(_)
            | Body::DebugMessage(_)
            | Body::CreateLobbyRequest(_)
            | Body::JoinLobbyRequest(_)
            | Body::LobbyListRequest(_)
            | Body::Ping(_)
            | Body::Pong(_)
            | Body::LeaveLobbyRequest(_)
            | Body::PeerConnectionReady(_) => {}
        }
    }

    fn on_instruction(&mut self, instruction: ConnectionInstruction, now: u64) {
        let id = instruction.client_id;
        if !instruction.accepted {
            return self.events.push(Event::Refused(instruction.message));
        }
        let public = instruction.public_endpoint.and_then(|endpoint| endpoint.address());
        let local = instruction.local_endpoint.and_then(|endpoint| endpoint.address());
        let Some(public) = public.filter(|_| !id.is_empty() && id.len() <= ID_MAX && self.id() != Some(&id)) else {
            return;
        };
        let joins = self.lobby.as_ref().is_none_or(|lobby| lobby.host == id);
        let opening = self.opening_ttl.map(|ttl| match joins {
            true => Opening::of_joiner(ttl, now),
            false => Opening::new(ttl, now),
        });
        if self.peers.add(Peer::new(id.clone(), public, local, opening, now)) {
            if self.peers.by_id(&id).is_some_and(|peer| peer.phase == Phase::Punching) {
                self.events.push(Event::Punching { peer: id, public });
            }
            self.serve_peers(now);
        }
    }

    fn on_peer(&mut self, from: SocketAddr, body: Body, now: u64) {
        let Some(own) = self.id().map(str::to_owned) else {
            return;
        };
        let (id, confirms) = match &body {
            Body::ConnectionEstablished(words) => (&words.client_id, words.message == CONFIRMED),
            // A player pings whom it has heard.
            Body::Ping(probe) | Body::Pong(probe) if probe.destination_client_id == own => {
                (&probe.source_client_id, true)
            }
            _ => return,
        };
        let Some(peer) = self.peers.by_id_and_source(id, from) else {
            return;
        };
        if peer.heard(from, confirms, now) {
            self.events.push(Event::Connected { peer: id.clone(), from });
        }
        match body {
            Body::ConnectionEstablished(ConnectionEstablished { client_id, .. }) => {
                if !confirms {
                    self.transmits.send(from, established(CONFIRMED, &own), None);
                }
                self.tell_ready(&client_id);
            }
            Body::Ping(probe) => {
                let pong = Probe {
                    source_client_id: own,
                    destination_client_id: probe.source_client_id,
                    sequence_number: probe.sequence_number,
                };
                self.transmits.send(from, Body::Pong(pong).into_datagram(), None);
            }
            Body::Pong(probe) => {
                if let Some((_, sent_at)) = peer.pinged.take_if(|(number, _)| *number == probe.sequence_number) {
                    let round_trip_ms = now.saturating_sub(sent_at);
                    let peer = probe.source_client_id;
                    self.events.push(Event::Pong {
                        peer,
                        from,
                        round_trip_ms,
                    });
                }
            }
            _ => {}
        }
    }

    /// The host tells the server that a joiner is connected, until the server has made it a member.
    fn tell_ready(&mut self, peer: &str) {
        let hosts =
            |lobby: &&Lobby| Some(&*lobby.host) == self.id() && !lobby.members.iter().any(|member| member == peer);
        if let Some(lobby) = self.lobby.as_ref().filter(hosts) {
            let (lobby_id, client_id) = (lobby.id.clone(), peer.to_owned());
            self.ask(Body::PeerConnectionReady(LobbyAndClient { lobby_id, client_id }));
        }
    }

    fn serve_peers(&mut self, now: u64) {
        let Some(own) = self.id().map(str::to_owned) else {
            return;
        };
        let punch = established(HOLE_PUNCH, &own);
        let mut pings = Vec::new();
        for peer in self.peers.iter_mut() {
            while let Some(task) = peer.take_task(now) {
                match task {
                    Task::Punch(ttl) => {
                        for to in peer.addresses() {
                            self.transmits.send(to, &*punch, ttl);
                        }
                    }
                    Task::Ping => pings.push(peer.id.clone()),
                    Task::GiveUp => self.events.push(Event::Unreachable { peer: peer.id.clone() }),
                }
            }
        }
        for peer in pings {
            self.ping(&peer, now);
        }
    }

    fn is_in(&self, lobby: &str) -> bool {
        self.lobby.as_ref().is_some_and(|own| own.id == lobby)
    }

    fn own_lobby(&self, id: String, name: String) -> Option<Lobby> {
        let host = self.id()?.to_owned();
        let members = vec![host.clone()];
        Some(Lobby {
            id,
            name,
            host,
            players: 1,
            max_players: 0,
            members,
        })
    }

    fn change_lobby(&mut self, lobby: Lobby) {
        self.lobby = Some(lobby.clone());
        self.events.push(Event::LobbyChanged(lobby));
    }

    fn lobby_and_self(&self, lobby: &str) -> Option<LobbyAndClient> {
        let (lobby_id, client_id) = (lobby.to_owned(), self.id()?.to_owned());
        Some(LobbyAndClient { lobby_id, client_id })
    }

    fn ask(&mut self, body: Body) {
        self.transmits.send(self.server, body.into_datagram(), None);
    }
}

fn established(message: &str, own: &str) -> Vec<u8> {
    let (message, client_id) = (message.to_owned(), own.to_owned());
    Body::ConnectionEstablished(ConnectionEstablished { message, client_id }).into_datagram()
}

#[cfg(test)]
mod tests;
