//! The state of the ASCII dialect (simple-hole-punch).
//!
//! Owns: what its clients at home here have opened.
//! Never: knows a wire format.

use super::{Core, Homes};
use crate::message::punch::Path;
use crate::message::simple::Request;

/// What loops tell each other about it.
#[derive(Debug)]
pub enum Mail {}

/// What it holds.
#[derive(Debug)]
pub(super) struct Sessions {}

impl Sessions {
    pub(super) fn new(_homes: &Homes) -> Self {
        Self {}
    }

    pub(super) fn handle_request(&mut self, _core: &mut Core, _path: Path, request: Request) {
        match request {}
    }

    pub(super) fn handle_mail(&mut self, _core: &mut Core, mail: Mail) {
        match mail {}
    }

    /// Ends what is over.
    pub(super) fn handle_timeout(&mut self, _core: &mut Core) {}

    /// When [`Sessions::handle_timeout`] has something to do next, in milliseconds; None: nothing is due.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        None
    }
}
