//! The reference: the whole server as one small sequential program.
//!
//! Owns: what every client must see of an action that is carried through before the next one begins.
//! Never: knows loops, mail or sessions on their way; races are the checkers' business.

use std::collections::BTreeMap;

use peer_server::message::{CLOSE_REPLACED, Refusal};
use peer_server::shard::looks_like_fingerprint;

use crate::workload::{Req, Settings, To};

/// A peer as it is shown to others. `serial` says which connection of the key it is (it is part of the metadata).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shown {
    pub(crate) key: usize,
    pub(crate) serial: usize,
    pub(crate) alias: String,
    pub(crate) app: String,
    pub(crate) meta: String,
}

/// What a client sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Registered {
        alias: String,
    },
    NotRegistered(Refusal),
    List {
        name: usize,
        peers: Vec<Shown>,
        total: u32,
    },
    Joined {
        name: usize,
        peer: Shown,
    },
    Left {
        name: usize,
        key: usize,
    },
    Waiting,
    Matched {
        name: usize,
        session: [u8; 16],
        peers: Vec<Shown>,
    },
    Created {
        name: usize,
        max: u32,
        owner: usize,
    },
    Described {
        name: usize,
        count: u32,
        max: u32,
        owner: usize,
    },
    Kicked {
        name: usize,
        owner: usize,
    },
    Refused(Refusal),
    Direct {
        id: u64,
        from: usize,
        about: Option<usize>,
    },
    Broadcast {
        id: u64,
        from: usize,
        name: usize,
    },
    Closed(u16),
}

#[derive(Debug)]
struct Peer {
    serial: usize,
    alias: String,
    held: bool,
    update: Option<u32>,
    /// How it is shown where it joined.
    joins: BTreeMap<usize, (String, Option<u32>)>,
}

#[derive(Debug)]
struct Space {
    /// Owner and cap, if it is a room.
    room: Option<(usize, u32)>,
    /// In join order.
    members: Vec<usize>,
}

/// The state of the whole server.
#[derive(Debug)]
pub(crate) struct Model {
    settings: Settings,
    peers: BTreeMap<usize, Peer>,
    spaces: BTreeMap<usize, Space>,
    holders: BTreeMap<String, usize>,
    /// By namespace, group size and criteria, oldest first.
    queues: BTreeMap<(usize, u32, u8), Vec<Shown>>,
}

/// Who sees what: serials and events, each client's in order.
pub(crate) type Expected = Vec<(usize, Seen)>;

