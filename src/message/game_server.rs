//! The words of the matchmaker web service: who seeks a game server, what it is told, what it is given.
//!
//! Owns: what is common to every provider of game servers and to every way in which they are asked for.
//! Never: knows a wire format, a token's layout, or where game servers come from.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use compact_str::CompactString;

use crate::ids::{ConnId, LoopId};

/// Longest game or version name, in bytes.
pub const NAME_BYTES_MAX: usize = 30;
/// Longest name that a provider may give a session, in bytes.
pub const SESSION_BYTES_MAX: usize = 128;

/// The name of a game or of a version: `^[A-Za-z0-9_-]{1,30}$`. It may stand in a NATS subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(CompactString);

/// Why a name is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFault {
    /// Empty, or with a character that names do not have.
    Invalid,
    /// Longer than [`NAME_BYTES_MAX`].
    TooLong,
}

impl Name {
    /// Takes a name that a stranger wrote.
    ///
    /// # Errors
    /// It is none; what is invalid at any length is [`NameFault::Invalid`].
    pub fn new(text: &str) -> Result<Self, NameFault> {
        if text.is_empty() || !text.bytes().all(is_name_byte) {
            return Err(NameFault::Invalid);
        }
        match text.len() > NAME_BYTES_MAX {
            true => Err(NameFault::TooLong),
            false => Ok(Self(CompactString::new(text))),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// What a provider calls a session: `^[A-Za-z0-9_-]{1,128}$`. It may stand in a NATS subject, a KV key and a URL's path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionName(CompactString);

impl SessionName {
    /// Takes what a provider said; None: it is no such name.
    pub fn new(text: &str) -> Option<Self> {
        let good = !text.is_empty() && text.len() <= SESSION_BYTES_MAX && text.bytes().all(is_name_byte);
        good.then(|| Self(CompactString::new(text)))
    }

    /// What a player's session on a configured server is called. Its client id is in it, so that nothing need remember
    /// which is whose.
    pub fn of_configured(client_id: u64) -> Self {
        Self(compact_str::format_compact!("{CONFIGURED}{client_id:016x}"))
    }

    /// The client id of a session on a configured server; None: it is none, a provider made it.
    pub fn configured_client(&self) -> Option<u64> {
        let digits = self.0.strip_prefix(CONFIGURED)?;
        let good = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        good.then(|| u64::from_str_radix(digits, 16).ok())?
    }

    /// Whether it is one on a configured server: nobody created it, so nobody has to delete it.
    pub fn is_configured(&self) -> bool {
        self.configured_client().is_some()
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How the name of a session on a configured server begins.
const CONFIGURED: &str = "static-";

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is sought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A server of this game and version.
    Game {
        /// The game.
        game: Name,
        /// Its version.
        version: Name,
    },
    /// A server of the one game that is configured.
    Configured,
}

/// A request for a game server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seek {
    /// What is sought.
    pub wanted: Wanted,
    /// The player's address, in canonical form.
    pub client_ip: IpAddr,
}

/// Names a request from the desk on. Never used again by the same process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Who seeks, and is told what comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seeker {
    /// A connection of a loop. It asks once in its life.
    Conn {
        /// The loop.
        loop_id: LoopId,
        /// The connection.
        conn: ConnId,
    },
    /// A request that came over NATS, by the number that its receiver gave it.
    Remote(u64),
}

/// What the seeker is told, in this order; `Failed`, `Ready` and `End` are the last word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// The request is under way.
    Acknowledged,
    /// There is a session; its server may still have to start.
    Accepted(SessionName),
    /// How far it is, such as `Seeking (2)`.
    Progress(Box<str>),
    /// Here it is.
    Ready(Box<Grant>),
    /// It came to nothing.
    Failed(Failure),
    /// What another matchmaker says, passed on unchanged: JSON text of at most [`FORWARDED_BYTES_MAX`] bytes.
    Forwarded(Box<str>),
    /// What another matchmaker answers to a request for the configured game.
    ForwardedOutcome(Box<Outcome>),
    /// Another matchmaker said all that it had to say.
    End,
}

/// Longest text of [`Feedback::Forwarded`]: a token's frame has 2.9 KB.
pub const FORWARDED_BYTES_MAX: usize = 64 * 1024;

/// Another matchmaker's answer in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// An HTTP status.
    pub status: u16,
    /// JSON with status 200, otherwise plain text.
    pub body: String,
}

/// Why a request came to nothing. The text is ours and names nothing of the inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Like an HTTP status: 400, 401, 403, 404, 408, 409, 422, 429, 500, 503 or 504.
    pub code: u16,
    /// For the player.
    pub text: Cow<'static, str>,
}

impl Failure {
    /// A failure in the server's own words.
    pub const fn new(code: u16, text: &'static str) -> Self {
        Self {
            code,
            text: Cow::Borrowed(text),
        }
    }

