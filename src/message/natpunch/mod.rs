//! The vocabulary of the protobuf dialect (natpunch).
//!
//! Owns: its names, what its clients ask and what they are told, and the texts that they are used to.
//! Never: knows a wire format, but for how long a datagram of an [`Event`] is (`size`).

mod size;

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::punch::Path;

/// Longest datagram to a client: it reads into a buffer of this size, and one that is cut off ends its receive loop.
pub const DATAGRAM_MAX: usize = 1024;
/// Longest id in a request, in bytes.
pub const ID_MAX: usize = 64;
/// Longest name of a lobby, in bytes.
pub const LOBBY_NAME_MAX: usize = 64;
/// Fewest and most members of a lobby.
pub const PLAYERS: std::ops::RangeInclusive<u32> = 2..=12;

/// A client: a random UUID of version 4, written in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId([u8; 16]);

impl ClientId {
    /// How many characters its written form has.
    pub const TEXT_LEN: usize = 36;

    /// From random bytes: RFC 9562 section 5.4 fixes six of their bits.
    pub const fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Reads the written form that this server gives; None: it is no client's.
    pub fn parse(text: &str) -> Option<Self> {
        let text: &[u8; Self::TEXT_LEN] = text.as_bytes().try_into().ok()?;
        let mut digits = [0; 32];
        let mut places = digits.iter_mut();
        for (at, letter) in text.iter().enumerate() {
            match (DASHES.contains(&at), letter) {
                (true, b'-') => {}
                (false, b'0'..=b'9') => *places.next()? = letter - b'0',
                (false, b'a'..=b'f') => *places.next()? = letter - b'a' + 10,
                _ => return None,
            }
        }
        let mut bytes = [0; 16];
        for (byte, [high, low]) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            *byte = high << 4 | low;
        }
        (Self::from_random(bytes).0 == bytes).then_some(Self(bytes))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A lobby: `lobby_` and 19 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LobbyId(u64);

impl LobbyId {
    /// How many characters its written form has.
    pub const TEXT_LEN: usize = PREFIX.len() + 19;

    /// From a random number.
    pub const fn from_random(number: u64) -> Self {
        Self(SMALLEST + number % (9 * SMALLEST))
    }

    /// Reads the written form; None: it is no lobby's.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        let plain = digits.len() == 19 && digits.bytes().all(|digit| digit.is_ascii_digit());
        let number = plain.then(|| digits.parse().ok())??;
        (number >= SMALLEST).then_some(Self(number))
    }
}

impl fmt::Display for LobbyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

/// A registered client, as lobbies know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its id.
    pub id: ClientId,
    /// The way to it; its remote end is the client's public endpoint.
    pub path: Path,
    /// The endpoint in its own network that it registered, unless unspecified.
    pub local: Option<SocketAddr>,
}

impl Client {
    /// The endpoint in its own network that `peer` is told: only one that is such, and only behind the same public address.
    /// Anybody else is told the public one again, which makes a client leave out the second punch.
    pub fn local_for(&self, peer: &Self) -> SocketAddr {
        let public = self.path.remote;
        match self.local {
            Some(local) if public.ip() == peer.path.remote.ip() && is_local(local) => local,
            _ => public,
        }
    }
}

fn is_local(endpoint: SocketAddr) -> bool {
    endpoint.port() != 0
        && match endpoint.ip() {
            IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
        }
}

/// What is told of a lobby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lobby {
    /// Its id.
    pub id: LobbyId,
    /// Its name, at most [`LOBBY_NAME_MAX`] bytes.
    pub name: Box<str>,
    /// How many members it takes.
    pub players_max: u8,
    /// In the order they came: the first is the host. Never empty.
    pub members: Vec<Client>,
}

impl Lobby {
    /// Its host.
    pub fn host(&self) -> Option<&Client> {
        self.members.first()
    }

