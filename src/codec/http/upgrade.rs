//! The upgrade of a request to WebSocket (RFC 6455 section 4.2.1).
//!
//! Owns: the checks, their order, and what each refusal tells the client.
//! Never: looks at the path or the origin, and selects no subprotocol.

use super::Head;

/// Checks that a request may be answered by `101 Switching Protocols`, and gives its key.
///
/// # Errors
/// The first check that fails, in the order of [`UpgradeError`]'s variants.
pub fn check_upgrade<'a>(head: &Head<'a>) -> Result<Key<'a>, UpgradeError> {
    let headers = &head.headers;
    // RFC 9110 section 7.8: an upgrade that HTTP/1.0 asks for is as good as none.
    let asks = headers.has_token("Connection", "upgrade") && headers.has_token("Upgrade", "websocket");
    if !asks || head.version == 0 {
        return Err(UpgradeError::UpgradeRequired);
    }
    if head.method != "GET" {
        return Err(UpgradeError::MethodNotAllowed);
    }
    if headers.single("Sec-WebSocket-Version") != Some(b"13") {
        return Err(UpgradeError::UnsupportedVersion);
    }
    headers
        .single("Sec-WebSocket-Key")
        .and_then(Key::new)
        .ok_or(UpgradeError::BadKey)
}

/// A well-formed `Sec-WebSocket-Key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a>(&'a [u8]);

impl<'a> Key<'a> {
    /// None unless this is the Base64 form of 16 bytes.
    fn new(value: &'a [u8]) -> Option<Self> {
        let digits = value.strip_suffix(b"==")?;
        let fine = digits.len() == 22
            && digits
                .iter()
                .all(|&byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte));
        fine.then_some(Self(value))
    }

    /// The key as it was sent.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

/// Why a request cannot become a WebSocket connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeError {
    /// It does not ask for it.
    UpgradeRequired,
    /// Not a GET.
    MethodNotAllowed,
    /// Not version 13 of the protocol.
    UnsupportedVersion,
    /// The key is missing, repeated, or not the Base64 form of 16 bytes.
    BadKey,
}

impl UpgradeError {
    /// The status to answer with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::UpgradeRequired => 426,
            Self::MethodNotAllowed => 405,
            Self::UnsupportedVersion | Self::BadKey => 400,
        }
    }

    /// The header fields that tell the client what would have been right.
    #[must_use]
    pub fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::UpgradeRequired => &[("Connection", "Upgrade"), ("Upgrade", "websocket")],
            Self::MethodNotAllowed => &[("Allow", "GET")],
            Self::UnsupportedVersion => &[("Sec-WebSocket-Version", "13")],
            Self::BadKey => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::parse_head;
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn check(request_line: &str, lines: &[&str]) -> Result<String, UpgradeError> {
        let bytes = format!("{request_line}\r\nHost: a\r\n{}\r\n\r\n", lines.join("\r\n")).into_bytes();
        let head = parse_head(&bytes, &mut 0).unwrap().unwrap();
        check_upgrade(&head).map(|key| String::from_utf8(key.as_bytes().to_vec()).unwrap())
    }

    fn with_key(lines: &[&str]) -> Result<String, UpgradeError> {
        let all = [
            &["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"],
            lines,
        ]
        .concat();
        check("GET /ws HTTP/1.1", &all)
    }

    #[test]
    fn a_good_request_yields_its_key() {
        let key_line = format!("sec-websocket-key:   {KEY}  ");
        assert_eq!(with_key(&[&key_line]), Ok(KEY.to_owned()));
        let lines = [
            "connection: keep-alive, UPGRADE",
            "upgrade: h2c, WebSocket",
            "Sec-WebSocket-Version: 13",
            &key_line,
        ];
        assert_eq!(check("GET / HTTP/1.1", &lines), Ok(KEY.to_owned()));
    }

    #[test]
    fn checks_run_in_order() {
        let upgrade = ["Connection: Upgrade", "Upgrade: websocket"];
        for lines in [
            &[][..],
            &upgrade[..1],
            &upgrade[1..],
            &["Connection: Upgrade", "Upgrade: h2c"],
        ] {
            assert_eq!(check("POST / HTTP/1.1", lines), Err(UpgradeError::UpgradeRequired));
        }
        assert_eq!(check("GET / HTTP/1.0", &upgrade), Err(UpgradeError::UpgradeRequired));
        assert_eq!(check("POST / HTTP/1.1", &upgrade), Err(UpgradeError::MethodNotAllowed));
        for version in [&[][..], &["8"], &["13, 8"], &["13", "13"], &["013"], &[""]] {
            let versions: Vec<String> = version
                .iter()
                .map(|value| format!("Sec-WebSocket-Version: {value}"))
                .collect();
            let lines: Vec<&str> = upgrade.into_iter().chain(versions.iter().map(String::as_str)).collect();
            assert_eq!(
                check("GET / HTTP/1.1", &lines),
                Err(UpgradeError::UnsupportedVersion),
                "{version:?}"
            );
        }
    }

    #[test]
    fn keys_that_are_not_sixteen_bytes_are_refused() {
        for key in [
            "",
            "==",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZ===",
            "dGhlIHNhbXBsZSBub25jZQA=",
        ] {
            assert_eq!(
                with_key(&[&format!("Sec-WebSocket-Key: {key}")]),
                Err(UpgradeError::BadKey),
                "{key}"
            );
        }
        for key in [
            "dGhlIHNhbXBsZSBub25j-Q==",
            "dGhlIHNhbXBs SBub25jZQ==",
            "dGhlIHNhbXBsZSBub25jZQAAAA==",
        ] {
            assert_eq!(
                with_key(&[&format!("Sec-WebSocket-Key: {key}")]),
                Err(UpgradeError::BadKey),
                "{key}"
            );
        }
        let line = format!("Sec-WebSocket-Key: {KEY}");
        assert_eq!(with_key(&[&line, &line]), Err(UpgradeError::BadKey));
        assert_eq!(with_key(&[]), Err(UpgradeError::BadKey));
    }

    #[test]
    fn refusals_say_what_would_have_been_right() {
        use UpgradeError::{BadKey, MethodNotAllowed, UnsupportedVersion, UpgradeRequired};
        let all = [UpgradeRequired, MethodNotAllowed, UnsupportedVersion, BadKey];
        assert_eq!(all.map(UpgradeError::status), [426, 405, 400, 400]);
        assert_eq!(all.map(|error| error.headers().len()), [2, 1, 1, 0]);
    }
}
