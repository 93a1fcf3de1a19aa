//! ICE servers as an operator names them: URLs of STUN (RFC 7064) and TURN (RFC 7065), or a word for our own STUN port.
//!
//! Owns: their grammar, which is that of browsers: what those refuse would cost a page its whole list.
//! Never: resolves a name, or knows a credential.

use std::net::{Ipv4Addr, Ipv6Addr};

/// One entry of [`ice_servers`](super::Config::ice_servers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IceServer {
    /// Our own STUN port, under the host name that the client came by.
    Auto,
    /// A `stun:` or `stuns:` URL, in lower case.
    Stun(String),
    /// A `turn:` or `turns:` URL, in lower case.
    Turn(String),
}

impl IceServer {
    /// The entry as it is written.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Auto => AUTO,
            Self::Stun(url) | Self::Turn(url) => url,
        }
    }

    pub(super) fn is_turn(&self) -> bool {
        matches!(self, Self::Turn(_))
    }
}

/// Reads one entry.
///
/// # Errors
/// What is wrong with it, for the operator.
pub(super) fn parse(text: &str) -> Result<IceServer, String> {
    if text == AUTO {
        return Ok(IceServer::Auto);
    }
    let url = text.to_ascii_lowercase();
    let refused = |why: &str| Err(format!("{text:?} is no URL of a STUN or TURN server: {why}"));
    let Some((scheme, rest)) = url.split_once(':') else {
        return refused("it begins with stun:, stuns:, turn: or turns:");
    };
    let is_turn = match scheme {
        "stun" | "stuns" => false,
        "turn" | "turns" => true,
        _ => return refused("it begins with stun:, stuns:, turn: or turns:"),
    };
    if rest.starts_with('/') {
        return refused("no slashes follow the scheme");
    }
    let authority = match rest.split_once('?') {
        None => rest,
        Some(_) if !is_turn => return refused("only turn: and turns: take a transport"),
        Some((authority, "transport=udp" | "transport=tcp")) => authority,
        Some(_) => return refused("after ? only transport=udp or transport=tcp may stand"),
    };
    let (host, port) = match authority.rsplit_once(':').filter(|_| !authority.ends_with(']')) {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if port.is_some_and(|port| !is_port(port)) {
        return refused("its port is none of 1 to 65535");
    }
    if !is_host(host) {
        return refused("its host is neither a name nor an address (IPv6 in brackets)");
    }
    Ok(if is_turn {
        IceServer::Turn(url)
    } else {
        IceServer::Stun(url)
    })
}

/// Whether it is a port that one can connect to.
pub(super) fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port != 0)
}

/// A name that DNS can hold, or an address. A name in other letters than ASCII is written as its A-labels.
pub(super) fn is_host(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix('[') {
        return rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=LABEL_MAX).contains(&label.len()) && label.bytes().all(fine)
    };
    // What ends in a number is an address for a browser, or nothing.
    let last = name.rsplit('.').next().unwrap_or_default();
    match last.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<Ipv4Addr>().is_ok(),
        false => name.len() <= NAME_MAX && name.split('.').all(is_label),
    }
}

/// The word for our own STUN port.
pub(super) const AUTO: &str = "auto";
/// RFC 1035 section 2.3.4: octets of a label, and of a name as it is written.
const LABEL_MAX: usize = 63;
const NAME_MAX: usize = 253;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_of_both_kinds_are_read() {
        for url in [
            "stun:example.org",
            "stun:stun.example.org:19302",
            "stuns:a-b_c.example:5349",
            "stun:192.0.2.1:1",
            "stun:[2001:db8::1]",
            "stun:[::1]:65535",
            "stun:localhost.",
        ] {
            assert_eq!(parse(url), Ok(IceServer::Stun(url.to_owned())));
        }
        for url in [
            "turn:example.org",
            "turns:example.org:443?transport=tcp",
            "turn:192.0.2.1?transport=udp",
            "turn:[2001:db8::1]:3478?transport=udp",
        ] {
            assert_eq!(parse(url), Ok(IceServer::Turn(url.to_owned())));
        }
        assert_eq!(parse("auto"), Ok(IceServer::Auto));
        let lower = IceServer::Turn("turn:example.org?transport=udp".to_owned());
        assert_eq!(parse("TURN:Example.ORG?Transport=UDP"), Ok(lower));
    }

    #[test]
    fn what_a_browser_would_refuse_is_refused() {
        for (url, why) in [
            ("", "begins with"),
            ("Auto", "begins with"),
            ("example.org", "begins with"),
            ("example.org:3478", "begins with"),
            ("http://example.org", "begins with"),
            ("stun", "begins with"),
            ("stun://example.org", "slashes"),
            ("stun:example.org?transport=udp", "only turn:"),
            ("turn:example.org?transport=tls", "after ?"),
            ("turn:example.org?", "after ?"),
            ("turn:example.org?transport=udp&x=1", "after ?"),
            ("stun:example.org:", "port"),
            ("stun:example.org:0", "port"),
            ("stun:example.org:65536", "port"),
            ("stun:example.org:+1", "port"),
            ("turn:example.org: 1", "port"),
            ("stun:[::1]:x", "port"),
            ("stun::3478", "host"),
            ("stun:", "host"),
            ("turn:?transport=udp", "host"),
            ("stun:.", "host"),
            ("stun:a..b", "host"),
            ("stun:.a", "host"),
            ("stun:user@example.org", "host"),
            ("stun:example.org/path", "host"),
            ("stun:exa mple.org", "host"),
            ("stun:exämple.org", "host"),
            ("stun:192.0.2", "host"),
            ("stun:192.0.2.256", "host"),
            ("stun:192.0.2.1.", "host"),
            ("stun:[192.0.2.1]", "host"),
            ("stun:[::1", "host"),
            ("stun:[]", "host"),
            ("stun:[fe80::1%eth0]", "host"),
            ("stun:2001:db8::", "port"),
            ("stun:2001:db8::1", "host"),
        ] {
            let refusal = parse(url).unwrap_err();
            assert!(
                refusal.starts_with(&format!("{url:?} ")) && refusal.contains(why),
                "{refusal}"
            );
        }
        assert!(parse(&format!("stun:{}.example", "a".repeat(63))).is_ok());
        assert!(parse(&format!("stun:{}.example", "a".repeat(64))).is_err());
        assert!(parse(&format!("stun:{}a", "a.".repeat(127))).is_err());
    }

    proptest! {
        #[test]
        fn what_is_accepted_reads_back_to_itself(
            text in "(stuns?|TURNS?):(\\PC{0,4}|\\[?[0-9a-f:.]{0,6}\\]?|[a-z.-]{0,4})(:[0-9]{0,6})?(\\?transport=(udp|tcp))?",
        ) {
            if let Ok(server) = parse(&text) {
                prop_assert_eq!(parse(server.text()), Ok(server));
            }
        }
    }
}
