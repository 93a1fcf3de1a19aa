//! The settings: what they are, what they are worth by default, and how they are read.
//!
//! Owns: every key of `config.json`, its type and range, and the order in which flag, environment, file and default
//! override each other. Values are parsed once, here; the rest of the program never sees a number that is out of range
//! or a duration that is not one.
//! Never: opens a socket, reads a certificate, prints anything, or changes after the start.

mod addresses;
mod checks;
mod durations;
mod game_server_checks;
mod game_server_values;
mod game_servers;
mod ice;
mod keys;
mod sources;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value};

pub use game_servers::{Edgegap, EdgegapMode, GameServer, Matchmaker, NatsServer, Provider, TokenLayout};
pub use ice::IceServer;

/// The longest [`Config::presence_window`]: nobody should see late who is there.
const PRESENCE_WINDOW_MAX: Duration = Duration::from_millis(100);
/// The bounds of [`Config::turn_ttl`]: clients are told whole seconds, and TURN servers that keep the time in 32 bits see a
/// year ahead without doubt.
const TURN_TTL_MIN: Duration = Duration::from_secs(1);
const TURN_TTL_MAX: Duration = Duration::from_secs(365 * 86_400);

/// What a printed secret looks like.
const MASK: &str = "***";

/// The effective settings, one field per key; `docs/settings.md` describes them for the operator.
///
/// `{:?}` prints them with secrets masked.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// Addresses to listen on, at least one, none twice; `::` is meant as dual stack.
    pub host: Vec<IpAddr>,
    /// TCP port; 0 takes any free one.
    pub port: u16,
    /// Registered peers that the process accepts, at least 1.
    pub max_peers: usize,
    /// A power of two without effect, reported by `/stats`.
    pub shard_count: u32,
    /// How long a socket with unsent output may accept no byte. More than zero.
    pub write_timeout: Duration,
    /// How long an HTTP request head may take. More than zero.
    pub read_timeout: Duration,
    /// Between two control pings. More than zero.
    pub ping_interval: Duration,
    /// Silence after which a peer counts as gone, and the time allowed to register. More than zero.
    pub pong_wait: Duration,
    /// Bytes of the longest message accepted, after defragmentation and decompression. At least 1.
    pub max_message_size: usize,
    /// What connects several nodes.
    pub broker_type: BrokerType,
    /// Where Redis is: `host:port`, `unix:/path`, `sentinel://name@host:port,host:port`.
    pub redis_addr: String,
    /// User name for Redis, empty for its default user.
    pub redis_user: String,
    /// Password for Redis, empty for none. A secret.
    pub redis_password: String,
    /// Where `redis_password` was read from, if from a file.
    pub redis_password_file: Option<PathBuf>,
    /// Redis database number.
    pub redis_db: u32,
    /// Whether Redis is spoken to over TLS.
    pub redis_tls: bool,
    /// PEM file of the authorities that vouch for Redis.
    pub redis_ca: Option<PathBuf>,
    /// Whether nodes share who is where, besides passing messages on.
    pub cluster_state: bool,
    /// Whether a message to a peer of another node is answered with 404 when no node acknowledges it.
    pub broker_ack: bool,
    /// Whether `/readyz` answers 503 while the broker is unreachable.
    pub ready_requires_broker: bool,
    /// NATS server URL, several separated by commas. May hold credentials.
    pub nats_url: String,
    /// NATS user name.
    pub nats_user: String,
    /// NATS password. A secret.
    pub nats_password: String,
    /// Where `nats_password` was read from, if from a file.
    pub nats_password_file: Option<PathBuf>,
    /// NATS token. A secret.
    pub nats_token: String,
    /// Where `nats_token` was read from, if from a file.
    pub nats_token_file: Option<PathBuf>,
    /// NATS credentials file.
    pub nats_creds: Option<PathBuf>,
    /// PEM file of the authorities that NATS servers are checked against.
    pub nats_ca: Option<PathBuf>,
    /// Messages a second and peer; 0 = unlimited.
    pub rate_limit_per_sec: u32,
    /// Messages a peer may send at once; at least 1 while the rate is limited.
    pub rate_limit_burst: u32,
    /// A number without effect, kept for compatibility.
    pub rate_limit_shards: u32,
    /// PEM certificate chain; set exactly when `tls_key` is.
    pub tls_cert: Option<PathBuf>,
    /// PEM private key; set exactly when `tls_cert` is.
    pub tls_key: Option<PathBuf>,
    /// Whether `/metrics` is served.
    pub metrics_enabled: bool,
    /// TCP port of `/metrics`; 0 takes any free one. May equal `port`: then one of the two cannot be bound.
    pub metrics_port: u16,
    /// Whether permessage-deflate is negotiated.
    pub compression_enabled: bool,
    /// Unsent messages after which a peer gets no further traffic of other peers. At least 1.
    pub send_buffer_size: usize,
    /// Unsent bytes with the same effect. At least 1.
    pub send_buffer_bytes: usize,
    /// How long presence in a large namespace may wait for more of it; zero: not at all. At most 100 ms.
    pub presence_window: Duration,
    /// Members up to which a namespace is not large.
    pub presence_window_from: usize,
    /// SO_SNDBUF of accepted sockets in bytes; 0 = the kernel's choice.
    pub socket_send_bytes: usize,
    /// Connections from one IPv4 address or IPv6 /64; 0 = unlimited.
    pub max_connections_per_ip: u32,
    /// The same for connections that have not registered; 0 = unlimited.
    pub unregistered_per_ip: u32,
    /// Registrations a second from one IPv4 address or IPv6 /64; 0 = unlimited.
    pub registrations_per_sec_per_ip: u32,
    /// Rooms at a time. At least 1.
    pub max_rooms: usize,
    /// Match requests that may wait at a time. At least 1.
    pub max_match_waiting: usize,
    /// Bytes of the longest peer list. At least 1.
    pub list_bytes_max: usize,
    /// Broadcast deliveries a second and peer; 0 = unlimited.
    pub fanout_per_sec: u32,
    /// Whether datagrams are served: STUN and the punch dialects.
    pub udp_enabled: bool,
    /// UDP port; 0 = the same number as `port`.
    pub udp_port: u16,
    /// Further ports on which TCP and UDP both listen, none twice.
    pub extra_ports: Vec<u16>,
    /// The IPv4 address at which clients reach this server, if it is not the one that it is bound to.
    pub public_ipv4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The port at which clients reach this server; 0 = the bound one.
    pub public_port: u16,
    /// Whether STUN requests are answered.
    pub stun_enabled: bool,
    /// STUN answers a second to one address and port; 0 = unlimited.
    pub stun_answers_per_sec: u32,
    /// STUN answers a second to one IPv4 /24 or IPv6 /56; 0 = unlimited.
    pub stun_answers_per_prefix_per_sec: u32,
    /// Whether the ASCII punch dialect is served.
    pub punch_simple_enabled: bool,
    /// Whether the protobuf punch dialect is served.
    pub punch_natpunch_enabled: bool,
    /// Whether the lobby punch dialect is served, over UDP and TCP.
    pub punch_matchmaker_enabled: bool,
    /// Datagrams a second of one address and port, STUN aside; 0 = unlimited.
    pub punch_datagrams_per_sec: u32,
    /// Registrations of the protobuf dialect a minute from one IPv4 address or IPv6 /64; 0 = unlimited.
    pub punch_registrations_per_min_per_ip: u32,
    /// Sessions of one IPv4 address or IPv6 /64 in the ASCII and the lobby dialect, each; 0 = unlimited.
    pub punch_sessions_per_ip: u32,
    /// Sessions or clients of each punch dialect in all; 0 = unlimited.
    pub punch_sessions_max: u32,
    /// Wrong session ids or lobby codes a minute from one IPv4 address or IPv6 /64; 0 = unlimited.
    pub punch_misses_per_min_per_ip: u32,
    /// Random codes of a session id of the ASCII dialect, 2 to 8.
    pub punch_simple_id_codes: u8,
    /// Whom the ASCII dialect tells a client's LAN address.
    pub share_local: ShareLocal,
    /// Answers of the ASCII dialect a second to an unverified address; 0 = unlimited.
    pub punch_simple_replies_per_sec: u32,
    /// Such answers in any ten seconds; 0 = unlimited.
    pub punch_simple_replies_per_10_sec: u32,
    /// Joins a second of one session of the ASCII dialect; 0 = unlimited.
    pub punch_simple_joins_per_sec: u32,
    /// Joins of one such session in all; 0 = unlimited.
    pub punch_simple_joins_per_session: u32,
    /// Lobbies of the protobuf dialect; 0 = unlimited.
    pub punch_natpunch_lobbies_max: u32,
    /// Lobbies of one client of the protobuf dialect; 0 = unlimited.
    pub punch_natpunch_lobbies_per_client: u32,
    /// Joins a second of one client of the protobuf dialect; 0 = unlimited.
    pub punch_natpunch_joins_per_sec: u32,
    /// TCP connections of the lobby dialect from one IPv4 address or IPv6 /64; 0 = unlimited.
    pub punch_matchmaker_connections_per_ip: u32,
    /// Lobbies of one session of the lobby dialect; 0 = unlimited.
    pub punch_matchmaker_lobbies_per_session: u32,
    /// Bytes kept for peers by the process; 0 = a quarter of the machine's memory.
    pub state_bytes_max: u64,
    /// Bytes of unsent output of the process; 0 = a quarter of the machine's memory.
    pub output_bytes_max: u64,
    /// Bytes of undelivered traffic between loops, for each receiving loop. At least 1.
    pub mail_bytes: usize,
    /// Event loops; 0 = one for each core that the process may use.
    pub loops: usize,
    /// Whether each loop is pinned to its core when there are no more loops than cores.
    pub pin_cores: bool,
    /// Whether each loop has a descriptor table of its own.
    pub descriptor_tables: DescriptorTables,
    /// Values of `Origin` that may open a WebSocket, in lower case; empty = any.
    pub allowed_origins: Vec<String>,
    /// Networks whose `X-Forwarded-For` is believed, host bits cleared; empty = none.
    pub trusted_proxies: Vec<IpNet>,
    /// What clients are told to gather WebRTC candidates with; empty = nothing.
    pub ice_servers: Vec<IceServer>,
    /// What the TURN servers among them make credentials from, empty for none. A secret.
    pub turn_secret: String,
    /// Where `turn_secret` was read from, if from a file.
    pub turn_secret_file: Option<PathBuf>,
    /// How long a TURN credential lasts. A second to a year; what is beyond the whole second counts for nothing.
    pub turn_ttl: Duration,
    /// The matchmaker web service.
    pub matchmaker: Matchmaker,
    /// How long a stopping server waits for its connections. May be zero.
    pub drain_timeout: Duration,
    /// What is logged: a valid directive of tracing's `EnvFilter`.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// What connects several nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerType {
    /// Nothing: this node is alone.
    Local,
    /// Redis pub/sub.
    Redis,
    /// NATS.
    Nats,
}

