//! Hosts of dialect 002: `HS` until `HR`, then `KA`, and `CS`, which ends the session. With `join` another socket joins each
//! session before it ends, in place of the `KA`: `JS`, `JR` to the joiner, `NJ` to the host.
//!
//! Owns: the proof that `HR` names the address that it went to and a session of this server that no other host has; that
//! both of a pair are told of each other, once; and that `CS` was heeded: after it the same address gets another session.
//! Never: shares code with the server, whose mistakes it is to find.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::keys::{Key, key};
use super::repeats::Repeats;
use super::{Clients, Step};
use crate::worker::io::Io;
use crate::worker::protocol::Job;

/// A worker's hosts.
pub struct Hosts {
    join: bool,
    server: Key,
    hosts: Vec<Host>,
    /// Sessions that have not ended.
    open: HashSet<Vec<u8>>,
    datagram: Vec<u8>,
}

#[derive(Clone, Default)]
struct Host {
    phase: Phase,
    /// Its latest session.
    session: Vec<u8>,
    repeats: Repeats,
    /// News of a meeting that may come a second time, as they were asked for again.
    spare_told: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Gone,
    Registering,
    /// Who has not been told of the other yet.
    Meeting {
        host: bool,
        joiner: bool,
    },
}

impl Hosts {
    /// So many hosts.
    pub fn new(job: &Job, hosts: usize) -> Self {
        Self {
            join: job.workload.join,
            server: key(job.address),
            hosts: vec![Host::default(); hosts],
            open: HashSet::new(),
            datagram: Vec::new(),
        }
    }

    fn on_registered(
        &mut self,
        io: &mut Io,
        client: usize,
        socket: usize,
        fields: &[u8],
    ) -> Result<Step, &'static str> {
        let (remote, session) = split(fields).ok_or("it has another form")?;
        if remote != key(io.datagrams.address(socket)) {
            return Err("it is not the address that it was sent from");
        }
        if session.len() < 16 || !session.starts_with(&self.server) || !session.iter().all(u8::is_ascii_lowercase) {
            return Err("it is no session of this server");
        }
        let host = &mut self.hosts[client];
        if session == host.session {
            host.repeats.on_old()?;
            return Ok(Step::Waiting);
        }
        if host.phase != Phase::Registering {
            return Err("it was not asked for");
        }
        host.repeats.on_new()?;
        if !self.open.insert(session.to_vec()) {
            return Err("another host has this session");
        }
        host.session.clear();
        host.session.extend_from_slice(session);
        if self.join {
            host.phase = Phase::Meeting {
                host: true,
                joiner: true,
            };
            self.say(io, socket + 1, b"JS:", &[&local(client, 1), session]);
            return Ok(Step::Waiting);
        }
        self.say(io, socket, b"KA:", &[session]);
        self.end(io, client, socket);
        Ok(Step::Done)
    }

    fn on_told(&mut self, io: &mut Io, client: usize, is_host: bool) -> Result<Step, &'static str> {
        let host = &mut self.hosts[client];
        let is_first = match &mut host.phase {
            Phase::Meeting { host, .. } if is_host => std::mem::take(host),
            Phase::Meeting { joiner, .. } => std::mem::take(joiner),
            Phase::Gone | Phase::Registering => false,
        };
        if !is_first {
            host.spare_told = host.spare_told.checked_sub(1).ok_or("it was told before")?;
        }
        let is_over = Phase::Meeting {
            host: false,
            joiner: false,
        };
        if host.phase != is_over {
            return Ok(Step::Waiting);
        }
        self.end(io, client, 2 * client);
        Ok(Step::Done)
    }

    fn end(&mut self, io: &mut Io, client: usize, socket: usize) {
        let host = &mut self.hosts[client];
        host.phase = Phase::Gone;
        self.open.remove(&host.session);
        let session = std::mem::take(&mut host.session);
        self.say(io, socket, b"CS:", &[&session]);
        self.hosts[client].session = session;
    }

    fn say(&mut self, io: &mut Io, socket: usize, verb: &[u8; 3], fields: &[&[u8]]) {
        self.datagram.clear();
        self.datagram.extend_from_slice(verb);
        for (index, field) in fields.iter().enumerate() {
            if index > 0 {
                self.datagram.push(b':');
            }
            self.datagram.extend_from_slice(field);
        }
        io.send_datagram(socket, &self.datagram);
    }
}

impl Clients for Hosts {
    fn sockets_each(&self) -> usize {
        1 + usize::from(self.join)
    }

    fn begin(&mut self, io: &mut Io, client: usize) {
        self.hosts[client].phase = Phase::Registering;
        let socket = client * self.sockets_each();
        self.say(io, socket, b"HS:", &[&local(client, 0)]);
    }

    fn ask_again(&mut self, io: &mut Io, client: usize) {
        let socket = client * self.sockets_each();
        match self.hosts[client].phase {
            Phase::Gone => {}
            Phase::Registering => {
                if self.hosts[client].repeats.on_silence() {
                    let session = self.hosts[client].session.clone();
                    self.say(io, socket, b"CS:", &[&session]);
                }
                self.say(io, socket, b"HS:", &[&local(client, 0)]);
            }
            Phase::Meeting { .. } => {
                // The JS brings both news again, and the KA the host's.
                self.hosts[client].spare_told += 3;
                let session = self.hosts[client].session.clone();
                self.say(io, socket + 1, b"JS:", &[&local(client, 1), &session]);
                self.say(io, socket, b"KA:", &[&session]);
            }
        }
    }

    fn on_datagram(&mut self, io: &mut Io, client: usize, socket: usize, bytes: &[u8]) -> Result<Step, &'static str> {
        let Some((verb, fields)) = bytes.split_first_chunk::<3>() else {
            return Err("it is too short");
        };
        let is_host = !self.join || socket.is_multiple_of(2);
        if verb == b"HR:" && is_host {
            return self.on_registered(io, client, socket, fields);
        }
        if !self.join {
            return Err("it was not asked for");
        }
        let (host, joiner) = (
            key(io.datagrams.address(2 * client)),
            key(io.datagrams.address(2 * client + 1)),
        );
        // A server may keep a local key for itself, and then says the other once more.
        let is_local = |said: &[u8], role: u8, remote: Key| said == local(client, role) || said == remote;
        let is_right = match (verb, is_host) {
            (b"JR:", false) => split(fields).is_some_and(|(first, rest)| {
                first == joiner && split(rest).is_some_and(|(second, last)| second == host && is_local(last, 0, host))
            }),
            (b"NJ:", true) => split(fields).is_some_and(|(first, last)| first == joiner && is_local(last, 1, joiner)),
            _ => return Err("it was not asked for"),
        };
        match is_right {
            true => self.on_told(io, client, is_host),
            false => Err("it does not name those who meet"),
        }
    }
}

/// The first key, and what follows its colon.
fn split(fields: &[u8]) -> Option<(Key, &[u8])> {
    let (first, rest) = fields.split_first_chunk::<12>()?;
    Some((*first, rest.strip_prefix(b":")?))
}

/// The address that a client says to have at home: a private one, which is no other client's.
fn local(client: usize, role: u8) -> Key {
    let [.., high, low] = client.to_be_bytes();
    let port = 30_000 + (client % 10_000) as u16;
    key(SocketAddr::from(([10, role, high, low], port)))
}
