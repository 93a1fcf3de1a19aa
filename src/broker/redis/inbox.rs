//! The inbox.
//!
//! Owns: the connection on which it is read, and how far it was read. Ids of its entries rise by one, so a gap shows.
//! Never: writes to it, but trims what it has told.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use redis::{Connection, ConnectionLike as _, Value};

use super::connect::{is_interrupted, lost};
use super::entries::{Reader, list, senseless, text};
use super::keys;
use super::lease::Memory;
use crate::broker::{Epoch, Inbox, News, NodeId, Trouble};

/// Entries read at once.
const COUNT: u32 = 256;
/// What was read is trimmed as often as that.
const TRIM_EVERY: u64 = 1024;
/// How much longer than asked for an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// See [`Inbox`].
pub(super) struct RedisInbox {
    connection: Connection,
    reader: Reader,
    memory: Arc<Memory>,
    epoch: Epoch,
    key: String,
    /// The number of the next entry.
    next: u64,
    trimmed: u64,
    /// The server came back with an older state: what was read is not all that there was.
    is_older: bool,
    wait: Option<Duration>,
}

impl RedisInbox {
    pub(super) fn new(
        mut connection: Connection,
        own: NodeId,
        reader: Reader,
        memory: Arc<Memory>,
        epoch: Epoch,
        after: Option<&str>,
    ) -> Result<Self, Trouble> {
        let next = match after {
            None => 0,
            Some(place) => number_of(place.as_bytes())
                .and_then(|number| number.checked_add(1))
                .ok_or_else(|| Trouble::Lost("no place in an inbox".to_owned()))?,
        };
        let key = keys::inbox(&keys::place(own, epoch));
        let there = there(&mut connection, &key)?;
        let (is_older, next) = (there.end < next, next.min(there.end));
        // Before any command is run, so that no request is answered by what this node will not hear.
        memory.miss(
            epoch,
            match is_older {
                // Which of these numbers were given anew is not known.
                true => 0..next,
                false => next..there.start,
            },
        );
        Ok(Self {
            connection,
            reader,
            memory,
            epoch,
            key,
            next,
            trimmed: next,
            is_older,
            wait: None,
        })
    }

    /// The last entry that was told.
    fn last(&self) -> String {
        match self.next.checked_sub(1) {
            Some(last) => format!("1-{last}"),
            None => "0-0".to_owned(),
        }
    }

    fn tell(&mut self, entry: &Value, told: &mut dyn FnMut(News)) -> Result<(), Trouble> {
        let [id, fields] = list(entry)? else {
            return Err(senseless(entry));
        };
        let number = text(id).and_then(number_of).ok_or_else(|| senseless(id))?;
        if number < self.next {
            return Ok(());
        }
        if number > self.next {
            self.memory.miss(self.epoch, self.next..number);
            told(News::Gap);
        }
        // Before it is told: what makes no sense now will not later either.
        self.next = number.checked_add(1).ok_or_else(|| senseless(id))?;
        match list(fields).map(|fields| self.reader.event(fields)) {
            Ok(event) => match event? {
                Some(event) => told(News::Happened(event)),
                None => self.reader.count_strange(),
            },
            Err(_) => self.reader.count_strange(),
        }
        Ok(())
    }
}

impl Inbox for RedisInbox {
    fn read(&mut self, wait: Duration, told: &mut dyn FnMut(News)) -> Result<(), Trouble> {
        if std::mem::take(&mut self.is_older) {
            told(News::Gap);
        }
        if self.wait != Some(wait) {
            let limit = self.connection.set_read_timeout(Some(wait + ANSWER));
            limit.map_err(|error| lost(&error))?;
            self.wait = Some(wait);
        }
        let mut packed = Vec::new();
        let mut answers = 1;
        if self.next - self.trimmed >= TRIM_EVERY {
            let mut trim = redis::cmd("XTRIM");
            trim.arg(&self.key).arg("MINID").arg("~").arg(self.last());
            trim.write_packed_command(&mut packed);
            answers += 1;
            self.trimmed = self.next;
        }
        let mut read = redis::cmd("XREAD");
        // Zero would mean for ever.
        read.arg("COUNT")
            .arg(COUNT)
            .arg("BLOCK")
            .arg((wait.as_millis() as u64).max(1));
        read.arg("STREAMS").arg(&self.key).arg(self.last());
        read.write_packed_command(&mut packed);
        let mut streams = Value::Nil;
        let sent = self.connection.send_packed_command(&packed);
        sent.map_err(|error| lost(&error))?;
        for _ in 0..answers {
            streams = match self.connection.recv_response().and_then(Value::extract_error) {
                Ok(answer) => answer,
                // The crate will pass over this answer when it comes: what it has is asked for again.
                Err(error) if is_interrupted(&error) => Value::Nil,
                Err(error) => return Err(lost(&error)),
            };
        }
        if streams == Value::Nil {
            return Ok(());
        }
        for stream in list(&streams)? {
            let [_, entries] = list(stream)? else {
                return Err(senseless(stream));
            };
            for entry in list(entries)? {
                self.tell(entry, told)?;
            }
        }
        Ok(())
    }

    fn place(&self) -> Option<String> {
        self.next.checked_sub(1).map(|last| format!("1-{last}"))
    }
}

/// The numbers of the entries that an inbox has, up to the last that it ever had.
fn there(connection: &mut Connection, key: &str) -> Result<Range<u64>, Trouble> {
    let mut about = redis::cmd("XINFO");
    about.arg("STREAM").arg(key);
    let answer = connection.req_command(&about).map_err(|error| lost(&error))?;
    // One that is not there is answered by an error.
    let Value::Array(fields) = answer else { return Ok(0..0) };
    let value = |name: &[u8]| {
        let mut fields = fields.iter();
        fields.find(|field| text(field) == Some(name))?;
        fields.next()
    };
    let last = value(b"last-generated-id").and_then(text).and_then(number_of);
    let end = last.map_or(0, |last| last.saturating_add(1));
    let first = value(b"first-entry").and_then(|entry| list(entry).ok()?.first());
    let first = first.and_then(text).and_then(number_of);
    Ok(first.unwrap_or(end)..end)
}

/// The number in `1-<number>`.
fn number_of(id: &[u8]) -> Option<u64> {
    std::str::from_utf8(id).ok()?.strip_prefix("1-")?.parse().ok()
}
