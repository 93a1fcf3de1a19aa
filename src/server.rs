//! The server: connect the loops, start them, stop them.
//!
//! Owns: the composition of everything, the signals, and the order of start and stop.
//! Never: touches a connection.

mod brokers;
mod game_servers;
mod healthcheck;
mod host;
mod start;
mod tables;

use std::fmt;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rustls::ServerConfig;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::{self, Config, IceServer};
use crate::dialect::peer::{IceServers, TurnSecret};
use crate::event_loop::datagrams::DatagramSettings;
use crate::event_loop::passage::Passages;
use crate::event_loop::{AddressLimits, Delivery, Settings, Shared, tls};
use crate::ids::{Homes, LoopId};
use crate::mailbox::{self, Mailbox, Postbox, Waker};
use crate::metrics::Board;
use crate::shard::punch::{self, Punch};
use crate::shard::{Limits, Permits, Rate, Shard};

use brokers::Broker;
use game_servers::Prospect;
use start::{Plan, Running, Seat};
use tables::Tables;

pub use crate::event_loop::Service;
pub use game_servers::Substitutes;
pub use healthcheck::healthcheck;

/// Sockets that may be open without being registered peers, at least (peer protocol, D28).
const UNREGISTERED_MIN: usize = 1024;

/// The signals of the process once they are caught; taken by the server that heeds them.
///
/// Their handlers write to a pipe by its number, on whatever thread the kernel picks. So the pipe must stand in the
/// descriptor tables of all loops that there will ever be: one for the process, made before the first loop, kept for good.
static SIGNALS: Mutex<Signalled> = Mutex::new(Signalled::NotCaught);

enum Signalled {
    NotCaught,
    Caught(Signals),
    Taken,
}

