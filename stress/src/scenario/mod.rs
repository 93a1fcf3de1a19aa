//! What a worker's connections do; one file for each scenario.
//!
//! Owns: the interface between a scenario and its worker.
//! Never: touches a socket.

mod broadcast;
mod connect;
mod idle;
mod inbox;
mod matching;
mod meeting;
mod message;
mod mixed;
mod node_loss;
mod pace;
mod pattern;
mod ping;
mod presence;
mod presence_log;
mod punch;
mod rooms;
mod seek;
mod signal;
mod slow;
mod stun;
mod waiting;

use std::time::Duration;

pub use seek::GAME;

use crate::worker::io::Io;
use crate::worker::protocol::Job;
use crate::worker::setup::Fault;
use crate::workload::Kind;

/// A scenario's share of one worker. Peers are numbered from 0 in each worker.
pub trait Scenario {
    /// Connections to make before anything begins.
    fn peers(&self) -> usize;

    /// UDP sockets to open before anything begins.
    fn sockets(&self) -> usize {
        0
    }

    /// What a peer joins when it connects: nothing, if the scenario does not say otherwise.
    fn namespaces(&self, peer: usize) -> Vec<String> {
        let _ = peer;
        Vec::new()
    }

    /// Whether a peer is none, but seeks a game server: its connection is ready when it is upgraded on that service's path.
    fn seeks(&self, peer: usize) -> bool {
        let _ = peer;
        false
    }

    /// On the floor: members of one group get what one of them sends.
    fn group(&self, peer: usize) -> usize {
        peer
    }

    /// A connection has become ready.
    fn on_ready(&mut self, io: &mut Io, slot: usize) {
        let _ = (io, slot);
    }

    /// All connections are ready: whether what they caused is over as well. Asked again until it is.
    fn settle(&mut self, io: &mut Io) -> bool {
        let _ = io;
        true
    }

    /// All connections are ready; it may block.
    ///
    /// # Errors
    /// What makes the measurement impossible.
    fn prepare(&mut self, io: &mut Io) -> Result<(), String> {
        let _ = io;
        Ok(())
    }

    /// Begin, or go on after a pause.
    fn start(&mut self, io: &mut Io);

    /// Start nothing new.
    fn pause(&mut self, io: &mut Io);

    /// A node of the cluster was killed.
    fn on_node_lost(&mut self, io: &mut Io) {
        let _ = io;
    }

    /// Whether nothing is under way.
    fn is_quiet(&self) -> bool;

    /// What is under way.
    fn describe_missing(&self) -> String;

    /// Input of a ready connection. Returns how much of it was used.
    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        let _ = (io, slot);
        bytes.len()
    }

    /// A datagram that came to a UDP socket.
    fn on_datagram(&mut self, io: &mut Io, index: usize, bytes: &[u8]) {
        let _ = bytes;
        io.fail(format!("socket {index} got a datagram"));
    }

    /// Whether more should come to a UDP socket.
    fn awaits_datagrams(&self, io: &Io, index: usize) -> bool {
        let _ = (io, index);
        true
    }

    /// Once a turn. Returns when to be called again at the latest.
    fn on_turn(&mut self, io: &mut Io) -> Option<Duration> {
        let _ = io;
        None
    }

    /// A connection that the scenario wanted (`Io::wanted`) did not become ready, and is gone.
    fn on_fault(&mut self, io: &mut Io, peer: usize, fault: &Fault) {
        io.fail(format!("peer {peer}: {}", fault.why));
    }

    /// A ready connection has ended without being asked to.
    fn on_ended(&mut self, io: &mut Io, slot: usize, peer: usize, why: &str) {
        let _ = slot;
        io.fail(format!("peer {peer} lost its connection: {why}"));
    }
}

/// The share of a worker.
pub fn make(job: &Job) -> Box<dyn Scenario> {
    match job.workload.scenario {
        Kind::Signal => Box::new(signal::Signal::new(job)),
        Kind::Broadcast => Box::new(broadcast::Broadcast::new(job)),
        Kind::Idle => Box::new(idle::Idle::new(job)),
        Kind::Connect => Box::new(connect::Connect::new(job)),
        Kind::Presence => Box::new(presence::Presence::new(job)),
        Kind::SlowReaders => Box::new(slow::SlowReaders::new(job)),
        Kind::Ping => Box::new(ping::Ping::new(job)),
        Kind::Match => Box::new(matching::Matching::new(job)),
        Kind::Mixed => Box::new(mixed::Mixed::new(job)),
        Kind::NodeLoss => Box::new(node_loss::NodeLoss::new(job)),
        Kind::Rooms => Box::new(rooms::Rooms::new(job)),
        Kind::Stun => Box::new(stun::Stun::new(job)),
        Kind::Punch => Box::new(punch::Punch::new(job)),
        Kind::Seek => Box::new(seek::Seek::new(job)),
    }
}

/// The share of worker `job.worker` in `total` things.
pub fn share(job: &Job, total: usize) -> usize {
    total / job.workers + usize::from(job.worker < total % job.workers)
}
