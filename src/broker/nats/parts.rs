//! The parts of the engine that live on the log: lease, commands, inbox.
//!
//! Owns: what each publishes, and how long it waits for that to come back.
//! Never: decides anything; the fold does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{StatusCode, Subject};
use futures_util::StreamExt as _;
use rand::RngExt as _;
use tokio::task::AbortHandle;

use super::connect::Connection;
use super::entry::{Act, Entry, only_reads};
use super::replica::{Answered, Waiting};
use super::{Core, follow, lost};
use crate::broker::{Commands, Epoch, Fleet, Inbox, Lease, News, Taken, Trouble};
use crate::ids::CommandId;
use crate::message::cluster::{Command, Reply, What};

/// What does not come back in this time makes one ask whether the log is still the same.
const DOUBT_AFTER: Duration = Duration::from_secs(1);
/// An entry that was published must come back in this time.
const FOLDED_WITHIN: Duration = Duration::from_secs(5);
/// A renewal must come back in this time: the lease runs out soon after.
const RENEWED_WITHIN: Duration = Duration::from_secs(2);
/// Sending what was published may take this long.
const SENT_WITHIN: Duration = Duration::from_secs(5);

/// A connection that publishes entries, and hears if one is not taken.
#[derive(Debug)]
struct Scribe {
    core: Arc<Core>,
    connection: Connection,
    /// Where the broker acknowledges.
    acks: Subject,
    judge: AbortHandle,
}

/// The task has a part of the connection.
impl Drop for Scribe {
    fn drop(&mut self) {
        self.judge.abort();
    }
}

impl Scribe {
    fn new(core: &Arc<Core>) -> Result<Self, Trouble> {
        let replica = core.replica.clone();
        let on_break = Arc::new(move || replica.wake());
        let replica = core.replica.clone();
        let (connection, acks, judge) = core.state.run(async {
            let connection = core.target.connect(on_break).await?;
            let acks = Subject::from(connection.client.new_inbox());
            let heard = connection.client.subscribe(acks.clone()).await;
            let mut heard = heard.map_err(|error| lost("acknowledgements", error))?;
            let judged = connection.clone();
            let judge = tokio::spawn(async move {
                while let Some(ack) = heard.next().await {
                    let refused = ack.status.is_some_and(|status| status != StatusCode::OK)
                        || ack.payload.windows(ERROR.len()).any(|part| part == ERROR);
                    if refused {
                        let text = String::from_utf8_lossy(&ack.payload);
                        judged.give_up(&format!("an entry was not taken: {text}"));
                        replica.wake();
                    }
                }
            });
            Ok::<_, Trouble>((connection, acks, judge.abort_handle()))
        })??;
        Ok(Self {
            core: core.clone(),
            connection,
            acks,
            judge,
        })
    }

    /// Publishes them in order; when this returns they are on their way, no more.
    fn publish(&self, entries: Vec<(String, Vec<u8>)>) -> Result<(), Trouble> {
        self.connection.check()?;
        let client = &self.connection.client;
        let sent = self.core.state.run_within(SENT_WITHIN, async {
            for (subject, bytes) in entries {
                let sent = client.publish_with_reply(subject, self.acks.clone(), bytes.into());
                sent.await.map_err(|error| lost("publishing", error))?;
            }
            Ok(())
        })?;
        sent.unwrap_or_else(|| Err(lost("publishing", "it takes too long")))
    }

    fn check(&self) -> Result<(), Trouble> {
        self.connection.check()
    }

    /// The last entry of the log, if that is still the one that is folded; else [`Trouble::Lapsed`].
    fn last_entry(&self) -> Result<u64, Trouble> {
        let core = &self.core;
        core.state.run(follow::last_entry(&core.replica, &self.connection))?
    }

    /// Something did not come: perhaps because the broker has lost its data.
    fn doubt<T>(&self, found: Result<T, Trouble>) -> Result<T, Trouble> {
        match found {
            // Without a connection there is nobody to ask.
            Err(Trouble::Lost(why)) if self.connection.client.connection_state() == State::Connected => {
                match self.last_entry() {
                    Err(Trouble::Lapsed) => Err(Trouble::Lapsed),
                    Ok(_) | Err(Trouble::Lost(_)) => Err(Trouble::Lost(why)),
                }
            }
            found => found,
        }
    }

