//! The one who reads the log: from the last snapshot on, as it grows.
//!
//! Owns: the two streams, the loading of a snapshot, and the task that folds.
//! Never: decides what an entry does.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType, Stream};
use async_nats::jetstream::{self, Context, ErrorCode};
use futures_util::StreamExt as _;
use tokio::sync::Notify;

use super::connect::Connection;
use super::entry::PREFIX;
use super::fold::State;
use super::replica::{Missing, Replica};
use super::snapshots::{self, Found};
use super::{Core, lost};
use crate::broker::Trouble;

/// The stream of the log.
pub(super) const LOG: &str = "peer_cluster";
/// The stream of the snapshots' parts.
pub(super) const STATE: &str = "peer_cluster_state";
/// The parts of snapshots have subjects that begin so.
pub(super) const STATE_PREFIX: &str = "peer.state.";
/// Bytes of the log. The oldest go when it is full: a log that nobody could shorten is begun anew in the end.
const LOG_BYTES: i64 = 128 << 20;
/// Bytes of the parts of snapshots, the last whole one and one that is being written.
const STATE_BYTES: i64 = 256 << 20;
/// How often a snapshot that another takes away while it is read is looked for again,
const LOAD_TRIES: usize = 9;
/// and after what pause. All in all it takes longer than a lease does.
const LOAD_PAUSE: Duration = Duration::from_millis(450);
/// What cannot be read for so long, never will be.
const MISSED_FOR: Duration = Duration::from_secs(30);
/// A request to JetStream may take this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// What is there already may take this long to be folded.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(20);

/// Sees to it that the log is followed, whole, as far as it goes when this begins. `asked` is for questions.
pub(super) fn ensure(core: &Arc<Core>, asked: &Connection) -> Result<(), Trouble> {
    let replica = &core.replica;
    let last = core.state.run(async {
        if let Some(known) = replica.followed()
            && let Ok(Some(info)) = info(asked).await
            && generation(&info) == known
        {
            return Ok(info.state.last_sequence);
        }
        let follower = replica.begin();
        let (failed, broken) = (replica.clone(), Arc::new(Notify::new()));
        let noticed = broken.clone();
        let on_break = Arc::new(move || {
            failed.fail(follower, "the connection is lost");
            noticed.notify_one();
        });
        let started = async {
            let connection = core.target.connect(on_break).await?;
            start(replica, follower, connection, broken, core.snapshot_after).await
        };
        started
            .await
            .inspect_err(|_| replica.fail(follower, "the log is not followed"))
    })??;
    match replica.reach(last, CATCH_UP_WITHIN, &|| Ok(()))? {
        true => Ok(()),
        false => {
            // Perhaps nothing comes any more and nobody said so: the next try follows it anew.
            replica.fail(replica.follower(), "the log does not come");
            Err(lost("the log", "too much of it to be read in time"))
        }
    }
}

async fn start(
    replica: &Arc<Replica>,
    follower: u64,
    connection: Connection,
    broken: Arc<Notify>,
    snapshot_after: u32,
) -> Result<u64, Trouble> {
    let mut context = jetstream::new(connection.client.clone());
    context.set_timeout(ANSWER_WITHIN);
    let (mut log, mut state) = streams(&context).await?;
    let mut info = log.get_info().await.map_err(|error| lost(LOG, error))?;
    let (known, folded) = replica.folded();
    let has_rest = |info: &Info| info.state.first_sequence <= folded + 1 && folded <= info.state.last_sequence;
    let mut next = folded + 1;
    if known != Some(generation(&info)) || !has_rest(&info) {
        let (loaded, bytes) = match load(replica, &log, &state).await? {
            Some(loaded) => loaded,
            None => {
                let there = log.get_info().await.map_err(|error| lost(LOG, error))?;
                if generation(&there) != generation(&info) {
                    return Err(lost(LOG, "another has begun it anew"));
                }
                tracing::error!("NATS: the log has lost its beginning, and there is no snapshot: it is begun anew");
                for stream in [LOG, STATE] {
                    let deleted = context.delete_stream(stream).await;
                    deleted.map_err(|error| lost(stream, error))?;
                }
                (log, state) = streams(&context).await?;
                (State::default(), 0)
            }
        };
        info = log.get_info().await.map_err(|error| lost(LOG, error))?;
        next = loaded.sequence() + 1;
        replica.load(follower, generation(&info), loaded, bytes);
    }
    let config = push::OrderedConfig {
        deliver_subject: connection.client.new_inbox(),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: next },
        ..push::OrderedConfig::default()
    };
    let consumer = log.create_consumer(config).await.map_err(|error| lost(LOG, error))?;
    let entries = consumer.messages().await.map_err(|error| lost(LOG, error))?;
    let max_payload = connection.client.max_payload();
    let writer = snapshots::Writer::new(replica.clone(), context, log, state, snapshot_after, max_payload);
    let replica = replica.clone();
    tokio::spawn(async move {
        let why = tokio::select! {
            why = follow(&replica, follower, entries, writer) => why,
            () = broken.notified() => "the connection is lost".to_owned(),
        };
        replica.fail(follower, &why);
        // Kept until here: it is what the log comes by.
        drop(connection);
    });
    Ok(info.state.last_sequence)
}

