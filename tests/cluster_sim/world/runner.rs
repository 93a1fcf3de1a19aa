//! The broker's threads of a node: lease, commands, inbox, and what the loops are told when all of that is lost.
//!
//! Owns: the order on the way up and down (`docs/decisions/cluster.md`, Lease).
//! Never: decides anything; a shard or the model does.

use peer_server::broker::{LEASE, RENEW};

use super::traffic::Heard;
use super::*;
use crate::model::Told;

/// How long the others have had to tell theirs when the broker had lost everything.
const REBUILD_MS: u64 = 4_000;

impl World {
    pub(crate) fn pass_time(&mut self, ms: u64) {
        self.broker.now_ms += ms;
        let now = self.broker.now_ms;
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            if !node.runs || node.stopped {
                continue;
            }
            let reaches = !node.cut_off && !self.broker_down;
            if node.up {
                let since = now - node.renewed_at;
                if reaches && since >= RENEW.as_millis() as u64 {
                    match self.broker.renew(self.place(n)) {
                        Ok(()) => self.nodes[n].renewed_at = now,
                        Err(_) => self.go_down(n, "the lease lapsed"),
                    }
                } else if since >= LEASE.as_millis() as u64 {
                    self.go_down(n, "the lease was not renewed");
                }
            } else if reaches && now >= node.retry_at {
                self.come_up(n);
            }
            let node = &mut self.nodes[n];
            if node.up && node.compare_at.is_some_and(|at| at <= now) {
                node.compare_at = None;
                self.tell_loops(n, &BrokerEvent::Compare);
            }
        }
    }

    pub(super) fn tell_loops(&mut self, n: usize, event: &BrokerEvent) {
        self.nodes[n]
            .events
            .iter_mut()
            .for_each(|events| events.push_back(Heard::Event(event.clone())));
    }

    fn tell_loop(&mut self, n: usize, at: LoopId, event: BrokerEvent) {
        self.nodes[n].events[at.index()].push_back(Heard::Event(event));
    }

    /// A connection broke, or the lease is over. Of what was under way some was done.
    pub(super) fn go_down(&mut self, n: usize, why: &str) {
        if !self.nodes[n].up {
            return;
        }
        note!(self, "node {n} is down: {why}");
        if !self.broker_down && !self.nodes[n].cut_off {
            let done = self.random.below(self.nodes[n].commands.len() + 1);
            (0..done).for_each(|_| self.run_unheard(n));
        }
        let node = &mut self.nodes[n];
        node.up = false;
        node.compare_at = None;
        node.retry_at = self.broker.now_ms + self.random.below(800) as u64;
        self.tell_loops(n, &BrokerEvent::Down);
        let node = &mut self.nodes[n];
        let replies: Vec<CommandId> = node.replies.drain(..).map(|(id, _)| id).collect();
        let commands: Vec<CommandId> = node.commands.drain(..).map(|command| command.id).collect();
        for id in replies.into_iter().chain(commands) {
            self.tell_loop(n, id.loop_id(), BrokerEvent::Replied { id, reply: Reply::Lost });
        }
        self.lose_traffic(n);
    }

    fn come_up(&mut self, n: usize) {
        let node = &self.nodes[n];
        let (id, epoch, generation) = (node.id, node.epoch, node.generation);
        let lease = self.broker.take_up(id, epoch, generation);
        note!(self, "node {n} is up: {lease:?}");
        // What came while it was down is lost before anything else is taken.
        self.lose_commands(n);
        if epoch != Some(lease.epoch) {
            self.read_left(n);
            self.nodes[n].inbox_at = 0;
        }
        let node = &mut self.nodes[n];
        node.nodes.set_epoch(lease.epoch);
        (node.epoch, node.generation, node.up) = (Some(lease.epoch), Some(lease.generation), true);
        node.renewed_at = self.broker.now_ms;
        let wait = if lease.empty { REBUILD_MS } else { 0 };
        node.compare_at = Some(self.broker.now_ms + wait);
        self.tell_loops(n, &BrokerEvent::Up);
        if wait == 0 {
            self.nodes[n].compare_at = None;
            self.tell_loops(n, &BrokerEvent::Compare);
        }
    }

    /// Of what came into the inbox of an epoch that ran out, matches count still.
    fn read_left(&mut self, n: usize) {
        let left = self.unread(n).to_vec();
        for told in left.into_iter().filter(|told| matches!(told, Told::Matched { .. })) {
            self.tell_told(n, told);
        }
    }

    fn lose_commands(&mut self, n: usize) {
        while let Some(command) = self.nodes[n].commands.pop_front() {
            let (id, reply) = (command.id, Reply::Lost);
            self.tell_loop(n, id.loop_id(), BrokerEvent::Replied { id, reply });
        }
    }

    /// The broker runs the next command of a node, or its threads say that it is lost.
    pub(super) fn run_command(&mut self, n: usize) {
        if !self.nodes[n].up {
            return self.lose_commands(n);
        }
        let place = self.place(n);
        let Some(command) = self.nodes[n].commands.front() else {
            return;
        };
        let id = command.id;
        match self.broker.run(place, &command.what, &self.nodes[n].nodes) {
            Ok(reply) => {
                note!(self, "node {n} has {:?} done: {reply:?}", command.what);
                self.nodes[n].commands.pop_front();
                self.nodes[n].replies.push_back((id, reply));
            }
            Err(_) => self.go_down(n, "a command was refused"),
        }
    }

    /// The broker runs a command whose reply nobody will hear.
    fn run_unheard(&mut self, n: usize) {
        let place = self.place(n);
        let Some(command) = self.nodes[n].commands.pop_front() else {
            return;
        };
        note!(self, "node {n} never hears of {:?}", command.what);
        let _ = self.broker.run(place, &command.what, &self.nodes[n].nodes);
        let (id, reply) = (command.id, Reply::Lost);
        // After `Down`, which is pushed before any of the events that a loop finds.
        self.nodes[n].replies.push_back((id, reply));
    }

    pub(super) fn reply(&mut self, n: usize) {
        if let Some((id, reply)) = self.nodes[n].replies.pop_front() {
            self.tell_loop(n, id.loop_id(), BrokerEvent::Replied { id, reply });
        }
    }

    pub(super) fn unread(&self, n: usize) -> &[Told] {
        self.broker.inbox(self.place(n), self.nodes[n].inbox_at)
    }

    pub(super) fn read_inbox(&mut self, n: usize) {
        let Some(told) = self.unread(n).first().cloned() else {
            return;
        };
        self.nodes[n].inbox_at += 1;
        self.tell_told(n, told);
    }

    fn tell_told(&mut self, n: usize, told: Told) {
        let Some(event) = Broker::event(told, &self.nodes[n].nodes) else {
            return;
        };
        let homes = &self.nodes[n].homes;
        match &event {
            BrokerEvent::Changed { namespace, .. } | BrokerEvent::Matched { namespace, .. } => {
                let home = homes.of_namespace(*namespace);
                self.tell_loop(n, home, event);
            }
            BrokerEvent::Replaced(who) => {
                let home = homes.of_fingerprint(&who.fingerprint);
                self.tell_loop(n, home, event);
            }
            _ => self.tell_loops(n, &event),
        }
    }

    /// Some of what a node has not read is gone. Its threads see the gap, and begin again in the same epoch.
    pub(crate) fn trim_inbox(&mut self, n: usize) {
        let unread = self.unread(n).len();
        if unread == 0 || !self.nodes[n].up {
            return;
        }
        let lost = self.random.below(unread) + 1;
        note!(self, "node {n} misses {lost} events");
        let (place, from) = (self.place(n), self.nodes[n].inbox_at);
        self.broker.note_gap(place, from..from + lost);
        self.nodes[n].inbox_at += lost;
        self.go_down(n, "a gap in its inbox");
        if !self.broker_down && !self.nodes[n].cut_off && !self.nodes[n].stopped {
            self.come_up(n);
        }
    }

    /// A loop takes the next event of the broker.
    pub(super) fn hear(&mut self, n: usize, at: usize) {
        let Some(event) = self.nodes[n].events[at].pop_front() else {
            return;
        };
        note!(self, "node {n} loop {at} hears {event:?}");
        match event {
            Heard::Event(event) => self.nodes[n].shards[at].handle_cluster(event),
            Heard::Frame(from, frame) => self.take_frame(n, at, from, frame),
        }
        self.drain(n, at);
    }
}
