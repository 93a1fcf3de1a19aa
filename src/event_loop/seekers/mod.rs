//! Connections that seek a game server: the matchmaker web service on WebSocket and HTTP.
//!
//! Owns: the client's first message and how long that may take, what the client is sent, and the tokens, which are sealed on
//! the loop of the client. `paths` says what is where, `streams` speaks HTTP, `reports` takes what game servers say.
//! Never: decides who gets which server; the desk does (see `office`).

mod paths;
mod reports;
mod streams;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use rand::Rng as _;

pub(super) use paths::Origin;
pub(super) use reports::Reporting;

use super::EventLoop;
use super::connection::Phase;
use super::writing::Class;
use crate::codec::connect_token::{self, Layout, PrivateKey, TOKEN_BYTES, Token};
use crate::codec::websocket::{Data, OpCode};
use crate::dialect::bevygap;
use crate::ids::ConnId;
use crate::message::game_server::{Failure, Feedback, Grant, Seek, Seeker, Wanted};
use crate::message::{CLOSE_GOING_AWAY, CLOSE_POLICY};
use crate::metrics::Metric;

/// Longest message of a client, in bytes.
pub(super) const FIRST_MESSAGE_BYTES: usize = 4096;
/// What those are told who wait when the server goes.
pub(super) const SHUTTING_DOWN: Failure = Failure::new(503, "server shutting down");

/// How the matchmaker web service is served. Holds secrets, so it is never shown.
#[derive(Clone)]
pub struct SeekerSettings {
    /// Whether clients are served here; otherwise only requests that come over NATS are answered.
    pub open: bool,
    /// Pages of which origins may use it, in lower case; empty: of any, and `access-control-allow-origin` says the default.
    pub origins: Vec<String>,
    /// Stands for a client on a private network or this machine.
    pub fake_ip: Option<IpAddr>,
    /// Whether clients may say what their address is.
    pub client_ip_override: bool,
    /// How long a client may take to say what it seeks, in milliseconds.
    pub first_message_ms: u64,
    /// What game servers show before their reports are believed; empty: none are taken.
    pub report_secret: String,
    /// What tickets are made from; empty: none is asked for.
    pub ticket_secret: String,
    /// The keys of the game servers, each with its protocol id; the general one is the first. Empty: another matchmaker
    /// makes the tokens.
    pub keys: Vec<(PrivateKey, u64)>,
    /// How tokens are laid out.
    pub layout: Layout,
    /// How long a token is good for.
    pub token_expires_s: u64,
    /// Seconds without a packet after which a game's connection is over; negative: never.
    pub token_timeout_s: i32,
}

impl fmt::Debug for SeekerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeekerSettings").finish_non_exhaustive()
    }
}

/// How a seeker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// One text frame each.
    WebSocket,
    /// One line each, in the body of one answer; in chunks for who understands that.
    Stream {
        /// HTTP/1.1.
        chunked: bool,
    },
    /// One answer at the end.
    Single,
}

/// What a seeking connection holds.
#[derive(Debug)]
pub(super) struct Seeking {
    pub(super) way: Way,
    pub(super) origin: Origin,
    /// The query of the upgrade, if clients may say there what their address is.
    pub(super) query: Box<str>,
    /// The desk has its request, and has not yet said its last word.
    pub(super) asked: bool,
    /// Bytes of a body that nobody reads.
    pub(super) skipped: usize,
}

