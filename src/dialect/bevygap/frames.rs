//! What a client is told: one frame for each feedback, or one answer at the end.
//!
//! Owns: the spelling of both, and which HTTP status goes with a failure.
//! Never: writes more of a failure than its own text.

use std::io::Write as _;
use std::net::SocketAddr;

use data_encoding::BASE64;

use crate::codec::json;
use crate::message::game_server::{Failure, Feedback, Grant};

/// Appends the frame for this feedback; `token` is the sealed token of [`Feedback::Ready`]. [`Feedback::End`] has none.
pub fn push_frame(out: &mut Vec<u8>, feedback: &Feedback, token: &[u8]) {
    match feedback {
        Feedback::Acknowledged => put(out, r#""Acknowledged""#),
        Feedback::Accepted(session) => push_tagged(out, "SessionRequestAccepted", session.as_str()),
        Feedback::Progress(text) => push_tagged(out, "ProgressReport", text),
        Feedback::Ready(grant) => {
            put(out, r#"{"SessionReady":"#);
            push_server(out, ["token", "ip", "port"], grant, token);
            put(out, "}");
        }
        Feedback::Failed(failure) => {
            put(out, r#"{"Error":["#);
            json::push_u64(out, u64::from(failure.code));
            put(out, ",");
            json::push_string(out, &failure.text);
            put(out, "]}");
        }
        Feedback::Forwarded(text) => put(out, text),
        Feedback::ForwardedOutcome(outcome) => put(out, &outcome.body),
        Feedback::End => {}
    }
}

/// Appends the body of the answer to a request for the configured game, `/matchmaker/wannaplay`: JSON for
/// [`Feedback::Ready`], plain text for a failure. Nothing for what is no last word.
pub fn push_single(out: &mut Vec<u8>, feedback: &Feedback, token: &[u8]) {
    match feedback {
        Feedback::Ready(grant) => {
            push_server(out, ["connect_token", "gameserver_ip", "gameserver_port"], grant, token);
        }
        Feedback::Failed(failure) => put(out, &failure.text),
        Feedback::ForwardedOutcome(outcome) => put(out, &outcome.body),
        Feedback::Acknowledged
        | Feedback::Accepted(_)
        | Feedback::Progress(_)
        | Feedback::Forwarded(_)
        | Feedback::End => {}
    }
}

/// The status of the answer in one piece.
#[must_use]
pub fn single_status(failure: &Failure) -> u16 {
    http_status(failure.code)
}

/// What another matchmaker calls a failure, as a status that every HTTP client knows to be one; 200 stays as it is.
#[must_use]
pub fn http_status(code: u16) -> u16 {
    match code {
        200 | 400..=599 => code,
        _ => 502,
    }
}

fn push_tagged(out: &mut Vec<u8>, tag: &str, text: &str) {
    for part in ["{\"", tag, "\":"] {
        put(out, part);
    }
    json::push_string(out, text);
    put(out, "}");
}

/// The two answers differ in the names of all but the digest.
fn push_server(out: &mut Vec<u8>, [token_name, ip_name, port_name]: [&str; 3], grant: &Grant, token: &[u8]) {
    let (public, digest): (SocketAddr, _) = (grant.public, grant.cert_digest);
    for part in ["{\"", token_name, "\":\""] {
        put(out, part);
    }
    let start = out.len();
    out.resize(start + BASE64.encode_len(token.len()), 0);
    BASE64.encode_mut(token, out.get_mut(start..).unwrap_or_default());
    let (ip, port) = (public.ip(), public.port());
    write!(
        out,
        r#"","{ip_name}":"{ip}","{port_name}":{port},"cert_digest":"{digest}"}}"#
    )
    .expect("writing to a vector does not fail");
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}
