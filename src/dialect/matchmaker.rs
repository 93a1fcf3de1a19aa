//! Wire messages of the lobby dialect of TCP JSON and UDP endpoints (matchmaker).
//!
//! Its clients are Go programs, which write names as they are here, read them in any letter case and pass over those that
//! they do not know; a byte array travels as base64.
//!
//! Owns: its requests, replies and datagrams, to and from `message::matchmaker`.
//! Never: keeps a client's state.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;

use data_encoding::BASE64;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::message::matchmaker::{Ask, Code, DATAGRAM_MAX, Event, HEADER_LEN, Reply, Request, SessionId};

/// Reads one request of a connection.
///
/// # Errors
/// It is no JSON object: what follows it cannot be trusted either.
pub fn parse_ask(text: &[u8]) -> Result<Ask, NotJson> {
    let [kind, body] = fields(text, ["Type", "Body"]).ok_or(NotJson)?;
    let Some(kind) = kind.and_then(integer) else {
        return Ok(Ask::Bad);
    };
    if kind == 0 {
        return Ok(Ask::NewClient);
    }
    if !(1..=3).contains(&kind) {
        return Ok(Ask::Unknown);
    }
    let Some([code, session]) = body.and_then(body_fields) else {
        return Ok(Ask::Bad);
    };
    let (code, session) = (Code::parse(&code), SessionId::parse(&session));
    Ok(match kind {
        1 => Ask::Create { session },
        2 => Ask::Join { code, session },
        _ => Ask::Start { code, session },
    })
}

/// What was read is no JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJson;

/// The code and the session in a request's body.
fn body_fields(body: &RawValue) -> Option<[Cow<'_, str>; 2]> {
    let body = BASE64.decode(text_of(body)?.as_bytes()).ok()?;
    let [code, session] = fields(&body, ["LobbyCode", "SessionID"])?;
    let owned = |field: Option<&RawValue>| match field {
        None => Some(Cow::Borrowed("")),
        Some(field) => text_of(field).map(|text| Cow::Owned(text.into_owned())),
    };
    Some([owned(code)?, owned(session)?])
}

/// Appends one reply, a line of its own. A refusal is a JSON string: the clients' decoders fail on it, and their callers
/// get an error and not a wait without end.
pub fn push_reply(out: &mut Vec<u8>, reply: &Reply) {
    let written = match reply {
        Reply::Session(session) => writeln!(out, "{{\"SessionID\":\"{session}\"}}"),
        Reply::Code(code) => writeln!(out, "{{\"LobbyCode\":\"{}\"}}", code.as_str()),
        Reply::Done => writeln!(out, "{{}}"),
        Reply::Refused(refusal) => writeln!(out, "\"{}\"", refusal.text()),
    };
    debug_assert!(written.is_ok(), "memory takes everything");
}

/// Reads one datagram; None: it breaks the rules.
pub fn parse(datagram: &[u8]) -> Option<Request> {
    let (header, payload) = datagram.split_first_chunk::<HEADER_LEN>()?;
    let [s0, s1, s2, s3, low, high, channel] = *header;
    let len = usize::try_from(i16::from_le_bytes([low, high])).ok()?;
    if channel != 0 || len != payload.len() || datagram.len() > DATAGRAM_MAX {
        return None;
    }
    let [kind, data] = fields(payload, ["Type", "Data"])?;
    let data = text_of(data?)?;
    if data.len() > DATA_MAX {
        return None;
    }
    let mut space = [0; DATA_MAX];
    match integer(kind?)? {
        0 => {
            let [sequence] = fields(decode(&data, &mut space)?, ["SequenceNumber"])?;
            let sequence = sequence_of(integer(sequence?)?)?;
            Some(Request::Ack { sequence })
        }
        1 => {
            let [session] = fields(decode(&data, &mut space)?, ["SessionID"])?;
            let session = SessionId::parse(&text_of(session?)?)?;
            let sequence = sequence_of(i64::from(i32::from_le_bytes([s0, s1, s2, s3])))?;
            Some(Request::Endpoint { session, sequence })
        }
        // With anything less the echo would be longer than what asked for it.
        2 if data.is_empty() => Some(Request::KeepAlive),
        _ => None,
    }
}

/// Above it a client's own numbers do not come back to it, and an acknowledgement could be longer than what it is for.
fn sequence_of(number: i64) -> Option<u16> {
    let number = u16::try_from(number).ok()?;
    (1..=i16::MAX as u16).contains(&number).then_some(number)
}

