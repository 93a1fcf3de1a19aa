//! The threads: one that schedules, and those that wait for the provider and the record.
//!
//! Owns: the clock, the queues between the threads, and how they end.
//! Never: decides what is called; the scheduler does.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::api::{Client, Fault};
use super::scheduler::{Answer, Deletion, Job, Known, Made, Plan, Scheduler, Store, Ticket};
use crate::message::game_server::{Event, Note, RequestId, SessionName};
use crate::provider::Outbox;
use crate::provider::store::{SessionStore, StoreError};

/// Commands that are taken in one turn.
const COMMANDS_MAX: usize = 256;
/// How long deletions are waited for at the end; before them a call that creates may take its whole time.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(2);

/// What the scheduling thread is told.
pub(super) enum Command {
    Submit(RequestId, IpAddr),
    Cancel(RequestId),
    Claimed(SessionName),
    Released(SessionName),
    /// A worker's.
    Done {
        ticket: Ticket,
        answer: Answer,
        /// How long the provider took; None: it was not called.
        took: Option<Duration>,
    },
    Stop,
}

/// The near ends of the threads.
pub(super) struct Threads {
    pub(super) commands: Sender<Command>,
    /// Requests in `commands`.
    pub(super) queued: Arc<AtomicUsize>,
    /// Disconnected when all have ended.
    pub(super) alive: Receiver<()>,
}

/// Starts them.
///
/// # Errors
/// A thread that cannot be started; those that were end by themselves.
pub(super) fn start(plan: Plan, client: Client, store: Arc<dyn SessionStore>, outbox: Outbox) -> io::Result<Threads> {
    // Unbounded, because a cancellation must not be lost; requests are counted, and all else follows from those.
    let (commands, received) = unbounded();
    let (jobs, taken) = bounded(plan.workers);
    let (living, alive) = bounded(0);
    let queued = Arc::new(AtomicUsize::new(0));
    let client = Arc::new(client);
    for at in 0..plan.workers {
        let worker = Worker {
            client: client.clone(),
            store: store.clone(),
            jobs: taken.clone(),
            commands: commands.clone(),
            _living: living.clone(),
        };
        let name = format!("edgegap {at}");
        thread::Builder::new().name(name).spawn(move || worker.run())?;
    }
    let shell = Shell {
        call_ms: plan.create_ms,
        scheduler: Scheduler::new(plan),
        client,
        commands: received,
        jobs,
        outbox,
        queued: queued.clone(),
        started: Instant::now(),
        stop_ms: None,
        _living: living,
    };
    let name = "edgegap schedule".to_owned();
    thread::Builder::new().name(name).spawn(move || shell.run())?;
    Ok(Threads {
        commands,
        queued,
        alive,
    })
}

/// The scheduler with a clock and queues.
struct Shell {
    scheduler: Scheduler,
    client: Arc<Client>,
    commands: Receiver<Command>,
    jobs: Sender<(Ticket, Job)>,
    outbox: Outbox,
    queued: Arc<AtomicUsize>,
    started: Instant,
    stop_ms: Option<u64>,
    /// How long a call may take.
    call_ms: u64,
    _living: Sender<()>,
}

