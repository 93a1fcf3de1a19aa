//! The real program, spoken to through sockets: what a stranger may do to it, and what it does then.
//!
//! Owns: behaviour that only shows between a kernel and a process: back-pressure, half-closed connections, limits of
//! descriptors, signals, TLS, and connections that move between loops. `tests/vectors.rs` holds the protocol itself.
//! Never: waits for a fixed time as a proof; every wait has a condition and a deadline.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod addresses;
mod cli;
mod closing;
mod compression;
mod drain;
mod handshake;
mod http;
mod ice;
mod leaks;
mod limits;
mod lobby;
mod moving;
mod presence;
mod scene;
mod slow;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod tls;
mod trust;
mod upgrade;
