//! Sends every WebSocket message back, over the event loop and the codec that serve peers: for conformance suites.
//!
//! ```sh
//! cargo run --release --example ws_echo -- PORT [--deflate]
//! ```
//!
//! It listens on 127.0.0.1 and upgrades on any path. `--deflate` negotiates permessage-deflate with clients that offer it.
//! It has no rate limit and lets a client queue hundreds of megabytes: not to be reached by strangers.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::Duration;

use peer_server::config::Config;
use peer_server::server::{Server, Service};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((port, deflate)) = parse(&arguments) else {
        eprintln!("usage: ws_echo PORT [--deflate]");
        return ExitCode::from(2);
    };
    let served = Server::start(&config(port, deflate), Service::Echo).map(Server::run_until_signalled);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ws_echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<(u16, bool)> {
    let (flags, ports): (Vec<&String>, Vec<&String>) = arguments.iter().partition(|word| word.starts_with('-'));
    let [port] = ports.as_slice() else { return None };
    flags
        .iter()
        .all(|flag| *flag == "--deflate")
        .then_some((port.parse().ok()?, !flags.is_empty()))
}

/// Settings under which a well-behaved client sees nothing but its own messages.
pub(crate) fn config(port: u16, deflate: bool) -> Config {
    Config {
        host: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        port,
        metrics_enabled: false,
        compression_enabled: deflate,
        max_message_size: 64 << 20,
        rate_limit_per_sec: 0,
        // Clients send bursts of large messages and only then read.
        send_buffer_size: 1 << 20,
        send_buffer_bytes: 512 << 20,
        socket_send_bytes: 0,
        // A suite counts frames, and a ping of ours would be one too many.
        ping_interval: A_YEAR,
        pong_wait: A_YEAR,
        write_timeout: Duration::from_secs(60),
        loops: 2,
        // The client wants the cores as well.
        pin_cores: false,
        drain_timeout: Duration::from_secs(2),
        ..Config::default()
    }
}

const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
