//! One seat of a game night: who sits there now, how far the evening is, and what was heard.
//!
//! Owns: a peer's picture of its lobby, and what it has to say to its opponent.
//! Never: sends, and knows no other seat.

use std::collections::VecDeque;

use crate::worker::protocol::Job;
use crate::worker::setup;

/// Signals from each of a pair to the other: a description and ten candidates.
pub const SIGNALS: u64 = 11;
/// The JSON string that clients of this protocol send as a candidate.
const CANDIDATE: &str = r#"{\"candidate\":\"candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 0.0.0.0 rport 0 generation 0 ufrag EsAw network-cost 999\",\"sdpMid\":\"0\",\"sdpMLineIndex\":0}"#;

/// A seat.
pub struct Seat {
    /// Its number.
    at: usize,
    /// Where its connection is.
    pub slot: usize,
    /// What the server calls whoever sits there: each comes with the same key.
    pub fingerprint: String,
    /// The namespace of its lobby.
    pub lobby: String,
    /// How far it has come.
    pub state: State,
    /// Counts evenings.
    evening: u64,
    /// Others of the lobby that it was told of, and, before its list came, those it was told have left: a bit each.
    known: u64,
    gone: u64,
    /// Its match.
    pub session: String,
    /// With whom.
    pub partner: Option<usize>,
    /// Whether the offer is its to make.
    pub offers: bool,
    /// Whether it has said all that it has to say.
    pub has_sent: bool,
    /// Number of the next signal to arrive.
    pub next: u64,
    /// How many did.
    pub arrived: u64,
    /// How many of its own were refused.
    pub refused: u64,
    /// When each signal under way to it left.
    pub left_ns: VecDeque<u64>,
}

/// How far an evening is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Connected and registered, no more.
    Home,
    /// It waits for the list of its lobby.
    Joining,
    /// It asked for an opponent.
    Asked,
    /// It was told to wait for one.
    Waiting,
    /// It has one.
    Playing,
    /// In the lobby, all said.
    Idle,
    /// It asks who is there, to see whether it was told all.
    Parting,
    /// It said goodbye.
    Leaving,
    /// The next is to come.
    Connecting,
    /// Its connection was lost, or refused.
    Lost,
}

impl State {
    /// Whether the server owes it something.
    pub fn is_busy(self) -> bool {
        match self {
            Self::Joining | Self::Asked | Self::Playing | Self::Parting | Self::Leaving | Self::Connecting => true,
            Self::Home | Self::Waiting | Self::Idle | Self::Lost => false,
        }
    }

    /// Whether it may hear of its lobby.
    pub fn has_lobby(self) -> bool {
        self.is_there() || matches!(self, Self::Joining | Self::Parting | Self::Leaving)
    }

    /// Whether it has come to its lobby, and its list too.
    pub fn is_there(self) -> bool {
        matches!(self, Self::Asked | Self::Waiting | Self::Playing | Self::Idle)
    }
}

impl Seat {
    /// A seat whose first peer is at home.
    pub fn new(job: &Job, at: usize) -> Self {
        Self {
            at,
            slot: usize::MAX,
            fingerprint: setup::fingerprint(job, at),
            lobby: setup::namespace(job, &format!("lobby-{}", at / job.workload.namespace_size)),
            state: State::Home,
            evening: 0,
            known: 0,
            gone: 0,
            session: String::new(),
            partner: None,
            offers: false,
            has_sent: false,
            next: 1,
            arrived: 0,
            refused: 0,
            left_ns: VecDeque::new(),
        }
    }

    /// An evening begins: nothing was heard yet.
    pub fn begin(&mut self) {
        self.evening += 1;
        (self.known, self.gone) = (0, 0);
        (self.next, self.arrived, self.refused, self.has_sent) = (1, 0, 0, false);
        self.left_ns.clear();
    }

