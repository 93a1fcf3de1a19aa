//! Starting the loops: each binds in its own thread, none serves before all have bound.
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
use mio::net::TcpListener;
use rustls::ServerConfig;

use super::tables;
use super::{StartError, failed};
use crate::config::Config;
use crate::event_loop::passage::Passage;
use crate::event_loop::{Delivery, EventLoop, Parts, Settings, Shared, listener};
use crate::mailbox::Mailbox;
use crate::shard::Shard;

/// What one loop alone is given.
pub(super) struct Seat {
    pub(super) mailbox: Mailbox<Delivery>,
    pub(super) passage: Option<Passage>,
    pub(super) shard: Shard,
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
    pub(super) metrics_address: Option<SocketAddr>,
}

/// What one loop is to listen on.
#[derive(Clone)]
struct Wanted {
    peers: Vec<SocketAddr>,
    metrics: Option<SocketAddr>,
    /// Nobody has bound before: nobody else may listen there, and a free port is still to be chosen.
    first: bool,
}

/// What one loop listens on.
struct Bound {
    peers: Vec<SocketAddr>,
    metrics: Option<SocketAddr>,
}

/// The beginning of one loop's thread as its starter sees it.
struct Beginning {
    thread: JoinHandle<()>,
    bound: Receiver<Result<Bound, StartError>>,
}

/// Starts the loops. They serve when this returns; if one of them cannot, none does.
///
/// # Errors
/// An address that cannot be bound, a thread, poll or table that cannot be had.
pub(super) fn start(config: &Config, plan: &Plan, seats: Vec<Seat>) -> Result<Running, StartError> {
    let mut wanted = Wanted {
        peers: config
            .host
            .iter()
            .map(|host| SocketAddr::new(*host, config.port))
            .collect(),
        metrics: metrics_wanted(config),
        first: true,
    };
    let (go, gone) = bounded(seats.len());
    let mut threads = Vec::new();
    let bound = begin_all(plan, seats, &mut wanted, &gone, &mut threads);
    if bound.is_ok() {
        for _ in &threads {
            let _ = go.send(());
        }
    }
    // Without a word those that wait end here.
    drop(go);
    match bound {
        Ok(metrics_address) => Ok(Running {
            threads,
            addresses: wanted.peers,
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
    go: &Receiver<()>,
    threads: &mut Vec<JoinHandle<()>>,
) -> Result<Option<SocketAddr>, StartError> {
    let mut metrics_address = None;
    let mut others = Vec::new();
    for (index, seat) in seats.into_iter().enumerate() {
        let Beginning { thread, bound } = begin(index, plan.clone(), seat, wanted.clone(), go.clone())?;
        threads.push(thread);
        if wanted.first {
            let bound = outcome(&bound)?;
            (wanted.peers, metrics_address) = (bound.peers, bound.metrics);
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

fn begin(index: usize, plan: Plan, seat: Seat, wanted: Wanted, go: Receiver<()>) -> Result<Beginning, StartError> {
    let (report, bound) = bounded(1);
    let run = move || run(plan, seat, &wanted, &report, &go);
    let thread = std::thread::Builder::new().name(format!("loop-{index}")).spawn(run);
    let thread = thread.map_err(|error| failed("thread", &error))?;
    Ok(Beginning { thread, bound })
}

fn outcome(bound: &Receiver<Result<Bound, StartError>>) -> Result<Bound, StartError> {
    let ended = |_| StartError("a loop's thread ended before it was ready".to_owned());
    bound.recv().map_err(ended)?
}

/// The thread of one loop.
fn run(plan: Plan, seat: Seat, wanted: &Wanted, report: &Sender<Result<Bound, StartError>>, go: &Receiver<()>) {
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
    if go.recv().is_err() {
        return;
    }
    if let Err(error) = event_loop.run() {
        // Its peers cannot be served and its mail cannot be handled: a restart is the honest way on.
        tracing::error!(%error, "an event loop failed");
        std::process::abort();
    }
    finished.fetch_add(1, Ordering::Release);
}

fn ready(plan: Plan, seat: Seat, wanted: &Wanted) -> Result<(EventLoop, Bound), StartError> {
    let (peers, listeners) = bind(wanted)?;
    let metrics_listener = wanted.metrics.and_then(bind_metrics);
    let metrics = metrics_listener
        .as_ref()
        .and_then(|listener| listener.local_addr().ok());
    let parts = Parts {
        listeners,
        metrics_listener,
        mailbox: seat.mailbox,
        passage: seat.passage,
        shard: seat.shard,
        tls: plan.tls,
        settings: plan.settings,
        shared: plan.shared,
    };
    let event_loop = EventLoop::new(parts).map_err(|error| failed("event loop", &error))?;
    Ok((event_loop, Bound { peers, metrics }))
}

/// One listener for each address.
fn bind(wanted: &Wanted) -> Result<(Vec<SocketAddr>, Vec<TcpListener>), StartError> {
    let mut addresses = Vec::new();
    let mut listeners = Vec::new();
    let mut port = 0;
    for address in &wanted.peers {
        let mut address = *address;
        if address.port() == 0 {
            // Several hosts share one port, also when any free one was asked for.
            address.set_port(port);
        }
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => StartError(format!("{address}: address in use")),
            _ => failed(&address.to_string(), &error),
        };
        if wanted.first {
            listener::probe(address).map_err(fail)?;
        }
        let listener = listener::bind_shared(address).map_err(fail)?;
        let bound = listener.local_addr().unwrap_or(address);
        port = bound.port();
        addresses.push(bound);
        listeners.push(listener);
    }
    Ok((addresses, listeners))
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
