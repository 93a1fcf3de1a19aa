//! Connections of the lobby dialect, and the sessions that they were given, on the loop of the connection.
//!
//! A connection asks one thing at a time and is told one thing for it. A session belongs to its connection and outlives it
//! by ten seconds, in which a lobby that has started may still call for it.
//!
//! Owns: who may ask what, which address is believed to be a session's, and when a session is over.
//! Never: sends a datagram; the address's loop does.

use std::net::SocketAddr;

use ahash::RandomState;
use hashbrown::HashMap;

use super::deadlines::Deadlines;
use super::lobbies::miss;
use super::mail::{Answer, Asker, ToEndpoint, ToLobby, ToSession};
use super::{Core, Homes, endpoints};
use crate::ids::{ConnId, LoopId, Prefix};
use crate::message::matchmaker::{Ask, Code, Refusal, Reply, SessionId, Told};
use crate::message::punch::{Dropped, Path};
use crate::shard::punch::{Counted, Guard, Guarded, Held, Limits};

#[derive(Debug)]
struct Client {
    remote: SocketAddr,
    stage: Stage,
    sessions: Vec<SessionId>,
    /// When it last asked something.
    heard_ms: u64,
    due_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The home of its prefix is asked whether it may be here.
    Admitting,
    /// It may ask.
    Idle,
    /// It awaits an answer.
    Asking,
}

#[derive(Debug)]
struct Session {
    conn: ConnId,
    remote: SocketAddr,
    /// Its connection closed then.
    closed_ms: Option<u64>,
    heard_ms: u64,
    endpoint: Option<Endpoint>,
    /// The address may be replaced again from then on.
    replace_ms: u64,
    /// Sequence numbers that were acknowledged, and until when they are not again.
    acknowledged: [(u16, u64); ACKS_KEPT],
    lobbies: Vec<Code>,
    course: Course,
    due_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Endpoint {
    path: Path,
    /// Where its datagrams arrive.
    home: LoopId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// It may be in lobbies.
    Open,
    /// One of them starts; the others were left.
    Called(Code),
    /// It has started.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Client(ConnId),
    Session(SessionId),
}

/// Connections and sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    clients: HashMap<ConnId, Client, RandomState>,
    sessions: HashMap<SessionId, Session, RandomState>,
    deadlines: Deadlines<Due>,
}

