//! What the scenes of this test have in common: a server in this process, and those who work for its desk.
//!
//! Owns: the settings of a test, the provider and the register that do as they are told, the conditions to wait for.
//! Never: decides what is right.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use peer_server::config::{Config, DescriptorTables, GameServer, Provider};
use peer_server::message::game_server::{CertDigest, Event, KeyIndex, Placement, RequestId, Seek, SessionName};
use peer_server::provider::{Answer, Busy, GameServerProvider, Inbox, Outbox, Registry, outbox};
use peer_server::server::{Server, Service as Kind, Substitutes};
use serde_json::{Value, json};

use crate::support::{ANSWER_WITHIN, Client, ConnectOptions, http};

/// A key that stands in no other text.
pub(crate) const KEY: [u8; 32] = [
    201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 216, 217, 218, 219, 220, 221, 222, 223,
    224, 225, 226, 227, 228, 229, 230, 231, 232,
];
pub(crate) const PROTOCOL_ID: u64 = 80_085;
/// The game of the configured server.
pub(crate) const STATIC_GAME: &str = "arena";
/// The game of the recordings; the provider serves it.
pub(crate) const GAME: &str = "bevygap-spaceships";
/// The origin of the recordings.
pub(crate) const ORIGIN: &str = "http://127.0.0.1";
/// Stands for clients of this machine, as in the recordings.
pub(crate) const FAKE_IP: &str = "81.128.157.100";

/// A server in this process. Dropping it stops it.
pub(crate) struct Service {
    server: Option<Server>,
    /// Where peers come.
    pub(crate) addr: SocketAddr,
    /// Where the service has a port of its own.
    pub(crate) own: SocketAddr,
    metrics: SocketAddr,
    pub(crate) provider: Provided,
    pub(crate) registry: Registered,
}

impl Service {
    pub(crate) fn start(loops: usize) -> Self {
        Self::with(loops, |_| {})
    }

    /// With other settings.
    pub(crate) fn with(loops: usize, alter: impl FnOnce(&mut Config)) -> Self {
        Self::timed(loops, None, alter)
    }

    /// With another time for the first message.
    pub(crate) fn timed(loops: usize, first_message: Option<Duration>, alter: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(loops);
        alter(&mut config);
        let (provider, registry) = (Provided::default(), Registered::default());
        let (at_provider, at_registry) = (provider.clone(), registry.clone());
        let substitutes = Substitutes {
            provider: Some(Box::new(move |wake| {
                let (outbox, inbox) = outbox(wake.clone());
                at_provider.locked().outbox = Some(outbox);
                Box::new(ToldProvider(at_provider, inbox))
            })),
            registry: Some(Box::new(move |wake| {
                let (outbox, inbox) = outbox(wake.clone());
                at_registry.locked().outbox = Some(outbox);
                Box::new(ToldRegistry(at_registry, inbox))
            })),
            first_message,
            ..Substitutes::default()
        };
        let server = Server::start_with(&config, Kind::Peers, substitutes).unwrap();
        Self {
            addr: server.addresses()[0],
            own: *server.addresses().last().unwrap(),
            metrics: server.metrics_address().unwrap(),
            server: Some(server),
            provider,
            registry,
        }
    }

