//! A configuration for this host, and whether the server takes it.
//!
//! Owns: the values and their reasons, and the server that is started to check them.
//! Never: measures.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use super::figures::{Limit, Machine, Suggestion};
use super::host::kernel_setting;
use super::limits::grouped;

/// The server's own defaults, which are left where nothing speaks against them.
const SEND_BUFFER_BYTES: u64 = 262_144;
const SOCKET_SEND_BYTES: u64 = 131_072;
const MAIL_BYTES: u64 = 16 << 20;
/// Peers of which one may be stalled, with its buffers full, at the same time.
const STALLED_ONE_IN: u64 = 100;
/// Least buffers that a message of the greatest size fits into.
const BUFFER_LEAST: u64 = 65_536 + 64;

/// What a server told when it started.
#[derive(Clone, Debug)]
pub struct Served {
    /// Descriptors of each of its tables.
    pub descriptors: u64,
    /// Whether each loop has its own table.
    pub table_per_loop: bool,
    /// Its warnings.
    pub warnings: Vec<String>,
}

/// The settings for a host with these limits.
pub fn suggest(machine: &Machine, limits: &[Limit]) -> Suggestion {
    let first = limits
        .iter()
        .filter(|limit| limit.always)
        .min_by_key(|limit| limit.peers);
    let max_peers = first.map_or(1, |limit| rounded_down(limit.peers)).max(1);
    let loops = machine.cores as u64;
    let quarter = whole_mib(machine.memory_available / 4);
    let stalled = (max_peers / STALLED_ONE_IN).max(1);
    let send_buffer = SEND_BUFFER_BYTES.min(quarter / stalled).max(BUFFER_LEAST);
    // The kernel reckons what stands in a send buffer as about twice its bytes.
    let pressure = kernel_setting("net/ipv4/tcp_mem", 1).unwrap_or(u64::MAX / 4096) * 4096;
    let socket_send = SOCKET_SEND_BYTES.min(pressure / 4 / stalled).max(16_384);
    let mail = MAIL_BYTES
        .min(whole_mib(machine.memory_available / 64 / loops))
        .max(1 << 20);
    let named = first.map_or("nothing", |limit| &limit.of);
    let rows = [
        ("loops", json!(loops), "one for each core".to_owned()),
        ("max_peers", json!(max_peers), format!("what gives out first: {named}")),
        (
            "descriptor_tables",
            json!("auto"),
            "one for each loop where the system lets it".to_owned(),
        ),
        (
            "state_bytes_max",
            json!(quarter),
            "a quarter of the memory that is free".to_owned(),
        ),
        (
            "output_bytes_max",
            json!(quarter),
            "a quarter of the memory that is free".to_owned(),
        ),
        (
            "send_buffer_bytes",
            json!(send_buffer),
            format!(
                "{} peers, one in {STALLED_ONE_IN}, may be stalled at once within output_bytes_max",
                grouped(stalled)
            ),
        ),
        (
            "socket_send_bytes",
            json!(socket_send),
            "these take half of what net.ipv4.tcp_mem allows before pressure".to_owned(),
        ),
        (
            "mail_bytes",
            json!(mail),
            "at most a sixty-fourth of the memory for all loops".to_owned(),
        ),
    ];
    let mut suggestion = Suggestion {
        settings: Map::new(),
        reasons: Map::new(),
        accepted: false,
        warnings: Vec::new(),
    };
    for (key, value, reason) in rows {
        suggestion.settings.insert(key.to_owned(), value);
        suggestion.reasons.insert(key.to_owned(), reason.into());
    }
    suggestion
}

/// Two digits, then zeros: no figure here is better known than that.
fn rounded_down(number: u64) -> u64 {
    let unit = 10_u64.pow(number.max(1).ilog10().saturating_sub(1));
    number / unit * unit
}

fn whole_mib(bytes: u64) -> u64 {
    (bytes >> 20).max(1) << 20
}

/// Notes on a suggestion what the server says to it.
///
/// # Errors
/// The server cannot be run at all.
pub fn check(server: &str, suggestion: &mut Suggestion) -> Result<(), String> {
    match serve(server, &suggestion.settings) {
        Ok(served) => {
            suggestion.accepted = true;
            suggestion.warnings = served.warnings;
        }
        Err(Refusal::Refused(why)) => suggestion.warnings = vec![why],
        Err(Refusal::NotRun(why)) => return Err(why),
    }
    Ok(())
}

