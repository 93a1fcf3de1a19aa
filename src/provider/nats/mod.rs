//! NATS: another matchmaker behind the same subjects, and the register that game servers read.
//!
//! One thread has one connection and a runtime of its own for it. Its parts are what the server sees: the [`Front`] asks
//! another matchmaker, the [`Back`] is asked by others and keeps the register, the [`NatsStore`] keeps the record of
//! sessions.
//!
//! Owns: the thread, the connection with its retries, and what is said about it in the log.
//! Never: shows anything of its runtime outside; writes a subject or key that holds anything but a checked name.

mod back;
mod front;
mod objects;
mod part;
mod sessions;
mod store;

use std::fmt;
use std::future::Future;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::rustls::crypto::aws_lc_rs;
use async_nats::rustls::pki_types::CertificateDer;
use async_nats::rustls::pki_types::pem::PemObject as _;
use async_nats::rustls::{ClientConfig, RootCertStore};
use async_nats::{Client, ClientError, ConnectOptions, ServerAddr};
use futures_util::FutureExt as _;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinSet, unconstrained};

pub use back::{Back, Served};
pub use front::Front;
pub use store::NatsStore;

use super::{Outbox, Wake, outbox};
use objects::Objects;

/// How much longer than the desk the front and the back remember a request.
const MARGIN: Duration = Duration::from_secs(45);
/// Requests that wait for answers where the desk has no limit.
const REQUESTS_MAX: usize = 1 << 16;
/// Messages that wait to be sent, such as last words to all who ask when the server stops.
const SENDING_MAX: usize = 1 << 14;
/// The first pause before the connection is tried again; it doubles up to [`RETRY_AFTER_MAX`].
const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// An unchanged reason why there is no connection is told again after this.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// What is sent at the end has this long to leave.
const FLUSH_WITHIN: Duration = Duration::from_millis(300);
/// Messages of one subscription that wait to be read; more are dropped, and the log says so.
const SUBSCRIPTION_MESSAGES: usize = 8192;

/// Where the NATS server is, and who we are to it.
#[derive(Clone)]
pub struct Settings {
    /// `host` or `host:port`.
    pub host: String,
    /// User name; empty: none.
    pub user: String,
    /// Password. A secret.
    pub password: String,
    /// How its certificate is checked.
    pub tls: Tls,
}

/// Whether TLS is used, and who vouches for the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// It is not used unless the server insists.
    Insecure,
    /// The authorities that the operating system trusts.
    System,
    /// Those in this PEM file.
    File(PathBuf),
    /// Those in this PEM text.
    Contents(String),
}

/// Which parts are wanted.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// [`Front`].
    pub front: bool,
    /// [`Back`], and what it serves.
    pub back: Option<Served>,
    /// [`NatsStore`]. With it, orders to delete sessions are taken, and acknowledged when the store is told that they were
    /// deleted. Without it, sessions of providers are other matchmakers' business.
    pub store: bool,
    /// The desk has ended a request of this age.
    pub deadline: Duration,
    /// Requests that the desk has under way at most; 0: no limit.
    pub waiting_max: u32,
}

impl Parts {
    /// Whoever waits for an answer for so long will not get one.
    fn patience(&self) -> Duration {
        self.deadline + MARGIN
    }

    /// Requests that wait for answers.
    fn requests_max(&self) -> usize {
        match self.waiting_max {
            0 => REQUESTS_MAX,
            waiting_max => usize::try_from(waiting_max).unwrap_or(usize::MAX),
        }
    }
}

/// The parts.
#[derive(Debug, Default)]
pub struct Handles {
    /// Asks another matchmaker.
    pub front: Option<Front>,
    /// Is asked by others, and keeps the register.
    pub back: Option<Back>,
    /// Keeps the record of sessions.
    pub store: Option<NatsStore>,
}

/// Why nothing was started. Not being able to connect is no reason: that is tried for ever.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Settings");
        shown.field("host", &self.host).field("user", &self.user);
        shown.field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// A connection that is still to be made.
pub struct Prepared {
    runtime: Runtime,
    address: ServerAddr,
    options: ConnectOptions,
    work: Work,
    handles: Handles,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("handles", &self.handles)
            .finish_non_exhaustive()
    }
}

