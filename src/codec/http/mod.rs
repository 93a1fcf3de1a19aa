//! HTTP/1.1 request heads and short answers (RFC 9112), as strict as a server can be that reads no bodies.
//!
//! Owns: what a well-formed head is, escapes in its target, the upgrade to WebSocket, the form of our answers.
//! Never: reads a body, or knows which path means what. A head that two programs might read in two ways
//! is refused, so that no proxy before us can be made to smuggle a request.

mod request;
mod response;
mod target;
mod upgrade;

pub use request::{Head, Headers, ParseError, parse_head};
pub use response::{push_chunk, push_last_chunk, push_response, push_stream_head, push_switching_protocols};
pub use target::{percent_decode, query_value};
pub use upgrade::{Key, UpgradeError, check_upgrade};
