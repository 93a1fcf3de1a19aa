//! The paths of the matchmaker web service.
//!
//! Owns: what is where, by which method, whose pages may read an answer (CORS), and who is let in.
//! Never: reads a body, or speaks after the desk was asked.

use std::net::{IpAddr, Ipv4Addr};

use super::super::EventLoop;
use super::super::http::{After, TEXT};
use super::{SeekerSettings, Seeking, Way};
use crate::codec::http::{self, Head, Headers, UpgradeError};
use crate::dialect::bevygap;
use crate::message::game_server::{Name, Wanted};
use crate::metrics::Metric;

/// A request for one of the paths.
pub(super) struct Asked<'a, 'h> {
    pub(super) head: &'a Head<'h>,
    pub(super) own: &'a SeekerSettings,
    pub(super) origin: Origin,
    /// Whether the connection stays after an answer that leaves the body unread.
    pub(super) keep_alive: bool,
}

/// Which of the listed origins an answer names, by its place in the list.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Origin(usize);

impl Origin {
    /// The one of the page that asks; of a page that is not listed, and of a program, the first.
    fn of(own: &SeekerSettings, headers: &Headers<'_>) -> Self {
        let asks = headers.single("Origin");
        let listed = own
            .origins
            .iter()
            .position(|origin| asks.is_some_and(|asks| is_same(origin, asks)));
        Self(listed.unwrap_or(0))
    }

    /// The header fields of an answer.
    pub(in super::super) fn fields(self, own: &SeekerSettings) -> [(&'static str, &str); 2] {
        let origin = own.origins.get(self.0).map_or(ORIGIN_DEFAULT, String::as_str);
        [("Access-Control-Allow-Origin", origin), ("Vary", VARY)]
    }
}

/// What is at a path.
enum Place {
    Page,
    Socket,
    Single,
    Request(Result<(Name, Name), String>),
    Report(String),
    Nothing,
}

impl Place {
    fn of(path: &str, own: &SeekerSettings) -> Self {
        match path {
            "/" | "/matchmaker" => return Self::Page,
            "/matchmaker/ws" => return Self::Socket,
            "/matchmaker/wannaplay" => return Self::Single,
            _ => {}
        }
        if let Some(names) = bevygap::parse_path(path) {
            return Self::Request(names);
        }
        match bevygap::reporting_server(path) {
            // Where no reports are taken there is nothing to be guessed at.
            Some(server) if !own.report_secret.is_empty() => Self::Report(server),
            _ => Self::Nothing,
        }
    }
}

impl EventLoop {
    /// A request for what is neither a peer's business nor a status page.
    pub(in super::super) fn on_seeker_request(&mut self, slot: usize, head: &Head<'_>) -> After {
        let settings = self.settings.clone();
        let Some(own) = &settings.seekers else {
            return After::Close;
        };
        let asked = Asked {
            head,
            own,
            origin: Origin::of(own, &head.headers),
            keep_alive: head.keep_alive() && !head.has_body() && self.drain.is_none(),
        };
        match (Place::of(head.path, own), head.method) {
            (Place::Nothing, _) => self.say(slot, &asked, 404, &[], b""),
            (Place::Page | Place::Socket, "OPTIONS") => self.say(slot, &asked, 200, &[ALLOW_METHODS], b""),
            (_, "OPTIONS") => self.say(slot, &asked, 200, &[ALLOW_METHODS, ("Allow", "POST")], b""),
            (Place::Page, "GET" | "HEAD") => self.say(slot, &asked, 200, &[("Content-Type", HTML)], PAGE),
            (Place::Page, _) => self.say(slot, &asked, 405, &[("Allow", "GET, HEAD")], b""),
            (Place::Socket, _) => self.open_socket(slot, &asked),
            (Place::Single, "POST") => self.ask_in_http(slot, &asked, Wanted::Configured, Way::Single),
            (Place::Request(names), "POST") => match names {
                Ok((game, version)) => {
                    let chunked = head.version == 1;
                    let wanted = Wanted::Game { game, version };
                    self.ask_in_http(slot, &asked, wanted, Way::Stream { chunked })
                }
                Err(text) => {
                    self.counters.count(Metric::SeekersBadRequest);
                    self.say(slot, &asked, 400, &[("Content-Type", TEXT)], text.as_bytes())
                }
            },
            (Place::Report(server), "POST") => self.begin_report(slot, &asked, &server),
            (Place::Single | Place::Request(_) | Place::Report(_), _) => {
                self.say(slot, &asked, 405, &[("Allow", "POST")], b"")
            }
        }
    }

