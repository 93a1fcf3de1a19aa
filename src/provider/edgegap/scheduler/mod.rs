//! Who waits for what at the provider, and what is called when: a state machine without threads, sockets or a clock.
//!
//! It is told what is asked of it, what came of calls, and the time; it says what is to be called and what happened.
//!
//! Owns: every session and deployment from before it is created until it is deleted, and the pace of the calls.
//! Never: makes a call, or touches the record itself; both are jobs for others.

mod answers;
mod instance;
mod jobs;
mod pace;
mod seats;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use self::instance::{Class, Instance, Key, Noting, Phase, SeatState};
pub(super) use self::jobs::{Answer, Deletion, Job, Known, Made, Plan, Store, Ticket};
use self::pace::Pace;
use super::Mode;
use super::api::Fault;
use crate::message::game_server::{Event, Failure, Note, RequestId, SessionName};

/// Requests that may wait at a time.
const REQUESTS_MAX: usize = 20_000;
/// Sessions that may be released before the record is read.
const RELEASED_EARLY_MAX: usize = 10_000;
/// Seats of others' deployments that wait for being taken off the record.
const STRAYS_MAX: usize = 10_000;
/// How often what fails for a passing reason is tried again.
const RETRIES: u32 = 3;
/// Before the first retry, doubled for each further one.
const RETRY_MS: u64 = 500;
/// Longest wait that the provider may ask for.
const WAIT_MAX_MS: u64 = 30_000;
/// When a session is looked at after it was created and after each look; the last value holds on.
const POLLS_MS: [u64; 3] = [300, 600, 1000];
/// Deletions that go before a poll that waits as well.
const DELETES_IN_ROW: u32 = 3;
/// Before a deletion is tried again, doubled each time up to the second value.
const DELETE_RETRY_MS: (u64, u64) = (1000, 300_000);
/// After so long nobody tries to delete any more: a day.
const ABANDON_MS: u64 = 24 * 3600 * 1000;
/// Sessions that were given up and may be on a shared record still.
const ABANDONED_MAX: usize = 10_000;
/// How often a deployment is looked at, and a shared record read.
const DEPLOYMENT_LOOKUP_MS: u64 = 60_000;
/// How often a session is looked at whose player came.
const KEPT_LOOKUP_MS: u64 = 600_000;
/// Between two tries to read the record, or to find the application.
const AGAIN_MS: (u64, u64) = (5000, 300_000);
/// Others' sessions on a shared record get this much longer than the two limits that their owner keeps.
const OTHERS_GRACE_MS: u64 = 10_000;

/// Something that is repeated until it works.
#[derive(Debug)]
struct Repeated {
    due_ms: Option<u64>,
    under_way: bool,
    attempt: u32,
    done_once: bool,
}

/// The state machine. After every input [`Scheduler::poll_job`] and [`Scheduler::poll_event`] are drained.
#[derive(Debug)]
pub(super) struct Scheduler {
    plan: Plan,
    last: Key,
    instances: BTreeMap<Key, Instance>,
    requests: BTreeMap<RequestId, (Key, u32)>,
    /// Seats by what their sessions are called.
    sessions: BTreeMap<SessionName, (Key, u32)>,
    names: BTreeMap<SessionName, Key>,
    /// Released before the record was read, on which they may be.
    released_early: BTreeSet<SessionName>,
    /// Seats of others' deployments that are over, and still on record.
    strays: VecDeque<SessionName>,
    /// What could not be deleted for a day: whoever reads of it or is told of it does not begin again.
    abandoned: BTreeSet<SessionName>,
    timers: BTreeSet<(u64, Key)>,
    /// Deployments with room, those first where one would play soonest.
    open: BTreeSet<(u8, Key)>,
    deletes: VecDeque<Key>,
    creates: VecDeque<Key>,
    polls: VecDeque<Key>,
    notes: VecDeque<Key>,
    create_pace: Pace,
    pace: Pace,
    under_way: usize,
    /// Those of them that create.
    creating: usize,
    deletes_in_row: u32,
    created_last: bool,
    /// The last that was created could not be put on record: nothing more is, until a change or a reading of it works.
    record_lost: bool,
    load: Repeated,
    check: Repeated,
    events: VecDeque<Event>,
    stopping: bool,
}

