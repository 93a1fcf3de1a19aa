//! Several loops' punch state, the mail between them, and the datagrams that they send.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use peer_server::codec::protobuf::natpunch as wire;
use peer_server::dialect::{demultiplexer, natpunch};
use peer_server::ids::{Homes, LoopId};
use peer_server::message::punch::{Dialect, Dropped, Path};
use peer_server::shard::punch::{Event, Limits, Mail, Output, Permits, Punch};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) use wire::message::Content;

pub(crate) struct World {
    pub(crate) loops: Vec<Punch>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) now_ms: u64,
    pub(crate) random: StdRng,
    /// One queue for each pair of loops: order holds within it, for what must arrive, and nowhere else.
    links: BTreeMap<(usize, usize), VecDeque<(Mail, bool)>>,
    /// What was sent to each address, oldest first.
    sent: BTreeMap<SocketAddr, Vec<Vec<u8>>>,
    /// Bytes sent to each address, ever.
    pub(crate) bytes_sent: BTreeMap<SocketAddr, usize>,
    /// How many of a hundred pieces of droppable mail are lost.
    pub(crate) loss_percent: u32,
    /// Whether mail arrives at once.
    pub(crate) prompt: bool,
}

impl World {
    pub(crate) fn new(loops: u16) -> Self {
        Self::with(loops, 1, Limits::default())
    }

    pub(crate) fn with(loops: u16, seed: u64, limits: Limits) -> Self {
        let (limits, permits) = (Arc::new(limits), Arc::new(Permits::default()));
        let homes = Homes::new(loops, [seed, 2, 3, 4]);
        let punch = |index: u16| {
            let mut secret = [index as u8; 32];
            secret[..8].copy_from_slice(&seed.to_le_bytes());
            Punch::new(
                LoopId::new(index),
                homes.clone(),
                limits.clone(),
                permits.clone(),
                secret,
            )
        };
        Self {
            loops: (0..loops).map(punch).collect(),
            permits: permits.clone(),
            now_ms: 0,
            random: StdRng::seed_from_u64(seed),
            links: BTreeMap::new(),
            sent: BTreeMap::new(),
            bytes_sent: BTreeMap::new(),
            loss_percent: 0,
            prompt: true,
        }
    }

    /// The loop that receives an address's datagrams.
    pub(crate) fn receiver(&self, remote: SocketAddr) -> usize {
        let mut hasher = DefaultHasher::new();
        remote.hash(&mut hasher);
        hasher.finish() as usize % self.loops.len()
    }

