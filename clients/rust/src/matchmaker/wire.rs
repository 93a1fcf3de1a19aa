//! The bytes: JSON requests and replies over TCP; over UDP a header of seven bytes and a JSON object.
//!
//! Owns: how both are written and read.
//! Never: decides what follows (see the client).

use std::net::SocketAddr;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bytes of the longest datagram that is read.
const DATAGRAM_MAX: usize = 1024;

const HEADER_LEN: usize = 7;

/// Addresses of one list that are taken.
const ENDPOINTS_MAX: usize = 64;

/// A request over TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Asks for a session; the first one.
    Connect,
    /// Asks for a lobby.
    CreateLobby,
    /// Joins the lobby with this code.
    JoinLobby(String),
    /// Starts the lobby with this code: all its members learn each other's address.
    StartLobby(String),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TcpMessage {
    r#type: u8,
    body: Option<String>,
}

#[derive(Serialize)]
struct OfSession<'a> {
    #[serde(rename = "SessionID")]
    session: &'a str,
}

#[derive(Serialize)]
struct OfLobby<'a> {
    #[serde(rename = "LobbyCode")]
    code: &'a str,
    #[serde(rename = "SessionID")]
    session: &'a str,
}

impl Request {
    /// The request as it travels, with its newline.
    pub(super) fn to_line(&self, session: &str) -> Vec<u8> {
        let (r#type, body) = match self {
            Self::Connect => (0, None),
            Self::CreateLobby => (1, Some(json(&OfSession { session }))),
            Self::JoinLobby(code) => (2, Some(json(&OfLobby { code, session }))),
            Self::StartLobby(code) => (3, Some(json(&OfLobby { code, session }))),
        };
        let body = body.map(|body| BASE64.encode(&body));
        let mut line = json(&TcpMessage { r#type, body });
        line.push(b'\n');
        line
    }
}

/// Takes the first whole JSON value out of what has arrived over TCP.
///
/// # Errors
/// If it is no JSON.
pub(super) fn take_value(received: &mut Vec<u8>) -> Result<Option<Value>, serde_json::Error> {
    let mut values = serde_json::Deserializer::from_slice(received).into_iter();
    let value = values.next();
    let read = values.byte_offset();
    match value {
        None => {
            received.clear();
            Ok(None)
        }
        Some(Ok(value)) => {
            received.drain(..read);
            Ok(Some(value))
        }
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(error)) => Err(error),
    }
}

/// What a datagram says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// The datagram with this number has arrived.
    Ack { number: i32 },
    /// The players' addresses.
    Endpoints(Vec<SocketAddr>),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UdpMessage {
    r#type: i64,
    #[serde(default)]
    data: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AckData {
    sequence_number: i32,
    timestamp: i64,
}

#[derive(Deserialize)]
struct EndpointsData {
    #[serde(rename = "PeerUDPEndpoints")]
    endpoints: Vec<String>,
}

/// Its number and what it says; None if it is no datagram of a server, or says nothing that a client acts on.
pub(super) fn read(datagram: &[u8]) -> Option<(i32, Words)> {
    if datagram.len() > DATAGRAM_MAX {
        return None;
    }
    let ([n0, n1, n2, n3, l0, l1, _channel], payload) = datagram.split_first_chunk::<HEADER_LEN>()?;
    let number = i32::from_le_bytes([*n0, *n1, *n2, *n3]);
    let len = usize::try_from(i16::from_le_bytes([*l0, *l1])).ok()?;
    let message: UdpMessage = serde_json::from_slice(payload.get(..len)?).ok()?;
    let data = BASE64.decode(message.data?.as_bytes()).ok()?;
    let words = match message.r#type {
        0 => {
            let AckData { sequence_number, .. } = serde_json::from_slice(&data).ok()?;
            Words::Ack {
                number: sequence_number,
            }
        }
        3 => {
            let EndpointsData { endpoints } = serde_json::from_slice(&data).ok()?;
            let mut usable: Vec<SocketAddr> = Vec::new();
            for endpoint in endpoints.iter().filter_map(|text| text.parse::<SocketAddr>().ok()) {
                let endpoint = SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port());
                let ip = endpoint.ip();
                let sensible = !ip.is_unspecified() && !ip.is_multicast() && endpoint.port() != 0;
                if sensible && usable.len() < ENDPOINTS_MAX && !usable.contains(&endpoint) {
                    usable.push(endpoint);
                }
            }
            Words::Endpoints(usable)
        }
        _ => return None,
    };
    Some((number, words))
}

