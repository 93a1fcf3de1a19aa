//! A connection's way from its socket to a registered peer in its namespaces; for the floor, one hello.
//!
//! Owns: who a peer is: its key, its fingerprint.
//! Never: sends anything once a connection is ready.

use peer_server::ids::Fingerprint;
use serde_json::Value;

use super::frames;
use super::io::Io;
use super::protocol::{Job, Wire};
use crate::scenario::Scenario;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The kernel connects, or TLS shakes hands.
    Connecting,
    /// The upgrade was asked for; with the floor, the hello was sent.
    Upgrading,
    /// `register` was sent.
    Registering,
    /// So many namespaces are joined or being joined.
    Joining(usize),
    /// The scenario has it.
    Ready,
}

/// Why a connection did not become ready.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Whether the server said that it has no room, and did nothing wrong.
    pub refused: bool,
    /// What happened.
    pub why: String,
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self { refused: false, why }
    }
}

/// The key that a peer registers with.
pub fn key(job: &Job, peer: usize) -> String {
    format!("{}-{}-{peer}", job.run, job.worker)
}

/// What the server will call a peer.
pub fn fingerprint(job: &Job, peer: usize) -> String {
    String::from_utf8_lossy(&Fingerprint::of_key(&key(job, peer)).hex()).into_owned()
}

/// What the server calls a scenario's namespace.
pub fn namespace(job: &Job, name: &str) -> String {
    format!("{}-{}-{name}", job.run, job.worker)
}

/// The kernel has connected: the first words.
pub fn begin(io: &mut Io, scenario: &dyn Scenario, slot: usize) {
    io.links[slot].phase = Phase::Upgrading;
    let job = io.job.clone();
    let seeks = scenario.seeks(io.links[slot].peer);
    match job.wire {
        Wire::Floor => {
            let group = (job.worker as u64) << 32 | scenario.group(io.links[slot].peer) as u64;
            io.append(slot, |out| out.extend_from_slice(&group.to_le_bytes()));
        }
        Wire::Peers => {
            let deflate = match job.workload.compression {
                true if !seeks => {
                    "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
                }
                _ => "",
            };
            let path = if seeks { SEEKERS } else { PEERS };
            let head = format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{deflate}\r\n",
                job.address
            );
            io.append(slot, |out| out.extend_from_slice(head.as_bytes()));
        }
    }
}

/// Takes input of a connection that is not ready. Returns how much was used; the connection may have become ready.
///
/// # Errors
/// A refusal, or an answer that no healthy server gives.
pub fn on_input(io: &mut Io, scenario: &dyn Scenario, slot: usize, bytes: &[u8]) -> Result<usize, Fault> {
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        match io.links[slot].phase {
            Phase::Upgrading if io.job.wire == Wire::Floor => {
                at += 1;
                io.links[slot].phase = Phase::Ready;
            }
            Phase::Upgrading => match rest.windows(4).position(|four| four == b"\r\n\r\n") {
                None => break,
                Some(end) => {
                    on_upgraded(io, scenario, slot, &String::from_utf8_lossy(&rest[..end]))?;
                    at += end + 4;
                }
            },
            Phase::Registering | Phase::Joining(_) => match frames::first(rest)? {
                None => break,
                Some((frame, used)) => {
                    at += used;
                    on_frame(io, scenario, slot, &frame)?;
                }
            },
            Phase::Connecting | Phase::Ready => break,
        }
    }
    Ok(at)
}

fn on_upgraded(io: &mut Io, scenario: &dyn Scenario, slot: usize, head: &str) -> Result<(), Fault> {
    if !head.starts_with("HTTP/1.1 101") {
        let line = head.lines().next().unwrap_or_default();
        return Err(Fault {
            refused: ["HTTP/1.1 503", "HTTP/1.1 429"]
                .iter()
                .any(|full| line.starts_with(full)),
            why: format!("the upgrade was refused: {line}"),
        });
    }
    let job = io.job.clone();
    let link = &mut io.links[slot];
    if scenario.seeks(link.peer) {
        link.phase = Phase::Ready;
        return Ok(());
    }
    link.deflate = head.to_ascii_lowercase().contains("permessage-deflate");
    if job.workload.compression && !link.deflate {
        let why = "the server does not compress: switch compression_enabled on";
        return Err(why.to_owned().into());
    }
    link.phase = Phase::Registering;
    let key = key(&job, link.peer);
    io.send_text(
        slot,
        &format!(r#"{{"type":"register","payload":{{"public_key":"{key}"}}}}"#),
    );
    Ok(())
}

fn on_frame(io: &mut Io, scenario: &dyn Scenario, slot: usize, frame: &frames::Frame<'_>) -> Result<(), Fault> {
    match frame.opcode {
        1 => {}
        9 => {
            io.append(slot, |out| {
                frames::push(out, 10, false, frame.payload);
            });
            return Ok(());
        }
        other => return Err(format!("a frame of type {other} during the set-up").into()),
    }
    let text = match frame.compressed {
        true => super::deflate::inflate(frame.payload)?,
        false => frame.payload.to_vec(),
    };
    let message: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let job = io.job.clone();
    let peer = io.links[slot].peer;
    match (io.links[slot].phase, message["type"].as_str().unwrap_or_default()) {
        (Phase::Registering, "registered") => {
            if message["from"] != fingerprint(&job, peer) {
                return Err(format!("peer {peer} has another fingerprint than its key's").into());
            }
            join_next(io, scenario, slot, 0);
        }
        (Phase::Joining(joined), "peer_list") => {
            let names = scenario.namespaces(peer);
            let name = joined.checked_sub(1).and_then(|last| names.get(last));
            let asked = name.map(|name| namespace(&job, name)).unwrap_or_default();
            if message["payload"]["namespace"] != *asked {
                return Err(format!("peer {peer} joined {asked} and got the list of another: {message}").into());
            }
            join_next(io, scenario, slot, joined);
        }
        (Phase::Joining(_), "peer_joined" | "peer_left") => {}
        (_, other) => {
            return Err(Fault {
                refused: matches!(message["payload"]["code"].as_u64(), Some(429 | 503)),
                why: format!("{other}: {} during the set-up", message["payload"]),
            });
        }
    }
    Ok(())
}

fn join_next(io: &mut Io, scenario: &dyn Scenario, slot: usize, joined: usize) {
    let job = io.job.clone();
    match scenario.namespaces(io.links[slot].peer).get(joined) {
        None => io.links[slot].phase = Phase::Ready,
        Some(name) => {
            io.links[slot].phase = Phase::Joining(joined + 1);
            let name = namespace(&job, name);
            io.send_text(
                slot,
                &format!(r#"{{"type":"join","payload":{{"namespace":"{name}"}}}}"#),
            );
        }
    }
}

/// Where peers connect, and where those do who seek a game server.
const PEERS: &str = "/ws";
const SEEKERS: &str = "/matchmaker/ws";
