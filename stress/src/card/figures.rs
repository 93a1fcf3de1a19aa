//! What a card says, as it is written to `card.json`.
//!
//! Owns: the figures, their names and units.
//! Never: measures or prints.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::report::Spread;

/// A capacity card.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Card {
    /// When, of what, and how.
    pub about: About,
    /// Where.
    pub machine: Machine,
    /// What peers take.
    pub memory: Memory,
    /// What signals take, in several shapes of load; the first is the one that the others build on.
    pub signals: Vec<Signals>,
    /// Signals a second against connected peers.
    pub throughput: Vec<Throughput>,
    /// The open loop at several shares of the maximum.
    pub latency: Vec<Load>,
    /// What connections take.
    pub connect: Connect,
    /// Where the host ends, the nearest end first.
    pub limits: Vec<Limit>,
    /// Settings for this host.
    pub config: Suggestion,
    /// One further load, foretold and measured.
    pub prediction: Prediction,
    /// What may make these figures wrong.
    pub remarks: Vec<String>,
    /// What the server did wrong; empty on a sound card.
    pub failures: Vec<String>,
}

/// When, of what, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// When it began, in UTC (RFC 3339).
    pub date: String,
    /// What was measured.
    pub target: String,
    /// What that calls itself.
    pub server: String,
    /// Commit of the working directory, with `-dirty` if files differ from it; none outside a repository.
    pub commit: Option<String>,
    /// Whether it was the short set.
    pub quick: bool,
    /// Rounds of each figure.
    pub rounds: usize,
    /// Cores of the server, one loop each, and of the generator.
    pub server_cores: Vec<usize>,
    pub generator_cores: Vec<usize>,
    /// Cores that other processes used while it measured.
    pub others_busy: Spread,
    /// How long it took.
    pub seconds: f64,
}

/// A host.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Cores that a process may use.
    pub cores: usize,
    /// Bytes of memory; of its control group, if that has less.
    pub memory: u64,
    /// Bytes that were free for new processes.
    pub memory_available: u64,
    /// Name and release of the kernel.
    pub kernel: String,
}

/// What peers take.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes of the process before its first connection.
    pub start_rss: f64,
    /// Bytes of the process for each peer: slope of the line through `points`.
    pub rss_per_peer: f64,
    /// Bytes of the kernel for each peer's socket, at the server's end: median of the points.
    pub kernel_per_peer: f64,
    /// Where the kernel's bytes were read.
    pub kernel_source: String,
    /// Peers in 1 GiB of both.
    pub peers_per_gib: f64,
    /// The lines, for peers that were not measured.
    pub rss_line: Line,
    pub kernel_line: Line,
    /// What was measured.
    pub points: Vec<MemoryPoint>,
}

/// `intercept + slope * x`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub intercept: f64,
    pub slope: f64,
}

/// Memory with so many peers, in bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MemoryPoint {
    pub peers: usize,
    /// Of the process.
    pub rss: f64,
    /// Of the kernel, for the server's ends.
    pub kernel: f64,
}

/// Signals as fast as they are answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Signals {
    /// The shape of the load.
    pub load: String,
    pub pairs: usize,
    /// Messages that each pair has under way.
    pub window: usize,
    /// Messages a second that were measured.
    pub per_second: Spread,
    /// Messages a second that fill one core: the server's CPU for each message says so.
    pub per_second_per_core: Spread,
    /// Nanoseconds of the server's CPU for each message.
    pub cpu_ns: Spread,
    /// How much of its cores the server used, and the generator of its.
    pub server_busy: Spread,
    pub generator_busy: Spread,
    /// Which side was the limit.
    pub limit: String,
}

/// Signals a second with so many peers connected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Throughput {
    pub peers: usize,
    /// Each peer is one of a pair, one message under way in each.
    pub all: Spread,
    /// Fifty pairs have 16 under way, the others are silent.
    pub few: Spread,
}

/// The open loop at one rate: latencies in microseconds from when a message should have left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Share of the maximum.
    pub share: f64,
    /// Messages a second that were asked for, and that arrived.
    pub rate: f64,
    pub per_second: Spread,
    /// Whether the generator and the server kept to the rate.
    pub kept_up: bool,
    /// Cores.
    pub server_busy: Spread,
    /// Bytes of the process.
    pub rss: Spread,
    pub p50: Spread,
    pub p99: Spread,
    pub p999: Spread,
    pub max: Spread,
    /// Latency and the share of messages that took no longer, over all rounds.
    #[serde(skip)]
    pub cdf: Vec<(f64, f64)>,
}

/// What a connection takes from its socket to the first join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connect {
    pub connections: usize,
    /// Made in a second, as measured.
    pub per_second: Spread,
    /// Microseconds of the server's CPU.
    pub cpu_us: Spread,
    /// So many would fill one core.
    pub per_second_per_core: f64,
}

/// Something of which the host has only so much.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// Of what.
    pub of: String,
    /// How much there is.
    pub figure: String,
    /// How many peers that is enough for.
    pub peers: u64,
    /// Whether every server meets it, or only one in a certain place, or in a certain hour.
    pub always: bool,
    /// How the one follows from the other, and what raises it.
    pub how: String,
}

/// A configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Suggestion {
    /// The file.
    pub settings: Map<String, Value>,
    /// Why each setting has its value.
    pub reasons: Map<String, Value>,
    /// Whether the server accepted it and served with it.
    pub accepted: bool,
    /// What the server said about it.
    pub warnings: Vec<String>,
}

/// One further load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prediction {
    /// Connected peers.
    pub peers: usize,
    /// Pairs among them that signal.
    pub pairs: usize,
    /// Signals a second.
    pub rate: f64,
    /// Figure by figure.
    pub rows: Vec<Foretold>,
}

/// A figure, foretold and measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Foretold {
    pub figure: String,
    pub unit: String,
    pub predicted: f64,
    pub measured: f64,
    /// Measured over predicted, less 1, in percent.
    pub difference_percent: f64,
    /// Whether that is 10 % at most.
    pub within: bool,
}

/// How far a prediction may be off, in percent.
pub const TOLERANCE_PERCENT: f64 = 10.0;

impl Foretold {
    /// Compares the two.
    pub fn new(figure: &str, unit: &str, predicted: f64, measured: f64) -> Self {
        let difference_percent = (measured / predicted - 1.0) * 100.0;
        Self {
            figure: figure.to_owned(),
            unit: unit.to_owned(),
            predicted,
            measured,
            difference_percent,
            // What is not a number is not within.
            within: difference_percent.abs() <= TOLERANCE_PERCENT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_is_within_ten_percent_or_is_not() {
        assert!(Foretold::new("RSS", "MiB", 100.0, 109.9).within);
        assert!(Foretold::new("RSS", "MiB", 100.0, 90.1).within);
        assert!(!Foretold::new("RSS", "MiB", 100.0, 111.0).within);
        assert!(!Foretold::new("RSS", "MiB", 0.0, 0.0).within);
    }
}
