//! The record of sessions that were created at a provider and not yet deleted, so that none is forgotten.
//!
//! Owns: the interface, and the file that keeps the record without NATS.
//! Never: talks to a provider.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::message::game_server::SessionName;

/// A session on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What the provider calls it.
    pub session: SessionName,
    /// Its player has been on the game server.
    pub claimed: bool,
    /// When it was recorded, or claimed.
    pub since: SystemTime,
}

/// Why the record could not be changed or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError(pub String);

/// Keeps the record. Called from a provider's threads; may block.
pub trait SessionStore: Send + Sync {
    /// Puts a new session on record; it is there for good when this returns.
    ///
    /// # Errors
    /// It may not be on record: the caller deletes the session at once.
    fn created(&self, session: &SessionName) -> Result<(), StoreError>;
    /// Notes that its player came. One that is not on record is put there.
    ///
    /// # Errors
    /// It may not be noted.
    fn claimed(&self, session: &SessionName) -> Result<(), StoreError>;
    /// Takes it off the record: it was deleted.
    ///
    /// # Errors
    /// It may still be there.
    fn deleted(&self, session: &SessionName) -> Result<(), StoreError>;
    /// All that are on record.
    ///
    /// # Errors
    /// The record cannot be read.
    fn all(&self) -> Result<Vec<Stored>, StoreError>;
    /// Whether other processes keep their sessions on the same record. Of a record that is not shared, everything
    /// unclaimed at the start is left over from a process that has ended.
    fn is_shared(&self) -> bool {
        false
    }
}

/// Lines beyond the sessions on record before the file is written anew.
const SPARE_LINES: usize = 1024;

/// The record in a file: a journal of one line for each change, made short at the start and when it has grown.
///
/// A line is `CHANGE NAME UNIX_MILLISECONDS CRC32`, where the change is `+` (created), `c` (claimed) or `-` (deleted). Lines
/// that do not read so are skipped: the last one may be half written.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    journal: Mutex<Journal>,
    skipped: usize,
    /// Held until the record is dropped: another process is refused.
    _lock: File,
}

#[derive(Debug)]
struct Journal {
    file: File,
    sessions: BTreeMap<SessionName, Entry>,
    lines: usize,
    /// The last line may be without its end.
    torn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    claimed: bool,
    since_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Created,
    Claimed,
    Deleted,
}

impl FileStore {
    /// Opens the record, or begins one. `PATH.lock` beside it keeps other processes away.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: another process has it. Else the files cannot be read or written; what they hold is
    /// never a reason.
    pub fn open(path: &Path) -> io::Result<Self> {
        let lock = private().create(true).truncate(false).open(beside(path, ".lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(io::ErrorKind::WouldBlock, "another process uses this record"),
            TryLockError::Error(error) => error,
        })?;
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (sessions, skipped) = replay(&text);
        if skipped > 0 {
            tracing::warn!(skipped, "lines of the record of sessions that say nothing");
        }
        let file = write_anew(path, &sessions)?;
        let journal = Journal {
            file,
            lines: sessions.len(),
            sessions,
            torn: false,
        };
        Ok(Self {
            path: path.to_owned(),
            journal: Mutex::new(journal),
            skipped,
            _lock: lock,
        })
    }

    /// Lines that said nothing when the record was opened.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    fn lock(&self) -> MutexGuard<'_, Journal> {
        // A panic cannot leave a line half written without `torn`.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: Change, session: &SessionName) -> Result<(), StoreError> {
        let mut journal = self.lock();
        if change == Change::Deleted && !journal.sessions.contains_key(session) {
            return Ok(());
        }
        let since_ms = unix_ms(SystemTime::now());
        // A deletion that is lost costs one call that finds nothing; it need not be waited for.
        let synced = change != Change::Deleted;
        let written = journal.append(&line(change, session, since_ms), synced);
        written.map_err(|error| StoreError(error.to_string()))?;
        apply(&mut journal.sessions, change, session.clone(), since_ms);
        if journal.lines > 2 * journal.sessions.len() + SPARE_LINES {
            match write_anew(&self.path, &journal.sessions) {
                Ok(file) => {
                    journal.file = file;
                    journal.lines = journal.sessions.len();
                    journal.torn = false;
                }
                // The long journal is as good; it is tried again when it has grown as much once more.
                Err(error) => {
                    tracing::warn!(%error, "the record of sessions cannot be made short");
                    journal.lines = journal.sessions.len();
                }
            }
        }
        Ok(())
    }
}

