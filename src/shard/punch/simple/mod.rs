//! The state of the ASCII dialect (simple-hole-punch).
//!
//! A session lives where its host's datagrams arrive: its id is drawn for that loop. Random ones, the queue of those who
//! wait for anybody, and whatever else such an address asks live on one loop for all. Answers to addresses that have
//! proved nothing leave from the loop where their datagrams arrive.
//!
//! Owns: the way of requests and answers between loops, and what is known of addresses whose datagrams arrive here.
//! Never: knows a wire format.

mod away;
mod home;
mod joiners;
mod place;
mod queue;
mod replies;
mod table;
#[cfg(test)]
mod tests;

use away::Away;
use home::Home;
use place::Place;
use replies::Replies;

use super::{Core, Event as AnyEvent, Guard, Guarded, Homes, Mail as AnyMail};
use crate::ids::{LoopId, Prefix};
use crate::message::punch::{Dropped, Path};
use crate::message::simple::{Asked, Endpoint, Event, NoSession, Request, SessionId};
use crate::shard::punch::guard::Counted;

/// What loops tell each other about it.
#[derive(Debug)]
pub struct Mail(Letter);

#[derive(Debug)]
enum Letter {
    /// An address that once wanted to meet anybody opens a session.
    Host(Asker, Endpoint),
    /// Somebody wants to meet anybody.
    Random(Asker, Endpoint),
    /// A host's prefix may have one session more.
    Open(Asker, Endpoint),
    /// Somebody joins whose prefix has not guessed too often.
    Join(Asker, SessionId),
    /// A host keeps its session.
    KeepAlive(Place, SessionId),
    /// A host ends its session.
    Complete(Place, SessionId),
    /// What somebody is told whose datagrams arrive where this goes to.
    Answer {
        to: Place,
        /// An answer to an address that has proved nothing: there may be too many.
        counted: bool,
        answer: Answer,
    },
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
struct Asker {
    place: Place,
    /// Its address in its own network, or again the one that we see.
    local: Endpoint,
    /// Where its datagrams arrive.
    at: LoopId,
}

#[derive(Debug)]
enum Answer {
    Registered(SessionId),
    Joined {
        id: SessionId,
        host: Endpoint,
        host_local: Endpoint,
    },
    NoSession(NoSession),
    /// What no request of its receiver caused.
    NewJoiner {
        joiner: Endpoint,
        joiner_local: Endpoint,
    },
}

impl Asker {
    fn remote(&self) -> Endpoint {
        self.place.remote
    }
}

/// What it holds.
#[derive(Debug)]
pub(super) struct Sessions {
    home: Home,
    away: Away,
    replies: Replies,
    /// The loop of everybody who wants to meet anybody.
    random_home: LoopId,
}

impl Sessions {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            home: Home::new(homes),
            away: Away::new(homes),
            replies: Replies::new(homes),
            random_home: homes.of_key(&RANDOM_KEY),
        }
    }

    /// How many sessions are at home here.
    pub(super) fn len(&self) -> usize {
        self.home.len()
    }

    pub(super) fn handle_request(&mut self, core: &mut Core, path: Path, request: Request<'_>) {
        let Some(place) = Place::of(&path) else {
            return core.drop(Dropped::Malformed);
        };
        let asker = |local| Asker {
            place,
            local: home::shareable(local, place.remote),
            at: core.id,
        };
        match request {
            Request::Host { local, server } => {
                let asker = asker(local);
                self.on_asked(core, place.remote, |own, core| own.on_host(core, asker, server));
            }
            Request::Random { local, server } => {
                let asker = asker(local);
                self.on_asked(core, place.remote, |own, core| own.on_random(core, asker, server));
            }
            Request::Join { local, asked } => {
                let asker = asker(local);
                self.on_asked(core, place.remote, |_, core| on_join(core, asker, asked));
            }
            Request::KeepAlive { id } => {
                self.away.touch(place.remote, core.now_ms);
                send_home(core, &id, Letter::KeepAlive(place, id));
            }
            Request::Complete { id } => send_home(core, &id, Letter::Complete(place, id)),
        }
    }

    /// Does what would be answered, if its sender may be told one thing more. What counts is the answer: this spares the
    /// way to other loops.
    fn on_asked(&mut self, core: &mut Core, remote: Endpoint, serve: impl FnOnce(&mut Self, &mut Core)) {
        let elsewhere = self.away.contains(remote) || self.home.is_verified(remote);
        if elsewhere || self.replies.may(remote, &core.limits, core.now_ms) {
            serve(self, core);
        } else {
            core.drop(Dropped::RateLimited);
        }
    }

    fn on_host(&mut self, core: &mut Core, asker: Asker, server: Endpoint) {
        match self.away.touch(asker.remote(), core.now_ms) {
            true => core.send_request(self.random_home, mail(Letter::Host(asker, server))),
            false => self.home.on_host(core, asker, server),
        }
    }

    fn on_random(&mut self, core: &mut Core, asker: Asker, server: Endpoint) {
        if self.random_home == core.id {
            self.home.on_random(core, asker, server);
        } else if !self.home.keeps_its_host(core, asker) {
            self.home.stop_opening(asker.remote());
            self.away.mark(asker.remote(), core.now_ms);
            core.send_request(self.random_home, mail(Letter::Random(asker, server)));
        }
    }

    pub(super) fn handle_mail(&mut self, core: &mut Core, Mail(letter): Mail) {
        match letter {
            Letter::Host(asker, server) => self.home.on_host(core, asker, server),
            Letter::Random(asker, server) => self.home.on_random(core, asker, server),
            Letter::Open(asker, server) => self.home.on_open(core, asker, server),
            Letter::Join(asker, id) => self.home.on_join(core, asker, id),
            Letter::KeepAlive(place, id) => self.home.on_keep_alive(core, place, &id),
            Letter::Complete(place, id) => self.home.on_complete(core, place, &id),
            Letter::Answer { to, counted, answer } => self.on_answer(core, to, counted, answer),
        }
    }

    fn on_answer(&mut self, core: &mut Core, to: Place, counted: bool, answer: Answer) {
        let (remote, now_ms) = (to.remote, core.now_ms);
        // A copy of its request overtook the end of the session: it punches, and must not be told to stop.
        if let Answer::NoSession(NoSession::Id(id)) = &answer
            && self.replies.was_joined(remote, id, now_ms)
        {
            return core.drop(Dropped::NotAllowed);
        }
        let counted = counted && !self.home.is_verified(remote);
        if counted && !self.replies.take(remote, &core.limits, now_ms) {
            return core.drop(Dropped::RateLimited);
        }
        let event = match answer {
            Answer::Registered(id) => Event::Registered { remote, id },
            Answer::Joined { id, host, host_local } => {
                self.replies.remember(remote, id, now_ms);
                Event::Joined {
                    remote,
                    host,
                    host_local,
                }
            }
            Answer::NoSession(asked) => Event::NoSession(asked),
            Answer::NewJoiner { joiner, joiner_local } => Event::NewJoiner { joiner, joiner_local },
        };
        core.tell(to.path(), AnyEvent::Simple(event));
    }

    /// Ends what is over.
    pub(super) fn handle_timeout(&mut self, core: &mut Core) {
        self.home.handle_timeout(core);
        self.away.forget(core.now_ms);
        self.replies.forget(core.now_ms);
    }

    /// When [`Sessions::handle_timeout`] has something to do next, in milliseconds; None: nothing is due.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        [
            self.home.poll_timeout(),
            self.away.poll_timeout(),
            self.replies.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// Sends a joiner to the home of the session it asks for, if it has not guessed too often.
