//! The kernel's memory for sockets: its objects and its buffers, of the whole machine.
//!
//! Owns: reading `/proc`.
//! Never: says whose sockets they are.

use std::collections::HashMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::control::sample;

/// Caches of what a connected socket in a poll consists of.
const CACHES: &[&str] = &[
    "TCP",
    "TCPv6",
    "sock_inode_cache",
    "filp",
    "eventpoll_epi",
    "tcp_bind_bucket",
    "tcp_bind2_bucket",
];
/// A poll's entry in a socket's wait queue. Its cache shares its slabs, and often its name, with others of that size.
const WAIT_ENTRY_BYTES: f64 = 64.0;
/// Bytes of a page; the unit of the kernel's slabs.
const PAGE_BYTES: f64 = 4096.0;

/// Where the figures come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The caches of sockets, one by one, which only root may read.
    Caches,
    /// All slabs of the machine: whatever else it does counts too.
    Slabs,
}

impl Source {
    /// What this process may read.
    pub fn find() -> Self {
        match fs::read_to_string("/proc/slabinfo") {
            Ok(text) if caches(&text).contains_key("sock_inode_cache") => Self::Caches,
            _ => Self::Slabs,
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Caches => "socket caches of /proc/slabinfo and TCP buffers of /proc/net/sockstat",
            Self::Slabs => {
                "all slabs of /proc/meminfo (/proc/slabinfo needs root) and TCP buffers of /proc/net/sockstat"
            }
        }
    }

    /// All TCP sockets of the machine now.
    pub fn sockets(self) -> Sockets {
        let objects = match self {
            Self::Caches => {
                let text = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
                objects(&caches(&text))
            }
            Self::Slabs => {
                let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
                number_after(&text, "Slab:") * 1024.0
            }
        };
        let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("TCP:"));
        let count = line.and_then(|line| line.split_once(" alloc "));
        Sockets {
            bytes: objects + sample::tcp_memory() as f64,
            count: count.map_or(0.0, |(_, count)| number_after(count, "")),
        }
    }

    /// The sockets when those that were closed before have been given back, which the kernel does a moment later.
    pub fn settled(self) -> Sockets {
        let mut sockets = self.sockets();
        for _ in 0..10 {
            sleep(Duration::from_millis(50));
            let next = self.sockets();
            if next.bytes > sockets.bytes * 0.999 {
                return next;
            }
            sockets = next;
        }
        sockets
    }
}

/// TCP sockets, and what the kernel has for them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sockets {
    bytes: f64,
    count: f64,
}

impl Sockets {
    /// Bytes of one socket of those that came since `earlier`, at least so many of which are ours. Those of other
    /// processes came too, and cost the same.
    pub fn bytes_each(&self, earlier: &Self, ours: usize) -> f64 {
        let came = self.count - earlier.count;
        if came >= ours as f64 {
            return (self.bytes - earlier.bytes).max(0.0) / came.max(1.0);
        }
        // As many of others went: then all that there are.
        self.bytes / self.count.max(1.0)
    }
}

/// A cache: its objects, and the bytes of slab that each takes.
type Cache = (f64, f64);

fn caches(slabinfo: &str) -> HashMap<&str, Cache> {
    let lines = slabinfo.lines().filter_map(|line| {
        // Name, active objects, all objects, bytes of one, objects of a slab, pages of a slab.
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next()?;
        let active: f64 = fields.next()?.parse().ok()?;
        let in_slab: f64 = fields.nth(2)?.parse().ok()?;
        let pages: f64 = fields.next()?.parse().ok()?;
        (in_slab > 0.0).then_some((name, (active, pages * PAGE_BYTES / in_slab)))
    });
    lines.collect()
}

fn objects(caches: &HashMap<&str, Cache>) -> f64 {
    let cache = |name: &str| caches.get(name).copied().unwrap_or_default();
    let named: f64 = CACHES.iter().map(|name| cache(name).0 * cache(name).1).sum();
    // Files have directory entries too, and far more of them: of these as many as there are sockets.
    let entries = cache("sock_inode_cache").0 * cache("dentry").1;
    named + entries + cache("eventpoll_epi").0 * WAIT_ENTRY_BYTES
}

fn number_after(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_socket_is_all_of_its_objects() {
        let text = "slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize> ...\n\
            TCP 10 13 2368 13 8 : tunables 0 0 0 : slabdata 1 1 0\n\
            sock_inode_cache 20 19 832 16 4 : tunables 0 0 0\n\
            eventpoll_epi 10 32 128 32 1 : tunables 0 0 0\n\
            dentry 311388 311388 192 16 1 : tunables 0 0 0\n";
        let caches = caches(text);
        let expected = 10.0 * 8.0 * 4096.0 / 13.0 + 20.0 * (1024.0 + 256.0) + 10.0 * (128.0 + 64.0);
        assert!((objects(&caches) - expected).abs() < 1e-6);
    }

    #[test]
    fn every_machine_says_something() {
        for source in [Source::find(), Source::Slabs] {
            let here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let sockets = source.sockets();
            assert!(sockets.bytes > 0.0 && sockets.count >= 1.0, "{sockets:?}");
            drop(here);
        }
    }

    #[test]
    fn sockets_of_others_do_not_count_as_ours() {
        let sockets = |bytes, count| Sockets { bytes, count };
        let before = sockets(1e6, 100.0);
        assert_eq!(sockets(5e6, 1_100.0).bytes_each(&before, 500), 4000.0);
        assert_eq!(sockets(9e6, 2_100.0).bytes_each(&before, 500), 4000.0);
        assert_eq!(sockets(2e6, 500.0).bytes_each(&before, 1_000), 4000.0);
    }
}
