//! The scheduler in a world of its own: a cloud that fails as it likes, players who come, leave and do not come, and
//! processes that end at any time, all drawn from one seed.
//!
//! Owns: that world and what must hold in it. Never: waits.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::api::Seen;
use super::super::api::State;
use super::*;

mod scenes;
mod shared;

const HOUR_MS: u64 = 3600 * 1000;

fn plan(mode: Mode) -> Plan {
    Plan {
        mode,
        max_players: 3,
        workers: 4,
        creates_per_sec: 40,
        polls_per_sec: 20,
        create_ms: 10_000,
        ready_ms: 60_000,
        claim_ms: 62_000,
        cert_digest: None,
        shared: false,
    }
}

/// What the cloud knows of a session or deployment.
struct Item {
    deleted: bool,
    ready_ms: u64,
}

/// A job under way: what it comes to, and when.
struct Running {
    done_ms: u64,
    ticket: Ticket,
    job: Job,
    answer: Answer,
}

/// What a player does.
#[derive(Debug, Default)]
struct Player {
    cancel_ms: Option<u64>,
    claim_ms: Option<u64>,
    release_ms: Option<u64>,
    session: Option<SessionName>,
    ready: bool,
    over: bool,
}

struct World {
    random: StdRng,
    seed: u64,
    now_ms: u64,
    scheduler: Scheduler,
    plan: Plan,
    cloud: BTreeMap<SessionName, Item>,
    record: BTreeMap<SessionName, bool>,
    running: Vec<Running>,
    players: BTreeMap<RequestId, Player>,
    /// Sessions whose players are on the server.
    playing: BTreeMap<SessionName, u64>,
    released: BTreeSet<SessionName>,
    calls: Vec<(u64, bool)>,
    noted: Vec<Note>,
    asked_to_delete: Vec<SessionName>,
    last: u64,
    /// How long a job takes at most, if it is not slow.
    latency_ms: u64,
    /// Of a hundred jobs so many fail.
    faults: u32,
    /// What the next creation comes to.
    refuse_creation: Option<Fault>,
    /// Whether nothing new can be put on record.
    record_fails: bool,
    /// How old everything on record is.
    age_ms: u64,
}

