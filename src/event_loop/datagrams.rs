//! Datagrams: from the sockets to what they ask, and the answers back.
//!
//! A STUN request is answered where it stands. What else arrives becomes a request of the loop's [`Punch`], whose outputs
//! become datagrams here and mail for other loops. Answers gather until the batch, or the turn, is done.
//!
//! Owns: the sockets of one loop, the rates of stateless answers, and the bytes of a batch on its way.
//! Never: keeps anything about a sender but a rate.
//!
//! [`Punch`]: crate::shard::punch::Punch

mod figures;
mod rates;
pub mod socket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};

use super::{Delivery, EventLoop};
use crate::codec::stun;
use crate::dialect::{demultiplexer, matchmaker, natpunch, simple};
use crate::ids::Homes;
use crate::message::punch::{Dialect, Dropped, Path};
use crate::metrics::Metric;
use crate::shard::punch::{Event, Output};

pub(super) use figures::with_figures;
use figures::{dropped_metric, received_metric, sent_metric};
use rates::Rates;
use socket::{BATCH, DATAGRAM_MAX, DATAGRAM_SPACE, DatagramSocket, Received};

/// What is served over datagrams, and how much of it. 0 is no limit.
#[derive(Clone, Debug, Default)]
pub struct DatagramSettings {
    /// Which dialects are served, by [`Dialect`].
    pub enabled: [bool; Dialect::ALL.len()],
    /// The IPv4 address at which clients reach this server, if it is not the one that a datagram is sent to.
    pub public_ipv4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The port at which they do; 0: the bound one.
    pub public_port: u16,
    /// STUN answers a second to one address and port.
    pub stun_per_sec: u32,
    /// STUN answers a second to one IPv4 /24 or IPv6 /56.
    pub stun_per_prefix_per_sec: u32,
    /// Other datagrams a second of one address and port.
    pub others_per_sec: u32,
}

/// Batches read from one socket in one turn.
const BATCHES_MAX: usize = 8;
/// Senders whose rates can be told apart.
const ADDRESSES: usize = 1 << 15;
/// Prefixes whose rates can be told apart.
const PREFIXES: usize = 1 << 13;
/// What a punch request weighs on its way to another loop: a few dozen bytes of its own on the heap.
const MAIL_BYTES: usize = 256;

/// The sockets of one loop and what passes through them.
pub(super) struct Datagrams {
    sockets: Vec<DatagramSocket>,
    settings: DatagramSettings,
    stun: Rates,
    stun_prefixes: Rates,
    others: Rates,
    /// One batch of input.
    input: Vec<u8>,
    received: Vec<Received>,
    /// Answers that wait for the end of the batch.
    output: Vec<u8>,
    queue: Vec<(Path, Range<usize>)>,
    /// Receivers and places of one send.
    sending: Vec<(SocketAddr, Range<usize>)>,
}

