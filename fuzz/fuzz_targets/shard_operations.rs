//! Shards as a state machine: any sequence of inputs, mail in any delay that the order of one inbox allows.
//!
//! Input: one byte for the number of loops and the limits, then operations of a few bytes each.
//! Property: invariants hold after every input, every connection is told things in an order that makes sense, and nothing
//! is left when everybody is gone.
#![no_main]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use peer_server::ids::{ConnId, Fingerprint, Homes, LoopId, NamespaceId};
use peer_server::message::{CriteriaKey, DirectKind, Event, Meta, Register, Request};
use peer_server::shard::{
    DirectMail, FanOutMail, Held, HeldKind, Limits, Mail, Output, PeerKey, Permits, Rate, Route, Shard, Snapshot,
    Unresolved,
};

const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const ALIASES: [&str; 4] = ["", "", "same", "other"];
const NAMES: [&str; 4] = ["one", "two", "three", "four"];

fuzz_target!(|data: &[u8]| {
    let Some((setup, operations)) = data.split_first() else {
        return;
    };
    let mut world = World::new(*setup);
    let mut input = operations.iter().copied();
    while let Some(operation) = input.next() {
        world.operate(operation, &mut input);
    }
    world.end();
});

enum Phase {
    Registering,
    Peer(PeerKey),
}

struct Conn {
    at: usize,
    key: usize,
    phase: Phase,
    /// It asked something and was not told to go on.
    paused: bool,
}

/// What travels from one loop to another.
enum Delivery {
    Control(Mail),
    Direct(DirectMail, Vec<NamespaceId>),
    FanOut(FanOutMail),
}

struct World {
    homes: Homes,
    permits: Arc<Permits>,
    shards: Vec<Shard>,
    /// Mail that a loop has made and not yet pushed, in the order made.
    outboxes: Vec<VecDeque<(usize, Delivery)>>,
    inboxes: Vec<VecDeque<Delivery>>,
    conns: BTreeMap<ConnId, Conn>,
    conns_made: u32,
    now_ms: u64,
}

impl World {
    fn new(setup: u8) -> Self {
        let loops = 1 + u16::from(setup & 3).min(2);
        let homes = Homes::new(loops, [1, 2, 3, 4]);
        let tight = setup & 4 != 0;
        let limits = Arc::new(Limits {
            max_peers: if tight { 4 } else { 100 },
            max_rooms: if tight { 1 } else { 100 },
            max_match_waiting: if tight { 2 } else { 100 },
            messages: None,
            deliveries: Rate::new(if tight { 2 } else { 0 }, 3),
            send_buffer_size: if tight { 1 } else { 32 },
            send_buffer_bytes: if tight { 400 } else { 1 << 16 },
            state_bytes: if setup & 8 != 0 { 3000 } else { usize::MAX },
        });
        let permits = Arc::new(Permits::default());
        let shard = |index| {
            Shard::new(
                LoopId::new(index),
                homes.clone(),
                limits.clone(),
                permits.clone(),
                [index as u8; 32],
            )
        };
        Self {
            shards: (0..loops).map(shard).collect(),
            outboxes: (0..loops).map(|_| VecDeque::new()).collect(),
            inboxes: (0..loops).map(|_| VecDeque::new()).collect(),
            conns: BTreeMap::new(),
            conns_made: 0,
            now_ms: 1_000,
            homes,
            permits,
        }
    }

    fn operate(&mut self, operation: u8, input: &mut impl Iterator<Item = u8>) {
        let loops = self.shards.len();
        let mut next = || usize::from(input.next().unwrap_or(0));
        match operation % 16 {
            0..=2 => self.push(next() % loops),
            3..=5 => self.deliver(next() % loops),
            6 => self.register(next() % KEYS.len(), next()),
            7 => {
                if let Some(conn) = self.pick(next()) {
                    self.hang_up(conn);
                }
            }
            8..=11 => {
                if let Some((conn, peer)) = self.pick_peer(next()) {
                    self.request(conn, peer, next(), next());
                }
            }
            12 => {
                if let Some((conn, peer)) = self.pick_peer(next()) {
                    self.direct(conn, peer, next() % KEYS.len(), next());
                }
            }
            13 => {
                if let Some((conn, peer)) = self.pick_peer(next()) {
                    self.by_alias(conn, peer, next());
                }
            }
            14 => {
                if let Some((conn, peer)) = self.pick_peer(next()) {
                    self.broadcast(conn, peer, next());
                }
            }
            _ => self.now_ms += next() as u64 * 10,
        }
    }