impl Sessions {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            clients: HashMap::with_hasher(homes.hasher()),
            sessions: HashMap::with_hasher(homes.hasher()),
            deadlines: Deadlines::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.sessions.is_empty() && self.deadlines.next_ms().is_none()
    }

    /// A connection speaks this dialect. It is told when it may ask.
    pub(super) fn open(&mut self, core: &mut Core, conn: ConnId, remote: SocketAddr) {
        if !core
            .permits
            .matchmaker_connections
            .take(Limits::at_most(core.limits.matchmaker_connections_max))
        {
            core.drop(Dropped::Full);
            return core.inform(conn, Told::Closed);
        }
        let client = self.clients.entry(conn).insert(Client {
            remote,
            stage: Stage::Admitting,
            sessions: Vec::new(),
            heard_ms: core.now_ms,
            due_ms: 0,
        });
        let due_ms = core.now_ms + SILENT_MS;
        self.deadlines
            .set(Due::Client(conn), &mut client.into_mut().due_ms, due_ms);
        let admitted = |granted| ToSession::Admitted { conn, remote, granted }.into();
        core.guard_awaited(Guarded {
            prefix: Prefix::of(remote.ip()),
            guard: Guard::Take(Held::MatchmakerConnection),
            granted: (core.id, admitted(true)),
            refused: Some((core.id, admitted(false))),
        });
    }

    /// A connection asks; it is answered exactly once, before it may ask again.
    pub(super) fn ask(&mut self, core: &mut Core, conn: ConnId, ask: Ask) {
        let Some(client) = self.clients.get_mut(&conn) else {
            return;
        };
        if client.stage != Stage::Idle {
            debug_assert!(false, "asked before the last answer");
            return;
        }
        client.stage = Stage::Asking;
        client.heard_ms = core.now_ms;
        for session in &client.sessions {
            if let Some(session) = self.sessions.get_mut(session) {
                session.heard_ms = core.now_ms;
            }
        }
        let remote = client.remote;
        let refusal = match ask {
            Ask::NewClient => {
                let granted = |granted| ToSession::Granted { conn, remote, granted }.into();
                return core.guard_awaited(Guarded {
                    prefix: Prefix::of(remote.ip()),
                    guard: Guard::Take(Held::MatchmakerSession),
                    granted: (core.id, granted(true)),
                    refused: Some((core.id, granted(false))),
                });
            }
            Ask::Create { session } => match self.asker(core, conn, session) {
                Ok(by) if self.has_room(core, by.session) => return create(core, by),
                Ok(_) => Refusal::RateLimited,
                Err(refusal) => refusal,
            },
            Ask::Join { code, session } => match self.asker(core, conn, session) {
                Ok(by) => return self.join(core, code, by),
                Err(refusal) => refusal,
            },
            Ask::Start { code, session } => match self.asker(core, conn, session) {
                Ok(by) => return self.start(core, code, by),
                Err(refusal) => refusal,
            },
            Ask::Unknown => Refusal::UnknownType,
            Ask::Bad => Refusal::BadRequest,
        };
        self.reply(core, conn, Reply::Refused(refusal));
    }

    /// The session that a request names, if it is this connection's and in the open.
    fn asker(&self, core: &Core, conn: ConnId, session: Option<SessionId>) -> Result<Asker, Refusal> {
        let found = session.and_then(|id| self.sessions.get(&id).map(|session| (id, session)));
        match found.filter(|(_, session)| session.conn == conn) {
            None => Err(Refusal::UnknownSession),
            Some((_, session)) if session.course != Course::Open => Err(Refusal::AlreadyStarted),
            Some((id, session)) => Ok(Asker {
                session: id,
                conn,
                home: core.id,
                remote: session.remote,
            }),
        }
    }

    fn has_room(&self, core: &Core, session: SessionId) -> bool {
        let lobbies = self.sessions.get(&session).map_or(0, |session| session.lobbies.len());
        lobbies < Limits::at_most(core.limits.matchmaker_lobbies_per_session)
    }

    fn is_member(&self, session: SessionId, code: Code) -> bool {
        self.sessions
            .get(&session)
            .is_some_and(|session| session.lobbies.contains(&code))
    }

    fn join(&mut self, core: &mut Core, code: Option<Code>, by: Asker) {
        match code {
            None => miss(core, None, &by),
            Some(code) if self.is_member(by.session, code) => self.reply(core, by.conn, Reply::Done),
            Some(_) if !self.has_room(core, by.session) => {
                self.reply(core, by.conn, Reply::Refused(Refusal::RateLimited));
            }
            Some(code) => guess(core, code, &by, ToLobby::Join { code, by }),
        }
    }

    fn start(&mut self, core: &mut Core, code: Option<Code>, by: Asker) {
        match code {
            None => miss(core, None, &by),
            Some(code) if self.is_member(by.session, code) => {
                core.send(core.homes.of_key(&code), ToLobby::Start { code, by }.into());
            }
            Some(code) => guess(core, code, &by, ToLobby::Start { code, by }),
        }
    }

    fn reply(&mut self, core: &mut Core, conn: ConnId, reply: Reply) {
        if let Some(client) = self.clients.get_mut(&conn) {
            debug_assert_eq!(client.stage, Stage::Asking, "one answer for one request");
            client.stage = Stage::Idle;
            core.inform(conn, Told::Reply(reply));
        }
    }

    pub(super) fn handle_mail(&mut self, core: &mut Core, mail: ToSession) {
        match mail {
            ToSession::Admitted { conn, remote, granted } => self.on_admitted(core, conn, remote, granted),
            ToSession::Granted { conn, remote, granted } => self.on_granted(core, conn, remote, granted),
            ToSession::Answered {
                conn,
                session,
                code,
                answer,
            } => self.on_answered(core, conn, session, code, answer),
            ToSession::Claimed {
                session,
                path,
                sequence,
                from,
            } => self.on_claimed(core, session, path, sequence, from),
            ToSession::Taken { session, path } => {
                let session = self.sessions.get_mut(&session);
                if let Some(session) = session.filter(|session| session.is_at(&path)) {
                    session.endpoint = None;
                }
            }
            ToSession::Heard { session } => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.heard_ms = core.now_ms;
                }
            }
            ToSession::Called { session, code } => self.on_called(core, session, code),
            ToSession::Over { session, peers } => self.on_over(core, session, peers),
            ToSession::Gone { session, code } => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.lobbies.retain(|lobby| *lobby != code);
                }
            }
        }
    }

    fn on_admitted(&mut self, core: &mut Core, conn: ConnId, remote: SocketAddr, granted: bool) {
        match self.clients.get_mut(&conn) {
            Some(client) if granted => {
                client.stage = Stage::Idle;
                core.inform(conn, Told::Admitted);
            }
            // It closed meanwhile.
            None if granted => core.release(remote, Held::MatchmakerConnection),
            client => {
                core.drop(Dropped::Full);
                if client.is_some() {
                    core.inform(conn, Told::Closed);
                    self.close(core, conn);
                }
            }
        }
    }

    fn on_granted(&mut self, core: &mut Core, conn: ConnId, remote: SocketAddr, granted: bool) {
        let most = Limits::at_most(core.limits.sessions_max);
        let client = self.clients.get_mut(&conn).filter(|_| granted);
        let Some(client) = client.filter(|_| core.permits.matchmaker_sessions.take(most)) else {
            if granted {
                core.release(remote, Held::MatchmakerSession);
            }
            return self.reply(core, conn, Reply::Refused(Refusal::RateLimited));
        };
        let id = loop {
            let id = SessionId::random(&mut core.random);
            if core.homes.of_key(&id) == core.id && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        client.sessions.push(id);
        let mut session = Session {
            conn,
            remote,
            closed_ms: None,
            heard_ms: core.now_ms,
            endpoint: None,
            replace_ms: 0,
            acknowledged: [(0, 0); ACKS_KEPT],
            lobbies: Vec::new(),
            course: Course::Open,
            due_ms: 0,
        };
        let due_ms = session.over_ms();
        self.deadlines.set(Due::Session(id), &mut session.due_ms, due_ms);
        self.sessions.insert(id, session);
        self.reply(core, conn, Reply::Session(id));
    }

    fn on_answered(&mut self, core: &mut Core, conn: ConnId, id: SessionId, code: Option<Code>, answer: Answer) {
        let mut session = self.sessions.get_mut(&id);
        let reply = match (answer, code) {
            (Answer::Created | Answer::Joined, Some(code)) => {
                match session.as_mut().filter(|session| session.course == Course::Open) {
                    Some(session) => {
                        if !session.lobbies.contains(&code) {
                            session.lobbies.push(code);
                        }
                        match answer {
                            Answer::Created => Reply::Code(code),
                            _ => Reply::Done,
                        }
                    }
                    // Another of its lobbies started meanwhile, or it is over.
                    None => {
                        leave(core, id, code);
                        Reply::Refused(Refusal::AlreadyStarted)
                    }
                }
            }
            (Answer::Collides, _) => match (self.clients.contains_key(&conn), session) {
                (true, Some(session)) => {
                    let remote = session.remote;
                    let home = core.id;
                    return create(
                        core,
                        Asker {
                            session: id,
                            conn,
                            home,
                            remote,
                        },
                    );
                }
                _ => Reply::Refused(Refusal::UnknownSession),
            },
            (Answer::Refused(refusal), _) => Reply::Refused(refusal),
            (Answer::Started | Answer::Created | Answer::Joined, _) => Reply::Done,
        };
        self.reply(core, conn, reply);
    }

    fn on_claimed(&mut self, core: &mut Core, id: SessionId, path: Path, sequence: u16, from: LoopId) {
        // An unknown id is not told from a known one, and gets no byte.
        let Some(session) = self
            .sessions
            .get_mut(&id)
            .filter(|session| session.course != Course::Over)
        else {
            return core.drop(Dropped::NotAllowed);
        };
        let (now_ms, same) = (core.now_ms, session.is_at(&path));
        let replaced = session.endpoint.filter(|_| !same);
        if replaced.is_some() && session.course != Course::Open {
            return core.drop(Dropped::NotAllowed);
        }
        if replaced.is_some() && now_ms < session.replace_ms {
            return core.drop(Dropped::RateLimited);
        }
        // A new address is believed also where its claim must not be acknowledged once more.
        let sequence = session.may_acknowledge(sequence, now_ms).then_some(sequence);
        if sequence.is_none() && same {
            return core.drop(Dropped::RateLimited);
        }
        if let Some(old) = replaced {
            session.replace_ms = now_ms + REPLACE_MS;
            let remote = old.path.remote;
            core.send(old.home, ToEndpoint::Unbind { remote, session: id }.into());
        }
        session.endpoint = Some(Endpoint { path, home: from });
        session.heard_ms = now_ms;
        let bind = ToEndpoint::Bind {
            path,
            session: id,
            home: core.id,
            sequence,
        };
        core.send(from, bind.into());
        if let Course::Called(code) = session.course {
            ready(core, id, code, path.remote);
        }
    }

    fn on_called(&mut self, core: &mut Core, id: SessionId, code: Code) {
        let session = self.sessions.get_mut(&id);
        let Some(session) = session.filter(|session| session.course == Course::Open) else {
            // Over, or in another lobby that was faster: this one goes without it.
            return leave(core, id, code);
        };
        session.course = Course::Called(code);
        for other in std::mem::replace(&mut session.lobbies, vec![code]) {
            if other != code {
                leave(core, id, other);
            }
        }
        if let Some(endpoint) = session.endpoint {
            ready(core, id, code, endpoint.path.remote);
        }
    }

    fn on_over(&mut self, core: &mut Core, id: SessionId, peers: Option<Vec<SocketAddr>>) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.course = Course::Over;
        session.lobbies = Vec::new();
        let Some(Endpoint { path, home }) = session.endpoint.take() else {
            return;
        };
        let mail = match peers {
            Some(peers) => ToEndpoint::Deliver {
                path,
                session: id,
                home: core.id,
                peers,
            },
            None => ToEndpoint::Unbind {
                remote: path.remote,
                session: id,
            },
        };
        core.send(home, mail.into());
    }

    /// A connection is closed.
    pub(super) fn close(&mut self, core: &mut Core, conn: ConnId) {
        let Some(client) = self.clients.remove(&conn) else {
            return;
        };
        self.deadlines.clear(Due::Client(conn), client.due_ms);
        core.permits.matchmaker_connections.release();
        if client.stage != Stage::Admitting {
            core.release(client.remote, Held::MatchmakerConnection);
        }
        for id in client.sessions {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.closed_ms = Some(core.now_ms);
                let due_ms = session.over_ms();
                self.deadlines.set(Due::Session(id), &mut session.due_ms, due_ms);
            }
        }
    }

    /// Ends sessions that are not heard any more, and connections that have none and ask for nothing.
    pub(super) fn handle_timeout(&mut self, core: &mut Core) {
        while let Some((_, due)) = self.deadlines.pop(core.now_ms) {
            match due {
                Due::Client(conn) => self.on_client_due(core, conn),
                Due::Session(id) => self.on_session_due(core, id),
            }
        }
    }

    fn on_client_due(&mut self, core: &mut Core, conn: ConnId) {
        let Some(client) = self.clients.get_mut(&conn) else {
            return;
        };
        client.due_ms = 0;
        let silent = core.now_ms >= client.heard_ms + SILENT_MS;
        if silent && client.stage == Stage::Idle && client.sessions.is_empty() {
            core.inform(conn, Told::Closed);
            return self.close(core, conn);
        }
        let due_ms = match silent {
            true => core.now_ms + SILENT_MS,
            false => client.heard_ms + SILENT_MS,
        };
        self.deadlines.set(Due::Client(conn), &mut client.due_ms, due_ms);
    }

    fn on_session_due(&mut self, core: &mut Core, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.due_ms = 0;
        let over_ms = session.over_ms();
        if core.now_ms < over_ms {
            return self.deadlines.set(Due::Session(id), &mut session.due_ms, over_ms);
        }
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        if let Some(client) = self.clients.get_mut(&session.conn) {
            client.sessions.retain(|other| *other != id);
        }
        core.permits.matchmaker_sessions.release();
        core.release(session.remote, Held::MatchmakerSession);
        for code in session.lobbies {
            leave(core, id, code);
        }
        if let Some(Endpoint { path, home }) = session.endpoint {
            let remote = path.remote;
            core.send(home, ToEndpoint::Unbind { remote, session: id }.into());
        }
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.deadlines.next_ms()
    }
}

