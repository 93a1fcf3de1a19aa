//! Connections that seek a game server: the matchmaker web service on WebSocket and HTTP.
//!
//! Owns: which of its paths means what, the client's first message and how long that may take, what the client is sent, and
//! the tokens, which are sealed on the loop of the client.
//! Never: decides who gets which server; the desk does (see `office`).

use std::net::{IpAddr, SocketAddr};

use rand::Rng as _;

use super::EventLoop;
use super::connection::Phase;
use super::writing::Class;
use crate::codec::connect_token::{self, Layout, PrivateKey, TOKEN_BYTES, Token};
use crate::codec::websocket::{Data, OpCode};
use crate::dialect::bevygap;
use crate::ids::ConnId;
use crate::message::game_server::{Failure, Feedback, Grant, Seek, Seeker, Wanted};
use crate::message::{CLOSE_GOING_AWAY, CLOSE_POLICY};

/// How long a client may take to say what it seeks.
pub(super) const FIRST_MESSAGE_MS: u64 = 10_000;
/// Longest first message, in bytes.
pub(super) const FIRST_MESSAGE_BYTES: usize = 4096;

/// How the matchmaker web service is served.
#[derive(Clone, Debug)]
pub struct SeekerSettings {
    /// Pages of which origins may use it, in lower case; empty: of any, and `access-control-allow-origin` says the default.
    pub origins: Vec<String>,
    /// Stands for a client on a private network or this machine.
    pub fake_ip: Option<IpAddr>,
    /// Whether clients may say what their address is.
    pub client_ip_override: bool,
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

/// How a seeker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// One text frame each.
    WebSocket,
    /// One line each, in the body of one answer.
    Stream,
    /// One answer at the end.
    Single,
}

/// What a seeking connection holds.
#[derive(Debug)]
pub(super) struct Seeking {
    pub(super) way: Way,
    pub(super) client_ip: IpAddr,
    /// The desk has its request, and has not yet said its last word.
    pub(super) asked: bool,
}

impl EventLoop {
    /// The first message of a client. What it says later is nobody's business.
    pub(super) fn on_seeker_text(&mut self, slot: usize, text: &str) {
        let Some(Phase::Seeker(seeking)) = self.connections.get(slot).map(|connection| &connection.phase) else {
            return;
        };
        if seeking.asked {
            return;
        }
        let client_ip = seeking.client_ip;
        match bevygap::parse_request(text) {
            Ok(request) => {
                let (game, version) = (request.game, request.version);
                let wanted = Wanted::Game { game, version };
                self.seek(slot, Seek { wanted, client_ip });
            }
            Err(text) => self.refuse_seeker(slot, &text),
        }
    }

    /// Not even text.
    pub(super) fn on_seeker_binary(&mut self, slot: usize) {
        let Some(Phase::Seeker(seeking)) = self.connections.get(slot).map(|connection| &connection.phase) else {
            return;
        };
        if !seeking.asked {
            self.refuse_seeker(slot, "ERR Expected text message");
        }
    }

    /// It has said nothing in time.
    pub(super) fn on_seeker_timeout(&mut self, slot: usize) {
        self.refuse_seeker(slot, "ERR Timeout waiting for websocket request message: 10s");
    }

    fn refuse_seeker(&mut self, slot: usize, text: &str) {
        self.send_bytes(slot, Class::Server, OpCode::Data(Data::Text), text.as_bytes());
        self.close(slot, CLOSE_POLICY, "request refused");
    }

    /// Has the desk look for a server.
    fn seek(&mut self, slot: usize, seek: Seek) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let seeker = Seeker::Conn {
            loop_id: self.id,
            conn: connection.id(slot),
        };
        if let Phase::Seeker(seeking) = &mut connection.phase {
            seeking.asked = true;
        }
        self.arm(slot);
        self.ask_desk(seeker, seek);
    }

    /// What the desk says to a connection of this loop.
    pub(super) fn on_seeker_told(&mut self, conn: ConnId, feedback: &Feedback) {
        let Some(slot) = self.slot_of(conn) else { return };
        let Some(Phase::Seeker(seeking)) = self.connections.get_mut(slot).map(|connection| &mut connection.phase)
        else {
            return;
        };
        let last = matches!(feedback, Feedback::Ready(_) | Feedback::Failed(_) | Feedback::End);
        if last {
            seeking.asked = false;
        }
        let mut frame = Vec::new();
        self.push_feedback(&mut frame, feedback);
        if !frame.is_empty() {
            self.send_bytes(slot, Class::Server, OpCode::Data(Data::Text), &frame);
        }
        if last {
            self.close(slot, 1000, "Goodbye");
        }
    }

    /// Appends a frame; a server whose token cannot be made is none.
    pub(super) fn push_feedback(&self, out: &mut Vec<u8>, feedback: &Feedback) {
        let token = match feedback {
            Feedback::Ready(grant) => self.seal_token(grant),
            _ => None,
        };
        match (feedback, &token) {
            (Feedback::Ready(_), None) => {
                let failure = Failure::new(500, "no token could be made");
                bevygap::push_frame(out, &Feedback::Failed(failure), &[]);
            }
            _ => bevygap::push_frame(out, feedback, token.as_deref().map_or(&[], |token| token)),
        }
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
        self.close(slot, CLOSE_GOING_AWAY, "server shutting down");
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
