//! Request heads.
//!
//! Owns: finding the end of a head, its grammar, and everything that makes a request's length ambiguous.
//! Never: keeps a copy; a [`Head`] borrows the input.

use std::fmt;

/// Takes a request's head from the front of `bytes`; None if it is incomplete.
///
/// `searched` is how far an earlier call looked for the end of the same head (0 at first), so that repeated calls with
/// more bytes are linear together. It is 0 again when the head was found or refused.
///
/// # Errors
/// See [`ParseError`]. The connection is to be answered with its status and closed: where the next request begins is
/// then unknown.
pub fn parse_head<'a>(bytes: &'a [u8], searched: &mut usize) -> Result<Option<Head<'a>>, ParseError> {
    let found = find_end(bytes, *searched);
    *searched = if let Ok(None) = found { bytes.len() } else { 0 };
    match found? {
        Some(end) => parse_whole(bytes.get(..end).unwrap_or_default()).map(Some),
        None => Ok(None),
    }
}

/// A whole request head.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// The method, in the client's case.
    pub method: &'a str,
    /// The target's path as it was sent, without the query. Begins with a slash.
    pub path: &'a str,
    /// The target's query as it was sent, without the question mark; empty if there is none.
    pub query: &'a str,
    /// The minor version: 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub version: u8,
    /// All header fields.
    pub headers: Headers<'a>,
    /// Bytes that the head takes of the input.
    pub len: usize,
}

impl Head<'_> {
    /// Whether a body follows, which we never read: answer and close. No GET or HEAD has one.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.headers.all("Content-Length").any(|value| !is_zero(value))
    }

    /// Whether the connection may stay open after the answer (RFC 9112 section 9.3; of HTTP/1.0 we ask that it close).
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.version == 1 && !self.headers.has_token("Connection", "close")
    }
}

/// The header fields of a request, in their order.
#[derive(Clone)]
pub struct Headers<'a> {
    fields: [httparse::Header<'a>; HEADERS_MAX],
    len: usize,
}

impl<'a> Headers<'a> {
    /// All values of the fields of that name, whatever its case, without the blanks around them.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.fields.iter().take(self.len);
        fields
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value.trim_ascii())
    }

    /// The value of the only field of that name; None if there is none or more than one.
    #[must_use]
    pub fn single(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.all(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Whether a field that is a list of tokens names `token`, whatever its case (RFC 9110 section 5.6.1).
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        let mut tokens = self.all(name).flat_map(|value| value.split(|byte| *byte == b','));
        tokens.any(|found| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fields.iter().take(self.len)).finish()
    }
}

/// Why a head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Not a head, or one that could be read in two ways.
    BadRequest,
    /// Longer than 16 KiB, or more than 64 header fields.
    TooLarge,
    /// A version of HTTP other than 1.0 and 1.1.
    UnsupportedVersion,
}

impl ParseError {
    /// The status to answer with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::TooLarge => 431,
            Self::UnsupportedVersion => 505,
        }
    }
}

/// Looks for the empty line from `from` on, and refuses bytes that no head of ours holds: a line feed without its
/// carriage return or the reverse, and other control characters.
fn find_end(bytes: &[u8], from: usize) -> Result<Option<usize>, ParseError> {
    let window = bytes.get(..HEAD_BYTES_MAX).unwrap_or(bytes);
    for (at, &byte) in window.iter().enumerate().skip(from) {
        let before = at.checked_sub(1).and_then(|before| window.get(before)).copied();
        if (byte == b'\n') != (before == Some(b'\r')) || at == 0 && byte == b'\r' {
            return Err(ParseError::BadRequest);
        }
        if byte == b'\n' && window.get(..=at).is_some_and(|head| head.ends_with(b"\r\n\r\n")) {
            return Ok(Some(at + 1));
        }
        if byte.is_ascii_control() && !matches!(byte, b'\r' | b'\n' | b'\t') {
            return Err(ParseError::BadRequest);
        }
    }
    if bytes.len() < HEAD_BYTES_MAX {
        Ok(None)
    } else {
        Err(ParseError::TooLarge)
    }
}

fn parse_whole(bytes: &[u8]) -> Result<Head<'_>, ParseError> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len == bytes.len() => {}
        Ok(_) => return Err(ParseError::BadRequest),
        Err(httparse::Error::TooManyHeaders) => return Err(ParseError::TooLarge),
        Err(httparse::Error::Version) if names_a_version(bytes) => return Err(ParseError::UnsupportedVersion),
        Err(_) => return Err(ParseError::BadRequest),
    }
    let httparse::Request {
        method: Some(method),
        path: Some(target),
        version: Some(version),
        headers,
        ..
    } = request
    else {
        return Err(ParseError::BadRequest);
    };
    let count = headers.len();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let head = Head {
        method,
        path,
        query,
        version,
        headers: Headers { fields, len: count },
        len: bytes.len(),
    };
    check_target(target)?;
    check_length(&head)?;
    check_host(&head)?;
    Ok(head)
}

