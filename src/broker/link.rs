//! The two ends between the loops and the broker's threads.
//!
//! Owns: the queues, what they may hold, and who is woken.
//! Never: waits on a loop's side. A broker's thread waits for a loop that is behind, but never with traffic: that is refused.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};

use super::figures::{Figures, count};
use super::{Channel, NodeId, Nodes};
use crate::ids::{Homes, LoopId, NodeNo};
use crate::message::PeerInfo;
use crate::message::cluster::{Command, Event, What};

/// Wakes a loop. May be called from any thread, as often as one likes.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Bytes that may wait for the broker, commands and traffic of all loops together.
pub(super) const QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// The same when traffic is added: much of that keeps no registration and no leave from the broker.
pub(super) const TRAFFIC_BYTES: usize = 6 * 1024 * 1024;
/// Events that wait for a loop before a broker's thread waits for it.
const EVENTS: usize = 8192;
/// Messages that may wait for the broker besides: a queue of fixed length allocates nothing as it is used.
const MESSAGES: usize = 16 * 1024;
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
    figures: Arc<Figures>,
    /// Bytes of traffic in `events`.
    unread: Arc<AtomicUsize>,
    /// None: whoever stands in for the broker gives out the numbers.
    nodes: Option<Arc<Nodes>>,
}

/// What a command counts in the queue: itself and its texts, roughly.
pub(super) fn weight(command: &Command) -> usize {
    let shown = |info: &PeerInfo| info.json_len();
    let texts = match &command.what {
        What::Register { aliases, .. } => aliases.iter().map(|alias| size_of_val(alias) + alias.len()).sum(),
        What::Resume {
            member_of, waits_in, ..
        } => size_of_val(&**member_of) + size_of_val(&**waits_in),
        What::Join { name, info, .. }
        | What::Rejoin { name, info, .. }
        | What::CreateRoom { name, info, .. }
        | What::Match { name, info, .. } => name.len() + shown(info),
        What::Show { info, .. } => shown(info),
        What::Resolve { alias } => alias.len(),
        What::End { .. }
        | What::Find { .. }
        | What::Leave { .. }
        | What::Kick { .. }
        | What::List { .. }
        | What::Describe { .. }
        | What::Roster { .. } => 0,
    };
    COMMAND_BYTES + texts
}

impl Link {
    /// Hands over a command. Its reply comes as an event.
    ///
    /// # Errors
    /// [`Busy`]: the queue is full or the node is down, nothing will come of it.
    pub fn command(&mut self, command: Command) -> Result<(), Busy> {
        self.admit(weight(&command), QUEUE_BYTES)?;
        // Without a receiver the broker has stopped, and the process is ending.
        let _ = self.commands.send(command);
        Ok(())
    }

    /// Whom the numbers of nodes stand for.
    pub fn know(&mut self, nodes: Arc<Nodes>) {
        self.nodes = Some(nodes);
    }

    /// Which node that is, whatever its epoch, if that is known. Takes a lock: to be asked once for each number.
    pub fn node_id(&self, number: NodeNo) -> Option<NodeId> {
        let (node, _) = self.nodes.as_ref()?.name(number)?;
        Some(node)
    }

    /// Whether the node is up, as far as the broker's threads know: the loop is told a moment later.
    pub fn is_up(&self) -> bool {
        self.figures.is_up()
    }

