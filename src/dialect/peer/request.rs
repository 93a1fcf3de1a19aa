//! From a payload to a request of namespaces, rooms and oneself, or to a registration.
//!
//! Owns: every payload field that is read, its default and its range.
//! Never: reads a member that the request does not name.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::codec::json::{self, Kind};
use crate::ids::Fingerprint;
use crate::message::{
    ALIAS_MAX, APP_TYPE_MAX, CriteriaKey, GROUP_MAX, LIST_DEFAULT, LIST_MAX, NAME_MAX, PUBLIC_KEY_MAX, ROOM_DEFAULT,
    ROOM_MAX, Refusal, Register, Request,
};

use super::metadata;

/// The request of this `type`.
///
/// # Errors
/// The first failing check in the order of the protocol's section 4.
pub(super) fn read<'a>(kind: &str, payload: Option<&str>, scratch: &'a mut Vec<u8>) -> Result<Request<'a>, Refusal> {
    match kind {
        "join" => join(payload, scratch),
        "leave" => leave(payload, scratch),
        "discover" => discover(payload, scratch),
        "match" => find_match(payload, scratch),
        "create_room" => create_room(payload, scratch),
        "join_room" => join_room(payload, scratch),
        "room_info" => room_info(payload, scratch),
        "kick" => kick(payload, scratch),
        "metadata" => update_metadata(payload),
        _ => Err(Refusal::UnknownType),
    }
}

/// All fields that are read by type; a request names those that are its own, the others keep their default.
/// Everywhere an absent field means the same as an empty string or a zero.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields<'a> {
    namespace: &'a str,
    app_type: &'a str,
    /// Has to be a string, and says nothing to anybody.
    #[serde(rename = "version")]
    _version: &'a str,
    limit: i64,
    group_size: i64,
    room_id: &'a str,
    max_size: i64,
    fingerprint: &'a str,
    public_key: &'a str,
    alias: &'a str,
}

impl<'a> Fields<'a> {
    /// Reads the named fields; `refusal` if there is no payload, or it is no object, or a field has another type.
    fn read<const N: usize>(
        payload: Option<&str>,
        names: &[&str; N],
        scratch: &'a mut Vec<u8>,
        refusal: Refusal,
    ) -> Result<Self, Refusal> {
        json::read_body(payload.ok_or(refusal)?, names, scratch).map_err(|_| refusal)
    }
}

/// A member that has to be an object where it is present.
fn object<'a>(payload: Option<&'a str>, name: &str, refusal: Refusal) -> Result<Option<&'a str>, Refusal> {
    match payload.and_then(|payload| json::members(payload, &[name])) {
        Some([Some(value)]) if json::kind_of(value) != Kind::Object => Err(refusal),
        Some([value]) => Ok(value),
        None => Err(refusal),
    }
}

/// A registration.
pub(super) fn register(payload: Option<&str>, scratch: &mut Vec<u8>) -> Result<Register, Refusal> {
    let refusal = Refusal::PublicKeyRequired;
    let meta = object(payload, "meta", refusal)?;
    let fields = Fields::read(payload, &["public_key", "alias"], scratch, refusal)?;
    required(fields.public_key, refusal)?;
    at_most(PUBLIC_KEY_MAX, fields.public_key, Refusal::PublicKeyTooLong)?;
    at_most(ALIAS_MAX, fields.alias, Refusal::AliasTooLong)?;
    Ok(Register {
        fingerprint: Fingerprint::of_key(fields.public_key),
        alias: fields.alias.into(),
        meta: metadata::read(meta.and_then(json::entries).into_iter().flatten())?,
    })
}

