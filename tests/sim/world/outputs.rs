//! A shell's way out: a shard's outputs, and the bounds of what a client has not read.
//!
//! Owns: the events as clients see them, and the closing of connections that read too slowly.
//! Never: lets an event pass that the checkers have not looked at.

use super::*;

impl World {
    /// A loop handles one item of its inbox.
    pub(crate) fn handle(&mut self, at: usize) -> bool {
        let Some((item, bytes)) = self.links.next(at) else {
            return false;
        };
        note!(self, "loop {at} handles {item:?}");
        match item {
            Delivery::Mail(mail) => self.shards[at].handle_mail(mail),
            Delivery::Direct(mail) => self.receive_direct(at, &mail, &bytes),
            Delivery::FanOut(mail) => self.receive_fan_out(at, &mail, &bytes),
        }
        self.drain(at);
        true
    }

    pub(super) fn serial(&self, at: usize, conn: ConnId) -> Option<usize> {
        let slot = self.slots[at].get(conn.slot())?;
        slot.serial.filter(|_| slot.generation == conn.generation())
    }

    pub(super) fn serial_of(&self, at: usize, peer: PeerKey) -> usize {
        let is_it = |serial: &&usize| {
            let conn = &self.conns[**serial];
            conn.loop_index == at && conn.phase == Phase::Open(peer)
        };
        let serial = *self.live.iter().find(is_it).expect("a peer has its connection");
        let identity = self.shards[at].identity(peer).expect("a peer is registered");
        assert_eq!(identity.0, self.keys[self.conns[serial].key]);
        serial
    }

    /// Does what a shard says must be done.
    pub(super) fn drain(&mut self, at: usize) {
        while let Some(output) = self.shards[at].poll_output() {
            match output {
                Output::Registered { conn, peer } => {
                    let serial = self.serial(at, conn).expect("a registered connection is open");
                    assert_eq!(self.conns[serial].phase, Phase::Registering);
                    let key = self.conns[serial].key;
                    let same = |other: &&usize| {
                        let other = &self.conns[**other];
                        other.key == key && matches!(other.phase, Phase::Open(_))
                    };
                    assert_eq!(self.live.iter().find(same), None, "two sessions of one key");
                    self.conns[serial].phase = Phase::Open(peer);
                }
                Output::RegistrationRefused { conn, refusal } => {
                    let serial = self.serial(at, conn).expect("a refused connection is open");
                    self.observe(serial, Seen::NotRegistered(refusal));
                    self.forget(serial);
                }
                Output::Event { conn, event } => {
                    let seen = self.translate(event);
                    self.tell_conn(at, conn, seen);
                }
                Output::FanOut { targets, event } | Output::Presence { targets, event, .. } => {
                    let targets = self.shards[at].targets(targets).to_vec();
                    assert!(!targets.is_empty());
                    let seen = self.translate(event);
                    targets
                        .into_iter()
                        .for_each(|conn| self.tell_conn(at, conn, seen.clone()));
                }
                Output::Deliver { conn, held } => self.deliver_held(at, conn, &held),
                Output::Resolved { peer, to, message } => {
                    let serial = self.serial_of(at, peer);
                    self.route(serial, peer, to.ok(), &message);
                }
                Output::Mail { to, mail } => self.links.control(at, to, mail),
                Output::Command(_) | Output::Forward { .. } => unreachable!("one node alone has no broker"),
                Output::Resume(conn) => match self.serial(at, conn) {
                    Some(serial) => {
                        self.conns[serial].wait = None;
                        self.resumed.push(serial);
                    }
                    None => assert!(self.hung_up.contains(&conn)),
                },
                Output::Close { conn, code, .. } => match self.serial(at, conn) {
                    Some(serial) => {
                        self.observe(serial, Seen::Closed(code));
                        self.forget(serial);
                    }
                    None => assert!(self.hung_up.contains(&conn)),
                },
            }
        }
        self.hung_up.clear();
        for serial in std::mem::take(&mut self.resumed) {
            self.conns[serial].witness.held_from.clear();
        }
        self.shards[at].check_invariants();
    }

    /// What was held back was within the bounds then: like a message of the server it is not refused for lack of room.
    pub(super) fn deliver_held(&mut self, at: usize, conn: ConnId, held: &Held) {
        let (id, from) = (id_of(held.payload.as_deref()), self.key_of[&held.from]);
        let about = held.name.as_deref().map(|name| self.name_of[name]);
        let seen = match held.what {
            HeldKind::Direct(..) => Seen::Direct { id, from, about },
            HeldKind::Broadcast(_) => Seen::Broadcast {
                id,
                from,
                name: about.expect("a broadcast's is set"),
            },
        };
        if self.serial(at, conn).is_some() && !self.is_overfull(at, conn) {
            return self.tell_conn(at, conn, seen);
        }
        // The connection was closed for reading too slowly, a moment ago or by this very message.
        self.tell_conn(at, conn, seen);
        if let HeldKind::Direct(..) = held.what {
            self.note_refused(id, Refusal::PeerNotFound);
            self.shards[at].refuse(held.origin, held.from, held.session, Refusal::PeerNotFound);
        }
    }

    pub(super) fn is_overfull(&self, at: usize, conn: ConnId) -> bool {
        let serial = self.serial(at, conn);
        serial.is_some_and(|serial| self.conns[serial].buffered > self.settings.send_buffer_size * 4)
    }