impl Session {
    fn is_at(&self, path: &Path) -> bool {
        self.endpoint.is_some_and(|endpoint| endpoint.path == *path)
    }

    /// When it is over if nothing more is heard.
    fn over_ms(&self) -> u64 {
        // Keep alives are told with some delay.
        let untold_ms = if self.endpoint.is_some() {
            endpoints::REPORT_MS
        } else {
            0
        };
        let silent_ms = self.heard_ms + SILENT_MS + untold_ms;
        self.closed_ms
            .map_or(silent_ms, |closed_ms| silent_ms.min(closed_ms + CLOSED_MS))
    }

    /// Whether a claim may be acknowledged: a client that gets two acknowledgements of one claim never hears anything again.
    fn may_acknowledge(&mut self, sequence: u16, now_ms: u64) -> bool {
        let kept = |(_, until_ms): &(u16, u64)| *until_ms > now_ms;
        if self.acknowledged.iter().any(|ack| kept(ack) && ack.0 == sequence) {
            return false;
        }
        let place = self.acknowledged.iter_mut().find(|ack| !kept(ack));
        let free = place.is_some();
        if let Some(place) = place {
            *place = (sequence, now_ms + ACK_AGAIN_MS);
        }
        free
    }
}

fn create(core: &mut Core, by: Asker) {
    let code = Code::random(&mut core.random);
    core.send(core.homes.of_key(&code), ToLobby::Create { code, by }.into());
}

