//! A shell's way in: what clients ask, and the messages that reach a loop.
//!
//! Owns: what an event loop does with direct messages and broadcasts, here with numbers for payloads.
//! Never: decides who may reach whom; it does what the shard's routes and targets say.

use compact_str::CompactString;
use peer_server::ids::SessionId;
use peer_server::mailbox::Batch;
use peer_server::message::DirectKind;
use peer_server::shard::{DirectMail, FanOutMail, Held, HeldKind, Route, Target, Unresolved};

use super::traffic::Frame;
use super::*;
use crate::checkers::{Fate, Message};
use crate::workload::To;

/// A direct message on its way: as the sender's loop would put it into a frame.
#[derive(Clone, Debug)]
pub(crate) struct Direct {
    pub(crate) kind: DirectKind,
    pub(crate) from: Fingerprint,
    pub(crate) session: SessionId,
    pub(crate) to: Fingerprint,
    pub(crate) shares: Vec<NamespaceId>,
    pub(crate) about: Option<(NamespaceId, usize)>,
    pub(crate) id: u64,
}

impl World {
    pub(super) fn can_feed(&self, serial: usize) -> bool {
        let conn = &self.conns[serial];
        !self.nodes[conn.node].stopped && !conn.inbound.is_empty() && !self.is_waiting(serial)
    }

    pub(crate) fn is_waiting(&self, serial: usize) -> bool {
        let conn = &self.conns[serial];
        match conn.phase {
            Phase::Open(peer) => self.nodes[conn.node].shards[conn.loop_index].is_waiting(peer),
            Phase::Registering | Phase::Closed => true,
        }
    }

    /// The shell looks at the next message of a connection that does not wait.
    pub(super) fn feed(&mut self, serial: usize) {
        let conn = &mut self.conns[serial];
        let (n, at, Phase::Open(peer)) = (conn.node, conn.loop_index, conn.phase) else {
            return;
        };
        let Some(request) = conn.inbound.pop_front() else {
            return;
        };
        note!(self, "#{serial} is served {request:?}");
        let conn = &mut self.conns[serial];
        let me = Me { serial, key: conn.key };
        self.history.asked(me, &mut conn.witness, &request);
        conn.wait = Some(Wait {
            request: request.clone(),
            answered: false,
        });
        match &request {
            Req::Direct { kind, to, about } => self.send_direct(serial, peer, *kind, to, *about),
            Req::Broadcast { name, exclude } => self.send_broadcast(serial, peer, *name, exclude),
            request => self.hand_over(n, at, peer, request),
        }
        self.drain(n, at);
        if !self.is_waiting(serial) {
            self.conns[serial].wait = None;
        }
    }

    fn hand_over(&mut self, n: usize, at: usize, peer: PeerKey, request: &Req) {
        let name_of = |name: &usize| &*self.names[*name];
        let meta_of = |member: &str, value: Option<u32>| {
            let mut meta = Meta::default();
            value.into_iter().for_each(|value| meta.set(member, &value.to_string()));
            meta
        };
        let request = match request {
            Req::Join { name, app, meta } => Request::Join {
                namespace: name_of(name),
                app_type: app,
                meta: meta_of("\"j\"", *meta),
            },
            Req::Leave(name) => Request::Leave {
                namespace: name_of(name),
            },
            Req::Discover(name) => Request::Discover {
                namespace: name_of(name),
                limit: LIST_MAX,
            },
            Req::Match { name, size, criteria } => Request::Match {
                namespace: name_of(name),
                group_size: *size,
                criteria: CriteriaKey([*criteria; 32]),
            },
            Req::Create { name, max } => Request::CreateRoom {
                room: name_of(name),
                max_size: *max,
            },
            Req::JoinRoom(name) => Request::JoinRoom { room: name_of(name) },
            Req::Info(name) => Request::RoomInfo { room: name_of(name) },
            Req::Kick { name, target } => Request::Kick {
                room: name_of(name),
                target: target.map(|target| self.keys[target]),
            },
            Req::Metadata(value) => Request::Metadata {
                update: meta_of("\"x\"", Some(*value)),
            },
            Req::Direct { .. } | Req::Broadcast { .. } => return,
        };
        self.nodes[n].shards[at].handle_request(peer, request);
    }

    fn send_direct(&mut self, serial: usize, peer: PeerKey, kind: DirectKind, to: &To, about: Option<usize>) {
        let (n, at) = (self.conns[serial].node, self.conns[serial].loop_index);
        let id = self.history.next_id;
        self.history.next_id += 1;
        let from_key = self.conns[serial].key;
        self.history.messages.insert(id, Message::new(serial, from_key, None));
        let unresolved = Unresolved {
            kind,
            alias: CompactString::default(),
            about_name: about.map(|about| self.names[about].as_ref().into()),
            about: about.map(|about| self.nodes[n].homes.namespace(&self.names[about])),
            payload: Some(id.to_string().into()),
        };
        match to {
            To::Key(key) => self.route(serial, peer, Ok(self.keys[*key]), &unresolved),
            To::Alias(alias) => self.nodes[n].shards[at].resolve_alias(peer, alias, Box::new(unresolved)),
        }
    }

