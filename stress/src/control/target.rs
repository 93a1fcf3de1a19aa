//! What is measured: a server that is started here, ours or another, one that runs already, or the floor.
//!
//! Owns: the processes that it started, and their end.
//! Never: measures.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::broker::{self, Broker};
use super::seekers;
use crate::stun;
use crate::worker::pin;
use crate::worker::protocol::Wire;
use crate::workload::{Kind, Placement, Workload};

/// How targets are started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cores of the server.
    pub cores: Vec<usize>,
    /// Its event loops.
    pub loops: usize,
    /// Nodes of a cluster, if there is a broker.
    pub nodes: usize,
    /// What connects them.
    pub broker: Option<broker::Kind>,
    /// Its settings, over those that a measurement needs.
    pub settings: Vec<String>,
    /// Process of a server that runs already.
    pub pid: Option<u32>,
}

/// Something to measure.
pub struct Target {
    /// What it is called in tables.
    pub name: String,
    /// What it speaks.
    pub wire: Wire,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process, if that is on this machine.
    pub pid: Option<u32>,
    /// Its event loops, if that is known.
    pub loops: Option<usize>,
    /// The other nodes, if it is the first of a cluster.
    pub others: Vec<Self>,
    /// What connects them.
    pub broker: Option<Broker>,
    /// Where peers go, if its name says so.
    pub placement: Option<Placement>,
    child: Option<Child>,
    _folder: Option<TempDir>,
    _stalled: Option<TcpListener>,
}

impl Target {
    /// Starts or finds `what`: `floor`, the path of a server, the address of a running one, or a command line with `{port}`;
    /// `NAME=` before it names it.
    ///
    /// # Errors
    /// It cannot be started, or nobody listens.
    pub fn open(what: &str, workload: &Workload, options: &Options) -> Result<Self, String> {
        let (name, what) = what
            .split_once('=')
            .filter(|(name, _)| !name.contains(char::is_whitespace))
            .unwrap_or((what, what));
        let host = match workload.ipv6 {
            true => IpAddr::V6(Ipv6Addr::LOCALHOST),
            false => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        if let Some(lose_every) = match what {
            "floor" => Some("0"),
            other => other.strip_prefix("floor-that-loses-every:"),
        } {
            if !workload.scenario.has_floor() || seekers::are_in(workload) {
                return Err(format!(
                    "{name}: it passes on what it reads and answers nothing; this scenario needs a server"
                ));
            }
            let own = std::env::current_exe().map_err(|error| error.to_string())?;
            let mut command = Command::new(own);
            let address = SocketAddr::new(host, 0).to_string();
            command.args(["floor", "--address", &address, "--lose-every", lose_every]);
            if workload.scenario == Kind::Stun {
                command.arg("--stun");
            }
            return Self::start(name, Wire::Floor, command, None, options);
        }
        let (path, how) = what.split_once('@').unwrap_or((what, ""));
        if Path::new(path).is_file() {
            return Self::start_nodes(name, path, how, workload, host, options);
        }
        if what.contains(PORT) {
            return Self::start_other(name, what, workload, host, options);
        }
        let address = what.to_socket_addrs().ok().and_then(|mut all| all.next());
        let address = address
            .ok_or_else(|| format!("{what} is neither `floor`, nor a file, nor an address, nor has it {PORT}"))?;
        if !workload.scenario.is_datagrams() {
            TcpStream::connect_timeout(&address, Duration::from_secs(3))
                .map_err(|error| format!("no server at {address}: {error}"))?;
        }
        Ok(Self {
            name: name.to_owned(),
            wire: Wire::Peers,
            address,
            pid: options.pid,
            loops: None,
            others: Vec::new(),
            broker: None,
            placement: None,
            child: None,
            _folder: None,
            _stalled: None,
        })
    }

    /// Starts a server of ours, or as many as are to be a cluster.
    fn start_nodes(
        name: &str,
        path: &str,
        how: &str,
        workload: &Workload,
        host: IpAddr,
        options: &Options,
    ) -> Result<Self, String> {
        let (placement, kind) = match how {
            "" => (None, options.broker),
            "alone" => (None, None),
            "same-node" => (Some(Placement::SameNode), options.broker),
            "cross-node" => (Some(Placement::CrossNode), options.broker),
            _ => return Err(format!("{name}: after @ comes `same-node`, `cross-node` or `alone`")),
        };
        let of_nodes = placement.unwrap_or(workload.placement).is_of_nodes() || workload.scenario == Kind::NodeLoss;
        if of_nodes && (kind.is_none() || options.nodes < 2) {
            return Err(format!("{name}: a placement on nodes needs several: give --nodes"));
        }
        if kind.is_some() && workload.scenario == Kind::Presence && workload.reconnect {
            return Err(format!(
                "{name}: with a broker presence is proved by the list of who joins again on its connection: no reconnect"
            ));
        }
        let broker = kind.map(|kind| Broker::start(kind, &options.cores)).transpose()?;
        let mut nodes = Vec::new();
        for _ in 0..kind.map_or(1, |_| options.nodes) {
            let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
            let stalled = seekers::stalled(workload)?;
            let settings = settings(
                workload,
                options,
                host,
                folder.path(),
                stalled.as_ref(),
                broker.as_ref(),
            )?;
            let config = folder.path().join("config.json");
            std::fs::write(&config, settings).map_err(|error| error.to_string())?;
            let mut command = Command::new(path);
            command.arg("-config").arg(&config);
            let mut node = Self::start(name, Wire::Peers, command, Some(folder), options)?;
            node._stalled = stalled;
            nodes.push(node);
        }
        let mut first = nodes.remove(0);
        if broker.is_some() {
            // Between nodes there is as little order as between loops.
            first.loops = None;
        }
        first.others = nodes;
        first.broker = broker;
        first.placement = placement;
        Ok(first)
    }

    /// The processes of all nodes.
    pub fn pids(&self) -> Vec<u32> {
        self.pid
            .into_iter()
            .chain(self.others.iter().flat_map(Self::pids))
            .collect()
    }

    /// Kills the last node.
    pub fn kill_last(&mut self) {
        if let Some(child) = self.others.last_mut().and_then(|node| node.child.as_mut()) {
            // It cannot have ended by itself unseen: its connections would have.
            let _ = child.kill();
        }
    }

    /// What is left of sessions, namespaces and requests: at the broker, and as the nodes that run count them.
    pub fn left(&self) -> Vec<String> {
        let mut left = self.broker.as_ref().map_or(Vec::new(), Broker::entries);
        for address in self.addresses() {
            // A node that was killed counts nothing.
            let Ok(stats) = broker::get(address, "/stats") else {
                continue;
            };
            let stats: Value = serde_json::from_str(&stats).unwrap_or_default();
            if stats["total_peers"] != 0 || stats["node_peers"] != 0 || stats["namespaces"] != json!({}) {
                left.push(format!("{address} counts {stats}"));
            }
        }
        left
    }

    /// Where all nodes listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let others = self.others.iter().map(|other| other.address);
        std::iter::once(self.address).chain(others).collect()
    }

