//! Requests: what a peer asks of a home, and the wait for the answer.
//!
//! Owns: which mail a request becomes, that a peer has one request under way at most, and what it is told when the answer is
//! there.
//! Never: keeps a membership (see `membership`), or answers in a home's place (see `namespaces`, `rooms`, `matchmaking`).

use std::sync::Arc;

use compact_str::CompactString;

use super::Shard;
use super::aliases::looks_like_fingerprint;
use super::mail::{Answer, Ask, Asker, Mail};
use super::membership::{JOIN_META_MAX, JoinExtra, shown};
use super::output::{Output, Unresolved};
use super::peers::{PeerKey, Waiting, WaitingFor};
use crate::ids::{ConnId, Fingerprint, NamespaceId};
use crate::message::{Event, LIST_MAX, Meta, Refusal, Request};

impl Shard {
    /// A request of a registered peer that is not waiting. Answers, perhaps after mail, by outputs.
    pub fn handle_request(&mut self, key: PeerKey, request: Request<'_>) {
        match request {
            _ if !self.cluster_ready() && needs_broker(&request) => {
                self.tell_error(key, Refusal::BrokerUnavailable);
                // While it is there, nobody is refused for long.
                self.tell_sessions();
            }
            Request::Join {
                namespace,
                app_type,
                meta,
            } => self.ask_join(key, namespace, app_type, meta, false),
            Request::JoinRoom { room } => self.ask_join(key, room, "room", Meta::default(), true),
            Request::CreateRoom { room, max_size } => self.ask_create_room(key, room, max_size),
            Request::Leave { namespace } => self.ask_leave(key, namespace),
            Request::Discover { namespace, limit } => {
                let limit = limit.min(LIST_MAX);
                self.ask(key, namespace, WaitingFor::Other, Ask::Discover { limit });
            }
            Request::RoomInfo { room } => self.ask(key, room, WaitingFor::Other, Ask::RoomInfo),
            Request::Kick { room, target } => self.ask(key, room, WaitingFor::Other, Ask::Kick { target }),
            Request::Match {
                namespace,
                group_size,
                criteria,
            } => {
                self.ask_match(key, namespace, group_size, criteria);
            }
            Request::Metadata { update } => self.change_metadata(key, &update),
        }
        self.settle();
    }

    /// Sends a request to the home of `name`; the peer waits from here on.
    fn ask(&mut self, key: PeerKey, name: &str, what: WaitingFor, ask: Ask) {
        let namespace = self.homes.namespace(name);
        self.ask_home(key, namespace, Some(name.into()), what, ask);
    }

    /// Sends a request to the home of `namespace`; the peer waits from here on. `name` is for the answer's event.
    pub(super) fn ask_home(
        &mut self,
        key: PeerKey,
        namespace: NamespaceId,
        name: Option<Arc<str>>,
        what: WaitingFor,
        ask: Ask,
    ) {
        let waiting = Waiting {
            namespace: Some(namespace),
            name,
            what,
        };
        if let Some(asker) = self.wait(key, waiting) {
            self.send(self.homes.of_namespace(namespace), Mail::Ask { asker, namespace, ask });
        }
    }

    fn wait(&mut self, key: PeerKey, waiting: Waiting) -> Option<Asker> {
        let loop_id = self.id;
        let peer = self.peers.get_mut(key)?;
        let (fingerprint, session) = (peer.fingerprint, peer.session);
        debug_assert!(!peer.waiting(), "a waiting peer asked again");
        peer.requests = peer.requests.wrapping_add(1);
        peer.cold().waiting = Some(waiting);
        Some(Asker {
            loop_id,
            fingerprint,
            session,
            peer: Some(key),
            request: peer.requests,
        })
    }

    fn ask_join(&mut self, key: PeerKey, name: &str, app_type: &str, meta: Meta, room: bool) {
        let namespace = self.homes.namespace(name);
        let extra = JoinExtra {
            app_type: app_type.into(),
            meta,
        };
        if self.join_meta_bytes(key, namespace) + extra.meta.json_len() > JOIN_META_MAX {
            return self.tell_error(key, Refusal::MetadataTooLarge);
        }
        let crowded = self.is_crowded(key, namespace);
        let Some(peer) = self.peers.get(key) else { return };
        let info = shown(&peer.info, Some(&extra));
        let name: Arc<str> = name.into();
        self.note_pending(key, namespace, &name);
        let ask = Ask::Join {
            name: name.clone(),
            info,
            room,
            crowded,
        };
        self.ask_home(key, namespace, Some(name), WaitingFor::Join(extra.boxed()), ask);
    }

    fn ask_create_room(&mut self, key: PeerKey, name: &str, max_size: u32) {
        let namespace = self.homes.namespace(name);
        let crowded = self.is_crowded(key, namespace);
        let extra = JoinExtra {
            app_type: "room".into(),
            meta: Meta::default(),
        };
        let Some(peer) = self.peers.get(key) else { return };
        let info = shown(&peer.info, Some(&extra));
        let name: Arc<str> = name.into();
        self.note_pending(key, namespace, &name);
        let ask = Ask::CreateRoom {
            name: name.clone(),
            info,
            max_size,
            crowded,
        };
        self.ask_home(key, namespace, Some(name), WaitingFor::Join(extra.boxed()), ask);
    }

    fn ask_leave(&mut self, key: PeerKey, name: &str) {
        let namespace = self.homes.namespace(name);
        // Leaving what one is not in is silence for all: clients leave rooms that they were kicked from.
        if !self.drop_membership(key, namespace) {
            return;
        }
        self.ask_home(key, namespace, None, WaitingFor::Leave, Ask::Leave);
    }

