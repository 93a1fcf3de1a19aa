//! The broker: what makes several nodes one place, Redis or NATS.
//!
//! It has threads of its own, which may block. A loop hands it commands and traffic through bounded queues and never waits;
//! what it has to say it puts into the loop's queue of events and wakes the loop.
//!
//! Owns: the interface of an engine, which is one kind of broker, and the two ends of the queues.
//! Never: decides who may do what; an engine does, in one step for all nodes, by the rules of `docs/decisions/cluster.md`.

mod backoff;
mod figures;
mod link;
pub mod nats;
mod nodes;
mod plain;
pub mod redis;
mod run;
mod session;
mod traffic;
mod workers;

use std::fmt;
use std::time::Duration;

pub use figures::{Figures, Readings};
pub use link::{Busy, Link, Queues, Routes, Wake, connect};
pub use nodes::{NodeId, Nodes};
pub use run::{Options, Running, Times, start};
pub use traffic::MESSAGE_BYTES_MAX;

use crate::ids::{CommandId, NodeNo};
use crate::message::cluster::{Command, Event, Reply};

/// Counts the leases of a node: whatever was done under an earlier one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// Why a broker did not do what it was to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It cannot be reached, or its answer makes no sense: the connection is of no use any more.
    Lost(String),
    /// It does not know this node's epoch as alive: a lease must be taken first.
    Lapsed,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(why) => f.write_str(why),
            Self::Lapsed => f.write_str("the lease ran out"),
        }
    }
}

/// One kind of broker: how its parts are reached. Each part has a connection of its own and is used by one thread.
pub trait Engine: Send + Sync {
    /// The part that keeps this node's lease.
    ///
    /// # Errors
    /// The broker cannot be reached or refuses the credentials, as for all parts.
    fn lease(&self) -> Result<Box<dyn Lease>, Trouble>;
    /// The part that runs commands.
    ///
    /// # Errors
    /// See [`Engine::lease`].
    fn commands(&self) -> Result<Box<dyn Commands>, Trouble>;
    /// The part that reads what happened to this node's namespaces and keys in this epoch, from its beginning or, if that is
    /// given, from after the place that [`Inbox::place`] said.
    ///
    /// # Errors
    /// See [`Engine::lease`].
    fn inbox(&self, epoch: Epoch, after: Option<&str>) -> Result<Box<dyn Inbox>, Trouble>;
    /// The part that sends to other nodes.
    ///
    /// # Errors
    /// See [`Engine::lease`].
    fn publisher(&self) -> Result<Box<dyn Publisher>, Trouble>;
    /// The part that hears other nodes: on this node's own channel if it has one, and on those of section 9 of the peer
    /// protocol. It is subscribed when this returns.
    ///
    /// # Errors
    /// See [`Engine::lease`].
    fn subscriber(&self) -> Result<Box<dyn Subscriber>, Trouble>;
}

/// A lease that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its epoch.
    pub epoch: Epoch,
    /// The broker has lost what this fleet had told it, or never was told: the fleet must tell it again. A room that does
    /// not exist there may then be made again by [`crate::message::cluster::What::Rejoin`].
    pub empty: bool,
}

/// Who is there, as a renewal finds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Nodes that are alive, this one included.
    pub nodes: u32,
    /// Peers that are registered on them.
    pub peers: u64,
    /// Entries of the broker's data that this process could make no sense of, since it started.
    pub strange: u64,
}

/// How long a lease lasts that is not renewed, by the broker's clock.
pub const LEASE: Duration = Duration::from_secs(3);
/// Nobody renewed a lease for longer than that, but not for longer than this: the broker stood still, and all nodes have a
/// lease's length in which to come back.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);
/// How often it is renewed.
pub const RENEW: Duration = Duration::from_secs(1);
/// Bytes of public info that a complete group may hold (D22), as in a shard's own match queues.
const GROUP_INFO_MAX: usize = 256 * 1024;
/// Dead members that are swept in one step.
pub const SWEEP_MAX: usize = 500;

