//! The record of sessions in NATS: `unclaimed_sessions` and `active_connections`, which other programs read as well.
//!
//! Owns: the way from a provider's thread, which waits, to the thread of the connection.
//! Never: waits longer than a few seconds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::kv::{Operation, Store};
use crossbeam_channel::{Sender, bounded};
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::Common;
use super::objects::{Buckets, Fault, Objects};
use super::sessions::{Deletions, erase, purge};
use crate::message::game_server::SessionName;
use crate::provider::store::{SessionStore, StoreError, Stored};

/// Jobs that wait for the thread.
const JOBS_MAX: usize = 1024;
/// A change may take this long, also if there is no connection yet.
const CHANGE_WITHIN: Duration = Duration::from_secs(5);
/// Reading everything may take this long.
const READ_WITHIN: Duration = Duration::from_secs(15);
/// Entries that are asked for at a time.
const READ_AT_ONCE: usize = 64;
/// How much longer the caller waits than the thread, which then is stuck.
const GRACE: Duration = Duration::from_secs(1);

/// Sessions on record in NATS. Its calls wait for the answer, so no loop may make them.
#[derive(Clone, Debug)]
pub struct NatsStore {
    jobs: mpsc::Sender<Job>,
}

/// The thread's end.
pub(super) type Jobs = mpsc::Receiver<Job>;

/// What is to be done, and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    change: Change,
    answer: Sender<Result<Vec<Stored>, StoreError>>,
}

#[derive(Debug)]
enum Change {
    Created(SessionName),
    Claimed(SessionName),
    Deleted(SessionName),
    /// None: everything is read.
    None,
}

impl NatsStore {
    pub(super) fn new() -> (Self, Jobs) {
        let (jobs, receiver) = mpsc::channel(JOBS_MAX);
        (Self { jobs }, receiver)
    }

    fn call(&self, change: Change) -> Result<Vec<Stored>, StoreError> {
        let within = GRACE + within(&change);
        let (answer, answered) = bounded(1);
        let fault = |text: &str| StoreError(format!("NATS: {text}"));
        self.jobs
            .try_send(Job { change, answer })
            .map_err(|_| fault("the thread is busy or has ended"))?;
        let answer = answered.recv_timeout(within);
        answer.map_err(|_| fault("no answer in time"))?
    }
}

impl SessionStore for NatsStore {
    fn created(&self, session: &SessionName) -> Result<(), StoreError> {
        self.call(Change::Created(session.clone())).map(drop)
    }

    fn claimed(&self, session: &SessionName) -> Result<(), StoreError> {
        self.call(Change::Claimed(session.clone())).map(drop)
    }

    fn deleted(&self, session: &SessionName) -> Result<(), StoreError> {
        self.call(Change::Deleted(session.clone())).map(drop)
    }

    fn all(&self) -> Result<Vec<Stored>, StoreError> {
        self.call(Change::None)
    }

    /// Matchmakers beside this one, ours or others, use the same buckets.
    fn is_shared(&self) -> bool {
        true
    }
}

fn within(change: &Change) -> Duration {
    match change {
        Change::None => READ_WITHIN,
        Change::Created(_) | Change::Claimed(_) | Change::Deleted(_) => CHANGE_WITHIN,
    }
}

/// Runs until nobody can give it a job.
pub(super) async fn serve(common: Common, mut jobs: Jobs, deletions: Arc<Deletions>) {
    while let Some(Job { change, answer }) = jobs.recv().await {
        let (objects, deletions) = (common.objects.clone(), Arc::clone(&deletions));
        tokio::spawn(async move {
            let done = match timeout(within(&change), run(objects, &deletions, change)).await {
                Ok(done) => done.map_err(|fault| StoreError(format!("NATS: {fault}"))),
                Err(_) => Err(StoreError("NATS: no connection, or no answer in time".to_owned())),
            };
            let _ = answer.send(done);
        });
    }
}

