//! What was, is, or is to be created at the provider: a session, or a deployment with several seats.
//!
//! Owns: its states and when the next step of each is due.
//! Never: takes a step.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use super::Store;
use crate::message::game_server::{RequestId, SessionName};

/// Names an instance. Never used again by the same process.
pub(super) type Key = u64;

/// A session has one seat, for the player whom it was created for; a deployment has several.
#[derive(Debug)]
pub(super) struct Instance {
    /// What the provider calls it, once it said so.
    pub(super) name: Option<SessionName>,
    pub(super) phase: Phase,
    /// Taken seats. Numbers are never used again: whoever had one may still speak of it.
    pub(super) seats: BTreeMap<u32, Seat>,
    pub(super) next_seat: u32,
    /// Whom it is created for.
    pub(super) client_ip: Option<IpAddr>,
    /// From the record of an earlier process: it may have players that nobody here knows of, and gets no more.
    pub(super) kept: bool,
    /// It is on record as claimed, and its player left.
    pub(super) was_claimed: bool,
    /// In which queue it stands.
    pub(super) queued: Option<Class>,
    /// What is to be put on record.
    pub(super) notes: VecDeque<Store>,
    pub(super) noting: Noting,
    /// Its place among the timers.
    pub(super) timer: Option<u64>,
    /// Its place among those with room.
    pub(super) rank: Option<u8>,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// To be created, at `due_ms` at the earliest.
    Wanted {
        due_ms: u64,
        attempt: u32,
        deadline_ms: u64,
    },
    /// The call is under way. `late`: nobody waits for it any more, but what it creates must be deleted.
    Creating {
        attempt: u32,
        fail_ms: u64,
        deadline_ms: u64,
        late: bool,
    },
    /// It is coming.
    Starting {
        due_ms: u64,
        polls: u32,
        retries: u32,
        deadline_ms: u64,
        asking: bool,
    },
    /// It is there. `announced`: its claims were told, of one from the record.
    Running {
        public: Option<SocketAddr>,
        progress: Box<str>,
        lookup_ms: Option<u64>,
        asking: bool,
        announced: bool,
        /// Since when nobody has a seat.
        idle_ms: Option<u64>,
    },
    /// To be deleted.
    Deleting {
        due_ms: u64,
        attempt: u32,
        since_ms: u64,
        asking: bool,
    },
}

#[derive(Debug)]
pub(super) struct Seat {
    /// What the player's session is called, once there is one.
    pub(super) session: Option<SessionName>,
    pub(super) state: SeatState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeatState {
    Waiting(RequestId),
    /// The player was told, and is to come until then.
    Reserved(RequestId, u64),
    Claimed,
}

/// The calls whose number is limited, in their queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Delete,
    Create,
    Poll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noting {
    /// The first note may be written from then on.
    From(u64),
    /// It waits for a worker.
    Queued,
    /// It is being written.
    UnderWay,
}

impl Instance {
    pub(super) fn new(phase: Phase) -> Self {
        Self {
            name: None,
            phase,
            seats: BTreeMap::new(),
            next_seat: 0,
            client_ip: None,
            kept: false,
            was_claimed: false,
            queued: None,
            notes: VecDeque::new(),
            noting: Noting::From(0),
            timer: None,
            rank: None,
        }
    }

    /// The next time at which something of it is due by itself.
    pub(super) fn due_ms(&self, claim_ms: u64) -> Option<u64> {
        let free = |due_ms: u64, asking: bool| (!asking && self.queued.is_none()).then_some(due_ms);
        let (first, second) = match &self.phase {
            Phase::Wanted {
                due_ms, deadline_ms, ..
            } => (free(*due_ms, false), Some(*deadline_ms)),
            Phase::Creating { fail_ms, late, .. } => ((!late).then_some(*fail_ms), None),
            Phase::Starting {
                due_ms,
                deadline_ms,
                asking,
                ..
            } => (free(*due_ms, *asking), Some(*deadline_ms)),
            Phase::Running {
                lookup_ms,
                asking,
                idle_ms,
                ..
            } => (
                lookup_ms.and_then(|due_ms| free(due_ms, *asking)),
                idle_ms.map(|idle_ms| idle_ms + claim_ms),
            ),
            // What is being written of it must be written before it is taken off the record.
            Phase::Deleting { due_ms, asking, .. } => (free(*due_ms, *asking || self.noting == Noting::UnderWay), None),
        };
        let reserved = self.seats.values().filter_map(|seat| match seat.state {
            SeatState::Reserved(_, until_ms) => Some(until_ms),
            SeatState::Waiting(_) | SeatState::Claimed => None,
        });
        first
            .into_iter()
            .chain(second)
            .chain(reserved)
            .chain(self.note_ms())
            .min()
    }

    /// When its next note is due. Those of one that is deleted go with the deletion.
    pub(super) fn note_ms(&self) -> Option<u64> {
        match self.noting {
            _ if matches!(self.phase, Phase::Deleting { .. }) => None,
            Noting::From(due_ms) if !self.notes.is_empty() => Some(due_ms),
            Noting::From(_) | Noting::Queued | Noting::UnderWay => None,
        }
    }

    /// How soon a further player of a deployment with so many seats would be on it; None: there is no room.
    pub(super) fn room(&self, max_players: usize) -> Option<u8> {
        if self.kept || self.seats.len() >= max_players {
            return None;
        }
        match self.phase {
            Phase::Running { .. } => Some(0),
            Phase::Starting { .. } => Some(1),
            Phase::Creating { late: false, .. } => Some(2),
            Phase::Wanted { .. } => Some(3),
            Phase::Creating { late: true, .. } | Phase::Deleting { .. } => None,
        }
    }

    /// Whether it is to be deleted or will be as soon as its name is known.
    pub(super) fn is_ending(&self) -> bool {
        match self.phase {
            Phase::Deleting { .. } | Phase::Creating { late: true, .. } => true,
            Phase::Wanted { .. } | Phase::Creating { .. } | Phase::Starting { .. } | Phase::Running { .. } => false,
        }
    }
}
