//! The messages: two letters, a colon, and fields with colons between them, one message in a datagram.
//!
//! Owns: how they are written and read.
//! Never: decides what follows from one (see the client), or looks into a key (see `key`).

use std::fmt;

/// A message, with its keys as they travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// `HS`, to the server: open a session.
    HostSession {
        /// The sender's address in its own network.
        local: &'a str,
    },
    /// `HR`, from the server: the session is open.
    HostRegistered {
        /// The receiver's address as the server sees it.
        remote: &'a str,
        /// What others join by.
        session: &'a str,
    },
    /// `JS`, to the server: join a session.
    JoinSession {
        /// The sender's address in its own network.
        local: &'a str,
        /// The session's id.
        session: &'a str,
    },
    /// `JR`, from the server: joined; punch towards the host.
    JoinRegistered {
        /// The receiver's address as the server sees it.
        remote: &'a str,
        /// The host's address as the server sees it.
        host_remote: &'a str,
        /// The host's address in its own network.
        host_local: &'a str,
    },
    /// `NJ`, from the server to a host: somebody joined; punch towards it.
    NewJoiner {
        /// The joiner's address as the server sees it.
        remote: &'a str,
        /// The joiner's address in its own network.
        local: &'a str,
    },
    /// `BK`, from the server: there is no such session.
    BadKey {
        /// The id that was asked for.
        session: &'a str,
    },
    /// `RS`, to the server: pair me with anybody.
    RandomSession {
        /// The sender's address in its own network.
        local: &'a str,
    },
    /// `KA`, from a host to the server: the session lives.
    KeepAlive {
        /// The session's id.
        session: &'a str,
    },
    /// `CS`, from a host to the server: the session is complete.
    CloseSession {
        /// The session's id.
        session: &'a str,
    },
    /// `RD`, between peers: a punch, with the names of the players whom the sender knows.
    Ready {
        /// The names, with colons between them, the sender's own first.
        names: &'a str,
    },
    /// `JH`, from a host to a joiner: stop punching and play.
    JoinHost {
        /// The host's own key.
        host: &'a str,
    },
    /// `JD`, from a joiner to its host: done with punching.
    JoinDone {
        /// `DONE`.
        word: &'a str,
    },
}

/// Bytes of the longest message that is read. Only names can make one as long.
pub const MESSAGE_MAX: usize = 1024;

impl<'a> Message<'a> {
    /// Reads a datagram; None if it is no message.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        if datagram.len() > MESSAGE_MAX {
            return None;
        }
        let text = std::str::from_utf8(datagram).ok()?;
        let (verb, rest) = text.split_once(':')?;
        if verb == "RD" {
            return Some(Self::Ready { names: rest });
        }
        let mut fields = rest.split(':');
        let mut field = || fields.next().filter(|field| is_plain(field));
        let message = match verb {
            "HS" => Self::HostSession { local: field()? },
            "HR" => Self::HostRegistered {
                remote: field()?,
                session: field()?,
            },
            "JS" => Self::JoinSession {
                local: field()?,
                session: field()?,
            },
            "JR" => Self::JoinRegistered {
                remote: field()?,
                host_remote: field()?,
                host_local: field()?,
            },
            "NJ" => Self::NewJoiner {
                remote: field()?,
                local: field()?,
            },
            "BK" => Self::BadKey { session: field()? },
            "RS" => Self::RandomSession { local: field()? },
            "KA" => Self::KeepAlive { session: field()? },
            "CS" => Self::CloseSession { session: field()? },
            "JH" => Self::JoinHost { host: field()? },
            "JD" => Self::JoinDone { word: field()? },
            _ => return None,
        };
        fields.next().is_none().then_some(message)
    }
}

/// The message as it travels.
impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostSession { local } => write!(f, "HS:{local}"),
            Self::HostRegistered { remote, session } => write!(f, "HR:{remote}:{session}"),
            Self::JoinSession { local, session } => write!(f, "JS:{local}:{session}"),
            Self::JoinRegistered {
                remote,
                host_remote,
                host_local,
            } => write!(f, "JR:{remote}:{host_remote}:{host_local}"),
            Self::NewJoiner { remote, local } => write!(f, "NJ:{remote}:{local}"),
            Self::BadKey { session } => write!(f, "BK:{session}"),
            Self::RandomSession { local } => write!(f, "RS:{local}"),
            Self::KeepAlive { session } => write!(f, "KA:{session}"),
            Self::CloseSession { session } => write!(f, "CS:{session}"),
            Self::Ready { names } => write!(f, "RD:{names}"),
            Self::JoinHost { host } => write!(f, "JH:{host}"),
            Self::JoinDone { word } => write!(f, "JD:{word}"),
        }
    }
}

/// Keys and ids are visible ASCII, and no longer than a server would make them.
fn is_plain(field: &str) -> bool {
    !field.is_empty() && field.len() <= 64 && field.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "HS:a", "HR:a:b", "JS:a:b", "JR:a:b:c", "NJ:a:b", "BK:a", "RS:a", "KA:a", "CS:a", "RD:", "RD:a:b", "JH:a",
            "JD:DONE",
        ] {
            assert_eq!(Message::parse(text.as_bytes()).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_lacks_a_field_or_has_one_more_is_no_message() {
        for text in [
            "", "HR", "HR:", "HR:a", "HR:a:", "HR::b", "HR:a:b:c", "JR:a:b", "NJ:a", "XX:a", "hr:a:b", "HRa:b",
            "HR:a:b c",
        ] {
            assert_eq!(Message::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Message::parse(b"BK:\xff"), None);
        assert_eq!(
            Message::parse(format!("RD:{}", "n".repeat(MESSAGE_MAX)).as_bytes()),
            None
        );
        assert_eq!(Message::parse(format!("BK:{}", "n".repeat(65)).as_bytes()), None);
    }
}
