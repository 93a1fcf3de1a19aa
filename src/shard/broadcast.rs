//! Broadcasts: whom they reach on this loop and elsewhere, and the sum of those who could not take them.
//!
//! Owns: the open sums of the broadcasts that peers of this shard sent.
//! Never: moves a byte; the event loop delivers to the targets that it is given.

use slab::Slab;

use super::Shard;
use super::mail::{FanOutMail, LoopCount, Mail};
use super::peers::PeerKey;
use crate::ids::{ConnId, Fingerprint, LoopId, NamespaceId, NodeNo, SessionId};
use crate::message::Refusal;

/// Broadcasts of one peer whose refusals are still being counted elsewhere.
pub const OPEN_SUMS_MAX: u16 = 256;

/// An open sum: a place and a number that is never used twice there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SumId {
    slot: u32,
    number: u32,
}

#[derive(Debug)]
struct Sum {
    number: u32,
    peer: PeerKey,
    session: SessionId,
    /// Loops that have not answered.
    outstanding: u32,
    refused: u32,
}

/// The open sums of one shard.
#[derive(Debug, Default)]
pub(super) struct Sums {
    open: Slab<Sum>,
    opened: u32,
}

impl Sums {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}

/// One receiver of a broadcast on this loop.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The receiver.
    pub peer: PeerKey,
    /// Its connection.
    pub conn: ConnId,
    /// It must not see the broadcast before its join is answered: see [`Shard::hold`].
    pub hold: bool,
}

/// A broadcast under way: hand it back to [`Shard::finish_broadcast`].
#[derive(Debug)]
pub struct Broadcast {
    /// Where the loops that it is mailed to report; None: nowhere but here.
    pub sum: Option<SumId>,
    /// How many members it is meant for at most.
    pub members: u32,
}

impl Shard {
    /// May this peer broadcast in this namespace now? Opens a sum if other loops serve members.
    pub fn begin_broadcast(
        &mut self,
        from: PeerKey,
        namespace: NamespaceId,
        now_ms: u64,
    ) -> Result<Broadcast, Refusal> {
        let (rate, id) = (self.limits.deliveries, self.id);
        let peer = self.peers.get_mut(from).filter(|peer| peer.is_member(namespace));
        let (Some(peer), Some(space)) = (peer, self.locals.get(namespace)) else {
            return Err(Refusal::NotInNamespace);
        };
        let all: u32 = space.loops.iter().map(|(_, members)| members).sum();
        let members = all.saturating_sub(1);
        if let Some(rate) = rate
            && !peer.cold().deliveries.take_many(rate, u64::from(members), now_ms)
        {
            return Err(Refusal::RateLimited);
        }
        let waited_for = |loop_id: LoopId| loop_id != id && loop_id.node().is_none();
        let outstanding = space.loops.iter().filter(|(loop_id, _)| waited_for(*loop_id)).count() as u32;
        if outstanding == 0 {
            return Ok(Broadcast { sum: None, members });
        }
        if peer.open_sums >= OPEN_SUMS_MAX {
            return Err(Refusal::RateLimited);
        }
        peer.open_sums += 1;
        let session = peer.session;
        self.sums.opened = self.sums.opened.wrapping_add(1);
        let number = self.sums.opened;
        let slot = self.sums.open.insert(Sum {
            number,
            peer: from,
            session,
            outstanding,
            refused: 0,
        }) as u32;
        Ok(Broadcast {
            sum: Some(SumId { slot, number }),
            members,
        })
    }

    /// The other loops of this node that serve members of the namespace, and how many.
    pub fn loops_of(&self, namespace: NamespaceId) -> impl Iterator<Item = LoopCount> {
        let elsewhere = |loop_id: LoopId| loop_id != self.id && loop_id.node().is_none();
        self.servers_of(namespace)
            .filter(move |(loop_id, _)| elsewhere(*loop_id))
    }