/// Whether the request line ends in a version of HTTP, be it one that we do not speak.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let version = words.next().and_then(|word| word.strip_prefix(b"HTTP/"));
    let well_formed = matches!(version, Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit());
    well_formed && words.next().is_none()
}

/// Only the origin form names something here (RFC 9112 section 3.2); a fragment is never sent.
fn check_target(target: &str) -> Result<(), ParseError> {
    let fine = target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    fine.then_some(()).ok_or(ParseError::BadRequest)
}

/// A request has no body, or one whose length is beyond doubt (RFC 9112 section 6).
fn check_length(head: &Head<'_>) -> Result<(), ParseError> {
    if head.headers.all("Transfer-Encoding").next().is_some() {
        return Err(ParseError::BadRequest);
    }
    let mut lengths = head.headers.all("Content-Length");
    let Some(length) = lengths.next() else { return Ok(()) };
    let may_have_body = !matches!(head.method, "GET" | "HEAD");
    let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    let fine = is_number && lengths.next().is_none() && (may_have_body || is_zero(length));
    fine.then_some(()).ok_or(ParseError::BadRequest)
}

fn is_zero(length: &[u8]) -> bool {
    length.iter().all(|byte| *byte == b'0')
}

/// RFC 9112 section 3.2: a request of HTTP/1.1 names its host exactly once.
fn check_host(head: &Head<'_>) -> Result<(), ParseError> {
    let mut hosts = head.headers.all("Host");
    let fine = match hosts.next() {
        None => head.version == 0,
        Some(host) => hosts.next().is_none() && host.iter().all(|byte| is_host_byte(*byte)),
    };
    fine.then_some(()).ok_or(ParseError::BadRequest)
}

/// What a host and port are made of (RFC 3986 section 3.2.2).
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(&byte)
}

