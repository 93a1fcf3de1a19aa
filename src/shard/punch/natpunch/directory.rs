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

    /// Takes note of a lobby as it stands.
    pub(super) fn put(&mut self, lobby: Arc<Lobby>, created_ms: u64) {
        let is_full = lobby.members.len() >= usize::from(lobby.players_max);
        let (id, rank) = (lobby.id, (is_full, Reverse(created_ms), lobby.id));
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
