//! `rooms`: an owner creates a room, members join one after the other, one asks about it, one is kicked, the others leave, the
//! last first, and the owner kicks itself, with which the room must be gone: the next is created under the same name.
//! Closed loop: at once. Open loop (`rate`): rooms are created at fixed times, and the latency of the creation counts from
//! when it should have been.
//!
//! Owns: the proof that each answer and each event reaches exactly those who should get it, once.
//! Never: takes a step before all have heard of the last one; what comes late or twice is then plain to see.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::Value;

use super::message::{self, Message, show};
use super::pace::Pace;
use super::{Scenario, inbox, share};
use crate::worker::io::Io;
use crate::worker::protocol::Job;
use crate::worker::setup;

/// A worker's rooms. Peer 0 of each owns it.
pub struct Rooms {
    rooms: Vec<Room>,
    steps: Vec<Step>,
    members: usize,
    slots: Vec<usize>,
    pace: Pace,
    sending: bool,
}

struct Room {
    name: String,
    fingerprints: Vec<String>,
    /// The request of each step.
    requests: Vec<Vec<u8>>,
    /// What each member gets in each step, once it was found to be right: it is the same in each cycle.
    known: Vec<Option<Vec<u8>>>,
    /// The step that is under way.
    step: Option<usize>,
    left_ns: u64,
    /// Members who must still hear of it: a bit each.
    unheard: u32,
    /// When creations were due that could not be, as the room was there.
    owed: VecDeque<u64>,
}

/// What happens to a room. The number is that of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Create,
    Join(usize),
    Info(usize),
    Kick(usize),
    Leave(usize),
}

impl Step {
    /// The cycle of a room with so many members.
    fn cycle(members: usize) -> Vec<Self> {
        let mut steps = vec![Self::Create];
        steps.extend((1..members).map(Self::Join));
        steps.extend([Self::Info(members - 1), Self::Kick(members - 1)]);
        steps.extend((1..members - 1).rev().map(Self::Leave));
        steps.push(Self::Kick(0));
        steps
    }

    /// Who asks for it.
    fn actor(self) -> usize {
        match self {
            Self::Create | Self::Kick(_) => 0,
            Self::Join(member) | Self::Info(member) | Self::Leave(member) => member,
        }
    }

    /// Who must hear of it: a bit for each member. All whose number is below the last one's are there.
    fn heard_by(self) -> u32 {
        let below = |member: usize| (1_u32 << member) - 1;
        match self {
            Self::Create => 1,
            Self::Join(member) | Self::Kick(member) => below(member + 1),
            Self::Info(member) => 1 << member,
            Self::Leave(member) => below(member),
        }
    }

