//! The rules, one by one: requests and replies, what other servers of this protocol did wrong, and our decisions.

use std::net::SocketAddr;

use peer_server::codec::protobuf::natpunch as wire;
use peer_server::message::natpunch::ClientId;
use peer_server::message::punch::Dropped;
use peer_server::shard::punch::Limits;

use super::world::*;

fn address(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, last], port))
}

/// Runs a rule with one loop and with four.
fn everywhere(rule: impl Fn(World)) {
    rule(World::new(1));
    rule(World::new(4));
}

fn members(content: &Content) -> Vec<String> {
    let members = match content {
        Content::LobbyUpdate(update) => &update.lobby_info.as_ref().unwrap().members,
        Content::JoinLobbySuccess(joined) => &joined.lobby_members,
        other => panic!("{other:?}"),
    };
    assert!(members.iter().all(|member| member.public_endpoint.is_some()));
    members.iter().map(|member| member.client_id.clone()).collect()
}

/// A host with a lobby, and members that have met it.
fn party(world: &mut World, count: u8, players_max: u32) -> (Vec<(SocketAddr, String)>, String) {
    let clients: Vec<_> = (0..count)
        .map(|nth| {
            let address = address(nth, 1000);
            (address, world.client(address))
        })
        .collect();
    let lobby = world.lobby(clients[0].0, &clients[0].1, "room", players_max);
    for (address, id) in &clients[1..] {
        let kinds = kinds(&world.ask(*address, join(id, &lobby)));
        assert_eq!(
            kinds,
            ["JoinLobbyResponse", "JoinLobbySuccess", "ConnectionInstruction"]
        );
        world.datagram(clients[0].0, &encode(ready(&lobby, id)));
    }
    clients.iter().for_each(|(address, _)| drop(world.take(*address)));
    (clients, lobby)
}

#[test]
fn a_registration_without_a_local_endpoint_is_one() {
    everywhere(|mut world| {
        world.datagram(address(1, 5), &[0x0a, 0]);
        let [Content::RegisterResponse(response)] = &world.take(address(1, 5))[..] else {
            panic!()
        };
        assert!(response.success && ClientId::parse(&response.client_id).is_some());
        let endpoint = response.public_endpoint.clone().unwrap();
        assert_eq!((&*endpoint.ip_address, endpoint.port), ("203.0.113.1", 5));
    });
}

#[test]
fn a_repeated_registration_has_the_same_id_and_is_answered_after_700_ms() {
    everywhere(|mut world| {
        let client = address(1, 5);
        let first = world.ask(client, register("::", 5));
        assert_eq!(world.ask(client, register("::", 5)), []);
        world.advance(699);
        assert_eq!(world.ask(client, register("::", 5)), []);
        world.advance(1);
        assert_eq!(world.ask(client, register("::", 5)), first);
        assert_eq!(world.ask(client, register("::", 5)), []);
        // Ten seconds of silence count from the last answer, else its first keep-alive would come too late.
        for _ in 0..13 {
            world.advance(1000);
            world.datagram(client, &encode(register("::", 5)));
        }
        let repeats = world.take(client);
        assert!(
            repeats.iter().all(|answer| *answer == first[0]) && repeats.len() > 3,
            "{repeats:?}"
        );
        assert_eq!(world.census(), (1, 0));
        world.advance(1300);
        let [Content::RegisterResponse(new)] = &world.ask(client, register("::", 5))[..] else {
            panic!()
        };
        assert_ne!(
            Content::RegisterResponse(new.clone()),
            first[0],
            "it is 15 seconds later"
        );
        assert_eq!(world.census(), (1, 0));
    });
}

#[test]
fn a_repeat_that_was_sent_before_the_answer_is_never_answered() {
    let mut world = World::new(4);
    world.prompt = false;
    let client = (0..50).map(|last| address(last, 5)).find(|remote| {
        let mut world = World::new(4);
        world.prompt = false;
        world.datagram(*remote, &encode(register("::", 5)));
        world.in_flight() > 0
    });
    let client = client.unwrap();
    world.datagram(client, &encode(register("::", 5)));
    world.advance(1000);
    world.datagram(client, &encode(register("::", 5)));
    while world.take(client).is_empty() {
        assert!(world.deliver_one());
    }
    world.advance(1000);
    world.settle();
    assert_eq!(world.take(client), []);
    assert_eq!(world.census(), (1, 0));
}

