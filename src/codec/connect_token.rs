//! Connect tokens of netcode 1.02: what a game server needs to know of a player, sealed for it (netcode standard 1.02).
//!
//! Owns: the 2048 bytes in the three layouts that all call themselves `NETCODE 1.02`, sealing and opening.
//! Never: draws a random number, reads a clock, or shows a key.

use std::fmt;
use std::net::SocketAddr;

/// Bytes of a token.
pub const TOKEN_BYTES: usize = 2048;
/// Server addresses that a token holds at most.
pub const ADDRESSES_MAX: usize = 32;

/// How integers and IPv6 addresses stand in a token. A reader cannot tell; it must be agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The standard: little endian, IPv6 as eight little-endian numbers of 16 bits.
    Netcode,
    /// Lightyear 0.17 to 0.19: little endian, IPv6 as sixteen octets.
    LightyearLe,
    /// Lightyear from 0.21: big endian throughout, IPv6 as sixteen octets.
    LightyearBe,
}

/// The key that the game servers share with us. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// A key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(***)")
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Which protocol the game speaks.
    pub protocol_id: u64,
    /// When it was made, in Unix seconds.
    pub created_s: u64,
    /// When it ends; the largest number: never.
    pub expires_s: u64,
    /// Must never be the same for two tokens under one key.
    pub nonce: [u8; 24],
    /// Seconds without a packet after which the connection is over; negative: never.
    pub timeout_s: i32,
    /// Where the client connects, 1 to 32.
    pub public: Vec<SocketAddr>,
    /// What the server compares its own address with, 1 to 32.
    pub internal: Vec<SocketAddr>,
    /// The player's id on the game server.
    pub client_id: u64,
    /// Seals what the client sends.
    pub client_to_server: [u8; 32],
    /// Seals what the server sends.
    pub server_to_client: [u8; 32],
    /// For the game.
    pub user_data: [u8; 256],
}

/// Seals a token. None: it has no address or too many of them.
pub fn seal(_token: &Token, _key: &PrivateKey, _layout: Layout) -> Option<Box<[u8; TOKEN_BYTES]>> {
    None
}
