//! Seekers on HTTP: one answer that comes piece by piece, or one at the end.
//!
//! Owns: the form of both, and what becomes of a body that came with the request.
//! Never: keeps a connection for a second request.

use super::super::EventLoop;
use super::super::connection::Phase;
use super::super::http::{After, TEXT};
use super::paths::Asked;
use super::{Seeking, Way};
use crate::codec::http;
use crate::dialect::{bevygap, status};
use crate::message::game_server::{Feedback, Seek, Wanted};
use crate::metrics::Metric;

/// Longest body that is thrown away.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// So many times `send_bytes_max` may wait for a client that does not read, as for every message that the server makes.
const SEND_TIMES: usize = 4;

impl EventLoop {
    /// A request that asks for a server; the answer begins now.
    pub(super) fn ask_in_http(&mut self, slot: usize, asked: &Asked<'_, '_>, wanted: Wanted, way: Way) -> After {
        let (head, own) = (asked.head, asked.own);
        if let Err(after) = self.let_in(slot, asked) {
            return after;
        }
        let text = [("Content-Type", TEXT)];
        if body_bytes(head).is_some_and(|bytes| bytes > BODY_BYTES_MAX) {
            return self.say(slot, asked, 413, &text, b"the body is too long");
        }
        let address = self.address_of(slot, head);
        let client_ip = bevygap::client_ip(address, head.query, None, own.client_ip_override, own.fake_ip);
        let client_ip = match client_ip {
            Ok(client_ip) => client_ip,
            Err(error) => {
                self.counters.count(Metric::SeekersBadRequest);
                return self.say(slot, asked, 400, &text, error.as_bytes());
            }
        };
        let seeking = Box::new(Seeking {
            way,
            origin: asked.origin,
            query: "".into(),
            asked: false,
            skipped: 0,
        });
        self.set_phase(slot, Phase::Seeker(seeking));
        if let Way::Stream { chunked } = way {
            let mut headers = vec![("Content-Type", status::JSON)];
            headers.extend(asked.origin.fields(own));
            self.append(slot, 512, |out| http::push_stream_head(out, 200, &headers, chunked));
        }
        self.seek(slot, address, Seek { wanted, client_ip });
        After::Seeking
    }

    /// One line of the answer. It is told from the next by its end, not by where a chunk ends.
    pub(super) fn stream_feedback(&mut self, slot: usize, chunked: bool, feedback: &Feedback) {
        let mut line = Vec::new();
        self.push_feedback(&mut line, feedback);
        if line.is_empty() {
            return;
        }
        line.push(b'\n');
        let bytes_max = self.settings.send_bytes_max.saturating_mul(SEND_TIMES);
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if connection.out.blocked && connection.out.len() + line.len() > bytes_max {
            self.counters.count(Metric::SlowConsumers);
            return self.lose(slot);
        }
        self.counters.count(Metric::GameServerFrames);
        self.append(slot, line.len() + 16, |out| match chunked {
            true => http::push_chunk(out, &line),
            false => out.extend_from_slice(&line),
        });
    }

    /// Nothing follows.
    pub(super) fn end_stream(&mut self, slot: usize, chunked: bool) {
        if chunked {
            self.append(slot, 8, http::push_last_chunk);
        }
        self.close_after_flush(slot);
    }

    /// The whole answer.
    pub(super) fn answer_single(&mut self, slot: usize, feedback: &Feedback) {
        let settings = self.settings.clone();
        let connection = self.connections.get(slot);
        let Some((connection, own)) = connection.zip(settings.seekers.as_ref()) else {
            return;
        };
        let Phase::Seeker(seeking) = &connection.phase else {
            return;
        };
        let origin = seeking.origin;
        let mut body = Vec::new();
        let status = self.push_outcome(&mut body, feedback);
        let kind = if status == 200 { "text/json" } else { TEXT };
        let mut headers = vec![("Content-Type", kind)];
        headers.extend(origin.fields(own));
        self.counters.count(Metric::GameServerFrames);
        self.respond(slot, status, &headers, &body, false, false);
        self.close_after_flush(slot);
    }

    /// Bytes that came after the request: a body, or what nobody will answer on this connection.
    pub(in super::super) fn skip_body(&mut self, slot: usize, bytes: usize) {
        let Some(Phase::Seeker(seeking)) = self.connections.get_mut(slot).map(|connection| &mut connection.phase)
        else {
            return;
        };
        seeking.skipped += bytes;
        if seeking.skipped > BODY_BYTES_MAX {
            self.lose(slot);
        }
    }
}

/// How long the body is that follows a head; None: it does not say.
pub(super) fn body_bytes(head: &http::Head<'_>) -> Option<usize> {
    let length = std::str::from_utf8(head.headers.single("Content-Length")?).ok()?;
    // Digits alone were let through: what cannot be read is too large.
    Some(length.parse().unwrap_or(usize::MAX))
}
