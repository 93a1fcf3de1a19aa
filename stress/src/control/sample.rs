//! What a process costs: CPU time, memory, system calls.
//!
//! Owns: reading `/proc`, and `perf stat` where it can be had.
//! Never: changes what it looks at.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};

/// A process at one moment.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Nanoseconds that its threads were running.
    pub cpu_ns: u64,
    /// Bytes of it in memory.
    pub rss: u64,
    /// Times that its threads waited, or had to make room.
    pub switches: u64,
    /// Bytes of the kernel for TCP buffers, of the whole machine.
    pub tcp_memory: u64,
}

impl Sample {
    /// Two processes together.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            rss: self.rss + other.rss,
            switches: self.switches + other.switches,
            tcp_memory: self.tcp_memory.max(other.tcp_memory),
        }
    }
}

/// A process now. Everything of a process that is gone is 0.
pub fn take(pid: u32) -> Sample {
    let mut sample = Sample::default();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let schedstat = read(&entry.path().join("schedstat"));
        sample.cpu_ns += first_number(&schedstat);
        let status = read(&entry.path().join("status"));
        sample.switches += field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:");
    }
    sample.rss = field(&read(Path::new(&format!("/proc/{pid}/status"))), "VmRSS:") * 1024;
    sample.tcp_memory = tcp_memory();
    sample
}

/// Bytes of kernel memory for TCP buffers (`mem` of `/proc/net/sockstat`, in pages of 4 KiB).
pub fn tcp_memory() -> u64 {
    let text = read(Path::new("/proc/net/sockstat"));
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = line.split_once("mem ").map_or("", |(_, pages)| pages);
    first_number(pages) * 4096
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn first_number(text: &str) -> u64 {
    text.split_ascii_whitespace()
        .next()
        .and_then(|field| field.parse().ok())
        .unwrap_or(0)
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, first_number)
}

/// Counts the system calls of a process until it is asked.
pub struct SystemCalls(Child);

impl SystemCalls {
    /// Begins to count; None: this machine does not let it.
    pub fn begin(pid: u32) -> Option<Self> {
        let child = Command::new("perf")
            .args([
                "stat",
                "-x",
                ",",
                "-e",
                "raw_syscalls:sys_enter",
                "-p",
                &pid.to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        child.ok().map(Self)
    }

    /// How many there were in a second.
    pub fn end_per_second(self) -> Option<f64> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).ok()?;
        let output = self.0.wait_with_output().ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = text.lines().find(|line| line.contains("raw_syscalls:sys_enter"))?;
        // Value, unit, event, nanoseconds that it was counted.
        let mut fields = line.split(',');
        let calls: f64 = fields.next()?.parse().ok()?;
        let ns: f64 = fields.nth(2)?.parse().ok()?;
        (ns > 0.0).then(|| calls * 1e9 / ns)
    }
}
