//! What a peer is told to gather WebRTC candidates with, and the credential that lets it use a TURN server for a while.
//!
//! Owns: the spelling of the answer, and how a credential is made. coturn (`use-auth-secret`) and eturnal accept it; its form is
//! that of draft-uberti-behave-turn-rest-00 section 2.2.
//! Never: reads a clock, or keeps a credential: each is made when it is asked for.

use aws_lc_rs::hmac;
use data_encoding::BASE64;

use crate::codec::json;
use crate::ids::Fingerprint;

/// The servers that all peers are told.
#[derive(Clone, Debug, Default)]
pub struct IceServers {
    /// Whether our own STUN port is among them.
    pub own: bool,
    /// URLs of STUN servers.
    pub stun: Vec<String>,
    /// URLs of TURN servers.
    pub turn: Vec<String>,
    /// What those make credentials from; None: they get none of us.
    pub secret: Option<TurnSecret>,
    /// How long an answer may be used, in seconds.
    pub ttl_s: u64,
}

/// A secret that we share with TURN servers. `{:?}` does not show it.
#[derive(Clone, Debug)]
pub struct TurnSecret(hmac::Key);

impl TurnSecret {
    /// None for the empty text.
    #[must_use]
    pub fn new(secret: &str) -> Option<Self> {
        let key = || hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
        (!secret.is_empty()).then(|| Self(key()))
    }

    /// The password that belongs to a user name.
    fn password(&self, username: &[u8]) -> [u8; PASSWORD_LEN] {
        let mut password = [0; PASSWORD_LEN];
        BASE64.encode_mut(hmac::sign(&self.0, username).as_ref(), &mut password);
        password
    }
}

/// Our own STUN port as one peer reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own<'a> {
    /// A name or address as it stands in a URL.
    pub host: &'a str,
    /// A UDP port.
    pub port: u16,
}

