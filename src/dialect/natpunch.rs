//! Wire messages of the protobuf dialect (natpunch).
//!
//! Owns: its datagrams, to and from `message::natpunch`.
//! Never: keeps a client's state.

use std::net::{IpAddr, SocketAddr};

use prost::Message as _;

use crate::codec::protobuf::natpunch as wire;
use crate::codec::protobuf::natpunch::message::Content;
use crate::dialect::demultiplexer::is_natpunch;
use crate::message::natpunch::{
    Ask, Client, ClientId, DATAGRAM_MAX, Event, ID_MAX, Listed, Lobby, Request, TEXT_CREATED, TEXT_JOINING, TEXT_LEFT,
    TEXT_LISTED,
};

/// Reads one datagram; None: it breaks the rules.
///
/// The frame is strict: one key of a client's message, one minimal length that covers the rest. Inside, unknown fields are
/// skipped; texts must be UTF-8 and ids short.
pub fn parse(datagram: &[u8]) -> Option<Request> {
    if !is_natpunch(datagram) {
        return None;
    }
    let ask = match wire::Message::decode(datagram).ok()?.content? {
        Content::RegisterRequest(request) => Ask::Register {
            local: request.local_endpoint.as_ref().and_then(read_endpoint),
        },
        Content::KeepAlive(request) => Ask::KeepAlive {
            client_id: id(request.client_id)?,
        },
        Content::LobbyListRequest(request) => Ask::List {
            request_id: id(request.request_id)?,
        },
        Content::CreateLobbyRequest(request) => Ask::Create {
            client_id: id(request.client_id)?,
            name: request.lobby_name,
            players_max: request.max_players,
        },
        Content::JoinLobbyRequest(request) => Ask::Join {
            client_id: id(request.client_id)?,
            lobby_id: id(request.lobby_id)?,
        },
        Content::LeaveLobbyRequest(request) => Ask::Leave {
            client_id: id(request.client_id)?,
            lobby_id: id(request.lobby_id)?,
        },
        Content::PeerConnectionReady(request) => Ask::Ready {
            lobby_id: id(request.lobby_id)?,
            peer_id: id(request.new_peer_id)?,
        },
        Content::ConnectRequest(request) => Ask::Connect {
            client_id: id(request.source_client_id)?,
            peer_id: id(request.destination_client_id)?,
        },
        Content::DebugMessage(_) => Ask::Debug,
        _ => return None,
    };
    let bytes = datagram.len() as u32;
    Some(Request { bytes, ask })
}

/// Appends one datagram; none if it would be longer than a client reads, which the core takes care of.
pub fn push(out: &mut Vec<u8>, event: &Event) {
    let message = wire::Message {
        content: Some(content(event)),
    };
    let len = message.encoded_len();
    debug_assert!(len <= DATAGRAM_MAX, "{len} bytes for {event:?}");
    if len <= DATAGRAM_MAX {
        message.encode_raw(out);
    }
}

fn content(event: &Event) -> Content {
    let success = true;
    match event {
        Event::Registered { id, public } => Content::RegisterResponse(wire::RegisterResponse {
            success,
            public_endpoint: Some(endpoint(*public)),
            client_id: id.to_string(),
            message: String::new(),
        }),
        Event::Created { lobby, name } => Content::CreateLobbyResponse(wire::CreateLobbyResponse {
            success,
            lobby_id: lobby.to_string(),
            lobby_name: name.to_string(),
            message: TEXT_CREATED.to_owned(),
        }),
        Event::Joining { lobby } => Content::JoinLobbyResponse(wire::JoinLobbyResponse {
            success,
            lobby_id: lobby.to_string(),
            message: TEXT_JOINING.to_owned(),
            lobby_members: Vec::new(),
        }),
        Event::Joined { lobby, members } => Content::JoinLobbySuccess(wire::JoinLobbySuccess {
            success,
            lobby_id: lobby.to_string(),
            message: String::new(),
            lobby_members: members.iter().map(|(id, public)| member(*id, *public)).collect(),
        }),
        Event::Punch { peer, public, local } => Content::ConnectionInstruction(wire::ConnectionInstruction {
            accepted: true,
            client_id: peer.to_string(),
            public_endpoint: Some(endpoint(*public)),
            local_endpoint: Some(endpoint(*local)),
            ..wire::ConnectionInstruction::default()
        }),
        Event::Update { lobby, change } => Content::LobbyUpdate(wire::LobbyUpdate {
            lobby_id: lobby.id.to_string(),
            lobby_info: Some(info(lobby, true)),
            update_type: change.text().to_owned(),
        }),
        Event::List { request_id, lobbies } => Content::LobbyListResponse(wire::LobbyListResponse {
            success,
            request_id: request_id.clone(),
            lobbies: lobbies
                .iter()
                .map(|Listed { lobby, with_members }| info(lobby, *with_members))
                .collect(),
            message: TEXT_LISTED.to_owned(),
        }),
        Event::PeerLeft { peer } => Content::PeerLeft(wire::PeerLeft {
            client_id: peer.to_string(),
        }),
        Event::Left => Content::LeaveLobbyResponse(wire::LeaveLobbyResponse {
            success,
            message: TEXT_LEFT.to_owned(),
        }),
        Event::Refused(refusal) => Content::Error(wire::Error {
            message: refusal.text().into_owned(),
        }),
    }
}

fn info(lobby: &Lobby, with_members: bool) -> wire::LobbyInfo {
    let members = lobby.members.iter().filter(|_| with_members);
    wire::LobbyInfo {
        lobby_id: lobby.id.to_string(),
        lobby_name: lobby.name.to_string(),
        host_client_id: lobby.host().map(|host| host.id.to_string()).unwrap_or_default(),
        current_players: lobby.members.len() as u32,
        max_players: u32::from(lobby.players_max),
        members: members
            .map(|client: &Client| member(client.id, client.path.remote))
            .collect(),
    }
}

fn member(id: ClientId, public: SocketAddr) -> wire::ClientInfo {
    wire::ClientInfo {
        client_id: id.to_string(),
        public_endpoint: Some(endpoint(public)),
    }
}

fn endpoint(endpoint: SocketAddr) -> wire::Endpoint {
    wire::Endpoint {
        ip_address: endpoint.ip().to_string(),
        port: u32::from(endpoint.port()),
    }
}

/// An endpoint that says something: an address with a port, and not the unspecified one.
fn read_endpoint(endpoint: &wire::Endpoint) -> Option<SocketAddr> {
    let ip: IpAddr = endpoint.ip_address.parse().ok()?;
    let port = u16::try_from(endpoint.port).ok()?;
    let ip = ip.to_canonical();
    (!ip.is_unspecified() && port != 0).then_some(SocketAddr::new(ip, port))
}

fn id(text: String) -> Option<String> {
    (text.len() <= ID_MAX).then_some(text)
}
