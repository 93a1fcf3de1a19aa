//! Who sits where: requests take seats, players claim them, leave them, or never come.
//!
//! Owns: what happens to a seat. Never: decides what is called when.

use super::super::Mode;
use super::instance::{Key, Phase, Seat, SeatState};
use super::{KEPT_LOOKUP_MS, RELEASED_EARLY_MAX, STRAYS_MAX, Scheduler, Store};
use crate::message::game_server::{Event, KeyIndex, Note, Placement, RequestId, SessionName};

impl Scheduler {
    /// Nobody waits for this request any more, or its player will not come.
    pub(in super::super) fn cancel(&mut self, id: RequestId, now_ms: u64) {
        let Some((key, number)) = self.requests.remove(&id) else {
            return;
        };
        self.vacate(key, number, now_ms);
        self.handle_timeout(now_ms);
    }

    /// The session's player came.
    pub(in super::super) fn claimed(&mut self, session: &SessionName, now_ms: u64) {
        let Some((key, number)) = self.sessions.get(session).copied() else {
            return self.claimed_unknown(session, now_ms);
        };
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let Some(seat) = instance.seats.get_mut(&number) else {
            return;
        };
        if let SeatState::Reserved(id, _) = seat.state {
            seat.state = SeatState::Claimed;
            self.requests.remove(&id);
            instance.notes.push_back(Store::Claimed(session.clone()));
            // Nobody may ever say that it is over.
            if let (Mode::Session, Phase::Running { lookup_ms, .. }) = (self.plan.mode, &mut instance.phase) {
                *lookup_ms = Some(now_ms + KEPT_LOOKUP_MS);
            }
            self.rearm(key);
            self.handle_timeout(now_ms);
        }
    }

    /// Nobody here has a seat of that name. On a deployment that is kept, another process or an earlier one gave it away.
    fn claimed_unknown(&mut self, session: &SessionName, now_ms: u64) {
        if self.plan.mode != Mode::Deployment {
            return;
        }
        let Some((deployment, number)) = seat_of(session) else {
            return;
        };
        let Some(key) = self.names.get(&deployment).copied() else {
            return;
        };
        let Some(instance) = self.instances.get_mut(&key).filter(|instance| instance.kept) else {
            return;
        };
        let Phase::Running { idle_ms, .. } = &mut instance.phase else {
            return;
        };
        // A number may be written in several ways; only the first is the seat's.
        if instance.seats.contains_key(&number) {
            return;
        }
        *idle_ms = None;
        let state = SeatState::Claimed;
        let seat = Seat {
            session: Some(session.clone()),
            state,
        };
        instance.seats.insert(number, seat);
        instance.notes.push_back(Store::Claimed(session.clone()));
        self.sessions.insert(session.clone(), (key, number));
        self.rearm(key);
        self.handle_timeout(now_ms);
    }

    /// The session's player left, or never came.
    pub(in super::super) fn released(&mut self, session: &SessionName, now_ms: u64) {
        let Some((key, number)) = self.sessions.get(session).copied() else {
            return self.released_unknown(session, now_ms);
        };
        self.vacate(key, number, now_ms);
        self.handle_timeout(now_ms);
    }

    /// Nobody here has a seat of that name. On a shared record another matchmaker created it, or an earlier process did, and
    /// whoever hears that it is over deletes it: twice does no harm.
    fn released_unknown(&mut self, session: &SessionName, now_ms: u64) {
        if !self.load.done_once {
            if self.released_early.len() < RELEASED_EARLY_MAX {
                self.released_early.insert(session.clone());
            }
            return;
        }
        if !self.plan.shared || self.stopping || self.names.contains_key(session) {
            return;
        }
        // The cloud knows deployments and no seats: a seat only leaves the record. If that fails the order comes again.
        if self.plan.mode == Mode::Deployment && seat_of(session).is_some() {
            if self.strays.len() < STRAYS_MAX {
                self.strays.push_back(session.clone());
            }
            return;
        }
        if !self.abandoned.contains(session) {
            self.delete_named(session.clone(), now_ms);
            self.handle_timeout(now_ms);
        }
    }

