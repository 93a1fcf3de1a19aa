//! `punch`: clients of a punch dialect register by UDP, each as a fresh one does, and go. Closed loop: each comes again at once.
//! Open loop (`rate`): at fixed times, and a latency counts from the time at which a registration should have begun.
//!
//! Owns: whose turn it is, and what has had no answer in time: that is lost, which is said, and asked again as clients do.
//! Never: knows a message; its dialect does.

mod keys;
mod natpunch;
mod repeats;
mod simple;

use std::collections::VecDeque;
use std::time::Duration;

use super::pace::Pace;
use super::{Scenario, share};
use crate::worker::io::Io;
use crate::worker::protocol::Job;
use crate::workload::Dialect;

/// Clients of both dialects ask again after a second.
const TIMEOUT: Duration = Duration::from_secs(1);
/// As long may the first answer of all take, from a server that has just begun.
const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
/// How often is looked for what is lost.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What clients say, and the proof of what they hear.
trait Clients {
    /// Sockets of each client; those of client 0 come first.
    fn sockets_each(&self) -> usize {
        1
    }

    /// A client registers.
    fn begin(&mut self, io: &mut Io, client: usize);

    /// It has had no answer in time.
    fn ask_again(&mut self, io: &mut Io, client: usize);

    /// A datagram to one of a client's sockets.
    ///
    /// # Errors
    /// Why no server should have sent it.
    fn on_datagram(&mut self, io: &mut Io, client: usize, socket: usize, bytes: &[u8]) -> Result<Step, &'static str>;
}

/// What a datagram means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The client is registered and has gone, or has met the other and both have.
    Done,
    /// It waits for more.
    Waiting,
}

/// A worker's share of clients.
pub struct Punch {
    speech: Box<dyn Clients>,
    clients: Vec<Client>,
    pace: Pace,
    sending: bool,
    done: u64,
    look_ns: u64,
}

#[derive(Clone, Default)]
struct Client {
    asked: Option<Asked>,
    /// When registrations were due that could not begin, as one was under way.
    owed: VecDeque<u64>,
}

#[derive(Clone, Copy)]
struct Asked {
    /// When it began, or should have.
    left_ns: u64,
    sent_ns: u64,
}

impl Punch {
    /// The worker's share of clients.
    pub fn new(job: &Job) -> Self {
        let clients = share(job, job.workload.peers_or_some());
        Self {
            speech: match job.workload.dialect {
                Dialect::Simple => Box::new(simple::Hosts::new(job, clients)),
                Dialect::Natpunch => Box::new(natpunch::Registrants::new(clients)),
            },
            clients: vec![Client::default(); clients],
            pace: Pace::new(job),
            sending: false,
            done: 0,
            look_ns: 0,
        }
    }

    fn begin(&mut self, io: &mut Io, client: usize, left_ns: u64) {
        let sent_ns = io.now_ns();
        self.clients[client].asked = Some(Asked { left_ns, sent_ns });
        io.counts.sent += 1;
        self.speech.begin(io, client);
    }

    fn go_on(&mut self, io: &mut Io, client: usize) {
        if !self.sending {
            return;
        }
        let left_ns = match self.pace.is_open() {
            true => self.clients[client].owed.pop_front(),
            false => Some(io.now_ns()),
        };
        if let Some(left_ns) = left_ns {
            self.begin(io, client, left_ns);
        }
    }

    fn look_for_lost(&mut self, io: &mut Io, now_ns: u64) {
        let timeout = match self.done {
            0 => FIRST_TIMEOUT,
            _ => TIMEOUT,
        };
        let overdue_ns = now_ns.saturating_sub(timeout.as_nanos() as u64);
        for client in 0..self.clients.len() {
            let Some(asked) = &mut self.clients[client].asked else {
                continue;
            };
            if asked.sent_ns < overdue_ns {
                asked.sent_ns = now_ns;
                io.counts.lost += 1;
                if self.done == 0 {
                    io.fail(format!("client {client}: nobody answers"));
                }
                self.speech.ask_again(io, client);
            }
        }
    }
}

impl Scenario for Punch {
    fn peers(&self) -> usize {
        0
    }

    fn sockets(&self) -> usize {
        self.clients.len() * self.speech.sockets_each()
    }

    fn start(&mut self, io: &mut Io) {
        self.sending = true;
        self.pace.begin(io.now_ns());
        if !self.pace.is_open() {
            (0..self.clients.len()).for_each(|client| self.go_on(io, client));
        }
    }

    fn pause(&mut self, _io: &mut Io) {
        self.sending = false;
        self.clients.iter_mut().for_each(|client| client.owed.clear());
    }

    fn is_quiet(&self) -> bool {
        self.clients.iter().all(|client| client.asked.is_none())
    }

    fn describe_missing(&self) -> String {
        let missing = self.clients.iter().filter(|client| client.asked.is_some()).count();
        format!("{missing} registrations have not come to their end")
    }

    fn on_datagram(&mut self, io: &mut Io, index: usize, bytes: &[u8]) {
        let client = index / self.speech.sockets_each();
        let stepped = self.speech.on_datagram(io, client, index, bytes);
        let now_ns = io.now_ns();
        match (stepped, &mut self.clients[client].asked) {
            (Ok(Step::Done), asked) => {
                if let Some(asked) = asked.take() {
                    self.done += 1;
                    io.counts.arrived += 1;
                    io.latency
                        .saturating_record(now_ns.saturating_sub(asked.left_ns).max(1));
                }
                self.go_on(io, client);
            }
            (Ok(Step::Waiting), Some(asked)) => asked.sent_ns = now_ns,
            (Ok(Step::Waiting), None) => {}
            (Err(why), _) => io.fail(format!("client {client} got {}: {why}", bytes.escape_ascii())),
        }
    }

    fn awaits_datagrams(&self, io: &Io, index: usize) -> bool {
        // What was asked in this turn can wait for the next: its answer wakes the poll again.
        let client = &self.clients[index / self.speech.sockets_each()];
        client.asked.is_none_or(|asked| asked.sent_ns < io.now_ns())
    }

    fn on_turn(&mut self, io: &mut Io) -> Option<Duration> {
        let now_ns = io.now_ns();
        if now_ns >= self.look_ns {
            self.look_ns = now_ns + LOOK_EVERY.as_nanos() as u64;
            self.look_for_lost(io, now_ns);
        }
        if !self.pace.is_open() || !self.sending || self.clients.is_empty() {
            return Some(LOOK_EVERY);
        }
        while let Some((index, at_ns)) = self.pace.take(now_ns) {
            let client = index % self.clients.len();
            match self.clients[client].asked {
                None => self.begin(io, client, at_ns),
                Some(_) => self.clients[client].owed.push_back(at_ns),
            }
        }
        // The poll sleeps in whole milliseconds, which is too long: it spins.
        Some(Duration::ZERO)
    }
}
