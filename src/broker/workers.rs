//! What each of the broker's threads does with its part while a session holds.
//!
//! Owns: the pace of renewals, the size of batches, and to which loop what the inbox says goes.
//! Never: begins anything in a session that does not hold any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, select};

use super::figures::{Figures, count};
use super::link::{Queues, weight};
use super::run::{Note, Times};
use super::session::{Session, lock};
use super::{Commands, Inbox, Lease, News, Routes, Trouble};
use crate::message::cluster::{Command, Event};

/// Commands that are run at once.
const COMMANDS_MAX: usize = 256;
/// What these may weigh together.
const COMMANDS_BYTES_MAX: usize = 256 * 1024;

/// The parts of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Lease,
    Inbox,
    Subscriber,
    Publisher,
    Commands,
}

impl Part {
    pub(super) const fn thread_name(self) -> &'static str {
        match self {
            Self::Lease => "broker-lease",
            Self::Inbox => "broker-inbox",
            Self::Subscriber => "broker-hear",
            Self::Publisher => "broker-send",
            Self::Commands => "broker-command",
        }
    }
}

/// A part, to be used as long as the session holds.
pub(super) struct Work<P> {
    pub(super) session: Arc<Session>,
    pub(super) part: P,
}

/// A thread that has one kind of part.
pub(super) struct Worker<P> {
    pub(super) part: Part,
    pub(super) works: Receiver<Work<P>>,
    pub(super) notes: Sender<Note>,
}

impl<P> Worker<P> {
    /// Works until there will be nothing more to do.
    pub(super) fn run(self, mut run: impl FnMut(&Session, P) -> Result<(), Trouble>) {
        for Work { session, part } in &self.works {
            let trouble = run(&session, part).err();
            let session = session.number;
            let part = self.part;
            let _ = self.notes.send(Note::Ended { part, session, trouble });
        }
    }
}

/// Keeps the lease, and sweeps after the dead.
pub(super) fn keep(
    session: &Session,
    mut lease: Box<dyn Lease>,
    times: &Times,
    figures: &Figures,
) -> Result<(), Trouble> {
    let Some(epoch) = session.epoch else { return Ok(()) };
    let mut next = Instant::now() + times.renew;
    loop {
        match session.ended.recv_deadline(next) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) | Ok(_) => {
                return match session.is_released() {
                    true => lease.release(epoch),
                    false => Ok(()),
                };
            }
        }
        if !session.holds() {
            return Err(Trouble::Lapsed);
        }
        let sent = Instant::now();
        let fleet = lease.renew(epoch)?;
        // By this node's clock it had run out when the answer came: the loops are being told so.
        if !session.holds() {
            return Err(Trouble::Lapsed);
        }
        session.extend_lease(sent + times.lease);
        figures.renewed(sent);
        figures.set_fleet(&fleet);
        next = sent + times.renew;
        while session.holds() && Instant::now() < next && lease.sweep()? {}
    }
}

/// Tells what happens, to the loops that it concerns.
pub(super) fn read(
    session: &Session,
    mut inbox: Box<dyn Inbox>,
    wait: Duration,
    routes: &Routes,
) -> Result<(), Trouble> {
    let mut outcome = Ok(());
    while outcome.is_ok() && !session.is_over() {
        let mut missed = false;
        outcome = inbox.read(wait, &mut |news| match news {
            News::Happened(event) => on_event(event, routes),
            News::Gap => missed = true,
        });
        if missed && outcome.is_ok() {
            // Rosters that are compared would bring back neither a kick nor a match: the sessions are told again.
            outcome = Err(Trouble::Lost("news of other nodes were missed".to_owned()));
        }
    }
    // All that came before it was told, so the next session goes on there.
    *lock(&session.place) = inbox.place();
    outcome
}

/// Tells the loop or loops that it concerns.
pub(super) fn on_event(event: Event, routes: &Routes) {
    let homes = routes.homes();
    match &event {
        Event::Changed { namespace, .. } | Event::Matched { namespace, .. } => {
            routes.tell(homes.of_namespace(*namespace), event);
        }
        Event::Replaced(who) => routes.tell(homes.of_fingerprint(&who.fingerprint), event),
        Event::NodeGone(_) => routes.tell_all(&event),
        // Nothing that an inbox tells.
        Event::Replied { .. } | Event::Down | Event::Up | Event::Compare | Event::Traffic { .. } | Event::Plain(_) => {}
    }
}

/// Runs what the loops want, as much at once as waits.
pub(super) fn command(
    session: &Session,
    mut part: Box<dyn Commands>,
    queues: &Queues,
    routes: &Routes,
) -> Result<(), Trouble> {
    let Some(epoch) = session.epoch else { return Ok(()) };
    let figures = &*queues.figures;
    let mut batch = Vec::new();
    loop {
        let first = select! {
            recv(queues.commands) -> command => command,
            recv(session.ended) -> _ => return Ok(()),
        };
        let Ok(first) = first else { return Ok(()) };
        gather(first, queues, &mut batch);
        session.begin(&batch, routes, figures)?;
        count(&figures.commands, batch.len());
        count(&figures.batches, 1);
        part.run(epoch, &batch, &mut |id, reply| session.reply(id, reply, routes))?;
        // All were answered; if not, nobody is to wait for ever.
        session.lose_rest(routes, figures);
    }
}

fn gather(first: Command, queues: &Queues, batch: &mut Vec<Command>) {
    batch.clear();
    let mut bytes = weight(&first);
    batch.push(first);
    while batch.len() < COMMANDS_MAX && bytes < COMMANDS_BYTES_MAX {
        let Ok(command) = queues.commands.try_recv() else { break };
        bytes += weight(&command);
        batch.push(command);
    }
    queues.figures.give_back(bytes);
}
