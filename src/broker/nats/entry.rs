//! What stands in the log: one entry a message.
//!
//! Owns: the entries, their bytes, and the subject of each.
//! Never: says what an entry does (see `fold`).

use std::fmt::Write as _;
use std::sync::Arc;

use super::bytes::{Reader, Writer};
use crate::broker::{Epoch, NodeId};
use crate::ids::{Fingerprint, NamespaceId};
use crate::message::PeerInfo;
use crate::message::cluster::{What, Who};

/// Everything in the log has a subject that begins so.
pub(super) const PREFIX: &str = "peer.log.";
/// The subject of [`Entry::Snapshot`].
pub(super) const SNAPSHOTS: &str = "peer.log.snapshot";
/// Entries of another version are passed over by all alike.
///
/// To be raised with every release that changes the bytes of an entry, or what the fold makes of one: nodes that read the
/// same log differently would have different states and not notice.
const VERSION: u8 = 2;

/// A message of the log.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// A node begins an epoch.
    Take {
        node: NodeId,
        /// By which its author knows it.
        nonce: u64,
        /// The epoch is to be a higher one.
        above: Epoch,
    },
    /// It is alive.
    Renew { node: NodeId, epoch: Epoch, nonce: u64 },
    /// It goes.
    Release { node: NodeId, epoch: Epoch, nonce: u64 },
    /// A command that may change something.
    Act(Act),
    /// A snapshot is complete: what comes before the entry after `at` may be forgotten.
    Snapshot(Marker),
}

/// A command in the log.
#[derive(Clone, Debug)]
pub(super) struct Act {
    pub(super) node: NodeId,
    pub(super) epoch: Epoch,
    /// Rises with each connection of its author's: what comes late by an earlier one is void.
    pub(super) line: u64,
    /// Counts in its line, from 1: what comes after a loss is void.
    pub(super) number: u64,
    /// Its author has not told all it knows since the broker lost its data.
    pub(super) anew: bool,
    /// The name of a group that it completes.
    pub(super) group: [u8; 16],
    pub(super) what: What,
}

/// Where a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    /// The last entry that is in it.
    pub(super) at: u64,
    /// By which its parts are known.
    pub(super) nonce: u64,
    /// How many they are.
    pub(super) parts: u32,
}

/// Whether a command changes nothing and is no entry.
pub(super) fn only_reads(what: &What) -> bool {
    matches!(about(what), About::Nothing)
}

impl Entry {
    /// The subject that it is published on: of the namespace, key or node that it is about.
    pub(super) fn subject(&self) -> String {
        match self {
            Self::Take { node, .. } | Self::Renew { node, .. } | Self::Release { node, .. } => {
                format!("{PREFIX}lease.{node}")
            }
            Self::Snapshot(_) => SNAPSHOTS.to_owned(),
            Self::Act(act) => match about(&act.what) {
                About::Key(fingerprint) => hex("key.", fingerprint.as_bytes()),
                About::Space(namespace) => {
                    let mut bytes = namespace.to_bytes();
                    // As the name's digest has them.
                    bytes.reverse();
                    hex("ns.", &bytes)
                }
                About::Nothing => format!("{PREFIX}nothing"),
            },
        }
    }

    /// Its bytes. A command that only reads is none.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.byte(VERSION);
        match self {
            Self::Take { node, nonce, above } => {
                to.byte(b't');
                to.home((*node, *above));
                to.u64(*nonce);
            }
            Self::Renew { node, epoch, nonce } => {
                to.byte(b'r');
                to.home((*node, *epoch));
                to.u64(*nonce);
            }
            Self::Release { node, epoch, nonce } => {
                to.byte(b'x');
                to.home((*node, *epoch));
                to.u64(*nonce);
            }
            Self::Snapshot(marker) => {
                to.byte(b's');
                to.u64(marker.at);
                to.u64(marker.nonce);
                to.u32(marker.parts);
            }
            Self::Act(act) => {
                to.byte(b'a');
                to.home((act.node, act.epoch));
                to.u64(act.line);
                to.u64(act.number);
                to.flag(act.anew);
                to.array(&act.group);
                write_what(&mut to, &act.what);
            }
        }
        to.0
    }

    /// From its bytes.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        if from.byte()? != VERSION {
            return None;
        }
        let entry = match from.byte()? {
            b't' => {
                let (node, above) = from.home()?;
                let nonce = from.u64()?;
                Self::Take { node, nonce, above }
            }
            b'r' => {
                let (node, epoch) = from.home()?;
                let nonce = from.u64()?;
                Self::Renew { node, epoch, nonce }
            }
            b'x' => {
                let (node, epoch) = from.home()?;
                let nonce = from.u64()?;
                Self::Release { node, epoch, nonce }
            }
            b's' => Self::Snapshot(Marker {
                at: from.u64()?,
                nonce: from.u64()?,
                parts: from.u32()?,
            }),
            b'a' => {
                let (node, epoch) = from.home()?;
                Self::Act(Act {
                    node,
                    epoch,
                    line: from.u64()?,
                    number: from.u64()?,
                    anew: from.flag()?,
                    group: from.array()?,
                    what: read_what(&mut from)?,
                })
            }
            _ => return None,
        };
        from.is_done().then_some(entry)
    }
}

/// What a command is about.
enum About<'a> {
    Key(&'a Fingerprint),
    Space(NamespaceId),
    /// It only reads.
    Nothing,
}

