//! The end of a try: the players know each other's address and prove that datagrams pass both ways.
//!
//! Owns: the sentences about who is connected, and how long this side still answers the others.
//! Never: speaks the server's protocol.

use std::net::SocketAddr;

use peer_server_client::Transmit;
use peer_server_client::direct::Direct;

use super::{say, seconds};

/// Milliseconds for which a side that has its proof still answers others who lack theirs.
const LINGER_MS: u64 = 2000;

/// One side's greeting of all others.
pub(super) struct Greeting {
    direct: Direct,
    since: u64,
    connected: usize,
    expected: usize,
    leave_at: Option<u64>,
}

impl Greeting {
    /// Greets so many players; `since` is when this side learned of them.
    pub(super) fn new(direct: Direct, expected: usize, since: u64) -> Self {
        Self {
            direct,
            since,
            connected: 0,
            expected,
            leave_at: None,
        }
    }

    pub(super) fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: u64) {
        self.direct.handle_datagram(from, datagram, now);
        while let Some(connected) = self.direct.poll_event() {
            let (from, took) = (connected.from, seconds(now.saturating_sub(self.since)));
            say(&format!("peer {from} answered: connected directly in {took}"));
            self.connected += 1;
            if self.connected == self.expected {
                self.leave_at = Some(now + LINGER_MS);
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: u64) {
        self.direct.handle_timeout(now);
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.direct.poll_transmit()
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.direct.poll_timeout().into_iter().chain(self.leave_at).min()
    }

    /// Everyone has the proof, and had time to get theirs.
    pub(super) fn is_over(&self, now: u64) -> bool {
        self.leave_at.is_some_and(|leave_at| now >= leave_at)
    }

    /// Everyone has the proof.
    pub(super) fn is_connected(&self) -> bool {
        self.leave_at.is_some()
    }
}
