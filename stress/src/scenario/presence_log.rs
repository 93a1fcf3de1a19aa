//! The changes of one namespace that not everybody has been told of, in the order that its members share.
//!
//! Owns: what the news of each change looks like, and how many have still to get it.
//! Never: knows who.

use std::collections::VecDeque;

/// Somebody joined or left.
pub struct Change {
    /// The frame that tells of it.
    pub frame: Vec<u8>,
    /// Who.
    pub peer: usize,
    /// Joined, or left.
    pub joined: bool,
    /// When the request should have left.
    pub due_ns: u64,
    /// How many have still to be told.
    pub left: usize,
    /// Members from here on.
    pub inside: usize,
    /// Whether all had been told once, of those who were then known to be told.
    pub over: bool,
}

impl Change {
    /// For a failure's text.
    pub fn describe(&self) -> String {
        let what = if self.joined { "joined" } else { "left" };
        format!("peer {} {what}", self.peer)
    }
}

/// Changes by their place, from the first of which somebody has still to be told.
#[derive(Default)]
pub struct Log {
    changes: VecDeque<Change>,
    base: u64,
}

impl Log {
    /// The place of the next change.
    pub fn end(&self) -> u64 {
        self.base + self.changes.len() as u64
    }

    /// The change at a place, while somebody has still to be told of it.
    pub fn at(&self, place: u64) -> Option<&Change> {
        self.changes.get(place.checked_sub(self.base)? as usize)
    }

    /// The same, to be changed.
    pub fn at_mut(&mut self, place: u64) -> Option<&mut Change> {
        self.changes.get_mut(place.checked_sub(self.base)? as usize)
    }

    /// Takes the last place.
    pub fn push(&mut self, change: Change) {
        self.changes.push_back(change);
    }

    /// One more has been told of the change at `place`. Whether all have, for the first time.
    ///
    /// # Errors
    /// All had been.
    pub fn settle(&mut self, place: u64) -> Result<bool, String> {
        let change = self.at_mut(place).filter(|change| change.left > 0);
        let change = change.ok_or("more were told of a change than were there")?;
        change.left -= 1;
        Ok(change.left == 0 && !std::mem::replace(&mut change.over, true))
    }

    /// One more is to be told of the change at `place`.
    pub fn expect(&mut self, place: u64) {
        if let Some(change) = self.at_mut(place) {
            change.left += 1;
        }
    }

    /// Forgets what everybody has been told of, before the first place that is still `needed`.
    pub fn forget(&mut self, needed: u64) {
        while self.base < needed && self.changes.front().is_some_and(|change| change.left == 0) {
            self.changes.pop_front();
            self.base += 1;
        }
    }

    /// Whether a member of `now`, which is from the last change on, is one from the change at `place` on.
    pub fn was_inside(&self, place: u64, peer: usize, now: bool) -> bool {
        let later = (place + 1..self.end()).filter_map(|later| self.at(later));
        let next = later.into_iter().find(|change| change.peer == peer);
        next.map_or(now, |change| !change.joined)
    }

    /// Deliveries that have not come.
    pub fn missing(&self) -> usize {
        self.changes.iter().map(|change| change.left).sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_change_keeps_its_place_until_all_before_it_are_over() {
        let change = |left| Change {
            frame: Vec::new(),
            peer: 0,
            joined: true,
            due_ns: 0,
            left,
            inside: 0,
            over: false,
        };
        let mut log = Log::default();
        log.push(change(2));
        log.push(change(1));
        assert_eq!(log.settle(1), Ok(true));
        assert!(log.settle(1).is_err(), "once too often");
        assert_eq!((log.settle(0), log.missing()), (Ok(false), 1));
        assert_eq!(log.settle(0), Ok(true));
        log.forget(1);
        assert!(log.at(0).is_none() && log.at(1).is_some(), "somebody needs the second");
        log.expect(1);
        assert_eq!((log.settle(1), log.missing()), (Ok(false), 0), "over but once");
        log.forget(u64::MAX);
        assert!(log.at(1).is_none());
        assert_eq!(log.end(), 2);
    }

    #[test]
    fn who_was_inside_before_a_change_is_known_from_it() {
        let change = |peer, joined| Change {
            frame: Vec::new(),
            peer,
            joined,
            due_ns: 0,
            left: 0,
            inside: 0,
            over: false,
        };
        let mut log = Log::default();
        log.push(change(1, true));
        log.push(change(2, false));
        log.push(change(1, false));
        assert!(log.was_inside(0, 1, false) && log.was_inside(0, 2, false));
        assert!(log.was_inside(1, 1, false) && !log.was_inside(1, 2, false));
        assert!(!log.was_inside(2, 1, false) && log.was_inside(0, 3, true));
    }
}
