//! The sessions of a provider's servers whose players are to come, or are there: which client id has which session.
//!
//! The provider has the record of its sessions and their clocks. Here is only what reports need, which name client ids.
//!
//! Owns: that relation, for as long as a report may name the player.
//! Never: decides when a session is deleted.

use ahash::RandomState;
use hashbrown::HashMap;

use super::line::{Line, Ticket};
use crate::message::game_server::{RequestId, Seeker, SessionName};

#[derive(Debug)]
pub(super) struct Session {
    pub(super) name: SessionName,
    pub(super) request: RequestId,
    pub(super) seeker: Seeker,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The request has not yet had its last word.
    Asked,
    /// The player was told; since when, and until when it must come.
    Told(Option<Ticket>),
    /// The player is there.
    Claimed(Ticket),
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Asked,
    Told,
    Claimed,
}

#[derive(Debug)]
pub(super) struct Sessions {
    by_client: HashMap<u64, Session, RandomState>,
    /// More than one player where the provider puts several into one session, in the order in which they came.
    by_name: HashMap<SessionName, Vec<u64>, RandomState>,
    /// Those whose players are to come.
    claims: Line<u64>,
    /// Those whose players came, in that order.
    claimed: Line<u64>,
}

impl Sessions {
    pub(super) fn new(hasher: &RandomState) -> Self {
        Self {
            by_client: HashMap::with_hasher(hasher.clone()),
            by_name: HashMap::with_hasher(hasher.clone()),
            claims: Line::new(),
            claimed: Line::new(),
        }
    }

    /// A player is to have this session.
    pub(super) fn open(&mut self, client_id: u64, name: SessionName, request: RequestId, seeker: Seeker) {
        self.by_name.entry(name.clone()).or_default().push(client_id);
        let session = Session {
            name,
            request,
            seeker,
            stage: Stage::Asked,
        };
        self.by_client.insert(client_id, session);
    }

    /// The player was told: until then it must come.
    pub(super) fn expect(&mut self, client_id: u64, until_ms: Option<u64>) {
        if let Some(session) = self.by_client.get_mut(&client_id) {
            session.stage = Stage::Told(until_ms.map(|due_ms| self.claims.push(due_ms, client_id)));
        }
    }

    /// The player is there; the session as it was before. Only a player who was told can come, and only once.
    pub(super) fn claim(&mut self, client_id: u64, now_ms: u64) -> Option<&Session> {
        let session = self.by_client.get_mut(&client_id)?;
        let Stage::Told(ticket) = session.stage else {
            return None;
        };
        if let Some(ticket) = ticket {
            self.claims.remove(ticket);
        }
        session.stage = Stage::Claimed(self.claimed.push(now_ms, client_id));
        Some(session)
    }

    /// Nothing of this session is of interest any more.
    pub(super) fn forget(&mut self, client_id: u64) -> Option<Session> {
        let session = self.by_client.remove(&client_id)?;
        match session.stage {
            Stage::Told(Some(ticket)) => self.claims.remove(ticket),
            Stage::Claimed(ticket) => self.claimed.remove(ticket),
            Stage::Asked | Stage::Told(None) => {}
        }
        if let Some(clients) = self.by_name.get_mut(&session.name) {
            clients.retain(|client| *client != client_id);
            if clients.is_empty() {
                self.by_name.remove(&session.name);
            }
        }
        Some(session)
    }

    pub(super) fn standing(&self, client_id: u64) -> Option<Standing> {
        Some(match self.by_client.get(&client_id)?.stage {
            Stage::Asked => Standing::Asked,
            Stage::Told(_) => Standing::Told,
            Stage::Claimed(_) => Standing::Claimed,
        })
    }

    pub(super) fn get(&self, client_id: u64) -> Option<&Session> {
        self.by_client.get(&client_id)
    }

    /// The players of a session, in the order in which they asked.
    pub(super) fn clients(&self, name: &SessionName) -> &[u64] {
        self.by_name.get(name).map_or(&[], |clients| clients)
    }

    /// When the first player is late.
    pub(super) fn due(&self) -> Option<u64> {
        self.claims.due()
    }

    /// A player who did not come in time.
    pub(super) fn late(&self, now_ms: u64) -> Option<u64> {
        self.claims.first_due(now_ms)
    }

    /// One too many: whose player came longest ago, else who is to come for the longest time.
    pub(super) fn surplus(&self) -> Option<u64> {
        let known = self.claims.len() + self.claimed.len();
        (known > SESSIONS_MAX).then(|| self.claimed.first().or(self.claims.first()))?
    }

    /// Players who are to come, and players who are there.
    pub(super) fn figures(&self) -> (u64, u64) {
        let claimed = self.claimed.len() as u64;
        (self.by_client.len() as u64 - claimed, claimed)
    }

    /// Proves that the relation is one. Panics if not.
    pub(super) fn check_invariants(&self) {
        assert!(self.claims.is_sound() && self.claimed.is_sound());
        assert!(self.surplus().is_none(), "the number of sessions is bounded");
        let named: usize = self.by_name.values().map(Vec::len).sum();
        assert_eq!(named, self.by_client.len(), "each is found by its name");
        let (mut told, mut claimed) = (0, 0);
        for (client_id, session) in &self.by_client {
            assert!(self.clients(&session.name).contains(client_id));
            told += usize::from(matches!(session.stage, Stage::Told(Some(_))));
            claimed += usize::from(matches!(session.stage, Stage::Claimed(_)));
        }
        assert_eq!((told, claimed), (self.claims.len(), self.claimed.len()));
    }
}

/// Sessions remembered at most, some 200 bytes each. With more, reports can no longer end the oldest; the provider still does.
const SESSIONS_MAX: usize = 1 << 16;
