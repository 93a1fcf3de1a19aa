//! What one client address may do: connections, unregistered connections, registrations a second.
//!
//! Owns: the counts of the addresses whose home is this loop. A connection asks before its upgrade is answered; with every
//! limit off nothing here is touched.
//! Never: believes a proxy; `http` says what a client's address is.

use std::net::IpAddr;

use ahash::RandomState;
use hashbrown::HashMap;

use super::connection::Phase;
use super::{Delivery, EventLoop};
use crate::ids::{ConnId, LoopId, Prefix};
use crate::metrics::Metric;
use crate::shard::{Bucket, Rate};

/// The limits of one address; 0 or None: off.
#[derive(Clone, Copy, Debug, Default)]
pub struct AddressLimits {
    /// WebSocket connections.
    pub connections: u32,
    /// WebSocket connections that have not registered.
    pub unregistered: u32,
    /// Upgrades a second: each may become a registration.
    pub registrations: Option<Rate>,
}

impl AddressLimits {
    /// Whether any limit is on.
    pub fn any(&self) -> bool {
        self.connections > 0 || self.unregistered > 0 || self.registrations.is_some()
    }
}

/// May this connection be opened?
#[derive(Debug)]
pub struct Admit {
    asker: LoopId,
    conn: ConnId,
    address: IpAddr,
}

/// The answer.
#[derive(Debug)]
pub struct Admitted {
    conn: ConnId,
    address: IpAddr,
    granted: bool,
}

/// An admitted connection registered, or closed.
#[derive(Debug)]
pub struct AddressChanged {
    address: IpAddr,
    /// It closed; otherwise it registered.
    closed: bool,
    /// It had not registered before.
    was_unregistered: bool,
}

#[derive(Debug, Default)]
struct Usage {
    connections: u32,
    unregistered: u32,
    registrations: Bucket,
}

/// The addresses at home here.
#[derive(Debug)]
pub(super) struct Addresses {
    limits: AddressLimits,
    usage: HashMap<Prefix, Usage, RandomState>,
    hasher: RandomState,
    /// Addresses looked at since buckets without connections were last thrown away.
    since_sweep: usize,
}

impl Addresses {
    pub(super) fn new(limits: AddressLimits, hasher: RandomState) -> Self {
        Self {
            limits,
            usage: HashMap::with_hasher(hasher.clone()),
            hasher,
            since_sweep: 0,
        }
    }

    /// The loop that counts an address.
    fn home(&self, address: IpAddr, loops: usize) -> LoopId {
        let hash = self.hasher.hash_one(Prefix::of(address));
        LoopId::new(((u128::from(hash) * loops as u128) >> 64) as u16)
    }

    fn admit(&mut self, address: IpAddr, now_ms: u64) -> bool {
        self.sweep(now_ms);
        let limits = self.limits;
        let usage = self.usage.entry(Prefix::of(address)).or_default();
        if (limits.connections > 0 && usage.connections >= limits.connections)
            || (limits.unregistered > 0 && usage.unregistered >= limits.unregistered)
            || limits
                .registrations
                .is_some_and(|rate| !usage.registrations.take(rate, now_ms))
        {
            return false;
        }
        usage.connections += 1;
        usage.unregistered += 1;
        true
    }

    pub(super) fn change(&mut self, change: &AddressChanged) {
        let Some(usage) = self.usage.get_mut(&Prefix::of(change.address)) else {
            return;
        };
        if change.closed {
            usage.connections = usage.connections.saturating_sub(1);
        }
        if change.was_unregistered {
            usage.unregistered = usage.unregistered.saturating_sub(1);
        }
    }

    /// Forgets addresses that have nothing open and a full bucket; its cost is spread over as many look-ups.
    fn sweep(&mut self, now_ms: u64) {
        self.since_sweep += 1;
        if self.since_sweep < self.usage.len().max(1024) {
            return;
        }
        self.since_sweep = 0;
        self.usage
            .retain(|_, usage| usage.connections > 0 || !usage.registrations.is_full(now_ms));
    }
}