impl SessionStore for FileStore {
    fn created(&self, session: &SessionName) -> Result<(), StoreError> {
        self.change(Change::Created, session)
    }

    fn claimed(&self, session: &SessionName) -> Result<(), StoreError> {
        self.change(Change::Claimed, session)
    }

    fn deleted(&self, session: &SessionName) -> Result<(), StoreError> {
        self.change(Change::Deleted, session)
    }

    fn all(&self) -> Result<Vec<Stored>, StoreError> {
        let journal = self.lock();
        let stored = journal.sessions.iter().map(|(session, entry)| Stored {
            session: session.clone(),
            claimed: entry.claimed,
            since: UNIX_EPOCH + Duration::from_millis(entry.since_ms),
        });
        Ok(stored.collect())
    }
}

impl Journal {
    fn append(&mut self, line: &str, synced: bool) -> io::Result<()> {
        let torn = std::mem::replace(&mut self.torn, true);
        let text = if torn { format!("\n{line}") } else { line.to_owned() };
        self.file.write_all(text.as_bytes())?;
        self.lines += 1;
        self.torn = false;
        match synced {
            true => self.file.sync_data(),
            false => Ok(()),
        }
    }
}

/// What the lines come to, and how many of them say nothing.
fn replay(text: &[u8]) -> (BTreeMap<SessionName, Entry>, usize) {
    let mut sessions = BTreeMap::new();
    let mut skipped = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match parse(line) {
            Some((change, session, since_ms)) => apply(&mut sessions, change, session, since_ms),
            // An empty line ends one that was torn.
            None if line == b"\n" => {}
            None => skipped += 1,
        }
    }
    (sessions, skipped)
}

fn apply(sessions: &mut BTreeMap<SessionName, Entry>, change: Change, session: SessionName, since_ms: u64) {
    let claimed = match change {
        Change::Created => false,
        Change::Claimed => true,
        Change::Deleted => {
            sessions.remove(&session);
            return;
        }
    };
    sessions.insert(session, Entry { claimed, since_ms });
}

fn line(change: Change, session: &SessionName, since_ms: u64) -> String {
    let change = match change {
        Change::Created => '+',
        Change::Claimed => 'c',
        Change::Deleted => '-',
    };
    let said = format!("{change} {session} {since_ms}");
    format!("{said} {:08x}\n", crc32fast::hash(said.as_bytes()))
}

fn parse(line: &[u8]) -> Option<(Change, SessionName, u64)> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (said, sum) = line.rsplit_once(' ')?;
    if u32::from_str_radix(sum, 16).ok()? != crc32fast::hash(said.as_bytes()) {
        return None;
    }
    let mut words = said.split(' ');
    let change = match words.next()? {
        "+" => Change::Created,
        "c" => Change::Claimed,
        "-" => Change::Deleted,
        _ => return None,
    };
    let session = SessionName::new(words.next()?)?;
    let since_ms = words.next()?.parse().ok()?;
    words.next().is_none().then_some((change, session, since_ms))
}

