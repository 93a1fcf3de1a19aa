//! The recorded dialogues in `tests/vectors/peer-protocol/`: how they are written down.
//!
//! Owns: the format of the files and of their steps; what is not part of it is refused.
//! Never: plays one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::frame::Frame;

/// A file of the folder.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dialogue {
    /// 1.
    pub format: u32,
    /// The file's name without `.json`.
    pub id: String,
    /// One line.
    pub title: String,
    /// Configuration keys on top of the defaults.
    pub config: Map<String, Value>,
    /// Environment variables for the server.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The `public_key` of each client.
    pub keys: BTreeMap<String, String>,
    /// `same`, `differs` or `not_recorded`.
    pub upstream: String,
    /// What explains a difference.
    pub decisions: Vec<String>,
    /// To be parsed one by one ([`parse_step`]), so that a report can show a step as it is written.
    pub steps: Vec<Value>,
}

impl Dialogue {
    /// Reads one; panics when it is not as it should be.
    pub fn load(id: &str) -> Self {
        let path = Self::folder().join(format!("{id}.json"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let dialogue: Self = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!((dialogue.format, dialogue.id.as_str()), (1, id));
        assert!(
            matches!(dialogue.upstream.as_str(), "same" | "differs" | "not_recorded"),
            "{id}: upstream"
        );
        dialogue
    }

    /// Where they are.
    pub fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/peer-protocol")
    }
}

/// One step; the folder's README says what each does.
#[derive(Deserialize)]
#[allow(missing_docs, reason = "the README of the folder is their documentation")]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    Connect {
        client: String,
        extensions: Option<String>,
        expect_extensions: Option<String>,
        #[serde(default = "yes")]
        auto_pong: bool,
    },
    Send {
        client: String,
        json: Value,
    },
    SendText {
        client: String,
        text: String,
    },
    SendFrames {
        client: String,
        frames: Vec<RawFrame>,
    },
    Recv {
        client: String,
        json: Value,
        #[serde(default)]
        raw_contains: Vec<String>,
        compressed: Option<bool>,
        timeout_ms: Option<u64>,
    },
    RecvNone {
        client: String,
        ms: u64,
    },
    RecvClose {
        client: String,
        code: u16,
        #[serde(deserialize_with = "given_or_null")]
        reason: Option<String>,
        timeout_ms: Option<u64>,
    },
    RecvPing {
        client: String,
        hex: Option<String>,
        timeout_ms: Option<u64>,
    },
    RecvPong {
        client: String,
        hex: Option<String>,
        timeout_ms: Option<u64>,
    },
    SendBurst {
        client: String,
        count: u64,
        json: Value,
    },
    RecvBurst {
        client: String,
        count: u64,
        json: Value,
        timeout_ms: Option<u64>,
    },
    Close {
        client: String,
        code: u16,
        reason: String,
    },
    Drop {
        client: String,
    },
    Sleep {
        ms: u64,
    },
    Http {
        method: String,
        path: String,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        expect: HttpExpectation,
    },
    ServerSignal {
        signal: String,
    },
    ServerExit {
        code: i32,
        timeout_ms: u64,
    },
}

/// A frame to be sent as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFrame {
    opcode: u8,
    text: Option<String>,
    hex: Option<String>,
    #[serde(default = "yes")]
    fin: bool,
}

/// What an HTTP answer must be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpExpectation {
    /// The status code.
    pub status: u16,
    /// The exact `Content-Type`, if it matters.
    pub content_type: Option<String>,
    /// The body, if it matters.
    pub json: Option<Value>,
}

/// A step in full, apart from `upstream`, which says what another server did and is no expectation of ours.
pub fn parse_step(step: &Value) -> Result<Step, String> {
    let mut step = step.clone();
    if let Some(upstream) = step.as_object_mut().and_then(|members| members.remove("upstream")) {
        let known = |name: &String| matches!(name.as_str(), "none" | "close" | "json" | "lossy");
        let is_http = step["op"] == "http";
        if !upstream
            .as_object()
            .is_some_and(|members| is_http || members.keys().all(known))
        {
            return Err(format!("what is this upstream: {upstream}?"));
        }
    }
    serde_json::from_value(step).map_err(|error| error.to_string())
}

impl RawFrame {
    /// Masked, like every frame of a client.
    pub fn into_frame(self) -> Result<Frame, String> {
        let payload = match (self.text, self.hex) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(hex)) => unhex(&hex)?,
            _ => return Err("a frame has either text or hex".to_owned()),
        };
        let frame = Frame::new(self.opcode, payload);
        Ok(if self.fin { frame } else { frame.more() })
    }
}

/// Pairs of hex digits.
pub fn unhex(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u8>> = hex
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()),
        _ => Err(format!("{hex:?} is not hex")),
    }
}

fn yes() -> bool {
    true
}

fn given_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}
