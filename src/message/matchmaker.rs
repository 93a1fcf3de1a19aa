//! The vocabulary of the lobby dialect of TCP JSON and UDP endpoints (matchmaker).
//!
//! Owns: what its clients ask and what they are told, the ids of its sessions and the codes of its lobbies.
//! Never: knows a wire format.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use rand::{Rng, RngExt as _};

/// A session of the lobby dialect: a random UUID (RFC 9562, version 4). Whoever knows it may claim an address for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u128);

impl SessionId {
    /// Length of its written form.
    pub const TEXT_LEN: usize = 36;

    /// Draws one.
    pub fn random(random: &mut impl Rng) -> Self {
        Self(random.random::<u128>() & !VERSION_MASK & !VARIANT_MASK | VERSION_4 | VARIANT_RFC)
    }

    /// Reads the written form, lower case: the only one that was ever given out.
    pub fn parse(text: &str) -> Option<Self> {
        let text: &[u8; Self::TEXT_LEN] = text.as_bytes().try_into().ok()?;
        let mut id = 0;
        for (at, byte) in text.iter().enumerate() {
            let digit = match byte {
                b'-' if DASHES.contains(&at) => continue,
                _ if DASHES.contains(&at) => return None,
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => return None,
            };
            id = id << 4 | u128::from(digit);
        }
        Some(Self(id))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0;
        let (low, mid, high) = (id >> 96, id >> 80 & 0xffff, id >> 64 & 0xffff);
        let (sequence, node) = (id >> 48 & 0xffff, id & 0xffff_ffff_ffff);
        write!(f, "{low:08x}-{mid:04x}-{high:04x}-{sequence:04x}-{node:012x}")
    }
}

/// Eight digits: a whole one is a secret.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({:08x})", self.0 >> 96)
    }
}

/// Where the written form has dashes.
const DASHES: [usize; 4] = [8, 13, 18, 23];
/// RFC 9562 section 5.4: bits 48 to 51 are the version, bits 64 and 65 the variant.
const VERSION_MASK: u128 = 0xf << 76;
const VERSION_4: u128 = 4 << 76;
const VARIANT_MASK: u128 = 3 << 62;
const VARIANT_RFC: u128 = 2 << 62;

/// The code of a lobby, which people pass on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code([u8; Self::LEN]);

impl Code {
    /// Letters in one.
    pub const LEN: usize = 6;

    /// Draws one.
    pub fn random(random: &mut impl Rng) -> Self {
        Self(std::array::from_fn(|_| LETTERS[random.random_range(0..LETTERS.len())]))
    }

    /// Reads one; None: no lobby ever had it.
    pub fn parse(text: &str) -> Option<Self> {
        let letters: [u8; Self::LEN] = text.as_bytes().try_into().ok()?;
        letters
            .iter()
            .all(|letter| LETTERS.contains(letter))
            .then_some(Self(letters))
    }

    /// Its letters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({})", self.as_str())
    }
}

/// Nobody takes `i`, `l` and `o` for digits or for each other.
const LETTERS: &[u8; 23] = b"abcdefghjkmnpqrstuvwxyz";

/// What a client asks in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// What had this sequence number has arrived.
    Ack {
        /// The number.
        sequence: u16,
    },
    /// The datagram's source is the address of this session.
    Endpoint {
        /// Whose.
        session: SessionId,
        /// To be acknowledged.
        sequence: u16,
    },
    /// Keeps the NAT's mapping.
    KeepAlive,
}

/// What a client is told in a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// What had this sequence number has arrived.
    Ack {
        /// The number.
        sequence: u16,
    },
    /// The same that the client sent.
    KeepAlive,
    /// Where the others of the lobby are.
    Endpoints {
        /// To be acknowledged.
        sequence: u16,
        /// Their addresses, in the order in which they joined.
        peers: Vec<SocketAddr>,
    },
}

/// What a client asks over its connection. What is no id or code that could exist is None.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A session, please.
    NewClient,
    /// A lobby with this session in it, please.
    Create {
        /// The asker's.
        session: Option<SessionId>,
    },
    /// Into this lobby, please.
    Join {
        /// The lobby.
        code: Option<Code>,
        /// The asker's.
        session: Option<SessionId>,
    },
    /// Tell the members of this lobby where the others are, please.
    Start {
        /// The lobby.
        code: Option<Code>,
        /// The asker's.
        session: Option<SessionId>,
    },
    /// Something that this dialect does not have.
    Unknown,
    /// A known request, and what belongs to it cannot be read.
    Bad,
}

