//! `presence`: members of large namespaces leave and join again, and all others are told. Open loop: `rate` leaves and
//! `rate` joins a second, a latency counts from when the request should have left. Closed loop: with `window` of them under
//! way in each namespace, the next when all have been told of one. A delivery counts as a message.
//!
//! The proof: the first member to be told of a change shows what the news of it looks like and which place it has among the
//! others; from then on every member must get just these bytes at just this place. A namespace has one home, so its members
//! share one order. Who leaves sends a ping with it: until the pong it is a member up to its own leaving, and nothing comes
//! until its next list. On a server with one loop it must have been told of all before; between loops, what was on its
//! way to it when it left may not be delivered. After its list it gets all that follow its own joining; with a broker, all
//! that follow what the list shows, and that is the namespace as it was from its joining on or from a later change on.
//!
//! Owns: who is inside, and what each has to be told.
//! Never: parses what is known; one member of each namespace never leaves, so that somebody is told of everything.

mod catching_up;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde_json::Value;

use super::presence_log::{Change, Log};
use super::{Scenario, inbox, share};
use crate::worker::frames;
use crate::worker::io::Io;
use crate::worker::protocol::Job;
use crate::worker::setup;

/// How many join at once in the set-up. With a broker a list may have those in it who joined just after: one, so that it is
/// known who is told of whom.
const JOINING: usize = 64;
const JOINING_BY_BROKER: usize = 1;

/// A worker's namespaces.
pub struct Presence {
    wanted: usize,
    size: usize,
    window: usize,
    /// Changes a second of this worker; 0: closed loop.
    rate: f64,
    /// How many of a namespace are away between a leave and a join.
    away: usize,
    reconnect: bool,
    /// Whether who leaves must have been told of everything before.
    strict: bool,
    /// Whether a list may show changes that came after the joining, as a broker has the say.
    broker: bool,
    sending: bool,
    began_ns: u64,
    due: u64,
    /// How many have joined in the set-up, and how many lists and news are still to come of that.
    filled: usize,
    awaited: usize,
    is_ready: bool,
    groups: Vec<Group>,
    members: Vec<Member>,
    by_fingerprint: HashMap<String, usize>,
    /// Whose place has become known while their input waited.
    placed: Vec<usize>,
    /// Namespaces in which something may begin: at the end of the turn, because who leaves may be the one that is read.
    stirred: Vec<usize>,
}

struct Group {
    name: String,
    leave: Vec<u8>,
    join: Vec<u8>,
    log: Log,
    /// Members, where the log ends.
    inside: usize,
    /// Who asked to leave and did not ask to join since.
    outside: usize,
    /// Of these, who can join.
    out: VecDeque<usize>,
    /// When changes should have begun that have not.
    owed: VecDeque<u64>,
    /// Changes that were asked for and of which nobody has been told.
    unseen: usize,
    /// Who waits for a pong or a list.
    moving: usize,
    /// Who joined, and how much of what came after was in the list is not known yet.
    catching_up: Vec<usize>,
    next: usize,
}

struct Member {
    slot: usize,
    state: State,
    /// Which place in the log it has to be told of next.
    cursor: u64,
    /// Changes of its own that nobody has been told of: whether it joined, and when it should have asked.
    asked: VecDeque<(bool, u64)>,
    /// Where it stopped being told, until its leave is in the log; the place of its leave, until it stops.
    stopped: Option<u64>,
    left_at: Option<u64>,
    /// Of its joining: whether it has its list, and whether its place is known.
    listed: bool,
    placed: bool,
    /// Whether it is in, where the log ends.
    inside: bool,
    /// How many its list counted, and whom it named.
    list: (usize, Vec<usize>),
    /// What is told of it when it joins.
    info: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    In,
    Leaving,
    Out,
    Joining,
    /// It has its list, and was told of nothing since.
    CatchingUp,
    Gone,
}

