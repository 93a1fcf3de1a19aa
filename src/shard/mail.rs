//! Mail: what shards tell each other.
//!
//! Owns: the vocabulary between loops. Direct messages and fan-outs are *traffic* (they carry a peer's bytes and can be
//! refused when a loop is behind); everything in [`Mail`] is *control* (never refused, its content bounded at its source).
//! Never: decides anything, and never names a connection. A session is named by its [`SessionId`], which is never used
//! twice; a fingerprint or [`PeerKey`] beside it says where its loop finds it.

use std::ops::Range;
use std::sync::Arc;

use compact_str::CompactString;

use super::broadcast::SumId;
use super::peers::PeerKey;
use crate::ids::{Fingerprint, LoopId, NamespaceId, SessionId};
use crate::message::cluster::Who;
use crate::message::{CriteriaKey, DirectKind, Matched, PeerInfo, Refusal};

/// A session that waits for an answer, and which of its requests it waits for.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The loop that serves it.
    pub loop_id: LoopId,
    /// Whose it is.
    pub fingerprint: Fingerprint,
    /// Which session of that peer.
    pub session: SessionId,
    /// Where its loop keeps it; None while it registers.
    pub peer: Option<PeerKey>,
    /// The number of its request: only the answer with this number resumes it.
    pub request: u32,
}

/// How many members of a namespace a loop serves.
pub type LoopCount = (LoopId, u32);

/// Control mail.
#[derive(Debug)]
pub enum Mail {
    /// To an alias's home: may this session hold it?
    ClaimAlias {
        /// The alias.
        alias: CompactString,
        /// Who wants it.
        asker: Asker,
    },
    /// The answer to a claim.
    AliasClaimed {
        /// Who wanted it.
        asker: Asker,
        /// Whether it resolves to that session from here on.
        granted: bool,
    },
    /// To an alias's home: its holder gives it up.
    ReleaseAlias {
        /// The alias.
        alias: CompactString,
        /// The holder.
        session: SessionId,
    },
    /// To an alias's home: whose is it?
    ResolveAlias {
        /// The alias.
        alias: CompactString,
        /// Who wants to know.
        asker: Asker,
    },
    /// The answer to [`Mail::ResolveAlias`].
    AliasResolved {
        /// Who wanted to know.
        asker: Asker,
        /// The holder, or why none is known.
        holder: Result<Fingerprint, Refusal>,
    },
    /// To a namespace's home: a request of a session.
    Ask {
        /// Whose request.
        asker: Asker,
        /// About which namespace or room.
        namespace: NamespaceId,
        /// What.
        ask: Ask,
    },
    /// From a namespace's home: the answer to [`Mail::Ask`].
    Answer {
        /// Whose request it answers.
        asker: Asker,
        /// About which namespace or room.
        namespace: NamespaceId,
        /// What.
        answer: Answer,
    },
    /// From a namespace's home to each loop with members: somebody came or went.
    Presence {
        /// Where.
        namespace: NamespaceId,
        /// What happened.
        change: Change,
        /// The loop of the peer that came or went, and how many members it serves from here on.
        count: LoopCount,
    },
    /// From a room's home: the owner put this session out.
    Kicked {
        /// The room.
        room: NamespaceId,
        /// Its id.
        name: Arc<str>,
        /// Its owner.
        owner: Fingerprint,
        /// Who was put out.
        target: Fingerprint,
        /// Which session of it.
        session: SessionId,
    },
    /// From a namespace's home: these sessions' requests were met.
    Matched {
        /// Where they asked, and nothing of them waits any more; None: another request of theirs waits there.
        namespace: Option<NamespaceId>,
        /// The members that the receiving loop serves: where it keeps each, and which session.
        members: Vec<(Option<PeerKey>, SessionId)>,
        /// What they are told.
        matched: Arc<Matched>,
    },
    /// To a namespace's home: a member or waiting peer is shown differently from here on.
    InfoChanged {
        /// Where.
        namespace: NamespaceId,
        /// Which session of the peer that `info` names.
        session: SessionId,
        /// How.
        info: Arc<PeerInfo>,
    },
    /// To each home that holds something of a session: it ended.
    Gone {
        /// Which one; its `request` means nothing.
        asker: Asker,
        /// The namespaces there in which it is or may be a member or waits for a match.
        namespaces: Vec<NamespaceId>,
    },
    /// The answer to [`Mail::Gone`]: every `peer_left` of it is on its way.
    GoneDone {
        /// Whose session it was.
        fingerprint: Fingerprint,
    },
    /// To the sender of a direct message: it was not delivered.
    Refused {
        /// The sender.
        fingerprint: Fingerprint,
        /// Which session of it.
        session: SessionId,
        /// Why.
        refusal: Refusal,
    },
    /// To the sender of a broadcast: how many members here could not take it (0 too).
    FanOutDone {
        /// Which broadcast.
        sum: SumId,
        /// How many.
        refused: u32,
    },
    /// To a key's home, from a namespace's: that peer came or went on another node, so what is known of its place is old.
    RouteChanged {
        /// Whose.
        fingerprint: Fingerprint,
    },
    /// The same of each of these: how they came and went was not followed here until now.
    RoutesChanged {
        /// Whose.
        fingerprints: Box<[Fingerprint]>,
    },
    /// To a namespace's home, after the broker was lost: what this session has there is to be told again.
    Rejoin {
        /// Which session.
        who: Who,
        /// The loop that serves it.
        loop_id: LoopId,
        /// Where its loop keeps it.
        peer: PeerKey,
        /// Where.
        namespace: NamespaceId,
        /// How it is shown there.
        info: Arc<PeerInfo>,
        /// It is a member.
        member: bool,
        /// It waits for a match.
        ticket: bool,
    },
    /// The answer to [`Mail::Rejoin`], one for each, whatever came of it.
    Rejoined {
        /// Which session.
        who: Who,
        /// The broker did not get to hear all of it.
        lost: bool,
    },
    /// From a namespace's home: what this session has there is lost, so it is to end, closed with 1012. If it has nothing
    /// there any more, it was put out or has left: it goes on.
    Evicted {
        /// Which session.
        who: Who,
        /// Where.
        namespace: NamespaceId,
    },
}

