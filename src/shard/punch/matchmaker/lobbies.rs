//! Lobbies at the home of their code.
//!
//! Owns: who is a member, how many may be, and how a start gathers the members' addresses.
//! Never: speaks to a client; the members' sessions do.

use std::net::SocketAddr;

use ahash::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::deadlines::Deadlines;
use super::mail::{Answer, Asker, ToLobby, ToSession};
use super::{Core, Homes};
use crate::ids::{LoopId, Prefix};
use crate::message::matchmaker::{Code, ENDPOINTS_BYTES_MAX, Refusal, SessionId, endpoint_bytes_max};
use crate::shard::punch::{Counted, Guard, Guarded, Limits};

#[derive(Debug)]
struct Member {
    session: SessionId,
    home: LoopId,
    /// What its address takes at most when the others are told.
    bytes_max: usize,
    /// Where it is, once that was asked and answered.
    at: Option<SocketAddr>,
}

#[derive(Debug)]
struct Lobby {
    /// In the order in which they joined.
    members: Vec<Member>,
    /// It has started, and waits so long for members whose address is not known.
    starts_ms: Option<u64>,
    due_ms: u64,
}

impl Lobby {
    /// Whether one more could be told of the others, and they of it.
    fn has_room(&self, bytes_max: usize) -> bool {
        let all = || self.members.iter().map(|member| member.bytes_max).chain([bytes_max]);
        let told_most = all().sum::<usize>() - all().min().unwrap_or_default();
        self.members.len() < MEMBERS_MAX && told_most <= ENDPOINTS_BYTES_MAX
    }

    fn has(&self, session: SessionId) -> bool {
        self.members.iter().any(|member| member.session == session)
    }
}

/// The lobbies at home here.
#[derive(Debug)]
pub(super) struct Lobbies {
    lobbies: HashMap<Code, Lobby, RandomState>,
    deadlines: Deadlines<Code>,
}

