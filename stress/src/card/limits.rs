//! What gives out first: every resource of the host that has an end, and how many peers that end is.
//!
//! Owns: how peers follow from each figure.
//! Never: measures; the figures are the host's and the set's.

use super::figures::{Connect, Limit, Machine, Memory, Signals};
use super::host::kernel_setting;
use super::suggest::Served;

/// Share of the memory that is free which peers may take; the rest is for unsent output, metadata and the page cache.
pub const MEMORY_SHARE: f64 = 0.5;
/// Share of the cores that signals may take: beyond it latencies grow without bound.
const CPU_SHARE: f64 = 0.8;
/// Seconds within which all peers are back after a restart.
const RECONNECT_SECONDS: f64 = 60.0;
/// Descriptors of a table that are not connections, as the server reckons.
const SPARE: u64 = 64;
const SPARE_FOR_EACH_LOOP: u64 = 3;
/// Connections beside each peer: the server lets in a tenth more, which have not registered.
pub const UNREGISTERED: f64 = 1.1;
/// Bytes of a page, in which the kernel counts TCP memory.
const PAGE_BYTES: u64 = 4096;

/// Connections that there are descriptors for. A loop's share of the peers is drawn by a hash: the fullest may be four
/// standard deviations above the mean.
pub fn connections_max(served: &Served, loops: u64) -> u64 {
    let each = served.descriptors.saturating_sub(SPARE + SPARE_FOR_EACH_LOOP * loops);
    match served.table_per_loop && loops > 1 {
        true => each.saturating_sub(4 * each.isqrt()).saturating_mul(loops),
        false => each,
    }
}

/// All ends, the nearest first.
pub fn limits(
    machine: &Machine,
    served: &Served,
    memory: &Memory,
    signals: &Signals,
    connect: &Connect,
    signals_per_peer: f64,
) -> Vec<Limit> {
    let loops = machine.cores as u64;
    let per_peer = (memory.rss_per_peer + memory.kernel_per_peer).max(1.0);
    let mut limits = vec![
        Limit {
            of: "descriptors of the process".to_owned(),
            figure: format!(
                "{} in each of {} tables",
                grouped(served.descriptors),
                if served.table_per_loop { loops } else { 1 }
            ),
            peers: (connections_max(served, loops) as f64 / UNREGISTERED) as u64,
            always: true,
            how: "one for each connection, and a tenth beside for the unregistered; LimitNOFILE, ulimit -n".to_owned(),
        },
        Limit {
            of: "memory".to_owned(),
            figure: format!("{:.1} GiB free", machine.memory_available as f64 / f64::from(1 << 30)),
            peers: ((machine.memory_available as f64 * MEMORY_SHARE - memory.start_rss).max(0.0) / per_peer) as u64,
            always: true,
            how: format!(
                "half of it, by {:.0} bytes of the process and {:.0} of the kernel for each",
                memory.rss_per_peer, memory.kernel_per_peer
            ),
        },
        Limit {
            of: "CPU of the loops, signals".to_owned(),
            figure: format!(
                "{} cores, {} signals/s each",
                machine.cores,
                grouped(signals.per_second_per_core.median as u64)
            ),
            peers: (CPU_SHARE * machine.cores as f64 * signals.per_second_per_core.median / signals_per_peer) as u64,
            always: true,
            how: format!(
                "{:.0} % of them, if each peer sends {signals_per_peer} a second (--signals-per-peer)",
                CPU_SHARE * 100.0
            ),
        },
        Limit {
            of: "CPU of the loops, connections".to_owned(),
            figure: format!(
                "{} cores, {} connections/s each",
                machine.cores,
                grouped(connect.per_second_per_core as u64)
            ),
            peers: (RECONNECT_SECONDS * machine.cores as f64 * connect.per_second_per_core) as u64,
            always: false,
            how: format!("all are back {RECONNECT_SECONDS:.0} s after a restart"),
        },
    ];
    limits.extend(kernel_limits());
    limits.sort_by_key(|limit| (!limit.always, limit.peers));
    limits
}

/// Ends of the whole machine, those that this kernel tells.
fn kernel_limits() -> Vec<Limit> {
    let mut limits = Vec::new();
    if let (Some(open), Some(most)) = (kernel_setting("fs/file-nr", 0), kernel_setting("fs/file-max", 0)) {
        limits.push(Limit {
            of: "open files of the machine".to_owned(),
            figure: format!("{} of {} are open", grouped(open), grouped(most)),
            peers: (most.saturating_sub(open) as f64 / UNREGISTERED) as u64,
            always: true,
            how: "one for each connection; fs.file-max".to_owned(),
        });
    }
    if let Some(pages) = kernel_setting("net/ipv4/tcp_mem", 2) {
        limits.push(Limit {
            of: "kernel memory for TCP buffers".to_owned(),
            figure: format!("{} MiB", grouped(pages * PAGE_BYTES / (1 << 20))),
            peers: pages,
            always: true,
            how: "a page for each peer that something is on its way to; idle ones take nothing; net.ipv4.tcp_mem"
                .to_owned(),
        });
    }
    if let Some(most) = kernel_setting("net/netfilter/nf_conntrack_max", 0) {
        let used = kernel_setting("net/netfilter/nf_conntrack_count", 0).unwrap_or(0);
        limits.push(Limit {
            of: "connection tracking".to_owned(),
            figure: format!("{} entries, {} used", grouped(most), grouped(used)),
            peers: most.saturating_sub(used) / 2,
            // The table exists wherever the module is loaded, and fills only where a rule asks for tracking.
            always: false,
            how: "two for each, as ended ones linger; only if a rule tracks; net.netfilter.nf_conntrack_max".to_owned(),
        });
    }
    if let (Some(first), Some(last)) = (
        kernel_setting("net/ipv4/ip_local_port_range", 0),
        kernel_setting("net/ipv4/ip_local_port_range", 1),
    ) {
        let ports = last.saturating_sub(first) + 1;
        limits.push(Limit {
            of: "network ports".to_owned(),
            figure: format!("{} ({first} to {last})", grouped(ports)),
            peers: ports,
            always: false,
            how: "behind a proxy or NAT of one address with this range; net.ipv4.ip_local_port_range there".to_owned(),
        });
    }
    limits
}

/// A number with a comma after each three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_in_threes() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn tables_of_their_own_hold_more_and_unevenly() {
        let served = |table_per_loop| Served {
            descriptors: 20_000,
            table_per_loop,
            warnings: Vec::new(),
        };
        assert_eq!(connections_max(&served(false), 2), 19_930);
        assert_eq!(connections_max(&served(true), 1), 19_933);
        assert_eq!(connections_max(&served(true), 2), 2 * (19_930 - 4 * 141));
    }
}
