//! `peer-server punch` as a program: two of them meet on this machine through a server.
//!
//! Owns: how the programs are run and read.
//! Never: tests a protocol's rules; the client library and the server's own tests do that.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddrV4, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};

use peer_server_client::simple::key;
use serde_json::json;
use support::Server;

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

/// A server, as the flags name it; with one loop, and with several between which sessions and lobbies are mailed.
fn servers() -> [(Server, String); 2] {
    [1, 4].map(|loops| {
        let server = Server::start(json!({ "loops": loops }), &[]);
        let at = format!("-a 127.0.0.1 -p {}", server.addr().port());
        (server, at)
    })
}

#[test]
fn two_meet_by_the_ascii_protocol() {
    for (_server, at) in servers() {
        let mut host = Punch::start(&format!("simple host {at}"));
        let id = host.line("session id: ");
        let joiner = Punch::start(&format!("simple join {id}"));
        host.must_connect();
        joiner.must_connect();
    }
}

#[test]
fn two_at_random_meet() {
    for (_server, at) in servers() {
        let line = format!("simple random {at} -ttl 0");
        let two = [Punch::start(&line), Punch::start(&line)];
        two.into_iter().for_each(Punch::must_connect);
    }
}

#[test]
fn two_meet_by_the_protobuf_protocol() {
    for (_server, at) in servers() {
        let mut host = Punch::start(&format!("natpunch host {at} -name rehearsal"));
        let id = host.line("lobby id: ");
        let (code, out, _) = Punch::start(&format!("natpunch list {at}")).ends();
        let listed = format!("{id}: 1 of 2 players, rehearsal");
        assert_eq!((code, out.lines().last()), (0, Some(&*listed)));
        let joiner = Punch::start(&format!("natpunch join {id} {at}"));
        host.must_connect();
        joiner.must_connect();
    }
}

#[test]
fn who_names_no_lobby_gets_one() {
    for (_server, at) in servers() {
        let mut host = Punch::start(&format!("natpunch host {at} -ttl 0"));
        host.line("lobby id: ");
        Punch::start(&format!("natpunch join {at}")).must_connect();
        host.must_connect();
    }
}

#[test]
fn two_meet_by_the_lobby_protocol() {
    for (_server, at) in servers() {
        let mut host = Punch::start_typing(&format!("matchmaker host {at}"));
        let lobby = host.line("lobby code: ");
        let mut joiner = Punch::start(&format!("matchmaker join {lobby} {at}"));
        joiner.line("joined");
        host.press_enter();
        host.must_connect();
        joiner.must_connect();
    }
}

#[test]
fn what_cannot_be_ends_with_a_sentence() {
    let [(server, at), _] = servers();
    let id = format!(
        "{}abcdabcd",
        key::encode(SocketAddrV4::new([127, 0, 0, 1].into(), server.addr().port()))
    );
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let deaf = nobody.local_addr().unwrap().port();
    for (line, code, sentence) in [
        (format!("simple join {id}"), 1, "the server knows no session"),
        (
            format!("simple host -a 127.0.0.1 -p {deaf} -t 1"),
            1,
            "did not answer within 1 s",
        ),
        (format!("simple host {at} -wait 0"), 1, "nobody came within 0 s"),
        ("simple join nonsense".to_owned(), 1, "nonsense: not a session id"),
        (
            format!("natpunch join lobby_1 {at}"),
            1,
            "the server says: Lobby not found",
        ),
        (
            format!("natpunch join {at} -wait 0"),
            1,
            "no free lobby came within 0 s",
        ),
        (
            format!("natpunch host -a 127.0.0.1 -p {deaf} -t 1"),
            1,
            "did not answer within 1 s",
        ),
        (
            format!("matchmaker join aaaaaa {at}"),
            1,
            "the server says: lobby not found",
        ),
        (format!("matchmaker host {at} -wait 0"), 1, "with nobody else in it"),
        (
            format!("matchmaker host -a 127.0.0.1 -p {deaf}"),
            1,
            "no TCP connection to the server",
        ),
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
