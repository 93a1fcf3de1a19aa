//! peer-server: lets two strangers' programs find each other and connect.
//!
//! One event loop for each core, each with a slab of connections and a shard of the peers; see `ARCHITECTURE.md`.
//!
//! ```text
//! main -> server -> event_loop -+-> broker, provider -> dialect -> codec
//!           |                   +-> shard ----+
//!           +-> config, metrics +-> mailbox --+-> message -> ids
//! ```
//!
//! The library exists for the binary, the tests, the benchmarks, the fuzz targets and the load generator.
//!
//! Owns: the list of modules; `tests/tidy.rs` says which of them may name which.
//! Never: promises a stable interface.

pub mod broker;
pub mod cli;
pub mod codec;
pub mod config;
pub mod dialect;
pub mod event_loop;
pub mod ids;
pub mod mailbox;
pub mod message;
pub mod metrics;
pub mod provider;
pub mod punch_command;
pub mod server;
pub mod shard;
