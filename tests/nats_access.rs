//! Who may reach a NATS server, and how: the real program against real servers that ask for it.
//!
//! A program that comes up has taken a lease; one that is refused ends with status 1 and says why, without the secret.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use support::{Certificate, NatsServer, Server};

/// More than a server that cannot reach its broker waits.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

fn start(server: &NatsServer, more: Value) -> Result<Server, String> {
    let mut config = json!({"broker_type": "nats", "nats_url": server.url(), "loops": 1});
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    Server::try_start(config, &[]).map_err(|failure| {
        assert_eq!(failure.status.and_then(|status| status.code()), Some(1), "{failure:#?}");
        failure.stderr
    })
}

/// It comes up with these settings and ends well.
fn comes_up(server: &NatsServer, more: Value) {
    let mut program = start(server, more).unwrap();
    program.signal("TERM");
    assert_eq!(program.wait_exit(ENDS_WITHIN).code(), Some(0));
}

/// It does not come up, and says so in these words.
fn is_refused(server: &NatsServer, more: Value, words: &[&str]) {
    let text = start(server, more.clone()).map(|_| ()).unwrap_err();
    let last = text.lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "{more}: {text}");
    }
    assert!(!text.contains("hunter"), "{text}");
}

const REFUSED: &[&str] = &["nats: cannot be reached", "authorization violation"];

#[test]
fn a_user_needs_its_password() {
    let users = "authorization { users: [ { user: us, password: hunter2 } ] }";
    let Some(server) = NatsServer::start_with(users) else {
        return;
    };
    comes_up(&server, json!({"nats_user": "us", "nats_password": "hunter2"}));
    is_refused(&server, json!({"nats_user": "us", "nats_password": "hunter3"}), REFUSED);
    is_refused(&server, json!({}), REFUSED);
}

#[test]
fn a_token_must_be_the_right_one() {
    let Some(server) = NatsServer::start_with("authorization { token: hunter2 }") else {
        return;
    };
    comes_up(&server, json!({"nats_token": "hunter2"}));
    is_refused(&server, json!({"nats_token": "hunter3"}), REFUSED);
}

#[test]
fn a_server_must_have_a_certificate_of_the_own_authority() {
    let (own, other) = (Certificate::generate(), Certificate::generate());
    let tls = format!("tls {{ cert_file: {:?}, key_file: {:?} }}", own.chain(), own.key());
    let Some(server) = NatsServer::start_with(&tls) else {
        return;
    };
    comes_up(&server, json!({"nats_ca": own.chain()}));
    is_refused(
        &server,
        json!({"nats_ca": other.chain()}),
        &["nats: cannot be reached", "certificate"],
    );
    is_refused(&server, json!({"nats_ca": own.key()}), &["there is no certificate"]);
}

#[test]
fn a_server_that_takes_too_little_at_once_is_refused() {
    let Some(server) = NatsServer::start_with("max_payload: 100000") else {
        return;
    };
    is_refused(
        &server,
        json!({}),
        &["max_payload is 100000, and messages may have 147456 bytes"],
    );
    comes_up(&server, json!({"max_message_size": 16384}));
}

#[test]
fn a_user_of_an_account_needs_its_credentials_file() {
    let (operator, account, system) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let of_operator = jwt(&operator, &operator, "operator", json!({}));
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": 1 << 30, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = jwt(&operator, &account, "account", json!({"limits": limits}));
    let mut none = limits.clone();
    for storage in ["mem_storage", "disk_storage", "streams", "consumer"] {
        none[storage] = json!(0);
    }
    let of_system = jwt(&operator, &system, "account", json!({"limits": none}));
    let config = format!(
        "operator: {of_operator}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {of_account}, {}: \
         {of_system} }}",
        system.public_key(),
        account.public_key(),
        system.public_key()
    );
    let Some(server) = NatsServer::start_with(&config) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.creds");
    write_creds(&good, &account);
    comes_up(&server, json!({"nats_creds": good}));

    // Of an account that the operator does not know.
    let stranger = folder.path().join("stranger.creds");
    write_creds(&stranger, &KeyPair::new_account());
    is_refused(&server, json!({"nats_creds": stranger}), REFUSED);
    is_refused(&server, json!({}), REFUSED);
    let bad = folder.path().join("bad.creds");
    std::fs::write(&bad, "hunter2").unwrap();
    is_refused(&server, json!({"nats_creds": bad}), &["bad.creds: no credentials file"]);
    let absent = folder.path().join("absent.creds");
    is_refused(&server, json!({"nats_creds": absent}), &["absent.creds"]);
}

/// What `issuer` says of `subject`, signed.
fn jwt(issuer: &KeyPair, subject: &KeyPair, kind: &str, mut says: Value) -> String {
    says["type"] = json!(kind);
    says["version"] = json!(2);
    let claims = json!({
        "jti": "test", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": kind, "sub": subject.public_key(),
        "nats": says,
    });
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!(
        "{}.{}",
        part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})),
        part(&claims)
    );
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

fn write_creds(path: &Path, account: &KeyPair) {
    let user = KeyPair::new_user();
    let says = json!({"subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY \
         SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt(account, &user, "user", says),
        user.seed().unwrap()
    );
    std::fs::write(path, text).unwrap();
}
