//! The broker's threads: one for each part of an engine, and one that watches over them.
//!
//! Owns: when this node is up and when it is down, in which order it comes up, and how a lost connection is made again.
//! Never: knows a kind of broker, or waits for it where that keeps the word from the loops that it is lost.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::backoff::Backoff;
use super::figures::{Figures, count};
use super::link::Queues;
use super::session::{Session, lock, lose};
use super::traffic::{Incoming, Outgoing};
use super::workers::{self, Part, Work, Worker};
use super::{
    Commands, Engine, Epoch, Inbox, LEASE, Lease, News, Nodes, Publisher, RENEW, Routes, Subscriber, Trouble, link,
};
use crate::message::cluster::Event;

/// What the threads do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The nodes share one state. Otherwise there is only the traffic of section 9 of the peer protocol.
    pub cluster_state: bool,
    /// How long what takes.
    pub times: Times,
}

/// How long what takes.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How long a lease lasts that is not renewed.
    pub lease: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// How long the other nodes may take to tell what they know to a broker that had lost it.
    pub telling: Duration,
    /// The first wait before the broker is tried again.
    pub retry_first: Duration,
    /// The longest one. A node that was up for so long begins with the first again.
    pub retry_longest: Duration,
    /// How long a thread listens before it looks whether it is to end.
    pub listen: Duration,
    /// How long [`Running::stop`] waits for the threads.
    pub stop: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            lease: LEASE,
            renew: RENEW,
            telling: Duration::from_secs(4),
            retry_first: Duration::from_millis(50),
            retry_longest: Duration::from_secs(2),
            listen: Duration::from_millis(250),
            stop: Duration::from_secs(2),
        }
    }
}

/// The threads.
#[derive(Debug)]
pub struct Running {
    notes: Sender<Note>,
    threads: Vec<JoinHandle<()>>,
    /// Disconnected when all threads have ended.
    done: Receiver<()>,
    first: Receiver<Result<(), Trouble>>,
    figures: Arc<Figures>,
    stop: Duration,
}

impl Running {
    /// Waits until the node is up for the first time.
    ///
    /// # Errors
    /// It is not within that time: why the last try failed, for the operator.
    pub fn wait_up(&self, at_most: Duration) -> Result<(), String> {
        let end = Instant::now() + at_most;
        let mut why = "no answer".to_owned();
        loop {
            match self.first.recv_deadline(end) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(trouble)) => why = trouble.to_string(),
                Err(_) => return Err(why),
            }
        }
    }

    /// What the threads tell of themselves.
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// Gives the lease back and ends the threads. One that is held up by a broker that does not answer is left behind.
    pub fn stop(self) {
        let _ = self.notes.send(Note::Stop);
        if self.done.recv_timeout(self.stop) == Err(RecvTimeoutError::Disconnected) {
            for thread in self.threads {
                let _ = thread.join();
            }
        }
    }
}

/// What the watching thread is told.
#[derive(Debug)]
pub(super) enum Note {
    /// The server stops.
    Stop,
    /// A worker has let go of its part.
    Ended {
        part: Part,
        session: u64,
        /// Why, if not because the session is over.
        trouble: Option<Trouble>,
    },
}

/// Starts the threads.
///
/// # Errors
/// A thread cannot be started.
pub fn start(
    engine: Arc<dyn Engine>,
    options: Options,
    nodes: Arc<Nodes>,
    queues: Queues,
    routes: Routes,
) -> io::Result<Running> {
    let Options { cluster_state, times } = options;
    let figures = queues.figures.clone();
    let (notes, notes_end) = unbounded();
    let (alive, done) = bounded::<()>(0);
    let (told, first) = bounded(16);
    let mut threads = Vec::new();
    let mut hire = Hire {
        threads: &mut threads,
        notes: notes.clone(),
        alive: alive.clone(),
    };

    let own_figures = figures.clone();
    let leases = hire.worker(Part::Lease, move |session, lease| {
        workers::keep(session, lease, &times, &own_figures)
    })?;
    let own_routes = routes.clone();
    let inboxes = hire.worker(Part::Inbox, move |session, inbox| {
        workers::read(session, inbox, times.listen, &own_routes)
    })?;
    let mut incoming = Incoming::new(nodes.clone(), routes.clone(), queues.clone(), cluster_state);
    let subscribers = hire.worker(Part::Subscriber, move |session, subscriber| {
        incoming.hear(session, subscriber, times.listen)
    })?;
    let mut outgoing = Outgoing::new(nodes.clone(), routes.clone(), queues.clone());
    let publishers = hire.worker(Part::Publisher, move |session, publisher| {
        outgoing.publish(session, publisher)
    })?;
    let (own_routes, own_queues) = (routes.clone(), queues.clone());
    let commands = hire.worker(Part::Commands, move |session, commands| {
        workers::command(session, commands, &own_queues, &own_routes)
    })?;

    let watch = Watch {
        engine,
        cluster_state,
        times,
        nodes,
        routes,
        queues,
        figures: figures.clone(),
        notes: notes_end,
        first: Some(told),
        leases,
        inboxes,
        subscribers,
        publishers,
        commands,
        lent: 0,
        session: None,
        sessions: 0,
        epoch: None,
        place: None,
        left: None,
        compare_at: None,
        complained: None,
    };
    hire.thread("broker", move || watch.run())?;
    Ok(Running {
        notes,
        threads,
        done,
        first,
        figures,
        stop: times.stop,
    })
}

