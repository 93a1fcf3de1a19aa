//! Nodes that share no state with this one: what goes to them because it found nobody here, and what comes from them
//! (peer protocol, section 9).
//!
//! Owns: the messages of this loop's peers that other nodes have not acknowledged yet.
//! Never: sends anything elsewhere that has its target here; judges who may reach whom, which the shard does.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::peers::{Direct, Sender};
use super::receive::{namespaces_of, text_of};
use super::{Delivery, EventLoop};
use crate::broker::{Channel, NodeId};
use crate::dialect::{fleet, peer};
use crate::ids::{CommandId, Fingerprint, LoopId, NamespaceId, SessionId};
use crate::message::cluster::{Event, Plain};
use crate::message::{DirectKind, Refusal};
use crate::metrics::Metric;
use crate::shard::{DirectMail, NOBODYS_SESSION, PeerKey, Route, Unresolved};

/// How this node speaks with the others.
#[derive(Clone, Copy, Debug)]
pub struct FleetSettings {
    /// Its id.
    pub node_id: NodeId,
    /// Nodes share one state: what is not here is asked of the broker, and only heard of in this way.
    pub cluster_state: bool,
    /// Which broker it is, as in the settings.
    pub broker: &'static str,
    /// `/readyz` answers 503 while it is lost.
    pub gates_ready: bool,
    /// A message to another node is refused as for nobody if none acknowledges it.
    pub acks: bool,
}

/// How long an acknowledgement may take.
const ACK_MS: u64 = 1000;
/// Messages of a loop that may wait for one: some three megabytes.
const PENDING_MAX: usize = 65_536;
/// Of which the room for so many is kept.
const PENDING_KEPT: usize = 1024;

/// A message from such a node on its way from its target's alias to its target.
#[derive(Debug)]
pub struct Resolved {
    to: Fingerprint,
    plain: Plain,
}

/// The loop's part in such a fleet.
pub(super) struct Fleet {
    own: String,
    /// Messages that find nobody here are for the others.
    speaks: bool,
    acks: bool,
    pending: Pending,
    out: Vec<u8>,
    shares: Vec<NamespaceId>,
}

impl Fleet {
    pub(super) fn new(settings: &FleetSettings) -> Self {
        Self {
            own: settings.node_id.to_string(),
            speaks: !settings.cluster_state,
            acks: settings.acks,
            pending: Pending::default(),
            out: Vec::new(),
            shares: Vec::new(),
        }
    }
}

/// Messages that wait for an acknowledgement, in the order sent, which is that of their deadlines.
#[derive(Debug, Default)]
struct Pending {
    /// The number of the first.
    first: u64,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    due_ms: u64,
    /// Who sent it; None: it was answered.
    sender: Option<(Fingerprint, SessionId)>,
}

impl Pending {
    /// The number of one more; None: too many wait.
    fn add(&mut self, sender: (Fingerprint, SessionId), due_ms: u64) -> Option<u64> {
        if self.waiting.len() >= PENDING_MAX {
            return None;
        }
        let sender = Some(sender);
        self.waiting.push_back(Waiting { due_ms, sender });
        Some(self.first + self.waiting.len() as u64 - 1)
    }

    /// It was answered: who sent it, unless that was too late, or it was answered before.
    fn take(&mut self, number: u64) -> Option<(Fingerprint, SessionId)> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let sender = self.waiting.get_mut(place)?.sender.take();
        self.drop_answered();
        sender
    }

    /// The sender of one that was not answered in time.
    fn expire(&mut self, now_ms: u64) -> Option<(Fingerprint, SessionId)> {
        let sender = self
            .waiting
            .front_mut()
            .filter(|waiting| waiting.due_ms <= now_ms)?
            .sender
            .take();
        self.drop_answered();
        sender
    }

    fn due_ms(&self) -> Option<u64> {
        self.waiting.front().map(|waiting| waiting.due_ms)
    }

    /// The first is one that was not answered.
    fn drop_answered(&mut self) {
        while self.waiting.front().is_some_and(|waiting| waiting.sender.is_none()) {
            self.waiting.pop_front();
            self.first += 1;
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(PENDING_KEPT);
        }
    }
}

impl EventLoop {
    /// A signal or relay found nobody at its target's home, which is here: it goes to the other nodes, if that is how this
    /// node speaks with them.
    pub(super) fn refused_here(
        &mut self,
        from: PeerKey,
        sender: &Sender,
        to: &Fingerprint,
        direct: &Direct<'_>,
        refusal: Refusal,
    ) -> Result<(), Refusal> {
        match refusal {
            Refusal::PeerNotFound if self.speaks_plainly() => {
                let to = to.hex();
                self.publish_of(from, sender, std::str::from_utf8(&to).unwrap_or_default(), direct)
            }
            refusal => Err(refusal),
        }
    }

