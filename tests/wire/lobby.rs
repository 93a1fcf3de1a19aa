//! The lobby dialect on the peers' port: what a connection's first bytes make of it, and what it may do then.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

use crate::scene::{
    End, Peer, Raw, STATE_WITHIN, UPGRADE, from_address, metric, over_tls, serve, wait_for_metric, wait_until,
};
use crate::support::{ANSWER_WITHIN, Certificate, ConnectOptions, Server, http, https, unhex};

const LOBBY_CONNECTIONS: &str = "peer_server_connections{state=\"lobby\"}";
const NEW_CLIENT: &[u8] = b"{\"Type\":0,\"Body\":null}\n";

fn base64(text: &str) -> String {
    data_encoding::BASE64.encode(text.as_bytes())
}

fn request(kind: u32, body: &Value) -> Vec<u8> {
    format!("{{\"Type\":{kind},\"Body\":\"{}\"}}\n", base64(&body.to_string())).into_bytes()
}

/// The next line, which is JSON.
fn line(raw: &mut Raw) -> Value {
    loop {
        if let Some(end) = raw.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = raw.buffer.drain(..=end).collect();
            return serde_json::from_slice(&line).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&line)));
        }
        match raw.poll(ANSWER_WITHIN) {
            Some(Ok(_)) => {}
            other => panic!("{other:?} after {}", String::from_utf8_lossy(&raw.buffer)),
        }
    }
}

fn ask(raw: &mut Raw, bytes: &[u8]) -> Value {
    raw.send(bytes);
    line(raw)
}

/// A connection with a session.
fn client(addr: SocketAddr) -> (Raw, String) {
    let mut raw = Raw::open(addr);
    let session = ask(&mut raw, NEW_CLIENT)["SessionID"].as_str().unwrap().to_owned();
    assert_eq!(session.len(), 36);
    (raw, session)
}

fn datagram(sequence: i32, payload: &str) -> Vec<u8> {
    let mut bytes = sequence.to_le_bytes().to_vec();
    bytes.extend_from_slice(&(payload.len() as i16).to_le_bytes());
    bytes.push(0);
    bytes.extend_from_slice(payload.as_bytes());
    bytes
}

/// The type and data of the next datagram.
fn receive(socket: &UdpSocket) -> (u64, Value) {
    let mut bytes = [0; 2048];
    let count = socket.recv(&mut bytes).expect("a datagram in time");
    let payload: Value = serde_json::from_slice(&bytes[7..count]).unwrap();
    let data = payload["Data"].as_str().unwrap();
    let data = data_encoding::BASE64.decode(data.as_bytes()).unwrap();
    (
        payload["Type"].as_u64().unwrap(),
        serde_json::from_slice(&data).unwrap_or_default(),
    )
}

/// A socket whose address the server knows to be this session's.
fn endpoint(addr: SocketAddr, session: &str) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(addr).unwrap();
    socket.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    let data = base64(&json!({ "SessionID": session }).to_string());
    socket
        .send(&datagram(1, &format!("{{\"Type\":1,\"Data\":\"{data}\"}}")))
        .unwrap();
    let (kind, data) = receive(&socket);
    assert_eq!((kind, &data["SequenceNumber"]), (0, &json!(1)));
    socket
}

#[test]
fn two_clients_meet() {
    for loops in [1, 4] {
        let server = serve(json!({ "loops": loops }));
        let addr = server.addr();
        // As many as it takes for connections, addresses and codes to live on different loops.
        for _ in 0..4 {
            let ((mut host, hosts), (mut guest, guests)) = (client(addr), client(addr));
            let sockets = [endpoint(addr, &hosts), endpoint(addr, &guests)];
            let code = ask(&mut host, &request(1, &json!({ "SessionID": hosts })))["LobbyCode"].clone();
            assert_eq!(code.as_str().unwrap().len(), 6);
            let join = request(2, &json!({ "LobbyCode": code, "SessionID": guests }));
            assert_eq!(ask(&mut guest, &join), json!({}));
            let keep_alive = datagram(0, "{\"Type\":2,\"Data\":\"\"}");
            sockets[0].send(&keep_alive).unwrap();
            assert_eq!(receive(&sockets[0]).0, 2);
            let start = request(3, &json!({ "LobbyCode": code, "SessionID": hosts }));
            assert_eq!(ask(&mut host, &start), json!({}));
            for (own, other) in [(0, 1), (1, 0)] {
                let (kind, data) = receive(&sockets[own]);
                let address = sockets[other].local_addr().unwrap().to_string();
                assert_eq!((kind, data), (3, json!({ "PeerUDPEndpoints": [address] })));
                let data = base64("{\"SequenceNumber\":1,\"Timestamp\":0}");
                let ack = datagram(0, &format!("{{\"Type\":0,\"Data\":\"{data}\"}}"));
                sockets[own].send(&ack).unwrap();
            }
            let again = request(3, &json!({ "LobbyCode": code, "SessionID": hosts }));
            assert_eq!(ask(&mut host, &again), json!("lobby already started"));
        }
    }
}