/// Whose descriptor table a loop's connections are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorTables {
    /// Each loop's own, where the system lets it.
    Auto,
    /// The process's.
    Shared,
    /// Each loop's own, or the server does not start.
    PerLoop,
}

/// Whom a client's LAN address is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareLocal {
    /// Peers with the same public IP address.
    SamePublicIp,
    /// Every peer that it is to meet.
    Always,
    /// Nobody.
    Never,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Settings that are fit to start with, and what the operator should hear about them.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective settings.
    pub config: Config,
    /// One sentence each, naming the key; none of them prevents the start.
    pub warnings: Vec<String>,
}

/// What the command line says of settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The port, which needs no service to be known.
    pub port: Option<u16>,
    /// Values by the words of the programs that this one replaces, such as `app-name`; the last of several counts.
    pub words: Vec<(&'static str, String)>,
}

/// Reads the settings: flags over environment over `file` over defaults.
///
/// `env` answers the value of an environment variable; an empty value counts as unset. The process's own variables are
/// [`process_environment`]. Secrets kept in files are read as well.
///
/// # Errors
/// Every fault found, each a sentence that begins with the key (or with the file, if that cannot be read at all).
pub fn load(file: Option<&Path>, env: &dyn Fn(&str) -> Option<String>, flags: &Flags) -> Result<Loaded, Vec<String>> {
    let mut config = Config::default();
    let mut findings = sources::Findings::default();
    if let Some(path) = file {
        sources::apply_file(&mut config, path, &mut findings);
    }
    sources::apply_environment(&mut config, env, &mut findings);
    sources::apply_flags(&mut config, flags, &mut findings);
    sources::read_secrets(&mut config, &mut findings);
    sources::read_server_keys(&mut config, &mut findings);
    checks::check(&config, &mut findings);
    if findings.errors.is_empty() {
        Ok(Loaded {
            config,
            warnings: findings.warnings,
        })
    } else {
        Err(findings.errors)
    }
}