/// Starts threads.
struct Hire<'a> {
    threads: &'a mut Vec<JoinHandle<()>>,
    notes: Sender<Note>,
    /// Each thread has one until it ends.
    alive: Sender<()>,
}

impl Hire<'_> {
    /// A thread that works with one part in each session.
    fn worker<P: Send + 'static>(
        &mut self,
        part: Part,
        run: impl FnMut(&Session, P) -> Result<(), Trouble> + Send + 'static,
    ) -> io::Result<Sender<Work<P>>> {
        let (works, works_end) = bounded(1);
        let worker = Worker {
            part,
            works: works_end,
            notes: self.notes.clone(),
        };
        self.thread(part.thread_name(), move || worker.run(run))?;
        Ok(works)
    }

    fn thread(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let alive = self.alive.clone();
        let run = move || {
            run();
            drop(alive);
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        self.threads.push(thread);
        Ok(())
    }
}

/// The thread that watches over the others.
struct Watch {
    engine: Arc<dyn Engine>,
    cluster_state: bool,
    times: Times,
    nodes: Arc<Nodes>,
    routes: Routes,
    queues: Queues,
    figures: Arc<Figures>,
    notes: Receiver<Note>,
    /// Told of each try until the first that succeeds.
    first: Option<Sender<Result<(), Trouble>>>,
    leases: Sender<Work<Box<dyn Lease>>>,
    inboxes: Sender<Work<Box<dyn Inbox>>>,
    subscribers: Sender<Work<Box<dyn Subscriber>>>,
    publishers: Sender<Work<Box<dyn Publisher>>>,
    commands: Sender<Work<Box<dyn Commands>>>,
    /// Parts that workers have.
    lent: usize,
    /// The one that there is, or was until just now.
    session: Option<Arc<Session>>,
    sessions: u64,
    /// That of the last lease.
    epoch: Option<Epoch>,
    /// How far its inbox was read.
    place: Option<String>,
    /// An epoch that is over and the place in its inbox, which may have matches that were not read.
    left: Option<(Epoch, Option<String>)>,
    /// When the rosters are to be compared. From when the node started or the broker was found empty, also over the next loss.
    compare_at: Option<Compare>,
    complained: Option<Trouble>,
}

/// When rosters are compared after the node has come up.
#[derive(Clone, Copy)]
enum Compare {
    /// The broker was empty: so long after the node has come up.
    Later,
    /// Then.
    At(Instant),
}

/// The server stops.
#[derive(Debug)]
struct Stop;

/// Why a step is not followed by the next.
enum Stopped {
    /// The server stops.
    ByServer,
    By(Trouble),
}

impl From<Trouble> for Stopped {
    fn from(trouble: Trouble) -> Self {
        Self::By(trouble)
    }
}

impl Watch {
    fn run(mut self) {
        let Stop = self.watch();
        if let Some(session) = &self.session {
            session.finish(true);
        }
    }

