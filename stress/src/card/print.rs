//! A card for people.
//!
//! Owns: its tables and their words.
//! Never: computes a figure.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table};

use super::figures::Card;
use super::limits::grouped;
use crate::report::{Spread, table};

/// The whole card.
pub fn show(card: &Card) -> String {
    let about = &card.about;
    let machine = &card.machine;
    let gib = f64::from(1 << 30);
    let mut text = format!(
        "Capacity card of {}{}, {}\n{}, {} cores, {:.1} GiB ({:.1} free), {}\n",
        about.server,
        about
            .commit
            .as_ref()
            .map(|commit| format!(" (working directory at {commit})"))
            .unwrap_or_default(),
        about.date,
        machine.cpu,
        machine.cores,
        machine.memory as f64 / gib,
        machine.memory_available as f64 / gib,
        machine.kernel,
    );
    let plural = if about.rounds == 1 { "" } else { "s" };
    // Into a string nothing can fail.
    let _ = writeln!(
        text,
        "server on cores {:?}, one loop each; generator on {:?}; medians, {} round{plural} (least-greatest); {:.0} s\n",
        about.server_cores, about.generator_cores, about.rounds, about.seconds
    );
    for (title, table) in [
        ("Capacity", capacity(card)),
        ("Signals", signals(card)),
        (
            "Latency of signals, open loop, counted from when each should have left",
            latency(card),
        ),
        ("What gives out first", limits(card)),
        ("Suggested config.json", config(card)),
        (
            "A further load, foretold from the figures above and then run",
            prediction(card),
        ),
    ] {
        let _ = writeln!(text, "{title}\n{table}");
    }
    for row in card.prediction.rows.iter().filter(|row| !row.within) {
        let _ = writeln!(
            text,
            "OFF BY MORE THAN 10 %: {} was foretold wrong, {:+.1} %",
            row.figure, row.difference_percent
        );
    }
    match card.config.accepted {
        true => text.push_str("The server serves with the suggested configuration.\n"),
        false => text.push_str("THE SERVER REFUSES the suggested configuration.\n"),
    }
    for warning in &card.config.warnings {
        let _ = writeln!(text, "The server on the suggested configuration: {warning}");
    }
    for remark in &card.remarks {
        let _ = writeln!(text, "Note: {remark}");
    }
    text
}

fn capacity(card: &Card) -> Table {
    let memory = &card.memory;
    let connect = &card.connect;
    let first = card.limits.first();
    let mut table = table(["".to_owned(), "".to_owned(), "how".to_owned()]);
    let signals = card.signals.first();
    let rows = [
        [
            "peers per GiB".to_owned(),
            grouped(memory.peers_per_gib as u64),
            format!(
                "{:.0} B of the process + {:.0} B of the kernel each, beside {:.1} MiB at the start",
                memory.rss_per_peer,
                memory.kernel_per_peer,
                memory.start_rss / 1_048_576.0
            ),
        ],
        [
            "signals/s per core".to_owned(),
            signals.map_or(String::new(), |signals| rate(&signals.per_second_per_core)),
            "each read and written by itself; more where several come at once, see below".to_owned(),
        ],
        [
            "connections/s per core".to_owned(),
            grouped(connect.per_second_per_core as u64),
            format!(
                "{} us of CPU each, from the socket to the first join",
                connect.cpu_us.show(1)
            ),
        ],
        [
            "connections/s, measured".to_owned(),
            rate(&connect.per_second),
            format!("{} at once", grouped(connect.connections as u64)),
        ],
        [
            "peers of this host".to_owned(),
            first.map_or(String::new(), |limit| grouped(limit.peers)),
            first.map_or(String::new(), |limit| format!("what gives out first: {}", limit.of)),
        ],
    ];
    table.add_rows(rows);
    right(&mut table, &[1]);
    table
}

fn signals(card: &Card) -> Table {
    let heads = [
        "load",
        "signals/s",
        "signals/s per core",
        "server CPU, ns each",
        "server, generator busy",
        "limit",
    ];
    let mut table = table(heads.map(str::to_owned));
    for signals in &card.signals {
        table.add_row([
            signals.load.clone(),
            rate(&signals.per_second),
            rate(&signals.per_second_per_core),
            signals.cpu_ns.show(0),
            format!(
                "{:.2}, {:.2}",
                signals.server_busy.median, signals.generator_busy.median
            ),
            signals.limit.clone(),
        ]);
    }
    for point in &card.throughput {
        for (load, spread) in [("all in pairs", point.all), ("50 pairs, 16 under way", point.few)] {
            let load = format!("{} peers, {load}", grouped(point.peers as u64));
            table.add_row([load, rate(&spread)]);
        }
    }
    right(&mut table, &[1, 2, 3, 4]);
    table
}

fn latency(card: &Card) -> Table {
    let heads = [
        "of the maximum",
        "signals/s",
        "p50, us",
        "p99, us",
        "p99.9, us",
        "max, us",
        "server busy",
        "kept up",
    ];
    let mut table = table(heads.map(str::to_owned));
    for load in &card.latency {
        table.add_row([
            format!("{:.0} %", load.share * 100.0),
            grouped(load.rate as u64),
            load.p50.show(0),
            load.p99.show(0),
            load.p999.show(0),
            load.max.show(0),
            load.server_busy.show(2),
            if load.kept_up { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    right(&mut table, &[0, 1, 2, 3, 4, 5, 6]);
    table
}

fn limits(card: &Card) -> Table {
    let mut table = table(["what", "there is", "enough for peers", "how"].map(str::to_owned));
    for limit in &card.limits {
        let peers = grouped(limit.peers);
        table.add_row([
            limit.of.clone(),
            limit.figure.clone(),
            if limit.always { peers } else { format!("({peers})") },
            limit.how.clone(),
        ]);
    }
    right(&mut table, &[2]);
    table
}

fn config(card: &Card) -> Table {
    let mut table = table(["setting", "value", "why"].map(str::to_owned));
    for (key, value) in &card.config.settings {
        let reason = card.config.reasons.get(key).and_then(|reason| reason.as_str());
        table.add_row([key.clone(), value.to_string(), reason.unwrap_or_default().to_owned()]);
    }
    right(&mut table, &[1]);
    table
}

fn prediction(card: &Card) -> Table {
    let prediction = &card.prediction;
    let load = format!(
        "{} peers, {} pairs, {} signals/s",
        grouped(prediction.peers as u64),
        prediction.pairs,
        grouped(prediction.rate as u64)
    );
    let mut table = table([
        load,
        "predicted".to_owned(),
        "measured".to_owned(),
        "difference".to_owned(),
    ]);
    for row in &prediction.rows {
        let digits = if row.unit == "/s" { 0 } else { 2 };
        table.add_row([
            format!("{}, {}", row.figure, row.unit),
            format!("{:.digits$}", row.predicted),
            format!("{:.digits$}", row.measured),
            format!(
                "{:+.1} %{}",
                row.difference_percent,
                if row.within { "" } else { " OFF" }
            ),
        ]);
    }
    right(&mut table, &[1, 2, 3]);
    table
}

fn rate(spread: &Spread) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|rate| grouped(rate as u64));
    if min == max {
        median
    } else {
        format!("{median} ({min}-{max})")
    }
}

fn right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}
