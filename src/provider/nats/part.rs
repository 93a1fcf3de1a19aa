//! A part of the NATS thread as the server's loop holds it: a bounded queue to it, and its events.
//!
//! Owns: the queue, and the wait for the part's end.
//! Never: waits for anything but that end.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tokio::sync::mpsc;

use crate::message::game_server::Event;
use crate::provider::{Busy, Inbox};

/// Orders that wait for the thread.
const ORDERS_MAX: usize = 8192;
/// A part has this long to end.
const STOP_WITHIN: Duration = Duration::from_secs(1);
/// How often events are taken off the outbox meanwhile, so that the thread does not wait for a place in it.
const TAKE_EVERY: Duration = Duration::from_millis(10);

/// The loop's end.
#[derive(Debug)]
pub(super) struct Part<T> {
    orders: Option<mpsc::Sender<T>>,
    ended: Receiver<()>,
    inbox: Inbox,
}

/// The thread's end.
#[derive(Debug)]
pub(super) struct Orders<T> {
    queue: mpsc::Receiver<T>,
    /// Dropped with it, which tells the loop's end.
    _ended: Sender<()>,
}

/// Both ends.
pub(super) fn new<T>(inbox: Inbox) -> (Part<T>, Orders<T>) {
    let (sender, queue) = mpsc::channel(ORDERS_MAX);
    let (ended_sender, ended) = bounded(0);
    let part = Part {
        orders: Some(sender),
        ended,
        inbox,
    };
    let orders = Orders {
        queue,
        _ended: ended_sender,
    };
    (part, orders)
}

impl<T> Part<T> {
    /// Queues an order.
    ///
    /// # Errors
    /// [`Busy`]: the queue is full, or the thread has ended.
    pub(super) fn give(&mut self, order: T) -> Result<(), Busy> {
        let orders = self.orders.as_ref().ok_or(Busy)?;
        orders.try_send(order).map_err(|_| Busy)
    }

    pub(super) fn has_events(&self) -> bool {
        self.inbox.has_events()
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.inbox.poll_event()
    }

    /// Events are dropped from now on.
    pub(super) fn ignore_events(&mut self) {
        self.inbox.close();
    }

    /// Has the part finish what is queued and end. Events that come meanwhile are dropped.
    pub(super) fn stop(&mut self) {
        self.orders = None;
        let until = Instant::now() + STOP_WITHIN;
        loop {
            while self.inbox.poll_event().is_some() {}
            match self.ended.recv_timeout(TAKE_EVERY) {
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

impl<T> Orders<T> {
    /// The next order; None: there will be no more.
    pub(super) async fn next(&mut self) -> Option<T> {
        self.queue.recv().await
    }
}
