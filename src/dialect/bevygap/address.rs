//! Which address a client has, for those who place its game near it.
//!
//! Owns: when a client is believed, and which addresses say nothing of a place.
//! Never: reads header fields; who is believed about a client behind a proxy is known before.

use std::net::IpAddr;

use crate::codec::http::query_value;

/// For a client whose word counts and is no address.
pub const CLIENT_IP_INVALID: &str = "ERR client_ip invalid";

/// The address that goes on, in canonical form.
///
/// `address` is the peer's, or what a trusted proxy says of it; `query` is that of the target, and `said` what the first
/// message says. Both count only if `overridable`, the query before the message, an empty one not at all. An address that is
/// known nowhere else becomes `fake_ip`, if there is one.
///
/// # Errors
/// [`CLIENT_IP_INVALID`]: what counts is no address.
pub fn client_ip(
    address: IpAddr,
    query: &str,
    said: Option<&str>,
    overridable: bool,
    fake_ip: Option<IpAddr>,
) -> Result<IpAddr, &'static str> {
    let mut client = address;
    if overridable {
        let asked = query_value(query, "client_ip");
        let said = [asked.as_deref(), said.map(str::as_bytes)];
        if let Some(said) = said.into_iter().flatten().find(|said| !said.is_empty()) {
            client = parse(said).ok_or(CLIENT_IP_INVALID)?;
        }
    }
    let client = client.to_canonical();
    Ok(fake_ip.filter(|_| says_no_place(client)).unwrap_or(client))
}

/// Longer texts are refused by the reader of addresses itself.
pub(super) fn parse(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Loopback, private, link-local or unspecified.
fn says_no_place(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_clients_word_counts_only_where_it_is_allowed() {
        let peer = ip("192.0.2.1");
        for (query, said, overridable, expected) in [
            ("", None, true, Ok("192.0.2.1")),
            ("client_ip=198.51.100.9", Some("198.51.100.8"), false, Ok("192.0.2.1")),
            ("client_ip=198.51.100.9", Some("198.51.100.8"), true, Ok("198.51.100.9")),
            ("client_ip=", Some("198.51.100.8"), true, Ok("198.51.100.8")),
            ("client_ip=", Some(""), true, Ok("192.0.2.1")),
            ("a=b&client_ip=2001%3Adb8%3A%3a1", None, true, Ok("2001:db8::1")),
            ("client_ip=not-an-ip", None, false, Ok("192.0.2.1")),
            ("client_ip=not-an-ip", None, true, Err(CLIENT_IP_INVALID)),
            ("client_ip=192.0.2.1:80", None, true, Err(CLIENT_IP_INVALID)),
            ("client_ip=192.0.2.1+", None, true, Err(CLIENT_IP_INVALID)),
            ("client_ip=%ff", None, true, Err(CLIENT_IP_INVALID)),
            ("", Some("x\",\"y"), true, Err(CLIENT_IP_INVALID)),
        ] {
            let found = client_ip(peer, query, said, overridable, None);
            assert_eq!(found, expected.map(ip), "{query} {said:?} {overridable}");
        }
        let long = format!("client_ip={}", "1".repeat(16_000));
        assert_eq!(client_ip(peer, &long, None, true, None), Err(CLIENT_IP_INVALID));
    }

    #[test]
    fn an_address_that_is_known_nowhere_else_becomes_the_configured_one() {
        let fake = ip("203.0.113.7");
        for near in [
            "127.0.0.1",
            "127.9.9.9",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.1.1",
            "0.0.0.0",
            "::1",
            "::",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
        ] {
            assert_eq!(client_ip(ip(near), "", None, false, Some(fake)), Ok(fake), "{near}");
            assert_eq!(
                client_ip(ip(near), "", None, false, None),
                Ok(ip(near).to_canonical()),
                "{near}"
            );
        }
        for far in [
            "172.32.0.1",
            "192.169.1.1",
            "169.253.1.1",
            "11.0.0.1",
            "2001:db8::1",
            "fec0::1",
            "fbff::1",
        ] {
            assert_eq!(client_ip(ip(far), "", None, false, Some(fake)), Ok(ip(far)), "{far}");
        }
        assert_eq!(
            client_ip(ip("::ffff:192.0.2.1"), "", None, false, Some(fake)),
            Ok(ip("192.0.2.1"))
        );
        // The client's word is judged like its address.
        assert_eq!(
            client_ip(ip("192.0.2.1"), "client_ip=::ffff:10.0.0.1", None, true, Some(fake)),
            Ok(fake)
        );
    }
}
