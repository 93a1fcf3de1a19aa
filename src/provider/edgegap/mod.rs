//! Edgegap: game servers in the cloud, over HTTPS.
//!
//! One thread keeps the schedule, and up to four wait for calls. A call that creates something may take three times as
//! long as the others, after its player was refused: only its answer tells what is to be deleted.
//!
//! Owns: its threads, the budgets of its calls, and the life of every session that it created.
//! Never: lets a session be forgotten: it is on record before it is polled, until it is deleted.

mod api;
mod scheduler;
mod workers;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use self::api::Client;
use self::scheduler::Plan;
use self::workers::{Command, STOP_WITHIN, Threads};
use super::store::SessionStore;
use super::{Busy, GameServerProvider, Inbox, Outbox};
use crate::message::game_server::{CertDigest, Event, RequestId, Seek, SessionName};

/// Requests that the scheduling thread has not taken yet.
const SUBMITTED_MAX: usize = 4096;
/// Workers at most.
const WORKERS_MAX: u8 = 4;

/// What is asked for a player.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A session: a seat on a server that the provider chooses or starts.
    Session,
    /// A deployment: a whole server, which players share.
    Deployment,
}

/// How Edgegap is used.
#[derive(Clone)]
pub struct Settings {
    /// Where its interface is: `https://HOST`, or `http://` for tests.
    pub url: String,
    /// The whole value of `Authorization`, the word `token` included. A secret.
    pub api_key: String,
    /// PEM of the authorities that its certificate is checked against; None: those of the web.
    pub ca: Option<String>,
    /// What is asked for a player.
    pub mode: Mode,
    /// The application.
    pub app_name: String,
    /// Its version.
    pub app_version: String,
    /// The port by its name; empty: the only one of UDP, else the first by name.
    pub port_name: String,
    /// The digest of the servers' certificate, if it is the same for all.
    pub cert_digest: Option<CertDigest>,
    /// Players of one deployment. At least 1.
    pub max_players: u32,
    /// Calls under way at a time, 1 to 4.
    pub workers: u8,
    /// Sessions or deployments created a second; at least 1.
    pub creates_per_sec: u32,
    /// Other calls a second; at least 1.
    pub polls_per_sec: u32,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long a call may take.
    pub call_timeout: Duration,
    /// How long a session may take to be ready.
    pub ready_timeout: Duration,
    /// How long a ready session waits for its player.
    pub claim_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: "https://api.edgegap.com".to_owned(),
            api_key: String::new(),
            ca: None,
            mode: Mode::Session,
            app_name: String::new(),
            app_version: String::new(),
            port_name: String::new(),
            cert_digest: None,
            max_players: 1,
            workers: WORKERS_MAX,
            creates_per_sec: 40,
            polls_per_sec: 20,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(10),
            ready_timeout: Duration::from_secs(60),
            claim_timeout: Duration::from_secs(62),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        f.debug_struct("Settings")
            .field("url", &self.url)
            .field("mode", &self.mode)
            .field("app_name", &self.app_name)
            .field("app_version", &self.app_version)
            .finish_non_exhaustive()
    }
}

/// The provider.
pub struct Edgegap {
    threads: Threads,
    /// How long stopping may take.
    stop_within: Duration,
    inbox: Inbox,
}

impl Edgegap {
    /// Starts its threads, which read the record and look for the application first. Nothing is waited for.
    ///
    /// # Errors
    /// A thread that cannot be started; a URL or `ca` that cannot be used.
    pub fn start(settings: Settings, store: Arc<dyn SessionStore>, outbox: Outbox, inbox: Inbox) -> io::Result<Self> {
        let workers = settings.workers.clamp(1, WORKERS_MAX);
        let settings = Settings { workers, ..settings };
        let client = Client::new(&settings)?;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let plan = Plan {
            mode: settings.mode,
            max_players: settings.max_players.max(1),
            workers: usize::from(workers),
            creates_per_sec: settings.creates_per_sec,
            polls_per_sec: settings.polls_per_sec,
            create_ms: millis(settings.call_timeout),
            ready_ms: millis(settings.ready_timeout),
            claim_ms: millis(settings.claim_timeout),
            cert_digest: settings.cert_digest,
            shared: store.is_shared(),
        };
        let threads = workers::start(plan, client, store, outbox)?;
        Ok(Self {
            threads,
            stop_within: settings.call_timeout + STOP_WITHIN + Duration::from_millis(500),
            inbox,
        })
    }

    fn tell(&self, command: Command) {
        // Without its receiver everything has ended.
        let _ = self.threads.commands.send(command);
    }
}

impl GameServerProvider for Edgegap {
    fn submit(&mut self, id: RequestId, seek: Seek) -> Result<(), Busy> {
        if self.threads.queued.fetch_add(1, Ordering::Relaxed) >= SUBMITTED_MAX {
            self.threads.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(Busy);
        }
        let command = Command::Submit(id, seek.client_ip);
        self.threads.commands.send(command).map_err(|_| Busy)
    }

    fn cancel(&mut self, id: RequestId) {
        self.tell(Command::Cancel(id));
    }

    fn claimed(&mut self, session: &SessionName) {
        self.tell(Command::Claimed(session.clone()));
    }

    fn released(&mut self, session: &SessionName) {
        self.tell(Command::Released(session.clone()));
    }

    fn has_events(&self) -> bool {
        self.inbox.has_events()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.inbox.poll_event()
    }

    /// What is not ready is deleted, for up to two seconds, and as long as a call may take beyond that while something is
    /// being created: of that nothing is on record yet. Nothing more is told.
    fn stop(&mut self) {
        self.tell(Command::Stop);
        let end = Instant::now() + self.stop_within;
        let turn = Duration::from_millis(10);
        // The outbox is emptied meanwhile: the scheduling thread may be waiting for room in it.
        while self.threads.alive.recv_timeout(turn) == Err(RecvTimeoutError::Timeout) && Instant::now() < end {
            while self.inbox.poll_event().is_some() {}
        }
        while self.inbox.poll_event().is_some() {}
    }
}

impl Drop for Edgegap {
    fn drop(&mut self) {
        self.tell(Command::Stop);
    }
}

impl fmt::Debug for Edgegap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edgegap")
            .field("inbox", &self.inbox)
            .finish_non_exhaustive()
    }
}