fn about(what: &What) -> About<'_> {
    match what {
        What::Register { who, .. } | What::Resume { who, .. } | What::End { who } => About::Key(&who.fingerprint),
        What::Join { namespace, .. }
        | What::Rejoin { namespace, .. }
        | What::CreateRoom { namespace, .. }
        | What::Leave { namespace, .. }
        | What::Kick { namespace, .. }
        | What::Show { namespace, .. }
        | What::Match { namespace, .. } => About::Space(*namespace),
        What::Find { .. } | What::Resolve { .. } | What::List { .. } | What::Describe { .. } | What::Roster { .. } => {
            About::Nothing
        }
    }
}

fn hex(kind: &str, bytes: &[u8]) -> String {
    let mut subject = String::with_capacity(PREFIX.len() + kind.len() + 2 * bytes.len());
    subject += PREFIX;
    subject += kind;
    for byte in bytes {
        let _ = write!(subject, "{byte:02x}");
    }
    subject
}

fn write_what(to: &mut Writer, what: &What) {
    match what {
        What::Register { who, aliases } => {
            to.byte(1);
            to.who(who);
            to.count(aliases.len());
            for alias in aliases {
                to.text(alias);
            }
        }
        What::Resume {
            who,
            alias,
            member_of,
            waits_in,
        } => {
            to.byte(2);
            to.who(who);
            to.option(alias.as_deref(), Writer::text);
            for namespaces in [member_of, waits_in] {
                to.count(namespaces.len());
                for namespace in namespaces {
                    to.namespace(*namespace);
                }
            }
        }
        What::End { who } => {
            to.byte(3);
            to.who(who);
        }
        What::Join {
            who,
            namespace,
            name,
            info,
            room,
            members_max,
            refuse,
            roster,
        } => {
            to.byte(4);
            to.who(who);
            to.namespace(*namespace);
            to.text(name);
            to.info(info);
            to.flag(*room);
            to.u32(*members_max);
            to.option(*refuse, Writer::refusal);
            to.flag(*roster);
        }
        What::Rejoin {
            who,
            namespace,
            name,
            info,
            room,
            members_max,
        } => {
            to.byte(5);
            to.who(who);
            to.namespace(*namespace);
            to.text(name);
            to.info(info);
            to.option(*room, Writer::terms);
            to.u32(*members_max);
        }
        What::CreateRoom {
            who,
            namespace,
            name,
            info,
            max_size,
            refuse,
        } => {
            to.byte(6);
            to.who(who);
            to.namespace(*namespace);
            to.text(name);
            to.info(info);
            to.u32(*max_size);
            to.option(*refuse, Writer::refusal);
        }
        What::Leave { who, namespace } => {
            to.byte(7);
            to.who(who);
            to.namespace(*namespace);
        }
        What::Kick { who, namespace, target } => {
            to.byte(8);
            to.who(who);
            to.namespace(*namespace);
            to.option(target.as_ref(), Writer::fingerprint);
        }
        What::Show { who, namespace, info } => {
            to.byte(9);
            to.who(who);
            to.namespace(*namespace);
            to.info(info);
        }
        What::Match {
            who,
            namespace,
            name,
            info,
            group_size,
            criteria,
            ticket,
            refuse,
            resumed,
        } => {
            to.byte(10);
            to.who(who);
            to.namespace(*namespace);
            to.text(name);
            to.info(info);
            to.u32(*group_size);
            to.array(&criteria.0);
            to.u64(ticket.as_u64());
            to.option(*refuse, Writer::refusal);
            to.flag(*resumed);
        }
        What::Find { .. } | What::Resolve { .. } | What::List { .. } | What::Describe { .. } | What::Roster { .. } => {
            to.byte(0)
        }
    }
}

fn read_what(from: &mut Reader<'_>) -> Option<What> {
    let kind = from.byte()?;
    let who = from.who()?;
    Some(match kind {
        1 => What::Register {
            who,
            aliases: from.list(|from| from.text().map(Into::into))?,
        },
        2 => What::Resume {
            who,
            alias: from.option(|from| from.text().map(Into::into))?,
            member_of: from.list(Reader::namespace)?,
            waits_in: from.list(Reader::namespace)?,
        },
        3 => What::End { who },
        4 => What::Join {
            who,
            namespace: from.namespace()?,
            name: name(from)?,
            info: own_info(from, &who)?,
            room: from.flag()?,
            members_max: from.u32()?,
            refuse: from.option(Reader::refusal)?,
            roster: from.flag()?,
        },
        5 => What::Rejoin {
            who,
            namespace: from.namespace()?,
            name: name(from)?,
            info: own_info(from, &who)?,
            room: from.option(Reader::terms)?,
            members_max: from.u32()?,
        },
        6 => What::CreateRoom {
            who,
            namespace: from.namespace()?,
            name: name(from)?,
            info: own_info(from, &who)?,
            max_size: from.u32()?,
            refuse: from.option(Reader::refusal)?,
        },
        7 => What::Leave {
            who,
            namespace: from.namespace()?,
        },
        8 => What::Kick {
            who,
            namespace: from.namespace()?,
            target: from.option(Reader::fingerprint)?,
        },
        9 => What::Show {
            who,
            namespace: from.namespace()?,
            info: own_info(from, &who)?,
        },
        10 => What::Match {
            who,
            namespace: from.namespace()?,
            name: name(from)?,
            info: own_info(from, &who)?,
            group_size: from.u32()?,
            criteria: from.criteria()?,
            ticket: from.command()?,
            refuse: from.option(Reader::refusal)?,
            resumed: from.flag()?,
        },
        _ => return None,
    })
}

/// Nobody is shown as somebody else.
fn own_info(from: &mut Reader<'_>, who: &Who) -> Option<Arc<PeerInfo>> {
    from.info().filter(|info| info.fingerprint == who.fingerprint)
}

fn name(from: &mut Reader<'_>) -> Option<Arc<str>> {
    from.text().map(Into::into)
}