async fn run(
    mut objects: watch::Receiver<Objects>,
    deletions: &Deletions,
    change: Change,
) -> Result<Vec<Stored>, Fault> {
    let buckets = ready(&mut objects).await?;
    match change {
        Change::Created(session) => {
            let value = session.to_string().into();
            let put = buckets.unclaimed_sessions.put(session.as_str(), value).await;
            put.map_err(|error| Fault::new("unclaimed_sessions", error))?;
        }
        Change::Claimed(session) => claim(&buckets, &session).await?,
        Change::Deleted(session) => {
            erase(&buckets.unclaimed_sessions, &session).await?;
            // Without a marker: whoever watches would take it for a player who left, and have it deleted again.
            purge(&buckets.active_connections, &session, None).await?;
            deletions.done(&session).await;
        }
        Change::None => return all(&buckets).await,
    }
    Ok(Vec::new())
}

/// Takes a session from those that wait for their player to those that have one, where the game server puts it if it writes
/// to NATS at all. One that reports over HTTP may not.
async fn claim(buckets: &Buckets, session: &SessionName) -> Result<(), Fault> {
    let Buckets {
        active_connections,
        unclaimed_sessions,
        ..
    } = buckets;
    let active = active_connections.entry(session.as_str()).await;
    let active = active.map_err(|error| Fault::new("active_connections", error))?;
    let waiting = unclaimed_sessions.get(session.as_str()).await;
    let waiting = waiting.map_err(|error| Fault::new("unclaimed_sessions", error))?;
    // One that waits no more is over, or on record. A marker: the player left already.
    if waiting.is_none() {
        return Ok(());
    }
    if active.is_none() {
        let client_id = buckets.sessions_eg2ly.get(session.as_str()).await;
        let client_id = client_id.map_err(|error| Fault::new("sessions_eg2ly", error))?;
        // Only if nobody has written there meanwhile, even if it is gone again.
        let put = active_connections.update(session.as_str(), client_id.unwrap_or_default(), 0);
        put.await.map_err(|error| Fault::new("active_connections", error))?;
    }
    erase(unclaimed_sessions, session).await
}

/// Waits until the buckets are there.
pub(super) async fn ready(objects: &mut watch::Receiver<Objects>) -> Result<Arc<Buckets>, Fault> {
    let known = objects.wait_for(|objects| !matches!(objects, Objects::Waiting)).await;
    match known.map(|objects| objects.clone()) {
        Ok(Objects::Ready(buckets)) => Ok(buckets),
        Ok(Objects::Failed | Objects::Waiting) | Err(_) => Err(Fault::new("JetStream", "not there")),
    }
}

async fn all(buckets: &Buckets) -> Result<Vec<Stored>, Fault> {
    let mut found = BTreeMap::new();
    read(&buckets.unclaimed_sessions, false, &mut found).await?;
    read(&buckets.active_connections, true, &mut found).await?;
    let stored = |(session, (claimed, since))| Stored {
        session,
        claimed,
        since,
    };
    Ok(found.into_iter().map(stored).collect())
}

async fn read(
    store: &Store,
    claimed: bool,
    found: &mut BTreeMap<SessionName, (bool, SystemTime)>,
) -> Result<(), Fault> {
    let fault = |error: &dyn fmt::Display| Fault::new(&store.name, error);
    let keys = store.keys().await.map_err(|error| fault(&error))?;
    let mut entries = keys
        .map(|key| async {
            store
                .entry(key.map_err(|error| fault(&error))?)
                .await
                .map_err(|error| fault(&error))
        })
        .buffer_unordered(READ_AT_ONCE);
    while let Some(entry) = entries.next().await {
        // None: it was deleted meanwhile.
        let Some(entry) = entry? else { continue };
        if let (Operation::Put, Some(session)) = (entry.operation, SessionName::new(&entry.key)) {
            found.insert(session, (claimed, entry.created.into()));
        }
    }
    Ok(())
}
