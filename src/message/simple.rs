//! The vocabulary of the ASCII dialect (simple-hole-punch).
//!
//! Owns: what its clients ask and what they are told.
//! Never: knows a wire format.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use compact_str::CompactString;

/// An IPv4 address and port in six bytes: all that this dialect can write down.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint([u8; 6]);

impl Endpoint {
    /// From its bytes: the address's four, the port's two, both big-endian.
    pub const fn from_bytes(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn to_bytes(self) -> [u8; 6] {
        self.0
    }

    /// Its address.
    pub const fn ip(self) -> Ipv4Addr {
        let [a, b, c, d, _, _] = self.0;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Its port.
    pub const fn port(self) -> u16 {
        let [_, _, _, _, high, low] = self.0;
        u16::from_be_bytes([high, low])
    }
}

impl From<SocketAddrV4> for Endpoint {
    fn from(address: SocketAddrV4) -> Self {
        let ([a, b, c, d], [high, low]) = (address.ip().octets(), address.port().to_be_bytes());
        Self([a, b, c, d, high, low])
    }
}

impl From<Endpoint> for SocketAddrV4 {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.ip(), endpoint.port())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", SocketAddrV4::from(*self))
    }
}

/// The random part of a session id: 2 to 8 codes, a byte each.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code {
    bytes: [u8; Code::LEN_MAX],
    len: u8,
}

impl Code {
    /// The fewest codes.
    pub const LEN_MIN: usize = 2;
    /// The most codes.
    pub const LEN_MAX: usize = 8;

    /// From its bytes; None: not 2 to 8 of them.
    pub fn new(code: &[u8]) -> Option<Self> {
        if code.len() < Self::LEN_MIN {
            return None;
        }
        let mut bytes = [0; Self::LEN_MAX];
        bytes.get_mut(..code.len())?.copy_from_slice(code);
        let len = code.len() as u8;
        Some(Self { bytes, len })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// Whoever knows a code may join: it is written nowhere.
impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({})", self.len)
    }
}

/// The name of a session: which server to ask, and a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId {
    /// The public address of the server.
    pub server: Endpoint,
    /// The secret.
    pub code: Code,
}

impl SessionId {
    /// Whether both are the same, in a time that does not say how much of them is.
    pub fn is(&self, other: &Self) -> bool {
        let own = self.server.0.iter().chain(&self.code.bytes).chain([&self.code.len]);
        let others = other.server.0.iter().chain(&other.code.bytes).chain([&other.code.len]);
        let difference = own.zip(others).fold(0, |found, (a, b)| found | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Open a session (HS).
    Host {
        /// The client's address in its own network, if it can be read.
        local: Option<Endpoint>,
        /// Our public address: the front of the session's id.
        server: Endpoint,
    },
    /// Join a session (JS).
    Join {
        /// As in [`Request::Host`].
        local: Option<Endpoint>,
        /// The session.
        asked: Asked<'a>,
    },
    /// Meet anybody (RS).
    Random {
        /// As in [`Request::Host`].
        local: Option<Endpoint>,
        /// As in [`Request::Host`].
        server: Endpoint,
    },
    /// Keep a session (KA).
    KeepAlive {
        /// The session.
        id: SessionId,
    },
    /// End a session (CS).
    Complete {
        /// The session.
        id: SessionId,
    },
}

/// A session id as a joiner wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// One that could be a session's.
    Id(SessionId),
    /// One that cannot; printable ASCII without a colon.
    Odd(&'a str),
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The session is open (HR).
    Registered {
        /// The client's address as we see it.
        remote: Endpoint,
        /// The session.
        id: SessionId,
    },
    /// The session is joined: punch (JR).
    Joined {
        /// The client's address as we see it.
        remote: Endpoint,
        /// The host's address as we see it.
        host: Endpoint,
        /// The host's address in its own network, or again as we see it.
        host_local: Endpoint,
    },
    /// Somebody joined: punch (NJ).
    NewJoiner {
        /// The joiner's address as we see it.
        joiner: Endpoint,
        /// The joiner's address in its own network, or again as we see it.
        joiner_local: Endpoint,
    },
    /// There is no such session (BK).
    NoSession(NoSession),
}

/// The session id that was asked for in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoSession {
    /// One that could be a session's.
    Id(SessionId),
    /// One that cannot.
    Odd(CompactString),
}

impl From<Asked<'_>> for NoSession {
    fn from(asked: Asked<'_>) -> Self {
        match asked {
            Asked::Id(id) => Self::Id(id),
            Asked::Odd(text) => Self::Odd(text.into()),
        }
    }
}
