//! Traffic between nodes: plain messages, outside of the log.
//!
//! Owns: the subjects of nodes and of section 9 of the peer protocol, and how it is known that nobody listens.
//! Never: looks into a message.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subject};
use futures_util::stream::SelectAll;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;

use super::connect::Connection;
use super::{Core, lost};
use crate::broker::{Channel, Heard, Publisher, Subscriber, Trouble, Unheard};
use crate::ids::NodeNo;

/// Sending a batch may take this long.
const SENT_WITHIN: Duration = Duration::from_secs(5);
/// Subscriptions may take this long.
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(5);
/// How often a connection that may have broken is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Messages that are kept until it is known that somebody was there to hear them,
const SENT_MAX: usize = 4096;
/// and their bytes.
const SENT_BYTES_MAX: usize = 4 << 20;
/// Messages that are told in one call.
const TOLD_MAX: usize = 1024;

const PLAIN: [(Channel, &str); 4] = [
    (Channel::Signal, "peer.signal"),
    (Channel::Relay, "peer.relay"),
    (Channel::Broadcast, "peer.broadcast"),
    (Channel::Ack, "peer.ack"),
];

/// The part that sends.
#[derive(Debug)]
pub(super) struct NatsPublisher {
    core: Arc<Core>,
    connection: Connection,
    /// The broker answers under it if nobody listens; the message's number follows.
    answers: String,
    unheard: async_nats::Subscriber,
    /// For each node its subject.
    nodes: HashMap<NodeNo, Subject>,
    sent: Sent,
}

/// The last messages to nodes: an answer comes when others were sent after the one that it is about.
#[derive(Debug, Default)]
struct Sent {
    messages: VecDeque<(NodeNo, Vec<u8>)>,
    /// The number of the oldest of them.
    first: u64,
    bytes: usize,
}

impl Sent {
    /// Keeps one. Its number.
    fn push(&mut self, node: NodeNo, message: &[u8]) -> u64 {
        let mut kept = Vec::new();
        while self.messages.len() >= SENT_MAX || self.bytes + message.len() > SENT_BYTES_MAX {
            let Some((_, oldest)) = self.messages.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
            self.first += 1;
            kept = oldest;
        }
        kept.clear();
        kept.extend_from_slice(message);
        self.bytes += kept.len();
        self.messages.push_back((node, kept));
        self.first + self.messages.len() as u64 - 1
    }

    /// The one with that number; None: it is too long ago.
    fn find(&self, number: u64) -> Option<&(NodeNo, Vec<u8>)> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.messages.get(at)
    }
}

impl NatsPublisher {
    pub(super) fn new(core: &Arc<Core>) -> Result<Self, Trouble> {
        let (connection, answers, unheard) = core.traffic.run(async {
            let connection = core.target.connect_for_traffic().await?;
            let answers = connection.client.new_inbox();
            let unheard = connection.client.subscribe(format!("{answers}.*")).await;
            let unheard = unheard.map_err(|error| lost("answers", error))?;
            Ok::<_, Trouble>((connection, answers, unheard))
        })??;
        Ok(Self {
            core: core.clone(),
            connection,
            answers,
            unheard,
            nodes: HashMap::new(),
            sent: Sent::default(),
        })
    }

    fn subject(&mut self, node: NodeNo) -> Option<Subject> {
        if let Some(subject) = self.nodes.get(&node) {
            return Some(subject.clone());
        }
        let (name, _) = self.core.replica.nodes().name(node)?;
        let subject = Subject::from(format!("peer.node.{name}"));
        self.nodes.insert(node, subject.clone());
        Some(subject)
    }

