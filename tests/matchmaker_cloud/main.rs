//! The matchmaker web service as a fleet: one server in front, one behind it, a real NATS server between them, and the mock
//! of the cloud. The recorded dialogues of the original services are replayed against it.
//!
//! Owns: what a player and the cloud see of the whole. `provider` and `desk` are tested by themselves elsewhere.
//! Never: waits for a fixed time as a proof.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod dialogues;
mod faults;
mod life;
mod replay;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod world;
