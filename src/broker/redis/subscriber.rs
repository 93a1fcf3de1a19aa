//! Subscribing.
//!
//! Owns: the connection on which traffic comes, and whether it still stands.
//! Never: looks into what it brings.

use std::time::{Duration, Instant};

use redis::{Connection, PushKind, Value};

use super::connect::{is_interrupted, lost};
use super::publisher::{ACK, BROADCAST, RELAY, SIGNAL, channel_of};
use crate::broker::{Channel, Heard, NodeId, Subscriber, Trouble};

/// See [`Subscriber`].
pub(super) struct RedisSubscriber {
    connection: Connection,
    own: Option<String>,
    /// When something last came, be it only the answer to a question.
    heard: Instant,
    /// When the server was asked whether it is there, if it has said nothing since.
    asked: Option<Instant>,
    /// When nothing came for so long the server is asked whether it is there; so long after that the connection is given up.
    silence: Duration,
}

/// The least that a socket waits: zero would be for ever.
const SHORTEST: Duration = Duration::from_millis(1);

impl RedisSubscriber {
    /// Subscribes to section 9's channels, and to `own`'s.
    pub(super) fn new(connection: Connection, own: Option<NodeId>, silence: Duration) -> Result<Self, Trouble> {
        let mut subscriber = Self {
            connection,
            own: own.map(channel_of),
            heard: Instant::now(),
            asked: None,
            silence,
        };
        let mut missing = subscriber.subscribe()?;
        // What is published between two of these answers is not missed by anybody: nobody knows this node yet.
        while missing > 0 {
            match subscriber.connection.recv_response().map_err(|error| lost(&error))? {
                Value::Push {
                    kind: PushKind::Subscribe,
                    ..
                } => missing -= 1,
                Value::Push { .. } => {}
                other => return Err(Trouble::Lost(format!("SUBSCRIBE was answered {other:?}"))),
            }
        }
        Ok(subscriber)
    }

    fn subscribe(&mut self) -> Result<usize, Trouble> {
        let mut command = redis::cmd("SUBSCRIBE");
        command.arg(&[SIGNAL, RELAY, BROADCAST, ACK]);
        if let Some(own) = &self.own {
            command.arg(own);
        }
        let packed = command.get_packed_command();
        self.connection
            .send_packed_command(&packed)
            .map_err(|error| lost(&error))?;
        Ok(4 + usize::from(self.own.is_some()))
    }

    /// Whoever is silent for long is asked. To subscribe again changes nothing, and the answer is a push like any other: one
    /// to PING could be taken by the crate for that of a read that timed out.
    fn check(&mut self) -> Result<(), Trouble> {
        match self.asked {
            Some(asked) if asked.elapsed() >= self.silence => {
                return Err(Trouble::Lost("the subscription is silent".to_owned()));
            }
            None if self.heard.elapsed() >= self.silence => {
                self.asked = Some(Instant::now());
                self.subscribe()?;
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    fn on_push(&self, kind: &PushKind, data: &[Value], told: &mut dyn FnMut(Heard<'_>)) {
        let (PushKind::Message, [Value::BulkString(channel), Value::BulkString(payload)]) = (kind, data) else {
            return;
        };
        let channel = match std::str::from_utf8(channel) {
            Ok(SIGNAL) => Some(Channel::Signal),
            Ok(RELAY) => Some(Channel::Relay),
            Ok(BROADCAST) => Some(Channel::Broadcast),
            Ok(ACK) => Some(Channel::Ack),
            Ok(name) if self.own.as_deref() == Some(name) => None,
            _ => return,
        };
        told((channel, payload));
    }
}

impl Subscriber for RedisSubscriber {
    fn receive(&mut self, wait: Duration, told: &mut dyn FnMut(Heard<'_>)) -> Result<(), Trouble> {
        self.check()?;
        let wait = wait.max(SHORTEST);
        self.connection
            .set_read_timeout(Some(wait))
            .map_err(|error| lost(&error))?;
        let end = Instant::now() + wait;
        loop {
            match self.connection.recv_response() {
                Ok(Value::Push { kind, data }) => {
                    (self.heard, self.asked) = (Instant::now(), None);
                    self.on_push(&kind, &data, told);
                    if self.heard >= end {
                        return Ok(());
                    }
                }
                Ok(other) => return Err(Trouble::Lost(format!("a subscription said {other:?}"))),
                Err(error) if error.is_timeout() || is_interrupted(&error) => return Ok(()),
                Err(error) => return Err(lost(&error)),
            }
        }
    }
}
