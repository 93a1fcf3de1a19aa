//! How a configured game server, a name, a digest and a private key are written.
//!
//! Owns: their grammar, and the words in which a refusal is told.
//! Never: repeats a private key, or reads a file.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::GameServer;

impl GameServer {
    /// The object that the file would hold, without what is as if it were not there.
    pub(super) fn to_json(&self) -> Value {
        let mut object = Map::new();
        let mut put = |member: &str, value: Value| _ = object.insert(member.to_owned(), value);
        put("id", self.id.as_str().into());
        put("public", self.public.to_string().into());
        if !self.internal.is_empty() {
            let internal = self.internal.iter().map(SocketAddr::to_string);
            put("internal", internal.collect::<Vec<_>>().into());
        }
        put("game", self.game.as_str().into());
        put("version", self.version.as_str().into());
        put("capacity", self.capacity.into());
        for (member, text) in [("cert_digest", &self.cert_digest), ("region", &self.region)] {
            if !text.is_empty() {
                put(member, text.as_str().into());
            }
        }
        if let Some(id) = self.protocol_id {
            put("protocol_id", id.into());
        }
        if let Some(path) = &self.private_key_file {
            put("private_key_file", path.to_string_lossy().into());
        }
        Value::Object(object)
    }
}

/// Reads the configured servers.
///
/// # Errors
/// What is wrong, of each server the first fault.
pub(super) fn parse(list: &[Value]) -> Result<Vec<GameServer>, String> {
    if list.len() > SERVERS_MAX {
        return Err(format!("{} are too many (at most {SERVERS_MAX})", list.len()));
    }
    let mut servers: Vec<GameServer> = Vec::with_capacity(list.len());
    let mut faults = Vec::new();
    for (index, value) in list.iter().enumerate() {
        match server(value) {
            Ok(server) if servers.iter().any(|before| before.id == server.id) => {
                faults.push(format!("the id {:?} is given twice", server.id));
            }
            Ok(server) => servers.push(server),
            Err(what) => faults.push(format!("number {}: {what}", index + 1)),
        }
    }
    match faults.is_empty() {
        true => Ok(servers),
        false => Err(faults.join("; ")),
    }
}

fn server(value: &Value) -> Result<GameServer, String> {
    let Value::Object(object) = value else {
        return Err("is not an object".to_owned());
    };
    if let Some(unknown) = object.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
        let members = MEMBERS.join(", ");
        return Err(format!("{unknown:?} is unknown (the members are {members})"));
    }
    // As everywhere in the file `null` is as if the member were not there.
    let member = |name: &str| object.get(name).filter(|value| !value.is_null());
    let text = |name: &str| match member(name) {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(format!("{name} must be a string")),
    };
    let needed = |name: &str| match text(name) {
        Ok("") => Err(format!("{name} is missing")),
        other => other,
    };
    let number = |name: &str| match member(name).map(Value::as_u64) {
        Some(None) => Err(format!("{name} must be a whole number, 0 or more")),
        Some(found) => Ok(found),
        None => Ok(None),
    };
    let in_member = |name: &'static str| move |what: String| format!("{name}: {what}");

    let id = needed("id")?;
    if id.len() > ID_BYTES_MAX || !id.bytes().all(is_name_byte) {
        return Err(format!("id: {id:?} is not 1 to {ID_BYTES_MAX} of A-Z a-z 0-9 _ -"));
    }
    let internal = match member("internal") {
        None => Vec::new(),
        Some(Value::Array(list)) if list.len() <= INTERNAL_MAX => list
            .iter()
            .map(|value| server_address(value.as_str().unwrap_or_default()))
            .collect::<Result<_, _>>()
            .map_err(in_member("internal"))?,
        Some(_) => return Err(format!("internal must be a list of at most {INTERNAL_MAX} IP:PORT")),
    };
    let capacity = number("capacity")?.ok_or("capacity is missing")?;
    let capacity = u32::try_from(capacity)
        .ok()
        .filter(|capacity| (1..=CAPACITY_MAX).contains(capacity));
    Ok(GameServer {
        id: id.to_owned(),
        public: server_address(needed("public")?).map_err(in_member("public"))?,
        internal,
        game: name_or_none(needed("game")?).map_err(in_member("game"))?,
        version: name_or_none(needed("version")?).map_err(in_member("version"))?,
        capacity: capacity.ok_or_else(|| format!("capacity is out of range (1 to {CAPACITY_MAX})"))?,
        cert_digest: digest_or_none(text("cert_digest")?).map_err(in_member("cert_digest"))?,
        region: text("region")?.to_owned(),
        protocol_id: number("protocol_id")?,
        private_key_file: Some(text("private_key_file")?)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        private_key: None,
    })
}

