//! Descriptor tables: whether each loop has its own, and what the descriptor limit is worth then.
//!
//! The limit (RLIMIT_NOFILE) holds for each table, so a process whose loops have their own holds that many connections for
//! each loop. And the kernel need not count references to a file around each system call on a table that one thread uses
//! alone, nor wait for all processors when it grows that table.
//!
//! Owns: the choice, the one call that parts a thread from the process's table, and the proof that this is sound.
//! Never: opens anything that a loop uses.

use std::io;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::config::DescriptorTables;

/// Descriptors of a table that are not connections: those of the start, one poll, listeners, files.
const SPARE: u64 = 64;
/// Wakers and passages stand in every table: three for each loop.
const SPARE_FOR_EACH_LOOP: u64 = 3;

/// How the tables are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tables {
    /// Each loop has its own.
    pub(super) per_loop: bool,
    /// The descriptor limit of each table.
    pub(super) descriptors: u64,
    loops: u64,
}

impl Tables {
    /// What was asked for, as far as the system lets it: the filters of some containers forbid unshare(2).
    ///
    /// # Errors
    /// Tables for each loop were demanded and cannot be had.
    pub(super) fn arrange(wanted: DescriptorTables, loops: usize, descriptors: u64) -> io::Result<Self> {
        let per_loop = match wanted {
            DescriptorTables::Shared => false,
            DescriptorTables::Auto => try_own().is_ok(),
            DescriptorTables::PerLoop => try_own().map(|()| true)?,
        };
        Ok(Self {
            per_loop,
            descriptors,
            loops: loops as u64,
        })
    }

    /// For the log.
    pub(super) fn name(&self) -> &'static str {
        if self.per_loop { "per_loop" } else { "shared" }
    }

    /// How many connections there are descriptors for.
    pub(super) fn connections(&self) -> u64 {
        let in_each = self
            .descriptors
            .saturating_sub(SPARE + SPARE_FOR_EACH_LOOP * self.loops);
        in_each.saturating_mul(if self.per_loop { self.loops } else { 1 })
    }

    /// Whether so many peers find a place. With tables of their own the loops' shares count: they are drawn by a hash,
    /// so that of the fullest loop may well be four standard deviations above the mean.
    pub(super) fn suffice_for(&self, peers: u64) -> bool {
        if !self.per_loop {
            return peers <= self.connections();
        }
        let share = peers.div_ceil(self.loops.max(1));
        let fullest = if self.loops > 1 {
            share + 4 * share.isqrt()
        } else {
            share
        };
        fullest <= self.connections() / self.loops.max(1)
    }
}

/// Gives the calling thread a descriptor table of its own, a copy of the process's.
///
/// For a loop's thread alone, first of all that it does.
///
/// # Errors
/// What unshare(2) says.
#[expect(unsafe_code, reason = "there is no safe call for it; the proof is below")]
pub(super) fn own() -> io::Result<()> {
    // SAFETY: what is asked for is that no thread ever uses a descriptor of another table than its own.
    //
    // A thread comes here before it has opened anything. With it come values made in the table of which it gets a copy
    // (`start::Seat`). Those that hold descriptors are `mailbox::Waker` and `event_loop::passage::Pair`; of the office, which
    // comes later, see below. Both lie behind an
    // `Arc` of which every loop keeps a part until it ends, so while any loop runs none of them is closed in any table:
    // their numbers stand for the same files in each, and are given to no other. The starter keeps a part too and lets
    // go of it after it has joined the loops, so that they are closed where they were made. (Loops that outlast
    // `drain_timeout` are left behind with theirs; then the process ends.)
    //
    // What a loop opens from here on (its poll, its listeners, its connections) stays with it, but for what it sends.
    // A loop sends nothing but `Delivery`, whose only descriptor is the socket of `moving::Socket::InMail`, and that is
    // made by no loop that has a passage. `start::seats` gives every loop a passage when tables are per loop and there
    // is more than one.
    //
    // The threads of providers share the process's table: no loop spawns them. They wake a loop by its `Waker`. What they
    // open, connections and files, they open after all loops have parted (`start::start` opens the office only then), and
    // they alone use it, so its numbers mean nothing in a loop's table, and no copy there keeps a connection open that they
    // have closed. The office, which one loop is then given, wakes them. For those of the cloud that is no matter of
    // descriptors (a channel, a futex). The thread of NATS sleeps in the poll of its runtime, and an order to it writes to
    // an eventfd by its number, in the loop's table. So the runtime is made before any loop parts (`nats::prepare`): the
    // loop's copy has the same file under that number, for as long as the loop lives, since all that may close it there
    // is the last reference to the runtime's handle, after which nobody writes. A thread of NATS that has ended has closed
    // it in the process's table only: then the loop's write wakes nobody, and hits nothing else.
    //
    // The threads of the broker share the process's table too. What they open they open after all loops have parted
    // (`brokers::Prepared::open`), and they alone use it: a loop hands them work through a channel and never a descriptor.
    // They wake it by its `Waker`. Only the two runtimes of `broker::nats::Nats::new` are made before the loops part: their polls
    // and eventfds stand in every loop's table, where nobody names their numbers or closes them.
    //
    // The handlers of signals run on any thread and write to a pipe by its number: it is made before any loop's table
    // and never closed (`server::catch_signals`). Numbers 0 to 2 are never closed either. No thread is spawned by a loop.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }?;
    Ok(())
}

/// Whether [`own`] would work, found out by a thread that ends at once.
fn try_own() -> io::Result<()> {
    let thread = std::thread::Builder::new().name("descriptors".to_owned()).spawn(own)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a thread failed")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn what_a_thread_opens_in_its_own_table_is_nowhere_else() {
        let linked = |task: &str, number: i32| std::fs::read_link(format!("/proc/self/{task}/fd/{number}")).ok();
        let own_has_it = std::thread::spawn(move || {
            own().unwrap();
            // Far from what other tests open meanwhile.
            let file = File::open("/dev/null").unwrap();
            let far = rustix::io::fcntl_dupfd_cloexec(&file, 900).unwrap();
            let number = far.as_raw_fd();
            let task = format!("task/{}", rustix::thread::gettid().as_raw_nonzero());
            (linked(&task, number).is_some(), number)
        });
        let (there, number) = own_has_it.join().unwrap();
        assert!(there);
        assert_eq!(linked("", number), None);
    }

    #[test]
    fn a_table_for_each_loop_multiplies_the_limit() {
        let tables = |per_loop, loops, descriptors| Tables {
            per_loop,
            descriptors,
            loops,
        };
        assert!(tables(false, 4, 100_076).suffice_for(100_000));
        assert!(!tables(false, 6, 20_000).suffice_for(20_000));
        assert!(tables(true, 6, 20_000).suffice_for(100_000));
        assert!(
            !tables(true, 5, 20_000).suffice_for(100_000),
            "on average full is too full"
        );
        assert_eq!(tables(true, 6, 20_000).connections(), 6 * (20_000 - 64 - 18));
        assert_eq!(tables(true, 2, 10).connections(), 0);
        assert!(tables(true, 1, 1_067).suffice_for(1_000));
        assert!(tables(false, 1, u64::MAX).suffice_for(u64::MAX - 67));
        assert!(tables(true, 1, u64::MAX).suffice_for(1 << 40));
    }
}