/// Writes what is on record to a new file, which takes the place of the old one in one step.
fn write_anew(path: &Path, sessions: &BTreeMap<SessionName, Entry>) -> io::Result<File> {
    let new = beside(path, ".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = private().create_new(true).open(&new)?;
    let mut text = String::new();
    for (session, entry) in sessions {
        let change = if entry.claimed {
            Change::Claimed
        } else {
            Change::Created
        };
        text.push_str(&line(change, session, entry.since_ms));
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = File::open(folder)?;
    fs::rename(&new, path)?;
    // From here on the new file is the record, whatever fails: the old one has no name any more.
    if let Err(error) = folder.sync_all() {
        tracing::warn!(%error, "the folder of the record of sessions cannot be synced");
    }
    Ok(file)
}

/// Of the owner alone: a session's name is enough for those who hold the key to end it.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(0o600);
    options
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn name(text: &str) -> SessionName {
        SessionName::new(text).unwrap()
    }

    fn on_record(store: &FileStore) -> Vec<(String, bool)> {
        let all = store.all().unwrap().into_iter();
        all.map(|stored| (stored.session.to_string(), stored.claimed)).collect()
    }

    #[test]
    fn what_was_recorded_is_there_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions");
        let store = FileStore::open(&path).unwrap();
        for session in ["a", "b", "c"] {
            store.created(&name(session)).unwrap();
        }
        store.claimed(&name("b")).unwrap();
        store.deleted(&name("c")).unwrap();
        store.deleted(&name("never")).unwrap();
        let before = store.all().unwrap();
        drop(store);
        let store = FileStore::open(&path).unwrap();
        assert_eq!(store.all().unwrap(), before);
        assert_eq!(on_record(&store), [("a".to_owned(), false), ("b".to_owned(), true)]);
        assert_eq!(store.skipped(), 0);
    }

    #[test]
    fn a_half_line_and_garbage_are_skipped_and_what_is_around_them_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions");
        let whole = line(Change::Created, &name("whole"), 5);
        let after = line(Change::Created, &name("after"), 6);
        let mut text = whole.clone().into_bytes();
        text.extend_from_slice(b"\xff\xfe\0garbage\n+ forged 5 00000000\n\n+ a b c d e\n");
        text.extend_from_slice(after.as_bytes());
        for cut in 1..after.len() {
            let mut torn = text.clone();
            torn.extend_from_slice(&after.as_bytes()[..cut]);
            fs::write(&path, &torn).unwrap();
            let store = FileStore::open(&path).unwrap();
            assert_eq!(store.skipped(), 4, "cut at {cut}");
            assert_eq!(
                on_record(&store),
                [("after".to_owned(), false), ("whole".to_owned(), false)]
            );
            store.created(&name("more")).unwrap();
            drop(store);
            let store = FileStore::open(&path).unwrap();
            assert_eq!((store.skipped(), on_record(&store).len()), (0, 3), "cut at {cut}");
        }
    }

    #[test]
    fn the_file_stays_short_and_is_of_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let store = FileStore::open(&path).unwrap();
        store.created(&name("stays")).unwrap();
        for at in 0..1500 {
            let session = name(&format!("s{at}"));
            store.created(&session).unwrap();
            store.deleted(&session).unwrap();
        }
        let length = fs::metadata(&path).unwrap().len();
        assert!(length < 64 * 1024, "{length} bytes for one session");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(beside(&path, ".lock")).unwrap().permissions().mode() & 0o777,
            0o600
        );
        drop(store);
        assert_eq!(
            on_record(&FileStore::open(&path).unwrap()),
            [("stays".to_owned(), false)]
        );
    }

    #[test]
    fn a_second_one_on_the_same_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions");
        let store = FileStore::open(&path).unwrap();
        let refused = FileStore::open(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(store);
        FileStore::open(&path).unwrap();
    }

    #[test]
    fn a_line_after_one_that_could_not_be_finished_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions");
        let store = FileStore::open(&path).unwrap();
        {
            let mut journal = store.lock();
            journal.file.write_all(b"+ half").unwrap();
            journal.torn = true;
        }
        store.created(&name("next")).unwrap();
        drop(store);
        let store = FileStore::open(&path).unwrap();
        assert_eq!((store.skipped(), on_record(&store).len()), (1, 1));
    }
}
