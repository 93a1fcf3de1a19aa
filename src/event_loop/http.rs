//! HTTP/1.1 on a connection: the status pages, the metrics page, and the upgrade to WebSocket.
//!
//! Owns: which path means what, who may upgrade, and when an HTTP connection stays open.
//! Never: reads a body, but for reports of game servers (see `seekers::reports`). Another request that has one is answered
//! and the connection closed.

use std::net::IpAddr;

use super::connection::{Connection, Entrance, Phase, Unread};
use super::seekers::Seeking;
use super::{EventLoop, Service, datagrams};
use crate::codec::deflate;
use crate::codec::http::{self, Head, Headers, Key, ParseError};
use crate::dialect::status;
use crate::metrics::Metric;

/// What to do with the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Take the next request.
    Stay,
    /// Send the answer and close.
    Close,
    /// It is a WebSocket now.
    Upgraded,
    /// The answer comes later.
    Awaiting,
    /// The body of a report follows.
    Gathering,
    /// It seeks a game server, and says nothing more that counts.
    Seeking,
}

/// An upgrade that waits for the home of its address.
pub(super) struct Upgrade {
    pub(super) answer: Vec<u8>,
    /// It is to seek a game server; otherwise it is a peer's.
    seeking: Option<Box<Seeking>>,
}

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

impl EventLoop {
    /// Parses as many heads as there are; what is incomplete is kept.
    pub(super) fn parse_head(&mut self, slot: usize, bytes: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let kept = connection.unread.take();
        let Some(kept) = kept else {
            return self.parse_heads(slot, bytes, 0);
        };
        let Unread {
            bytes: mut all,
            at,
            searched,
        } = *kept;
        debug_assert_eq!(at, 0, "a head is kept whole");
        all.extend_from_slice(bytes);
        self.parse_heads(slot, &mut all, searched);
        self.pool.put(all);
    }

    fn parse_heads(&mut self, slot: usize, mut bytes: &mut [u8], mut searched: usize) {
        loop {
            match self.connections.get(slot) {
                // A client that does not read its answers gets no more of them: they have no other bound.
                Some(Connection {
                    phase: Phase::Head,
                    out,
                    ..
                }) if out.blocked => {
                    self.keep_searched(slot, bytes, searched);
                    return self.set_paused(slot, true);
                }
                Some(Connection { phase: Phase::Head, .. }) => {}
                // It broke while it was answered.
                Some(_) | None => return,
            }
            let (after, len) = match http::parse_head(bytes, &mut searched) {
                Ok(None) => return self.keep_searched(slot, bytes, searched),
                Ok(Some(head)) => (self.on_request(slot, &head), head.len),
                Err(error) => return self.on_bad_head(slot, error),
            };
            bytes = bytes.get_mut(len..).unwrap_or_default();
            match after {
                After::Close => return self.close_after_flush(slot),
                After::Upgraded => {
                    let used = self.parse_frames(slot, bytes);
                    return self.keep_unread(slot, bytes.get(used..).unwrap_or_default());
                }
                After::Awaiting => {
                    self.keep_unread(slot, bytes);
                    // The answer may have come at once, and then nothing else makes this connection go on.
                    let phase = self.connections.get(slot).map(|connection| &connection.phase);
                    return if let Some(Phase::Awaiting) = phase {
                        self.set_paused(slot, true)
                    } else {
                        self.resume(slot)
                    };
                }
                After::Gathering => return self.gather_report(slot, bytes),
                After::Seeking => return self.skip_body(slot, bytes.len()),
                After::Stay if bytes.is_empty() => return,
                After::Stay => {}
            }
        }
    }

    /// Its answers are with the kernel: the client may ask again.
    pub(super) fn take_requests_again(&mut self, slot: usize) {
        let Some(connection) = self.connections.get(slot).filter(|connection| connection.paused) else {
            return;
        };
        match &connection.phase {
            Phase::Head => self.resume(slot),
            Phase::Lobby(turn) if turn.is_free() => self.resume(slot),
            _ => {}
        }
    }

    pub(super) fn on_bad_head(&mut self, slot: usize, error: ParseError) {
        self.respond(
            slot,
            error.status(),
            &[("Content-Type", TEXT)],
            b"bad request\n",
            false,
            false,
        );
        self.close_after_flush(slot);
    }

