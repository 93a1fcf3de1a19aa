//! Nodes that tell each other nothing but messages: the envelopes of the peer protocol's section 9.
//!
//! Owns: how a signal, relay, broadcast or acknowledgement is written for other nodes, and how one of theirs is read.
//! Never: knows a broker. What it reads may have been written by anybody who reaches that: anything but a whole message of
//! its channel's type is nothing.

use std::borrow::Cow;

use crate::codec::json::{self, Envelope, RawString};
use crate::ids::{CommandId, Fingerprint};
use crate::message::cluster::Plain;
use crate::message::{DirectKind, NAME_MAX, Refusal};

use super::peer::Target;

/// What a channel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Signals or relays.
    Direct(DirectKind),
    /// Broadcasts.
    Broadcast,
    /// What became of signals and relays. Not every implementation has it.
    Ack,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Direct(DirectKind::Signal),
        Self::Direct(DirectKind::Relay),
        Self::Broadcast,
        Self::Ack,
    ];

    /// The name of its channel.
    pub const fn channel(self) -> &'static str {
        match self {
            Self::Direct(DirectKind::Signal) => "peer:signal",
            Self::Direct(DirectKind::Relay) => "peer:relay",
            Self::Broadcast => "peer:broadcast",
            Self::Ack => "peer:ack",
        }
    }
}

/// Longest message that is read, in bytes.
pub const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Namespaces that a message may name as its sender's: as many as a peer may be in (D22).
const NAMESPACES_MAX: usize = 256;
/// Longest id or node id that is read, in bytes.
const ID_MAX: usize = 128;
/// The longest spelling of a name: each of its bytes may be an escape of six.
const RAW_NAME_MAX: usize = 6 * NAME_MAX;

/// Reads what came on a channel; `own` is this node's id. None: it is not for this node, or nothing at all.
pub fn parse(topic: Topic, bytes: &[u8], own: &str) -> Option<Plain> {
    if bytes.len() > MESSAGE_MAX {
        return None;
    }
    let text = simdutf8::basic::from_utf8(bytes).ok()?;
    let envelope = json::scan_envelope(text).ok()?;
    match topic {
        Topic::Direct(kind) => direct(kind, text, &envelope, own),
        Topic::Broadcast => broadcast(text, &envelope, own),
        Topic::Ack => ack(text, own),
    }
}

fn direct(kind: DirectKind, text: &str, envelope: &Envelope<'_>, own: &str) -> Option<Plain> {
    let [from, node_id, id, namespaces] = json::members(text, &["from", "node_id", "id", "namespaces"])?;
    let node_id = foreign_node(node_id, own)?;
    if !envelope.kind?.is(kind.name()) {
        return None;
    }
    let to = envelope.to?.unescape()?;
    if Target::of(Cow::Borrowed(&*to)) == Target::NOBODY {
        return None;
    }
    let shares = match namespaces {
        Some(array) => Some(names(array)?),
        None => None,
    };
    let id = match id {
        Some(id) => Some(bounded(json::as_string(id)?)?),
        None => None,
    };
    Some(Plain::Direct {
        kind,
        from: fingerprint(from?)?,
        to: (&*to).into(),
        shares,
        about: envelope.namespace.and_then(name_as_sent).map(Into::into),
        payload: envelope.payload.map(Into::into),
        id: id.map(Into::into),
        node_id: node_id.into(),
    })
}

fn broadcast(text: &str, envelope: &Envelope<'_>, own: &str) -> Option<Plain> {
    let [from, node_id] = json::members(text, &["from", "node_id"])?;
    foreign_node(node_id, own)?;
    if !envelope.kind?.is("broadcast") {
        return None;
    }
    let payload = envelope.payload?;
    let [named] = json::members(payload, &["namespace"])?;
    // The payload's is the one in which the other node found the sender; not all set the envelope's, or set it themselves.
    let namespace = match named {
        Some(value) => json::as_string(value)?,
        None => envelope.namespace?,
    };
    Some(Plain::Broadcast {
        from: fingerprint(from?)?,
        namespace: name_as_sent(namespace)?.into(),
        payload: payload.into(),
    })
}

fn ack(text: &str, own: &str) -> Option<Plain> {
    let [id, node_id, to_node, status] = json::members(text, &["id", "node_id", "to_node", "status"])?;
    foreign_node(node_id, own)?;
    if !json::as_string(to_node?)?.is(own) {
        return None;
    }
    let status = json::as_string(status?)?.plain()?;
    let outcomes = [DELIVERED, FORBIDDEN, FULL];
    let (_, outcome) = outcomes.into_iter().find(|(name, _)| *name == status)?;
    Some(Plain::Ack {
        id: parse_id(json::as_string(id?)?.plain()?)?,
        outcome,
    })
}

/// The id of the node that wrote it, empty if it does not say; None: that was this one.
fn foreign_node<'a>(node_id: Option<&'a str>, own: &str) -> Option<&'a str> {
    let Some(node_id) = node_id else { return Some("") };
    let node_id = json::as_string(node_id)?.plain()?;
    (node_id.len() <= ID_MAX && node_id != own).then_some(node_id)
}

fn fingerprint(value: &str) -> Option<Fingerprint> {
    Fingerprint::parse(json::as_string(value)?.plain()?)
}

