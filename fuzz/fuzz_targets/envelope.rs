//! JSON: the envelope scan, the readers of raw spans, and the canonical form.
//!
//! Input: a text.
//! Property: a text is well-formed exactly if serde_json says so, the same members are found, and what is written from a
//! value means the same as the value.
#![no_main]

use std::collections::{HashMap, HashSet};

use libfuzzer_sys::fuzz_target;
use peer_server::codec::json::{
    DEPTH_MAX, ScanError, as_string, elements, entries, kind_of, members, push_canonical, push_canonical_string,
    push_compact, push_string, read_body, scan_envelope,
};
use serde::de::IgnoredAny;
use serde_json::{Value, value::RawValue};

fuzz_target!(|text: &str| {
    read_everything(text);
    compare_acceptance(text);
    compare_members(text);
    if serde_json::from_str::<IgnoredAny>(text).is_ok() && depth(text) <= DEPTH_MAX as usize {
        compare_writers(text);
    }
});

/// No text makes a reader panic.
fn read_everything(text: &str) {
    let mut out = Vec::new();
    let _ = (members(text, &["a", "type", "é"]), kind_of(text));
    let _ = read_body::<Value, 2>(text, &["a", "payload"], &mut Vec::new());
    push_compact(&mut out, text);
    push_canonical(&mut out, text);
    push_string(&mut out, text);
    for (name, value) in entries(text).into_iter().flatten() {
        let _ = (name.is("type"), name.unescape(), kind_of(value), as_string(value));
        push_canonical_string(&mut out, name);
    }
    for value in elements(text).into_iter().flatten() {
        let _ = as_string(value).map(|string| (string.plain(), string.unescape()));
    }
}

/// What differs on purpose: the document is an object or null, nesting is bounded, and three members are strings or null.
fn compare_acceptance(text: &str) {
    let accepted = serde_json::from_str::<IgnoredAny>(text).is_ok();
    let document = text.trim_start_matches([' ', '\t', '\n', '\r']);
    let scanned = scan_envelope(text);
    let agrees = match scanned {
        Ok(_) => accepted && document.starts_with(['{', 'n']),
        Err(ScanError::NotAnObject) => accepted && !document.starts_with(['{', 'n']),
        Err(ScanError::WrongType) => accepted && document.starts_with('{'),
        Err(ScanError::Depth) => depth(text) > DEPTH_MAX as usize,
        Err(ScanError::Syntax) => !accepted,
    };
    assert!(agrees, "{scanned:?}, but serde_json accepts: {accepted}");
}

/// Nesting, brackets in strings not counted; of a broken text at least what a reader sees before it breaks.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            b'"' if !escaped => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = quoted && byte == b'\\' && !escaped;
        deepest = deepest.max(depth);
    }
    deepest
}

fn compare_members(text: &str) {
    let (Ok(found), Ok(Value::Object(object))) = (scan_envelope(text), serde_json::from_str::<Value>(text)) else {
        return;
    };
    let member = |name: &str| object.get(name).filter(|value| !value.is_null());
    for (name, string) in [("type", found.kind), ("to", found.to), ("namespace", found.namespace)] {
        let own = string.map(|string| string.unescape().expect("serde_json read it as text"));
        assert_eq!(own.as_deref(), member(name).and_then(Value::as_str));
    }
    let raw: HashMap<String, &RawValue> = serde_json::from_str(text).expect("it was read as an object");
    assert_eq!(found.payload, member("payload").map(|_| raw["payload"].get()));
    let names: HashSet<_> = entries(text)
        .expect("an object")
        .map(|(name, _)| name.unescape())
        .collect();
    assert_eq!(names.len(), object.len());
    let [payload] = members(text, &["payload"]).expect("an object");
    assert_eq!(payload, found.payload);

    let mut scratch = Vec::new();
    if let (Some(payload), Ok(body)) = (found.payload, read_body::<Value, 1>(text, &["payload"], &mut scratch)) {
        let expected: Value = serde_json::from_str(payload).expect("it was read with the whole");
        assert!(alike(&body["payload"], &expected), "{body} {expected}");
    }
}

/// Equal but for numbers, which the two readers round in their own ways.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.is_f64() || b.is_f64() || a == b,
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| alike(a, b)))
        }
        _ => a == b,
    }
}

fn compare_writers(text: &str) {
    let (mut compact, mut canonical, mut again) = (Vec::new(), Vec::new(), Vec::new());
    push_compact(&mut compact, text);
    let compact = String::from_utf8(compact).expect("text stays text");
    assert!(compact.len() <= text.len());
    push_canonical(&mut canonical, text);
    push_canonical(&mut again, &compact);
    assert_eq!(canonical, again, "white space does not matter");
    assert!(
        canonical.len() <= text.len() + text.len() / 2 + 1,
        "as short as promised"
    );
    if let (Ok(before), Ok(after)) = (
        serde_json::from_str::<Value>(text),
        serde_json::from_str::<Value>(&compact),
    ) {
        assert_eq!(before, after);
    }
    if let Some(reversed) = reversed(text) {
        let mut third = Vec::new();
        push_canonical(&mut third, &reversed);
        assert_eq!(canonical, third, "the order of members does not matter");
    }
}

/// The object with its members in another order, if no name is there twice.
fn reversed(text: &str) -> Option<String> {
    let mut names = HashSet::new();
    let mut all: Vec<(&str, &str)> = Vec::new();
    for (name, value) in entries(text)? {
        let mut canonical = Vec::new();
        push_canonical_string(&mut canonical, name);
        if !names.insert(canonical) {
            return None;
        }
        all.push((name.raw(), value));
    }
    let members: Vec<String> = all
        .iter()
        .rev()
        .map(|(name, value)| format!("\"{name}\" : {value}"))
        .collect();
    Some(format!("{{{}}}", members.join(",")))
}
