//! The status pages and HTTP itself: what is answered, in which order, and when the connection stays.

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::scene::{End, Peer, Raw, STATE_WITHIN, UPGRADE, metric, metrics_addr, over_tls, serve, wait_for_metric};
use crate::support::{ANSWER_WITHIN, Certificate, HttpConnection, WireOptions, http};

#[test]
fn the_status_pages_answer_as_the_protocol_says() {
    for loops in [1, 4] {
        let server = serve(json!({ "loops": loops, "max_peers": 77, "shard_count": 8 }));
        let mut peer = Peer::register(server.addr(), "somebody");
        peer.join("hall");
        let health = http(server.addr(), "GET", "/health", &[]);
        assert_eq!(health.header("content-type").as_deref(), Some("application/json"));
        let body = health.json();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        assert!(now.abs_diff(body["timestamp"].as_u64().unwrap()) < 60);
        assert_eq!(
            (&body["status"], &body["peers"], &body["max_peers"]),
            (&json!("ok"), &json!(1), &json!(77))
        );
        let stats = http(server.addr(), "GET", "/stats?all=1", &[]);
        assert_eq!(stats.header("content-type").as_deref(), Some("application/json"));
        assert_eq!(
            stats.json(),
            json!({ "total_peers": 1, "max_peers": 77, "namespaces": { "hall": 1 }, "shards": 8 })
        );
        assert_eq!(http(server.addr(), "GET", "/livez", &[]).status, 200);
        let ready = http(server.addr(), "GET", "/readyz", &[]);
        assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
        for path in ["/", "/health/", "/Health", "/metrics", "/wss", "/stats/x", "//health"] {
            assert_eq!(http(server.addr(), "GET", path, &[]).status, 404, "{path}");
        }
        assert_eq!(http(metrics_addr(&server), "GET", "/health", &[]).status, 404);
    }
}

#[test]
fn other_methods_are_answered_405_with_what_is_allowed() {
    let server = serve(json!({ "loops": 2 }));
    for path in ["/health", "/stats", "/livez", "/readyz"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get"] {
            let answer = http(server.addr(), method, path, &[]);
            assert_eq!(
                (answer.status, answer.header("allow").as_deref()),
                (405, Some("GET, HEAD")),
                "{method} {path}"
            );
        }
        let got = http(server.addr(), "GET", path, &[]);
        let head = http(server.addr(), "HEAD", path, &[]);
        assert_eq!((head.status, head.body.len()), (got.status, 0));
        assert_eq!(head.header("content-type"), got.header("content-type"));
    }
}

