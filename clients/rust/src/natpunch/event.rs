//! What a client tells its user.

use std::net::SocketAddr;

use super::message::LobbyInfo;

/// A lobby, as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lobby {
    /// What it is joined by.
    pub id: String,
    /// What its host calls it.
    pub name: String,
    /// The host's id.
    pub host: String,
    /// How many are in it.
    pub players: u32,
    /// How many fit.
    pub max_players: u32,
    /// The ids of those in it; a server may tell only members.
    pub members: Vec<String>,
}

impl From<LobbyInfo> for Lobby {
    fn from(info: LobbyInfo) -> Self {
        Self {
            id: info.lobby_id,
            name: info.lobby_name,
            host: info.host_client_id,
            players: info.current_players,
            max_players: info.max_players,
            members: info.members.into_iter().map(|member| member.client_id).collect(),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server knows this client.
    Registered {
        /// The client's id.
        id: String,
        /// Its address as the server sees it.
        public: Option<SocketAddr>,
    },
    /// The server answered no registration. The client is as at its making.
    RegistrationFailed,
    /// The answer to `list`.
    Lobbies(Vec<Lobby>),
    /// The answer to `create`: the client is the host of this lobby.
    LobbyCreated {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// The server is bringing this client and a lobby's host together.
    Joining {
        /// The lobby's id.
        id: String,
    },
    /// The client is in this lobby, or the lobby has changed.
    LobbyChanged(Lobby),
    /// A player is being punched.
    Punching {
        /// Its id.
        peer: String,
        /// Where the server sees it.
        public: SocketAddr,
    },
    /// A player's packet has arrived.
    Connected {
        /// Its id.
        peer: String,
        /// Where it came from.
        from: SocketAddr,
    },
    /// No packet of a player has arrived for ten seconds.
    Unreachable {
        /// Its id.
        peer: String,
    },
    /// The answer to a ping: datagrams pass both ways.
    Pong {
        /// The player's id.
        peer: String,
        /// Where the answer came from.
        from: SocketAddr,
        /// How long it took.
        round_trip_ms: u64,
    },
    /// A player has left the lobby.
    PeerLeft {
        /// Its id.
        peer: String,
    },
    /// The answer to `leave`.
    Left,
    /// The server refused something, in its words.
    Refused(String),
}
