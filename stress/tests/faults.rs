//! What a server loses or says twice fails the run, whatever the scenario. No server does so on demand: a proxy between one
//! and the generator does it for it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

/// Which messages, told by a piece of their text, are to be spoiled in which scenario.
const CASES: &[(&[&str], &str)] = &[
    (&["ping", "peers=10", "window=2"], r#""pong""#),
    (&["match", "pairs=4", "namespace_size=4"], r#""matched""#),
    (&["match", "pairs=4", "namespace_size=4"], r#""waiting""#),
    (&["rooms", "peers=20", "namespace_size=5"], r#""peer_joined""#),
    (&["rooms", "peers=20", "namespace_size=5"], r#""kick""#),
    (&["mixed", "peers=20", "namespace_size=10"], r#""peer_joined""#),
    (&["mixed", "peers=20", "namespace_size=10"], r#""matched""#),
    (&["mixed", "peers=20", "namespace_size=10"], r#""candidate""#),
    (&["seek", "window=4"], r#""Acknowledged""#),
    (&["seek", "window=4"], r#""SessionReady""#),
];

/// The one that is spoiled; each case has more in its first moments.
const SPOILED: usize = 2;

#[test]
fn what_a_server_loses_or_repeats_is_found_out() {
    let server = Server::start();
    thread::scope(|scope| {
        for (scenario, piece) in CASES {
            for copies in [0, 2] {
                let proxy = spoil(server.address, piece, copies);
                scope.spawn(move || {
                    let output = Command::new(env!("CARGO_BIN_EXE_peer-stress"))
                        .arg("run")
                        .args(*scenario)
                        .args(["warm_up=0.05", "seconds=0.2", "--generator-cores", "0", "--json"])
                        .args(["--target", &proxy.to_string()])
                        .output()
                        .unwrap();
                    let said = String::from_utf8_lossy(&output.stderr);
                    assert_eq!(
                        output.status.code(),
                        Some(1),
                        "{scenario:?} {piece} {copies} times: {said}"
                    );
                    assert!(said.contains("FAIL"), "{said}");
                });
            }
        }
    });
}

struct Server {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.json");
        let key = folder.path().join("token-key");
        std::fs::write(&key, "5a".repeat(32)).unwrap();
        let settings = json!({
            "host": "127.0.0.1", "port": 0, "metrics_enabled": false, "rate_limit_per_sec": 0, "send_buffer_size": 4096,
            "log_level": "warn", "matchmaker_enabled": true, "matchmaker_private_key_file": key,
            "matchmaker_waiting_per_ip": 0, "matchmaker_requests_per_min_per_ip": 0,
            "game_servers": [{
                "id": "one", "public": "203.0.113.10:30004", "game": "arena", "version": "1", "capacity": 1_000_000,
                "cert_digest": "e3".repeat(32),
            }],
        });
        std::fs::write(&config, settings.to_string()).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_peer-stress")).with_file_name("peer-server");
        let mut child = Command::new(program)
            .arg("-config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            child,
            address: line.trim().strip_prefix("listening on ").unwrap().parse().unwrap(),
            _folder: folder,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Stands before a server and passes on everything once, but one of the messages with this piece so many times.
fn spoil(server: SocketAddr, piece: &'static str, copies: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(server).unwrap();
            let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                // An end on either side is the end of both.
                let _ = std::io::copy(&mut from_client, &mut to_server);
                let _ = to_server.shutdown(Shutdown::Both);
            });
            let seen = seen.clone();
            thread::spawn(move || {
                let times = |frame: &[u8]| {
                    let is_one = frame.windows(piece.len()).any(|window| window == piece.as_bytes());
                    let is_it = is_one && seen.fetch_add(1, Ordering::Relaxed) + 1 == SPOILED;
                    if is_it { copies } else { 1 }
                };
                let _ = pass_frames(&server, &client, times);
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

/// Passes on the answer to the upgrade, and then each frame as often as `times` says.
fn pass_frames(mut from: &TcpStream, mut to: &TcpStream, times: impl Fn(&[u8]) -> usize) -> std::io::Result<()> {
    let (mut kept, mut chunk, mut is_upgraded) = (Vec::new(), [0; 16 * 1024], false);
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(()),
            bytes => kept.extend_from_slice(&chunk[..bytes]),
        }
        if !is_upgraded {
            let Some(end) = kept.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            to.write_all(&kept[..end + 4])?;
            kept.drain(..end + 4);
            is_upgraded = true;
        }
        while let Some(len) = frame_len(&kept) {
            let frame: Vec<u8> = kept.drain(..len).collect();
            for _ in 0..times(&frame) {
                to.write_all(&frame)?;
            }
        }
    }
}

/// The length of the first frame from a server, if it is whole; none is longer than 64 KiB here.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let len = match bytes {
        [_, 126, high, low, ..] => 4 + usize::from(u16::from_be_bytes([*high, *low])),
        [_, len @ 0..126, ..] => 2 + usize::from(*len),
        _ => return None,
    };
    (bytes.len() >= len).then_some(len)
}
