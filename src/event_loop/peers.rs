//! Messages of peers: from a dialect's reading to the shard, and the hot path between two connections.
//!
//! Owns: the signal, relay and broadcast paths on the sender's side. Nothing here allocates for a message that goes to a
//! member by fingerprint.
//! Never: holds state of its own.

use super::connection::Phase;
use super::writing::Class;
use super::{Delivery, EventLoop};
use crate::codec::json::RawString;
use crate::codec::websocket::{Data, OpCode, push_header};
use crate::dialect::peer::{self, Incoming, Target};
use crate::ids::{ConnId, Fingerprint, LoopId, NamespaceId, SessionId};
use crate::message::{CLOSE_POLICY, DirectKind, Refusal, Request};
use crate::metrics::Metric;
use crate::shard::{DirectMail, FanOutMail, Held, HeldKind, PeerKey, Route, Unresolved};

/// A signal or relay, with its target known.
pub(super) struct Direct<'a> {
    pub(super) kind: DirectKind,
    /// The namespace that it names, and that name as sent between its quotes.
    pub(super) about: Option<(NamespaceId, &'a str)>,
    pub(super) payload: Option<&'a str>,
}

impl Direct<'_> {
    /// The same, with the namespace that it names only if that may be told.
    fn told(&self, about: bool) -> Self {
        Self {
            about: self.about.filter(|_| about),
            ..*self
        }
    }

    /// As what waits.
    pub(super) fn held(&self, sender: &Sender, to: &Fingerprint, shares: Box<[NamespaceId]>) -> Box<Held> {
        Box::new(Held {
            what: HeldKind::Direct(self.kind, shares, self.about.map(|(id, _)| id)),
            from: sender.fingerprint,
            session: sender.session,
            origin: sender.origin,
            to: *to,
            name: self.about.map(|(_, name)| name.into()),
            payload: self.payload.map(Into::into),
        })
    }
}

/// Who sent something.
#[derive(Clone, Copy)]
pub(super) struct Sender {
    pub(super) fingerprint: Fingerprint,
    pub(super) session: SessionId,
    pub(super) origin: LoopId,
}

impl EventLoop {
    /// One whole message.
    pub(super) fn on_message(&mut self, slot: usize, text: &str) {
        match self.connections.get(slot).map(|connection| &connection.phase) {
            Some(Phase::Unregistered) => self.on_first_message(slot, text),
            Some(Phase::Peer(peer)) => self.on_peer_message(slot, *peer, text),
            _ => {}
        }
    }

    fn on_first_message(&mut self, slot: usize, text: &str) {
        let mut body = std::mem::take(&mut self.scratch.body);
        let register = peer::parse_register(text, &mut body);
        self.scratch.body = body;
        self.counters.count(Metric::MessageRegister);
        match register {
            Ok(register) => self.begin_registration(slot, register),
            Err((refusal, reason)) => {
                self.tell_refusal(slot, refusal);
                self.close(slot, CLOSE_POLICY, reason);
            }
        }
    }

    fn on_peer_message(&mut self, slot: usize, from: PeerKey, text: &str) {
        if !self.shard.admit(from, self.clock.now_ms) {
            self.counters.count(Metric::RateLimited);
            return self.tell_refusal(slot, Refusal::RateLimited);
        }
        let mut body = std::mem::take(&mut self.scratch.body);
        match peer::parse(text, &mut body) {
            Err(refusal) => {
                self.counters.count(Metric::MessageRefused);
                self.tell_refusal(slot, refusal);
            }
            Ok(Incoming::Ping) => {
                self.counters.count(Metric::MessagePing);
                self.tell(slot, peer::push_pong);
            }
            Ok(Incoming::IceServers) => {
                self.counters.count(Metric::MessageIceServers);
                self.tell_ice_servers(slot, from);
            }
            Ok(Incoming::Direct {
                kind,
                to,
                namespace,
                payload,
            }) => {
                self.on_direct(slot, from, kind, &to, namespace, payload);
            }
            Ok(Incoming::Broadcast {
                namespace,
                exclude,
                payload,
            }) => {
                self.counters.count(Metric::MessageBroadcast);
                self.on_broadcast(slot, from, namespace, exclude, payload);
            }
            Ok(Incoming::Request(request)) => {
                self.counters.count(metric_of(&request));
                self.shard.handle_request(from, request);
                self.after_request(slot, from);
            }
        }
        body.clear();
        self.scratch.body = body;
    }

    /// Pauses the connection if its peer waits for another loop.
    fn after_request(&mut self, slot: usize, peer: PeerKey) {
        self.drain_outputs();
        let phase = self.connections.get(slot).map(|connection| &connection.phase);
        if matches!(phase, Some(Phase::Peer(own)) if *own == peer) && self.shard.is_waiting(peer) {
            self.set_paused(slot, true);
        }
    }

