//! Peers on other nodes: where they are, and what waits until that is known.
//!
//! Owns: the cached answers of the broker's directory for keys whose home is this shard, and the messages kept meanwhile.
//! Never: sends anything; the event loop does.

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashMap;

use super::Asked;
use crate::ids::{CommandId, Fingerprint, Homes, LoopId, NodeNo};
use crate::message::Refusal;
use crate::message::cluster::{Reply, What};
use crate::shard::output::{Held, Output};
use crate::shard::{Route, Shard};

/// Places that are remembered: those learned last, and as many of before.
const ROUTES_HALF_MAX: usize = 32_768;
/// Bytes of messages that wait in one shard for the place of their target.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

type Routes = HashMap<Fingerprint, NodeNo, RandomState>;

/// Where peers are that are not here.
#[derive(Debug)]
pub(super) struct Away {
    /// Learned since the last turn. A full one takes the place of `earlier`, which is forgotten: so the bound is kept
    /// without a search for what was used least.
    recent: Routes,
    earlier: Routes,
    /// Peers that are being looked for: none of them has a known place.
    sought: HashMap<Fingerprint, Sought, RandomState>,
    /// Bytes of all that is kept.
    kept_bytes: usize,
}

/// A peer that is being looked for, and what is kept for it, oldest first.
#[derive(Debug)]
struct Sought {
    command: CommandId,
    /// It came or went since that was asked: the answer may be older.
    changed: bool,
    kept: VecDeque<Box<Held>>,
    bytes: usize,
}

impl Away {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            recent: HashMap::with_hasher(homes.hasher()),
            earlier: HashMap::with_hasher(homes.hasher()),
            sought: HashMap::with_hasher(homes.hasher()),
            kept_bytes: 0,
        }
    }

    fn find(&self, to: &Fingerprint) -> Option<NodeNo> {
        self.recent.get(to).or_else(|| self.earlier.get(to)).copied()
    }

    fn learn(&mut self, to: Fingerprint, node: NodeNo) {
        if self.recent.len() >= ROUTES_HALF_MAX {
            std::mem::swap(&mut self.recent, &mut self.earlier);
            self.recent.clear();
        }
        self.recent.insert(to, node);
    }

    fn forget(&mut self, to: &Fingerprint) {
        self.recent.remove(to);
        self.earlier.remove(to);
    }

    /// What happens to the nodes while the broker is lost may never be told.
    pub(super) fn forget_all(&mut self) {
        self.recent.clear();
        self.earlier.clear();
    }

    /// Keeps a message for a peer that is being looked for; gives back one for a peer that is not.
    fn keep(&mut self, held: Box<Held>, bytes: usize) -> Result<Option<Box<Held>>, Refusal> {
        let size = held.bytes();
        let sought = self.sought.get_mut(&held.to);
        let waiting = sought.as_ref().map_or(0, |sought| sought.bytes);
        // Not by their number: a burst within the rate limit arrives whole (peer protocol, section 6).
        if waiting + size > bytes || self.kept_bytes + size > KEPT_BYTES_MAX {
            return Err(Refusal::PeerBufferFull);
        }
        self.kept_bytes += size;
        let Some(sought) = sought else {
            return Ok(Some(held));
        };
        sought.bytes += size;
        sought.kept.push_back(held);
        Ok(None)
    }

    /// What was kept for a peer: nobody looks for it from here on.
    fn release(&mut self, to: &Fingerprint) -> VecDeque<Box<Held>> {
        let Some(sought) = self.sought.remove(to) else {
            return VecDeque::new();
        };
        self.kept_bytes -= sought.bytes;
        sought.kept
    }

    /// Whether nothing is kept.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.sought.is_empty()
    }

    /// Panics if the state does not agree with itself.
    pub(super) fn check_invariants(&self) {
        let bytes: usize = self.sought.values().map(|sought| sought.bytes).sum();
        assert_eq!(bytes, self.kept_bytes, "kept bytes add up");
        assert!(bytes <= KEPT_BYTES_MAX && self.recent.len() <= ROUTES_HALF_MAX);
        for (to, sought) in &self.sought {
            assert!(self.find(to).is_none(), "who is looked for has no known place");
            let bytes: usize = sought.kept.iter().map(|held| held.bytes()).sum();
            assert!(
                !sought.kept.is_empty() && bytes == sought.bytes,
                "who is looked for is waited for"
            );
            assert!(sought.kept.iter().all(|held| held.to == *to));
        }
    }
}

