//! Aliases in a cluster: who holds one that nobody on this node holds.
//!
//! Owns: the question to the broker, and what its answer means to the asker.
//! Never: keeps an answer; an alias may be another's in the next moment.

use compact_str::CompactString;

use super::Asked;
use crate::message::Refusal;
use crate::message::cluster::{Reply, What};
use crate::shard::Shard;
use crate::shard::mail::{Asker, Mail};

impl Shard {
    /// At an alias's home: nobody here holds it. Does another node's peer?
    pub(in crate::shard) fn resolve_away(&mut self, alias: CompactString, asker: Asker) {
        let holder = match &self.cluster {
            Some(cluster) if cluster.up => {
                self.command(Asked::Alias(asker), What::Resolve { alias });
                return;
            }
            Some(_) => Err(Refusal::BrokerUnavailable),
            None => Err(Refusal::PeerNotFound),
        };
        self.send(asker.loop_id, Mail::AliasResolved { asker, holder });
    }

    pub(super) fn on_alias_reply(&mut self, asker: Asker, reply: &Reply) {
        let holder = match reply {
            Reply::Resolved(holder) => holder.ok_or(Refusal::PeerNotFound),
            _ => Err(Refusal::BrokerUnavailable),
        };
        self.send(asker.loop_id, Mail::AliasResolved { asker, holder });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixtures::Scene;
    use super::*;
    use crate::ids::ConnId;
    use crate::message::DirectKind;
    use crate::shard::output::Unresolved;
    use crate::shard::peers::PeerKey;

    /// Sends a signal to an alias that is at home here.
    fn signal_alias(scene: &mut Scene, peer: PeerKey, alias: &str) {
        let message = Unresolved {
            kind: DirectKind::Signal,
            alias: alias.into(),
            about_name: None,
            about: None,
            payload: None,
        };
        scene.shard.resolve_alias(peer, alias, Box::new(message));
        scene.collect();
    }

    fn alias_at_home(scene: &Scene) -> String {
        let mut names = (0..).map(|number| format!("alias {number}"));
        names.find(|name| scene.homes.of_alias(name).index() == 0).unwrap()
    }

    #[test]
    fn the_broker_knows_who_holds_an_alias_that_nobody_holds_here() {
        let mut scene = Scene::new();
        let (peer, _) = scene.peer(1);
        let alias = alias_at_home(&scene);
        let holder = scene.key(7);
        for (reply, resolved) in [
            (Reply::Resolved(Some(holder)), Ok(holder)),
            (Reply::Resolved(None), Err(Refusal::PeerNotFound)),
            (Reply::Lost, Err(Refusal::BrokerUnavailable)),
        ] {
            signal_alias(&mut scene, peer, &alias);
            assert!(scene.shard.is_waiting(peer));
            let what = scene.answer(reply);
            assert!(matches!(what, What::Resolve { alias: asked } if asked == alias));
            assert!(!scene.shard.is_waiting(peer));
            assert_eq!(scene.resolved.pop(), Some(resolved));
        }
    }

    #[test]
    fn an_alias_that_is_held_here_needs_no_broker() {
        let mut scene = Scene::new();
        let (peer, _) = scene.peer(1);
        let (alias, key) = (alias_at_home(&scene), scene.key(2));
        scene.register(ConnId::new(2, 1), key, &alias);
        scene.answer(Reply::Registered { alias: Some(0) });
        let mut looks_like_a_key = String::new();
        for number in 0_u32.. {
            looks_like_a_key = format!("{number:064x}");
            if scene.homes.of_alias(&looks_like_a_key).index() == 0 {
                break;
            }
        }
        for up in [true, false] {
            for (asked, resolved) in [(&alias, Ok(key)), (&looks_like_a_key, Err(Refusal::PeerNotFound))] {
                signal_alias(&mut scene, peer, asked);
                assert_eq!(scene.resolved.pop(), Some(resolved));
            }
            assert!(scene.commands.is_empty());
            if up {
                scene.lose_broker();
            }
        }
        signal_alias(&mut scene, peer, &format!("{alias}'s"));
        let elsewhere = scene
            .mail
            .iter()
            .any(|(_, mail)| matches!(mail, Mail::ResolveAlias { .. }));
        let here = scene.resolved.pop() == Some(Err(Refusal::BrokerUnavailable));
        assert!(here != elsewhere, "its home says that it cannot know");
    }
}
