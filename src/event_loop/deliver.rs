//! Outputs of the shard, as bytes: rendered once, appended to each connection they are for.
//!
//! Owns: what each output does to connections and mail.
//! Never: decides what is said.

use std::ops::Range;

use super::connection::Phase;
use super::peers::Sender;
use super::writing::Class;
use super::{Delivery, EventLoop};
use crate::codec::deflate::COMPRESS_FROM;
use crate::codec::websocket::{Data, OpCode, push_header};
use crate::dialect::peer;
use crate::ids::ConnId;
use crate::message::{CLOSE_TRY_AGAIN, Event, Refusal};
use crate::metrics::Metric;
use crate::shard::{Held, HeldKind, Output};

pub(super) const TEXT: OpCode = OpCode::Data(Data::Text);

impl EventLoop {
    /// Does what the shard says, and tells it of the connections that ended on the way, until there is nothing left.
    pub(super) fn drain_outputs(&mut self) {
        loop {
            while let Some(output) = self.shard.poll_output() {
                if self.drain.is_some() && !matches!(output, Output::Mail { .. }) {
                    continue;
                }
                self.perform(output);
            }
            let Some((peer, conn)) = self.ended.pop() else { return };
            if self.shard.serves(peer, conn) {
                self.shard.close(peer);
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Registered { conn, peer } => {
                let Some(slot) = self.slot_of(conn) else {
                    // It closed in this very turn: its session is over before it began.
                    return self.ended.push((peer, conn));
                };
                self.counters.count(Metric::Registrations);
                self.set_phase(slot, Phase::Peer(peer));
                self.note_registered(slot);
                self.start_pings(slot);
                self.resume(slot);
            }
            Output::RegistrationRefused { conn, refusal } => {
                if let Some(slot) = self.slot_of(conn) {
                    self.refuse_registration(slot, refusal);
                }
            }
            Output::Event { conn, event } => {
                if let Some(slot) = self.registered_slot(conn) {
                    self.tell_event(slot, &event);
                }
            }
            Output::FanOut { targets, event } => {
                self.prepare_event(&event);
                self.send_prepared_to(targets);
            }
            Output::Presence {
                namespace,
                members,
                targets,
                event,
            } => {
                self.prepare_event(&event);
                self.tell_presence(namespace, members, targets);
            }
            Output::Deliver { conn, held } => self.deliver_held(conn, &held),
            Output::Resolved { peer, to, message } => self.on_resolved(peer, to, &message),
            Output::Mail { to, mail } => match to.node() {
                None => self.mailbox.control(to, Delivery::Mail(mail)),
                Some(node) => self.mail_to_node(node, &mail),
            },
            Output::Forward { node, held } => self.forward_held(node, &held),
            Output::Command(command) => self.give_command(*command),
            Output::Resume(conn) => {
                if let Some(slot) = self.registered_slot(conn) {
                    self.resume(slot);
                }
            }
            Output::Close { conn, code, reason } => {
                let Some(slot) = self.slot_of(conn) else { return };
                // The session is over for the shard already, so it must not be told again.
                if self
                    .connections
                    .get(slot)
                    .is_some_and(|connection| connection.takes_messages())
                {
                    self.set_phase(slot, Phase::Unregistered);
                }
                self.close(slot, code, reason);
            }
        }
    }

    /// Lets a paused connection be parsed and read again.
    pub(super) fn resume(&mut self, slot: usize) {
        self.set_paused(slot, false);
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.heard_ms = self.clock.now_ms;
            if connection.ready || connection.unread.is_some() || connection.transport.has_plaintext() {
                self.list_ready(slot);
            }
        }
    }

    pub(super) fn refuse_registration(&mut self, slot: usize, refusal: Refusal) {
        if self
            .connections
            .get(slot)
            .is_some_and(|connection| connection.takes_messages())
        {
            // It never was the shard's: nothing to abandon.
            self.set_phase(slot, Phase::Unregistered);
        }
        self.tell_refusal(slot, refusal);
        self.close(slot, CLOSE_TRY_AGAIN, refusal.text());
    }

    fn deliver_held(&mut self, conn: ConnId, held: &Held) {
        let payload = held.payload.as_deref();
        match &held.what {
            HeldKind::Direct(kind, _, _) => {
                let sent = self.forward(conn, &held.from, &held.to, *kind, held.name.as_deref(), payload);
                if let Err(refusal) = sent {
                    let sender = Sender {
                        fingerprint: held.from,
                        session: held.session,
                        origin: held.origin,
                    };
                    self.refuse(&sender, &held.to, refusal);
                }
            }
            HeldKind::Broadcast(_) => {
                let (name, payload) = (held.name.as_deref().unwrap_or_default(), payload.unwrap_or_default());
                let ts_ms = self.clock.unix_ms;
                self.prepare_frame(|out| peer::push_broadcast(out, &held.from, name, payload, ts_ms));
                // Its sender was told that it arrives, so it has the room of the server's own messages.
                if !self.send_prepared(conn, Class::Server) {
                    self.counters.count(Metric::RefusedFull);
                }
            }
        }
    }

