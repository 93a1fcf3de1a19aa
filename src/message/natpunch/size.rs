//! How long the datagram of an event is: the core must know it before it promises something or answers an unproved address.
//!
//! Owns: the arithmetic; `dialect::natpunch` has the test that it is the encoder's.
//! Never: writes a byte.

use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};

use super::{Client, ClientId, Event, Listed, Lobby, LobbyId};
use super::{TEXT_CREATED, TEXT_JOINING, TEXT_LEFT, TEXT_LISTED};

impl Event {
    /// Bytes of its datagram.
    pub fn datagram_len(&self) -> usize {
        let (key, body) = match self {
            Self::Registered { public, .. } => (1, FLAG + part(endpoint(*public)) + ID),
            Self::Created { name, .. } => (1, FLAG + LOBBY + text(name.len()) + text(TEXT_CREATED.len())),
            Self::Joining { .. } => (1, FLAG + LOBBY + text(TEXT_JOINING.len())),
            Self::Joined { members, .. } => {
                let members = members.iter().map(|(_, public)| member(endpoint(*public)));
                (2, FLAG + LOBBY + members.sum::<usize>())
            }
            Self::Punch { public, local, .. } => (1, FLAG + ID + part(endpoint(*public)) + part(endpoint(*local))),
            Self::Update { lobby, change } => (2, LOBBY + part(lobby.len(true, endpoint)) + text(change.text().len())),
            Self::List { request_id, lobbies } => {
                let lobbies = lobbies.iter().map(Listed::added_len).sum::<usize>();
                (2, FLAG + text(request_id.len()) + lobbies + text(TEXT_LISTED.len()))
            }
            Self::PeerLeft { .. } => (2, ID),
            Self::Left => (2, FLAG + text(TEXT_LEFT.len())),
            Self::Refused(refusal) => (1, text(refusal.text().len())),
        };
        key + varint(body as u64) + body
    }
}

impl Listed {
    /// Bytes that it adds to the body of [`Event::List`].
    pub fn added_len(&self) -> usize {
        part(self.lobby.len(self.with_members, endpoint))
    }
}

impl Lobby {
    /// Bytes of [`Event::Update`] at most, with members that join as well, whatever ports they may move to.
    pub fn update_len_max<'a>(&self, joining: impl Iterator<Item = &'a Client>) -> usize {
        let joining = joining.map(|client| member(endpoint_max(client.path.remote)));
        let info = self.len(true, endpoint_max) + joining.sum::<usize>();
        let body = LOBBY + part(info) + text("player_joined".len());
        2 + varint(body as u64) + body
    }

    fn len(&self, with_members: bool, endpoint: fn(SocketAddr) -> usize) -> usize {
        let members = self.members.iter().filter(|_| with_members);
        let members = members.map(|client| member(endpoint(client.path.remote)));
        let counts = number(self.members.len() as u64) + number(u64::from(self.players_max));
        LOBBY + text(self.name.len()) + ID + counts + members.sum::<usize>()
    }
}

/// A client's id and public endpoint, as a part.
fn member(endpoint: usize) -> usize {
    part(ID + part(endpoint))
}

fn endpoint(endpoint: SocketAddr) -> usize {
    text(ip_len(endpoint.ip())) + number(u64::from(endpoint.port()))
}

/// With the longest port: a client may move to another one.
fn endpoint_max(endpoint: SocketAddr) -> usize {
    text(ip_len(endpoint.ip())) + number(u64::from(u16::MAX))
}

fn ip_len(ip: IpAddr) -> usize {
    struct Length(usize);
    impl Write for Length {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut length = Length(0);
    // Counting cannot fail.
    let _ = write!(length, "{ip}");
    length.0
}

/// A field of text: an empty one is left out. All inner fields have keys of one byte.
fn text(len: usize) -> usize {
    match len {
        0 => 0,
        len => part(len),
    }
}

/// A field with a length before it.
fn part(len: usize) -> usize {
    1 + varint(len as u64) + len
}

/// A field with a number: 0 is left out.
fn number(value: u64) -> usize {
    match value {
        0 => 0,
        value => 1 + varint(value),
    }
}

/// Seven bits to the byte.
fn varint(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// `success` and `accepted`, which are always true.
const FLAG: usize = 2;
/// A field with a client's id.
const ID: usize = 2 + ClientId::TEXT_LEN;
/// A field with a lobby's id.
const LOBBY: usize = 2 + LobbyId::TEXT_LEN;