    fn watch(&mut self) -> Stop {
        let mut backoff = Backoff::new(self.times.retry_first, self.times.retry_longest);
        loop {
            match self.come_up() {
                Ok(session) => {
                    let since = Instant::now();
                    let Stopped::By(trouble) = self.stay_up(&session) else {
                        return Stop;
                    };
                    if since.elapsed() >= self.times.retry_longest {
                        backoff.reset();
                    }
                    tracing::warn!(reason = %trouble, "the broker is lost");
                    self.go_down(&session);
                    self.complained = Some(trouble);
                }
                Err(Stopped::ByServer) => return Stop,
                Err(Stopped::By(trouble)) => {
                    if let Some(session) = &self.session {
                        session.finish(false);
                    }
                    self.complain(trouble);
                }
            }
            self.figures.lapsed();
            // Before the next try nobody works with the last one's parts: what they sent is then done, refused or lost.
            let rested = self.settle().and_then(|()| self.rest(backoff.draw(rand::random())));
            if let Err(stop) = rested {
                return stop;
            }
            // What slipped in behind the word that the node is down waits no longer than for one try.
            self.empty_queues();
        }
    }

    /// Makes all connections, and tells the loops.
    fn come_up(&mut self) -> Result<Arc<Session>, Stopped> {
        self.sessions += 1;
        let session = match self.cluster_state {
            true => self.take_lease()?,
            false => {
                let session = Arc::new(Session::new(self.sessions, None));
                self.session.insert(session).clone()
            }
        };
        self.connect(&session)?;
        Ok(session)
    }

    fn take_lease(&mut self) -> Result<Arc<Session>, Stopped> {
        // Else it would come up and go down for ever, with a lease that others believe.
        self.nodes.check()?;
        let mut lease = self.engine.lease()?;
        let sent = Instant::now();
        let taken = match self.epoch {
            Some(epoch) => lease.take_up(epoch)?,
            None => lease.take()?,
        };
        if self.epoch != Some(taken.epoch) {
            self.nodes.set_epoch(taken.epoch);
            let place = self.place.take();
            if let Some(over) = self.epoch.replace(taken.epoch) {
                // One that was over before this node came up again has had no news since.
                self.left.get_or_insert((over, place));
            }
        }
        if taken.empty {
            self.compare_at = Some(Compare::Later);
        }
        self.figures.renewed(sent);
        let session = Session::new(self.sessions, Some((taken.epoch, sent + self.times.lease)));
        let session = self.session.insert(Arc::new(session)).clone();
        // At once: it is to be renewed while the other connections are made.
        self.lent += hand(&self.leases, &session, lease);
        Ok(session)
    }

    fn connect(&mut self, session: &Arc<Session>) -> Result<(), Stopped> {
        self.read_left(session)?;
        let (engine, place) = (self.engine.clone(), self.place.clone());
        let inbox = session.epoch.map(|epoch| engine.inbox(epoch, place.as_deref()));
        let inbox = inbox.transpose()?;
        self.check(session)?;
        let subscriber = engine.subscriber()?;
        self.check(session)?;
        let publisher = engine.publisher()?;
        self.check(session)?;
        let commands = session.epoch.map(|_| engine.commands());
        let commands = commands.transpose()?;
        self.check(session)?;

        self.empty_queues();
        self.figures.set_up(true);
        self.routes.tell_all(&Event::Up);
        if session.epoch.is_some() {
            self.plan_compare();
            if self.first.is_some() && self.compare_at.is_none() {
                // Other nodes may be coming back to a broker that started again just before: whoever they had and have no more is
                // told only to those that were there.
                self.compare_at = Some(Compare::At(Instant::now() + self.times.telling));
            }
        }
        self.lent += hand(&self.subscribers, session, subscriber) + hand(&self.publishers, session, publisher);
        self.lent += inbox.map_or(0, |inbox| hand(&self.inboxes, session, inbox));
        self.lent += commands.map_or(0, |commands| hand(&self.commands, session, commands));
        match self.first.take() {
            Some(first) => {
                let _ = first.try_send(Ok(()));
            }
            None => {
                count(&self.figures.reconnects, 1);
                tracing::info!("the broker is back");
            }
        }
        self.complained = None;
        Ok(())
    }

    /// Of what came into the inbox of an epoch that ran out before it was read, matches count still: who is in a group that
    /// others were told of must not wait for another one.
    fn read_left(&mut self, session: &Session) -> Result<(), Stopped> {
        let Some((epoch, place)) = &self.left else {
            return Ok(());
        };
        let mut inbox = self.engine.inbox(*epoch, place.as_deref())?;
        // What cannot be read now will not be looked for again: it must not keep the node down.
        self.left = None;
        let mut more = true;
        while more {
            self.check(session)?;
            more = false;
            inbox.read(NO_TIME, &mut |news| {
                let News::Happened(event) = news else { return };
                more = true;
                if matches!(event, Event::Matched { .. }) {
                    workers::on_event(event, &self.routes);
                }
            })?;
        }
        Ok(())
    }

