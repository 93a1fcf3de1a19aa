//! Random JSON for the tests of this folder.
//!
//! Owns: trees, their many spellings, broken texts, and a slow oracle of equality.
//! Never: calls a reader or writer of this folder, so that it cannot share a mistake with one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

/// A JSON value. Numbers are `mantissa * 10^exponent`.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Null,
    Bool(bool),
    Number(i32, i8),
    /// UTF-16, so that there are lone surrogates.
    String(Vec<u16>),
    Array(Vec<Tree>),
    /// Members in the order sent, duplicates included.
    Object(Vec<(Vec<u16>, Tree)>),
}

impl Tree {
    /// Equality as JSON, the slow way: exact integers and sorted maps.
    pub(super) fn equal(a: &Self, b: &Self) -> bool {
        match (a, b) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Number(m, e), Self::Number(n, f)) => scaled(*m, *e) == scaled(*n, *f),
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Self::equal(a, b)),
            (Self::Object(a), Self::Object(b)) => {
                let (a, b) = (last_of_each(a), last_of_each(b));
                a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| Self::equal(a, b)))
            }
            _ => false,
        }
    }
}

fn scaled(mantissa: i32, exponent: i8) -> i128 {
    i128::from(mantissa) * 10_i128.pow(u32::try_from(i32::from(exponent) + 12).unwrap_or(0))
}

fn last_of_each(members: &[(Vec<u16>, Tree)]) -> BTreeMap<&[u16], &Tree> {
    members.iter().map(|(name, value)| (name.as_slice(), value)).collect()
}

/// Small trees with few different leaves and names.
pub(super) fn tree() -> impl Strategy<Value = Tree> {
    let string = || {
        let unit = prop::sample::select(vec![
            0x61, 0x62, 0x22, 0x5c, 0x2f, 0x0a, 0x01, 0x20, 0xe9, 0x20ac, 0xd83d, 0xde00, 0xd800, 0x7f,
        ]);
        prop_oneof![Just(vec![0x61]), Just(vec![0x62]), prop::collection::vec(unit, 0..6)]
    };
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::Bool),
        (prop::sample::select(vec![0, 1, -1, 10, 100, 15, 7_654_321]), -6_i8..=6).prop_map(|(m, e)| Tree::Number(m, e)),
        string().prop_map(Tree::String),
    ];
    leaf.prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Tree::Array),
            prop::collection::vec((string(), inner), 0..4).prop_map(Tree::Object),
        ]
    })
}

/// A document whose members are mostly those of an envelope.
pub(super) fn document() -> impl Strategy<Value = Tree> {
    let name = prop::sample::select(vec!["type", "to", "namespace", "payload", "x"]);
    let member = (name, tree()).prop_map(|(name, value)| (name.encode_utf16().collect(), value));
    prop_oneof![1 => tree(), 4 => prop::collection::vec(member, 0..6).prop_map(Tree::Object)]
}

/// A well-formed spelling of a tree, chosen by the seed.
pub(super) fn spelled(tree: &Tree, seed: u64) -> String {
    let mut spelling = Spelling {
        state: seed | 1,
        text: String::new(),
    };
    spelling.value(tree);
    spelling.text
}

struct Spelling {
    state: u64,
    text: String,
}

