//! A shard of a cluster whose broker and other loop are the test: it answers commands and mail by hand, in any order.
//!
//! Owns: what the shard said and nobody looked at yet.
//! Never: answers by itself.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::*;
use crate::ids::{ConnId, LoopId, NodeNo, SessionId};
use crate::message::{DirectKind, Event as Told, Meta, Refusal, Register, Request};
use crate::shard::mail::{Answer, Mail};
use crate::shard::output::{Held, HeldKind};
use crate::shard::peers::PeerKey;
use crate::shard::{Limits, Permits, Route};

/// The shard of loop 0 of two, and what it said.
pub(in crate::shard) struct Scene {
    pub(in crate::shard) shard: Shard,
    pub(in crate::shard) homes: Homes,
    pub(in crate::shard) permits: Arc<Permits>,
    /// Commands that were not answered.
    pub(in crate::shard) commands: VecDeque<Command>,
    /// Every command finds the queue full.
    pub(in crate::shard) busy: bool,
    pub(in crate::shard) mail: VecDeque<(LoopId, Mail)>,
    pub(in crate::shard) told: Vec<(ConnId, Told)>,
    pub(in crate::shard) registered: Vec<(ConnId, PeerKey)>,
    pub(in crate::shard) refused: Vec<(ConnId, Refusal)>,
    pub(in crate::shard) closed: Vec<(ConnId, u16)>,
    pub(in crate::shard) forwards: Vec<(NodeNo, Held)>,
    pub(in crate::shard) resolved: Vec<Result<Fingerprint, Refusal>>,
}

impl Scene {
    /// The broker is up.
    pub(in crate::shard) fn new() -> Self {
        let mut scene = Self::down();
        scene.hear(Event::Up);
        scene
    }

    /// The broker has not come up yet.
    pub(in crate::shard) fn down() -> Self {
        let homes = Homes::new(2, [1, 2, 3, 4]).in_cluster();
        let limits = Limits {
            max_peers: 1000,
            max_rooms: 10,
            max_match_waiting: 10,
            messages: None,
            deliveries: None,
            send_buffer_size: 4,
            send_buffer_bytes: 2048,
            state_bytes: 1 << 30,
        };
        let permits = Arc::new(Permits::default());
        let mut shard = Shard::new(
            LoopId::new(0),
            homes.clone(),
            Arc::new(limits),
            permits.clone(),
            [0; 32],
        );
        shard.join_cluster();
        Self {
            shard,
            homes,
            permits,
            commands: VecDeque::new(),
            busy: false,
            mail: VecDeque::new(),
            told: Vec::new(),
            registered: Vec::new(),
            refused: Vec::new(),
            closed: Vec::new(),
            forwards: Vec::new(),
            resolved: Vec::new(),
        }
    }

