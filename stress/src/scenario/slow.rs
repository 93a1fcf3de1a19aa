//! `slow-readers`: pairs signal as in `signal`, while each of `peers` others is talked to by a peer of its own, by signals and
//! broadcasts, and again and again reads nothing for `stall` seconds. What counts, and what latencies are of, is the pairs'.
//!
//! The proof: what is sent to a slow reader arrives once, in order and unchanged when it reads again, or its sender is told
//! that it was refused; or the server cuts the slow reader off, as documented, and its sender is told that it left. That
//! talker is silent from then on. No message of the pairs is refused. The server's memory grows by no more than what is
//! under way.
//!
//! Owns: the slow readers and who talks to them.
//! Never: slows down the pairs: `stall=0` gives the same work with readers that read.

use std::time::Duration;

use serde_json::Value;

use super::pattern::{Expected, Outgoing, payload};
use super::signal::Signal;
use super::{Scenario, inbox, share};
use crate::control::sample;
use crate::worker::io::Io;
use crate::worker::protocol::Job;
use crate::worker::setup;

/// Messages a second to each slow reader.
const TALK_PER_SECOND: u64 = 1000;
/// Messages that are made up for at once, after the generator was late.
const BURST_MAX: usize = 64;
/// Kernel's receive buffer of a slow reader: a small one is full soon.
const RECEIVE_BYTES: usize = 32 * 1024;
/// What the server's memory may grow by besides what is under way.
const GROWTH_MAX: u64 = 64 << 20;

/// A worker's pairs, and its slow readers.
pub struct SlowReaders {
    pairs: Signal,
    wanted: usize,
    size: usize,
    stall_ns: u64,
    sending: bool,
    slots: Vec<usize>,
    talks: Vec<Talk>,
    /// Of the server, before anything is sent.
    rss: u64,
}

/// A slow reader and its talker.
struct Talk {
    talker: usize,
    reader: usize,
    phase: Phase,
    /// Signals and broadcasts.
    streams: [Stream; 2],
    /// Fingerprint of the talker.
    from: String,
    due_ns: u64,
    turn: usize,
    /// Whether the talker was told that the reader has left.
    told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reading,
    StalledUntil(u64),
    /// Until so many signals and broadcasts have arrived or were refused.
    CatchingUp([u64; 2]),
    Gone,
}

struct Stream {
    kind: &'static str,
    outgoing: Outgoing,
    payload: String,
    digits_at: usize,
    expected: Option<Expected>,
    next: u64,
    sent: u64,
    arrived: u64,
    refused: u64,
}

impl Stream {
    fn new(kind: &'static str, (head, tail): (&str, &str), index: usize, size: usize, compressed: bool) -> Self {
        let (payload, digits_at) = payload(index, size);
        Self {
            kind,
            outgoing: Outgoing::new(&format!("{head}{payload}{tail}"), head.len() + digits_at, compressed),
            payload,
            digits_at,
            expected: None,
            next: 1,
            sent: 0,
            arrived: 0,
            refused: 0,
        }
    }

    fn done(&self) -> u64 {
        self.arrived + self.refused
    }

    /// The next message, if `bytes` begin with it byte for byte.
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        let expected = self.expected.as_mut()?;
        let len = expected.matches(bytes)?;
        expected.advance();
        self.next += 1;
        self.arrived += 1;
        Some(len)
    }

    /// A message that is not just the next: the first, or one after a refusal. Whether it is right.
    fn recognise(&mut self, message: &Value) -> bool {
        let data = match self.kind {
            "signal" => &message["payload"],
            _ => &message["payload"]["data"],
        };
        let own: Value = serde_json::from_str(&self.payload).unwrap_or_default();
        let number = data["n"].as_str().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        let right = data["pair"] == own["pair"] && data["sdp"] == own["sdp"];
        if !right || !(self.next..=self.sent).contains(&number) {
            return false;
        }
        self.next = number + 1;
        self.arrived += 1;
        self.expected = None;
        true
    }
}

impl SlowReaders {
    /// The worker's share of pairs and of slow readers.
    pub fn new(job: &Job) -> Self {
        let mut quick = job.clone();
        (quick.workload.peers, quick.workload.namespace_size) = (0, 2);
        let wanted = share(job, job.workload.peers);
        Self {
            pairs: Signal::new(&quick),
            wanted,
            size: job.workload.size,
            stall_ns: (job.workload.stall * 1e9) as u64,
            sending: false,
            slots: vec![usize::MAX; 2 * wanted],
            talks: Vec::new(),
            rss: 0,
        }
    }

    /// Which talk a peer belongs to, and whether it is the reader; None: it is one of the pairs.
    fn place(&self, peer: usize) -> Option<(usize, bool)> {
        let place = peer.checked_sub(self.pairs.peers())?;
        Some((place / 2, place % 2 == 1))
    }

