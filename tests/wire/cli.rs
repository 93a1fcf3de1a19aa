//! The command line of the built program: what it prints where, and its exit codes.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Certificate, Server};

struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run_with(env: &[(&str, &str)], arguments: &[&str]) -> Outcome {
    let output = Server::command(env).args(arguments).output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(arguments: &[&str]) -> Outcome {
    run_with(&[], arguments)
}

/// A configuration file, for as long as its folder is held.
fn file(text: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("config.json");
    fs::write(&path, text).unwrap();
    (folder, path.to_str().unwrap().to_owned())
}

#[test]
fn a_good_configuration_is_fine() {
    let (_folder, path) = file(r#"{"port": 0, "max_peers": 5}"#);
    for spelling in [
        &["--check-config", "-config", &path][..],
        &["-check-config", &format!("--config={path}")],
    ] {
        let outcome = run(spelling);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{spelling:?}");
    }
    let (_folder, odd) = file(r#"{"port": 0, "max_pers": 5}"#);
    let outcome = run(&["--check-config", "-config", &odd]);
    assert_eq!(outcome.code, Some(0));
    assert!(
        outcome.stderr.contains("warning") && outcome.stderr.contains("max_pers"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_bad_configuration_ends_with_1_and_every_error_at_once() {
    let bad = json!({
        "port": 70000, "max_peers": 0, "write_timeout": "soon", "broker_type": "pigeon", "tls_cert": "only.pem",
        "shard_count": 3, "compression_enabled": "yes", "host": "not an address"
    });
    let (_folder, path) = file(&bad.to_string());
    for arguments in [
        &["-config", &path][..],
        &["--check-config", "-config", &path],
        &["--print-config", "-config", &path],
    ] {
        let outcome = run(arguments);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        for key in [
            "port",
            "max_peers",
            "write_timeout",
            "broker_type",
            "tls_",
            "shard_count",
            "compression_enabled",
            "host",
        ] {
            assert!(outcome.stderr.contains(key), "{key} is missing in {}", outcome.stderr);
        }
    }
    let (_folder, broken) = file("{\"port\": 1,");
    let no_object = file("[1]");
    for path in ["/does/not/exist.json", &broken, &no_object.1] {
        let outcome = run(&["-config", path]);
        assert_eq!(outcome.code, Some(1), "{path}");
        assert!(outcome.stderr.contains(path), "{}", outcome.stderr);
    }
}

#[test]
fn the_printed_configuration_is_the_effective_one_without_its_secrets() {
    let (_folder, path) =
        file(r#"{"port": 1234, "redis_password": "from the file", "nats_token": "token in the file"}"#);
    let env = [
        ("REDIS_PASSWORD", "from the environment"),
        ("PEER_MAX_PEERS", "77"),
        ("PEER_PORT", "4321"),
    ];
    let outcome = run_with(&env, &["--print-config", "-config", &path, "-p", "5555"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let printed: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&printed["port"], &printed["max_peers"]), (&json!(5555), &json!(77)));
    assert_eq!(
        (&printed["redis_password"], &printed["nats_token"]),
        (&json!("***"), &json!("***"))
    );
    for secret in ["from the", "token in"] {
        assert!(!outcome.stdout.contains(secret) && !outcome.stderr.contains(secret));
    }
    // What is printed can be read again.
    let mut again = printed.clone();
    again.as_object_mut().unwrap().retain(|_, value| value != "***");
    let (_folder, path) = file(&again.to_string());
    assert_eq!(run(&["--check-config", "-config", &path]).code, Some(0));
}

#[test]
fn flags_of_the_matchmaker_web_service_beat_environment_and_file() {
    let (_folder, path) = file(r#"{"app-name": "in-the-file", "bind": "127.0.0.1:1", "lightyear-protocol-id": 1}"#);
    let env = [
        ("PEER_MATCHMAKER_APP_NAME", "in-the-environment"),
        ("NATS_PASS", "a password"),
        ("NATS_INSECURE", "0"),
        ("LIGHTYEAR_PRIVATE_KEY", &*"5c".repeat(32)),
    ];
    let flags = [
        "--print-config",
        "-config",
        &path,
        "-app-name",
        "by-flag",
        "--app-version=2",
        "-lightyear-protocol-id=18446744073709551615",
        "--bind",
        "127.0.0.1:3000",
        "--cors",
        "http://localhost:8000",
        "--fake-ip",
        "81.128.157.100",
    ];
    let outcome = run_with(&env, &flags);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let printed: Value = serde_json::from_str(&outcome.stdout).unwrap();
    for (key, value) in [
        ("matchmaker_app_name", json!("by-flag")),
        ("matchmaker_app_version", json!("2")),
        ("matchmaker_protocol_id", json!(u64::MAX)),
        ("matchmaker_bind", json!("127.0.0.1:3000")),
        ("matchmaker_cors", json!(["http://localhost:8000"])),
        ("matchmaker_fake_ip", json!("81.128.157.100")),
        ("matchmaker_private_key", json!("***")),
        ("matchmaker_nats_password", json!("***")),
        ("matchmaker_nats_insecure", json!(true)),
    ] {
        assert_eq!(printed[key], value, "{key}");
    }
    assert!(!outcome.stdout.contains("5c5c") && !outcome.stderr.contains("5c5c"));
}

#[test]
fn a_faulty_flag_of_the_service_ends_with_1_and_a_private_key_as_flag_with_2() {
    let outcome = run(&["--check-config", "--bind", "3000"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
    assert!(
        outcome.stderr.contains("matchmaker_bind: ") && outcome.stderr.contains("in --bind"),
        "{}",
        outcome.stderr
    );
    for arguments in [
        &["--bind"][..],
        &["--lightyear-private-key=1,2,3"],
        &["-lightyear-private-key", "1,2,3"],
    ] {
        let outcome = run(arguments);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(!outcome.stderr.contains("1,2,3"), "{}", outcome.stderr);
    }
    assert!(
        run(&["--lightyear-private-key=1"])
            .stderr
            .contains("LIGHTYEAR_PRIVATE_KEY_FILE")
    );
}

#[test]
fn help_and_version_are_printed_to_standard_output() {
    for flag in ["-h", "-help", "--help"] {
        let outcome = run(&[flag]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
        assert!(
            outcome.stdout.starts_with("Usage:") && outcome.stdout.contains("-config"),
            "{}",
            outcome.stdout
        );
    }
    for flag in ["-version", "--version"] {
        let outcome = run(&[flag]);
        assert_eq!(outcome.code, Some(0));
        assert!(outcome.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", outcome.stdout);
    }
}

#[test]
fn what_is_not_understood_ends_with_2_and_the_usage() {
    for arguments in [
        &["-verbose"][..],
        &["serve"],
        &["-config"],
        &["-p"],
        &["-p", "none"],
        &["-p", "65536"],
        &["--check-config=yes"],
        &["--check-config", "--print-config"],
        &["healthcheck", "--check-config"],
    ] {
        let outcome = run(arguments);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(outcome.stderr.contains("Usage:"), "{}", outcome.stderr);
    }
}

#[test]
fn the_port_flag_overrides_everything() {
    let free = free_port();
    let (_folder, path) = file(r#"{"host": "127.0.0.1", "port": 1, "metrics_enabled": false}"#);
    let mut child = Server::command(&[("PEER_PORT", "2")])
        .args(["-config", &path, "-p", &free.to_string()])
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(line, format!("listening on 127.0.0.1:{free}\n"));
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_broker_that_cannot_be_used_ends_the_start() {
    let unreachable = format!("127.0.0.1:{}", free_port());
    for (broker, address) in [("redis", "redis_addr"), ("nats", "nats_url")] {
        let failure = Server::try_start(json!({ "broker_type": broker, address: unreachable }), &[]);
        let failure = failure.err().unwrap();
        assert_eq!(failure.status.and_then(|status| status.code()), Some(1), "{failure:?}");
        assert!(failure.stderr.contains("cannot be reached"), "{failure:?}");
    }
    let failure = Server::try_start(json!({}), &[("PEER_BROKER", "nats")]).err().unwrap();
    assert_eq!(failure.status.and_then(|status| status.code()), Some(1), "{failure:?}");
    assert!(failure.stderr.contains("nats_url"), "{failure:?}");
}

#[test]
fn an_address_of_redis_that_is_none_is_a_fault_of_the_settings_and_not_repeated() {
    let env = [
        ("PEER_BROKER", "redis"),
        ("REDIS_ADDR", "redis://user:s3cret@host:6379"),
    ];
    for call in [&["--check-config"][..], &["--print-config"], &[]] {
        let outcome = run_with(&env, call);
        assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
        assert!(
            outcome.stderr.contains("redis_addr: wants host:port"),
            "{}",
            outcome.stderr
        );
        assert!(!outcome.stderr.contains("s3cret"), "{}", outcome.stderr);
    }
    let env = [
        ("PEER_BROKER", "redis"),
        ("REDIS_PASSWORD", "s3cret"),
        ("REDIS_ADDR", "host:6379"),
    ];
    let outcome = run_with(&env, &["--print-config"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains(r#""redis_password": "***""#),
        "{}",
        outcome.stdout
    );
    assert!(!(outcome.stdout + &outcome.stderr).contains("s3cret"));
}

#[test]
fn the_health_check_finds_a_server_that_lives() {
    let server = Server::start(json!({ "loops": 1 }), &[]);
    let port = server.addr().port().to_string();
    let outcome = run_with(&[("PEER_PORT", &port)], &["healthcheck"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let outcome = run(&["healthcheck", "-p", &port]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    drop(server);
    let outcome = run(&["healthcheck", "-p", &port]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains(&port), "{}", outcome.stderr);
}

#[test]
fn the_health_check_speaks_tls_where_the_server_does() {
    let certificate = Certificate::generate();
    let (chain, key) = (certificate.chain(), certificate.key());
    let server = Server::start(json!({ "loops": 1, "tls_cert": chain, "tls_key": key }), &[]);
    let port = server.addr().port().to_string();
    let env = [
        ("PEER_PORT", port.as_str()),
        ("TLS_CERT", chain.to_str().unwrap()),
        ("TLS_KEY", key.to_str().unwrap()),
    ];
    let outcome = run_with(&env, &["healthcheck"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    // A server that speaks something else is not alive.
    assert_eq!(run_with(&env[..1], &["healthcheck"]).code, Some(1));
    drop(server);
    assert_eq!(run_with(&env, &["healthcheck"]).code, Some(1));
}

#[test]
fn a_health_check_of_somebody_who_never_answers_ends() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    assert_eq!(run(&["healthcheck", "-p", &port]).code, Some(1));
}
