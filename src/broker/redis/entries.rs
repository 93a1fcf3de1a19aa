//! Entries, as they are read back.
//!
//! Owns: how an info is written, and what is left of an entry or event that no server of ours can have written: nothing.
//! Never: trusts what it reads, or asks for more than it was given.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::Value;

use super::keys::{parse_namespace, parse_place, parse_session};
use crate::broker::{Nodes, Trouble};
use crate::dialect::peer::{push_peer_info, read_peer_info};
use crate::ids::{CommandId, Fingerprint, NodeNo, SessionId};
use crate::message::cluster::{Change, Event, Member, RoomTerms, Roster, Who};
use crate::message::{ALIAS_MAX, APP_TYPE_MAX, GROUP_MAX, Matched, NAME_MAX, PeerInfo};

/// How an info is kept.
pub(super) fn info_text(info: &PeerInfo) -> Vec<u8> {
    let mut text = Vec::with_capacity(info.json_len());
    push_peer_info(&mut text, info);
    text
}

/// The longest info: in an alias or an `app_type` each byte may stand as an escape of six.
const INFO_TEXT_MAX: usize = PeerInfo::JSON_LEN_MAX + 5 * (ALIAS_MAX + APP_TYPE_MAX);

/// Reads entries and events.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    nodes: Arc<Nodes>,
    strange: Arc<AtomicU64>,
}

/// The fields of a stream's entry, names and values in turn.
struct Fields<'a>(&'a [Value]);

impl Reader {
    /// What makes no sense is left out, and counted in `strange`.
    pub(super) fn new(nodes: Arc<Nodes>, strange: Arc<AtomicU64>) -> Self {
        Self { nodes, strange }
    }

    /// Something was left out.
    pub(super) fn count_strange(&self) {
        self.strange.fetch_add(1, Ordering::Relaxed);
    }

