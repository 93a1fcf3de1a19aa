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