    /// Everybody goes, all mail arrives, nothing is left.
    fn end(mut self) {
        let conns: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn in conns {
            if self.conns.contains_key(&conn) {
                self.hang_up(conn);
            }
        }
        // Each round hands on all that is there; an answer to an answer to an answer is the longest chain.
        for _ in 0..10_000 {
            if self.outboxes.iter().all(VecDeque::is_empty) && self.inboxes.iter().all(VecDeque::is_empty) {
                break;
            }
            for at in 0..self.shards.len() {
                (0..self.outboxes[at].len()).for_each(|_| self.push(at));
                (0..self.inboxes[at].len()).for_each(|_| self.deliver(at));
            }
        }
        for shard in &self.shards {
            assert_eq!(shard.snapshot(), Snapshot::default(), "nothing is left");
            assert_eq!(shard.state_bytes(), 0, "no byte is left");
            assert_eq!(shard.census().open_sums, 0, "no sum stays open");
        }
        let Permits {
            registered,
            rooms,
            match_waiting,
            ..
        } = &*self.permits;
        assert_eq!(
            [registered, rooms, match_waiting].map(|count| count.now()),
            [0; 3],
            "every permit is back"
        );
    }

    fn push(&mut self, from: usize) {
        if let Some((to, delivery)) = self.outboxes[from].pop_front() {
            self.inboxes[to].push_back(delivery);
        }
    }

    fn deliver(&mut self, at: usize) {
        match self.inboxes[at].pop_front() {
            Some(Delivery::Control(mail)) => self.shards[at].handle_mail(mail),
            Some(Delivery::Direct(mail, shares)) => self.arrive(at, &mail, &shares),
            Some(Delivery::FanOut(mail)) => {
                let refused = self.fan_out(at, &mail);
                self.shards[at].answer_fan_out(&mail, refused);
            }
            None => return,
        }
        self.drain(at);
    }

    fn register(&mut self, key: usize, alias: usize) {
        let fingerprint = Fingerprint::of_key(KEYS[key]);
        let at = self.homes.of_fingerprint(&fingerprint).index();
        self.conns_made += 1;
        // Slots are used again with another generation, as a slab does.
        let conn = ConnId::new(self.conns_made % 7, self.conns_made);
        self.conns.insert(
            conn,
            Conn {
                at,
                key,
                phase: Phase::Registering,
                paused: false,
            },
        );
        let mut meta = Meta::default();
        if alias & 0x80 != 0 {
            meta.set("\"m\"", "[1,2,3]");
        }
        let alias = ALIASES[alias % ALIASES.len()].into();
        self.shards[at].register(
            conn,
            Register {
                fingerprint,
                alias,
                meta,
            },
        );
        self.drain(at);
    }

    fn hang_up(&mut self, conn: ConnId) {
        let Some(Conn { at, key, phase, .. }) = self.conns.remove(&conn) else {
            return;
        };
        match phase {
            Phase::Registering => self.shards[at].abandon_registration(conn, &Fingerprint::of_key(KEYS[key])),
            Phase::Peer(peer) => self.shards[at].close(peer),
        }
        self.drain(at);
    }