impl Lobbies {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            lobbies: HashMap::with_hasher(homes.hasher()),
            deadlines: Deadlines::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lobbies.len()
    }

    pub(super) fn handle_mail(&mut self, core: &mut Core, mail: ToLobby) {
        match mail {
            ToLobby::Create { code, by } => self.on_create(core, code, &by),
            ToLobby::Join { code, by } => self.on_join(core, code, &by),
            ToLobby::Start { code, by } => self.on_start(core, code, &by),
            ToLobby::Left { code, session } => self.on_left(core, code, session),
            ToLobby::Ready { code, session, at } => {
                let lobby = self.lobbies.get_mut(&code);
                let mut members = lobby.into_iter().flat_map(|lobby| &mut lobby.members);
                if let Some(member) = members.find(|member| member.session == session) {
                    member.at = Some(at);
                    self.go_if_ready(core, code);
                }
            }
        }
    }

    fn on_create(&mut self, core: &mut Core, code: Code, by: &Asker) {
        let Entry::Vacant(place) = self.lobbies.entry(code) else {
            return answer(core, code, by, Answer::Collides);
        };
        let most = Limits::at_most(core.limits.sessions_max);
        if !core.permits.matchmaker_lobbies.take(most) {
            return answer(core, code, by, Answer::Refused(Refusal::RateLimited));
        }
        let lobby = place.insert(Lobby {
            members: vec![Member::new(by)],
            starts_ms: None,
            due_ms: 0,
        });
        self.deadlines.set(code, &mut lobby.due_ms, core.now_ms + AGE_MAX_MS);
        answer(core, code, by, Answer::Created);
    }

    fn on_join(&mut self, core: &mut Core, code: Code, by: &Asker) {
        let Some(lobby) = self.lobbies.get_mut(&code) else {
            return miss(core, Some(code), by);
        };
        let reply = if lobby.starts_ms.is_some() {
            Answer::Refused(Refusal::AlreadyStarted)
        } else if lobby.has(by.session) {
            Answer::Joined
        } else if !lobby.has_room(endpoint_bytes_max(by.remote.ip())) {
            Answer::Refused(Refusal::LobbyFull)
        } else {
            lobby.members.push(Member::new(by));
            Answer::Joined
        };
        answer(core, code, by, reply);
    }

    fn on_start(&mut self, core: &mut Core, code: Code, by: &Asker) {
        let Some(lobby) = self.lobbies.get_mut(&code) else {
            return miss(core, Some(code), by);
        };
        if !lobby.has(by.session) {
            return answer(core, code, by, Answer::Refused(Refusal::NotAMember));
        }
        if lobby.starts_ms.is_some() {
            return answer(core, code, by, Answer::Refused(Refusal::AlreadyStarted));
        }
        let starts_ms = core.now_ms + PATIENCE_MS;
        lobby.starts_ms = Some(starts_ms);
        self.deadlines.set(code, &mut lobby.due_ms, starts_ms);
        answer(core, code, by, Answer::Started);
        for member in &lobby.members {
            let session = member.session;
            core.send(member.home, ToSession::Called { session, code }.into());
        }
    }

    fn on_left(&mut self, core: &mut Core, code: Code, session: SessionId) {
        let Some(lobby) = self.lobbies.get_mut(&code) else {
            return;
        };
        lobby.members.retain(|member| member.session != session);
        match lobby.members.is_empty() {
            true => drop(self.remove(core, code)),
            false => self.go_if_ready(core, code),
        }
    }

    fn go_if_ready(&mut self, core: &mut Core, code: Code) {
        let lobby = self.lobbies.get(&code);
        if lobby
            .is_some_and(|lobby| lobby.starts_ms.is_some() && lobby.members.iter().all(|member| member.at.is_some()))
        {
            self.go(core, code);
        }
    }

    /// Tells the members whose addresses are known of each other. The lobby is over.
    fn go(&mut self, core: &mut Core, code: Code) {
        let Some(lobby) = self.remove(core, code) else {
            return;
        };
        for (at, member) in lobby.members.iter().enumerate() {
            let others = lobby.members.iter().enumerate().filter(|(other, _)| *other != at);
            let mut bytes = 0;
            let mut fits = |peer: &SocketAddr| {
                // A session whose datagrams come from the other family than its connection may need more than was set aside.
                bytes += endpoint_bytes_max(peer.ip());
                bytes <= ENDPOINTS_BYTES_MAX
            };
            let others = others.filter_map(|(_, other)| other.at);
            let peers = member.at.map(|_| others.take_while(&mut fits).collect());
            let session = member.session;
            core.send(member.home, ToSession::Over { session, peers }.into());
        }
    }

    fn remove(&mut self, core: &mut Core, code: Code) -> Option<Lobby> {
        let lobby = self.lobbies.remove(&code)?;
        self.deadlines.clear(code, lobby.due_ms);
        core.permits.matchmaker_lobbies.release();
        Some(lobby)
    }

    /// Starts without the members that were never heard; ends what is too old.
    pub(super) fn handle_timeout(&mut self, core: &mut Core) {
        while let Some((_, code)) = self.deadlines.pop(core.now_ms) {
            let Some(lobby) = self.lobbies.get_mut(&code) else {
                continue;
            };
            lobby.due_ms = 0;
            if lobby.starts_ms.is_some() {
                self.go(core, code);
                continue;
            }
            for member in self.remove(core, code).into_iter().flat_map(|lobby| lobby.members) {
                let session = member.session;
                core.send(member.home, ToSession::Gone { session, code }.into());
            }
        }
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.deadlines.next_ms()
    }
}

impl Member {
    fn new(asker: &Asker) -> Self {
        Self {
            session: asker.session,
            home: asker.home,
            bytes_max: endpoint_bytes_max(asker.remote.ip()),
            at: None,
        }
    }
}

fn answer(core: &mut Core, code: Code, to: &Asker, answer: Answer) {
    core.send(to.home, to.answered(Some(code), answer).into());
}

/// There is no such lobby: that is told to those who have not guessed too often.
pub(super) fn miss(core: &mut Core, code: Option<Code>, by: &Asker) {
    let refused = |refusal| (by.home, by.answered(code, Answer::Refused(refusal)).into());
    core.guard_awaited(Guarded {
        prefix: Prefix::of(by.remote.ip()),
        guard: Guard::Count(Counted::MatchmakerMiss),
        granted: refused(Refusal::LobbyNotFound),
        refused: Some(refused(Refusal::RateLimited)),
    });
}

impl Asker {
    /// What its session's loop is told.
    pub(super) fn answered(&self, code: Option<Code>, answer: Answer) -> ToSession {
        ToSession::Answered {
            conn: self.conn,
            session: self.session,
            code,
            answer,
        }
    }
}

/// Members of a lobby.
const MEMBERS_MAX: usize = 16;
/// How long a start waits for a member that was not heard over UDP: clients try again after five seconds.
const PATIENCE_MS: u64 = 6_000;
/// How old a lobby may become.
const AGE_MAX_MS: u64 = 24 * 3_600_000;
