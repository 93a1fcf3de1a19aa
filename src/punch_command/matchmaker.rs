//! A try with the lobby protocol.
//!
//! Owns: when the host starts its lobby, since nobody tells it who has joined, and why a try failed.
//! Never: reads a message (see `peer_server_client::matchmaker`).

use std::io::BufRead;
use std::sync::mpsc::{self, Receiver};
use std::time::{SystemTime, UNIX_EPOCH};

use peer_server_client::matchmaker::{Client, Config, Event};

use super::arguments::{Arguments, Role};
use super::greeting::Greeting;
use super::shell::{self, Shell};
use super::{ms, say};

/// Milliseconds between two looks at whether somebody has pressed Enter.
const KEYBOARD_EVERY_MS: u64 = 100;

pub(super) fn run(arguments: &Arguments) -> Result<(), String> {
    let server = shell::resolve(arguments)?;
    let mut shell = Shell::open(server, arguments.local_port)?;
    shell.connect(arguments.within)?;
    let epoch_us = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros());
    let mut client = Client::new(Config {
        server,
        epoch_us: u64::try_from(epoch_us).unwrap_or(0),
        opening_ttl: arguments.opening_ttl,
    });
    client.connect(shell.now());
    match &arguments.role {
        Role::Join(Some(code)) => client.join_lobby(code),
        _ => client.create_lobby(),
    }
    Try {
        arguments,
        client,
        stage: Stage::Asking,
        keyboard: None,
        greeting: None,
    }
    .run(&mut shell)
}

/// How far the try has come.
#[derive(Clone, Debug)]
enum Stage {
    /// The server has not answered everything.
    Asking,
    /// In a lobby, the host's own with its code, until this time.
    Waiting { own: Option<String>, until: u64 },
    /// The lobby was started then.
    Started { since: u64 },
}

struct Try<'a> {
    arguments: &'a Arguments,
    client: Client,
    stage: Stage,
    /// Tells when somebody has pressed Enter.
    keyboard: Option<Receiver<()>>,
    greeting: Option<Greeting>,
}

impl Try<'_> {
    fn run(mut self, shell: &mut Shell) -> Result<(), String> {
        loop {
            let now = shell.now();
            self.client.handle_timeout(now);
            self.start_if_due(now);
            while let Some(event) = self.client.poll_event() {
                self.on_event(event, now)?;
            }
            while let Some(bytes) = self.client.poll_stream() {
                shell.write(&bytes)?;
            }
            while let Some(transmit) = self.client.poll_transmit() {
                shell.send(&transmit);
            }
            if let Some(greeting) = &mut self.greeting {
                greeting.handle_timeout(now);
                while let Some(transmit) = greeting.poll_transmit() {
                    shell.send(&transmit);
                }
                if greeting.is_over(now) {
                    return Ok(());
                }
            }
            let deadline = self.deadline();
            if now >= deadline {
                return Err(self.why(shell));
            }
            let keyboard = self.keyboard.is_some().then_some(now + KEYBOARD_EVERY_MS);
            let greeting = self.greeting.as_ref().and_then(Greeting::poll_timeout);
            let timers = self.client.poll_timeout().into_iter().chain(greeting).chain(keyboard);
            if let Some((from, datagram)) = shell.receive(timers.fold(deadline, u64::min))? {
                let (datagram, now) = (datagram.to_vec(), shell.now());
                self.client.handle_datagram(from, &datagram, now);
                if let Some(greeting) = &mut self.greeting {
                    greeting.handle_datagram(from, &datagram, now);
                }
            }
            while let Some(bytes) = shell.read() {
                let bytes = bytes.to_vec();
                match bytes.is_empty() {
                    true => self.client.handle_stream_end(),
                    false => self.client.handle_stream(&bytes, shell.now()),
                }
            }
        }
    }

    /// The host starts its lobby when Enter is pressed or the wait is over.
    fn start_if_due(&mut self, now: u64) {
        let Stage::Waiting { own: Some(code), until } = &self.stage else {
            return;
        };
        let pressed = self
            .keyboard
            .as_ref()
            .is_some_and(|keyboard| keyboard.try_recv().is_ok());
        if pressed || now >= *until {
            self.client.start_lobby(code);
            self.keyboard = None;
            self.stage = Stage::Started { since: now };
        }
    }

    fn on_event(&mut self, event: Event, now: u64) -> Result<(), String> {
        let wait = self.arguments.wait;
        match event {
            Event::LobbyCreated { code } => {
                say(&format!("lobby code: {code}"));
                say(&format!("starting it on Enter, or in {} s", wait.as_secs()));
                self.keyboard = Some(keyboard());
                let until = now.saturating_add(ms(wait));
                self.stage = Stage::Waiting { own: Some(code), until };
            }
            Event::LobbyJoined { .. } => {
                say("joined; the host decides when to start");
                let until = now.saturating_add(ms(wait)).saturating_add(ms(self.arguments.within));
                self.stage = Stage::Waiting { own: None, until };
            }
            Event::Peers(peers) => {
                for peer in &peers {
                    say(&format!("a player is at {peer}"));
                }
                if peers.is_empty() {
                    return Err("the lobby was started with nobody else in it".to_owned());
                }
                self.stage = Stage::Started { since: now };
                let direct = self.client.handle_connections(rand::random(), now);
                self.greeting = direct.map(|direct| Greeting::new(direct, peers.len(), now));
            }
            Event::Refused { words, .. } => return Err(format!("the server says: {words}")),
            // The start is over UDP by then.
            Event::Closed if self.greeting.is_none() => return Err("the server closed the connection".to_owned()),
            Event::Closed | Event::Connected { .. } | Event::EndpointKnown | Event::LobbyStarted { .. } => {}
        }
        Ok(())
    }

    fn deadline(&self) -> u64 {
        let within = ms(self.arguments.within);
        if self.greeting.as_ref().is_some_and(Greeting::is_connected) {
            return u64::MAX;
        }
        match &self.stage {
            Stage::Asking => within,
            // The host's wait ends with the start.
            Stage::Waiting { own: Some(_), until } => until.saturating_add(1),
            Stage::Waiting { own: None, until } => *until,
            Stage::Started { since } => since.saturating_add(within),
        }
    }

    fn why(&self, shell: &Shell) -> String {
        let within = self.arguments.within;
        match &self.stage {
            Stage::Asking => shell.no_answer(within),
            Stage::Waiting { .. } => "the host did not start its lobby in time".to_owned(),
            Stage::Started { .. } if self.greeting.is_none() => format!(
                "the lobby was started, but the addresses of its members did not arrive within {} s: do UDP packets reach \
                 the server?",
                within.as_secs()
            ),
            Stage::Started { .. } => shell::no_proof(None, within),
        }
    }
}

/// A line on standard input, each told once. Its end is no line: a program without a keyboard waits its time.
fn keyboard() -> Receiver<()> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            if tell.send(()).is_err() {
                break;
            }
        }
    });
    told
}