    /// Stops it, and returns when it has stopped.
    pub(crate) fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }

    /// Begins to stop it.
    pub(crate) fn begin_stop(&mut self) -> thread::JoinHandle<()> {
        let server = self.server.take().unwrap();
        thread::spawn(move || server.stop())
    }

    /// A WebSocket that has said nothing yet.
    pub(crate) fn connect(&self) -> Client {
        self.connect_to("/matchmaker/ws", &[])
    }

    pub(crate) fn connect_to(&self, path: &str, headers: &[(&str, &str)]) -> Client {
        Client::connect(self.addr, options(path, headers))
    }

    /// A WebSocket whose request the provider has.
    pub(crate) fn seek(&self) -> (Client, RequestId, Seek) {
        let mut client = self.connect();
        client.send_json(&request(GAME));
        client.expect_json(&json!("Acknowledged"));
        let (id, seek) = self.provider.submitted();
        (client, id, seek)
    }

    /// The value of a metric, labels included in its name.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let page = http(self.metrics, "GET", "/metrics", &[]);
        let text = page.text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no metric {name}")).parse().unwrap()
    }

    pub(crate) fn wait_for_metric(&self, name: &str, value: u64) {
        wait_until(
            || self.metric(name) == value,
            || format!("{name} {value}, it is {}", self.metric(name)),
        );
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn options(path: &str, headers: &[(&str, &str)]) -> ConnectOptions {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    ConnectOptions {
        path: path.to_owned(),
        headers: headers.iter().map(own).collect(),
        // Offered by every browser, and not taken here.
        extensions: Some("permessage-deflate; client_max_window_bits".to_owned()),
        ..ConnectOptions::default()
    }
}

/// A first message.
pub(crate) fn request(game: &str) -> Value {
    json!({ "game": game, "version": "1" })
}

/// Sends bytes and reads until the server ends the connection.
pub(crate) fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_else(|error| {
        panic!("{error} after {:?}", String::from_utf8_lossy(&answer));
    });
    answer
}

/// Head and body of an answer, the body put together from its chunks if it has any.
pub(crate) fn parts(answer: &[u8]) -> (String, String) {
    let text = String::from_utf8(answer.to_vec()).unwrap();
    let (head, mut rest) = text.split_once("\r\n\r\n").unwrap();
    if !head.contains("Transfer-Encoding: chunked") {
        return (head.to_owned(), rest.to_owned());
    }
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").unwrap_or_else(|| panic!("no end in {text:?}"));
        let size = usize::from_str_radix(size, 16).unwrap();
        body.push_str(&after[..size]);
        rest = after[size..].strip_prefix("\r\n").unwrap();
        if size == 0 {
            assert_eq!(rest, "", "nothing comes after the end");
            return (head.to_owned(), body);
        }
    }
}

/// The lines of a body, each of which is JSON.
pub(crate) fn lines(body: &str) -> Vec<Value> {
    assert!(body.is_empty() || body.ends_with('\n'), "{body:?}");
    body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn wait_until(mut condition: impl FnMut() -> bool, what: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {}", what());
        thread::sleep(Duration::from_millis(5));
    }
}

/// A server that the provider found.
pub(crate) fn placement(session: &str) -> Box<Placement> {
    Box::new(Placement {
        session: SessionName::new(session).unwrap(),
        public: "203.0.113.10:30004".parse().unwrap(),
        internal: Vec::new(),
        cert_digest: CertDigest::parse(&"ab".repeat(32)),
        key: KeyIndex(0),
    })
}

fn config(loops: usize) -> Config {
    let mut config = Config {
        host: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        port: 0,
        metrics_enabled: true,
        metrics_port: 0,
        udp_enabled: false,
        loops,
        pin_cores: false,
        // Tables of their own would keep clients' sockets of other tests open, which run in this process as well.
        descriptor_tables: DescriptorTables::Shared,
        drain_timeout: Duration::from_secs(4),
        ..Config::default()
    };
    let service = &mut config.matchmaker;
    service.enabled = true;
    service.bind = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    service.provider = Provider::Edgegap;
    service.app_name = GAME.to_owned();
    service.app_version = "1".to_owned();
    service.cors = vec![ORIGIN.to_owned()];
    service.fake_ip = Some(FAKE_IP.parse().unwrap());
    service.private_key = KEY.map(|byte| byte.to_string()).join(",");
    service.protocol_id = PROTOCOL_ID;
    service.servers = vec![GameServer {
        id: "arena-1".to_owned(),
        public: "198.51.100.1:5000".parse().unwrap(),
        internal: vec!["10.0.0.1:5000".parse().unwrap()],
        game: STATIC_GAME.to_owned(),
        version: "1".to_owned(),
        capacity: 1000,
        cert_digest: "cd".repeat(32),
        region: String::new(),
        protocol_id: None,
        private_key_file: None,
        private_key: None,
    }];
    config
}