    fn talk(&mut self, io: &mut Io) {
        let now_ns = io.now_ns();
        for talk in self.talks.iter_mut().filter(|talk| !talk.told) {
            for _ in 0..BURST_MAX {
                if talk.due_ns > now_ns || !io.links.contains(talk.talker) {
                    break;
                }
                let stream = &mut talk.streams[talk.turn % 2];
                let outgoing = &mut stream.outgoing;
                io.append(talk.talker, |out| outgoing.push(out, 1));
                stream.sent += 1;
                talk.turn += 1;
                talk.due_ns += 1_000_000_000 / TALK_PER_SECOND;
            }
            talk.due_ns = talk.due_ns.max(now_ns);
        }
    }

    /// Lets those stall who read, and those read who have stalled.
    fn pace(&mut self, io: &mut Io) {
        let now_ns = io.now_ns();
        let mut is_over = false;
        for talk in &mut self.talks {
            if !io.links.contains(talk.reader) {
                continue;
            }
            talk.phase = match talk.phase {
                Phase::Reading if self.sending && self.stall_ns > 0 => {
                    io.stall(talk.reader, true);
                    Phase::StalledUntil(now_ns + self.stall_ns)
                }
                Phase::StalledUntil(until_ns) if until_ns <= now_ns || !self.sending => {
                    io.stall(talk.reader, false);
                    is_over = true;
                    Phase::CatchingUp([talk.streams[0].sent, talk.streams[1].sent])
                }
                Phase::CatchingUp(marks)
                    if !talk.told
                        && marks
                            .iter()
                            .zip(&talk.streams)
                            .all(|(mark, stream)| stream.done() >= *mark) =>
                {
                    Phase::Reading
                }
                phase @ (Phase::Reading | Phase::StalledUntil(_) | Phase::CatchingUp(_) | Phase::Gone) => phase,
            };
        }
        if is_over {
            self.check_memory(io);
        }
    }

    fn check_memory(&self, io: &mut Io) {
        let Some(pid) = io.job.pid else { return };
        let streams = self.talks.iter().flat_map(|talk| &talk.streams);
        let under_way: u64 = streams.map(|stream| stream.sent.saturating_sub(stream.done())).sum();
        // A frame is its payload, and less than 512 bytes around it; other workers have as many under way.
        let bytes = 2 * under_way * (self.size as u64 + 512) * io.job.workers as u64;
        let grown = sample::take(pid).rss.saturating_sub(self.rss);
        if grown > bytes + GROWTH_MAX {
            io.fail(format!(
                "the server has grown by {grown} bytes with {under_way} messages under way"
            ));
        }
    }

    fn on_reader(&mut self, io: &mut Io, index: usize, slot: usize, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let [signals, broadcasts] = &mut self.talks[index].streams;
            let rest = &bytes[at..];
            if let Some(len) = signals.take(rest).or_else(|| broadcasts.take(rest)) {
                at += len;
                continue;
            }
            let used = inbox::one(io, slot, rest, &mut |io, text| self.on_text(io, index, text));
            if used == 0 {
                return at;
            }
            for stream in &mut self.talks[index].streams {
                if stream.expected.is_none() && stream.next > 1 {
                    let (payload, digits_at) = (&stream.payload, stream.digits_at);
                    let whole = &rest[..used];
                    // Of the other kind's frame nothing is to be learned.
                    if contains(whole, stream.kind.as_bytes()) {
                        stream.expected = Expected::learn(whole, payload, digits_at, stream.next - 1);
                    }
                }
            }
            at += used;
        }
    }

    fn on_text(&mut self, io: &mut Io, index: usize, text: &[u8]) {
        let message: Value = serde_json::from_slice(text).unwrap_or_default();
        let kind = message["type"].as_str().unwrap_or_default();
        if kind == "peer_joined" {
            return;
        }
        let talk = &mut self.talks[index];
        let right = message["from"] == *talk.from;
        let stream = talk.streams.iter_mut().find(|stream| stream.kind == kind);
        if !right || !stream.is_some_and(|stream| stream.recognise(&message)) {
            io.fail(format!("slow reader {index} got {message}"));
        }
    }

    fn on_talker(&mut self, io: &mut Io, index: usize, slot: usize, bytes: &[u8]) -> usize {
        inbox::each(io, slot, bytes, |io, text| {
            let message: Value = serde_json::from_slice(text).unwrap_or_default();
            let talk = &mut self.talks[index];
            let (code, words) = (
                message["payload"]["code"].as_u64(),
                message["payload"]["message"].as_str().unwrap_or_default(),
            );
            let refused = match (message["type"].as_str().unwrap_or_default(), code, words) {
                ("peer_joined", ..) => return,
                ("peer_left", ..) => {
                    talk.told = true;
                    return;
                }
                ("error", Some(429), "peer send buffer full") => 0,
                ("error", Some(429), "send buffer full for 1 peers") => 1,
                ("error", Some(403 | 404), _) if talk.told => 0,
                _ => return io.fail(format!("the talker of slow reader {index} got {message}")),
            };
            talk.streams[refused].refused += 1;
            io.counts.refused += 1;
        })
    }
}

impl Scenario for SlowReaders {
    fn peers(&self) -> usize {
        self.pairs.peers() + 2 * self.wanted
    }

