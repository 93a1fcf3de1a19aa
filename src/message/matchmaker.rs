//! The vocabulary of the lobby dialect of TCP JSON and UDP endpoints (matchmaker).
//!
//! Owns: what its clients ask and what they are told.
//! Never: knows a wire format.

/// What a client asks.
#[derive(Debug)]
pub enum Request {}

/// What a client is told.
#[derive(Debug)]
pub enum Event {}
