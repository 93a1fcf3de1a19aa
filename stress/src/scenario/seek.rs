//! `seek`: clients ask for a game server, each on a connection of its own, as their programs do: connect, upgrade, one
//! request, what comes of it, the close. Closed loop: with `window` under way, the next when one has ended. Open loop
//! (`rate`): at fixed times, and a latency counts from the time at which a client should have begun.
//!
//! Owns: the proof that each request is told just these, once and in this order: that it is under way, that there is a
//! session, how far that is, a server with a token that no other has; then the server says good-bye and closes.
//! Never: opens a token; whether that is right, the server's own tests prove.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;

use super::pace::Pace;
use super::{Scenario, share};
use crate::worker::frames;
use crate::worker::io::Io;
use crate::worker::protocol::Job;
use crate::worker::setup::Fault;

/// What a server that is started for this knows: a game and its version.
pub const GAME: (&str, &str) = ("arena", "1");
/// 2048 bytes in base64, with padding.
const TOKEN_CHARS: usize = 2732;
/// Where in a token's characters its nonce stands, whole characters only: bytes 37 to 61.
const NONCE: std::ops::Range<usize> = 50..81;
/// 32 pairs of hex digits, and what joins them.
const DIGEST_CHARS: usize = 95;

/// Asks for a game server.
pub fn ask(io: &mut Io, slot: usize) {
    let (game, version) = GAME;
    io.send_text(
        slot,
        &format!(r#"{{"game":"{game}","version":"{version}","client_ip":null}}"#),
    );
}

/// A worker's share of clients.
pub struct Seek {
    window: usize,
    pace: Pace,
    running: bool,
    /// Who comes next: nobody comes twice.
    next: usize,
    under_way: HashMap<usize, Request>,
    nonces: HashSet<Box<str>>,
}

struct Request {
    /// When the client began, or should have.
    began_ns: u64,
    heard: Heard,
}

/// The last that a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Acknowledged,
    Accepted,
    Progress,
    Ready,
    GoodBye,
}

impl Heard {
    /// What comes next. With [`Heard::Ready`] comes the token.
    fn then(self, told: &Value) -> Result<(Self, Option<&str>), &'static str> {
        if self == Self::Nothing && told == "Acknowledged" {
            return Ok((Self::Acknowledged, None));
        }
        let Some((name, content)) = told.as_object().and_then(|one| match one.len() {
            1 => one.iter().next(),
            _ => None,
        }) else {
            return Err("not what comes next");
        };
        let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        match (self, name.as_str()) {
            (Self::Acknowledged, "SessionRequestAccepted") if is_text(content) => Ok((Self::Accepted, None)),
            (Self::Accepted | Self::Progress, "ProgressReport") if is_text(content) => Ok((Self::Progress, None)),
            (Self::Progress, "SessionReady") => read_ready(content).map(|token| (Self::Ready, Some(token))),
            _ => Err("not what comes next"),
        }
    }
}

fn read_ready(ready: &Value) -> Result<&str, &'static str> {
    let is_address = ready["ip"]
        .as_str()
        .is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_ok());
    let is_port = ready["port"].as_u64().is_some_and(|port| (1..=0xffff).contains(&port));
    let is_digest = ready["cert_digest"].as_str().is_some_and(|digest| {
        digest.len() == DIGEST_CHARS && digest.split(':').all(|pair| u8::from_str_radix(pair, 16).is_ok())
    });
    let token = ready["token"].as_str().filter(|token| token.len() == TOKEN_CHARS);
    match token {
        _ if !is_address || !is_port => Err("no address"),
        _ if !is_digest => Err("no digest"),
        None => Err("no token of 2732 characters"),
        Some(token) => Ok(token),
    }
}

impl Seek {
    /// The worker's share of clients.
    pub fn new(job: &Job) -> Self {
        Self {
            window: share(job, job.workload.window).max(1),
            pace: Pace::new(job),
            running: false,
            next: 0,
            under_way: HashMap::new(),
            nonces: HashSet::new(),
        }
    }

    fn begin(&mut self, io: &mut Io, began_ns: u64) {
        let heard = Heard::Nothing;
        self.under_way.insert(self.next, Request { began_ns, heard });
        io.wanted.push_back(self.next);
        io.counts.sent += 1;
        self.next += 1;
    }

    /// One is no longer under way: in the closed loop, the next.
    fn go_on(&mut self, io: &mut Io) {
        if self.running && !self.pace.is_open() {
            let now_ns = io.now_ns();
            self.begin(io, now_ns);
        }
    }

    fn on_told(&mut self, io: &mut Io, peer: usize, text: &[u8]) {
        let Some(request) = self.under_way.get_mut(&peer) else {
            return;
        };
        let told: Value = serde_json::from_slice(text).unwrap_or_default();
        match request.heard.then(&told) {
            Ok((heard, token)) => {
                request.heard = heard;
                if heard == Heard::Ready {
                    let latency_ns = io.now_ns().saturating_sub(request.began_ns);
                    io.latency.saturating_record(latency_ns.max(1));
                }
                if let Some(nonce) = token.and_then(|token| token.get(NONCE))
                    && !self.nonces.insert(nonce.into())
                {
                    io.fail(format!("client {peer} was given a token like another's"));
                }
            }
            Err(why) => {
                let (heard, text) = (request.heard, String::from_utf8_lossy(text));
                io.fail(format!("client {peer}, {heard:?}, was told {text}: {why}"));
            }
        }
    }

