//! Starting the loops: each binds in its own thread, none serves before all have bound and the office is open.
//!
//! A listener that was bound before a loop's descriptor table parts from the others would stay open in those after the loop
//! has closed it, so a loop binds after that; shared tables are served by the same order.
//!
//! Owns: the threads, the order of binding, and the barrier.
//! Never: decides what a loop is to do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use core_affinity::CoreId;
use crossbeam_channel::{Receiver, Sender, bounded};
use mio::net::{TcpListener, UdpSocket};
use rustls::ServerConfig;

use super::tables;
use super::{StartError, failed};
use crate::broker::Link;
use crate::config::Config;
use crate::event_loop::datagrams::socket;
use crate::event_loop::passage::Passage;
use crate::event_loop::{DESK_LOOP, Delivery, EventLoop, Office, Parts, Settings, Shared, listener};
use crate::mailbox::Mailbox;
use crate::shard::Shard;
use crate::shard::punch::Punch;

/// What one loop alone is given.
pub(super) struct Seat {
    pub(super) mailbox: Mailbox<Delivery>,
    pub(super) passage: Option<Passage>,
    pub(super) shard: Shard,
    pub(super) punch: Punch,
    pub(super) link: Option<Link>,
    /// Where it is pinned.
    pub(super) core: Option<CoreId>,
}

/// What all loops are given.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) settings: Arc<Settings>,
    pub(super) shared: Shared,
    /// Each loop has a descriptor table of its own.
    pub(super) own_tables: bool,
    /// Counts the loops that have ended.
    pub(super) finished: Arc<AtomicUsize>,
}

/// Loops that serve.
pub(super) struct Running {
    pub(super) threads: Vec<JoinHandle<()>>,
    /// Where peers reach them.
    pub(super) addresses: Vec<SocketAddr>,
    /// Where their datagrams do.
    pub(super) datagram_addresses: Vec<SocketAddr>,
    pub(super) metrics_address: Option<SocketAddr>,
}

/// An address, and what is to be had there.
#[derive(Clone, Copy)]
struct Place {
    address: SocketAddr,
    tcp: bool,
    udp: bool,
    /// A port that the kernel chooses for it is its own; otherwise several hosts share one.
    apart: bool,
}

/// What one loop is to listen on.
#[derive(Clone)]
struct Wanted {
    places: Vec<Place>,
    metrics: Option<SocketAddr>,
    /// Nobody has bound before: nobody else may listen there, and a free port is still to be chosen.
    first: bool,
}

/// What one loop listens on.
struct Bound {
    places: Vec<Place>,
    metrics: Option<SocketAddr>,
}

/// The beginning of one loop's thread as its starter sees it.
struct Beginning {
    thread: JoinHandle<()>,
    bound: Receiver<Result<Bound, StartError>>,
    go: Sender<Go>,
}

/// The word to serve, with the office for the loop that has it.
type Go = Box<Option<Office>>;

/// Starts the loops. They serve when this returns; if one of them cannot, none does. `open` is called when all of them have
/// their descriptor tables, and gives the desk's loop its office.
///
/// # Errors
/// An address that cannot be bound, a thread, poll or table that cannot be had, an office that cannot be opened.
pub(super) fn start(
    config: &Config,
    plan: &Plan,
    seats: Vec<Seat>,
    open: impl FnOnce() -> Result<Option<Office>, StartError>,
) -> Result<Running, StartError> {
    let mut wanted = Wanted {
        places: places(config),
        metrics: metrics_wanted(config),
        first: true,
    };
    let mut go = Vec::new();
    let mut threads = Vec::new();
    let bound = begin_all(plan, seats, &mut wanted, &mut go, &mut threads);
    let ready = bound.and_then(|metrics_address| Ok((metrics_address, open()?)));
    let started = ready.map(|(metrics_address, mut office)| {
        for (index, go) in go.iter().enumerate() {
            let office = if index == DESK_LOOP.index() {
                office.take()
            } else {
                None
            };
            let _ = go.send(Box::new(office));
        }
        metrics_address
    });
    // Without a word those that wait end here.
    drop(go);
    match started {
        Ok(metrics_address) => Ok(Running {
            threads,
            addresses: addresses(&wanted.places, |place| place.tcp),
            datagram_addresses: addresses(&wanted.places, |place| place.udp),
            metrics_address,
        }),
        Err(error) => {
            for thread in threads {
                let _ = thread.join();
            }
            Err(error)
        }
    }
}