    /// An info.
    pub(super) fn info(&self, text: &[u8]) -> Option<Arc<PeerInfo>> {
        if text.len() > INFO_TEXT_MAX {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        read_peer_info(text, &mut Vec::new()).map(Arc::new)
    }

    /// Who serves a session; None: this node.
    ///
    /// # Errors
    /// Numbers of nodes are used up.
    pub(super) fn session(&self, text: &[u8]) -> Result<Option<(Option<NodeNo>, SessionId)>, Trouble> {
        let parsed = std::str::from_utf8(text).ok().and_then(parse_session);
        let Some((node, epoch, session)) = parsed else {
            return Ok(None);
        };
        Ok(Some((self.nodes.number(node, epoch)?, session)))
    }

    /// On which other node a session is; None: on none.
    ///
    /// # Errors
    /// Numbers of nodes are used up.
    pub(super) fn elsewhere(&self, text: &[u8]) -> Result<Option<NodeNo>, Trouble> {
        match std::str::from_utf8(text).ok().and_then(parse_session) {
            Some((node, epoch, _)) if node != self.nodes.own() => self.nodes.number(node, epoch),
            _ => Ok(None),
        }
    }

    /// A roster's entries, those left out that make no sense.
    ///
    /// # Errors
    /// Numbers of nodes are used up, or it is no list.
    pub(super) fn members(&self, entries: &Value) -> Result<Vec<Member>, Trouble> {
        let mut members = Vec::new();
        for entry in list(entries)? {
            match self.one_member(text(entry).unwrap_or_default())? {
                Some(member) => members.push(member),
                None => self.count_strange(),
            }
        }
        Ok(members)
    }

    /// An entry of a roster; None: it makes no sense.
    ///
    /// # Errors
    /// Numbers of nodes are used up.
    pub(super) fn one_member(&self, entry: &[u8]) -> Result<Option<Member>, Trouble> {
        let Some(space) = entry.iter().position(|byte| *byte == b' ') else {
            return Ok(None);
        };
        let (session, info) = entry.split_at(space);
        self.member_of(session, info.get(1..).unwrap_or_default())
    }

    fn member_of(&self, session: &[u8], info: &[u8]) -> Result<Option<Member>, Trouble> {
        let Some((node, session)) = self.session(session)? else {
            return Ok(None);
        };
        Ok(self.info(info).map(|info| Member { node, session, info }))
    }

    /// A roster: version, owner or nothing, members at most, entries.
    ///
    /// # Errors
    /// As for [`Reader::members`].
    pub(super) fn roster(&self, value: &Value) -> Result<Box<Roster>, Trouble> {
        let [version, owner, max, entries] = list(value)? else {
            return Err(senseless(value));
        };
        let room = match text(owner) {
            Some([]) => None,
            _ => Some(terms(owner, max)?),
        };
        Ok(Box::new(Roster {
            version: number(version)?,
            room,
            members: self.members(entries)?,
        }))
    }

    /// An event; None: it makes no sense.
    ///
    /// # Errors
    /// Numbers of nodes are used up.
    pub(super) fn event(&self, fields: &[Value]) -> Result<Option<Event>, Trouble> {
        let fields = Fields(fields);
        match fields.one("e") {
            Some(b"joined" | b"shown" | b"left") => self.changed(&fields),
            Some(b"matched") => Ok(self.matched(&fields)),
            Some(b"replaced") => {
                let who = fields.one("at").map(|at| self.session(at)).transpose()?.flatten();
                let fingerprint = fields.one("f").and_then(fingerprint);
                let who = fingerprint
                    .zip(who)
                    .map(|(fingerprint, (_, session))| Who { fingerprint, session });
                Ok(who.map(Event::Replaced))
            }
            Some(b"gone") => {
                let place = fields.one("p").and_then(|text| std::str::from_utf8(text).ok());
                let Some((node, epoch)) = place.and_then(parse_place) else {
                    return Ok(None);
                };
                // This node in this epoch is told of its end by its lease.
                Ok(self.nodes.number(node, epoch)?.map(Event::NodeGone))
            }
            _ => Ok(None),
        }
    }

    fn changed(&self, fields: &Fields<'_>) -> Result<Option<Event>, Trouble> {
        let header = fields.one("ns").and_then(parse_namespace).zip(fields.number("v"));
        let (Some((namespace, version)), Some(at)) = (header, fields.one("at")) else {
            return Ok(None);
        };
        let change = match fields.one("e") {
            Some(b"left") => {
                let fingerprint = fields.one("f").and_then(fingerprint);
                let who = fingerprint.zip(self.session(at)?);
                who.map(|(fingerprint, (node, session))| Change::Left {
                    node,
                    who: Who { fingerprint, session },
                    kicked_by: fields.one("k").and_then(self::fingerprint),
                })
            }
            kind => {
                let member = self.member_of(at, fields.one("i").unwrap_or_default())?;
                let owner = fields.one("o").and_then(fingerprint);
                let max_size = fields.number("m").and_then(|max| u32::try_from(max).ok());
                let room = owner
                    .zip(max_size)
                    .map(|(owner, max_size)| RoomTerms { owner, max_size });
                member.map(|member| match kind {
                    Some(b"joined") => Change::Joined { member, room },
                    _ => Change::Shown(member),
                })
            }
        };
        Ok(change.map(|change| Event::Changed {
            namespace,
            version,
            change,
        }))
    }

    fn matched(&self, fields: &Fields<'_>) -> Option<Event> {
        let namespace = parse_namespace(fields.one("ns")?)?;
        let name = std::str::from_utf8(fields.one("name")?).ok()?;
        if name.len() > NAME_MAX {
            return None;
        }
        let session = data_encoding::HEXLOWER.decode(fields.one("g")?).ok()?;
        let peers: Option<Vec<_>> = fields.all("i").map(|info| self.info(info)).collect();
        let members: Option<Vec<_>> = fields.all("w").map(ticket).collect();
        let (peers, members) = (peers?, members?);
        if peers.len() > GROUP_MAX as usize || members.len() > peers.len() {
            return None;
        }
        Some(Event::Matched {
            namespace,
            members,
            matched: Arc::new(Matched {
                namespace: name.into(),
                session: session.try_into().ok()?,
                peers,
            }),
        })
    }
}

impl<'a> Fields<'a> {
    fn pairs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let (pairs, _) = self.0.as_chunks::<2>();
        pairs
            .iter()
            .filter_map(|[name, value]| Some((text(name)?, text(value)?)))
    }

