//! Commands.
//!
//! Owns: the connection on which they are run, what each script is given, and what its answer means.
//! Never: decides anything outside of a script.

use std::ops::Range;
use std::sync::Arc;

use rand::Rng as _;
use redis::{Cmd, Connection, Value};

use super::entries::{Reader, fingerprint, info_text, list, number, senseless, small, terms, text};
use super::keys::{hex, namespace as ns, place};
use super::lease::Memory;
use super::pages::{self, Head};
use super::scripts::{self, Script};
use crate::broker::{Commands, Epoch, GROUP_INFO_MAX, Nodes, Trouble};
use crate::ids::{CommandId, NamespaceId};
use crate::message::Refusal;
use crate::message::cluster::{Command, Reply, What, Who};

/// See [`Commands`].
pub(super) struct RedisCommands {
    connection: Connection,
    nodes: Arc<Nodes>,
    memory: Arc<Memory>,
    reader: Reader,
    /// See [`super::RedisOptions::list_bytes`].
    list_bytes: usize,
}

/// Commands that are on their way at once.
const PIPELINE: usize = 512;
/// Steps that one command may take. A match takes one for each hundred dead before it.
const STEPS_MAX: usize = 1_000;

impl RedisCommands {
    pub(super) fn new(connection: Connection, nodes: Arc<Nodes>, memory: Arc<Memory>, list_bytes: usize) -> Self {
        let reader = Reader::new(nodes.clone(), memory.strange.clone());
        Self {
            connection,
            nodes,
            memory,
            reader,
            list_bytes,
        }
    }
}

impl Commands for RedisCommands {
    fn run(&mut self, epoch: Epoch, batch: &[Command], told: &mut dyn FnMut(CommandId, Reply)) -> Result<(), Trouble> {
        let place = place(self.nodes.own(), epoch);
        let mut runs = Vec::with_capacity(batch.len().min(PIPELINE));
        for part in batch.chunks(PIPELINE) {
            let (was_emptied, missed) = (self.memory.was_emptied(), self.memory.missed(epoch));
            runs.clear();
            let list_bytes = self.list_bytes;
            let write = |command: &Command| written(&command.what, &place, was_emptied, &missed, list_bytes);
            runs.extend(part.iter().map(write));
            let mut unfinished = Vec::new();
            scripts::run(&mut self.connection, &runs, |index, answer| {
                if let Some(command) = part.get(index) {
                    match step(&command.what, &answer, &self.reader) {
                        Step::Replied(reply) => told(command.id, reply),
                        more => unfinished.push((command, more)),
                    }
                }
                Ok(())
            })?;
            for (command, more) in unfinished {
                let reply = self.finish(epoch, command, more)?;
                told(command.id, reply);
            }
        }
        Ok(())
    }
}

/// What a script has come to.
enum Step {
    Replied(Reply),
    /// It was too much for one step: it is to be run again.
    Again,
    /// The roster's entries are to be read.
    Roster {
        joined: Option<u64>,
        head: Head,
    },
}

impl RedisCommands {
    /// Goes on until there is a reply.
    fn finish(&mut self, epoch: Epoch, command: &Command, mut step: Step) -> Result<Reply, Trouble> {
        let place = place(self.nodes.own(), epoch);
        for _ in 0..STEPS_MAX {
            match step {
                Step::Replied(reply) => return Ok(reply),
                Step::Again => {}
                Step::Roster { joined, head } => {
                    let Some(namespace) = about_which(&command.what) else {
                        break;
                    };
                    let Some(roster) = pages::read(&mut self.connection, &ns(namespace), head, &self.reader)? else {
                        break;
                    };
                    return Ok(match joined {
                        Some(version) => Reply::Joined {
                            version,
                            roster: Some(roster),
                        },
                        None => Reply::Roster(roster),
                    });
                }
            }
            let (was_emptied, missed) = (self.memory.was_emptied(), self.memory.missed(epoch));
            let run = written(&command.what, &place, was_emptied, &missed, self.list_bytes);
            let mut next = Step::Replied(Reply::Lost);
            scripts::run(&mut self.connection, &[run], |_, answer| {
                next = self::step(&command.what, &answer, &self.reader);
                Ok(())
            })?;
            step = next;
        }
        self.reader.count_strange();
        Ok(Reply::Lost)
    }
}

