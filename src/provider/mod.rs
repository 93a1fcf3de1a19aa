//! Providers: where game servers come from when they are not simply configured, and the register that other programs read.
//!
//! Each has threads of its own, which may block. A loop hands it work through a bounded queue and never waits; what it has
//! to say it puts into a bounded outbox and wakes the loop, which drains it.
//!
//! Owns: the two interfaces, and the outbox.
//! Never: touches a connection, makes a token, or decides who may ask.

pub mod edgegap;
pub mod nats;
pub mod store;

use std::fmt;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::message::game_server::{Event, Outcome, Placement, RequestId, Seek, SessionName};

/// The queue is full: the request is refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Finds or starts game servers.
pub trait GameServerProvider: Send {
    /// Takes a request. Never waits.
    ///
    /// # Errors
    /// [`Busy`]: the queue is full, nothing will come of it.
    fn submit(&mut self, id: RequestId, seek: Seek) -> Result<(), Busy>;
    /// Nobody waits for this request any more: polling stops, what was made for it is deleted, also if it is ready.
    fn cancel(&mut self, id: RequestId);
    /// The session's player is on the game server.
    fn claimed(&mut self, session: &SessionName);
    /// The session's player left, or never came.
    fn released(&mut self, session: &SessionName);
    /// Whether [`GameServerProvider::poll_event`] would answer something.
    fn has_events(&self) -> bool;
    /// What came of it, oldest first.
    fn poll_event(&mut self) -> Option<Event>;
    /// Stops its threads; what is unfinished is on record and taken up at the next start.
    fn stop(&mut self);
}

/// Where game servers look up who comes, and from where requests may come as well: NATS.
pub trait Registry: Send {
    /// Registers the client id under the session, both ways, and looks up the digest of the server's certificate if
    /// `wants_digest`. Answered by [`Event::Registered`] or [`Event::NotRegistered`] after both are acknowledged.
    ///
    /// # Errors
    /// [`Busy`]: the queue is full, nothing will come of it.
    fn register(
        &mut self,
        id: RequestId,
        client_id: u64,
        placement: &Placement,
        wants_digest: bool,
    ) -> Result<(), Busy>;
    /// Sends a frame to the seeker of [`Event::Asked`] with this number.
    fn answer(&mut self, remote: u64, answer: Answer);
    /// Whether [`Registry::poll_event`] would answer something.
    fn has_events(&self) -> bool;
    /// What happened, oldest first.
    fn poll_event(&mut self) -> Option<Event>;
    /// Nobody takes its events any more: its threads must not wait for room for them.
    fn ignore_events(&mut self) {}
    /// Stops its threads.
    fn stop(&mut self);
}

/// An answer to a request that came over NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// One frame of the dialogue.
    Frame(String),
    /// The answer to a request for the configured game.
    Outcome(Outcome),
    /// There is no more to say.
    End,
}

/// Wakes the loop that drains an outbox. May be called from any thread, as often as one likes.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The sending end of an outbox: of a provider's threads.
#[derive(Clone)]
pub struct Outbox {
    sender: Sender<Event>,
    wake: Wake,
}

/// The receiving end: of the loop.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver<Event>,
}

/// Events that wait for the loop before a provider's thread waits for it.
pub const OUTBOX_EVENTS: usize = 4096;

/// The two ends of an outbox.
pub fn outbox(wake: Wake) -> (Outbox, Inbox) {
    let (sender, receiver) = bounded(OUTBOX_EVENTS);
    (Outbox { sender, wake }, Inbox { receiver })
}

impl Outbox {
    /// Tells the loop. Waits while the outbox is full; says nothing if the loop has ended.
    pub fn tell(&self, event: Event) {
        let _ = self.sender.send(event);
        (self.wake)();
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("waiting", &self.sender.len()).finish()
    }
}

impl Inbox {
    /// Whether there is an event.
    pub fn has_events(&self) -> bool {
        !self.receiver.is_empty()
    }

    /// Drops all events, and those that come from now on.
    pub fn close(&mut self) {
        self.receiver = crossbeam_channel::never();
    }

    /// The oldest event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.receiver.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::game_server::Note;

    #[test]
    fn nobody_waits_for_room_in_a_closed_inbox() {
        let (outbox, mut inbox) = outbox(Arc::new(|| ()));
        for _ in 0..OUTBOX_EVENTS {
            outbox.tell(Event::Noted(Note::Created));
        }
        let waiting = std::thread::spawn(move || outbox.tell(Event::Noted(Note::Deleted)));
        inbox.close();
        waiting.join().unwrap();
        assert_eq!((inbox.has_events(), inbox.poll_event()), (false, None));
    }
}
