//! `peer-server punch`: tries whether two players behind their routers can reach each other, through a server.
//!
//! Owns: what such a try prints, and its exit code: 0 when a datagram was exchanged directly both ways, 1 when not, 2 on misuse.
//! Never: runs inside the server. It is a program of its own, with one blocking loop; the protocols are `peer_server_client`'s.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

mod arguments;
mod greeting;
mod matchmaker;
mod natpunch;
mod shell;
mod simple;

use arguments::{Arguments, Dialect};

/// Runs the command with the arguments behind `punch`, prints, and gives the exit code.
pub fn run(args: impl Iterator<Item = OsString>) -> u8 {
    let arguments = match Arguments::parse(args) {
        Ok(arguments) => arguments,
        Err(exit) => {
            match exit.code {
                0 => say(&exit.text),
                _ => complain(&exit.text),
            }
            return u8::try_from(exit.code).unwrap_or(2);
        }
    };
    let result = match arguments.dialect {
        Dialect::Simple => simple::run(&arguments),
        Dialect::Natpunch => natpunch::run(&arguments),
        Dialect::Matchmaker => matchmaker::run(&arguments),
    };
    match result {
        Ok(()) => 0,
        Err(why) => {
            complain(&format!("not connected: {why}"));
            1
        }
    }
}

/// Prints a line at once, whatever standard output is: another program may wait for it.
fn say(line: &str) {
    // A closed standard output is not worth a panic.
    let _ = writeln!(std::io::stdout(), "{line}").and_then(|()| std::io::stdout().flush());
}

fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// `0.42 s`.
fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