/// Appends the answer for one peer: at most one entry for the STUN servers and one for the TURN servers.
///
/// `own` is None where the peer's way to us is not known; `unix_s` is the time in seconds.
pub fn push_ice_servers(
    out: &mut Vec<u8>,
    servers: &IceServers,
    own: Option<Own<'_>>,
    peer: &Fingerprint,
    unix_s: u64,
) {
    put(out, r#"{"type":"ice_servers","payload":{"ice_servers":["#);
    let own = own.filter(|_| servers.own);
    let has_stun = own.is_some() || !servers.stun.is_empty();
    if has_stun {
        put(out, URLS);
        if let Some(Own { host, port }) = own {
            put(out, r#""stun:"#);
            put(out, host);
            put(out, ":");
            json::push_u64(out, u64::from(port));
            put(out, "\"");
        }
        push_urls(out, own.is_some(), &servers.stun);
        put(out, "]}");
    }
    if !servers.turn.is_empty() {
        put(out, if has_stun { "," } else { "" });
        put(out, URLS);
        push_urls(out, false, &servers.turn);
        put(out, "]");
        if let Some(secret) = &servers.secret {
            push_credential(out, secret, peer, unix_s.saturating_add(servers.ttl_s));
        }
        put(out, "}");
    }
    put(out, r#"],"ttl":"#);
    json::push_u64(out, servers.ttl_s);
    put(out, "}}");
}

fn push_urls(out: &mut Vec<u8>, after_another: bool, urls: &[String]) {
    for (place, url) in urls.iter().enumerate() {
        put(out, if after_another || place > 0 { "," } else { "" });
        json::push_string(out, url);
    }
}

/// The user name says until when it is good, and to whom it was given.
fn push_credential(out: &mut Vec<u8>, secret: &TurnSecret, peer: &Fingerprint, expiry_s: u64) {
    put(out, r#","username":""#);
    let start = out.len();
    json::push_u64(out, expiry_s);
    put(out, ":");
    out.extend_from_slice(&peer.hex());
    let password = secret.password(out.get(start..).unwrap_or_default());
    put(out, r#"","credential":""#);
    out.extend_from_slice(&password);
    put(out, "\"");
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

const URLS: &str = r#"{"urls":["#;
/// Base64 of the 20 bytes of an HMAC-SHA1.
const PASSWORD_LEN: usize = 28;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    const NOON: u64 = 1_767_225_600;

    fn told(servers: &IceServers, own: Option<Own<'_>>) -> Value {
        let mut out = b">".to_vec();
        push_ice_servers(&mut out, servers, own, &Fingerprint::of_key("alice-key"), NOON);
        let answer: Value = serde_json::from_slice(&out[1..]).unwrap();
        assert_eq!(
            (answer.as_object().unwrap().len(), &answer["type"]),
            (2, &json!("ice_servers"))
        );
        answer["payload"].clone()
    }

    fn texts(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|url| (*url).to_owned()).collect()
    }

    /// The passwords were made by Python's `hmac` and `base64`.
    #[test]
    fn a_credential_is_the_one_that_a_turn_server_computes() {
        let username = "1767312000:72ee9d4355ccb9d3a4c9dbf37382e38e75c1b1a225b5bd1f729ee91bbda30c20";
        // The second secret is longer than a block of SHA-1, which HMAC replaces by its digest.
        for (secret, password) in [
            ("north", "POtqQM5ih/O4VsqCipysXmKuR7c="),
            (&*"s3cret\u{e9}".repeat(9), "fCatOxdg74EZ2AVrBO4t5DrXKUI="),
        ] {
            let servers = IceServers {
                turn: texts(&["turn:t.example"]),
                secret: TurnSecret::new(secret),
                ttl_s: 86_400,
                ..IceServers::default()
            };
            let entry = json!({ "urls": ["turn:t.example"], "username": username, "credential": password });
            assert_eq!(told(&servers, None), json!({ "ice_servers": [entry], "ttl": 86_400 }));
        }
        assert!(TurnSecret::new("").is_none());
        let shown = format!("{:?}", TurnSecret::new("north"));
        assert!(!shown.contains("north") && !shown.contains("110, 111"), "{shown}");
    }

    #[test]
    fn there_is_one_entry_for_each_kind_that_there_is() {
        let own = Some(Own {
            host: "[::1]",
            port: 3478,
        });
        let mut servers = IceServers {
            ttl_s: 5,
            ..IceServers::default()
        };
        assert_eq!(told(&servers, own), json!({ "ice_servers": [], "ttl": 5 }));

        servers.own = true;
        assert_eq!(told(&servers, None), json!({ "ice_servers": [], "ttl": 5 }));
        let alone = json!({ "urls": ["stun:[::1]:3478"] });
        assert_eq!(told(&servers, own)["ice_servers"], json!([alone]));

        servers.stun = texts(&["stun:a", "stuns:b"]);
        let both = json!({ "urls": ["stun:[::1]:3478", "stun:a", "stuns:b"] });
        assert_eq!(told(&servers, own)["ice_servers"], json!([both]));
        let listed = json!({ "urls": ["stun:a", "stuns:b"] });
        assert_eq!(told(&servers, None)["ice_servers"], json!([listed]));

        servers.turn = texts(&["turn:c", "turns:d?transport=tcp"]);
        let turn = json!({ "urls": ["turn:c", "turns:d?transport=tcp"] });
        assert_eq!(told(&servers, own)["ice_servers"], json!([both, turn]));
        servers.secret = TurnSecret::new("x");
        let answer = told(&servers, own);
        assert_eq!(answer["ice_servers"][0], both);
        let expected = format!(
            "1767225605:{}",
            String::from_utf8_lossy(&Fingerprint::of_key("alice-key").hex())
        );
        assert_eq!(answer["ice_servers"][1]["username"], expected);
        assert_eq!(
            answer["ice_servers"][1]["credential"].as_str().unwrap().len(),
            PASSWORD_LEN
        );
    }

    #[test]
    fn a_credential_for_ever_does_not_wrap() {
        let servers = IceServers {
            turn: texts(&["turn:c"]),
            secret: TurnSecret::new("x"),
            ttl_s: u64::MAX,
            ..IceServers::default()
        };
        let payload = told(&servers, None);
        let username = payload["ice_servers"][0]["username"].as_str().unwrap();
        assert!(username.starts_with("18446744073709551615:"), "{username}");
    }
}
