//! All nodes, all clients and the broker together, when nothing is under way.
//!
//! Owns: the comparison of everything that one of them holds with what the others hold.
//! Never: runs while something is on its way; then they may differ.

use peer_server::ids::SessionId;
use peer_server::shard::Snapshot;

use super::outputs::serial_of_info;
use super::*;
use crate::model::Happened;

impl World {
    /// Compares everything that any shard, client or the broker holds. Nothing may be under way.
    pub(crate) fn check_quiet(&mut self) {
        note!(self, "quiet");
        let snapshots: Vec<Vec<Snapshot>> = self
            .nodes
            .iter()
            .map(|node| {
                if node.runs {
                    node.shards.iter().map(Shard::snapshot).collect()
                } else {
                    Vec::new()
                }
            })
            .collect();
        for (n, of_node) in snapshots.iter().enumerate() {
            for (at, snapshot) in of_node.iter().enumerate() {
                let left = (snapshot.waiting, snapshot.held, snapshot.arrivals);
                assert_eq!(
                    left,
                    (0, 0, 0),
                    "node {n} loop {at}: waiting, held, arrivals when all is quiet"
                );
                assert_eq!(self.nodes[n].shards[at].census().open_sums, 0, "every sum is answered");
            }
        }
        for serial in &self.live {
            assert!(
                matches!(self.conns[*serial].phase, Phase::Open(_)),
                "#{serial} was never answered"
            );
            assert!(self.conns[*serial].wait.is_none(), "#{serial} waits for ever");
        }
        self.compare_directory(&snapshots);
        self.compare_rosters(&snapshots);
        self.compare_copies(&snapshots);
        self.compare_tickets(&snapshots);
        self.compare_clients();
        self.check_groups();
    }

    /// Nothing is left when everybody is gone.
    pub(crate) fn check_empty(&self) {
        assert!(
            self.broker.directory.is_empty(),
            "sessions that nobody has: {:?}",
            self.broker.directory
        );
        assert!(
            self.broker.spaces.is_empty(),
            "namespaces without members: {:?}",
            self.broker.spaces
        );
        assert!(
            self.broker.queues.is_empty(),
            "requests of nobody: {:?}",
            self.broker.queues
        );
        for (n, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.runs) {
            for shard in &node.shards {
                assert_eq!(
                    shard.snapshot(),
                    Snapshot::default(),
                    "node {n}: nothing is left when everybody is gone"
                );
                assert_eq!(shard.state_bytes(), 0, "no bytes are left when everybody is gone");
            }
        }
    }