/// What a provider was told, and its way to tell.
#[derive(Clone, Default)]
pub(crate) struct Provided(Arc<Mutex<ProviderState>>);

#[derive(Default)]
struct ProviderState {
    outbox: Option<Outbox>,
    submitted: Vec<(RequestId, Seek)>,
    cancelled: Vec<RequestId>,
    stopped: bool,
}

impl Provided {
    pub(crate) fn tell(&self, event: Event) {
        let outbox = self.locked().outbox.clone();
        outbox.unwrap().tell(event);
    }

    /// The oldest request that was not taken yet.
    pub(crate) fn submitted(&self) -> (RequestId, Seek) {
        wait_until(
            || !self.locked().submitted.is_empty(),
            || "a request at the provider".to_owned(),
        );
        self.locked().submitted.remove(0)
    }

    pub(crate) fn has_none(&self) -> bool {
        self.locked().submitted.is_empty()
    }

    pub(crate) fn wait_cancelled(&self, id: RequestId) {
        wait_until(|| self.locked().cancelled.contains(&id), || format!("{id:?} cancelled"));
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.locked().stopped
    }

    fn locked(&self) -> MutexGuard<'_, ProviderState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct ToldProvider(Provided, Inbox);

impl GameServerProvider for ToldProvider {
    fn submit(&mut self, id: RequestId, seek: Seek) -> Result<(), Busy> {
        self.0.locked().submitted.push((id, seek));
        Ok(())
    }
    fn cancel(&mut self, id: RequestId) {
        self.0.locked().cancelled.push(id);
    }
    fn claimed(&mut self, _session: &SessionName) {}
    fn released(&mut self, _session: &SessionName) {}
    fn has_events(&self) -> bool {
        self.1.has_events()
    }
    fn poll_event(&mut self) -> Option<Event> {
        self.1.poll_event()
    }
    fn stop(&mut self) {
        self.0.locked().stopped = true;
    }
}

/// What a register was told, and its way to tell.
#[derive(Clone, Default)]
pub(crate) struct Registered(Arc<Mutex<RegistryState>>);

#[derive(Default)]
struct RegistryState {
    outbox: Option<Outbox>,
    answers: Vec<(u64, Answer)>,
    stopped: bool,
}

impl Registered {
    pub(crate) fn tell(&self, event: Event) {
        let outbox = self.locked().outbox.clone();
        outbox.unwrap().tell(event);
    }

    /// All answers to a request, the end among them.
    pub(crate) fn answers(&self, remote: u64) -> Vec<Answer> {
        let of = |state: &RegistryState| -> Vec<Answer> {
            let own = state.answers.iter().filter(|(to, _)| *to == remote);
            own.map(|(_, answer)| answer.clone()).collect()
        };
        wait_until(
            || of(&self.locked()).last() == Some(&Answer::End),
            || format!("the end after {:?}", of(&self.locked())),
        );
        of(&self.locked())
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.locked().stopped
    }

    fn locked(&self) -> MutexGuard<'_, RegistryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct ToldRegistry(Registered, Inbox);

impl Registry for ToldRegistry {
    fn register(&mut self, id: RequestId, _: u64, _: &Placement, _: bool) -> Result<(), Busy> {
        self.0.tell(Event::Registered(id, None));
        Ok(())
    }
    fn answer(&mut self, remote: u64, answer: Answer) {
        self.0.locked().answers.push((remote, answer));
    }
    fn has_events(&self) -> bool {
        self.1.has_events()
    }
    fn poll_event(&mut self) -> Option<Event> {
        self.1.poll_event()
    }
    fn stop(&mut self) {
        self.0.locked().stopped = true;
    }
}
