//! Lobbies, at their homes: who is in them, and who is on the way.
//!
//! The order of what a joiner is told makes the client work: that it joins, that it has joined, whom to punch to. Nothing
//! of it is ever said twice to a pair that has met: the client would forget that it has.
//!
//! Owns: members, pending joins, and everything that members are told.
//! Never: answers from anywhere but here, so that all of it leaves in order.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use rand::Rng;

use super::requests::introduce;
use super::{Clients, Core, ForLobby, Homes, LobbyAsk, Mail};
use crate::ids::LoopId;
use crate::message::natpunch::{
    Change, Client, ClientId, DATAGRAM_MAX, Event as Word, Lobby, LobbyId, PLAYERS, Refusal,
};
use crate::message::punch::{Dropped, Path};
use crate::shard::punch::{Event, Limits};

/// A join that waits for the host to say that the two have met.
#[derive(Debug)]
struct Pending {
    client: Client,
    attempt: u32,
    until_ms: u64,
}

/// A lobby at home here. Those on the way take no place.
#[derive(Debug)]
struct Held {
    lobby: Arc<Lobby>,
    /// The younger, the higher.
    number: u64,
    pending: Vec<Pending>,
}

/// The lobbies at home here.
#[derive(Debug)]
pub(super) struct Lobbies {
    lobbies: HashMap<LobbyId, Held, RandomState>,
    /// When to look after whom: the time is the same for all joins, so they end in the order they began.
    due: VecDeque<(u64, LobbyId, ClientId)>,
}

impl Clients {
    pub(super) fn on_lobby(&mut self, core: &mut Core, ask: ForLobby) {
        let ForLobby { lobby, client, what } = ask;
        let lobbies = &mut self.lobbies;
        match what {
            LobbyAsk::Join { client, attempt } => lobbies.join(core, lobby, client, attempt),
            LobbyAsk::Leave { path } => lobbies.leave(core, lobby, client, path),
            LobbyAsk::Ready { peer } => lobbies.ready(core, lobby, client, peer),
            LobbyAsk::Gone => lobbies.gone(core, lobby, client),
            LobbyAsk::Cancel { attempt } => lobbies.cancel(lobby, client, attempt),
            LobbyAsk::Moved { client } => lobbies.moved(core, lobby, client),
        }
    }
}

