//! The packets that open one's own router for a peer and die before they reach the peer's.
//!
//! Owns: when they are sent, and when ordinary packets may follow.
//! Never: makes a packet (see the clients).

/// How many opening packets a peer's address gets: two more than needed, for those that get lost.
pub const OPENINGS: u8 = 3;

/// Milliseconds between opening packets, and from the last one to the first ordinary packet. The other side has as long as
/// all of them take to open its router too, whatever the ways from the server to the two differ by.
pub const OPENING_EVERY_MS: u64 = 100;

/// How many a host's address gets from its joiner. Should the server's word to the host get lost, it is told again within a
/// second (it keeps its session alive, or the joiner asks again): until then no ordinary packet may reach its router. Where
/// nothing gets lost the joiner waits for none of them, because the host's packets end its opening.
pub const OPENINGS_OF_JOINER: u8 = 14;

/// The opening TTL for nearly everyone: 2.
///
/// Each router takes one away and drops the packet where none is left. The player's own router passes a packet of 2 on with 1,
/// having made its mapping, and the provider's first router drops it. With 1 the own router would drop it and map nothing.
/// With 3 or more it might reach the other player's router where both have the same provider, and do the very harm that it
/// should prevent. More is right only behind a second router of one's own: one more for each.
pub const OPENING_TTL: u8 = 2;

/// How far the opening towards one peer has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    ttl: u8,
    left: u8,
    next_at: u64,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing yet.
    Nothing,
    /// A packet with this TTL.
    Packet(u8),
    /// The opening is over: ordinary packets may go.
    Over,
}

impl Opening {
    /// The first packet is due at once.
    pub(crate) fn new(ttl: u8, now: u64) -> Self {
        Self {
            ttl,
            left: OPENINGS,
            next_at: now,
        }
    }

    /// The same towards a host that one joins.
    pub(crate) fn of_joiner(ttl: u8, now: u64) -> Self {
        let left = OPENINGS_OF_JOINER;
        Self {
            left,
            ..Self::new(ttl, now)
        }
    }

    pub(crate) fn next_at(&self) -> u64 {
        self.next_at
    }

    /// Takes what is due; to be asked again until nothing is.
    pub(crate) fn take(&mut self, now: u64) -> Due {
        if now < self.next_at {
            return Due::Nothing;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return Due::Over;
        };
        self.left = left;
        // From now and not from when it was due: a late caller must not send all of them in one burst.
        self.next_at = now.saturating_add(OPENING_EVERY_MS);
        Due::Packet(self.ttl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_packets_and_then_the_way_is_free() {
        let mut opening = Opening::new(2, 1000);
        let mut seen = Vec::new();
        for now in 1000..=1300 {
            match opening.take(now) {
                Due::Nothing => {}
                due => seen.push((now, due)),
            }
        }
        let expected = [
            (1000, Due::Packet(2)),
            (1100, Due::Packet(2)),
            (1200, Due::Packet(2)),
            (1300, Due::Over),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_joiner_waits_until_its_host_was_told_again() {
        let mut opening = Opening::of_joiner(2, 0);
        let over = (0..).step_by(100).find(|now| matches!(opening.take(*now), Due::Over));
        assert_eq!(over, Some(u64::from(OPENINGS_OF_JOINER) * OPENING_EVERY_MS));
    }

    #[test]
    fn a_late_caller_does_not_send_a_burst() {
        let mut opening = Opening::new(2, 0);
        assert_eq!(opening.take(5000), Due::Packet(2));
        assert_eq!(opening.take(5000), Due::Nothing);
        assert_eq!(opening.next_at(), 5100);
    }
}