    fn request(&mut self, conn: ConnId, peer: PeerKey, what: usize, detail: usize) {
        let name = NAMES[detail % NAMES.len()];
        let mut meta = Meta::default();
        if detail & 0x40 != 0 {
            meta.set(
                "\"j\"",
                if detail & 0x20 != 0 {
                    "\"longer than before\""
                } else {
                    "0"
                },
            );
        }
        let app_type = if detail & 0x10 != 0 { "chess" } else { "" };
        let request = match what % 12 {
            0..=2 => Request::Join {
                namespace: name,
                app_type,
                meta,
            },
            3 => Request::Leave { namespace: name },
            4 => Request::Discover {
                namespace: name,
                limit: 1 + detail as u32 % 3,
            },
            5 | 6 => Request::Match {
                namespace: name,
                group_size: 2 + (detail as u32 >> 2) % 2,
                criteria: CriteriaKey([(detail >> 4) as u8 % 2; 32]),
            },
            7 => Request::CreateRoom {
                room: name,
                max_size: 1 + (detail as u32 >> 2) % 4,
            },
            8 => Request::JoinRoom { room: name },
            9 => Request::RoomInfo { room: name },
            10 => Request::Kick {
                room: name,
                target: KEYS.get(detail >> 2 & 15).map(|key| Fingerprint::of_key(key)),
            },
            _ => Request::Metadata { update: meta },
        };
        let at = self.conns[&conn].at;
        self.shards[at].handle_request(peer, request);
        self.after_request(conn, peer);
    }

