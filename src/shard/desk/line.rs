//! A queue that anybody may leave: who came first is due first.
//!
//! Clocks that all run equally long are such queues, and so is the order of what was used last.
//!
//! Owns: the order. Never: reads a clock, or keeps what was taken out.

use slab::Slab;

/// The queue. Everything but [`Line::is_sound`] takes the same time whatever its length.
#[derive(Debug)]
pub(super) struct Line<K> {
    entries: Slab<Entry<K>>,
    first: Option<Ticket>,
    last: Option<Ticket>,
}

#[derive(Debug)]
struct Entry<K> {
    due_ms: u64,
    key: K,
    before: Option<Ticket>,
    after: Option<Ticket>,
}

/// A place in the queue, good until it is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(usize);

impl<K: Copy> Line<K> {
    pub(super) fn new() -> Self {
        Self {
            entries: Slab::new(),
            first: None,
            last: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds one at the end: `due_ms` never decreases from one to the next.
    pub(super) fn push(&mut self, due_ms: u64, key: K) -> Ticket {
        let ticket = Ticket(self.entries.insert(Entry {
            due_ms,
            key,
            before: self.last,
            after: None,
        }));
        match self.last.and_then(|last| self.entries.get_mut(last.0)) {
            Some(last) => last.after = Some(ticket),
            None => self.first = Some(ticket),
        }
        self.last = Some(ticket);
        ticket
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.try_remove(ticket.0) else {
            debug_assert!(false, "taken out twice");
            return;
        };
        match entry.before.and_then(|before| self.entries.get_mut(before.0)) {
            Some(before) => before.after = entry.after,
            None => self.first = entry.after,
        }
        match entry.after.and_then(|after| self.entries.get_mut(after.0)) {
            Some(after) => after.before = entry.before,
            None => self.last = entry.before,
        }
    }

    /// When the first is due.
    pub(super) fn due(&self) -> Option<u64> {
        Some(self.entries.get(self.first?.0)?.due_ms)
    }

    /// The first, if it is due.
    pub(super) fn first_due(&self, now_ms: u64) -> Option<K> {
        let entry = self.entries.get(self.first?.0)?;
        (entry.due_ms <= now_ms).then_some(entry.key)
    }

    /// Whoever came first.
    pub(super) fn first(&self) -> Option<K> {
        Some(self.entries.get(self.first?.0)?.key)
    }

    /// Whether all hang together, in the order of their times.
    pub(super) fn is_sound(&self) -> bool {
        let (mut seen, mut before, mut due_ms, mut at) = (0, None, 0, self.first);
        while let Some(ticket) = at {
            let Some(entry) = self.entries.get(ticket.0) else {
                return false;
            };
            if entry.before != before || entry.due_ms < due_ms || seen == self.entries.len() {
                return false;
            }
            (seen, before, due_ms, at) = (seen + 1, at, entry.due_ms, entry.after);
        }
        seen == self.entries.len() && self.last == before
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn those_in_the_middle_and_at_both_ends_may_leave() {
        let mut line = Line::new();
        let tickets: Vec<Ticket> = (0..5).map(|nth| line.push(nth * 10, nth)).collect();
        for leaver in [2, 0, 4] {
            line.remove(tickets[leaver]);
            assert!(line.is_sound());
        }
        assert_eq!((line.len(), line.due(), line.first()), (2, Some(10), Some(1)));
        assert_eq!(line.first_due(9), None);
        assert_eq!(line.first_due(10), Some(1));
        line.push(30, 9);
        line.remove(tickets[1]);
        line.remove(tickets[3]);
        assert!(line.is_sound());
        assert_eq!((line.len(), line.first()), (1, Some(9)));
    }
}
