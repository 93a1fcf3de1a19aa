//! Mail between loops: one inbox each, batches, one wake-up per batch and only if the receiver sleeps.
//!
//! Owns: the order in which a loop's mail leaves it, the recycling of batches, the byte budget of traffic, and wake-ups.
//! Never: knows what is in the mail, blocks, or loses anything: what a full inbox cannot take waits in the outbox.

mod waker;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::ids::LoopId;

pub use waker::Waker;

/// Batches that an inbox takes before its senders must keep them.
const INBOX_BATCHES: usize = 4096;
/// Batches that wait to be used again by their sender.
const SPARE_BATCHES: usize = 256;
/// A batch whose bytes grew past this gives them back to the allocator when it is recycled.
const BATCH_BYTES_KEPT: usize = 256 * 1024;
/// The same for its items: a burst of some thousand signals to one loop is ordinary, and must find them again.
const BATCH_ITEMS_KEPT: usize = 8192;
/// Undelivered batches from which on a loop should take in no more work.
const CONGESTED_BATCHES: usize = 256;

/// Items for one loop, and the bytes that traffic among them refers to.
#[derive(Debug)]
pub struct Batch<T> {
    /// Who sent it.
    pub from: LoopId,
    /// What was sent, in order.
    pub items: Vec<T>,
    /// Bytes of traffic: items hold ranges of it.
    pub bytes: Vec<u8>,
    /// What it counts in the budget of its receiver: the traffic in it, its items included.
    weight: usize,
}

impl<T> Batch<T> {
    fn new(from: LoopId) -> Box<Self> {
        Box::new(Self {
            from,
            items: Vec::new(),
            bytes: Vec::new(),
            weight: 0,
        })
    }

    fn clear(&mut self) {
        self.items.clear();
        self.bytes.clear();
        self.weight = 0;
        if self.items.capacity() > BATCH_ITEMS_KEPT {
            self.items = Vec::new();
        }
        if self.bytes.capacity() > BATCH_BYTES_KEPT {
            self.bytes = Vec::new();
        }
    }

    /// Appends bytes and says where they are.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> std::ops::Range<u32> {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len() as u32
    }

    /// The bytes of a range that was made by [`Batch::push_bytes`] of the same batch.
    pub fn slice(bytes: &[u8], range: &std::ops::Range<u32>) -> std::ops::Range<usize> {
        debug_assert!(range.end as usize <= bytes.len());
        range.start as usize..range.end as usize
    }
}

/// A loop's outgoing mail, in the order in which it must be pushed.
///
/// Before control mail for one loop is pushed, everything older for other loops is. Traffic may join an earlier batch for
/// its loop: it then overtakes control mail for other loops, never mail for its own.
#[derive(Debug)]
pub struct Outbox<T> {
    from: LoopId,
    queue: VecDeque<(LoopId, Box<Batch<T>>)>,
    /// For each loop the number of its last batch, counted over all batches ever queued.
    last: Vec<Option<u64>>,
    popped: u64,
    #[expect(clippy::vec_box, reason = "batches travel boxed, so they are kept boxed")]
    spare: Vec<Box<Batch<T>>>,
}

impl<T> Outbox<T> {
    /// An empty outbox of loop `from` among `loops`.
    pub fn new(from: LoopId, loops: usize) -> Self {
        Self {
            from,
            queue: VecDeque::new(),
            last: vec![None; loops],
            popped: 0,
            spare: Vec::new(),
        }
    }

    /// Queues control mail.
    pub fn control(&mut self, to: LoopId, item: T) {
        if self.queue.back().is_none_or(|(loop_id, _)| *loop_id != to) {
            self.open(to);
        }
        if let Some((_, batch)) = self.queue.back_mut() {
            batch.items.push(item);
        }
    }

    /// The batch to which traffic for `to` is appended: its bytes first, then the item.
    pub fn traffic(&mut self, to: LoopId) -> &mut Batch<T> {
        let place = self.last[to.index()].and_then(|number| number.checked_sub(self.popped));
        let place = match place
            .map(|place| place as usize)
            .filter(|place| *place < self.queue.len())
        {
            Some(place) => place,
            None => {
                self.open(to);
                self.queue.len() - 1
            }
        };
        &mut self.queue[place].1
    }

    fn open(&mut self, to: LoopId) {
        let batch = self.spare.pop().unwrap_or_else(|| Batch::new(self.from));
        self.last[to.index()] = Some(self.popped + self.queue.len() as u64);
        self.queue.push_back((to, batch));
    }

