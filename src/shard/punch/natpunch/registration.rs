//! Registration: how an address becomes a client, moves to another port, and is a client no longer.
//!
//! A client's receive loop stops for good at a second answer to its registration. So a repeated request is answered only
//! if it came some time after the last answer.
//!
//! Owns: the beginning and end of records.
//! Never: answers anything but registrations.

use std::net::SocketAddr;

use rand::Rng;

use super::records::Record;
use super::sweep::SPAN_MS;
use super::{AMPLIFICATION, Clients, Core, ForLobby, LobbyAsk, Mail, Registration};
use crate::ids::{LoopId, Prefix};
use crate::message::natpunch::{Client, ClientId, Event as Word, LobbyId};
use crate::message::punch::{Dropped, Path};
use crate::shard::punch::{Counted, Event, Guard, Guarded, Limits};
use crate::shard::rate_limit::Bucket;

impl Clients {
    /// A registration from an address that is no client's here: its prefix may have only so many in a minute.
    pub(super) fn ask_guard(&mut self, core: &mut Core, path: Path, local: Option<SocketAddr>, bytes: u32) {
        let registration = Registration {
            path,
            local,
            bytes,
            received_ms: core.now_ms,
        };
        let granted = Mail::Register(Box::new(registration));
        core.guard(Guarded {
            prefix: Prefix::of(path.remote.ip()),
            guard: Guard::Count(Counted::NatpunchRegistration),
            granted: (core.id, granted.into()),
            refused: None,
        });
    }

    /// A registration from an address that is a client's: repeated, or a new one in its place.
    pub(super) fn on_register_again(
        &mut self,
        core: &mut Core,
        slot: u32,
        path: Path,
        local: Option<SocketAddr>,
        bytes: u32,
    ) {
        let record = self.records.record(slot);
        if is_repeat(record, core.now_ms) {
            return self.on_repeat(core, slot, path, core.now_ms);
        }
        match is_hasty(record, core.now_ms) {
            true => core.drop(Dropped::RateLimited),
            false => self.ask_guard(core, path, local, bytes),
        }
    }

    /// Tells a client once more that it is registered, if the request came long enough after it was last told.
    fn on_repeat(&mut self, core: &mut Core, slot: u32, path: Path, received_ms: u64) {
        let record = self.records.record(slot);
        let answer = answer(&record.client);
        let len = answer.datagram_len() as u32;
        if received_ms < record.answered_ms + ANSWER_EVERY_MS || record.budget < len {
            return core.drop(Dropped::RateLimited);
        }
        record.budget -= len;
        record.answered_ms = core.now_ms;
        // It listens to the address of ours that it asked last, and nothing was sent from another one yet but answers.
        record.client.path = path;
        // It has had no id to keep itself alive with.
        record.alive_ms = core.now_ms;
        core.tell(path, Event::Natpunch(answer));
    }

    /// Makes a client of an address whose datagrams arrive here.
    pub(super) fn on_register(&mut self, core: &mut Core, registration: Registration) {
        let Registration {
            path,
            local,
            bytes,
            received_ms,
        } = registration;
        if let Some(slot) = self.records.at(&path.remote) {
            // It may have repeated its request while the first one was under way.
            let record = self.records.record(slot);
            if is_repeat(record, core.now_ms) {
                return self.on_repeat(core, slot, path, received_ms);
            }
            if is_hasty(record, received_ms) {
                return core.drop(Dropped::RateLimited);
            }
            self.remove(core, slot);
        } else if let Some(client) = self.records.bound(&path.remote) {
            let remote = path.remote;
            self.records.unbind(client, &remote);
            core.send(core.homes.of_key(&client), Mail::Replaced { client, remote }.into());
        }
        if !core
            .permits
            .natpunch_clients
            .take(Limits::at_most(core.limits.sessions_max))
        {
            return core.drop(Dropped::Full);
        }
        let id = draw_id(core);
        let client = Client { id, path, local };
        let answer = answer(&client);
        self.records.insert(Record {
            client,
            at: core.id,
            verified: false,
            registering: true,
            registered_ms: core.now_ms,
            answered_ms: core.now_ms,
            alive_ms: core.now_ms,
            may_move_ms: 0,
            // The answer is not paid for: it is the one that makes all else possible.
            budget: bytes.saturating_mul(AMPLIFICATION),
            attempts: 0,
            joins: Bucket::default(),
            lobbies: Vec::new(),
            pending: None,
        });
        self.sweep.insert(id, core.now_ms + SILENCE_MS, core.now_ms);
        core.tell(path, Event::Natpunch(answer));
    }

