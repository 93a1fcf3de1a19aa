//! Two clients of simple-hole-punch on real sockets: they meet through the server and talk directly.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{SocketAddr, UdpSocket};

use peer_server::dialect::simple;
use peer_server::message::simple::{Asked, Request};
use serde_json::json;
use support::{ANSWER_WITHIN, Server};

struct Client {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Client {
    fn new(server: &Server) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
        let server = server.addr();
        Self { socket, server }
    }

    fn say(&self, datagram: &str) {
        self.socket.send_to(datagram.as_bytes(), self.server).unwrap();
    }

    /// The fields of the next datagram of the server, its verb first.
    fn hear(&self) -> Vec<String> {
        let mut buffer = [0; 128];
        let (len, from) = self.socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, self.server);
        let text = std::str::from_utf8(&buffer[..len]).unwrap();
        text.split(':').map(str::to_owned).collect()
    }

    fn punch(&self, key: &str) {
        self.socket.send_to(b"RD:name", address(key)).unwrap();
    }

    fn is_punched_by(&self, key: &str) {
        let mut buffer = [0; 128];
        let (len, from) = self.socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&b"RD:name"[..], address(key)));
    }
}

/// What a key says: it stands where an id has the server's.
fn address(key: &str) -> SocketAddr {
    let datagram = format!("JS:cyahoa:{key}cycy");
    match simple::parse(datagram.as_bytes(), None) {
        Ok(Request::Join {
            asked: Asked::Id(id), ..
        }) => SocketAddr::V4(id.server.into()),
        other => panic!("{key}: {other:?}"),
    }
}

#[test]
fn host_and_joiner_meet_and_talk() {
    for loops in [1, 4] {
        let server = Server::start(json!({ "loops": loops }), &[]);
        let (host, joiner) = (Client::new(&server), Client::new(&server));
        host.say("HS:wzgjahmswevl");
        let registered = host.hear();
        assert_eq!((&*registered[0], registered.len()), ("HR", 3));
        assert_eq!(address(&registered[1]), host.socket.local_addr().unwrap());
        let id = &registered[2];
        assert_eq!(address(&id[..12]), server.addr());
        joiner.say(&format!("JS:wzgjahmswevl:{id}"));
        let (joined, announced) = (joiner.hear(), host.hear());
        assert_eq!((&*joined[0], &*announced[0]), ("JR", "NJ"));
        // Both have one address: each is told where the other is in their own network.
        assert_eq!((&*joined[3], &*announced[2]), ("wzgjahmswevl", "wzgjahmswevl"));
        host.punch(&announced[1]);
        joiner.punch(&joined[2]);
        host.is_punched_by(&joined[1]);
        joiner.is_punched_by(&registered[1]);
        host.say(&format!("CS:{id}"));
        // The host's datagrams stand in order: its session is over when it is answered anew.
        host.say("HS:wzgjahmswevl");
        assert_ne!(host.hear()[2], *id);
        let late = Client::new(&server);
        late.say(&format!("JS:wzgjahmswevl:{id}"));
        assert_eq!(late.hear(), ["BK", id]);
    }
}

#[test]
fn two_who_ask_for_anybody_meet_and_talk() {
    for loops in [1, 4] {
        let server = Server::start(json!({ "loops": loops }), &[]);
        let (first, second) = (Client::new(&server), Client::new(&server));
        first.say("RS:wzgjahmswevl");
        let registered = first.hear();
        assert_eq!(registered[0], "HR");
        second.say("RS:wzgjahmswevl");
        let (joined, announced) = (second.hear(), first.hear());
        assert_eq!((&*joined[0], &*announced[0]), ("JR", "NJ"));
        first.punch(&announced[1]);
        second.punch(&joined[2]);
        first.is_punched_by(&joined[1]);
        second.is_punched_by(&registered[1]);
    }
}
