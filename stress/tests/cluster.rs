//! Several nodes with a broker between them, as a user measures them. Without redis-server only the message is tested.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn stress() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peer-stress"));
    command.args(["run", "--json", "--server-cores", "0", "--generator-cores", "0"]);
    command
}

/// Built beside the program that is tested, by the same `cargo test --workspace`.
fn server() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_peer-stress")).with_file_name("peer-server")
}

fn run(how: &str, nodes: &str, workload: &[&str]) -> Output {
    let target = format!("{}{how}", server().display());
    let command = &mut stress();
    command.args(["--nodes", nodes, "--broker", "redis", "--target", &target]);
    command
        .args([workload[0], "warm_up=0.05", "seconds=0.3"])
        .args(&workload[1..])
        .output()
        .unwrap()
}

fn round(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let targets: Value = serde_json::from_slice(&output.stdout).unwrap();
    targets[0][0].clone()
}

fn redis_is_there() -> bool {
    let found = Command::new("redis-server")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

#[test]
fn a_cluster_is_measured_with_its_broker_and_leaves_nothing_there() {
    if !redis_is_there() {
        return;
    }
    let workloads: &[&[&str]] = &[
        &["signal", "pairs=4"],
        &["signal", "pairs=4", "rate=500"],
        &["broadcast", "peers=30", "namespace_size=10", "window=3"],
        &["presence", "peers=12", "namespace_size=6"],
        &["presence", "peers=40", "namespace_size=20", "window=4"],
        &["presence", "peers=60", "namespace_size=60", "rate=200"],
        &["match", "pairs=4", "namespace_size=8", "peers=5", "waits=7"],
        &["connect", "peers=6", "window=2"],
    ];
    for workload in workloads {
        let round = round(&run("", "3", workload));
        assert!(round["messages"].as_u64().unwrap() > 0, "{workload:?}: {round}");
        assert_eq!(round["failed"], 0, "{workload:?}");
        let nodes = round["nodes"].as_array().unwrap();
        assert_eq!(nodes.len(), 3);
        let sum: f64 = nodes.iter().map(|node| node["cpu_ns"].as_f64().unwrap()).sum();
        assert!((sum / round["cpu_ns"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{round}");
        assert!(round["broker"]["rss"].as_u64().unwrap() > 0);
        assert!(
            round["broker"]["connect_commands"]["evalsha"].as_f64().unwrap() > 0.0,
            "{round}"
        );
    }
}

#[test]
fn pairs_on_two_nodes_need_the_broker_and_pairs_on_one_do_not() {
    if !redis_is_there() {
        return;
    }
    let publishes = |how: &str, nodes: &str| {
        let round = round(&run(how, nodes, &["signal", "pairs=4"]));
        assert!(round["messages"].as_u64().unwrap() > 0);
        round["broker"]["commands"]["publish"].as_f64()
    };
    assert!(publishes("@cross-node", "3").unwrap() > 0.0);
    assert_eq!(publishes("@same-node", "3"), None);
    let alone = round(&run("@alone", "3", &["signal", "pairs=4"]));
    assert!(alone["broker"].is_null());
    let again = run("", "3", &["presence", "peers=6", "namespace_size=6", "reconnect=true"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("no reconnect"));
    let nobody = run("@cross-node", "1", &["signal"]);
    assert_eq!(nobody.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("give --nodes"));
}

#[test]
fn those_who_waited_are_met_in_the_end_each_request_once() {
    if !redis_is_there() {
        return;
    }
    let round = round(&run("", "3", &["match", "pairs=3", "peers=10", "waits=9", "meet=true"]));
    assert_eq!((&round["met"], &round["failed"]), (&90.into(), &0.into()), "{round}");
    assert!(round["met_seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn who_was_on_a_killed_node_is_gone_for_all_others_and_for_nobody_else() {
    if !redis_is_there() {
        return;
    }
    let round = round(&run(
        "",
        "3",
        &["node-loss", "peers=12", "namespace_size=6", "seconds=5"],
    ));
    assert_eq!(round["failed"], 0, "{round}");
    let latest = round["latency_us"]["max"].as_f64().unwrap();
    assert!((1e6..7e6).contains(&latest), "{round}");
    let alone = run(
        "@alone",
        "1",
        &["node-loss", "peers=12", "namespace_size=6", "seconds=5"],
    );
    assert!(String::from_utf8_lossy(&alone.stderr).contains("give --nodes"));
}

#[test]
fn a_broker_that_is_not_installed_is_named() {
    let server = server();
    let arguments = ["--nodes", "2", "signal", "--target", server.to_str().unwrap()];
    let output = stress().args(arguments).env("PATH", "").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("redis-server") && said.contains("needs it installed"),
        "{said}"
    );
}
