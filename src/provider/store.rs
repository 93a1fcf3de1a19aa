//! The record of sessions that were created at a provider and not yet deleted, so that none is forgotten.
//!
//! Owns: the interface, and the file that keeps the record without NATS.
//! Never: talks to a provider.

use std::time::SystemTime;

use crate::message::game_server::SessionName;

/// A session on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What the provider calls it.
    pub session: SessionName,
    /// Its player has been on the game server.
    pub claimed: bool,
    /// When it was recorded, or claimed.
    pub since: SystemTime,
}

/// Why the record could not be changed or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError(pub String);

/// Keeps the record. Called from a provider's threads; may block.
pub trait SessionStore: Send + Sync {
    /// Puts a new session on record; it is there for good when this returns.
    ///
    /// # Errors
    /// It may not be on record: the caller deletes the session at once.
    fn created(&self, session: &SessionName) -> Result<(), StoreError>;
    /// Notes that its player came.
    ///
    /// # Errors
    /// It may not be noted.
    fn claimed(&self, session: &SessionName) -> Result<(), StoreError>;
    /// Takes it off the record: it was deleted.
    ///
    /// # Errors
    /// It may still be there.
    fn deleted(&self, session: &SessionName) -> Result<(), StoreError>;
    /// All that are on record.
    ///
    /// # Errors
    /// The record cannot be read.
    fn all(&self) -> Result<Vec<Stored>, StoreError>;
}
