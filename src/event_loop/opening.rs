//! The first bytes of a connection to the peers' port: HTTP, TLS, or the lobby dialect's JSON.
//!
//! The client speaks first in each of them, so its first byte that is not blank decides. With TLS configured that byte is
//! looked at before there is a TLS session, which an idle connection therefore does not cost.
//!
//! Owns: what a connection becomes.
//! Never: answers, but with what HTTP says to those who break its rules.

use super::EventLoop;
use super::connection::{Entrance, Phase};
use super::transport::Read;
use crate::codec::http::ParseError;
use crate::dialect::demultiplexer::{Speaks, classify_stream};

/// How long a connection to the peers' port may say nothing.
const FIRST_BYTE_MS: u64 = 10_000;

/// The first byte of a TLS record that holds a handshake message (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

impl EventLoop {
    /// How long a new connection may say nothing.
    pub(super) fn silence_ms(&self, entrance: Entrance) -> u64 {
        match entrance {
            Entrance::Peers => self.settings.read_timeout_ms.min(FIRST_BYTE_MS),
            Entrance::Metrics => self.settings.read_timeout_ms,
        }
    }

    /// Whether it has said nothing yet.
    pub(super) fn is_opening(&self, slot: usize) -> bool {
        let phase = self.connections.get(slot).map(|connection| &connection.phase);
        matches!(phase, Some(Phase::Opening))
    }

    /// Gives a connection whose first byte says so a TLS session. False: there is no byte to be seen.
    pub(super) fn try_tls(&mut self, slot: usize) -> bool {
        let (Some(config), Some(connection)) = (&self.tls, self.connections.get_mut(slot)) else {
            return true;
        };
        if connection.unread.is_some() {
            // It began with a blank: not TLS.
            return true;
        }
        match connection.transport.peek() {
            Ok(TLS_HANDSHAKE) => {}
            Ok(_) => return true,
            Err(Read::WouldBlock) => {
                connection.ready = false;
                return false;
            }
            // What it came to shows again when it is read.
            Err(_) => return true,
        }
        if let Err(error) = connection.transport.begin_tls(config.clone()) {
            tracing::error!(%error, "a TLS session could not be made");
            self.kill(slot);
            return false;
        }
        self.expect_head(slot);
        true
    }

    /// The connection speaks HTTP; it has as long for its first request as if that had been clear from the start.
    fn expect_head(&mut self, slot: usize) {
        let more_ms = self.settings.read_timeout_ms - self.silence_ms(Entrance::Peers);
        if let Some(connection) = self.connections.get_mut(slot) {
            // Both phases are counted as the same, and the timer looks at the deadline again when it fires.
            connection.phase = Phase::Head;
            connection.deadline_ms += more_ms;
        }
    }

    /// Looks at the first bytes; as long as they are blank they are kept.
    pub(super) fn parse_opening(&mut self, slot: usize, bytes: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        match connection.unread.take() {
            None => self.on_first_bytes(slot, bytes),
            Some(kept) => {
                let mut all = kept.bytes;
                all.extend_from_slice(bytes);
                self.on_first_bytes(slot, &mut all);
                self.pool.put(all);
            }
        }
    }

    fn on_first_bytes(&mut self, slot: usize, bytes: &mut [u8]) {
        let (speaks, blanks) = classify_stream(bytes);
        let (before, rest) = bytes.split_at_mut(blanks);
        match speaks {
            Speaks::Unknown => self.keep_unread(slot, before),
            // Where TLS is configured nobody's HTTP goes over the wire in plain text.
            Speaks::Http if self.tls.is_none() => {
                self.expect_head(slot);
                match before.iter().any(|blank| matches!(blank, b' ' | b'\t')) {
                    true => self.on_bad_head(slot, ParseError::BadRequest),
                    false => self.parse_head(slot, rest),
                }
            }
            Speaks::Json if self.serves_lobby() => self.open_lobby(slot, rest),
            Speaks::Http | Speaks::Json | Speaks::Tls | Speaks::Nothing => self.close_after_flush(slot),
        }
    }

    /// It has said nothing in time.
    pub(super) fn on_opening_timeout(&mut self, slot: usize) {
        match self.tls {
            // The time for a head is over as well: what HTTP says to that.
            None if self.settings.read_timeout_ms <= FIRST_BYTE_MS => self.on_head_timeout(slot),
            // Nobody knows which language it would have understood.
            None => self.close_after_flush(slot),
            Some(_) => self.kill(slot),
        }
    }
}