    /// No whole head in time.
    pub(super) fn on_head_timeout(&mut self, slot: usize) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if connection.transport.is_handshaking() {
            return self.kill(slot);
        }
        self.respond(slot, 408, &[("Content-Type", TEXT)], b"request timeout\n", false, false);
        self.close_after_flush(slot);
    }

    fn on_request(&mut self, slot: usize, head: &Head<'_>) -> After {
        self.counters.count(Metric::HttpRequests);
        let Some(connection) = self.connections.get_mut(slot) else {
            return After::Close;
        };
        connection.deadline_ms = self.clock.now_ms + self.settings.read_timeout_ms;
        let entrance = connection.entrance;
        self.arm(slot);
        let keep_alive = head.keep_alive() && !head.has_body() && self.drain.is_none();
        let head_only = head.method == "HEAD";
        let known = match entrance {
            // Conformance clients ask for whatever path they please.
            Entrance::Peers if head.path == "/ws" || self.settings.service == Service::Echo => {
                return self.on_upgrade(slot, head);
            }
            Entrance::Peers => matches!(head.path, "/health" | "/stats" | "/livez" | "/readyz"),
            Entrance::Metrics => head.path == "/metrics",
        };
        let serves_seekers = self.settings.seekers.as_ref().is_some_and(|own| own.open);
        if !known && entrance == Entrance::Peers && serves_seekers {
            return self.on_seeker_request(slot, head);
        }
        let mut body = Vec::new();
        let (status, kind): (u16, &str) = if !known {
            body.extend_from_slice(b"not found\n");
            (404, TEXT)
        } else if head.method != "GET" && !head_only {
            let headers = [("Content-Type", TEXT), ("Allow", "GET, HEAD")];
            self.respond(slot, 405, &headers, b"method not allowed\n", head_only, false);
            return After::Close;
        } else {
            match head.path {
                "/health" => {
                    let peers = self.shared.permits.registered.now();
                    self.publish();
                    let unix_seconds = self.clock.unix_ms / 1000;
                    let cluster = self.cluster_status();
                    datagrams::with_figures(&self.shared.board, |udp| {
                        let max_peers = self.settings.max_peers;
                        status::push_health(&mut body, peers, max_peers, unix_seconds, udp, cluster.as_ref());
                    });
                    (200, status::JSON)
                }
                "/livez" => {
                    body.extend_from_slice(b"ok\n");
                    (200, TEXT)
                }
                "/readyz" => {
                    let broker = self.broker_state();
                    let ready = self.is_ready(broker);
                    status::push_ready(&mut body, ready, broker);
                    (if ready { 200 } else { 503 }, status::JSON)
                }
                "/metrics" => {
                    self.publish();
                    self.publish_broker();
                    self.shared.board.push_text(&mut body);
                    (200, PROMETHEUS)
                }
                _ => return self.await_stats(slot, head_only, keep_alive),
            }
        };
        self.respond(slot, status, &[("Content-Type", kind)], &body, head_only, keep_alive);
        if keep_alive { After::Stay } else { After::Close }
    }

    pub(super) fn respond(
        &mut self,
        slot: usize,
        status: u16,
        headers: &[(&str, &str)],
        body: &[u8],
        head_only: bool,
        keep_alive: bool,
    ) {
        self.append(slot, body.len(), |out| {
            http::push_response(out, status, headers, body, head_only, keep_alive)
        });
    }

    fn await_stats(&mut self, slot: usize, head_only: bool, keep_alive: bool) -> After {
        let Some(connection) = self.connections.get(slot) else {
            return After::Close;
        };
        let conn = connection.id(slot);
        self.set_phase(slot, Phase::Awaiting);
        self.arm(slot);
        self.gather_stats(conn, head_only, keep_alive);
        After::Awaiting
    }

    /// Sends an answer that had to be awaited.
    pub(super) fn answer_awaited(
        &mut self,
        slot: usize,
        status: u16,
        kind: &str,
        body: &[u8],
        head_only: bool,
        keep_alive: bool,
    ) {
        let phase = self.connections.get(slot).map(|connection| &connection.phase);
        if !matches!(phase, Some(Phase::Awaiting)) {
            return;
        }
        self.respond(slot, status, &[("Content-Type", kind)], body, head_only, keep_alive);
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

    fn on_upgrade(&mut self, slot: usize, head: &Head<'_>) -> After {
        let key = match http::check_upgrade(head) {
            Ok(key) => key,
            Err(error) => {
                let keep_alive = head.keep_alive() && !head.has_body();
                let mut headers = vec![("Content-Type", TEXT)];
                headers.extend_from_slice(error.headers());
                self.respond(
                    slot,
                    error.status(),
                    &headers,
                    b"this is a WebSocket endpoint\n",
                    head.method == "HEAD",
                    keep_alive,
                );
                return if keep_alive { After::Stay } else { After::Close };
            }
        };
        if head.has_body() {
            return self.deny(slot, 400, b"an upgrade has no body\n");
        }
        if !self.allows_origin(&head.headers) {
            self.counters.count(Metric::OriginRefused);
            return self.deny(slot, 403, b"origin not allowed\n");
        }
        if self.drain.is_some() {
            return self.deny(slot, 503, b"server shutting down\n");
        }
        let offers = head.headers.all("Sec-WebSocket-Extensions");
        let extensions = if self.settings.compression {
            deflate::negotiate(offers)
        } else {
            None
        };
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.deflate = extensions.is_some();
        }
        self.note_host(slot, &head.headers);
        let mut answer = self.pool.take();
        http::push_switching_protocols(&mut answer, key, extensions, &[]);
        let upgrade = Upgrade { answer, seeking: None };
        self.await_admission(slot, head, upgrade)
    }

    /// Keeps the answer to an upgrade aside until the home of the address agrees.
    fn await_admission(&mut self, slot: usize, head: &Head<'_>, upgrade: Upgrade) -> After {
        let forwarded = self.forwarded_address(slot, &head.headers);
        if let Some((connection, address)) = self.connections.get_mut(slot).zip(forwarded) {
            connection.address = address;
        }
        self.set_phase(slot, Phase::Awaiting);
        self.arm(slot);
        self.upgrades.insert(slot, upgrade);
        if self.ask_admission(slot) {
            self.finish_upgrade(slot, true);
        }
        let phase = self.connections.get(slot).map(|connection| &connection.phase);
        match phase {
            Some(Phase::Awaiting) => After::Awaiting,
            Some(Phase::Closing { .. } | Phase::Dead) | None => After::Close,
            Some(_) => After::Upgraded,
        }
    }

    /// Makes a connection a WebSocket that seeks a game server, if the home of its address agrees.
    pub(super) fn upgrade_seeker(
        &mut self,
        slot: usize,
        head: &Head<'_>,
        key: Key<'_>,
        fields: &[(&str, &str)],
        seeking: Box<Seeking>,
    ) -> After {
        let mut answer = self.pool.take();
        http::push_switching_protocols(&mut answer, key, None, fields);
        let seeking = Some(seeking);
        self.await_admission(slot, head, Upgrade { answer, seeking })
    }

    /// The address may open a connection, or not.
    pub(super) fn finish_upgrade(&mut self, slot: usize, granted: bool) {
        let Some(Upgrade { answer, seeking }) = self.upgrades.remove(&slot) else {
            return;
        };
        if !granted {
            self.pool.put(answer);
            let settings = self.settings.clone();
            let fields = settings.seekers.as_ref().zip(seeking.as_ref());
            let fields = fields.map(|(own, seeking)| seeking.origin.fields(own));
            let mut headers = vec![("Content-Type", TEXT)];
            headers.extend(fields.into_iter().flatten());
            let body = b"too many connections from this address\n";
            self.respond(slot, 429, &headers, body, false, false);
            return self.close_after_flush(slot);
        }
        self.append(slot, answer.len(), |out| out.extend_from_slice(&answer));
        self.pool.put(answer);
        self.counters.count(Metric::Upgrades);
        if let Some(seeking) = seeking {
            return self.welcome_seeker(slot, seeking);
        }
        match self.settings.service {
            Service::Peers => {
                self.set_phase(slot, Phase::Unregistered);
                if let Some(connection) = self.connections.get_mut(slot) {
                    connection.deadline_ms = self.clock.now_ms + self.settings.pong_wait_ms;
                }
                self.arm(slot);
            }
            Service::Echo => {
                self.set_phase(slot, Phase::Echo);
                self.start_pings(slot);
            }
        }
        self.resume(slot);
    }

    fn deny(&mut self, slot: usize, status: u16, body: &[u8]) -> After {
        self.respond(slot, status, &[("Content-Type", TEXT)], body, false, false);
        After::Close
    }

    /// A page may connect if its origin is listed; programs that are not browsers send none.
    fn allows_origin(&self, headers: &Headers<'_>) -> bool {
        let allowed = &self.settings.allowed_origins;
        let is_allowed = |origin: &[u8]| allowed.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(origin));
        allowed.is_empty() || headers.all("Origin").all(is_allowed)
    }

    /// The client that a trusted proxy names: the right-most hop that is not itself trusted.
    pub(super) fn forwarded_address(&self, slot: usize, headers: &Headers<'_>) -> Option<IpAddr> {
        let trusted = |address: IpAddr| {
            let address = address.to_canonical();
            self.settings
                .trusted_proxies
                .iter()
                .any(|network| network.contains(&address))
        };
        let mut client = self.connections.get(slot)?.address;
        let named: Vec<&[u8]> = headers.all("X-Forwarded-For").collect();
        for hop in named.iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b',')) {
            if !trusted(client) {
                break;
            }
            // What cannot be read cannot be believed: the proxy that sent it is the client then.
            let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| hop.trim().parse().ok()) else {
                break;
            };
            client = address;
        }
        Some(client)
    }
}
