//! `stun`: UDP sockets ask for the address that they are seen with. Closed loop: with `window` under way, the next when an
//! answer arrives. Open loop (`rate`): at fixed times, and a latency counts from the time at which a request should have left.
//!
//! Owns: the proof that each request has one answer with its transaction and the socket's own address. A request that has
//! none in time is lost, which is said and is no fault of the server's; another takes its place.
//! Never: asks a second time for the same.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::pace::Pace;
use super::{Scenario, share};
use crate::stun;
use crate::worker::io::Io;
use crate::worker::protocol::Job;

/// RFC 8489 section 6.2.1: a client waits as long before it asks again.
const TIMEOUT: Duration = Duration::from_millis(500);
/// As long may the first answer of all take, from a server that has just begun.
const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
/// How often is looked for what is lost.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A worker's share of sockets.
pub struct Stun {
    window: usize,
    pace: Pace,
    sending: bool,
    /// By socket.
    under_way: Vec<VecDeque<Request>>,
    /// Requests that were given up, by socket: an answer may still come.
    late: Vec<VecDeque<u64>>,
    /// Begins every transaction, so that no other process has the same.
    salt: u32,
    /// Requests so far; each has its number in its transaction.
    asked: u64,
    answered: u64,
    look_ns: u64,
}

struct Request {
    number: u64,
    /// When it left, or should have.
    left_ns: u64,
    sent_ns: u64,
}

impl Stun {
    /// The worker's share of sockets.
    pub fn new(job: &Job) -> Self {
        let sockets = share(job, job.workload.peers_or_some());
        Self {
            window: job.workload.window,
            pace: Pace::new(job),
            sending: false,
            under_way: (0..sockets).map(|_| VecDeque::new()).collect(),
            late: (0..sockets).map(|_| VecDeque::new()).collect(),
            salt: RandomState::new().hash_one(std::process::id()) as u32,
            asked: 0,
            answered: 0,
            look_ns: 0,
        }
    }

    fn ask(&mut self, io: &mut Io, index: usize, left_ns: u64) {
        let number = self.asked;
        self.asked += 1;
        let mut id = [0; 12];
        id[..4].copy_from_slice(&self.salt.to_be_bytes());
        id[4..].copy_from_slice(&number.to_be_bytes());
        let sent_ns = io.now_ns();
        self.under_way[index].push_back(Request {
            number,
            left_ns,
            sent_ns,
        });
        io.counts.sent += 1;
        io.send_datagram(index, &stun::request(id));
    }

    /// The number of this worker's request that a message answers.
    fn number(&self, message: &[u8]) -> Option<u64> {
        let id = stun::transaction(message)?;
        let (salt, number) = id.split_first_chunk::<4>()?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        (*salt == self.salt.to_be_bytes()).then_some(number)
    }

    /// Gives up what has waited too long; in the closed loop, others take their places.
    fn look_for_lost(&mut self, io: &mut Io, now_ns: u64) {
        let timeout = match self.answered {
            0 => FIRST_TIMEOUT,
            _ => TIMEOUT,
        };
        let overdue_ns = now_ns.saturating_sub(timeout.as_nanos() as u64);
        for index in 0..self.under_way.len() {
            while let Some(request) = self.under_way[index].front()
                && request.sent_ns < overdue_ns
            {
                self.late[index].push_back(request.number);
                self.under_way[index].pop_front();
                io.counts.lost += 1;
                if self.answered == 0 {
                    io.fail(format!("socket {index}: nobody answers"));
                }
                if self.sending && !self.pace.is_open() {
                    self.ask(io, index, now_ns);
                }
            }
        }
    }
}

impl Scenario for Stun {
    fn peers(&self) -> usize {
        0
    }

    fn sockets(&self) -> usize {
        self.under_way.len()
    }

    fn start(&mut self, io: &mut Io) {
        self.sending = true;
        let now_ns = io.now_ns();
        self.pace.begin(now_ns);
        if !self.pace.is_open() {
            for index in 0..self.under_way.len() {
                (0..self.window).for_each(|_| self.ask(io, index, now_ns));
            }
        }
    }

    fn pause(&mut self, _io: &mut Io) {
        self.sending = false;
    }

    fn is_quiet(&self) -> bool {
        self.under_way.iter().all(VecDeque::is_empty)
    }

    fn describe_missing(&self) -> String {
        let missing: usize = self.under_way.iter().map(VecDeque::len).sum();
        format!("{missing} requests have no answer")
    }

    fn on_datagram(&mut self, io: &mut Io, index: usize, bytes: &[u8]) {
        let Some(number) = self.number(bytes) else {
            return io.fail(format!("socket {index} got {bytes:02x?}, which answers nothing of its"));
        };
        let checked = stun::check(bytes, io.datagrams.address(index));
        if let Err(why) = checked {
            io.fail(format!("socket {index} got {bytes:02x?}: {why}"));
        }
        let requests = &mut self.under_way[index];
        let Some(request) = requests
            .iter()
            .position(|request| request.number == number)
            .and_then(|at| requests.remove(at))
        else {
            let late = &mut self.late[index];
            match late.iter().position(|late| *late == number) {
                Some(at) => drop(late.remove(at)),
                None => io.fail(format!(
                    "socket {index} got an answer that nothing waits for: {bytes:02x?}"
                )),
            }
            return;
        };
        let now_ns = io.now_ns();
        if checked.is_ok() {
            self.answered += 1;
            io.counts.arrived += 1;
            io.latency
                .saturating_record(now_ns.saturating_sub(request.left_ns).max(1));
        }
        if self.sending && !self.pace.is_open() {
            self.ask(io, index, now_ns);
        }
    }

    fn awaits_datagrams(&self, io: &Io, index: usize) -> bool {
        // What was asked in this turn can wait for the next: its answer wakes the poll again.
        self.under_way[index]
            .front()
            .is_some_and(|request| request.sent_ns < io.now_ns())
    }

    fn on_turn(&mut self, io: &mut Io) -> Option<Duration> {
        let now_ns = io.now_ns();
        if now_ns >= self.look_ns {
            self.look_ns = now_ns + LOOK_EVERY.as_nanos() as u64;
            self.look_for_lost(io, now_ns);
        }
        if !self.pace.is_open() || !self.sending || self.under_way.is_empty() {
            return Some(LOOK_EVERY);
        }
        while let Some((index, at_ns)) = self.pace.take(now_ns) {
            self.ask(io, index % self.under_way.len(), at_ns);
        }
        // The poll sleeps in whole milliseconds, which is too long: it spins.
        Some(Duration::ZERO)
    }
}
