//! The dialogue on a WebSocket, from the upgrade to the last word.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use peer_server::codec::connect_token::{Layout, PrivateKey, open};
use peer_server::message::game_server::{Event, SessionName};
use serde_json::{Value, json};

use crate::scene::{GAME, KEY, PROTOCOL_ID, STATIC_GAME, Service, options, placement, request};
use crate::support::{ANSWER_WITHIN, Certificate, Client, ConnectOptions, Frame, Opcode, http, https, trust_anything};

/// Checks a token as its game server would.
pub(crate) fn check_token(ready: &Value, name: &str, own: &str) -> u64 {
    let token = BASE64.decode(ready[name].as_str().unwrap().as_bytes()).unwrap();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let key = PrivateKey::new(KEY);
    let own = own.parse().unwrap();
    let token = open(&token, &key, Layout::LightyearLe, PROTOCOL_ID, now_s, Some(own)).unwrap();
    assert_eq!((token.expires_s - token.created_s, token.timeout_s), (25, 15));
    assert!(now_s.abs_diff(token.created_s) < 60);
    assert_ne!(token.client_to_server, token.server_to_client);
    token.client_id
}

#[test]
fn a_configured_server_is_given_with_a_token_that_it_opens() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        let mut ids = Vec::new();
        for addr in [service.addr, service.own] {
            let mut client = Client::connect(addr, options("/matchmaker/ws", &[]));
            assert_eq!(client.extension(), None, "what was offered is not taken");
            client.send_json(&request(STATIC_GAME));
            client.expect_json(&json!("Acknowledged"));
            assert!(client.recv_json()["SessionRequestAccepted"].is_string());
            client.expect_json(&json!({ "ProgressReport": "Ready (0)" }));
            let ready = client.recv_json()["SessionReady"].take();
            assert_eq!((&ready["ip"], &ready["port"]), (&json!("198.51.100.1"), &json!(5000)));
            assert_eq!(ready["cert_digest"], vec!["cd"; 32].join(":"));
            ids.push(check_token(&ready, "token", "10.0.0.1:5000"));
            client.expect_close(1000, Some("Goodbye"));
            client.expect_eof();
        }
        assert_ne!(ids[0], ids[1]);
        service.wait_for_metric("peer_server_game_server_requests_total{outcome=\"ready\"}", 2);
        service.wait_for_metric("peer_server_game_server_places{state=\"reserved\"}", 2);
        service.wait_for_metric("peer_server_game_server_frames_sent_total", 8);
        service.wait_for_metric("peer_server_connections{state=\"seeking\"}", 0);
    }
}

#[test]
fn what_a_provider_says_becomes_frames_in_their_order() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        let (mut client, id, seek) = service.seek();
        assert_eq!(seek.client_ip.to_string(), crate::scene::FAKE_IP);
        let session = || SessionName::new("000000000001-S").unwrap();
        service.provider.tell(Event::Accepted(id, session()));
        service.provider.tell(Event::Progress(id, "Seeking (1)".into()));
        client.expect_json(&json!({ "SessionRequestAccepted": "000000000001-S" }));
        client.expect_json(&json!({ "ProgressReport": "Seeking (1)" }));
        // What it says meanwhile is nobody's business, and a ping is answered.
        client.send_json(&request(STATIC_GAME));
        client.send_frame(Frame {
            opcode: Opcode::BINARY,
            ..Frame::text("x")
        });
        client.send_frame(Frame {
            opcode: Opcode::PING,
            ..Frame::text("here")
        });
        assert_eq!(client.recv_pong(ANSWER_WITHIN).as_deref(), Some(&b"here"[..]));
        service.provider.tell(Event::Ready(id, placement("000000000001-S")));
        let mut last = client.recv_json();
        while last.get("ProgressReport").is_some() {
            last = client.recv_json();
        }
        let ready = last["SessionReady"].take();
        assert_eq!(ready["cert_digest"], vec!["ab"; 32].join(":"));
        check_token(&ready, "token", "203.0.113.10:30004");
        client.expect_close(1000, Some("Goodbye"));
    }
}

#[test]
fn a_first_message_has_an_end() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        let padded = |bytes: usize| {
            let text = request(GAME).to_string();
            format!("{text}{}", " ".repeat(bytes - text.len()))
        };
        let mut client = service.connect();
        client.send_text(&padded(4096));
        client.expect_json(&json!("Acknowledged"));
        service.provider.submitted();
        let mut client = service.connect();
        client.send_text(&padded(4097));
        client.expect_close(1009, None);
        assert!(service.provider.has_none());
    }
}

#[test]
fn names_that_would_be_more_than_names_go_no_further() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        let long = "a".repeat(31);
        let bad = [
            "", " ", "a b", "a\r\nb", "a\nb", ".", "a.b", "*", ">", "%0d%0a", "a/b", "\u{e9}", "a\u{0}", &long,
        ];
        for name in bad {
            for message in [
                json!({ "game": name, "version": "1" }),
                json!({ "game": "g", "version": name }),
            ] {
                let mut client = service.connect();
                client.send_json(&message);
                let event = client.recv_content(ANSWER_WITHIN).unwrap();
                assert!(event.describe().contains("ERR Game "), "{name:?}: {}", event.describe());
                client.expect_close(1008, Some("bad request"));
            }
        }
        assert!(service.provider.has_none());
        assert_eq!(service.metric("peer_server_game_server_requests_waiting"), 0);
    }
}

