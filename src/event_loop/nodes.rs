//! Other nodes: what this loop sends them and hears of them, and what its shard wants of the broker.
//!
//! Owns: the loop's link to the broker, and the frames for other nodes that were gathered in this turn.
//! Never: waits for the broker, or decides anything; the shard does.

use super::EventLoop;
use crate::broker::Link;
use crate::message::cluster::{Command, Event, Reply};

/// Events of the broker that are taken in one turn.
const EVENTS_MAX: usize = 256;

/// The loop's part of a cluster.
pub(super) struct Neighbours {
    link: Link,
}

impl Neighbours {
    pub(super) fn new(link: Link) -> Self {
        Self { link }
    }
}

impl EventLoop {
    /// Hands the broker a command of the shard.
    pub(super) fn give_command(&mut self, command: Command) {
        let id = command.id;
        let taken = self
            .neighbours
            .as_mut()
            .is_some_and(|neighbours| neighbours.link.command(command).is_ok());
        if !taken {
            let reply = Reply::Lost;
            self.shard.handle_cluster(Event::Replied { id, reply });
        }
    }

    /// Takes what the broker says.
    pub(super) fn serve_broker(&mut self) {
        for _ in 0..EVENTS_MAX {
            let event = self
                .neighbours
                .as_mut()
                .and_then(|neighbours| neighbours.link.poll_event());
            let Some(event) = event else { return };
            match event {
                Event::Traffic { .. } | Event::Plain(_) => {}
                event => self.shard.handle_cluster(event),
            }
            self.drain_outputs();
        }
    }

    /// Whether the broker has said something that was not taken yet.
    pub(super) fn broker_has_events(&self) -> bool {
        self.neighbours
            .as_ref()
            .is_some_and(|neighbours| neighbours.link.has_events())
    }
}
