//! The worker processes of one run.
//!
//! Owns: starting and ending them, and the conversation over their standard streams.
//! Never: sends a message to a server.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::target::Target;
use crate::worker::protocol::{Counts, Job, Notice, Order, Report, histogram};
use crate::workload::Workload;

/// All workers of one run.
pub struct Workers {
    workers: Vec<Worker>,
    notices: Receiver<(usize, Notice)>,
}

struct Worker {
    child: Child,
    orders: ChildStdin,
}

impl Workers {
    /// Starts them, lets them connect, and waits until all are ready.
    ///
    /// # Errors
    /// One of them cannot do its job, or `patience` is over.
    pub fn start(
        workload: &Workload,
        target: &Target,
        cores: &[usize],
        count: usize,
        patience: Duration,
        quiet: bool,
    ) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let (notice, notices) = channel();
        let run = format!("r{}-{}", std::process::id(), unique());
        let mut workers = Self {
            workers: Vec::new(),
            notices,
        };
        for worker in 0..count {
            let mut child = Command::new(&own)
                .arg("worker")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|error| error.to_string())?;
            let (Some(mut orders), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
                return Err("a worker without streams".to_owned());
            };
            let job = Job {
                workload: Workload {
                    placement: target.placement.unwrap_or(workload.placement),
                    ..workload.clone()
                },
                wire: target.wire,
                address: target.address,
                nodes: target.addresses(),
                worker,
                workers: count,
                run: run.clone(),
                source: source(worker, target.address.ip()),
                core: (!cores.is_empty()).then(|| cores[worker % cores.len()]),
                pid: target.pid,
                broker: target.broker.is_some(),
                loops: target.loops,
            };
            let line = serde_json::to_string(&job).map_err(|error| error.to_string())?;
            writeln!(orders, "{line}").map_err(|error| error.to_string())?;
            let notice = notice.clone();
            // Ends when the worker closes its standard output.
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let read = serde_json::from_str(&line).unwrap_or_else(|error| Notice::Stuck(error.to_string()));
                    if notice.send((worker, read)).is_err() {
                        break;
                    }
                }
            });
            workers.workers.push(Worker { child, orders });
        }
        workers.wait_until_ready(patience, quiet)?;
        Ok(workers)
    }

    fn wait_until_ready(&mut self, patience: Duration, quiet: bool) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        let bar = bar("connecting", quiet);
        let (mut done, mut totals) = (vec![0; self.workers.len()], vec![0; self.workers.len()]);
        let mut ready = HashSet::new();
        while ready.len() < self.workers.len() {
            match self.next(deadline)? {
                (worker, Notice::Progress(connected, all)) => {
                    (done[worker], totals[worker]) = (connected, all);
                    bar.set_length(totals.iter().sum::<usize>() as u64);
                    bar.set_position(done.iter().sum::<usize>() as u64);
                }
                (worker, Notice::Ready) => {
                    ready.insert(worker);
                }
                _ => {}
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn next(&mut self, deadline: Instant) -> Result<(usize, Notice), String> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.notices.recv_timeout(left) {
            Ok((worker, Notice::Stuck(why))) => Err(format!("worker {worker}: {why}")),
            Ok(notice) => Ok(notice),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err("the workers did not get there in time".to_owned()),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err("all workers have ended".to_owned()),
        }
    }

    fn tell(&mut self, order: Order) -> Result<(), String> {
        let line = serde_json::to_string(&order).map_err(|error| error.to_string())?;
        for worker in &mut self.workers {
            writeln!(worker.orders, "{line}").map_err(|error| format!("a worker has ended: {error}"))?;
        }
        Ok(())
    }

    /// An answer of every worker, of the kind that `pick` takes.
    fn gather<T>(&mut self, patience: Duration, pick: impl Fn(Notice) -> Option<T>) -> Result<Vec<T>, String> {
        let deadline = Instant::now() + patience;
        let mut answers = Vec::new();
        while answers.len() < self.workers.len() {
            let (_, notice) = self.next(deadline)?;
            answers.extend(pick(notice));
        }
        Ok(answers)
    }

    /// Lets them send.
    ///
    /// # Errors
    /// One has ended.
    pub fn begin(&mut self) -> Result<(), String> {
        self.tell(Order::Start)
    }

    /// Forgets the latencies so far.
    ///
    /// # Errors
    /// One has ended.
    pub fn forget(&mut self) -> Result<(), String> {
        self.tell(Order::Forget)
    }

    /// What all have counted.
    ///
    /// # Errors
    /// One has ended or does not answer.
    pub fn mark(&mut self) -> Result<Counts, String> {
        self.tell(Order::Mark)?;
        let counts = self.gather(Duration::from_secs(10), |notice| match notice {
            Notice::Marked(counts) => Some(counts),
            _ => None,
        })?;
        Ok(counts.iter().fold(Counts::default(), |sum, counts| sum.plus(counts)))
    }

    /// Tells them that the last node was killed.
    ///
    /// # Errors
    /// One has ended.
    pub fn node_lost(&mut self) -> Result<(), String> {
        self.tell(Order::NodeLost)
    }

    /// Stops the sending and waits until nothing is under way, for so long at most.
    ///
    /// # Errors
    /// One has ended or does not answer.
    pub fn pause(&mut self, patience: Duration) -> Result<(), String> {
        self.tell(Order::Pause)?;
        self.gather(patience, |notice| matches!(notice, Notice::Paused).then_some(()))?;
        Ok(())
    }

    /// Latencies and failures since the last report.
    ///
    /// # Errors
    /// One has ended or does not answer.
    pub fn report(&mut self) -> Result<(hdrhistogram::Histogram<u64>, Report), String> {
        self.tell(Order::Report)?;
        let reports = self.gather(Duration::from_secs(30), |notice| match notice {
            Notice::Reported(report) => Some(*report),
            _ => None,
        })?;
        let (mut all, mut latency) = (Report::default(), histogram());
        for report in reports {
            all.failed += report.failed;
            all.met = (all.met.0 + report.met.0, all.met.1.max(report.met.1));
            all.failures.extend(report.failures);
            for (value, count) in report.latency {
                latency.saturating_record_n(value, count);
            }
        }
        Ok((latency, all))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let _ = self.tell(Order::End);
        for worker in &mut self.workers {
            // An ending worker needs no second; one that hangs has nothing worth waiting for.
            for _ in 0..100 {
                if let Ok(Some(_)) = worker.child.try_wait() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

/// Each worker has source ports of its own, and so have runs side by side and one after the other: where many are taken or
/// waited out, the kernel looks for a free one for milliseconds.
fn source(worker: usize, target: IpAddr) -> IpAddr {
    match target {
        IpAddr::V4(address) if address.is_loopback() => {
            let [.., high, low] = std::process::id().to_be_bytes();
            IpAddr::from([127, 1 + high % 250, low, 1 + (worker % 250) as u8])
        }
        IpAddr::V4(_) => IpAddr::from([0, 0, 0, 0]),
        IpAddr::V6(_) => IpAddr::from([0_u16; 8]),
    }
}

/// Tells runs of one process apart.
fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A bar on standard error, which vanishes where that is no terminal.
pub fn bar(what: &'static str, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed}");
    let bar = ProgressBar::new(0).with_message(what);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
