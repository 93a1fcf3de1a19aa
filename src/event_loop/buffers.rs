//! The pool of blocks that connections borrow while they hold a partial message or unsent output.
//!
//! Owns: the blocks that nobody uses. Never: grows a block, knows what it holds, or is shared between loops.

/// Recycled `Vec<u8>` blocks of one loop, last in, first out: the block put back last is the one still in the cache.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Blocks of [`BLOCK_BYTES`] to [`SMALL_BYTES_MAX`] of capacity.
    small: Vec<Vec<u8>>,
    /// The capacity of the small blocks.
    small_bytes: usize,
    /// Blocks above that, up to [`LARGE_BYTES_MAX`]; used when there is no small one.
    large: Vec<Vec<u8>>,
    taken: usize,
}

impl Pool {
    /// A pool without blocks; they are allocated when taken and kept when put back.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// An empty block with a capacity of at least 4 KiB.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.taken += 1;
        if let Some(block) = self.small.pop() {
            self.small_bytes -= block.capacity();
            return block;
        }
        self.large.pop().unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES))
    }

    /// An empty block that is larger than `capacity`, if one waits here. It replaces one that was taken.
    pub(super) fn take_larger(&mut self, capacity: usize) -> Option<Vec<u8>> {
        let block = self.large.pop_if(|block| block.capacity() > capacity)?;
        self.taken += 1;
        Some(block)
    }

    /// Gives a block back. It is cleared and kept, or freed if it is of no use or the pool is full.
    ///
    /// A block that was not taken from here is welcome.
    pub(super) fn put(&mut self, mut block: Vec<u8>) {
        self.taken = self.taken.saturating_sub(1);
        let capacity = block.capacity();
        block.clear();
        match capacity {
            BLOCK_BYTES..=SMALL_BYTES_MAX => {
                if self.small.len() < SMALL_BLOCKS_MAX && self.small_bytes + capacity <= SMALL_BYTES_KEPT_MAX {
                    self.small_bytes += capacity;
                    self.small.push(block);
                }
            }
            0..BLOCK_BYTES => {}
            _ => {
                if self.large.len() < LARGE_BLOCKS_MAX && capacity <= LARGE_BYTES_MAX {
                    self.large.push(block);
                }
            }
        }
    }

    /// How many blocks are outside.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// The capacity of all blocks that wait here, in bytes.
    pub(super) fn kept_bytes(&self) -> usize {
        self.small_bytes + self.large.iter().map(Vec::capacity).sum::<usize>()
    }
}

/// The capacity of a new block.
const BLOCK_BYTES: usize = 4 * 1024;

/// A block that grew beyond this served an unusual message, or a burst; few are kept. Else one storm of joins leaves a pool
/// that is full of a few fat blocks, and every broadcast after it must allocate.
const SMALL_BYTES_MAX: usize = 16 * 1024;

/// A block that grew beyond this is freed.
const LARGE_BYTES_MAX: usize = 256 * 1024;

const SMALL_BLOCKS_MAX: usize = 4096;
/// Room for as many blocks as above if none grew, and for a broadcast to a thousand members if all did.
const SMALL_BYTES_KEPT_MAX: usize = 16 * 1024 * 1024;
const LARGE_BLOCKS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_block_put_back_last_is_taken_first_and_is_empty() {
        let mut pool = Pool::new();
        let (first, mut second) = (pool.take(), pool.take());
        assert!(first.capacity() >= BLOCK_BYTES && first.is_empty());
        second.extend_from_slice(b"secret");
        let address = second.as_ptr();
        pool.put(first);
        pool.put(second);
        assert_eq!((pool.taken(), pool.kept_bytes()), (0, 2 * BLOCK_BYTES));
        let again = pool.take();
        assert_eq!(again.as_ptr(), address);
        assert!(again.is_empty());
        assert_eq!((pool.taken(), pool.kept_bytes()), (1, BLOCK_BYTES));
    }

    #[test]
    fn blocks_that_are_too_small_or_too_large_are_freed() {
        let mut pool = Pool::new();
        pool.put(Vec::new());
        pool.put(Vec::with_capacity(BLOCK_BYTES - 1));
        pool.put(Vec::with_capacity(LARGE_BYTES_MAX + 1));
        assert_eq!((pool.taken(), pool.kept_bytes()), (0, 0));
        pool.put(Vec::with_capacity(LARGE_BYTES_MAX));
        assert_eq!(pool.kept_bytes(), LARGE_BYTES_MAX);
    }

    #[test]
    fn few_large_blocks_are_kept_and_small_ones_are_preferred() {
        let mut pool = Pool::new();
        for _ in 0..LARGE_BLOCKS_MAX + 5 {
            pool.put(Vec::with_capacity(SMALL_BYTES_MAX + 1));
        }
        pool.put(Vec::with_capacity(BLOCK_BYTES));
        assert_eq!(
            pool.kept_bytes(),
            LARGE_BLOCKS_MAX * (SMALL_BYTES_MAX + 1) + BLOCK_BYTES
        );
        assert_eq!(pool.take().capacity(), BLOCK_BYTES);
        assert_eq!(pool.take().capacity(), SMALL_BYTES_MAX + 1);
    }

    #[test]
    fn a_larger_block_is_given_only_if_it_is_larger() {
        let mut pool = Pool::new();
        pool.put(Vec::with_capacity(BLOCK_BYTES));
        assert_eq!(pool.take_larger(0), None, "no large one");
        pool.put(Vec::with_capacity(2 * SMALL_BYTES_MAX));
        assert_eq!(pool.take_larger(2 * SMALL_BYTES_MAX), None);
        let larger = pool.take_larger(SMALL_BYTES_MAX).unwrap();
        assert_eq!((larger.capacity(), pool.taken()), (2 * SMALL_BYTES_MAX, 1));
    }

    #[test]
    fn the_pool_is_bounded_by_blocks_and_by_bytes() {
        let mut pool = Pool::new();
        for _ in 0..SMALL_BLOCKS_MAX + 100 {
            pool.put(Vec::with_capacity(BLOCK_BYTES));
        }
        assert_eq!(pool.kept_bytes(), SMALL_BLOCKS_MAX * BLOCK_BYTES);
        let mut pool = Pool::new();
        for _ in 0..SMALL_BLOCKS_MAX {
            pool.put(Vec::with_capacity(SMALL_BYTES_MAX));
        }
        assert_eq!(pool.kept_bytes(), SMALL_BYTES_KEPT_MAX);
        while pool.kept_bytes() > 0 {
            drop(pool.take());
        }
        assert_eq!(pool.taken(), SMALL_BYTES_KEPT_MAX / SMALL_BYTES_MAX);
    }

    #[test]
    fn a_storm_does_not_leave_a_pool_that_cannot_serve_a_broadcast() {
        let mut pool = Pool::new();
        for grown in 0..4000 {
            pool.put(Vec::with_capacity(
                [BLOCK_BYTES, 2 * SMALL_BYTES_MAX, LARGE_BYTES_MAX][grown % 3],
            ));
        }
        let kept = pool.kept_bytes();
        assert!(kept >= 1000 * BLOCK_BYTES);
        assert!(kept <= SMALL_BYTES_KEPT_MAX + LARGE_BLOCKS_MAX * LARGE_BYTES_MAX);
        (0..1000).for_each(|_| drop(pool.take()));
        assert_eq!(pool.kept_bytes(), kept - 1000 * BLOCK_BYTES);
    }
}