impl Scheduler {
    /// Nothing is asked for; the record is read and the application looked for first.
    pub(super) fn new(plan: Plan) -> Self {
        let first = || Repeated {
            due_ms: Some(0),
            under_way: false,
            attempt: 0,
            done_once: false,
        };
        Self {
            last: 0,
            instances: BTreeMap::new(),
            requests: BTreeMap::new(),
            sessions: BTreeMap::new(),
            names: BTreeMap::new(),
            released_early: BTreeSet::new(),
            strays: VecDeque::new(),
            abandoned: BTreeSet::new(),
            timers: BTreeSet::new(),
            open: BTreeSet::new(),
            deletes: VecDeque::new(),
            creates: VecDeque::new(),
            polls: VecDeque::new(),
            notes: VecDeque::new(),
            create_pace: Pace::new(plan.creates_per_sec),
            pace: Pace::new(plan.polls_per_sec),
            under_way: 0,
            creating: 0,
            deletes_in_row: 0,
            created_last: false,
            record_lost: false,
            load: first(),
            check: first(),
            events: VecDeque::new(),
            stopping: false,
            plan,
        }
    }

    /// Somebody at `client_ip` seeks a server.
    pub(super) fn submit(&mut self, id: RequestId, client_ip: IpAddr, now_ms: u64) {
        if self.stopping || self.requests.len() >= REQUESTS_MAX {
            return self.events.push_back(Event::Failed(id, Failure::UNAVAILABLE));
        }
        let open = self.open.first().map(|(_, key)| *key);
        if open.is_none() && self.record_lost {
            return self.events.push_back(Event::Failed(id, Failure::UNAVAILABLE));
        }
        let key = open.unwrap_or_else(|| {
            let mut instance = Instance::new(Phase::Wanted {
                due_ms: now_ms,
                attempt: 0,
                deadline_ms: now_ms + self.plan.ready_ms,
            });
            instance.client_ip = Some(client_ip);
            self.insert(instance)
        });
        self.take_seat(key, id, now_ms);
        self.rearm(key);
        self.handle_timeout(now_ms);
    }

    /// Ends what is under way: what is not ready is deleted, the rest stays on record.
    pub(super) fn stop(&mut self, now_ms: u64) {
        self.stopping = true;
        self.load.due_ms = None;
        self.check.due_ms = None;
        let unfinished = |state: SeatState| match state {
            SeatState::Waiting(id) => Some(id),
            SeatState::Reserved(..) | SeatState::Claimed => None,
        };
        let waiting: Vec<RequestId> = self
            .instances
            .values()
            .flat_map(|instance| instance.seats.values())
            .filter_map(|seat| unfinished(seat.state))
            .collect();
        for id in waiting {
            self.cancel(id, now_ms);
        }
        for instance in self.instances.values_mut() {
            if let Phase::Creating { late, .. } = &mut instance.phase {
                *late = true;
            }
        }
    }

    /// How many calls are under way that may yet create something.
    pub(super) fn creations(&self) -> usize {
        self.creating
    }

    /// Whether, after [`Scheduler::stop`], there is nothing that a little patience would still finish.
    pub(super) fn is_quiet(&self) -> bool {
        self.instances.values().all(|instance| {
            let retrying = matches!(
                instance.phase,
                Phase::Deleting {
                    attempt: 1..,
                    asking: false,
                    ..
                }
            );
            instance.notes.is_empty() && instance.noting != Noting::UnderWay && (!instance.is_ending() || retrying)
        })
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now_ms: u64) {
        while let Some((_, key)) = self.timers.first().copied().filter(|(due_ms, _)| *due_ms <= now_ms) {
            self.on_due(key, now_ms);
            self.rearm(key);
        }
    }

