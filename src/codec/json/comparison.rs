//! The readers of this folder held against serde_json, and against texts that are no JSON.
//!
//! Owns: the list of what differs from serde_json on purpose.
//! Never: tests what one function promises by itself; that stands beside it.

#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::hint::black_box;

use proptest::prelude::*;
use proptest::sample::Index;
use serde::de::IgnoredAny;
use serde_json::{Value, value::RawValue};

use super::fixtures::{document, mutated, soup, spelled};
use super::*;

// What differs from serde_json on purpose. Compared are acceptance, and the members found.
// - The document is an object or null here; any document there.
// - Nesting: 128 levels here; 127 there when it builds a value, no bound when it only skips one.
// - Lone surrogates pass here; there only when skipped, so members are compared only where a value can be built.
// - Numbers of any size pass here; there only when skipped (1e999 cannot be built).
// - A type, to or namespace of another type is an error here.
fn compare(text: &str) -> Result<(), TestCaseError> {
    let document = text.trim_start_matches([' ', '\t', '\n', '\r']);
    let skipped = serde_json::from_str::<IgnoredAny>(text).is_ok();
    let scanned = scan_envelope(text);
    let expected = match scanned {
        Ok(_) => skipped && (document.starts_with('{') || document.starts_with("null")),
        Err(ScanError::NotAnObject) => skipped && !document.starts_with(['{', 'n']),
        Err(ScanError::WrongType) => skipped && document.starts_with('{'),
        Err(ScanError::Depth) => document.matches(['[', '{']).count() > 128,
        Err(ScanError::Syntax) => !skipped,
    };
    prop_assert!(expected, "{:?} {:?} {}", scanned, skipped, text);

    let Ok(Value::Object(members)) = serde_json::from_str::<Value>(text) else {
        return Ok(());
    };
    let member = |name: &str| members.get(name).filter(|value| !value.is_null());
    let wrong = ["type", "to", "namespace"]
        .iter()
        .any(|name| member(name).is_some_and(|value| !value.is_string()));
    prop_assert_eq!(scanned.err(), wrong.then_some(ScanError::WrongType));
    let Ok(found) = scanned else { return Ok(()) };
    for (name, string) in [("type", found.kind), ("to", found.to), ("namespace", found.namespace)] {
        let string = string.map(|string| string.unescape().unwrap());
        prop_assert_eq!(string.as_deref(), member(name).and_then(Value::as_str));
    }
    let raw = serde_json::from_str::<HashMap<String, &RawValue>>(text).unwrap();
    prop_assert_eq!(found.payload, member("payload").map(|_| raw["payload"].get()));
    prop_assert_eq!(members_of(text), members.len());
    Ok(())
}

/// Distinct names, by the other reader of this folder.
fn members_of(text: &str) -> usize {
    let names = entries(text).unwrap().map(|(name, _)| name.unescape().unwrap());
    names.collect::<HashSet<_>>().len()
}

/// Calls everything that reads with a text that may be anything.
fn read_all(text: &str) {
    let mut out = Vec::new();
    let _ = black_box(scan_envelope(text));
    black_box(members(text, &["a", "type", "é"]));
    black_box(kind_of(text));
    push_compact(&mut out, text);
    push_canonical(&mut out, text);
    push_string(&mut out, text);
    let _ = black_box(read_body::<Value, 1>(text, &["a"], &mut Vec::new()));
    for (name, value) in entries(text).into_iter().flatten() {
        black_box((name.is("a"), name.unescape(), value));
    }
    elements(text).into_iter().flatten().for_each(|value| {
        black_box(value);
    });
    for string in [
        as_string(text),
        Some(RawString::new(text, true)),
        Some(RawString::new(text, false)),
    ] {
        let Some(string) = string else { continue };
        black_box((string.is("a"), string.unescape(), string.plain()));
        push_canonical_string(&mut out, string);
    }
}

#[test]
fn deep_garbage_is_survived() {
    for text in [
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        "[{\"a\":".repeat(50_000),
        "\\".repeat(100_000),
    ] {
        read_all(&text);
    }
}

proptest! {
    #[test]
    fn documents_are_judged_as_by_serde_json(tree in document(), seed in any::<u64>()) {
        let text = spelled(&tree, seed);
        prop_assert!(serde_json::from_str::<IgnoredAny>(&text).is_ok(), "{}", text);
        compare(&text)?;
    }

    #[test]
    fn broken_documents_are_judged_as_by_serde_json(
        tree in document(),
        seed in any::<u64>(),
        changes in prop::collection::vec(any::<(Index, u8, Index)>(), 1..4),
    ) {
        let text = mutated(&spelled(&tree, seed), &changes);
        compare(&text)?;
        read_all(&text);
    }

    #[test]
    fn any_text_is_survived(text in prop_oneof![any::<String>(), soup()]) {
        compare(&text)?;
        read_all(&text);
    }
}