    fn all(&self, wanted: &str) -> impl Iterator<Item = &'a [u8]> {
        self.pairs()
            .filter(move |(name, _)| *name == wanted.as_bytes())
            .map(|(_, value)| value)
    }

    fn one(&self, wanted: &str) -> Option<&'a [u8]> {
        self.all(wanted).next()
    }

    fn number(&self, wanted: &str) -> Option<u64> {
        std::str::from_utf8(self.one(wanted)?).ok()?.parse().ok()
    }
}

/// `<key>:<session>:<ticket>`.
fn ticket(text: &[u8]) -> Option<(Who, CommandId)> {
    let mut parts = std::str::from_utf8(text).ok()?.split(':');
    let (key, session, ticket) = (parts.next()?, parts.next()?, parts.next()?);
    let who = Who {
        fingerprint: Fingerprint::parse(key)?,
        session: SessionId::from_u64(session.parse().ok()?),
    };
    Some((who, CommandId::from_u64(ticket.parse().ok()?)))
}

/// A fingerprint.
pub(super) fn fingerprint(text: &[u8]) -> Option<Fingerprint> {
    Fingerprint::parse(std::str::from_utf8(text).ok()?)
}

/// What makes a room.
///
/// # Errors
/// It makes no sense.
pub(super) fn terms(owner: &Value, max_size: &Value) -> Result<RoomTerms, Trouble> {
    let found = text(owner).and_then(fingerprint);
    Ok(RoomTerms {
        owner: found.ok_or_else(|| senseless(owner))?,
        max_size: small(max_size)?,
    })
}

/// A text.
pub(super) fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(text) => Some(text),
        _ => None,
    }
}

/// A list.
///
/// # Errors
/// It is none.
pub(super) fn list(value: &Value) -> Result<&[Value], Trouble> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(senseless(value)),
    }
}

/// A number that is not negative.
///
/// # Errors
/// It is none.
pub(super) fn number(value: &Value) -> Result<u64, Trouble> {
    match value {
        Value::Int(number) => u64::try_from(*number).map_err(|_| senseless(value)),
        _ => Err(senseless(value)),
    }
}

/// A number of 32 bits.
///
/// # Errors
/// It is none.
pub(super) fn small(value: &Value) -> Result<u32, Trouble> {
    u32::try_from(number(value)?).map_err(|_| senseless(value))
}

/// An answer that makes no sense.
pub(super) fn senseless(value: &Value) -> Trouble {
    // Whatever it is, an operator needs no more than its beginning.
    let text: String = format!("{value:?}").chars().take(80).collect();
    Trouble::Lost(format!("the broker's answer makes no sense: {text}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::broker::NodeId;
    use crate::message::{META_MAX, Meta};

    #[test]
    fn the_largest_info_is_read_back_however_its_texts_are_escaped() {
        let value = format!("\"{}\"", "x".repeat(META_MAX - 16));
        let meta = |name: &str| Meta::from_entries(vec![(name.into(), value.as_str().into())]);
        let info = PeerInfo {
            fingerprint: Fingerprint::of_key("somebody"),
            alias: "\u{1}".repeat(ALIAS_MAX).into(),
            app_type: "\n".repeat(APP_TYPE_MAX).into(),
            meta: meta("\"a\"").overlaid(&meta("\"b\"")),
        };
        let text = info_text(&info);
        assert!(text.len() > PeerInfo::JSON_LEN_MAX - 64);
        let reader = Reader::new(Arc::new(Nodes::new(NodeId::from_bytes([1; 16]))), Arc::default());
        assert_eq!(reader.info(&text).as_deref(), Some(&info));
        assert!(reader.info(&vec![b' '; INFO_TEXT_MAX + 1]).is_none());
    }
}