/// The datagram that tells the server which address belongs to a session.
pub(super) fn endpoint(number: i32, session: &str) -> Vec<u8> {
    write(number, 1, &json(&OfSession { session }))
}

/// The datagram that keeps the router's mapping alive.
pub(super) fn keep_alive() -> Vec<u8> {
    write(0, 2, b"")
}

/// The datagram that says that another one has arrived, at a time in microseconds since 1970.
pub(super) fn ack(number: i32, timestamp: i64) -> Vec<u8> {
    let data = AckData {
        sequence_number: number,
        timestamp,
    };
    write(0, 0, &json(&data))
}

fn write(number: i32, r#type: u8, data: &[u8]) -> Vec<u8> {
    let payload = format!(r#"{{"Type":{},"Data":"{}"}}"#, r#type, BASE64.encode(data));
    // The longest data is an ack's, below a hundred bytes.
    let len = i16::try_from(payload.len()).unwrap_or(i16::MAX);
    let mut datagram = number.to_le_bytes().to_vec();
    datagram.extend(len.to_le_bytes());
    datagram.push(0);
    datagram.extend(payload.into_bytes());
    datagram
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers are always JSON")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_keep_alive_is_the_captured_one() {
        assert_eq!(keep_alive(), *b"\0\0\0\0\x14\0\0{\"Type\":2,\"Data\":\"\"}");
        assert_eq!(read(&keep_alive()), None, "nothing to act on");
    }

    #[test]
    fn what_is_cut_or_lies_about_its_length_says_nothing() {
        let whole = ack(7, 1);
        assert_eq!(read(&whole), Some((0, Words::Ack { number: 7 })));
        assert_eq!(
            read(&[&whole[..], b"rest"].concat()),
            Some((0, Words::Ack { number: 7 }))
        );
        for len in 0..whole.len() {
            assert_eq!(read(&whole[..len]), None);
        }
        for len in [0, -1, i16::MIN, i16::MAX] {
            let mut lie = whole.clone();
            lie[4..6].copy_from_slice(&len.to_le_bytes());
            assert_eq!(read(&lie), None);
        }
        let mut long = whole;
        long.resize(1025, 0);
        assert_eq!(read(&long), None);
    }

    #[test]
    fn only_addresses_that_can_be_reached_are_taken() {
        let list = r#"{"PeerUDPEndpoints":["127.0.0.1:5","[2001:db8::1]:6","127.0.0.1:5","0.0.0.0:5","1.2.3.4:0","host:1","::1"]}"#;
        let expected = vec!["127.0.0.1:5".parse().unwrap(), "[2001:db8::1]:6".parse().unwrap()];
        assert_eq!(
            read(&write(9, 3, list.as_bytes())),
            Some((9, Words::Endpoints(expected)))
        );
    }

    #[test]
    fn values_are_taken_one_by_one_however_they_arrive() {
        let mut received = Vec::new();
        let mut seen = Vec::new();
        for byte in b" {\"a\": 1}\n\"no\" {}\n" {
            received.push(*byte);
            while let Some(value) = take_value(&mut received).unwrap() {
                seen.push(value.to_string());
            }
        }
        assert_eq!(seen, [r#"{"a":1}"#, r#""no""#, "{}"]);
        assert!(received.is_empty());
        assert!(take_value(&mut b"HTTP/1.1 400".to_vec()).is_err());
    }
}
