//! A shard full of peers, for the benchmarks: made through the same calls as in the server.

use std::sync::Arc;

use peer_server::ids::{ConnId, Fingerprint, Homes, LoopId};
use peer_server::message::{Meta, Register, Request};
use peer_server::shard::{Limits, Output, PeerKey, Permits, Shard};

/// The only loop's shard, without limits.
pub(super) fn shard() -> Shard {
    let limits = Limits {
        max_peers: usize::MAX,
        max_rooms: usize::MAX,
        max_match_waiting: usize::MAX,
        messages: None,
        deliveries: None,
        send_buffer_size: 32,
        send_buffer_bytes: 256 * 1024,
        state_bytes: usize::MAX,
    };
    let homes = Homes::new(1, [1, 2, 3, 4]);
    Shard::new(
        LoopId::new(0),
        homes,
        Arc::new(limits),
        Arc::new(Permits::default()),
        [0; 32],
    )
}

/// Registers a peer and lets it join. With one loop every answer is there at once.
pub(super) fn member(shard: &mut Shard, number: u32, namespace: &str) -> (PeerKey, Fingerprint) {
    let fingerprint = Fingerprint::of_key(&number.to_string());
    let register = Register {
        fingerprint,
        alias: Default::default(),
        meta: Meta::default(),
    };
    shard.register(ConnId::new(number, 0), register);
    let mut registered = None;
    while let Some(output) = shard.poll_output() {
        if let Output::Registered { peer, .. } = output {
            registered = Some(peer);
        }
    }
    let peer = registered.expect("it is registered");
    let join = Request::Join {
        namespace,
        app_type: "",
        meta: Meta::default(),
    };
    shard.handle_request(peer, join);
    while shard.poll_output().is_some() {}
    (peer, fingerprint)
}