    fn on_direct(
        &mut self,
        slot: usize,
        from: PeerKey,
        kind: DirectKind,
        to: &Target<'_>,
        namespace: Option<RawString<'_>>,
        payload: Option<&str>,
    ) {
        self.counters.count(match kind {
            DirectKind::Signal => Metric::MessageSignal,
            DirectKind::Relay => Metric::MessageRelay,
        });
        let about = namespace.and_then(|name| Some((self.namespace_of(name)?, name.raw())));
        match to {
            Target::Peer(to) => {
                if let Err(refusal) = self.send_direct(from, to, &Direct { kind, about, payload }) {
                    self.refuse_sender(slot, refusal);
                }
                if self.neighbours.is_some() {
                    // It may wait for an answer of the broker, which is to be asked.
                    self.drain_outputs();
                }
            }
            Target::Alias(alias) => {
                let message = Unresolved {
                    kind,
                    alias: alias.as_ref().into(),
                    about: about.map(|(id, _)| id),
                    about_name: about.map(|(_, name)| name.into()),
                    payload: payload.map(Into::into),
                };
                self.shard.resolve_alias(from, alias, Box::new(message));
                self.after_request(slot, from);
            }
        }
    }

    fn namespace_of(&self, name: RawString<'_>) -> Option<NamespaceId> {
        match name.plain() {
            Some(plain) => Some(self.shard.homes().namespace(plain)),
            None => Some(self.shard.homes().namespace(&name.unescape()?)),
        }
    }

    /// An alias was looked up: the message goes on to its holder.
    pub(super) fn on_resolved(&mut self, from: PeerKey, to: Result<Fingerprint, Refusal>, message: &Unresolved) {
        let about = message.about.zip(message.about_name.as_deref());
        let direct = Direct {
            kind: message.kind,
            about,
            payload: message.payload.as_deref(),
        };
        let sent = match to {
            Ok(to) => self.send_direct(from, &to, &direct),
            Err(refusal) => self.unresolved_here(from, message, refusal),
        };
        if let Err(refusal) = sent {
            self.count_refused(refusal);
            self.shard.tell_refusal(from, refusal);
        }
    }

    /// Moves a signal or relay to its target, or towards it. An error is the sender's at once.
    fn send_direct(&mut self, from: PeerKey, to: &Fingerprint, direct: &Direct<'_>) -> Result<(), Refusal> {
        let Some((fingerprint, session)) = self.shard.identity(from) else {
            return Ok(());
        };
        let sender = Sender {
            fingerprint,
            session,
            origin: self.id,
        };
        match self.shard.route(from, to, direct.about.map(|(id, _)| id)) {
            Route::Local { conn, about } => {
                let name = direct.about.filter(|_| about).map(|(_, name)| name);
                self.forward(conn, &fingerprint, to, direct.kind, name, direct.payload)
            }
            Route::Hold { peer } => {
                let shares = self.shard.shares(from).collect();
                self.hold_direct(peer, &sender, to, direct, shares)
            }
            Route::Loop { to: target_loop, about } => self.mail_direct(from, &sender, target_loop, to, about, direct),
            Route::Away { node, about } => self.send_away(node, from, &sender, to, &direct.told(about)),
            Route::Ask { about } => {
                let shares = self.shard.shares(from).collect();
                self.keep_direct(&sender, to, &direct.told(about), shares)
            }
            Route::Refused(refusal) => self.refused_here(from, &sender, to, direct, refusal),
        }
    }

    /// Appends a signal or relay to its target's output: the one copy of its payload on this loop.
    pub(super) fn forward(
        &mut self,
        conn: ConnId,
        from: &Fingerprint,
        to: &Fingerprint,
        kind: DirectKind,
        namespace: Option<&str>,
        payload: Option<&str>,
    ) -> Result<(), Refusal> {
        let forward = peer::Forward {
            kind,
            from,
            to,
            namespace,
            payload,
            ts_ms: self.clock.unix_ms,
        };
        let Some(slot) = self.registered_slot(conn) else {
            return Err(Refusal::PeerNotFound);
        };
        let len = peer::forward_len(&forward);
        let sent = if self.connections.get(slot).is_some_and(|connection| connection.deflate) {
            let mut text = std::mem::take(&mut self.scratch.text);
            text.clear();
            peer::push_forward(&mut text, &forward);
            let sent = self.send_bytes(slot, Class::Peer, OpCode::Data(Data::Text), &text);
            self.scratch.text = text;
            sent
        } else {
            self.push_frame(slot, Class::Peer, len, |out| {
                push_header(out, OpCode::Data(Data::Text), false, len);
                peer::push_forward(out, &forward);
            })
        };
        if !sent {
            return Err(Refusal::PeerBufferFull);
        }
        self.counters.count(Metric::Deliveries);
        Ok(())
    }