/// Both streams. What is there already is used as it is: its owner may want copies of it, or files.
async fn streams(context: &Context) -> Result<(Stream, Stream), Trouble> {
    let log = stream(context, LOG, PREFIX, LOG_BYTES).await?;
    let state = stream(context, STATE, STATE_PREFIX, STATE_BYTES).await?;
    Ok((log, state))
}

async fn stream(context: &Context, name: &str, prefix: &str, max_bytes: i64) -> Result<Stream, Trouble> {
    if let Some(stream) = get(context, name).await? {
        return Ok(stream);
    }
    let config = Config {
        name: name.to_owned(),
        description: Some("peer-server: the nodes of a cluster share it".to_owned()),
        subjects: vec![format!("{prefix}>")],
        storage: StorageType::Memory,
        discard: DiscardPolicy::Old,
        max_bytes,
        num_replicas: 1,
        // Nothing is sent twice: there is no need to remember what was.
        duplicate_window: Duration::from_millis(100),
        ..Config::default()
    };
    let made = context.get_or_create_stream(config).await;
    made.map_err(|error| lost(name, error))
}

fn generation(info: &Info) -> i128 {
    info.created.unix_timestamp_nanos()
}

/// The state of the last snapshot, and its bytes; of the log's beginning if it has that. None: neither can be had any more.
async fn load(replica: &Replica, log: &Stream, state: &Stream) -> Result<Option<(State, u64)>, Trouble> {
    let mut ends = Vec::new();
    let mut missing = None;
    for tries_left in (0..LOAD_TRIES).rev() {
        let found = snapshots::find(log, state).await?;
        let info = log.get_info().await.map_err(|error| lost(LOG, error))?;
        let first = info.state.first_sequence;
        ends.push((generation(&info), info.state.last_sequence));
        missing = match found {
            Found::Whole(loaded, bytes) if first <= loaded.sequence() + 1 => return Ok(Some((*loaded, bytes))),
            Found::Nothing if first <= 1 => return Ok(Some((State::default(), 0))),
            // Another one was completed meanwhile, and took this one away.
            Found::Whole(..) => None,
            Found::Parts(nonce) => Some(Missing::Parts(nonce)),
            Found::Nothing => Some(Missing::Beginning),
            Found::Foreign => Some(Missing::Foreign),
        };
        if tries_left > 0 {
            tokio::time::sleep(LOAD_PAUSE).await;
        }
    }
    // Whoever is alive renews its lease there.
    if ends.windows(2).all(|pair| matches!(pair, [one, other] if one == other)) {
        return Ok(None);
    }
    match missing {
        Some(Missing::Foreign) => Err(lost(LOG, "nodes of another version use it")),
        Some(missing) if replica.misses(missing) >= MISSED_FOR => Ok(None),
        _ => Err(lost("a snapshot", "it is being replaced")),
    }
}

/// The last entry that the log has.
///
/// # Errors
/// [`Trouble::Lapsed`]: it is another log than the one that is folded, or none.
pub(super) async fn last_entry(replica: &Replica, connection: &Connection) -> Result<u64, Trouble> {
    match info(connection).await? {
        Some(info) if replica.folded().0 == Some(generation(&info)) => Ok(info.state.last_sequence),
        _ => {
            replica.emptied();
            Err(Trouble::Lapsed)
        }
    }
}

/// What is known of the log; None: there is none.
async fn info(connection: &Connection) -> Result<Option<Info>, Trouble> {
    let mut context = jetstream::new(connection.client.clone());
    context.set_timeout(ANSWER_WITHIN);
    let found = get(&context, LOG).await?;
    Ok(found.map(|stream| stream.cached_info().clone()))
}

async fn get(context: &Context, name: &str) -> Result<Option<Stream>, Trouble> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            _ => Err(lost(name, error)),
        },
    }
}

/// Folds what comes, until that cannot be done; why.
async fn follow(replica: &Replica, follower: u64, mut entries: push::Ordered, writer: snapshots::Writer) -> String {
    loop {
        let entry = match entries.next().await {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => return error.to_string(),
            None => return "the log ends".to_owned(),
        };
        let (sequence, time) = match entry.info() {
            Ok(info) => (info.stream_sequence, info.published.unix_timestamp_nanos()),
            Err(error) => return error.to_string(),
        };
        let time = u64::try_from(time).unwrap_or(0);
        match replica.fold(follower, sequence, time, &entry.payload) {
            Ok(growth) => writer.consider(growth),
            Err(why) => return why.to_owned(),
        }
    }
}