/// Keeps this node on the list of those who are alive.
pub trait Lease: Send {
    /// Takes a lease in an epoch that this node never had.
    ///
    /// # Errors
    /// The broker is lost.
    fn take(&mut self) -> Result<Taken, Trouble>;
    /// Goes on with an epoch after the connection was lost, if its lease has not run out and the broker still has its data;
    /// else as [`Lease::take`].
    ///
    /// # Errors
    /// The broker is lost.
    fn take_up(&mut self, epoch: Epoch) -> Result<Taken, Trouble>;
    /// Renews the lease, and declares those dead whose lease has run out: whoever is first has the others told, see
    /// [`Event::NodeGone`]. Says who is left: it is done each second, so counting must be cheap.
    ///
    /// # Errors
    /// [`Trouble::Lapsed`]: the lease ran out, or the broker was emptied.
    fn renew(&mut self, epoch: Epoch) -> Result<Fleet, Trouble>;
    /// Removes at most [`SWEEP_MAX`] entries of what dead nodes left. Whether there is more.
    ///
    /// # Errors
    /// The broker is lost.
    fn sweep(&mut self) -> Result<bool, Trouble>;
    /// Gives the lease back: this node is gone at once for all others.
    ///
    /// # Errors
    /// The broker is lost; the lease runs out by itself.
    fn release(&mut self, epoch: Epoch) -> Result<(), Trouble>;
}

/// Runs commands.
pub trait Commands: Send {
    /// Runs a batch in order and tells each reply, in that order but for what takes several steps: that comes after the others.
    /// Those without one when this fails may have been run or not.
    ///
    /// # Errors
    /// The broker is lost, or the epoch is over.
    fn run(&mut self, epoch: Epoch, batch: &[Command], told: &mut dyn FnMut(CommandId, Reply)) -> Result<(), Trouble>;
}

/// What an inbox tells.
#[derive(Clone, Debug)]
pub enum News {
    /// One of [`Event::Changed`], [`Event::Matched`], [`Event::Replaced`], [`Event::NodeGone`].
    Happened(Event),
    /// Something was missed: the node goes down and comes up again, so that its sessions are told again.
    Gap,
}

/// Reads what happened to this node's namespaces and keys: everything once, in order.
pub trait Inbox: Send {
    /// Tells what has happened; waits for it at most that long.
    ///
    /// # Errors
    /// The broker is lost.
    fn read(&mut self, wait: Duration, told: &mut dyn FnMut(News)) -> Result<(), Trouble>;
    /// How far it was read, for [`Engine::inbox`] after the connection was lost.
    fn place(&self) -> Option<String>;
}

/// Where traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// To one node.
    Node(NodeNo),
    /// To all: section 9 of the peer protocol.
    Signal,
    /// See [`Channel::Signal`].
    Relay,
    /// See [`Channel::Signal`].
    Broadcast,
    /// See [`Channel::Signal`].
    Ack,
}

/// Sends to other nodes: at most once, in order.
pub trait Publisher: Send {
    /// Sends a batch in order, perhaps an empty one. `unheard` is told those messages that nobody listened to, now or at a
    /// later call.
    ///
    /// # Errors
    /// The broker is lost; what was not sent is lost.
    fn publish(&mut self, batch: &[(Channel, &[u8])], unheard: &mut dyn FnMut(Unheard<'_>)) -> Result<(), Trouble>;
}

/// What nobody heard, and on which channel it was.
pub type Unheard<'a> = (Channel, &'a [u8]);

/// What a node heard, and on which channel; None: its own.
pub type Heard<'a> = (Option<Channel>, &'a [u8]);

/// Hears other nodes.
pub trait Subscriber: Send {
    /// Tells what has come; waits for it at most that long.
    ///
    /// # Errors
    /// The broker is lost; what was sent meanwhile will not be heard.
    fn receive(&mut self, wait: Duration, told: &mut dyn FnMut(Heard<'_>)) -> Result<(), Trouble>;
}
