//! What came of a measurement, as a table or as JSON.
//!
//! Owns: the figures and their units.
//! Never: measures.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::control::SetUp;
use crate::control::broker::IN_MSGS;
use crate::control::costs::Costs;
use crate::worker::protocol::{Counts, Report};

/// One round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// What was measured.
    pub target: String,
    /// How long, in seconds.
    pub seconds: f64,
    /// Messages that arrived in that time.
    pub messages: u64,
    /// The same, for each second.
    pub per_second: f64,
    /// Messages that were refused.
    pub refused: u64,
    /// Requests by UDP that got no answer in time, and were asked again.
    pub lost: u64,
    /// Connections that ended in that time.
    pub closed: u64,
    /// Nanoseconds of the server's CPU for each message.
    pub cpu_ns: f64,
    /// How much of one core the server used.
    pub server_busy: f64,
    /// How much of one core the workers used.
    pub generator_busy: f64,
    /// System calls of the server for each message.
    pub system_calls: Option<f64>,
    /// Context switches of the server for each message.
    pub switches: f64,
    /// Bytes of the server's process in memory.
    pub rss: u64,
    /// Bytes of the kernel for TCP buffers.
    pub tcp_memory: u64,
    /// Latencies in microseconds.
    pub latency_us: Latency,
    /// Connections, each with a peer that has joined.
    pub connections: usize,
    /// Connections made ready in a second.
    pub connects_per_second: f64,
    /// Microseconds of the server's CPU for each of them, from the socket to the last join.
    pub connect_cpu_us: f64,
    /// Bytes of the server's process for each of them: what it grew while they connected.
    pub connection_rss: f64,
    /// Waiting match requests that were met in the end.
    pub met: u64,
    /// In how many seconds.
    pub met_seconds: f64,
    /// Each node of a cluster.
    pub nodes: Vec<Node>,
    /// What connects them.
    pub broker: Option<Broker>,
    /// What went wrong; any makes the run a failure.
    pub failures: Vec<String>,
    /// How much went wrong.
    pub failed: u64,
}

/// A node of a cluster.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Nanoseconds of its CPU for each message.
    pub cpu_ns: f64,
    /// Bytes of it in memory.
    pub rss: u64,
}

/// The broker between nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Broker {
    /// Nanoseconds of its CPU for each message.
    pub cpu_ns: f64,
    /// Microseconds of its CPU for each connection.
    pub connect_cpu_us: f64,
    /// Bytes of it in memory.
    pub rss: u64,
    /// Commands for each message, by name, also those of scripts.
    pub commands: BTreeMap<String, f64>,
    /// The same for each connection.
    pub connect_commands: BTreeMap<String, f64>,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Outcome {
    /// From what was counted and sampled before and after.
    #[expect(clippy::too_many_arguments, reason = "each is a different source of figures")]
    pub fn new(
        target: &str,
        set_up: &SetUp,
        elapsed: Duration,
        (before, after): (&Costs, &Costs),
        counts: Counts,
        system_calls: Option<f64>,
        latency: &Histogram<u64>,
        report: &Report,
    ) -> Self {
        let seconds = elapsed.as_secs_f64();
        let cpu_ns = after.sum.cpu_ns.saturating_sub(before.sum.cpu_ns) as f64;
        // Nothing by message where there was none: not a number.
        let messages = match counts.arrived {
            0 => f64::NAN,
            some => some as f64,
        };
        let (was, is) = (&set_up.samples.0, &set_up.samples.1);
        // Nor by connection.
        let connections = match set_up.connections {
            0 => f64::NAN,
            some => some as f64,
        };
        let at = |share: f64| latency.value_at_quantile(share) as f64 / 1e3;
        Self {
            target: target.to_owned(),
            seconds,
            messages: counts.arrived,
            per_second: counts.arrived as f64 / seconds,
            refused: counts.refused,
            lost: counts.lost,
            closed: counts.closed,
            cpu_ns: cpu_ns / messages,
            server_busy: cpu_ns / 1e9 / seconds,
            generator_busy: counts.busy_ns as f64 / 1e9 / seconds,
            system_calls,
            switches: after.sum.switches.saturating_sub(before.sum.switches) as f64 / counts.arrived.max(1) as f64,
            rss: after.sum.rss,
            tcp_memory: after.sum.tcp_memory,
            latency_us: Latency {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: latency.max() as f64 / 1e3,
            },
            connections: set_up.connections,
            connects_per_second: connections / set_up.elapsed.as_secs_f64(),
            connect_cpu_us: is.sum.cpu_ns.saturating_sub(was.sum.cpu_ns) as f64 / 1e3 / connections,
            connection_rss: is.sum.rss.saturating_sub(was.sum.rss) as f64 / connections,
            met: report.met.0,
            met_seconds: report.met.1,
            nodes: Node::all(before, after, messages),
            broker: Broker::new((before, after), messages, (was, is), connections),
            failures: report.failures.clone(),
            failed: report.failed,
        }
    }
}

