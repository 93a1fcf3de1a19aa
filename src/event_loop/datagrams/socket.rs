//! A UDP socket of one loop: bound with others of its address, read and written in batches.
//!
//! On an unspecified address every datagram comes with the address that it was sent to, and an answer leaves from that
//! one: a client behind a NAT hears nobody else.
//!
//! Owns: the system calls and their buffers.
//! Never: looks into a datagram.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::AsRawFd as _;

use mio::net::UdpSocket;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrLike as _, SockaddrStorage, recvmmsg,
    sendmmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::event_loop::listener;

/// Datagrams in one system call.
pub(super) const BATCH: usize = 32;
/// What one datagram may fill: one byte more than any dialect's longest, so that a longer one is seen to be too long.
pub(super) const DATAGRAM_SPACE: usize = DATAGRAM_MAX + 1;
/// Longest datagram of any dialect.
pub(super) const DATAGRAM_MAX: usize = 1024;
/// SO_RCVBUF: a burst of some thousand small datagrams; the kernel lowers it to net.core.rmem_max.
const RECEIVE_BYTES: usize = 4 << 20;

/// Fails with [`io::ErrorKind::AddrInUse`] if somebody has this address for datagrams already: see `listener::probe`.
///
/// # Errors
/// Whatever socket(2) and bind(2) say.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    bound(address, false).map(drop)
}

/// Makes a socket of the SO_REUSEPORT group of this address, to which each loop adds one: the kernel gives all datagrams
/// of one client address to one of them.
///
/// # Errors
/// Whatever socket(2), setsockopt(2) and bind(2) say.
pub fn bind_shared(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = bound(address, true)?;
    // A small buffer only loses datagrams that the kernel could have kept for a moment.
    let _ = socket.set_recv_buffer_size(RECEIVE_BYTES);
    Ok(UdpSocket::from_std(socket.into()))
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )?;
    socket.set_reuse_port(shared)?;
    // Before the first datagram can arrive: the kernel notes its destination then, not when it is read.
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => {
                socket.set_only_v6(false)?;
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
        }
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// One datagram of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Its sender.
    pub(super) remote: SocketAddr,
    /// Our address that it was sent to, if the bound one is unspecified.
    pub(super) local: Option<IpAddr>,
    /// Which piece of the buffer it is in.
    piece: usize,
    len: usize,
}

impl Received {
    /// Where it stands in the buffer that it was read into.
    pub(super) fn range(&self) -> Range<usize> {
        let start = self.piece * DATAGRAM_SPACE;
        start..start + self.len
    }
}

/// A socket, and the kernel's view of a batch.
pub(super) struct DatagramSocket {
    pub(super) socket: UdpSocket,
    address: SocketAddr,
    incoming: MultiHeaders<SockaddrStorage>,
    outgoing: MultiHeaders<SockaddrStorage>,
    /// The kernel may have datagrams.
    pub(super) ready: bool,
}

impl DatagramSocket {
    pub(super) fn new(socket: UdpSocket, address: SocketAddr) -> Self {
        let control = || match address {
            _ if !address.ip().is_unspecified() => None,
            SocketAddr::V4(_) => Some(nix::cmsg_space!(in_pktinfo)),
            SocketAddr::V6(_) => Some(nix::cmsg_space!(in6_pktinfo)),
        };
        Self {
            socket,
            address,
            incoming: MultiHeaders::preallocate(BATCH, control()),
            outgoing: MultiHeaders::preallocate(BATCH, control()),
            ready: true,
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The bound address, if it is one that a client can name.
    pub(super) fn specific_ip(&self) -> Option<IpAddr> {
        Some(self.address.ip().to_canonical()).filter(|ip| !ip.is_unspecified())
    }

    /// Reads up to [`BATCH`] datagrams into pieces of [`DATAGRAM_SPACE`] bytes; `received` is cleared first. A batch that is
    /// not full, or an error, means that the kernel has no more for now.
    pub(super) fn receive(&mut self, buffer: &mut [u8], received: &mut Vec<Received>) {
        received.clear();
        let mut pieces = buffer.chunks_exact_mut(DATAGRAM_SPACE);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(pieces.next().unwrap_or_default())]);
        let fd = self.socket.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT;
        let results = match recvmmsg(fd, &mut self.incoming, slices.iter_mut(), flags, None) {
            Ok(results) => results,
            Err(Errno::EINTR) => return,
            Err(_) => {
                self.ready = false;
                return;
            }
        };
        let mut count = 0;
        for (piece, message) in results.enumerate() {
            count += 1;
            let Some(remote) = message.address.as_ref().and_then(to_std) else {
                continue;
            };
            received.push(Received {
                remote: listener::canonical(remote),
                local: message
                    .cmsgs()
                    .ok()
                    .and_then(|mut messages| messages.find_map(local_of)),
                piece,
                len: message.bytes.min(DATAGRAM_SPACE),
            });
        }
        self.ready = count == BATCH;
    }