    /// Takes the batch that must be pushed next.
    pub fn pop(&mut self) -> Option<(LoopId, Box<Batch<T>>)> {
        let next = self.queue.pop_front()?;
        self.popped += 1;
        Some(next)
    }

    fn put_back(&mut self, to: LoopId, batch: Box<Batch<T>>) {
        self.popped -= 1;
        self.queue.push_front((to, batch));
    }

    /// Gives an emptied batch back for further use.
    pub fn recycle(&mut self, mut batch: Box<Batch<T>>) {
        if self.spare.len() < SPARE_BATCHES {
            batch.clear();
            self.spare.push(batch);
        }
    }

    /// Batches that are not pushed yet.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether everything was pushed.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// What a loop's senders share: where to push, and whether to wake it.
#[derive(Debug)]
struct Door<T> {
    inbox: Sender<Box<Batch<T>>>,
    returned: Sender<Box<Batch<T>>>,
    waker: Waker,
    asleep: AtomicBool,
    /// Bytes of traffic pushed and not yet handled.
    traffic_bytes: AtomicUsize,
}

impl<T> Door<T> {
    fn wake(&self) {
        // Pairs with the fence in `Mailbox::try_sleep`: either the push is seen there or the flag is seen here.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // A wake that fails leaves the mail to the receiver's next timer; nothing is lost.
            let _ = self.waker.wake();
        }
    }
}

/// One loop's end: its inbox, and the way to every other loop.
#[derive(Debug)]
pub struct Mailbox<T> {
    id: LoopId,
    inbox: Receiver<Box<Batch<T>>>,
    returned: Receiver<Box<Batch<T>>>,
    doors: Arc<[Door<T>]>,
    outbox: Outbox<T>,
    traffic_max: usize,
    /// Bytes of traffic in batches that are not pushed, by loop.
    unpushed: Vec<usize>,
    to_wake: Vec<bool>,
}

/// A way to post from outside the loops.
#[derive(Debug)]
pub struct Postbox<T> {
    doors: Arc<[Door<T>]>,
}

/// Connects loops with each other: one waker each (see [`Mailbox::register`]), at most `traffic_max` bytes of unhandled
/// traffic for each.
pub fn connect<T>(wakers: Vec<Waker>, traffic_max: usize) -> (Vec<Mailbox<T>>, Postbox<T>) {
    let loops = wakers.len();
    let mut ends = Vec::with_capacity(loops);
    let doors: Arc<[Door<T>]> = wakers
        .into_iter()
        .map(|waker| {
            let (inbox, inbox_end) = bounded(INBOX_BATCHES);
            let (returned, returned_end) = bounded(SPARE_BATCHES);
            ends.push((inbox_end, returned_end));
            Door {
                inbox,
                returned,
                waker,
                asleep: AtomicBool::new(false),
                traffic_bytes: AtomicUsize::new(0),
            }
        })
        .collect();
    let mailbox = |(index, (inbox, returned)): (usize, (_, _))| {
        let id = LoopId::new(index as u16);
        Mailbox {
            id,
            inbox,
            returned,
            doors: doors.clone(),
            outbox: Outbox::new(id, loops),
            traffic_max,
            unpushed: vec![0; loops],
            to_wake: vec![false; loops],
        }
    };
    let mailboxes = ends.into_iter().enumerate().map(mailbox).collect();
    (mailboxes, Postbox { doors })
}

