//! The broker lost and found again, and other nodes gone: what becomes of the copies.
//!
//! Owns: what is done at once while the broker is down, and what is asked when it is back.
//! Never: tells the broker of a session (see `sessions`).

use super::LOST;
use crate::ids::{Fingerprint, LoopId, NamespaceId, NodeNo};
use crate::message::cluster::Who;
use crate::shard::Shard;

impl Shard {
    /// The broker is lost. What was on its way to members here will not come, and what leaves is let go.
    pub(in crate::shard::cluster) fn lose_spaces(&mut self) {
        let Some(spaces) = self.spaces_mut() else { return };
        spaces.owed.clear();
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
                space.version = 0;
                space.stale = true;
            }
        }
    }

    /// Asks who is in each namespace of which this node has members.
    pub(in crate::shard::cluster) fn compare_spaces(&mut self) {
        let Some(spaces) = self.spaces_mut() else { return };
        spaces.compared = true;
        for id in spaces.ids() {
            if self.space(id).is_some_and(|space| space.loaded) {
                self.ask_roster(id);
            }
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
