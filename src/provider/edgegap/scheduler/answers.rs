//! What came of jobs, and what follows from it.
//!
//! Owns: every step that an answer causes. Never: trusts that an answer is still of interest.

use std::collections::BTreeMap;

use super::super::Mode;
use super::super::api::{Fault, Seen, State};
use super::instance::{Instance, Key, Noting, Phase, Seat, SeatState};
use super::seats::seat_of;
use super::{
    ABANDON_MS, ABANDONED_MAX, AGAIN_MS, Answer, DELETE_RETRY_MS, DEPLOYMENT_LOOKUP_MS, KEPT_LOOKUP_MS, Known, Made,
    OTHERS_GRACE_MS, POLLS_MS, RETRIES, RETRY_MS, Scheduler, Store, Ticket, WAIT_MAX_MS, backoff,
};
use crate::message::game_server::{Event, Failure, Note, SessionName};

/// The provider gave it up, or it has no address.
const SESSION_FAILED: Failure = Failure::new(503, "session failed");
const NO_ADDRESS: Failure = Failure::new(500, "server has no address");

impl Scheduler {
    /// A job ended.
    pub(in super::super) fn answered(&mut self, ticket: Ticket, answer: Answer, now_ms: u64) {
        let Ticket(key) = ticket;
        self.under_way -= 1;
        self.creating -= usize::from(matches!(answer, Answer::Created(_)));
        // Too many calls were made, not too many for this one.
        if let Some(Fault::Status(429, Some(wait_ms))) = answer.fault() {
            let pace = match answer {
                Answer::Created(_) => &mut self.create_pace,
                _ => &mut self.pace,
            };
            pace.hold_until(now_ms + wait_ms.min(WAIT_MAX_MS));
        }
        match answer {
            Answer::Loaded(known) => self.on_loaded(known, now_ms),
            Answer::Checked(found) => self.on_checked(found, now_ms),
            Answer::Created(made) => self.on_created(key, made, now_ms),
            Answer::Polled(seen) => self.on_polled(key, seen, now_ms),
            Answer::Deleted(done) => self.on_deleted(key, done, now_ms),
            Answer::Stored(good) => self.on_stored(key, good, now_ms),
        }
        self.rearm(key);
        self.handle_timeout(now_ms);
    }