    /// Between two steps on the way up.
    fn check(&mut self, session: &Session) -> Result<(), Stopped> {
        while let Ok(note) = self.notes.try_recv() {
            self.on_note(note, session)?;
        }
        match session.holds() {
            true => Ok(()),
            false => Err(Trouble::Lapsed.into()),
        }
    }

    /// Watches until the session is to end, and says why.
    fn stay_up(&mut self, session: &Session) -> Stopped {
        loop {
            let compare_at = match self.compare_at {
                Some(Compare::At(at)) => Some(at),
                Some(Compare::Later) | None => None,
            };
            let due = [session.lease_until(), compare_at].into_iter().flatten().min();
            let note = match due {
                Some(due) => self.notes.recv_deadline(due),
                None => self.notes.recv().map_err(RecvTimeoutError::from),
            };
            match note {
                Ok(note) => {
                    if let Err(stopped) = self.on_note(note, session) {
                        return stopped;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Stopped::ByServer,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if !session.holds() {
                return Trouble::Lapsed.into();
            }
            if compare_at.is_some_and(|at| at <= Instant::now()) {
                self.compare_at = None;
                self.routes.tell_all(&Event::Compare);
            }
        }
    }

    fn on_note(&mut self, note: Note, session: &Session) -> Result<(), Stopped> {
        match note {
            Note::Stop => Err(Stopped::ByServer),
            Note::Ended {
                part,
                session: number,
                trouble,
            } => {
                self.lent -= 1;
                match trouble {
                    Some(trouble) if number == session.number => {
                        tracing::debug!(?part, %trouble, "a part of the broker has ended");
                        Err(trouble.into())
                    }
                    Some(_) | None => Ok(()),
                }
            }
        }
    }

    /// Tells the loops, and answers what they asked.
    fn go_down(&mut self, session: &Session) {
        self.figures.set_up(false);
        session.finish(false);
        self.routes.tell_all(&Event::Down);
        session.close(&self.routes, &self.figures);
        self.empty_queues();
    }

    /// Waits until the workers have let go of their parts. That may take as long as an answer of the broker may.
    fn settle(&mut self) -> Result<(), Stop> {
        while self.lent > 0 {
            match self.notes.recv() {
                Ok(Note::Ended { .. }) => self.lent -= 1,
                Ok(Note::Stop) | Err(_) => return Err(Stop),
            }
        }
        let place = self.session.take().and_then(|session| lock(&session.place).take());
        if place.is_some() {
            self.place = place;
        }
        Ok(())
    }

    fn rest(&mut self, wait: Duration) -> Result<(), Stop> {
        match self.notes.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            // Nobody has a part that he could let go of.
            Ok(_) | Err(RecvTimeoutError::Disconnected) => Err(Stop),
        }
    }

    /// The rosters are compared when all loops were told that the node is up, and those who tell a broker that was empty
    /// what they know have had the time for it.
    fn plan_compare(&mut self) {
        let now = Instant::now();
        match self.compare_at {
            Some(Compare::Later) => self.compare_at = Some(Compare::At(now + self.times.telling)),
            Some(Compare::At(at)) if at > now => {}
            Some(Compare::At(_)) | None => {
                self.compare_at = None;
                self.routes.tell_all(&Event::Compare);
            }
        }
    }

    fn empty_queues(&self) {
        while let Ok(command) = self.queues.commands.try_recv() {
            self.figures.give_back(link::weight(&command));
            lose(command.id, &self.routes, &self.figures);
        }
        while let Ok((_, bytes)) = self.queues.traffic.try_recv() {
            self.figures.give_back(bytes.len());
            count(&self.figures.dropped, 1);
        }
    }

    /// Says why a try failed, once for each reason.
    fn complain(&mut self, trouble: Trouble) {
        if let Some(first) = &self.first {
            let _ = first.try_send(Err(trouble.clone()));
        }
        if self.complained.as_ref() != Some(&trouble) {
            tracing::warn!(reason = %trouble, "the broker cannot be reached");
            self.complained = Some(trouble);
        }
    }
}

/// Lends a part to its worker, who is idle. How many were lent.
fn hand<P>(to: &Sender<Work<P>>, session: &Arc<Session>, part: P) -> usize {
    let session = session.clone();
    usize::from(to.send(Work { session, part }).is_ok())
}

/// What an engine may take for none: it waits at least that long.
const NO_TIME: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
