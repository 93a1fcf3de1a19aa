//! The same service in the eyes of a client that is not ours: tungstenite's.

use std::net::TcpStream;

use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use super::{Echo, LONG};

fn connect(echo: &Echo) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(echo.addr).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let url = format!("ws://{}/", echo.addr);
    let config = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
    tungstenite::client::client_with_config(url, stream, Some(config))
        .unwrap()
        .0
}

#[test]
fn messages_come_back() {
    let echo = Echo::start();
    let mut client = connect(&echo);
    for len in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        for message in [Message::text("é".repeat(len / 2)), Message::binary(vec![0xfe; len])] {
            client.send(message.clone()).unwrap();
            assert!(client.read().unwrap() == message, "{len} bytes");
        }
    }
}

#[test]
fn pings_are_answered_and_pongs_are_not() {
    let echo = Echo::start();
    let mut client = connect(&echo);
    client.send(Message::Pong("unsolicited".into())).unwrap();
    client.send(Message::Ping("data".into())).unwrap();
    assert_eq!(client.read().unwrap(), Message::Pong("data".into()));
}

#[test]
fn the_client_closes() {
    let echo = Echo::start();
    let mut client = connect(&echo);
    let frame = CloseFrame {
        code: CloseCode::Library(4321),
        reason: "bye".into(),
    };
    client.close(Some(frame)).unwrap();
    match client.read().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 4321),
        other => panic!("{other:?}"),
    }
    assert!(matches!(client.read(), Err(Error::ConnectionClosed)));
}

#[test]
fn the_server_closes() {
    let mut echo = Echo::start();
    let mut client = connect(&echo);
    let server = echo.server.take().unwrap();
    let stopping = std::thread::spawn(move || server.stop());
    match client.read().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Away),
        other => panic!("{other:?}"),
    }
    assert!(matches!(client.read(), Err(Error::ConnectionClosed)));
    stopping.join().unwrap();
}
