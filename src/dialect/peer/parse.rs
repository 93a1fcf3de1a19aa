//! From a text to what it asks for.
//!
//! Owns: the choice by `type`, and the messages that are forwarded: signal, relay, broadcast.
//! Never: allocates for one of those, unless its `type` or `to` is written with escapes.

use std::borrow::Cow;

use crate::codec::json::{self, Envelope, Kind, RawString};
use crate::ids::Fingerprint;
use crate::message::{ALIAS_MAX, DirectKind, Refusal, Register, Request};

use super::request;

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// The peer of this fingerprint.
    Peer(Fingerprint),
    /// The peer that holds this alias. Empty: a string that no peer can hold as an alias.
    Alias(Cow<'a, str>),
}

/// What a registered peer sent.
#[derive(Clone, Debug)]
pub enum Incoming<'a> {
    /// Answered with a pong.
    Ping,
    /// Answered with what to gather WebRTC candidates with.
    IceServers,
    /// To one peer.
    Direct {
        /// Signal or relay.
        kind: DirectKind,
        /// Whom to.
        to: Target<'a>,
        /// The envelope's namespace: passed on only between members of it.
        namespace: Option<RawString<'a>>,
        /// The bytes to pass on.
        payload: Option<&'a str>,
    },
    /// To all other members of a namespace.
    Broadcast {
        /// Its name: never empty, of any length.
        namespace: RawString<'a>,
        /// Who is left out: an array of one string at least, for [`excluded`].
        exclude: Option<&'a str>,
        /// The bytes to pass on: an object.
        payload: &'a str,
    },
    /// Anything about namespaces, rooms and oneself.
    Request(Request<'a>),
}

/// Reads one whole message of a registered peer. The content of `scratch` is replaced.
///
/// # Errors
/// The first failing check in the order of the protocol's section 4.
pub fn parse<'a>(text: &'a str, scratch: &'a mut Vec<u8>) -> Result<Incoming<'a>, Refusal> {
    let envelope = json::scan_envelope(text).map_err(|_| Refusal::InvalidMessage)?;
    let kind = envelope.kind.ok_or(Refusal::UnknownType)?;
    match kind.plain() {
        Some(name) => parse_as(name, &envelope, scratch),
        None => parse_escaped(kind, &envelope, scratch),
    }
}

#[cold]
fn parse_escaped<'a>(
    kind: RawString<'_>,
    envelope: &Envelope<'a>,
    scratch: &'a mut Vec<u8>,
) -> Result<Incoming<'a>, Refusal> {
    let name = kind.unescape().ok_or(Refusal::UnknownType)?;
    parse_as(&name, envelope, scratch)
}

fn parse_as<'a>(name: &str, envelope: &Envelope<'a>, scratch: &'a mut Vec<u8>) -> Result<Incoming<'a>, Refusal> {
    match name {
        "signal" => direct(DirectKind::Signal, envelope),
        "relay" => direct(DirectKind::Relay, envelope),
        "broadcast" => broadcast(envelope.payload.ok_or(Refusal::InvalidBroadcast)?),
        "ping" => Ok(Incoming::Ping),
        "ice_servers" => Ok(Incoming::IceServers),
        other => request::read(other, envelope.payload, scratch).map(Incoming::Request),
    }
}

fn direct<'a>(kind: DirectKind, envelope: &Envelope<'a>) -> Result<Incoming<'a>, Refusal> {
    let to = envelope
        .to
        .filter(|to| !to.raw().is_empty())
        .ok_or(Refusal::TargetRequired)?;
    let to = match to.plain() {
        Some(plain) => Target::of(Cow::Borrowed(plain)),
        None => to.unescape().map_or(Target::NOBODY, Target::of),
    };
    Ok(Incoming::Direct {
        kind,
        to,
        namespace: envelope.namespace,
        payload: envelope.payload,
    })
}

impl<'a> Target<'a> {
    /// No peer holds the empty alias: who asks for it is given another.
    pub(in crate::dialect) const NOBODY: Self = Self::Alias(Cow::Borrowed(""));

