//! The matchmaker web service's texts: first messages, paths, queries, tickets, reports, payloads.
//!
//! Input: one byte for which of them, then the text or the body.
//! Property: what is read is within its bounds and may stand where it will be put; what is refused is told in one short line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_server::dialect::bevygap;
use peer_server::message::game_server::{Name, REPORTED_MAX};

const NOW: u64 = 1_767_225_600;

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let text = std::str::from_utf8(data);
    match (kind % 6, text) {
        (0, Ok(text)) => first_message(text),
        (1, Ok(text)) => path(text),
        (2, Ok(text)) => query(text),
        (3, Ok(text)) => ticket(text),
        (4, _) => report(data),
        (5, _) => seek(data),
        _ => {}
    }
});

fn good(name: &Name) {
    let name = name.as_str();
    assert!((1..=30).contains(&name.len()));
    assert!(
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    );
}

fn told(text: &str) {
    assert!(text.len() <= 400 && text.starts_with("ERR "), "{text}");
}

fn first_message(text: &str) {
    let value = serde_json::from_str::<serde_json::Value>(text);
    match bevygap::parse_request(text) {
        Ok(request) => {
            good(&request.game);
            good(&request.version);
            // A member that is ignored may hold what has no value, such as 1e999.
            let Ok(value) = value else { return };
            assert_eq!(value["game"], request.game.as_str());
            assert_eq!(value["version"], request.version.as_str());
            assert_eq!(value["client_ip"].as_str(), request.client_ip.as_deref());
        }
        Err(text) => told(&text),
    }
}

fn path(text: &str) {
    let path = format!("/matchmaker/request/{text}");
    match bevygap::parse_path(&path) {
        Some(Ok((game, version))) => {
            good(&game);
            good(&version);
            let plain = format!("/matchmaker/request/{game}/{version}");
            assert_eq!(bevygap::parse_path(&plain), Some(Ok((game, version))));
        }
        Some(Err(text)) => told(&text),
        None => assert_ne!(
            text.matches('/').count(),
            usize::from(!text.starts_with('/') && !text.ends_with('/'))
        ),
    }
    bevygap::parse_path(text);
    if let Some(server) = bevygap::reporting_server(text) {
        assert!((1..=128).contains(&server.len()) && !server.contains('/') && !server.contains(char::is_control));
    }
}

fn query(text: &str) {
    let (query, said) = text.split_once('\n').unwrap_or((text, ""));
    let peer = "192.0.2.1".parse().expect("an address");
    let fake = "203.0.113.7".parse().expect("an address");
    assert_eq!(bevygap::client_ip(peer, query, Some(said), false, Some(fake)), Ok(peer));
    match bevygap::client_ip(peer, query, Some(said), true, Some(fake)) {
        Ok(ip) => assert!(ip == ip.to_canonical() && !ip.is_loopback() && !ip.is_unspecified()),
        Err(text) => told(text),
    }
}

fn ticket(text: &str) {
    let (secret, ticket) = text.split_once('\n').unwrap_or(("", text));
    // Nobody guesses a seal, but a secret may well stand in the input twice.
    assert!(!bevygap::verify_ticket(secret, ticket, NOW));
    let shown = bevygap::bearer(ticket.as_bytes());
    let same = !secret.is_empty() && shown == Some(secret);
    assert_eq!(bevygap::verify_bearer(secret, ticket.as_bytes()), same);
    assert_eq!(
        bevygap::is_admitted(secret, Some(ticket.as_bytes()), Some(ticket), NOW),
        same
    );
}

fn report(body: &[u8]) {
    match bevygap::parse_report("eu-1", body) {
        Ok(report) => {
            assert_eq!(&*report.server, "eu-1");
            assert!(report.players.is_none_or(|players| players <= 1_000_000));
            assert!(report.claimed.len() <= REPORTED_MAX && report.left.len() <= REPORTED_MAX);
        }
        Err(text) => assert!(text.len() < 200 && !text.contains('\n'), "{text}"),
    }
}

fn seek(payload: &[u8]) {
    if let Ok(client_ip) = bevygap::parse_seek(payload) {
        assert_eq!(client_ip, client_ip.to_canonical());
        let mut out = Vec::new();
        bevygap::push_seek(&mut out, client_ip, None);
        assert_eq!(bevygap::parse_seek(&out), Ok(client_ip));
    }
}
