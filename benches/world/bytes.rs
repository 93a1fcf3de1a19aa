//! An allocator that knows how many bytes are in use.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counted: make it a program's `#[global_allocator]`.
pub(crate) struct Counting {
    asked: AtomicUsize,
    taken: AtomicUsize,
}

impl Counting {
    pub(crate) const fn new() -> Self {
        Self {
            asked: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
        }
    }

    /// Bytes in use as the program asked for them, and as glibc takes them on 64-bit machines: with eight bytes more for
    /// each piece, in multiples of sixteen and at least 32.
    pub(crate) fn in_use(&self) -> (usize, usize) {
        (self.asked.load(Ordering::Relaxed), self.taken.load(Ordering::Relaxed))
    }

    fn count(&self, size: usize) {
        self.asked.fetch_add(size, Ordering::Relaxed);
        self.taken.fetch_add(taken_for(size), Ordering::Relaxed);
    }

    fn discount(&self, size: usize) {
        self.asked.fetch_sub(size, Ordering::Relaxed);
        self.taken.fetch_sub(taken_for(size), Ordering::Relaxed);
    }
}

fn taken_for(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

#[expect(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        self.count(new_size);
        self.discount(layout.size());
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        self.discount(layout.size());
        unsafe { System.dealloc(ptr, layout) }
    }
}
