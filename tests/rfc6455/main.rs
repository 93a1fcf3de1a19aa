//! RFC 6455 and RFC 7692 as far as a server shows them, held against the echo service of `examples/ws_echo.rs` on real
//! sockets.
//!
//! Ordered like the suites that WebSocket servers are commonly held against: sizes, pings, reserved bits and op codes,
//! fragments, UTF-8, closing, limits, compression; before them the opening handshake, after them a client that is not ours.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod closing;
mod deflate;
mod fragments;
mod framing;
mod handshake;
mod limits;
mod other_client;
mod pings;
#[path = "../support/mod.rs"]
mod support;
mod utf8;
#[allow(dead_code, reason = "only its settings are wanted here")]
#[path = "../../examples/ws_echo.rs"]
mod ws_echo;

use std::net::SocketAddr;
use std::time::Duration;

use peer_server::server::{Server, Service};
use support::{Client, ConnectOptions, Event, Frame, Opcode};

/// The echo service on a free port; dropping it stops it.
struct Echo {
    addr: SocketAddr,
    server: Option<Server>,
}

impl Echo {
    /// Without compression.
    fn start() -> Self {
        Self::with(false)
    }

    /// With permessage-deflate for clients that offer it.
    fn deflating() -> Self {
        Self::with(true)
    }

    fn with(deflate: bool) -> Self {
        let server = Server::start(&ws_echo::config(0, deflate), Service::Echo).unwrap();
        Self {
            addr: server.addresses()[0],
            server: Some(server),
        }
    }

    fn connect(&self) -> Client {
        Client::connect(self.addr, ConnectOptions::default())
    }

    /// Connects with an offer of extensions.
    fn offer(&self, extensions: &str) -> Client {
        let options = ConnectOptions {
            extensions: Some(extensions.to_owned()),
            ..ConnectOptions::default()
        };
        Client::connect(self.addr, options)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

/// Sends bytes in pieces of that length, each in a write of its own.
fn send_in_pieces(client: &Client, bytes: &[u8], piece_bytes: usize) {
    for piece in bytes.chunks(piece_bytes) {
        client.try_send_bytes(piece).unwrap();
    }
}

/// Frames as one row of bytes.
fn encoded(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(Frame::encode).collect()
}

/// The next message must be this one. Pings and pongs remain to be taken.
fn expect_message(client: &mut Client, opcode: u8, payload: &[u8]) {
    match client.recv_content(LONG) {
        Some(Event::Message { text, payload: got, .. }) => {
            assert_eq!(
                text,
                opcode == Opcode::TEXT,
                "the kind of a message of {} bytes",
                got.len()
            );
            // Not assert_eq: nobody wants to read megabytes.
            assert!(got == payload, "sent {} bytes, got {} others", payload.len(), got.len());
        }
        Some(other) => panic!("expected {} bytes back, got {}", payload.len(), other.describe()),
        None => panic!("expected {} bytes back, got nothing in time", payload.len()),
    }
}

/// The very next event must be a pong with that data.
fn expect_pong(client: &mut Client, data: &[u8]) {
    assert_eq!(client.recv(LONG), Some(Event::Pong(data.to_vec())));
}

/// The connection must still echo, and nothing may have come before.
fn expect_alive(client: &mut Client) {
    client.send_text("still there?");
    let event = client.recv(LONG);
    assert!(
        matches!(&event, Some(Event::Message { payload, .. }) if payload == b"still there?"),
        "{:?}",
        event.map(|event| event.describe())
    );
}

/// The server must close with that code, end the TCP connection in order, and have sent nothing else.
fn expect_failure(client: &mut Client, code: u16) {
    client.expect_close(code, None);
    client.expect_eof();
    assert_eq!(client.pending(), ["the end of the TCP connection"]);
}

/// Long enough for what must come, megabytes on a busy machine included.
const LONG: Duration = Duration::from_secs(20);
