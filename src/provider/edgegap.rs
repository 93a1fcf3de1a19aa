//! Edgegap: game servers in the cloud, over HTTPS.
//!
//! Owns: its threads, the budgets of its calls, and the life of every session that it created.
//! Never: lets a session be forgotten: it is on record before it is polled, until it is deleted.