/// A variable of the process. Bytes that are not UTF-8 are replaced, so that such a value is seen and not overlooked.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

impl Config {
    /// The settings as a JSON object in the order of the documentation, which [`load`] reads back to the same settings.
    ///
    /// A secret that came from a file is left out in favour of its `…_file`, and one that may not stand in the file at all;
    /// any other secret is shown.
    pub fn to_json(&self) -> Value {
        let mut json = self.every_value();
        let mut config = self.clone();
        for secret in keys::SECRETS {
            let (_, file) = (secret.fields)(&mut config);
            if file.is_some() {
                json.insert(secret.key.to_owned(), Value::from(""));
            }
        }
        for key in keys::KEYS.iter().filter(|key| key.is_kept_out_of_the_file) {
            json.insert(key.name.to_owned(), Value::from(""));
        }
        Value::Object(json)
    }

    /// The settings as a JSON object for people and logs: secrets that are set, and credentials inside addresses, are
    /// shown as `***`.
    pub fn to_json_masked(&self) -> Value {
        let mut json = self.every_value();
        for (key, value) in &mut json {
            let Value::String(text) = value else { continue };
            if keys::SECRETS.iter().any(|secret| secret.key == key) && !text.is_empty() {
                *text = MASK.to_owned();
            } else if keys::ADDRESSES.contains(&key.as_str()) {
                *text = masked_address(text);
            }
        }
        Value::Object(json)
    }