impl Node {
    fn all(before: &Costs, after: &Costs, messages: f64) -> Vec<Self> {
        let pairs = before.nodes.iter().zip(&after.nodes);
        let node = pairs.map(|(before, after)| Self {
            cpu_ns: after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / messages,
            rss: after.rss,
        });
        node.collect()
    }
}

impl Broker {
    fn new(
        (before, after): (&Costs, &Costs),
        messages: f64,
        (was, is): (&Costs, &Costs),
        connections: f64,
    ) -> Option<Self> {
        let (before, commands_before) = before.broker.as_ref()?;
        let (after, commands_after) = after.broker.as_ref()?;
        let (was, commands_were) = was.broker.as_ref()?;
        let (is, commands_are) = is.broker.as_ref()?;
        let grown = |then: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>, over: f64| {
            let by_name = now.iter().map(|(name, calls)| {
                let more = calls.saturating_sub(then.get(name).copied().unwrap_or(0));
                (name.clone(), more as f64 / over)
            });
            by_name
                .filter(|(name, share)| *share > 0.0 || name == IN_MSGS)
                .collect()
        };
        Some(Self {
            cpu_ns: after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / messages,
            connect_cpu_us: is.cpu_ns.saturating_sub(was.cpu_ns) as f64 / 1e3 / connections,
            rss: after.rss,
            commands: grown(commands_before, commands_after, messages),
            connect_commands: grown(commands_were, commands_are, connections),
        })
    }

    /// Calls of some commands for each message; not a number where the broker does not count them.
    fn calls(&self, names: &[&str]) -> f64 {
        match self.commands.is_empty() {
            true => f64::NAN,
            false => names
                .iter()
                .filter_map(|name| self.commands.get(*name))
                .fold(0.0, |sum, calls| sum + calls),
        }
    }
}

/// Median, least and greatest of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one figure.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => 0.0,
            len if len % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Self {
            median,
            min: sorted.first().copied().unwrap_or(0.0),
            max: sorted.last().copied().unwrap_or(0.0),
        }
    }

    /// `median (min-max)`.
    pub fn show(&self, digits: usize) -> String {
        let Self { median, min, max } = self;
        format!("{median:.digits$} ({min:.digits$}-{max:.digits$})")
    }
}

/// The figures of a round that tables show: name, digits after the point, and how to get it.
type Row = (&'static str, usize, fn(&Outcome) -> f64);

/// What tables show, in their order.
pub const ROWS: &[Row] = &[
    ("messages/s", 0, |o| o.per_second),
    ("server CPU, ns/message", 1, |o| o.cpu_ns),
    ("broker CPU, ns/message", 1, |o| broker(o, |b| b.cpu_ns)),
    ("nodes and broker CPU, ns/message", 1, |o| {
        broker(o, |b| b.cpu_ns + o.cpu_ns)
    }),
    ("broker publishes/message", 3, |o| {
        broker(o, |b| b.calls(&["publish", IN_MSGS]))
    }),
    ("broker scripts/message", 3, |o| {
        broker(o, |b| b.calls(&["evalsha", "eval"]))
    }),
    ("system calls/message", 3, |o| o.system_calls.unwrap_or(f64::NAN)),
    ("context switches/message", 4, |o| o.switches),
    ("latency p50, us", 1, |o| o.latency_us.p50),
    ("latency p90, us", 1, |o| o.latency_us.p90),
    ("latency p99, us", 1, |o| o.latency_us.p99),
    ("latency p99.9, us", 1, |o| o.latency_us.p999),
    ("latency max, us", 1, |o| o.latency_us.max),
    ("server busy, cores", 2, |o| o.server_busy),
    ("generator busy, cores", 2, |o| o.generator_busy),
    ("refused", 0, |o| o.refused as f64),
    ("lost", 0, |o| o.lost as f64),
    ("connections closed", 0, |o| o.closed as f64),
    ("connections", 0, |o| o.connections as f64),
    ("set-up, s", 2, |o| o.connections as f64 / o.connects_per_second),
    ("waiting requests met", 0, |o| some(o.met as f64)),
    ("these met in, s", 2, |o| some(o.met_seconds)),
    ("connections made/s", 0, |o| o.connects_per_second),
    ("server CPU, us/connection", 1, |o| o.connect_cpu_us),
    ("broker CPU, us/connection", 1, |o| broker(o, |b| b.connect_cpu_us)),
    ("server RSS growth, B/connection", 0, |o| o.connection_rss),
    ("server RSS, MiB", 1, |o| o.rss as f64 / 1048576.0),
    ("broker RSS, MiB", 1, |o| broker(o, |b| b.rss as f64 / 1048576.0)),
    ("kernel TCP buffers, MiB", 1, |o| o.tcp_memory as f64 / 1048576.0),
];

/// A figure of the broker; not a number where there is none.
fn broker(outcome: &Outcome, figure: impl Fn(&Broker) -> f64) -> f64 {
    outcome.broker.as_ref().map_or(f64::NAN, figure)
}

/// A figure that is not there where it is 0.
fn some(figure: f64) -> f64 {
    if figure > 0.0 { figure } else { f64::NAN }
}

/// An empty table with these column heads.
pub fn table(heads: impl IntoIterator<Item = String>) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(heads.into_iter().collect::<Vec<_>>());
    table
}

