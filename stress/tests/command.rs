//! The program as a user calls it: against the floor, against a server, and against one that loses something.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const SHORT: &[&str] = &["pairs=4", "warm_up=0.05", "seconds=0.2"];

fn stress(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_peer-stress"))
        .args(args)
        .args(["--json", "--server-cores", "0", "--generator-cores", "0"])
        .output()
        .unwrap()
}

/// Built beside the program that is tested, by the same `cargo test --workspace`.
fn server() -> PathBuf {
    let server = Path::new(env!("CARGO_BIN_EXE_peer-stress")).with_file_name("peer-server");
    assert!(
        server.is_file(),
        "build the workspace first: {} is missing",
        server.display()
    );
    server
}

fn rounds(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let targets: Value = serde_json::from_slice(&output.stdout).unwrap();
    targets
        .as_array()
        .unwrap()
        .iter()
        .map(|rounds| rounds[0].clone())
        .collect()
}

fn run(target: &str, settings: &[&str]) -> Output {
    stress(&[&["run", "signal"], SHORT, settings, &["--target", target]].concat())
}

#[test]
fn a_comparison_measures_the_floor_and_a_server_with_the_same_workload() {
    let server = server();
    let server = format!("server={}", server.display());
    let sets: Vec<&str> = SHORT.iter().flat_map(|setting| ["--set", setting]).collect();
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("rounds.csv");
    let command = [
        "compare",
        "floor",
        &server,
        "--workload",
        "signal",
        "--csv",
        csv.to_str().unwrap(),
    ];
    let output = stress(&[&command, &sets[..]].concat());
    let rounds = rounds(&output);
    let kept = std::fs::read_to_string(csv).unwrap();
    let lines: Vec<&str> = kept.lines().collect();
    assert!(lines[0].starts_with("target,round,\"messages/s\","), "{kept}");
    assert!(
        lines[1].starts_with("floor,1,") && lines[2].starts_with("server,1,"),
        "{kept}"
    );
    assert_eq!(
        (&rounds[0]["target"], &rounds[1]["target"]),
        (&"floor".into(), &"server".into())
    );
    for round in rounds {
        assert!(round["messages"].as_u64().unwrap() > 0, "{round}");
        assert!(round["cpu_ns"].as_f64().unwrap() > 0.0, "{round}");
        assert_eq!(round["failed"], 0);
    }
}

#[test]
fn every_way_to_speak_arrives_whole() {
    let server = server();
    let ways: &[&[&str]] = &[
        &["window=64", "size=4000"],
        &["tls=true", "window=4"],
        &["compression=true", "size=4000"],
        &["tls=true", "compression=true", "size=2000", "window=3"],
        &["rate=2000"],
    ];
    for way in ways {
        let output = run(server.to_str().unwrap(), way);
        assert!(rounds(&output)[0]["messages"].as_u64().unwrap() > 0, "{way:?}");
    }
}

#[test]
fn broadcasts_reach_every_member_of_the_floor_and_of_a_server() {
    let server = server();
    for target in ["floor", server.to_str().unwrap()] {
        let args = [
            &["run", "broadcast"],
            &SHORT[1..],
            &["peers=30", "namespace_size=10", "window=3", "--target", target],
        ];
        let round = &rounds(&stress(&args.concat()))[0];
        assert!(round["messages"].as_u64().unwrap() > 0, "{round}");
        assert_eq!(round["connections"], 30);
    }
}

#[test]
fn idle_peers_say_what_a_connection_costs() {
    let server = server();
    let args = [
        &["run", "idle"],
        &SHORT[1..],
        &["peers=100", "namespace_size=1", "--target", server.to_str().unwrap()],
    ];
    let round = &rounds(&stress(&args.concat()))[0];
    assert_eq!(round["connections"], 100);
    assert!(round["connect_cpu_us"].as_f64().unwrap() > 0.0, "{round}");
}

