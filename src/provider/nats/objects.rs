//! The buckets, the stream and the consumer that game servers and other matchmakers share with us.
//!
//! Owns: their names and settings, and that they are there after every connect.
//! Never: changes one that is there already, whatever its settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::kv::Store;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, Context};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::sessions::{self, Watcher};
use super::{Common, Link};

/// The stream of sessions that are to be deleted.
const DELETIONS: &str = "DELETE_SESSION_STREAM";
/// Where a session's name is published to have it deleted, before the name.
pub(super) const DELETE_PREFIX: &str = "edgegap_delete_session_q.";
/// The consumer that all who delete sessions share.
const DELETER: &str = "api-deleter-1";
/// The longest value of a bucket whose values are short.
const VALUE_BYTES_MAX: i32 = 1024;
/// Making all of them may take this long.
const ENSURE_WITHIN: Duration = Duration::from_secs(10);
/// Pauses before it is tried again.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// What stands in JetStream.
pub(super) struct Buckets {
    pub(super) context: Context,
    /// Client id to session.
    pub(super) sessions_ly2eg: Store,
    /// Session to client id.
    pub(super) sessions_eg2ly: Store,
    /// Public address to digest.
    pub(super) cert_digests: Store,
    /// Session to client id, while the player is on the game server.
    pub(super) active_connections: Store,
    /// Session to session, until the player comes.
    pub(super) unclaimed_sessions: Store,
    /// Sessions to be deleted.
    pub(super) deleter: Consumer<pull::Config>,
}

/// Whether they are there.
#[derive(Clone)]
pub(super) enum Objects {
    /// Not known yet, or there is no connection.
    Waiting,
    /// They are.
    Ready(Arc<Buckets>),
    /// They are not, and could not be made.
    Failed,
}

struct Bucket {
    name: &'static str,
    description: &'static str,
    max_age: Duration,
    value_bytes_max: i32,
}

const fn bucket(name: &'static str, description: &'static str, max_age_s: u64, value_bytes_max: i32) -> Bucket {
    Bucket {
        name,
        description,
        max_age: Duration::from_secs(max_age_s),
        value_bytes_max,
    }
}

// The texts, too, are what other programs that make them write.
const SESSIONS_LY2EG: Bucket = bucket(
    "sessions_ly2eg",
    "Maps Lightyear Client IDs to Edgegap Session IDs",
    30,
    VALUE_BYTES_MAX,
);
const SESSIONS_EG2LY: Bucket = bucket(
    "sessions_eg2ly",
    "Maps Edgegap Session IDs to Lightyear Client IDs",
    30,
    VALUE_BYTES_MAX,
);
const CERT_DIGESTS: Bucket = bucket(
    "cert_digests",
    "Maps server public ip to their self-signed cert digests",
    14 * 24 * 3600,
    VALUE_BYTES_MAX,
);
const ACTIVE_CONNECTIONS: Bucket = bucket("active_connections", "", 0, 0);
const UNCLAIMED_SESSIONS: Bucket = bucket(
    "unclaimed_sessions",
    "Any session ids we get from the API are stored here, and if they key age gets too big, we delete the session via the \
     API.",
    0,
    VALUE_BYTES_MAX,
);

/// Has them made after every connect, and sessions watched while the connection lasts if there is somebody to tell.
pub(super) async fn keep(common: Common, objects: watch::Sender<Objects>, watcher: Option<Watcher>) {
    let mut seen = sessions::Seen::default();
    let mut link = common.link.clone();
    loop {
        let Ok(Link { generation, .. }) = link.wait_for(|link| link.connected).await.map(|link| *link) else {
            return;
        };
        tokio::select! {
            () = serve(&common, &objects, watcher.as_ref(), &mut seen) => {}
            _ = link.wait_for(|link| !link.connected || link.generation != generation) => {}
        }
        objects.send_replace(Objects::Waiting);
    }
}

