//! Traffic between nodes: what the loops have for others goes into few messages, what comes is split among the loops.
//!
//! Owns: the heads of messages, their numbers, and what becomes of a message that nobody listened to or no loop could take.
//! Never: looks further into a frame than to whom it goes, but to refuse it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::select;

use super::figures::count;
use super::link::{Busy, Queues, TRAFFIC_BYTES};
use super::plain::PlainEar;
use super::session::Session;
use super::{Channel, Epoch, NodeId, Nodes, Publisher, Routes, Subscriber, Trouble};
use crate::codec::node_traffic::{self, Frame, Head, Home, Reason, Refused};
use crate::ids::{Fingerprint, LoopId, NodeNo};
use crate::message::cluster::Event;

/// Messages that are published at once.
const MESSAGES_MAX: usize = 256;
/// Their bytes.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// What waits for one node is joined into messages of up to so many bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// After the last message it is looked so often whether somebody was not there to hear it,
const LOOKS: u32 = 5;
/// once in this time.
const LOOK_AFTER: Duration = Duration::from_millis(100);
/// Then nothing is looked for.
const IDLE: Duration = Duration::from_secs(3600);

/// What the publishing thread keeps.
#[derive(Debug)]
pub(super) struct Outgoing {
    nodes: Arc<Nodes>,
    routes: Routes,
    queues: Queues,
    /// How many messages each node was sent, by this one in its present epoch.
    sent: HashMap<NodeId, u64>,
    epoch: Option<Epoch>,
    messages: Vec<Message>,
    /// Emptied buffers.
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Message {
    to: Channel,
    bytes: Vec<u8>,
}

impl Outgoing {
    pub(super) fn new(nodes: Arc<Nodes>, routes: Routes, queues: Queues) -> Self {
        Self {
            nodes,
            routes,
            queues,
            sent: HashMap::new(),
            epoch: None,
            messages: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Publishes what the loops hand over.
    pub(super) fn publish(&mut self, session: &Session, mut part: Box<dyn Publisher>) -> Result<(), Trouble> {
        if self.epoch != session.epoch {
            self.sent.clear();
            self.epoch = session.epoch;
        }
        let queues = self.queues.clone();
        let mut looks = 0;
        loop {
            let first = select! {
                recv(queues.traffic) -> first => first,
                recv(session.ended) -> _ => return Ok(()),
                default(if looks > 0 { LOOK_AFTER } else { IDLE }) => {
                    if looks > 0 && session.holds() {
                        looks -= 1;
                        self.hand_over(&mut *part, &[])?;
                    }
                    continue;
                }
            };
            looks = LOOKS;
            let Ok(first) = first else { return Ok(()) };
            self.gather(first);
            let outcome = match session.holds() {
                true => self.send(&mut *part),
                false => Err(Trouble::Lapsed),
            };
            if outcome.is_err() {
                count(&queues.figures.dropped, self.messages.len());
            }
            for mut message in self.messages.drain(..) {
                message.bytes.clear();
                self.spare.push(message.bytes);
            }
            self.spare.truncate(MESSAGES_MAX);
            outcome?;
        }
    }

    fn gather(&mut self, first: (Channel, Vec<u8>)) {
        let queues = self.queues.clone();
        let mut bytes = first.1.len();
        self.add(first);
        while self.messages.len() < MESSAGES_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(next) = queues.traffic.try_recv() else { break };
            bytes += next.1.len();
            self.add(next);
        }
        queues.figures.give_back(bytes);
    }

    /// Adds it to the last message for the same node, or makes one.
    fn add(&mut self, (to, mut bytes): (Channel, Vec<u8>)) {
        match to {
            Channel::Node(node) => self.add_for(node, &bytes),
            Channel::Signal | Channel::Relay | Channel::Broadcast | Channel::Ack => {
                let buffer = self.spare.pop().unwrap_or_default();
                let bytes = std::mem::replace(&mut bytes, buffer);
                self.messages.push(Message { to, bytes });
            }
        }
        bytes.clear();
        // Enough of them lie there if it is full.
        let _ = self.queues.spare.try_send(bytes);
    }

    fn add_for(&mut self, node: NodeNo, frames: &[u8]) {
        let to = Channel::Node(node);
        let last = self.messages.iter_mut().rev().find(|message| message.to == to);
        if let Some(message) = last
            && message.bytes.len() + frames.len() <= MESSAGE_BYTES_MAX
        {
            message.bytes.extend_from_slice(frames);
            return;
        }
        let (Some((id, _)), Some(epoch)) = (self.nodes.name(node), self.epoch) else {
            count(&self.queues.figures.dropped, 1);
            return;
        };
        let number = self.sent.entry(id).or_default();
        *number += 1;
        let head = Head {
            node: *self.nodes.own().as_bytes(),
            epoch: epoch.0,
            number: *number,
        };
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.extend_from_slice(&head.to_bytes());
        bytes.extend_from_slice(frames);
        self.messages.push(Message { to, bytes });
    }

    fn send(&mut self, part: &mut dyn Publisher) -> Result<(), Trouble> {
        let batch: Vec<(Channel, &[u8])> = self
            .messages
            .iter()
            .map(|message| (message.to, &*message.bytes))
            .collect();
        let outcome = self.hand_over(part, &batch);
        let figures = &self.queues.figures;
        if outcome.is_ok() {
            count(&figures.published, batch.len());
            count(
                &figures.published_bytes,
                batch.iter().map(|(_, bytes)| bytes.len()).sum(),
            );
        }
        outcome
    }

    /// Publishes, and brings back what turns out to have had no listener, of these messages or earlier ones.
    fn hand_over(&self, part: &mut dyn Publisher, batch: &[(Channel, &[u8])]) -> Result<(), Trouble> {
        part.publish(batch, &mut |(channel, message)| {
            count(&self.queues.figures.unheard, 1);
            if let Channel::Node(node) = channel {
                self.bring_back(node, message);
            }
        })
    }

    /// Tells the loops of the senders that nobody was there, as that node would have.
    fn bring_back(&self, node: NodeNo, message: &[u8]) {
        let Some((_, frames)) = Head::split(message) else {
            return;
        };
        let mut refusals = Vec::new();
        refuse(frames, Reason::NotHere, &mut refusals);
        let split = Split::of(&refusals, &self.routes);
        for (loop_id, frames) in split.into_loops() {
            let event = Event::Traffic { from: node, frames };
            if self.routes.pass(loop_id, event) == Err(Busy) {
                count(&self.queues.figures.refused_behind, 1);
            }
        }
    }
}

/// What the subscribing thread keeps.
#[derive(Debug)]
pub(super) struct Incoming {
    nodes: Arc<Nodes>,
    routes: Routes,
    queues: Queues,
    /// What hears the channels of section 9.
    plain: PlainEar,
    /// The number of the last message that each node sent.
    last: HashMap<NodeNo, u64>,
}

impl Incoming {
    pub(super) fn new(nodes: Arc<Nodes>, routes: Routes, queues: Queues, cluster_state: bool) -> Self {
        let plain = PlainEar::new(nodes.own(), routes.clone(), queues.clone(), cluster_state);
        Self {
            nodes,
            routes,
            queues,
            plain,
            last: HashMap::new(),
        }
    }

