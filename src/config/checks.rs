//! What only shows when all settings are known: pairs that need each other, and values that this build cannot serve.
//!
//! Owns: refusals and warnings about effective values.
//! Never: changes a setting.

use super::sources::Findings;
use super::values::{BROKERS, name_of};
use super::{BrokerType, Config, IceServer, game_server_checks};

/// Looks at the effective settings as a whole.
pub(super) fn check(config: &Config, findings: &mut Findings) {
    // Running alone in place of the broker asked for would split a fleet without anybody noticing.
    if config.broker_type == BrokerType::Nats && config.nats_url.is_empty() {
        findings.error("nats_url", "missing, while broker_type is nats");
    }
    warn_of_idle_brokers(config, findings);
    // A certificate without its key must never end in plain text.
    match (&config.tls_cert, &config.tls_key) {
        (Some(_), None) => findings.error("tls_key", "missing, while tls_cert is set"),
        (None, Some(_)) => findings.error("tls_cert", "missing, while tls_key is set"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    // A bucket of no size would refuse every message.
    if config.rate_limit_per_sec > 0 && config.rate_limit_burst == 0 {
        findings.error(
            "rate_limit_burst",
            "0 is out of range (at least 1 while rate_limit_per_sec limits)",
        );
    }
    // Each is a socket of every loop, and a datagram carries the number of its own in a byte.
    let sockets = config.host.len() * (2 + config.extra_ports.len());
    if config.udp_enabled && sockets > SOCKETS_MAX {
        findings.error(
            "extra_ports",
            &format!("{sockets} addresses with those of host are too many (at most {SOCKETS_MAX})"),
        );
    }
    if config.pong_wait <= config.ping_interval {
        findings.warning(
            "pong_wait",
            "not longer than ping_interval: peers that are only listening will be closed",
        );
    }
    if config.ice_servers.contains(&IceServer::Auto) && !(config.udp_enabled && config.stun_enabled) {
        findings.warning(
            "ice_servers",
            "auto is left out while udp_enabled or stun_enabled is off",
        );
    }
    // Browsers refuse a TURN server without a credential, and the whole list with it.
    if config.turn_secret.is_empty() && config.ice_servers.iter().any(IceServer::is_turn) {
        findings.warning(
            "turn_secret",
            "missing: clients get no credentials for the turn: and turns: URLs of ice_servers",
        );
    }
    game_server_checks::check(&config.matchmaker, findings);
    if let Some(word) = unknown_level(&config.log_level) {
        let levels = LEVELS.join(", ");
        findings.warning(
            "log_level",
            &format!("{word:?} is taken as a module's name; the levels are {levels}"),
        );
    }
}

/// Settings of a broker that is not the one in use: probably `broker_type` was forgotten, and the node would be alone.
fn warn_of_idle_brokers(config: &Config, findings: &mut Findings) {
    let (own, defaults) = (config.every_value(), Config::default().every_value());
    let is_set = |key: &str| own.get(key) != defaults.get(key);
    let in_use = name_of(&config.broker_type, BROKERS);
    for (broker, name, prefix) in [
        (BrokerType::Redis, "redis", "redis_"),
        (BrokerType::Nats, "nats", "nats_"),
    ] {
        let first = own.keys().find(|key| key.starts_with(prefix) && is_set(key));
        if let Some(key) = first.filter(|_| config.broker_type != broker) {
            findings.warning(
                key,
                &format!("has no effect while broker_type is {in_use} and not {name}"),
            );
        }
    }
    if config.broker_type == BrokerType::Local {
        for key in ["cluster_state", "ready_requires_broker", "broker_ack"] {
            if is_set(key) {
                findings.warning(key, "has no effect while broker_type is local");
            }
        }
    }
    if config.redis_ca.is_some() && !config.redis_tls {
        findings.warning("redis_ca", "has no effect without redis_tls");
    }
}

/// A lone word that is no level: the filter reads it as a module to be logged, and nothing else would be.
fn unknown_level(directives: &str) -> Option<&str> {
    let word = directives.trim();
    let lone = word.bytes().all(|b| b.is_ascii_alphanumeric());
    let known = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) || word.parse::<u8>().is_ok_and(|n| n <= 5);
    (lone && !known).then_some(word)
}

const SOCKETS_MAX: usize = 255;
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
