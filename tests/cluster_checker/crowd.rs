//! Scripted clients: each does random things and writes down what it was told.
//!
//! Owns: their connections, one thread for all of them, and what each believes: who it is, what it is in, who else is there.
//! Never: judges; `checks` does, from what is noted here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::{Message, WebSocket};

use super::checks::Checks;

type Socket = WebSocket<TcpStream>;

/// Names to collide in: most hold few enough that a list shows all.
const NAMESPACES: usize = 40;
const ROOMS: usize = 24;
const ARENAS: usize = 6;
/// How long a connection may take to open, and a registration, before it is given up.
const PATIENCE: Duration = Duration::from_secs(4);
/// Lines that are kept of each client's story.
const STORY_MAX: usize = 500;

enum State {
    /// Not before then.
    Away(Instant),
    Opening(Option<Box<MidHandshake<ClientHandshake<TcpStream>>>>, Instant),
    Registering(Socket, Instant),
    Open(Socket),
}

/// What was asked and not answered. What has no answer of its own is over with the pong of a ping behind it; a pong says nothing
/// of what waits for the broker.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    Join(String),
    Leave(String),
    Create(String, u64),
    JoinRoom(String),
    Match(String),
    Kick(String, String),
}

/// What a client believes of a namespace that it is in.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Everybody, and since when that was last said.
    pub members: BTreeMap<String, Instant>,
    /// The list showed all of them.
    pub complete: bool,
    /// Of a room that it made or joined.
    pub room_max: Option<u64>,
}

/// One client.
pub struct Peer {
    pub index: usize,
    pub key: String,
    pub fingerprint: String,
    /// Where it is connected, or was last.
    pub node: usize,
    /// Counts its registrations.
    pub session: u32,
    pub views: BTreeMap<String, View>,
    /// Namespaces that it owns.
    pub owns: BTreeSet<String>,
    /// Match requests that were not met, by namespace, and whether that is sure: a refusal may have been of something else.
    pub waiting: BTreeMap<String, bool>,
    state: State,
    asked: Option<Asked>,
    asked_at: Instant,
    sent: BTreeMap<(String, bool), u64>,
    random: StdRng,
    /// What it did and was told of what it is in, and when, for whoever has to find out why a promise was broken.
    story: VecDeque<(Instant, String)>,
}

impl Peer {
    fn new(index: usize, seed: u64, nodes: usize, now: Instant) -> Self {
        let key = format!("checker-{seed}-{index}");
        let digest = <sha2::Sha256 as sha2::Digest>::digest(key.as_bytes());
        Self {
            index,
            fingerprint: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            key,
            node: index % nodes,
            session: 0,
            views: BTreeMap::new(),
            owns: BTreeSet::new(),
            waiting: BTreeMap::new(),
            state: State::Away(now + Duration::from_millis(index as u64 * 3)),
            asked: None,
            asked_at: now,
            sent: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed << 16 | index as u64),
            story: VecDeque::new(),
        }
    }

    /// Adds a line to its story.
    fn note(&mut self, now: Instant, line: String) {
        if self.story.len() == STORY_MAX {
            self.story.pop_front();
        }
        self.story.push_back((now, line));
    }

    /// Its story in a namespace, of others only `about`; `began` is when the run did.
    pub fn story(&self, began: Instant, namespace: &str, about: &str) -> String {
        let mut lines = format!("\n    story of {} ({}):", self.index, short(&self.fingerprint));
        for (at, line) in &self.story {
            let of_it = line.contains(namespace) && (!line.starts_with("hears") || line.contains(about));
            if of_it || line.starts_with('*') {
                let at = at.saturating_duration_since(began).as_secs_f64();
                lines += &format!("\n      {at:.3} {line}");
            }
        }
        lines
    }

    /// Whether it is a peer now.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether it waits for an answer, and since when.
    pub fn unanswered(&self) -> Option<(&Asked, Instant)> {
        Some((self.asked.as_ref()?, self.asked_at))
    }

    /// Whether it is in there in its own eyes, and does not go.
    fn stays_in(&self, namespace: &str) -> bool {
        let goes = matches!(&self.asked, Some(Asked::Leave(name)) if name == namespace);
        self.is_open() && self.views.contains_key(namespace) && !goes
    }

    fn forget(&mut self) {
        self.views.clear();
        self.owns.clear();
        self.waiting.clear();
        self.asked = None;
        self.sent.clear();
    }

    fn send(&mut self, message: &Value) -> bool {
        let State::Open(socket) = &mut self.state else {
            return false;
        };
        match socket.send(Message::text(message.to_string())) {
            Ok(()) => true,
            // What the kernel does not take now is kept, and goes with the next flush.
            Err(tungstenite::Error::Io(error)) => error.kind() == io::ErrorKind::WouldBlock,
            Err(_) => false,
        }
    }

    /// Asks, with a ping behind it.
    fn ask(&mut self, asked: Asked, message: &Value, now: Instant) {
        self.send(message);
        self.send(&json!({"type": "ping"}));
        self.note(now, format!("asks {asked:?}"));
        self.asked = Some(asked);
        self.asked_at = now;
    }
}

