//! Several nodes as one place, as a client sees them.
//!
//! Owns: behaviour that shows between the sockets of a node and its broker. What a shard does by itself is tested beside it,
//! with many shards and an unkind network in `tests/sim`.
//! Never: waits for a fixed time as a proof; every wait has a condition and a deadline.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod broker;
mod figures;
mod plain;
mod processes;
mod shell;
#[path = "../support/mod.rs"]
mod support;
