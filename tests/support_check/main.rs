//! Checks of the tests' own tools: a tool that sees nothing proves nothing.
//!
//! The client is held against a WebSocket server that is not ours (tungstenite) and against scripted bytes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod conversation;
mod frames;
mod matching;
mod script;
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tungstenite::protocol::WebSocket;

/// Serves one WebSocket connection with tungstenite.
fn serve(script: impl FnOnce(WebSocket<TcpStream>) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    listen(|stream| script(tungstenite::accept(stream).unwrap()), false)
}

/// Serves one TCP connection; `upgraded`: the upgrade has been answered before `script` sees it.
fn listen(script: impl FnOnce(TcpStream) + Send + 'static, upgraded: bool) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.set_nodelay(true).unwrap();
        if upgraded {
            answer_upgrade(&mut stream, None);
        }
        script(stream);
    });
    (addr, server)
}

fn answer_upgrade(stream: &mut TcpStream, extension: Option<&str>) {
    let key = read_head(stream).1;
    stream.write_all(upgrade_answer(&key, extension).as_bytes()).unwrap();
}

fn upgrade_answer(key: &str, extension: Option<&str>) -> String {
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let extension = extension
        .map(|answer| format!("Sec-WebSocket-Extensions: {answer}\r\n"))
        .unwrap_or_default();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{extension}\r\n"
    )
}

/// A request head and the `Sec-WebSocket-Key` in it.
fn read_head(stream: &mut TcpStream) -> (String, String) {
    let mut head = String::new();
    let mut bytes = BufReader::with_capacity(1, stream).bytes();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(bytes.next().unwrap().unwrap()));
    }
    let key = head
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .unwrap_or_default()
        .to_owned();
    (head, key)
}

/// Long enough to see that nothing comes.
const A_MOMENT: Duration = Duration::from_millis(50);
/// Long enough for what must come.
const LONG: Duration = Duration::from_secs(3);