/// Where players or the server itself find a port.
fn server_address(text: &str) -> Result<SocketAddr, String> {
    let parsed = text.parse::<SocketAddr>().ok();
    let usable =
        parsed.filter(|address| address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast());
    usable.ok_or_else(|| format!("{text:?} is not the IP:PORT of a server"))
}

/// Reads what a game or its version is called, or nothing.
///
/// # Errors
/// It is no such name.
pub(super) fn name_or_none(text: &str) -> Result<String, String> {
    match text.len() <= NAME_BYTES_MAX && text.bytes().all(is_name_byte) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is not a name ({NAME_RANGE})")),
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// Reads the digest of a certificate, or nothing.
///
/// # Errors
/// It is no SHA-256 in hex.
pub(super) fn digest_or_none(text: &str) -> Result<String, String> {
    let is_pair = |pair: &[u8]| pair.len() == 2 && pair.iter().all(u8::is_ascii_hexdigit);
    let is_digest = match text.len() {
        0 => true,
        64 => text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        95 => text.as_bytes().split(|byte| *byte == b':').all(is_pair),
        _ => false,
    };
    match is_digest {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is not the SHA-256 of a certificate ({DIGEST_RANGE})")),
    }
}

/// Reads a private key.
///
/// # Errors
/// What is wrong with it, without a word of it.
pub(super) fn parse_key(text: &str) -> Result<[u8; 32], &'static str> {
    let text = text.trim();
    let key = match text.contains(',') {
        true => numbers(text),
        false => hex(text),
    };
    match key {
        None => Err("is neither 64 hex digits nor 32 numbers of 0 to 255 between commas"),
        Some(key) if key == [0; 32] => Err("is all zeros, which everybody knows"),
        Some(key) => Ok(key),
    }
}

fn numbers(text: &str) -> Option<[u8; 32]> {
    let number = |piece: &str| {
        let piece = piece.trim();
        // `parse` would take a sign.
        let is_plain = piece.bytes().all(|byte| byte.is_ascii_digit());
        piece.parse().ok().filter(|_| is_plain)
    };
    let bytes: Vec<u8> = text.split(',').map(number).collect::<Option<_>>()?;
    bytes.try_into().ok()
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok()
}

