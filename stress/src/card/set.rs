//! The standard set: which loads are measured, in which order, and what is made of them.
//!
//! Owns: the loads, and the word of progress before each.
//! Never: judges the host (`limits`) or prints a card.

use std::time::Instant;

use hdrhistogram::Histogram;

use super::figures::{Connect, Foretold, Line, Load, Memory, MemoryPoint, Prediction, Signals, Throughput};
use super::fit::{Curve, between};
use super::host::Busy;
use super::kernel::Source;
use super::sizes::Sizes;
use crate::control::target::Options;
use crate::control::{Plan, Session};
use crate::report::{Outcome, Spread};
use crate::worker::protocol::histogram;
use crate::workload::{Kind, Workload};

/// Shares of the maximum that the open loop runs at; the further load's lies between them.
const SHARES: [f64; 3] = [0.2, 0.5, 0.8];
const FURTHER_SHARE: f64 = 0.65;
/// Pairs that chatter while the others are silent.
const FEW_PAIRS: usize = 50;
/// Bytes of a signal's payload: a candidate.
const SIGNAL_BYTES: usize = 300;
/// Members of a namespace of peers that do not signal: a game.
const NAMESPACE: usize = 10;
/// A side that uses so much of its cores is the limit.
const SATURATED: f64 = 0.9;
/// The least share of a rate that counts as keeping up with it.
const KEPT_UP: f64 = 0.98;
/// Rounds of a load in which nothing may arrive.
const IDLE_ROUNDS_MAX: usize = 20;
/// Cores that others may use before a card says so.
const OTHERS_MAX: f64 = 0.15;

/// Measures.
pub struct Set<'a> {
    target: &'a str,
    plan: Plan,
    sizes: Sizes,
    kernel: Source,
    deadline: Instant,
    began: Instant,
    steps: usize,
    step: usize,
    /// Cores that other processes used in each round.
    others: Vec<f64>,
    /// What the server did wrong.
    pub failures: Vec<String>,
    /// What may make the figures wrong.
    pub remarks: Vec<String>,
}

/// What came of one load.
struct Measured {
    outcomes: Vec<Outcome>,
    latency: Histogram<u64>,
    start_rss: f64,
    /// Bytes of the kernel for the server's ends, after the last round.
    kernel: f64,
}

impl Measured {
    fn spread(&self, figure: impl Fn(&Outcome) -> f64) -> Spread {
        Spread::of(self.outcomes.iter().map(figure))
    }
}

