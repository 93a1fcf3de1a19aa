//! Its tests.
//!
//! Owns: x.
//! Never: y.
