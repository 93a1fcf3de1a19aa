//! `peer-server punch` as a program: two of them meet on this machine through a server of a few lines.
//!
//! Owns: those few lines for each protocol, and how the programs are run and read.
//! Never: tests a protocol's rules; the client library does that without sockets.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use peer_server_client::simple::key;

/// A run of the command.
struct Punch {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Punch {
    fn start(line: &str) -> Self {
        Self::start_with(line, Stdio::null())
    }

    fn start_typing(line: &str) -> Self {
        Self::start_with(line, Stdio::piped())
    }

    fn press_enter(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
    }

    fn start_with(line: &str, stdin: Stdio) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_peer-server"))
            .arg("punch")
            .args(line.split_whitespace())
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The rest of the line that begins so.
    fn line(&mut self, begins: &str) -> String {
        let found = self
            .lines
            .find_map(|line| line.unwrap().strip_prefix(begins).map(str::to_owned));
        found.unwrap_or_else(|| panic!("no line begins with {begins}"))
    }

    fn ends(self) -> (i32, String, String) {
        let out: Vec<String> = self.lines.map(Result::unwrap).collect();
        let output = self.child.wait_with_output().unwrap();
        (
            output.status.code().unwrap(),
            out.join("\n"),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    fn must_connect(self) {
        let (code, out, err) = self.ends();
        assert_eq!(code, 0, "{out}\n{err}");
        assert!(out.contains(": connected directly in "), "{out}");
    }
}

/// Serves the ASCII protocol for as long as the test runs, and gives its port.
fn simple_server() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(own) = socket.local_addr().unwrap() else {
        panic!()
    };
    thread::spawn(move || {
        let mut hosts: HashMap<String, SocketAddrV4> = HashMap::new();
        let mut waiting = None;
        let mut buffer = [0; 128];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            let SocketAddr::V4(from) = from else { panic!() };
            let text = String::from_utf8(buffer[..len].to_vec()).unwrap();
            let send = |to: SocketAddrV4, text: String| assert!(socket.send_to(text.as_bytes(), to).is_ok());
            let (remote, id) = (key::encode(from), format!("{}{:05}abc", key::encode(own), from.port()));
            let fields: Vec<&str> = text.split(':').collect();
            let wanted = match fields[..] {
                ["HS", _] => None,
                ["RS", _] if waiting.is_none() || waiting == Some(id.clone()) => {
                    waiting = Some(id.clone());
                    None
                }
                ["RS", _] => waiting.clone(),
                ["JS", _, session] => Some(session.to_owned()),
                _ => continue,
            };
            match wanted {
                None => {
                    hosts.insert(id.clone(), from);
                    send(from, format!("HR:{remote}:{id}"));
                }
                Some(session) => match hosts.get(&session) {
                    Some(host) => {
                        let there = key::encode(*host);
                        send(*host, format!("NJ:{remote}:{}", fields[1]));
                        send(from, format!("JR:{remote}:{there}:{there}"));
                    }
                    None => send(from, format!("BK:{session}")),
                },
            }
        }
    });
    own.port()
}

/// Serves the protobuf protocol, as far as one lobby goes. Its messages are put together by hand: two bytes before each field.
fn natpunch_server() -> u16 {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let message = move |kind: u8, body: &[u8]| match kind {
        0..16 => field(kind, body),
        _ => [&[kind << 3 | 0x82, 1, body.len() as u8], body].concat(),
    };
    let success = vec![1 << 3, 1];
    let endpoint = move |address: SocketAddr| {
        let bits = |shift: u32| (address.port() >> shift) as u8;
        let port = vec![bits(0) | 0x80, bits(7) | 0x80, bits(14)];
        [field(1, address.ip().to_string().as_bytes()), vec![2 << 3], port].concat()
    };
    let instruction = move |id: usize, address: SocketAddr| {
        let (id, endpoint) = (format!("id{id}"), endpoint(address));
        message(
            6,
            &[
                vec![1 << 3, 1],
                field(2, id.as_bytes()),
                field(6, &endpoint),
                field(7, &endpoint),
            ]
            .concat(),
        )
    };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut clients: Vec<SocketAddr> = Vec::new();
        let mut host = 0;
        let mut buffer = [0; 1024];
        loop {
            let (_, from) = socket.recv_from(&mut buffer).unwrap();
            let send = |to: SocketAddr, bytes: &[u8]| assert!(socket.send_to(bytes, to).is_ok());
            if !clients.contains(&from) {
                clients.push(from);
            }
            let own = clients.iter().position(|client| *client == from).unwrap();
            match buffer[0] >> 3 {
                1 => {
                    let id = format!("id{own}");
                    let body = [success.clone(), field(2, &endpoint(from)), field(3, id.as_bytes())].concat();
                    send(from, &message(2, &body));
                }
                11 => {
                    host = own;
                    send(
                        from,
                        &message(12, &[success.clone(), field(2, b"lobby_7"), field(3, b"room")].concat()),
                    );
                }
                15 => {
                    let lobby = [field(1, b"lobby_7"), field(2, b"ro\x1bom"), vec![4 << 3, 1, 5 << 3, 2]].concat();
                    send(from, &message(16, &[success.clone(), field(3, &lobby)].concat()));
                }
                13 => {
                    let joined = [success.clone(), field(2, b"lobby_7")].concat();
                    send(from, &message(14, &joined));
                    send(from, &message(24, &joined));
                    send(from, &instruction(host, clients[host]));
                    send(clients[host], &instruction(own, from));
                }
                _ => {}
            }
        }
    });
    port
}

