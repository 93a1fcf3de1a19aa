//! Wakers: an event counter of the kernel (eventfd) that ends a loop's sleep.
//!
//! Owns: its descriptor. It is made before the loop has a poll, so that it stands under one number in the descriptor
//! tables of all loops; `mio::Waker` cannot be, because it is born at a poll.
//! Never: decides who sleeps, or reads in the ordinary run: each write is an edge, and the poll asks for no more.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// Wakes the loop at whose poll it is registered.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// A waker that is registered nowhere yet.
    ///
    /// # Errors
    /// What eventfd(2) says.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Has the poll wake up from here on.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub(super) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.0.as_raw_fd()), token, Interest::READABLE)
    }

    /// Ends the sleep, or the next one.
    ///
    /// # Errors
    /// What write(2) says.
    pub(super) fn wake(&self) -> io::Result<()> {
        let one = 1_u64.to_ne_bytes();
        match rustix::io::write(&self.0, &one) {
            // The counter stands at its end, after 2^64 - 2 wake-ups: reading puts it back to zero.
            Err(Errno::AGAIN) => {
                rustix::io::read(&self.0, &mut [0; 8])?;
                rustix::io::write(&self.0, &one)?;
            }
            written => drop(written?),
        }
        Ok(())
    }
}
