//! Frames for other nodes: gathered for a turn, handed to the broker's threads in as few messages as there are nodes.
//!
//! Owns: the loop's link to the broker, the buffers of this turn, and what is refused because they are full.
//! Never: allocates for a frame once the buffers have their size: the broker's threads give them back.

use std::collections::{BTreeSet, VecDeque};

use crate::broker::{Channel, Link, NodeId, Readings};
use crate::codec::node_traffic::{self, Kind, Reason};
use crate::event_loop::peers::{Direct, Sender};
use crate::ids::{ConnId, Fingerprint, NamespaceId, NodeNo, SessionId};
use crate::message::cluster::{Command, Event};
use crate::message::{DirectKind, Refusal};

/// Bytes for one node from which on they do not wait for the end of the turn.
const MESSAGE_BYTES: usize = 64 * 1024;
/// Bytes that may be gathered while the queue to the broker is full.
const GATHERED_MAX: usize = 1024 * 1024;
/// A buffer that grew beyond this is given up.
const KEPT_MAX: usize = 4 * MESSAGE_BYTES;
/// What a frame is counted at besides its texts.
const FRAME_BYTES: usize = 512;
/// A peer is told only so often that its broadcasts do not leave this node.
const TOLD_EVERY_MS: u64 = 1000;

/// The loop's part of a cluster.
pub(in crate::event_loop) struct Neighbours {
    link: Link,
    /// The broker is not lost.
    up: bool,
    /// Nodes for which there is something, and what.
    gathered: Vec<(NodeNo, Vec<u8>)>,
    /// Bytes of all of it.
    bytes: usize,
    spare: Vec<Vec<u8>>,
    /// Whom the numbers of nodes stand for, as far as it was asked.
    names: Vec<Option<NodeId>>,
    /// Who has the broadcast under way.
    reached: Vec<NodeId>,
    figures: Figures,
    told: Told,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::event_loop) struct Figures {
    /// Frames handed to the broker.
    pub(in crate::event_loop) sent: u64,
    /// Frames of other nodes that were for this loop.
    pub(in crate::event_loop) received: u64,
    /// Messages of peers on other nodes that were refused here.
    pub(in crate::event_loop) refused_here: u64,
    /// Messages of this node's peers that another node refused.
    pub(in crate::event_loop) refused_there: u64,
    /// Messages of peers that were not taken: the broker is lost or behind.
    pub(in crate::event_loop) refused: u64,
    /// Refusals that could not be told, and frames that were gathered when the broker was lost.
    pub(in crate::event_loop) dropped: u64,
    /// Frames of other nodes that could not be read.
    pub(in crate::event_loop) faulty: u64,
    /// Mail for another node that none of its loops would understand: a mistake of ours.
    pub(in crate::event_loop) misled: u64,
}

/// Who was told in the last second that the broker is lost. Empty but while it is.
#[derive(Default)]
struct Told {
    order: VecDeque<(u64, ConnId)>,
    recent: BTreeSet<ConnId>,
}

impl Neighbours {
    pub(in crate::event_loop) fn new(link: Link) -> Self {
        Self {
            link,
            up: false,
            gathered: Vec::new(),
            bytes: 0,
            spare: Vec::new(),
            names: Vec::new(),
            reached: Vec::new(),
            figures: Figures::default(),
            told: Told::default(),
        }
    }

    /// Hands the broker a command. False: its queue is full.
    pub(super) fn command(&mut self, command: Command) -> bool {
        self.link.command(command).is_ok()
    }

