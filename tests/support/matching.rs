//! When a message counts as the expected one, as `tests/vectors/peer-protocol/README.md` defines it.
//!
//! Owns: comparison, placeholders and what they are bound to.
//! Never: reads or writes a connection. Its own tests are in `tests/support_check/`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};

/// Compares messages with patterns and remembers, over one dialogue, what placeholders stood for.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    keys: BTreeMap<String, String>,
    // Generated values by their placeholder's inner text, such as `autoalias:A`.
    bound: BTreeMap<String, String>,
}

impl Matcher {
    /// `keys` gives each client's name its `public_key`, for `${key:X}` and `${fp:X}`.
    pub fn new(keys: BTreeMap<String, String>) -> Self {
        Self {
            keys,
            bound: BTreeMap::new(),
        }
    }

    /// Whether `actual` is what `expected` describes; if not, where and how it differs. Placeholders are bound only
    /// when all of it matches.
    pub fn matches(&mut self, expected: &Value, actual: &Value) -> Result<(), String> {
        let mut trial = self.clone();
        let peers_in_order = expected.get("type").and_then(Value::as_str) == Some("matched");
        trial.value(expected, actual, "", peers_in_order)?;
        *self = trial;
        Ok(())
    }

    /// The value to send: placeholders replaced by what they stand for.
    pub fn substitute(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => match placeholder(text) {
                Some(inner) => Value::String(self.known(inner)?.ok_or_else(|| format!("{text} cannot be sent"))?),
                None => value.clone(),
            },
            Value::Array(items) => items
                .iter()
                .map(|item| self.substitute(item))
                .collect::<Result<_, _>>()?,
            Value::Object(members) => {
                let substituted = members
                    .iter()
                    .map(|(name, member)| Ok((name.clone(), self.substitute(member)?)));
                Value::Object(substituted.collect::<Result<_, String>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }

    /// `value` with every string `"${i}"` replaced by the integer `index`.
    pub fn with_index(value: &Value, index: u64) -> Value {
        match value {
            Value::String(text) if text == "${i}" => index.into(),
            Value::Array(items) => items.iter().map(|item| Self::with_index(item, index)).collect(),
            Value::Object(members) => members
                .iter()
                .map(|(name, member)| (name.clone(), Self::with_index(member, index)))
                .collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        }
    }

    fn value(&mut self, expected: &Value, actual: &Value, path: &str, peers_in_order: bool) -> Result<(), String> {
        match (expected, actual) {
            (Value::String(text), _) if placeholder(text).is_some() => self.placeholder(text, actual, path),
            (Value::Object(expected), Value::Object(actual)) => self.object(expected, actual, path, peers_in_order),
            (Value::Array(expected), Value::Array(actual)) => {
                if expected.len() != actual.len() {
                    return Err(format!(
                        "{path}: {} elements instead of {}",
                        actual.len(),
                        expected.len()
                    ));
                }
                for (index, (expected, actual)) in expected.iter().zip(actual).enumerate() {
                    self.value(expected, actual, &format!("{path}[{index}]"), peers_in_order)?;
                }
                Ok(())
            }
            (Value::Number(expected), Value::Number(actual)) if equal_numbers(expected, actual) => Ok(()),
            // Compares booleans, strings and nulls; two different kinds are never equal.
            _ if expected == actual && !expected.is_number() => Ok(()),
            _ => Err(format!("{path}: {actual} instead of {expected}")),
        }
    }

    fn object(
        &mut self,
        expected: &Map<String, Value>,
        actual: &Map<String, Value>,
        path: &str,
        peers_in_order: bool,
    ) -> Result<(), String> {
        for (name, value) in actual {
            if !is_absent(name, value) && expected.get(name).is_none_or(|expected| is_absent(name, expected)) {
                return Err(format!("{path}.{name}: {value} is too much"));
            }
        }
        for (name, expected) in expected {
            if is_absent(name, expected) {
                continue;
            }
            let path = format!("{path}.{name}");
            match (expected, actual.get(name).filter(|actual| !is_absent(name, actual))) {
                (_, None) => return Err(format!("{path}: absent instead of {expected}")),
                (Value::Array(expected), Some(Value::Array(actual))) if name == "peers" && !peers_in_order => {
                    self.unordered(expected, actual, &path)?;
                }
                (_, Some(actual)) => self.value(expected, actual, &path, peers_in_order)?,
            }
        }
        Ok(())
    }

    /// Finds a different element of `actual` for each of `expected`. A first choice may bind a placeholder wrongly,
    /// so others are tried after it.
    fn unordered(&mut self, expected: &[Value], actual: &[Value], path: &str) -> Result<(), String> {
        if expected.len() != actual.len() {
            return Err(format!(
                "{path}: {} elements instead of {}",
                actual.len(),
                expected.len()
            ));
        }
        let [first, others @ ..] = expected else { return Ok(()) };
        let mut why = Vec::new();
        for index in 0..actual.len() {
            let mut trial = self.clone();
            let attempt = trial
                .value(first, &actual[index], &format!("{path}[{index}]"), false)
                .and_then(|()| {
                    let rest = [&actual[..index], &actual[index + 1..]].concat();
                    trial.unordered(others, &rest, path)
                });
            match attempt {
                Ok(()) => {
                    *self = trial;
                    return Ok(());
                }
                Err(difference) => why.push(difference),
            }
        }
        Err(format!("{path}: nothing for {first} ({})", why.join("; ")))
    }

    fn placeholder(&mut self, text: &str, actual: &Value, path: &str) -> Result<(), String> {
        let inner = placeholder(text).unwrap_or_default();
        let fits = match (inner, actual) {
            ("any", _) => !actual.is_null(),
            ("ts", _) => actual.as_i64().is_some_and(|stamp| is_close_to_now(stamp, 1000)),
            ("unix", _) => actual.as_i64().is_some_and(|stamp| is_close_to_now(stamp, 1)),
            (_, Value::String(actual)) => match self.known(inner)? {
                Some(known) => known == *actual,
                None => self.bind(inner, actual)?,
            },
            // A placeholder that does not exist is a mistake in the dialogue, whatever came.
            _ => self.known(inner).and(Ok(false))?,
        };
        if fits {
            return Ok(());
        }
        let known = self
            .known(inner)
            .ok()
            .flatten()
            .map(|known| format!(" ({known:?})"))
            .unwrap_or_default();
        Err(format!("{path}: {actual} instead of {text}{known}"))
    }

    /// What a placeholder stands for, if that is known; an error if there is none of that name.
    fn known(&self, inner: &str) -> Result<Option<String>, String> {
        let key = |client: &str| {
            self.keys
                .get(client)
                .ok_or_else(|| format!("no key for client {client:?}"))
        };
        match inner.split_once(':') {
            Some(("key", client)) => Ok(Some(key(client)?.clone())),
            Some(("fp", client)) => Ok(Some(fingerprint(key(client)?))),
            Some(("rep", count)) => {
                let count = count
                    .parse()
                    .map_err(|_| format!("{count:?} in ${{rep:...}} is no number"))?;
                Ok(Some("x".repeat(count)))
            }
            Some(("autoalias" | "hex32", _)) => Ok(self.bound.get(inner).cloned()),
            None if matches!(inner, "any" | "ts" | "unix") => Ok(None),
            _ => Err(format!("${{{inner}}} is no placeholder")),
        }
    }

    /// First sight of a generated value.
    fn bind(&mut self, inner: &str, actual: &str) -> Result<bool, String> {
        let fits = match inner.split_once(':') {
            Some(("autoalias", _)) => is_generated_alias(actual),
            Some(("hex32", _)) => actual.len() == 32 && actual.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
            _ => return Err(format!("${{{inner}}} cannot be bound")),
        };
        if fits {
            self.bound.insert(inner.to_owned(), actual.to_owned());
        }
        Ok(fits)
    }
}

/// The lowercase hex SHA-256 of a public key.
fn fingerprint(key: &str) -> String {
    Sha256::digest(key.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The inner text of a string that is one placeholder as a whole.
fn placeholder(text: &str) -> Option<&str> {
    text.strip_prefix("${")?.strip_suffix('}')
}

/// A member that counts as not there: null, and an empty object under `meta`. A `meta` of nothing but nulls is empty.
fn is_absent(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => name == "meta" && members.iter().all(|(name, value)| is_absent(name, value)),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => false,
    }
}

fn equal_numbers(a: &Number, b: &Number) -> bool {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => a == b,
        _ => a.as_f64() == b.as_f64(),
    }
}

fn is_close_to_now(stamp: i64, units_per_second: i64) -> bool {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is after 1970");
    let now = now.as_millis() as i64 * units_per_second / 1000;
    now.abs_diff(stamp) <= 60 * units_per_second.unsigned_abs()
}

/// `^[a-z]+-[a-z]+-[0-9]{2}$`
fn is_generated_alias(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    match text.split('-').collect::<Vec<_>>()[..] {
        [first, second, number] => {
            is_word(first) && is_word(second) && number.len() == 2 && number.bytes().all(|byte| byte.is_ascii_digit())
        }
        _ => false,
    }
}