#[test]
fn a_host_and_those_who_join_its_lobby_meet() {
    let at = format!("-a 127.0.0.1 -p {}", natpunch_server());
    let mut host = Punch::start(&format!("natpunch host {at}"));
    let id = host.line("lobby id: ");
    let (code, out, _) = Punch::start(&format!("natpunch list {at}")).ends();
    assert_eq!(
        (code, out.lines().last()),
        (0, Some("lobby_7: 1 of 2 players, ro\\u{1b}om"))
    );
    let joiner = Punch::start(&format!("natpunch join {id} {at}"));
    host.must_connect();
    joiner.must_connect();
    let mut host = Punch::start(&format!("natpunch host {at} -ttl 0"));
    host.line("lobby id: ");
    Punch::start(&format!("natpunch join {at}")).must_connect();
    host.must_connect();
}

/// Serves the lobby protocol for one lobby of two.
fn matchmaker_server() -> u16 {
    let (tcp, udp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        // The same number for both, or another try.
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            break (tcp, udp);
        }
    };
    let port = udp.local_addr().unwrap().port();
    let udp = Arc::new(udp);
    // Whose address is known, by the words that told it.
    let known = Arc::new((Mutex::new(HashMap::<String, SocketAddr>::new()), Condvar::new()));
    let (socket, told) = (udp.clone(), known.clone());
    thread::spawn(move || {
        let mut buffer = [0; 1024];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[7..len]).into_owned();
            if text.contains(r#""Type":1,"#) {
                told.0.lock().unwrap().insert(text, from);
                told.1.notify_all();
            }
        }
    });
    thread::spawn(move || {
        for (n, stream) in tcp.incoming().enumerate() {
            let (udp, known) = (udp.clone(), known.clone());
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                for line in BufReader::new(stream.try_clone().unwrap())
                    .lines()
                    .map_while(Result::ok)
                {
                    let reply = match line.split([':', ',']).nth(1).unwrap() {
                        "0" => format!(r#"{{"SessionID":"s{n}"}}"#),
                        "1" => r#"{"LobbyCode":"abcdef"}"#.to_owned(),
                        // The body is base64: its length is the code's.
                        "2" if line.len() > 80 => r#""lobby not found""#.to_owned(),
                        _ => "{}".to_owned(),
                    };
                    writeln!(stream, "{reply}").unwrap();
                    if line.contains(r#""Type":3,"#) {
                        let guard = known.0.lock().unwrap();
                        let two = known.1.wait_while(guard, |known| known.len() < 2).unwrap();
                        let two: Vec<SocketAddr> = two.values().copied().collect();
                        for (to, other) in [(two[0], two[1]), (two[1], two[0])] {
                            udp.send_to(&endpoints(other), to).unwrap();
                        }
                    }
                }
            });
        }
    });
    port
}