/// Has all loops bind: the first alone, because it chooses the port, then the others at once.
fn begin_all(
    plan: &Plan,
    seats: Vec<Seat>,
    wanted: &mut Wanted,
    go: &mut Vec<Sender<Go>>,
    threads: &mut Vec<JoinHandle<()>>,
) -> Result<Option<SocketAddr>, StartError> {
    let mut metrics_address = None;
    let mut others = Vec::new();
    for (index, seat) in seats.into_iter().enumerate() {
        let Beginning {
            thread,
            bound,
            go: own_go,
        } = begin(index, plan.clone(), seat, wanted.clone())?;
        threads.push(thread);
        go.push(own_go);
        if wanted.first {
            let bound = outcome(&bound)?;
            (wanted.places, metrics_address) = (bound.places, bound.metrics);
            (wanted.metrics, wanted.first) = (None, false);
        } else {
            others.push(bound);
        }
    }
    for bound in &others {
        outcome(bound)?;
    }
    Ok(metrics_address)
}

fn begin(index: usize, plan: Plan, seat: Seat, wanted: Wanted) -> Result<Beginning, StartError> {
    let (report, bound) = bounded(1);
    let (go, gone) = bounded(1);
    let run = move || run(plan, seat, &wanted, &report, &gone);
    let thread = std::thread::Builder::new().name(format!("loop-{index}")).spawn(run);
    let thread = thread.map_err(|error| failed("thread", &error))?;
    Ok(Beginning { thread, bound, go })
}

fn outcome(bound: &Receiver<Result<Bound, StartError>>) -> Result<Bound, StartError> {
    let ended = |_| StartError("a loop's thread ended before it was ready".to_owned());
    bound.recv().map_err(ended)?
}

/// The thread of one loop.
fn run(plan: Plan, seat: Seat, wanted: &Wanted, report: &Sender<Result<Bound, StartError>>, go: &Receiver<Go>) {
    if plan.own_tables
        && let Err(error) = tables::own()
    {
        let _ = report.send(Err(failed("descriptor_tables", &error)));
        return;
    }
    if let Some(core) = seat.core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!(core = core.id, "a loop could not be pinned to its core");
    }
    let finished = plan.finished.clone();
    let event_loop = match ready(plan, seat, wanted) {
        Ok((event_loop, bound)) => {
            let _ = report.send(Ok(bound));
            event_loop
        }
        Err(error) => {
            let _ = report.send(Err(error));
            return;
        }
    };
    let Ok(office) = go.recv() else { return };
    match event_loop.run(*office) {
        // Its loop has ended: whoever works for the desk may take the time that it needs, and no more than is left of
        // `drain_timeout`, because this thread counts as finished only afterwards.
        Ok(office) => office.into_iter().for_each(Office::stop),
        Err(error) => {
            // Its peers cannot be served and its mail cannot be handled: a restart is the honest way on.
            tracing::error!(%error, "an event loop failed");
            std::process::abort();
        }
    }
    finished.fetch_add(1, Ordering::Release);
}

fn ready(plan: Plan, seat: Seat, wanted: &Wanted) -> Result<(EventLoop, Bound), StartError> {
    let Sockets {
        places,
        listeners,
        datagrams,
    } = bind(wanted)?;
    let metrics_listener = wanted.metrics.and_then(bind_metrics);
    let metrics = metrics_listener
        .as_ref()
        .and_then(|listener| listener.local_addr().ok());
    let parts = Parts {
        listeners,
        metrics_listener,
        sockets: datagrams,
        mailbox: seat.mailbox,
        passage: seat.passage,
        shard: seat.shard,
        punch: seat.punch,
        link: seat.link,
        tls: plan.tls,
        settings: plan.settings,
        shared: plan.shared,
    };
    let event_loop = EventLoop::new(parts).map_err(|error| failed("event loop", &error))?;
    Ok((event_loop, Bound { places, metrics }))
}