impl Presence {
    /// The worker's share of namespaces.
    pub fn new(job: &Job) -> Self {
        let workload = &job.workload;
        let groups = workload.groups();
        let (wanted, size) = (share(job, groups), workload.namespace_size);
        let leaves = workload.rate / groups as f64;
        Self {
            wanted,
            size,
            window: workload.window,
            rate: 2.0 * leaves * wanted as f64,
            away: ((leaves / 4.0) as usize).min((size - 1) / 4),
            reconnect: workload.reconnect,
            strict: job.loops == Some(1) && !workload.reconnect,
            broker: job.broker,
            sending: false,
            began_ns: 0,
            due: 0,
            filled: 0,
            awaited: 0,
            is_ready: false,
            groups: Vec::new(),
            members: (0..wanted * size).map(|_| Member::new()).collect(),
            by_fingerprint: HashMap::new(),
            placed: Vec::new(),
            stirred: Vec::new(),
        }
    }

    /// Begins what is owed, as far as there is somebody for it.
    fn begin(&mut self, io: &mut Io, index: usize) {
        self.catch_up_all(io, index);
        while let Some(due_ns) = self.groups[index].owed.front().copied() {
            let begun = match self.groups[index].outside > self.away {
                true => self.join(io, index, due_ns),
                false => self.leave(io, index, due_ns),
            };
            if !begun {
                break;
            }
            self.groups[index].owed.pop_front();
            self.groups[index].unseen += 1;
            io.counts.sent += 1;
        }
    }

    fn leave(&mut self, io: &mut Io, index: usize, due_ns: u64) -> bool {
        let group = &mut self.groups[index];
        let first = index * self.size;
        // The first member stays.
        let turn = (0..self.size - 1).map(|step| first + 1 + (group.next + step) % (self.size - 1));
        let can = |member: &Member| member.state == State::In && io.links.contains(member.slot);
        let Some(peer) = turn.into_iter().find(|peer| can(&self.members[*peer])) else {
            return false;
        };
        group.next = peer - first;
        group.outside += 1;
        let member = &mut self.members[peer];
        member.asked.push_back((false, due_ns));
        (member.stopped, member.left_at) = (None, None);
        if self.reconnect {
            member.state = State::Out;
            member.stopped = Some(member.cursor);
            group.out.push_back(peer);
            io.reset(member.slot);
        } else {
            member.state = State::Leaving;
            group.moving += 1;
            io.append(member.slot, |out| out.extend_from_slice(&group.leave));
        }
        true
    }

    fn join(&mut self, io: &mut Io, index: usize, due_ns: u64) -> bool {
        let group = &mut self.groups[index];
        let can = |peer: &usize| self.reconnect || io.links.contains(self.members[*peer].slot);
        let Some(peer) = group.out.front().copied().filter(can) else {
            return false;
        };
        group.out.pop_front();
        group.outside -= 1;
        group.moving += 1;
        let member = &mut self.members[peer];
        member.state = State::Joining;
        (member.listed, member.placed) = (false, false);
        member.asked.push_back((true, due_ns));
        match self.reconnect {
            true => io.wanted.push_back(peer),
            false => io.append(member.slot, |out| out.extend_from_slice(&group.join)),
        }
        true
    }

    fn on_news(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        let peer = io.links[slot].peer;
        let index = peer / self.size;
        let mut at = 0;
        loop {
            let member = &mut self.members[peer];
            let told = matches!(member.state, State::In | State::Leaving);
            if told
                && let Some(change) = self.groups[index].log.at(member.cursor)
                && change.peer != peer
                && bytes[at..].starts_with(&change.frame)
            {
                at += change.frame.len();
                self.on_told(io, index, peer);
                continue;
            }
            // Until its place is known, nobody can say what it is to be told.
            if member.state == State::Joining && member.listed {
                return at;
            }
            if member.state == State::CatchingUp {
                match self.catch_up(index, peer, &bytes[at..]) {
                    true => continue,
                    false => return at,
                }
            }
            let end = self.groups[index].log.end();
            let used = inbox::one(io, slot, &bytes[at..], &mut |io, text| self.on_text(io, peer, text));
            if used == 0 {
                return at;
            }
            if let Some(change) = self.groups[index].log.at_mut(end) {
                change.frame = bytes[at..at + used].to_vec();
            }
            at += used;
        }
    }

