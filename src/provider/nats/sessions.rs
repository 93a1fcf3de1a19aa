//! What game servers and others say of sessions: the player came, the player left, the session is to be deleted.
//!
//! A player's leaving is told twice on purpose: to our desk at once, and to the queue of deletions, which survives us.
//! Markers of deleted keys are purged when they have been dealt with. So those that are found at the start are the players
//! who left while nobody watched, and the buckets do not grow. Only who keeps a record does so, or has sessions deleted: the
//! others share the buckets with a matchmaker that may be away, and what ended meanwhile has to wait for it.
//!
//! Owns: the watch over `active_connections`, the queue of deletions.
//! Never: deletes a session; it says that it is over.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::kv::{Entry, Operation, Store};
use async_nats::jetstream::{AckKind, Message};
use futures_util::StreamExt as _;
use tokio::time::sleep;

use super::objects::{Buckets, DELETE_PREFIX, Fault};
use crate::message::game_server::{Event, SessionName};
use crate::provider::Outbox;

/// Sessions to be deleted that are fetched at a time.
const FETCH_MAX: usize = 100;
/// How long a fetch waits for the first of them.
const FETCH_FOR: Duration = Duration::from_secs(20);
/// Unacknowledged orders to delete that are kept; the consumer allows a thousand.
const PENDING_MAX: usize = 4096;
/// Deleted sessions that are remembered, because the order to delete one may come after that was done.
const DELETED_MAX: usize = 1024;
/// By this a message that is published twice within two minutes is known.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// How far the watch has come, so that a new connection does not tell everything again.
#[derive(Debug, Default)]
pub(super) struct Seen {
    revision: u64,
}

/// Orders to delete that were told and are not acknowledged yet.
#[derive(Default)]
pub(super) struct Deletions {
    pending: Mutex<HashMap<SessionName, Message>>,
    deleted: Mutex<VecDeque<SessionName>>,
}

impl Deletions {
    /// Keeps the order until the session was deleted. Before that it comes again every half minute, and is told again.
    fn put(&self, session: SessionName, message: Message) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() < PENDING_MAX || pending.contains_key(&session) {
            pending.insert(session, message);
        }
    }

    /// Acknowledges the order to delete this session, if there was one.
    pub(super) async fn done(&self, session: &SessionName) {
        {
            let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
            deleted.push_back(session.clone());
            if deleted.len() > DELETED_MAX {
                deleted.pop_front();
            }
        }
        let message = self
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(session);
        if let Some(message) = message {
            acknowledge(&message, AckKind::Ack).await;
        }
    }
}

impl Deletions {
    fn is_done(&self, session: &SessionName) -> bool {
        let deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.contains(session)
    }
}

/// Who is told, and what becomes of sessions that a provider made.
pub(super) struct Watcher {
    pub(super) outbox: Outbox,
    /// None: the record is others', as are the deletions; even while they are away, nothing of it is touched.
    pub(super) deletions: Option<Arc<Deletions>>,
}

/// Watches until something fails, which it returns.
pub(super) async fn watch(buckets: &Buckets, watcher: &Watcher, seen: &mut Seen) -> Fault {
    let Watcher { outbox, deletions } = watcher;
    let keeps_record = deletions.is_some();
    let Some(deletions) = deletions else {
        return connections(buckets, outbox, keeps_record, seen).await;
    };
    tokio::select! {
        fault = connections(buckets, outbox, keeps_record, seen) => fault,
        fault = orders(buckets, outbox, deletions) => fault,
    }
}

/// Players who come and go.
async fn connections(buckets: &Buckets, outbox: &Outbox, keeps_record: bool, seen: &mut Seen) -> Fault {
    let what = "active_connections";
    let last = buckets
        .active_connections
        .status()
        .await
        .map(|status| status.info.state.last_sequence);
    match last {
        // Another store than before: it counts from the start.
        Ok(last) if last < seen.revision => seen.revision = 0,
        Ok(_) => {}
        Err(error) => return Fault::new(what, error),
    }
    let mut entries = match buckets.active_connections.watch_with_history(">").await {
        Ok(entries) => entries,
        Err(error) => return Fault::new(what, error),
    };
    while let Some(entry) = entries.next().await {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Fault::new(what, error),
        };
        let Some(session) = SessionName::new(&entry.key) else {
            tracing::debug!("NATS: a key of {} bytes is no session's name", entry.key.len());
            continue;
        };
        if entry.revision <= seen.revision {
            continue;
        }
        outbox.tell(match entry.operation {
            Operation::Put => Event::Claimed(session.clone()),
            Operation::Delete | Operation::Purge => Event::Ended(session.clone()),
        });
        if (keeps_record || session.is_configured())
            && let Err(fault) = on_entry(buckets, &session, &entry).await
        {
            return fault;
        }
        seen.revision = entry.revision;
    }
    Fault::new(what, "the watch has ended")
}

