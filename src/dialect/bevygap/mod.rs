//! The matchmaker web service as bevygap's clients speak it: one request, then one externally tagged value a frame.
//!
//! Owns: reading requests, reports and tickets, the exact error texts, the frames, the answer in one piece, the payloads that
//! ask another matchmaker.
//! Never: knows who is asked, makes a token, or reads a clock.

mod address;
mod frames;
mod report;
mod request;
mod seek;
mod ticket;

pub use address::{CLIENT_IP_INVALID, client_ip};
pub use frames::{push_frame, push_single, single_status};
pub use report::{REPORT_BYTES_MAX, parse_report, reporting_server};
pub use request::{Request, parse_path, parse_request};
pub use seek::{SEEK_BYTES_MAX, parse_seek, push_seek};
pub use ticket::{TICKET_AHEAD_MAX_S, bearer, is_admitted, verify_bearer, verify_ticket};
