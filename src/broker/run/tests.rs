//! The broker's threads with an engine that does as the test says.
#![allow(clippy::unwrap_used)]

mod traffic;

use std::sync::Mutex;

use super::*;
use crate::broker::{Busy, Channel, Fleet, Heard, Link, News, NodeId, Taken, Unheard, Wake, connect};
use crate::codec::node_traffic::Head;
use crate::ids::{CommandId, Fingerprint, Homes, LoopId, NodeNo};
use crate::message::Matched;
use crate::message::cluster::{Command, Reply, What};

/// Nothing that is right takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who is there.
const FLEET: Fleet = Fleet {
    nodes: 3,
    peers: 250,
    strange: 7,
};

/// Both ends of a channel.
type Pipe<T> = (Sender<T>, Receiver<T>);

/// What the engine is to do, and a log of what it was asked.
struct Script {
    log: Sender<String>,
    state: Mutex<State>,
    /// Batches that were begun; each waits for a word.
    batches: Pipe<Vec<CommandId>>,
    words: Pipe<Word>,
    news: Pipe<Result<News, Trouble>>,
    /// What is published; None: unheard.
    published: Sender<(Channel, Vec<u8>)>,
    heard: Pipe<Option<Vec<u8>>>,
    /// Renewals wait for one each while they are held.
    renewals: Pipe<()>,
}

#[derive(Default)]
struct State {
    refuses: Option<&'static str>,
    epochs: u64,
    empty: bool,
    deaf: bool,
    /// Of these it will be told later that nobody heard them.
    unheard: Vec<(Channel, Vec<u8>)>,
    renewals_held: bool,
    lapsed: bool,
}

enum Word {
    /// Reply `Done` to so many, and end so.
    Answer(usize, Result<(), Trouble>),
}

struct Fake(Arc<Script>);

impl Fake {
    fn part(&self, name: &'static str, what: String) -> Result<Arc<Script>, Trouble> {
        let _ = self.0.log.send(what);
        match self.0.state.lock().unwrap().refuses {
            Some(refused) if refused == name => Err(lost()),
            _ => Ok(self.0.clone()),
        }
    }
}

impl Engine for Fake {
    fn lease(&self) -> Result<Box<dyn Lease>, Trouble> {
        Ok(Box::new(FakePart(self.part("lease", "lease".into())?)))
    }
    fn commands(&self) -> Result<Box<dyn Commands>, Trouble> {
        Ok(Box::new(FakePart(self.part("commands", "commands".into())?)))
    }
    fn inbox(&self, epoch: Epoch, after: Option<&str>) -> Result<Box<dyn Inbox>, Trouble> {
        Ok(Box::new(FakePart(
            self.part("inbox", format!("inbox {} {after:?}", epoch.0))?,
        )))
    }
    fn publisher(&self) -> Result<Box<dyn Publisher>, Trouble> {
        Ok(Box::new(FakePart(self.part("publisher", "publisher".into())?)))
    }
    fn subscriber(&self) -> Result<Box<dyn Subscriber>, Trouble> {
        Ok(Box::new(FakePart(self.part("subscriber", "subscriber".into())?)))
    }
}

struct FakePart(Arc<Script>);

impl Lease for FakePart {
    fn take(&mut self) -> Result<Taken, Trouble> {
        let mut state = self.0.state.lock().unwrap();
        state.epochs += 1;
        let _ = self.0.log.send("take".into());
        let (epoch, empty) = (Epoch(state.epochs), state.empty);
        Ok(Taken { epoch, empty })
    }
    fn take_up(&mut self, epoch: Epoch) -> Result<Taken, Trouble> {
        let _ = self.0.log.send(format!("take_up {}", epoch.0));
        let mut state = self.0.state.lock().unwrap();
        let empty = state.empty;
        match std::mem::take(&mut state.lapsed) {
            true => {
                state.epochs += 1;
                let epoch = Epoch(state.epochs);
                Ok(Taken { epoch, empty })
            }
            false => Ok(Taken { epoch, empty }),
        }
    }
    fn renew(&mut self, _: Epoch) -> Result<Fleet, Trouble> {
        if self.0.state.lock().unwrap().renewals_held {
            let _ = self.0.renewals.1.recv();
        }
        Ok(FLEET)
    }
    fn sweep(&mut self) -> Result<bool, Trouble> {
        Ok(false)
    }
    fn release(&mut self, epoch: Epoch) -> Result<(), Trouble> {
        let _ = self.0.log.send(format!("release {}", epoch.0));
        Ok(())
    }
}

