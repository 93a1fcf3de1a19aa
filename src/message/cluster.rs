//! Words between a shard and the broker that makes several nodes one place.
//!
//! A shard gives commands and gets one reply for each; besides, the broker tells what happened to namespaces of which this
//! node has members, in one order for each namespace, wherever it was caused, here included. What each command does, and what
//! becomes of it when the broker is lost, is written in `docs/decisions/cluster.md`.
//!
//! Owns: commands, replies and events.
//! Never: says how a broker keeps anything.

use std::sync::Arc;

use compact_str::CompactString;

use super::{CriteriaKey, PeerInfo, Refusal};
use crate::ids::{CommandId, Fingerprint, NamespaceId, NodeNo, SessionId};

/// A session of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Who {
    /// Whose.
    pub fingerprint: Fingerprint,
    /// Which.
    pub session: SessionId,
}

/// What a shard wants of the broker.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its reply bears the same.
    pub id: CommandId,
    /// What.
    pub what: What,
}

/// Kinds of commands. Each is one step for all who look on.
#[derive(Clone, Debug)]
pub enum What {
    /// A session begins: whatever session the key has elsewhere ends with all that it holds. Answered by
    /// [`Reply::Registered`].
    Register {
        /// Which session.
        who: Who,
        /// Aliases it may hold: the first that nobody holds becomes its own.
        aliases: Vec<CompactString>,
    },
    /// A session goes on after the broker was lost. What it holds at the broker and does not name here ends. Answered by
    /// [`Reply::Registered`], or [`Reply::Taken`] if the key has another session elsewhere.
    Resume {
        /// Which session.
        who: Who,
        /// The alias that it held.
        alias: Option<CompactString>,
        /// Every namespace in which it is a member.
        member_of: Vec<NamespaceId>,
        /// Every namespace in which it waits for a match.
        waits_in: Vec<NamespaceId>,
    },
    /// A session ended: it leaves everything, its alias is free. Answered by [`Reply::Done`].
    End {
        /// Which session.
        who: Who,
    },
    /// On which other node is that peer? Answered by [`Reply::Found`].
    Find {
        /// Who.
        fingerprint: Fingerprint,
    },
    /// Who holds that alias? Answered by [`Reply::Resolved`].
    Resolve {
        /// The alias.
        alias: CompactString,
    },
    /// Enter a namespace or room. Answered by [`Reply::Joined`], refusals in the order in which the peer protocol has them.
    Join {
        /// Who.
        who: Who,
        /// Where.
        namespace: NamespaceId,
        /// Its name.
        name: Arc<str>,
        /// How to be shown there.
        info: Arc<PeerInfo>,
        /// Only if it is a room.
        room: bool,
        /// Members that a plain namespace may have.
        members_max: u32,
        /// A newcomer is refused for this if for nothing else.
        refuse: Option<Refusal>,
        /// Who is there is wanted as well.
        roster: bool,
    },
    /// Be a member again after the broker was lost: as [`What::Join`], but without an announcement if nothing has changed. A
    /// room that is gone is refused, or, if the broker has lost everything, made again on these terms.
    Rejoin {
        /// Who.
        who: Who,
        /// Where.
        namespace: NamespaceId,
        /// Its name.
        name: Arc<str>,
        /// How to be shown there.
        info: Arc<PeerInfo>,
        /// What makes it a room.
        room: Option<RoomTerms>,
        /// Members that a plain namespace may have.
        members_max: u32,
    },
    /// Make a room and be its first member. Answered by [`Reply::Created`].
    CreateRoom {
        /// Who.
        who: Who,
        /// Where.
        namespace: NamespaceId,
        /// Its name.
        name: Arc<str>,
        /// How the owner is shown.
        info: Arc<PeerInfo>,
        /// How many may be in it.
        max_size: u32,
        /// It is refused for this if for nothing else.
        refuse: Option<Refusal>,
    },
    /// Leave, and take back a match request. Answered by [`Reply::Done`], also if there was nothing to leave.
    Leave {
        /// Who.
        who: Who,
        /// What.
        namespace: NamespaceId,
    },
    /// Put a member out of a room, and take back its match request there. Answered by [`Reply::Done`].
    Kick {
        /// The owner.
        who: Who,
        /// The room.
        namespace: NamespaceId,
        /// Whom; None: a string that is nobody's fingerprint.
        target: Option<Fingerprint>,
    },
    /// Be shown differently where one is a member or waits for a match. Answered by [`Reply::Done`].
    Show {
        /// Who.
        who: Who,
        /// Where.
        namespace: NamespaceId,
        /// How.
        info: Arc<PeerInfo>,
    },
    /// Wait for others who ask the same, in place of what one waits for there. Answered by [`Reply::Waiting`], or by
    /// [`Reply::Done`] if it completes a group: all of them, the asker too, hear of that by [`Event::Matched`].
    Match {
        /// Who.
        who: Who,
        /// Where.
        namespace: NamespaceId,
        /// Its name.
        name: Arc<str>,
        /// How to be shown in it.
        info: Arc<PeerInfo>,
        /// How many make a group.
        group_size: u32,
        /// What must be equal.
        criteria: CriteriaKey,
        /// The number by which a match names this request: of the command that first made it.
        ticket: CommandId,
        /// It is refused for this if it would have to wait.
        refuse: Option<Refusal>,
        /// After the broker was lost: a request with this ticket that still waits there keeps its place.
        resumed: bool,
    },
    /// List members. Answered by [`Reply::Listed`].
    List {
        /// Of which namespace.
        namespace: NamespaceId,
        /// At most so many.
        limit: u32,
    },
    /// Describe a room. Answered by [`Reply::Described`].
    Describe {
        /// Which.
        namespace: NamespaceId,
    },
    /// Who is there? Answered by [`Reply::Roster`].
    Roster {
        /// Where.
        namespace: NamespaceId,
    },
}

