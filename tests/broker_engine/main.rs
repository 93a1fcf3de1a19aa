//! Every engine keeps the same promises: the same scenarios against a real broker of each kind, and what only one kind has.
//!
//! Owns: nothing but its modules.
//! Never: relies on a broker that is already there.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod bench;
mod connections;
mod lease;
mod matches;
#[path = "../support/nats.rs"]
#[allow(dead_code, reason = "every test file takes its own part of this")]
mod nats_server;
mod on_nats;
mod on_redis;
mod on_redis_faults;
#[path = "../support/redis.rs"]
#[allow(dead_code, reason = "every test file takes its own part of this")]
mod server;
mod sessions;
mod spaces;