    /// The next thing that the broker says.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        let event = self.link.poll_event()?;
        match event {
            Event::Up => {
                self.up = true;
                self.told = Told::default();
            }
            Event::Down => {
                self.up = false;
                self.drop_gathered();
            }
            _ => {}
        }
        Some(event)
    }

    pub(super) fn has_events(&self) -> bool {
        self.link.has_events()
    }

    /// What was counted so far.
    pub(in crate::event_loop) fn figures(&self) -> Figures {
        self.figures
    }

    /// What the broker's threads tell of themselves, the same for all loops.
    pub(in crate::event_loop) fn readings(&self) -> Readings {
        self.link.figures().read()
    }

    pub(super) fn count_received(&mut self) {
        self.figures.received += 1;
    }

    pub(super) fn count_refused_there(&mut self) {
        self.figures.refused_there += 1;
    }

    pub(super) fn count_faulty(&mut self) {
        self.figures.faulty += 1;
    }

    pub(super) fn count_misled(&mut self) {
        self.figures.misled += 1;
    }

    /// Sends one message on a channel of section 9 of the peer protocol. `bytes` is left empty if it was taken.
    ///
    /// # Errors
    /// The broker is lost, or behind.
    pub(in crate::event_loop) fn publish_plain(&mut self, to: Channel, bytes: &mut Vec<u8>) -> Result<(), Refusal> {
        if !self.up {
            return Err(Refusal::BrokerUnavailable);
        }
        // The loss may be known to the queue before this loop hears of it.
        let publish = self.link.publish(to, bytes);
        publish.map_err(|_| match self.link.is_up() {
            true => Refusal::PeerBufferFull,
            false => Refusal::BrokerUnavailable,
        })
    }

    /// A signal or relay for a peer of that node.
    ///
    /// # Errors
    /// The broker is lost, or behind.
    pub(super) fn direct(
        &mut self,
        node: NodeNo,
        sender: &Sender,
        to: &Fingerprint,
        direct: &Direct<'_>,
        shares: impl Iterator<Item = NamespaceId>,
    ) -> Result<(), Refusal> {
        let name = direct.about.map_or(0, |(_, name)| name.len());
        self.take_place(name + direct.payload.map_or(0, str::len))?;
        let frame = node_traffic::Direct {
            kind: match direct.kind {
                DirectKind::Signal => Kind::Signal,
                DirectKind::Relay => Kind::Relay,
            },
            to: to.as_bytes(),
            from: sender.fingerprint.as_bytes(),
            session: sender.session.as_u64(),
            about: direct.about.map(|(about, name)| (about.to_bytes(), name)),
            payload: direct.payload,
        };
        self.gather(node, |out| {
            node_traffic::push_direct(out, &frame, shares.map(NamespaceId::to_bytes));
        });
        Ok(())
    }

    /// Another broadcast begins: a node that has members of two of its epochs gets it once. That is so where the broker lost
    /// what it knew, until it is clear who is left.
    pub(super) fn begin_broadcast(&mut self) {
        self.reached.clear();
    }

    /// A broadcast for the members on that node.
    ///
    /// # Errors
    /// The broker is lost, or behind.
    pub(super) fn broadcast(
        &mut self,
        node: NodeNo,
        namespace: NamespaceId,
        sender: &Sender,
        name: &str,
        payload: &str,
    ) -> Result<(), Refusal> {
        let id = self.name(node);
        if id.is_some_and(|id| self.reached.contains(&id)) {
            return Ok(());
        }
        self.take_place(name.len() + payload.len())?;
        self.reached.extend(id);
        let frame = node_traffic::Broadcast {
            namespace: namespace.to_bytes(),
            from: sender.fingerprint.as_bytes(),
            session: sender.session.as_u64(),
            name,
            payload,
        };
        self.gather(node, |out| node_traffic::push_broadcast(out, &frame));
        Ok(())
    }

    fn name(&mut self, node: NodeNo) -> Option<NodeId> {
        let at = node.index();
        if at >= self.names.len() {
            self.names.resize(at + 1, None);
        }
        let name = self.names.get_mut(at)?;
        if name.is_none() {
            *name = self.link.node_id(node);
        }
        *name
    }

    /// Tells a peer of that node that its message was refused here. `target`: whom a direct message was for.
    pub(super) fn refuse(
        &mut self,
        node: NodeNo,
        to: &Fingerprint,
        session: SessionId,
        target: Option<&Fingerprint>,
        refusal: Refusal,
    ) {
        self.figures.refused_here += 1;
        let reason = match refusal {
            Refusal::NoSharedNamespace => Reason::Forbidden,
            Refusal::PeerBufferFull => Reason::Full,
            Refusal::SendBufferFullFor(members) => Reason::FullFor(members),
            _ => Reason::NotHere,
        };
        // Its sender will not hear of it otherwise, so it may have some more room. While that lasts, what causes refusals
        // does not arrive either, because it comes by the same broker.
        if !self.up || self.bytes > 2 * GATHERED_MAX {
            self.figures.dropped += 1;
            return;
        }
        let frame = node_traffic::Refused {
            to: to.as_bytes(),
            session: session.as_u64(),
            target: target.map_or(&[0; 32], Fingerprint::as_bytes),
            reason,
        };
        self.gather(node, |out| node_traffic::push_refused(out, &frame));
    }

    /// Whether that connection's peer is to be told now that the broker is lost.
    pub(in crate::event_loop) fn may_tell(&mut self, conn: ConnId, now_ms: u64) -> bool {
        self.told.may_tell(conn, now_ms)
    }

    /// May so many bytes be gathered?
    fn take_place(&mut self, texts: usize) -> Result<(), Refusal> {
        let bytes = texts + FRAME_BYTES;
        let refusal = if !self.up || !self.link.is_up() {
            Refusal::BrokerUnavailable
        } else if self.has_place(bytes) {
            return Ok(());
        } else {
            Refusal::PeerBufferFull
        };
        self.figures.refused += 1;
        Err(refusal)
    }

    fn has_place(&mut self, bytes: usize) -> bool {
        if self.bytes + bytes > GATHERED_MAX {
            self.flush();
        }
        // A frame larger than that may go alone.
        (self.bytes == 0 || self.bytes + bytes <= GATHERED_MAX) && self.link.has_room(self.bytes + bytes)
    }

    fn gather(&mut self, node: NodeNo, push: impl FnOnce(&mut Vec<u8>)) {
        let place = self.gathered.iter().position(|(gathered, _)| *gathered == node);
        let place = place.unwrap_or_else(|| {
            self.gathered.push((node, self.spare.pop().unwrap_or_default()));
            self.gathered.len() - 1
        });
        let Some((_, buffer)) = self.gathered.get_mut(place) else {
            return;
        };
        let before = buffer.len();
        push(buffer);
        self.bytes += buffer.len() - before;
        self.figures.sent += 1;
        if buffer.len() >= MESSAGE_BYTES {
            self.publish(place);
        }
    }

    fn publish(&mut self, place: usize) {
        if let Some((node, buffer)) = self.gathered.get_mut(place) {
            let bytes = buffer.len();
            if bytes > 0 && self.link.publish(Channel::Node(*node), buffer).is_ok() {
                self.bytes -= bytes;
            }
        }
    }

    /// Hands over what was gathered, as far as the queue takes it.
    pub(super) fn flush(&mut self) {
        for place in 0..self.gathered.len() {
            self.publish(place);
        }
        let spare = &mut self.spare;
        self.gathered.retain_mut(|(_, buffer)| {
            let stuck = !buffer.is_empty();
            if !stuck && buffer.capacity() <= KEPT_MAX {
                spare.push(std::mem::take(buffer));
            }
            stuck
        });
    }

    /// Whether something could not be handed over.
    pub(super) fn is_stuck(&self) -> bool {
        self.bytes > 0
    }

    /// What was gathered goes nowhere: the connection that it was for is lost.
    fn drop_gathered(&mut self) {
        for (_, buffer) in &mut self.gathered {
            self.figures.dropped += node_traffic::split(buffer).count() as u64;
            buffer.clear();
        }
        self.bytes = 0;
        self.flush();
    }
}

