//! A worker's connections: sockets, TLS, buffers.
//!
//! Owns: every socket of the worker, what it counts, and what went wrong.
//! Never: knows a message.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Interest, Poll, Token};
use rustls::ClientConnection;
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use super::datagrams::Datagrams;
use super::frames;
use super::ports::Ports;
use super::protocol::{Counts, Job, histogram};
use super::setup::Phase;

/// One connection.
pub struct Link {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    generation: u32,
    /// Which peer it is, counted over all workers.
    pub peer: usize,
    /// How far it has come.
    pub phase: Phase,
    /// Input that is not yet a whole message.
    pub inbox: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    blocked: bool,
    dirty: bool,
    stalled: bool,
    /// Whether permessage-deflate was agreed on.
    pub deflate: bool,
}

/// What became of a read.
pub enum Input {
    /// So many bytes were read.
    Bytes(usize),
    /// None are there.
    Nothing,
    /// There will be none any more.
    End(String),
}

/// A connection that has ended without being asked to.
pub struct Ended {
    /// Where it was.
    pub slot: usize,
    /// Whose it was.
    pub peer: usize,
    /// How far it had come.
    pub phase: Phase,
    /// How it ended.
    pub why: String,
}

/// All connections of a worker.
pub struct Io {
    /// What it was asked to do.
    pub job: Arc<Job>,
    /// Where its sockets are registered.
    pub poll: Poll,
    /// Its connections.
    pub links: Slab<Link>,
    /// Its UDP sockets.
    pub datagrams: Datagrams,
    /// When the turn began.
    pub now: Instant,
    /// When the worker began.
    pub began: Instant,
    /// What was counted.
    pub counts: Counts,
    /// Latencies since the first mark.
    pub latency: Histogram<u64>,
    /// What went wrong: the first few.
    pub failures: Vec<String>,
    /// How much went wrong.
    pub failed: u64,
    /// Waiting match requests that were met in the end, and in how many seconds.
    pub met: (u64, f64),
    tls: Option<Arc<rustls::ClientConfig>>,
    dirty: Vec<usize>,
    /// Connections that the scenario has to be told of.
    pub ended: Vec<Ended>,
    /// Peers that the scenario wants to connect, once all are ready that there were at the beginning.
    pub wanted: VecDeque<usize>,
    generations: u32,
    ports: Ports,
}

/// Bytes read from a connection at once.
pub const READ_BYTES: usize = 256 * 1024;
/// Failures kept with their texts.
const FAILURES_KEPT: usize = 20;

impl Io {
    /// No connection yet.
    ///
    /// # Errors
    /// No poll can be had.
    pub fn new(job: Arc<Job>) -> io::Result<Self> {
        let tls = job.workload.tls.then(super::tls::config);
        let now = Instant::now();
        Ok(Self {
            job,
            poll: Poll::new()?,
            links: Slab::new(),
            datagrams: Datagrams::default(),
            now,
            began: now,
            counts: Counts::default(),
            latency: histogram(),
            failures: Vec::new(),
            failed: 0,
            met: (0, 0.0),
            tls,
            dirty: Vec::new(),
            ended: Vec::new(),
            wanted: VecDeque::new(),
            generations: 0,
            ports: Ports::of_this_host(),
        })
    }

