//! The settings as a whole: sources over each other, faults together, and the documents that repeat the defaults.
#![allow(clippy::unwrap_used)]

mod game_servers;
mod secrets;

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::json;

use super::keys::KEYS;
use super::*;

const CONFIG_JSON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config.json");
const SETTINGS_MD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn load_with(file: Option<&str>, env: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let files = Files::new();
    let path = file.map(|text| files.write("config.json", text));
    let env: HashMap<&str, &str> = env.iter().copied().collect();
    load(
        path.as_deref(),
        &|name| env.get(name).map(|text| (*text).to_owned()),
        &Flags::default(),
    )
}

fn loaded(file: &str, env: &[(&str, &str)]) -> Config {
    let mut loaded = load_with(Some(file), env).unwrap();
    // Files that set everything set up more than one broker.
    loaded
        .warnings
        .retain(|warning| !warning.contains("has no effect while"));
    assert_eq!(loaded.warnings, Vec::<String>::new(), "{file}");
    loaded.config
}

fn one_error(file: &str, env: &[(&str, &str)]) -> String {
    let errors = load_with(Some(file), env).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.into_iter().next().unwrap()
}

fn one_warning(file: &str, env: &[(&str, &str)]) -> String {
    let warnings = load_with(Some(file), env).unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    warnings.into_iter().next().unwrap()
}

/// A private key, as the environment or a file of its own holds it.
const KEY: &str = "5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c";

/// A value for every key that differs from its default and passes every check.
fn other_values(files: &Files) -> Map<String, Value> {
    let secret = files.write("secret", "from a file\n");
    let long_secret = files.write("long_secret", "from-a-file-of-its-own\n");
    let private_key = files.write("key", format!("{KEY}\n"));
    let mut values = Map::new();
    for key in KEYS {
        let default = (key.setting)(&mut Config::default()).to_json();
        let value = match (key.name, default) {
            ("host", _) => json!("127.0.0.1,::1"),
            ("port", _) => json!(1234),
            ("shard_count", _) => json!(128),
            ("ping_interval", _) => json!("1500ms"),
            ("allowed_origins", _) => json!(["https://a.example", "null"]),
            ("trusted_proxies", _) => json!(["10.0.0.0/8", "fd00::1/128"]),
            ("turn_ttl", _) => json!("90s"),
            ("ice_servers", _) => json!(["stun:a.example", "turns:b.example:443?transport=tcp"]),
            ("log_level", _) => json!("warn,peer_server=trace"),
            ("log_format", _) => json!("json"),
            ("descriptor_tables", _) => json!("per_loop"),
            ("broker_type", _) => json!("local"),
            ("extra_ports", _) => json!([8070, 3478]),
            ("public_ipv4", _) => json!("203.0.113.1"),
            ("public_ipv6", _) => json!("2001:db8::1"),
            ("share_local", _) => json!("never"),
            ("matchmaker_bind", _) => json!("127.0.0.1:3000"),
            ("matchmaker_provider", _) => json!("edgegap"),
            ("matchmaker_app_name" | "matchmaker_app_version", _) => json!("some-Name_1"),
            ("matchmaker_cors", _) => json!(["http://localhost:8000"]),
            ("matchmaker_fake_ip", _) => json!("81.128.157.100"),
            ("matchmaker_token_layout", _) => json!("netcode"),
            ("matchmaker_token_expire", _) => json!("20s"),
            ("matchmaker_deadline" | "matchmaker_token_timeout", _) => json!("30s"),
            ("game_servers", _) => json!([{
                "id": "a", "public": "203.0.113.1:7", "game": "g", "version": "1", "capacity": 2, "private_key_file": private_key,
            }]),
            ("edgegap_url", _) => json!("http://127.0.0.1:8080"),
            ("edgegap_mode", _) => json!("deployment"),
            ("edgegap_cert_digest", _) => json!("ab".repeat(32)),
            ("edgegap_workers", _) => json!(1),
            ("edgegap_api_key", _) => json!("token of some length"),
            ("edgegap_api_key_file", _) => json!(""),
            ("matchmaker_nats_host", _) => json!("nats.example.org:4222"),
            // Of a secret and its file only one may be given; each way is used by some key.
            ("redis_password" | "nats_token" | "turn_secret", _) => json!(""),
            ("redis_password_file" | "nats_token_file" | "turn_secret_file", _) => json!(secret),
            ("matchmaker_ticket_secret" | "matchmaker_report_secret" | "matchmaker_private_key", _) => json!(""),
            ("matchmaker_ticket_secret_file" | "matchmaker_report_secret_file", _) => json!(long_secret),
            ("matchmaker_private_key_file", _) => json!(private_key),
            ("nats_password_file" | "matchmaker_nats_password_file", _) => json!(""),
            (_, Value::Bool(switch)) => json!(!switch),
            (_, Value::Number(number)) => json!(number.as_i64().unwrap() + 1),
            (name, Value::String(text)) if text.ends_with('s') && name.contains('_') => json!("77777us"),
            (name, _) => json!(format!("some {name}")),
        };
        values.insert(key.name.to_owned(), value);
    }
    values["pong_wait"] = json!("90s");
    values
}

