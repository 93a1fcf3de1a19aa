//! The pool of blocks that connections borrow while they hold a partial message or unsent output.
//!
//! Owns: the blocks that nobody uses. Never: grows a block, knows what it holds, or is shared between loops.

/// Recycled `Vec<u8>` blocks of one loop, last in, first out: the block put back last is the one still in the cache.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Blocks of [`BLOCK_BYTES`] to [`SMALL_BYTES_MAX`] of capacity.
    small: Vec<Vec<u8>>,
    /// Blocks above that, up to [`KEPT_BLOCK_BYTES_MAX`]; used when there is no small one.
    large: Vec<Vec<u8>>,
    kept_bytes: usize,
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
        match self.small.pop().or_else(|| self.large.pop()) {
            Some(block) => {
                self.kept_bytes -= block.capacity();
                block
            }
            None => Vec::with_capacity(BLOCK_BYTES),
        }
    }

    /// Gives a block back. It is cleared and kept, or freed if it is of no use or the pool is full.
    ///
    /// A block that was not taken from here is welcome.
    pub(super) fn put(&mut self, mut block: Vec<u8>) {
        self.taken = self.taken.saturating_sub(1);
        let capacity = block.capacity();
        let (kept, blocks_max) = match capacity {
            BLOCK_BYTES..=SMALL_BYTES_MAX => (&mut self.small, SMALL_BLOCKS_MAX),
            0..BLOCK_BYTES => return,
            _ if capacity <= KEPT_BLOCK_BYTES_MAX => (&mut self.large, LARGE_BLOCKS_MAX),
            _ => return,
        };
        if kept.len() < blocks_max && self.kept_bytes + capacity <= KEPT_BYTES_MAX {
            block.clear();
            self.kept_bytes += capacity;
            kept.push(block);
        }
    }

    /// How many blocks are outside.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// The capacity of all blocks that wait here, in bytes.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }
}

/// The capacity of a new block.
const BLOCK_BYTES: usize = 4 * 1024;

/// A block that grew beyond this served an unusual message; few are kept, lest small messages sit in them.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// A block that grew beyond this is freed.
const KEPT_BLOCK_BYTES_MAX: usize = 256 * 1024;

const SMALL_BLOCKS_MAX: usize = 1024;
const LARGE_BLOCKS_MAX: usize = 8;
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

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
        pool.put(Vec::with_capacity(KEPT_BLOCK_BYTES_MAX + 1));
        assert_eq!((pool.taken(), pool.kept_bytes()), (0, 0));
        pool.put(Vec::with_capacity(KEPT_BLOCK_BYTES_MAX));
        assert_eq!(pool.kept_bytes(), KEPT_BLOCK_BYTES_MAX);
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
        assert_eq!(pool.kept_bytes(), KEPT_BYTES_MAX);
        while pool.kept_bytes() > 0 {
            drop(pool.take());
        }
        assert_eq!(pool.taken(), KEPT_BYTES_MAX / SMALL_BYTES_MAX);
    }
}
