//! Requests over HTTP: an answer that comes line by line, one object, and the rules of the connection.

use std::io::{Read, Write};
use std::net::TcpStream;

use peer_server::message::game_server::{Event, Failure, SessionName};
use serde_json::json;

use crate::dialogue::check_token;
use crate::scene::{GAME, STATIC_GAME, Service, exchange, lines, parts, placement, wait_until};
use crate::support::{ANSWER_WITHIN, HttpConnection, WireOptions};

fn post(path: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}").into_bytes()
}

/// A request whose answer is under way, read so far that its head is there.
fn streaming(service: &Service) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(service.own).unwrap();
    stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    stream
        .write_all(&post(&format!("/matchmaker/request/{GAME}/1"), "", ""))
        .unwrap();
    let mut got = String::new();
    read_until(&mut stream, &mut got, "\"Acknowledged\"\n\r\n");
    (stream, got)
}

fn read_until(stream: &mut TcpStream, got: &mut String, end: &str) {
    let mut bytes = [0; 4096];
    while !got.ends_with(end) {
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "the end after {got:?}");
        got.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
}

#[test]
fn frames_come_as_lines_when_they_are_said() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        let (mut stream, mut got) = streaming(&service);
        let (id, seek) = service.provider.submitted();
        assert_eq!(seek.client_ip.to_string(), crate::scene::FAKE_IP);
        service
            .provider
            .tell(Event::Accepted(id, SessionName::new("S1").unwrap()));
        read_until(&mut stream, &mut got, "{\"SessionRequestAccepted\":\"S1\"}\n\r\n");
        service
            .provider
            .tell(Event::Failed(id, Failure::new(409, "mock failure")));
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        got.push_str(std::str::from_utf8(&rest).unwrap());
        let (head, body) = parts(got.as_bytes());
        for field in [
            "HTTP/1.1 200 OK",
            "Content-Type: application/json",
            "Transfer-Encoding: chunked",
            "Connection: close",
            "Access-Control-Allow-Origin: http://127.0.0.1",
        ] {
            assert!(head.split("\r\n").any(|line| line == field), "{field} in {head}");
        }
        let told = [
            json!("Acknowledged"),
            json!({ "SessionRequestAccepted": "S1" }),
            json!({ "Error": [409, "mock failure"] }),
        ];
        assert_eq!(lines(&body), told);
        service.wait_for_metric("peer_server_connections{state=\"seeking\"}", 0);
    }
}

#[test]
fn a_client_that_knows_no_chunks_reads_to_the_end() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        let request = format!("POST /matchmaker/request/{STATIC_GAME}/1 HTTP/1.0\r\n\r\n");
        let (head, body) = parts(&exchange(service.addr, request.as_bytes()));
        assert!(
            !head.contains("Transfer-Encoding") && !head.contains("Content-Length"),
            "{head}"
        );
        let told = lines(&body);
        assert_eq!(told.len(), 4);
        check_token(&told[3]["SessionReady"], "token", "10.0.0.1:5000");
    }
}

#[test]
fn the_configured_game_is_one_object() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        let provider = service.provider.clone();
        let found = std::thread::spawn(move || {
            let (id, seek) = provider.submitted();
            provider.tell(Event::Ready(id, placement("S1")));
            seek.client_ip.to_string()
        });
        let answer = exchange(service.addr, &post("/matchmaker/wannaplay", "", ""));
        assert_eq!(found.join().unwrap(), crate::scene::FAKE_IP);
        let (head, body) = parts(&answer);
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/json\r\n"),
            "{head}"
        );
        let object: serde_json::Value = serde_json::from_str(&body).unwrap();
        let names: Vec<&String> = object.as_object().unwrap().keys().collect();
        assert_eq!(
            names,
            ["connect_token", "gameserver_ip", "gameserver_port", "cert_digest"]
        );
        check_token(&object, "connect_token", "203.0.113.10:30004");
    }
}

#[test]
fn a_failure_of_the_configured_game_is_a_status_with_a_text() {
    let service = Service::start(4);
    for (code, status) in [(409, 409), (503, 503), (504, 504), (999, 502)] {
        let provider = service.provider.clone();
        let failing = std::thread::spawn(move || {
            let (id, _) = provider.submitted();
            provider.tell(Event::Failed(id, Failure::new(code, "mock failure")));
        });
        let (head, body) = parts(&exchange(service.addr, &post("/matchmaker/wannaplay", "", "")));
        failing.join().unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains("Content-Type: text/plain; charset=utf-8"), "{head}");
        assert_eq!(body, "mock failure");
    }
}

