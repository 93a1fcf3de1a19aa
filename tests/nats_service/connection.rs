//! The connection: TLS, a wrong password, an end in time.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peer_server::message::game_server::{Event, Failure, Note, RequestId};
use peer_server::provider::GameServerProvider as _;
use peer_server::provider::nats::{Settings, Tls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tracing_subscriber::fmt::MakeWriter;

use crate::broker::{Broker, Ours, wait_for};
use crate::front::{front, seek};
use crate::objects::everything;
use peer_server::provider::store::SessionStore as _;

/// An authority, and a certificate of it for 127.0.0.1.
struct Authority {
    folder: TempDir,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.path().join("certificate.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join("authority.pem"), &pem).unwrap();
        Self { folder, pem }
    }
}

fn settings(broker: &Broker, tls: Tls) -> Settings {
    Settings {
        tls,
        ..broker.settings()
    }
}

#[test]
fn with_tls_the_authority_decides_who_is_spoken_to() {
    let authority = Authority::new();
    let file = |name: &str| authority.folder.path().join(name);
    let files = (file("certificate.pem"), file("key.pem"));
    let Some(broker) = Broker::start_with(true, Some(files)) else {
        return;
    };
    for tls in [Tls::Contents(authority.pem.clone()), Tls::File(file("authority.pem"))] {
        let mut ours = Ours::start(&settings(&broker, tls), &everything());
        ours.until_connected();
        assert_eq!(ours.store.as_ref().unwrap().all(), Ok(Vec::new()));
    }
    // Another authority, and the operating system's, do not vouch for it.
    let log = log();
    let strangers = [Tls::Contents(Authority::new().pem), Tls::System];
    for (before, tls) in strangers.into_iter().enumerate() {
        let mut ours = Ours::start(&settings(&broker, tls), &front());
        let told = || {
            log.lines(&broker)
                .iter()
                .filter(|line| line.contains("cannot connect"))
                .count()
        };
        wait_for("the reason in the log", || (told() > before).then_some(()));
        assert!(
            log.lines(&broker)
                .iter()
                .any(|line| line.contains("invalid peer certificate"))
        );
        ours.front().submit(RequestId(1), seek("game", "1")).unwrap();
        assert_eq!(ours.next(), Event::Failed(RequestId(1), Failure::UNAVAILABLE));
        assert!(!ours.passed.contains(&Event::Noted(Note::Connected(true))));
    }
}

#[test]
fn a_server_without_tls_is_not_spoken_to_unless_told_so() {
    let Some(broker) = Broker::start() else { return };
    let mut ours = Ours::start(&settings(&broker, Tls::Contents(Authority::new().pem)), &front());
    ours.front().submit(RequestId(1), seek("game", "1")).unwrap();
    assert_eq!(ours.next(), Event::Failed(RequestId(1), Failure::UNAVAILABLE));
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        assert!(!matches!(ours.poll(), Some(Event::Noted(Note::Connected(true)))));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_wrong_password_is_told_once_and_tried_again_and_never_shown() {
    let Some(broker) = Broker::start() else { return };
    let log = log();
    let wrong = Settings {
        password: "wrong-secret".to_owned(),
        user: "somebody-else".to_owned(),
        ..broker.settings()
    };
    let mut ours = Ours::start(&wrong, &front());
    let count = |text: &str| log.lines(&broker).iter().filter(|line| line.contains(text)).count();
    wait_for("four attempts", || (count("attempting connection") >= 4).then_some(()));
    assert_eq!(count("cannot connect"), 1);
    assert_eq!(count("authorization violation"), 1);
    let good = broker.connect(&front());
    drop(good);
    assert!(!log.text().contains("wrong-secret"));
    assert!(!log.text().contains(crate::broker::PASSWORD));
    ours.stop();
}

#[test]
fn an_end_is_quick_also_without_a_server() {
    let Some(mut broker) = Broker::start() else { return };
    let mut ours = broker.connect(&everything());
    let since = Instant::now();
    ours.stop();
    assert!(since.elapsed() < Duration::from_millis(900), "{:?}", since.elapsed());
    let mut ours = broker.connect(&front());
    broker.kill();
    ours.until_lost();
    let since = Instant::now();
    ours.stop();
    assert!(since.elapsed() < Duration::from_millis(1500), "{:?}", since.elapsed());
    assert!(ours.front().submit(RequestId(1), seek("game", "1")).is_err());
}

/// Everything that this process logs, at every level.
#[derive(Clone)]
struct Log(Arc<Mutex<Vec<u8>>>);

fn log() -> Log {
    static LOG: std::sync::OnceLock<Log> = std::sync::OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Log(Arc::default());
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false);
        subscriber.with_writer(log.clone()).init();
        log
    });
    log.clone()
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// What is said of this server.
    fn lines(&self, broker: &Broker) -> Vec<String> {
        let (host, port) = (broker.host(), format!("port: Some({})", broker.port));
        let text = self.text();
        let lines = text.lines().filter(|line| line.contains(&host) || line.contains(&port));
        lines.map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
