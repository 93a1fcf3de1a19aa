//! Presence that waits: the frames of a large namespace, once, and how far each connection is with them.
//!
//! A member of ten thousand hears of a hundred comings and goings a second, and what a write costs is the call, not the
//! bytes. So such frames wait for each other, at most for the window. They are rendered into one log a namespace, and
//! what waits for a connection is a range of that log: it is written from there, and copied only when something else must
//! follow it, or stands before it.
//!
//! Owns: the logs, the range of each connection, and when it is due.
//! Never: writes, or knows what a connection has to send besides.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use ahash::RandomState;
use hashbrown::HashMap;
use slab::Slab;

use crate::ids::{ConnId, Homes, NamespaceId};

/// The presence that waits on one loop.
#[derive(Debug)]
pub(super) struct Window {
    logs: Slab<Log>,
    by_namespace: HashMap<NamespaceId, u32, RandomState>,
    /// By the connection's slot.
    held: Vec<Held>,
    /// Every log once, by a time at which it must be looked at: when its first reader is due, or before.
    due: BinaryHeap<Reverse<(u64, u32)>>,
}

/// The frames of one namespace that somebody has not got yet.
#[derive(Debug)]
struct Log {
    namespace: NamespaceId,
    bytes: Vec<u8>,
    /// The position of the first byte, counted since the log began.
    base: u64,
    /// Those for whom something waits, or waited until something else was sent to them; in the order of `from`.
    readers: VecDeque<Reader>,
}

#[derive(Clone, Copy, Debug)]
struct Reader {
    conn: ConnId,
    /// Nothing before this position waits for it.
    from: u64,
    due_ms: u64,
}

/// What waits for a connection: whole frames, one after another in a log.
#[derive(Clone, Copy, Debug)]
struct Held {
    conn: ConnId,
    /// The log that has it among its readers, or [`NO_LOG`].
    log: u32,
    frames: u32,
    from: u64,
    to: u64,
}

/// A frame in a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Logged {
    log: u32,
    from: u64,
    to: u64,
    due_ms: u64,
}

/// A connection whose presence must leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) conn: ConnId,
    /// What waited for it here. Otherwise it was copied.
    pub(super) run: Option<Run>,
}

/// Frames that wait for one connection. Their bytes stay in the log until its next frame, or the next that is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    log: u32,
    from: u64,
    to: u64,
    /// How many.
    pub(super) frames: u32,
}