    fn on_created(&mut self, key: Key, made: Result<Made, Fault>, now_ms: u64) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let Phase::Creating {
            attempt, deadline_ms, ..
        } = instance.phase
        else {
            return;
        };
        let Made { name, on_record } = match made {
            Ok(made) => made,
            Err(fault) => {
                if fault.may_have_created() {
                    tracing::error!(
                        ?fault,
                        "nobody knows what a creation came to: there may be one that is not on record"
                    );
                }
                let wait_ms = backoff(attempt, (RETRY_MS, WAIT_MAX_MS)).max(fault.wait_ms().min(WAIT_MAX_MS));
                let again =
                    fault.is_before_creation() && attempt < RETRIES && !instance.seats.is_empty() && !self.record_lost;
                if again && now_ms + wait_ms < deadline_ms {
                    instance.phase = Phase::Wanted {
                        due_ms: now_ms + wait_ms,
                        attempt: attempt + 1,
                        deadline_ms,
                    };
                } else {
                    self.fail(key, &fault.failure(), now_ms);
                    self.remove(key);
                }
                return;
            }
        };
        instance.name = Some(name.clone());
        instance.phase = Phase::Starting {
            due_ms: now_ms + POLLS_MS[0],
            polls: 0,
            retries: 0,
            deadline_ms: now_ms + self.plan.ready_ms,
            asking: false,
        };
        let is_wanted = !instance.seats.is_empty();
        self.names.insert(name, key);
        self.note(Note::Created);
        match on_record {
            true => self.record_lost = false,
            false => self.lose_record(now_ms),
        }
        match (on_record, is_wanted) {
            (true, true) => self.name_seats(key),
            (false, _) => self.fail(key, &Failure::UNAVAILABLE, now_ms),
            (true, false) => self.give_up(key, now_ms),
        }
    }

    /// Whatever is created would have to be deleted at once, so nothing is, until a try to read the record works.
    fn lose_record(&mut self, now_ms: u64) {
        if self.stopping {
            return;
        }
        if !std::mem::replace(&mut self.record_lost, true) {
            tracing::error!("nothing is created while the record of sessions cannot be changed");
        }
        let again_ms = now_ms + AGAIN_MS.0;
        self.load.due_ms = Some(self.load.due_ms.map_or(again_ms, |due_ms| due_ms.min(again_ms)));
        let is_wanted = |instance: &Instance| matches!(instance.phase, Phase::Wanted { .. });
        let wanted: Vec<Key> = self
            .instances
            .iter()
            .filter(|(_, instance)| is_wanted(instance))
            .map(|(key, _)| *key)
            .collect();
        for key in wanted {
            self.fail(key, &Failure::UNAVAILABLE, now_ms);
        }
    }

    fn on_polled(&mut self, key: Key, seen: Result<Seen, Fault>, now_ms: u64) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        match &mut instance.phase {
            Phase::Starting { asking, .. } => {
                *asking = false;
                self.on_start_polled(key, seen, now_ms);
            }
            Phase::Running { asking, .. } => {
                *asking = false;
                self.on_looked_up(key, seen, now_ms);
            }
            // It was asked before that was decided.
            Phase::Deleting { .. } | Phase::Wanted { .. } | Phase::Creating { .. } => {}
        }
    }

    fn on_start_polled(&mut self, key: Key, seen: Result<Seen, Fault>, now_ms: u64) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let Phase::Starting {
            due_ms, polls, retries, ..
        } = &mut instance.phase
        else {
            return;
        };
        let seen = match seen {
            Ok(seen) => seen,
            Err(fault) if fault.is_passing() && *retries < RETRIES => {
                let wait_ms = backoff(*retries, (RETRY_MS, WAIT_MAX_MS));
                *due_ms = now_ms + wait_ms.max(fault.wait_ms().min(WAIT_MAX_MS));
                *retries += 1;
                return;
            }
            Err(fault) if fault.is_gone() => return self.fail(key, &SESSION_FAILED, now_ms),
            Err(fault) => return self.fail(key, &fault.failure(), now_ms),
        };
        *retries = 0;
        *polls += 1;
        *due_ms = now_ms + POLLS_MS[(*polls as usize).min(POLLS_MS.len() - 1)];
        match seen.state {
            State::Waiting => self.tell_progress(key, &seen.progress),
            State::Over => {
                self.tell_progress(key, &seen.progress);
                self.fail(key, &SESSION_FAILED, now_ms);
            }
            State::Ready(None) => {
                self.tell_progress(key, &seen.progress);
                self.fail(key, &NO_ADDRESS, now_ms);
            }
            State::Ready(Some(public)) => {
                instance.phase = Phase::Running {
                    public: Some(public),
                    progress: seen.progress,
                    lookup_ms: (self.plan.mode == Mode::Deployment).then_some(now_ms + DEPLOYMENT_LOOKUP_MS),
                    asking: false,
                    announced: true,
                    idle_ms: None,
                };
                self.tell_ready(key, now_ms);
            }
        }
    }

    /// What runs was looked at: only what is certainly over ends.
    fn on_looked_up(&mut self, key: Key, seen: Result<Seen, Fault>, now_ms: u64) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let kept = instance.kept;
        let Phase::Running {
            lookup_ms, announced, ..
        } = &mut instance.phase
        else {
            return;
        };
        let over = match &seen {
            Ok(seen) => seen.state == State::Over,
            Err(fault) => fault.is_gone(),
        };
        if over {
            self.end_seats(key);
            return self.begin_deleting(key, now_ms);
        }
        let again_ms = match (&seen, self.plan.mode) {
            (Ok(_), Mode::Session) => KEPT_LOOKUP_MS,
            (Ok(_), Mode::Deployment) | (Err(_), _) => DEPLOYMENT_LOOKUP_MS,
        };
        *lookup_ms = Some(now_ms + again_ms);
        if seen.is_ok() && !std::mem::replace(announced, true) {
            let sessions = instance.seats.values().filter_map(|seat| seat.session.clone());
            self.events.extend(sessions.map(Event::Claimed));
        }
        if let (true, Mode::Deployment, Some(name)) = (self.plan.shared && !kept, self.plan.mode, &instance.name) {
            instance.notes.push_back(Store::Renewed(name.clone()));
        }
    }

    fn on_deleted(&mut self, key: Key, done: Result<(), Fault>, now_ms: u64) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let Phase::Deleting {
            due_ms,
            attempt,
            since_ms,
            asking,
        } = &mut instance.phase
        else {
            return;
        };
        *asking = false;
        match done {
            Ok(()) => {
                self.remove(key);
                self.note(Note::Deleted);
            }
            Err(fault) if now_ms >= *since_ms + ABANDON_MS => {
                tracing::error!(?fault, session = ?instance.name, "a session cannot be deleted, and stays on record");
                if self.abandoned.len() < ABANDONED_MAX {
                    self.abandoned.extend(instance.name.clone());
                }
                self.note(Note::Abandoned);
                self.remove(key);
            }
            Err(fault) => {
                let wait_ms = backoff(*attempt, DELETE_RETRY_MS).max(fault.wait_ms().min(DELETE_RETRY_MS.1));
                *due_ms = now_ms + wait_ms;
                *attempt += 1;
            }
        }
    }

    fn on_stored(&mut self, key: Key, good: bool, now_ms: u64) {
        self.record_lost &= !good;
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        // Of one that is deleted now the notes were sorted out already.
        if good && !matches!(instance.phase, Phase::Deleting { .. }) {
            instance.notes.pop_front();
        }
        instance.noting = Noting::From(if good { now_ms } else { now_ms + DELETE_RETRY_MS.0 });
    }

    fn on_checked(&mut self, found: Result<bool, Fault>, now_ms: u64) {
        let first = self.check.attempt == 0;
        self.check.end(found.is_ok(), now_ms);
        match found {
            Ok(true) => tracing::info!("the provider has the application"),
            Ok(false) => tracing::error!("the application or its version is not active at the provider"),
            Err(fault) if first => tracing::error!(?fault, "the provider does not show the application"),
            Err(_) => {}
        }
        if self.stopping {
            self.check.due_ms = None;
        }
    }

    /// Takes up what an earlier process left, and on a shared record what others left.
    fn on_loaded(&mut self, known: Option<Vec<Known>>, now_ms: u64) {
        let first = !self.load.done_once;
        let attempt = self.load.attempt;
        self.load.end(known.is_some(), now_ms);
        if self.stopping {
            self.load.due_ms = None;
        }
        let Some(known) = known else {
            if attempt == 0 {
                tracing::error!("the record of sessions cannot be read");
            }
            if self.record_lost && !self.stopping {
                self.load.due_ms = Some(now_ms + AGAIN_MS.0);
            }
            return;
        };
        self.record_lost = false;
        if self.plan.shared && !self.stopping {
            self.load.due_ms = Some(now_ms + DEPLOYMENT_LOOKUP_MS);
        }
        // Of a record of its own only what was there at the start is left over.
        if !first && !self.plan.shared {
            return;
        }
        let others_ms = match self.plan.shared {
            true => self.plan.ready_ms + self.plan.claim_ms + OTHERS_GRACE_MS,
            false => 0,
        };
        let (claimed, unclaimed): (Vec<Known>, Vec<Known>) = known.into_iter().partition(|known| known.claimed);
        let mut kept: BTreeMap<SessionName, Vec<(u32, SessionName)>> = BTreeMap::new();
        for Known { name: session, .. } in claimed {
            let (name, number) = match self.plan.mode {
                Mode::Session => (session.clone(), 0),
                Mode::Deployment => seat_of(&session).unwrap_or((session.clone(), u32::MAX)),
            };
            kept.entry(name).or_default().push((number, session));
        }
        for Known { name, age_ms, .. } in unclaimed {
            let is_taken = kept.contains_key(&name) || self.names.contains_key(&name);
            if age_ms >= others_ms && !is_taken && !self.abandoned.contains(&name) {
                self.delete_named(name, now_ms);
            }
        }
        if first {
            for (name, sessions) in kept {
                self.keep(name, sessions, now_ms);
            }
            for session in std::mem::take(&mut self.released_early) {
                self.released(&session, now_ms);
            }
        }
    }

    /// Deletes what is known by its name alone.
    pub(super) fn delete_named(&mut self, name: SessionName, now_ms: u64) {
        let mut instance = Instance::new(Phase::Deleting {
            due_ms: now_ms,
            attempt: 0,
            since_ms: now_ms,
            asking: false,
        });
        instance.name = Some(name);
        self.insert(instance);
    }

    fn keep(&mut self, name: SessionName, sessions: Vec<(u32, SessionName)>, now_ms: u64) {
        if self.names.contains_key(&name) {
            return;
        }
        let mut instance = Instance::new(Phase::Running {
            public: None,
            progress: Box::default(),
            lookup_ms: Some(now_ms),
            asking: false,
            announced: false,
            idle_ms: None,
        });
        instance.name = Some(name);
        instance.kept = true;
        for (number, session) in &sessions {
            let session = Some(session.clone());
            let state = SeatState::Claimed;
            instance.seats.insert(*number, Seat { session, state });
        }
        let key = self.insert(instance);
        let seats = sessions.into_iter().map(|(number, session)| (session, (key, number)));
        self.sessions.extend(seats);
    }
}
