//! What game servers say of themselves: `POST /matchmaker/servers/ID/report`.
//!
//! Owns: reading the path and the body, with a text for whoever writes a game server.
//! Never: knows which servers there are.

use serde_json::{Map, Value};

use crate::codec::http::percent_decode;
use crate::message::game_server::{CertDigest, REPORTED_MAX, Report};

/// Longest body: it holds two full lists of client ids.
pub const REPORT_BYTES_MAX: usize = 64 * 1024;

/// The `ID` of a report's path, decoded. None: another path, or one that names no server.
#[must_use]
pub fn reporting_server(path: &str) -> Option<String> {
    let server = path.strip_prefix("/matchmaker/servers/")?.strip_suffix("/report")?;
    let server = String::from_utf8(percent_decode(server).into_owned()).ok()?;
    let good = !server.is_empty() && server.len() <= SERVER_BYTES_MAX && !server.contains(['/', '\0']);
    (good && !server.chars().any(char::is_control)).then_some(server)
}

/// Reads a report of `server`. Members that it does not know are ignored, and null is as good as nothing.
///
/// # Errors
/// What is wrong, in one line.
pub fn parse_report(server: &str, body: &[u8]) -> Result<Report, String> {
    if body.len() > REPORT_BYTES_MAX {
        return Err(format!("a report has at most {REPORT_BYTES_MAX} bytes"));
    }
    let said: Map<String, Value> = serde_json::from_slice(body).map_err(|_| "a report is a JSON object".to_owned())?;
    let member = |name: &str| said.get(name).filter(|value| !value.is_null());
    Ok(Report {
        server: server.into(),
        players: member("players").map(players).transpose()?,
        claimed: client_ids("claimed", member("claimed"))?,
        left: client_ids("left", member("left"))?,
        cert_digest: member("cert_digest").map(cert_digest).transpose()?,
    })
}

fn players(value: &Value) -> Result<u32, String> {
    let players = value.as_u64().and_then(|players| u32::try_from(players).ok());
    players
        .filter(|players| *players <= PLAYERS_MAX)
        .ok_or_else(|| format!("`players` is a whole number from 0 to {PLAYERS_MAX}"))
}

fn client_ids(name: &str, value: Option<&Value>) -> Result<Vec<u64>, String> {
    let ids = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(ids)) if ids.len() <= REPORTED_MAX => ids,
        Some(_) => return Err(format!("`{name}` is a list of at most {REPORTED_MAX} client ids")),
    };
    let ids: Option<Vec<u64>> = ids.iter().map(client_id).collect();
    ids.ok_or_else(|| format!("`{name}` holds something that is no client id: a decimal number, or a text of one"))
}

/// JavaScript cannot write large ids as numbers, so texts are as good.
fn client_id(value: &Value) -> Option<u64> {
    match value {
        Value::Number(id) => id.as_u64(),
        // `parse` alone would take a plus sign.
        Value::String(id) if id.bytes().all(|digit| digit.is_ascii_digit()) => id.parse().ok(),
        _ => None,
    }
}

fn cert_digest(value: &Value) -> Result<CertDigest, String> {
    let digest = value.as_str().and_then(CertDigest::parse);
    digest.ok_or_else(|| "`cert_digest` is SHA-256 in hex, with or without `:` between the bytes".to_owned())
}

