//! The two ends between the loops and the broker's threads.
//!
//! Owns: the queues, what they may hold, and who is woken.
//! Never: waits on a loop's side. A broker's thread waits for a loop that is behind, but never with traffic: that is refused.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};

use super::Channel;
use crate::ids::{Homes, LoopId};
use crate::message::cluster::{Command, Event};

/// Wakes a loop. May be called from any thread, as often as one likes.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Bytes that may wait for the broker, commands and traffic of all loops together.
pub const QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Events that wait for a loop before a broker's thread waits for it.
const EVENTS: usize = 8192;
/// Emptied buffers that wait to be filled again.
const SPARE: usize = 256;
/// What a command counts in the queue, its texts aside.
const COMMAND_BYTES: usize = 256;

/// The queue is full: it was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// A loop's end.
#[derive(Debug)]
pub struct Link {
    commands: Sender<Command>,
    traffic: Sender<(Channel, Vec<u8>)>,
    spare: Receiver<Vec<u8>>,
    events: Receiver<Event>,
    load: Arc<Load>,
    /// Bytes of traffic in `events`.
    unread: Arc<AtomicUsize>,
}

/// What waits for the broker.
#[derive(Debug, Default)]
pub(super) struct Load {
    bytes: AtomicUsize,
}

impl Load {
    fn take(&self, bytes: usize) -> bool {
        let below = |held: usize| (held + bytes <= QUEUE_BYTES).then_some(held + bytes);
        let taken = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
        taken.is_ok()
    }

    /// So much of it was taken out of the queues.
    pub(super) fn give_back(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that wait.
    pub(super) fn now(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What a command counts in the queue: its texts, roughly.
pub(super) fn weight(_command: &Command) -> usize {
    COMMAND_BYTES
}

impl Link {
    /// Hands over a command. Its reply comes as an event.
    ///
    /// # Errors
    /// [`Busy`]: the queue is full, nothing will come of it.
    pub fn command(&mut self, command: Command) -> Result<(), Busy> {
        let bytes = weight(&command);
        if !self.load.take(bytes) {
            return Err(Busy);
        }
        // Without a receiver the broker has stopped, and the process is ending.
        let _ = self.commands.send(command);
        Ok(())
    }

    /// Hands over traffic. `bytes` is left empty, with room for more.
    ///
    /// # Errors
    /// [`Busy`]: the queue is full; `bytes` is as it was.
    pub fn publish(&mut self, to: Channel, bytes: &mut Vec<u8>) -> Result<(), Busy> {
        if !self.load.take(bytes.len()) {
            return Err(Busy);
        }
        let next = self.spare.try_recv().unwrap_or_default();
        let _ = self.traffic.send((to, std::mem::replace(bytes, next)));
        Ok(())
    }

    /// Whether there is an event.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The oldest event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.try_recv().ok()?;
        if let Event::Traffic { frames, .. } = &event {
            self.unread.fetch_sub(frames.len(), Ordering::Relaxed);
        }
        Some(event)
    }
}

/// The broker's end: the way to every loop.
#[derive(Clone)]
pub struct Routes {
    homes: Homes,
    loops: Arc<[Way]>,
    /// Unhandled bytes of traffic that a loop may have.
    traffic_max: usize,
}

struct Way {
    events: Sender<Event>,
    unread: Arc<AtomicUsize>,
    wake: Wake,
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").field("loops", &self.loops.len()).finish()
    }
}

impl Routes {
    /// Where everything lives.
    pub fn homes(&self) -> &Homes {
        &self.homes
    }

    /// Tells one loop. Waits while its queue is full; says nothing if the loop has ended.
    pub fn tell(&self, loop_id: LoopId, event: Event) {
        if let Some(way) = self.loops.get(loop_id.index()) {
            let _ = way.events.send(event);
            (way.wake)();
        }
    }

    /// Tells every loop.
    pub fn tell_all(&self, event: &Event) {
        for index in 0..self.loops.len() {
            self.tell(LoopId::new(index as u16), event.clone());
        }
    }

    /// Hands traffic to a loop, unless that is too far behind. Never waits.
    ///
    /// # Errors
    /// [`Busy`]: it was not taken.
    pub fn pass(&self, loop_id: LoopId, event: Event) -> Result<(), Busy> {
        let Some(way) = self.loops.get(loop_id.index()) else {
            return Ok(());
        };
        let bytes = match &event {
            Event::Traffic { frames, .. } => frames.len(),
            _ => 0,
        };
        if way.unread.load(Ordering::Relaxed) + bytes > self.traffic_max {
            return Err(Busy);
        }
        way.unread.fetch_add(bytes, Ordering::Relaxed);
        if let Err(TrySendError::Full(_)) = way.events.try_send(event) {
            way.unread.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Busy);
        }
        (way.wake)();
        Ok(())
    }
}

/// The broker's end of the queues that loops fill.
#[derive(Debug)]
pub struct Queues {
    pub(super) commands: Receiver<Command>,
    pub(super) traffic: Receiver<(Channel, Vec<u8>)>,
    pub(super) spare: Sender<Vec<u8>>,
    pub(super) load: Arc<Load>,
}

/// Both ends: a link for each loop, and what the broker's threads have. `wakes` has one for each loop, in order;
/// `traffic_max` bytes of traffic may wait for a loop.
pub fn connect(homes: &Homes, wakes: Vec<Wake>, traffic_max: usize) -> (Vec<Link>, Queues, Routes) {
    let (commands, commands_end) = unbounded();
    let (traffic, traffic_end) = unbounded();
    let (spare, spare_end) = bounded(SPARE);
    let load = Arc::new(Load::default());
    let mut links = Vec::with_capacity(wakes.len());
    let mut ways = Vec::with_capacity(wakes.len());
    for wake in wakes {
        let (events, events_end) = bounded(EVENTS);
        let unread = Arc::new(AtomicUsize::new(0));
        links.push(Link {
            commands: commands.clone(),
            traffic: traffic.clone(),
            spare: spare_end.clone(),
            events: events_end,
            load: load.clone(),
            unread: unread.clone(),
        });
        ways.push(Way { events, unread, wake });
    }
    let queues = Queues {
        commands: commands_end,
        traffic: traffic_end,
        spare,
        load,
    };
    let routes = Routes {
        homes: homes.clone(),
        loops: ways.into(),
        traffic_max,
    };
    (links, queues, routes)
}