    /// The other nodes that serve members of the namespace, and how many. They are not waited for: what they refuse, they
    /// tell the sender by themselves.
    pub fn nodes_of(&self, namespace: NamespaceId) -> impl Iterator<Item = (NodeNo, u32)> {
        self.servers_of(namespace)
            .filter_map(|(loop_id, members)| Some((loop_id.node()?, members)))
    }

    fn servers_of(&self, namespace: NamespaceId) -> impl Iterator<Item = LoopCount> {
        let loops = self.locals.get(namespace).map_or(&[][..], |space| &space.loops);
        loops.iter().copied()
    }

    /// Whether this loop serves members of the namespace, or such who are about to be.
    pub fn is_served(&self, namespace: NamespaceId) -> bool {
        self.locals.get(namespace).is_some()
    }

    /// Appends the receivers on this loop to `targets`: every member but the sender and the excluded (`exclude` holds
    /// ascending hashes of fingerprints and aliases, see [`crate::ids::Homes`]).
    pub fn broadcast_targets(
        &self,
        namespace: NamespaceId,
        from: &Fingerprint,
        exclude: &[u64],
        targets: &mut Vec<Target>,
    ) {
        let Some(space) = self.locals.get(namespace) else {
            return;
        };
        for key in &space.members {
            self.push_target(*key, from, exclude, false, targets);
        }
        for key in &space.pending {
            if self.peers.get(*key).is_some_and(|peer| !peer.is_member(namespace)) {
                self.push_target(*key, from, exclude, true, targets);
            }
        }
    }

    fn push_target(&self, key: PeerKey, from: &Fingerprint, exclude: &[u64], hold: bool, targets: &mut Vec<Target>) {
        let Some(peer) = self.peers.get(key).filter(|peer| peer.fingerprint != *from) else {
            return;
        };
        if !exclude.is_empty() {
            let named = |hash: u64| exclude.binary_search(&hash).is_ok();
            let by_alias = peer.alias_held && named(self.homes.alias_hash(&peer.info.alias));
            if by_alias || named(self.homes.fingerprint_hash(&peer.fingerprint)) {
                return;
            }
        }
        targets.push(Target {
            peer: key,
            conn: peer.conn,
            hold: hold || peer.is_holding_of(from),
        });
    }

    /// This loop's part is done: `refused` members could not take it, and `unsent` loops could not be told.
    pub fn finish_broadcast(&mut self, from: PeerKey, broadcast: &Broadcast, refused: u32, unsent: u32) {
        match broadcast.sum {
            Some(sum) => self.add_to_sum(sum, refused, unsent),
            None if refused > 0 => self.tell_error(from, Refusal::SendBufferFullFor(refused)),
            None => {}
        }
        self.settle();
    }

    /// A broadcast from another loop was delivered here, except to `refused` members. One from another node has no sum:
    /// its sender is told, if there is something to tell.
    pub fn answer_fan_out(&mut self, mail: &FanOutMail, refused: u32) {
        let answer = match mail.origin.node() {
            None => Mail::FanOutDone { sum: mail.sum, refused },
            Some(_) if refused == 0 => return,
            // Not counted here: the event loop did when it could not deliver.
            Some(_) => Mail::Refused {
                fingerprint: mail.from,
                session: mail.session,
                refusal: Refusal::SendBufferFullFor(refused),
            },
        };
        self.send(mail.origin, answer);
        self.settle();
    }

