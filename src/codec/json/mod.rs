//! JSON as bytes: the one-pass envelope scan, readers of raw spans, and an escaping writer.
//!
//! Owns: the strict grammar of RFC 8259 ([`scan_envelope`], the only gate of a received text), the spans found in it,
//! and every byte of JSON that the server writes.
//! Never: knows a message type or a limit of a feature, builds a tree, or changes the text that it reads. A span of a
//! scanned text is read by the other functions here; given anything else they answer something, without a panic.

mod body;
mod canonical;
mod grammar;
mod read;
mod scan;
mod specials;
mod string;
mod write;

pub use body::{BodyError, read_body};
pub use canonical::{push_canonical, push_canonical_string};
pub use read::{Kind, as_string, elements, entries, kind_of, members};
pub use scan::{Envelope, ScanError, scan_envelope};
pub use string::RawString;
pub use write::{push_compact, push_i64, push_string, push_u64};

/// Deepest nesting of objects and arrays that is read; the document itself is the first level.
pub const DEPTH_MAX: u32 = 128;

#[cfg(test)]
mod comparison;
#[cfg(test)]
mod fixtures;