/// Does on the record what follows from it.
async fn on_entry(buckets: &Buckets, session: &SessionName, entry: &Entry) -> Result<(), Fault> {
    match entry.operation {
        Operation::Put => erase(&buckets.unclaimed_sessions, session).await,
        Operation::Delete | Operation::Purge => {
            if !session.is_configured() {
                order(buckets, session, entry.revision).await?;
            }
            purge(&buckets.active_connections, session, Some(entry.revision)).await
        }
    }
}

/// Has the session deleted, by us or by another who fetches such orders.
async fn order(buckets: &Buckets, session: &SessionName, revision: u64) -> Result<(), Fault> {
    let mut headers = HeaderMap::new();
    // Two matchmakers see the same player leave.
    headers.insert(MESSAGE_ID, format!("{session}.{revision}"));
    let subject = format!("{DELETE_PREFIX}{session}");
    let sent = buckets
        .context
        .publish_with_headers(subject.clone(), headers, session.to_string().into())
        .await;
    let stored = sent.map_err(|error| Fault::new(&subject, error))?.await;
    stored.map(drop).map_err(|error| Fault::new(&subject, error))
}

/// Deletes a key as other programs do, so that they see it, and then its marker.
pub(super) async fn erase(store: &Store, session: &SessionName) -> Result<(), Fault> {
    let there = store.get(session.as_str()).await;
    if there.map_err(|error| Fault::new(&store.name, error))?.is_none() {
        return Ok(());
    }
    let deleted = store.delete(session.as_str()).await;
    deleted.map_err(|error| Fault::new(&store.name, error))?;
    purge(store, session, None).await
}

/// Takes a key out of the bucket without anybody being told; `up_to`: not what was put after this revision.
pub(super) async fn purge(store: &Store, session: &SessionName, up_to: Option<u64>) -> Result<(), Fault> {
    let subject = format!("$KV.{}.{session}", store.name);
    let purged = match up_to {
        Some(revision) => {
            let all = store.stream.purge().filter(subject);
            all.sequence(revision.saturating_add(1)).await
        }
        None => store.stream.purge().filter(subject).await,
    };
    purged.map(drop).map_err(|error| Fault::new(&store.name, error))
}

/// Sessions that somebody wants deleted.
async fn orders(buckets: &Buckets, outbox: &Outbox, deletions: &Deletions) -> Fault {
    let what = "the queue of deletions";
    loop {
        let batch = buckets
            .deleter
            .batch()
            .max_messages(FETCH_MAX)
            .expires(FETCH_FOR)
            .messages();
        let mut batch = match batch.await {
            Ok(batch) => batch,
            Err(error) => return Fault::new(what, error),
        };
        let mut failed = None;
        while let Some(message) = batch.next().await {
            match message {
                Ok(message) => on_order(message, outbox, deletions).await,
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            tracing::debug!("NATS: {what}: {error}");
            sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn on_order(message: Message, outbox: &Outbox, deletions: &Deletions) {
    let name = message.subject.as_str().strip_prefix(DELETE_PREFIX);
    let Some(session) = name.and_then(SessionName::new) else {
        tracing::warn!("NATS: an order to delete what is no session: dropped");
        return acknowledge(&message, AckKind::Term).await;
    };
    if deletions.is_done(&session) {
        return acknowledge(&message, AckKind::Ack).await;
    }
    outbox.tell(Event::Ended(session.clone()));
    if session.is_configured() {
        // There is nothing to delete, so nobody would say that it was done.
        return acknowledge(&message, AckKind::Ack).await;
    }
    deletions.put(session, message);
}

async fn acknowledge(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!("NATS: not acknowledged, it will come again: {error}");
    }
}