    pub(super) fn add_to_sum(&mut self, id: SumId, refused: u32, answers: u32) {
        let Some(sum) = self
            .sums
            .open
            .get_mut(id.slot as usize)
            .filter(|sum| sum.number == id.number)
        else {
            self.counters.stale_mail += 1;
            return;
        };
        sum.refused = sum.refused.saturating_add(refused);
        sum.outstanding = sum.outstanding.saturating_sub(answers);
        if sum.outstanding > 0 {
            return;
        }
        let Sum {
            peer, session, refused, ..
        } = self.sums.open.remove(id.slot as usize);
        let Some(sender) = self.peers.get_mut(peer).filter(|sender| sender.session == session) else {
            return;
        };
        sender.open_sums = sender.open_sums.saturating_sub(1);
        if refused > 0 {
            self.tell_error(peer, Refusal::SendBufferFullFor(refused));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::Event;
    use crate::shard::cluster::fixtures::Scene;

    const CONN: ConnId = ConnId::new(1, 1);

    /// A member of a namespace with members on these loops and nodes.
    fn member(loops: &[LoopCount]) -> (Scene, PeerKey, NamespaceId) {
        let mut scene = Scene::new();
        let (peer, _) = scene.peer(1);
        let name = scene.name(0);
        let asker = scene.ask_join(peer, &name).unwrap();
        scene.let_in(asker, &name, loops.to_vec());
        scene.told.clear();
        let namespace = scene.homes.namespace(&name);
        (scene, peer, namespace)
    }

    #[test]
    fn a_broadcast_goes_to_nodes_but_waits_for_loops_alone() {
        let (own, other) = (LoopId::new(0), LoopId::new(1));
        let node = NodeNo::new(3).unwrap();
        let (mut scene, peer, namespace) = member(&[(LoopId::of_node(node), 5), (own, 1), (other, 2)]);
        let loops: Vec<_> = scene.shard.loops_of(namespace).collect();
        let nodes: Vec<_> = scene.shard.nodes_of(namespace).collect();
        assert_eq!((loops, nodes), (vec![(other, 2)], vec![(node, 5)]));
        let broadcast = scene.shard.begin_broadcast(peer, namespace, 0).unwrap();
        assert_eq!(broadcast.members, 7);
        scene.shard.finish_broadcast(peer, &broadcast, 1, 0);
        let (sum, refused) = (broadcast.sum.unwrap(), 2);
        assert_eq!(scene.shard.sums.len(), 1);
        scene.shard.handle_mail(Mail::FanOutDone { sum, refused });
        scene.collect();
        assert_eq!(scene.shard.sums.len(), 0);
        assert_eq!(scene.errors(CONN), [Refusal::SendBufferFullFor(3)]);
    }

    #[test]
    fn with_members_on_nodes_alone_nothing_is_waited_for() {
        let node = NodeNo::new(3).unwrap();
        let (mut scene, peer, namespace) = member(&[(LoopId::new(0), 1), (LoopId::of_node(node), 5)]);
        let broadcast = scene.shard.begin_broadcast(peer, namespace, 0).unwrap();
        assert!(broadcast.sum.is_none() && broadcast.members == 5);
        scene.shard.finish_broadcast(peer, &broadcast, 5, 0);
        scene.collect();
        assert!(matches!(
            scene.told[..],
            [(CONN, Event::Error(Refusal::SendBufferFullFor(5)))]
        ));
    }

    #[test]
    fn the_sender_on_another_node_is_told_only_of_those_who_could_not_take_it() {
        let mut scene = Scene::new();
        let node = LoopId::of_node(NodeNo::new(3).unwrap());
        let (from, session) = (Fingerprint::of_key("sender"), SessionId::new(LoopId::new(0), 1));
        let mail = FanOutMail {
            namespace: scene.homes.namespace("lobby"),
            from,
            session,
            origin: node,
            sum: SumId { slot: 0, number: 0 },
            name: 0..0,
            payload: 0..0,
            exclude: 0..0,
        };
        scene.shard.answer_fan_out(&mail, 0);
        scene.shard.answer_fan_out(&mail, 4);
        scene.collect();
        assert_eq!(scene.mail.len(), 1);
        let Some((
            to,
            Mail::Refused {
                fingerprint, refusal, ..
            },
        )) = scene.mail.pop_front()
        else {
            panic!();
        };
        assert_eq!((to, fingerprint, refusal), (node, from, Refusal::SendBufferFullFor(4)));
    }
}
