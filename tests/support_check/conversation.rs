//! The client against tungstenite.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tungstenite::Message;
use tungstenite::protocol::{CloseFrame, WebSocket, frame::coding::CloseCode};

use crate::support::{Certificate, Client, Closed, ConnectOptions, Event, Frame, Opcode, WireOptions, trust_anything};
use crate::{A_MOMENT, LONG, listen, serve};

fn say<S: Read + Write>(socket: &mut WebSocket<S>, message: Message) {
    socket.send(message).unwrap();
}

#[test]
fn messages_of_every_length_form_arrive_both_ways() {
    let (addr, server) = serve(|mut socket| {
        for _ in 0..6 {
            let message = socket.read().unwrap();
            say(&mut socket, message);
        }
    });
    let mut client = Client::connect(addr, ConnectOptions::default());
    for length in [0, 125, 126, 65535, 65536] {
        let text = "é".repeat(length / 2) + &"x".repeat(length % 2);
        client.send_text(&text);
        let expected = Event::Message {
            text: true,
            payload: text.into_bytes(),
            compressed: false,
            frames: 1,
        };
        assert_eq!(client.recv(LONG), Some(expected));
    }
    client
        .try_send_frames(&[
            Frame::new(Opcode::BINARY, *b"ab").more(),
            Frame::new(Opcode::CONTINUATION, *b"cd"),
        ])
        .unwrap();
    let expected = Event::Message {
        text: false,
        payload: b"abcd".to_vec(),
        compressed: false,
        frames: 1,
    };
    assert_eq!(client.recv(LONG), Some(expected));
    server.join().unwrap();
}