    fn after_request(&mut self, conn: ConnId, peer: PeerKey) {
        let at = self.conns[&conn].at;
        // Before the outputs are drained: an answer that came at once resumes it again.
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.paused = true;
        }
        self.drain(at);
        if let Some(conn) = self.conns.get_mut(&conn) {
            let waits = self.shards[at].is_waiting(peer);
            assert!(!waits || conn.paused, "what waits was not told to go on");
            conn.paused = waits;
        }
    }

    fn direct(&mut self, conn: ConnId, from: PeerKey, to: usize, about: usize) {
        let at = self.conns[&conn].at;
        let about = NAMES.get(about % 8).map(|name| self.homes.namespace(name));
        self.send(at, from, &Fingerprint::of_key(KEYS[to]), DirectKind::Signal, about);
        self.drain(at);
    }

    fn by_alias(&mut self, conn: ConnId, from: PeerKey, alias: usize) {
        let at = self.conns[&conn].at;
        let message = Unresolved {
            kind: DirectKind::Relay,
            alias: "".into(),
            about_name: None,
            about: None,
            payload: Some("1".into()),
        };
        self.shards[at].resolve_alias(from, ["same", "other", "nobody", ""][alias % 4], Box::new(message));
        self.after_request(conn, from);
    }

    /// What the event loop does with a signal or relay whose target is known.
    fn send(&mut self, at: usize, from: PeerKey, to: &Fingerprint, kind: DirectKind, about: Option<NamespaceId>) {
        let Some((fingerprint, session)) = self.shards[at].identity(from) else {
            return;
        };
        let shares: Vec<NamespaceId> = self.shards[at].shares(from).collect();
        assert!(shares.is_sorted(), "shares ascend");
        match self.shards[at].route(from, to, about) {
            Route::Local { conn, .. } => self.expect_peer(at, conn),
            Route::Hold { peer } => {
                let held = Held {
                    what: HeldKind::Direct(kind, shares.into(), about),
                    from: fingerprint,
                    session,
                    origin: LoopId::new(at as u16),
                    to: *to,
                    name: about.map(|_| "name".into()),
                    payload: Some("{}".into()),
                };
                if let Err(refusal) = self.shards[at].hold(peer, Box::new(held)) {
                    self.shards[at].tell_refusal(from, refusal);
                }
            }
            Route::Loop {
                to: target,
                about: known,
            } => {
                let mail = DirectMail {
                    kind,
                    from: fingerprint,
                    session,
                    origin: LoopId::new(at as u16),
                    to: *to,
                    shares: 0..0,
                    about: about.filter(|_| known),
                    about_name: 0..0,
                    payload: None,
                };
                self.outboxes[at].push_back((target.index(), Delivery::Direct(mail, shares)));
            }
            Route::Refused(refusal) => self.shards[at].tell_refusal(from, refusal),
            Route::Away { .. } | Route::Ask { .. } => panic!("there is one node"),
        }
    }

    /// What the event loop does with a signal or relay from another one.
    fn arrive(&mut self, at: usize, mail: &DirectMail, shares: &[NamespaceId]) {
        let refused = match self.shards[at].receive(mail, shares.iter().copied()) {
            Route::Local { conn, .. } => {
                self.expect_peer(at, conn);
                None
            }
            Route::Hold { peer } => {
                let held = Held {
                    what: HeldKind::Direct(mail.kind, shares.into(), mail.about),
                    from: mail.from,
                    session: mail.session,
                    origin: mail.origin,
                    to: mail.to,
                    name: None,
                    payload: None,
                };
                self.shards[at].hold(peer, Box::new(held)).err()
            }
            Route::Refused(refusal) => Some(refusal),
            Route::Away { .. } | Route::Ask { .. } => panic!("there is one node"),
            Route::Loop { .. } => panic!("what was sent to a key's home is at its home"),
        };
        if let Some(refusal) = refused {
            self.shards[at].refuse(mail.origin, mail.from, mail.session, refusal);
        }
    }

    fn broadcast(&mut self, conn: ConnId, from: PeerKey, detail: usize) {
        let at = self.conns[&conn].at;
        let namespace = self.homes.namespace(NAMES[detail % NAMES.len()]);
        let Some((fingerprint, session)) = self.shards[at].identity(from) else {
            return;
        };
        match self.shards[at].begin_broadcast(from, namespace, self.now_ms) {
            Err(refusal) => self.shards[at].tell_refusal(from, refusal),
            Ok(broadcast) => {
                let origin = LoopId::new(at as u16);
                let mail = |sum| FanOutMail {
                    namespace,
                    from: fingerprint,
                    session,
                    origin,
                    sum,
                    name: 0..0,
                    payload: 0..0,
                    exclude: 0..0,
                };
                let others: Vec<_> = self.shards[at].loops_of(namespace).collect();
                assert_eq!(
                    broadcast.sum.is_some(),
                    !others.is_empty(),
                    "a sum is open exactly if others are to answer"
                );
                let (mut refused, mut unsent) = (0, 0);
                for (to, members) in others {
                    // Some mail finds its inbox full.
                    match broadcast.sum.filter(|_| detail & 0x80 == 0) {
                        Some(sum) => self.outboxes[at].push_back((to.index(), Delivery::FanOut(mail(sum)))),
                        None => (refused, unsent) = (refused + members, unsent + 1),
                    }
                }
                let mut targets = Vec::new();
                self.shards[at].broadcast_targets(namespace, &fingerprint, &[], &mut targets);
                refused += self.take_targets(
                    at,
                    namespace,
                    &fingerprint,
                    session,
                    origin,
                    &targets,
                    detail & 0x40 != 0,
                );
                self.shards[at].finish_broadcast(from, &broadcast, refused, unsent);
            }
        }
        self.drain(at);
    }

    fn fan_out(&mut self, at: usize, mail: &FanOutMail) -> u32 {
        let mut targets = Vec::new();
        self.shards[at].broadcast_targets(mail.namespace, &mail.from, &[], &mut targets);
        self.take_targets(
            at,
            mail.namespace,
            &mail.from,
            mail.session,
            mail.origin,
            &targets,
            false,
        )
    }

    #[allow(clippy::too_many_arguments)]
    fn take_targets(
        &mut self,
        at: usize,
        namespace: NamespaceId,
        from: &Fingerprint,
        session: peer_server::ids::SessionId,
        origin: LoopId,
        targets: &[peer_server::shard::Target],
        full: bool,
    ) -> u32 {
        let mut refused = 0;
        for target in targets {
            self.expect_peer(at, target.conn);
            let what = HeldKind::Broadcast(namespace);
            let held = Held {
                what,
                from: *from,
                session,
                origin,
                to: *from,
                name: None,
                payload: None,
            };
            let taken = if target.hold {
                self.shards[at].hold(target.peer, Box::new(held)).is_ok()
            } else {
                !full
            };
            refused += u32::from(!taken);
        }
        refused
    }

    fn drain(&mut self, at: usize) {
        self.shards[at].check_invariants();
        while let Some(output) = self.shards[at].poll_output() {
            match output {
                Output::Registered { conn, peer } => {
                    let conn = self.conns.get_mut(&conn).expect("who hung up is not registered");
                    assert!(matches!(conn.phase, Phase::Registering));
                    conn.phase = Phase::Peer(peer);
                }
                Output::RegistrationRefused { conn, .. } => {
                    let conn = self.conns.remove(&conn).expect("who hung up is not refused");
                    assert!(matches!(conn.phase, Phase::Registering));
                }
                Output::Event { conn, event } => self.told(at, conn, &event),
                Output::FanOut { targets, event } | Output::Presence { targets, event, .. } => {
                    let targets = self.shards[at].targets(targets).to_vec();
                    assert!(!targets.is_empty());
                    targets.into_iter().for_each(|conn| self.told(at, conn, &event));
                }
                Output::Deliver { conn, .. } => self.expect_peer(at, conn),
                Output::Resolved {
                    peer,
                    to: Ok(to),
                    message,
                } => self.send(at, peer, &to, message.kind, message.about),
                Output::Resolved {
                    peer,
                    to: Err(refusal),
                    ..
                } => self.shards[at].tell_refusal(peer, refusal),
                Output::Mail { to, mail } => {
                    assert_ne!(to.index(), at, "mail to itself never leaves a shard");
                    self.outboxes[at].push_back((to.index(), Delivery::Control(mail)));
                }
                Output::Command(_) | Output::Forward { .. } => panic!("one node alone has no broker"),
                Output::Resume(conn) => {
                    self.expect_peer(at, conn);
                    let conn = self.conns.get_mut(&conn).expect("it was just looked up");
                    assert!(conn.paused, "only who waits is told to go on");
                    conn.paused = false;
                }
                Output::Close { conn, .. } => {
                    self.conns.remove(&conn).expect("only what is open is closed");
                }
            }
        }
        self.shards[at].check_invariants();
        let mut peers: Vec<PeerKey> = Vec::new();
        for conn in self.conns.values().filter(|conn| conn.at == at) {
            if let Phase::Peer(peer) = conn.phase {
                let (fingerprint, _) = self.shards[at].identity(peer).expect("an open connection has its peer");
                assert_eq!(fingerprint, Fingerprint::of_key(KEYS[conn.key]));
                peers.push(peer);
            }
        }
        assert_eq!(
            peers.len(),
            self.shards[at].census().peers,
            "every peer has its open connection"
        );
    }

    fn told(&self, at: usize, conn: ConnId, event: &Event) {
        self.expect_peer(at, conn);
        let own = Fingerprint::of_key(KEYS[self.conns[&conn].key]);
        match event {
            Event::PeerJoined { peer, .. } => assert_ne!(peer.fingerprint, own, "nobody is told of itself"),
            Event::PeerLeft { fingerprint, .. } => assert_ne!(*fingerprint, own, "nobody is told of itself"),
            Event::Kicked { target, .. } => assert_eq!(*target, own),
            Event::PeerList { peers, total, .. } => assert!(peers.len() as u32 <= *total),
            Event::RoomInfo {
                peer_count, max_size, ..
            } => assert!(*peer_count >= 1 && peer_count <= max_size),
            _ => {}
        }
    }

    fn expect_peer(&self, at: usize, conn: ConnId) {
        let conn = self.conns.get(&conn).expect("only open connections are spoken to");
        assert!(conn.at == at && matches!(conn.phase, Phase::Peer(_)));
    }

    fn pick(&self, number: usize) -> Option<ConnId> {
        self.conns.keys().nth(number % self.conns.len().max(1)).copied()
    }

    /// A registered peer that waits for nothing: nobody else is listened to.
    fn pick_peer(&self, number: usize) -> Option<(ConnId, PeerKey)> {
        let ready = self.conns.iter().filter_map(|(id, conn)| match conn.phase {
            Phase::Peer(peer) if !conn.paused => Some((*id, peer)),
            _ => None,
        });
        let ready: Vec<_> = ready.collect();
        ready.get(number % ready.len().max(1)).copied()
    }
}
