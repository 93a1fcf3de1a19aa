//! The lease.
//!
//! Owns: the connection on which it is kept, and what this process remembers of the broker's data over all connections.
//! Never: decides outside of a script whether it holds.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redis::{Connection, Value};

use super::entries::{list, senseless, text};
use super::keys;
use super::scripts::{self, Script};
use crate::broker::{Epoch, Fleet, LEASE, Lease, Nodes, STANDSTILL_MAX, SWEEP_MAX, Taken, Trouble};

/// What this process has seen of the broker's data.
#[derive(Debug, Default)]
pub(super) struct Memory {
    seen: Mutex<Seen>,
    /// Entries that made no sense.
    pub(super) strange: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Seen {
    generation: Option<Vec<u8>>,
    /// The highest epoch of this node.
    epoch: u64,
    /// The server's run in which the last lease was taken.
    run: Option<String>,
    /// The last epoch that was given up because the server had started again, or another had taken its place: it may have
    /// come back with an older state, so that numbers in that epoch's inbox are given to other entries than those read.
    moved: Option<Epoch>,
    /// The epoch in whose inbox entries were missed, and all numbers from the first of them to the last.
    missed: Option<(Epoch, Range<u64>)>,
    /// The broker had lost everything, or what came last, and this node may not have told it everything again: renewals until it surely has.
    telling: u32,
}

/// Renewals after which everything was surely told again, or what was not never will be.
const TELLING: u32 = 10;

impl Memory {
    /// Whether the broker lost everything since this node last knew it whole.
    pub(super) fn was_emptied(&self) -> bool {
        self.with(|seen| seen.telling > 0)
    }

    /// Whether places in the inbox of that epoch are of no use any more.
    pub(super) fn has_moved(&self, epoch: Epoch) -> bool {
        self.with(|seen| seen.moved == Some(epoch))
    }

    /// Entries of that epoch's inbox were missed.
    pub(super) fn miss(&self, epoch: Epoch, numbers: Range<u64>) {
        if numbers.is_empty() {
            return;
        }
        self.with(|seen| {
            seen.missed = match seen.missed.take() {
                Some((of, earlier)) if of == epoch => {
                    let (first, end) = (earlier.start.min(numbers.start), earlier.end.max(numbers.end));
                    Some((epoch, first..end))
                }
                _ => Some((epoch, numbers)),
            };
        });
    }

    /// The numbers of entries of that epoch's inbox among which are all that were missed.
    pub(super) fn missed(&self, epoch: Epoch) -> Range<u64> {
        self.with(|seen| match &seen.missed {
            Some((of, numbers)) if *of == epoch => numbers.clone(),
            _ => 0..0,
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See [`Lease`].
pub(super) struct RedisLease {
    connection: Connection,
    /// The server's run; None: it did not say.
    run: Option<String>,
    nodes: Arc<Nodes>,
    memory: Arc<Memory>,
}

impl RedisLease {
    pub(super) fn new(connection: Connection, run: Option<String>, nodes: Arc<Nodes>, memory: Arc<Memory>) -> Self {
        Self {
            connection,
            run,
            nodes,
            memory,
        }
    }

    fn take_after(&mut self, epoch: Option<Epoch>) -> Result<Taken, Trouble> {
        let (least, generation, moved) = self.memory.with(|seen| {
            let moved = matches!((&seen.run, &self.run), (Some(before), Some(now)) if before != now);
            (seen.epoch + 1, seen.generation.clone().unwrap_or_default(), moved)
        });
        if moved {
            self.memory.with(|seen| seen.moved = epoch);
        }
        let epoch = epoch.filter(|_| !moved);
        let mut run = Script::Take.run();
        run.arg(self.nodes.own().to_string())
            .arg(least)
            .arg(LEASE.as_millis() as u64);
        run.arg(epoch.map(|epoch| epoch.0.to_string()).unwrap_or_default())
            .arg(generation)
            .arg(if moved { "moved" } else { "" })
            .arg(STANDSTILL_MAX.as_millis() as u64);
        let answer = self.run(run)?;
        let [epoch, generation] = list(&answer)? else {
            return Err(senseless(&answer));
        };
        let number = text(epoch).and_then(|epoch| std::str::from_utf8(epoch).ok()?.parse().ok());
        let (Some(number), Some(generation)) = (number, text(generation)) else {
            return Err(senseless(&answer));
        };
        let empty = self.memory.with(|seen| {
            let is_new = seen.generation.as_deref() != Some(generation);
            // Who starts has nothing to tell again, whoever made the generation.
            if moved || is_new && seen.generation.is_some() {
                seen.telling = TELLING;
            }
            let made = is_new && generation.ends_with(self.nodes.own().to_string().as_bytes());
            seen.generation = Some(generation.to_vec());
            seen.run = self.run.clone();
            seen.epoch = seen.epoch.max(number);
            seen.telling > 0 || made
        });
        let epoch = Epoch(number);
        Ok(Taken { epoch, empty })
    }

    fn run(&mut self, run: redis::Cmd) -> Result<Value, Trouble> {
        let mut answer = Value::Nil;
        scripts::run(&mut self.connection, &[run], |_, value| {
            answer = value;
            Ok(())
        })?;
        match &answer {
            Value::ServerError(_) => Err(senseless(&answer)),
            _ => Ok(answer),
        }
    }
}

impl Lease for RedisLease {
    fn take(&mut self) -> Result<Taken, Trouble> {
        self.take_after(None)
    }

    fn take_up(&mut self, epoch: Epoch) -> Result<Taken, Trouble> {
        self.take_after(Some(epoch))
    }

    fn renew(&mut self, epoch: Epoch) -> Result<Fleet, Trouble> {
        let mut run = Script::Renew.run();
        run.arg(keys::place(self.nodes.own(), epoch))
            .arg(LEASE.as_millis() as u64)
            .arg(STANDSTILL_MAX.as_millis() as u64);
        let answer = self.run(run)?;
        let [_, Value::Int(nodes), Value::Int(peers)] = list(&answer)? else {
            return Err(senseless(&answer));
        };
        self.memory.with(|seen| seen.telling = seen.telling.saturating_sub(1));
        Ok(Fleet {
            nodes: u32::try_from(*nodes).unwrap_or_default(),
            peers: u64::try_from(*peers).unwrap_or_default(),
            strange: self.memory.strange.load(Ordering::Relaxed),
        })
    }

    fn sweep(&mut self) -> Result<bool, Trouble> {
        let mut run = Script::Sweep.run();
        run.arg(SWEEP_MAX);
        let mut is_more = false;
        scripts::run(&mut self.connection, &[run], |_, answer| {
            match answer {
                Value::Int(more) => is_more = more != 0,
                // It fails of what somebody else left there. That ends no lease; the next renewal is followed by another try.
                _ => {
                    self.memory.strange.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        })?;
        Ok(is_more)
    }

    fn release(&mut self, epoch: Epoch) -> Result<(), Trouble> {
        let mut run = Script::Release.run();
        run.arg(keys::place(self.nodes.own(), epoch));
        self.run(run)?;
        Ok(())
    }
}
