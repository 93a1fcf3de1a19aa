//! The directory: all lobbies of the process, as each loop knows them.
//!
//! A lobby's home makes one copy for all loops whenever something about it changes, which is rare beside the lists that
//! are asked for. It is bounded as lobbies are.
//!
//! Owns: their order, and how many fit into a list.
//! Never: changes a lobby.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;

use super::Homes;
use crate::message::natpunch::{ClientId, DATAGRAM_MAX, Event as Word, Listed, Lobby, LobbyId};

/// First those that take somebody, then the full ones; the newest of each first.
type Rank = (bool, Reverse<u64>, LobbyId);

/// All lobbies.
#[derive(Debug)]
pub(super) struct Directory {
    lobbies: HashMap<LobbyId, (Arc<Lobby>, Rank), RandomState>,
    ranks: BTreeSet<Rank>,
}

impl Directory {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            lobbies: HashMap::with_hasher(homes.hasher()),
            ranks: BTreeSet::new(),
        }
    }

    /// Takes note of a lobby as it stands. The younger it is, the higher its number.
    pub(super) fn put(&mut self, lobby: Arc<Lobby>, number: u64) {
        let is_full = lobby.members.len() >= usize::from(lobby.players_max);
        let (id, rank) = (lobby.id, (is_full, Reverse(number), lobby.id));
        let before = self.lobbies.insert(id, (lobby, rank));
        if let Some((_, before)) = before.filter(|(_, before)| *before != rank) {
            self.ranks.remove(&before);
        }
        self.ranks.insert(rank);
    }

    pub(super) fn remove(&mut self, id: LobbyId) {
        if let Some((_, rank)) = self.lobbies.remove(&id) {
            self.ranks.remove(&rank);
        }
    }

    pub(super) fn find(&self, id: LobbyId) -> Option<&Arc<Lobby>> {
        self.lobbies.get(&id).map(|(lobby, _)| lobby)
    }

    /// A list of as many lobbies as `bytes_max` and a datagram allow; None: not even an empty one.
    pub(super) fn list(&self, request_id: String, asker: Option<ClientId>, bytes_max: usize) -> Option<Word> {
        let bytes_max = bytes_max.min(DATAGRAM_MAX);
        let lobbies = Vec::new();
        let mut list = Word::List { request_id, lobbies };
        if list.datagram_len() > bytes_max {
            return None;
        }
        for (_, _, id) in &self.ranks {
            let (Some(lobby), Word::List { lobbies, .. }) = (self.find(*id), &mut list) else {
                continue;
            };
            let is_member = asker.is_some_and(|asker| lobby.member(asker).is_some());
            let lobby = lobby.clone();
            lobbies.push(Listed {
                lobby,
                with_members: is_member,
            });
            if list.datagram_len() > bytes_max && !without_members(&mut list, bytes_max) {
                break;
            }
        }
        Some(list)
    }
}

/// Makes the last entry of a list that is too long short, or takes it away and returns false.
fn without_members(list: &mut Word, bytes_max: usize) -> bool {
    if let Word::List { lobbies, .. } = list
        && let Some(last) = lobbies.last_mut()
    {
        last.with_members = false;
    }
    let fits = list.datagram_len() <= bytes_max;
    if let (false, Word::List { lobbies, .. }) = (fits, list) {
        lobbies.pop();
    }
    fits
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::SocketAddr;

    use super::*;
    use crate::ids::LoopId;
    use crate::message::natpunch::{Ask, Request};
    use crate::message::punch::Path;
    use crate::shard::punch::{Event, Limits, Output, Punch};

    fn ask(punch: &mut Punch, port: u16, ask: Ask, now_ms: u64) -> Word {
        let path = Path {
            socket: 0,
            local: None,
            remote: SocketAddr::from(([192, 0, 2, 1], port)),
        };
        punch.handle_natpunch(path, Request { bytes: 100, ask }, now_ms);
        let mut told = None;
        while let Some(output) = punch.poll_output() {
            if let Output::Datagram {
                event: Event::Natpunch(word),
                ..
            } = output
            {
                told = Some(word);
            }
        }
        told.unwrap()
    }

    fn punch() -> Punch {
        let (id, limits) = (LoopId::new(0), Arc::new(Limits::default()));
        Punch::new(id, Homes::new(1, [1, 2, 3, 4]), limits, Arc::default(), [7; 32])
    }

    #[test]
    fn lobbies_of_one_millisecond_are_listed_newest_first() {
        let mut punch = punch();
        for port in 0..8 {
            let Word::Registered { id, .. } = ask(&mut punch, port, Ask::Register { local: None }, 5) else {
                panic!()
            };
            let create = Ask::Create {
                client_id: id.to_string(),
                name: port.to_string(),
                players_max: 4,
            };
            ask(&mut punch, port, create, 5);
        }
        let request_id = String::new();
        let Word::List { lobbies, .. } = ask(&mut punch, 7, Ask::List { request_id }, 5) else {
            panic!()
        };
        let names: Vec<_> = lobbies.iter().map(|listed| listed.lobby.name.to_string()).collect();
        assert_eq!(names, ["7", "6", "5", "4", "3", "2", "1", "0"]);
    }
}