    fn node_of(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id && node.runs)
    }

    /// The directory has each open connection, and nobody else; so a key has one session in all.
    fn compare_directory(&self, snapshots: &[Vec<Snapshot>]) {
        let mut on_record = BTreeSet::new();
        let mut aliases = BTreeMap::new();
        for (fingerprint, entry) in &self.broker.directory {
            let key = self.key_of[fingerprint];
            let Some(n) = self.node_of(entry.place.0) else {
                panic!("key {key} is on a node that is dead")
            };
            assert_eq!(entry.place, self.place(n), "key {key} is in an epoch that is over");
            on_record.insert((n, *fingerprint, entry.session));
            if let Some(alias) = &entry.alias {
                let before = aliases.insert(alias.to_string(), (n, *fingerprint, entry.session));
                assert_eq!(before, None, "two holders of {alias}");
            }
        }
        let mut served = BTreeSet::new();
        let mut believed = BTreeMap::new();
        for (n, snapshot) in all(snapshots) {
            for peer in &snapshot.peers {
                served.insert((n, peer.fingerprint, peer.session));
                if let Some(alias) = &peer.alias {
                    believed.insert(alias.clone(), (n, peer.fingerprint, peer.session));
                }
            }
        }
        assert_eq!(on_record, served, "the directory (left) and the sessions (right)");
        assert_eq!(
            aliases, believed,
            "aliases of the directory (left) and of the sessions (right)"
        );
        assert_eq!(served.len(), self.live.len(), "a session for each open connection");
    }

    /// Rosters of the broker hold whoever believes to be in them.
    fn compare_rosters(&self, snapshots: &[Vec<Snapshot>]) {
        let mut listed = BTreeSet::new();
        for (id, space) in &self.broker.spaces {
            let most = space.room.map_or(u32::MAX, |terms| terms.max_size) as usize;
            assert!(space.seats.len() <= most, "more members than the cap");
            for seat in &space.seats {
                let n = self.node_of(seat.place.0).expect("members are on living nodes");
                assert_eq!(seat.place, self.place(n), "a member in an epoch that is over");
                assert!(
                    listed.insert((n, seat.info.fingerprint, seat.session, *id)),
                    "a member listed twice"
                );
            }
        }
        let mut believed = BTreeSet::new();
        for (n, snapshot) in all(snapshots) {
            for peer in &snapshot.peers {
                believed.extend(peer.member_of.iter().map(|id| (n, peer.fingerprint, peer.session, *id)));
            }
        }
        assert_eq!(listed, believed, "rosters of the broker (left) and memberships (right)");
    }

    /// Each node's copies are the broker's rosters, and it has copies only of what it has members in.
    fn compare_copies(&self, snapshots: &[Vec<Snapshot>]) {
        for (n, of_node) in snapshots.iter().enumerate().filter(|(n, _)| self.nodes[*n].runs) {
            let node = &self.nodes[n];
            let mut copies: BTreeMap<NamespaceId, Vec<(Fingerprint, SessionId, LoopId)>> = BTreeMap::new();
            for (at, snapshot) in of_node.iter().enumerate() {
                for copy in &snapshot.namespaces {
                    assert_eq!(node.homes.of_namespace(copy.id).index(), at, "a copy away from home");
                    copies.insert(copy.id, copy.members.clone());
                    let truth = self.broker.spaces.get(&copy.id);
                    let truth =
                        truth.unwrap_or_else(|| panic!("a copy of what there is: node {n} loop {at}, {copy:?}"));
                    let room = truth.room.map(|terms| (terms.owner, terms.max_size));
                    assert_eq!(copy.room, room, "node {n}: a room as the broker has it");
                }
            }
            let mut truth = BTreeMap::new();
            for (id, space) in &self.broker.spaces {
                if space.seats.iter().any(|seat| seat.place == self.place(n)) {
                    let member = |seat: &crate::model::Seat| {
                        let number = node.nodes.number(seat.place.0, seat.place.1).unwrap();
                        let here = node.homes.of_fingerprint(&seat.info.fingerprint);
                        (
                            seat.info.fingerprint,
                            seat.session,
                            number.map_or(here, LoopId::of_node),
                        )
                    };
                    truth.insert(*id, space.seats.iter().map(member).collect::<Vec<_>>());
                }
            }
            if self.history.broken {
                // Only what differs is put right: the order may be another.
                copies.values_mut().for_each(|members| members.sort_unstable());
                truth.values_mut().for_each(|members| members.sort_unstable());
            }
            assert_eq!(copies, truth, "node {n}: copies (left) and what the broker has (right)");
            for snapshot in of_node {
                for (id, loops) in &snapshot.beliefs {
                    let mut counted: BTreeMap<LoopId, u32> = BTreeMap::new();
                    for (_, _, at) in truth.get(id).into_iter().flatten() {
                        *counted.entry(*at).or_default() += 1;
                    }
                    let loops: BTreeMap<LoopId, u32> = loops.iter().copied().collect();
                    assert_eq!(loops, counted, "node {n}: who serves how many members (left: believed)");
                }
            }
        }
    }

    fn compare_tickets(&self, snapshots: &[Vec<Snapshot>]) {
        let mut waiting = BTreeSet::new();
        for ((id, ..), queue) in &self.broker.queues {
            for ticket in queue {
                let n = self.node_of(ticket.place.0).expect("who waits is on a living node");
                assert!(
                    waiting.insert((n, *id, ticket.who.fingerprint, ticket.who.session)),
                    "two requests of one session in one namespace"
                );
            }
        }
        let mut believed = BTreeSet::new();
        for (n, snapshot) in all(snapshots) {
            for peer in &snapshot.peers {
                believed.extend(peer.tickets.iter().map(|id| (n, *id, peer.fingerprint, peer.session)));
            }
        }
        assert_eq!(
            waiting, believed,
            "match requests of the broker (left) and of the sessions (right)"
        );
    }

    /// Everybody sees who is with it, and was told of it in the broker's order.
    fn compare_clients(&mut self) {
        let mut rosters: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
        for (id, space) in &self.broker.spaces {
            let member = |seat: &crate::model::Seat| (self.key_of[&seat.info.fingerprint], serial_of_info(&seat.info));
            rosters.insert(self.space_of[id], space.seats.iter().map(member).collect());
        }
        for serial in &self.live {
            let conn = &self.conns[*serial];
            let own = rosters
                .iter()
                .filter(|(_, members)| members.get(&conn.key) == Some(serial));
            let own: Vec<usize> = own.map(|(name, _)| *name).collect();
            let known: Vec<usize> = conn.witness.views.keys().copied().collect();
            assert_eq!(known, own, "#{serial} knows where it is (left: what it knows)");
            for (name, view) in &conn.witness.views {
                assert_eq!(
                    view.members, rosters[name],
                    "#{serial} knows who is with it (left: what it knows)"
                );
            }
            let Phase::Open(peer) = conn.phase else { continue };
            let (fingerprint, session) = self.nodes[conn.node].shards[conn.loop_index].identity(peer).unwrap();
            let waits = |queue: &&Vec<crate::model::Ticket>| {
                queue.iter().any(|ticket| {
                    ticket.who.fingerprint == fingerprint
                        && ticket.who.session == session
                        && ticket.place.0 == self.nodes[conn.node].id
                })
            };
            let queues = self.broker.queues.iter().filter(|(_, queue)| waits(queue));
            let waiting: BTreeSet<usize> = queues.map(|((id, ..), _)| self.space_of[id]).collect();
            let met = |name: &usize| self.history.broken && conn.witness.met.contains(name);
            let certain = |name: &&usize| !conn.witness.uncertain.contains(name) && !met(name);
            let tickets: Vec<usize> = conn.witness.tickets.iter().filter(certain).copied().collect();
            let waiting: Vec<usize> = waiting.iter().filter(certain).copied().collect();
            assert_eq!(
                tickets, waiting,
                "#{serial} knows where it waits for a match (left: what it knows)"
            );
        }
        if !self.history.broken {
            self.check_orders();
        }
        let live = self.live.clone();
        let mut open: BTreeMap<usize, &mut Witness> = self
            .conns
            .iter_mut()
            .enumerate()
            .filter(|(serial, _)| live.contains(serial))
            .map(|(serial, conn)| (serial, &mut conn.witness))
            .collect();
        self.history.check_quiet(&mut open);
    }

    /// What a member was told of each other since its list is the end of what the broker made happen, in the same order. News
    /// of different peers may pass each other: that of one waits behind its messages.
    fn check_orders(&self) {
        let mut logs: BTreeMap<usize, Vec<(usize, Option<usize>)>> = BTreeMap::new();
        for (id, changes) in &self.broker.log {
            let told = |(_, change): &(u64, Happened)| match change {
                Happened::Joined(seat, _) => {
                    Some((self.key_of[&seat.info.fingerprint], Some(serial_of_info(&seat.info))))
                }
                Happened::Left { who, .. } => Some((self.key_of[&who.fingerprint], None)),
                Happened::Shown(_) => None,
            };
            logs.insert(self.space_of[id], changes.iter().filter_map(told).collect());
        }
        for serial in &self.live {
            let conn = &self.conns[*serial];
            for (name, view) in &conn.witness.views {
                for key in (0..self.keys.len()).filter(|key| *key != conn.key) {
                    let of_it = |news: &[(usize, Option<usize>)]| {
                        news.iter().filter(|(of, _)| *of == key).copied().collect::<Vec<_>>()
                    };
                    let (told, log) = (of_it(&view.told), of_it(&logs[name]));
                    assert!(
                        self.ends_as_told(conn.node, &told, &log),
                        "#{serial} was told {told:?}, and it was {log:?}",
                    );
                }
            }
        }
    }

    /// Whether the log ends as a client of that node was told of one key. A session of the same node that ended while its join
    /// was under way is never shown there; the other nodes see it come and go.
    fn ends_as_told(&self, n: usize, told: &[(usize, Option<usize>)], log: &[(usize, Option<usize>)]) -> bool {
        let Some((last, told_before)) = told.split_last() else {
            return true;
        };
        let Some((entry, before)) = log.split_last() else {
            return false;
        };
        if last == entry && self.ends_as_told(n, told_before, before) {
            return true;
        }
        let unseen = match (entry.1, before.last()) {
            (None, Some((_, Some(serial)))) => Some(*serial).filter(|serial| self.conns[*serial].node == n),
            _ => None,
        };
        unseen.is_some_and(|serial| {
            let came = before
                .iter()
                .rposition(|(_, of)| *of != Some(serial))
                .map_or(0, |at| at + 1);
            self.ends_as_told(n, told, &before[..came])
        })
    }

    /// No request is in two groups while the broker keeps its data.
    fn check_groups(&self) {
        let mut seen = BTreeSet::new();
        for (generation, group) in &self.broker.committed {
            for (place, who, number) in group {
                assert!(
                    seen.insert((*generation, place.0, *who, *number)),
                    "{who:?} with request {number:?} is in two groups"
                );
            }
        }
    }
}

fn all(snapshots: &[Vec<Snapshot>]) -> impl Iterator<Item = (usize, &Snapshot)> {
    snapshots
        .iter()
        .enumerate()
        .flat_map(|(n, of_node)| of_node.iter().map(move |snapshot| (n, snapshot)))
}
