//! `peer-stress card`: what this host can carry, what of it gives out first, and settings for it.
//!
//! Owns: the command, and the order of its steps.
//! Never: prints but the finished card; measures but through `set`.

mod figures;
mod files;
mod fit;
mod host;
mod kernel;
mod limits;
mod plots;
mod print;
mod set;
mod sizes;
mod suggest;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::Map;

use self::figures::{About, Card};
use self::set::Set;
use self::sizes::Sizes;
use crate::report::Spread;

/// What is asked for.
#[derive(Args, Debug)]
pub struct Options {
    /// The server's path
    #[arg(long, short, default_value = "target/release/peer-server")]
    target: String,
    /// Cores of the server: one loop for each
    #[arg(long, value_delimiter = ',', default_value = "0")]
    server_cores: Vec<usize>,
    /// Cores of the generator; by default those that the server does not have
    #[arg(long, value_delimiter = ',')]
    generator_cores: Vec<usize>,
    /// Settings of the server, over those of a measurement
    #[arg(long = "server-set", value_name = "KEY=VALUE")]
    server_settings: Vec<String>,
    /// Signals that a peer sends in a second, as far as it is planned
    #[arg(long, value_name = "RATE", default_value_t = 1.0)]
    signals_per_peer: f64,
    /// Some 20 seconds instead of some 4 minutes, with fewer peers and one round: a first look
    #[arg(long)]
    quick: bool,
    /// Writes the card as JSON, the configuration, plots (SVG) and their figures (CSV) here
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// Makes a card, prints it and writes its files. Whether the server did everything right.
///
/// # Errors
/// What keeps this host from being measured.
pub fn run(options: &Options) -> Result<bool, String> {
    if options.signals_per_peer.is_nan() || options.signals_per_peer <= 0.0 {
        return Err("--signals-per-peer must be more than 0".to_owned());
    }
    if !Path::new(&options.target).is_file() {
        return Err(format!(
            "{}: no such file; a card needs a server that it can start",
            options.target
        ));
    }
    let card = make(options)?;
    if let Some(folder) = &options.output {
        files::write(folder, &card)?;
    }
    if options.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&card).map_err(|error| error.to_string())?
        );
    } else {
        println!("{}", print::show(&card));
    }
    for failure in &card.failures {
        eprintln!("FAIL {failure}");
    }
    Ok(card.failures.is_empty() && card.config.accepted)
}

fn make(options: &Options) -> Result<Card, String> {
    let began = Instant::now();
    let target = options.target.as_str();
    let machine = host::machine();
    let generator_cores = generator_cores(options, machine.cores);
    let loops = options.server_cores.len() as u64;
    let mut about = About {
        date: host::date(),
        target: target.to_owned(),
        server: host::version(target)?,
        commit: host::commit(),
        quick: options.quick,
        rounds: 0,
        server_cores: options.server_cores.clone(),
        generator_cores: generator_cores.clone(),
        others_busy: Spread::of([]),
        seconds: 0.0,
    };
    let served = suggest::ask(target, &Map::new())?;
    let sizes = Sizes::new(options.quick, limits::connections_max(&served, loops) as usize);
    about.rounds = sizes.rounds;
    let mut set = Set::new(
        target,
        &options.server_cores,
        &generator_cores,
        &options.server_settings,
        sizes,
    );
    set.remarks.extend(remarks(options, &generator_cores));
    let connect = set.connect()?;
    let signals = set.signals()?;
    let first = signals.first().ok_or("nothing was measured")?.clone();
    let latency = set.latency(&first)?;
    let memory = set.memory()?;
    let prediction = set.prediction(&first, &latency, &memory)?;
    let throughput = set.throughput()?;
    let limits = limits::limits(&machine, &served, &memory, &first, &connect, options.signals_per_peer);
    let mut config = suggest::suggest(&machine, &limits);
    suggest::check(target, &mut config)?;
    about.others_busy = set.others_busy();
    about.seconds = began.elapsed().as_secs_f64();
    Ok(Card {
        about,
        machine,
        memory,
        signals,
        throughput,
        latency,
        connect,
        limits,
        config,
        prediction,
        remarks: set.remarks,
        failures: set.failures,
    })
}

fn generator_cores(options: &Options, cores: usize) -> Vec<usize> {
    if !options.generator_cores.is_empty() {
        return options.generator_cores.clone();
    }
    let others: Vec<usize> = (0..cores).filter(|core| !options.server_cores.contains(core)).collect();
    if others.is_empty() {
        options.server_cores.clone()
    } else {
        others
    }
}

/// What is known to spoil figures before any is taken.
fn remarks(options: &Options, generator_cores: &[usize]) -> Vec<String> {
    let mut remarks = Vec::new();
    if generator_cores.iter().any(|core| options.server_cores.contains(core)) {
        remarks.push(
            "the server and the generator share a core: rates and latencies are worse than the host's".to_owned(),
        );
    }
    if options.quick {
        remarks.push("a quick card: one short round of each load".to_owned());
    }
    remarks
}
