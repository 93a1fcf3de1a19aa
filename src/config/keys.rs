//! The table of keys: one line each, naming the field, its range and the variable that overrides it.
//!
//! Owns: the list that reading, printing, suggestions and the documentation's test all walk.
//! Never: parses a value (see `values`) or knows where one came from (see `sources`).

use std::path::PathBuf;
use std::time::Duration;

use super::values::Setting;
use super::{Config, PRESENCE_WINDOW_MAX, TURN_TTL_MAX, TURN_TTL_MIN};

/// One key of the configuration file.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// A variable whose name does not follow from the key. It wins over the one that does.
    pub(super) own_variable: Option<&'static str>,
    pub(super) setting: fn(&mut Config) -> Setting<'_>,
}

impl Key {
    /// The environment variables that set this key, the stronger first.
    pub(super) fn variables(&self) -> impl Iterator<Item = String> {
        let general = format!("PEER_{}", self.name.to_ascii_uppercase());
        self.own_variable.map(str::to_owned).into_iter().chain([general])
    }
}

/// A secret that may also be given as the name of the file that holds it.
pub(super) struct SecretKey {
    pub(super) key: &'static str,
    pub(super) file_key: &'static str,
    pub(super) fields: fn(&mut Config) -> (&mut String, &mut Option<PathBuf>),
}

