//! Listening sockets: making them, accepting from them, and the options of what they yield.
//!
//! Owns: no state; it makes sockets and sorts the errors of accept. Never: polls, counts connections or decides when
//! to accept again.

use mio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Fails with [`io::ErrorKind::AddrInUse`] if someone already listens on `addr`.
///
/// A second instance could join the first one's SO_REUSEPORT group and would take half of its connections. This binds
/// once without the option, which the kernel refuses while anyone listens there, and lets go again.
///
/// # Errors
/// Whatever socket(2) and bind(2) say.
pub fn probe(addr: SocketAddr) -> io::Result<()> {
    bound(addr, Group::Alone).map(drop)
}

/// Makes a listener of the SO_REUSEPORT group of this address, to which each loop adds one; the kernel spreads connections
/// over them. With port 0 the kernel chooses a free port, and a group of its own begins.
///
/// # Errors
/// Whatever socket(2), setsockopt(2), bind(2) and listen(2) say.
pub fn bind_shared(addr: SocketAddr) -> io::Result<TcpListener> {
    listening(bound(addr, Group::Shared)?)
}

/// Makes a listener that shares its address with no other.
///
/// # Errors
/// As for [`bind_shared`].
pub fn bind_alone(addr: SocketAddr) -> io::Result<TcpListener> {
    listening(bound(addr, Group::Alone)?)
}

/// What accept(2) came to.
#[derive(Debug)]
pub enum Accept {
    /// A connection and where it comes from; an IPv4 client of a dual-stack socket has its IPv4 address.
    Stream(TcpStream, SocketAddr),
    /// None waits: the readiness is spent.
    Empty,
    /// This one was lost before it was accepted; another may wait.
    Retry,
    /// Out of descriptors or memory, or an error that trying again at once would only repeat: pause accepting.
    Exhausted,
}

/// Accepts one connection; the stream is non-blocking.
pub fn accept(listener: &TcpListener) -> Accept {
    match listener.accept() {
        Ok((stream, from)) => Accept::Stream(stream, canonical(from)),
        Err(error) => refusal(&error),
    }
}

/// Sets the options of an accepted stream and returns how many of them the kernel refused; the stream works anyway.
///
/// - TCP_NODELAY: output is gathered by the loop, so Nagle's algorithm would only delay it.
/// - SO_SNDBUF to `send_bytes`: how much a burst may be ahead of its reader before it counts as buffered here, so
///   TCP_NOTSENT_LOWAT, which makes the kernel refuse bytes far below it, is left alone. 0 leaves it to the kernel.
/// - TCP_USER_TIMEOUT to `user_timeout`: how long sent data may stay unacknowledged; zero leaves it to the kernel.
pub fn tune(stream: &TcpStream, send_bytes: usize, user_timeout: Duration) -> u32 {
    let socket = SockRef::from(stream);
    let mut refused = 0;
    let mut note = |outcome: io::Result<()>| refused += u32::from(outcome.is_err());
    note(socket.set_tcp_nodelay(true));
    if send_bytes > 0 {
        note(socket.set_send_buffer_size(send_bytes));
    }
    if !user_timeout.is_zero() {
        note(socket.set_tcp_user_timeout(Some(user_timeout)));
    }
    refused
}

/// The address with an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) turned into the IPv4 address it stands for.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, addr.port())),
        IpAddr::V6(_) => addr,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Alone,
    Shared,
}

