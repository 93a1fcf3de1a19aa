//! The command line of `punch`.
//!
//! Owns: its flags, what goes with what, and its usage text.
//! Never: prints, resolves a name, or opens a socket.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use peer_server_client::OPENING_TTL;

use crate::cli::{Exit, split_flag};

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Simple,
    Natpunch,
    Matchmaker,
}

/// What this side does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Host,
    /// With what the host printed.
    Join(Option<String>),
    Random,
    List,
}

/// A command line that asks for a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) dialect: Dialect,
    pub(super) role: Role,
    /// The server's name or address; None: the one that the session's id names.
    pub(super) address: Option<String>,
    pub(super) port: u16,
    /// How long the server may take to answer, and then the other player's packets to arrive.
    pub(super) within: Duration,
    /// How long other players may take to come.
    pub(super) wait: Duration,
    /// Players, this one included.
    pub(super) players: usize,
    pub(super) name: String,
    /// The hops that the first packets to a player live; None: as many as any packet.
    pub(super) opening_ttl: Option<u8>,
    /// The port to send from; 0 is any free one.
    pub(super) local_port: u16,
}

impl Arguments {
    /// Reads what follows `punch`.
    ///
    /// # Errors
    /// Help with code 0; anything that is not understood with code 2 and the usage.
    pub(super) fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Self, Exit> {
        let mut words = Vec::new();
        let mut parsed = Self {
            dialect: Dialect::Simple,
            role: Role::Host,
            address: None,
            port: 8080,
            within: Duration::from_secs(15),
            wait: Duration::from_secs(300),
            players: 2,
            name: "player".to_owned(),
            opening_ttl: Some(OPENING_TTL),
            local_port: 0,
        };
        while let Some(argument) = args.next() {
            let (flag, attached) = split_flag(&argument);
            let flag = text(flag)?;
            let Some(flag) = flag.strip_prefix('-') else {
                words.push(flag);
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            if matches!(flag, "h" | "help") && attached.is_none() {
                return Err(Exit {
                    code: 0,
                    text: USAGE.to_owned(),
                });
            }
            let mut value = || {
                let value = attached.map(OsStr::to_owned).or_else(|| args.next());
                let value = value.filter(|value| !value.is_empty());
                value
                    .as_deref()
                    .map_or_else(|| Err(misuse(&format!("-{flag} needs a value"))), text)
            };
            match flag {
                "a" => parsed.address = Some(value()?),
                "p" => parsed.port = number(flag, &value()?, 1, u16::MAX)?,
                "t" => parsed.within = Duration::from_secs(number(flag, &value()?, 1, 3600)?),
                "wait" => parsed.wait = Duration::from_secs(number(flag, &value()?, 0, 86_400)?),
                "n" => parsed.players = number(flag, &value()?, 2, 12)?,
                "name" => parsed.name = value()?,
                "ttl" => parsed.opening_ttl = Some(number(flag, &value()?, 0, u8::MAX)?).filter(|ttl| *ttl > 0),
                "l" => parsed.local_port = number(flag, &value()?, 0, u16::MAX)?,
                _ => return Err(misuse(&format!("unknown flag: -{flag}"))),
            }
        }
        parsed.take_words(words)?;
        Ok(parsed)
    }

    fn take_words(&mut self, words: Vec<String>) -> Result<(), Exit> {
        let mut words = words.into_iter();
        self.dialect = match words.next().as_deref() {
            Some("simple") => Dialect::Simple,
            Some("natpunch") => Dialect::Natpunch,
            Some("matchmaker") => Dialect::Matchmaker,
            Some(other) => return Err(misuse(&format!("unknown protocol: {other}"))),
            None => return Err(misuse("which protocol?")),
        };
        self.role = match words.next().as_deref() {
            Some("host") => Role::Host,
            Some("join") => Role::Join(words.next()),
            Some("random") if self.dialect == Dialect::Simple => Role::Random,
            Some("list") if self.dialect == Dialect::Natpunch => Role::List,
            Some(other) => return Err(misuse(&format!("{other}: no role of this protocol"))),
            None => return Err(misuse("which role?")),
        };
        if let Some(word) = words.next() {
            return Err(misuse(&format!("what is {word}?")));
        }
        let names_the_server = self.dialect == Dialect::Simple && matches!(self.role, Role::Join(_));
        if self.address.is_none() && !names_the_server {
            return Err(misuse("-a is missing: the server's name or address"));
        }
        if self.role == Role::Join(None) && self.dialect != Dialect::Natpunch {
            return Err(misuse("join what? The host prints it"));
        }
        Ok(())
    }
}

fn text(argument: impl AsRef<OsStr>) -> Result<String, Exit> {
    let argument = argument.as_ref();
    let text = argument.to_str().map(str::to_owned);
    text.ok_or_else(|| misuse(&format!("{}: not text", argument.to_string_lossy())))
}

fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    flag: &str,
    text: &str,
    min: T,
    max: T,
) -> Result<T, Exit> {
    let number = text.parse().ok().filter(|number| (&min..=&max).contains(&number));
    number.ok_or_else(|| misuse(&format!("-{flag} {text}: not a number from {min} to {max}")))
}