#[test]
fn a_connection_stays_for_as_many_requests_as_come() {
    for loops in [1, 4] {
        let server = serve(json!({ "loops": loops }));
        let mut connection = HttpConnection::open(server.addr(), &WireOptions::default()).unwrap();
        for (method, path, status) in [
            ("GET", "/health", 200),
            ("GET", "/stats", 200),
            ("HEAD", "/stats", 200),
            ("GET", "/nothing", 404),
            ("HEAD", "/nothing", 404),
            ("GET", "/stats", 200),
            ("GET", "/livez", 200),
        ] {
            let answer = connection.request(method, path, &[]).unwrap();
            assert_eq!(
                (answer.status, answer.header("connection")),
                (status, None),
                "{method} {path}"
            );
        }
        let last = connection.request("GET", "/stats", &[("Connection", "close")]).unwrap();
        assert_eq!(last.header("connection").as_deref(), Some("close"));
        assert_eq!(connection.rest(ANSWER_WITHIN).unwrap(), b"");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    for loops in [1, 4] {
        let server = serve(json!({ "loops": loops }));
        let mut connection = HttpConnection::open(server.addr(), &WireOptions::default()).unwrap();
        let order = ["/health", "/stats", "/nothing", "/stats", "/livez", "/stats", "/readyz"];
        let pipeline: String = (0..20)
            .flat_map(|_| order)
            .map(|path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .collect();
        connection.send(pipeline.as_bytes()).unwrap();
        for path in (0..20).flat_map(|_| order) {
            let answer = connection.response(false, ANSWER_WITHIN).unwrap();
            let mark = match path {
                "/health" => "\"timestamp\"",
                "/stats" => "\"total_peers\"",
                "/livez" => "ok\n",
                "/readyz" => "\"ready\"",
                _ => "not found",
            };
            assert!(answer.text().contains(mark), "{path}: {answer:?}");
        }
    }
}

#[test]
fn a_client_that_ends_its_direction_after_the_request_still_gets_the_answer() {
    let certificate = Certificate::generate();
    for (loops, tls) in [(1, false), (4, false), (4, true)] {
        let mut config = json!({ "loops": loops });
        if tls {
            config["tls_cert"] = json!(certificate.chain());
            config["tls_key"] = json!(certificate.key());
        }
        let server = serve(config);
        for turn in 0..10 {
            for path in ["/health", "/stats", "/livez", "/nothing"] {
                let options = if tls { over_tls() } else { WireOptions::default() };
                let mut raw = Raw::open_with(server.addr(), &options);
                if tls {
                    // The handshake needs both directions.
                    raw.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n");
                    assert!(raw.head().starts_with("HTTP/1.1 200 "));
                    raw.json_free_body(3);
                }
                raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
                raw.wire.shutdown_write();
                let (answer, end) = raw.rest(STATE_WITHIN);
                let answer = String::from_utf8(answer).unwrap();
                let status = if path == "/nothing" { 404 } else { 200 };
                assert!(
                    answer.starts_with(&format!("HTTP/1.1 {status} ")),
                    "{path}, turn {turn}: {answer:?}"
                );
                assert_eq!(end, End::Eof, "{path}");
            }
        }
        wait_for_metric(&server, crate::scene::HTTP_CONNECTIONS, 0);
    }
}

impl Raw {
    /// Passes over a body.
    fn json_free_body(&mut self, bytes: usize) {
        while self.buffer.len() < bytes {
            assert!(matches!(self.poll(ANSWER_WITHIN), Some(Ok(_))));
        }
        self.buffer.drain(..bytes);
    }
}

#[test]
fn http_1_0_is_answered_once() {
    let server = serve(json!({ "loops": 1 }));
    let mut raw = Raw::open(server.addr());
    raw.send(b"GET /livez HTTP/1.0\r\n\r\nGET /livez HTTP/1.0\r\n\r\n");
    let (answer, end) = raw.rest(STATE_WITHIN);
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 1, "{answer}");
    assert_eq!(end, End::Eof);
}

#[test]
fn a_request_with_a_body_is_answered_and_the_connection_closed() {
    let server = serve(json!({ "loops": 1 }));
    let mut raw = Raw::open(server.addr());
    raw.send(
        b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 38\r\n\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n12345",
    );
    let (answer, _) = raw.rest(STATE_WITHIN);
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert_eq!(
        answer.matches("HTTP/1.1").count(),
        1,
        "a body was taken for a request: {answer}"
    );
}

#[test]
fn a_head_beyond_16_kib_is_answered_431() {
    let server = serve(json!({ "loops": 1 }));
    let long = format!("GET /livez HTTP/1.1\r\nHost: a\r\nX-Long: {}", "x".repeat(40_000));
    let many = format!(
        "GET /livez HTTP/1.1\r\nHost: a\r\n{}\r\n",
        (0..70).map(|n| format!("X-{n}: 1\r\n")).collect::<String>()
    );
    for (head, piece) in [(&long, usize::MAX), (&long, 1000), (&many, usize::MAX)] {
        let mut raw = Raw::open(server.addr());
        for piece in head.as_bytes().chunks(piece.min(head.len())) {
            // Once it was refused the rest may find nobody.
            let _ = raw.wire.write_all(piece);
        }
        let (answer, end) = raw.rest(STATE_WITHIN);
        assert!(
            answer.starts_with(b"HTTP/1.1 431 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        assert_eq!(end, End::Eof, "the answer could have been lost");
    }
    let fine = format!(
        "GET /livez HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n",
        "x".repeat(16_000)
    );
    let mut raw = Raw::open(server.addr());
    raw.send(fine.as_bytes());
    assert!(raw.head().starts_with("HTTP/1.1 200 "));
}

#[test]
fn what_is_not_http_is_answered_400() {
    let server = serve(json!({ "loops": 1 }));
    let garbage: &[&[u8]] = &[
        b"hello there\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/1.1\nHost: a\n\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a/health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n",
        b" GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for bytes in garbage {
        let mut raw = Raw::open(server.addr());
        raw.send(bytes);
        let (answer, end) = raw.rest(STATE_WITHIN);
        let shown = String::from_utf8_lossy(bytes);
        assert!(
            answer.starts_with(b"HTTP/1.1 400 "),
            "{shown:?}: {}",
            String::from_utf8_lossy(&answer)
        );
        assert_eq!(end, End::Eof, "{shown:?}");
    }
    let mut raw = Raw::open(server.addr());
    raw.send(b"GET /livez HTTP/2.0\r\nHost: a\r\n\r\n");
    assert!(raw.head().starts_with("HTTP/1.1 505 "));
}

#[test]
fn what_begins_like_nothing_that_is_spoken_here_is_closed() {
    let server = serve(json!({ "loops": 1 }));
    let garbage: &[&[u8]] = &[
        b"\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x81\x85abcdhello\r\n\r\n",
        b"[1]\r\n\r\n",
    ];
    for bytes in garbage {
        let mut raw = Raw::open(server.addr());
        raw.send(bytes);
        assert_eq!(raw.rest(STATE_WITHIN), (Vec::new(), End::Eof), "{bytes:?}");
    }
}

#[test]
fn garbage_behind_a_request_is_answered_after_it() {
    let server = serve(json!({ "loops": 4 }));
    for first in ["/health", "/stats"] {
        let mut connection = HttpConnection::open(server.addr(), &WireOptions::default()).unwrap();
        connection
            .send(format!("GET {first} HTTP/1.1\r\nHost: a\r\n\r\nwhat is this\r\n\r\n").as_bytes())
            .unwrap();
        assert_eq!(connection.response(false, ANSWER_WITHIN).unwrap().status, 200);
        assert_eq!(connection.response(false, ANSWER_WITHIN).unwrap().status, 400);
        assert_eq!(connection.rest(ANSWER_WITHIN).unwrap(), b"");
    }
}

#[test]
fn an_upgrade_may_follow_other_requests() {
    for loops in [1, 4] {
        let server = serve(json!({ "loops": loops }));
        for path in ["/health", "/stats"] {
            let mut raw = Raw::open(server.addr());
            raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n{UPGRADE}").as_bytes());
            assert!(raw.head().starts_with("HTTP/1.1 200 "));
            let body = raw.head();
            assert!(body.contains("HTTP/1.1 101 "), "{body}");
        }
    }
}

#[test]
fn answers_that_nobody_reads_are_not_piled_up() {
    let server = serve(json!({ "loops": 1, "socket_send_bytes": 8192 }));
    for addr in [server.addr(), metrics_addr(&server)] {
        let page = if addr == server.addr() { "/health" } else { "/metrics" };
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let requests = format!("GET {page} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(1000);
        let mut sent = 0;
        // A server that takes no more requests until its answers are read is what we want to see.
        while sent < 8 << 20 {
            match stream.write(requests.as_bytes()) {
                Ok(count) => sent += count,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        let held = metric(&server, "peer_server_output_bytes");
        assert!(
            held < 1 << 20,
            "{held} bytes of answers to {sent} bytes of requests for {page}"
        );
    }
}

#[test]
fn answers_that_are_read_late_are_all_there() {
    let server = serve(json!({ "loops": 4, "socket_send_bytes": 8192 }));
    for path in ["/health", "/stats"] {
        const REQUESTS: usize = 3000;
        let mut connection = HttpConnection::open(server.addr(), &WireOptions::default()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        connection.send(request.repeat(REQUESTS).as_bytes()).unwrap();
        for number in 0..REQUESTS {
            let answer = connection.response(false, ANSWER_WITHIN);
            assert_eq!(answer.unwrap().status, 200, "{path} {number}");
        }
    }
}
