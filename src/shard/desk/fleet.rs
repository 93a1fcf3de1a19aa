//! The configured game servers: who has a free place, for whom places are kept, what the servers report.
//!
//! A place is free, kept for a player who is to come (reserved), or taken. Taken are those whose client ids a server named
//! and, beyond them, as many as it counted: see [`Place::count`].
//!
//! Owns: the servers' places and digests.
//! Never: tells a seeker anything.

use ahash::RandomState;
use hashbrown::{HashMap, HashSet};

use super::line::{Line, Ticket};
use super::{Limits, Server};
use crate::message::game_server::{CertDigest, Name, REPORTED_MAX, Report, Seeker, SessionName};

/// One configured server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerIndex(usize);

/// The servers of one game and version.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupIndex(usize);

#[derive(Debug)]
struct Group {
    game: Name,
    version: Name,
    /// In the order of preference.
    servers: Vec<ServerIndex>,
}

#[derive(Debug)]
struct Place {
    server: Server,
    reported_digest: Option<CertDigest>,
    /// When it last reported.
    heard_ms: Option<u64>,
    /// Places kept.
    reserved: u32,
    /// Players whose ids it named.
    present: HashSet<u64, RandomState>,
    /// Players whom it only counted.
    unnamed: u32,
}

/// A place kept for a player.
#[derive(Debug)]
struct Reservation {
    server: ServerIndex,
    seeker: Seeker,
    kept: Kept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// Until its request has its last word: nobody can come yet.
    Asked,
    /// Until the player comes, or its time is over.
    Told(Option<Ticket>),
}

#[derive(Debug)]
pub(super) struct Fleet {
    places: Vec<Place>,
    groups: Vec<Group>,
    by_id: HashMap<Box<str>, ServerIndex, RandomState>,
    reservations: HashMap<u64, Reservation, RandomState>,
    claims: Line<u64>,
}

impl Fleet {
    pub(super) fn new(servers: &[Server], hasher: &RandomState) -> Self {
        let mut fleet = Self {
            places: Vec::new(),
            groups: Vec::new(),
            by_id: HashMap::with_hasher(hasher.clone()),
            reservations: HashMap::with_hasher(hasher.clone()),
            claims: Line::new(),
        };
        for (index, server) in servers.iter().enumerate() {
            let index = ServerIndex(index);
            fleet.by_id.entry(server.id.clone()).or_insert(index);
            let at = fleet
                .groups
                .binary_search_by(|group| group.order(&server.game, &server.version));
            match at {
                Ok(at) => fleet.groups[at].servers.push(index),
                Err(at) => fleet.groups.insert(
                    at,
                    Group {
                        game: server.game.clone(),
                        version: server.version.clone(),
                        servers: vec![index],
                    },
                ),
            }
            fleet.places.push(Place {
                server: server.clone(),
                reported_digest: None,
                heard_ms: None,
                reserved: 0,
                present: HashSet::with_hasher(hasher.clone()),
                unnamed: 0,
            });
        }
        fleet
    }

    /// The servers that run this.
    pub(super) fn group(&self, game: &Name, version: &Name) -> Option<GroupIndex> {
        let at = self.groups.binary_search_by(|group| group.order(game, version));
        at.ok().map(GroupIndex)
    }

    /// The server for the next player: that with the smallest part of its places taken or kept, the first of such.
    pub(super) fn choose(
        &self,
        group: GroupIndex,
        needs_digest: bool,
        limits: &Limits,
        now_ms: u64,
    ) -> Option<ServerIndex> {
        let mut best: Option<(ServerIndex, u64, u64)> = None;
        for index in &self.groups.get(group.0)?.servers {
            let place = &self.places[index.0];
            let (used, capacity) = (place.used(), u64::from(place.server.capacity));
            let usable = used < capacity
                && !place.is_silent(limits.silence_ms, now_ms)
                && (limits.ipv6 || place.server.public.is_ipv4())
                && (!needs_digest || place.digest().is_some());
            // Both are below 2^32 where they are multiplied.
            if usable && best.is_none_or(|(_, best_used, best_capacity)| used * best_capacity < best_used * capacity) {
                best = Some((*index, used, capacity));
            }
        }
        best.map(|(index, _, _)| index)
    }