    fn start(
        name: &str,
        wire: Wire,
        mut command: Command,
        folder: Option<TempDir>,
        options: &Options,
    ) -> Result<Self, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(folder) = &folder {
            let log = File::create(folder.path().join("log")).map_err(|error| error.to_string())?;
            command.stderr(log);
        }
        let mut child = on_cores(&options.cores, || command.spawn()).map_err(|error| format!("{program}: {error}"))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            // Nothing else is ever written to it, so it may close.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .and_then(|text| text.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let _ = child.wait();
            let log = folder.map(|folder| std::fs::read_to_string(folder.path().join("log")).unwrap_or_default());
            return Err(format!("{program} did not start: {line}{}", log.unwrap_or_default()));
        };
        Ok(Self {
            name: name.to_owned(),
            wire,
            address,
            pid: Some(child.id()),
            loops: (!options.settings.iter().any(|set| set.starts_with("loops="))).then_some(options.loops),
            others: Vec::new(),
            broker: None,
            placement: None,
            child: Some(child),
            _folder: folder,
            _stalled: None,
        })
    }

    /// Starts a server that is not ours by its command line, which no shell reads, and waits until it answers.
    fn start_other(
        name: &str,
        line: &str,
        workload: &Workload,
        host: IpAddr,
        options: &Options,
    ) -> Result<Self, String> {
        let address = SocketAddr::new(host, free_port(host).map_err(|error| error.to_string())?);
        let line = line
            .replace(PORT, &address.port().to_string())
            .replace(ADDRESS, &host.to_string());
        let mut words = line.split_whitespace();
        let program = words.next().unwrap_or_default();
        let name = if name.contains(PORT) { program } else { name };
        let mut command = Command::new(program);
        command.args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = on_cores(&options.cores, || command.spawn()).map_err(|error| format!("{program}: {error}"))?;
        let mut target = Self {
            name: name.to_owned(),
            wire: Wire::Peers,
            address,
            pid: Some(child.id()),
            loops: None,
            others: Vec::new(),
            broker: None,
            placement: None,
            child: Some(child),
            _folder: None,
            _stalled: None,
        };
        let deadline = Instant::now() + START_MAX;
        while !answers(address, workload.scenario) {
            let ended = target
                .child
                .as_mut()
                .is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                return Err(format!("{program} does not answer at {address}"));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(target)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Measured to the end: nothing is left that a drain would save.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that nobody has, by TCP or by UDP.
pub fn free_port(host: IpAddr) -> std::io::Result<u16> {
    let mut last = None;
    for _ in 0..100 {
        let held = TcpListener::bind((host, 0))?;
        let port = held.local_addr()?.port();
        match UdpSocket::bind((host, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}

/// Whether somebody answers there.
fn answers(address: SocketAddr, scenario: Kind) -> bool {
    if scenario != Kind::Stun {
        return TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok();
    }
    let ask = || {
        let socket = UdpSocket::bind((address.ip(), 0))?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        socket.send(&stun::request([7; 12]))?;
        socket.recv(&mut [0; 2048])
    };
    ask().is_ok()
}

/// Runs `spawn` so that what it starts stays on `cores`.
///
/// # Errors
/// There is no such core, or it cannot be started.
pub fn on_cores<T>(cores: &[usize], spawn: impl FnOnce() -> std::io::Result<T>) -> Result<T, String> {
    let all: Vec<usize> = (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
    // A child inherits the cores of the thread that starts it.
    pin(cores)?;
    let spawned = spawn().map_err(|error| error.to_string());
    pin(&all)?;
    spawned
}

/// The configuration of a server under test: no limit of one peer is in the way, all others stay.
fn settings(
    workload: &Workload,
    options: &Options,
    host: IpAddr,
    folder: &Path,
    stalled: Option<&TcpListener>,
    broker: Option<&Broker>,
) -> Result<String, String> {
    let mut settings = Map::from_iter([
        ("host".to_owned(), json!(host.to_string())),
        ("port".to_owned(), json!(0)),
        ("loops".to_owned(), json!(options.loops)),
        ("metrics_enabled".to_owned(), json!(false)),
        ("rate_limit_per_sec".to_owned(), json!(0)),
        ("fanout_per_sec".to_owned(), json!(0)),
        ("send_buffer_size".to_owned(), json!(4096)),
        ("send_buffer_bytes".to_owned(), json!(16 << 20)),
        ("compression_enabled".to_owned(), json!(workload.compression)),
        ("log_level".to_owned(), json!("warn")),
    ]);
    if workload.scenario == Kind::Match {
        settings.insert("max_match_waiting".to_owned(), json!(10_000_000));
    }
    if workload.scenario == Kind::SlowReaders {
        // What is shown is what the defaults do for those who read slowly.
        settings.retain(|key, _| !key.starts_with("send_buffer_"));
    }
    if workload.scenario.is_datagrams() {
        settings.insert("udp_enabled".to_owned(), json!(true));
        settings.extend(DATAGRAM_LIMITS.iter().map(|limit| ((*limit).to_owned(), json!(0))));
    }
    settings.extend(seekers::settings(workload, stalled, folder)?);
    settings.extend(broker.map(Broker::settings).unwrap_or_default());
    if workload.tls {
        let certified =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).map_err(|error| error.to_string())?;
        for (setting, file, text) in [
            ("tls_cert", "cert.pem", certified.cert.pem()),
            ("tls_key", "key.pem", certified.signing_key.serialize_pem()),
        ] {
            let path = folder.join(file);
            std::fs::write(&path, text).map_err(|error| error.to_string())?;
            settings.insert(setting.to_owned(), json!(path));
        }
    }
    for setting in &options.settings {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("`{setting}` is not of the form key=value"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        settings.insert(key.to_owned(), value);
    }
    Ok(Value::from(settings).to_string())
}

/// In a command line: where the server is to listen.
const PORT: &str = "{port}";
const ADDRESS: &str = "{address}";
/// As long as another server may take to answer.
const START_MAX: Duration = Duration::from_secs(10);
/// What a server lets one client or one network do by UDP: those of a measurement share an address.
const DATAGRAM_LIMITS: &[&str] = &[
    "stun_answers_per_sec",
    "stun_answers_per_prefix_per_sec",
    "punch_datagrams_per_sec",
    "punch_registrations_per_min_per_ip",
    "punch_sessions_per_ip",
    "punch_misses_per_min_per_ip",
    "punch_simple_replies_per_sec",
    "punch_simple_replies_per_10_sec",
];
