//! Reports of game servers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::scene::{STATIC_GAME, Service, exchange, parts, request};
use crate::support::{ANSWER_WITHIN, HttpConnection, Response, WireOptions};

const SECRET: &str = "of-the-reports";

fn reporting(loops: usize) -> Service {
    Service::with(loops, |config| {
        config.matchmaker.report_secret = SECRET.to_owned();
        config.matchmaker.servers[0].capacity = 2;
        config.read_timeout = Duration::from_millis(400);
    })
}

fn head(server: &str, fields: &str) -> String {
    format!(
        "POST /matchmaker/servers/{server}/report HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\n{fields}\r\n"
    )
}

fn report(connection: &mut HttpConnection, server: &str, body: &str) -> Response {
    let request = head(server, &format!("Content-Length: {}\r\n", body.len())) + body;
    connection.send(request.as_bytes()).unwrap();
    connection.response(false, ANSWER_WITHIN).unwrap()
}

#[test]
fn a_report_counts_and_the_connection_stays() {
    for loops in [1, 4] {
        let service = reporting(loops);
        let mut connection = HttpConnection::open(service.addr, &WireOptions::default()).unwrap();
        let noted = report(&mut connection, "arena-1", r#"{"players":2}"#);
        assert_eq!((noted.status, noted.header("content-length")), (204, None));
        assert!(noted.header("access-control-allow-origin").is_some());
        // It is full.
        let mut client = service.connect();
        client.send_json(&request(STATIC_GAME));
        let mut last = client.recv_json();
        while last.get("Error").is_none() {
            last = client.recv_json();
        }
        assert_eq!(last, json!({ "Error": [503, "no server available"] }));
        assert_eq!(report(&mut connection, "%61rena%2D1", r#"{"players":0}"#).status, 204);
        let mut client = service.connect();
        client.send_json(&request(STATIC_GAME));
        client.expect_json(&json!("Acknowledged"));
        // Mistakes end nothing either.
        let unknown = report(&mut connection, "arena-2", "{}");
        assert_eq!((unknown.status, unknown.text().as_str()), (404, "no such server"));
        let bad = report(&mut connection, "arena-1", r#"{"players":-1}"#);
        assert_eq!(bad.status, 400);
        assert!(bad.text().contains("players"), "{}", bad.text());
        assert_eq!(report(&mut connection, "arena-1", "").status, 400);
        service.wait_for_metric("peer_server_game_server_reports_total", 2);
    }
}

#[test]
fn reports_may_come_in_pieces_and_several_at_once() {
    for loops in [1, 4] {
        let service = reporting(loops);
        let one = head("arena-1", "Content-Length: 13\r\n") + r#"{"players":1}"#;
        let health = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = exchange(service.addr, (one.repeat(3) + health).as_bytes());
        let text = String::from_utf8(answer).unwrap();
        assert_eq!(text.matches("HTTP/1.1 204 No Content").count(), 3, "{text}");
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 1, "{text}");
        let mut stream = TcpStream::connect(service.addr).unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in one.as_bytes().chunks(1) {
            stream.write_all(byte).unwrap();
        }
        stream.write_all(health.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 204 ") && text.contains("HTTP/1.1 200 OK"),
            "{text}"
        );
    }
}

#[test]
fn what_is_no_report_is_refused() {
    let service = reporting(1);
    let status = |request: String| {
        let (head, _) = parts(&exchange(service.addr, request.as_bytes()));
        head.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let close = "Connection: close\r\n";
    for wrong in [
        "",
        "Authorization: Bearer nothing\r\n",
        "Authorization: Basic of-the-reports\r\n",
    ] {
        let request = format!(
            "POST /matchmaker/servers/arena-1/report HTTP/1.1\r\nHost: a\r\n{wrong}Content-Length: 2\r\n\r\n{{}}"
        );
        assert_eq!(status(request), 401, "{wrong}");
    }
    assert_eq!(status(head("arena-1", close)), 411);
    assert_eq!(status(head("arena-1", "Content-Length: 65537\r\n")), 413);
    assert_eq!(
        status(head("arena-1", "Content-Length: 99999999999999999999999\r\n")),
        413
    );
    assert_eq!(status(head("arena-1", "Transfer-Encoding: chunked\r\n")), 400);
    assert_eq!(status(head(&"a".repeat(129), close)), 404);
    assert_eq!(status(head("", close)), 404);
    // Its body does not come.
    assert_eq!(status(head("arena-1", "Content-Length: 2\r\n") + "{"), 408);
    service.wait_for_metric("peer_server_game_server_refused_total{reason=\"report_secret\"}", 3);
    assert_eq!(service.metric("peer_server_game_server_reports_total"), 0);
    let method = "GET /matchmaker/servers/arena-1/report HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(status(method.to_owned()), 405);
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on() {
    let service = reporting(1);
    let mut stream = TcpStream::connect(service.addr).unwrap();
    stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    let fields = "Content-Length: 13\r\nExpect: 100-continue\r\n";
    stream.write_all(head("arena-1", fields).as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(br#"{"players":1}"#).unwrap();
    let mut noted = [0; 23];
    stream.read_exact(&mut noted).unwrap();
    assert_eq!(&noted, b"HTTP/1.1 204 No Content");
}

#[test]
fn without_a_secret_nobody_reports() {
    let service = Service::start(1);
    let (answer, body) = parts(&exchange(
        service.addr,
        head("arena-1", "Connection: close\r\n").as_bytes(),
    ));
    assert!(answer.starts_with("HTTP/1.1 404 ") && body.is_empty(), "{answer}");
}