fn bound(addr: SocketAddr, group: Group) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for the previous run's connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    if group == Group::Shared {
        socket.set_reuse_port(true)?;
    }
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        // The system's default may be either; `::` means every address of both families.
        socket.set_only_v6(false)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn listening(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn refusal(error: &io::Error) -> Accept {
    match Errno::from_io_error(error) {
        Some(Errno::AGAIN) => Accept::Empty,
        // accept(2) on Linux also passes on network errors that are already pending on the new socket; EPERM is a
        // firewall's refusal. Each of them has used up one waiting connection.
        Some(
            Errno::CONNABORTED
            | Errno::CONNRESET
            | Errno::INTR
            | Errno::PERM
            | Errno::PROTO
            | Errno::TIMEDOUT
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NOPROTOOPT
            | Errno::NONET,
        ) => Accept::Retry,
        _ => Accept::Exhausted,
    }
}

/// How many connections may wait to be accepted; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream as StdStream};
    use std::time::Instant;

    const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    const DEADLINE: Duration = Duration::from_secs(5);

    /// One listener for each of so many loops.
    fn bind_group(addr: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
        let mut listeners = vec![bind_shared(addr)?];
        let addr = listeners[0].local_addr()?;
        for _ in 1..count {
            listeners.push(bind_shared(addr)?);
        }
        Ok(listeners)
    }

    fn accept_one(listeners: &[TcpListener]) -> (usize, TcpStream, SocketAddr) {
        let started = Instant::now();
        loop {
            for (index, listener) in listeners.iter().enumerate() {
                if let Accept::Stream(stream, from) = accept(listener) {
                    return (index, stream, from);
                }
            }
            assert!(started.elapsed() < DEADLINE, "nothing to accept");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_group_shares_one_port_and_every_connection_is_accepted_by_one_of_it() {
        let listeners = bind_group(LOOPBACK, 3).unwrap();
        let addr = listeners[0].local_addr().unwrap();
        assert_ne!(addr.port(), 0);
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == addr));
        let clients: Vec<_> = (0..64).map(|_| StdStream::connect(addr).unwrap()).collect();
        let mut counts = [0; 3];
        for _ in &clients {
            counts[accept_one(&listeners).0] += 1;
        }
        assert_eq!(counts.iter().sum::<usize>(), 64);
        assert!(
            counts.iter().filter(|count| **count > 0).count() > 1,
            "spread: {counts:?}"
        );
        assert!(matches!(accept(&listeners[0]), Accept::Empty));
    }

    #[test]
    fn a_second_instance_finds_the_address_in_use() {
        let listeners = bind_group(LOOPBACK, 2).unwrap();
        let addr = listeners[0].local_addr().unwrap();
        assert_eq!(probe(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(bind_alone(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert!(bind_group(addr, 1).is_ok(), "without the probe it would have joined");
        drop(listeners);
        probe(addr).unwrap();
        let again = bind_group(addr, 2).unwrap();
        assert_eq!(again[1].local_addr().unwrap(), addr);
    }

    #[test]
    fn a_lone_listener_is_found_by_probe_and_by_group() {
        let alone = bind_alone(LOOPBACK).unwrap();
        let addr = alone.local_addr().unwrap();
        assert_eq!(probe(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(bind_group(addr, 1).unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn a_restart_does_not_wait_for_old_connections() {
        let listener = bind_alone(LOOPBACK).unwrap();
        let addr = listener.local_addr().unwrap();
        let client = StdStream::connect(addr).unwrap();
        let (_, server, _) = accept_one(std::slice::from_ref(&listener));
        drop((server, listener));
        drop(client);
        probe(addr).unwrap();
    }

    #[test]
    fn the_unspecified_ipv6_address_takes_both_families() {
        let Ok(listener) = bind_alone(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))) else {
            return; // a machine without IPv6
        };
        let port = listener.local_addr().unwrap().port();
        let client = StdStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let (_, _, from) = accept_one(std::slice::from_ref(&listener));
        assert_eq!(
            from,
            client.local_addr().unwrap(),
            "an IPv4 client has its IPv4 address"
        );
    }

    #[test]
    fn an_accepted_stream_takes_every_option() {
        let listener = bind_alone(LOOPBACK).unwrap();
        let _client = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_, stream, _) = accept_one(std::slice::from_ref(&listener));
        assert_eq!(tune(&stream, 128 * 1024, Duration::from_secs(30)), 0);
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
        assert!(socket.send_buffer_size().unwrap() >= 128 * 1024);
        let before = socket.send_buffer_size().unwrap();
        assert_eq!(tune(&stream, 0, Duration::ZERO), 0);
        assert_eq!(socket.send_buffer_size().unwrap(), before);
    }

    #[test]
    fn errors_of_accept_are_sorted_by_what_helps() {
        let of = |errno: Errno| refusal(&io::Error::from(errno));
        assert!(matches!(of(Errno::AGAIN), Accept::Empty));
        for errno in [Errno::CONNABORTED, Errno::INTR, Errno::PROTO, Errno::PERM] {
            assert!(matches!(of(errno), Accept::Retry), "{errno:?}");
        }
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::INVAL,
            Errno::BADF,
        ] {
            assert!(matches!(of(errno), Accept::Exhausted), "{errno:?}");
        }
    }
}