/// All figures of several targets, round by round: medians with spread, and the median of each round's ratio to the first.
pub fn compare(targets: &[Vec<Outcome>]) -> Table {
    let name = |outcomes: &Vec<Outcome>| outcomes.first().map_or(String::new(), |outcome| outcome.target.clone());
    let mut heads = vec![String::new()];
    for (index, outcomes) in targets.iter().enumerate() {
        heads.push(name(outcomes));
        if index > 0 {
            heads.push(format!("/ {}", name(&targets[0])));
        }
    }
    let mut table = table(heads);
    for (name, digits, figure) in ROWS {
        // Without a broker there is nothing to say of it, nor of requests where nobody waits.
        let is_special = name.contains("broker") || name.contains(" met");
        if is_special && targets.iter().flatten().all(|outcome| figure(outcome).is_nan()) {
            continue;
        }
        let mut row = vec![(*name).to_owned()];
        for (index, outcomes) in targets.iter().enumerate() {
            let spread = Spread::of(outcomes.iter().map(figure));
            if spread.median.is_nan() {
                row.push("-".to_owned());
            } else {
                row.push(if outcomes.len() > 1 {
                    spread.show(*digits)
                } else {
                    format!("{:.digits$}", spread.median)
                });
            }
            if index > 0 {
                row.push(match ratio(&targets[0], outcomes, *figure) {
                    Some(ratio) => ratio.show(3),
                    None => "-".to_owned(),
                });
            }
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// All figures of every round, for a program that draws or compares: comma-separated values (RFC 4180).
pub fn csv(targets: &[Vec<Outcome>]) -> String {
    let mut lines = vec!["target,round".to_owned()];
    for (name, ..) in ROWS {
        lines[0].push_str(&format!(",\"{name}\""));
    }
    for outcomes in targets {
        for (round, outcome) in outcomes.iter().enumerate() {
            let mut line = format!("{},{}", outcome.target, round + 1);
            for (_, digits, figure) in ROWS {
                let figure = figure(outcome);
                line.push(',');
                if figure.is_finite() {
                    line.push_str(&format!("{figure:.digits$}"));
                }
            }
            lines.push(line);
        }
    }
    lines.join("\r\n") + "\r\n"
}

/// The ratios of a figure in each round.
pub fn ratio(base: &[Outcome], other: &[Outcome], figure: fn(&Outcome) -> f64) -> Option<Spread> {
    let ratios: Vec<f64> = base
        .iter()
        .zip(other)
        .map(|(base, other)| figure(other) / figure(base))
        .collect();
    let sound = !ratios.is_empty() && ratios.iter().all(|ratio| ratio.is_finite());
    sound.then(|| Spread::of(ratios))
}

/// Prints what went wrong. Whether anything did.
pub fn failed(outcomes: &[Outcome]) -> bool {
    let mut any = false;
    for outcome in outcomes.iter().filter(|outcome| outcome.failed > 0) {
        any = true;
        eprintln!("FAIL {}: {} faults", outcome.target, outcome.failed);
        for failure in &outcome.failures {
            eprintln!("  {failure}");
        }
    }
    any
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two() {
        let spread = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of([1.0, 2.0]).median, 1.5);
        assert_eq!(Spread::of([2.0, 4.0]).show(1), "3.0 (2.0-4.0)");
    }
}
