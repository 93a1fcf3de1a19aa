//! A worker's UDP sockets, each connected to the server: a port of its own makes a client of its own.
//!
//! Owns: these sockets.
//! Never: knows what is in a datagram, or sends one twice.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::protocol::Job;

/// Set in the tokens of these sockets, and in no other of a worker but that of its orders, which is all ones.
const MARK: usize = 1 << 63;
/// Room in the kernel for what comes to one socket while the generator is elsewhere.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// UDP sockets, numbered from 0.
#[derive(Default)]
pub struct Datagrams {
    sockets: Vec<(UdpSocket, SocketAddr)>,
}

impl Datagrams {
    /// Opens so many sockets, before anything else is under way.
    ///
    /// # Errors
    /// No descriptor or port is left.
    pub fn open(&mut self, registry: &Registry, job: &Job, count: usize) -> io::Result<()> {
        for index in 0..count {
            let socket = Socket::new(
                Domain::for_address(job.address),
                Type::DGRAM.nonblocking(),
                Some(Protocol::UDP),
            )?;
            // Less will do where the system allows less.
            let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
            if job.source.is_ipv4() == job.address.is_ipv4() {
                socket.bind(&SocketAddr::new(job.source, 0).into())?;
            }
            socket.connect(&job.address.into())?;
            let mut socket = UdpSocket::from_std(socket.into());
            registry.register(&mut socket, Token(MARK | index), Interest::READABLE)?;
            let address = socket.local_addr()?;
            self.sockets.push((socket, address));
        }
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// The socket of a token, if it is one of these.
    pub fn index(&self, token: Token) -> Option<usize> {
        let index = token.0 & !MARK;
        (token.0 & MARK != 0 && index < self.sockets.len()).then_some(index)
    }

    /// What the server should see a socket's datagrams come from.
    pub fn address(&self, index: usize) -> SocketAddr {
        self.sockets[index].1
    }

    /// Sends a datagram at once. One that finds no room is lost, as it may be anywhere on its way.
    ///
    /// # Errors
    /// Nobody listens there, or the network is gone.
    pub fn send(&self, index: usize, datagram: &[u8]) -> io::Result<usize> {
        match self.sockets[index].0.send(datagram) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            outcome => outcome,
        }
    }

    /// The next datagram's length, if one is there.
    ///
    /// # Errors
    /// Nobody listens there, or the network is gone.
    pub fn receive(&self, index: usize, input: &mut [u8]) -> io::Result<Option<usize>> {
        match self.sockets[index].0.recv(input) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}