#[test]
fn a_registration_after_other_traffic_is_a_new_one_and_the_old_one_leaves_its_lobbies() {
    everywhere(|mut world| {
        let (clients, _) = party(&mut world, 3, 5);
        let [Content::RegisterResponse(new)] = &world.ask(clients[1].0, register("::", 5))[..] else {
            panic!()
        };
        assert_ne!(new.client_id, clients[1].1);
        for other in [0, 2] {
            let left = Content::PeerLeft(wire::PeerLeft {
                client_id: clients[1].1.clone(),
            });
            assert_eq!(world.take(clients[other].0), [left]);
        }
        assert_eq!(world.census(), (3, 1));
        let error = error("Client not registered");
        assert_eq!(world.ask(clients[1].0, create(&clients[1].1, "x", 2)), [error]);
    });
}

#[test]
fn an_address_that_has_proved_nothing_is_not_registered_anew_within_700_ms() {
    everywhere(|mut world| {
        let client = address(1, 5);
        let [Content::RegisterResponse(first)] = &world.ask(client, register("::", 5))[..] else {
            panic!()
        };
        let debug = Content::DebugMessage(wire::DebugMessage::default());
        world.datagram(client, &encode(debug));
        world.advance(699);
        assert_eq!(world.ask(client, register("::", 5)), []);
        world.advance(1);
        let [Content::RegisterResponse(second)] = &world.ask(client, register("::", 5))[..] else {
            panic!()
        };
        assert_ne!(first.client_id, second.client_id);
        // One that has is another program at its address, or the same one again.
        world.datagram(client, &encode(keep_alive(&second.client_id)));
        let [Content::RegisterResponse(third)] = &world.ask(client, register("::", 5))[..] else {
            panic!()
        };
        assert_ne!(second.client_id, third.client_id);
        assert_eq!(world.census(), (1, 0));
    });
}

#[test]
fn registrations_of_one_address_are_bounded_by_the_minute_and_clients_in_all() {
    everywhere(|mut world| {
        for port in 1..=100 {
            world.unproved(address(1, port));
        }
        assert_eq!(world.ask(address(1, 101), register("::", 5)), []);
        assert_eq!(world.dropped(Dropped::RateLimited), 1);
        world.unproved(address(2, 101));
        world.advance(70_000);
        world.unproved(address(1, 101));
    });
    let limits = Limits {
        sessions_max: 2,
        ..Limits::default()
    };
    let mut world = World::with(4, 1, limits);
    world.unproved(address(1, 1));
    world.unproved(address(1, 2));
    assert_eq!(world.ask(address(1, 3), register("::", 5)), []);
    assert_eq!(world.dropped(Dropped::Full), 1);
    world.advance(12_000);
    world.unproved(address(1, 3));
}

#[test]
fn the_order_of_a_join() {
    everywhere(|mut world| {
        let (host, second, third) = (address(1, 1), address(2, 2), address(3, 3));
        let ids = [host, second, third].map(|address| world.client(address));
        let lobby = world.lobby(host, &ids[0], "room", 3);
        let told = world.ask(second, join(&ids[1], &lobby));
        assert_eq!(
            kinds(&told),
            ["JoinLobbyResponse", "JoinLobbySuccess", "ConnectionInstruction"]
        );
        assert_eq!(members(&told[1]), [&*ids[0], &ids[1]]);
        assert_eq!(kinds(&world.take(host)), ["ConnectionInstruction"]);

        // A repeat within the window is told all of it again; and so is the host.
        world.advance(1000);
        assert_eq!(world.ask(second, join(&ids[1], &lobby)), told);
        assert_eq!(kinds(&world.take(host)), ["ConnectionInstruction"]);

        world.datagram(host, &encode(ready(&lobby, &ids[1])));
        for member in [host, second] {
            let told = world.take(member);
            assert_eq!(kinds(&told), ["LobbyUpdate"]);
            assert_eq!(members(&told[0]), [&*ids[0], &ids[1]]);
        }
        // They have met: nothing is said again.
        world.advance(1000);
        assert_eq!(world.ask(second, join(&ids[1], &lobby)), []);
        world.datagram(host, &encode(ready(&lobby, &ids[1])));
        assert_eq!((world.take(host), world.take(second)), (vec![], vec![]));

        world.ask(third, join(&ids[2], &lobby));
        world.datagram(host, &encode(ready(&lobby, &ids[2])));
        assert_eq!(kinds(&world.take(third)), ["LobbyUpdate", "ConnectionInstruction"]);
        assert_eq!(kinds(&world.take(second)), ["LobbyUpdate", "ConnectionInstruction"]);
        assert_eq!(kinds(&world.take(host)), ["ConnectionInstruction", "LobbyUpdate"]);
    });
}