    pub(super) fn tell_conn(&mut self, at: usize, conn: ConnId, seen: Seen) {
        match self.serial(at, conn) {
            Some(serial) => self.tell(serial, seen),
            None => assert!(self.hung_up.contains(&conn), "{seen:?} for a connection that is closed"),
        }
    }

    /// The server's own words: four times the room that peers' messages have, and always one more.
    pub(super) fn tell(&mut self, serial: usize, seen: Seen) {
        let conn = &mut self.conns[serial];
        if conn.buffered > self.settings.send_buffer_size * 4 {
            let Phase::Open(peer) = conn.phase else { return };
            let (at, id) = (conn.loop_index, conn.id);
            note!(self, "#{serial} reads too slowly");
            self.observe(serial, Seen::Closed(CLOSE_TRY_AGAIN));
            self.forget(serial);
            self.hung_up.push(id);
            return self.shards[at].close(peer);
        }
        conn.buffered += 1;
        if let (Seen::Refused(_), Phase::Open(peer)) = (&seen, conn.phase) {
            assert!(
                !self.shards[conn.loop_index].is_waiting(peer),
                "a refusal during the wait for an answer"
            );
        }
        self.observe(serial, seen);
    }

    /// A peer's words.
    pub(super) fn deliver(&mut self, at: usize, conn: ConnId, seen: Seen) -> Result<(), Refusal> {
        let serial = self.serial(at, conn).expect("a message goes to an open connection");
        let conn = &mut self.conns[serial];
        if conn.buffered >= self.settings.send_buffer_size {
            return Err(Refusal::PeerBufferFull);
        }
        conn.buffered += 1;
        self.observe(serial, seen);
        Ok(())
    }

    pub(super) fn observe(&mut self, serial: usize, seen: Seen) {
        note!(self, "    #{serial} <- {seen:?}");
        let conn = &mut self.conns[serial];
        assert_ne!(conn.phase, Phase::Closed, "{seen:?} on a closed connection");
        let me = Me { serial, key: conn.key };
        self.history.observe(me, &mut conn.witness, &mut conn.wait, &seen);
        if let Seen::Registered { alias } = &seen {
            let (wanted, key) = (&conn.wanted_alias, conn.key);
            assert!(wanted.is_empty() || wanted == alias, "an alias that nobody asked for");
            if wanted.is_empty() {
                let made = self.made.entry(key).or_insert_with(|| alias.clone());
                assert!(
                    self.settings.steal_made || made == alias,
                    "a made alias is the fingerprint's"
                );
            }
            let own = alias.starts_with("own-");
            if !own && !self.shown_aliases.contains(alias) && self.shown_aliases.len() < 32 {
                self.shown_aliases.push(alias.clone());
            }
        }
        if let Seen::Created { name, .. } = &seen {
            self.owners.push((serial, *name));
        }
        if self.keep_logs {
            conn.log.push(seen);
        }
    }

    pub(super) fn translate(&self, event: Event) -> Seen {
        let name_of = |name: &str| self.name_of[name];
        let shown = |peers: &[Arc<PeerInfo>]| peers.iter().map(|peer| self.shown(peer)).collect::<Vec<_>>();
        match event {
            Event::Registered { alias, .. } => Seen::Registered {
                alias: alias.to_string(),
            },
            Event::PeerList {
                namespace,
                peers,
                total,
            } => {
                let (name, peers) = (name_of(&namespace), shown(&peers));
                Seen::List { name, peers, total }
            }
            Event::PeerJoined { namespace, peer } => Seen::Joined {
                name: name_of(&namespace),
                peer: self.shown(&peer),
            },
            Event::PeerLeft { namespace, fingerprint } => Seen::Left {
                name: name_of(&namespace),
                key: self.key_of[&fingerprint],
            },
            Event::MatchWaiting => Seen::Waiting,
            Event::Matched(matched) => Seen::Matched {
                name: name_of(&matched.namespace),
                session: matched.session,
                peers: shown(&matched.peers),
            },
            Event::RoomCreated { room, max_size, owner } => Seen::Created {
                name: name_of(&room),
                max: max_size,
                owner: self.key_of[&owner],
            },
            Event::RoomInfo {
                room,
                peer_count,
                max_size,
                owner,
            } => Seen::Described {
                name: name_of(&room),
                count: peer_count,
                max: max_size,
                owner: self.key_of[&owner],
            },
            Event::Kicked { room, owner, target } => {
                assert!(self.key_of.contains_key(&target));
                Seen::Kicked {
                    name: name_of(&room),
                    owner: self.key_of[&owner],
                }
            }
            Event::Error(refusal) => Seen::Refused(refusal),
        }
    }

    pub(super) fn shown(&self, peer: &PeerInfo) -> Shown {
        let entries: Vec<String> = peer
            .meta
            .entries()
            .map(|(name, value)| format!("{name}:{value}"))
            .collect();
        let serial = peer.meta.entries().find(|(name, _)| *name == "\"c\"").unwrap().1;
        Shown {
            key: self.key_of[&peer.fingerprint],
            serial: serial.parse().unwrap(),
            alias: peer.alias.to_string(),
            app: peer.app_type.to_string(),
            meta: entries.join(","),
        }
    }
}