/// What a server with these settings tells.
///
/// # Errors
/// It does not serve.
pub fn ask(server: &str, settings: &Map<String, Value>) -> Result<Served, String> {
    serve(server, settings).map_err(|refusal| match refusal {
        Refusal::Refused(why) | Refusal::NotRun(why) => why,
    })
}

enum Refusal {
    Refused(String),
    NotRun(String),
}

/// Lets the server check the settings, then serve with them on ports of its own, and ends it.
fn serve(server: &str, settings: &Map<String, Value>) -> Result<Served, Refusal> {
    let not_run = |error: std::io::Error| Refusal::NotRun(format!("{server}: {error}"));
    let folder = tempfile::tempdir().map_err(not_run)?;
    let path = folder.path().join("config.json");
    std::fs::write(&path, Value::from(settings.clone()).to_string()).map_err(not_run)?;
    let checked = command(server, &path).arg("--check-config").output().map_err(not_run)?;
    if !checked.status.success() {
        return Err(Refusal::Refused(
            String::from_utf8_lossy(&checked.stderr).trim().to_owned(),
        ));
    }
    let mut child = command(server, &path)
        .args(["-p", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_run)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        // It says so when it serves, and closes the stream if it ends before.
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    let pid = rustix::process::Pid::from_child(&child);
    // A drain with nobody to drain; it has written its log by the time it ends.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let mut log = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut log);
    }
    let _ = child.wait();
    if !line.starts_with("listening on ") {
        return Err(Refusal::Refused(format!("{line}{log}").trim().to_owned()));
    }
    Ok(read_log(&log))
}

fn command(server: &str, config: &Path) -> Command {
    let mut command = Command::new(server);
    command
        .arg("-config")
        .arg(config)
        .env("PEER_HOST", "127.0.0.1")
        .env("PEER_METRICS_ENABLED", "false")
        .env("PEER_LOG_LEVEL", "info")
        .env("PEER_LOG_FORMAT", "json")
        .stdin(Stdio::null());
    command
}

fn read_log(log: &str) -> Served {
    let mut served = Served {
        descriptors: 0,
        table_per_loop: false,
        warnings: Vec::new(),
    };
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let fields = &line["fields"];
        if let Some(descriptors) = fields["descriptors"].as_u64() {
            served.descriptors = descriptors;
            served.table_per_loop = fields["descriptor_tables"] == "per_loop";
        }
        if let Some("WARN" | "ERROR") = line["level"].as_str() {
            served
                .warnings
                .push(fields["message"].as_str().unwrap_or_default().to_owned());
        }
    }
    served
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn two_digits_are_kept() {
        for (number, rounded) in [(0, 0), (7, 7), (99, 99), (123, 120), (34_951, 34_000)] {
            assert_eq!(rounded_down(number), rounded);
        }
    }

    #[test]
    fn a_small_host_gets_small_buffers_that_still_hold_a_message() {
        let host = |memory_available, peers| {
            let machine = Machine {
                cores: 2,
                memory_available,
                ..Machine::default()
            };
            let limit = |of: &str, peers, always| Limit {
                of: of.to_owned(),
                figure: String::new(),
                peers,
                always,
                how: String::new(),
            };
            suggest(
                &machine,
                &[limit("memory", peers, true), limit("a proxy's ports", 10, false)],
            )
            .settings
        };
        let large = host(32 << 30, 123_456);
        assert_eq!((&large["max_peers"], &large["loops"]), (&json!(120_000), &json!(2)));
        assert_eq!(large["send_buffer_bytes"], SEND_BUFFER_BYTES);
        let small = host(256 << 20, 99_999);
        assert_eq!(small["output_bytes_max"], 64 << 20);
        assert_eq!(small["send_buffer_bytes"], (64_u64 << 20) / 990);
        assert_eq!(host(16 << 20, 99_999)["send_buffer_bytes"], BUFFER_LEAST);
    }

    #[test]
    fn a_log_tells_of_tables_and_warnings() {
        let log = r#"{"level":"INFO","fields":{"message":"serving","descriptors":20000,"descriptor_tables":"per_loop"}}
{"level":"WARN","fields":{"message":"too few","descriptors":20000,"descriptor_tables":"per_loop"}}
not json"#;
        let served = read_log(log);
        assert_eq!((served.descriptors, served.table_per_loop), (20_000, true));
        assert_eq!(served.warnings, ["too few"]);
    }
}