impl Shell {
    fn run(mut self) {
        loop {
            let now_ms = self.now_ms();
            self.scheduler.handle_timeout(now_ms);
            while let Some(job) = self.scheduler.poll_job(now_ms) {
                // There is room: no more are under way than there are workers.
                let _ = self.jobs.send(job);
            }
            while let Some(event) = self.scheduler.poll_event() {
                self.outbox.tell(event);
            }
            if self
                .stop_ms
                .is_some_and(|stop_ms| stop_ms <= now_ms || self.scheduler.is_quiet())
            {
                break;
            }
            let due_ms = self.scheduler.poll_timeout().into_iter().chain(self.stop_ms).min();
            let first = match due_ms {
                Some(due_ms) => {
                    let wait = Duration::from_millis(due_ms.saturating_sub(now_ms));
                    self.commands.recv_timeout(wait)
                }
                None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(command) => self.take(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            for command in self.commands.clone().try_iter().take(COMMANDS_MAX) {
                self.take(command);
            }
        }
        let creations = self.scheduler.creations();
        if creations > 0 {
            tracing::error!(
                creations,
                "stopped while something was being created: it is lost, not on record, and must be deleted by hand"
            );
        }
        self.client.shut_down();
    }

    fn take(&mut self, command: Command) {
        let now_ms = self.now_ms();
        match command {
            Command::Submit(id, client_ip) => {
                self.queued.fetch_sub(1, Ordering::Relaxed);
                self.scheduler.submit(id, client_ip, now_ms);
            }
            Command::Cancel(id) => self.scheduler.cancel(id, now_ms),
            Command::Claimed(session) => self.scheduler.claimed(&session, now_ms),
            Command::Released(session) => self.scheduler.released(&session, now_ms),
            Command::Done { ticket, answer, took } => {
                if let Some(took) = took {
                    let good = answer.is_good();
                    self.outbox.tell(Event::Noted(Note::Called { took, good }));
                }
                self.scheduler.answered(ticket, answer, now_ms);
            }
            Command::Stop => {
                self.scheduler.stop(now_ms);
                let within_ms = u64::try_from(STOP_WITHIN.as_millis()).unwrap_or(u64::MAX);
                // Only its answer tells what is to be deleted.
                let call_ms = if self.scheduler.creations() > 0 {
                    self.call_ms
                } else {
                    0
                };
                self.stop_ms.get_or_insert(now_ms + call_ms + within_ms);
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Waits for one call at a time.
struct Worker {
    client: Arc<Client>,
    store: Arc<dyn SessionStore>,
    jobs: Receiver<(Ticket, Job)>,
    commands: Sender<Command>,
    _living: Sender<()>,
}

impl Worker {
    fn run(self) {
        for (ticket, job) in &self.jobs {
            let (answer, took) = self.work(job);
            if self.commands.send(Command::Done { ticket, answer, took }).is_err() {
                return;
            }
        }
    }

    fn work(&self, job: Job) -> (Answer, Option<Duration>) {
        let started = Instant::now();
        match job {
            Job::Load => (Answer::Loaded(self.load()), None),
            Job::Store(change) => {
                let changed = match &change {
                    Store::Claimed(session) => self.store.claimed(session),
                    Store::Released(session) => self.store.deleted(session),
                    Store::Renewed(session) => self.store.created(session),
                };
                (Answer::Stored(is_stored(changed)), None)
            }
            Job::Check => {
                let found = self.client.check();
                (Answer::Checked(found), Some(started.elapsed()))
            }
            Job::Create(client_ip) => {
                let created = self.client.create(client_ip);
                let took = started.elapsed();
                // On record before anybody else learns of it.
                let made = created.map(|name| Made {
                    on_record: is_stored(self.store.created(&name)),
                    name,
                });
                (Answer::Created(made), Some(took))
            }
            Job::Poll(name) => {
                let seen = self.client.poll(&name);
                (Answer::Polled(seen), Some(started.elapsed()))
            }
            Job::Delete(deletion) => self.delete(&deletion),
        }
    }

    /// The line of the session leaves the record last: as long as it is there, all of this is done again.
    fn delete(&self, deletion: &Deletion) -> (Answer, Option<Duration>) {
        let mut stored = true;
        for seat in &deletion.seats {
            stored &= is_stored(self.store.deleted(seat));
        }
        if deletion.was_claimed {
            stored &= is_stored(self.store.created(&deletion.name));
        }
        let started = Instant::now();
        let deleted = self.client.delete(&deletion.name);
        let took = started.elapsed();
        let deleted = deleted.and_then(|()| match stored && is_stored(self.store.deleted(&deletion.name)) {
            true => Ok(()),
            false => Err(Fault::Lost),
        });
        (Answer::Deleted(deleted), Some(took))
    }

    fn load(&self) -> Option<Vec<Known>> {
        let now = SystemTime::now();
        let all = self.store.all();
        let all = all.inspect_err(|StoreError(error)| tracing::debug!(%error, "the record of sessions cannot be read"));
        let known = all.ok()?.into_iter().map(|stored| Known {
            name: stored.session,
            claimed: stored.claimed,
            age_ms: now
                .duration_since(stored.since)
                .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        });
        Some(known.collect())
    }
}

fn is_stored(changed: Result<(), StoreError>) -> bool {
    changed
        .inspect_err(|StoreError(error)| tracing::error!(%error, "the record of sessions cannot be changed"))
        .is_ok()
}
