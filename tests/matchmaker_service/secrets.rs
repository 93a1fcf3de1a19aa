//! The log, which holds no secret however much of it is written.

use std::io::{self, Write};
use std::sync::{Mutex, Once, PoisonError};

use data_encoding::HEXLOWER;
use serde_json::json;
use tracing::level_filters::LevelFilter;

use crate::scene::{KEY, STATIC_GAME, Service, exchange, parts, request};

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static BEGUN: Once = Once::new();

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has everything written that any server of this process has to say.
fn begin_log() {
    BEGUN.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_writer(|| Log)
            .init();
    });
}

#[test]
fn no_key_no_token_and_no_secret_is_written_to_the_log() {
    begin_log();
    let (ticket_secret, report_secret) = ("a-ticket-secret-of-ours", "a-report-secret-of-ours");
    let service = Service::with(4, |config| {
        config.matchmaker.ticket_secret = ticket_secret.to_owned();
        config.matchmaker.report_secret = report_secret.to_owned();
    });
    let bearer = format!("Bearer {ticket_secret}");
    let mut client = service.connect_to("/matchmaker/ws", &[("Authorization", &bearer)]);
    client.send_json(&request(STATIC_GAME));
    client.expect_json(&json!("Acknowledged"));
    let mut last = client.recv_json();
    while last.get("SessionReady").is_none() {
        last = client.recv_json();
    }
    let token = last["SessionReady"]["token"].as_str().unwrap();
    client.expect_close(1000, None);
    for secret in [report_secret, "another-secret-of-theirs"] {
        let report = format!(
            "POST /matchmaker/servers/arena-1/report HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\n\
             Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        );
        parts(&exchange(service.addr, report.as_bytes()));
    }
    let refused = "POST /matchmaker/wannaplay?ticket=9.f00dcafe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    parts(&exchange(service.addr, refused.as_bytes()));
    drop(service);

    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let log = String::from_utf8_lossy(&log);
    assert!(log.contains("serving"), "the log is written");
    let key_in_numbers = |glue: &str| KEY[..4].iter().map(u8::to_string).collect::<Vec<_>>().join(glue);
    for secret in [
        HEXLOWER.encode(&KEY[..4]).as_str(),
        HEXLOWER.encode(&KEY[..4]).to_uppercase().as_str(),
        &key_in_numbers(","),
        &key_in_numbers(", "),
        &token[..40],
        ticket_secret,
        report_secret,
        "another-secret-of-theirs",
        "f00dcafe",
    ] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
