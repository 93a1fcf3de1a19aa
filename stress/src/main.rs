//! peer-stress: loads a peer-server as its clients would, proves that nothing was lost, and says what it cost.
//!
//! A coordinator starts the server and its workers, each a process of its own that holds a share of the connections; the
//! floor stands beside the server for what no server can do without.
//!
//! Owns: the command line.
//! Never: measures.
#![allow(clippy::print_stdout, reason = "a program that prints tables")]

mod card;
mod control;
mod floor;
mod report;
mod scenario;
mod stun;
mod worker;
mod workload;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::control::target::Options;
use crate::control::{Plan, Session};
use crate::workload::Workload;

/// Loads a peer-server, proves that nothing was lost, and says what it cost.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one workload against one target
    Run {
        /// A workload's file, or the name of a scenario
        workload: String,
        /// Parameters of the workload, over the file's: `window=16 size=4000`
        settings: Vec<String>,
        /// What to load: `floor`, a server's path, the address of a running one, or a command line with `{port}`
        #[arg(long, short, default_value = "target/release/peer-server")]
        target: String,
        #[command(flatten)]
        how: How,
    },
    /// Runs one workload against several targets, round by round, and gives ratios to the first
    Compare {
        /// What to load: `floor`, a server's path, the address of a running one, or the command line of another server with
        /// `{port}` and perhaps `{address}` where it is to listen; `NAME=` before it names it
        #[arg(required = true, num_args = 2..)]
        targets: Vec<String>,
        /// A workload's file, or the name of a scenario
        #[arg(long, short)]
        workload: String,
        /// Parameters of the workload, over the file's
        #[arg(long = "set", value_name = "KEY=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Measures what this host can carry, and prints a capacity card
    Card(card::Options),
    /// Serves as the floor: passes on what it gets, unread
    Floor {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:8070")]
        address: SocketAddr,
        /// Swallows each so manieth read, to test those who measure it
        #[arg(long, default_value_t = 0, hide = true)]
        lose_every: u64,
        /// Answers STUN requests, unread, by UDP
        #[arg(long)]
        stun: bool,
    },
    /// A worker of a coordinator
    #[command(hide = true)]
    Worker,
}

#[derive(Args, Debug)]
struct How {
    /// Rounds: each a warm-up and a measurement
    #[arg(long, short, default_value_t = 1)]
    rounds: usize,
    /// Cores of the server
    #[arg(long, value_delimiter = ',', default_value = "0")]
    server_cores: Vec<usize>,
    /// Cores of the generator
    #[arg(long, value_delimiter = ',', default_value = "1")]
    generator_cores: Vec<usize>,
    /// Event loops of the server
    #[arg(long, default_value_t = 1)]
    loops: usize,
    /// Nodes: more than one are a cluster; `@same-node`, `@cross-node` or `@alone` after a server's path overrides the
    /// workload's placement, or has it serve without others and without a broker
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// What connects the nodes, started for each target: a single node has none unless this is given, several have Redis
    #[arg(long)]
    broker: Option<control::broker::Kind>,
    /// Settings of the server
    #[arg(long = "server-set", value_name = "KEY=VALUE")]
    server_settings: Vec<String>,
    /// Process of a server that runs already
    #[arg(long)]
    pid: Option<u32>,
    /// Worker processes; 0: as many as are needed
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Counts system calls, with `perf`
    #[arg(long)]
    system_calls: bool,
    /// Fails if anything is refused
    #[arg(long)]
    no_refusals: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// Writes the figures of every round to a file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

impl How {
    fn plan(&self) -> Plan {
        Plan {
            server: Options {
                cores: self.server_cores.clone(),
                loops: self.loops,
                nodes: self.nodes.max(1),
                broker: self.broker.or((self.nodes > 1).then_some(control::broker::Kind::Redis)),
                settings: self.server_settings.clone(),
                pid: self.pid,
            },
            cores: self.generator_cores.clone(),
            workers: self.workers,
            system_calls: self.system_calls,
            quiet: self.json,
        }
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run {
            workload,
            settings,
            target,
            how,
        } => measure(&workload, &settings, &[target], &how),
        Command::Compare {
            targets,
            workload,
            settings,
            how,
        } => measure(&workload, &settings, &targets, &how),
        Command::Card(options) => card::run(&options),
        Command::Floor {
            address,
            lose_every,
            stun,
        } => match stun {
            true => floor::stun::run(address, lose_every),
            false => floor::run(address, lose_every),
        }
        .map(|()| true),
        Command::Worker => worker::run().map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("peer-stress: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything arrived.
fn measure(workload: &str, settings: &[String], targets: &[String], how: &How) -> Result<bool, String> {
    let workload = Workload::read(workload, settings)?;
    let plan = how.plan();
    let mut sessions = Vec::new();
    for target in targets {
        sessions.push(Session::open(target, &workload, &plan)?);
    }
    let mut outcomes: Vec<Vec<report::Outcome>> = vec![Vec::new(); sessions.len()];
    for _ in 0..how.rounds.max(1) {
        for (session, outcomes) in sessions.iter_mut().zip(&mut outcomes) {
            outcomes.push(session.round()?);
        }
    }
    if let Some(path) = &how.csv {
        let written = std::fs::write(path, report::csv(&outcomes));
        written.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if how.json {
        let text = serde_json::to_string_pretty(&outcomes).map_err(|error| error.to_string())?;
        println!("{text}");
    } else {
        println!("{}", report::compare(&outcomes));
    }
    let mut sound = true;
    for mut session in sessions {
        sound &= !how.no_refusals || session.nothing_was_refused()?;
        sound &= session.close();
    }
    for outcomes in &outcomes {
        sound &= !report::failed(outcomes);
    }
    Ok(sound)
}
