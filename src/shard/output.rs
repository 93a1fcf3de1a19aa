//! Outputs: what the event loop must do after a shard was told something.
//!
//! Owns: the vocabulary from shard to shell.
//! Never: names a socket or a wire format.

use std::ops::Range;

use compact_str::CompactString;

use crate::ids::{ConnId, Fingerprint, LoopId, NamespaceId, NodeNo, SessionId};
use crate::message::cluster::Command;
use crate::message::{DirectKind, Event, Refusal};

use super::mail::Mail;
use super::peers::PeerKey;

/// One thing to do, in the order produced.
#[derive(Debug)]
pub enum Output {
    /// This connection's registration is complete: it is this peer's from here on. Its `registered` event follows.
    Registered {
        /// The connection.
        conn: ConnId,
        /// Its peer.
        peer: PeerKey,
    },
    /// This connection's registration is refused: say so, then close.
    RegistrationRefused {
        /// The connection.
        conn: ConnId,
        /// Why.
        refusal: Refusal,
    },
    /// Tell one connection.
    Event {
        /// The connection.
        conn: ConnId,
        /// What.
        event: Event,
    },
    /// Tell many connections the same: `targets` is a range for [`super::Shard::targets`].
    FanOut {
        /// Which.
        targets: Range<usize>,
        /// What.
        event: Event,
    },
    /// Tell many connections who came to a namespace, or left it: otherwise as [`Output::FanOut`].
    Presence {
        /// Where.
        namespace: NamespaceId,
        /// How many members it has on all loops.
        members: u32,
        /// Which.
        targets: Range<usize>,
        /// What.
        event: Event,
    },
    /// Deliver peer-made traffic that was held back.
    Deliver {
        /// The connection.
        conn: ConnId,
        /// What.
        held: Box<Held>,
    },
    /// A direct message's alias was looked up: route it.
    Resolved {
        /// The sender.
        peer: PeerKey,
        /// The alias's holder, or why there is none.
        to: Result<Fingerprint, Refusal>,
        /// The message.
        message: Box<Unresolved>,
    },
    /// Mail for another loop.
    Mail {
        /// The loop.
        to: LoopId,
        /// What.
        mail: Mail,
    },
    /// A direct message that was kept until it was known where its target is: send it there, see [`super::Shard::keep`].
    Forward {
        /// The node that serves the target.
        node: NodeNo,
        /// The message.
        held: Box<Held>,
    },
    /// A command for the broker.
    Command(Box<Command>),
    /// The awaited answer was given: parse and read this connection again.
    Resume(ConnId),
    /// The session of this connection is over: close it. The connection is nobody's from here on.
    Close {
        /// The connection.
        conn: ConnId,
        /// RFC 6455 close code.
        code: u16,
        /// Its reason.
        reason: &'static str,
    },
}

/// A signal or relay that waits for its alias.
#[derive(Debug)]
pub struct Unresolved {
    /// Signal or relay.
    pub kind: DirectKind,
    /// The alias.
    pub alias: CompactString,
    /// The namespace that the message names, as sent, between its quotes.
    pub about_name: Option<Box<str>>,
    /// That namespace.
    pub about: Option<NamespaceId>,
    /// The payload as sent.
    pub payload: Option<Box<str>>,
}

/// Peer-made traffic that waits: it reached a connection through a join that was not answered yet, or it is not known where
/// its target is.
#[derive(Debug)]
pub struct Held {
    /// Direct message or broadcast.
    pub what: HeldKind,
    /// The sender.
    pub from: Fingerprint,
    /// Which session of it.
    pub session: SessionId,
    /// The loop that serves it.
    pub origin: LoopId,
    /// The target.
    pub to: Fingerprint,
    /// The namespace's name as sent, between its quotes (of a direct message: only if the target may see it).
    pub name: Option<Box<str>>,
    /// The payload as sent.
    pub payload: Option<Box<str>>,
}

/// What kind of traffic was held, and through what it reaches its target.
#[derive(Debug)]
pub enum HeldKind {
    /// A signal or relay; the namespaces that its sender is in, ascending; the namespace it names.
    Direct(DirectKind, Box<[NamespaceId]>, Option<NamespaceId>),
    /// A broadcast in this namespace.
    Broadcast(NamespaceId),
}

impl Held {
    /// Whether its sender sent it as a member of that namespace, and may reach its target through it.
    pub(super) fn is_through(&self, namespace: NamespaceId) -> bool {
        match &self.what {
            HeldKind::Direct(_, shares, _) => shares.binary_search(&namespace).is_ok(),
            HeldKind::Broadcast(own) => *own == namespace,
        }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let shares = match &self.what {
            HeldKind::Direct(_, shares, _) => std::mem::size_of_val(&**shares),
            HeldKind::Broadcast(_) => 0,
        };
        let text = self.name.as_deref().map_or(0, str::len) + self.payload.as_deref().map_or(0, str::len);
        size_of::<Self>() + shares + text
    }
}