/// Every key, in the order of the documentation.
#[rustfmt::skip] // One line each.
pub(super) const KEYS: &[Key] = &[
    key("host", |c| Setting::Hosts(&mut c.host)),
    key("port", |c| Setting::integer(&mut c.port, 0, PORT_MAX)),
    key("max_peers", |c| Setting::integer(&mut c.max_peers, 1, COUNT_MAX)),
    key("shard_count", |c| Setting::PowerOfTwo(&mut c.shard_count)),
    key("write_timeout", |c| Setting::PositiveDuration(&mut c.write_timeout)),
    key("read_timeout", |c| Setting::PositiveDuration(&mut c.read_timeout)),
    key("ping_interval", |c| Setting::PositiveDuration(&mut c.ping_interval)),
    key("pong_wait", |c| Setting::PositiveDuration(&mut c.pong_wait)),
    key("max_message_size", |c| Setting::integer(&mut c.max_message_size, 1, COUNT_MAX)),
    key_with("broker_type", "PEER_BROKER", |c| Setting::Broker(&mut c.broker_type)),
    key_with("redis_addr", "REDIS_ADDR", |c| Setting::Text(&mut c.redis_addr)),
    key_with("redis_password", "REDIS_PASSWORD", |c| Setting::Text(&mut c.redis_password)),
    key_with("redis_password_file", "REDIS_PASSWORD_FILE", |c| Setting::File(&mut c.redis_password_file)),
    key("redis_db", |c| Setting::integer(&mut c.redis_db, 0, COUNT_MAX)),
    key("redis_tls", |c| Setting::Boolean(&mut c.redis_tls)),
    key("cluster_state", |c| Setting::Boolean(&mut c.cluster_state)),
    key("broker_ack", |c| Setting::Boolean(&mut c.broker_ack)),
    key("ready_requires_broker", |c| Setting::Boolean(&mut c.ready_requires_broker)),
    key("nats_url", |c| Setting::Text(&mut c.nats_url)),
    key("nats_user", |c| Setting::Text(&mut c.nats_user)),
    key("nats_password", |c| Setting::Text(&mut c.nats_password)),
    key("nats_password_file", |c| Setting::File(&mut c.nats_password_file)),
    key("nats_token", |c| Setting::Text(&mut c.nats_token)),
    key("nats_token_file", |c| Setting::File(&mut c.nats_token_file)),
    key("nats_creds", |c| Setting::File(&mut c.nats_creds)),
    key("nats_ca", |c| Setting::File(&mut c.nats_ca)),
    key("rate_limit_per_sec", |c| Setting::lenient(&mut c.rate_limit_per_sec, 0, COUNT_MAX)),
    key("rate_limit_burst", |c| Setting::lenient(&mut c.rate_limit_burst, 0, COUNT_MAX)),
    key("rate_limit_shards", |c| Setting::integer(&mut c.rate_limit_shards, 1, COUNT_MAX)),
    key_with("tls_cert", "TLS_CERT", |c| Setting::File(&mut c.tls_cert)),
    key_with("tls_key", "TLS_KEY", |c| Setting::File(&mut c.tls_key)),
    key("metrics_enabled", |c| Setting::Boolean(&mut c.metrics_enabled)),
    key("metrics_port", |c| Setting::integer(&mut c.metrics_port, 0, PORT_MAX)),
    key_with("compression_enabled", "PEER_COMPRESSION", |c| Setting::Boolean(&mut c.compression_enabled)),
    key_with("send_buffer_size", "PEER_SEND_BUFFER", |c| Setting::lenient(&mut c.send_buffer_size, 32, COUNT_MAX)),
    key("send_buffer_bytes", |c| Setting::integer(&mut c.send_buffer_bytes, 1, COUNT_MAX)),
    key("socket_send_bytes", |c| Setting::integer(&mut c.socket_send_bytes, 0, COUNT_MAX)),
    key("presence_window", |c| Setting::BoundedDuration(&mut c.presence_window, Duration::ZERO, PRESENCE_WINDOW_MAX)),
    key("presence_window_from", |c| Setting::integer(&mut c.presence_window_from, 0, COUNT_MAX)),
    key("mail_bytes", |c| Setting::integer(&mut c.mail_bytes, 1, COUNT_MAX)),
    key("state_bytes_max", |c| Setting::integer(&mut c.state_bytes_max, 0, BYTES_MAX)),
    key("output_bytes_max", |c| Setting::integer(&mut c.output_bytes_max, 0, BYTES_MAX)),
    key("max_connections_per_ip", |c| Setting::integer(&mut c.max_connections_per_ip, 0, COUNT_MAX)),
    key("unregistered_per_ip", |c| Setting::integer(&mut c.unregistered_per_ip, 0, COUNT_MAX)),
    key("registrations_per_sec_per_ip", |c| Setting::integer(&mut c.registrations_per_sec_per_ip, 0, COUNT_MAX)),
    key("max_rooms", |c| Setting::integer(&mut c.max_rooms, 1, COUNT_MAX)),
    key("max_match_waiting", |c| Setting::integer(&mut c.max_match_waiting, 1, COUNT_MAX)),
    key("list_bytes_max", |c| Setting::integer(&mut c.list_bytes_max, 1, COUNT_MAX)),
    key("fanout_per_sec", |c| Setting::integer(&mut c.fanout_per_sec, 0, COUNT_MAX)),
    key("udp_enabled", |c| Setting::Boolean(&mut c.udp_enabled)),
    key("udp_port", |c| Setting::integer(&mut c.udp_port, 0, PORT_MAX)),
    key("extra_ports", |c| Setting::Ports(&mut c.extra_ports)),
    key("public_ipv4", |c| Setting::Ipv4(&mut c.public_ipv4)),
    key("public_ipv6", |c| Setting::Ipv6(&mut c.public_ipv6)),
    key("public_port", |c| Setting::integer(&mut c.public_port, 0, PORT_MAX)),
    key("stun_enabled", |c| Setting::Boolean(&mut c.stun_enabled)),
    key("stun_answers_per_sec", |c| Setting::integer(&mut c.stun_answers_per_sec, 0, COUNT_MAX)),
    key("stun_answers_per_prefix_per_sec", |c| Setting::integer(&mut c.stun_answers_per_prefix_per_sec, 0, COUNT_MAX)),
    key("punch_simple_enabled", |c| Setting::Boolean(&mut c.punch_simple_enabled)),
    key("punch_natpunch_enabled", |c| Setting::Boolean(&mut c.punch_natpunch_enabled)),
    key("punch_matchmaker_enabled", |c| Setting::Boolean(&mut c.punch_matchmaker_enabled)),
    key("punch_datagrams_per_sec", |c| Setting::integer(&mut c.punch_datagrams_per_sec, 0, COUNT_MAX)),
    key("punch_registrations_per_min_per_ip", |c| Setting::integer(&mut c.punch_registrations_per_min_per_ip, 0, COUNT_MAX)),
    key("punch_sessions_per_ip", |c| Setting::integer(&mut c.punch_sessions_per_ip, 0, COUNT_MAX)),
    key("punch_sessions_max", |c| Setting::integer(&mut c.punch_sessions_max, 0, COUNT_MAX)),
    key("punch_misses_per_min_per_ip", |c| Setting::integer(&mut c.punch_misses_per_min_per_ip, 0, COUNT_MAX)),
    key("punch_simple_id_codes", |c| Setting::integer(&mut c.punch_simple_id_codes, 2, 8)),
    key("share_local", |c| Setting::ShareLocal(&mut c.share_local)),
    key("punch_simple_replies_per_sec", |c| Setting::integer(&mut c.punch_simple_replies_per_sec, 0, COUNT_MAX)),
    key("punch_simple_replies_per_10_sec", |c| Setting::integer(&mut c.punch_simple_replies_per_10_sec, 0, COUNT_MAX)),
    key("punch_simple_joins_per_sec", |c| Setting::integer(&mut c.punch_simple_joins_per_sec, 0, COUNT_MAX)),
    key("punch_simple_joins_per_session", |c| Setting::integer(&mut c.punch_simple_joins_per_session, 0, COUNT_MAX)),
    key("punch_natpunch_lobbies_max", |c| Setting::integer(&mut c.punch_natpunch_lobbies_max, 0, COUNT_MAX)),
    key("punch_natpunch_lobbies_per_client", |c| Setting::integer(&mut c.punch_natpunch_lobbies_per_client, 0, COUNT_MAX)),
    key("punch_natpunch_joins_per_sec", |c| Setting::integer(&mut c.punch_natpunch_joins_per_sec, 0, COUNT_MAX)),
    key("punch_matchmaker_connections_per_ip", |c| Setting::integer(&mut c.punch_matchmaker_connections_per_ip, 0, COUNT_MAX)),
    key("punch_matchmaker_lobbies_per_session", |c| Setting::integer(&mut c.punch_matchmaker_lobbies_per_session, 0, COUNT_MAX)),
    key("loops", |c| Setting::integer(&mut c.loops, 0, LOOPS_MAX)),
    key("pin_cores", |c| Setting::Boolean(&mut c.pin_cores)),
    key("descriptor_tables", |c| Setting::DescriptorTables(&mut c.descriptor_tables)),
    key("allowed_origins", |c| Setting::Origins(&mut c.allowed_origins)),
    key("trusted_proxies", |c| Setting::Networks(&mut c.trusted_proxies)),
    key("ice_servers", |c| Setting::IceServers(&mut c.ice_servers)),
    key("turn_secret", |c| Setting::Text(&mut c.turn_secret)),
    key("turn_secret_file", |c| Setting::File(&mut c.turn_secret_file)),
    key("turn_ttl", |c| Setting::BoundedDuration(&mut c.turn_ttl, TURN_TTL_MIN, TURN_TTL_MAX)),
    key("drain_timeout", |c| Setting::Duration(&mut c.drain_timeout)),
    key("log_level", |c| Setting::LogLevel(&mut c.log_level)),
    key("log_format", |c| Setting::LogFormat(&mut c.log_format)),
];