    /// The same for a target that was named by an alias that nobody here holds.
    pub(super) fn unresolved_here(
        &mut self,
        from: PeerKey,
        message: &Unresolved,
        refusal: Refusal,
    ) -> Result<(), Refusal> {
        let Some((fingerprint, session)) = self.shard.identity(from) else {
            return Ok(());
        };
        // Nobody can hold the empty alias: it stands for what can be no alias.
        if refusal != Refusal::PeerNotFound || !self.speaks_plainly() || message.alias.is_empty() {
            return Err(refusal);
        }
        let sender = Sender {
            fingerprint,
            session,
            origin: self.id,
        };
        let direct = Direct {
            kind: message.kind,
            about: message.about.zip(message.about_name.as_deref()),
            payload: message.payload.as_deref(),
        };
        self.publish_of(from, &sender, &message.alias, &direct)
    }

    /// Whether a message that another loop's peer sent goes back to that loop, because its target is on no node that this
    /// one knows.
    pub(super) fn returns(&mut self, mail: &DirectMail, bytes: &[u8]) -> bool {
        if !self.speaks_plainly() {
            return false;
        }
        // The names of the namespaces that its sender is in are known there, and there an acknowledgement is waited for.
        let shares = bytes
            .get(mail.shares.start as usize..mail.shares.end as usize)
            .unwrap_or_default();
        let name = text_of(bytes, &mail.about_name);
        let payload = mail.payload.as_ref().map(|payload| text_of(bytes, payload));
        let length = shares.len() + name.len() + payload.map_or(0, str::len);
        if let Some(batch) = self.mailbox.traffic(mail.origin, length) {
            let returned = DirectMail {
                shares: batch.push_bytes(shares),
                about_name: batch.push_bytes(name.as_bytes()),
                payload: payload.map(|payload| batch.push_bytes(payload.as_bytes())),
                ..*mail
            };
            batch.items.push(Delivery::Returned(returned));
        } else {
            self.counters.count(Metric::RefusedMail);
            self.shard
                .refuse(mail.origin, mail.from, mail.session, Refusal::PeerBufferFull);
        }
        true
    }

    /// A message of a peer of this loop came back from its target's home: it goes to the other nodes.
    pub(super) fn on_returned(&mut self, mail: &DirectMail, bytes: &[u8]) {
        let sender = Sender {
            fingerprint: mail.from,
            session: mail.session,
            origin: mail.origin,
        };
        let direct = Direct {
            kind: mail.kind,
            about: mail.about.map(|about| (about, text_of(bytes, &mail.about_name))),
            payload: mail.payload.as_ref().map(|payload| text_of(bytes, payload)),
        };
        let Some(fleet) = &mut self.fleet else { return };
        // As they were when it was sent: by now the sender may have left some, or be gone.
        fleet.shares.clear();
        fleet.shares.extend(namespaces_of(bytes, &mail.shares));
        let to = mail.to.hex();
        let sent = self.publish_direct(&sender, std::str::from_utf8(&to).unwrap_or_default(), &direct);
        if let Err(refusal) = sent {
            self.shard.refuse(mail.origin, mail.from, mail.session, refusal);
        }
    }

    fn publish_of(&mut self, from: PeerKey, sender: &Sender, to: &str, direct: &Direct<'_>) -> Result<(), Refusal> {
        let Some(fleet) = &mut self.fleet else {
            return Err(Refusal::PeerNotFound);
        };
        fleet.shares.clear();
        fleet.shares.extend(self.shard.shares(from));
        self.publish_direct(sender, to, direct)
    }

    /// Publishes a signal or relay whose sender is in the namespaces that are noted.
    fn publish_direct(&mut self, sender: &Sender, to: &str, direct: &Direct<'_>) -> Result<(), Refusal> {
        let (Some(fleet), Some(neighbours)) = (&mut self.fleet, &mut self.neighbours) else {
            return Err(Refusal::PeerNotFound);
        };
        let number = match fleet.acks {
            true => {
                let due_ms = self.clock.now_ms + ACK_MS;
                let number = fleet.pending.add((sender.fingerprint, sender.session), due_ms);
                Some(number.ok_or(Refusal::PeerBufferFull)?)
            }
            false => None,
        };
        let about = direct
            .about
            .filter(|(about, _)| fleet.shares.binary_search(about).is_ok());
        let message = fleet::Direct {
            kind: direct.kind,
            from: &sender.fingerprint,
            to,
            namespace: about.map(|(_, name)| name),
            payload: direct.payload,
            ts_ms: self.clock.unix_ms,
            id: number.map(|number| CommandId::new(self.id, number)),
        };
        let names = fleet.shares.iter().filter_map(|share| self.shard.name_of(*share));
        fleet.out.clear();
        fleet::push_direct(&mut fleet.out, &message, &fleet.own, names);
        let channel = match direct.kind {
            DirectKind::Signal => Channel::Signal,
            DirectKind::Relay => Channel::Relay,
        };
        let sent = neighbours.publish_plain(channel, &mut fleet.out);
        if sent.is_err() {
            number.and_then(|number| fleet.pending.take(number));
        }
        sent
    }

