//! The process's own limits: unregistered connections, descriptors, the port.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::scene::{
    HTTP_CONNECTIONS, Peer, Raw, STATE_WITHIN, are_full, cpu_time, limit_descriptors, metric, open_everywhere, serve,
    wait_for_metric, wait_until,
};
use crate::support::{HttpConnection, Server, WireOptions, http};

/// The status that a new connection gets, or none if the server closes it without a word.
fn status(server: &Server) -> Option<u16> {
    let mut connection = HttpConnection::open(server.addr(), &WireOptions::default()).ok()?;
    let answer = connection.request("GET", "/livez", &[("Connection", "close")]).ok()?;
    Some(answer.status)
}

#[test]
fn a_thousand_and_twenty_five_unregistered_connections_are_one_too_many() {
    let server = serve(json!({ "loops": 2, "max_peers": 10 }));
    let mut registered = Peer::register(server.addr(), "registered");
    let before = open_everywhere(server.pid()).len();
    let mut held: Vec<Raw> = (0..1024).map(|_| Raw::open(server.addr())).collect();
    // What is connected need not be accepted yet. Asking the server would take one of the places.
    wait_until(
        || open_everywhere(server.pid()).len() == before + 1024,
        || "all accepted".to_owned(),
    );
    assert_eq!(status(&server), Some(503));
    let mut refused = Raw::open(server.addr());
    let (answer, _) = refused.rest(STATE_WITHIN);
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("\r\nRetry-After: ") && answer.contains("\r\nConnection: close\r\n"),
        "{answer}"
    );
    registered.round_trip();

    // Whoever is inside may go on, and makes room by registering.
    let mut insider = held.pop().unwrap();
    insider.send(crate::scene::UPGRADE.as_bytes());
    insider.switch();
    assert_eq!(status(&server), Some(503));
    insider.send(&crate::scene::framed(&crate::scene::register("insider")));
    assert_eq!(insider.json()["type"], "registered");
    wait_until(|| status(&server) == Some(200), || "room for one".to_owned());
    drop(held);
    wait_for_metric(&server, HTTP_CONNECTIONS, 0);
    assert!(metric(&server, "peer_server_accept_refused_total") >= 2);
    registered.round_trip();
}

#[test]
fn without_descriptors_accepting_pauses_and_nobody_else_notices() {
    for (loops, tables) in [(1, "per_loop"), (1, "shared"), (2, "per_loop"), (2, "shared")] {
        let server = serve(json!({ "loops": loops, "descriptor_tables": tables }));
        let mut alice = Peer::register(server.addr(), "alice");
        let mut bob = Peer::register(server.addr(), "bob");
        alice.join("hall");
        bob.join("hall");
        let limit = limit_descriptors(&server, 8);
        // The kernel completes all these connections; the server can take about eight of them in each of its tables.
        let held: Vec<Raw> = (0..80).map(|_| Raw::open(server.addr())).collect();
        wait_until(
            || server.stderr().contains("accepting pauses") && are_full(&server, limit),
            || "a pause in the log".to_owned(),
        );
        let mut waiting = Raw::open(server.addr());
        waiting.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n");

        let (began, used) = (Instant::now(), cpu_time(server.pid()));
        let mut relays = 0;
        while began.elapsed() < Duration::from_secs(1) {
            alice.relay(&bob.fingerprint, json!(relays));
            assert_eq!(bob.next("relay")["payload"], relays);
            relays += 1;
            assert!(waiting.poll(Duration::from_millis(20)).is_none(), "it cannot be served");
        }
        let share = (cpu_time(server.pid()) - used).as_secs_f64() / began.elapsed().as_secs_f64();
        assert!(share < 0.2, "it spins: {:.0} % of a core", share * 100.0);

        drop(held);
        assert!(waiting.head().starts_with("HTTP/1.1 200 "));
        wait_until(|| status(&server) == Some(200), || "accepting goes on".to_owned());
        assert!(metric(&server, "peer_server_accept_paused_total") > 0);
        alice.round_trip();
    }
}

#[test]
fn a_second_instance_ends_with_address_in_use() {
    let first = Server::start(json!({ "loops": 2 }), &[]);
    let config = json!({ "loops": 2, "port": first.addr().port() });
    let failure = match Server::try_start(config, &[]) {
        Ok(_) => panic!("both are up"),
        Err(failure) => failure,
    };
    assert_eq!(failure.status.and_then(|status| status.code()), Some(1), "{failure:?}");
    assert!(failure.stderr.contains("address in use"), "{failure:?}");
    assert_eq!(failure.stdout, "");
    assert_eq!(http(first.addr(), "GET", "/livez", &[]).status, 200);
}

#[test]
fn a_port_is_free_again_as_soon_as_its_server_has_ended() {
    let mut first = Server::start(json!({ "loops": 2 }), &[]);
    let peer = Peer::register(first.addr(), "somebody");
    let addr = first.addr();
    first.signal("TERM");
    assert!(first.wait_exit(STATE_WITHIN).success());
    drop(peer);
    let again = Server::start(json!({ "loops": 2, "port": addr.port() }), &[]);
    assert_eq!(http(again.addr(), "GET", "/livez", &[]).status, 200);
}

/// Serves on the port of the metrics page and says so once.
fn assert_serves_without_metrics(port: u16, config: serde_json::Value) {
    let server = match Server::try_start(config, &[("PEER_PORT", &port.to_string())]) {
        Ok(server) => server,
        Err(failure) if failure.stderr.contains("address in use") => {
            eprintln!("skipped: somebody else listens on port {port} of this machine");
            return;
        }
        Err(failure) => panic!("{failure:#?}"),
    };
    assert_eq!(server.addr().port(), port);
    assert_eq!(http(server.addr(), "GET", "/livez", &[]).status, 200);
    assert_eq!(http(server.addr(), "GET", "/metrics", &[]).status, 404);
    Peer::register(server.addr(), "somebody").round_trip();
    // The log is read by a thread of its own.
    wait_until(|| server.stderr().contains(" serving "), || server.stderr());
    let log = server.stderr();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("metrics are not served"), "{log}");
}

#[test]
fn peer_port_9090_is_served_though_it_is_the_metrics_port() {
    // The file says nothing of metrics but that they are wanted: their port is the default one.
    assert_serves_without_metrics(9090, json!({ "metrics_enabled": true, "max_peers": 10 }));
}

#[test]
fn any_port_is_served_though_it_is_the_metrics_port() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    assert_serves_without_metrics(
        port,
        json!({ "metrics_enabled": true, "metrics_port": port, "max_peers": 10 }),
    );
}
