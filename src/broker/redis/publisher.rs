//! Publishing.
//!
//! Owns: the connection on which traffic leaves.
//! Never: looks into it.

use std::sync::Arc;

use redis::{Connection, Value};

use super::connect::exchange;
use crate::broker::{Channel, NodeId, Nodes, Publisher, Trouble, Unheard};

/// See [`Publisher`].
pub(super) struct RedisPublisher {
    connection: Connection,
    nodes: Arc<Nodes>,
    packed: Vec<u8>,
}

impl RedisPublisher {
    pub(super) fn new(connection: Connection, nodes: Arc<Nodes>) -> Self {
        Self {
            connection,
            nodes,
            packed: Vec::new(),
        }
    }
}

impl Publisher for RedisPublisher {
    fn publish(&mut self, batch: &[(Channel, &[u8])], unheard: &mut dyn FnMut(Unheard<'_>)) -> Result<(), Trouble> {
        if batch.is_empty() {
            return Ok(());
        }
        self.packed.clear();
        let mut sent = Vec::with_capacity(batch.len());
        for &(channel, payload) in batch {
            let name = match channel {
                Channel::Node(number) => match self.nodes.name(number) {
                    // This node in an earlier epoch: nobody is there any more.
                    Some((node, _)) if node != self.nodes.own() => channel_of(node),
                    _ => {
                        unheard((channel, payload));
                        continue;
                    }
                },
                Channel::Signal => SIGNAL.to_owned(),
                Channel::Relay => RELAY.to_owned(),
                Channel::Broadcast => BROADCAST.to_owned(),
                Channel::Ack => ACK.to_owned(),
            };
            let mut command = redis::cmd("PUBLISH");
            command.arg(name).arg(payload);
            command.write_packed_command(&mut self.packed);
            sent.push((channel, payload));
        }
        let mut answered = sent.iter();
        exchange(&mut self.connection, &self.packed, sent.len(), |answer| {
            let Some(&message) = answered.next() else { return Ok(()) };
            match answer {
                // Who publishes for all expects no listener: this may be the only node.
                Value::Int(0) if matches!(message.0, Channel::Node(_)) => unheard(message),
                Value::Int(_) => {}
                other => return Err(Trouble::Lost(format!("PUBLISH was answered {other:?}"))),
            }
            Ok(())
        })
    }
}

/// The channel of one node.
pub(super) fn channel_of(node: NodeId) -> String {
    format!("peer:node:{node}")
}

/// Peer protocol, section 9.
pub(super) const SIGNAL: &str = "peer:signal";
pub(super) const RELAY: &str = "peer:relay";
pub(super) const BROADCAST: &str = "peer:broadcast";
pub(super) const ACK: &str = "peer:ack";
