//! The scripts: whatever is decided in Redis is decided in one of them.
//!
//! Owns: their texts and hashes, how one is run, and what becomes of a server that has forgotten them.
//! Never: says what a reply means.

use std::sync::LazyLock;

use redis::{Cmd, Connection, Script as Source, ServerErrorKind, Value};

use super::connect::{exchange, lost};
use crate::broker::Trouble;

/// One for each kind of command, and those of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Take,
    Renew,
    Release,
    Sweep,
    Register,
    Resume,
    End,
    Find,
    Resolve,
    Join,
    Rejoin,
    Create,
    Leave,
    Kick,
    Show,
    Match,
    List,
    Describe,
    Roster,
}

macro_rules! source {
    ($($part:literal),*) => {
        concat!(include_str!("lua/common.lua"), $(include_str!(concat!("lua/", $part, ".lua")),)*)
    };
}

/// In the order of [`Script`].
const TEXTS: [&str; 19] = [
    source!("lease", "take"),
    source!("lease", "renew"),
    source!("lease", "release"),
    source!("sweep"),
    source!("register"),
    source!("resume"),
    source!("end"),
    source!("find"),
    source!("resolve"),
    source!("join"),
    source!("rejoin"),
    source!("create"),
    source!("leave"),
    source!("kick"),
    source!("show"),
    source!("match"),
    source!("list"),
    source!("describe"),
    source!("roster"),
];

static SOURCES: LazyLock<[Source; 19]> = LazyLock::new(|| TEXTS.map(Source::new));

/// A server that forgets the scripts more often than so in a batch is of no use.
const LOADS_MAX: usize = 3;

impl Script {
    /// A run of it, to which its arguments are added.
    pub(super) fn run(self) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(SOURCES[self as usize].get_hash()).arg(0);
        command
    }
}

/// Runs packed scripts in order and tells each answer in order, also that one failed of what it found
/// ([`Value::ServerError`]). Those that the server does not know are loaded, and the rest is run again from the first of them.
///
/// # Errors
/// The broker is lost, or this node's epoch is over.
pub(super) fn run(
    connection: &mut Connection,
    runs: &[Cmd],
    mut told: impl FnMut(usize, Value) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let mut packed = Vec::new();
    let mut next = 0;
    for _ in 0..LOADS_MAX {
        packed.clear();
        let rest = runs.get(next..).unwrap_or_default();
        for run in rest {
            run.write_packed_command(&mut packed);
        }
        let mut unknown = false;
        exchange(connection, &packed, rest.len(), |answer| {
            if let Value::ServerError(error) = &answer {
                if error.kind() == Some(ServerErrorKind::NoScript) {
                    unknown = true;
                    return Ok(());
                }
                match error.code() {
                    "LAPSED" => return Err(Trouble::Lapsed),
                    // What it found is not what it takes: with anything else it would have gone well.
                    "ERR" | "WRONGTYPE" => {}
                    code => {
                        let why = error.details().unwrap_or_default();
                        return Err(Trouble::Lost(format!("{code} {why}")));
                    }
                }
            }
            if unknown {
                // Somebody else loads them at the same time: what stands later was done before what stands earlier.
                return Err(Trouble::Lost("scripts were lost in the middle of a batch".to_owned()));
            }
            told(next, answer)?;
            next += 1;
            Ok(())
        })?;
        if !unknown {
            return Ok(());
        }
        load(connection)?;
    }
    Err(Trouble::Lost("scripts are lost as soon as they are loaded".to_owned()))
}

fn load(connection: &mut Connection) -> Result<(), Trouble> {
    let mut packed = Vec::new();
    for text in TEXTS {
        redis::cmd("SCRIPT")
            .arg("LOAD")
            .arg(text)
            .write_packed_command(&mut packed);
    }
    exchange(connection, &packed, TEXTS.len(), |answer| {
        let answer = answer.extract_error().map_err(|error| lost(&error))?;
        match answer {
            Value::BulkString(_) => Ok(()),
            other => Err(Trouble::Lost(format!("SCRIPT LOAD was answered {other:?}"))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_with_the_rights_that_are_advised_may_run_them() {
        let advised = include_str!("../../../docs/clustering.md");
        let advised = advised.lines().find(|line| line.starts_with("ACL SETUSER"));
        let advised: Vec<&str> = advised.unwrap_or_default().split(' ').collect();
        for text in TEXTS {
            let calls = text.split("call('").skip(1).filter_map(|call| call.split('\'').next());
            for command in calls {
                let right = format!("+{}", command.to_lowercase());
                assert!(advised.contains(&&*right), "{right}");
            }
        }
    }

    #[test]
    fn every_script_has_its_own_text() {
        for (script, first_words) in [
            (Script::Take, "-- Takes a lease"),
            (Script::Sweep, "-- Removes entries of the dead"),
            (Script::Roster, "-- Arguments: namespace. Returns: who is there."),
        ] {
            assert!(TEXTS[script as usize].contains(first_words), "{script:?}");
        }
        let hashes: std::collections::BTreeSet<&str> = SOURCES.iter().map(Source::get_hash).collect();
        assert_eq!(hashes.len(), TEXTS.len());
    }
}