impl Peer {
    fn answered(&mut self, is_it: impl FnOnce(&Asked) -> bool) {
        if self.asked.as_ref().is_some_and(is_it) {
            self.asked = None;
        }
    }

    /// Something was refused: perhaps what it asked.
    fn refused(&mut self, code: Option<u64>, why: &str) {
        if code == Some(503)
            && let Some(Asked::Match(arena)) = &self.asked
        {
            self.waiting.insert(arena.clone(), false);
        }
        let of_a_message = ["no shared namespace", "peer not found", "peer send buffer full"].contains(&why);
        if !of_a_message {
            self.answered(|asked| !matches!(asked, Asked::Leave(_) | Asked::Kick(..)));
        }
    }
}

/// All of them.
pub struct Crowd {
    pub peers: Vec<Peer>,
    /// Where each node is reached; None: it is not there.
    pub nodes: Vec<Option<SocketAddr>>,
    /// They act, and do not only listen.
    pub lively: bool,
    by_fingerprint: BTreeMap<String, usize>,
    random: StdRng,
}

impl Crowd {
    pub fn new(count: usize, seed: u64, nodes: Vec<Option<SocketAddr>>, now: Instant) -> Self {
        let peers: Vec<Peer> = (0..count)
            .map(|index| Peer::new(index, seed, nodes.len(), now))
            .collect();
        Self {
            by_fingerprint: peers
                .iter()
                .map(|peer| (peer.fingerprint.clone(), peer.index))
                .collect(),
            peers,
            nodes,
            lively: true,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// These clients' node is gone. Those with an even number do not come back before `until`, so that the others see them go.
    pub fn lose(&mut self, served: &BTreeSet<String>, until: Instant) {
        for peer in self.peers.iter_mut().filter(|peer| served.contains(&peer.fingerprint)) {
            if peer.index.is_multiple_of(2) {
                peer.forget();
                peer.state = State::Away(until);
            }
        }
    }

    /// They need not stay away any longer.
    pub fn let_back(&mut self, now: Instant) {
        for peer in &mut self.peers {
            if let State::Away(until) = &mut peer.state {
                *until = now.min(*until);
            }
        }
    }

    /// A room of a node that was cut off may have become another one of the same name, with other terms.
    pub fn forget_rooms(&mut self) {
        for peer in &mut self.peers {
            peer.owns.clear();
            peer.views.values_mut().for_each(|view| view.room_max = None);
        }
    }

    /// Whose fingerprint that is.
    pub fn index_of(&self, fingerprint: &str) -> Option<usize> {
        self.by_fingerprint.get(fingerprint).copied()
    }

    /// What each client believes of each namespace that it is in.
    pub fn views(&self) -> impl Iterator<Item = (&Peer, &str, &View)> {
        let open = self.peers.iter().filter(|peer| peer.is_open());
        open.flat_map(|peer| peer.views.iter().map(move |(name, view)| (peer, name.as_str(), view)))
    }

    /// A client and its node, for a violation.
    pub fn name(&self, fingerprint: &str) -> String {
        match self.index_of(fingerprint).map(|index| &self.peers[index]) {
            Some(peer) => format!("{} (on node {})", peer.index, peer.node),
            None => "a stranger".to_owned(),
        }
    }

    /// What one has to do with the other in a namespace, in both their words.
    pub fn stories_of(&self, began: Instant, index: usize, other: &str, namespace: &str) -> String {
        let own = self.peers[index].story(began, namespace, short(other));
        let other = self
            .index_of(other)
            .map(|other| self.peers[other].story(began, namespace, "?"));
        own + &other.unwrap_or_default()
    }

    /// One round: everybody hears what has come; some act.
    pub fn turn(&mut self, checks: &mut Checks) {
        let now = Instant::now();
        for index in 0..self.peers.len() {
            self.serve(index, now, checks);
        }
        if self.lively {
            for _ in 0..3 {
                let index = self.random.random_range(0..self.peers.len());
                self.act(index, now, checks);
            }
        }
    }

    fn serve(&mut self, index: usize, now: Instant, checks: &mut Checks) {
        let peer = &mut self.peers[index];
        let state = std::mem::replace(&mut peer.state, State::Away(now));
        peer.state = match state {
            State::Away(until) if until > now => State::Away(until),
            State::Away(_) => {
                peer.node = peer.random.random_range(0..self.nodes.len());
                match self.nodes[peer.node].and_then(open) {
                    Some(opening) => State::Opening(Some(Box::new(opening)), now),
                    None => State::Away(now + Duration::from_millis(200)),
                }
            }
            State::Opening(_, since) if now - since > PATIENCE => State::Away(now),
            State::Opening(None, _) => State::Away(now),
            State::Opening(Some(opening), since) => match opening.handshake() {
                Ok((mut socket, _)) => {
                    let alias = format!("a{}", peer.index);
                    let register =
                        json!({"type": "register", "payload": {"public_key": peer.key, "alias": alias}}).to_string();
                    let _ = socket.send(Message::text(register));
                    State::Registering(socket, now)
                }
                Err(HandshakeError::Interrupted(opening)) => State::Opening(Some(Box::new(opening)), since),
                Err(HandshakeError::Failure(_)) => State::Away(now + Duration::from_millis(100)),
            },
            State::Registering(_, since) if now - since > PATIENCE => State::Away(now),
            state => state,
        };
        loop {
            let peer = &mut self.peers[index];
            let (State::Open(socket) | State::Registering(socket, _)) = &mut peer.state else {
                return;
            };
            match socket.read() {
                Ok(Message::Text(text)) => {
                    let message: Value = serde_json::from_str(text.as_str()).expect("the server sends JSON");
                    self.hear(index, &message, now, checks);
                }
                Ok(Message::Close(frame)) => {
                    let code = frame.map_or(1005, |frame| u16::from(frame.code));
                    checks.closed(code, now);
                    peer.note(now, format!("* closed with {code}"));
                    peer.forget();
                    peer.state = State::Away(now + Duration::from_millis(50));
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = socket.flush();
                    return;
                }
                Err(_) => {
                    checks.closed(1006, now);
                    peer.note(now, "* broken".to_owned());
                    peer.forget();
                    peer.state = State::Away(now + Duration::from_millis(50));
                }
            }
        }
    }

    fn hear(&mut self, index: usize, message: &Value, now: Instant, checks: &mut Checks) {
        let peer = &mut self.peers[index];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let payload = &message["payload"];
        match message["type"].as_str().unwrap_or_default() {
            "registered" => {
                if let State::Registering(socket, _) = std::mem::replace(&mut peer.state, State::Away(now)) {
                    peer.state = State::Open(socket);
                }
                peer.session += 1;
                peer.note(now, format!("* registered on node {}", peer.node));
                checks.served(peer.node, now);
            }
            "pong" => match peer.asked.take() {
                Some(Asked::Leave(name)) => {
                    peer.views.remove(&name);
                    peer.waiting.remove(&name);
                    peer.note(now, format!("left {name}"));
                }
                Some(Asked::Kick(..)) => {}
                other => peer.asked = other,
            },
            "error" => {
                checks.error(payload, now);
                if let Some(asked) = &peer.asked {
                    let line = format!("told {} while it asks {asked:?}", payload["message"]);
                    peer.note(now, line);
                }
                peer.refused(
                    payload["code"].as_u64(),
                    payload["message"].as_str().unwrap_or_default(),
                );
            }
            "peer_list" => {
                let namespace = text(&payload["namespace"]);
                let listed = payload["peers"].as_array().cloned().unwrap_or_default();
                let members = listed.iter().map(|info| (text(&info["fingerprint"]), now)).collect();
                let view = View {
                    members,
                    complete: listed.len() as u64 == payload["total"].as_u64().unwrap_or(0),
                    room_max: None,
                };
                checks.served(peer.node, now);
                let listed: Vec<&str> = view.members.keys().map(|who| short(who)).collect();
                peer.note(now, format!("is in {namespace} with {listed:?}"));
                checks.listed(peer, &namespace, &view);
                peer.views.insert(namespace, view);
                peer.answered(|asked| matches!(asked, Asked::Join(_) | Asked::JoinRoom(_)));
            }
            "room_created" => {
                let room = text(&payload["room_id"]);
                let view = View {
                    members: BTreeMap::from([(peer.fingerprint.clone(), now)]),
                    complete: true,
                    room_max: payload["max_size"].as_u64(),
                };
                peer.note(now, format!("made {room}"));
                peer.views.insert(room.clone(), view);
                peer.owns.insert(room);
                peer.answered(|asked| matches!(asked, Asked::Create(..)));
            }
            "peer_joined" => {
                let (namespace, who) = (text(&message["namespace"]), text(&message["from"]));
                peer.note(now, format!("hears that {} joined {namespace}", short(&who)));
                checks.joined(peer, &namespace, &who, now);
                if let Some(view) = peer.views.get_mut(&namespace) {
                    view.members.insert(who, now);
                    checks.crowded(index, &namespace, view);
                }
            }
            "peer_left" => {
                let (namespace, who) = (text(&message["namespace"]), text(&message["from"]));
                peer.note(now, format!("hears that {} left {namespace}", short(&who)));
                checks.left(peer, &namespace, &who, now);
                if let Some(view) = peer.views.get_mut(&namespace) {
                    view.members.remove(&who);
                }
                let who = self.by_fingerprint.get(&who).map(|index| &self.peers[*index]);
                let stays = who.filter(|who| namespace.starts_with('n') && who.stays_in(&namespace));
                if let Some(who) = stays {
                    checks.left_and_stays(index, &namespace, &who.fingerprint, now);
                }
            }
            "kick" => {
                let room = text(&payload["room_id"]);
                peer.note(now, format!("is put out of {room}"));
                peer.views.remove(&room);
                peer.waiting.remove(&room);
            }
            "match" => {
                if let Some(Asked::Match(namespace)) = &peer.asked {
                    let line = format!("waits in {namespace}");
                    peer.note(now, line);
                }
                peer.answered(|asked| matches!(asked, Asked::Match(_)));
            }
            "matched" => {
                let namespace = text(&payload["namespace"]);
                peer.answered(|asked| matches!(asked, Asked::Match(own) if *own == namespace));
                let waited = peer.waiting.remove(&namespace).is_some();
                peer.note(now, format!("is matched in {namespace}: {}", payload["session_id"]));
                checks.matched(peer, &namespace, payload, waited);
            }
            "signal" | "relay" => {
                let (to, from) = (text(&message["to"]), text(&message["from"]));
                let sender = self.by_fingerprint.get(&from).copied();
                checks.direct(&self.peers[index], sender, &to, payload);
            }
            "broadcast" => {
                let from = text(&message["from"]);
                let sender = self.by_fingerprint.get(&from).copied();
                checks.broadcast(
                    &self.peers[index],
                    sender,
                    &text(&message["namespace"]),
                    &payload["data"],
                );
            }
            other => panic!("the server sent {other:?}"),
        }
    }

    /// A client does something by chance.
    fn act(&mut self, index: usize, now: Instant, checks: &mut Checks) {
        let nodes = self.nodes.len();
        let peer = &mut self.peers[index];
        if !peer.is_open() {
            return;
        }
        let dice: u32 = peer.random.random_range(0..1000);
        if dice < 550 {
            return self.talk(index, checks);
        }
        if peer.asked.is_some() {
            return;
        }
        let number = |random: &mut StdRng, count: usize| random.random_range(0..count);
        match dice {
            550..700 if peer.views.len() < 4 => {
                let name = format!("n{}", number(&mut peer.random, NAMESPACES));
                if !peer.views.contains_key(&name) {
                    let message = json!({"type": "join", "payload": {"namespace": name}});
                    peer.ask(Asked::Join(name), &message, now);
                }
            }
            700..760 => {
                if let Some(name) = peer.views.keys().choose(&mut peer.random).cloned() {
                    let message = json!({"type": "leave", "payload": {"namespace": name}});
                    peer.ask(Asked::Leave(name), &message, now);
                }
            }
            760..800 if peer.views.len() < 5 => {
                let room = format!("r{}", number(&mut peer.random, ROOMS));
                let max_size = peer.random.random_range(2..5);
                if !peer.views.contains_key(&room) {
                    let message = json!({"type": "create_room", "payload": {"room_id": room, "max_size": max_size}});
                    peer.ask(Asked::Create(room, max_size), &message, now);
                }
            }
            800..880 if peer.views.len() < 5 => {
                let room = format!("r{}", number(&mut peer.random, ROOMS));
                if !peer.views.contains_key(&room) {
                    let message = json!({"type": "join_room", "payload": {"room_id": room}});
                    peer.ask(Asked::JoinRoom(room), &message, now);
                }
            }
            880..950 => {
                let arena = format!("m{}", number(&mut peer.random, ARENAS));
                if !peer.waiting.contains_key(&arena) {
                    let size = if arena.ends_with(['0', '1']) { 3 } else { 2 };
                    checks.asks_match(&peer.fingerprint, &arena);
                    let message = json!({"type": "match", "payload": {"namespace": arena, "group_size": size}});
                    peer.waiting.insert(arena.clone(), true);
                    peer.ask(Asked::Match(arena), &message, now);
                }
            }
            950..970 => {
                let room = peer
                    .owns
                    .iter()
                    .filter(|room| peer.views.contains_key(*room))
                    .choose(&mut peer.random);
                let Some(room) = room.cloned() else { return };
                let target = peer.views[&room].members.keys().choose(&mut peer.random).cloned();
                if let Some(target) = target.filter(|target| *target != peer.fingerprint) {
                    let message = json!({"type": "kick", "payload": {"room_id": room, "fingerprint": target}});
                    peer.ask(Asked::Kick(room, target), &message, now);
                }
            }
            970..985 => {
                // The connection breaks; or the same key comes again elsewhere, while the old session is still open.
                peer.note(
                    now,
                    format!(
                        "* goes without a word, its connection left open: {}",
                        dice.is_multiple_of(2)
                    ),
                );
                peer.forget();
                peer.node = peer.random.random_range(0..nodes);
                let earlier = std::mem::replace(&mut peer.state, State::Away(now));
                if dice.is_multiple_of(2)
                    && let State::Open(socket) = earlier
                {
                    checks.leave_open(socket);
                }
            }
            _ => {}
        }
    }

    /// A signal, relay or broadcast, with what its receiver needs to check it.
    fn talk(&mut self, index: usize, checks: &mut Checks) {
        let peer = &mut self.peers[index];
        let Some((name, view)) = peer.views.iter().choose(&mut peer.random) else {
            return;
        };
        let name = name.clone();
        let roll = peer.random.random_range(0..10);
        if roll == 0 {
            let number = peer.sent.entry((name.clone(), true)).or_default();
            *number += 1;
            let data = json!({"from": index, "session": peer.session, "number": *number});
            let message = json!({"type": "broadcast", "payload": {"namespace": name, "data": data}});
            peer.send(&message);
            return checks.sent(1);
        }
        let Some(to) = view.members.keys().choose(&mut peer.random).cloned() else {
            return;
        };
        let number = peer.sent.entry((to.clone(), false)).or_default();
        *number += 1;
        let kind = if roll < 6 { "signal" } else { "relay" };
        let payload = json!({"from": index, "session": peer.session, "to": to, "number": *number});
        let message = json!({"type": kind, "to": to, "payload": payload});
        peer.send(&message);
        checks.sent(1);
    }
}

/// What a fingerprint is called in what is told of a run.
pub fn short(fingerprint: &str) -> &str {
    fingerprint.get(..8).unwrap_or(fingerprint)
}

/// Begins to connect.
fn open(address: SocketAddr) -> Option<MidHandshake<ClientHandshake<TcpStream>>> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_nonblocking(true).ok()?;
    match tungstenite::client(format!("ws://{address}/ws"), stream) {
        Err(HandshakeError::Interrupted(opening)) => Some(opening),
        // Not even loopback is that fast.
        Ok(_) | Err(HandshakeError::Failure(_)) => None,
    }
}
