//! Redis as the broker.
//!
//! Owns: how it is reached, and which part of an engine is which connection.
//! Never: decides anything outside of a script.