impl Window {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            logs: Slab::new(),
            by_namespace: HashMap::with_hasher(homes.hasher()),
            held: Vec::new(),
            due: BinaryHeap::new(),
        }
    }

    /// Keeps a frame until its readers are named with [`Self::extend`] or [`Self::hold`], and then until they are due.
    /// [`Self::relieve`] comes first.
    pub(super) fn push(&mut self, namespace: NamespaceId, frame: &[u8], due_ms: u64) -> Logged {
        let (logs, due) = (&mut self.logs, &mut self.due);
        let id = *self.by_namespace.entry(namespace).or_insert_with(|| {
            let id = logs.insert(Log::new(namespace)) as u32;
            due.push(Reverse((due_ms, id)));
            id
        });
        let mut logged = Logged {
            log: id,
            from: 0,
            to: 0,
            due_ms,
        };
        if let Some(log) = self.logs.get_mut(id as usize) {
            log.forget_what_was_read();
            logged.from = log.end();
            log.bytes.extend_from_slice(frame);
            logged.to = log.end();
        }
        logged
    }

    /// Lets one more frame wait for a connection for which the one before it waits. False: see [`Self::hold`].
    pub(super) fn extend(&mut self, conn: ConnId, frame: &Logged) -> bool {
        let Some(held) = self.held.get_mut(conn.slot()) else {
            return false;
        };
        let follows = held.to == frame.from && held.frames > 0 && held.log == frame.log && held.conn == conn;
        if follows {
            held.to = frame.to;
            held.frames += 1;
        }
        follows
    }

    /// Makes a connection due, if it is not already. True: the frame waits for it here. False: it has unsent output, or
    /// frames of another log, or did not get the frame before this one; so the frame must be copied to it.
    pub(super) fn hold(&mut self, conn: ConnId, frame: &Logged, has_output: bool) -> bool {
        if conn.slot() >= self.held.len() {
            self.held.resize(conn.slot() + 1, Held::none(ConnId::new(0, 0)));
        }
        let held = self.held.get_mut(conn.slot());
        let log = self.logs.get_mut(frame.log as usize);
        let (Some(held), Some(log)) = (held, log) else {
            return false;
        };
        if held.conn != conn {
            *held = Held::none(conn);
        }
        if held.log == NO_LOG {
            held.log = frame.log;
            log.readers.push_back(Reader {
                conn,
                from: frame.from,
                due_ms: frame.due_ms,
            });
        }
        let waits = !has_output && held.frames == 0 && held.log == frame.log;
        if waits {
            (held.from, held.to, held.frames) = (frame.from, frame.to, 1);
        }
        waits
    }

    /// Whether nothing waits for anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// What waits for a connection, which will be sent it otherwise. It stays due.
    pub(super) fn take(&mut self, conn: ConnId) -> Option<Run> {
        let held = self.held.get_mut(conn.slot())?;
        if held.frames == 0 || held.conn != conn {
            return None;
        }
        held.take()
    }

    /// The bytes of what was taken.
    pub(super) fn bytes(&self, run: &Run) -> &[u8] {
        let log = self.logs.get(run.log as usize);
        let bytes = log.and_then(|log| {
            let (from, to) = (run.from.checked_sub(log.base)?, run.to.checked_sub(log.base)?);
            log.bytes.get(from as usize..to as usize)
        });
        bytes.unwrap_or_default()
    }

    /// When the first connection is due, or before.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((due_ms, _))| *due_ms)
    }

    /// The next connection that is due.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<Due> {
        loop {
            let Reverse((due_ms, id)) = *self.due.peek()?;
            if due_ms > now_ms {
                return None;
            }
            let first = self.logs.get(id as usize).and_then(|log| log.readers.front());
            match first.map(|reader| reader.due_ms) {
                // The log's time first: another may be due before it, and how late the first is must be true.
                Some(first_ms) if first_ms > due_ms => {
                    self.due.pop();
                    self.due.push(Reverse((first_ms, id)));
                }
                Some(_) => {
                    if let Some(due) = self.pop_reader(id) {
                        return Some(due);
                    }
                }
                None => {
                    self.due.pop();
                    self.retire(id);
                }
            }
        }
    }

    /// The next connection that must leave before a frame of so many bytes is pushed.
    pub(super) fn relieve(&mut self, namespace: NamespaceId, bytes: usize) -> Option<Due> {
        let id = *self.by_namespace.get(&namespace)?;
        loop {
            // Without readers nothing is in the way, so this ends.
            if self.logs.get(id as usize)?.waiting() + bytes <= HELD_BYTES_MAX {
                return None;
            }
            if let Some(due) = self.pop_reader(id) {
                return Some(due);
            }
        }
    }

    /// The first reader of a log, if its connection is still the one in its slot.
    fn pop_reader(&mut self, id: u32) -> Option<Due> {
        let Reader { conn, .. } = self.logs.get_mut(id as usize)?.readers.pop_front()?;
        let held = self.held.get_mut(conn.slot()).filter(|held| held.conn == conn)?;
        let run = held.take();
        held.log = NO_LOG;
        Some(Due { conn, run })
    }

    fn retire(&mut self, id: u32) {
        if let Some(log) = self.logs.try_remove(id as usize) {
            self.by_namespace.remove(&log.namespace);
        }
    }
}

impl Log {
    fn new(namespace: NamespaceId) -> Self {
        Self {
            namespace,
            bytes: Vec::new(),
            base: 0,
            readers: VecDeque::new(),
        }
    }

    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Bytes from the first that somebody may wait for.
    fn waiting(&self) -> usize {
        self.readers
            .front()
            .map_or(0, |reader| (self.end() - reader.from) as usize)
    }

    fn forget_what_was_read(&mut self) {
        let read = self.bytes.len() - self.waiting();
        // Moved down seldom: a log has room for twice what may wait.
        if read == self.bytes.len() || read >= HELD_BYTES_MAX {
            self.bytes.drain(..read);
            self.base += read as u64;
        }
    }
}

