//! Holding back: what reaches a peer through a join that is not answered yet waits for the answer.
//!
//! Owns: the bounds of what is held for a peer, and what becomes of it when the join is answered.
//! Never: decides whether a message must wait (see `route`, `broadcast`).

use super::Shard;
use super::membership::Share;
use super::output::{Held, HeldKind, Output};
use super::peers::{Kept, PeerKey};
use crate::ids::NamespaceId;
use crate::message::Refusal;

impl Shard {
    /// Keeps traffic that came through a pending join (or behind such of the same sender), within the send buffer's bounds.
    pub fn hold(&mut self, key: PeerKey, held: Box<Held>) -> Result<(), Refusal> {
        let (messages, bytes) = (self.limits.send_buffer_size, self.limits.send_buffer_bytes);
        let Some(peer) = self.peers.get_mut(key) else {
            return Err(Refusal::PeerNotFound);
        };
        let cold = peer.cold();
        if cold.held.len() >= messages || cold.held_bytes + held.bytes() > bytes {
            return Err(Refusal::PeerBufferFull);
        }
        cold.held_bytes += held.bytes();
        cold.held.push_back(Kept::Traffic(held));
        Ok(())
    }

    /// After a join was answered: what was held is told, delivered, refused or dropped, in order.
    pub(super) fn release_held(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        let conn = peer.conn;
        let Some(cold) = peer.cold.as_mut() else { return };
        cold.held_bytes = 0;
        for kept in std::mem::take(&mut cold.held) {
            let Some(peer) = self.peers.get(key) else { return };
            let mut held = match kept {
                Kept::Traffic(held) => held,
                // It may have been kicked from there meanwhile; to come back takes a request, and it was waiting.
                Kept::Presence(namespace, ..) if !peer.is_member(namespace) => continue,
                Kept::Presence(_, _, event) => {
                    self.tell(conn, event);
                    continue;
                }
            };
            let reaches = match &held.what {
                HeldKind::Direct(_, shares, about) => {
                    // As without the wait: only what both are in is passed on (D25).
                    let both = |about: NamespaceId| peer.is_member(about) && shares.binary_search(&about).is_ok();
                    if !about.is_some_and(both) {
                        held.name = None;
                    }
                    peer.shared_with(shares.iter().copied()) == Share::Member
                }
                HeldKind::Broadcast(namespace) => peer.is_member(*namespace),
            };
            match held.what {
                _ if reaches => self.outputs.push_back(Output::Deliver { conn, held }),
                HeldKind::Direct(..) => {
                    self.mail_refusal(held.origin, held.from, held.session, Refusal::NoSharedNamespace);
                }
                // The joiner was not let in: it was never one of those whom the broadcast was for.
                HeldKind::Broadcast(_) => {}
            }
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.drop_idle_cold();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::VecDeque;
    use std::sync::Arc;

    use super::*;
    use crate::ids::{ConnId, Fingerprint, Homes, LoopId};
    use crate::message::{DirectKind, Meta, Register, Request};
    use crate::shard::{Limits, Mail, Permits, Route};

    /// Two shards with one queue of mail between them.
    struct Pair {
        homes: Homes,
        shards: [Shard; 2],
        mail: VecDeque<(LoopId, Mail)>,
        delivered: Vec<Held>,
    }

    impl Pair {
        fn new() -> Self {
            let homes = Homes::new(2, [1, 2, 3, 4]);
            let limits = Arc::new(Limits {
                max_peers: 10,
                max_rooms: 10,
                max_match_waiting: 10,
                messages: None,
                deliveries: None,
                send_buffer_size: 32,
                send_buffer_bytes: 1 << 20,
                state_bytes: 1 << 30,
            });
            let permits = Arc::new(Permits::default());
            let shard = |index| {
                Shard::new(
                    LoopId::new(index),
                    homes.clone(),
                    limits.clone(),
                    permits.clone(),
                    [0; 32],
                )
            };
            Self {
                shards: [shard(0), shard(1)],
                homes: homes.clone(),
                mail: VecDeque::new(),
                delivered: Vec::new(),
            }
        }

        fn collect(&mut self) {
            for shard in &mut self.shards {
                while let Some(output) = shard.poll_output() {
                    match output {
                        Output::Mail { to, mail } => self.mail.push_back((to, mail)),
                        Output::Deliver { held, .. } => self.delivered.push(*held),
                        _ => {}
                    }
                }
            }
        }

        fn settle(&mut self) {
            self.collect();
            while let Some((to, mail)) = self.mail.pop_front() {
                self.shards[to.index()].handle_mail(mail);
                self.collect();
            }
        }

        /// A new peer of loop 0.
        fn peer(&mut self, slot: u32) -> (PeerKey, Fingerprint) {
            let mut keys = (0..).map(|number| Fingerprint::of_key(&format!("{slot} {number}")));
            let fingerprint = keys.find(|key| self.homes.of_fingerprint(key).index() == 0).unwrap();
            let register = Register {
                fingerprint,
                alias: "".into(),
                meta: Meta::default(),
            };
            self.shards[0].register(ConnId::new(slot, 1), register);
            self.settle();
            (self.shards[0].peers.find(&fingerprint).unwrap(), fingerprint)
        }

        /// The `number`th name that is at home on loop 1.
        fn name(&self, number: usize) -> String {
            let mut names = (0..).map(|number: u32| format!("namespace {number}"));
            let away = |name: &String| self.homes.of_namespace(self.homes.namespace(name)).index() == 1;
            names.by_ref().filter(away).nth(number).unwrap()
        }

        fn join(&mut self, key: PeerKey, namespace: &str) {
            let (app_type, meta) = ("", Meta::default());
            let join = Request::Join {
                namespace,
                app_type,
                meta,
            };
            self.shards[0].handle_request(key, join);
        }
    }

    #[test]
    fn a_held_message_names_only_a_namespace_that_its_sender_is_in() {
        let mut pair = Pair::new();
        let (shared, foreign) = (pair.name(0), pair.name(1));
        let ((sender, from), (target, to)) = (pair.peer(1), pair.peer(2));
        pair.join(sender, &shared);
        pair.join(target, &foreign);
        pair.settle();
        pair.join(target, &shared);
        for (about, name) in [(&foreign, "foreign"), (&shared, "shared")] {
            let about = Some(pair.homes.namespace(about));
            assert_eq!(pair.shards[0].route(sender, &to, about), Route::Hold { peer: target });
            let held = Held {
                what: HeldKind::Direct(DirectKind::Signal, pair.shards[0].shares(sender).collect(), about),
                from,
                session: pair.shards[0].identity(sender).unwrap().1,
                origin: LoopId::new(0),
                to,
                name: Some(name.into()),
                payload: None,
            };
            pair.shards[0].hold(target, Box::new(held)).unwrap();
        }
        pair.settle();
        let names: Vec<_> = pair.delivered.iter().map(|held| held.name.as_deref()).collect();
        assert_eq!(names, [None, Some("shared")]);
    }
}