impl Commands for FakePart {
    fn run(&mut self, _: Epoch, batch: &[Command], told: &mut dyn FnMut(CommandId, Reply)) -> Result<(), Trouble> {
        let _ = self.0.batches.0.send(batch.iter().map(|command| command.id).collect());
        let Ok(Word::Answer(replies, outcome)) = self.0.words.1.recv() else {
            return Err(lost());
        };
        batch
            .iter()
            .take(replies)
            .for_each(|command| told(command.id, Reply::Done));
        outcome
    }
}

impl Inbox for FakePart {
    fn read(&mut self, wait: Duration, told: &mut dyn FnMut(News)) -> Result<(), Trouble> {
        match self.0.news.1.recv_timeout(wait) {
            Ok(news) => news.map(told),
            Err(_) => Ok(()),
        }
    }
    fn place(&self) -> Option<String> {
        Some("here".into())
    }
}

impl Publisher for FakePart {
    fn publish(&mut self, batch: &[(Channel, &[u8])], unheard: &mut dyn FnMut(Unheard<'_>)) -> Result<(), Trouble> {
        let mut state = self.0.state.lock().unwrap();
        let earlier = std::mem::take(&mut state.unheard);
        earlier.iter().for_each(|(channel, bytes)| unheard((*channel, bytes)));
        for (channel, bytes) in batch {
            let _ = self.0.published.send((*channel, bytes.to_vec()));
            if state.deaf {
                state.unheard.push((*channel, bytes.to_vec()));
            }
        }
        Ok(())
    }
}

impl Subscriber for FakePart {
    fn receive(&mut self, wait: Duration, told: &mut dyn FnMut(Heard<'_>)) -> Result<(), Trouble> {
        match self.0.heard.1.recv_timeout(wait) {
            Ok(Some(bytes)) => told((None, &bytes)),
            Ok(None) => return Err(lost()),
            Err(_) => {}
        }
        Ok(())
    }
}

fn lost() -> Trouble {
    Trouble::Lost("as the test says".to_owned())
}

/// A node with two loops.
struct World {
    script: Arc<Script>,
    log: Receiver<String>,
    published: Receiver<(Channel, Vec<u8>)>,
    links: Vec<Link>,
    bell: Receiver<()>,
    nodes: Arc<Nodes>,
    homes: Homes,
    running: Running,
}

const OWN: NodeId = NodeId::from_bytes([1; 16]);
const OTHER: NodeId = NodeId::from_bytes([2; 16]);

fn times() -> Times {
    Times {
        retry_first: Duration::from_millis(1),
        retry_longest: Duration::from_millis(4),
        listen: Duration::from_millis(2),
        ..Times::default()
    }
}

fn world_with(state: State, cluster_state: bool, times: Times) -> World {
    let (log, log_end) = unbounded();
    let (published, published_end) = unbounded();
    let script = Arc::new(Script {
        log,
        state: Mutex::new(state),
        batches: unbounded(),
        words: unbounded(),
        news: unbounded(),
        published,
        heard: unbounded(),
        renewals: unbounded(),
    });
    let nodes = Arc::new(Nodes::new(OWN));
    let homes = Homes::new(2, [1, 2, 3, 4]);
    let (ring, bell) = unbounded();
    let wake: Wake = Arc::new(move || {
        let _ = ring.send(());
    });
    let (links, queues, routes) = connect(&homes, vec![wake.clone(), wake], 1024);
    let options = Options { cluster_state, times };
    let running = start(Arc::new(Fake(script.clone())), options, nodes.clone(), queues, routes).unwrap();
    World {
        script,
        log: log_end,
        published: published_end,
        links,
        bell,
        nodes,
        homes,
        running,
    }
}

fn world() -> World {
    world_with(State::default(), true, times())
}

impl World {
    /// A world that is up and of which every loop knows.
    fn up() -> Self {
        let mut world = world();
        world.expect_all(&["Up", "Compare"]);
        world
    }