#[test]
fn refused_joins_in_their_order() {
    everywhere(|mut world| {
        let (clients, lobby) = party(&mut world, 2, 2);
        let late = address(9, 9);
        assert_eq!(
            world.ask(late, join("nobody", "lobby_0")),
            [error("Client not registered")]
        );
        let id = world.client(late);
        assert_eq!(
            world.ask(late, join("nobody", "lobby_0")),
            [error("Client not registered")]
        );
        assert_eq!(world.ask(late, join(&id, "lobby_0")), [error("Lobby not found")]);
        assert_eq!(
            world.ask(late, join(&id, "lobby_1234567890123456789")),
            [error("Lobby not found")]
        );
        world.advance(1000);
        assert_eq!(world.ask(late, join(&id, &lobby)), [error("Lobby is full")]);
        drop(clients);
    });
}

#[test]
fn a_join_waits_ten_seconds_from_its_last_repeat() {
    everywhere(|mut world| {
        let (host, joiner) = (address(1, 1), address(2, 2));
        let (h, j) = (world.client(host), world.client(joiner));
        let lobby = world.lobby(host, &h, "room", 2);
        let both = [(host, &*h), (joiner, &*j)];
        world.ask(joiner, join(&j, &lobby));
        world.live(6000, &both);
        world.ask(joiner, join(&j, &lobby));
        world.live(9999, &both);
        assert_eq!(world.take(joiner), []);
        world.live(1, &both);
        assert_eq!(
            world.take(joiner),
            [error("Failed to establish connection with lobby host")]
        );
        world.take(host);
        world.datagram(host, &encode(ready(&lobby, &j)));
        assert_eq!((world.take(host), world.take(joiner)), (vec![], vec![]));
        // And it may join again.
        assert_eq!(world.ask(joiner, join(&j, &lobby)).len(), 3);
    });
}

#[test]
fn one_join_waits_for_a_joiner_and_takes_no_place() {
    everywhere(|mut world| {
        let (one, two, joiner, late) = (address(1, 1), address(2, 2), address(3, 3), address(4, 4));
        let ids = [one, two, joiner, late].map(|address| world.client(address));
        let first = world.lobby(one, &ids[0], "one", 2);
        let second = world.lobby(two, &ids[1], "two", 2);
        assert_eq!(world.ask(joiner, join(&ids[2], &first)).len(), 3);
        assert_eq!(world.ask(joiner, join(&ids[2], &second)).len(), 3);
        // The first one waits no longer, and has no other end.
        assert_eq!(world.ask(late, join(&ids[3], &first)).len(), 3);
        world.take(one);
        world.datagram(one, &encode(ready(&first, &ids[2])));
        assert_eq!(world.take(one), []);
        world.datagram(two, &encode(ready(&second, &ids[2])));
        assert_eq!(kinds(&world.take(joiner)), ["LobbyUpdate"]);
    });
}

