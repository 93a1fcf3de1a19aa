//! The state of the lobby dialect of TCP JSON and UDP endpoints (matchmaker).
//!
//! A session lives on the loop of its TCP connection, its id is drawn for that. A lobby lives at the home of its code. What
//! must be known of an address lives on the loop where its datagrams arrive. The three speak to each other by mail, also
//! where one loop has them all:
//!
//! ```text
//! start:       session ─Start→ lobby ─Called→ each member's session ─Ready→ lobby ─Over→ session ─Deliver→ endpoint
//! UDP address: endpoint ─Claimed→ session ─Bind→ endpoint, which acknowledges
//! ```
//!
//! Owns: the three, and who of them is told what.
//! Never: knows a wire format.

mod deadlines;
mod endpoints;
mod lobbies;
mod mail;
mod sessions;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use mail::{ToEndpoint, ToLobby, ToSession};

use super::{Core, Homes};
use crate::ids::ConnId;
use crate::message::matchmaker::{Ask, Request};
use crate::message::punch::Path;

/// What loops tell each other about it.
#[derive(Debug)]
pub enum Mail {
    /// To the loop of a connection.
    Sessions(ToSession),
    /// To the home of a code.
    Lobbies(ToLobby),
    /// To the loop of an address.
    Endpoints(ToEndpoint),
}

impl From<Mail> for super::Mail {
    fn from(mail: Mail) -> Self {
        Self::Matchmaker(mail)
    }
}

impl From<ToSession> for super::Mail {
    fn from(mail: ToSession) -> Self {
        Mail::Sessions(mail).into()
    }
}

impl From<ToLobby> for super::Mail {
    fn from(mail: ToLobby) -> Self {
        Mail::Lobbies(mail).into()
    }
}

impl From<ToEndpoint> for super::Mail {
    fn from(mail: ToEndpoint) -> Self {
        Mail::Endpoints(mail).into()
    }
}

/// What one loop holds of it.
#[derive(Debug)]
pub(super) struct Matchmaker {
    sessions: sessions::Sessions,
    lobbies: lobbies::Lobbies,
    endpoints: endpoints::Endpoints,
}

impl Matchmaker {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            sessions: sessions::Sessions::new(homes),
            lobbies: lobbies::Lobbies::new(homes),
            endpoints: endpoints::Endpoints::new(homes),
        }
    }

    pub(super) fn handle_request(&mut self, core: &mut Core, path: Path, request: Request) {
        self.endpoints.handle_request(core, path, request);
    }

    pub(super) fn handle_open(&mut self, core: &mut Core, conn: ConnId, remote: SocketAddr) {
        self.sessions.open(core, conn, remote);
    }

    pub(super) fn handle_ask(&mut self, core: &mut Core, conn: ConnId, ask: Ask) {
        self.sessions.ask(core, conn, ask);
    }

    pub(super) fn handle_close(&mut self, core: &mut Core, conn: ConnId) {
        self.sessions.close(core, conn);
    }

    pub(super) fn handle_mail(&mut self, core: &mut Core, mail: Mail) {
        match mail {
            Mail::Sessions(mail) => self.sessions.handle_mail(core, mail),
            Mail::Lobbies(mail) => self.lobbies.handle_mail(core, mail),
            Mail::Endpoints(mail) => self.endpoints.handle_mail(core, mail),
        }
    }

    /// Ends what is over, and repeats what was not acknowledged.
    pub(super) fn handle_timeout(&mut self, core: &mut Core) {
        self.sessions.handle_timeout(core);
        self.lobbies.handle_timeout(core);
        self.endpoints.handle_timeout(core);
    }

    /// When [`Matchmaker::handle_timeout`] has something to do next, in milliseconds; None: nothing is due.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let due = [
            self.sessions.next_ms(),
            self.lobbies.next_ms(),
            self.endpoints.next_ms(),
        ];
        due.into_iter().flatten().min()
    }

    /// Sessions and lobbies here.
    pub(super) fn census(&self) -> (usize, usize) {
        (self.sessions.len(), self.lobbies.len())
    }

    /// Whether nothing at all is left here.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.lobbies.len() == 0 && self.endpoints.is_empty()
    }
}
