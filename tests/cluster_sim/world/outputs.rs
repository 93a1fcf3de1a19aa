//! A shell's way out: a shard's outputs, and the events as clients see them.
//!
//! Owns: the closing of connections that the server closes.
//! Never: lets an event pass that the checkers have not looked at.

use peer_server::shard::Held;

use super::*;

impl World {
    /// A loop handles one item of its inbox.
    pub(super) fn handle(&mut self, n: usize, at: usize) {
        let Some((item, bytes)) = self.nodes[n].links.next(at) else {
            return;
        };
        note!(self, "node {n} loop {at} handles {item:?}");
        match item {
            Delivery::Mail(mail) => self.nodes[n].shards[at].handle_mail(mail),
            Delivery::Direct(mail) => self.receive_direct(n, at, &mail, &bytes),
            Delivery::FanOut(mail) => self.receive_fan_out(n, at, &mail, &bytes),
        }
        self.drain(n, at);
    }

    /// Does what a shard says must be done.
    pub(super) fn drain(&mut self, n: usize, at: usize) {
        while let Some(output) = self.nodes[n].shards[at].poll_output() {
            self.carry_out(n, at, output);
        }
        self.nodes[n].shards[at].check_invariants();
    }

    fn carry_out(&mut self, n: usize, at: usize, output: Output) {
        match output {
            Output::Registered { conn, peer } => {
                let serial = self.serial(n, at, conn).expect("a registered connection is open");
                assert_eq!(self.conns[serial].phase, Phase::Registering);
                let key = self.conns[serial].key;
                let same = |other: &&usize| {
                    let other = &self.conns[**other];
                    (other.node, other.key) == (n, key) && matches!(other.phase, Phase::Open(_))
                };
                assert_eq!(self.live.iter().find(same), None, "two sessions of one key on one node");
                self.conns[serial].phase = Phase::Open(peer);
            }
            Output::RegistrationRefused { conn, refusal } => {
                let serial = self.serial(n, at, conn).expect("a refused connection is open");
                self.observe(serial, Seen::NotRegistered(refusal));
                self.forget(serial);
            }
            Output::Event { conn, event } => {
                let seen = self.translate(event);
                self.tell_conn(n, at, conn, seen);
            }
            Output::FanOut { targets, event } | Output::Presence { targets, event, .. } => {
                let targets = self.nodes[n].shards[at].targets(targets).to_vec();
                let seen = self.translate(event);
                targets
                    .into_iter()
                    .for_each(|conn| self.tell_conn(n, at, conn, seen.clone()));
            }
            Output::Deliver { conn, held } => self.deliver_held(n, at, conn, &held),
            Output::Resolved { peer, to, message } => {
                let serial = self.serial_of(n, at, peer);
                self.route(serial, peer, to, &message);
            }
            Output::Mail { to, mail } => self.send_mail(n, at, to, mail),
            Output::Forward { node, held } => self.forward(n, node, &held),
            Output::Command(command) => {
                note!(self, "node {n} asks {:?}", command.what);
                self.nodes[n].commands.push_back(*command);
            }
            Output::Resume(conn) => {
                let serial = self.serial(n, at, conn).expect("who goes on is open");
                let wait = self.conns[serial].wait.take().expect("who goes on has waited");
                self.history.resumed(&mut self.conns[serial].witness, &wait);
            }
            Output::Close { conn, code, .. } => {
                let serial = self.serial(n, at, conn).expect("who is closed is open");
                self.observe(serial, Seen::Closed(code));
                self.forget(serial);
            }
        }
    }

    fn deliver_held(&mut self, n: usize, at: usize, conn: ConnId, held: &Held) {
        let seen = self.seen_of_held(held);
        self.tell_conn(n, at, conn, seen);
    }

    pub(super) fn tell_conn(&mut self, n: usize, at: usize, conn: ConnId, seen: Seen) {
        let serial = self.serial(n, at, conn).expect("an event goes to an open connection");
        self.observe(serial, seen);
    }

    pub(super) fn observe(&mut self, serial: usize, seen: Seen) {
        note!(self, "    #{serial} <- {seen:?}");
        let conn = &mut self.conns[serial];
        let me = Me { serial, key: conn.key };
        self.history.observe(me, &mut conn.witness, &mut conn.wait, &seen);
        if let Seen::Registered { alias } = &seen
            && !alias.starts_with("own-")
            && !self.shown_aliases.contains(alias)
            && self.shown_aliases.len() < 32
        {
            self.shown_aliases.push(alias.clone());
        }
        if let Seen::Created { name, .. } = &seen {
            self.owners.push((serial, *name));
        }
        self.conns[serial].log.push(seen);
    }

    fn translate(&self, event: Event) -> Seen {
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
            Event::Kicked { room, owner, .. } => Seen::Kicked {
                name: name_of(&room),
                owner: self.key_of[&owner],
            },
            Event::Error(refusal) => Seen::Refused(refusal),
        }
    }

    pub(super) fn shown(&self, peer: &PeerInfo) -> Shown {
        let entries: Vec<String> = peer
            .meta
            .entries()
            .map(|(name, value)| format!("{name}:{value}"))
            .collect();
        Shown {
            key: self.key_of[&peer.fingerprint],
            serial: serial_of_info(peer),
            alias: peer.alias.to_string(),
            app: peer.app_type.to_string(),
            meta: entries.join(","),
        }
    }
}

/// The connection that a shown peer is of: it says so in its metadata.
pub(super) fn serial_of_info(peer: &PeerInfo) -> usize {
    let serial = peer.meta.entries().find(|(name, _)| *name == "\"c\"").unwrap().1;
    serial.parse().unwrap()
}
