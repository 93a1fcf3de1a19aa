//! What the state machine is made with, the jobs that it hands out, and what it is told of them.
//!
//! Owns: these words. Never: does anything.

use std::net::IpAddr;

use super::super::Mode;
use super::super::api::{Fault, Seen};
use super::instance::Key;
use crate::message::game_server::{CertDigest, SessionName};

/// What the state machine must know. Times in milliseconds.
#[derive(Clone, Debug)]
pub(in super::super) struct Plan {
    pub(in super::super) mode: Mode,
    pub(in super::super) max_players: u32,
    pub(in super::super) workers: usize,
    pub(in super::super) creates_per_sec: u32,
    pub(in super::super) polls_per_sec: u32,
    /// How long one may wait for a call that creates something.
    pub(in super::super) create_ms: u64,
    /// How long a session may take to be ready.
    pub(in super::super) ready_ms: u64,
    /// How long a ready session waits for its player.
    pub(in super::super) claim_ms: u64,
    pub(in super::super) cert_digest: Option<CertDigest>,
    /// Whether other processes keep their sessions on the same record.
    pub(in super::super) shared: bool,
}

/// Something that takes its time, for a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Job {
    /// Read the record.
    Load,
    /// See whether the application is there.
    Check,
    /// Create, and put on record before anything else.
    Create(IpAddr),
    Poll(SessionName),
    Delete(Deletion),
    /// Change the record.
    Store(Store),
}

/// Something that nobody needs any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Deletion {
    pub(in super::super) name: SessionName,
    /// Those of its seats that are on record: they leave it before the call.
    pub(in super::super) seats: Vec<SessionName>,
    /// It is on record as claimed, and must first not be: else the next process would keep it.
    pub(in super::super) was_claimed: bool,
}

/// A change of the record alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Store {
    Claimed(SessionName),
    Released(SessionName),
    /// It is still there, for those who share the record.
    Renewed(SessionName),
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Answer {
    Loaded(Option<Vec<Known>>),
    Checked(Result<bool, Fault>),
    Created(Result<Made, Fault>),
    Polled(Result<Seen, Fault>),
    Deleted(Result<(), Fault>),
    Stored(bool),
}

impl Answer {
    /// Why the provider did not do it, if it was asked.
    pub(in super::super) fn fault(&self) -> Option<Fault> {
        match self {
            Self::Checked(found) => found.as_ref().err().copied(),
            Self::Created(made) => made.as_ref().err().copied(),
            Self::Polled(seen) => seen.as_ref().err().copied(),
            Self::Deleted(done) => done.as_ref().err().copied(),
            Self::Loaded(_) | Self::Stored(_) => None,
        }
    }

    /// Whether the job did what it was for.
    pub(in super::super) fn is_good(&self) -> bool {
        match self {
            Self::Loaded(known) => known.is_some(),
            Self::Checked(found) => found.is_ok(),
            Self::Created(made) => made.is_ok(),
            Self::Polled(seen) => seen.is_ok(),
            Self::Deleted(done) => done.is_ok(),
            Self::Stored(good) => *good,
        }
    }
}

/// Something was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Made {
    pub(in super::super) name: SessionName,
    pub(in super::super) on_record: bool,
}

/// A line of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Known {
    pub(in super::super) name: SessionName,
    pub(in super::super) claimed: bool,
    pub(in super::super) age_ms: u64,
}

/// Names a job under way: whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Ticket(pub(super) Key);
