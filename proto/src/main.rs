//! `cargo run --manifest-path proto/Cargo.toml` writes `src/codec/protobuf/natpunch.rs`; with `--check` it only compares.

use std::process::ExitCode;
use std::{env, error, fs, path};

use sha2::{Digest, Sha256};

fn main() -> Result<ExitCode, Box<dyn error::Error>> {
    let here = path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let schema = fs::read(here.join("natpunch.proto"))?;
    let made = tree(here, &schema)?;
    let target = here.join("../src/codec/protobuf/natpunch.rs");
    if env::args().any(|argument| argument == "--check") {
        let same = fs::read_to_string(&target)? == made;
        println!(
            "{} {}",
            target.display(),
            if same {
                "is up to date"
            } else {
                "is not what the schema gives"
            }
        );
        return Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    fs::write(target, made)?;
    Ok(ExitCode::SUCCESS)
}

fn tree(here: &path::Path, schema: &[u8]) -> Result<String, Box<dyn error::Error>> {
    let descriptors = protox::compile(["natpunch.proto"], [here])?;
    let module = prost_build::Module::from_parts(["natpunch"]);
    let requests = descriptors
        .file
        .into_iter()
        .map(|file| (module.clone(), file))
        .collect();
    let code = prost_build::Config::new()
        .generate(requests)?
        .remove(&module)
        .ok_or("no code was made")?;
    let digest: String = Sha256::digest(schema)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(format!("{HEAD}// SHA-256 of proto/natpunch.proto: {digest}\n\n{code}"))
}

const HEAD: &str = "\
//! The messages of the protobuf dialect, made from `proto/natpunch.proto` by `cargo run --manifest-path proto/Cargo.toml`.
//!
//! Owns: their fields and numbers.
//! Never: edited by hand.

";