    pub(in crate::dialect) fn of(to: Cow<'a, str>) -> Self {
        if let Some(fingerprint) = Fingerprint::parse(&to) {
            return Self::Peer(fingerprint);
        }
        // 64 hex digits in any case are never an alias (section 3), and a longer one than any need not travel.
        let hex = to.len() == Fingerprint::HEX_LEN && to.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hex || to.len() > ALIAS_MAX {
            Self::NOBODY
        } else {
            Self::Alias(to)
        }
    }
}

fn broadcast(payload: &str) -> Result<Incoming<'_>, Refusal> {
    let members = json::members(payload, &["namespace", "exclude"]);
    let [namespace, exclude] = members.ok_or(Refusal::InvalidBroadcast)?;
    let namespace = match namespace {
        Some(value) => Some(json::as_string(value).ok_or(Refusal::InvalidBroadcast)?),
        None => None,
    };
    let mut excludes_any = false;
    if let Some(array) = exclude {
        for element in json::elements(array).ok_or(Refusal::InvalidBroadcast)? {
            if json::kind_of(element) != Kind::String {
                return Err(Refusal::InvalidBroadcast);
            }
            excludes_any = true;
        }
    }
    let namespace = namespace
        .filter(|name| !name.raw().is_empty())
        .ok_or(Refusal::NamespaceRequired)?;
    Ok(Incoming::Broadcast {
        namespace,
        exclude: exclude.filter(|_| excludes_any),
        payload,
    })
}

/// Whom the payload of a broadcast leaves out that another node has accepted: the array, for [`excluded`].
pub fn exclude_of(payload: &str) -> Option<&str> {
    let [exclude] = json::members(payload, &["exclude"])?;
    exclude
}

/// Calls `each` with every entry of the array in [`Incoming::Broadcast`]: fingerprints and aliases.
///
/// An entry that no text can hold (a lone surrogate) is nobody and left out.
pub fn excluded(exclude: &str, mut each: impl FnMut(&str)) {
    for entry in json::elements(exclude).into_iter().flatten() {
        if let Some(text) = json::as_string(entry).and_then(RawString::unescape) {
            each(&text);
        }
    }
}

