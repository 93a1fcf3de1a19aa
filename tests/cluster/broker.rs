//! A broker that is the test itself: it answers the commands of one node, and speaks for the other nodes.
//!
//! Owns: the other ends of the links of a server in this process, rosters as far as these tests need them, and the thread that
//! answers. Commands that the test wants to answer by itself wait until it does.
//! Never: decides what is right; refuses nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use peer_server::broker::{Channel, Queues, Routes};
use peer_server::codec::node_traffic::{self, Frame, Home};
use peer_server::config::Config;
use peer_server::ids::{CommandId, Fingerprint, NamespaceId, NodeNo, SessionId};
use peer_server::message::cluster::{Change, Command, Event, Member, Reply, Roster, What};
use peer_server::message::{Meta, PeerInfo};
use peer_server::server::{Server, Service, Substitutes};
use serde_json::json;

use crate::support::{ANSWER_WITHIN, Client, ConnectOptions, http};

/// A node in this process with a test for its broker. Dropping it stops it.
pub(crate) struct Node {
    server: Option<Server>,
    pub(crate) addr: SocketAddr,
    queues: Arc<Queues>,
    routes: Routes,
    broker: Arc<Mutex<Broker>>,
    stopping: Arc<AtomicBool>,
    answering: Option<JoinHandle<()>>,
    /// What was heard on the way to other nodes and not asked for yet.
    heard: Vec<(NodeNo, Vec<u8>)>,
}

/// What the broker knows.
#[derive(Default)]
struct Broker {
    rosters: BTreeMap<NamespaceId, Roster>,
    versions: u64,
    places: BTreeMap<Fingerprint, NodeNo>,
    sessions: BTreeMap<Fingerprint, SessionId>,
    /// What was asked, in order.
    asked: Vec<Command>,
    withheld: Option<fn(&What) -> bool>,
    waiting: Vec<Command>,
}

impl Node {
    pub(crate) fn start(loops: usize) -> Self {
        Self::with(loops, |_| {})
    }