    pub(super) fn server(&self, index: ServerIndex) -> &Server {
        &self.places[index.0].server
    }

    pub(super) fn digest(&self, index: ServerIndex) -> Option<CertDigest> {
        self.places[index.0].digest()
    }

    /// Whether a new player may not have this id: a place is kept for it, or it is on that server.
    pub(super) fn knows(&self, index: ServerIndex, client_id: u64) -> bool {
        self.reservations.contains_key(&client_id) || self.places[index.0].present.contains(&client_id)
    }

    /// Keeps a place for a player whose request is under way.
    pub(super) fn reserve(&mut self, index: ServerIndex, client_id: u64, seeker: Seeker) {
        let place = &mut self.places[index.0];
        debug_assert!(
            place.used() < u64::from(place.server.capacity),
            "no place is given twice"
        );
        place.reserved += 1;
        let reservation = Reservation {
            server: index,
            seeker,
            kept: Kept::Asked,
        };
        self.reservations.insert(client_id, reservation);
    }

    /// The player was told: until then it must come.
    pub(super) fn expect(&mut self, client_id: u64, until_ms: Option<u64>) {
        if let Some(reservation) = self.reservations.get_mut(&client_id) {
            debug_assert_eq!(reservation.kept, Kept::Asked);
            reservation.kept = Kept::Told(until_ms.map(|due_ms| self.claims.push(due_ms, client_id)));
        }
    }

    /// A place is kept no longer; whose it was.
    pub(super) fn release(&mut self, client_id: u64) -> Option<Seeker> {
        let reservation = self.reservations.remove(&client_id)?;
        if let Kept::Told(Some(ticket)) = reservation.kept {
            self.claims.remove(ticket);
        }
        self.places[reservation.server.0].reserved -= 1;
        Some(reservation.seeker)
    }

    /// When the first player is late.
    pub(super) fn due(&self) -> Option<u64> {
        self.claims.due()
    }

    /// A player who did not come in time.
    pub(super) fn late(&self, now_ms: u64) -> Option<u64> {
        self.claims.first_due(now_ms)
    }

    pub(super) fn find(&self, id: &str) -> Option<ServerIndex> {
        self.by_id.get(id).copied()
    }

    /// Takes a report. Whose places are kept no longer is added to `settled`.
    pub(super) fn report(
        &mut self,
        index: ServerIndex,
        report: &Report,
        now_ms: u64,
        settled: &mut Vec<(u64, Seeker)>,
    ) {
        let place = &mut self.places[index.0];
        place.heard_ms = Some(now_ms);
        place.reported_digest = report.cert_digest.or(place.reported_digest);
        for client_id in report.claimed.iter().take(REPORTED_MAX) {
            self.arrive(index, *client_id, settled);
        }
        for client_id in report.left.iter().take(REPORTED_MAX) {
            self.depart(index, *client_id, settled);
        }
        if let Some(players) = report.players {
            self.places[index.0].count(players);
        }
    }

    /// The player of a session is on its server, as somebody else than the server says.
    pub(super) fn claim(&mut self, session: &SessionName, settled: &mut Vec<(u64, Seeker)>) {
        let Some(client_id) = session.configured_client() else {
            return;
        };
        // Without a place that is kept it is not known which server it is on.
        if let Some(index) = self.reservations.get(&client_id).map(|reservation| reservation.server) {
            self.arrive(index, client_id, settled);
        }
    }

    /// The session is over, as somebody else than the server says.
    pub(super) fn end(&mut self, session: &SessionName, settled: &mut Vec<(u64, Seeker)>) {
        let Some(client_id) = session.configured_client() else {
            return;
        };
        let kept = self.reservations.get(&client_id).map(|reservation| reservation.server);
        let on = || self.places.iter().position(|place| place.present.contains(&client_id));
        if let Some(index) = kept.or_else(|| on().map(ServerIndex)) {
            self.depart(index, client_id, settled);
        }
    }

    /// Places kept, and places taken.
    pub(super) fn figures(&self) -> (u64, u64) {
        let taken = self.places.iter().map(Place::occupied).sum();
        (self.reservations.len() as u64, taken)
    }

