//! The messages: protobuf, one in a datagram.
//!
//! Owns: every field's number and type, and how addresses are written as text.
//! Never: decides what follows from a message (see the client).

use std::net::{IpAddr, SocketAddr};

use prost::{Message as _, Oneof};

/// Bytes of the longest datagram that anyone sends or reads.
pub(crate) const DATAGRAM_MAX: usize = 1024;

/// What a message is.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Body {
    #[prost(message, tag = "1")]
    RegisterRequest(RegisterRequest),
    #[prost(message, tag = "2")]
    RegisterResponse(RegisterResponse),
    #[prost(message, tag = "5")]
    ConnectRequest(ConnectRequest),
    #[prost(message, tag = "6")]
    ConnectionInstruction(ConnectionInstruction),
    #[prost(message, tag = "7")]
    ConnectionEstablished(ConnectionEstablished),
    #[prost(message, tag = "8")]
    Error(Words),
    #[prost(message, tag = "9")]
    KeepAlive(Client),
    #[prost(message, tag = "10")]
    DebugMessage(Words),
    #[prost(message, tag = "11")]
    CreateLobbyRequest(CreateLobbyRequest),
    #[prost(message, tag = "12")]
    CreateLobbyResponse(CreateLobbyResponse),
    #[prost(message, tag = "13")]
    JoinLobbyRequest(LobbyAndClient),
    #[prost(message, tag = "14")]
    JoinLobbyResponse(Joined),
    #[prost(message, tag = "15")]
    LobbyListRequest(LobbyListRequest),
    #[prost(message, tag = "16")]
    LobbyListResponse(LobbyListResponse),
    #[prost(message, tag = "17")]
    LobbyUpdate(LobbyUpdate),
    #[prost(message, tag = "18")]
    Ping(Probe),
    #[prost(message, tag = "19")]
    Pong(Probe),
    #[prost(message, tag = "20")]
    LeaveLobbyRequest(LobbyAndClient),
    #[prost(message, tag = "21")]
    LeaveLobbyResponse(LeaveLobbyResponse),
    #[prost(message, tag = "22")]
    PeerLeft(Client),
    #[prost(message, tag = "23")]
    PeerConnectionReady(LobbyAndClient),
    #[prost(message, tag = "24")]
    JoinLobbySuccess(Joined),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(
        oneof = "Body",
        tags = "1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24"
    )]
    body: Option<Body>,
}

impl Body {
    pub(crate) fn into_datagram(self) -> Vec<u8> {
        Envelope { body: Some(self) }.encode_to_vec()
    }