#[test]
fn only_the_host_says_who_is_ready_and_only_of_whom_joins() {
    everywhere(|mut world| {
        let (clients, lobby) = party(&mut world, 2, 4);
        let (joiner, other) = (address(8, 8), address(9, 9));
        let (j, o) = (world.client(joiner), world.client(other));
        world.ask(joiner, join(&j, &lobby));
        world.take(clients[0].0);
        for (from, peer) in [
            (clients[1].0, &j),
            (joiner, &j),
            (other, &j),
            (address(7, 7), &j),
            (clients[0].0, &o),
        ] {
            assert_eq!(world.ask(from, ready(&lobby, peer)), []);
        }
        assert_eq!(world.ask(clients[0].0, ready("lobby_0", &j)), []);
        assert_eq!(world.ask(clients[0].0, ready(&lobby, "nobody")), []);
        assert_eq!(world.take(joiner), []);
        assert_eq!(kinds(&world.ask(clients[0].0, ready(&lobby, &j))), ["LobbyUpdate"]);
    });
}

#[test]
fn leaving_is_told_to_the_rest_and_the_oldest_member_becomes_host() {
    everywhere(|mut world| {
        let (clients, lobby) = party(&mut world, 3, 4);
        let stranger = address(9, 9);
        let id = world.client(stranger);
        assert_eq!(world.ask(stranger, leave(&id, &lobby)), [error("Client not in lobby")]);
        assert_eq!(world.ask(stranger, leave(&id, "lobby_0")), [error("Lobby not found")]);
        assert_eq!(world.ask(clients[0].0, leave(&clients[0].1, &lobby)).len(), 1);
        for other in [1, 2] {
            let told = world.take(clients[other].0);
            assert_eq!(kinds(&told), ["PeerLeft", "LobbyUpdate"]);
            let Content::LobbyUpdate(update) = &told[1] else {
                panic!()
            };
            assert_eq!(update.update_type, "player_left");
            assert_eq!(update.lobby_info.as_ref().unwrap().host_client_id, clients[1].1);
        }
        // The next host can let somebody in.
        world.ask(stranger, join(&id, &lobby));
        assert_eq!(kinds(&world.take(clients[1].0)), ["ConnectionInstruction"]);
        assert_eq!(world.ask(clients[1].0, ready(&lobby, &id)).len(), 1);
        for (address, id) in [
            (stranger, &id),
            (clients[2].0, &clients[2].1),
            (clients[1].0, &clients[1].1),
        ] {
            let told = world.ask(address, leave(id, &lobby));
            assert_eq!(kinds(&told).last().unwrap(), "LeaveLobbyResponse");
        }
        assert_eq!(world.census(), (4, 0));
        assert_eq!(world.ask(stranger, leave(&id, &lobby)), [error("Lobby not found")]);
    });
}

#[test]
fn the_silent_are_removed_after_ten_seconds_and_a_silent_host_is_replaced() {
    everywhere(|mut world| {
        let (clients, lobby) = party(&mut world, 3, 4);
        let joiner = address(9, 9);
        let j = world.client(joiner);
        world.ask(joiner, join(&j, &lobby));
        let rest: Vec<_> = clients[1..].iter().map(|(address, id)| (*address, &**id)).collect();
        world.live(9900, &rest);
        assert_eq!(world.census(), (4, 1));
        assert_eq!(world.take(rest[0].0), []);
        world.live(1100, &rest);
        assert_eq!(world.census(), (2, 1));
        for (address, _) in &rest {
            let told = world.take(*address);
            assert_eq!(kinds(&told), ["PeerLeft", "LobbyUpdate"]);
            assert_eq!(members(&told[1]), [rest[0].1, rest[1].1]);
        }
        world.take(clients[0].0);
        // The host that is gone is nobody: nothing happens, and nothing breaks.
        assert_eq!(world.ask(clients[0].0, ready(&lobby, &j)), []);
        world.advance(12_000);
        assert_eq!(world.census(), (0, 0));
        assert!(world.loops.iter().all(|punch| punch.poll_timeout().is_none()));
    });
}

#[test]
fn joins_to_a_host_that_goes_are_over_at_once() {
    everywhere(|mut world| {
        let (host, joiner) = (address(1, 1), address(2, 2));
        let (h, j) = (world.client(host), world.client(joiner));
        let lobby = world.lobby(host, &h, "room", 2);
        world.ask(joiner, join(&j, &lobby));
        world.datagram(host, &encode(leave(&h, &lobby)));
        assert_eq!(
            world.take(joiner),
            [error("Failed to establish connection with lobby host")]
        );
        assert_eq!(world.census(), (2, 0));
    });
}

