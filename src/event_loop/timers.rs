//! Deadlines of connections: a hashed timing wheel with at most one timer per connection slot.
//!
//! Owns: when each slot is due, in ticks of [`TICK_MS`].
//! Never: reads a clock, or knows why a slot is due (its connection tells).

/// The deadlines of one loop. All times are milliseconds on one clock that the caller chooses.
///
/// Each bucket is a doubly linked list that runs through one array indexed by slot, so scheduling and cancelling are
/// O(1) and allocate only while the highest slot grows. A deadline beyond one turn of the wheel stays in its bucket
/// and is passed over once per turn.
#[derive(Debug)]
pub struct Timers {
    base_ms: u64,
    /// Every bucket up to and including this tick has been emptied of what was due.
    current_tick: u64,
    scheduled: usize,
    entries: Vec<Entry>,
    heads: Box<[u32; BUCKETS]>,
    /// One bit per bucket that is not empty, so that the next one is found by looking at a few words.
    occupied: [u64; BUCKETS / 64],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    due_tick: u64,
    /// The following slot of the bucket, `NIL` at the end, or `IDLE` when the slot has no timer.
    next: u32,
    /// The preceding slot of the bucket, or `NIL` at its head.
    previous: u32,
}

impl Timers {
    /// A wheel without timers that starts at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self {
            base_ms: now_ms,
            current_tick: 0,
            scheduled: 0,
            entries: Vec::new(),
            heads: Box::new([NIL; BUCKETS]),
            occupied: [0; BUCKETS / 64],
        }
    }

    /// Sets the timer of `slot` to `due_ms`, in place of the one it may have.
    ///
    /// A time that has passed is due at the next tick. Memory grows to 16 bytes times the highest slot ever scheduled.
    pub fn schedule(&mut self, slot: u32, due_ms: u64) {
        debug_assert!(slot < IDLE, "the two highest slots are list marks");
        let due_tick = due_ms
            .saturating_sub(self.base_ms)
            .div_ceil(TICK_MS)
            .max(self.current_tick.saturating_add(1));
        let index = slot as usize;
        if index >= self.entries.len() {
            self.entries.resize(
                index + 1,
                Entry {
                    due_tick: 0,
                    next: IDLE,
                    previous: NIL,
                },
            );
        }
        let entry = self.entries[index];
        if entry.next != IDLE {
            if entry.due_tick == due_tick {
                return;
            }
            self.unlink(slot);
        }
        self.link(slot, due_tick);
    }

    /// Removes the timer of `slot`, if it has one.
    pub fn cancel(&mut self, slot: u32) {
        if self.entries.get(slot as usize).is_some_and(|entry| entry.next != IDLE) {
            self.unlink(slot);
        }
    }

    /// Moves every slot that is due by `now_ms` into `due`, which is cleared first, and removes their timers.
    ///
    /// No slot is early, and none is more than one tick late. The slots come in no particular order. A clock that
    /// stands still or runs backwards yields nothing; one that jumps forward costs at most one turn of the wheel.
    pub fn expire(&mut self, now_ms: u64, due: &mut Vec<u32>) {
        due.clear();
        let now_tick = now_ms.saturating_sub(self.base_ms) / TICK_MS;
        if now_tick <= self.current_tick {
            return;
        }
        let first_tick = self.current_tick + 1;
        let last_tick = now_tick.min(self.current_tick.saturating_add(BUCKETS as u64));
        self.current_tick = now_tick;
        for tick in first_tick..=last_tick {
            if self.scheduled == 0 {
                break;
            }
            self.expire_bucket(bucket_of(tick), now_tick, due);
        }
    }

    /// When the loop must wake for a timer, in milliseconds; `None` without timers.
    ///
    /// A lower bound: the first bucket in use, whose slots may all belong to a later turn. It is never later than the
    /// earliest deadline rounded up to a tick, and it moves on with every call of [`Self::expire`] that reaches it.
    pub fn next_ms(&self) -> Option<u64> {
        if self.scheduled == 0 {
            return None;
        }
        let start = bucket_of(self.current_tick.saturating_add(1));
        let distance = self.first_occupied_from(start)? as u64;
        let tick = self.current_tick.saturating_add(1).saturating_add(distance);
        Some(self.base_ms.saturating_add(tick.saturating_mul(TICK_MS)))
    }

    fn link(&mut self, slot: u32, due_tick: u64) {
        let bucket = bucket_of(due_tick);
        let head = self.heads[bucket];
        self.entries[slot as usize] = Entry {
            due_tick,
            next: head,
            previous: NIL,
        };
        if head != NIL {
            self.entries[head as usize].previous = slot;
        }
        self.heads[bucket] = slot;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        self.scheduled += 1;
    }

    /// The slot must have a timer.
    fn unlink(&mut self, slot: u32) {
        let Entry {
            due_tick,
            next,
            previous,
        } = self.entries[slot as usize];
        if next != NIL {
            self.entries[next as usize].previous = previous;
        }
        if previous != NIL {
            self.entries[previous as usize].next = next;
        } else {
            let bucket = bucket_of(due_tick);
            self.heads[bucket] = next;
            if next == NIL {
                self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            }
        }
        self.entries[slot as usize].next = IDLE;
        self.scheduled -= 1;
    }

    fn expire_bucket(&mut self, bucket: usize, now_tick: u64, due: &mut Vec<u32>) {
        let mut slot = self.heads[bucket];
        while slot != NIL {
            let Entry { due_tick, next, .. } = self.entries[slot as usize];
            if due_tick <= now_tick {
                self.unlink(slot);
                due.push(slot);
            }
            slot = next;
        }
    }

    /// How many buckets lie between `start` and the first one in use, going round.
    fn first_occupied_from(&self, start: usize) -> Option<usize> {
        let words = self.occupied.len();
        let (word, bit) = (start / 64, start % 64);
        // The word of `start` is looked at twice: its upper bits first, its lower bits after a whole turn.
        for step in 0..=words {
            let mut bits = self.occupied[(word + step) % words];
            if step == 0 {
                bits &= u64::MAX << bit;
            }
            if bits != 0 {
                return Some(step * 64 + bits.trailing_zeros() as usize - bit);
            }
        }
        None
    }
}