    /// A member of it.
    pub fn member(&self, id: ClientId) -> Option<&Client> {
        self.members.iter().find(|member| member.id == id)
    }
}

/// A request, and what it may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes of its datagram.
    pub bytes: u32,
    /// What it asks.
    pub ask: Ask,
}

/// What a client asks. Ids are as they were written, at most [`ID_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To be known.
    Register {
        /// Its endpoint in its own network, unless unspecified or none.
        local: Option<SocketAddr>,
    },
    /// Still there.
    KeepAlive {
        /// Who.
        client_id: String,
    },
    /// Which lobbies there are.
    List {
        /// Comes back in the answer.
        request_id: String,
    },
    /// A new lobby.
    Create {
        /// Who.
        client_id: String,
        /// Its name, of any length.
        name: String,
        /// How many members it shall take.
        players_max: u32,
    },
    /// To be in a lobby.
    Join {
        /// Who.
        client_id: String,
        /// Which.
        lobby_id: String,
    },
    /// To be in it no longer.
    Leave {
        /// Who.
        client_id: String,
        /// Which.
        lobby_id: String,
    },
    /// The host has met a joiner.
    Ready {
        /// In which lobby.
        lobby_id: String,
        /// The joiner.
        peer_id: String,
    },
    /// To meet another client.
    Connect {
        /// Who.
        client_id: String,
        /// Whom.
        peer_id: String,
    },
    /// Words for a person, which are not read.
    Debug,
}

/// What a client is told: one datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is known.
    Registered {
        /// By this id.
        id: ClientId,
        /// At this address.
        public: SocketAddr,
    },
    /// Its lobby is there.
    Created {
        /// Its id.
        lobby: LobbyId,
        /// Its name.
        name: Box<str>,
    },
    /// It may join once it has met the host.
    Joining {
        /// Which lobby.
        lobby: LobbyId,
    },
    /// It is in the lobby: what makes it take note of [`Event::Punch`].
    Joined {
        /// Which lobby.
        lobby: LobbyId,
        /// Its host and the joiner: ids and public endpoints.
        members: [(ClientId, SocketAddr); 2],
    },
    /// Meet a peer.
    Punch {
        /// Its id.
        peer: ClientId,
        /// Its public endpoint.
        public: SocketAddr,
        /// The endpoint in its own network, or the public one.
        local: SocketAddr,
    },
    /// A lobby of its own changed.
    Update {
        /// As it stands.
        lobby: Arc<Lobby>,
        /// How.
        change: Change,
    },
    /// Lobbies there are.
    List {
        /// From the request.
        request_id: String,
        /// Some of them.
        lobbies: Vec<Listed>,
    },
    /// A member of a lobby of its own is gone.
    PeerLeft {
        /// Which.
        peer: ClientId,
    },
    /// It left a lobby.
    Left,
    /// Something was not done.
    Refused(Refusal),
}

/// A lobby in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub lobby: Arc<Lobby>,
    /// Whether its members are told: only to one of them.
    pub with_members: bool,
}

/// How a lobby changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Somebody came.
    PlayerJoined,
    /// Somebody went.
    PlayerLeft,
}

impl Change {
    /// Its word.
    pub fn text(self) -> &'static str {
        match self {
            Self::PlayerJoined => "player_joined",
            Self::PlayerLeft => "player_left",
        }
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The id is unknown, or not that of the sender's address.
    NotRegistered,
    /// There is no such lobby.
    LobbyNotFound,
    /// It takes no more, or no more fit into a datagram.
    LobbyFull,
    /// Not a member.
    NotInLobby,
    /// Joiner and host did not meet in time.
    HostNotMet,
    /// No such client in a lobby of the sender's.
    PeerNotFound(String),
    /// The name of a new lobby is too long.
    NameTooLong,
    /// The client, or everybody, has as many lobbies as may be.
    TooManyLobbies,
}

