//! What is played, and what must come of it.
//!
//! Owns: which players there are in which network, and the expectations.
//! Never: changes anything while a scene plays, but from its seed.

use crate::network::Kind;
use crate::players::{Task, Way};
use crate::seeds::seeds;
use crate::world::{Faults, World};

/// How long every two who can have to meet.
const PATIENCE_MS: u64 = 60_000;

/// Several groups in one world, behind any routers, with whatever faults the seed draws.
fn any_world(seed: u64) -> World {
    let mut world = World::new(seed, [1, 2, 4][(seed % 3) as usize], Faults::default());
    world.faults = match world.below(4) {
        0 => Faults::default(),
        1 => Faults {
            twice_percent: 10,
            jitter_ms: 20,
            mail_ms: 10,
            ..Faults::default()
        },
        _ => Faults {
            loss_percent: 5 + world.below(20) as u32,
            twice_percent: 10,
            jitter_ms: 40,
            mail_ms: 20,
        },
    };
    let first = world.below(5) as usize;
    for nth in 0..1 + world.below(3) as usize {
        // Any two who want a random player may get each other: only one such group.
        let way = Way::ALL[(first + nth) % Way::ALL.len()];
        let players = match way {
            Way::Random => 2,
            _ => 2 + world.below(3) as usize,
        };
        let mut routers = Vec::new();
        for at in 0..players {
            let same = at > 0 && world.below(8) == 0;
            let router = match routers.last() {
                Some(router) if same => *router,
                _ => {
                    let kind = Kind::ALL[world.below(7) as usize];
                    world.router(kind)
                }
            };
            routers.push(router);
        }
        let opening = world.below(2) == 0;
        world.group(way, &routers, opening, 2000);
    }
    world
}

/// Whether two of a group must meet.
fn must_meet(world: &World, group: usize, a: usize, b: usize) -> bool {
    let group = &world.groups[group];
    let lossy = world.faults.loss_percent > 0;
    let kind = |player: usize| world.routers[world.players[player].router].kind;
    let can = |a: usize, b: usize| {
        if world.players[a].router == world.players[b].router {
            // The lobby dialect tells no address of the own network.
            return kind(a) == Kind::Open || group.way != Way::Code;
        }
        // Behind one router whose ports nobody knows, two cannot be told apart.
        let shared = |player: usize| {
            let others = group.members.iter().filter(|other| **other != player);
            (kind(player).is_by_destination() || kind(player) == Kind::Linux)
                && others
                    .clone()
                    .any(|other| world.players[*other].router == world.players[player].router)
        };
        if shared(a) || shared(b) {
            return false;
        }
        // Where the word to punch is late, the other's packets come first after all.
        kind(a).can_meet(kind(b), group.opening && !lossy)
    };
    let host = group.members[0];
    match group.way {
        // Joiners are brought together with the host only.
        Way::Session | Way::Random => (a == host || b == host) && can(a, b),
        // What makes two joiners meet is told once, and only to members: those who have met the host in the lobby that it
        // thinks it has. A doubled request makes two lobbies.
        Way::Lobby | Way::List if a != host && b != host => {
            !lossy
                && world.faults.twice_percent == 0
                && can(a, b)
                && can(host, a)
                && can(host, b)
                && world.players[a].router != world.players[b].router
        }
        Way::Lobby | Way::List | Way::Code => can(a, b),
    }
}

/// Every two of every group who must meet have; how long the slowest took.
fn check_met(world: &World) -> u64 {
    let mut slowest = 0;
    for (nth, group) in world.groups.iter().enumerate() {
        for a in &group.members {
            for b in group.members.iter().filter(|b| *b != a) {
                let met = world.players[*a].met.get(b);
                let routers = [*a, *b].map(|player| world.routers[world.players[player].router].kind);
                if must_meet(world, nth, *a, *b) {
                    let Some(met) = met else {
                        panic!(
                            "seed {:#x}: {a} has not heard {b}, {:?} {routers:?} {:?} {:?} {:?}",
                            world.seed, group.way, world.faults, world.players[*a].troubles, world.players[*b].troubles
                        );
                    };
                    slowest = slowest.max(met - 1_000_000);
                }
            }
        }
    }
    slowest
}

#[test]
fn every_two_who_can_meet_do() {
    let (mut slowest, mut met, mut packets) = (0, 0, 0);
    for seed in seeds(200) {
        let mut world = any_world(seed);
        world.run(PATIENCE_MS);
        slowest = slowest.max(check_met(&world));
        met += world.players.iter().map(|player| player.met.len()).sum::<usize>();
        packets += world.packets.0;
        world.end();
    }
    println!("{met} heard another player, the slowest after {slowest} ms; {packets} packets to the server");
}