impl Datagrams {
    /// Puts the sockets at the poll, with tokens from `first` on.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub(super) fn new(
        sockets: Vec<(UdpSocket, SocketAddr)>,
        settings: DatagramSettings,
        homes: &Homes,
        registry: &Registry,
        first: usize,
    ) -> std::io::Result<Self> {
        let mut bound = Vec::new();
        for (index, (mut socket, address)) in sockets.into_iter().enumerate() {
            registry.register(&mut socket, Token(first + index), Interest::READABLE)?;
            bound.push(DatagramSocket::new(socket, address));
        }
        // What one address sends to one of ours all arrives at one loop, what a prefix sends at any: each loop grants its share.
        let share = |limit: u32| match limit {
            0 => 0,
            limit => (u64::from(limit) / homes.loops() as u64).max(1),
        };
        let size = |size: usize| if bound.is_empty() { 0 } else { size };
        Ok(Self {
            stun: Rates::new(settings.stun_per_sec.into(), size(ADDRESSES), homes.hasher()),
            stun_prefixes: Rates::new(share(settings.stun_per_prefix_per_sec), size(PREFIXES), homes.hasher()),
            others: Rates::new(settings.others_per_sec.into(), size(ADDRESSES), homes.hasher()),
            input: vec![0; if bound.is_empty() { 0 } else { BATCH * DATAGRAM_SPACE }],
            sockets: bound,
            settings,
            received: Vec::new(),
            output: Vec::new(),
            queue: Vec::new(),
            sending: Vec::new(),
        })
    }

    /// An event of the socket with this index.
    pub(super) fn on_event(&mut self, index: usize) {
        if let Some(socket) = self.sockets.get_mut(index) {
            socket.ready = true;
        }
    }

    /// Whether anything is received of a dialect.
    pub(super) fn serves(&self, dialect: Dialect) -> bool {
        !self.sockets.is_empty() && self.settings.enabled[dialect as usize]
    }

    /// Whether a socket may have more.
    pub(super) fn is_ready(&self) -> bool {
        self.sockets.iter().any(|socket| socket.ready)
    }

    /// Closes the sockets.
    pub(super) fn close(&mut self) {
        self.sockets.clear();
    }

    /// Sends what waits. Answers how many datagrams the kernel did not take.
    fn flush(&mut self) -> usize {
        let mut failed = 0;
        let mut rest = self.queue.as_slice();
        while let Some((first, _)) = rest.first() {
            let same = rest
                .iter()
                .take_while(|(path, _)| path.socket == first.socket && path.local == first.local)
                .count();
            let (run, others) = rest.split_at(same);
            self.sending.clear();
            self.sending
                .extend(run.iter().map(|(path, range)| (path.remote, range.clone())));
            failed += match self.sockets.get_mut(usize::from(first.socket)) {
                Some(socket) => socket.send(first.local, &self.output, &self.sending),
                None => run.len(),
            };
            rest = others;
        }
        self.queue.clear();
        self.output.clear();
        failed
    }

    /// Where clients of this socket reach the server: what the ASCII dialect's session ids begin with.
    fn public_address(&self, path: &Path) -> Option<SocketAddrV4> {
        let socket = self.sockets.get(usize::from(path.socket))?;
        let own = self.settings.public_ipv4.map(IpAddr::V4).or(socket.specific_ip());
        let IpAddr::V4(ip) = own.or(path.local)? else {
            return None;
        };
        let port = match self.settings.public_port {
            0 => socket.port(),
            port => port,
        };
        Some(SocketAddrV4::new(ip, port))
    }

    /// The port at which clients reach our STUN, if it is served.
    pub(super) fn stun_port(&self) -> Option<u16> {
        let first = self
            .sockets
            .first()
            .filter(|_| self.settings.enabled[Dialect::Stun as usize])?;
        Some(match self.settings.public_port {
            0 => first.port(),
            port => port,
        })
    }

    /// The configured address at which this client reaches us, as it stands in a URL.
    pub(super) fn public_host(&self, client: IpAddr) -> Option<String> {
        match client {
            IpAddr::V4(_) => self.settings.public_ipv4.map(|own| own.to_string()),
            IpAddr::V6(_) => self.settings.public_ipv6.map(|own| format!("[{own}]")),
        }
    }

    /// The prefix that shares a rate: an IPv4 /24, an IPv6 /56.
    fn prefix(ip: IpAddr) -> u128 {
        match ip {
            IpAddr::V4(v4) => u128::from(v4.to_bits() >> 8),
            IpAddr::V6(v6) => v6.to_bits() >> 72 | 1 << 127,
        }
    }
}

impl EventLoop {
    /// Reads what the sockets have, some batches of it each.
    pub(super) fn serve_datagrams(&mut self) {
        for index in 0..self.datagrams.sockets.len() {
            for _ in 0..BATCHES_MAX {
                let datagrams = &mut self.datagrams;
                let Some(socket) = datagrams.sockets.get_mut(index).filter(|socket| socket.ready) else {
                    break;
                };
                socket.receive(&mut datagrams.input, &mut datagrams.received);
                // Whatever was told before one of these was sent has been mailed, and is to be known when that is read.
                self.receive_mail();
                self.on_batch(index as u8);
            }
        }
    }

    fn on_batch(&mut self, socket: u8) {
        let input = std::mem::take(&mut self.datagrams.input);
        let mut received = std::mem::take(&mut self.datagrams.received);
        for one in received.drain(..) {
            let path = Path {
                socket,
                local: one.local,
                remote: one.remote,
            };
            let bytes = input.get(one.range()).unwrap_or_default();
            self.counters.add(Metric::DatagramBytesIn, bytes.len() as u64);
            if let Err(reason) = self.on_datagram(path, bytes) {
                self.punch.count_dropped(reason);
            }
        }
        self.datagrams.input = input;
        self.datagrams.received = received;
        self.drain_punch();
        self.flush_datagrams();
    }

    fn on_datagram(&mut self, path: Path, bytes: &[u8]) -> Result<(), Dropped> {
        let dialect = match demultiplexer::classify(bytes) {
            Some(dialect) if bytes.len() <= DATAGRAM_MAX && self.datagrams.settings.enabled[dialect as usize] => {
                dialect
            }
            _ => {
                self.counters.count(Metric::DatagramsUnknown);
                return Err(Dropped::Unknown);
            }
        };
        self.counters.count(received_metric(dialect));
        // A client of the protobuf dialect never recovers from a datagram of another one, and a stranger could have us send one.
        if dialect != Dialect::Natpunch && self.punch.is_natpunch(&path.remote) {
            return Err(Dropped::Bound);
        }
        let now_ms = self.clock.now_ms;
        if dialect == Dialect::Stun {
            return self.answer_stun(path, bytes);
        }
        if !self.datagrams.others.take(&path.remote, now_ms) {
            return Err(Dropped::RateLimited);
        }
        match dialect {
            Dialect::Stun => {}
            Dialect::Matchmaker => {
                let request = matchmaker::parse(bytes).ok_or(Dropped::Malformed)?;
                self.punch.handle_matchmaker(path, request, now_ms);
            }
            Dialect::Simple => {
                let request = simple::parse(bytes, self.datagrams.public_address(&path))?;
                self.punch.handle_simple(path, request, now_ms);
            }
            Dialect::Natpunch => {
                let request = natpunch::parse(bytes).ok_or(Dropped::Malformed)?;
                self.punch.handle_natpunch(path, request, now_ms);
            }
        }
        Ok(())
    }

