//! Connections to NATS.
//!
//! A part's connection is used until it breaks for the first time: what the library would make up for later (send again,
//! subscribe again) would come at a moment of which the rest knows nothing.
//!
//! Owns: where the servers are, how they are checked, and when a connection has broken.
//! Never: connects again by itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use async_nats::rustls::crypto::aws_lc_rs;
use async_nats::rustls::pki_types::CertificateDer;
use async_nats::rustls::pki_types::pem::PemObject as _;
use async_nats::rustls::{ClientConfig, RootCertStore};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use tokio::time::timeout;

use super::snapshots::PART_BYTES_MIN;
use super::{NatsOptions, lost};
use crate::broker::Trouble;

/// Where a connection may take at most so long to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A connection that broke is of no use, and is let go before this is over.
const AFTER_BREAK: Duration = Duration::from_secs(60);
/// How often the server must answer.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Messages that wait to be sent.
const SENDING_MAX: usize = 4096;
/// Messages that came and wait to be read, for a subscription. What is more is let go, and missed.
const WAITING_MAX: usize = 4096;
/// The same of the log, whose entries are small, and which is read once more from where any is missing.
const LOG_WAITING_MAX: usize = 64 * 1024;

/// Where it goes.
pub(super) struct Target {
    servers: Vec<ServerAddr>,
    user: String,
    password: String,
    token: String,
    /// What a credentials file says. A secret.
    creds: Option<String>,
    roots: Option<Arc<RootCertStore>>,
    tls: bool,
    /// The largest message that is sent.
    message_bytes: usize,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// A connection, until it breaks.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    broken: Arc<Broken>,
}

#[derive(Debug, Default)]
struct Broken {
    is: AtomicBool,
    why: Mutex<Option<String>>,
}

impl Broken {
    fn set(&self, why: &str) {
        let mut reason = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        reason.get_or_insert_with(|| why.to_owned());
        self.is.store(true, Ordering::Release);
    }
}

impl Connection {
    /// # Errors
    /// It has broken.
    pub(super) fn check(&self) -> Result<(), Trouble> {
        if !self.broken.is.load(Ordering::Acquire) {
            return Ok(());
        }
        let why = self.broken.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Err(Trouble::Lost(format!("NATS: {}", why.unwrap_or_default())))
    }

    /// It is of no use any more.
    pub(super) fn give_up(&self, why: &str) {
        self.broken.set(why);
    }
}

