//! The connections to NATS and to the cloud beside loops that have descriptor tables of their own.
//!
//! Owns: that loops wake the threads of providers, and hold no copies of what those opened.
//! Never: runs on shared tables.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::replay::Recording;
use crate::support::Server;
use crate::world::World;

#[test]
fn loops_wake_providers_and_hold_no_copies_of_their_connections() {
    let world = World::start(json!({ "loops": 2, "descriptor_tables": "per_loop" }));
    world.cloud.behave(json!({ "ready_after": 0 }));
    // Each begins while the threads of NATS sleep.
    for _ in 0..5 {
        let heard = Recording::load("ws-success-immediate")
            .say(world.front.addr(), &[])
            .unwrap();
        assert!(heard.frames.last().unwrap().contains("SessionReady"), "{heard:?}");
    }
    for server in [&world.front, world.back.as_ref().unwrap()] {
        let (nats, cloud) = (
            connections(server, world.nats.address),
            connections(server, world.cloud.address),
        );
        let held = |thread: &str| {
            let tasks = tasks(server, thread);
            assert!(!tasks.is_empty(), "there are threads named {thread}");
            let sockets: BTreeSet<PathBuf> = tasks.iter().flat_map(|task| open_files(task)).collect();
            sockets
        };
        assert!(nats.intersection(&held("nats")).next().is_some());
        let of_loops = held("loop-");
        assert_eq!(of_loops.intersection(&nats).next(), None);
        assert_eq!(of_loops.intersection(&cloud).next(), None);
    }
}

/// The threads whose names begin so.
fn tasks(server: &Server, name: &str) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    tasks
        .filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.starts_with(name)))
        .collect()
}

fn open_files(task: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(task.join("fd")).unwrap();
    // What was closed meanwhile is left out.
    files
        .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
        .collect()
}

/// The sockets of this machine that are connected to there, whoever has them.
fn connections(server: &Server, there: SocketAddr) -> BTreeSet<PathBuf> {
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", server.pid())).unwrap();
    let port = format!(":{:04X}", there.port());
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_there = fields.get(2)?.ends_with(&port);
        is_there.then(|| PathBuf::from(format!("socket:[{}]", fields.get(9).unwrap_or(&""))))
    };
    table.lines().filter_map(inode).collect()
}
