//! The vocabulary of the protobuf dialect (natpunch).
//!
//! Owns: what its clients ask and what they are told.
//! Never: knows a wire format.

/// What a client asks.
#[derive(Debug)]
pub enum Request {}

/// What a client is told.
#[derive(Debug)]
pub enum Event {}
