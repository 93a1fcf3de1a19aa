//! As much of HTTP/1.1 as the tests ask for, and the answer to an upgrade.
//!
//! Owns: writing a request, reading an answer whose body has a `Content-Length` or ends with the connection.
//! Never: follows, retries, or reads a chunked body.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ANSWER_WITHIN;
use super::tls::trust_anything;
use super::wire::{Wire, WireOptions};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Such as 200.
    pub status: u16,
    /// In the order they came, names as they came.
    pub headers: Vec<(String, String)>,
    /// Empty for HEAD, 1xx, 204 and 304.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, whatever its case; several are joined with a comma.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in the body of {self:?}"))
    }
}

/// One request on a connection of its own; panics when there is no proper answer in time.
pub fn http(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    once(addr, &WireOptions::default(), method, path, headers)
}

/// [`http`] over TLS, with any certificate.
pub fn https(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let options = WireOptions {
        tls: Some(trust_anything(&[], &["http/1.1"])),
        ..WireOptions::default()
    };
    once(addr, &options, method, path, headers)
}

fn once(addr: SocketAddr, options: &WireOptions, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut connection = HttpConnection::open(addr, options).expect("a connection");
    let mut headers = headers.to_vec();
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        headers.push(("Connection", "close"));
    }
    connection
        .request(method, path, &headers)
        .unwrap_or_else(|error| panic!("no answer to {method} {path}: {error}"))
}

/// A connection for several requests, or for half of one.
pub struct HttpConnection {
    wire: Wire,
    buffer: Vec<u8>,
}

impl HttpConnection {
    /// Connects.
    pub fn open(addr: SocketAddr, options: &WireOptions) -> io::Result<Self> {
        Ok(Self {
            wire: Wire::open(addr, options)?,
            buffer: Vec::new(),
        })
    }

    /// Sends a request without a body and reads the answer. `Host` is added unless given.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
        self.send(request_head(method, path, headers).as_bytes())?;
        self.response(method == "HEAD", ANSWER_WITHIN)
    }

    /// Sends these bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes)
    }

    /// Reads an answer; `to_head`: it is one to a HEAD request and has no body whatever it says.
    pub fn response(&mut self, to_head: bool, within: Duration) -> io::Result<Response> {
        read_response(&self.wire, &mut self.buffer, to_head, within)
    }

    /// Waits for the server to end the connection; gives the bytes that came before it did.
    pub fn rest(&mut self, within: Duration) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + within;
        while read_until(&self.wire, &mut self.buffer, deadline)? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }
}

/// The head of a request with an empty body.
pub(super) fn request_head(method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str("Host: localhost\r\n");
    }
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head + "\r\n"
}

/// Reads one answer; what came after it stays in `buffer`.
pub(super) fn read_response(
    wire: &Wire,
    buffer: &mut Vec<u8>,
    to_head: bool,
    within: Duration,
) -> io::Result<Response> {
    let deadline = Instant::now() + within;
    let head_end = loop {
        if let Some(position) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break position;
        }
        if read_until(wire, buffer, deadline)? == 0 {
            return Err(if buffer.is_empty() {
                ErrorKind::ConnectionAborted.into()
            } else {
                bad("half a head", buffer)
            });
        }
    };
    let head: Vec<u8> = buffer.drain(..head_end + 4).collect();
    let mut response = parse_head(&head[..head_end]).ok_or_else(|| bad("not an answer", &head))?;
    if to_head || matches!(response.status, 100..=199 | 204 | 304) {
        return Ok(response);
    }
    if response.header("transfer-encoding").is_some() {
        return Err(bad("a body with a transfer encoding", &head));
    }
    let length = match response.header("content-length") {
        Some(length) => Some(length.parse::<usize>().map_err(|_| bad("bad length", &head))?),
        None => None,
    };
    while length.is_none_or(|length| buffer.len() < length) {
        if read_until(wire, buffer, deadline)? == 0 {
            if length.is_some() {
                return Err(bad("half a body", buffer));
            }
            break;
        }
    }
    response.body = buffer.drain(..length.unwrap_or(buffer.len())).collect();
    Ok(response)
}

fn parse_head(head: &[u8]) -> Option<Response> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?;
    let (code, _reason) = status.split_once(' ')?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    Some(Response {
        status: code.parse().ok().filter(|_| code.len() == 3)?,
        headers,
        body: Vec::new(),
    })
}

fn read_until(wire: &Wire, buffer: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    wire.set_read_timeout(Some(left))?;
    let count = wire.read(buffer);
    wire.set_read_timeout(None)?;
    match count {
        // How the system says that a read timed out.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
        count => count,
    }
}

fn bad(what: &str, bytes: &[u8]) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        format!("{what}: {:?}", String::from_utf8_lossy(bytes)),
    )
}
