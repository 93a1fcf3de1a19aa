//! Reports of game servers: the one request of which a body is read.
//!
//! Owns: who may report, how much, how long that may take, and the answer.
//! Never: knows which servers there are; the desk does.

use super::super::EventLoop;
use super::super::connection::Phase;
use super::super::http::{After, TEXT};
use super::super::office::Mail;
use super::paths::{Asked, Origin};
use super::streams::body_bytes;
use crate::dialect::bevygap::{self, REPORT_BYTES_MAX};
use crate::ids::ConnId;
use crate::message::game_server::Reported;
use crate::metrics::Metric;

/// A report under way.
#[derive(Debug)]
pub(in super::super) struct Reporting {
    server: Box<str>,
    origin: Origin,
    keep_alive: bool,
    /// So long is the body.
    bytes: usize,
    body: Vec<u8>,
    /// The body is whole, and the desk has it.
    pub(in super::super) asked: bool,
}

impl EventLoop {
    /// The head of a report.
    pub(super) fn begin_report(&mut self, slot: usize, asked: &Asked<'_, '_>, server: &str) -> After {
        let (head, own) = (asked.head, asked.own);
        let authorization = head.headers.single("Authorization").unwrap_or_default();
        if !bevygap::verify_bearer(&own.report_secret, authorization) {
            self.counters.count(Metric::SeekersReportSecret);
            let headers = [("Content-Type", TEXT), ("WWW-Authenticate", "Bearer")];
            return self.say(slot, asked, 401, &headers, b"the secret of reports is required");
        }
        let text = [("Content-Type", TEXT)];
        let Some(bytes) = body_bytes(head) else {
            return self.say(slot, asked, 411, &text, b"a report has a length");
        };
        if bytes > REPORT_BYTES_MAX {
            return self.say(slot, asked, 413, &text, b"the report is too long");
        }
        // `read_timeout` has begun anew with the head.
        let reporting = Reporting {
            server: server.into(),
            origin: asked.origin,
            keep_alive: head.keep_alive() && self.drain.is_none(),
            bytes,
            body: Vec::new(),
            asked: false,
        };
        self.set_phase(slot, Phase::Reporting(Box::new(reporting)));
        if head.version == 1 && head.headers.has_token("Expect", "100-continue") {
            let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
            self.append(slot, go_on.len(), |out| out.extend_from_slice(go_on));
        }
        self.arm(slot);
        After::Gathering
    }

    /// Takes the body; what follows it is the next request.
    pub(in super::super) fn gather_report(&mut self, slot: usize, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let conn = connection.id(slot);
        let Phase::Reporting(reporting) = &mut connection.phase else {
            return;
        };
        if reporting.asked {
            return self.keep_unread(slot, bytes);
        }
        let left = reporting.bytes - reporting.body.len();
        let (body, rest) = bytes.split_at(left.min(bytes.len()));
        reporting.body.extend_from_slice(body);
        if body.len() < left {
            return;
        }
        reporting.asked = true;
        let body = std::mem::take(&mut reporting.body);
        let report = bevygap::parse_report(&reporting.server, &body);
        self.arm(slot);
        self.keep_unread(slot, rest);
        // What follows is neither parsed nor read before the answer.
        self.set_paused(slot, true);
        match report {
            Ok(report) => self.post_to_desk(Mail::Report(self.id, conn, report)),
            Err(error) => self.answer_report(slot, 400, &error),
        }
    }

    /// What the desk says to a report of a connection of this loop.
    pub(in super::super) fn on_reported(&mut self, conn: ConnId, reported: Reported) {
        let Some(slot) = self.slot_of(conn) else { return };
        match reported {
            Reported::Noted => self.answer_report(slot, 204, ""),
            Reported::UnknownServer => self.answer_report(slot, 404, "no such server"),
        }
    }

    /// The body did not come in time.
    pub(in super::super) fn on_report_timeout(&mut self, slot: usize) {
        if let Some(Phase::Reporting(reporting)) =
            self.connections.get_mut(slot).map(|connection| &mut connection.phase)
        {
            // Where the next request begins is unknown.
            reporting.keep_alive = false;
        }
        self.answer_report(slot, 408, "request timeout");
    }

    fn answer_report(&mut self, slot: usize, status: u16, text: &str) {
        let settings = self.settings.clone();
        let connection = self.connections.get(slot);
        let Some((connection, own)) = connection.zip(settings.seekers.as_ref()) else {
            return;
        };
        let Phase::Reporting(reporting) = &connection.phase else {
            return;
        };
        let (origin, keep_alive) = (reporting.origin, reporting.keep_alive && self.drain.is_none());
        let mut headers = Vec::new();
        if status != 204 {
            headers.push(("Content-Type", TEXT));
        }
        headers.extend(origin.fields(own));
        self.respond(slot, status, &headers, text.as_bytes(), false, keep_alive);
        self.set_phase(slot, Phase::Head);
        if !keep_alive {
            return self.close_after_flush(slot);
        }
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.deadline_ms = self.clock.now_ms + self.settings.read_timeout_ms;
        }
        self.arm(slot);
        self.resume(slot);
    }
}