/// Asks for a lobby of which this session may know no more than a guess, unless it has guessed too often.
fn guess(core: &mut Core, code: Code, by: &Asker, mail: ToLobby) {
    let refused = by.answered(Some(code), Answer::Refused(Refusal::RateLimited));
    core.guard_awaited(Guarded {
        prefix: Prefix::of(by.remote.ip()),
        guard: Guard::Below(Counted::MatchmakerMiss),
        granted: (core.homes.of_key(&code), mail.into()),
        refused: Some((core.id, refused.into())),
    });
}

fn leave(core: &mut Core, session: SessionId, code: Code) {
    core.send(core.homes.of_key(&code), ToLobby::Left { code, session }.into());
}

fn ready(core: &mut Core, session: SessionId, code: Code, at: SocketAddr) {
    core.send(core.homes.of_key(&code), ToLobby::Ready { code, session, at }.into());
}

/// A session that is not heard for so long is over, and so is a connection without any.
const SILENT_MS: u64 = 30_000;
/// How long a session outlives its connection.
const CLOSED_MS: u64 = 10_000;
/// Between two replacements of a session's address.
const REPLACE_MS: u64 = 5_000;
/// A sequence number is acknowledged once in this time: clients repeat theirs after five seconds.
const ACK_AGAIN_MS: u64 = 2_000;
/// Sequence numbers that one session may have acknowledged in that time: a client uses one.
const ACKS_KEPT: usize = 4;