#[test]
fn requests_are_answered_one_by_one_however_they_are_cut() {
    let server = serve(json!({
        "loops": 4, "punch_sessions_per_ip": 0, "punch_matchmaker_connections_per_ip": 0
    }));
    let stream = [
        b" \r\n{\"Type\":9}",
        NEW_CLIENT,
        b"{\"Type\":1,\"Body\":\"e30=\"} {\"Type\":4}\n",
    ]
    .concat();
    let check = |raw: &mut Raw| {
        assert_eq!(line(raw), json!("unknown request type"));
        assert!(line(raw)["SessionID"].is_string());
        assert_eq!(line(raw), json!("unknown session"));
        assert_eq!(line(raw), json!("unknown request type"));
    };
    for cut in 0..stream.len() {
        let mut raw = Raw::open(server.addr());
        raw.send(&stream[..cut]);
        if cut % 3 == 0 {
            // Time for what is there to be read alone.
            http(server.addr(), "GET", "/livez", &[]);
        }
        raw.send(&stream[cut..]);
        check(&mut raw);
    }
    let mut raw = Raw::open(server.addr());
    for byte in &stream {
        raw.send(&[*byte]);
    }
    check(&mut raw);
    wait_for_metric(&server, LOBBY_CONNECTIONS, 1);
    assert_eq!(
        metric(&server, "peer_server_pool_blocks_taken"),
        0,
        "an idle one holds nothing"
    );
    drop(raw);
    wait_for_metric(&server, LOBBY_CONNECTIONS, 0);
}

#[test]
fn answers_that_are_not_read_hold_up_only_their_own_client() {
    let server = serve(json!({ "loops": 1 }));
    let mut peer = Peer::register(server.addr(), "bystander");
    let stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    let (mut writer, many) = (stream.try_clone().unwrap(), 300_000);
    let writer = std::thread::spawn(move || writer.write_all(&b"{\"Type\":9}".repeat(many)).unwrap());
    wait_for_metric(&server, "peer_server_connections_paused", 1);
    peer.round_trip();
    let lines = BufReader::new(&stream).lines().take(many);
    assert_eq!(
        lines
            .filter(|line| line.as_ref().unwrap() == "\"unknown request type\"")
            .count(),
        many
    );
    writer.join().unwrap();
    wait_for_metric(&server, "peer_server_connections_paused", 0);
}

#[test]
fn a_client_that_ends_its_direction_after_a_request_still_gets_the_answer() {
    for loops in [1, 4] {
        let server = serve(json!({ "loops": loops }));
        for _ in 0..8 {
            let mut stream = TcpStream::connect(server.addr()).unwrap();
            stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
            stream.write_all(NEW_CLIENT).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(
                answer.starts_with("{\"SessionID\":") && answer.ends_with("}\n"),
                "{answer}"
            );
        }
    }
}

#[test]
fn what_cannot_be_followed_is_closed() {
    let server = serve(json!({ "loops": 2 }));
    let deep = b"{\"a\":[[[[[[[[1]]]]]]]]}".to_vec();
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(5000)).into_bytes();
    let bad = b"\"bad request\"\n".to_vec();
    for (bytes, answer) in [
        (deep, Vec::new()),
        (long, Vec::new()),
        (b"{]".to_vec(), bad.clone()),
        (b"{\"Type\" 0}".to_vec(), bad.clone()),
        (
            b"{\"Type\":9}x{\"Type\":0}".to_vec(),
            [b"\"unknown request type\"\n", &bad[..]].concat(),
        ),
    ] {
        let mut raw = Raw::open(server.addr());
        raw.send(&bytes);
        let (told, end) = raw.rest(STATE_WITHIN);
        assert_eq!((told, end), (answer, End::Eof), "{}", String::from_utf8_lossy(&bytes));
    }
    wait_for_metric(&server, LOBBY_CONNECTIONS, 0);
}

/// The recorded first bytes of connections, with what they are.
fn first_bytes() -> Vec<(Vec<u8>, String)> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/matchmaker/demux-tcp.json");
    let vector: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let items = vector["items"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    items
        .map(|item| (unhex(&text(&item["hex"])).unwrap(), text(&item["expect"])))
        .collect()
}

#[test]
fn the_first_byte_tells_what_a_connection_speaks() {
    let certificate = Certificate::generate();
    for tls in [false, true] {
        let server = match tls {
            false => serve(json!({ "loops": 2 })),
            true => serve(json!({ "loops": 2, "tls_cert": certificate.chain(), "tls_key": certificate.key() })),
        };
        for (bytes, expected) in first_bytes() {
            let mut raw = Raw::open(server.addr());
            raw.send(&bytes);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            match &*expected {
                "json" => drop(line(&mut raw)),
                "http" if !tls => {
                    raw.send(b"\r\n\r\n");
                    assert!(raw.head().starts_with("HTTP/1.1 "), "{text}");
                }
                // An unfinished ClientHello is waited for.
                _ if tls && bytes[0] == 0x16 => {}
                _ => assert_eq!(raw.rest(STATE_WITHIN), (Vec::new(), End::Eof), "{text}"),
            }
        }
        assert_eq!(metric(&server, "peer_server_tls_handshakes_total"), 0);
    }
}