/// Makes everything but the thread, and opens nothing but what a loop needs to wake that thread: an order to it ends its
/// sleep by a write to a descriptor of its runtime. So this comes before the loops have descriptor tables of their own, and
/// [`Prepared::start`] afterwards.
///
/// # Errors
/// A host that is none, authorities that cannot be read, descriptors that cannot be had.
pub fn prepare(settings: &Settings, parts: &Parts, wake: &Wake) -> Result<Prepared, StartError> {
    let address = address(&settings.host)?;
    let options = options(settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(1)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(|error| StartError(format!("NATS: {error}")))?;
    let mut handles = Handles::default();
    let mut work = Work {
        back: None,
        front: None,
        store: None,
        bounds: Bounds {
            patience: parts.patience(),
            requests_max: parts.requests_max(),
        },
    };
    if parts.front {
        let (outbox, inbox) = outbox(Arc::clone(wake));
        let (part, orders) = part::new(inbox);
        handles.front = Some(Front::new(part));
        work.front = Some((orders, outbox));
    }
    if let Some(served) = &parts.back {
        let (outbox, inbox) = outbox(Arc::clone(wake));
        let (part, orders) = part::new(inbox);
        handles.back = Some(Back::new(part));
        work.back = Some((orders, outbox, served.clone()));
    }
    if parts.store {
        let (store, jobs) = NatsStore::new();
        handles.store = Some(store);
        work.store = Some(jobs);
    }
    Ok(Prepared {
        runtime,
        address,
        options,
        work,
        handles,
    })
}

impl Prepared {
    /// Starts the thread, which connects, and goes on until its parts are stopped or dropped.
    ///
    /// # Errors
    /// A thread that cannot be started.
    pub fn start(self) -> Result<Handles, StartError> {
        let Self {
            runtime,
            address,
            options,
            work,
            handles,
        } = self;
        std::thread::Builder::new()
            .name("nats".to_owned())
            .spawn(move || live(runtime, address, options, work))
            .map_err(|error| StartError(format!("NATS: {error}")))?;
        Ok(handles)
    }
}

fn address(host: &str) -> Result<ServerAddr, StartError> {
    let bracketed = host.parse::<Ipv6Addr>().map(|ip| format!("[{ip}]"));
    let host = bracketed.as_deref().unwrap_or(host);
    let plain = !host.is_empty() && !host.contains(['/', '@', '?', '#', ',']) && !host.contains(char::is_whitespace);
    plain
        .then(|| format!("nats://{host}").parse().ok())
        .flatten()
        .ok_or_else(|| StartError(format!("NATS: {host:?} is no host or host:port")))
}

fn options(settings: &Settings) -> Result<ConnectOptions, StartError> {
    let mut options = ConnectOptions::new()
        .name(env!("CARGO_PKG_NAME"))
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(retry_after)
        .subscription_capacity(SUBSCRIPTION_MESSAGES)
        .client_capacity(SENDING_MAX)
        // A request of the front must not come back to the back of the same process.
        .no_echo()
        .require_tls(settings.tls != Tls::Insecure);
    if !settings.user.is_empty() {
        options = options.user_and_password(settings.user.clone(), settings.password.clone());
    }
    let pem = match &settings.tls {
        Tls::Insecure | Tls::System => return Ok(options),
        Tls::Contents(pem) => pem.clone().into_bytes(),
        Tls::File(path) => {
            std::fs::read(path).map_err(|error| StartError(format!("NATS: {}: {error}", path.display())))?
        }
    };
    Ok(options.tls_client_config(client_config(&pem)?))
}

/// The pause before attempt number `attempts`, which counts from 1 after every connection that was made.
fn retry_after(attempts: usize) -> Duration {
    let doublings = attempts.saturating_sub(1).min(10) as u32;
    RETRY_AFTER_MAX.min(RETRY_AFTER_MIN * 2u32.pow(doublings))
}

fn client_config(pem: &[u8]) -> Result<ClientConfig, StartError> {
    let fault = |error: &dyn fmt::Display| StartError(format!("NATS: the authorities: {error}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| fault(&error))?;
        roots.add(certificate).map_err(|error| fault(&error))?;
    }
    if roots.is_empty() {
        return Err(fault(&"there is no certificate"));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| fault(&error))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// What the thread is to run.
struct Work {
    front: Option<(part::Orders<front::Ask>, Outbox)>,
    back: Option<(part::Orders<back::Order>, Outbox, Served)>,
    store: Option<store::Jobs>,
    bounds: Bounds,
}

/// Bounds of the requests that the front and the back remember.
#[derive(Clone, Copy)]
struct Bounds {
    /// How long.
    patience: Duration,
    /// How many.
    requests_max: usize,
}

/// The connection as the parts see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Link {
    connected: bool,
    /// Counts the connections that were made.
    generation: u64,
}

/// What every part works with.
#[derive(Clone)]
struct Common {
    client: Client,
    link: watch::Receiver<Link>,
    objects: watch::Receiver<Objects>,
}

impl Common {
    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}

/// Does what was begun without waiting, such as sending while there is room; None: it would have to wait, and is not done.
fn at_once<T>(begun: impl Future<Output = T>) -> Option<T> {
    unconstrained(begun).now_or_never()
}

fn live(runtime: Runtime, address: ServerAddr, options: ConnectOptions, work: Work) {
    // Both are harmless if somebody else was first.
    let _ = aws_lc_rs::default_provider().install_default();
    runtime.block_on(work.run(address, options));
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
}

impl Work {
    async fn run(self, address: ServerAddr, options: ConnectOptions) {
        let (link_sender, link) = watch::channel(Link::default());
        let log = Mutex::new(Log {
            host: format!("{}:{}", address.host(), address.port()),
            told: None,
        });
        let options = options.event_callback(move |event| {
            on_event(&event, &link_sender, &log);
            std::future::ready(())
        });
        let client = match options.connect(address).await {
            Ok(client) => client,
            Err(error) => return tracing::error!("NATS: {error}"),
        };
        let (objects_sender, objects) = watch::channel(Objects::Waiting);
        let common = Common { client, link, objects };
        let deletions = self.store.is_some().then(|| Arc::new(sessions::Deletions::default()));
        // The thread lives as long as the front and the back; the store alone keeps it if there is neither.
        let mut parts = JoinSet::new();
        let mut helpers = JoinSet::new();
        if self.back.is_some() || self.store.is_some() {
            let watcher = self.back.as_ref().map(|(_, outbox, _)| sessions::Watcher {
                outbox: outbox.clone(),
                deletions: deletions.clone(),
            });
            helpers.spawn(objects::keep(common.clone(), objects_sender, watcher));
        }
        if let Some((jobs, deletions)) = self.store.zip(deletions) {
            let alone = self.front.is_none() && self.back.is_none();
            let set = if alone { &mut parts } else { &mut helpers };
            set.spawn(store::serve(common.clone(), jobs, deletions));
        }
        if let Some((orders, outbox)) = self.front {
            parts.spawn(front::serve(common.clone(), orders, outbox, self.bounds));
        }
        if let Some((orders, outbox, served)) = self.back {
            parts.spawn(back::serve(common.clone(), orders, outbox, served, self.bounds));
        }
        while parts.join_next().await.is_some() {}
    }
}

/// What the log was told last about the connection.
struct Log {
    host: String,
    told: Option<(String, Instant)>,
}

impl Log {
    fn is_due(&mut self, text: &str) -> bool {
        let again = |(told, at): &(String, Instant)| told != text || at.elapsed() >= TELL_AGAIN_AFTER;
        let due = self.told.as_ref().is_none_or(again);
        if due {
            self.told = Some((text.to_owned(), Instant::now()));
        }
        due
    }
}

fn on_event(event: &async_nats::Event, link: &watch::Sender<Link>, log: &Mutex<Log>) {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    let host = log.host.clone();
    match event {
        async_nats::Event::Connected => {
            log.told = None;
            tracing::info!("NATS at {host}: connected");
            link.send_modify(|link| {
                link.connected = true;
                link.generation += 1;
            });
        }
        async_nats::Event::Disconnected | async_nats::Event::Closed => {
            tracing::warn!("NATS at {host}: the connection is lost");
            link.send_modify(|link| link.connected = false);
        }
        async_nats::Event::ClientError(ClientError::Other(text)) => {
            if log.is_due(text) {
                tracing::warn!("NATS at {host}: cannot connect, tried on (more at level debug): {text}");
            }
        }
        other => {
            let text = other.to_string();
            if log.is_due(&text) {
                tracing::warn!("NATS at {host}: {text}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_host_may_have_a_port_and_nothing_else() {
        for (host, port) in [("nats", 4222), ("10.0.0.1:14222", 14222), ("[::1]:5", 5), ("::1", 4222)] {
            assert_eq!(address(host).unwrap().port(), port, "{host}");
        }
        for host in ["", "user:secret@nats", "tls://nats", "a b", "nats:99999", "a,b"] {
            assert!(address(host).is_err(), "{host:?}");
        }
    }

    #[test]
    fn pauses_double_from_a_tenth_of_a_second_to_ten() {
        let millis: Vec<u128> = (1..=9).map(|attempt| retry_after(attempt).as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(retry_after(usize::MAX), RETRY_AFTER_MAX);
    }

    #[test]
    fn the_password_is_in_no_debug_text() {
        let settings = Settings {
            host: "nats".to_owned(),
            user: "us".to_owned(),
            password: "hunter2".to_owned(),
            tls: Tls::System,
        };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        assert!(client_config(b"").is_err());
        assert!(client_config(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
    }

    #[test]
    fn a_reason_is_told_once_in_a_while() {
        let mut log = Log {
            host: String::new(),
            told: None,
        };
        assert!(log.is_due("no such user"));
        assert!(!log.is_due("no such user"));
        assert!(log.is_due("refused"));
    }
}