    /// Passes on what other nodes say.
    pub(super) fn hear(
        &mut self,
        session: &Session,
        mut part: Box<dyn Subscriber>,
        wait: Duration,
    ) -> Result<(), Trouble> {
        while session.holds() {
            part.receive(wait, &mut |(channel, bytes)| {
                // It may have lain there while this process was stopped.
                if session.holds() {
                    self.on_heard(channel, bytes);
                }
            })?;
        }
        match session.is_over() {
            true => Ok(()),
            false => Err(Trouble::Lapsed),
        }
    }

    fn on_heard(&mut self, channel: Option<Channel>, bytes: &[u8]) {
        let figures = &self.queues.figures;
        count(&figures.heard, 1);
        count(&figures.heard_bytes, bytes.len());
        match channel {
            None => {
                if self.on_message(bytes).is_none() {
                    count(&self.queues.figures.strange, 1);
                }
            }
            Some(channel) => self.plain.hear(channel, bytes),
        }
    }

    /// A message for this node; None: it makes no sense, or was overtaken by a later one.
    fn on_message(&mut self, message: &[u8]) -> Option<()> {
        let (head, frames) = Head::split(message)?;
        let id = NodeId::from_bytes(head.node);
        if id == self.nodes.own() {
            return Some(());
        }
        let from = self.nodes.number(id, Epoch(head.epoch)).ok()??;
        // From the first that is heard on: what was sent before is not missed.
        let last = self.last.get(&from).copied().unwrap_or(head.number.saturating_sub(1));
        let ahead = head.number.checked_sub(last).filter(|ahead| *ahead > 0)?;
        count(
            &self.queues.figures.gaps,
            usize::try_from(ahead - 1).unwrap_or(usize::MAX),
        );
        self.last.insert(from, head.number);
        for (loop_id, frames) in Split::of(frames, &self.routes).into_loops() {
            // What is passed on is gone, and a refusal needs it.
            if !self.routes.has_room(loop_id, frames.len()) {
                self.send_back(from, &frames);
                continue;
            }
            let event = Event::Traffic { from, frames };
            if self.routes.pass(loop_id, event) == Err(Busy) {
                count(&self.queues.figures.refused_behind, 1);
            }
        }
        Some(())
    }

