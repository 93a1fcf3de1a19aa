//! NATS with JetStream as the broker.
//!
//! Owns: how it is reached, and which part of an engine is which subscription or bucket.
//! Never: shows anything of its asynchronous runtime outside of its threads.
