//! Punching: sessions and lobbies by which programs behind NATs find each other, as state machines without IO.
//!
//! One [`Punch`] runs beside the shard of each loop. It is told the requests that a loop's datagrams and lines hold, mail
//! from the other loops, and the time; it says which datagrams, lines and mail leave. A session or lobby lives at the home
//! of its id, what counts for a client IP at the home of its prefix, and what a loop must know of an address at the loop
//! where the kernel delivers that address's datagrams: the same one for each bound address of ours.
//!
//! Owns: one state for each dialect, and what they share: limits, the way to other loops, what is counted.
//! Never: owns a socket, reads a clock, or knows a wire format.

mod guard;
mod limits;
mod matchmaker;
mod natpunch;
mod simple;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

pub use guard::{Counted, Guard, Guarded, Held, Release};
pub use limits::{Limits, Permits, ShareLocal};

use crate::ids::{ConnId, Homes, LoopId, Prefix};
use crate::message::punch::{Dropped, Path};
use crate::message::{matchmaker as lobby_words, natpunch as natpunch_words, simple as simple_words};

/// What loops tell each other about punching.
#[derive(Debug)]
pub enum Mail {
    /// The ASCII dialect.
    Simple(simple::Mail),
    /// The protobuf dialect.
    Natpunch(natpunch::Mail),
    /// The lobby dialect.
    Matchmaker(matchmaker::Mail),
    /// A request that a bound of its sender's prefix applies to.
    Guarded(Box<Guarded>),
    /// Something of a prefix's is given back.
    Release(Release),
}

/// What a client is told.
#[derive(Debug)]
pub enum Event {
    /// The ASCII dialect.
    Simple(simple_words::Event),
    /// The protobuf dialect.
    Natpunch(natpunch_words::Event),
    /// The lobby dialect.
    Matchmaker(lobby_words::Event),
}

/// One thing to do, in the order produced.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram.
    Datagram {
        /// Where, and from which of our addresses.
        path: Path,
        /// What.
        event: Event,
    },
    /// Tell a connection of the lobby dialect.
    Connection {
        /// Which.
        conn: ConnId,
        /// What.
        told: lobby_words::Told,
    },
    /// Mail for another loop.
    Mail {
        /// The loop.
        to: LoopId,
        /// What.
        mail: Mail,
        /// A stranger's datagram caused it, and its sender will try again: it may be dropped when that loop is behind.
        droppable: bool,
    },
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Datagrams and requests that came to nothing, by [`Dropped`].
    pub dropped: [u64; Dropped::ALL.len()],
}

/// What one loop holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Sessions of the lobby dialect.
    pub matchmaker_sessions: usize,
    /// Lobbies of it.
    pub matchmaker_lobbies: usize,
    /// Clients of the protobuf dialect at home there.
    pub natpunch_clients: usize,
    /// Lobbies of the protobuf dialect at home there.
    pub natpunch_lobbies: usize,
    /// Sessions of the ASCII dialect.
    pub simple_sessions: usize,
}

/// What every dialect's state works with.
struct Core {
    id: LoopId,
    homes: Homes,
    limits: Arc<Limits>,
    permits: Arc<Permits>,
    random: StdRng,
    /// The time of this call, in milliseconds of the loop's clock.
    now_ms: u64,
    counters: Counters,
    outputs: VecDeque<Output>,
    /// Mail to itself: handled before the call that caused it returns.
    own: VecDeque<Mail>,
}

impl Core {
    /// Sends mail that must arrive. What causes it is bounded: it ends or answers something that is held.
    fn send(&mut self, to: LoopId, mail: Mail) {
        self.post(to, mail, false);
    }

    /// Sends mail that a stranger's datagram caused and that may be lost: the client repeats its request.
    fn send_request(&mut self, to: LoopId, mail: Mail) {
        self.post(to, mail, true);
    }

    fn post(&mut self, to: LoopId, mail: Mail, droppable: bool) {
        match to == self.id {
            true => self.own.push_back(mail),
            false => self.outputs.push_back(Output::Mail { to, mail, droppable }),
        }
    }

    /// Sends a datagram.
    fn tell(&mut self, path: Path, event: Event) {
        self.outputs.push_back(Output::Datagram { path, event });
    }

    /// Tells a connection.
    fn inform(&mut self, conn: ConnId, told: lobby_words::Told) {
        self.outputs.push_back(Output::Connection { conn, told });
    }

    /// Counts a request that comes to nothing.
    fn drop(&mut self, reason: Dropped) {
        self.counters.dropped[reason as usize] += 1;
    }

    /// Has a request checked at the home of its sender's prefix.
    fn guard(&mut self, guarded: Guarded) {
        let home = self.homes.of_prefix(guarded.prefix);
        self.send_request(home, Mail::Guarded(Box::new(guarded)));
    }

    /// The same for the one request of a connection, which waits until it is answered.
    fn guard_awaited(&mut self, guarded: Guarded) {
        let home = self.homes.of_prefix(guarded.prefix);
        self.send(home, Mail::Guarded(Box::new(guarded)));
    }

    /// Gives back what a prefix held.
    fn release(&mut self, remote: SocketAddr, held: Held) {
        let prefix = Prefix::of(remote.ip());
        let home = self.homes.of_prefix(prefix);
        self.send(home, Mail::Release(Release { prefix, held }));
    }
}

/// All punch state of one loop.
pub struct Punch {
    core: Core,
    guards: guard::Guards,
    simple: simple::Sessions,
    natpunch: natpunch::Clients,
    matchmaker: matchmaker::Matchmaker,
}

