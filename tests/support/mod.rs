//! What the tests that speak to the real program share.
//!
//! Owns: starting and stopping the program ([`Server`]), a WebSocket client that may also misbehave ([`Client`]), a
//! small HTTP client ([`http()`]), a throw-away certificate ([`Certificate`]), a Redis server
//! ([`RedisServer`]), a NATS server ([`NatsServer`]), and the format and matching rules
//! of the recorded dialogues ([`Dialogue`], [`Matcher`]).
//! Never: uses the program's own codecs, so that a mistake there cannot hide itself here.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::unwrap_used,
    reason = "every test file takes its own part of this"
)]

mod client;
mod dialogue;
mod frame;
mod http;
mod matching;
mod nats;
mod redis;
mod server;
mod tls;
mod wire;

use std::time::Duration;

pub use self::nats::NatsServer;
pub use self::redis::RedisServer;
pub use client::{Client, Closed, ConnectError, ConnectOptions};
pub use dialogue::{Dialogue, HttpExpectation, RawFrame, Step, parse_step, unhex};
pub use frame::{Event, Frame, LengthForm, Opcode, deflate};
pub use http::{HttpConnection, Response, http, https};
pub use matching::Matcher;
pub use server::{Failure, Server};
pub use tls::{Certificate, trust_anything};
pub use wire::{Wire, WireOptions};

/// How long an answer that must come may take.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(3000);