fn on_join(core: &mut Core, asker: Asker, asked: Asked<'_>) {
    match asked {
        Asked::Id(id) => guard(
            core,
            &asker.place,
            Guard::Below(Counted::SimpleMiss),
            core.homes.of_key(&id.code),
            Letter::Join(asker, id),
        ),
        Asked::Odd(_) => on_miss(core, asker, asked.into()),
    }
}

/// A session that is not there was asked for: so much is told to who does not guess.
fn on_miss(core: &mut Core, asker: Asker, asked: NoSession) {
    let letter = Letter::Answer {
        to: asker.place,
        counted: true,
        answer: Answer::NoSession(asked),
    };
    guard(core, &asker.place, Guard::Count(Counted::SimpleMiss), asker.at, letter);
}

/// Has a bound of an address's prefix checked; what keeps it goes to `to`, all else comes to nothing.
fn guard(core: &mut Core, place: &Place, guard: Guard, to: LoopId, letter: Letter) {
    core.guard(Guarded {
        prefix: Prefix::of(place.address().ip()),
        guard,
        granted: (to, mail(letter)),
        refused: None,
    });
}

fn send_home(core: &mut Core, id: &SessionId, letter: Letter) {
    core.send_request(core.homes.of_key(&id.code), mail(letter));
}

fn mail(letter: Letter) -> AnyMail {
    AnyMail::Simple(Mail(letter))
}

/// Its home is that of all who want to meet anybody.
const RANDOM_KEY: &str = "simple: random";
