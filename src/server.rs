//! The server: bind, connect the loops, start them, stop them.
//!
//! Owns: the composition of everything, the threads, and the order of start and stop.
//! Never: touches a connection.

mod healthcheck;
mod host;

use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::TcpListener;
use mio::{Poll, Waker};
use rand::RngExt as _;
use rustls::ServerConfig;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::Config;
use crate::event_loop::{AddressLimits, Delivery, EventLoop, Parts, Settings, Shared, WAKER, listener, tls};
use crate::ids::{Homes, LoopId};
use crate::mailbox::{self, Mailbox, Postbox};
use crate::metrics::Board;
use crate::shard::{Limits, Permits, Rate, Shard};

pub use crate::event_loop::Service;
pub use healthcheck::healthcheck;

/// Sockets that may be open without being registered peers, at least (peer protocol, D28).
const UNREGISTERED_MIN: usize = 1024;
/// Descriptors that are not connections: polls, listeners, files.
const DESCRIPTORS_SPARE: u64 = 64;

/// Why the server did not start, for the operator.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// A started server: its loops are serving.
pub struct Server {
    addresses: Vec<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    postbox: Postbox<Delivery>,
    threads: Vec<JoinHandle<()>>,
    reload: Option<Reload>,
    drain_timeout: Duration,
    finished: Arc<AtomicUsize>,
    /// Taken when it is run.
    signals: Option<Signals>,
}

/// What is needed to read the certificate again.
struct Reload {
    certificate: std::path::PathBuf,
    key: std::path::PathBuf,
    ticketer: Arc<dyn rustls::server::ProducesTickets>,
}

impl Server {
    /// Binds every address, then starts the loops and says where it listens. From before that on the signals are
    /// caught: whoever reads the address may send one at once.
    ///
    /// # Errors
    /// An address that cannot be bound, a certificate that cannot be read, a thread that cannot be started, signals
    /// that cannot be caught.
    pub fn start(config: &Config, service: Service) -> Result<Self, StartError> {
        let descriptors = host::raise_descriptor_limit();
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let loops = loop_count(config);
        let (tls, reload) = load_tls(config)?;
        let (addresses, mut listeners) = bind(config, loops)?;
        let (metrics_address, mut metrics_listener) = bind_metrics(config);

        let settings = Arc::new(settings(config, service, loops));
        let limits = Arc::new(limits(config, loops));
        let shared = Shared {
            permits: Arc::new(Permits::default()),
            board: Board::new(loops),
            serving: Arc::new(AtomicBool::new(true)),
            drained: Arc::new(AtomicUsize::new(0)),
        };
        let (polls, mailboxes, postbox) = connect(config, loops)?;
        let homes = Homes::new(loops as u16, rand::rng().random());
        let finished = Arc::new(AtomicUsize::new(0));
        let pin = config.pin_cores && loops <= cores.len();
        let mut event_loops = Vec::new();
        for (index, (poll, mailbox)) in polls.into_iter().zip(mailboxes).enumerate() {
            let id = LoopId::new(index as u16);
            let seed = rand::rng().random();
            let shard = Shard::new(id, homes.clone(), limits.clone(), shared.permits.clone(), seed);
            let parts = Parts {
                poll,
                listeners: listeners.iter_mut().filter_map(Vec::pop).collect(),
                metrics_listener: metrics_listener.take(),
                mailbox,
                shard,
                tls: tls.clone(),
                settings: settings.clone(),
                shared: shared.clone(),
            };
            event_loops.push(EventLoop::new(parts).map_err(|error| failed("event loop", &error))?);
        }
        let mut threads = Vec::new();
        for (index, event_loop) in event_loops.into_iter().enumerate() {
            let core = if pin { cores.get(index).copied() } else { None };
            let finished = finished.clone();
            let run = move || {
                if let Some(core) = core
                    && !core_affinity::set_for_current(core)
                {
                    tracing::warn!(core = core.id, "a loop could not be pinned to its core");
                }
                if let Err(error) = event_loop.run() {
                    // Its peers cannot be served and its mail cannot be handled: a restart is the honest way on.
                    tracing::error!(%error, "an event loop failed");
                    std::process::abort();
                }
                finished.fetch_add(1, Ordering::Release);
            };
            let thread = std::thread::Builder::new().name(format!("loop-{index}")).spawn(run);
            threads.push(thread.map_err(|error| failed("thread", &error))?);
        }
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|error| failed("signals", &error))?;
        announce(config, &addresses, metrics_address, loops, pin, descriptors);
        let drain_timeout = config.drain_timeout;
        Ok(Self {
            addresses,
            metrics_address,
            postbox,
            threads,
            reload,
            drain_timeout,
            finished,
            signals: Some(signals),
        })
    }

    /// The addresses that peers can reach it at.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The address of the metrics page.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Serves until SIGTERM or SIGINT, then drains; SIGHUP reads the certificate again; a second SIGTERM or SIGINT ends
    /// the process at once with status 1.
    pub fn run_until_signalled(mut self) {
        let mut signals = self
            .signals
            .take()
            .expect("only this takes them, and it takes the server");
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
        let second = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            if signals.forever().any(|signal| signal != SIGHUP) {
                std::process::exit(1);
            }
        });
        drop(second);
        self.stop();
    }

    /// Drains and joins the loops; those that have not finished within `drain_timeout` are left behind.
    pub fn stop(self) {
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
    .min(usize::from(u16::MAX - 1))
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

/// All addresses, each with one listener for every loop, before any loop serves.
fn bind(config: &Config, loops: usize) -> Result<(Vec<SocketAddr>, Vec<Vec<TcpListener>>), StartError> {
    let mut addresses = Vec::new();
    let mut groups = Vec::new();
    let mut port = config.port;
    for host in &config.host {
        let wanted = SocketAddr::new(*host, port);
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => StartError(format!("{wanted}: address in use")),
            _ => failed(&wanted.to_string(), &error),
        };
        listener::probe(wanted).map_err(fail)?;
        let group = listener::bind_group(wanted, loops).map_err(fail)?;
        let bound = group
            .first()
            .and_then(|listener| listener.local_addr().ok())
            .unwrap_or(wanted);
        // Several hosts share one port, also when any free one was asked for.
        port = bound.port();
        addresses.push(bound);
        groups.push(group);
    }
    Ok((addresses, groups))
}