#[test]
fn blanks_before_a_request_line_are_passed_over_or_refused() {
    let server = serve(json!({ "loops": 2 }));
    let status = |bytes: &[u8]| {
        let mut raw = Raw::open(server.addr());
        raw.send(bytes);
        raw.head()[..12].to_owned()
    };
    assert_eq!(
        status(b"\r\n\r\n\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n"),
        "HTTP/1.1 200"
    );
    assert_eq!(status(b" GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"), "HTTP/1.1 400");
    assert_eq!(status(b"\r\n\tGET /livez HTTP/1.1\r\nHost: a\r\n\r\n"), "HTTP/1.1 400");
    assert_eq!(status(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "HTTP/1.1 505");
    for cut in 1..12 {
        let bytes = b"\r\n\r\n\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut raw = Raw::open(server.addr());
        raw.send(&bytes[..cut]);
        http(server.addr(), "GET", "/livez", &[]);
        raw.send(&bytes[cut..]);
        assert!(raw.head().starts_with("HTTP/1.1 200 "), "{cut}");
    }
}

#[test]
fn one_port_serves_tls_and_the_lobby_dialect_and_no_http_in_plain_text() {
    let certificate = Certificate::generate();
    for loops in [1, 4] {
        let server = serve(json!({
            "loops": loops, "tls_cert": certificate.chain(), "tls_key": certificate.key(), "read_timeout": "2s"
        }));
        let (mut lobby, session) = client(server.addr());
        assert_eq!(https(server.addr(), "GET", "/livez", &[]).status, 200);
        let options = ConnectOptions {
            wire: over_tls(),
            ..ConnectOptions::default()
        };
        let mut peer = Peer::register_as(server.addr(), options, json!({ "public_key": "somebody" }));
        for bytes in [
            UPGRADE.as_bytes(),
            b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\r\nGET",
        ] {
            let mut raw = Raw::open(server.addr());
            raw.send(bytes);
            assert_eq!(raw.rest(STATE_WITHIN), (Vec::new(), End::Eof));
        }
        let mut silent = Raw::open(server.addr());
        let created = ask(&mut lobby, &request(1, &json!({ "SessionID": session })));
        assert!(created["LobbyCode"].is_string(), "{created}");
        peer.round_trip();
        let (told, _) = silent.rest(STATE_WITHIN);
        assert_eq!(told, b"", "there is nothing to say without TLS");
        // The dialect is not spoken inside TLS.
        let mut inside = Raw::open_with(server.addr(), &over_tls());
        inside.send(NEW_CLIENT);
        inside.send(b"\r\n\r\n");
        assert!(inside.head().starts_with("HTTP/1.1 400 "));
    }
}

#[test]
fn the_dialect_can_be_switched_off() {
    for off in [
        json!({ "punch_matchmaker_enabled": false }),
        json!({ "udp_enabled": false }),
    ] {
        let server = serve(off);
        let mut raw = Raw::open(server.addr());
        raw.send(NEW_CLIENT);
        assert_eq!(raw.rest(STATE_WITHIN), (Vec::new(), End::Eof));
        assert_eq!(http(server.addr(), "GET", "/livez", &[]).status, 200);
    }
}

#[test]
fn an_address_has_so_many_connections_and_gets_them_back() {
    let server = serve(json!({ "loops": 4, "punch_matchmaker_connections_per_ip": 2 }));
    let open = |source: &str| {
        let mut raw = Raw::open_with(server.addr(), &from_address(source));
        raw.send(b"{\"Type\":9}");
        match raw.poll(ANSWER_WITHIN) {
            Some(Ok(_)) => Some(raw),
            Some(Err(_)) => None,
            None => panic!("neither an answer nor an end"),
        }
    };
    let (first, second) = (open("127.0.0.1"), open("127.0.0.1"));
    assert!(first.is_some() && second.is_some());
    assert!(open("127.0.0.1").is_none());
    assert!(open("127.0.0.2").is_some());
    drop(first);
    let mut third = None;
    wait_until(
        || {
            third = open("127.0.0.1");
            third.is_some()
        },
        || "a place".to_owned(),
    );
}

#[test]
fn a_stopping_server_closes_them_at_once() {
    let mut server: Server = serve(json!({ "loops": 4, "drain_timeout": "20s" }));
    let mut clients: Vec<Raw> = (0..8).map(|_| client(server.addr()).0).collect();
    server.signal("TERM");
    for raw in &mut clients {
        assert_eq!(raw.rest(Duration::from_secs(5)), (Vec::new(), End::Eof));
    }
    drop(clients);
    wait_until(|| !server.is_running(), || "the end of the server".to_owned());
}
