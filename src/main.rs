//! The peer-server binary: arguments, settings, logs, and the exit status.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use peer_server::cli::{self, Arguments, Command};
use peer_server::config::{self, Config, Flags, Loaded, LogFormat};
use peer_server::punch_command;
use peer_server::server::{self, Server, Service};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|first| first == "punch").is_some() {
        return ExitCode::from(punch_command::run(args));
    }
    let arguments = match cli::parse(args) {
        Ok(arguments) => arguments,
        Err(exit) => {
            match exit.code {
                0 => say(&exit.text),
                _ => complain(&exit.text),
            }
            return ExitCode::from(exit.code as u8);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(faults) => {
            faults
                .iter()
                .for_each(|fault| complain(&format!("peer-server: {fault}")));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Vec<String>> {
    let Loaded { config, warnings } = config::load(
        arguments.config.as_deref(),
        &config::process_environment,
        &Flags {
            port: arguments.port,
            words: arguments.words.clone(),
        },
    )?;
    server::check(&config)?;
    match arguments.command {
        Command::CheckConfig => {
            warnings
                .iter()
                .for_each(|warning| complain(&format!("peer-server: warning: {warning}")));
            say("the configuration is fine");
            Ok(())
        }
        Command::PrintConfig => {
            warnings
                .iter()
                .for_each(|warning| complain(&format!("peer-server: warning: {warning}")));
            say(&format!("{:#}", config.to_json_masked()));
            Ok(())
        }
        Command::Healthcheck => server::healthcheck(&config).map_err(|fault| vec![fault]),
        Command::Run => {
            start_logs(&config);
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            let server = Server::start(&config, Service::Peers).map_err(|error| vec![error.to_string()])?;
            server.run_until_signalled();
            Ok(())
        }
    }
}

fn start_logs(config: &Config) {
    let directives = format!("{LIBRARIES},{}", config.log_level);
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match config.log_format {
        LogFormat::Json => logs.json().init(),
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).init(),
    }
}

/// Libraries that log what is told in our own words anyway. Directives of the configuration come later and win.
const LIBRARIES: &str = "async_nats=warn";

fn say(text: &str) {
    // A closed stdout is not worth a panic.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
