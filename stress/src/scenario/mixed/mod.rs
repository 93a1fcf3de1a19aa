//! `mixed`: a game night. At `rate` peers a second, a peer comes to its lobby, asks for an opponent, negotiates with whom it
//! gets (an offer, an answer, ten candidates each way), and is idle until its seat is wanted again; then it goes home, and
//! the next comes, with a connection of its own. The first of each seat is connected beforehand.
//!
//! Owns: the proof that all know who is in their lobby and no one else, that matches are of two who asked, told to both, and
//! that each signal arrives once, in order, unchanged.
//! Never: begins an evening on a seat whose last is not over.

mod seat;

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;

use self::seat::{SIGNALS, Seat, State, uninformed};
use super::message::{self, Message, Peer, show};
use super::pace::Pace;
use super::pattern::description;
use super::{Scenario, inbox, share};
use crate::worker::frames;
use crate::worker::io::Io;
use crate::worker::protocol::Job;
use crate::worker::setup::Fault;

/// Without a rate: evenings that begin at once.
const BUSY_MAX: usize = 64;

/// A worker's seats.
pub struct Mixed {
    seats: Vec<Seat>,
    lobby_size: usize,
    by_fingerprint: HashMap<String, usize>,
    /// The text of offers and answers.
    sdp: String,
    pace: Pace,
    sending: bool,
    /// The seat on which the next evening begins.
    next: usize,
    /// Seats on which something is under way.
    busy: usize,
}

#[derive(Deserialize)]
struct List<'a> {
    namespace: &'a str,
    #[serde(borrow)]
    peers: Vec<Peer<'a>>,
    total: usize,
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

impl Mixed {
    /// The worker's share of seats.
    pub fn new(job: &Job) -> Self {
        let seats = share(job, job.workload.peers_or_some());
        let lobby_size = job.workload.namespace_size;
        let seats: Vec<Seat> = (0..seats).map(|peer| Seat::new(job, peer)).collect();
        let frame = seats.first().map_or(0, |seat| seat.signal(1, "").len());
        Self {
            by_fingerprint: seats
                .iter()
                .enumerate()
                .map(|(at, seat)| (seat.fingerprint.clone(), at))
                .collect(),
            seats,
            lobby_size,
            sdp: description(job.workload.size.saturating_sub(frame)),
            pace: Pace::new(job),
            sending: false,
            next: 0,
            busy: 0,
        }
    }

    fn set(&mut self, at: usize, state: State) {
        let was = std::mem::replace(&mut self.seats[at].state, state);
        self.busy = self.busy + usize::from(state.is_busy()) - usize::from(was.is_busy());
    }

    fn bit(&self, at: usize) -> u64 {
        1 << (at % self.lobby_size)
    }

    /// A peer of the same lobby.
    fn neighbour(&self, at: usize, fingerprint: Option<&str>) -> Option<usize> {
        let other = *self.by_fingerprint.get(fingerprint?)?;
        (other / self.lobby_size == at / self.lobby_size).then_some(other)
    }

    fn send(&mut self, io: &mut Io, at: usize, text: &str) {
        let slot = self.seats[at].slot;
        // A connection that was lost has failed the run already.
        if io.links.contains(slot) {
            io.counts.sent += 1;
            let frame = message::frame(text, io.job.workload.compression);
            io.append(slot, |out| out.extend_from_slice(&frame));
        }
    }

    /// Begins what is due.
    fn begin_due(&mut self, io: &mut Io) {
        for _ in 0..self.seats.len() {
            let at = self.next % self.seats.len();
            match self.seats[at].state {
                // Who waits is here already, and stays until somebody comes.
                State::Waiting | State::Lost => {
                    self.next += 1;
                    continue;
                }
                State::Home | State::Idle => {}
                State::Joining
                | State::Asked
                | State::Playing
                | State::Parting
                | State::Leaving
                | State::Connecting => break,
            }
            let is_due = match self.pace.is_open() {
                true => self.pace.take(io.now_ns()).is_some(),
                false => self.busy < BUSY_MAX,
            };
            if !is_due {
                break;
            }
            self.next += 1;
            match self.seats[at].state {
                State::Home => self.join(io, at),
                _ => self.part(io, at),
            }
        }
    }

