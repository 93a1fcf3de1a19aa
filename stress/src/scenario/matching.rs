//! `match`: players ask for an opponent; who is matched asks again. Closed loop: at once. Open loop (`rate`): at fixed times,
//! and a latency counts from the time at which the request that completes a match should have left. Beside them others ask
//! for what nobody else wants, and wait until the end; or until players meet them there, one request of each by one of a
//! player.
//!
//! Owns: the proof that each match is of two players who wanted the same, that both are told the same, once each, that who
//! came first was told to wait and the other was not, and that no two players wait who fit.
//! Never: has two requests of one player under way: the second would replace the first.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde::Deserialize;

use super::meeting::Meeting;
use super::message::{self, Message, Peer, show};
use super::pace::Pace;
use super::{Scenario, inbox, share};
use crate::worker::io::Io;
use crate::worker::protocol::Job;
use crate::worker::setup;

/// A worker's players; after them are numbered those who wait.
pub struct Matching {
    players: Vec<Player>,
    /// How many wait beside them.
    others: usize,
    /// How many of them play.
    playing: usize,
    namespace_size: usize,
    /// Players who asked and got no answer yet.
    asked: usize,
    /// Players who wait, of each class.
    waiting: Vec<usize>,
    by_fingerprint: HashMap<String, usize>,
    /// Matches of which one player was told, by session.
    half: HashMap<String, Half>,
    pace: Pace,
    sending: bool,
    paused: bool,
    /// Namespaces in which each of those waits who are beside the players, and answers that they still have to get.
    waits: usize,
    unanswered: usize,
    /// Those who wait are met, when nothing else is under way any more.
    meeting: Option<Meeting>,
    meet: bool,
}

struct Player {
    slot: usize,
    /// Those of one class want the same in the same namespace.
    class: usize,
    namespace: String,
    request: Vec<u8>,
    state: State,
    /// When its request left, or should have.
    left_ns: u64,
    /// Its latest match.
    session: String,
    /// When requests were due that could not leave, as one was under way.
    owed: VecDeque<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Asked,
    Waiting,
}

/// A match of which one player was told.
struct Half {
    text: Vec<u8>,
    other: usize,
    left_ns: u64,
}

#[derive(Deserialize)]
struct Matched<'a> {
    namespace: &'a str,
    session_id: &'a str,
    #[serde(borrow)]
    peers: Vec<Peer<'a>>,
}

#[derive(Deserialize)]
struct Waiting<'a> {
    status: &'a str,
}

