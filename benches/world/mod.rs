//! Shards full of peers, for the benchmarks: made through the same calls as in the server.
#![allow(dead_code, reason = "every benchmark takes its own part of this")]

pub(super) mod bytes;

use std::sync::Arc;

use peer_server::ids::{ConnId, Fingerprint, Homes, LoopId};
use peer_server::message::{Meta, Register, Request};
use peer_server::shard::{Limits, Output, PeerKey, Permits, Shard};

/// Members of each of a crowd's namespaces.
pub(super) const NAMESPACE_PEERS: u32 = 10;

/// The only loop's shard, without limits.
pub(super) fn shard() -> Shard {
    let mut only = World::new(1).shards;
    only.pop().expect("there is one")
}

/// Registers a peer. With one loop every answer is there at once.
pub(super) fn registered(shard: &mut Shard, number: u32) -> (PeerKey, Fingerprint) {
    let fingerprint = Fingerprint::of_key(&number.to_string());
    shard.register(ConnId::new(number, 0), bare(fingerprint));
    let mut registered = None;
    while let Some(output) = shard.poll_output() {
        if let Output::Registered { peer, .. } = output {
            registered = Some(peer);
        }
    }
    (registered.expect("it is registered"), fingerprint)
}

/// Registers a peer and lets it join.
pub(super) fn member(shard: &mut Shard, number: u32, namespace: &str) -> (PeerKey, Fingerprint) {
    let (peer, fingerprint) = registered(shard, number);
    shard.handle_request(peer, join(namespace));
    while shard.poll_output().is_some() {}
    (peer, fingerprint)
}

/// All of `items` in an order in which no neighbours follow each other, so that in large numbers they are not in the cache.
pub(super) fn scattered<T: Clone>(items: &[T]) -> Vec<T> {
    // Prime, and not among the divisors of the round numbers that are used: every place is visited once.
    const STRIDE: usize = 7_919;
    let places = (0..items.len()).map(|at| at * STRIDE % items.len());
    places.map(|at| items[at].clone()).collect()
}

/// The shards of several loops, without the loops: mail is handed over at once.
pub(super) struct World {
    pub(super) shards: Vec<Shard>,
}

/// A peer of a world.
#[derive(Clone, Copy)]
pub(super) struct Member {
    pub(super) home: LoopId,
    pub(super) key: PeerKey,
    pub(super) fingerprint: Fingerprint,
}

impl World {
    pub(super) fn new(loops: u16) -> Self {
        let limits = Arc::new(Limits {
            max_peers: usize::MAX,
            max_rooms: usize::MAX,
            max_match_waiting: usize::MAX,
            messages: None,
            deliveries: None,
            send_buffer_size: 32,
            send_buffer_bytes: 256 * 1024,
            state_bytes: usize::MAX,
        });
        let (homes, permits) = (Homes::new(loops, [1, 2, 3, 4]), Arc::new(Permits::default()));
        let shard = |index| {
            let id = LoopId::new(index);
            Shard::new(id, homes.clone(), limits.clone(), permits.clone(), [0; 32])
        };
        let shards = (0..loops).map(shard).collect();
        Self { shards }
    }

    /// Registers so many peers and lets them join namespaces of [`NAMESPACE_PEERS`].
    pub(super) fn crowd(&mut self, peers: u32, mut each: impl FnMut(Member)) {
        for number in 0..peers {
            let namespace = format!("namespace {}", number / NAMESPACE_PEERS);
            each(self.member(number, &namespace));
        }
    }

    /// Registers a peer and lets it join.
    pub(super) fn member(&mut self, number: u32, namespace: &str) -> Member {
        let fingerprint = Fingerprint::of_key(&number.to_string());
        let home = self.shards[0].homes().of_fingerprint(&fingerprint);
        self.shards[home.index()].register(ConnId::new(number, 0), bare(fingerprint));
        let key = self.deliver().expect("it is registered");
        self.shards[home.index()].handle_request(key, join(namespace));
        self.deliver();
        Member { home, key, fingerprint }
    }

    /// Hands mail over until there is none. The last peer whose registration was complete, if there was one.
    fn deliver(&mut self) -> Option<PeerKey> {
        let mut registered = None;
        let mut quiet = 0;
        let mut at = 0;
        while quiet < self.shards.len() {
            quiet += 1;
            while let Some(output) = self.shards[at].poll_output() {
                match output {
                    Output::Registered { peer, .. } => registered = Some(peer),
                    Output::Mail { to, mail } => {
                        self.shards[to.index()].handle_mail(mail);
                        quiet = 0;
                    }
                    _ => {}
                }
            }
            at = (at + 1) % self.shards.len();
        }
        registered
    }
}

fn bare(fingerprint: Fingerprint) -> Register {
    Register {
        fingerprint,
        alias: Default::default(),
        meta: Meta::default(),
    }
}

fn join(namespace: &str) -> Request<'_> {
    Request::Join {
        namespace,
        app_type: "",
        meta: Meta::default(),
    }
}
