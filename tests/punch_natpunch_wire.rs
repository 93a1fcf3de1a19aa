//! Clients of natpunch on real sockets, against loops that tell each other by mail.
//!
//! Owns: what only shows there: that whoever was told something may act on it at once.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::UdpSocket;

use peer_server::codec::protobuf::natpunch::{self as wire, message::Content};
use prost::Message as _;
use serde_json::json;
use support::{ANSWER_WITHIN, Server};

struct Client {
    socket: UdpSocket,
    id: String,
}

impl Client {
    /// A registered client.
    fn new(server: &Server) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server.addr()).unwrap();
        socket.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
        let mut client = Self {
            socket,
            id: String::new(),
        };
        let local_endpoint = Some(wire::Endpoint {
            ip_address: "::".to_owned(),
            port: 1,
        });
        client.send(Content::RegisterRequest(wire::RegisterRequest { local_endpoint }));
        let Content::RegisterResponse(response) = client.receive() else {
            panic!("no registration")
        };
        assert!(response.success);
        client.id = response.client_id;
        client
    }

    fn send(&self, content: Content) {
        let message = wire::Message { content: Some(content) };
        self.socket.send(&message.encode_to_vec()).unwrap();
    }

    fn receive(&self) -> Content {
        let mut buffer = [0; 2048];
        let len = self.socket.recv(&mut buffer).unwrap();
        assert!(len <= 1024);
        wire::Message::decode(&buffer[..len]).unwrap().content.unwrap()
    }

    /// Creates a lobby and says its id.
    fn create(&self) -> String {
        self.send(Content::CreateLobbyRequest(wire::CreateLobbyRequest {
            lobby_name: "room".to_owned(),
            client_id: self.id.clone(),
            max_players: 4,
        }));
        match self.receive() {
            Content::CreateLobbyResponse(response) if response.success => response.lobby_id,
            other => panic!("{other:?}"),
        }
    }

    fn list(&self) -> Vec<String> {
        let request_id = format!("req_%!d(string={})", self.id);
        self.send(Content::LobbyListRequest(wire::LobbyListRequest { request_id }));
        match self.receive() {
            Content::LobbyListResponse(list) => list.lobbies.into_iter().map(|lobby| lobby.lobby_id).collect(),
            other => panic!("{other:?}"),
        }
    }
}

fn serve() -> Server {
    // More requests than a player makes, from one address.
    let config = json!({
        "loops": 4, "punch_datagrams_per_sec": 0, "punch_registrations_per_min_per_ip": 0,
        "punch_natpunch_joins_per_sec": 0, "punch_natpunch_lobbies_per_client": 0,
    });
    Server::start(config, &[])
}

#[test]
fn a_lobby_is_listed_first_everywhere_as_soon_as_its_host_knows_of_it() {
    let server = serve();
    let others: Vec<Client> = (0..8).map(|_| Client::new(&server)).collect();
    for _ in 0..20 {
        let host = Client::new(&server);
        for other in &others {
            let lobby = host.create();
            assert_eq!(other.list().first(), Some(&lobby));
        }
    }
}

#[test]
fn who_was_told_of_a_member_may_ask_to_meet_it_at_once() {
    let server = serve();
    for _ in 0..20 {
        let [host, first, second] = [(); 3].map(|()| Client::new(&server));
        let lobby = host.create();
        for joiner in [&first, &second] {
            joiner.send(Content::JoinLobbyRequest(wire::JoinLobbyRequest {
                lobby_id: lobby.clone(),
                client_id: joiner.id.clone(),
            }));
            assert!(matches!(joiner.receive(), Content::JoinLobbyResponse(_)));
            assert!(matches!(joiner.receive(), Content::JoinLobbySuccess(_)));
            assert!(matches!(joiner.receive(), Content::ConnectionInstruction(_)));
            assert!(matches!(host.receive(), Content::ConnectionInstruction(_)));
            host.send(Content::PeerConnectionReady(wire::PeerConnectionReady {
                lobby_id: lobby.clone(),
                new_peer_id: joiner.id.clone(),
            }));
            assert!(matches!(host.receive(), Content::LobbyUpdate(_)));
            assert!(matches!(joiner.receive(), Content::LobbyUpdate(_)));
        }
        // The second is told of the first, and asks for it again.
        assert!(matches!(second.receive(), Content::ConnectionInstruction(_)));
        second.send(Content::ConnectRequest(wire::ConnectRequest {
            destination_client_id: first.id.clone(),
            source_client_id: second.id.clone(),
            ..wire::ConnectRequest::default()
        }));
        match second.receive() {
            Content::ConnectionInstruction(instruction) => assert_eq!(instruction.client_id, first.id),
            other => panic!("{other:?}"),
        }
    }
}