impl Matching {
    /// The worker's share of players and of those who wait.
    pub fn new(job: &Job) -> Self {
        let playing = 2 * share(job, job.workload.pairs);
        let namespace_size = job.workload.namespace_size;
        let namespaces = playing.div_ceil(namespace_size).max(1);
        let waiting = share(job, job.workload.peers);
        let player = |peer: usize| {
            // Two kinds of game in each namespace, with an even number of players each. Who is odd writes the same
            // criteria in another way.
            let (space, tier) = (peer / namespace_size, peer % namespace_size / 2 % 2);
            let class = 2 * space + tier;
            let criteria = match peer % 2 {
                0 => format!(r#"{{"mode":"ranked","tier":{tier},"map":"dunes"}}"#),
                _ => format!(r#"{{"map":"dunes","tier":{tier}.0,"mode":"ranked"}}"#),
            };
            let namespace = setup::namespace(job, &format!("match-{space}"));
            let text = request(&namespace, &criteria);
            Player {
                slot: usize::MAX,
                class,
                namespace,
                request: message::frame(&text, job.workload.compression),
                state: State::Free,
                left_ns: 0,
                session: String::new(),
                owed: VecDeque::new(),
            }
        };
        Self {
            players: (0..playing).map(player).collect(),
            others: waiting,
            playing,
            namespace_size,
            asked: 0,
            waiting: vec![0; 2 * namespaces],
            by_fingerprint: (0..playing).map(|peer| (setup::fingerprint(job, peer), peer)).collect(),
            half: HashMap::new(),
            pace: Pace::new(job),
            sending: false,
            paused: false,
            waits: job.workload.waits,
            unanswered: waiting * job.workload.waits,
            meeting: None,
            meet: job.workload.meet && waiting > 0 && playing > 0,
        }
    }

    fn ask(&mut self, io: &mut Io, peer: usize, left_ns: u64) {
        let player = &mut self.players[peer];
        // A connection that was lost has failed the run already.
        if !io.links.contains(player.slot) {
            return;
        }
        player.state = State::Asked;
        player.left_ns = left_ns;
        self.asked += 1;
        io.counts.sent += 1;
        io.append(player.slot, |out| out.extend_from_slice(&player.request));
    }

    /// One who waits beside the players asks in all its namespaces, for what nobody else wants.
    fn ask_everywhere(&self, io: &mut Io, peer: usize, slot: usize) {
        for space in 0..self.waits {
            let frame = message::frame(&self.nowhere(&io.job, peer, space), io.job.workload.compression);
            io.append(slot, |out| out.extend_from_slice(&frame));
        }
    }

    /// What one who waits asks for in one of its namespaces.
    fn nowhere(&self, job: &Job, peer: usize, space: usize) -> String {
        let namespace = setup::namespace(job, &format!("match-{}", (peer + space) % self.spaces()));
        let criteria = format!(r#"{{"mode":"ranked","tier":{peer},"map":"nowhere"}}"#);
        request(&namespace, &criteria)
    }

    /// A player meets the next of those who wait, in all its namespaces at once.
    fn meet_next(&mut self, io: &mut Io, player: usize) {
        let Some(meeting) = &mut self.meeting else { return };
        let slot = self.players[player].slot;
        let Some(waiting) = meeting.next(player).filter(|_| io.links.contains(slot)) else {
            return;
        };
        for space in 0..self.waits {
            let frame = message::frame(&self.nowhere(&io.job, waiting, space), io.job.workload.compression);
            io.append(slot, |out| out.extend_from_slice(&frame));
            io.counts.sent += 1;
        }
    }

    fn on_met(&mut self, io: &mut Io, peer: usize, text: &[u8]) {
        let Some(meeting) = &mut self.meeting else { return };
        match meeting.on_text(peer, text) {
            Ok(done) => {
                io.counts.arrived += 1;
                io.met = (meeting.met(), (io.now_ns() - meeting.began_ns) as f64 / 1e9);
                if done {
                    self.meet_next(io, peer);
                }
            }
            Err(why) => io.fail(format!("{peer} got {}: {why}", show(text))),
        }
    }

    /// Nothing of the players is under way.
    fn is_calm(&self) -> bool {
        self.asked == 0 && self.half.is_empty() && self.waiting.iter().all(|waiting| *waiting <= 1)
    }

    /// Namespaces of all players, and no fewer than one peer waits in.
    fn spaces(&self) -> usize {
        self.playing.div_ceil(self.namespace_size).max(self.waits)
    }

    /// What one who waits is told: that it waits, once for each request.
    fn on_waiting(&mut self, io: &mut Io, peer: usize, text: &[u8]) {
        let waits = Message::read(text).is_some_and(|message| {
            message.kind == "match" && message.payload_as().is_some_and(|p: Waiting<'_>| p.status == "waiting")
        });
        match self.unanswered.checked_sub(1) {
            Some(left) if waits => self.unanswered = left,
            _ => io.fail(format!("peer {peer}, who waits, got {}", show(text))),
        }
    }

    /// The request of a player is answered for good.
    fn free(&mut self, peer: usize) {
        let player = &mut self.players[peer];
        match player.state {
            State::Free => {}
            State::Asked => self.asked -= 1,
            State::Waiting => self.waiting[player.class] -= 1,
        }
        player.state = State::Free;
    }

    /// A free player's next request, if there is one.
    fn go_on(&mut self, io: &mut Io, peer: usize) {
        if !self.sending {
            return;
        }
        let left_ns = match self.pace.is_open() {
            true => self.players[peer].owed.pop_front(),
            false => Some(io.now_ns()),
        };
        if let Some(left_ns) = left_ns {
            self.ask(io, peer, left_ns);
        }
    }

    fn on_text(&mut self, io: &mut Io, peer: usize, text: &[u8]) {
        let Some(message) = Message::read(text) else {
            return io.fail(format!("player {peer} got {}", show(text)));
        };
        let state = self.players[peer].state;
        match (message.kind, state) {
            ("matched", State::Asked | State::Waiting) => self.on_matched(io, peer, &message, text),
            ("match", State::Asked) if message.payload_as().is_some_and(|p: Waiting<'_>| p.status == "waiting") => {
                self.asked -= 1;
                self.waiting[self.players[peer].class] += 1;
                self.players[peer].state = State::Waiting;
            }
            ("error", State::Asked) if message.is_refusal() => {
                io.counts.refused += 1;
                self.free(peer);
                self.go_on(io, peer);
            }
            _ => io.fail(format!("player {peer} got {}", show(text))),
        }
    }

    fn on_matched(&mut self, io: &mut Io, peer: usize, message: &Message<'_>, text: &[u8]) {
        let checked = self.check(io, peer, message, text);
        let waited = self.players[peer].state == State::Waiting;
        match checked {
            Ok((session, left_ns)) => {
                let player = &mut self.players[peer];
                player.session = session;
                io.latency.saturating_record(io.now_ns().saturating_sub(left_ns).max(1));
            }
            Err(why) => {
                let waited = if waited { "had to wait and" } else { "did not wait and" };
                io.fail(format!("player {peer} {waited} got {}: {why}", show(text)));
            }
        }
        self.free(peer);
        self.go_on(io, peer);
    }

    /// Whether a match is one that had to be; its session, and when the request left that completed it.
    fn check(
        &mut self,
        io: &mut Io,
        peer: usize,
        message: &Message<'_>,
        text: &[u8],
    ) -> Result<(String, u64), &'static str> {
        let player = &self.players[peer];
        let matched: Matched<'_> = message.payload_as().ok_or("the payload is not that of a match")?;
        if message.namespace != Some(&player.namespace) || matched.namespace != player.namespace {
            return Err("another namespace");
        }
        let session = matched.session_id;
        let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        if session.len() != 32 || !session.as_bytes().iter().all(is_hex) {
            return Err("a session of another form");
        }
        if session == player.session {
            return Err("the same match again");
        }
        let [first, last] = &matched.peers[..] else {
            return Err("not two players");
        };
        let number = |of: &Peer<'_>| self.by_fingerprint.get(of.fingerprint).copied();
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return Err("a player whom nobody knows");
        };
        let waited = player.state == State::Waiting;
        let other = match peer {
            peer if peer == first && first != last && waited => last,
            peer if peer == last && first != last && !waited => first,
            _ => return Err("it is in the wrong place"),
        };
        if let Some(half) = self.half.remove(session) {
            if half.other != peer || half.text != text {
                return Err("the other was told something else");
            }
            io.counts.arrived += 1;
            return Ok((session.to_owned(), half.left_ns));
        }
        let partner = &self.players[other];
        if partner.class != player.class {
            return Err("the other wants something else");
        }
        // Which of them waits is known to both only when both have read their answers.
        let possible = match partner.state {
            State::Free => false,
            State::Asked => true,
            State::Waiting => other == first,
        };
        if !possible {
            return Err("the other did not ask");
        }
        let half = Half {
            text: text.to_vec(),
            other,
            left_ns: self.players[last].left_ns,
        };
        let left_ns = half.left_ns;
        self.half.insert(session.to_owned(), half);
        Ok((session.to_owned(), left_ns))
    }
}

impl Scenario for Matching {
    fn peers(&self) -> usize {
        self.playing + self.others
    }

    fn on_ready(&mut self, io: &mut Io, slot: usize) {
        let peer = io.links[slot].peer;
        match self.players.get_mut(peer) {
            Some(player) => player.slot = slot,
            None => self.ask_everywhere(io, peer, slot),
        }
    }

    /// What is measured is measured with all of them waiting.
    fn settle(&mut self, io: &mut Io) -> bool {
        self.unanswered == 0 || io.failed > 0
    }

    fn start(&mut self, io: &mut Io) {
        if self.meeting.is_some() {
            return io.fail("those who waited were met: there is no other round");
        }
        (self.sending, self.paused) = (true, false);
        let now_ns = io.now_ns();
        self.pace.begin(now_ns);
        if !self.pace.is_open() {
            for peer in 0..self.playing {
                // Who waits since the last round is still in the queue.
                if self.players[peer].state == State::Free {
                    self.ask(io, peer, now_ns);
                }
            }
        }
    }

    fn pause(&mut self, _io: &mut Io) {
        self.sending = false;
        self.paused = true;
        self.players.iter_mut().for_each(|player| player.owed.clear());
    }

    fn is_quiet(&self) -> bool {
        self.is_calm() && (!self.meet || self.meeting.as_ref().is_some_and(Meeting::is_over))
    }

    fn describe_missing(&self) -> String {
        let unmatched = self.waiting.iter().filter(|waiting| **waiting > 1).count();
        format!(
            "{} requests have no answer, {} matches were told to one player only, in {unmatched} queues of {} players wait \
             who fit; of those who waited beside them {} requests were met",
            self.asked,
            self.half.len(),
            self.namespace_size,
            self.meeting.as_ref().map_or(0, Meeting::met),
        )
    }

    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        let peer = io.links[slot].peer;
        match peer < self.playing {
            _ if self.meeting.is_some() => inbox::each(io, slot, bytes, |io, text| self.on_met(io, peer, text)),
            true => inbox::each(io, slot, bytes, |io, text| self.on_text(io, peer, text)),
            false => inbox::each(io, slot, bytes, |io, text| self.on_waiting(io, peer, text)),
        }
    }

    fn on_turn(&mut self, io: &mut Io) -> Option<Duration> {
        if self.meet && self.meeting.is_none() && self.paused && self.is_calm() {
            let fingerprints = (0..self.peers())
                .map(|peer| setup::fingerprint(&io.job, peer))
                .collect();
            self.meeting = Some(Meeting::new(io.now_ns(), self.playing, self.waits, fingerprints));
            (0..self.playing).for_each(|player| self.meet_next(io, player));
        }
        if !self.pace.is_open() || !self.sending || self.playing == 0 {
            return None;
        }
        while let Some((index, at_ns)) = self.pace.take(io.now_ns()) {
            let peer = index % self.playing;
            match self.players[peer].state {
                State::Free => self.ask(io, peer, at_ns),
                State::Asked | State::Waiting => self.players[peer].owed.push_back(at_ns),
            }
        }
        // The poll sleeps in whole milliseconds, which is too long: it spins.
        Some(Duration::ZERO)
    }
}

/// What a player asks for: an opponent.
fn request(namespace: &str, criteria: &str) -> String {
    format!(r#"{{"type":"match","payload":{{"namespace":"{namespace}","group_size":2,"criteria":{criteria}}}}}"#)
}
