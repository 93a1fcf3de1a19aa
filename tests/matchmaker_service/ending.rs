//! The end of the server, and of clients that do not read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use peer_server::config::Provider;
use peer_server::message::game_server::{Event, RequestId, Seek, Wanted};
use peer_server::provider::Answer;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::scene::{GAME, Service, lines, parts, request};
use crate::support::{ANSWER_WITHIN, Frame};

fn waiting(service: &Service, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(service.addr).unwrap();
    stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    stream
        .write_all(format!("POST {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
        .unwrap();
    stream
}

fn all(mut stream: TcpStream) -> (String, String) {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    parts(&answer)
}

#[test]
fn a_server_that_goes_tells_all_who_wait() {
    for loops in [1, 4] {
        let mut service = Service::start(loops);
        let (mut asked, first, _) = service.seek();
        let mut silent = service.connect();
        let stream = waiting(&service, &format!("/matchmaker/request/{GAME}/1"));
        let (second, _) = service.provider.submitted();
        let single = waiting(&service, "/matchmaker/wannaplay");
        let (third, _) = service.provider.submitted();
        let seek = Seek {
            wanted: Wanted::Configured,
            client_ip: "192.0.2.1".parse().unwrap(),
        };
        service.registry.tell(Event::Asked(7, seek));
        let (fourth, _) = service.provider.submitted();
        assert!(!service.provider.is_stopped() && !service.registry.is_stopped());

        let stopping = service.begin_stop();
        let goodbye = json!({ "Error": [503, "server shutting down"] });
        for client in [&mut asked, &mut silent] {
            client.expect_json(&goodbye);
            client.expect_close(1001, Some("server shutting down"));
        }
        let (head, body) = all(stream);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(lines(&body), [json!("Acknowledged"), goodbye]);
        let (head, body) = all(single);
        assert!(
            head.starts_with("HTTP/1.1 503 ") && body == "server shutting down",
            "{head} {body}"
        );
        let answers = service.registry.answers(7);
        assert!(
            matches!(&answers[0], Answer::Outcome(outcome) if outcome.status == 503),
            "{answers:?}"
        );
        stopping.join().unwrap();
        for id in [first, second, third, fourth] {
            service.provider.wait_cancelled(id);
        }
        assert!(service.provider.is_stopped() && service.registry.is_stopped());
    }
}

/// A client that reads nothing, by either way, of a service whose answers another matchmaker makes.
fn unread(service: &Service, websocket: bool) -> (TcpStream, RequestId) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1024).unwrap();
    socket.connect(&service.addr.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    if websocket {
        let upgrade = "GET /matchmaker/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(upgrade.as_bytes()).unwrap();
        stream
            .write_all(&Frame::text(request(GAME).to_string()).encode())
            .unwrap();
    } else {
        let request = format!("POST /matchmaker/request/{GAME}/1 HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
    }
    let (id, _) = service.provider.submitted();
    (stream, id)
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    for (loops, websocket) in [(1, false), (4, false), (1, true), (4, true)] {
        // What ends it first: the time in which it takes nothing, or the bytes that wait for it.
        for (bytes_max, metric) in [(1 << 24, "write_timeouts"), (1 << 16, "slow_consumers")] {
            let service = Service::with(loops, |config| {
                config.matchmaker.provider = Provider::Nats;
                config.write_timeout = Duration::from_millis(300);
                config.socket_send_bytes = 4096;
                config.send_buffer_bytes = bytes_max;
            });
            let (stream, id) = unread(&service, websocket);
            let text: Box<str> = format!("\"{}\"", "x".repeat(60_000)).into();
            for _ in 0..10 {
                service.provider.tell(Event::Forwarded(id, text.clone()));
            }
            service.provider.wait_cancelled(id);
            service.wait_for_metric(&format!("peer_server_{metric}_total"), 1);
            service.wait_for_metric("peer_server_connections{state=\"seeking\"}", 0);
            drop(stream);
        }
    }
}