#[test]
fn the_file_of_defaults_holds_the_defaults() {
    let text = std::fs::read_to_string(CONFIG_JSON).unwrap();
    let in_order = serde_json::to_string_pretty(&Config::default().to_json()).unwrap();
    assert_eq!(text.trim_end(), in_order, "config.json differs from the defaults");
    let loaded = load(Some(Path::new(CONFIG_JSON)), &|_| None, &Flags::default()).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn without_any_source_the_defaults_hold() {
    let loaded = load(None, &|_| None, &Flags::default()).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn every_key_makes_the_round_trip_through_a_file() {
    let files = Files::new();
    let values = other_values(&files);
    let config = loaded(&Value::Object(values.clone()).to_string(), &[]);
    assert_eq!(config.to_json(), Value::Object(values));
    assert_eq!(config.redis_password, "from a file");
    assert_eq!(loaded(&config.to_json().to_string(), &[]), config);
    let (default, json) = (Config::default().to_json(), config.to_json());
    for key in KEYS {
        let changeable = !matches!(
            key.name,
            "broker_type"
                | "redis_password"
                | "nats_token"
                | "turn_secret"
                | "nats_password_file"
                | "matchmaker_ticket_secret"
                | "matchmaker_report_secret"
                | "matchmaker_private_key"
                | "edgegap_api_key_file"
                | "matchmaker_nats_password_file"
        );
        assert_eq!(default[key.name] != json[key.name], changeable, "{}", key.name);
    }
}

#[test]
fn every_key_is_read_from_the_environment_by_each_of_its_names() {
    let files = Files::new();
    let values = other_values(&files);
    // What others of the service's settings need.
    let mut needed = Map::new();
    for name in [
        "app_name",
        "app_version",
        "private_key_file",
        "nats_host",
        "nats_user",
        "nats_password",
        "state_file",
    ] {
        let name = format!("matchmaker_{name}");
        needed.insert(name.clone(), values[&name].clone());
    }
    needed.insert("edgegap_api_key".to_owned(), values["edgegap_api_key"].clone());
    let needed = Value::Object(needed).to_string();
    for key in KEYS.iter().filter(|key| !matches!(key.name, "tls_cert" | "tls_key")) {
        let file = key.name.starts_with("matchmaker_").then_some(&*needed);
        let text = match &values[key.name] {
            Value::Array(_) if key.name == "game_servers" => values[key.name].to_string(),
            Value::Array(entries) => entries
                .iter()
                .map(|entry| entry.as_str().map_or_else(|| entry.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(", "),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        for name in key.variables() {
            let config = load_with(file, &[(&name, &text)]).unwrap().config;
            assert_eq!(config.to_json()[key.name], values[key.name], "{name}");
        }
    }
    let tls = load_with(
        None,
        &[("TLS_CERT", "c"), ("PEER_TLS_CERT", "x"), ("PEER_TLS_KEY", "k")],
    )
    .unwrap()
    .config;
    assert_eq!((tls.tls_cert, tls.tls_key), (Some("c".into()), Some("k".into())));
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let files = Files::new();
    let path = files.write("c.json", r#"{"port":1,"max_peers":2}"#);
    let env = |name: &str| (name == "PEER_PORT").then(|| "3".to_owned());
    let with_flag = load(
        Some(&path),
        &env,
        &Flags {
            port: Some(4),
            ..Flags::default()
        },
    )
    .unwrap()
    .config;
    assert_eq!((with_flag.port, with_flag.max_peers, with_flag.shard_count), (4, 2, 64));
    assert_eq!(load(Some(&path), &env, &Flags::default()).unwrap().config.port, 3);
    assert_eq!(load(Some(&path), &|_| None, &Flags::default()).unwrap().config.port, 1);
}

#[test]
fn a_name_of_its_own_beats_the_general_one_and_empty_counts_as_unset() {
    let env = [("PEER_SEND_BUFFER", "5"), ("PEER_SEND_BUFFER_SIZE", "6")];
    assert_eq!(loaded("{}", &env).send_buffer_size, 5);
    let env = [
        ("PEER_SEND_BUFFER", ""),
        ("PEER_SEND_BUFFER_SIZE", "6"),
        ("PEER_HOST", ""),
    ];
    assert_eq!(loaded("{}", &env).send_buffer_size, 6);
}

#[test]
fn all_faults_are_told_at_once_each_with_its_key() {
    let file = r#"{"port":70000,"max_peers":"many","ping_interval":"soon","shard_count":63,"tls_cert":"c",
                   "broker_type":"kafka","allowed_origins":["*"],"trusted_proxies":"10.0.0.0/8","pin_cores":1,
                   "pong_wait":0,"nats_token_file":"/nonexistent/token","log_format":"xml","redis_db":-1,
                   "ice_servers":["stun:a","stun:b?transport=udp"],"turn_secret_file":"/nonexistent","turn_ttl":0}"#;
    let errors = load_with(Some(file), &[("PEER_HOST", "example.org")]).unwrap_err();
    for key in [
        "port",
        "max_peers",
        "ping_interval",
        "shard_count",
        "tls_key",
        "broker_type",
        "allowed_origins",
        "trusted_proxies",
        "pin_cores",
        "pong_wait",
        "nats_token_file",
        "log_format",
        "redis_db",
        "ice_servers",
        "turn_secret_file",
        "turn_ttl",
        "host",
    ] {
        let naming: Vec<_> = errors
            .iter()
            .filter(|error| error.starts_with(&format!("{key}: ")))
            .collect();
        assert_eq!(naming.len(), 1, "{key}: {errors:?}");
    }
    assert_eq!(errors.len(), 17, "{errors:?}");
}

#[test]
fn a_value_out_of_range_is_told_with_the_range() {
    assert_eq!(
        one_error(r#"{"port":70000}"#, &[]),
        "port: 70000 is out of range (0 to 65535)"
    );
    assert_eq!(
        one_error("{}", &[("PEER_PORT", "-1")]),
        "port: -1 is out of range (0 to 65535), in PEER_PORT"
    );
    assert_eq!(
        one_error(r#"{"read_timeout":-5}"#, &[]),
        "read_timeout: -5 is out of range (more than 0)"
    );
    assert_eq!(
        one_error(r#"{"shard_count":63}"#, &[]),
        "shard_count: 63 is out of range (a power of two, 1 to 1073741824)"
    );
    for zero in ["write_timeout", "read_timeout", "ping_interval", "pong_wait"] {
        for value in [
            "0",
            "\"0\"",
            "0.9",
            "\"-1s\"",
            "\"3000000h\"",
            "1e300",
            "true",
            "[]",
            "\"\"",
            "\"1\"",
        ] {
            assert!(one_error(&format!("{{\"{zero}\":{value}}}"), &[]).starts_with(zero));
        }
    }
    assert!(loaded(r#"{"drain_timeout":0}"#, &[]).drain_timeout.is_zero());
}

#[test]
fn what_is_no_number_in_the_environment_is_ignored_with_a_warning() {
    let env = [
        ("PEER_MAX_PEERS", "many"),
        ("PEER_COMPRESSION", "yes"),
        ("PEER_PONG_WAIT", "5.5"),
    ];
    let Loaded { config, warnings } = load_with(Some(r#"{"max_peers":7}"#), &env).unwrap();
    assert_eq!(
        config,
        Config {
            max_peers: 7,
            ..Config::default()
        }
    );
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings.contains(&"max_peers: \"many\" is not a whole number; PEER_MAX_PEERS is ignored".to_owned()));
}

#[test]
fn compression_can_be_switched_off_by_the_environment() {
    for (text, on) in [("true", true), ("1", true), ("false", false), ("0", false)] {
        let file = format!("{{\"compression_enabled\":{}}}", !on);
        assert_eq!(
            loaded(&file, &[("PEER_COMPRESSION", text)]).compression_enabled,
            on,
            "{text}"
        );
    }
}

#[test]
fn null_keeps_the_default_and_the_last_duplicate_wins() {
    let config = loaded(r#"{"port":1,"host":null,"port":2,"max_peers":5,"max_peers":null}"#, &[]);
    assert_eq!(
        config,
        Config {
            port: 2,
            ..Config::default()
        }
    );
    assert!(one_error(r#"{"pin_cores":true,"pin_cores":2}"#, &[]).starts_with("pin_cores: must be"));
}

#[test]
fn an_unknown_key_is_told_with_the_nearest_known_name() {
    for (unknown, known) in [
        ("prot", "port"),
        ("Port", "port"),
        ("maxPeers", "max_peers"),
        ("tls_certt", "tls_cert"),
    ] {
        let warning = one_warning(&format!("{{\"{unknown}\":1}}"), &[]);
        assert_eq!(
            warning,
            format!("{unknown}: unknown key, ignored; did you mean {known}?")
        );
    }
    for unknown in ["_comment", "", "zzz"] {
        assert_eq!(
            one_warning(&format!("{{\"{unknown}\":null}}"), &[]),
            format!("{unknown}: unknown key, ignored")
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_beside_the_others() {
    let missing = Path::new("/nonexistent/config.json");
    let env = |name: &str| (name == "PEER_PORT").then(|| "70000".to_owned());
    let errors = load(Some(missing), &env, &Flags::default()).unwrap_err();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(
        errors[0].starts_with("/nonexistent/config.json: cannot be read"),
        "{errors:?}"
    );
    for bad in ["", "[]", "null", "{\"port\":1", "{} {}", "{port:1}", "\u{feff}{}"] {
        assert!(load_with(Some(bad), &[]).is_err(), "{bad:?}");
    }
    assert!(load(Some(Path::new("/")), &|_| None, &Flags::default()).is_err());
    assert!(load(Some(Path::new("/dev/zero")), &|_| None, &Flags::default()).is_err());
    assert!(
        load(
            Some(&Files::new().write("c", b"{\"host\":\"\xff\"}")),
            &|_| None,
            &Flags::default()
        )
        .is_err()
    );
}

#[test]
fn a_certificate_and_its_key_need_each_other() {
    assert!(one_error(r#"{"tls_cert":"c"}"#, &[]).starts_with("tls_key: "));
    assert!(one_error("{}", &[("TLS_KEY", "k")]).starts_with("tls_cert: "));
    assert_eq!(
        loaded(r#"{"tls_cert":"c"}"#, &[("TLS_KEY", "k")]).tls_key,
        Some("k".into())
    );
    assert_eq!(loaded(r#"{"tls_cert":"","tls_key":""}"#, &[]), Config::default());
}

#[test]
fn a_broker_that_is_asked_for_is_never_replaced_by_none() {
    assert!(one_error("{}", &[("PEER_BROKER", "nats")]).starts_with("nats_url: missing"));
    assert_eq!(
        loaded(r#"{"broker_type":"nats"}"#, &[("PEER_BROKER", "local")]),
        Config::default()
    );
    let nats = loaded("{}", &[("PEER_BROKER", "nats"), ("PEER_NATS_URL", "nats://a")]);
    assert_eq!(nats.broker_type, BrokerType::Nats);
    assert_eq!(loaded("{}", &[("PEER_BROKER", "redis")]).broker_type, BrokerType::Redis);
    for name in ["kafka", "Local", " local"] {
        assert!(one_error("{}", &[("PEER_BROKER", name)]).starts_with("broker_type: "));
    }
    assert!(one_error(r#"{"broker_type":""}"#, &[]).starts_with("broker_type: "));
}

#[test]
fn settings_of_a_broker_that_is_not_in_use_are_warned_of() {
    let idle = |file: &str| one_warning(file, &[]);
    assert_eq!(
        idle(r#"{"redis_addr":"redis:6379","redis_tls":true}"#),
        "redis_addr: has no effect while broker_type is local and not redis"
    );
    let on_redis = r#"{"broker_type":"redis","redis_addr":"redis:6379","nats_user":"u"}"#;
    assert_eq!(
        idle(on_redis),
        "nats_user: has no effect while broker_type is redis and not nats"
    );
    for key in ["cluster_state", "ready_requires_broker"] {
        let value = key == "ready_requires_broker";
        let warning = idle(&format!(r#"{{"{key}":{value}}}"#));
        assert_eq!(warning, format!("{key}: has no effect while broker_type is local"));
    }
    let plain = r#"{"broker_type":"redis","redis_ca":"ca.pem"}"#;
    assert_eq!(idle(plain), "redis_ca: has no effect without redis_tls");
    let warned = load_with(
        Some(r#"{"broker_type":"redis","redis_addr":"redis:1","cluster_state":false}"#),
        &[],
    );
    assert_eq!(warned.unwrap().warnings, Vec::<String>::new());
}

#[test]
fn the_metrics_port_may_equal_the_port() {
    assert_eq!(loaded("{}", &[("PEER_PORT", "9090")]).port, 9090);
}

#[test]
fn the_presence_window_is_at_most_a_tenth_of_a_second() {
    let window = |value: &str| loaded("{}", &[("PEER_PRESENCE_WINDOW", value)]).presence_window;
    assert_eq!(window("0"), Duration::ZERO);
    assert_eq!(window("100ms"), Duration::from_millis(100));
    assert_eq!(
        one_error(r#"{"presence_window":"101ms"}"#, &[]),
        "presence_window: 101ms is out of range (0 to 100ms)"
    );
    assert!(one_error(r#"{"presence_window":"-1ms"}"#, &[]).starts_with("presence_window: "));
}

#[test]
fn ice_servers_are_urls_or_our_own_port() {
    let servers = |value: &str| loaded(&format!("{{\"ice_servers\":{value}}}"), &[]).ice_servers;
    assert_eq!(servers("\"auto\""), [IceServer::Auto]);
    let both = [IceServer::Stun("stun:a.example".to_owned()), IceServer::Auto];
    assert_eq!(servers(r#"["stun:A.example", "auto", "stun:a.example"]"#), both);
    let config = loaded("{}", &[("PEER_ICE_SERVERS", "stun:a.example, auto")]);
    assert_eq!(config.ice_servers, both);
    assert_eq!(config.to_json()["ice_servers"], json!(["stun:a.example", "auto"]));
    for (value, why) in [
        ("\"stun:a.example\"", "must be a list of strings, not a string"),
        ("[\"example.org\"]", "begins with stun:"),
        ("[[]]", "must be a string, not a list"),
    ] {
        let error = one_error(&format!("{{\"ice_servers\":{value}}}"), &[]);
        assert!(error.starts_with("ice_servers: ") && error.contains(why), "{error}");
    }
}

#[test]
fn our_own_port_without_anybody_there_is_told() {
    for switch in ["udp_enabled", "stun_enabled"] {
        let file = json!({ "ice_servers": "auto", switch: false }).to_string();
        assert!(one_warning(&file, &[]).starts_with("ice_servers: auto is left out"));
        loaded(
            &json!({ "ice_servers": ["stun:a.example"], switch: false }).to_string(),
            &[],
        );
    }
}

#[test]
fn a_turn_server_without_a_secret_is_told() {
    let file = r#"{"ice_servers":["turn:a.example"]}"#;
    assert!(one_warning(file, &[]).starts_with("turn_secret: missing"));
    assert_eq!(loaded(file, &[("PEER_TURN_SECRET", "x")]).turn_secret, "x");
}

#[test]
fn a_turn_credential_lasts_a_second_to_a_year() {
    let ttl = |value: &str| loaded("{}", &[("PEER_TURN_TTL", value)]).turn_ttl;
    assert_eq!((ttl("1s"), ttl("8760h")), (TURN_TTL_MIN, TURN_TTL_MAX));
    for value in ["999ms", "8761h", "-1s"] {
        let error = one_error("{}", &[("PEER_TURN_TTL", value)]);
        assert!(error.contains("is out of range (1s to 31536000s)"), "{error}");
    }
}

#[test]
fn a_burst_of_nothing_needs_an_unlimited_rate() {
    let config = loaded(r#"{"rate_limit_per_sec":-1,"rate_limit_burst":0}"#, &[]);
    assert_eq!((config.rate_limit_per_sec, config.rate_limit_burst), (0, 0));
    assert!(one_error(r#"{"rate_limit_burst":-3}"#, &[]).starts_with("rate_limit_burst: "));
    assert_eq!(loaded(r#"{"send_buffer_size":-1}"#, &[]).send_buffer_size, 32);
}

#[test]
fn odd_but_possible_settings_are_told() {
    assert!(one_warning(r#"{"pong_wait":"30s"}"#, &[]).starts_with("pong_wait: "));
    assert!(one_warning(r#"{"log_level":"verbose"}"#, &[]).starts_with("log_level: "));
    for good in [
        "INFO",
        "off",
        "3",
        "peer_server=debug",
        "warn,peer_server::event_loop=trace",
    ] {
        assert_eq!(loaded(&json!({ "log_level": good }).to_string(), &[]).log_level, good);
    }
    for bad in ["", " ", "a=b=c", "info,peer_server=loud"] {
        assert!(
            one_error(&json!({ "log_level": bad }).to_string(), &[]).starts_with("log_level: "),
            "{bad:?}"
        );
    }
}

/// Rows look like: `key` | type | default | variables | range | meaning.
#[test]
fn the_page_of_settings_names_every_key_with_its_default_and_range() {
    let page = std::fs::read_to_string(SETTINGS_MD).unwrap();
    let mut rows = Vec::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "{line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{line}");
        rows.push(cells);
    }
    let documented: Vec<String> = rows.iter().map(|cells| cells[0].replace('`', "")).collect();
    assert_eq!(
        documented,
        KEYS.iter().map(|key| key.name.to_owned()).collect::<Vec<_>>()
    );
    for (key, cells) in KEYS.iter().zip(rows) {
        let mut config = Config::default();
        let setting = (key.setting)(&mut config);
        let default = match setting.to_json() {
            Value::String(text) if text.is_empty() => "empty".to_owned(),
            Value::Array(entries) if entries.is_empty() => "empty".to_owned(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        assert_eq!(cells[2], default, "{}", key.name);
        let variables: Vec<String> = key.variables().map(|name| format!("`{name}`")).collect();
        assert_eq!(cells[3], variables.join(", "), "{}", key.name);
        assert_eq!(cells[4], setting.range(), "{}", key.name);
    }
}
