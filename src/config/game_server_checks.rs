//! What only shows of the matchmaker web service when all its settings are known.
//!
//! Owns: refusals and warnings about effective values. What fits together is only asked of a service that is used.
//! Never: changes a setting, or repeats a secret.

use std::time::Duration;

use super::game_server_values::parse_key;
use super::sources::Findings;
use super::{GameServer, Matchmaker, Provider};

/// Looks at the service's settings as a whole.
pub(super) fn check(settings: &Matchmaker, findings: &mut Findings) {
    check_secrets(settings, findings);
    if settings.provider == Provider::Nats && settings.nats_back {
        findings.error(
            "matchmaker_nats_back",
            "nobody would answer while matchmaker_provider is nats as well",
        );
    }
    if !settings.is_served() && !settings.nats_back {
        if !settings.servers.is_empty() {
            findings.warning(
                "game_servers",
                "without effect: neither matchmaker_enabled nor matchmaker_bind nor matchmaker_nats_back is set",
            );
        }
        return;
    }
    check_key(settings, findings);
    check_app(settings, findings);
    check_servers(settings, findings);
    if settings.provider == Provider::Edgegap {
        check_edgegap(settings, findings);
    }
    if settings.provider == Provider::Nats || settings.nats_back {
        check_nats(settings, findings);
    }
}

/// Faulty even while nobody uses them: who wrote one means it.
fn check_secrets(settings: &Matchmaker, findings: &mut Findings) {
    if !settings.private_key.is_empty()
        && let Err(what) = parse_key(&settings.private_key)
    {
        findings.error("matchmaker_private_key", what);
    }
    for (key, secret) in [
        ("matchmaker_ticket_secret", &settings.ticket_secret),
        ("matchmaker_report_secret", &settings.report_secret),
    ] {
        if (1..SECRET_BYTES_MIN).contains(&secret.len()) {
            findings.error(key, &format!("too short (at least {SECRET_BYTES_MIN} characters)"));
        }
    }
    // Both travel in the header `Authorization`.
    let is_graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_graphic(&settings.report_secret) {
        findings.error(
            "matchmaker_report_secret",
            "has other characters than letters, digits and signs of ASCII",
        );
    }
    let key = &settings.edgegap.api_key;
    if !key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) || key.trim() != key {
        findings.error(
            "edgegap_api_key",
            "has characters that no header may hold, or blanks at an end",
        );
    }
}

fn check_key(settings: &Matchmaker, findings: &mut Findings) {
    let others_make_tokens = settings.provider == Provider::Nats && settings.servers.is_empty();
    if settings.private_key.is_empty() && !others_make_tokens {
        findings.error(
            "matchmaker_private_key",
            "missing: name its file as matchmaker_private_key_file, or set LIGHTYEAR_PRIVATE_KEY",
        );
    }
    // A game server that does not find the client id any more ends itself.
    if settings.nats_back && settings.token_expire > REGISTERED - REGISTERING {
        findings.error(
            "matchmaker_token_expire",
            "too long (at most 25s while matchmaker_nats_back is on, where players are registered for 30s)",
        );
    }
}

fn check_app(settings: &Matchmaker, findings: &mut Findings) {
    let (name, version) = (&settings.app_name, &settings.app_version);
    let needing = match settings.provider {
        _ if settings.nats_back => Some("matchmaker_nats_back is on"),
        Provider::Edgegap => Some("matchmaker_provider is edgegap"),
        Provider::Static | Provider::Nats => None,
    };
    for (key, is_missing, other, is_other_there) in [
        (
            "matchmaker_app_name",
            name.is_empty(),
            "matchmaker_app_version",
            !version.is_empty(),
        ),
        (
            "matchmaker_app_version",
            version.is_empty(),
            "matchmaker_app_name",
            !name.is_empty(),
        ),
    ] {
        match needing {
            Some(needing) if is_missing => findings.error(key, &format!("missing, while {needing}")),
            None if is_missing && is_other_there => findings.error(key, &format!("missing, while {other} is set")),
            Some(_) | None => {}
        }
    }
}

fn check_servers(settings: &Matchmaker, findings: &mut Findings) {
    if settings.servers.is_empty() && settings.provider == Provider::Static {
        findings.warning("game_servers", "empty: every player is told that there is no server");
    }
    let ids = |is_meant: &dyn Fn(&GameServer) -> bool| {
        let ids = settings.servers.iter().filter(|server| is_meant(server));
        ids.map(|server| server.id.as_str()).collect::<Vec<_>>().join(", ")
    };
    let unreachable = ids(&|server| server.public.is_ipv6() && !settings.ipv6);
    if !unreachable.is_empty() {
        let what = format!("{unreachable}: nobody is sent to an IPv6 address while matchmaker_ipv6 is off");
        findings.warning("game_servers", &what);
    }
    let unknown = ids(&|server| server.cert_digest.is_empty());
    if !unknown.is_empty() && settings.report_secret.is_empty() {
        let what = format!("{unknown}: no cert_digest, and without matchmaker_report_secret none can be reported");
        findings.warning("game_servers", &what);
    }
}

fn check_edgegap(settings: &Matchmaker, findings: &mut Findings) {
    let edgegap = &settings.edgegap;
    if edgegap.api_key.is_empty() {
        findings.error("edgegap_api_key", "missing, while matchmaker_provider is edgegap");
    } else if !edgegap.api_key.starts_with("token ") {
        findings.warning(
            "edgegap_api_key",
            "does not begin with the word token and a blank, as Edgegap's keys do",
        );
    }
    if edgegap.url.starts_with("http://") && !is_on_this_machine(&edgegap.url) {
        findings.warning("edgegap_url", "has no TLS: edgegap_api_key travels in plain text");
    }
    if settings.state_file.is_none() && !settings.nats_back {
        findings.error(
            "matchmaker_state_file",
            "missing: with edgegap and without matchmaker_nats_back it keeps the sessions that are to be deleted",
        );
    }
    if edgegap.cert_digest.is_empty() && settings.report_secret.is_empty() && !settings.nats_back {
        findings.warning(
            "edgegap_cert_digest",
            "missing: without matchmaker_report_secret or matchmaker_nats_back no server's digest is known",
        );
    }
}

/// Whether the URL names this machine by its address or name.
fn is_on_this_machine(url: &str) -> bool {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    ["127.", "localhost", "[::1]"].iter().any(|own| rest.starts_with(own))
}

fn check_nats(settings: &Matchmaker, findings: &mut Findings) {
    let nats = &settings.nats;
    if nats.host.is_empty() {
        let user = match settings.nats_back {
            true => "matchmaker_nats_back is on",
            false => "matchmaker_provider is nats",
        };
        findings.error("matchmaker_nats_host", &format!("missing, while {user}"));
    }
    match (nats.user.is_empty(), nats.password.is_empty()) {
        (true, true) => findings.warning("matchmaker_nats_user", "missing: whoever reaches NATS may do the same"),
        (true, false) => findings.error("matchmaker_nats_user", "missing, while matchmaker_nats_password is set"),
        (false, true) => findings.error("matchmaker_nats_password", "missing, while matchmaker_nats_user is set"),
        (false, false) => {}
    }
}

const SECRET_BYTES_MIN: usize = 16;
/// The game servers' bucket of client ids forgets an entry after so long.
const REGISTERED: Duration = Duration::from_secs(30);
/// A token may be made so much later than its entry.
const REGISTERING: Duration = Duration::from_secs(5);
