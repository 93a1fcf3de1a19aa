//! What the desk must believe of places and sessions: the rules of `docs/decisions/game-servers.md`, told plainly.

use std::collections::{BTreeMap, BTreeSet};

use peer_server::message::game_server::{CertDigest, Report, RequestId, Seeker, SessionName};
use peer_server::shard::desk::{Output, Server, Settings, Source};

/// A place kept, or a session of a provider.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) seeker: Seeker,
    /// The configured server; None: a provider's.
    pub(crate) server: Option<usize>,
    pub(crate) session: SessionName,
    pub(crate) request: Option<RequestId>,
    /// Whether the player was told, and until when it must come.
    pub(crate) told: Option<u64>,
    /// A provider's player came.
    pub(crate) claimed: bool,
}

#[derive(Default)]
pub(crate) struct Place {
    pub(crate) named: BTreeSet<u64>,
    pub(crate) unnamed: u64,
    pub(crate) heard_ms: Option<u64>,
    pub(crate) digest: Option<CertDigest>,
}

pub(crate) struct Model {
    pub(crate) settings: Settings,
    pub(crate) places: Vec<Place>,
    pub(crate) kept: BTreeMap<u64, Kept>,
    /// Client ids in the order in which they were drawn.
    pub(crate) order: Vec<u64>,
    pub(crate) unclaimed: u64,
}

impl Model {
    pub(crate) fn new(settings: Settings) -> Self {
        let place = |server: &Server| Place {
            digest: server.cert_digest,
            ..Place::default()
        };
        Self {
            places: settings.servers.iter().map(place).collect(),
            settings,
            kept: BTreeMap::new(),
            order: Vec::new(),
            unclaimed: 0,
        }
    }

    /// The server for the next player of the first game.
    pub(crate) fn choose(&self, now_ms: u64) -> Option<usize> {
        let limits = &self.settings.limits;
        let usable = (0..self.places.len()).filter(|at| {
            let (place, server) = (&self.places[*at], &self.settings.servers[*at]);
            let silent = place
                .heard_ms
                .is_some_and(|heard_ms| now_ms - heard_ms >= limits.silence_ms);
            let known = place.digest.is_some() || self.settings.registers;
            !silent && known && (limits.ipv6 || server.public.is_ipv4()) && self.used(*at) < u64::from(server.capacity)
        });
        // Of equals `min_by` takes the first.
        usable.min_by(|a, b| {
            let part = |at: usize, other: usize| self.used(at) * u64::from(self.settings.servers[other].capacity);
            part(*a, *b).cmp(&part(*b, *a))
        })
    }

    fn used(&self, at: usize) -> u64 {
        let kept = self.kept.values().filter(|kept| kept.server == Some(at)).count();
        kept as u64 + self.occupied(at)
    }

    fn occupied(&self, at: usize) -> u64 {
        self.places[at].named.len() as u64 + self.places[at].unnamed
    }

    /// Places kept and places taken.
    pub(crate) fn figures(&self) -> (u64, u64) {
        let (claimed, kept): (Vec<_>, Vec<_>) = self.kept.values().partition(|kept| kept.claimed);
        let occupied: u64 = (0..self.places.len()).map(|at| self.occupied(at)).sum();
        (kept.len() as u64, claimed.len() as u64 + occupied)
    }

    pub(crate) fn report(&mut self, report: &Report, now_ms: u64) -> Option<Vec<Output>> {
        let configured = self
            .settings
            .servers
            .iter()
            .position(|server| server.id == report.server);
        let Some(at) = configured else {
            let known = self.settings.source == Source::Provider && report.server.starts_with("198.");
            return known.then(|| self.report_sessions(report));
        };
        let capacity = self.settings.servers[at].capacity as usize;
        self.places[at].heard_ms = Some(now_ms);
        self.places[at].digest = report.cert_digest.or(self.places[at].digest);
        for id in &report.claimed {
            if self.is_asked(at, *id) {
                continue;
            }
            self.drop_kept(at, *id);
            let full = self.occupied(at) >= capacity as u64;
            let place = &mut self.places[at];
            if place.named.contains(id) || place.named.len() >= capacity {
                continue;
            }
            place.unnamed -= u64::from(full);
            place.named.insert(*id);
        }
        for id in &report.left {
            if self.is_asked(at, *id) || self.drop_kept(at, *id) {
                continue;
            }
            let place = &mut self.places[at];
            if !place.named.remove(id) {
                place.unnamed = place.unnamed.saturating_sub(1);
            }
        }
        if let Some(players) = report.players {
            let place = &mut self.places[at];
            if (place.named.len() as u64) > u64::from(players) {
                place.named.clear();
            }
            place.unnamed = u64::from(players) - place.named.len() as u64;
        }
        Some(Vec::new())
    }

