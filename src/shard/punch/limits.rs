//! The bounds of punching, as the operator set them.
//!
//! Owns: their defaults, which are the specifications'.
//! Never: keeps a count.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::shard::permits::Count;

/// What a host's LAN address is told to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareLocal {
    /// To peers with the same public IP address.
    SamePublicIp,
    /// To everybody who joins.
    Always,
    /// To nobody.
    Never,
}

/// The bounds. 0 is no bound, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Registrations of the protobuf dialect a minute and client IP.
    pub registrations_per_min_per_ip: u32,
    /// Sessions of a client IP, in the ASCII and in the lobby dialect each.
    pub sessions_per_ip: u32,
    /// Sessions of the process: hosts of the ASCII dialect, clients of the protobuf dialect, sessions of the lobby dialect, each.
    pub sessions_max: u32,
    /// Wrong session ids and lobby codes a minute and client IP; after that its joins are refused for a minute.
    pub misses_per_min_per_ip: u32,
    /// Random codes of a session id, 2 to 8.
    pub simple_id_codes: u8,
    /// Who is told a host's LAN address.
    pub simple_share_local: ShareLocal,
    /// Answers a second to an address that has not proved to receive them.
    pub simple_replies_per_sec: u32,
    /// Answers in any ten seconds to such an address.
    pub simple_replies_per_10_sec: u32,
    /// Joins a second of one session.
    pub simple_joins_per_sec: u32,
    /// Joins of one session in all.
    pub simple_joins_per_session: u32,
    /// Lobbies of the protobuf dialect (process).
    pub natpunch_lobbies_max: u32,
    /// Lobbies that one client of it may host or be in.
    pub natpunch_lobbies_per_client: u32,
    /// Joins a second of one client of it.
    pub natpunch_joins_per_sec: u32,
    /// TCP connections of the lobby dialect from one client IP.
    pub matchmaker_connections_per_ip: u32,
    /// TCP connections of the lobby dialect (process).
    pub matchmaker_connections_max: u32,
    /// Lobbies that one session of it may create or be in.
    pub matchmaker_lobbies_per_session: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            registrations_per_min_per_ip: 100,
            sessions_per_ip: 64,
            sessions_max: 100_000,
            misses_per_min_per_ip: 10,
            simple_id_codes: 4,
            simple_share_local: ShareLocal::SamePublicIp,
            simple_replies_per_sec: 3,
            simple_replies_per_10_sec: 10,
            simple_joins_per_sec: 8,
            simple_joins_per_session: 64,
            natpunch_lobbies_max: 10_000,
            natpunch_lobbies_per_client: 4,
            natpunch_joins_per_sec: 2,
            matchmaker_connections_per_ip: 32,
            matchmaker_connections_max: 5_000,
            matchmaker_lobbies_per_session: 16,
        }
    }
}

impl Limits {
    /// A bound of theirs as a largest count.
    pub fn at_most(bound: u32) -> usize {
        match bound {
            0 => usize::MAX,
            bound => bound as usize,
        }
    }
}

/// What the process holds, counted over all loops.
#[derive(Debug, Default)]
pub struct Permits {
    natpunch_lobbies_made: AtomicU64,
    /// Sessions of the ASCII dialect.
    pub simple_sessions: Count,
    /// Clients of the protobuf dialect.
    pub natpunch_clients: Count,
    /// Lobbies of the protobuf dialect.
    pub natpunch_lobbies: Count,
    /// TCP connections of the lobby dialect.
    pub matchmaker_connections: Count,
    /// Sessions of the lobby dialect.
    pub matchmaker_sessions: Count,
    /// Lobbies of the lobby dialect.
    pub matchmaker_lobbies: Count,
}

impl Permits {
    /// The number of a new lobby of the protobuf dialect: higher than that of every older one, whichever loop made it.
    /// The loops' clocks say too little for that: each has a start of its own, and a millisecond sees many lobbies.
    pub fn number_natpunch_lobby(&self) -> u64 {
        self.natpunch_lobbies_made.fetch_add(1, Ordering::Relaxed)
    }
}