    /// Whether the queue would take so many bytes of traffic now.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.figures.waiting() + bytes <= TRAFFIC_BYTES
    }

    /// Hands over traffic. `bytes` is left empty, with room for more.
    ///
    /// # Errors
    /// [`Busy`]: the queue is full or the node is down; `bytes` is as it was.
    pub fn publish(&mut self, to: Channel, bytes: &mut Vec<u8>) -> Result<(), Busy> {
        self.admit(bytes.len(), TRAFFIC_BYTES)?;
        let next = self.spare.try_recv().unwrap_or_default();
        let sent = self.traffic.try_send((to, std::mem::replace(bytes, next)));
        if let Err(TrySendError::Full((_, unsent))) = sent {
            *bytes = unsent;
            self.figures.give_back(bytes.len());
            count(&self.figures.refused_full, 1);
            return Err(Busy);
        }
        Ok(())
    }

    /// What the broker's threads tell of themselves; the same for all loops.
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// Nothing waits while the node is down, so that nothing grows and everybody is told at once.
    fn admit(&self, bytes: usize, most: usize) -> Result<(), Busy> {
        if !self.figures.is_up() {
            count(&self.figures.refused_down, 1);
            return Err(Busy);
        }
        if !self.figures.take(bytes, most) {
            count(&self.figures.refused_full, 1);
            return Err(Busy);
        }
        Ok(())
    }

    /// Whether there is an event.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The oldest event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.try_recv().ok()?;
        let bytes = event.traffic_bytes();
        if bytes > 0 {
            self.unread.fetch_sub(bytes, Ordering::Relaxed);
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

    /// Whether a loop would take so much traffic.
    pub(super) fn has_room(&self, loop_id: LoopId, bytes: usize) -> bool {
        let way = self.loops.get(loop_id.index());
        way.is_none_or(|way| way.unread.load(Ordering::Relaxed) + bytes <= self.traffic_max && !way.events.is_full())
    }

    /// Hands traffic to a loop, unless that is too far behind. Never waits.
    ///
    /// # Errors
    /// [`Busy`]: it was not taken.
    pub fn pass(&self, loop_id: LoopId, event: Event) -> Result<(), Busy> {
        let Some(way) = self.loops.get(loop_id.index()) else {
            return Ok(());
        };
        let bytes = event.traffic_bytes();
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
#[derive(Clone, Debug)]
pub struct Queues {
    pub(super) commands: Receiver<Command>,
    pub(super) traffic: Receiver<(Channel, Vec<u8>)>,
    pub(super) spare: Sender<Vec<u8>>,
    /// The other end of `traffic`, for what the broker's threads themselves have to say to other nodes.
    pub(super) answers: Sender<(Channel, Vec<u8>)>,
    pub(super) figures: Arc<Figures>,
}

impl Queues {
    /// What the broker's threads tell of themselves.
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }
}

/// For those who stand in for the broker's threads.
impl Queues {
    /// Whether anything is taken: it is not before this was told.
    pub fn set_up(&self, up: bool) {
        self.figures.set_up(up);
    }

    /// Whether there is a command.
    pub fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// The oldest command, waited for at most that long.
    pub fn next_command(&self, wait: Duration) -> Option<Command> {
        let command = self.commands.recv_timeout(wait).ok()?;
        self.figures.give_back(weight(&command));
        Some(command)
    }

    /// The oldest traffic, waited for at most that long. Its buffer is to be given back: see [`Queues::recycle`].
    pub fn next_traffic(&self, wait: Duration) -> Option<(Channel, Vec<u8>)> {
        let (to, bytes) = self.traffic.recv_timeout(wait).ok()?;
        self.figures.give_back(bytes.len());
        Some((to, bytes))
    }

    /// A buffer to be filled again by a loop.
    pub fn recycle(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        // Full: there are enough of them.
        let _ = self.spare.try_send(buffer);
    }
}

/// Both ends: a link for each loop, and what the broker's threads have. `wakes` has one for each loop, in order;
/// `traffic_max` bytes of traffic may wait for a loop.
pub fn connect(homes: &Homes, wakes: Vec<Wake>, traffic_max: usize) -> (Vec<Link>, Queues, Routes) {
    let (commands, commands_end) = unbounded();
    let (traffic, traffic_end) = bounded(MESSAGES);
    let (spare, spare_end) = bounded(SPARE);
    let figures = Arc::new(Figures::default());
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
            figures: figures.clone(),
            unread: unread.clone(),
            nodes: None,
        });
        ways.push(Way { events, unread, wake });
    }
    let queues = Queues {
        commands: commands_end,
        traffic: traffic_end,
        spare,
        answers: traffic,
        figures,
    };
    let routes = Routes {
        homes: homes.clone(),
        loops: ways.into(),
        traffic_max,
    };
    (links, queues, routes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ids::{CommandId, Fingerprint};

    #[test]
    fn traffic_leaves_room_for_commands() {
        let homes = Homes::new(1, [0; 4]);
        let (mut links, queues, _) = connect(&homes, vec![Arc::new(|| ())], 1024);
        let link = &mut links[0];
        queues.set_up(true);
        let part = 64 * 1024;
        let mut parts = 0;
        while link.publish(Channel::Relay, &mut vec![0; part]) == Ok(()) {
            parts += 1;
        }
        assert_eq!(parts * part, TRAFFIC_BYTES);
        assert!(!link.has_room(1));
        let command = || Command {
            id: CommandId::from_u64(1),
            what: What::Find {
                fingerprint: Fingerprint::of_key("x"),
            },
        };
        let mut commands = 0;
        while link.command(command()) == Ok(()) {
            commands += 1;
        }
        assert_eq!(commands * COMMAND_BYTES, QUEUE_BYTES - TRAFFIC_BYTES);
        queues.next_command(Duration::ZERO).unwrap();
        assert_eq!(link.publish(Channel::Relay, &mut vec![0]), Err(Busy));
        assert_eq!(link.command(command()), Ok(()));
    }
}