    /// A message that is not just the expected one: the first of a change, or the answer to a request of its own.
    fn on_text(&mut self, io: &mut Io, peer: usize, text: &[u8]) {
        let message: Value = serde_json::from_slice(text).unwrap_or_default();
        let state = self.members[peer].state;
        let index = peer / self.size;
        match (state, message["type"].as_str().unwrap_or_default()) {
            (State::In | State::Leaving, kind @ ("peer_joined" | "peer_left")) => {
                match self.recognise(index, peer, kind == "peer_joined", &message) {
                    Ok(true) => self.on_told(io, index, peer),
                    Ok(false) => {
                        let subject = self.by_fingerprint[message["from"].as_str().unwrap_or_default()];
                        self.on_change(io, index, subject, kind == "peer_joined");
                        self.on_told(io, index, peer);
                    }
                    Err(why) => io.fail(format!("peer {peer}: {why}: {message}")),
                }
            }
            (State::Leaving, "pong") => self.on_left(io, index, peer),
            (State::Joining, "peer_list") if message["payload"]["namespace"] == *self.groups[index].name => {
                self.read_list(io, peer, &message["payload"]);
                self.on_listed(index, peer);
            }
            _ => io.fail(format!("peer {peer} is {state:?} and got {message}")),
        }
    }

    /// Whether it is the change that a member has to be told of next; if not: that it is a new one, and right.
    fn recognise(&mut self, index: usize, peer: usize, joined: bool, message: &Value) -> Result<bool, String> {
        let from = message["from"].as_str().unwrap_or_default();
        let subject = self.by_fingerprint.get(from).copied().ok_or("news of a stranger")?;
        if message["namespace"] != *self.groups[index].name || subject / self.size != index || subject == peer {
            return Err("news of another namespace, or of itself".to_owned());
        }
        if joined {
            let payload = &message["payload"];
            let known = self.members[subject].info.get_or_insert_with(|| payload.clone());
            if payload["fingerprint"] != *from || known != payload {
                return Err(format!("peer {subject} joined with other data than {known}"));
            }
        }
        match self.groups[index].log.at(self.members[peer].cursor) {
            Some(next) if (next.peer, next.joined) == (subject, joined) => Ok(true),
            Some(next) => Err(format!("others were told first that {}", next.describe())),
            None if self.members[subject].asked.front().map(|asked| asked.0) == Some(joined) => Ok(false),
            None => Err(format!("peer {subject} did not ask for that, or it was told already")),
        }
    }

    /// A change is told for the first time: it has its place now.
    fn on_change(&mut self, io: &mut Io, index: usize, subject: usize, joined: bool) {
        let group = &mut self.groups[index];
        let member = &mut self.members[subject];
        let Some((_, due_ns)) = member.asked.pop_front() else {
            return;
        };
        group.unseen -= 1;
        let place = group.log.end();
        let stay = group.inside - usize::from(!joined);
        group.inside = stay + usize::from(joined);
        group.log.push(Change {
            frame: Vec::new(),
            peer: subject,
            joined,
            due_ns,
            left: stay - group.catching_up.len(),
            inside: group.inside,
            over: false,
        });
        self.placed.extend(&group.catching_up);
        member.inside = joined;
        if joined {
            member.cursor = place + 1;
            member.placed = true;
            if self.broker {
                group.catching_up.push(subject);
            }
            self.on_joined(index, subject);
        } else if let Some(stopped) = member.stopped.take() {
            self.excuse(io, index, subject, stopped, place);
        } else {
            member.left_at = Some(place);
        }
    }

    fn on_told(&mut self, io: &mut Io, index: usize, peer: usize) {
        let now_ns = io.now_ns();
        let cursor = self.members[peer].cursor;
        if let Some(change) = self.groups[index].log.at(cursor) {
            io.latency
                .saturating_record(now_ns.saturating_sub(change.due_ns).max(1));
        }
        self.members[peer].cursor += 1;
        io.counts.arrived += 1;
        self.settle(io, index, cursor);
    }