/// Why the server did not start, for the operator.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// Looks at settings that are more than values: what they say must make sense to the part that they are for.
///
/// # Errors
/// Every fault found, each a sentence that begins with the key.
pub fn check(config: &Config) -> Result<(), Vec<String>> {
    let faults = brokers::check(config);
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// A started server: its loops are serving.
pub struct Server {
    addresses: Vec<SocketAddr>,
    datagram_addresses: Vec<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    postbox: Arc<Postbox<Delivery>>,
    threads: Vec<JoinHandle<()>>,
    reload: Option<Reload>,
    drain_timeout: Duration,
    finished: Arc<AtomicUsize>,
    broker: Option<Broker>,
    /// Kept until the loops have ended.
    _passages: Option<Passages>,
}

/// What is needed to read the certificate again.
struct Reload {
    certificate: std::path::PathBuf,
    key: std::path::PathBuf,
    ticketer: Arc<dyn rustls::server::ProducesTickets>,
}

impl Server {
    /// Has every loop bind every address, then all of them serve, and says where. From before that on the signals are
    /// caught: whoever reads the address may send one at once.
    ///
    /// Loops with descriptor tables of their own (`descriptor_tables`) begin with copies of what the process has open; what
    /// is to be closed for good while they run, such as a client's socket, is better opened afterwards.
    ///
    /// # Errors
    /// An address that cannot be bound, a certificate that cannot be read, a thread that cannot be started, signals
    /// that cannot be caught, descriptor tables that cannot be had.
    pub fn start(config: &Config, service: Service) -> Result<Self, StartError> {
        Self::start_with(config, service, Substitutes::default())
    }

    /// Like [`Server::start`], with parts that take the place of the server's own.
    ///
    /// # Errors
    /// As for [`Server::start`].
    pub fn start_with(config: &Config, service: Service, mut substitutes: Substitutes) -> Result<Self, StartError> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let loops = loop_count(config);
        let tables = Tables::arrange(config.descriptor_tables, loops, host::raise_descriptor_limit())
            .map_err(|error| failed("descriptor_tables", &error))?;
        let (tls, reload) = load_tls(config)?;
        catch_signals()?;
        let (mailboxes, postbox) = connect(config, loops)?;
        let postbox = Arc::new(postbox);
        let wake = game_servers::wake(postbox.clone());
        let office = game_servers::prepare(config, &wake, &mut substitutes)?;
        let homes = Homes::new(loops as u16, rand::rng().random());
        let mut broker = brokers::prepare(config, &homes, &postbox, &mut substitutes)?;
        let settings = Settings {
            fleet: broker.as_ref().map(|broker| broker.fleet(config)),
            ..settings(config, service, loops)
        };
        let passages = (tables.per_loop && loops > 1).then(|| Passages::new(loops));
        let passages = passages.transpose().map_err(|error| failed("passages", &error))?;

        let plan = Plan {
            tls,
            settings: Arc::new(substitutes.alter(settings)),
            shared: Shared {
                permits: Arc::new(Permits::default()),
                board: Board::new(loops),
                serving: Arc::new(AtomicBool::new(true)),
                drained: Arc::new(AtomicUsize::new(0)),
            },
            own_tables: tables.per_loop,
            finished: Arc::new(AtomicUsize::new(0)),
        };
        let pin = config.pin_cores && loops <= cores.len();
        let mut seats = seats(
            config,
            &plan.shared,
            homes,
            mailboxes,
            passages.as_ref(),
            broker.as_mut(),
        );
        for (seat, core) in seats.iter_mut().zip(cores).filter(|_| pin) {
            seat.core = Some(core);
        }
        let mut opened = None;
        let started = start::start(config, &plan, seats, || {
            opened = broker.map(brokers::Prepared::open).transpose()?.flatten();
            office.map(Prospect::open).transpose()
        });
        let Running {
            threads,
            addresses,
            datagram_addresses,
            metrics_address,
        } = match started {
            Ok(running) => running,
            Err(error) => {
                opened.into_iter().for_each(Broker::stop);
                return Err(error);
            }
        };
        announce(
            config,
            &addresses,
            &datagram_addresses,
            metrics_address,
            loops,
            pin,
            tables,
        );
        warn_of_public_address(config, &datagram_addresses);
        Ok(Self {
            addresses,
            datagram_addresses,
            metrics_address,
            postbox,
            threads,
            reload,
            drain_timeout: config.drain_timeout,
            finished: plan.finished,
            broker: opened,
            _passages: passages,
        })
    }

    /// The addresses that peers can reach it at; that of `matchmaker.bind`, unless it is one of the others, is the last.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses that datagrams can be sent to.
    pub fn datagram_addresses(&self) -> &[SocketAddr] {
        &self.datagram_addresses
    }

    /// The address of the metrics page.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Serves until SIGTERM or SIGINT, then drains; SIGHUP reads the certificate again; a second SIGTERM or SIGINT ends
    /// the process at once with status 1.
    ///
    /// # Panics
    /// A server of this process has done so before: the signals are heeded once.
    pub fn run_until_signalled(self) {
        let mut caught = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
        let Signalled::Caught(mut signals) = std::mem::replace(&mut *caught, Signalled::Taken) else {
            panic!("a server of this process has waited for its signals before");
        };
        drop(caught);
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        for signal in &mut signals {
            if signal == SIGHUP {
                self.reload_certificate();
                continue;
            }
            tracing::info!(signal, "stopping");
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            break;
        }
        // Kept for good, thread or not: loops that are still there have its pipe in their tables.
        let signals = Box::leak(Box::new(signals));
        let second = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            if signals.forever().any(|signal| signal != SIGHUP) {
                std::process::exit(1);
            }
        });
        drop(second);
        self.stop();
    }

    /// Drains and joins the loops; those that have not finished within `drain_timeout` are left behind. Then the other nodes
    /// are told that this one is gone.
    pub fn stop(mut self) {
        let broker = self.broker.take();
        self.stop_loops();
        broker.into_iter().for_each(Broker::stop);
    }

    fn stop_loops(self) {
        let deadline = Instant::now() + self.drain_timeout;
        let loops = self.threads.len();
        for index in 0..loops {
            // An inbox that is full now is taken up in a moment: its loop always drains it.
            while !self.postbox.post(LoopId::new(index as u16), Delivery::Stop) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        while self.finished.load(Ordering::Acquire) < loops {
            if Instant::now() >= deadline {
                tracing::warn!("connections were left open at the end of drain_timeout");
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }

    fn reload_certificate(&self) {
        let Some(Reload {
            certificate,
            key,
            ticketer,
        }) = &self.reload
        else {
            tracing::info!("nothing to reload: TLS is off");
            return;
        };
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
        match tls::load(certificate, key, ticketer.clone()) {
            Ok(config) => {
                for index in 0..self.postbox.loops() {
                    if !self
                        .postbox
                        .post(LoopId::new(index as u16), Delivery::Reload(config.clone()))
                    {
                        tracing::error!(index, "a loop keeps the old certificate: its inbox is full");
                    }
                }
                tracing::info!("the certificate was reloaded");
            }
            Err(error) => tracing::error!(error, "the certificate was not reloaded: the old one stays"),
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }
}

fn failed(what: &str, error: &io::Error) -> StartError {
    StartError(format!("{what}: {error}"))
}

fn loop_count(config: &Config) -> usize {
    match config.loops {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        loops => loops,
    }
    .min(LoopId::LOOPS_MAX - 1)
}

fn catch_signals() -> Result<(), StartError> {
    let mut caught = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Signalled::NotCaught = *caught {
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|error| failed("signals", &error))?;
        *caught = Signalled::Caught(signals);
    }
    Ok(())
}

fn load_tls(config: &Config) -> Result<(Option<Arc<ServerConfig>>, Option<Reload>), StartError> {
    let (Some(certificate), Some(key)) = (&config.tls_cert, &config.tls_key) else {
        return Ok((None, None));
    };
    let ticketer = tls::ticketer().map_err(StartError)?;
    let loaded = tls::load(certificate, key, ticketer.clone()).map_err(StartError)?;
    let reload = Reload {
        certificate: certificate.clone(),
        key: key.clone(),
        ticketer,
    };
    Ok((Some(loaded), Some(reload)))
}

fn connect(config: &Config, loops: usize) -> Result<(Vec<Mailbox<Delivery>>, Postbox<Delivery>), StartError> {
    let wakers: io::Result<Vec<Waker>> = (0..loops).map(|_| Waker::new()).collect();
    let wakers = wakers.map_err(|error| failed("waker", &error))?;
    Ok(mailbox::connect(wakers, config.mail_bytes))
}

fn seats(
    config: &Config,
    shared: &Shared,
    homes: Homes,
    mailboxes: Vec<Mailbox<Delivery>>,
    passages: Option<&Passages>,
    broker: Option<&mut brokers::Prepared>,
) -> Vec<Seat> {
    let limits = Arc::new(limits(config, mailboxes.len()));
    let clustered = broker.as_ref().is_some_and(|broker| broker.cluster_state);
    let homes = if clustered { homes.in_cluster() } else { homes };
    let links = broker.map(|broker| std::mem::take(&mut broker.links));
    let mut links = links.unwrap_or_default().into_iter();
    let punch_limits = Arc::new(punch_limits(config));
    let punch_permits = Arc::new(punch::Permits::default());
    let seat = |(index, mailbox)| {
        let id = LoopId::new(index as u16);
        let seed = rand::rng().random();
        let punch_seed = rand::rng().random();
        let mut shard = Shard::new(id, homes.clone(), limits.clone(), shared.permits.clone(), seed);
        if clustered {
            shard.join_cluster();
        }
        Seat {
            mailbox,
            link: links.next(),
            passage: passages.map(|passages| passages.end_of(id)),
            shard,
            punch: Punch::new(
                id,
                homes.clone(),
                punch_limits.clone(),
                punch_permits.clone(),
                punch_seed,
            ),
            core: None,
        }
    };
    mailboxes.into_iter().enumerate().map(seat).collect()
}

fn millis(duration: Duration) -> u64 {
    // A year is as good as for ever, and leaves room for adding.
    (duration.as_millis() as u64).clamp(u64::from(!duration.is_zero()), 366 * 24 * 3_600_000)
}

/// Connections that may be open without being registered.
fn unregistered_max(config: &Config) -> usize {
    (config.max_peers / 10).max(UNREGISTERED_MIN)
}

fn settings(config: &Config, service: Service, loops: usize) -> Settings {
    let rate = u64::from(config.registrations_per_sec_per_ip);
    Settings {
        service,
        max_peers: config.max_peers,
        shard_count: config.shard_count,
        unregistered_max: unregistered_max(config),
        write_timeout_ms: millis(config.write_timeout),
        read_timeout_ms: millis(config.read_timeout),
        ping_interval_ms: millis(config.ping_interval),
        pong_wait_ms: millis(config.pong_wait),
        drain_linger_ms: millis(config.drain_timeout) / 2,
        max_message_size: config.max_message_size,
        send_messages_max: config.send_buffer_size,
        send_bytes_max: config.send_buffer_bytes,
        list_bytes_max: config.list_bytes_max,
        output_bytes_max: share_of_memory(config.output_bytes_max, loops),
        presence_window_ms: millis(config.presence_window),
        presence_window_from: config.presence_window_from,
        socket_send_bytes: config.socket_send_bytes,
        compression: config.compression_enabled,
        allowed_origins: config.allowed_origins.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
        addresses: AddressLimits {
            connections: config.max_connections_per_ip,
            unregistered: config.unregistered_per_ip,
            registrations: Rate::new(rate, rate),
        },
        datagrams: DatagramSettings {
            // In the order of `Dialect`.
            enabled: [
                config.stun_enabled,
                config.punch_matchmaker_enabled,
                config.punch_simple_enabled,
                config.punch_natpunch_enabled,
            ],
            public_ipv4: config.public_ipv4,
            public_ipv6: config.public_ipv6,
            public_port: config.public_port,
            stun_per_sec: config.stun_answers_per_sec,
            stun_per_prefix_per_sec: config.stun_answers_per_prefix_per_sec,
            others_per_sec: config.punch_datagrams_per_sec,
        },
        ice: ice_servers(config),
        seekers: game_servers::seekers(config),
        fleet: None,
    }
}

fn punch_limits(config: &Config) -> punch::Limits {
    punch::Limits {
        registrations_per_min_per_ip: config.punch_registrations_per_min_per_ip,
        sessions_per_ip: config.punch_sessions_per_ip,
        sessions_max: config.punch_sessions_max,
        misses_per_min_per_ip: config.punch_misses_per_min_per_ip,
        simple_id_codes: config.punch_simple_id_codes,
        simple_share_local: match config.share_local {
            config::ShareLocal::SamePublicIp => punch::ShareLocal::SamePublicIp,
            config::ShareLocal::Always => punch::ShareLocal::Always,
            config::ShareLocal::Never => punch::ShareLocal::Never,
        },
        simple_replies_per_sec: config.punch_simple_replies_per_sec,
        simple_replies_per_10_sec: config.punch_simple_replies_per_10_sec,
        simple_joins_per_sec: config.punch_simple_joins_per_sec,
        simple_joins_per_session: config.punch_simple_joins_per_session,
        natpunch_lobbies_max: config.punch_natpunch_lobbies_max,
        natpunch_lobbies_per_client: config.punch_natpunch_lobbies_per_client,
        natpunch_joins_per_sec: config.punch_natpunch_joins_per_sec,
        matchmaker_connections_per_ip: config.punch_matchmaker_connections_per_ip,
        // They stay open and are counted among those that are not registered, of which peers need their part.
        matchmaker_connections_max: (unregistered_max(config) / 2) as u32,
        matchmaker_lobbies_per_session: config.punch_matchmaker_lobbies_per_session,
    }
}

/// Session ids of the ASCII dialect begin with the server's public address, which it cannot know by itself.
fn warn_of_public_address(config: &Config, datagram_addresses: &[SocketAddr]) {
    let unspecified = |address: &&SocketAddr| address.ip().is_unspecified();
    if config.public_ipv4.is_some()
        || !config.punch_simple_enabled
        || datagram_addresses.iter().find(unspecified).is_none()
    {
        return;
    }
    match host::outgoing_ipv4() {
        Some(own) if !own.is_private() && !own.is_loopback() && !own.is_link_local() => tracing::warn!(
            %own,
            "public_ipv4 is not set: session ids of simple-hole-punch begin with the address that a datagram was sent to"
        ),
        own => tracing::warn!(
            own = own.map(|own| own.to_string()),
            "PUBLIC_IPV4 IS NOT SET and this machine's own address is private: session ids of simple-hole-punch begin with an \
             address that nobody outside can reach. Set public_ipv4 to the address that clients use"
        ),
    }
}

fn ice_servers(config: &Config) -> IceServers {
    let mut servers = IceServers {
        secret: TurnSecret::new(&config.turn_secret),
        ttl_s: config.turn_ttl.as_secs(),
        ..IceServers::default()
    };
    for server in &config.ice_servers {
        match server {
            // A client that is sent to a port where nobody answers waits for nothing.
            IceServer::Auto => servers.own = config.udp_enabled && config.stun_enabled,
            IceServer::Stun(url) => servers.stun.push(url.clone()),
            IceServer::Turn(url) => servers.turn.push(url.clone()),
        }
    }
    servers
}

fn limits(config: &Config, loops: usize) -> Limits {
    let deliveries = u64::from(config.fanout_per_sec);
    Limits {
        max_peers: config.max_peers,
        max_rooms: config.max_rooms,
        max_match_waiting: config.max_match_waiting,
        messages: Rate::new(config.rate_limit_per_sec.into(), config.rate_limit_burst.into()),
        deliveries: Rate::new(deliveries, deliveries),
        send_buffer_size: config.send_buffer_size,
        send_buffer_bytes: config.send_buffer_bytes,
        state_bytes: share_of_memory(config.state_bytes_max, loops),
    }
}

/// One loop's share of a bound of the process; 0 stands for a quarter of the machine's memory.
fn share_of_memory(bytes: u64, loops: usize) -> usize {
    let bytes = if bytes == 0 { host::memory_bytes() / 4 } else { bytes };
    usize::try_from(bytes).unwrap_or(usize::MAX) / loops.max(1)
}

fn list(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    addresses.join(",")
}

fn announce(
    config: &Config,
    addresses: &[SocketAddr],
    datagram_addresses: &[SocketAddr],
    metrics_address: Option<SocketAddr>,
    loops: usize,
    pinned: bool,
    tables: Tables,
) {
    let mut stdout = io::stdout().lock();
    for address in addresses {
        // For whoever started it on any free port. A closed stdout is no reason to stop.
        let _ = writeln!(stdout, "listening on {address}");
    }
    let _ = stdout.flush();
    tracing::info!(
        listening = list(addresses),
        datagrams = list(datagram_addresses),
        tls = config.tls_cert.is_some(),
        metrics = metrics_address
            .map(|address| address.to_string())
            .unwrap_or_else(|| "off".to_owned()),
        loops,
        pinned,
        max_peers = config.max_peers,
        descriptors = tables.descriptors,
        descriptor_tables = tables.name(),
        send_buffer_size = config.send_buffer_size,
        rate_limit_per_sec = config.rate_limit_per_sec,
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
    if !tables.suffice_for(config.max_peers as u64) {
        tracing::warn!(
            descriptors = tables.descriptors,
            descriptor_tables = tables.name(),
            loops,
            max_peers = config.max_peers,
            "the descriptor limit allows only {} connections: raise it (LimitNOFILE, ulimit -n)",
            tables.connections()
        );
    }
}
