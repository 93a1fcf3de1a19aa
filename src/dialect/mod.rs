//! Meaning: wire messages of one client family, to and from the domain's vocabulary.
//!
//! Owns: one module for each family.
//! Never: keeps a peer's state.

pub mod bevygap;
pub mod demultiplexer;
pub mod fleet;
pub mod matchmaker;
pub mod natpunch;
pub mod peer;
pub mod simple;
pub mod status;