fn decode<'a>(data: &str, space: &'a mut [u8; DATA_MAX]) -> Option<&'a [u8]> {
    let space = space.get_mut(..BASE64.decode_len(data.len()).ok()?)?;
    let len = BASE64.decode_mut(data.as_bytes(), space).ok()?;
    space.get(..len)
}

/// Appends one datagram. `unix_ms` is the time that an acknowledgement tells.
pub fn push(out: &mut Vec<u8>, event: &Event, unix_ms: u64) {
    match event {
        Event::Ack { sequence } => {
            let data = format!("{{\"SequenceNumber\":{sequence},\"Timestamp\":{}}}", unix_ms * 1000);
            push_datagram(out, 0, 0, data.as_bytes());
        }
        Event::KeepAlive => push_datagram(out, 0, 2, b""),
        Event::Endpoints { sequence, peers } => {
            let mut data = b"{\"PeerUDPEndpoints\":[".to_vec();
            for (at, peer) in peers.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                // Without the scope of a link-local address, which means nothing elsewhere.
                let peer = SocketAddr::new(peer.ip(), peer.port());
                let written = write!(data, "{comma}\"{peer}\"");
                debug_assert!(written.is_ok(), "memory takes everything");
            }
            data.extend_from_slice(b"]}");
            push_datagram(out, *sequence, 3, &data);
        }
    }
}

fn push_datagram(out: &mut Vec<u8>, sequence: u16, kind: u8, data: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&i32::from(sequence).to_le_bytes());
    out.extend_from_slice(&[0; 3]);
    let written = write!(out, "{{\"Type\":{kind},\"Data\":\"");
    debug_assert!(written.is_ok(), "memory takes everything");
    out.extend_from_slice(BASE64.encode(data).as_bytes());
    out.extend_from_slice(b"\"}");
    let len = (out.len() - start - HEADER_LEN) as i16;
    debug_assert!(out.len() - start <= DATAGRAM_MAX, "the state tells no more than fits");
    if let Some(field) = out.get_mut(start + 4..start + 6) {
        field.copy_from_slice(&len.to_le_bytes());
    }
}

fn integer(value: &RawValue) -> Option<i64> {
    serde_json::from_str(value.get()).ok()
}

fn text_of(value: &RawValue) -> Option<Cow<'_, str>> {
    // Text without escapes is borrowed, which a plain `Cow` never is.
    match serde_json::from_str::<&str>(value.get()) {
        Ok(text) => Some(Cow::Borrowed(text)),
        Err(_) => serde_json::from_str::<String>(value.get()).ok().map(Cow::Owned),
    }
}

/// The values of these names in a JSON object, in any letter case; the last of several, and `null` is none at all. None:
/// it is no JSON object.
fn fields<'a, const N: usize>(text: &'a [u8], names: [&str; N]) -> Option<[Option<&'a RawValue>; N]> {
    struct Names<'n, const N: usize>([&'n str; N]);

    impl<'de, const N: usize> Visitor<'de> for Names<'_, N> {
        type Value = [Option<&'de RawValue>; N];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut values = [None; N];
            while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                let own = self
                    .0
                    .iter()
                    .zip(&mut values)
                    .find(|(own, _)| own.eq_ignore_ascii_case(&name));
                if let Some((_, place)) = own.filter(|_| value.get() != "null") {
                    *place = Some(value);
                }
            }
            Ok(values)
        }
    }

    let mut json = serde_json::Deserializer::from_slice(text);
    let values = json.deserialize_map(Names(names)).ok()?;
    json.end().ok()?;
    Some(values)
}