#[test]
fn a_body_breaks_nothing() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        let path = format!("/matchmaker/request/{STATIC_GAME}/1");
        for bytes in [1, 4096, 64 * 1024] {
            let request = post(&path, &format!("Content-Length: {bytes}\r\n"), &"x".repeat(bytes));
            let (_, body) = parts(&exchange(service.addr, &request));
            assert_eq!(lines(&body).len(), 4);
        }
        let request = post(&path, "Content-Length: 65537\r\n", "");
        let (head, _) = parts(&exchange(service.addr, &request));
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    }
}

#[test]
fn a_client_that_leaves_gives_up_the_request() {
    for loops in [1, 4] {
        let service = Service::start(loops);
        let (stream, _) = streaming(&service);
        let (id, _) = service.provider.submitted();
        drop(stream);
        service.provider.wait_cancelled(id);
        let mut stream = TcpStream::connect(service.addr).unwrap();
        stream.write_all(&post("/matchmaker/wannaplay", "", "")).unwrap();
        let (id, _) = service.provider.submitted();
        drop(stream);
        service.provider.wait_cancelled(id);
        // So does one that sends for ever.
        let (mut stream, _) = streaming(&service);
        let (id, _) = service.provider.submitted();
        let junk = [b'x'; 4096];
        wait_until(
            || stream.write_all(&junk).is_err(),
            || "the connection breaks".to_owned(),
        );
        service.provider.wait_cancelled(id);
    }
}

#[test]
fn a_connection_takes_several_requests() {
    let service = Service::start(1);
    let mut connection = HttpConnection::open(service.addr, &WireOptions::default()).unwrap();
    for _ in 0..2 {
        assert_eq!(connection.request("GET", "/", &[]).unwrap().status, 200);
        assert_eq!(connection.request("GET", "/nope", &[]).unwrap().status, 404);
        assert_eq!(
            connection
                .request("PUT", "/matchmaker", &[])
                .unwrap()
                .header("allow")
                .as_deref(),
            Some("GET, HEAD")
        );
        assert_eq!(connection.request("GET", "/health", &[]).unwrap().status, 200);
        let refused = connection.request("POST", "/matchmaker/request/a.b/1", &[]).unwrap();
        assert_eq!(
            (refused.status, refused.text().as_str()),
            (400, "ERR Game name invalid")
        );
    }
    connection
        .request("GET", "/matchmaker/ws", &[("Connection", "close")])
        .unwrap();
    assert_eq!(connection.rest(ANSWER_WITHIN).unwrap(), b"");
}

#[test]
fn without_the_service_there_is_nothing_at_its_paths() {
    let service = Service::with(1, |config| {
        config.matchmaker.enabled = false;
        config.matchmaker.bind = None;
    });
    for path in ["/", "/matchmaker", "/matchmaker/ws"] {
        let answer = crate::support::http(service.addr, "GET", path, &[]);
        assert_eq!((answer.status, answer.text().as_str()), (404, "not found\n"), "{path}");
    }
}

#[test]
fn names_in_a_path_are_names() {
    let service = Service::start(1);
    let long = "a".repeat(31);
    for name in [
        "%20", "a%20b", "a%0d%0ab", ".", "*", "%3e", "%c3%a9", "%ff", "a%2fb", &long,
    ] {
        for path in [
            format!("/matchmaker/request/{name}/1"),
            format!("/matchmaker/request/{GAME}/{name}"),
        ] {
            let answer = crate::support::http(service.addr, "POST", &path, &[]);
            assert_eq!(answer.status, 400, "{path}");
            assert!(answer.text().starts_with("ERR Game "), "{path}");
        }
    }
    for path in [
        "/matchmaker/request",
        "/matchmaker/request/",
        "/matchmaker/request/g",
        "/matchmaker/request/g/1/2",
    ] {
        assert_eq!(
            crate::support::http(service.addr, "POST", path, &[]).status,
            404,
            "{path}"
        );
    }
    assert!(service.provider.has_none());
}
