//! The matchmaker web service on real sockets: its paths, its dialogue, its reports, and what strangers may do to it.
//!
//! The servers run in this process, with a provider and a register that say what the test has them say. The recordings that
//! are replayed are in `tests/vectors/bevygap/`; where our answer differs on purpose the case names how.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod dialogue;
mod ending;
mod http;
mod remote;
mod reports;
mod scene;
mod secrets;
#[path = "../support/mod.rs"]
mod support;
mod trust;
mod vectors;