    /// Asks who is there: whatever it should have been told was said before the answer.
    fn part(&mut self, io: &mut Io, at: usize) {
        self.set(at, State::Parting);
        let lobby = &self.seats[at].lobby;
        let text = format!(r#"{{"type":"discover","payload":{{"namespace":"{lobby}","limit":50}}}}"#);
        self.send(io, at, &text);
    }

    fn leave(&mut self, io: &mut Io, at: usize) {
        self.set(at, State::Leaving);
        let slot = self.seats[at].slot;
        if io.links.contains(slot) {
            // Ports are not to run out. Nothing is lost by it: who is idle has heard and said all.
            io.linger_not(slot);
            io.append(slot, |out| {
                frames::push(out, 8, false, &1000_u16.to_be_bytes());
            });
        }
    }

    fn join(&mut self, io: &mut Io, at: usize) {
        self.set(at, State::Joining);
        self.seats[at].begin();
        let text = format!(
            r#"{{"type":"join","payload":{{"namespace":"{}"}}}}"#,
            self.seats[at].lobby
        );
        self.send(io, at, &text);
    }

    fn ask(&mut self, io: &mut Io, at: usize) {
        self.set(at, State::Asked);
        let lobby = &self.seats[at].lobby;
        let text = format!(
            r#"{{"type":"match","payload":{{"namespace":"{lobby}","group_size":2,"criteria":{{"mode":"ranked"}}}}}}"#
        );
        self.send(io, at, &text);
    }

    /// All that one of a pair has to say.
    fn signal_all(&mut self, io: &mut Io, at: usize) {
        let Some(partner) = self.seats[at].partner.filter(|_| !self.seats[at].has_sent) else {
            return;
        };
        self.seats[at].has_sent = true;
        for number in 1..=SIGNALS {
            let payload = self.seats[at].signal(number, &self.sdp);
            let to = &self.seats[partner].fingerprint;
            let text = format!(r#"{{"type":"signal","to":"{to}","payload":{payload}}}"#);
            self.send(io, at, &text);
            self.seats[partner].left_ns.push_back(io.now_ns());
        }
    }

    fn on_text(&mut self, io: &mut Io, at: usize, text: &[u8]) {
        let outcome = match Message::read(text) {
            Some(message) if message.is_refusal() => self.on_refusal(io, at),
            Some(message) => self.on_message(io, at, &message),
            None => Err("it cannot be read"),
        };
        if let Err(why) = outcome {
            let state = self.seats[at].state;
            io.fail(format!("peer {at}, {state:?}, got {}: {why}", show(text)));
        }
    }

    fn on_message(&mut self, io: &mut Io, at: usize, message: &Message<'_>) -> Result<(), &'static str> {
        match (message.kind, self.seats[at].state) {
            ("peer_joined" | "peer_left", state) if state.has_lobby() => self.on_presence(at, message)?,
            ("peer_list", State::Joining) => {
                let others = self.others_listed(at, message)?;
                self.seats[at].listed(others);
                self.ask(io, at);
            }
            ("peer_list", State::Parting) => {
                let others = self.others_listed(at, message)?;
                if !self.seats[at].knows(others) {
                    return Err("it was told otherwise before");
                }
                self.leave(io, at);
            }
            ("match", State::Asked) if message.payload_as().is_some_and(|p: Waiting<'_>| p.status == "waiting") => {
                self.set(at, State::Waiting);
            }
            ("matched", State::Asked | State::Waiting) => self.on_matched(io, at, message)?,
            ("signal", State::Playing) => self.on_signal(io, at, message)?,
            _ => return Err("it has no place here"),
        }
        io.counts.arrived += 1;
        Ok(())
    }

    fn on_presence(&mut self, at: usize, message: &Message<'_>) -> Result<(), &'static str> {
        let other = self.neighbour(at, message.from).filter(|other| *other != at);
        let bit = self.bit(other.ok_or("it is about nobody of this lobby")?);
        let seat = &mut self.seats[at];
        if message.namespace != Some(&seat.lobby) {
            return Err("another lobby");
        }
        if message.kind == "peer_left" {
            return if seat.left(bit) {
                Ok(())
            } else {
                Err("it was not there")
            };
        }
        let peer: Peer<'_> = message.payload_as().ok_or("no peer in it")?;
        match seat.joined(bit) && Some(peer.fingerprint) == message.from {
            true => Ok(()),
            false => Err("it was there already, or it is another"),
        }
    }

    /// Whom a list of the lobby names besides the one who asked: a bit each.
    fn others_listed(&self, at: usize, message: &Message<'_>) -> Result<u64, &'static str> {
        let list: List<'_> = message.payload_as().ok_or("the payload is not a list")?;
        let mut there = 0;
        for peer in &list.peers {
            let other = self.neighbour(at, Some(peer.fingerprint));
            there |= self.bit(other.ok_or("somebody of another lobby")?);
        }
        let own = self.bit(at);
        let seat = &self.seats[at];
        let all = there.count_ones() as usize;
        if list.namespace != seat.lobby || there & own == 0 || list.total != all || list.peers.len() != all {
            return Err("another list than that of the lobby");
        }
        Ok(there & !own)
    }

    fn on_matched(&mut self, io: &mut Io, at: usize, message: &Message<'_>) -> Result<(), &'static str> {
        let matched: Matched<'_> = message.payload_as().ok_or("the payload is not that of a match")?;
        let seat = &self.seats[at];
        if message.namespace != Some(&seat.lobby) || matched.namespace != seat.lobby {
            return Err("another lobby");
        }
        let [first, last] = &matched.peers[..] else {
            return Err("not two players");
        };
        let number = |peer: &Peer<'_>| self.neighbour(at, Some(peer.fingerprint));
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return Err("a player of another lobby");
        };
        let waited = seat.state == State::Waiting;
        let other = match at {
            at if at == first && first != last && waited => last,
            at if at == last && first != last && !waited => first,
            _ => return Err("it is in the wrong place"),
        };
        let partner = &self.seats[other];
        let agreed = match partner.state {
            State::Playing => partner.partner == Some(at) && partner.session == matched.session_id,
            State::Asked => true,
            State::Waiting => other == first,
            _ => false,
        };
        if !agreed || matched.session_id == seat.session {
            return Err("the other did not ask, or was told something else");
        }
        self.set(at, State::Playing);
        let seat = &mut self.seats[at];
        seat.session = matched.session_id.to_owned();
        seat.partner = Some(other);
        seat.offers = at == first;
        if at == first {
            self.signal_all(io, at);
        }
        Ok(())
    }

    fn on_signal(&mut self, io: &mut Io, at: usize, message: &Message<'_>) -> Result<(), &'static str> {
        let partner = self.seats[at].partner.ok_or("it has no partner")?;
        let from = &self.seats[partner];
        let payload = message.payload.ok_or("no payload")?.get();
        if message.from != Some(&from.fingerprint) || message.to != Some(&self.seats[at].fingerprint) {
            return Err("it is not from its partner, or not to it");
        }
        // Those between were refused, or are lost: the count at the end tells which.
        let is_it = |number: &u64| from.signal(*number, &self.sdp) == payload;
        let number = (self.seats[at].next..=SIGNALS)
            .find(is_it)
            .ok_or("not a signal that was to come")?;
        let seat = &mut self.seats[at];
        for _ in seat.next..number {
            seat.left_ns.pop_front();
        }
        let left_ns = seat.left_ns.pop_front().ok_or("it was not sent yet")?;
        seat.next = number + 1;
        seat.arrived += 1;
        io.latency.saturating_record((io.now_ns() - left_ns).max(1));
        self.signal_all(io, at);
        self.settle(at, partner);
        Ok(())
    }

    fn on_refusal(&mut self, io: &mut Io, at: usize) -> Result<(), &'static str> {
        match self.seats[at].state {
            State::Joining => self.join(io, at),
            State::Asked => self.ask(io, at),
            State::Parting => self.part(io, at),
            State::Playing => {
                self.seats[at].refused += 1;
                if let Some(partner) = self.seats[at].partner {
                    self.settle(at, partner);
                }
            }
            _ => return Err("it asked for nothing"),
        }
        io.counts.refused += 1;
        Ok(())
    }

    /// Two who have heard, or know that it was refused, what each has to say are done.
    fn settle(&mut self, one: usize, other: usize) {
        let is_done = |from: usize, to: usize| self.seats[to].arrived + self.seats[from].refused == SIGNALS;
        let in_play = [one, other].iter().all(|at| self.seats[*at].state == State::Playing);
        if in_play && is_done(one, other) && is_done(other, one) {
            for at in [one, other] {
                self.set(at, State::Idle);
                self.seats[at].partner = None;
            }
        }
    }

    /// Those who do not know who is in their lobby.
    fn uninformed(&self) -> usize {
        let lobbies = self.seats.chunks(self.lobby_size);
        lobbies.map(uninformed).sum()
    }

    /// Lobbies in which two wait for each other.
    fn unmatched(&self) -> usize {
        let waiting = |lobby: &&[Seat]| lobby.iter().filter(|seat| seat.state == State::Waiting).count() > 1;
        self.seats.chunks(self.lobby_size).filter(waiting).count()
    }
}

impl Scenario for Mixed {
    fn peers(&self) -> usize {
        self.seats.len()
    }

    fn on_ready(&mut self, io: &mut Io, slot: usize) {
        let at = io.links[slot].peer;
        self.seats[at].slot = slot;
        if self.seats[at].state == State::Connecting {
            self.join(io, at);
        }
    }

    fn start(&mut self, io: &mut Io) {
        self.sending = true;
        self.pace.begin(io.now_ns());
        self.begin_due(io);
    }

    fn pause(&mut self, _io: &mut Io) {
        self.sending = false;
    }

    fn is_quiet(&self) -> bool {
        self.busy == 0 && self.unmatched() == 0 && self.uninformed() == 0
    }

    fn describe_missing(&self) -> String {
        format!(
            "{} evenings are stuck, {} peers do not know who is in their lobby, in {} lobbies two wait for each other",
            self.busy,
            self.uninformed(),
            self.unmatched()
        )
    }

    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        let at = io.links[slot].peer;
        inbox::each(io, slot, bytes, |io, text| self.on_text(io, at, text))
    }

    fn on_turn(&mut self, io: &mut Io) -> Option<Duration> {
        if !self.sending || self.seats.is_empty() {
            return None;
        }
        self.begin_due(io);
        // A millisecond does not matter to who has the evening before it; signals are not paced.
        let wait_ns = self.pace.next_ns().saturating_sub(io.now_ns()).max(1_000_000);
        self.pace.is_open().then(|| Duration::from_nanos(wait_ns))
    }

    fn on_fault(&mut self, io: &mut Io, peer: usize, fault: &Fault) {
        self.set(peer, State::Lost);
        match fault.refused {
            // The seat stays empty.
            true => io.counts.refused += 1,
            false => io.fail(format!("peer {peer}: {}", fault.why)),
        }
    }

    fn on_ended(&mut self, io: &mut Io, _slot: usize, peer: usize, why: &str) {
        if self.seats[peer].state == State::Leaving {
            self.set(peer, State::Connecting);
            return io.wanted.push_back(peer);
        }
        self.set(peer, State::Lost);
        io.fail(format!("peer {peer} lost its connection: {why}"));
    }
}
