//! The simulator of several nodes: their shards, their clients and a model of the broker, under thousands of schedules and
//! faults, each drawn from one seed.
//!
//! `cargo test --test cluster_sim` runs 256 seeds and the named scenes. `SIM_SEED=0x2a` replays one seed and prints its trace,
//! `SIM_SEEDS=20000` widens, `SIM_FIRST` says from where, `SIM_SURVEY=1` goes on after a failure and counts them by kind.
//! A seed that fails is run again for its trace, whose last lines are printed.

#![allow(clippy::unwrap_used)]

mod checkers;
#[path = "../sim/links.rs"]
#[allow(dead_code)]
mod links;
mod model;
mod model_tests;
mod scenes;
#[path = "../sim/model.rs"]
#[allow(dead_code)]
mod sequential;
mod settings;
#[path = "../sim/workload.rs"]
#[allow(dead_code)]
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use settings::Settings;
use workload::Random;
use world::{TRACE, World};

const TRACE_LINES: usize = 80;

#[test]
fn no_schedule_and_no_fault_breaks_a_promise() {
    if let Some(seed) = number("SIM_SEED") {
        TRACE.set(Some(Vec::new()));
        let result = catch_unwind(|| run(seed));
        TRACE
            .take()
            .unwrap_or_default()
            .iter()
            .for_each(|line| eprintln!("{line}"));
        match result {
            Ok((steps, faults)) => eprintln!("seed {seed:#x}: {steps} steps, {faults} faults, no difference"),
            Err(panic) => resume_unwind(panic),
        }
        return;
    }
    let (first, seeds) = (number("SIM_FIRST").unwrap_or(0), number("SIM_SEEDS").unwrap_or(256));
    if std::env::var_os("SIM_SURVEY").is_some() {
        return survey(first..first + seeds);
    }
    let (mut steps, mut faults) = (0, 0);
    for seed in first..first + seeds {
        let (more_steps, more_faults) = run_and_explain(seed);
        (steps, faults) = (steps + more_steps, faults + more_faults);
    }
    eprintln!("{seeds} seeds, {steps} steps, {faults} faults, no difference");
}

/// Runs all of them and says how many failed in which way.
fn survey(seeds: std::ops::Range<u64>) {
    static LAST: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
    std::panic::set_hook(Box::new(|info| *LAST.lock().unwrap() = info.to_string()));
    let mut failed: std::collections::BTreeMap<String, Vec<u64>> = std::collections::BTreeMap::new();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        if catch_unwind(|| run(seed)).is_err() {
            let text = LAST.lock().unwrap().clone();
            let key: String = text
                .lines()
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
                .chars()
                .take(160)
                .collect();
            failed
                .entry(key.split("at ").nth(1).unwrap_or(&key).to_owned())
                .or_default()
                .push(seed);
        }
    }
    let _ = std::panic::take_hook();
    let total: usize = failed.values().map(Vec::len).sum();
    for (what, seeds) in &failed {
        eprintln!("{:>4} {what} {:x?}", seeds.len(), &seeds[..seeds.len().min(8)]);
    }
    assert_eq!(total, 0, "{total} of {count} seeds failed");
}

fn run(seed: u64) -> (u64, u64) {
    let settings = Settings::draw(&mut Random::new(!seed));
    let lockstep = settings.load.lockstep;
    let mut world = World::new(seed, settings);
    let steps = if lockstep { world.run_in_lockstep() } else { world.run() };
    (steps, world.faults)
}

fn run_and_explain(seed: u64) -> (u64, u64) {
    let panic = match catch_unwind(|| run(seed)) {
        Ok(counts) => return counts,
        Err(panic) => panic,
    };
    TRACE.set(Some(Vec::new()));
    let again = catch_unwind(AssertUnwindSafe(|| run(seed)));
    let trace = TRACE.take().unwrap_or_default();
    let settings = Settings::draw(&mut Random::new(!seed));
    eprintln!("{settings:?}");
    trace[trace.len().saturating_sub(TRACE_LINES)..]
        .iter()
        .for_each(|line| eprintln!("{line}"));
    eprintln!("seed {seed:#x} failed (first number: the step). SIM_SEED={seed:#x} replays it with all lines.");
    assert!(again.is_err(), "seed {seed:#x} failed once and not twice");
    resume_unwind(panic)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
