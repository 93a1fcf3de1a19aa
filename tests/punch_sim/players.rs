//! Players: the clients of the three dialects, each with a script of what its person does.
//!
//! Owns: when a request is made, and made again where the protocol leaves that to the person; who has met whom.
//! Never: looks into the server's state, or into a packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use peer_server_client::direct::Direct;
use peer_server_client::{OPENING_TTL, Transmit, matchmaker, natpunch, simple};

use crate::network::is_inner;
use crate::world::{SERVER, SERVER_V4, World};

/// How a group of players meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// ASCII: the first hosts, the others are told the id.
    Session,
    /// ASCII: any two.
    Random,
    /// Protobuf: the first makes a lobby, the others are told its id.
    Lobby,
    /// Protobuf: the others find it in the list.
    List,
    /// JSON: the first makes a lobby, the others are told its code.
    Code,
}

impl Way {
    pub(crate) const ALL: [Self; 5] = [Self::Session, Self::Random, Self::Lobby, Self::List, Self::Code];
}

/// Players who want to meet.
pub(crate) struct Group {
    pub(crate) way: Way,
    pub(crate) members: Vec<usize>,
    /// They open their routers first.
    pub(crate) opening: bool,
    /// Id or code, once the first has it.
    key: Option<String>,
    /// JSON: how many have joined, and how many have an address.
    joined: usize,
    known: usize,
}

/// What a person does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    Begin,
    Again,
    Finish,
    /// Switches off, with or without a word over the connection.
    Vanish {
        word: bool,
    },
}

pub(crate) enum Client {
    Simple(simple::Client),
    Natpunch(natpunch::Client),
    Matchmaker {
        client: matchmaker::Client,
        direct: Option<Direct>,
    },
}

pub(crate) struct Player {
    pub(crate) socket: SocketAddr,
    pub(crate) router: usize,
    pub(crate) delay_ms: u64,
    pub(crate) group: usize,
    client: Client,
    /// Does nothing any more.
    pub(crate) gone: bool,
    /// Who was heard, and when first.
    pub(crate) met: BTreeMap<usize, u64>,
    /// Protobuf: the lobby that it found in the list. JSON: its session.
    lobby: Option<String>,
    /// It was told to begin the game.
    pub(crate) plays: bool,
    /// What should not happen to whoever does as he should.
    pub(crate) troubles: Vec<String>,
    tries: u32,
}

impl Player {
    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        if self.gone {
            return None;
        }
        match &self.client {
            Client::Simple(client) => client.poll_timeout(),
            Client::Natpunch(client) => client.poll_timeout(),
            Client::Matchmaker { client, direct } => {
                let direct = direct.as_ref().and_then(Direct::poll_timeout);
                client.poll_timeout().into_iter().chain(direct).min()
            }
        }
    }

    pub(crate) fn handle_timeout(&mut self, now_ms: u64) {
        match &mut self.client {
            Client::Simple(client) => client.handle_timeout(now_ms),
            Client::Natpunch(client) => client.handle_timeout(now_ms),
            Client::Matchmaker { client, direct } => {
                client.handle_timeout(now_ms);
                if let Some(direct) = direct {
                    direct.handle_timeout(now_ms);
                }
            }
        }
    }

    pub(crate) fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now_ms: u64) {
        if self.gone {
            return;
        }
        match &mut self.client {
            Client::Simple(client) => client.handle_datagram(from, bytes, now_ms),
            Client::Natpunch(client) => client.handle_datagram(from, bytes, now_ms),
            Client::Matchmaker { client, direct } => {
                client.handle_datagram(from, bytes, now_ms);
                if let Some(direct) = direct {
                    direct.handle_datagram(from, bytes, now_ms);
                }
            }
        }
    }

    /// Bytes of its connection; None: it has ended.
    pub(crate) fn handle_stream(&mut self, bytes: Option<&[u8]>, now_ms: u64) {
        let Client::Matchmaker { client, .. } = &mut self.client else {
            return;
        };
        match bytes {
            _ if self.gone => {}
            Some(bytes) => client.handle_stream(bytes, now_ms),
            None => client.handle_stream_end(),
        }
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = match &mut self.client {
            Client::Simple(client) => client.poll_transmit(),
            Client::Natpunch(client) => client.poll_transmit(),
            Client::Matchmaker { client, direct } => client
                .poll_transmit()
                .or_else(|| direct.as_mut().and_then(Direct::poll_transmit)),
        };
        transmit.filter(|_| !self.gone)
    }

    pub(crate) fn poll_stream(&mut self) -> Option<Vec<u8>> {
        match &mut self.client {
            Client::Matchmaker { client, .. } => client.poll_stream().filter(|_| !self.gone),
            Client::Simple(_) | Client::Natpunch(_) => None,
        }
    }

    pub(crate) fn natpunch_id(&self) -> Option<&str> {
        match &self.client {
            Client::Natpunch(client) => client.id(),
            Client::Simple(_) | Client::Matchmaker { .. } => None,
        }
    }
}