/// What makes a namespace a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomTerms {
    /// Its owner.
    pub owner: Fingerprint,
    /// Members at most.
    pub max_size: u32,
}

/// What the broker answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The session is on record.
    Registered {
        /// The place in the command of the alias that it holds.
        alias: Option<u8>,
    },
    /// The key belongs to a session on another node.
    Taken,
    /// Done, or nothing was to be done.
    Done,
    /// Where the peer is; None: on no other node.
    Found(Option<NodeNo>),
    /// Who holds the alias.
    Resolved(Option<Fingerprint>),
    /// The asker is a member.
    Joined {
        /// The version of the namespace that has it as a member in this way.
        version: u64,
        /// Who is there, if that was asked.
        roster: Option<Box<Roster>>,
    },
    /// The room exists, the asker is its owner and only member.
    Created {
        /// The version of the namespace that has it so.
        version: u64,
    },
    /// Members, as asked.
    Listed {
        /// In join order.
        peers: Vec<Arc<PeerInfo>>,
        /// How many there are.
        total: u32,
    },
    /// What the room is.
    Described {
        /// How many are in it.
        peer_count: u32,
        /// What makes it a room.
        terms: RoomTerms,
    },
    /// The match request waits.
    Waiting,
    /// Who is there.
    Roster(Box<Roster>),
    /// Refused.
    Refused(Refusal),
    /// The session is not on record for this node any more, or never was: another node took its key over, or it ended.
    Stale,
    /// The broker was lost: perhaps it was done, perhaps not.
    Lost,
}

/// Everything about who is in a namespace.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// Every change with this or a lower version is in it. 0: nobody is there, and nothing is known of it.
    pub version: u64,
    /// What makes it a room.
    pub room: Option<RoomTerms>,
    /// In join order.
    pub members: Vec<Member>,
}

/// A member, wherever it is.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who serves it; None: this node.
    pub node: Option<NodeNo>,
    /// Its session there.
    pub session: SessionId,
    /// How it is shown.
    pub info: Arc<PeerInfo>,
}