impl Target {
    pub(super) fn new(options: &NatsOptions) -> io::Result<Self> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let urls = options.url.split(',').map(str::trim).filter(|url| !url.is_empty());
        // The error would show what may be a password.
        let servers: Result<Vec<ServerAddr>, _> = urls.map(str::parse).collect();
        let servers = servers.map_err(|_| invalid("NATS: a URL that is none".to_owned()))?;
        if servers.is_empty() {
            return Err(invalid("NATS: there is no URL".to_owned()));
        }
        let creds = options.creds.as_ref().map(|path| {
            let failed = |error: &dyn fmt::Display| invalid(format!("NATS: {}: {error}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
            // Read once to be refused at the start, not at each connection.
            let read = ConnectOptions::new().credentials(&text);
            read.map_err(|_| failed(&"no credentials file: it needs a user's JWT and a seed"))?;
            Ok::<_, io::Error>(text)
        });
        let roots = options.ca.as_ref().map(|path| {
            let pem = std::fs::read(path)?;
            authorities(&pem).map_err(|error| invalid(format!("NATS: {}: {error}", path.display())))
        });
        Ok(Self {
            tls: options.ca.is_some() || servers.iter().any(ServerAddr::tls_required),
            servers,
            user: options.user.clone(),
            password: options.password.clone(),
            token: options.token.clone(),
            creds: creds.transpose()?,
            message_bytes: options.message_bytes.max(PART_BYTES_MIN),
            roots: roots.transpose()?.map(Arc::new),
        })
    }

    /// A new connection. `on_break` is called when it breaks, perhaps more than once.
    pub(super) async fn connect(&self, on_break: Arc<dyn Fn() + Send + Sync>) -> Result<Connection, Trouble> {
        self.connect_for(LOG_WAITING_MAX, on_break).await
    }

    /// A new connection for traffic. Not many messages wait there to be read, for they may be large.
    pub(super) async fn connect_for_traffic(&self) -> Result<Connection, Trouble> {
        self.connect_for(WAITING_MAX, Arc::new(|| {})).await
    }

    async fn connect_for(&self, waiting: usize, on_break: Arc<dyn Fn() + Send + Sync>) -> Result<Connection, Trouble> {
        // Harmless if somebody else was first.
        let _ = aws_lc_rs::default_provider().install_default();
        let broken = Arc::new(Broken::default());
        let (seen, connected) = (broken.clone(), Arc::new(AtomicBool::new(false)));
        let was_connected = connected.clone();
        let mut options = ConnectOptions::new()
            .name(env!("CARGO_PKG_NAME"))
            .connection_timeout(CONNECT_WITHIN)
            .ping_interval(PING_EVERY)
            .client_capacity(SENDING_MAX)
            .subscription_capacity(waiting)
            .require_tls(self.tls)
            .reconnect_delay_callback(move |_| match was_connected.load(Ordering::Relaxed) {
                true => AFTER_BREAK,
                false => Duration::ZERO,
            })
            .event_callback(move |event| {
                if matches!(event, Event::Disconnected | Event::Closed) {
                    seen.set("the connection is lost");
                    on_break();
                }
                std::future::ready(())
            });
        if !self.user.is_empty() {
            options = options.user_and_password(self.user.clone(), self.password.clone());
        }
        if !self.token.is_empty() {
            options = options.token(self.token.clone());
        }
        if let Some(creds) = &self.creds {
            let read = options.credentials(creds);
            options = read.map_err(|error| lost("credentials", error))?;
        }
        if let Some(roots) = &self.roots {
            options = options.tls_client_config(client_config(roots.clone()).map_err(|error| lost("TLS", error))?);
        }
        let made = timeout(CONNECT_WITHIN, options.connect(self.servers.clone())).await;
        let made = made.map_err(|_| lost("connecting", "no answer in time"))?;
        let client = made.map_err(|error| lost("connecting", error))?;
        connected.store(true, Ordering::Relaxed);
        let (max_payload, needed) = (client.max_payload(), self.message_bytes);
        if max_payload < needed {
            let why = format!("max_payload is {max_payload}, and messages may have {needed} bytes");
            return Err(lost("the server takes too little", why));
        }
        Ok(Connection { client, broken })
    }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    match roots.is_empty() {
        true => Err("there is no certificate".to_owned()),
        false => Ok(roots),
    }
}

fn client_config(roots: Arc<RootCertStore>) -> Result<ClientConfig, async_nats::rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_are_checked_and_secrets_are_in_no_text() {
        let options = |url: &str| NatsOptions {
            url: url.to_owned(),
            password: "hunter2".to_owned(),
            token: "hunter3".to_owned(),
            ..NatsOptions::default()
        };
        let good = Target::new(&options("nats://us:hunter4@a:4222, tls://b")).unwrap();
        assert!(good.tls);
        assert_eq!(good.servers.len(), 2);
        for text in [format!("{good:?}"), format!("{:?}", options("nats://us:hunter4@a"))] {
            assert!(!text.contains("hunter"), "{text}");
        }
        for bad in ["", " , ", "nats://us:hunter4@a:99999"] {
            let error = Target::new(&options(bad)).unwrap_err().to_string();
            assert!(!error.contains("hunter"), "{error}");
        }
    }

    #[test]
    fn a_file_that_holds_no_credentials_is_refused_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let creds = folder.path().join("user.creds");
        let options = NatsOptions {
            url: "nats://a".to_owned(),
            creds: Some(creds.clone()),
            ..NatsOptions::default()
        };
        let refused = || Target::new(&options).unwrap_err().to_string();
        assert!(refused().contains("user.creds"), "{}", refused());
        std::fs::write(&creds, "hunter2").unwrap();
        assert!(refused().contains("user.creds: no credentials file"), "{}", refused());
        assert!(!refused().contains("hunter"), "{}", refused());
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        assert!(authorities(b"").is_err());
        assert!(authorities(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
    }
}
