//! The state of the protobuf dialect (natpunch).
//!
//! A client's record lives where its id has its home. Ids are drawn until that is the loop which receives the client's
//! datagrams; only after a client's NAT gave it another port another loop may receive them, which then knows whose they
//! are and passes them on. So what one client asks reaches every other loop from one place, in order. A lobby lives at the
//! home of its id and itself tells its members what it has to tell: that leaves in order too. Every loop has a directory
//! of all lobbies, and answers lists from it.
//!
//! Owns: the clients and lobbies at home here, whose datagrams arrive here and are another loop's, the directory.
//! Never: knows a wire format.

mod directory;
mod lobbies;
mod records;
mod registration;
mod requests;
mod sweep;

use std::net::SocketAddr;
use std::sync::Arc;

use self::directory::Directory;
use self::lobbies::Lobbies;
use self::records::Records;
use self::sweep::Sweep;
use super::{Core, Event, Homes};
use crate::ids::LoopId;
use crate::message::natpunch::{Ask, Client, ClientId, Event as Word, Lobby, LobbyId, Refusal, Request};
use crate::message::punch::{Dropped, Path};

/// What loops tell each other about it.
#[derive(Debug)]
pub enum Mail {
    /// An address may be registered: its prefix has not registered too often. For the loop that receives it.
    Register(Box<Registration>),
    /// A request of a client that has its home elsewhere.
    Forward(Box<Forward>),
    /// An address is a client's, whose home this comes from.
    Bind {
        /// Whose.
        client: ClientId,
        /// Which.
        remote: SocketAddr,
    },
    /// It is so no longer.
    Unbind {
        /// Whose it was.
        client: ClientId,
        /// Which.
        remote: SocketAddr,
    },
    /// To a client's home: its address was registered anew.
    Replaced {
        /// Whose it was.
        client: ClientId,
        /// Which.
        remote: SocketAddr,
    },
    /// To a lobby's home: what a client asks.
    Lobby(Box<ForLobby>),
    /// To a client's home: a lobby waits for it to meet the host.
    Pending {
        /// Whom it waits for.
        client: ClientId,
        /// Which.
        lobby: LobbyId,
        /// Which of the client's joins it is.
        attempt: u32,
    },
    /// To a client's home: it is a member.
    Joined {
        /// Who.
        client: ClientId,
        /// Where.
        lobby: LobbyId,
        /// By which address the lobby knows it.
        remote: SocketAddr,
    },
    /// To a client's home: it asked to be a member no longer, and is not.
    Left {
        /// Who.
        client: ClientId,
        /// Where.
        lobby: LobbyId,
    },
    /// To every loop: a lobby as it stands.
    Listed {
        /// It.
        lobby: Arc<Lobby>,
        /// The younger, the higher.
        number: u64,
    },
    /// To every loop: a lobby is no more.
    Unlisted(LobbyId),
}

/// A registration to be made.
#[derive(Debug)]
pub struct Registration {
    path: Path,
    local: Option<SocketAddr>,
    bytes: u32,
    received_ms: u64,
}

/// A request on its way to its sender's home.
#[derive(Debug)]
pub struct Forward {
    /// The loop that receives the sender's datagrams.
    at: LoopId,
    client: ClientId,
    path: Path,
    request: Request,
}

/// What a client's home tells a lobby's.
#[derive(Debug)]
pub struct ForLobby {
    lobby: LobbyId,
    client: ClientId,
    what: LobbyAsk,
}

#[derive(Debug)]
enum LobbyAsk {
    /// It would join: its `attempt`th join.
    Join { client: Client, attempt: u32 },
    /// It would leave, and is answered there.
    Leave { path: Path },
    /// It has met a joiner, it says.
    Ready { peer: ClientId },
    /// It is gone.
    Gone,
    /// It joins another lobby.
    Cancel { attempt: u32 },
    /// Its address changed.
    Moved { client: Client },
}

/// What a loop holds of this dialect.
#[derive(Debug)]
pub(super) struct Clients {
    records: Records,
    sweep: Sweep,
    lobbies: Lobbies,
    directory: Directory,
}

