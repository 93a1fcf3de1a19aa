//! The vocabulary of datagrams: where one came from, what it speaks, and why it was dropped.
//!
//! Owns: what the dialects of punching share.
//! Never: knows a dialect's messages; `simple`, `natpunch` and `matchmaker` beside it have them.

use std::net::{IpAddr, SocketAddr};

/// What one datagram can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Dialect {
    /// STUN (RFC 8489).
    Stun,
    /// The TCP JSON and UDP lobby dialect.
    Matchmaker,
    /// The ASCII dialect.
    Simple,
    /// The protobuf dialect.
    Natpunch,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Stun, Self::Matchmaker, Self::Simple, Self::Natpunch];
}

/// The way that a datagram came: an answer goes back the same way, because NATs let nothing else in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Which of the bound addresses it was sent to: the same number on every loop.
    pub socket: u8,
    /// Our address that it was sent to, if the bound one is unspecified.
    pub local: Option<IpAddr>,
    /// Who sent it; never an IPv4-mapped IPv6 address.
    pub remote: SocketAddr,
}

/// Why a datagram, or what it asked for, came to nothing without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Dropped {
    /// It is of no dialect, or of one that is switched off.
    Unknown,
    /// It is of a dialect and breaks its rules.
    Malformed,
    /// Over a rate of its sender, or an answer would be over what an unverified address may get.
    RateLimited,
    /// Over a bound of what its sender, or everybody, may hold.
    Full,
    /// It claims what is not its sender's, or asks about what is not there and has no answer.
    NotAllowed,
    /// Its sender speaks the protobuf dialect, and this is of another one.
    Bound,
    /// The loop that should answer is behind with its mail.
    MailFull,
    /// The kernel did not take the answer.
    NotSent,
}

impl Dropped {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Malformed,
        Self::RateLimited,
        Self::Full,
        Self::NotAllowed,
        Self::Bound,
        Self::MailFull,
        Self::NotSent,
    ];
}
