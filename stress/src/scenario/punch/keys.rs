//! How dialect 002 writes addresses, as the clients' library has it.
//!
//! Owns: the key as bytes.
//! Never: reads one.

use std::net::SocketAddr;

use peer_server_client::simple::key::{KEY_LETTERS, encode};

/// An IPv4 address and a port: two letters for each byte.
pub type Key = [u8; KEY_LETTERS];

/// The key of an address; IPv6 has none.
pub fn key(address: SocketAddr) -> Key {
    let written = match address {
        SocketAddr::V4(address) => encode(address),
        SocketAddr::V6(_) => String::new(),
    };
    written.as_bytes().try_into().unwrap_or_default()
}