    fn open_socket(&mut self, slot: usize, asked: &Asked<'_, '_>) -> After {
        let (head, own) = (asked.head, asked.own);
        if head.method != "GET" {
            let headers = [("Content-Type", TEXT), ("Allow", "GET")];
            return self.say(slot, asked, 405, &headers, b"Request method must be `GET`");
        }
        let key = match http::check_upgrade(head) {
            Ok(key) => key,
            Err(error) => {
                let mut headers = vec![("Content-Type", TEXT)];
                let text: &[u8] = match error {
                    UpgradeError::UpgradeRequired => b"Connection header did not include 'upgrade'",
                    UpgradeError::MethodNotAllowed | UpgradeError::UnsupportedVersion | UpgradeError::BadKey => {
                        headers.extend_from_slice(error.headers());
                        b"this is a WebSocket endpoint"
                    }
                };
                return self.say(slot, asked, 400, &headers, text);
            }
        };
        // A page may connect if its origin is listed; programs that are not browsers send none.
        let is_listed = |origin: &[u8]| own.origins.iter().any(|listed| is_same(listed, origin));
        if !own.origins.is_empty() && !head.headers.all("Origin").all(is_listed) {
            self.counters.count(Metric::OriginRefused);
            self.counters.count(Metric::SeekersOrigin);
            return self.say(slot, asked, 403, &[("Content-Type", TEXT)], b"origin not allowed");
        }
        if let Err(after) = self.let_in(slot, asked) {
            return after;
        }
        let seeking = Box::new(Seeking {
            way: Way::WebSocket,
            origin: asked.origin,
            query: if own.client_ip_override { head.query } else { "" }.into(),
            asked: false,
            skipped: 0,
        });
        self.upgrade_seeker(slot, head, key, &asked.origin.fields(own), seeking)
    }

    /// Whether a client may ask at all; if not, it was answered.
    pub(super) fn let_in(&mut self, slot: usize, asked: &Asked<'_, '_>) -> Result<(), After> {
        let Asked { head, own, .. } = asked;
        if self.drain.is_some() {
            return Err(self.say(slot, asked, 503, &[("Content-Type", TEXT)], b"server shutting down"));
        }
        let ticket = http::query_value(head.query, "ticket");
        let ticket = ticket.as_deref().and_then(|ticket| std::str::from_utf8(ticket).ok());
        let authorization = head.headers.single("Authorization");
        let now_s = self.clock.unix_ms / 1000;
        if own.ticket_secret.is_empty() || bevygap::is_admitted(&own.ticket_secret, authorization, ticket, now_s) {
            return Ok(());
        }
        self.counters.count(Metric::SeekersTicket);
        let headers = [("Content-Type", TEXT), ("WWW-Authenticate", "Bearer")];
        Err(self.say(slot, asked, 401, &headers, b"a valid ticket is required"))
    }

    /// The client's address, as far as proxies are believed.
    pub(super) fn address_of(&self, slot: usize, head: &Head<'_>) -> IpAddr {
        self.forwarded_address(slot, &head.headers)
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Answers, and takes the next request if nothing of this one is left.
    pub(super) fn say(
        &mut self,
        slot: usize,
        asked: &Asked<'_, '_>,
        status: u16,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> After {
        let mut all = headers.to_vec();
        all.extend(asked.origin.fields(asked.own));
        self.respond(slot, status, &all, body, asked.head.method == "HEAD", asked.keep_alive);
        if asked.keep_alive { After::Stay } else { After::Close }
    }
}

fn is_same(listed: &str, origin: &[u8]) -> bool {
    listed.as_bytes().eq_ignore_ascii_case(origin)
}

const HTML: &str = "text/html; charset=utf-8";
/// What answers name where no origin is listed: where a page under development is served from.
const ORIGIN_DEFAULT: &str = "http://localhost:8000";
const VARY: &str = "origin, access-control-request-method, access-control-request-headers";
const ALLOW_METHODS: (&str, &str) = ("Access-Control-Allow-Methods", "GET,POST,CONNECT");
const PAGE: &[u8] = b"<!DOCTYPE html><title>Matchmaker</title><h1>Matchmaker</h1>\
<p>Games ask here for a server: by WebSocket at <code>/matchmaker/ws</code>, or with <code>POST</code> at \
<code>/matchmaker/request/GAME/VERSION</code> and <code>/matchmaker/wannaplay</code>.</p>\n";