impl Shard {
    /// Where a message goes whose target is not on this node: one from another node came here for nothing.
    pub(in crate::shard) fn route_away(&self, origin: LoopId, to: &Fingerprint, about: bool) -> Route {
        match &self.cluster {
            Some(cluster) if origin.node().is_none() => match cluster.away.find(to) {
                _ if !cluster.up => Route::Refused(Refusal::BrokerUnavailable),
                Some(node) => Route::Away { node, about },
                None => Route::Ask { about },
            },
            _ => Route::Refused(Refusal::PeerNotFound),
        }
    }

    /// Keeps a direct message ([`Route::Ask`]) until the broker has said where its target is. It comes out as
    /// [`Output::Forward`], or as a refusal to its sender; messages for one target in the order in which they were kept.
    /// There are outputs to be drained after this.
    ///
    /// # Errors
    /// Too much is kept already, or the broker is lost: it was not kept.
    pub fn keep(&mut self, held: Box<Held>) -> Result<(), Refusal> {
        let bytes = self.limits.send_buffer_bytes;
        let Some(cluster) = &mut self.cluster else {
            return Err(Refusal::PeerNotFound);
        };
        if !cluster.up {
            return Err(Refusal::BrokerUnavailable);
        }
        let Some(held) = cluster.away.keep(held, bytes)? else {
            return Ok(());
        };
        let (fingerprint, bytes) = (held.to, held.bytes());
        let command = self.command(Asked::Peer(fingerprint), What::Find { fingerprint });
        if let Some(cluster) = &mut self.cluster {
            let sought = Sought {
                command,
                changed: false,
                kept: VecDeque::from([held]),
                bytes,
            };
            cluster.away.sought.insert(fingerprint, sought);
        }
        Ok(())
    }

    /// The broker says where a peer is.
    pub(super) fn on_peer_found(&mut self, id: CommandId, fingerprint: &Fingerprint, reply: &Reply) {
        let away = self.cluster.as_mut().map(|cluster| &mut cluster.away);
        let sought = away.and_then(|away| away.sought.get_mut(fingerprint));
        let Some(sought) = sought.filter(|sought| sought.command == id) else {
            // It registered here meanwhile.
            self.counters.stale_mail += 1;
            return;
        };
        let found = match reply {
            Reply::Found(_) if sought.changed => return self.seek_again(*fingerprint),
            Reply::Found(found) => found.ok_or(Refusal::PeerNotFound),
            _ => Err(Refusal::BrokerUnavailable),
        };
        let node = match found {
            Ok(node) => node,
            Err(refusal) => return self.refuse_kept(fingerprint, refusal),
        };
        let Some(cluster) = &mut self.cluster else { return };
        let kept = cluster.away.release(fingerprint);
        cluster.away.learn(*fingerprint, node);
        let forward = |held| Output::Forward { node, held };
        self.outputs.extend(kept.into_iter().map(forward));
    }

    fn seek_again(&mut self, fingerprint: Fingerprint) {
        let command = self.command(Asked::Peer(fingerprint), What::Find { fingerprint });
        let away = self.cluster.as_mut().map(|cluster| &mut cluster.away);
        if let Some(sought) = away.and_then(|away| away.sought.get_mut(&fingerprint)) {
            (sought.command, sought.changed) = (command, false);
        }
    }

    fn refuse_kept(&mut self, to: &Fingerprint, refusal: Refusal) {
        let Some(cluster) = &mut self.cluster else { return };
        for held in cluster.away.release(to) {
            self.mail_refusal(held.origin, held.from, held.session, refusal);
        }
    }

    /// A session of this key begins here. What is kept was meant for another one, which is over; the new one shares no
    /// namespace with anybody yet, and what is sent to it later must not be overtaken.
    pub(in crate::shard) fn forget_route(&mut self, fingerprint: &Fingerprint) {
        if let Some(cluster) = &mut self.cluster {
            cluster.away.forget(fingerprint);
            self.refuse_kept(fingerprint, Refusal::PeerNotFound);
        }
    }