    /// Tells the node that a loop is too far behind to take this.
    fn send_back(&self, to: NodeNo, frames: &[u8]) {
        let figures = &self.queues.figures;
        count(&figures.refused_behind, 1);
        let mut refusals = Vec::new();
        refuse(frames, Reason::Full, &mut refusals);
        if refusals.is_empty() {
            return;
        }
        if !figures.take(refusals.len(), TRAFFIC_BYTES) {
            count(&figures.refused_full, 1);
            return;
        }
        let bytes = refusals.len();
        if self.queues.answers.try_send((Channel::Node(to), refusals)).is_err() {
            figures.give_back(bytes);
            count(&figures.refused_full, 1);
        }
    }
}

/// Appends a refusal for each direct message. Of a broadcast nobody knows here how many it would have reached, and who was
/// refused is not told that his refusal was.
fn refuse(frames: &[u8], reason: Reason, refusals: &mut Vec<u8>) {
    for frame in node_traffic::read(frames) {
        if let Ok(Frame::Direct(direct, _)) = frame {
            let refused = Refused {
                to: direct.from,
                session: direct.session,
                target: direct.to,
                reason,
            };
            node_traffic::push_refused(refusals, &refused);
        }
    }
}

/// Frames by the loops that they are for.
struct Split(Vec<Vec<u8>>);

impl Split {
    fn of(frames: &[u8], routes: &Routes) -> Self {
        let homes = routes.homes();
        let mut parts = vec![Vec::new(); homes.loops()];
        for (home, frame) in node_traffic::split(frames) {
            match home {
                Home::Key(key) => {
                    let home = homes.of_fingerprint(&Fingerprint::from_bytes(*key));
                    parts[home.index()].extend_from_slice(frame);
                }
                Home::Everyone => parts.iter_mut().for_each(|part| part.extend_from_slice(frame)),
            }
        }
        Self(parts)
    }

    /// Those that have any.
    fn into_loops(self) -> impl Iterator<Item = (LoopId, Vec<u8>)> {
        let loops = self.0.into_iter().enumerate();
        loops
            .filter(|(_, frames)| !frames.is_empty())
            .map(|(index, frames)| (LoopId::new(index as u16), frames))
    }
}
