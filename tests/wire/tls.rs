//! TLS on the peers' port: versions, what is not TLS, and certificates that change while it serves.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, version};
use serde_json::json;

use crate::scene::{Peer, Raw, STATE_WITHIN, metric, serve, wait_for_metric, wait_until};
use crate::support::{Certificate, ConnectOptions, Server, WireOptions, https, trust_anything};

fn server(certificate: &Certificate, loops: u32) -> Server {
    serve(json!({ "loops": loops, "tls_cert": certificate.chain(), "tls_key": certificate.key() }))
}

fn with_tls(tls: Arc<ClientConfig>) -> ConnectOptions {
    ConnectOptions {
        wire: WireOptions {
            tls: Some(tls),
            ..WireOptions::default()
        },
        ..ConnectOptions::default()
    }
}

#[test]
fn peers_signal_each_other_over_tls_1_2_and_1_3() {
    let certificate = Certificate::generate();
    for loops in [1, 2, 4] {
        let server = server(&certificate, loops);
        let connect = |key: &str, tls| {
            let mut peer = Peer::register_as(server.addr(), with_tls(tls), json!({ "public_key": key }));
            peer.join("hall");
            peer
        };
        let mut old = connect("old", trust_anything(&[&version::TLS12], &["http/1.1"]));
        let mut new = connect("new", trust_anything(&[&version::TLS13], &["h2", "http/1.1"]));
        let mut plain = connect("no protocols", trust_anything(&[], &[]));
        assert_eq!(old.client.wire().tls_version(), Some(ProtocolVersion::TLSv1_2));
        assert_eq!(new.client.wire().tls_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(new.client.wire().alpn().as_deref(), Some(&b"http/1.1"[..]));
        assert_eq!(plain.client.wire().alpn(), None);
        // Larger than a record.
        let offer = json!({ "sdp": "x".repeat(40_000) });
        let exchange = |from: &mut Peer, to: &mut Peer| {
            from.client
                .send_json(&json!({ "type": "signal", "to": to.fingerprint, "payload": offer }));
            assert_eq!(to.next("signal")["payload"], offer);
        };
        exchange(&mut old, &mut new);
        exchange(&mut new, &mut old);
        exchange(&mut plain, &mut old);
        exchange(&mut old, &mut plain);
        assert_eq!(https(server.addr(), "GET", "/health", &[]).json()["peers"], 3);
        wait_for_metric(&server, "peer_server_tls_handshakes_total", 4);
    }
}

#[test]
fn plain_http_to_the_tls_port_is_closed() {
    let certificate = Certificate::generate();
    // Blanks alone are no HTTP yet: they are closed in time.
    let server = serve(json!({
        "loops": 2, "read_timeout": "2s", "tls_cert": certificate.chain(), "tls_key": certificate.key()
    }));
    for bytes in [crate::scene::UPGRADE.as_bytes(), b"\r\n\r\n", b"\0\0\0\0\0\0\0\0"] {
        let mut raw = Raw::open(server.addr());
        raw.send(bytes);
        let (answer, _) = raw.rest(STATE_WITHIN);
        assert!(
            !answer.starts_with(b"HTTP"),
            "plain text: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(https(server.addr(), "GET", "/livez", &[]).status, 200);
    assert_eq!(metric(&server, "peer_server_upgrades_total"), 0);
}

#[test]
fn the_closing_handshake_ends_with_close_notify() {
    let certificate = Certificate::generate();
    let server = server(&certificate, 2);
    let options = || with_tls(trust_anything(&[], &[]));
    let peer = Peer::register_as(server.addr(), options(), json!({ "public_key": "polite" }));
    let closed = peer.client.close(1000, "bye").unwrap();
    assert_eq!(closed.code, Some(1000));
}

/// Believes in this one certificate only.
fn trust_only(chain: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(chain).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// Whether new connections are shown this certificate. A configuration of its own each time: no tickets.
fn serves(server: &Server, chain: &Path) -> bool {
    crate::support::Client::try_connect(server.addr(), with_tls(trust_only(chain))).is_ok()
}

#[test]
fn a_new_certificate_is_for_new_connections_and_old_ones_stay() {
    let (first, second, shown) = (
        Certificate::generate(),
        Certificate::generate(),
        Certificate::generate(),
    );
    let install = |from: &Certificate| {
        std::fs::copy(from.chain(), shown.chain()).unwrap();
        std::fs::copy(from.key(), shown.key()).unwrap();
    };
    install(&first);
    let server = server(&shown, 4);
    assert!(serves(&server, &first.chain()) && !serves(&server, &second.chain()));
    let connect = |key: &str, chain: &Path| {
        let mut peer = Peer::register_as(server.addr(), with_tls(trust_only(chain)), json!({ "public_key": key }));
        peer.join("hall");
        peer
    };
    let mut alice = connect("alice", &first.chain());

    install(&second);
    server.signal("HUP");
    // Every loop has it when none shows the old one; eight in a row is as good as that on four loops.
    wait_until(
        || (0..16).all(|_| !serves(&server, &first.chain())),
        || format!("the new certificate; log: {}", server.stderr_tail()),
    );
    assert!((0..8).all(|_| serves(&server, &second.chain())));
    let mut bob = connect("bob", &second.chain());
    alice.round_trip();
    alice.relay(&bob.fingerprint, json!("hello"));
    assert_eq!(bob.next("relay")["payload"], "hello");

    // None of these can be used: the one in use stays.
    let bad: [&dyn Fn(); 4] = [
        &|| std::fs::write(shown.chain(), "not a certificate").unwrap(),
        &|| assert!(std::fs::copy(first.chain(), shown.chain()).is_ok()),
        &|| std::fs::write(shown.key(), "").unwrap(),
        &|| std::fs::remove_file(shown.chain()).unwrap(),
    ];
    for (number, spoil) in bad.iter().enumerate() {
        install(&second);
        spoil();
        server.signal("HUP");
        wait_until(
            || server.stderr().matches("the certificate was not reloaded").count() == number + 1,
            || format!("a complaint about attempt {number}: {}", server.stderr_tail()),
        );
        assert!((0..8).all(|_| serves(&server, &second.chain())), "attempt {number}");
    }
    alice.round_trip();
    bob.round_trip();

    install(&first);
    server.signal("HUP");
    wait_until(
        || (0..16).all(|_| serves(&server, &first.chain())),
        || "the first certificate again".to_owned(),
    );
    assert!(!server.stderr().contains("PRIVATE"), "a key in the log");
}

#[test]
fn sighup_without_tls_is_harmless() {
    let mut server = serve(json!({ "loops": 2 }));
    let mut peer = Peer::register(server.addr(), "somebody");
    server.signal("HUP");
    wait_until(
        || server.stderr().contains("nothing to reload"),
        || server.stderr_tail(),
    );
    peer.round_trip();
    assert!(server.is_running());
}