    /// Keeps a direct message for a peer whose join is not answered yet.
    pub(super) fn hold_direct(
        &mut self,
        peer: PeerKey,
        sender: &Sender,
        to: &Fingerprint,
        direct: &Direct<'_>,
        shares: Box<[NamespaceId]>,
    ) -> Result<(), Refusal> {
        self.shard.hold(peer, direct.held(sender, to, shares))
    }

    fn mail_direct(
        &mut self,
        from: PeerKey,
        sender: &Sender,
        target_loop: LoopId,
        to: &Fingerprint,
        about_known: bool,
        direct: &Direct<'_>,
    ) -> Result<(), Refusal> {
        let about = direct.about.filter(|_| about_known);
        let name = about.map_or("", |(_, name)| name);
        let shares = self.shard.shares(from).count();
        let bytes = shares * 16 + name.len() + direct.payload.map_or(0, str::len);
        let Some(batch) = self.mailbox.traffic(target_loop, bytes) else {
            self.counters.count(Metric::RefusedMail);
            return Err(Refusal::PeerBufferFull);
        };
        let start = batch.bytes.len() as u32;
        for namespace in self.shard.shares(from) {
            batch.bytes.extend_from_slice(&namespace.to_bytes());
        }
        let shares = start..batch.bytes.len() as u32;
        let about_name = batch.push_bytes(name.as_bytes());
        let payload = direct.payload.map(|payload| batch.push_bytes(payload.as_bytes()));
        batch.items.push(Delivery::Direct(DirectMail {
            kind: direct.kind,
            from: sender.fingerprint,
            session: sender.session,
            origin: sender.origin,
            to: *to,
            shares,
            about: about.map(|(id, _)| id),
            about_name,
            payload,
        }));
        Ok(())
    }

    fn on_broadcast(&mut self, slot: usize, from: PeerKey, name: RawString<'_>, exclude: Option<&str>, payload: &str) {
        let namespace = self.namespace_of(name);
        let begun = match namespace {
            Some(namespace) => self.shard.begin_broadcast(from, namespace, self.clock.now_ms),
            None => Err(Refusal::NotInNamespace),
        };
        let (Some(namespace), Some((fingerprint, session))) = (namespace, self.shard.identity(from)) else {
            return self.tell_refusal(slot, Refusal::NotInNamespace);
        };
        let broadcast = match begun {
            Ok(broadcast) => broadcast,
            Err(refusal) => return self.tell_refusal(slot, refusal),
        };
        let sender = Sender {
            fingerprint,
            session,
            origin: self.id,
        };
        self.note_excluded(exclude);
        let excluded = std::mem::take(&mut self.scratch.exclude);
        let (mut lost, name) = (false, name.raw());
        let (refused, unsent) = if self.unsent > self.settings.output_bytes_max {
            (broadcast.members, u32::MAX)
        } else {
            let here = self.fan_out(namespace, &sender, name, payload, &excluded);
            let (elsewhere, unsent) = self.mail_fan_out(&broadcast, namespace, &sender, name, payload, &excluded);
            let away;
            (away, lost) = self.broadcast_away(namespace, &sender, name, payload);
            (here + elsewhere + away, unsent)
        };
        self.scratch.exclude = excluded;
        self.shard.finish_broadcast(from, &broadcast, refused, unsent);
        lost |= self.publish_broadcast(&sender, name, payload).is_err();
        if lost {
            self.tell_broker_lost(slot);
        }
        self.drain_outputs();
    }

    /// A broadcast went only to members on this node: its sender is told so, but not each time.
    fn tell_broker_lost(&mut self, slot: usize) {
        let conn = self.connections.get(slot).map(|connection| connection.id(slot));
        let neighbours = self.neighbours.as_mut().zip(conn);
        if neighbours.is_some_and(|(neighbours, conn)| neighbours.may_tell(conn, self.clock.now_ms)) {
            self.tell_refusal(slot, Refusal::BrokerUnavailable);
        }
    }

    /// Fills the scratch list with the ascending hashes of those whom a broadcast leaves out.
    pub(super) fn note_excluded(&mut self, exclude: Option<&str>) {
        let (hashes, homes) = (&mut self.scratch.exclude, self.shard.homes());
        hashes.clear();
        let Some(exclude) = exclude else { return };
        peer::excluded(exclude, |entry| {
            hashes.push(match Fingerprint::parse(entry) {
                Some(fingerprint) => homes.fingerprint_hash(&fingerprint),
                None => homes.alias_hash(entry),
            });
        });
        hashes.sort_unstable();
        hashes.dedup();
    }

