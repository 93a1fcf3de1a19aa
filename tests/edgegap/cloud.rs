//! The mock of the cloud as a child process, and a provider that calls it.
//!
//! Owns: starting and ending both, and waiting for what must come. Never: sleeps for a fixed time.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use peer_server::message::game_server::{Event, Failure, Note, Placement, RequestId, Seek, SessionName, Wanted};
use peer_server::provider::edgegap::{Edgegap, Settings};
use peer_server::provider::store::{FileStore, SessionStore as _};
use peer_server::provider::{GameServerProvider as _, outbox};
use serde_json::Value;
use tempfile::TempDir;
use ureq::tls::TlsConfig;

/// What must come must come within this time.
const WITHIN: Duration = Duration::from_secs(20);
/// What the mock wants to see.
pub(crate) const KEY: &str = "token test-key";

/// The mock.
pub(crate) struct Cloud {
    child: Child,
    pub(crate) url: String,
    control: ureq::Agent,
}

impl Cloud {
    pub(crate) fn start(options: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/edgegap/mock_edgegap.py");
        let mut child = Command::new("python3")
            .arg(script)
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 runs");
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let url = line
            .trim()
            .strip_prefix("LISTENING ")
            .expect("its first line")
            .to_owned();
        let tls = TlsConfig::builder()
            .disable_verification(true)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let config = ureq::Agent::config_builder().tls_config(tls).proxy(None);
        let control = config.timeout_global(Some(WITHIN)).build().new_agent();
        Self { child, url, control }
    }

    /// Changes options at run time.
    pub(crate) fn config(&self, options: &Value) {
        let answer = self
            .control
            .post(format!("{}/__mock/config", self.url))
            .send(options.to_string());
        answer.expect("the options are known");
    }

    pub(crate) fn state(&self) -> Value {
        let answer = self.control.get(format!("{}/__mock/state", self.url)).call();
        let text = answer.unwrap().body_mut().read_to_string().unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Ends a session behind the provider's back.
    pub(crate) fn end(&self, session: &SessionName) {
        let request = self.control.delete(format!("{}/v1/session/{session}", self.url));
        request.header("authorization", KEY).call().unwrap();
    }

    /// How many requests of this kind came.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        let state = self.state();
        let is_such = |request: &&Value| {
            request["method"] == method && request["path"].as_str().is_some_and(|at| at.starts_with(path))
        };
        state["requests"].as_array().unwrap().iter().filter(is_such).count()
    }

    /// Names of the sessions and deployments that are there.
    pub(crate) fn undeleted(&self) -> Vec<String> {
        let state = self.state();
        let kinds = ["sessions", "deployments"].into_iter();
        let items = kinds.flat_map(|kind| state[kind].as_object().unwrap().clone());
        items
            .filter(|(_, item)| item["deleted"] == false)
            .map(|(name, _)| name)
            .collect()
    }

    pub(crate) fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + WITHIN;
        while !so(self) {
            assert!(
                Instant::now() < end,
                "not within {WITHIN:?}: {what}; {:#}",
                self.state()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The provider with its record.
pub(crate) struct Provider {
    pub(crate) edgegap: Edgegap,
    pub(crate) store: Arc<FileStore>,
    pub(crate) notes: Vec<Note>,
    woken: Receiver<()>,
    last: u64,
}

impl Provider {
    pub(crate) fn start(settings: Settings, folder: &TempDir) -> Self {
        Self::start_on(settings, &folder.path().join("sessions"))
    }

    pub(crate) fn start_on(settings: Settings, record: &Path) -> Self {
        let store = Arc::new(FileStore::open(record).unwrap());
        let (wake, woken) = bounded(1);
        let (sender, inbox) = outbox(Arc::new(move || {
            let _ = wake.try_send(());
        }));
        let edgegap = Edgegap::start(settings, store.clone(), sender, inbox).unwrap();
        Self {
            edgegap,
            store,
            notes: Vec::new(),
            woken,
            last: 0,
        }
    }

    pub(crate) fn seek(&mut self) -> RequestId {
        self.last += 1;
        let id = RequestId(self.last);
        let client_ip: IpAddr = "198.51.100.7".parse().unwrap();
        let wanted = Wanted::Configured;
        self.edgegap.submit(id, Seek { wanted, client_ip }).unwrap();
        id
    }

    /// The next event that is no note.
    pub(crate) fn event(&mut self) -> Event {
        let end = Instant::now() + WITHIN;
        loop {
            match self.edgegap.poll_event() {
                Some(Event::Noted(note)) => self.notes.push(note),
                Some(event) => return event,
                None => {
                    let woken = self.woken.recv_deadline(end);
                    assert!(woken.is_ok(), "no event within {WITHIN:?}");
                }
            }
        }
    }

    /// Passes over everything up to the end of the only request.
    pub(crate) fn end(&mut self) -> Result<Placement, Failure> {
        loop {
            match self.event() {
                Event::Ready(_, placement) => return Ok(*placement),
                Event::Failed(_, failure) => return Err(failure),
                Event::Accepted(..) | Event::Progress(..) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn accepted(&mut self) -> SessionName {
        match self.event() {
            Event::Accepted(_, session) => session,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until nothing is left in the cloud and on record.
    pub(crate) fn until_nothing_left(&mut self, cloud: &Cloud) {
        cloud.until("nothing is left", |cloud| {
            cloud.undeleted().is_empty() && self.store.all().unwrap().is_empty()
        });
        assert_eq!(cloud.undeleted(), Vec::<String>::new());
    }

    /// Waits for a note.
    pub(crate) fn until_noted(&mut self, note: Note) {
        let end = Instant::now() + WITHIN;
        while !self.notes.contains(&note) {
            match self.edgegap.poll_event() {
                Some(Event::Noted(note)) => self.notes.push(note),
                Some(_) => {}
                None => assert!(self.woken.recv_deadline(end).is_ok(), "no {note:?} within {WITHIN:?}"),
            }
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.edgegap.stop();
    }
}

/// Times short enough for tests.
pub(crate) fn settings(cloud: &Cloud) -> Settings {
    Settings {
        url: cloud.url.clone(),
        api_key: KEY.to_owned(),
        app_name: "bevygap-spaceships".to_owned(),
        app_version: "1".to_owned(),
        creates_per_sec: 1000,
        polls_per_sec: 1000,
        ..Settings::default()
    }
}
