//! WebSocket frames of one connection: control frames, inflating, and whole messages for `peers`.
//!
//! Owns: what happens to each step of the decoder.
//! Never: knows a message's meaning.

use super::EventLoop;
use super::connection::Phase;
use super::seekers::FIRST_MESSAGE_BYTES;
use super::writing::Class;
use crate::codec::deflate::InflateError;
use crate::codec::websocket::{self, Buffers, Control, Data, OpCode, Step, push_header};
use crate::ids::ConnId;

impl Buffers for super::buffers::Pool {
    fn take(&mut self) -> Vec<u8> {
        Self::take(self)
    }

    fn put(&mut self, buffer: Vec<u8>) {
        Self::put(self, buffer);
    }
}

impl EventLoop {
    /// Takes steps until the input is used up or the connection may not be parsed. Returns how many bytes were used up.
    pub(super) fn parse_frames(&mut self, slot: usize, bytes: &mut [u8]) -> usize {
        let Some(connection) = self.connections.get_mut(slot) else {
            return bytes.len();
        };
        let id = connection.id(slot);
        let seeks = matches!(connection.phase, Phase::Seeker(_));
        let settings = websocket::Settings {
            max_message_size: match seeks {
                true => FIRST_MESSAGE_BYTES,
                false => self.settings.max_message_size,
            },
            deflate: connection.deflate,
        };
        let mut partial = connection.partial.take();
        let mut at = 0;
        let mut heard = false;
        loop {
            let step = websocket::next(&mut partial, bytes, &mut at, &settings, &mut self.pool);
            if step == Step::NeedMore {
                break;
            }
            heard = true;
            self.on_step(slot, step);
            if !self.may_parse(id) {
                break;
            }
        }
        websocket::settle(&mut partial, &mut self.pool);
        let connection = self
            .connections
            .get_mut(slot)
            .filter(|connection| connection.takes_messages());
        let Some(connection) = connection else {
            if let Some(partial) = partial {
                partial.release(&mut self.pool);
            }
            return bytes.len();
        };
        connection.partial = partial;
        if heard {
            connection.heard_ms = self.clock.now_ms;
        }
        at.min(bytes.len())
    }

    fn may_parse(&self, id: ConnId) -> bool {
        let connection = self
            .connections
            .get(id.slot())
            .filter(|c| c.generation == id.generation());
        connection.is_some_and(|connection| !connection.paused && connection.takes_messages())
    }

    fn on_step(&mut self, slot: usize, step: Step<'_>) {
        match step {
            Step::Text(text) => self.on_text(slot, text),
            Step::Binary(bytes) => self.on_binary(slot, bytes),
            Step::Compressed { text, data } => self.on_compressed(slot, text, data),
            Step::Ping(data) => {
                let pong = |out: &mut Vec<u8>| {
                    push_header(out, OpCode::Control(Control::Pong), false, data.len());
                    out.extend_from_slice(data);
                };
                self.push_frame(slot, Class::Server, data.len(), pong);
            }
            Step::Pong(_) | Step::NeedMore => {}
            Step::Close(code) => {
                self.counters.close(code.unwrap_or(1005));
                self.close_with(slot, code, "");
            }
            Step::Fail { code, reason } => self.close(slot, code, reason),
        }
    }

    fn on_binary(&mut self, slot: usize, bytes: &[u8]) {
        match self.connections.get(slot).map(|connection| &connection.phase) {
            Some(Phase::Echo) => return self.echo(slot, false, bytes),
            Some(Phase::Seeker(_)) => return self.on_seeker_binary(slot),
            _ => {}
        }
        match simdutf8::basic::from_utf8(bytes) {
            Ok(text) => self.on_message(slot, text),
            Err(_) => self.on_message(slot, NOT_JSON),
        }
    }

    fn on_text(&mut self, slot: usize, text: &str) {
        match self.connections.get(slot).map(|connection| &connection.phase) {
            Some(Phase::Echo) => self.echo(slot, true, text.as_bytes()),
            Some(Phase::Seeker(_)) => self.on_seeker_text(slot, text),
            _ => self.on_message(slot, text),
        }
    }

    fn on_compressed(&mut self, slot: usize, text: bool, data: &[u8]) {
        let mut inflated = std::mem::take(&mut self.scratch.inflated);
        inflated.clear();
        match self
            .inflater
            .inflate(data, self.settings.max_message_size, &mut inflated)
        {
            Err(InflateError::TooBig) => self.close(slot, 1009, "message too big"),
            Err(InflateError::Corrupt) => self.close(slot, 1007, "bad deflate data"),
            Ok(()) if !text => self.on_binary(slot, &inflated),
            Ok(()) => match simdutf8::basic::from_utf8(&inflated) {
                Ok(text) => self.on_text(slot, text),
                Err(_) => self.close(slot, 1007, "invalid UTF-8"),
            },
        }
        // A peer's one large message must not be kept for ever.
        inflated.shrink_to(2 * super::READ_BUDGET);
        self.scratch.inflated = inflated;
    }

    fn echo(&mut self, slot: usize, text: bool, bytes: &[u8]) {
        let code = OpCode::Data(if text { Data::Text } else { Data::Binary });
        self.send_bytes(slot, Class::Server, code, bytes);
    }
}

/// Stands for a binary message that is not even text: refused like any other text that is not JSON.
const NOT_JSON: &str = "\u{fffd}";