    /// Mails a broadcast to every other loop with members. Returns the members of loops that could not be told, and how
    /// many loops those are.
    fn mail_fan_out(
        &mut self,
        broadcast: &crate::shard::Broadcast,
        namespace: NamespaceId,
        sender: &Sender,
        name: &str,
        payload: &str,
        exclude: &[u64],
    ) -> (u32, u32) {
        let Some(sum) = broadcast.sum else { return (0, 0) };
        let (mut refused, mut unsent) = (0, 0);
        let bytes = name.len() + payload.len() + exclude.len() * 8;
        for (to, members) in self.shard.loops_of(namespace) {
            let Some(batch) = self.mailbox.traffic(to, bytes) else {
                self.counters.add(Metric::RefusedMail, u64::from(members));
                refused += members;
                unsent += 1;
                continue;
            };
            let name = batch.push_bytes(name.as_bytes());
            let payload = batch.push_bytes(payload.as_bytes());
            let start = batch.bytes.len() as u32;
            for hash in exclude {
                batch.bytes.extend_from_slice(&hash.to_le_bytes());
            }
            let exclude = start..batch.bytes.len() as u32;
            let Sender {
                fingerprint,
                session,
                origin,
            } = *sender;
            let mail = FanOutMail {
                namespace,
                from: fingerprint,
                session,
                origin,
                sum,
                name,
                payload,
                exclude,
            };
            batch.items.push(Delivery::FanOut(mail));
        }
        (refused, unsent)
    }

    /// Delivers a broadcast to the members on this loop. Returns how many could not take it.
    pub(super) fn fan_out(
        &mut self,
        namespace: NamespaceId,
        sender: &Sender,
        name: &str,
        payload: &str,
        exclude: &[u64],
    ) -> u32 {
        let mut targets = std::mem::take(&mut self.scratch.targets);
        targets.clear();
        self.shard
            .broadcast_targets(namespace, &sender.fingerprint, exclude, &mut targets);
        let mut refused = 0;
        if !targets.is_empty() {
            let ts_ms = self.clock.unix_ms;
            self.prepare_frame(|out| peer::push_broadcast(out, &sender.fingerprint, name, payload, ts_ms));
        }
        for target in &targets {
            let taken = match target.hold {
                false => self.send_prepared(target.conn, Class::Peer),
                true => {
                    let held = Held {
                        what: HeldKind::Broadcast(namespace),
                        from: sender.fingerprint,
                        session: sender.session,
                        origin: sender.origin,
                        to: sender.fingerprint,
                        name: Some(name.into()),
                        payload: Some(payload.into()),
                    };
                    self.shard.hold(target.peer, Box::new(held)).is_ok()
                }
            };
            match taken {
                true => self.counters.count(Metric::Deliveries),
                false => refused += 1,
            }
        }
        self.scratch.targets = targets;
        self.counters.add(Metric::RefusedFull, u64::from(refused));
        refused
    }

    /// Tells the sender at once that its signal or relay was refused.
    fn refuse_sender(&mut self, slot: usize, refusal: Refusal) {
        self.count_refused(refusal);
        self.tell_refusal(slot, refusal);
    }

    pub(super) fn count_refused(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::NoSharedNamespace => self.counters.count(Metric::RefusedForbidden),
            Refusal::PeerNotFound => self.counters.count(Metric::RefusedNotFound),
            Refusal::PeerBufferFull => self.counters.count(Metric::RefusedFull),
            _ => {}
        }
    }

    pub(super) fn set_paused(&mut self, slot: usize, paused: bool) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.paused == paused {
            return;
        }
        connection.paused = paused;
        match paused {
            true => self.counters.count(Metric::ConnectionsPaused),
            false => self.counters.take(Metric::ConnectionsPaused),
        }
    }
}

fn metric_of(request: &Request<'_>) -> Metric {
    match request {
        Request::Join { .. } => Metric::MessageJoin,
        Request::Leave { .. } => Metric::MessageLeave,
        Request::Discover { .. } => Metric::MessageDiscover,
        Request::Match { .. } => Metric::MessageMatch,
        Request::CreateRoom { .. } => Metric::MessageCreateRoom,
        Request::JoinRoom { .. } => Metric::MessageJoinRoom,
        Request::RoomInfo { .. } => Metric::MessageRoomInfo,
        Request::Kick { .. } => Metric::MessageKick,
        Request::Metadata { .. } => Metric::MessageMetadata,
    }
}
