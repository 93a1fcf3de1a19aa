//! Answers to requests.
//!
//! Owns: status lines, the length of the body, whether the connection stays.
//! Never: writes a stranger's bytes into a header field; names and values are the server's own.

use super::Key;
use std::io::Write;

/// Appends a whole answer. `head_only` is for HEAD: the fields of the full answer without its body. Unless
/// `keep_alive`, the client is told that the connection closes. An answer of 204 has no body and says no length (RFC 9110
/// section 8.6).
pub fn push_response(
    out: &mut Vec<u8>,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
    head_only: bool,
    keep_alive: bool,
) {
    push_line(out, status);
    for (name, value) in headers {
        push_header(out, name, value);
    }
    if !keep_alive {
        push_header(out, "Connection", "close");
    }
    if status == 204 {
        return out.extend_from_slice(b"\r\n");
    }
    write!(out, "Content-Length: {}\r\n\r\n", body.len()).expect("writing to a vector does not fail");
    if !head_only {
        out.extend_from_slice(body);
    }
}

/// Appends the head of an answer whose body comes piece by piece and ends the connection. Unless `chunked`, which only
/// clients of HTTP/1.1 understand, the end of the connection is the end of the body.
pub fn push_stream_head(out: &mut Vec<u8>, status: u16, headers: &[(&str, &str)], chunked: bool) {
    push_line(out, status);
    for (name, value) in headers {
        push_header(out, name, value);
    }
    if chunked {
        push_header(out, "Transfer-Encoding", "chunked");
    }
    push_header(out, "Connection", "close");
    out.extend_from_slice(b"\r\n");
}

/// Appends a chunk of a body (RFC 9112 section 7.1). An empty one would be the last, so it is left out.
pub fn push_chunk(out: &mut Vec<u8>, body: &[u8]) {
    if body.is_empty() {
        return;
    }
    write!(out, "{:x}\r\n", body.len()).expect("writing to a vector does not fail");
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a body in chunks.
pub fn push_last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

/// Appends the answer that makes the connection a WebSocket (RFC 6455 section 4.2.2), with the extensions agreed on and
/// further fields.
pub fn push_switching_protocols(out: &mut Vec<u8>, key: Key<'_>, extensions: Option<&str>, headers: &[(&str, &str)]) {
    push_line(out, 101);
    push_header(out, "Upgrade", "websocket");
    push_header(out, "Connection", "Upgrade");
    push_header(
        out,
        "Sec-WebSocket-Accept",
        &tungstenite::handshake::derive_accept_key(key.as_bytes()),
    );
    if let Some(extensions) = extensions {
        push_header(out, "Sec-WebSocket-Extensions", extensions);
    }
    for (name, value) in headers {
        push_header(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

fn push_line(out: &mut Vec<u8>, status: u16) {
    write!(out, "HTTP/1.1 {status} {}\r\n", reason(status)).expect("writing to a vector does not fail");
}

fn push_header(out: &mut Vec<u8>, name: &str, value: &str) {
    debug_assert!(
        !name.contains(['\r', '\n', ':']) && !value.contains(['\r', '\n']),
        "a header field of several lines"
    );
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The phrase of a status that we send; a phrase may be empty (RFC 9112 section 4).
fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{check_upgrade, parse_head};
    use super::*;

    fn response(status: u16, headers: &[(&str, &str)], head_only: bool, keep_alive: bool) -> String {
        let mut out = Vec::new();
        push_response(&mut out, status, headers, b"{}", head_only, keep_alive);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn answers_have_a_length_and_say_when_they_are_the_last() {
        let kept = response(200, &[("Content-Type", "application/json")], false, true);
        assert_eq!(
            kept,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        );
        let last = response(404, &[], false, false);
        assert_eq!(
            last,
            "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
        );
    }

    #[test]
    fn an_answer_to_head_has_the_length_but_not_the_body() {
        assert_eq!(
            response(503, &[], true, true),
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n"
        );
    }

    #[test]
    fn nothing_to_say_has_no_length() {
        assert_eq!(response(204, &[], false, true), "HTTP/1.1 204 No Content\r\n\r\n");
    }

    #[test]
    fn a_body_may_come_piece_by_piece() {
        let mut out = Vec::new();
        push_stream_head(&mut out, 200, &[("A", "b")], true);
        push_chunk(&mut out, b"");
        push_chunk(&mut out, b"seventeen letters");
        push_last_chunk(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             11\r\nseventeen letters\r\n0\r\n\r\n"
        );
        let mut out = Vec::new();
        push_stream_head(&mut out, 200, &[], false);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn a_client_of_another_make_accepts_the_upgrade() {
        use tungstenite::handshake::client::generate_key;
        let key = generate_key();
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        );
        let head = parse_head(request.as_bytes(), &mut 0).unwrap().unwrap();
        let mut out = Vec::new();
        push_switching_protocols(&mut out, check_upgrade(&head).unwrap(), Some("x"), &[("A", "b")]);
        let mut fields = [httparse::EMPTY_HEADER; 8];
        let mut response = httparse::Response::new(&mut fields);
        assert_eq!(response.parse(&out), Ok(httparse::Status::Complete(out.len())));
        assert_eq!(response.code, Some(101));
        let value = |name: &str| {
            let field = response.headers.iter().find(|field| field.name == name);
            field.map(|field| std::str::from_utf8(field.value).unwrap())
        };
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        assert_eq!(value("Sec-WebSocket-Accept"), Some(accept.as_str()));
        assert_eq!((value("Sec-WebSocket-Extensions"), value("A")), (Some("x"), Some("b")));
        assert_eq!(
            (value("Upgrade"), value("Connection")),
            (Some("websocket"), Some("Upgrade"))
        );
    }
}