    pub(super) fn route(
        &mut self,
        serial: usize,
        peer: PeerKey,
        to: Result<Fingerprint, Refusal>,
        message: &Unresolved,
    ) {
        let (n, at) = (self.conns[serial].node, self.conns[serial].loop_index);
        let id = id_of(message.payload.as_deref());
        let shard = &self.nodes[n].shards[at];
        let shares: Vec<NamespaceId> = shard.shares(peer).collect();
        let (from, session) = shard.identity(peer).expect("a sender is registered");
        let entry = self
            .history
            .messages
            .get_mut(&id)
            .expect("a message is noted before it is routed");
        entry.fate = Fate::UnderWay;
        entry.to = to.ok().and_then(|to| self.key_of.get(&to).copied());
        entry.shares = shares.iter().map(|share| self.space_of[share]).collect();
        let to = match to {
            Ok(to) => to,
            Err(refusal) => return self.refuse_here(serial, id, refusal),
        };
        let about = message
            .about
            .zip(message.about_name.as_deref().map(|name| self.name_of[name]));
        let about_if = |is: bool| about.filter(|_| is);
        let direct = Direct {
            kind: message.kind,
            from,
            session,
            to,
            shares,
            about,
            id,
        };
        let route = shard.route(peer, &to, message.about);
        let result = match route {
            Route::Local { conn, about } => {
                let about = about_if(about).map(|(_, name)| name);
                self.tell_conn(
                    n,
                    at,
                    conn,
                    Seen::Direct {
                        id,
                        from: self.key_of[&from],
                        about,
                    },
                );
                Ok(())
            }
            Route::Hold { peer } => self.hold(n, at, peer, &direct, LoopId::new(at as u16)),
            Route::Loop { to: there, about } => {
                let direct = Direct {
                    about: about_if(about),
                    ..direct
                };
                self.mail_direct(n, at, there, &direct);
                Ok(())
            }
            Route::Away { node, about } => {
                self.send_frame(
                    n,
                    node,
                    Frame::Direct(Direct {
                        about: about_if(about),
                        ..direct
                    }),
                );
                Ok(())
            }
            Route::Ask { about } => {
                let direct = Direct {
                    about: about_if(about),
                    ..direct
                };
                self.keep(n, at, &direct, LoopId::new(at as u16))
            }
            Route::Refused(refusal) => Err(refusal),
        };
        if let Err(refusal) = result {
            self.refuse_here(serial, id, refusal);
        }
    }

    fn mail_direct(&mut self, n: usize, at: usize, there: LoopId, direct: &Direct) {
        let share_bytes: Vec<u8> = direct.shares.iter().flat_map(|share| share.to_bytes()).collect();
        let name = direct.about.map_or("", |(_, name)| &*self.names[name]).to_owned();
        let text = direct.id.to_string();
        let bytes = share_bytes.len() + name.len() + text.len();
        let batch = self.nodes[n]
            .links
            .traffic(at, there, bytes)
            .expect("the budget is large");
        let mail = DirectMail {
            kind: direct.kind,
            from: direct.from,
            session: direct.session,
            origin: LoopId::new(at as u16),
            to: direct.to,
            shares: batch.push_bytes(&share_bytes),
            about: direct.about.map(|(about, _)| about),
            about_name: batch.push_bytes(name.as_bytes()),
            payload: Some(batch.push_bytes(text.as_bytes())),
        };
        batch.items.push(Delivery::Direct(mail));
    }

    fn held(&self, direct: &Direct, origin: LoopId) -> Held {
        Held {
            what: HeldKind::Direct(
                direct.kind,
                direct.shares.clone().into(),
                direct.about.map(|(about, _)| about),
            ),
            from: direct.from,
            session: direct.session,
            origin,
            to: direct.to,
            name: direct.about.map(|(_, name)| self.names[name].as_ref().into()),
            payload: Some(direct.id.to_string().into()),
        }
    }

    fn keep(&mut self, n: usize, at: usize, direct: &Direct, origin: LoopId) -> Result<(), Refusal> {
        let held = self.held(direct, origin);
        self.nodes[n].shards[at].keep(Box::new(held))?;
        note!(self, "node {n} loop {at} keeps {}", direct.id);
        self.history.set_fate(direct.id, Fate::Kept);
        Ok(())
    }

