//! The broker lost and found again, and other nodes gone: what becomes of the copies.
//!
//! Owns: what is done at once while the broker is down, and what is asked when it is back.
//! Never: tells the broker of a session (see `sessions`).

use super::{Asked, LOST};
use crate::ids::{Fingerprint, LoopId, NamespaceId, NodeNo};
use crate::message::cluster::{Reply, What, Who};
use crate::shard::Shard;

/// Rosters under way at a time, to be compared, of all loops together: the broker may work on a large one for ten
/// milliseconds, and meanwhile nobody's lease is renewed.
const COMPARISONS_MAX: usize = 32;

impl Shard {
    /// The broker is lost. What was on its way to members here will not come, and what leaves is let go.
    pub(in crate::shard::cluster) fn lose_spaces(&mut self) {
        let Some(spaces) = self.spaces_mut() else { return };
        spaces.owed.clear();
        spaces.shows.clear();
        spaces.comparing.clear();
        for id in spaces.ids() {
            let Some(space) = self.space_mut(id) else { continue };
            space.quiet.clear();
            let waiting: Vec<_> = space.replied.values().copied().collect();
            let leaving: Vec<_> = space.leaving.iter().map(|(s, f)| (*s, *f)).collect();
            for session in waiting {
                self.turn_away(id, session, LOST);
            }
            for (session, fingerprint) in leaving {
                self.remove_here(id, Who { fingerprint, session });
            }
            self.tidy_space(id);
        }
    }

    /// The broker is back. What it knows of this node, and how it counts, may be other than it was.
    pub(in crate::shard::cluster) fn find_spaces(&mut self) {
        let Some(spaces) = self.spaces_mut() else { return };
        spaces.compared = false;
        for id in spaces.ids() {
            let Some(namespace) = self.namespaces.get(&id) else {
                continue;
            };
            let here = |member: &&crate::shard::namespaces::Member| member.loop_id.node().is_none();
            let sessions = namespace
                .roster
                .iter()
                .filter(here)
                .map(|member| member.session)
                .collect();
            if let Some(space) = self.space_mut(id) {
                space.unconfirmed = sessions;
                space.missing.clear();
                space.stale = true;
            }
        }
    }

    /// Asks who is in each namespace of which this node has members.
    pub(in crate::shard::cluster) fn compare_spaces(&mut self) {
        let Some(spaces) = self.spaces_mut() else { return };
        spaces.compared = true;
        let loaded = spaces.known.iter().filter(|(_, space)| space.loaded);
        spaces.comparing.extend(loaded.map(|(id, _)| *id));
        self.compare_more();
    }

    /// This namespace may have changed while nobody told.
    pub(super) fn compare_space(&mut self, id: NamespaceId) {
        if let Some(spaces) = self.spaces_mut() {
            spaces.comparing.insert(id);
        }
        self.compare_more();
    }

    /// Asks for as many of the rosters as may be under way.
    pub(super) fn compare_more(&mut self) {
        let most = (COMPARISONS_MAX / self.homes.loops()).max(1);
        while let Some(spaces) = self.spaces_mut()
            && spaces.comparisons < most
            && let Some(namespace) = spaces.comparing.pop_first()
        {
            let Some(space) = spaces.known.get_mut(&namespace).filter(|space| space.loaded) else {
                continue;
            };
            space.rosters += 1;
            spaces.comparisons += 1;
            let asked = Asked::Compare(space.generation);
            self.ask_broker(namespace, asked, What::Roster { namespace });
        }
    }

    pub(super) fn on_compared(&mut self, id: NamespaceId, generation: u64, reply: Reply) {
        let (lost, is_up) = (matches!(reply, Reply::Lost), self.is_up());
        if let Some(spaces) = self.spaces_mut() {
            spaces.comparisons -= 1;
            if lost && is_up {
                // There was no room for it; as soon as the broker is seen to be there it is asked again.
                spaces.comparing.insert(id);
            }
        }
        self.on_roster_reply(id, generation, reply);
        if !lost {
            self.compare_more();
        }
    }

    /// Another node is gone with everybody it served.
    pub(in crate::shard::cluster) fn forget_node_spaces(&mut self, node: NodeNo) {
        let Some(spaces) = self.spaces_mut() else { return };
        spaces.gone.insert(node);
        let served_by = LoopId::of_node(node);
        for id in spaces.ids() {
            for fingerprint in self.served_by(id, served_by) {
                self.take_out(id, &fingerprint);
            }
        }
    }

    fn served_by(&self, id: NamespaceId, loop_id: LoopId) -> Vec<Fingerprint> {
        let namespace = self.namespaces.get(&id);
        let Some(namespace) = namespace.filter(|namespace| namespace.count_of(loop_id).1 > 0) else {
            return Vec::new();
        };
        let members = namespace.roster.iter().filter(|member| member.loop_id == loop_id);
        members.map(|member| member.info.fingerprint).collect()
    }
}