    fn event(&mut self, index: usize) -> Event {
        loop {
            if let Some(event) = self.links[index].poll_event() {
                return event;
            }
            self.bell.recv_timeout(PATIENCE).expect("no event came");
        }
    }

    fn expect_all(&mut self, wanted: &[&str]) {
        for index in 0..self.links.len() {
            for wanted in wanted {
                assert_eq!(format!("{:?}", self.event(index)), *wanted);
            }
        }
    }

    fn logged(&self, wanted: &[&str]) {
        for wanted in wanted {
            assert_eq!(self.log.recv_timeout(PATIENCE).unwrap(), *wanted);
        }
    }

    fn command(&mut self, index: usize, count: u64) -> Result<CommandId, Busy> {
        let id = CommandId::new(LoopId::new(index as u16), count);
        let fingerprint = Fingerprint::of_key("a");
        let what = What::Find { fingerprint };
        self.links[index].command(Command { id, what }).map(|()| id)
    }

    fn begun(&self) -> Vec<CommandId> {
        self.script.batches.1.recv_timeout(PATIENCE).unwrap()
    }

    fn say(&self, replies: usize, outcome: Result<(), Trouble>) {
        self.script.words.0.send(Word::Answer(replies, outcome)).unwrap();
    }

    fn replied(&mut self, index: usize) -> (CommandId, String) {
        match self.event(index) {
            Event::Replied { id, reply } => (id, format!("{reply:?}")),
            other => panic!("{other:?}"),
        }
    }

    fn other(&self, epoch: u64) -> NodeNo {
        self.nodes.number(OTHER, Epoch(epoch)).unwrap().unwrap()
    }

    fn traffic(&mut self, index: usize) -> (NodeNo, Vec<u8>) {
        match self.event(index) {
            Event::Traffic { from, frames } => (from, frames),
            other => panic!("{other:?}"),
        }
    }

    fn next_published(&self) -> (Channel, Vec<u8>) {
        self.published.recv_timeout(PATIENCE).unwrap()
    }

    fn hear(&self, head: Head, frames: &[u8]) {
        let message = [&head.to_bytes(), frames].concat();
        self.script.heard.0.send(Some(message)).unwrap();
    }

    fn home(&self, key: &Fingerprint) -> usize {
        self.homes.of_fingerprint(key).index()
    }