impl World {
    fn new(seed: u64, plan: Plan) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            seed,
            now_ms: 0,
            scheduler: Scheduler::new(plan.clone()),
            plan,
            cloud: BTreeMap::new(),
            record: BTreeMap::new(),
            running: Vec::new(),
            players: BTreeMap::new(),
            playing: BTreeMap::new(),
            released: BTreeSet::new(),
            calls: Vec::new(),
            noted: Vec::new(),
            asked_to_delete: Vec::new(),
            last: 0,
            latency_ms: 400,
            faults: 0,
            refuse_creation: None,
            record_fails: false,
            age_ms: HOUR_MS,
        }
    }

    fn player(&mut self, player: Player) -> RequestId {
        self.last += 1;
        let id = RequestId(self.last);
        self.players.insert(id, player);
        self.scheduler.submit(id, "192.0.2.1".parse().unwrap(), self.now_ms);
        self.settle();
        id
    }

    /// Lets time pass.
    fn run_for(&mut self, for_ms: u64) {
        let end_ms = self.now_ms + for_ms;
        loop {
            self.settle();
            let job = self.running.iter().map(|running| running.done_ms).min();
            let player = self.players.values().filter_map(Player::next_ms).min();
            let playing = self.playing.values().copied().min();
            let times = [self.scheduler.poll_timeout(), job, player, playing];
            let next_ms = times.into_iter().flatten().min().unwrap_or(u64::MAX).max(self.now_ms);
            if next_ms > end_ms {
                break;
            }
            self.now_ms = next_ms;
            self.scheduler.handle_timeout(self.now_ms);
            self.finish_jobs();
            self.act();
        }
        self.now_ms = end_ms;
    }

    /// Takes everything that the scheduler says, until it says nothing.
    fn settle(&mut self) {
        self.scheduler.handle_timeout(self.now_ms);
        while let Some((ticket, job)) = self.scheduler.poll_job(self.now_ms) {
            self.begin(ticket, job);
        }
        assert!(self.running.len() <= self.plan.workers, "seed {:#x}", self.seed);
        while let Some(event) = self.scheduler.poll_event() {
            self.on_event(event);
        }
        let due = self.scheduler.poll_timeout();
        assert!(
            due.is_none_or(|due_ms| due_ms > self.now_ms),
            "seed {:#x}: due {due:?} at {}",
            self.seed,
            self.now_ms
        );
        self.check();
    }

    fn check(&self) {
        let creating = |name: &SessionName| {
            self.running.iter().any(|running| match &running.answer {
                Answer::Created(Ok(made)) => made.name == *name,
                _ => false,
            })
        };
        for (name, item) in &self.cloud {
            let safe = item.deleted || self.record.contains_key(name) || creating(name);
            assert!(safe, "seed {:#x}: {name} is forgotten", self.seed);
        }
    }

    fn begin(&mut self, ticket: Ticket, job: Job) {
        match job {
            Job::Create(_) => self.calls.push((self.now_ms, true)),
            Job::Poll(_) | Job::Delete(..) => self.calls.push((self.now_ms, false)),
            Job::Check => self.calls.extend([(self.now_ms, false); 2]),
            Job::Load | Job::Store(_) => {}
        }
        let slow = self.random.random_range(0..400) < self.faults;
        let took_ms = if slow {
            12_000
        } else {
            self.random.random_range(1..self.latency_ms)
        };
        let fault = (self.random.random_range(0..100) < self.faults).then(|| match self.random.random_range(0..7) {
            0 => Fault::Unreached,
            1 => Fault::Lost,
            2 => Fault::TimedOut,
            3 => Fault::Status(429, Some(2000)),
            4 => Fault::Status(404, None),
            5 => Fault::Malformed,
            _ => Fault::Status(500, None),
        });
        if let Job::Delete(deletion) = &job {
            self.asked_to_delete.push(deletion.name.clone());
            self.record.retain(|session, _| !deletion.seats.contains(session));
            if deletion.was_claimed {
                self.record.insert(deletion.name.clone(), false);
            }
        }
        let answer = self.answer(&job, fault);
        let done_ms = self.now_ms + took_ms;
        self.running.push(Running {
            done_ms,
            ticket,
            job,
            answer,
        });
    }

    fn answer(&mut self, job: &Job, fault: Option<Fault>) -> Answer {
        match job {
            Job::Load => {
                let known = self.record.iter().map(|(name, claimed)| Known {
                    name: name.clone(),
                    claimed: *claimed,
                    age_ms: self.age_ms,
                });
                Answer::Loaded(fault.is_none().then(|| known.collect()))
            }
            Job::Check => Answer::Checked(fault.map_or(Ok(true), Err)),
            Job::Create(_) => match self.refuse_creation.take().or(fault) {
                Some(fault) => Answer::Created(Err(fault)),
                None => {
                    self.last += 1;
                    let name = SessionName::new(&format!("x{:x}", self.last)).unwrap();
                    let never = self.random.random_range(0..100) < self.faults;
                    let ready_ms = match never {
                        true => u64::MAX,
                        false => self.now_ms + self.random.random_range(0..20_000),
                    };
                    let deleted = false;
                    self.cloud.insert(name.clone(), Item { deleted, ready_ms });
                    let on_record = !self.record_fails && self.random.random_range(0..100) >= self.faults / 4;
                    Answer::Created(Ok(Made { name, on_record }))
                }
            },
            Job::Poll(name) => Answer::Polled(match (fault, self.cloud.get(name)) {
                // A session that its provider shows as gone is gone.
                (Some(Fault::Status(404, _)), Some(_)) => {
                    self.end(name);
                    Err(Fault::Status(404, None))
                }
                (Some(fault), _) => Err(fault),
                (None, Some(item)) if !item.deleted => Ok(Seen {
                    progress: "Seeking (1)".into(),
                    state: match item.ready_ms <= self.now_ms {
                        true => State::Ready(Some("203.0.113.10:30004".parse().unwrap())),
                        false => State::Waiting,
                    },
                }),
                (None, _) => Err(Fault::Status(410, None)),
            }),
            Job::Delete(Deletion { name, .. }) => {
                let fault = fault.filter(|fault| !fault.is_gone());
                // What is lost or late may have been done.
                if !matches!(fault, Some(Fault::Status(..) | Fault::Unreached)) {
                    self.end(name);
                }
                Answer::Deleted(fault.map_or(Ok(()), Err))
            }
            Job::Store(_) => Answer::Stored(fault.is_none()),
        }
    }

    fn end(&mut self, name: &SessionName) {
        if let Some(item) = self.cloud.get_mut(name) {
            item.deleted = true;
        }
    }

    fn finish_jobs(&mut self) {
        let now_ms = self.now_ms;
        while let Some(at) = self.running.iter().position(|running| running.done_ms <= now_ms) {
            let running = self.running.swap_remove(at);
            match (&running.job, &running.answer) {
                // What could not be recorded must be deleted all the same, so it is watched like the rest.
                (_, Answer::Created(Ok(made))) => {
                    self.record.insert(made.name.clone(), false);
                }
                (Job::Delete(deletion), Answer::Deleted(Ok(()))) => {
                    self.record.remove(&deletion.name);
                }
                (Job::Store(Store::Claimed(session)), Answer::Stored(true)) => {
                    self.record.insert(session.clone(), true);
                }
                (Job::Store(Store::Released(session)), Answer::Stored(true)) => {
                    self.record.remove(session);
                }
                _ => {}
            }
            self.scheduler.answered(running.ticket, running.answer, now_ms);
            self.settle();
        }
    }

    fn act(&mut self) {
        let now_ms = self.now_ms;
        let due: Vec<RequestId> = self
            .players
            .iter()
            .filter(|(_, player)| player.next_ms().is_some_and(|due_ms| due_ms <= now_ms))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let player = self.players.get_mut(&id).unwrap();
            let session = player.session.clone();
            if player.cancel_ms.is_some_and(|cancel_ms| cancel_ms <= now_ms) {
                player.over = true;
                self.scheduler.cancel(id, now_ms);
            } else if let Some(session) = session {
                player.over = true;
                let release_ms = player.release_ms.unwrap_or(u64::MAX);
                self.playing.insert(session.clone(), release_ms);
                self.scheduler.claimed(&session, now_ms);
            }
            self.settle();
        }
        let due: Vec<SessionName> = self
            .playing
            .iter()
            .filter(|(_, release_ms)| **release_ms <= now_ms)
            .map(|(session, _)| session.clone())
            .collect();
        for session in due {
            self.playing.remove(&session);
            self.released.insert(session.clone());
            self.scheduler.released(&session, now_ms);
            self.settle();
        }
    }

    fn on_event(&mut self, event: Event) {
        let seed = self.seed;
        match event {
            Event::Accepted(id, session) => {
                let player = self.players.get_mut(&id).unwrap();
                assert!(!player.over && player.session.is_none(), "seed {seed:#x}: {player:?}");
                player.session = Some(session);
            }
            Event::Progress(id, _) => {
                let player = &self.players[&id];
                assert!(
                    !player.over && !player.ready && player.session.is_some(),
                    "seed {seed:#x}: {player:?}"
                );
            }
            Event::Ready(id, placement) => {
                let now_ms = self.now_ms;
                let player = self.players.get_mut(&id).unwrap();
                assert!(!player.over && !player.ready, "seed {seed:#x}: {player:?}");
                assert_eq!(player.session.as_ref(), Some(&placement.session));
                player.ready = true;
                player.claim_ms = player.claim_ms.map(|after_ms| now_ms + after_ms);
                player.release_ms = player.release_ms.map(|after_ms| now_ms + 62_000 + after_ms);
            }
            Event::Failed(id, _) => {
                let player = self.players.get_mut(&id).unwrap();
                assert!(!player.over && !player.ready, "seed {seed:#x}: {player:?}");
                player.over = true;
            }
            Event::Ended(session) => {
                self.playing.remove(&session);
                for player in self.players.values_mut() {
                    player.over |= player.session.as_ref() == Some(&session);
                }
            }
            Event::Claimed(_) => {}
            Event::Noted(note) => self.noted.push(note),
            other => panic!("{other:?}"),
        }
    }

    /// The process ends in the middle of everything, and another begins.
    fn crash(&mut self) {
        for running in std::mem::take(&mut self.running) {
            // Whose answer nobody read: the one thing that can be lost.
            if let Answer::Created(Ok(made)) = running.answer {
                self.cloud.remove(&made.name);
            }
        }
        self.players.clear();
        self.now_ms += 5000;
        self.calls.clear();
        self.scheduler = Scheduler::new(self.plan.clone());
        // Its clock goes on, so that one world has one time.
        self.settle();
        // What was released and not yet begun to be deleted is for others to say again.
        for session in self.released.clone() {
            if self.record.get(&session) == Some(&true) {
                self.scheduler.released(&session, self.now_ms);
            }
        }
    }

    /// Something that an earlier process or another one created.
    fn add(&mut self, deployment: &str, seats: &[&str]) {
        let name = SessionName::new(deployment).unwrap();
        let (deleted, ready_ms) = (false, 0);
        self.record.insert(name.clone(), false);
        self.cloud.insert(name, Item { deleted, ready_ms });
        for seat in seats {
            self.record.insert(SessionName::new(seat).unwrap(), true);
        }
    }

    fn deleted(&self, name: &str) -> bool {
        self.cloud[&SessionName::new(name).unwrap()].deleted
    }

    fn on_record(&self) -> Vec<String> {
        self.record.keys().map(ToString::to_string).collect()
    }

    fn check_pace(&self) {
        for create in [true, false] {
            let limit = if create { 40 } else { 21 };
            let times: Vec<u64> = self
                .calls
                .iter()
                .filter(|call| call.1 == create)
                .map(|call| call.0)
                .collect();
            for (at, start_ms) in times.iter().enumerate() {
                let within = times[at..].iter().take_while(|time| **time < start_ms + 1000).count();
                assert!(
                    within <= limit,
                    "seed {:#x}: {within} calls in the second from {start_ms}",
                    self.seed
                );
            }
        }
    }

    fn assert_nothing_left(&self) {
        let seed = self.seed;
        let left: Vec<&SessionName> = self
            .cloud
            .iter()
            .filter(|(_, item)| !item.deleted)
            .map(|(name, _)| name)
            .collect();
        assert!(left.is_empty(), "seed {seed:#x}: not deleted: {left:?}");
        assert!(self.record.is_empty(), "seed {seed:#x}: on record: {:?}", self.record);
        let scheduler = &self.scheduler;
        assert!(
            scheduler.instances.is_empty(),
            "seed {seed:#x}: {:?}",
            scheduler.instances
        );
        assert!(scheduler.requests.is_empty() && scheduler.sessions.is_empty() && scheduler.names.is_empty());
        assert!(scheduler.timers.is_empty() && scheduler.open.is_empty());
        assert_eq!(scheduler.under_way, 0);
        let unanswered = self
            .players
            .values()
            .filter(|player| !player.over && !player.ready)
            .count();
        assert_eq!(unanswered, 0, "seed {seed:#x}");
    }
}

impl Player {
    /// When it does something by itself.
    fn next_ms(&self) -> Option<u64> {
        if self.over {
            return None;
        }
        self.cancel_ms
            .into_iter()
            .chain(self.claim_ms.filter(|_| self.ready))
            .min()
    }
}