    fn namespaces(&self, peer: usize) -> Vec<String> {
        match self.place(peer) {
            None => self.pairs.namespaces(peer),
            Some((index, _)) => vec![format!("slow-{index}")],
        }
    }

    fn on_ready(&mut self, io: &mut Io, slot: usize) {
        let peer = io.links[slot].peer;
        match self.place(peer) {
            None => self.pairs.on_ready(io, slot),
            Some((index, is_reader)) => {
                self.slots[2 * index + usize::from(is_reader)] = slot;
                if is_reader {
                    io.narrow(slot, RECEIVE_BYTES);
                }
            }
        }
    }

    fn prepare(&mut self, io: &mut Io) -> Result<(), String> {
        self.pairs.prepare(io)?;
        self.rss = io.job.pid.map_or(0, |pid| sample::take(pid).rss);
        let compressed = io.job.workload.compression;
        for index in 0..self.wanted {
            let talker = self.pairs.peers() + 2 * index;
            let to = setup::fingerprint(&io.job, talker + 1);
            let name = setup::namespace(&io.job, &format!("slow-{index}"));
            let signal = format!(r#"{{"type":"signal","to":"{to}","payload":"#);
            let broadcast = format!(r#"{{"type":"broadcast","payload":{{"namespace":"{name}","data":"#);
            self.talks.push(Talk {
                talker: self.slots[2 * index],
                reader: self.slots[2 * index + 1],
                phase: Phase::Reading,
                streams: [
                    Stream::new("signal", (&signal, "}"), index, self.size, compressed),
                    Stream::new("broadcast", (&broadcast, "}}"), index, self.size, compressed),
                ],
                from: setup::fingerprint(&io.job, talker),
                due_ns: 0,
                turn: 0,
                told: false,
            });
        }
        Ok(())
    }

    fn start(&mut self, io: &mut Io) {
        self.sending = true;
        let now_ns = io.now_ns();
        self.talks.iter_mut().for_each(|talk| talk.due_ns = now_ns);
        self.pairs.start(io);
    }

    fn pause(&mut self, io: &mut Io) {
        self.sending = false;
        self.pairs.pause(io);
    }

    fn is_quiet(&self) -> bool {
        let is_quiet = |talk: &Talk| match talk.phase {
            Phase::Gone => talk.told,
            Phase::Reading => talk.streams.iter().all(|stream| stream.done() == stream.sent),
            Phase::StalledUntil(_) | Phase::CatchingUp(_) => false,
        };
        self.pairs.is_quiet() && self.talks.iter().all(is_quiet)
    }

    fn describe_missing(&self) -> String {
        let mut text = self.pairs.describe_missing();
        for (index, talk) in self.talks.iter().enumerate() {
            for stream in &talk.streams {
                if talk.phase != Phase::Gone && stream.done() != stream.sent {
                    let Stream {
                        kind,
                        sent,
                        arrived,
                        refused,
                        ..
                    } = stream;
                    text += &format!(
                        "; slow reader {index} ({:?}): of {sent} {kind}s {arrived} arrived and {refused} were refused",
                        talk.phase
                    );
                }
            }
            if talk.phase == Phase::Gone && !talk.told {
                text += &format!("; slow reader {index} was cut off and its talker not told");
            }
        }
        text
    }

    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        match self.place(io.links[slot].peer) {
            _ if self.talks.len() < self.wanted => inbox::each(io, slot, bytes, |_, _| {}),
            None => {
                let before = io.counts.refused;
                let used = self.pairs.on_input(io, slot, bytes);
                if io.counts.refused > before {
                    io.fail("a message between readers was refused");
                }
                used
            }
            Some((index, true)) => self.on_reader(io, index, slot, bytes),
            Some((index, false)) => self.on_talker(io, index, slot, bytes),
        }
    }

    fn on_turn(&mut self, io: &mut Io) -> Option<Duration> {
        self.pace(io);
        if self.sending {
            self.talk(io);
        }
        let wake = self.pairs.on_turn(io);
        let own = Duration::from_millis(1);
        Some(wake.map_or(own, |wake| wake.min(own)))
    }

    fn on_ended(&mut self, io: &mut Io, slot: usize, peer: usize, why: &str) {
        // Too much of the server's own for it, no sign of life, or no byte taken: the last is a cut without a word.
        let documented = ["1013 send buffer full", "1008 pong timeout"];
        let is_cut = !why.contains("closed by the server:") || documented.iter().any(|reason| why.contains(reason));
        match self.place(peer) {
            None => self.pairs.on_ended(io, slot, peer, why),
            Some((index, true)) if is_cut && self.talks[index].phase != Phase::Reading => {
                self.talks[index].phase = Phase::Gone;
            }
            Some((index, _)) => io.fail(format!("a peer of slow reader {index} lost its connection: {why}")),
        }
    }
}

fn contains(frame: &[u8], word: &[u8]) -> bool {
    let head = &frame[..frame.len().min(40)];
    head.windows(word.len()).any(|window| window == word)
}