impl Clients {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            records: Records::new(homes),
            sweep: Sweep::default(),
            lobbies: Lobbies::new(homes),
            directory: Directory::new(homes),
        }
    }

    /// Whether an address is registered.
    pub(super) fn knows(&self, remote: &SocketAddr) -> bool {
        self.records.knows(remote)
    }

    /// Clients and lobbies at home here.
    pub(super) fn census(&self) -> (usize, usize) {
        (self.records.len(), self.lobbies.len())
    }

    pub(super) fn handle_request(&mut self, core: &mut Core, path: Path, request: Request) {
        if let Some(at) = self.records.at(&path.remote) {
            self.on_client(core, at, path, request);
        } else if let Ask::Register { local } = request.ask {
            self.ask_guard(core, path, local, request.bytes);
        } else if let Some(client) = self.records.bound(&path.remote) {
            self.forward(core, client, path, request);
        } else if let Some(client) = kept_alive(&request.ask) {
            self.forward(core, client, path, request);
        } else {
            self.on_stranger(core, path, request);
        }
    }

    pub(super) fn handle_mail(&mut self, core: &mut Core, mail: Mail) {
        match mail {
            Mail::Register(registration) => self.on_register(core, *registration),
            Mail::Forward(forward) => self.on_forward(core, *forward),
            Mail::Bind { client, remote } => self.on_bind(core, client, remote),
            Mail::Unbind { client, remote } => self.records.unbind(client, &remote),
            Mail::Replaced { client, remote } => self.on_replaced(core, client, remote),
            Mail::Lobby(ask) => self.on_lobby(core, *ask),
            Mail::Pending { client, lobby, attempt } => self.on_pending(core, client, lobby, attempt),
            Mail::Joined { client, lobby, remote } => self.on_joined(core, client, lobby, remote),
            Mail::Left { client, lobby } => self.on_left(client, lobby),
            Mail::Listed { lobby, number } => self.directory.put(lobby, number),
            Mail::Unlisted(lobby) => self.directory.remove(lobby),
        }
    }

    /// Ends what is over.
    pub(super) fn handle_timeout(&mut self, core: &mut Core) {
        self.purge(core);
        self.lobbies.expire(core);
    }

    /// When [`Clients::handle_timeout`] has something to do next, in milliseconds; None: nothing is due.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        [self.sweep.poll_timeout(), self.lobbies.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Passes a request on to its sender's home.
    fn forward(&mut self, core: &mut Core, client: ClientId, path: Path, request: Request) {
        let home = core.homes.of_key(&client);
        let forward = Forward {
            at: core.id,
            client,
            path,
            request,
        };
        core.send_request(home, Mail::Forward(Box::new(forward)).into());
    }

    fn on_forward(&mut self, core: &mut Core, forward: Forward) {
        let Forward {
            at,
            client,
            path,
            request,
        } = forward;
        let Some(slot) = self.records.find(client) else {
            return self.on_stranger(core, path, request);
        };
        if self.records.remote(slot) == path.remote {
            return self.on_client(core, slot, path, request);
        }
        match kept_alive(&request.ask) {
            Some(claimed) if claimed == client => self.on_other_port(core, slot, at, path),
            _ => self.on_stranger(core, path, request),
        }
    }

    /// A request from an address without a registration: it is answered out of its own bytes, or not at all.
    fn on_stranger(&mut self, core: &mut Core, path: Path, request: Request) {
        let budget = request.bytes.saturating_mul(AMPLIFICATION);
        let answer = match request.ask {
            Ask::Create { .. } | Ask::Join { .. } | Ask::Leave { .. } => Some(Word::Refused(Refusal::NotRegistered)),
            Ask::List { request_id } => self.directory.list(request_id, None, budget as usize),
            Ask::Register { .. } | Ask::KeepAlive { .. } | Ask::Ready { .. } | Ask::Connect { .. } | Ask::Debug => {
                return core.drop(Dropped::NotAllowed);
            }
        };
        match answer {
            Some(answer) if answer.datagram_len() <= budget as usize => core.tell(path, Event::Natpunch(answer)),
            _ => core.drop(Dropped::RateLimited),
        }
    }
}

/// Whose keep-alive it is.
fn kept_alive(ask: &Ask) -> Option<ClientId> {
    match ask {
        Ask::KeepAlive { client_id } => ClientId::parse(client_id),
        _ => None,
    }
}

impl From<Mail> for super::Mail {
    fn from(mail: Mail) -> Self {
        Self::Natpunch(mail)
    }
}

/// Bytes that an address gets for one of its own before it has proved to receive them.
const AMPLIFICATION: u32 = 3;
