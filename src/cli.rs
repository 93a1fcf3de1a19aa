//! The command line, with the single-dash long flags that existing start scripts use (`-config FILE`).
//!
//! Owns: flags, the usage text, and the exit codes of a command line that starts nothing.
//! Never: prints, exits, reads a setting (see `config`), or knows the arguments of `punch` (see `punch_command`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What the program is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Run,
    /// Read the settings, tell what is wrong with them, and end.
    CheckConfig,
    /// Print the effective settings, secrets masked, and end.
    PrintConfig,
    /// Ask a running server on this machine whether it lives, and end.
    Healthcheck,
}

/// A command line that asks for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// What to do.
    pub command: Command,
    /// The configuration file, if one is named.
    pub config: Option<PathBuf>,
    /// The port that replaces the configured one.
    pub port: Option<u16>,
    /// Values of the flags of [`WORDS`], in the order given.
    pub words: Vec<(&'static str, String)>,
}

/// A command line that is answered at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0: `text` belongs on standard output; 2: on standard error.
    pub code: i32,
    /// What to print, without a line break at the end.
    pub text: String,
}

/// Reads the command line, without the program's own name (`std::env::args_os().skip(1)`).
///
/// One dash or two make no difference, a value follows as the next argument or after `=`, the last of several wins.
///
/// # Errors
/// Help and version with code 0; anything that is not understood with code 2 and the usage.
pub fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Arguments, Exit> {
    let mut command = None;
    let mut config = None;
    let mut port = None;
    let mut words = Vec::new();
    while let Some(argument) = args.next() {
        let (name, attached) = split_flag(&argument);
        let mut value = || {
            let value = attached
                .map(OsStr::to_owned)
                .or_else(|| args.next())
                .filter(|value| !value.is_empty());
            value.ok_or_else(|| misuse(&format!("{} needs a value", name.to_string_lossy())))
        };
        if let Some(word) = known_word(name) {
            words.push((word, value()?.to_string_lossy().into_owned()));
            continue;
        }
        match name.to_str().unwrap_or_default() {
            "-config" | "--config" => config = Some(PathBuf::from(value()?)),
            "-p" | "--p" => port = Some(parse_port(&value()?)?),
            // Told before its value could be repeated as part of what is unknown.
            "-lightyear-private-key" | "--lightyear-private-key" => return Err(misuse(NO_KEY_HERE)),
            _ if attached.is_some() => return Err(unknown(&argument)),
            "-check-config" | "--check-config" => choose(&mut command, Command::CheckConfig)?,
            "-print-config" | "--print-config" => choose(&mut command, Command::PrintConfig)?,
            "healthcheck" => choose(&mut command, Command::Healthcheck)?,
            "-version" | "--version" => {
                return Err(Exit {
                    code: 0,
                    text: VERSION.to_owned(),
                });
            }
            "-h" | "--h" | "-help" | "--help" => {
                return Err(Exit {
                    code: 0,
                    text: USAGE.to_owned(),
                });
            }
            _ => return Err(unknown(&argument)),
        }
    }
    Ok(Arguments {
        command: command.unwrap_or(Command::Run),
        config,
        port,
        words,
    })
}

/// The word behind one dash or two.
fn known_word(flag: &OsStr) -> Option<&'static str> {
    let word = flag.to_str()?.strip_prefix('-')?;
    let word = word.strip_prefix('-').unwrap_or(word);
    WORDS.iter().copied().find(|known| *known == word)
}

/// Splits `-name=value`. A file name need not be UTF-8, so this works on bytes.
pub(crate) fn split_flag(argument: &OsStr) -> (&OsStr, Option<&OsStr>) {
    let bytes = argument.as_bytes();
    match bytes
        .iter()
        .position(|b| *b == b'=')
        .filter(|_| bytes.starts_with(b"-"))
    {
        Some(equals) => (
            OsStr::from_bytes(&bytes[..equals]),
            Some(OsStr::from_bytes(&bytes[equals + 1..])),
        ),
        None => (argument, None),
    }
}

