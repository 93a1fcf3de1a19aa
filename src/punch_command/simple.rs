//! A try with the ASCII protocol.
//!
//! Owns: when the host closes its session, and why a try failed.
//! Never: reads a message (see `peer_server_client::simple`).

use std::net::{SocketAddr, SocketAddrV4};

use peer_server_client::direct::Direct;
use peer_server_client::simple::{Client, Config, Event, server_of};

use super::arguments::{Arguments, Role};
use super::greeting::Greeting;
use super::shell::{self, Shell};
use super::{ms, say, seconds};

pub(super) fn run(arguments: &Arguments) -> Result<(), String> {
    let server = server(arguments)?;
    let mut shell = Shell::open(server.into(), arguments.local_port)?;
    let local = match shell.local_address() {
        Ok(SocketAddr::V4(local)) => local,
        Ok(SocketAddr::V6(_)) => return Err("this protocol knows IPv4 only".to_owned()),
        Err(error) => return Err(format!("no way to the server {server}: {error}")),
    };
    let mut client = Client::new(Config {
        local,
        name: arguments.name.clone(),
        opening_ttl: arguments.opening_ttl,
    });
    let now = shell.now();
    match &arguments.role {
        Role::Host => client.host_session(server, now),
        Role::Random => client.random_session(server, now),
        Role::List => return Err("this protocol has no list".to_owned()),
        Role::Join(session) => {
            let session = session.as_deref().unwrap_or_default();
            client
                .join_session_at(server, session, now)
                .map_err(|bad| format!("{session}: {bad}"))?;
        }
    }
    Try {
        arguments,
        client,
        registered: false,
        punched: Vec::new(),
        answered: 0,
        answered_from: None,
        progress_at: 0,
        greeting: None,
    }
    .run(&mut shell)
}

/// The address of the command line, else the one that the session's id names.
fn server(arguments: &Arguments) -> Result<SocketAddrV4, String> {
    let named = match &arguments.role {
        Role::Join(Some(session)) => Some(server_of(session).map_err(|bad| format!("{session}: {bad}"))?),
        _ => None,
    };
    if arguments.address.is_none() {
        return named.ok_or_else(|| "no server is named".to_owned());
    }
    let SocketAddr::V4(server) = shell::resolve(arguments)? else {
        return Err("this protocol knows IPv4 only".to_owned());
    };
    if let Some(named) = named.filter(|named| *named != server) {
        say(&format!(
            "the session id names the server {named}: players without -a ask there"
        ));
    }
    Ok(server)
}

struct Try<'a> {
    arguments: &'a Arguments,
    client: Client,
    /// The server has answered.
    registered: bool,
    /// The players, where the server saw them, and when this side learned of each.
    punched: Vec<(SocketAddrV4, u64)>,
    /// How many of them have answered.
    answered: usize,
    /// Where the latest of them did.
    answered_from: Option<SocketAddr>,
    /// When the patience began anew at the latest.
    progress_at: u64,
    greeting: Option<Greeting>,
}

impl Try<'_> {
    fn run(mut self, shell: &mut Shell) -> Result<(), String> {
        loop {
            let now = shell.now();
            self.client.handle_timeout(now);
            if let Some(greeting) = &mut self.greeting {
                greeting.handle_timeout(now);
            }
            while let Some(event) = self.client.poll_event() {
                self.on_event(event, now)?;
            }
            while let Some(transmit) = self.client.poll_transmit() {
                shell.send(&transmit);
            }
            let deadline = self.deadline();
            if let Some(greeting) = &mut self.greeting {
                while let Some(transmit) = greeting.poll_transmit() {
                    shell.send(&transmit);
                }
                if greeting.is_over(now) {
                    return Ok(());
                }
            }
            if now >= deadline {
                return Err(self.why(shell));
            }
            let greeting = self.greeting.as_ref().and_then(Greeting::poll_timeout);
            let until = self
                .client
                .poll_timeout()
                .into_iter()
                .chain(greeting)
                .fold(deadline, u64::min);
            if let Some((from, datagram)) = shell.receive(until)? {
                let (datagram, now) = (datagram.to_vec(), shell.now());
                // A joiner hears its host for as long as the host waits for more players.
                let joins = matches!(self.arguments.role, Role::Join(_)) && self.greeting.is_none();
                if joins && self.punched.iter().any(|(peer, _)| from.ip() == *peer.ip()) {
                    self.progress_at = now;
                }
                self.client.handle_datagram(from, &datagram, now);
                if let Some(greeting) = &mut self.greeting {
                    greeting.handle_datagram(from, &datagram, now);
                }
            }
        }
    }

    fn on_event(&mut self, event: Event, now: u64) -> Result<(), String> {
        match event {
            Event::StartSession(session) => {
                if let Some(public) = self.client.public_address() {
                    say(&format!("the server sees this machine as {public}"));
                }
                say(&format!("session id: {session}"));
                self.registered = true;
            }
            Event::Peer(peer) => {
                say(&format!("a player is at {peer}"));
                self.punched.push((peer, now));
            }
            Event::PeerAnswered { peer, from } => {
                let moved = if peer == from {
                    ""
                } else {
                    ", not from where the server saw it"
                };
                let since = self.punched.iter().find(|(punched, _)| *punched == peer);
                let took = seconds(now.saturating_sub(since.map_or(now, |(_, since)| *since)));
                say(&format!("packets arrive from {from}{moved}, after {took}"));
                self.answered += 1;
                self.answered_from = Some(from.into());
                if self.arguments.role == Role::Host && self.answered + 1 >= self.arguments.players {
                    self.client.close_session(now);
                }
            }
            Event::StartServer { joiners, .. } => {
                let joiners: Vec<SocketAddr> = joiners.into_iter().map(SocketAddr::V4).collect();
                self.greet(&joiners, now);
            }
            Event::StartClient { host, .. } => self.greet(&[host.into()], now),
            Event::BadSession(session) => return Err(format!("the server knows no session {session}")),
            Event::NewName(_) | Event::StartRandom | Event::BadServer(_) => {}
        }
        Ok(())
    }

    fn greet(&mut self, peers: &[SocketAddr], now: u64) {
        // The routers are open by then: no packet needs to go ahead.
        self.progress_at = now;
        let direct = Direct::new(peers, None, rand::random(), now);
        self.greeting = Some(Greeting::new(direct, peers.len(), self.punching_since(now)));
    }

    fn punching_since(&self, now: u64) -> u64 {
        self.punched.last().map_or(now, |(_, since)| *since)
    }

    /// Others are still to come.
    fn is_waiting(&self) -> bool {
        let others = match self.arguments.role {
            Role::Host => self.arguments.players - 1,
            Role::Join(_) | Role::Random | Role::List => 1,
        };
        self.registered && self.punched.len() < others
    }

    fn deadline(&self) -> u64 {
        let within = ms(self.arguments.within);
        if self.greeting.as_ref().is_some_and(Greeting::is_connected) {
            return u64::MAX;
        }
        if self.is_waiting() {
            return ms(self.arguments.wait);
        }
        self.punching_since(0).max(self.progress_at).saturating_add(within)
    }

    fn why(&self, shell: &Shell) -> String {
        if self.is_waiting() {
            let wait = self.arguments.wait.as_secs();
            return format!("nobody came within {wait} s");
        }
        match self.punched.len() {
            0 => shell.no_answer(self.arguments.within),
            _ => shell::no_proof(self.answered_from, self.arguments.within),
        }
    }
}