impl Model {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            peers: BTreeMap::new(),
            spaces: BTreeMap::new(),
            holders: BTreeMap::new(),
            queues: BTreeMap::new(),
        }
    }

    /// A connection registers. `made` is the alias that the server made, if it was to make one.
    pub(crate) fn connect(&mut self, key: usize, serial: usize, alias: &str, made: Option<&str>) -> Expected {
        let mut out = Vec::new();
        match self.peers.get(&key) {
            Some(old) => {
                out.push((old.serial, Seen::Closed(CLOSE_REPLACED)));
                self.end(key, &mut out);
            }
            None if self.peers.len() >= self.settings.max_peers => {
                return vec![(serial, Seen::NotRegistered(Refusal::ServerFull))];
            }
            None => {}
        }
        let alias = if alias.is_empty() {
            made.unwrap_or_default()
        } else {
            alias
        }
        .to_owned();
        let held = !looks_like_fingerprint(&alias) && !self.holders.contains_key(&alias);
        if held {
            self.holders.insert(alias.clone(), key);
        }
        out.push((serial, Seen::Registered { alias: alias.clone() }));
        let peer = Peer {
            serial,
            alias,
            held,
            update: None,
            joins: BTreeMap::new(),
        };
        self.peers.insert(key, peer);
        out
    }

    pub(crate) fn disconnect(&mut self, key: usize) -> Expected {
        let mut out = Vec::new();
        self.end(key, &mut out);
        out
    }

    fn end(&mut self, key: usize, out: &mut Expected) {
        let names: Vec<usize> = self.spaces.keys().copied().collect();
        for name in names {
            self.remove(name, key, out);
        }
        self.queues
            .values_mut()
            .for_each(|queue| queue.retain(|ticket| ticket.key != key));
        if let Some(peer) = self.peers.remove(&key)
            && peer.held
        {
            self.holders.remove(&peer.alias);
        }
    }

    fn remove(&mut self, name: usize, key: usize, out: &mut Expected) -> bool {
        let Some(space) = self.spaces.get_mut(&name) else {
            return false;
        };
        let Some(at) = space.members.iter().position(|member| *member == key) else {
            return false;
        };
        space.members.remove(at);
        if space.members.is_empty() {
            self.spaces.remove(&name);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.joins.remove(&name);
        }
        self.tell_others(name, key, &Seen::Left { name, key }, out);
        true
    }

    fn tell_others(&self, name: usize, but: usize, seen: &Seen, out: &mut Expected) {
        let members = self.spaces.get(&name).map_or(&[][..], |space| &space.members);
        for member in members.iter().filter(|member| **member != but) {
            out.push((self.peers[member].serial, seen.clone()));
        }
    }

    fn withdraw(&mut self, name: usize, key: usize) {
        for ((at, _, _), queue) in &mut self.queues {
            if *at == name {
                queue.retain(|ticket| ticket.key != key);
            }
        }
    }

    fn shown(&self, key: usize, name: usize) -> Shown {
        let peer = &self.peers[&key];
        let (app, join_meta) = peer.joins.get(&name).cloned().unwrap_or_default();
        let update = peer.update.map_or(String::new(), |update| format!(",\"x\":{update}"));
        let join = join_meta.map_or(String::new(), |meta| format!(",\"j\":{meta}"));
        Shown {
            key,
            serial: peer.serial,
            alias: peer.alias.clone(),
            app,
            meta: format!("\"c\":{}{update}{join}", peer.serial),
        }
    }

    fn is_member(&self, name: usize, key: usize) -> bool {
        self.spaces.get(&name).is_some_and(|space| space.members.contains(&key))
    }

    /// A registered peer asks; `id` is the message's, if it is one. A match that it completes has the session of zeros.
    pub(crate) fn ask(&mut self, key: usize, request: &Req, id: u64) -> Expected {
        let me = self.peers[&key].serial;
        let mut out = Vec::new();
        match self.carry_out(key, me, request, id, &mut out) {
            Ok(()) => {}
            Err(refusal) => out.push((me, Seen::Refused(refusal))),
        }
        out
    }

    fn carry_out(&mut self, key: usize, me: usize, request: &Req, id: u64, out: &mut Expected) -> Result<(), Refusal> {
        match request {
            Req::Join { name, app, meta } => self.join(key, me, *name, (app, *meta), false, out)?,
            Req::JoinRoom(name) => self.join(key, me, *name, ("room", None), true, out)?,
            Req::Create { name, max } => {
                if self.spaces.contains_key(name) {
                    return Err(Refusal::RoomExists);
                }
                if self.spaces.values().filter(|space| space.room.is_some()).count() >= self.settings.max_rooms {
                    return Err(Refusal::ServerFull);
                }
                let (room, members) = (Some((key, *max)), vec![key]);
                self.spaces.insert(*name, Space { room, members });
                self.enter(key, *name, ("room", None));
                let (name, max, owner) = (*name, *max, key);
                out.push((me, Seen::Created { name, max, owner }));
            }
            Req::Leave(name) => {
                self.withdraw(*name, key);
                self.remove(*name, key, out);
            }
            Req::Discover(name) => match self.spaces.get(name) {
                Some(space) if space.room.is_some() => return Err(Refusal::RoomNotDiscoverable),
                Some(_) => out.push((me, self.list(*name))),
                None => out.push((
                    me,
                    Seen::List {
                        name: *name,
                        peers: Vec::new(),
                        total: 0,
                    },
                )),
            },
            Req::Info(name) => {
                let (space, (owner, max)) = self.room(*name)?;
                let (name, count) = (*name, space.members.len() as u32);
                out.push((
                    me,
                    Seen::Described {
                        name,
                        count,
                        max,
                        owner,
                    },
                ));
            }
            Req::Kick { name, target } => {
                let (_, (owner, _)) = self.room(*name)?;
                if owner != key {
                    return Err(Refusal::NotRoomOwner);
                }
                let target = target
                    .filter(|target| self.is_member(*name, *target))
                    .ok_or(Refusal::PeerNotFound)?;
                out.push((self.peers[&target].serial, Seen::Kicked { name: *name, owner }));
                self.withdraw(*name, target);
                self.remove(*name, target, out);
            }
            Req::Match { name, size, criteria } => self.find_match(key, me, *name, *size, *criteria, out)?,
            Req::Metadata(update) => {
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.update = Some(*update);
                }
                let waiting: Vec<_> = self.queues.keys().copied().collect();
                for queue in waiting {
                    let shown = self.shown(key, queue.0);
                    let tickets = self.queues.get_mut(&queue).into_iter().flatten();
                    tickets
                        .filter(|ticket| ticket.key == key)
                        .for_each(|ticket| *ticket = shown.clone());
                }
            }
            Req::Direct { to, about, .. } => {
                let to = match to {
                    To::Key(to) => Some(*to),
                    To::Alias(alias) if looks_like_fingerprint(alias) => None,
                    To::Alias(alias) => self.holders.get(alias).copied(),
                };
                let to = to
                    .filter(|to| self.peers.contains_key(to))
                    .ok_or(Refusal::PeerNotFound)?;
                let both = |name: usize| self.is_member(name, key) && self.is_member(name, to);
                if !self.spaces.keys().any(|name| both(*name)) {
                    return Err(Refusal::NoSharedNamespace);
                }
                let about = about.filter(|about| both(*about));
                out.push((self.peers[&to].serial, Seen::Direct { id, from: key, about }));
            }
            Req::Broadcast { name, exclude } => {
                if !self.is_member(*name, key) {
                    return Err(Refusal::NotInNamespace);
                }
                for member in self.spaces[name].members.iter().filter(|member| **member != key) {
                    let peer = &self.peers[member];
                    let excluded = exclude.iter().any(|entry| match entry {
                        To::Key(key) => key == member,
                        To::Alias(alias) => peer.held && *alias == peer.alias,
                    });
                    if !excluded {
                        let (from, name) = (key, *name);
                        out.push((peer.serial, Seen::Broadcast { id, from, name }));
                    }
                }
            }
        }
        Ok(())
    }

    fn room(&self, name: usize) -> Result<(&Space, (usize, u32)), Refusal> {
        let space = self.spaces.get(&name).ok_or(Refusal::RoomNotFound)?;
        Ok((space, space.room.ok_or(Refusal::RoomNotFound)?))
    }

    fn enter(&mut self, key: usize, name: usize, (app, meta): (&str, Option<u32>)) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.joins.insert(name, (app.to_owned(), meta));
        }
    }

    fn join(
        &mut self,
        key: usize,
        me: usize,
        name: usize,
        extra: (&str, Option<u32>),
        room_only: bool,
        out: &mut Expected,
    ) -> Result<(), Refusal> {
        if room_only {
            self.room(name)?;
        }
        let most = self.settings.max_peers;
        let space = self.spaces.entry(name).or_insert(Space {
            room: None,
            members: Vec::new(),
        });
        if !space.members.contains(&key) {
            if space.members.len() >= space.room.map_or(most, |(_, max)| max as usize) {
                return Err(if room_only {
                    Refusal::RoomFull
                } else {
                    Refusal::NamespaceFull
                });
            }
            space.members.push(key);
        }
        self.enter(key, name, extra);
        let peer = self.shown(key, name);
        self.tell_others(name, key, &Seen::Joined { name, peer }, out);
        out.push((me, self.list(name)));
        Ok(())
    }

    fn list(&self, name: usize) -> Seen {
        let members = &self.spaces[&name].members;
        let peers = members.iter().map(|member| self.shown(*member, name)).collect();
        Seen::List {
            name,
            peers,
            total: members.len() as u32,
        }
    }

    fn find_match(
        &mut self,
        key: usize,
        me: usize,
        name: usize,
        size: u32,
        criteria: u8,
        out: &mut Expected,
    ) -> Result<(), Refusal> {
        self.withdraw(name, key);
        let shown = self.shown(key, name);
        let waiting: usize = self.queues.values().map(Vec::len).sum();
        let queue = self.queues.entry((name, size, criteria)).or_default();
        if queue.len() + 1 < size as usize {
            if waiting >= self.settings.max_match_waiting {
                return Err(Refusal::ServerFull);
            }
            queue.push(shown);
            out.push((me, Seen::Waiting));
            return Ok(());
        }
        let mut peers = std::mem::take(queue);
        peers.push(shown);
        for peer in &peers {
            let (session, peers) = ([0; 16], peers.clone());
            out.push((peer.serial, Seen::Matched { name, session, peers }));
        }
        Ok(())
    }
}
