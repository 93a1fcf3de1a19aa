//! Passages: how an open socket gets from one loop's descriptor table into another's (SCM_RIGHTS, unix(7)).
//!
//! Owns: a pair of UNIX sockets for each loop, made before any loop has a table of its own, so that they stand under the
//! same numbers in every table; and what has arrived and was not asked for yet. Each datagram is one socket with its
//! ticket. The sender's copy is closed by the sender, in the sender's table.
//! Never: blocks, or tells anybody that something arrived: mail does, which is posted after the socket was sent. So when
//! the mail is read, the datagram is there.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use mio::net::TcpStream;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::ids::LoopId;

/// The passages of all loops.
///
/// Whoever starts the loops keeps this until they have ended: then the pairs are closed in the table they were made in,
/// and under no loop's feet.
#[derive(Debug)]
pub struct Passages(Arc<[Pair]>);

/// One loop's passage: everybody puts into `entry`, that loop alone takes from `exit`.
#[derive(Debug)]
struct Pair {
    entry: OwnedFd,
    exit: OwnedFd,
}

/// One loop's end of all passages.
#[derive(Debug)]
pub struct Passage {
    id: LoopId,
    pairs: Arc<[Pair]>,
    sent: u64,
    /// By ticket; None: it found no room in this table.
    arrived: BTreeMap<Ticket, Option<TcpStream>>,
}

/// Names one socket under way: no two that are under way at a time have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Passages {
    /// Passages between so many loops.
    ///
    /// # Errors
    /// What socketpair(2) says.
    pub fn new(loops: usize) -> io::Result<Self> {
        let pair = |_| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (entry, exit) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            Ok(Pair { entry, exit })
        };
        Ok(Self((0..loops).map(pair).collect::<io::Result<_>>()?))
    }

    /// The end of one loop. Each is to be taken once.
    pub fn end_of(&self, id: LoopId) -> Passage {
        Passage {
            id,
            pairs: self.0.clone(),
            sent: 0,
            arrived: BTreeMap::new(),
        }
    }
}

impl Passage {
    /// Sends a copy of a socket. None: not at this time, because the passage is full, or because the user's processes
    /// have too many descriptors under way (ETOOMANYREFS: as many as the descriptor limit).
    pub(super) fn send(&mut self, to: LoopId, stream: &TcpStream) -> Option<Ticket> {
        let ticket = Ticket(u64::from(self.id.index() as u16) << TICKET_BITS | self.sent);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = [stream.as_fd()];
        let fits = control.push(SendAncillaryMessage::ScmRights(&sockets));
        debug_assert!(fits, "the space is that of one descriptor");
        let body = ticket.0.to_ne_bytes();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let entry = &self.pairs.get(to.index())?.entry;
        sendmsg(entry, &[IoSlice::new(&body)], &mut control, flags).ok()?;
        self.sent = (self.sent + 1) % (1 << TICKET_BITS);
        Some(ticket)
    }

    /// Takes the socket that was sent with this ticket. None: it is lost, because this table had no room for it.
    pub(super) fn receive(&mut self, ticket: Ticket) -> Option<TcpStream> {
        // Several loops send, so what comes first need not be what this mail is about.
        while !self.arrived.contains_key(&ticket) {
            let (ticket, stream) = self.next()?;
            self.arrived.insert(ticket, stream);
        }
        self.arrived.remove(&ticket).flatten()
    }

    /// The next datagram; None if there is none.
    fn next(&self) -> Option<(Ticket, Option<TcpStream>)> {
        let mut body = [0; 8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let exit = &self.pairs.get(self.id.index())?.exit;
        loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            match recvmsg(exit, &mut [IoSliceMut::new(&mut body)], &mut control, flags) {
                Ok(_) => {
                    // Without room in the table the kernel drops the socket, delivers the rest and sets MSG_CTRUNC.
                    let socket = control.drain().find_map(|message| match message {
                        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
                        _ => None,
                    });
                    // It is non-blocking: that belongs to the open file, not to its number.
                    let stream = socket.map(|socket| TcpStream::from_std(socket.into()));
                    return Some((Ticket(u64::from_ne_bytes(body)), stream));
                }
                Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "a socket was announced and is not there");
                    return None;
                }
            }
        }
    }
}

/// Bits of a ticket that count; the rest name the sender.
const TICKET_BITS: u32 = 48;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream as StdStream};

    fn id(index: u16) -> LoopId {
        LoopId::new(index)
    }

    /// A client and the server's end of its connection.
    fn connection() -> (StdStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        (client, TcpStream::from_std(server))
    }

    #[test]
    fn sockets_are_told_apart_by_their_tickets_whatever_their_order() {
        let passages = Passages::new(3).unwrap();
        let [mut first, mut second, mut third] = [0, 1, 2].map(|index| passages.end_of(id(index)));
        let mut sent = Vec::new();
        for number in 0..6_u8 {
            let (client, server) = connection();
            let sender = if number % 2 == 0 { &mut first } else { &mut second };
            let ticket = sender.send(id(2), &server).unwrap();
            sent.push((ticket, client, number));
        }
        // The sender's copies are closed by now; what was sent lives.
        sent.reverse();
        for (ticket, mut client, number) in sent {
            let mut server = third.receive(ticket).unwrap();
            server.write_all(&[number]).unwrap();
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [number]);
        }
        assert!(third.arrived.is_empty());
    }

    #[test]
    fn a_full_passage_refuses_and_loses_nothing() {
        let passages = Passages::new(2).unwrap();
        let [mut first, mut second] = [0, 1].map(|index| passages.end_of(id(index)));
        let (mut client, server) = connection();
        let mut tickets = Vec::new();
        while let Some(ticket) = first.send(id(1), &server) {
            tickets.push(ticket);
            assert!(tickets.len() < 100_000, "it is never full");
        }
        assert!(tickets.len() > 16, "{} find room", tickets.len());
        drop(second.receive(tickets[0]).unwrap());
        tickets.push(first.send(id(1), &server).expect("there is room again"));
        drop(server);
        for ticket in &tickets[1..] {
            assert!(second.receive(*ticket).is_some());
        }
        // All copies are closed, so the client sees the end.
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn what_is_still_under_way_ends_with_the_passages() {
        let passages = Passages::new(2).unwrap();
        let mut first = passages.end_of(id(0));
        let (mut client, server) = connection();
        first.send(id(1), &server).unwrap();
        drop((server, first, passages));
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}
