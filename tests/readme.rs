//! What the documents say, held against the program: commands, defaults, links, metrics and errors.
//!
//! Owns: how the tables of README.md, docs/protocol.md and docs/metrics.md are read.
//! Never: checks docs/settings.md, which is done beside the table of keys, or the dialogues of the protocol (see `vectors`).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use peer_server::config::Config;
use peer_server::message::Refusal;
use serde_json::{Value, json};
use support::{Server, http};

/// How long a call of the command line may take.
const CALL_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn every_call_of_the_command_table_works() {
    let running = Server::start(json!({}), &[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    fs::write(&file, r#"{"max_peers": 77}"#).unwrap();

    let rows = table(&read("README.md"), "call");
    assert!(rows.len() >= 7, "{rows:?}");
    for row in rows {
        let call = row[0].trim_matches('`');
        let mut words = call.split(' ');
        assert_eq!(words.next(), Some("peer-server"), "{call}");
        let arguments: Vec<&str> = words
            .map(|word| match word {
                "FILE" => file.to_str().unwrap(),
                "PORT" => "0",
                literal => literal,
            })
            .collect();
        let asks = call.ends_with("healthcheck");
        // The defaults are taken as they are but for the addresses: these ports may be in use on this machine.
        let port = if asks {
            running.addr().port().to_string()
        } else {
            "0".to_owned()
        };
        let env = [
            ("PEER_HOST", "127.0.0.1"),
            ("PEER_PORT", &*port),
            ("PEER_METRICS_PORT", "0"),
        ];
        let child = Server::command(&env).args(&arguments).spawn().unwrap();
        if row[1].starts_with("serves") {
            serves_and_stops(child, call);
        } else {
            let output = ended(child, call);
            assert_eq!(output.status.code(), Some(0), "{call}: {output:?}");
            assert!(asks || !output.stdout.is_empty(), "{call} says something");
        }
    }
}

#[test]
fn the_calls_answer_what_the_table_says() {
    let say = |arguments: &[&str]| {
        let output = ended(
            Server::command(&[]).args(arguments).spawn().unwrap(),
            &arguments.join(" "),
        );
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        say(&["--version"]).trim(),
        format!("peer-server {}", env!("CARGO_PKG_VERSION"))
    );
    let printed: Value = serde_json::from_str(&say(&["--print-config"])).unwrap();
    assert_eq!(printed, Config::default().to_json());
    let config = root().join("config.json");
    let printed = say(&["-config", config.to_str().unwrap(), "--print-config"]);
    assert_eq!(
        serde_json::from_str::<Value>(&printed).unwrap(),
        Config::default().to_json()
    );
    assert_eq!(
        say(&["-config", config.to_str().unwrap(), "--check-config"]),
        "the configuration is fine\n"
    );
}

#[test]
fn the_settings_table_shows_the_defaults() {
    let in_file: Value = serde_json::from_str(&read("config.json")).unwrap();
    assert_eq!(in_file, Config::default().to_json());
    let settings = read("docs/settings.md");
    let rows = table(&read("README.md"), "key");
    assert!(rows.len() >= 15, "{rows:?}");
    for row in rows {
        let (keys, mut defaults, variables) = (list(&row[0]), list(&row[1]), list(&row[2]));
        if let [one] = &defaults[..] {
            defaults = vec![one.clone(); keys.len()];
        }
        assert_eq!((keys.len(), keys.len()), (defaults.len(), variables.len()), "{row:?}");
        for ((key, default), variable) in keys.iter().zip(&defaults).zip(&variables) {
            let value = match &in_file[key] {
                Value::String(text) if text.is_empty() => vec!["empty".to_owned()],
                Value::String(text) => vec![text.clone()],
                Value::Array(all) if all.is_empty() => vec!["any".to_owned(), "none".to_owned()],
                Value::Null => panic!("README.md: {key} is no key"),
                other => vec![other.to_string()],
            };
            assert!(
                value.contains(default),
                "README.md: {key} is {value:?} and not {default}"
            );
            let line = settings.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
            let line = line.unwrap_or_else(|| panic!("docs/settings.md lacks {key}"));
            assert!(
                line.contains(&format!("`{variable}`")),
                "{key}: {variable} is not among {line}"
            );
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut faults = Vec::new();
    let documents = documents();
    assert!(documents.len() > 5);
    for document in &documents {
        let text = fs::read_to_string(document).unwrap();
        for target in links(&text) {
            if ["http://", "https://", "mailto:"]
                .iter()
                .any(|scheme| target.starts_with(scheme))
            {
                continue;
            }
            let (file, place) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(file)
            };
            let there = match path.is_file() {
                true if place.is_empty() => true,
                true => headings(&fs::read_to_string(&path).unwrap()).contains(place),
                false => path.is_dir() && place.is_empty(),
            };
            if !there {
                faults.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_metric_has_its_line() {
    let server = Server::start(json!({ "metrics_enabled": true, "metrics_port": 0 }), &[]);
    let page = http(metrics_address(&server), "GET", "/metrics", &[]);
    assert_eq!(page.status, 200);
    let served = served_metrics(&page.text());
    assert!(served.len() > 30, "{served:?}");

    let mut described = Vec::new();
    for row in table(&read("docs/metrics.md"), "name") {
        let name = row[0].trim_matches('`').to_owned();
        assert!(!row[3].is_empty(), "{name} has no meaning");
        let (label, values) = row[2].split_once(':').unwrap_or((&row[2], ""));
        let values = if values.is_empty() { Vec::new() } else { list(values) };
        described.push(Family {
            name,
            kind: row[1].clone(),
            label: label.trim_matches('`').to_owned(),
            values,
        });
    }
    assert_eq!(described, served, "docs/metrics.md on the left, /metrics on the right");
}

#[test]
fn every_error_has_its_line() {
    let mut described = BTreeSet::new();
    for row in table(&section(&read("docs/protocol.md"), "## Errors"), "code") {
        let code: u16 = row[0].parse().unwrap();
        for text in list(&row[1]) {
            if text.contains("TYPE") {
                described.extend(list(&row[2]).iter().map(|name| (code, text.replace("TYPE", name))));
            } else {
                described.insert((code, text));
            }
        }
    }
    let all: BTreeSet<(u16, String)> = Refusal::ALL
        .iter()
        .map(|refusal| (refusal.code(), refusal.text().to_owned()))
        .collect();
    let missing: Vec<_> = all.difference(&described).collect();
    let unknown: Vec<_> = described.difference(&all).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "docs/protocol.md lacks {missing:?} and makes up {unknown:?}"
    );
}

/// A family of metrics, as described or as served.
#[derive(Debug, PartialEq)]
struct Family {
    name: String,
    kind: String,
    label: String,
    /// Those of a label whose values are known beforehand.
    values: Vec<String>,
}

fn served_metrics(page: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let (name, kind) = (name.to_owned(), kind.to_owned());
            families.push(Family {
                name,
                kind,
                label: String::new(),
                values: Vec::new(),
            });
        } else if let Some((_, label)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let family = families.last_mut().unwrap();
            let (label, value) = label.split_once("=\"").unwrap();
            label.clone_into(&mut family.label);
            if !["le", "version"].contains(&label) {
                family.values.push(value.split_once('"').unwrap().0.to_owned());
            }
        }
    }
    families
}

fn metrics_address(server: &Server) -> SocketAddr {
    let deadline = Instant::now() + CALL_WITHIN;
    loop {
        let log = server.stderr();
        let address = log
            .split("metrics=")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next());
        if let Some(address) = address {
            return address.trim_matches('"').parse().unwrap();
        }
        assert!(
            Instant::now() < deadline,
            "the log does not tell where metrics are: {log}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The calls that serve say where, and stop when they are asked to.
fn serves_and_stops(mut child: Child, call: &str) {
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    // Ends with the program, which the guard below ends in any case.
    let mut guard = Guard(child);
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let address = line
        .strip_prefix("listening on ")
        .unwrap_or_else(|| panic!("{call}: {line:?}"));
    let address: SocketAddr = address.trim().parse().unwrap();
    assert_eq!(http(address, "GET", "/health", &[]).status, 200, "{call}");
    let expected = if call.contains("FILE") { 77 } else { 100_000 };
    assert_eq!(
        http(address, "GET", "/health", &[]).json()["max_peers"],
        expected,
        "{call}"
    );
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&guard.0),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(exit_of(&mut guard.0, call), Some(0), "{call}");
}

fn ended(child: Child, call: &str) -> Output {
    let mut guard = Guard(child);
    exit_of(&mut guard.0, call);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    std::io::copy(guard.0.stdout.as_mut().unwrap(), &mut stdout).unwrap();
    std::io::copy(guard.0.stderr.as_mut().unwrap(), &mut stderr).unwrap();
    let status = guard.0.wait().unwrap();
    Output { status, stdout, stderr }
}

fn exit_of(child: &mut Child, call: &str) -> Option<i32> {
    let deadline = Instant::now() + CALL_WITHIN;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < deadline, "{call} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Leaves no process behind when a test fails.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The Markdown files beside the program and under `docs` and `fuzz`.
fn documents() -> Vec<PathBuf> {
    let mut documents = Vec::new();
    for folder in [".", "clients/rust", "docs", "docs/decisions", "fuzz"] {
        let Ok(entries) = fs::read_dir(root().join(folder)) else {
            continue;
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        documents.extend(paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    documents
}

/// The text from a heading to the next of its rank.
fn section(text: &str, heading: &str) -> String {
    let mut lines = text.lines().skip_while(|line| *line != heading);
    let first = lines.next().unwrap_or_else(|| panic!("{heading} is missing"));
    let rank = format!("{} ", first.split(' ').next().unwrap());
    lines
        .take_while(|line| !line.starts_with(&rank))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// The rows of every table whose first column has this head; cells without the blanks around them.
fn table(text: &str, first_head: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let Some(cells) = line
            .strip_prefix('|')
            .and_then(|line| line.trim_end().strip_suffix('|'))
        else {
            inside = false;
            continue;
        };
        let cells: Vec<String> = cells.split('|').map(|cell| cell.trim().to_owned()).collect();
        if cells[0] == first_head {
            inside = true;
        } else if inside && !cells[0].starts_with("---") {
            rows.push(cells);
        }
    }
    assert!(!rows.is_empty(), "no table begins with {first_head}");
    rows
}

/// The parts of a cell that holds several, separated by commas, without the marks of code.
fn list(cell: &str) -> Vec<String> {
    let before_notes = cell.split(", then ").next().unwrap();
    before_notes
        .split(',')
        .map(|part| part.trim().trim_matches('`').to_owned())
        .collect()
}

/// The targets of `[text](target)`, those inside code left out.
fn links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let outside: String = if in_code {
            String::new()
        } else {
            line.split('`').step_by(2).collect()
        };
        for rest in outside.split("](").skip(1) {
            targets.extend(rest.split_once(')').map(|(target, _)| target.to_owned()));
        }
    }
    targets
}

/// The names by which links reach the headings of a document.
fn headings(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let heads = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim());
    heads
        .map(|head| {
            let kept = head.to_lowercase().replace(' ', "-");
            let name: String = kept
                .chars()
                .filter(|c| c.is_alphanumeric() || "-_".contains(*c))
                .collect();
            let count = seen.entry(name.clone()).or_default();
            *count += 1;
            if *count > 1 {
                format!("{name}-{}", *count - 1)
            } else {
                name
            }
        })
        .collect()
}

#[test]
fn a_link_is_found_and_a_heading_has_its_name() {
    let text = "see [a](b.md#c-d), [e](f) and `[no](g)`\n```\n[no](h)\n```\n";
    assert_eq!(links(text), ["b.md#c-d", "f"]);
    assert_eq!(
        headings("# A b\n## a_c, d?\n# A b"),
        ["a-b", "a-b-1", "a_c-d"].map(str::to_owned).into()
    );
}