impl Punch {
    /// Nothing yet, on loop `id`. `seed` makes ids and codes: it must be secret and random outside of tests.
    pub fn new(id: LoopId, homes: Homes, limits: Arc<Limits>, permits: Arc<Permits>, seed: [u8; 32]) -> Self {
        Self {
            guards: guard::Guards::new(&homes),
            simple: simple::Sessions::new(&homes),
            natpunch: natpunch::Clients::new(&homes),
            matchmaker: matchmaker::Matchmaker::new(&homes),
            core: Core {
                id,
                homes,
                limits,
                permits,
                random: StdRng::from_seed(seed),
                now_ms: 0,
                counters: Counters::default(),
                outputs: VecDeque::new(),
                own: VecDeque::new(),
            },
        }
    }

    /// Takes a request of the ASCII dialect.
    pub fn handle_simple(&mut self, path: Path, request: simple_words::Request<'_>, now_ms: u64) {
        self.core.now_ms = now_ms;
        self.simple.handle_request(&mut self.core, path, request);
        self.settle();
    }

    /// Takes a request of the protobuf dialect.
    pub fn handle_natpunch(&mut self, path: Path, request: natpunch_words::Request, now_ms: u64) {
        self.core.now_ms = now_ms;
        self.natpunch.handle_request(&mut self.core, path, request);
        self.settle();
    }

    /// Takes a datagram of the lobby dialect.
    pub fn handle_matchmaker(&mut self, path: Path, request: lobby_words::Request, now_ms: u64) {
        self.core.now_ms = now_ms;
        self.matchmaker.handle_request(&mut self.core, path, request);
        self.settle();
    }

    /// A connection begins to speak the lobby dialect. [`lobby_words::Told::Admitted`] follows, or its end.
    pub fn open_matchmaker(&mut self, conn: ConnId, remote: SocketAddr, now_ms: u64) {
        self.core.now_ms = now_ms;
        self.matchmaker.handle_open(&mut self.core, conn, remote);
        self.settle();
    }

    /// Takes a request of such a connection, which may ask again when it is answered: that is exactly once.
    pub fn ask_matchmaker(&mut self, conn: ConnId, ask: lobby_words::Ask, now_ms: u64) {
        self.core.now_ms = now_ms;
        self.matchmaker.handle_ask(&mut self.core, conn, ask);
        self.settle();
    }

    /// Such a connection is closed; it is told nothing any more.
    pub fn close_matchmaker(&mut self, conn: ConnId, now_ms: u64) {
        self.core.now_ms = now_ms;
        self.matchmaker.handle_close(&mut self.core, conn);
        self.settle();
    }

    /// Takes mail of another loop.
    pub fn handle_mail(&mut self, mail: Mail, now_ms: u64) {
        self.core.now_ms = now_ms;
        self.on_mail(mail);
        self.settle();
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.core.now_ms = now_ms;
        self.simple.handle_timeout(&mut self.core);
        self.natpunch.handle_timeout(&mut self.core);
        self.matchmaker.handle_timeout(&mut self.core);
        self.settle();
    }

    /// When [`Punch::handle_timeout`] is to be called next, in milliseconds; None: nothing is due.
    pub fn poll_timeout(&self) -> Option<u64> {
        [
            self.simple.poll_timeout(),
            self.natpunch.poll_timeout(),
            self.matchmaker.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.core.outputs.pop_front()
    }

    /// Whether an address is registered in the protobuf dialect: datagrams of any other dialect from it are dropped.
    pub fn is_natpunch(&self, remote: &SocketAddr) -> bool {
        self.natpunch.knows(remote)
    }

    /// What is here now.
    pub fn census(&self) -> Census {
        let (natpunch_clients, natpunch_lobbies) = self.natpunch.census();
        let (matchmaker_sessions, matchmaker_lobbies) = self.matchmaker.census();
        Census {
            simple_sessions: self.simple.len(),
            natpunch_clients,
            natpunch_lobbies,
            matchmaker_sessions,
            matchmaker_lobbies,
        }
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// Counts a datagram that came to nothing before or after it was here.
    pub fn count_dropped(&mut self, reason: Dropped) {
        self.core.drop(reason);
    }

    fn on_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Simple(mail) => self.simple.handle_mail(&mut self.core, mail),
            Mail::Natpunch(mail) => self.natpunch.handle_mail(&mut self.core, mail),
            Mail::Matchmaker(mail) => self.matchmaker.handle_mail(&mut self.core, mail),
            Mail::Guarded(guarded) => self.on_guarded(*guarded),
            Mail::Release(release) => self.guards.release(release),
        }
    }

    fn on_guarded(&mut self, guarded: Guarded) {
        let core = &mut self.core;
        let admitted = self
            .guards
            .admits(guarded.prefix, guarded.guard, &core.limits, core.now_ms);
        match (admitted, guarded.refused) {
            // What was taken must not be lost on the way.
            (true, _) => core.send(guarded.granted.0, guarded.granted.1),
            // A connection waits for this one.
            (false, Some((to, mail @ Mail::Matchmaker(_)))) => core.send(to, mail),
            (false, Some((to, mail))) => core.send_request(to, mail),
            (false, None) => core.drop(match guarded.guard {
                Guard::Take(_) => Dropped::Full,
                Guard::Count(_) | Guard::Below(_) => Dropped::RateLimited,
            }),
        }
    }

    /// Handles the mail that this loop wrote to itself.
    fn settle(&mut self) {
        while let Some(mail) = self.core.own.pop_front() {
            self.on_mail(mail);
        }
    }
}
