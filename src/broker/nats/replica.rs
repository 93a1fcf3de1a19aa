//! This node's copy of the state, and what comes out of it for the parts of the engine.
//!
//! One task folds the log into it; the parts, each on a thread of its own, wait for what they asked or for news.
//!
//! Owns: the state with its lock, what waits for entries of this node, and the news that the inbox has not read.
//! Never: speaks to NATS.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::entry::{Entry, Marker};
use super::fold::{Eye, Home, Outcome, State};
use crate::broker::{Epoch, News, NodeId, Nodes, Taken, Trouble};
use crate::ids::CommandId;
use crate::message::cluster::{Event, Reply, What};

/// News that the inbox has not read; more are given up for [`News::Gap`].
const NEWS_MAX: usize = 65_536;
/// News that were read and are kept, in case the inbox is opened once more.
const NEWS_READ: usize = 1024;
/// When a node has renewed its lease so often, it has told everything again to a broker that had lost its data.
const TOLD_AGAIN: u32 = 10;
/// A look at what may have broken without notice.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Replica {
    nodes: Arc<Nodes>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    /// When the stream was made that the state is of.
    generation: Option<i128>,
    /// The last stream that has been told all that this node knows.
    whole: Option<i128>,
    /// How often the lease was renewed in this generation.
    renewals: u32,
    /// Counts the tasks that fold; only the last one may.
    follower: u64,
    broken: Option<String>,
    own: Option<Epoch>,
    lease: Option<(u64, Answered)>,
    pending: Pending,
    news: VecDeque<(u64, News)>,
    /// The news of entries after the first and up to the second were never kept.
    missed: (u64, u64),
    /// News up to this entry are not kept any more.
    trimmed: u64,
    growth: Growth,
    /// What could not be read of a log, and since when.
    missing: Option<(Missing, Instant)>,
}

/// What a log lacks for its state to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Parts of the snapshot with this number.
    Parts(u64),
    /// Its first entries, and any snapshot.
    Beginning,
    /// A snapshot in a version that is known.
    Foreign,
}

/// What became of an entry about this node's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    Waiting,
    Taken { epoch: Epoch, first: bool },
    Renewed,
    Lapsed,
}

/// Commands that wait for the log.
#[derive(Debug, Default)]
struct Pending {
    line: u64,
    waiting: VecDeque<Waiting>,
    replies: VecDeque<(CommandId, Reply)>,
    failed: Option<Trouble>,
}

#[derive(Debug)]
pub(super) enum Waiting {
    /// The entry with this number.
    Write(CommandId, u64),
    /// To be answered when all before it are.
    Read(CommandId, What),
}

/// How the log has grown since the last snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Growth {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// Of the last snapshot, if this node wrote or read it.
    pub(super) snapshot_bytes: u64,
}