    /// One less has to be told of a change.
    fn settle(&mut self, io: &mut Io, index: usize, place: u64) {
        let over = match self.groups[index].log.settle(place) {
            Ok(over) => over,
            Err(why) => return io.fail(why),
        };
        let group = &mut self.groups[index];
        // What a list shows is compared with the change that it begins with.
        let cursors = group.catching_up.iter().map(|peer| self.members[*peer].cursor - 1);
        group.log.forget(cursors.min().unwrap_or(u64::MAX));
        if over && self.rate == 0.0 && self.sending {
            let now_ns = io.now_ns();
            self.groups[index].owed.push_back(now_ns);
            self.stirred.push(index);
        }
    }

    fn on_left(&mut self, io: &mut Io, index: usize, peer: usize) {
        let member = &mut self.members[peer];
        let cursor = member.cursor;
        member.state = State::Out;
        self.groups[index].moving -= 1;
        self.groups[index].out.push_back(peer);
        match member.left_at.take() {
            Some(left_at) => self.excuse(io, index, peer, cursor, left_at),
            None => member.stopped = Some(cursor),
        }
        self.stirred.push(index);
    }

    /// Who left is not told of what came before its leave and did not reach it in time.
    fn excuse(&mut self, io: &mut Io, index: usize, peer: usize, from: u64, until: u64) {
        for place in from..until {
            if self.strict {
                io.fail(format!("peer {peer} left and was not told of something before it"));
            }
            self.settle(io, index, place);
        }
    }

    /// The next few join when all before them have their list and all have been told of all: many at once, because news
    /// that leave the server together cost it one write.
    fn fill(&mut self, io: &mut Io) {
        while self.awaited == 0 && self.filled < self.members.len() {
            let until = (self.filled + if self.broker { JOINING_BY_BROKER } else { JOINING }).min(self.members.len());
            for peer in self.filled..until {
                let group = &self.groups[peer / self.size];
                io.append(self.members[peer].slot, |out| out.extend_from_slice(&group.join));
                // A list, and the news for those who are there.
                self.awaited += 1 + peer % self.size;
            }
            self.filled = until;
        }
    }

    /// While all join, lists and news are counted, unread.
    fn skim(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let used = match frames::first(&bytes[at..]) {
                Ok(Some((frame, used))) if frame.opcode == 1 && self.awaited > 0 => {
                    self.awaited -= 1;
                    used
                }
                _ => inbox::one(io, slot, &bytes[at..], &mut |io, text| {
                    io.fail(format!("while all joined: {}", String::from_utf8_lossy(text)));
                }),
            };
            if used == 0 {
                break;
            }
            at += used;
        }
        if !self.groups.is_empty() {
            self.fill(io);
        }
        at
    }
}