    /// When [`Scheduler::handle_timeout`] and [`Scheduler::poll_job`] have something to do by themselves.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let timer = self.timers.first().map(|(due_ms, _)| *due_ms);
        if self.under_way >= self.plan.workers {
            return timer;
        }
        let create = (!self.creates.is_empty() && self.may_create()).then(|| self.create_pace.next_ms());
        let other = !self.deletes.is_empty() || !self.polls.is_empty();
        let other = other.then(|| self.pace.next_ms());
        let check = self.check.due_ms.map(|due_ms| due_ms.max(self.pace.next_ms()));
        let load = self.load.due_ms.filter(|_| !self.load.under_way);
        [timer, create, other, check, load].into_iter().flatten().min()
    }

    /// The next job, while a worker is free for it.
    pub(super) fn poll_job(&mut self, now_ms: u64) -> Option<(Ticket, Job)> {
        if self.under_way >= self.plan.workers {
            return None;
        }
        let (key, job) = self.next_job(now_ms)?;
        self.under_way += 1;
        self.creating += usize::from(matches!(job, Job::Create(_)));
        self.rearm(key);
        Some((Ticket(key), job))
    }

    /// Whoever creates while a record of its own is read the first time might take that for left over. And calls that create
    /// may hang three times as long as others: if there are several workers one is left for all else.
    fn may_create(&self) -> bool {
        (self.load.done_once || self.plan.shared) && self.creating < (self.plan.workers - 1).max(1)
    }

    /// What happened, oldest first.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn next_job(&mut self, now_ms: u64) -> Option<(Key, Job)> {
        if self.load.take(now_ms) {
            return Some((0, Job::Load));
        }
        while let Some(key) = self.notes.pop_front() {
            let Some(instance) = self.instances.get_mut(&key) else {
                continue;
            };
            if let (Noting::Queued, Some(note)) = (instance.noting, instance.notes.front()) {
                instance.noting = Noting::UnderWay;
                return Some((key, Job::Store(note.clone())));
            }
        }
        if let Some(session) = self.strays.pop_front() {
            return Some((0, Job::Store(Store::Released(session))));
        }
        if self.check.due_ms.is_some_and(|due_ms| due_ms <= now_ms) && self.pace.try_take(now_ms) {
            // Two calls.
            self.pace.charge();
            self.check.take(now_ms);
            return Some((0, Job::Check));
        }
        // Deletions cost money while they wait, so they go before polls, but for every fourth of these calls: a provider
        // that refuses to delete must not stop everything else. Creations have a pace of their own and take turns with both.
        let (first, second) = match self.deletes_in_row < DELETES_IN_ROW {
            true => (Class::Delete, Class::Poll),
            false => (Class::Poll, Class::Delete),
        };
        let order = match self.created_last {
            true => [first, second, Class::Create],
            false => [Class::Create, first, second],
        };
        let (class, taken) = order
            .into_iter()
            .find_map(|class| self.next_of(class, now_ms).map(|taken| (class, taken)))?;
        self.created_last = class == Class::Create;
        self.deletes_in_row = match class {
            Class::Delete => self.deletes_in_row + 1,
            Class::Create => self.deletes_in_row,
            Class::Poll => 0,
        };
        Some(taken)
    }

    fn next_of(&mut self, class: Class, now_ms: u64) -> Option<(Key, Job)> {
        if class == Class::Create && !self.may_create() {
            return None;
        }
        loop {
            let queue = match class {
                Class::Delete => &mut self.deletes,
                Class::Create => &mut self.creates,
                Class::Poll => &mut self.polls,
            };
            let key = *queue.front()?;
            let instance = self.instances.get_mut(&key);
            // What left the queue otherwise stands in it still.
            let Some(instance) = instance.filter(|instance| instance.queued == Some(class)) else {
                queue.pop_front();
                continue;
            };
            let pace = match class {
                Class::Create => &mut self.create_pace,
                Class::Delete | Class::Poll => &mut self.pace,
            };
            if !pace.try_take(now_ms) {
                return None;
            }
            queue.pop_front();
            instance.queued = None;
            if let Some(job) = begin(instance, now_ms, self.plan.create_ms) {
                return Some((key, job));
            }
        }
    }

    /// Something of this instance is due.
    fn on_due(&mut self, key: Key, now_ms: u64) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        if instance.note_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            instance.noting = Noting::Queued;
            self.notes.push_back(key);
        }
        let claim_ms = self.plan.claim_ms;
        let is_free = instance.queued.is_none();
        match &mut instance.phase {
            Phase::Wanted { deadline_ms, .. } | Phase::Starting { deadline_ms, .. } if *deadline_ms <= now_ms => {
                self.fail(key, &Failure::TIMED_OUT, now_ms);
            }
            Phase::Creating { fail_ms, late, .. } if *fail_ms <= now_ms && !*late => {
                *late = true;
                self.fail(key, &Fault::TimedOut.failure(), now_ms);
            }
            Phase::Wanted { due_ms, .. } if *due_ms <= now_ms && is_free => self.enqueue(key, Class::Create),
            Phase::Starting { due_ms, asking, .. } if *due_ms <= now_ms && !*asking && is_free => {
                self.enqueue(key, Class::Poll);
            }
            Phase::Deleting { due_ms, asking, .. } if *due_ms <= now_ms && !*asking && is_free => {
                if instance.noting != Noting::UnderWay {
                    self.enqueue(key, Class::Delete);
                }
            }
            Phase::Running {
                idle_ms: Some(idle_ms), ..
            } if *idle_ms + claim_ms <= now_ms => self.end_idle(key, now_ms),
            Phase::Running { lookup_ms, asking, .. } => {
                if lookup_ms.is_some_and(|due_ms| due_ms <= now_ms) && !*asking && is_free {
                    self.enqueue(key, Class::Poll);
                }
                self.reap(key, now_ms);
            }
            Phase::Wanted { .. } | Phase::Creating { .. } | Phase::Starting { .. } | Phase::Deleting { .. } => {}
        }
    }

    fn enqueue(&mut self, key: Key, class: Class) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        instance.queued = Some(class);
        match class {
            Class::Delete => self.deletes.push_back(key),
            Class::Create => self.creates.push_back(key),
            Class::Poll => self.polls.push_back(key),
        }
    }

    /// All who wait for this instance are told that it came to nothing, and what there is of it is deleted.
    fn fail(&mut self, key: Key, failure: &Failure, now_ms: u64) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let seats = std::mem::take(&mut instance.seats);
        for seat in seats.into_values() {
            if let Some(session) = &seat.session {
                self.sessions.remove(session);
            }
            if let SeatState::Waiting(id) = seat.state {
                self.requests.remove(&id);
                self.events.push_back(Event::Failed(id, failure.clone()));
            }
        }
        self.give_up(key, now_ms);
    }

    /// Nobody wants it any more, whatever its phase.
    fn give_up(&mut self, key: Key, now_ms: u64) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        match &mut instance.phase {
            Phase::Wanted { .. } => self.remove(key),
            // Its answer decides.
            Phase::Creating { late, .. } => *late = true,
            Phase::Starting { .. } | Phase::Running { .. } => self.begin_deleting(key, now_ms),
            Phase::Deleting { .. } => {}
        }
    }

    /// From here on nobody has a seat of it.
    fn begin_deleting(&mut self, key: Key, now_ms: u64) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        // Its seats leave the record with it; what else was to be noted is void.
        instance.notes.retain(|note| matches!(note, Store::Released(_)));
        instance.queued = None;
        instance.phase = Phase::Deleting {
            due_ms: now_ms,
            attempt: 0,
            since_ms: now_ms,
            asking: false,
        };
        self.rearm(key);
    }

    fn insert(&mut self, instance: Instance) -> Key {
        self.last += 1;
        if let Some(name) = &instance.name {
            self.names.insert(name.clone(), self.last);
        }
        self.instances.insert(self.last, instance);
        self.rearm(self.last);
        self.last
    }

    fn remove(&mut self, key: Key) {
        let Some(instance) = self.instances.remove(&key) else {
            return;
        };
        if let Some(due_ms) = instance.timer {
            self.timers.remove(&(due_ms, key));
        }
        if let Some(rank) = instance.rank {
            self.open.remove(&(rank, key));
        }
        if let Some(name) = &instance.name {
            self.names.remove(name);
        }
    }

    /// Brings the instance's places among the timers and those with room up to date.
    fn rearm(&mut self, key: Key) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        let due_ms = instance.due_ms(self.plan.claim_ms);
        if due_ms != instance.timer {
            if let Some(old_ms) = std::mem::replace(&mut instance.timer, due_ms) {
                self.timers.remove(&(old_ms, key));
            }
            self.timers.extend(due_ms.map(|due_ms| (due_ms, key)));
        }
        let rank = match self.plan.mode {
            Mode::Session => None,
            Mode::Deployment => instance.room(self.plan.max_players as usize),
        };
        if rank != instance.rank {
            if let Some(old) = std::mem::replace(&mut instance.rank, rank) {
                self.open.remove(&(old, key));
            }
            self.open.extend(rank.map(|rank| (rank, key)));
        }
    }

    fn note(&mut self, note: Note) {
        self.events.push_back(Event::Noted(note));
    }
}