fn join<'a>(payload: Option<&str>, scratch: &'a mut Vec<u8>) -> Result<Request<'a>, Refusal> {
    let refusal = Refusal::InvalidJoin;
    let meta = object(payload, "meta", refusal)?;
    let fields = Fields::read(payload, &["namespace", "app_type", "version"], scratch, refusal)?;
    at_most(APP_TYPE_MAX, fields.app_type, refusal)?;
    let namespace = required(fields.namespace, Refusal::NamespaceRequired)?;
    at_most(NAME_MAX, namespace, Refusal::NamespaceTooLong)?;
    let meta = metadata::read(meta.and_then(json::entries).into_iter().flatten())?;
    Ok(Request::Join {
        namespace,
        app_type: fields.app_type,
        meta,
    })
}

fn leave<'a>(payload: Option<&str>, scratch: &'a mut Vec<u8>) -> Result<Request<'a>, Refusal> {
    let refusal = Refusal::NamespaceRequired;
    let fields = Fields::read(payload, &["namespace"], scratch, refusal)?;
    Ok(Request::Leave {
        namespace: required(fields.namespace, refusal)?,
    })
}

fn discover<'a>(payload: Option<&str>, scratch: &'a mut Vec<u8>) -> Result<Request<'a>, Refusal> {
    let fields = Fields::read(payload, &["namespace", "limit"], scratch, Refusal::InvalidDiscover)?;
    Ok(Request::Discover {
        namespace: fields.namespace,
        limit: count(fields.limit, 1, LIST_DEFAULT).min(LIST_MAX),
    })
}

fn find_match<'a>(payload: Option<&str>, scratch: &'a mut Vec<u8>) -> Result<Request<'a>, Refusal> {
    let refusal = Refusal::InvalidMatch;
    let criteria = object(payload, "criteria", refusal)?.unwrap_or("{}");
    scratch.clear();
    json::push_canonical(scratch, criteria);
    let criteria = CriteriaKey(Sha256::digest(&scratch).into());
    let fields = Fields::read(payload, &["namespace", "group_size"], scratch, refusal)?;
    let namespace = required(fields.namespace, Refusal::NamespaceRequired)?;
    // A waiting request keeps the name, so its length counts, although no member is needed for it.
    at_most(NAME_MAX, namespace, Refusal::NamespaceTooLong)?;
    let group_size = count(fields.group_size, 2, 2);
    if group_size > GROUP_MAX {
        return Err(Refusal::GroupTooLarge);
    }
    Ok(Request::Match {
        namespace,
        group_size,
        criteria,
    })
}

fn create_room<'a>(payload: Option<&str>, scratch: &'a mut Vec<u8>) -> Result<Request<'a>, Refusal> {
    let fields = Fields::read(payload, &["room_id", "max_size"], scratch, Refusal::InvalidCreateRoom)?;
    let room = required(fields.room_id, Refusal::RoomIdRequired)?;
    at_most(NAME_MAX, room, Refusal::RoomIdTooLong)?;
    Ok(Request::CreateRoom {
        room,
        max_size: count(fields.max_size, 1, ROOM_DEFAULT).min(ROOM_MAX),
    })
}

fn join_room<'a>(payload: Option<&str>, scratch: &'a mut Vec<u8>) -> Result<Request<'a>, Refusal> {
    let fields = Fields::read(payload, &["room_id"], scratch, Refusal::InvalidJoinRoom)?;
    Ok(Request::JoinRoom {
        room: required(fields.room_id, Refusal::RoomIdRequired)?,
    })
}

fn room_info<'a>(payload: Option<&str>, scratch: &'a mut Vec<u8>) -> Result<Request<'a>, Refusal> {
    let refusal = Refusal::RoomIdRequired;
    let fields = Fields::read(payload, &["room_id"], scratch, refusal)?;
    Ok(Request::RoomInfo {
        room: required(fields.room_id, refusal)?,
    })
}

fn kick<'a>(payload: Option<&str>, scratch: &'a mut Vec<u8>) -> Result<Request<'a>, Refusal> {
    let fields = Fields::read(payload, &["room_id", "fingerprint"], scratch, Refusal::InvalidKick)?;
    let room = required(fields.room_id, Refusal::KickFieldsRequired)?;
    let target = required(fields.fingerprint, Refusal::KickFieldsRequired)?;
    Ok(Request::Kick {
        room,
        target: Fingerprint::parse(target),
    })
}

