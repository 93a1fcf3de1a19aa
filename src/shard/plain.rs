//! Messages from nodes that share no state with this one (peer protocol, section 9).
//!
//! Owns: whom such a message reaches here.
//! Never: sends it on to another node, or tells its sender anything; the event loop answers the other node.

use super::membership::{Membership, Share};
use super::peers::PeerKey;
use super::{Route, Shard};
use crate::ids::{Fingerprint, NamespaceId, SessionId};
use crate::message::Refusal;

/// Stands for the session of a sender on such a node. No session of this node has it.
pub const NOBODYS_SESSION: SessionId = SessionId::from_u64(0);

impl Shard {
    /// Where a message of `from`, a peer of another node, to `to` goes, whose home is here. `shares` are the namespaces that
    /// its sender is in, ascending; None: its node does not say, and has it delivered to whomever it names. `about` is the
    /// namespace that it names.
    ///
    /// A join under way does not count: nobody on that node can have seen it yet.
    pub fn receive_plain(
        &self,
        from: &Fingerprint,
        to: &Fingerprint,
        shares: Option<&[NamespaceId]>,
        about: Option<NamespaceId>,
    ) -> Route {
        let found = self.peers.find(to).and_then(|key| Some((key, self.peers.get(key)?)));
        let Some((peer, target)) = found else {
            return Route::Refused(Refusal::PeerNotFound);
        };
        if shares.is_some_and(|shares| target.shared_with(shares.iter().copied()) != Share::Member) {
            return Route::Refused(Refusal::NoSharedNamespace);
        }
        if target.is_holding_of(from) {
            return Route::Hold { peer };
        }
        let of_sender = |about| shares.is_none_or(|shares| shares.binary_search(&about).is_ok());
        Route::Local {
            conn: target.conn,
            about: about.is_some_and(|about| of_sender(about) && target.is_member(about)),
        }
    }

    /// Every namespace that a peer is in or about to be in, ascending: stands for those of a sender whose node does not say.
    pub fn places_of(&self, peer: PeerKey) -> impl Iterator<Item = NamespaceId> {
        let memberships = self.peers.get(peer).map_or(&[][..], |peer| &peer.memberships);
        let is_place = |membership: &&Membership| membership.is_member() || membership.pending;
        memberships
            .iter()
            .filter(is_place)
            .map(|membership| membership.namespace)
    }

    /// Who holds an alias whose home is here.
    pub fn holder_of(&self, alias: &str) -> Option<Fingerprint> {
        self.aliases.resolve(alias)
    }