/// Longest base64 text in a datagram.
const DATA_MAX: usize = 512;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::matchmaker::{ENDPOINTS_BYTES_MAX, Refusal, endpoint_bytes_max};

    const SESSION: &str = "bd0ad2fc-6807-481e-badc-7a234d196301";

    fn ask(kind: i64, body: &str) -> Ask {
        let body = BASE64.encode(body.as_bytes());
        parse_ask(format!("{{\"Type\":{kind},\"Body\":\"{body}\"}}").as_bytes()).unwrap()
    }

    fn datagram(sequence: i32, payload: &str) -> Vec<u8> {
        let mut bytes = sequence.to_le_bytes().to_vec();
        bytes.extend_from_slice(&(payload.len() as i16).to_le_bytes());
        bytes.push(0);
        bytes.extend_from_slice(payload.as_bytes());
        bytes
    }

    fn told(event: &Event) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(&mut bytes, event, 1_795_248_438_979);
        bytes
    }

    #[test]
    fn requests_are_read_in_any_letter_case_with_unknown_names() {
        let session = SessionId::parse(SESSION);
        let code = Code::parse("abcdef");
        assert_eq!(parse_ask(b"{\"Type\":0,\"Body\":null}"), Ok(Ask::NewClient));
        assert_eq!(parse_ask(b" {\"tYPE\":0}\n"), Ok(Ask::NewClient));
        assert_eq!(
            ask(1, &format!("{{\"SessionID\":\"{SESSION}\"}}")),
            Ask::Create { session }
        );
        let body = format!("{{\"x\":[{{}}],\"LOBBYCODE\":\"abcdef\",\"sessionid\":\"{SESSION}\"}}");
        assert_eq!(ask(2, &body), Ask::Join { code, session });
        assert_eq!(ask(3, &body), Ask::Start { code, session });
        // The last of several counts, and null leaves it as it is.
        let text = b"{\"Type\":7,\"other\":{\"Type\":9},\"Type\":0,\"type\":null}";
        assert_eq!(parse_ask(text), Ok(Ask::NewClient));
        // A slash may be escaped, and Go escapes what HTML would mind.
        assert_eq!(
            parse_ask(br#"{"Type":1,"Body":"e30\u003d"}"#),
            Ok(Ask::Create { session: None })
        );
    }

    #[test]
    fn what_names_nothing_is_no_id() {
        assert_eq!(ask(1, "{}"), Ask::Create { session: None });
        assert_eq!(ask(1, "{\"SessionID\":\"x\"}"), Ask::Create { session: None });
        let nothing = Ask::Join {
            code: None,
            session: None,
        };
        assert_eq!(ask(2, "{\"LobbyCode\":\"vaev\",\"SessionID\":null}"), nothing);
    }

    #[test]
    fn what_cannot_be_read_is_bad_and_what_is_no_object_no_json() {
        for bad in [
            "{}",
            "{\"Type\":null}",
            "{\"Type\":\"0\"}",
            "{\"Type\":0.5}",
            "{\"Type\":1}",
            "{\"Type\":1,\"Body\":null}",
            "{\"Type\":1,\"Body\":5}",
            "{\"Type\":1,\"Body\":\"*\"}",
            "{\"Type\":2,\"Body\":\"e30\"}",
        ] {
            assert_eq!(parse_ask(bad.as_bytes()), Ok(Ask::Bad), "{bad}");
        }
        assert_eq!(ask(1, "null"), Ask::Bad);
        assert_eq!(ask(1, "{\"SessionID\":5}"), Ask::Bad);
        assert_eq!(ask(4, "{}"), Ask::Unknown);
        assert_eq!(ask(-1, "{}"), Ask::Unknown);
        for text in [
            "",
            "null",
            "{",
            "{\"Type\":0,}",
            "{\"Type\" 0}",
            "{\"Type\":0} x",
            "[]",
            "{\"\u{1}\":0}",
        ] {
            assert_eq!(parse_ask(text.as_bytes()), Err(NotJson), "{text}");
        }
        assert_eq!(parse_ask(b"{\"Type\":0,\"x\":\"\xff\"}"), Err(NotJson));
    }

    #[test]
    fn replies_are_lines() {
        let line = |reply: Reply| {
            let mut out = Vec::new();
            push_reply(&mut out, &reply);
            String::from_utf8(out).unwrap()
        };
        let session = Reply::Session(SessionId::parse(SESSION).unwrap());
        assert_eq!(line(session), format!("{{\"SessionID\":\"{SESSION}\"}}\n"));
        assert_eq!(
            line(Reply::Code(Code::parse("abcdef").unwrap())),
            "{\"LobbyCode\":\"abcdef\"}\n"
        );
        assert_eq!(line(Reply::Done), "{}\n");
        assert_eq!(line(Reply::Refused(Refusal::LobbyNotFound)), "\"lobby not found\"\n");
    }

    #[test]
    fn a_datagram_is_read_only_if_every_rule_holds() {
        let data = BASE64.encode(format!("{{\"SessionID\":\"{SESSION}\"}}").as_bytes());
        let payload = format!("{{\"Type\":1,\"Data\":\"{data}\"}}");
        let session = SessionId::parse(SESSION).unwrap();
        let good = datagram(1, &payload);
        assert_eq!(good.len(), 99);
        assert_eq!(parse(&good), Some(Request::Endpoint { session, sequence: 1 }));
        let spoilt = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            parse(&bytes)
        };
        assert_eq!(spoilt(6, 1), None, "the channel");
        assert_eq!(spoilt(5, 0xff), None, "a negative length");
        assert_eq!(spoilt(4, 91), None, "a byte after the payload");
        assert_eq!(spoilt(3, 0x80), None, "a negative sequence number");
        assert_eq!(spoilt(0, 0), None, "no sequence number");
        assert_eq!(spoilt(20, b'*'), None, "no base64");
        assert_eq!(parse(&datagram(32767, &payload)).map(|_| ()), Some(()));
        assert_eq!(parse(&datagram(32768, &payload)), None);
        assert_eq!(parse(b"\0\0\0\0\xff\xff\0{}"), None, "what ends the other server");
        for payload in [
            "{}",
            "{\"Type\":2}",
            "{\"Type\":2,\"Data\":null}",
            "{\"Type\":2,\"Data\":\"e30=\"}",
            "{\"Type\":3,\"Data\":\"\"}",
            "{\"Type\":0,\"Data\":\"\"}",
            "{\"Type\":1,\"Data\":\"e30=\"}",
        ] {
            assert_eq!(parse(&datagram(0, payload)), None, "{payload}");
        }
        assert_eq!(
            parse(&datagram(0, "{\"Type\":2,\"Data\":\"\"}")),
            Some(Request::KeepAlive)
        );
        let long = |len: usize| {
            let blanks = " ".repeat(len / 4 * 3 - SESSION.len() - 16);
            let data = BASE64.encode(format!("{{\"SessionID\":\"{SESSION}\"{blanks}}}").as_bytes());
            assert_eq!(data.len(), len);
            parse(&datagram(1, &format!("{{\"Type\":1,\"Data\":\"{data}\"}}")))
        };
        assert!(long(512).is_some());
        assert_eq!(long(516), None);
    }

    #[test]
    fn datagrams_have_the_sizes_and_bytes_of_the_specification() {
        assert_eq!(told(&Event::KeepAlive), b"\0\0\0\0\x14\0\0{\"Type\":2,\"Data\":\"\"}");
        let ack = told(&Event::Ack { sequence: 1 });
        assert_eq!(ack.len(), 95);
        assert_eq!(parse(&ack), Some(Request::Ack { sequence: 1 }));
        assert_eq!(
            told(&Event::Ack { sequence: 32767 }).len(),
            99,
            "not longer than what it acknowledges"
        );
        let peers = vec!["127.0.0.1:34730".parse().unwrap()];
        assert_eq!(told(&Event::Endpoints { sequence: 1, peers }).len(), 83);
        let peers = vec!["127.0.0.1:1".parse().unwrap(), "[2001:db8::1%7]:2".parse().unwrap()];
        let bytes = told(&Event::Endpoints { sequence: 3, peers });
        assert_eq!(bytes[..4], [3, 0, 0, 0]);
        let [data] = fields(&bytes[7..], ["Data"]).unwrap();
        let data = BASE64.decode(text_of(data.unwrap()).unwrap().as_bytes()).unwrap();
        assert_eq!(data, b"{\"PeerUDPEndpoints\":[\"127.0.0.1:1\",\"[2001:db8::1]:2\"]}");
    }

    #[test]
    fn as_many_endpoints_as_may_be_told_fit_a_datagram() {
        for address in [
            "255.255.255.255:65535",
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
        ] {
            let address: SocketAddr = address.parse().unwrap();
            let most = ENDPOINTS_BYTES_MAX / endpoint_bytes_max(address.ip());
            let bytes = told(&Event::Endpoints {
                sequence: 32767,
                peers: vec![address; most],
            });
            assert!(bytes.len() <= DATAGRAM_MAX, "{}", bytes.len());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = (parse(&bytes), parse_ask(&bytes));
            let payload = String::from_utf8_lossy(&bytes);
            let _ = parse(&datagram(1, &format!("{{\"Type\":1,\"Data\":\"{payload}\"}}")));
        }
    }
}
