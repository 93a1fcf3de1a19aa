//! NATS with JetStream as the broker.
//!
//! Every command that may change something is a message in one stream, the *log*, and every node folds the same log into
//! the same state (`fold`): what becomes of a command is decided by its place in the log, in one step for all that it
//! touches, and its author learns the reply when it folds its own message. Commands that only read are answered from the
//! state, after it is known to have all that was in the log when they were asked. Leases are entries too, and the log's
//! clock is the broker's: the time at which each message came.
//!
//! So that the log does not grow for ever, now and then one node writes the whole state into a second stream, in parts,
//! and then says so in the log; then everything before that is purged. A node that comes reads the last whole snapshot and
//! what follows it.
//!
//! Owns: how it is reached, and which part of an engine is which subscription.
//! Never: shows anything of its asynchronous runtime outside of its threads.

mod bytes;
mod connect;
mod entry;
mod fold;
mod follow;
mod parts;
mod replica;
mod snapshots;
mod traffic;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use tokio::runtime::{Handle, Runtime};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Commands, Engine, Epoch, Inbox, Lease, Nodes, Publisher, Subscriber, Trouble};
use connect::Target;
use replica::Replica;

/// Entries of the log after which one node writes a snapshot, see [`NatsOptions::snapshot_after`].
pub const SNAPSHOT_AFTER: u32 = 20_000;

/// Where NATS is, and who we are to it.
#[derive(Clone, Default)]
pub struct NatsOptions {
    /// One server's URL, or several separated by commas. May hold credentials.
    pub url: String,
    /// User name; empty: none.
    pub user: String,
    /// Password. A secret.
    pub password: String,
    /// Token; empty: none. A secret.
    pub token: String,
    /// Credentials file.
    pub creds: Option<PathBuf>,
    /// PEM file of the authorities that servers are checked against; None: those that the operating system trusts.
    pub ca: Option<PathBuf>,
    /// Whether this node has a channel of its own: in a cluster with shared state.
    pub own_channel: bool,
    /// Entries of the log after which a snapshot is written; 0: [`SNAPSHOT_AFTER`]. Many bytes in few entries make it earlier.
    pub snapshot_after: u32,
    /// The largest message that is published, in bytes: a server that takes less is of no use.
    pub message_bytes: usize,
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("NatsOptions");
        shown.field("user", &self.user).field("creds", &self.creds);
        shown.field("ca", &self.ca).finish_non_exhaustive()
    }
}

/// NATS as an engine.
#[derive(Debug)]
pub struct Nats {
    core: Arc<Core>,
}

/// What its parts share.
#[derive(Debug)]
struct Core {
    target: Target,
    own_channel: bool,
    snapshot_after: u32,
    replica: Arc<Replica>,
    /// Where the log is folded: a burst of entries must not hold up traffic.
    state: Driver,
    traffic: Driver,
    /// Counts the connections that run commands.
    lines: AtomicU64,
}

impl Nats {
    /// Makes the runtimes, and opens nothing but their descriptors. So this comes before the loops have descriptor tables of
    /// their own; threads and connections come with the first parts.
    ///
    /// # Errors
    /// A URL that is none, files that cannot be read, descriptors that cannot be had.
    pub fn new(options: &NatsOptions, nodes: Arc<Nodes>) -> io::Result<Self> {
        let snapshot_after = match options.snapshot_after {
            0 => SNAPSHOT_AFTER,
            after => after,
        };
        let core = Core {
            target: Target::new(options)?,
            own_channel: options.own_channel,
            snapshot_after,
            replica: Arc::new(Replica::new(nodes)),
            state: Driver::new("nats-state")?,
            traffic: Driver::new("nats-traffic")?,
            lines: AtomicU64::new(0),
        };
        Ok(Self { core: Arc::new(core) })
    }
}

impl Engine for Nats {
    fn lease(&self) -> Result<Box<dyn Lease>, Trouble> {
        Ok(Box::new(parts::NatsLease::new(&self.core)?))
    }

    fn commands(&self) -> Result<Box<dyn Commands>, Trouble> {
        let line = self.core.lines.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Box::new(parts::NatsCommands::new(&self.core, line)?))
    }

    fn inbox(&self, _epoch: Epoch, after: Option<&str>) -> Result<Box<dyn Inbox>, Trouble> {
        Ok(Box::new(parts::NatsInbox::new(&self.core, after)?))
    }

    fn publisher(&self) -> Result<Box<dyn Publisher>, Trouble> {
        Ok(Box::new(traffic::NatsPublisher::new(&self.core)?))
    }

    fn subscriber(&self) -> Result<Box<dyn Subscriber>, Trouble> {
        Ok(Box::new(traffic::NatsSubscriber::new(&self.core)?))
    }
}

/// A runtime and the thread that drives it, from its first use until this is dropped.
#[derive(Debug)]
struct Driver {
    name: &'static str,
    handle: Handle,
    idle: Mutex<Option<Runtime>>,
    stop: Arc<Notify>,
}

impl Driver {
    fn new(name: &'static str) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(1)
            .build()?;
        Ok(Self {
            name,
            handle: runtime.handle().clone(),
            idle: Mutex::new(Some(runtime)),
            stop: Arc::default(),
        })
    }

    /// Waits for work that the thread does.
    fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, Trouble> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = idle.take() {
            let stop = self.stop.clone();
            let thread = std::thread::Builder::new().name(self.name.to_owned());
            let spawned = thread.spawn(move || {
                runtime.block_on(stop.notified());
                // A name that is being looked up is not waited for.
                runtime.shutdown_background();
            });
            spawned.map_err(|error| Trouble::Lost(error.to_string()))?;
        }
        drop(idle);
        Ok(self.handle.block_on(work))
    }

    /// As [`Driver::run`], a given time at most; None: it took longer.
    fn run_within<T>(&self, within: Duration, work: impl Future<Output = T>) -> Result<Option<T>, Trouble> {
        self.run(async { timeout(within, work).await.ok() })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

fn lost(what: &str, error: impl fmt::Display) -> Trouble {
    Trouble::Lost(format!("NATS: {what}: {error}"))
}
