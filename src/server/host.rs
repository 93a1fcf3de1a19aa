//! The machine: what the process may use of it.
//!
//! Owns: the descriptor limit, the size of the memory, the machine's own address.
//! Never: fails a start; what cannot be learnt is assumed.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Memory assumed when the machine does not say.
const MEMORY_ASSUMED: u64 = 4 << 30;

/// Raises the soft limit of open descriptors to the hard one. Returns the limit that holds from here on.
pub(super) fn raise_descriptor_limit() -> u64 {
    let limits = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limits.maximum,
        maximum: limits.maximum,
    };
    let limits = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => wanted,
        Err(_) => limits,
    };
    limits.current.unwrap_or(u64::MAX)
}

/// Bytes of memory that this process may count on: the machine's, or its control group's if that is less.
pub(super) fn memory_bytes() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_of(&text));
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    machine.unwrap_or(MEMORY_ASSUMED).min(group.unwrap_or(u64::MAX))
}

/// The IPv4 address from which this machine reaches others. Nothing is sent to find it.
pub(super) fn outgoing_ipv4() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // RFC 5737: an address of documentation, which only the default route leads to.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(own) => Some(own),
        IpAddr::V6(_) => None,
    }
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_how_much_memory_it_has() {
        assert_eq!(
            total_of("MemTotal:       24576000 kB\nMemFree: 1 kB\n"),
            Some(24_576_000 * 1024)
        );
        assert_eq!(total_of("nonsense"), None);
        assert!(memory_bytes() > 1 << 20);
    }
}
