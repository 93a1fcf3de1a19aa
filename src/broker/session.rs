//! One time of being connected to the broker: from the lease, or without one from the first part, to the loss of any.
//!
//! Owns: whether it still holds, and which commands are under way in it.
//! Never: reconnects.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::figures::{Figures, count};
use super::{Epoch, Routes, Trouble};
use crate::ids::CommandId;
use crate::message::cluster::{Command, Event, Reply};

/// Shared by the thread that watches over it and those that work in it.
#[derive(Debug)]
pub(super) struct Session {
    /// Which one it is.
    pub(super) number: u64,
    /// The epoch; None: the nodes share no state, and there is no lease.
    pub(super) epoch: Option<Epoch>,
    /// Ready for ever once it is over: what threads of it wait for besides their work.
    pub(super) ended: Receiver<Infallible>,
    /// How far the inbox was read.
    pub(super) place: Mutex<Option<String>>,
    began: Instant,
    /// By this node's clock, in microseconds after `began`.
    lease_until_us: AtomicU64,
    over: AtomicBool,
    /// The lease is to be given back.
    release: AtomicBool,
    end: Mutex<Option<Sender<Infallible>>>,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    ids: VecDeque<CommandId>,
    /// The loops were told that the node is down.
    closed: bool,
}

impl Session {
    pub(super) fn new(number: u64, lease: Option<(Epoch, Instant)>) -> Self {
        let (end, ended) = bounded(0);
        let session = Self {
            number,
            epoch: lease.map(|(epoch, _)| epoch),
            ended,
            place: Mutex::default(),
            began: Instant::now(),
            lease_until_us: AtomicU64::new(u64::MAX),
            over: AtomicBool::default(),
            release: AtomicBool::default(),
            end: Mutex::new(Some(end)),
            under_way: Mutex::default(),
        };
        if let Some((_, until)) = lease {
            session.extend_lease(until);
        }
        session
    }

    /// Whether anything may be done in it. Asked before each thing: a process that was stopped notices here, not when others
    /// have told it.
    pub(super) fn holds(&self) -> bool {
        !self.is_over() && self.lease_until().is_none_or(|until| Instant::now() < until)
    }

    /// Somebody has ended it.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// When the lease runs out, if there is one.
    pub(super) fn lease_until(&self) -> Option<Instant> {
        let until = self.lease_until_us.load(Ordering::Acquire);
        (until != u64::MAX).then(|| self.began + Duration::from_micros(until))
    }

    pub(super) fn extend_lease(&self, until: Instant) {
        let until = until.saturating_duration_since(self.began).as_micros() as u64;
        self.lease_until_us.store(until, Ordering::Release);
    }

    /// Ends it: from here on nothing more is begun.
    pub(super) fn finish(&self, release: bool) {
        self.release.store(release, Ordering::Release);
        self.over.store(true, Ordering::Release);
        lock(&self.end).take();
    }

    /// It ended because the server stops: the others need not wait for the lease to run out.
    pub(super) fn is_released(&self) -> bool {
        self.release.load(Ordering::Acquire)
    }

    /// These are about to be run. On failure they have been answered, or [`Session::close`] will do it.
    ///
    /// # Errors
    /// They must not be: it does not hold any more.
    pub(super) fn begin(&self, batch: &[Command], routes: &Routes, figures: &Figures) -> Result<(), Trouble> {
        let ids = batch.iter().map(|command| command.id);
        let mut under_way = lock(&self.under_way);
        if under_way.closed {
            drop(under_way);
            ids.for_each(|id| lose(id, routes, figures));
            return Err(Trouble::Lapsed);
        }
        under_way.ids.extend(ids);
        drop(under_way);
        if self.holds() { Ok(()) } else { Err(Trouble::Lapsed) }
    }

    /// A reply has come. Not told if the command was answered as lost before.
    pub(super) fn reply(&self, id: CommandId, reply: Reply, routes: &Routes) {
        let mut under_way = lock(&self.under_way);
        if let Some(at) = under_way.ids.iter().position(|waiting| *waiting == id) {
            under_way.ids.remove(at);
            // Under the lock: after the word that the node is down nothing is answered but by `Lost`.
            routes.tell(id.loop_id(), Event::Replied { id, reply });
        }
    }

    /// Whatever is under way and has no reply is lost.
    pub(super) fn lose_rest(&self, routes: &Routes, figures: &Figures) {
        let rest = std::mem::take(&mut lock(&self.under_way).ids);
        rest.into_iter().for_each(|id| lose(id, routes, figures));
    }

    /// The loops were told that the node is down: what is under way is answered, and what comes late will be.
    pub(super) fn close(&self, routes: &Routes, figures: &Figures) {
        lock(&self.under_way).closed = true;
        self.lose_rest(routes, figures);
    }
}

/// Answers a command that was lost.
pub(super) fn lose(id: CommandId, routes: &Routes, figures: &Figures) {
    count(&figures.commands_lost, 1);
    let reply = Reply::Lost;
    routes.tell(id.loop_id(), Event::Replied { id, reply });
}

/// What a thread that failed left behind is whole: nobody changes more than one thing under these locks.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
