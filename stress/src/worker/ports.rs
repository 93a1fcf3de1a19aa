//! Source ports of a worker's connections.
//!
//! The kernel searches for a free port at each bind(2), and the more are taken the longer: at 16,000 connections it took
//! most of the time of connecting. A worker has an address of its own, so it can simply count.
//!
//! Owns: which port comes next.
//! Never: takes one that the system keeps for others.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use rustix::io::Errno;
use socket2::Socket;

/// The ports of one address, taken in turn.
#[derive(Debug)]
pub struct Ports {
    range: RangeInclusive<u16>,
    next: u16,
}

impl Ports {
    /// Those that the system gives to clients (ip(7), `ip_local_port_range`).
    pub fn of_this_host() -> Self {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let mut bounds = text.split_ascii_whitespace().map(str::parse);
        match (bounds.next(), bounds.next()) {
            (Some(Ok(first)), Some(Ok(last))) if first <= last => Self::new(first..=last),
            _ => Self::new(32_768..=60_999),
        }
    }

    fn new(range: RangeInclusive<u16>) -> Self {
        let next = *range.start();
        Self { range, next }
    }

    fn advance(&mut self) -> u16 {
        let port = self.next;
        self.next = if port >= *self.range.end() {
            *self.range.start()
        } else {
            port + 1
        };
        port
    }

    /// Binds to the next port that is free.
    ///
    /// # Errors
    /// None is, or the address is not this host's.
    pub fn bind(&mut self, socket: &Socket, source: IpAddr) -> io::Result<()> {
        // A port whose last connection waits in TIME_WAIT will do.
        socket.set_reuse_address(true)?;
        for _ in 0..self.range.len() {
            match socket.bind(&SocketAddr::new(source, self.advance()).into()) {
                Err(error) if error.raw_os_error() == Some(Errno::ADDRINUSE.raw_os_error()) => {}
                outcome => return outcome,
            }
        }
        Err(Errno::ADDRINUSE.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

    use socket2::{Domain, Type};

    use super::*;

    #[test]
    fn a_taken_port_is_passed_over_and_the_range_begins_again() {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // An address that no other test uses.
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 77, 1));
        let mut ports = Ports::new(40_000..=40_002);
        let mut held: Vec<Socket> = Vec::new();
        for _ in 0..3 {
            let socket = socket();
            ports.bind(&socket, source).unwrap();
            socket.listen(1).unwrap();
            held.push(socket);
        }
        assert!(ports.bind(&socket(), source).is_err());
        held.remove(1);
        let again = socket();
        ports.bind(&again, source).unwrap();
        let address = again.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(address.port(), 40_001);
    }
}