    fn on_close(&mut self, io: &mut Io, slot: usize, peer: usize, payload: &[u8]) {
        let Some(request) = self.under_way.get_mut(&peer) else {
            return;
        };
        match (request.heard, payload) {
            (Heard::Ready, [3, 232, ..]) => request.heard = Heard::GoodBye,
            (heard, _) => io.fail(format!("client {peer}, {heard:?}, was closed with {payload:?}")),
        }
        // RFC 6455 section 5.5.1: it answers, and waits for the server to close.
        io.append(slot, |out| {
            frames::push(out, 8, false, payload.get(..2).unwrap_or_default());
        });
    }
}

impl Scenario for Seek {
    fn peers(&self) -> usize {
        0
    }

    fn seeks(&self, _peer: usize) -> bool {
        true
    }

    fn on_ready(&mut self, io: &mut Io, slot: usize) {
        ask(io, slot);
    }

    fn start(&mut self, io: &mut Io) {
        self.running = true;
        let now_ns = io.now_ns();
        self.pace.begin(now_ns);
        if !self.pace.is_open() {
            (0..self.window).for_each(|_| self.begin(io, now_ns));
        }
    }

    fn pause(&mut self, _io: &mut Io) {
        self.running = false;
    }

    fn is_quiet(&self) -> bool {
        self.under_way.is_empty()
    }

    fn describe_missing(&self) -> String {
        format!("{} requests have not ended", self.under_way.len())
    }

    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        let peer = io.links[slot].peer;
        let mut at = 0;
        loop {
            match frames::first(&bytes[at..]) {
                Ok(None) => return at,
                Ok(Some((frame, used))) => {
                    at += used;
                    match frame.opcode {
                        1 => self.on_told(io, peer, frame.payload),
                        8 => self.on_close(io, slot, peer, frame.payload),
                        9 => io.append(slot, |out| {
                            frames::push(out, 10, false, frame.payload);
                        }),
                        other => io.fail(format!("client {peer} got a frame of type {other}")),
                    }
                }
                Err(error) => {
                    io.end(slot, format!("a broken frame: {error}"));
                    return at;
                }
            }
        }
    }

    fn on_turn(&mut self, io: &mut Io) -> Option<Duration> {
        if !self.pace.is_open() || !self.running {
            return None;
        }
        let now_ns = io.now_ns();
        while let Some((_, at_ns)) = self.pace.take(now_ns) {
            self.begin(io, at_ns);
        }
        // The poll sleeps in whole milliseconds, which is too long: it spins.
        Some(Duration::ZERO)
    }

    fn on_fault(&mut self, io: &mut Io, peer: usize, fault: &Fault) {
        self.under_way.remove(&peer);
        io.fail(format!("client {peer} could not connect: {}", fault.why));
        self.go_on(io);
    }

    fn on_ended(&mut self, io: &mut Io, _slot: usize, peer: usize, why: &str) {
        if let Some(request) = self.under_way.remove(&peer) {
            match request.heard {
                Heard::GoodBye => io.counts.arrived += 1,
                heard => io.fail(format!("client {peer}, {heard:?}, lost its connection: {why}")),
            }
        }
        self.go_on(io);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn ready() -> Value {
        let digest = vec!["e3"; 32].join(":");
        json!({ "SessionReady": {
            "token": "A".repeat(TOKEN_CHARS), "ip": "203.0.113.10", "port": 30004, "cert_digest": digest,
        } })
    }

    fn dialogue() -> Vec<Value> {
        vec![
            json!("Acknowledged"),
            json!({ "SessionRequestAccepted": "s1" }),
            json!({ "ProgressReport": "Seeking (0)" }),
            json!({ "ProgressReport": "Ready (1)" }),
            ready(),
        ]
    }

    fn hear(dialogue: &[Value]) -> Result<Heard, &'static str> {
        dialogue
            .iter()
            .try_fold(Heard::Nothing, |heard, told| Ok(heard.then(told)?.0))
    }

    #[test]
    fn a_whole_dialogue_ends_with_a_server() {
        assert_eq!(hear(&dialogue()), Ok(Heard::Ready));
    }

    #[test]
    fn what_is_missing_repeated_or_out_of_order_is_found_out() {
        let whole = dialogue();
        // One of two reports of progress may be missing, and a third may come.
        for at in [0, 1, 4] {
            let mut twice = whole.clone();
            twice.insert(at, whole[at].clone());
            assert!(hear(&twice).is_err(), "{at}");
        }
        for at in [0, 1] {
            let mut less = whole.clone();
            less.remove(at);
            assert!(hear(&less).is_err(), "{at}");
        }
        for at in [0, 1, 3] {
            let mut swapped = whole.clone();
            swapped.swap(at, at + 1);
            assert!(hear(&swapped).is_err(), "{at}");
        }
        let without_progress = [&whole[..2], &whole[4..]].concat();
        assert!(hear(&without_progress).is_err());
        let failed = [&whole[..1], &[json!({ "Error": [503, "no server available"] })]].concat();
        assert!(hear(&failed).is_err());
    }

    #[test]
    fn a_server_without_an_address_a_digest_or_a_whole_token_is_none() {
        for (member, wrong) in [
            ("token", json!("A".repeat(TOKEN_CHARS - 1))),
            ("ip", json!("[::1]")),
            ("port", json!(0)),
            ("port", json!(65536)),
            ("cert_digest", json!("")),
        ] {
            let mut told = ready();
            told["SessionReady"][member] = wrong;
            assert!(Heard::Progress.then(&told).is_err(), "{member}");
        }
    }
}
