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