    fn tell_unheard(&mut self, unheard: &mut dyn FnMut(Unheard<'_>)) {
        while let Some(Some(message)) = self.unheard.next().now_or_never() {
            if message.status == Some(StatusCode::NO_RESPONDERS)
                && let Some(number) = message.subject.rsplit('.').next()
                && let Ok(number) = number.parse()
                && let Some((node, payload)) = self.sent.find(number)
            {
                unheard((Channel::Node(*node), payload));
            }
        }
    }
}

impl Publisher for NatsPublisher {
    fn publish(&mut self, batch: &[(Channel, &[u8])], unheard: &mut dyn FnMut(Unheard<'_>)) -> Result<(), Trouble> {
        self.connection.check()?;
        self.tell_unheard(unheard);
        if batch.is_empty() {
            return Ok(());
        }
        let bytes_max = self.connection.client.max_payload();
        let mut messages = Vec::with_capacity(batch.len());
        for (channel, bytes) in batch {
            if bytes.len() > bytes_max {
                tracing::warn!(
                    bytes = bytes.len(),
                    "NATS: a message is larger than its server takes: dropped"
                );
                continue;
            }
            let (subject, answer) = match channel {
                Channel::Node(node) => match self.subject(*node) {
                    Some(subject) => {
                        let number = self.sent.push(*node, bytes);
                        (subject, Some(Subject::from(format!("{}.{number}", self.answers))))
                    }
                    None => {
                        unheard((*channel, bytes));
                        continue;
                    }
                },
                plain => (Subject::from_static(subject_of(*plain)), None),
            };
            messages.push((subject, answer, bytes.to_vec()));
        }
        let client = &self.connection.client;
        let sent = self.core.traffic.run_within(SENT_WITHIN, async {
            for (subject, answer, bytes) in messages {
                let sent = match answer {
                    Some(answer) => client.publish_with_reply(subject, answer, bytes.into()).await,
                    None => client.publish(subject, bytes.into()).await,
                };
                sent.map_err(|error| lost("publishing", error))?;
            }
            // Until it is with the system: what waits is to wait in the queue, which is bounded and whose loss is counted.
            client.flush().await.map_err(|error| lost("publishing", error))
        })?;
        sent.unwrap_or_else(|| Err(lost("publishing", "it takes too long")))
    }
}

fn subject_of(channel: Channel) -> &'static str {
    let plain = PLAIN.iter().find(|(plain, _)| *plain == channel);
    plain.map_or("peer.signal", |(_, subject)| subject)
}

/// The part that hears.
#[derive(Debug)]
pub(super) struct NatsSubscriber {
    core: Arc<Core>,
    connection: Connection,
    heard: SelectAll<async_nats::Subscriber>,
}

impl NatsSubscriber {
    pub(super) fn new(core: &Arc<Core>) -> Result<Self, Trouble> {
        let own = core.own_channel.then(|| format!("peer.node.{}", core.replica.node()));
        let (connection, heard) = core.traffic.run(async {
            let connection = core.target.connect_for_traffic().await?;
            let plain = PLAIN.iter().map(|(_, subject)| (*subject).to_owned());
            let subscribed = timeout(SUBSCRIBED_WITHIN, subscribe(&connection, plain.chain(own)));
            let heard = subscribed
                .await
                .map_err(|_| lost("subscribing", "no answer in time"))??;
            Ok::<_, Trouble>((connection, heard))
        })??;
        Ok(Self {
            core: core.clone(),
            connection,
            heard,
        })
    }
}

/// Subscriptions that the server knows of when this returns.
async fn subscribe(
    connection: &Connection,
    subjects: impl Iterator<Item = String>,
) -> Result<SelectAll<async_nats::Subscriber>, Trouble> {
    let client = &connection.client;
    let failed = |error| lost("subscribing", error);
    let mut heard = SelectAll::new();
    for subject in subjects {
        heard.push(client.subscribe(subject).await.map_err(failed)?);
    }
    let inbox = client.new_inbox();
    let mut echo = client.subscribe(inbox.clone()).await.map_err(failed)?;
    let sent = client.publish(inbox, Vec::new().into()).await;
    sent.map_err(|error| lost("subscribing", error))?;
    match echo.next().await {
        Some(_) => Ok(heard),
        None => Err(lost("subscribing", "the connection is lost")),
    }
}

impl Subscriber for NatsSubscriber {
    fn receive(&mut self, wait: Duration, told: &mut dyn FnMut(Heard<'_>)) -> Result<(), Trouble> {
        let (heard, connection) = (&mut self.heard, &self.connection);
        let first = self.core.traffic.run_within(wait, async {
            loop {
                match timeout(LOOK_EVERY, heard.next()).await {
                    Ok(Some(message)) => return Ok(message),
                    Ok(None) => return Err(lost("hearing", "the connection is lost")),
                    Err(_) => connection.check()?,
                }
            }
        })?;
        let Some(first) = first else {
            return connection.check();
        };
        tell(&first?, told);
        for _ in 1..TOLD_MAX {
            let Some(Some(message)) = heard.next().now_or_never() else {
                break;
            };
            tell(&message, told);
        }
        connection.check()
    }
}

fn tell(message: &Message, told: &mut dyn FnMut(Heard<'_>)) {
    let plain = PLAIN.iter().find(|(_, subject)| *subject == message.subject.as_str());
    told((plain.map(|(channel, _)| *channel), &message.payload));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_message_is_found_by_its_number_while_it_is_one_of_the_last() {
        let node = NodeNo::new(3).unwrap();
        let mut sent = Sent::default();
        for number in 0..SENT_MAX as u64 + 10 {
            assert_eq!(sent.push(node, &number.to_le_bytes()), number);
        }
        assert!(sent.find(9).is_none());
        let last = SENT_MAX as u64 + 9;
        for number in [10, last] {
            assert_eq!(sent.find(number).unwrap(), &(node, number.to_le_bytes().to_vec()));
        }
        assert!(sent.find(last + 1).is_none());
        for number in 0..100 {
            sent.push(node, &vec![number; 1 << 20]);
        }
        assert_eq!((sent.messages.len(), sent.bytes), (4, SENT_BYTES_MAX));
        assert_eq!(sent.find(last + 100).unwrap().1[0], 99);
        sent.push(node, &vec![0; SENT_BYTES_MAX + 1]);
        assert_eq!(sent.messages.len(), 1, "one that is larger is kept alone");
    }
}
