//! Two sides that know each other's address prove that datagrams pass between them, both ways.
//!
//! Owns: what each says to the other until it has heard its own words repeated, and the packets that open its router first.
//! Never: is part of a game's protocol. It is for trying a network, and for protocols that end with a list of addresses.
//!
//! Every side says `hello` and a number of its own, and answers the number of whoever says hello to it with `heard`. Its own
//! number coming back proves both directions at once.

use std::net::SocketAddr;

use crate::opening::{Due, Opening};
use crate::random::Random;
use crate::{Queue, Transmit};

/// Milliseconds between two hellos to the same side.
pub const HELLO_EVERY_MS: u64 = 200;

/// Sides that one side greets.
const PEERS_MAX: usize = 64;

/// The other side at this address has heard this one and was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The address that was given for it.
    pub peer: SocketAddr,
    /// Where its words came from: another port, if its router gives it one for each destination.
    pub from: SocketAddr,
}

/// One side.
#[derive(Clone, Debug)]
pub struct Direct {
    number: u64,
    peers: Vec<Peer>,
    transmits: Queue<Transmit>,
    events: Queue<Connected>,
}

#[derive(Clone, Debug)]
struct Peer {
    given: SocketAddr,
    at: SocketAddr,
    connected: bool,
    opening: Option<Opening>,
    hello_at: u64,
}

impl Direct {
    /// Begins to greet these addresses; the seed makes this side's number. With an opening TTL, packets that live for so few
    /// hops go first (see [the crate](crate#the-first-packet)).
    pub fn new(peers: &[SocketAddr], opening_ttl: Option<u8>, seed: u64, now: u64) -> Self {
        let mut distinct: Vec<SocketAddr> = Vec::new();
        for peer in peers.iter().take(PEERS_MAX) {
            if !distinct.contains(peer) {
                distinct.push(*peer);
            }
        }
        let greeted = distinct.into_iter().map(|peer| Peer {
            given: peer,
            at: peer,
            connected: false,
            opening: opening_ttl.map(|ttl| Opening::new(ttl, now)),
            hello_at: now,
        });
        let mut direct = Self {
            number: Random::new(seed).next(),
            peers: greeted.collect(),
            transmits: Queue::new(),
            events: Queue::new(),
        };
        direct.handle_timeout(now);
        direct
    }

    /// A datagram arrived. What is no greeting is ignored.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: u64) {
        let Some((word, number)) = parse(datagram) else { return };
        let Some(peer) = whose(&mut self.peers, from) else {
            return;
        };
        match word {
            Word::Hello => {
                peer.at = from;
                if peer.opening.take().is_some() {
                    peer.hello_at = now;
                }
                self.transmits.send(from, write(Word::Heard, number), None);
            }
            Word::Heard if number == self.number && !peer.connected => {
                (peer.at, peer.connected) = (from, true);
                let peer = peer.given;
                self.events.push(Connected { peer, from });
            }
            Word::Heard => {}
        }
        self.handle_timeout(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: u64) {
        let hello = write(Word::Hello, self.number);
        for peer in self.peers.iter_mut().filter(|peer| !peer.connected) {
            while let Some(opening) = &mut peer.opening {
                match opening.take(now) {
                    Due::Nothing => break,
                    Due::Packet(ttl) => self.transmits.send(peer.at, &*hello, Some(ttl)),
                    Due::Over => {
                        peer.opening = None;
                        peer.hello_at = now;
                    }
                }
            }
            if peer.opening.is_none() && now >= peer.hello_at {
                self.transmits.send(peer.at, &*hello, None);
                peer.hello_at = now.saturating_add(HELLO_EVERY_MS);
            }
        }
    }

    /// When `handle_timeout` must be called at the latest; None once all are connected.
    pub fn poll_timeout(&self) -> Option<u64> {
        let waiting = self.peers.iter().filter(|peer| !peer.connected);
        waiting
            .map(|peer| peer.opening.as_ref().map_or(peer.hello_at, Opening::next_at))
            .min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop()
    }

