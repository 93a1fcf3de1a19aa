//! What a registered client costs: `cargo test --test punch_natpunch --release -- --ignored --nocapture bytes`.

use std::net::SocketAddr;

use peer_server::shard::punch::Limits;

use super::world::*;
use crate::ALLOCATOR;

#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "its result")]
fn bytes_of_a_registered_client() {
    let mut known = Vec::with_capacity(CLIENTS as usize);
    let limits = Limits {
        registrations_per_min_per_ip: 0,
        natpunch_lobbies_max: 0,
        ..Limits::default()
    };
    let mut world = World::with(1, 1, limits);
    let before = ALLOCATOR.in_use();
    for nth in 0..CLIENTS {
        let remote = SocketAddr::from(([10, (nth >> 16) as u8, (nth >> 8) as u8, nth as u8], 4000));
        let id = world.client(remote);
        world.bytes_sent.clear();
        known.push((remote, id));
    }
    // What this test itself keeps: the ids' texts.
    let held: usize = known
        .iter()
        .map(|(_, id)| (id.capacity() + 8).next_multiple_of(16))
        .sum();
    let after = ALLOCATOR.in_use();
    let taken = (after.1 - before.1 - held) / CLIENTS as usize;
    println!("{taken} bytes for each client");
    for pair in known.chunks(2) {
        let [(host, h), (joiner, j)] = pair else { panic!() };
        let lobby = world.lobby(*host, h, "a room for two", 2);
        world.ask(*joiner, join(j, &lobby));
        world.datagram(*host, &encode(ready(&lobby, j)));
        world.take(*host);
        world.take(*joiner);
        world.bytes_sent.clear();
    }
    world.advance(0);
    let in_lobbies = ALLOCATOR.in_use();
    println!(
        "{} bytes more for each of two in a lobby",
        (in_lobbies.1 - after.1) / CLIENTS as usize
    );
    assert_eq!(world.census(), (CLIENTS as usize, CLIENTS as usize / 2));
}

const CLIENTS: u32 = 100_000;