/// A request to a namespace's home.
#[derive(Debug)]
pub enum Ask {
    /// Enter.
    Join {
        /// The name, kept if this makes the namespace.
        name: Arc<str>,
        /// How to be shown there.
        info: Arc<PeerInfo>,
        /// Only if it is a room.
        room: bool,
        /// The asker is in as many namespaces as it may be.
        crowded: bool,
    },
    /// Leave.
    Leave,
    /// List members.
    Discover {
        /// At most so many.
        limit: u32,
    },
    /// Wait for others who ask the same.
    Match {
        /// The name, told with the match. Few requests complete one: a short name is carried without an allocation.
        name: CompactString,
        /// How to be shown in it.
        info: Arc<PeerInfo>,
        /// How many make a group.
        group_size: u32,
        /// What must be equal.
        criteria: CriteriaKey,
    },
    /// Make a room.
    CreateRoom {
        /// Its id.
        name: Arc<str>,
        /// How the owner is shown.
        info: Arc<PeerInfo>,
        /// How many may be in it.
        max_size: u32,
        /// The asker is in as many namespaces as it may be.
        crowded: bool,
    },
    /// Describe a room.
    RoomInfo,
    /// Put a member out.
    Kick {
        /// Whom; None: a string that is nobody's fingerprint.
        target: Option<Fingerprint>,
    },
}

/// What a namespace's home answers.
#[derive(Debug)]
pub enum Answer {
    /// The asker is a member.
    Joined {
        /// Members in join order, as many as the request shows.
        peers: Vec<Arc<PeerInfo>>,
        /// How many there are.
        total: u32,
        /// Which loops serve how many of them.
        loops: Vec<LoopCount>,
    },
    /// The room exists and the asker owns it.
    Created {
        /// How many may be in it.
        max_size: u32,
        /// Who came before its owner was told: in a cluster the home may hear of them first.
        peers: Vec<Arc<PeerInfo>>,
        /// Which loops serve how many of the members.
        loops: Vec<LoopCount>,
    },
    /// Members, as asked.
    Listed {
        /// Members in join order.
        peers: Vec<Arc<PeerInfo>>,
        /// How many there are.
        total: u32,
    },
    /// What the room is.
    Described {
        /// How many are in it.
        peer_count: u32,
        /// How many may be in it.
        max_size: u32,
        /// Its owner.
        owner: Fingerprint,
    },
    /// The match request waits.
    Waiting,
    /// Done, and nothing to say.
    Done,
    /// Refused.
    Refused(Refusal),
}

/// Presence: what happened to a member.
#[derive(Clone, Debug)]
pub enum Change {
    /// It came, or came again.
    Joined(Arc<PeerInfo>),
    /// It went.
    Left(Fingerprint),
    /// Nobody came or went: another node is in another epoch, and serves whom it served.
    Counted,
}

/// Traffic: a signal or relay on its way to its target's home. The ranges are places in the batch's bytes.
#[derive(Clone, Debug)]
pub struct DirectMail {
    /// Signal or relay.
    pub kind: DirectKind,
    /// The sender.
    pub from: Fingerprint,
    /// Which session of it.
    pub session: SessionId,
    /// The loop that serves it.
    pub origin: LoopId,
    /// The target.
    pub to: Fingerprint,
    /// The namespaces that the sender is in: 16 bytes each, ascending.
    pub shares: Range<u32>,
    /// The namespace that the message names, if the sender is in it.
    pub about: Option<NamespaceId>,
    /// That namespace's name as sent, between its quotes.
    pub about_name: Range<u32>,
    /// The payload as sent, if there is one.
    pub payload: Option<Range<u32>>,
}

/// Traffic: a broadcast on its way to a loop that serves members. The ranges are places in the batch's bytes.
#[derive(Clone, Debug)]
pub struct FanOutMail {
    /// The namespace.
    pub namespace: NamespaceId,
    /// The sender.
    pub from: Fingerprint,
    /// Which session of it.
    pub session: SessionId,
    /// The loop that serves it.
    pub origin: LoopId,
    /// Where the refusals are added up.
    pub sum: SumId,
    /// The namespace's name as sent, between its quotes.
    pub name: Range<u32>,
    /// The payload as sent.
    pub payload: Range<u32>,
    /// Whom to leave out: hashes of 8 bytes each, ascending.
    pub exclude: Range<u32>,
}
