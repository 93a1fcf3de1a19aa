//! Where settings come from: the file, the environment, and files that hold one secret each.
//!
//! Owns: one layer laid over another, unknown keys, and the wording that says which source a fault is in.
//! Never: decides whether a value is good (see `values`, `checks`).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::game_server_values::parse_key;
use super::keys::{KEYS, Key, SECRETS};
use super::values::{Problem, Raw};
use super::{Config, Flags};

/// What was found while reading; with any error the server does not start.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) errors: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Findings {
    pub(super) fn error(&mut self, key: &str, what: &str) {
        self.errors.push(format!("{key}: {what}"));
    }

    pub(super) fn warning(&mut self, key: &str, what: &str) {
        self.warnings.push(format!("{key}: {what}"));
    }
}

/// Lays the file over the settings.
pub(super) fn apply_file(config: &mut Config, path: &Path, findings: &mut Findings) {
    let object = match read_object(path) {
        Ok(object) => object,
        Err(what) => return findings.errors.push(format!("{}: {what}", path.display())),
    };
    let mut given = HashSet::new();
    let mut spelled: HashMap<&str, &str> = HashMap::new();
    for (name, value) in &object {
        let Some(key) = KEYS.iter().find(|key| key.is_called(name)) else {
            findings.warnings.push(unknown_key(name));
            continue;
        };
        if value.is_null() {
            continue;
        }
        if let Some(other) = spelled.insert(key.name, name).filter(|_| key.word.is_some()) {
            let other = if other == key.name { name } else { other };
            findings.error(key.name, &format!("given twice, also as {other}"));
            continue;
        }
        if key.is_kept_out_of_the_file && value.as_str() != Some("") {
            let variables = key.variables().collect::<Vec<_>>().join(" or ");
            let what = format!(
                "may not stand in this file; name a file of its own as {}_file, or set {variables}",
                key.name
            );
            findings.error(key.name, &what);
            continue;
        }
        match (key.setting)(config).read(Raw::Json(value)) {
            Ok(()) if value.as_str() == Some("") => {}
            Ok(()) => _ = given.insert(key.name),
            Err(Problem::Unreadable(what) | Problem::Refused(what)) => findings.error(key.name, &what),
        }
    }
    settle_secrets(config, &given, findings);
}

/// Lays the environment over the settings.
pub(super) fn apply_environment(config: &mut Config, env: &dyn Fn(&str) -> Option<String>, findings: &mut Findings) {
    let mut given = HashSet::new();
    for key in KEYS {
        let Some((variable, text)) = first_set(key, env) else {
            continue;
        };
        let is_own = key.own_variables.contains(&variable.as_str());
        let text = if key.on_if_there && is_own { "true" } else { &text };
        match (key.setting)(config).read(Raw::Text(text)) {
            Ok(()) => _ = given.insert(key.name),
            Err(Problem::Unreadable(what)) => findings.warning(key.name, &format!("{what}; {variable} is ignored")),
            Err(Problem::Refused(what)) => findings.error(key.name, &format!("{what}, in {variable}")),
        }
    }
    settle_secrets(config, &given, findings);
}

/// Lays the flags over the settings. Nothing is forgiven: whoever wrote one is there to write it again.
pub(super) fn apply_flags(config: &mut Config, flags: &Flags, findings: &mut Findings) {
    if let Some(port) = flags.port {
        config.port = port;
    }
    for (word, text) in &flags.words {
        let Some(key) = KEYS.iter().find(|key| key.word == Some(word)) else {
            findings.errors.push(format!("--{word}: unknown"));
            continue;
        };
        if let Err(Problem::Unreadable(what) | Problem::Refused(what)) = (key.setting)(config).read(Raw::Text(text)) {
            findings.error(key.name, &format!("{what}, in --{word}"));
        }
    }
}

fn first_set(key: &Key, env: &dyn Fn(&str) -> Option<String>) -> Option<(String, String)> {
    key.variables()
        .find_map(|name| env(&name).filter(|text| !text.is_empty()).map(|text| (name, text)))
}

/// Within one source a secret and its file exclude each other; between sources the later one replaces both.
fn settle_secrets(config: &mut Config, given: &HashSet<&str>, findings: &mut Findings) {
    for secret in SECRETS {
        let (value, file) = (secret.fields)(config);
        match (given.contains(secret.key), given.contains(secret.file_key)) {
            (true, true) => findings.error(secret.key, &format!("given twice, also as {}", secret.file_key)),
            (true, false) => *file = None,
            (false, true) => value.clear(),
            (false, false) => {}
        }
    }
}

/// Fills in the secrets that are kept in files.
pub(super) fn read_secrets(config: &mut Config, findings: &mut Findings) {
    for secret in SECRETS {
        let (value, file) = (secret.fields)(config);
        // Both are set only after they were given twice, which has been told.
        let Some(path) = file.as_deref().filter(|_| value.is_empty()) else {
            continue;
        };
        match read_text(path) {
            Ok(content) => {
                let line = content.strip_suffix('\n').unwrap_or(&content);
                line.strip_suffix('\r').unwrap_or(line).clone_into(value);
                if value.is_empty() {
                    findings.warning(secret.file_key, &format!("{} is empty", path.display()));
                }
            }
            Err(error) => findings.error(secret.file_key, &format!("cannot read {}: {error}", path.display())),
        }
    }
}

/// Fills in the private keys of game servers that have one of their own.
pub(super) fn read_server_keys(config: &mut Config, findings: &mut Findings) {
    for server in &mut config.matchmaker.servers {
        let Some(path) = &server.private_key_file else {
            continue;
        };
        let key = match read_text(path) {
            Ok(content) => parse_key(&content).map_err(|what| format!("the key in {} {what}", path.display())),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        };
        match key {
            Ok(key) => server.private_key = Some(key),
            Err(what) => findings.error("game_servers", &format!("{}: {what}", server.id)),
        }
    }
}

fn read_object(path: &Path) -> Result<Map<String, Value>, String> {
    let text = read_text(path).map_err(|error| format!("cannot be read: {error}"))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("must hold a JSON object".to_owned()),
        Err(error) => Err(format!("is not JSON: {error}")),
    }
}

/// Reads a file of UTF-8; one that never ends is an error like any other.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok(text)
}

fn unknown_key(name: &str) -> String {
    let lower = name.to_lowercase();
    let near = |key: &Key| (strsim::jaro_winkler(&lower, key.name), key.name);
    match KEYS
        .iter()
        .map(near)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
    {
        Some((_, known)) => format!("{}: unknown key, ignored; did you mean {known}?", name.escape_debug()),
        None => format!("{}: unknown key, ignored", name.escape_debug()),
    }
}

const FILE_BYTES_MAX: u64 = 1 << 20;
/// Below this a suggestion is noise: `prot` is like `port` by 0.92, `comment` like `compression_enabled` by 0.66.
const LIKENESS_MIN: f64 = 0.75;