    fn arrive(&mut self, index: ServerIndex, client_id: u64, settled: &mut Vec<(u64, Seeker)>) {
        match self.kept_here(index, client_id) {
            Some(Kept::Asked) => return,
            Some(Kept::Told(_)) => settled.extend(self.release(client_id).map(|seeker| (client_id, seeker))),
            None => {}
        }
        self.places[index.0].name(client_id);
    }

    fn depart(&mut self, index: ServerIndex, client_id: u64, settled: &mut Vec<(u64, Seeker)>) {
        match self.kept_here(index, client_id) {
            Some(Kept::Asked) => {}
            // It has come and gone.
            Some(Kept::Told(_)) => settled.extend(self.release(client_id).map(|seeker| (client_id, seeker))),
            None => self.places[index.0].forget(client_id),
        }
    }

    fn kept_here(&self, index: ServerIndex, client_id: u64) -> Option<Kept> {
        let reservation = self.reservations.get(&client_id)?;
        (reservation.server == index).then_some(reservation.kept)
    }

    /// Proves that the places agree with what is kept. Panics if not.
    pub(super) fn check_invariants(&self) {
        assert!(self.claims.is_sound());
        let clocks = self
            .reservations
            .values()
            .filter(|one| matches!(one.kept, Kept::Told(Some(_))));
        assert_eq!(
            clocks.count(),
            self.claims.len(),
            "a clock for each place kept for a player who was told"
        );
        let mut reserved = vec![0; self.places.len()];
        for reservation in self.reservations.values() {
            reserved[reservation.server.0] += 1;
        }
        for (place, reserved) in self.places.iter().zip(reserved) {
            assert_eq!(place.reserved, reserved, "places kept add up");
            assert!(
                place.reserved <= place.server.capacity,
                "no more are kept than there are"
            );
            assert!(
                place.present.len() <= place.server.capacity as usize,
                "names are bounded"
            );
        }
    }

    /// For whom a place is kept, and whether it was told.
    pub(super) fn kept(&self, client_id: u64) -> Option<(Seeker, bool)> {
        let reservation = self.reservations.get(&client_id)?;
        Some((reservation.seeker, matches!(reservation.kept, Kept::Told(_))))
    }
}

impl Group {
    fn order(&self, game: &Name, version: &Name) -> std::cmp::Ordering {
        (&self.game, &self.version).cmp(&(game, version))
    }
}

impl Place {
    fn digest(&self) -> Option<CertDigest> {
        self.reported_digest.or(self.server.cert_digest)
    }

    fn occupied(&self) -> u64 {
        self.present.len() as u64 + u64::from(self.unnamed)
    }

    fn used(&self) -> u64 {
        self.occupied() + u64::from(self.reserved)
    }

    /// A server that never reports is none that fell silent.
    fn is_silent(&self, silence_ms: u64, now_ms: u64) -> bool {
        silence_ms > 0 && self.heard_ms.is_some_and(|heard_ms| now_ms - heard_ms >= silence_ms)
    }

    /// A player whom the server names is on it.
    fn name(&mut self, client_id: u64) {
        if self.present.contains(&client_id) || self.present.len() >= self.server.capacity as usize {
            return;
        }
        // A full server takes nobody, so this is one of those whom it only counted.
        if self.occupied() >= u64::from(self.server.capacity) {
            self.unnamed = self.unnamed.saturating_sub(1);
        }
        self.present.insert(client_id);
    }

    /// A player whom the server names is no longer on it: one whose name is not known was only counted.
    fn forget(&mut self, client_id: u64) {
        if !self.present.remove(&client_id) {
            self.unnamed = self.unnamed.saturating_sub(1);
        }
    }

    /// Takes the server's own count, which is right at this moment. Fewer than were named: some left without a word, nobody
    /// knows who, so the rest is a number only. None: it began anew.
    fn count(&mut self, players: u32) {
        let named = u32::try_from(self.present.len()).unwrap_or(u32::MAX);
        match players.checked_sub(named) {
            Some(unnamed) => self.unnamed = unnamed,
            None => {
                self.present.clear();
                self.unnamed = players;
            }
        }
    }
}
