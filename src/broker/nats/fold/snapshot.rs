//! The state as bytes, so that a node that comes need not read the log from its beginning.
//!
//! Owns: what is written, which is all that the next entries can depend on.
//! Never: writes what follows from the rest: counts, and where a session is a member or waits.

use std::collections::BTreeMap;

use super::queues::{QueueKey, Ticket};
use super::spaces::{Seated, Space};
use super::{Lease, Place, Session, State};
use crate::broker::nats::bytes::{Reader, Writer};

/// Snapshots of another version cannot be read. To be raised with every release that changes their bytes.
const VERSION: u8 = 2;

impl State {
    /// All of it.
    pub(in crate::broker::nats) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.byte(VERSION);
        for number in [self.sequence, self.clock, self.set_back, self.version, self.taken] {
            to.u64(number);
        }
        to.count(self.leases.len());
        for (place, lease) in &self.leases {
            to.u64(place.0);
            to.home(lease.home);
            to.u64(lease.renewed);
            to.u64(lease.line);
            to.u64(lease.number);
        }
        to.count(self.sessions.len());
        for (fingerprint, session) in &self.sessions {
            to.fingerprint(fingerprint);
            to.u64(session.id.as_u64());
            to.u64(session.place.0);
            to.option(session.alias.as_deref(), Writer::text);
            to.count(session.met.len());
            for (ticket, at) in &session.met {
                to.u64(ticket.as_u64());
                to.u64(*at);
            }
        }
        to.count(self.spaces.len());
        for (namespace, space) in &self.spaces {
            to.namespace(*namespace);
            to.option(space.room, Writer::terms);
            to.u64(space.version);
            to.count(space.members.len());
            for (number, member) in &space.members {
                to.u64(*number);
                to.info(&member.info);
            }
        }
        to.count(self.queues.len());
        for (key, queue) in &self.queues {
            to.namespace(key.namespace);
            to.u32(key.group_size);
            to.array(&key.criteria.0);
            to.count(queue.len());
            for (number, ticket) in queue {
                to.u64(*number);
                to.u64(ticket.ticket.as_u64());
                to.info(&ticket.info);
            }
        }
        to.0
    }

    /// From what [`State::encode`] wrote.
    pub(in crate::broker::nats) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        if from.byte()? != VERSION {
            return None;
        }
        let mut state = Self {
            sequence: from.u64()?,
            clock: from.u64()?,
            set_back: from.u64()?,
            version: from.u64()?,
            taken: from.u64()?,
            ..Self::default()
        };
        for _ in 0..from.count()? {
            let place = Place(from.u64()?);
            let lease = Lease {
                home: from.home()?,
                renewed: from.u64()?,
                line: from.u64()?,
                number: from.u64()?,
            };
            state.leases.insert(place, lease);
        }
        for _ in 0..from.count()? {
            let fingerprint = from.fingerprint()?;
            let session = Session {
                id: from.session()?,
                place: Place(from.u64()?),
                alias: from.option(|from| from.text().map(Into::into))?,
                member_of: BTreeMap::new(),
                waits_in: BTreeMap::new(),
                met: from.list(|from| Some((from.command()?, from.u64()?)))?,
            };
            if let Some(alias) = &session.alias {
                state.aliases.insert(alias.clone(), fingerprint);
            }
            state.sessions.insert(fingerprint, session);
        }
        for _ in 0..from.count()? {
            state.read_space(&mut from)?;
        }
        for _ in 0..from.count()? {
            state.read_queue(&mut from)?;
        }
        from.is_done().then_some(state)
    }

    fn read_space(&mut self, from: &mut Reader<'_>) -> Option<()> {
        let namespace = from.namespace()?;
        let mut space = Space {
            room: from.option(Reader::terms)?,
            version: from.u64()?,
            ..Space::default()
        };
        for _ in 0..from.count()? {
            let number = from.u64()?;
            let info = from.info()?;
            let session = self.sessions.get_mut(&info.fingerprint)?;
            session.member_of.insert(namespace, number);
            *space.counts.entry(session.place).or_insert(0) += 1;
            let member = Seated {
                place: session.place,
                session: session.id,
                info,
            };
            space.members.insert(number, member);
        }
        self.spaces.insert(namespace, space);
        Some(())
    }

    fn read_queue(&mut self, from: &mut Reader<'_>) -> Option<()> {
        let key = QueueKey {
            namespace: from.namespace()?,
            group_size: from.u32()?,
            criteria: from.criteria()?,
        };
        let mut queue = BTreeMap::new();
        for _ in 0..from.count()? {
            let number = from.u64()?;
            let ticket = from.command()?;
            let info = from.info()?;
            let session = self.sessions.get_mut(&info.fingerprint)?;
            session.waits_in.insert(key.namespace, (key, number));
            queue.insert(number, Ticket { ticket, info });
        }
        self.queues.insert(key, queue);
        Some(())
    }
}
