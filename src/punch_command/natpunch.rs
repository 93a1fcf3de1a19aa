//! A try with the protobuf protocol.
//!
//! Owns: when something is asked again, since the protocol repeats nothing by itself, and why a try failed.
//! Never: reads a message (see `peer_server_client::natpunch`).

use std::net::SocketAddr;

use peer_server_client::natpunch::{Client, Config, Event, Lobby};

use super::arguments::{Arguments, Role};
use super::shell::{self, Shell};
use super::{ms, say, seconds};

/// Milliseconds after which the server is asked again.
const ASK_EVERY_MS: u64 = 2000;

/// The same for a join, of which the server allows two a second: the second time if nothing has come of the first, and after
/// that. Before the host, who may have been told already, sends its first ordinary packet.
const JOIN_AGAIN_MS: u64 = 400;
const JOIN_EVERY_MS: u64 = 1000;

/// Milliseconds between pings to a player that has not answered one.
const PING_EVERY_MS: u64 = 200;

/// Milliseconds for which a side that has its proof still answers others who lack theirs.
const LINGER_MS: u64 = 2000;

pub(super) fn run(arguments: &Arguments) -> Result<(), String> {
    let server = shell::resolve(arguments)?;
    let mut shell = Shell::open(server, arguments.local_port)?;
    let local = shell
        .local_address()
        .map_err(|error| format!("no way to the server {server}: {error}"))?;
    let mut client = Client::new(Config {
        server,
        local,
        opening_ttl: arguments.opening_ttl,
        seed: rand::random(),
    });
    client.register(shell.now());
    let lobby = match &arguments.role {
        Role::Join(lobby) => lobby.clone(),
        Role::Host | Role::Random | Role::List => None,
    };
    Try {
        arguments,
        client,
        lobby,
        registered: false,
        listed: false,
        asked_at: None,
        asked: 0,
        players: Vec::new(),
        leave_at: None,
    }
    .run(&mut shell)
}

/// A player that is or was punched.
struct Player {
    id: String,
    since: u64,
    /// Where it was heard.
    from: Option<SocketAddr>,
    /// It has answered a ping.
    proven: bool,
    ping_at: u64,
}

struct Try<'a> {
    arguments: &'a Arguments,
    client: Client,
    /// The lobby to join, or the own one.
    lobby: Option<String>,
    registered: bool,
    /// The list of lobbies is there.
    listed: bool,
    /// When the server was asked for what is not there yet.
    asked_at: Option<u64>,
    /// How often it was asked for it.
    asked: u32,
    players: Vec<Player>,
    /// When this side ends, with its proof.
    leave_at: Option<u64>,
}