    /// Notes that something is wrong with what the server did.
    pub fn fail(&mut self, what: impl Into<String>) {
        self.failed += 1;
        if self.failures.len() < FAILURES_KEPT {
            self.failures.push(what.into());
        }
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// No descriptor or port is left.
    pub fn open(&mut self, peer: usize) -> io::Result<usize> {
        let address = self.job.node_of(peer);
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        socket.set_tcp_nodelay(true)?;
        if self.job.source.is_ipv4() == address.is_ipv4() {
            self.ports.bind(&socket, self.job.source)?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        let stream = TcpStream::from_std(socket.into());
        let tls = match &self.tls {
            Some(config) => Some(Box::new(
                ClientConnection::new(config.clone(), super::tls::name()).map_err(io::Error::other)?,
            )),
            None => None,
        };
        self.generations = self.generations.wrapping_add(1) & 0x7fff_ffff;
        let link = Link {
            stream,
            tls,
            generation: self.generations,
            peer,
            phase: Phase::Connecting,
            inbox: Vec::new(),
            out: Vec::new(),
            written: 0,
            blocked: true,
            dirty: false,
            stalled: false,
            deflate: false,
        };
        let token = |slot: usize| Token((self.generations as usize) << 32 | slot);
        let slot = self.links.insert(link);
        self.poll.registry().register(
            &mut self.links[slot].stream,
            token(slot),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        Ok(slot)
    }

    /// Tells a connection from others that have the same slot before or after it.
    pub fn generation(&self, slot: usize) -> Option<u32> {
        self.links.get(slot).map(|link| link.generation)
    }

    /// The connection of a token.
    pub fn slot(&self, token: Token) -> Option<usize> {
        let slot = token.0 & u32::MAX as usize;
        let link = self.links.get(slot)?;
        (link.generation as usize == token.0 >> 32).then_some(slot)
    }

    /// A connection can be written to.
    pub fn on_writable(&mut self, slot: usize) {
        let link = &mut self.links[slot];
        if link.blocked {
            link.blocked = false;
            let token = Token((link.generation as usize) << 32 | slot);
            let interest = link.interest();
            let registered = self.poll.registry().reregister(&mut link.stream, token, interest);
            if let Err(error) = registered {
                return self.end(slot, error.to_string());
            }
            self.mark_dirty(slot);
        }
    }

    /// Appends to what a connection sends; written when the turn ends.
    pub fn append(&mut self, slot: usize, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.links[slot].out);
        self.mark_dirty(slot);
    }

    /// Sends one text message.
    pub fn send_text(&mut self, slot: usize, text: &str) {
        self.append(slot, |out| {
            frames::push(out, 1, false, text.as_bytes());
        });
    }

    fn mark_dirty(&mut self, slot: usize) {
        let link = &mut self.links[slot];
        if !link.dirty {
            link.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Sends a datagram at once.
    pub fn send_datagram(&mut self, index: usize, datagram: &[u8]) {
        match self.datagrams.send(index, datagram) {
            Ok(bytes) => self.counts.bytes_out += bytes as u64,
            Err(error) => self.fail(format!("socket {index}: {error}")),
        }
    }

    /// One read. With TLS the plaintext is gathered over several.
    pub fn read(&mut self, slot: usize, input: &mut [u8]) -> Input {
        let link = &mut self.links[slot];
        let read = match &mut link.tls {
            None => link.stream.read(input),
            Some(tls) => read_tls(tls, &mut link.stream, input),
        };
        if link.tls.as_ref().is_some_and(|tls| tls.wants_write()) {
            self.mark_dirty(slot);
        }
        match read {
            Ok(0) => Input::End("the server closed the connection".to_owned()),
            Ok(bytes) => {
                self.counts.bytes_in += bytes as u64;
                Input::Bytes(bytes)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Input::Nothing,
            Err(error) => Input::End(error.to_string()),
        }
    }

    /// Stops reading a connection, or reads it again.
    pub fn stall(&mut self, slot: usize, stalled: bool) {
        let link = &mut self.links[slot];
        link.stalled = stalled;
        let token = Token((link.generation as usize) << 32 | slot);
        let interest = link.interest();
        if let Err(error) = self.poll.registry().reregister(&mut link.stream, token, interest) {
            self.end(slot, error.to_string());
        }
    }

    /// Gives a connection a receive buffer of its own size in the kernel.
    pub fn narrow(&mut self, slot: usize, bytes: usize) {
        let narrowed = rustix::net::sockopt::set_socket_recv_buffer_size(&self.links[slot].stream, bytes);
        if let Err(error) = narrowed {
            self.end(slot, error.to_string());
        }
    }

    /// Writes what was appended.
    pub fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            let Some(link) = self.links.get_mut(slot) else { continue };
            link.dirty = false;
            if link.blocked {
                continue;
            }
            let outcome = match &mut link.tls {
                None => write_plain(link),
                Some(_) => write_tls(link),
            };
            match outcome {
                Ok(written) => self.counts.bytes_out += written as u64,
                Err(error) => {
                    self.end(slot, error.to_string());
                    continue;
                }
            }
            let link = &mut self.links[slot];
            if link.blocked {
                let token = Token((link.generation as usize) << 32 | slot);
                let interest = link.interest();
                if let Err(error) = self.poll.registry().reregister(&mut link.stream, token, interest) {
                    self.end(slot, error.to_string());
                }
            }
        }
        self.dirty = dirty;
    }

    /// Closes a connection without a word to the scenario.
    pub fn close(&mut self, slot: usize) {
        if let Some(mut link) = self.links.try_remove(slot) {
            // A closed descriptor leaves the poll by itself.
            let _ = self.poll.registry().deregister(&mut link.stream);
            self.counts.closed += 1;
        }
    }

    /// Closes a connection as a vanished client does, by a reset: neither side keeps the port for a minute.
    pub fn reset(&mut self, slot: usize) {
        self.linger_not(slot);
        self.close(slot);
    }

    /// Whenever it closes, this connection will end by a reset.
    pub fn linger_not(&mut self, slot: usize) {
        if let Some(link) = self.links.get(slot) {
            // Without it the close is an ordinary one.
            let _ = rustix::net::sockopt::set_socket_linger(&link.stream, Some(Duration::ZERO));
        }
    }

    /// Closes a connection that the server or the network ended; the scenario is told.
    pub fn end(&mut self, slot: usize, why: String) {
        if let Some(link) = self.links.get(slot) {
            let (peer, phase) = (link.peer, link.phase);
            self.close(slot);
            self.ended.push(Ended { slot, peer, phase, why });
        }
    }

    /// Nanoseconds from the worker's beginning until the turn began.
    pub fn now_ns(&self) -> u64 {
        self.now.duration_since(self.began).as_nanos() as u64
    }
}

impl Link {
    /// Nobody may have no interest; who is ready to write is told so once.
    fn interest(&self) -> Interest {
        match (self.stalled, self.blocked) {
            (true, _) => Interest::WRITABLE,
            (false, true) => Interest::READABLE | Interest::WRITABLE,
            (false, false) => Interest::READABLE,
        }
    }
}

fn write_plain(link: &mut Link) -> io::Result<usize> {
    let mut total = 0;
    while link.written < link.out.len() {
        match link.stream.write(&link.out[link.written..]) {
            Ok(written) => {
                link.written += written;
                total += written;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                link.blocked = true;
                break;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    settle(link);
    Ok(total)
}

/// An emptied buffer of a connection that is mostly idle is given back.
fn settle(link: &mut Link) {
    if link.written == link.out.len() {
        link.out.clear();
        link.written = 0;
        if link.out.capacity() > 4 * READ_BYTES {
            link.out = Vec::new();
        }
    }
}

fn write_tls(link: &mut Link) -> io::Result<usize> {
    let Some(tls) = &mut link.tls else { return Ok(0) };
    let mut total = 0;
    loop {
        if link.written < link.out.len() && !tls.is_handshaking() {
            link.written += tls.writer().write(&link.out[link.written..])?;
        }
        if !tls.wants_write() {
            break;
        }
        match tls.write_tls(&mut link.stream) {
            Ok(written) => total += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                link.blocked = true;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    settle(link);
    Ok(total)
}

fn read_tls(tls: &mut ClientConnection, stream: &mut TcpStream, input: &mut [u8]) -> io::Result<usize> {
    let mut total = 0;
    loop {
        match tls.reader().read(&mut input[total..]) {
            Ok(0) => return Ok(total),
            Ok(read) => {
                total += read;
                if total == input.len() {
                    return Ok(total);
                }
                continue;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return if total > 0 { Ok(total) } else { Err(error) },
        }
        match tls.read_tls(stream) {
            Ok(0) => return Ok(total),
            Ok(_) => {
                tls.process_new_packets().map_err(io::Error::other)?;
            }
            Err(_) if total > 0 => return Ok(total),
            Err(error) => return Err(error),
        }
    }
}