    pub(in crate::shard) fn collect(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Command(command) if self.busy => {
                    let (id, reply) = (command.id, Reply::Lost);
                    self.shard.handle_cluster(Event::Replied { id, reply });
                }
                Output::Command(command) => self.commands.push_back(*command),
                Output::Mail { to, mail } => self.mail.push_back((to, mail)),
                Output::Event { conn, event } => self.told.push((conn, event)),
                Output::Registered { conn, peer } => self.registered.push((conn, peer)),
                Output::RegistrationRefused { conn, refusal } => self.refused.push((conn, refusal)),
                Output::Close { conn, code, .. } => self.closed.push((conn, code)),
                Output::Forward { node, held } => self.forwards.push((node, *held)),
                Output::Resolved { to, .. } => self.resolved.push(to),
                _ => {}
            }
        }
    }

    /// The broker tells something.
    pub(in crate::shard) fn hear(&mut self, event: Event) {
        self.shard.handle_cluster(event);
        self.collect();
    }

    /// The broker answers a command.
    pub(in crate::shard) fn reply(&mut self, id: CommandId, reply: Reply) {
        self.hear(Event::Replied { id, reply });
    }

    /// The broker answers its oldest command.
    pub(in crate::shard) fn answer(&mut self, reply: Reply) -> What {
        let Command { id, what } = self.commands.pop_front().unwrap();
        self.reply(id, reply);
        what
    }

    /// The broker is lost: what was under way too.
    pub(in crate::shard) fn lose_broker(&mut self) {
        self.hear(Event::Down);
        while !self.commands.is_empty() {
            self.answer(Reply::Lost);
        }
    }

    /// The key of a connection, at home on loop 0.
    pub(in crate::shard) fn key(&self, slot: u32) -> Fingerprint {
        let mut keys = (0..).map(|number| Fingerprint::of_key(&format!("{slot} {number}")));
        keys.find(|key| self.homes.of_fingerprint(key).index() == 0).unwrap()
    }

    pub(in crate::shard) fn register(&mut self, conn: ConnId, key: Fingerprint, alias: &str) {
        let register = Register {
            fingerprint: key,
            alias: alias.into(),
            meta: Meta::default(),
        };
        self.shard.register(conn, register);
        self.collect();
    }

    /// A new peer with the alias that was made first for it, by the connection of this slot.
    pub(in crate::shard) fn peer(&mut self, slot: u32) -> (PeerKey, Who) {
        let key = self.key(slot);
        self.register(ConnId::new(slot, 1), key, "");
        let what = self.answer(Reply::Registered { alias: Some(0) });
        let What::Register { who, .. } = what else {
            panic!("{what:?}");
        };
        (self.shard.peers.find_session(&key, who.session).unwrap(), who)
    }

    /// The session that the key has here.
    pub(in crate::shard) fn session(&self, key: &Fingerprint) -> Option<SessionId> {
        self.shard
            .identity(self.shard.peers.find(key)?)
            .map(|(_, session)| session)
    }

    /// The `number`th name that is at home on loop 1.
    pub(in crate::shard) fn name(&self, number: usize) -> String {
        let mut names = (0..).map(|number: u32| format!("namespace {number}"));
        let away = |name: &String| self.homes.of_namespace(self.homes.namespace(name)).index() == 1;
        names.by_ref().filter(away).nth(number).unwrap()
    }

    /// Asks to join, and gives the home's mail back without an answer.
    pub(in crate::shard) fn ask_join(&mut self, peer: PeerKey, namespace: &str) -> Option<Asker> {
        let (app_type, meta) = ("", Meta::default());
        let join = Request::Join {
            namespace,
            app_type,
            meta,
        };
        self.shard.handle_request(peer, join);
        self.collect();
        match self.mail.pop_back() {
            Some((_, Mail::Ask { asker, .. })) => Some(asker),
            Some(other) => {
                self.mail.push_back(other);
                None
            }
            None => None,
        }
    }

    /// The home of a namespace lets a peer in; members are on these loops and nodes.
    pub(in crate::shard) fn let_in(&mut self, asker: Asker, namespace: &str, loops: Vec<(LoopId, u32)>) {
        let answer = Answer::Joined {
            peers: Vec::new(),
            total: 1,
            loops,
        };
        self.home_answers(asker, self.homes.namespace(namespace), answer);
    }

    pub(in crate::shard) fn home_answers(&mut self, asker: Asker, namespace: NamespaceId, answer: Answer) {
        self.shard.handle_mail(Mail::Answer {
            asker,
            namespace,
            answer,
        });
        self.collect();
    }

    /// Makes a peer a member.
    pub(in crate::shard) fn join(&mut self, peer: PeerKey, namespace: &str) {
        let asker = self.ask_join(peer, namespace).unwrap();
        self.let_in(asker, namespace, vec![(LoopId::new(0), 1)]);
    }

    /// Sends a signal with this payload as the event loop does. None: it went nowhere yet, or was kept.
    pub(in crate::shard) fn signal(&mut self, from: PeerKey, to: Fingerprint, payload: &str) -> Result<Route, Refusal> {
        let (fingerprint, session) = self.shard.identity(from).unwrap();
        let route = self.shard.route(from, &to, None);
        if let Route::Ask { .. } = route {
            let held = Held {
                what: HeldKind::Direct(DirectKind::Signal, self.shard.shares(from).collect(), None),
                from: fingerprint,
                session,
                origin: LoopId::new(0),
                to,
                name: None,
                payload: Some(payload.into()),
            };
            self.shard.keep(Box::new(held))?;
        }
        self.collect();
        Ok(route)
    }

    /// The refusals that a connection was told since the last call.
    pub(in crate::shard) fn errors(&mut self, conn: ConnId) -> Vec<Refusal> {
        let (own, others) = std::mem::take(&mut self.told)
            .into_iter()
            .partition(|(at, told)| *at == conn && matches!(told, Told::Error(_)));
        self.told = others;
        let own: Vec<(ConnId, Told)> = own;
        let refusal = |(_, told)| match told {
            Told::Error(refusal) => refusal,
            _ => unreachable!(),
        };
        own.into_iter().map(refusal).collect()
    }

    /// Takes the commands that were not answered.
    pub(in crate::shard) fn take_commands(&mut self) -> Vec<Command> {
        self.commands.drain(..).collect()
    }
}
