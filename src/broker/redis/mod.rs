//! Redis as the broker.
//!
//! Owns: how it is reached, and which part of an engine is which connection.
//! Never: decides anything outside of a script.

mod commands;
mod connect;
mod entries;
mod inbox;
mod keys;
mod lease;
mod pages;
mod publisher;
mod scripts;
mod subscriber;

use std::sync::{Arc, Mutex};

pub use connect::{Address, RedisOptions, Tls};

use super::{Commands, Engine, Epoch, Inbox, Lease, Nodes, Publisher, Subscriber, Trouble};
use connect::{Identity, Protocol, take_place};

/// Redis, or what speaks like it.
#[derive(Debug)]
pub struct Redis {
    options: RedisOptions,
    nodes: Arc<Nodes>,
    /// Otherwise nobody sends to this node alone: there are only the channels of section 9 of the peer protocol.
    cluster_state: bool,
    /// The last connection for the lease.
    leased: Mutex<Option<Identity>>,
    /// The last one for commands.
    commanded: Mutex<Option<Identity>>,
    /// The last one for traffic.
    published: Mutex<Option<Identity>>,
    memory: Arc<lease::Memory>,
}

impl Redis {
    /// Nothing is opened before a part is asked for.
    pub fn new(options: RedisOptions, nodes: Arc<Nodes>, cluster_state: bool) -> Self {
        Self {
            options,
            nodes,
            cluster_state,
            leased: Mutex::default(),
            commanded: Mutex::default(),
            published: Mutex::default(),
            memory: Arc::default(),
        }
    }
}

impl Engine for Redis {
    fn lease(&self) -> Result<Box<dyn Lease>, Trouble> {
        let mut connection = self.options.open(Protocol::Two)?;
        let run = take_place(&mut connection, &self.leased);
        Ok(Box::new(lease::RedisLease::new(
            connection,
            run,
            self.nodes.clone(),
            self.memory.clone(),
        )))
    }

    fn commands(&self) -> Result<Box<dyn Commands>, Trouble> {
        let mut connection = self.options.open(Protocol::Two)?;
        let _ = take_place(&mut connection, &self.commanded);
        Ok(Box::new(commands::RedisCommands::new(
            connection,
            self.nodes.clone(),
            self.memory.clone(),
            self.options.list_bytes,
        )))
    }

    fn inbox(&self, epoch: Epoch, after: Option<&str>) -> Result<Box<dyn Inbox>, Trouble> {
        let connection = self.options.open(Protocol::Two)?;
        let reader = entries::Reader::new(self.nodes.clone(), self.memory.strange.clone());
        let after = after.filter(|_| !self.memory.has_moved(epoch));
        let inbox = inbox::RedisInbox::new(connection, self.nodes.own(), reader, self.memory.clone(), epoch, after)?;
        Ok(Box::new(inbox))
    }

    fn publisher(&self) -> Result<Box<dyn Publisher>, Trouble> {
        let mut connection = self.options.open(Protocol::Two)?;
        let _ = take_place(&mut connection, &self.published);
        Ok(Box::new(publisher::RedisPublisher::new(connection, self.nodes.clone())))
    }

    fn subscriber(&self) -> Result<Box<dyn Subscriber>, Trouble> {
        let connection = self.options.open(Protocol::Three)?;
        let own = self.cluster_state.then(|| self.nodes.own());
        Ok(Box::new(subscriber::RedisSubscriber::new(
            connection,
            own,
            self.options.timeout,
        )?))
    }
}