#[test]
fn an_id_counts_only_from_its_address() {
    everywhere(|mut world| {
        let (clients, lobby) = party(&mut world, 2, 4);
        let (thief, unknown) = (address(0, 2000), address(9, 9));
        world.client(thief);
        let (owner, member) = (&clients[0].1, &clients[1].1);
        for from in [thief, unknown] {
            let refused = [error("Client not registered")];
            assert_eq!(world.ask(from, create(owner, "x", 2)), refused);
            assert_eq!(world.ask(from, join(owner, &lobby)), refused);
            assert_eq!(world.ask(from, leave(owner, &lobby)), refused);
            assert_eq!(world.ask(from, connect(owner, member)), []);
            assert_eq!(world.ask(from, ready(&lobby, member)), []);
        }
        // Keep-alives in another's name keep nobody.
        for _ in 0..6 {
            world.advance(2000);
            world.datagram(thief, &encode(keep_alive(owner)));
            world.datagram(unknown, &encode(keep_alive(owner)));
        }
        assert_eq!(world.census(), (0, 0));
    });
}

#[test]
fn a_keep_alive_from_another_port_moves_the_client_at_most_every_five_seconds() {
    for seed in 0..8 {
        let mut world = World::with(4, seed, Limits::default());
        let (clients, lobby) = party(&mut world, 2, 4);
        let (member, id) = (clients[1].0, &clients[1].1);
        let moved = SocketAddr::new(member.ip(), 4000 + seed as u16);
        world.datagram(moved, &encode(keep_alive(id)));
        assert!(world.loops[world.receiver(moved)].is_natpunch(&moved));
        assert!(!world.loops[world.receiver(member)].is_natpunch(&member));
        assert_eq!(world.ask(member, leave(id, &lobby)), [error("Client not registered")]);
        let again = SocketAddr::new(member.ip(), 5000);
        world.datagram(again, &encode(keep_alive(id)));
        assert!(!world.loops[world.receiver(again)].is_natpunch(&again));

        // Everything goes on from the new port, and goes to it.
        let told = world.ask(clients[0].0, connect(&clients[0].1, id));
        let [Content::ConnectionInstruction(word)] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(word.public_endpoint.as_ref().unwrap().port, u32::from(moved.port()));
        assert_eq!(kinds(&world.take(moved)), ["ConnectionInstruction"]);
        let room = world.lobby(moved, id, "mine", 2);
        world.ask(clients[0].0, join(&clients[0].1, &room));
        world.take(moved);
        assert_eq!(kinds(&world.ask(moved, ready(&room, &clients[0].1))), ["LobbyUpdate"]);
        let Content::LobbyListResponse(found) = &world.ask(moved, list("req_9"))[0] else {
            panic!()
        };
        assert!(found.lobbies.iter().all(|lobby| lobby.members.len() == 2));
        world.live(5000, &[(moved, id), (clients[0].0, &clients[0].1)]);
        world.datagram(again, &encode(keep_alive(id)));
        assert!(world.loops[world.receiver(again)].is_natpunch(&again));
        assert!(!world.loops[world.receiver(moved)].is_natpunch(&moved));

        // A registration from the new port replaces it.
        let [Content::RegisterResponse(new)] = &world.ask(again, register("::", 5))[..] else {
            panic!()
        };
        assert_eq!(world.census(), (2, 2));
        world.datagram(again, &encode(keep_alive(&new.client_id)));
        world.advance(12_000);
        assert_eq!(world.census(), (0, 0));
        for remote in [member, moved, again] {
            assert!(world.loops.iter().all(|punch| !punch.is_natpunch(&remote)));
        }
    }
}

#[test]
fn an_address_that_is_another_clients_is_not_moved_to() {
    everywhere(|mut world| {
        let (one, two) = (address(1, 1), address(1, 2));
        let (first, second) = (world.client(one), world.client(two));
        world.datagram(two, &encode(keep_alive(&first)));
        assert_eq!(kinds(&world.ask(one, create(&first, "x", 2))), ["CreateLobbyResponse"]);
        assert_eq!(kinds(&world.ask(two, create(&second, "y", 2))), ["CreateLobbyResponse"]);
    });
}