/// The keys that are masked when printed, each with its file.
pub(super) const SECRETS: &[SecretKey] = &[
    SecretKey {
        key: "redis_password",
        file_key: "redis_password_file",
        fields: |c| (&mut c.redis_password, &mut c.redis_password_file),
    },
    SecretKey {
        key: "nats_password",
        file_key: "nats_password_file",
        fields: |c| (&mut c.nats_password, &mut c.nats_password_file),
    },
    SecretKey {
        key: "nats_token",
        file_key: "nats_token_file",
        fields: |c| (&mut c.nats_token, &mut c.nats_token_file),
    },
    SecretKey {
        key: "turn_secret",
        file_key: "turn_secret_file",
        fields: |c| (&mut c.turn_secret, &mut c.turn_secret_file),
    },
];

/// The keys whose value may hold credentials before an `@`.
pub(super) const ADDRESSES: &[&str] = &["redis_addr", "nats_url"];

const PORT_MAX: i64 = u16::MAX as i64;
/// Counts and buffer sizes fit a C `int`, and four times one still fits every type they are computed in.
const COUNT_MAX: i64 = i32::MAX as i64;
/// The largest whole number that every JSON reader keeps exactly: 2^53 - 1.
const BYTES_MAX: i64 = 9_007_199_254_740_991;
const LOOPS_MAX: i64 = 1024;

const fn key(name: &'static str, setting: fn(&mut Config) -> Setting<'_>) -> Key {
    Key {
        name,
        own_variable: None,
        setting,
    }
}

const fn key_with(name: &'static str, variable: &'static str, setting: fn(&mut Config) -> Setting<'_>) -> Key {
    Key {
        name,
        own_variable: Some(variable),
        setting,
    }
}
