//! Snapshots of the state, which let the log be shortened.
//!
//! A snapshot is whole when an entry of the log says so, and that entry is only taken if it follows the last one of its
//! kind that its author has folded: of several that are written at a time one comes through, and none is older than the
//! one before it. A writer that dies leaves parts that nobody knows of; the next one purges them.
//!
//! Owns: when one is written, by whom, its parts, and the purging of what it makes needless.
//! Never: shortens the log by an entry that is not in a whole snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::jetstream::Context;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use rand::RngExt as _;

use super::entry::{Entry, Marker, SNAPSHOTS};
use super::fold::State;
use super::follow::{LOG, STATE_PREFIX};
use super::lost;
use super::replica::{Growth, Replica};
use crate::broker::Trouble;

/// Bytes of a part; a message may have a megabyte.
const PART_BYTES: usize = 512 * 1024;
/// As small as parts may be where a server takes less. What a server takes is no less.
pub(super) const PART_BYTES_MIN: usize = 32 * 1024;
/// So many bytes of entries make a snapshot due, or as many as the last snapshot had.
const DUE_BYTES: u64 = 8 << 20;
/// The node whose turn it is has not written one when the log has grown so many times as much: another does.
const LATE: u64 = 2;

/// What there was.
pub(super) enum Found {
    /// The last snapshot, and its bytes.
    Whole(Box<State>, u64),
    /// One of which parts are missing; by which its parts are known.
    Parts(u64),
    /// One of nodes that write it in another version.
    Foreign,
    Nothing,
}

/// The last snapshot.
pub(super) async fn find(log: &Stream, state: &Stream) -> Result<Found, Trouble> {
    let marker = match marker(log).await? {
        Some((_, Some(marker))) => marker,
        Some((_, None)) => return Ok(Found::Foreign),
        None => return Ok(Found::Nothing),
    };
    let mut bytes = Vec::new();
    for part in 0..marker.parts {
        let subject = part_subject(marker.nonce, part);
        match state.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => bytes.extend_from_slice(&message.payload),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                return Ok(Found::Parts(marker.nonce));
            }
            Err(error) => return Err(lost("a snapshot", error)),
        }
    }
    let size = bytes.len() as u64;
    let decoded = State::decode(&bytes).filter(|state| state.sequence() == marker.at);
    Ok(decoded.map_or(Found::Foreign, |state| Found::Whole(Box::new(state), size)))
}

/// The place of the last entry that says that a snapshot is whole, and what it says if it can be read.
async fn marker(log: &Stream) -> Result<Option<(u64, Option<Marker>)>, Trouble> {
    let message = match log.get_last_raw_message_by_subject(SNAPSHOTS).await {
        Ok(message) => message,
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
        Err(error) => return Err(lost(LOG, error)),
    };
    let marker = match Entry::decode(&message.payload) {
        Some(Entry::Snapshot(marker)) => Some(marker),
        _ => None,
    };
    Ok(Some((message.sequence, marker)))
}

fn part_subject(nonce: u64, part: u32) -> String {
    format!("{STATE_PREFIX}{nonce:016x}.{part}")
}

/// Writes snapshots.
#[derive(Clone)]
pub(super) struct Writer {
    replica: Arc<Replica>,
    context: Context,
    log: Stream,
    state: Stream,
    after: u64,
    /// The largest message that the server takes.
    max_payload: usize,
    busy: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn new(
        replica: Arc<Replica>,
        context: Context,
        log: Stream,
        state: Stream,
        after: u32,
        max_payload: usize,
    ) -> Self {
        Self {
            replica,
            context,
            log,
            state,
            after: u64::from(after),
            max_payload,
            busy: Arc::default(),
        }
    }

    /// Writes one if it is due, and the turn of this node; does not wait for it.
    pub(super) fn consider(&self, growth: Growth) {
        let grown = |times: u64| {
            growth.entries >= times * self.after || growth.bytes >= times * DUE_BYTES.max(growth.snapshot_bytes)
        };
        let due = grown(1) && (grown(LATE) || self.replica.is_first());
        if !due || self.busy.swap(true, Ordering::Relaxed) {
            return;
        }
        let writer = self.clone();
        tokio::spawn(async move {
            if let Err(Trouble::Lost(error)) = writer.write().await {
                tracing::warn!("no snapshot was written: {error}");
            }
            writer.busy.store(false, Ordering::Relaxed);
        });
    }

    async fn write(&self) -> Result<(), Trouble> {
        let earlier = marker(&self.log).await?;
        let (at, bytes) = self.replica.encode();
        let follows = earlier.map_or(0, |(sequence, _)| sequence);
        if follows > at {
            // It is not folded yet.
            return Ok(());
        }
        let nonce = rand::rng().random();
        let (first, parts) = match self.put(nonce, &bytes).await {
            Ok(put) => put,
            Err(error) => {
                self.forget(nonce).await;
                return Err(error);
            }
        };
        let entry = Entry::Snapshot(Marker { at, nonce, parts });
        let message = PublishMessage::build()
            .payload(entry.encode().into())
            .expected_last_subject_sequence(follows);
        let sent = self.context.send_publish(SNAPSHOTS, message).await;
        let acked = match sent {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        if let Err(error) = acked {
            // Another one came first, or nothing is known: then it may be whole all the same, and must not be purged.
            if error.to_string().contains("wrong last sequence") {
                self.forget(nonce).await;
                return Ok(());
            }
            return Err(lost("a snapshot", error));
        }
        self.replica.wrote_snapshot(bytes.len() as u64);
        let purged = self.log.purge().sequence(at + 1).await;
        purged.map_err(|error| lost(LOG, error))?;
        let purged = self.state.purge().sequence(first).await;
        purged.map_err(|error| lost("earlier snapshots", error))?;
        Ok(())
    }

    /// Its parts: where the first one stands, and how many there are.
    async fn put(&self, nonce: u64, bytes: &[u8]) -> Result<(u64, u32), Trouble> {
        let (mut first, mut parts) = (None, 0);
        let part_bytes = PART_BYTES.min(self.max_payload).max(PART_BYTES_MIN);
        for part in bytes.chunks(part_bytes) {
            let sent = self
                .context
                .publish(part_subject(nonce, parts), part.to_vec().into())
                .await;
            let sent = sent.map_err(|error| lost("a snapshot", error))?;
            let ack = sent.await.map_err(|error| lost("a snapshot", error))?;
            first.get_or_insert(ack.sequence);
            parts += 1;
        }
        Ok((first.unwrap_or(0), parts))
    }

    async fn forget(&self, nonce: u64) {
        let parts = format!("{STATE_PREFIX}{nonce:016x}.>");
        if let Err(error) = self.state.purge().filter(parts).await {
            tracing::debug!("NATS: parts of a snapshot stay: {error}");
        }
    }
}