    /// Over a limit.
    pub const TOO_MANY: Self = Self::new(429, "too many requests");
    /// The deadline has come.
    pub const TIMED_OUT: Self = Self::new(408, "session still not ready, timed out.");
    /// Every server of that game is full, or there is none.
    pub const NO_SERVER: Self = Self::new(503, "no server available");
    /// The provider takes no more, or cannot be reached.
    pub const UNAVAILABLE: Self = Self::new(503, "provider unavailable");
}

/// A game server that a player may use: all that a connect token is made of, but for the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The session.
    pub session: SessionName,
    /// Drawn at random for this grant: the player's id on the game server.
    pub client_id: u64,
    /// Where the player connects.
    pub public: SocketAddr,
    /// The server's own view of that address, in the token's private part; empty: as `public`.
    pub internal: Vec<SocketAddr>,
    /// SHA-256 of the server's certificate.
    pub cert_digest: CertDigest,
    /// Which of the configured keys (and protocol ids) the server has.
    pub key: KeyIndex,
}

/// Names a private key with its protocol id; 0 is the general one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyIndex(pub u16);

/// SHA-256 of a certificate: 32 lower-case hex pairs joined by `:`, as text of 95 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CertDigest([u8; 32]);

impl CertDigest {
    /// Takes 64 hex digits of either case, with or without `:` between the pairs.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut digest = [0; 32];
        let pairs: Vec<&str> = match text.len() {
            64 if text.is_ascii() => (0..32).map(|at| &text[2 * at..2 * at + 2]).collect(),
            95 => text.split(':').collect(),
            _ => return None,
        };
        if pairs.len() != digest.len() {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(pairs) {
            let hex = pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(pair, 16).ok().filter(|_| hex)?;
        }
        Some(Self(digest))
    }
}

impl fmt::Display for CertDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece: a formatter call for each byte would cost as much as the rest of a frame.
        let mut text = [b':'; 95];
        let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        for (pair, byte) in text.chunks_mut(3).zip(self.0) {
            for (place, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
                *place = digit(nibble);
            }
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for CertDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a game server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The `id` of a configured server, or what a provider's server is known by: its public address, `IP:PORT`.
    pub server: Box<str>,
    /// Players on it now, if it says so.
    pub players: Option<u32>,
    /// Client ids that came since the last report.
    pub claimed: Vec<u64>,
    /// Client ids that left since then.
    pub left: Vec<u64>,
    /// The digest of its certificate.
    pub cert_digest: Option<CertDigest>,
}

/// Client ids that one report may name.
pub const REPORTED_MAX: usize = 1024;

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// It counts.
    Noted,
    /// There is no such server.
    UnknownServer,
}

/// A server that a provider found, before the player is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The session.
    pub session: SessionName,
    /// Where the player connects.
    pub public: SocketAddr,
    /// The server's own view of that address; empty: the same.
    pub internal: Vec<SocketAddr>,
    /// The digest of its certificate, if the provider knows it.
    pub cert_digest: Option<CertDigest>,
    /// Which key the server has.
    pub key: KeyIndex,
}

/// What comes of requests, and what happens to sessions.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// There is a session for this request.
    Accepted(RequestId, SessionName),
    /// How far it is, such as `Seeking (2)`.
    Progress(RequestId, Box<str>),
    /// The server is there.
    Ready(RequestId, Box<Placement>),
    /// It came to nothing; what was made for it is given back without being told to.
    Failed(RequestId, Failure),
    /// A frame of another matchmaker.
    Forwarded(RequestId, Box<str>),
    /// Another matchmaker's answer in one piece.
    ForwardedOutcome(RequestId, Box<Outcome>),
    /// Another matchmaker has no more to say.
    End(RequestId),
    /// A session's player is on the game server.
    Claimed(SessionName),
    /// A session is over: its player left, or the provider ended it.
    Ended(SessionName),
    /// A request came over NATS. Its answers go to the register's connection with the same number.
    Asked(u64, Seek),
    /// The client id is registered, with the digest of the server's certificate if that was asked for and is known.
    Registered(RequestId, Option<CertDigest>),
    /// It could not be registered.
    NotRegistered(RequestId),
    /// For the metrics.
    Noted(Note),
}

/// What the metrics count of a provider.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Note {
    /// A call of the provider's interface ended, well or not.
    Called {
        /// How long it took.
        took: Duration,
        /// Whether it did what it was for.
        good: bool,
    },
    /// A session was made.
    Created,
    /// A session was deleted.
    Deleted,
    /// A session was not claimed in time; its deletion follows.
    Unclaimed,
    /// A session could not be deleted for so long that nobody tries any more.
    Abandoned,
    /// The connection to NATS: there, or lost.
    Connected(bool),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_on_a_configured_server_is_known_by_its_name() {
        for client_id in [0, 0xab, u64::MAX] {
            let session = SessionName::of_configured(client_id);
            assert_eq!(session.configured_client(), Some(client_id), "{session}");
            assert_eq!(SessionName::new(session.as_str()), Some(session));
        }
        for other in [
            "static-",
            "static-1",
            "static-00000000000000ag",
            "static-00000000000000001",
            "000000000001-S",
        ] {
            assert!(
                SessionName::new(other).is_some_and(|session| !session.is_configured()),
                "{other}"
            );
        }
    }
}