fn parse_port(value: &OsStr) -> Result<u16, Exit> {
    let port = value.to_str().and_then(|text| text.parse().ok());
    port.ok_or_else(|| misuse(&format!("-p {}: not a port, 0 to 65535", value.to_string_lossy())))
}

fn choose(command: &mut Option<Command>, asked: Command) -> Result<(), Exit> {
    match command.replace(asked) {
        Some(before) if before != asked => Err(misuse("only one of --check-config, --print-config, healthcheck")),
        _ => Ok(()),
    }
}

/// Without its value, which may be a secret.
fn unknown(argument: &OsStr) -> Exit {
    let (name, _) = split_flag(argument);
    misuse(&format!("unknown argument: {}", name.to_string_lossy()))
}

fn misuse(what: &str) -> Exit {
    Exit {
        code: 2,
        text: format!("{what}\n\n{USAGE}"),
    }
}

/// The settings that have a flag because the programs that the matchmaker web service replaces have it.
pub const WORDS: [&str; 6] = [
    "app-name",
    "app-version",
    "lightyear-protocol-id",
    "cors",
    "bind",
    "fake-ip",
];

const NO_KEY_HERE: &str = "--lightyear-private-key: everybody on this machine can read the flags of a program; \
    name a file as LIGHTYEAR_PRIVATE_KEY_FILE or matchmaker_private_key_file, or set LIGHTYEAR_PRIVATE_KEY";

const VERSION: &str = concat!("peer-server ", env!("CARGO_PKG_VERSION"));

const USAGE: &str = "\
Usage: peer-server [flags] [healthcheck]
       peer-server punch PROTOCOL ROLE [flags]

Flags, with one dash or two:
  -config FILE    read settings from FILE (JSON)
  -p PORT         listen on PORT, over environment and file; 0 takes any free port
  --check-config  check the settings, print warnings and errors, exit 0 or 1
  --print-config  print the effective settings as JSON, secrets as ***
  --version       print the version
  -h, -help       print this text

Flags of the matchmaker web service, over environment and file:
  --bind IP:PORT              serve it there as well
  --app-name NAME             the one game that is configured
  --app-version VERSION       its version
  --lightyear-protocol-id N   the protocol id in connect tokens
  --cors ORIGIN               pages of which origins may use it; several separated by commas
  --fake-ip IP                stands for clients on private networks

Commands:
  healthcheck     ask the server on the configured port whether it lives, exit 0 or 1
  punch           try whether two players reach each other directly; `peer-server punch -h` tells more

