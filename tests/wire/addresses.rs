//! What one address may do, also behind a proxy: refused with 429 before the upgrade.

use serde_json::{Value, json};

use crate::scene::{Peer, from_address, metric, serve, wait_for_metric, wait_until};
use crate::support::{Client, ConnectError, ConnectOptions, Server};

/// Through a proxy at 127.0.0.1, which says that the client is `client`.
fn forwarded(client: &str) -> ConnectOptions {
    ConnectOptions {
        headers: vec![("X-Forwarded-For".to_owned(), client.to_owned())],
        ..ConnectOptions::default()
    }
}

/// Connects, unless a limit of the address forbids it.
fn admitted(server: &Server, options: ConnectOptions) -> Option<Client> {
    match Client::try_connect(server.addr(), options) {
        Ok(client) => Some(client),
        Err(ConnectError::Refused(answer)) => {
            assert_eq!(answer.status, 429, "{answer:?}");
            assert_eq!(answer.header("connection").as_deref(), Some("close"));
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn behind_proxy(loops: u32, limit: &str, value: u32) -> Server {
    let mut config = json!({ "loops": loops, "trusted_proxies": ["127.0.0.1/32"] });
    config[limit] = value.into();
    serve(config)
}

#[test]
fn connections_of_an_address_are_bounded_and_a_closed_one_makes_room() {
    for loops in [1, 4] {
        let server = behind_proxy(loops, "max_connections_per_ip", 5);
        let mut held: Vec<Client> = (0..5)
            .map(|_| admitted(&server, forwarded("203.0.113.7")).expect("below the limit"))
            .collect();
        for _ in 0..10 {
            assert!(admitted(&server, forwarded("203.0.113.7")).is_none());
        }
        assert!(admitted(&server, forwarded("203.0.113.8")).is_some(), "another address");
        wait_for_metric(&server, "peer_server_address_refused_total", 10);
        for _ in 0..3 {
            held.pop();
            wait_until(
                || {
                    held.extend(admitted(&server, forwarded("203.0.113.7")));
                    held.len() == 5
                },
                || "room after a close".to_owned(),
            );
            assert!(admitted(&server, forwarded("203.0.113.7")).is_none());
        }
    }
}

#[test]
fn a_registered_peer_still_counts_as_a_connection_after_it_moved() {
    let server = behind_proxy(4, "max_connections_per_ip", 8);
    let mut peers: Vec<Peer> = (0..8)
        .map(|n| {
            Peer::register_as(
                server.addr(),
                forwarded("203.0.113.7"),
                json!({ "public_key": format!("peer {n}") }),
            )
        })
        .collect();
    wait_until(
        || metric(&server, "peer_server_connections_moved_total") > 0,
        || "a move: eight keys cannot all be at home where they arrived".to_owned(),
    );
    assert!(admitted(&server, forwarded("203.0.113.7")).is_none());
    peers.clear();
    wait_until(
        || {
            let all: Vec<_> = (0..8)
                .map_while(|_| admitted(&server, forwarded("203.0.113.7")))
                .collect();
            all.len() == 8
        },
        || "room for eight again".to_owned(),
    );
}

#[test]
fn registering_makes_room_among_the_unregistered() {
    for loops in [1, 4] {
        let server = behind_proxy(loops, "unregistered_per_ip", 2);
        let first = admitted(&server, forwarded("203.0.113.7")).unwrap();
        let _second = admitted(&server, forwarded("203.0.113.7")).unwrap();
        assert!(admitted(&server, forwarded("203.0.113.7")).is_none());
        first.send_json(&json!({ "type": "register", "payload": { "public_key": "first" } }));
        wait_until(
            || admitted(&server, forwarded("203.0.113.7")).is_some(),
            || "room after a registration".to_owned(),
        );
        drop(first);
    }
}

#[test]
fn upgrades_of_an_address_are_a_rate() {
    for loops in [1, 4] {
        let server = behind_proxy(loops, "registrations_per_sec_per_ip", 3);
        let granted = (0..30)
            .filter(|_| admitted(&server, forwarded("203.0.113.7")).is_some())
            .count();
        assert!((3..30).contains(&granted), "{granted} of 30 at once");
        assert!(admitted(&server, forwarded("203.0.113.8")).is_some(), "another address");
        wait_until(
            || admitted(&server, forwarded("203.0.113.7")).is_some(),
            || "a new token".to_owned(),
        );
    }
}

#[test]
fn an_ipv6_64_is_one_client() {
    let server = behind_proxy(4, "max_connections_per_ip", 1);
    let _first = admitted(&server, forwarded("2001:db8::1")).unwrap();
    assert!(admitted(&server, forwarded("2001:db8::ffff")).is_none());
    assert!(admitted(&server, forwarded("2001:db8:0:1::1")).is_some());
    let _mapped = admitted(&server, forwarded("::ffff:203.0.113.7")).unwrap();
    assert!(admitted(&server, forwarded("203.0.113.7")).is_none());
}

#[test]
fn the_client_is_the_right_most_hop_that_is_not_trusted() {
    let mut config = json!({ "loops": 4, "max_connections_per_ip": 1 });
    config["trusted_proxies"] = json!(["127.0.0.1/32", "10.0.0.0/8"]);
    let server = serve(config);
    let _held = admitted(&server, forwarded("203.0.113.7")).unwrap();
    for same in [
        "198.51.100.1, 203.0.113.7",
        "203.0.113.7, 10.1.2.3",
        "junk, 203.0.113.7 ,10.1.2.3, 10.0.0.1",
        "203.0.113.7,127.0.0.1",
    ] {
        assert!(
            admitted(&server, forwarded(same)).is_none(),
            "{same} is 203.0.113.7 too"
        );
    }
    for other in ["203.0.113.7, 198.51.100.1", "203.0.113.7, 198.51.100.2, 10.1.2.3"] {
        assert!(admitted(&server, forwarded(other)).is_some(), "{other} is another");
    }
    // Several fields are one list.
    let mut twice = forwarded("203.0.113.99");
    twice
        .headers
        .push(("X-Forwarded-For".to_owned(), "203.0.113.7".to_owned()));
    assert!(admitted(&server, twice).is_none());
}

#[test]
fn nobody_else_is_believed_about_where_it_comes_from() {
    let config: Value = json!({ "loops": 4, "max_connections_per_ip": 1, "trusted_proxies": ["10.0.0.0/8"] });
    let server = serve(config);
    let from = |source: &str, claimed: &str| ConnectOptions {
        wire: from_address(source),
        ..forwarded(claimed)
    };
    let _held = admitted(&server, from("127.0.0.2", "203.0.113.1")).unwrap();
    assert!(
        admitted(&server, from("127.0.0.2", "203.0.113.2")).is_none(),
        "a claim made room"
    );
    assert!(
        admitted(&server, from("127.0.0.3", "203.0.113.1")).is_some(),
        "a claim took room"
    );
}

#[test]
fn bytes_sent_with_an_upgrade_that_waits_for_its_address_are_not_lost() {
    let server = serve(json!({ "loops": 4, "max_connections_per_ip": 1000 }));
    for number in 0..100 {
        let mut raw = crate::scene::Raw::open(server.addr());
        let mut bytes = crate::scene::UPGRADE.as_bytes().to_vec();
        for message in [
            crate::scene::register(&format!("key {number}")),
            crate::scene::join(&format!("hall {number}")),
        ] {
            bytes.extend(crate::scene::framed(&message));
        }
        raw.send(&bytes);
        raw.switch();
        assert_eq!(raw.json()["type"], "registered");
        assert_eq!(raw.json()["type"], "peer_list");
    }
}