    fn request(self, room: &str, fingerprints: &[String]) -> String {
        let max_size = fingerprints.len();
        match self {
            Self::Create => {
                format!(r#"{{"type":"create_room","payload":{{"room_id":"{room}","max_size":{max_size}}}}}"#)
            }
            Self::Join(_) => format!(r#"{{"type":"join_room","payload":{{"room_id":"{room}"}}}}"#),
            Self::Info(_) => format!(r#"{{"type":"room_info","payload":{{"room_id":"{room}"}}}}"#),
            Self::Kick(member) => {
                let target = &fingerprints[member];
                format!(r#"{{"type":"kick","payload":{{"room_id":"{room}","fingerprint":"{target}"}}}}"#)
            }
            Self::Leave(_) => format!(r#"{{"type":"leave","payload":{{"namespace":"{room}"}}}}"#),
        }
    }

    /// Whether `message` is what `member` must hear of it.
    fn is_told_by(self, message: &Message<'_>, member: usize, room: &str, fingerprints: &[String]) -> bool {
        let payload: Value = message.payload_as().unwrap_or_default();
        let size = fingerprints.len();
        let from = |member: usize| message.from == Some(&fingerprints[member]);
        match (self, message.kind) {
            (Self::Create, "room_created") => {
                payload["room_id"] == room && payload["max_size"] == size && payload["owner"] == *fingerprints[0]
            }
            (Self::Join(joiner), "peer_list") if member == joiner => {
                let mut listed: Vec<&str> = payload["peers"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|peer| peer["fingerprint"].as_str())
                    .collect();
                let mut there: Vec<&str> = fingerprints[..=joiner].iter().map(String::as_str).collect();
                listed.sort_unstable();
                there.sort_unstable();
                payload["namespace"] == room && payload["total"] == joiner + 1 && listed == there
            }
            (Self::Join(joiner), "peer_joined") if member != joiner => {
                from(joiner)
                    && message.namespace == Some(room)
                    && payload["fingerprint"] == *fingerprints[joiner]
                    && payload["app_type"] == "room"
            }
            (Self::Info(_), "room_info") => {
                payload["room_id"] == room
                    && payload["peer_count"] == size
                    && payload["max_size"] == size
                    && payload["owner"] == *fingerprints[0]
            }
            (Self::Kick(target), "kick") if member == target => {
                from(0) && payload["room_id"] == room && payload["fingerprint"] == *fingerprints[target]
            }
            (Self::Kick(gone) | Self::Leave(gone), "peer_left") if member != gone => {
                from(gone) && message.namespace == Some(room)
            }
            _ => false,
        }
    }
}

impl Rooms {
    /// The worker's share of rooms.
    pub fn new(job: &Job) -> Self {
        let members = job.workload.namespace_size;
        let steps = Step::cycle(members);
        let room = |index: usize| {
            let name = setup::namespace(job, &format!("room-{index}"));
            let peers = index * members..(index + 1) * members;
            let fingerprints: Vec<String> = peers.map(|peer| setup::fingerprint(job, peer)).collect();
            let request = |step: &Step| message::frame(&step.request(&name, &fingerprints), job.workload.compression);
            Room {
                requests: steps.iter().map(request).collect(),
                known: vec![None; steps.len() * members],
                name,
                fingerprints,
                step: None,
                left_ns: 0,
                unheard: 0,
                owed: VecDeque::new(),
            }
        };
        let wanted = share(job, job.workload.rooms());
        Self {
            rooms: (0..wanted).map(room).collect(),
            steps,
            members,
            slots: vec![usize::MAX; wanted * members],
            pace: Pace::new(job),
            sending: false,
        }
    }

    /// Sends the request of a step.
    fn take_step(&mut self, io: &mut Io, index: usize, step: usize, left_ns: u64) {
        let room = &mut self.rooms[index];
        room.step = Some(step);
        room.left_ns = left_ns;
        room.unheard = self.steps[step].heard_by();
        let slot = self.slots[index * self.members + self.steps[step].actor()];
        // A connection that was lost has failed the run already.
        if io.links.contains(slot) {
            io.counts.sent += 1;
            io.append(slot, |out| out.extend_from_slice(&room.requests[step]));
        }
    }

    /// All have heard of a step.
    fn go_on(&mut self, io: &mut Io, index: usize, step: usize) {
        let now_ns = io.now_ns();
        if step + 1 < self.steps.len() {
            return self.take_step(io, index, step + 1, now_ns);
        }
        self.rooms[index].step = None;
        if !self.sending {
            return;
        }
        let next_ns = match self.pace.is_open() {
            true => self.rooms[index].owed.pop_front(),
            false => Some(now_ns),
        };
        if let Some(left_ns) = next_ns {
            self.take_step(io, index, 0, left_ns);
        }
    }

    fn on_text(&mut self, io: &mut Io, index: usize, member: usize, text: &[u8]) {
        let room = &mut self.rooms[index];
        let Some(step) = room.step.filter(|_| room.unheard >> member & 1 == 1) else {
            return self.on_other(io, index, member, text);
        };
        let known = &mut room.known[step * self.members + member];
        if known.as_deref() != Some(text) {
            let told = Message::read(text)
                .is_some_and(|message| self.steps[step].is_told_by(&message, member, &room.name, &room.fingerprints));
            if !told {
                return self.on_other(io, index, member, text);
            }
            *known = Some(text.to_vec());
        }
        room.unheard &= !(1 << member);
        io.counts.arrived += 1;
        io.latency.saturating_record((io.now_ns() - room.left_ns).max(1));
        if room.unheard == 0 {
            self.go_on(io, index, step);
        }
    }

    /// A refusal, after which the step is tried again, or a fault.
    fn on_other(&mut self, io: &mut Io, index: usize, member: usize, text: &[u8]) {
        let room = &self.rooms[index];
        let refused = Message::read(text).is_some_and(|message| message.is_refusal());
        match room.step {
            Some(step)
                if refused && self.steps[step].actor() == member && room.unheard == self.steps[step].heard_by() =>
            {
                io.counts.refused += 1;
                let left_ns = room.left_ns;
                self.take_step(io, index, step, left_ns);
            }
            step => {
                let step = step.map(|step| self.steps[step]);
                io.fail(format!("room {index} at {step:?}: member {member} got {}", show(text)));
            }
        }
    }
}

impl Scenario for Rooms {
    fn peers(&self) -> usize {
        self.slots.len()
    }

    fn on_ready(&mut self, io: &mut Io, slot: usize) {
        self.slots[io.links[slot].peer] = slot;
    }

    fn start(&mut self, io: &mut Io) {
        self.sending = true;
        let now_ns = io.now_ns();
        self.pace.begin(now_ns);
        for index in 0..self.rooms.len() {
            if !self.pace.is_open() && self.rooms[index].step.is_none() {
                self.take_step(io, index, 0, now_ns);
            }
        }
    }

    fn pause(&mut self, _io: &mut Io) {
        self.sending = false;
        self.rooms.iter_mut().for_each(|room| room.owed.clear());
    }

    fn is_quiet(&self) -> bool {
        self.rooms.iter().all(|room| room.step.is_none())
    }

    fn describe_missing(&self) -> String {
        let stuck = self.rooms.iter().enumerate().filter_map(|(index, room)| {
            let step = self.steps[room.step?];
            let unheard = room.unheard.count_ones();
            Some(format!(
                "room {index} at {step:?}: {unheard} members did not hear of it"
            ))
        });
        stuck.take(3).collect::<Vec<_>>().join("; ")
    }

    fn on_input(&mut self, io: &mut Io, slot: usize, bytes: &[u8]) -> usize {
        let (index, member) = (io.links[slot].peer / self.members, io.links[slot].peer % self.members);
        inbox::each(io, slot, bytes, |io, text| self.on_text(io, index, member, text))
    }

    fn on_turn(&mut self, io: &mut Io) -> Option<Duration> {
        if !self.pace.is_open() || !self.sending || self.rooms.is_empty() {
            return None;
        }
        while let Some((count, at_ns)) = self.pace.take(io.now_ns()) {
            let index = count % self.rooms.len();
            match self.rooms[index].step {
                None => self.take_step(io, index, 0, at_ns),
                Some(_) => self.rooms[index].owed.push_back(at_ns),
            }
        }
        // The poll sleeps in whole milliseconds, which is too long: it spins.
        Some(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_room_ends_as_empty_as_it_began() {
        for members in 2..=30 {
            let mut there = 0_u32;
            for step in Step::cycle(members) {
                match step {
                    Step::Create => there |= 1,
                    Step::Join(member) => there |= 1 << member,
                    Step::Info(member) => assert!(there >> member & 1 == 1),
                    Step::Kick(member) | Step::Leave(member) => there &= !(1 << member),
                }
                assert_eq!(
                    step.heard_by() & !there,
                    match step {
                        Step::Kick(target) => 1 << target,
                        _ => 0,
                    }
                );
            }
            assert_eq!(there, 0, "{members} members");
        }
    }

    #[test]
    fn who_should_hear_something_else_or_nothing_is_not_content() {
        let fingerprints = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let told = |step: Step, member: usize, text: &str| {
            step.is_told_by(&Message::read(text.as_bytes()).unwrap(), member, "r", &fingerprints)
        };
        let left = r#"{"type":"peer_left","from":"c","namespace":"r"}"#;
        assert!(told(Step::Kick(2), 0, left));
        assert!(!told(Step::Kick(2), 2, left), "the kicked one gets `kick`");
        assert!(!told(Step::Leave(1), 0, left), "another left");
        assert!(!told(Step::Join(2), 0, left));
        let list = r#"{"type":"peer_list","payload":{"namespace":"r","peers":[{"fingerprint":"b"},{"fingerprint":"a"}],"total":2}}"#;
        assert!(told(Step::Join(1), 1, list));
        assert!(!told(Step::Join(2), 2, list), "it is not in its own list");
    }
}
