//! What a registered client asks, at its home.
//!
//! An id proves nothing, everybody in a lobby has seen it: a request counts only from the address that registered.
//!
//! Owns: that check, the budget of unproved addresses, what one client may have.
//! Never: decides who is in a lobby; `lobbies` does, at the lobby's home.

use std::net::SocketAddr;

use super::registration::{tell_gone, tell_moved};
use super::{AMPLIFICATION, Clients, Core, ForLobby, LobbyAsk, Mail};
use crate::message::natpunch::{
    Ask, Client, ClientId, DATAGRAM_MAX, Event as Word, LOBBY_NAME_MAX, LobbyId, Refusal, Request,
};
use crate::message::punch::{Dropped, Path};
use crate::shard::punch::{Event, Limits};
use crate::shard::rate_limit::Rate;

impl Clients {
    /// A datagram from the address of the client at this place.
    pub(super) fn on_client(&mut self, core: &mut Core, slot: u32, path: Path, request: Request) {
        let record = self.records.record(slot);
        if !record.verified {
            record.budget = record
                .budget
                .saturating_add(request.bytes.saturating_mul(AMPLIFICATION));
        }
        if let Ask::Register { local } = request.ask {
            return self.on_register_again(core, slot, path, local, request.bytes);
        }
        record.registering = false;
        let own = record.client.id;
        let is_own = |id: &str| ClientId::parse(id) == Some(own);
        let is_proved = match &request.ask {
            Ask::KeepAlive { client_id }
            | Ask::Create { client_id, .. }
            | Ask::Join { client_id, .. }
            | Ask::Leave { client_id, .. }
            | Ask::Connect { client_id, .. } => is_own(client_id),
            Ask::List { request_id } => request_id.contains(&own.to_string()),
            Ask::Ready { .. } | Ask::Debug | Ask::Register { .. } => false,
        };
        record.verified |= is_proved;
        match request.ask {
            Ask::KeepAlive { .. } if is_proved => record.alive_ms = core.now_ms,
            Ask::Create { name, players_max, .. } if is_proved => self.create(core, slot, path, name, players_max),
            Ask::Join { lobby_id, .. } if is_proved => self.join(core, slot, path, &lobby_id),
            Ask::Leave { lobby_id, .. } if is_proved => self.leave(core, slot, path, &lobby_id),
            Ask::Connect { peer_id, .. } if is_proved => self.connect(core, slot, path, peer_id),
            Ask::Create { .. } | Ask::Join { .. } | Ask::Leave { .. } => {
                self.refuse(core, slot, path, Refusal::NotRegistered);
            }
            Ask::List { request_id } => self.list(core, slot, path, request_id),
            Ask::Ready { lobby_id, peer_id } => self.ready(core, own, &lobby_id, &peer_id),
            Ask::KeepAlive { .. } | Ask::Connect { .. } | Ask::Debug | Ask::Register { .. } => {
                core.drop(Dropped::NotAllowed);
            }
        }
    }

    fn create(&mut self, core: &mut Core, slot: u32, path: Path, name: String, players_max: u32) {
        let record = self.records.record(slot);
        if name.len() > LOBBY_NAME_MAX {
            return self.refuse(core, slot, path, Refusal::NameTooLong);
        }
        if record.lobbies.len() >= Limits::at_most(core.limits.natpunch_lobbies_per_client) {
            return self.refuse(core, slot, path, Refusal::TooManyLobbies);
        }
        let name = name.into_boxed_str();
        let Some(lobby) = self
            .lobbies
            .create(core, record.client.clone(), name.clone(), players_max)
        else {
            return self.refuse(core, slot, path, Refusal::TooManyLobbies);
        };
        record.lobbies.push(lobby);
        self.answer(core, slot, path, Word::Created { lobby, name });
    }

    fn join(&mut self, core: &mut Core, slot: u32, path: Path, lobby_id: &str) {
        let record = self.records.record(slot);
        let per_sec = u64::from(core.limits.natpunch_joins_per_sec);
        if let Some(rate) = Rate::new(per_sec, per_sec)
            && !record.joins.take(rate, core.now_ms)
        {
            return core.drop(Dropped::RateLimited);
        }
        let Some(lobby) = LobbyId::parse(lobby_id) else {
            return self.refuse(core, slot, path, Refusal::LobbyNotFound);
        };
        let lobbies_max = Limits::at_most(core.limits.natpunch_lobbies_per_client);
        if record.lobbies.len() >= lobbies_max && !record.lobbies.contains(&lobby) {
            return self.refuse(core, slot, path, Refusal::TooManyLobbies);
        }
        record.attempts = record.attempts.wrapping_add(1);
        let (client, attempt) = (record.client.clone(), record.attempts);
        ask_lobby(core, lobby, client.id, LobbyAsk::Join { client, attempt });
    }