impl Spelling {
    fn choose(&mut self, options: usize) -> usize {
        // xorshift64
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 32) as usize % options
    }

    fn white(&mut self) {
        let white = ["", "", "", " ", "\n", "\t\r "][self.choose(6)];
        self.text.push_str(white);
    }

    fn value(&mut self, tree: &Tree) {
        self.white();
        match tree {
            Tree::Null => self.text.push_str("null"),
            Tree::Bool(value) => self.text.push_str(if *value { "true" } else { "false" }),
            Tree::Number(mantissa, exponent) => self.number(*mantissa, *exponent),
            Tree::String(units) => self.string(units),
            Tree::Array(values) => {
                self.text.push('[');
                for (i, value) in values.iter().enumerate() {
                    self.text.push_str(if i == 0 { "" } else { "," });
                    self.value(value);
                }
                self.white();
                self.text.push(']');
            }
            Tree::Object(members) => self.object(members),
        }
        self.white();
    }

    /// The last of each name in any order, with some of the overruled ones before it.
    fn object(&mut self, members: &[(Vec<u16>, Tree)]) {
        let mut last: Vec<_> = last_of_each(members).into_iter().collect();
        let turn = self.choose(last.len().max(1));
        last.rotate_left(turn);
        if self.choose(2) == 1 {
            last.reverse();
        }
        let overruled = Tree::Number(99, 0);
        if self.choose(3) == 0
            && let Some((name, _)) = last.first().copied()
        {
            last.insert(0, (name, &overruled));
        }
        self.text.push('{');
        self.white();
        for (i, (name, value)) in last.into_iter().enumerate() {
            if i > 0 {
                self.text.push(',');
                self.white();
            }
            self.string(name);
            self.white();
            self.text.push(':');
            self.value(value);
        }
        self.text.push('}');
    }

    fn number(&mut self, mantissa: i32, exponent: i8) {
        let sign = if mantissa < 0 || (mantissa == 0 && self.choose(2) == 1) {
            "-"
        } else {
            ""
        };
        let digits = mantissa.unsigned_abs().to_string();
        let exponent = i32::from(exponent);
        let e = ["e", "E"][self.choose(2)];
        let spelling = match self.choose(4) {
            0 => format!("{sign}{digits}{e}{exponent}"),
            1 if mantissa == 0 => format!("{sign}0.00{e}{exponent:+}"),
            1 => format!("{sign}{digits}00.000{e}{exponent:+}", exponent = exponent - 2),
            2 => format!(
                "{sign}0.000{digits}0{e}{exponent:+04}",
                exponent = exponent + digits.len() as i32 + 3
            ),
            _ if exponent == 0 => format!("{sign}{digits}"),
            _ => format!(
                "{sign}{}.{}0{e}{}",
                &digits[..1],
                &digits[1..],
                exponent + digits.len() as i32 - 1
            ),
        };
        self.text.push_str(&spelling);
    }

    fn string(&mut self, units: &[u16]) {
        self.text.push('"');
        for c in char::decode_utf16(units.iter().copied()) {
            match (c, self.choose(3)) {
                (Ok('"'), 0) => self.text.push_str("\\\""),
                (Ok('\\'), 0) => self.text.push_str("\\\\"),
                (Ok('/'), 0) => self.text.push_str("\\/"),
                (Ok('\n'), 0) => self.text.push_str("\\n"),
                (Ok(c), choice) if choice > 0 && c >= ' ' && c != '"' && c != '\\' => self.text.push(c),
                (Ok(c), choice) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.unit(*unit, choice == 0);
                    }
                }
                (Err(lone), choice) => self.unit(lone.unpaired_surrogate(), choice == 0),
            }
        }
        self.text.push('"');
    }

    fn unit(&mut self, unit: u16, upper: bool) {
        let escape = if upper {
            format!("\\u{unit:04X}")
        } else {
            format!("\\u{unit:04x}")
        };
        self.text.push_str(&escape);
    }
}

/// A text in which a few characters were dropped, doubled or replaced.
pub(super) fn mutated(text: &str, changes: &[(Index, u8, Index)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (place, change, token) in changes {
        if chars.is_empty() {
            break;
        }
        let at = place.index(chars.len());
        let token = TOKENS[token.index(TOKENS.len())];
        match change % 4 {
            0 => drop(chars.remove(at)),
            1 => chars.insert(at, token),
            2 => chars[at] = token,
            _ => chars.truncate(at),
        }
    }
    chars.into_iter().collect()
}

/// Text made of JSON's own characters, more likely than any text to reach the deeper parts of a reader.
pub(super) fn soup() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(TOKENS.to_vec()), 0..64).prop_map(|chars| chars.into_iter().collect())
}

const TOKENS: [char; 32] = [
    '{', '}', '[', ']', '"', '"', ':', ',', '\\', '\\', 'u', 'n', 't', 'r', 'e', 'E', 'd', '8', '0', '0', '1', '9',
    '.', '-', '+', ' ', '\n', '\u{1}', '\0', 'é', '€', '😀',
];