/// What an answer means. One that makes no sense, or says that the script failed of what it found, concerns this command
/// alone: whoever put it there must not cut this node off.
fn step(what: &What, answer: &Value, reader: &Reader) -> Step {
    let read = || -> Result<Step, Trouble> {
        let step = match list(answer)? {
            [word] if text(word) == Some(b"again") => Step::Again,
            [word, roster] if text(word) == Some(b"roster") => match pages::head(roster)? {
                Some(head) => Step::Roster { joined: None, head },
                None => Step::Replied(reply(what, answer, reader)?),
            },
            [word, version, roster] if text(word) == Some(b"joined") => match pages::head(roster)? {
                Some(head) => Step::Roster {
                    joined: Some(number(version)?),
                    head,
                },
                None => Step::Replied(reply(what, answer, reader)?),
            },
            _ => Step::Replied(reply(what, answer, reader)?),
        };
        Ok(step)
    };
    read().unwrap_or_else(|trouble| {
        tracing::warn!(reason = %trouble, "a command failed of what the broker keeps");
        reader.count_strange();
        Step::Replied(Reply::Lost)
    })
}

/// Of which namespace the roster is.
fn about_which(what: &What) -> Option<NamespaceId> {
    match what {
        What::Join { namespace, .. } | What::Roster { namespace } => Some(*namespace),
        _ => None,
    }
}

/// A command with its arguments, in the order that the head of its script has.
fn written(what: &What, place: &str, was_emptied: bool, missed: &Range<u64>, list_bytes: usize) -> Cmd {
    match what {
        What::Register { who, aliases } => {
            let mut run = by(Script::Register, place, who);
            run.arg(aliases.iter().map(|alias| alias.as_str()).collect::<Vec<_>>());
            run
        }
        What::Resume {
            who,
            alias,
            member_of,
            waits_in,
        } => {
            let mut run = by(Script::Resume, place, who);
            run.arg(flag(alias.is_some())).arg(alias.as_deref().unwrap_or_default());
            let kept = |kind: &str, id: &NamespaceId| format!("{kind}{}", ns(*id));
            let members = member_of.iter().map(|id| kept("m:", id));
            run.arg(
                members
                    .chain(waits_in.iter().map(|id| kept("t:", id)))
                    .collect::<Vec<_>>(),
            );
            run
        }
        What::End { who } => by(Script::End, place, who),
        What::Find { fingerprint } => {
            let mut run = Script::Find.run();
            run.arg(&hex(fingerprint));
            run
        }
        What::Resolve { alias } => {
            let mut run = Script::Resolve.run();
            run.arg(alias.as_str());
            run
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
            let mut run = about(Script::Join, place, who, *namespace);
            run.arg(&**name).arg(info_text(info)).arg(flag(*room)).arg(*members_max);
            run.arg(flag(refuse.is_some())).arg(flag(*roster));
            run
        }
        What::Rejoin {
            who,
            namespace,
            name,
            info,
            room,
            members_max,
        } => {
            let mut run = about(Script::Rejoin, place, who, *namespace);
            run.arg(&**name)
                .arg(info_text(info))
                .arg(*members_max)
                .arg(flag(was_emptied));
            if let Some(terms) = room {
                run.arg(&hex(&terms.owner)).arg(terms.max_size);
            }
            run
        }
        What::CreateRoom {
            who,
            namespace,
            name,
            info,
            max_size,
            refuse,
        } => {
            let mut run = about(Script::Create, place, who, *namespace);
            run.arg(&**name)
                .arg(info_text(info))
                .arg(*max_size)
                .arg(flag(refuse.is_some()));
            run
        }
        What::Leave { who, namespace } => about(Script::Leave, place, who, *namespace),
        What::Kick { who, namespace, target } => {
            let mut run = about(Script::Kick, place, who, *namespace);
            let target = target.as_ref().map(hex);
            run.arg(target.as_ref().map_or(&[][..], |target| &target[..]));
            run
        }
        What::Show { who, namespace, info } => {
            let mut run = about(Script::Show, place, who, *namespace);
            run.arg(info_text(info)).arg(GROUP_INFO_MAX);
            run
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
            let mut run = about(Script::Match, place, who, *namespace);
            let mut group = [0; 16];
            rand::rng().fill_bytes(&mut group);
            let digits = data_encoding::HEXLOWER;
            run.arg(&**name)
                .arg(info_text(info))
                .arg(*group_size)
                .arg(digits.encode(&criteria.0));
            run.arg(ticket.as_u64()).arg(flag(refuse.is_some())).arg(flag(*resumed));
            run.arg(digits.encode(&group)).arg(missed.start).arg(missed.end);
            run
        }
        What::List { namespace, limit } => {
            let mut run = Script::List.run();
            run.arg(ns(*namespace)).arg(*limit).arg(list_bytes);
            run
        }
        What::Describe { namespace } => {
            let mut run = Script::Describe.run();
            run.arg(ns(*namespace));
            run
        }
        What::Roster { namespace } => {
            let mut run = Script::Roster.run();
            run.arg(ns(*namespace));
            run
        }
    }
}

