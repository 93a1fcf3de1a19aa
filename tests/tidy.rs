//! The rules of the source tree that no compiler checks: who may name whom, what the core never touches, heads, sizes,
//! and words that belong in no file.
//!
//! Owns: the table of modules. Test modules inside `src` keep the same rules as the code beside them.
//! Never: judges style; rustfmt and clippy do.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of our modules each module may name. Each stands below those that it may name, so there is no cycle.
const MAY_USE: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("codec", &[]),
    ("config", &[]),
    ("cli", &[]),
    ("metrics", &[]),
    ("punch_command", &["cli"]),
    ("message", &["ids"]),
    ("mailbox", &["ids"]),
    ("shard", &["message", "ids"]),
    ("dialect", &["codec", "message", "ids"]),
    ("provider", &["dialect", "codec", "message", "ids"]),
    ("broker", &["dialect", "codec", "message", "ids"]),
    (
        "event_loop",
        &[
            "mailbox", "provider", "broker", "dialect", "codec", "shard", "message", "ids", "metrics",
        ],
    ),
    (
        "server",
        &[
            "event_loop",
            "mailbox",
            "provider",
            "broker",
            "dialect",
            "codec",
            "shard",
            "message",
            "ids",
            "metrics",
            "config",
            "cli",
        ],
    ),
    ("main", &["server", "config", "cli", "punch_command"]),
    ("lib", &[]),
];

/// Modules that compute and never touch the world.
const CORE: &[&str] = &["ids", "message", "codec", "dialect", "shard"];

/// Names that the core does without: I/O, threads, locks, clocks, logs, and random numbers that nobody seeded.
#[rustfmt::skip] // By kind.
const NOT_IN_THE_CORE: &[&str] = &[
    "mio", "socket2", "rustix", "rustls", "crossbeam_channel", "core_affinity", "signal_hook", "fs", "env", "process",
    "TcpListener", "TcpStream", "UdpSocket", "ToSocketAddrs",
    "thread", "thread_local", "spawn",
    "Mutex", "RwLock", "Condvar", "OnceLock", "LazyLock", "mpsc",
    "Instant", "SystemTime",
    "tracing", "println", "eprintln",
    "OsRng", "SysRng", "ThreadRng", "thread_rng", "from_os_rng", "from_rng", "RandomState::new",
];

/// Where `unsafe` is allowed, and how often.
const UNSAFE: &[(&str, usize)] = &[("src/server/tables.rs", 1)];

const LINES_MAX: usize = 600;

#[test]
fn the_table_has_every_module_and_no_cycle() {
    let listed: BTreeSet<&str> = MAY_USE.iter().map(|(module, _)| *module).collect();
    let there: BTreeSet<String> = sources().iter().map(|source| source.module().to_owned()).collect();
    assert_eq!(there.iter().map(String::as_str).collect::<BTreeSet<_>>(), listed);
    for (at, (module, may_use)) in MAY_USE.iter().enumerate() {
        for used in *may_use {
            let above = MAY_USE[..at].iter().any(|(earlier, _)| earlier == used);
            assert!(above, "{module} may use {used}, which must stand above it in the table");
        }
    }
}

