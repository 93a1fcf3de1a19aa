//! Settings from a file and from the environment.
//!
//! Input: lines `NAME=value` of the environment up to the first empty line, then the content of the file.
//! Property: settings that are accepted read back to themselves, print without their secrets, and every fault is told.
#![no_main]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use peer_server::config::{Flags, Loaded, load};

/// In memory where the system has such a place; one for each process.
static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("peer-server-fuzz-{}.json", std::process::id()))
});

fuzz_target!(|text: &str| {
    // No input may make the fuzzer open whatever file it likes.
    if text.contains("_file") || text.contains("_FILE") || text.contains('\\') {
        return;
    }
    let (variables, file) = text.split_once("\n\n").unwrap_or(("", text));
    let variables: HashMap<&str, &str> = variables.lines().filter_map(|line| line.split_once('=')).collect();
    let environment = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    let loaded = read_as_file(file, &environment);
    let Loaded { config, warnings } = match loaded {
        Ok(loaded) => loaded,
        Err(faults) => {
            assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.is_empty()));
            return;
        }
    };
    assert!(
        warnings.iter().all(|warning| !warning.contains('\n')),
        "a warning is one line: {warnings:?}"
    );

    let json = config.to_json().to_string();
    // No file may hold this one.
    let private_key = |name: &str| (name == "LIGHTYEAR_PRIVATE_KEY").then(|| config.matchmaker.private_key.clone());
    let again = read_as_file(&json, &private_key).expect("what is in force can be written down");
    assert_eq!(again.config, config);
    assert_eq!(again.config.to_json().to_string(), json);
    let shown = format!("{config:?}");
    let matchmaker = &config.matchmaker;
    let secrets = [
        &config.redis_password,
        &config.nats_password,
        &config.nats_token,
        &config.turn_secret,
        &matchmaker.ticket_secret,
        &matchmaker.report_secret,
        &matchmaker.private_key,
        &matchmaker.edgegap.api_key,
        &matchmaker.nats.password,
    ];
    for secret in secrets {
        // A short one may stand anywhere by chance.
        let left_out = usize::from(secret == &matchmaker.private_key);
        let elsewhere = json.matches(&**secret).count() + left_out > 1;
        assert!(secret.len() < 12 || elsewhere || !shown.contains(&**secret));
    }
});

fn read_as_file(content: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Vec<String>> {
    std::fs::write(&*PATH, content).expect("the file can be written");
    let loaded = load(Some(&PATH), environment, &Flags::default());
    std::fs::remove_file(&*PATH).expect("the file can be removed");
    loaded
}
