//! Traffic of other nodes: for peers of this loop, judged as if it came from another loop.
//!
//! Owns: what each frame does here.
//! Never: sends a message on to a third node: what is not here is refused.

use crate::codec::node_traffic::{self, Broadcast, Frame, Kind, Reason, Refused};
use crate::dialect::peer;
use crate::event_loop::peers::{Direct, Sender};
use crate::event_loop::{Delivery, EventLoop};
use crate::ids::{Fingerprint, LoopId, NamespaceId, NodeNo, SessionId};
use crate::message::{DirectKind, Refusal};
use crate::metrics::Metric;
use crate::shard::{DirectMail, Mail, Route};

impl EventLoop {
    pub(super) fn on_node_traffic(&mut self, from: NodeNo, frames: &[u8]) {
        let delivered = self.counters.get(Metric::Deliveries);
        for frame in node_traffic::read(frames) {
            let Some(neighbours) = &mut self.neighbours else { return };
            match frame {
                Ok(_) => neighbours.count_received(),
                Err(_) => neighbours.count_faulty(),
            }
            match frame {
                Ok(Frame::Direct(direct, shares)) => self.on_node_direct(from, &direct, shares),
                Ok(Frame::Broadcast(broadcast)) => self.on_node_broadcast(from, &broadcast),
                Ok(Frame::Refused(refused)) => {
                    neighbours.count_refused_there();
                    self.on_node_refused(from, &refused);
                }
                Err(_) => {}
            }
        }
        let delivered = self.counters.get(Metric::Deliveries) - delivered;
        self.counters.add(Metric::NodeDeliveries, delivered);
    }

    fn on_node_direct(&mut self, node: NodeNo, direct: &node_traffic::Direct<'_>, shares: &[[u8; 16]]) {
        let sender = sender(node, direct.from, direct.session);
        let to = Fingerprint::from_bytes(*direct.to);
        let direct = Direct {
            kind: match direct.kind {
                Kind::Signal => DirectKind::Signal,
                Kind::Relay => DirectKind::Relay,
            },
            about: direct.about.map(|(about, name)| (NamespaceId::from_bytes(about), name)),
            payload: direct.payload,
        };
        let shares = || shares.iter().map(|id| NamespaceId::from_bytes(*id));
        // The texts need no place in a batch: they are at hand.
        let mail = DirectMail {
            kind: direct.kind,
            from: sender.fingerprint,
            session: sender.session,
            origin: sender.origin,
            to,
            shares: 0..0,
            about: direct.about.map(|(about, _)| about),
            about_name: 0..0,
            payload: None,
        };
        let sent = match self.shard.receive(&mail, shares()) {
            Route::Local { conn, about } => {
                let name = direct.about.filter(|_| about).map(|(_, name)| name);
                self.forward(conn, &sender.fingerprint, &to, direct.kind, name, direct.payload)
            }
            Route::Hold { peer } => self.hold_direct(peer, &sender, &to, &direct, shares().collect()),
            Route::Refused(refusal) => Err(refusal),
            Route::Loop { .. } | Route::Away { .. } | Route::Ask { .. } => Err(Refusal::PeerNotFound),
        };
        if let Err(refusal) = sent {
            self.refuse(&sender, &to, refusal);
        }
    }

    fn on_node_broadcast(&mut self, node: NodeNo, broadcast: &Broadcast<'_>) {
        let namespace = NamespaceId::from_bytes(broadcast.namespace);
        if !self.shard.is_served(namespace) {
            return;
        }
        let sender = sender(node, broadcast.from, broadcast.session);
        self.note_excluded(peer::exclude_of(broadcast.payload));
        let excluded = std::mem::take(&mut self.scratch.exclude);
        let refused = match self.unsent > self.settings.output_bytes_max {
            // The other node's loop cannot know how much waits here.
            true => self.count_targets(namespace, &sender, &excluded),
            false => self.fan_out(namespace, &sender, broadcast.name, broadcast.payload, &excluded),
        };
        self.scratch.exclude = excluded;
        if let (1.., Some(neighbours)) = (refused, &mut self.neighbours) {
            let refusal = Refusal::SendBufferFullFor(refused);
            neighbours.refuse(node, &sender.fingerprint, sender.session, None, refusal);
        }
    }

    /// How many peers of this loop a broadcast is for.
    fn count_targets(&mut self, namespace: NamespaceId, sender: &Sender, exclude: &[u64]) -> u32 {
        let mut targets = std::mem::take(&mut self.scratch.targets);
        targets.clear();
        self.shard
            .broadcast_targets(namespace, &sender.fingerprint, exclude, &mut targets);
        let count = targets.len() as u32;
        self.scratch.targets = targets;
        count
    }

    /// A message of a peer of this loop was refused on that node.
    fn on_node_refused(&mut self, node: NodeNo, refused: &Refused<'_>) {
        let refusal = match refused.reason {
            Reason::NotHere => Refusal::PeerNotFound,
            Reason::Forbidden => Refusal::NoSharedNamespace,
            Reason::Full => Refusal::PeerBufferFull,
            Reason::FullFor(members) => Refusal::SendBufferFullFor(members),
        };
        if refused.reason == Reason::NotHere {
            let target = Fingerprint::from_bytes(*refused.target);
            let home = self.shard.homes().of_fingerprint(&target);
            match home == self.id {
                true => self.shard.route_failed(&target, node),
                false => self.mailbox.control(home, Delivery::RouteFailed(target, node)),
            }
        }
        self.shard.handle_mail(Mail::Refused {
            fingerprint: Fingerprint::from_bytes(*refused.to),
            session: SessionId::from_u64(refused.session),
            refusal,
        });
    }
}

fn sender(node: NodeNo, fingerprint: &[u8; 32], session: u64) -> Sender {
    Sender {
        fingerprint: Fingerprint::from_bytes(*fingerprint),
        session: SessionId::from_u64(session),
        origin: LoopId::of_node(node),
    }
}