async fn serve(
    common: &Common,
    objects: &watch::Sender<Objects>,
    watcher: Option<&Watcher>,
    seen: &mut sessions::Seen,
) {
    let mut pause = RETRY_AFTER_MIN;
    loop {
        match timeout(ENSURE_WITHIN, ensure(common)).await {
            Ok(Ok(buckets)) => {
                pause = RETRY_AFTER_MIN;
                let buckets = Arc::new(buckets);
                objects.send_replace(Objects::Ready(Arc::clone(&buckets)));
                let Some(watcher) = watcher else {
                    return std::future::pending().await;
                };
                let error = sessions::watch(&buckets, watcher, seen).await;
                tracing::warn!("NATS: sessions cannot be watched, tried again: {error}");
            }
            Ok(Err(error)) => {
                objects.send_replace(Objects::Failed);
                tracing::error!("NATS: JetStream, which the register and the record of sessions need: {error}");
            }
            Err(_) => {
                objects.send_replace(Objects::Failed);
                tracing::error!("NATS: JetStream, which the register and the record of sessions need, does not answer");
            }
        }
        sleep(pause).await;
        pause = RETRY_AFTER_MAX.min(pause * 2);
    }
}

/// What could not be made or done, and why.
pub(super) struct Fault(String);

impl Fault {
    pub(super) fn new(what: &str, error: impl fmt::Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

async fn ensure(common: &Common) -> Result<Buckets, Fault> {
    let context = jetstream::new(common.client.clone());
    let deletions = stream(&context, deletions_config()).await?;
    let deleter = deletions
        .get_or_create_consumer(DELETER, deleter_config())
        .await
        .map_err(|error| Fault::new(DELETER, error))?;
    Ok(Buckets {
        sessions_eg2ly: store(&context, &SESSIONS_EG2LY).await?,
        sessions_ly2eg: store(&context, &SESSIONS_LY2EG).await?,
        active_connections: store(&context, &ACTIVE_CONNECTIONS).await?,
        cert_digests: store(&context, &CERT_DIGESTS).await?,
        unclaimed_sessions: store(&context, &UNCLAIMED_SESSIONS).await?,
        deleter,
        context,
    })
}

async fn store(context: &Context, bucket: &Bucket) -> Result<Store, Fault> {
    stream(context, bucket_config(bucket)).await?;
    let store = context.get_key_value(bucket.name).await;
    store.map_err(|error| Fault::new(bucket.name, error))
}

/// The stream of that name: as it is, or made with these settings if there is none.
async fn stream(context: &Context, config: Config) -> Result<Stream, Fault> {
    let name = config.name.clone();
    match context.get_stream(&name).await {
        Ok(stream) => return Ok(stream),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(reason) if reason.code() == 404 => {}
            _ => return Err(Fault::new(&name, error)),
        },
    }
    let Err(error) = context.create_stream(config).await else {
        return context
            .get_stream(&name)
            .await
            .map_err(|error| Fault::new(&name, error));
    };
    // Somebody else may have made it meanwhile, with settings of his own.
    let made = context.get_stream(&name).await;
    made.map_err(|_| Fault::new(&name, error))
}

fn bucket_config(bucket: &Bucket) -> Config {
    Config {
        name: format!("KV_{}", bucket.name),
        description: (!bucket.description.is_empty()).then(|| bucket.description.to_owned()),
        subjects: vec![format!("$KV.{}.>", bucket.name)],
        max_messages_per_subject: 1,
        max_age: bucket.max_age,
        max_message_size: bucket.value_bytes_max,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: 1,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        ..Config::default()
    }
}

fn deletions_config() -> Config {
    Config {
        name: DELETIONS.to_owned(),
        subjects: vec![format!("{DELETE_PREFIX}*")],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        num_replicas: 1,
        ..Config::default()
    }
}

fn deleter_config() -> pull::Config {
    pull::Config {
        durable_name: Some(DELETER.to_owned()),
        description: Some("Calls edgegap session delete api".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    }
}
