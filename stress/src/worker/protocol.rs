//! What the coordinator and its workers tell each other: one JSON document a line, over the worker's standard streams.
//!
//! Owns: the words.
//! Never: reads or writes a stream.

use std::net::{IpAddr, SocketAddr};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::workload::{Kind, Placement, Workload};

/// What a worker is to do; the first line that it reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The workload of all workers together.
    pub workload: Workload,
    /// What it talks to.
    pub wire: Wire,
    /// Where that listens.
    pub address: SocketAddr,
    /// Where all nodes of it listen; that is the first.
    pub nodes: Vec<SocketAddr>,
    /// Which worker this is, of how many.
    pub worker: usize,
    /// How many workers share the workload.
    pub workers: usize,
    /// Begins every key and namespace, so that runs never meet.
    pub run: String,
    /// The address to connect from.
    pub source: IpAddr,
    /// The core to run on.
    pub core: Option<usize>,
    /// The server's process, if it is on this machine.
    pub pid: Option<u32>,
    /// Whether a broker has the say over namespaces: who joins is then answered with what was true a moment after its join.
    pub broker: bool,
    /// The server's event loops, if that is known.
    pub loops: Option<usize>,
}

impl Job {
    /// Where a peer connects. The two of a pair, and the members of a namespace, are on as many nodes as there are, unless
    /// they are to be on one.
    pub fn node_of(&self, peer: usize) -> SocketAddr {
        let turn = match (self.workload.placement, self.workload.scenario) {
            (Placement::SameNode, Kind::Signal) => peer / 2,
            (Placement::SameNode, _) => peer / self.workload.namespace_size,
            _ => peer,
        };
        let nodes = self.nodes.len().max(1);
        self.nodes.get(turn % nodes).copied().unwrap_or(self.address)
    }
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wire {
    /// The peer protocol.
    Peers,
    /// The floor's: one hello, then whatever.
    Floor,
}

/// What a worker is told after its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Begin, or go on, sending.
    Start,
    /// Say what was counted so far.
    Mark,
    /// The last node of the cluster was killed.
    NodeLost,
    /// Send no more; say so when everything under way has arrived.
    Pause,
    /// Forget the latencies so far.
    Forget,
    /// Say what came of it since the last report.
    Report,
    /// End.
    End,
}

/// What a worker says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notice {
    /// So many connections are ready, of how many.
    Progress(usize, usize),
    /// All are: it waits for [`Order::Start`].
    Ready,
    /// The answer to [`Order::Mark`].
    Marked(Counts),
    /// Nothing is under way any more.
    Paused,
    /// The answer to [`Order::Report`].
    Reported(Box<Report>),
    /// It cannot do its job.
    Stuck(String),
}

/// What a worker counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Nanoseconds of its monotonic clock.
    pub at_ns: u64,
    /// Nanoseconds that it was running on a core.
    pub busy_ns: u64,
    /// Messages or requests sent.
    pub sent: u64,
    /// Messages that arrived where they should, or answers.
    pub arrived: u64,
    /// Messages that the server refused, and said so.
    pub refused: u64,
    /// Requests by UDP that got no answer in time.
    pub lost: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Connections made ready.
    pub connected: u64,
    /// Connections ended.
    pub closed: u64,
}

impl Counts {
    /// What was counted from `earlier` until now.
    pub fn since(&self, earlier: &Self) -> Self {
        self.combine(earlier, |now, then| now.saturating_sub(then))
    }

    /// Both together; of the clocks the later.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            at_ns: self.at_ns.max(other.at_ns),
            ..self.combine(other, |a, b| a + b)
        }
    }

    fn combine(&self, other: &Self, op: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            at_ns: op(self.at_ns, other.at_ns),
            busy_ns: op(self.busy_ns, other.busy_ns),
            sent: op(self.sent, other.sent),
            arrived: op(self.arrived, other.arrived),
            refused: op(self.refused, other.refused),
            lost: op(self.lost, other.lost),
            bytes_in: op(self.bytes_in, other.bytes_in),
            bytes_out: op(self.bytes_out, other.bytes_out),
            connected: op(self.connected, other.connected),
            closed: op(self.closed, other.closed),
        }
    }
}

/// What came of a worker's run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Latencies in nanoseconds since they were forgotten: value and how often.
    pub latency: Vec<(u64, u64)>,
    /// What went wrong: the first few.
    pub failures: Vec<String>,
    /// How much went wrong.
    pub failed: u64,
    /// Waiting match requests that were met in the end, and in how many seconds.
    pub met: (u64, f64),
}

/// A histogram of latencies from 1 ns to 1,000 s, in nanoseconds, 3 digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1_000_000_000_000, 3).expect("the bounds are valid")
}
