//! What a card leaves in its folder: the card itself, the suggested configuration, the plots, and a CSV beside each.
//!
//! Owns: the names and columns of the files.
//! Never: draws or computes.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::figures::Card;
use super::plots;

/// Shares of the maximum whose latencies are drawn.
const DRAWN: [f64; 2] = [0.5, 0.8];

/// Writes all files; the folder is made if there is none.
///
/// # Errors
/// What cannot be written.
pub fn write(folder: &Path, card: &Card) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let files = [
        ("card.json", json(card)?),
        ("config.json", json(&card.config.settings)?),
        ("latency.svg", plots::latency(card, &DRAWN)?),
        ("latency.csv", latency(card)),
        ("throughput.svg", plots::throughput(card)?),
        ("throughput.csv", throughput(card)),
        ("memory.svg", plots::memory(card)?),
        ("memory.csv", memory(card)),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn json(value: &impl Serialize) -> Result<String, String> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    text.push('\n');
    Ok(text)
}

fn latency(card: &Card) -> String {
    let mut csv = "share_of_maximum,rate_per_second,latency_us,share_of_messages\n".to_owned();
    for load in card.latency.iter().filter(|load| DRAWN.contains(&load.share)) {
        for (latency, share) in &load.cdf {
            // Into a string nothing can fail.
            let _ = writeln!(csv, "{},{:.0},{latency:.3},{share:.7}", load.share, load.rate);
        }
    }
    csv
}

fn throughput(card: &Card) -> String {
    let mut csv = "peers,all_per_second,all_min,all_max,few_per_second,few_min,few_max\n".to_owned();
    for point in &card.throughput {
        let (all, few) = (point.all, point.few);
        let _ = writeln!(
            csv,
            "{},{:.0},{:.0},{:.0},{:.0},{:.0},{:.0}",
            point.peers, all.median, all.min, all.max, few.median, few.min, few.max
        );
    }
    csv
}

fn memory(card: &Card) -> String {
    let mut csv = "peers,process_bytes,kernel_bytes\n".to_owned();
    for point in &card.memory.points {
        let _ = writeln!(csv, "{},{:.0},{:.0}", point.peers, point.rss, point.kernel);
    }
    csv
}