    pub(crate) fn with(loops: usize, alter: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            host: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            port: 0,
            loops,
            pin_cores: false,
            metrics_enabled: false,
            rate_limit_per_sec: 0,
            ..Config::default()
        };
        alter(&mut config);
        let (ends, taken) = mpsc::channel();
        let substitutes = Substitutes {
            broker: Some(Box::new(move |queues, routes| ends.send((queues, routes)).unwrap())),
            ..Substitutes::default()
        };
        let server = Server::start_with(&config, Service::Peers, substitutes).unwrap();
        let (queues, routes) = taken.recv().unwrap();
        let (queues, broker) = (Arc::new(queues), Arc::new(Mutex::new(Broker::default())));
        let stopping = Arc::new(AtomicBool::new(false));
        let answering = thread::spawn({
            let (queues, routes, broker, stopping) = (queues.clone(), routes.clone(), broker.clone(), stopping.clone());
            move || {
                while !stopping.load(Ordering::Relaxed) {
                    if let Some(command) = queues.next_command(Duration::from_millis(20)) {
                        locked(&broker).on_command(command, &routes);
                    }
                }
            }
        });
        queues.set_up(true);
        let node = Self {
            addr: server.addresses()[0],
            server: Some(server),
            queues,
            routes,
            broker,
            stopping,
            answering: Some(answering),
            heard: Vec::new(),
        };
        node.tell_all(&Event::Up);
        node
    }

    /// A client that is registered with that key, on this node.
    pub(crate) fn peer(&self, key: &str) -> Peer {
        let client = Client::connect(self.addr, ConnectOptions::default());
        self.register(client, key)
    }

    pub(crate) fn register(&self, mut client: Client, key: &str) -> Peer {
        client.send_json(&json!({ "type": "register", "payload": { "public_key": key } }));
        let registered = client.recv_json();
        assert_eq!(registered["type"], "registered", "{registered}");
        let fingerprint = Fingerprint::of_key(key);
        let session = locked(&self.broker).sessions[&fingerprint];
        Peer {
            client,
            fingerprint,
            session,
        }
    }

    /// A member of that namespace on another node.
    pub(crate) fn remote_member(&self, node: NodeNo, key: &str, namespace: &str) -> Fingerprint {
        let fingerprint = Fingerprint::of_key(key);
        let namespace = self.routes.homes().namespace(namespace);
        let member = Member {
            node: Some(node),
            session: SessionId::from_u64(1),
            info: info(fingerprint),
        };
        let mut broker = locked(&self.broker);
        broker.places.insert(fingerprint, node);
        broker.enter(namespace, member, &self.routes);
        fingerprint
    }

    pub(crate) fn namespace(&self, name: &str) -> [u8; 16] {
        self.routes.homes().namespace(name).to_bytes()
    }

    pub(crate) fn is_at(&self, fingerprint: Fingerprint, node: Option<NodeNo>) {
        let mut broker = locked(&self.broker);
        match node {
            Some(node) => broker.places.insert(fingerprint, node),
            None => broker.places.remove(&fingerprint),
        };
    }

    /// Commands of this kind wait for [`Node::answer`].
    pub(crate) fn withhold(&self, which: fn(&What) -> bool) {
        locked(&self.broker).withheld = Some(which);
    }

    /// Waits until so many commands are withheld.
    pub(crate) fn await_withheld(&self, count: usize) {
        let deadline = Instant::now() + ANSWER_WITHIN;
        while locked(&self.broker).waiting.len() < count {
            assert!(Instant::now() < deadline, "the node does not ask");
            thread::yield_now();
        }
    }

    /// Answers what was withheld, and nothing is from here on.
    pub(crate) fn answer(&self) {
        let mut broker = locked(&self.broker);
        broker.withheld = None;
        for command in std::mem::take(&mut broker.waiting) {
            broker.answer(command, &self.routes);
        }
    }

    /// How often the broker was asked where that peer is.
    pub(crate) fn times_sought(&self, whom: Fingerprint) -> usize {
        let seeks = |command: &&Command| matches!(command.what, What::Find { fingerprint } if fingerprint == whom);
        locked(&self.broker).asked.iter().filter(seeks).count()
    }

    /// The broker is lost, and every loop knows.
    pub(crate) fn lose_broker(&self) {
        self.queues.set_up(false);
        self.tell_all(&Event::Down);
    }

    /// Every loop is told, and has heard it.
    fn tell_all(&self, event: &Event) {
        self.routes.tell_all(event);
        // The page is gathered from all loops.
        assert_eq!(http(self.addr, "GET", "/stats", &[]).status, 200);
    }

    /// Another node sends frames.
    pub(crate) fn hears(&self, from: NodeNo, frames: &[u8]) {
        for (home, frame) in node_traffic::split(frames) {
            let event = Event::Traffic {
                from,
                frames: frame.to_vec(),
            };
            match home {
                Home::Key(key) => {
                    let home = self.routes.homes().of_fingerprint(&Fingerprint::from_bytes(*key));
                    while self.routes.pass(home, event.clone()).is_err() {
                        thread::yield_now();
                    }
                }
                Home::Everyone => self.routes.tell_all(&event),
            }
        }
    }

    /// The next frame that is sent to that node, as `look` has it.
    pub(crate) fn sent_to<T>(&mut self, node: NodeNo, look: impl FnOnce(Frame<'_>) -> T) -> T {
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            if let Some(at) = self.heard.iter().position(|(to, _)| *to == node) {
                let (_, frame) = self.heard.remove(at);
                return look(node_traffic::read(&frame).next().unwrap().unwrap());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let (to, bytes) = self.queues.next_traffic(left).expect("something must be sent");
            self.keep(to, bytes);
        }
    }

    /// The same if there is one already.
    pub(crate) fn try_sent_to<T>(&mut self, node: NodeNo, look: impl FnOnce(Frame<'_>) -> T) -> Option<T> {
        self.keep_all();
        let there = self.heard.iter().any(|(to, _)| *to == node);
        there.then(|| self.sent_to(node, look))
    }

    /// Nothing was sent that was not asked for.
    pub(crate) fn expect_nothing_sent(&mut self) {
        self.keep_all();
        assert!(self.heard.is_empty(), "{:?}", self.heard);
    }

    fn keep_all(&mut self) {
        while let Some((to, bytes)) = self.queues.next_traffic(Duration::ZERO) {
            self.keep(to, bytes);
        }
    }

    fn keep(&mut self, to: Channel, bytes: Vec<u8>) {
        let Channel::Node(to) = to else {
            panic!("{to:?} is no node")
        };
        let frames = node_traffic::split(&bytes).map(|(_, frame)| (to, frame.to_vec()));
        self.heard.extend(frames);
        self.queues.recycle(bytes);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.take().unwrap().stop();
        self.stopping.store(true, Ordering::Relaxed);
        let _ = self.answering.take().unwrap().join();
    }
}

impl Broker {
    fn on_command(&mut self, command: Command, routes: &Routes) {
        self.asked.push(command.clone());
        match self.withheld {
            Some(withheld) if withheld(&command.what) => self.waiting.push(command),
            _ => self.answer(command, routes),
        }
    }

    fn answer(&mut self, Command { id, what }: Command, routes: &Routes) {
        let reply = match what {
            What::Register { who, .. } => {
                self.sessions.insert(who.fingerprint, who.session);
                Reply::Registered { alias: Some(0) }
            }
            What::Find { fingerprint } => Reply::Found(self.places.get(&fingerprint).copied()),
            What::Resolve { .. } => Reply::Resolved(None),
            What::Join {
                who,
                namespace,
                info,
                roster,
                ..
            } => {
                let member = Member {
                    node: None,
                    session: who.session,
                    info,
                };
                let version = self.enter(namespace, member, routes);
                let roster = roster.then(|| Box::new(self.rosters[&namespace].clone()));
                Reply::Joined { version, roster }
            }
            What::Leave { .. } | What::End { .. } | What::Show { .. } | What::Kick { .. } => Reply::Done,
            other => panic!("these tests do without {other:?}"),
        };
        tell(routes, id, reply);
    }

    /// A new member: its node hears of it, whichever that is.
    fn enter(&mut self, namespace: NamespaceId, member: Member, routes: &Routes) -> u64 {
        self.versions += 1;
        let version = self.versions;
        let roster = self.rosters.entry(namespace).or_default();
        roster.version = version;
        roster.members.push(member.clone());
        let change = Change::Joined { member, room: None };
        let event = Event::Changed {
            namespace,
            version,
            change,
        };
        routes.tell(routes.homes().of_namespace(namespace), event);
        version
    }
}

fn tell(routes: &Routes, id: CommandId, reply: Reply) {
    routes.tell(id.loop_id(), Event::Replied { id, reply });
}

fn info(fingerprint: Fingerprint) -> Arc<PeerInfo> {
    Arc::new(PeerInfo {
        fingerprint,
        alias: "somebody-else-01".into(),
        app_type: "".into(),
        meta: Meta::default(),
    })
}

/// A registered client.
pub(crate) struct Peer {
    pub(crate) client: Client,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) session: SessionId,
}

