//! Rosters that are too large for one step.
//!
//! A script says the version, and who joined up to that one is read in steps that nobody has to wait for. What changes
//! meanwhile has a higher version, so its event is applied after this roster, whether the entries have it already or not: who
//! left and is missing here is not taken out again, who joined later is left out here, who is shown differently is so twice.
//!
//! Owns: how the entries are read.
//! Never: keeps the server busy for longer than a page takes.

use std::collections::HashSet;

use redis::{Connection, Value};

use super::connect::exchange;
use super::entries::{Reader, list, number, senseless, terms, text};
use crate::broker::Trouble;
use crate::message::cluster::{RoomTerms, Roster};

/// Entries in a page.
const PAGE: usize = 500;

/// What the script said of a roster.
pub(super) struct Head {
    version: u64,
    room: Option<RoomTerms>,
    /// Places that were not marked dead. Of one that is marked since, an event tells.
    listed: HashSet<Vec<u8>>,
}

/// What is said of a roster without its entries; None: it has them.
///
/// # Errors
/// It makes no sense.
pub(super) fn head(roster: &Value) -> Result<Option<Head>, Trouble> {
    let [version, owner, max, _, places] = list(roster)? else {
        return Ok(None);
    };
    let room = match text(owner) {
        Some([]) => None,
        _ => Some(terms(owner, max)?),
    };
    Ok(Some(Head {
        version: number(version)?,
        room,
        listed: list(places)?.iter().filter_map(text).map(<[u8]>::to_vec).collect(),
    }))
}

/// Reads the entries; None: what is there is no roster.
///
/// # Errors
/// The broker is lost.
pub(super) fn read(
    connection: &mut Connection,
    namespace: &str,
    head: Head,
    reader: &Reader,
) -> Result<Option<Box<Roster>>, Trouble> {
    let (order, entries) = (format!("peer:o:{namespace}"), format!("peer:r:{namespace}"));
    let mut members = Vec::new();
    let mut after = "-inf".to_owned();
    let mut packed = Vec::new();
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut is_first = true;
    // Each round reads the entries of the keys before and the next keys.
    loop {
        packed.clear();
        let rounds = usize::from(!keys.is_empty()) + usize::from(is_first || !keys.is_empty());
        if rounds == 0 {
            break;
        }
        is_first = false;
        if !keys.is_empty() {
            redis::cmd("HMGET")
                .arg(&entries)
                .arg(&keys)
                .write_packed_command(&mut packed);
        }
        let mut next = redis::cmd("ZRANGEBYSCORE");
        next.arg(&order).arg(&after).arg(head.version).arg("WITHSCORES");
        next.arg("LIMIT").arg(0).arg(PAGE);
        next.write_packed_command(&mut packed);
        let mut answers = Vec::with_capacity(rounds);
        exchange(connection, &packed, rounds, |answer| {
            answers.push(answer);
            Ok(())
        })?;
        let (Some(Value::Array(ranked)), page) = (answers.pop(), answers.pop()) else {
            return Ok(None);
        };
        match page {
            None => {}
            Some(Value::Array(page)) => {
                for entry in page.iter().filter_map(text).filter(|entry| head.has(entry)) {
                    match reader.one_member(entry)? {
                        Some(member) => members.push(member),
                        None => reader.count_strange(),
                    }
                }
            }
            Some(_) => return Ok(None),
        }
        keys.clear();
        let (pairs, _) = ranked.as_chunks::<2>();
        keys.extend(pairs.iter().filter_map(|[key, _]| text(key).map(<[u8]>::to_vec)));
        if let Some([_, score]) = pairs.last() {
            let score = text(score).and_then(|score| std::str::from_utf8(score).ok());
            after = format!("({}", score.ok_or_else(|| senseless(&Value::Nil))?);
        }
    }
    Ok(Some(Box::new(Roster {
        version: head.version,
        room: head.room,
        members,
    })))
}

impl Head {
    /// Whether the node of an entry was not marked dead.
    fn has(&self, entry: &[u8]) -> bool {
        let session = entry.split(|byte| *byte == b' ').next().unwrap_or_default();
        let place = session
            .iter()
            .rposition(|byte| *byte == b':')
            .and_then(|end| session.get(..end));
        place.is_none_or(|place| self.listed.contains(place))
    }
}
