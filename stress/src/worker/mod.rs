//! A worker: one process, one thread, one poll, and its share of the connections.
//!
//! Owns: the loop, and the conversation with the coordinator over the standard streams.
//! Never: knows a scenario's messages.

pub mod datagrams;
pub mod deflate;
pub mod frames;
pub mod io;
pub mod place;
mod ports;
pub mod protocol;
pub mod setup;
pub mod tls;

use std::io::{BufRead, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};

use self::io::{Ended, Input, Io, READ_BYTES};
use self::protocol::{Job, Notice, Order, Report};
use self::setup::{Fault, Phase};
use crate::scenario::{self, Scenario};

const STDIN: Token = Token(usize::MAX);
/// Connections that are being set up at once.
const CONNECTING_MAX: usize = 64;
/// After so long without an arrival, what is under way is lost.
const SILENCE: Duration = Duration::from_secs(3);
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(200);

/// Runs a worker until it is told to end.
///
/// # Errors
/// What kept it from its job, for the coordinator and for a human.
pub fn run() -> Result<(), String> {
    match Worker::begin().and_then(Worker::serve) {
        Ok(()) => Ok(()),
        Err(error) => {
            tell(&Notice::Stuck(error.clone()));
            Err(error)
        }
    }
}

/// Pins this thread to one core.
///
/// # Errors
/// There is no such core.
pub fn pin(cores: &[usize]) -> Result<(), String> {
    let mut set = rustix::thread::CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    rustix::thread::sched_setaffinity(None, &set).map_err(|error| format!("cores {cores:?}: {error}"))
}

fn tell(notice: &Notice) {
    let mut line = serde_json::to_string(notice).unwrap_or_default();
    line.push('\n');
    // Without a coordinator there is nobody to tell, and the next read of the orders ends the worker.
    let _ = std::io::stdout().write_all(line.as_bytes());
}

struct Worker {
    io: Io,
    scenario: Box<dyn Scenario>,
    peers: usize,
    opened: usize,
    connecting: usize,
    ready: usize,
    is_ready: bool,
    told: Instant,
    /// While it waits for what is under way: what had arrived when last looked at, and since when nothing more did.
    pausing: Option<(u64, Instant)>,
    orders: Vec<u8>,
    ended: bool,
}

impl Worker {
    fn begin() -> Result<Self, String> {
        let mut line = String::new();
        let mut stdin = std::io::stdin().lock();
        stdin.read_line(&mut line).map_err(|error| error.to_string())?;
        let job: Job = serde_json::from_str(&line).map_err(|error| format!("no job: {error}"))?;
        if let Some(core) = job.core {
            pin(&[core])?;
        }
        let mut io = Io::new(Arc::new(job)).map_err(|error| error.to_string())?;
        let fd = stdin.as_raw_fd();
        rustix::io::ioctl_fionbio(&stdin, true).map_err(|error| error.to_string())?;
        io.poll
            .registry()
            .register(&mut SourceFd(&fd), STDIN, Interest::READABLE)
            .map_err(|error| error.to_string())?;
        let scenario = scenario::make(&io.job);
        let opened = io.datagrams.open(io.poll.registry(), &io.job, scenario.sockets());
        opened.map_err(|error| explain(&error, io.datagrams.len() + 1, &io.job))?;
        Ok(Self {
            peers: scenario.peers(),
            io,
            scenario,
            opened: 0,
            connecting: 0,
            ready: 0,
            is_ready: false,
            told: Instant::now(),
            pausing: None,
            orders: Vec::new(),
            ended: false,
        })
    }

