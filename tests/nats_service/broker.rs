//! A NATS server with JetStream for one test, and the parts of ours that are connected to it.
//!
//! Owns: the server's process, port and folder; waiting for events.
//! Never: touches a server that somebody else runs.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use futures_util::StreamExt as _;
use peer_server::message::game_server::{Event, Note, RequestId};
use peer_server::provider::nats::{self, Back, Front, Handles, NatsStore, Parts, Settings, Tls};
use peer_server::provider::{GameServerProvider as _, Registry as _, Wake};
use tempfile::TempDir;

pub const USER: &str = "matchmaker";
pub const PASSWORD: &str = "hunter2-hunter2";
/// How long what must come may take.
pub const WITHIN: Duration = Duration::from_secs(10);

/// A server of our own.
pub struct Broker {
    folder: TempDir,
    child: Option<Child>,
    pub port: u16,
    tls: Option<(PathBuf, PathBuf)>,
    jetstream: bool,
}

impl Broker {
    /// One with JetStream; None: there is no nats-server on this machine, and the test says that it is skipped.
    pub fn start() -> Option<Self> {
        Self::start_with(true, None)
    }

    pub fn start_with(jetstream: bool, tls: Option<(PathBuf, PathBuf)>) -> Option<Self> {
        let mut broker = Self {
            folder: tempfile::tempdir().unwrap(),
            child: None,
            port: 0,
            tls,
            jetstream,
        };
        if program().is_none() {
            eprintln!("skipped: there is no nats-server (Debian's package nats-server)");
            return None;
        }
        broker.run();
        Some(broker)
    }

    /// Starts it, at the same port and with the same store as before.
    pub fn run(&mut self) {
        let folder = self.folder.path().to_owned();
        let port = if self.port == 0 {
            "-1".to_owned()
        } else {
            self.port.to_string()
        };
        let shown = folder.display();
        let mut text = format!(
            "host: 127.0.0.1\nport: {port}\nports_file_dir: {shown:?}\n\
             authorization {{ user: {USER}, password: {PASSWORD:?} }}\n"
        );
        if self.jetstream {
            text += &format!("jetstream {{ store_dir: {:?} }}\n", folder.join("store"));
        }
        if let Some((certificate, key)) = &self.tls {
            text += &format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}\n");
        }
        let config = folder.join("nats.conf");
        std::fs::write(&config, text).unwrap();
        let child = Command::new(program().unwrap())
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let ports = folder.join(format!("nats-server_{}.ports", child.id()));
        self.child = Some(child);
        self.port = wait_for("the server's port", || port_of(&ports));
        // The file is there before JetStream has recovered.
        let log = folder.join("log");
        wait_for("the server", || {
            std::fs::read_to_string(&log)
                .ok()?
                .contains("Server is ready")
                .then_some(())
        });
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn settings(&self) -> Settings {
        Settings {
            host: self.host(),
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
            tls: Tls::Insecure,
        }
    }

    /// A client of another's making.
    pub async fn client(&self) -> async_nats::Client {
        let options = async_nats::ConnectOptions::with_user_and_password(USER.to_owned(), PASSWORD.to_owned());
        options.connect(format!("nats://{}", self.host())).await.unwrap()
    }

    /// Ours, connected.
    pub fn connect(&self, parts: &Parts) -> Ours {
        let mut ours = Ours::start(&self.settings(), parts);
        ours.until_connected();
        if parts.back.is_some() && self.jetstream {
            // The server has taken the subscriptions when it has taken what was sent after them.
            let placement = crate::back::placement("nobody", "203.0.113.1:1");
            ours.back().register(RequestId(u64::MAX), 0, &placement, false).unwrap();
            ours.until("the registration", |event| {
                (*event == Event::Registered(RequestId(u64::MAX), None)).then_some(())
            });
            // What came before it is for the test.
            ours.ahead = std::mem::take(&mut ours.passed).into();
        }
        ours
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders
        .map(|folder| folder.join("nats-server"))
        .find(|file| file.is_file())
}

fn port_of(ports: &Path) -> Option<u16> {
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(ports).ok()?).ok()?;
    let url = value["nats"].as_array()?.first()?.as_str()?;
    url.rsplit(':').next()?.parse().ok()
}

pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + WITHIN;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A subscription that the server knows of when this returns.
pub async fn subscribe(client: &async_nats::Client, subject: &str) -> async_nats::Subscriber {
    let subscribed = client.subscribe(subject.to_owned()).await.unwrap();
    let inbox = client.new_inbox();
    let mut echo = client.subscribe(inbox.clone()).await.unwrap();
    client.publish(inbox, "".into()).await.unwrap();
    echo.next().await.unwrap();
    subscribed
}

/// Runs an async client's work.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let within = async { tokio::time::timeout(3 * WITHIN, work).await };
    runtime.block_on(within).expect("the client's work ends")
}

/// Our parts, with a wake that is noticed.
pub struct Ours {
    pub front: Option<Front>,
    pub back: Option<Back>,
    pub store: Option<NatsStore>,
    woken: Receiver<()>,
    /// Events that were taken while another was waited for.
    pub passed: Vec<Event>,
    /// Events that come before all others.
    ahead: VecDeque<Event>,
}

impl Ours {
    pub fn start(settings: &Settings, parts: &Parts) -> Self {
        let (sender, woken) = bounded(1);
        let wake: Wake = Arc::new(move || sender.try_send(()).unwrap_or_default());
        let Handles { front, back, store } = nats::prepare(settings, parts, &wake).unwrap().start().unwrap();
        Self {
            front,
            back,
            store,
            woken,
            passed: Vec::new(),
            ahead: VecDeque::new(),
        }
    }

    pub fn poll(&mut self) -> Option<Event> {
        if let Some(event) = self.ahead.pop_front() {
            return Some(event);
        }
        let front = self.front.as_mut().and_then(|front| front.poll_event());
        front.or_else(|| self.back.as_mut().and_then(|back| back.poll_event()))
    }

    /// The first event that `look` wants.
    pub fn until<T>(&mut self, what: &str, mut look: impl FnMut(&Event) -> Option<T>) -> T {
        let until = Instant::now() + WITHIN;
        loop {
            while let Some(event) = self.poll() {
                match look(&event) {
                    Some(found) => return found,
                    None => self.passed.push(event),
                }
            }
            let left = until.checked_duration_since(Instant::now());
            let left = left.unwrap_or_else(|| panic!("{what} does not come; passed {:?}", self.passed));
            let _ = self.woken.recv_timeout(left);
        }
    }

    /// The next event that is not for the metrics.
    pub fn next(&mut self) -> Event {
        self.until("an event", |event| {
            (!matches!(event, Event::Noted(_))).then(|| event.clone())
        })
    }

    pub fn until_connected(&mut self) {
        self.until("the connection", |event| {
            (*event == Event::Noted(Note::Connected(true))).then_some(())
        });
    }

    pub fn until_lost(&mut self) {
        self.until("the loss", |event| {
            (*event == Event::Noted(Note::Connected(false))).then_some(())
        });
    }

    pub fn front(&mut self) -> &mut Front {
        self.front.as_mut().unwrap()
    }

    pub fn back(&mut self) -> &mut Back {
        self.back.as_mut().unwrap()
    }

    pub fn stop(&mut self) {
        self.front.iter_mut().for_each(|front| front.stop());
        self.back.iter_mut().for_each(|back| back.stop());
    }
}

/// A recorded case.
pub fn vector(name: &str) -> serde_json::Value {
    let path = format!("{}/tests/vectors/bevygap/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What a recording has in the requester's inbox: the payloads, the empty ones included.
pub fn recorded_answers(case: &serde_json::Value) -> Vec<String> {
    let messages = case["nats"].as_array().unwrap().iter();
    let answers = messages.filter(|message| message["subject"] == "INBOX-1");
    answers
        .map(|message| message["payload"].as_str().unwrap().to_owned())
        .collect()
}
