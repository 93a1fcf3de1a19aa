//! The broker that is broken: a Redis, or a NATS with `CHECKER_BROKER=nats`.
//!
//! Owns: which one it is, and the names of its faults.
//! Never: keeps anything on disk.

use std::net::SocketAddr;

use serde_json::{Value, json};
use socket2::SockAddr;

use crate::support::{NatsServer, RedisServer};

pub enum Broker {
    Redis(RedisServer),
    Nats(NatsServer),
}

impl Broker {
    fn is_nats() -> bool {
        std::env::var("CHECKER_BROKER").is_ok_and(|broker| broker == "nats")
    }

    /// None: this machine has none.
    pub fn start() -> Option<Self> {
        match Self::is_nats() {
            true => NatsServer::start().map(Self::Nats),
            false => RedisServer::start().map(Self::Redis),
        }
    }

    pub fn address(&self) -> SockAddr {
        match self {
            Self::Redis(server) => SockAddr::unix(server.socket()).unwrap(),
            Self::Nats(server) => SocketAddr::from(([127, 0, 0, 1], server.port())).into(),
        }
    }

    /// What a node is told that reaches it there.
    pub fn settings(address: SocketAddr) -> Value {
        match Self::is_nats() {
            true => json!({"broker_type": "nats", "nats_url": format!("nats://{address}")}),
            false => json!({"broker_type": "redis", "redis_addr": address.to_string()}),
        }
    }

    pub fn freeze(&self) {
        match self {
            Self::Redis(server) => server.freeze(),
            Self::Nats(server) => server.freeze(),
        }
    }

    pub fn thaw(&self) {
        match self {
            Self::Redis(server) => server.thaw(),
            Self::Nats(server) => server.thaw(),
        }
    }

    pub fn kill(&mut self) {
        match self {
            Self::Redis(server) => server.kill(),
            Self::Nats(server) => server.kill(),
        }
    }

    /// Again, without data.
    pub fn restart(&mut self) {
        match self {
            Self::Redis(server) => server.restart(),
            Self::Nats(server) => server.run(),
        }
    }

    pub fn flush(&self) {
        match self {
            Self::Redis(server) => server.flush(),
            Self::Nats(server) => server.flush(),
        }
    }
}