impl Lobbies {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            lobbies: HashMap::with_hasher(homes.hasher()),
            due: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lobbies.len()
    }

    /// When [`Lobbies::expire`] has something to do next.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.due.front().map(|(until_ms, ..)| *until_ms)
    }

    /// A new lobby with its host; None: there are too many.
    pub(super) fn create(
        &mut self,
        core: &mut Core,
        host: Client,
        name: Box<str>,
        players_max: u32,
    ) -> Option<LobbyId> {
        let lobbies_max = Limits::at_most(core.limits.natpunch_lobbies_max);
        if !core.permits.natpunch_lobbies.take(lobbies_max) {
            return None;
        }
        let id = loop {
            let id = LobbyId::from_random(core.random.next_u64());
            // With its home here the host's own requests need no mail.
            if core.homes.of_key(&id) == core.id && !self.lobbies.contains_key(&id) {
                break id;
            }
        };
        let lobby = Arc::new(Lobby {
            id,
            name,
            players_max: players_max.clamp(*PLAYERS.start(), *PLAYERS.end()) as u8,
            members: vec![host],
        });
        let held = Held {
            lobby,
            number: core.permits.number_natpunch_lobby(),
            pending: Vec::new(),
        };
        held.publish(core);
        self.lobbies.insert(id, held);
        Some(id)
    }

    fn join(&mut self, core: &mut Core, id: LobbyId, client: Client, attempt: u32) {
        let Some(held) = self.lobbies.get_mut(&id) else {
            return tell(core, client.path, Word::Refused(Refusal::LobbyNotFound));
        };
        if held.lobby.member(client.id).is_some() {
            // It has met the host: told again, it would forget that.
            return core.drop(Dropped::NotAllowed);
        }
        let until_ms = core.now_ms + MEET_WITHIN_MS;
        let again = held.pending.iter().position(|pending| pending.client.id == client.id);
        if !held.takes(&client) || (again.is_none() && held.pending.len() >= PENDING_MAX) {
            return tell(core, client.path, Word::Refused(Refusal::LobbyFull));
        }
        let pending = Pending {
            client: client.clone(),
            attempt,
            until_ms,
        };
        match again {
            Some(at) => held.pending[at] = pending,
            None => held.pending.push(pending),
        }
        self.due.push_back((until_ms, id, client.id));
        let home = core.homes.of_key(&client.id);
        let word = Mail::Pending {
            client: client.id,
            lobby: id,
            attempt,
        };
        core.send(home, word.into());
        // A lobby without a host does not exist.
        if let Some(host) = held.lobby.host() {
            tell(core, client.path, Word::Joining { lobby: id });
            let members = [host, &client].map(|member| (member.id, member.path.remote));
            tell(core, client.path, Word::Joined { lobby: id, members });
            introduce(core, &client, host);
        }
    }

    /// A host says that it has met a joiner, who becomes a member.
    fn ready(&mut self, core: &mut Core, id: LobbyId, host: ClientId, peer: ClientId) {
        let held = self.lobbies.get_mut(&id);
        let held = held.filter(|held| held.lobby.host().is_some_and(|own| own.id == host));
        let met = held.and_then(|held| {
            let at = held.pending.iter().position(|pending| pending.client.id == peer)?;
            Some((held.pending.swap_remove(at).client, held))
        });
        let Some((client, held)) = met else {
            return core.drop(Dropped::NotAllowed);
        };
        // Others who were waiting too became members first.
        if !held.takes(&client) {
            return tell(core, client.path, Word::Refused(Refusal::LobbyFull));
        }
        let home = core.homes.of_key(&client.id);
        let word = Mail::Joined {
            client: client.id,
            lobby: id,
            remote: client.path.remote,
        };
        core.send(home, word.into());
        Arc::make_mut(&mut held.lobby).members.push(client.clone());
        held.update(core, Change::PlayerJoined);
        let others = held.lobby.members.iter().skip(1).filter(|other| other.id != client.id);
        others.for_each(|other| introduce(core, &client, other));
        held.publish(core);
    }

    /// A member asks to be one no longer.
    fn leave(&mut self, core: &mut Core, id: LobbyId, client: ClientId, path: Path) {
        let Some(held) = self.lobbies.get_mut(&id) else {
            return tell(core, path, Word::Refused(Refusal::LobbyNotFound));
        };
        held.pending.retain(|pending| pending.client.id != client);
        if held.lobby.member(client).is_none() {
            return tell(core, path, Word::Refused(Refusal::NotInLobby));
        }
        let home = core.homes.of_key(&client);
        core.send(home, Mail::Left { client, lobby: id }.into());
        self.remove_member(core, id, client, Some(path));
    }

    /// A client is no more.
    fn gone(&mut self, core: &mut Core, id: LobbyId, client: ClientId) {
        let Some(held) = self.lobbies.get_mut(&id) else { return };
        held.pending.retain(|pending| pending.client.id != client);
        if held.lobby.member(client).is_some() {
            self.remove_member(core, id, client, None);
        }
    }

    /// A client joins another lobby.
    fn cancel(&mut self, id: LobbyId, client: ClientId, attempt: u32) {
        if let Some(held) = self.lobbies.get_mut(&id) {
            let is_it = |pending: &Pending| pending.client.id == client && pending.attempt == attempt;
            held.pending.retain(|pending| !is_it(pending));
        }
    }

    /// A client has another address.
    fn moved(&mut self, core: &mut Core, id: LobbyId, client: Client) {
        let Some(held) = self.lobbies.get_mut(&id) else { return };
        if let Some(pending) = held.pending.iter_mut().find(|pending| pending.client.id == client.id) {
            pending.client = client;
        } else if held.lobby.member(client.id).is_some() {
            let members = &mut Arc::make_mut(&mut held.lobby).members;
            members
                .iter_mut()
                .filter(|member| member.id == client.id)
                .for_each(|member| *member = client.clone());
            held.publish(core);
        }
    }

    /// Ends joins that took too long.
    pub(super) fn expire(&mut self, core: &mut Core) {
        while self.due.front().is_some_and(|(until_ms, ..)| *until_ms <= core.now_ms)
            && let Some((_, lobby, client)) = self.due.pop_front()
        {
            let Some(held) = self.lobbies.get_mut(&lobby) else {
                continue;
            };
            // A join that was repeated has another entry.
            let is_over = |pending: &Pending| pending.client.id == client && pending.until_ms <= core.now_ms;
            if let Some(at) = held.pending.iter().position(is_over) {
                let path = held.pending.swap_remove(at).client.path;
                tell(core, path, Word::Refused(Refusal::HostNotMet));
            }
        }
    }

    /// Takes a member away, who is answered at `path`; the oldest one left becomes host.
    fn remove_member(&mut self, core: &mut Core, id: LobbyId, client: ClientId, path: Option<Path>) {
        let Some(held) = self.lobbies.get_mut(&id) else { return };
        let was_host = held.lobby.host().is_some_and(|host| host.id == client);
        let members = &mut Arc::make_mut(&mut held.lobby).members;
        members.retain(|member| member.id != client);
        for member in &held.lobby.members {
            tell(core, member.path, Word::PeerLeft { peer: client });
        }
        if let Some(path) = path {
            tell(core, path, Word::Left);
        }
        if was_host {
            // They can meet that host no more, and the next one does not know them.
            for pending in held.pending.drain(..) {
                tell(core, pending.client.path, Word::Refused(Refusal::HostNotMet));
            }
            held.update(core, Change::PlayerLeft);
        }
        match held.lobby.members.is_empty() {
            true => {
                self.lobbies.remove(&id);
                core.permits.natpunch_lobbies.release();
                every_loop(core).for_each(|to| core.send(to, Mail::Unlisted(id).into()));
            }
            false => held.publish(core),
        }
    }
}

impl Held {
    /// Whether one more may come: there is a place, and all members still fit into one datagram.
    fn takes(&self, client: &Client) -> bool {
        self.lobby.members.len() < usize::from(self.lobby.players_max)
            && self.lobby.update_len_max([client].into_iter()) <= DATAGRAM_MAX
    }

    /// Tells all members how it stands.
    fn update(&self, core: &mut Core, change: Change) {
        for member in &self.lobby.members {
            let lobby = self.lobby.clone();
            tell(core, member.path, Word::Update { lobby, change });
        }
    }

    /// Tells every loop's directory how it stands.
    fn publish(&self, core: &mut Core) {
        for to in every_loop(core) {
            let (lobby, number) = (self.lobby.clone(), self.number);
            core.send(to, Mail::Listed { lobby, number }.into());
        }
    }
}

fn every_loop(core: &Core) -> impl Iterator<Item = LoopId> + use<> {
    (0..core.homes.loops() as u16).map(LoopId::new)
}

fn tell(core: &mut Core, path: Path, word: Word) {
    core.tell(path, Event::Natpunch(word));
}

/// Joins of one lobby that may wait at once.
const PENDING_MAX: usize = 32;
/// How long joiner and host may take to meet: the client punches for as long.
const MEET_WITHIN_MS: u64 = 10_000;