    /// A broadcast of a peer of this loop was accepted, and delivered here: the other nodes hear it too.
    ///
    /// # Errors
    /// They do not: the broker is lost, or behind.
    pub(super) fn publish_broadcast(&mut self, sender: &Sender, namespace: &str, payload: &str) -> Result<(), Refusal> {
        let (Some(fleet), Some(neighbours)) = (&mut self.fleet, &mut self.neighbours) else {
            return Ok(());
        };
        if !fleet.speaks {
            return Ok(());
        }
        fleet.out.clear();
        let (from, ts_ms) = (&sender.fingerprint, self.clock.unix_ms);
        fleet::push_broadcast(&mut fleet.out, from, namespace, payload, ts_ms, &fleet.own);
        neighbours.publish_plain(Channel::Broadcast, &mut fleet.out)
    }

    fn speaks_plainly(&self) -> bool {
        self.fleet.as_ref().is_some_and(|fleet| fleet.speaks)
    }

    /// The broker went away: what becomes of the messages under way will not be heard.
    pub(super) fn note_broker(&mut self, event: &Event) {
        if let Event::Down = event {
            self.expire_pending(u64::MAX, Refusal::BrokerUnavailable);
        }
    }

    /// Tells the senders of what no node has acknowledged in time.
    pub(super) fn expire_plain(&mut self) {
        if self.plain_due_ms().is_some_and(|due_ms| due_ms <= self.clock.now_ms) {
            self.expire_pending(self.clock.now_ms, Refusal::PeerNotFound);
            self.drain_outputs();
        }
    }

    /// When there may be some.
    pub(super) fn plain_due_ms(&self) -> Option<u64> {
        self.fleet.as_ref().and_then(|fleet| fleet.pending.due_ms())
    }

    fn expire_pending(&mut self, now_ms: u64, refusal: Refusal) {
        let Some(fleet) = &mut self.fleet else { return };
        while let Some((fingerprint, session)) = fleet.pending.expire(now_ms) {
            self.shard.refuse(self.id, fingerprint, session, refusal);
        }
    }

    /// A message of such a node, for somebody whose home, or whose alias's home, is here; or what became of one of ours.
    pub(super) fn on_plain(&mut self, plain: Plain) {
        match &plain {
            Plain::Direct { to, .. } => match Fingerprint::parse(to) {
                Some(to) => self.deliver_plain(&to, &plain),
                None => {
                    if let Some(to) = self.shard.holder_of(to) {
                        self.pass_on(to, plain);
                    }
                }
            },
            Plain::Broadcast {
                from,
                namespace,
                payload,
            } => self.deliver_plain_broadcast(from, namespace, payload),
            Plain::Ack { id, outcome } => {
                let number = id.as_u64() & NUMBER;
                let sender = self.fleet.as_mut().and_then(|fleet| fleet.pending.take(number));
                if let (Some((fingerprint, session)), Err(refusal)) = (sender, outcome) {
                    self.shard.refuse(self.id, fingerprint, session, *refusal);
                }
            }
        }
    }

    /// Hands a message that came for an alias to the home of its holder.
    fn pass_on(&mut self, to: Fingerprint, plain: Plain) {
        let home: LoopId = self.shard.homes().of_fingerprint(&to);
        if home == self.id {
            return self.deliver_plain(&to, &plain);
        }
        match self.mailbox.traffic(home, plain.bytes()) {
            Some(batch) => batch.items.push(Delivery::Plain(Box::new(Resolved { to, plain }))),
            None => {
                self.counters.count(Metric::RefusedMail);
                self.acknowledge(&plain, Err(Refusal::PeerBufferFull));
            }
        }
    }

    /// A message that was for an alias of this peer.
    pub(super) fn on_plain_resolved(&mut self, resolved: &Resolved) {
        self.deliver_plain(&resolved.to, &resolved.plain);
    }