    /// None if the datagram is too long, no protobuf, or of a kind that is not known.
    pub(crate) fn from_datagram(datagram: &[u8]) -> Option<Self> {
        let fits = datagram.len() <= DATAGRAM_MAX;
        Envelope::decode(datagram).ok().filter(|_| fits)?.body
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Endpoint {
    #[prost(string, tag = "1")]
    pub(crate) ip_address: String,
    #[prost(uint32, tag = "2")]
    pub(crate) port: u32,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self {
            ip_address: address.ip().to_string(),
            port: address.port().into(),
        }
    }
}

impl Endpoint {
    /// The address, if it is one to which a packet can be sent.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.ip_address.parse().ok()?;
        let port = u16::try_from(self.port).ok().filter(|port| *port != 0)?;
        let usable = !ip.is_unspecified() && !ip.is_multicast();
        usable.then_some(SocketAddr::new(ip.to_canonical(), port))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ClientInfo {
    #[prost(string, tag = "1")]
    pub(crate) client_id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) public_endpoint: Option<Endpoint>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LobbyInfo {
    #[prost(string, tag = "1")]
    pub(crate) lobby_id: String,
    #[prost(string, tag = "2")]
    pub(crate) lobby_name: String,
    #[prost(string, tag = "3")]
    pub(crate) host_client_id: String,
    #[prost(uint32, tag = "4")]
    pub(crate) current_players: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) max_players: u32,
    #[prost(message, repeated, tag = "6")]
    pub(crate) members: Vec<ClientInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegisterRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) local_endpoint: Option<Endpoint>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegisterResponse {
    #[prost(bool, tag = "1")]
    pub(crate) success: bool,
    #[prost(message, optional, tag = "2")]
    pub(crate) public_endpoint: Option<Endpoint>,
    #[prost(string, tag = "3")]
    pub(crate) client_id: String,
    #[prost(string, tag = "4")]
    pub(crate) message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ConnectRequest {
    #[prost(string, tag = "1")]
    pub(crate) destination_client_id: String,
    #[prost(string, tag = "2")]
    pub(crate) source_client_id: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) local_endpoint: Option<Endpoint>,
    #[prost(uint32, tag = "4")]
    pub(crate) attempt_number: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ConnectionInstruction {
    #[prost(bool, tag = "1")]
    pub(crate) accepted: bool,
    #[prost(string, tag = "2")]
    pub(crate) client_id: String,
    #[prost(string, tag = "3")]
    pub(crate) message: String,
    #[prost(int32, tag = "4")]
    pub(crate) nat_type: i32,
    #[prost(uint32, tag = "5")]
    pub(crate) attempt_number: u32,
    #[prost(message, optional, tag = "6")]
    pub(crate) public_endpoint: Option<Endpoint>,
    #[prost(message, optional, tag = "7")]
    pub(crate) local_endpoint: Option<Endpoint>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ConnectionEstablished {
    #[prost(string, tag = "1")]
    pub(crate) message: String,
    #[prost(string, tag = "2")]
    pub(crate) client_id: String,
}

/// Error, DebugMessage.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Words {
    #[prost(string, tag = "1")]
    pub(crate) message: String,
}

/// KeepAlive, PeerLeft.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Client {
    #[prost(string, tag = "1")]
    pub(crate) client_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CreateLobbyRequest {
    #[prost(string, tag = "1")]
    pub(crate) lobby_name: String,
    #[prost(string, tag = "2")]
    pub(crate) client_id: String,
    #[prost(uint32, tag = "3")]
    pub(crate) max_players: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CreateLobbyResponse {
    #[prost(bool, tag = "1")]
    pub(crate) success: bool,
    #[prost(string, tag = "2")]
    pub(crate) lobby_id: String,
    #[prost(string, tag = "3")]
    pub(crate) lobby_name: String,
    #[prost(string, tag = "4")]
    pub(crate) message: String,
}

/// JoinLobbyRequest, LeaveLobbyRequest; PeerConnectionReady, whose client is the new peer.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LobbyAndClient {
    #[prost(string, tag = "1")]
    pub(crate) lobby_id: String,
    #[prost(string, tag = "2")]
    pub(crate) client_id: String,
}

/// JoinLobbyResponse, JoinLobbySuccess.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Joined {
    #[prost(bool, tag = "1")]
    pub(crate) success: bool,
    #[prost(string, tag = "2")]
    pub(crate) lobby_id: String,
    #[prost(string, tag = "3")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "4")]
    pub(crate) lobby_members: Vec<ClientInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LobbyListRequest {
    #[prost(string, tag = "1")]
    pub(crate) request_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LobbyListResponse {
    #[prost(bool, tag = "1")]
    pub(crate) success: bool,
    #[prost(string, tag = "2")]
    pub(crate) request_id: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) lobbies: Vec<LobbyInfo>,
    #[prost(string, tag = "4")]
    pub(crate) message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LobbyUpdate {
    #[prost(string, tag = "1")]
    pub(crate) lobby_id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) lobby_info: Option<LobbyInfo>,
    #[prost(string, tag = "3")]
    pub(crate) update_type: String,
}

/// Ping, Pong.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Probe {
    #[prost(string, tag = "1")]
    pub(crate) source_client_id: String,
    #[prost(string, tag = "2")]
    pub(crate) destination_client_id: String,
    #[prost(uint32, tag = "3")]
    pub(crate) sequence_number: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LeaveLobbyResponse {
    #[prost(bool, tag = "1")]
    pub(crate) success: bool,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_or_nothing() {
        let at = |ip: &str, port| {
            let ip_address = ip.to_owned();
            Endpoint { ip_address, port }
                .address()
                .map(|address| address.to_string())
        };
        assert_eq!(at("127.0.0.1", 7).as_deref(), Some("127.0.0.1:7"));
        assert_eq!(at("::ffff:10.0.0.1", 7).as_deref(), Some("10.0.0.1:7"));
        assert_eq!(at("2001:db8::1", 65535).as_deref(), Some("[2001:db8::1]:65535"));
        for (ip, port) in [
            ("::", 7),
            ("0.0.0.0", 7),
            ("127.0.0.1", 0),
            ("127.0.0.1", 65536),
            ("", 7),
            ("host", 7),
            ("224.0.0.1", 7),
        ] {
            assert_eq!(at(ip, port), None, "{ip} {port}");
        }
    }
}