impl Told {
    fn may_tell(&mut self, conn: ConnId, now_ms: u64) -> bool {
        while let Some((at, old)) = self.order.front()
            && *at + TOLD_EVERY_MS <= now_ms
        {
            self.recent.remove(old);
            self.order.pop_front();
        }
        let first = self.recent.insert(conn);
        if first {
            self.order.push_back((now_ms, conn));
        }
        first
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::broker::{Epoch, Nodes, Queues, Routes, connect};
    use crate::codec::node_traffic::Frame;
    use crate::ids::{Homes, LoopId};

    fn up() -> (Neighbours, Queues, Routes) {
        let homes = Homes::new(1, [1, 2, 3, 4]).in_cluster();
        let (mut links, queues, routes) = connect(&homes, vec![Arc::new(|| {})], 1 << 20);
        let mut neighbours = Neighbours::new(links.remove(0));
        queues.set_up(true);
        routes.tell_all(&Event::Up);
        assert!(matches!(neighbours.poll_event(), Some(Event::Up)));
        (neighbours, queues, routes)
    }

    fn relay(neighbours: &mut Neighbours, node: u16, payload: &str) -> Result<(), Refusal> {
        let key = Fingerprint::of_key("a");
        let sender = Sender {
            fingerprint: key,
            session: SessionId::from_u64(7),
            origin: LoopId::new(0),
        };
        let direct = Direct {
            kind: DirectKind::Relay,
            about: None,
            payload: Some(payload),
        };
        neighbours.direct(NodeNo::new(node).unwrap(), &sender, &key, &direct, std::iter::empty())
    }

    fn sent(queues: &Queues) -> Option<(Channel, usize)> {
        let (to, bytes) = queues.next_traffic(Duration::ZERO)?;
        Some((to, node_traffic::read(&bytes).filter(Result::is_ok).count()))
    }

    fn to(node: u16) -> Channel {
        Channel::Node(NodeNo::new(node).unwrap())
    }

    #[test]
    fn a_turn_makes_one_message_for_each_node() {
        let (mut neighbours, queues, _routes) = up();
        for node in [1, 2, 1, 1] {
            relay(&mut neighbours, node, "{}").unwrap();
        }
        assert_eq!(sent(&queues), None, "the turn is not over");
        neighbours.flush();
        assert_eq!(sent(&queues), Some((to(1), 3)));
        assert_eq!(sent(&queues), Some((to(2), 1)));
        assert_eq!(sent(&queues), None);
        assert!(!neighbours.is_stuck() && neighbours.gathered.is_empty());
    }

    #[test]
    fn a_node_gets_a_broadcast_once_whatever_epochs_its_members_are_of() {
        let (mut neighbours, queues, _routes) = up();
        let nodes = Nodes::new(NodeId::from_bytes([0; 16]));
        let number = |node, epoch| {
            let number = nodes.number(NodeId::from_bytes([node; 16]), Epoch(epoch));
            number.unwrap().unwrap()
        };
        let known = [number(1, 1), number(2, 1), number(1, 2)];
        neighbours.link.know(Arc::new(nodes));
        let sender = Sender {
            fingerprint: Fingerprint::of_key("a"),
            session: SessionId::from_u64(7),
            origin: LoopId::new(0),
        };
        for _ in 0..2 {
            neighbours.begin_broadcast();
            for node in known {
                let namespace = NamespaceId::from_bytes([1; 16]);
                neighbours.broadcast(node, namespace, &sender, "lobby", "{}").unwrap();
            }
        }
        neighbours.flush();
        assert_eq!(sent(&queues), Some((Channel::Node(known[0]), 2)));
        assert_eq!(sent(&queues), Some((Channel::Node(known[1]), 2)));
        assert_eq!(sent(&queues), None);
    }

    #[test]
    fn what_fills_a_message_does_not_wait() {
        let (mut neighbours, queues, _routes) = up();
        relay(&mut neighbours, 1, &"x".repeat(MESSAGE_BYTES)).unwrap();
        assert_eq!(sent(&queues), Some((to(1), 1)));
    }

    #[test]
    fn what_the_queue_does_not_take_waits_and_then_is_refused() {
        let (mut neighbours, queues, _routes) = up();
        let payload = "x".repeat(MESSAGE_BYTES);
        let mut taken = 0;
        while relay(&mut neighbours, 1, &payload).is_ok() {
            taken += 1;
        }
        assert!(taken > 80, "{taken}");
        assert_eq!(
            relay(&mut neighbours, 2, "{}"),
            Ok(()),
            "there is room for a little one"
        );
        assert_eq!(relay(&mut neighbours, 1, &payload), Err(Refusal::PeerBufferFull));
        let mut frames = 0;
        while let Some((_, count)) = sent(&queues) {
            frames += count;
            neighbours.flush();
        }
        assert_eq!(frames, taken + 1);
        assert!(!neighbours.is_stuck());
        relay(&mut neighbours, 1, &payload).unwrap();
    }

    #[test]
    fn while_the_broker_is_lost_nothing_is_gathered() {
        let (mut neighbours, queues, routes) = up();
        relay(&mut neighbours, 1, "{}").unwrap();
        queues.set_up(false);
        assert_eq!(relay(&mut neighbours, 1, "{}"), Err(Refusal::BrokerUnavailable));
        routes.tell_all(&Event::Down);
        assert!(matches!(neighbours.poll_event(), Some(Event::Down)));
        assert_eq!(relay(&mut neighbours, 1, "{}"), Err(Refusal::BrokerUnavailable));
        neighbours.flush();
        assert_eq!(sent(&queues), None);
        let figures = neighbours.figures;
        assert_eq!((figures.sent, figures.dropped, figures.refused), (1, 1, 2));
    }

    #[test]
    fn a_connection_is_told_once_a_second() {
        let mut told = Told::default();
        let (one, two) = (ConnId::new(1, 1), ConnId::new(2, 1));
        assert!(told.may_tell(one, 10_000));
        assert!(told.may_tell(two, 10_500));
        assert!(!told.may_tell(one, 10_999));
        assert!(told.may_tell(one, 11_000));
        assert!(!told.may_tell(two, 11_499));
        assert!(told.may_tell(two, 11_500));
        assert!(!told.may_tell(one, 11_999));
    }

    #[test]
    fn a_refusal_says_whom_the_message_was_for() {
        let (mut neighbours, queues, _routes) = up();
        let (own, other) = (Fingerprint::of_key("a"), Fingerprint::of_key("b"));
        let session = SessionId::from_u64(3);
        let node = NodeNo::new(4).unwrap();
        neighbours.refuse(node, &own, session, Some(&other), Refusal::PeerNotFound);
        neighbours.refuse(node, &own, session, None, Refusal::SendBufferFullFor(5));
        neighbours.flush();
        let (_, bytes) = queues.next_traffic(Duration::ZERO).unwrap();
        let frames: Vec<_> = node_traffic::read(&bytes).collect();
        let refused = |target, reason| {
            let to = own.as_bytes();
            Ok(Frame::Refused(node_traffic::Refused {
                to,
                session: 3,
                target,
                reason,
            }))
        };
        let wanted = [
            refused(other.as_bytes(), Reason::NotHere),
            refused(&[0; 32], Reason::FullFor(5)),
        ];
        assert_eq!(frames, wanted);
    }
}