impl Refusal {
    /// What the client's person reads.
    pub fn text(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::NotRegistered => "Client not registered",
            Self::LobbyNotFound => "Lobby not found",
            Self::LobbyFull => "Lobby is full",
            Self::NotInLobby => "Client not in lobby",
            Self::HostNotMet => "Failed to establish connection with lobby host",
            Self::PeerNotFound(id) => return Cow::Owned(format!("Destination client {id} not found")),
            Self::NameTooLong => "Lobby name too long",
            Self::TooManyLobbies => "Too many lobbies",
        })
    }
}

/// With [`Event::Created`].
pub const TEXT_CREATED: &str = "Lobby created successfully";
/// With [`Event::Joining`].
pub const TEXT_JOINING: &str = "Attempting to connect to lobby host...";
/// With [`Event::List`].
pub const TEXT_LISTED: &str = "Lobby list retrieved successfully";
/// With [`Event::Left`].
pub const TEXT_LEFT: &str = "Successfully left lobby";

const PREFIX: &str = "lobby_";
/// The smallest number of 19 digits.
const SMALLEST: u64 = 1_000_000_000_000_000_000;
const DASHES: [usize; 4] = [8, 13, 18, 23];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn client(public: &str, local: Option<&str>) -> Client {
        Client {
            id: ClientId::from_random([7; 16]),
            path: Path {
                socket: 0,
                local: None,
                remote: public.parse().unwrap(),
            },
            local: local.map(|local| local.parse().unwrap()),
        }
    }

    #[test]
    fn ids_are_read_as_they_were_written_and_in_no_other_way() {
        let id = ClientId::from_random([0xff; 16]);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(ClientId::parse(&id.to_string()), Some(id));
        let captured = "61dfabe2-6841-469d-a445-37794b41315b";
        assert_eq!(ClientId::parse(captured).unwrap().to_string(), captured);
        for strange in [
            &captured.to_uppercase()[..],
            &captured.replace('-', ""),
            "61dfabe2-6841-169d-a445-37794b41315b",
            "61dfabe26-841-469d-a445-37794b41315b",
            "61dfabe2-6841-469d-a445-37794b41315b ",
            "nobody",
            "",
        ] {
            assert_eq!(ClientId::parse(strange), None, "{strange}");
        }
        let lobby = LobbyId::from_random(u64::MAX);
        assert_eq!(LobbyId::parse(&lobby.to_string()), Some(lobby));
        assert_eq!(lobby.to_string().len(), LobbyId::TEXT_LEN);
        for number in [0, 1, SMALLEST, 9 * SMALLEST - 1, 9 * SMALLEST] {
            assert_eq!(LobbyId::from_random(number).to_string().len(), LobbyId::TEXT_LEN);
        }
        for strange in [
            "lobby_0",
            "lobby_0795248889523644919",
            "lobby_+795248889523644919",
            "lobby_99999999999999999999",
        ] {
            assert_eq!(LobbyId::parse(strange), None, "{strange}");
        }
    }

    #[test]
    fn a_local_endpoint_is_told_only_behind_the_same_address_and_only_if_it_is_local() {
        let public = "198.51.100.7:4000";
        let near = client("198.51.100.7:5000", None);
        let far = client("198.51.100.8:4000", None);
        for local in [
            "192.168.1.20:40000",
            "10.9.8.7:1",
            "172.16.0.1:1",
            "169.254.1.1:1",
            "127.0.0.1:9",
            "[fe80::1]:7",
            "[fd00::1]:7",
            "[::1]:7",
        ] {
            let client = client(public, Some(local));
            assert_eq!(client.local_for(&near), local.parse().unwrap());
            assert_eq!(client.local_for(&far), public.parse().unwrap());
        }
        for local in [
            None,
            Some("8.8.8.8:53"),
            Some("100.64.0.1:1"),
            Some("192.168.1.1:0"),
            Some("[2001:db8::1]:1"),
        ] {
            assert_eq!(client(public, local).local_for(&near), public.parse().unwrap());
        }
    }
}