Environment variables override the file: PEER_ and the key in capitals, such as PEER_PORT.";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(line: &str) -> Result<Arguments, Exit> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn nothing_means_run() {
        assert_eq!(
            read("").unwrap(),
            Arguments {
                command: Command::Run,
                config: None,
                port: None,
                words: Vec::new(),
            }
        );
    }

    #[test]
    fn a_file_is_named_in_every_spelling() {
        for line in [
            "-config a.json",
            "--config a.json",
            "-config=a.json",
            "--config=a.json",
            "-config b -config a.json",
        ] {
            assert_eq!(read(line).unwrap().config, Some(PathBuf::from("a.json")), "{line}");
        }
        assert_eq!(read("-config=a=b").unwrap().config, Some(PathBuf::from("a=b")));
        assert_eq!(read("-config -p").unwrap().config, Some(PathBuf::from("-p")));
    }

    #[test]
    fn a_file_name_need_not_be_text() {
        let argument = OsStr::from_bytes(b"-config=\xff").to_owned();
        assert_eq!(
            parse([argument].into_iter())
                .unwrap()
                .config
                .unwrap()
                .as_os_str()
                .as_bytes(),
            b"\xff"
        );
    }

    #[test]
    fn a_port_is_a_port() {
        for line in ["-p 0", "-p=0", "--p 0", "-p 9 -p 0"] {
            assert_eq!(read(line).unwrap().port, Some(0), "{line}");
        }
        for line in ["-p", "-p=", "-p 65536", "-p -1", "-p http", "-p 80.0"] {
            assert_eq!(read(line).unwrap_err().code, 2, "{line}");
        }
    }

    #[test]
    fn the_words_of_the_programs_that_are_replaced_take_a_value() {
        for word in WORDS {
            for line in [
                format!("-{word} a=b"),
                format!("--{word} a=b"),
                format!("-{word}=a=b"),
                format!("--{word}=a=b"),
            ] {
                assert_eq!(read(&line).unwrap().words, [(word, "a=b".to_owned())], "{line}");
            }
            for line in [
                format!("--{word}"),
                format!("--{word}="),
                format!("---{word} 1"),
                format!("{word} 1"),
            ] {
                assert_eq!(read(&line).unwrap_err().code, 2, "{line}");
            }
            assert!(USAGE.contains(&format!("  --{word} ")), "{word}");
        }
        let both = read("--bind 0.0.0.0:1 -p 2 --bind 0.0.0.0:3").unwrap();
        assert_eq!(both.words.last(), Some(&("bind", "0.0.0.0:3".to_owned())));
    }

    #[test]
    fn a_private_key_is_no_flag_and_is_not_repeated() {
        for line in [
            "--lightyear-private-key=5,6,7",
            "-lightyear-private-key 5,6,7",
            "--lightyear-private-key",
        ] {
            let exit = read(line).unwrap_err();
            assert_eq!(exit.code, 2);
            assert!(
                exit.text.contains("LIGHTYEAR_PRIVATE_KEY_FILE") && !exit.text.contains("5,6,7"),
                "{line}"
            );
        }
    }

    #[test]
    fn commands_mix_with_flags_but_not_with_each_other() {
        assert_eq!(read("--check-config").unwrap().command, Command::CheckConfig);
        assert_eq!(read("-print-config").unwrap().command, Command::PrintConfig);
        for line in [
            "healthcheck -p 1 -config f",
            "-config f healthcheck -p=1",
            "-p 1 -config=f healthcheck",
        ] {
            let expected = Arguments {
                command: Command::Healthcheck,
                config: Some("f".into()),
                port: Some(1),
                words: Vec::new(),
            };
            assert_eq!(read(line).unwrap(), expected, "{line}");
        }
        assert_eq!(read("--check-config --print-config").unwrap_err().code, 2);
        assert_eq!(read("healthcheck --check-config").unwrap_err().code, 2);
    }

    #[test]
    fn help_and_version_end_well() {
        for line in ["-h", "-help", "--help", "--h", "-p 1 -h"] {
            assert_eq!(
                read(line).unwrap_err(),
                Exit {
                    code: 0,
                    text: USAGE.to_owned()
                },
                "{line}"
            );
        }
        assert_eq!(
            read("--version").unwrap_err(),
            Exit {
                code: 0,
                text: VERSION.to_owned()
            }
        );
    }

    #[test]
    fn what_is_unknown_ends_with_the_usage() {
        for line in [
            "-x",
            "--prot 1",
            "serve",
            "config=a",
            "-",
            "--",
            "---config a",
            "--version=1",
            "-h=1",
            "-config",
        ] {
            let exit = read(line).unwrap_err();
            assert_eq!(exit.code, 2, "{line}");
            assert!(exit.text.contains("Usage:"), "{line}");
        }
        let secret = read("--nats-password=hunter2").unwrap_err();
        assert!(!secret.text.contains("hunter2"), "{}", secret.text);
        assert_eq!(parse([OsString::new()].into_iter()).unwrap_err().code, 2);
        assert_eq!(
            parse([OsStr::from_bytes(b"-\xff").to_owned()].into_iter())
                .unwrap_err()
                .code,
            2
        );
    }
}
