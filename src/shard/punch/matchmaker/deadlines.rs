//! When what is kept must be looked at next.
//!
//! Owns: one time for each key at most.
//! Never: knows what is due then.

use std::collections::BTreeSet;

/// The times. What is kept remembers its own, so that it can be moved; 0 is none.
#[derive(Debug)]
pub(super) struct Deadlines<K>(BTreeSet<(u64, K)>);

impl<K: Ord + Copy> Deadlines<K> {
    pub(super) fn new() -> Self {
        Self(BTreeSet::new())
    }

    /// Moves what was due at `due_ms` to `at_ms`.
    pub(super) fn set(&mut self, key: K, due_ms: &mut u64, at_ms: u64) {
        if *due_ms != at_ms {
            self.clear(key, *due_ms);
            *due_ms = at_ms;
            self.0.insert((at_ms, key));
        }
    }

    /// Nothing is due any more.
    pub(super) fn clear(&mut self, key: K, due_ms: u64) {
        if due_ms > 0 {
            self.0.remove(&(due_ms, key));
        }
    }

    /// Takes one key that is due, with its time.
    pub(super) fn pop(&mut self, now_ms: u64) -> Option<(u64, K)> {
        let first = self.0.first().copied().filter(|(due_ms, _)| *due_ms <= now_ms)?;
        self.0.remove(&first);
        Some(first)
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.0.first().map(|(due_ms, _)| *due_ms)
    }
}
