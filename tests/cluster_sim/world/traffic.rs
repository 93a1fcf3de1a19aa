//! Traffic between nodes: what one publishes another hears, unless a connection or node is lost.
//!
//! Owns: what is on its way, in order for each pair of nodes.
//! Never: reads a frame; shells do.

use peer_server::ids::{NodeNo, SessionId};

use super::shell::Direct;
use super::*;

/// What one node sends another.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Direct(Direct),
    Broadcast {
        namespace: NamespaceId,
        from: Fingerprint,
        session: SessionId,
        id: u64,
    },
    Refused {
        to: Fingerprint,
        session: SessionId,
        target: Option<Fingerprint>,
        refusal: Refusal,
    },
}

/// What a loop's queue of events holds.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    Event(BrokerEvent),
    Frame(NodeNo, Frame),
}

/// What is on its way from one node to another: who sent it, in which epoch.
pub(crate) type Pipe = VecDeque<(Place, Frame)>;

impl World {
    pub(super) fn send_frame(&mut self, n: usize, node: NodeNo, frame: Frame) {
        let (id, _) = self.nodes[n].nodes.name(node).expect("a number stands for a node");
        let own = &self.nodes[n];
        let listens = |other: &Node| other.id == id && other.runs && other.up;
        let to = self.nodes.iter().position(listens);
        let reaches = own.up && !own.cut_off && !self.broker_down;
        let Some(to) = to.filter(|_| reaches) else {
            note!(self, "node {n}: nobody hears {frame:?}");
            self.history.losses += 1;
            if let (Frame::Direct(direct), true) = (&frame, reaches) {
                self.fail_route(n, node, direct.to);
            }
            return;
        };
        note!(self, "node {n} sends node {to} {frame:?}");
        let place = self.place(n);
        self.pipes.entry((n, to)).or_default().push_back((place, frame));
    }

    fn fail_route(&mut self, n: usize, node: NodeNo, to: Fingerprint) {
        let home = self.nodes[n].homes.of_fingerprint(&to).index();
        self.nodes[n].shards[home].route_failed(&to, node);
    }

    /// Pairs between which something is on its way and can arrive.
    pub(super) fn pipes(&self) -> Vec<(usize, usize)> {
        let open = |(_, to): &(usize, usize)| {
            let node = &self.nodes[*to];
            node.runs && !node.stopped && node.up && !node.cut_off && !self.broker_down
        };
        self.pipes
            .iter()
            .filter(|(pipe, frames)| !frames.is_empty() && open(pipe))
            .map(|(pipe, _)| *pipe)
            .collect()
    }

    /// What is on its way to or from a node whose connections broke.
    pub(super) fn lose_traffic(&mut self, n: usize) {
        for ((from, to), frames) in &mut self.pipes {
            if *from == n || *to == n {
                self.history.losses += frames.len() as u64;
                frames.clear();
            }
        }
    }

    /// A node hears the next frame of another.
    pub(super) fn carry_traffic(&mut self, (from, to): (usize, usize)) {
        let Some((place, frame)) = self.pipes.get_mut(&(from, to)).and_then(VecDeque::pop_front) else {
            return;
        };
        let Ok(Some(number)) = self.nodes[to].nodes.number(place.0, place.1) else {
            return;
        };
        let homes = &self.nodes[to].homes;
        let home = match &frame {
            Frame::Direct(direct) => Some(homes.of_fingerprint(&direct.to)),
            Frame::Broadcast { .. } => None,
            Frame::Refused { to, .. } => Some(homes.of_fingerprint(to)),
        };
        for at in 0..self.nodes[to].events.len() {
            if home.is_none_or(|home| home.index() == at) {
                self.nodes[to].events[at].push_back(Heard::Frame(number, frame.clone()));
            }
        }
    }

    /// A loop takes a frame.
    pub(super) fn take_frame(&mut self, n: usize, at: usize, from_node: NodeNo, frame: Frame) {
        let origin = LoopId::of_node(from_node);
        match frame {
            Frame::Direct(direct) => self.arrive(n, at, origin, &direct),
            Frame::Broadcast {
                namespace,
                from,
                session,
                id,
            } => {
                let exclude = self.history.excluded(id);
                self.spread(n, at, namespace, (from, session, origin), &exclude, id);
            }
            Frame::Refused {
                to,
                session,
                target,
                refusal,
            } => {
                if let (Some(target), Refusal::PeerNotFound) = (target, refusal) {
                    self.fail_route(n, from_node, target);
                }
                self.nodes[n].shards[at].refuse(LoopId::new(at as u16), to, session, refusal);
            }
        }
    }

    /// Mail to another loop, or a refusal for another node.
    pub(super) fn send_mail(&mut self, n: usize, at: usize, to: LoopId, mail: peer_server::shard::Mail) {
        use peer_server::shard::Mail;
        let Some(node) = to.node() else {
            return self.nodes[n].links.control(at, to, mail);
        };
        match mail {
            Mail::Refused {
                fingerprint,
                session,
                refusal,
            } => {
                self.send_frame(
                    n,
                    node,
                    Frame::Refused {
                        to: fingerprint,
                        session,
                        target: None,
                        refusal,
                    },
                );
            }
            other => panic!("{other:?} for another node"),
        }
    }
}