    fn serve(mut self) -> Result<(), String> {
        let mut events = Events::with_capacity(4096);
        let mut input = vec![0; READ_BYTES];
        let mut timeout = Some(Duration::ZERO);
        while !self.ended {
            match self.io.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error.to_string()),
                _ => {}
            }
            self.io.now = Instant::now();
            for event in &events {
                if event.token() == STDIN {
                    self.take_orders()?;
                    continue;
                }
                if let Some(index) = self.io.datagrams.index(event.token()) {
                    self.on_datagrams(index, &mut input);
                    continue;
                }
                if event.is_writable()
                    && let Some(slot) = self.io.slot(event.token())
                {
                    self.on_writable(slot)?;
                }
                if (event.is_readable() || event.is_read_closed() || event.is_error())
                    && let Some(slot) = self.io.slot(event.token())
                {
                    self.on_readable(slot, event.is_read_closed(), &mut input)?;
                }
            }
            let wake = match self.is_ready {
                true => self.scenario.on_turn(&mut self.io),
                false => Some(PROGRESS),
            };
            self.connect()?;
            self.io.flush();
            for ended in std::mem::take(&mut self.io.ended) {
                self.on_ended(ended)?;
            }
            self.tell_news()?;
            timeout = match self.pausing {
                _ if !self.io.wanted.is_empty() && self.connecting < self.connecting_max() => Some(Duration::ZERO),
                Some(_) => Some(wake.unwrap_or(PROGRESS).min(PROGRESS)),
                None => wake,
            };
        }
        Ok(())
    }

    fn on_writable(&mut self, slot: usize) -> Result<(), String> {
        let first = self.io.links[slot].phase == Phase::Connecting;
        self.io.on_writable(slot);
        if first && self.io.links.contains(slot) {
            setup::begin(&mut self.io, &*self.scenario, slot);
        }
        Ok(())
    }

    /// What came with the end of a connection is not announced a second time: there is more to read, at least that end.
    fn on_readable(&mut self, slot: usize, ends: bool, input: &mut [u8]) -> Result<(), String> {
        let generation = self.io.generation(slot);
        loop {
            let bytes = match self.io.read(slot, input) {
                Input::Bytes(bytes) => bytes,
                Input::Nothing => return Ok(()),
                Input::End(why) => {
                    self.io.end(slot, why);
                    return Ok(());
                }
            };
            self.take_input(slot, &input[..bytes])?;
            if (bytes < input.len() && !ends) || self.io.generation(slot) != generation {
                return Ok(());
            }
        }
    }

    /// Reads a socket until nothing more is there, or until nothing more should come: what comes all the same is read with
    /// what comes next, or when the measurement pauses. That spares a read where one answer is under way.
    fn on_datagrams(&mut self, index: usize, input: &mut [u8]) {
        loop {
            match self.io.datagrams.receive(index, input) {
                Ok(Some(bytes)) => {
                    self.io.counts.bytes_in += bytes as u64;
                    self.scenario.on_datagram(&mut self.io, index, &input[..bytes]);
                }
                Ok(None) => return,
                Err(error) => return self.io.fail(format!("socket {index}: {error}")),
            }
            if !self.scenario.awaits_datagrams(&self.io, index) {
                return;
            }
        }
    }

    fn take_input(&mut self, slot: usize, bytes: &[u8]) -> Result<(), String> {
        let mut kept = std::mem::take(&mut self.io.links[slot].inbox);
        let whole = if kept.is_empty() {
            bytes
        } else {
            kept.extend_from_slice(bytes);
            &kept[..]
        };
        let generation = self.io.generation(slot);
        let mut used = 0;
        if self.io.links[slot].phase != Phase::Ready {
            used = match setup::on_input(&mut self.io, &*self.scenario, slot, whole) {
                Ok(used) => used,
                Err(fault) => return self.on_fault(slot, &fault),
            };
            if self.io.links[slot].phase == Phase::Ready {
                self.connecting -= 1;
                self.ready += 1;
                self.io.counts.connected += 1;
                self.scenario.on_ready(&mut self.io, slot);
            }
        }
        let alive = |io: &Io| io.generation(slot) == generation;
        if alive(&self.io) && self.io.links[slot].phase == Phase::Ready && used < whole.len() {
            used += self.scenario.on_input(&mut self.io, slot, &whole[used..]);
        }
        if alive(&self.io) && used < whole.len() {
            let rest = whole[used..].to_vec();
            self.io.links[slot].inbox = rest;
        }
        Ok(())
    }

    /// A connection of the set-up failed: there is nothing to measure. A later one is the scenario's.
    fn on_fault(&mut self, slot: usize, fault: &Fault) -> Result<(), String> {
        let peer = self.io.links[slot].peer;
        if !self.is_ready {
            return Err(format!("peer {peer}: {}", fault.why));
        }
        self.connecting -= 1;
        self.io.reset(slot);
        self.scenario.on_fault(&mut self.io, peer, fault);
        Ok(())
    }

    /// Opens connections until all were, a few at a time; later those that the scenario wants.
    fn connect(&mut self) -> Result<(), String> {
        let most = self.connecting_max();
        while self.connecting < most && self.opened < self.peers {
            self.io
                .open(self.opened)
                .map_err(|error| explain(&error, self.io.links.len() + 1, &self.io.job))?;
            self.opened += 1;
            self.connecting += 1;
        }
        while self.is_ready && self.connecting < most {
            let Some(peer) = self.io.wanted.pop_front() else { break };
            self.io
                .open(peer)
                .map_err(|error| explain(&error, self.io.links.len() + 1, &self.io.job))?;
            self.connecting += 1;
        }
        Ok(())
    }

    fn connecting_max(&self) -> usize {
        match self.is_ready {
            true => self.io.job.workload.window.max(CONNECTING_MAX),
            false => CONNECTING_MAX,
        }
    }

    fn on_ended(&mut self, ended: Ended) -> Result<(), String> {
        let Ended { slot, peer, phase, why } = ended;
        if !self.is_ready {
            return Err(format!("peer {peer} lost its connection during the set-up: {why}"));
        }
        if phase != Phase::Ready {
            self.connecting -= 1;
            let fault = Fault {
                // A full server may close before its answer is read.
                refused: why.contains(": 1013 "),
                why,
            };
            self.scenario.on_fault(&mut self.io, peer, &fault);
            return Ok(());
        }
        self.scenario.on_ended(&mut self.io, slot, peer, &why);
        Ok(())
    }

    fn tell_news(&mut self) -> Result<(), String> {
        if !self.is_ready {
            if self.ready == self.peers && self.scenario.settle(&mut self.io) {
                self.scenario.prepare(&mut self.io)?;
                self.is_ready = true;
                tell(&Notice::Ready);
            } else if self.io.now.duration_since(self.told) > PROGRESS {
                self.told = self.io.now;
                tell(&Notice::Progress(self.ready, self.peers));
            }
        }
        if let Some((arrived, since)) = self.pausing {
            let silent = self.io.now.duration_since(since) > SILENCE;
            if self.scenario.is_quiet() || silent {
                self.read_leftovers();
                if !self.scenario.is_quiet() {
                    let missing = self.scenario.describe_missing();
                    self.io.fail(missing);
                }
                self.pausing = None;
                tell(&Notice::Paused);
            } else if self.io.counts.arrived != arrived {
                self.pausing = Some((self.io.counts.arrived, self.io.now));
            }
        }
        Ok(())
    }

    /// Datagrams that nobody awaits any more: the scenario says whether they may be.
    fn read_leftovers(&mut self) {
        let mut input = vec![0; 2048];
        for index in 0..self.io.datagrams.len() {
            while let Ok(Some(bytes)) = self.io.datagrams.receive(index, &mut input) {
                self.scenario.on_datagram(&mut self.io, index, &input[..bytes]);
            }
        }
    }

    fn take_orders(&mut self) -> Result<(), String> {
        let mut chunk = [0; 4096];
        loop {
            match std::io::stdin().lock().read(&mut chunk) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(bytes) => self.orders.extend_from_slice(&chunk[..bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        while let Some(end) = self.orders.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.orders.drain(..=end).collect();
            let order = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
            self.obey(order);
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Start => self.scenario.start(&mut self.io),
            Order::Mark => {
                self.io.counts.at_ns = self.io.now_ns();
                self.io.counts.busy_ns = busy_ns();
                tell(&Notice::Marked(self.io.counts));
            }
            Order::Forget => self.io.latency.reset(),
            Order::NodeLost => self.scenario.on_node_lost(&mut self.io),
            Order::Pause => {
                self.scenario.pause(&mut self.io);
                self.pausing = Some((self.io.counts.arrived, self.io.now));
            }
            Order::Report => {
                let values = self.io.latency.iter_recorded();
                tell(&Notice::Reported(Box::new(Report {
                    latency: values.map(|v| (v.value_iterated_to(), v.count_at_value())).collect(),
                    failures: std::mem::take(&mut self.io.failures),
                    failed: std::mem::take(&mut self.io.failed),
                    met: std::mem::take(&mut self.io.met),
                })));
            }
            Order::End => self.ended = true,
        }
    }
}

/// Why the `number`th socket cannot be had.
fn explain(error: &std::io::Error, number: usize, job: &Job) -> String {
    let hint = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::MFILE) => ": the limit of open files is reached; raise it with `ulimit -n`",
        Some(rustix::io::Errno::ADDRNOTAVAIL | rustix::io::Errno::ADDRINUSE) => {
            ": no source port is left; widen net.ipv4.ip_local_port_range, or take more --workers"
        }
        _ => "",
    };
    format!("connection {number} from {}: {error}{hint}", job.source)
}

/// Nanoseconds that this thread was running.
fn busy_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_ascii_whitespace()
        .next()
        .and_then(|field| field.parse().ok())
        .unwrap_or(0)
}