impl Group {
    fn new(job: &Job, index: usize, size: usize) -> Self {
        let name = setup::namespace(job, &format!("presence-{index}"));
        let request = |kind: &str| format!(r#"{{"type":"{kind}","payload":{{"namespace":"{name}"}}}}"#);
        let (mut leave, mut join) = (Vec::new(), Vec::new());
        frames::push(&mut leave, 1, false, request("leave").as_bytes());
        frames::push(&mut leave, 1, false, br#"{"type":"ping"}"#);
        frames::push(&mut join, 1, false, request("join").as_bytes());
        Self {
            name,
            leave,
            join,
            log: Log::default(),
            inside: size,
            outside: 0,
            out: VecDeque::new(),
            owed: VecDeque::new(),
            unseen: 0,
            moving: 0,
            catching_up: Vec::new(),
            next: 0,
        }
    }
}

impl Member {
    fn new() -> Self {
        Self {
            slot: usize::MAX,
            state: State::In,
            cursor: 0,
            asked: VecDeque::new(),
            stopped: None,
            left_at: None,
            listed: false,
            placed: false,
            inside: true,
            list: (0, Vec::new()),
            info: None,
        }
    }
}

impl Scenario for Presence {
    fn peers(&self) -> usize {
        self.wanted * self.size
    }

    fn namespaces(&self, peer: usize) -> Vec<String> {
        // At first they only register; who reconnects joins at once.
        match self.is_ready {
            true => vec![format!("presence-{}", peer / self.size)],
            false => Vec::new(),
        }
    }

    fn on_ready(&mut self, io: &mut Io, slot: usize) {
        let peer = io.links[slot].peer;
        self.members[peer].slot = slot;
        if self.members[peer].state == State::Joining {
            self.on_listed(peer / self.size, peer);
        }
    }

    /// All have registered: they join, some at a time.
    fn settle(&mut self, io: &mut Io) -> bool {
        if self.groups.is_empty() {
            for index in 0..self.wanted {
                self.groups.push(Group::new(&io.job, index, self.size));
            }
            for peer in 0..self.members.len() {
                self.by_fingerprint.insert(setup::fingerprint(&io.job, peer), peer);
            }
        }
        self.fill(io);
        self.filled == self.members.len() && self.awaited == 0
    }

    fn prepare(&mut self, _io: &mut Io) -> Result<(), String> {
        self.is_ready = true;
        Ok(())
    }

    fn start(&mut self, io: &mut Io) {
        self.sending = true;
        self.began_ns = io.now_ns();
        self.due = 0;
        if self.rate == 0.0 {
            for index in 0..self.groups.len() {
                let owed = std::iter::repeat_n(self.began_ns, self.window);
                self.groups[index].owed.extend(owed);
                self.begin(io, index);
            }
        }
    }

    fn pause(&mut self, _io: &mut Io) {
        self.sending = false;
        self.groups.iter_mut().for_each(|group| group.owed.clear());
    }

    fn is_quiet(&self) -> bool {
        self.groups.iter().enumerate().all(|(index, group)| {
            let told = group.log.missing() == 0 && group.unseen == 0 && group.moving == 0;
            told && self.behind(index).next().is_none()
        })
    }

    fn describe_missing(&self) -> String {
        let sum = |count: fn(&Group) -> usize| self.groups.iter().map(count).sum::<usize>();
        format!(
            "{} deliveries are missing, {} changes were told to nobody, {} peers wait for an answer, {} were told of nothing \
             since a list that does not show what came after",
            sum(|group| group.log.missing()),
            sum(|group| group.unseen),
            sum(|group| group.moving),
            (0..self.groups.len())
                .map(|index| self.behind(index).count())
                .sum::<usize>(),
        )
    }

    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        match self.is_ready {
            true => self.on_news(io, slot, bytes),
            false => self.skim(io, slot, bytes),
        }
    }

    fn on_turn(&mut self, io: &mut Io) -> Option<Duration> {
        while !self.placed.is_empty() || !self.stirred.is_empty() {
            self.take_up(io);
            for index in std::mem::take(&mut self.stirred) {
                self.begin(io, index);
            }
        }
        if self.rate == 0.0 || !self.sending {
            return None;
        }
        let now_ns = io.now_ns();
        loop {
            self.take_up(io);
            let at_ns = self.began_ns + (self.due as f64 * 1e9 / self.rate) as u64;
            if at_ns > now_ns {
                // What is up to a millisecond late counts as such: the latency is from `at_ns`.
                return Some(Duration::from_nanos(at_ns - now_ns));
            }
            let index = self.due as usize % self.groups.len();
            self.groups[index].owed.push_back(at_ns);
            self.begin(io, index);
            self.due += 1;
        }
    }

    fn on_ended(&mut self, io: &mut Io, _slot: usize, peer: usize, why: &str) {
        self.members[peer].state = State::Gone;
        if let Some(group) = self.groups.get_mut(peer / self.size) {
            group.out.retain(|out| *out != peer);
        }
        io.fail(format!("peer {peer} lost its connection: {why}"));
    }
}