impl World {
    /// A group of players, each behind the router that is named for it; they begin within so many milliseconds.
    pub(crate) fn group(&mut self, way: Way, routers: &[usize], opening: bool, within_ms: u64) -> usize {
        let group = self.groups.len();
        let opening_ttl = opening.then_some(OPENING_TTL);
        let first = self.players.len();
        for router in routers {
            let socket = self.inner_address(*router);
            let SocketAddr::V4(local) = socket else { unreachable!() };
            let name = format!("p{}", self.players.len());
            let client = match way {
                Way::Session | Way::Random => Client::Simple(simple::Client::new(simple::Config {
                    opening_ttl,
                    ..simple::Config::new(local, &name)
                })),
                Way::Lobby | Way::List => {
                    let config = natpunch::Config::new(SERVER, socket, self.below(u64::MAX));
                    Client::Natpunch(natpunch::Client::new(natpunch::Config { opening_ttl, ..config }))
                }
                Way::Code => {
                    let config = matchmaker::Config::new(SERVER);
                    Client::Matchmaker {
                        client: matchmaker::Client::new(matchmaker::Config { opening_ttl, ..config }),
                        direct: None,
                    }
                }
            };
            let delay_ms = 5 + self.below(75);
            self.players.push(Player {
                socket,
                router: *router,
                delay_ms,
                group,
                client,
                gone: false,
                met: BTreeMap::new(),
                lobby: None,
                plays: false,
                troubles: Vec::new(),
                tries: 0,
            });
            let player = self.players.len() - 1;
            // Who joins by an id begins when it is told.
            if way != Way::Session || player == first {
                let ms = self.below(within_ms + 1);
                self.later(ms, player, Task::Begin);
            }
        }
        self.groups.push(Group {
            way,
            members: (first..self.players.len()).collect(),
            opening,
            key: None,
            joined: 0,
            known: 0,
        });
        group
    }

    /// Who of a group is at an address, as this player sees it.
    fn who(&self, player: usize, at: SocketAddr) -> Option<usize> {
        let mut members = self.groups[self.players[player].group].members.iter().copied();
        if is_inner(at.ip()) {
            return members.find(|other| self.players[*other].socket == at);
        }
        members.find(|other| {
            let router = &self.routers[self.players[*other].router];
            let inside = router.inside(at.port()).unwrap_or(at);
            at.ip() == IpAddr::V4(router.ip) && inside == self.players[*other].socket
        })
    }

    fn meets(&mut self, player: usize, other: Option<usize>) {
        let now_ms = self.now_ms;
        if let Some(other) = other {
            self.players[player].met.entry(other).or_insert(now_ms);
        }
    }

    fn is_first(&self, player: usize) -> bool {
        self.groups[self.players[player].group].members[0] == player
    }

    /// The first has an id or a code, and tells the others one by one.
    fn pass_on(&mut self, player: usize, key: String, task: Task) {
        let group = self.players[player].group;
        if self.groups[group].key.replace(key).is_none() {
            for other in self.groups[group].members.clone() {
                let ms = 100 + self.below(2900);
                if other != player {
                    self.later(ms, other, task);
                }
            }
        }
    }

    pub(crate) fn on_task(&mut self, player: usize, task: Task) {
        if let Task::Vanish { word } = task {
            self.players[player].gone = true;
            if word {
                self.write(player, true, None);
            }
            return;
        }
        if self.players[player].gone {
            return;
        }
        match &self.players[player].client {
            Client::Simple(_) => self.simple_task(player, task),
            Client::Natpunch(_) => self.natpunch_task(player, task),
            Client::Matchmaker { .. } => self.matchmaker_task(player, task),
        }
    }

