//! What comes on the channels of section 9 of the peer protocol: read once, told to the loop that it is for.
//!
//! Owns: which loop that is, and who notices that a node of another kind is about.
//! Never: waits for a loop. For one that is too far behind it answers in its place.

use super::figures::count;
use super::link::{Queues, TRAFFIC_BYTES};
use super::{Busy, Channel, NodeId, Routes};
use crate::dialect::fleet::{self, Topic};
use crate::ids::{Fingerprint, Homes, LoopId};
use crate::message::cluster::{Event, Plain};
use crate::message::{DirectKind, Refusal};

/// Hears those channels.
#[derive(Debug)]
pub(super) struct PlainEar {
    own: String,
    routes: Routes,
    queues: Queues,
    cluster_state: bool,
    /// The operator was told of a node of another kind.
    warned: bool,
}

impl PlainEar {
    /// For the node `own`; `cluster_state`: its fleet shares its state, and so has nothing to say on these channels.
    pub(super) fn new(own: NodeId, routes: Routes, queues: Queues, cluster_state: bool) -> Self {
        Self {
            own: own.to_string(),
            routes,
            queues,
            cluster_state,
            warned: false,
        }
    }

    /// Takes what came on a channel.
    pub(super) fn hear(&mut self, channel: Channel, bytes: &[u8]) {
        let Some(plain) = topic(channel).and_then(|topic| fleet::parse(topic, bytes, &self.own)) else {
            return;
        };
        self.notice(&plain);
        match home(self.routes.homes(), &plain) {
            Some(loop_id) => self.pass(loop_id, plain),
            None => {
                for index in 1..self.routes.homes().loops() {
                    self.pass(LoopId::new(index as u16), plain.clone());
                }
                self.pass(LoopId::new(0), plain);
            }
        }
    }

    fn pass(&self, loop_id: LoopId, plain: Plain) {
        // What is passed on is gone, and an answer needs it.
        if !self.routes.has_room(loop_id, plain.bytes()) {
            self.say_full(&plain);
        } else if self.routes.pass(loop_id, Event::Plain(Box::new(plain))) == Err(Busy) {
            count(&self.queues.figures.refused_behind, 1);
        }
    }

    fn say_full(&self, plain: &Plain) {
        let figures = &self.queues.figures;
        count(&figures.refused_behind, 1);
        let Plain::Direct {
            id: Some(id), node_id, ..
        } = plain
        else {
            return;
        };
        let mut ack = Vec::new();
        let full = Err(Refusal::PeerBufferFull);
        if node_id.is_empty() || !fleet::push_ack(&mut ack, id, &self.own, node_id, full) {
            return;
        }
        let bytes = ack.len();
        if !figures.take(bytes, TRAFFIC_BYTES) {
            return count(&figures.refused_full, 1);
        }
        // This thread hears all other nodes: it must not wait for the one that publishes.
        if self.queues.answers.try_send((Channel::Ack, ack)).is_err() {
            figures.give_back(bytes);
            count(&figures.refused_full, 1);
        }
    }

    fn notice(&mut self, plain: &Plain) {
        // Our own nodes say what their sender is in, others do not know of that.
        let foreign = match plain {
            Plain::Direct { shares, .. } => self.cluster_state || shares.is_none(),
            Plain::Broadcast { .. } => self.cluster_state,
            Plain::Ack { .. } => false,
        };
        if !foreign {
            return;
        }
        count(&self.queues.figures.foreign, 1);
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                "a node was heard that shares no state with this one: it is told of nobody here and tells of nobody, \
                 and if it is of another implementation its peers may write to anybody whose fingerprint they know"
            );
        }
    }
}

/// The loop that a message is for; None: it is for all.
fn home(homes: &Homes, plain: &Plain) -> Option<LoopId> {
    match plain {
        Plain::Direct { to, .. } => Some(match Fingerprint::parse(to) {
            Some(fingerprint) => homes.of_fingerprint(&fingerprint),
            None => homes.of_alias(to),
        }),
        Plain::Broadcast { .. } => None,
        Plain::Ack { id, .. } => Some(id.loop_id()),
    }
}