fn bounded(text: RawString<'_>) -> Option<&str> {
    Some(text.raw()).filter(|raw| (1..=ID_MAX).contains(&raw.len()))
}

fn name_as_sent(name: RawString<'_>) -> Option<&str> {
    Some(name.raw()).filter(|raw| (1..=RAW_NAME_MAX).contains(&raw.len()))
}

/// The names in an array. One that no namespace can have is left out.
fn names(array: &str) -> Option<Vec<Box<str>>> {
    let mut names = Vec::new();
    for (place, element) in json::elements(array)?.enumerate() {
        let name = json::as_string(element)?;
        if place >= NAMESPACES_MAX || name.raw().len() > RAW_NAME_MAX {
            return None;
        }
        names.extend(name.unescape().map(|name| name.into_owned().into_boxed_str()));
    }
    Some(names)
}

/// The name that stands between quotes so; None: no text is spelled so.
pub fn name_of(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains('\\') {
        return Some(Cow::Borrowed(raw));
    }
    let quoted = format!("\"{raw}\"");
    let name = json::as_string(&quoted)?.unescape()?.into_owned();
    Some(Cow::Owned(name))
}

/// A signal or relay for whichever node has its target.
#[derive(Clone, Copy, Debug)]
pub struct Direct<'a> {
    /// Which of the two.
    pub kind: DirectKind,
    /// Who sent it.
    pub from: &'a Fingerprint,
    /// The target, as the sender named it.
    pub to: &'a str,
    /// A namespace that the sender is in and names, as raw characters between the quotes.
    pub namespace: Option<&'a str>,
    /// The payload as sent.
    pub payload: Option<&'a str>,
    /// Unix time in milliseconds.
    pub ts_ms: u64,
    /// What an acknowledgement is to name; None: none is wanted.
    pub id: Option<CommandId>,
}

/// Appends a signal or relay of the node `own`, whose sender is in these namespaces.
pub fn push_direct<'n>(out: &mut Vec<u8>, direct: &Direct<'_>, own: &str, namespaces: impl Iterator<Item = &'n str>) {
    put(out, r#"{"type":""#);
    put(out, direct.kind.name());
    put(out, r#"","from":""#);
    out.extend_from_slice(&direct.from.hex());
    put(out, r#"","to":"#);
    json::push_string(out, direct.to);
    if let Some(namespace) = direct.namespace {
        put(out, r#","namespace":""#);
        put(out, namespace);
        put(out, "\"");
    }
    if let Some(payload) = direct.payload {
        put(out, r#","payload":"#);
        put(out, payload);
    }
    push_origin(out, direct.ts_ms, own);
    if let Some(id) = direct.id {
        put(out, r#","id":""#);
        push_id(out, id);
        put(out, "\"");
    }
    put(out, r#","namespaces":["#);
    for (place, name) in namespaces.enumerate() {
        if place > 0 {
            put(out, ",");
        }
        json::push_string(out, name);
    }
    put(out, "]}");
}

/// Appends a broadcast of the node `own`; `namespace` as raw characters between the quotes, `payload` as sent.
pub fn push_broadcast(out: &mut Vec<u8>, from: &Fingerprint, namespace: &str, payload: &str, ts_ms: u64, own: &str) {
    put(out, r#"{"type":"broadcast","from":""#);
    out.extend_from_slice(&from.hex());
    put(out, r#"","namespace":""#);
    put(out, namespace);
    put(out, r#"","payload":"#);
    put(out, payload);
    push_origin(out, ts_ms, own);
    put(out, "}");
}

/// Appends what became of a message of the node `to_node` at the node `own`; `id` as raw characters between the quotes. A
/// message whose target is not there is not acknowledged: then nothing is appended, and the answer is false.
pub fn push_ack(out: &mut Vec<u8>, id: &str, own: &str, to_node: &str, outcome: Result<(), Refusal>) -> bool {
    let known = [DELIVERED, FORBIDDEN, FULL]
        .into_iter()
        .find(|(_, known)| *known == outcome);
    let Some((status, _)) = known else { return false };
    for (name, value) in [
        (r#"{"id":""#, id),
        (r#"","node_id":""#, own),
        (r#"","to_node":""#, to_node),
        (r#"","status":""#, status),
    ] {
        put(out, name);
        put(out, value);
    }
    put(out, r#""}"#);
    true
}

fn push_origin(out: &mut Vec<u8>, ts_ms: u64, own: &str) {
    put(out, r#","ts":"#);
    json::push_u64(out, ts_ms);
    put(out, r#","node_id":""#);
    put(out, own);
    put(out, "\"");
}

fn push_id(out: &mut Vec<u8>, id: CommandId) {
    for shift in (0..64).step_by(4).rev() {
        let digit = HEX[(id.as_u64() >> shift & 15) as usize];
        out.push(digit);
    }
}

/// What [`push_id`] wrote.
fn parse_id(text: &str) -> Option<CommandId> {
    let hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 16 || !text.bytes().all(hex) {
        return None;
    }
    u64::from_str_radix(text, 16).ok().map(CommandId::from_u64)
}

#[inline]
fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

type Outcome = (&'static str, Result<(), Refusal>);
const DELIVERED: Outcome = ("delivered", Ok(()));
const FORBIDDEN: Outcome = ("forbidden", Err(Refusal::NoSharedNamespace));
const FULL: Outcome = ("full", Err(Refusal::PeerBufferFull));
const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests;