/// What may be written, in the words of errors and of the documentation.
pub(super) const NAME_RANGE: &str = "at most 30 of A-Z a-z 0-9 _ -";
pub(super) const DIGEST_RANGE: &str = "64 hex digits, with or without : between the pairs, or empty";
pub(super) const KEY_RANGE: &str = "64 hex digits, or 32 numbers between commas";
const MEMBERS: [&str; 10] = [
    "id",
    "public",
    "internal",
    "game",
    "version",
    "capacity",
    "cert_digest",
    "region",
    "protocol_id",
    "private_key_file",
];
const NAME_BYTES_MAX: usize = 30;
const ID_BYTES_MAX: usize = 64;
/// As many addresses as a connect token holds.
const INTERNAL_MAX: usize = 32;
const CAPACITY_MAX: u32 = 1_000_000;
/// Each has a number of 16 bits for its key.
/// The least taken one of a game is sought among all of that game, for each player.
const SERVERS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parsed(value: &Value) -> Result<Vec<GameServer>, String> {
        parse(value.as_array().unwrap())
    }

    fn with(member: &str, value: Value) -> Value {
        let mut server = json!({
            "id": "a", "public": "203.0.113.10:7777", "game": "chess", "version": "1", "capacity": 2,
        });
        server[member] = value;
        json!([server])
    }

    #[test]
    fn a_server_is_read_and_written_back() {
        let full = json!([{
            "id": "eu-1", "public": "203.0.113.10:7777", "internal": ["10.0.0.2:7777", "[fd00::2]:1"], "game": "chess",
            "version": "v1-2", "capacity": 64, "cert_digest": "ab".repeat(32), "region": "Frankfurt",
            "protocol_id": u64::MAX, "private_key_file": "keys/eu-1",
        }]);
        let servers = parsed(&full).unwrap();
        assert_eq!(servers[0].to_json(), full[0]);
        assert_eq!(servers[0].protocol_id, Some(u64::MAX));
        assert_eq!(servers[0].private_key, None);
        let least = with("region", Value::Null);
        let servers = parsed(&least).unwrap();
        assert_eq!((servers[0].internal.len(), servers[0].protocol_id), (0, None));
        assert_eq!(parsed(&json!([servers[0].to_json()])).unwrap(), servers);
        assert_eq!(parsed(&json!([])).unwrap(), []);
    }

    #[test]
    fn what_is_wrong_with_a_server_is_told_with_its_member() {
        for (member, value, why) in [
            ("addr", json!("x"), "\"addr\" is unknown (the members are id, public,"),
            ("private_key", json!("00"), "\"private_key\" is unknown"),
            ("id", Value::Null, "id is missing"),
            ("id", json!(7), "id must be a string"),
            ("id", json!("a/b"), "id: \"a/b\" is not 1 to 64 of"),
            ("id", json!("x".repeat(65)), "is not 1 to 64 of"),
            ("public", json!(""), "public is missing"),
            (
                "public",
                json!("example.org:1"),
                "public: \"example.org:1\" is not the IP:PORT",
            ),
            ("public", json!("203.0.113.1:0"), "is not the IP:PORT"),
            ("public", json!("0.0.0.0:1"), "is not the IP:PORT"),
            ("internal", json!("10.0.0.1:1"), "internal must be a list"),
            ("internal", json!(["10.0.0.1"]), "internal: \"10.0.0.1\" is not"),
            (
                "internal",
                json!(vec!["10.0.0.1:1"; 33]),
                "internal must be a list of at most 32",
            ),
            ("game", json!("two words"), "game: \"two words\" is not a name"),
            ("game", json!("x".repeat(31)), "is not a name"),
            (
                "version",
                json!("v0.0.1"),
                "version: \"v0.0.1\" is not a name (at most 30 of A-Z a-z 0-9 _ -)",
            ),
            ("version", Value::Null, "version is missing"),
            ("capacity", Value::Null, "capacity is missing"),
            ("capacity", json!(0), "capacity is out of range (1 to 1000000)"),
            ("capacity", json!(1_000_001), "capacity is out of range"),
            ("capacity", json!("2"), "capacity must be a whole number"),
            (
                "cert_digest",
                json!("ab:cd"),
                "cert_digest: \"ab:cd\" is not the SHA-256",
            ),
            ("protocol_id", json!(-1), "protocol_id must be a whole number"),
            ("protocol_id", json!(1.5), "protocol_id must be a whole number"),
            ("private_key_file", json!([]), "private_key_file must be a string"),
        ] {
            let fault = parsed(&with(member, value)).unwrap_err();
            assert!(
                fault.starts_with("number 1: ") && fault.contains(why),
                "{member}: {fault}"
            );
        }
        assert_eq!(parsed(&json!(["a"])).unwrap_err(), "number 1: is not an object");
    }

    #[test]
    fn every_server_with_a_fault_is_told() {
        let server = &with("region", Value::Null)[0];
        let fault = parsed(&json!([server, {}, server, 1])).unwrap_err();
        assert_eq!(
            fault,
            "number 2: id is missing; the id \"a\" is given twice; number 4: is not an object"
        );
    }

    #[test]
    fn a_digest_has_colons_everywhere_or_nowhere() {
        let pairs = vec!["Ab"; 32];
        for good in [String::new(), pairs.concat(), pairs.join(":")] {
            assert_eq!(digest_or_none(&good).unwrap(), good);
        }
        for bad in [
            "ab".repeat(31),
            pairs.join("-"),
            "zz".repeat(32),
            format!("{}:", pairs[1..].join(":")),
            "a:bcd".repeat(19),
        ] {
            digest_or_none(&bad).unwrap_err();
        }
    }

    #[test]
    fn a_key_is_hex_or_numbers() {
        let mut key = [0; 32];
        key[..9].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        key[31] = 255;
        let hex = data_encoding::HEXLOWER.encode(&key);
        let numbers = key.map(|byte| byte.to_string());
        for good in [
            hex.clone(),
            hex.to_uppercase(),
            format!(" {hex}\n"),
            numbers.join(","),
            numbers.join(" , "),
        ] {
            assert_eq!(parse_key(&good), Ok(key), "{good:?}");
        }
        assert_eq!(parse_key(&"00".repeat(32)), Err("is all zeros, which everybody knows"));
        assert!(parse_key(&["0"; 32].join(",")).unwrap_err().contains("zeros"));
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        let many = |piece: &str, count: usize| vec![piece; count].join(",");
        for bad in [
            String::new(),
            "ab".repeat(31),
            "ab".repeat(33),
            "a".repeat(63),
            "zz".repeat(32),
            "ä".repeat(32),
            many("1", 31),
            many("1", 33),
            many("256", 32),
            many("-1", 32),
            many("+1", 32),
            many("0x1", 32),
            format!("{},", many("1", 31)),
            format!("[{}]", many("1", 32)),
            "11111111111111111111111111111111".to_owned(),
        ] {
            let fault = parse_key(&bad).unwrap_err();
            assert!(fault.starts_with("is neither 64 hex digits"), "{bad:?}: {fault}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader_of_keys(text in "[0-9a-f, ]{0,140}|\\PC{0,80}") {
            let _ = parse_key(&text);
            let _ = digest_or_none(&text);
        }
    }
}
