//! The desk of the matchmaker web service: any requests, events, reports and times.
//!
//! Input: four bytes for the settings, then operations of a few bytes each, as the simulator reads them.
//! Property: places, sessions and figures agree with a simple model after every step, every request gets one last word, what a
//! provider works for in vain is cancelled, and nothing is left when everybody is gone.
#![no_main]

#[path = "../../tests/desk_sim/model.rs"]
mod model;
#[path = "../../tests/desk_sim/world.rs"]
mod world;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| world::run(data));
