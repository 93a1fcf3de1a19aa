//! What the broker's threads tell of themselves.
//!
//! Owns: these numbers, and whether the node is up. Everybody may read them; each is written by one thread, or is a sum.
//! Never: decides anything by them, but that nothing is handed over while the node is down.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Fleet;

/// See [`Readings`].
#[derive(Debug)]
pub struct Figures {
    began: Instant,
    up: AtomicBool,
    /// When the renewal was sent that the lease counts from, in microseconds after `began`; 0: there is none.
    renewed_us: AtomicU64,
    queue_bytes: AtomicUsize,
    round_trip_us: AtomicU64,
    nodes: AtomicU64,
    peers: AtomicU64,
    /// Entries of the broker's data, beside the messages of `strange`.
    strange_entries: AtomicU64,
    pub(super) commands: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) commands_lost: AtomicU64,
    pub(super) published: AtomicU64,
    pub(super) published_bytes: AtomicU64,
    pub(super) heard: AtomicU64,
    pub(super) heard_bytes: AtomicU64,
    pub(super) unheard: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) strange: AtomicU64,
    pub(super) foreign: AtomicU64,
    pub(super) refused_full: AtomicU64,
    pub(super) refused_down: AtomicU64,
    pub(super) refused_behind: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) reconnects: AtomicU64,
}

/// What it all was at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// Commands and traffic are taken.
    pub up: bool,
    /// Milliseconds since the renewal was sent that the lease counts from; None: there is no lease.
    pub lease_age_ms: Option<u64>,
    /// Microseconds that the last renewal took.
    pub round_trip_us: u64,
    /// Nodes that were alive at the last renewal, this one included.
    pub nodes: u64,
    /// Peers that were registered on them.
    pub peers: u64,
    /// Bytes that wait for the broker.
    pub queue_bytes: u64,
    /// Commands that were handed to the broker.
    pub commands: u64,
    /// In so many batches.
    pub batches: u64,
    /// Commands that were answered by `Lost`.
    pub commands_lost: u64,
    /// Messages that were published.
    pub published: u64,
    /// Their bytes.
    pub published_bytes: u64,
    /// Messages that came from other nodes.
    pub heard: u64,
    /// Their bytes.
    pub heard_bytes: u64,
    /// Messages to a node that nobody listened to.
    pub unheard: u64,
    /// Messages of other nodes that never came.
    pub gaps: u64,
    /// Messages of other nodes, and entries of the broker's data, that made no sense.
    pub strange: u64,
    /// Messages of nodes of another implementation; where nodes share their state, of any that do not.
    pub foreign: u64,
    /// Commands and traffic that were refused because too much waited.
    pub refused_full: u64,
    /// Commands and traffic that were refused because the node was down.
    pub refused_down: u64,
    /// Messages of other nodes for a loop that was too far behind.
    pub refused_behind: u64,
    /// Traffic that was handed over and not published, because the broker was lost.
    pub dropped: u64,
    /// How often the node came up after the first time.
    pub reconnects: u64,
}

/// Adds to a figure.
pub(super) fn count(figure: &AtomicU64, more: usize) {
    figure.fetch_add(more as u64, Ordering::Relaxed);
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            up: AtomicBool::default(),
            renewed_us: AtomicU64::default(),
            queue_bytes: AtomicUsize::default(),
            round_trip_us: AtomicU64::default(),
            nodes: AtomicU64::default(),
            peers: AtomicU64::default(),
            strange_entries: AtomicU64::default(),
            commands: AtomicU64::default(),
            batches: AtomicU64::default(),
            commands_lost: AtomicU64::default(),
            published: AtomicU64::default(),
            published_bytes: AtomicU64::default(),
            heard: AtomicU64::default(),
            heard_bytes: AtomicU64::default(),
            unheard: AtomicU64::default(),
            gaps: AtomicU64::default(),
            strange: AtomicU64::default(),
            foreign: AtomicU64::default(),
            refused_full: AtomicU64::default(),
            refused_down: AtomicU64::default(),
            refused_behind: AtomicU64::default(),
            dropped: AtomicU64::default(),
            reconnects: AtomicU64::default(),
        }
    }
}

impl Figures {
    /// All of them, as they are.
    pub fn read(&self) -> Readings {
        let of = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let renewed_us = of(&self.renewed_us);
        let lease_age = (renewed_us > 0).then(|| self.now_us().saturating_sub(renewed_us) / 1000);
        Readings {
            up: self.is_up(),
            lease_age_ms: lease_age,
            round_trip_us: of(&self.round_trip_us),
            nodes: of(&self.nodes),
            peers: of(&self.peers),
            queue_bytes: self.waiting() as u64,
            commands: of(&self.commands),
            batches: of(&self.batches),
            commands_lost: of(&self.commands_lost),
            published: of(&self.published),
            published_bytes: of(&self.published_bytes),
            heard: of(&self.heard),
            heard_bytes: of(&self.heard_bytes),
            unheard: of(&self.unheard),
            gaps: of(&self.gaps),
            strange: of(&self.strange) + of(&self.strange_entries),
            foreign: of(&self.foreign),
            refused_full: of(&self.refused_full),
            refused_down: of(&self.refused_down),
            refused_behind: of(&self.refused_behind),
            dropped: of(&self.dropped),
            reconnects: of(&self.reconnects),
        }
    }

    /// Commands and traffic are taken.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    pub(super) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Release);
    }

    /// The lease counts from `sent`, and it took until now to be told so.
    pub(super) fn renewed(&self, sent: Instant) {
        let sent_us = sent.saturating_duration_since(self.began).as_micros() as u64;
        self.renewed_us.store(sent_us.max(1), Ordering::Relaxed);
        let took = self.now_us().saturating_sub(sent_us);
        self.round_trip_us.store(took, Ordering::Relaxed);
    }

    /// The last renewal found that.
    pub(super) fn set_fleet(&self, fleet: &Fleet) {
        self.nodes.store(u64::from(fleet.nodes), Ordering::Relaxed);
        self.peers.store(fleet.peers, Ordering::Relaxed);
        self.strange_entries.store(fleet.strange, Ordering::Relaxed);
    }

    /// There is no lease any more.
    pub(super) fn lapsed(&self) {
        self.renewed_us.store(0, Ordering::Relaxed);
    }

    /// Makes room in the queues, which may hold `most` bytes then; false: there is none.
    pub(super) fn take(&self, bytes: usize, most: usize) -> bool {
        let within = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= most);
        let taken = self
            .queue_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        taken.is_ok()
    }

    /// So much of it was taken out of the queues.
    pub(super) fn give_back(&self, bytes: usize) {
        self.queue_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue_bytes.load(Ordering::Relaxed)
    }

    fn now_us(&self) -> u64 {
        Duration::as_micros(&self.began.elapsed()) as u64
    }
}
