//! The players that a client punches towards, and those that it is connected with.
//!
//! Owns: for each when it was punched and pinged, where it answers, and who a datagram is from.
//! Never: makes or sends a packet.

use std::net::SocketAddr;

use crate::opening::{Due, Opening};

/// Players that one client keeps: a lobby's, and those of a few that it left.
const PEERS_MAX: usize = 32;

/// Milliseconds between punches, and how long they go on; the first comes after one such pause.
const PUNCH_EVERY_MS: u64 = 500;
const PUNCH_FOR_MS: u64 = 10_000;

/// Milliseconds between pings to a connected player, and before the first.
const PING_EVERY_MS: u64 = 2000;

/// How it stands with a player.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not heard.
    Punching,
    /// Heard at this address.
    Connected { at: SocketAddr },
    /// Not heard, and no longer punched.
    Failed,
}

/// One player.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) id: String,
    public: SocketAddr,
    local: Option<SocketAddr>,
    pub(super) phase: Phase,
    opening: Option<Opening>,
    /// Until when it is punched; None once it has shown that it hears, or in the end.
    punch_until: Option<u64>,
    punch_at: u64,
    ping_at: u64,
    /// The number of the latest ping, and when it left.
    pub(super) pinged: Option<(u32, u64)>,
}

/// What a player's timer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// A punch to each of its addresses, with this TTL.
    Punch(Option<u8>),
    /// A ping.
    Ping,
    /// Its punching is over, in vain.
    GiveUp,
}

impl Peer {
    /// A player that is punched from now on.
    pub(super) fn new(
        id: String,
        public: SocketAddr,
        local: Option<SocketAddr>,
        opening: Option<Opening>,
        now: u64,
    ) -> Self {
        Self {
            id,
            public,
            local: local.filter(|local| *local != public),
            phase: Phase::Punching,
            opening,
            punch_until: Some(now.saturating_add(PUNCH_FOR_MS)),
            punch_at: now.saturating_add(PUNCH_EVERY_MS),
            ping_at: 0,
            pinged: None,
        }
    }

    /// Where it is reached: where it was heard, else where the server says that it is.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let heard = match self.phase {
            Phase::Connected { at } => Some(at),
            Phase::Punching | Phase::Failed => None,
        };
        let second = self.local.filter(|_| heard.is_none());
        [heard.or(Some(self.public)), second].into_iter().flatten()
    }

    /// A datagram of it may come from there: other ports, too, for some routers change them.
    fn may_be_at(&self, from: SocketAddr) -> bool {
        self.public.ip() == from.ip() || self.local.is_some_and(|local| local.ip() == from.ip())
    }

    /// It was heard, and `confirms` that it hears; true if it was not heard before.
    pub(super) fn heard(&mut self, from: SocketAddr, confirms: bool, now: u64) -> bool {
        let news = !matches!(self.phase, Phase::Connected { .. });
        self.opening = None;
        if news {
            self.ping_at = now.saturating_add(PING_EVERY_MS);
            self.punch_until = Some(now.saturating_add(PUNCH_FOR_MS));
            self.punch_at = self.punch_at.max(now);
        }
        if confirms {
            self.punch_until = None;
        }
        self.phase = Phase::Connected { at: from };
        news
    }

    /// The next thing that is due; to be asked again until nothing is.
    pub(super) fn take_task(&mut self, now: u64) -> Option<Task> {
        if let Some(opening) = &mut self.opening {
            match opening.take(now) {
                Due::Packet(ttl) => return Some(Task::Punch(Some(ttl))),
                Due::Over => self.opening = None,
                Due::Nothing => {}
            }
        }
        if self.punch_until.is_some_and(|until| now >= until) {
            self.punch_until = None;
            if self.phase == Phase::Punching {
                self.phase = Phase::Failed;
                return Some(Task::GiveUp);
            }
        }
        if self.opening.is_none() && self.punch_until.is_some() && now >= self.punch_at {
            self.punch_at = now.saturating_add(PUNCH_EVERY_MS);
            return Some(Task::Punch(None));
        }
        if matches!(self.phase, Phase::Connected { .. }) && now >= self.ping_at {
            self.ping_at = now.saturating_add(PING_EVERY_MS);
            return Some(Task::Ping);
        }
        None
    }

    fn next_at(&self) -> Option<u64> {
        let opening = self.opening.as_ref().map(Opening::next_at);
        let punch = self.punch_until.map(|until| match self.opening {
            Some(_) => until,
            None => until.min(self.punch_at),
        });
        let ping = matches!(self.phase, Phase::Connected { .. }).then_some(self.ping_at);
        opening.into_iter().chain(punch).chain(ping).min()
    }
}

/// All players of one client.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers(Vec<Peer>);

impl Peers {
    /// Adds a player. One that is connected stays as it is, one that is punched is punched for longer; another one of the same
    /// id begins anew. False: one too many.
    pub(super) fn add(&mut self, peer: Peer) -> bool {
        if let Some(known) = self.by_id_mut(&peer.id) {
            if known.phase == Phase::Failed || known.public != peer.public {
                *known = peer;
            } else if known.phase == Phase::Punching {
                // Said again because the other side may not have heard it: this side's opening goes on.
                known.punch_until = peer.punch_until;
            }
            return true;
        }
        if self.0.len() >= PEERS_MAX {
            self.0.retain(|known| known.phase != Phase::Failed);
        }
        let fits = self.0.len() < PEERS_MAX;
        if fits {
            self.0.push(peer);
        }
        fits
    }

    /// The player that says that it has this id, if its words come from where it may be.
    pub(super) fn by_id_and_source(&mut self, id: &str, from: SocketAddr) -> Option<&mut Peer> {
        self.0.iter_mut().find(|peer| peer.id == id && peer.may_be_at(from))
    }

    pub(super) fn by_id(&self, id: &str) -> Option<&Peer> {
        self.0.iter().find(|peer| peer.id == id)
    }

    pub(super) fn by_id_mut(&mut self, id: &str) -> Option<&mut Peer> {
        self.0.iter_mut().find(|peer| peer.id == id)
    }

    /// Forgets a player; false if it was not known.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|peer| peer.id != id);
        self.0.len() < before
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Peer> {
        self.0.iter_mut()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// When a player's next task is due.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.0.iter().filter_map(Peer::next_at).min()
    }
}
