//! A shell's way in: what clients ask, and the traffic that reaches a loop.
//!
//! Owns: what an event loop does with direct messages and broadcasts, here with numbers for payloads.
//! Never: decides who may reach whom; it does what the shard's routes and targets say.

use super::*;

impl World {
    pub(super) fn can_feed(&self, serial: usize) -> bool {
        let conn = &self.conns[serial];
        matches!(conn.phase, Phase::Open(_)) && !conn.inbound.is_empty() && !self.is_waiting(serial)
    }

    /// The shell looks at the next message of a connection that does not wait.
    pub(super) fn feed(&mut self, serial: usize) {
        let conn = &mut self.conns[serial];
        let (at, Phase::Open(peer)) = (conn.loop_index, conn.phase) else {
            return;
        };
        let Some(request) = conn.inbound.pop_front() else {
            return;
        };
        note!(self, "#{serial} is served {request:?}");
        if !self.shards[at].admit(peer, self.now_ms) {
            self.tell(serial, Seen::Refused(Refusal::RateLimited));
            return self.drain(at);
        }
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
            request => self.hand_over(at, peer, request),
        }
        self.drain(at);
        if !self.is_waiting(serial) {
            self.conns[serial].wait = None;
        }
    }

    pub(super) fn hand_over(&mut self, at: usize, peer: PeerKey, request: &Req) {
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
        self.shards[at].handle_request(peer, request);
    }

    pub(super) fn send_direct(
        &mut self,
        serial: usize,
        peer: PeerKey,
        kind: DirectKind,
        to: &To,
        about: Option<usize>,
    ) {
        let (at, from_key) = (self.conns[serial].loop_index, self.conns[serial].key);
        let id = self.history.next_id;
        self.history.next_id += 1;
        let message = Message {
            from: serial,
            from_key,
            shares: Vec::new(),
            about,
            fate: Fate::Resolving,
            to: None,
            fan_out: None,
        };
        self.history.messages.insert(id, message);
        let unresolved = Unresolved {
            kind,
            // Only a shell that knows other nodes looks at it.
            alias: "".into(),
            about_name: about.map(|about| self.names[about].as_ref().into()),
            about: about.map(|about| self.homes.namespace(&self.names[about])),
            payload: Some(id.to_string().into()),
        };
        match to {
            To::Key(key) => self.route(serial, peer, Some(self.keys[*key]), &unresolved),
            To::Alias(alias) => self.shards[at].resolve_alias(peer, alias, Box::new(unresolved)),
        }
    }

    pub(super) fn route(&mut self, serial: usize, peer: PeerKey, to: Option<Fingerprint>, message: &Unresolved) {
        let at = self.conns[serial].loop_index;
        let id = id_of(message.payload.as_deref());
        let shard = &self.shards[at];
        let shares: Vec<NamespaceId> = shard.shares(peer).collect();
        let (fingerprint, session) = shard.identity(peer).expect("a sender is registered");
        let names: Vec<usize> = shares.iter().map(|share| self.space_of[share]).collect();
        let known: BTreeSet<usize> = names.iter().copied().collect();
        assert!(
            known.iter().eq(self.conns[serial].witness.views.keys()),
            "the shard and its client agree on where it is"
        );
        let entry = self
            .history
            .messages
            .get_mut(&id)
            .expect("a message is noted before it is routed");
        entry.shares = names;
        entry.fate = Fate::UnderWay;
        entry.to = to.and_then(|to| self.key_of.get(&to).copied());
        let Some(to) = to else {
            return self.refuse_here(serial, id, Refusal::PeerNotFound);
        };
        let payload = message.payload.clone();
        match shard.route(peer, &to, message.about) {
            Route::Local { conn, about } => {
                let about = message
                    .about_name
                    .as_deref()
                    .filter(|_| about)
                    .map(|name| self.name_of[name]);
                if let Err(refusal) = self.deliver(
                    at,
                    conn,
                    Seen::Direct {
                        id,
                        from: self.key_of[&fingerprint],
                        about,
                    },
                ) {
                    self.refuse_here(serial, id, refusal);
                }
            }
            Route::Hold { peer } => {
                let about = message.about.filter(|about| shares.contains(about));
                let held = Held {
                    what: HeldKind::Direct(message.kind, shares.into(), about),
                    from: fingerprint,
                    session,
                    origin: LoopId::new(at as u16),
                    to,
                    name: message.about_name.clone().filter(|_| about.is_some()),
                    payload,
                };
                match self.hold(at, peer, held, id) {
                    Ok(()) => {}
                    Err(refusal) => self.refuse_here(serial, id, refusal),
                }
            }
            Route::Loop { to: there, about } => {
                let name = message.about_name.as_deref().filter(|_| about).unwrap_or_default();
                let text = payload.as_deref().unwrap_or_default();
                let bytes = shares.len() * 16 + name.len() + text.len();
                let Some(batch) = self.links.traffic(at, there, bytes) else {
                    return self.refuse_here(serial, id, Refusal::PeerBufferFull);
                };
                let share_bytes: Vec<u8> = shares.iter().flat_map(|share| share.to_bytes()).collect();
                let mail = DirectMail {
                    kind: message.kind,
                    from: fingerprint,
                    session,
                    origin: LoopId::new(at as u16),
                    to,
                    shares: batch.push_bytes(&share_bytes),
                    about: message.about.filter(|_| about),
                    about_name: batch.push_bytes(name.as_bytes()),
                    payload: Some(batch.push_bytes(text.as_bytes())),
                };
                batch.items.push(Delivery::Direct(mail));
            }
            Route::Away { .. } | Route::Ask { .. } => panic!("there is one node"),
            Route::Refused(refusal) => self.refuse_here(serial, id, refusal),
        }
    }

    pub(super) fn refuse_here(&mut self, serial: usize, id: u64, refusal: Refusal) {
        self.note_refused(id, refusal);
        self.tell(serial, Seen::Refused(refusal));
    }

    pub(super) fn note_refused(&mut self, id: u64, refusal: Refusal) {
        let message = self.history.messages.get_mut(&id).expect("a refused message was sent");
        assert!(
            matches!(message.fate, Fate::UnderWay | Fate::Held),
            "message {id} has two fates"
        );
        message.fate = Fate::Refused(refusal);
    }

    pub(super) fn hold(&mut self, at: usize, peer: PeerKey, held: Held, id: u64) -> Result<(), Refusal> {
        let from = self.key_of[&held.from];
        self.shards[at].hold(peer, Box::new(held))?;
        let serial = self.serial_of(at, peer);
        note!(self, "loop {at} holds {id} for #{serial}");
        self.conns[serial].witness.held_from.insert(from);
        let message = self.history.messages.get_mut(&id).expect("a held message was sent");
        match &mut message.fan_out {
            Some(fan_out) => drop(fan_out.held_for.insert(serial)),
            None => message.fate = Fate::Held,
        }
        Ok(())
    }

    pub(super) fn receive_direct(&mut self, at: usize, mail: &DirectMail, bytes: &[u8]) {
        let slice = |range: &std::ops::Range<u32>| &bytes[Batch::<Delivery>::slice(bytes, range)];
        let text = |range| std::str::from_utf8(slice(range)).unwrap();
        let shares: Vec<NamespaceId> = slice(&mail.shares)
            .as_chunks::<16>()
            .0
            .iter()
            .copied()
            .map(NamespaceId::from_bytes)
            .collect();
        let payload = mail.payload.as_ref().map(text);
        let (id, name) = (id_of(payload), text(&mail.about_name));
        let refused = match self.shards[at].receive(mail, shares.iter().copied()) {
            Route::Local { conn, about } => {
                let about = about.then(|| self.name_of[name]);
                self.deliver(
                    at,
                    conn,
                    Seen::Direct {
                        id,
                        from: self.key_of[&mail.from],
                        about,
                    },
                )
            }
            Route::Hold { peer } => {
                let held = Held {
                    what: HeldKind::Direct(mail.kind, shares.into(), mail.about),
                    from: mail.from,
                    session: mail.session,
                    origin: mail.origin,
                    to: mail.to,
                    name: mail.about.map(|_| name.into()),
                    payload: payload.map(Into::into),
                };
                self.hold(at, peer, held, id)
            }
            Route::Loop { .. } => panic!("a direct message came to the wrong loop"),
            Route::Away { .. } | Route::Ask { .. } => panic!("there is one node"),
            Route::Refused(refusal) => Err(refusal),
        };
        if let Err(refusal) = refused {
            self.note_refused(id, refusal);
            self.shards[at].refuse(mail.origin, mail.from, mail.session, refusal);
        }
    }

    pub(super) fn send_broadcast(&mut self, serial: usize, peer: PeerKey, name: usize, exclude: &[To]) {
        let (at, from_key) = (self.conns[serial].loop_index, self.conns[serial].key);
        let id = self.history.next_id;
        self.history.next_id += 1;
        let namespace = self.homes.namespace(&self.names[name]);
        let broadcast = match self.shards[at].begin_broadcast(peer, namespace, self.now_ms) {
            Ok(broadcast) => broadcast,
            Err(refusal) => return self.tell(serial, Seen::Refused(refusal)),
        };
        let fan_out = FanOut {
            name,
            exclude: exclude.to_vec(),
            expected: self.expected_receivers(serial, name, exclude),
            ..FanOut::default()
        };
        let message = Message {
            from: serial,
            from_key,
            shares: vec![name],
            about: None,
            fate: Fate::UnderWay,
            to: None,
            fan_out: Some(fan_out),
        };
        self.history.messages.insert(id, message);
        let (fingerprint, session) = self.shards[at].identity(peer).expect("a sender is registered");
        let origin = LoopId::new(at as u16);
        let mut hashes: Vec<u64> = exclude.iter().map(|entry| self.exclusion(entry)).collect();
        hashes.sort_unstable();
        let parts = (namespace, fingerprint, session, origin, id);
        let mut refused = self.spread(at, parts, &hashes);
        let loops: Vec<(LoopId, u32)> = self.shards[at].loops_of(namespace).collect();
        assert_eq!(loops.is_empty(), broadcast.sum.is_none());
        let mut unsent = 0;
        for (to, members) in loops {
            let (name, text) = (self.names[name].clone(), id.to_string());
            let bytes = name.len() + text.len() + hashes.len() * 8;
            let Some(batch) = self.links.traffic(at, to, bytes) else {
                note!(self, "over budget: {id} is not mailed to loop {}", to.index());
                refused += members;
                unsent += 1;
                self.fan_out(id).unsent.insert(to.index());
                continue;
            };
            let hash_bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
            let mail = FanOutMail {
                namespace,
                from: fingerprint,
                session,
                origin,
                sum: broadcast.sum.expect("a sum is open if other loops serve members"),
                name: batch.push_bytes(name.as_bytes()),
                payload: batch.push_bytes(text.as_bytes()),
                exclude: batch.push_bytes(&hash_bytes),
            };
            batch.items.push(Delivery::FanOut(mail));
        }
        self.fan_out(id).refused += refused;
        self.shards[at].finish_broadcast(peer, &broadcast, refused, unsent);
    }

    pub(super) fn exclusion(&self, entry: &To) -> u64 {
        match entry {
            To::Key(key) => self.homes.fingerprint_hash(&self.keys[*key]),
            To::Alias(alias) => self.homes.alias_hash(alias),
        }
    }

    pub(super) fn fan_out(&mut self, id: u64) -> &mut FanOut {
        self.history
            .messages
            .get_mut(&id)
            .and_then(|message| message.fan_out.as_mut())
            .unwrap()
    }

    /// Whom the sender knows to be in the namespace, and who knows so too.
    pub(super) fn expected_receivers(&self, sender: usize, name: usize, exclude: &[To]) -> Vec<(usize, u64)> {
        let view = &self.conns[sender].witness.views[&name];
        let others = view
            .members
            .iter()
            .filter(|(key, _)| !exclude.contains(&To::Key(**key)));
        others
            .filter(|(_, serial)| **serial != sender)
            .filter_map(|(_, serial)| Some((*serial, self.conns[*serial].witness.views.get(&name)?.stay)))
            .collect()
    }

    /// Delivers a broadcast to the members on one loop; returns how many could not take it.
    pub(super) fn spread(
        &mut self,
        at: usize,
        (namespace, from, session, origin, id): (NamespaceId, Fingerprint, peer_server::ids::SessionId, LoopId, u64),
        exclude: &[u64],
    ) -> u32 {
        let mut targets: Vec<Target> = Vec::new();
        self.shards[at].broadcast_targets(namespace, &from, exclude, &mut targets);
        let name = self.space_of[&namespace];
        let mut refused = 0;
        for target in targets {
            let result = if target.hold {
                let held = Held {
                    what: HeldKind::Broadcast(namespace),
                    from,
                    session,
                    origin,
                    to: self.shards[at].identity(target.peer).unwrap().0,
                    name: Some(self.names[name].as_ref().into()),
                    payload: Some(id.to_string().into()),
                };
                self.hold(at, target.peer, held, id)
            } else {
                self.deliver(
                    at,
                    target.conn,
                    Seen::Broadcast {
                        id,
                        from: self.key_of[&from],
                        name,
                    },
                )
            };
            if result.is_err() {
                refused += 1;
                let serial = self.serial(at, target.conn).expect("a target is open");
                self.fan_out(id).refused_by.insert(serial);
            }
        }
        refused
    }

    pub(super) fn receive_fan_out(&mut self, at: usize, mail: &FanOutMail, bytes: &[u8]) {
        let slice = |range: &std::ops::Range<u32>| &bytes[Batch::<Delivery>::slice(bytes, range)];
        let exclude: Vec<u64> = slice(&mail.exclude)
            .as_chunks::<8>()
            .0
            .iter()
            .copied()
            .map(u64::from_le_bytes)
            .collect();
        let id = id_of(std::str::from_utf8(slice(&mail.payload)).ok());
        let refused = self.spread(at, (mail.namespace, mail.from, mail.session, mail.origin, id), &exclude);
        self.fan_out(id).refused += refused;
        self.shards[at].answer_fan_out(mail, refused);
    }
}
