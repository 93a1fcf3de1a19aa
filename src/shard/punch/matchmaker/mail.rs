//! What connections with their sessions, lobbies and addresses tell each other.
//!
//! Owns: the words.
//! Never: acts on them.

use std::net::SocketAddr;

use crate::ids::{ConnId, LoopId};
use crate::message::matchmaker::{Code, Refusal, SessionId};
use crate::message::punch::Path;

/// To the loop of a connection.
#[derive(Debug)]
pub enum ToSession {
    /// Whether this client IP may have one more connection.
    Admitted {
        /// The connection.
        conn: ConnId,
        /// Where it comes from.
        remote: SocketAddr,
        /// It may.
        granted: bool,
    },
    /// Whether this client IP may have one more session.
    Granted {
        /// The connection that asked.
        conn: ConnId,
        /// Where it comes from.
        remote: SocketAddr,
        /// It may.
        granted: bool,
    },
    /// What a lobby's home says.
    Answered {
        /// The connection that asked.
        conn: ConnId,
        /// The session that it asked for.
        session: SessionId,
        /// The lobby; None: what was asked for is no code.
        code: Option<Code>,
        /// What it says.
        answer: Answer,
    },
    /// Somebody says that an address is this session's.
    Claimed {
        /// Whose.
        session: SessionId,
        /// The address.
        path: Path,
        /// To be acknowledged.
        sequence: u16,
        /// Where its datagrams arrive.
        from: LoopId,
    },
    /// The address was another session's already.
    Taken {
        /// Whose it was to be.
        session: SessionId,
        /// The address.
        path: Path,
    },
    /// A keep alive came from the session's address.
    Heard {
        /// Whose.
        session: SessionId,
    },
    /// A lobby starts: where is this member?
    Called {
        /// The member.
        session: SessionId,
        /// The lobby.
        code: Code,
    },
    /// It has started.
    Over {
        /// A member.
        session: SessionId,
        /// Where the others are; None: this one was not heard in time.
        peers: Option<Vec<SocketAddr>>,
    },
    /// A lobby became too old.
    Gone {
        /// A member.
        session: SessionId,
        /// The lobby.
        code: Code,
    },
}

/// What a lobby's home says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There it is.
    Created,
    /// Another lobby has this code.
    Collides,
    /// It is a member.
    Joined,
    /// The members are called.
    Started,
    /// No.
    Refused(Refusal),
}

/// To the home of a code.
#[derive(Debug)]
pub enum ToLobby {
    /// A lobby is wanted.
    Create {
        /// Its code, if no other has it.
        code: Code,
        /// By whom.
        by: Asker,
    },
    /// Somebody wants to be in it.
    Join {
        /// Which.
        code: Code,
        /// Who.
        by: Asker,
    },
    /// Somebody wants it to start.
    Start {
        /// Which.
        code: Code,
        /// Who.
        by: Asker,
    },
    /// A member's session is over, or in another lobby that started.
    Left {
        /// Which.
        code: Code,
        /// Whose.
        session: SessionId,
    },
    /// A member of a lobby that starts is here.
    Ready {
        /// Which.
        code: Code,
        /// Whose.
        session: SessionId,
        /// Where.
        at: SocketAddr,
    },
}

/// Who asks, over which connection.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Its session.
    pub session: SessionId,
    /// Its connection, on the session's loop.
    pub conn: ConnId,
    /// That loop.
    pub home: LoopId,
    /// Where the connection comes from. The session's datagrams seldom come from the other address family.
    pub remote: SocketAddr,
}

/// To the loop of an address.
#[derive(Debug)]
pub enum ToEndpoint {
    /// A claim is believed: the address is this session's.
    Bind {
        /// The address.
        path: Path,
        /// Whose.
        session: SessionId,
        /// Where that is.
        home: LoopId,
        /// The claim's sequence number, to be acknowledged; None: it was a moment ago.
        sequence: Option<u16>,
    },
    /// It no longer is.
    Unbind {
        /// The address.
        remote: SocketAddr,
        /// Whose it was.
        session: SessionId,
    },
    /// The last that the session is told, until it is acknowledged.
    Deliver {
        /// Its address.
        path: Path,
        /// Whose.
        session: SessionId,
        /// Where that is.
        home: LoopId,
        /// Where the others are.
        peers: Vec<SocketAddr>,
    },
}
