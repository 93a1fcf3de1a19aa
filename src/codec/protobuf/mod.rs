//! Protobuf: the schema of the punch dialect that speaks it.
//!
//! Owns: its code, which is made from `proto/natpunch.proto` and kept here, so that building needs no generator.
//! Never: knows what a message means.

#[rustfmt::skip] // As it was made.
pub mod natpunch;