/// Where the server is to be reached: each host with the port and the further ports.
fn places(config: &Config) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let mut add = |port: u16, tcp: bool, udp: bool| {
        for host in &config.host {
            let address = SocketAddr::new(*host, port);
            match places.iter_mut().find(|place| place.address == address && port != 0) {
                Some(place) => {
                    place.tcp |= tcp;
                    place.udp |= udp;
                }
                None => places.push(Place {
                    address,
                    tcp,
                    udp,
                    apart: false,
                }),
            }
        }
    };
    let own_udp_port = config.udp_enabled && config.udp_port != 0;
    add(config.port, true, config.udp_enabled && !own_udp_port);
    if own_udp_port {
        add(config.udp_port, false, true);
    }
    for port in &config.extra_ports {
        add(*port, true, config.udp_enabled);
    }
    // The last one, so that whoever started the server finds the port that was chosen for it.
    if let Some(address) = config.matchmaker.bind {
        match places
            .iter_mut()
            .find(|place| place.address == address && address.port() != 0)
        {
            Some(place) => place.tcp = true,
            None => places.push(Place {
                address,
                tcp: true,
                udp: false,
                apart: true,
            }),
        }
    }
    places
}

fn addresses(places: &[Place], wanted: impl Fn(&Place) -> bool) -> Vec<SocketAddr> {
    let places = places.iter().filter(|place| wanted(place));
    places.map(|place| place.address).collect()
}

/// What was bound.
#[derive(Default)]
struct Sockets {
    places: Vec<Place>,
    listeners: Vec<TcpListener>,
    datagrams: Vec<(UdpSocket, SocketAddr)>,
}

/// Tries of finding a port that is free for everything that is to have it.
const PORT_TRIES: usize = 32;

/// Binds every place. A port that the kernel chooses is chosen again if not all of it is free.
fn bind(wanted: &Wanted) -> Result<Sockets, StartError> {
    let chooses = wanted.places.iter().any(|place| place.address.port() == 0);
    let mut tries = if chooses { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match try_bind(wanted) {
            Ok(sockets) => return Ok(sockets),
            Err((_, error)) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err((what, error)) => {
                return Err(match error.kind() {
                    io::ErrorKind::AddrInUse => StartError(format!("{what}: address in use")),
                    _ => failed(&what, &error),
                });
            }
        }
    }
}

fn try_bind(wanted: &Wanted) -> Result<Sockets, (String, io::Error)> {
    let mut sockets = Sockets::default();
    let mut chosen = 0;
    for place in &wanted.places {
        let mut address = place.address;
        if address.port() == 0 && !place.apart {
            // Several hosts share one port, also when any free one was asked for.
            address.set_port(chosen);
        }
        if place.tcp {
            let fail = |error| (address.to_string(), error);
            if wanted.first {
                listener::probe(address).map_err(fail)?;
            }
            let listener = listener::bind_shared(address).map_err(fail)?;
            address = listener.local_addr().unwrap_or(address);
            sockets.listeners.push(listener);
        }
        if place.udp {
            let fail = |error| (format!("{address} (UDP)"), error);
            if wanted.first {
                socket::probe(address).map_err(fail)?;
            }
            let socket = socket::bind_shared(address).map_err(fail)?;
            address = socket.local_addr().unwrap_or(address);
            sockets.datagrams.push((socket, address));
        }
        if place.address.port() == 0 && !place.apart {
            chosen = address.port();
        }
        sockets.places.push(Place { address, ..*place });
    }
    Ok(sockets)
}

fn metrics_wanted(config: &Config) -> Option<SocketAddr> {
    let host = config.host.first().copied();
    let host = host.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    config
        .metrics_enabled
        .then(|| SocketAddr::new(host, config.metrics_port))
}

/// The metrics page is a convenience: without its port the server runs all the same.
fn bind_metrics(wanted: SocketAddr) -> Option<TcpListener> {
    match listener::bind_alone(wanted) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(address = %wanted, %error, "metrics are not served: the address cannot be bound");
            None
        }
    }
}