/// What the broker tells.
#[derive(Clone, Debug)]
pub enum Event {
    /// The answer to a command.
    Replied {
        /// Which.
        id: CommandId,
        /// What.
        reply: Reply,
    },
    /// To a namespace's home: something changed there.
    Changed {
        /// Where.
        namespace: NamespaceId,
        /// Rises with each change of this namespace, also if it ended and began again.
        version: u64,
        /// What.
        change: Change,
    },
    /// To a namespace's home: match requests of this node were met.
    Matched {
        /// Where they asked.
        namespace: NamespaceId,
        /// Those of this node: who, and the ticket of the request.
        members: Vec<(Who, CommandId)>,
        /// What they are told.
        matched: Arc<super::Matched>,
    },
    /// To a key's home: another node has a session of it, and this one is over.
    Replaced(Who),
    /// To all: that node in that epoch is gone, with everybody it served.
    NodeGone(NodeNo),
    /// To all: the broker is lost, or this node's lease. Every command that was not answered is answered by
    /// [`Reply::Lost`] after this, and what is asked until [`Event::Up`] as well.
    Down,
    /// To all: commands are taken. Whatever there is is to be told again: [`What::Resume`], [`What::Rejoin`], [`What::Match`].
    Up,
    /// To all: changes may have been missed, and those who would tell of themselves again have had the time for it. The
    /// rosters that are held are to be compared.
    Compare,
    /// To a loop: traffic from another node, frames of `codec::node_traffic`.
    Traffic {
        /// Who sent it.
        from: NodeNo,
        /// The frames.
        frames: Vec<u8>,
    },
    /// To a loop: a message of section 9 of the peer protocol.
    Plain(Box<Plain>),
}

/// What happened in a namespace.
#[derive(Clone, Debug)]
pub enum Change {
    /// Somebody came, or came again.
    Joined {
        /// Who.
        member: Member,
        /// What makes it a room.
        room: Option<RoomTerms>,
    },
    /// Somebody is shown differently. Nobody is told.
    Shown(Member),
    /// Somebody went.
    Left {
        /// Who served it; None: this node.
        node: Option<NodeNo>,
        /// Who.
        who: Who,
        /// The owner of the room who put it out, if so.
        kicked_by: Option<Fingerprint>,
    },
}

/// A message between nodes that know nothing of each other's peers (peer protocol, section 9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plain {
    /// A signal or relay for somebody who may be here.
    Direct {
        /// Which of the two.
        kind: super::DirectKind,
        /// The sender.
        from: Fingerprint,
        /// A fingerprint or an alias.
        to: CompactString,
        /// The namespaces that the sender is in; None: its node does not say.
        shares: Option<Vec<Box<str>>>,
        /// The namespace that the message names, between its quotes as sent.
        about: Option<Box<str>>,
        /// The payload as sent.
        payload: Option<Box<str>>,
        /// What an answer names, between its quotes as sent; None: none is wanted.
        id: Option<Box<str>>,
        /// Which node sent it, and so for whom an answer is; empty: it does not say.
        node_id: Box<str>,
    },
    /// A broadcast.
    Broadcast {
        /// The sender.
        from: Fingerprint,
        /// The namespace, between its quotes as sent.
        namespace: Box<str>,
        /// The payload as sent, with `exclude`.
        payload: Box<str>,
    },
    /// What became of a message of this node.
    Ack {
        /// Which: made by the loop that sent it.
        id: CommandId,
        /// It arrived, or why not.
        outcome: Result<(), Refusal>,
    },
}

impl Event {
    /// Bytes of traffic in it.
    pub fn traffic_bytes(&self) -> usize {
        match self {
            Self::Traffic { frames, .. } => frames.len(),
            Self::Plain(plain) => plain.bytes(),
            _ => 0,
        }
    }
}

impl Plain {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let texts = match self {
            Self::Direct {
                to,
                shares,
                about,
                payload,
                id,
                node_id,
                ..
            } => {
                let names = shares.iter().flatten().map(|name| name.len() + size_of::<Box<str>>());
                let optional = [about, payload, id].into_iter().flatten().map(|text| text.len());
                to.len() + node_id.len() + names.chain(optional).sum::<usize>()
            }
            Self::Broadcast { namespace, payload, .. } => namespace.len() + payload.len(),
            Self::Ack { .. } => 0,
        };
        size_of::<Self>() + texts
    }
}