fn misuse(what: &str) -> Exit {
    Exit {
        code: 2,
        text: format!("{what}\n\n{USAGE}"),
    }
}

const USAGE: &str = "\
Usage: peer-server punch simple host|join ID|random -a ADDRESS [-p PORT] [flags]
       peer-server punch natpunch host|join [ID]|list -a ADDRESS [-p PORT] [flags]
       peer-server punch matchmaker host|join CODE -a ADDRESS [-p PORT] [flags]

Tries whether two players can reach each other directly, through the server at ADDRESS: one runs `host` and gives the other
what it prints, the other runs `join` with it.
Exit code 0: a datagram was exchanged directly both ways; 1: it was not; 2: misuse.

Protocols:
  simple      ASCII; two that run `random` are paired; the id to join names the server, and -a replaces it
  natpunch    protobuf; without an id `join` takes the newest lobby, `list` prints all
  matchmaker  JSON over TCP, then UDP; the host starts its lobby on Enter, or after -wait

Flags, with one dash or two:
  -a ADDRESS     the server's name or address
  -p PORT        its port (8080)
  -t SECONDS     patience with the server, and then with the other player's packets (15)
  -wait SECONDS  patience until other players come (300)
  -n PLAYERS     with so many the session is complete, this one included (2)
  -name NAME     what the others call this player, or a host's lobby (player)
  -ttl HOPS      the first packets to a player live so long (2): enough to pass the own router, too few to reach the other
                 one, which could take them amiss. One more for each further router of one's own. 0: like any packet
  -l PORT        send from this port; 0 is any free one (0)";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(line: &str) -> Result<Arguments, Exit> {
        Arguments::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_short_line_has_defaults() {
        let host = read("simple host -a example.org").unwrap();
        assert_eq!(
            (host.role, host.address.as_deref(), host.port),
            (Role::Host, Some("example.org"), 8080)
        );
        assert_eq!(
            (host.within.as_secs(), host.opening_ttl, host.local_port),
            (15, Some(OPENING_TTL), 0)
        );
        let join = read("simple join someid").unwrap();
        assert_eq!((join.role, join.address), (Role::Join(Some("someid".into())), None));
        let join = read("natpunch join -a x").unwrap();
        assert_eq!((join.dialect, join.role), (Dialect::Natpunch, Role::Join(None)));
        assert_eq!(read("natpunch list -a x").unwrap().role, Role::List);
    }

    #[test]
    fn flags_stand_anywhere_and_in_every_spelling() {
        let line = "-p 9 simple --a=::1 -t=3 random -ttl 0 --name a=b -l 40000 -n 3 -wait 0";
        let expected = Arguments {
            dialect: Dialect::Simple,
            role: Role::Random,
            address: Some("::1".into()),
            port: 9,
            within: Duration::from_secs(3),
            wait: Duration::ZERO,
            players: 3,
            name: "a=b".into(),
            opening_ttl: None,
            local_port: 40000,
        };
        assert_eq!(read(line).unwrap(), expected);
    }

    #[test]
    fn help_ends_well_and_what_is_not_understood_does_not() {
        assert_eq!(read("-h").unwrap_err().code, 0);
        for line in [
            "",
            "simple",
            "other host -a x",
            "simple host",
            "simple random",
            "simple join",
            "simple stay -a x",
            "simple join a b",
            "simple host b -a x",
            "simple host -a",
            "simple host -a x -p 0",
            "simple host -a x -t 0",
            "natpunch random -a x",
            "matchmaker list -a x",
            "matchmaker join -a x",
            "matchmaker host",
            "simple list -a x",
            "natpunch join",
            "simple host -a x -ttl 256",
            "simple host -a x -n 1",
            "simple host -a x -z 1",
            "simple host -a x -h=1",
        ] {
            let exit = read(line).unwrap_err();
            assert_eq!(exit.code, 2, "{line}");
            assert!(exit.text.contains("Usage:"), "{line}");
        }
    }
}