/// The datagram with one other member's address.
fn endpoints(peer: SocketAddr) -> Vec<u8> {
    let list = format!(r#"{{"PeerUDPEndpoints":["{peer}"]}}"#);
    let alphabet: Vec<char> = ('A'..='Z')
        .chain('a'..='z')
        .chain('0'..='9')
        .chain(['+', '/'])
        .collect();
    // Blanks behind the list make whole groups of three.
    let list = format!("{list:<96}");
    let letters = list.as_bytes().chunks(3).flat_map(|group| {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| alphabet[bits >> shift & 63])
    });
    let data: String = letters.collect();
    let payload = format!(r#"{{"Type":3,"Data":"{data}"}}"#);
    [&[1, 0, 0, 0, payload.len() as u8, 0, 0], payload.as_bytes()].concat()
}

#[test]
fn members_of_a_lobby_meet() {
    let at = format!("-a 127.0.0.1 -p {}", matchmaker_server());
    let mut host = Punch::start_typing(&format!("matchmaker host {at}"));
    let lobby = host.line("lobby code: ");
    let mut joiner = Punch::start(&format!("matchmaker join {lobby} {at}"));
    joiner.line("joined");
    host.press_enter();
    host.must_connect();
    joiner.must_connect();
    let (code, _, err) = Punch::start(&format!("matchmaker join a-code-that-nobody-has {at}")).ends();
    assert_eq!(
        (code, err.trim()),
        (1, "not connected: the server says: lobby not found")
    );
}

#[test]
fn a_host_and_a_joiner_meet() {
    let port = simple_server();
    let mut host = Punch::start(&format!("simple host -a 127.0.0.1 -p {port}"));
    let id = host.line("session id: ");
    let joiner = Punch::start(&format!("simple join {id}"));
    host.must_connect();
    joiner.must_connect();
}

#[test]
fn two_at_random_meet() {
    let port = simple_server();
    let line = format!("simple random -a localhost -p {port} -ttl 0");
    let two = [Punch::start(&line), Punch::start(&line)];
    two.into_iter().for_each(Punch::must_connect);
}

#[test]
fn what_cannot_be_ends_with_a_sentence() {
    let port = simple_server();
    let id = format!("{}abcd", key::encode(SocketAddrV4::new([127, 0, 0, 1].into(), port)));
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let deaf = nobody.local_addr().unwrap().port();
    for (line, code, sentence) in [
        (format!("simple join {id}"), 1, "the server knows no session"),
        (
            format!("simple host -a 127.0.0.1 -p {deaf} -t 1"),
            1,
            "did not answer within 1 s",
        ),
        (
            format!("simple host -a 127.0.0.1 -p {port} -wait 0"),
            1,
            "nobody came within 0 s",
        ),
        ("simple join nonsense".to_owned(), 1, "nonsense: not a session id"),
        ("simple".to_owned(), 2, "Usage:"),
    ] {
        let (ended, _, said) = Punch::start(&line).ends();
        assert_eq!(ended, code, "{line}: {said}");
        assert!(said.contains(sentence), "{line}: {said}");
    }
    let (code, out, _) = Punch::start("-h").ends();
    assert_eq!(code, 0);
    assert!(out.contains("Usage:"));
}