/// The metrics page is a convenience: without its port the server runs all the same.
fn bind_metrics(config: &Config) -> (Option<SocketAddr>, Option<TcpListener>) {
    if !config.metrics_enabled {
        return (None, None);
    }
    let host = config
        .host
        .first()
        .copied()
        .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let wanted = SocketAddr::new(host, config.metrics_port);
    match listener::bind_alone(wanted) {
        Ok(listener) => (listener.local_addr().ok(), Some(listener)),
        Err(error) => {
            tracing::warn!(address = %wanted, %error, "metrics are not served: the address cannot be bound");
            (None, None)
        }
    }
}

type Connected = (Vec<Poll>, Vec<Mailbox<Delivery>>, Postbox<Delivery>);

fn connect(config: &Config, loops: usize) -> Result<Connected, StartError> {
    let mut polls = Vec::new();
    let mut wakers = Vec::new();
    for _ in 0..loops {
        let poll = Poll::new().map_err(|error| failed("poll", &error))?;
        wakers.push(Waker::new(poll.registry(), WAKER).map_err(|error| failed("waker", &error))?);
        polls.push(poll);
    }
    let (mailboxes, postbox) = mailbox::connect(wakers, config.mail_bytes);
    Ok((polls, mailboxes, postbox))
}

fn millis(duration: Duration) -> u64 {
    // A year is as good as for ever, and leaves room for adding.
    (duration.as_millis() as u64).clamp(u64::from(!duration.is_zero()), 366 * 24 * 3_600_000)
}

fn settings(config: &Config, service: Service, loops: usize) -> Settings {
    let rate = u64::from(config.registrations_per_sec_per_ip);
    Settings {
        service,
        max_peers: config.max_peers,
        shard_count: config.shard_count,
        unregistered_max: (config.max_peers / 10).max(UNREGISTERED_MIN),
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
        socket_send_bytes: config.socket_send_bytes,
        compression: config.compression_enabled,
        allowed_origins: config.allowed_origins.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
        addresses: AddressLimits {
            connections: config.max_connections_per_ip,
            unregistered: config.unregistered_per_ip,
            registrations: Rate::new(rate, rate),
        },
    }
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

fn announce(
    config: &Config,
    addresses: &[SocketAddr],
    metrics_address: Option<SocketAddr>,
    loops: usize,
    pinned: bool,
    descriptors: u64,
) {
    let mut stdout = io::stdout().lock();
    let mut listening = String::new();
    for address in addresses {
        // For whoever started it on any free port. A closed stdout is no reason to stop.
        let _ = writeln!(stdout, "listening on {address}");
        listening = format!("{listening}{}{address}", if listening.is_empty() { "" } else { "," });
    }
    let _ = stdout.flush();
    tracing::info!(
        listening,
        tls = config.tls_cert.is_some(),
        metrics = metrics_address
            .map(|address| address.to_string())
            .unwrap_or_else(|| "off".to_owned()),
        loops,
        pinned,
        max_peers = config.max_peers,
        descriptors,
        send_buffer_size = config.send_buffer_size,
        rate_limit_per_sec = config.rate_limit_per_sec,
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
    let connections = descriptors.saturating_sub(DESCRIPTORS_SPARE);
    if connections < config.max_peers as u64 {
        tracing::warn!(
            descriptors,
            max_peers = config.max_peers,
            "the descriptor limit allows only {connections} connections: raise it (LimitNOFILE, ulimit -n)"
        );
    }
}