    fn simple_task(&mut self, player: usize, task: Task) {
        let (now_ms, is_first) = (self.now_ms, self.is_first(player));
        let group = &self.groups[self.players[player].group];
        let Client::Simple(client) = &mut self.players[player].client else {
            return;
        };
        match (task, group.way, &group.key) {
            (Task::Begin, Way::Random, _) => client.random_session(SERVER_V4, now_ms),
            (Task::Begin, _, _) if is_first => client.host_session(SERVER_V4, now_ms),
            (Task::Begin, _, Some(id)) => client.join_session(id, now_ms).unwrap(),
            (Task::Finish, ..) => client.close_session(now_ms),
            _ => {}
        }
    }

    fn natpunch_task(&mut self, player: usize, task: Task) {
        let (now_ms, is_first) = (self.now_ms, self.is_first(player));
        let group = &self.groups[self.players[player].group];
        let (by_list, key) = (group.way == Way::List, group.key.clone());
        let name = lobby_name(self.players[player].group);
        let host = group.members[0];
        let known: BTreeSet<String> = self.players[player]
            .met
            .keys()
            .filter_map(|other| self.players[*other].natpunch_id())
            .map(str::to_owned)
            .collect();
        let host_met = self.players[player].met.contains_key(&host);
        let own = &mut self.players[player];
        own.tries += 1;
        let tries = own.tries;
        let Client::Natpunch(client) = &mut own.client else {
            return;
        };
        match task {
            Task::Begin => return client.register(now_ms),
            Task::Finish => return client.leave(),
            _ => {}
        }
        let Some(id) = client.id().map(str::to_owned) else {
            if tries < TRIES_MAX {
                self.later(1000, player, Task::Again);
            }
            return;
        };
        let mut again_ms = 4500;
        if is_first {
            if client.lobby().is_some() {
                return;
            }
            client.create(&name, 8);
            again_ms = 3000;
        } else if let Some(key) = key {
            let lobby = if by_list { own.lobby.clone() } else { Some(key) };
            match lobby {
                None => {
                    client.list();
                    again_ms = 2000;
                }
                Some(lobby) if !host_met => client.join(&lobby),
                Some(_) => {
                    let members = client.lobby().map(|lobby| lobby.members.clone()).unwrap_or_default();
                    for member in members {
                        if member != id && !known.contains(&member) {
                            client.connect(&member);
                        }
                    }
                }
            }
        } else {
            return;
        }
        if tries < TRIES_MAX {
            self.later(again_ms, player, Task::Again);
        }
    }

    fn matchmaker_task(&mut self, player: usize, task: Task) {
        let now_ms = self.now_ms;
        let key = self.groups[self.players[player].group].key.clone();
        match task {
            Task::Begin => self.connect(player),
            // It was told the code before it is connected.
            Task::Again if self.players[player].lobby.is_none() => return self.later(200, player, Task::Again),
            _ => {}
        }
        let Client::Matchmaker { client, .. } = &mut self.players[player].client else {
            return;
        };
        match (task, key) {
            (Task::Begin, _) => client.connect(now_ms),
            (Task::Again, Some(code)) => client.join_lobby(&code),
            (Task::Finish, Some(code)) => client.start_lobby(&code),
            _ => {}
        }
    }

    /// Acts on the next thing that a player was told; false if there is none.
    pub(crate) fn act(&mut self, player: usize) -> bool {
        if self.players[player].gone {
            return false;
        }
        match &mut self.players[player].client {
            Client::Simple(client) => match client.poll_event() {
                Some(event) => self.on_simple(player, event),
                None => return false,
            },
            Client::Natpunch(client) => match client.poll_event() {
                Some(event) => self.on_natpunch(player, event),
                None => return false,
            },
            Client::Matchmaker { client, direct } => match client.poll_event() {
                Some(event) => self.on_matchmaker(player, event),
                None => match direct.as_mut().and_then(Direct::poll_event) {
                    Some(connected) => {
                        for at in [connected.peer, connected.from] {
                            let other = self.who(player, at);
                            self.meets(player, other);
                        }
                    }
                    None => return false,
                },
            },
        }
        true
    }