    fn until(&self, holds: impl Fn(crate::broker::Readings) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self.running.figures().read()) {
            assert!(Instant::now() < end, "{:?}", self.running.figures().read());
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_node_comes_up_in_order_and_gives_its_lease_back_when_it_stops() {
    let mut world = world();
    world.expect_all(&["Up", "Compare"]);
    world.running.wait_up(PATIENCE).unwrap();
    world.logged(&["lease", "take", "inbox 1 None", "subscriber", "publisher", "commands"]);
    let readings = world.running.figures().read();
    assert!(readings.up && readings.lease_age_ms.is_some());
    let World { running, log, .. } = world;
    running.stop();
    assert_eq!(log.try_iter().last().unwrap(), "release 1");
}

#[test]
fn what_is_under_way_is_lost_after_the_word_that_the_node_is_down() {
    let mut world = World::up();
    let first = world.command(0, 1).unwrap();
    assert_eq!(world.begun(), [first]);
    let queued: Vec<_> = [(0, 2), (1, 3)]
        .map(|(index, count)| world.command(index, count).unwrap())
        .into();
    // The subscriber's connection breaks while a command waits for its answer on another.
    world.script.heard.0.send(None).unwrap();
    world.expect_all(&["Down"]);
    assert_eq!(world.replied(0), (first, "Lost".to_owned()));
    assert_eq!(world.replied(0), (queued[0], "Lost".to_owned()));
    assert_eq!(world.replied(1), (queued[1], "Lost".to_owned()));
    assert_eq!(world.command(0, 4), Err(Busy));
    // The answer comes after all; nobody hears of it, and only then the broker is tried again.
    world.say(1, Ok(()));
    world.expect_all(&["Up", "Compare"]);
    world.logged(&["lease", "take", "inbox 1 None", "subscriber", "publisher", "commands"]);
    world.logged(&[
        "lease",
        "take_up 1",
        "inbox 1 Some(\"here\")",
        "subscriber",
        "publisher",
        "commands",
    ]);
    let again = world.command(0, 5).unwrap();
    assert_eq!(world.begun(), [again]);
    world.say(1, Ok(()));
    assert_eq!(world.replied(0), (again, "Done".to_owned()));
    assert_eq!(world.running.figures().read().reconnects, 1);
    assert_eq!(world.running.figures().read().queue_bytes, 0);
}

#[test]
fn a_batch_that_breaks_in_the_middle_keeps_the_answers_that_it_had() {
    let mut world = World::up();
    let first = world.command(0, 1).unwrap();
    assert_eq!(world.begun(), [first]);
    let ids: Vec<_> = (2..5).map(|count| world.command(0, count).unwrap()).collect();
    world.say(1, Ok(()));
    assert_eq!(world.begun(), ids);
    world.say(2, Err(Trouble::Lapsed));
    for id in [first, ids[0], ids[1]] {
        assert_eq!(world.replied(0), (id, "Done".to_owned()));
    }
    assert_eq!(format!("{:?}", world.event(0)), "Down");
    assert_eq!(world.replied(0), (ids[2], "Lost".to_owned()));
    let readings = world.running.figures().read();
    assert_eq!((readings.commands, readings.batches, readings.commands_lost), (4, 2, 1));
}

#[test]
fn a_lease_that_is_not_renewed_in_time_ends_without_an_answer() {
    let state = State {
        renewals_held: true,
        ..State::default()
    };
    let times = Times {
        lease: Duration::from_millis(40),
        renew: Duration::from_millis(5),
        ..times()
    };
    let mut world = world_with(state, true, times);
    world.expect_all(&["Up", "Compare", "Down"]);
    assert_eq!(world.running.figures().read().lease_age_ms, None);
    // The renewal that was held up holds up nothing else any more.
    world.script.state.lock().unwrap().renewals_held = false;
    world.script.renewals.0.send(()).unwrap();
    world.expect_all(&["Up", "Compare"]);
}

#[test]
fn a_broker_that_was_empty_is_compared_with_when_the_others_have_told_it() {
    let state = State {
        empty: true,
        ..State::default()
    };
    // Long enough for the broker to be lost and found again before, on a busy machine too.
    let telling = Duration::from_millis(500);
    let began = Instant::now();
    let mut world = world_with(state, true, Times { telling, ..times() });
    world.expect_all(&["Up"]);
    // Lost and found again meanwhile: that time still counts.
    world.script.state.lock().unwrap().empty = false;
    world.script.heard.0.send(None).unwrap();
    world.expect_all(&["Down", "Up", "Compare"]);
    assert!(began.elapsed() >= telling);
}

#[test]
fn a_gap_in_the_inbox_makes_the_node_tell_everything_again_in_the_same_epoch() {
    let mut world = World::up();
    world.logged(&["lease", "take", "inbox 1 None"]);
    let waiting = world.command(0, 1).unwrap();
    assert_eq!(world.begun(), [waiting]);
    world.script.news.0.send(Ok(News::Gap)).unwrap();
    world.expect_all(&["Down"]);
    assert_eq!(world.replied(0), (waiting, "Lost".to_owned()));
    world.say(1, Ok(()));
    world.expect_all(&["Up", "Compare"]);
    world.logged(&["subscriber", "publisher", "commands", "lease", "take_up 1"]);
    world.logged(&["inbox 1 Some(\"here\")"]);
    let gone = world.other(1);
    let news = News::Happened(Event::NodeGone(gone));
    world.script.news.0.send(Ok(news)).unwrap();
    for index in 0..2 {
        assert!(matches!(world.event(index), Event::NodeGone(node) if node == gone));
    }
}

#[test]
fn a_match_that_came_before_the_epoch_ran_out_is_told_in_the_next_one() {
    let mut world = World::up();
    world.logged(&["lease", "take", "inbox 1 None", "subscriber", "publisher", "commands"]);
    world.script.state.lock().unwrap().lapsed = true;
    world.script.state.lock().unwrap().refuses = Some("inbox");
    world.script.heard.0.send(None).unwrap();
    world.expect_all(&["Down"]);
    world.logged(&["lease", "take_up 1", "inbox 1 Some(\"here\")"]);
    // Of what lies there only that counts; it is looked for until it was read.
    let namespace = world.homes.namespace("arena");
    let matched = Matched {
        namespace: "arena".into(),
        session: [7; 16],
        peers: Vec::new(),
    };
    let (members, matched) = (Vec::new(), Arc::new(matched));
    let gone = world.other(1);
    for event in [
        Event::NodeGone(gone),
        Event::Matched {
            namespace,
            members,
            matched,
        },
    ] {
        world.script.news.0.send(Ok(News::Happened(event))).unwrap();
    }
    world.script.state.lock().unwrap().refuses = None;
    let home = world.homes.of_namespace(namespace).index();
    assert!(matches!(world.event(home), Event::Matched { .. }));
    world.expect_all(&["Up", "Compare"]);
    let logged: Vec<String> = world.log.try_iter().collect();
    let inboxes: Vec<_> = logged.iter().filter(|what| what.starts_with("inbox")).collect();
    let (last, before) = inboxes.split_last().unwrap();
    assert_eq!(*last, "inbox 2 None");
    assert!(
        before.iter().all(|what| *what == "inbox 1 Some(\"here\")"),
        "{logged:?}"
    );
}

#[test]
fn a_broker_that_cannot_be_reached_says_why_and_does_not_keep_the_threads() {
    for refuses in ["lease", "inbox", "subscriber", "publisher", "commands"] {
        let state = State {
            refuses: Some(refuses),
            ..State::default()
        };
        let World { script, running, .. } = world_with(state, true, times());
        let end = Instant::now() + PATIENCE;
        let mut why = || running.wait_up(Duration::from_millis(20)).unwrap_err();
        let mut reasons = std::iter::from_fn(|| (Instant::now() < end).then(&mut why));
        let reason = reasons.find(|reason| reason != "no answer");
        assert_eq!(reason.as_deref(), Some("as the test says"));
        running.stop();
        assert_eq!(Arc::strong_count(&script), 1, "{refuses}");
    }
}

#[test]
fn nothing_waits_while_the_node_is_down() {
    let state = State {
        refuses: Some("commands"),
        ..State::default()
    };
    let mut world = world_with(state, true, times());
    let other = world.other(1);
    let mut bytes = b"frames".to_vec();
    for count in 0..100 {
        assert_eq!(world.links[1].publish(Channel::Node(other), &mut bytes), Err(Busy));
        assert_eq!(world.command(0, count), Err(Busy));
    }
    assert_eq!(bytes, b"frames");
    let readings = world.running.figures().read();
    assert_eq!((readings.refused_down, readings.queue_bytes), (200, 0));
    world.script.state.lock().unwrap().refuses = None;
    world.expect_all(&["Up", "Compare"]);
    world.links[1].publish(Channel::Node(other), &mut bytes).unwrap();
    assert_eq!(world.next_published().0, Channel::Node(other));
}

#[test]
fn without_shared_state_there_is_only_traffic() {
    let mut world = world_with(State::default(), false, times());
    world.expect_all(&["Up"]);
    world.logged(&["subscriber", "publisher"]);
    let mut bytes = b"{}".to_vec();
    world.links[0].publish(Channel::Signal, &mut bytes).unwrap();
    assert_eq!(world.next_published(), (Channel::Signal, b"{}".to_vec()));
    world.script.heard.0.send(None).unwrap();
    world.expect_all(&["Down", "Up"]);
    world.logged(&["subscriber", "publisher"]);
}
