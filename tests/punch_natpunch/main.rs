//! The server side of the protobuf punch dialect: captured flows, its rules one by one, and anything at any time.
//!
//! No sockets: the state machine of each loop is told what would arrive, and mail between loops is delayed at random.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../benches/world/bytes.rs"]
mod bytes;
mod memory;
mod random;
mod rules;
mod vectors;
mod world;

/// For `memory`.
#[global_allocator]
static ALLOCATOR: bytes::Counting = bytes::Counting::new();

use sha2::{Digest, Sha256};

#[test]
fn the_code_of_the_schema_was_made_from_it() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let schema = std::fs::read(root.join("proto/natpunch.proto")).unwrap();
    let digest: String = Sha256::digest(schema)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let code = std::fs::read_to_string(root.join("src/codec/protobuf/natpunch.rs")).unwrap();
    assert!(code.contains(&digest), "run cargo run --manifest-path proto/Cargo.toml");
}