#[test]
fn a_card_says_what_a_host_can_carry_and_the_server_takes_its_settings() {
    let server = server();
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("card");
    let target = server.to_str().unwrap();
    let output = stress(&[
        "card",
        "--quick",
        "--target",
        target,
        "--output",
        into.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let card: Value = serde_json::from_slice(&output.stdout).unwrap();
    let written = |name: &str| std::fs::read_to_string(into.join(name)).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written("card.json")).unwrap(), card);
    for figure in [
        "/about/date",
        "/about/server",
        "/machine/cpu",
        "/machine/kernel",
        "/memory/kernel_source",
        "/limits/0/of",
        "/limits/0/figure",
        "/signals/0/limit",
    ] {
        assert!(
            card.pointer(figure)
                .unwrap()
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{figure}"
        );
    }
    for figure in [
        "/machine/cores",
        "/machine/memory",
        "/memory/peers_per_gib",
        "/signals/0/per_second/median",
        "/signals/0/per_second_per_core/median",
        "/connect/per_second/median",
        "/connect/cpu_us/max",
        "/limits/0/peers",
        "/prediction/peers",
        "/prediction/rate",
        "/prediction/rows/0/predicted",
        "/prediction/rows/0/measured",
    ] {
        assert!(
            card.pointer(figure)
                .unwrap()
                .as_f64()
                .is_some_and(|figure| figure > 0.0),
            "{figure}"
        );
    }
    for share in [0.5, 0.8] {
        let load = card["latency"]
            .as_array()
            .unwrap()
            .iter()
            .find(|load| load["share"] == share)
            .unwrap();
        for percentile in ["p50", "p99", "p999"] {
            assert!(load[percentile]["median"].as_f64().unwrap() > 0.0, "{load}");
        }
    }
    for row in card["prediction"]["rows"].as_array().unwrap() {
        let off = row["difference_percent"]
            .as_f64()
            .is_none_or(|percent| percent.abs() > 10.0);
        assert_eq!(row["within"], !off, "{row}");
    }
    assert_eq!(
        (&card["config"]["accepted"], &card["config"]["warnings"]),
        (&true.into(), &Value::Array(Vec::new()))
    );
    let config = into.join("config.json");
    let check = Command::new(&server)
        .arg("-config")
        .arg(&config)
        .arg("--check-config")
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    for plot in ["latency", "throughput", "memory"] {
        let svg = written(&format!("{plot}.svg"));
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{plot}");
        let csv = written(&format!("{plot}.csv"));
        let columns = csv.lines().next().unwrap().split(',').count();
        assert!(
            csv.lines().count() >= 3 && csv.lines().all(|line| line.split(',').count() == columns),
            "{csv}"
        );
    }
}

#[test]
fn peers_are_placed_on_loops_on_request() {
    let server = server();
    for placement in ["placement=same-loop", "placement=cross-loop"] {
        let args = [
            &["run", "signal"],
            SHORT,
            &[placement, "--target", server.to_str().unwrap(), "--loops", "2"],
        ];
        assert!(rounds(&stress(&args.concat()))[0]["messages"].as_u64().unwrap() > 0);
    }
}

#[test]
fn a_storm_of_connections_is_counted_when_each_has_joined() {
    let server = server();
    let ways: &[&[&str]] = &[
        &["window=8"],
        &["rate=500"],
        &["tls=true", "compression=true", "window=4"],
    ];
    for (target, ways) in [("floor", &ways[..2]), (server.to_str().unwrap(), ways)] {
        for way in ways {
            let args = [
                &["run", "connect"],
                &SHORT[1..],
                &["peers=20", "namespace_size=1", "--target", target],
                way,
            ];
            let round = &rounds(&stress(&args.concat()))[0];
            assert!(round["messages"].as_u64().unwrap() > 0, "{way:?}: {round}");
            assert_eq!(
                (&round["refused"], &round["connections"]),
                (&0.into(), &20.into()),
                "{way:?}"
            );
        }
    }
}

#[test]
fn connections_that_a_full_server_turns_away_are_refused_and_not_lost() {
    let server = server();
    let args = [
        &["run", "connect"],
        &SHORT[1..],
        &[
            "peers=20",
            "namespace_size=1",
            "window=4",
            "--target",
            server.to_str().unwrap(),
        ],
        &["--server-set", "max_peers=20"],
    ];
    let round = &rounds(&stress(&args.concat()))[0];
    assert!(round["refused"].as_u64().unwrap() > 0, "{round}");
}

#[test]
fn all_members_are_told_of_those_who_come_and_go() {
    let server = server();
    let ways: &[&[&str]] = &[
        &["peers=60", "namespace_size=20", "window=3"],
        &["peers=60", "namespace_size=60", "rate=200"],
        &["peers=20", "namespace_size=10", "reconnect=true"],
        &["namespace_size=20", "tls=true", "compression=true"],
        &["peers=30", "namespace_size=30", "window=3", "--loops", "2"],
        &["peers=6", "namespace_size=2", "window=3"],
    ];
    for way in ways {
        let args = [
            &["run", "presence"],
            &SHORT[1..],
            way,
            &["--target", server.to_str().unwrap()],
        ];
        let round = &rounds(&stress(&args.concat()))[0];
        assert!(round["messages"].as_u64().unwrap() > 0, "{way:?}: {round}");
    }
}