/// Nobody does anything wrong where nothing is lost, and the game begins.
#[test]
fn where_nothing_is_lost_nobody_is_refused_and_the_game_begins() {
    for seed in seeds(100) {
        let mut world = World::new(seed, 1 + seed as usize % 3, Faults::default());
        world.faults.mail_ms = world.below(20);
        let kinds = [Kind::Open, Kind::Full, Kind::Addr];
        for way in Way::ALL {
            let players = if way == Way::Random {
                2
            } else {
                2 + world.below(4) as usize
            };
            let routers: Vec<usize> = (0..players)
                .map(|_| {
                    let kind = kinds[world.below(3) as usize];
                    world.router(kind)
                })
                .collect();
            world.group(way, &routers, seed % 2 == 0, 1000);
        }
        world.run(PATIENCE_MS);
        check_met(&world);
        for (nth, player) in world.players.iter().enumerate() {
            let way = world.groups[player.group].way;
            assert!(
                player.troubles.is_empty(),
                "seed {seed:#x}: {nth} {way:?} {:?}",
                player.troubles
            );
            let plays = player.plays || matches!(way, Way::Lobby | Way::List);
            assert!(plays, "seed {seed:#x}: {nth} {way:?} waits");
        }
        world.end();
    }
}

/// The routers alone decide who meets: in each dialect, for every two kinds.
#[test]
fn the_matrix_of_routers() {
    for way in Way::ALL {
        for a in Kind::ALL {
            for b in Kind::ALL {
                let mut world = World::new(1, 2, Faults::default());
                let routers = [world.router(a), world.router(b)];
                world.group(way, &routers, true, 100);
                world.run(PATIENCE_MS);
                let met = (0..2).all(|player| world.players[player].met.len() == 1);
                assert_eq!(met, a.can_meet(b, true), "{way:?} {a:?} {b:?}");
                world.end();
            }
        }
    }
}

/// Whoever vanishes at any moment, also in the middle of something, leaves nothing.
#[test]
fn whoever_vanishes_leaves_nothing() {
    for seed in seeds(200) {
        let mut world = any_world(seed);
        for player in 0..world.players.len() {
            if world.below(3) > 0 {
                let (ms, word) = (world.below(30_000), world.below(2) == 0);
                world.later(ms, player, Task::Vanish { word });
            }
        }
        let ms = world.below(40_000);
        world.run(ms);
        world.end();
    }
}

/// A router that begins anew gives its players other ports. A registered client is found again by its next keep-alive.
#[test]
fn a_registered_client_whose_router_begins_anew_is_found_again() {
    for seed in seeds(100) {
        let faults = Faults {
            mail_ms: seed % 20,
            ..Faults::default()
        };
        let mut world = World::new(seed, 1 + seed as usize % 3, faults);
        let kinds = [Kind::Full, Kind::Addr, Kind::Port];
        let routers: Vec<usize> = (0..2)
            .map(|_| {
                let kind = kinds[world.below(3) as usize];
                world.router(kind)
            })
            .collect();
        world.group(Way::Lobby, &routers, seed % 2 == 0, 100);
        // Both are registered, and have not met: the joiner is told the lobby's id later.
        world.restart_later(400, routers[world.seed as usize % 2]);
        world.run(PATIENCE_MS);
        check_met(&world);
        world.end();
    }
}

/// Players come and go for hours: what the server holds is of those who are there.
#[test]
fn nothing_grows_while_players_come_and_go() {
    for seed in seeds(4) {
        let mut world = World::new(
            seed,
            2,
            Faults {
                loss_percent: 5,
                twice_percent: 5,
                jitter_ms: 20,
                mail_ms: 5,
            },
        );
        let mut most = 0;
        for round in 0..40 {
            let way = Way::ALL[round % Way::ALL.len()];
            let routers = [world.router(Kind::Full), world.router(Kind::Port)];
            let group = world.group(way, &routers, false, 1000);
            for player in world.groups[group].members.clone() {
                let (ms, word) = (15_000 + world.below(30_000), world.below(2) == 0);
                world.later(ms, player, Task::Vanish { word });
            }
            world.run(10_000);
            let held: usize = world
                .loops
                .iter()
                .map(|punch| {
                    let census = punch.census();
                    census.simple_sessions + census.natpunch_clients + census.matchmaker_sessions
                })
                .sum();
            most = most.max(held);
        }
        // Each is there for 45 seconds and forgotten after 40 more at the latest, and two come every ten.
        assert!(most <= 18, "seed {seed:#x}: {most}");
        world.end();
    }
}