impl Peer {
    pub(crate) fn hex(&self) -> String {
        hex(self.fingerprint)
    }

    /// Joins, and has heard of everybody who was there.
    pub(crate) fn join(&mut self, namespace: &str) {
        self.client
            .send_json(&json!({ "type": "join", "payload": { "namespace": namespace } }));
        self.await_type("peer_list");
    }

    /// Everything up to the first message of this type is passed over.
    pub(crate) fn await_type(&mut self, kind: &str) -> serde_json::Value {
        loop {
            let message = self.client.recv_json();
            if message["type"] == kind {
                return message;
            }
            let kind = message["type"].as_str().unwrap();
            assert!(["peer_joined", "peer_left"].contains(&kind), "{message}");
        }
    }

    pub(crate) fn signal(&self, to: Fingerprint, payload: &serde_json::Value) {
        self.client
            .send_json(&json!({ "type": "signal", "to": hex(to), "payload": payload }));
    }

    /// Its next message is this refusal.
    pub(crate) fn expect_error(&mut self, code: u16, text: &str) {
        let error = self.await_type("error");
        assert_eq!(error["payload"], json!({ "code": code, "message": text }));
    }

    /// Whatever was on its way to it is here, and nothing was.
    pub(crate) fn expect_silence(&mut self) {
        self.client.send_json(&json!({ "type": "ping" }));
        self.await_type("pong");
    }
}

pub(crate) fn hex(fingerprint: Fingerprint) -> String {
    String::from_utf8(fingerprint.hex().to_vec()).unwrap()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