impl EventLoop {
    /// Asks the home of the connection's address. True: no need to, it may go on.
    pub(super) fn ask_admission(&mut self, slot: usize) -> bool {
        if !self.settings.addresses.any() {
            return true;
        }
        let Some(connection) = self.connections.get(slot) else {
            return false;
        };
        let (conn, address) = (connection.id(slot), connection.address);
        let home = self.addresses.home(address, self.shard.homes().loops());
        let ask = Admit {
            asker: self.id,
            conn,
            address,
        };
        if home != self.id {
            self.mailbox.control(home, Delivery::Admit(ask));
            return false;
        }
        let granted = self.addresses.admit(address, self.clock.now_ms);
        self.on_admitted(Admitted { conn, address, granted });
        false
    }

    pub(super) fn on_admit(&mut self, ask: Admit) {
        let granted = self.addresses.admit(ask.address, self.clock.now_ms);
        let Admit { asker, conn, address } = ask;
        self.mailbox
            .control(asker, Delivery::Admitted(Admitted { conn, address, granted }));
    }

    pub(super) fn on_admitted(&mut self, answer: Admitted) {
        let slot = self.slot_of(answer.conn).filter(|slot| {
            matches!(
                self.connections.get(*slot).map(|connection| &connection.phase),
                Some(Phase::Awaiting)
            )
        });
        let Some(slot) = slot else {
            // It closed meanwhile: what was granted is given back at once.
            if answer.granted {
                self.address_changed(answer.address, true, true);
            }
            return;
        };
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.address_counted = answer.granted;
        }
        if !answer.granted {
            self.counters.count(Metric::AddressRefused);
        }
        self.finish_upgrade(slot, answer.granted);
    }

    /// Tells the address's home what became of a connection that it counted.
    pub(super) fn address_changed(&mut self, address: IpAddr, closed: bool, was_unregistered: bool) {
        let change = AddressChanged {
            address,
            closed,
            was_unregistered,
        };
        let home = self.addresses.home(address, self.shard.homes().loops());
        match home == self.id {
            true => self.addresses.change(&change),
            false => self.mailbox.control(home, Delivery::AddressChanged(change)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn addresses(limits: AddressLimits) -> Addresses {
        Addresses::new(limits, RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn connections_of_an_address_are_bounded_and_given_back() {
        let mut addresses = addresses(AddressLimits {
            connections: 2,
            ..AddressLimits::default()
        });
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        assert!(addresses.admit(address, 0) && addresses.admit(address, 0));
        assert!(!addresses.admit(address, 0));
        assert!(addresses.admit("10.0.0.2".parse().unwrap(), 0));
        addresses.change(&AddressChanged {
            address,
            closed: true,
            was_unregistered: true,
        });
        assert!(addresses.admit(address, 0));
    }

    #[test]
    fn registering_frees_a_place_among_the_unregistered() {
        let mut addresses = addresses(AddressLimits {
            unregistered: 1,
            ..AddressLimits::default()
        });
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        assert!(addresses.admit(address, 0));
        assert!(!addresses.admit(neighbour, 0), "one /64 is one client");
        assert!(addresses.admit("2001:db8:0:1::1".parse().unwrap(), 0));
        addresses.change(&AddressChanged {
            address,
            closed: false,
            was_unregistered: true,
        });
        assert!(addresses.admit(neighbour, 0));
    }

    #[test]
    fn registrations_are_a_rate() {
        let rate = Rate::new(1, 2);
        let mut addresses = addresses(AddressLimits {
            registrations: rate,
            ..AddressLimits::default()
        });
        let address: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert!(addresses.admit(address, 0) && addresses.admit("10.0.0.1".parse().unwrap(), 0));
        assert!(!addresses.admit(address, 0));
        assert!(addresses.admit(address, 1000));
    }

    #[test]
    fn addresses_with_nothing_open_are_forgotten() {
        let mut addresses = addresses(AddressLimits {
            connections: 1,
            ..AddressLimits::default()
        });
        for number in 0..5000_u32 {
            let address = IpAddr::V4(number.into());
            assert!(addresses.admit(address, 0));
            addresses.change(&AddressChanged {
                address,
                closed: true,
                was_unregistered: true,
            });
        }
        assert!(addresses.usage.len() <= 1024 + 1, "{}", addresses.usage.len());
    }
}
