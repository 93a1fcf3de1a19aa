//! When each client is to be looked at: once in about ten seconds, and not all of them each second.
//!
//! Owns: one entry for each client, in the second in which its silence would be too long if it began with its last sign.
//! Never: knows whether the client is still there.

use crate::message::natpunch::ClientId;

/// The seconds ahead.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    seconds: [Vec<ClientId>; SECONDS],
    /// The first second that was not swept.
    next: u64,
    entries: usize,
}

impl Sweep {
    /// Has a client looked at in the second that ends at or after `due_ms`, which is at most [`SPAN_MS`] ahead.
    pub(super) fn insert(&mut self, client: ClientId, due_ms: u64, now_ms: u64) {
        if self.entries == 0 {
            self.next = now_ms / 1000 + 1;
        }
        let second = due_ms.div_ceil(1000).clamp(self.next, self.next + SECONDS as u64 - 1);
        self.seconds[second as usize % SECONDS].push(client);
        self.entries += 1;
    }

    /// The clients that are to be looked at now, all at once.
    pub(super) fn take_due(&mut self, now_ms: u64) -> Vec<ClientId> {
        let mut due = Vec::new();
        let until = now_ms / 1000;
        // After a jump of the clock every second is due, and each only once.
        self.next = self.next.max((until + 1).saturating_sub(SECONDS as u64));
        while self.entries > 0 && self.next <= until {
            let second = std::mem::take(&mut self.seconds[self.next as usize % SECONDS]);
            self.entries -= second.len();
            match due.is_empty() {
                true => due = second,
                false => due.extend(second),
            }
            self.next += 1;
        }
        self.next = self.next.max(until + 1);
        due
    }

    /// When somebody is to be looked at, in milliseconds; None: there is nobody.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        (self.entries > 0).then_some(self.next * 1000)
    }
}

/// How far ahead an entry may be.
pub(super) const SPAN_MS: u64 = 10_000;
/// More than [`SPAN_MS`] has.
const SECONDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> ClientId {
        ClientId::from_random([number; 16])
    }

    #[test]
    fn each_entry_comes_once_and_never_too_early() {
        let mut sweep = Sweep::default();
        for start in [0, 999, 1000, 123_456, u64::MAX / 2] {
            sweep.insert(id(1), start + SPAN_MS, start);
            sweep.insert(id(2), start + 10, start);
            let mut found = Vec::new();
            while let Some(at) = sweep.poll_timeout() {
                for client in sweep.take_due(at) {
                    found.push((client, at));
                }
                assert!(sweep.poll_timeout().is_none_or(|next| next > at));
            }
            let [(first, early), (second, late)] = found[..] else {
                panic!("{found:?}")
            };
            assert_eq!((first, second), (id(2), id(1)));
            assert!((start + 10..start + 1010 + 1000).contains(&early));
            assert!((start + SPAN_MS..start + SPAN_MS + 1000).contains(&late));
        }
    }

    #[test]
    fn a_jump_of_the_clock_makes_all_due_at_once() {
        let mut sweep = Sweep::default();
        (0..10).for_each(|number| sweep.insert(id(number), 1000 * u64::from(number), 0));
        assert_eq!(sweep.take_due(u64::MAX / 2).len(), 10);
        assert_eq!(sweep.poll_timeout(), None);
    }
}