    fn every_value(&self) -> Map<String, Value> {
        // The key table hands out mutable fields only; the copy spares a second table for reading.
        let mut config = self.clone();
        keys::KEYS
            .iter()
            .map(|key| (key.name.to_owned(), (key.setting)(&mut config).to_json()))
            .collect()
    }
}

/// Hides everything from the first scheme to the last `@`, since a password may contain commas, slashes and `@`.
fn masked_address(text: &str) -> String {
    let Some(at) = text.rfind('@') else {
        return text.to_owned();
    };
    let start = text.find("://").map_or(0, |scheme| scheme + 3).min(at);
    format!("{}{MASK}{}", &text[..start], &text[at..])
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Config {}", self.to_json_masked())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
            port: 8080,
            max_peers: 100_000,
            shard_count: 64,
            write_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(30),
            pong_wait: Duration::from_secs(35),
            max_message_size: 65_536,
            broker_type: BrokerType::Local,
            redis_addr: "localhost:6379".to_owned(),
            redis_user: String::new(),
            redis_password: String::new(),
            redis_password_file: None,
            redis_db: 0,
            redis_tls: false,
            redis_ca: None,
            cluster_state: true,
            broker_ack: true,
            ready_requires_broker: false,
            nats_url: String::new(),
            nats_user: String::new(),
            nats_password: String::new(),
            nats_password_file: None,
            nats_token: String::new(),
            nats_token_file: None,
            nats_creds: None,
            nats_ca: None,
            rate_limit_per_sec: 100,
            rate_limit_burst: 200,
            rate_limit_shards: 32,
            tls_cert: None,
            tls_key: None,
            metrics_enabled: true,
            metrics_port: 9090,
            compression_enabled: false,
            send_buffer_size: 32,
            send_buffer_bytes: 262_144,
            presence_window: PRESENCE_WINDOW_MAX,
            presence_window_from: 1000,
            socket_send_bytes: 131_072,
            max_connections_per_ip: 0,
            unregistered_per_ip: 0,
            registrations_per_sec_per_ip: 0,
            max_rooms: 100_000,
            max_match_waiting: 200_000,
            list_bytes_max: 262_144,
            fanout_per_sec: 200_000,
            udp_enabled: true,
            udp_port: 0,
            extra_ports: Vec::new(),
            public_ipv4: None,
            public_ipv6: None,
            public_port: 0,
            stun_enabled: true,
            stun_answers_per_sec: 10,
            stun_answers_per_prefix_per_sec: 1000,
            punch_simple_enabled: true,
            punch_natpunch_enabled: true,
            punch_matchmaker_enabled: true,
            punch_datagrams_per_sec: 20,
            punch_registrations_per_min_per_ip: 100,
            punch_sessions_per_ip: 64,
            punch_sessions_max: 100_000,
            punch_misses_per_min_per_ip: 10,
            punch_simple_id_codes: 4,
            share_local: ShareLocal::SamePublicIp,
            punch_simple_replies_per_sec: 3,
            punch_simple_replies_per_10_sec: 10,
            punch_simple_joins_per_sec: 8,
            punch_simple_joins_per_session: 64,
            punch_natpunch_lobbies_max: 10_000,
            punch_natpunch_lobbies_per_client: 4,
            punch_natpunch_joins_per_sec: 2,
            punch_matchmaker_connections_per_ip: 32,
            punch_matchmaker_lobbies_per_session: 16,
            state_bytes_max: 0,
            output_bytes_max: 0,
            mail_bytes: 16_777_216,
            loops: 0,
            pin_cores: true,
            descriptor_tables: DescriptorTables::Auto,
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            ice_servers: Vec::new(),
            turn_secret: String::new(),
            turn_secret_file: None,
            turn_ttl: Duration::from_secs(86_400),
            matchmaker: Matchmaker::default(),
            drain_timeout: Duration::from_secs(5),
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}
