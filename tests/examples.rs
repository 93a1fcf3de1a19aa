//! The configurations of docs/examples: each can be started as it stands; and the two systemd units, which say the same.
//!
//! Owns: what has to be put in their place here: the ports, which may be in use on this machine, and the secrets.
//! Never: says what the services do (see the tests of each).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::path::PathBuf;

use peer_server::config::{Config, Flags, Loaded, load};
use peer_server::server::{Server, Service};
use support::http;

/// What docs/matchmaker.md has one set.
const KEY: &str = "606abe6ec91910ea9a6562f66f2b30e44371d62cd19927266b3c60f4b715aba1";

#[test]
fn every_example_is_tested_here() {
    let names: Vec<String> = fs::read_dir(examples())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, ["matchmaker-static.json"]);
}

#[test]
fn the_program_finds_no_fault_with_the_static_matchmaker() {
    let path = examples().join("matchmaker-static.json");
    let arguments = ["--check-config", "-config", path.to_str().unwrap()];
    let folder = tempfile::tempdir().unwrap();
    let run = |env: &[(&str, &str)]| {
        let mut command = support::Server::command(env);
        let output = command.current_dir(&folder).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout) + &text(output.stderr))
    };
    let fine = (Some(0), "the configuration is fine\n".to_owned());
    assert_eq!(run(&[("LIGHTYEAR_PRIVATE_KEY", KEY)]), fine);
    // The file that it names is sought where the program was started.
    let (code, text) = run(&[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("cannot read matchmaker.key"), "{text}");
    fs::write(folder.path().join("matchmaker.key"), KEY).unwrap();
    assert_eq!(run(&[]), fine);
}

#[test]
fn the_static_matchmaker_starts() {
    let Config { matchmaker, .. } = example();
    assert_eq!(matchmaker.bind, Some("127.0.0.1:3000".parse().unwrap()));
    let document = fs::read_to_string(root().join("docs/matchmaker.md")).unwrap();
    for (name, value) in [("game", &matchmaker.app_name), ("version", &matchmaker.app_version)] {
        assert!(
            document.contains(&format!("{name}: '{value}'")),
            "{name} of the snippet"
        );
        assert!(!value.is_empty());
    }
    assert_eq!(matchmaker.servers.len(), 2);
    for server in &matchmaker.servers {
        assert_eq!(
            (&server.game, &server.version),
            (&matchmaker.app_name, &matchmaker.app_version)
        );
    }

    let server = Server::start(&on_free_ports(example()), Service::Peers).unwrap();
    for address in server.addresses() {
        assert_eq!(http(*address, "GET", "/health", &[]).status, 200, "{address}");
    }
    server.stop();
}

#[test]
fn the_unit_of_one_node_of_several_is_the_plain_one_with_another_configuration() {
    let read = |name: &str| fs::read_to_string(root().join("packaging").join(name)).unwrap();
    let (plain, template) = (read("peer-server.service"), read("peer-server@.service"));
    // The head says how to install it.
    let lines = |text: &str| -> Vec<String> {
        let body = text.lines().skip_while(|line| line.starts_with('#'));
        body.map(str::to_owned).collect()
    };
    let expected: Vec<String> = lines(&plain)
        .iter()
        .map(|line| match line.as_str() {
            "Description=Peer server: WebSocket signalling and matchmaking" => {
                "Description=Peer server node %i: WebSocket signalling and matchmaking".to_owned()
            }
            line => line.replace("/etc/peer-server/config.json", "/etc/peer-server/%i.json"),
        })
        .collect();
    assert_eq!(lines(&template), expected);
    assert_ne!(lines(&template), lines(&plain));
}

fn example() -> Config {
    let path = examples().join("matchmaker-static.json");
    let env = |name: &str| (name == "LIGHTYEAR_PRIVATE_KEY").then(|| KEY.to_owned());
    let Loaded { config, warnings } = load(Some(&path), &env, &Flags::default()).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    config
}

fn on_free_ports(mut config: Config) -> Config {
    config.port = 0;
    config.metrics_port = 0;
    config.pin_cores = false;
    if let Some(bind) = &mut config.matchmaker.bind {
        bind.set_port(0);
    }
    config
}

fn examples() -> PathBuf {
    root().join("docs/examples")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
