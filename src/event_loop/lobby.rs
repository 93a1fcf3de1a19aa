//! The lobby dialect on a connection: one JSON object after another, one line for each.
//!
//! Owns: the connection's turn: it is read and parsed again when its last request is answered and it has taken the answer.
//! Never: knows a session or a lobby; the punch state does.

use std::net::SocketAddr;

use super::EventLoop;
use super::connection::Phase;
use crate::codec::json_stream::{Fault, Scan, trim_blanks};
use crate::dialect::matchmaker;
use crate::ids::ConnId;
use crate::message::matchmaker::{Refusal, Reply, Told};
use crate::message::punch::Dialect;

/// Where a connection of the lobby dialect stands.
#[derive(Debug)]
pub(super) struct Turn {
    /// How far an incomplete request was looked at.
    scan: Scan,
    /// An answer, or the admission, is awaited.
    waiting: bool,
}

impl EventLoop {
    /// Whether the lobby dialect is served: without datagrams nobody would ever be told anything.
    pub(super) fn serves_lobby(&self) -> bool {
        self.datagrams.serves(Dialect::Matchmaker)
    }

    /// The connection speaks the lobby dialect. The home of its prefix is asked whether it may.
    pub(super) fn open_lobby(&mut self, slot: usize, bytes: &[u8]) {
        let turn = Turn {
            scan: Scan::default(),
            waiting: true,
        };
        self.set_phase(slot, Phase::Lobby(turn));
        self.arm(slot);
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        let remote = SocketAddr::new(connection.address, 0);
        self.punch
            .open_matchmaker(connection.id(slot), remote, self.clock.now_ms);
        self.drain_punch();
        self.parse_lobby(slot, bytes);
    }

    /// Parses as many requests as may be answered; what is left is kept.
    pub(super) fn parse_lobby(&mut self, slot: usize, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        match connection.unread.take() {
            None => self.parse_asks(slot, bytes, 0),
            Some(kept) => {
                let mut all = kept.bytes;
                all.extend_from_slice(bytes);
                self.parse_asks(slot, &all, kept.searched);
                self.pool.put(all);
            }
        }
    }

    /// `searched`: how many of these bytes the scan has seen.
    fn parse_asks(&mut self, slot: usize, mut bytes: &[u8], mut searched: usize) {
        loop {
            if searched == 0 {
                // Between two requests nothing is kept.
                bytes = trim_blanks(bytes);
            }
            let Some(connection) = self.connections.get_mut(slot) else {
                return;
            };
            let Phase::Lobby(turn) = &mut connection.phase else {
                return;
            };
            if turn.waiting || connection.out.blocked {
                self.keep_searched(slot, bytes, searched);
                return self.set_paused(slot, true);
            }
            match turn.scan.end(bytes.get(searched..).unwrap_or_default()) {
                Ok(None) => return self.keep_searched(slot, bytes, bytes.len()),
                Ok(Some(len)) => {
                    turn.scan = Scan::default();
                    let (object, rest) = bytes.split_at(bytes.len().min(searched + len));
                    let Ok(ask) = matchmaker::parse_ask(object) else {
                        return self.refuse_syntax(slot);
                    };
                    turn.waiting = true;
                    let conn = connection.id(slot);
                    self.punch.ask_matchmaker(conn, ask, self.clock.now_ms);
                    self.drain_punch();
                    (bytes, searched) = (rest, 0);
                }
                Err(Fault::Syntax) => return self.refuse_syntax(slot),
                Err(Fault::TooLong | Fault::TooDeep) => return self.close_after_flush(slot),
            }
        }
    }

    /// Where the next request begins cannot be known.
    fn refuse_syntax(&mut self, slot: usize) {
        self.push_reply(slot, &Reply::Refused(Refusal::BadRequest));
        self.close_after_flush(slot);
    }

    fn push_reply(&mut self, slot: usize, reply: &Reply) {
        self.append(slot, REPLY_BYTES, |out| matchmaker::push_reply(out, reply));
    }

    /// What the punch state says to a connection.
    pub(super) fn on_told(&mut self, conn: ConnId, told: Told) {
        let Some(slot) = self.slot_of(conn) else { return };
        let phase = self.connections.get(slot).map(|connection| &connection.phase);
        if !matches!(phase, Some(Phase::Lobby(_))) {
            return;
        }
        match told {
            Told::Closed => return self.close_after_flush(slot),
            Told::Reply(reply) => self.push_reply(slot, &reply),
            Told::Admitted => {}
        }
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if let Phase::Lobby(turn) = &mut connection.phase {
            turn.waiting = false;
        }
        if connection.paused && !connection.out.blocked {
            self.resume(slot);
        }
    }
}

impl Turn {
    /// Whether it may ask.
    pub(super) fn is_free(&self) -> bool {
        !self.waiting
    }
}

/// About the length of an answer.
const REPLY_BYTES: usize = 64;
