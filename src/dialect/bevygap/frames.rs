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

/// The status of the answer in one piece. What no client would know to be a failure is a bad gateway.
#[must_use]
pub fn single_status(failure: &Failure) -> u16 {
    match failure.code {
        code @ 400..=599 => code,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;
    use crate::message::game_server::{CertDigest, KeyIndex, Outcome, SessionName};

    fn frame(feedback: &Feedback, token: &[u8]) -> String {
        let mut out = Vec::new();
        push_frame(&mut out, feedback, token);
        String::from_utf8(out).unwrap()
    }

    fn single(feedback: &Feedback, token: &[u8]) -> String {
        let mut out = Vec::new();
        push_single(&mut out, feedback, token);
        String::from_utf8(out).unwrap()
    }

    fn ready(public: &str) -> Feedback {
        Feedback::Ready(Box::new(Grant {
            session: SessionName::new("s-1").unwrap(),
            client_id: 7,
            public: public.parse().unwrap(),
            internal: Vec::new(),
            cert_digest: CertDigest::parse(&"aB".repeat(32)).unwrap(),
            key: KeyIndex(0),
        }))
    }

    #[test]
    fn every_feedback_has_its_frame() {
        let failure = Failure {
            code: 503,
            text: "no \"server\"\n".into(),
        };
        let outcome = Outcome {
            status: 200,
            body: "{}".to_owned(),
        };
        for (feedback, expected) in [
            (Feedback::Acknowledged, json!("Acknowledged")),
            (
                Feedback::Accepted(SessionName::new("a_b-9").unwrap()),
                json!({ "SessionRequestAccepted": "a_b-9" }),
            ),
            (
                Feedback::Progress("Seeking \\ (2)".into()),
                json!({ "ProgressReport": "Seeking \\ (2)" }),
            ),
            (Feedback::Failed(failure), json!({ "Error": [503, "no \"server\"\n"] })),
            (Feedback::Forwarded("[1]".into()), json!([1])),
            (Feedback::ForwardedOutcome(Box::new(outcome)), json!({})),
        ] {
            let frame = frame(&feedback, &[]);
            assert_eq!(serde_json::from_str::<Value>(&frame).unwrap(), expected, "{frame}");
        }
        assert_eq!(frame(&Feedback::End, &[]), "");
    }

    #[test]
    fn a_server_is_told_with_its_token() {
        let digest = ["ab"; 32].join(":");
        assert_eq!(
            frame(&ready("203.0.113.10:30004"), b"\xff\xfe"),
            format!(
                r#"{{"SessionReady":{{"token":"//4=","ip":"203.0.113.10","port":30004,"cert_digest":"{digest}"}}}}"#
            )
        );
        assert_eq!(
            single(&ready("[2001:db8::1]:1"), &[]),
            format!(
                r#"{{"connect_token":"","gameserver_ip":"2001:db8::1","gameserver_port":1,"cert_digest":"{digest}"}}"#
            )
        );
    }

    #[test]
    fn only_a_last_word_is_an_answer_in_one_piece() {
        let outcome = Outcome {
            status: 409,
            body: "mock failure".to_owned(),
        };
        assert_eq!(
            single(&Feedback::Failed(Failure::NO_SERVER), &[]),
            "no server available"
        );
        assert_eq!(
            single(&Feedback::ForwardedOutcome(Box::new(outcome)), &[]),
            "mock failure"
        );
        for feedback in [
            Feedback::Acknowledged,
            Feedback::Accepted(SessionName::new("s").unwrap()),
            Feedback::Progress("x".into()),
            Feedback::Forwarded("1".into()),
            Feedback::End,
        ] {
            assert_eq!(single(&feedback, &[]), "", "{feedback:?}");
        }
    }

    #[test]
    fn every_status_is_one_that_clients_know_to_be_a_failure() {
        for (code, status) in [
            (400, 400),
            (429, 429),
            (503, 503),
            (599, 599),
            (999, 502),
            (0, 502),
            (200, 502),
        ] {
            assert_eq!(single_status(&Failure::new(code, "")), status);
        }
    }
}