    /// Sends datagrams, given as places in `bytes` with their receivers, all from one of our addresses. Answers how many
    /// the kernel did not take: UDP promises nothing, and nobody waits for them.
    pub(super) fn send(
        &mut self,
        local: Option<IpAddr>,
        bytes: &[u8],
        datagrams: &[(SocketAddr, Range<usize>)],
    ) -> usize {
        let (mut at, mut failed) = (0, 0);
        while let Some(rest) = datagrams.get(at..).filter(|rest| !rest.is_empty()) {
            match self.send_batch(local, bytes, rest) {
                Ok(sent) => at += sent.max(1),
                Err(Errno::EINTR) => {}
                // No room: what follows would find none either.
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return failed + rest.len(),
                // The first one cannot be sent, to wherever it goes; the others may.
                Err(_) => {
                    failed += 1;
                    at += 1;
                }
            }
        }
        failed
    }

    /// Sends as many of the first [`BATCH`] as the kernel takes at once. Answers how many that were.
    fn send_batch(
        &mut self,
        local: Option<IpAddr>,
        bytes: &[u8],
        datagrams: &[(SocketAddr, Range<usize>)],
    ) -> Result<usize, Errno> {
        let piece = |at: usize| {
            let range = datagrams.get(at).map(|(_, range)| range.clone()).unwrap_or_default();
            [IoSlice::new(bytes.get(range).unwrap_or_default())]
        };
        let slices: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(piece);
        let receivers: [Option<SockaddrStorage>; BATCH] = std::array::from_fn(|at| {
            let (remote, _) = datagrams.get(at)?;
            Some(self.to_kernel(*remote))
        });
        let (v4, v6);
        let from;
        let control: &[ControlMessage<'_>] = match (local, self.address) {
            (None, _) => &[],
            (Some(IpAddr::V4(local)), SocketAddr::V4(_)) => {
                v4 = in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr {
                        s_addr: u32::from_ne_bytes(local.octets()),
                    },
                    ipi_addr: in_addr { s_addr: 0 },
                };
                from = [ControlMessage::Ipv4PacketInfo(&v4)];
                &from
            }
            (Some(local), _) => {
                let local = match local {
                    IpAddr::V4(local) => local.to_ipv6_mapped(),
                    IpAddr::V6(local) => local,
                };
                v6 = in6_pktinfo {
                    ipi6_addr: in6_addr {
                        s6_addr: local.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                from = [ControlMessage::Ipv6PacketInfo(&v6)];
                &from
            }
        };
        let count = datagrams.len().min(BATCH);
        let fd = self.socket.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT;
        let (slices, receivers) = (slices.iter().take(count), receivers.get(..count).unwrap_or_default());
        sendmmsg(fd, &mut self.outgoing, slices, receivers, control, flags).map(Iterator::count)
    }

    /// An IPv6 socket sends to IPv4 addresses by their mapped form.
    fn to_kernel(&self, remote: SocketAddr) -> SockaddrStorage {
        match (remote, self.address) {
            (SocketAddr::V4(v4), SocketAddr::V6(_)) => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            (SocketAddr::V4(v4), SocketAddr::V4(_)) => v4.into(),
            (SocketAddr::V6(v6), _) => v6.into(),
        }
    }
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    match address.family()? {
        nix::sys::socket::AddressFamily::Inet => address.as_sockaddr_in().map(|v4| SocketAddrV4::from(*v4).into()),
        _ => address.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into()),
    }
}