    /// The next side that is connected, each once.
    pub fn poll_event(&mut self) -> Option<Connected> {
        self.events.pop()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Hello,
    Heard,
}

/// By its address, else by the IP address alone: first one that is not connected.
fn whose(peers: &mut [Peer], from: SocketAddr) -> Option<&mut Peer> {
    let known = |peer: &Peer| peer.at == from || peer.given == from;
    let silent = |peer: &Peer| !peer.connected && peer.given.ip() == from.ip();
    let at = peers.iter().position(known).or_else(|| peers.iter().position(silent))?;
    peers.get_mut(at)
}

fn write(word: Word, number: u64) -> Vec<u8> {
    let word = match word {
        Word::Hello => "hello",
        Word::Heard => "heard",
    };
    format!("{word} {number:016x}").into_bytes()
}

fn parse(datagram: &[u8]) -> Option<(Word, u64)> {
    let (word, number) = datagram.split_at_checked(6)?;
    let word = match word {
        b"hello " => Word::Hello,
        b"heard " => Word::Heard,
        _ => return None,
    };
    let number = std::str::from_utf8(number).ok().filter(|digits| digits.len() == 16)?;
    Some((word, u64::from_str_radix(number, 16).ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const A: &str = "203.0.113.1:1";
    const B: &str = "203.0.113.2:2";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Carries everything from one side to the other; `from` is where the other sees it come from.
    fn carry(sender: &mut Direct, from: &str, receiver: &mut Direct, now: u64) -> usize {
        let mut carried = 0;
        while let Some(transmit) = sender.poll_transmit() {
            // Those with a TTL die on the way.
            if transmit.ttl.is_none() {
                receiver.handle_datagram(at(from), &transmit.payload, now);
                carried += 1;
            }
        }
        carried
    }

    #[test]
    fn both_learn_that_both_ways_are_open() {
        let mut a = Direct::new(&[at(B), at(B)], Some(2), 1, 0);
        let mut b = Direct::new(&[at(A)], None, 2, 0);
        assert_eq!(carry(&mut a, A, &mut b, 0), 0, "a opens its router first");
        carry(&mut b, B, &mut a, 0);
        carry(&mut a, A, &mut b, 1);
        carry(&mut b, B, &mut a, 1);
        let (of_a, of_b) = (
            Connected {
                peer: at(B),
                from: at(B),
            },
            Connected {
                peer: at(A),
                from: at(A),
            },
        );
        assert_eq!((a.poll_event(), b.poll_event()), (Some(of_a), Some(of_b)));
        assert_eq!((a.poll_event(), b.poll_event()), (None, None), "once");
        assert_eq!((a.poll_timeout(), b.poll_timeout()), (None, None));
    }

    #[test]
    fn hellos_go_on_until_they_are_heard() {
        let mut a = Direct::new(&[at(B)], Some(2), 1, 0);
        let mut sent = Vec::new();
        for now in 0..=700 {
            a.handle_timeout(now);
            assert!(a.poll_timeout().is_some_and(|due| due > now), "{now}");
            while let Some(transmit) = a.poll_transmit() {
                sent.push((now, transmit.ttl));
            }
        }
        let expected = [
            (0, Some(2)),
            (100, Some(2)),
            (200, Some(2)),
            (300, None),
            (500, None),
            (700, None),
        ];
        assert_eq!(sent, expected);
    }

    #[test]
    fn a_side_is_found_behind_another_port() {
        let mut a = Direct::new(&[at(B)], None, 1, 0);
        let mut b = Direct::new(&[at(A)], None, 2, 0);
        a.poll_transmit().unwrap(); // Lost: b's router knows only the port that a's packets do not have.
        carry(&mut b, "203.0.113.2:777", &mut a, 0);
        carry(&mut a, A, &mut b, 0);
        carry(&mut b, "203.0.113.2:777", &mut a, 0);
        a.handle_timeout(200);
        carry(&mut a, A, &mut b, 200);
        carry(&mut b, "203.0.113.2:777", &mut a, 200);
        let from = at("203.0.113.2:777");
        assert_eq!(a.poll_event(), Some(Connected { peer: at(B), from }));
        assert!(b.poll_event().is_some());
    }

    #[test]
    fn a_stranger_gets_no_answer() {
        let mut a = Direct::new(&[at(B)], None, 1, 0);
        a.poll_transmit().unwrap();
        for words in [
            &b"hello 0000000000000001"[..],
            b"hello",
            b"",
            b"heard 0000000000000001",
            b"hello +000000000000001\xff",
        ] {
            a.handle_datagram(at("198.51.100.1:1"), words, 0);
            a.handle_datagram(at(B), &words[..words.len() / 2], 0);
        }
        assert_eq!(a.poll_transmit(), None);
        a.handle_datagram(at(B), b"heard 0000000000000001", 0);
        assert_eq!(a.poll_event(), None, "not its number");
    }
}