#[test]
fn an_unproved_address_gets_three_times_what_it_sent_at_most() {
    everywhere(|mut world| {
        let host = address(1, 1);
        let id = world.client(host);
        (0..4).for_each(|_| drop(world.lobby(host, &id, &"n".repeat(64), 2)));
        // Unknown ones, by the datagram; those that only registered, in all, their first answer apart.
        for (asker, registered) in [(address(2, 2), false), (address(3, 3), true)] {
            let free = match registered {
                true => encode(world.ask(asker, register("::", 1)).remove(0)).len(),
                false => 0,
            };
            let mut sent = if registered { encode(register("::", 1)).len() } else { 0 };
            let requests = [
                list(""),
                list("req_1"),
                list(&"r".repeat(64)),
                create("x", "", 0),
                join("nobody", ""),
                leave("", ""),
            ];
            for request in requests.iter().cycle().take(60) {
                let bytes = encode(request.clone());
                sent += bytes.len();
                let before = world.bytes_sent.get(&asker).copied().unwrap_or(0);
                world.datagram(asker, &bytes);
                let all = world.bytes_sent.get(&asker).copied().unwrap_or(0);
                assert!(all - free <= 3 * sent, "{all} bytes for {sent}");
                assert!(registered || all - before <= 3 * bytes.len());
            }
            assert!(world.take(asker).len() > 10);
        }
        // A message with its own id proves an address: from then on it is told as much as fits.
        for proof in ["keep-alive", "request id"] {
            let asker = address(4, if proof == "keep-alive" { 4 } else { 5 });
            let id = world.unproved(asker);
            let request_id = match proof {
                "keep-alive" => {
                    world.datagram(asker, &encode(keep_alive(&id)));
                    "req".to_owned()
                }
                _ => format!("req_%!d(string={id})"),
            };
            let Content::LobbyListResponse(found) = &world.ask(asker, list(&request_id))[0] else {
                panic!()
            };
            assert_eq!((found.lobbies.len(), &found.request_id), (4, &request_id));
        }
    });
}

#[test]
fn a_list_has_the_newest_first_the_full_last_and_as_many_as_fit() {
    everywhere(|mut world| {
        let (clients, full) = party(&mut world, 2, 2);
        let mut names = Vec::new();
        for host in 10..30 {
            world.advance(1);
            let remote = address(host, 1);
            let id = world.client(remote);
            world.lobby(remote, &id, &format!("lobby of {host}"), 12);
            names.insert(0, format!("lobby of {host}"));
        }
        let asker = address(99, 9);
        world.client(asker);
        let bytes = world.datagram_answer(asker, list("req"));
        let Content::LobbyListResponse(found) = decode(&bytes) else {
            panic!()
        };
        let listed: Vec<String> = found.lobbies.iter().map(|lobby| lobby.lobby_name.clone()).collect();
        assert_eq!(listed[..], names[..listed.len()]);
        assert!(bytes.len() <= 1024 && bytes.len() > 900, "{}", bytes.len());
        assert!(
            found
                .lobbies
                .iter()
                .all(|lobby| lobby.members.is_empty() && lobby.current_players == 1)
        );
        for host in 10..28 {
            world.datagram(address(host, 1), &encode(register("::", 1)));
        }
        let Content::LobbyListResponse(found) = &world.ask(clients[1].0, list("req"))[0] else {
            panic!()
        };
        let (last, free) = found.lobbies.split_last().unwrap();
        assert_eq!(
            (&last.lobby_id, last.members.len(), last.current_players),
            (&full, 2, 2)
        );
        assert_eq!(free.len(), 2);
        assert!(free.iter().all(|lobby| lobby.members.is_empty()));
    });
}

