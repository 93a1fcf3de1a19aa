//! The matchmaker web service as bevygap's clients speak it: one request, then one externally tagged value a frame.
//!
//! Owns: reading the request, the exact error texts, the frames, the answer in one piece, reports of game servers.
//! Never: knows who is asked, or makes a token.

use std::net::IpAddr;

use crate::message::game_server::{Feedback, Grant, Name, NameFault};

/// The first message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which game.
    pub game: Name,
    /// Which version of it.
    pub version: Name,
    /// What the client says its address is.
    pub client_ip: Option<String>,
}

/// Reads the first message.
///
/// # Errors
/// The text frame that the client is to be sent.
pub fn parse_request(text: &str) -> Result<Request, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let name = |key: &str| Name::new(value.get(key).and_then(|name| name.as_str()).unwrap_or_default());
    let text = |_: NameFault| "ERR Game name invalid".to_owned();
    Ok(Request {
        game: name("game").map_err(text)?,
        version: name("version").map_err(text)?,
        client_ip: value.get("client_ip").and_then(|ip| ip.as_str()).map(str::to_owned),
    })
}

/// Appends the frame for this feedback; `token` is the sealed token of [`Feedback::Ready`]. [`Feedback::End`] has none.
pub fn push_frame(out: &mut Vec<u8>, feedback: &Feedback, token: &[u8]) {
    let text = match feedback {
        Feedback::Acknowledged => r#""Acknowledged""#.to_owned(),
        Feedback::Accepted(session) => serde_json::json!({ "SessionRequestAccepted": session.as_str() }).to_string(),
        Feedback::Progress(text) => serde_json::json!({ "ProgressReport": text }).to_string(),
        Feedback::Ready(grant) => ready(grant, token).to_string(),
        Feedback::Failed(failure) => serde_json::json!({ "Error": [failure.code, failure.text] }).to_string(),
        Feedback::Forwarded(text) => text.to_string(),
        Feedback::ForwardedOutcome(outcome) => outcome.body.clone(),
        Feedback::End => String::new(),
    };
    out.extend_from_slice(text.as_bytes());
}

fn ready(grant: &Grant, token: &[u8]) -> serde_json::Value {
    let token = data_encoding::BASE64.encode(token);
    let ip: IpAddr = grant.public.ip();
    let (port, digest) = (grant.public.port(), grant.cert_digest.to_string());
    serde_json::json!({ "SessionReady": { "token": token, "ip": ip, "port": port, "cert_digest": digest } })
}