    fn is_asked(&self, at: usize, id: u64) -> bool {
        let kept = self.kept.get(&id);
        kept.is_some_and(|kept| kept.server == Some(at) && kept.told.is_none())
    }

    fn drop_kept(&mut self, at: usize, id: u64) -> bool {
        let here = self.kept.get(&id).is_some_and(|kept| kept.server == Some(at));
        here && self.kept.remove(&id).is_some()
    }

    fn report_sessions(&mut self, report: &Report) -> Vec<Output> {
        let mut outputs = Vec::new();
        for id in &report.claimed {
            if let Some(kept) = self.kept.get_mut(id)
                && (kept.server, kept.claimed) == (None, false)
                && kept.told.is_some()
            {
                kept.claimed = true;
                outputs.push(Output::Claimed(kept.session.clone()));
            }
        }
        for id in &report.left {
            if self
                .kept
                .get(id)
                .is_some_and(|kept| kept.server.is_none() && kept.told.is_some())
            {
                let kept = self.kept.remove(id).unwrap();
                outputs.push(Output::Released(kept.session));
            }
        }
        outputs
    }

    fn clients(&self, session: &SessionName) -> Vec<u64> {
        let named = |id: &&u64| self.kept.get(id).is_some_and(|kept| kept.session == *session);
        self.order.iter().filter(named).copied().collect()
    }

    pub(crate) fn claim(&mut self, session: &SessionName) -> Vec<Output> {
        let clients = self.clients(session);
        let to_come = |id: &u64| self.kept[id].told.is_some() && !self.kept[id].claimed;
        if let Some(id) = clients.iter().copied().find(to_come) {
            if let Some(at) = self.kept[&id].server {
                let claimed = vec![id];
                let heard_ms = self.places[at].heard_ms;
                self.report(&self.says(at, claimed, Vec::new()), 0);
                self.places[at].heard_ms = heard_ms;
                return Vec::new();
            }
            self.kept.get_mut(&id).unwrap().claimed = true;
            return vec![Output::Claimed(session.clone())];
        }
        let stranger = clients.is_empty() && self.is_of_provider(session);
        Vec::from_iter(stranger.then(|| Output::Claimed(session.clone())))
    }

    pub(crate) fn end(&mut self, session: &SessionName) -> Vec<Output> {
        let clients = self.clients(session);
        for id in &clients {
            // Before its player is told, its request fails, which the world sees, or goes on.
            if self.kept[id].told.is_some() {
                self.kept.remove(id);
            }
        }
        let digits = session.as_str().strip_prefix("static-").filter(|_| clients.is_empty());
        if let Some(id) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            // The first that has it: it is on one.
            let _ = self.places.iter_mut().any(|place| place.named.remove(&id));
        }
        Vec::from_iter(self.is_of_provider(session).then(|| Output::Released(session.clone())))
    }

    fn is_of_provider(&self, session: &SessionName) -> bool {
        self.settings.source == Source::Provider && !session.as_str().starts_with("static-")
    }

    fn says(&self, at: usize, claimed: Vec<u64>, left: Vec<u64>) -> Report {
        Report {
            server: self.settings.servers[at].id.clone(),
            players: None,
            claimed,
            left,
            cert_digest: None,
        }
    }

    /// What is kept too long is kept no longer.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        let before = self.kept.len();
        self.kept
            .retain(|_, kept| kept.claimed || kept.told.is_none_or(|until_ms| until_ms > now_ms));
        self.unclaimed += (before - self.kept.len()) as u64;
    }
}