    /// Another has joined. Whether that can be.
    pub fn joined(&mut self, bit: u64) -> bool {
        let is_new = self.known & bit == 0;
        (self.known, self.gone) = (self.known | bit, self.gone & !bit);
        is_new
    }

    /// Another has left. Whether that can be.
    pub fn left(&mut self, bit: u64) -> bool {
        let was_there = self.known & bit != 0;
        (self.known, self.gone) = (self.known & !bit, self.gone | bit);
        was_there || self.state == State::Joining
    }

    /// The list of the others. What happened after it was made may have been told before it came.
    pub fn listed(&mut self, others: u64) {
        self.known = (others | self.known) & !self.gone;
    }

    /// Whether it was told of just these.
    pub fn knows(&self, others: u64) -> bool {
        self.known == others
    }

    /// The payload of its signal number `number`.
    pub fn signal(&self, number: u64, sdp: &str) -> String {
        let Self { at, evening, .. } = self;
        let kind = if self.offers { "offer" } else { "answer" };
        match number {
            1 => format!(r#"{{"signal_type":"{kind}","seat":"{at:06}","evening":"{evening:06}","sdp":"{sdp}"}}"#),
            _ => format!(
                r#"{{"signal_type":"candidate","seat":"{at:06}","evening":"{evening:06}","n":"{number:02}","candidate":"{CANDIDATE}"}}"#
            ),
        }
    }
}

/// How many of a lobby are there and do not know just the others who are.
pub fn uninformed(lobby: &[Seat]) -> usize {
    let present = lobby.iter().enumerate().filter(|(_, seat)| seat.state.is_there());
    let all = present.clone().fold(0, |all, (at, _)| all | 1_u64 << at);
    present.filter(|(at, seat)| seat.known != all & !(1 << at)).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    fn seat(state: State, known: u64) -> Seat {
        Seat {
            at: 3,
            slot: 0,
            fingerprint: String::new(),
            lobby: String::new(),
            state,
            evening: 7,
            known,
            gone: 0,
            session: String::new(),
            partner: None,
            offers: true,
            has_sent: false,
            next: 1,
            arrived: 0,
            refused: 0,
            left_ns: VecDeque::new(),
        }
    }

    #[test]
    fn signals_are_json_and_no_two_are_alike() {
        let seat = seat(State::Playing, 0);
        let texts: HashSet<String> = (1..=SIGNALS).map(|number| seat.signal(number, r"v=0\r\n")).collect();
        assert_eq!(texts.len() as u64, SIGNALS);
        for text in texts {
            let value: Value = serde_json::from_str(&text).unwrap();
            if value["signal_type"] == "candidate" {
                let candidate: Value = serde_json::from_str(value["candidate"].as_str().unwrap()).unwrap();
                assert_eq!(candidate["sdpMid"], "0");
            } else {
                assert_eq!(
                    (&value["signal_type"], &value["sdp"]),
                    (&"offer".into(), &"v=0\r\n".into())
                );
            }
        }
    }

    #[test]
    fn a_list_does_not_undo_what_was_heard_before_it() {
        let mut seat = seat(State::Joining, 0);
        assert!(seat.joined(0b001));
        assert!(seat.left(0b010), "it is in the list that is to come");
        seat.listed(0b110);
        seat.state = State::Asked;
        assert_eq!(seat.known, 0b101);
        assert!(!seat.joined(0b100), "it was listed");
        assert!(!seat.left(0b010), "it was not there");
    }

    #[test]
    fn who_is_there_must_know_just_the_others_who_are() {
        let lobby = |known: [u64; 3]| {
            [
                seat(State::Waiting, known[0]),
                seat(State::Home, known[1]),
                seat(State::Idle, known[2]),
            ]
        };
        assert_eq!(uninformed(&lobby([0b100, 0, 0b001])), 0);
        assert_eq!(uninformed(&lobby([0b110, 0, 0b001])), 1, "who has left is still known");
        assert_eq!(uninformed(&lobby([0b000, 0, 0b000])), 2, "nobody was told");
    }
}
