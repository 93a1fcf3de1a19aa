//! Addresses as an operator writes them: hosts, networks, origins, where somebody listens or is reached.
//!
//! Owns: their grammar, and the words in which a refusal is told.
//! Never: resolves a name, or opens a socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use super::ice::{is_host, is_port};
use super::values::Problem;

/// An address that clients can reach, or nothing.
pub(super) fn address<T: std::str::FromStr + Into<IpAddr> + Copy>(
    text: &str,
    family: &str,
) -> Result<Option<T>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let reachable = |address: &T| {
        let address: IpAddr = (*address).into();
        !address.is_unspecified() && !address.is_multicast()
    };
    let parsed = text.parse::<T>().ok().filter(reachable);
    parsed
        .map(Some)
        .ok_or_else(|| Problem::Refused(format!("{text:?} is not an {family} address that clients can reach")))
}

pub(super) fn hosts(text: &str) -> Result<Vec<IpAddr>, Problem> {
    let mut addresses = Vec::new();
    for piece in text.split(',').map(str::trim) {
        let address = match piece {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            _ => piece
                .parse()
                .map_err(|_| Problem::Refused(format!("{piece:?} is not an IP address")))?,
        };
        if addresses.contains(&address) {
            return Err(Problem::Refused(format!("{address} is named twice")));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

pub(super) fn network(text: &str) -> Result<IpNet, Problem> {
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network
        .map(|network| network.trunc())
        .map_err(|_| Problem::Refused(format!("{text:?} is not a network")))
}

/// An origin as browsers send it (RFC 6454 section 6.2). One with a path would never match and lock everybody out.
pub(super) fn origin(text: &str) -> Result<String, Problem> {
    let well_formed = match text.split_once("://") {
        Some((scheme, host)) => !scheme.is_empty() && !host.contains(['/', '?', '#', '@', ',']),
        None => text == "null",
    };
    if well_formed && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(Problem::Refused(format!(
            "{text:?} is not an origin (scheme://host[:port], no path)"
        )))
    }
}

/// Where to listen, or nothing.
pub(super) fn socket_address(text: &str) -> Result<Option<SocketAddr>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse::<SocketAddr>().ok();
    parsed
        .map(Some)
        .ok_or_else(|| Problem::Refused(format!("{text:?} is not an IP address with a port (IP:PORT)")))
}

/// Where a server is: a name or an address, perhaps with a port, or nothing.
pub(super) fn host_port(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let (host, port) = match text.rsplit_once(':').filter(|_| !text.ends_with(']')) {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    if is_host(host) && port.is_none_or(is_port) {
        return Ok(text.to_owned());
    }
    // What stands before an `@` may be a password.
    Err(Problem::Refused(match text.contains('@') {
        true => "must be host or host:port, without a user".to_owned(),
        false => format!("{text:?} is neither host nor host:port (IPv6 in brackets, no scheme)"),
    }))
}

/// The address of an interface over HTTP, to which paths are appended: what comes out has no slash at its end.
pub(super) fn http_url(text: &str) -> Result<String, Problem> {
    let url = text.trim_end_matches('/');
    let lower = url.to_ascii_lowercase();
    let rest = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://"));
    let authority = rest.map(|rest| rest.split_once('/').map_or(rest, |(authority, _)| authority));
    let is_fine = authority.is_some_and(|authority| !authority.is_empty() && host_port(authority).is_ok())
        && url
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'@'));
    match is_fine {
        true => Ok(url.to_owned()),
        // What stands before an `@` may be a password.
        false if text.contains('@') => Err(Problem::Refused("must be a URL without a user".to_owned())),
        false => Err(Problem::Refused(format!(
            "{text:?} is not a URL such as https://example.org or http://127.0.0.1:8080/path"
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv6Addr;

    use super::*;

    fn refused<T: std::fmt::Debug>(result: Result<T, Problem>) -> bool {
        matches!(result.unwrap_err(), Problem::Refused(_))
    }

    #[test]
    fn hosts_are_addresses_or_localhost() {
        assert_eq!(hosts("localhost").unwrap(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(hosts("10.0.0.1, ::1").unwrap().len(), 2);
        for bad in [
            "",
            " ",
            "10.0.0.1,",
            "example.org",
            "[::1]",
            "0.0.0.0:80",
            "1.2.3",
            "::,::",
            "localhost,127.0.0.1",
        ] {
            assert!(refused(hosts(bad)), "{bad:?}");
        }
    }

    #[test]
    fn networks_may_be_bare_addresses() {
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(network("fd00::1").unwrap().to_string(), "fd00::1/128");
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        for bad in ["", "10.0.0.0/33", "10.0.0.0/", "10.0/8", "all", "fd00::/129"] {
            assert!(refused(network(bad)), "{bad:?}");
        }
    }

    #[test]
    fn public_addresses_are_such_as_can_be_reached() {
        assert_eq!(address::<Ipv4Addr>("", "IPv4").unwrap(), None);
        assert_eq!(
            address("203.0.113.1", "IPv4").unwrap(),
            Some(Ipv4Addr::new(203, 0, 113, 1))
        );
        assert!(address::<Ipv6Addr>("2001:db8::1", "IPv6").unwrap().is_some());
        for bad in ["0.0.0.0", "224.0.0.1", "::1", "example.org", " "] {
            assert!(refused(address::<Ipv4Addr>(bad, "IPv4")), "{bad:?}");
        }
        assert!(refused(address::<Ipv6Addr>("::", "IPv6")));
    }

    #[test]
    fn origins_that_could_never_match_are_refused() {
        assert_eq!(origin("HTTPS://Example.org:8443").unwrap(), "https://example.org:8443");
        for good in ["null", "file://", "chrome-extension://abc"] {
            assert_eq!(origin(good).unwrap(), good);
        }
        for bad in [
            "",
            "*",
            "example.org",
            "https://example.org/",
            "https://a b",
            "://x",
            "https://u@h",
            "https://ä",
        ] {
            assert!(refused(origin(bad)), "{bad:?}");
        }
    }

    #[test]
    fn a_place_to_listen_is_an_address_with_a_port() {
        assert_eq!(socket_address("").unwrap(), None);
        for good in ["0.0.0.0:3000", "[::]:3000", "127.0.0.1:0"] {
            assert_eq!(socket_address(good).unwrap().unwrap().to_string(), good);
        }
        for bad in ["3000", ":3000", "0.0.0.0", "localhost:3000", "0.0.0.0:65536", " "] {
            assert!(refused(socket_address(bad)), "{bad:?}");
        }
    }

    #[test]
    fn a_server_is_a_host_with_or_without_a_port() {
        for good in [
            "",
            "nats",
            "nats.example.org:4222",
            "127.0.0.1",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:4222",
        ] {
            assert_eq!(host_port(good).unwrap(), good);
        }
        for bad in [
            "nats://a", "a:0", "a:", ":1", "a b", "a,b", "::1", "a/b", "a:1:2", "a\r\nPUB",
        ] {
            assert!(refused(host_port(bad)), "{bad:?}");
        }
        let Err(Problem::Refused(text)) = host_port("user:s3cret@host") else {
            panic!()
        };
        assert!(!text.contains("s3cret"));
    }

    #[test]
    fn a_url_loses_its_slashes_at_the_end() {
        for (text, url) in [
            ("https://api.example.org/", "https://api.example.org"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("HTTPS://Example.org/Base//", "HTTPS://Example.org/Base"),
            ("http://[::1]:80", "http://[::1]:80"),
        ] {
            assert_eq!(http_url(text).unwrap(), url);
        }
        for bad in [
            "",
            "/",
            "https://",
            "ftp://a",
            "api.example.org",
            "https:///a",
            "https://a?b",
            "https://a#b",
            "https://a b",
        ] {
            assert!(refused(http_url(bad)), "{bad:?}");
        }
        let Err(Problem::Refused(text)) = http_url("https://user:s3cret@host") else {
            panic!()
        };
        assert!(!text.contains("s3cret"));
    }
}