    /// A keep-alive from another port than the client's.
    pub(super) fn on_other_port(&mut self, core: &mut Core, slot: u32, at: LoopId, path: Path) {
        let free = at != core.id || !self.records.knows(&path.remote);
        let record = self.records.record(slot);
        let before = record.client.path.remote;
        if !free || before.ip() != path.remote.ip() || core.now_ms < record.may_move_ms {
            return core.drop(Dropped::NotAllowed);
        }
        record.may_move_ms = core.now_ms + MOVE_EVERY_MS;
        record.alive_ms = core.now_ms;
        (record.verified, record.registering) = (true, false);
        let (client, was_at) = (record.client.id, record.at);
        if was_at == core.id {
            self.records.forget_address(slot);
        } else {
            let remote = before;
            core.send(was_at, Mail::Unbind { client, remote }.into());
        }
        let record = self.records.record(slot);
        (record.client.path, record.at) = (path, at);
        for lobby in lobbies_of(record) {
            tell_moved(core, lobby, &record.client);
        }
        if at == core.id {
            self.records.index_address(slot);
        } else {
            let remote = path.remote;
            core.send(at, Mail::Bind { client, remote }.into());
        }
    }

    pub(super) fn on_bind(&mut self, core: &mut Core, client: ClientId, remote: SocketAddr) {
        // Somebody may have registered there meanwhile: the mover will then be silent, and end.
        match self.records.knows(&remote) {
            false => self.records.bind(client, remote),
            true => core.drop(Dropped::NotAllowed),
        }
    }

    pub(super) fn on_replaced(&mut self, core: &mut Core, client: ClientId, remote: SocketAddr) {
        if let Some(slot) = self.records.find(client)
            && self.records.remote(slot) == remote
        {
            self.remove(core, slot);
        }
    }

    /// Removes clients that were silent for too long.
    pub(super) fn purge(&mut self, core: &mut Core) {
        for id in self.sweep.take_due(core.now_ms) {
            let Some(slot) = self.records.find(id) else { continue };
            let due_ms = self.records.record(slot).alive_ms + SILENCE_MS;
            match due_ms <= core.now_ms {
                true => self.remove(core, slot),
                false => self.sweep.insert(id, due_ms, core.now_ms),
            }
        }
    }

    /// Ends a registration: the client leaves its lobbies.
    fn remove(&mut self, core: &mut Core, slot: u32) {
        let record = self.records.remove(slot);
        core.permits.natpunch_clients.release();
        let (client, remote) = (record.client.id, record.client.path.remote);
        if record.at != core.id {
            core.send(record.at, Mail::Unbind { client, remote }.into());
        }
        for lobby in lobbies_of(&record) {
            tell_gone(core, lobby, client);
        }
    }
}

/// Whether a registration from this client's address is the same one again.
fn is_repeat(record: &Record, now_ms: u64) -> bool {
    record.registering && now_ms < record.registered_ms + REPEATS_MS
}

/// Whether an address that has proved nothing was told of a registration a moment ago. With something else in between each request
/// would be a new one, each answer longer than what was asked.
fn is_hasty(record: &Record, now_ms: u64) -> bool {
    !record.verified && now_ms < record.answered_ms + ANSWER_EVERY_MS
}

fn answer(client: &Client) -> Word {
    Word::Registered {
        id: client.id,
        public: client.path.remote,
    }
}

/// An id with its home here.
fn draw_id(core: &mut Core) -> ClientId {
    loop {
        let mut bytes = [0; 16];
        core.random.fill_bytes(&mut bytes);
        let id = ClientId::from_random(bytes);
        if core.homes.of_key(&id) == core.id {
            return id;
        }
    }
}