/// What a channel carries; None: that is not of section 9.
fn topic(channel: Channel) -> Option<Topic> {
    match channel {
        Channel::Signal => Some(Topic::Direct(DirectKind::Signal)),
        Channel::Relay => Some(Topic::Direct(DirectKind::Relay)),
        Channel::Broadcast => Some(Topic::Broadcast),
        Channel::Ack => Some(Topic::Ack),
        Channel::Node(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::broker::{Link, Wake, connect};

    const OTHER: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

    /// An ear of a node with three loops, each of which takes `traffic_max` bytes.
    fn ear(cluster_state: bool, traffic_max: usize) -> (PlainEar, Vec<Link>, Homes) {
        let homes = Homes::new(3, [1, 2, 3, 4]);
        let wakes: Vec<Wake> = (0..3).map(|_| Arc::new(|| {}) as Wake).collect();
        let (links, queues, routes) = connect(&homes, wakes, traffic_max);
        let own = NodeId::from_bytes([7; 16]);
        (PlainEar::new(own, routes, queues, cluster_state), links, homes)
    }

    fn signal(to: &str, ours: &str) -> String {
        let from = String::from_utf8(Fingerprint::of_key("a").hex().to_vec()).unwrap();
        format!(r#"{{"type":"signal","from":"{from}","to":"{to}","payload":1,"node_id":"{OTHER}"{ours}}}"#)
    }

    fn heard(links: &mut [Link]) -> Vec<usize> {
        let event = |link: &mut Link| std::iter::from_fn(|| link.poll_event()).count();
        links.iter_mut().map(event).collect()
    }

    #[test]
    fn each_message_goes_to_the_home_of_its_target_and_a_broadcast_to_all() {
        let (mut ear, mut links, homes) = ear(false, 1 << 20);
        let target = Fingerprint::of_key("b");
        let hex = String::from_utf8(target.hex().to_vec()).unwrap();
        for (to, home) in [(&*hex, homes.of_fingerprint(&target)), ("bee", homes.of_alias("bee"))] {
            ear.hear(Channel::Signal, signal(to, "").as_bytes());
            let mut expected = [0; 3];
            expected[home.index()] = 1;
            assert_eq!(heard(&mut links), expected);
        }
        let broadcast = signal("", r#","namespace":"x""#)
            .replace("signal", "broadcast")
            .replace(":1,", r#":{"data":1},"#);
        ear.hear(Channel::Broadcast, broadcast.as_bytes());
        assert_eq!(heard(&mut links), [1, 1, 1]);
        for (loop_id, expected) in [(2, [0, 0, 1]), (9, [0, 0, 0])] {
            let own = ear.own.clone();
            let ack = format!(
                r#"{{"id":"{loop_id:04x}000000000001","node_id":"{OTHER}","to_node":"{own}","status":"full"}}"#
            );
            ear.hear(Channel::Ack, ack.as_bytes());
            assert_eq!(heard(&mut links), expected);
        }
        ear.hear(Channel::Relay, signal(&hex, "").as_bytes());
        ear.hear(Channel::Signal, b"junk");
        assert_eq!(heard(&mut links), [0, 0, 0]);
    }

    #[test]
    fn only_nodes_of_another_kind_are_counted() {
        let (mut ear, _links, _) = ear(false, 1 << 20);
        ear.hear(Channel::Signal, signal("bee", r#","namespaces":[]"#).as_bytes());
        assert_eq!(ear.queues.figures.read().foreign, 0);
        ear.hear(Channel::Signal, signal("bee", "").as_bytes());
        assert_eq!(ear.queues.figures.read().foreign, 1);
        let (mut ear, _links, _) = self::ear(true, 1 << 20);
        ear.hear(Channel::Signal, signal("bee", r#","namespaces":[]"#).as_bytes());
        assert_eq!(ear.queues.figures.read().foreign, 1);
    }

    #[test]
    fn for_a_loop_that_is_behind_it_answers_itself() {
        let (mut ear, mut links, _) = ear(false, 100);
        ear.hear(Channel::Signal, signal("bee", r#","id":"i-1""#).as_bytes());
        assert_eq!(heard(&mut links), [0, 0, 0]);
        let (channel, ack) = ear.queues.traffic.try_recv().unwrap();
        let expected = format!(
            r#"{{"id":"i-1","node_id":"{}","to_node":"{OTHER}","status":"full"}}"#,
            ear.own
        );
        assert_eq!((channel, String::from_utf8(ack).unwrap()), (Channel::Ack, expected));
        ear.hear(Channel::Signal, signal("bee", "").as_bytes());
        assert!(ear.queues.traffic.try_recv().is_err());
        assert_eq!(ear.queues.figures.read().refused_behind, 2);
    }
}
