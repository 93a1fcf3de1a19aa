//! The host, and what this measurement was made of.
//!
//! Owns: reading `/proc`, and asking `git` and the server for their versions.
//! Never: measures.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::figures::Machine;

/// Unit of `/proc/stat`: on every architecture that Linux tells programs of, a hundredth of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// This host.
pub fn machine() -> Machine {
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let memory = read("/proc/meminfo");
    let kib = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |rest| number(rest.trim().trim_end_matches("kB").trim())) * 1024
    };
    // A control group may have less than the machine; what it already uses is not free.
    let group = |file: &str| read(&format!("/sys/fs/cgroup/{file}")).trim().parse::<u64>().ok();
    let (total, available) = match group("memory.max") {
        None => (kib("MemTotal:"), kib("MemAvailable:")),
        Some(most) => {
            let left = most.saturating_sub(group("memory.current").unwrap_or(0));
            (kib("MemTotal:").min(most), kib("MemAvailable:").min(left))
        }
    };
    Machine {
        cpu: model
            .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']))
            .to_owned(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory: total,
        memory_available: available,
        kernel: format!(
            "{} {}",
            read("/proc/sys/kernel/ostype").trim(),
            read("/proc/sys/kernel/osrelease").trim()
        ),
    }
}

/// How long the cores have worked, since the machine started.
#[derive(Clone, Copy, Debug)]
pub struct Busy {
    /// In the unit of `/proc/stat`, of all cores together.
    worked: u64,
    at: Instant,
}

impl Busy {
    /// Until now.
    pub fn now() -> Self {
        let text = read("/proc/stat");
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).map(number).collect();
        // User, nice, system, idle, waiting for a disk, interrupts, soft interrupts, stolen by the hypervisor.
        let worked = [0, 1, 2, 5, 6, 7].iter().filter_map(|place| ticks.get(*place)).sum();
        Self {
            worked,
            at: Instant::now(),
        }
    }

    /// Cores that worked from `earlier` until this.
    pub fn cores_since(&self, earlier: &Self) -> f64 {
        let seconds = self.worked.saturating_sub(earlier.worked) as f64 / TICKS_PER_SECOND;
        seconds / self.at.duration_since(earlier.at).as_secs_f64().max(1e-3)
    }
}

/// The number at a place of a file below `/proc/sys`; None: this kernel does not have it.
pub fn kernel_setting(name: &str, place: usize) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    text.split_ascii_whitespace().nth(place)?.parse().ok()
}

/// Commit of the repository of the working directory.
pub fn commit() -> Option<String> {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"])?;
    let differs = output("git", &["status", "--porcelain", "--untracked-files=no"])?;
    Some(format!("{commit}{}", if differs.is_empty() { "" } else { "-dirty" }))
}

/// What a server calls itself.
///
/// # Errors
/// It cannot be run.
pub fn version(server: &str) -> Result<String, String> {
    output(server, &["--version"]).ok_or_else(|| format!("{server} --version does not answer: is it a peer-server?"))
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    let output = command
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// Now, in UTC (RFC 3339).
pub fn date() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    date_of(since.as_secs())
}

/// Seconds since 1970 as a date of the Gregorian calendar.
fn date_of(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Counted from 1 March of the year 0, leap days are the last of their years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{:02}Z",
        second % 60
    )
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(text: &str) -> u64 {
    text.trim_start_matches(':').trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date_of(seconds), date);
        }
    }

    #[test]
    fn this_host_has_a_processor_memory_and_a_kernel() {
        let machine = machine();
        assert!(machine.cores > 0 && machine.memory >= machine.memory_available);
        assert!(machine.memory_available > 0, "{machine:?}");
        assert!(machine.kernel.len() > 3, "{machine:?}");
    }
}
