//! Any datagrams in any order at any times, with mail that is late and lost: nothing panics, no datagram is too long for a
//! client, nothing stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use peer_server::shard::punch::Limits;
use proptest::prelude::*;
use rand::RngExt;

use super::world::*;

/// Any bytes, and beginnings of this dialect's frames.
#[test]
fn no_bytes_break_the_parser() {
    let whole = proptest::collection::vec(any::<u8>(), 0..1100);
    let framed = (0..9usize, proptest::collection::vec(any::<u8>(), 0..1000)).prop_map(|(key, body)| {
        let key: &[u8] = [
            &[0x0a][..],
            &[0x2a],
            &[0x4a],
            &[0x52],
            &[0x5a],
            &[0x6a],
            &[0x7a],
            &[0xa2, 1],
            &[0xba, 1],
        ][key];
        let len = match body.len() {
            short @ 0..0x80 => vec![short as u8],
            long => vec![long as u8 | 0x80, (long >> 7) as u8],
        };
        [key, &len, &body].concat()
    });
    proptest!(ProptestConfig::with_cases(2000), |(bytes in prop_oneof![whole, framed])| {
        if let Some(request) = peer_server::dialect::natpunch::parse(&bytes) {
            prop_assert_eq!(request.bytes as usize, bytes.len());
        }
    });
}

#[test]
fn anything_at_any_time_ends_in_silence() {
    let all = (0..60).map(anything);
    let (joins, updates) = all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert!(
        joins > 500 && updates > 250,
        "{joins} joins and {updates} updates: too little happened"
    );
}

/// How often somebody was told to meet a host, and how a lobby stands.
fn anything(seed: u64) -> (u32, u32) {
    let limits = Limits {
        sessions_max: 12,
        natpunch_lobbies_max: 10,
        registrations_per_min_per_ip: 0,
        natpunch_joins_per_sec: if seed.is_multiple_of(2) { 0 } else { 2 },
        ..Limits::default()
    };
    let mut world = World::with([1, 2, 4][seed as usize % 3], seed, limits);
    world.prompt = false;
    world.loss_percent = if seed.is_multiple_of(4) { 20 } else { 0 };
    let (mut ids, mut lobbies) = (vec!["nobody".to_owned()], vec!["lobby_0".to_owned()]);
    let mut own = BTreeMap::<SocketAddr, String>::new();
    let (mut hosts, mut meeting) = (BTreeMap::new(), None::<(String, String)>);
    let (mut members, mut left) = (BTreeSet::new(), BTreeSet::new());
    let (mut joins, mut updates) = (0, 0);
    let mut addresses = BTreeSet::new();
    for step in 0..2500 {
        // Few addresses, on few hosts: they meet, move, and take each other's place.
        let mut from = match seed % 5 {
            0 => SocketAddr::from((
                [0x2001, 0xdb8, 0x1111, 0x1111, 0x1111, 0x1111, 0x1111, 0x1111],
                pick(&mut world, 12) as u16 * 5000 + 1,
            )),
            _ => SocketAddr::from((
                [192, 0, 2, pick(&mut world, 3) as u8],
                pick(&mut world, 8) as u16 * 8000 + 1,
            )),
        };
        // Mostly its own id; sometimes somebody else's.
        let id = match own.get(&from).filter(|_| pick(&mut world, 5) > 0) {
            Some(id) => id.clone(),
            None => ids[pick(&mut world, ids.len())].clone(),
        };
        let other = ids[pick(&mut world, ids.len())].clone();
        let lobby = lobbies[pick(&mut world, lobbies.len())].clone();
        let content = match pick(&mut world, 40) {
            0..2 => register(["::", "192.168.0.1", "fe80::1", "x"][pick(&mut world, 4)], 80),
            2..14 => keep_alive(&id),
            14..18 => list(&format!("req_{id}")),
            18..21 => create(&id, &"n".repeat(pick(&mut world, 70)), pick(&mut world, 14) as u32),
            21..29 => {
                meeting = Some((lobby.clone(), id.clone()));
                join(&id, &lobby)
            }
            // Mostly the host of whom joined last, and of him.
            29..33 => match meeting.clone().filter(|_| pick(&mut world, 4) > 0) {
                Some((lobby, joiner)) => {
                    from = hosts.get(&lobby).copied().unwrap_or(from);
                    ready(&lobby, &joiner)
                }
                None => ready(&lobby, &other),
            },
            33..35 => {
                left.insert((id.clone(), lobby.clone()));
                leave(&id, &lobby)
            }
            _ => connect(&id, &other),
        };
        let bytes = encode(content);
        addresses.insert(from);
        world.datagram(from, &bytes);
        for _ in 0..pick(&mut world, 5) {
            world.deliver_one();
        }
        let ms = [0, 0, 0, 1, 5, 20, 30, 100, 200, 900][pick(&mut world, 10)];
        world.advance(ms);
        for (to, told) in world.take_all() {
            for (at, content) in told.iter().enumerate() {
                match content {
                    Content::RegisterResponse(response) => {
                        own.insert(to, response.client_id.clone());
                        ids.push(response.client_id.clone());
                    }
                    Content::CreateLobbyResponse(response) => {
                        hosts.insert(response.lobby_id.clone(), to);
                        lobbies.push(response.lobby_id.clone());
                    }
                    Content::JoinLobbySuccess(joined) => {
                        joins += 1;
                        let [host, joiner] = &joined.lobby_members[..] else {
                            panic!("{joined:?}")
                        };
                        let met = (joiner.client_id.clone(), joined.lobby_id.clone());
                        assert!(
                            !members.contains(&met) || left.contains(&met),
                            "seed {seed}: told twice"
                        );
                        let around = (&told[at - 1], &told[at + 1]);
                        let (Content::JoinLobbyResponse(_), Content::ConnectionInstruction(word)) = around else {
                            panic!("seed {seed}: {told:?}")
                        };
                        assert_eq!(word.client_id, host.client_id);
                    }
                    Content::LobbyUpdate(update) => {
                        updates += 1;
                        let info = update.lobby_info.as_ref().unwrap();
                        assert_eq!(info.host_client_id, info.members[0].client_id);
                        let met = info.members.iter().map(|member| member.client_id.clone());
                        members.extend(met.map(|id| (id, info.lobby_id.clone())));
                    }
                    _ => {}
                }
            }
        }
        ids.drain(..ids.len().saturating_sub(16));
        lobbies.drain(..lobbies.len().saturating_sub(8));
        if step % 100 == 0 {
            world.settle();
            let (clients, lobbies) = world.census();
            assert!(clients <= 12 && lobbies <= 10);
        }
    }
    // Whoever is silent is forgotten, and so is all that was his.
    world.settle();
    (world.prompt, world.loss_percent) = (true, 0);
    world.advance(25_000);
    world.settle();
    assert_eq!(world.census(), (0, 0), "seed {seed}");
    assert_eq!(world.in_flight(), 0);
    assert!(
        world.loops.iter().all(|punch| punch.poll_timeout().is_none()),
        "seed {seed}"
    );
    for from in &addresses {
        assert!(
            world.loops.iter().all(|punch| !punch.is_natpunch(from)),
            "seed {seed}: {from}"
        );
    }
    let asker = "198.51.100.1:9".parse().unwrap();
    world.client(asker);
    let Content::LobbyListResponse(found) = &world.ask(asker, list("r"))[0] else {
        panic!()
    };
    assert_eq!(found.lobbies, [], "seed {seed}");
    (joins, updates)
}

fn pick(world: &mut World, below: usize) -> usize {
    world.random.random_range(0..below)
}