/// The lobbies that know a client.
fn lobbies_of(record: &Record) -> impl Iterator<Item = LobbyId> {
    let pending = record.pending.map(|(lobby, _)| lobby);
    let pending = pending.filter(|lobby| !record.lobbies.contains(lobby));
    record.lobbies.iter().copied().chain(pending)
}

/// Tells a lobby that a client is gone.
pub(super) fn tell_gone(core: &mut Core, lobby: LobbyId, client: ClientId) {
    let what = LobbyAsk::Gone;
    core.send(core.homes.of_key(&lobby), ForLobby { lobby, client, what }.into());
}

/// Tells a lobby of a client's new address.
pub(super) fn tell_moved(core: &mut Core, lobby: LobbyId, client: &Client) {
    let what = LobbyAsk::Moved { client: client.clone() };
    let client = client.id;
    core.send(core.homes.of_key(&lobby), ForLobby { lobby, client, what }.into());
}

/// A client repeats its request every second; what comes sooner is a doubled datagram.
const ANSWER_EVERY_MS: u64 = 700;
/// How long a registration may be repeated: ten requests, one a second, and some time on the way.
const REPEATS_MS: u64 = 15_000;
/// After so long without a keep-alive a client is gone; it sends one every two seconds.
pub(super) const SILENCE_MS: u64 = SPAN_MS;
/// How often a client may move to another port.
const MOVE_EVERY_MS: u64 = 5_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::ids::Homes;
    use crate::message::natpunch::{Ask, Request};
    use crate::shard::punch::{Output, Punch};

    fn punch() -> Punch {
        let (id, limits) = (LoopId::new(0), Arc::new(Limits::default()));
        Punch::new(id, Homes::new(1, [1, 2, 3, 4]), limits, Arc::default(), [7; 32])
    }

    fn path(socket: u8, port: u16) -> Path {
        Path {
            socket,
            local: None,
            remote: SocketAddr::from(([192, 0, 2, 1], port)),
        }
    }

    fn ask(punch: &mut Punch, path: Path, ask: Ask, now_ms: u64) -> Vec<(Path, Word)> {
        punch.handle_natpunch(path, Request { bytes: 12, ask }, now_ms);
        let mut told = Vec::new();
        while let Some(output) = punch.poll_output() {
            if let Output::Datagram {
                path,
                event: Event::Natpunch(word),
            } = output
            {
                told.push((path, word));
            }
        }
        told
    }

    fn register(punch: &mut Punch, path: Path, now_ms: u64) -> String {
        match &ask(punch, path, Ask::Register { local: None }, now_ms)[..] {
            [(to, Word::Registered { id, .. })] if *to == path => id.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_client_is_told_everything_from_the_address_that_it_asked_last_when_it_registered() {
        let mut punch = punch();
        let host = register(&mut punch, path(1, 7), 0);
        assert_eq!(register(&mut punch, path(0, 7), 1000), host);
        let create = Ask::Create {
            client_id: host,
            name: "room".to_owned(),
            players_max: 2,
        };
        let [(_, Word::Created { lobby, .. })] = ask(&mut punch, path(0, 7), create, 1000)[..] else {
            panic!()
        };
        let client_id = register(&mut punch, path(0, 8), 1000);
        let lobby_id = lobby.to_string();
        let told = ask(&mut punch, path(0, 8), Ask::Join { client_id, lobby_id }, 1000);
        assert_eq!(told.len(), 4);
        assert_eq!(told[3].0, path(0, 7));
    }

    #[test]
    fn a_keep_alive_from_another_port_proves_that_port() {
        let mut punch = punch();
        let client_id = register(&mut punch, path(0, 7), 0);
        assert!(
            ask(
                &mut punch,
                path(0, 8),
                Ask::KeepAlive {
                    client_id: client_id.clone()
                },
                100
            )
            .is_empty()
        );
        let request_id = "r".repeat(64);
        assert_eq!(ask(&mut punch, path(0, 8), Ask::List { request_id }, 100).len(), 1);
        assert_ne!(register(&mut punch, path(0, 8), 1000), client_id);
    }
}