/// Reads the first message of a connection. The content of `scratch` is replaced.
///
/// # Errors
/// The error to send, and the reason of the close 1008 that follows it (section 3, rules 2 to 4).
pub fn parse_register(text: &str, scratch: &mut Vec<u8>) -> Result<Register, (Refusal, &'static str)> {
    let not_register = (Refusal::NotRegister, "invalid registration");
    let envelope = json::scan_envelope(text).map_err(|_| not_register)?;
    if !envelope.kind.is_some_and(|kind| kind.is("register")) {
        return Err(not_register);
    }
    request::register(envelope.payload, scratch).map_err(|refusal| match refusal {
        Refusal::PublicKeyRequired => (refusal, "missing public key"),
        limit => (limit, limit.text()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn refusal(text: &str) -> Option<Refusal> {
        parse(text, &mut Vec::new()).err()
    }

    #[test]
    fn what_is_no_message_is_invalid_and_what_has_no_known_type_is_unknown() {
        let deep = format!(r#"{{"type":"ping","payload":{}{}}}"#, "[".repeat(128), "]".repeat(128));
        let invalid = [
            "junk",
            "",
            "[]",
            "5",
            "\"ping\"",
            r#"{"type":5}"#,
            r#"{"type":"ping"} x"#,
            r#"{"type":"ping""#,
            &deep,
        ];
        let wrong_types = [
            r#"{"type":"ping","to":1}"#,
            r#"{"type":"ping","namespace":[]}"#,
            r#"{"type":{}}"#,
        ];
        for text in invalid.into_iter().chain(wrong_types) {
            assert_eq!(refusal(text), Some(Refusal::InvalidMessage), "{text}");
        }
        let nothing = [
            "null",
            "{}",
            r#"{"type":null}"#,
            r#"{"type":"ping","type":null}"#,
            r#"{"type":""}"#,
        ];
        let names = [
            "nope",
            "pong",
            "registered",
            "peer_list",
            "register",
            "Ping",
            "ping ",
            r"\ud800",
            r"no\u0070e",
        ];
        let named = names.map(|name| format!(r#"{{"type":"{name}","payload":{{"public_key":"k2"}}}}"#));
        for text in nothing.into_iter().chain(named.iter().map(String::as_str)) {
            assert_eq!(refusal(text), Some(Refusal::UnknownType), "{text}");
        }
    }

    #[test]
    fn a_ping_is_a_ping_whatever_it_carries() {
        let texts = [
            r#"{"type":"ping"}"#,
            r#" {"ts":5,"payload":{"x":1},"type":"p\u0069ng","to":null} "#,
        ];
        for text in texts {
            assert!(matches!(parse(text, &mut Vec::new()), Ok(Incoming::Ping)), "{text}");
        }
    }

    #[test]
    fn ice_servers_are_asked_for_whatever_comes_along() {
        for text in [
            r#"{"type":"ice_servers"}"#,
            r#"{"payload":"x","to":"me","type":"ice\u005fservers"}"#,
        ] {
            assert!(
                matches!(parse(text, &mut Vec::new()), Ok(Incoming::IceServers)),
                "{text}"
            );
        }
    }

    #[test]
    fn signal_and_relay_keep_their_payload_as_sent() {
        let payload = r#"{ "a" : 1.0 ,"b":12345678901234567890123,"c":"\u0041\/\ud800" }"#;
        for (name, expected) in [
            ("signal", DirectKind::Signal),
            ("relay", DirectKind::Relay),
            (r"rel\u0061y", DirectKind::Relay),
        ] {
            let text = format!(
                r#"{{"namespace":"a\"b","payload": {payload} ,"from":"me","to":"bee","type":"{name}","ts":9}}"#
            );
            let mut scratch = Vec::new();
            let Incoming::Direct {
                kind,
                to,
                namespace,
                payload: found,
            } = parse(&text, &mut scratch).unwrap()
            else {
                panic!("{name}")
            };
            assert_eq!(kind, expected);
            assert!(matches!(to, Target::Alias(Cow::Borrowed("bee"))));
            assert_eq!(namespace.unwrap().raw(), r#"a\"b"#);
            assert_eq!(found, Some(payload));
        }
        for text in [
            r#"{"type":"relay","to":"b"}"#,
            r#"{"type":"relay","to":"b","payload":1,"payload":null}"#,
        ] {
            let mut scratch = Vec::new();
            let found = parse(text, &mut scratch).unwrap();
            assert!(
                matches!(
                    found,
                    Incoming::Direct {
                        namespace: None,
                        payload: None,
                        ..
                    }
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn a_direct_message_needs_a_target() {
        for kind in ["signal", "relay"] {
            for to in ["", r#""to":"","#, r#""to":null,"#, r#""to":"x","to":null,"#] {
                let text = format!(r#"{{"type":"{kind}",{to}"payload":{{}}}}"#);
                assert_eq!(refusal(&text), Some(Refusal::TargetRequired), "{text}");
            }
        }
    }

    fn target(to: &str) -> Target<'static> {
        let text = format!(r#"{{"type":"signal","to":"{to}"}}"#);
        match parse(&text, &mut Vec::new()) {
            Ok(Incoming::Direct {
                to: Target::Peer(fingerprint),
                ..
            }) => Target::Peer(fingerprint),
            Ok(Incoming::Direct {
                to: Target::Alias(alias),
                ..
            }) => Target::Alias(alias.into_owned().into()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_target_is_a_fingerprint_or_an_alias_or_nobody() {
        let fingerprint = Fingerprint::of_key("k");
        let hex = String::from_utf8(fingerprint.hex().to_vec()).unwrap();
        assert_eq!(target(&hex), Target::Peer(fingerprint));
        let escaped = format!(r"\u00{:x}{}", hex.as_bytes()[0], &hex[1..]);
        assert_eq!(target(&escaped), Target::Peer(fingerprint));
        assert_eq!(target(&hex[1..]), Target::Alias(hex[1..].to_owned().into()));
        assert_eq!(target(r"be\u0065"), Target::Alias("bee".into()));
        assert_eq!(target(&"é".repeat(64)), Target::Alias("é".repeat(64).into()));
        for nobody in [&hex.to_uppercase(), r"b\ud800", &"é".repeat(65)] {
            assert_eq!(target(nobody), Target::NOBODY, "{nobody}");
        }
    }

    #[test]
    fn a_broadcast_is_looked_at_but_not_changed() {
        let payload = r#"{"data": null, "namespace":"l\u006fbby" , "exclude":[ "a" ,"b\n"]}"#;
        let text = format!(r#"{{"type":"broadcast","to":"x","namespace":"forged","payload":{payload}}}"#);
        let mut scratch = Vec::new();
        let Ok(Incoming::Broadcast {
            namespace,
            exclude,
            payload: found,
        }) = parse(&text, &mut scratch)
        else {
            panic!("no broadcast")
        };
        assert!(namespace.is("lobby"));
        assert_eq!((exclude, found), (Some(r#"[ "a" ,"b\n"]"#), payload));
        for nobody in ["", r#","exclude":null"#, r#","exclude":[ ]"#] {
            let text = format!(r#"{{"type":"broadcast","payload":{{"namespace":"x"{nobody}}}}}"#);
            let mut scratch = Vec::new();
            assert!(
                matches!(
                    parse(&text, &mut scratch),
                    Ok(Incoming::Broadcast { exclude: None, .. })
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bad_broadcast_is_invalid_before_its_namespace_is_missing() {
        let invalid = [
            "null",
            "[]",
            "\"x\"",
            "1",
            r#"{"namespace":1}"#,
            r#"{"namespace":"x","exclude":"q"}"#,
        ];
        let more = [
            r#"{"exclude":[1]}"#,
            r#"{"namespace":"x","exclude":["a",null]}"#,
            r#"{"exclude":{}}"#,
        ];
        for payload in invalid.into_iter().chain(more) {
            let text = format!(r#"{{"type":"broadcast","payload":{payload}}}"#);
            assert_eq!(refusal(&text), Some(Refusal::InvalidBroadcast), "{text}");
        }
        assert_eq!(refusal(r#"{"type":"broadcast"}"#), Some(Refusal::InvalidBroadcast));
        for payload in [
            r#"{"data":1}"#,
            r#"{"namespace":""}"#,
            r#"{"namespace":null,"exclude":["a"]}"#,
        ] {
            let text = format!(r#"{{"type":"broadcast","payload":{payload}}}"#);
            assert_eq!(refusal(&text), Some(Refusal::NamespaceRequired), "{text}");
        }
    }

    #[test]
    fn exclusions_are_unescaped_and_impossible_ones_left_out() {
        let mut found = Vec::new();
        excluded(r#"["a", "b\u0063" ,"\ud800","",1]"#, |entry| {
            found.push(entry.to_owned())
        });
        assert_eq!(found, ["a", "bc", ""]);
        excluded("not an array", |entry| panic!("{entry}"));
    }

    fn register(payload: &str) -> Result<Register, (Refusal, &'static str)> {
        parse_register(
            &format!(r#"{{"type":"register","payload":{payload}}}"#),
            &mut Vec::new(),
        )
    }

    #[test]
    fn a_registration_is_read() {
        let found =
            register(r#"{"public_key":"k\u0065y","alias":"bee","meta":{ "a" : [1, 2] },"other":1e999}"#).unwrap();
        assert_eq!(found.fingerprint, Fingerprint::of_key("key"));
        assert_eq!(found.alias, "bee");
        assert_eq!(found.meta.entries().collect::<Vec<_>>(), [("\"a\"", "[1,2]")]);
        for rest in ["", r#","alias":"","meta":{}"#, r#","alias":null,"meta":null"#] {
            let found = register(&format!(r#"{{"public_key":"key"{rest}}}"#)).unwrap();
            assert!(found.alias.is_empty() && found.meta.is_empty());
        }
        assert!(
            parse_register(
                r#"{"type":"r\u0065gister","payload":{"public_key":"k"}}"#,
                &mut Vec::new()
            )
            .is_ok()
        );
    }

    #[test]
    fn the_first_message_must_be_a_register() {
        let others = [
            "not json",
            "[]",
            "null",
            "{}",
            r#"{"type":"ping"}"#,
            r#"{"type":1}"#,
            r#"{"type":"register"} x"#,
        ];
        for text in others {
            let expected = Err((Refusal::NotRegister, "invalid registration"));
            assert_eq!(parse_register(text, &mut Vec::new()), expected, "{text}");
        }
    }

    #[test]
    fn a_register_needs_a_public_key_and_well_typed_fields() {
        let expected = Err((Refusal::PublicKeyRequired, "missing public key"));
        assert_eq!(parse_register(r#"{"type":"register"}"#, &mut Vec::new()), expected);
        let missing = [
            "null",
            "[]",
            "\"k\"",
            "{}",
            r#"{"public_key":""}"#,
            r#"{"public_key":null}"#,
        ];
        let wrong = [
            r#"{"public_key":7}"#,
            r#"{"public_key":"k","meta":[1]}"#,
            r#"{"public_key":"k","alias":1}"#,
        ];
        for payload in missing.into_iter().chain(wrong) {
            assert_eq!(register(payload), expected, "{payload}");
        }
        // A wrong type comes before any limit.
        let long = format!(r#"{{"public_key":"{}","meta":0}}"#, "k".repeat(9000));
        assert_eq!(register(&long), expected);
    }

    #[test]
    fn the_limits_of_a_registration_count_unescaped_bytes() {
        let with = |key: &str, alias: &str, meta: &str| {
            register(&format!(
                r#"{{"public_key":"{key}","alias":"{alias}","meta":{{"k":"{meta}"}}}}"#
            ))
        };
        let meta_max = "m".repeat(8192 - r#"{"k":""}"#.len());
        assert!(with(&r"\u0061".repeat(8192), &r"\n".repeat(128), &meta_max).is_ok());
        let [key, alias, meta] = ["k".repeat(8193), "é".repeat(65), format!("{meta_max}m")];
        assert_eq!(
            with(&key, &alias, &meta),
            Err((Refusal::PublicKeyTooLong, "public_key too long"))
        );
        assert_eq!(with("k", &alias, &meta), Err((Refusal::AliasTooLong, "alias too long")));
        assert_eq!(
            with("k", "a", &meta),
            Err((Refusal::MetadataTooLarge, "metadata too large"))
        );
    }

    /// Messages near enough to good ones that a change of a few characters reaches every branch.
    const SEEDS: &[&str] = &[
        r#"{"type":"signal","to":"b\u0065e","namespace":"x","payload":{"sdp":"v=0\r\n"}}"#,
        r#"{"type":"broadcast","payload":{"namespace":"x","data":1,"exclude":["a","\ud800"]}}"#,
        r#"{"type":"register","payload":{"public_key":"k","alias":"b","meta":{"a":{"b":[1,2]}}}}"#,
        r#"{"type":"join","payload":{"namespace":"x","app_type":"t","version":"1","meta":{"a":null}}}"#,
        r#"{"type":"discover","payload":{"namespace":"x","limit":-20}}"#,
        r#"{"type":"match","payload":{"namespace":"x","group_size":3,"criteria":{"b":1.50e1,"a":[{}]}}}"#,
        r#"{"type":"create_room","payload":{"room_id":"r","max_size":9223372036854775807}}"#,
        r#"{"type":"kick","payload":{"room_id":"r","fingerprint":"00"}}"#,
        r#"{"type":"metadata","payload":{"meta":{"x":"\u0041"},"y":2}}"#,
    ];

    fn read_all(text: &str) {
        let mut scratch = Vec::new();
        if let Ok(Incoming::Broadcast {
            exclude: Some(exclude), ..
        }) = parse(text, &mut scratch)
        {
            excluded(exclude, |_| ());
        }
        let _ = parse_register(text, &mut scratch);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in any::<String>()) {
            read_all(&text);
        }

        #[test]
        fn no_changed_message_makes_the_reader_panic(
            seed in prop::sample::select(SEEDS),
            changes in prop::collection::vec(
                (any::<prop::sample::Index>(), 0..3_u8, r#"[{}\[\],:"\\u0-9a-fé .nt-]"#),
                1..6,
            ),
        ) {
            let mut chars: Vec<char> = seed.chars().collect();
            for (place, change, with) in changes {
                let at = place.index(chars.len().max(1));
                match (change, with.chars().next()) {
                    (0, _) if at < chars.len() => drop(chars.remove(at)),
                    (1, Some(c)) if at < chars.len() => chars[at] = c,
                    (_, Some(c)) => chars.insert(at.min(chars.len()), c),
                    _ => {}
                }
            }
            read_all(&chars.into_iter().collect::<String>());
        }
    }
}