impl Try<'_> {
    fn run(mut self, shell: &mut Shell) -> Result<(), String> {
        loop {
            let now = shell.now();
            self.client.handle_timeout(now);
            self.ask(now);
            self.ping(now);
            while let Some(event) = self.client.poll_event() {
                self.on_event(event, now, shell)?;
            }
            let over = self.listed && self.arguments.role == Role::List || self.leave_at.is_some_and(|at| now >= at);
            if over {
                self.client.leave();
            }
            while let Some(transmit) = self.client.poll_transmit() {
                shell.send(&transmit);
            }
            if over {
                return Ok(());
            }
            let deadline = self.deadline();
            if now >= deadline {
                return Err(self.why(shell));
            }
            let pings = self
                .players
                .iter()
                .filter(|player| player.lacks_proof())
                .map(|player| player.ping_at);
            let asks = self.asked_at.map(|at| at + self.patience());
            let timers = self
                .client
                .poll_timeout()
                .into_iter()
                .chain(pings)
                .chain(asks)
                .chain(self.leave_at);
            if let Some((from, datagram)) = shell.receive(timers.fold(deadline, u64::min))? {
                let (datagram, now) = (datagram.to_vec(), shell.now());
                self.client.handle_datagram(from, &datagram, now);
            }
        }
    }

    /// Asks the server for what this role needs next, and again if nothing came of it.
    fn ask(&mut self, now: u64) {
        let needs = match &self.arguments.role {
            Role::Host => self.lobby.is_none(),
            Role::List => !self.listed,
            // Until a packet of the host has arrived: a lost answer or a lost instruction to the host are cured alike.
            Role::Join(_) => !self.players.iter().any(|player| player.from.is_some()),
            Role::Random => false,
        };
        if !self.registered || !needs {
            self.asked_at = None;
            return;
        }
        if self.asked_at.is_some_and(|at| now < at + self.patience()) {
            return;
        }
        self.asked_at = Some(now);
        self.asked += 1;
        match (&self.arguments.role, &self.lobby) {
            (Role::Host, _) => {
                let players = u32::try_from(self.arguments.players).unwrap_or(u32::MAX);
                self.client.create(&self.arguments.name, players);
            }
            (Role::Join(_), Some(lobby)) => self.client.join(lobby),
            _ => self.client.list(),
        }
    }

    /// Milliseconds until the server is asked again.
    fn patience(&self) -> u64 {
        match (&self.arguments.role, &self.lobby) {
            (Role::Join(_), Some(_)) if self.asked == 1 && self.players.is_empty() => JOIN_AGAIN_MS,
            (Role::Join(_), Some(_)) => JOIN_EVERY_MS,
            _ => ASK_EVERY_MS,
        }
    }

    fn ping(&mut self, now: u64) {
        for player in self
            .players
            .iter_mut()
            .filter(|player| player.lacks_proof() && player.ping_at <= now)
        {
            player.ping_at = now + PING_EVERY_MS;
            self.client.ping(&player.id, now);
        }
    }

    fn on_event(&mut self, event: Event, now: u64, shell: &Shell) -> Result<(), String> {
        match event {
            Event::Registered { public, .. } => {
                if let Some(public) = public {
                    say(&format!("the server sees this machine as {public}"));
                }
                self.registered = true;
                self.ask(now);
            }
            Event::RegistrationFailed => return Err(shell.no_answer(self.arguments.within)),
            Event::LobbyCreated { id, .. } => {
                if self.lobby.is_none() {
                    say(&format!("lobby id: {id}"));
                    self.lobby = Some(id);
                }
            }
            Event::Lobbies(lobbies) => self.on_lobbies(lobbies, now),
            Event::Punching { peer, public } => {
                if !self.players.iter().any(|player| player.id == peer) {
                    say(&format!("a player is at {public}"));
                    self.players.push(Player {
                        id: peer,
                        since: now,
                        from: None,
                        proven: false,
                        ping_at: now,
                    });
                }
            }
            Event::Connected { peer, from } => {
                if let Some(player) = self.players.iter_mut().find(|player| player.id == peer) {
                    let took = seconds(now.saturating_sub(player.since));
                    say(&format!("packets arrive from {from}, after {took}"));
                    player.from = Some(from);
                    self.ping(now);
                }
            }
            Event::Pong { peer, from, .. } => self.on_pong(&peer, from, now),
            Event::Refused(words) if self.players.is_empty() => return Err(format!("the server says: {words}")),
            Event::Unreachable { .. }
            | Event::Refused(_)
            | Event::Joining { .. }
            | Event::LobbyChanged(_)
            | Event::PeerLeft { .. }
            | Event::Left => {}
        }
        Ok(())
    }

    fn on_lobbies(&mut self, lobbies: Vec<Lobby>, now: u64) {
        if self.arguments.role == Role::List && !self.listed {
            if lobbies.is_empty() {
                say("no lobbies");
            }
            for lobby in &lobbies {
                let Lobby {
                    id,
                    name,
                    players,
                    max_players,
                    ..
                } = lobby;
                // A lobby's name is a stranger's words: nothing in it may steer a terminal.
                say(&format!(
                    "{}: {players} of {max_players} players, {}",
                    id.escape_debug(),
                    name.escape_debug()
                ));
            }
        }
        self.listed = true;
        let free = lobbies.into_iter().find(|lobby| lobby.players < lobby.max_players);
        if let (Role::Join(None), None, Some(lobby)) = (&self.arguments.role, &self.lobby, free) {
            say(&format!("joining {}", lobby.id.escape_debug()));
            self.lobby = Some(lobby.id);
            (self.asked_at, self.asked) = (None, 0);
            self.ask(now);
        }
    }

    fn on_pong(&mut self, peer: &str, from: SocketAddr, now: u64) {
        let lacks = |player: &&mut Player| player.id == peer && !player.proven;
        if let Some(player) = self.players.iter_mut().find(lacks) {
            player.proven = true;
            let took = seconds(now.saturating_sub(player.since));
            say(&format!("peer {from} answered: connected directly in {took}"));
        }
        let proven = self.players.iter().filter(|player| player.proven).count();
        if proven + 1 >= self.arguments.players && self.leave_at.is_none() {
            self.leave_at = Some(now + LINGER_MS);
        }
    }

    /// Others are still to come.
    fn is_waiting(&self) -> bool {
        let others = self.arguments.players - 1;
        match self.arguments.role {
            Role::Host => self.lobby.is_some() && self.players.len() < others,
            Role::Join(_) => match self.lobby {
                None => self.listed,
                Some(_) => !self.players.is_empty() && self.players.len() < others,
            },
            Role::Random | Role::List => false,
        }
    }

    fn deadline(&self) -> u64 {
        if self.leave_at.is_some() {
            return u64::MAX;
        }
        if self.is_waiting() {
            return ms(self.arguments.wait);
        }
        let since = self.players.last().map_or(0, |player| player.since);
        since.saturating_add(ms(self.arguments.within))
    }

    fn why(&self, shell: &Shell) -> String {
        let within = self.arguments.within;
        if self.is_waiting() {
            let what = match self.arguments.role {
                Role::Join(None) if self.lobby.is_none() => "no free lobby",
                _ => "nobody",
            };
            return format!("{what} came within {} s", self.arguments.wait.as_secs());
        }
        match self.players.last() {
            None => shell.no_answer(within),
            Some(player) => shell::no_proof(player.from, within),
        }
    }
}

impl Player {
    fn lacks_proof(&self) -> bool {
        self.from.is_some() && !self.proven
    }
}