    /// Waits for what `look` waits for, a given time at most.
    fn wait<T>(
        &self,
        within: Duration,
        mut look: impl FnMut(Duration) -> Result<Option<T>, Trouble>,
    ) -> Result<T, Trouble> {
        let mut found = self.doubt(look(within.min(DOUBT_AFTER)))?;
        if found.is_none() {
            self.last_entry()?;
            found = self.doubt(look(within.saturating_sub(DOUBT_AFTER)))?;
        }
        found.ok_or_else(|| lost("the log", "an entry does not come back"))
    }
}

/// In an acknowledgement that is none.
const ERROR: &[u8] = b"\"error\"";

/// The part that keeps the lease.
#[derive(Debug)]
pub(super) struct NatsLease {
    scribe: Scribe,
    /// The last epoch of this node that is known of.
    last: Epoch,
}

impl NatsLease {
    /// Follows the log anew if it is not followed, which all other parts rely on.
    pub(super) fn new(core: &Arc<Core>) -> Result<Self, Trouble> {
        let scribe = Scribe::new(core)?;
        follow::ensure(core, &scribe.connection)?;
        let last = core.replica.last_epoch();
        Ok(Self { scribe, last })
    }

    fn ask(&self, make: impl FnOnce(u64) -> Entry, within: Duration) -> Result<Answered, Trouble> {
        let nonce = rand::rng().random();
        let replica = &self.scribe.core.replica;
        let entry = make(nonce);
        replica.ask_lease(nonce);
        self.scribe.publish(vec![(entry.subject(), entry.encode())])?;
        self.scribe.wait(within, |within| {
            replica.lease_answer(nonce, within, &|| self.scribe.check())
        })
    }
}

impl Lease for NatsLease {
    fn take(&mut self) -> Result<Taken, Trouble> {
        let (node, above) = (self.scribe.core.replica.node(), self.last);
        match self.ask(|nonce| Entry::Take { node, nonce, above }, FOLDED_WITHIN)? {
            Answered::Taken { epoch, first } => {
                self.last = epoch;
                Ok(self.scribe.core.replica.taken(epoch, first))
            }
            Answered::Waiting | Answered::Renewed | Answered::Lapsed => Err(lost("the lease", "not taken")),
        }
    }

    fn take_up(&mut self, epoch: Epoch) -> Result<Taken, Trouble> {
        self.last = self.last.max(epoch);
        match self.renew(epoch) {
            Ok(_) => Ok(self.scribe.core.replica.taken(epoch, false)),
            Err(Trouble::Lapsed) => self.take(),
            Err(lost) => Err(lost),
        }
    }

    fn renew(&mut self, epoch: Epoch) -> Result<Fleet, Trouble> {
        let node = self.scribe.core.replica.node();
        match self.ask(|nonce| Entry::Renew { node, epoch, nonce }, RENEWED_WITHIN)? {
            Answered::Renewed => {
                let (nodes, peers) = self.scribe.core.replica.renewed();
                Ok(Fleet {
                    nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
                    peers: peers as u64,
                    strange: 0,
                })
            }
            Answered::Lapsed | Answered::Waiting | Answered::Taken { .. } => Err(Trouble::Lapsed),
        }
    }

    /// The fold takes out all that a dead node left when it finds its lease over: there is nothing to sweep.
    fn sweep(&mut self) -> Result<bool, Trouble> {
        Ok(false)
    }

    fn release(&mut self, epoch: Epoch) -> Result<(), Trouble> {
        let node = self.scribe.core.replica.node();
        self.ask(|nonce| Entry::Release { node, epoch, nonce }, RENEWED_WITHIN)?;
        Ok(())
    }
}

/// The part that runs commands.
#[derive(Debug)]
pub(super) struct NatsCommands {
    scribe: Scribe,
    line: u64,
    /// Entries of the line.
    number: u64,
}