    /// A namespace's home answered.
    pub(super) fn on_answer(&mut self, asker: Asker, namespace: NamespaceId, answer: Answer) {
        let Some((key, conn, waiting)) = self.awaited(&asker) else {
            return;
        };
        let Waiting { name, what, .. } = waiting;
        let name = name.unwrap_or_default();
        match (answer, what) {
            (Answer::Joined { peers, total, loops }, WaitingFor::Join(extra)) => {
                self.end_pending(key, namespace, Some(extra));
                self.set_loops(namespace, loops);
                self.tell(
                    conn,
                    Event::PeerList {
                        namespace: name,
                        peers,
                        total,
                    },
                );
            }
            (Answer::Created { max_size, peers, loops }, WaitingFor::Join(extra)) => {
                self.end_pending(key, namespace, Some(extra));
                self.set_loops(namespace, loops);
                self.tell(
                    conn,
                    Event::RoomCreated {
                        room: name.clone(),
                        max_size,
                        owner: asker.fingerprint,
                    },
                );
                for peer in peers {
                    let namespace = name.clone();
                    self.tell(conn, Event::PeerJoined { namespace, peer });
                }
            }
            (Answer::Refused(refusal), WaitingFor::Join(_)) => {
                self.end_pending(key, namespace, None);
                self.tell(conn, Event::Error(refusal));
            }
            (Answer::Listed { peers, total }, _) => self.tell(
                conn,
                Event::PeerList {
                    namespace: name,
                    peers,
                    total,
                },
            ),
            (
                Answer::Described {
                    peer_count,
                    max_size,
                    owner,
                },
                _,
            ) => {
                self.tell(
                    conn,
                    Event::RoomInfo {
                        room: name,
                        peer_count,
                        max_size,
                        owner,
                    },
                );
            }
            (Answer::Waiting, _) => {
                self.note_ticket(key, namespace);
                self.tell(conn, Event::MatchWaiting);
            }
            // Its match is on its way: until then the broker may be asked for it again.
            (Answer::Done, WaitingFor::Match) if self.is_clustered() => self.note_ticket(key, namespace),
            (Answer::Refused(refusal), WaitingFor::Match) => {
                // The home took the earlier request of this namespace back before it refused the new one.
                self.forget_ticket(key, namespace);
                self.tell(conn, Event::Error(refusal));
            }
            (Answer::Refused(refusal), _) => self.tell(conn, Event::Error(refusal)),
            (Answer::Done | Answer::Joined { .. } | Answer::Created { .. }, _) => {}
        }
        self.resume(key, conn);
        self.release_held(key);
    }

    /// The peer, connection and request that an answer belongs to; the request is no longer waiting.
    fn awaited(&mut self, asker: &Asker) -> Option<(PeerKey, ConnId, Waiting)> {
        let peer = self.peers.in_session(asker.peer, asker.session);
        let conn = peer.as_ref().map(|peer| peer.conn);
        let cold = peer
            .filter(|peer| peer.requests == asker.request)
            .and_then(|peer| peer.cold.as_mut());
        let waiting = cold.and_then(|cold| cold.waiting.take());
        if waiting.is_none() {
            self.counters.stale_mail += 1;
        }
        Some((asker.peer?, conn?, waiting?))
    }

    /// Tells what was kept back during the wait and lets the connection go on.
    fn resume(&mut self, key: PeerKey, conn: ConnId) {
        let cold = self.peers.get_mut(key).and_then(|peer| peer.cold.as_mut());
        let deferred = cold.map(|cold| std::mem::take(&mut cold.deferred)).unwrap_or_default();
        for refusal in deferred {
            self.tell(conn, Event::Error(refusal));
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.drop_idle_cold();
        }
        self.outputs.push_back(Output::Resume(conn));
        if self.is_clustered() {
            self.resume_answered(key);
        }
    }

    /// Looks up an alias for a signal or relay; the peer waits, then [`Output::Resolved`] comes.
    pub fn resolve_alias(&mut self, key: PeerKey, alias: &str, message: Box<Unresolved>) {
        let waiting = Waiting {
            namespace: None,
            name: None,
            what: WaitingFor::Alias(message),
        };
        if let Some(asker) = self.wait(key, waiting) {
            self.send(
                self.homes.of_alias(alias),
                Mail::ResolveAlias {
                    alias: alias.into(),
                    asker,
                },
            );
        }
        self.settle();
    }

    /// At an alias's home: whose is it?
    pub(super) fn on_resolve_alias(&mut self, alias: CompactString, asker: Asker) {
        let holder = match looks_like_fingerprint(&alias) {
            true => Err(Refusal::PeerNotFound),
            false => match self.aliases.resolve(&alias) {
                None => return self.resolve_away(alias, asker),
                Some(holder) => Ok(holder),
            },
        };
        self.send(asker.loop_id, Mail::AliasResolved { asker, holder });
    }

    pub(super) fn on_alias_resolved(&mut self, asker: Asker, holder: Result<Fingerprint, Refusal>) {
        let Some((peer, conn, waiting)) = self.awaited(&asker) else {
            return;
        };
        if let WaitingFor::Alias(message) = waiting.what {
            self.outputs.push_back(Output::Resolved {
                peer,
                to: holder,
                message,
            });
        }
        self.resume(peer, conn);
    }
}

/// Whether a request is refused while the broker does not know the sessions of this shard. What leaves is let go, how one is
/// shown is told with the session, and what only looks is answered by the home, which may know enough.
fn needs_broker(request: &Request<'_>) -> bool {
    match request {
        Request::Join { .. }
        | Request::JoinRoom { .. }
        | Request::CreateRoom { .. }
        | Request::Kick { .. }
        | Request::Match { .. } => true,
        Request::Leave { .. } | Request::Discover { .. } | Request::RoomInfo { .. } | Request::Metadata { .. } => false,
    }
}
