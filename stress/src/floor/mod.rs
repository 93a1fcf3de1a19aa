//! `peer-stress floor`: the least that any server of this kind must do. What one member of a group sends goes, unread, to
//! all others of the group.
//!
//! It is honest: mio, one thread, a poll that blocks, a 64 KiB buffer, one read of each ready socket, one write of each
//! socket that has something to be written, at the end of the turn.
//!
//! Owns: its sockets.
//! Never: looks at what it passes on.

pub mod stun;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);
const BUFFER: usize = 64 * 1024;
/// Unsent bytes of one socket beyond which the peer is given up: nobody reads it.
const UNSENT_MAX: usize = 64 << 20;

struct Member {
    stream: TcpStream,
    group: Option<u64>,
    out: Vec<u8>,
    dirty: bool,
    writable_wanted: bool,
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    members: Slab<Member>,
    groups: HashMap<u64, Vec<usize>>,
    dirty: Vec<usize>,
    lose_every: u64,
    reads: u64,
}

/// Serves until it is killed; prints `listening on ADDRESS` first. To test those who measure it, it swallows each
/// `lose_every`th read; 0: none.
///
/// # Errors
/// The address cannot be had, or the poll fails.
pub fn run(address: SocketAddr, lose_every: u64) -> Result<(), String> {
    Floor::bind(address, lose_every)
        .and_then(Floor::serve)
        .map_err(|error| format!("floor on {address}: {error}"))
}

impl Floor {
    fn bind(address: SocketAddr, lose_every: u64) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let mut out = io::stdout();
        writeln!(out, "listening on {}", listener.local_addr()?)?;
        out.flush()?;
        Ok(Self {
            poll,
            listener,
            members: Slab::new(),
            groups: HashMap::new(),
            dirty: Vec::new(),
            lose_every,
            reads: 0,
        })
    }

    fn serve(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                    continue;
                }
                let slot = event.token().0;
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.read(slot, &mut buffer);
                }
                if event.is_writable() {
                    self.mark_dirty(slot);
                }
            }
            self.flush()?;
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => continue,
            };
            stream.set_nodelay(true)?;
            let entry = self.members.vacant_entry();
            self.poll
                .registry()
                .register(&mut stream, Token(entry.key()), Interest::READABLE)?;
            entry.insert(Member {
                stream,
                group: None,
                out: Vec::new(),
                dirty: false,
                writable_wanted: false,
            });
        }
    }

    /// One read; edge-triggered, so only a full buffer leaves something behind, and that is read on.
    fn read(&mut self, slot: usize, buffer: &mut [u8]) {
        loop {
            let Some(member) = self.members.get_mut(slot) else {
                return;
            };
            let bytes = match member.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => return self.remove(slot),
                Ok(bytes) => bytes,
            };
            match (member.group, buffer.first_chunk::<8>()) {
                (Some(group), _) => self.pass_on(slot, group, &buffer[..bytes]),
                (None, Some(hello)) if bytes == hello.len() => {
                    let group = u64::from_le_bytes(*hello);
                    member.group = Some(group);
                    member.out.push(1);
                    self.groups.entry(group).or_default().push(slot);
                    self.mark_dirty(slot);
                }
                (None, _) => return self.remove(slot),
            }
            if bytes < buffer.len() {
                return;
            }
        }
    }

    fn pass_on(&mut self, slot: usize, group: u64, bytes: &[u8]) {
        if self.lose_every > 0 {
            self.reads += 1;
            if self.reads.is_multiple_of(self.lose_every) {
                return;
            }
        }
        let members = self.groups.get(&group).into_iter().flatten();
        for other in members.filter(|other| **other != slot) {
            let member = &mut self.members[*other];
            member.out.extend_from_slice(bytes);
            if !member.dirty {
                member.dirty = true;
                self.dirty.push(*other);
            }
        }
    }

    fn mark_dirty(&mut self, slot: usize) {
        if let Some(member) = self.members.get_mut(slot)
            && !member.dirty
        {
            member.dirty = true;
            self.dirty.push(slot);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            let Some(member) = self.members.get_mut(slot) else {
                continue;
            };
            member.dirty = false;
            if member.out.is_empty() {
                continue;
            }
            match member.stream.write(&member.out) {
                Ok(written) if written == member.out.len() => member.out.clear(),
                Ok(written) => {
                    member.out.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.remove(slot);
                    continue;
                }
            }
            if member.out.len() > UNSENT_MAX {
                self.remove(slot);
                continue;
            }
            let wanted = !member.out.is_empty();
            if wanted != member.writable_wanted {
                member.writable_wanted = wanted;
                let interest = match wanted {
                    true => Interest::READABLE | Interest::WRITABLE,
                    false => Interest::READABLE,
                };
                self.poll
                    .registry()
                    .reregister(&mut member.stream, Token(slot), interest)?;
            }
        }
        self.dirty = dirty;
        Ok(())
    }

    fn remove(&mut self, slot: usize) {
        let Some(member) = self.members.try_remove(slot) else {
            return;
        };
        if let Some(group) = member.group
            && let Some(members) = self.groups.get_mut(&group)
        {
            members.retain(|other| *other != slot);
            if members.is_empty() {
                self.groups.remove(&group);
            }
        }
    }
}
