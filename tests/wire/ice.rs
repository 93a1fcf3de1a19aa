//! What a peer is told to gather WebRTC candidates with, and whether a TURN server takes its credential.

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::scene::{Peer, STATE_WITHIN, metric, serve, wait_for_metric, wait_until};
use crate::support::{ANSWER_WITHIN, Client, ConnectOptions, Frame, Server, unhex};

const SECRET: &str = "north wind";
const ASK: &str = r#"{"type":"ice_servers"}"#;

/// A registered peer that came by this name.
fn peer_by(server: &Server, host: &str, key: &str) -> Peer {
    let options = ConnectOptions {
        headers: vec![("Host".to_owned(), host.to_owned())],
        ..ConnectOptions::default()
    };
    Peer::register_as(server.addr(), options, json!({ "public_key": key }))
}

/// The whole answer, which holds nothing else but the type.
fn answer_to(peer: &mut Peer) -> Value {
    peer.client.send_text(ASK);
    let answer = peer.client.recv_json();
    let payload = answer["payload"].clone();
    assert_eq!(answer, json!({ "type": "ice_servers", "payload": payload }));
    payload
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn a_server_without_any_tells_an_empty_list() {
    let server = serve(json!({}));
    let mut peer = Peer::register(server.addr(), "key");
    assert_eq!(answer_to(&mut peer), json!({ "ice_servers": [], "ttl": 86_400 }));
    wait_for_metric(&server, "peer_server_messages_total{type=\"ice_servers\"}", 1);
}

#[test]
fn listed_servers_are_told_and_a_turn_server_gets_no_credential_without_a_secret() {
    let urls = [
        "stun:stun.example.org",
        "turn:192.0.2.1:3478",
        "stuns:[2001:db8::1]:5349",
    ];
    let server = serve(json!({ "ice_servers": urls, "compression_enabled": true }));
    let deflating = ConnectOptions {
        extensions: Some("permessage-deflate".to_owned()),
        ..ConnectOptions::default()
    };
    for options in [ConnectOptions::default(), deflating] {
        let mut peer = Peer::register_as(server.addr(), options, json!({ "public_key": "key" }));
        let servers = json!([{ "urls": [urls[0], urls[2]] }, { "urls": [urls[1]] }]);
        assert_eq!(answer_to(&mut peer), json!({ "ice_servers": servers, "ttl": 86_400 }));
    }
    assert!(server.stderr().contains("turn_secret: missing"), "{}", server.stderr());
}

#[test]
fn the_own_port_is_told_under_the_name_that_the_client_came_by_wherever_it_moved() {
    for tables in ["per_loop", "shared"] {
        let server = serve(json!({ "ice_servers": "auto", "loops": 2, "descriptor_tables": tables }));
        let port = server.addr().port();
        let names = [
            ("example.org", Some("example.org")),
            ("example.org:8443", Some("example.org")),
            ("[2001:db8::1]:80", Some("[2001:db8::1]")),
            ("[::1]", Some("[::1]")),
            ("192.0.2.7:1", Some("192.0.2.7")),
            ("", None),
            ("(unusable)", None),
        ];
        let mut peers = Vec::new();
        // Slots are used again, and then tell nothing of who had them before.
        for turn in 0..3 {
            for (nth, (host, _)) in names.iter().enumerate().cycle().take(28) {
                peers.push((nth, peer_by(&server, host, &format!("key {}", peers.len()))));
            }
            for (nth, peer) in &mut peers {
                let expected = names[*nth]
                    .1
                    .map(|host| json!([{ "urls": [format!("stun:{host}:{port}")] }]));
                let expected = expected.unwrap_or_else(|| json!([]));
                assert_eq!(answer_to(peer)["ice_servers"], expected, "{turn}: {:?}", names[*nth]);
            }
            peers.truncate(10 + turn);
        }
        let moved = || metric(&server, "peer_server_connections_moved_total");
        wait_until(|| moved() > 10, || "many of the connections moved".to_owned());
    }
}

#[test]
fn a_client_that_names_no_host_is_told_the_public_address_of_its_family() {
    let config = json!({
        "ice_servers": "auto", "host": "::", "public_ipv4": "203.0.113.7", "public_ipv6": "2001:db8::7", "public_port": 3478,
    });
    let server = serve(config);
    let port = server.addr().port();
    for (own, expected) in [("127.0.0.1", "203.0.113.7"), ("::1", "[2001:db8::7]")] {
        let address = SocketAddr::new(own.parse().unwrap(), port);
        let options = ConnectOptions {
            headers: vec![("Host".to_owned(), "(unusable)".to_owned())],
            ..ConnectOptions::default()
        };
        let mut peer = Peer::register_as(address, options, json!({ "public_key": own }));
        let expected = json!([{ "urls": [format!("stun:{expected}:3478")] }]);
        assert_eq!(answer_to(&mut peer)["ice_servers"], expected);
    }
}

/// The port that a client who came by `localhost` is told.
fn own_port(server: &Server) -> u16 {
    let answer = answer_to(&mut Peer::register(server.addr(), "key"));
    let url = answer["ice_servers"][0]["urls"][0].as_str().unwrap();
    url.strip_prefix("stun:localhost:").unwrap().parse().unwrap()
}

#[test]
fn at_the_own_port_stun_is_answered() {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for udp_port in [0, free] {
        let server = serve(json!({ "ice_servers": "auto", "udp_port": udp_port, "loops": 2 }));
        let port = own_port(&server);
        assert!(port == if udp_port == 0 { server.addr().port() } else { udp_port });
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
        let request = unhex("000100002112a442010203040506070809101112").unwrap();
        socket.send_to(&request, ("127.0.0.1", port)).unwrap();
        let mut answer = [0; 512];
        let len = socket.recv(&mut answer).unwrap();
        assert!(len > 20 && answer[..2] == [1, 1] && answer[4..20] == request[4..]);
    }
    let server = serve(json!({ "ice_servers": "auto", "public_port": 3478 }));
    assert_eq!(own_port(&server), 3478);
}

#[test]
fn a_port_where_nobody_answers_is_not_told() {
    for switch in ["udp_enabled", "stun_enabled"] {
        let server = serve(json!({ "ice_servers": ["auto", "stun:a.example"], switch: false }));
        let answer = answer_to(&mut Peer::register(server.addr(), "key"));
        assert_eq!(
            answer["ice_servers"],
            json!([{ "urls": ["stun:a.example"] }]),
            "{switch}"
        );
    }
}

#[test]
fn the_own_port_stands_beside_other_servers() {
    let server = serve(json!({ "ice_servers": ["stun:stun.example.org", "auto", "turn:turn.example.org"] }));
    let told = |host: &str| answer_to(&mut peer_by(&server, host, host))["ice_servers"].clone();
    let (stun, turn) = ("stun:stun.example.org", json!({ "urls": ["turn:turn.example.org"] }));
    let own = format!("stun:a.example:{}", server.addr().port());
    assert_eq!(told("a.example:1"), json!([{ "urls": [own, stun] }, turn]));
    assert_eq!(told("!"), json!([{ "urls": [stun] }, turn]));
}

#[test]
fn a_credential_names_its_peer_and_its_end() {
    let turn = [
        "turn:turn.example.org?transport=udp",
        "turns:turn.example.org:443?transport=tcp",
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let config = json!({ "ice_servers": turn, "turn_secret_file": file, "turn_ttl": "90s", "loops": 2 });
    let server = serve(config);
    for number in 0..8 {
        let mut peer = Peer::register(server.addr(), &format!("key {number}"));
        let before = unix_s();
        let answer = answer_to(&mut peer);
        let after = unix_s();
        assert_eq!(answer["ttl"], 90);
        let [entry] = answer["ice_servers"].as_array().unwrap().as_slice() else {
            panic!("{answer}")
        };
        assert_eq!((&entry["urls"], entry.as_object().unwrap().len()), (&json!(turn), 3));
        let username = entry["username"].as_str().unwrap();
        let (expiry, fingerprint) = username.split_once(':').unwrap();
        assert_eq!(fingerprint, peer.fingerprint);
        let expiry: u64 = expiry.parse().unwrap();
        // The server's clock is read once a turn, so it may be the end of the second before.
        assert!(
            (before + 89..=after + 90).contains(&expiry),
            "{expiry} is not 90 s after {before}"
        );
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, SECRET.as_bytes());
        let password = BASE64.encode(hmac::sign(&key, username.as_bytes()).as_ref());
        assert_eq!(entry["credential"], password);
    }
    assert!(!server.stderr().contains(SECRET));
}

#[test]
fn asking_before_registration_ends_like_any_other_first_message() {
    let server = serve(json!({ "ice_servers": "auto" }));
    let mut client = Client::connect(server.addr(), ConnectOptions::default());
    client.send_text(ASK);
    let error = json!({ "code": 400, "message": "first message must be register" });
    client.expect_json(&json!({ "type": "error", "payload": error }));
    client.expect_close(1008, Some("invalid registration"));
}

#[test]
fn asking_counts_for_the_rate_limit() {
    let server = serve(json!({ "rate_limit_per_sec": 1, "rate_limit_burst": 2 }));
    let mut peer = Peer::register(server.addr(), "key");
    for _ in 0..2 {
        answer_to(&mut peer);
    }
    // In one write, so that next to nothing is refilled between them.
    let frames: Vec<Frame> = (0..10).map(|_| Frame::text(ASK)).collect();
    peer.client.try_send_frames(&frames).unwrap();
    let refused = (0..10)
        .filter(|_| peer.client.recv_json()["payload"]["code"] == 429)
        .count();
    assert!(refused >= 5, "{refused} of 10");
}

/// coturn's server with our secret, ended when this is dropped.
struct Coturn {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Coturn {
    /// A server that listens; None, and a line that says so, where it is not installed.
    fn start() -> Option<Self> {
        // A port that was free a moment ago may be somebody's when it is bound.
        for _ in 0..5 {
            let coturn = Self::spawn()?;
            let deadline = Instant::now() + STATE_WITHIN;
            while Instant::now() < deadline && !coturn.says("Cannot bind") {
                if coturn.says("Total General servers: 1") {
                    return Some(coturn);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("turnserver does not listen");
    }

    fn spawn() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("turnserver");
        command
            .args([
                "-n",
                "-v",
                "--use-auth-secret",
                "-r",
                "example.org",
                "--log-file",
                "stdout",
            ])
            .args([
                "-L",
                "127.0.0.1",
                "-E",
                "127.0.0.1",
                "--allow-loopback-peers",
                "--relay-threads",
                "1",
            ])
            .args(["--no-tls", "--no-dtls", "--no-cli"])
            .arg(format!("--static-auth-secret={SECRET}"))
            .args(["-p", &port.to_string()])
            .arg("--pidfile")
            .arg(folder.path().join("pid"))
            .arg("--userdb")
            .arg(folder.path().join("users"));
        let log = File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => Some(Self { child, port, folder }),
            Err(error) => {
                eprintln!("skipped: turnserver cannot be run ({error}); Debian's package is coturn");
                None
            }
        }
    }

    fn says(&self, what: &str) -> bool {
        std::fs::read_to_string(self.folder.path().join("log")).is_ok_and(|log| log.contains(what))
    }

    /// A client that asks for an allocation.
    fn client(&self, username: &str, password: &str) -> Guard {
        let mut command = Command::new("turnutils_uclient");
        command
            .args([
                "-y",
                "-n",
                "1",
                "-m",
                "1",
                "-p",
                &self.port.to_string(),
                "-u",
                username,
                "-w",
                password,
            ])
            .arg("127.0.0.1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Guard(command.spawn().expect("it comes with turnserver"))
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn coturn_takes_the_credential_and_no_other() {
    let Some(coturn) = Coturn::start() else { return };
    let server = serve(json!({ "ice_servers": ["turn:turn.example.org"], "turn_secret": SECRET }));
    let answer = answer_to(&mut Peer::register(server.addr(), "key"));
    let entry = &answer["ice_servers"][0];
    let (username, password) = (
        entry["username"].as_str().unwrap(),
        entry["credential"].as_str().unwrap(),
    );
    let taken = coturn.client(username, password);
    let allocated = format!("user <{username}>: incoming packet ALLOCATE processed, success");
    wait_until(|| coturn.says(&allocated), || format!("{username} has an allocation"));
    drop(taken);

    let other = if password.starts_with('A') { "B" } else { "A" };
    let forged = format!("{other}{}", &password[1..]);
    // The same password for a minute more.
    let (expiry, fingerprint) = username.split_once(':').unwrap();
    let longer = format!("{}:{fingerprint}", expiry.parse::<u64>().unwrap() + 60);
    for (username, password) in [(username, &*forged), (&*longer, password)] {
        let mut refused = coturn.client(username, password);
        let mut status = None;
        wait_until(
            || {
                status = refused.0.try_wait().unwrap();
                status.is_some()
            },
            || format!("the end of the client of {username}"),
        );
        assert!(!status.unwrap().success(), "{username} was let in with {password}");
        let refusal = format!("Cannot find credentials of user <{username}>");
        wait_until(
            || coturn.says(&refusal),
            || format!("{username} is refused for its password"),
        );
    }
}
