//! Which seeds a simulation plays.
//!
//! Owns: what `SIM_SEED` and `SIM_SEEDS` say.
//! Never: draws one.

/// The seeds to try: the first so many, `SIM_SEEDS` of them, or `SIM_SEED` alone.
pub(crate) fn seeds(count: u64) -> std::ops::Range<u64> {
    let set = |name: &str| {
        let text = std::env::var(name).ok()?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    };
    match set("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..set("SIM_SEEDS").unwrap_or(count),
    }
}