/// Longest head in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most header fields of a request.
const HEADERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Option<Head<'_>>, ParseError> {
        parse_head(bytes, &mut 0)
    }

    /// What one sees who gets the bytes in pieces of `step`.
    fn parse_in_pieces(bytes: &[u8], step: usize) -> Result<Option<usize>, ParseError> {
        let mut searched = 0;
        for end in (step..bytes.len()).step_by(step).chain([bytes.len()]) {
            if let Some(head) = parse_head(&bytes[..end], &mut searched)? {
                return Ok(Some(head.len));
            }
            assert_eq!(searched, end);
        }
        Ok(None)
    }

    fn with(line: &str) -> Vec<u8> {
        format!("GET /ws HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n").into_bytes()
    }

    #[test]
    fn a_head_is_taken_from_the_front() {
        let bytes =
            b"GET /ws?token=a/b?c HTTP/1.1\r\nHost: example.org:8080\r\nX-A:  1 \r\nx-a:2\r\nB: \xc3\xa9\r\n\r\nGET /";
        let head = parse(bytes).unwrap().unwrap();
        assert_eq!(
            (head.method, head.path, head.version, head.len),
            ("GET", "/ws", 1, bytes.len() - 5)
        );
        assert_eq!(head.headers.all("X-a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(head.headers.single("X-a"), None);
        assert_eq!(head.headers.single("b"), Some(&b"\xc3\xa9"[..]));
        assert_eq!(head.headers.single("c"), None);
        assert!(head.keep_alive() && !head.has_body());
    }

    #[test]
    fn an_incomplete_head_is_awaited() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).unwrap().is_none(), "cut at {end}");
        }
        for step in 1..=bytes.len() {
            assert_eq!(parse_in_pieces(bytes, step), Ok(Some(bytes.len())));
        }
    }

    #[test]
    fn tokens_are_found_in_lists_whatever_their_case() {
        let bytes = with("Connection: keep-alive, Upgrade\r\nconnection:,x\r\nUpgrade: WebSocket");
        let headers = parse(&bytes).unwrap().unwrap().headers;
        assert!(headers.has_token("Connection", "upgrade") && headers.has_token("connection", "X"));
        assert!(headers.has_token("upgrade", "websocket"));
        assert!(!headers.has_token("connection", "keep") && !headers.has_token("none", "x"));
    }

    #[test]
    fn keep_alive_is_the_rule_of_http_1_1_only() {
        assert!(!parse(&with("Connection: Close")).unwrap().unwrap().keep_alive());
        assert!(!parse(b"GET / HTTP/1.0\r\n\r\n").unwrap().unwrap().keep_alive());
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        for bytes in [
            with("Content-Length: 0\r\nTransfer-Encoding: chunked"),
            with("Transfer-Encoding: chunked"),
            with("Transfer-Encoding: identity"),
            with("Transfer-encoding:"),
            with("Content-Length: 0\r\nContent-Length: 0"),
            with("Content-Length: 0, 0"),
            with("Content-Length: 5"),
            with("Content-Length: +0"),
            with("Content-Length: -0"),
            with("Content-Length: 0x0"),
            with("Content-Length:"),
            with("A: b\r\n folded"),
            with("A: b\r\n\tfolded"),
            with(" A: b"),
            with("A : b"),
            with("A\t: b"),
            with(": b"),
            with("A"),
            with("A: b\nB: c"),
            with("A: b\rB: c"),
            with("A: b\r\r\nB: c"),
            with("A: \0"),
            with("A: \x07"),
            with("A: \x7f"),
            with("A\0: b"),
            with("\u{e9}: b"),
            with("Host: b"),
            with("hOST: a"),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_vec(),
            b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n".to_vec(),
            b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_vec(),
            b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n".to_vec(),
            b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n".to_vec(),
            b"GET / HTTP/1.1\n\n".to_vec(),
            b"GET / HTTP/1.1\nHost: a\n\n".to_vec(),
            b"GET http://a/ws HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"GET ws HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"GET * HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b" GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n".to_vec(),
            b"GET /\r\nHost: a\r\n\r\n".to_vec(),
            b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"\n".to_vec(),
            b"\x16\x03\x01".to_vec(),
        ] {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(
                parse(&bytes).map(|head| head.is_some()),
                Err(ParseError::BadRequest),
                "{text:?}"
            );
            assert_eq!(parse_in_pieces(&bytes, 1), Err(ParseError::BadRequest), "{text:?}");
        }
    }

    #[test]
    fn other_versions_have_their_own_answer() {
        for bytes in [&b"PRI * HTTP/2.0\r\n\r\n"[..], b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"] {
            assert_eq!(parse(bytes).unwrap_err(), ParseError::UnsupportedVersion);
        }
        let statuses = [
            ParseError::BadRequest,
            ParseError::TooLarge,
            ParseError::UnsupportedVersion,
        ];
        assert_eq!(statuses.map(ParseError::status), [400, 431, 505]);
    }

    #[test]
    fn a_body_is_told_of_where_it_is_allowed() {
        let post =
            |length: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        assert!(parse(&post("5")).unwrap().unwrap().has_body());
        assert!(!parse(&post("0")).unwrap().unwrap().has_body());
        assert!(parse(&post("99999999999999999999999")).unwrap().unwrap().has_body());
        assert!(!parse(&with("Content-Length: 0")).unwrap().unwrap().has_body());
        assert_eq!(
            parse(&post("5\r\nTransfer-Encoding: chunked")).unwrap_err(),
            ParseError::BadRequest
        );
    }

    #[test]
    fn heads_are_bounded_in_bytes_and_fields() {
        let of_len = |len: usize| with(&format!("A: {}", "x".repeat(len - with("A: ").len())));
        assert_eq!(parse(&of_len(HEAD_BYTES_MAX)).unwrap().unwrap().len, HEAD_BYTES_MAX);
        for step in [1, 7, 100_000] {
            assert_eq!(
                parse_in_pieces(&of_len(HEAD_BYTES_MAX + 1), step),
                Err(ParseError::TooLarge)
            );
            assert_eq!(
                parse_in_pieces(&vec![b'A'; HEAD_BYTES_MAX], step),
                Err(ParseError::TooLarge)
            );
        }
        let of_fields = |count: usize| with(&vec!["A: b"; count - 1].join("\r\n"));
        assert!(parse(&of_fields(HEADERS_MAX)).unwrap().is_some());
        assert_eq!(parse(&of_fields(HEADERS_MAX + 1)).unwrap_err(), ParseError::TooLarge);
    }

    proptest! {
        #[test]
        fn pieces_change_nothing(
            lines in proptest::collection::vec("[ -~\r\n]{0,20}", 0..6), step in 1usize..20,
        ) {
            let bytes = with(&lines.join("\r\n"));
            prop_assert_eq!(parse_in_pieces(&bytes, step), parse(&bytes).map(|head| head.map(|head| head.len)));
        }

        #[test]
        fn any_bytes_have_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200), searched in 0usize..300) {
            let _ = parse_head(&bytes, &mut { searched });
        }
    }
}