    fn deliver_plain(&mut self, to: &Fingerprint, plain: &Plain) {
        let Plain::Direct {
            kind,
            from,
            shares,
            about,
            payload,
            ..
        } = plain
        else {
            return;
        };
        let homes = self.shard.homes();
        let shares = shares.as_ref().map(|names| {
            let mut shares: Vec<NamespaceId> = names.iter().map(|name| homes.namespace(name)).collect();
            shares.sort_unstable();
            shares
        });
        let about_name = about.as_deref();
        let about = about_name.and_then(fleet::name_of).map(|name| homes.namespace(&name));
        let payload = payload.as_deref();
        let outcome = match self.shard.receive_plain(from, to, shares.as_deref(), about) {
            Route::Local { conn, about } => {
                let name = about_name.filter(|_| about);
                self.forward(conn, from, to, *kind, name, payload)
            }
            Route::Hold { peer } => {
                let direct = Direct {
                    kind: *kind,
                    about: about.zip(about_name),
                    payload,
                };
                let shares = shares.map_or_else(|| self.shard.places_of(peer).collect(), Vec::into_boxed_slice);
                let sender = self.sender_elsewhere(*from);
                self.hold_direct(peer, &sender, to, &direct, shares)
            }
            Route::Refused(refusal) => Err(refusal),
            // It is never sent on.
            Route::Loop { .. } | Route::Away { .. } | Route::Ask { .. } => Err(Refusal::PeerNotFound),
        };
        if outcome == Err(Refusal::PeerBufferFull) {
            self.counters.count(Metric::RefusedFull);
        }
        self.acknowledge(plain, outcome);
    }

    fn deliver_plain_broadcast(&mut self, from: &Fingerprint, name: &str, payload: &str) {
        if self.unsent > self.settings.output_bytes_max {
            return;
        }
        let Some(namespace) = fleet::name_of(name).map(|name: Cow<'_, str>| self.shard.homes().namespace(&name)) else {
            return;
        };
        if self.shard.name_of(namespace).is_none() {
            return;
        }
        self.note_excluded(peer::exclude_of(payload));
        let excluded = std::mem::take(&mut self.scratch.exclude);
        let sender = self.sender_elsewhere(*from);
        // There is no word by which the other node could be told of those who cannot take it.
        self.fan_out(namespace, &sender, name, payload, &excluded);
        self.scratch.exclude = excluded;
    }

    fn sender_elsewhere(&self, fingerprint: Fingerprint) -> Sender {
        Sender {
            fingerprint,
            session: NOBODYS_SESSION,
            origin: self.id,
        }
    }

    /// Tells the other node what became of its message, if it wants to know, and the target was here.
    fn acknowledge(&mut self, plain: &Plain, outcome: Result<(), Refusal>) {
        let (Some(fleet), Some(neighbours)) = (&mut self.fleet, &mut self.neighbours) else {
            return;
        };
        let Plain::Direct {
            id: Some(id), node_id, ..
        } = plain
        else {
            return;
        };
        fleet.out.clear();
        if !node_id.is_empty() && fleet::push_ack(&mut fleet.out, id, &fleet.own, node_id, outcome) {
            // Without an answer the sender is told that there is nobody: as good as any when the queue is full.
            let _ = neighbours.publish_plain(Channel::Ack, &mut fleet.out);
        }
    }
}

/// The part of a [`CommandId`] that counts.
const NUMBER: u64 = u64::MAX >> 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sender(count: u64) -> (Fingerprint, SessionId) {
        (Fingerprint::of_key(&count.to_string()), SessionId::from_u64(count))
    }

    #[test]
    fn what_is_not_answered_in_time_comes_back_in_order() {
        let mut pending = Pending::default();
        let numbers: Vec<u64> = (0..4)
            .map(|count| pending.add(sender(count), 100 + count).unwrap())
            .collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert_eq!((pending.due_ms(), pending.expire(99)), (Some(100), None));
        assert_eq!(pending.take(2), Some(sender(2)));
        assert_eq!(pending.take(2), None);
        assert_eq!(pending.take(0), Some(sender(0)));
        assert_eq!(pending.due_ms(), Some(101));
        assert_eq!(pending.expire(200), Some(sender(1)));
        assert_eq!(pending.take(1), None);
        assert_eq!(pending.expire(102), None);
        assert_eq!(pending.expire(103), Some(sender(3)));
        assert_eq!((pending.due_ms(), pending.expire(u64::MAX)), (None, None));
        assert_eq!(pending.add(sender(9), 300), Some(4));
        assert_eq!([pending.take(5), pending.take(3), pending.take(u64::MAX)], [None; 3]);
        assert_eq!(pending.take(4), Some(sender(9)));
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let mut pending = Pending::default();
        for count in 0..PENDING_MAX as u64 {
            assert_eq!(pending.add(sender(count % 3), count), Some(count));
        }
        assert_eq!(pending.add(sender(0), 0), None);
        assert_eq!(pending.take(5), Some(sender(2)));
        assert_eq!(pending.add(sender(0), 0), None, "the oldest is still there");
        assert_eq!(pending.take(0), Some(sender(0)));
        assert_eq!(pending.add(sender(0), 0), Some(PENDING_MAX as u64));
        while pending.expire(u64::MAX).is_some() {}
        assert!(pending.waiting.capacity() <= 2 * PENDING_KEPT);
    }
}