fn update_metadata<'a>(payload: Option<&str>) -> Result<Request<'a>, Refusal> {
    let refusal = Refusal::InvalidMetadata;
    let update = match object(payload, "meta", refusal)? {
        Some(meta) => metadata::read(json::entries(meta).into_iter().flatten()),
        // The bare map. A `meta` in it is null, which is to say absent.
        None => {
            let entries = payload.and_then(json::entries).into_iter().flatten();
            metadata::read(entries.filter(|(name, _)| !name.is("meta")))
        }
    }?;
    Ok(Request::Metadata { update })
}

fn required(text: &str, refusal: Refusal) -> Result<&str, Refusal> {
    if text.is_empty() { Err(refusal) } else { Ok(text) }
}

fn at_most(bytes: usize, text: &str, refusal: Refusal) -> Result<(), Refusal> {
    if text.len() > bytes { Err(refusal) } else { Ok(()) }
}

/// A number asked for; `default` if it is below `least`, the largest there is if it is beyond 32 bits.
fn count(asked: i64, least: i64, default: u32) -> u32 {
    if asked < least {
        default
    } else {
        u32::try_from(asked).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Incoming, parse};
    use super::*;
    use crate::message::{META_MAX, Meta};

    /// Reads a whole message and hands on what it asks for.
    fn ask<T>(kind: &str, payload: &str, read: impl FnOnce(Request<'_>) -> T) -> Result<T, Refusal> {
        let text = format!(r#"{{"type":"{kind}","payload":{payload}}}"#);
        match parse(&text, &mut Vec::new())? {
            Incoming::Request(request) => Ok(read(request)),
            other => panic!("{other:?}"),
        }
    }

    fn refusals(kind: &str, cases: &[(&str, Refusal)]) {
        for (payload, expected) in cases {
            assert_eq!(ask(kind, payload, |_| ()), Err(*expected), "{kind} {payload}");
        }
    }

    /// No payload at all, and payloads of every kind but an object.
    fn refuses_what_is_no_object(kind: &str, expected: Refusal) {
        assert_eq!(
            parse(&format!(r#"{{"type":"{kind}"}}"#), &mut Vec::new()).err(),
            Some(expected),
            "{kind}"
        );
        refusals(
            kind,
            &["null", "\"x\"", "[]", "[{}]", "1", "true"].map(|payload| (payload, expected)),
        );
    }

    fn members(meta: &Meta) -> Vec<(&str, &str)> {
        meta.entries().collect()
    }

    #[test]
    fn a_join_is_read() {
        let payload =
            r#"{"namespace":"l\u006fbby","app_type":"t","version":"1","meta":{"b" : 1.0,"\u0061":"x"},"y":[]}"#;
        ask("join", payload, |request| {
            let Request::Join {
                namespace,
                app_type,
                meta,
            } = request
            else {
                panic!("{request:?}")
            };
            assert_eq!((namespace, app_type), ("lobby", "t"));
            assert_eq!(members(&meta), [("\"b\"", "1.0"), ("\"a\"", "\"x\"")]);
        })
        .unwrap();
        let bare = r#"{"app_type":null,"namespace":"x","version":null,"meta":null}"#;
        let expected = Request::Join {
            namespace: "x",
            app_type: "",
            meta: Meta::default(),
        };
        ask("join", bare, |request| assert_eq!(request, expected)).unwrap();
    }

    #[test]
    fn a_bad_join_is_refused() {
        use Refusal::*;
        refuses_what_is_no_object("join", InvalidJoin);
        refusals(
            "join",
            &[
                ("{}", NamespaceRequired),
                (r#"{"namespace":""}"#, NamespaceRequired),
                (r#"{"namespace":null,"meta":{}}"#, NamespaceRequired),
                (r#"{"namespace":"x","namespace":null}"#, NamespaceRequired),
                (r#"{"namespace":5}"#, InvalidJoin),
                (r#"{"namespace":"a","meta":"no"}"#, InvalidJoin),
                (r#"{"namespace":"","meta":[]}"#, InvalidJoin),
                (r#"{"namespace":"a","app_type":1}"#, InvalidJoin),
                (r#"{"namespace":"a","version":1}"#, InvalidJoin),
                (r#"{"namespace":"\ud800"}"#, InvalidJoin),
            ],
        );
    }

    #[test]
    fn the_limits_of_a_join_count_unescaped_bytes_in_order() {
        use Refusal::*;
        let with = |namespace: &str, app_type: &str, meta: &str| {
            let meta = format!(r#"{{ "k" : "{meta}" }}"#);
            let payload = format!(r#"{{"namespace":"{namespace}","app_type":"{app_type}","meta":{meta}}}"#);
            ask("join", &payload, |_| ())
        };
        let meta_max = "m".repeat(META_MAX - r#"{"k":""}"#.len());
        assert_eq!(with(&r"\u0061".repeat(256), &r"\n".repeat(256), &meta_max), Ok(()));
        let [long, meta] = ["é".repeat(129), format!("{meta_max}m")];
        assert_eq!(with("", &long, &meta), Err(InvalidJoin));
        assert_eq!(with("", "t", &meta), Err(NamespaceRequired));
        assert_eq!(with(&long, "t", &meta), Err(NamespaceTooLong));
        assert_eq!(with("x", "t", &meta), Err(MetadataTooLarge));
    }

    #[test]
    fn a_leave_needs_no_more_than_a_name() {
        refuses_what_is_no_object("leave", Refusal::NamespaceRequired);
        let bad = [
            "{}",
            r#"{"namespace":""}"#,
            r#"{"namespace":1}"#,
            r#"{"namespace":null}"#,
        ];
        refusals("leave", &bad.map(|payload| (payload, Refusal::NamespaceRequired)));
        let long = "n".repeat(1000);
        let expected = Request::Leave { namespace: &long };
        ask("leave", &format!(r#"{{"namespace":"{long}"}}"#), |request| {
            assert_eq!(request, expected)
        })
        .unwrap();
    }

    #[test]
    fn a_discover_has_a_limit_in_range() {
        let cases = [
            ("", 50),
            (r#","limit":null"#, 50),
            (r#","limit":0"#, 50),
            (r#","limit":-3"#, 50),
            (r#","limit":-9223372036854775808"#, 50),
            (r#","limit":1"#, 1),
            (r#","limit":20"#, 20),
            (r#","limit":1000"#, 1000),
            (r#","limit":1001"#, 1000),
            (r#","limit":4294967297"#, 1000),
            (r#","limit":9223372036854775807"#, 1000),
            (r#","limit":"9","limit":7"#, 7),
        ];
        for (field, limit) in cases {
            let expected = Request::Discover { namespace: "x", limit };
            let payload = format!(r#"{{"namespace":"x"{field}}}"#);
            ask("discover", &payload, |request| assert_eq!(request, expected, "{field}")).unwrap();
        }
        for payload in ["{}", r#"{"namespace":""}"#, r#"{"namespace":null}"#] {
            let expected = Request::Discover {
                namespace: "",
                limit: 50,
            };
            ask("discover", payload, |request| assert_eq!(request, expected)).unwrap();
        }
    }

    #[test]
    fn a_bad_discover_is_refused() {
        refuses_what_is_no_object("discover", Refusal::InvalidDiscover);
        let limits = [
            "\"9\"",
            "1.0",
            "1e1",
            "9223372036854775808",
            "123456789012345678901",
            "1e999",
            "true",
            "[]",
            "{}",
        ];
        for limit in limits {
            let payload = format!(r#"{{"namespace":"x","limit":{limit}}}"#);
            refusals("discover", &[(&payload, Refusal::InvalidDiscover)]);
        }
        refusals("discover", &[(r#"{"namespace":1}"#, Refusal::InvalidDiscover)]);
    }

    fn group_size(field: &str) -> Result<u32, Refusal> {
        ask(
            "match",
            &format!(r#"{{"namespace":"q"{field}}}"#),
            |request| match request {
                Request::Match {
                    namespace: "q",
                    group_size,
                    ..
                } => group_size,
                other => panic!("{other:?}"),
            },
        )
    }

    #[test]
    fn small_groups_are_pairs_and_large_ones_refused() {
        for small in [
            "",
            r#","group_size":null"#,
            r#","group_size":-7"#,
            r#","group_size":1"#,
            r#","group_size":2"#,
        ] {
            assert_eq!(group_size(small), Ok(2), "{small}");
        }
        assert_eq!(group_size(r#","group_size":1000"#), Ok(1000));
        for large in [
            r#","group_size":1001"#,
            r#","group_size":4294967298"#,
            r#","group_size":9223372036854775807"#,
        ] {
            assert_eq!(group_size(large), Err(Refusal::GroupTooLarge), "{large}");
        }
    }

    #[test]
    fn a_bad_match_is_refused() {
        use Refusal::*;
        refuses_what_is_no_object("match", InvalidMatch);
        let long = format!(r#"{{"namespace":"{}","group_size":5000}}"#, "n".repeat(257));
        refusals(
            "match",
            &[
                (r#"{"namespace":"q","group_size":2.5}"#, InvalidMatch),
                (r#"{"namespace":"q","group_size":"2"}"#, InvalidMatch),
                (r#"{"namespace":"q","group_size":9223372036854775808}"#, InvalidMatch),
                (r#"{"namespace":"q","criteria":[1]}"#, InvalidMatch),
                (r#"{"criteria":"x","group_size":1001}"#, InvalidMatch),
                ("{}", NamespaceRequired),
                (r#"{"namespace":"","group_size":1001}"#, NamespaceRequired),
                (&long, NamespaceTooLong),
            ],
        );
    }

    fn criteria(field: &str) -> CriteriaKey {
        let read = |request: Request<'_>| match request {
            Request::Match { criteria, .. } => criteria,
            other => panic!("{other:?}"),
        };
        ask("match", &format!(r#"{{"namespace":"q"{field}}}"#), read).unwrap()
    }

    #[test]
    fn criteria_are_equal_as_values() {
        for none in [r#","criteria":null"#, r#","criteria":{}"#, r#","criteria": { } "#] {
            assert_eq!(criteria(none), criteria(""), "{none}");
        }
        let of = |object: &str| criteria(&format!(r#","criteria":{object}"#));
        let first = of(r#"{"mode":"ffa","level":1,"o":{"a":1,"b":[]}}"#);
        assert_eq!(
            first,
            of(r#"{ "o":{"b":[],"a":1e0}, "level" : 1.0, "m\u006fde":"ffa" }"#)
        );
        for other in [
            r#"{"mode":"ffa","level":"1","o":{"a":1,"b":[]}}"#,
            r#"{"mode":"ffa","level":1}"#,
        ] {
            assert_ne!(first, of(other), "{other}");
        }
        assert_ne!(of(r#"{"a":null}"#), of("{}"));
    }

    #[test]
    fn a_room_has_a_size_in_range() {
        let cases = [
            ("", 20),
            (r#","max_size":null"#, 20),
            (r#","max_size":0"#, 20),
            (r#","max_size":-1"#, 20),
            (r#","max_size":1"#, 1),
            (r#","max_size":2"#, 2),
            (r#","max_size":30"#, 30),
            (r#","max_size":31"#, 30),
            (r#","max_size":9223372036854775807"#, 30),
        ];
        for (field, max_size) in cases {
            let expected = Request::CreateRoom { room: "r", max_size };
            let payload = format!(r#"{{"room_id":"r"{field}}}"#);
            ask("create_room", &payload, |request| {
                assert_eq!(request, expected, "{field}")
            })
            .unwrap();
        }
    }

    #[test]
    fn a_bad_create_room_is_refused() {
        use Refusal::*;
        refuses_what_is_no_object("create_room", InvalidCreateRoom);
        let long = format!(r#"{{"room_id":"{}"}}"#, "r".repeat(257));
        let long_and_bad = format!(r#"{{"room_id":"{}","max_size":"5"}}"#, "r".repeat(257));
        refusals(
            "create_room",
            &[
                ("{}", RoomIdRequired),
                (r#"{"room_id":"","max_size":5}"#, RoomIdRequired),
                (r#"{"max_size":"5"}"#, InvalidCreateRoom),
                (r#"{"room_id":"z","max_size":"5"}"#, InvalidCreateRoom),
                (r#"{"room_id":"z","max_size":2.5}"#, InvalidCreateRoom),
                (r#"{"room_id":7}"#, InvalidCreateRoom),
                (&long, RoomIdTooLong),
                (&long_and_bad, InvalidCreateRoom),
            ],
        );
        let max = format!(r#"{{"room_id":"{}"}}"#, r"\u0072".repeat(256));
        assert_eq!(ask("create_room", &max, |_| ()), Ok(()));
    }

    #[test]
    fn rooms_are_joined_and_described_by_id() {
        let payload = r#"{"room_id":"r\u0031","x":1}"#;
        ask("join_room", payload, |request| {
            assert_eq!(request, Request::JoinRoom { room: "r1" })
        })
        .unwrap();
        ask("room_info", payload, |request| {
            assert_eq!(request, Request::RoomInfo { room: "r1" })
        })
        .unwrap();
        refuses_what_is_no_object("join_room", Refusal::InvalidJoinRoom);
        refusals("join_room", &[(r#"{"room_id":1}"#, Refusal::InvalidJoinRoom)]);
        refuses_what_is_no_object("room_info", Refusal::RoomIdRequired);
        refusals("room_info", &[(r#"{"room_id":1}"#, Refusal::RoomIdRequired)]);
        for kind in ["join_room", "room_info"] {
            let missing = ["{}", r#"{"room_id":""}"#, r#"{"room_id":null}"#];
            refusals(kind, &missing.map(|payload| (payload, Refusal::RoomIdRequired)));
        }
    }

    #[test]
    fn a_kick_names_a_room_and_a_fingerprint() {
        let fingerprint = Fingerprint::of_key("k");
        let hex = String::from_utf8(fingerprint.hex().to_vec()).unwrap();
        for (text, target) in [
            (hex.as_str(), Some(fingerprint)),
            ("00", None),
            (&hex.to_uppercase(), None),
        ] {
            let expected = Request::Kick { room: "r", target };
            let payload = format!(r#"{{"room_id":"r","fingerprint":"{text}"}}"#);
            ask("kick", &payload, |request| assert_eq!(request, expected)).unwrap();
        }
    }

    #[test]
    fn a_bad_kick_is_refused() {
        use Refusal::*;
        refuses_what_is_no_object("kick", InvalidKick);
        refusals(
            "kick",
            &[
                ("{}", KickFieldsRequired),
                (r#"{"room_id":"r"}"#, KickFieldsRequired),
                (r#"{"fingerprint":"x"}"#, KickFieldsRequired),
                (r#"{"room_id":"","fingerprint":"x"}"#, KickFieldsRequired),
                (r#"{"room_id":"r","fingerprint":null}"#, KickFieldsRequired),
                (r#"{"room_id":"r","fingerprint":1}"#, InvalidKick),
                (r#"{"room_id":{},"fingerprint":""}"#, InvalidKick),
            ],
        );
    }
}