/// The call that the instance stood in the queue for; None: it needs none.
fn begin(instance: &mut Instance, now_ms: u64, create_ms: u64) -> Option<Job> {
    match &mut instance.phase {
        Phase::Wanted {
            attempt, deadline_ms, ..
        } => {
            let client_ip = instance.client_ip?;
            instance.phase = Phase::Creating {
                attempt: *attempt,
                fail_ms: now_ms + create_ms,
                deadline_ms: *deadline_ms,
                late: false,
            };
            Some(Job::Create(client_ip))
        }
        Phase::Starting { asking, .. } | Phase::Running { asking, .. } => {
            *asking = true;
            Some(Job::Poll(instance.name.clone()?))
        }
        Phase::Deleting { asking, .. } => {
            *asking = true;
            let seats = instance.notes.iter().filter_map(|note| match note {
                Store::Released(session) => Some(session.clone()),
                Store::Claimed(_) | Store::Renewed(_) => None,
            });
            Some(Job::Delete(Deletion {
                name: instance.name.clone()?,
                seats: seats.collect(),
                was_claimed: instance.was_claimed,
            }))
        }
        Phase::Creating { .. } => None,
    }
}

/// `first` doubled `attempt` times, at most `last`.
fn backoff(attempt: u32, (first, last): (u64, u64)) -> u64 {
    first.saturating_mul(1 << attempt.min(20)).min(last)
}

impl Repeated {
    /// Whether it is due; then it is under way.
    fn take(&mut self, now_ms: u64) -> bool {
        let due = !self.under_way && self.due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        if due {
            self.under_way = true;
            self.due_ms = None;
        }
        due
    }

    /// It ended; after a failure it is due again.
    fn end(&mut self, good: bool, now_ms: u64) {
        self.under_way = false;
        self.done_once |= good;
        self.attempt = if good { 0 } else { self.attempt + 1 };
        self.due_ms = (!good).then(|| now_ms + backoff(self.attempt.saturating_sub(1), AGAIN_MS));
    }
}