    /// A datagram arrives.
    pub(crate) fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        let receiver = self.receiver(from);
        let path = Path {
            socket: 0,
            local: None,
            remote: from,
        };
        if demultiplexer::classify(bytes) == Some(Dialect::Natpunch)
            && let Some(request) = natpunch::parse(bytes)
        {
            self.loops[receiver].handle_natpunch(path, request, self.now_ms);
        }
        self.drain(receiver);
        if self.prompt {
            self.settle();
        }
    }

    /// A client's message arrives; what was sent to its address since it was last asked about.
    pub(crate) fn ask(&mut self, from: SocketAddr, content: Content) -> Vec<Content> {
        self.datagram(from, &encode(content));
        self.take(from)
    }

    /// The one datagram that answers a client's message.
    pub(crate) fn datagram_answer(&mut self, from: SocketAddr, content: Content) -> Vec<u8> {
        self.datagram(from, &encode(content));
        let mut told = self.take_bytes(from);
        assert_eq!(told.len(), 1);
        told.remove(0)
    }

    /// Delivers all mail, in an order that keeps each link's.
    pub(crate) fn settle(&mut self) {
        while self.deliver_one() {}
    }

    /// Delivers the oldest mail of some link.
    pub(crate) fn deliver_one(&mut self) -> bool {
        self.links.retain(|_, link| !link.is_empty());
        if self.links.is_empty() {
            return false;
        }
        let nth = self.random.random_range(0..self.links.len());
        let (&(_, to), link) = self.links.iter_mut().nth(nth).unwrap();
        let (mail, droppable) = link.pop_front().unwrap();
        if !droppable || self.random.random_range(0..100) >= self.loss_percent {
            self.loops[to].handle_mail(mail, self.now_ms);
            self.drain(to);
        }
        true
    }

    /// Lets time pass, and every timer ring when it is due.
    pub(crate) fn advance(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        loop {
            let due = self.loops.iter().filter_map(Punch::poll_timeout).min();
            let Some(due) = due.filter(|due| *due <= until) else {
                break;
            };
            self.now_ms = self.now_ms.max(due);
            for at in 0..self.loops.len() {
                self.loops[at].handle_timeout(self.now_ms);
                assert!(self.loops[at].poll_timeout().is_none_or(|next| next > self.now_ms));
                self.drain(at);
            }
            if self.prompt {
                self.settle();
            }
        }
        self.now_ms = until;
    }

    fn drain(&mut self, from: usize) {
        while let Some(output) = self.loops[from].poll_output() {
            match output {
                Output::Mail { to, mail, droppable } => {
                    let link = self.links.entry((from, to.index())).or_default();
                    // What may be dropped may also join an earlier batch.
                    let overtakes = droppable && !self.prompt && self.random.random_range(0..4) == 0;
                    let at = link.len().saturating_sub(usize::from(overtakes));
                    link.insert(at, (mail, droppable));
                }
                Output::Connection { .. } => panic!("{output:?}"),
                Output::Datagram { path, event } => {
                    #[allow(irrefutable_let_patterns, reason = "the other dialects may have no words")]
                    let Event::Natpunch(event) = event else {
                        panic!("{event:?}")
                    };
                    let mut bytes = Vec::new();
                    natpunch::push(&mut bytes, &event);
                    assert!((1..=1024).contains(&bytes.len()), "{event:?}");
                    assert_eq!(bytes.len(), event.datagram_len(), "{event:?}");
                    *self.bytes_sent.entry(path.remote).or_default() += bytes.len();
                    self.sent.entry(path.remote).or_default().push(bytes);
                }
            }
        }
    }

    /// The datagrams that were sent to an address since it was last asked about.
    pub(crate) fn take_bytes(&mut self, to: SocketAddr) -> Vec<Vec<u8>> {
        self.sent.remove(&to).unwrap_or_default()
    }

    pub(crate) fn take(&mut self, to: SocketAddr) -> Vec<Content> {
        self.take_bytes(to).iter().map(|bytes| decode(bytes)).collect()
    }

    /// What was sent to everybody since they were last asked about.
    pub(crate) fn take_all(&mut self) -> Vec<(SocketAddr, Vec<Content>)> {
        let sent = std::mem::take(&mut self.sent);
        let decoded = |all: Vec<Vec<u8>>| all.iter().map(|bytes| decode(bytes)).collect();
        sent.into_iter().map(|(to, all)| (to, decoded(all))).collect()
    }

    pub(crate) fn dropped(&self, reason: Dropped) -> u64 {
        self.loops
            .iter()
            .map(|punch| punch.counters().dropped[reason as usize])
            .sum()
    }

    /// Clients and lobbies of all loops.
    pub(crate) fn census(&self) -> (usize, usize) {
        let all = self.loops.iter().map(Punch::census);
        let sum = all.fold((0, 0), |sum, own| {
            (sum.0 + own.natpunch_clients, sum.1 + own.natpunch_lobbies)
        });
        assert_eq!(sum.0, self.permits.natpunch_clients.now());
        assert_eq!(sum.1, self.permits.natpunch_lobbies.now());
        sum
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.links.values().map(VecDeque::len).sum()
    }

    /// Registers an address and sends a keep-alive; its id.
    pub(crate) fn client(&mut self, address: SocketAddr) -> String {
        let id = self.unproved(address);
        assert_eq!(self.ask(address, keep_alive(&id)), []);
        id
    }

    /// Registers an address; its id.
    pub(crate) fn unproved(&mut self, address: SocketAddr) -> String {
        match &self.ask(address, register("::", 1))[..] {
            [Content::RegisterResponse(response)] => response.client_id.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// A lobby of a registered host's; its id.
    pub(crate) fn lobby(&mut self, host: SocketAddr, id: &str, name: &str, players_max: u32) -> String {
        match &self.ask(host, create(id, name, players_max))[..] {
            [Content::CreateLobbyResponse(response)] => response.lobby_id.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass while clients keep themselves alive every two seconds.
    pub(crate) fn live(&mut self, ms: u64, clients: &[(SocketAddr, &str)]) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            self.advance((until - self.now_ms).min(2000));
            for (address, id) in clients {
                self.datagram(*address, &encode(keep_alive(id)));
            }
        }
    }
}

pub(crate) fn encode(content: Content) -> Vec<u8> {
    let content = Some(content);
    wire::Message { content }.encode_to_vec()
}

pub(crate) fn decode(bytes: &[u8]) -> Content {
    wire::Message::decode(bytes).unwrap().content.unwrap()
}

pub(crate) fn register(ip: &str, port: u32) -> Content {
    let ip_address = ip.to_owned();
    let local_endpoint = Some(wire::Endpoint { ip_address, port });
    Content::RegisterRequest(wire::RegisterRequest { local_endpoint })
}

pub(crate) fn keep_alive(id: &str) -> Content {
    let client_id = id.to_owned();
    Content::KeepAlive(wire::KeepAlive { client_id })
}

pub(crate) fn create(id: &str, name: &str, max_players: u32) -> Content {
    Content::CreateLobbyRequest(wire::CreateLobbyRequest {
        lobby_name: name.to_owned(),
        client_id: id.to_owned(),
        max_players,
    })
}

pub(crate) fn join(id: &str, lobby: &str) -> Content {
    Content::JoinLobbyRequest(wire::JoinLobbyRequest {
        lobby_id: lobby.to_owned(),
        client_id: id.to_owned(),
    })
}

pub(crate) fn leave(id: &str, lobby: &str) -> Content {
    Content::LeaveLobbyRequest(wire::LeaveLobbyRequest {
        lobby_id: lobby.to_owned(),
        client_id: id.to_owned(),
    })
}

pub(crate) fn ready(lobby: &str, peer: &str) -> Content {
    Content::PeerConnectionReady(wire::PeerConnectionReady {
        lobby_id: lobby.to_owned(),
        new_peer_id: peer.to_owned(),
    })
}

pub(crate) fn connect(id: &str, peer: &str) -> Content {
    Content::ConnectRequest(wire::ConnectRequest {
        destination_client_id: peer.to_owned(),
        source_client_id: id.to_owned(),
        ..wire::ConnectRequest::default()
    })
}

pub(crate) fn list(request_id: &str) -> Content {
    let request_id = request_id.to_owned();
    Content::LobbyListRequest(wire::LobbyListRequest { request_id })
}

pub(crate) fn error(text: &str) -> Content {
    let message = text.to_owned();
    Content::Error(wire::Error { message })
}

/// The name of a message's kind.
pub(crate) fn kind(content: &Content) -> String {
    let text = format!("{content:?}");
    text[..text.find('(').unwrap()].to_owned()
}

pub(crate) fn kinds(contents: &[Content]) -> Vec<String> {
    contents.iter().map(kind).collect()
}