    /// A message came back from that node because the peer is not there, or nobody listened: it is to be looked for anew.
    /// To be called on the loop that is the peer's home.
    pub fn route_failed(&mut self, to: &Fingerprint, node: NodeNo) {
        if let Some(cluster) = &mut self.cluster
            && cluster.away.find(to) == Some(node)
        {
            cluster.away.forget(to);
        }
    }

    /// Peers came or went on other nodes.
    pub(in crate::shard) fn on_routes_changed(&mut self, fingerprints: &[Fingerprint]) {
        let Some(cluster) = &mut self.cluster else { return };
        for fingerprint in fingerprints {
            cluster.away.forget(fingerprint);
            if let Some(sought) = cluster.away.sought.get_mut(fingerprint) {
                sought.changed = true;
            }
        }
    }

    /// Nobody is on that node any more.
    pub(super) fn forget_node_peers(&mut self, node: NodeNo) {
        let Some(cluster) = &mut self.cluster else { return };
        let away = &mut cluster.away;
        away.recent.retain(|_, at| *at != node);
        away.earlier.retain(|_, at| *at != node);
        away.sought.values_mut().for_each(|sought| sought.changed = true);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixtures::Scene;
    use super::*;
    use crate::ids::{ConnId, SessionId};
    use crate::message::DirectKind;
    use crate::message::cluster::Event;
    use crate::shard::mail::Mail;
    use crate::shard::output::HeldKind;
    use crate::shard::{DirectMail, Permits};

    const CONN: ConnId = ConnId::new(1, 1);

    fn node(number: u16) -> NodeNo {
        NodeNo::new(number).unwrap()
    }

    /// What was sent on, in order.
    fn forwarded(scene: &mut Scene) -> Vec<(NodeNo, Fingerprint, String)> {
        let text = |held: &Held| held.payload.as_deref().unwrap().to_owned();
        let forwards = std::mem::take(&mut scene.forwards);
        forwards
            .iter()
            .map(|(node, held)| (*node, held.to, text(held)))
            .collect()
    }

    #[test]
    fn messages_wait_in_order_for_one_answer_that_is_remembered() {
        let mut scene = Scene::new();
        let (peer, _) = scene.peer(1);
        let [near, far] = [2, 3].map(|slot| scene.key(slot));
        for (to, text) in [(near, "1"), (far, "2"), (near, "3")] {
            assert_eq!(scene.signal(peer, to, text), Ok(Route::Ask { about: false }));
        }
        assert_eq!(scene.commands.len(), 2, "each is looked for once");
        let [first, second] = [(); 2].map(|()| scene.commands.pop_front().unwrap());
        assert!(matches!(first.what, What::Find { fingerprint } if fingerprint == near));
        scene.reply(second.id, Reply::Found(Some(node(2))));
        assert_eq!(forwarded(&mut scene), [(node(2), far, "2".to_owned())]);
        scene.reply(first.id, Reply::Found(Some(node(1))));
        let both = [(node(1), near, "1".to_owned()), (node(1), near, "3".to_owned())];
        assert_eq!(forwarded(&mut scene), both);
        let known = Route::Away {
            node: node(1),
            about: false,
        };
        assert_eq!(scene.signal(peer, near, "4"), Ok(known));
        assert!(scene.commands.is_empty() && scene.errors(CONN).is_empty());
    }

    #[test]
    fn whom_nobody_has_is_not_found_and_looked_for_again() {
        let mut scene = Scene::new();
        let (peer, _) = scene.peer(1);
        let to = scene.key(2);
        for _ in 0..2 {
            scene.signal(peer, to, "1").unwrap();
            scene.signal(peer, to, "2").unwrap();
            scene.answer(Reply::Found(None));
            assert_eq!(scene.errors(CONN), [Refusal::PeerNotFound; 2]);
        }
        assert!(scene.forwards.is_empty());
    }

    #[test]
    fn without_the_broker_nobody_elsewhere_is_reached() {
        let mut scene = Scene::new();
        let (peer, _) = scene.peer(1);
        let [known, sought] = [2, 3].map(|slot| scene.key(slot));
        scene.signal(peer, known, "1").unwrap();
        scene.answer(Reply::Found(Some(node(1))));
        scene.signal(peer, sought, "2").unwrap();
        scene.lose_broker();
        assert_eq!(scene.errors(CONN), [Refusal::BrokerUnavailable]);
        for to in [known, sought] {
            let route = scene.signal(peer, to, "3");
            assert_eq!(route, Ok(Route::Refused(Refusal::BrokerUnavailable)));
        }
        assert_eq!(
            scene.shard.keep(held(&scene, known, LoopId::new(0), 1)).unwrap_err(),
            Refusal::BrokerUnavailable
        );
        scene.hear(Event::Up);
        scene.answer(Reply::Registered { alias: Some(0) });
        assert_eq!(
            scene.signal(peer, known, "4"),
            Ok(Route::Ask { about: false }),
            "nodes may have gone meanwhile"
        );
    }

    fn held(scene: &Scene, to: Fingerprint, origin: LoopId, bytes: usize) -> Box<Held> {
        Box::new(Held {
            what: HeldKind::Direct(DirectKind::Relay, Box::default(), None),
            from: scene.key(1),
            session: SessionId::new(origin, 1),
            origin,
            to,
            name: None,
            payload: Some("x".repeat(bytes).into()),
        })
    }

    #[test]
    fn what_waits_is_bounded_for_each_peer_and_in_all() {
        let mut scene = Scene::new();
        let (many, large) = (scene.key(2), scene.key(3));
        let keep = |scene: &mut Scene, to, bytes| {
            let held = held(scene, to, LoopId::new(1), bytes);
            let kept = scene.shard.keep(held);
            scene.shard.check_invariants();
            scene.collect();
            kept
        };
        let bytes = scene.shard.limits.send_buffer_bytes;
        let one = held(&scene, many, LoopId::new(1), 1).bytes();
        let messages = bytes / one;
        for _ in 0..messages {
            assert_eq!(keep(&mut scene, many, 1), Ok(()));
        }
        assert_eq!(keep(&mut scene, many, 1), Err(Refusal::PeerBufferFull));
        assert_eq!(keep(&mut scene, large, bytes), Err(Refusal::PeerBufferFull));
        assert_eq!(keep(&mut scene, large, bytes / 2), Ok(()));
        assert_eq!(keep(&mut scene, large, bytes / 2), Err(Refusal::PeerBufferFull));
        assert_eq!(scene.commands.len(), 2);
        // The refusals of another loop's messages go there.
        scene.answer(Reply::Found(None));
        assert_eq!(scene.mail.len(), messages);
        assert!(scene.mail.iter().all(|(to, _)| *to == LoopId::new(1)));
        let away = &mut scene.shard.cluster.as_mut().unwrap().away;
        let before = std::mem::replace(&mut away.kept_bytes, KEPT_BYTES_MAX);
        let held = held(&scene, many, LoopId::new(1), 1);
        assert_eq!(scene.shard.keep(held).unwrap_err(), Refusal::PeerBufferFull);
        scene.shard.cluster.as_mut().unwrap().away.kept_bytes = before;
        assert_eq!(keep(&mut scene, many, 1), Ok(()));
    }

    #[test]
    fn a_place_is_forgotten_when_something_speaks_against_it() {
        let mut scene = Scene::new();
        let (peer, _) = scene.peer(1);
        let to = scene.key(2);
        let ask = Ok(Route::Ask { about: false });
        let at = |number| {
            Ok(Route::Away {
                node: node(number),
                about: false,
            })
        };
        assert_eq!(scene.signal(peer, to, "1"), ask);
        scene.answer(Reply::Found(Some(node(1))));
        scene.shard.route_failed(&to, node(2));
        scene.hear(Event::NodeGone(node(2)));
        scene.shard.on_routes_changed(&[scene.key(3)]);
        assert_eq!(scene.signal(peer, to, "2"), at(1));
        for again in 0..3 {
            match again {
                0 => scene.shard.route_failed(&to, node(1)),
                1 => scene.hear(Event::NodeGone(node(1))),
                _ => scene.shard.handle_mail(Mail::RouteChanged { fingerprint: to }),
            }
            assert_eq!(scene.signal(peer, to, "3"), ask);
            scene.answer(Reply::Found(Some(node(1))));
            assert_eq!(scene.signal(peer, to, "4"), at(1));
        }
    }

    #[test]
    fn an_answer_that_may_be_older_than_the_news_is_asked_for_again() {
        for news in [Some(2), None] {
            let mut scene = Scene::new();
            let (peer, _) = scene.peer(1);
            let to = scene.key(2);
            scene.signal(peer, to, "1").unwrap();
            match news {
                Some(gone) => scene.hear(Event::NodeGone(node(gone))),
                None => scene.shard.handle_mail(Mail::RouteChanged { fingerprint: to }),
            }
            scene.answer(Reply::Found(Some(node(2))));
            assert!(scene.forwards.is_empty());
            scene.signal(peer, to, "2").unwrap();
            scene.answer(Reply::Found(Some(node(3))));
            let both = [(node(3), to, "1".to_owned()), (node(3), to, "2".to_owned())];
            assert_eq!(forwarded(&mut scene), both);
        }
    }

    #[test]
    fn who_registers_here_is_not_sent_what_was_meant_for_another_session() {
        let mut scene = Scene::new();
        let (peer, _) = scene.peer(1);
        let to = scene.key(2);
        scene.signal(peer, to, "1").unwrap();
        let find = scene.commands.pop_front().unwrap();
        let (target, _) = scene.peer(2);
        assert_eq!(scene.errors(CONN), [Refusal::PeerNotFound]);
        assert_eq!(
            scene.signal(peer, to, "2"),
            Ok(Route::Refused(Refusal::NoSharedNamespace))
        );
        scene.shard.close(target);
        scene.collect();
        scene.take_commands();
        // The late answer is not taken for that to the next question.
        scene.signal(peer, to, "3").unwrap();
        scene.reply(find.id, Reply::Found(Some(node(1))));
        assert!(scene.forwards.is_empty());
        scene.answer(Reply::Found(Some(node(2))));
        assert_eq!(forwarded(&mut scene), [(node(2), to, "3".to_owned())]);
    }

    #[test]
    fn a_message_of_another_node_never_leaves_for_a_third() {
        let mut scene = Scene::new();
        let (peer, _) = scene.peer(1);
        let to = scene.key(2);
        scene.signal(peer, to, "1").unwrap();
        scene.answer(Reply::Found(Some(node(1))));
        let mail = |origin| DirectMail {
            kind: DirectKind::Signal,
            from: scene.key(3),
            session: SessionId::new(LoopId::new(0), 1),
            origin,
            to,
            shares: 0..0,
            about: None,
            about_name: 0..0,
            payload: None,
        };
        let none = std::iter::empty;
        let from_node = scene.shard.receive(&mail(LoopId::of_node(node(2))), none());
        assert_eq!(from_node, Route::Refused(Refusal::PeerNotFound));
        let from_loop = scene.shard.receive(&mail(LoopId::new(1)), none());
        assert_eq!(
            from_loop,
            Route::Away {
                node: node(1),
                about: false
            }
        );
    }

    #[test]
    fn the_places_that_were_learned_last_are_known() {
        let homes = Homes::new(1, [1, 2, 3, 4]);
        let mut away = Away::new(&homes);
        let key = |number: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            Fingerprint::from_bytes(bytes)
        };
        let count = 5 * ROUTES_HALF_MAX as u32 / 2;
        for number in 0..count {
            away.learn(key(number), node(1));
        }
        assert!(away.recent.len() + away.earlier.len() <= 2 * ROUTES_HALF_MAX);
        let known = |number: &u32| away.find(&key(*number)).is_some();
        assert!((count - ROUTES_HALF_MAX as u32..count).all(|number| known(&number)));
        assert!(!known(&0));
        // Learned again it is not found in its old place.
        let again = key(count - ROUTES_HALF_MAX as u32);
        away.learn(again, node(2));
        assert_eq!(away.find(&again), Some(node(2)));
        away.forget(&again);
        assert_eq!(away.find(&again), None);
    }

    #[test]
    fn one_node_alone_asks_nobody() {
        let homes = Homes::new(1, [1, 2, 3, 4]);
        let limits = Scene::down().shard.limits;
        let permits = std::sync::Arc::new(Permits::default());
        let mut shard = Shard::new(LoopId::new(0), homes, limits, permits, [0; 32]);
        let to = Fingerprint::of_key("nobody");
        assert_eq!(
            shard.route_away(LoopId::new(0), &to, false),
            Route::Refused(Refusal::PeerNotFound)
        );
        let scene = Scene::down();
        let held = held(&scene, to, LoopId::new(0), 1);
        assert_eq!(shard.keep(held).unwrap_err(), Refusal::PeerNotFound);
        assert!(shard.cluster_ready());
    }
}