#[test]
fn what_slow_readers_miss_is_refused_or_they_are_cut_off() {
    let server = server();
    // And whether any message is refused, and any connection closed. What is compressed does not fill a buffer so soon.
    let ways: &[(&[&str], bool, bool)] = &[
        (&["seconds=1", "stall=0.3"], true, false),
        (&["seconds=1", "stall=0.3", "tls=true", "rate=500"], true, false),
        (
            &["seconds=0.5", "stall=0.1", "compression=true", "size=500"],
            false,
            false,
        ),
        // Longer than a server with this setting waits for a byte to be taken.
        (
            &["seconds=2", "stall=2", "--server-set", "write_timeout=500ms"],
            true,
            true,
        ),
        (&["seconds=0.2", "stall=0"], false, false),
    ];
    for (way, refuses, closes) in ways {
        let args = [
            &["run", "slow-readers"],
            SHORT,
            &["peers=3", "size=8000", "--target", server.to_str().unwrap()],
            way,
        ];
        let round = &rounds(&stress(&args.concat()))[0];
        assert!(round["messages"].as_u64().unwrap() > 0, "{way:?}: {round}");
        let (refused, closed) = (round["refused"].as_u64().unwrap(), round["closed"].as_u64().unwrap());
        assert_eq!((refused > 0, closed > 0), (*refuses, *closes), "{way:?}: {round}");
    }
}

#[test]
fn what_the_floor_cannot_answer_is_a_plain_error() {
    let output = stress(&["run", "presence", "--target", "floor"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("needs a server"));
}

#[test]
fn what_only_a_server_can_answer_is_proven_in_every_way_to_speak() {
    let server = server();
    let scenarios: &[&[&str]] = &[
        &["ping", "peers=10", "window=2"],
        &["match", "namespace_size=4", "peers=20"],
        &["rooms", "namespace_size=5", "peers=20"],
        &["mixed", "namespace_size=10", "peers=20"],
    ];
    let ways: &[&[&str]] = &[&["rate=0"], &["rate=500"], &["tls=true", "compression=true"]];
    for scenario in scenarios {
        for way in ways {
            let target = ["--target", server.to_str().unwrap(), "--loops", "2"];
            let round = &rounds(&stress(&[&["run"], *scenario, SHORT, way, &target].concat()))[0];
            assert_eq!(round["failed"], 0);
            // At a rate, a machine that is busy elsewhere may not have come to the first in this time.
            let arrived = round["latency_us"]["max"].as_f64().unwrap() > 0.0;
            assert!(arrived || way == &["rate=500"], "{scenario:?} {way:?}: {round}");
        }
        let output = stress(&[&["run", scenario[0]], SHORT, &["--target", "floor"]].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("needs a server"));
    }
}

#[test]
fn every_seeker_is_given_a_server_and_a_token_of_its_own() {
    let server = server();
    let ways: &[&[&str]] = &[&["window=8"], &["rate=300"], &["tls=true", "window=4"]];
    for way in ways {
        let target = ["--target", server.to_str().unwrap(), "--loops", "2", "--workers", "2"];
        let round = &rounds(&stress(&[&["run", "seek"], &SHORT[1..], way, &target].concat()))[0];
        assert!(round["messages"].as_u64().unwrap() > 0, "{way:?}: {round}");
        assert!(round["latency_us"]["p50"].as_f64().unwrap() > 0.0, "{way:?}: {round}");
    }
    let output = stress(&["run", "seek", "--target", "floor"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn signals_go_on_among_seekers_who_wait_for_a_provider_that_never_answers() {
    let server = server();
    let target = ["--target", server.to_str().unwrap(), "--loops", "2", "--workers", "2"];
    let args = [&["run", "signal"], SHORT, &["seekers_waiting=200"], &target];
    let round = &rounds(&stress(&args.concat()))[0];
    assert!(round["messages"].as_u64().unwrap() > 0, "{round}");
    assert_eq!(round["connections"], 208);
}

#[test]
fn seekers_who_are_not_let_wait_fail_the_run() {
    let server = server();
    let args = [
        &["run", "signal"],
        SHORT,
        &["seekers_waiting=20", "--target", server.to_str().unwrap()],
        &["--server-set", "matchmaker_waiting_max=10"],
    ];
    let output = stress(&args.concat());
    assert_ne!(output.status.code(), Some(0));
}

#[test]
fn what_is_lost_fails_the_run() {
    for window in ["window=1", "window=8"] {
        let output = run("floor-that-loses-every:50", &[window]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("FAIL"));
    }
}

#[test]
fn a_server_that_is_not_there_is_a_plain_error() {
    let output = run("127.0.0.1:1", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no server at 127.0.0.1:1"));
}
