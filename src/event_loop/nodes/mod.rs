//! Other nodes: what this loop sends them and hears of them, and what its shard wants of the broker.
//!
//! Owns: commands and events between the shard and the broker, and a peer's traffic on its way to another node
//! ([`outgoing`] gathers it, [`incoming`] is the other direction).
//! Never: waits for the broker, or decides anything; the shard does.

mod incoming;
mod outgoing;

pub(super) use outgoing::Neighbours;

use super::EventLoop;
use super::peers::{Direct, Sender};
use super::receive::{namespaces_of, text_of};
use crate::ids::{Fingerprint, NamespaceId, NodeNo};
use crate::message::Refusal;
use crate::message::cluster::{Command, Event, Reply};
use crate::shard::{DirectMail, Held, HeldKind, Mail, PeerKey};

/// Events of the broker that are taken in one turn.
const EVENTS_MAX: usize = 256;
/// Bytes of other nodes' traffic from which on a turn takes no more of it: sockets have their turn as well.
const TRAFFIC_MAX: usize = 512 * 1024;

impl EventLoop {
    /// Hands the broker a command of the shard.
    pub(super) fn give_command(&mut self, command: Command) {
        let id = command.id;
        let taken = self
            .neighbours
            .as_mut()
            .is_some_and(|neighbours| neighbours.command(command));
        if !taken {
            let reply = Reply::Lost;
            self.shard.handle_cluster(Event::Replied { id, reply });
        }
    }

    /// Takes what the broker says.
    pub(super) fn serve_broker(&mut self) {
        let mut bytes = 0;
        for _ in 0..EVENTS_MAX {
            let event = self.neighbours.as_mut().and_then(Neighbours::poll_event);
            let Some(event) = event else { return };
            bytes += event.traffic_bytes();
            match event {
                Event::Traffic { from, frames } => {
                    self.on_node_traffic(from, &frames);
                }
                Event::Plain(plain) => self.on_plain(*plain),
                event => {
                    self.note_broker(&event);
                    self.shard.handle_cluster(event);
                }
            }
            self.drain_outputs();
            self.flush_early();
            if bytes > TRAFFIC_MAX {
                return;
            }
        }
    }

    /// Whether the broker has said something that was not taken yet.
    pub(super) fn broker_has_events(&self) -> bool {
        self.neighbours.as_ref().is_some_and(Neighbours::has_events)
    }

    /// Hands over what was gathered for other nodes.
    pub(super) fn flush_nodes(&mut self) {
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.flush();
        }
    }

    /// Whether something gathered could not be handed over yet.
    pub(super) fn nodes_are_stuck(&self) -> bool {
        self.neighbours.as_ref().is_some_and(Neighbours::is_stuck)
    }

    /// A signal or relay of a peer of this loop, for a peer on another node.
    pub(super) fn send_away(
        &mut self,
        node: NodeNo,
        from: PeerKey,
        sender: &Sender,
        to: &Fingerprint,
        direct: &Direct<'_>,
    ) -> Result<(), Refusal> {
        let shares = self.shard.shares(from);
        match &mut self.neighbours {
            Some(neighbours) => neighbours.direct(node, sender, to, direct, shares),
            None => Err(Refusal::PeerNotFound),
        }
    }

    /// The same from another loop.
    pub(super) fn pass_away(
        &mut self,
        node: NodeNo,
        mail: &DirectMail,
        about: bool,
        bytes: &[u8],
    ) -> Result<(), Refusal> {
        let Some(neighbours) = &mut self.neighbours else {
            return Err(Refusal::PeerNotFound);
        };
        let direct = Direct {
            kind: mail.kind,
            about: mail
                .about
                .filter(|_| about)
                .map(|about| (about, text_of(bytes, &mail.about_name))),
            payload: mail.payload.as_ref().map(|payload| text_of(bytes, payload)),
        };
        let sender = Sender {
            fingerprint: mail.from,
            session: mail.session,
            origin: mail.origin,
        };
        neighbours.direct(node, &sender, &mail.to, &direct, namespaces_of(bytes, &mail.shares))
    }

    /// The same after it was kept until it was known which node that is.
    pub(super) fn forward_held(&mut self, node: NodeNo, held: &Held) {
        let sender = Sender {
            fingerprint: held.from,
            session: held.session,
            origin: held.origin,
        };
        let (HeldKind::Direct(kind, shares, about), Some(neighbours)) = (&held.what, &mut self.neighbours) else {
            return;
        };
        let direct = Direct {
            kind: *kind,
            about: about.zip(held.name.as_deref()),
            payload: held.payload.as_deref(),
        };
        let sent = neighbours.direct(node, &sender, &held.to, &direct, shares.iter().copied());
        if let Err(refusal) = sent {
            self.refuse(&sender, &held.to, refusal);
        }
    }

    /// Keeps a signal or relay until the broker has said where its target is.
    pub(super) fn keep_direct(
        &mut self,
        sender: &Sender,
        to: &Fingerprint,
        direct: &Direct<'_>,
        shares: Box<[NamespaceId]>,
    ) -> Result<(), Refusal> {
        self.shard.keep(direct.held(sender, to, shares))
    }

    /// A broadcast of a peer of this loop goes to every other node with members. Returns the members of nodes for which the
    /// queue is full, and whether the broker is lost.
    pub(super) fn broadcast_away(
        &mut self,
        namespace: NamespaceId,
        sender: &Sender,
        name: &str,
        payload: &str,
    ) -> (u32, bool) {
        let Some(neighbours) = &mut self.neighbours else {
            return (0, false);
        };
        let (mut refused, mut lost) = (0, false);
        neighbours.begin_broadcast();
        for (node, members) in self.shard.nodes_of(namespace) {
            match neighbours.broadcast(node, namespace, sender, name, payload) {
                Ok(()) => {}
                Err(Refusal::BrokerUnavailable) => lost = true,
                Err(_) => refused += members,
            }
        }
        (refused, lost)
    }

    /// Tells the sender of a direct message, wherever it is, that it was refused here.
    pub(super) fn refuse(&mut self, sender: &Sender, target: &Fingerprint, refusal: Refusal) {
        match (sender.origin.node(), &mut self.neighbours) {
            (Some(node), Some(neighbours)) => {
                neighbours.refuse(node, &sender.fingerprint, sender.session, Some(target), refusal);
                self.count_refused(refusal);
            }
            (_, _) => self
                .shard
                .refuse(sender.origin, sender.fingerprint, sender.session, refusal),
        }
    }

    /// Mail of the shard for the loop of a peer that another node serves: of that only refusals are known there.
    pub(super) fn mail_to_node(&mut self, node: NodeNo, mail: &Mail) {
        let Some(neighbours) = &mut self.neighbours else { return };
        match mail {
            Mail::Refused {
                fingerprint,
                session,
                refusal,
            } => neighbours.refuse(node, fingerprint, *session, None, *refusal),
            other => {
                debug_assert!(false, "another node is no loop of this one: {other:?}");
                neighbours.count_misled();
            }
        }
    }
}
