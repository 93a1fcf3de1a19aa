//! The simulator: several shards, their mail and their clients under thousands of schedules, each drawn from one seed.
//!
//! `cargo test --test sim` runs 256 seeds and the named scenes. `SIM_SEED=0x2a` replays one seed and prints its trace,
//! `SIM_SEEDS=20000` widens. A seed that fails is run again for its trace, whose last lines are printed.

#![allow(clippy::unwrap_used)]

mod checkers;
mod links;
mod model;
mod scenes;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use workload::{Random, Settings};
use world::{TRACE, World};

const TRACE_LINES: usize = 60;

#[test]
fn no_schedule_breaks_a_promise() {
    if let Some(seed) = number("SIM_SEED") {
        TRACE.set(Some(Vec::new()));
        let result = catch_unwind(|| run(seed));
        TRACE
            .take()
            .unwrap_or_default()
            .iter()
            .for_each(|line| eprintln!("{line}"));
        match result {
            Ok(steps) => eprintln!("seed {seed:#x}: {steps} steps, no difference"),
            Err(panic) => resume_unwind(panic),
        }
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(256);
    let steps: u64 = (0..seeds).map(run_and_explain).sum();
    eprintln!("{seeds} seeds, {steps} steps, no difference");
}

fn run(seed: u64) -> u64 {
    let settings = Settings::draw(&mut Random::new(!seed));
    World::new(seed, settings).run()
}

fn run_and_explain(seed: u64) -> u64 {
    let panic = match catch_unwind(|| run(seed)) {
        Ok(steps) => return steps,
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
