//! The socket and the clock of a try.
//!
//! Owns: waiting for a datagram with a deadline, and sending one with few hops to live.
//! Never: knows a protocol.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token};
use peer_server_client::Transmit;
use socket2::SockRef;

use super::arguments::Arguments;

/// Bytes of a datagram that are read; none of the protocols has longer ones.
const DATAGRAM_MAX: usize = 2048;

/// Which socket an event is about.
const DATAGRAMS: Token = Token(0);
const STREAM: Token = Token(1);

/// One UDP socket, and a TCP connection where a protocol has one.
pub(super) struct Shell {
    started: Instant,
    poll: Poll,
    events: Events,
    socket: UdpSocket,
    stream: Option<TcpStream>,
    ordinary_ttl: u32,
    buffer: Box<[u8; DATAGRAM_MAX]>,
    /// Why the latest datagram to the server did not leave.
    fault: Option<io::Error>,
    server: SocketAddr,
}

impl Shell {
    /// A socket for talking with a server, on the port that the command line names.
    pub(super) fn open(server: SocketAddr, local_port: u16) -> Result<Self, String> {
        let any = match server {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let local = SocketAddr::new(any, local_port);
        Self::bind(server, local).map_err(|error| format!("no socket on {local}: {error}"))
    }

    fn bind(server: SocketAddr, local: SocketAddr) -> io::Result<Self> {
        let mut socket = UdpSocket::bind(local)?;
        let poll = Poll::new()?;
        poll.registry().register(&mut socket, DATAGRAMS, Interest::READABLE)?;
        let raw = SockRef::from(&socket);
        let ordinary_ttl = match server {
            SocketAddr::V4(_) => raw.ttl_v4()?,
            SocketAddr::V6(_) => raw.unicast_hops_v6()?,
        };
        Ok(Self {
            started: Instant::now(),
            poll,
            events: Events::with_capacity(8),
            socket,
            stream: None,
            ordinary_ttl,
            buffer: Box::new([0; DATAGRAM_MAX]),
            fault: None,
            server,
        })
    }

    /// Connects to the server over TCP, too.
    pub(super) fn connect(&mut self, within: Duration) -> Result<(), String> {
        let connected = std::net::TcpStream::connect_timeout(&self.server, within).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            self.poll.registry().register(&mut stream, STREAM, Interest::READABLE)?;
            Ok(stream)
        });
        let server = self.server;
        let stream = connected.map_err(|error| format!("no TCP connection to the server {server}: {error}"))?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Milliseconds since the start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The address by which others in the player's own network reach this socket.
    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        let port = self.socket.local_addr()?.port();
        // Connecting a UDP socket sends nothing; it makes the system choose the address that faces the server.
        let probe = std::net::UdpSocket::bind(SocketAddr::new(self.socket.local_addr()?.ip(), 0))?;
        probe.connect(self.server)?;
        Ok(SocketAddr::new(probe.local_addr()?.ip(), port))
    }

    /// Sends a datagram. What cannot be sent is lost, like what gets lost on the way.
    pub(super) fn send(&mut self, transmit: &Transmit) {
        let result = match transmit.ttl {
            None => self.socket.send_to(&transmit.payload, transmit.to),
            Some(ttl) => self.set_ttl(ttl.into()).and_then(|()| {
                let sent = self.socket.send_to(&transmit.payload, transmit.to);
                self.set_ttl(self.ordinary_ttl).and(sent)
            }),
        };
        if transmit.to == self.server {
            self.fault = result.err();
        }
    }

    /// Writes to the TCP connection. The few bytes of a request fit into its empty buffer.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let written = self.stream.as_mut().map_or(Ok(()), |stream| stream.write_all(bytes));
        written.map_err(|error| format!("the TCP connection to the server broke: {error}"))
    }

    /// What has arrived over TCP, nothing at its end; None while there is nothing more to say.
    pub(super) fn read(&mut self) -> Option<&[u8]> {
        let len = match self.stream.as_mut()?.read(&mut self.buffer[..]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Ok(0) | Err(_) => {
                self.stream = None;
                0
            }
            Ok(len) => len,
        };
        Some(&self.buffer[..len])
    }

    /// Waits for a datagram until a time; None if that came first, or something over TCP.
    ///
    /// # Errors
    /// If the system cannot wait. A socket's passing error is no reason to end.
    pub(super) fn receive(&mut self, until: u64) -> Result<Option<(SocketAddr, &[u8])>, String> {
        loop {
            match self.socket.recv_from(&mut self.buffer[..]) {
                Ok((len, from)) => return Ok(Some((unmapped(from), &self.buffer[..len]))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // What an earlier datagram met, told late.
                Err(_) => continue,
            }
            let left = until.saturating_sub(self.now());
            if left == 0 {
                return Ok(None);
            }
            match self.poll.poll(&mut self.events, Some(Duration::from_millis(left))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.to_string()),
                _ if self.events.iter().any(|event| event.token() == STREAM) => return Ok(None),
                _ => {}
            }
        }
    }

    /// The sentence for a server that does not answer.
    pub(super) fn no_answer(&self, within: Duration) -> String {
        let fault = self.fault.as_ref().map_or(String::new(), |fault| format!(" ({fault})"));
        let (server, seconds) = (self.server, within.as_secs());
        format!(
            "the server {server} did not answer within {seconds} s{fault}: is the address right, does it speak this \
             protocol, and do UDP packets reach it?"
        )
    }

    fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let raw = SockRef::from(&self.socket);
        match self.server {
            SocketAddr::V4(_) => raw.set_ttl_v4(ttl),
            SocketAddr::V6(_) => raw.set_unicast_hops_v6(ttl),
        }
    }
}

/// The sentence for a player with whom no datagram was exchanged both ways; `from`: where its packets came from, if any did.
pub(super) fn no_proof(from: Option<SocketAddr>, within: Duration) -> String {
    let within = within.as_secs();
    match from {
        None => format!(
            "no packet of the other player arrived within {within} s. One of the two routers gives each destination \
             another port (a symmetric NAT), or drops what it did not expect; or the other player has gone"
        ),
        Some(from) => format!("packets arrived from {from}, but none of ours was answered for {within} s"),
    }
}

/// The server's address from the command line, an IPv4 one if there is a choice.
pub(super) fn resolve(arguments: &Arguments) -> Result<SocketAddr, String> {
    let name = arguments.address.as_deref().unwrap_or_default();
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let found: Vec<SocketAddr> = (name, arguments.port)
        .to_socket_addrs()
        .map_err(|error| format!("{name} has no address: {error}"))?
        .collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| format!("{name} has no address"))
}

/// An IPv4 address that an IPv6 socket shows as one of its own, as IPv4.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_datagram_arrives_with_few_hops_to_live_and_without_such_a_limit() {
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = other.local_addr().unwrap();
        let mut shell = Shell::open(server, 0).unwrap();
        for ttl in [Some(2), None] {
            let payload = b"words".to_vec();
            shell.send(&Transmit {
                to: server,
                payload,
                ttl,
            });
            let mut buffer = [0; 16];
            let (len, from) = other.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], b"words");
            assert_eq!(from, shell.local_address().unwrap());
            assert_eq!(SockRef::from(&shell.socket).ttl_v4().unwrap(), shell.ordinary_ttl);
        }
        other.send_to(b"back", shell.local_address().unwrap()).unwrap();
        assert_eq!(shell.receive(u64::MAX).unwrap(), Some((server, &b"back"[..])));
        assert_eq!(shell.receive(shell.now() + 5).unwrap(), None);
    }
}
