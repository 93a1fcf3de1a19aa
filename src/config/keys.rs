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
    /// Variables whose names do not follow from the key, the stronger first. They win over the one that does.
    pub(super) own_variables: &'static [&'static str],
    /// Whether those switch it on by being there, whatever their value.
    pub(super) on_if_there: bool,
    /// The word by which a program that this one replaces knows the setting, as a flag and in the file.
    pub(super) word: Option<&'static str>,
    /// Whether only a file of its own or the environment may hold the value.
    pub(super) is_kept_out_of_the_file: bool,
    pub(super) setting: fn(&mut Config) -> Setting<'_>,
}

impl Key {
    /// The environment variables that set this key, the stronger first.
    pub(super) fn variables(&self) -> impl Iterator<Item = String> {
        let general = format!("PEER_{}", self.name.to_ascii_uppercase());
        let own = self.own_variables.iter().copied().map(str::to_owned);
        own.chain([general])
    }

    /// Whether the file may call it so.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.word == Some(name)
    }

    const fn or(mut self, own_variables: &'static [&'static str]) -> Self {
        self.own_variables = own_variables;
        self
    }

    const fn word(mut self, word: &'static str) -> Self {
        self.word = Some(word);
        self
    }

    const fn on_if_there(mut self) -> Self {
        self.on_if_there = true;
        self
    }

    const fn kept_out_of_the_file(mut self) -> Self {
        self.is_kept_out_of_the_file = true;
        self
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
    key("broker_type", |c| Setting::Broker(&mut c.broker_type)).or(&["PEER_BROKER"]),
    key("redis_addr", |c| Setting::Text(&mut c.redis_addr)).or(&["REDIS_ADDR"]),
    key("redis_user", |c| Setting::Text(&mut c.redis_user)).or(&["REDIS_USER"]),
    key("redis_password", |c| Setting::Text(&mut c.redis_password)).or(&["REDIS_PASSWORD"]),
    key("redis_password_file", |c| Setting::File(&mut c.redis_password_file)).or(&["REDIS_PASSWORD_FILE"]),
    key("redis_db", |c| Setting::integer(&mut c.redis_db, 0, COUNT_MAX)),
    key("redis_tls", |c| Setting::Boolean(&mut c.redis_tls)),
    key("redis_ca", |c| Setting::File(&mut c.redis_ca)),
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
    key("tls_cert", |c| Setting::File(&mut c.tls_cert)).or(&["TLS_CERT"]),
    key("tls_key", |c| Setting::File(&mut c.tls_key)).or(&["TLS_KEY"]),
    key("metrics_enabled", |c| Setting::Boolean(&mut c.metrics_enabled)),
    key("metrics_port", |c| Setting::integer(&mut c.metrics_port, 0, PORT_MAX)),
    key("compression_enabled", |c| Setting::Boolean(&mut c.compression_enabled)).or(&["PEER_COMPRESSION"]),
    key("send_buffer_size", |c| Setting::lenient(&mut c.send_buffer_size, 32, COUNT_MAX)).or(&["PEER_SEND_BUFFER"]),
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
    key("matchmaker_enabled", |c| Setting::Boolean(&mut c.matchmaker.enabled)),
    key("matchmaker_bind", |c| Setting::SocketAddress(&mut c.matchmaker.bind)).word("bind"),
    key("matchmaker_provider", |c| Setting::Provider(&mut c.matchmaker.provider)),
    key("matchmaker_nats_back", |c| Setting::Boolean(&mut c.matchmaker.nats_back)),
    key("matchmaker_app_name", |c| Setting::Name(&mut c.matchmaker.app_name)).word("app-name"),
    key("matchmaker_app_version", |c| Setting::Name(&mut c.matchmaker.app_version)).word("app-version"),
    key("matchmaker_cors", |c| Setting::Origins(&mut c.matchmaker.cors)).word("cors"),
    key("matchmaker_fake_ip", |c| Setting::Ip(&mut c.matchmaker.fake_ip)).word("fake-ip"),
    key("matchmaker_client_ip_override", |c| Setting::Boolean(&mut c.matchmaker.client_ip_override)),
    key("matchmaker_ipv6", |c| Setting::Boolean(&mut c.matchmaker.ipv6)),
    key("matchmaker_waiting_max", |c| Setting::integer(&mut c.matchmaker.waiting_max, 0, COUNT_MAX)),
    key("matchmaker_waiting_per_ip", |c| Setting::integer(&mut c.matchmaker.waiting_per_ip, 0, COUNT_MAX)),
    key("matchmaker_requests_per_min_per_ip", |c| Setting::integer(&mut c.matchmaker.requests_per_min_per_ip, 0, COUNT_MAX)),
    key("matchmaker_deadline", |c| Setting::BoundedDuration(&mut c.matchmaker.deadline, DEADLINE_MIN, DEADLINE_MAX)),
    key("matchmaker_ticket_secret", |c| Setting::Text(&mut c.matchmaker.ticket_secret)),
    key("matchmaker_ticket_secret_file", |c| Setting::File(&mut c.matchmaker.ticket_secret_file)),
    key("matchmaker_report_secret", |c| Setting::Text(&mut c.matchmaker.report_secret)),
    key("matchmaker_report_secret_file", |c| Setting::File(&mut c.matchmaker.report_secret_file)),
    key("matchmaker_private_key", |c| Setting::PrivateKey(&mut c.matchmaker.private_key))
        .or(&["LIGHTYEAR_PRIVATE_KEY"]).word("lightyear-private-key").kept_out_of_the_file(),
    key("matchmaker_private_key_file", |c| Setting::File(&mut c.matchmaker.private_key_file)).or(&["LIGHTYEAR_PRIVATE_KEY_FILE"]),
    key("matchmaker_protocol_id", |c| Setting::Id(&mut c.matchmaker.protocol_id)).word("lightyear-protocol-id"),
    key("matchmaker_token_layout", |c| Setting::TokenLayout(&mut c.matchmaker.token_layout)),
    key("matchmaker_token_expire", |c| Setting::BoundedDuration(&mut c.matchmaker.token_expire, TOKEN_EXPIRE_MIN, TOKEN_EXPIRE_MAX)),
    key("matchmaker_token_timeout", |c| Setting::BoundedDuration(&mut c.matchmaker.token_timeout, Duration::ZERO, TOKEN_TIMEOUT_MAX)),
    key("matchmaker_state_file", |c| Setting::File(&mut c.matchmaker.state_file)),
    key("game_servers", |c| Setting::GameServers(&mut c.matchmaker.servers)),
    key("edgegap_url", |c| Setting::HttpUrl(&mut c.matchmaker.edgegap.url)),
    key("edgegap_api_key", |c| Setting::Text(&mut c.matchmaker.edgegap.api_key)).or(&["EDGEGAP_API_KEY"]),
    key("edgegap_api_key_file", |c| Setting::File(&mut c.matchmaker.edgegap.api_key_file)).or(&["EDGEGAP_API_KEY_FILE"]),
    key("edgegap_mode", |c| Setting::EdgegapMode(&mut c.matchmaker.edgegap.mode)),
    key("edgegap_port_name", |c| Setting::Text(&mut c.matchmaker.edgegap.port_name)),
    key("edgegap_cert_digest", |c| Setting::CertDigest(&mut c.matchmaker.edgegap.cert_digest)),
    key("edgegap_max_players", |c| Setting::integer(&mut c.matchmaker.edgegap.max_players, 1, COUNT_MAX)),
    key("edgegap_workers", |c| Setting::integer(&mut c.matchmaker.edgegap.workers, 1, 4)),
    key("edgegap_creates_per_sec", |c| Setting::integer(&mut c.matchmaker.edgegap.creates_per_sec, 1, CALLS_MAX)),
    key("edgegap_polls_per_sec", |c| Setting::integer(&mut c.matchmaker.edgegap.polls_per_sec, 1, CALLS_MAX)),
    key("matchmaker_nats_host", |c| Setting::HostPort(&mut c.matchmaker.nats.host)).or(&["NATS_HOST"]),
    key("matchmaker_nats_user", |c| Setting::Text(&mut c.matchmaker.nats.user)).or(&["NATS_USER"]),
    key("matchmaker_nats_password", |c| Setting::Text(&mut c.matchmaker.nats.password)).or(&["NATS_PASSWORD", "NATS_PASS"]),
    key("matchmaker_nats_password_file", |c| Setting::File(&mut c.matchmaker.nats.password_file)).or(&["NATS_PASSWORD_FILE"]),
    key("matchmaker_nats_insecure", |c| Setting::Boolean(&mut c.matchmaker.nats.insecure)).or(&["NATS_INSECURE"]).on_if_there(),
    key("matchmaker_nats_ca", |c| Setting::File(&mut c.matchmaker.nats.ca)).or(&["NATS_CA"]),
    key("matchmaker_nats_ca_contents", |c| Setting::Text(&mut c.matchmaker.nats.ca_contents)).or(&["NATS_CA_CONTENTS"]),
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
    SecretKey {
        key: "matchmaker_ticket_secret",
        file_key: "matchmaker_ticket_secret_file",
        fields: |c| (&mut c.matchmaker.ticket_secret, &mut c.matchmaker.ticket_secret_file),
    },
    SecretKey {
        key: "matchmaker_report_secret",
        file_key: "matchmaker_report_secret_file",
        fields: |c| (&mut c.matchmaker.report_secret, &mut c.matchmaker.report_secret_file),
    },
    SecretKey {
        key: "matchmaker_private_key",
        file_key: "matchmaker_private_key_file",
        fields: |c| (&mut c.matchmaker.private_key, &mut c.matchmaker.private_key_file),
    },
    SecretKey {
        key: "edgegap_api_key",
        file_key: "edgegap_api_key_file",
        fields: |c| {
            (
                &mut c.matchmaker.edgegap.api_key,
                &mut c.matchmaker.edgegap.api_key_file,
            )
        },
    },
    SecretKey {
        key: "matchmaker_nats_password",
        file_key: "matchmaker_nats_password_file",
        fields: |c| (&mut c.matchmaker.nats.password, &mut c.matchmaker.nats.password_file),
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
/// More calls a second than any provider takes.
const CALLS_MAX: i64 = 1000;
const DEADLINE_MIN: Duration = Duration::from_millis(1);
const DEADLINE_MAX: Duration = Duration::from_secs(600);
/// A token tells whole seconds.
const TOKEN_EXPIRE_MIN: Duration = Duration::from_secs(1);
const TOKEN_EXPIRE_MAX: Duration = Duration::from_secs(60);
const TOKEN_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

const fn key(name: &'static str, setting: fn(&mut Config) -> Setting<'_>) -> Key {
    Key {
        name,
        own_variables: &[],
        on_if_there: false,
        word: None,
        is_kept_out_of_the_file: false,
        setting,
    }
}