fn local_of(message: ControlMessageOwned) -> Option<IpAddr> {
    match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes())),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::UdpSocket as StdSocket;
    use std::time::{Duration, Instant};

    fn open(address: &str) -> DatagramSocket {
        let socket = bind_shared(address.parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        DatagramSocket::new(socket, address)
    }

    fn receive_all(socket: &mut DatagramSocket, want: usize) -> Vec<(Received, Vec<u8>)> {
        let mut buffer = vec![0; BATCH * DATAGRAM_SPACE];
        let mut all = Vec::new();
        let mut received = Vec::new();
        let started = Instant::now();
        while all.len() < want {
            assert!(started.elapsed() < Duration::from_secs(5), "{} of {want}", all.len());
            socket.receive(&mut buffer, &mut received);
            all.extend(received.iter().map(|one| (*one, buffer[one.range()].to_vec())));
        }
        all
    }

    fn client(address: &str) -> StdSocket {
        let socket = StdSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    #[test]
    fn a_batch_comes_and_goes_in_order() {
        let mut socket = open("127.0.0.1:0");
        let client = client("127.0.0.1:0");
        for number in 0..100u8 {
            client.send_to(&[number; 40], ("127.0.0.1", socket.port())).unwrap();
        }
        let all = receive_all(&mut socket, 100);
        assert!(all.iter().enumerate().all(|(at, (_, bytes))| *bytes == [at as u8; 40]));
        let remote = client.local_addr().unwrap();
        assert!(all.iter().all(|(one, _)| one.remote == remote && one.local.is_none()));
        let bytes: Vec<u8> = (0..100).collect();
        let datagrams: Vec<_> = (0..100).map(|at| (remote, at..at + 1)).collect();
        assert_eq!(socket.send(None, &bytes, &datagrams), 0);
        let mut buffer = [0; 10];
        for number in 0..100 {
            assert_eq!(client.recv_from(&mut buffer).unwrap().0, 1);
            assert_eq!(buffer[0], number);
        }
    }

    #[test]
    fn an_answer_leaves_from_the_address_that_was_asked() {
        let mut socket = open("0.0.0.0:0");
        let client = client("127.0.0.1:0");
        for ours in ["127.0.0.1", "127.0.0.2", "127.1.2.3"] {
            client.send_to(b"?", (ours, socket.port())).unwrap();
            let all = receive_all(&mut socket, 1);
            assert_eq!(all[0].0.local, Some(ours.parse().unwrap()));
            assert_eq!(socket.send(all[0].0.local, b"!", &[(all[0].0.remote, 0..1)]), 0);
            let (_, from) = client.recv_from(&mut [0; 10]).unwrap();
            assert_eq!(from, SocketAddr::new(ours.parse().unwrap(), socket.port()));
        }
    }

    #[test]
    fn a_dual_stack_socket_serves_both_families_from_the_address_that_was_asked() {
        let Ok(socket) = bind_shared("[::]:0".parse().unwrap()) else {
            return; // a machine without IPv6
        };
        let address = socket.local_addr().unwrap();
        let mut socket = DatagramSocket::new(socket, address);
        for (own, ours) in [
            ("127.0.0.1:0", "127.0.0.2"),
            ("[::1]:0", "::1"),
            ("127.0.0.1:0", "127.0.0.3"),
        ] {
            let Ok(client) = StdSocket::bind(own) else { continue };
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let ours: IpAddr = ours.parse().unwrap();
            client.send_to(b"?", (ours, socket.port())).unwrap();
            let all = receive_all(&mut socket, 1);
            assert_eq!(
                (all[0].0.remote, all[0].0.local),
                (client.local_addr().unwrap(), Some(ours))
            );
            assert_eq!(socket.send(all[0].0.local, b"!", &[(all[0].0.remote, 0..1)]), 0);
            assert_eq!(
                client.recv_from(&mut [0; 10]).unwrap().1,
                SocketAddr::new(ours, socket.port())
            );
        }
    }

    #[test]
    fn a_datagram_that_cannot_be_sent_takes_none_with_it() {
        let mut socket = open("127.0.0.1:0");
        let client = client("127.0.0.1:0");
        let nowhere = "255.255.255.255:9".parse().unwrap();
        let to = client.local_addr().unwrap();
        let datagrams = [(to, 0..1), (nowhere, 0..1), (to, 1..2), (nowhere, 0..1)];
        assert_eq!(socket.send(None, b"ab", &datagrams), 2);
        let mut buffer = [0; 4];
        for want in b"ab" {
            client.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[0], *want);
        }
    }

    #[test]
    fn too_long_a_datagram_is_seen_to_be_too_long() {
        let mut socket = open("127.0.0.1:0");
        let client = client("127.0.0.1:0");
        for len in [DATAGRAM_MAX, DATAGRAM_MAX + 1, 9000] {
            client.send_to(&vec![7; len], ("127.0.0.1", socket.port())).unwrap();
            let all = receive_all(&mut socket, 1);
            assert_eq!(all[0].1.len() > DATAGRAM_MAX, len > DATAGRAM_MAX);
        }
    }

    #[test]
    fn a_second_instance_finds_the_address_in_use() {
        let socket = open("127.0.0.1:0");
        let address = SocketAddr::from(([127, 0, 0, 1], socket.port()));
        assert_eq!(probe(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(bind_shared(address).is_ok(), "without the probe it would have joined");
    }
}
