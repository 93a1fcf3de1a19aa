//! Match requests as the log has them.
//!
//! Owns: who waits for what, oldest first. A request completes a group at its place in the log, so that there is no
//! second step between that and the news of it.
//! Never: keeps a request of a session that the directory does not have.

use std::sync::Arc;

use super::{Act, Eye, MET_MAX, Place, State};
use crate::broker::GROUP_INFO_MAX;
use crate::ids::{CommandId, Fingerprint, NamespaceId};
use crate::message::cluster::{Event, Reply, What, Who};
use crate::message::{CriteriaKey, Matched, PeerInfo, Refusal};

/// What must be equal for requests to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct QueueKey {
    pub(super) namespace: NamespaceId,
    pub(super) group_size: u32,
    pub(super) criteria: CriteriaKey,
}

/// A request that waits. Whose session it is, and where, the directory says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ticket {
    pub(super) ticket: CommandId,
    pub(super) info: Arc<PeerInfo>,
}

impl State {
    pub(super) fn seek(&mut self, who: &Who, act: &Act, eye: &Eye<'_>, out: &mut Vec<Event>) -> Reply {
        let What::Match {
            namespace,
            name,
            info,
            group_size,
            criteria,
            ticket,
            refuse,
            resumed,
            ..
        } = &act.what
        else {
            return Reply::Stale;
        };
        let key = QueueKey {
            namespace: *namespace,
            group_size: *group_size,
            criteria: *criteria,
        };
        if *resumed {
            let Some(session) = self.sessions.get(&who.fingerprint) else {
                return Reply::Stale;
            };
            // Met meanwhile: its node is told that, and not asked to wait once more. If it missed it, it must know that.
            if let Some((_, at)) = session.met.iter().find(|(met, _)| met == ticket) {
                let (after, until) = eye.missed;
                return match after < *at && *at <= until {
                    true => Reply::Refused(Refusal::BrokerUnavailable),
                    false => Reply::Done,
                };
            }
            let waits = session.waits_in.get(namespace);
            let waits = waits.and_then(|(queue, number)| self.queues.get(queue)?.get(number));
            if waits.is_some_and(|waiting| waiting.ticket == *ticket) {
                return Reply::Waiting;
            }
        }
        self.withdraw(&who.fingerprint, *namespace);
        let waiting = self.queues.get(&key).map_or(0, std::collections::BTreeMap::len);
        let asked = Ticket {
            ticket: *ticket,
            info: info.clone(),
        };
        if waiting + 1 < *group_size as usize {
            return match refuse {
                Some(refusal) => Reply::Refused(*refusal),
                None => {
                    self.wait(who, key, asked);
                    Reply::Waiting
                }
            };
        }
        let others = self.queues.remove(&key).unwrap_or_default().into_values();
        let group: Vec<Ticket> = others.chain([asked]).collect();
        self.meet(*namespace, name, act.group, group, eye, out);
        Reply::Done
    }

    fn wait(&mut self, who: &Who, key: QueueKey, ticket: Ticket) {
        let number = self.version;
        if let Some(session) = self.sessions.get_mut(&who.fingerprint) {
            session.waits_in.insert(key.namespace, (key, number));
            self.queues.entry(key).or_default().insert(number, ticket);
        }
    }

    /// A group is complete.
    fn meet(
        &mut self,
        namespace: NamespaceId,
        name: &Arc<str>,
        session: [u8; 16],
        group: Vec<Ticket>,
        eye: &Eye<'_>,
        out: &mut Vec<Event>,
    ) {
        let (own, at): (Option<Place>, u64) = (self.own(eye), self.sequence);
        let mut members = Vec::new();
        for met in &group {
            let fingerprint = met.info.fingerprint;
            let Some(session) = self.sessions.get_mut(&fingerprint) else {
                continue;
            };
            session.waits_in.remove(&namespace);
            session.met.push((met.ticket, at));
            if session.met.len() > MET_MAX {
                session.met.remove(0);
            }
            if own == Some(session.place) {
                let who = Who {
                    fingerprint,
                    session: session.id,
                };
                members.push((who, met.ticket));
            }
        }
        if !members.is_empty() {
            let matched = Matched {
                namespace: name.clone(),
                session,
                peers: group.into_iter().map(|met| met.info).collect(),
            };
            out.push(Event::Matched {
                namespace,
                members,
                matched: Arc::new(matched),
            });
        }
    }

    /// Takes back the request of a key in a namespace, if it has one.
    pub(super) fn withdraw(&mut self, fingerprint: &Fingerprint, namespace: NamespaceId) {
        let session = self.sessions.get_mut(fingerprint);
        if let Some((queue, number)) = session.and_then(|session| session.waits_in.remove(&namespace)) {
            self.leave_queue(&queue, number);
        }
    }

    pub(super) fn leave_queue(&mut self, key: &QueueKey, number: u64) {
        if let Some(queue) = self.queues.get_mut(key) {
            queue.remove(&number);
            if queue.is_empty() {
                self.queues.remove(key);
            }
        }
    }

    pub(super) fn show_in_queue(&mut self, fingerprint: &Fingerprint, namespace: NamespaceId, info: &Arc<PeerInfo>) {
        let session = self.sessions.get(fingerprint);
        let waits = session.and_then(|session| session.waits_in.get(&namespace));
        if let Some((queue, number)) = waits
            && fits_a_group(info, queue.group_size)
            && let Some(ticket) = self.queues.get_mut(queue).and_then(|queue| queue.get_mut(number))
        {
            ticket.info = info.clone();
        }
    }
}

/// Whether a group of so many like this one keeps [`GROUP_INFO_MAX`].
fn fits_a_group(info: &PeerInfo, group_size: u32) -> bool {
    info.json_len() <= GROUP_INFO_MAX / group_size.max(1) as usize
}
