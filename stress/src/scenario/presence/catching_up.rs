//! With a broker the list after a join is that of its moment or of a later one: the news of the join and the answer come to its
//! node by different ways, and what comes between the two is in the list. Who joined is told of all that follows its list.
//!
//! Owns: when who joined is in, and from which change on it is told, which the list itself or the first news after it tells.
//! Never: waits for somebody who may be told of nothing more: until it is known, nobody counts on such a member.

use serde_json::Value;

use super::{Presence, State};
use crate::worker::io::Io;

/// As many as the list after a join names.
const LISTED: usize = 50;

impl Presence {
    /// Whom a list names.
    pub(super) fn read_list(&mut self, io: &mut Io, peer: usize, list: &Value) {
        let listed = list["peers"].as_array().map_or(&[][..], Vec::as_slice);
        let known = |entry: &Value| self.by_fingerprint.get(entry["fingerprint"].as_str()?).copied();
        let mut named: Vec<usize> = listed.iter().filter_map(known).collect();
        named.sort_unstable();
        named.dedup();
        if named.len() != listed.len() {
            io.fail(format!(
                "the list of peer {peer} names strangers, or somebody twice: {list}"
            ));
        }
        self.members[peer].list = (list["total"].as_u64().unwrap_or(0) as usize, named);
    }

    pub(super) fn on_listed(&mut self, index: usize, peer: usize) {
        self.members[peer].listed = true;
        self.on_joined(index, peer);
    }

    pub(super) fn on_joined(&mut self, index: usize, peer: usize) {
        let member = &mut self.members[peer];
        if member.listed && member.placed {
            member.state = if self.broker { State::CatchingUp } else { State::In };
            self.groups[index].moving -= 1;
            self.placed.push(peer);
        }
    }

    /// The first news after a list: which of the changes since its joining a member was not told of is known from it, and
    /// these must be what the list shows. False: others have not been told of it yet.
    pub(super) fn catch_up(&mut self, index: usize, peer: usize, bytes: &[u8]) -> bool {
        let log = &self.groups[index].log;
        let fits = |place: &u64| {
            let change = log.at(*place);
            change.is_some_and(|change| !change.frame.is_empty() && bytes.starts_with(&change.frame))
                && self.shows(index, peer, *place - 1)
        };
        let place = (self.members[peer].cursor..log.end()).find(fits);
        if let Some(place) = place {
            self.caught_up(index, peer, place);
        }
        place.is_some()
    }

    /// From `place` on a member is told of everything.
    fn caught_up(&mut self, index: usize, peer: usize, place: u64) {
        let group = &mut self.groups[index];
        (place..group.log.end()).for_each(|place| group.log.expect(place));
        group.catching_up.retain(|other| *other != peer);
        let member = &mut self.members[peer];
        (member.cursor, member.state) = (place, State::In);
        self.placed.push(peer);
    }

    /// While nothing is under way, a list is that from one of the changes that are known, if not of none.
    pub(super) fn catch_up_all(&mut self, io: &mut Io, index: usize) {
        if self.groups[index].unseen > 0 {
            return;
        }
        for peer in self.groups[index].catching_up.clone() {
            let (cursor, end) = (self.members[peer].cursor, self.groups[index].log.end());
            let mut shown = (cursor - 1..end).filter(|place| self.shows(index, peer, *place));
            match (self.members[peer].state, shown.next(), shown.next()) {
                (State::CatchingUp, Some(place), None) => self.caught_up(index, peer, place + 1),
                (State::CatchingUp, None, _) => {
                    let (total, named) = &self.members[peer].list;
                    io.fail(format!(
                        "peer {peer} joined, and its list of {total}, {named:?}, was not so then and at no time since"
                    ));
                    self.caught_up(index, peer, end);
                }
                _ => {}
            }
        }
    }

    /// Input of those whose place has become known.
    pub(super) fn take_up(&mut self, io: &mut Io) {
        for peer in std::mem::take(&mut self.placed) {
            let slot = self.members[peer].slot;
            if matches!(self.members[peer].state, State::In | State::CatchingUp) && !io.links[slot].inbox.is_empty() {
                let bytes = std::mem::take(&mut io.links[slot].inbox);
                let used = self.on_news(io, slot, &bytes);
                if let Some(link) = io.links.get_mut(slot) {
                    link.inbox = bytes[used..].to_vec();
                }
            }
            self.stirred.push(peer / self.size);
        }
    }

    /// Whether the list of a member is that of the namespace from the change at `place` on.
    fn shows(&self, index: usize, peer: usize, place: u64) -> bool {
        let (log, (total, named)) = (&self.groups[index].log, &self.members[peer].list);
        let was_inside = |peer: &usize| log.was_inside(place, *peer, self.members[*peer].inside);
        log.at(place).is_some_and(|change| change.inside == *total)
            && named.len() == (*total).min(LISTED)
            && named.iter().all(was_inside)
    }

    /// Who was told of nothing since its list, though that does not show all that came since.
    pub(super) fn behind(&self, index: usize) -> impl Iterator<Item = usize> {
        let group = &self.groups[index];
        let last = group.log.end().saturating_sub(1);
        let behind = move |peer: &usize| !self.shows(index, *peer, last);
        group.catching_up.iter().copied().filter(behind)
    }
}