#[test]
fn names_ids_and_numbers_of_players_are_bounded() {
    everywhere(|mut world| {
        let host = address(1, 1);
        let id = world.client(host);
        assert_eq!(
            world.ask(host, create(&id, &"n".repeat(65), 2)),
            [error("Lobby name too long")]
        );
        assert_eq!(world.ask(host, create(&"i".repeat(65), "n", 2)), []);
        for (asked, given) in [(0, 2), (1, 2), (7, 7), (u32::MAX, 12)] {
            world.lobby(host, &id, &format!("{asked}"), asked);
            let Content::LobbyListResponse(found) = &world.ask(host, list("r"))[0] else {
                panic!()
            };
            let lobby = found
                .lobbies
                .iter()
                .find(|lobby| lobby.lobby_name == asked.to_string())
                .unwrap();
            assert_eq!(lobby.max_players, given);
        }
        assert_eq!(world.ask(host, create(&id, "fifth", 2)), [error("Too many lobbies")]);
    });
    let limits = Limits {
        natpunch_lobbies_max: 1,
        ..Limits::default()
    };
    let mut world = World::with(4, 1, limits);
    let (one, two) = (world.client(address(1, 1)), world.client(address(2, 2)));
    world.lobby(address(1, 1), &one, "one", 2);
    assert_eq!(
        world.ask(address(2, 2), create(&two, "two", 2)),
        [error("Too many lobbies")]
    );
}

#[test]
fn joins_are_two_a_second() {
    everywhere(|mut world| {
        let joiner = address(1, 1);
        let id = world.client(joiner);
        let refused = [error("Lobby not found")];
        assert_eq!(world.ask(joiner, join(&id, "lobby_0")), refused);
        assert_eq!(world.ask(joiner, join(&id, "lobby_0")), refused);
        assert_eq!(world.ask(joiner, join(&id, "lobby_0")), []);
        world.advance(500);
        assert_eq!(world.ask(joiner, join(&id, "lobby_0")), refused);
    });
}

#[test]
fn of_two_who_meet_the_host_of_one_place_the_first_is_a_member() {
    everywhere(|mut world| {
        let (host, one, two) = (address(1, 1), address(2, 2), address(3, 3));
        let ids = [host, one, two].map(|address| world.client(address));
        let lobby = world.lobby(host, &ids[0], "room", 2);
        assert_eq!(world.ask(one, join(&ids[1], &lobby)).len(), 3);
        assert_eq!(world.ask(two, join(&ids[2], &lobby)).len(), 3);
        world.datagram(host, &encode(ready(&lobby, &ids[2])));
        assert_eq!(kinds(&world.take(two)), ["LobbyUpdate"]);
        world.datagram(host, &encode(ready(&lobby, &ids[1])));
        assert_eq!(world.take(one), [error("Lobby is full")]);
        world.advance(600);
        assert_eq!(world.ask(one, join(&ids[1], &lobby)), [error("Lobby is full")]);
    });
}

#[test]
fn members_of_a_lobby_stay_few_enough_for_one_datagram() {
    everywhere(|mut world| {
        let remote = |nth: u16| {
            SocketAddr::from((
                [0x2001, 0xdb8, 0x1111, 0x1111, 0x1111, 0x1111, 0x1111, 0x1000 + nth],
                65535,
            ))
        };
        let host = world.client(remote(0));
        let lobby = world.lobby(remote(0), &host, &"n".repeat(64), 12);
        let mut members = 1;
        for nth in 1..12 {
            let id = world.client(remote(nth));
            let told = world.ask(remote(nth), join(&id, &lobby));
            if told == [error("Lobby is full")] {
                break;
            }
            world.datagram(remote(0), &encode(ready(&lobby, &id)));
            members += 1;
        }
        assert_eq!(members, 9);
        let longest = world.take_bytes(remote(1)).iter().map(Vec::len).max();
        assert!(
            longest.is_some_and(|longest| (900..=1024).contains(&longest)),
            "{longest:?}"
        );
    });
}