fn by(script: Script, place: &str, who: &Who) -> Cmd {
    let mut run = script.run();
    run.arg(place).arg(&hex(&who.fingerprint)).arg(who.session.as_u64());
    run
}

fn about(script: Script, place: &str, who: &Who, namespace: NamespaceId) -> Cmd {
    let mut run = by(script, place, who);
    run.arg(ns(namespace));
    run
}

fn flag(set: bool) -> &'static str {
    if set { "1" } else { "0" }
}

/// What an answer of one step means.
fn reply(what: &What, answer: &Value, reader: &Reader) -> Result<Reply, Trouble> {
    let Some((word, rest)) = list(answer)?.split_first() else {
        return Err(senseless(answer));
    };
    match (text(word).unwrap_or_default(), rest) {
        (b"done", []) => Ok(Reply::Done),
        (b"stale", []) => Ok(Reply::Stale),
        (b"taken", []) => Ok(Reply::Taken),
        (b"waiting", []) => Ok(Reply::Waiting),
        (b"refuse", []) => refuse(what).map(Reply::Refused).ok_or_else(|| senseless(answer)),
        (b"refused", [why]) => {
            let known = REFUSALS
                .iter()
                .find(|refusal| text(why) == Some(refusal.text().as_bytes()));
            known
                .map(|refusal| Reply::Refused(*refusal))
                .ok_or_else(|| senseless(answer))
        }
        (b"registered", [Value::Int(index)]) => Ok(Reply::Registered {
            alias: u8::try_from(*index).ok(),
        }),
        (b"found", [session]) => Ok(Reply::Found(reader.elsewhere(text(session).unwrap_or_default())?)),
        (b"resolved", [holder]) => Ok(Reply::Resolved(text(holder).and_then(fingerprint))),
        (b"joined", [version]) => Ok(Reply::Joined {
            version: number(version)?,
            roster: None,
        }),
        (b"joined", [version, roster]) => Ok(Reply::Joined {
            version: number(version)?,
            roster: Some(reader.roster(roster)?),
        }),
        (b"created", [version]) => Ok(Reply::Created {
            version: number(version)?,
        }),
        (b"listed", [total, entries]) => {
            let members = reader.members(entries)?;
            Ok(Reply::Listed {
                peers: members.into_iter().map(|member| member.info).collect(),
                total: small(total)?,
            })
        }
        (b"described", [peer_count, owner, max_size]) => Ok(Reply::Described {
            peer_count: small(peer_count)?,
            terms: terms(owner, max_size)?,
        }),
        (b"roster", [roster]) => Ok(Reply::Roster(reader.roster(roster)?)),
        _ => Err(senseless(answer)),
    }
}

/// What the command is refused for if for nothing else.
fn refuse(what: &What) -> Option<Refusal> {
    match what {
        What::Join { refuse, .. } | What::CreateRoom { refuse, .. } | What::Match { refuse, .. } => *refuse,
        _ => None,
    }
}

/// Those that scripts decide, by their texts.
const REFUSALS: [Refusal; 8] = [
    Refusal::RoomNotFound,
    Refusal::RoomFull,
    Refusal::NamespaceFull,
    Refusal::RoomExists,
    Refusal::NotRoomOwner,
    Refusal::PeerNotFound,
    Refusal::RoomNotDiscoverable,
    Refusal::BrokerUnavailable,
];
