//! A recorded dialogue, said again to a server of ours.
//!
//! Owns: reading the recordings, speaking as their client, and what was heard.
//! Never: knows what should be different.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Client, ConnectError, ConnectOptions, Event, Frame, unhex};

/// How long a client waits for the next frame: longer than any call of the cloud may take.
const FRAME_WITHIN: Duration = Duration::from_secs(20);

/// A recording.
pub(crate) struct Recording(pub(crate) Value);

/// What a client heard.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) frames: Vec<String>,
    /// The close code and reason; 1006: none.
    pub(crate) close: (u16, String),
}

impl Recording {
    /// The recording of this name.
    pub(crate) fn load(case: &str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/bevygap/{case}.json"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self(serde_json::from_str(&text).unwrap())
    }

    /// Says what its client said; `headers` are added to those of the upgrade.
    ///
    /// # Errors
    /// The upgrade was refused: its status.
    pub(crate) fn say(&self, addr: SocketAddr, headers: &[(&str, &str)]) -> Result<Heard, u16> {
        let recorded = self.0["request"]["headers"].as_object().unwrap().iter();
        let recorded = recorded.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
        let more = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let options = ConnectOptions {
            path: self.0["request"]["path"].as_str().unwrap().to_owned(),
            headers: recorded.chain(more).collect(),
            ..ConnectOptions::default()
        };
        let client = match Client::try_connect(addr, options) {
            Ok(client) => client,
            Err(ConnectError::Refused(response)) => return Err(response.status),
            Err(ConnectError::Failed(error)) => panic!("{error}"),
        };
        for message in self.0["send"].as_array().unwrap() {
            match message {
                Value::String(text) => client.send_text(text),
                other => client.send_frame(Frame::new(2, unhex(other["binary_hex"].as_str().unwrap()).unwrap())),
            }
        }
        Ok(hear(client))
    }

    /// The frames that were recorded.
    pub(crate) fn frames(&self) -> Vec<String> {
        let frames = self.0["receive"].as_array().unwrap().iter();
        frames.map(|frame| frame["data"].as_str().unwrap().to_owned()).collect()
    }
}

/// All that comes, to the end.
pub(crate) fn hear(mut client: Client) -> Heard {
    let mut frames = Vec::new();
    loop {
        match client.recv_content(FRAME_WITHIN) {
            Some(Event::Message {
                text: true, payload, ..
            }) => frames.push(String::from_utf8(payload).unwrap()),
            Some(Event::Close { code, reason, .. }) => {
                let close = (code.unwrap_or(1005), reason);
                return Heard { frames, close };
            }
            Some(Event::Eof) => {
                let close = (1006, String::new());
                return Heard { frames, close };
            }
            other => panic!(
                "after {frames:?}: {}",
                other.map_or("nothing".to_owned(), |event| event.describe())
            ),
        }
    }
}

impl Heard {
    /// The code of the error that it ended with. It must have been told politely, without the cloud's words.
    pub(crate) fn error_code(&self) -> u64 {
        let last: Value = serde_json::from_str(self.frames.last().unwrap()).unwrap();
        let error = last["Error"].as_array().unwrap_or_else(|| panic!("{self:?}"));
        let text = error[1].as_str().unwrap();
        assert!(!text.is_empty(), "{self:?}");
        for inside in ["mock", "http:", "127.0.0.1", "edgegap", "Edgegap", "session_id"] {
            assert!(!text.contains(inside), "{text}");
        }
        assert_eq!(self.close, (1000, "Goodbye".to_owned()), "{self:?}");
        error[0].as_u64().unwrap()
    }
}