impl Held {
    fn none(conn: ConnId) -> Self {
        Self {
            conn,
            log: NO_LOG,
            frames: 0,
            from: 0,
            to: 0,
        }
    }

    fn take(&mut self) -> Option<Run> {
        let Self {
            log, from, to, frames, ..
        } = *self;
        self.frames = 0;
        (frames > 0).then_some(Run { log, from, to, frames })
    }
}

/// What may wait for one connection, and the most that a log holds for those who have not got it.
pub(super) const HELD_BYTES_MAX: usize = 16 * 1024;

const NO_LOG: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const WINDOW_MS: u64 = 100;

    fn world() -> (Window, [NamespaceId; 2]) {
        let homes = Homes::new(1, [1, 2, 3, 4]);
        (
            Window::new(&homes),
            [homes.namespace("lobby"), homes.namespace("arena")],
        )
    }

    fn conn(slot: u32) -> ConnId {
        ConnId::new(slot, 1)
    }

    /// Frames for connections without other output.
    fn tell(window: &mut Window, namespace: NamespaceId, frame: &[u8], now_ms: u64, to: &[u32]) -> Vec<bool> {
        let logged = window.push(namespace, frame, now_ms + WINDOW_MS);
        let tell = |slot: &u32| window.extend(conn(*slot), &logged) || window.hold(conn(*slot), &logged, false);
        to.iter().map(tell).collect()
    }

    fn log_of(window: &Window, namespace: NamespaceId) -> &Log {
        &window.logs[window.by_namespace[&namespace] as usize]
    }

    fn due(window: &mut Window, now_ms: u64) -> Vec<(u32, Option<Vec<u8>>)> {
        let mut all = Vec::new();
        while let Some(due) = window.pop_due(now_ms) {
            let bytes = due.run.map(|run| window.bytes(&run).to_vec());
            all.push((due.conn.slot() as u32, bytes));
        }
        all
    }

    #[test]
    fn frames_wait_together_for_the_first_one_to_be_due() {
        let (mut window, [lobby, _]) = world();
        assert_eq!(window.due_ms(), None);
        assert_eq!(tell(&mut window, lobby, b"one ", 0, &[1, 2]), [true, true]);
        assert_eq!(tell(&mut window, lobby, b"two ", 60, &[1, 2, 3]), [true, true, true]);
        assert_eq!(window.due_ms(), Some(100));
        assert!(due(&mut window, 99).is_empty());
        let both = Some(b"one two ".to_vec());
        assert_eq!(due(&mut window, 100), [(1, both.clone()), (2, both)]);
        assert_eq!(due(&mut window, 160), [(3, Some(b"two ".to_vec()))]);
        assert_eq!(due(&mut window, 999), []);
        assert_eq!(
            (window.due_ms(), window.logs.len(), window.by_namespace.len()),
            (None, 0, 0)
        );
    }

    #[test]
    fn what_was_taken_for_another_message_is_not_due_again_and_what_follows_is_due_early() {
        let (mut window, [lobby, _]) = world();
        tell(&mut window, lobby, b"one ", 0, &[1]);
        let run = window.take(conn(1)).unwrap();
        assert_eq!((window.bytes(&run), run.frames), (&b"one "[..], 1));
        assert!(window.take(conn(1)).is_none());
        assert_eq!(tell(&mut window, lobby, b"two ", 50, &[1]), [true]);
        assert_eq!(due(&mut window, 100), [(1, Some(b"two ".to_vec()))]);
        assert_eq!(due(&mut window, 150), []);
    }

    #[test]
    fn who_did_not_get_the_frame_before_or_is_told_of_elsewhere_must_have_a_copy() {
        let (mut window, [lobby, arena]) = world();
        tell(&mut window, lobby, b"one ", 0, &[1, 2]);
        tell(&mut window, lobby, b"two ", 0, &[2]);
        assert_eq!(tell(&mut window, lobby, b"three ", 0, &[1, 2]), [false, true]);
        assert_eq!(tell(&mut window, arena, b"four ", 0, &[2, 3]), [false, true]);
        let all = due(&mut window, 100);
        assert_eq!(all.len(), 3, "each once: {all:?}");
        // What the caller copies is not known here.
        assert!(all.contains(&(2, Some(b"one two three ".to_vec()))));
    }

    #[test]
    fn a_slot_that_was_taken_again_gets_nothing_of_its_predecessor() {
        let (mut window, [lobby, _]) = world();
        tell(&mut window, lobby, b"one ", 0, &[1]);
        let next = ConnId::new(1, 2);
        assert!(window.take(next).is_none());
        let frame = window.push(lobby, b"two ", 150);
        assert!(!window.extend(next, &frame));
        assert!(window.hold(next, &frame, false));
        assert!(window.pop_due(149).is_none());
        let run = window.pop_due(150).unwrap().run.unwrap();
        assert_eq!(window.bytes(&run), b"two ");
    }

    #[test]
    fn a_log_without_readers_goes_and_so_do_the_bytes_that_nobody_waits_for() {
        let (mut window, [lobby, arena]) = world();
        window.push(lobby, b"for nobody", 100);
        assert_eq!(due(&mut window, 100), []);
        assert_eq!(window.logs.len(), 0);
        for round in 0..1000 {
            let now_ms = round * 10;
            tell(&mut window, arena, &[b'x'; 1000], now_ms, &[round as u32 % 50]);
            due(&mut window, now_ms);
            assert!(log_of(&window, arena).bytes.len() <= 2 * HELD_BYTES_MAX);
        }
    }

    #[test]
    fn a_full_log_sends_whoever_stands_in_the_way() {
        let (mut window, [lobby, _]) = world();
        let frame = [b'x'; 1000];
        tell(&mut window, lobby, &frame, 0, &[1, 2, 3]);
        for _ in 1..16 {
            assert!(window.relieve(lobby, frame.len()).is_none());
            tell(&mut window, lobby, &frame, 0, &[1, 2]);
        }
        tell(&mut window, lobby, &[], 0, &[4]);
        let mut left = Vec::new();
        while let Some(due) = window.relieve(lobby, frame.len()) {
            let bytes = due.run.map(|run| window.bytes(&run).len());
            left.push((due.conn.slot(), bytes));
        }
        assert_eq!(left, [(1, Some(16_000)), (2, Some(16_000)), (3, Some(1000))]);
        assert_eq!(tell(&mut window, lobby, &frame, 0, &[1, 4]), [true, true]);
        assert_eq!(log_of(&window, lobby).waiting(), 1000);
    }

    #[test]
    fn a_frame_larger_than_a_log_waits_for_nobody_in_its_way_forever() {
        let (mut window, [lobby, _]) = world();
        assert!(window.relieve(lobby, 2 * HELD_BYTES_MAX).is_none());
        tell(&mut window, lobby, b"one ", 0, &[1]);
        assert!(window.relieve(lobby, HELD_BYTES_MAX).is_some());
        assert!(window.relieve(lobby, HELD_BYTES_MAX).is_none());
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// In which namespace, and a bit for each connection that is told.
        Tell(usize, u8),
        Other(u32),
        Replace(u32),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..2_usize, any::<u8>()).prop_map(|(namespace, to)| Step::Tell(namespace, to)),
            3 => (0..2_usize, Just(u8::MAX)).prop_map(|(namespace, to)| Step::Tell(namespace, to)),
            1 => (0..8_u32).prop_map(Step::Other),
            1 => (0..8_u32).prop_map(Step::Replace),
            2 => (1..80_u64).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..120)
    }

    #[test]
    fn who_is_due_first_comes_first_whatever_the_namespace() {
        let (mut window, [lobby, arena]) = world();
        tell(&mut window, lobby, b"one ", 0, &[1]);
        tell(&mut window, arena, b"two ", 10, &[2]);
        tell(&mut window, lobby, b"three ", 20, &[3]);
        let mut order = Vec::new();
        while let Some(due) = window.pop_due(200) {
            order.push((due.conn.slot(), window.due_ms()));
        }
        // The time told is never after that of the next.
        assert_eq!(order, [(1, Some(100)), (2, Some(110)), (3, Some(120))]);
    }

    proptest! {
        /// With the copying that the event loop does, each connection's bytes are those of appending at once.
        #[test]
        fn nobody_can_tell_it_from_appending_at_once(steps in steps()) {
            let (mut window, namespaces) = world();
            let mut generations = [0_u32; 8];
            // By connection: what it was to get, what it got or has as output, and whether that waits since when.
            let mut wanted: BTreeMap<ConnId, Vec<u8>> = BTreeMap::new();
            let mut got: BTreeMap<ConnId, Vec<u8>> = BTreeMap::new();
            let mut output: BTreeMap<ConnId, (Vec<u8>, u64)> = BTreeMap::new();
            let mut now_ms = 0;
            let id = |generations: &[u32; 8], slot: u32| ConnId::new(slot, generations[slot as usize]);
            for (number, step) in steps.into_iter().enumerate() {
                let mut text = format!("{number} ").into_bytes();
                if number % 3 == 0 {
                    text.resize(HELD_BYTES_MAX / 3, b'.');
                }
                match step {
                    Step::Tell(namespace, to) => {
                        while let Some(due) = window.relieve(namespaces[namespace], text.len()) {
                            let bytes = due.run.map(|run| window.bytes(&run).to_vec());
                            if id(&generations, due.conn.slot() as u32) != due.conn {
                                continue;
                            }
                            let sent = got.entry(due.conn).or_default();
                            sent.extend(output.remove(&due.conn).unwrap_or_default().0);
                            sent.extend(bytes.unwrap_or_default());
                        }
                        let frame = window.push(namespaces[namespace], &text, now_ms + WINDOW_MS);
                        for slot in (0..8).filter(|slot| to & (1 << slot) != 0) {
                            let conn = id(&generations, slot);
                            wanted.entry(conn).or_default().extend(&text);
                            let copied = output.get(&conn).is_some_and(|(bytes, _)| !bytes.is_empty());
                            if window.extend(conn, &frame) || window.hold(conn, &frame, copied) {
                                continue;
                            }
                            let out = output.entry(conn).or_insert((Vec::new(), now_ms));
                            if out.0.is_empty() {
                                out.1 = now_ms;
                            }
                            if let Some(run) = window.take(conn) {
                                out.0.extend(window.bytes(&run));
                            }
                            out.0.extend(&text);
                        }
                    }
                    Step::Other(slot) => {
                        let conn = id(&generations, slot);
                        wanted.entry(conn).or_default().extend(&text);
                        let sent = got.entry(conn).or_default();
                        let (copied, _) = output.remove(&conn).unwrap_or_default();
                        sent.extend(copied);
                        if let Some(run) = window.take(conn) {
                            sent.extend(window.bytes(&run));
                        }
                        sent.extend(&text);
                    }
                    Step::Replace(slot) => {
                        let conn = id(&generations, slot);
                        wanted.remove(&conn);
                        output.remove(&conn);
                        got.remove(&conn);
                        generations[slot as usize] += 1;
                    }
                    Step::Wait(ms) => now_ms += ms,
                }
                while let Some(due) = window.pop_due(now_ms) {
                    if id(&generations, due.conn.slot() as u32) != due.conn {
                        continue;
                    }
                    let sent = got.entry(due.conn).or_default();
                    let (copied, _) = output.remove(&due.conn).unwrap_or_default();
                    prop_assert!(copied.is_empty() || due.run.is_none(), "what waits follows what was copied");
                    sent.extend(copied);
                    if let Some(run) = due.run {
                        sent.extend(window.bytes(&run));
                    }
                }
                for (conn, (_, since_ms)) in &output {
                    prop_assert!(now_ms < since_ms + WINDOW_MS, "{conn:?} waits too long");
                }
                prop_assert!(window.due_ms().is_none_or(|due_ms| due_ms > now_ms), "a wake that would change nothing");
                for (conn, sent) in &got {
                    prop_assert!(wanted[conn].starts_with(sent), "{conn:?}");
                }
            }
            while let Some(due) = window.pop_due(now_ms + WINDOW_MS) {
                let sent = got.entry(due.conn).or_default();
                sent.extend(output.remove(&due.conn).unwrap_or_default().0);
                if let Some(run) = due.run {
                    sent.extend(window.bytes(&run));
                }
            }
            for (conn, all) in &wanted {
                prop_assert_eq!(&got[conn], all);
            }
            prop_assert_eq!(window.logs.len(), 0);
        }
    }
}