    fn leave(&mut self, core: &mut Core, slot: u32, path: Path, lobby_id: &str) {
        match LobbyId::parse(lobby_id) {
            Some(lobby) => ask_lobby(
                core,
                lobby,
                self.records.record(slot).client.id,
                LobbyAsk::Leave { path },
            ),
            None => self.refuse(core, slot, path, Refusal::LobbyNotFound),
        }
    }

    fn ready(&mut self, core: &mut Core, host: ClientId, lobby_id: &str, peer_id: &str) {
        match (LobbyId::parse(lobby_id), ClientId::parse(peer_id)) {
            (Some(lobby), Some(peer)) => ask_lobby(core, lobby, host, LobbyAsk::Ready { peer }),
            _ => core.drop(Dropped::NotAllowed),
        }
    }

    /// Two members of one lobby are told of each other. The directory knows all members.
    fn connect(&mut self, core: &mut Core, slot: u32, path: Path, peer_id: String) {
        let record = self.records.record(slot);
        let own = record.client.id;
        let peer = ClientId::parse(&peer_id).filter(|peer| *peer != own);
        let found = peer.and_then(|peer| {
            let lobbies = record.lobbies.iter().filter_map(|lobby| self.directory.find(*lobby));
            let mut both = lobbies.filter_map(|lobby| lobby.member(own).and(lobby.member(peer)));
            both.next().cloned()
        });
        match found {
            Some(peer) => introduce(core, &record.client, &peer),
            None => self.refuse(core, slot, path, Refusal::PeerNotFound(peer_id)),
        }
    }

    fn list(&mut self, core: &mut Core, slot: u32, path: Path, request_id: String) {
        let record = self.records.record(slot);
        let bytes_max = match record.verified {
            true => DATAGRAM_MAX,
            false => DATAGRAM_MAX.min(record.budget as usize),
        };
        match self.directory.list(request_id, Some(record.client.id), bytes_max) {
            Some(list) => self.answer(core, slot, path, list),
            None => core.drop(Dropped::RateLimited),
        }
    }

    /// A lobby waits for a client. A client has one such lobby: the one that it asked for last.
    pub(super) fn on_pending(&mut self, core: &mut Core, client: ClientId, lobby: LobbyId, attempt: u32) {
        let Some(record) = self.records.find_mut(client) else {
            return tell_gone(core, lobby, client);
        };
        let over = match record.pending.replace((lobby, attempt)) {
            Some(newer) if newer.1 > attempt => {
                record.pending = Some(newer);
                Some((lobby, attempt))
            }
            before => before,
        };
        if let Some((over, attempt)) = over
            && record.pending.is_some_and(|(lobby, _)| lobby != over)
        {
            let what = LobbyAsk::Cancel { attempt };
            let (lobby, home) = (over, core.homes.of_key(&over));
            core.send(home, ForLobby { lobby, client, what }.into());
        }
    }

    pub(super) fn on_joined(&mut self, core: &mut Core, client: ClientId, lobby: LobbyId, remote: SocketAddr) {
        let Some(record) = self.records.find_mut(client) else {
            return tell_gone(core, lobby, client);
        };
        record.pending.take_if(|(pending, _)| *pending == lobby);
        if !record.lobbies.contains(&lobby) {
            record.lobbies.push(lobby);
        }
        if record.client.path.remote != remote {
            tell_moved(core, lobby, &record.client);
        }
    }

    pub(super) fn on_left(&mut self, client: ClientId, lobby: LobbyId) {
        if let Some(record) = self.records.find_mut(client) {
            record.lobbies.retain(|own| *own != lobby);
        }
    }

    fn refuse(&mut self, core: &mut Core, slot: u32, path: Path, refusal: Refusal) {
        self.answer(core, slot, path, Word::Refused(refusal));
    }

    /// Answers a client, out of its own bytes if it is not verified.
    fn answer(&mut self, core: &mut Core, slot: u32, path: Path, word: Word) {
        let record = self.records.record(slot);
        if !record.verified {
            let Some(left) = record.budget.checked_sub(word.datagram_len() as u32) else {
                return core.drop(Dropped::RateLimited);
            };
            record.budget = left;
        }
        core.tell(path, Event::Natpunch(word));
    }
}

/// Tells two clients to punch to each other, the first one first.
pub(super) fn introduce(core: &mut Core, first: &Client, second: &Client) {
    for (to, peer) in [(first, second), (second, first)] {
        let word = Word::Punch {
            peer: peer.id,
            public: peer.path.remote,
            local: peer.local_for(to),
        };
        core.tell(to.path, Event::Natpunch(word));
    }
}

/// Asks a lobby's home what a client asks again if it is lost.
fn ask_lobby(core: &mut Core, lobby: LobbyId, client: ClientId, what: LobbyAsk) {
    core.send_request(core.homes.of_key(&lobby), ForLobby { lobby, client, what }.into());
}

impl From<ForLobby> for crate::shard::punch::Mail {
    fn from(ask: ForLobby) -> Self {
        Mail::Lobby(Box::new(ask)).into()
    }
}
