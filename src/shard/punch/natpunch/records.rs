//! The clients at home here, and the addresses whose datagrams arrive here.
//!
//! Owns: where each record is found, by id and by address.
//! Never: decides anything.

use std::net::SocketAddr;

use ahash::RandomState;
use hashbrown::{HashMap, HashTable};
use slab::Slab;

use super::Homes;
use crate::ids::LoopId;
use crate::message::natpunch::{Client, ClientId, LobbyId};
use crate::shard::rate_limit::Bucket;

/// A registered client.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) client: Client,
    /// The loop that receives its datagrams.
    pub(super) at: LoopId,
    /// Whether a message with its id came from its address: somebody there has read the answer to its registration.
    pub(super) verified: bool,
    /// Nothing but registrations came from its address so far.
    pub(super) registering: bool,
    pub(super) registered_ms: u64,
    /// When it was last told that it is registered.
    pub(super) answered_ms: u64,
    /// When it last gave a sign of life.
    pub(super) alive_ms: u64,
    /// When it may move to another port.
    pub(super) may_move_ms: u64,
    /// Bytes that it may still be sent before it is verified.
    pub(super) budget: u32,
    /// How many joins it asked for.
    pub(super) attempts: u32,
    pub(super) joins: Bucket,
    /// The lobbies that it is a member of, as far as their homes have told.
    pub(super) lobbies: Vec<LobbyId>,
    /// The lobby that waits for it, or did so, and by which attempt.
    pub(super) pending: Option<(LobbyId, u32)>,
}

/// Where the records are. The tables hold places only, so that their free places cost little.
#[derive(Debug)]
pub(super) struct Records {
    records: Slab<Record>,
    by_id: HashTable<u32>,
    /// Those whose datagrams arrive here.
    by_address: HashTable<u32>,
    /// Addresses whose datagrams arrive here and belong to clients at home elsewhere.
    bound: HashMap<SocketAddr, ClientId, RandomState>,
    hasher: RandomState,
}

impl Records {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            records: Slab::new(),
            by_id: HashTable::new(),
            by_address: HashTable::new(),
            bound: HashMap::with_hasher(homes.hasher()),
            hasher: homes.hasher(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether datagrams from here are some client's.
    pub(super) fn knows(&self, remote: &SocketAddr) -> bool {
        (!self.by_address.is_empty() || !self.bound.is_empty())
            && (self.at(remote).is_some() || self.bound.contains_key(remote))
    }

    /// The record whose datagrams come from this address.
    pub(super) fn at(&self, remote: &SocketAddr) -> Option<u32> {
        if self.by_address.is_empty() {
            return None;
        }
        let is_it = |slot: &u32| {
            self.get(*slot)
                .is_some_and(|record| record.client.path.remote == *remote)
        };
        self.by_address.find(self.hasher.hash_one(remote), is_it).copied()
    }

    /// The client at home elsewhere whose datagrams come from this address.
    pub(super) fn bound(&self, remote: &SocketAddr) -> Option<ClientId> {
        self.bound.get(remote).copied()
    }

    pub(super) fn find(&self, id: ClientId) -> Option<u32> {
        let is_it = |slot: &u32| self.get(*slot).is_some_and(|record| record.client.id == id);
        self.by_id.find(self.hasher.hash_one(id), is_it).copied()
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Record> {
        self.records.get(slot as usize)
    }

    /// The record at a place that was just found.
    pub(super) fn record(&mut self, slot: u32) -> &mut Record {
        &mut self.records[slot as usize]
    }

    /// The address of the record at a place that was just found.
    pub(super) fn remote(&self, slot: u32) -> SocketAddr {
        self.records[slot as usize].client.path.remote
    }

    /// The record of a client.
    pub(super) fn find_mut(&mut self, id: ClientId) -> Option<&mut Record> {
        self.find(id).map(|slot| self.record(slot))
    }

    /// Keeps a record whose datagrams arrive here.
    pub(super) fn insert(&mut self, record: Record) -> u32 {
        let hash = self.hasher.hash_one(record.client.id);
        let slot = self.records.insert(record) as u32;
        let (records, hasher) = (&self.records, &self.hasher);
        let hash_at = |slot: &u32| hasher.hash_one(records[*slot as usize].client.id);
        self.by_id.insert_unique(hash, slot, hash_at);
        self.index_address(slot);
        slot
    }

    /// Forgets a record.
    pub(super) fn remove(&mut self, slot: u32) -> Record {
        self.forget_address(slot);
        let hash = self.hasher.hash_one(self.records[slot as usize].client.id);
        if let Ok(entry) = self.by_id.find_entry(hash, |own| *own == slot) {
            entry.remove();
        }
        self.records.remove(slot as usize)
    }

    /// Finds the record at its address from now on.
    pub(super) fn index_address(&mut self, slot: u32) {
        let (records, hasher) = (&self.records, &self.hasher);
        let hash_at = |slot: &u32| hasher.hash_one(records[*slot as usize].client.path.remote);
        self.by_address.insert_unique(hash_at(&slot), slot, hash_at);
    }

    /// Finds the record at its address no longer, if it was so.
    pub(super) fn forget_address(&mut self, slot: u32) {
        let hash = self.hasher.hash_one(self.remote(slot));
        if let Ok(entry) = self.by_address.find_entry(hash, |own| *own == slot) {
            entry.remove();
        }
    }

    /// Takes note of whose datagrams from an address are; the caller has seen that it is free.
    pub(super) fn bind(&mut self, client: ClientId, remote: SocketAddr) {
        self.bound.insert(remote, client);
    }

    pub(super) fn unbind(&mut self, client: ClientId, remote: &SocketAddr) {
        if self.bound(remote) == Some(client) {
            self.bound.remove(remote);
        }
    }
}