    /// The name of a namespace of which this shard serves members.
    pub fn name_of(&self, namespace: NamespaceId) -> Option<&str> {
        self.locals.get(namespace).map(|space| &*space.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::ids::{ConnId, Homes, LoopId};
    use crate::message::{DirectKind, Meta, Register, Request};
    use crate::shard::{Held, HeldKind, Limits, Mail, Output, Permits};

    /// The first of two shards: what it asks the other one is not answered.
    fn shard() -> Shard {
        let limits = Limits {
            max_peers: 10,
            max_rooms: 10,
            max_match_waiting: 10,
            messages: None,
            deliveries: None,
            send_buffer_size: 32,
            send_buffer_bytes: 1 << 20,
            state_bytes: usize::MAX,
        };
        let homes = Homes::new(2, [1, 2, 3, 4]);
        Shard::new(
            LoopId::new(0),
            homes,
            Arc::new(limits),
            Arc::new(Permits::default()),
            [0; 32],
        )
    }

    /// A peer of the shard with an alias that is at home there.
    fn peer(shard: &mut Shard) -> (PeerKey, Fingerprint, String) {
        let here = |home: LoopId| home == LoopId::new(0);
        let mut aliases = (0..).map(|number: u32| format!("alias {number}"));
        let alias = aliases.find(|alias| here(shard.homes.of_alias(alias))).unwrap();
        let mut keys = (0..).map(|number: u32| Fingerprint::of_key(&number.to_string()));
        let fingerprint = keys.find(|key| here(shard.homes.of_fingerprint(key))).unwrap();
        let register = Register {
            fingerprint,
            alias: alias.as_str().into(),
            meta: Meta::default(),
        };
        shard.register(ConnId::new(0, 1), register);
        (shard.peers.find(&fingerprint).unwrap(), fingerprint, alias)
    }

    fn name(shard: &Shard, home: u16) -> String {
        let mut names = (0..).map(|number: u32| format!("namespace {number}"));
        let at_home = |name: &String| shard.homes.of_namespace(shard.homes.namespace(name)) == LoopId::new(home);
        names.find(at_home).unwrap()
    }

    fn join(shard: &mut Shard, peer: PeerKey, namespace: &str) -> NamespaceId {
        let join = Request::Join {
            namespace,
            app_type: "",
            meta: Meta::default(),
        };
        shard.handle_request(peer, join);
        shard.homes.namespace(namespace)
    }

    #[test]
    fn a_message_reaches_a_member_of_a_namespace_that_its_sender_is_in() {
        let mut shard = shard();
        let (key, to, alias) = peer(&mut shard);
        let lobby = name(&shard, 0);
        let lobby = join(&mut shard, key, &lobby);
        let (from, other) = (Fingerprint::of_key("from"), shard.homes.namespace("other"));
        let conn = ConnId::new(0, 1);
        let local = |about| Route::Local { conn, about };
        assert_eq!(shard.holder_of(&alias), Some(to));
        assert_eq!(shard.holder_of("nobody"), None);
        assert_eq!(
            shard.receive_plain(&from, &to, Some(&[lobby]), Some(lobby)),
            local(true)
        );
        assert_eq!(shard.receive_plain(&from, &to, None, Some(lobby)), local(true));
        assert_eq!(shard.receive_plain(&from, &to, None, Some(other)), local(false));
        let forbidden = Route::Refused(Refusal::NoSharedNamespace);
        for shares in [&[][..], &[other]] {
            assert_eq!(shard.receive_plain(&from, &to, Some(shares), Some(lobby)), forbidden);
        }
        let mut both = [lobby, other];
        both.sort();
        assert_eq!(shard.receive_plain(&from, &to, Some(&both), Some(other)), local(false));
        let nobody = Route::Refused(Refusal::PeerNotFound);
        assert_eq!(shard.receive_plain(&from, &from, None, None), nobody);
        assert!(shard.name_of(lobby).is_some() && shard.name_of(other).is_none());
    }

    #[test]
    fn a_join_under_way_is_not_shared_and_what_is_held_stays_in_order() {
        let mut shard = shard();
        let (key, to, _) = peer(&mut shard);
        let lobby = name(&shard, 0);
        let lobby = join(&mut shard, key, &lobby);
        let away = name(&shard, 1);
        let away = join(&mut shard, key, &away);
        let from = Fingerprint::of_key("from");
        let forbidden = Route::Refused(Refusal::NoSharedNamespace);
        assert_eq!(shard.receive_plain(&from, &to, Some(&[away]), None), forbidden);
        let mut places = [lobby, away];
        places.sort();
        assert!(shard.places_of(key).eq(places));
        let held = |what| Held {
            what,
            from,
            session: NOBODYS_SESSION,
            origin: LoopId::new(0),
            to,
            name: None,
            payload: None,
        };
        shard.hold(key, Box::new(held(HeldKind::Broadcast(away)))).unwrap();
        let hold = Route::Hold { peer: key };
        assert_eq!(shard.receive_plain(&from, &to, Some(&[lobby]), None), hold);
        assert_eq!(shard.receive_plain(&from, &to, None, None), hold);
        let places = shard.places_of(key).collect();
        shard
            .hold(key, Box::new(held(HeldKind::Direct(DirectKind::Relay, places, None))))
            .unwrap();
        shard
            .hold(
                key,
                Box::new(held(HeldKind::Direct(DirectKind::Relay, [away].into(), None))),
            )
            .unwrap();
        // The other shard refuses the join: what came only through it is refused, and nobody here is told.
        let mut asked = None;
        while let Some(output) = shard.poll_output() {
            if let Output::Mail {
                mail: Mail::Ask { asker, .. },
                ..
            } = output
            {
                asked = Some(asker);
            }
        }
        let answer = Mail::Answer {
            asker: asked.unwrap(),
            namespace: away,
            answer: crate::shard::Answer::Refused(Refusal::NamespaceFull),
        };
        shard.handle_mail(answer);
        let mut delivered = 0;
        while let Some(output) = shard.poll_output() {
            match output {
                Output::Deliver { held, .. } => {
                    assert!(matches!(held.what, HeldKind::Direct(..)));
                    delivered += 1;
                }
                Output::Mail { .. } => panic!("{output:?}"),
                _ => {}
            }
        }
        assert_eq!(delivered, 1);
    }
}