    fn on_simple(&mut self, player: usize, event: simple::Event) {
        match event {
            simple::Event::StartSession(id) => {
                if self.groups[self.players[player].group].way == Way::Session {
                    self.pass_on(player, id, Task::Begin);
                }
            }
            // Of two behind one router, who is heard before his address is known is taken for the other.
            simple::Event::PeerAnswered { peer, from } => {
                for at in [peer, from] {
                    let other = self.who(player, at.into());
                    self.meets(player, other);
                }
                let group = &self.groups[self.players[player].group];
                let all = group.members.len() - 1;
                if group.way == Way::Session && self.is_first(player) && self.players[player].met.len() == all {
                    self.later(3000, player, Task::Finish);
                }
            }
            // Whose word to stop punching comes first is heard by that.
            simple::Event::StartClient { host, .. } => {
                let other = self.who(player, host.into());
                self.meets(player, other);
                self.players[player].plays = true;
            }
            simple::Event::StartServer { .. } => self.players[player].plays = true,
            simple::Event::BadSession(id) => self.players[player].troubles.push(format!("no session {id}")),
            simple::Event::BadServer(_) => self.players[player].troubles.push("no answer".to_owned()),
            simple::Event::NewName(_) | simple::Event::StartRandom | simple::Event::Peer(_) => {}
        }
    }

    fn on_natpunch(&mut self, player: usize, event: natpunch::Event) {
        match event {
            natpunch::Event::Registered { .. } if self.is_first(player) => self.later(0, player, Task::Again),
            natpunch::Event::LobbyCreated { id, .. } => self.pass_on(player, id, Task::Again),
            natpunch::Event::Lobbies(lobbies) => {
                let name = lobby_name(self.players[player].group);
                if let Some(lobby) = lobbies.into_iter().find(|lobby| lobby.name == name) {
                    let own = &mut self.players[player];
                    if own.lobby.replace(lobby.id).is_none() {
                        self.later(0, player, Task::Again);
                    }
                }
            }
            natpunch::Event::Connected { peer, .. } => {
                let found = |other: &Player| other.natpunch_id() == Some(&peer);
                let other = self.players.iter().position(found);
                self.meets(player, other);
            }
            natpunch::Event::RegistrationFailed => self.players[player].troubles.push("not registered".to_owned()),
            natpunch::Event::Refused(words) => self.players[player].troubles.push(words),
            _ => {}
        }
    }

    fn on_matchmaker(&mut self, player: usize, event: matchmaker::Event) {
        let group = self.players[player].group;
        match event {
            matchmaker::Event::Connected { session } => {
                self.players[player].lobby = Some(session);
                let is_first = self.is_first(player);
                if let Client::Matchmaker { client, .. } = &mut self.players[player].client
                    && is_first
                {
                    client.create_lobby();
                }
                return;
            }
            matchmaker::Event::EndpointKnown => self.groups[group].known += 1,
            matchmaker::Event::LobbyCreated { code } => return self.pass_on(player, code, Task::Again),
            matchmaker::Event::LobbyJoined { .. } => self.groups[group].joined += 1,
            matchmaker::Event::LobbyStarted { .. } => return,
            matchmaker::Event::Peers(_) => {
                let (seed, now_ms) = (self.below(u64::MAX), self.now_ms);
                let own = &mut self.players[player];
                own.plays = true;
                if let Client::Matchmaker { client, direct } = &mut own.client {
                    *direct = client.handle_connections(seed, now_ms);
                }
                return;
            }
            matchmaker::Event::Refused { request, words } => {
                return self.players[player].troubles.push(format!("{request:?}: {words}"));
            }
            matchmaker::Event::Closed => {
                let own = &mut self.players[player];
                if !own.plays {
                    own.troubles.push("closed".to_owned());
                }
                return;
            }
        }
        // Any member starts once all are there; where packets are lost, once all addresses are known as well.
        let careful = self.faults.loss_percent > 0;
        let Group {
            joined,
            known,
            ref members,
            ..
        } = self.groups[group];
        let all = members.len();
        if joined + 1 == all && (known == all || !careful) && self.groups[group].key.is_some() {
            let nth = self.below(all as u64) as usize;
            let starter = self.groups[group].members[nth];
            self.groups[group].joined += all;
            self.later(50, starter, Task::Finish);
        }
    }
}

fn lobby_name(group: usize) -> String {
    format!("room {group}")
}

/// Then a person gives up.
const TRIES_MAX: u32 = 14;
