//! Players of all three punch dialects behind simulated routers, the clients' code against the server's: every two who can
//! meet do, in bounded time, and nothing is left of anybody.
//!
//! `SIM_SEED=0x2a` plays one seed, `SIM_SEEDS=20000` so many.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "figures of a wide run, shown with --nocapture")]

mod network;
mod players;
mod scenes;
#[path = "../punch/seeds.rs"]
mod seeds;
#[path = "../punch/wire.rs"]
mod wire;
mod world;