impl Replica {
    pub(super) fn new(nodes: Arc<Nodes>) -> Self {
        Self {
            nodes,
            inner: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.nodes.own()
    }

    pub(super) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all who wait, to look again.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    /// A new task is to fold: its number.
    pub(super) fn begin(&self) -> u64 {
        let mut inner = self.lock();
        inner.follower += 1;
        inner.broken = None;
        inner.pending = Pending::default();
        inner.follower
    }

    /// When the stream was made that is being followed; None: none is.
    pub(super) fn followed(&self) -> Option<i128> {
        let inner = self.lock();
        inner.generation.filter(|_| inner.broken.is_none())
    }

    /// When the stream was made that the state is of, and the last entry that it has.
    pub(super) fn folded(&self) -> (Option<i128>, u64) {
        let inner = self.lock();
        (inner.generation, inner.state.sequence())
    }

    /// The state begins anew, from a snapshot or from nothing.
    pub(super) fn load(&self, follower: u64, generation: i128, state: State, snapshot_bytes: u64) {
        let mut inner = self.lock();
        if inner.follower != follower {
            return;
        }
        if inner.generation.is_some() {
            let (after, sequence) = (inner.state.sequence(), state.sequence());
            if inner.generation == Some(generation) {
                inner.miss(after, sequence);
            } else {
                inner.news.clear();
                inner.missed = (0, 0);
            }
            inner.news.push_back((sequence, News::Gap));
        }
        if inner.generation != Some(generation) {
            inner.renewals = 0;
            inner.trimmed = 0;
        }
        inner.generation = Some(generation);
        inner.missing = None;
        // An epoch of a stream that is gone, or one that has run out, is known by the state not having it.
        inner.state = state;
        inner.growth = Growth {
            snapshot_bytes,
            ..Growth::default()
        };
    }

    /// That cannot be read: for how long now.
    pub(super) fn misses(&self, missing: Missing) -> Duration {
        let mut inner = self.lock();
        let since = match inner.missing {
            Some((same, since)) if same == missing => since,
            _ => Instant::now(),
        };
        inner.missing = Some((missing, since));
        since.elapsed()
    }

    /// Folds one entry. Whether a snapshot would be due by `after` entries.
    ///
    /// # Errors
    /// It is not the next one, or another task folds.
    pub(super) fn fold(&self, follower: u64, sequence: u64, time: u64, payload: &[u8]) -> Result<Growth, &'static str> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if inner.follower != follower {
            return Err("another follows the log");
        }
        if inner.broken.is_some() {
            return Err("the log is not followed any more");
        }
        if sequence <= inner.state.sequence() {
            return Ok(inner.growth);
        }
        if sequence != inner.state.sequence() + 1 {
            return Err("the log was cut");
        }
        let entry = Entry::decode(payload);
        let own = inner.own.map(|epoch| (self.nodes.own(), epoch));
        let many = Cell::new(false);
        let number = |(node, epoch): Home| {
            self.nodes.number(node, epoch).unwrap_or_else(|_| {
                many.set(true);
                None
            })
        };
        let missed = inner.missed;
        let eye = Eye {
            own,
            number: &number,
            missed,
        };
        let mut told = Vec::new();
        let outcome = inner.state.apply(sequence, time, entry.as_ref(), &eye, &mut told);
        inner
            .news
            .extend(told.into_iter().map(|event| (sequence, News::Happened(event))));
        inner.growth.entries += 1;
        inner.growth.bytes += payload.len() as u64;
        match (entry, outcome) {
            (None, _) => tracing::warn!("NATS: an entry of the log cannot be read"),
            (Some(Entry::Snapshot(Marker { .. })), _) => {
                inner.growth.entries = 0;
                inner.growth.bytes = 0;
            }
            (Some(Entry::Act(act)), outcome) => {
                if own == Some((act.node, act.epoch)) && act.line == inner.pending.line {
                    inner.pending.on_outcome(&inner.state, act.number, outcome, &eye);
                }
            }
            (Some(Entry::Take { node, nonce, .. }), Outcome::Taken { epoch, first }) => {
                if node == self.nodes.own() && inner.asks(nonce) {
                    inner.lease = Some((nonce, Answered::Taken { epoch, first }));
                    inner.own = Some(epoch);
                    self.nodes.set_epoch(epoch);
                    // What an earlier epoch was told is of no use but for those who are gone, and for matches: who was met
                    // before it ran out must not ask again. One that was told already is known by its ticket.
                    inner
                        .news
                        .retain(|(_, news)| matches!(news, News::Happened(Event::NodeGone(_) | Event::Matched { .. })));
                    inner.trimmed = 0;
                    inner.missed = (0, 0);
                }
            }
            (Some(Entry::Renew { nonce, .. } | Entry::Release { nonce, .. }), outcome) => {
                if inner.asks(nonce) {
                    let answered = match outcome {
                        Outcome::Renewed => Answered::Renewed,
                        _ => Answered::Lapsed,
                    };
                    inner.lease = Some((nonce, answered));
                }
            }
            (Some(Entry::Take { nonce, .. }), _) => {
                if inner.asks(nonce) {
                    inner.lease = Some((nonce, Answered::Lapsed));
                }
            }
        }
        if inner.news.len() > NEWS_MAX {
            inner.shorten(sequence);
        }
        let growth = inner.growth;
        drop(guard);
        self.changed.notify_all();
        match many.get() {
            true => Err("too many nodes were seen since this one was started"),
            false => Ok(growth),
        }
    }

    /// The task cannot fold any more.
    pub(super) fn fail(&self, follower: u64, why: &str) {
        let mut inner = self.lock();
        if inner.follower == follower {
            inner.broken.get_or_insert_with(|| format!("NATS: {why}"));
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// The broker has lost the log: whoever folds is of no use.
    pub(super) fn emptied(&self) {
        self.lock().broken = Some("NATS: the broker has lost its data".to_owned());
        self.changed.notify_all();
    }

    /// The last entry, and the state up to it.
    pub(super) fn encode(&self) -> (u64, Vec<u8>) {
        let inner = self.lock();
        (inner.state.sequence(), inner.state.encode())
    }

    /// A snapshot has that size.
    pub(super) fn wrote_snapshot(&self, bytes: u64) {
        self.lock().growth.snapshot_bytes = bytes;
    }

    /// Whether this node is the one that does what one has to do for all.
    pub(super) fn is_first(&self) -> bool {
        self.lock().state.first_node() == Some(self.nodes.own())
    }

    /// Waits until `look` finds something. `check` says whether waiting is of use; it is asked under the lock.
    fn wait<T>(
        &self,
        within: Duration,
        check: &dyn Fn() -> Result<(), Trouble>,
        mut look: impl FnMut(&mut Inner) -> Option<T>,
    ) -> Result<Option<T>, Trouble> {
        let until = Instant::now() + within;
        let mut inner = self.lock();
        loop {
            if let Some(found) = look(&mut inner) {
                return Ok(Some(found));
            }
            if let Some(why) = &inner.broken {
                return Err(Trouble::Lost(why.clone()));
            }
            check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let waited = self.changed.wait_timeout(inner, left.min(LOOK_EVERY));
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until everything up to that entry is folded; whether it was in time.
    pub(super) fn reach(
        &self,
        sequence: u64,
        within: Duration,
        check: &dyn Fn() -> Result<(), Trouble>,
    ) -> Result<bool, Trouble> {
        let reached = self.wait(within, check, |inner| {
            (inner.state.sequence() >= sequence).then_some(())
        })?;
        Ok(reached.is_some())
    }

    /// An entry about the lease with that nonce is about to be published.
    pub(super) fn ask_lease(&self, nonce: u64) {
        self.lock().lease = Some((nonce, Answered::Waiting));
    }

    /// What became of it; None: nothing yet.
    pub(super) fn lease_answer(
        &self,
        nonce: u64,
        within: Duration,
        check: &dyn Fn() -> Result<(), Trouble>,
    ) -> Result<Option<Answered>, Trouble> {
        self.wait(within, check, |inner| match inner.lease {
            Some((asked, answered)) if asked == nonce && answered != Answered::Waiting => Some(answered),
            _ => None,
        })
    }

    /// A lease was taken.
    pub(super) fn taken(&self, epoch: Epoch, first: bool) -> Taken {
        let mut inner = self.lock();
        let empty = match inner.whole {
            // A node that has just begun knows nothing that could be lost.
            None => {
                inner.whole = inner.generation;
                first
            }
            whole => whole != inner.generation,
        };
        Taken { epoch, empty }
    }

    /// The lease was renewed. Nodes that are alive, and sessions on them.
    pub(super) fn renewed(&self) -> (usize, usize) {
        let mut inner = self.lock();
        inner.renewals = inner.renewals.saturating_add(1);
        if inner.renewals >= TOLD_AGAIN {
            inner.whole = inner.generation;
        }
        inner.state.census()
    }

    /// The last epoch that this node had, if only by the log.
    pub(super) fn last_epoch(&self) -> Epoch {
        let inner = self.lock();
        let known = inner.own.max(inner.state.epoch_of(self.nodes.own()));
        known.unwrap_or(Epoch(0))
    }

    /// Which task folds.
    pub(super) fn follower(&self) -> u64 {
        self.lock().follower
    }

    /// Commands of that line are about to be published. Whether the broker lost its data and was not told all again.
    ///
    /// # Errors
    /// The epoch is over.
    pub(super) fn ask(&self, epoch: Epoch, line: u64, waiting: VecDeque<Waiting>) -> Result<bool, Trouble> {
        let mut inner = self.lock();
        if let Some(why) = &inner.broken {
            return Err(Trouble::Lost(why.clone()));
        }
        if inner.own != Some(epoch) || !inner.state.is_alive((self.nodes.own(), epoch)) {
            return Err(Trouble::Lapsed);
        }
        inner.pending = Pending {
            line,
            waiting,
            ..Pending::default()
        };
        Ok(inner.whole != inner.generation)
    }

    /// Replies that are there; waits for one. None: nothing came in time.
    pub(super) fn replies(
        &self,
        within: Duration,
        check: &dyn Fn() -> Result<(), Trouble>,
    ) -> Result<Option<VecDeque<(CommandId, Reply)>>, Trouble> {
        let found = self.wait(within, check, |inner| {
            if !inner.pending.replies.is_empty() {
                return Some(Ok(std::mem::take(&mut inner.pending.replies)));
            }
            inner.pending.failed.take().map(Err)
        })?;
        found.transpose()
    }

    /// Answers commands that only read.
    pub(super) fn read(&self, whats: &mut dyn Iterator<Item = &What>) -> Vec<Reply> {
        let inner = self.lock();
        let number = |(node, epoch): Home| self.nodes.number(node, epoch).unwrap_or(None);
        let own = inner.own.map(|epoch| (self.nodes.own(), epoch));
        let eye = Eye {
            own,
            number: &number,
            missed: inner.missed,
        };
        whats.map(|what| inner.state.read(what, &eye)).collect()
    }

    /// News after that entry, from the task that folds with that number; waits for some. The entry up to which they are.
    ///
    /// # Errors
    /// Another task folds: the news may not follow those from before.
    pub(super) fn news(&self, follower: u64, after: u64, within: Duration) -> Result<(u64, Vec<News>), Trouble> {
        let found = self.wait(within, &|| Ok(()), |inner| match inner.follower == follower {
            true => inner.news_after(after).map(Ok),
            false => Some(Err(Trouble::Lost("NATS: the log is followed anew".to_owned()))),
        })?;
        found.unwrap_or_else(|| Ok((after, Vec::new())))
    }
}

impl Inner {
    fn asks(&self, nonce: u64) -> bool {
        self.lease.is_some_and(|(asked, _)| asked == nonce)
    }

    /// Too much waits to be read: what a look at the rosters shows is let go, and the rest too if that is too much.
    fn shorten(&mut self, sequence: u64) {
        self.news.retain(|(_, news)| match news {
            News::Happened(Event::Matched { .. } | Event::Replaced(_) | Event::NodeGone(_)) => true,
            News::Happened(_) | News::Gap => false,
        });
        if self.news.len() > NEWS_MAX / 2 {
            let first = self.news.front().map_or(sequence, |(first, _)| *first);
            self.news.clear();
            self.miss(first.saturating_sub(1), sequence);
        }
        self.news.push_back((sequence, News::Gap));
    }

    fn miss(&mut self, after: u64, until: u64) {
        let (earlier, later) = self.missed;
        self.missed = match later {
            0 => (after, until),
            _ => (earlier.min(after), later.max(until)),
        };
    }

    fn news_after(&mut self, after: u64) -> Option<(u64, Vec<News>)> {
        let last = self.news.back()?.0;
        if last <= after {
            return None;
        }
        let first = self.news.partition_point(|(sequence, _)| *sequence <= after);
        let missed = (after < self.trimmed).then_some(News::Gap);
        let rest = self.news.iter().skip(first).map(|(_, news)| news.clone());
        let news = missed.into_iter().chain(rest).collect();
        while self.news.len() > NEWS_READ
            && let Some((sequence, _)) = self.news.pop_front()
        {
            self.trimmed = sequence;
        }
        Some((last, news))
    }
}

impl Pending {
    fn on_outcome(&mut self, state: &State, number: u64, outcome: Outcome, eye: &Eye<'_>) {
        let reply = match outcome {
            Outcome::Replied(Some(reply)) => reply,
            Outcome::Lapsed => {
                self.failed.get_or_insert(Trouble::Lapsed);
                return;
            }
            _ => {
                let why = "NATS: a command came after others that were lost".to_owned();
                self.failed.get_or_insert(Trouble::Lost(why));
                return;
            }
        };
        match self.waiting.front() {
            Some(Waiting::Write(id, asked)) if *asked == number => self.replies.push_back((*id, reply)),
            _ => return,
        }
        self.waiting.pop_front();
        while let Some(Waiting::Read(id, what)) = self.waiting.front() {
            self.replies.push_back((*id, state.read(what, eye)));
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