/// The one answer to an [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Here is a session.
    Session(SessionId),
    /// Here is a lobby.
    Code(Code),
    /// It is done.
    Done,
    /// It is not done.
    Refused(Refusal),
}

/// What a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It may ask.
    Admitted,
    /// The answer; it may ask again.
    Reply(Reply),
    /// It is closed.
    Closed,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This connection has no such session.
    UnknownSession,
    /// There is no such lobby.
    LobbyNotFound,
    /// It has as many members as may be told of each other.
    LobbyFull,
    /// Only members start a lobby.
    NotAMember,
    /// The lobby has started, and the session with it.
    AlreadyStarted,
    /// No such request.
    UnknownType,
    /// It cannot be read.
    BadRequest,
    /// Too many wrong codes, sessions or lobbies.
    RateLimited,
}

impl Refusal {
    /// What the client is told.
    pub fn text(self) -> &'static str {
        match self {
            Self::UnknownSession => "unknown session",
            Self::LobbyNotFound => "lobby not found",
            Self::LobbyFull => "lobby full",
            Self::NotAMember => "not a member",
            Self::AlreadyStarted => "lobby already started",
            Self::UnknownType => "unknown request type",
            Self::BadRequest => "bad request",
            Self::RateLimited => "rate limited",
        }
    }
}

/// Longest datagram, header included.
pub const DATAGRAM_MAX: usize = 1024;
/// Bytes of the header.
pub const HEADER_LEN: usize = 7;
/// Bytes of `{"Type":3,"Data":""}`, around the data of [`Event::Endpoints`].
const ENVELOPE_LEN: usize = 20;
/// Bytes of `{"PeerUDPEndpoints":[]}`, around the addresses.
const LIST_LEN: usize = 23;
/// Bytes that addresses may take there, each with its quotes and a comma; one comma less is written. Four letters of
/// base64 carry three bytes.
pub const ENDPOINTS_BYTES_MAX: usize = (DATAGRAM_MAX - HEADER_LEN - ENVELOPE_LEN) / 4 * 3 - LIST_LEN + 1;

/// Bytes that an address of this family takes at most in [`Event::Endpoints`]: `"255.255.255.255:65535",`, or eight
/// groups of four digits in brackets.
pub fn endpoint_bytes_max(ip: IpAddr) -> usize {
    match ip.to_canonical() {
        IpAddr::V4(_) => 24,
        IpAddr::V6(_) => 50,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    #[test]
    fn a_session_id_is_a_uuid_of_version_4_in_lower_case() {
        let mut random = StdRng::from_seed([7; 32]);
        for _ in 0..1000 {
            let id = SessionId::random(&mut random);
            let text = id.to_string();
            assert_eq!(
                (text.as_bytes()[14], SessionId::parse(&text)),
                (b'4', Some(id)),
                "{text}"
            );
            assert!(b"89ab".contains(&text.as_bytes()[19]), "{text}");
            assert!(!format!("{id:?}").contains(&text));
        }
        let text = "bd0ad2fc-6807-481e-badc-7a234d196301";
        assert_eq!(SessionId::parse(text).unwrap().to_string(), text);
        for wrong in [
            "",
            "BD0AD2FC-6807-481E-BADC-7A234D196301",
            "bd0ad2fc-6807-481e-badc-7a234d19630",
            "bd0ad2fc06807-481e-badc-7a234d196301",
            "bd0ad2fc-6807-481e-badc-7a234d19630-",
            "bd0ad2fc-6807-481e-badc-7a234d19630g",
        ] {
            assert_eq!(SessionId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_code_has_six_unambiguous_letters() {
        let mut random = StdRng::from_seed([7; 32]);
        for _ in 0..1000 {
            let code = Code::random(&mut random);
            assert_eq!(Code::parse(code.as_str()), Some(code));
            assert_eq!(code.as_str().len(), 6);
            assert!(!code.as_str().contains(['i', 'l', 'o']), "{code:?}");
        }
        for wrong in ["", "vaev", "abcde", "abcdefg", "ABCDEF", "abcdei", "abcde1", "abcdé"] {
            assert_eq!(Code::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn thirty_ipv4_or_fourteen_ipv6_peers_fit_one_datagram() {
        let fit = |ip: &str| ENDPOINTS_BYTES_MAX / endpoint_bytes_max(ip.parse().unwrap());
        assert_eq!(
            (fit("192.0.2.1"), fit("2001:db8::1"), fit("::ffff:192.0.2.1")),
            (30, 14, 30)
        );
    }
}