/// More than one machine can serve: whoever says so is wrong.
const PLAYERS_MAX: u32 = 1_000_000;
/// An id is a name, or an address with a port.
const SERVER_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_path_names_the_server() {
        for (path, server) in [
            ("/matchmaker/servers/eu-1/report", Some("eu-1")),
            (
                "/matchmaker/servers/203.0.113.10:30004/report",
                Some("203.0.113.10:30004"),
            ),
            (
                "/matchmaker/servers/%5B2001:db8::1%5D%3A30004/report",
                Some("[2001:db8::1]:30004"),
            ),
            ("/matchmaker/servers//report", None),
            ("/matchmaker/servers/report", None),
            ("/matchmaker/servers/a/b/report", None),
            ("/matchmaker/servers/a%2Fb/report", None),
            ("/matchmaker/servers/a%0ab/report", None),
            ("/matchmaker/servers/%ff/report", None),
            ("/matchmaker/servers/eu-1/report/", None),
            ("/matchmaker/servers/eu-1", None),
            ("/matchmaker/request/a/report", None),
        ] {
            assert_eq!(reporting_server(path).as_deref(), server, "{path}");
        }
        let of_length = |len| reporting_server(&format!("/matchmaker/servers/{}/report", "a".repeat(len)));
        assert_eq!((of_length(128).is_some(), of_length(129)), (true, None));
    }

    #[test]
    fn every_member_of_a_report_may_be_missing() {
        let empty = Report {
            server: "eu-1".into(),
            players: None,
            claimed: vec![],
            left: vec![],
            cert_digest: None,
        };
        for body in [
            "{}",
            r#"{"players":null,"claimed":null,"left":[],"cert_digest":null,"region":"eu"}"#,
        ] {
            assert_eq!(parse_report("eu-1", body.as_bytes()).as_ref(), Ok(&empty), "{body}");
        }
        let digest = "E3764D86".repeat(8);
        let body = format!(
            r#"{{"players":3,"claimed":["18446744073709551615",0],"left":["007",18446744073709551615],"cert_digest":"{digest}"}}"#
        );
        let full = Report {
            players: Some(3),
            claimed: vec![u64::MAX, 0],
            left: vec![7, u64::MAX],
            cert_digest: CertDigest::parse(&digest),
            ..empty
        };
        assert_eq!(parse_report("eu-1", body.as_bytes()), Ok(full));
    }

    #[test]
    fn what_is_wrong_with_a_report_is_told() {
        let players = "`players` is a whole number from 0 to 1000000";
        let ids = "`claimed` holds something that is no client id: a decimal number, or a text of one";
        let list = "`left` is a list of at most 1024 client ids";
        let digest = "`cert_digest` is SHA-256 in hex, with or without `:` between the bytes";
        for (body, text) in [
            ("", "a report is a JSON object"),
            ("[]", "a report is a JSON object"),
            ("{} {}", "a report is a JSON object"),
            (r#"{"players":-1}"#, players),
            (r#"{"players":1.5}"#, players),
            (r#"{"players":"1"}"#, players),
            (r#"{"players":1000001}"#, players),
            (r#"{"players":4294967296}"#, players),
            (r#"{"claimed":[-1]}"#, ids),
            (r#"{"claimed":[1.0]}"#, ids),
            (r#"{"claimed":["+1"]}"#, ids),
            (r#"{"claimed":[""]}"#, ids),
            (r#"{"claimed":["18446744073709551616"]}"#, ids),
            (r#"{"claimed":[18446744073709551616]}"#, ids),
            (r#"{"claimed":[null]}"#, ids),
            (r#"{"left":"1"}"#, list),
            (r#"{"left":{}}"#, list),
            (r#"{"cert_digest":""}"#, digest),
            (r#"{"cert_digest":7}"#, digest),
        ] {
            assert_eq!(parse_report("eu-1", body.as_bytes()), Err(text.to_owned()), "{body}");
        }
        let of_ids = |count| format!(r#"{{"left":[{}]}}"#, vec!["18446744073709551615"; count].join(", "));
        assert_eq!(
            parse_report("eu-1", of_ids(REPORTED_MAX).as_bytes())
                .unwrap()
                .left
                .len(),
            REPORTED_MAX
        );
        assert_eq!(
            parse_report("eu-1", of_ids(REPORTED_MAX + 1).as_bytes()),
            Err(list.to_owned())
        );
        let padded = |len| format!("{{{}}}", " ".repeat(len - 2));
        assert!(parse_report("eu-1", padded(REPORT_BYTES_MAX).as_bytes()).is_ok());
        let long = Err("a report has at most 65536 bytes".to_owned());
        assert_eq!(parse_report("eu-1", padded(REPORT_BYTES_MAX + 1).as_bytes()), long);
    }

    /// What no report may be longer than still holds the longest one.
    #[test]
    fn two_full_lists_fit() {
        let ids = format!("[\n{}]", vec!["\"18446744073709551615\""; REPORTED_MAX].join(",\n    "));
        let body = format!(
            r#"{{"players":1000000,"claimed":{ids},"left":{ids},"cert_digest":"{}"}}"#,
            "ab".repeat(32)
        );
        assert!(parse_report("eu-1", body.as_bytes()).is_ok(), "{} bytes", body.len());
    }
}