fn bucket_of(tick: u64) -> usize {
    (tick % BUCKETS as u64) as usize
}

/// The resolution of a deadline, in milliseconds.
pub const TICK_MS: u64 = 50;

/// One turn is 51.2 s: the usual deadlines (ping, registration, lingering) are found in their first turn.
const BUCKETS: usize = 1024;

/// The end of a list.
const NIL: u32 = u32::MAX;

/// In `Entry::next`: the slot is in no list.
const IDLE: u32 = u32::MAX - 1;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const TURN_MS: u64 = BUCKETS as u64 * TICK_MS;

    fn expired(timers: &mut Timers, now_ms: u64) -> Vec<u32> {
        let mut due = vec![77];
        timers.expire(now_ms, &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn a_slot_is_due_at_the_tick_after_its_time_and_only_once() {
        let mut timers = Timers::new(1_000);
        timers.schedule(3, 1_101);
        assert_eq!(timers.next_ms(), Some(1_150));
        assert!(expired(&mut timers, 1_149).is_empty());
        assert_eq!(expired(&mut timers, 1_150), [3]);
        assert!(expired(&mut timers, 9_000).is_empty());
        assert_eq!(timers.next_ms(), None);
    }

    #[test]
    fn a_later_schedule_replaces_the_earlier_one() {
        let mut timers = Timers::new(0);
        timers.schedule(1, 100);
        timers.schedule(1, 500);
        timers.schedule(2, 100);
        timers.cancel(2);
        timers.cancel(2);
        timers.cancel(9_999);
        assert!(expired(&mut timers, 499).is_empty());
        assert_eq!(expired(&mut timers, 500), [1]);
    }

    #[test]
    fn a_time_that_has_passed_is_due_at_the_next_tick() {
        let mut timers = Timers::new(0);
        assert!(expired(&mut timers, 10_000).is_empty());
        timers.schedule(4, 3);
        assert_eq!(timers.next_ms(), Some(10_050));
        assert!(expired(&mut timers, 10_049).is_empty());
        assert_eq!(expired(&mut timers, 10_050), [4]);
    }

    #[test]
    fn a_deadline_of_many_turns_is_not_early() {
        let mut timers = Timers::new(0);
        let due_ms = 7 * TURN_MS + 100;
        timers.schedule(0, due_ms);
        let mut wakes = 0;
        let mut now_ms = 0;
        while now_ms < due_ms {
            now_ms = timers.next_ms().unwrap();
            wakes += 1;
            assert!(now_ms <= due_ms);
            assert_eq!(expired(&mut timers, now_ms).is_empty(), now_ms < due_ms);
        }
        assert_eq!(wakes, 8, "once per turn");
    }

    #[test]
    fn extreme_times_neither_overflow_nor_loop() {
        let mut timers = Timers::new(5);
        timers.schedule(0, u64::MAX);
        timers.schedule(1, 1_000);
        assert_eq!(expired(&mut timers, u64::MAX / 2), [1]);
        assert!(timers.next_ms().is_some());
        assert!(expired(&mut timers, 0).is_empty());
        timers.cancel(0);
        assert_eq!(timers.next_ms(), None);
    }

    #[test]
    fn a_jump_of_the_clock_visits_each_timer_once_and_each_bucket_once() {
        let mut timers = Timers::new(0);
        for slot in 0..100_000 {
            timers.schedule(slot, u64::from(slot) * 30_000 / 100_000);
        }
        assert_eq!(expired(&mut timers, 1_000_000_000_000).len(), 100_000);
        assert_eq!(timers.next_ms(), None);
    }

    #[test]
    fn a_hundred_thousand_timers_need_little_memory_and_no_growth_when_rescheduled() {
        assert_eq!(size_of::<Entry>(), 16);
        let mut timers = Timers::new(0);
        for slot in 0..100_000 {
            timers.schedule(slot, 1 + u64::from(slot) * 30_000 / 100_000);
        }
        let capacity = timers.entries.capacity();
        let mut due = Vec::new();
        let mut total = 0;
        let mut most = 0;
        for now_ms in (0..=30_100).step_by(10) {
            timers.expire(now_ms, &mut due);
            most = most.max(due.len());
            total += due.len();
        }
        assert_eq!(total, 100_000);
        assert!(most <= 200, "spread evenly: {most}");
        for slot in 0..100_000 {
            timers.schedule(slot, 60_000);
            timers.schedule(slot, 61_000);
        }
        assert_eq!(timers.entries.capacity(), capacity);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u64),
        Cancel(u32),
        Advance(u64),
        WakeAsTold,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let delay = prop_oneof![0..200_u64, 0..40_000_u64, 0..5 * TURN_MS, Just(TURN_MS), Just(0)];
        let advance = prop_oneof![0..120_u64, 0..3_000_u64, 0..3 * TURN_MS];
        let step = prop_oneof![
            4 => (0..40_u32, delay).prop_map(|(slot, delay)| Step::Schedule(slot, delay)),
            1 => (0..40_u32).prop_map(Step::Cancel),
            3 => advance.prop_map(Step::Advance),
            2 => Just(Step::WakeAsTold),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn the_wheel_agrees_with_an_ordered_map(base_ms in 0..10_000_u64, steps in steps()) {
            let mut timers = Timers::new(base_ms);
            // slot -> (asked for, the first time at which expire may and must yield it)
            let mut model: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
            let mut now_ms = base_ms;
            let mut expired_ms = base_ms;
            for step in steps {
                match step {
                    Step::Schedule(slot, delay) => {
                        let asked = now_ms + delay;
                        let rounded = base_ms + (asked - base_ms).div_ceil(TICK_MS) * TICK_MS;
                        let earliest = base_ms + ((expired_ms - base_ms) / TICK_MS + 1) * TICK_MS;
                        timers.schedule(slot, asked);
                        model.insert(slot, (asked, rounded.max(earliest)));
                    }
                    Step::Cancel(slot) => {
                        timers.cancel(slot);
                        model.remove(&slot);
                    }
                    Step::Advance(_) | Step::WakeAsTold => {
                        now_ms = match step {
                            Step::Advance(by) => now_ms + by,
                            _ => timers.next_ms().unwrap_or(now_ms).max(now_ms),
                        };
                        expired_ms = now_ms;
                        let due = expired(&mut timers, now_ms);
                        let wanted: Vec<u32> =
                            model.iter().filter(|(_, times)| times.1 <= now_ms).map(|(slot, _)| *slot).collect();
                        prop_assert_eq!(&due, &wanted);
                        for slot in due {
                            let (asked, _) = model.remove(&slot).unwrap();
                            prop_assert!(asked <= now_ms, "early");
                        }
                    }
                }
                for (asked, rounded) in model.values() {
                    prop_assert!(*rounded < asked + TICK_MS || *rounded <= expired_ms + TICK_MS, "late");
                }
                let earliest = model.values().map(|times| times.1).min();
                let bound = timers.next_ms();
                prop_assert_eq!(bound.is_some(), earliest.is_some());
                prop_assert!(bound <= earliest, "woken late: {bound:?} {earliest:?}");
                prop_assert!(bound.is_none_or(|bound| bound > expired_ms), "a wake that would change nothing");
            }
        }
    }
}
