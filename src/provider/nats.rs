//! NATS: another matchmaker behind the same subjects, and the register that game servers read.
//!
//! Owns: one connection and the thread that it lives on; nothing of its runtime is seen outside.
//! Never: writes a subject or key that holds anything but a checked name.