    fn hold(&mut self, n: usize, at: usize, peer: PeerKey, direct: &Direct, origin: LoopId) -> Result<(), Refusal> {
        let held = self.held(direct, origin);
        self.nodes[n].shards[at].hold(peer, Box::new(held))?;
        note!(self, "node {n} loop {at} holds {}", direct.id);
        self.history.set_fate(direct.id, Fate::Kept);
        Ok(())
    }

    fn refuse_here(&mut self, serial: usize, id: u64, refusal: Refusal) {
        self.history.set_fate(id, Fate::Refused);
        self.observe(serial, Seen::Refused(refusal));
    }

    pub(super) fn receive_direct(&mut self, n: usize, at: usize, mail: &DirectMail, bytes: &[u8]) {
        let slice = |range: &std::ops::Range<u32>| &bytes[Batch::<Delivery>::slice(bytes, range)];
        let text = |range| std::str::from_utf8(slice(range)).unwrap();
        let shares = slice(&mail.shares)
            .as_chunks::<16>()
            .0
            .iter()
            .copied()
            .map(NamespaceId::from_bytes);
        let direct = Direct {
            kind: mail.kind,
            from: mail.from,
            session: mail.session,
            to: mail.to,
            shares: shares.collect(),
            about: mail.about.map(|about| (about, self.name_of[text(&mail.about_name)])),
            id: id_of(mail.payload.as_ref().map(text)),
        };
        self.arrive(n, at, mail.origin, &direct);
    }

    /// A direct message at the home of its target's key.
    pub(super) fn arrive(&mut self, n: usize, at: usize, origin: LoopId, direct: &Direct) {
        let mail = DirectMail {
            kind: direct.kind,
            from: direct.from,
            session: direct.session,
            origin,
            to: direct.to,
            shares: 0..0,
            about: direct.about.map(|(about, _)| about),
            about_name: 0..0,
            payload: None,
        };
        let shard = &mut self.nodes[n].shards[at];
        let route = shard.receive(&mail, direct.shares.iter().copied());
        let refused = match route {
            Route::Local { conn, about } => {
                let about = direct.about.filter(|_| about).map(|(_, name)| name);
                let from = self.key_of[&direct.from];
                self.tell_conn(
                    n,
                    at,
                    conn,
                    Seen::Direct {
                        id: direct.id,
                        from,
                        about,
                    },
                );
                Ok(())
            }
            Route::Hold { peer } => self.hold(n, at, peer, direct, origin),
            Route::Loop { .. } => panic!("a direct message came to the wrong loop"),
            Route::Away { node, .. } => {
                assert_eq!(origin.node(), None, "what came from another node goes no further");
                self.send_frame(n, node, Frame::Direct(direct.clone()));
                Ok(())
            }
            Route::Ask { .. } => {
                assert_eq!(origin.node(), None, "what came from another node is not looked for");
                self.keep(n, at, direct, origin)
            }
            Route::Refused(refusal) => Err(refusal),
        };
        let Err(refusal) = refused else { return };
        self.history.set_fate(direct.id, Fate::Refused);
        match origin.node() {
            Some(node) => {
                let (to, session, target) = (direct.from, direct.session, direct.to);
                self.send_frame(
                    n,
                    node,
                    Frame::Refused {
                        to,
                        session,
                        target: Some(target),
                        refusal,
                    },
                );
            }
            None => self.nodes[n].shards[at].refuse(origin, direct.from, direct.session, refusal),
        }
    }

    fn send_broadcast(&mut self, serial: usize, peer: PeerKey, name: usize, exclude: &[To]) {
        let (n, at) = (self.conns[serial].node, self.conns[serial].loop_index);
        let id = self.history.next_id;
        self.history.next_id += 1;
        let namespace = self.nodes[n].homes.namespace(&self.names[name]);
        let now_ms = self.broker.now_ms;
        let broadcast = match self.nodes[n].shards[at].begin_broadcast(peer, namespace, now_ms) {
            Ok(broadcast) => broadcast,
            Err(refusal) => return self.observe(serial, Seen::Refused(refusal)),
        };
        let mut message = Message::new(serial, self.conns[serial].key, Some((name, exclude.to_vec())));
        message.fate = Fate::UnderWay;
        message.expected = self.expected_receivers(serial, name, exclude);
        self.history.messages.insert(id, message);
        let (from, session) = self.nodes[n].shards[at].identity(peer).expect("a sender is registered");
        self.spread(n, at, namespace, (from, session, LoopId::new(at as u16)), exclude, id);
        let loops: Vec<(LoopId, u32)> = self.nodes[n].shards[at].loops_of(namespace).collect();
        for (to, _) in loops {
            let text = id.to_string();
            let batch = self.nodes[n]
                .links
                .traffic(at, to, text.len())
                .expect("the budget is large");
            let mail = FanOutMail {
                namespace,
                from,
                session,
                origin: LoopId::new(at as u16),
                sum: broadcast.sum.expect("a sum is open if other loops serve members"),
                name: 0..0,
                payload: batch.push_bytes(text.as_bytes()),
                exclude: 0..0,
            };
            batch.items.push(Delivery::FanOut(mail));
        }
        let nodes: Vec<_> = self.nodes[n].shards[at].nodes_of(namespace).collect();
        for (node, _) in nodes {
            self.send_frame(
                n,
                node,
                Frame::Broadcast {
                    namespace,
                    from,
                    session,
                    id,
                },
            );
        }
        self.nodes[n].shards[at].finish_broadcast(peer, &broadcast, 0, 0);
    }