impl<'a> Set<'a> {
    /// Nothing measured yet.
    pub fn new(
        target: &'a str,
        server_cores: &[usize],
        generator_cores: &[usize],
        settings: &[String],
        sizes: Sizes,
    ) -> Self {
        let curve_steps = 3 * sizes.points.len() + if sizes.rounds > 1 { sizes.points.len() } else { 0 };
        let server = Options {
            cores: server_cores.to_vec(),
            loops: server_cores.len(),
            settings: settings.to_vec(),
            nodes: 1,
            broker: None,
            pid: None,
        };
        let now = Instant::now();
        Self {
            target,
            plan: Plan {
                server,
                cores: generator_cores.to_vec(),
                // Four of them keep one loop busy.
                workers: generator_cores.len().min(4 * server_cores.len()),
                system_calls: false,
                quiet: true,
            },
            deadline: now + sizes.bound,
            began: now,
            steps: curve_steps + 3 + SHARES.len() + sizes.rounds + 1,
            step: 0,
            kernel: Source::find(),
            sizes,
            others: Vec::new(),
            failures: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// Cores that neither the server nor the generator used, and that were not idle.
    pub fn others_busy(&mut self) -> Spread {
        let spread = Spread::of(self.others.iter().copied());
        if spread.median > OTHERS_MAX {
            self.remarks.insert(0, format!(
                "other processes used {} cores in the median of all rounds: rates are lower and latencies longer than \
                 this host's",
                spread.show(2)
            ));
        }
        spread
    }

    fn loops(&self) -> f64 {
        self.plan.server.loops as f64
    }

    /// One load, so many rounds of it as there is time for, at least one.
    fn measure(&mut self, what: &str, workload: &Workload, rounds: usize) -> Result<Measured, String> {
        self.step += 1;
        let (step, steps, seconds) = (self.step, self.steps, self.began.elapsed().as_secs());
        eprintln!("{step:3}/{steps} {seconds:4} s  {what}");
        let sockets_before = self.kernel.settled();
        let mut session = Session::open(self.target, workload, &self.plan)?;
        let mut measured = Measured {
            outcomes: Vec::new(),
            latency: histogram(),
            start_rss: session.set_up.samples.0.sum.rss as f64,
            kernel: 0.0,
        };
        let mut idle_rounds = 0;
        while measured.outcomes.is_empty() || measured.outcomes.len() < rounds && Instant::now() < self.deadline {
            let before = Busy::now();
            let outcome = session.round()?;
            if outcome.messages == 0 && workload.scenario == Kind::Signal && outcome.failed == 0 {
                // A machine so busy that neither side had a turn: there is nothing to reckon with.
                idle_rounds += 1;
                if idle_rounds > IDLE_ROUNDS_MAX {
                    return Err(format!(
                        "{what}: nothing arrived in {IDLE_ROUNDS_MAX} rounds; is the machine overloaded?"
                    ));
                }
                continue;
            }
            let own = outcome.server_busy + outcome.generator_busy;
            self.others.push((Busy::now().cores_since(&before) - own).max(0.0));
            if outcome.failed > 0 {
                self.failures.push(format!("{what}: {} faults", outcome.failed));
                self.failures.extend(outcome.failures.iter().cloned());
            }
            measured.outcomes.push(outcome);
            // Both have the bounds of `histogram`.
            let _ = measured.latency.add(&session.latency);
        }
        // Of each connection both ends are here.
        let each = self
            .kernel
            .sockets()
            .bytes_each(&sockets_before, 2 * workload.connections());
        measured.kernel = each * workload.connections() as f64;
        Ok(measured)
    }

    /// What connections take, each into a namespace of its own. The first step: it says how many peers the others may
    /// have.
    ///
    /// # Errors
    /// What keeps them from being measured.
    pub fn connect(&mut self) -> Result<Connect, String> {
        let workload = self.idle(self.sizes.connections, 1);
        let mut outcomes = Vec::new();
        for round in 1..=self.sizes.rounds {
            let what = format!("connections: {}, round {round}", workload.peers);
            outcomes.extend(self.measure(&what, &workload, 1)?.outcomes);
        }
        let cpu_us = Spread::of(outcomes.iter().map(|o| o.connect_cpu_us));
        let per_second = Spread::of(outcomes.iter().map(|o| o.connects_per_second));
        self.sizes.slow_down(per_second.median);
        Ok(Connect {
            connections: workload.peers,
            per_second,
            cpu_us,
            per_second_per_core: 1e6 / cpu_us.median,
        })
    }

    /// Signals as fast as they are answered. The first load is the one that latencies and the further load build on:
    /// many pairs, each message by itself, so that nothing is gained by reading or writing several at once.
    ///
    /// # Errors
    /// What keeps them from being measured.
    pub fn signals(&mut self) -> Result<Vec<Signals>, String> {
        let pairs = self.sizes.pairs;
        let few = FEW_PAIRS.min(pairs);
        let loads = [
            (format!("{pairs} pairs, 1 under way in each"), pairs, 1),
            (format!("{few} pairs, 16 under way in each"), few, 16),
            (format!("{few} pairs, 64 under way in each"), few, 64),
        ];
        let mut all = Vec::new();
        for (load, pairs, window) in loads {
            let workload = Workload {
                pairs,
                window,
                ..self.signal(self.sizes.closed)
            };
            let measured = self.measure(&format!("signals: {load}"), &workload, self.sizes.rounds)?;
            let (server, generator) = (self.loops(), self.plan.workers as f64);
            let busy = (
                measured.spread(|o| o.server_busy),
                measured.spread(|o| o.generator_busy),
            );
            let limit = match (busy.0.median / server, busy.1.median / generator) {
                (server, _) if server >= SATURATED => "server",
                (_, generator) if generator >= SATURATED => "generator",
                _ => "neither",
            };
            if limit == "neither" {
                self.remarks.push(format!(
                    "{load}: the server was busy for {:.0} % and the generator for {:.0} % of their cores: something \
                     else used them, or they waited for each other. Rates and latencies are worse than the host's; a \
                     core's worth is reckoned from CPU time",
                    busy.0.median / server * 100.0,
                    busy.1.median / generator * 100.0,
                ));
            }
            all.push(Signals {
                load,
                pairs,
                window,
                per_second: measured.spread(|o| o.per_second),
                per_second_per_core: measured.spread(|o| 1e9 / o.cpu_ns),
                cpu_ns: measured.spread(|o| o.cpu_ns),
                server_busy: busy.0,
                generator_busy: busy.1,
                limit: limit.to_owned(),
            });
        }
        Ok(all)
    }

    fn signal(&self, seconds: f64) -> Workload {
        Workload {
            scenario: Kind::Signal,
            size: SIGNAL_BYTES,
            warm_up: self.sizes.warm_up,
            seconds,
            ..Workload::default()
        }
    }

    /// The open loop at several shares of the maximum, among others that are silent; latencies count from when a message should have left.
    ///
    /// # Errors
    /// What keeps it from being measured.
    pub fn latency(&mut self, most: &Signals) -> Result<Vec<Load>, String> {
        let mut loads = Vec::new();
        for share in SHARES {
            // A rate of 0 would be the closed loop.
            let rate = (share * most.per_second.median).max(1.0);
            let workload = Workload {
                pairs: most.pairs,
                rate,
                peers: self.sizes.loaded(),
                namespace_size: NAMESPACE,
                ..self.signal(self.sizes.open)
            };
            let what = format!("open loop: {:.0} signals/s, {:.0} %", rate, share * 100.0);
            let measured = self.measure(&what, &workload, self.sizes.rounds)?;
            let per_second = measured.spread(|o| o.per_second);
            let kept_up = per_second.median >= KEPT_UP * rate;
            if !kept_up {
                self.remarks.push(format!(
                    "{what}: only {:.0} a second arrived: these latencies are of more than the machine could keep up",
                    per_second.median
                ));
            }
            loads.push(Load {
                share,
                rate,
                per_second,
                kept_up,
                server_busy: measured.spread(|o| o.server_busy),
                rss: measured.spread(|o| o.rss as f64),
                p50: measured.spread(|o| o.latency_us.p50),
                p99: measured.spread(|o| o.latency_us.p99),
                p999: measured.spread(|o| o.latency_us.p999),
                max: measured.spread(|o| o.latency_us.max),
                cdf: cdf(&measured.latency),
            });
        }
        Ok(loads)
    }

    /// Signals a second against connected peers. The last step: with two points it is content, if there is no time for
    /// more or the machine is too slow for them.
    ///
    /// # Errors
    /// What keeps them from being measured.
    pub fn throughput(&mut self) -> Result<Vec<Throughput>, String> {
        let mut points = Vec::new();
        let sizes: Vec<usize> = self.sizes.peers().collect();
        for peers in sizes {
            let enough = points.len() >= 2;
            if enough && Instant::now() > self.deadline {
                self.remarks.push(format!(
                    "time was up before signals among {peers} peers and more were measured"
                ));
                break;
            }
            match self.throughput_of(peers) {
                Ok(point) => points.push(point),
                Err(why) if enough => {
                    self.remarks
                        .push(format!("signals among {peers} peers could not be measured: {why}"));
                    break;
                }
                Err(why) => return Err(why),
            }
        }
        Ok(points)
    }

    fn throughput_of(&mut self, peers: usize) -> Result<Throughput, String> {
        let all = Workload {
            pairs: peers / 2,
            ..self.signal(self.sizes.short)
        };
        let few = Workload {
            pairs: FEW_PAIRS.min(peers / 2),
            window: 16,
            peers,
            namespace_size: NAMESPACE,
            ..self.signal(self.sizes.short)
        };
        let rounds = self.sizes.rounds;
        let all = self.measure(&format!("signals among {peers} peers, all of them"), &all, rounds)?;
        let few = self.measure(&format!("signals among {peers} peers, {FEW_PAIRS} pairs"), &few, rounds)?;
        Ok(Throughput {
            peers,
            all: all.spread(|o| o.per_second),
            few: few.spread(|o| o.per_second),
        })
    }

    /// What peers take while they are silent.
    ///
    /// # Errors
    /// What keeps it from being measured.
    pub fn memory(&mut self) -> Result<Memory, String> {
        let (mut points, mut start_rss) = (Vec::new(), Vec::new());
        let mut sizes: Vec<usize> = self.sizes.peers().collect();
        if self.sizes.rounds > 1 {
            sizes.extend(sizes.clone().into_iter().rev());
        }
        for peers in sizes {
            let workload = self.idle(peers, NAMESPACE);
            let measured = self.measure(&format!("memory of {peers} peers"), &workload, 1)?;
            start_rss.push(measured.start_rss);
            points.push(MemoryPoint {
                peers,
                rss: measured.spread(|o| o.rss as f64).median,
                kernel: measured.kernel,
            });
        }
        let rss: Vec<(f64, f64)> = points.iter().map(|point| (point.peers as f64, point.rss)).collect();
        let rss_line = Line::through(&rss);
        // By socket, and the middle one: what other processes do to the kernel's memory spoils single points by far.
        let kernel_line = Line {
            intercept: 0.0,
            slope: Spread::of(points.iter().map(|point| point.kernel / point.peers as f64)).median,
        };
        let both = (rss_line.slope + kernel_line.slope).max(1.0);
        Ok(Memory {
            start_rss: Spread::of(start_rss).median,
            rss_per_peer: rss_line.slope,
            kernel_per_peer: kernel_line.slope,
            kernel_source: self.kernel.name().to_owned(),
            peers_per_gib: f64::from(1 << 30) / both,
            rss_line,
            kernel_line,
            points,
        })
    }

    fn idle(&self, peers: usize, namespace_size: usize) -> Workload {
        Workload {
            scenario: Kind::Idle,
            peers,
            namespace_size,
            warm_up: self.sizes.warm_up,
            seconds: 0.1,
            ..Workload::default()
        }
    }

    /// Foretells a load from the figures so far, with more peers than any of them and at another rate; then runs it.
    ///
    /// # Errors
    /// What keeps it from being measured.
    pub fn prediction(&mut self, most: &Signals, loads: &[Load], memory: &Memory) -> Result<Prediction, String> {
        let (peers, rate) = (self.sizes.most, (FURTHER_SHARE * most.per_second.median).max(1.0));
        let busy: Vec<(f64, f64)> = loads
            .iter()
            .map(|load| (load.per_second.median, load.server_busy.median))
            .collect();
        // What is on its way takes memory beside what the peers take: blocks for as many as have output at once.
        let silent = memory.rss_line.at(self.sizes.loaded() as f64);
        let on_its_way: Vec<(f64, f64)> = loads
            .iter()
            .map(|load| (load.per_second.median, (load.rss.min - silent).max(0.0)))
            .collect();
        let rss = memory.rss_line.at(peers as f64) + between(&on_its_way, rate);
        let kernel = memory.kernel_line.at(peers as f64);
        let cpu = Curve::through(&busy).at(rate);
        let workload = Workload {
            pairs: most.pairs,
            rate,
            peers,
            namespace_size: NAMESPACE,
            ..self.signal(self.sizes.open)
        };
        let what = format!("the further load: {peers} peers, {rate:.0} signals/s");
        let measured = self.measure(&what, &workload, self.sizes.rounds)?;
        let measured_rss = measured.spread(|o| o.rss as f64).median;
        let mib = 1_048_576.0;
        Ok(Prediction {
            peers,
            pairs: most.pairs,
            rate,
            rows: vec![
                Foretold::new(
                    "memory of process and kernel",
                    "MiB",
                    (rss + kernel) / mib,
                    (measured_rss + measured.kernel) / mib,
                ),
                Foretold::new("memory of the process", "MiB", rss / mib, measured_rss / mib),
                Foretold::new("memory of the kernel", "MiB", kernel / mib, measured.kernel / mib),
                Foretold::new("server CPU", "cores", cpu, measured.spread(|o| o.server_busy).median),
                Foretold::new("signals", "/s", rate, measured.spread(|o| o.per_second).median),
            ],
        })
    }
}

/// Latencies in microseconds and the shares of messages that took no longer, thinned to what a plot can show.
fn cdf(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    let count = latency.len().max(1) as f64;
    let (mut points, mut sum, mut shown) = (Vec::new(), 0, -1.0);
    for value in latency.iter_recorded() {
        sum += value.count_at_value();
        let share = sum as f64 / count;
        // By nines: of the last messages each shows, of the first one in a thousandth.
        let nines = -(1.0 - share).max(0.1 / count).log10();
        if nines - shown >= 0.005 {
            points.push((value.value_iterated_to() as f64 / 1e3, share));
            shown = nines;
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cdf_rises_to_one_and_shows_the_last_message() {
        let mut latency = histogram();
        latency.saturating_record_n(10_000, 9_999);
        latency.saturating_record(1_000_000);
        let cdf = cdf(&latency);
        assert_eq!(cdf.len(), 2);
        assert!((cdf[0].0 - 10.0).abs() < 0.1 && (cdf[0].1 - 0.9999).abs() < 1e-9);
        assert!((cdf[1].0 - 1000.0).abs() < 2.0 && cdf[1].1 >= 1.0);
    }
}