    fn answer_stun(&mut self, path: Path, bytes: &[u8]) -> Result<(), Dropped> {
        let datagrams = &mut self.datagrams;
        let start = datagrams.output.len();
        match stun::push_answer(&mut datagrams.output, bytes, path.remote) {
            stun::Outcome::Success | stun::Outcome::UnknownAttribute => {}
            stun::Outcome::NotARequest => return Err(Dropped::NotAllowed),
            stun::Outcome::Malformed => return Err(Dropped::Malformed),
        }
        let now_ms = self.clock.now_ms;
        if !datagrams.stun.take(&path.remote, now_ms)
            || !datagrams
                .stun_prefixes
                .take(&Datagrams::prefix(path.remote.ip()), now_ms)
        {
            datagrams.output.truncate(start);
            return Err(Dropped::RateLimited);
        }
        self.counters.count(sent_metric(Dialect::Stun));
        datagrams.queue.push((path, start..datagrams.output.len()));
        Ok(())
    }

    /// Does what the punch state says.
    pub(super) fn drain_punch(&mut self) {
        while let Some(output) = self.punch.poll_output() {
            match output {
                Output::Datagram { path, event } => self.queue_datagram(path, &event),
                Output::Connection { conn, told } => self.on_told(conn, told),
                Output::Mail {
                    to,
                    mail,
                    droppable: false,
                } => self.mailbox.control(to, Delivery::Punch(Box::new(mail))),
                Output::Mail { to, mail, .. } => match self.mailbox.traffic(to, MAIL_BYTES) {
                    Some(batch) => batch.items.push(Delivery::Punch(Box::new(mail))),
                    None => self.punch.count_dropped(Dropped::MailFull),
                },
            }
        }
    }

    fn queue_datagram(&mut self, path: Path, event: &Event) {
        let datagrams = &mut self.datagrams;
        let start = datagrams.output.len();
        match event {
            Event::Simple(event) => simple::push(&mut datagrams.output, event),
            Event::Natpunch(event) => natpunch::push(&mut datagrams.output, event),
            Event::Matchmaker(event) => matchmaker::push(&mut datagrams.output, event, self.clock.unix_ms),
        }
        if datagrams.output.len() == start {
            // It did not fit a datagram: an empty one would tell its receiver worse than nothing.
            return self.punch.count_dropped(Dropped::NotSent);
        }
        datagrams.queue.push((path, start..datagrams.output.len()));
        self.counters.count(sent_metric(match event {
            Event::Simple(_) => Dialect::Simple,
            Event::Natpunch(_) => Dialect::Natpunch,
            Event::Matchmaker(_) => Dialect::Matchmaker,
        }));
    }

    /// Sends what waits, after the mail that was caused before it: whoever is told something may act on it at once, by way of
    /// another loop.
    pub(super) fn flush_datagrams(&mut self) {
        if self.datagrams.queue.is_empty() {
            return;
        }
        self.pushed = self.mailbox.push();
        self.counters
            .add(Metric::DatagramBytesOut, self.datagrams.output.len() as u64);
        for _ in 0..self.datagrams.flush() {
            self.punch.count_dropped(Dropped::NotSent);
        }
    }

    /// Takes over what the punch state counted.
    pub(super) fn publish_punch(&mut self) {
        for reason in Dropped::ALL {
            let dropped = self.punch.counters().dropped[reason as usize];
            self.counters.set(dropped_metric(reason), dropped);
        }
        let census = self.punch.census();
        for (metric, value) in [
            (Metric::PunchSimpleSessions, census.simple_sessions),
            (Metric::PunchNatpunchClients, census.natpunch_clients),
            (Metric::PunchMatchmakerSessions, census.matchmaker_sessions),
            (Metric::PunchNatpunchLobbies, census.natpunch_lobbies),
            (Metric::PunchMatchmakerLobbies, census.matchmaker_lobbies),
        ] {
            self.counters.set(metric, value as u64);
        }
    }

    /// Does what is due in the punch state.
    pub(super) fn expire_punch(&mut self) {
        let now_ms = self.clock.now_ms;
        if self.punch.poll_timeout().is_some_and(|due_ms| due_ms <= now_ms) {
            self.punch.handle_timeout(now_ms);
            self.drain_punch();
        }
    }
}