    /// Whom the sender knows to be in the namespace, and who knows so too.
    fn expected_receivers(&self, sender: usize, name: usize, exclude: &[To]) -> Vec<(usize, u64)> {
        let Some(view) = self.conns[sender].witness.views.get(&name) else {
            return Vec::new();
        };
        let others = view
            .members
            .iter()
            .filter(|(key, _)| !exclude.contains(&To::Key(**key)));
        others
            // Nor another session of its own key, which took its place and of which it has not heard.
            .filter(|(key, _)| **key != self.conns[sender].key)
            .filter_map(|(_, serial)| Some((*serial, self.conns[*serial].witness.views.get(&name)?.stay)))
            .collect()
    }

    /// Delivers a broadcast to the members on one loop.
    pub(super) fn spread(
        &mut self,
        n: usize,
        at: usize,
        namespace: NamespaceId,
        (from, session, origin): (Fingerprint, SessionId, LoopId),
        exclude: &[To],
        id: u64,
    ) {
        let mut hashes: Vec<u64> = exclude
            .iter()
            .map(|entry| match entry {
                To::Key(key) => self.nodes[n].homes.fingerprint_hash(&self.keys[*key]),
                To::Alias(alias) => self.nodes[n].homes.alias_hash(alias),
            })
            .collect();
        hashes.sort_unstable();
        let mut targets: Vec<Target> = Vec::new();
        self.nodes[n].shards[at].broadcast_targets(namespace, &from, &hashes, &mut targets);
        let name = self.space_of[&namespace];
        for target in targets {
            if target.hold {
                let to = self.nodes[n].shards[at].identity(target.peer).unwrap().0;
                let held = Held {
                    what: HeldKind::Broadcast(namespace),
                    from,
                    session,
                    origin,
                    to,
                    name: Some(self.names[name].as_ref().into()),
                    payload: Some(id.to_string().into()),
                };
                let _ = self.nodes[n].shards[at].hold(target.peer, Box::new(held));
            } else {
                let from = self.key_of[&from];
                self.tell_conn(n, at, target.conn, Seen::Broadcast { id, from, name });
            }
        }
    }

    pub(super) fn receive_fan_out(&mut self, n: usize, at: usize, mail: &FanOutMail, bytes: &[u8]) {
        let text = std::str::from_utf8(&bytes[Batch::<Delivery>::slice(bytes, &mail.payload)]).ok();
        let id = id_of(text);
        let exclude = self.history.excluded(id);
        self.spread(
            n,
            at,
            mail.namespace,
            (mail.from, mail.session, mail.origin),
            &exclude,
            id,
        );
        self.nodes[n].shards[at].answer_fan_out(mail, 0);
    }

    pub(super) fn seen_of_held(&self, held: &Held) -> Seen {
        let (id, from) = (id_of(held.payload.as_deref()), self.key_of[&held.from]);
        let about = held.name.as_deref().map(|name| self.name_of[name]);
        match held.what {
            HeldKind::Direct(..) => Seen::Direct { id, from, about },
            HeldKind::Broadcast(_) => Seen::Broadcast {
                id,
                from,
                name: about.expect("a broadcast's is set"),
            },
        }
    }

    pub(super) fn forward(&mut self, n: usize, node: peer_server::ids::NodeNo, held: &Held) {
        let HeldKind::Direct(kind, shares, about) = &held.what else {
            panic!("a broadcast is never looked for")
        };
        let id = id_of(held.payload.as_deref());
        let name = held.name.as_deref().map(|name| self.name_of[name]);
        let direct = Direct {
            kind: *kind,
            from: held.from,
            session: held.session,
            to: held.to,
            shares: shares.to_vec(),
            about: about.zip(name),
            id,
        };
        self.history.set_fate(id, Fate::UnderWay);
        self.send_frame(n, node, Frame::Direct(direct));
    }
}

fn id_of(payload: Option<&str>) -> u64 {
    payload
        .and_then(|text| text.parse().ok())
        .expect("payloads are numbers here")
}