#[test]
fn whoever_leaves_gives_up_the_request() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        let waiting = "peer_server_game_server_requests_waiting";
        let (client, id, _) = service.seek();
        service.wait_for_metric(waiting, 1);
        client.close(1000, "enough").unwrap();
        service.provider.wait_cancelled(id);
        let (client, id, _) = service.seek();
        client.drop_tcp();
        service.provider.wait_cancelled(id);
        let (client, id, _) = service.seek();
        client.reset_tcp();
        service.provider.wait_cancelled(id);
        service.wait_for_metric(waiting, 0);
        service.wait_for_metric("peer_server_connections{state=\"seeking\"}", 0);
        service.wait_for_metric("peer_server_game_server_requests_total{outcome=\"abandoned\"}", 3);
    }
}

#[test]
fn a_request_ends_at_its_deadline() {
    for loops in [1, 4] {
        let service = Service::with(loops, |config| config.matchmaker.deadline = Duration::from_millis(100));
        let (mut client, id, _) = service.seek();
        client.expect_json(&json!({ "Error": [408, "session still not ready, timed out."] }));
        client.expect_close(1000, Some("Goodbye"));
        service.provider.wait_cancelled(id);
    }
}

#[test]
fn those_who_wait_take_no_place_of_others() {
    for loops in [1, 4] {
        let service = Service::with(loops, |config| {
            config.unregistered_per_ip = 2;
            config.matchmaker.waiting_max = 4;
        });
        // An address may have two that have not said what they are; those that wait for a server have.
        let mut waiting: Vec<Client> = (0..4).map(|_| service.seek().0).collect();
        let silent = [service.connect(), service.connect()];
        let third = Client::try_connect(service.addr, options("/matchmaker/ws", &[]));
        assert!(matches!(third, Err(crate::support::ConnectError::Refused(answer)) if answer.status == 429));
        drop(silent);
        // The desk has a limit of its own.
        let mut refused = loop {
            // Until the silent ones are gone there is no place.
            match Client::try_connect(service.addr, options("/matchmaker/ws", &[])) {
                Ok(client) => break client,
                Err(_) => std::thread::yield_now(),
            }
        };
        refused.send_json(&request(GAME));
        refused.expect_json(&json!({ "Error": [429, "too many requests"] }));
        refused.expect_close(1000, Some("Goodbye"));
        waiting.clear();
        service.wait_for_metric("peer_server_game_server_requests_waiting", 0);
        service.seek();
    }
}

#[test]
fn a_thousand_who_wait_leave_room_for_peers() {
    let service = Service::with(4, |config| {
        // As many may be open as have not registered, whatever `max_peers` says, and those who wait are more.
        config.max_peers = 100;
        let limits = &mut config.matchmaker;
        (
            limits.waiting_max,
            limits.waiting_per_ip,
            limits.requests_per_min_per_ip,
        ) = (0, 0, 0);
    });
    let request = format!("POST /matchmaker/request/{GAME}/1 HTTP/1.1\r\nHost: a\r\n\r\n");
    let waiting = 1100;
    let streams: Vec<TcpStream> = (0..waiting)
        .map(|_| {
            let mut stream = TcpStream::connect(service.addr).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    service.wait_for_metric("peer_server_connections{state=\"seeking\"}", waiting);
    let mut peer = Client::connect(service.addr, ConnectOptions::default());
    peer.send_json(&json!({ "type": "register", "payload": { "public_key": "somebody" } }));
    assert_eq!(peer.recv_json()["type"], "registered");
    drop(streams);
    service.wait_for_metric("peer_server_game_server_requests_waiting", 0);
}

#[test]
fn the_port_of_the_service_has_tls_where_there_is_any() {
    let certificate = Certificate::generate();
    for loops in [1, 4] {
        let service = Service::with(loops, |config| {
            config.tls_cert = Some(certificate.chain());
            config.tls_key = Some(certificate.key());
        });
        assert_ne!(service.addr.port(), service.own.port());
        for addr in [service.addr, service.own] {
            assert_eq!(https(addr, "GET", "/matchmaker", &[]).status, 200);
            let mut secure = options("/matchmaker/ws", &[]);
            secure.wire.tls = Some(trust_anything(&[], &[]));
            let mut client = Client::connect(addr, secure);
            client.send_json(&request(STATIC_GAME));
            client.expect_json(&json!("Acknowledged"));
            assert!(TcpStream::connect(addr).is_ok_and(|mut plain| {
                plain.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                plain.read(&mut [0]).is_ok_and(|count| count == 0)
            }));
        }
    }
}

#[test]
fn the_service_may_have_a_port_that_others_have_as_well() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let service = Service::with(4, |config| {
        config.port = free.port();
        config.matchmaker.bind = Some(free);
        // To be served at an address is enough.
        config.matchmaker.enabled = false;
    });
    assert_eq!((service.addr, service.own), (free, free));
    assert_eq!(http(service.addr, "GET", "/", &[]).status, 200);
}