impl NatsCommands {
    pub(super) fn new(core: &Arc<Core>, line: u64) -> Result<Self, Trouble> {
        Ok(Self {
            scribe: Scribe::new(core)?,
            line,
            number: 0,
        })
    }

    /// Answers what only reads, after all that was in the log when this is called.
    fn read(&self, batch: &[Command], told: &mut dyn FnMut(CommandId, Reply)) -> Result<(), Trouble> {
        if batch.is_empty() {
            return Ok(());
        }
        let core = &self.scribe.core;
        let last = self.scribe.last_entry()?;
        if !core.replica.reach(last, FOLDED_WITHIN, &|| self.scribe.check())? {
            return Err(lost("the log", "it does not come"));
        }
        let replies = core.replica.read(&mut batch.iter().map(|command| &command.what));
        for (command, reply) in batch.iter().zip(replies) {
            told(command.id, reply);
        }
        Ok(())
    }

    fn entry(&self, epoch: Epoch, number: u64, anew: bool, what: &What) -> (String, Vec<u8>) {
        let entry = Entry::Act(Act {
            node: self.scribe.core.replica.node(),
            epoch,
            line: self.line,
            number,
            anew,
            group: match what {
                What::Match { .. } => rand::rng().random(),
                _ => [0; 16],
            },
            what: what.clone(),
        });
        (entry.subject(), entry.encode())
    }
}

impl Commands for NatsCommands {
    fn run(&mut self, epoch: Epoch, batch: &[Command], told: &mut dyn FnMut(CommandId, Reply)) -> Result<(), Trouble> {
        let first = batch.iter().position(|command| !only_reads(&command.what));
        let (reads, rest) = batch.split_at(first.unwrap_or(batch.len()));
        self.read(reads, told)?;
        if rest.is_empty() {
            return Ok(());
        }
        // What reads after one that writes is answered in its place, when that is folded: nothing more need be waited for.
        let mut number = self.number;
        let waiting: VecDeque<Waiting> = rest
            .iter()
            .map(|command| match only_reads(&command.what) {
                true => Waiting::Read(command.id, command.what.clone()),
                false => {
                    number += 1;
                    Waiting::Write(command.id, number)
                }
            })
            .collect();
        let replica = self.scribe.core.replica.clone();
        let anew = self.scribe.doubt(replica.ask(epoch, self.line, waiting))?;
        let writes = rest.iter().filter(|command| !only_reads(&command.what));
        let numbered = writes.zip(self.number + 1..);
        let entries = numbered.map(|(command, number)| self.entry(epoch, number, anew, &command.what));
        let entries = entries.collect();
        self.number = number;
        self.scribe.publish(entries)?;
        let mut missing = rest.len();
        while missing > 0 {
            let replies = self
                .scribe
                .wait(FOLDED_WITHIN, |within| replica.replies(within, &|| self.scribe.check()))?;
            missing = missing.saturating_sub(replies.len());
            for (id, reply) in replies {
                told(id, reply);
            }
        }
        Ok(())
    }
}

/// The part that reads what happened.
#[derive(Debug)]
pub(super) struct NatsInbox {
    core: Arc<Core>,
    follower: u64,
    after: u64,
}

impl NatsInbox {
    pub(super) fn new(core: &Arc<Core>, after: Option<&str>) -> Result<Self, Trouble> {
        let after = after.map_or(Ok(0), str::parse);
        Ok(Self {
            core: core.clone(),
            follower: core.replica.follower(),
            after: after.map_err(|error| lost("the inbox's place", error))?,
        })
    }
}

impl Inbox for NatsInbox {
    fn read(&mut self, wait: Duration, told: &mut dyn FnMut(News)) -> Result<(), Trouble> {
        let (after, news) = self.core.replica.news(self.follower, self.after, wait)?;
        self.after = after;
        for news in news {
            told(news);
        }
        Ok(())
    }

    fn place(&self) -> Option<String> {
        Some(self.after.to_string())
    }
}