impl EventLoop {
    /// A seeker's WebSocket is open.
    pub(super) fn welcome_seeker(&mut self, slot: usize, seeking: Box<Seeking>) {
        self.set_phase(slot, Phase::Seeker(seeking));
        let first_message_ms = self.settings.seekers.as_ref().map_or(0, |own| own.first_message_ms);
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.deadline_ms = self.clock.now_ms + first_message_ms;
        }
        self.arm(slot);
        self.resume(slot);
    }

    /// The first message of a client. What it says later is nobody's business.
    pub(super) fn on_seeker_text(&mut self, slot: usize, text: &str) {
        let settings = self.settings.clone();
        let connection = self.connections.get(slot);
        let Some((connection, own)) = connection.zip(settings.seekers.as_ref()) else {
            return;
        };
        let Phase::Seeker(seeking) = &connection.phase else {
            return;
        };
        if seeking.asked {
            return;
        }
        let from = connection.address;
        let seek = bevygap::parse_request(text).and_then(|request| {
            let said = request.client_ip.as_deref();
            let (overridable, fake_ip) = (own.client_ip_override, own.fake_ip);
            let client_ip = bevygap::client_ip(from, &seeking.query, said, overridable, fake_ip)?;
            let (game, version) = (request.game, request.version);
            let wanted = Wanted::Game { game, version };
            Ok(Seek { wanted, client_ip })
        });
        match seek {
            Ok(seek) => self.seek(slot, from, seek),
            Err(text) => {
                self.counters.count(Metric::SeekersBadRequest);
                self.refuse_seeker(slot, &text, "bad request");
            }
        }
    }

    /// Not even text.
    pub(super) fn on_seeker_binary(&mut self, slot: usize) {
        let Some(Phase::Seeker(seeking)) = self.connections.get(slot).map(|connection| &connection.phase) else {
            return;
        };
        if !seeking.asked {
            self.counters.count(Metric::SeekersBadRequest);
            self.refuse_seeker(slot, "ERR Expected text message", "bad request");
        }
    }

    /// It has said nothing in time.
    pub(super) fn on_seeker_timeout(&mut self, slot: usize) {
        self.counters.count(Metric::SeekersSilent);
        let text = "ERR Timeout waiting for websocket request message: 10s";
        self.refuse_seeker(slot, text, "no request");
    }

    fn refuse_seeker(&mut self, slot: usize, text: &str, reason: &str) {
        self.send_bytes(slot, Class::Server, OpCode::Data(Data::Text), text.as_bytes());
        self.close(slot, CLOSE_POLICY, reason);
    }

    /// Has the desk look for a server. From here on the desk's limits are those that count: the connection no longer takes
    /// the place of a peer that has still to register.
    fn seek(&mut self, slot: usize, from: IpAddr, seek: Seek) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let seeker = Seeker::Conn {
            loop_id: self.id,
            conn: connection.id(slot),
        };
        // It may have broken while its answer was begun.
        let Phase::Seeker(seeking) = &mut connection.phase else {
            return;
        };
        seeking.asked = true;
        self.note_registered(slot);
        self.arm(slot);
        self.ask_desk(seeker, from, seek);
    }

    /// What the desk says to a connection of this loop.
    pub(super) fn on_seeker_told(&mut self, conn: ConnId, feedback: &Feedback) {
        let Some(slot) = self.slot_of(conn) else { return };
        let Some(Phase::Seeker(seeking)) = self.connections.get(slot).map(|connection| &connection.phase) else {
            return;
        };
        let (way, last) = (seeking.way, is_last(feedback));
        // A connection that breaks over it has not had its last word: the desk hears that it left.
        match way {
            Way::WebSocket => {
                self.send_feedback(slot, feedback);
                if last {
                    self.note_answered(slot);
                    self.close(slot, 1000, "Goodbye");
                }
            }
            Way::Stream { chunked } => {
                self.stream_feedback(slot, chunked, feedback);
                if last {
                    self.note_answered(slot);
                    self.end_stream(slot, chunked);
                }
            }
            Way::Single if last => {
                self.note_answered(slot);
                self.answer_single(slot, feedback);
            }
            Way::Single => {}
        }
    }

    /// The desk's last word is with the connection.
    fn note_answered(&mut self, slot: usize) {
        if let Some(Phase::Seeker(seeking)) = self.connections.get_mut(slot).map(|connection| &mut connection.phase) {
            seeking.asked = false;
        }
    }

    fn send_feedback(&mut self, slot: usize, feedback: &Feedback) {
        let mut frame = Vec::new();
        self.push_feedback(&mut frame, feedback);
        if !frame.is_empty() {
            self.counters.count(Metric::GameServerFrames);
            self.send_bytes(slot, Class::Server, OpCode::Data(Data::Text), &frame);
        }
    }

    /// Appends a frame; a server whose token cannot be made is none.
    pub(super) fn push_feedback(&self, out: &mut Vec<u8>, feedback: &Feedback) {
        match self.sealed(feedback) {
            Ok(token) => bevygap::push_frame(out, feedback, &token),
            Err(failure) => bevygap::push_frame(out, &Feedback::Failed(failure), &[]),
        }
    }

    /// The same as one answer, with its HTTP status; `feedback` is a last word.
    pub(super) fn push_outcome(&self, out: &mut Vec<u8>, feedback: &Feedback) -> u16 {
        let failure = match (self.sealed(feedback), feedback) {
            (Ok(_), Feedback::Failed(failure)) => failure.clone(),
            (Ok(_), Feedback::ForwardedOutcome(outcome)) => {
                bevygap::push_single(out, feedback, &[]);
                return match outcome.status {
                    200 => 200,
                    status => bevygap::single_status(&Failure::new(status, "")),
                };
            }
            (Ok(token), Feedback::Ready(_)) => {
                bevygap::push_single(out, feedback, &token);
                return 200;
            }
            // Another matchmaker that ends without an answer has none.
            (Ok(_), _) => Failure::UNAVAILABLE,
            (Err(failure), _) => failure,
        };
        let status = bevygap::single_status(&failure);
        bevygap::push_single(out, &Feedback::Failed(failure), &[]);
        status
    }

    /// The token that goes with this feedback, empty if none does.
    fn sealed(&self, feedback: &Feedback) -> Result<Vec<u8>, Failure> {
        let Feedback::Ready(grant) = feedback else {
            return Ok(Vec::new());
        };
        let token = self.seal_token(grant);
        token
            .map(|token| token.to_vec())
            .ok_or(Failure::new(500, "no token could be made"))
    }

    fn seal_token(&self, grant: &Grant) -> Option<Box<[u8; TOKEN_BYTES]>> {
        let settings = self.settings.seekers.as_ref()?;
        let (key, protocol_id) = settings.keys.get(usize::from(grant.key.0))?;
        let created_s = self.clock.unix_ms / 1000;
        let public = vec![grant.public];
        let internal: Vec<SocketAddr> = match grant.internal.is_empty() {
            true => public.clone(),
            false => grant.internal.clone(),
        };
        let mut token = Token {
            protocol_id: *protocol_id,
            created_s,
            expires_s: created_s + settings.token_expires_s,
            nonce: [0; 24],
            timeout_s: settings.token_timeout_s,
            public,
            internal,
            client_id: grant.client_id,
            client_to_server: [0; 32],
            server_to_client: [0; 32],
            user_data: [0; 256],
        };
        let mut random = rand::rng();
        random.fill_bytes(&mut token.nonce);
        random.fill_bytes(&mut token.client_to_server);
        random.fill_bytes(&mut token.server_to_client);
        connect_token::seal(&token, key, settings.layout)
    }

    /// The server goes.
    pub(super) fn dismiss_seeker(&mut self, slot: usize) {
        let Some(Phase::Seeker(seeking)) = self.connections.get(slot).map(|connection| &connection.phase) else {
            return;
        };
        let failed = Feedback::Failed(SHUTTING_DOWN);
        match seeking.way {
            Way::WebSocket => {
                self.send_feedback(slot, &failed);
                self.close(slot, CLOSE_GOING_AWAY, "server shutting down");
            }
            Way::Stream { chunked } => {
                self.stream_feedback(slot, chunked, &failed);
                self.end_stream(slot, chunked);
            }
            Way::Single => self.answer_single(slot, &failed),
        }
    }

    /// The connection is over: nobody waits for a server.
    pub(super) fn leave_desk(&mut self, slot: usize) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if let Phase::Seeker(seeking) = &connection.phase
            && seeking.asked
        {
            let seeker = Seeker::Conn {
                loop_id: self.id,
                conn: connection.id(slot),
            };
            self.tell_desk_left(seeker);
        }
    }
}

/// Whether nothing follows.
pub(super) fn is_last(feedback: &Feedback) -> bool {
    match feedback {
        Feedback::Ready(_) | Feedback::Failed(_) | Feedback::ForwardedOutcome(_) | Feedback::End => true,
        Feedback::Acknowledged | Feedback::Accepted(_) | Feedback::Progress(_) | Feedback::Forwarded(_) => false,
    }
}