#[test]
fn json_is_matched() {
    let (addr, server) = serve(|mut socket| {
        assert_eq!(socket.read().unwrap().to_text().unwrap(), r#"{"type":"ping"}"#);
        say(&mut socket, Message::text(r#"{"type":"pong","a":[1.0]}"#));
    });
    let mut client = Client::connect(addr, ConnectOptions::default());
    client.send_json(&json!({"type": "ping"}));
    client.expect_json(&json!({"a": [1], "type": "pong"}));
    server.join().unwrap();
}

#[test]
fn pings_are_answered_in_the_background_and_can_be_seen() {
    let (addr, server) = serve(|mut socket| {
        say(&mut socket, Message::Ping(b"one"[..].into()));
        assert_eq!(socket.read().unwrap(), Message::Pong(b"one"[..].into()));
        say(&mut socket, Message::text("t"));
        say(&mut socket, Message::Ping(b"two"[..].into()));
        assert_eq!(socket.read().unwrap(), Message::Pong(b"two"[..].into()));
        assert_eq!(socket.read().unwrap(), Message::Ping(b"own"[..].into()));
        socket.flush().unwrap();
    });
    let mut client = Client::connect(addr, ConnectOptions::default());
    assert_eq!(client.recv_ping(LONG).unwrap(), b"one");
    assert_eq!(client.recv_ping(LONG).unwrap(), b"two");
    client.send_frame(Frame::new(Opcode::PING, *b"own"));
    assert_eq!(client.recv_pong(LONG).unwrap(), b"own");
    assert!(
        matches!(client.recv(LONG), Some(Event::Message { .. })),
        "passed over, not lost"
    );
    server.join().unwrap();
}

#[test]
fn a_client_without_auto_pong_answers_nothing() {
    let (addr, server) = serve(|mut socket| {
        say(&mut socket, Message::Ping(b"one"[..].into()));
        socket.get_ref().set_read_timeout(Some(A_MOMENT)).unwrap();
        socket.read().unwrap_err();
    });
    let mut client = Client::connect(
        addr,
        ConnectOptions {
            auto_pong: false,
            ..ConnectOptions::default()
        },
    );
    assert_eq!(client.recv(LONG), Some(Event::Ping(b"one".to_vec())));
    server.join().unwrap();
}

#[test]
fn the_closing_handshake_of_the_client_is_seen_to_its_end() {
    let (addr, server) = serve(|mut socket| {
        say(&mut socket, Message::text("on its way"));
        while socket.read().is_ok() {}
    });
    let client = Client::connect(addr, ConnectOptions::default());
    assert_eq!(
        client.close(4000, "bye"),
        Ok(Closed {
            code: Some(4000),
            reason: "bye".to_owned()
        })
    );
    server.join().unwrap();
}

#[test]
fn the_closing_handshake_of_the_server_is_answered() {
    let (addr, server) = serve(|mut socket| {
        let reason = CloseFrame {
            code: CloseCode::Library(4001),
            reason: "replaced".into(),
        };
        socket.close(Some(reason)).unwrap();
        assert!(matches!(socket.read().unwrap(), Message::Close(Some(f)) if f.code == CloseCode::Library(4001)));
        socket.read().unwrap_err();
    });
    let mut client = Client::connect(addr, ConnectOptions::default());
    client.expect_close(4001, Some("replaced"));
    client.expect_eof();
    client.expect_eof();
    server.join().unwrap();
}

#[test]
fn an_end_and_a_reset_are_told_apart() {
    let (addr, server) = serve(drop);
    let mut client = Client::connect(addr, ConnectOptions::default());
    assert_eq!(client.recv(LONG), Some(Event::Eof));
    client.expect_close(1006, None);
    server.join().unwrap();

    let (addr, server) = serve(|socket| {
        socket2::SockRef::from(socket.get_ref())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    });
    let mut client = Client::connect(addr, ConnectOptions::default());
    assert_eq!(client.recv(LONG), Some(Event::Reset));
    server.join().unwrap();
}

#[test]
fn the_client_can_end_in_order_or_with_a_reset() {
    let (addr, server) = listen(|mut stream| assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0), true);
    Client::connect(addr, ConnectOptions::default()).drop_tcp();
    server.join().unwrap();

    let reset = |mut stream: TcpStream| {
        assert_eq!(
            stream.read(&mut [0; 9]).unwrap_err().kind(),
            std::io::ErrorKind::ConnectionReset
        );
    };
    let (addr, server) = listen(reset, true);
    Client::connect(addr, ConnectOptions::default()).reset_tcp();
    server.join().unwrap();
}

#[test]
fn a_client_that_does_not_read_holds_the_server_up() {
    let (addr, server) = serve(|mut socket| {
        socket2::SockRef::from(socket.get_ref())
            .set_send_buffer_size(4096)
            .unwrap();
        socket.get_ref().set_write_timeout(Some(A_MOMENT)).unwrap();
        while socket.send(Message::text("x".repeat(10_000))).is_ok() {}
        socket.get_ref().set_write_timeout(None).unwrap();
        socket.flush().unwrap();
        say(&mut socket, Message::text("end"));
    });
    let wire = WireOptions {
        receive_buffer_bytes: Some(4096),
        ..WireOptions::default()
    };
    let mut client = Client::connect(
        addr,
        ConnectOptions {
            wire,
            ..ConnectOptions::default()
        },
    );
    client.pause_reading();
    thread::sleep(4 * A_MOMENT);
    client.resume_reading();
    loop {
        match client.recv(LONG) {
            Some(Event::Message { payload, .. }) if payload == b"end" => break,
            Some(Event::Message { payload, .. }) => assert_eq!(payload.len(), 10_000),
            other => panic!("{other:?}"),
        }
    }
    server.join().unwrap();
}

#[test]
fn tls_carries_the_same_conversation() {
    let certificate = Certificate::generate();
    let chain = CertificateDer::pem_file_iter(certificate.chain())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_file(certificate.key()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);

    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let config = config.clone();
        let (addr, server) = listen(
            move |stream| {
                let tls = rustls::ServerConnection::new(config).unwrap();
                let mut socket = tungstenite::accept(rustls::StreamOwned::new(tls, stream)).unwrap();
                for _ in 0..3 {
                    let message = socket.read().unwrap();
                    say(&mut socket, message);
                }
                say(&mut socket, Message::Ping(b"p"[..].into()));
                assert_eq!(socket.read().unwrap(), Message::Pong(b"p"[..].into()));
                while socket.read().is_ok() {}
            },
            false,
        );
        let wire = WireOptions {
            tls: Some(trust_anything(versions, &["http/1.1"])),
            ..WireOptions::default()
        };
        let mut client = Client::connect(
            addr,
            ConnectOptions {
                wire,
                ..ConnectOptions::default()
            },
        );
        assert_eq!(client.wire().alpn().unwrap(), b"http/1.1");
        assert_eq!(client.wire().tls_version(), Some(versions[0].version));
        for length in [1, 20_000, 300_000] {
            client.send_text(&"x".repeat(length));
            match client.recv(LONG) {
                Some(Event::Message { payload, .. }) => assert_eq!(payload.len(), length),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(client.recv_ping(LONG).unwrap(), b"p");
        client.close(1000, "").unwrap();
        server.join().unwrap();
    }
}
