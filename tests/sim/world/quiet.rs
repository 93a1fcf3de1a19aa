//! All shards together, when nothing is under way.
//!
//! Owns: the comparison of everything that a shard or client holds with what the others hold.
//! Never: runs while something is on its way; then they may differ.

use super::*;

impl World {
    /// Compares everything that any shard or client holds with what the others hold. Nothing may be under way.
    pub(crate) fn check_quiet(&mut self) {
        note!(self, "quiet");
        self.links.check_quiet();
        let snapshots: Vec<Snapshot> = self.shards.iter().map(Shard::snapshot).collect();
        for (shard, snapshot) in self.shards.iter().zip(&snapshots) {
            assert_eq!(
                (snapshot.waiting, snapshot.held, snapshot.arrivals),
                (0, 0, 0),
                "nothing waits when all is quiet"
            );
            assert_eq!(shard.census().open_sums, 0, "every sum is answered");
        }
        self.compare_rosters(&snapshots);
        self.compare_aliases(&snapshots);
        self.compare_counts(&snapshots);
        self.compare_clients(&snapshots);
    }

    pub(super) fn compare_rosters(&self, snapshots: &[Snapshot]) {
        let mut listed = BTreeSet::new();
        let mut truth: BTreeMap<NamespaceId, BTreeMap<LoopId, u32>> = BTreeMap::new();
        let mut tickets = BTreeSet::new();
        for (at, snapshot) in snapshots.iter().enumerate() {
            for namespace in &snapshot.namespaces {
                assert_eq!(
                    self.homes.of_namespace(namespace.id).index(),
                    at,
                    "a namespace away from home"
                );
                assert_eq!(self.homes.namespace(&namespace.name), namespace.id);
                for (fingerprint, session, loop_id) in &namespace.members {
                    assert!(
                        listed.insert((*fingerprint, *session, *loop_id, namespace.id)),
                        "a member listed twice"
                    );
                    *truth.entry(namespace.id).or_default().entry(*loop_id).or_default() += 1;
                }
                let most = namespace.room.map_or(self.limits.max_peers, |(_, max)| max as usize);
                assert!(namespace.members.len() <= most, "more members than its cap");
            }
            tickets.extend(snapshot.tickets.iter().copied());
        }
        let (mut believed, mut waiting) = (BTreeSet::new(), BTreeSet::new());
        for (at, snapshot) in snapshots.iter().enumerate() {
            for peer in &snapshot.peers {
                assert_eq!(
                    self.homes.of_fingerprint(&peer.fingerprint).index(),
                    at,
                    "a peer away from home"
                );
                let here = LoopId::new(at as u16);
                believed.extend(
                    peer.member_of
                        .iter()
                        .map(|name| (peer.fingerprint, peer.session, here, *name)),
                );
                waiting.extend(peer.tickets.iter().map(|name| (*name, peer.fingerprint, peer.session)));
            }
            for (namespace, loops) in &snapshot.beliefs {
                let loops: BTreeMap<LoopId, u32> = loops.iter().copied().collect();
                assert_eq!(
                    Some(&loops),
                    truth.get(namespace),
                    "loop {at} is wrong about who serves a namespace"
                );
            }
        }
        assert_eq!(listed, believed, "rosters (left) and memberships (right)");
        assert_eq!(
            tickets, waiting,
            "match requests at home (left) and at their peers (right)"
        );
    }

    pub(super) fn compare_aliases(&self, snapshots: &[Snapshot]) {
        let (mut held, mut believed) = (BTreeSet::new(), BTreeSet::new());
        for (at, snapshot) in snapshots.iter().enumerate() {
            for (alias, fingerprint, session) in &snapshot.aliases {
                assert_eq!(self.homes.of_alias(alias).index(), at, "an alias away from home");
                assert!(held.insert((alias.clone(), *fingerprint, *session)), "two holders");
            }
            for peer in &snapshot.peers {
                believed.extend(
                    peer.alias
                        .iter()
                        .map(|alias| (alias.clone(), peer.fingerprint, peer.session)),
                );
            }
        }
        assert_eq!(held, believed, "aliases at home (left) and at their peers (right)");
    }

    pub(super) fn compare_counts(&self, snapshots: &[Snapshot]) {
        let peers: usize = snapshots.iter().map(|snapshot| snapshot.peers.len()).sum();
        let rooms = snapshots
            .iter()
            .flat_map(|snapshot| &snapshot.namespaces)
            .filter(|name| name.room.is_some())
            .count();
        let tickets: usize = snapshots.iter().map(|snapshot| snapshot.tickets.len()).sum();
        let permits = &self.permits;
        let taken = (
            permits.registered.now(),
            permits.rooms.now(),
            permits.match_waiting.now(),
        );
        assert_eq!(
            taken,
            (peers, rooms, tickets),
            "permits (left) and what they are for (right)"
        );
    }

    pub(super) fn compare_clients(&mut self, snapshots: &[Snapshot]) {
        let mut rosters: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for namespace in snapshots.iter().flat_map(|snapshot| &snapshot.namespaces) {
            let keys = namespace
                .members
                .iter()
                .map(|(fingerprint, ..)| self.key_of[fingerprint])
                .collect();
            rosters.insert(self.space_of[&namespace.id], keys);
        }
        let peers: usize = snapshots.iter().map(|snapshot| snapshot.peers.len()).sum();
        assert_eq!(peers, self.live.len(), "a peer for each open connection");
        let mut accounts = BTreeMap::new();
        let mut open: BTreeMap<usize, &mut Conn> = self
            .conns
            .iter_mut()
            .enumerate()
            .filter(|(_, conn)| conn.phase != Phase::Closed)
            .collect();
        for (serial, conn) in std::mem::take(&mut open) {
            let fingerprint = self.keys[conn.key];
            let mut peers = snapshots[conn.loop_index].peers.iter();
            let peer = peers
                .find(|peer| peer.fingerprint == fingerprint)
                .expect("an open connection has a peer");
            let Phase::Open(key) = conn.phase else {
                panic!("#{serial} was never registered")
            };
            let identity = self.shards[conn.loop_index].identity(key);
            assert_eq!(
                identity,
                Some((fingerprint, peer.session)),
                "a connection's peer is its own"
            );
            let member_of: BTreeSet<usize> = peer.member_of.iter().map(|name| self.space_of[name]).collect();
            assert!(
                member_of.iter().eq(conn.witness.views.keys()),
                "#{serial} knows where it is"
            );
            for (name, view) in &conn.witness.views {
                assert!(
                    rosters[name].iter().eq(view.members.keys()),
                    "#{serial} knows who is with it"
                );
            }
            let tickets: BTreeSet<usize> = peer.tickets.iter().map(|name| self.space_of[name]).collect();
            assert_eq!(
                tickets, conn.witness.tickets,
                "#{serial} knows where it waits for a match"
            );
            if conn.wanted_alias.starts_with("own-") {
                assert_eq!(
                    peer.alias.as_ref(),
                    Some(&conn.wanted_alias),
                    "an alias that nobody else wants is granted"
                );
            }
            let (witness, loop_index, held_alias) = (&mut conn.witness, conn.loop_index, peer.alias.clone());
            accounts.insert(
                serial,
                Account {
                    witness,
                    loop_index,
                    held_alias,
                },
            );
        }
        self.history.check_quiet(&mut accounts);
    }
}