#[test]
fn a_connection_is_arranged_only_between_members_of_one_lobby() {
    everywhere(|mut world| {
        let (clients, _) = party(&mut world, 3, 4);
        let outsider = address(9, 9);
        let id = world.client(outsider);
        let not_found = |id: &str| [error(&format!("Destination client {id} not found"))];
        assert_eq!(
            world.ask(outsider, connect(&id, &clients[0].1)),
            not_found(&clients[0].1)
        );
        assert_eq!(world.ask(clients[0].0, connect(&clients[0].1, &id)), not_found(&id));
        assert_eq!(
            world.ask(clients[0].0, connect(&clients[0].1, "nobody")),
            not_found("nobody")
        );
        assert_eq!(
            world.ask(clients[0].0, connect(&clients[0].1, &clients[0].1)),
            not_found(&clients[0].1)
        );
        assert_eq!(
            kinds(&world.ask(clients[1].0, connect(&clients[1].1, &clients[2].1))),
            ["ConnectionInstruction"]
        );
        assert_eq!(kinds(&world.take(clients[2].0)), ["ConnectionInstruction"]);
    });
}

#[test]
fn local_endpoints_are_told_behind_one_public_address_only() {
    everywhere(|mut world| {
        let mut known = Vec::new();
        for (remote, local) in [
            (address(1, 1), "192.168.1.20"),
            (address(1, 2), "10.0.0.7"),
            (address(2, 1), "192.168.1.21"),
            (address(1, 3), "8.8.8.8"),
        ] {
            let Content::RegisterResponse(response) = &world.ask(remote, register(local, 777))[0] else {
                panic!()
            };
            known.push((remote, response.client_id.clone()));
        }
        let lobby = world.lobby(known[0].0, &known[0].1, "room", 9);
        for (nth, (host_sees, joiner_sees)) in [
            (1, ("10.0.0.7", "192.168.1.20")),
            (2, ("203.0.113.2", "203.0.113.1")),
            (3, ("203.0.113.1", "192.168.1.20")),
        ] {
            let (joiner, id) = &known[nth];
            let told = world.ask(*joiner, join(id, &lobby));
            let local = |content: &Content| match content {
                Content::ConnectionInstruction(word) => word.local_endpoint.as_ref().unwrap().ip_address.clone(),
                other => panic!("{other:?}"),
            };
            assert_eq!(local(&told[2]), joiner_sees);
            assert_eq!(local(world.take(known[0].0).last().unwrap()), host_sees);
        }
    });
}

#[test]
fn what_is_no_request_is_dropped_without_an_answer() {
    everywhere(|mut world| {
        let client = address(1, 1);
        let id = world.client(client);
        let debug = Content::DebugMessage(wire::DebugMessage {
            message: "PONG".to_owned(),
        });
        assert_eq!(world.ask(client, debug), []);
        let own = Content::PeerLeft(wire::PeerLeft { client_id: id.clone() });
        assert_eq!(world.ask(client, own), []);
        let whole = encode(keep_alive(&id));
        // Cut, with something behind, with a longer length than needed, with two messages in one, not UTF-8.
        for broken in [
            &whole[..whole.len() - 1],
            &[&whole[..], &[0]].concat(),
            &[&[0x4a, 0x80 | 38, 0], &whole[2..]].concat(),
            &[&whole[..], &whole[..]].concat(),
            &[0x4a, 4, 0x0a, 2, 0xff, 0xff],
            &[0x4a, 2, 0x0d, 0],
        ] {
            assert_eq!(peer_server::dialect::natpunch::parse(broken), None, "{broken:x?}");
        }
        // An unknown field inside is skipped; groups in it end somewhere.
        let unknown = [&[0x4a, 38 + 5], &whole[2..], &[0x7a, 1, b'x', 0x70, 1]].concat();
        assert!(peer_server::dialect::natpunch::parse(&unknown).is_some());
        let nested = [
            &[0x4a, 0x80 | (1000 & 0x7f) as u8, (1000 >> 7) as u8][..],
            &[0x7b; 1000],
        ]
        .concat();
        assert_eq!(peer_server::dialect::natpunch::parse(&nested), None);
    });
}

#[test]
fn a_registered_address_is_bound_to_this_dialect_as_long_as_it_is_one() {
    everywhere(|mut world| {
        let client = address(1, 1);
        let receiver = world.receiver(client);
        assert!(!world.loops[receiver].is_natpunch(&client));
        world.client(client);
        assert!(world.loops[receiver].is_natpunch(&client));
        assert!(!world.loops[receiver].is_natpunch(&address(1, 2)));
        world.advance(11_000);
        assert!(!world.loops[receiver].is_natpunch(&client));
    });
}