impl<T> Mailbox<T> {
    /// Has mail for this loop wake the poll, with events of this token.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn register(&self, registry: &mio::Registry, token: mio::Token) -> std::io::Result<()> {
        self.doors[self.id.index()].waker.register(registry, token)
    }

    /// Queues control mail: never refused.
    pub fn control(&mut self, to: LoopId, item: T) {
        self.reuse_returned();
        self.outbox.control(to, item);
    }

    /// The batch for traffic of about `bytes` bytes; None: the loop is too far behind.
    pub fn traffic(&mut self, to: LoopId, bytes: usize) -> Option<&mut Batch<T>> {
        let waiting = self.doors[to.index()].traffic_bytes.load(Ordering::Relaxed) + self.unpushed[to.index()];
        // A message without a payload takes its place as well.
        let weight = bytes + size_of::<T>();
        if waiting + weight > self.traffic_max {
            return None;
        }
        self.reuse_returned();
        self.unpushed[to.index()] += weight;
        let batch = self.outbox.traffic(to);
        batch.weight += weight;
        Some(batch)
    }

    fn reuse_returned(&mut self) {
        if self.outbox.spare.is_empty()
            && let Ok(batch) = self.returned.try_recv()
        {
            self.outbox.recycle(batch);
        }
    }

    /// Pushes what is queued and wakes the receivers that sleep. False: an inbox is full, call again soon.
    pub fn push(&mut self) -> bool {
        let mut all = true;
        while let Some((to, batch)) = self.outbox.pop() {
            let door = &self.doors[to.index()];
            let weight = batch.weight;
            door.traffic_bytes.fetch_add(weight, Ordering::Relaxed);
            match door.inbox.try_send(batch) {
                Ok(()) => {
                    // Others for the same loop may still be queued.
                    self.unpushed[to.index()] -= weight;
                    self.to_wake[to.index()] = true;
                }
                Err(TrySendError::Full(batch)) => {
                    door.traffic_bytes.fetch_sub(weight, Ordering::Relaxed);
                    self.outbox.put_back(to, batch);
                    all = false;
                    break;
                }
                // The receiver has stopped, so the process is ending.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
        for (door, wake) in self.doors.iter().zip(&mut self.to_wake) {
            if std::mem::take(wake) {
                door.wake();
            }
        }
        all
    }

    /// Whether so much mail is stuck that the loop should take in no more work.
    pub fn is_congested(&self) -> bool {
        self.outbox.len() > CONGESTED_BATCHES
    }

    /// Batches that could not be pushed yet.
    pub fn backlog(&self) -> usize {
        self.outbox.len()
    }

    /// The next batch of the inbox. Hand it back with [`Mailbox::done`].
    pub fn take(&mut self) -> Option<Box<Batch<T>>> {
        self.inbox.try_recv().ok()
    }

    /// A batch was handled: its sender may use it again.
    pub fn done(&mut self, mut batch: Box<Batch<T>>) {
        self.doors[self.id.index()]
            .traffic_bytes
            .fetch_sub(batch.weight, Ordering::Relaxed);
        batch.clear();
        if let Some(door) = self.doors.get(batch.from.index()) {
            // A full channel means that the sender has enough of them.
            let _ = door.returned.try_send(batch);
        }
    }

    /// Announces sleep. False: there is mail, do not sleep. After the sleep call [`Mailbox::awake`].
    pub fn try_sleep(&mut self) -> bool {
        let door = &self.doors[self.id.index()];
        door.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.inbox.is_empty() {
            return true;
        }
        door.asleep.store(false, Ordering::Relaxed);
        false
    }

    /// Announces that the sleep is over.
    pub fn awake(&mut self) {
        self.doors[self.id.index()].asleep.store(false, Ordering::Relaxed);
    }
}

impl<T> Postbox<T> {
    /// Ends the sleep of a loop that announced it: for those who leave something for it elsewhere, before they call.
    pub fn wake(&self, to: LoopId) {
        if let Some(door) = self.doors.get(to.index()) {
            door.wake();
        }
    }

    /// Posts to a loop from outside. False: its inbox is full or it has stopped.
    pub fn post(&self, to: LoopId, item: T) -> bool {
        let Some(door) = self.doors.get(to.index()) else {
            return false;
        };
        // From nobody's loop: such a batch is dropped, not returned.
        let mut batch = Batch::new(LoopId::new(u16::MAX));
        batch.items.push(item);
        let posted = door.inbox.try_send(batch).is_ok();
        // The flag may still be down while the loop is about to poll: an unneeded wake-up costs nothing here.
        let _ = door.waker.wake();
        posted
    }

    /// How many loops there are.
    pub fn loops(&self) -> usize {
        self.doors.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    fn id(index: u16) -> LoopId {
        LoopId::new(index)
    }

    fn pushed(outbox: &mut Outbox<u32>) -> Vec<(usize, Vec<u32>)> {
        std::iter::from_fn(|| outbox.pop().map(|(to, batch)| (to.index(), batch.items.clone()))).collect()
    }

    #[test]
    fn control_mail_leaves_in_the_order_produced() {
        let mut outbox = Outbox::new(id(0), 3);
        for (number, to) in [1, 1, 2, 1, 2].into_iter().enumerate() {
            outbox.control(id(to), number as u32);
        }
        assert_eq!(
            pushed(&mut outbox),
            [(1, vec![0, 1]), (2, vec![2]), (1, vec![3]), (2, vec![4])]
        );
    }

    #[test]
    fn traffic_joins_its_loops_last_batch_and_never_overtakes_mail_for_its_own_loop() {
        let mut outbox = Outbox::new(id(0), 3);
        outbox.traffic(id(1)).items.push(10);
        outbox.control(id(2), 20);
        outbox.traffic(id(1)).items.push(11);
        outbox.control(id(1), 12);
        outbox.traffic(id(1)).items.push(13);
        outbox.traffic(id(2)).items.push(21);
        assert_eq!(
            pushed(&mut outbox),
            [(1, vec![10, 11]), (2, vec![20, 21]), (1, vec![12, 13])]
        );
        outbox.traffic(id(1)).items.push(14);
        assert_eq!(pushed(&mut outbox), [(1, vec![14])]);
    }

    fn two() -> (mio::Poll, Vec<Mailbox<u32>>, Postbox<u32>) {
        let poll = mio::Poll::new().unwrap();
        let wakers = vec![Waker::new().unwrap(), Waker::new().unwrap()];
        let (mailboxes, postbox) = connect(wakers, 1000);
        mailboxes[0].register(poll.registry(), mio::Token(0)).unwrap();
        (poll, mailboxes, postbox)
    }

    #[test]
    fn mail_for_a_sleeper_wakes_it_once() {
        let (mut poll, mut mailboxes, _postbox) = two();
        let mut events = mio::Events::with_capacity(8);
        assert!(mailboxes[0].try_sleep());
        let sender = &mut mailboxes[1];
        sender.control(id(0), 7);
        assert!(sender.push());
        poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
        assert_eq!(events.iter().count(), 1);
        mailboxes[1].control(id(0), 8);
        mailboxes[1].push();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.iter().count(), 0, "it was awake already");
        assert!(!mailboxes[0].try_sleep(), "there is mail");
        let batch = mailboxes[0].take().unwrap();
        assert_eq!(batch.items, [7]);
    }

    #[test]
    fn traffic_stops_at_its_budget_until_it_was_handled() {
        let (_poll, mut mailboxes, _postbox) = two();
        let batch = mailboxes[1].traffic(id(0), 600).unwrap();
        batch.push_bytes(&[0; 600]);
        batch.items.push(1);
        assert!(mailboxes[1].traffic(id(0), 600).is_none());
        mailboxes[1].push();
        assert!(mailboxes[1].traffic(id(0), 600).is_none());
        let batch = mailboxes[0].take().unwrap();
        mailboxes[0].done(batch);
        assert!(mailboxes[1].traffic(id(0), 600).is_some());
    }

    #[test]
    fn traffic_behind_a_full_inbox_stays_in_the_budget() {
        let (_poll, mut mailboxes, postbox) = two();
        for number in 0..INBOX_BATCHES as u32 - 1 {
            assert!(postbox.post(id(0), number));
        }
        // Control mail between them makes it two batches, of which the inbox takes one.
        mailboxes[1].traffic(id(0), 400).unwrap().push_bytes(&[0; 400]);
        mailboxes[1].control(id(1), 1);
        mailboxes[1].control(id(0), 1);
        mailboxes[1].traffic(id(0), 400).unwrap().push_bytes(&[0; 400]);
        assert!(!mailboxes[1].push());
        assert!(mailboxes[1].traffic(id(0), 400).is_none());
    }

    #[test]
    fn messages_without_bytes_are_bounded_too() {
        let (_poll, mut mailboxes, _postbox) = two();
        let taken = (0..10_000).take_while(|_| mailboxes[1].traffic(id(0), 0).is_some());
        assert!(taken.count() <= 1000 / size_of::<u32>());
    }

    #[test]
    fn batches_are_used_again_by_their_sender() {
        let (_poll, mut mailboxes, _postbox) = two();
        mailboxes[1].control(id(0), 1);
        mailboxes[1].push();
        let batch = mailboxes[0].take().unwrap();
        let place: *const _ = &*batch;
        mailboxes[0].done(batch);
        mailboxes[1].control(id(0), 2);
        mailboxes[1].push();
        let again = mailboxes[0].take().unwrap();
        assert!(std::ptr::eq(place, &*again));
    }

    #[test]
    fn a_full_inbox_keeps_mail_in_the_outbox_and_in_order() {
        let (_poll, mut mailboxes, postbox) = two();
        for number in 0..INBOX_BATCHES as u32 {
            assert!(postbox.post(id(0), number));
        }
        assert!(!postbox.post(id(0), 1));
        mailboxes[1].control(id(0), 1_000_000);
        assert!(!mailboxes[1].push());
        assert_eq!(mailboxes[1].backlog(), 1);
        let first = mailboxes[0].take().unwrap();
        mailboxes[0].done(first);
        assert!(mailboxes[1].push());
        let all: Vec<u32> = std::iter::from_fn(|| mailboxes[0].take())
            .flat_map(|batch| batch.items.clone())
            .collect();
        assert_eq!(all.last(), Some(&1_000_000));
        assert_eq!(all.len(), INBOX_BATCHES);
    }
}