    /// Appends an error to a connection.
    pub(super) fn tell_refusal(&mut self, slot: usize, refusal: Refusal) {
        self.counters.error(refusal.code());
        self.tell(slot, |out| peer::push_error(out, refusal));
    }

    fn tell_event(&mut self, slot: usize, event: &Event) {
        if let Event::Error(refusal) = event {
            self.counters.error(refusal.code());
        }
        let list_bytes_max = self.settings.list_bytes_max;
        self.tell(slot, |out| peer::push_event(out, event, list_bytes_max));
    }

    /// Appends one server-made message.
    pub(super) fn tell(&mut self, slot: usize, render: impl FnOnce(&mut Vec<u8>)) {
        let mut text = std::mem::take(&mut self.scratch.text);
        text.clear();
        render(&mut text);
        self.send_bytes(slot, Class::Server, TEXT, &text);
        self.scratch.text = text;
    }

    fn prepare_event(&mut self, event: &Event) {
        let list_bytes_max = self.settings.list_bytes_max;
        self.prepare_frame(|out| peer::push_event(out, event, list_bytes_max));
    }

    /// Renders one message for many receivers.
    pub(super) fn prepare_frame(&mut self, render: impl FnOnce(&mut Vec<u8>)) {
        let text = &mut self.scratch.text;
        text.clear();
        render(text);
        self.scratch.frame.clear();
        push_header(&mut self.scratch.frame, TEXT, false, text.len());
        self.scratch.frame.extend_from_slice(text);
        // Compressed when the first receiver wants that.
        self.scratch.frame_deflated.clear();
    }

    /// Appends the message of [`EventLoop::prepare_frame`] to targets of the shard.
    pub(super) fn send_prepared_to(&mut self, targets: Range<usize>) {
        for index in targets {
            if let Some(conn) = self.shard.target(index) {
                self.send_prepared(conn, Class::Server);
            }
        }
    }

    /// Appends the message of [`EventLoop::prepare_frame`] to one of them. False: it could not take it.
    pub(super) fn send_prepared(&mut self, conn: ConnId, class: Class) -> bool {
        let Some(slot) = self.registered_slot(conn) else {
            return false;
        };
        self.with_prepared(slot, |event_loop, frame| {
            event_loop.push_frame(slot, class, frame.len(), |out| out.extend_from_slice(frame))
        })
    }

    /// Uses the prepared message as this connection gets it.
    pub(super) fn with_prepared<T>(&mut self, slot: usize, push: impl FnOnce(&mut Self, &[u8]) -> T) -> T {
        let deflate = self.connections.get(slot).is_some_and(|connection| connection.deflate);
        if deflate && self.scratch.text.len() >= COMPRESS_FROM && self.scratch.frame_deflated.is_empty() {
            self.prepare_deflated();
        }
        let compressed = deflate && !self.scratch.frame_deflated.is_empty();
        let place = if compressed {
            &mut self.scratch.frame_deflated
        } else {
            &mut self.scratch.frame
        };
        let frame = std::mem::take(place);
        let pushed = push(self, &frame);
        *(if compressed {
            &mut self.scratch.frame_deflated
        } else {
            &mut self.scratch.frame
        }) = frame;
        pushed
    }

    fn prepare_deflated(&mut self) {
        let scratch = &mut self.scratch;
        scratch.deflated.clear();
        let shorter = self.deflater.compress(&scratch.text, &mut scratch.deflated);
        let payload = if shorter { &scratch.deflated } else { &scratch.text };
        push_header(&mut scratch.frame_deflated, TEXT, shorter, payload.len());
        scratch.frame_deflated.extend_from_slice(payload);
    }

    /// The slot of a connection that is still the same one.
    pub(super) fn slot_of(&self, conn: ConnId) -> Option<usize> {
        let connection = self.connections.get(conn.slot())?;
        (connection.generation == conn.generation()).then_some(conn.slot())
    }

    /// The slot of a connection that is still the same one and a registered peer's.
    pub(super) fn registered_slot(&self, conn: ConnId) -> Option<usize> {
        let slot = self.slot_of(conn)?;
        matches!(self.connections.get(slot)?.phase, Phase::Peer(_)).then_some(slot)
    }
}
