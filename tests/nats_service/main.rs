//! The NATS parts against a real nats-server: what is recorded of the original services is replayed on both sides.
//!
//! Owns: nothing but its modules, by part.
//! Never: relies on a NATS server that is already there.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "tests")]

mod back;
mod broker;
mod connection;
mod front;
mod objects;
mod sessions;