    /// A seat for a request. If the server is there already its player is told at once.
    pub(super) fn take_seat(&mut self, key: Key, id: RequestId, now_ms: u64) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let number = instance.next_seat;
        instance.next_seat += 1;
        let state = SeatState::Waiting(id);
        instance.seats.insert(number, Seat { session: None, state });
        self.requests.insert(id, (key, number));
        if let Phase::Running { idle_ms, .. } = &mut instance.phase {
            *idle_ms = None;
        }
        self.name_seats(key);
        self.tell_ready(key, now_ms);
    }

    /// Gives a name to every seat that has none, once the instance has one.
    pub(super) fn name_seats(&mut self, key: Key) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let Some(name) = &instance.name else { return };
        for (number, seat) in &mut instance.seats {
            let SeatState::Waiting(id) = seat.state else { continue };
            if seat.session.is_some() {
                continue;
            }
            let session = match self.plan.mode {
                Mode::Session => name.clone(),
                // A deployment's name is checked to leave room for the number.
                Mode::Deployment => SessionName::new(&format!("{name}-{number}")).expect("a name and a number"),
            };
            seat.session = Some(session.clone());
            self.sessions.insert(session.clone(), (key, *number));
            self.events.push_back(Event::Accepted(id, session));
        }
    }

    /// Tells all who wait how far it is.
    pub(super) fn tell_progress(&mut self, key: Key, progress: &str) {
        let Some(instance) = self.instances.get(&key) else {
            return;
        };
        for seat in instance.seats.values() {
            if let SeatState::Waiting(id) = seat.state {
                self.events.push_back(Event::Progress(id, progress.into()));
            }
        }
    }

    /// If the server is there, all who wait for it are told where.
    pub(super) fn tell_ready(&mut self, key: Key, now_ms: u64) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let Phase::Running {
            public: Some(public),
            progress,
            ..
        } = &instance.phase
        else {
            return;
        };
        for seat in instance.seats.values_mut() {
            let (SeatState::Waiting(id), Some(session)) = (seat.state, &seat.session) else {
                continue;
            };
            let placement = Placement {
                session: session.clone(),
                public: *public,
                internal: Vec::new(),
                cert_digest: self.plan.cert_digest,
                key: KeyIndex(0),
            };
            seat.state = SeatState::Reserved(id, now_ms + self.plan.claim_ms);
            self.events.push_back(Event::Progress(id, progress.clone()));
            self.events.push_back(Event::Ready(id, Box::new(placement)));
        }
    }

    /// Gives up the seats whose players did not come in time.
    pub(super) fn reap(&mut self, key: Key, now_ms: u64) {
        let Some(instance) = self.instances.get(&key) else {
            return;
        };
        let late = |seat: &Seat| matches!(seat.state, SeatState::Reserved(_, until_ms) if until_ms <= now_ms);
        let late: Vec<u32> = instance
            .seats
            .iter()
            .filter(|(_, seat)| late(seat))
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            self.note(Note::Unclaimed);
            self.end_seat(key, number);
            self.vacate(key, number, now_ms);
        }
    }

    /// The provider ended it: all who have seats are out.
    pub(super) fn end_seats(&mut self, key: Key) {
        let numbers = self
            .instances
            .get(&key)
            .map(|instance| instance.seats.keys().copied().collect());
        let numbers: Vec<u32> = numbers.unwrap_or_default();
        for number in numbers {
            self.end_seat(key, number);
            self.leave(key, number);
        }
    }

    fn end_seat(&mut self, key: Key, number: u32) {
        let seat = self
            .instances
            .get(&key)
            .and_then(|instance| instance.seats.get(&number));
        if let Some(session) = seat.and_then(|seat| seat.session.clone()) {
            self.events.push_back(Event::Ended(session));
        }
    }

    /// Frees a seat. An instance that nobody needs is given up; a deployment that runs waits a while for others.
    fn vacate(&mut self, key: Key, number: u32, now_ms: u64) {
        self.leave(key, number);
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        if instance.seats.is_empty() {
            match &mut instance.phase {
                // One that is kept waits too: players whom nobody here knows of may be on their way.
                Phase::Running { idle_ms, .. } if self.plan.mode == Mode::Deployment => *idle_ms = Some(now_ms),
                // Another player may take the seat before the answer comes.
                Phase::Creating { .. } if self.plan.mode == Mode::Deployment => {}
                _ => self.give_up(key, now_ms),
            }
        }
        self.rearm(key);
    }

    /// Nobody came to a deployment for as long as one waits for a player.
    pub(super) fn end_idle(&mut self, key: Key, now_ms: u64) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        match &mut instance.phase {
            // Whoever created it may seat players there still. If nobody renews it on record it is deleted as left over.
            Phase::Running { idle_ms, .. } if instance.kept && self.plan.shared => match instance.notes.is_empty() {
                true => self.remove(key),
                // That its last player left is to be on record first.
                false => *idle_ms = Some(now_ms),
            },
            _ => self.begin_deleting(key, now_ms),
        }
    }

    fn leave(&mut self, key: Key, number: u32) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let Some(seat) = instance.seats.remove(&number) else {
            return;
        };
        if let Some(session) = &seat.session {
            self.sessions.remove(session);
        }
        match seat.state {
            SeatState::Waiting(id) | SeatState::Reserved(id, _) => {
                self.requests.remove(&id);
            }
            // A session leaves the record when it is deleted, a seat before.
            SeatState::Claimed if instance.name != seat.session => {
                instance.notes.extend(seat.session.map(Store::Released));
            }
            SeatState::Claimed => instance.was_claimed = true,
        }
    }
}

/// The deployment and the number of a seat, from its session's name.
pub(super) fn seat_of(session: &SessionName) -> Option<(SessionName, u32)> {
    let (deployment, number) = session.as_str().rsplit_once('-')?;
    Some((SessionName::new(deployment)?, number.parse().ok()?))
}
