//! Bytes: wire formats over slices.
//!
//! Owns: WebSocket frames, JSON, HTTP/1.1 heads, permessage-deflate, STUN, protobuf, traffic between nodes. Pure functions: parse borrowed input, append to a caller's buffer.
//! Never: knows a feature of the server, or keeps state but that of an incomplete message.

pub mod connect_token;
pub mod deflate;
pub mod http;
pub mod json;
pub mod json_stream;
pub mod node_traffic;
pub mod protobuf;
pub mod stun;
pub mod websocket;
