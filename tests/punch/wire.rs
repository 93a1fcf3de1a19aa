//! From a datagram's bytes to the punch state, and from what it says to bytes, as the event loop does it, without sockets.
//!
//! Owns: the order of demultiplexer, bound addresses, parsers and state; that no datagram is longer than a client reads.
//! Never: keeps a rate, delays or loses anything. It draws nothing at random, so fuzz targets use it too.
#![allow(dead_code, reason = "each program that includes it uses a part")]

use std::net::SocketAddrV4;

use peer_server::codec::json_stream::{Fault, Scan};
use peer_server::codec::stun;
use peer_server::dialect::{demultiplexer, matchmaker, natpunch, simple};
use peer_server::message::matchmaker::Ask;
use peer_server::message::punch::{Dialect, Dropped, Path};
use peer_server::shard::punch::{Event, Punch};

/// Longest datagram to or from a client.
pub(crate) const DATAGRAM_MAX: usize = 1024;

/// Gives a loop a datagram. What STUN answers at once, or why it came to nothing.
pub(crate) fn receive(
    punch: &mut Punch,
    path: Path,
    bytes: &[u8],
    public: Option<SocketAddrV4>,
    now_ms: u64,
) -> Result<Option<Vec<u8>>, Dropped> {
    let result = try_receive(punch, path, bytes, public, now_ms);
    if let Err(reason) = result {
        punch.count_dropped(reason);
    }
    result
}

fn try_receive(
    punch: &mut Punch,
    path: Path,
    bytes: &[u8],
    public: Option<SocketAddrV4>,
    now_ms: u64,
) -> Result<Option<Vec<u8>>, Dropped> {
    let dialect = demultiplexer::classify(bytes)
        .filter(|_| bytes.len() <= DATAGRAM_MAX)
        .ok_or(Dropped::Unknown)?;
    if dialect != Dialect::Natpunch && punch.is_natpunch(&path.remote) {
        return Err(Dropped::Bound);
    }
    match dialect {
        Dialect::Stun => {
            let mut answer = Vec::new();
            return match stun::push_answer(&mut answer, bytes, path.remote) {
                stun::Outcome::Success | stun::Outcome::UnknownAttribute => Ok(Some(answer)),
                stun::Outcome::NotARequest => Err(Dropped::NotAllowed),
                stun::Outcome::Malformed => Err(Dropped::Malformed),
            };
        }
        Dialect::Matchmaker => {
            let request = matchmaker::parse(bytes).ok_or(Dropped::Malformed)?;
            punch.handle_matchmaker(path, request, now_ms);
        }
        Dialect::Simple => punch.handle_simple(path, simple::parse(bytes, public)?, now_ms),
        Dialect::Natpunch => {
            let request = natpunch::parse(bytes).ok_or(Dropped::Malformed)?;
            punch.handle_natpunch(path, request, now_ms);
        }
    }
    Ok(None)
}

/// The datagram that tells of an event.
pub(crate) fn render(event: &Event, unix_ms: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    match event {
        Event::Simple(event) => simple::push(&mut bytes, event),
        Event::Natpunch(event) => natpunch::push(&mut bytes, event),
        Event::Matchmaker(event) => matchmaker::push(&mut bytes, event, unix_ms),
    }
    assert!(
        (1..=DATAGRAM_MAX).contains(&bytes.len()),
        "{} bytes: {event:?}",
        bytes.len()
    );
    bytes
}

/// The server's end of a connection of the lobby dialect.
#[derive(Default)]
pub(crate) struct Lines {
    received: Vec<u8>,
    scan: Scan,
    /// How much of what was received the scan has seen.
    searched: usize,
}

/// Why a connection of the lobby dialect is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAsk {
    /// What stands there is no object, or no JSON: it is told so first.
    Syntax,
    /// It is too long or too deep.
    TooMuch,
}

impl Lines {
    /// Bytes arrived.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The next request, if all of it is there: to be asked for when the one before is answered.
    pub(crate) fn next(&mut self) -> Result<Option<Ask>, NoAsk> {
        let end = self
            .scan
            .end(&self.received[self.searched..])
            .map_err(|fault| match fault {
                Fault::Syntax => NoAsk::Syntax,
                Fault::TooLong | Fault::TooDeep => NoAsk::TooMuch,
            })?;
        let Some(end) = end else {
            self.searched = self.received.len();
            return Ok(None);
        };
        let object: Vec<u8> = self.received.drain(..self.searched + end).collect();
        (self.scan, self.searched) = (Scan::default(), 0);
        let ask = matchmaker::parse_ask(&object).map_err(|_| NoAsk::Syntax)?;
        Ok(Some(ask))
    }
}
