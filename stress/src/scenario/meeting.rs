//! The end of `match`: those who waited all the while are met, each request by one of a player, who goes from one of them to
//! the next.
//!
//! Owns: the proof that each request is met once, and that both of each match are told the same.
//! Never: sends.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::message::{Message, Peer};

/// Who meets whom. Players are numbered from 0, those who wait from the number of players on.
pub struct Meeting {
    /// When it began.
    pub began_ns: u64,
    players: usize,
    waits: usize,
    by_fingerprint: HashMap<String, usize>,
    /// By player: whom it meets, or would meet next, and how many requests are still to be met of that.
    turns: Vec<(usize, usize)>,
    /// By who waits: the names of the namespaces where it was met.
    met: HashMap<usize, HashSet<String>>,
    /// Matches of which one was told, by session: what it was told, and who is to be told as well.
    half: HashMap<String, (Vec<u8>, usize)>,
    sessions: u64,
}

#[derive(Deserialize)]
struct Matched<'a> {
    namespace: &'a str,
    session_id: &'a str,
    #[serde(borrow)]
    peers: Vec<Peer<'a>>,
}

impl Meeting {
    /// Of all peers, of whom the first are players.
    pub fn new(began_ns: u64, players: usize, waits: usize, fingerprints: Vec<String>) -> Self {
        Self {
            began_ns,
            players,
            waits,
            by_fingerprint: fingerprints.into_iter().zip(0..).collect(),
            turns: (0..players).map(|player| (player, 0)).collect(),
            met: HashMap::new(),
            half: HashMap::new(),
            sessions: 0,
        }
    }

    /// Whom a player meets next, if anybody is left for it.
    pub fn next(&mut self, player: usize) -> Option<usize> {
        let (meets, left) = &mut self.turns[player];
        let next = *meets + self.players;
        if next >= self.by_fingerprint.len() {
            return None;
        }
        (*meets, *left) = (next, self.waits);
        Some(next)
    }

    /// What somebody is told. Whether it is a player who has met one in all its namespaces.
    pub fn on_text(&mut self, peer: usize, text: &[u8]) -> Result<bool, &'static str> {
        let message = Message::read(text).filter(|message| message.kind == "matched");
        let message = message.ok_or("it is no match")?;
        let matched: Matched<'_> = message.payload_as().ok_or("the payload is not that of a match")?;
        let [first, last] = &matched.peers[..] else {
            return Err("not two");
        };
        let number = |of: &Peer<'_>| self.by_fingerprint.get(of.fingerprint).copied();
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return Err("somebody whom nobody knows");
        };
        if peer != first && peer != last {
            return Err("it is not one of them");
        }
        match self.half.remove(matched.session_id) {
            Some((told, due)) if due == peer && told == text => self.sessions += 1,
            Some(_) => return Err("the other was told something else"),
            // Who waited comes first.
            None if first < self.players || self.turns.get(last).is_none_or(|turn| turn.0 != first) => {
                return Err("these did not ask for each other");
            }
            None => {
                let spaces = self.met.entry(first).or_default();
                if !spaces.insert(matched.namespace.to_owned()) {
                    return Err("that request was met before");
                }
                let half = (text.to_vec(), if peer == first { last } else { first });
                self.half.insert(matched.session_id.to_owned(), half);
            }
        }
        if peer == first {
            return Ok(false);
        }
        let left = &mut self.turns[peer].1;
        *left = left.checked_sub(1).ok_or("more matches than requests")?;
        Ok(*left == 0)
    }

    /// Requests that were met, and both told.
    pub fn met(&self) -> u64 {
        self.sessions
    }

    /// Whether all were.
    pub fn is_over(&self) -> bool {
        let waiting = self.by_fingerprint.len() - self.players;
        self.half.is_empty() && self.sessions == (waiting * self.waits) as u64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(namespace: &str, session: &str, peers: [&str; 2]) -> Vec<u8> {
        let [first, last] = peers;
        format!(
            r#"{{"type":"matched","namespace":"{namespace}","payload":{{"namespace":"{namespace}","session_id":"{session}","peers":[{{"fingerprint":"{first}"}},{{"fingerprint":"{last}"}}]}}}}"#
        )
        .into_bytes()
    }

    #[test]
    fn each_request_is_met_once_and_both_are_told_the_same() {
        let names = ["player", "one", "two"].map(ToOwned::to_owned).to_vec();
        let mut meeting = Meeting::new(0, 1, 2, names);
        assert_eq!(meeting.next(0), Some(1));
        let (a, b) = (told("a", "s1", ["one", "player"]), told("b", "s2", ["one", "player"]));
        assert_eq!(meeting.on_text(1, &a), Ok(false));
        assert_eq!(meeting.on_text(0, &a), Ok(false));
        assert_eq!(meeting.on_text(0, &b), Ok(true));
        assert_eq!(meeting.next(0), Some(2));
        assert!(meeting.on_text(1, &told("b", "s2", ["one", "two"])).is_err());
        assert!(!meeting.is_over());
        let mut meeting = Meeting::new(0, 1, 2, vec!["player".into(), "one".into()]);
        meeting.next(0);
        meeting.on_text(0, &a).unwrap();
        assert!(
            meeting.on_text(0, &told("a", "s3", ["one", "player"])).is_err(),
            "met before"
        );
        meeting.on_text(1, &a).unwrap();
        meeting.on_text(1, &b).unwrap();
        meeting.on_text(0, &b).unwrap();
        assert!(meeting.is_over() && meeting.next(0).is_none());
        assert_eq!(meeting.met(), 2);
    }
}