#[test]
fn modules_name_only_what_they_may() {
    let mut faults = Vec::new();
    for source in sources() {
        let own = source.module().to_owned();
        let (_, may_use) = MAY_USE.iter().find(|(module, _)| *module == own).unwrap();
        for (line, used) in source.modules_named() {
            if used != own && !may_use.contains(&&*used) {
                faults.push(format!("{}:{line}: {own} names {used}", source.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_core_touches_nothing_outside_itself() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| CORE.contains(&source.module())) {
        for (at, token) in source.tokens.iter().enumerate() {
            let path = source.tokens[at..]
                .iter()
                .take(3)
                .map(|token| &*token.text)
                .collect::<String>();
            if NOT_IN_THE_CORE.iter().any(|name| *name == token.text || *name == path) {
                faults.push(format!("{}:{}: names {}", source.name, token.line, token.text));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nothing_is_unsafe_but_what_is_listed_with_its_proof() {
    let mut faults = Vec::new();
    for source in sources() {
        let found: Vec<usize> = source.lines_of("unsafe").collect();
        let allowed = UNSAFE.iter().find(|(name, _)| *name == source.name);
        if found.len() != allowed.map_or(0, |(_, places)| *places) {
            faults.push(format!("{}: unsafe in lines {found:?}", source.name));
        }
        let proofs = source.text.matches("// SAFETY: ").count();
        if proofs != found.len() {
            faults.push(format!(
                "{}: {proofs} proofs for {} unsafe blocks",
                source.name,
                found.len()
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_source_is_short_and_says_what_it_owns_and_never_does() {
    let mut faults = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!(
                "{}: {lines} lines, more than {LINES_MAX}: split it",
                source.name
            ));
        }
        let head: Vec<&str> = source
            .text
            .lines()
            .map_while(|line| line.strip_prefix("//!"))
            .map(str::trim)
            .collect();
        if head.first().is_none_or(|line| line.is_empty()) {
            faults.push(format!(
                "{}: does not begin with a //! line that says what it is",
                source.name
            ));
        }
        let owns = head.iter().any(|line| line.starts_with("Owns: "));
        let never = head
            .iter()
            .any(|line| line.starts_with("Never: ") || line.contains(". Never: "));
        if head.contains(&"") && !(owns && never) {
            faults.push(format!("{}: the head lacks `Owns:` or `Never:`", source.name));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nothing_unfinished_and_no_trace_of_a_machine_is_in_the_tree() {
    // Put together here, so that this file does not hold them.
    let everywhere = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["to", "do!("],
        ["db", "g!("],
        ["unimple", "mented!("],
        ["/wo", "rk/"],
        ["/tm", "p/h"],
        ["arti", "factory"],
        ["js", "frog"],
    ];
    let everywhere = everywhere.map(|parts| parts.concat());
    let mut faults = Vec::new();
    for path in files_of_the_project() {
        let name = name_of(&path);
        // Machine-made inputs and the license texts are nobody's prose.
        if name.starts_with("fuzz/seeds/") || name.starts_with("LICENSE") {
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let own_words = ["src/", "docs/"].iter().any(|folder| name.starts_with(folder))
            || (name.ends_with(".md") && !name.contains('/'));
        for (at, line) in text.lines().enumerate() {
            let found = everywhere.iter().find(|word| line.contains(&**word));
            let other = ["up", "stream"].concat();
            let found =
                found.or_else(|| Some(&other).filter(|word| own_words && line.to_lowercase().contains(&***word)));
            if let Some(word) = found {
                faults.push(format!("{name}:{}: {word}", at + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn lock_files_name_one_index_for_crates_and_no_place_for_packages() {
    let mut seen = 0;
    for path in files_of_the_project() {
        let text = || fs::read_to_string(&path).unwrap();
        match path.file_name().and_then(|name| name.to_str()) {
            Some("Cargo.lock") => {
                let text = text();
                let mut sources: Vec<&str> = text.lines().filter(|line| line.starts_with("source = ")).collect();
                sources.sort_unstable();
                sources.dedup();
                assert_eq!(sources.len(), 1, "{}: {sources:?}", name_of(&path));
            }
            Some("package-lock.json") => assert!(!text().contains("\"resolved\""), "{}", name_of(&path)),
            _ => continue,
        }
        seen += 1;
    }
    assert!(seen > 0, "no lock file was found");
}

/// One file of `src`.
struct Source {
    /// Its path from the root of the project.
    name: String,
    text: String,
    tokens: Vec<Token>,
}

struct Token {
    line: usize,
    text: String,
}

impl Source {
    /// The top-level module that it belongs to.
    fn module(&self) -> &str {
        self.path().first().copied().unwrap()
    }

    /// The modules that lead to it, its own included.
    fn path(&self) -> Vec<&str> {
        let inner = self
            .name
            .strip_prefix("src/")
            .and_then(|name| name.strip_suffix(".rs"))
            .unwrap();
        let mut path: Vec<&str> = inner.split('/').collect();
        if path.len() > 1 && path.last() == Some(&"mod") {
            path.pop();
        }
        path
    }

    /// Where a word stands in the code.
    fn lines_of(&self, word: &str) -> impl Iterator<Item = usize> {
        self.tokens
            .iter()
            .filter(move |token| token.text == word)
            .map(|token| token.line)
    }

    /// Every top-level module that the code names, with the line: by `crate::`, by the library's name, and by enough `super::`.
    fn modules_named(&self) -> Vec<(usize, String)> {
        let depth = self.path().len();
        let mut named = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            let supers = self.supers(at);
            let root = match &*self.tokens[at].text {
                "crate" | "peer_server" if self.is(at + 1, "::") => Some(at + 2),
                _ if supers >= depth => Some(at + 2 * supers),
                _ => None,
            };
            match root {
                Some(start) => {
                    let by_super = supers > 0;
                    for first in self.first_names(start) {
                        let Token { line, text } = &self.tokens[first];
                        // `super::` of an inline module need not lead to the root: only our modules' names count then.
                        if !by_super || MAY_USE.iter().any(|(module, _)| module == text) {
                            named.push((*line, text.clone()));
                        }
                    }
                    at = start;
                }
                None => at += 1 + 2 * supers,
            }
        }
        named
    }

    /// How many `super::` stand in a row.
    fn supers(&self, at: usize) -> usize {
        (0..)
            .take_while(|nth| self.is(at + 2 * nth, "super") && self.is(at + 2 * nth + 1, "::"))
            .count()
    }

    /// The places of the first name of each path that begins here: one, or those of a group.
    fn first_names(&self, start: usize) -> Vec<usize> {
        if !self.is(start, "{") {
            return vec![start];
        }
        let (mut depth, mut names, mut at) = (1, vec![start + 1], start + 1);
        while depth > 0 && at < self.tokens.len() {
            match &*self.tokens[at].text {
                "{" => depth += 1,
                "}" => depth -= 1,
                "," if depth == 1 && !self.is(at + 1, "}") => names.push(at + 1),
                _ => {}
            }
            at += 1;
        }
        names
    }

    fn is(&self, at: usize, text: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.text == text)
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let (name, tokens) = (name_of(&path), tokens(&text));
                sources.push(Source { name, text, tokens });
            }
        }
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(sources.len() > 50, "the sources were not found");
    sources
}

/// What git keeps or would keep; outside of a repository, everything that no tool has made.
fn files_of_the_project() -> Vec<PathBuf> {
    let git = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    if let Ok(output) = git
        && output.status.success()
    {
        let names = String::from_utf8(output.stdout).unwrap();
        return names
            .split_terminator('\0')
            .map(|name| root().join(name))
            .filter(|path| path.is_file())
            .collect();
    }
    let mut files = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let made = ["target", "node_modules", ".git", "corpus", "artifacts"];
            match entry.file_type().unwrap() {
                kind if kind.is_dir() && !made.iter().any(|name| entry.file_name() == *name) => {
                    folders.push(entry.path())
                }
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn name_of(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/")
}

/// Names and punctuation of Rust code; comments and literals are left out.
fn tokens(text: &str) -> Vec<Token> {
    let (mut tokens, mut line, mut rest) = (Vec::new(), 1, text);
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => 1 + string(&rest[1..]),
            'b' | 'r' | 'c' if prefixed_literal(rest).is_some() => prefixed_literal(rest).unwrap(),
            '\'' => character_or_lifetime(rest),
            _ if first.is_whitespace() => first.len_utf8(),
            _ => {
                let name = rest
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(rest.len());
                let len = match name {
                    0 if rest.starts_with("::") => 2,
                    0 => first.len_utf8(),
                    name => name,
                };
                let text = rest[..len].to_owned();
                tokens.push(Token { line, text });
                len
            }
        };
        line += rest[..len].matches('\n').count();
        rest = &rest[len..];
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// Up to and with the closing quote of a string whose opening one was passed.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

/// `b"…"`, `c"…"`, `b'…'`, and raw strings with any number of `#`; None for a name that only begins like one.
fn prefixed_literal(text: &str) -> Option<usize> {
    let letters = text.find(|c: char| !c.is_ascii_lowercase())?;
    if !["b", "c", "r", "br", "cr"].contains(&&text[..letters]) {
        return None;
    }
    let rest = &text[letters..];
    if text[..letters].ends_with('r') {
        let hashes = rest.find(|c| c != '#')?;
        let body = rest[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(letters + hashes + 1 + body.find(&end)? + end.len());
    }
    match rest.chars().next()? {
        '"' => Some(letters + 1 + string(&rest[1..])),
        '\'' => Some(letters + character_or_lifetime(rest)),
        _ => None,
    }
}

fn character_or_lifetime(text: &str) -> usize {
    let mut inner = text[1..].chars();
    match (inner.next(), inner.next()) {
        (Some('\\'), Some(escaped)) => {
            let start = 2 + escaped.len_utf8();
            start + text[start..].find('\'').map_or(0, |at| at + 1)
        }
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        // A lifetime: its name follows as a token, which does no harm.
        _ => 1,
    }
}

#[test]
fn the_scan_sees_paths_and_neither_comments_nor_literals() {
    let text = r##"
        //! crate::one
        use crate::{ids, message::{self, Event}, codec::json};
        /* crate::two /* nested */ crate::three */
        fn f<'a>(x: &'a str) -> crate::shard::Route {
            let quote = ['"', '\'', '\\', b'"'] ; let s = "crate::four \" crate::five"; let r = r#"crate::six ""#;
            super::super::metrics::count(); super::other();
        }
    "##;
    let (name, text) = ("src/server/host.rs".to_owned(), text.to_owned());
    let tokens = tokens(&text);
    let named = Source { name, text, tokens }.modules_named();
    let named: Vec<&str> = named.iter().map(|(_, module)| &**module).collect();
    assert_eq!(named, ["ids", "message", "codec", "shard", "metrics"]);
}
