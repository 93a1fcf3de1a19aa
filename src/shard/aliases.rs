//! Aliases at home: which session an alias resolves to, and the names that the server makes.
//!
//! Owns: the holders of the aliases whose home is this shard. The first to claim an alias holds it until its session ends
//! (peer protocol, section 3, D6).
//! Never: knows what alias a peer shows; that is the peer's own record.

use ahash::RandomState;
use compact_str::CompactString;
use hashbrown::HashTable;
use slab::Slab;

use super::words::{FIRST, SECOND};
use crate::ids::{Fingerprint, SessionId};

/// How many made aliases are tried before one is shown that does not resolve.
pub(super) const CANDIDATES: u8 = 8;

/// The holders of the aliases at home here.
#[derive(Debug)]
pub(super) struct Aliases {
    /// Beside the table and not in it: a table is up to half empty, and its empty places should be small.
    holders: Slab<Holder>,
    by_alias: HashTable<u32>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Holder {
    alias: CompactString,
    fingerprint: Fingerprint,
    session: SessionId,
}

impl Aliases {
    /// Nobody holds anything.
    pub(super) fn new(hasher: RandomState) -> Self {
        Self {
            holders: Slab::new(),
            by_alias: HashTable::new(),
            hasher,
        }
    }

    fn find(&self, alias: &str) -> Option<&Holder> {
        let is_it = |slot: &u32| {
            self.holders
                .get(*slot as usize)
                .is_some_and(|holder| holder.alias == alias)
        };
        let slot = self.by_alias.find(self.hasher.hash_one(alias), is_it)?;
        self.holders.get(*slot as usize)
    }

    /// Makes `session` the holder unless somebody else is.
    pub(super) fn claim(&mut self, alias: CompactString, fingerprint: Fingerprint, session: SessionId) -> bool {
        if let Some(holder) = self.find(&alias) {
            return holder.session == session;
        }
        let hash = self.hasher.hash_one(&*alias);
        let slot = self.holders.insert(Holder {
            alias,
            fingerprint,
            session,
        }) as u32;
        let (holders, hasher) = (&self.holders, &self.hasher);
        self.by_alias
            .insert_unique(hash, slot, |slot| hasher.hash_one(&*holders[*slot as usize].alias));
        true
    }

    /// Frees the alias if `session` holds it.
    pub(super) fn release(&mut self, alias: &str, session: SessionId) {
        let holders = &self.holders;
        let is_it = |slot: &u32| {
            holders
                .get(*slot as usize)
                .is_some_and(|holder| holder.alias == alias && holder.session == session)
        };
        if let Ok(entry) = self.by_alias.find_entry(self.hasher.hash_one(alias), is_it) {
            let (slot, _) = entry.remove();
            self.holders.remove(slot as usize);
        }
    }

    /// Who holds it.
    pub(super) fn resolve(&self, alias: &str) -> Option<Fingerprint> {
        self.find(alias).map(|holder| holder.fingerprint)
    }

    /// How many are held.
    pub(super) fn len(&self) -> usize {
        self.holders.len()
    }

    /// Every held alias with its holder, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Fingerprint, SessionId)> {
        self.holders
            .iter()
            .map(|(_, holder)| (&*holder.alias, holder.fingerprint, holder.session))
    }
}

/// Whether a string looks like a fingerprint: 64 hex digits of either case. Such a string never resolves as an alias.
pub fn looks_like_fingerprint(alias: &str) -> bool {
    alias.len() == Fingerprint::HEX_LEN && alias.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The `candidate`th alias made for a peer without one: `word-word-NN`, a function of the fingerprint alone.
pub(super) fn made(fingerprint: &Fingerprint, candidate: u8) -> CompactString {
    // Each candidate reads its own four bytes: a SHA-256 has eight such windows, as many as are tried.
    let window = usize::from(candidate % CANDIDATES) * 4;
    let bytes = fingerprint.as_bytes();
    let number = u32::from_le_bytes([bytes[window], bytes[window + 1], bytes[window + 2], bytes[window + 3]]) as usize;
    let (number, first) = (number / FIRST.len(), FIRST[number % FIRST.len()]);
    let (number, second) = (number / SECOND.len(), SECOND[number % SECOND.len()]);
    let number = number % 99 + 1;
    let mut alias = CompactString::with_capacity(first.len() + second.len() + 4);
    alias.push_str(first);
    alias.push('-');
    alias.push_str(second);
    alias.push('-');
    alias.push(char::from(b'0' + (number / 10) as u8));
    alias.push(char::from(b'0' + (number % 10) as u8));
    alias
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LoopId;

    fn session(count: u64) -> SessionId {
        SessionId::new(LoopId::new(0), count)
    }

    #[test]
    fn the_first_holder_keeps_an_alias_and_only_it_can_free_it() {
        let mut aliases = Aliases::new(RandomState::with_seeds(1, 2, 3, 4));
        let (first, second) = (Fingerprint::of_key("1"), Fingerprint::of_key("2"));
        assert!(aliases.claim("bee".into(), first, session(1)));
        assert!(!aliases.claim("bee".into(), second, session(2)));
        aliases.release("bee", session(2));
        assert_eq!(aliases.resolve("bee"), Some(first));
        aliases.release("bee", session(1));
        assert_eq!(aliases.resolve("bee"), None);
    }

    #[test]
    fn made_aliases_have_the_form_and_differ_by_candidate() {
        let fingerprint = Fingerprint::of_key("somebody");
        let mut seen = std::collections::HashSet::new();
        for candidate in 0..CANDIDATES {
            let alias = made(&fingerprint, candidate);
            let parts: Vec<&str> = alias.split('-').collect();
            assert_eq!(parts.len(), 3, "{alias}");
            assert!(
                parts[..2]
                    .iter()
                    .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase()))
            );
            assert!(
                parts[2].len() == 2 && (1..=99).contains(&parts[2].parse().unwrap_or(0)),
                "{alias}"
            );
            seen.insert(alias);
        }
        assert_eq!(seen.len(), 8);
        assert_eq!(made(&fingerprint, 0), made(&Fingerprint::of_key("somebody"), 0));
    }

    #[test]
    fn word_lists_are_long_enough_and_without_repeats() {
        for words in [&FIRST[..], &SECOND[..]] {
            let unique: std::collections::HashSet<_> = words.iter().collect();
            assert!(words.len() >= 512 && unique.len() == words.len());
            assert!(words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase())));
        }
    }

    #[test]
    fn hex_of_either_case_looks_like_a_fingerprint() {
        assert!(looks_like_fingerprint(&"aB".repeat(32)));
        assert!(!looks_like_fingerprint(&"aB".repeat(31)));
        assert!(!looks_like_fingerprint(&"xy".repeat(32)));
    }
}
