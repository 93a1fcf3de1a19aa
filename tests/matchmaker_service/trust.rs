//! Who is let in: tickets.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use serde_json::json;

use crate::scene::{GAME, Service, options, request};
use crate::support::{Client, ConnectError, http};

const SECRET: &str = "of-the-tickets";

/// A ticket that ends so many seconds from now.
fn ticket(secret: &str, ahead_s: i64) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let expiry = now_s.checked_add_signed(ahead_s).unwrap().to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!(
        "{expiry}.{}",
        HEXLOWER.encode(hmac::sign(&key, expiry.as_bytes()).as_ref())
    )
}

#[test]
fn a_ticket_is_asked_for_where_there_is_a_secret() {
    for loops in [1, 4] {
        let service = Service::with(loops, |config| config.matchmaker.ticket_secret = SECRET.to_owned());
        let good = ticket(SECRET, 60);
        let bearer = format!("Bearer {good}");
        let connect = |path: &str, headers: &[(&str, &str)]| Client::try_connect(service.addr, options(path, headers));
        let in_query = connect(&format!("/matchmaker/ws?ticket={good}"), &[]);
        let in_head = connect("/matchmaker/ws", &[("Authorization", &bearer)]);
        for client in [in_query, in_head] {
            let mut client = client.unwrap();
            client.send_json(&request(GAME));
            client.expect_json(&json!("Acknowledged"));
        }
        let bad = [
            ticket(SECRET, -1),
            ticket("another", 60),
            "1.2".to_owned(),
            String::new(),
        ];
        for ticket in &bad {
            let Err(ConnectError::Refused(refusal)) = connect(&format!("/matchmaker/ws?ticket={ticket}"), &[]) else {
                panic!("{ticket} is taken");
            };
            assert_eq!(
                (refusal.status, refusal.text().as_str()),
                (401, "a valid ticket is required")
            );
            for path in [
                format!("/matchmaker/request/{GAME}/1"),
                "/matchmaker/wannaplay".to_owned(),
            ] {
                let refusal = http(service.addr, "POST", &format!("{path}?ticket={ticket}"), &[]);
                assert_eq!(refusal.status, 401, "{path} {ticket}");
                assert_eq!(refusal.header("www-authenticate").as_deref(), Some("Bearer"));
            }
        }
        let refused = "peer_server_game_server_refused_total{reason=\"ticket\"}";
        service.wait_for_metric(refused, 3 * bad.len() as u64);
        // The page and the preflight are for everybody.
        assert_eq!(http(service.addr, "GET", "/matchmaker", &[]).status, 200);
        assert_eq!(http(service.addr, "OPTIONS", "/matchmaker/wannaplay", &[]).status, 200);
    }
}
